/* lib/train/eval.c -- accuracy of a network, clean and under attack, and the record that says so.
 *
 * An attack is measured at test time as ALG 8.1 lists it: in [0,1] pixel space, with running statistics
 * (batch statistics on request), the noise of an image keyed by its place in the data file. White-box attacks
 * are approximate: they give an upper bound of the robust accuracy, and more steps or restarts lower it. */
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* First counter of HR_STREAM_EVAL: one number per kind of attack, whatever else is measured. */
enum { NOISE_PGD = 1, NOISE_CW = 2 };

static int parse_steps(const char *digits, int64_t *steps)
{
    return hr_parse_int(digits, steps) && *steps >= 1 && *steps <= 100000;
}

int hr_eval_parse(hr_eval_attack *list, int *n, const char *names, double eps, double step, int restarts,
                  enum hr_bn_mode bn, uint32_t seed, hr_err *err)
{
    *n = 0;
    for (const char *at = names, *end; *at; at = *end ? end + 1 : end) {
        end = at + strcspn(at, ",");
        hr_eval_attack a = {.restarts = restarts,
                            .eps = eps,
                            .step = step,
                            .opts = {.eps = (float)eps,
                                     .step = (float)step,
                                     .random_start = true,
                                     .bn = bn,
                                     .seed = seed,
                                     .stream = HR_STREAM_EVAL}};
        int64_t steps = 20;
        size_t len = (size_t)(end - at);
        if (len >= sizeof a.name || *n == HR_MAX_ATTACKS)
            return hr_fail(err, HR_EINVAL, "%s: at most %d attacks, each clean, fgsm, pgdK or cw", names,
                           HR_MAX_ATTACKS);
        memcpy(a.name, at, len);
        if (strcmp(a.name, "clean") == 0) {
            a.clean = true;
            a.restarts = 1;
        } else if (strcmp(a.name, "fgsm") == 0) {
            steps = 1;
            a.restarts = 1; /* nothing in it is random */
            a.step = eps;
            a.opts.step = (float)eps;
            a.opts.random_start = false;
        } else if (strncmp(a.name, "pgd", 3) == 0 && parse_steps(a.name + 3, &steps)) {
            a.opts.c0 = NOISE_PGD;
        } else if (strncmp(a.name, "cw", 2) == 0 && (a.name[2] == '\0' || parse_steps(a.name + 2, &steps))) {
            a.opts.c0 = NOISE_CW;
            a.opts.loss = HR_LOSS_MARGIN;
        } else {
            return hr_fail(err, HR_EINVAL, "'%s' is no attack; known are clean, fgsm, pgdK (pgd20) and cw",
                           a.name);
        }
        a.opts.steps = (int)steps;
        list[(*n)++] = a;
    }
    return *n ? HR_OK : hr_fail(err, HR_EINVAL, "the list of attacks is empty");
}

void hr_eval_batch(hr_exec *e, const hr_eval_attack *a, int restart, const float *x, const int32_t *y,
                   const uint32_t *index, int n, int32_t *pred)
{
    if (a->clean) {
        memcpy(hr_exec_input(e), x, (size_t)n * hr_exec_input_len(e) * sizeof *x);
    } else {
        hr_attack_opts o = a->opts;
        o.c1 = (uint32_t)restart;
        hr_attack_pgd(e, &o, x, y, index, n);
    }
    if (a->opts.bn == HR_BN_FOLDED)
        hr_exec_infer(e, n);
    else
        hr_exec_forward(e, 0, n, HR_BN_BATCH);
    hr_argmax(hr_exec_logits(e), 0, n, hr_exec_classes(e), pred);
}

uint32_t hr_eval_batch_end(uint32_t at, uint32_t n, int batch, enum hr_bn_mode bn)
{
    uint32_t left = n - at, b = (uint32_t)batch;
    if (left <= b)
        return n;
    return bn != HR_BN_FOLDED && left - b == 1 ? at + b - 1 : at + b;
}

