/* lib/report/history.c -- a product's history, readable: newest step first, its inputs indented below.
 *
 *   adveval 0.1.0 --attacks clean,fgsm --eps 0.1
 *     model 5c1f0a9b3d27: advtrain 0.1.0 --stage finetune --epochs 2 --lr 0.05
 *       network 77aa01c2e4f6: advtrain 0.1.0 --stage prune --epochs 1 --lr 0.1
 *     data 0e5a7d1b9c3f */
#include "report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIGEST_SHOWN = 12, DEPTH_MAX = 64 };

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 127)
            return true;
    return false;
}

static void print_option(const char *name, const json_t *v, FILE *out)
{
    if (json_is_null(v) || json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0))
        return;
    if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++)
            print_option(name, json_array_get(v, i), out);
        return;
    }
    fprintf(out, " --%s", name);
    if (json_is_true(v))
        return;
    const char *plain = json_string_value(v);
    if (plain && *plain && !plain[strcspn(plain, " \"'\\$`&;|<>(){}*?[]~#!")] && !has_control(plain)) {
        fprintf(out, " %s", plain);
    } else { /* a number, or a string that JSON quotes and escapes */
        char *s = hr_json_text(v, 0);
        fprintf(out, " %s", s);
        free(s);
    }
}

/* origins: digest -> {"name", "history"}, or NULL. */
static void print_step(const json_t *h, const json_t *origins, int depth, FILE *out)
{
    const char *tool = json_string_value(json_object_get(h, "tool"));
    const char *version = json_string_value(json_object_get(h, "version"));
    fprintf(out, "%s%s%s", tool ? tool : "unknown tool", version ? " " : "", version ? version : "");
    const char *name;
    json_t *v;
    json_object_foreach (json_object_get(h, "options"), name, v)
        print_option(name, v, out);
    putc('\n', out);

    const json_t *inputs = json_object_get(h, "inputs");
    for (size_t i = 0; i < json_array_size(inputs); i++) {
        const json_t *in = json_array_get(inputs, i), *before = json_object_get(in, "history");
        const char *role = json_string_value(json_object_get(in, "role"));
        const char *digest = json_string_value(json_object_get(in, "sha256"));
        fprintf(out, "%*s%s %.*s", 2 * (depth + 1), "", role ? role : "input", DIGEST_SHOWN,
                digest ? digest : "");
        const json_t *origin = before || !digest ? NULL : json_object_get(origins, digest);
        if (origin) {
            fprintf(out, " (%s)", json_string_value(json_object_get(origin, "name")));
            before = json_object_get(origin, "history");
        }
        if (json_is_object(before) && depth < DEPTH_MAX) {
            fputs(": ", out);
            print_step(before, origins, depth + 1, out);
        } else {
            putc('\n', out);
        }
    }
}

void hr_history_print(const json_t *history, FILE *out)
{
    print_step(history, NULL, 0, out);
}

struct show {
    FILE *out;
    const json_t *origins;
    int found;
};

/* Histories anywhere in v, with the path of keys that leads to them. */
static void show_in(struct show *s, const json_t *v, const char *path)
{
    const json_t *h = json_object_get(v, "history");
    if (json_is_object(h)) {
        fprintf(s->out, "%s\n  ", path);
        print_step(h, s->origins, 1, s->out);
        s->found++;
        return;
    }
    const char *key;
    json_t *child;
    json_object_foreach ((json_t *)v, key, child) {
        char *below = hr_xasprintf("%s: %s", path, key);
        show_in(s, child, below);
        free(below);
    }
}

static int show_value(const json_t *v, const char *where, void *user, hr_err *err)
{
    struct show *s = user;
    const char *label = json_string_value(json_object_get(json_object_get(v, "model"), "label"));
    char *path = label ? hr_xasprintf("%s: %s", where, label) : hr_xstrdup(where);
    int before = s->found;
    show_in(s, v, path);
    free(path);
    return s->found > before ? HR_OK : hr_fail(err, HR_EFORMAT, "%s: there is no history in it", where);
}

