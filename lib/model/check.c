/* lib/model/check.c -- is this a network that can be run? Everything that reads a model relies on what is
 * checked here, so that no other code needs to look twice at a graph that came from a file.
 *
 * The order matters: names first (so that messages can use them), then tensors by themselves, then node by
 * node in execution order (a node's inputs are known good by then), then what concerns several nodes: who is
 * read, ties, prune records and masks. All sizes are bounded before they are multiplied. */
#include "model/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_DIM = 1 << 24,       /* channels, features, height, width */
    MAX_WINDOW = 4096,       /* kernel, stride */
    MAX_ACTIVATION = 1 << 30 /* elements of one sample's activation */
};
static const int64_t MAX_MACS = (int64_t)1 << 60;

struct check {
    hr_model *m;
    const char *where;
    hr_err *err;
    const hr_tensor **by_name; /* sorted */
    const hr_node **by_id;     /* sorted */
    bool *read;                /* per node */
};

#define BAD(code, fmt, ...) hr_fail(k->err, code, "%s: " fmt, k->where, __VA_ARGS__)

/* ---- names --------------------------------------------------------------------------------------------- */

/* Printable ASCII without blanks: names go to terminals, tab-separated tables and JSON. */
static bool sound_name(const char *s)
{
    size_t n = s ? strlen(s) : 0;
    if (n < 1 || n > HR_MAX_NAME)
        return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] <= 0x20 || s[i] >= 0x7f)
            return false;
    return true;
}

static int by_node_id(const void *a, const void *b)
{
    return strcmp((*(const hr_node *const *)a)->id, (*(const hr_node *const *)b)->id);
}

static const hr_node *find_node(const struct check *k, char *id)
{
    hr_node key = {.id = id};
    const hr_node *p = &key;
    const hr_node **hit = bsearch(&p, k->by_id, (size_t)k->m->nnodes, sizeof *hit, by_node_id);
    return hit ? *hit : NULL;
}

static int check_names(struct check *k)
{
    const hr_model *m = k->m;
    if (m->nnodes < 1 || m->nnodes > HR_MAX_NODES)
        return BAD(HR_EFORMAT, "%d nodes, 1 to %d are possible", m->nnodes, HR_MAX_NODES);
    if (m->ntensors < 0 || m->ntensors > HR_MAX_TENSORS)
        return BAD(HR_EFORMAT, "%d tensors, up to %d are possible", m->ntensors, HR_MAX_TENSORS);
    if (!sound_name(m->arch))
        return BAD(HR_EFORMAT, "the architecture's name is not 1 to %d printable characters", HR_MAX_NAME);
    for (int i = 0; i < m->nnodes; i++) {
        if (!sound_name(m->nodes[i].id))
            return BAD(HR_EFORMAT, "the id of node %d is not 1 to %d printable characters", i, HR_MAX_NAME);
        k->by_id[i] = &m->nodes[i];
    }
    for (int i = 0; i < m->ntensors; i++) {
        if (!sound_name(m->tensors[i].name))
            return BAD(HR_EFORMAT, "the name of tensor %d is not 1 to %d printable characters", i,
                       HR_MAX_NAME);
    }
    qsort(k->by_id, (size_t)m->nnodes, sizeof *k->by_id, by_node_id);
    k->by_name = hr_tensors_sorted(m);
    for (int i = 1; i < m->nnodes; i++)
        if (strcmp(k->by_id[i - 1]->id, k->by_id[i]->id) == 0)
            return BAD(HR_EFORMAT, "two nodes have the id '%s'", k->by_id[i]->id);
    for (int i = 1; i < m->ntensors; i++)
        if (strcmp(k->by_name[i - 1]->name, k->by_name[i]->name) == 0)
            return BAD(HR_EFORMAT, "two tensors have the name '%s'", k->by_name[i]->name);
    return HR_OK;
}

/* ---- tensors ------------------------------------------------------------------------------------------- */

