/* lib/compute/ref/ops.c -- forward and backward of every operation, as the formulas say.
 *
 * Arrays are NCHW. Above each loop stands its formula; sums run over the indices that appear on the right
 * only. In a convolution x is zero outside of the image. */
#include "compute/ref/ops.h"

#include <math.h>

static size_t at(size_t n, size_t c, size_t C, size_t plane)
{
    return (n * C + c) * plane; /* offset of channel c of sample n */
}

/* Output positions [lo,hi) whose tap r falls inside of an axis of length H: 0 <= p*stride + r - pad < H. */
static void valid(int H, int P, int r, const hr_node *nd, int *lo, int *hi)
{
    int first = nd->pad - r, last = H - 1 + nd->pad - r;
    *lo = first > 0 ? (first + nd->stride - 1) / nd->stride : 0;
    *hi = last < 0 ? 0 : last / nd->stride + 1;
    if (*hi > P)
        *hi = P;
}

/* Is this worth waking other threads for? Most tests are much smaller than that. */
static bool heavy(const ref_op *op, size_t per_output)
{
    return (size_t)op->N * op->O * op->P * op->Q * per_output > 200000;
}

/* ---- conv2d ------------------------------------------------------------------------------------------ */

/* y[n,o,p,q] = b[o] + sum w[o,i,r,s] x[n,i, p stride + r - pad, q stride + s - pad] */
static void conv_forward(ref_op *op)
{
    const hr_node *nd = op->node;
    const double *w = op->param[HR_P_WEIGHT], *b = op->param[HR_P_BIAS];
    const int I = op->I, H = op->H, W = op->W, P = op->P, Q = op->Q, st = nd->stride;
#pragma omp parallel for collapse(2) if (heavy(op, (size_t)I * nd->kh * nd->kw))
    for (int n = 0; n < op->N; n++) {
        for (int o = 0; o < op->O; o++) {
            double *y = op->y + at(n, o, op->O, (size_t)P * Q);
            for (int k = 0; k < P * Q; k++)
                y[k] = b ? b[o] : 0;
            for (int i = 0; i < I; i++) {
                const double *x = op->x[0] + at(n, i, I, (size_t)H * W);
                for (int r = 0; r < nd->kh; r++) {
                    for (int s = 0; s < nd->kw; s++) {
                        double v = w[(((size_t)o * I + i) * nd->kh + r) * nd->kw + s];
                        int p0, p1, q0, q1;
                        valid(H, P, r, nd, &p0, &p1);
                        valid(W, Q, s, nd, &q0, &q1);
                        for (int p = p0; p < p1; p++)
                            for (int q = q0; q < q1; q++)
                                y[p * Q + q] += v * x[(p * st + r - nd->pad) * W + q * st + s - nd->pad];
                    }
                }
            }
        }
    }
}

static void conv_backward(ref_op *op)
{
    const hr_node *nd = op->node;
    const double *w = op->param[HR_P_WEIGHT];
    double *dw = op->grad[HR_P_WEIGHT], *db = op->grad[HR_P_BIAS];
    const int I = op->I, H = op->H, W = op->W, O = op->O, P = op->P, Q = op->Q, st = nd->stride;
    /* dx[n,i, p stride + r - pad, q stride + s - pad] += w[o,i,r,s] dy[n,o,p,q] */
#pragma omp parallel for collapse(2) if (heavy(op, (size_t)I * nd->kh * nd->kw))
    for (int n = 0; n < (op->dx[0] ? op->N : 0); n++) {
        for (int i = 0; i < I; i++) {
            double *dx = op->dx[0] + at(n, i, I, (size_t)H * W);
            for (int o = 0; o < O; o++) {
                const double *dy = op->dy + at(n, o, O, (size_t)P * Q);
                for (int r = 0; r < nd->kh; r++) {
                    for (int s = 0; s < nd->kw; s++) {
                        double v = w[(((size_t)o * I + i) * nd->kh + r) * nd->kw + s];
                        int p0, p1, q0, q1;
                        valid(H, P, r, nd, &p0, &p1);
                        valid(W, Q, s, nd, &q0, &q1);
                        for (int p = p0; p < p1; p++)
                            for (int q = q0; q < q1; q++)
                                dx[(p * st + r - nd->pad) * W + q * st + s - nd->pad] += v * dy[p * Q + q];
                    }
                }
            }
        }
    }
    /* dw[o,i,r,s] += dy[n,o,p,q] x[n,i, p stride + r - pad, q stride + s - pad]      db[o] += dy[n,o,p,q] */
#pragma omp parallel for if (heavy(op, (size_t)I * nd->kh * nd->kw))
    for (int o = 0; o < (dw ? O : 0); o++) {
        for (int n = 0; n < op->N; n++) {
            const double *dy = op->dy + at(n, o, O, (size_t)P * Q);
            for (int k = 0; db && k < P * Q; k++)
                db[o] += dy[k];
            for (int i = 0; i < I; i++) {
                const double *x = op->x[0] + at(n, i, I, (size_t)H * W);
                for (int r = 0; r < nd->kh; r++) {
                    for (int s = 0; s < nd->kw; s++) {
                        double sum = 0;
                        int p0, p1, q0, q1;
                        valid(H, P, r, nd, &p0, &p1);
                        valid(W, Q, s, nd, &q0, &q1);
                        for (int p = p0; p < p1; p++)
                            for (int q = q0; q < q1; q++)
                                sum += dy[p * Q + q] * x[(p * st + r - nd->pad) * W + q * st + s - nd->pad];
                        dw[(((size_t)o * I + i) * nd->kh + r) * nd->kw + s] += sum;
                    }
                }
            }
        }
    }
}

