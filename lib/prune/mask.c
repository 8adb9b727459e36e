/* lib/prune/mask.c -- scores of weights and channels, and the masks that keep the best of them.
 *
 * Selecting the k largest of n floats. The bits of a float, with the sign folded in, order like the float
 * itself, so the k-th largest is found digit by digit: three histograms over 11, 11 and 10 bits, from the top
 * down, each narrowing the candidates to one bucket. The first looks at all scores; its bucket is copied, and
 * the others look at that copy. Large arrays are not even looked at so often: a sample tells between which
 * two values the threshold must be, and those between them are few. Then one pass writes the mask: everything
 * above the threshold, and as many equal ones as are still due, lowest index first. That is O(n) for any
 * input, and has no pivot that ties could spoil. HYDRA does it for every layer in every step, hence loops
 * without branches. */
#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_score_names[3] = {"l1", "l2", NULL};

int64_t hr_kept(double rate, int64_t n)
{
    double k = nearbyint(rate * (double)n); /* the default rounding mode: half to even */
    if (!(k > 1.0))
        return 1;
    return k >= (double)n ? n : (int64_t)k;
}

/* Bits whose unsigned order is the order of the floats; NaN comes first, -0 equals +0. Of |x| when bits lacks
 * the sign's. */
static inline uint32_t order_key(float x, uint32_t bits)
{
    uint32_t u, sign = 0x80000000u;
    memcpy(&u, &x, sizeof u);
    u &= bits;
    uint32_t key = u ^ (u & sign ? ~0u : sign);
    key = u == sign ? sign : key;
    return (u & ~sign) > 0x7f800000u ? 0 : key;
}

enum { DIGIT = 11, LANES = 4 };

/* The bucket, from the top, in which the due-th largest of n keys falls, by the bits behind `shift`; due
 * becomes its place in there, *size how many there are. Neighbours often share a bucket: each of LANES has
 * counters of its own, so that none waits for the one before. */
static uint32_t find_bucket(const int64_t count[LANES][1 << DIGIT], int64_t *due, int64_t *size)
{
    for (uint32_t b = (1 << DIGIT) - 1;; b--) {
        *size = 0;
        for (int l = 0; l < LANES; l++)
            *size += count[l][b];
        if (*size >= *due)
            return b;
        *due -= *size;
    }
}

/* The due-th largest of n scores as a key. due becomes how many of those that equal it are to be taken,
 * *equal how many there are. */
static uint32_t threshold(const float *score, int64_t n, uint32_t bits, int64_t *due, int64_t *equal)
{
    int64_t count[LANES][1 << DIGIT] = {{0}}, size;
    for (int64_t i = 0; i < n; i++)
        count[i % LANES][order_key(score[i], bits) >> 21]++;
    uint32_t top = find_bucket(count, due, &size), digit = (1 << DIGIT) - 1;

    uint32_t *key = hr_xmalloc((size_t)size * sizeof *key);
    int64_t found = 0;
    for (int64_t i = 0; i < n && found < size; i++) {
        key[found] = order_key(score[i], bits);
        found += key[found] >> 21 == top;
    }
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < size; i++)
        count[i % LANES][key[i] >> 10 & digit]++;
    uint32_t prefix = top << DIGIT | find_bucket(count, due, equal);
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < size; i++)
        if (key[i] >> 10 == prefix)
            count[i % LANES][key[i] & 0x3ff]++;
    prefix = prefix << 10 | find_bucket(count, due, equal);
    free(key);
    return prefix;
}

/* x without the bits that do not count. */
static inline float part_of(float x, uint32_t bits)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u &= bits;
    memcpy(&x, &u, sizeof x);
    return x;
}

static float float_of(uint32_t key)
{
    uint32_t u = key & 0x80000000u ? key ^ 0x80000000u : ~key;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

enum { SAMPLE = 8192, BLOCK = 16 };

/* threshold(), from the few scores that a sample says are near it. False, with due and equal as they were: it
 * said wrong (or too many are), and all have to be looked at. */
static bool threshold_near(const float *score, int64_t n, uint32_t bits, int64_t *due, int64_t *equal,
                           uint32_t *least)
{
    float some[SAMPLE];
    int64_t stride = n / SAMPLE, room = n / 8, found = 0, above = 0;
    double share = (double)*due / (double)n;
    int64_t place = (int64_t)(share * SAMPLE), slack = 4 + (int64_t)(4 * sqrt(share * (1 - share) * SAMPLE));
    int64_t up = place - slack, down = place + slack;
    if (stride < 8 || down > SAMPLE)
        return false;
    for (int64_t i = 0; i < SAMPLE; i++)
        some[i] = score[i * stride];
    uint32_t low = threshold(some, SAMPLE, bits, &down, equal);
    if (low == 0)
        return false; /* there are NaNs so far up */
    float from = float_of(low), *near = hr_xmalloc((size_t)room * sizeof *near);
    float to = up < 1 ? INFINITY : float_of(threshold(some, SAMPLE, bits, &up, equal));
    for (int64_t i = 0; i < n; i += BLOCK) {
        int last = n - i < BLOCK ? (int)(n - i) : BLOCK, beyond = 0, between = 0;
        for (int k = 0; k < last; k++) {
            float x = part_of(score[i + k], bits);
            beyond += x > to;
            between += (x >= from) & (x <= to);
        }
        above += beyond;
        if (between > room - found) {
            above = *due; /* too many */
            break;
        }
        for (int k = 0; between > 0 && k < last; k++) {
            float x = part_of(score[i + k], bits);
            if ((x >= from) & (x <= to))
                near[found++] = x;
        }
    }
    int64_t place_here = *due - above;
    bool right = above < *due && place_here <= found;
    if (right) {
        *least = threshold(near, found, bits, &place_here, equal);
        *due = place_here;
    }
    free(near);
    return right;
}

static void keep_largest(const float *score, int64_t n, uint32_t bits, int64_t kept, uint8_t *mask)
{
    if (kept < 0 || kept > n)
        BUG("keep %lld of %lld", (long long)kept, (long long)n);
    if (kept == 0) {
        memset(mask, 0, (size_t)n);
        return;
    }
    int64_t due = kept, equal;
    uint32_t least;
    if (!threshold_near(score, n, bits, &due, &equal, &least))
        least = threshold(score, n, bits, &due, &equal);
    float smallest = float_of(least);
    if (least == 0) /* NaN */
        memset(mask, 1, (size_t)n);
    else
        for (int64_t i = 0; i < n; i++)
            mask[i] = part_of(score[i], bits) >= smallest;
    for (int64_t i = n - 1; equal > due; i--)
        if (order_key(score[i], bits) == least) {
            mask[i] = 0;
            equal--;
        }
}

void hr_topk_mask(const float *score, int64_t n, int64_t kept, uint8_t *mask)
{
    keep_largest(score, n, 0xffffffffu, kept, mask);
}

void hr_topk_magnitudes(const float *v, int64_t n, int64_t kept, uint8_t *mask)
{
    keep_largest(v, n, 0x7fffffffu, kept, mask);
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
    if (reg == HR_REG_WEIGHT) {
        for (int64_t i = 0; i < l->n; i++)
            out[i] = (float)(mask[i] != 0);
        return;
    }
    int64_t taps = (int64_t)l->kh * l->kw;
    for (int64_t o = 0; o < l->out; o++)
        for (int64_t c = 0; c < l->in; c++, out += taps)
            for (int64_t t = 0; t < taps; t++)
                out[t] = (float)(mask[c] != 0);
}
