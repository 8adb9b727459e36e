/* lib/prune/budget.c -- what a strategy costs.
 *
 * The published measure of a channel strategy multiplies, for every layer, the share of its input channels
 * with the share of its output channels that somebody still reads: the size the network would have if both
 * were really removed. The reader of layer i is the first layer in strategy order behind it; later readers
 * through identity shortcuts are not counted, as in the published accounting ("the layer after the block").
 * What the masks alone remove is `masked`: input channels only. */
#include "prune/cost.h"

#include <stdlib.h>

const char *const hr_measure_names[4] = {"inout", "masked", "macs", NULL};

void hr_layer_readers(const hr_model *m, const hr_layers *ls, int *reader)
{
    int *layer_of = hr_xcalloc((size_t)m->nnodes, sizeof *layer_of); /* + 1; 0: not prunable */
    int *first = hr_xcalloc((size_t)m->nnodes, sizeof *first);       /* + 1; 0: nobody reads it */
    for (int i = 0; i < ls->n; i++)
        layer_of[ls->l[i].node] = i + 1;
    /* Nodes stand in execution order: going backwards, a node has heard from all its readers before it
     * passes the first of them on. */
    for (int v = m->nnodes - 1; v > 0; v--) {
        int heard = layer_of[v] ? layer_of[v] : first[v];
        for (int k = 0; heard && k < m->nodes[v].nin; k++) {
            int *f = &first[m->nodes[v].in[k]];
            if (!*f || heard < *f)
                *f = heard;
        }
    }
    for (int i = 0; i < ls->n; i++)
        reader[i] = first[ls->l[i].node] - 1;
    free(layer_of);
    free(first);
}

void hr_cost_init(struct hr_cost *c, const hr_model *m, const hr_layers *ls, enum hr_reg reg)
{
    c->ls = ls;
    c->reg = reg;
    c->reader = hr_xcalloc((size_t)ls->n + 1, sizeof *c->reader);
    hr_layer_readers(m, ls, c->reader);
}

void hr_cost_release(struct hr_cost *c)
{
    free(c->reader);
    c->reader = NULL;
}

hr_budget hr_cost_of(const struct hr_cost *c, const double *rate)
{
    const hr_layers *ls = c->ls;
    double inout = 0, masked = 0, macs = 0;
    for (int i = 0; i < ls->n; i++) {
        double f = (double)ls->l[i].n * rate[i];
        double out = c->reg == HR_REG_CHANNEL && c->reader[i] >= 0 ? rate[c->reader[i]] : 1.0;
        inout += f * out;
        masked += f;
        macs += (double)ls->l[i].macs * rate[i];
    }
    double all = ls->weights > 0 ? (double)ls->weights : 1.0;
    return (hr_budget){inout / all, masked / all, ls->macs > 0 ? macs / (double)ls->macs : 0.0};
}

hr_budget hr_budget_of(const hr_model *m, const hr_layers *ls, const hr_strategy *s)
{
    struct hr_cost c;
    hr_cost_init(&c, m, ls, s->reg);
    hr_budget b = hr_cost_of(&c, s->rate);
    hr_cost_release(&c);
    return b;
}

double hr_budget_get(const hr_budget *b, enum hr_measure measure)
{
    switch (measure) {
    case HR_MEASURE_INOUT:
        return b->inout;
    case HR_MEASURE_MASKED:
        return b->masked;
    case HR_MEASURE_MACS:
        return b->macs;
    }
    BUG("measure %d", (int)measure);
}

bool hr_layer_is_fixed(const hr_layers *ls, int i, enum hr_reg reg, bool prune_first)
{
    return reg == HR_REG_CHANNEL && !prune_first && ls->l[i].channel_index == ls->l[0].channel_index;
}

double hr_budget_target(const hr_model *m, const hr_layers *ls, enum hr_reg reg, double rate,
                        bool prune_first, enum hr_measure measure)
{
    struct hr_cost c;
    double *r = hr_xcalloc((size_t)ls->n + 1, sizeof *r);
    for (int i = 0; i < ls->n; i++)
        r[i] = hr_layer_is_fixed(ls, i, reg, prune_first) ? 1.0 : rate;
    hr_cost_init(&c, m, ls, reg);
    hr_budget b = hr_cost_of(&c, r);
    hr_cost_release(&c);
    free(r);
    return hr_budget_get(&b, measure);
}
