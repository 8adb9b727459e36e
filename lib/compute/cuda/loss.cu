/* lib/compute/cuda/loss.cu -- losses on logits.
 *
 * One thread per sample, which walks over the classes two or three times in double, in the CPU's order: the
 * numbers are the CPU's but for the last bits of exp and log. Traffic: classes floats read and written per
 * sample. Bound: latency; 128 samples of 1000 classes are half a megabyte, beside gigabytes in the network.
 */
#include "device.h"
#include "logits.h"

static __device__ void cross_entropy(int classes, const float *z, int y, float scale, double *loss, float *dz)
{
    float top = z[0];
    for (int c = 1; c < classes; c++)
        top = z[c] > top ? z[c] : top;
    double sum = 0;
    for (int c = 0; c < classes; c++)
        sum += exp((double)z[c] - (double)top);
    if (loss)
        *loss = log(sum) + (double)top - (double)z[y];
    for (int c = 0; c < classes && dz; c++)
        dz[c] = scale * (float)(exp((double)z[c] - (double)top) / sum - (c == y));
}

/* lib/compute/loss.c's hr_loss_margin. */
static __device__ void margin(int classes, const float *z, int y, float scale, double *loss, float *dz)
{
    int other = y == 0 ? 1 : 0;
    for (int c = other + 1; c < classes; c++)
        if (c != y && z[c] > z[other])
            other = c;
    float m = z[y] - z[other] + 50.0f;
    if (loss)
        *loss = m > 0 || m != m ? -(double)m : 0.0;
    for (int c = 0; c < classes && dz; c++)
        dz[c] = m > 0 && c == y ? -scale : m > 0 && c == other ? scale : 0.0f;
}

/* KL(softmax(q) || softmax(z)) grows by softmax(z) - softmax(q) per logit. */
static __device__ void divergence(int classes, const float *q, const float *z, float scale, float *dz)
{
    double top_q = q[0], top_z = z[0], sum_q = 0, sum_z = 0;
    for (int c = 1; c < classes; c++) {
        top_q = fmax(top_q, (double)q[c]);
        top_z = fmax(top_z, (double)z[c]);
    }
    for (int c = 0; c < classes; c++) {
        sum_q += exp((double)q[c] - top_q);
        sum_z += exp((double)z[c] - top_z);
    }
    for (int c = 0; c < classes; c++)
        dz[c] = scale * (float)(exp((double)z[c] - top_z) / sum_z - exp((double)q[c] - top_q) / sum_q);
}

/* A thread per sample. Traffic: its logits read two or three times (from the cache), as many gradients
 * written; bound: latency. */
static __global__ void loss_kernel(int kind, size_t n, int classes, const float *z, const int32_t *y,
                                   const float *target, float scale, double *loss, float *dz)
{
    EACH(i, n)
    {
        size_t at = i * (size_t)classes;
        double *l = loss ? loss + i : nullptr;
        float *g = dz ? dz + at : nullptr;
        if (kind == HR_CUDA_CE)
            cross_entropy(classes, z + at, y[i], scale, l, g);
        else if (kind == HR_CUDA_MARGIN)
            margin(classes, z + at, y[i], scale, l, g);
        else
            divergence(classes, target + at, z + at, scale, g);
    }
}

static void loss(hr_cuda *d, int kind, int n, int classes, const float *z, const int32_t *y,
                 const float *target, float scale, double *sums, float *dz)
{
    launch_each(d, "loss", (size_t)n, loss_kernel, kind, (size_t)n, classes, z, y, target, scale, sums, dz);
}

/* One block, 8 bytes shared per thread. Traffic: the logits; bound: latency, once per step of training. */
static __global__ void right_kernel(size_t n, int classes, const float *z, const int32_t *y, double *count)
{
    double mine = 0;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x)
        mine += class_of(z + i * (size_t)classes, classes) == y[i];
    mine = block_sum(mine, threadIdx.x, blockDim.x);
    if (threadIdx.x == 0)
        *count = mine;
}

