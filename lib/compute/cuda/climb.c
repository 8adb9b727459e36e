/* lib/compute/cuda/climb.c -- hr_attack_apgd's loop (lib/attack/apgd.c), queued on the device.
 *
 * The images that are still whole go up once, packed; then all steps are queued without a word to the host,
 * checkpoints too: they lie at the same steps for every image, and what they decide is decided on the device.
 * The second step is recorded as a graph, which the steps behind it replay. At the end the points come down,
 * with which of them were classified wrongly. The iterates lie in the executor's input, their gradients in
 * its dinput. */
#include "compute/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { KIND = 16 }; /* of a recorded step: behind ascend.c's */

static void take(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_climbs *s = &c->climbs;
    hr_err err = HR_ERR_INIT;
    size_t batch = (size_t)e->opts.batch, all = c->twin[HR_CUDA_INPUT].len * batch;
    int rc = HR_OK;
    if (s->c)
        return;
    s->old = hr_cuda_take(c, all, &rc);
    s->top = hr_cuda_take(c, all, &rc);
    s->g_top = hr_cuda_take(c, all, &rc);
    s->f = (double *)(void *)hr_cuda_take(c, 2 * batch, &rc);
    s->aim = (int32_t *)(void *)hr_cuda_take(c, batch, &rc);
    s->c = (hr_cuda_climber *)(void *)hr_cuda_take(c, batch * sizeof *s->c / sizeof(float), &rc);
    if (hr_cuda_taken(e, rc, &err))
        hr_die("%s", err.msg);
}

/* Losses of the iterates and what follows from them; not last: their gradients. */
static void look(hr_exec *e, const hr_climb *o, int n, bool first, bool last)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_climbs *s = &c->climbs;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    float *z = c->twin[HR_CUDA_LOGITS].dev, *dz = c->twin[HR_CUDA_DLOGITS].dev;
    int classes = (int)c->twin[HR_CUDA_LOGITS].len;
    hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    if (o->dlr)
        c->t->dlr(c->d, n, classes, z, c->y, s->aim, s->f, dz);
    else
        c->t->loss(c->d, HR_CUDA_CE, n, classes, z, c->y, NULL, 1.0f, s->f, dz);
    c->t->apgd_look(c->d, n, classes, first, z, c->y, s->f, s->c);
    if (last)
        return;
    hr_cuda_pass_backward(e, 0, n, HR_BN_FOLDED, HR_DX);
    c->t->apgd_keep(c->d, n, in->len, s->c, in->dev, c->twin[HR_CUDA_DINPUT].dev, s->top, s->g_top);
}

static void step(hr_exec *e, const hr_climb *o, int n, float a, bool last)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_climbs *s = &c->climbs;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    c->t->apgd_step(c->d, n, in->len, o->l2, o->eps, a, s->c, c->x, c->twin[HR_CUDA_DINPUT].dev, in->dev,
                    s->old);
    look(e, o, n, false, last);
}

/* A step that is neither the first nor the last one, recorded now or earlier. */
static hr_cuda_graph *graph(hr_exec *e, const hr_climb *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_kept like = {
        .n = n, .kind = KIND + (o->dlr ? 2 : 0) + (o->l2 ? 1 : 0), .bn = HR_BN_FOLDED, .eps = o->eps};
    hr_cuda_graph *g = hr_cuda_recalled(c, &like);
    if (g)
        return g;
    hr_cuda_kept *k = hr_cuda_graph_room(e);
    c->t->record(c->d);
    step(e, o, n, 0.75f, false);
    *k = like;
    return k->graph = c->t->recorded(c->d);
}

static int share_of(int percent, int steps)
{
    int n = percent * steps / 100;
    return n > 1 ? n : 1;
}

static void start(hr_exec *e, const hr_climb *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_climbs *s = &c->climbs;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT], *out = &c->twin[HR_CUDA_LOGITS];
    hr_cuda_noise k = {o->seed, o->stream, o->c0, o->c1, c->index};
    if (o->rank) {
        c->t->copy(c->d, in->dev, c->x, in->len * (size_t)n * sizeof(float));
        hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    }
    c->t->rank(c->d, n, (int)out->len, out->dev, c->y, o->rank, s->aim);
    c->t->apgd_start(c->d, &k, n, in->len, o->l2, o->eps, c->x, in->dev, s->old, s->c);
    look(e, o, n, true, o->steps == 0);
}

static void run(hr_exec *e, const hr_climb *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_climbs *s = &c->climbs;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    int wait = share_of(22, o->steps), since = 0;
    start(e, o, n);
    for (int k = 0; k < o->steps && !hr_interrupted(); k++) {
        hr_crash_point("attack");
        if (k > 0 && k < o->steps - 1)
            c->t->replay(c->d, graph(e, o, n));
        else
            step(e, o, n, k ? 0.75f : 1.0f, k == o->steps - 1);
        if (++since < wait || k == o->steps - 1)
            continue;
        c->t->apgd_checkpoint(c->d, n, in->len, o->rho, since, s->c, s->top, s->g_top, in->dev,
                              c->twin[HR_CUDA_DINPUT].dev);
        int next = wait - share_of(3, o->steps), least = share_of(6, o->steps);
        wait = next > least ? next : least;
        since = 0;
    }
}

void hr_cuda_climb(hr_exec *e, const hr_climb *o, const float *x, const int32_t *y, const uint32_t *index,
                   int n, uint8_t *broken, float *adv)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    size_t len = in->len, bytes = len * sizeof *x;
    int *who = hr_xcalloc((size_t)n, sizeof *who), whole = 0;
    int32_t *classes = hr_xcalloc((size_t)n, sizeof *classes);
    uint32_t *indices = hr_xcalloc((size_t)n, sizeof *indices);
    hr_cuda_climber *climbers = hr_xcalloc((size_t)n, sizeof *climbers);
    take(e);
    hr_cuda_wait(e); /* the host's input buffer is page-locked: what is packed there travels well */
    for (int i = 0; i < n; i++) {
        if (broken[i])
            continue;
        memcpy(in->host + (size_t)whole * len, x + (size_t)i * len, bytes);
        classes[whole] = y[i];
        indices[whole] = index[i];
        who[whole++] = i;
    }
    if (whole) {
        hr_cuda_images(e, in->host, classes, indices, whole);
        run(e, o, whole);
        c->t->download(c->d, climbers, c->climbs.c, (size_t)whole * sizeof *climbers);
        c->t->download(c->d, in->host, in->dev, (size_t)whole * bytes);
        hr_cuda_wait(e);
    }
    for (int s = 0; s < whole; s++)
        if (climbers[s].broken) {
            broken[who[s]] = 1;
            memcpy(adv + (size_t)who[s] * len, in->host + (size_t)s * len, bytes);
        }
    for (int b = 0; b < HR_CUDA_BUFFERS; b++)
        hr_cuda_written(e, b);
    free(who);
    free(classes);
    free(indices);
    free(climbers);
}
