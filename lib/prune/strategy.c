/* lib/prune/strategy.c -- strategies from specs and files, strategies as JSON, and what they claim to cost.
 *
 * A strategy file is {ARCH: {REG: {ID: entry}}}. The published entry is a bare list of rates: in weight mode
 * one per layer in strategy order, in channel mode without the tied shortcuts. Such a list says nothing about
 * the network it was made for, so its length is all that can be checked. Our entry carries names; its layers
 * may stand in any order, and counts, where given, must be those of its rates. */
#include "prune/cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void hr_strategy_release(hr_strategy *s)
{
    free(s->rate);
    free(s->kept);
    free(s->id);
    free(s->name);
    json_decref(s->history);
    *s = (hr_strategy){0};
}

double hr_id_rate(const char *id)
{
    const char *colon = strchr(id, ':');
    double k = 0, unit = 1;
    if (colon) {
        char *rule = hr_xasprintf("%.*s", (int)(colon - id), id);
        bool good = hr_rule_known(rule) && hr_parse_real(colon + 1, &k) && k > 0 && k <= 1;
        free(rule);
        return good ? k : 0;
    }
    size_t digits = strspn(id, "0123456789");
    if (digits < 2 || digits > 9 || id[0] != '0' || (id[digits] && id[digits] != '_'))
        return 0;
    for (size_t i = 1; i < digits; i++, unit *= 10)
        k = 10 * k + (id[i] - '0');
    return k / unit;
}

/* ---- specs -------------------------------------------------------------------------------------------- */

struct spec {
    char *rule; /* with k, or NULL */
    double k;
    char *file, *arch, *id; /* arch and id NULL: the file's only entry */
    enum hr_reg reg;        /* with arch */
};

static void spec_release(struct spec *p)
{
    free(p->rule);
    free(p->file);
    free(p->arch);
    free(p->id);
}

static bool is_file(const char *path)
{
    return strcmp(path, "-") == 0 || access(path, F_OK) == 0;
}

/* Split ARCH/REG/ID. */
static bool split_entry(const char *text, struct spec *p)
{
    for (int reg = 0; hr_reg_names[reg]; reg++) {
        char *middle = hr_xasprintf("/%s/", hr_reg_names[reg]);
        const char *at = strstr(text, middle);
        const char *id = at ? at + strlen(middle) : NULL;
        free(middle);
        if (!at || at == text || !*id || memchr(text, '/', (size_t)(at - text)))
            continue;
        free(p->arch);
        free(p->id);
        p->arch = hr_xasprintf("%.*s", (int)(at - text), text);
        p->id = hr_xstrdup(id);
        p->reg = (enum hr_reg)reg;
        return true;
    }
    return false;
}

/* A file's name may hold colons too: the first split whose file exists counts, else the first that has the
 * form, so that the message names a file. */
static bool split_file(const char *text, struct spec *p)
{
    const char *first = NULL;
    for (const char *c = strchr(text, ':'); c; c = strchr(c + 1, ':')) {
        if (c == text || !split_entry(c + 1, p))
            continue;
        free(p->file);
        p->file = hr_xasprintf("%.*s", (int)(c - text), text);
        if (is_file(p->file))
            return true;
        first = first ? first : c;
    }
    if (!first)
        return false;
    free(p->file);
    p->file = hr_xasprintf("%.*s", (int)(first - text), text);
    return split_entry(first + 1, p);
}

static int spec_parse(const char *text, struct spec *p, hr_err *err)
{
    *p = (struct spec){0};
    const char *colon = strchr(text, ':');
    p->rule = colon ? hr_xasprintf("%.*s", (int)(colon - text), text) : NULL;
    if (p->rule && hr_rule_known(p->rule)) {
        if (hr_parse_real(colon + 1, &p->k) && p->k > 0 && p->k <= 1)
            return HR_OK;
        spec_release(p);
        return hr_fail(err, HR_EINVAL, "strategy '%s': the rate must be in (0,1]", text);
    }
    free(p->rule);
    p->rule = NULL;
    if (is_file(text) || (!colon && *text)) {
        p->file = hr_xstrdup(text);
        return HR_OK;
    }
    if (split_file(text, p))
        return HR_OK;
    spec_release(p);
    return hr_fail(err, HR_EINVAL,
                   "strategy '%s': expected %s, FILE or FILE:ARCH/REG/ID (REG weight or channel)", text,
                   hr_rule_list);
}

