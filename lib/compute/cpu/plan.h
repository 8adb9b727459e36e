/* lib/compute/cpu/plan.h -- an executor's inside: the planned steps and their memory.
 *
 * Steps. A node list is fused into steps, each of which writes one activation y:
 *     conv2d | linear  [+ batchnorm] [+ add of an activation that exists already] [+ relu]
 *     batchnorm [+ relu], normalize, add [+ relu], relu, pools, flatten
 * A node is taken into a step when the step's value so far has no other reader. Nodes that change nothing
 * (flatten of a 1x1 map, adaptive pooling to the size it has) vanish. Step 0 is the image.
 *
 * Tasks. A task is the samples that a thread takes through a layer (then whole chunks), or in HR_BN_FOLDED
 * through the network (then any number, such that the threads end together; hr_plan_task), at a time. Its
 * size changes no bit.
 *
 * Memory. Every value has a life, from the step that writes it to the last one that reads it, and values that
 * do not live at the same time share their places (place in plan.c). The two ways to run a network have two
 * layouts in one arena, since they never run at the same time:
 *
 * Whole batches (opts.train, opts.batch_stats). Activations y, raw convolution outputs z and gradients g of a
 * task lie together in that task's part of the arena. y and z live until the backward of their step: y is the
 * operand of DW, z that of the batch norm. Gradients move into the places of the y and z that the backward
 * pass is through with, so they take little more.
 *
 * Folded. The gradient to the image needs no activation: a ReLU only asks whether its output was positive.
 * That is one bit per value, kept for every image of the batch; activations live until the last step that
 * reads them has run forward, gradients likewise on the way back, in one room per thread as large as a task
 * needs. So an attack's memory hardly grows with the batch, and what a thread works on stays warmer. Max
 * pooling looks for the place of the maximum again, so its operand is kept, and then serves for the ReLU
 * before it, too. (In whole batches y stays for DW in any case, and the ReLU asks it.)
 */
#ifndef HR_COMPUTE_CPU_PLAN_H
#define HR_COMPUTE_CPU_PLAN_H

#include "compute/compute.h"
#include "compute/cpu/conv.h"
#include "compute/cpu/team.h"

enum hr_step_kind {
    HR_STEP_INPUT,
    HR_STEP_CONV,
    HR_STEP_AFFINE, /* normalize */
    HR_STEP_BN,
    HR_STEP_ADD,
    HR_STEP_RELU,
    HR_STEP_MAXPOOL,
    HR_STEP_AVGPOOL, /* all average pools: bins of their own sizes */
    HR_STEP_FLATTEN
};

typedef struct hr_step {
    enum hr_step_kind kind;
    int node;    /* the conv2d, linear, pool, ... */
    int bn;      /* batchnorm node, or -1 */
    int in, in2; /* steps read: the operand; the residual or second summand, or -1 */
    bool relu;
    bool in_add,
        in2_add;    /* in the backward pass, add to the operand's gradient: it has been written already */
    bool trainable; /* parameters here or upstream: without HR_DX only such gradients are computed */
    int c, h, w;
    size_t len;  /* c*h*w */
    double macs; /* per image and pass of a convolution, else 0 */
    /* Buffers of task i, each (task, len), begin at y + i*y_step and so on, in floats. */
    float *y, *z, *g;
    size_t y_step, z_step, g_step, y_at, z_at, g_at; /* at: of a task of one chunk, in the arena */
    int task;                                        /* samples, as in hr_exec */
    int part_of_task; /* samples after which this step and the one before it take turns */
    /* HR_BN_FOLDED. Places of y and g in a thread's room for a task of one sample, in floats; of a task of ns
     * they begin ns times as far. keep: y is kept for the backward pass, (batch, len). bits: where y > 0,
     * (batch, bits_len), value i of a sample is bit i%8 of byte i/8; NULL where nobody asks. */
    size_t room_y, room_g;
    bool keep;
    float *kept;
    uint8_t *bits;
    size_t bits_len;
    bool bits_out; /* the convolution writes the bits */
    bool gated;    /* the dx that g is complete with applies the bits and the batch norm's slope to it */
    bool gates;    /* this step's dx does so, to the gradient of `in` */
    hr_conv conv;
    bool dw_large;                       /* DW not by partial sums per chunk, but by tiles, or of groups */
    const float *mask;                   /* of hr_exec_set_mask */
    float *own_mask, *eff;               /* the model's own mask as floats; weight * mask */
    float *scale, *shift;                /* (c) from running statistics and bias */
    float *bias;                         /* (c) conv bias alone, or NULL */
    float *mean, *inv, *bscale, *bshift; /* (c) of the batch: mean, 1/sqrt(var+eps); as an affine map */
    float *k1, *k2, *k3;                 /* (c) gradient of the batch norm as an affine map */
    double *part;                        /* (chunks, 3, c) per-chunk sums: mean and m2, or s1 and s2; bias */
} hr_step;

