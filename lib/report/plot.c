/* lib/report/plot.c -- from strategy files to series, and series as CSV. */
#include "report/plot.h"

#include "prune/prune.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- the axis ----------------------------------------------------------------------------------------- */

/* The layers of a network, as far as a plot needs them. Without a layer table and without a network of that
 * name in the zoo, n is 0 until the first strategy says how many there are. */
struct axis {
    int n, channel_n;
    char **name; /* NULL entries: unknown */
    bool *linear;
    int *channel; /* entry of a channel strategy */
    bool *tied;
};

static void axis_alloc(struct axis *a, int n)
{
    a->n = n;
    a->name = hr_xcalloc((size_t)n + 1, sizeof *a->name);
    a->linear = hr_xcalloc((size_t)n + 1, sizeof *a->linear);
    a->channel = hr_xcalloc((size_t)n + 1, sizeof *a->channel);
    a->tied = hr_xcalloc((size_t)n + 1, sizeof *a->tied);
}

static void axis_release(struct axis *a)
{
    for (int i = 0; i < a->n; i++)
        free(a->name[i]);
    free(a->name);
    free(a->linear);
    free(a->channel);
    free(a->tied);
    *a = (struct axis){0};
}

static int axis_from_table(struct axis *a, const json_t *table, const char *where, hr_err *err)
{
    const json_t *layers = json_object_get(table, "layers");
    size_t n = json_array_size(layers);
    if (n == 0 || n > 100000)
        return hr_fail(err, HR_EFORMAT, "%s: is no layer table (nninfo --format json)", where);
    axis_alloc(a, (int)n);
    for (int i = 0; i < a->n; i++) {
        const json_t *l = json_array_get(layers, (size_t)i), *c = json_object_get(l, "channel_index");
        const char *name = json_string_value(json_object_get(l, "name"));
        const char *op = json_string_value(json_object_get(l, "op"));
        if (!name || !op || !json_is_integer(c) || json_integer_value(c) < 0 || json_integer_value(c) >= a->n)
            return hr_fail(err, HR_EFORMAT,
                           "%s: layer %d: name, op or channel_index is missing or out of range", where,
                           i + 1);
        a->name[i] = hr_xstrdup(name);
        a->linear[i] = strcmp(op, "linear") == 0;
        a->channel[i] = (int)json_integer_value(c);
        a->tied[i] = json_is_string(json_object_get(l, "tie"));
        a->channel_n += !a->tied[i];
    }
    return HR_OK;
}

static int axis_load(struct axis *a, const char *path, const char *arch, hr_err *err)
{
    json_t *table = NULL;
    if (path) {
        int rc = hr_json_load(path, &table, err);
        if (rc)
            return rc;
    } else {
        hr_model *m;
        hr_zoo_opts opts = {0};
        if (hr_zoo_build(arch, &opts, &m, NULL))
            return HR_OK; /* not of the zoo: layers will be numbered */
        table = hr_layers_json(m);
        hr_model_free(m);
    }
    int rc = axis_from_table(a, table, path ? path : arch, err);
    json_decref(table);
    return rc;
}

/* The published figures' names: "features.3" is the second convolution, "2"; "layer1.0.conv2" is the second
 * of the first block in the first stage behind the stem, "2-1-2"; its shortcut is "2-short"; linear layers
 * are "fc1", "fc2", ..., but ResNet50's is "fc". A name of another make is shown as it is. */
static char *short_label(const char *arch, const char *name, bool linear, int nth)
{
    int number[3], count = 0;
    for (const char *c = name; *c && count < 3;) {
        if (isdigit((unsigned char)*c)) {
            number[count++] = (int)strtol(c, (char **)&c, 10) % 100000;
            continue;
        }
        c++;
    }
    if (linear)
        return strcmp(arch, "ResNet50") == 0 ? hr_xstrdup("fc") : hr_xasprintf("fc%d", nth);
    if (count > 0 && (strcasestr(name, "shortcut") || strcasestr(name, "downsample")))
        return hr_xasprintf("%d-short", number[0] + 1);
    if (count == 3)
        return hr_xasprintf("%d-%d-%d", number[0] + 1, number[1] + 1, number[2]);
    if (count < 2)
        return hr_xasprintf("%d", nth);
    return hr_xstrdup(name);
}

static char **axis_labels(const struct axis *a, const char *arch)
{
    char **labels = hr_xcalloc((size_t)a->n + 1, sizeof *labels);
    int convs = 0, linears = 0;
    for (int i = 0; i < a->n; i++) {
        if (!a->name[i])
            labels[i] = hr_xasprintf("%d", i + 1);
        else
            labels[i] = short_label(arch, a->name[i], a->linear[i], a->linear[i] ? ++linears : ++convs);
    }
    return labels;
}