/* ---- linear ------------------------------------------------------------------------------------------ */

/* y[n,o] = b[o] + sum w[o,i] x[n,i] */
static void linear_forward(ref_op *op)
{
    const double *w = op->param[HR_P_WEIGHT], *b = op->param[HR_P_BIAS];
#pragma omp parallel for if (heavy(op, op->I))
    for (int o = 0; o < op->O; o++) {
        for (int n = 0; n < op->N; n++) {
            double sum = b ? b[o] : 0;
            for (int i = 0; i < op->I; i++)
                sum += w[(size_t)o * op->I + i] * op->x[0][(size_t)n * op->I + i];
            op->y[(size_t)n * op->O + o] = sum;
        }
    }
}

static void linear_backward(ref_op *op)
{
    const double *w = op->param[HR_P_WEIGHT];
    double *dw = op->grad[HR_P_WEIGHT], *db = op->grad[HR_P_BIAS];
    /* dx[n,i] += w[o,i] dy[n,o] */
#pragma omp parallel for if (heavy(op, op->I))
    for (int n = 0; n < op->N; n++)
        for (int o = 0; o < op->O; o++)
            for (int i = 0; i < op->I; i++)
                op->dx[0][(size_t)n * op->I + i] += w[(size_t)o * op->I + i] * op->dy[(size_t)n * op->O + o];
                /* dw[o,i] += dy[n,o] x[n,i]      db[o] += dy[n,o] */
#pragma omp parallel for if (heavy(op, op->I))
    for (int o = 0; o < op->O; o++) {
        for (int n = 0; n < op->N; n++) {
            double dy = op->dy[(size_t)n * op->O + o];
            for (int i = 0; i < op->I; i++)
                dw[(size_t)o * op->I + i] += dy * op->x[0][(size_t)n * op->I + i];
            if (db)
                db[o] += dy;
        }
    }
}

/* ---- batchnorm --------------------------------------------------------------------------------------- */

static bool constant_statistics(const ref_op *op)
{
    return op->bn == HR_BN_FOLDED || op->bn == HR_BN_RUNNING;
}

/* Mean and biased variance of channel c over the samples and the plane. Two passes: no cancellation. */
static void batch_moments(const ref_op *op, int c, double *mean, double *var)
{
    size_t plane = (size_t)op->H * op->W, count = op->N * plane;
    double sum = 0, sq = 0;
    for (int n = 0; n < op->N; n++)
        for (size_t k = 0; k < plane; k++)
            sum += op->x[0][at(n, c, op->I, plane) + k];
    *mean = sum / count;
    for (int n = 0; n < op->N; n++) {
        for (size_t k = 0; k < plane; k++) {
            double d = op->x[0][at(n, c, op->I, plane) + k] - *mean;
            sq += d * d;
        }
    }
    *var = sq / count;
}

/* y = g xhat + b,  xhat = (x - mean) / sqrt(var + eps), per channel (Ioffe and Szegedy 2015,
 * arXiv:1502.03167, algorithm 1; the running variance is moved by the unbiased one, as PyTorch does) */
