/* test/fuzz/space.c -- layer tables: for the search, whose walls are tried out on them, and for plots. */
#include "fuzz.h"

#include "report/plot.h"
#include "search/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void episode(const hr_space *s, bool reference, enum hr_action action, enum hr_cost_kind measure,
                    double u)
{
    hr_err err = HR_ERR_INIT;
    hr_wall w;
    hr_state st;
    if (hr_wall_init(&w, s, reference, action, measure, 0.3, 0.02, 0.9, &err) == HR_OK) {
        hr_state_init(&st, s, reference);
        hr_wall_reset(&w);
        while (w.decided < s->nd) {
            float obs[HR_STATE];
            hr_state_row(&st, &w, w.decided, obs);
            for (int i = 0; i < HR_STATE; i++)
                must(isfinite(obs[i]));
            u = fmod(3.7 * u + 0.13, 1);
            hr_wall_step(&w, u);
        }
        hr_wall_finish(&w);
        for (int d = 0; d < s->nd; d++)
            must(w.kept[d] >= 1 && w.kept[d] <= s->count[d]);
        must(reference || hr_wall_cost(&w) <= w.budget * (1 + 1e-9));
        hr_state_release(&st);
    }
    hr_wall_release(&w);
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    json_t *table;
    bool accepted = false;
    const char *path = fuzz_file(0, data, n);
    if (hr_json_load(path, &table, &err) == HR_OK) {
        for (int how = 0; how < 4; how++) {
            hr_space s;
            if (hr_space_parse(&s, table, "table", how & 1, how & 2, &err) == HR_OK) {
                accepted = true;
                episode(&s, true, HR_ACTION_LINEAR, HR_COST_INOUT, 0.3);
                episode(&s, false, HR_ACTION_LINEAR, HR_COST_MACS, 0.6);
                episode(&s, false, HR_ACTION_LOG, HR_COST_INOUT, (double)(n % 10) / 10);
            }
            hr_space_release(&s);
        }
        json_decref(table);
    }
    static const char strategy[] = "{\"net\":{\"weight\":{\"01_0\":[0.1,0.2,0.3,0.4,0.5,0.6]},"
                                   "\"channel\":{\"01_0\":[1,0.2,0.3,0.4,0.5]}}}";
    const char *file = fuzz_file(1, strategy, sizeof strategy - 1);
    hr_plot p;
    if (hr_plot_load(&p, &file, 1, &(hr_plot_opts){.layers = path}, &err) == HR_OK) {
        hr_plot_csv(&p, fuzz_sink());
        hr_plot_svg(&p, false, fuzz_sink());
        hr_plot_release(&p);
    }
    return accepted;
}

static void seed(const char *name, hr_model *m)
{
    json_t *j = hr_layers_json(m);
    char *text = hr_json_text(j, 0);
    fuzz_seed(name, text, strlen(text));
    free(text);
    json_decref(j);
    hr_model_free(m);
}

void fuzz_seeds(void)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    seed("net", fuzz_net(1));
    if (hr_zoo_build("resS", &(hr_zoo_opts){0}, &m, &err))
        hr_die("%s", err.msg);
    seed("resS", m);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed_)
{
    return fuzz_mutate_json(data, size, max, seed_, -1);
}
