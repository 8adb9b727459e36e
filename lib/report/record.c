/* lib/report/record.c -- evaluation records: read, check, doubt.
 *
 * One record (adveval writes it, one line each):
 *
 *   {"record":"eval","version":1,
 *    "model":{"arch":s,"digest":hex,"params":n,"label":s},
 *    "pruning":{"reg":s,"strategy":s,"rate":x,"density":x,"budget":{"inout":x,"masked":x,"macs":x}} or null,
 *    "data":{"name":s,"images":n,"digest":hex},
 *    "attacks":[{"name":"clean","images":n,"correct":n,"accuracy":percent,"balanced":percent},
 *               {"name":"pgd20","loss":"ce","eps":x,"step":x,"steps":k,"restarts":r,"images":n, ...}, ...],
 *    "history":{...}}
 *
 * Other fields are allowed and ignored, so that a later version may add some. */
#include "report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD_VERSION = 1, RECORDS_MAX_BYTES = 64 << 20 };

/* ---- JSON values in a row --------------------------------------------------------------------------------
 */

int hr_json_lines(const char *path, hr_json_each *each, void *user, hr_err *err)
{
    hr_in in;
    hr_buf text = {0};
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = hr_in_slurp(&in, &text, RECORDS_MAX_BYTES, err);
    size_t at = 0, n = 0;
    int line = 1;
    while (rc == HR_OK) {
        for (; at < text.len && strchr(" \t\r\n", text.data[at]) && text.data[at]; at++)
            line += text.data[at] == '\n';
        if (at == text.len)
            break;
        json_error_t je;
        json_t *v =
            json_loadb(text.data + at, text.len - at, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &je);
        if (!v) {
            rc = hr_fail(err, HR_EFORMAT, "%s: line %d: not valid JSON: %s", in.name, line + je.line - 1,
                         je.text);
            break;
        }
        char *where = hr_xasprintf("%s: line %d", in.name, line);
        rc = each(v, where, user, err);
        free(where);
        json_decref(v);
        for (size_t end = at + (size_t)je.position; at < end; at++)
            line += text.data[at] == '\n';
        n++;
    }
    if (rc == HR_OK && n == 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: is empty, a JSON record is needed", in.name);
    hr_buf_release(&text);
    hr_in_close(&in);
    return rc;
}

/* ---- fields ----------------------------------------------------------------------------------------------
 */

/* Where in which record we are, and whether something was wrong already: after the first complaint the
 * fetchers below do nothing, so that a reader is a plain list of fields. */
struct ctx {
    const char *where;
    const char *part; /* "model", "attacks[2]" */
    hr_err *err;
    int rc;
};

static const json_t *field(struct ctx *c, const json_t *o, const char *key, json_type type, const char *what)
{
    const json_t *v = json_object_get(o, key);
    bool fits = v && (json_typeof(v) == type || (type == JSON_REAL && json_is_number(v)));
    if (c->rc == HR_OK && !fits)
        c->rc = hr_fail(c->err, HR_EFORMAT, "%s: %s.%s is %s, %s is needed", c->where, c->part, key,
                        v ? "of another type" : "missing", what);
    return fits ? v : NULL;
}

static char *text_field(struct ctx *c, const json_t *o, const char *key)
{
    const json_t *v = field(c, o, key, JSON_STRING, "a string");
    return hr_xstrdup(v ? json_string_value(v) : "");
}

static double real_field(struct ctx *c, const json_t *o, const char *key, double lo, double hi)
{
    const json_t *v = field(c, o, key, JSON_REAL, "a number");
    double x = v ? json_number_value(v) : 0.0;
    if (v && c->rc == HR_OK && !(x >= lo && x <= hi))
        c->rc =
            hr_fail(c->err, HR_EFORMAT, "%s: %s.%s is %g, outside %g..%g", c->where, c->part, key, x, lo, hi);
    return x;
}

static int64_t int_field(struct ctx *c, const json_t *o, const char *key, int64_t lo)
{
    const json_t *v = field(c, o, key, JSON_INTEGER, "a whole number");
    int64_t x = v ? json_integer_value(v) : 0;
    if (v && c->rc == HR_OK && x < lo)
        c->rc = hr_fail(c->err, HR_EFORMAT, "%s: %s.%s is %lld, at least %lld is needed", c->where, c->part,
                        key, (long long)x, (long long)lo);
    return x;
}

/* ---- one record ------------------------------------------------------------------------------------------
 */

static void result_release(hr_result *r)
{
    free(r->name);
}

static void record_release(hr_record *r)
{
    free(r->where);
    free(r->label);
    free(r->arch);
    free(r->digest);
    free(r->reg);
    free(r->strategy);
    free(r->data);
    free(r->data_digest);
    free(r->method);
    for (size_t i = 0; i < r->nresults; i++)
        result_release(&r->results[i]);
    free(r->results);
    json_decref(r->history);
}

void hr_records_release(hr_records *rs)
{
    for (size_t i = 0; i < rs->n; i++)
        record_release(&rs->r[i]);
    free(rs->r);
    *rs = (hr_records){0};
}

static hr_result read_result(struct ctx *c, const json_t *o)
{
    /* Percentages are written with at least two decimals, so half of the last one may be missing. */
    const double rounding = 0.00501;
    hr_result r = {.name = text_field(c, o, "name")};
    if (strcmp(r.name, "clean") != 0) {
        const char *norm = json_string_value(json_object_get(o, "norm"));
        r.l2 = norm && strcmp(norm, "l2") == 0;
        if (c->rc == HR_OK && norm && !r.l2 && strcmp(norm, "linf") != 0)
            c->rc = hr_fail(c->err, HR_EFORMAT, "%s: %s.norm is '%s', 'linf' or 'l2' is needed", c->where,
                            c->part, norm);
        r.eps = real_field(c, o, "eps", 0.0, r.l2 ? 1e3 : 1.0);
        if (json_object_get(o, "step")) /* some attacks choose it themselves */
            r.step = real_field(c, o, "step", 0.0, 1.0);
        r.steps = int_field(c, o, "steps", 1);
        r.restarts = int_field(c, o, "restarts", 0);
        if (json_object_get(o, "targets"))
            r.targets = int_field(c, o, "targets", 1);
        if (json_object_get(o, "queries"))
            r.queries = int_field(c, o, "queries", 1);
    }
    r.images = int_field(c, o, "images", 1);
    r.correct = int_field(c, o, "correct", 0);
    r.accuracy = real_field(c, o, "accuracy", 0.0, 100.0);
    r.balanced = real_field(c, o, "balanced", 0.0, 100.0);
    if (c->rc == HR_OK && r.correct > r.images)
        c->rc = hr_fail(c->err, HR_EFORMAT, "%s: %s: %lld images of %lld are correct", c->where, r.name,
                        (long long)r.correct, (long long)r.images);
    if (c->rc == HR_OK && fabs(r.accuracy - 100.0 * (double)r.correct / (double)r.images) > rounding)
        c->rc = hr_fail(c->err, HR_EFORMAT, "%s: %s: accuracy is %g, but %lld of %lld is %.4f", c->where,
                        r.name, r.accuracy, (long long)r.correct, (long long)r.images,
                        100.0 * (double)r.correct / (double)r.images);
    return r;
}

static void read_results(struct ctx *c, hr_record *r, const json_t *list)
{
    r->results = hr_xcalloc(json_array_size(list) + 1, sizeof *r->results);
    for (size_t i = 0; i < json_array_size(list) && c->rc == HR_OK; i++) {
        char part[48];
        snprintf(part, sizeof part, "attacks[%zu]", i);
        c->part = part;
        r->results[r->nresults++] = read_result(c, json_array_get(list, i));
        for (size_t k = 0; k < i && c->rc == HR_OK; k++)
            if (strcmp(r->results[k].name, r->results[i].name) == 0)
                c->rc = hr_fail(c->err, HR_EFORMAT, "%s: '%s' is there twice", c->where, r->results[i].name);
    }
    if (c->rc == HR_OK && r->nresults == 0)
        c->rc = hr_fail(c->err, HR_EFORMAT, "%s: record.attacks is empty", c->where);
}

static int read_record(hr_record *r, const json_t *o, const char *where, hr_err *err)
{
    struct ctx c = {where, "record", err, HR_OK};
    const char *kind = json_string_value(json_object_get(o, "record"));
    if (!kind || strcmp(kind, "eval") != 0)
        return hr_fail(err, HR_EFORMAT, "%s: not an evaluation record: \"record\" is %s%s, 'eval' is needed",
                       where, kind ? kind : "missing", kind ? "" : " or no string");
    int64_t version = int_field(&c, o, "version", 0);
    if (c.rc == HR_OK && version != RECORD_VERSION)
        return hr_fail(err, HR_EFORMAT, "%s: record.version is %lld, this program reads %d", where,
                       (long long)version, RECORD_VERSION);

    *r = (hr_record){.where = hr_xstrdup(where)};
    const json_t *model = field(&c, o, "model", JSON_OBJECT, "an object");
    const json_t *data = field(&c, o, "data", JSON_OBJECT, "an object");
    const json_t *attacks = field(&c, o, "attacks", JSON_ARRAY, "a list");
    const json_t *pruning = json_object_get(o, "pruning");
    r->pruned = !json_is_null(pruning);
    if (r->pruned)
        pruning = field(&c, o, "pruning", JSON_OBJECT, "an object or null");

    c.part = "model";
    r->arch = text_field(&c, model, "arch");
    r->digest = text_field(&c, model, "digest");
    r->label = text_field(&c, model, "label");
    r->params = int_field(&c, model, "params", 1);
    c.part = "data";
    r->data = text_field(&c, data, "name");
    r->data_digest = text_field(&c, data, "digest");
    r->data_images = int_field(&c, data, "images", 1);
    if (r->pruned) {
        c.part = "pruning";
        r->reg = text_field(&c, pruning, "reg");
        r->strategy = text_field(&c, pruning, "strategy");
        r->rate = real_field(&c, pruning, "rate", 0.0, 1.0);
        r->density = real_field(&c, pruning, "density", 0.0, 1.0);
        const json_t *budget = field(&c, pruning, "budget", JSON_OBJECT, "an object");
        c.part = "pruning.budget";
        r->inout = real_field(&c, budget, "inout", 0.0, 1.0);
        r->masked = real_field(&c, budget, "masked", 0.0, 1.0);
        r->macs = real_field(&c, budget, "macs", 0.0, 1.0);
    }
    read_results(&c, r, attacks);
    r->history = json_incref(json_object_get(o, "history"));
    return c.rc;
}

/* ---- doubts ----------------------------------------------------------------------------------------------
 */

static void doubt(hr_warning *warn, void *user, const char *fmt, ...) HR_PRINTF(3, 4);
static void doubt(hr_warning *warn, void *user, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    if (!warn)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    warn(line, user);
}

static const hr_result *find_result(const hr_record *r, const char *name)
{
    for (size_t i = 0; i < r->nresults; i++)
        if (strcmp(r->results[i].name, name) == 0)
            return &r->results[i];
    return NULL;
}

/* How far, in points, the accuracies of a and b may lie apart by chance: two points for the same images (a
 * wrong class can turn into the right one), three standard errors of the smaller sample more for others. */
static double chance(const hr_result *a, const hr_result *b)
{
    double n = (double)(a->images < b->images ? a->images : b->images);
    return 2.0 + (a->images == b->images ? 0.0 : 3.0 * 50.0 / sqrt(n));
}

static void doubt_record(const hr_record *r, hr_warning *warn, void *user)
{
    const hr_result *clean = find_result(r, "clean"), *fgsm = find_result(r, "fgsm");
    for (size_t i = 0; i < r->nresults; i++) {
        const hr_result *a = &r->results[i];
        if (clean && a != clean && a->accuracy > clean->accuracy + chance(a, clean))
            doubt(warn, user, "%s: %s: accuracy %.2f under %s is above the clean %.2f", r->where, r->label,
                  a->accuracy, a->name, clean->accuracy);
        if (fgsm && a != fgsm && a->steps > 1 && !a->l2 && a->eps >= fgsm->eps &&
            a->accuracy > fgsm->accuracy + chance(a, fgsm))
            doubt(warn, user,
                  "%s: %s: %s leaves %.2f, the single step of fgsm only %.2f: are gradients masked?",
                  r->where, r->label, a->name, a->accuracy, fgsm->accuracy);
    }
    if (r->pruned && fabs(r->density - r->masked) > 0.01)
        doubt(warn, user, "%s: %s: density %.4f, but the strategy's masks leave %.4f", r->where, r->label,
              r->density, r->masked);
}

static bool same_settings(const hr_result *x, const hr_result *y)
{
    return x->eps == y->eps && x->step == y->step && x->steps == y->steps && x->restarts == y->restarts &&
           x->targets == y->targets && x->queries == y->queries && x->images == y->images;
}

/* "eps 0.1, step 0.025, 20 steps, 1000 images"; what an attack has none of is left out, and a single restart.
 */
static void put_settings(char *out, size_t size, const hr_result *r)
{
    const struct {
        int64_t n, silent;
        const char *what;
    } part[] = {{r->steps, 0, "steps"},
                {r->restarts, r->restarts > 0, "restarts"},
                {r->targets, 0, "targets"},
                {r->queries, 0, "queries"},
                {r->images, 0, "images"}};
    hr_buf text = {0};
    if (r->eps > 0.0)
        hr_buf_printf(&text, "eps %g, ", r->eps);
    if (r->step > 0.0)
        hr_buf_printf(&text, "step %g, ", r->step);
    for (size_t i = 0; i < HR_COUNT(part); i++)
        if (part[i].n > part[i].silent)
            hr_buf_printf(&text, "%lld %s, ", (long long)part[i].n, part[i].what);
    snprintf(out, size, "%.*s", text.len > 2 ? (int)text.len - 2 : 0, text.data ? text.data : "");
    hr_buf_release(&text);
}

static void compare(const hr_record *a, const hr_result *x, const hr_record *b, const hr_result *y,
                    hr_warning *warn, void *user)
{
    char mine[160], first[160];
    if (x->l2 != y->l2) {
        doubt(warn, user, "%s: %s in another norm than %s", b->where, y->name, a->where);
    } else if (x->images && y->images && !same_settings(x, y)) {
        put_settings(mine, sizeof mine, y);
        put_settings(first, sizeof first, x);
        doubt(warn, user, "%.100s: %.40s with %s; %.100s with %s", b->where, y->name, mine, a->where, first);
    }
}

void hr_records_compare(const hr_records *rs, hr_warning *warn, void *user)
{
    for (size_t i = 1; i < rs->n; i++) {
        const hr_record *b = &rs->r[i];
        bool images = !*b->data_digest; /* looked at */
        for (size_t j = 0; j < i && !images; j++) {
            const hr_record *a = &rs->r[j];
            images = *a->data_digest && strcmp(a->data, b->data) == 0;
            if (images && strcmp(a->data_digest, b->data_digest) != 0)
                doubt(warn, user, "%s: measured on other images of %s than %s", b->where, b->data, a->where);
        }
        for (size_t k = 0; k < b->nresults; k++) {
            const hr_result *y = &b->results[k], *x = NULL;
            for (size_t j = 0; j < i && !x; j++) {
                if (strcmp(rs->r[j].data, b->data) == 0)
                    x = find_result(&rs->r[j], y->name);
                if (x)
                    compare(&rs->r[j], x, b, y, warn, user);
            }
        }
    }
}

/* ---- files -----------------------------------------------------------------------------------------------
 */

static int append_record(const json_t *o, const char *where, void *user, hr_err *err)
{
    hr_records *rs = user;
    hr_record r = {0};
    int rc = read_record(&r, o, where, err);
    if (rc) {
        record_release(&r);
        return rc;
    }
    rs->r = hr_xrealloc(rs->r, (rs->n + 1) * sizeof *rs->r);
    rs->r[rs->n++] = r;
    return HR_OK;
}

int hr_records_read(hr_records *rs, const char *path, hr_warning *warn, void *user, hr_err *err)
{
    size_t before = rs->n;
    int rc = hr_json_lines(path, append_record, rs, err);
    while (rc && rs->n > before)
        record_release(&rs->r[--rs->n]);
    for (size_t i = before; i < rs->n; i++)
        doubt_record(&rs->r[i], warn, user);
    return rc;
}
