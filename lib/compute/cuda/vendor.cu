/* lib/compute/cuda/vendor.cu -- cuDNN and cuBLAS behind vendor.h. Nobody has run this file on a device yet:
 * the tests link test/shim/vendor.c in its place.
 *
 * cuDNN sees NHWC tensors (N,C,H,W in its descriptors) and KRSC filters. Its algorithms are chosen by its own
 * heuristics, without trial runs, for one number of images; when that number changes (a data set's last
 * batch) they are chosen anew within the work memory that there is. */
#include "vendor.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cudnn.h>

#include <cstdlib>

enum { CUBLAS_WORK = 32 << 20 }; /* its own, so that graphs may hold its calls */

struct hr_vendor {
    cudnnHandle_t dnn;
    cublasHandle_t blas;
    void *blas_work;
    unsigned flags;
};

struct hr_vendor_conv {
    hr_vendor *v;
    hr_cuda_conv_shape s;
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t fwd, dx, dw; /* each with the math type of its algorithm */
    cudnnConvolutionFwdAlgo_t fwd_algo;
    cudnnConvolutionBwdDataAlgo_t dx_algo;
    cudnnConvolutionBwdFilterAlgo_t dw_algo;
    int n;       /* images that the algorithms were chosen for */
    size_t work; /* bytes of work memory */
    bool wants_dw;
};

static int failed(cudnnStatus_t rc, const char **what)
{
    if (rc == CUDNN_STATUS_SUCCESS)
        return 0;
    *what = cudnnGetErrorString(rc);
    return -1;
}

static int refused(cublasStatus_t rc, const char **what)
{
    if (rc == CUBLAS_STATUS_SUCCESS)
        return 0;
    *what = cublasGetStatusString(rc);
    return -1;
}

hr_vendor *hr_vendor_open(void *stream, unsigned flags, const char **what)
{
    hr_vendor *v = (hr_vendor *)calloc(1, sizeof *v);
    cudaStream_t s = (cudaStream_t)stream;
    cublasMath_t math = flags & HR_CUDA_TF32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_PEDANTIC_MATH;
    *what = "the host has no memory left";
    if (!v)
        return nullptr;
    v->flags = flags;
    if (failed(cudnnCreate(&v->dnn), what) || failed(cudnnSetStream(v->dnn, s), what) ||
        refused(cublasCreate(&v->blas), what) || refused(cublasSetStream(v->blas, s), what) ||
        refused(cublasSetMathMode(v->blas, math), what)) {
        hr_vendor_close(v);
        return nullptr;
    }
    if (cudaMalloc(&v->blas_work, CUBLAS_WORK) != cudaSuccess) {
        *what = "out of memory (for cuBLAS)";
        hr_vendor_close(v);
        return nullptr;
    }
    if (refused(cublasSetWorkspace(v->blas, v->blas_work, CUBLAS_WORK), what)) {
        hr_vendor_close(v);
        return nullptr;
    }
    return v;
}

void hr_vendor_close(hr_vendor *v)
{
    if (!v)
        return;
    if (v->blas)
        cublasDestroy(v->blas);
    if (v->dnn)
        cudnnDestroy(v->dnn);
    if (v->blas_work)
        cudaFree(v->blas_work);
    free(v);
}

/* The first of the proposals, fastest first, that may be used; -1: there is none. */
template <class perf> static int choose(const hr_vendor *v, const perf *p, int n, size_t room)
{
    for (int i = 0; i < n; i++) {
        bool exact = p[i].determinism == CUDNN_DETERMINISTIC || (v->flags & HR_CUDA_FAST);
        bool plain = p[i].mathType == CUDNN_FMA_MATH || (v->flags & HR_CUDA_TF32);
        if (p[i].status == CUDNN_STATUS_SUCCESS && exact && plain && p[i].memory <= room)
            return i;
    }
    return -1;
}

enum { PROPOSALS = 16 };

template <class perf, class algo>
static int take(hr_vendor_conv *c, const perf *p, int n, size_t room, algo *chosen,
                cudnnConvolutionDescriptor_t conv, const char **what)
{
    int i = choose(c->v, p, n, room);
    if (i < 0) {
        *what = "cuDNN has no algorithm for this shape that may be used; --fast allows more";
        return -1;
    }
    *chosen = p[i].algo;
    c->work = p[i].memory > c->work ? p[i].memory : c->work;
    return failed(cudnnSetConvolutionMathType(conv, p[i].mathType), what);
}