static void batchnorm_forward(ref_op *op)
{
    const double *g = op->param[HR_P_WEIGHT], *b = op->param[HR_P_BIAS];
    double *rmean = op->param[HR_P_MEAN], *rvar = op->param[HR_P_VAR];
    const size_t plane = (size_t)op->H * op->W, count = op->N * plane;
    const double mom = op->node->bn_momentum;
#pragma omp parallel for if (heavy(op, 10))
    for (int c = 0; c < op->I; c++) {
        double mean = rmean[c], var = rvar[c];
        if (!constant_statistics(op))
            batch_moments(op, c, &mean, &var);
        if (op->bn == HR_BN_BATCH_UPDATE) {
            rmean[c] = (1 - mom) * rmean[c] + mom * mean;
            if (count > 1)
                rvar[c] = (1 - mom) * rvar[c] + mom * var * count / (count - 1);
        }
        op->mean[c] = mean;
        op->inv[c] = 1 / sqrt(var + op->node->bn_eps);
        for (int n = 0; n < op->N; n++) {
            const double *x = op->x[0] + at(n, c, op->I, plane);
            double *y = op->y + at(n, c, op->I, plane);
            for (size_t k = 0; k < plane; k++)
                y[k] = g[c] * (x[k] - mean) * op->inv[c] + b[c];
        }
    }
}

static void batchnorm_backward(ref_op *op)
{
    const double *g = op->param[HR_P_WEIGHT];
    const size_t plane = (size_t)op->H * op->W, count = op->N * plane;
#pragma omp parallel for if (heavy(op, 10))
    for (int c = 0; c < op->I; c++) {
        double db = 0, dg = 0; /* db = sum dy      dg = sum dy xhat */
        for (int n = 0; n < op->N; n++) {
            const double *x = op->x[0] + at(n, c, op->I, plane), *dy = op->dy + at(n, c, op->I, plane);
            for (size_t k = 0; k < plane; k++) {
                db += dy[k];
                dg += dy[k] * (x[k] - op->mean[c]) * op->inv[c];
            }
        }
        op->grad[HR_P_BIAS][c] += db;
        op->grad[HR_P_WEIGHT][c] += dg;
        /* constant statistics: dx = g inv dy;  batch statistics: dx = g inv (dy - db/M - xhat dg/M) */
        double through_mean = constant_statistics(op) ? 0 : db / count;
        double through_var = constant_statistics(op) ? 0 : dg / count;
        for (int n = 0; n < op->N; n++) {
            const double *x = op->x[0] + at(n, c, op->I, plane), *dy = op->dy + at(n, c, op->I, plane);
            double *dx = op->dx[0] + at(n, c, op->I, plane);
            for (size_t k = 0; k < plane; k++) {
                double xhat = (x[k] - op->mean[c]) * op->inv[c];
                dx[k] += g[c] * op->inv[c] * (dy[k] - through_mean - xhat * through_var);
            }
        }
    }
}

/* ---- elementwise ------------------------------------------------------------------------------------- */

static size_t in_len(const ref_op *op)
{
    return (size_t)op->N * op->I * op->H * op->W;
}

/* y = max(x, 0), and NaN stays NaN */
static void relu_forward(ref_op *op)
{
    for (size_t k = 0; k < in_len(op); k++)
        op->y[k] = op->x[0][k] <= 0 ? 0 : op->x[0][k];
}

static void relu_backward(ref_op *op)
{
    for (size_t k = 0; k < in_len(op); k++)
        op->dx[0][k] += op->x[0][k] <= 0 ? 0 : op->dy[k];
}

static void add_forward(ref_op *op)
{
    for (size_t k = 0; k < in_len(op); k++)
        op->y[k] = op->x[0][k] + op->x[1][k];
}

/* Both inputs may be the same node: two separate additions. */
static void add_backward(ref_op *op)
{
    for (size_t k = 0; k < in_len(op); k++) {
        op->dx[0][k] += op->dy[k];
        op->dx[1][k] += op->dy[k];
    }
}

/* y = (x - mean[c]) / std[c] */
static void normalize_forward(ref_op *op)
{
    size_t plane = (size_t)op->H * op->W;
    for (size_t k = 0; k < in_len(op); k++) {
        size_t c = k / plane % op->I;
        op->y[k] = (op->x[0][k] - op->node->mean[c]) / op->node->std[c];
    }
}

static void normalize_backward(ref_op *op)
{
    size_t plane = (size_t)op->H * op->W;
    for (size_t k = 0; k < in_len(op); k++)
        op->dx[0][k] += op->dy[k] / op->node->std[k / plane % op->I];
}

/* NCHW in memory is C,H,W order already. */
static void flatten_forward(ref_op *op)
{
    for (size_t k = 0; k < in_len(op); k++)
        op->y[k] = op->x[0][k];
}

static void flatten_backward(ref_op *op)
{
    for (size_t k = 0; k < in_len(op); k++)
        op->dx[0][k] += op->dy[k];
}