static int check_tensor(struct check *k, const hr_tensor *t)
{
    if ((unsigned)t->dtype >= HR_DTYPE_COUNT)
        return BAD(HR_EFORMAT, "tensor '%s' has the unknown dtype %d", t->name, (int)t->dtype);
    if (t->ndim < 0 || t->ndim > HR_MAX_DIMS)
        return BAD(HR_EFORMAT, "tensor '%s' has %d dimensions, 0 to %d are possible", t->name, t->ndim,
                   HR_MAX_DIMS);
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 1 || t->shape[i] > HR_MAX_ELEMENTS / n)
            return BAD(HR_EFORMAT, "tensor '%s': size %lld of dimension %d is out of range", t->name,
                       (long long)t->shape[i], i);
        n *= t->shape[i];
    }
    if (!t->data && !k->m->bare)
        return BAD(HR_EFORMAT, "tensor '%s' has no data", t->name);
    return HR_OK;
}

/* "64x3x3x3" */
static const char *shape_text(const hr_tensor *t, char buf[200])
{
    size_t at = 0;
    snprintf(buf, 200, "a scalar");
    for (int i = 0; i < t->ndim; i++)
        at += (size_t)snprintf(buf + at, 200 - at, "%s%lld", i ? "x" : "", (long long)t->shape[i]);
    return buf;
}

static int need_shape(struct check *k, const hr_tensor *t, int ndim, const int64_t *shape)
{
    char have[200], need[200];
    bool same = t->ndim == ndim;
    for (int i = 0; same && i < ndim; i++)
        same = t->shape[i] == shape[i];
    if (same)
        return HR_OK;
    hr_tensor want = {.ndim = ndim};
    memcpy(want.shape, shape, (size_t)ndim * sizeof *shape);
    return BAD(HR_ESHAPE, "tensor '%s' is %s, the graph needs %s", t->name, shape_text(t, have),
               shape_text(&want, need));
}

/* ---- nodes ----------------------------------------------------------------------------------------------
 */

static const struct rule {
    signed char inputs;
    bool window;                      /* kernel, stride and pad mean something */
    unsigned char required, optional; /* sets of parameter roles */
} rules[HR_OP_COUNT] = {
    [HR_OP_INPUT] = {0, false, 0, 0},
    [HR_OP_NORMALIZE] = {1, false, 0, 0},
    [HR_OP_CONV2D] = {1, true, 1 << HR_P_WEIGHT, 1 << HR_P_BIAS},
    [HR_OP_LINEAR] = {1, false, 1 << HR_P_WEIGHT, 1 << HR_P_BIAS},
    [HR_OP_BATCHNORM] = {1, false, (1 << HR_P_COUNT) - 1, 0},
    [HR_OP_RELU] = {1, false, 0, 0},
    [HR_OP_ADD] = {2, false, 0, 0},
    [HR_OP_MAXPOOL] = {1, true, 0, 0},
    [HR_OP_AVGPOOL] = {1, true, 0, 0},
    [HR_OP_ADAPTIVE_AVGPOOL] = {1, true, 0, 0},
    [HR_OP_FLATTEN] = {1, false, 0, 0},
};

static int check_params(struct check *k, const hr_node *n)
{
    const struct rule *r = &rules[n->op];
    char name[2 * HR_MAX_NAME];
    for (int p = 0; p < HR_P_COUNT; p++) {
        int t = n->param[p];
        bool required = r->required >> p & 1, allowed = required || (r->optional >> p & 1);
        if (t == -1 && !required)
            continue;
        if (!allowed || t < 0 || t >= k->m->ntensors)
            return BAD(HR_EFORMAT, "%s '%s' %s a %s", hr_op_names[n->op], n->id,
                       allowed ? "needs" : "cannot have", hr_param_names[p]);
        const hr_tensor *tensor = &k->m->tensors[t];
        snprintf(name, sizeof name, "%s.%s", n->id, hr_param_names[p]);
        if (strcmp(name, tensor->name) != 0)
            return BAD(HR_EFORMAT, "the %s of node '%s' is called '%s'", hr_param_names[p], n->id,
                       tensor->name);
        if (tensor->dtype != HR_F32)
            return BAD(HR_ESHAPE, "tensor '%s' is %s, float32 is needed", tensor->name,
                       hr_dtype_names[tensor->dtype]);
    }
    return HR_OK;
}

