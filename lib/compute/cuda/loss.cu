/* lib/compute/cuda/loss.cu -- losses on logits.
 *
 * One thread per sample, which walks over the classes two or three times in double, in the CPU's order: the
 * numbers are the CPU's but for the last bits of exp and log. Traffic: classes floats read and written per
 * sample. Bound: latency; 128 samples of 1000 classes are half a megabyte, beside gigabytes in the network.
 */
#include "device.h"

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

void hr_cuda_fill_loss(hr_cuda_plugin_table *t)
{
    t->loss = loss;
}