/* ---- what IDs say ------------------------------------------------------------------------------------- */

static const struct kind {
    const char *kind, *published, *shown;
} kinds[] = {
    {"search", NULL, "searched"}, {"uniform", "uni", "uniform"},  {"erk", "erk", "ERK"},
    {"lamp", "lamp", "LAMP"},     {"global", "global", "global"}, {"uniform+", NULL, "uniform+"},
};

static int kind_rank(const char *kind)
{
    for (size_t i = 0; i < HR_COUNT(kinds); i++)
        if (strcmp(kind, kinds[i].kind) == 0)
            return (int)i;
    return (int)HR_COUNT(kinds);
}

/* Caller frees. *rate 0: none is claimed; *first_too: the published "_all". */
static char *kind_of(const char *id, double *rate, bool *first_too)
{
    const char *colon = strchr(id, ':');
    *rate = hr_id_rate(id);
    *first_too = false;
    if (*rate > 0 && colon)
        return hr_xasprintf("%.*s", (int)(colon - id), id);
    if (*rate > 0) {
        const char *rest = id + strspn(id, "0123456789");
        rest += *rest == '_';
        size_t len = strlen(rest);
        *first_too = len >= 4 && strcmp(rest + len - 4, "_all") == 0;
        len -= *first_too ? 4 : 0;
        for (size_t i = 0; i < HR_COUNT(kinds); i++)
            if (kinds[i].published && strlen(kinds[i].published) == len &&
                strncmp(rest, kinds[i].published, len) == 0)
                return hr_xstrdup(kinds[i].kind);
        if (strspn(rest, "0123456789") == len)
            return hr_xstrdup("search");
        return hr_xasprintf("%.*s", (int)len, rest);
    }
    size_t len = strlen(id); /* search-0, search-1: one kind */
    while (len > 1 && isdigit((unsigned char)id[len - 1]))
        len--;
    if (id[len] && len > 1 && (id[len - 1] == '-' || id[len - 1] == '_'))
        return hr_xasprintf("%.*s", (int)len - 1, id);
    return hr_xstrdup(id);
}

/* ---- selection ---------------------------------------------------------------------------------------- */

/* The i-th word of a list with commas; false behind the last. word is overwritten. */
static bool word_at(const char *list, int i, char *word, size_t size)
{
    for (; i > 0 && list; i--) {
        list = strchr(list, ',');
        list = list ? list + 1 : NULL;
    }
    if (!list)
        return false;
    snprintf(word, size, "%.*s", (int)strcspn(list, ","), list);
    return true;
}

static int word_number(const char *list, const char *wanted)
{
    char word[256];
    for (int i = 0; word_at(list, i, word, sizeof word); i++)
        if (strcmp(word, wanted) == 0)
            return i;
    return -1;
}

int hr_plot_check_opts(const hr_plot_opts *o, hr_err *err)
{
    char word[256];
    int regs = 0, rates = 0;
    double v;
    for (; o->reg && word_at(o->reg, regs, word, sizeof word); regs++)
        if (strcmp(word, hr_reg_names[0]) != 0 && strcmp(word, hr_reg_names[1]) != 0)
            return hr_fail(err, HR_EINVAL, "--reg: '%s' is neither weight nor channel", word);
    for (; o->rate && word_at(o->rate, rates, word, sizeof word); rates++)
        if (!hr_parse_real(word, &v) || !(v > 0 && v <= 1))
            return hr_fail(err, HR_EINVAL, "--rate: '%s' is not a rate in (0,1]", word);
    if (rates > 1 && rates != regs)
        return hr_fail(err, HR_EINVAL, "--rate: %d rates for %d words of --reg", rates, regs);
    return HR_OK;
}

static bool rate_wanted(const hr_plot_opts *o, enum hr_reg reg, double rate)
{
    char word[256];
    double v;
    if (!o->rate || rate == 0)
        return true;
    int i = strchr(o->rate, ',') ? word_number(o->reg, hr_reg_names[reg]) : 0;
    return word_at(o->rate, i, word, sizeof word) && hr_parse_real(word, &v) && fabs(v - rate) < 1e-9;
}

/* ---- entries ------------------------------------------------------------------------------------------ */

struct entry {
    const char *file, *id;
    enum hr_reg reg;
    const json_t *json;
    struct axis *axis;
};

static int bad(const struct entry *e, hr_err *err, const char *what)
{
    return hr_fail(err, HR_EFORMAT, "%s: %s strategy '%s': %s", e->file, hr_reg_names[e->reg], e->id, what);
}

