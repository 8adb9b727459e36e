/* lib/search/products.c -- what a search leaves behind. */
#include "search/search.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_NUMBER = 26, MOST_FIELDS = 256 }; /* characters: of a rate with its comma; of all before them */

void hr_csv_header(hr_buf *b, bool best)
{
    hr_buf_printf(b, "Iter\t%s\tEstimate_Reduction\tBng_Acc\tAdv_Acc\torg_ops\tnew_ops\t%s\n",
                  best ? "Best_reward" : "Iter_reward", best ? "best_strategy" : "iter_strategy");
}

/* The shortest decimal that reads back as v, as Python prints it. */
static void print_rate(hr_buf *b, double v)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    hr_buf_printf(b, "%s%s", text, strpbrk(text, ".e") ? "" : ".0");
}

void hr_csv_row(hr_buf *b, const hr_episode *e, int nd, bool best)
{
    const double *rate = best ? e->best_rate : e->rate;
    hr_buf_printf(b, "%d\t%f\t%f\t%f\t%f\t%f\t%f\t", e->number, best ? e->best_reward : e->reward,
                  e->cost / e->dense_cost, e->clean, e->robust, e->dense_cost, e->cost);
    if (!rate)
        hr_buf_printf(b, "None");
    for (int d = 0; d < nd && rate; d++) {
        hr_buf_printf(b, d ? ", " : "[");
        print_rate(b, rate[d]);
    }
    hr_buf_printf(b, rate ? "]\n" : "\n");
}

int64_t hr_csv_most(int64_t rows, int nd)
{
    return (rows + 1) * (MOST_FIELDS + (int64_t)nd * MOST_NUMBER);
}

json_t *hr_search_json(const hr_wall *w, const hr_search_result *r, const char *id, json_t *history)
{
    const hr_space *s = w->s;
    json_t *layers = json_array(), *rates = json_array(), *kept = json_array(), *budget = json_object();
    for (int d = 0; d < s->nd; d++) {
        json_array_append_new(layers, json_string(s->l[s->decision[d]].name));
        json_array_append_new(rates, json_real(r->rate[d]));
        json_array_append_new(kept, json_integer(r->kept[d]));
    }
    json_object_set_new(budget, "target", json_real(w->rate));
    for (int m = 0; hr_cost_names[m]; m++)
        json_object_set_new(budget, hr_cost_names[m],
                            json_real(hr_space_cost(s, (enum hr_cost_kind)m, r->rate) /
                                      hr_space_total(s, (enum hr_cost_kind)m)));
    json_t *entry = json_pack("{s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:i}", "layers", layers, "rates", rates,
                              "kept", kept, "budget", budget, "reward", r->reward, "clean", r->clean,
                              "robust", r->robust, "episode", r->episode);
    json_object_set_new(entry, "history", history);
    return json_pack("{s:{s:{s:o}}}", s->arch, s->channel ? "channel" : "weight", id, entry);
}