static void right(hr_cuda *d, int n, int classes, const float *z, const int32_t *y, double *count)
{
    unsigned threads = hr_threads_of(4 * (size_t)n);
    launch(d, "right", dim3(1), dim3(threads), threads * sizeof(double), right_kernel, (size_t)n, classes, z,
           y, count);
}

/* lib/attack/apgd.c's hr_loss_dlr: the four largest logits by insertion, in its order. A thread per sample.
 * Traffic: its logits, and as many gradients written; bound: latency. */
static __global__ void dlr_kernel(size_t n, int classes, const float *z_, const int32_t *y,
                                  const int32_t *aim, double *loss, float *dz_)
{
    EACH(i, n)
    {
        const float *z = z_ + i * (size_t)classes;
        float *dz = dz_ + i * (size_t)classes;
        int pi[4] = {-1, -1, -1, -1}, other = -1;
        for (int k = 0; k < classes; k++) {
            if (k != y[i] && (other < 0 || z[k] > z[other]))
                other = k;
            for (int r = 0, in = k; r < 4 && in >= 0; r++)
                if (pi[r] < 0 || z[in] > z[pi[r]]) {
                    int out = pi[r];
                    pi[r] = in;
                    in = out;
                }
            dz[k] = 0;
        }
        bool aimed = aim[i] >= 0;
        int to = aimed ? aim[i] : other;
        double num = (double)z[y[i]] - (double)z[to], third = (double)z[pi[2]];
        double den = (double)z[pi[0]] - (aimed ? 0.5 * (third + (double)z[pi[3]]) : third) + 1e-12;
        float by_num = (float)(-1.0 / den), by_den = (float)(num / (den * den));
        dz[y[i]] += by_num;
        dz[to] -= by_num;
        dz[pi[0]] += by_den;
        dz[pi[2]] -= aimed ? 0.5f * by_den : by_den;
        if (aimed)
            dz[pi[3]] -= 0.5f * by_den;
        loss[i] = -num / den;
    }
}

static void dlr(hr_cuda *d, int n, int classes, const float *z, const int32_t *y, const int32_t *aim,
                double *sums, float *dz)
{
    launch_each(d, "dlr", (size_t)n, dlr_kernel, (size_t)n, classes, z, y, aim, sums, dz);
}

/* lib/attack/pack.c's hr_rank_class. A thread per sample. Traffic: its logits, `rank` times (from the cache);
 * bound: latency, once per attack. */
static __global__ void rank_kernel(size_t n, int classes, const float *z_, const int32_t *y, int rank,
                                   int32_t *aim)
{
    EACH(i, n)
    {
        const float *z = z_ + i * (size_t)classes;
        int at = -1;
        for (int r = 0; r < rank; r++) {
            int best = -1;
            for (int k = 0; k < classes; k++) {
                bool behind = at < 0 || z[k] < z[at] || (k > at && z[k] == z[at]);
                if (k != y[i] && behind && (best < 0 || z[k] > z[best]))
                    best = k;
            }
            at = best < 0 ? at : best;
        }
        aim[i] = at;
    }
}

static void rank(hr_cuda *d, int n, int classes, const float *z, const int32_t *y, int place, int32_t *aim)
{
    launch_each(d, "rank", (size_t)n, rank_kernel, (size_t)n, classes, z, y, place, aim);
}

/* A row's softmax: probability and its logarithm of each class. */
struct softmax {
    const float *z;
    double top, sum, log_sum;
};

static __device__ softmax softmax_of(const float *z, int classes)
{
    double top = z[0], sum = 0;
    for (int c = 1; c < classes; c++)
        top = fmax(top, (double)z[c]);
    for (int c = 0; c < classes; c++)
        sum += exp((double)z[c] - top);
    return {z, top, sum, log(sum)};
}

static __device__ double log_of(const softmax &s, int c)
{
    return (double)s.z[c] - s.top - s.log_sum;
}

static __device__ double part_of(const softmax &s, int c)
{
    return exp((double)s.z[c] - s.top) / s.sum;
}

