/* lib/compute/cuda/cuda.h -- the library's side of the CUDA plug-in (plugin.h says what lies where).
 *
 * exec.c of lib/compute/cpu hands a call over to the function of the same name here when the executor has a
 * device; lib/attack hands over whole attacks. A device that fails in the middle of work (a lost device, a
 * bug in a kernel) ends the program in one place with one line, as hr_xmalloc does when memory is gone: its
 * memory cannot be trusted any more. */
#ifndef HR_CUDA_CUDA_H
#define HR_CUDA_CUDA_H

#include "compute/cpu/plan.h"
#include "compute/cuda/plugin.h"

/* ---- load.c */

/* The plug-in's table: of the file that HERACLES_CUDA names, else of heracles-cuda.so beside the program or
 * in
 * ../lib/heracles. NULL with err set (HR_EINVAL): it was not built, cannot be loaded, or is of another
 * version. */
const hr_cuda_plugin_table *hr_cuda_load(hr_err *err);

/* ---- exec.c: as the hr_exec_ functions of the same name */

/* Give e, whose graph is planned (hr_plan_graph), a device. Returns 0 or HR_EINVAL. */
HR_MUST_CHECK int hr_cuda_new(hr_exec *e, hr_err *err);
void hr_cuda_free(hr_exec *e);
void hr_cuda_params(hr_exec *e);
void hr_cuda_set_mask(hr_exec *e, int step, const float *mask);
void hr_cuda_forward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn);
void hr_cuda_backward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn, unsigned flags);

/* The executor's buffers. The host's twin is what the caller gets: brought up to date here, and from then on
 * (input, dlogits) the one that counts, until the device writes its own. */
enum { HR_CUDA_INPUT, HR_CUDA_LOGITS, HR_CUDA_DLOGITS, HR_CUDA_DINPUT, HR_CUDA_BUFFERS };
float *hr_cuda_buffer(hr_exec *e, int which);

/* ---- ascend.c */

/* hr_attack_pgd's options, with the loss as HR_CUDA_CE, ... */
typedef struct hr_ascent {
    float eps, step, spread;
    int steps, loss;
    bool random_start, l2;
    const float *target;
    enum hr_bn_mode bn;
    uint32_t seed, stream, c0, c1;
} hr_ascent;
/* Projected gradient ascent on n images: all of it is queued at once, a step as one recorded graph; nothing
 * is waited for inside. The points are left in the executor's input. x, y, index NULL: those that lie on the
 * device already (hr_cuda_images); then nothing is waited for at the end either. target NULL: what
 * hr_cuda_learn_target left. */
void hr_cuda_ascend(hr_exec *e, const hr_ascent *a, const float *x, const int32_t *y, const uint32_t *index,
                    int n);

/* ---- climb.c */

/* hr_attack_apgd's options. */
typedef struct hr_climb {
    float eps, rho;
    int steps, rank; /* rank: of the class to go to, with dlr; 0: away from y */
    bool l2, dlr;    /* dlr: else cross-entropy */
    uint32_t seed, stream, c0, c1;
} hr_climb;
/* hr_attack_apgd on the device, with all its state there: arguments as it has them (attack.h). Images that
 * are broken on the way go along to the end, so that nothing has to be asked; waits once, behind the end. */
void hr_cuda_climb(hr_exec *e, const hr_climb *o, const float *x, const int32_t *y, const uint32_t *index,
                   int n, uint8_t *broken, float *adv);

/* ---- search.c */

/* hr_attack_square's options. */
typedef struct hr_search {
    float eps;
    int queries, levels;
    int begin[HR_CUDA_LEVELS + 1], side[HR_CUDA_LEVELS + 1]; /* as in hr_cuda_squares */
    const float *bumps; /* of all these sides, one behind another: the l2 ball; NULL: l-inf */
    uint32_t seed, stream, c0, c1;
} hr_search;
/* hr_attack_square on the device, as hr_cuda_climb. */
void hr_cuda_search(hr_exec *e, const hr_search *o, const float *x, const int32_t *y, const uint32_t *index,
                    int n, uint8_t *broken, float *adv);

