/* lib/prune/table.c -- a strategy as a table for people and scripts: what each layer keeps. */
#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct row {
    const char *name;
    int64_t of, weights, weights_kept, macs, macs_kept;
};

static struct row row_of(const hr_strategy *s, const hr_layers *ls, int i)
{
    const hr_layer *l = &ls->l[i];
    struct row r = {l->name, hr_score_count(l, s->reg), l->n, 0, l->macs, 0};
    r.weights_kept = l->n / r.of * s->kept[i];
    r.macs_kept = r.weights_kept * l->hout * l->wout;
    return r;
}

static int save_json(const hr_strategy *s, const hr_model *m, const hr_layers *ls, const char *path,
                     hr_err *err)
{
    hr_budget b = hr_budget_of(m, ls, s);
    json_t *layers = json_array();
    for (int i = 0; i < ls->n; i++) {
        struct row r = row_of(s, ls, i);
        json_array_append_new(layers, json_pack("{s:s, s:f, s:I, s:I, s:I, s:I, s:I, s:I}", "name", r.name,
                                                "rate", s->rate[i], "kept", (json_int_t)s->kept[i], "of",
                                                (json_int_t)r.of, "weights", (json_int_t)r.weights,
                                                "weights_kept", (json_int_t)r.weights_kept, "macs",
                                                (json_int_t)r.macs, "macs_kept", (json_int_t)r.macs_kept));
    }
    json_t *j = json_pack("{s:s, s:s, s:s, s:{s:f, s:f, s:f}, s:o}", "arch", m->arch, "strategy", s->name,
                          "reg", hr_reg_names[s->reg], "budget", "inout", b.inout, "masked", b.masked, "macs",
                          b.macs, "layers", layers);
    int rc = hr_json_save(j, path, 2, err);
    json_decref(j);
    return rc;
}

int hr_strategy_report(const hr_strategy *s, const hr_model *m, const hr_layers *ls, const char *path,
                       hr_err *err)
{
    size_t len = strlen(path);
    if (len > 5 && strcmp(path + len - 5, ".json") == 0)
        return save_json(s, m, ls, path, err);

    hr_out *out;
    int rc = hr_out_open(&out, path, 0, err);
    if (rc)
        return rc;
    FILE *fp = hr_out_file(out);
    fputs("layer\trate\tkept\tof\tweights\tweights_kept\tmacs\tmacs_kept\n", fp);
    for (int i = 0; i < ls->n; i++) {
        struct row r = row_of(s, ls, i);
        fprintf(fp, "%s\t%.9g\t%lld\t%lld\t%lld\t%lld\t%lld\t%lld\n", r.name, s->rate[i],
                (long long)s->kept[i], (long long)r.of, (long long)r.weights, (long long)r.weights_kept,
                (long long)r.macs, (long long)r.macs_kept);
    }
    return hr_out_commit(out, err);
}
