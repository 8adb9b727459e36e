/* lib/attack/apgd.c -- Auto-PGD: projected gradient ascent that chooses its own step.
 *
 * Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
 * parameter-free attacks" (arXiv:2003.01690), Algorithm 1. With P the projection on the ball and [0,1]:
 *
 *     x0 = P(x + eps * t/|t|),  t uniform in (-1,1) (l-inf), normal (l2);   eta = 2 eps;   f_max = f(x0)
 *     for k = 0 .. steps-1
 *         z = P(x_k + eta * s(grad f(x_k)))                     s: sign (l-inf), g/|g| (l2)
 *         x_{k+1} = P(x_k + a (z - x_k) + (1-a) (x_k - x_{k-1}))    a = 0.75, in the first step 1   (eq. 3)
 *         f(x_{k+1}) > f_max: x_max, f_max
 *         at a checkpoint w_j: halve eta and go back to x_max, if
 *             1. fewer than rho of the steps since w_{j-1} raised f, or (sec. 3.1)
 *             2. eta was not halved at w_{j-1}, and f_max has not changed since
 *
 * Checkpoints lie 0.22 steps apart first, each time 0.03 steps closer, but never closer than 0.06. rho is
 * 0.75.
 *
 * f is cross-entropy, or the difference of logits ratio (eq. 6), pi sorting the logits downwards:
 *
 *     DLR(z, y) = - (z_y - max_{i != y} z_i) / (z_pi1 - z_pi3)
 *     targeted (eq. 7): - (z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4)/2)
 *
 * which does not vanish when logits are scaled, as cross-entropy does in float. Where paper and published
 * code differ we follow the code: 1. reads "at most rho", and the step behind a return to x_max takes its
 * momentum from the iterate that was left, as does the next comparison of losses. In its first checkpoint the
 * code compares the first loss with 0 (it reads one place before its table); we compare it with f(x0), as the
 * paper does. */
#include "attack/internal.h"
#include "compute/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double hr_loss_dlr(const float *z, int classes, int y, int target, float *dz)
{
    int pi[4] = {-1, -1, -1, -1}, other = -1;
    for (int k = 0; k < classes; k++) {
        if (k != y && (other < 0 || z[k] > z[other]))
            other = k;
        for (int r = 0, in = k; r < 4 && in >= 0; r++)
            if (pi[r] < 0 || z[in] > z[pi[r]]) { /* in goes to rank r, who was there moves down */
                int out = pi[r];
                pi[r] = in;
                in = out;
            }
    }
    bool aimed = target >= 0;
    int to = aimed ? target : other;
    double num = (double)z[y] - z[to];
    double den = aimed ? z[pi[0]] - 0.5 * ((double)z[pi[2]] + z[pi[3]]) : (double)z[pi[0]] - z[pi[2]];
    den += 1e-12;
    if (dz) {
        float by_num = (float)(-1.0 / den), by_den = (float)(num / (den * den));
        memset(dz, 0, (size_t)classes * sizeof *dz);
        dz[y] += by_num;
        dz[to] -= by_num;
        dz[pi[0]] += by_den;
        dz[pi[2]] -= aimed ? 0.5f * by_den : by_den;
        if (aimed)
            dz[pi[3]] -= 0.5f * by_den;
    }
    return -num / den;
}

/* What an image remembers besides its iterates. */
struct climber {
    float eta; /* the step */
    int target, rises;
    bool halved;                  /* at the last checkpoint */
    double f, best, best_checked; /* loss of the iterate; the best one; the best at the last checkpoint */
};

struct job {
    hr_exec *e;
    const hr_strong_opts *o;
    const float *x;
    const int32_t *y;
    const uint32_t *index;
    uint8_t *broken;
    float *adv;
    float *at, *old, *top; /* (n,h,w,c): the iterate, the one before, the best */
    float *g, *g_top, *z;  /* gradients at `at` and `top`; scratch */
    struct climber *c;
    int *who;
};

