/* lib/model/model.h -- a network as data: an explicit graph, its tensors, and the files that hold both.
 *
 * A model is a list of nodes in execution order and a table of named tensors. Nothing else in the project
 * knows an architecture by name: the zoo (zoo.c) only builds graphs, everything that runs, prunes or attacks
 * a network reads the graph.
 *
 * Conventions.
 * - Tensors are kept in PyTorch's layout: conv weight (O,I,kh,kw), linear weight (O,I), row-major, and carry
 *   their state_dict key as name ("layer1.0.conv1.weight").
 * - A layer's name is its weight's key without ".weight"; strategies use it. A node's id is that name for
 *   nodes with parameters, and any unique word for the others.
 * - Nodes stand in *strategy order*: a block's shortcut convolution comes before the block's conv1. So the
 *   i-th prunable layer in node order is entry i of a weight strategy (hr_layers).
 * - Shapes in nodes are for one sample, without the batch axis: (c,h,w); vectors are (c,1,1).
 * - Flatten is in C,H,W order, as PyTorch's.
 *
 * Ownership: a model owns everything it points to. */
#ifndef HR_MODEL_H
#define HR_MODEL_H

#include "base/base.h"

/* ---- the graph --------------------------------------------------------------------------------------- */

enum hr_op {
    HR_OP_INPUT,     /* the image, pixels in [0,1] */
    HR_OP_NORMALIZE, /* (x - mean[c]) / std[c]; mean and std are attributes, not parameters */
    HR_OP_CONV2D,    /* cross-correlation, zero padding; weight, optional bias */
    HR_OP_LINEAR,    /* y = W x + b on a (c,1,1) input; weight, optional bias */
    HR_OP_BATCHNORM, /* per channel; weight, bias, running_mean, running_var */
    HR_OP_RELU,
    HR_OP_ADD,              /* in[0] + in[1] */
    HR_OP_MAXPOOL,          /* kernel, stride, pad (padding counts as -inf) */
    HR_OP_AVGPOOL,          /* kernel, stride, no padding */
    HR_OP_ADAPTIVE_AVGPOOL, /* to (oh,ow), PyTorch's bin edges: floor(i*H/oh) .. ceil((i+1)*H/oh) */
    HR_OP_FLATTEN,
    HR_OP_COUNT
};
extern const char *const hr_op_names[HR_OP_COUNT + 1]; /* as in files: "conv2d", ...; NULL-terminated */

/* Roles of a node's parameters: index into hr_node.param. */
enum { HR_P_WEIGHT, HR_P_BIAS, HR_P_MEAN, HR_P_VAR, HR_P_COUNT };
extern const char *const hr_param_names[HR_P_COUNT + 1]; /* "weight", "bias", "running_mean", "running_var" */

enum { HR_MAX_CHANNELS_NORM = 16 };

typedef struct hr_node {
    char *id;
    enum hr_op op;
    int in[2], nin;          /* indices of earlier nodes */
    int param[HR_P_COUNT];   /* indices of tensors, -1 where there is none */
    int kh, kw, stride, pad; /* conv2d and pools; adaptive_avgpool: kh, kw are the output's oh, ow and stride
                                is 1, pad 0; all other nodes have kh = kw = stride = 1, pad = 0 */
    double bn_eps,
        bn_momentum; /* batchnorm; PyTorch's meaning of momentum (0.1: new = 0.9 old + 0.1 batch) */
    double mean[HR_MAX_CHANNELS_NORM],
        std[HR_MAX_CHANNELS_NORM]; /* normalize; 0 behind the input's channels */
    char *tie;   /* conv2d that is a block's shortcut: id of the block's first convolution, which
                    reads the same input and lends it its channel rate; else NULL */
    int c, h, w; /* shape of the output */
} hr_node;

/* ---- tensors ----------------------------------------------------------------------------------------- */

