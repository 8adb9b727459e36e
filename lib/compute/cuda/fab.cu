/* lib/compute/cuda/fab.cu -- FAB's steps along the border between two classes (lib/attack/fab.c has the
 * algorithm).
 *
 * The projection on the linearised border is the CPU's: Newton's method on a concave, piecewise linear
 * function of one number, each turn two sums over the image. They are added in the block's tree, so lambda is
 * the CPU's but for the last bits of double. A pixel's step follows from lambda and the pixel alone, so the
 * steps themselves are nowhere kept. An image that is done is left alone. */
#include "device.h"
#include "logits.h"
#include "noise.h"

/* A length under way: the largest, or the sum of squares. */
static __device__ double longer(bool l2, double so_far, double v)
{
    return l2 ? so_far + v * v : fabs(v) > so_far ? fabs(v) : so_far;
}

static __device__ double length_of(bool l2, double mine)
{
    return l2 ? sqrt(block_sum(mine, threadIdx.x, blockDim.x)) : block_largest(mine, threadIdx.x, blockDim.x);
}

/* A block per image, 8 bytes shared per thread. Traffic: 5; bound: latency of the block's sum, once per
 * attack. */
static __global__ void start_kernel(hr_cuda_noise k, bool random, size_t len, bool l2, float eps,
                                    const float *x_, float *at_, hr_cuda_walker *s)
{
    size_t i = blockIdx.x;
    const float *x = x_ + i * len;
    float *at = at_ + i * len;
    double size = 0;
    for (size_t q = threadIdx.x; 4 * q < len && random; q += blockDim.x) {
        uint32_t w[4];
        double z[4];
        draw(k, k.c1, i, q, w);
        if (l2)
            four_normals(w, z);
        for (size_t j = 0; j < 4 && 4 * q + j < len; j++) {
            at[4 * q + j] = l2 ? (float)z[j] : -1.0f + 2.0f * unit(w[j]);
            size = longer(l2, size, (double)at[4 * q + j]);
        }
    }
    size = length_of(l2, size);
    float scale = (float)(0.5 * (double)eps / (size + 1e-12));
    for (size_t q = threadIdx.x; 4 * q < len; q += blockDim.x)
        for (size_t p = 4 * q; p < 4 * q + 4 && p < len; p++) /* those that this thread drew */
            at[p] = clip(random ? x[p] + scale * at[p] : x[p], 0.0f, 1.0f);
    if (threadIdx.x == 0) {
        hr_cuda_walker fresh = {};
        fresh.best = INFINITY;
        s[i] = fresh;
    }
}

static void fab_start(hr_cuda *d, const hr_cuda_noise *k, bool random, int n, size_t len, bool l2, float eps,
                      const float *x, float *at, hr_cuda_walker *s)
{
    unsigned threads = hr_threads_of(len);
    launch(d, "fab_start", dim3((unsigned)n), dim3(threads), threads * sizeof(double), start_kernel, *k,
           random, len, l2, eps, x, at, s);
}

/* A thread per logit. Traffic: 1; bound: latency. */
static __global__ void aim_kernel(size_t n, int classes, const int32_t *y, const int32_t *aim, float *dz)
{
    EACH(p, n)
    {
        size_t i = p / (size_t)classes;
        int k = (int)(p % (size_t)classes);
        dz[p] = k == y[i] ? -1.0f : k == aim[i] ? 1.0f : 0.0f;
    }
}

static void fab_aim(hr_cuda *d, int n, int classes, const int32_t *y, const int32_t *aim, float *dz)
{
    size_t count = (size_t)n * (size_t)classes;
    launch_each(d, "fab_aim", count, aim_kernel, count, classes, y, aim, dz);
}

/* How far a pixel can go towards the plane: to its face of the box. */
static __device__ float room_of(float w, float x, float up)
{
    return up * w > 0.0f ? 1.0f - x : x;
}

/* A pixel's step. */
static __device__ float step_of(bool l2, float w, float x, float up, double lambda)
{
    float room = room_of(w, x, up);
    double far = l2 ? lambda * fabs((double)w) : lambda;
    float step = far < (double)room ? (float)far : room;
    return w == 0.0f ? 0.0f : up * w > 0.0f ? step : -step;
}

/* hr_project_plane's lambda, for r; every thread gets it. */
static __device__ double lambda_of(bool l2, const float *x, const float *w, double r, size_t len)
{
    double lambda = 0;
    float up = r >= 0 ? 1.0f : -1.0f;
    for (int turn = 0; turn < 1000; turn++) {
        double value = 0, slope = 0;
        for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
            double a = fabs((double)w[p]), room = (double)room_of(w[p], x[p], up), k = l2 ? a : 1.0;
            bool inside = lambda * k < room;
            slope += inside ? a * k : 0;
            value += inside ? 0 : a * room;
        }
        block_sums(&value, &slope, threadIdx.x, blockDim.x);
        if (slope <= 0)
            return INFINITY;
        double next = (fabs(r) - value) / slope;
        if (!(next > lambda)) /* the same for all threads */
            break;
        lambda = next;
    }
    return lambda;
}

