/* lib/compute/cuda/norm.cu -- batch norm's sums over a map, and what is made of them.
 *
 * Sums. A map (rows,c) is cut into at most HR_CUDA_PARTS spans of rows, each of at least LEAST; which,
 * depends on `rows` alone. A block takes one span of 32 columns: neighbouring threads read neighbouring
 * columns, each thread every ROWS-th row, in double; the block's ROWS partial sums meet in a tree in shared
 * memory. Then one thread per column adds the spans' sums in their order. So the bits depend on the shape
 * alone.
 *
 * Statistics are summed around each column's first value K: s1 = sum (z-K), s2 = sum (z-K)^2, which loses
 * nothing that counts in double, K being one of the values: mean = K + s1/M, M var = s2 - s1^2/M. */
#include "device.h"

enum { COLUMNS = 32, ROWS = 8, LEAST = 256 };

static size_t span_of(size_t rows)
{
    size_t most = HR_CUDA_PARTS, span = (rows + most - 1) / most;
    if (span < LEAST)
        span = LEAST;
    return (span + ROWS - 1) / ROWS * ROWS;
}

static int parts_of(size_t rows)
{
    size_t span = span_of(rows);
    return (int)((rows + span - 1) / span);
}

/* What is summed: of z, its deviations from the first row; of g alone, g; of g with z, g and g*xh.
 * Grid (columns/32, spans), block (32,8), 4 KB shared. Traffic: one read per value, two with g and z; bound:
 * memory, and on consumer devices the four double operations per value come near to it. */
static __global__ void sums_kernel(size_t rows, int c, size_t span, const float *g, const float *z,
                                   const float *mean, const float *inv, double *part)
{
    unsigned me = threadIdx.y * COLUMNS + threadIdx.x;
    int j = (int)(blockIdx.x * COLUMNS + threadIdx.x);
    size_t r0 = (size_t)blockIdx.y * span, r1 = r0 + span < rows ? r0 + span : rows;
    double s1 = 0, s2 = 0, centre = 0, unit = 1;
    if (j < c && z) {
        centre = g ? (double)mean[j] : (double)z[j];
        unit = g ? (double)inv[j] : 1.0;
    }
    for (size_t r = r0 + threadIdx.y; r < r1 && j < c; r += ROWS) {
        size_t at = r * (size_t)c + (size_t)j;
        double dev = z ? ((double)z[at] - centre) * unit : 0.0, v = g ? (double)g[at] : dev;
        s1 += v;
        s2 += v * dev;
    }
    double *first = hr_shared, *second = hr_shared + COLUMNS * ROWS;
    first[me] = s1;
    second[me] = s2;
    __syncthreads();
    for (unsigned half = ROWS / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) {
            first[me] += first[me + half * COLUMNS];
            second[me] += second[me + half * COLUMNS];
        }
        __syncthreads();
    }
    if (threadIdx.y == 0 && j < c) {
        size_t at = (size_t)blockIdx.y * 2 * (size_t)c + (size_t)j;
        part[at] = first[me];
        part[at + (size_t)c] = second[me];
    }
}

static void sums(hr_cuda *d, size_t rows, int c, const float *g, const float *z, const float *mean,
                 const float *inv, double *part)
{
    dim3 grid((unsigned)((c + COLUMNS - 1) / COLUMNS), (unsigned)parts_of(rows));
    launch(d, "sums", grid, dim3(COLUMNS, ROWS), 2 * COLUMNS * ROWS * sizeof(double), sums_kernel, rows, c,
           span_of(rows), g, z, mean, inv, part);
}

static __device__ double merged(const double *part, int parts, int c, int which, size_t j)
{
    double sum = 0;
    for (int p = 0; p < parts; p++)
        sum += part[((size_t)p * 2 + (size_t)which) * (size_t)c + j];
    return sum;
}

/* mean and var of column j as an affine map. */
static __device__ void settle(const hr_cuda_norm &n, size_t j, double bias, double mean, double var)
{
    double inv = 1.0 / sqrt(var + n.eps), scale = (n.gamma ? (double)n.gamma[j] : 1.0) * inv;
    n.mean[j] = (float)mean;
    n.inv[j] = (float)inv;
    n.scale[j] = (float)scale;
    n.shift[j] = (float)((n.beta ? (double)n.beta[j] : 0.0) + (bias - mean) * scale);
}

