/* lib/prune/audit.c -- do the strategies of a file keep their budgets, and in which order were they written?
 *
 * A published weight strategy is a bare list, and nothing in it says where a residual block's shortcut
 * stands: before the block's first convolution, as the search writes it, or behind the block's convolutions,
 * as PyTorch lists modules. Both have the same length. But a list was made for a budget, and read in the
 * other order it costs something else: the order that comes nearer to the claimed budget is the one it was
 * written in. */
#include "prune/cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct audit {
    const char *file;
    const json_t *root;
    enum hr_measure measure;
    double tolerance;
    hr_buf *out;
    const hr_model *m;
    const hr_layers *ls;
};

/* Searches stop at the budget, so that many strategies meet it but for whole weights. */
#define EXACT 1e-4

static bool keeps(const struct audit *a, const hr_strategy *s, double allowed, double slack)
{
    hr_budget b = hr_budget_of(a->m, a->ls, s);
    return hr_budget_get(&b, a->measure) <= allowed * (1 + slack);
}

static bool meets(const struct audit *a, const hr_strategy *s, double allowed)
{
    hr_budget b = hr_budget_of(a->m, a->ls, s);
    return fabs(hr_budget_get(&b, a->measure) / allowed - 1) <= EXACT;
}

/* Was it written in PyTorch's order, as t reads it (1), in strategy order, as s does (-1), or can that not be
 * told (0)? */
static int which_order(const struct audit *a, const hr_strategy *s, const hr_strategy *t, double allowed)
{
    int exact = meets(a, t, allowed) - meets(a, s, allowed);
    return exact ? exact : keeps(a, t, allowed, a->tolerance) - keeps(a, s, allowed, a->tolerance);
}

/* What the search that made it counted (ALG 6.3): in strategy order; a tied shortcut counts as if both its
 * sides were at the search's lower bound, 0.1 for rate 0.5 and 0.05 for 0.1, whatever became of it; 0 for
 * other rates, whose bound is not known. */
static double published_cost(const struct audit *a, const hr_strategy *s)
{
    double bound = s->target == 0.5 ? 0.1 : s->target == 0.1 ? 0.05 : 0, cost = 0;
    int *reader = hr_xcalloc((size_t)a->ls->n, sizeof *reader);
    hr_layer_readers(a->m, a->ls, reader);
    for (int i = 0; i < a->ls->n; i++) {
        const hr_layer *l = &a->ls->l[i];
        bool channel = s->reg == HR_REG_CHANNEL;
        double out = channel && reader[i] >= 0 ? s->rate[reader[i]] : 1;
        cost += (double)l->n * (channel && l->tie >= 0 ? bound * bound : s->rate[i] * out);
    }
    free(reader);
    return s->reg == HR_REG_CHANNEL && bound == 0 ? 0 : cost / (double)a->ls->weights;
}

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* One row. Text from the file may hold anything but is one field. */
static void put_name(hr_buf *out, const char *arch, const char *reg, const char *id)
{
    char *name = hr_xasprintf("%s/%s/%s", arch, reg, id);
    for (char *c = name; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    hr_buf_printf(out, "%s", name);
    free(name);
}

static void audit_entry(const struct audit *a, const char *arch, enum hr_reg reg, const char *id,
                        const json_t *entry)
{
    hr_strategy s, t;
    hr_err err = HR_ERR_INIT, none = HR_ERR_INIT;
    bool first = ends_in(id, "_all");
    size_t rates = json_array_size(json_is_array(entry) ? entry : json_object_get(entry, "rates"));
    put_name(a->out, arch, hr_reg_names[reg], id);
    hr_buf_printf(a->out, "\t%zu\t", rates);
    if (hr_strategy_entry(&s, a->file, a->root, arch, reg, id, a->ls, first, &err)) {
        hr_buf_printf(a->out, "-\t-\t-\t-\t-\t-\t-\t%s\n", err.msg);
        return;
    }
    const char *order = "-";
    double published = published_cost(a, &s);
    double allowed = s.target > 0 ? hr_budget_target(a->m, a->ls, reg, s.target, first, a->measure) : 0;
    if (allowed > 0) {
        char *other = hr_xasprintf("%s" HR_TORCH_ORDER, id);
        int torch = 0; /* entries with names have no other order */
        if (!hr_strategy_entry(&t, a->file, a->root, arch, reg, other, a->ls, first, &none))
            torch = which_order(a, &s, &t, allowed);
        free(other);
        order = torch > 0 ? "torch" : torch < 0 ? "strategy" : "-";
        if (torch > 0) {
            hr_strategy swap = s;
            s = t;
            t = swap;
        }
        hr_strategy_release(&t);
    }
    hr_budget b = hr_budget_of(a->m, a->ls, &s);
    char *warning = NULL;
    const char *verdict = "no claim";
    if (s.target > 0 || hr_budget_get(&s.claimed, a->measure) > 0) {
        int rc = hr_strategy_verify(&s, a->m, a->ls, first, a->measure, 0, a->tolerance, &warning, &err);
        verdict = rc ? "exceeds" : warning ? "below" : "ok";
    }
    hr_buf_printf(a->out, "%s\t%g\t%.6g\t%.6g\t%.6g\t%.6g\t%.6g\t%s\n", order, s.target, allowed, published,
                  b.inout, b.masked, b.macs, verdict);
    free(warning);
    hr_strategy_release(&s);
}

static int reg_called(const char *name)
{
    for (int i = 0; hr_reg_names[i]; i++)
        if (strcmp(hr_reg_names[i], name) == 0)
            return i;
    return -1;
}

/* All entries of one architecture. */
static void audit_arch(const struct audit *file, const char *arch, const json_t *regs)
{
    hr_model *m = NULL;
    hr_err err = HR_ERR_INIT;
    const char *reg, *id;
    json_t *ids, *entry;
    bool known = hr_zoo_build(arch, NULL, &m, &err) == HR_OK;
    hr_layers ls = {0};
    if (known)
        ls = hr_layers_of(m);
    struct audit one = *file, *a = &one;
    one.m = m;
    one.ls = &ls;
    json_object_foreach ((json_t *)regs, reg, ids) {
        json_object_foreach (ids, id, entry) {
            int r = reg_called(reg);
            if (known && r >= 0) {
                audit_entry(a, arch, (enum hr_reg)r, id, entry);
                continue;
            }
            put_name(a->out, arch, reg, id);
            hr_buf_printf(a->out, "\t%zu\t-\t-\t-\t-\t-\t-\t-\t%s\n", json_array_size(entry),
                          known ? "is for neither weight nor channel pruning" : "no such architecture here");
        }
    }
    if (known)
        hr_layers_release(&ls);
    hr_model_free(m);
}

int hr_strategy_audit(const char *file, enum hr_measure measure, double tolerance, hr_buf *out, hr_err *err)
{
    json_t *root, *regs;
    const char *arch;
    int rc = hr_json_load(file, &root, err);
    if (rc)
        return rc;
    if (!json_is_object(root) || json_object_size(root) == 0) {
        json_decref(root);
        return hr_fail(err, HR_EFORMAT, "%s: holds no strategy {ARCH: {REG: {ID: rates}}}", file);
    }
    hr_buf_printf(out, "strategy\trates\torder\tclaim\tallowed\tpublished\tinout\tmasked\tmacs\tverdict\n");
    struct audit a = {.file = file, .root = root, .measure = measure, .tolerance = tolerance, .out = out};
    json_object_foreach (root, arch, regs) {
        audit_arch(&a, arch, regs);
    }
    json_decref(root);
    return HR_OK;
}
