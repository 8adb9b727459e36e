/* lib/train/device.c -- the training loop's steps on a device: the same trainees and numbers, handed over to
 * lib/compute/cuda/learn.c. What train.c, stage.c and resume.c keep on the host is brought up to date by
 * hr_device_fetch, before it is saved, checked or shown. */
#include "compute/cuda/cuda.h"
#include "train/internal.h"

#include <stdlib.h>

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

/* Images whose class the logits z name. */
static uint64_t right(const hr_trainer *t, const float *z, int n)
{
    uint64_t count = 0;
    hr_argmax(z, 0, n, t->m->classes, t->pred);
    for (int i = 0; i < n; i++)
        count += t->pred[i] == t->y[i];
    return count;
}

uint64_t hr_device_pass(hr_trainer *t, int n, unsigned flags)
{
    hr_cuda_learn_pass(t->e, n, flags, t->loss, t->said);
    return right(t, t->said, n);
}

void hr_device_pair(hr_trainer *t, int n, bool mart, hr_tally *got)
{
    hr_cuda_learn_pair(t->e, n, mart ? HR_CUDA_MART : HR_CUDA_TRADES, t->o->beta, t->loss, t->clean_logits,
                       t->said);
    got->clean = right(t, t->clean_logits, n);
    got->robust = right(t, t->said, n);
}
