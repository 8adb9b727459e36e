/* test/shim/vendor.c -- lib/compute/cuda/vendor.h with the oracle (lib/compute/ref) behind it instead of
 * cuDNN and cuBLAS: NHWC floats become NCHW doubles, the oracle's loops run, the result is rounded once.
 *
 * Work memory is asked for and overwritten, as the libraries do. */
#include "vendor.h"

#include "compute/ref/ops.h"
#include "vendor_queue.h"

#include <stdlib.h>
#include <string.h>

enum { WORK = 1000 };

/* HERACLES_SHIM_WORK: bytes of a convolution's work memory, at least WORK. */
static size_t work_bytes(void)
{
    const char *v = getenv("HERACLES_SHIM_WORK");
    return v ? (size_t)strtol(v, NULL, 10) : WORK;
}

struct hr_vendor {
    void *stream;
};

struct hr_vendor_conv {
    hr_cuda_conv_shape s;
    int batch;
    bool dw;
};

hr_vendor *hr_vendor_open(void *stream, unsigned flags, const char **what)
{
    hr_vendor *v = calloc(1, sizeof *v);
    (void)flags;
    *what = "no memory";
    if (v)
        v->stream = stream;
    return v;
}

void hr_vendor_close(hr_vendor *v)
{
    free(v);
}

hr_vendor_conv *hr_vendor_conv_new(hr_vendor *v, const hr_cuda_conv_shape *s, int batch, bool dw,
                                   size_t *work, const char **what)
{
    hr_vendor_conv *c = calloc(1, sizeof *c);
    (void)v;
    *what = "no memory";
    *work = work_bytes();
    if (c)
        *c = (hr_vendor_conv){*s, batch, dw};
    return c;
}

void hr_vendor_conv_free(hr_vendor_conv *c)
{
    free(c);
}

/* ---- layouts: (outer, inner, c) and (outer, c, inner) ----------------------------------------------------
 */

static double *planes(const float *x, int outer, int inner, int c)
{
    double *d = calloc((size_t)outer * (size_t)inner * (size_t)c, sizeof *d);
    for (int o = 0; d && o < outer; o++)
        for (int i = 0; i < inner; i++)
            for (int k = 0; k < c; k++)
                d[((size_t)o * (size_t)c + (size_t)k) * (size_t)inner + (size_t)i] =
                    x[((size_t)o * (size_t)inner + (size_t)i) * (size_t)c + (size_t)k];
    return d;
}

static void put_back(float *x, const double *d, int outer, int inner, int c, bool add)
{
    for (int o = 0; o < outer; o++)
        for (int i = 0; i < inner; i++)
            for (int k = 0; k < c; k++) {
                size_t at = ((size_t)o * (size_t)inner + (size_t)i) * (size_t)c + (size_t)k;
                float v = (float)d[((size_t)o * (size_t)c + (size_t)k) * (size_t)inner + (size_t)i];
                x[at] = add ? x[at] + v : v;
            }
}

/* ---- convolutions ----------------------------------------------------------------------------------------
 */

enum pass { FORWARD, DX, DW };

typedef struct call {
    hr_cuda_conv_shape s;
    enum pass pass;
    int n;
    const float *x, *w, *dy;
    float *out;
    void *work;
    bool add;
} call;