int hr_spec_check(const char *spec, hr_err *err)
{
    struct spec p;
    int rc = spec_parse(spec, &p, err);
    if (rc == HR_OK)
        spec_release(&p);
    return rc;
}

/* ---- entries of files --------------------------------------------------------------------------------- */

/* Member `key` of object j, or HR_EFORMAT naming those there are. */
static int member(const json_t *j, const char *file, const char *what, const char *key, const json_t **out,
                  hr_err *err)
{
    *out = json_object_get(j, key);
    if (*out)
        return HR_OK;
    hr_buf names = {0};
    const char *name;
    json_t *value;
    json_object_foreach ((json_t *)j, name, value) {
        hr_buf_printf(&names, "%s%s", names.len ? ", " : "", name);
    }
    int rc = hr_fail(err, HR_EFORMAT, "%s: has no %s '%s', only: %s", file, what, key,
                     names.len ? names.data : "nothing");
    hr_buf_release(&names);
    return rc;
}

/* Fill arch, reg and id with those of the file's only entry. */
static int only_entry(const json_t *root, struct spec *p, hr_err *err)
{
    int count = 0;
    const char *arch, *reg, *id;
    json_t *regs, *ids, *entry;
    json_object_foreach ((json_t *)root, arch, regs) {
        json_object_foreach (regs, reg, ids) {
            json_object_foreach (ids, id, entry) {
                char *text = hr_xasprintf("%s/%s/%s", arch, reg, id);
                if (count++ == 0 && !split_entry(text, p)) {
                    int rc =
                        hr_fail(err, HR_EFORMAT, "%s: entry %s: expected ARCH/weight/ID or ARCH/channel/ID",
                                p->file, text);
                    free(text);
                    return rc;
                }
                free(text);
            }
        }
    }
    if (count == 0)
        return hr_fail(err, HR_EFORMAT, "%s: holds no strategy {ARCH: {REG: {ID: rates}}}", p->file);
    if (count > 1)
        return hr_fail(err, HR_EINVAL, "%s: holds %d strategies, name one of them as %s:ARCH/REG/ID", p->file,
                       count, p->file);
    return HR_OK;
}

struct entry {
    const hr_layers *ls;
    enum hr_reg reg;
    const char *file, *name; /* for messages */
    bool torch;              /* a list is in PyTorch's order */
    int n;                   /* decision layers */
    double *rate;            /* n, 0: not seen yet */
};

static int bad_entry(const struct entry *e, hr_err *err, const char *what, int i)
{
    return hr_fail(err, HR_EFORMAT, "%s: %s: %s %d is not as it should be: a strategy holds rates in (0,1]",
                   e->file, e->name, what, i + 1);
}

/* The layer that decides entry d, and its number of weights or channels. */
static const hr_layer *decider(const struct entry *e, int d)
{
    for (int i = 0; i < e->ls->n; i++)
        if (e->reg == HR_REG_WEIGHT ? i == d : e->ls->l[i].channel_index == d && e->ls->l[i].tie < 0)
            return &e->ls->l[i];
    BUG("no layer decides entry %d", d);
}

static int wrong_length(const struct entry *e, size_t found, hr_err *err)
{
    return hr_fail(err, HR_EFORMAT, "%s: %s: holds %zu rates, the network has %d %s layers", e->file, e->name,
                   found, e->n, hr_reg_names[e->reg]);
}

static int read_list(struct entry *e, const json_t *list, hr_err *err)
{
    if (json_array_size(list) != (size_t)e->n)
        return wrong_length(e, json_array_size(list), err);
    for (int i = 0; i < e->n; i++) {
        const json_t *v = json_array_get(list, (size_t)(e->torch ? e->ls->l[i].torch_index : i));
        e->rate[i] = json_number_value(v);
        if (!json_is_number(v) || !(e->rate[i] > 0 && e->rate[i] <= 1))
            return bad_entry(e, err, "rate", i);
    }
    return HR_OK;
}

static int layer_called(const struct entry *e, const char *name)
{
    for (int d = 0; name && d < e->n; d++)
        if (strcmp(decider(e, d)->name, name) == 0)
            return d;
    return -1;
}

