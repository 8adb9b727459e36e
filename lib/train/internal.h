/* lib/train/internal.h -- what the training loop (train.c), its stages (stage.c) and its saved state
 * (resume.c) share. */
#ifndef HR_TRAIN_INTERNAL_H
#define HR_TRAIN_INTERNAL_H

#include "train/train.h"

enum hr_rule { HR_PLAIN, HR_MASKED, HR_SCORES, HR_ADMM };

/* An array of numbers that the optimiser moves. */
typedef struct hr_trainee {
    enum hr_rule rule;
    const char *name; /* of the tensor, for messages */
    float *value;     /* what is trained, n numbers in the model */
    size_t n;
    size_t weights;    /* of the tensor whose gradient the executor has */
    float *gradient;   /* (n); NULL for PLAIN */
    float *best;       /* (n) values of the best epoch; NULL where the last one counts */
    float *first;      /* (weights) gradient of the first pass of two; NULL where there is but one */
    float *buf, *buf2; /* (n) the optimiser's; buf2 is NULL for SGD */
    int tensor;        /* whose gradient the executor has */
    /* MASKED, SCORES and ADMM */
    const hr_layer *layer;
    enum hr_reg reg;
    int64_t kept;
    float *mask;         /* multipliers in the weight's layout; NULL for ADMM */
    const float *weight; /* SCORES */
    float *z, *u;        /* ADMM: (n) */
    float *scratch;      /* ADMM: (n) */
    uint8_t *chosen;     /* SCORES and ADMM: (n) */
} hr_trainee;

/* Running statistics: they move without an optimiser, as soon as a batch runs forward. */
typedef struct hr_moving {
    const char *name;
    float *value; /* n numbers in the model */
    size_t n;
    float *best;   /* (n) as a trainee's */
    float *before; /* (n) what they were when the step began: a step that is dropped puts them back */
} hr_moving;

typedef struct hr_tally {
    uint64_t n, clean, robust;
    double loss; /* sum */
} hr_tally;

/* Where a run is. Saved as it stands, so it has no padding. */
typedef struct hr_place {
    int32_t epoch;      /* the running one, from 0 */
    uint32_t step;      /* steps done in it */
    uint64_t steps;     /* done since the beginning */
    uint64_t measuring; /* 1: its training is over and in the log, the probe is being measured */
    double best;        /* the probe's best robust accuracy so far, percent */
    double score;       /* of the best epoch */
    int64_t selected;   /* the best epoch, from 1; 0: none yet */
    hr_tally sum;       /* of the running epoch */
} hr_place;

/* The images of a step: rows of the data, and of the extra data. */
typedef struct hr_images {
    const uint32_t *rows, *extra;
    int n, nextra;
} hr_images;

enum { HR_PROBES = 2 }; /* clean, attacked */

typedef struct hr_trainer {
    hr_model *m;
    const hr_train_opts *o;
    hr_log *log;
    hr_layers layers;
    hr_exec *e;
    hr_trainee *list;
    int n;
    hr_moving *moving;
    int nmoving;
    hr_place at;
    hr_eval_work probe[HR_PROBES]; /* of probed images */
    uint32_t probed;               /* 0: no probe */
    uint32_t *chosen,
        *extra; /* (nextra) rows of o->extra that are used, and in this epoch's order; or NULL */
    uint32_t nextra;
    /* one batch, of at most `room` images */
    int room;
    float *x;
    int32_t *y, *pred;
    uint32_t *index;
    double *loss;
    float *noise; /* free: (batch, h,w,c), else NULL */
    /* losses of pairs, else NULL: attacked images, logits of the images, the loss's gradient by them */
    float *attacked, *clean_logits, *dclean;
    bool paired;        /* this step has two passes */
    bool on_device;     /* steps are device.c's; what is trained lies there */
    uint64_t staged[2]; /* steps whose images are on their way to it, from 1; 0: none */
    uint32_t told;      /* the step, from 1 in its epoch, whose numbers came last to at.sum */
    struct {            /* a device's step whose numbers are still to come */
        int n, slot;    /* n: images, 0: there is none */
        uint32_t step;
    } late;
} hr_trainer;

/* Does some epoch's objective look at an image and its attacked copy together? */
bool hr_trains_pairs(const hr_train_opts *o);

/* The numbers of a step, from 1, go to the epoch's. Returns 0 or HR_EDIVERGED (without a message): its loss,
 * now in t->at.sum, is no number. */
