/* lib/compute/cuda/strong.c -- what the strong attacks have in common on a device.
 *
 * The images that are still whole go up once, packed; then the whole attack is queued, and at the end points
 * and flags come down. An image that breaks on the way is left alone by the kernels and carried along, so
 * that nothing has to be asked meanwhile. */
#include "compute/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

static void place(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_strong *s = &c->strong;
    hr_err err = HR_ERR_INIT;
    size_t batch = (size_t)e->opts.batch, all = c->twin[HR_CUDA_INPUT].len * batch;
    int rc = HR_OK;
    if (s->map[0])
        return;
    for (size_t i = 0; i < HR_COUNT(s->map); i++)
        s->map[i] = hr_cuda_take(c, all, &rc);
    s->aim = (int32_t *)(void *)hr_cuda_take(c, batch, &rc);
    if (hr_cuda_taken(e, rc, &err))
        hr_die("%s", err.msg);
}

hr_cuda_play hr_cuda_play_begin(hr_exec *e, const float *x, const int32_t *y, const uint32_t *index, int n,
                                const uint8_t *broken)
{
    hr_cuda_exec *c = e->cuda;
    float *host = c->twin[HR_CUDA_INPUT].host;
    size_t len = c->twin[HR_CUDA_INPUT].len;
    hr_cuda_play p = {.who = hr_xcalloc((size_t)n, sizeof *p.who),
                      .y = hr_xcalloc((size_t)n, sizeof *p.y),
                      .index = hr_xcalloc((size_t)n, sizeof *p.index)};
    place(e);
    for (int i = 0; i < n && !x; i++)
        p.who[p.n++] = i;
    if (!x)
        return p;
    hr_cuda_wait(e); /* the host's input buffer is page-locked: what is packed there travels well */
    for (int i = 0; i < n; i++) {
        if (broken[i])
            continue;
        memcpy(host + (size_t)p.n * len, x + (size_t)i * len, len * sizeof *x);
        p.y[p.n] = y[i];
        p.index[p.n] = index[i];
        p.who[p.n++] = i;
    }
    if (p.n)
        hr_cuda_images(e, host, p.y, p.index, p.n);
    return p;
}

void hr_cuda_play_points(hr_exec *e, const hr_cuda_play *p, const float *points)
{
    const hr_cuda_exec *c = e->cuda;
    const hr_cuda_twin *in = &c->twin[HR_CUDA_INPUT];
    c->t->download(c->d, in->host, points, (size_t)p->n * in->len * sizeof *points);
    hr_cuda_wait(e);
}

void hr_cuda_play_broken(hr_exec *e, const hr_cuda_play *p, int s, uint8_t *broken, float *adv)
{
    const hr_cuda_twin *in = &e->cuda->twin[HR_CUDA_INPUT];
    broken[p->who[s]] = 1;
    memcpy(adv + (size_t)p->who[s] * in->len, in->host + (size_t)s * in->len, in->len * sizeof *adv);
}

void hr_cuda_play_end(hr_exec *e, hr_cuda_play *p)
{
    for (int b = 0; b < HR_CUDA_BUFFERS; b++)
        hr_cuda_written(e, b);
    free(p->who);
    free(p->y);
    free(p->index);
}
