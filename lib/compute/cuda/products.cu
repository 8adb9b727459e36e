/* lib/compute/cuda/products.cu -- convolutions and dense layers: the table's side of vendor.h.
 *
 * No kernels: the libraries have them. Here is their work memory, one piece for all convolutions, since they
 * run one after another; it has its final size once the last convolution was planned. */
#include "device.h"

#include <cstdio>
#include <cstdlib>

struct hr_cuda_conv {
    hr_vendor_conv *v;
};

/* Make the work memory at least this large. Returns 0 or -1. */
static int want(hr_cuda *d, size_t bytes)
{
    if (bytes <= d->work_bytes)
        return 0;
    hr_cuda_check(d, cudaStreamSynchronize(d->stream), "the work memory of convolutions");
    if (d->work)
        cudaFree(d->work);
    d->work = nullptr;
    d->work_bytes = 0;
    if (cudaMalloc(&d->work, bytes) != cudaSuccess) {
        size_t left = 0, all;
        char why[128];
        cudaGetLastError();
        if (cudaMemGetInfo(&left, &all) != cudaSuccess)
            left = 0;
        snprintf(why, sizeof why, "%zu bytes were asked for, %zu are free; a smaller --batch may help", bytes,
                 left);
        d->work = nullptr;
        hr_cuda_note(d, "out of memory for the work of convolutions", why);
        return -1;
    }
    d->work_bytes = bytes;
    return 0;
}

static void conv_free(hr_cuda *, hr_cuda_conv *c)
{
    if (!c)
        return;
    hr_vendor_conv_free(c->v);
    free(c);
}

static hr_cuda_conv *conv_new(hr_cuda *d, const hr_cuda_conv_shape *s, int batch, bool dw)
{
    const char *what = nullptr;
    size_t bytes = 0;
    hr_cuda_conv *c = (hr_cuda_conv *)calloc(1, sizeof *c);
    if (!c) {
        hr_cuda_note(d, "a convolution", "the host has no memory left");
        return nullptr;
    }
    c->v = hr_vendor_conv_new(d->vendor, s, batch, dw, &bytes, &what);
    if (!c->v)
        hr_cuda_note(d, "a convolution", what);
    if (!c->v || want(d, bytes)) {
        conv_free(d, c);
        return nullptr;
    }
    return c;
}

static void told(hr_cuda *d, int rc, const char *name, const char *what)
{
    if (rc)
        hr_cuda_note(d, name, what);
}

static void conv_forward(hr_cuda *d, hr_cuda_conv *c, int n, const float *x, const float *w, float *y)
{
    const char *what = nullptr;
    told(d, hr_vendor_forward(d->vendor, c->v, n, x, w, y, d->work, &what), "conv_forward", what);
}

static void conv_dx(hr_cuda *d, hr_cuda_conv *c, int n, const float *dy, const float *w, float *dx, bool add)
{
    const char *what = nullptr;
    told(d, hr_vendor_dx(d->vendor, c->v, n, dy, w, dx, add, d->work, &what), "conv_dx", what);
}

static void conv_dw(hr_cuda *d, hr_cuda_conv *c, int n, const float *x, const float *dy, float *dw)
{
    const char *what = nullptr;
    told(d, hr_vendor_dw(d->vendor, c->v, n, x, dy, dw, d->work, &what), "conv_dw", what);
}

static void dense_forward(hr_cuda *d, int n, int ci, int co, const float *x, const float *w, float *y)
{
    const char *what = nullptr;
    told(d, hr_vendor_gemm(d->vendor, false, true, n, co, ci, x, w, y, false, &what), "dense_forward", what);
}

static void dense_dx(hr_cuda *d, int n, int ci, int co, const float *dy, const float *w, float *dx, bool add)
{
    const char *what = nullptr;
    told(d, hr_vendor_gemm(d->vendor, false, false, n, ci, co, dy, w, dx, add, &what), "dense_dx", what);
}

static void dense_dw(hr_cuda *d, int n, int ci, int co, const float *x, const float *dy, float *dw)
{
    const char *what = nullptr;
    told(d, hr_vendor_gemm(d->vendor, true, false, co, ci, n, dy, x, dw, false, &what), "dense_dw", what);
}

void hr_cuda_fill_products(hr_cuda_plugin_table *t)
{
    t->conv_new = conv_new;
    t->conv_free = conv_free;
    t->conv_forward = conv_forward;
    t->conv_dx = conv_dx;
    t->conv_dw = conv_dw;
    t->dense_forward = dense_forward;
    t->dense_dx = dense_dx;
    t->dense_dw = dense_dw;
}
