/* lib/attack/fab.c -- FAB: the nearest point of another class, approached from both sides of the border.
 *
 * Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack"
 * (arXiv:1907.02044), Algorithm 1, in the targeted form that AutoAttack uses (FAB-T). The classifier is
 * linearised at the iterate x_k: the border to the target class t is the plane {v: w.v = b} with
 *
 *     w = grad (z_t - z_y)(x_k),   b = w.x_k - (z_t - z_y)(x_k)
 *
 * and with P the projection on that plane within [0,1] (eq. 4 to 6; hr_project_plane)
 *
 *     d1 = P(x_k) - x_k,   d2 = P(x) - x,   alpha = min(|d1| / (|d1| + |d2|), ALPHA)          (eq. 9)
 *     x_{k+1} = clip[0,1]( (1 - alpha)(x_k + ETA d1) + alpha (x + ETA d2) )                   (eq. 10)
 *     wrong class at x_{k+1}: keep it if it is the nearest so far; x_{k+1} <- x + BETA (x_{k+1} - x)  (eq.
 * 11)
 *
 * Iterates thus stay near the border and drift towards x. ALPHA = 0.1, ETA = 1.05, BETA = 0.9. The first run
 * starts at x, others anywhere within eps/2. The final search along the segment (sec. 3, "final search") is
 * left out, as it is from AutoAttack. */
#include "attack/internal.h"
#include "compute/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The tangent at lambda of g(lambda) = sum |w_i| min(lambda k_i, u_i): *value + *slope * lambda'. Every
 * LANES-th pixel has a sum of its own, so that compilers may take vectors and the bits are the same if they
 * do not. */
