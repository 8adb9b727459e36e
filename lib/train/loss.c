/* lib/train/loss.c -- losses that look at an image and at its attacked copy together.
 *
 * Both are sums over samples of a function of two rows of logits, zn of the image and za of the copy, with
 * q = softmax(zn), p = softmax(za). Derivatives are taken with respect to both rows: neither is a constant.
 * With L(p) differentiated by p_j first, the chain through a softmax is
 *
 *     dL/dz_j = p_j (dL/dp_j - sum_k p_k dL/dp_k)
 *
 * All of it is computed in double and rounded once. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>

/* p = softmax(z), logp its logarithm, which stays finite where p underflows. */
static void softmax(const double *z, int classes, double *p, double *logp)
{
    double top = z[0], sum = 0;
    for (int c = 1; c < classes; c++)
        top = fmax(top, z[c]);
    for (int c = 0; c < classes; c++)
        sum += exp(z[c] - top);
    for (int c = 0; c < classes; c++) {
        logp[c] = z[c] - top - log(sum);
        p[c] = exp(z[c] - top) / sum;
    }
}

/* The gradient by the logits, in place of d = the gradient by the probabilities p. */
static void through_softmax(double *d, const double *p, int classes)
{
    double mean = 0;
    for (int c = 0; c < classes; c++)
        mean += p[c] * d[c];
    for (int c = 0; c < classes; c++)
        d[c] = p[c] * (d[c] - mean);
}

static double trades(const double *q, const double *logq, const double *p, const double *logp, int32_t y,
                     int classes, double beta, double *dn, double *da)
{
    double kl = 0;
    for (int c = 0; c < classes; c++)
        kl += q[c] * (logq[c] - logp[c]);
    for (int c = 0; c < classes; c++) {
        dn[c] = q[c] - (c == y) + beta * q[c] * (logq[c] - logp[c] - kl);
        da[c] = beta * (p[c] - q[c]);
    }
    return -logq[y] + beta * kl;
}

/* The published code's guards against logarithms of zero: part of the loss, and so of its gradient. */
static const double margin_guard = 1.0001, log_guard = 1e-12, weight_guard = 1.0000001;

static double mart(const double *q, const double *logq, const double *p, const double *logp, int32_t y,
                   int classes, double beta, double *dn, double *da)
{
    int other = y == 0 ? 1 : 0;
    for (int c = other + 1; c < classes; c++)
        if (c != y && p[c] > p[other])
            other = c;
    double kl = 0, weight = weight_guard - q[y], margin = margin_guard - p[other] + log_guard;
    for (int c = 0; c < classes; c++)
        kl += q[c] * (logq[c] - log(p[c] + log_guard));

    for (int c = 0; c < classes; c++)
        dn[c] = beta * (weight * (logq[c] + 1 - log(p[c] + log_guard)) - (c == y) * kl);
    through_softmax(dn, q, classes);
    for (int c = 0; c < classes; c++)
        da[c] = (c == other) / margin - beta * weight * q[c] / (p[c] + log_guard);
    through_softmax(da, p, classes);
    for (int c = 0; c < classes; c++)
        da[c] += p[c] - (c == y);
    return -logp[y] - log(margin) + beta * kl * weight;
}

double hr_loss_pair_row(enum hr_pair_loss kind, const double *zn, const double *za, int32_t y, int classes,
                        double beta, double *dn, double *da)
{
    size_t k = (size_t)classes;
    double *part = hr_xmalloc(4 * k * sizeof *part);
    double *q = part, *logq = q + k, *p = logq + k, *logp = p + k;
    softmax(zn, classes, q, logq);
    softmax(za, classes, p, logp);
    double loss = kind == HR_PAIR_TRADES ? trades(q, logq, p, logp, y, classes, beta, dn, da)
                                         : mart(q, logq, p, logp, y, classes, beta, dn, da);
    free(part);
    return loss;
}

void hr_loss_pair(enum hr_pair_loss kind, const float *zn, const float *za, const int32_t *y, int n,
                  int classes, double beta, float scale, double *loss, float *dzn, float *dza)
{
    size_t k = (size_t)classes;
    double *row = hr_xmalloc(4 * k * sizeof *row);
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * k;
        for (size_t c = 0; c < k; c++) {
            row[c] = zn[at + c];
            row[k + c] = za[at + c];
        }
        loss[i] = hr_loss_pair_row(kind, row, row + k, y[i], classes, beta, row + 2 * k, row + 3 * k);
        for (size_t c = 0; c < k; c++) {
            dzn[at + c] = (float)(scale * row[2 * k + c]);
            dza[at + c] = (float)(scale * row[3 * k + c]);
        }
    }
    free(row);
}