/* ---- border.c */

/* hr_attack_fab's options. */
typedef struct hr_border {
    float eps, alpha, eta, beta;
    int steps, rank; /* rank: of the class to go to */
    bool l2, random_start, whole;
    uint32_t seed, stream, c0, c1;
} hr_border;
/* hr_attack_fab on the device, as hr_cuda_climb. */
void hr_cuda_border(hr_exec *e, const hr_border *o, const float *x, const int32_t *y, const uint32_t *index,
                    int n, uint8_t *broken, float *adv, float *norm);

/* ---- batch.c */

/* Images, classes and indices to where attacks and learn.c find them. */
void hr_cuda_images(hr_exec *e, const float *x, const int32_t *y, const uint32_t *index, int n);

/* The same beside the work: slots, one whose batch is being worked on, and one to fill. */
typedef struct hr_cuda_batch { /* of the executor's whole batch, on the host; the caller fills it */
    uint8_t *pixels;           /* (n,h,w,c) */
    int32_t *y;
    uint32_t *index;
} hr_cuda_batch;
hr_cuda_batch hr_cuda_batch_room(hr_exec *e, int slot);
/* What was filled in, n images, begins to travel. Between a slot's batch and its next one the host must have
 * waited for work behind the first one: then nothing reads or writes the slot any more. */
void hr_cuda_batch_stage(hr_exec *e, int slot, int n);
int hr_cuda_batch_staged(const hr_exec *e, int slot); /* images on their way, 0: none */
int hr_cuda_batch_free(const hr_exec *e);             /* the slot that was not taken last */
/* Cut so, what was staged takes the place of the batch. */
void hr_cuda_batch_take(hr_exec *e, int slot, const hr_cuda_augment *how);
/* The images of the batch become the executor's input. */
void hr_cuda_batch_input(hr_exec *e, int n);

/* ---- learn.c: training on the device */

enum { HR_CUDA_PLAIN, HR_CUDA_MASKED, HR_CUDA_SCORES, HR_CUDA_ADMM }; /* lib/train's rules */
enum { HR_CUDA_SGD, HR_CUDA_ADAM, HR_CUDA_RMSPROP };

/* What the optimiser moves. The arrays (n numbers each) are the host's twins, NULL where there are none. */
typedef struct hr_cuda_trainee {
    int rule, tensor; /* the parameter whose gradient counts */
    float *value, *buf, *buf2, *z, *u;
    size_t n;
    bool channel; /* SCORES, ADMM: they go by input channels */
    int co, ci, taps;
    int64_t kept;
} hr_cuda_trainee;

/* A step of the optimiser. */
typedef struct hr_cuda_optimum {
    int kind;
    float lr, momentum, decay;
    bool nesterov;
    int64_t step; /* from 0 */
    bool project; /* ADMM: Z and U move first */
    double rho;
} hr_cuda_optimum;

/* From now on gradients, running statistics and what is trained stay on the device; hr_exec_params may not be
 * called any more. Takes over the values of list (copied) and noise (of the whole batch; NULL: none); pairs:
 * hr_cuda_learn_pair will be called. Returns 0 or HR_EINVAL (too little memory). */
HR_MUST_CHECK int hr_cuda_learn(hr_exec *e, const hr_cuda_trainee *list, int n, bool pairs, float *noise,
                                hr_err *err);
void hr_cuda_learn_end(hr_exec *e); /* hr_exec_free does this too */
/* Bring the host's twins, noise and the model's running statistics up to date. */
void hr_cuda_learn_fetch(hr_exec *e);
/* Remember the running statistics; or put them back. */
void hr_cuda_learn_remember(hr_exec *e, bool back);

