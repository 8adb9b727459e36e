/* lib/attack/attack.h -- attacks, used to train and to measure robustness.
 *
 * An attack searches the l-inf ball of radius eps around x, cut with [0,1], for a point that raises the loss
 * of a fixed network. Images are float32 (N,h,w,c), pixels in [0,1]; eps and step are in that unit. Attacks
 * leave parameters, gradients and running statistics alone (but see HR_BN_BATCH_UPDATE). */
#ifndef HR_ATTACK_H
#define HR_ATTACK_H

#include "base/base.h"
#include "compute/compute.h"

enum hr_attack_loss {
    HR_LOSS_CE,
    HR_LOSS_MARGIN,
    HR_LOSS_KL /* KL(softmax(target) || softmax(logits)): TRADES (Zhang et al. 2019, arXiv:1901.08573) */
};

typedef struct hr_attack_opts {
    float eps, step;
    int steps;         /* gradient steps; 0 returns the starting point */
    bool random_start; /* start at x + U(-eps, eps), not clipped to [0,1] before the first gradient
                          (the reference's way, ALG 3.4); else at x */
    float spread;      /* not 0: start at x + N(0, spread^2) instead (TRADES, MART) */
    bool l2;           /* the l2 ball of radius eps: a step goes `step` along the image's own gradient divided
                          by its length (along N(0,1) noise where that is 0), is cut to [0,1], and then scaled
                          back into the ball; TRADES's l2 variant is step = 2*eps/steps */
    enum hr_attack_loss loss;
    const float *target; /* HR_LOSS_KL: (n,classes) logits, borrowed */
    enum hr_bn_mode bn;  /* folded: every chunk runs all its steps on one thread, without a barrier */
    uint32_t seed, stream, c0, c1; /* noise of image i is keyed (seed, stream, c0, c1, index[i]) */
} hr_attack_opts;

/* Projected gradient ascent (Madry et al. 2018, arXiv:1706.06083):
 *     x' <- clip[0,1]( clip[x-eps,x+eps]( x' + step * sign(d loss / d x') ) )
 * FGSM (Goodfellow et al. 2015) is steps 1, step eps, no random start. The published C&W-inf is this loop on
 * the margin loss (ALG 8.1). sign(0) is 0.
 *   x     (n,h,w,c) read only; may not be the executor's input buffer
 *   y     (n) true classes
 *   index (n) data-set indices that key the noise
 * n is at most the executor's batch. The adversarial images are left in hr_exec_input(e). A signal ends an
 * attack in the middle: where signals are caught, callers ask hr_interrupted() afterwards and drop what they
 * have. Every step passes the crash point "attack". */
void hr_attack_pgd(hr_exec *e, const hr_attack_opts *o, const float *x, const int32_t *y,
                   const uint32_t *index, int n);

/* Published settings for a data set, by the name that its manifest has (preset.c): the defaults of --eps and
 * --step of every program that attacks. */
typedef struct hr_attack_preset {
    const char *data;
    double eps, step; /* l-inf radius and step of PGD, pixels in [0,1] */
} hr_attack_preset;
/* Those of CIFAR-10 where the name is NULL or unknown. Never NULL. */
const hr_attack_preset *hr_attack_preset_of(const char *data);

/* ---- strong attacks ------------------------------------------------------------------------------------ */

/* The parts of AutoAttack (Croce & Hein 2020, arXiv:2003.01690). Each takes one restart (and one target
 * class) at a time; who runs them through a list, and leaves out the images that are broken already, is
 * lib/train's eval.c. They need folded batch norm. */
enum hr_norm { HR_LINF, HR_L2 };
extern const char *const hr_norm_names[3]; /* "linf", "l2", NULL */
enum hr_strong_loss {
    HR_STRONG_CE,  /* cross-entropy */
    HR_STRONG_DLR, /* difference of logits ratio; with a target, its targeted form */
};
typedef struct hr_strong_opts {
    enum hr_norm norm;
    float eps;
    int steps;                /* iterations; of square: queries behind the first one */
    enum hr_strong_loss loss; /* apgd */
    int target;        /* apgd with DLR, fab: towards the class that ranks so (from 1) among the wrong ones,
                          by the logits of the image itself; 0: away from the true class (apgd only) */
    bool random_start; /* fab: start anywhere within eps/2, else at the image */
    bool whole;        /* fab: go on behind the first point within eps, for the smallest one */
    float rho;         /* apgd: HR_APGD_RHO, the share of steps that must raise the loss */
    float alpha, eta, beta; /* fab: HR_FAB_ALPHA, HR_FAB_ETA, HR_FAB_BETA (fab.c) */
    float p;                /* square: HR_SQUARE_P, the share of pixels that the first squares change */
    uint32_t seed, stream, c0, c1; /* noise of image i is keyed (seed, stream, c0, c1, index[i]) */
} hr_strong_opts;
#define HR_APGD_RHO 0.75f
#define HR_FAB_ALPHA 0.1f
#define HR_FAB_ETA 1.05f
#define HR_FAB_BETA 0.9f
#define HR_SQUARE_P 0.8f

/* One run of an attack on n images, at most the executor's batch. x, y and index as for hr_attack_pgd; x
 * NULL: the batch that lies on the executor's device, of which nothing is broken. broken (n)      in: images
 * to leave alone; out: also those for which a point was found that the network classifies wrongly, within eps
 * of x (up to the rounding of float) and within [0,1] adv    (n,h,w,c) where broken is new: that point;
 * elsewhere untouched norm   (n)      fab, may be NULL: the distance of the nearest wrongly classified point
 * that was found, also beyond eps; INFINITY where none was; where broken came in: untouched The outcome of an
 * image depends on nothing but itself and its index. A signal ends an attack in the middle: callers ask
 * hr_interrupted() and drop what they have. Every iteration passes the crash point "attack". */
typedef void hr_strong_attack(hr_exec *e, const hr_strong_opts *o, const float *x, const int32_t *y,
                              const uint32_t *index, int n, uint8_t *broken, float *adv, float *norm);
hr_strong_attack hr_attack_apgd;   /* apgd.c; DLR needs 3 classes, with a target 4 */
hr_strong_attack hr_attack_fab;    /* fab.c */
hr_strong_attack hr_attack_square; /* square.c; takes no gradients */

/* Bytes that one image takes in the largest of them, for hr_exec_opts.beside_per_image. */
size_t hr_strong_bytes(size_t input_len);

/* -DLR(z, y) and its derivative by z (dz, may be NULL), arXiv:2003.01690, eq. 6 and 7 (apgd.c). target -1:
 * none. It is scaled and shifted with the logits in no way that matters: DLR(a z + b, y) = DLR(z, y). */
double hr_loss_dlr(const float *z, int classes, int y, int target, float *dz);

/* The step d (len) from x to the nearest point, in the norm, of {v: w.v = b, 0 <= v <= 1}; where the plane
 * does not meet the box, to the corner that is furthest towards it. r = b - w.x. (fab.c) */
void hr_project_plane(enum hr_norm norm, const float *x, const float *w, double r, size_t len, float *d);

#endif