/* ---- pools ------------------------------------------------------------------------------------------- */

/* The part of the input, rows [h0,h1) and columns [w0,w1), that output position (p,q) looks at. */
struct window {
    int h0, h1, w0, w1;
};

static struct window window_of(const ref_op *op, int p, int q)
{
    const hr_node *nd = op->node;
    if (nd->op == HR_OP_ADAPTIVE_AVGPOOL) /* floor(p H / P) .. ceil((p+1) H / P) */
        return (struct window){p * op->H / op->P, ((p + 1) * op->H + op->P - 1) / op->P, q * op->W / op->Q,
                               ((q + 1) * op->W + op->Q - 1) / op->Q};
    struct window v = {p * nd->stride - nd->pad, p * nd->stride - nd->pad + nd->kh, q * nd->stride - nd->pad,
                       q * nd->stride - nd->pad + nd->kw};
    v.h0 = v.h0 < 0 ? 0 : v.h0;
    v.w0 = v.w0 < 0 ? 0 : v.w0;
    v.h1 = v.h1 > op->H ? op->H : v.h1;
    v.w1 = v.w1 > op->W ? op->W : v.w1;
    return v;
}

/* y[p,q] = mean of the window; dx += dy[p,q] / size over the window */
static void avgpool_forward(ref_op *op)
{
    for (int k = 0; k < op->N * op->I * op->P * op->Q; k++) {
        int p = k / op->Q % op->P, q = k % op->Q, nc = k / (op->P * op->Q);
        struct window v = window_of(op, p, q);
        double sum = 0;
        for (int h = v.h0; h < v.h1; h++)
            for (int w = v.w0; w < v.w1; w++)
                sum += op->x[0][((size_t)nc * op->H + h) * op->W + w];
        op->y[k] = sum / ((v.h1 - v.h0) * (v.w1 - v.w0));
    }
}

static void avgpool_backward(ref_op *op)
{
    for (int k = 0; k < op->N * op->I * op->P * op->Q; k++) {
        int p = k / op->Q % op->P, q = k % op->Q, nc = k / (op->P * op->Q);
        struct window v = window_of(op, p, q);
        for (int h = v.h0; h < v.h1; h++)
            for (int w = v.w0; w < v.w1; w++)
                op->dx[0][((size_t)nc * op->H + h) * op->W + w] +=
                    op->dy[k] / ((v.h1 - v.h0) * (v.w1 - v.w0));
    }
}

/* Index in x of the first maximum of output k's window. */
static size_t first_max(const ref_op *op, int k)
{
    int p = k / op->Q % op->P, q = k % op->Q, nc = k / (op->P * op->Q);
    struct window v = window_of(op, p, q);
    size_t best = ((size_t)nc * op->H + v.h0) * op->W + v.w0;
    for (int h = v.h0; h < v.h1; h++) {
        for (int w = v.w0; w < v.w1; w++) {
            size_t i = ((size_t)nc * op->H + h) * op->W + w;
            if (op->x[0][i] > op->x[0][best])
                best = i;
        }
    }
    return best;
}

/* y[p,q] = max of the window; dx[where the maximum is] += dy[p,q]. A window holds at least one pixel, since
 * hr_model_check wants pad <= kernel / 2. */
static void maxpool_forward(ref_op *op)
{
    for (int k = 0; k < op->N * op->I * op->P * op->Q; k++)
        op->y[k] = op->x[0][first_max(op, k)];
}

static void maxpool_backward(ref_op *op)
{
    for (int k = 0; k < op->N * op->I * op->P * op->Q; k++)
        op->dx[0][first_max(op, k)] += op->dy[k];
}

const ref_kernel ref_kernels[HR_OP_COUNT] = {
    [HR_OP_NORMALIZE] = {normalize_forward, normalize_backward},
    [HR_OP_CONV2D] = {conv_forward, conv_backward},
    [HR_OP_LINEAR] = {linear_forward, linear_backward},
    [HR_OP_BATCHNORM] = {batchnorm_forward, batchnorm_backward},
    [HR_OP_RELU] = {relu_forward, relu_backward},
    [HR_OP_ADD] = {add_forward, add_backward},
    [HR_OP_MAXPOOL] = {maxpool_forward, maxpool_backward},
    [HR_OP_AVGPOOL] = {avgpool_forward, avgpool_backward},
    [HR_OP_ADAPTIVE_AVGPOOL] = {avgpool_forward, avgpool_backward},
    [HR_OP_FLATTEN] = {flatten_forward, flatten_backward},
};
