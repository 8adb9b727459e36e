/* lib/attack/attack.c -- projected gradient ascent, the loop behind FGSM, PGD-k and the published C&W-inf.
 *
 * The executor's input buffer is x' itself, so a step moves it in place and nothing is allocated:
 *
 *     x' = x, or x + U(-eps, eps), or x + N    start
 *     repeat `steps` times
 *         forward; d loss / d logits            climb
 *         backward to the image (DX)
 *         x' <- x' + step * sign(d loss / dx')
 *         x' <- x' cut to [x-eps, x+eps], then to [0,1]   (move)
 *
 * With folded batch norm samples do not see each other: a chunk runs its whole attack on one thread while its
 * activations are warm in that core's cache, and threads meet once, at the end. With batch statistics every
 * pass needs the whole batch, so the loop goes step by step. */
#include "attack/attack.h"
#include "compute/cuda/cuda.h"

#include <math.h>

struct job {
    hr_exec *e;
    const hr_attack_opts *o;
    const float *x;
    const int32_t *y;
    const uint32_t *index;
    uint32_t taken; /* steps, for l2's noise where batch statistics make all images step together */
};

static void start(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    const hr_attack_opts *o = j->o;
    size_t len = hr_exec_input_len(j->e);
    for (int i = n0; i < n1; i++) {
        const float *x = j->x + (size_t)i * len;
        float *adv = hr_exec_input(j->e) + (size_t)i * len;
        bool noise = o->spread != 0.0f || o->random_start;
        if (o->spread != 0.0f)
            hr_fill_normal(adv, len, 0.0f, o->spread, o->seed, o->stream, o->c0, o->c1, j->index[i]);
        else if (o->random_start)
            hr_fill_uniform(adv, len, -o->eps, o->eps, o->seed, o->stream, o->c0, o->c1, j->index[i]);
        for (size_t p = 0; p < len; p++)
            adv[p] = noise ? x[p] + adv[p] : x[p];
    }
}

/* KL(softmax(q) || softmax(z)) grows by softmax(z) - softmax(q) per logit. */
static void climb_kl(const float *q, const float *z, int classes, float *dz)
{
    double top_q = q[0], top_z = z[0], sum_q = 0, sum_z = 0;
    for (int c = 1; c < classes; c++) {
        top_q = fmax(top_q, q[c]);
        top_z = fmax(top_z, z[c]);
    }
    for (int c = 0; c < classes; c++) {
        sum_q += exp(q[c] - top_q);
        sum_z += exp(z[c] - top_z);
    }
    for (int c = 0; c < classes; c++)
        dz[c] = (float)(exp(z[c] - top_z) / sum_z - exp(q[c] - top_q) / sum_q);
}

/* d loss / d logits. The scale is 1: a step uses only the sign of the image's gradient. */
static void climb(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    const float *z = hr_exec_logits(j->e);
    float *dz = hr_exec_dlogits(j->e);
    int classes = hr_exec_classes(j->e);
    if (j->o->loss == HR_LOSS_CE)
        hr_loss_ce(z, j->y, n0, n1, classes, 1.0f, NULL, dz);
    else if (j->o->loss == HR_LOSS_MARGIN)
        hr_loss_margin(z, j->y, n0, n1, classes, 1.0f, NULL, dz);
    else
        for (size_t i = (size_t)n0 * (size_t)classes; i < (size_t)n1 * (size_t)classes; i += (size_t)classes)
            climb_kl(j->o->target + i, z + i, classes, dz + i);
}