/* Run the images forward; the logits are what a KL attack goes away from. */
void hr_cuda_learn_target(hr_exec *e, int n, enum hr_bn_mode bn);
/* The images with noise, cut to [0,1], become the executor's input; reset: the noise becomes 0, no more. */
void hr_cuda_learn_noise(hr_exec *e, int n, bool reset);
void hr_cuda_learn_noise_move(hr_exec *e, int n, float eps);

/* What a step says: how many images are right, clean and attacked, and n losses. Functions that make one of
 * them leave it on the device; hr_cuda_learn_begin zeroes the counts, before the first of a step. tell: it
 * begins to travel to a slot; hear: wait for it, and for nothing behind. With steps told in turns and each
 * heard when the next one is queued, the device never waits for the host. */
enum { HR_CUDA_CLEAN, HR_CUDA_ROBUST, HR_CUDA_LOSSES };
void hr_cuda_learn_begin(hr_exec *e);
void hr_cuda_learn_tell(hr_exec *e, int slot, int n);
const double *hr_cuda_learn_hear(hr_exec *e, int slot);
/* HR_CUDA_CLEAN or _ROBUST: by the logits of the last pass. */
void hr_cuda_learn_count(hr_exec *e, int n, int which);
/* The executor's input forward, mean cross-entropy, backward (HR_BN_BATCH_UPDATE); `which` is counted. */
void hr_cuda_learn_pass(hr_exec *e, int n, unsigned flags, int which);
/* Both passes of a loss of pairs, over the images and over the executor's input, and the sum of their
 * gradients; both are counted. */
void hr_cuda_learn_pair(hr_exec *e, int n, int kind, double beta);
/* Gradients by their rules, the optimiser, new masks, and the network with what came of it. Queued. */
void hr_cuda_learn_step(hr_exec *e, const hr_cuda_optimum *o);

/* ---- what both share */

typedef struct hr_cuda_twin {
    float *host, *dev;
    size_t len;   /* floats of an image */
    bool on_dev;  /* the device's values count */
    bool fetched; /* and the host has them, too */
    bool leaving; /* an upload of the host's values may still be going on */
} hr_cuda_twin;

/* A step's memory on the device, for the whole batch. y of step 0 is the input, of the last one the logits.
 */
typedef struct hr_cuda_place {
    float *y, *z, *g;       /* z: what a batch norm behind the convolution normalises */
    float *eff, *mask;      /* weight * mask as KRSC; the mask, if there is one */
    float *dw;              /* gradient of eff */
    hr_cuda_norm fold, now; /* by running statistics, and as of the last pass that was not folded */
    float *k1, *k2, *k3;
    hr_cuda_conv *conv; /* NULL: linear */
} hr_cuda_place;

/* A recorded step of an attack, and what it depends on besides the device's memory. */
typedef struct hr_cuda_kept {
    hr_cuda_graph *graph;
    int n, kind; /* kind: ascend.c's (loss and norm), climb.c's, search.c's, border.c's */
    enum hr_bn_mode bn;
    float eps, step, more[3];
} hr_cuda_kept;
typedef struct hr_cuda_learner hr_cuda_learner;

/* The strong attacks' state, of a whole batch; each part is taken when it is first needed. */
typedef struct hr_cuda_strong {
    float *map[3]; /* as large as the images */
    int32_t *aim;
    double *f; /* climb.c */
    hr_cuda_climber *climbers;
    hr_cuda_searcher *searchers; /* search.c */
    hr_cuda_squares *squares;
    hr_cuda_squares host_squares;
    float *bumps;
    hr_cuda_walker *walkers; /* border.c */
} hr_cuda_strong;

/* A slot for batches that travel beside the work. */
typedef struct hr_cuda_slot {
    hr_cuda_batch host, dev;
    int n; /* images that were staged and not taken yet */
} hr_cuda_slot;

