/* lib/report/lint.c -- numbers that a reviewer would not believe, one line each.
 *
 * - order: a stronger attack leaves more than a weaker one, beyond the weaker one's 95 % interval (FGSM,
 *   PGD-10, PGD-20, AutoAttack; C&W, AutoAttack)
 * - collapsed: every attack leaves exactly the share that is right without one, and that is less than half:
 *   the network gives one answer to everything
 * - budget: weights: what the masks leave is not the rate; channels: it costs more than the uniform strategy
 * of that rate (by parameters, input rate x output rate); both beyond 1 %, maskapply's tolerance
 * - mixed: one data set's column was measured with different eps, steps, restarts, targets, queries or
 * numbers of images
 * - claim: a row of the tables has fewer searched strategies than claimed; a strategy counts once, whatever
 *   number of times it was pruned with or measured
 * - test set: the images measured on are among the inputs of a stage that made the network: something was
 *   trained on them, or selected by them
 * - digest: the network that was measured is not the one that its history describes; or a checkpoint that was
 *   named is none of those that were measured
 *
 * Files are opened only for that last one. */
#include "model/model.h"
#include "report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct lint {
    const hr_record *r;
    hr_warning *found;
    void *user;
    int n;
};

static void say(struct lint *l, const char *rule, const char *fmt, ...) HR_PRINTF(3, 4);
static void say(struct lint *l, const char *rule, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    int n = snprintf(line, sizeof line, "%s: %.150s: %.80s: ", rule, l->r->where, l->r->label);
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    l->found(line, l->user);
    l->n++;
}

static const hr_result *result(const hr_record *r, const char *name)
{
    for (size_t i = 0; i < r->nresults; i++)
        if (strcmp(r->results[i].name, name) == 0)
            return &r->results[i];
    return NULL;
}

/* What is left right: of logs that have only balanced accuracies, those. */
static double left(const hr_result *r)
{
    return isnan(r->accuracy) ? r->balanced : r->accuracy;
}

/* Half of the 95 % interval of `percent`, in points. Logs do not tell of how many images: the published
 * evaluations took whole test sets, of at least 10,000. */
static double interval(double percent, int64_t images)
{
    double n = images ? (double)images : 10000.0, p = percent / 100.0;
    p = fmin(fmax(p, 1.0 / (n + 1.0)), n / (n + 1.0)); /* or at 0 and 100 there were none */
    return 196.0 * sqrt(p * (1.0 - p) / n);
}

static void order(struct lint *l)
{
    static const char *const pairs[][2] = {{"fgsm", "pgd10"},  {"fgsm", "pgd20"}, {"fgsm", "aa"},
                                           {"pgd10", "pgd20"}, {"pgd10", "aa"},   {"pgd20", "aa"},
                                           {"cw", "aa"}};
    for (size_t k = 0; k < HR_COUNT(pairs); k++) {
        const hr_result *weak = result(l->r, pairs[k][0]), *strong = result(l->r, pairs[k][1]);
        if (!weak || !strong || weak->eps != strong->eps || weak->l2 != strong->l2)
            continue;
        double half = interval(left(weak), weak->images);
        if (left(strong) > left(weak) + half)
            say(l, "order", "%s leaves %.2f, the weaker %s %.2f +- %.2f", strong->name, left(strong),
                weak->name, left(weak), half);
    }
}

static void collapsed(struct lint *l)
{
    const hr_result *clean = result(l->r, "clean");
    if (!clean || l->r->nresults < 2 || left(clean) >= 50.0)
        return;
    for (size_t i = 0; i < l->r->nresults; i++) {
        const hr_result *a = &l->r->results[i];
        /* of other images, the share of one class may be another: three standard errors */
        double slack = a->images == clean->images ? 0.0 : 150.0 / sqrt((double)a->images);
        if (fabs(left(a) - left(clean)) > slack || (a != clean && a->eps <= 0.0))
            return;
    }
    say(l, "collapsed", "%.2f clean, and no attack leaves less", left(clean));
}

static void budget(struct lint *l, const hr_records *rs)
{
    const hr_record *r = l->r;
    if (!r->pruned)
        return;
    if (strcmp(r->reg, "weight") == 0) {
        if (fabs(r->density - r->rate) > 0.01 * r->rate)
            say(l, "budget", "%.4f of the weights are left, the rate is %.4f", r->density, r->rate);
        return;
    }
    for (size_t i = 0; i < rs->n; i++) {
        const hr_record *u = &rs->r[i];
        if (u->pruned && hr_kind_of(u->strategy) == HR_KIND_UNIFORM && u->rate == r->rate &&
            !strcmp(u->arch, r->arch) && !strcmp(u->reg, r->reg) && r->inout > 1.01 * u->inout) {
            say(l, "budget", "%.4f of the parameters, %s has %.4f", r->inout, u->label, u->inout);
            return;
        }
    }
}

