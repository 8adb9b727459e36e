/* lib/train/hydra.c -- HYDRA's importance scores: where they start, the mask they mean, their gradient.
 * train.h states the formulas; Sehwag et al. 2020 (arXiv:2002.10509) section 3.1 and their released code. */
#include "train/train.h"

#include <math.h>

void hr_hydra_init(float *s, const float *w, const hr_layer *l, enum hr_reg reg)
{
    int64_t n = hr_score_count(l, reg);
    double fan = (double)l->in;
    if (reg == HR_REG_WEIGHT) {
        fan *= l->kh * l->kw;
        for (int64_t i = 0; i < n; i++)
            s[i] = w[i];
    } else {
        hr_score_weights(w, l, reg, HR_SCORE_L1, s);
    }
    float top = 0.0f;
    for (int64_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(s[i]));
    float scale = (float)sqrt(6.0 / fan);
    for (int64_t i = 0; i < n && top > 0.0f; i++)
        s[i] = scale * s[i] / top;
}

const char *const hr_scores_names[8] = {
    "scaled", "random", "kaiming-uniform", "kaiming-normal", "xavier-uniform", "xavier-normal", "snip", NULL};

void hr_hydra_scores(float *s, const float *w, const hr_layer *l, enum hr_reg reg, enum hr_scores how,
                     uint32_t seed, uint32_t number)
{
    bool weight = reg == HR_REG_WEIGHT;
    double taps = weight ? (double)l->kh * l->kw : 1.0;
    double in = l->in * taps, out = weight ? l->out * taps : 1.0;
    double bound = 0, deviation = 0;
    switch (how) {
    case HR_SCORES_SCALED:
    case HR_SCORES_SNIP:
        hr_hydra_init(s, w, l, reg);
        return;
    case HR_SCORES_RANDOM:
        bound = sqrt(1.0 / in);
        break;
    case HR_SCORES_KAIMING_UNIFORM:
        bound = sqrt(6.0 / in);
        break;
    case HR_SCORES_KAIMING_NORMAL:
        deviation = sqrt(2.0 / in);
        break;
    case HR_SCORES_XAVIER_UNIFORM:
        bound = sqrt(12.0 / (in + out));
        break;
    case HR_SCORES_XAVIER_NORMAL:
        deviation = sqrt(4.0 / (in + out));
        break;
    }
    size_t n = (size_t)hr_score_count(l, reg);
    if (bound > 0)
        hr_fill_uniform(s, n, (float)-bound, (float)bound, seed, HR_STREAM_SCORES, number, 0, 0);
    else
        hr_fill_normal(s, n, 0.0f, (float)deviation, seed, HR_STREAM_SCORES, number, 0, 0);
}

void hr_hydra_mask(const float *s, const hr_layer *l, enum hr_reg reg, int64_t kept, uint8_t *mask)
{
    hr_topk_magnitudes(s, hr_score_count(l, reg), kept, mask);
}

static float sign(float v)
{
    return (float)((v > 0.0f) - (v < 0.0f));
}

void hr_hydra_grad(float *ds, const float *dw_eff, const float *w, const float *s, const hr_layer *l,
                   enum hr_reg reg)
{
    if (reg == HR_REG_WEIGHT) {
        for (int64_t i = 0; i < l->n; i++)
            ds[i] = sign(s[i]) * dw_eff[i] * w[i];
        return;
    }
    int area = l->kh * l->kw;
    for (int i = 0; i < l->in; i++) {
        double sum = 0.0;
        for (int o = 0; o < l->out; o++) {
            int64_t at = ((int64_t)o * l->in + i) * area;
            for (int k = 0; k < area; k++)
                sum += (double)dw_eff[at + k] * w[at + k];
        }
        ds[i] = sign(s[i]) * (float)sum;
    }
}
