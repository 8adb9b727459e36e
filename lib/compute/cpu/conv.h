/* lib/compute/cpu/conv.h -- one convolution (or linear layer: a 1x1 convolution on a 1x1 map), planned for
 * the kernels in use. All calls work on a chunk of `ns` samples, NHWC, on the calling thread. */
#ifndef HR_COMPUTE_CPU_CONV_H
#define HR_COMPUTE_CPU_CONV_H

#include <stdint.h>

#include "compute/compute.h"
#include "compute/cpu/wino.h"

/* Input pixels whose gradient takes the same kernel positions: (ih + pad) % stride and (iw + pad) % stride
 * agree. */
typedef struct hr_conv_class {
    int ntaps, npix;
    int *tap;      /* (ntaps) kernel position kh*KW + kw */
    int32_t *pix;  /* (npix) input pixel */
    int32_t *off;  /* (npix, ntaps) offset of the output pixel in a sample's dy, or -1 outside the map */
    size_t packed; /* where its panels begin in wb */
} hr_conv_class;

/* How a pass is computed; hr_conv_plan decides, once per layer and pass. */
enum hr_conv_kernel {
    HR_CONV_GEMM,   /* implicit GEMM: rows are pointed at */
    HR_CONV_IM2COL, /* few input channels: rows are copied together */
    HR_CONV_WINO2,  /* Winograd F(2x2,3x3) */
    HR_CONV_WINO4,  /* Winograd F(4x4,3x3) */
    HR_CONV_KERNELS
};
extern const char *const hr_conv_kernel_names[HR_CONV_KERNELS];

typedef struct hr_conv {
    int ci, co, kh, kw, stride, pad, hin, win, hout, wout;
    bool exact; /* no Winograd kernels */
    int taps;
    enum hr_conv_kernel kernel[HR_PASSES];
    size_t bytes; /* memory that the plan took */
    bool gather;  /* few input channels: rows are gathered (im2col) instead of pointed at */
    bool plain;   /* 1x1, stride 1, no padding: row r of the output is row r of the input */
    int panel_f;  /* columns of a packed panel, forward (output channels) ... */
    int panel_b;  /* ... and backward (input channels, or taps*ci when gathering) */
    int32_t *off; /* (hout*wout, taps) offset of the input pixel in a sample, or -1 in the padding */
    int nclass;
    hr_conv_class *cls; /* not when gathering */
    float *wf, *wb;     /* packed weights */
    size_t wf_len, wb_len;
    hr_wino fwd, bwd; /* forward and dx by Winograd's algorithm, or empty */
} hr_conv;

/* Plan c, whose geometry fields (first two lines of the struct) are set. wants_dx: make the backward tables
 * too.
 */
void hr_conv_plan(hr_conv *c, const hr_kernels *k, bool wants_dx);
void hr_conv_release(hr_conv *c);
/* Pack weights w (co, ci, kh, kw), torch layout, for the forward pass or for dx: the one or the other, which
 * two threads may do at the same time. */
void hr_conv_pack(hr_conv *c, const hr_kernels *k, const float *w, enum hr_pass pass);

/* Bytes of scratch that a thread needs for c; dw: for hr_conv_dw, too. */
size_t hr_conv_scratch(const hr_conv *c, const hr_kernels *k, bool dw);
/* The Winograd layer that pass (forward or dx) is, if it is a wide one; else NULL. */
const hr_wino *hr_conv_wide(const hr_conv *c, enum hr_pass pass);
/* y (ns,hout,wout,co) = conv(x (ns,hin,win,ci)), then the epilogue. */
void hr_conv_forward(const hr_conv *c, const hr_kernels *k, const float *x, int ns, float *y,
                     const hr_epilogue *e, void *scratch);
/* dx (+)= transposed conv of dy, then the epilogue's gate and slope; the gate not for few input channels. */
void hr_conv_dx(const hr_conv *c, const hr_kernels *k, const float *dy, int ns, float *dx,
                const hr_epilogue *e, bool add, void *scratch);
/* Rows [r0,r1) of taps*ci and columns [o0,o1) of co: part (r1-r0, o1-o0) = sum over the chunk's pixels of x
 * times dy; all of them where the kernel is one of Winograd's. Blocks of HR_DW_ROWS, within a tap, by
 * HR_DW_COLUMNS are what it works in. */
enum { HR_DW_ROWS = 256, HR_DW_COLUMNS = 128 };
void hr_conv_dw(const hr_conv *c, const hr_kernels *k, const float *x, const float *dy, int ns, int r0,
                int r1, int o0, int o1, float *part, void *scratch);

#endif
