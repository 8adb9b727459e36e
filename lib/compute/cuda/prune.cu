/* lib/compute/cuda/prune.cu -- scores and the masks that they mean, ADMM's projection and pull.
 *
 * Weights, gradients and masks are in torch layout, (co,ci,taps). What belongs to input channels has ci
 * values.
 *
 * The largest. Every value gets a key of its own: its magnitude's bits (NaN is less than any number), and
 * behind them its index counted from the end. So no two keys are equal, and equal magnitudes are ordered as
 * on the CPU: the lower index first. The key of the last value that is kept is found digit by digit, 12 bits
 * at a time from the top: count the digits of those keys that begin with what is known already, then step
 * down the counts. Counts are integers: their sums do not depend on the order of blocks. */
#include "device.h"

enum { DIGIT = 12, BINS = 1 << DIGIT, EACH_BLOCK = 8192, CHANNEL_THREADS = 64 };

/* The state of a selection, as plugin.h's `work`. */
struct choice {
    unsigned long long prefix; /* of the key of the last one kept */
    unsigned long long due;    /* kept among those that begin so */
    unsigned bins[BINS];
};
static_assert(sizeof(choice) <= HR_CUDA_CHOICE, "plugin.h says how much work memory a selection takes");

static __device__ unsigned long long key_of(const float *v, size_t i, size_t n, int index_bits)
{
    float size = fabsf(v[i]);
    unsigned order = size != size ? 0u : __float_as_uint(size) + 1u;
    return ((unsigned long long)order << index_bits) | (unsigned long long)(n - 1 - i);
}

/* A block per 8192 values, 256 threads, 16 KB shared. Traffic: one read per value, 4 to 5 passes; bound:
 * memory, and in the first pass, where most values share a few digits, atomics in shared memory. */
static __global__ void count_kernel(const float *v, size_t n, int index_bits, int shift, choice *c)
{
    unsigned *bins = (unsigned *)(void *)hr_shared;
    for (unsigned b = threadIdx.x; b < BINS; b += blockDim.x)
        bins[b] = 0;
    __syncthreads();
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        unsigned long long key = key_of(v, i, n, index_bits) >> shift;
        if (key >> DIGIT == c->prefix)
            atomicAdd(&bins[key & (BINS - 1)], 1u);
    }
    __syncthreads();
    for (unsigned b = threadIdx.x; b < BINS; b += blockDim.x)
        if (bins[b])
            atomicAdd(&c->bins[b], bins[b]);
}

/* One block of 256 threads, 2 KB shared: each adds 16 bins, from the top; the first steps over these sums,
 * then over the bins of one of them; all clear the bins. Traffic: 16 KB read, as much written; bound:
 * latency, some microseconds. */
static __global__ void pick_kernel(choice *c)
{
    enum { SOME = BINS / HR_THREADS };
    unsigned long long sum = 0, *sums = (unsigned long long *)(void *)hr_shared;
    unsigned top = BINS - 1 - threadIdx.x * SOME;
    for (unsigned k = 0; k < SOME; k++)
        sum += c->bins[top - k];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned t = 0, bin = BINS - 1;
        while (t + 1 < HR_THREADS && sums[t] < c->due)
            c->due -= sums[t++];
        bin -= t * SOME;
        for (unsigned k = 0; k + 1 < SOME && c->bins[bin] < c->due; k++)
            c->due -= c->bins[bin--];
        c->prefix = c->prefix << DIGIT | bin;
    }
    __syncthreads();
    for (unsigned b = threadIdx.x; b < BINS; b += blockDim.x)
        c->bins[b] = 0;
}

/* No digit chosen yet, all `kept` values due. A thread per bin. Traffic: one write each; bound: its launch.
 */
static __global__ void begin_kernel(unsigned long long kept, choice *c)
{
    EACH(b, (size_t)BINS)
    {
        c->bins[b] = 0;
        if (b == 0) {
            c->prefix = 0;
            c->due = kept;
        }
    }
}

/* A thread per value. Traffic: a read and a write; bound: memory. */
static __global__ void chosen_kernel(const float *v, size_t n, int index_bits, const choice *c, float *chosen)
{
    EACH(i, n)
    chosen[i] = key_of(v, i, n, index_bits) >= c->prefix ? 1.0f : 0.0f;
}

static void keep_largest(hr_cuda *d, size_t n, const float *v, size_t kept, void *work, float *chosen)
{
    int index_bits = 1;
    while ((size_t)1 << index_bits < n)
        index_bits++;
    int digits = (32 + index_bits + DIGIT - 1) / DIGIT;
    choice *c = (choice *)work;
    size_t blocks = (n + EACH_BLOCK - 1) / EACH_BLOCK;
    launch_each(d, "keep_largest", BINS, begin_kernel, (unsigned long long)kept, c);
    for (int digit = digits - 1; digit >= 0; digit--) {
        launch(d, "keep_largest", dim3((unsigned)blocks), dim3(HR_THREADS), BINS * sizeof(unsigned),
               count_kernel, v, n, index_bits, digit * DIGIT, c);
        launch(d, "keep_largest", dim3(1), dim3(HR_THREADS), HR_THREADS * sizeof(unsigned long long),
               pick_kernel, c);
    }
    launch_each(d, "keep_largest", n, chosen_kernel, v, n, index_bits, (const choice *)c, chosen);
}

