/* lib/compute/cuda/border.c -- hr_attack_fab's loop (lib/attack/fab.c), queued on the device.
 *
 * The iterates lie in the executor's input, their gradients in its dinput, the nearest points of another
 * class in a map of their own. A step is recorded as a graph: forward and backward at the iterate, towards
 * the border, forward again to see on which side it is, and back a little if it is across. The CPU leaves the
 * first of these passes out where no image moved since the last one; to know that the host would have to ask.
 */
#include "compute/cuda/cuda.h"

#include <stdlib.h>

enum { KIND = 48 }; /* of a recorded step: behind search.c's */
enum { POINTS };    /* maps: what was found */

static void take(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_strong *s = &c->strong;
    hr_err err = HR_ERR_INIT;
    int rc = HR_OK;
    if (s->walkers)
        return;
    s->walkers = (hr_cuda_walker *)(void *)hr_cuda_take(
        c, (size_t)e->opts.batch * sizeof *s->walkers / sizeof(float), &rc);
    if (hr_cuda_taken(e, rc, &err))
        hr_die("%s", err.msg);
}

static void step(hr_exec *e, const hr_border *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_strong *s = &c->strong;
    float *at = c->twin[HR_CUDA_INPUT].dev;
    const float *z = c->twin[HR_CUDA_LOGITS].dev, *g = c->twin[HR_CUDA_DINPUT].dev;
    size_t len = c->twin[HR_CUDA_INPUT].len;
    int classes = (int)c->twin[HR_CUDA_LOGITS].len;
    hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    c->t->fab_aim(c->d, n, classes, c->y, s->aim, c->twin[HR_CUDA_DLOGITS].dev);
    hr_cuda_pass_backward(e, 0, n, HR_BN_FOLDED, HR_DX);
    c->t->fab_approach(c->d, n, len, classes, o->l2, o->alpha, o->eta, z, c->y, s->aim, c->x, g, s->walkers,
                       at);
    hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    c->t->fab_look(c->d, n, len, classes, o->l2, o->whole, o->eps, o->beta, z, c->y, c->x, s->walkers, at,
                   s->map[POINTS]);
}

static hr_cuda_graph *graph(hr_exec *e, const hr_border *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_kept like = {.n = n,
                         .kind = KIND + (o->l2 ? 1 : 0) + (o->whole ? 2 : 0),
                         .bn = HR_BN_FOLDED,
                         .eps = o->eps,
                         .more = {o->alpha, o->eta, o->beta}};
    hr_cuda_graph *g = hr_cuda_recalled(c, &like);
    if (g)
        return g;
    hr_cuda_kept *k = hr_cuda_graph_room(e);
    c->t->record(c->d);
    step(e, o, n);
    *k = like;
    return k->graph = c->t->recorded(c->d);
}

static void run(hr_exec *e, const hr_border *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_strong *s = &c->strong;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT], *out = &c->twin[HR_CUDA_LOGITS];
    hr_cuda_noise k = {o->seed, o->stream, o->c0, o->c1, c->index};
    hr_cuda_to_input(e, c->x, n);
    hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    c->t->rank(c->d, n, (int)out->len, out->dev, c->y, o->rank, s->aim);
    c->t->fab_start(c->d, &k, o->random_start, n, in->len, o->l2, o->eps, c->x, in->dev, s->walkers);
    for (int q = 0; q < o->steps && !hr_interrupted(); q++) {
        hr_crash_point("attack");
        if (q == 0) /* which may make the libraries load */
            step(e, o, n);
        else
            c->t->replay(c->d, graph(e, o, n));
    }
}

void hr_cuda_border(hr_exec *e, const hr_border *o, const float *x, const int32_t *y, const uint32_t *index,
                    int n, uint8_t *broken, float *adv, float *norm)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_play p = hr_cuda_play_begin(e, x, y, index, n, broken);
    hr_cuda_walker *found = hr_xcalloc((size_t)n, sizeof *found);
    take(e);
    if (p.n) {
        run(e, o, p.n);
        c->t->download(c->d, found, c->strong.walkers, (size_t)p.n * sizeof *found);
        hr_cuda_play_points(e, &p, c->strong.map[POINTS]);
    }
    for (int s = 0; s < p.n; s++) {
        if (found[s].broken)
            hr_cuda_play_broken(e, &p, s, broken, adv);
        if (norm)
            norm[p.who[s]] = (float)found[s].best;
    }
    hr_cuda_play_end(e, &p);
    free(found);
}
