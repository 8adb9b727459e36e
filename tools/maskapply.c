/* tools/maskapply.c -- prune a network by a strategy: per-layer rates, masks, zeroed weights. */
#include "model/model.h"
#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>

static const char *spec, *label, *output = "-", *report, *strategy_out;
static int reg = HR_REG_WEIGHT, score = HR_SCORE_L1, measure = HR_MEASURE_INOUT;
static bool plan, prune_first, audit;
static double tolerance = 0.01, target = NAN;

enum { OVER_REFUSE, OVER_WARN };
static const char *const over_names[] = {"refuse", "warn", NULL};
static int over = OVER_REFUSE;

static const hr_opt options[] = {
    {"strategy", 's', HR_OPT_STRING, &spec, 0, "SPEC",
     "uniform:K, uniform+:K, erk:K, lamp:K, global:K or FILE[:ARCH/REG/ID[@torch]]", 0, 0, NULL},
    {"reg", 'r', HR_OPT_CHOICE, &reg, HR_OPT_RESULT, "REG", "what is kept or dropped", 0, 0, hr_reg_names},
    {"plan", 0, HR_OPT_FLAG, &plan, HR_OPT_RESULT, NULL, "write the rates only: no masks, weights stay dense",
     0, 0, NULL},
    {"score", 0, HR_OPT_CHOICE, &score, HR_OPT_RESULT, "NORM", "norm of a channel, its score", 0, 0,
     hr_score_names},
    {"prune-first", 0, HR_OPT_FLAG, &prune_first, HR_OPT_RESULT, NULL,
     "channel: image channels may be pruned too", 0, 0, NULL},
    {"budget-measure", 0, HR_OPT_CHOICE, &measure, HR_OPT_RESULT, "M", "measure of the budget", 0, 0,
     hr_measure_names},
    {"budget-tolerance", 0, HR_OPT_REAL, &tolerance, 0, "T",
     "fail when the budget is exceeded by this fraction", 0, 1e9, NULL},
    {"over-budget", 0, HR_OPT_CHOICE, &over, 0, "WHAT", "what becomes of one that costs more than it claims",
     0, 0, over_names},
    {"target", 0, HR_OPT_REAL, &target, HR_OPT_RESULT, "K",
     "uniform rate whose budget counts (what SPEC claims)", 1e-9, 1, NULL},
    {"audit", 0, HR_OPT_FLAG, &audit, 0, NULL,
     "hold each entry of the strategy file against its claimed budget", 0, 0, NULL},
    {"label", 0, HR_OPT_STRING, &label, HR_OPT_RESULT, "NAME", "name in tables (the strategy's ID)", 0, 0,
     NULL},
    {"output", 'o', HR_OPT_STRING, &output, 0, "OUT", "pruned network", 0, 0, NULL},
    {"report", 0, HR_OPT_STRING, &report, 0, "FILE", "per-layer table: .json, else tab-separated", 0, 0,
     NULL},
    {"strategy-out", 0, HR_OPT_STRING, &strategy_out, 0, "FILE", "the strategy as a strategy file", 0, 0,
     NULL},
    {0},
};

static const hr_tool tool = {
    .name = "maskapply",
    .synopsis = "{-s SPEC [OPTION]... NET | --audit FILE}",
    .summary =
        "Prune the network NET (a .nn file, '-' is standard input) by a strategy: keep-rates per layer,\n"
        "masks made from the weights, and zeros where the masks say so.\n",
    .example = "maskapply -s uniform:0.1 -r channel net.nn | adveval -d test.tfrecord -",
    .opts = options,
    .min_args = 1,
    .max_args = 1,
};

static double rate_asked(const hr_strategy *s)
{
    return isfinite(target) ? target : s->target;
}

/* Product records: options and digests, no paths. */
static json_t *history_of(const hr_model *m, const char *digest, const hr_strategy *s)
{
    json_t *h = hr_history_new();
    json_object_set_new(json_object_get(h, "options"), "strategy", json_string(s->name));
    hr_history_input(h, "network", digest, m->history);
    if (*s->digest)
        hr_history_input(h, "strategy", s->digest, s->history);
    return h;
}

