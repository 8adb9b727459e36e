/* lib/train/stage.c -- what a stage trains: the list of trainees, and how their gradients come about.
 *
 * A trainee is an array of numbers that the optimiser moves, with a rule that makes its gradient out of the
 * executor's, d, which is the gradient of the *effective* parameter (weight after mask):
 *
 *     PLAIN    g = d                      weights and biases of a dense network, batch norm, biases
 *     MASKED   g = d * mask               weights in finetune: what is pruned stays exactly zero
 *     SCORES   g = sign(s) * d * w        popup scores in prune (hydra.c); the masks move with them
 *     ADMM     g = d + rho * (w-z+u)      weights in admm (admm.c)
 *
 * Losses of pairs take two backward passes: d is the sum of both. */
#include "train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_stage_names[5] = {"pretrain", "prune", "finetune", "admm", NULL};

int hr_stage_check(const hr_trainer *t, hr_err *err)
{
    enum hr_stage stage = t->o->stage;
    int active = 0, planned = 0;
    const char *without = NULL;
    for (int i = 0; i < t->layers.n; i++) {
        const hr_prune *p = &t->m->prune[t->layers.l[i].node];
        active += p->set && p->active;
        planned += p->set && !p->active;
        if (!p->set && !without)
            without = t->layers.l[i].name;
    }
    if (stage == HR_STAGE_PRETRAIN && active)
        return hr_fail(err, HR_EINVAL, "%s: the network is pruned; --stage pretrain trains dense networks",
                       t->o->name);
    bool plans = stage == HR_STAGE_PRUNE || stage == HR_STAGE_ADMM;
    if (plans && active)
        return hr_fail(err, HR_EINVAL,
                       "%s: the network is pruned already; --stage %s needs dense weights with planned "
                       "rates (maskapply --plan)",
                       t->o->name, hr_stage_names[stage]);
    if (plans && !planned)
        return hr_fail(err, HR_EINVAL,
                       "%s: no layer has a planned rate; --stage %s needs one per layer (maskapply --plan)",
                       t->o->name, hr_stage_names[stage]);
    if (plans && without)
        return hr_fail(err, HR_EINVAL, "%s: layer '%s' has no planned rate, others have", t->o->name,
                       without);
    if (stage == HR_STAGE_FINETUNE && !active)
        return hr_fail(err, HR_EINVAL,
                       "%s: no layer has an active mask; --stage finetune needs a pruned network (maskapply, "
                       "or --stage prune)",
                       t->o->name);
    return HR_OK;
}

/* Put initial scores of every layer into the model. Tensors move in memory: call before taking pointers. */
static void add_scores(hr_trainer *t)
{
    for (int i = 0; i < t->layers.n; i++) {
        const hr_layer *l = &t->layers.l[i];
        enum hr_reg reg = t->m->prune[l->node].reg;
        const hr_tensor *w = &t->m->tensors[l->weight];
        int64_t shape[HR_MAX_DIMS];
        for (int d = 0; d < w->ndim; d++)
            shape[d] = reg == HR_REG_WEIGHT || d == 1 ? w->shape[d] : 1;
        char *name = hr_xasprintf("%s.popup_scores", l->name);
        int s = hr_model_add_tensor(t->m, name, HR_F32, w->ndim, shape);
        hr_hydra_scores(hr_tensor_f32(&t->m->tensors[s]), hr_tensor_f32(&t->m->tensors[l->weight]), l, reg,
                        t->o->scores, t->o->seed, (uint32_t)i);
        free(name);
    }
}

void hr_stage_begin(hr_trainer *t)
{
    if (t->o->stage == HR_STAGE_PRUNE)
        add_scores(t);
    if (t->o->stage == HR_STAGE_FINETUNE)
        hr_model_zero_pruned(t->m, &t->layers);
}

static hr_trainee *add_trainee(hr_trainer *t, enum hr_rule rule, int tensor, hr_tensor *value)
{
    hr_trainee *p = &t->list[t->n++];
    size_t n = (size_t)hr_tensor_count(value);
    *p = (hr_trainee){.rule = rule, .name = value->name, .value = hr_tensor_f32(value), .n = n};
    p->tensor = tensor;
    p->buf = hr_xaligned(n, sizeof(float));
    if (t->o->optimizer != HR_SGD)
        p->buf2 = hr_xaligned(n, sizeof(float));
    if (t->o->best)
        p->best = hr_xaligned(n, sizeof(float));
    p->weights = (size_t)hr_tensor_count(&t->m->tensors[tensor]);
    if (hr_trains_pairs(t->o))
        p->first = hr_xaligned(p->weights, sizeof(float));
    if (rule != HR_PLAIN)
        p->gradient = hr_xaligned(n, sizeof(float));
    return p;
}

/* The mask that p's scores mean now. */
void hr_stage_choose(hr_trainee *p)
{
    hr_hydra_mask(p->value, p->layer, p->reg, p->kept, p->chosen);
    hr_mask_expand(p->chosen, p->layer, p->reg, p->mask);
}

