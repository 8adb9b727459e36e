/* lib/model/describe.c -- a model as tables for people and for other programs. */
#include "model/model.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- aligned columns --------------------------------------------------------------------------------------
 */

enum { MAX_COLUMNS = 24 };

/* Rows of cells. As TSV the cells are joined by tabs; as text each column is as wide as its widest cell,
 * names to the left and numbers to the right. */
struct table {
    int columns;
    bool left[MAX_COLUMNS]; /* aligned to the left */
    char **cells;
    size_t n;
};

static void cell(struct table *t, const char *fmt, ...) HR_PRINTF(2, 3);
static void cell(struct table *t, const char *fmt, ...)
{
    va_list ap;
    char text[512];
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    t->cells = hr_xrealloc(t->cells, (t->n + 1) * sizeof *t->cells);
    t->cells[t->n++] = hr_xstrdup(text);
}

/* The first row: names of the columns, those of left-aligned ones with a '<' in front. */
static void head(struct table *t, const char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        t->left[i] = names[i][0] == '<';
        cell(t, "%s", names[i] + t->left[i]);
    }
    t->columns = n;
}

static void print(struct table *t, bool tsv, hr_buf *out)
{
    int width[MAX_COLUMNS] = {0};
    for (size_t i = 0; i < t->n; i++) {
        int *w = &width[i % (size_t)t->columns], len = (int)strlen(t->cells[i]);
        *w = len > *w ? len : *w;
    }
    for (size_t i = 0; i < t->n; i++) {
        int c = (int)(i % (size_t)t->columns);
        bool last = c == t->columns - 1;
        if (tsv)
            hr_buf_printf(out, "%s%s", t->cells[i], last ? "\n" : "\t");
        else if (t->left[c])
            hr_buf_printf(out, "%-*s%s", last ? 0 : width[c], t->cells[i], last ? "\n" : "  ");
        else
            hr_buf_printf(out, "%*s%s", width[c], t->cells[i], last ? "\n" : "  ");
        free(t->cells[i]);
    }
    free(t->cells);
}

/* ---- layers
 * ------------------------------------------------------------------------------------------------ */

static void prune_cells(struct table *t, const hr_prune *p)
{
    if (!p->set) {
        for (int i = 0; i < 4; i++)
            cell(t, "-");
        return;
    }
    cell(t, "%s", hr_reg_names[p->reg]);
    cell(t, "%.6g", p->rate);
    cell(t, "%lld", (long long)p->kept);
    cell(t, "%s", p->active ? "active" : "planned");
}

static bool any_pruned(const hr_model *m)
{
    for (int i = 0; i < m->nnodes; i++)
        if (m->prune[i].set)
            return true;
    return false;
}

static void layers_tsv(const hr_model *m, const hr_layers *ls, hr_buf *out)
{
    static const char *const names[] = {
        "name",    "op",   "in",   "out",          "kernel_h",      "kernel_w",
        "stride",  "pad",  "hin",  "win",          "hout",          "wout",
        "weights", "macs", "tie",  "weight_index", "channel_index", "torch_index",
        "reg",     "rate", "kept", "state",        "kept_weights",  "kept_macs"};
    struct table t = {0};
    head(&t, names, HR_COUNT(names));
    for (int i = 0; i < ls->n; i++) {
        const hr_layer *l = &ls->l[i];
        cell(&t, "%s", l->name);
        cell(&t, "%s", l->linear ? "linear" : "conv2d");
        const int numbers[] = {l->in,  l->out, l->kh,  l->kw,   l->stride,
                               l->pad, l->hin, l->win, l->hout, l->wout};
        for (size_t j = 0; j < HR_COUNT(numbers); j++)
            cell(&t, "%d", numbers[j]);
        cell(&t, "%lld", (long long)l->n);
        cell(&t, "%lld", (long long)l->macs);
        cell(&t, "%s", l->tie >= 0 ? ls->l[l->tie].name : "-");
        cell(&t, "%d", i);
        cell(&t, "%d", l->channel_index);
        cell(&t, "%d", l->torch_index);
        prune_cells(&t, &m->prune[l->node]);
        cell(&t, "%lld", (long long)hr_layer_kept(m, l));
        cell(&t, "%lld", (long long)(hr_layer_kept(m, l) * (l->macs / l->n)));
    }
    print(&t, true, out);
}

static void numbers(hr_buf *out, const char *what, const double *v, int n)
{
    hr_buf_printf(out, "%s", what);
    for (int i = 0; i < n; i++)
        hr_buf_printf(out, "%s%g", i ? "," : " ", v[i]);
}

