/* lib/train/train.h -- training robust networks, pruning them with HYDRA, and measuring what they are worth.
 *
 * One header: optimisers and schedules (optim.c), losses of pairs (loss.c), HYDRA's scores (hydra.c), ADMM's
 * variables (admm.c), pseudo-labels (pseudo.c), the log (log.c, events.c), the
 * training loop of all stages (train.c; stage.c says what a stage trains, resume.c saves where it is), and
 * evaluation, as one record (eval.c) or as a service for the search (serve.c).
 *
 * Pixels, eps and step are in [0,1]; rates are fractions kept; accuracies are percentages. */
#ifndef HR_TRAIN_H
#define HR_TRAIN_H

#include "attack/attack.h"
#include "base/base.h"
#include "compute/compute.h"
#include "data/data.h"
#include "model/model.h"
#include "prune/prune.h"

/* ---- optimisers and schedules (optim.c) ---------------------------------------------------------------- */

enum hr_optimizer { HR_SGD, HR_ADAM, HR_RMSPROP };
extern const char *const hr_optimizer_names[4]; /* "sgd", "adam", "rmsprop", NULL */

/* One SGD step on p[0..n) in PyTorch's form (torch.optim.SGD, dampening 0):
 *     d = g + wd*p;   buf = first ? d : momentum*buf + d;   p -= lr * (nesterov ? d + momentum*buf : buf)
 * buf (n) is the caller's and is written even when momentum is 0. */
void hr_sgd_step(float *p, const float *g, float *buf, size_t n, float lr, float momentum, float wd,
                 bool nesterov, bool first);
/* One Adam step (Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1; torch.optim.Adam: betas 0.9 and 0.999,
 * eps 1e-8 behind the root, weight decay added to the gradient). t counts steps from 1; m and v (n) start at
 * zero. */
void hr_adam_step(float *p, const float *g, float *m, float *v, size_t n, float lr, float wd, int64_t t);

/* One RMSprop step (Tieleman and Hinton 2012; torch.optim.RMSprop, not centred: alpha 0.99, eps 1e-8 behind
 * the root, weight decay added to the gradient):
 *     d = g + wd*p;   v = alpha*v + (1-alpha)*d^2;   buf = momentum*buf + d/(sqrt(v)+eps);   p -= lr*buf
 * v and buf (n) start at zero. */
void hr_rmsprop_step(float *p, const float *g, float *v, float *buf, size_t n, float lr, float momentum,
                     float wd);

enum hr_schedule_kind {
    HR_LR_COSINE,       /* lr * (1 + cos(pi * t/E)) / 2, t in epochs, moving with every step */
    HR_LR_COSINE_EPOCH, /* the same held constant within an epoch: as published, without its offset of one
                           epoch (ALG 3.2) */
    HR_LR_STEP,         /* lr, lr/10 from 3/4 of the epochs on, lr/100 from 9/10 on */
    HR_LR_MULTISTEP,    /* lr * gamma^(milestones passed) */
    HR_LR_CONSTANT,
    HR_LR_CYCLE, /* lr, lr/10, lr/100 for a third of `cycle` epochs each, again and again (R-ADMM, ALG 5.2) */
};
extern const char *const hr_schedule_names[7]; /* "cosine", "cosine-epoch", "step", "multistep", "constant",
                                                  "cycle", NULL */

enum { HR_MAX_MILESTONES = 16 };
typedef struct hr_schedule {
    enum hr_schedule_kind kind;
    double lr;
    int epochs;        /* E, without the warm-up epochs: the loop runs warmup_epochs + epochs */
    int warmup_steps;  /* the first steps after the warm-up epochs ramp up: lr * (i+1)/warmup_steps */
    int warmup_epochs; /* epochs at warmup_lr before the schedule starts (SVHN's published setting) */
    bool warmup_ramp;  /* in them the rate rises linearly from warmup_lr, step by step, to lr behind them
                          (R-ADMM's retraining, ALG 5.2) */
    double warmup_lr;
    double late; /* cosines run so many epochs late: 1 is the published programs' (ALG 10, Q14) */
    int cycle;   /* epochs, at least 1, of HR_LR_CYCLE */
    double gamma;
    int milestones[HR_MAX_MILESTONES], nmilestones; /* epochs, ascending */
} hr_schedule;
/* Learning rate of step `step` (from 0) of `steps` in epoch `epoch` (from 0, warm-up epochs included). */
double hr_schedule_lr(const hr_schedule *s, int epoch, int64_t step, int64_t steps);

