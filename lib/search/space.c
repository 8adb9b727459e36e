/* lib/search/space.c -- the table of layers, and what a strategy costs.
 *
 * The cost of a network is a sum over all its layers of cost_i * rate[rin_i] * rate[rout_i], where rin and
 * rout name decisions. Everything about blocks and shortcuts is in these two index arrays:
 *
 *   conv A -> conv B            rin[A] = A, rout[A] = B: a channel that B does not read, A need not make
 *   shortcut S of block C1..Ck  rin[S] = C1 (both read the block's input)
 *                               rout[S] = rout[Ck] (both end in the block's sum)
 *
 * A block ends, in the torch order of the table, just before its shortcut: that is how Ck is found. */
#include "search/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_cost_names[] = {"inout", "masked", "macs", NULL};

enum { MAX_LAYERS = 4096, MAX_DIM = 1 << 24 };

static int bad(hr_err *err, const char *where, const char *layer, const char *what)
{
    return hr_fail(err, HR_EFORMAT, "%s: not a layer table: %s%s%s%s", where, layer ? "layer '" : "",
                   layer ? layer : "", layer ? "': " : "", what);
}

/* A whole number in 1..MAX_DIM, or 0 when there is none. */
static int dim(const json_t *j)
{
    json_int_t v = json_integer_value(j);
    return json_is_integer(j) && v >= 1 && v <= MAX_DIM ? (int)v : 0;
}

static int parse_layer(hr_space_layer *l, const json_t *j, const char *where, hr_err *err)
{
    const char *name = json_string_value(json_object_get(j, "name"));
    const char *op = json_string_value(json_object_get(j, "op"));
    const json_t *kernel = json_object_get(j, "kernel");
    if (!name || !*name)
        return bad(err, where, NULL, "a layer without a name");
    l->name = hr_xstrdup(name);
    if (!op || (strcmp(op, "conv2d") && strcmp(op, "linear")))
        return bad(err, where, name, "op is neither \"conv2d\" nor \"linear\"");
    l->linear = strcmp(op, "linear") == 0;
    int kw = dim(json_array_get(kernel, 1));
    l->kernel = dim(json_array_get(kernel, 0));
    struct {
        const char *key;
        int *dst;
    } field[] = {{"in", &l->in},   {"out", &l->out},   {"stride", &l->stride}, {"hin", &l->hin},
                 {"win", &l->win}, {"hout", &l->hout}, {"wout", &l->wout}};
    for (size_t i = 0; i < HR_COUNT(field); i++)
        if (!(*field[i].dst = dim(json_object_get(j, field[i].key))))
            return hr_fail(err, HR_EFORMAT,
                           "%s: not a layer table: layer '%s': \"%s\" is not a whole number in 1..%d", where,
                           name, field[i].key, MAX_DIM);
    if (!kw || !l->kernel || json_array_size(kernel) != 2)
        return bad(err, where, name, "\"kernel\" is not a pair of whole numbers");
    int64_t n = (int64_t)l->in * l->out; /* at most 2^48 */
    if (__builtin_mul_overflow(n, kw, &n) || __builtin_mul_overflow(n, l->kernel, &n) || n > (1LL << 50))
        return bad(err, where, name, "has too many weights");
    l->weights = n;
    if (__builtin_mul_overflow(n, l->hout, &n) || __builtin_mul_overflow(n, l->wout, &n))
        return bad(err, where, name, "has too many multiplications");
    l->macs = n;
    if (json_integer_value(json_object_get(j, "weights")) != l->weights)
        return bad(err, where, name, "\"weights\" is not in*out*kernel");
    if (json_integer_value(json_object_get(j, "macs")) != l->macs)
        return bad(err, where, name, "\"macs\" is not weights*hout*wout");
    return HR_OK;
}

static int find_layer(const hr_space *s, const char *name)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->l[i].name, name) == 0)
            return i;
    return -1;
}

/* tie and block_end of every layer. */
static int parse_ties(hr_space *s, const json_t *layers, const char *where, hr_err *err)
{
    for (int i = 0; i < s->n; i++) {
        hr_space_layer *l = &s->l[i];
        const json_t *j = json_array_get(layers, (size_t)i), *tie = json_object_get(j, "tie");
        l->tie = l->block_end = -1;
        if (find_layer(s, l->name) != i)
            return bad(err, where, l->name, "the name occurs twice");
        if (!tie || json_is_null(tie))
            continue;
        int c = json_is_string(tie) ? find_layer(s, json_string_value(tie)) : -1;
        if (c <= i || s->l[c].in != l->in)
            return bad(err, where, l->name, "\"tie\" names no later layer with as many inputs");
        json_int_t own = json_integer_value(json_object_get(j, "torch_index"));
        for (int e = c; e < s->n && l->block_end < 0; e++) {
            const json_t *t = json_object_get(json_array_get(layers, (size_t)e), "torch_index");
            if (own > 0 && json_is_integer(t) && json_integer_value(t) == own - 1 && s->l[e].out == l->out)
                l->block_end = e;
        }
        if (l->block_end < 0)
            return bad(err, where, l->name, "\"torch_index\" does not follow its block's last layer");
        l->tie = c;
    }
    for (int i = 0; i < s->n; i++) { /* a chain of ties has no owner */
        const hr_space_layer *l = &s->l[i];
        if (l->tie >= 0 && (s->l[l->tie].tie >= 0 || s->l[l->block_end].tie >= 0))
            return bad(err, where, l->name, "is tied to a tied layer");
    }
    if (s->l[s->n - 1].tie >= 0 || s->l[0].tie >= 0)
        return bad(err, where, NULL, "the first or the last layer is tied");
    return HR_OK;
}