static void layers_text(const hr_model *m, const hr_layers *ls, hr_buf *out)
{
    static const char *const names[] = {"W",      "C",      "T",      "<layer",  "in",   "out",
                                        "kernel", "stride", "output", "weights", "MACs", "<reg",
                                        "rate",   "kept",   "<state", "left"};
    bool pruned = any_pruned(m);
    const hr_node *in = &m->nodes[0];
    hr_buf_printf(out, "%s: input %dx%dx%d, %d classes", m->arch, in->c, in->h, in->w, m->classes);
    const hr_node *normalize = hr_normalize_node(m);
    if (normalize) {
        numbers(out, ", normalised by mean", normalize->mean, normalize->c);
        numbers(out, " and std", normalize->std, normalize->c);
    }
    hr_buf_printf(out, "\n");
    struct table t = {0};
    double kept = 0;
    int64_t left_weights = 0, left_macs = 0;
    head(&t, names, pruned ? HR_COUNT(names) : HR_COUNT(names) - 5);
    for (int i = 0; i < ls->n; i++) {
        const hr_layer *l = &ls->l[i];
        const hr_prune *p = &m->prune[l->node];
        cell(&t, "%d", i);
        cell(&t, l->tie >= 0 ? "=%d" : "%d", l->channel_index);
        cell(&t, "%d", l->torch_index);
        cell(&t, "%s", l->name);
        cell(&t, "%d", l->in);
        cell(&t, "%d", l->out);
        cell(&t, "%dx%d", l->kh, l->kw);
        cell(&t, "%d", l->stride);
        cell(&t, "%dx%d", l->hout, l->wout);
        cell(&t, "%lld", (long long)l->n);
        cell(&t, "%lld", (long long)l->macs);
        if (pruned) {
            prune_cells(&t, p);
            cell(&t, "%lld", (long long)hr_layer_kept(m, l));
        }
        left_weights += hr_layer_kept(m, l);
        left_macs += hr_layer_kept(m, l) * (l->macs / l->n);
        double units = p->reg == HR_REG_CHANNEL ? l->in : (double)l->n;
        kept += p->set ? (double)p->kept / units * (double)l->n : (double)l->n;
    }
    print(&t, false, out);
    hr_buf_printf(out,
                  "%d layers (%d channel decisions), %lld weights, %lld parameters, %lld MACs per image\n",
                  ls->n, ls->channel_n, (long long)ls->weights, (long long)ls->params, (long long)ls->macs);
    if (pruned)
        hr_buf_printf(out, "%.0f weights kept, %.6g of all\n", kept, kept / (double)ls->weights);
    if (left_weights < ls->weights)
        hr_buf_printf(out, "the masks leave %lld weights and %lld MACs per image\n", (long long)left_weights,
                      (long long)left_macs);
    hr_buf_printf(out, "W, C: entry of a weight or channel strategy, =C that of the layer it is tied to; T: "
                       "torch's order\n");
}

void hr_layers_table(const hr_model *m, bool tsv, hr_buf *out)
{
    hr_layers ls = hr_layers_of(m);
    if (tsv)
        layers_tsv(m, &ls, out);
    else
        layers_text(m, &ls, out);
    hr_layers_release(&ls);
}

/* ---- tensors
 * ----------------------------------------------------------------------------------------------- */

static void tensor_digest(const hr_tensor *t, char hex[65])
{
    hr_sha256 *h = hr_sha256_new();
    hr_sha256_add(h, t->data, (size_t)hr_tensor_count(t) * hr_dtype_size(t->dtype));
    hr_sha256_end(h, hex);
}

/* "64x3x3x3", or "-" for a scalar, in a buffer of at least 200 bytes */
static const char *shape_text(const hr_tensor *x, char *text, size_t size)
{
    size_t n = 0;
    snprintf(text, size, "-");
    for (int d = 0; d < x->ndim; d++)
        n += (size_t)snprintf(text + n, size - n, "%s%lld", d ? "x" : "", (long long)x->shape[d]);
    return text;
}

void hr_tensors_table(const hr_model *m, bool tsv, hr_buf *out)
{
    static const char *const names[] = {"<name", "<dtype", "<shape", "<sha256"};
    struct table t = {0};
    char hex[65];
    head(&t, names, HR_COUNT(names));
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *x = &m->tensors[i];
        char shape[200];
        tensor_digest(x, hex);
        cell(&t, "%s", x->name);
        cell(&t, "%s", hr_dtype_names[x->dtype]);
        cell(&t, "%s", shape_text(x, shape, sizeof shape));
        cell(&t, "%s", hex);
    }
    print(&t, tsv, out);
}

void hr_stats_table(const hr_model *m, bool tsv, hr_buf *out)
{
    static const char *const names[] = {"<name",      "<dtype", "<shape", "values", "zeros",
                                        "not_finite", "min",    "max",    "mean",   "std"};
    struct table t = {0};
    char shape[200];
    head(&t, names, HR_COUNT(names));
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *x = &m->tensors[i];
        hr_stats s = hr_stats_of(x);
        cell(&t, "%s", x->name);
        cell(&t, "%s", hr_dtype_names[x->dtype]);
        cell(&t, "%s", shape_text(x, shape, sizeof shape));
        cell(&t, "%lld", (long long)s.n);
        cell(&t, "%lld", (long long)s.zeros);
        cell(&t, "%lld", (long long)s.bad);
        const double numbers[] = {s.min, s.max, s.mean, s.std};
        for (size_t k = 0; k < HR_COUNT(numbers); k++)
            cell(&t, "%.6g", numbers[k]);
    }
    print(&t, tsv, out);
}

json_t *hr_tensors_json(const hr_model *m)
{
    json_t *list = json_array();
    char hex[65];
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *x = &m->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < x->ndim; d++)
            json_array_append_new(shape, json_integer(x->shape[d]));
        tensor_digest(x, hex);
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:s}", "name", x->name, "dtype",
                                              hr_dtype_names[x->dtype], "shape", shape, "sha256", hex));
    }
    return json_pack("{s:s, s:o}", "arch", m->arch, "tensors", list);
}