static int read_named(struct entry *e, const json_t *j, hr_err *err)
{
    const json_t *layers = json_object_get(j, "layers"), *rates = json_object_get(j, "rates"),
                 *kept = json_object_get(j, "kept");
    size_t n = json_array_size(layers);
    if (!json_is_array(layers) || !json_is_array(rates) || json_array_size(rates) != n ||
        (kept && (!json_is_array(kept) || json_array_size(kept) != n)))
        return hr_fail(err, HR_EFORMAT,
                       "%s: %s: expected lists \"layers\" and \"rates\" (and \"kept\") of one length",
                       e->file, e->name);
    if (n != (size_t)e->n)
        return wrong_length(e, n, err);
    for (int i = 0; i < e->n; i++) {
        const char *name = json_string_value(json_array_get(layers, (size_t)i));
        const json_t *v = json_array_get(rates, (size_t)i), *k = json_array_get(kept, (size_t)i);
        double rate = json_number_value(v);
        int d = layer_called(e, name);
        if (d < 0)
            return hr_fail(err, HR_EFORMAT, "%s: %s: the network has no %s layer '%s'", e->file, e->name,
                           hr_reg_names[e->reg], name ? name : "(no string)");
        if (e->rate[d] > 0)
            return hr_fail(err, HR_EFORMAT, "%s: %s: layer '%s' comes twice", e->file, e->name, name);
        if (!json_is_number(v) || !(rate > 0 && rate <= 1))
            return bad_entry(e, err, "rate", i);
        int64_t count = hr_score_count(decider(e, d), e->reg);
        if (k && (!json_is_integer(k) || json_integer_value(k) != hr_kept(rate, count)))
            return hr_fail(err, HR_EFORMAT, "%s: %s: layer '%s': %lld kept, but rate %.10g of %lld is %lld",
                           e->file, e->name, name, (long long)json_integer_value(k), rate, (long long)count,
                           (long long)hr_kept(rate, count));
        e->rate[d] = rate;
    }
    return HR_OK;
}

static int read_claims(hr_strategy *s, const struct entry *e, const json_t *j, hr_err *err)
{
    double *const dest[] = {&s->claimed.inout, &s->claimed.masked, &s->claimed.macs};
    const json_t *budget = json_object_get(j, "budget"), *history = json_object_get(j, "history");
    const json_t *target = json_object_get(budget, "target");
    for (int i = 0; hr_measure_names[i]; i++) {
        const json_t *v = json_object_get(budget, hr_measure_names[i]);
        *dest[i] = json_number_value(v);
        if (v && (!json_is_number(v) || !(*dest[i] > 0 && *dest[i] <= 1)))
            return hr_fail(err, HR_EFORMAT, "%s: %s: budget \"%s\" must be a number in (0,1]", e->file,
                           e->name, hr_measure_names[i]);
    }
    if (target &&
        (!json_is_number(target) || !(json_number_value(target) > 0 && json_number_value(target) <= 1)))
        return hr_fail(err, HR_EFORMAT, "%s: %s: budget \"target\" must be a rate in (0,1]", e->file,
                       e->name);
    if (target && s->target == 0)
        s->target = json_number_value(target);
    if (json_is_object(history))
        s->history = json_deep_copy(history);
    return HR_OK;
}

static int read_entry(hr_strategy *s, struct entry *e, const json_t *j, bool prune_first, hr_err *err)
{
    int rc;
    if (json_is_array(j))
        rc = read_list(e, j, err);
    else if (json_is_object(j))
        rc = read_named(e, j, err);
    else
        rc = hr_fail(err, HR_EFORMAT,
                     "%s: %s: expected a list of rates or an object with \"layers\" and \"rates\"", e->file,
                     e->name);
    if (rc == HR_OK && json_is_object(j))
        rc = read_claims(s, e, j, err);
    if (rc)
        return rc;
    for (int i = 0; i < e->ls->n; i++) {
        const hr_layer *l = &e->ls->l[i];
        int64_t n = hr_score_count(l, e->reg);
        double rate = e->rate[e->reg == HR_REG_WEIGHT ? i : l->channel_index];
        s->kept[i] = hr_layer_is_fixed(e->ls, i, e->reg, prune_first) ? n : hr_kept(rate, n);
    }
    char *text = hr_json_text(j, 0);
    hr_sha256 *h = hr_sha256_new();
    hr_sha256_add(h, text, strlen(text));
    hr_sha256_end(h, s->digest);
    free(text);
    return HR_OK;
}

