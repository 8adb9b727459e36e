/* lib/compute/cuda/pool.cu -- max and average pooling, flatten.
 *
 * All kernels: one thread per value that is written, grid's stride, no shared memory. Gradients are gathered:
 * a thread owns a pixel of the input and asks every window that covers it, in the windows' order, so nothing
 * is added by two threads and the bits repeat. Bound: memory; a window is read from the cache kh*kw times. */
#include "device.h"

struct bin {
    int lo, hi;
};

/* The input's rows (or columns) that output row i of an average pool looks at. */
static __device__ bin bin_of(bool adaptive, int i, int out, int size, int kernel, int stride)
{
    if (adaptive)
        return {i * size / out, ((i + 1) * size + out - 1) / out};
    return {i * stride, i * stride + kernel};
}

/* The place in x, of one sample and channel, that holds the window's maximum. */
static __device__ size_t max_at(const hr_cuda_pool &p, const float *x, int oh, int ow)
{
    size_t best = (size_t)-1;
    for (int i = 0; i < p.kh; i++)
        for (int j = 0; j < p.kw; j++) {
            int h = oh * p.stride - p.pad + i, w = ow * p.stride - p.pad + j;
            if (h < 0 || w < 0 || h >= p.hin || w >= p.win)
                continue;
            size_t at = ((size_t)h * (size_t)p.win + (size_t)w) * (size_t)p.c;
            if (best == (size_t)-1 || x[at] > x[best] || x[at] != x[at])
                best = at;
        }
    return best;
}

/* A thread per output. Traffic: a read per value of the input (kh*kw/stride^2 of them from the cache), a
 * write per output; bound: memory. */
static __global__ void forward_kernel(hr_cuda_pool p, size_t n, const float *x, float *y)
{
    EACH(i, n)
    {
        size_t c = i % (size_t)p.c, pixel = i / (size_t)p.c;
        int ow = (int)(pixel % (size_t)p.wout), oh = (int)(pixel / (size_t)p.wout % (size_t)p.hout);
        size_t sample = pixel / (size_t)p.wout / (size_t)p.hout;
        const float *from = x + sample * (size_t)p.hin * (size_t)p.win * (size_t)p.c + c;
        if (p.max) {
            y[i] = from[max_at(p, from, oh, ow)];
            continue;
        }
        bin h = bin_of(p.adaptive, oh, p.hout, p.hin, p.kh, p.stride);
        bin w = bin_of(p.adaptive, ow, p.wout, p.win, p.kw, p.stride);
        float sum = 0.0f, inv = 1.0f / (float)((h.hi - h.lo) * (w.hi - w.lo));
        for (int r = h.lo; r < h.hi; r++)
            for (int s = w.lo; s < w.hi; s++)
                sum += from[((size_t)r * (size_t)p.win + (size_t)s) * (size_t)p.c];
        y[i] = sum * inv;
    }
}

static void pool_forward(hr_cuda *d, const hr_cuda_pool *p, int n, const float *x, float *y)
{
    size_t values = (size_t)n * (size_t)p->hout * (size_t)p->wout * (size_t)p->c;
    launch_each(d, "pool_forward", values, forward_kernel, *p, values, x, y);
}

/* Output rows [lo,hi) whose windows may cover input row h. Adaptive bins: all of those whose edges do. */
static __device__ bin covering(const hr_cuda_pool &p, int h, int in, int out, int kernel)
{
    if (p.adaptive)
        return {h * out / in, min(((h + 1) * out + in - 1) / in, out)};
    int lo = h + p.pad - kernel + 1;
    lo = lo > 0 ? (lo + p.stride - 1) / p.stride : 0;
    return {lo, min((h + p.pad) / p.stride + 1, out)};
}

/* A thread per value of the input. Traffic: reads of dy per window, of x per window and tap (max), a write;
 * bound: memory. */
