/* lib/train/eval.c -- accuracy of a network, clean and under attack, and the record that says so.
 *
 * An attack is measured at test time as ALG 8.1 lists it: in [0,1] pixel space, with running statistics
 * (batch statistics on request), the noise of an image keyed by its place in the data file. White-box attacks
 * are approximate: they give an upper bound of the robust accuracy, and more steps or restarts lower it. */
#include "train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* First counter of HR_STREAM_EVAL: one number per kind of attack, whatever else is measured. */
enum { NOISE_PGD = 1, NOISE_CW = 2 };

static int parse_steps(const char *digits, int64_t *steps)
{
    return hr_parse_int(digits, steps) && *steps >= 1 && *steps <= 100000;
}

/* A strong attack's parts; false: the name is none of theirs. */
static bool parse_strong(hr_eval_attack *a, const hr_eval_opts *o)
{
    static const enum hr_part standard[] = {HR_PART_APGD_CE, HR_PART_APGD_T, HR_PART_FAB_T, HR_PART_SQUARE};
    a->strong = *o;
    if (strcmp(a->name, "aa") == 0) {
        a->nparts = HR_COUNT(standard);
        memcpy(a->part, standard, sizeof standard);
        a->strong.restarts = 1;
    }
    a->whole = strcmp(a->name, "min-norm") == 0;
    const char *part = a->whole ? "fab-t" : a->name;
    for (int k = 0; k < HR_PARTS; k++)
        if (strcmp(part, hr_part_names[k]) == 0) {
            a->nparts = 1;
            a->part[0] = k;
        }
    return a->nparts > 0;
}

int hr_eval_parse(hr_eval_attack *list, int *n, const char *names, const hr_eval_opts *o, hr_err *err)
{
    *n = 0;
    for (const char *at = names, *end; *at; at = *end ? end + 1 : end) {
        end = at + strcspn(at, ",");
        hr_eval_attack a = {.restarts = o->restarts,
                            .eps = o->eps,
                            .step = o->step,
                            .opts = {.eps = (float)o->eps,
                                     .step = (float)o->step,
                                     .random_start = true,
                                     .bn = o->bn,
                                     .seed = o->seed,
                                     .stream = HR_STREAM_EVAL}};
        int64_t steps = 20;
        size_t len = (size_t)(end - at);
        if (len >= sizeof a.name || *n == HR_MAX_ATTACKS)
            return hr_fail(err, HR_EINVAL,
                           "%s: at most %d attacks, each clean, fgsm, pgdK, cw, aa or a part of it", names,
                           HR_MAX_ATTACKS);
        memcpy(a.name, at, len);
        bool strong = parse_strong(&a, o);
        if (strong) {
            steps = 0;
        } else if (strcmp(a.name, "clean") == 0) {
            a.clean = true;
            a.restarts = 1;
        } else if (strcmp(a.name, "fgsm") == 0) {
            steps = 1;
            a.restarts = 1; /* nothing in it is random */
            a.step = o->eps;
            a.opts.step = (float)o->eps;
            a.opts.random_start = false;
        } else if (strncmp(a.name, "pgd", 3) == 0 && parse_steps(a.name + 3, &steps)) {
            a.opts.c0 = NOISE_PGD;
        } else if (strncmp(a.name, "cw", 2) == 0 && (a.name[2] == '\0' || parse_steps(a.name + 2, &steps))) {
            a.opts.c0 = NOISE_CW;
            a.opts.loss = HR_LOSS_MARGIN;
        } else {
            return hr_fail(
                err, HR_EINVAL,
                "'%s' is no attack; known are clean, fgsm, pgdK (pgd20), cw, apgd-ce, apgd-dlr, apgd-t, "
                "fab-t, square, aa and min-norm",
                a.name);
        }
        if (strong && o->bn != HR_BN_FOLDED)
            return hr_fail(err, HR_EINVAL, "'%s' needs running statistics, --bn running", a.name);
        if (!strong && !a.clean && o->norm != HR_LINF)
            return hr_fail(err, HR_EINVAL, "'%s' is an attack in the norm linf", a.name);
        a.opts.steps = (int)steps;
        list[(*n)++] = a;
    }
    return *n ? HR_OK : hr_fail(err, HR_EINVAL, "the list of attacks is empty");
}

