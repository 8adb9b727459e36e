/* lib/attack/square.c -- the Square attack: random search with squares, by queries alone.
 *
 * Andriushchenko, Croce, Flammarion & Hein 2020, "Square attack: a query-efficient black-box adversarial
 * attack via random search" (arXiv:1912.00049), Algorithms 1 to 3. An iterate stands on the ball's surface; a
 * step changes a square of it and is kept when it lowers the margin z_y - max_{i != y} z_i:
 *
 *     l-inf   start: vertical stripes x + eps * r, r = -1 or 1 per column and channel
 *             step:  a square of side s anywhere, +-2 eps in it, one sign per channel, cut to x +- eps
 *     l2      start: a grid of squares of side h/5, each filled with the bump eta or its negative, of length
 * eps step:  (Algorithm 3) a second square gives its mass to the first one, where the old change and a new
 * bump are added; the whole again has length eps
 *
 * s = round(sqrt(p h w)); p is 0.8 and is halved behind queries 10, 50, 200, 500, 1000, 2000, 4000, 6000 and
 * 8000 (sec. 4.2; the published schedule for 10,000 queries, which AutoAttack uses for its 5,000). The
 * paper's corner of a square is uniform in 0..w-s; its code never draws w-s; we follow the paper. Each image
 * draws its own squares, as in the paper.
 *
 * The l2 bump of side s (sec. 3.4, eq. 2): two halves of opposite sign, each a pyramid of nested rectangles
 * around its middle that add 1/(k+1)^2, transposed half of the time.
 *
 * Draws of image i in query q are the words of Philox at counters (c0, c1, index, q * BLOCKS + block). */
#include "attack/internal.h"
#include "compute/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 1 << 12, STARTS = 1 << 20 }; /* counter blocks of a query, of the starting point */

struct job {
    hr_exec *e;
    const hr_strong_opts *o;
    const float *x;
    const int32_t *y;
    const uint32_t *index;
    uint8_t *broken;
    float *adv;
    float *at, *next; /* (n,h,w,c): the best point; the one to try */
    float *best;      /* (n) its margin */
    float *bumps;     /* (n, 2*side*side) */
    int *who;
    int c, h, w;
};

/* Words of one query, in order. */
struct draw {
    const struct job *j;
    uint32_t index, block, word[4];
    int left;
};

static uint32_t word(struct draw *d)
{
    const hr_strong_opts *o = d->j->o;
    if (!d->left) {
        hr_philox(o->seed, o->stream, o->c0, o->c1, d->index, d->block++, d->word);
        d->left = 4;
    }
    return d->word[4 - d->left--];
}

/* 0..n-1, by multiplication: biased by less than n/2^32. */
static int below(struct draw *d, int n)
{
    return (int)(((uint64_t)word(d) * (uint64_t)n) >> 32);
}

static float sign(struct draw *d)
{
    return word(d) >> 31 ? 1.0f : -1.0f;
}

static const int halve[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000};

static double share(double p, int query)
{
    for (size_t k = 0; k < HR_COUNT(halve) && query > halve[k]; k++)
        p /= 2.0;
    return p;
}

/* ---- l-inf --------------------------------------------------------------------------------------------- */

static void stripes(const struct job *j, struct draw *d, const float *x, float *v)
{
    for (int c = 0; c < j->c; c++)
        for (int w = 0; w < j->w; w++) {
            float change = j->o->eps * sign(d);
            for (int h = 0; h < j->h; h++) {
                int p = (h * j->w + w) * j->c + c;
                v[p] = hr_clip(x[p] + change, 0.0f, 1.0f);
            }
        }
}

static void square(const struct job *j, struct draw *d, int side, const float *x, float *v)
{
    float eps = j->o->eps;
    int h0 = below(d, j->h - side + 1), w0 = below(d, j->w - side + 1);
    for (int c = 0; c < j->c; c++) {
        float change = 2.0f * eps * sign(d);
        for (int h = h0; h < h0 + side; h++)
            for (int w = w0; w < w0 + side; w++) {
                int p = (h * j->w + w) * j->c + c;
                v[p] = hr_clip(hr_clip(v[p] + change, x[p] - eps, x[p] + eps), 0.0f, 1.0f);
            }
    }
}

/* ---- l2 ------------------------------------------------------------------------------------------------ */