/* ---- losses of pairs (loss.c) -------------------------------------------------------------------------- */

/* Per sample, with q = softmax(zn) of the image, p = softmax(za) of its attacked copy:
 *   HR_PAIR_TRADES  CE(zn, y) + beta * KL(q || p)         Zhang et al. 2019, arXiv:1901.08573, Algorithm 1
 *   HR_PAIR_MART    CE(za, y) - log(1.0001 - max_{j!=y} p_j + 1e-12)
 *                   + beta * (1.0000001 - q_y) * sum_j q_j (log q_j - log(p_j + 1e-12))
 *                   Wang et al. 2020 (ICLR), Algorithm 1: BCE + lambda * KL * (1 - q_y), with the guards of
 *                   the published code
 * Gradients flow through both arguments. */
enum hr_pair_loss { HR_PAIR_TRADES, HR_PAIR_MART };
/* The loss of one sample, and its gradients dn, da (classes) by both rows of logits zn, za (classes). */
double hr_loss_pair_row(enum hr_pair_loss kind, const double *zn, const double *za, int32_t y, int classes,
                        double beta, double *dn, double *da);
/* Of a batch: loss (n) in full; dzn, dza (n,classes): scale * its gradients. zn, za (n,classes), y (n);
 * classes >= 2. */
void hr_loss_pair(enum hr_pair_loss kind, const float *zn, const float *za, const int32_t *y, int n,
                  int classes, double beta, float scale, double *loss, float *dzn, float *dza);

/* ---- HYDRA's scores (hydra.c) -------------------------------------------------------------------------- */

/* Sehwag et al. 2020, arXiv:2002.10509. A layer has one score s per weight, or per input channel; the network
 * runs with w_eff = w * mask, mask = the `kept` largest |s|. hr_score_count(l, reg) scores per layer. */

/* Scaled initialisation from the trained weights w (torch layout):
 *   weight   s = sqrt(6/fan_in) * w / max|w|,  fan_in = in*kh*kw
 *   channel  s = sqrt(6/in) * L1 / max L1 of the input channels (the published code sums over other memory
 *            than a channel's; this is what it intends, ALG 4) */
void hr_hydra_init(float *s, const float *w, const hr_layer *l, enum hr_reg reg);
/* Where the scores start. The random ones are those of torch.nn.init on the score tensor, whose fans are
 * in*kh*kw and out*kh*kw in weight mode, in and 1 in channel mode (ALG 4): */
enum hr_scores {
    HR_SCORES_SCALED, /* hr_hydra_init */
    HR_SCORES_RANDOM, /* U(-b, b), b = 1/sqrt(fan_in): kaiming_uniform_(a=sqrt(5)), what the published
                         code has without scaled initialisation */
    HR_SCORES_KAIMING_UNIFORM, /* b = sqrt(6/fan_in) */
    HR_SCORES_KAIMING_NORMAL,  /* N(0, 2/fan_in) */
    HR_SCORES_XAVIER_UNIFORM,  /* b = sqrt(12/(fan_in+fan_out)): gain sqrt(2) */
    HR_SCORES_XAVIER_NORMAL,   /* N(0, 4/(fan_in+fan_out)) */
    HR_SCORES_SNIP, /* |w * dL/dw_eff|, summed over a channel, of the natural loss of the first batch with all
                       weights there (Lee et al. 2019, arXiv:1810.02340, eq. 5 without its normalisation,
                       which no mask depends on). Until that batch came they are those of scaled */
};
extern const char *const hr_scores_names[8]; /* "scaled", "random", "kaiming-uniform", ...; NULL-terminated */
/* Fill s by any of them; number is the layer's, which keys the draws on HR_STREAM_SCORES. */
void hr_hydra_scores(float *s, const float *w, const hr_layer *l, enum hr_reg reg, enum hr_scores how,
                     uint32_t seed, uint32_t number);