static json_t *strategy_meta(const hr_strategy *s, const hr_budget *b)
{
    double rate = rate_asked(s) > 0 ? rate_asked(s) : hr_budget_get(b, (enum hr_measure)measure);
    return json_pack("{s:s, s:s, s:s, s:f}", "id", s->id, "label", label ? label : s->id, "reg",
                     hr_reg_names[reg], "rate", rate);
}

static int save_strategy(const hr_strategy *s, const hr_model *m, const hr_layers *ls, hr_err *err)
{
    json_t *entry = hr_strategy_json(s, m, ls);
    json_object_set(entry, "history", m->history);
    json_t *j = json_pack("{s:{s:{s:o}}}", m->arch, hr_reg_names[reg], label ? label : s->id, entry);
    int rc = hr_json_save(j, strategy_out, 2, err);
    json_decref(j);
    return rc;
}

static void tell(const hr_strategy *s, const hr_model *m, const hr_layers *ls, const hr_budget *b)
{
    for (int i = 0; hr_measure_names[i]; i++) {
        double cost = hr_budget_get(b, (enum hr_measure)i);
        if (rate_asked(s) > 0)
            hr_note("%s %s %s asked %.6g kept %.6g", s->name, hr_reg_names[reg], hr_measure_names[i],
                    hr_budget_target(m, ls, s->reg, rate_asked(s), prune_first, (enum hr_measure)i), cost);
        else
            hr_note("%s %s %s kept %.6g", s->name, hr_reg_names[reg], hr_measure_names[i], cost);
    }
}

/* The audit of a strategy file, for people and scripts. */
static int audit_file(const char *file, hr_err *err)
{
    hr_buf table = {0};
    hr_out *out;
    int rc = hr_strategy_audit(file, (enum hr_measure)measure, tolerance, &table, err);
    if (!rc)
        rc = hr_out_open(&out, output, 0, err);
    if (!rc) {
        fwrite(table.data, 1, table.len, hr_out_file(out));
        rc = hr_out_commit(out, err);
    }
    hr_buf_release(&table);
    return rc;
}

int main(int argc, char **argv)
{
    int first = hr_tool_start(&tool, argc, argv);
    hr_err err = HR_ERR_INIT;
    hr_model *m = NULL;
    hr_strategy s = {0};
    char digest[65], *warning = NULL;

    if (audit && spec)
        hr_usage("--audit takes a strategy file and no -s SPEC");
    if (audit) {
        if (audit_file(argv[first], &err))
            hr_die("%s", err.msg);
        return hr_tool_finish();
    }
    if (!spec)
        hr_usage("a strategy is needed: -s SPEC");
    if (hr_spec_check(spec, &err))
        hr_usage("%s", err.msg);
    if (hr_nn_load(argv[first], &m, digest, &err))
        hr_die("%s", err.msg);
    hr_layers ls = hr_layers_of(m);
    if (hr_strategy_make(&s, spec, (enum hr_reg)reg, m, &ls, prune_first, (enum hr_measure)measure, &err))
        hr_die("%s", err.msg);
    if (hr_strategy_verify(&s, m, &ls, prune_first, (enum hr_measure)measure, isfinite(target) ? target : 0,
                           tolerance, &warning, &err)) {
        if (over == OVER_REFUSE || isfinite(target)) /* who states a target means it */
            hr_die("%s", err.msg);
        hr_warn("%s", err.msg);
    }
    if (warning)
        hr_warn("%s", warning);

    hr_budget b = hr_budget_of(m, &ls, &s);
    hr_model_set_strategy(m, &ls, &s, !plan, (enum hr_score)score);
    hr_model_zero_pruned(m, &ls);
    if (!m->meta)
        m->meta = json_object();
    json_object_set_new(m->meta, "strategy", strategy_meta(&s, &b));
    json_t *history = history_of(m, digest, &s);
    json_decref(m->history);
    m->history = history;

    hr_outs_hold();
    if ((report && hr_strategy_report(&s, m, &ls, report, &err)) ||
        (strategy_out && save_strategy(&s, m, &ls, &err)) || hr_nn_save(m, output, NULL, &err) ||
        hr_outs_publish(&err))
        hr_die("%s", err.msg);
    tell(&s, m, &ls, &b);

    free(warning);
    hr_strategy_release(&s);
    hr_layers_release(&ls);
    hr_model_free(m);
    return hr_tool_finish();
}
