/* lib/compute/cuda/climb.c -- hr_attack_apgd's loop (lib/attack/apgd.c), queued on the device.
 *
 * All steps are queued without a word to the host (strong.c), checkpoints too: they lie at the same steps for
 * every image, and what they decide is decided on the device. The second step is recorded as a graph, which
 * the steps behind it replay. The iterates lie in the executor's input, their gradients in its dinput. */
#include "compute/cuda/cuda.h"

#include <stdlib.h>

enum { KIND = 16 };       /* of a recorded step: behind ascend.c's */
enum { OLD, TOP, G_TOP }; /* maps: the iterates before, the best ones, their gradients */

static void take(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_strong *s = &c->strong;
    hr_err err = HR_ERR_INIT;
    size_t batch = (size_t)e->opts.batch;
    int rc = HR_OK;
    if (s->climbers)
        return;
    s->f = (double *)(void *)hr_cuda_take(c, 2 * batch, &rc);
    s->climbers =
        (hr_cuda_climber *)(void *)hr_cuda_take(c, batch * sizeof *s->climbers / sizeof(float), &rc);
    if (hr_cuda_taken(e, rc, &err))
        hr_die("%s", err.msg);
}

/* Losses of the iterates and what follows from them; not last: their gradients. */
static void look(hr_exec *e, const hr_climb *o, int n, bool first, bool last)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_strong *s = &c->strong;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    float *z = c->twin[HR_CUDA_LOGITS].dev, *dz = c->twin[HR_CUDA_DLOGITS].dev;
    int classes = (int)c->twin[HR_CUDA_LOGITS].len;
    hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    if (o->dlr)
        c->t->dlr(c->d, n, classes, z, c->y, s->aim, s->f, dz);
    else
        c->t->loss(c->d, HR_CUDA_CE, n, classes, z, c->y, NULL, 1.0f, s->f, dz);
    c->t->apgd_look(c->d, n, classes, first, z, c->y, s->f, s->climbers);
    if (last)
        return;
    hr_cuda_pass_backward(e, 0, n, HR_BN_FOLDED, HR_DX);
    c->t->apgd_keep(c->d, n, in->len, s->climbers, in->dev, c->twin[HR_CUDA_DINPUT].dev, s->map[TOP],
                    s->map[G_TOP]);
}

static void step(hr_exec *e, const hr_climb *o, int n, float a, bool last)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_strong *s = &c->strong;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    c->t->apgd_step(c->d, n, in->len, o->l2, o->eps, a, s->climbers, c->x, c->twin[HR_CUDA_DINPUT].dev,
                    in->dev, s->map[OLD]);
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
    const hr_cuda_strong *s = &c->strong;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT], *out = &c->twin[HR_CUDA_LOGITS];
    hr_cuda_noise k = {o->seed, o->stream, o->c0, o->c1, c->index};
    if (o->rank) {
        c->t->copy(c->d, in->dev, c->x, in->len * (size_t)n * sizeof(float));
        hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    }
    c->t->rank(c->d, n, (int)out->len, out->dev, c->y, o->rank, s->aim);
    c->t->apgd_start(c->d, &k, n, in->len, o->l2, o->eps, c->x, in->dev, s->map[OLD], s->climbers);
    look(e, o, n, true, o->steps == 0);
}

static void run(hr_exec *e, const hr_climb *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_strong *s = &c->strong;
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
        c->t->apgd_checkpoint(c->d, n, in->len, o->rho, since, s->climbers, s->map[TOP], s->map[G_TOP],
                              in->dev, c->twin[HR_CUDA_DINPUT].dev);
        int next = wait - share_of(3, o->steps), least = share_of(6, o->steps);
        wait = next > least ? next : least;
        since = 0;
    }
}

void hr_cuda_climb(hr_exec *e, const hr_climb *o, const float *x, const int32_t *y, const uint32_t *index,
                   int n, uint8_t *broken, float *adv)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_play p = hr_cuda_play_begin(e, x, y, index, n, broken);
    hr_cuda_climber *found = hr_xcalloc((size_t)n, sizeof *found);
    take(e);
    if (p.n) {
        run(e, o, p.n);
        c->t->download(c->d, found, c->strong.climbers, (size_t)p.n * sizeof *found);
        hr_cuda_play_points(e, &p, c->twin[HR_CUDA_INPUT].dev);
    }
    for (int s = 0; s < p.n; s++)
        if (found[s].broken)
            hr_cuda_play_broken(e, &p, s, broken, adv);
    hr_cuda_play_end(e, &p);
    free(found);
}