static void pyramid(float *b, int rows, int columns, int stride, float scale)
{
    int r = rows / 2, c = columns / 2, layers = r > c ? r : c;
    double sum = 0.0;
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++) {
            double v = 0.0;
            for (int k = 0; k <= layers; k++) /* rectangle k reaches k pixels from the middle */
                if (abs(y - r) <= k && abs(x - c) <= k)
                    v += 1.0 / ((k + 1.0) * (k + 1.0));
            b[y * stride + x] = (float)v;
            sum += v * v;
        }
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++)
            b[y * stride + x] *= scale / (float)sqrt(sum);
}

/* A bump of length 1 in b (side*side), transposed when asked. */
static void bump(float *b, int side, bool transposed)
{
    int top = side / 2;
    float half = top ? (float)sqrt(0.5) : 1.0f;
    if (top)
        pyramid(b, top, side, side, half);
    pyramid(b + top * side, side - top, side, side, -half);
    for (int y = 0; transposed && y < side; y++)
        for (int x = 0; x < y; x++) {
            float t = b[y * side + x];
            b[y * side + x] = b[x * side + y];
            b[x * side + y] = t;
        }
}

/* v, a change of any length, becomes the image x + eps v/|v| within [0,1]. */
static void onto_sphere(const struct job *j, const float *x, float *v, size_t len)
{
    float scale = (float)((double)j->o->eps / (hr_norm_of(HR_L2, v, len) + 1e-12));
    for (size_t p = 0; p < len; p++)
        v[p] = hr_clip(x[p] + scale * v[p], 0.0f, 1.0f);
}

/* Of the starting grid's squares. */
static int tile_of(const struct job *j)
{
    int side = (j->h < j->w ? j->h : j->w) / 5;
    return side > 1 ? side : 1;
}

static void grid(const struct job *j, struct draw *d, const float *x, float *v, float *b, size_t len)
{
    int side = tile_of(j);
    memset(v, 0, len * sizeof *v);
    for (int h0 = j->h % side / 2; h0 + side <= j->h; h0 += side)
        for (int w0 = j->w % side / 2; w0 + side <= j->w; w0 += side) {
            bump(b, side, word(d) >> 31);
            for (int c = 0; c < j->c; c++) {
                float s = sign(d);
                for (int k = 0; k < side * side; k++)
                    v[((h0 + k / side) * j->w + w0 + k % side) * j->c + c] = s * b[k];
            }
        }
    onto_sphere(j, x, v, len);
}

/* Algorithm 3: v is the image to change, b scratch for two squares. */
static void move_mass(const struct job *j, struct draw *d, int side, const float *x, float *v, float *b,
                      size_t len)
{
    int h1 = below(d, j->h - side + 1), w1 = below(d, j->w - side + 1);
    int h2 = below(d, j->h - side + 1), w2 = below(d, j->w - side + 1);
    float *fresh = b + side * side;
    bump(b, side, word(d) >> 31);
    for (size_t p = 0; p < len; p++)
        v[p] -= x[p];
    double length = hr_norm_of(HR_L2, v, len), eps = (double)j->o->eps;
    double unused = eps * eps > length * length ? (eps * eps - length * length) / j->c : 0.0;
    for (int c = 0; c < j->c; c++) {
        double old = 0.0, both = 0.0, sum = 0.0;
        float s = sign(d);
        for (int h = 0; h < j->h; h++)
            for (int w = 0; w < j->w; w++) {
                double value = v[(h * j->w + w) * j->c + c];
                bool first = h >= h1 && h < h1 + side && w >= w1 && w < w1 + side;
                bool second = h >= h2 && h < h2 + side && w >= w2 && w < w2 + side;
                old += first ? value * value : 0.0;
                both += first || second ? value * value : 0.0;
            }
        for (int k = 0; k < side * side; k++) {
            float value = v[((h1 + k / side) * j->w + w1 + k % side) * j->c + c];
            fresh[k] = s * b[k] + (float)((double)value / (1e-12 + sqrt(old)));
            sum += (double)fresh[k] * fresh[k];
        }
        float scale = (float)(sqrt(unused + both) / (1e-12 + sqrt(sum)));
        for (int k = 0; k < side * side; k++)
            v[((h2 + k / side) * j->w + w2 + k % side) * j->c + c] = 0.0f;
        for (int k = 0; k < side * side; k++)
            v[((h1 + k / side) * j->w + w1 + k % side) * j->c + c] = scale * fresh[k];
    }
    onto_sphere(j, x, v, len);
}

/* ---- the search ---------------------------------------------------------------------------------------- */

/* Of the squares of query q, from 1. */
static int side_of(const struct job *j, int q)
{
    int least = j->h < j->w ? j->h : j->w;
    int side = (int)lround(sqrt(share((double)j->o->p, q - 1) * j->h * j->w));
    if (j->o->norm == HR_L2)
        side = side < 3 ? 3 : side | 1;
    return side < 1 ? 1 : side > least ? least : side;
}