/* Descriptors and algorithms for n images, with at most `room` bytes of work memory. */
static int settle(hr_vendor_conv *c, int n, size_t room, const char **what)
{
    const hr_cuda_conv_shape *s = &c->s;
    cudnnConvolutionFwdAlgoPerf_t f[PROPOSALS];
    cudnnConvolutionBwdDataAlgoPerf_t d[PROPOSALS];
    cudnnConvolutionBwdFilterAlgoPerf_t g[PROPOSALS];
    int got = 0;
    hr_vendor *v = c->v;
    if (failed(
            cudnnSetTensor4dDescriptor(c->x, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, n, s->ci, s->hin, s->win),
            what) ||
        failed(
            cudnnSetTensor4dDescriptor(c->y, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, n, s->co, s->hout, s->wout),
            what))
        return -1;
    if (failed(cudnnGetConvolutionForwardAlgorithm_v7(v->dnn, c->x, c->w, c->fwd, c->y, PROPOSALS, &got, f),
               what) ||
        take(c, f, got, room, &c->fwd_algo, c->fwd, what))
        return -1;
    if (failed(
            cudnnGetConvolutionBackwardDataAlgorithm_v7(v->dnn, c->w, c->y, c->dx, c->x, PROPOSALS, &got, d),
            what) ||
        take(c, d, got, room, &c->dx_algo, c->dx, what))
        return -1;
    if (c->wants_dw && (failed(cudnnGetConvolutionBackwardFilterAlgorithm_v7(v->dnn, c->x, c->y, c->dw, c->w,
                                                                             PROPOSALS, &got, g),
                               what) ||
                        take(c, g, got, room, &c->dw_algo, c->dw, what)))
        return -1;
    c->n = n;
    return 0;
}

static int describe(const hr_vendor *v, cudnnConvolutionDescriptor_t *conv, const hr_cuda_conv_shape *s,
                    const char **what)
{
    return failed(cudnnCreateConvolutionDescriptor(conv), what) ||
           failed(cudnnSetConvolution2dDescriptor(*conv, s->pad, s->pad, s->stride, s->stride, 1, 1,
                                                  CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
                  what) ||
           failed(cudnnSetConvolutionMathType(*conv,
                                              v->flags & HR_CUDA_TF32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH),
                  what);
}

hr_vendor_conv *hr_vendor_conv_new(hr_vendor *v, const hr_cuda_conv_shape *s, int batch, bool dw,
                                   size_t *work, const char **what)
{
    hr_vendor_conv *c = (hr_vendor_conv *)calloc(1, sizeof *c);
    *what = "the host has no memory left";
    if (!c)
        return nullptr;
    c->v = v;
    c->s = *s;
    c->wants_dw = dw;
    if (failed(cudnnCreateTensorDescriptor(&c->x), what) ||
        failed(cudnnCreateTensorDescriptor(&c->y), what) ||
        failed(cudnnCreateFilterDescriptor(&c->w), what) ||
        failed(
            cudnnSetFilter4dDescriptor(c->w, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, s->co, s->ci, s->kh, s->kw),
            what) ||
        describe(v, &c->fwd, s, what) || describe(v, &c->dx, s, what) || describe(v, &c->dw, s, what) ||
        settle(c, batch, HR_VENDOR_WORK, what)) {
        hr_vendor_conv_free(c);
        return nullptr;
    }
    *work = c->work;
    return c;
}

void hr_vendor_conv_free(hr_vendor_conv *c)
{
    if (!c)
        return;
    cudnnConvolutionDescriptor_t convs[] = {c->fwd, c->dx, c->dw};
    for (cudnnConvolutionDescriptor_t conv : convs)
        if (conv)
            cudnnDestroyConvolutionDescriptor(conv);
    if (c->w)
        cudnnDestroyFilterDescriptor(c->w);
    if (c->x)
        cudnnDestroyTensorDescriptor(c->x);
    if (c->y)
        cudnnDestroyTensorDescriptor(c->y);
    free(c);
}

static int ready(hr_vendor_conv *c, int n, const char **what)
{
    return n == c->n ? 0 : settle(c, n, c->work, what);
}

int hr_vendor_forward(hr_vendor *v, hr_vendor_conv *c, int n, const float *x, const float *w, float *y,
                      void *work, const char **what)
{
    const float one = 1.0f, none = 0.0f;
    if (ready(c, n, what))
        return -1;
    return failed(cudnnConvolutionForward(v->dnn, &one, c->x, x, c->w, w, c->fwd, c->fwd_algo, work, c->work,
                                          &none, c->y, y),
                  what);
}

int hr_vendor_dx(hr_vendor *v, hr_vendor_conv *c, int n, const float *dy, const float *w, float *dx, bool add,
                 void *work, const char **what)
{
    const float one = 1.0f, keep = add ? 1.0f : 0.0f;
    if (ready(c, n, what))
        return -1;
    return failed(cudnnConvolutionBackwardData(v->dnn, &one, c->w, w, c->y, dy, c->dx, c->dx_algo, work,
                                               c->work, &keep, c->x, dx),
                  what);
}

int hr_vendor_dw(hr_vendor *v, hr_vendor_conv *c, int n, const float *x, const float *dy, float *dw,
                 void *work, const char **what)
{
    const float one = 1.0f, none = 0.0f;
    if (ready(c, n, what))
        return -1;
    return failed(cudnnConvolutionBackwardFilter(v->dnn, &one, c->x, x, c->y, dy, c->dw, c->dw_algo, work,
                                                 c->work, &none, c->w, dw),
                  what);
}

/* cuBLAS is column-major: the row-major product c = a b is its c' = b' a'. */
int hr_vendor_gemm(hr_vendor *v, bool ta, bool tb, int m, int n, int k, const float *a, const float *b,
                   float *c, bool add, const char **what)
{
    const float one = 1.0f, keep = add ? 1.0f : 0.0f;
    return refused(cublasSgemm(v->blas, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, n, m,
                               k, &one, b, tb ? k : n, a, ta ? m : k, &keep, c, n),
                   what);
}
