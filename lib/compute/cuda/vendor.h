/* lib/compute/cuda/vendor.h -- the narrow interface in front of cuDNN and cuBLAS.
 *
 * Nothing else in the plug-in knows these libraries. vendor.cu puts the real ones behind it; the tests put
 * the oracle's plain loops behind it (test/shim/vendor.c), so that what is around the matrix products can be
 * proven without a GPU. Functions return 0, or leave a sentence in *what and return -1. Layouts as in
 * plugin.h.
 *
 * Algorithms. Of those that cuDNN proposes for a shape, fastest first, the first is taken that it calls
 * deterministic (any with HR_CUDA_FAST), whose products are not rounded to TF32 (unless HR_CUDA_TF32), and
 * whose work memory stays below HR_VENDOR_WORK. The choice depends on the device and on cuDNN's version: two
 * devices may differ in the last bits, one device repeats itself. */
#ifndef HR_CUDA_VENDOR_H
#define HR_CUDA_VENDOR_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HR_VENDOR_WORK = 512 << 20 }; /* bytes of work memory of one convolution, at most */

typedef struct hr_vendor hr_vendor;
typedef struct hr_vendor_conv hr_vendor_conv;

/* stream: a cudaStream_t; *what receives a string that lives as long as the process. */
hr_vendor *hr_vendor_open(void *stream, unsigned flags, const char **what);
void hr_vendor_close(hr_vendor *v); /* NULL is allowed */

/* Choose the algorithms of a convolution for batches of up to `batch`; *work receives the work memory that
 * they need. NULL: trouble. */
hr_vendor_conv *hr_vendor_conv_new(hr_vendor *v, const hr_cuda_conv_shape *s, int batch, bool dw,
                                   size_t *work, const char **what);
void hr_vendor_conv_free(hr_vendor_conv *c); /* NULL is allowed */
int hr_vendor_forward(hr_vendor *v, hr_vendor_conv *c, int n, const float *x, const float *w, float *y,
                      void *work, const char **what);
int hr_vendor_dx(hr_vendor *v, hr_vendor_conv *c, int n, const float *dy, const float *w, float *dx, bool add,
                 void *work, const char **what);
int hr_vendor_dw(hr_vendor *v, hr_vendor_conv *c, int n, const float *x, const float *dy, float *dw,
                 void *work, const char **what);

/* Row-major c (m,n) = op(a) op(b) + (add ? c : 0), inner length k; ta: a is (k,m); tb: b is (n,k). */
int hr_vendor_gemm(hr_vendor *v, bool ta, bool tb, int m, int n, int k, const float *a, const float *b,
                   float *c, bool add, const char **what);

#ifdef __cplusplus
}
#endif
#endif
