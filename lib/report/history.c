/* lib/report/history.c -- a product's history, readable: newest step first, its inputs indented below.
 *
 *   adveval 0.1.0 --attacks clean,fgsm --eps 0.1
 *     model 5c1f0a9b3d27: advtrain 0.1.0 --stage finetune --epochs 2 --lr 0.05
 *       network 77aa01c2e4f6: advtrain 0.1.0 --stage prune --epochs 1 --lr 0.1
 *     data 0e5a7d1b9c3f */
#include "report/report.h"

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

static void print_step(const json_t *h, int depth, FILE *out)
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
        if (json_is_object(before) && depth < DEPTH_MAX) {
            fputs(": ", out);
            print_step(before, depth + 1, out);
        } else {
            putc('\n', out);
        }
    }
}

void hr_history_print(const json_t *history, FILE *out)
{
    print_step(history, 0, out);
}

struct show {
    FILE *out;
    int found;
};

/* Histories anywhere in v, with the path of keys that leads to them. */
static void show_in(struct show *s, const json_t *v, const char *path)
{
    const json_t *h = json_object_get(v, "history");
    if (json_is_object(h)) {
        fprintf(s->out, "%s\n  ", path);
        print_step(h, 1, s->out);
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

int hr_history_show(const char *path, FILE *out, hr_err *err)
{
    struct show s = {out, 0};
    return hr_json_lines(path, show_value, &s, err);
}
