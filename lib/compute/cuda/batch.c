/* lib/compute/cuda/batch.c -- images on their way to the device, beside the work.
 *
 * An executor has two slots: page-locked memory on the host, which the caller fills with bytes, and its twin
 * on the device. While one slot's batch is worked on, the other one's travels on a stream of its own; taking
 * it makes the work wait for it, and draws and cuts its images' windows (images.cu) to where attacks find
 * them. */
#include "compute/cuda/cuda.h"

static size_t images(const hr_exec *e, int n)
{
    return e->cuda->twin[HR_CUDA_INPUT].len * (size_t)n;
}

/* bytes on the host, page-locked, and on the device. */
static void *twin(hr_cuda_exec *c, size_t bytes, void **dev, int *rc, hr_err *err)
{
    size_t n = (bytes + sizeof(float) - 1) / sizeof(float);
    *dev = hr_cuda_take(c, n, rc);
    return hr_cuda_take_host(c, n, rc, err);
}

void hr_cuda_batch_place(hr_exec *e, int *rc, hr_err *err)
{
    hr_cuda_exec *c = e->cuda;
    size_t n = (size_t)e->opts.batch;
    for (int i = 0; i < HR_CUDA_SLOTS; i++) {
        hr_cuda_slot *s = &c->slots[i];
        void *dev[3];
        s->host.pixels = twin(c, images(e, e->opts.batch), &dev[0], rc, err);
        s->host.y = twin(c, n * sizeof *s->host.y, &dev[1], rc, err);
        s->host.index = twin(c, n * sizeof *s->host.index, &dev[2], rc, err);
        s->dev = (hr_cuda_batch){dev[0], dev[1], dev[2]};
    }
    c->windows = (hr_cuda_window *)(void *)hr_cuda_take(c, n * sizeof *c->windows / sizeof(float), rc);
}

void hr_cuda_images(hr_exec *e, const float *x, const int32_t *y, const uint32_t *index, int n)
{
    hr_cuda_exec *c = e->cuda;
    c->t->upload(c->d, c->x, x, images(e, n) * sizeof *x);
    c->t->upload(c->d, c->y, y, (size_t)n * sizeof *y);
    c->t->upload(c->d, c->index, index, (size_t)n * sizeof *index);
}

hr_cuda_batch hr_cuda_batch_room(hr_exec *e, int slot)
{
    return e->cuda->slots[slot].host;
}

void hr_cuda_batch_stage(hr_exec *e, int slot, int n)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_batch *to = &c->slots[slot].dev, *from = &c->slots[slot].host;
    size_t count = (size_t)n;
    c->t->stage(c->d, to->pixels, from->pixels, images(e, n));
    c->t->stage(c->d, to->y, from->y, count * sizeof *to->y);
    c->t->stage(c->d, to->index, from->index, count * sizeof *to->index);
    c->t->staged(c->d, slot);
    c->slots[slot].n = n;
}

int hr_cuda_batch_staged(const hr_exec *e, int slot)
{
    return e->cuda->slots[slot].n;
}

int hr_cuda_batch_free(const hr_exec *e)
{
    return (e->cuda->working + 1) % HR_CUDA_SLOTS;
}

void hr_cuda_batch_take(hr_exec *e, int slot, const hr_cuda_augment *how)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_batch *b = &c->slots[slot].dev;
    int channels, h, w, n = c->slots[slot].n;
    hr_exec_shape(e, &channels, &h, &w);
    c->t->await(c->d, slot);
    c->t->windows(c->d, how, n, h, w, b->index, c->windows);
    c->t->cut(c->d, n, h, w, channels, b->pixels, c->windows, c->x);
    c->t->copy(c->d, c->y, b->y, (size_t)n * sizeof *b->y);
    c->t->copy(c->d, c->index, b->index, (size_t)n * sizeof *b->index);
    c->slots[slot].n = 0;
    c->working = slot;
}

void hr_cuda_to_input(hr_exec *e, const float *x, int n)
{
    hr_cuda_exec *c = e->cuda;
    c->t->copy(c->d, c->twin[HR_CUDA_INPUT].dev, x, images(e, n) * sizeof *x);
    hr_cuda_written(e, HR_CUDA_INPUT);
}

void hr_cuda_batch_input(hr_exec *e, int n)
{
    hr_cuda_to_input(e, e->cuda->x, n);
}
