/* lib/compute/ref.h -- the oracle: a network run by plain loops in double, node by node, nothing fused.
 *
 * It exists so that everything fast has something obviously right to be compared with; tests call it, tools
 * do not. Activations are NCHW as in PyTorch, parameters in PyTorch's layout. Gradients of a ReLU at 0 are 0,
 * a maximum that occurs several times in a pooling window is the first one (both as PyTorch). OpenMP splits
 * samples and channels; each number is summed by one thread in one order, so results do not depend on the
 * number of threads. */
#ifndef HR_REF_H
#define HR_REF_H

#include "compute/compute.h"
#include "model/model.h"

typedef struct hr_ref hr_ref;

/* Prepare m for batches of up to `batch` samples. m must have passed hr_model_check; it is borrowed and only
 * its graph is used later: parameters are copied to double here, a layer's weight multiplied by the layer's
 * mask where that is active. Release with hr_ref_free (NULL is allowed). */
hr_ref *hr_ref_new(const hr_model *m, int batch);
void hr_ref_free(hr_ref *r);

/* The double copy of parameter or running statistic `tensor` (index into m->tensors), for reading and
 * writing; NULL when no node uses that tensor. */
double *hr_ref_param(hr_ref *r, int tensor);

/* (batch,c,h,w), filled by the caller, pixels in [0,1]. */
double *hr_ref_input(hr_ref *r);

/* Run the first n samples. Batch norm modes as in compute.h: HR_BN_FOLDED and HR_BN_RUNNING normalise with
 * the running statistics, the other two with those of the n samples (biased variance); HR_BN_BATCH_UPDATE
 * then moves the running ones (unbiased variance; with a single value per channel that is undefined and
 * running_var stays).
 */
void hr_ref_forward(hr_ref *r, int n, enum hr_bn_mode bn);
const double *hr_ref_logits(const hr_ref *r);                /* (n,classes) */
const double *hr_ref_node_output(const hr_ref *r, int node); /* (n,c,h,w) of m->nodes[node] */

/* Gradients of sum(dlogits * logits) for the last forward pass, which must have been over n samples. dlogits
 * (n,classes) is borrowed for the call. Gradients of an earlier call are overwritten. */
void hr_ref_backward(hr_ref *r, int n, const double *dlogits);
const double *hr_ref_dinput(const hr_ref *r);              /* (n,c,h,w) */
const double *hr_ref_node_grad(const hr_ref *r, int node); /* (n,c,h,w): with respect to a node's output */
/* With respect to the effective parameter (weight after mask); NULL for running statistics and for tensors
 * that no node uses. */
const double *hr_ref_grad(const hr_ref *r, int tensor);

#endif