/* mask (n bytes, n scores): 1 for the kept largest |s|, ties to the lower index. */
void hr_hydra_mask(const float *s, const hr_layer *l, enum hr_reg reg, int64_t kept, uint8_t *mask);
/* Straight-through gradient: the mask's own derivative with respect to |s| is taken as 1, for kept and pruned
 * entries alike, so
 *     ds = sign(s) * dw_eff * w          (channel: summed over the output channels and the kernel)
 * dw_eff, w in torch layout. */
void hr_hydra_grad(float *ds, const float *dw_eff, const float *w, const float *s, const hr_layer *l,
                   enum hr_reg reg);

/* ---- ADMM's variables (admm.c) ------------------------------------------------------------------------- */

/* z = P(v): of v (l->n, torch layout) what belongs to the `kept` largest |v|, or to the input channels of
 * largest l2 norm; zero elsewhere. Ties go to the lower index. scratch (l->n), chosen (hr_score_count) are
 * the caller's. z may not be v. */
void hr_admm_project(float *z, const float *v, const hr_layer *l, enum hr_reg reg, int64_t kept,
                     float *scratch, uint8_t *chosen);
/* Z <- P(W + U); U <- U + W - Z. From U = 0 and any Z the first call gives Z = P(W) and U = W - Z: a run
 * begins with hr_admm_project alone. */
void hr_admm_update(const float *w, float *z, float *u, const hr_layer *l, enum hr_reg reg, int64_t kept,
                    float *scratch, uint8_t *chosen);
/* g = d + rho (w - z + u), n numbers each. */
void hr_admm_gradient(float *g, const float *d, const float *w, const float *z, const float *u, size_t n,
                      float rho);
/* |W - Z|, the Frobenius norm. */
double hr_admm_gap(const float *w, const float *z, size_t n);

/* ---- the log (log.c) ----------------------------------------------------------------------------------- */

/* One line of the log. NaN: not measured. */
typedef struct hr_epoch {
    int epoch;         /* from 1 */
    const char *split; /* "train": as met during the epoch; "eval": measured after it */
    double loss;       /* mean, of what the objective looks at */
    double clean, robust;
    double lr;      /* at the epoch's last step */
    bool collapsed; /* "eval": the attacked accuracy is below half of the best one so far. Where training
                       takes single steps that is how it overfits to them (Wong et al. 2020, section 5.4) */
} hr_epoch;

/* The lines of a log, in memory and, when it was opened, in a file. A run that is saved saves the lines too,
 * so that the log of one that was interrupted ends up with no line twice and none missing. */
typedef struct hr_log {
    FILE *fp; /* NULL: the lines are only kept */
    const char *name;
    hr_buf lines;
    char *events_name; /* the lines as a TensorBoard event file, or NULL */
} hr_log;
/* Open the file path ("-": stdout; NULL: none), borrowed, without touching what it holds. Returns 0 or
 * HR_EIO.
 */
HR_MUST_CHECK int hr_log_open(hr_log *log, const char *path, hr_err *err);
/* From now on DIR/events.out.tfevents.heracles holds the lines too, for TensorBoard (events.c); the directory
 * is made. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_log_tensorboard(hr_log *log, const char *dir, hr_err *err);
/* Bring that file up to the lines; hr_log_cut and hr_log_add do it. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_log_events(const hr_log *log, hr_err *err);
/* Make the file hold exactly the lines: it is cut behind them, or written anew when it begins otherwise. A
 * pipe gets all lines. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_log_cut(hr_log *log, hr_err *err);
/* Add the line {"epoch", "split", "loss", "clean", "robust", "lr", "collapsed": true where it is} for e.
 * Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_log_add(hr_log *log, const hr_epoch *e, hr_err *err);
/* Add j, borrowed, as a line. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_log_json(hr_log *log, const json_t *j, hr_err *err);
void hr_log_close(hr_log *log); /* a zeroed one is allowed */

