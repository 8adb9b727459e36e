/* lib/compute/ref/ref.c -- the oracle's bookkeeping: buffers, parameters, and the walk over the graph. */
#include "compute/ref.h"

#include <stdlib.h>
#include <string.h>

#include "compute/ref/ops.h"

struct hr_ref {
    const hr_model *m;
    int batch, ntensors;
    double **param, **grad; /* per tensor of the model, NULL where unused */
    ref_op *ops;            /* per node; y and dy own their storage, x and dx point into other nodes' */
};

static size_t node_len(const hr_node *nd)
{
    return (size_t)nd->c * nd->h * nd->w;
}

static double *doubles_of(const hr_tensor *t)
{
    const float *f = hr_tensor_f32(t);
    int64_t n = hr_tensor_count(t);
    double *d = hr_xaligned(n, sizeof *d);
    for (int64_t i = 0; i < n; i++)
        d[i] = f[i];
    return d;
}

/* w[o,i,r,s] *= mask[o,i,r,s], or mask[0,i,0,0] for a mask over input channels */
static void apply_mask(const hr_model *m, int node, double *w)
{
    if (!m->prune || !m->prune[node].set || !m->prune[node].active)
        return;
    const hr_tensor *mask = hr_model_node_tensor(m, node, "mask");
    if (!mask)
        BUG("layer %s has an active mask but no mask tensor", m->nodes[node].id);
    const hr_tensor *t = &m->tensors[m->nodes[node].param[HR_P_WEIGHT]];
    const uint8_t *bits = mask->data;
    int64_t n = hr_tensor_count(t), in = t->shape[1], per_channel = n / (t->shape[0] * in);
    for (int64_t k = 0; k < n; k++)
        w[k] *= m->prune[node].reg == HR_REG_WEIGHT ? bits[k] : bits[k / per_channel % in];
}

static void plan_node(hr_ref *r, int i)
{
    const hr_model *m = r->m;
    const hr_node *nd = &m->nodes[i], *src = nd->nin ? &m->nodes[nd->in[0]] : nd;
    ref_op *op = &r->ops[i];
    *op = (ref_op){.node = nd, .I = src->c, .H = src->h, .W = src->w, .O = nd->c, .P = nd->h, .Q = nd->w};
    op->y = hr_xaligned(r->batch * node_len(nd), sizeof *op->y);
    op->dy = hr_xaligned(r->batch * node_len(nd), sizeof *op->dy);
    for (int k = 0; k < nd->nin; k++) {
        op->x[k] = r->ops[nd->in[k]].y;
        op->dx[k] = r->ops[nd->in[k]].dy;
    }
    for (int role = 0; role < HR_P_COUNT; role++) {
        int t = nd->op == HR_OP_INPUT ? -1 : nd->param[role];
        if (t < 0)
            continue;
        if (!r->param[t]) {
            r->param[t] = doubles_of(&m->tensors[t]);
            if (role == HR_P_WEIGHT)
                apply_mask(m, i, r->param[t]);
            if (role == HR_P_WEIGHT || role == HR_P_BIAS)
                r->grad[t] = hr_xaligned(hr_tensor_count(&m->tensors[t]), sizeof(double));
        }
        op->param[role] = r->param[t];
        op->grad[role] = r->grad[t];
    }
    if (nd->op == HR_OP_BATCHNORM) {
        op->mean = hr_xaligned(nd->c, sizeof *op->mean);
        op->inv = hr_xaligned(nd->c, sizeof *op->inv);
    }
}

hr_ref *hr_ref_new(const hr_model *m, int batch)
{
    hr_ref *r = hr_xcalloc(1, sizeof *r);
    r->m = m;
    r->batch = batch;
    r->ntensors = m->ntensors;
    r->param = hr_xcalloc(m->ntensors, sizeof *r->param);
    r->grad = hr_xcalloc(m->ntensors, sizeof *r->grad);
    r->ops = hr_xcalloc(m->nnodes, sizeof *r->ops);
    for (int i = 0; i < m->nnodes; i++)
        plan_node(r, i);
    return r;
}

void hr_ref_free(hr_ref *r)
{
    if (!r)
        return;
    for (int i = 0; i < r->m->nnodes; i++) {
        free(r->ops[i].y);
        free(r->ops[i].dy);
        free(r->ops[i].mean);
        free(r->ops[i].inv);
    }
    for (int t = 0; t < r->ntensors; t++) {
        free(r->param[t]);
        free(r->grad[t]);
    }
    free(r->ops);
    free(r->param);
    free(r->grad);
    free(r);
}

double *hr_ref_param(hr_ref *r, int tensor)
{
    return r->param[tensor];
}

double *hr_ref_input(hr_ref *r)
{
    return r->ops[0].y;
}

const double *hr_ref_logits(const hr_ref *r)
{
    return r->ops[r->m->nnodes - 1].y;
}

const double *hr_ref_node_output(const hr_ref *r, int node)
{
    return r->ops[node].y;
}

const double *hr_ref_dinput(const hr_ref *r)
{
    return r->ops[0].dy;
}

const double *hr_ref_node_grad(const hr_ref *r, int node)
{
    return r->ops[node].dy;
}

const double *hr_ref_grad(const hr_ref *r, int tensor)
{
    return r->grad[tensor];
}

void hr_ref_forward(hr_ref *r, int n, enum hr_bn_mode bn)
{
    if (n < 1 || n > r->batch)
        BUG("ref: %d samples, planned for 1 to %d", n, r->batch);
    for (int i = 1; i < r->m->nnodes; i++) {
        r->ops[i].N = n;
        r->ops[i].bn = bn;
        ref_kernels[r->m->nodes[i].op].forward(&r->ops[i]);
    }
}

void hr_ref_backward(hr_ref *r, int n, const double *dlogits)
{
    const hr_model *m = r->m;
    int last = m->nnodes - 1;
    if (last == 0 || n != r->ops[last].N)
        BUG("ref: backward over %d samples does not follow a forward over as many", n);
    for (int i = 0; i < m->nnodes; i++)
        memset(r->ops[i].dy, 0, n * node_len(&m->nodes[i]) * sizeof(double));
    for (int t = 0; t < r->ntensors; t++)
        if (r->grad[t])
            memset(r->grad[t], 0, hr_tensor_count(&m->tensors[t]) * sizeof(double));
    memcpy(r->ops[last].dy, dlogits, n * node_len(&m->nodes[last]) * sizeof(double));
    for (int i = last; i > 0; i--)
        ref_kernels[m->nodes[i].op].backward(&r->ops[i]);
}
