/* lib/compute/cuda/apgd.cu -- Auto-PGD's state and rules (lib/attack/apgd.c has the algorithm).
 *
 * An image's points lie where the executor's images do, what else is known of it in a hr_cuda_climber.
 * Kernels that decide run a thread per image, those that move run a thread per value and read what was
 * decided. Steps in the l-inf ball have the CPU's bits; sums of squares are added in the block's tree. An
 * image that is broken is left alone by all of them: its point is what was looked for. */
#include "device.h"
#include "logits.h"
#include "noise.h"

/* A block per image, 8 bytes shared per thread. Traffic: 6; bound: latency of the block's sum, once per
 * attack. */
static __global__ void start_kernel(hr_cuda_noise k, size_t len, bool l2, float eps, const float *x_,
                                    float *at_, float *old_, hr_cuda_climber *c)
{
    size_t i = blockIdx.x;
    const float *x = x_ + i * len;
    float *at = at_ + i * len, *old = old_ + i * len;
    double size = 0;
    for (size_t q = threadIdx.x; 4 * q < len; q += blockDim.x) {
        uint32_t w[4];
        double z[4];
        draw(k, k.c1, i, q, w);
        if (l2)
            four_normals(w, z);
        for (size_t j = 0; j < 4 && 4 * q + j < len; j++) {
            float v = l2 ? (float)z[j] : -1.0f + 2.0f * unit(w[j]);
            double far = fabs((double)v);
            at[4 * q + j] = v;
            size = l2 ? size + (double)v * (double)v : far > size ? far : size;
        }
    }
    size = l2 ? sqrt(block_sum(size, threadIdx.x, blockDim.x)) : block_largest(size, threadIdx.x, blockDim.x);
    float scale = (float)((double)eps / (size + 1e-12));
    for (size_t q = threadIdx.x; 4 * q < len; q += blockDim.x)
        for (size_t p = 4 * q; p < 4 * q + 4 && p < len; p++) /* those that this thread drew */
            old[p] = at[p] = clip(x[p] + scale * at[p], 0.0f, 1.0f);
    if (threadIdx.x == 0) {
        hr_cuda_climber fresh = {};
        fresh.eta = 2.0f * eps;
        fresh.halved = 1;
        fresh.best = -INFINITY;
        c[i] = fresh;
    }
}

static void apgd_start(hr_cuda *d, const hr_cuda_noise *k, int n, size_t len, bool l2, float eps,
                       const float *x, float *at, float *old, hr_cuda_climber *c)
{
    unsigned threads = hr_threads_of(len);
    launch(d, "apgd_start", dim3((unsigned)n), dim3(threads), threads * sizeof(double), start_kernel, *k, len,
           l2, eps, x, at, old, c);
}

/* A thread per image. Traffic: its logits and 64 bytes, read and written; bound: latency. */
static __global__ void look_kernel(size_t n, int classes, bool first, const float *z_, const int32_t *y,
                                   const double *f, hr_cuda_climber *c)
{
    EACH(i, n)
    {
        const float *z = z_ + i * (size_t)classes;
        hr_cuda_climber me = c[i];
        me.better = 0;
        if (!me.broken) {
            me.rises = first ? 0 : me.rises + (f[i] > me.f);
            me.f = f[i];
            me.broken = class_of(z, classes) != y[i];
            me.better = f[i] > me.best;
            me.best = me.better ? f[i] : me.best;
            me.best_checked = first ? me.best : me.best_checked;
        }
        c[i] = me;
    }
}

static void apgd_look(hr_cuda *d, int n, int classes, bool first, const float *z, const int32_t *y,
                      const double *f, hr_cuda_climber *c)
{
    launch_each(d, "apgd_look", (size_t)n, look_kernel, (size_t)n, classes, first, z, y, f, c);
}

/* A thread per value. Traffic: 4 where the image is better, else none; bound: memory. */
static __global__ void keep_kernel(size_t n, size_t len, const hr_cuda_climber *c, const float *at,
                                   const float *g, float *top, float *g_top)
{
    EACH(p, n)
    if (c[p / len].better) {
        top[p] = at[p];
        g_top[p] = g[p];
    }
}

static void apgd_keep(hr_cuda *d, int n, size_t len, const hr_cuda_climber *c, const float *at,
                      const float *g, float *top, float *g_top)
{
    launch_each(d, "apgd_keep", (size_t)n * len, keep_kernel, (size_t)n * len, len, c, at, g, top, g_top);
}