enum hr_dtype { HR_F32, HR_F64, HR_F16, HR_BF16, HR_I64, HR_I32, HR_U8, HR_BOOL, HR_DTYPE_COUNT };
extern const char *const hr_dtype_names[HR_DTYPE_COUNT + 1]; /* "float32", ...; NULL-terminated */
size_t hr_dtype_size(enum hr_dtype t);                       /* bytes of one element */

enum { HR_MAX_DIMS = 8 };
typedef struct hr_tensor {
    char *name;
    enum hr_dtype dtype;
    int ndim;
    int64_t shape[HR_MAX_DIMS];
    void *data; /* row-major, 64-byte aligned */
} hr_tensor;
int64_t hr_tensor_count(const hr_tensor *t); /* number of elements; 1 for a scalar */
float *hr_tensor_f32(const hr_tensor *t);    /* data; BUG unless the dtype is float32 */

/* ---- the model --------------------------------------------------------------------------------------- */

/* How a layer is pruned. Written by maskapply (planned or active) and by HYDRA's prune stage (active). */
enum hr_reg { HR_REG_WEIGHT, HR_REG_CHANNEL };
extern const char *const hr_reg_names[3]; /* "weight", "channel", NULL */
typedef struct hr_prune {
    bool set;        /* false: the layer is dense and the rest is unused */
    enum hr_reg reg; /* channel = input channels of the layer */
    double rate;     /* fraction kept, kept / n */
    int64_t kept;    /* weights, or input channels */
    bool active;     /* true: the tensor LAYER.mask exists and counts; false: planned only */
} hr_prune;

typedef struct hr_model {
    char *arch; /* for people and file names only */
    int classes;
    hr_node *nodes; /* nodes[0] is the input; the last node is the output, (classes,1,1) */
    int nnodes;
    hr_tensor *tensors;
    int ntensors;
    hr_prune *prune; /* one per node; only conv2d and linear nodes use theirs */
    json_t *meta;    /* {"strategy": {"id", "label", "reg", "rate"} by maskapply, "data": {...}, ...}:
                    free-form facts that travel along */
    json_t *history; /* the chain that made this model (base.h), or NULL */
    bool bare;       /* tensors that are added get no memory, their data is NULL: for readers that know better
                        where the bytes are. No other code takes such a model but hr_model_check */
} hr_model;

void hr_model_free(hr_model *m); /* NULL is allowed */
hr_model *hr_model_copy(const hr_model *m);

/* Index of the tensor called name, or -1. */
int hr_model_find(const hr_model *m, const char *name);
/* Tensor LAYER.SUFFIX of node i ("mask", "popup_scores"), or NULL. */
hr_tensor *hr_model_node_tensor(const hr_model *m, int node, const char *suffix);
/* Add a tensor (or replace the one of that name): name and shape are copied; the data is zeroed. Pointers to
 * tensors obtained before are invalid afterwards. Returns its index. */
int hr_model_add_tensor(hr_model *m, const char *name, enum hr_dtype dtype, int ndim, const int64_t *shape);
/* Remove the tensor called name if it is there and no node uses it as a parameter. */
void hr_model_drop_tensor(hr_model *m, const char *name);

/* Building a graph by hand, node after node; then call hr_model_check, which fills in the shapes. A model
 * starts with its input node (index 0). in0 and in1 are indices of earlier nodes, -1 for none. Each call
 * returns the new node's index. Parameters are named ID.weight and so on and are zero, but for a batch norm's
 * weight and running_var, which are 1. Nodes start with kernel 1, stride 1, pad 0, eps 1e-5, momentum 0.1. */
hr_model *hr_model_new(const char *arch, int c, int h, int w, int classes);
int hr_model_add_node(hr_model *m, const char *id, enum hr_op op, int in0, int in1);
int hr_model_add_conv(hr_model *m, const char *id, int in, int cin, int cout, int k, int stride, int pad,
                      bool bias);
