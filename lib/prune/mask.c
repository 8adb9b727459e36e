/* lib/prune/mask.c -- scores of weights and channels, and the masks that keep the best of them.
 *
 * Selecting the k largest of n floats. The bits of a float, with the sign folded in, order like the float
 * itself, so the k-th largest is found digit by digit: three histograms over 11, 11 and 10 bits, from the top
 * down, each narrowing the candidates to one bucket. Then one pass writes the mask: everything above the
 * threshold, and as many equal ones as are still due, lowest index first. That is O(n) for any input, needs
 * no copy of the scores, and has no pivot that ties could spoil. */
#include "prune/prune.h"

#include <math.h>
#include <string.h>

const char *const hr_score_names[3] = {"l1", "l2", NULL};

int64_t hr_kept(double rate, int64_t n)
{
    double k = nearbyint(rate * (double)n); /* the default rounding mode: half to even */
    if (!(k > 1.0))
        return 1;
    return k >= (double)n ? n : (int64_t)k;
}

/* Bits whose unsigned order is the order of the floats; NaN comes first, -0 equals +0. */
static uint32_t order_key(float x)
{
    uint32_t u;
    if (isnan(x))
        return 0;
    x += 0.0f; /* -0 becomes +0 */
    memcpy(&u, &x, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

void hr_topk_mask(const float *score, int64_t n, int64_t kept, uint8_t *mask)
{
    static const struct {
        int shift, bits;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t prefix = 0, fixed = 0; /* the threshold's bits found so far, and which bits those are */
    int64_t due = kept;             /* how many to take from the bucket that is left */

    if (kept < 0 || kept > n)
        BUG("keep %lld of %lld", (long long)kept, (long long)n);
    if (kept == 0) {
        memset(mask, 0, (size_t)n);
        return;
    }
    for (size_t d = 0; d < HR_COUNT(digits); d++) {
        int64_t count[1 << 11] = {0};
        uint32_t low = (1u << digits[d].bits) - 1;
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = order_key(score[i]);
            if ((key & fixed) == prefix)
                count[key >> digits[d].shift & low]++;
        }
        uint32_t b = low;
        while (count[b] < due)
            due -= count[b--];
        prefix |= b << digits[d].shift;
        fixed |= low << digits[d].shift;
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t key = order_key(score[i]);
        mask[i] = key > prefix || (key == prefix && due-- > 0);
    }
}

int64_t hr_score_count(const hr_layer *l, enum hr_reg reg)
{
    return reg == HR_REG_WEIGHT ? l->n : l->in;
}

void hr_score_weights(const float *w, const hr_layer *l, enum hr_reg reg, enum hr_score how, float *score)
{
    int64_t taps = (int64_t)l->kh * l->kw;
    if (reg == HR_REG_WEIGHT) {
        for (int64_t i = 0; i < l->n; i++)
            score[i] = fabsf(w[i]);
        return;
    }
    for (int64_t c = 0; c < l->in; c++) {
        double sum = 0;
        for (int64_t o = 0; o < l->out; o++) {
            const float *tap = w + (o * l->in + c) * taps;
            for (int64_t t = 0; t < taps; t++)
                sum += how == HR_SCORE_L1 ? fabs((double)tap[t]) : (double)tap[t] * tap[t];
        }
        score[c] = (float)(how == HR_SCORE_L1 ? sum : sqrt(sum));
    }
}

void hr_mask_expand(const uint8_t *mask, const hr_layer *l, enum hr_reg reg, float *out)
{
    int64_t taps = reg == HR_REG_WEIGHT ? 1 : (int64_t)l->kh * l->kw;
    int64_t period = hr_score_count(l, reg); /* channel masks repeat for every output */
    for (int64_t i = 0; i < l->n / taps; i++)
        for (int64_t t = 0; t < taps; t++)
            out[i * taps + t] = mask[i % period] ? 1.0f : 0.0f;
}