/* q: of the image, p: of its attacked copy. */
static __device__ double trades(const softmax &q, const softmax &p, int y, int classes, double beta,
                                float scale, float *dn, float *da)
{
    double kl = 0, loss = -log_of(q, y);
    for (int c = 0; c < classes; c++)
        kl += part_of(q, c) * (log_of(q, c) - log_of(p, c));
    for (int c = 0; c < classes; c++) {
        double qc = part_of(q, c);
        da[c] = (float)((double)scale * (beta * (part_of(p, c) - qc)));
        dn[c] = (float)((double)scale * (qc - (c == y) + beta * qc * (log_of(q, c) - log_of(p, c) - kl)));
    }
    return loss + beta * kl;
}

/* What stands before the gradient went through the softmax, by q_c and by p_c (lib/train/loss.c). */
struct mart_terms {
    double beta, kl, weight, margin;
    int y, other;
};

static __device__ double by_image(const mart_terms &m, const softmax &q, const softmax &p, int c)
{
    return m.beta * (m.weight * (log_of(q, c) + 1 - log(part_of(p, c) + 1e-12)) - (c == m.y) * m.kl);
}

static __device__ double by_copy(const mart_terms &m, const softmax &q, const softmax &p, int c)
{
    return (c == m.other) / m.margin - m.beta * m.weight * part_of(q, c) / (part_of(p, c) + 1e-12);
}

static __device__ double mart(const softmax &q, const softmax &p, int y, int classes, double beta,
                              float scale, float *dn, float *da)
{
    int other = y == 0 ? 1 : 0;
    for (int c = other + 1; c < classes; c++)
        if (c != y && part_of(p, c) > part_of(p, other))
            other = c;
    mart_terms m = {beta, 0, 1.0000001 - part_of(q, y), 1.0001 - part_of(p, other) + 1e-12, y, other};
    for (int c = 0; c < classes; c++)
        m.kl += part_of(q, c) * (log_of(q, c) - log(part_of(p, c) + 1e-12));
    double mean_n = 0, mean_a = 0, loss = -log_of(p, y) - log(m.margin) + beta * m.kl * m.weight;
    for (int c = 0; c < classes; c++) {
        mean_n += part_of(q, c) * by_image(m, q, p, c);
        mean_a += part_of(p, c) * by_copy(m, q, p, c);
    }
    for (int c = 0; c < classes; c++) {
        double n = part_of(q, c) * (by_image(m, q, p, c) - mean_n), pc = part_of(p, c);
        da[c] = (float)((double)scale * (pc * (by_copy(m, q, p, c) - mean_a) + pc - (c == y)));
        dn[c] = (float)((double)scale * n);
    }
    return loss;
}

/* A thread per sample. Traffic: the logits of both, read some five times (from the cache), as many gradients
 * written; bound: latency of some dozens of exp and log per class in double. */
static __global__ void pair_kernel(int kind, size_t n, int classes, const float *zn, const float *za,
                                   const int32_t *y, double beta, float scale, double *loss, float *dzn,
                                   float *dza)
{
    EACH(i, n)
    {
        size_t at = i * (size_t)classes;
        softmax q = softmax_of(zn + at, classes), p = softmax_of(za + at, classes);
        loss[i] = kind == HR_CUDA_TRADES ? trades(q, p, y[i], classes, beta, scale, dzn + at, dza + at)
                                         : mart(q, p, y[i], classes, beta, scale, dzn + at, dza + at);
    }
}

static void loss_pair(hr_cuda *d, int kind, int n, int classes, const float *zn, const float *za,
                      const int32_t *y, double beta, float scale, double *loss, float *dzn, float *dza)
{
    launch_each(d, "loss_pair", (size_t)n, pair_kernel, kind, (size_t)n, classes, zn, za, y, beta, scale,
                loss, dzn, dza);
}

void hr_cuda_fill_loss(hr_cuda_plugin_table *t)
{
    t->loss = loss;
    t->right = right;
    t->dlr = dlr;
    t->rank = rank;
    t->loss_pair = loss_pair;
}
