/* lib/prune/rules.c -- strategies that follow from a rule and one number K.
 *
 * uniform gives every layer hr_kept(K, n). The other rules are families with one knob, and the knob is turned
 * until the strategy costs what the uniform rate K costs in the chosen measure (ARCHITECTURE 4, "Budgets"),
 * so that baselines and searched strategies compare at the same verified budget:
 *
 *   erk, uniform+   rate_i = clamp(x * raw_i, floor_i, 1). x is bisected on real-valued rates. Clamping at 1
 * is the fixed point of "fix the layers that would exceed 1 as dense and solve again". The rates are then
 * rounded down to whole counts, and what is left of the budget goes to the layers with the largest
 * remainders, one weight or channel each. lamp, global    keep everything with score >= t. t is bisected over
 * the bit patterns of floats; of the scores just below the final t, which exceed the budget together, as many
 * are kept as fit, first layer first, and then single lower ones where the budget still has room.
 *                   Every layer's best score counts as infinite, so no layer dies.
 *
 * All costs grow with every count, which is what makes bisection right. Each entry of a count array stands
 * for one layer; a tied shortcut (channel mode) is never decided, it copies its block's first convolution. */
#include "prune/cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char hr_rule_list[] = "uniform:K, uniform+:K, erk:K, lamp:K, global:K";

struct solver {
    struct hr_cost cost;
    const hr_layers *ls;
    const hr_model *m;
    enum hr_reg reg;
    enum hr_measure measure;
    bool prune_first;
    double budget;
    double *rate; /* scratch for measured costs */
};

static bool tied(const struct solver *v, int i)
{
    return v->reg == HR_REG_CHANNEL && v->ls->l[i].tie >= 0;
}

static bool fixed(const struct solver *v, int i)
{
    return hr_layer_is_fixed(v->ls, i, v->reg, v->prune_first);
}

static int64_t size(const struct solver *v, int i)
{
    return hr_score_count(&v->ls->l[i], v->reg);
}

/* What v->rate costs; entries of tied layers are filled in here. */
static double cost_of_rates(struct solver *v)
{
    for (int i = 0; i < v->ls->n; i++)
        if (tied(v, i))
            v->rate[i] = v->rate[v->ls->l[i].tie];
    hr_budget b = hr_cost_of(&v->cost, v->rate);
    return hr_budget_get(&b, v->measure);
}

static double cost_of_counts(struct solver *v, const int64_t *kept)
{
    for (int i = 0; i < v->ls->n; i++)
        v->rate[i] = (double)kept[i] / (double)size(v, i);
    return cost_of_rates(v);
}

static bool fits(const struct solver *v, double cost)
{
    return cost <= v->budget * (1.0 + HR_COST_SLACK);
}

static void copy_ties(const struct solver *v, int64_t *kept)
{
    for (int i = 0; i < v->ls->n; i++)
        if (tied(v, i))
            kept[i] = kept[v->ls->l[i].tie];
}

/* ---- erk and uniform+ --------------------------------------------------------------------------------- */

struct family {
    double *raw, *low; /* per layer: slope, and the least rate */
};

static double family_rate(const struct family *f, int i, double x)
{
    double r = x * f->raw[i];
    r = r > f->low[i] ? r : f->low[i];
    return r < 1.0 ? r : 1.0;
}

static double family_cost(struct solver *v, const struct family *f, double x)
{
    for (int i = 0; i < v->ls->n; i++)
        v->rate[i] = family_rate(f, i, x);
    return cost_of_rates(v);
}

static void family_init(const struct solver *v, bool erk, struct family *f)
{
    int n = v->ls->n, last_linear = -1;
    f->raw = hr_xcalloc((size_t)n, sizeof *f->raw);
    f->low = hr_xcalloc((size_t)n, sizeof *f->low);
    for (int i = 0; i < n; i++) {
        const hr_layer *l = &v->ls->l[i];
        double taps = l->linear ? 0.0 : (double)l->kh + l->kw;
        f->raw[i] = erk ? ((double)l->out + l->in + taps) / (double)l->n : 1.0;
        f->low[i] = fixed(v, i) ? 1.0 : 1.0 / (double)size(v, i);
        if (l->linear)
            last_linear = i;
    }
    if (erk)
        return;
    if (last_linear >= 0 && f->low[last_linear] < 0.2)
        f->low[last_linear] = 0.2;
    f->low[0] = 1.0;
}