static double balanced(const hr_dataset *ds, const uint8_t *correct)
{
    uint32_t *seen = hr_xcalloc((size_t)ds->classes, sizeof *seen), *hit = hr_xcalloc((size_t)ds->classes, 4);
    for (uint32_t i = 0; i < ds->n; i++) {
        seen[ds->labels[i]]++;
        hit[ds->labels[i]] += correct[i];
    }
    double sum = 0.0;
    int present = 0;
    for (int c = 0; c < ds->classes; c++)
        if (seen[c]) {
            sum += (double)hit[c] / seen[c];
            present++;
        }
    free(seen);
    free(hit);
    return present ? 100.0 * sum / present : 0.0;
}

hr_eval_result hr_eval_run(hr_exec *e, int batch, const hr_dataset *ds, const hr_eval_attack *a,
                           void (*tick)(void *ctx, uint32_t done, double accuracy), void *ctx)
{
    size_t b = (size_t)batch, len = hr_exec_input_len(e);
    float *x = hr_xaligned(b * len, sizeof *x);
    int32_t *y = hr_xmalloc(b * sizeof *y), *pred = hr_xmalloc(b * sizeof *pred);
    uint32_t *rows = hr_xmalloc(b * sizeof *rows), *index = hr_xmalloc(b * sizeof *index);
    double *loss = hr_xcalloc(ds->n, sizeof *loss);
    uint8_t *correct = hr_xcalloc(ds->n, 1);
    hr_eval_result r = {.images = ds->n};

    for (uint32_t at = 0, end; at < ds->n; at = end) {
        end = hr_eval_batch_end(at, ds->n, batch, a->opts.bn);
        int n = (int)(end - at);
        for (int i = 0; i < n; i++) {
            rows[i] = at + (uint32_t)i;
            index[i] = ds->index[rows[i]];
            correct[rows[i]] = 1;
        }
        hr_batch_fill(ds, rows, n, x, y);
        for (int k = 0; k < a->restarts; k++) {
            hr_eval_batch(e, a, k, x, y, index, n, pred);
            for (int i = 0; i < n; i++)
                correct[at + (uint32_t)i] &= pred[i] == y[i];
            if (k == 0)
                hr_loss_ce(hr_exec_logits(e), y, 0, n, hr_exec_classes(e), 1.0f, loss + at, NULL);
        }
        for (int i = 0; i < n; i++)
            r.correct += correct[at + (uint32_t)i];
        if (tick)
            tick(ctx, end, 100.0 * r.correct / end);
    }
    r.accuracy = ds->n ? 100.0 * r.correct / ds->n : 0.0;
    r.balanced = balanced(ds, correct);
    r.loss = ds->n ? hr_tree_sum(loss, ds->n) / ds->n : NAN;
    free(x);
    free(y);
    free(pred);
    free(rows);
    free(index);
    free(loss);
    free(correct);
    return r;
}

/* ---- the record ---------------------------------------------------------------------------------------- */

/* The strategy that the model's active masks carry out; layers without one count as dense. */
static hr_strategy carried_out(const hr_model *m, const hr_layers *ls)
{
    hr_strategy s = {.n = ls->n, .reg = HR_REG_WEIGHT};
    s.rate = hr_xcalloc((size_t)ls->n, sizeof *s.rate);
    s.kept = hr_xcalloc((size_t)ls->n, sizeof *s.kept);
    for (int i = 0; i < ls->n; i++)
        if (m->prune[ls->l[i].node].active)
            s.reg = m->prune[ls->l[i].node].reg;
    for (int i = 0; i < ls->n; i++) {
        const hr_prune *p = &m->prune[ls->l[i].node];
        bool on = p->set && p->active;
        s.kept[i] = on ? p->kept : hr_score_count(&ls->l[i], s.reg);
        s.rate[i] = (double)s.kept[i] / (double)hr_score_count(&ls->l[i], s.reg);
    }
    return s;
}