/* v <- P(v), in the ball around x and in [0,1]. The l2 projection clips last, as the published code does. */
static void project(const hr_strong_opts *o, float *v, const float *x, size_t len)
{
    const float eps = o->eps;
    if (o->norm == HR_L2) {
        double d = hr_distance(HR_L2, v, x, len);
        float scale = d > (double)eps ? (float)((double)eps / d) : 1.0f;
        for (size_t p = 0; p < len; p++)
            v[p] = hr_clip(x[p] + scale * (v[p] - x[p]), 0.0f, 1.0f);
        return;
    }
    for (size_t p = 0; p < len; p++)
        v[p] = hr_clip(hr_clip(v[p], x[p] - eps, x[p] + eps), 0.0f, 1.0f);
}

static void start(const struct job *j, int i, size_t len)
{
    const hr_strong_opts *o = j->o;
    const float *x = j->x + (size_t)i * len;
    float *v = j->at + (size_t)i * len;
    if (o->norm == HR_L2)
        hr_fill_normal(v, len, 0, 1, o->seed, o->stream, o->c0, o->c1, j->index[i]);
    else
        hr_fill_uniform(v, len, -1, 1, o->seed, o->stream, o->c0, o->c1, j->index[i]);
    float scale = (float)((double)o->eps / (hr_norm_of(o->norm, v, len) + 1e-12));
    for (size_t p = 0; p < len; p++)
        v[p] = hr_clip(x[p] + scale * v[p], 0.0f, 1.0f);
    memcpy(j->old + (size_t)i * len, v, len * sizeof *v);
    j->c[i] = (struct climber){.eta = 2.0f * o->eps, .target = -1, .halved = true, .best = -INFINITY};
}

/* Loss and gradient of the iterates; the best one so far; which images are broken, which is all that is
 * asked of the last ones: their gradients would lead nowhere. */
static void look(const struct job *j, hr_pack *p, bool last)
{
    hr_pack_forward(p, j->at);
    for (int s = 0; s < p->n; s++) {
        int i = p->who[s];
        const float *z = hr_pack_logits(p, s);
        double was = j->c[i].f;
        if (j->o->loss == HR_STRONG_CE)
            hr_loss_ce(z, &j->y[i], 0, 1, p->classes, 1.0f, &j->c[i].f, hr_pack_dlogits(p, s));
        else
            j->c[i].f = hr_loss_dlr(z, p->classes, j->y[i], j->c[i].target, hr_pack_dlogits(p, s));
        j->c[i].rises += j->c[i].f > was;
        if (hr_pack_class(p, s) != j->y[i]) {
            j->broken[i] = 1;
            memcpy(j->adv + (size_t)i * p->len, j->at + (size_t)i * p->len, p->len * sizeof *j->adv);
        }
    }
    if (last)
        return;
    hr_pack_backward(p);
    for (int s = 0; s < p->n; s++) {
        int i = p->who[s];
        size_t at = (size_t)i * p->len, bytes = p->len * sizeof *j->g;
        memcpy(j->g + at, hr_pack_dinput(p, s), bytes);
        if (j->c[i].f > j->c[i].best) {
            j->c[i].best = j->c[i].f;
            memcpy(j->top + at, j->at + at, bytes);
            memcpy(j->g_top + at, j->g + at, bytes);
        }
    }
    hr_pack_drop(p, j->broken);
}

static void step(const struct job *j, int i, float a, size_t len)
{
    const hr_strong_opts *o = j->o;
    const float *x = j->x + (size_t)i * len, *g = j->g + (size_t)i * len;
    float *v = j->at + (size_t)i * len, *old = j->old + (size_t)i * len, eta = j->c[i].eta;
    float *z = j->z + (size_t)i * len;
    bool l2 = o->norm == HR_L2;
    float scale = l2 ? (float)((double)eta / (hr_norm_of(HR_L2, g, len) + 1e-12)) : 0.0f;
    for (size_t p = 0; p < len; p++)
        z[p] = v[p] + (l2 ? scale * g[p] : eta * (float)((g[p] > 0.0f) - (g[p] < 0.0f)));
    project(o, z, x, len);
    for (size_t p = 0; p < len; p++) {
        z[p] = v[p] + (z[p] - v[p]) * a + (v[p] - old[p]) * (1.0f - a);
        old[p] = v[p];
    }
    project(o, z, x, len);
    memcpy(v, z, len * sizeof *v);
}