static inline float clip(float v, float lo, float hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* v[0..len)'s length; one order of summing for any caller. */
static double length(const float *v, size_t len)
{
    double sum = 0;
    for (size_t p = 0; p < len; p++)
        sum += (double)v[p] * v[p];
    return sqrt(sum);
}

/* One step of image i in the l2 ball, the s-th of the attack. */
static void move_l2(const struct job *j, int i, uint32_t s)
{
    const hr_attack_opts *o = j->o;
    size_t len = hr_exec_input_len(j->e);
    const float *x = j->x + (size_t)i * len;
    float *g = hr_exec_dinput(j->e) + (size_t)i * len, *adv = hr_exec_input(j->e) + (size_t)i * len;
    double size = length(g, len);
    if (size == 0)
        hr_fill_normal(g, len, 0.0f, 1.0f, o->seed, o->stream, o->c0, o->c1 + 1 + s, j->index[i]);
    float along = o->step / (float)(size == 0 ? 1 : size);
    for (size_t p = 0; p < len; p++)
        g[p] = clip(adv[p] + along * g[p], 0.0f, 1.0f) - x[p];
    size = length(g, len);
    float back = size > o->eps ? (float)(o->eps / size) : 1.0f;
    for (size_t p = 0; p < len; p++) /* x + part of a step that stays in [0,1] does, but for rounding */
        adv[p] = clip(x[p] + back * g[p], 0.0f, 1.0f);
}

static void move_linf(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    float eps = j->o->eps, step = j->o->step;
    size_t len = hr_exec_input_len(j->e), end = (size_t)n1 * len;
    const float *x = j->x, *g = hr_exec_dinput(j->e);
    float *adv = hr_exec_input(j->e);
    for (size_t p = (size_t)n0 * len; p < end; p++) {
        float sign = (float)((g[p] > 0.0f) - (g[p] < 0.0f)); /* 0 for 0 and for NaN */
        float v = clip(adv[p] + step * sign, x[p] - eps, x[p] + eps);
        adv[p] = clip(v, 0.0f, 1.0f);
    }
}

static void move(void *ctx, int n0, int n1, uint32_t s)
{
    const struct job *j = ctx;
    if (!j->o->l2)
        move_linf(ctx, n0, n1);
    for (int i = n0; j->o->l2 && i < n1; i++)
        move_l2(j, i, s);
}

static void move_together(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    move(ctx, n0, n1, j->taken);
}

static void attack_chunk(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    start(ctx, n0, n1);
    for (int s = 0; s < j->o->steps && !hr_interrupted(); s++) {
        hr_crash_point("attack");
        hr_exec_forward(j->e, n0, n1, HR_BN_FOLDED);
        climb(ctx, n0, n1);
        hr_exec_backward(j->e, n0, n1, HR_BN_FOLDED, HR_DX);
        move(ctx, n0, n1, (uint32_t)s);
    }
}

/* The whole loop on the executor's device. */
static void on_device(hr_exec *e, const hr_attack_opts *o, const float *x, const int32_t *y,
                      const uint32_t *index, int n)
{
    static const int losses[] = {
        [HR_LOSS_CE] = HR_CUDA_CE, [HR_LOSS_MARGIN] = HR_CUDA_MARGIN, [HR_LOSS_KL] = HR_CUDA_KL};
    hr_ascent a = {.eps = o->eps,
                   .step = o->step,
                   .spread = o->spread,
                   .steps = o->steps,
                   .loss = losses[o->loss],
                   .random_start = o->random_start,
                   .l2 = o->l2,
                   .target = o->loss == HR_LOSS_KL ? o->target : NULL,
                   .bn = o->bn,
                   .seed = o->seed,
                   .stream = o->stream,
                   .c0 = o->c0,
                   .c1 = o->c1};
    hr_cuda_ascend(e, &a, x, y, index, n);
}

void hr_attack_pgd(hr_exec *e, const hr_attack_opts *o, const float *x, const int32_t *y,
                   const uint32_t *index, int n)
{
    struct job j = {.e = e, .o = o, .x = x, .y = y, .index = index};
    if (hr_exec_on_device(e)) {
        on_device(e, o, x, y, index, n);
        return;
    }
    if (o->bn == HR_BN_FOLDED) {
        hr_exec_chunks(e, n, attack_chunk, &j);
        return;
    }
    hr_exec_chunks(e, n, start, &j);
    for (int s = 0; s < o->steps && !hr_interrupted(); s++) {
        hr_crash_point("attack");
        hr_exec_forward(e, 0, n, o->bn);
        hr_exec_chunks(e, n, climb, &j);
        hr_exec_backward(e, 0, n, o->bn, HR_DX);
        j.taken = (uint32_t)s;
        hr_exec_chunks(e, n, move_together, &j);
    }
}
