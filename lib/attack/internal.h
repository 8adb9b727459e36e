/* lib/attack/internal.h -- what the strong attacks share: the images of one task that are still in play.
 *
 * A strong attack keeps its iterates in buffers of its own, one place per image of the batch. For a pass the
 * images in play are packed to the front of the task's slots in the executor, so that an image that is broken
 * costs nothing any more; what became of it lies in its own place. With folded batch norm an image's bits do
 * not depend on its slot, so neither does the outcome. */
#ifndef HR_ATTACK_INTERNAL_H
#define HR_ATTACK_INTERNAL_H

#include "attack/attack.h"

typedef struct hr_pack {
    hr_exec *e;
    size_t len;      /* of an image */
    int classes, n0; /* the task's first slot */
    int n, *who;     /* who[s], s < n: the image in slot n0 + s */
} hr_pack;

/* The images of [n0,n1) that are not broken (NULL: all). who: room for n1 - n0. */
hr_pack hr_pack_new(hr_exec *e, int n0, int n1, const uint8_t *broken, int *who);
/* Forget the images that are broken. */
void hr_pack_drop(hr_pack *p, const uint8_t *broken);
/* Logits of images x (image i at x + i*len) into their slots. */
void hr_pack_forward(const hr_pack *p, const float *x);
void hr_pack_backward(const hr_pack *p); /* of the last forward, from what hr_pack_dlogits holds */
const float *hr_pack_logits(const hr_pack *p, int s);
float *hr_pack_dlogits(const hr_pack *p, int s);
const float *hr_pack_dinput(const hr_pack *p, int s);
int hr_pack_class(const hr_pack *p, int s); /* the largest logit's, as hr_argmax has it */

/* The class that ranks `rank` (from 1) among all but y by the logits z; ties go to the lower class. */
int hr_rank_class(const float *z, int classes, int y, int rank);

/* Length of v (len), and of a - b, in the norm. */
double hr_norm_of(enum hr_norm norm, const float *v, size_t len);
double hr_distance(enum hr_norm norm, const float *a, const float *b, size_t len);

static inline float hr_clip(float v, float lo, float hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

#endif