/* ---- semi-supervised training (pseudo.c) ----------------------------------------------------------------
 */

/* Give every image of ds the class that m, called name in messages, finds likeliest (Carmon et al. 2019,
 * arXiv:1905.13736, Algorithm 1, line 2). eo: batch, threads, exact. Returns 0 or HR_EINVAL (memory; a logit
 * is NaN: some labels are new then). */
HR_MUST_CHECK int hr_pseudo_labels(hr_model *m, const char *name, hr_dataset *ds, const hr_exec_opts *eo,
                                   hr_err *err);

/* ---- training (train.c) -------------------------------------------------------------------------------- */

/* What a stage trains, and what it leaves alone (ALG 3.1):
 *   pretrain   everything; a dense network. Refuses active masks.
 *   prune      the scores, and batch norm's scale and shift unless freeze_bn. Weights and biases stay as they
 *              are. Needs planned keep-counts (maskapply --plan) and dense weights. Scores start from the
 *              weights; at the end LAYER.popup_scores and the active LAYER.mask are in the model.
 *              With no epochs at all the initial scores decide: magnitude or SNIP pruning.
 *   admm       everything, with every layer's weights drawn towards the plan (admm.c). Needs planned
 *              keep-counts and dense weights; leaves both, with weights that are nearly zero where maskapply
 *              --score l2 will prune. At the first step Z = P(W) and U = 0; in every epoch that is a multiple
 *              of admm_every, counted from the first one, Z and U are updated and rho grows by 1.3
 * (rho_grows). After the line of each epoch the log has another one, {"epoch", "split": "admm", "rho",
 *              "penalty": sum of rho/2 |W-Z+U|^2, "gap": {layer: |W-Z|, ...}}.
 *   finetune   everything under the active masks. Pruned weights are set to zero first, get no gradient, and
 *              are exactly zero at the end.
 * Running statistics of batch norm move in every stage. */
enum hr_stage { HR_STAGE_PRETRAIN, HR_STAGE_PRUNE, HR_STAGE_FINETUNE, HR_STAGE_ADMM };
extern const char *const hr_stage_names[5];

/* What is minimised, mean over the batch; CE is cross-entropy, attacks as hr_attack_pgd:
 *   pgd        CE of attacked images (Madry et al. 2018, arXiv:1706.06083, eq. 2.1; ALG 3.4 "PGD-AT")
 *   natural    CE of the images
 *   fgsm       as pgd with one step from the image itself (Goodfellow et al. 2015, arXiv:1412.6572; the
 *              published warm-up loss: its step is `step`, not eps)
 *   fgsm-rs    as pgd with one step from a random start (Wong et al. 2020, arXiv:2001.03994, Algorithm 3;
 *              there step = 1.25 eps)
 *   trades     HR_PAIR_TRADES; the attack climbs KL from x + 0.001 N(0,1)
 *   trades-l2  the same; the attack stays in the l2 ball of radius eps, with steps of 2 eps/steps
 *   mart       HR_PAIR_MART; the attack climbs CE from x + 0.001 N(0,1)
 *   free       CE of clip(x + noise): every batch comes `repeats` times, each backward pass moves the
 *              parameters and, by eps * sign within [-eps,eps], the noise. It belongs to the place in the
 *              batch, starts at zero and is kept from batch to batch (Shafahi et al. 2019, arXiv:1904.12843,
 *              Algorithm 1)
 * trades and mart run the images and then their attacked copies forward, each with statistics of its own
 * batch; running statistics move with both. (The published TRADES runs the images twice.) */
enum hr_objective {
    HR_OBJ_PGD,
    HR_OBJ_NATURAL,
    HR_OBJ_FGSM,
    HR_OBJ_FGSM_RS,
    HR_OBJ_TRADES,
    HR_OBJ_TRADES_L2,
    HR_OBJ_MART,
    HR_OBJ_FREE
};
extern const char *const hr_objective_names[9]; /* in this order; NULL-terminated */

