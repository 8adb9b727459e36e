/* lib/compute/cuda/elementwise.cu -- what goes through a map once: epilogues, their gradients, sums, and the
 * layout of weights.
 *
 * All kernels here: one thread per value and stride of the grid, 256 threads, no shared memory, nothing
 * summed. Bound: memory. "Traffic" is floats read and written per value; columns' vectors stay in the cache.
 */
#include "device.h"

/* A thread per value. Traffic: 2, with a residual 3; bound: memory. */
static __global__ void affine_kernel(size_t n, int c, const float *z, float *y, const float *scale,
                                     const float *shift, const float *res, bool relu)
{
    EACH(i, n)
    {
        size_t j = i % (size_t)c;
        float v = z[i];
        if (scale)
            v = v * scale[j];
        if (shift)
            v = v + shift[j];
        if (res)
            v = v + res[i];
        y[i] = relu && v <= 0.0f ? 0.0f : v; /* NaN stays NaN */
    }
}

static void affine(hr_cuda *d, size_t rows, int c, const float *z, float *y, const float *scale,
                   const float *shift, const float *res, bool relu)
{
    launch_each(d, "affine", rows * (size_t)c, affine_kernel, rows * (size_t)c, c, z, y, scale, shift, res,
                relu);
}

/* A thread per value. Traffic: 2, with a ReLU 3, with a second operand 4 (5 where it adds); bound: memory. */
static __global__ void back_kernel(size_t n, int c, float *g, const float *y, float *to, bool add,
                                   const float *scale)
{
    EACH(i, n)
    {
        float v = y && !(y[i] > 0.0f) ? 0.0f : g[i];
        if (to)
            to[i] = add ? to[i] + v : v;
        g[i] = scale ? v * scale[i % (size_t)c] : v;
    }
}

static void back(hr_cuda *d, size_t rows, int c, float *g, const float *y, float *to, bool add,
                 const float *scale)
{
    launch_each(d, "back", rows * (size_t)c, back_kernel, rows * (size_t)c, c, g, y, to, add, scale);
}

/* A thread per value. Traffic: 2, through batch statistics 3; one more where it adds; bound: memory. */
static __global__ void grad_affine_kernel(size_t n, int c, const float *g, const float *z, const float *k1,
                                          const float *k2, const float *k3, float *out, bool add)
{
    EACH(i, n)
    {
        size_t j = i % (size_t)c;
        float v = g[i] * k1[j] + (z ? z[i] * k2[j] + k3[j] : 0.0f);
        out[i] = add ? out[i] + v : v;
    }
}

static void grad_affine(hr_cuda *d, size_t rows, int c, const float *g, const float *z, const float *k1,
                        const float *k2, const float *k3, float *out, bool add)
{
    launch_each(d, "grad_affine", rows * (size_t)c, grad_affine_kernel, rows * (size_t)c, c, g, z, k1, k2, k3,
                out, add);
}

/* A thread per value. Traffic: 3; bound: memory. */
static __global__ void add_kernel(size_t n, float *to, const float *from)
{
    EACH(i, n)
    to[i] += from[i];
}

static void add(hr_cuda *d, size_t n, float *to, const float *from)
{
    launch_each(d, "add", n, add_kernel, n, to, from);
}

/* A thread per weight. Traffic: 2, with a mask 3; bound: memory; reads are `taps` apart, but a layer's
 * weights fit into the second-level cache. */
static __global__ void weights_kernel(size_t n, int ci, int taps, const float *w, const float *mask,
                                      float *eff)
{
    EACH(i, n)
    {
        size_t k = i % (size_t)ci, t = i / (size_t)ci % (size_t)taps, o = i / (size_t)ci / (size_t)taps;
        size_t from = (o * (size_t)ci + k) * (size_t)taps + t;
        eff[i] = mask ? w[from] * mask[from] : w[from];
    }
}

static void weights(hr_cuda *d, int co, int ci, int taps, const float *w, const float *mask, float *eff)
{
    size_t n = (size_t)co * (size_t)ci * (size_t)taps;
    launch_each(d, "weights", n, weights_kernel, n, ci, taps, w, mask, eff);
}

/* A thread per weight. Traffic: 2; bound: memory. */
static __global__ void weight_grad_kernel(size_t n, int ci, int taps, const float *dw, float *g)
{
    EACH(i, n)
    {
        size_t t = i % (size_t)taps, k = i / (size_t)taps % (size_t)ci, o = i / (size_t)taps / (size_t)ci;
        g[i] = dw[(o * (size_t)taps + t) * (size_t)ci + k];
    }
}

static void weight_grad(hr_cuda *d, int co, int ci, int taps, const float *dw, float *g)
{
    size_t n = (size_t)co * (size_t)ci * (size_t)taps;
    launch_each(d, "weight_grad", n, weight_grad_kernel, n, ci, taps, dw, g);
}

void hr_cuda_fill_elementwise(hr_cuda_plugin_table *t)
{
    t->affine = affine;
    t->back = back;
    t->grad_affine = grad_affine;
    t->add = add;
    t->weights = weights;
    t->weight_grad = weight_grad;
}
