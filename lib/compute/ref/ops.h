/* lib/compute/ref/ops.h -- the operations of the oracle; private to lib/compute/ref.
 *
 * Sizes are called as in the formulas: N samples, I input channels of H x W, O output channels of P x Q. */
#ifndef HR_REF_OPS_H
#define HR_REF_OPS_H

#include "compute/compute.h"

/* A node during one pass. forward() overwrites y; backward() ADDS to dx and grad, since several nodes may
 * read one tensor, and reads what forward left in x, y, mean and inv. */
typedef struct ref_op {
    const hr_node *node;
    int N, I, H, W, O, P, Q;
    const double *x[2];        /* (N,I,H,W) */
    double *y;                 /* (N,O,P,Q) */
    double *dx[2];             /* (N,I,H,W); a convolution's may be NULL: not wanted */
    double *dy;                /* (N,O,P,Q) */
    double *param[HR_P_COUNT]; /* NULL where there is none */
    double *grad[HR_P_COUNT];  /* NULL for running statistics; a convolution's weight's may be: not wanted */
    double *mean, *inv;        /* (O), batchnorm: what x was normalised with; inv = 1 / sqrt(var + eps) */
    enum hr_bn_mode bn;
} ref_op;

typedef struct ref_kernel {
    void (*forward)(ref_op *op);
    void (*backward)(ref_op *op);
} ref_kernel;
extern const ref_kernel ref_kernels[HR_OP_COUNT]; /* all but HR_OP_INPUT */

#endif