HR_MUST_CHECK int hr_add_up(hr_trainer *t, const hr_tally *got, uint32_t step);

/* ---- stage.c */

/* Do the model's masks and plans fit the stage? Returns 0 or HR_EINVAL. */
HR_MUST_CHECK int hr_stage_check(const hr_trainer *t, hr_err *err);
/* What a stage does to the model before there is an executor: scores are added, pruned weights zeroed. */
void hr_stage_begin(hr_trainer *t);
/* Fill list and moving, and give the executor the masks. */
void hr_stage_trainees(hr_trainer *t);
/* The mask that a SCORES trainee's scores mean now. */
void hr_stage_choose(hr_trainee *p);
/* p's gradient after a backward pass; rho is ADMM's. May be called once per step. */
const float *hr_stage_gradient(const hr_trainer *t, hr_trainee *p, double rho);
/* The masks that the last scores mean become the model's; the executor is freed. */
void hr_stage_masks(hr_trainer *t);
void hr_stage_release(hr_trainer *t);

/* Marks what belongs to the extra data: counters of its noise and of its order, which are others then. */
#define HR_EXTRA 0x80000000u

/* ---- device.c */

/* Hand what is trained over to the executor's device, where it has one. Returns 0 or HR_EINVAL. */
HR_MUST_CHECK int hr_device_begin(hr_trainer *t, hr_err *err);
/* Bring the trainees, running statistics and noise of the host up to date; nothing where they are. */
void hr_device_fetch(hr_trainer *t);
/* Send the images of the step-th step of the run, from 0, on their way; nothing where they are. */
void hr_device_stage(hr_trainer *t, const hr_dataset *ds, const hr_images *images, uint64_t step);
/* They become the batch. */
void hr_device_take(hr_trainer *t, const hr_dataset *ds, const hr_images *images, uint64_t step);
/* A step of the optimiser with the gradients of the last pass; project: ADMM's Z and U move first. */
void hr_device_update(hr_trainer *t, double lr, double rho, bool project);
/* Behind a step of n images, all of it queued: its numbers begin to travel, those of the step before are
 * added up, which the device has passed by now (with o->at, its own). Returns as hr_add_up. */
HR_MUST_CHECK int hr_device_note(hr_trainer *t, int n);
/* Wait for the numbers that are still to come. */
HR_MUST_CHECK int hr_device_hear(hr_trainer *t);

/* Images rows[0..n) of ds (NULL: [first,first+n)), as they are, begin to travel to the executor's device
 * beside its work, unless they are under way; what was asked for before the last hr_device_batch must have
 * been waited for. */
void hr_device_ahead(hr_exec *e, const hr_dataset *ds, const uint32_t *rows, uint32_t first, uint32_t n);
/* They become the batch: an attack finds them where it is given none. */
void hr_device_batch(hr_exec *e, const hr_dataset *ds, const uint32_t *rows, uint32_t first, uint32_t n);
/* The n images of the batch become the executor's input. */
void hr_device_input(hr_exec *e, int n);

/* ---- eval.c */

/* hr_eval_batch without its end: the logits are left in the executor. x, y, index NULL: they are the device's
 * batch; then nothing is waited for. */
void hr_eval_queue(hr_exec *e, const hr_eval_attack *a, int restart, const float *x, const int32_t *y,
                   const uint32_t *index, int n);

/* ---- resume.c */

/* Save the run where it is. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_trainer_save(hr_trainer *t, hr_err *err);
/* Go on from the job's saved state, if there is one: fills the trainees, the running statistics, the place,
 * the probe's work and the log's lines. Returns 0, HR_EFORMAT or HR_EIO; t is then of no use. */
HR_MUST_CHECK int hr_trainer_load(hr_trainer *t, hr_err *err);

/* Note what the executor's logits say of image `row`, sample s of a batch, whose class is y: pred and top5.
 */
void hr_eval_note(const hr_exec *e, hr_eval_work *w, uint32_t row, int s, int32_t y, int32_t pred);

/* hr_eval_step and the beginning of an entry in the record, of strong attacks (cascade.c). */
HR_MUST_CHECK int hr_cascade_step(hr_exec *e, int batch, const hr_dataset *ds, const hr_eval_attack *a,
                                  hr_eval_work *w);
json_t *hr_cascade_json(const hr_eval_attack *a, const hr_eval_result *r);

#endif