static void add_layer(hr_trainer *t, const hr_layer *l)
{
    hr_tensor *w = &t->m->tensors[l->weight];
    const hr_prune *record = &t->m->prune[l->node];
    hr_trainee *p;
    if (t->o->stage == HR_STAGE_PRUNE) {
        p = add_trainee(t, HR_SCORES, l->weight, hr_model_node_tensor(t->m, l->node, "popup_scores"));
        p->weight = hr_tensor_f32(w);
        p->chosen = hr_xaligned(p->n, 1);
    } else if (t->o->stage == HR_STAGE_ADMM) {
        p = add_trainee(t, HR_ADMM, l->weight, w);
        p->z = hr_xaligned(p->n, sizeof(float));
        p->u = hr_xaligned(p->n, sizeof(float));
        p->scratch = hr_xaligned(p->n, sizeof(float));
        p->chosen = hr_xaligned(p->n, 1);
    } else if (t->o->stage == HR_STAGE_FINETUNE && record->set && record->active) {
        p = add_trainee(t, HR_MASKED, l->weight, w);
    } else {
        add_trainee(t, HR_PLAIN, l->weight, w);
        return;
    }
    p->layer = l;
    p->reg = record->reg;
    p->kept = record->kept;
    if (p->rule == HR_ADMM)
        return;
    p->mask = hr_xaligned((size_t)l->n, sizeof(float));
    if (p->rule == HR_MASKED)
        hr_mask_expand(hr_model_node_tensor(t->m, l->node, "mask")->data, l, p->reg, p->mask);
    hr_exec_set_mask(t->e, l->node, p->mask);
}

static void add_moving(hr_trainer *t, const hr_tensor *value)
{
    size_t n = (size_t)hr_tensor_count(value);
    t->moving[t->nmoving++] = (hr_moving){.name = value->name,
                                          .value = hr_tensor_f32(value),
                                          .n = n,
                                          .best = t->o->best ? hr_xaligned(n, sizeof(float)) : NULL,
                                          .before = hr_xaligned(n, sizeof(float))};
}

void hr_stage_trainees(hr_trainer *t)
{
    hr_model *m = t->m;
    bool prune = t->o->stage == HR_STAGE_PRUNE;
    t->list = hr_xcalloc((size_t)m->nnodes * 2, sizeof *t->list);
    t->moving = hr_xcalloc((size_t)m->nnodes * 2, sizeof *t->moving);
    for (int i = 0, layer = 0; i < m->nnodes; i++) {
        const hr_node *node = &m->nodes[i];
        bool norm = node->op == HR_OP_BATCHNORM;
        for (int role = HR_P_MEAN; norm && role <= HR_P_VAR; role++)
            add_moving(t, &m->tensors[node->param[role]]);
        if (layer < t->layers.n && t->layers.l[layer].node == i)
            add_layer(t, &t->layers.l[layer++]);
        else if (norm && !(prune && t->o->freeze_bn))
            add_trainee(t, HR_PLAIN, node->param[HR_P_WEIGHT], &m->tensors[node->param[HR_P_WEIGHT]]);
        if (node->param[HR_P_BIAS] >= 0 && (norm ? !(prune && t->o->freeze_bn) : !prune))
            add_trainee(t, HR_PLAIN, node->param[HR_P_BIAS], &m->tensors[node->param[HR_P_BIAS]]);
    }
}

const float *hr_stage_gradient(const hr_trainer *t, hr_trainee *p, double rho)
{
    const float *d = hr_exec_grad(t->e, p->tensor);
    if (t->paired) {
        for (size_t i = 0; i < p->weights; i++)
            p->first[i] += d[i];
        d = p->first;
    }
    if (p->rule == HR_PLAIN)
        return d;
    if (p->rule == HR_SCORES)
        hr_hydra_grad(p->gradient, d, p->weight, p->value, p->layer, p->reg);
    else if (p->rule == HR_ADMM)
        hr_admm_gradient(p->gradient, d, p->value, p->z, p->u, p->n, (float)rho);
    else
        for (size_t i = 0; i < p->n; i++)
            p->gradient[i] = p->mask[i] != 0.0f ? d[i] : 0.0f;
    return p->gradient;
}

/* The masks that the last scores mean become the model's. The tensor table grows: the executor goes first. */
void hr_stage_masks(hr_trainer *t)
{
    hr_exec_free(t->e);
    t->e = NULL;
    for (int i = 0; i < t->layers.n; i++) {
        const hr_layer *l = &t->layers.l[i];
        const hr_tensor *s = hr_model_node_tensor(t->m, l->node, "popup_scores");
        size_t n = (size_t)hr_tensor_count(s);
        float *size = hr_xmalloc(n * sizeof *size);
        for (size_t k = 0; k < n; k++)
            size[k] = fabsf(hr_tensor_f32(s)[k]);
        hr_model_set_mask(t->m, l, size);
        free(size);
    }
}

void hr_stage_release(hr_trainer *t)
{
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        free(p->gradient);
        free(p->first);
        free(p->best);
        free(p->buf);
        free(p->buf2);
        free(p->mask);
        free(p->z);
        free(p->u);
        free(p->scratch);
        free(p->chosen);
    }
    free(t->list);
    for (int i = 0; i < t->nmoving; i++) {
        free(t->moving[i].best);
        free(t->moving[i].before);
    }
    free(t->moving);
}