static bool is_pruned(const hr_model *m, const hr_layers *ls)
{
    for (int i = 0; i < ls->n; i++)
        if (m->prune[ls->l[i].node].set && m->prune[ls->l[i].node].active)
            return true;
    return false;
}

/* A word about the strategy from meta.strategy (maskapply: id, label, reg, rate), or fallback. */
static const char *told(const hr_model *m, const char *key, const char *fallback)
{
    const char *s = json_string_value(json_object_get(json_object_get(m->meta, "strategy"), key));
    return s ? s : fallback;
}

static json_t *pruning_json(const hr_model *m, const hr_layers *ls)
{
    hr_strategy s = carried_out(m, ls);
    hr_budget b = hr_budget_of(m, ls, &s);
    double density = hr_model_density(m, ls);
    const json_t *rate = json_object_get(json_object_get(m->meta, "strategy"), "rate");
    json_t *j = json_pack("{s:s, s:s, s:f, s:f, s:{s:f, s:f, s:f}}", "reg", hr_reg_names[s.reg], "strategy",
                          told(m, "id", "unnamed"), "rate", rate ? json_number_value(rate) : density,
                          "density", density, "budget", "inout", b.inout, "masked", b.masked, "macs", b.macs);
    hr_strategy_release(&s);
    return j;
}

static json_t *attack_json(const hr_eval_attack *a, const hr_eval_result *r, int batch)
{
    json_t *j = json_pack("{s:s}", "name", a->name);
    if (!a->clean) {
        json_object_set_new(j, "loss", json_string(a->opts.loss == HR_LOSS_CE ? "ce" : "margin"));
        json_object_set_new(j, "eps", json_real(a->eps));
        json_object_set_new(j, "step", json_real(a->step));
        json_object_set_new(j, "steps", json_integer(a->opts.steps));
        json_object_set_new(j, "restarts", json_integer(a->restarts));
    }
    if (a->opts.bn != HR_BN_FOLDED) { /* the outcome depends on the batches */
        json_object_set_new(j, "bn", json_string(hr_bn_mode_names[a->opts.bn]));
        json_object_set_new(j, "batch", json_integer(batch));
    }
    json_object_set_new(j, "images", json_integer(r->images));
    json_object_set_new(j, "correct", json_integer(r->correct));
    json_object_set_new(j, "accuracy", json_real(r->accuracy));
    json_object_set_new(j, "balanced", json_real(r->balanced));
    return j;
}

json_t *hr_eval_record(const hr_model *m, const char *model_digest, const char *label, const char *data_name,
                       uint32_t images, const char *data_digest, const hr_eval_attack *attacks,
                       const hr_eval_result *results, int n, int batch)
{
    hr_layers ls = hr_layers_of(m);
    bool pruned = is_pruned(m, &ls);
    if (!label)
        label = pruned ? told(m, "label", told(m, "id", "unnamed")) : "dense";

    json_t *j = json_pack("{s:s, s:i}", "record", "eval", "version", 1);
    json_object_set_new(j, "model",
                        json_pack("{s:s, s:s, s:I, s:s}", "arch", m->arch ? m->arch : "", "digest",
                                  model_digest, "params", (json_int_t)ls.params, "label", label));
    json_object_set_new(j, "pruning", pruned ? pruning_json(m, &ls) : json_null());
    json_object_set_new(
        j, "data",
        json_pack("{s:s, s:I, s:s}", "name", data_name, "images", (json_int_t)images, "digest", data_digest));
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, attack_json(&attacks[i], &results[i], batch));
    json_object_set_new(j, "attacks", list);
    json_t *history = hr_history_new();
    hr_history_input(history, "model", model_digest, m->history);
    hr_history_input(history, "data", data_digest, NULL);
    json_object_set_new(j, "history", history);
    hr_layers_release(&ls);
    return j;
}