static void index_decisions(hr_space *s)
{
    int *of = hr_xmalloc((size_t)s->n * sizeof *of); /* decision index of each layer */
    s->decision = hr_xmalloc((size_t)s->n * sizeof *s->decision);
    s->count = hr_xmalloc((size_t)s->n * sizeof *s->count);
    s->rin = hr_xmalloc((size_t)s->n * sizeof *s->rin);
    s->rout = hr_xmalloc((size_t)s->n * sizeof *s->rout);
    for (int i = 0; i < s->n; i++) {
        of[i] = -1;
        if (s->channel && s->l[i].tie >= 0)
            continue;
        of[i] = s->nd;
        s->decision[s->nd] = i;
        s->count[s->nd++] = s->channel ? s->l[i].in : s->l[i].weights;
    }
    for (int i = 0; i < s->n; i++) {
        const hr_space_layer *l = &s->l[i];
        bool tied = s->channel && l->tie >= 0;
        int end = of[tied ? l->block_end : i];
        s->rin[i] = of[tied ? l->tie : i];
        s->rout[i] = s->channel && end + 1 < s->nd ? end + 1 : -1;
    }
    free(of);
    s->first = s->channel && !s->prune_first && s->nd > 1;
}

int hr_space_parse(hr_space *s, const json_t *table, const char *where, bool channel, bool prune_first,
                   hr_err *err)
{
    *s = (hr_space){.channel = channel, .prune_first = prune_first};
    const json_t *layers = json_object_get(table, "layers"), *input = json_object_get(table, "input");
    const char *arch = json_string_value(json_object_get(table, "arch"));
    size_t n = json_array_size(layers);
    if (!arch || !*arch)
        return bad(err, where, NULL, "no \"arch\"");
    if (n < 1 || n > MAX_LAYERS)
        return bad(err, where, NULL, "\"layers\" is missing, empty or too long");
    s->arch = hr_xstrdup(arch);
    s->classes = dim(json_object_get(table, "classes"));
    s->height = dim(json_array_get(input, 1));
    s->width = dim(json_array_get(input, 2));
    if (!s->classes || !s->height || !s->width)
        return bad(err, where, NULL, "\"classes\" or \"input\" is missing");
    s->l = hr_xcalloc(n, sizeof *s->l);
    s->n = (int)n;
    int64_t macs = 0;
    for (int i = 0; i < s->n; i++) {
        int rc = parse_layer(&s->l[i], json_array_get(layers, (size_t)i), where, err);
        if (rc)
            return rc;
        if (__builtin_add_overflow(macs, s->l[i].macs, &macs) || macs > (1LL << 53))
            return bad(err, where, NULL, "more multiplications than a double can count");
    }
    int rc = parse_ties(s, layers, where, err);
    if (rc)
        return rc;
    index_decisions(s);
    return HR_OK;
}

void hr_space_release(hr_space *s)
{
    for (int i = 0; i < s->n; i++)
        free(s->l[i].name);
    free(s->arch);
    free(s->l);
    free(s->decision);
    free(s->count);
    free(s->rin);
    free(s->rout);
    *s = (hr_space){0};
}

static double layer_cost(const hr_space *s, enum hr_cost_kind measure, int i)
{
    return (double)(measure == HR_COST_MACS ? s->l[i].macs : s->l[i].weights);
}

double hr_space_total(const hr_space *s, enum hr_cost_kind measure)
{
    double sum = 0;
    for (int i = 0; i < s->n; i++)
        sum += layer_cost(s, measure, i);
    return sum;
}

double hr_space_cost(const hr_space *s, enum hr_cost_kind measure, const double *rate)
{
    double sum = 0;
    for (int i = 0; i < s->n; i++) {
        double c = layer_cost(s, measure, i) * rate[s->rin[i]];
        if (measure == HR_COST_INOUT && s->rout[i] >= 0)
            c *= rate[s->rout[i]];
        sum += c;
    }
    return sum;
}

double hr_space_budget(const hr_space *s, enum hr_cost_kind measure, double rate)
{
    double *r = hr_xmalloc((size_t)s->nd * sizeof *r);
    for (int d = 0; d < s->nd; d++)
        r[d] = d < s->first ? 1 : rate;
    double cost = hr_space_cost(s, measure, r);
    free(r);
    return cost;
}
