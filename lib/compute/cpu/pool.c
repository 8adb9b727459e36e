/* lib/compute/cpu/pool.c -- max pooling, average pooling, flatten: NHWC, forward beside backward. */
#include "compute/cpu/plan.h"

#include <string.h>

/* ---- max pooling: y = max over the window; ties and the gradient go to the first maximum, as PyTorch
 * ------- */

/* Pixels that a window has at most. */
static size_t window_size(const hr_node *n, const hr_step *in)
{
    return (size_t)(n->kh < in->h ? n->kh : in->h) * (size_t)(n->kw < in->w ? n->kw : in->w);
}

size_t hr_pool_scratch(const hr_node *node, const hr_step *in)
{
    return window_size(node, in) * (sizeof(size_t) + sizeof(const float *) + sizeof(float *));
}

/* Offsets of the window's pixels that are inside the map, in the order of memory. Returns how many. */
static int window(const hr_node *n, const hr_step *in, int oh, int ow, size_t *at)
{
    int count = 0;
    for (int i = 0; i < n->kh; i++)
        for (int j = 0; j < n->kw; j++) {
            int h = oh * n->stride - n->pad + i, w = ow * n->stride - n->pad + j;
            if (h >= 0 && w >= 0 && h < in->h && w < in->w)
                at[count++] = ((size_t)h * (size_t)in->w + (size_t)w) * (size_t)in->c;
        }
    return count;
}

static void max_forward(const hr_kernels *k, const hr_step *s, const hr_node *n, const hr_step *in,
                        const float *x, float *y, void *scratch)
{
    size_t most = window_size(n, in), *at = scratch;
    const float **from = (const float **)(at + most);
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, y += s->c) {
            int count = window(n, in, oh, ow, at);
            for (int i = 0; i < count; i++)
                from[i] = x + at[i];
            k->pool(count, s->c, from, y);
        }
}

/* Every pixel of the input is in one window. */
static bool tiled(const hr_step *s, const hr_node *n, const hr_step *in)
{
    return n->pad == 0 && n->kh == n->stride && n->kw == n->stride && s->h * n->kh == in->h &&
           s->w * n->kw == in->w;
}

static void max_backward(const hr_kernels *k, const hr_step *s, const hr_node *n, const hr_step *in,
                         const float *x, const float *g, float *dx, bool add, void *scratch)
{
    size_t most = window_size(n, in), *at = scratch;
    const float **from = (const float **)(at + most);
    float **to = (float **)(from + most);
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, g += s->c) {
            int count = window(n, in, oh, ow, at);
            for (int i = 0; i < count; i++) {
                from[i] = x + at[i];
                to[i] = dx + at[i];
            }
            k->unpool(count, s->c, from, g, to, add);
        }
}

/* ---- average pooling over bins [lo,hi): windows, or PyTorch's adaptive floor/ceil edges
 * ---------------------- */

typedef struct bin {
    int lo, hi;
} bin;

static bin bin_of(const hr_node *n, int i, int out, int size, int kernel)
{
    if (n->op == HR_OP_ADAPTIVE_AVGPOOL)
        return (bin){i * size / out, ((i + 1) * size + out - 1) / out};
    return (bin){i * n->stride, i * n->stride + kernel};
}

static void avg_forward(const hr_step *s, const hr_node *n, const hr_step *in, const float *x, float *y)
{
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, y += s->c) {
            bin h = bin_of(n, oh, s->h, in->h, n->kh), w = bin_of(n, ow, s->w, in->w, n->kw);
            float inv = 1.0f / (float)((h.hi - h.lo) * (w.hi - w.lo));
            memset(y, 0, (size_t)s->c * sizeof *y);
            for (int i = h.lo; i < h.hi; i++)
                for (int j = w.lo; j < w.hi; j++) {
                    const float *p = x + ((size_t)i * (size_t)in->w + (size_t)j) * (size_t)in->c;
                    for (int c = 0; c < s->c; c++)
                        y[c] += p[c];
                }
            for (int c = 0; c < s->c; c++)
                y[c] *= inv;
        }
}

static void avg_backward(const hr_step *s, const hr_node *n, const hr_step *in, const float *g, float *dx)
{
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, g += s->c) {
            bin h = bin_of(n, oh, s->h, in->h, n->kh), w = bin_of(n, ow, s->w, in->w, n->kw);
            float inv = 1.0f / (float)((h.hi - h.lo) * (w.hi - w.lo));
            for (int i = h.lo; i < h.hi; i++)
                for (int j = w.lo; j < w.hi; j++) {
                    float *p = dx + ((size_t)i * (size_t)in->w + (size_t)j) * (size_t)in->c;
                    for (int c = 0; c < s->c; c++)
                        p[c] += g[c] * inv;
                }
        }
}

/* ---- flatten: from (h,w,c) in memory to PyTorch's (c,h,w) order
 * ------------------------------------------------ */

static void flatten_forward(const hr_step *in, const float *x, float *y)
{
    size_t pixels = (size_t)in->h * (size_t)in->w, ch = (size_t)in->c;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < ch; c++)
            y[c * pixels + p] = x[p * ch + c];
}

static void flatten_backward(const hr_step *in, const float *g, float *dx)
{
    size_t pixels = (size_t)in->h * (size_t)in->w, ch = (size_t)in->c;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < ch; c++)
            dx[p * ch + c] += g[c * pixels + p];
}

void hr_pool_forward(const hr_kernels *k, const hr_step *s, const hr_node *node, const hr_step *in,
                     const float *x, int ns, float *y, void *scratch)
{
    for (int i = 0; i < ns; i++, x += in->len, y += s->len) {
        if (s->kind == HR_STEP_MAXPOOL)
            max_forward(k, s, node, in, x, y, scratch);
        else if (s->kind == HR_STEP_AVGPOOL)
            avg_forward(s, node, in, x, y);
        else
            flatten_forward(in, x, y);
    }
}

void hr_pool_backward(const hr_kernels *k, const hr_step *s, const hr_node *node, const hr_step *in,
                      const float *x, const float *g, int ns, float *dx, bool add, void *scratch)
{
    bool once = s->kind == HR_STEP_MAXPOOL && !add && tiled(s, node, in);
    if (!add && !once)
        memset(dx, 0, (size_t)ns * in->len * sizeof *dx);
    for (int i = 0; i < ns; i++, x += in->len, g += s->len, dx += in->len) {
        if (s->kind == HR_STEP_MAXPOOL)
            max_backward(k, s, node, in, x, g, dx, !once, scratch);
        else if (s->kind == HR_STEP_AVGPOOL)
            avg_backward(s, node, in, g, dx);
        else
            flatten_backward(in, g, dx);
    }
}