/* Work of one thread in one step and one kind of pass. */
typedef struct hr_work {
    double seconds, macs;
} hr_work;

struct hr_exec {
    hr_model *m;
    const hr_kernels *k;
    hr_exec_opts opts;
    int chunk, chunks; /* samples of a chunk; chunks of a whole batch */
    int task;          /* samples that a thread takes at a time, whole chunks */
    int most;          /* samples of a task in HR_BN_FOLDED, at most */
    hr_step *steps;
    int nsteps;
    int *value; /* (nodes) step that holds a node's value, or -1 */
    float *arena;
    size_t thread_room; /* floats of a thread's room; they lie one behind the other in the arena */
    size_t image_room;  /* floats of it for one image */
    float *input, *dinput, *logits, *dlogits;
    float **grads;  /* (tensors) */
    float *dw_part; /* (chunks, largest chunk-wise dW) */
    size_t dw_part_len;
    float *room; /* of hr_wino_gather */
    size_t room_len;
    float *shared; /* tiles of hr_wino_shared_*, or NULL */
    size_t shared_len;
    hr_team *team;  /* of the threads, HR_BN_FOLDED; NULL where they do not meet */
    char **scratch; /* (threads) */
    float **tile;   /* (threads) partial sums of a dW tile, one per level of the tree */
    int levels;     /* of the merge tree over chunks */
    size_t tile_len;
    uint64_t *tasks; /* (threads) */
    /* Memory: for any batch, per image, per chunk; and floats of the arena per chunk
     * of whole tasks. */
    size_t bytes_fixed, bytes_image, bytes_chunk, arena_chunk;
    hr_work *work; /* (threads, steps, HR_PASS_KINDS), or NULL: no profile */
    double work_start;
    struct hr_cuda_exec
        *cuda; /* not NULL: lib/compute/cuda does the work; of this only steps, grads, value */
};

/* Fuse and connect: what every device needs. Returns 0 or HR_EINVAL. */
int hr_plan_graph(hr_exec *e, hr_err *err);
/* The same, and lay out for the CPU. Returns 0 or HR_EINVAL. */
int hr_plan(hr_exec *e, hr_err *err);
void hr_plan_release(hr_exec *e);
/* Chunks that so many samples make. */
int hr_plan_chunks(const hr_exec *e, int samples);
/* Samples of a task when n go through the network with folded batch norm, at most e->most. */
int hr_plan_task(const hr_exec *e, int n);
/* The Winograd layer that this pass of s is, where the samples of all tasks go through it together: all of a
 * whole batch, or with HR_BN_FOLDED those of the threads that meet (team.h). NULL: each task by itself. */
const hr_wino *hr_plan_shared(const hr_exec *e, const hr_step *s, enum hr_pass pass, bool whole);
/* A plan for whole batches, too: not for folded batch norm alone. */
static inline bool hr_plan_whole(const hr_exec *e)
{
    return e->opts.train || e->opts.batch_stats;
}

/* pool.c: forward and backward of the parameterless steps for ns samples. scratch: of the calling thread, for
 * max pooling as many bytes as hr_pool_scratch says. */
size_t hr_pool_scratch(const hr_node *node, const hr_step *in);
void hr_pool_forward(const hr_kernels *k, const hr_step *s, const hr_node *node, const hr_step *in,
                     const float *x, int ns, float *y, void *scratch);
void hr_pool_backward(const hr_kernels *k, const hr_step *s, const hr_node *node, const hr_step *in,
                      const float *x, const float *g, int ns, float *dx, bool add, void *scratch);

#endif
