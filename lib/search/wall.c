/* lib/search/wall.c -- how an action becomes a kept count, and why the budget holds.
 *
 * Reference (linear). Undecided layers count at their lower bound. For the layer being decided the budget is
 * solved for its rate, the others fixed:
 *   weight   a* = (B - sum_{j != i} F_j q_j) / F_i
 *   channel  a* = (B - rest) / (F_i out_i + F_p in_p + F_s out_s)
 * with p the decision layer before and s the shortcut that reads the same input. The rate executed is
 * min(asked, clip(a*, lb, ub)), rounded to whole weights or channels. A shortcut's own pair stays (lb, lb)
 * for ever, and decision 0 in channel mode takes the last layer as the one before it: as published.
 *
 * Sound, linear. Everything is counted in whole weights or channels, and the cost of a strategy is never
 * solved for but evaluated: it grows with every count, so the largest count that fits is found by bisection.
 *   upper wall: with all later layers at their least, the budget holds
 *   lower wall: with all later layers at their most, the budget can still be used up
 * By induction over the layers a strategy that exists at the start (hr_wall_init checks) exists to the end.
 *
 * Sound, log. The layers are asked one after the other and the finished strategy is multiplied by the one
 * factor that puts it on the budget: only proportions matter, so an early greedy layer starves nobody.
 *
 * Both end in a fill: while some layer can take one more unit without breaking the budget, the one that is
 * furthest below the rate asked for (times the common factor) takes it. What is left is less than the
 * cheapest legal increment. */
#include "search/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_action_names[] = {"linear", "log", NULL};

/* A log action reaches from a sixth of the target (or the lower bound) to the upper bound: where it ends at a
 * multiple of the target, a strategy that leaves small layers whole, as ERK's and LAMP's do, cannot be asked
 * for, and at low targets hardly anything else works. */