/* A thread per value. Traffic: 6; bound: memory. */
static __global__ void linf_kernel(size_t n, size_t len, float eps, float a, const hr_cuda_climber *c,
                                   const float *x, const float *g, float *at, float *old)
{
    EACH(p, n)
    {
        if (c[p / len].broken)
            continue;
        float v = at[p], lo = x[p] - eps, hi = x[p] + eps;
        float z = v + c[p / len].eta * (float)((g[p] > 0.0f) - (g[p] < 0.0f));
        z = clip(clip(z, lo, hi), 0.0f, 1.0f);
        z = v + (z - v) * a + (v - old[p]) * (1.0f - a);
        old[p] = v;
        at[p] = clip(clip(z, lo, hi), 0.0f, 1.0f);
    }
}

/* What brings a point at this distance back into the ball. */
static __device__ float shrink(double sum, float eps)
{
    double distance = sqrt(block_sum(sum, threadIdx.x, blockDim.x));
    return distance > (double)eps ? (float)((double)eps / distance) : 1.0f;
}

/* A block per image, 8 bytes shared per thread. Traffic: 13 (an image is a few KB: mostly from the cache);
 * bound: latency of the three sums. A thread goes over the same values each time. */
static __global__ void l2_kernel(size_t len, float eps, float a, const hr_cuda_climber *c, const float *x_,
                                 const float *g_, float *at_, float *old_)
{
    size_t i = blockIdx.x;
    const float *x = x_ + i * len, *g = g_ + i * len;
    float *at = at_ + i * len, *old = old_ + i * len;
    if (c[i].broken) /* so for the whole block */
        return;
    double sum = 0;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        sum += (double)g[p] * (double)g[p];
    sum = block_sum(sum, threadIdx.x, blockDim.x);
    float along = (float)((double)c[i].eta / (sqrt(sum) + 1e-12));
    sum = 0;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
        float z = at[p] + along * g[p];
        sum += ((double)z - (double)x[p]) * ((double)z - (double)x[p]);
    }
    float back = shrink(sum, eps);
    sum = 0;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
        float v = at[p], z = v + along * g[p];
        z = clip(x[p] + back * (z - x[p]), 0.0f, 1.0f);
        z = v + (z - v) * a + (v - old[p]) * (1.0f - a);
        old[p] = v;
        at[p] = z;
        sum += ((double)z - (double)x[p]) * ((double)z - (double)x[p]);
    }
    back = shrink(sum, eps);
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        at[p] = clip(x[p] + back * (at[p] - x[p]), 0.0f, 1.0f);
}

static void apgd_step(hr_cuda *d, int n, size_t len, bool l2, float eps, float a, const hr_cuda_climber *c,
                      const float *x, const float *g, float *at, float *old)
{
    unsigned threads = hr_threads_of(len);
    if (l2)
        launch(d, "apgd_step", dim3((unsigned)n), dim3(threads), threads * sizeof(double), l2_kernel, len,
               eps, a, c, x, g, at, old);
    else
        launch_each(d, "apgd_step", (size_t)n * len, linf_kernel, (size_t)n * len, len, eps, a, c, x, g, at,
                    old);
}

/* A thread per image. Traffic: 64 bytes read and written; bound: latency, a few times per attack. */
static __global__ void judge_kernel(size_t n, float rho, int steps, hr_cuda_climber *c)
{
    EACH(i, n)
    {
        hr_cuda_climber me = c[i];
        bool few = (float)me.rises <= rho * (float)steps;
        bool stuck = !me.halved && me.best_checked >= me.best;
        me.halved = few || stuck;
        me.back = me.halved && !me.broken;
        me.best_checked = me.best;
        me.rises = 0;
        if (me.halved)
            me.eta /= 2.0f;
        c[i] = me;
    }
}

/* A thread per value. Traffic: 4 where the image goes back, else none; bound: memory. */
static __global__ void back_kernel(size_t n, size_t len, const hr_cuda_climber *c, const float *top,
                                   const float *g_top, float *at, float *g)
{
    EACH(p, n)
    if (c[p / len].back) {
        at[p] = top[p];
        g[p] = g_top[p];
    }
}

static void apgd_checkpoint(hr_cuda *d, int n, size_t len, float rho, int steps, hr_cuda_climber *c,
                            const float *top, const float *g_top, float *at, float *g)
{
    launch_each(d, "apgd_judge", (size_t)n, judge_kernel, (size_t)n, rho, steps, c);
    launch_each(d, "apgd_back", (size_t)n * len, back_kernel, (size_t)n * len, len, c, top, g_top, at, g);
}

void hr_cuda_fill_apgd(hr_cuda_plugin_table *t)
{
    t->apgd_start = apgd_start;
    t->apgd_look = apgd_look;
    t->apgd_keep = apgd_keep;
    t->apgd_step = apgd_step;
    t->apgd_checkpoint = apgd_checkpoint;
}