/* The entry that p names in root. */
static int from_root(hr_strategy *s, const struct spec *p, const json_t *root, const hr_layers *ls,
                     bool prune_first, hr_err *err)
{
    const json_t *arch = NULL, *reg = NULL, *j = NULL;
    int rc = HR_OK;
    size_t len = strlen(p->id), mark = strlen(HR_TORCH_ORDER);
    bool torch = len > mark && strcmp(p->id + len - mark, HR_TORCH_ORDER) == 0;
    char *id = hr_xasprintf("%.*s", (int)(torch ? len - mark : len), p->id);
    if (p->reg != s->reg)
        rc = hr_fail(err, HR_EINVAL, "%s: strategy %s/%s/%s is for %s pruning, not for %s", p->file, p->arch,
                     hr_reg_names[p->reg], p->id, hr_reg_names[p->reg], hr_reg_names[s->reg]);
    if (rc == HR_OK)
        rc = member(root, p->file, "architecture", p->arch, &arch, err);
    if (rc == HR_OK)
        rc = member(arch, p->file, "kind of pruning", hr_reg_names[p->reg], &reg, err);
    if (rc == HR_OK)
        rc = member(reg, p->file, "strategy", id, &j, err);
    if (rc == HR_OK && torch && (s->reg != HR_REG_WEIGHT || !json_is_array(j)))
        rc = hr_fail(err, HR_EINVAL, "%s: %s/%s/%s: %s is for bare lists of weight rates", p->file, p->arch,
                     hr_reg_names[p->reg], p->id, HR_TORCH_ORDER);
    s->target = rc ? 0 : hr_id_rate(id);
    free(id);
    if (rc)
        return rc;
    s->id = hr_xstrdup(p->id);
    s->name = hr_xasprintf("%s/%s/%s", p->arch, hr_reg_names[p->reg], p->id);
    struct entry e = {.ls = ls, .reg = s->reg, .file = p->file, .name = s->name, .torch = torch};
    e.n = s->reg == HR_REG_WEIGHT ? ls->n : ls->channel_n;
    e.rate = hr_xcalloc((size_t)e.n + 1, sizeof *e.rate);
    rc = read_entry(s, &e, j, prune_first, err);
    free(e.rate);
    return rc;
}

static int from_file(hr_strategy *s, struct spec *p, const hr_layers *ls, bool prune_first, hr_err *err)
{
    json_t *root;
    int rc = hr_json_load(p->file, &root, err);
    if (rc)
        return rc;
    if (!p->arch)
        rc = only_entry(root, p, err);
    if (rc == HR_OK)
        rc = from_root(s, p, root, ls, prune_first, err);
    json_decref(root);
    return rc;
}

static void begin(hr_strategy *s, enum hr_reg reg, const hr_layers *ls)
{
    *s = (hr_strategy){.reg = reg, .n = ls->n};
    s->rate = hr_xcalloc((size_t)ls->n, sizeof *s->rate);
    s->kept = hr_xcalloc((size_t)ls->n, sizeof *s->kept);
}

/* Rates of whole counts; or nothing of s is left. */
static int end(hr_strategy *s, const hr_layers *ls, int rc)
{
    for (int i = 0; rc == HR_OK && i < s->n; i++)
        s->rate[i] = (double)s->kept[i] / (double)hr_score_count(&ls->l[i], s->reg);
    if (rc)
        hr_strategy_release(s);
    return rc;
}

int hr_strategy_entry(hr_strategy *s, const char *file, const json_t *root, const char *arch, enum hr_reg reg,
                      const char *id, const hr_layers *ls, bool prune_first, hr_err *err)
{
    struct spec p = {.file = hr_xstrdup(file), .arch = hr_xstrdup(arch), .id = hr_xstrdup(id), .reg = reg};
    begin(s, reg, ls);
    int rc = end(s, ls, from_root(s, &p, root, ls, prune_first, err));
    spec_release(&p);
    return rc;
}

int hr_strategy_make(hr_strategy *s, const char *spec, enum hr_reg reg, const hr_model *m,
                     const hr_layers *ls, bool prune_first, enum hr_measure measure, hr_err *err)
{
    struct spec p;
    *s = (hr_strategy){.reg = reg, .n = ls->n};
    if (ls->n == 0)
        return hr_fail(err, HR_ESHAPE, "the network has no layer that could be pruned");
    int rc = spec_parse(spec, &p, err);
    if (rc)
        return rc;
    begin(s, reg, ls);
    if (p.rule) {
        s->id = hr_xasprintf("%s:%.10g", p.rule, p.k);
        s->name = hr_xstrdup(s->id);
        s->target = p.k;
        rc = hr_rule_solve(s, p.rule, p.k, m, ls, prune_first, measure, err);
    } else {
        rc = from_file(s, &p, ls, prune_first, err);
    }
    spec_release(&p);
    return end(s, ls, rc);
}

