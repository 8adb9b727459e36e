/* lib/model/layers.c -- the prunable layers of a graph, in strategy order and in torch's. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

static int layer_named(const hr_layers *ls, const char *name)
{
    for (int i = 0; i < ls->n; i++)
        if (strcmp(ls->l[i].name, name) == 0)
            return i;
    return -1;
}

/* The add node that joins the branch starting at node i back into the trunk: follow the first reader of each
 * output. -1 when the branch never reaches an add. */
static int joining_add(const hr_model *m, int i)
{
    for (int j = i + 1; j < m->nnodes; j++) {
        const hr_node *n = &m->nodes[j];
        if (n->in[0] != i && !(n->nin == 2 && n->in[1] == i))
            continue;
        if (n->op == HR_OP_ADD)
            return j;
        i = j;
    }
    return -1;
}

/* torch registers a block's shortcut after the block's convolutions, our nodes have it before them. So a
 * shortcut's key in torch's order is the add that ends its block, and every other layer's is its own node;
 * an add is never a layer, so no two keys are equal unless two shortcuts join in one add. */
static void number_in_torch_order(const hr_model *m, hr_layers *ls)
{
    int *key = hr_xmalloc((size_t)ls->n * sizeof *key);
    for (int i = 0; i < ls->n; i++) {
        int add = ls->l[i].tie >= 0 ? joining_add(m, ls->l[i].node) : -1;
        key[i] = add >= 0 ? add : ls->l[i].node;
    }
    for (int i = 0; i < ls->n; i++) {
        ls->l[i].torch_index = 0;
        for (int j = 0; j < ls->n; j++)
            ls->l[i].torch_index += key[j] < key[i] || (j < i && key[j] == key[i]);
    }
    free(key);
}

hr_layers hr_layers_of(const hr_model *m)
{
    hr_layers ls = {0};
    ls.l = hr_xcalloc((size_t)m->nnodes, sizeof *ls.l);
    for (int i = 0; i < m->nnodes; i++) {
        const hr_node *n = &m->nodes[i];
        if (n->param[HR_P_WEIGHT] >= 0)
            ls.params += hr_tensor_count(&m->tensors[n->param[HR_P_WEIGHT]]);
        if (n->param[HR_P_BIAS] >= 0)
            ls.params += hr_tensor_count(&m->tensors[n->param[HR_P_BIAS]]);
        if (n->op != HR_OP_CONV2D && n->op != HR_OP_LINEAR)
            continue;
        const hr_node *src = &m->nodes[n->in[0]];
        hr_layer *l = &ls.l[ls.n++];
        *l = (hr_layer){
            .node = i,
            .name = n->id,
            .weight = n->param[HR_P_WEIGHT],
            .linear = n->op == HR_OP_LINEAR,
            .in = src->c,
            .out = n->c,
            .kh = n->kh,
            .kw = n->kw,
            .stride = n->stride,
            .pad = n->pad,
            .hin = src->h,
            .win = src->w,
            .hout = n->h,
            .wout = n->w,
            .n = (int64_t)n->c * src->c * n->kh * n->kw,
            .tie = -1,
        };
        l->macs = l->n * l->hout * l->wout;
        ls.weights += l->n;
        ls.macs += l->macs;
    }
    for (int i = 0; i < ls.n; i++) {
        const char *tie = m->nodes[ls.l[i].node].tie;
        if (tie)
            ls.l[i].tie = layer_named(&ls, tie);
        if (ls.l[i].tie < 0)
            ls.l[i].channel_index = ls.channel_n++;
    }
    for (int i = 0; i < ls.n; i++)
        if (ls.l[i].tie >= 0)
            ls.l[i].channel_index = ls.l[ls.l[i].tie].channel_index;
    number_in_torch_order(m, &ls);
    return ls;
}

void hr_layers_release(hr_layers *ls)
{
    free(ls->l);
    *ls = (hr_layers){0};
}

int64_t hr_layer_kept(const hr_model *m, const hr_layer *l)
{
    const hr_prune *p = &m->prune[l->node];
    if (!p->set || !p->active)
        return l->n;
    return p->reg == HR_REG_WEIGHT ? p->kept : p->kept * (l->n / l->in);
}

static json_t *prune_json(const hr_prune *p)
{
    if (!p->set)
        return json_null();
    return json_pack("{s:s, s:f, s:I, s:s}", "reg", hr_reg_names[p->reg], "rate", p->rate, "kept",
                     (json_int_t)p->kept, "state", p->active ? "active" : "planned");
}

static json_t *layer_json(const hr_model *m, const hr_layers *ls, int i)
{
    const hr_layer *l = &ls->l[i];
    json_t *j =
        json_pack("{s:s, s:s, s:i, s:i, s:[ii], s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I}", "name", l->name,
                  "op", hr_op_names[m->nodes[l->node].op], "in", l->in, "out", l->out, "kernel", l->kh, l->kw,
                  "stride", l->stride, "pad", l->pad, "hin", l->hin, "win", l->win, "hout", l->hout, "wout",
                  l->wout, "weights", (json_int_t)l->n, "macs", (json_int_t)l->macs);
    json_object_set_new(j, "kept_weights", json_integer(hr_layer_kept(m, l)));
    json_object_set_new(j, "kept_macs", json_integer(hr_layer_kept(m, l) * (l->macs / l->n)));
    json_object_set_new(j, "tie", l->tie >= 0 ? json_string(ls->l[l->tie].name) : json_null());
    json_object_set_new(j, "weight_index", json_integer(i));
    json_object_set_new(j, "channel_index", json_integer(l->channel_index));
    json_object_set_new(j, "torch_index", json_integer(l->torch_index));
    json_object_set_new(j, "prune", prune_json(&m->prune[l->node]));
    return j;
}

const hr_node *hr_normalize_node(const hr_model *m)
{
    for (int i = 1; i < m->nnodes; i++)
        if (m->nodes[i].op == HR_OP_NORMALIZE)
            return &m->nodes[i];
    return NULL;
}

static json_t *normalize_json(const hr_node *n)
{
    if (!n)
        return json_null();
    json_t *mean = json_array(), *std = json_array();
    for (int c = 0; c < n->c; c++) {
        json_array_append_new(mean, json_real(n->mean[c]));
        json_array_append_new(std, json_real(n->std[c]));
    }
    return json_pack("{s:o, s:o}", "mean", mean, "std", std);
}

json_t *hr_layers_json(const hr_model *m)
{
    hr_layers ls = hr_layers_of(m);
    const hr_node *in = &m->nodes[0];
    json_t *layers = json_array();
    for (int i = 0; i < ls.n; i++)
        json_array_append_new(layers, layer_json(m, &ls, i));
    json_t *j = json_pack("{s:s, s:[iii], s:o, s:i, s:I, s:I, s:I, s:o}", "arch", m->arch, "input", in->c,
                          in->h, in->w, "normalize", normalize_json(hr_normalize_node(m)), "classes",
                          m->classes, "params", (json_int_t)ls.params, "weights", (json_int_t)ls.weights,
                          "macs", (json_int_t)ls.macs, "layers", layers);
    hr_layers_release(&ls);
    return j;
}
