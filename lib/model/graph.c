/* lib/model/graph.c -- building, copying and editing a model: its nodes and its table of tensors. */
#include "model/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const char *const hr_op_names[HR_OP_COUNT + 1] = {
    [HR_OP_INPUT] = "input",
    [HR_OP_NORMALIZE] = "normalize",
    [HR_OP_CONV2D] = "conv2d",
    [HR_OP_LINEAR] = "linear",
    [HR_OP_BATCHNORM] = "batchnorm",
    [HR_OP_RELU] = "relu",
    [HR_OP_ADD] = "add",
    [HR_OP_MAXPOOL] = "maxpool",
    [HR_OP_AVGPOOL] = "avgpool",
    [HR_OP_ADAPTIVE_AVGPOOL] = "adaptive_avgpool",
    [HR_OP_FLATTEN] = "flatten",
};

const char *const hr_dtype_names[HR_DTYPE_COUNT + 1] = {
    [HR_F32] = "float32", [HR_F64] = "float64", [HR_F16] = "float16", [HR_BF16] = "bfloat16",
    [HR_I64] = "int64",   [HR_I32] = "int32",   [HR_U8] = "uint8",    [HR_BOOL] = "bool",
};

const char *const hr_reg_names[3] = {"weight", "channel", NULL};

const char *const hr_param_names[HR_P_COUNT + 1] = {
    [HR_P_WEIGHT] = "weight",
    [HR_P_BIAS] = "bias",
    [HR_P_MEAN] = "running_mean",
    [HR_P_VAR] = "running_var",
};

size_t hr_dtype_size(enum hr_dtype t)
{
    static const size_t size[HR_DTYPE_COUNT] = {
        [HR_F32] = 4, [HR_F64] = 8, [HR_F16] = 2, [HR_BF16] = 2,
        [HR_I64] = 8, [HR_I32] = 4, [HR_U8] = 1,  [HR_BOOL] = 1,
    };
    if ((unsigned)t >= HR_DTYPE_COUNT)
        BUG("dtype %d", (int)t);
    return size[t];
}

int64_t hr_tensor_count(const hr_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

void *hr_tensor_room(size_t bytes)
{
    enum { HUGE_PAGE = 2 << 20 };
    void *p = NULL;
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    if (posix_memalign(&p, align, (bytes + 63) / 64 * 64 + (bytes == 0)))
        hr_die("out of memory: %zu bytes asked for", bytes);
    if (bytes >= HUGE_PAGE) /* a page fault for every 4 KiB takes longer than reading them */
        (void)madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return p;
}

float *hr_tensor_f32(const hr_tensor *t)
{
    if (t->dtype != HR_F32)
        BUG("tensor '%s' is %s, float32 is needed", t->name, hr_dtype_names[t->dtype]);
    return t->data;
}

void hr_model_free(hr_model *m)
{
    if (!m)
        return;
    for (int i = 0; i < m->nnodes; i++) {
        free(m->nodes[i].id);
        free(m->nodes[i].tie);
    }
    for (int i = 0; i < m->ntensors; i++) {
        free(m->tensors[i].name);
        free(m->tensors[i].data);
    }
    free(m->arch);
    free(m->nodes);
    free(m->tensors);
    free(m->prune);
    json_decref(m->meta);
    json_decref(m->history);
    free(m);
}

hr_model *hr_model_copy(const hr_model *m)
{
    hr_model *c = hr_xcalloc(1, sizeof *c);
    *c = *m;
    c->arch = hr_xstrdup(m->arch);
    c->nodes = hr_xcalloc((size_t)m->nnodes, sizeof *c->nodes);
    c->prune = hr_xcalloc((size_t)m->nnodes, sizeof *c->prune);
    for (int i = 0; i < m->nnodes; i++) {
        c->nodes[i] = m->nodes[i];
        c->nodes[i].id = hr_xstrdup(m->nodes[i].id);
        c->nodes[i].tie = m->nodes[i].tie ? hr_xstrdup(m->nodes[i].tie) : NULL;
        c->prune[i] = m->prune[i];
    }
    c->tensors = hr_xcalloc((size_t)m->ntensors, sizeof *c->tensors);
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *t = &m->tensors[i];
        size_t n = (size_t)hr_tensor_count(t), size = hr_dtype_size(t->dtype);
        c->tensors[i] = *t;
        c->tensors[i].name = hr_xstrdup(t->name);
        c->tensors[i].data = hr_xaligned(n, size);
        memcpy(c->tensors[i].data, t->data, n * size);
    }
    c->meta = m->meta ? json_deep_copy(m->meta) : NULL;
    c->history = m->history ? json_deep_copy(m->history) : NULL;
    return c;
}

int hr_model_find(const hr_model *m, const char *name)
{
    for (int i = 0; i < m->ntensors; i++)
        if (strcmp(m->tensors[i].name, name) == 0)
            return i;
    return -1;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const hr_tensor *const *)a)->name, (*(const hr_tensor *const *)b)->name);
}

const hr_tensor **hr_tensors_sorted(const hr_model *m)
{
    const hr_tensor **sorted = hr_xcalloc((size_t)m->ntensors, sizeof *sorted);
    for (int i = 0; i < m->ntensors; i++)
        sorted[i] = &m->tensors[i];
    qsort(sorted, (size_t)m->ntensors, sizeof *sorted, by_name);
    return sorted;
}

const hr_tensor *hr_tensors_search(const hr_tensor **sorted, int n, char *name)
{
    hr_tensor key = {.name = name};
    const hr_tensor *p = &key;
    const hr_tensor **hit = bsearch(&p, sorted, (size_t)n, sizeof *sorted, by_name);
    return hit ? *hit : NULL;
}