static double log_from(const hr_wall *w)
{
    return w->lb > w->rate / 6 ? w->lb : w->rate / 6;
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* max(1, round half to even(rate * n)), at most n. */
static int64_t round_kept(double rate, int64_t n)
{
    double k = nearbyint(rate * (double)n); /* the default rounding mode is to even */
    return k >= (double)n ? n : k < 1 ? 1 : (int64_t)k;
}

static double cost_of(const hr_wall *w, const int64_t *kept)
{
    const hr_space *s = w->s;
    double sum = 0;
    for (int i = 0; i < s->n; i++) {
        const hr_space_layer *l = &s->l[i];
        int a = s->rin[i], b = w->measure == HR_COST_INOUT ? s->rout[i] : -1;
        double c = (double)(w->measure == HR_COST_MACS ? l->macs : l->weights);
        c = c * (double)kept[a] / (double)s->count[a];
        if (b >= 0)
            c = c * (double)kept[b] / (double)s->count[b];
        sum += c;
    }
    return sum;
}

/* Sums of products of whole numbers, rounded: equal to the budget up to this. */
static bool fits(const hr_wall *w, const int64_t *kept)
{
    return cost_of(w, kept) <= w->budget * (1 + 1e-12);
}

int hr_wall_init(hr_wall *w, const hr_space *s, bool reference, enum hr_action action,
                 enum hr_cost_kind measure, double rate, double lb, double ub, hr_err *err)
{
    size_t nd = (size_t)s->nd, n = (size_t)s->n;
    *w = (hr_wall){.s = s,
                   .reference = reference,
                   .action = action,
                   .measure = measure,
                   .rate = rate,
                   .lb = lb,
                   .ub = ub};
    w->least = hr_xcalloc(nd, sizeof *w->least);
    w->most = hr_xcalloc(nd, sizeof *w->most);
    w->kept = hr_xcalloc(nd, sizeof *w->kept);
    w->r = hr_xcalloc(nd, sizeof *w->r);
    w->ask = hr_xcalloc(nd, sizeof *w->ask);
    w->in = hr_xcalloc(n, sizeof *w->in);
    w->out = hr_xcalloc(n, sizeof *w->out);
    w->total = hr_space_total(s, measure);
    w->budget = hr_space_budget(s, measure, rate);
    if (reference && s->channel &&
        s->prune_first) /* published: the first layer's share is the rate, always */
        w->budget += (double)s->l[0].weights * (rate - rate * rate);
    if (reference && (action != HR_ACTION_LINEAR || measure != HR_COST_INOUT))
        return hr_fail(err, HR_EINVAL, "the reference knows only linear actions and the inout budget");
    if (!(lb > 0 && lb < ub && ub <= 1))
        return hr_fail(err, HR_EINVAL, "bounds must be 0 < lb < ub <= 1, not lb %g, ub %g", lb, ub);
    for (int i = 0; i < s->nd; i++) {
        w->least[i] = i < s->first ? s->count[i] : round_kept(lb, s->count[i]);
        w->most[i] = i < s->first ? s->count[i] : round_kept(ub, s->count[i]);
    }
    hr_wall_reset(w);
    /* The reference forces the lower bound where the budget is short; its rounding may cost a little more. */
    double least = reference && s->channel ? hr_wall_cost(w) : cost_of(w, w->least);
    double most = cost_of(w, w->most);
    if (reference ? least > w->budget * 1.001 : !fits(w, w->least))
        return hr_fail(
            err, HR_EINVAL,
            "the budget cannot be met: a keep-rate of %g allows %.6g of the network, but with lb %g "
            "in every layer %.6g is kept",
            rate, w->budget / w->total, lb, least / w->total);
    if (!reference && most < w->budget * 0.999)
        return hr_fail(
            err, HR_EINVAL,
            "the budget cannot be used up: a keep-rate of %g allows %.6g of the network, but with ub "
            "%g in every layer only %.6g is kept",
            rate, w->budget / w->total, ub, most / w->total);
    return HR_OK;
}

void hr_wall_release(hr_wall *w)
{
    free(w->least);
    free(w->most);
    free(w->kept);
    free(w->r);
    free(w->ask);
    free(w->in);
    free(w->out);
    *w = (hr_wall){0};
}

static void set_kept(hr_wall *w, int d, int64_t kept)
{
    w->kept[d] = kept;
    w->r[d] = (double)kept / (double)w->s->count[d];
}

void hr_wall_reset(hr_wall *w)
{
    const hr_space *s = w->s;
    for (int d = 0; d < s->nd; d++) {
        set_kept(w, d, w->least[d]);
        w->ask[d] = w->r[d];
    }
    for (int i = 0; i < s->n; i++) {
        w->in[i] = i == 0 ? 1 : w->lb;
        w->out[i] = !s->channel || i == s->n - 1 ? 1 : w->lb;
    }
    w->decided = s->first;
}

double hr_wall_cost(const hr_wall *w)
{
    if (!w->reference)
        return cost_of(w, w->kept);
    double sum = 0;
    for (int i = 0; i < w->s->n; i++)
        sum += (double)w->s->l[i].weights * w->in[i] * w->out[i];
    return sum;
}

/* ---- the published wall ------------------------------------------------------------------------------ */

static double reference_step(hr_wall *w, double ask)
{
    const hr_space *s = w->s;
    int d = w->decided, i = s->decision[d];
    int p = !s->channel ? -1 : s->decision[d > 0 ? d - 1 : s->nd - 1];
    double weight = 0, rest = 0;
    for (int j = 0; j < s->n; j++) {
        double f = (double)s->l[j].weights;
        bool shortcut = s->channel && s->l[j].tie == i;
        if (j == i || shortcut)
            weight += f * w->out[j];
        else if (j == p)
            weight += f * w->in[j];
        else
            rest += f * w->in[j] * w->out[j];
    }
    double wall = (w->budget - rest) / weight;
    wall = wall < w->lb ? w->lb : wall > w->ub ? w->ub : wall;
    int64_t kept = round_kept(ask < wall ? ask : wall, s->count[d]);
    w->kept[d] = kept;
    w->r[d] = (float)((double)kept / (double)s->count[d]);
    w->in[i] = w->r[d];
    if (p >= 0)
        w->out[p] = w->r[d];
    return w->r[d];
}

/* ---- the sound wall ---------------------------------------------------------------------------------- */

/* Largest kept count of decision d in [lo, hi] with cost(others as they are in k) <= budget; lo if none. */
static int64_t largest_fit(const hr_wall *w, int64_t *k, int d, int64_t lo, int64_t hi)
{
    while (lo < hi) {
        int64_t mid = lo + (hi - lo + 1) / 2;
        k[d] = mid;
        if (fits(w, k))
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

static double sound_step(hr_wall *w, double ask)
{
    const hr_space *s = w->s;
    int d = w->decided;
    int64_t lo = w->least[d], hi = w->most[d];
    if (w->action == HR_ACTION_LINEAR) {
        int64_t *k = hr_xmalloc((size_t)s->nd * sizeof *k);
        memcpy(k, w->kept, (size_t)s->nd * sizeof *k); /* later layers are at their least */
        hi = largest_fit(w, k, d, lo, hi);
        for (int j = d + 1; j < s->nd; j++)
            k[j] = w->most[j];
        int64_t low =
            largest_fit(w, k, d, lo, hi); /* one more is enough, if even the least is not too much */
        k[d] = low;
        if (low < hi && cost_of(w, k) < w->budget * (1 - 1e-12))
            low++;
        lo = low;
        free(k);
    }
    set_kept(w, d, clamp(round_kept(ask, s->count[d]), lo, hi));
    return w->r[d];
}

double hr_wall_step(hr_wall *w, double u)
{
    double ask = w->lb + u * (w->ub - w->lb);
    if (w->action == HR_ACTION_LOG)
        ask = log_from(w) * pow(w->ub / log_from(w), u);
    w->ask[w->decided] = ask;
    double r = w->reference ? reference_step(w, ask) : sound_step(w, ask);
    w->decided++;
    return r;
}

/* Counts of the strategy want * factor, rounded down, within the bounds. */
static void scaled(const hr_wall *w, const double *want, double factor, int64_t *kept)
{
    for (int d = 0; d < w->s->nd; d++) {
        double n = (double)w->s->count[d], k = floor(want[d] * factor * n + 1e-9);
        kept[d] = clamp(k >= n ? w->s->count[d] : (int64_t)k, w->least[d], w->most[d]);
    }
}

/* One unit at a time to the layer furthest below want * factor, while one fits. */
static void fill(const hr_wall *w, const double *want, double factor, int64_t *kept)
{
    for (;;) {
        int best = -1;
        double most = 0;
        for (int d = w->s->first; d < w->s->nd; d++) {
            if (kept[d] == w->most[d])
                continue;
            double goal = want[d] * factor * (double)w->s->count[d];
            double lack = goal / ((double)kept[d] + 0.5);
            if (best >= 0 && lack <= most)
                continue;
            kept[d]++;
            if (fits(w, kept)) {
                best = d;
                most = lack;
            }
            kept[d]--;
        }
        if (best < 0)
            return;
        kept[best]++;
    }
}

void hr_wall_finish(hr_wall *w)
{
    const hr_space *s = w->s;
    if (w->reference)
        return;
    const double *want = w->action == HR_ACTION_LOG ? w->ask : w->r;
    int64_t *kept = hr_xmalloc((size_t)s->nd * sizeof *kept);
    double lo = 1e-6, hi = 1e6; /* everything at its least fits; see hr_wall_init */
    for (int i = 0; i < 64; i++) {
        double mid = sqrt(lo * hi);
        scaled(w, want, mid, kept);
        *(fits(w, kept) ? &lo : &hi) = mid;
    }
    scaled(w, want, lo, kept);
    fill(w, want, lo, kept);
    for (int d = 0; d < s->nd; d++)
        set_kept(w, d, kept[d]);
    free(kept);
}

void hr_wall_take(hr_wall *w, const double *rate)
{
    const hr_space *s = w->s;
    hr_wall_reset(w);
    for (int d = s->first; d < s->nd; d++) {
        w->ask[d] = rate[d];
        set_kept(w, d, clamp(round_kept(rate[d], s->count[d]), w->least[d], w->most[d]));
    }
    w->decided = s->nd;
    hr_wall_finish(w);
}

double hr_wall_unmap(const hr_wall *w, double r)
{
    double u = (r - w->lb) / (w->ub - w->lb);
    if (w->action == HR_ACTION_LOG)
        u = log(r / log_from(w)) / log(w->ub / log_from(w));
    return u < 0 ? 0 : u > 1 ? 1 : u;
}
