/* lib/compute/compute.h -- running a network: forward, gradient to the image (DX), gradient to the parameters
 * (DW).
 *
 * An executor is planned once for a model and a largest batch: shapes, fusion, buffers and workspaces; after
 * that nothing is allocated. There is no tape. Activations are NHWC float32, batch outermost.
 *
 *     hr_exec *e = hr_exec_new(model, &opts, &err);
 *     fill hr_exec_input(e); hr_exec_forward(e, 0, n, HR_BN_FOLDED);
 *     fill hr_exec_dlogits(e) (hr_loss_ce does); hr_exec_backward(e, 0, n, HR_BN_FOLDED, HR_DX);
 *     read hr_exec_dinput(e).
 *
 * Batch norm has four modes:
 *   HR_BN_FOLDED        running statistics, a scale and shift in the convolution's epilogue. Samples do not
 * see each other, so a call may cover any range [n0,n1), runs on the calling thread, and calls for disjoint
 * ranges may run at the same time (hr_exec_chunks does that). HR_DX only.
 *   HR_BN_RUNNING       the same numbers (but for rounding), layer by layer over the whole batch [0,n) on all
 *                       threads; HR_DW is possible: statistics are constants then.
 *   HR_BN_BATCH         statistics of the batch, running values untouched; whole batch, all threads.
 *   HR_BN_BATCH_UPDATE  the same, and running_mean/running_var move (variance unbiased, as PyTorch).
 *
 * Determinism: sums over samples (statistics, dgamma, dbeta, DW, losses) are partial sums per chunk of
 * HR_CHUNK samples (fewer where images are large and the planned batch is small), merged in a fixed binary
 * tree. So the bits do not depend on the number of threads.
 *
 * Signals: once hr_interrupted() is true, a pass skips what it has not done yet, and what it leaves in all
 * buffers, in the gradients and (HR_BN_BATCH_UPDATE) in the running statistics is undefined. Where signals
 * are caught, callers ask hr_interrupted() behind a pass, before they use anything that it made.
 *
 * Instruction sets: the kernels exist for x86-64-v2, v3 (AVX2+FMA) and v4 (AVX-512) and are chosen at run
 * time; HERACLES_ISA=v2|v3|v4 forces one (ignored with a warning when the machine lacks it). On other
 * machines there is one portable path. */
#ifndef HR_COMPUTE_H
#define HR_COMPUTE_H

#include "base/base.h"
#include "model/model.h"

enum { HR_CHUNK = 8 };

enum hr_bn_mode { HR_BN_FOLDED, HR_BN_BATCH, HR_BN_BATCH_UPDATE, HR_BN_RUNNING };
extern const char *const hr_bn_mode_names[5]; /* "folded", "batch", "batch+update", "running", NULL */

enum { HR_DX = 1, HR_DW = 2 }; /* flags of a backward pass; they combine */

/* Where a network runs. "cuda" and "cuda:N" need the plug-in (lib/compute/cuda/plugin.h): the same calls, the
 * same numbers but for rounding; buffers are then copies in host memory, which the functions below that
 * return them keep up to date: ask for a buffer again behind every pass. */
typedef struct hr_device {
    const char *name; /* "cpu" or NULL, "cuda", "cuda:N" */
    bool fast, tf32;  /* cuda: algorithms that add in any order; products with 10 bits of mantissa */
} hr_device;
/* What is wrong with it as an option, before anything is opened; NULL: nothing. */
const char *hr_device_wrong(const hr_device *d);

typedef struct hr_exec hr_exec;
typedef struct hr_exec_opts {
    int batch;                       /* largest batch */
    int threads;                     /* 0: hr_default_threads() */
    bool train;                      /* plan for every mode and for HR_DW */
    bool batch_stats;                /* plan for every mode, without HR_DW: the search's rewards */
    bool exact;                      /* no Winograd transforms: convolutions as the sums that they are */
    bool describe;                   /* plan, and take no memory for images: only hr_plan_* may be called */
    size_t beside, beside_per_image; /* bytes that the caller takes later, for the check of memory */
    hr_device device;
} hr_exec_opts;

/* Plan m, which must have passed hr_model_check, and take over its parameters. m is borrowed and outlives the
 * executor; its tensor table must not grow or shrink meanwhile; values may change (then call hr_exec_params).
 * Returns the executor, or NULL with err set: HR_EINVAL (a layer beyond the engine's limits, batch < 1, or
 * too little memory: the message says how much was asked for and which batch would fit; a device that is not
 * there). */
hr_exec *hr_exec_new(hr_model *m, const hr_exec_opts *opts, hr_err *err);
void hr_exec_free(hr_exec *e); /* NULL is allowed */

/* Take over the model's current parameters and running statistics. Call after every change of them. A layer's
 * effective weight is weight * mask, with the mask of hr_exec_set_mask or else the model's own active one. */
void hr_exec_params(hr_exec *e);
/* From the next hr_exec_params on, multiply the weight of layer `node` (conv2d or linear) with mask:
 * borrowed, one float per weight in torch layout; NULL: the model's own active mask (as it was at
 * hr_exec_new), or none. */
void hr_exec_set_mask(hr_exec *e, int node, const float *mask);

