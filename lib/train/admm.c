/* lib/train/admm.c -- pruning by the alternating direction method of multipliers.
 *
 * The weights W of every layer are to lie in the set S of tensors with at most `kept` non-zero entries (or
 * input channels). Instead of min L(W) over W in S, a copy Z in S pulls W, and U remembers how long it has
 * resisted (Zhang et al. 2018, arXiv:1804.03294; Ye et al. 2019, arXiv:1903.12561, for attacked images):
 *
 *     W   by SGD on   L(W) + sum over layers of rho/2 |W - Z + U|^2      gradient: dL/dW + rho (W - Z + U)
 *     Z   <- P(W + U)
 *     U   <- U + W - Z
 *
 * P keeps the entries of the largest magnitude, or the input channels of the largest l2 norm, and zeroes the
 * others. Z and U are constants for the gradient. (The published code lets it flow through U, and keeps
 * entries that equal its percentile without training them: ALG 10, Q28 and Q29.) */
#include "train/train.h"

#include <math.h>

void hr_admm_project(float *z, const float *v, const hr_layer *l, enum hr_reg reg, int64_t kept,
                     float *scratch, uint8_t *chosen)
{
    hr_score_weights(v, l, reg, HR_SCORE_L2, scratch);
    hr_topk_mask(scratch, hr_score_count(l, reg), kept, chosen);
    hr_mask_expand(chosen, l, reg, scratch);
    for (int64_t i = 0; i < l->n; i++)
        z[i] = scratch[i] != 0.0f ? v[i] : 0.0f;
}

void hr_admm_update(const float *w, float *z, float *u, const hr_layer *l, enum hr_reg reg, int64_t kept,
                    float *scratch, uint8_t *chosen)
{
    for (int64_t i = 0; i < l->n; i++)
        u[i] += w[i];
    hr_admm_project(z, u, l, reg, kept, scratch, chosen);
    for (int64_t i = 0; i < l->n; i++)
        u[i] -= z[i];
}

void hr_admm_gradient(float *g, const float *d, const float *w, const float *z, const float *u, size_t n,
                      float rho)
{
    for (size_t i = 0; i < n; i++)
        g[i] = d[i] + rho * (w[i] - z[i] + u[i]);
}

double hr_admm_gap(const float *w, const float *z, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)w[i] - z[i]) * ((double)w[i] - z[i]);
    return sqrt(sum);
}