static __global__ void dx_kernel(hr_cuda_pool p, size_t n, const float *x, const float *dy, float *dx,
                                 bool add)
{
    EACH(i, n)
    {
        size_t c = i % (size_t)p.c, pixel = i / (size_t)p.c;
        int w = (int)(pixel % (size_t)p.win), h = (int)(pixel / (size_t)p.win % (size_t)p.hin);
        size_t sample = pixel / (size_t)p.win / (size_t)p.hin;
        const float *from = x + sample * (size_t)p.hin * (size_t)p.win * (size_t)p.c + c;
        const float *g = dy + sample * (size_t)p.hout * (size_t)p.wout * (size_t)p.c + c;
        size_t me = ((size_t)h * (size_t)p.win + (size_t)w) * (size_t)p.c;
        bin rows = covering(p, h, p.hin, p.hout, p.kh), cols = covering(p, w, p.win, p.wout, p.kw);
        float sum = add ? dx[i] : 0.0f;
        for (int oh = rows.lo; oh < rows.hi; oh++)
            for (int ow = cols.lo; ow < cols.hi; ow++) {
                float v = g[((size_t)oh * (size_t)p.wout + (size_t)ow) * (size_t)p.c];
                if (p.max) {
                    sum += max_at(p, from, oh, ow) == me ? v : 0.0f;
                    continue;
                }
                bin a = bin_of(p.adaptive, oh, p.hout, p.hin, p.kh, p.stride);
                bin b = bin_of(p.adaptive, ow, p.wout, p.win, p.kw, p.stride);
                bool inside = h >= a.lo && h < a.hi && w >= b.lo && w < b.hi;
                sum += inside ? v * (1.0f / (float)((a.hi - a.lo) * (b.hi - b.lo))) : 0.0f;
            }
        dx[i] = sum;
    }
}

static void pool_dx(hr_cuda *d, const hr_cuda_pool *p, int n, const float *x, const float *dy, float *dx,
                    bool add)
{
    size_t values = (size_t)n * (size_t)p->hin * (size_t)p->win * (size_t)p->c;
    launch_each(d, "pool_dx", values, dx_kernel, *p, values, x, dy, dx, add);
}

/* A thread per value. Traffic: 2; bound: memory; writes are together, reads c apart (the maps in front of a
 * flatten are small). */
static __global__ void flatten_kernel(size_t n, size_t pixels, size_t c, const float *x, float *y)
{
    EACH(i, n)
    {
        size_t p = i % pixels, ch = i / pixels % c, sample = i / pixels / c;
        y[i] = x[(sample * pixels + p) * c + ch];
    }
}

static void flatten(hr_cuda *d, int n, int pixels, int c, const float *x, float *y)
{
    size_t values = (size_t)n * (size_t)pixels * (size_t)c;
    launch_each(d, "flatten", values, flatten_kernel, values, (size_t)pixels, (size_t)c, x, y);
}

/* A thread per value. Traffic: 2, or 3 where it adds; bound: memory. */
static __global__ void flatten_dx_kernel(size_t n, size_t pixels, size_t c, const float *dy, float *dx,
                                         bool add)
{
    EACH(i, n)
    {
        size_t ch = i % c, p = i / c % pixels, sample = i / c / pixels;
        float v = dy[(sample * c + ch) * pixels + p];
        dx[i] = add ? dx[i] + v : v;
    }
}

static void flatten_dx(hr_cuda *d, int n, int pixels, int c, const float *dy, float *dx, bool add)
{
    size_t values = (size_t)n * (size_t)pixels * (size_t)c;
    launch_each(d, "flatten_dx", values, flatten_dx_kernel, values, (size_t)pixels, (size_t)c, dy, dx, add);
}

void hr_cuda_fill_pool(hr_cuda_plugin_table *t)
{
    t->pool_forward = pool_forward;
    t->pool_dx = pool_dx;
    t->flatten = flatten;
    t->flatten_dx = flatten_dx;
}
