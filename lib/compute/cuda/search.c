/* lib/compute/cuda/search.c -- hr_attack_square's loop (lib/attack/square.c), queued on the device.
 *
 * The point to try lies in the executor's input, the best one in a map of its own. A query is recorded as a
 * graph: which one it is, and so where its squares lie and how large they are, is found on the device. */
#include "compute/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { KIND = 32 }; /* of a recorded query: behind climb.c's */

static void take(hr_exec *e, const hr_search *o)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_strong *s = &c->strong;
    hr_err err = HR_ERR_INIT;
    int rc = HR_OK, ch, h, w;
    hr_exec_shape(e, &ch, &h, &w);
    size_t side = (size_t)(h < w ? h : w);
    if (!s->searchers) {
        s->searchers = (hr_cuda_searcher *)(void *)hr_cuda_take(
            c, (size_t)e->opts.batch * sizeof *s->searchers / 4, &rc);
        s->squares = (hr_cuda_squares *)(void *)hr_cuda_take(c, sizeof *s->squares / 4, &rc);
    }
    if (o->bumps && !s->bumps)
        s->bumps = hr_cuda_take(c, (HR_CUDA_LEVELS + 1) * side * side, &rc);
    if (hr_cuda_taken(e, rc, &err))
        hr_die("%s", err.msg);
}

/* The network's answer to the points to try. */
static void look(hr_exec *e, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_strong *s = &c->strong;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT], *out = &c->twin[HR_CUDA_LOGITS];
    hr_cuda_pass_forward(e, 0, n, HR_BN_FOLDED);
    c->t->square_look(c->d, c->turns, n, in->len, (int)out->len, out->dev, c->y, s->searchers, in->dev,
                      s->map[0]);
    c->t->turns_next(c->d, c->turns);
}

static hr_cuda_shape shape_of(hr_exec *e)
{
    int c, h, w;
    hr_exec_shape(e, &c, &h, &w);
    return (hr_cuda_shape){h, w, c};
}

static void query(hr_exec *e, const hr_search *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_strong *s = &c->strong;
    hr_cuda_shape m = shape_of(e);
    c->t->square_try(c->d, c->turns, s->squares, o->bumps ? s->bumps : NULL, n, &m, o->eps, c->x,
                     s->searchers, s->map[0], c->twin[HR_CUDA_INPUT].dev, s->map[1]);
    look(e, n);
}

static hr_cuda_graph *graph(hr_exec *e, const hr_search *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_kept like = {.n = n, .kind = KIND + (o->bumps ? 1 : 0), .bn = HR_BN_FOLDED, .eps = o->eps};
    hr_cuda_graph *g = hr_cuda_recalled(c, &like);
    if (g)
        return g;
    hr_cuda_kept *k = hr_cuda_graph_room(e);
    c->t->record(c->d);
    query(e, o, n);
    *k = like;
    return k->graph = c->t->recorded(c->d);
}

static void run(hr_exec *e, const hr_search *o, int n)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_strong *s = &c->strong;
    hr_cuda_noise key = {o->seed, o->stream, o->c0, o->c1, c->index};
    hr_cuda_shape m = shape_of(e);
    hr_cuda_squares *table = &s->host_squares;
    size_t at = 0;
    *table = (hr_cuda_squares){.levels = o->levels};
    for (int k = 0; k <= o->levels; k++) {
        table->begin[k] = o->begin[k];
        table->side[k] = o->side[k];
        table->at[k] = (int32_t)at;
        at += (size_t)o->side[k] * (size_t)o->side[k];
    }
    c->t->upload(c->d, s->squares, table, sizeof *table);
    if (o->bumps)
        c->t->upload(c->d, s->bumps, o->bumps, at * sizeof *o->bumps);
    c->t->turns_start(c->d, &key, c->turns);
    hr_crash_point("attack");
    c->t->square_start(c->d, c->turns, s->squares, o->bumps ? s->bumps : NULL, n, &m, o->eps, c->x,
                       c->twin[HR_CUDA_INPUT].dev, s->searchers);
    look(e, n);
    for (int q = 1; q <= o->queries && !hr_interrupted(); q++) {
        hr_crash_point("attack");
        c->t->replay(c->d, graph(e, o, n));
    }
}

void hr_cuda_search(hr_exec *e, const hr_search *o, const float *x, const int32_t *y, const uint32_t *index,
                    int n, uint8_t *broken, float *adv)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_play p = hr_cuda_play_begin(e, x, y, index, n, broken);
    hr_cuda_searcher *found = hr_xcalloc((size_t)n, sizeof *found);
    take(e, o);
    if (p.n) {
        run(e, o, p.n);
        c->t->download(c->d, found, c->strong.searchers, (size_t)p.n * sizeof *found);
        hr_cuda_play_points(e, &p, c->twin[HR_CUDA_INPUT].dev);
    }
    for (int s = 0; s < p.n; s++)
        if (found[s].broken)
            hr_cuda_play_broken(e, &p, s, broken, adv);
    hr_cuda_play_end(e, &p);
    free(found);
}
