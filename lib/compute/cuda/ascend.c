/* lib/compute/cuda/ascend.c -- hr_attack_pgd's loop (lib/attack/attack.c), queued on the device.
 *
 * The images go up once; then start, and per step forward, loss, backward, move, without a word to the host.
 * A step is recorded as a graph and kept: the next attack of the kind on as many images replays it. What
 * differs from step to step and from attack to attack, the key of an l2 step's noise, lies on the device. The
 * first step of all is not recorded: it makes the libraries load and choose what must not happen
 * meanwhile. */
#include "compute/cuda/cuda.h"

enum { L2 = 8 }; /* of a recorded step's kind, beside the loss */

static void start(hr_exec *e, const hr_ascent *a, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    hr_cuda_noise k = {a->seed, a->stream, a->c0, a->c1, c->index};
    if (a->spread != 0.0f)
        c->t->start_normal(c->d, &k, n, in->len, a->spread, c->x, in->dev);
    else if (a->random_start)
        c->t->start_uniform(c->d, &k, n, in->len, a->eps, c->x, in->dev);
    else
        c->t->copy(c->d, in->dev, c->x, in->len * (size_t)n * sizeof(float));
    hr_cuda_written(e, HR_CUDA_INPUT);
    k.c1++; /* the steps' noise is not the start's */
    if (a->l2)
        c->t->turns_start(c->d, &k, c->turns);
}

static void step(hr_exec *e, const hr_ascent *a, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT], *dx = &c->twin[HR_CUDA_DINPUT];
    hr_cuda_pass_forward(e, 0, n, a->bn);
    c->t->loss(c->d, a->loss, n, (int)c->twin[HR_CUDA_LOGITS].len, c->twin[HR_CUDA_LOGITS].dev, c->y,
               c->target, 1.0f, NULL, c->twin[HR_CUDA_DLOGITS].dev);
    hr_cuda_pass_backward(e, 0, n, a->bn, HR_DX);
    if (a->l2) {
        c->t->move_l2(c->d, c->turns, n, in->len, a->step, a->eps, c->x, dx->dev, in->dev);
        c->t->turns_next(c->d, c->turns);
    } else {
        c->t->move_linf(c->d, in->len * (size_t)n, a->step, a->eps, c->x, dx->dev, in->dev);
    }
}

static bool same(const hr_cuda_kept *k, const hr_cuda_kept *like)
{
    return k->graph && k->n == like->n && k->kind == like->kind && k->bn == like->bn && k->eps == like->eps &&
           k->step == like->step && k->more[0] == like->more[0] && k->more[1] == like->more[1] &&
           k->more[2] == like->more[2];
}

hr_cuda_graph *hr_cuda_recalled(const hr_cuda_exec *c, const hr_cuda_kept *like)
{
    for (size_t i = 0; i < HR_COUNT(c->graphs); i++)
        if (same(&c->graphs[i], like))
            return c->graphs[i].graph;
    return NULL;
}

hr_cuda_kept *hr_cuda_graph_room(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_kept *k = &c->graphs[c->recorded++ % (int)HR_COUNT(c->graphs)];
    if (k->graph)
        hr_cuda_wait(e); /* it may be under way */
    c->t->forget(c->d, k->graph);
    k->graph = NULL;
    return k;
}

static hr_cuda_graph *recorded(hr_exec *e, const hr_ascent *a, const hr_cuda_kept *like)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_kept *k = hr_cuda_graph_room(e);
    c->t->record(c->d);
    step(e, a, like->n);
    *k = *like;
    return k->graph = c->t->recorded(c->d);
}

void hr_cuda_ascend(hr_exec *e, const hr_ascent *a, const float *x, const int32_t *y, const uint32_t *index,
                    int n)
{
    hr_cuda_exec *c = e->cuda;
    if (x)
        hr_cuda_images(e, x, y, index, n);
    if (a->target)
        c->t->upload(c->d, c->target, a->target, c->twin[HR_CUDA_LOGITS].len * (size_t)n * sizeof *a->target);
    start(e, a, n);
    hr_cuda_kept like = {
        .n = n, .kind = a->loss + (a->l2 ? L2 : 0), .bn = a->bn, .eps = a->eps, .step = a->step};
    hr_cuda_graph *g = hr_cuda_recalled(c, &like);
    for (int s = 0; s < a->steps && !hr_interrupted(); s++) {
        hr_crash_point("attack");
        if (s == 1 && !g)
            g = recorded(e, a, &like);
        if (g)
            c->t->replay(c->d, g);
        else
            step(e, a, n);
    }
    for (int b = HR_CUDA_LOGITS; b < HR_CUDA_BUFFERS; b++)
        hr_cuda_written(e, b); /* also by what was replayed */
    if (x || a->target)
        hr_cuda_wait(e); /* they are the caller's again */
    if (a->bn == HR_BN_BATCH_UPDATE && !c->learner)
        hr_cuda_fetch_stats(e);
}