/* Where hr_train_opts.at is called: a step's images are there, not yet attacked (t->x, t->y); they are
 * attacked (the executor's input), and the passes that train begin; the step is over, and counted. */
enum hr_moment { HR_AT_IMAGES, HR_AT_ATTACKED, HR_AT_STEPPED };
struct hr_trainer;

typedef struct hr_train_opts {
    enum hr_stage stage;
    enum hr_objective objective;
    hr_schedule schedule;
    enum hr_optimizer optimizer;
    bool nesterov;                 /* sgd's */
    double momentum, weight_decay; /* decay applies to every trained parameter, scores included */
    bool exact;                    /* hr_exec_opts.exact */
    hr_device device;              /* hr_exec_opts.device */
    int batch, threads;            /* threads 0: all there are; the result does not depend on it */
    double eps, step;              /* the training attack and the probe's */
    int steps;
    bool random_start;
    enum hr_bn_mode attack_bn;
    double beta;              /* trades, mart: weight of the divergence */
    int repeats;              /* free: steps per batch, at least 1 */
    bool reset_noise;         /* free: the noise is zero again at the begin of every epoch (HYDRA's way) */
    int fgsm_epochs;          /* so many first epochs have the objective warmup; also the warm-up epochs do,
                                 where the rate does not ramp. natural stays natural */
    enum hr_objective warmup; /* fgsm as published, or any other but free */
    enum hr_scores scores;    /* prune: where they start */
    double rho;               /* admm: that of the first epochs */
    bool rho_grows;           /* admm: by 1.3 at every update ("multi-rho") */
    int admm_every;           /* admm: epochs between updates, at least 1 */
    bool freeze_bn;           /* prune: batch norm's scale and shift are not trained */
    int augment_pad;          /* random crop from this many zeros around the image; 0: none */
    bool resized_crop;        /* random resized crop instead of that */
    bool flip, log_clean;     /* log_clean: an extra pass per batch for the train line's clean accuracy */
    bool in_order;            /* images come in the order of the file in every epoch */
    uint32_t seed;
    const char *name; /* the model's file, for messages */
    bool best; /* the result is that of the epoch in which the probe was best, the first of equal ones: by
                  attacked accuracy, natural training by the clean one; its number goes into meta.selection.
                  Needs a probe. Else that of the last epoch */
    /* Semi-supervised training (Carmon et al. 2019, arXiv:1905.13736; ALG 3.4): every batch is followed by as
     * many images of extra, whose labels are taken as they are (pseudo-labels), and the epoch ends with the
     * shorter of the two. NULL: none. extra_share in (0,1] of them are used, drawn once. */
    const hr_dataset *extra;
    double extra_share;
    hr_job *job;     /* where the run is saved and goes on from; NULL: nowhere */
    hr_log *log;     /* NULL: none is wanted */
    hr_buf *profile; /* hr_profile_table of the run is added here at its end; NULL: none */

    void *ctx; /* of the two functions below; both may be NULL */
    /* after every epoch, once per split; a non-zero return (with err set) ends the training with it */
    int (*on_epoch)(void *ctx, const hr_epoch *e, hr_err *err);
    /* after every step: images done in this epoch and the accuracy so far */
    void (*on_step)(void *ctx, int epoch, uint32_t done, double accuracy);
    /* for tests that compare steps: may read and change what the loop works on (internal.h) */
    void (*at)(void *ctx, struct hr_trainer *t, enum hr_moment moment);
} hr_train_opts;

/* Train m in place on train. probe (may be NULL) is measured after every epoch, clean and under the training
 * attack with folded batch norm, when there is a log or on_epoch. The order of an epoch is a permutation
 * drawn on HR_STREAM_SHUFFLE; the last, smaller batch is used when it holds at least two images. The same
 * bits for any number of threads. The job is saved after every epoch, between two steps or batches of the
 * probe when it is due, and on a signal; a saved one goes on with the step it was at, and the result is that
 * of a run without interruption. Returns 0; HR_EINVAL (the stage does not fit the model's masks, fewer than
 * two images); HR_EDIVERGED (a loss or parameter is not finite: err names the step, m is of no use, and the
 * job's saved state is the last one before, all of whose numbers are finite); HR_EINTR (a signal
 * came; the unfinished step was dropped, the job is saved); HR_EFORMAT, HR_EIO (the saved state, the log); or
 * what on_epoch returned. */