/* The small kernels: a thread per column. Traffic: nine floats per column; bound: its launch. */
static __global__ void running_kernel(int c, const float *bias, hr_cuda_norm n)
{
    EACH(j, (size_t)c)
    settle(n, j, bias ? (double)bias[j] : 0.0, (double)n.rmean[j], (double)n.rvar[j]);
}

/* A thread per column. Traffic: at most 2 * 64 doubles per column; bound: latency. */
static __global__ void batch_kernel(size_t rows, int c, const float *z, bool update, hr_cuda_norm n,
                                    const double *part, int parts)
{
    EACH(j, (size_t)c)
    {
        double s1 = merged(part, parts, c, 0, j), s2 = merged(part, parts, c, 1, j), count = (double)rows;
        double mean = (double)z[j] + s1 / count, m2 = s2 - s1 * s1 / count;
        m2 = m2 > 0 || m2 != m2 ? m2 : 0; /* rounding may leave less than nothing; NaN stays */
        double var = m2 / count;
        if (update) {
            double unbiased = count > 1 ? m2 / (count - 1) : var, a = n.momentum;
            n.rmean[j] = (float)((1 - a) * (double)n.rmean[j] + a * mean);
            n.rvar[j] = (float)((1 - a) * (double)n.rvar[j] + a * unbiased);
        }
        settle(n, j, 0.0, mean, var);
    }
}

/* A thread per column. Traffic: at most 2 * 64 doubles per column; bound: latency. */
static __global__ void grad_kernel(size_t rows, int c, hr_cuda_norm n, float *dgamma, float *dbeta, float *k1,
                                   float *k2, float *k3, const double *part, int parts)
{
    EACH(j, (size_t)c)
    {
        double s1 = merged(part, parts, c, 0, j), s2 = merged(part, parts, c, 1, j), count = (double)rows;
        double scale = (double)n.scale[j], xh = scale * (double)n.inv[j] * s2 / count;
        if (dgamma)
            dgamma[j] = (float)s2;
        if (dbeta)
            dbeta[j] = (float)s1;
        k1[j] = n.scale[j];
        k2[j] = (float)-xh;
        k3[j] = (float)(xh * (double)n.mean[j] - scale * s1 / count);
    }
}

/* A thread per column. Traffic: at most 64 doubles per column; bound: latency. */
static __global__ void column_kernel(int c, const double *part, int parts, float *sum)
{
    EACH(j, (size_t)c)
    sum[j] = (float)merged(part, parts, c, 0, j);
}

static void norm_running(hr_cuda *d, int c, const float *bias, const hr_cuda_norm *n)
{
    launch_each(d, "norm_running", (size_t)c, running_kernel, c, bias, *n);
}

static void norm_batch(hr_cuda *d, size_t rows, int c, const float *z, bool update, const hr_cuda_norm *n,
                       double *part)
{
    sums(d, rows, c, nullptr, z, nullptr, nullptr, part);
    launch_each(d, "norm_batch", (size_t)c, batch_kernel, rows, c, z, update, *n, part, parts_of(rows));
}

static void norm_grad(hr_cuda *d, size_t rows, int c, const float *g, const float *z, const hr_cuda_norm *n,
                      float *dgamma, float *dbeta, float *k1, float *k2, float *k3, double *part)
{
    sums(d, rows, c, g, z, n->mean, n->inv, part);
    launch_each(d, "norm_grad", (size_t)c, grad_kernel, rows, c, *n, dgamma, dbeta, k1, k2, k3, part,
                parts_of(rows));
}

static void column_sums(hr_cuda *d, size_t rows, int c, const float *g, float *sum, double *part)
{
    sums(d, rows, c, g, nullptr, nullptr, nullptr, part);
    launch_each(d, "column_sums", (size_t)c, column_kernel, c, part, parts_of(rows), sum);
}

void hr_cuda_fill_norm(hr_cuda_plugin_table *t)
{
    t->norm_running = norm_running;
    t->norm_batch = norm_batch;
    t->norm_grad = norm_grad;
    t->column_sums = column_sums;
}
