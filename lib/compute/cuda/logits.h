/* lib/compute/cuda/logits.h -- what a sample's logits say, for a thread that has all of them to itself. */
#ifndef HR_CUDA_LOGITS_H
#define HR_CUDA_LOGITS_H

#include "device.h"

/* hr_argmax: the largest logit's class, the first one of equals; -1 where there is a NaN. */
static __device__ inline int class_of(const float *z, int classes)
{
    int top = 0;
    for (int k = 0; k < classes && top >= 0; k++)
        top = z[k] != z[k] ? -1 : z[k] > z[top] ? k : top;
    return top;
}

#endif
