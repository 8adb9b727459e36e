/* lib/train/resume.c -- what a training run saves, so that it can go on bit for bit.
 *
 * Everything that moves, and nothing that follows from it or from the inputs:
 *
 *     place           epoch, step, the running epoch's tallies
 *     per trainee     its values, the optimiser's one or two buffers, ADMM's Z and U
 *     best            trainees and running statistics of the best epoch, where that one counts
 *     noise           of free adversarial training
 *     per batch norm  running mean and variance
 *     per probe       how many images are measured, what was right, the losses
 *     log             the lines so far
 *
 * The order of an epoch, the noise and the learning rate are functions of seed, epoch and step; masks follow
 * from the scores (prune) or are the input's (finetune), as are the weights that prune leaves alone.
 *
 * The document beside the blocks says {"epoch", "step", "log"}: the place for people, and the length of the
 * log's block, which must be known before the blocks are read. */
#include "train/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LOG = 64 << 20 };

/* The blocks in their one order, lines last; *n receives their number. Caller frees the list. */
static hr_block *list_blocks(hr_trainer *t, size_t *n)
{
    hr_block *list = hr_xcalloc(3 + 6 * (size_t)t->n + 3 * HR_PROBES + 2 * (size_t)t->nmoving, sizeof *list);
    hr_block *b = list;
    *b++ = (hr_block){"place", &t->at, sizeof t->at};
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        *b++ = (hr_block){p->name, p->value, p->n * sizeof *p->value};
        *b++ = (hr_block){"optimiser", p->buf, p->n * sizeof *p->buf};
        if (p->buf2)
            *b++ = (hr_block){"optimiser 2", p->buf2, p->n * sizeof *p->buf2};
        if (p->best)
            *b++ = (hr_block){"best", p->best, p->n * sizeof *p->best};
        if (p->z) {
            *b++ = (hr_block){"admm z", p->z, p->n * sizeof *p->z};
            *b++ = (hr_block){"admm u", p->u, p->n * sizeof *p->u};
        }
    }
    for (int i = 0; i < t->nmoving; i++) {
        hr_moving *v = &t->moving[i];
        *b++ = (hr_block){v->name, v->value, v->n * sizeof(float)};
        if (v->best)
            *b++ = (hr_block){"best", v->best, v->n * sizeof(float)};
    }
    if (t->noise)
        *b++ = (hr_block){"noise", t->noise, (size_t)t->room * hr_exec_input_len(t->e) * sizeof *t->noise};
    for (int i = 0; t->probed && i < HR_PROBES; i++) {
        hr_eval_work *w = &t->probe[i];
        *b++ = (hr_block){"probe", &w->done, sizeof w->done};
        *b++ = (hr_block){"correct", w->correct, t->probed};
        *b++ = (hr_block){"loss", w->loss, t->probed * sizeof *w->loss};
    }
    *b++ = (hr_block){"log", t->log->lines.data, t->log->lines.len};
    *n = (size_t)(b - list);
    return list;
}

int hr_trainer_save(hr_trainer *t, hr_err *err)
{
    size_t n;
    hr_block *blocks = list_blocks(t, &n);
    json_t *at = json_pack("{s:i, s:I, s:I}", "epoch", t->at.epoch + 1, "step", (json_int_t)t->at.step, "log",
                           (json_int_t)t->log->lines.len);
    int rc = hr_job_save(t->o->job, at, blocks, n, err);
    json_decref(at);
    free(blocks);
    return rc;
}

static bool makes_sense(const hr_trainer *t)
{
    const hr_place *at = &t->at;
    int epochs = t->o->schedule.warmup_epochs + t->o->schedule.epochs;
    bool sense = at->epoch >= 0 && at->epoch <= epochs && at->measuring <= 1;
    for (int i = 0; i < HR_PROBES; i++)
        sense &= t->probe[i].done <= t->probed;
    return sense;
}

int hr_trainer_load(hr_trainer *t, hr_err *err)
{
    const json_t *at = hr_job_saved(t->o->job);
    if (!at)
        return HR_OK;
    json_int_t lines = json_integer_value(json_object_get(at, "log"));
    if (lines < 0 || lines > MAX_LOG)
        return hr_fail(err, HR_EFORMAT, "the saved state has a log of %lld bytes; --restart discards it",
                       (long long)lines);
    hr_buf *log = &t->log->lines;
    hr_buf_release(log);
    *log = (hr_buf){.data = hr_xcalloc((size_t)lines + 1, 1), .len = (size_t)lines, .cap = (size_t)lines + 1};
    size_t n;
    hr_block *blocks = list_blocks(t, &n);
    int rc = hr_job_load(t->o->job, blocks, n, err);
    free(blocks);
    if (!rc && !makes_sense(t))
        rc = hr_fail(err, HR_EFORMAT, "the saved state is at no place of this run; --restart discards it");
    return rc;
}