/* A thread per weight. Traffic: one write; bound: memory. */
static __global__ void expand_kernel(size_t n, size_t ci, size_t taps, const float *chosen, float *mask)
{
    EACH(i, n)
    mask[i] = chosen[i / taps % ci];
}

static void mask_expand(hr_cuda *d, int co, int ci, int taps, const float *chosen, float *mask)
{
    size_t n = (size_t)co * (size_t)ci * (size_t)taps;
    launch_each(d, "mask_expand", n, expand_kernel, n, (size_t)ci, (size_t)taps, chosen, mask);
}

/* A block of 64 threads per input channel: sum of a*b over it, in double, in the block's tree. s: the
 * gradient of scores, sign(s) times the sum; else the square root. Traffic: two reads per weight, in pieces
 * of `taps` (from the second-level cache where these are short); bound: memory. */
static __global__ void channels_kernel(int co, int ci, int taps, const float *a, const float *b,
                                       const float *s, float *out)
{
    size_t i = blockIdx.x, all = (size_t)co * (size_t)taps;
    double sum = 0;
    for (size_t p = threadIdx.x; p < all; p += blockDim.x) {
        size_t at = (p / (size_t)taps * (size_t)ci + i) * (size_t)taps + p % (size_t)taps;
        sum += (double)a[at] * (double)b[at];
    }
    sum = block_sum(sum, threadIdx.x, blockDim.x);
    if (threadIdx.x == 0)
        out[i] = s ? (float)((s[i] > 0.0f) - (s[i] < 0.0f)) * (float)sum : (float)sqrt(sum);
}

static void channels(hr_cuda *d, int co, int ci, int taps, const float *a, const float *b, const float *s,
                     float *out)
{
    launch(d, "channels", dim3((unsigned)ci), dim3(CHANNEL_THREADS), CHANNEL_THREADS * sizeof(double),
           channels_kernel, co, ci, taps, a, b, s, out);
}

static void channel_norms(hr_cuda *d, int co, int ci, int taps, const float *w, float *norms)
{
    channels(d, co, ci, taps, w, w, nullptr, norms);
}

/* A thread per weight. Traffic: 4; bound: memory. */
static __global__ void scores_kernel(size_t n, const float *dw, const float *w, const float *s, float *g)
{
    EACH(i, n)
    g[i] = (float)((s[i] > 0.0f) - (s[i] < 0.0f)) * dw[i] * w[i];
}

static void score_grad(hr_cuda *d, bool channel, int co, int ci, int taps, const float *dw, const float *w,
                       const float *s, float *g)
{
    size_t n = (size_t)co * (size_t)ci * (size_t)taps;
    if (channel)
        channels(d, co, ci, taps, dw, w, s, g);
    else
        launch_each(d, "score_grad", n, scores_kernel, n, dw, w, s, g);
}

/* A thread per weight. Traffic: 3; bound: memory. */
static __global__ void masked_kernel(size_t n, const float *dw, const float *mask, float *g)
{
    EACH(i, n)
    g[i] = mask[i] != 0.0f ? dw[i] : 0.0f;
}

static void masked_grad(hr_cuda *d, size_t n, const float *dw, const float *mask, float *g)
{
    launch_each(d, "masked_grad", n, masked_kernel, n, dw, mask, g);
}

/* A thread per weight. Traffic: 5; bound: memory. */
static __global__ void pull_kernel(size_t n, const float *dw, const float *w, const float *z, const float *u,
                                   float rho, float *g)
{
    EACH(i, n)
    g[i] = dw[i] + rho * (w[i] - z[i] + u[i]);
}

static void admm_grad(hr_cuda *d, size_t n, const float *dw, const float *w, const float *z, const float *u,
                      float rho, float *g)
{
    launch_each(d, "admm_grad", n, pull_kernel, n, dw, w, z, u, rho, g);
}

/* A thread per weight. Traffic: 3, with u 5; bound: memory. */
static __global__ void split_kernel(size_t n, size_t ci, size_t taps, bool channel, const float *chosen,
                                    const float *v, float *z, float *u)
{
    EACH(i, n)
    {
        float part = chosen[channel ? i / taps % ci : i] != 0.0f ? v[i] : 0.0f;
        z[i] = part;
        if (u)
            u[i] -= part;
    }
}

static void split(hr_cuda *d, bool channel, int co, int ci, int taps, const float *chosen, const float *v,
                  float *z, float *u)
{
    size_t n = (size_t)co * (size_t)ci * (size_t)taps;
    launch_each(d, "split", n, split_kernel, n, (size_t)ci, (size_t)taps, channel, chosen, v, z, u);
}

void hr_cuda_fill_prune(hr_cuda_plugin_table *t)
{
    t->keep_largest = keep_largest;
    t->mask_expand = mask_expand;
    t->channel_norms = channel_norms;
    t->score_grad = score_grad;
    t->masked_grad = masked_grad;
    t->admm_grad = admm_grad;
    t->split = split;
}