HR_MUST_CHECK int hr_train(hr_model *m, const hr_dataset *train, const hr_dataset *probe,
                           const hr_train_opts *o, hr_err *err);

/* ---- evaluation (eval.c) ------------------------------------------------------------------------------- */

/* The strong attacks' kinds: what an entry of a list is made of (cascade.c). */
enum hr_part { HR_PART_APGD_CE, HR_PART_APGD_DLR, HR_PART_APGD_T, HR_PART_FAB_T, HR_PART_SQUARE, HR_PARTS };
extern const char *const hr_part_names[HR_PARTS + 1]; /* "apgd-ce", ..., NULL */

/* What attacks are measured with. */
typedef struct hr_eval_opts {
    double eps, step; /* radius; of pgd and cw, one step */
    int restarts;     /* random starts of all but fgsm and aa */
    enum hr_bn_mode bn;
    uint32_t seed;
    /* of the strong attacks: */
    enum hr_norm norm;
    int iterations; /* of apgd and fab */
    int queries;    /* of square */
    int targets;    /* classes that apgd-t and fab-t aim at; at most one fewer than the network has */
} hr_eval_opts;
/* eps and step 8/255 and 2/255, one restart; else AutoAttack's standard: l-inf, 100, 5000 and 9. */
#define HR_EVAL_OPTS                                                                                         \
    {                                                                                                        \
        .eps = 8.0 / 255.0, .step = 2.0 / 255.0, .restarts = 1, .iterations = 100, .queries = 5000,          \
        .targets = 9                                                                                         \
    }

typedef struct hr_eval_attack {
    char name[16]; /* "clean", "fgsm", "pgd20", "cw", "apgd-ce", ..., "aa" */
    bool clean;    /* no attack; the rest is unused but restarts (1) and opts.bn */
    int restarts;
    double eps, step; /* as asked for; opts has them in float */
    hr_attack_opts opts;
    int nparts; /* of a strong attack, which uses strong instead of opts; 0: it is none */
    enum hr_part part[HR_PARTS];
    hr_eval_opts strong;
    bool whole; /* min-norm: fab-t to its end, for the smallest perturbation of every image */
    bool keep;  /* the points that it found are wanted */
    bool probe; /* measured for hr_masking_json, no entry of the record */
} hr_eval_attack;
typedef struct hr_eval_result {
    uint32_t images, correct;
    double accuracy; /* percent */
    double balanced; /* percent: mean over the classes present of the share of their images classified right
                        (ALG 8.2) */
    double loss;     /* mean cross-entropy, of the first restart; of a strong attack, clean */
    uint32_t top5;   /* images whose class was among the five likeliest at every point looked at */
    uint32_t after[HR_PARTS]; /* of a strong attack: images that are right after each of its parts */
} hr_eval_result;

enum { HR_MAX_ATTACKS = 16 };
/* Parse a list such as "clean,fgsm,pgd20,cw" (ALG 8.1): pgdK is K steps, cwK or cw (20) steps on the margin
 * loss, both from a random start; fgsm is one step of eps from the image; apgd-ce, apgd-dlr, apgd-t, fab-t
 * and square are AutoAttack's parts, and aa is its standard sequence, without apgd-dlr. list holds
 * HR_MAX_ATTACKS; *n receives their number. Noise of an image is keyed by the kind of attack, the restart and
 * its index, so no result depends on the batch size, the number of threads, or the other attacks. Returns 0
 * or HR_EINVAL. */
HR_MUST_CHECK int hr_eval_parse(hr_eval_attack *list, int *n, const char *names, const hr_eval_opts *o,
                                hr_err *err);