static int check_wiring(struct check *k, int i)
{
    const hr_node *n = &k->m->nodes[i];
    if ((unsigned)n->op >= HR_OP_COUNT)
        return BAD(HR_EFORMAT, "node '%s' has the unknown op %d", n->id, (int)n->op);
    if ((n->op == HR_OP_INPUT) != (i == 0))
        return BAD(HR_EFORMAT, "node '%s': the first node, and no other, is the input", n->id);
    if (n->nin != rules[n->op].inputs)
        return BAD(HR_EFORMAT, "%s '%s' has %d inputs, not %d", hr_op_names[n->op], n->id, n->nin,
                   rules[n->op].inputs);
    for (int j = 0; j < n->nin; j++) {
        if (n->in[j] < 0 || n->in[j] >= i)
            return BAD(HR_EFORMAT, "node '%s' (number %d) reads node %d, which does not come before it",
                       n->id, i, n->in[j]);
        k->read[n->in[j]] = true;
    }
    return HR_OK;
}

static int check_window(struct check *k, const hr_node *n)
{
    bool plain = n->kh == 1 && n->kw == 1 && n->stride == 1 && n->pad == 0;
    if (!rules[n->op].window)
        return plain
                   ? HR_OK
                   : BAD(HR_EFORMAT, "%s '%s' cannot have kernel, stride or pad", hr_op_names[n->op], n->id);
    if (n->kh < 1 || n->kh > MAX_WINDOW || n->kw < 1 || n->kw > MAX_WINDOW || n->stride < 1 ||
        n->stride > MAX_WINDOW)
        return BAD(HR_EFORMAT, "%s '%s': kernel %dx%d or stride %d is outside 1..%d", hr_op_names[n->op],
                   n->id, n->kh, n->kw, n->stride, MAX_WINDOW);
    int side = n->kh < n->kw ? n->kh : n->kw, most = n->op == HR_OP_CONV2D ? side - 1 : side / 2;
    if (n->op == HR_OP_AVGPOOL || n->op == HR_OP_ADAPTIVE_AVGPOOL)
        most = 0;
    if (n->pad < 0 || n->pad > most)
        return BAD(HR_EFORMAT, "%s '%s': pad %d, 0 to %d are possible with kernel %dx%d", hr_op_names[n->op],
                   n->id, n->pad, most, n->kh, n->kw);
    if (n->op == HR_OP_ADAPTIVE_AVGPOOL && n->stride != 1)
        return BAD(HR_EFORMAT, "adaptive_avgpool '%s' has stride %d, 1 is needed", n->id, n->stride);
    return HR_OK;
}

static int check_numbers(struct check *k, const hr_node *n, int channels)
{
    if (n->op == HR_OP_BATCHNORM &&
        !(n->bn_eps > 0 && n->bn_eps < 1 && n->bn_momentum >= 0 && n->bn_momentum <= 1))
        return BAD(HR_EFORMAT, "batchnorm '%s': eps %g or momentum %g is not between 0 and 1", n->id,
                   n->bn_eps, n->bn_momentum);
    if (n->op != HR_OP_NORMALIZE)
        return HR_OK;
    if (channels > HR_MAX_CHANNELS_NORM)
        return BAD(HR_ESHAPE, "normalize '%s' takes up to %d channels, it reads %d", n->id,
                   HR_MAX_CHANNELS_NORM, channels);
    for (int i = channels; i < HR_MAX_CHANNELS_NORM; i++)
        if (n->std[i] != 0)
            return BAD(HR_ESHAPE, "normalize '%s' has values for channel %d, it reads %d channels", n->id, i,
                       channels);
    for (int i = 0; i < channels; i++)
        if (!isfinite(n->mean[i]) || !isfinite(n->std[i]) || n->std[i] <= 0)
            return BAD(HR_EFORMAT, "normalize '%s': mean %g and std %g of channel %d make no scale", n->id,
                       n->mean[i], n->std[i], i);
    return HR_OK;
}