hr_tensor *hr_model_node_tensor(const hr_model *m, int node, const char *suffix)
{
    char *name = hr_xasprintf("%s.%s", m->nodes[node].id, suffix);
    int i = hr_model_find(m, name);
    free(name);
    return i < 0 ? NULL : &m->tensors[i];
}

int hr_model_add_tensor(hr_model *m, const char *name, enum hr_dtype dtype, int ndim, const int64_t *shape)
{
    hr_tensor t = {.name = hr_xstrdup(name), .dtype = dtype, .ndim = ndim};
    if (ndim < 0 || ndim > HR_MAX_DIMS)
        BUG("tensor '%s' with %d dimensions", name, ndim);
    for (int i = 0; i < ndim; i++)
        t.shape[i] = shape[i];
    if (!m->bare)
        t.data = hr_xaligned((size_t)hr_tensor_count(&t), hr_dtype_size(dtype));

    int at = hr_model_find(m, name);
    if (at < 0) {
        at = m->ntensors++;
        m->tensors = hr_xrealloc(m->tensors, (size_t)m->ntensors * sizeof *m->tensors);
    } else {
        free(m->tensors[at].name);
        free(m->tensors[at].data);
    }
    m->tensors[at] = t;
    return at;
}

void hr_model_drop_tensor(hr_model *m, const char *name)
{
    int at = hr_model_find(m, name);
    if (at < 0)
        return;
    for (int i = 0; i < m->nnodes; i++)
        for (int p = 0; p < HR_P_COUNT; p++)
            if (m->nodes[i].param[p] == at)
                return;
    free(m->tensors[at].name);
    free(m->tensors[at].data);
    m->ntensors--;
    memmove(m->tensors + at, m->tensors + at + 1, (size_t)(m->ntensors - at) * sizeof *m->tensors);
    for (int i = 0; i < m->nnodes; i++)
        for (int p = 0; p < HR_P_COUNT; p++)
            m->nodes[i].param[p] -= m->nodes[i].param[p] > at;
}

hr_model *hr_model_new(const char *arch, int c, int h, int w, int classes)
{
    hr_model *m = hr_xcalloc(1, sizeof *m);
    m->arch = hr_xstrdup(arch);
    m->classes = classes;
    int i = hr_model_add_node(m, "input", HR_OP_INPUT, -1, -1);
    m->nodes[i].c = c;
    m->nodes[i].h = h;
    m->nodes[i].w = w;
    return m;
}

int hr_model_add_node(hr_model *m, const char *id, enum hr_op op, int in0, int in1)
{
    int at = m->nnodes++;
    m->nodes = hr_xrealloc(m->nodes, (size_t)m->nnodes * sizeof *m->nodes);
    m->prune = hr_xrealloc(m->prune, (size_t)m->nnodes * sizeof *m->prune);
    m->prune[at] = (hr_prune){.set = false};
    m->nodes[at] = (hr_node){
        .id = hr_xstrdup(id),
        .op = op,
        .in = {in0, in1},
        .nin = (in0 >= 0) + (in1 >= 0),
        .param = {-1, -1, -1, -1},
        .kh = 1,
        .kw = 1,
        .stride = 1,
        .bn_eps = 1e-5,
        .bn_momentum = 0.1,
    };
    return at;
}

/* Add tensor ID.ROLE and make it the node's parameter. */
static float *add_param(hr_model *m, int node, int role, int ndim, const int64_t *shape)
{
    char *name = hr_xasprintf("%s.%s", m->nodes[node].id, hr_param_names[role]);
    int t = hr_model_add_tensor(m, name, HR_F32, ndim, shape);
    free(name);
    m->nodes[node].param[role] = t;
    return m->tensors[t].data;
}

int hr_model_add_conv(hr_model *m, const char *id, int in, int cin, int cout, int k, int stride, int pad,
                      bool bias)
{
    int at = hr_model_add_node(m, id, HR_OP_CONV2D, in, -1);
    m->nodes[at].kh = m->nodes[at].kw = k;
    m->nodes[at].stride = stride;
    m->nodes[at].pad = pad;
    add_param(m, at, HR_P_WEIGHT, 4, (int64_t[]){cout, cin, k, k});
    if (bias)
        add_param(m, at, HR_P_BIAS, 1, (int64_t[]){cout});
    return at;
}

int hr_model_add_linear(hr_model *m, const char *id, int in, int fin, int fout, bool bias)
{
    int at = hr_model_add_node(m, id, HR_OP_LINEAR, in, -1);
    add_param(m, at, HR_P_WEIGHT, 2, (int64_t[]){fout, fin});
    if (bias)
        add_param(m, at, HR_P_BIAS, 1, (int64_t[]){fout});
    return at;
}

int hr_model_add_batchnorm(hr_model *m, const char *id, int in, int c)
{
    int at = hr_model_add_node(m, id, HR_OP_BATCHNORM, in, -1);
    int64_t shape = c;
    float *weight = add_param(m, at, HR_P_WEIGHT, 1, &shape);
    add_param(m, at, HR_P_BIAS, 1, &shape);
    add_param(m, at, HR_P_MEAN, 1, &shape);
    float *var = add_param(m, at, HR_P_VAR, 1, &shape);
    for (int i = 0; !m->bare && i < c; i++)
        weight[i] = var[i] = 1.0f;
    return at;
}

int hr_model_add_pool(hr_model *m, const char *id, enum hr_op op, int in, int k, int stride, int pad)
{
    int at = hr_model_add_node(m, id, op, in, -1);
    m->nodes[at].kh = m->nodes[at].kw = k;
    m->nodes[at].stride = stride;
    m->nodes[at].pad = pad;
    return at;
}
