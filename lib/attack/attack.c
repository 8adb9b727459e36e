/* lib/attack/attack.c -- projected gradient ascent, the loop behind FGSM, PGD-k and the published C&W-inf.
 *
 * The executor's input buffer is x' itself, so a step moves it in place and nothing is allocated:
 *
 *     x' = x, or x + U(-eps, eps)              start
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

struct job {
    hr_exec *e;
    const hr_attack_opts *o;
    const float *x;
    const int32_t *y;
    const uint32_t *index;
};

static void start(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    const hr_attack_opts *o = j->o;
    size_t len = hr_exec_input_len(j->e);
    for (int i = n0; i < n1; i++) {
        const float *x = j->x + (size_t)i * len;
        float *adv = hr_exec_input(j->e) + (size_t)i * len;
        if (o->random_start)
            hr_fill_uniform(adv, len, -o->eps, o->eps, o->seed, o->stream, o->c0, o->c1, j->index[i]);
        for (size_t p = 0; p < len; p++)
            adv[p] = o->random_start ? x[p] + adv[p] : x[p];
    }
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
    else
        hr_loss_margin(z, j->y, n0, n1, classes, 1.0f, NULL, dz);
}

static inline float clip(float v, float lo, float hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static void move(void *ctx, int n0, int n1)
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

static void attack_chunk(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    start(ctx, n0, n1);
    for (int s = 0; s < j->o->steps && !hr_interrupted(); s++) {
        hr_crash_point("attack");
        hr_exec_forward(j->e, n0, n1, HR_BN_FOLDED);
        climb(ctx, n0, n1);
        hr_exec_backward(j->e, n0, n1, HR_BN_FOLDED, HR_DX);
        move(ctx, n0, n1);
    }
}

void hr_attack_pgd(hr_exec *e, const hr_attack_opts *o, const float *x, const int32_t *y,
                   const uint32_t *index, int n)
{
    struct job j = {e, o, x, y, index};
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
        hr_exec_chunks(e, n, move, &j);
    }
}