/* Can this attack be run on a network with so many classes? HR_EINVAL if not. */
HR_MUST_CHECK int hr_eval_fits(const hr_eval_attack *a, int classes, hr_err *err);
/* Classify one batch of at most the executor's: x (n,h,w,c), y and index (n); pred (n) receives classes, -1
 * where a logit is NaN. The logits stay in the executor. */
void hr_eval_batch(hr_exec *e, const hr_eval_attack *a, int restart, const float *x, const int32_t *y,
                   const uint32_t *index, int n, int32_t *pred);
/* A measurement under way: plain data, so that it can be saved and gone on with. */
typedef struct hr_eval_work {
    uint32_t done;    /* images [0,done) are measured, in this round */
    uint32_t round;   /* of a strong attack; 0: all images clean */
    uint8_t *correct; /* (n) 1 where right after every restart */
    uint8_t *by;   /* (n) of a strong attack, where wrong: 0 without an attack, else 1 + the part's place */
    double *loss;  /* (n) of the first restart */
    int32_t *pred; /* (n) the class that the network gives it, the first wrong one where there is one */
    float *norm;   /* (n) of min-norm: smallest wrong perturbation so far; INFINITY: none; 0: wrong without */
    uint8_t *top5; /* (n) 1 where the true class is among the five likeliest at every point looked at */
    float *adv; /* (n,h,w,c) or NULL: where pred was given; the last point looked at, where that is right */
} hr_eval_work;
hr_eval_work hr_eval_work_new(uint32_t n); /* for n images, nothing done yet */
void hr_eval_work_release(hr_eval_work *w);
/* Rounds of the attack over a data set: 1, but for strong ones on a network with so many classes. */
uint32_t hr_eval_rounds(const hr_eval_attack *a, int classes);
/* Is all of ds (n images) measured? */
bool hr_eval_finished(const hr_eval_work *w, const hr_eval_attack *a, int classes, uint32_t n);
/* Measure the next batch of ds. An image counts as correct when it is after every restart. batch: at most the
 * executor's, at least 3 with batch statistics, then the same from the first image to the last. Returns 0, or
 * HR_EINTR (without a message): a signal came and the batch was dropped. */
HR_MUST_CHECK int hr_eval_step(hr_exec *e, int batch, const hr_dataset *ds, const hr_eval_attack *a,
                               hr_eval_work *w);
/* What the images measured so far say. */
hr_eval_result hr_eval_result_of(const hr_dataset *ds, const hr_eval_work *w);
/* Measure all of ds at once, where signals are not caught. */
hr_eval_result hr_eval_run(hr_exec *e, int batch, const hr_dataset *ds, const hr_eval_attack *a);

typedef struct hr_eval_watch { /* called around every attack that is not finished already; may be NULL */
    void *ctx;
    void (*begin)(void *ctx, const hr_eval_attack *a, uint32_t images);
    void (*batch)(void *ctx, uint32_t done, double accuracy);
    void (*end)(void *ctx, const hr_eval_attack *a, const hr_eval_result *r);
} hr_eval_watch;
/* Measure a list of n attacks: clean ones on all images, the others on some of them; results in the order of
 * the list. all and some may be the same. work (n) receives what was found of each image; the caller releases
 * each one, after an error too. The job (may be NULL) is saved after every attack, between batches when it is
 * due, and on a signal; a saved one goes on with the next batch. A job that measures several networks, one
 * behind the other, hands over what it found of those before (an array, which is saved too; else NULL), as
 * hr_eval_before gives it back. Returns 0; HR_EINVAL (no memory to keep points); HR_EINTR (a signal came; the
 * unfinished batch was dropped, the job is saved); HR_EFORMAT, HR_EIO (the saved state). */
HR_MUST_CHECK int hr_eval_list(hr_exec *e, int batch, const hr_dataset *all, const hr_dataset *some,
                               const hr_eval_attack *list, int n, hr_job *job, const json_t *before,
                               const hr_eval_watch *watch, hr_eval_work *work, hr_eval_result *results,
                               hr_err *err);