/* Buffers, owned by the executor, for up to opts.batch samples. */
float *hr_exec_input(hr_exec *e);           /* (N,h,w,c) */
float *hr_exec_logits(hr_exec *e);          /* (N,classes) */
float *hr_exec_dlogits(hr_exec *e);         /* (N,classes): filled by the caller before backward; kept */
float *hr_exec_dinput(hr_exec *e);          /* (N,h,w,c): d loss / d pixel after HR_DX */
size_t hr_exec_input_len(const hr_exec *e); /* h*w*c */
void hr_exec_shape(const hr_exec *e, int *c, int *h, int *w); /* of an image */
int hr_exec_classes(const hr_exec *e);
int hr_exec_threads(const hr_exec *e);
bool hr_exec_on_device(const hr_exec *e); /* not on the CPU */

/* Run samples [n0,n1); see above for what each mode allows. */
void hr_exec_forward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn);
/* Backward of the last forward over the same range in the same mode; once, but in HR_BN_FOLDED as often as
 * asked for: in the other modes gradients take the places of activations. HR_DW (opts.train; not in
 * HR_BN_FOLDED) OVERWRITES the gradients: sums over samples of what dlogits says, so divide in dlogits for a
 * mean. Without HR_DX only what HR_DW needs is computed. */
void hr_exec_backward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn, unsigned flags);
/* Gradient of tensor t in torch layout (for a weight: with respect to the *effective* weight, so the caller
 * multiplies by the mask to finetune, or by the weight to train scores), or NULL if t is not trainable. */
const float *hr_exec_grad(const hr_exec *e, int tensor);

/* Call fn(ctx, n0, n1) for ranges that make up [0,n), spread over the executor's threads: few images make
 * small ranges, so that no thread has nothing to do. Inside fn, HR_BN_FOLDED passes over parts of [n0,n1) are
 * allowed. */
void hr_exec_chunks(hr_exec *e, int n, void (*fn)(void *ctx, int n0, int n1), void *ctx);
/* Forward all of [0,n) with HR_BN_FOLDED on all threads. */
void hr_exec_infer(hr_exec *e, int n);

/* Work done so far by thread t, for tests: images that it took through a layer or, in HR_BN_FOLDED, through
 * the network, and tiles of gradients to weights. */
uint64_t hr_exec_tasks(const hr_exec *e, int thread);

/* ---- what was planned, and what it costs (describe.c) ----------------------------------------------------
 */

/* The passes over a layer that a kernel is chosen for, and two more kinds of work that time goes into. */
enum hr_pass {
    HR_PASS_FORWARD,
    HR_PASS_DX,
    HR_PASS_DW,
    HR_PASSES,
    HR_PASS_REST = HR_PASSES, /* outside the convolution: batch statistics, ReLU, sums, residuals */
    HR_PASS_WEIGHTS,          /* hr_exec_params: masks, packing, transforms */
    HR_PASS_KINDS
};
extern const char *const hr_pass_names[HR_PASS_KINDS];

/* Bytes that the executor needs for batches of `batch` images, without what the model itself takes. */
size_t hr_plan_bytes(const hr_exec *e, int batch);
/* The plan, one row per fused step: its first node's name, what it does, its map, MACs per image, the kernel
 * of each pass, and bytes of weights (all copies and tables) and of an image's activations and gradients;
 * then the memory for the planned batch. As aligned text or tab-separated; or (caller owns it) as
 *   {"arch": s, "kernels": isa, "threads": n, "batch": n, "train": bool, "bytes": n, "bytes_fixed": n,
 *    "layers": [{"name": s, "op": s, "fused": [ops], "in": [c,h,w], "out": [c,h,w], "macs": n,
 *                "forward": kernel or null, "dx": ..., "dw": ..., "bytes_weights": n, "bytes_image": n},
 * ...]} */
void hr_plan_table(const hr_exec *e, bool tsv, hr_buf *out);
json_t *hr_plan_json(const hr_exec *e);

/* Measure from now on: seconds and MACs per step, kind of work and thread. Costs nothing when never called.
 */
void hr_exec_profile(hr_exec *e);
/* Append what was measured: per layer and pass milliseconds (summed over threads and divided by their
 * number), GFLOP/s of all threads together (two operations per MAC of the direct algorithm) and the share of
 * the time since hr_exec_profile; then totals per pass. What is left of 100 % went into waiting and outside
 * the network (losses, steps of attacks and optimisers, data). */
void hr_profile_table(const hr_exec *e, hr_buf *out);

/* Name of the kernels in use: "v2", "v3", "v4", "portable". */
const char *hr_compute_isa(void);

/* ---- losses on logits -------------------------------------------------------------------------------- */

/* Cross-entropy of samples [n0,n1): loss[i] = -log softmax(z[i])[y[i]] (double, may be NULL), dz[i] = scale *
 * (softmax(z[i]) - onehot(y[i])) (may be NULL). z, dz (N,classes), y (N). */
void hr_loss_ce(const float *z, const int32_t *y, int n0, int n1, int classes, float scale, double *loss,
                float *dz);
/* The published C&W margin loss, to be ascended (ALG 8.1): loss[i] = -max(z_y - max_{j!=y} z_j + 50, 0). */
void hr_loss_margin(const float *z, const int32_t *y, int n0, int n1, int classes, float scale, double *loss,
                    float *dz);
/* Index of the largest logit of each sample of [n0,n1); ties go to the lower index; -1 when one is NaN. */
void hr_argmax(const float *z, int n0, int n1, int classes, int32_t *pred);
/* Sum of v[0..n) in the fixed tree over chunks of HR_CHUNK. */
double hr_tree_sum(const double *v, size_t n);

#endif