static const json_t *model_input(const json_t *history, const char **sha256)
{
    size_t i;
    const json_t *input;
    json_array_foreach (json_object_get(history, "inputs"), i, input) {
        const char *role = json_string_value(json_object_get(input, "role"));
        if (role && strcmp(role, "model") == 0) {
            *sha256 = json_string_value(json_object_get(input, "sha256"));
            return json_object_get(input, "history");
        }
    }
    *sha256 = NULL;
    return NULL;
}

/* The tool that took the digest as an input, anywhere in the history; NULL: none. */
static const char *user_of(const json_t *history, const char *digest)
{
    size_t i;
    const json_t *input;
    json_array_foreach (json_object_get(history, "inputs"), i, input) {
        const char *sha256 = json_string_value(json_object_get(input, "sha256"));
        if (sha256 && strcmp(sha256, digest) == 0) {
            const char *tool = json_string_value(json_object_get(history, "tool"));
            return tool ? tool : "a tool";
        }
        const char *deeper = user_of(json_object_get(input, "history"), digest);
        if (deeper)
            return deeper;
    }
    return NULL;
}

static void origin(struct lint *l)
{
    const char *sha256, *tool;
    const json_t *history = model_input(l->r->history, &sha256);
    if (sha256 && strcmp(sha256, l->r->digest) != 0)
        say(l, "digest", "%.16s... was measured, the history is that of %.16s...", l->r->digest, sha256);
    if (history && *l->r->data_digest && (tool = user_of(history, l->r->data_digest)))
        say(l, "test set", "%s had the images of %s among its inputs", tool, l->r->data);
}

static bool searched(const hr_record *r)
{
    return r->pruned && hr_kind_of(r->strategy) == HR_KIND_SEARCHED;
}

static const char *method_of(const hr_record *r)
{
    return r->method ? r->method : hr_history_method(r->history);
}

static bool same_row(const hr_record *a, const hr_record *b)
{
    return a->rate == b->rate && !strcmp(a->arch, b->arch) && !strcmp(a->reg, b->reg) &&
           !strcmp(a->data, b->data) && !strcmp(method_of(a), method_of(b));
}

static bool searched_or_uniform(const hr_record *r)
{
    return r->pruned && hr_kind_of(r->strategy) != HR_KIND_OTHER;
}

/* Whom a row's lack is said of: its first searched network, or, where there is none, the first uniform one.
 */
static const hr_record *teller(const hr_record *of, const hr_records *rs)
{
    const hr_record *first = NULL;
    for (size_t i = 0; i < rs->n; i++) {
        const hr_record *r = &rs->r[i];
        if (searched_or_uniform(r) && same_row(r, of) && (!first || (searched(r) && !searched(first))))
            first = r;
    }
    return first;
}

static void claimed(struct lint *l, const hr_records *rs, int claim)
{
    int n = 0;
    if (!claim || !searched_or_uniform(l->r) || teller(l->r, rs) != l->r)
        return;
    for (size_t i = 0; i < rs->n; i++) {
        const hr_record *r = &rs->r[i];
        if (!searched(r) || !same_row(r, l->r))
            continue;
        bool counted = false;
        for (const hr_record *q = l->r; q < r && !counted; q++)
            counted = searched(q) && same_row(q, r) &&
                      (!strcmp(q->strategy, r->strategy) || !strcmp(q->digest, r->digest));
        n += !counted;
    }
    if (n < claim)
        say(l, "claim", "%d searched strategies of %s %s %g, %d are claimed", n, l->r->arch, l->r->reg,
            l->r->rate, claim);
}

static void mixed(const char *sentence, void *user)
{
    struct lint *l = user;
    char line[512];
    snprintf(line, sizeof line, "mixed: %.480s", sentence);
    l->found(line, l->user);
    l->n++;
}

int hr_lint(const hr_records *rs, int claim, hr_warning *found, void *user)
{
    struct lint l = {.found = found, .user = user};
    for (size_t i = 0; i < rs->n; i++) {
        l.r = &rs->r[i];
        order(&l);
        collapsed(&l);
        budget(&l, rs);
        origin(&l);
        claimed(&l, rs, claim);
    }
    hr_records_compare(rs, mixed, &l);
    return l.n;
}

int hr_lint_checkpoint(const hr_records *rs, const char *path, hr_warning *found, void *user, hr_err *err)
{
    hr_model *m;
    char digest[65], line[512];
    int rc = hr_nn_load_any(path, &m, digest, err);
    if (rc)
        return rc;
    hr_model_free(m);
    for (size_t i = 0; i < rs->n; i++)
        if (strcmp(rs->r[i].digest, digest) == 0)
            return HR_OK;
    snprintf(line, sizeof line, "digest: %.300s: is %.16s..., which no record measured", path, digest);
    found(line, user);
    return HR_OK;
}