struct remainder {
    double part;
    int layer;
};

static int by_remainder(const void *a, const void *b)
{
    const struct remainder *x = a, *y = b;
    if (x->part != y->part)
        return x->part > y->part ? -1 : 1;
    return x->layer - y->layer;
}

/* Round the family's rates at x down to counts, then spend what is left. */
static void family_round(struct solver *v, const struct family *f, double x, int64_t *kept)
{
    int n = v->ls->n;
    struct remainder *rest = hr_xcalloc((size_t)n, sizeof *rest);
    for (int i = 0; i < n; i++) {
        double want = family_rate(f, i, x) * (double)size(v, i);
        kept[i] = (int64_t)floor(want);
        kept[i] = kept[i] < 1 ? 1 : kept[i]; /* 1/n*n may fall short of 1 by the last bit */
        rest[i] = (struct remainder){want - (double)kept[i], i};
    }
    copy_ties(v, kept);
    qsort(rest, (size_t)n, sizeof *rest, by_remainder);
    for (int j = 0; j < n; j++) {
        int i = rest[j].layer;
        if (tied(v, i) || kept[i] >= size(v, i))
            continue;
        kept[i]++;
        copy_ties(v, kept);
        if (!fits(v, cost_of_counts(v, kept))) {
            kept[i]--;
            copy_ties(v, kept);
        }
    }
    free(rest);
}

/* Returns false when even the smallest member of the family costs too much. */
static bool solve_family(struct solver *v, bool erk, int64_t *kept)
{
    struct family f;
    family_init(v, erk, &f);
    double lo = 0.0, hi = 0.0;
    for (int i = 0; i < v->ls->n; i++)
        hi = fmax(hi, 1.0 / f.raw[i]); /* here every layer is dense */
    bool ok = fits(v, family_cost(v, &f, lo));
    if (ok && fits(v, family_cost(v, &f, hi)))
        lo = hi;
    for (int step = 0; ok && step < 200 && lo < hi; step++) {
        double mid = 0.5 * (lo + hi);
        if (family_cost(v, &f, mid) <= v->budget)
            lo = mid;
        else
            hi = mid;
    }
    if (ok)
        family_round(v, &f, lo, kept);
    free(f.raw);
    free(f.low);
    return ok;
}

/* ---- lamp and global ---------------------------------------------------------------------------------- */

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* A layer's scores from the largest down: LAMP's, or the magnitudes themselves. LAMP's score of the j-th
 * largest is its square over the sum of the squares up to and including its own, so it falls with j. */
static float *sorted_scores(const struct solver *v, int i, bool lamp)
{
    const hr_layer *l = &v->ls->l[i];
    const float *w = hr_tensor_f32(&v->m->tensors[v->m->nodes[l->node].param[HR_P_WEIGHT]]);
    int64_t n = size(v, i);
    float *s = hr_xmalloc(sizeof *s * (size_t)n);
    hr_score_weights(w, l, v->reg, HR_SCORE_L1, s);
    qsort(s, (size_t)n, sizeof *s, descending);
    double sum = 0;
    for (int64_t j = 0; lamp && j < n; j++) {
        double square = (double)s[j] * s[j];
        sum += square;
        s[j] = sum > 0 ? (float)(square / sum) : 0.0f;
    }
    s[0] = INFINITY;
    return s;
}

