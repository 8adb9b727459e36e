/* lib/compute/cuda/optim.cu -- one step of an optimiser on a tensor (lib/train/optim.c states the formulas).
 *
 * A thread per number, grid's stride; each line is one float operation, rounded where PyTorch rounds, and
 * nothing is contracted (-fmad=false). Bound: memory. */
#include "device.h"

/* A thread per number. Traffic: 5; bound: memory. */
static __global__ void sgd_kernel(size_t n, float *p, const float *g, float *buf, float lr, float momentum,
                                  float decay, bool nesterov, bool first)
{
    EACH(i, n)
    {
        float v = g[i] + decay * p[i];
        buf[i] = first ? v : momentum * buf[i] + v;
        p[i] -= lr * (nesterov ? v + momentum * buf[i] : buf[i]);
    }
}

static void sgd(hr_cuda *d, size_t n, float *p, const float *g, float *buf, float lr, float momentum,
                float decay, bool nesterov, bool first)
{
    launch_each(d, "sgd", n, sgd_kernel, n, p, g, buf, lr, momentum, decay, nesterov, first);
}

/* A thread per number. Traffic: 7; bound: memory. */
static __global__ void adam_kernel(size_t n, float *p, const float *g, float *m, float *v, float step,
                                   float root, float decay)
{
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    EACH(i, n)
    {
        float d = g[i] + decay * p[i];
        m[i] = (float)beta1 * m[i] + (float)(1.0 - beta1) * d;
        v[i] = (float)beta2 * v[i] + (float)(1.0 - beta2) * (d * d);
        p[i] -= step * (m[i] / (sqrtf(v[i]) / root + (float)eps));
    }
}

static void adam(hr_cuda *d, size_t n, float *p, const float *g, float *m, float *v, float lr, float decay,
                 int64_t step)
{
    float pace = (float)((double)lr / (1.0 - pow(0.9, (double)step)));
    float root = (float)sqrt(1.0 - pow(0.999, (double)step));
    launch_each(d, "adam", n, adam_kernel, n, p, g, m, v, pace, root, decay);
}

/* A thread per number. Traffic: 7; bound: memory. */
static __global__ void rmsprop_kernel(size_t n, float *p, const float *g, float *v, float *buf, float lr,
                                      float momentum, float decay)
{
    const double alpha = 0.99, eps = 1e-8;
    EACH(i, n)
    {
        float d = g[i] + decay * p[i];
        v[i] = (float)alpha * v[i] + (float)(1.0 - alpha) * (d * d);
        buf[i] = momentum * buf[i] + d / (sqrtf(v[i]) + (float)eps);
        p[i] -= lr * buf[i];
    }
}

static void rmsprop(hr_cuda *d, size_t n, float *p, const float *g, float *v, float *buf, float lr,
                    float momentum, float decay)
{
    launch_each(d, "rmsprop", n, rmsprop_kernel, n, p, g, v, buf, lr, momentum, decay);
}

void hr_cuda_fill_optim(hr_cuda_plugin_table *t)
{
    t->sgd = sgd;
    t->adam = adam;
    t->rmsprop = rmsprop;
}