int hr_model_add_linear(hr_model *m, const char *id, int in, int fin, int fout, bool bias);
int hr_model_add_batchnorm(hr_model *m, const char *id, int in, int c);
/* op: maxpool, avgpool, or adaptive_avgpool (k is the output size then, stride 1, pad 0). */
int hr_model_add_pool(hr_model *m, const char *id, enum hr_op op, int in, int k, int stride, int pad);

/* Check everything a hostile file could hold, and infer every node's output shape: unique names and ids, node
 * order, arity, sizes and products without overflow, parameter types and shapes, a single output of
 * (classes,1,1), ties, prune records, masks (weight: the weight's shape; channel: 1xIx1x1 or 1xI; bytes 0 or
 * 1, as many ones as the record's `kept`; a mask without an active record is refused). No values are read but
 * those of masks. where names the file for messages. Returns 0, HR_EFORMAT or HR_ESHAPE. */
HR_MUST_CHECK int hr_model_check(hr_model *m, const char *where, hr_err *err);
/* Refuse NaN and infinity in any float tensor, and a negative running_var: HR_EFORMAT naming the tensor and
 * the element. */
HR_MUST_CHECK int hr_model_check_finite(const hr_model *m, const char *where, hr_err *err);

/* ---- layers ------------------------------------------------------------------------------------------ */

/* The prunable layers (conv2d and linear) in strategy order. */
typedef struct hr_layer {
    int node;
    const char *name; /* the node's id, borrowed from the model */
    int weight;       /* tensor index */
    bool linear;
    int in, out; /* channels or features */
    int kh, kw, stride, pad;
    int hin, win, hout, wout; /* 1 for linear */
    int64_t n;                /* weights: out*in*kh*kw */
    int64_t macs;             /* per image: n*hout*wout */
    int tie;           /* shortcut: index in this list of the layer whose channel rate it takes; else -1 */
    int channel_index; /* entry of a channel strategy (that of tie for a shortcut) */
    int torch_index;   /* index in torch's named_modules order: a shortcut after its block's convs */
} hr_layer;
typedef struct hr_layers {
    hr_layer *l;
    int n;           /* length of a weight strategy */
    int channel_n;   /* length of a channel strategy: n without the tied shortcuts */
    int64_t weights; /* sum of n */
    int64_t macs;
    int64_t params; /* trainable parameters of the whole model: weights, linear and conv biases, BN affine */
} hr_layers;
/* Caller releases with hr_layers_release. The model must have passed hr_model_check. */
hr_layers hr_layers_of(const hr_model *m);
void hr_layers_release(hr_layers *ls);
/* How many of layer l's weights its mask leaves: all of them without an active prune record. Multiply-adds
 * are left in the same proportion. */
int64_t hr_layer_kept(const hr_model *m, const hr_layer *l);
/* The node that normalises images, or NULL; its c channels are those of mean and std. */
const hr_node *hr_normalize_node(const hr_model *m);
/* As JSON, the document that nninfo prints and ddpg-search reads:
 *   {"arch": s, "input": [c,h,w], "normalize": null or {"mean": [x...], "std": [x...]}, "classes": n,
 *    "params": n, "weights": n, "macs": n,
 *    "layers": [{"name": s, "op": "conv2d"|"linear", "in": n, "out": n, "kernel": [kh,kw], "stride": n,
 *                "pad": n, "hin": n, "win": n, "hout": n, "wout": n, "weights": n, "macs": n,
 *                "kept_weights": n, "kept_macs": n, "tie": name or null, "weight_index": i,
 *                "channel_index": i, "torch_index": i,
 *                "prune": null or {"reg": s, "rate": x, "kept": n, "state": "planned"|"active"}}, ...]}
 * layers in strategy order; kept_weights and kept_macs are what active masks leave; nninfo adds "digest" for
 * a file. Caller owns it. */
json_t *hr_layers_json(const hr_model *m);
/* Append the same to out as a table: aligned text with totals, or tab-separated with a line of column names.
 * Prune records are columns too (the text has them only when there are any). */