typedef struct hr_cuda_exec {
    const hr_cuda_plugin_table *t;
    hr_cuda *d;
    char *name; /* "cuda:0", for messages */
    hr_cuda_place *at;
    hr_cuda_twin twin[HR_CUDA_BUFFERS];
    float **param; /* (tensors) NULL where unused */
    float **grad;  /* (tensors) inside grads */
    float *grads, *host_grads;
    float *stats, *host_stats; /* all running statistics, one behind another */
    size_t ngrads, nstats;
    double *part;
    /* an attack's: original images, classes, indices, logits of the target */
    float *x, *target;
    int32_t *y;
    uint32_t *index;
    hr_cuda_turns *turns;
    hr_cuda_slot slots[HR_CUDA_SLOTS];
    int working; /* the slot that was taken last */
    hr_cuda_window *windows;
    size_t asked, taken, left; /* bytes: of all that was asked for, got; there were before; 0: enough */
    hr_cuda_kept graphs[4];    /* the last ones recorded */
    int recorded;
    hr_cuda_strong strong;
    hr_cuda_learner *learner; /* NULL: the host trains, or nobody */
} hr_cuda_exec;

/* The device's values of a buffer count, the host has not seen them. */
static inline void hr_cuda_written(hr_exec *e, int which)
{
    e->cuda->twin[which].on_dev = true;
    e->cuda->twin[which].fetched = false;
}

/* n floats on the device. After the first refusal nothing more is asked for, only counted: *rc stays, and
 * hr_cuda_taken says it all. */
float *hr_cuda_take(hr_cuda_exec *c, size_t n, int *rc);
/* Behind the last of them: rc, with err set where memory was refused. */
int hr_cuda_taken(const hr_exec *e, int rc, hr_err *err);
float *hr_cuda_take_host(hr_cuda_exec *c, size_t n, int *rc, hr_err *err); /* page-locked, of the host */
/* The graph that was recorded for a step like this one (its graph counts for nothing); NULL: there is none.
 */
hr_cuda_graph *hr_cuda_recalled(const hr_cuda_exec *c, const hr_cuda_kept *like);
/* The place of the oldest graph, which is forgotten. */
hr_cuda_kept *hr_cuda_graph_room(hr_exec *e);
/* Effective weights, and folded batch norm, from what lies on the device. */
void hr_cuda_settle(hr_exec *e);

/* The passes without what surrounds them: nothing travels between host and device. */
void hr_cuda_pass_forward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn);
void hr_cuda_pass_backward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn, unsigned flags);
/* The running statistics, which a pass has moved, to the model. */
void hr_cuda_fetch_stats(hr_exec *e);
/* strong.c: the images of an attack that are not broken, packed on the device; who[s], s < n, is image s's
 * place among all. x NULL: those that hr_cuda_batch_take left there, of which none is broken. Behind
 * hr_cuda_play_begin hr_cuda_strong's maps and aim are there. */
typedef struct hr_cuda_play {
    int n, *who;
    int32_t *y; /* what goes up must stay where it is until the attack has been waited for */
    uint32_t *index;
} hr_cuda_play;
hr_cuda_play hr_cuda_play_begin(hr_exec *e, const float *x, const int32_t *y, const uint32_t *index, int n,
                                const uint8_t *broken);
/* Bring their points down, and wait for these and for all that was downloaded before; */
void hr_cuda_play_points(hr_exec *e, const hr_cuda_play *p, const float *points);
/* then image s is broken, by its point. */
void hr_cuda_play_broken(hr_exec *e, const hr_cuda_play *p, int s, uint8_t *broken, float *adv);
void hr_cuda_play_end(hr_exec *e, hr_cuda_play *p);

/* Memory of the slots. */
void hr_cuda_batch_place(hr_exec *e, int *rc, hr_err *err);
/* Images on the device become the executor's input. */
void hr_cuda_to_input(hr_exec *e, const float *x, int n);
/* Wait for the device; ends the program when something went wrong. */
void hr_cuda_wait(hr_exec *e);

#endif