/* Length of this entry's list on an axis of its own. */
static int own_axis(const struct entry *e, hr_err *err)
{
    const json_t *list = json_is_array(e->json) ? e->json : json_object_get(e->json, "rates");
    const json_t *names = json_object_get(e->json, "layers");
    size_t n = json_array_size(list);
    if (n == 0 || n > 100000)
        return bad(e, err, "holds no rates");
    axis_alloc(e->axis, (int)n);
    e->axis->channel_n = (int)n;
    for (int i = 0; i < (int)n; i++) {
        const char *name = json_string_value(json_array_get(names, (size_t)i));
        e->axis->name[i] = name ? hr_xstrdup(name) : NULL;
        e->axis->channel[i] = i;
    }
    return HR_OK;
}

/* Index in the list of the rate that layer i of the axis gets, or -1. */
static int place(const struct entry *e, int i)
{
    const json_t *names = json_object_get(e->json, "layers");
    if (json_is_array(e->json) || !e->axis->name[i])
        return e->reg == HR_REG_WEIGHT ? i : e->axis->channel[i];
    const char *wanted = e->axis->name[i];
    for (int k = 0; e->reg == HR_REG_CHANNEL && e->axis->tied[i] && k < e->axis->n; k++)
        if (!e->axis->tied[k] && e->axis->channel[k] == e->axis->channel[i])
            wanted = e->axis->name[k];
    for (size_t k = 0; k < json_array_size(names); k++) {
        const char *name = json_string_value(json_array_get(names, k));
        if (name && strcmp(name, wanted) == 0)
            return (int)k;
    }
    return -1;
}

/* The entry's rate for every layer of the axis. */
static int entry_rates(const struct entry *e, double *rate, hr_err *err)
{
    const json_t *list = json_is_array(e->json) ? e->json : json_object_get(e->json, "rates");
    char text[256];
    int want = e->reg == HR_REG_WEIGHT ? e->axis->n : e->axis->channel_n;
    if (!json_is_array(list))
        return bad(e, err, "expected a list of rates or an object with \"layers\" and \"rates\"");
    if (json_array_size(list) != (size_t)want) {
        snprintf(text, sizeof text,
                 "holds %zu rates, the network has %d such layers (another one? see --layers)",
                 json_array_size(list), want);
        return bad(e, err, text);
    }
    for (int i = 0; i < e->axis->n; i++) {
        int k = place(e, i);
        const json_t *v = k >= 0 ? json_array_get(list, (size_t)k) : NULL;
        rate[i] = json_number_value(v);
        if (!json_is_number(v) || !(rate[i] > 0 && rate[i] <= 1)) {
            snprintf(text, sizeof text, "has no rate in (0,1] for layer %d%s%.100s", i + 1,
                     e->axis->name[i] ? ", " : "", e->axis->name[i] ? e->axis->name[i] : "");
            return bad(e, err, text);
        }
    }
    return HR_OK;
}

/* ---- series ------------------------------------------------------------------------------------------- */

/* Members of one series, one row of n rates per strategy, until they are all known. */
struct pile {
    char *kind;
    enum hr_reg reg;
    double rate;
    int members;
    double *rates;
};

struct collection {
    const hr_plot_opts *o;
    struct axis axis;
    struct pile *piles;
    int npiles;
};

static struct pile *pile_for(struct collection *c, const char *kind, enum hr_reg reg, double rate)
{
    for (int i = 0; i < c->npiles; i++)
        if (strcmp(c->piles[i].kind, kind) == 0 && c->piles[i].reg == reg && c->piles[i].rate == rate)
            return &c->piles[i];
    c->piles = hr_xrealloc(c->piles, sizeof *c->piles * (size_t)(c->npiles + 1));
    c->piles[c->npiles] = (struct pile){.kind = hr_xstrdup(kind), .reg = reg, .rate = rate};
    return &c->piles[c->npiles++];
}

static int collect_entry(struct collection *c, struct entry *e, hr_err *err)
{
    double rate;
    bool first_too;
    int rc = HR_OK;
    char *kind = kind_of(e->id, &rate, &first_too);
    if (rate == 0)
        rate = json_number_value(json_object_get(json_object_get(e->json, "budget"), "target"));
    bool wanted = rate_wanted(c->o, e->reg, rate) && (!first_too || c->o->first_too) &&
                  (!c->o->series || word_number(c->o->series, kind) >= 0);
    e->axis = &c->axis;
    if (wanted && c->axis.n == 0)
        rc = own_axis(e, err);
    if (wanted && rc == HR_OK) {
        size_t n = (size_t)c->axis.n;
        struct pile *p = pile_for(c, kind, e->reg, rate);
        p->rates = hr_xrealloc(p->rates, sizeof *p->rates * n * (size_t)(p->members + 1));
        rc = entry_rates(e, p->rates + n * (size_t)p->members, err);
        p->members++;
    }
    free(kind);
    return rc;
}