void hr_layers_table(const hr_model *m, bool tsv, hr_buf *out);
/* The model's tensors in file order, each with the SHA-256 of its bytes, as a table or as
 *   {"arch": s, "tensors": [{"name": s, "dtype": s, "shape": [n...], "sha256": hex}, ...]} (caller owns it).
 */
void hr_tensors_table(const hr_model *m, bool tsv, hr_buf *out);
json_t *hr_tensors_json(const hr_model *m);

/* What a tensor's values are like; bad ones (NaN, infinite) are counted and stay out of the other numbers. */
typedef struct hr_stats {
    int64_t n, zeros, bad, first_bad; /* values; place of the first bad one, or -1 */
    double min, max, mean, std;       /* 0 when there is no finite value */
} hr_stats;
hr_stats hr_stats_of(const hr_tensor *t);
/* The statistics of all tensors in file order, as a table or as {"arch": s, "tensors": [{"name": s, "dtype":
 * s, "shape": [n...], "values": n, "zeros": n, "not_finite": n, "min": x, "max": x, "mean": x, "std": x},
 * ...]} (caller owns it). */
void hr_stats_table(const hr_model *m, bool tsv, hr_buf *out);
json_t *hr_stats_json(const hr_model *m);

/* ---- the zoo ----------------------------------------------------------------------------------------- */

/* What to build. Zero means the architecture's own: 3x32x32 and 10 classes, ResNet50 3x224x224 and 1000,
 * resS 1x28x28 and 10. mean and std (n of them) put a normalize node behind the input. */
typedef struct hr_zoo_opts {
    int c, h, w, classes;
    const double *mean, *std;
} hr_zoo_opts;
/* Build an architecture: vgg{2,4,6,8,11,13,16}[_bn], resnet18, wrn_28_4, ResNet50, resS (the demo's).
 * Parameters are allocated, zero (running_var and BN weight 1). Returns 0, or HR_EINVAL (unknown name: the
 * message lists the known ones; input too small). Definitions: the architecture comments in zoo.c. */
HR_MUST_CHECK int hr_zoo_build(const char *arch, const hr_zoo_opts *opts, hr_model **out, hr_err *err);
extern const char *const hr_zoo_names[]; /* NULL-terminated */
/* Fill all parameters with the architecture's random initialisation (stream HR_STREAM_INIT, counter = tensor
 * number), running statistics with mean 0 and variance 1. */
void hr_zoo_init(hr_model *m, uint32_t seed);

/* ---- .nn files --------------------------------------------------------------------------------------- */

/* Format: FORMAT.md in this directory. Write m to path in constant extra memory, atomically ("-": stdout,
 * which must not be a terminal). digest (65 bytes, may be NULL) receives the trailer's SHA-256: of the graph,
 * the prune records and the tensors, not of meta and history. m is not checked: call hr_model_check after
 * edits. Returns 0, HR_EIO, HR_EINVAL (meta and history, or the graph, of more than 4 MiB). */
HR_MUST_CHECK int hr_nn_save(const hr_model *m, const char *path, char *digest, hr_err *err);
/* The same to an open output, which the caller commits or aborts. */
HR_MUST_CHECK int hr_nn_write(const hr_model *m, hr_out *out, char *digest, hr_err *err);
/* Read a model, each tensor straight into its place (constant extra memory); the graph is checked, NaN
 * weights are refused. digest (65 bytes, may be NULL) receives the SHA-256 of graph and tensors that the
 * trailer holds and that was verified. Nothing may follow the trailer. Returns 0, HR_EIO, HR_EFORMAT (cut,
 * damaged, other kind or version), HR_ESHAPE. */
HR_MUST_CHECK int hr_nn_load(const char *path, hr_model **out, char *digest, hr_err *err);
/* The same for who only looks at the model: NaN weights are taken, too. */
HR_MUST_CHECK int hr_nn_load_any(const char *path, hr_model **out, char *digest, hr_err *err);

#endif
