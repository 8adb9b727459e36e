/* lib/compute/cuda/attack.cu -- where attacks start, and their steps.
 *
 * Noise is noise.h's. The plug-in is compiled without contraction of products and sums (-fmad=false), so a
 * step in the l-inf ball has the CPU's bits, too. */
#include "device.h"
#include "noise.h"

/* A thread per four values of an image. Traffic: a read and a write per value; bound: memory (10 rounds of
 * two 64-bit products per 16 bytes). */
static __global__ void uniform_kernel(hr_cuda_noise k, size_t n, size_t quads, size_t len, float eps,
                                      const float *x, float *adv)
{
    EACH(t, n)
    {
        size_t i = t / quads, q = t % quads;
        uint32_t w[4];
        draw(k, k.c1, i, q, w);
        for (size_t j = 0; j < 4 && 4 * q + j < len; j++) {
            float u = unit(w[j]);
            float v = -eps + (eps - -eps) * u;
            adv[i * len + 4 * q + j] = x[i * len + 4 * q + j] + v;
        }
    }
}

static void start_uniform(hr_cuda *d, const hr_cuda_noise *k, int n, size_t len, float eps, const float *x,
                          float *adv)
{
    size_t quads = (len + 3) / 4;
    launch_each(d, "start_uniform", (size_t)n * quads, uniform_kernel, *k, (size_t)n * quads, quads, len, eps,
                x, adv);
}

/* As uniform_kernel: a thread per four values of an image. Traffic: a read and a write per value; bound:
 * eight calls of double functions per four values on consumer devices, but once per attack. */
static __global__ void normal_kernel(hr_cuda_noise k, size_t n, size_t quads, size_t len, float std,
                                     const float *x, float *adv)
{
    EACH(t, n)
    {
        size_t i = t / quads, q = t % quads;
        uint32_t w[4];
        double z[4];
        draw(k, k.c1, i, q, w);
        four_normals(w, z);
        for (size_t j = 0; j < 4 && 4 * q + j < len; j++) {
            size_t at = i * len + 4 * q + j;
            float v = (float)((double)std * z[j]);
            adv[at] = x ? x[at] + v : v;
        }
    }
}

static void start_normal(hr_cuda *d, const hr_cuda_noise *k, int n, size_t len, float std, const float *x,
                         float *adv)
{
    size_t quads = (len + 3) / 4;
    launch_each(d, "start_normal", (size_t)n * quads, normal_kernel, *k, (size_t)n * quads, quads, len, std,
                x, adv);
}

/* A thread per value. Traffic: 4; bound: memory. */
static __global__ void linf_kernel(size_t n, float step, float eps, const float *x, const float *g,
                                   float *adv)
{
    EACH(i, n)
    {
        float sign = (float)((g[i] > 0.0f) - (g[i] < 0.0f)); /* 0 for 0 and for NaN */
        adv[i] = clip(clip(adv[i] + step * sign, x[i] - eps, x[i] + eps), 0.0f, 1.0f);
    }
}

static void move_linf(hr_cuda *d, size_t values, float step, float eps, const float *x, const float *g,
                      float *adv)
{
    launch_each(d, "move_linf", values, linf_kernel, values, step, eps, x, g, adv);
}

static __device__ double length_of(const float *v, size_t len)
{
    double sum = 0;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        sum += (double)v[p] * (double)v[p];
    return sqrt(block_sum(sum, threadIdx.x, blockDim.x));
}

/* One thread. Traffic: 32 bytes; bound: its launch, once per attack. */
static __global__ void turns_start_kernel(hr_cuda_noise k, hr_cuda_turns *t)
{
    t->key = k;
    t->turn = 0;
}

static void turns_start(hr_cuda *d, const hr_cuda_noise *k, hr_cuda_turns *t)
{
    launch(d, "turns_start", dim3(1), dim3(1), 0, turns_start_kernel, *k, t);
}

/* One thread. Traffic: 8 bytes; bound: its launch, once per step beside dozens of kernels. */
static __global__ void turns_next_kernel(hr_cuda_turns *t)
{
    t->turn++;
}

static void turns_next(hr_cuda *d, hr_cuda_turns *t)
{
    launch(d, "turns_next", dim3(1), dim3(1), 0, turns_next_kernel, t);
}

/* A block per image, 8 bytes shared per thread. Traffic: 11 (an image is a few KB: mostly from the cache).
 * Bound: latency of the two sums; their order is the block's tree, not the CPU's. */
static __global__ void l2_kernel(const hr_cuda_turns *turns, size_t len, float step, float eps,
                                 const float *x_, float *g_, float *adv_)
{
    size_t i = blockIdx.x;
    const float *x = x_ + i * len;
    float *g = g_ + i * len, *adv = adv_ + i * len;
    double size = length_of(g, len);
    if (size == 0) {
        hr_cuda_noise k = turns->key;
        for (size_t q = threadIdx.x; 4 * q < len; q += blockDim.x) {
            uint32_t w[4];
            double z[4];
            draw(k, k.c1 + turns->turn, i, q, w);
            four_normals(w, z);
            for (size_t j = 0; j < 4 && 4 * q + j < len; j++)
                g[4 * q + j] = (float)z[j];
        }
        __syncthreads();
    }
    float along = step / (float)(size == 0 ? 1 : size);
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        g[p] = clip(adv[p] + along * g[p], 0.0f, 1.0f) - x[p];
    __syncthreads();
    size = length_of(g, len);
    float back = size > (double)eps ? (float)((double)eps / size) : 1.0f;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        adv[p] = clip(x[p] + back * g[p], 0.0f, 1.0f);
}

static void move_l2(hr_cuda *d, const hr_cuda_turns *t, int n, size_t len, float step, float eps,
                    const float *x, float *g, float *adv)
{
    unsigned threads = hr_threads_of(len);
    launch(d, "move_l2", dim3((unsigned)n), dim3(threads), threads * sizeof(double), l2_kernel, t, len, step,
           eps, x, g, adv);
}

/* A thread per value. Traffic: 3; bound: memory. */
static __global__ void noise_add_kernel(size_t n, const float *x, const float *noise, float *adv)
{
    EACH(i, n)
    adv[i] = fminf(fmaxf(x[i] + noise[i], 0.0f), 1.0f);
}

static void noise_add(hr_cuda *d, size_t values, const float *x, const float *noise, float *adv)
{
    launch_each(d, "noise_add", values, noise_add_kernel, values, x, noise, adv);
}

/* A thread per value. Traffic: 4; bound: memory. */
static __global__ void noise_move_kernel(size_t n, float eps, const float *x, const float *g, float *noise)
{
    EACH(i, n)
    {
        float sum = x[i] + noise[i], sign = (float)((g[i] > 0.0f) - (g[i] < 0.0f));
        if (sum >= 0.0f && sum <= 1.0f)
            noise[i] = fminf(fmaxf(noise[i] + eps * sign, -eps), eps);
    }
}

static void noise_move(hr_cuda *d, size_t values, float eps, const float *x, const float *g, float *noise)
{
    launch_each(d, "noise_move", values, noise_move_kernel, values, eps, x, g, noise);
}

void hr_cuda_fill_attack(hr_cuda_plugin_table *t)
{
    t->start_uniform = start_uniform;
    t->start_normal = start_normal;
    t->move_linf = move_linf;
    t->turns_start = turns_start;
    t->turns_next = turns_next;
    t->move_l2 = move_l2;
    t->noise_add = noise_add;
    t->noise_move = noise_move;
}