static int collect_file(struct collection *c, const json_t *root, const char *file, const char *arch,
                        hr_err *err)
{
    for (int reg = 1; reg >= 0; reg--) {
        const json_t *ids = json_object_get(json_object_get(root, arch), hr_reg_names[reg]);
        const char *id;
        json_t *json;
        if (c->o->reg && word_number(c->o->reg, hr_reg_names[reg]) < 0)
            continue;
        json_object_foreach ((json_t *)ids, id, json) {
            struct entry e = {.file = file, .id = id, .reg = (enum hr_reg)reg, .json = json};
            int rc = collect_entry(c, &e, err);
            if (rc)
                return rc;
        }
    }
    return HR_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double three_decimals(double x)
{
    return nearbyint(x * 1000.0) / 1000.0;
}

static char *series_name(const struct collection *c, const struct pile *p)
{
    bool regs = false, rates = false;
    for (int i = 0; i < c->npiles; i++) {
        regs = regs || c->piles[i].reg != p->reg;
        rates = rates || (c->piles[i].rate != p->rate && c->piles[i].rate > 0 && p->rate > 0);
    }
    hr_buf b = {0};
    if (regs)
        hr_buf_printf(&b, "%s ", hr_reg_names[p->reg]);
    if (rates)
        hr_buf_printf(&b, "%g ", p->rate);
    int rank = kind_rank(p->kind);
    hr_buf_printf(&b, "%s", rank < (int)HR_COUNT(kinds) ? kinds[rank].shown : p->kind);
    if (p->members > 1)
        hr_buf_printf(&b, " (median of %d)", p->members);
    return b.data;
}

static hr_series series_of(const struct collection *c, const struct pile *p)
{
    int n = c->axis.n, k = p->members;
    hr_series s = {.kind = hr_xstrdup(p->kind), .name = series_name(c, p), .reg = p->reg, .rate = p->rate};
    s.members = k;
    s.median = hr_xcalloc((size_t)n, sizeof *s.median);
    s.low = hr_xcalloc((size_t)n, sizeof *s.low);
    s.high = hr_xcalloc((size_t)n, sizeof *s.high);
    double *v = hr_xcalloc((size_t)k, sizeof *v);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < k; j++)
            v[j] = p->rates[(size_t)j * (size_t)n + (size_t)i];
        qsort(v, (size_t)k, sizeof *v, ascending);
        double median = k % 2 ? v[k / 2] : 0.5 * (v[k / 2 - 1] + v[k / 2]);
        s.median[i] = three_decimals(median);
        s.low[i] = three_decimals(median - v[0]);
        s.high[i] = three_decimals(v[k - 1] - median);
    }
    free(v);
    return s;
}

static int by_legend(const void *a, const void *b)
{
    const struct pile *x = a, *y = b;
    int kx = kind_rank(x->kind), ky = kind_rank(y->kind);
    if (x->reg != y->reg)
        return x->reg < y->reg ? -1 : 1;
    if (x->rate != y->rate && x->rate > 0 && y->rate > 0)
        return x->rate > y->rate ? -1 : 1;
    if (kx != ky)
        return kx - ky;
    int names = strcmp(x->kind, y->kind);
    return names ? names : (x->rate < y->rate) - (x->rate > y->rate);
}

/* The one architecture of all files, or an error that lists them. */
static int only_arch(json_t *const *roots, const char *const *files, size_t n, char **arch, hr_err *err)
{
    *arch = NULL;
    for (size_t i = 0; i < n; i++) {
        const char *name;
        json_t *regs;
        json_object_foreach (roots[i], name, regs) {
            if (!*arch)
                *arch = hr_xstrdup(name);
            else if (strcmp(*arch, name) != 0)
                return hr_fail(err, HR_EINVAL, "%s: holds '%s' and not only '%s': choose with --arch",
                               files[i], name, *arch);
        }
    }
    if (!*arch)
        return hr_fail(err, HR_EFORMAT, "%s: holds no strategy {ARCH: {REG: {ID: rates}}}", files[0]);
    return HR_OK;
}