/* A block per image, 16 bytes shared per thread. Traffic: 11, and 4 per turn of Newton's method, of which
 * there are some five to ten per plane (an image and its gradient are a few KB: from the cache); bound:
 * latency of the sums. */
static __global__ void approach_kernel(size_t len, int classes, bool l2, float most, float eta,
                                       const float *z_, const int32_t *y, const int32_t *aim, const float *x_,
                                       const float *g_, const hr_cuda_walker *s, float *at_)
{
    size_t i = blockIdx.x;
    if (s[i].done) /* so for the whole block */
        return;
    const float *x = x_ + i * len, *g = g_ + i * len, *z = z_ + i * (size_t)classes;
    float *at = at_ + i * len;
    double f = (double)z[aim[i]] - (double)z[y[i]], apart = 0, a1 = 0, a2 = 0;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        apart += (double)g[p] * ((double)at[p] - (double)x[p]);
    double far = block_sum(apart, threadIdx.x, blockDim.x) - f;
    float up = -f >= 0 ? 1.0f : -1.0f, home_up = far >= 0 ? 1.0f : -1.0f;
    double lambda = lambda_of(l2, at, g, -f, len), home_lambda = lambda_of(l2, x, g, far, len);
    for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
        a1 = longer(l2, a1, (double)step_of(l2, g[p], at[p], up, lambda));
        a2 = longer(l2, a2, (double)step_of(l2, g[p], x[p], home_up, home_lambda));
    }
    a1 = fmax(length_of(l2, a1), 1e-8);
    a2 = fmax(length_of(l2, a2), 1e-8);
    float alpha = fminf((float)(a1 / (a1 + a2)), most);
    for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
        float near = at[p] + eta * step_of(l2, g[p], at[p], up, lambda);
        float home = x[p] + eta * step_of(l2, g[p], x[p], home_up, home_lambda);
        at[p] = clip((1.0f - alpha) * near + alpha * home, 0.0f, 1.0f);
    }
}

static void fab_approach(hr_cuda *d, int n, size_t len, int classes, bool l2, float most, float eta,
                         const float *z, const int32_t *y, const int32_t *aim, const float *x, const float *g,
                         const hr_cuda_walker *s, float *at)
{
    unsigned threads = hr_threads_of(len);
    launch(d, "fab_approach", dim3((unsigned)n), dim3(threads), threads * 2 * sizeof(double), approach_kernel,
           len, classes, l2, most, eta, z, y, aim, x, g, s, at);
}

/* A thread per image. Traffic: its logits and 24 bytes, read and written; bound: latency. */
static __global__ void look_kernel(size_t n, int classes, const float *z, const int32_t *y, hr_cuda_walker *s)
{
    EACH(i, n)
    s[i].across = !s[i].done && class_of(z + i * (size_t)classes, classes) != y[i];
}

/* A block per image, 8 bytes shared per thread. Traffic: 6 where the image is across, else none; bound:
 * latency of the block's sum. */
static __global__ void across_kernel(size_t len, bool l2, bool whole, float eps, float beta, const float *x_,
                                     hr_cuda_walker *s, float *at_, float *points_)
{
    size_t i = blockIdx.x;
    hr_cuda_walker me = s[i];
    if (!me.across) /* so for the whole block */
        return;
    const float *x = x_ + i * len;
    float *at = at_ + i * len, *points = points_ + i * len;
    double far = 0;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        far = longer(l2, far, (double)at[p] - (double)x[p]);
    far = length_of(l2, far); /* behind which every thread has read s[i] */
    bool nearest = far < me.best, found = nearest && far <= (double)eps;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
        if (found)
            points[p] = at[p];
        at[p] = x[p] + beta * (at[p] - x[p]);
    }
    if (threadIdx.x == 0 && nearest) {
        me.best = far;
        me.broken |= found;
        me.done |= found && !whole;
        s[i] = me;
    }
}

static void fab_look(hr_cuda *d, int n, size_t len, int classes, bool l2, bool whole, float eps, float beta,
                     const float *z, const int32_t *y, const float *x, hr_cuda_walker *s, float *at,
                     float *points)
{
    unsigned threads = hr_threads_of(len);
    launch_each(d, "fab_look", (size_t)n, look_kernel, (size_t)n, classes, z, y, s);
    launch(d, "fab_across", dim3((unsigned)n), dim3(threads), threads * sizeof(double), across_kernel, len,
           l2, whole, eps, beta, x, s, at, points);
}

void hr_cuda_fill_fab(hr_cuda_plugin_table *t)
{
    t->fab_start = fab_start;
    t->fab_aim = fab_aim;
    t->fab_approach = fab_approach;
    t->fab_look = fab_look;
}