static void checkpoint(const struct job *j, int i, int steps, size_t len)
{
    struct climber *c = &j->c[i];
    bool few = (float)c->rises <= j->o->rho * (float)steps;
    bool stuck = !c->halved && c->best_checked >= c->best;
    c->halved = few || stuck;
    c->best_checked = c->best;
    c->rises = 0;
    if (c->halved) {
        size_t at = (size_t)i * len;
        c->eta /= 2.0f;
        memcpy(j->at + at, j->top + at, len * sizeof *j->at);
        memcpy(j->g + at, j->g_top + at, len * sizeof *j->g);
    }
}

static int share_of(int percent, int steps)
{
    int n = percent * steps / 100;
    return n > 1 ? n : 1;
}

static void task(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    hr_pack p = hr_pack_new(j->e, n0, n1, j->broken, j->who + n0);
    for (int s = 0; s < p.n; s++)
        start(j, p.who[s], p.len);
    if (j->o->target) {
        hr_pack_forward(&p, j->x);
        for (int s = 0; s < p.n; s++)
            j->c[p.who[s]].target =
                hr_rank_class(hr_pack_logits(&p, s), p.classes, j->y[p.who[s]], j->o->target);
    }
    look(j, &p, !j->o->steps);
    for (int s = 0; s < p.n; s++) {
        j->c[p.who[s]].best_checked = j->c[p.who[s]].best;
        j->c[p.who[s]].rises = 0;
    }
    int wait = share_of(22, j->o->steps), since = 0;
    for (int k = 0; k < j->o->steps && p.n && !hr_interrupted(); k++) {
        hr_crash_point("attack");
        for (int s = 0; s < p.n; s++)
            step(j, p.who[s], k ? 0.75f : 1.0f, p.len);
        look(j, &p, k + 1 == j->o->steps);
        if (++since < wait || k + 1 == j->o->steps)
            continue;
        for (int s = 0; s < p.n; s++)
            checkpoint(j, p.who[s], since, p.len);
        int next = wait - share_of(3, j->o->steps), least = share_of(6, j->o->steps);
        wait = next > least ? next : least;
        since = 0;
    }
}

size_t hr_strong_bytes(size_t input_len)
{
    return 6 * input_len * sizeof(float) + sizeof(struct climber) + 64;
}

/* All of it on the executor's device. */
static void on_device(hr_exec *e, const hr_strong_opts *o, const float *x, const int32_t *y,
                      const uint32_t *index, int n, uint8_t *broken, float *adv)
{
    hr_climb k = {.eps = o->eps,
                  .rho = o->rho,
                  .steps = o->steps,
                  .rank = o->target,
                  .l2 = o->norm == HR_L2,
                  .dlr = o->loss == HR_STRONG_DLR,
                  .seed = o->seed,
                  .stream = o->stream,
                  .c0 = o->c0,
                  .c1 = o->c1};
    hr_cuda_climb(e, &k, x, y, index, n, broken, adv);
}

void hr_attack_apgd(hr_exec *e, const hr_strong_opts *o, const float *x, const int32_t *y,
                    const uint32_t *index, int n, uint8_t *broken, float *adv, float *norm)
{
    (void)norm;
    if (hr_exec_on_device(e)) {
        on_device(e, o, x, y, index, n, broken, adv);
        return;
    }
    size_t len = hr_exec_input_len(e), all = (size_t)n * len;
    float *store = hr_xaligned(6 * all, sizeof *store);
    struct job j = {.e = e, .o = o, .x = x, .y = y, .index = index, .broken = broken, .adv = adv};
    j.at = store;
    j.old = store + all;
    j.top = store + 2 * all;
    j.g = store + 3 * all;
    j.g_top = store + 4 * all;
    j.z = store + 5 * all;
    j.c = hr_xcalloc((size_t)n, sizeof *j.c);
    j.who = hr_xcalloc((size_t)n, sizeof *j.who);
    hr_exec_chunks(e, n, task, &j);
    free(store);
    free(j.c);
    free(j.who);
}
