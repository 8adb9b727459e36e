/* lib/prune/apply.c -- strategies and masks written into a model.
 *
 * A layer's record (hr_prune) says what was decided; the tensor LAYER.mask, uint8 and of broadcast shape (the
 * weight's own, or 1xIx1x1 / 1xI for channels), says which weights those are. While the record is "planned"
 * there is no mask and the weights are dense. */
#include "prune/prune.h"

#include <stdlib.h>

static const float *weights_of(const hr_model *m, const hr_layer *l)
{
    return hr_tensor_f32(&m->tensors[m->nodes[l->node].param[HR_P_WEIGHT]]);
}

static void drop(hr_model *m, const char *layer, const char *suffix)
{
    char *name = hr_xasprintf("%s.%s", layer, suffix);
    hr_model_drop_tensor(m, name);
    free(name);
}

/* The mask of an active layer. hr_model_check has seen its shape. */
static hr_tensor *mask_of(const hr_model *m, const hr_layer *l)
{
    if (!m->prune[l->node].set || !m->prune[l->node].active)
        return NULL;
    hr_tensor *t = hr_model_node_tensor(m, l->node, "mask");
    if (!t || t->dtype != HR_U8 || hr_tensor_count(t) != hr_score_count(l, m->prune[l->node].reg))
        BUG("active layer %s has no mask of its size", l->name);
    return t;
}

void hr_model_set_mask(hr_model *m, const hr_layer *l, const float *score)
{
    hr_prune *p = &m->prune[l->node];
    if (!p->set)
        BUG("layer %s has no strategy", l->name);
    hr_tensor *t = hr_model_node_tensor(m, l->node, "mask");
    if (!t || t->dtype != HR_U8 || hr_tensor_count(t) != hr_score_count(l, p->reg)) {
        const hr_tensor *w = &m->tensors[m->nodes[l->node].param[HR_P_WEIGHT]];
        int64_t shape[HR_MAX_DIMS];
        for (int i = 0; i < w->ndim; i++)
            shape[i] = p->reg == HR_REG_WEIGHT || i == 1 ? w->shape[i] : 1;
        char *name = hr_xasprintf("%s.mask", l->name);
        int added = hr_model_add_tensor(m, name, HR_U8, w->ndim, shape);
        t = &m->tensors[added];
        free(name);
    }
    hr_topk_mask(score, hr_score_count(l, p->reg), p->kept, t->data);
    p->active = true;
}

void hr_model_set_strategy(hr_model *m, const hr_layers *ls, const hr_strategy *s, bool active,
                           enum hr_score how)
{
    if (s->n != ls->n)
        BUG("strategy of %d layers for a network of %d", s->n, ls->n);
    for (int i = 0; i < ls->n; i++) {
        const hr_layer *l = &ls->l[i];
        drop(m, l->name, "mask");
        drop(m, l->name, "popup_scores");
        m->prune[l->node] = (hr_prune){.set = true, .reg = s->reg, .rate = s->rate[i], .kept = s->kept[i]};
        if (!active)
            continue;
        float *score = hr_xmalloc(sizeof *score * (size_t)hr_score_count(l, s->reg));
        hr_score_weights(weights_of(m, l), l, s->reg, how, score);
        hr_model_set_mask(m, l, score);
        free(score);
    }
}

void hr_model_zero_pruned(hr_model *m, const hr_layers *ls)
{
    for (int i = 0; i < ls->n; i++) {
        const hr_layer *l = &ls->l[i];
        const hr_tensor *t = mask_of(m, l);
        if (!t)
            continue;
        bool channel = m->prune[l->node].reg == HR_REG_CHANNEL;
        int64_t taps = channel ? (int64_t)l->kh * l->kw : 1, period = hr_tensor_count(t);
        const uint8_t *mask = t->data;
        float *w = hr_tensor_f32(&m->tensors[m->nodes[l->node].param[HR_P_WEIGHT]]);
        for (int64_t k = 0; k < l->n; k++)
            if (!mask[k / taps % period])
                w[k] = 0.0f;
    }
}

double hr_model_density(const hr_model *m, const hr_layers *ls)
{
    double kept = 0;
    for (int i = 0; i < ls->n; i++) {
        const hr_layer *l = &ls->l[i];
        const hr_tensor *t = mask_of(m, l);
        if (!t) {
            kept += (double)l->n;
            continue;
        }
        int64_t ones = 0, count = hr_tensor_count(t);
        for (int64_t k = 0; k < count; k++)
            ones += ((const uint8_t *)t->data)[k] != 0;
        kept += (double)ones * (double)(l->n / count);
    }
    return ls->weights ? kept / (double)ls->weights : 1.0;
}