/* How many of s[0..n), sorted downwards, are >= t. */
static int64_t count_above(const float *s, int64_t n, float t)
{
    int64_t lo = 0, hi = n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (s[mid] >= t)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static float float_of_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void counts_at(const struct solver *v, float *const *scores, float t, int64_t *kept)
{
    for (int i = 0; i < v->ls->n; i++)
        if (!tied(v, i))
            kept[i] = fixed(v, i) ? size(v, i) : count_above(scores[i], size(v, i), t);
    copy_ties(v, kept);
}

/* Keep as many of layer i's scores as the budget allows, between kept[i] and most. */
static void fill_layer(struct solver *v, int i, int64_t most, int64_t *kept)
{
    int64_t lo = kept[i], hi = most;
    while (lo < hi) {
        kept[i] = lo + (hi - lo + 1) / 2;
        copy_ties(v, kept);
        if (fits(v, cost_of_counts(v, kept)))
            lo = kept[i];
        else
            hi = kept[i] - 1;
    }
    kept[i] = lo;
    copy_ties(v, kept);
}

/* Spend what is left: one more of the best score that still fits, until none does. */
static void fill_rest(struct solver *v, float *const *scores, int64_t *kept)
{
    bool *full = hr_xcalloc((size_t)v->ls->n, sizeof *full);
    for (;;) {
        int best = -1;
        for (int i = 0; i < v->ls->n; i++) {
            full[i] = full[i] || tied(v, i) || kept[i] >= size(v, i);
            if (!full[i] && (best < 0 || scores[i][kept[i]] > scores[best][kept[best]]))
                best = i;
        }
        if (best < 0)
            break;
        int64_t before = kept[best];
        fill_layer(v, best, before + 1, kept);
        full[best] = kept[best] == before;
    }
    free(full);
}

static bool solve_threshold(struct solver *v, bool lamp, int64_t *kept)
{
    int n = v->ls->n;
    float **scores = hr_xcalloc((size_t)n, sizeof *scores);
    for (int i = 0; i < n; i++)
        if (!tied(v, i))
            scores[i] = sorted_scores(v, i, lamp);

    /* Non-negative floats order like their bits. At `above` the strategy fits, at `below` it does not. */
    uint32_t above = 0x7f800000u; /* infinity: one per layer */
    int64_t below = -1;
    counts_at(v, scores, float_of_bits(above), kept);
    bool ok = fits(v, cost_of_counts(v, kept));
    while (ok && (int64_t)above - below > 1) {
        uint32_t mid = (uint32_t)(below + ((int64_t)above - below) / 2);
        counts_at(v, scores, float_of_bits(mid), kept);
        if (fits(v, cost_of_counts(v, kept)))
            above = mid;
        else
            below = mid;
    }
    if (ok) {
        counts_at(v, scores, float_of_bits(above), kept);
        for (int i = 0; below >= 0 && i < n; i++)
            if (!tied(v, i) && !fixed(v, i))
                fill_layer(v, i, count_above(scores[i], size(v, i), float_of_bits((uint32_t)below)), kept);
        fill_rest(v, scores, kept);
    }
    for (int i = 0; i < n; i++)
        free(scores[i]);
    free(scores);
    return ok;
}

/* ---- all rules ---------------------------------------------------------------------------------------- */

static void solve_uniform(const struct solver *v, double k, int64_t *kept)
{
    for (int i = 0; i < v->ls->n; i++)
        kept[i] = fixed(v, i) ? size(v, i) : hr_kept(k, size(v, i));
}

bool hr_rule_known(const char *rule)
{
    static const char *const names[] = {"uniform", "uniform+", "erk", "lamp", "global"};
    for (size_t i = 0; i < HR_COUNT(names); i++)
        if (strcmp(rule, names[i]) == 0)
            return true;
    return false;
}

int hr_rule_solve(hr_strategy *s, const char *rule, double k, const hr_model *m, const hr_layers *ls,
                  bool prune_first, enum hr_measure measure, hr_err *err)
{
    struct solver v = {.ls = ls, .m = m, .reg = s->reg, .measure = measure, .prune_first = prune_first};
    bool ok = true;
    hr_cost_init(&v.cost, m, ls, s->reg);
    v.rate = hr_xcalloc((size_t)ls->n + 1, sizeof *v.rate);
    v.budget = hr_budget_target(m, ls, s->reg, k, prune_first, measure);
    if (strcmp(rule, "uniform") == 0)
        solve_uniform(&v, k, s->kept);
    else if (strcmp(rule, "lamp") == 0 || strcmp(rule, "global") == 0)
        ok = solve_threshold(&v, rule[0] == 'l', s->kept);
    else
        ok = solve_family(&v, rule[0] == 'e', s->kept);
    double budget = v.budget;
    hr_cost_release(&v.cost);
    free(v.rate);
    if (!ok)
        return hr_fail(err, HR_EINVAL,
                       "%s:%g: what this rule keeps in any case costs more than the budget of %g (%s)", rule,
                       k, budget, hr_measure_names[measure]);
    return HR_OK;
}