static void run_conv(void *arg)
{
    const call *k = arg;
    const hr_cuda_conv_shape *s = &k->s;
    int in = s->hin * s->win, out = s->hout * s->wout, taps = s->kh * s->kw;
    size_t nx = (size_t)k->n * (size_t)in * (size_t)s->ci, ny = (size_t)k->n * (size_t)out * (size_t)s->co,
           nw = (size_t)taps * (size_t)s->ci * (size_t)s->co;
    double *x = k->x ? planes(k->x, k->n, in, s->ci) : calloc(nx, sizeof *x);
    double *w = k->w ? planes(k->w, s->co, taps, s->ci) : calloc(nw, sizeof *w);
    double *y = k->dy ? planes(k->dy, k->n, out, s->co) : calloc(ny, sizeof *y);
    double *dx = k->pass == DX ? calloc(nx, sizeof *dx) : NULL,
           *dw = k->pass == DW ? calloc(nw, sizeof *dw) : NULL;
    hr_node node = {.kh = s->kh, .kw = s->kw, .stride = s->stride, .pad = s->pad};
    ref_op op = {.node = &node,
                 .N = k->n,
                 .I = s->ci,
                 .H = s->hin,
                 .W = s->win,
                 .O = s->co,
                 .P = s->hout,
                 .Q = s->wout,
                 .x = {x},
                 .y = y,
                 .dx = {dx},
                 .dy = y,
                 .param = {w},
                 .grad = {dw}};
    if (!x || !w || !y || (k->pass == DX && !dx) || (k->pass == DW && !dw))
        abort();
    memset(k->work, 0x7F, WORK);
    if (k->pass == FORWARD)
        ref_kernels[HR_OP_CONV2D].forward(&op);
    else
        ref_kernels[HR_OP_CONV2D].backward(&op);
    if (k->pass == FORWARD)
        put_back(k->out, y, k->n, out, s->co, false);
    else if (k->pass == DX)
        put_back(k->out, dx, k->n, in, s->ci, k->add);
    else
        put_back(k->out, dw, s->co, taps, s->ci, false);
    free(x);
    free(w);
    free(y);
    free(dx);
    free(dw);
}

static int queue_conv(hr_vendor *v, const hr_vendor_conv *c, call k, const char **what)
{
    k.s = c->s;
    *what = k.pass == DW && !c->dw ? "weight gradients were not planned" : "more images than were planned";
    if (k.n > c->batch || (k.pass == DW && !c->dw))
        return -1;
    shim_queue_call(v->stream, run_conv, &k, sizeof k);
    return 0;
}

int hr_vendor_forward(hr_vendor *v, hr_vendor_conv *c, int n, const float *x, const float *w, float *y,
                      void *work, const char **what)
{
    return queue_conv(v, c, (call){.pass = FORWARD, .n = n, .x = x, .w = w, .out = y, .work = work}, what);
}

int hr_vendor_dx(hr_vendor *v, hr_vendor_conv *c, int n, const float *dy, const float *w, float *dx, bool add,
                 void *work, const char **what)
{
    return queue_conv(v, c, (call){.pass = DX, .n = n, .dy = dy, .w = w, .out = dx, .add = add, .work = work},
                      what);
}

int hr_vendor_dw(hr_vendor *v, hr_vendor_conv *c, int n, const float *x, const float *dy, float *dw,
                 void *work, const char **what)
{
    return queue_conv(v, c, (call){.pass = DW, .n = n, .x = x, .dy = dy, .out = dw, .work = work}, what);
}

/* ---- matrix products -------------------------------------------------------------------------------------
 */

typedef struct product {
    bool ta, tb, add;
    int m, n, k;
    const float *a, *b;
    float *c;
} product;

static void run_product(void *arg)
{
    const product *p = arg;
    for (int i = 0; i < p->m; i++)
        for (int j = 0; j < p->n; j++) {
            double sum = 0;
            for (int l = 0; l < p->k; l++)
                sum +=
                    (double)p->a[p->ta ? (size_t)l * (size_t)p->m + (size_t)i
                                       : (size_t)i * (size_t)p->k + (size_t)l] *
                    p->b[p->tb ? (size_t)j * (size_t)p->k + (size_t)l : (size_t)l * (size_t)p->n + (size_t)j];
            float *c = p->c + (size_t)i * (size_t)p->n + j;
            *c = p->add ? *c + (float)sum : (float)sum;
        }
}

int hr_vendor_gemm(hr_vendor *v, bool ta, bool tb, int m, int n, int k, const float *a, const float *b,
                   float *c, bool add, const char **what)
{
    product p = {ta, tb, add, m, n, k, a, b, c};
    (void)what;
    shim_queue_call(v->stream, run_product, &p, sizeof p);
    return 0;
}
