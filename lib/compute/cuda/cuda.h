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
/* Projected gradient ascent on n images: all of it is queued at once, a step of an l-inf attack as one
 * recorded graph; nothing is waited for. The points are left in the executor's input. */
void hr_cuda_ascend(hr_exec *e, const hr_ascent *a, const float *x, const int32_t *y, const uint32_t *index,
                    int n);

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
} hr_cuda_exec;

/* The passes without what surrounds them: nothing travels between host and device. */
void hr_cuda_pass_forward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn);
void hr_cuda_pass_backward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn, unsigned flags);
/* The running statistics, which a pass has moved, to the model. */
void hr_cuda_fetch_stats(hr_exec *e);
/* Wait for the device; ends the program when something went wrong. */
void hr_cuda_wait(hr_exec *e);

#endif