/* Query q of image i: the point to try. */
static void propose(const struct job *j, int i, int q, size_t len)
{
    const float *x = j->x + (size_t)i * len;
    float *v = j->next + (size_t)i * len;
    int least = j->h < j->w ? j->h : j->w;
    float *b = j->bumps + 2 * (size_t)i * (size_t)(least * least);
    struct draw d = {.j = j, .index = j->index[i], .block = q ? STARTS + (uint32_t)q * BLOCKS : 0};
    bool l2 = j->o->norm == HR_L2;
    if (q == 0) {
        if (l2)
            grid(j, &d, x, v, b, len);
        else
            stripes(j, &d, x, v);
        return;
    }
    int side = side_of(j, q);
    memcpy(v, j->at + (size_t)i * len, len * sizeof *v);
    if (l2)
        move_mass(j, &d, side, x, v, b, len);
    else
        square(j, &d, side, x, v);
}

static float margin(const float *z, int classes, int y)
{
    return z[y] - z[hr_rank_class(z, classes, y, 1)];
}

static void task(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    hr_pack p = hr_pack_new(j->e, n0, n1, j->broken, j->who + n0);
    for (int q = 0; q <= j->o->steps && p.n && !hr_interrupted(); q++) {
        hr_crash_point("attack");
        for (int s = 0; s < p.n; s++)
            propose(j, p.who[s], q, p.len);
        hr_pack_forward(&p, j->next);
        for (int s = 0; s < p.n; s++) {
            int i = p.who[s];
            size_t at = (size_t)i * p.len, bytes = p.len * sizeof(float);
            float m = margin(hr_pack_logits(&p, s), p.classes, j->y[i]);
            if (hr_pack_class(&p, s) != j->y[i]) {
                j->broken[i] = 1;
                memcpy(j->adv + at, j->next + at, bytes);
            } else if (q == 0 || m < j->best[i]) {
                j->best[i] = m;
                memcpy(j->at + at, j->next + at, bytes);
            }
        }
        hr_pack_drop(&p, j->broken);
    }
}

/* All of it on the executor's device, with sides and bumps from here. */
static void on_device(const struct job *j, int n)
{
    const hr_strong_opts *o = j->o;
    hr_search s = {.eps = o->eps,
                   .queries = o->steps,
                   .levels = HR_COUNT(halve) + 1,
                   .seed = o->seed,
                   .stream = o->stream,
                   .c0 = o->c0,
                   .c1 = o->c1};
    size_t all = 0;
    for (int k = 0; k <= s.levels; k++) {
        s.begin[k] = k == 0 ? 1 : k < s.levels ? halve[k - 1] + 2 : 0;
        s.side[k] = k < s.levels ? side_of(j, s.begin[k]) : tile_of(j);
        all += (size_t)(s.side[k] * s.side[k]);
    }
    float *bumps = hr_xcalloc(all, sizeof *bumps), *b = bumps;
    for (int k = 0; k <= s.levels; b += s.side[k] * s.side[k], k++)
        bump(b, s.side[k], false);
    s.bumps = o->norm == HR_L2 ? bumps : NULL;
    hr_cuda_search(j->e, &s, j->x, j->y, j->index, n, j->broken, j->adv);
    free(bumps);
}

void hr_attack_square(hr_exec *e, const hr_strong_opts *o, const float *x, const int32_t *y,
                      const uint32_t *index, int n, uint8_t *broken, float *adv, float *norm)
{
    (void)norm;
    struct job j = {.e = e, .o = o, .x = x, .y = y, .index = index, .broken = broken, .adv = adv};
    hr_exec_shape(e, &j.c, &j.h, &j.w);
    if (hr_exec_on_device(e)) {
        on_device(&j, n);
        return;
    }
    size_t all = (size_t)n * hr_exec_input_len(e), least = (size_t)(j.h < j.w ? j.h : j.w);
    float *store = hr_xaligned(2 * all, sizeof *store);
    j.at = store;
    j.next = store + all;
    j.best = hr_xcalloc((size_t)n, sizeof *j.best);
    j.bumps = hr_xcalloc(o->norm == HR_L2 ? 2 * (size_t)n * least * least : 1, sizeof *j.bumps);
    j.who = hr_xcalloc((size_t)n, sizeof *j.who);
    hr_exec_chunks(e, n, task, &j);
    free(store);
    free(j.best);
    free(j.bumps);
    free(j.who);
}