/* ---- out ---------------------------------------------------------------------------------------------- */

json_t *hr_strategy_json(const hr_strategy *s, const hr_model *m, const hr_layers *ls)
{
    json_t *layers = json_array(), *rates = json_array(), *kept = json_array();
    for (int i = 0; i < ls->n; i++) {
        if (s->reg == HR_REG_CHANNEL && ls->l[i].tie >= 0)
            continue;
        json_array_append_new(layers, json_string(ls->l[i].name));
        json_array_append_new(rates, json_real(s->rate[i]));
        json_array_append_new(kept, json_integer(s->kept[i]));
    }
    hr_budget b = hr_budget_of(m, ls, s);
    json_t *j = json_pack("{s:o, s:o, s:o, s:{s:f, s:f, s:f}}", "layers", layers, "rates", rates, "kept",
                          kept, "budget", "inout", b.inout, "masked", b.masked, "macs", b.macs);
    if (s->target > 0)
        json_object_set_new(json_object_get(j, "budget"), "target", json_real(s->target));
    if (s->history)
        json_object_set_new(j, "history", json_deep_copy(s->history));
    return j;
}

/* ---- claims ------------------------------------------------------------------------------------------- */

/* What a network pruned at the uniform rate may cost: before rounding, and with whole weights or channels. */
static void allowed(const hr_model *m, const hr_layers *ls, enum hr_reg reg, double rate, bool prune_first,
                    enum hr_measure measure, double *low, double *high)
{
    hr_strategy u;
    hr_err err;
    char *spec = hr_xasprintf("uniform:%.17g", rate);
    if (hr_strategy_make(&u, spec, reg, m, ls, prune_first, measure, &err))
        BUG("%s: %s", spec, err.msg);
    free(spec);
    hr_budget b = hr_budget_of(m, ls, &u);
    hr_strategy_release(&u);
    double exact = hr_budget_target(m, ls, reg, rate, prune_first, measure);
    double whole = hr_budget_get(&b, measure);
    *low = fmin(exact, whole);
    *high = fmax(exact, whole);
}

int hr_strategy_verify(const hr_strategy *s, const hr_model *m, const hr_layers *ls, bool prune_first,
                       enum hr_measure measure, double target, double tolerance, char **warning, hr_err *err)
{
    hr_budget b = hr_budget_of(m, ls, s);
    double cost = hr_budget_get(&b, measure), written = hr_budget_get(&s->claimed, measure);
    const char *unit = hr_measure_names[measure];
    double low = 0, high = 0, over = 1 + tolerance + HR_COST_SLACK, under = 1 - tolerance - HR_COST_SLACK;
    char *claim = NULL; /* the first claim that is wrong */
    *warning = NULL;
    if (target > 0) {
        allowed(m, ls, s->reg, target, prune_first, measure, &low, &high);
        if (cost > high * over)
            return hr_fail(err, HR_EINVAL,
                           "strategy %s costs %.6g (%s), more than the budget of %.6g for rate %g", s->name,
                           cost, unit, high, target);
    }
    bool exceeded = written > 0 && cost > written * over;
    if (exceeded || (written > 0 && cost < written * under))
        claim = hr_xasprintf("its file entry claims %.6g", written);
    if (s->target > 0 && !exceeded) {
        allowed(m, ls, s->reg, s->target, prune_first, measure, &low, &high);
        exceeded = cost > high * over;
        bool spare = *s->digest && cost < low * under; /* rules may be short of it by their rounding */
        if (exceeded || (spare && !claim)) {
            free(claim);
            claim = hr_xasprintf("it claims %.6g (rate %g)", exceeded ? high : low, s->target);
        }
    }
    if (!claim)
        return HR_OK;
    int rc = HR_OK;
    if (exceeded && !(target > 0))
        rc = hr_fail(err, HR_EINVAL, "strategy %s costs %.6g (%s), %s", s->name, cost, unit, claim);
    else
        *warning = hr_xasprintf("strategy %s costs %.6g (%s), %s", s->name, cost, unit, claim);
    free(claim);
    return rc;
}