void hr_eval_queue(hr_exec *e, const hr_eval_attack *a, int restart, const float *x, const int32_t *y,
                   const uint32_t *index, int n)
{
    if (a->clean && !x) {
        hr_device_input(e, n);
    } else if (a->clean) {
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
}

void hr_eval_batch(hr_exec *e, const hr_eval_attack *a, int restart, const float *x, const int32_t *y,
                   const uint32_t *index, int n, int32_t *pred)
{
    hr_eval_queue(e, a, restart, x, y, index, n);
    hr_argmax(hr_exec_logits(e), 0, n, hr_exec_classes(e), pred);
}

uint32_t hr_eval_batch_end(uint32_t at, uint32_t n, int batch, enum hr_bn_mode bn)
{
    uint32_t left = n - at, b = (uint32_t)batch;
    if (left <= b)
        return n;
    return bn != HR_BN_FOLDED && left - b == 1 ? at + b - 1 : at + b;
}

/* Images that count: of a strong attack behind its round 0 all of them. */
static uint32_t counted(const hr_dataset *ds, const hr_eval_work *w)
{
    return w->round ? ds->n : w->done;
}

static double balanced(const hr_dataset *ds, const hr_eval_work *w)
{
    uint32_t *seen = hr_xcalloc((size_t)ds->classes, sizeof *seen), *hit = hr_xcalloc((size_t)ds->classes, 4);
    for (uint32_t i = 0; i < counted(ds, w); i++) {
        seen[ds->labels[i]]++;
        hit[ds->labels[i]] += w->correct[i];
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

hr_eval_work hr_eval_work_new(uint32_t n)
{
    return (hr_eval_work){.correct = hr_xcalloc(n, 1),
                          .by = hr_xcalloc(n, 1),
                          .loss = hr_xcalloc(n, sizeof(double)),
                          .pred = hr_xcalloc(n, sizeof(int32_t)),
                          .norm = hr_xcalloc(n, sizeof(float)),
                          .top5 = hr_xcalloc(n, 1)};
}

void hr_eval_work_release(hr_eval_work *w)
{
    free(w->correct);
    free(w->by);
    free(w->pred);
    free(w->norm);
    free(w->adv);
    free(w->top5);
    free(w->loss);
    *w = (hr_eval_work){0};
}

void hr_eval_note(const hr_exec *e, hr_eval_work *w, uint32_t row, int s, int32_t y, int32_t pred)
{
    int classes = hr_exec_classes(e), before = 0;
    const float *z = hr_exec_logits((hr_exec *)e) + (size_t)s * (size_t)classes;
    for (int k = 0; k < classes; k++)
        before += !(z[k] < z[y] || (z[k] == z[y] && k >= y)); /* NaN comes first */
    w->top5[row] &= before < 5;
    size_t len = hr_exec_input_len(e);
    if (w->adv && w->pred[row] == y)
        memcpy(w->adv + row * len, hr_exec_input((hr_exec *)e) + (size_t)s * len, len * sizeof *w->adv);
    if (w->pred[row] == y)
        w->pred[row] = pred;
}

int hr_eval_step(hr_exec *e, int batch, const hr_dataset *ds, const hr_eval_attack *a, hr_eval_work *w)
{
    if (a->nparts)
        return hr_cascade_step(e, batch, ds, a, w);
    uint32_t at = w->done, end = hr_eval_batch_end(at, ds->n, batch, a->opts.bn);
    size_t n = end - at;
    float *x = hr_xaligned(n * hr_exec_input_len(e), sizeof *x);
    int32_t *y = hr_xmalloc(n * sizeof *y), *pred = hr_xmalloc(n * sizeof *pred);
    uint32_t *rows = hr_xmalloc(n * sizeof *rows), *index = hr_xmalloc(n * sizeof *index);
    for (uint32_t i = 0; i < n; i++) {
        rows[i] = at + i;
        index[i] = ds->index[rows[i]];
        w->correct[rows[i]] = 1;
        w->top5[rows[i]] = 1;
        w->pred[rows[i]] = y[i] = ds->labels[rows[i]];
    }
    bool device = hr_exec_on_device(e);
    if (device)
        hr_device_batch(e, ds, NULL, at, (uint32_t)n);
    else
        hr_batch_fill(ds, rows, (int)n, x, y);
    for (int k = 0; k < a->restarts && !hr_interrupted(); k++) {
        hr_eval_queue(e, a, k, device ? NULL : x, y, index, (int)n);
        if (device) /* while it works */
            hr_device_ahead(e, ds, NULL, end, hr_eval_batch_end(end, ds->n, batch, a->opts.bn) - end);
        hr_argmax(hr_exec_logits(e), 0, (int)n, hr_exec_classes(e), pred);
        for (uint32_t i = 0; i < n; i++) {
            w->correct[at + i] &= pred[i] == y[i];
            hr_eval_note(e, w, at + i, (int)i, y[i], pred[i]);
        }
        if (k == 0)
            hr_loss_ce(hr_exec_logits(e), y, 0, (int)n, hr_exec_classes(e), 1.0f, w->loss + at, NULL);
    }
    free(x);
    free(y);
    free(pred);
    free(rows);
    free(index);
    if (hr_interrupted())
        return HR_EINTR;
    w->done = end;
    return HR_OK;
}

hr_eval_result hr_eval_result_of(const hr_dataset *ds, const hr_eval_work *w)
{
    hr_eval_result r = {.images = counted(ds, w)};
    for (uint32_t i = 0; i < r.images; i++) {
        r.correct += w->correct[i];
        r.top5 += w->top5[i];
        for (int k = 0; k < HR_PARTS; k++) /* broken by a later one, or by none */
            r.after[k] += w->correct[i] || w->by[i] > k + 1;
    }
    r.accuracy = r.images ? 100.0 * r.correct / r.images : 0.0;
    r.balanced = balanced(ds, w);
    r.loss = r.images ? hr_tree_sum(w->loss, r.images) / r.images : NAN;
    return r;
}

hr_eval_result hr_eval_run(hr_exec *e, int batch, const hr_dataset *ds, const hr_eval_attack *a)
{
    hr_eval_work w = hr_eval_work_new(ds->n);
    while (!hr_eval_finished(&w, a, hr_exec_classes(e), ds->n) && hr_eval_step(e, batch, ds, a, &w) == HR_OK)
        ;
    hr_eval_result r = hr_eval_result_of(ds, &w);
    hr_eval_work_release(&w);
    return r;
}

/* ---- a list of attacks --------------------------------------------------------------------------------- */

enum { BLOCKS = 9 }; /* of one attack */

struct measuring {
    hr_exec *e;
    int batch, n;
    const hr_eval_attack *list;
    hr_eval_work *work; /* (n) */
    uint32_t images[HR_MAX_ATTACKS];
    hr_block blocks[BLOCKS * HR_MAX_ATTACKS];
    hr_job *job;
    const json_t *before;
    const hr_eval_watch *watch;
};

json_t *hr_eval_before(const hr_job *job)
{
    const json_t *saved = json_object_get(hr_job_saved(job), "before");
    return json_is_array(saved) ? json_deep_copy(saved) : json_array();
}

int hr_eval_save_before(hr_job *job, const json_t *before, hr_err *err)
{
    json_t *at = json_pack("{s:O}", "before", (json_t *)(uintptr_t)before);
    int rc = hr_job_save(job, at, NULL, 0, err);
    json_decref(at);
    return rc;
}

static int save(const struct measuring *m, int i, hr_err *err)
{
    json_t *at = json_pack("{s:s, s:I, s:O*}", "attack", m->list[i].name, "images",
                           (json_int_t)m->work[i].done, "before", (json_t *)(uintptr_t)m->before);
    int rc = hr_job_save(m->job, at, m->blocks, BLOCKS * (size_t)m->n, err);
    json_decref(at);
    return rc;
}

static int load(struct measuring *m, hr_err *err)
{
    const json_t *at = hr_job_saved(m->job);
    if (!json_object_get(at, "attack") ||
        json_array_size(json_object_get(at, "before")) != json_array_size(m->before))
        return HR_OK; /* nothing is, or it is of a network that is finished by now */
    int rc = hr_job_load(m->job, m->blocks, BLOCKS * (size_t)m->n, err);
    for (int i = 0; !rc && i < m->n; i++)
        if (m->work[i].done > m->images[i] ||
            m->work[i].round >= hr_eval_rounds(&m->list[i], hr_exec_classes(m->e)))
            rc = hr_fail(err, HR_EFORMAT, "the saved state counts %u images of %u; --restart discards it",
                         m->work[i].done, m->images[i]);
    return rc;
}

static int measure(struct measuring *m, int i, const hr_dataset *ds, hr_err *err)
{
    const hr_eval_attack *a = &m->list[i];
    hr_eval_work *w = &m->work[i];
    int classes = hr_exec_classes(m->e);
    if (hr_eval_finished(w, a, classes, ds->n))
        return HR_OK;
    if (m->watch)
        m->watch->begin(m->watch->ctx, a, ds->n);
    int rc = HR_OK;
    while (!rc && !hr_eval_finished(w, a, classes, ds->n)) {
        rc = hr_eval_step(m->e, m->batch, ds, a, w);
        if (!rc && m->watch) {
            hr_eval_result r = hr_eval_result_of(ds, w);
            m->watch->batch(m->watch->ctx, w->done, r.accuracy);
        }
        if (!rc && !hr_eval_finished(w, a, classes, ds->n) && hr_job_due(m->job))
            rc = save(m, i, err);
    }
    if (rc == HR_EINTR) {
        rc = save(m, i, err);
        return rc ? rc : hr_job_interrupted(m->job, err, "%s, image %u of %u", a->name, w->done, ds->n);
    }
    if (!rc && m->watch) {
        hr_eval_result r = hr_eval_result_of(ds, w);
        m->watch->end(m->watch->ctx, a, &r);
    }
    return rc ? rc : save(m, i, err);
}

int hr_eval_list(hr_exec *e, int batch, const hr_dataset *all, const hr_dataset *some,
                 const hr_eval_attack *list, int n, hr_job *job, const json_t *before,
                 const hr_eval_watch *watch, hr_eval_work *work, hr_eval_result *results, hr_err *err)
{
    struct measuring m = {.e = e,
                          .batch = batch,
                          .n = n,
                          .list = list,
                          .work = work,
                          .job = job,
                          .before = before,
                          .watch = watch};
    int rc = HR_OK;
    for (int i = 0; i < n; i++) {
        size_t images = m.images[i] = list[i].clean ? all->n : some->n;
        m.work[i] = hr_eval_work_new(m.images[i]);
        hr_block *b = &m.blocks[BLOCKS * i];
        *b++ = (hr_block){"done", &m.work[i].done, sizeof m.work[i].done};
        *b++ = (hr_block){"round", &m.work[i].round, sizeof m.work[i].round};
        *b++ = (hr_block){"correct", m.work[i].correct, images};
        *b++ = (hr_block){"by", m.work[i].by, images};
        *b++ = (hr_block){"loss", m.work[i].loss, images * sizeof(double)};
        *b++ = (hr_block){"pred", m.work[i].pred, images * sizeof(int32_t)};
        size_t kept = list[i].keep ? images * hr_exec_input_len(e) : 0;
        if (kept && (double)kept * sizeof(float) > hr_memory_left())
            rc = hr_fail(err, HR_EINVAL, "no memory to keep the points of %zu images", images);
        else if (kept)
            m.work[i].adv = hr_xaligned(kept, sizeof(float));
        *b++ = (hr_block){"adv", m.work[i].adv, m.work[i].adv ? kept * sizeof(float) : 0};
        *b++ = (hr_block){"norm", m.work[i].norm, images * sizeof(float)};
        *b++ = (hr_block){"top5", m.work[i].top5, images};
    }
    rc = rc ? rc : load(&m, err);
    for (int pass = 0; pass < 2; pass++) /* clean ones first */
        for (int i = 0; !rc && i < n; i++) {
            const hr_dataset *ds = list[i].clean ? all : some;
            if (list[i].clean != (pass == 0))
                continue;
            rc = measure(&m, i, ds, err);
            if (!rc)
                results[i] = hr_eval_result_of(ds, &m.work[i]);
        }
    return rc;
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

/* The 95 % interval of an accuracy, in percent: Wilson 1927, "Probable inference, the law of succession, and
 * statistical inference", which holds near 0 and 100, too. Of a stratified sample the true one is narrower.
 */
static json_t *interval(uint32_t correct, uint32_t images)
{
    double n = images ? images : 1, p = correct / n, z = 1.959963984540054;
    double middle = p + z * z / (2 * n), half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    double lo = (middle - half) / (1 + z * z / n), hi = (middle + half) / (1 + z * z / n);
    return json_pack("[f, f]", 100.0 * fmax(lo, 0.0), 100.0 * fmin(hi, 1.0));
}

static json_t *attack_json(const hr_eval_attack *a, const hr_eval_result *r, int classes, int batch)
{
    json_t *j = a->nparts ? hr_cascade_json(a, r) : json_pack("{s:s}", "name", a->name);
    if (!a->clean && !a->nparts) {
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
    json_object_set_new(j, "interval", interval(r->correct, r->images));
    if (classes > 5)
        json_object_set_new(j, "top5", json_real(r->images ? 100.0 * r->top5 / r->images : 0.0));
    return j;
}

json_t *hr_eval_record(const hr_model *m, const char *model_digest, const char *label, const char *data_name,
                       uint32_t images, const char *data_digest, const hr_eval_attack *attacks,
                       const hr_eval_result *results, int n, int batch, json_t *const *more, json_t *masking)
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
    for (int i = 0; i < n; i++) {
        json_t *entry = attack_json(&attacks[i], &results[i], m->classes, batch);
        if (more && more[i]) {
            json_object_update(entry, more[i]);
            json_decref(more[i]);
        }
        if (attacks[i].probe)
            json_decref(entry);
        else
            json_array_append_new(list, entry);
    }
    json_object_set_new(j, "attacks", list);
    if (masking)
        json_object_set_new(j, "masking", masking);
    json_t *history = hr_history_new();
    hr_history_input(history, "model", model_digest, m->history);
    hr_history_input(history, "data", data_digest, NULL);
    json_object_set_new(j, "history", history);
    hr_layers_release(&ls);
    return j;
}
