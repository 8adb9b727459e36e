/* test/fuzz/strategy.c -- strategy files: for pruning (both regularities, by name and as the only entry), for
 * plots, and their histories. */
#include "fuzz.h"

#include "prune/prune.h"
#include "report/plot.h"
#include "report/report.h"

#include <stdlib.h>
#include <string.h>

static hr_model *net;
static hr_layers layers;

static bool prune(const char *spec, enum hr_reg reg, bool prune_first)
{
    hr_err err = HR_ERR_INIT;
    hr_strategy s;
    if (hr_strategy_make(&s, spec, reg, net, &layers, prune_first, HR_MEASURE_INOUT, &err))
        return false;
    for (int i = 0; i < layers.n; i++)
        must(s.rate[i] > 0 && s.rate[i] <= 1 && s.kept[i] >= 1 &&
             s.kept[i] <= hr_score_count(&layers.l[i], reg));
    for (int measure = 0; hr_measure_names[measure]; measure++) {
        char *warning = NULL;
        (void)!hr_strategy_verify(&s, net, &layers, prune_first, (enum hr_measure)measure, 0, 0.01, &warning,
                                  &err);
        free(warning);
    }
    json_t *j = hr_strategy_json(&s, net, &layers);
    json_decref(j);
    hr_model *copy = hr_model_copy(net);
    hr_model_set_strategy(copy, &layers, &s, true, HR_SCORE_L2);
    if (hr_model_check(copy, "pruned", &err))
        BUG("makes a bad network: %s", err.msg);
    hr_model_free(copy);
    hr_strategy_release(&s);
    return true;
}

static bool plot(const char *path, const hr_plot_opts *o)
{
    hr_err err = HR_ERR_INIT;
    hr_plot p;
    if (hr_plot_load(&p, &path, 1, o, &err))
        return false;
    hr_plot_csv(&p, fuzz_sink());
    hr_plot_tex(&p, true, fuzz_sink());
    hr_plot_svg(&p, true, fuzz_sink());
    hr_plot_release(&p);
    return true;
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    if (!net) {
        net = fuzz_net(1);
        layers = hr_layers_of(net);
    }
    const char *path = fuzz_file(0, data, n);
    bool accepted = false;
    for (int reg = 0; hr_reg_names[reg]; reg++) {
        char *spec = hr_xasprintf("%s:net/%s/01_0", path, hr_reg_names[reg]);
        accepted |= prune(path, (enum hr_reg)reg, n % 2);
        accepted |= prune(spec, (enum hr_reg)reg, n % 2);
        free(spec);
    }
    /* a network of the zoo is built each time, which takes longer than the rest */
    accepted |= plot(path, n % 4 ? &(hr_plot_opts){0} : &(hr_plot_opts){.arch = "resS", .first_too = true});
    (void)!hr_history_show(path, NULL, fuzz_sink(), &err);
    return accepted;
}

static void seed(const char *name, json_t *j)
{
    char *text = hr_json_text(j, 0);
    fuzz_seed(name, text, strlen(text));
    free(text);
    json_decref(j);
}

static json_t *rates(int n, double first)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_real(i ? 0.1 + 0.04 * i : first));
    return list;
}

void fuzz_seeds(void)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = fuzz_net(1);
    hr_layers ls = hr_layers_of(m);
    for (int reg = 0; hr_reg_names[reg]; reg++) {
        hr_strategy s;
        if (hr_strategy_make(&s, "erk:0.6", (enum hr_reg)reg, m, &ls, false, HR_MEASURE_MASKED, &err))
            hr_die("%s", err.msg);
        json_t *entry = hr_strategy_json(&s, m, &ls);
        json_object_set_new(
            entry, "history",
            json_pack("{s:s, s:{s:f}, s:[]}", "tool", "ddpg-search", "options", "target", 0.6, "inputs"));
        json_object_set_new(json_object_get(entry, "budget"), "target", json_real(0.6));
        hr_strategy_release(&s);
        seed(hr_reg_names[reg], json_pack("{s:{s:{s:o}}}", "net", hr_reg_names[reg], "01_0", entry));
    }
    seed("lists", json_pack("{s:{s:{s:o, s:o, s:o}, s:{s:o, s:o}}}", "net", "weight", "01_0",
                            rates(ls.n, 0.5), "01_1", rates(ls.n, 0.9), "erk:0.5", rates(ls.n, 1), "channel",
                            "01_0", rates(ls.channel_n, 1), "05_0_all", rates(ls.channel_n, 1)));
    hr_layers_release(&ls);
    hr_model_free(m);

    if (hr_zoo_build("resS", &(hr_zoo_opts){0}, &m, &err)) /* a plot knows this one's layers */
        hr_die("%s", err.msg);
    ls = hr_layers_of(m);
    seed("resS", json_pack("{s:{s:{s:o, s:o}}}", "resS", "weight", "01_0", rates(ls.n, 0.3), "01_uni",
                           rates(ls.n, 0.1)));
    hr_layers_release(&ls);
    hr_model_free(m);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed_)
{
    return fuzz_mutate_json(data, size, max, seed_, -1);
}
