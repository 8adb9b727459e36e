/* lib/attack/attack.h -- white-box attacks, used to train and to measure robustness.
 *
 * An attack searches the l-inf ball of radius eps around x, cut with [0,1], for a point that raises the loss
 * of a fixed network. Images are float32 (N,h,w,c), pixels in [0,1]; eps and step are in that unit. Attacks
 * leave parameters, gradients and running statistics alone (but see HR_BN_BATCH_UPDATE). */
#ifndef HR_ATTACK_H
#define HR_ATTACK_H

#include "base/base.h"
#include "compute/compute.h"

enum hr_attack_loss { HR_LOSS_CE, HR_LOSS_MARGIN };

typedef struct hr_attack_opts {
    float eps, step;
    int steps;         /* gradient steps; 0 returns the starting point */
    bool random_start; /* start at x + U(-eps, eps), not clipped to [0,1] before the first gradient
                          (the reference's way, ALG 3.4); else at x */
    enum hr_attack_loss loss;
    enum hr_bn_mode bn; /* folded: every chunk runs all its steps on one thread, without a barrier */
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

#endif