static inline void tangent(const float *w, const float *u, double lambda, size_t len, bool l2, double *value,
                           double *slope)
{
    enum { LANES = 8 };
    double v[LANES] = {0}, s[LANES] = {0};
    size_t whole = len - len % LANES;
    for (size_t p = 0; p < whole; p += LANES)
        for (int l = 0; l < LANES; l++) {
            double a = fabs((double)w[p + l]), room = u[p + l], k = l2 ? a : 1.0;
            bool inside = lambda * k < room;
            s[l] += inside ? a * k : 0.0;
            v[l] += inside ? 0.0 : a * room;
        }
    for (size_t p = whole; p < len; p++) {
        double a = fabs((double)w[p]), room = u[p], k = l2 ? a : 1.0;
        bool inside = lambda * k < room;
        s[0] += inside ? a * k : 0.0;
        v[0] += inside ? 0.0 : a * room;
    }
    *value = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    *slope = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* The step is d_i = s_i min(lambda k_i, u_i): towards the plane (s_i), at most to the box's face (u_i), with
 * k_i = 1 (l-inf) or |w_i| (l2). Find lambda with g(lambda) = |r|. g is concave, increasing and piecewise
 * linear, so Newton's method from 0 never overshoots and ends, exactly, when its tangent is of the piece that
 * holds the solution. */
void hr_project_plane(enum hr_norm norm, const float *x, const float *w, double r, size_t len, float *d)
{
    double lambda = 0.0, target = fabs(r);
    float up = r >= 0.0 ? 1.0f : -1.0f;
    bool l2 = norm == HR_L2;
    for (size_t p = 0; p < len; p++) /* d holds u until the end */
        d[p] = up * w[p] > 0.0f ? 1.0f - x[p] : x[p];
    for (int turn = 0; turn < 1000; turn++) {
        double value, slope;
        if (l2)
            tangent(w, d, lambda, len, true, &value, &slope);
        else
            tangent(w, d, lambda, len, false, &value, &slope);
        if (slope <= 0.0) { /* every pixel is at its face: the plane is out of reach, or just there */
            lambda = INFINITY;
            break;
        }
        double next = (target - value) / slope;
        if (!(next > lambda))
            break;
        lambda = next;
    }
    for (size_t p = 0; p < len; p++) {
        double far = l2 ? lambda * fabs((double)w[p]) : lambda;
        float step = far < (double)d[p] ? (float)far : d[p];
        d[p] = w[p] == 0.0f ? 0.0f : up * w[p] > 0.0f ? step : -step;
    }
}

struct job {
    hr_exec *e;
    const hr_strong_opts *o;
    const float *x;
    const int32_t *y;
    const uint32_t *index;
    uint8_t *broken, *done; /* done (n): in play no more */
    float *adv;
    float *at, *d1, *d2; /* (n,h,w,c) */
    double *best;        /* (n) distance of the nearest point */
    int *target, *who;   /* (n) */
};

static void start(const struct job *j, int i, size_t len)
{
    const hr_strong_opts *o = j->o;
    const float *x = j->x + (size_t)i * len;
    float *v = j->at + (size_t)i * len, scale = 0.0f;
    j->best[i] = INFINITY;
    j->done[i] = 0;
    if (o->random_start) {
        if (o->norm == HR_L2)
            hr_fill_normal(v, len, 0, 1, o->seed, o->stream, o->c0, o->c1, j->index[i]);
        else
            hr_fill_uniform(v, len, -1, 1, o->seed, o->stream, o->c0, o->c1, j->index[i]);
        scale = (float)(0.5 * (double)o->eps / (hr_norm_of(o->norm, v, len) + 1e-12));
    }
    for (size_t p = 0; p < len; p++)
        v[p] = hr_clip(x[p] + scale * v[p], 0.0f, 1.0f);
}

/* eq. 9 and 10. g is w, f is (z_t - z_y)(x_k). */
static void approach(const struct job *j, int i, const float *g, double f, size_t len)
{
    const hr_strong_opts *o = j->o;
    const float *x = j->x + (size_t)i * len;
    float *v = j->at + (size_t)i * len, *d1 = j->d1 + (size_t)i * len, *d2 = j->d2 + (size_t)i * len;
    double apart = 0.0; /* w.(x_k - x) */
    for (size_t p = 0; p < len; p++)
        apart += (double)g[p] * ((double)v[p] - x[p]);
    hr_project_plane(o->norm, v, g, -f, len, d1);
    hr_project_plane(o->norm, x, g, apart - f, len, d2);
    double a1 = fmax(hr_norm_of(o->norm, d1, len), 1e-8), a2 = fmax(hr_norm_of(o->norm, d2, len), 1e-8);
    float alpha = fminf((float)(a1 / (a1 + a2)), o->alpha), eta = o->eta;
    for (size_t p = 0; p < len; p++) {
        float near = v[p] + eta * d1[p], home = x[p] + eta * d2[p];
        v[p] = hr_clip((1.0f - alpha) * near + alpha * home, 0.0f, 1.0f);
    }
}

/* The iterate is of another class: remember it and step back. */
static void across(const struct job *j, int i, size_t len)
{
    const hr_strong_opts *o = j->o;
    const float *x = j->x + (size_t)i * len;
    float *v = j->at + (size_t)i * len;
    double far = hr_distance(o->norm, v, x, len);
    if (far < j->best[i]) {
        j->best[i] = far;
        if (far <= (double)o->eps) {
            j->broken[i] = 1;
            memcpy(j->adv + (size_t)i * len, v, len * sizeof *v);
            j->done[i] = !o->whole;
        }
    }
    float beta = o->beta;
    for (size_t p = 0; p < len; p++)
        v[p] = x[p] + beta * (v[p] - x[p]);
}

static void task(void *ctx, int n0, int n1)
{
    const struct job *j = ctx;
    hr_pack p = hr_pack_new(j->e, n0, n1, j->broken, j->who + n0);
    hr_pack_forward(&p, j->x);
    for (int s = 0; s < p.n; s++) {
        int i = p.who[s];
        start(j, i, p.len);
        j->target[i] = hr_rank_class(hr_pack_logits(&p, s), p.classes, j->y[i], j->o->target);
    }
    bool passed = false; /* the last pass forward was of these points */
    for (int k = 0; k < j->o->steps && p.n && !hr_interrupted(); k++) {
        hr_crash_point("attack");
        if (!passed)
            hr_pack_forward(&p, j->at);
        for (int s = 0; s < p.n; s++) {
            float *dz = hr_pack_dlogits(&p, s);
            memset(dz, 0, (size_t)p.classes * sizeof *dz);
            dz[j->target[p.who[s]]] = 1.0f;
            dz[j->y[p.who[s]]] = -1.0f;
        }
        hr_pack_backward(&p);
        for (int s = 0; s < p.n; s++) {
            int i = p.who[s];
            const float *z = hr_pack_logits(&p, s);
            approach(j, i, hr_pack_dinput(&p, s), (double)z[j->target[i]] - z[j->y[i]], p.len);
        }
        hr_pack_forward(&p, j->at);
        passed = true;
        for (int s = 0; s < p.n; s++)
            if (hr_pack_class(&p, s) != j->y[p.who[s]]) {
                across(j, p.who[s], p.len);
                passed = false;
            }
        hr_pack_drop(&p, j->done);
    }
}

/* All of it on the executor's device. */
static void on_device(hr_exec *e, const hr_strong_opts *o, const float *x, const int32_t *y,
                      const uint32_t *index, int n, uint8_t *broken, float *adv, float *norm)
{
    hr_border b = {.eps = o->eps,
                   .alpha = o->alpha,
                   .eta = o->eta,
                   .beta = o->beta,
                   .steps = o->steps,
                   .rank = o->target,
                   .l2 = o->norm == HR_L2,
                   .random_start = o->random_start,
                   .whole = o->whole,
                   .seed = o->seed,
                   .stream = o->stream,
                   .c0 = o->c0,
                   .c1 = o->c1};
    hr_cuda_border(e, &b, x, y, index, n, broken, adv, norm);
}

void hr_attack_fab(hr_exec *e, const hr_strong_opts *o, const float *x, const int32_t *y,
                   const uint32_t *index, int n, uint8_t *broken, float *adv, float *norm)
{
    if (hr_exec_on_device(e)) {
        on_device(e, o, x, y, index, n, broken, adv, norm);
        return;
    }
    size_t all = (size_t)n * hr_exec_input_len(e);
    float *store = hr_xaligned(3 * all, sizeof *store);
    uint8_t *was = hr_xcalloc((size_t)n, 1);
    memcpy(was, broken, (size_t)n);
    struct job j = {.e = e, .o = o, .x = x, .y = y, .index = index, .broken = broken, .adv = adv};
    j.at = store;
    j.d1 = store + all;
    j.d2 = store + 2 * all;
    j.done = hr_xcalloc((size_t)n, 1);
    j.best = hr_xcalloc((size_t)n, sizeof *j.best);
    j.target = hr_xcalloc((size_t)n, sizeof *j.target);
    j.who = hr_xcalloc((size_t)n, sizeof *j.who);
    hr_exec_chunks(e, n, task, &j);
    for (int i = 0; i < n && norm; i++)
        if (!was[i])
            norm[i] = (float)j.best[i];
    free(store);
    free(was);
    free(j.done);
    free(j.best);
    free(j.target);
    free(j.who);
}