int hr_plot_load(hr_plot *p, const char *const *files, size_t n, const hr_plot_opts *o, hr_err *err)
{
    struct collection c = {.o = o};
    json_t **roots = hr_xcalloc(n, sizeof *roots);
    *p = (hr_plot){0};
    int rc = hr_plot_check_opts(o, err);
    for (size_t i = 0; rc == HR_OK && i < n; i++) {
        rc = hr_json_load(files[i], &roots[i], err);
        if (rc == HR_OK && !json_is_object(roots[i]))
            rc = hr_fail(err, HR_EFORMAT, "%s: holds no strategy {ARCH: {REG: {ID: rates}}}", files[i]);
    }
    if (rc == HR_OK && o->arch)
        p->arch = hr_xstrdup(o->arch);
    else if (rc == HR_OK)
        rc = only_arch(roots, files, n, &p->arch, err);
    if (rc == HR_OK)
        rc = axis_load(&c.axis, o->layers, p->arch, err);
    for (size_t i = 0; rc == HR_OK && i < n; i++)
        rc = collect_file(&c, roots[i], files[i], p->arch, err);
    if (rc == HR_OK && c.npiles == 0)
        rc = hr_fail(err, HR_EINVAL, "%s%s: no strategy of %s is left to draw (--reg, --rate, --series)",
                     files[0], n > 1 ? ", ..." : "", p->arch);
    if (rc == HR_OK) {
        qsort(c.piles, (size_t)c.npiles, sizeof *c.piles, by_legend);
        p->n = c.axis.n;
        p->labels = axis_labels(&c.axis, p->arch);
        p->series = hr_xcalloc((size_t)c.npiles, sizeof *p->series);
        for (; p->nseries < c.npiles; p->nseries++)
            p->series[p->nseries] = series_of(&c, &c.piles[p->nseries]);
    } else {
        hr_plot_release(p);
    }
    for (int i = 0; i < c.npiles; i++) {
        free(c.piles[i].kind);
        free(c.piles[i].rates);
    }
    free(c.piles);
    axis_release(&c.axis);
    for (size_t i = 0; i < n; i++)
        json_decref(roots[i]);
    free(roots);
    return rc;
}

void hr_plot_release(hr_plot *p)
{
    for (int i = 0; i < p->nseries; i++) {
        free(p->series[i].kind);
        free(p->series[i].name);
        free(p->series[i].median);
        free(p->series[i].low);
        free(p->series[i].high);
    }
    for (int i = 0; i < p->n; i++)
        free(p->labels[i]);
    free(p->labels);
    free(p->series);
    free(p->arch);
    *p = (hr_plot){0};
}

void hr_plot_csv(const hr_plot *p, FILE *out)
{
    fprintf(out, "layer\tmedian\tlow\thigh%s\n", p->nseries > 1 ? "\tseries" : "");
    for (int k = 0; k < p->nseries; k++) {
        const hr_series *s = &p->series[k];
        for (int i = 0; i < p->n; i++) {
            fprintf(out, "%d\t%.3f\t%.3f\t%.3f", i + 1, s->median[i], s->low[i], s->high[i]);
            if (p->nseries > 1)
                fprintf(out, "\t%s", s->name);
            fputc('\n', out);
        }
    }
}

hr_look hr_plot_look(const hr_plot *p, int i)
{
    static const hr_look searched[] = {
        [HR_REG_WEIGHT] = {"006BA4", "5F9ED1", "", "solid", "square*", 's'},
        [HR_REG_CHANNEL] = {"FF800E", "FFBC79", "1.5 3", "densely dotted", "square*", 's'},
    };
    static const hr_look others[] = {
        {"595959", "ABABAB", "7 4", "dashed", "o", 'o'},
        {"C85200", "E8A37C", "", "solid", "triangle*", 't'},
        {"009E73", "7FCEB9", "", "solid", "diamond*", 'd'},
        {"8A5FA8", "C4AFD3", "5 3 1.5 3", "dash dot", "x", 'x'},
        {"ABABAB", "CFCFCF", "3 3", "densely dashed", "o", 'o'},
    };
    const hr_series *s = &p->series[i];
    if (strcmp(s->kind, "search") == 0 || p->nseries == 1)
        return searched[s->reg];
    int rank = kind_rank(s->kind);
    hr_look l = rank < (int)HR_COUNT(kinds) ? others[rank - 1] : others[(i + 3) % (int)HR_COUNT(others)];
    bool weight = false;
    for (int k = 0; k < p->nseries; k++)
        weight |= p->series[k].reg == HR_REG_WEIGHT;
    if (s->reg == HR_REG_CHANNEL && weight) { /* the same kind of weight strategy may stand beside it */
        l.dash = "1.5 3";
        l.tikz_dash = "densely dotted";
    }
    return l;
}