int hr_history_show(const char *path, const json_t *origins, FILE *out, hr_err *err)
{
    struct show s = {out, origins, 0};
    return hr_json_lines(path, show_value, &s, err);
}

/* ---- where data came from ------------------------------------------------------------------------------ */

int hr_origins_add(json_t *origins, const char *manifest, hr_err *err)
{
    json_t *j;
    int rc = hr_json_load(manifest, &j, err);
    if (rc)
        return rc;
    const char *name = json_string_value(json_object_get(j, "name")), *split;
    const json_t *history = json_object_get(j, "history"), *splits = json_object_get(j, "splits");
    json_t *s;
    if (!name || !json_is_object(history) || !json_is_object(splits))
        rc = hr_fail(err, HR_EFORMAT, "%s: not the manifest of a data set", manifest);
    json_object_foreach ((json_t *)splits, split, s) {
        const char *digest = json_string_value(json_object_get(s, "digest"));
        if (!rc && digest) {
            char *what = hr_xasprintf("%s, %s", name, split);
            json_object_set_new(
                origins, digest,
                json_pack("{s:s, s:O}", "name", what, "history", (json_t *)(uintptr_t)history));
            free(what);
        }
    }
    json_decref(j);
    return rc;
}

/* ---- cells of a table ---------------------------------------------------------------------------------- */

/* Is the word one of the names of this row? *attack is set where it is that of a column. */
static bool names_row(const hr_record *r, const char *word, const hr_result **attack)
{
    static const char *const kinds[] = {"uniform", "searched", "other"};
    const char *method = r->method ? r->method : hr_history_method(r->history);
    const char *names[] = {r->data,
                           r->arch,
                           r->label,
                           r->digest,
                           method,
                           r->pruned ? r->reg : "dense",
                           r->pruned ? r->strategy : "",
                           r->pruned ? kinds[hr_kind_of(r->strategy)] : ""};
    double rate;
    for (size_t i = 0; i < HR_COUNT(names); i++)
        if (*word && strcmp(names[i], word) == 0)
            return true;
    for (size_t i = 0; i < r->nresults; i++)
        if (strcmp(r->results[i].name, word) == 0) {
            *attack = &r->results[i];
            return true;
        }
    return r->pruned && hr_parse_real(word, &rate) && rate == r->rate;
}

static void print_number(const hr_result *a, FILE *out)
{
    fprintf(out, "  %s:", a->name);
    if (!isnan(a->accuracy))
        fprintf(out, " %.2f %%", a->accuracy);
    if (!isnan(a->balanced))
        fprintf(out, " balanced %.2f %%", a->balanced);
    if (a->images)
        fprintf(out, ", %lld of %lld images", (long long)a->correct, (long long)a->images);
    putc('\n', out);
}

int hr_history_cell(const hr_records *rs, const char *words, const json_t *origins, FILE *out, hr_err *err)
{
    int found = 0;
    for (size_t i = 0; i < rs->n; i++) {
        const hr_record *r = &rs->r[i];
        const hr_result *attack = NULL;
        char *copy = hr_xstrdup(words), *save = NULL;
        bool all = true;
        for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save))
            all = all && names_row(r, word, &attack);
        free(copy);
        if (!all)
            continue;
        found++;
        fprintf(out, "%s: %s\n", r->where, r->label);
        for (size_t k = 0; k < r->nresults; k++)
            if (!attack || attack == &r->results[k])
                print_number(&r->results[k], out);
        fputs("  ", out);
        if (json_is_object(r->history))
            print_step(r->history, origins, 1, out);
        else
            fputs("it has no history\n", out);
    }
    return found ? HR_OK : hr_fail(err, HR_EINVAL, "no record is of the cell '%s'", words);
}
