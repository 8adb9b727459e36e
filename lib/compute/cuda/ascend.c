/* lib/compute/cuda/ascend.c -- hr_attack_pgd's loop (lib/attack/attack.c), queued on the device.
 *
 * The images go up once; then start, and per step forward, loss, backward, move, without a word to the host.
 * A step is recorded as a graph where its arguments are the same every time, from the second one on: the
 * first makes the libraries load and choose what must not happen while they are recorded; steps of an l2
 * attack are not (their noise counts them) and are queued one by one. */
#include "compute/cuda/cuda.h"

static void start(hr_exec *e, const hr_ascent *a, int n)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    hr_cuda_noise k = {a->seed, a->stream, a->c0, a->c1, c->index};
    if (a->spread != 0.0f)
        c->t->start_normal(c->d, &k, n, in->len, a->spread, c->x, in->dev);
    else if (a->random_start)
        c->t->start_uniform(c->d, &k, n, in->len, a->eps, c->x, in->dev);
    else
        c->t->copy(c->d, in->dev, c->x, in->len * (size_t)n * sizeof(float));
    in->on_dev = true;
    in->fetched = false;
}

static void step(hr_exec *e, const hr_ascent *a, int n, uint32_t s)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT], *dx = &c->twin[HR_CUDA_DINPUT];
    hr_cuda_pass_forward(e, 0, n, a->bn);
    c->t->loss(c->d, a->loss, n, (int)c->twin[HR_CUDA_LOGITS].len, c->twin[HR_CUDA_LOGITS].dev, c->y,
               c->target, 1.0f, NULL, c->twin[HR_CUDA_DLOGITS].dev);
    hr_cuda_pass_backward(e, 0, n, a->bn, HR_DX);
    hr_cuda_noise k = {a->seed, a->stream, a->c0, a->c1 + 1 + s, c->index};
    if (a->l2)
        c->t->move_l2(c->d, &k, n, in->len, a->step, a->eps, c->x, dx->dev, in->dev);
    else
        c->t->move_linf(c->d, in->len * (size_t)n, a->step, a->eps, c->x, dx->dev, in->dev);
}

static hr_cuda_graph *recorded_step(hr_exec *e, const hr_ascent *a, int n)
{
    const hr_cuda_exec *c = e->cuda;
    c->t->record(c->d);
    step(e, a, n, 0);
    return c->t->recorded(c->d);
}

void hr_cuda_ascend(hr_exec *e, const hr_ascent *a, const float *x, const int32_t *y, const uint32_t *index,
                    int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_plugin_table *t = c->t;
    size_t images = (size_t)n;
    t->upload(c->d, c->x, x, c->twin[HR_CUDA_INPUT].len * images * sizeof *x);
    t->upload(c->d, c->y, y, images * sizeof *y);
    t->upload(c->d, c->index, index, images * sizeof *index);
    if (a->target)
        t->upload(c->d, c->target, a->target, c->twin[HR_CUDA_LOGITS].len * images * sizeof(float));
    start(e, a, n);
    hr_cuda_graph *g = NULL;
    for (int s = 0; s < a->steps && !hr_interrupted(); s++) {
        hr_crash_point("attack");
        if (s == 1 && !a->l2)
            g = recorded_step(e, a, n);
        if (g)
            t->replay(c->d, g);
        else
            step(e, a, n, (uint32_t)s);
    }
    c->twin[HR_CUDA_DLOGITS].on_dev = true;
    c->twin[HR_CUDA_DLOGITS].fetched = false;
    hr_cuda_wait(e); /* x, y and index are the caller's again */
    t->forget(c->d, g);
    if (a->bn == HR_BN_BATCH_UPDATE)
        hr_cuda_fetch_stats(e);
}
