/* lib/search/state.c -- a layer as eleven numbers (search.h lists them). */
#include "search/search.h"

#include <stdlib.h>

static double cost(const hr_space *s, enum hr_cost_kind measure, int i)
{
    return (double)(measure == HR_COST_MACS ? s->l[i].macs : s->l[i].weights);
}

void hr_state_init(hr_state *st, const hr_space *s, bool reference)
{
    *st = (hr_state){.s = s, .reference = reference};
    size_t cells = (size_t)s->nd * HR_STATE_FIXED;
    st->raw = hr_xcalloc(cells, sizeof *st->raw);
    st->fixed = hr_xcalloc(cells, sizeof *st->fixed);
    for (int d = 0; d < s->nd; d++) {
        const hr_space_layer *l = &s->l[s->decision[d]];
        const hr_space_layer *before = d > 0 ? &s->l[s->decision[d - 1]] : NULL;
        double *row = st->raw + (size_t)d * HR_STATE_FIXED;
        row[0] = d;
        row[1] = l->in;
        row[2] = l->out;
        row[3] = l->hin;
        row[4] = l->win;
        row[5] = l->stride;
        row[6] = l->kernel;
        row[7] = (double)l->weights;
        if (reference) {
            row[3] = before ? before->hout : s->height; /* 1 after a linear layer */
            row[4] = before ? before->wout : s->width;
            row[5] = l->linear ? 0 : before ? (double)l->out / l->in : 1;
            row[7] = (double)s->l[d].weights; /* the d-th of all layers */
        }
    }
    for (int c = 0; c < HR_STATE_FIXED; c++) {
        double lo = st->raw[c], hi = lo;
        for (size_t i = (size_t)c; i < cells; i += HR_STATE_FIXED) {
            lo = st->raw[i] < lo ? st->raw[i] : lo;
            hi = st->raw[i] > hi ? st->raw[i] : hi;
        }
        for (size_t i = (size_t)c; i < cells; i += HR_STATE_FIXED)
            st->fixed[i] = hi > lo ? (st->raw[i] - lo) / (hi - lo) : st->raw[i];
    }
}

void hr_state_release(hr_state *st)
{
    free(st->raw);
    free(st->fixed);
    *st = (hr_state){0};
}

static void reference_tail(const hr_space *s, const hr_wall *w, int row, bool start, float *tail)
{
    double saved = 0, rest = 0;
    for (int j = 0; j < s->decision[row] && !start; j++)
        saved += (double)s->l[j].weights * (1 - w->in[j] * w->out[j]);
    for (int j = row + 1; j < s->n; j++)
        rest += (double)s->l[j].weights;
    tail[0] = (float)(saved / w->total);
    tail[1] = (float)(rest / w->total);
    tail[2] = (float)(start ? 1 : w->r[row - 1]);
}

static void sound_tail(const hr_space *s, const hr_wall *w, int row, float *tail)
{
    double saved = 0, rest = 0;
    for (int j = 0; j < s->n; j++) {
        if (s->rin[j] > row)
            rest += cost(s, w->measure, j);
        if (s->rin[j] >= row)
            continue;
        bool both = w->measure == HR_COST_INOUT && s->rout[j] >= 0;
        saved += cost(s, w->measure, j) * (1 - w->r[s->rin[j]] * (both ? w->r[s->rout[j]] : 1));
    }
    tail[0] = (float)(saved / w->total);
    tail[1] = (float)(rest / w->total);
    tail[2] = (float)(row > 0 ? w->r[row - 1] : 1);
}

void hr_state_row(const hr_state *st, const hr_wall *w, int row, float obs[HR_STATE])
{
    /* The reference observes row 0 before its first decision, also where that one is for row 1. */
    bool start = row <= st->s->first;
    int from = st->reference && start ? 0 : row;
    for (int c = 0; c < HR_STATE_FIXED; c++)
        obs[c] = (float)st->fixed[(size_t)from * HR_STATE_FIXED + (size_t)c];
    if (st->reference)
        reference_tail(st->s, w, from, start, obs + HR_STATE_FIXED);
    else
        sound_tail(st->s, w, row, obs + HR_STATE_FIXED);
}