/* What a saved job had found of the networks that were finished: a new array, empty where nothing is saved.
 */
json_t *hr_eval_before(const hr_job *job);
/* Save the job between two networks. */
HR_MUST_CHECK int hr_eval_save_before(hr_job *job, const json_t *before, hr_err *err);
/* Write the outcome of every image to out (outcomes.c). labels (images): of the whole data file; attacked:
 * the images of attacks that are not clean; list and work (n): of hr_eval_list. */
void hr_eval_outcomes(FILE *out, const int32_t *labels, uint32_t images, const hr_dataset *attacked,
                      const hr_eval_attack *list, const hr_eval_work *work, int n);
/* The security curve of min-norm's work: for each radius the images (of `images`) whose smallest perturbation
 * is larger, as [{"eps", "correct", "accuracy"}]. It is an upper bound, as every attack's accuracy is. */
json_t *hr_eval_curve(const hr_eval_work *w, uint32_t images, const double *radii, int n);

/* Probes for masked gradients (masking.c): append them to a list (of *n), at the radius of o; and say from
 * their results what looks suspicious. HR_EINVAL: the list is too long. */
HR_MUST_CHECK int hr_masking_probes(hr_eval_attack *list, int *n, const hr_eval_opts *o, hr_err *err);
json_t *hr_masking_json(const hr_eval_attack *list, const hr_eval_result *results, int n);

/* Images by class and class given, as rows of counts; those whose logits are no numbers are in none. */
json_t *hr_eval_confusion(const int32_t *labels, const hr_eval_work *w, uint32_t images, int classes);
/* End of the batch that starts at image `at`: at + batch, but never past n, and one image earlier where a
 * single image would be left over for the last batch and statistics of the batch are wanted. */
uint32_t hr_eval_batch_end(uint32_t at, uint32_t n, int batch, enum hr_bn_mode bn);

/* The evaluation record, one JSON object (report.h describes it); caller owns it. label may be NULL: what
 * maskapply called the strategy, or "dense". data_name, images and data_digest describe the whole test set.
 * more (n objects or NULL, owned from then on) is added to the attacks; NULL: nothing. masking (owned) is
 * what hr_masking_json made, or NULL. */
json_t *hr_eval_record(const hr_model *m, const char *model_digest, const char *label, const char *data_name,
                       uint32_t images, const char *data_digest, const hr_eval_attack *attacks,
                       const hr_eval_result *results, int n, int batch, json_t *const *more, json_t *masking);

/* ---- the evaluator of the search (serve.c) ------------------------------------------------------------- */

typedef struct hr_serve_opts {
    enum hr_reg reg;
    enum hr_bn_mode bn; /* of the clean pass and the attack; HR_BN_BATCH as published */
    bool recalibrate;   /* HR_BN_FOLDED with statistics measured anew for every strategy (serve.c) */
    double eps, step;
    int steps, batch, threads;
    bool exact;       /* hr_exec_opts.exact */
    hr_device device; /* hr_exec_opts.device */
    uint32_t seed;
    const char *name, *digest; /* of the model: its file for messages, its SHA-256 */
    /* Not NULL: before a strategy is measured, HYDRA's scores are learnt for it, one step for every
     * HR_LEARN_BATCH of these images (serve.c). */
    const hr_dataset *learn;
} hr_serve_opts;
enum { HR_LEARN_BATCH = 128 };

/* Answer strategies, JSON lines from `in` to `out`, until the end of input (ARCHITECTURE 4, "Evaluator
 * protocol"; serve.c). Masks are made from the dense weights, |w| or L1 of the input channel. Batches and
 * noise are the same in every evaluation. With recalibrate m's running statistics change. A bad request is
 * answered with an error, and serving goes on. Returns 0; HR_EINVAL (m is not dense); HR_EIO (out). */
HR_MUST_CHECK int hr_serve(hr_model *m, const hr_dataset *ds, const hr_serve_opts *o, FILE *in, FILE *out,
                           hr_err *err);

#endif
