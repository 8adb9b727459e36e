/* lib/train/device.c -- the training loop's steps on a device: the same trainees and numbers, handed over to
 * lib/compute/cuda/learn.c. What train.c, stage.c and resume.c keep on the host is brought up to date by
 * hr_device_fetch, before it is saved, checked or shown. */
#include "compute/cuda/cuda.h"
#include "train/internal.h"

#include <stdlib.h>
#include <string.h>

static const int rules[] = {[HR_PLAIN] = HR_CUDA_PLAIN,
                            [HR_MASKED] = HR_CUDA_MASKED,
                            [HR_SCORES] = HR_CUDA_SCORES,
                            [HR_ADMM] = HR_CUDA_ADMM};
static const int optimisers[] = {
    [HR_SGD] = HR_CUDA_SGD, [HR_ADAM] = HR_CUDA_ADAM, [HR_RMSPROP] = HR_CUDA_RMSPROP};

int hr_device_begin(hr_trainer *t, hr_err *err)
{
    if (!hr_exec_on_device(t->e))
        return HR_OK;
    hr_cuda_trainee *list = hr_xcalloc((size_t)t->n, sizeof *list);
    for (int i = 0; i < t->n; i++) {
        const hr_trainee *p = &t->list[i];
        list[i] = (hr_cuda_trainee){.rule = rules[p->rule],
                                    .tensor = p->tensor,
                                    .value = p->value,
                                    .buf = p->buf,
                                    .buf2 = p->buf2,
                                    .z = p->z,
                                    .u = p->u,
                                    .n = p->n};
        if (p->rule == HR_PLAIN)
            continue;
        list[i].channel = p->reg == HR_REG_CHANNEL;
        list[i].co = p->layer->out;
        list[i].ci = p->layer->in;
        list[i].taps = p->layer->kh * p->layer->kw;
        list[i].kept = p->kept;
    }
    int rc = hr_cuda_learn(t->e, list, t->n, hr_trains_pairs(t->o), t->noise, err);
    free(list);
    t->on_device = rc == HR_OK;
    return rc;
}

void hr_device_fetch(hr_trainer *t)
{
    if (t->on_device)
        hr_cuda_learn_fetch(t->e);
}

/* Rows of ds to place `at` of a slot. */
static void fill(const hr_trainer *t, hr_cuda_batch *b, const hr_dataset *ds, const uint32_t *rows, int n,
                 int at)
{
    size_t bytes = hr_exec_input_len(t->e);
    for (int i = 0; i < n; i++) {
        memcpy(b->pixels + bytes * (size_t)(at + i), ds->pixels + bytes * rows[i], bytes);
        b->y[at + i] = ds->labels[rows[i]];
        b->index[at + i] = ds->index[rows[i]] | (ds == t->o->extra ? HR_EXTRA : 0);
    }
}

void hr_device_stage(hr_trainer *t, const hr_dataset *ds, const hr_images *images, uint64_t step)
{
    int slot = (int)(step % HR_CUDA_SLOTS);
    if (t->staged[slot] == step + 1)
        return;
    hr_cuda_batch b = hr_cuda_batch_room(t->e, slot);
    fill(t, &b, ds, images->rows, images->n, 0);
    if (images->nextra > 0)
        fill(t, &b, t->o->extra, images->extra, images->nextra, images->n);
    hr_cuda_batch_stage(t->e, slot, images->n + images->nextra);
    t->staged[slot] = step + 1;
}

void hr_device_take(hr_trainer *t, const hr_dataset *ds, const hr_images *images, uint64_t step)
{
    const hr_train_opts *o = t->o;
    hr_cuda_augment how = {.resized = o->resized_crop,
                           .flip = o->flip,
                           .pad = o->augment_pad,
                           .seed = o->seed,
                           .stream = HR_STREAM_AUGMENT,
                           .epoch = (uint32_t)t->at.epoch};
    hr_device_stage(t, ds, images, step);
    hr_cuda_batch_take(t->e, (int)(step % HR_CUDA_SLOTS), &how);
    hr_cuda_learn_begin(t->e);
}

void hr_device_update(hr_trainer *t, double lr, double rho, bool project)
{
    const hr_train_opts *o = t->o;
    hr_cuda_optimum step = {.kind = optimisers[o->optimizer],
                            .lr = (float)lr,
                            .momentum = (float)o->momentum,
                            .decay = (float)o->weight_decay,
                            .nesterov = o->nesterov,
                            .step = (int64_t)t->at.steps,
                            .project = project,
                            .rho = rho};
    hr_cuda_learn_step(t->e, &step);
}

int hr_device_hear(hr_trainer *t)
{
    int n = t->late.n;
    if (n == 0)
        return HR_OK;
    const double *said = hr_cuda_learn_hear(t->e, t->late.slot);
    hr_tally got = {.n = (uint64_t)n,
                    .clean = (uint64_t)said[HR_CUDA_CLEAN],
                    .robust = (uint64_t)said[HR_CUDA_ROBUST],
                    .loss = hr_tree_sum(said + HR_CUDA_LOSSES, (size_t)n)};
    t->late.n = 0;
    return hr_add_up(t, &got, t->late.step);
}

int hr_device_note(hr_trainer *t, int n)
{
    int slot = (int)((t->at.steps - 1) % HR_CUDA_SLOTS);
    hr_cuda_learn_tell(t->e, slot, n);
    int rc = hr_device_hear(t);
    t->late.n = n;
    t->late.slot = slot;
    t->late.step = t->at.step;
    return rc || !t->o->at ? rc : hr_device_hear(t);
}

/* ---- evaluation: images as they are, batch by batch ---------------------------------------------------- */

static uint32_t row_of(const uint32_t *rows, uint32_t first, uint32_t i)
{
    return rows ? rows[i] : first + i;
}

/* Are these images what is on its way in the slot? */
static bool under_way(hr_exec *e, int slot, const hr_dataset *ds, const uint32_t *rows, uint32_t first,
                      uint32_t n)
{
    hr_cuda_batch b = hr_cuda_batch_room(e, slot);
    size_t bytes = hr_exec_input_len(e);
    bool same = hr_cuda_batch_staged(e, slot) == (int)n;
    for (uint32_t i = 0; i < n && same; i++) {
        uint32_t row = row_of(rows, first, i);
        same = b.y[i] == ds->labels[row] && b.index[i] == ds->index[row] &&
               !memcmp(b.pixels + i * bytes, ds->pixels + row * bytes, bytes);
    }
    return same;
}

void hr_device_ahead(hr_exec *e, const hr_dataset *ds, const uint32_t *rows, uint32_t first, uint32_t n)
{
    int slot = hr_cuda_batch_free(e);
    hr_cuda_batch b = hr_cuda_batch_room(e, slot);
    size_t bytes = hr_exec_input_len(e);
    if (n == 0 || under_way(e, slot, ds, rows, first, n))
        return;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t row = row_of(rows, first, i);
        memcpy(b.pixels + i * bytes, ds->pixels + row * bytes, bytes);
        b.y[i] = ds->labels[row];
        b.index[i] = ds->index[row];
    }
    hr_cuda_batch_stage(e, slot, (int)n);
}

void hr_device_batch(hr_exec *e, const hr_dataset *ds, const uint32_t *rows, uint32_t first, uint32_t n)
{
    static const hr_cuda_augment as_they_are;
    int slot = hr_cuda_batch_free(e);
    hr_device_ahead(e, ds, rows, first, n);
    hr_cuda_batch_take(e, slot, &as_they_are);
}

void hr_device_input(hr_exec *e, int n)
{
    hr_cuda_batch_input(e, n);
}