/* floor((size + 2 pad - kernel) / stride) + 1; 0 when the window does not fit. */
static int slide(int size, int kernel, int stride, int pad)
{
    int room = size + 2 * pad - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

/* Set the output shape of a node whose inputs have theirs. */
static int infer_shape(struct check *k, hr_node *n)
{
    const hr_tensor *weight = n->param[HR_P_WEIGHT] < 0 ? NULL : &k->m->tensors[n->param[HR_P_WEIGHT]];
    const hr_node *a = n->op == HR_OP_INPUT ? n : &k->m->nodes[n->in[0]];
    int c = a->c, h = a->h, w = a->w;
    switch (n->op) {
    case HR_OP_ADD: {
        const hr_node *b = &k->m->nodes[n->in[1]];
        if (b->c != c || b->h != h || b->w != w)
            return BAD(HR_ESHAPE, "add '%s' joins %dx%dx%d and %dx%dx%d", n->id, c, h, w, b->c, b->h, b->w);
        break;
    }
    case HR_OP_LINEAR:
        if (h != 1 || w != 1)
            return BAD(HR_ESHAPE, "linear '%s' reads %dx%dx%d, a flat input is needed", n->id, c, h, w);
        c = weight->ndim == 2 && weight->shape[0] <= MAX_DIM ? (int)weight->shape[0] : 0;
        break;
    case HR_OP_CONV2D:
        c = weight->ndim == 4 && weight->shape[0] <= MAX_DIM ? (int)weight->shape[0] : 0;
        /* fallthrough */
    case HR_OP_MAXPOOL:
    case HR_OP_AVGPOOL:
        h = slide(h, n->kh, n->stride, n->pad);
        w = slide(w, n->kw, n->stride, n->pad);
        if (h < 1 || w < 1)
            return BAD(HR_ESHAPE, "%s '%s': kernel %dx%d does not fit on its %dx%d input with pad %d",
                       hr_op_names[n->op], n->id, n->kh, n->kw, a->h, a->w, n->pad);
        break;
    case HR_OP_ADAPTIVE_AVGPOOL:
        h = n->kh;
        w = n->kw;
        break;
    case HR_OP_FLATTEN:
        c = c * h * w; /* at most MAX_ACTIVATION */
        h = w = 1;
        break;
    default:
        break;
    }
    if (weight && c < 1) {
        char text[200];
        return BAD(HR_ESHAPE, "tensor '%s' is %s, no weight of a %s", weight->name, shape_text(weight, text),
                   hr_op_names[n->op]);
    }
    if (c < 1 || h < 1 || w < 1 || h > MAX_DIM || w > MAX_DIM || (int64_t)h * w > MAX_ACTIVATION ||
        (int64_t)c * ((int64_t)h * w) > MAX_ACTIVATION)
        return BAD(HR_ESHAPE, "%s '%s': output %dx%dx%d is out of range", hr_op_names[n->op], n->id, c, h, w);
    n->c = c;
    n->h = h;
    n->w = w;
    return HR_OK;
}

static int check_param_shapes(struct check *k, const hr_node *n)
{
    int64_t in = n->nin ? k->m->nodes[n->in[0]].c : 0, out = n->c;
    int rc = HR_OK;
    for (int p = 0; rc == HR_OK && p < HR_P_COUNT; p++) {
        if (n->param[p] < 0)
            continue;
        const hr_tensor *t = &k->m->tensors[n->param[p]];
        if (p != HR_P_WEIGHT || n->op == HR_OP_BATCHNORM)
            rc = need_shape(k, t, 1, &out);
        else if (n->op == HR_OP_LINEAR)
            rc = need_shape(k, t, 2, (int64_t[]){out, in});
        else
            rc = need_shape(k, t, 4, (int64_t[]){out, in, n->kh, n->kw});
    }
    return rc;
}

static int check_nodes(struct check *k)
{
    hr_model *m = k->m;
    int64_t macs = 0, layer;
    int rc = HR_OK, layers = 0;
    for (int i = 0; rc == HR_OK && i < m->nnodes; i++) {
        hr_node *n = &m->nodes[i];
        rc = check_wiring(k, i);
        if (rc == HR_OK)
            rc = check_window(k, n);
        if (rc == HR_OK)
            rc = check_params(k, n);
        if (rc == HR_OK)
            rc = check_numbers(k, n, i ? m->nodes[n->in[0]].c : 0);
        if (rc == HR_OK)
            rc = infer_shape(k, n);
        if (rc == HR_OK)
            rc = check_param_shapes(k, n);
        if (rc || (n->op != HR_OP_CONV2D && n->op != HR_OP_LINEAR))
            continue;
        layers++;
        if (__builtin_mul_overflow(hr_tensor_count(&m->tensors[n->param[HR_P_WEIGHT]]), (int64_t)n->h * n->w,
                                   &layer) ||
            __builtin_add_overflow(macs, layer, &macs) || macs > MAX_MACS)
            return BAD(HR_ESHAPE, "'%s': the network's work is out of range", n->id);
    }
    if (rc)
        return rc;
    if (!layers)
        return BAD(HR_EFORMAT, "%s", "the graph holds no convolution and no linear layer");
    for (int i = 0; i < m->nnodes - 1; i++)
        if (!k->read[i])
            return BAD(HR_EFORMAT, "nothing reads the output of node '%s', and it is not the last",
                       m->nodes[i].id);
    const hr_node *last = &m->nodes[m->nnodes - 1];
    if (last->c != m->classes || last->h != 1 || last->w != 1)
        return BAD(HR_ESHAPE, "the last node '%s' gives %dx%dx%d, %d classes are announced", last->id,
                   last->c, last->h, last->w, m->classes);
    return HR_OK;
}

static int check_ties(struct check *k)
{
    for (int i = 0; i < k->m->nnodes; i++) {
        const hr_node *n = &k->m->nodes[i];
        if (!n->tie)
            continue;
        const hr_node *to = find_node(k, n->tie);
        if (n->op != HR_OP_CONV2D || !to || to == n || to->op != HR_OP_CONV2D || to->tie ||
            to->in[0] != n->in[0])
            return BAD(HR_EFORMAT,
                       "%s '%s' is tied to '%s', which is no untied convolution on the same input",
                       hr_op_names[n->op], n->id, sound_name(n->tie) ? n->tie : "?");
    }
    return HR_OK;
}

/* ---- prune records and masks ------------------------------------------------------------------------------
 */

static int check_mask(struct check *k, const hr_node *n, const hr_prune *p, const hr_tensor *mask)
{
    const hr_tensor *weight = &k->m->tensors[n->param[HR_P_WEIGHT]];
    int64_t shape[4] = {1, weight->shape[1], 1, 1};
    if (mask->dtype != HR_U8)
        return BAD(HR_ESHAPE, "tensor '%s' is %s, uint8 is needed", mask->name, hr_dtype_names[mask->dtype]);
    int rc = need_shape(k, mask, weight->ndim, p->reg == HR_REG_WEIGHT ? weight->shape : shape);
    if (rc)
        return rc;
    const uint8_t *b = mask->data;
    int64_t count = hr_tensor_count(mask), ones = 0;
    uint8_t seen = 0;
    for (int64_t i = 0; i < count; i++) {
        seen |= b[i];
        ones += b[i];
    }
    if (seen > 1)
        return BAD(HR_EFORMAT, "tensor '%s' holds bytes other than 0 and 1", mask->name);
    if (ones != p->kept)
        return BAD(HR_EFORMAT, "tensor '%s' keeps %lld, its record says %lld", mask->name, (long long)ones,
                   (long long)p->kept);
    return HR_OK;
}

static int check_prune(struct check *k, int i)
{
    const hr_node *n = &k->m->nodes[i];
    const hr_prune *p = &k->m->prune[i];
    bool layer = n->op == HR_OP_CONV2D || n->op == HR_OP_LINEAR;
    if (p->set && !layer)
        return BAD(HR_EFORMAT, "%s '%s' has a prune record, only convolutions and linear layers can",
                   hr_op_names[n->op], n->id);
    if (!layer)
        return HR_OK;

    char name[2 * HR_MAX_NAME];
    snprintf(name, sizeof name, "%s.mask", n->id);
    const hr_tensor *mask = hr_tensors_search(k->by_name, k->m->ntensors, name);
    bool active = p->set && p->active;
    if (active != (mask != NULL))
        return BAD(HR_EFORMAT, "layer '%s' has %s", n->id,
                   mask ? "a mask without an active prune record" : "an active prune record without a mask");
    if (!p->set)
        return HR_OK;
    if ((unsigned)p->reg > HR_REG_CHANNEL)
        return BAD(HR_EFORMAT, "layer '%s' has the unknown regularity %d", n->id, (int)p->reg);
    const hr_tensor *weight = &k->m->tensors[n->param[HR_P_WEIGHT]];
    int64_t count = p->reg == HR_REG_CHANNEL ? weight->shape[1] : hr_tensor_count(weight);
    /* A rate that was rounded to whole weights differs by less than one of them. */
    if (!(p->rate > 0 && p->rate <= 1) || p->kept < 1 || p->kept > count ||
        fabs(p->rate * (double)count - (double)p->kept) > 1.0)
        return BAD(HR_EFORMAT, "layer '%s': keeping %lld of %lld at rate %g is inconsistent", n->id,
                   (long long)p->kept, (long long)count, p->rate);
    return mask && mask->data ? check_mask(k, n, p, mask) : HR_OK;
}

int hr_model_check(hr_model *m, const char *where, hr_err *err)
{
    struct check check = {
        .m = m,
        .where = where,
        .err = err,
        .by_id = hr_xcalloc(m->nnodes > 0 ? (size_t)m->nnodes : 1, sizeof *check.by_id),
        .read = hr_xcalloc(m->nnodes > 0 ? (size_t)m->nnodes : 1, sizeof *check.read),
    };
    int rc = check_names(&check);
    for (int i = 0; rc == HR_OK && i < m->ntensors; i++)
        rc = check_tensor(&check, &m->tensors[i]);
    if (rc == HR_OK)
        rc = check_nodes(&check);
    if (rc == HR_OK)
        rc = check_ties(&check);
    for (int i = 0; rc == HR_OK && i < m->nnodes; i++)
        rc = check_prune(&check, i);
    free(check.by_name);
    free(check.by_id);
    free(check.read);
    return rc;
}

/* ---- values
 * ------------------------------------------------------------------------------------------------ */

/* Does a number's exponent field hold all ones: infinity or NaN? In blocks of a fixed length without
 * branches, which compilers turn into vector code: this runs over every weight of every file that is loaded.
 */
#define SPECIAL(name, word, exponent)                                                                        \
    static bool name(const void *data, int64_t n)                                                            \
    {                                                                                                        \
        enum { BLOCK = 1024 };                                                                               \
        const word *v = data;                                                                                \
        word bad = 0;                                                                                        \
        for (; n >= BLOCK && !bad; n -= BLOCK, v += BLOCK)                                                   \
            for (int i = 0; i < BLOCK; i++)                                                                  \
                bad |= (word) - ((v[i] & (exponent)) == (exponent));                                         \
        for (int64_t i = 0; i < n; i++)                                                                      \
            bad |= (word) - ((v[i] & (exponent)) == (exponent));                                             \
        return bad != 0;                                                                                     \
    }
SPECIAL(special_f32, uint32_t, 0x7f800000u)
SPECIAL(special_f64, uint64_t, 0x7ff0000000000000u)
SPECIAL(special_f16, uint16_t, 0x7c00u)
SPECIAL(special_bf16, uint16_t, 0x7f80u)

/* Among elements from .. from+n-1. */
static bool any_special(const hr_tensor *t, int64_t from, int64_t n)
{
    static bool (*const special[HR_DTYPE_COUNT])(const void *, int64_t) = {
        [HR_F32] = special_f32, [HR_F64] = special_f64, [HR_F16] = special_f16, [HR_BF16] = special_bf16};
    const char *p = (const char *)t->data + (size_t)from * hr_dtype_size(t->dtype);
    return special[t->dtype] && special[t->dtype](p, n);
}

int hr_model_check_finite(const hr_model *m, const char *where, hr_err *err)
{
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *t = &m->tensors[i];
        int64_t n = hr_tensor_count(t), at = 0;
        if (!any_special(t, 0, n))
            continue;
        while (!any_special(t, at, 1))
            at++;
        return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' is not finite at element %lld", where, t->name,
                       (long long)at);
    }
    for (int i = 0; i < m->nnodes; i++) {
        if (m->nodes[i].param[HR_P_VAR] < 0)
            continue;
        const hr_tensor *t = &m->tensors[m->nodes[i].param[HR_P_VAR]];
        const float *v = hr_tensor_f32(t);
        for (int64_t at = 0, n = hr_tensor_count(t); at < n; at++)
            if (v[at] < 0)
                return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' is a variance and %g at element %lld", where,
                               t->name, (double)v[at], (long long)at);
    }
    return HR_OK;
}
