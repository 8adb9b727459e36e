/* lib/prune/publish.c -- strategies of single files collected in one file that people share.
 *
 * Experiments keep a strategy beside their results, as {arch: {reg: {id: entry}}} with one entry that is
 * called search-N whatever its budget was. In a collection names must tell budgets apart, so they follow the
 * published ones: the rate without its dot, and the number (01_0, 003_2; ALG 7.1).
 *
 * The collection is opened for writing before it is read: its lock is then ours, and what another process
 * adds meanwhile cannot be lost, as that process is refused. */
#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int bad(hr_err *err, const char *file, const char *id, const char *what)
{
    return hr_fail(err, HR_EFORMAT, "%s: %s: %s", file, id ? id : "not a strategy file", what);
}

static bool is_rates(const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_number(v) || !(json_number_value(v) > 0 && json_number_value(v) <= 1))
            return false;
    }
    return json_array_size(list) > 0;
}

static int check_entry(const json_t *j, const char *file, const char *id, hr_err *err)
{
    const json_t *rates = json_is_array(j) ? j : json_object_get(j, "rates");
    const json_t *layers = json_object_get(j, "layers"), *kept = json_object_get(j, "kept");
    if (!is_rates(rates))
        return bad(err, file, id, "expected a list of rates in (0,1]");
    size_t n = json_array_size(rates);
    if (json_is_object(j) && (json_array_size(layers) != n || (kept && json_array_size(kept) != n)))
        return bad(err, file, id, "\"layers\" and \"kept\" must be lists as long as \"rates\"");
    return HR_OK;
}

/* The name in the collection; the caller frees it. */
static char *public_id(const char *id, const json_t *entry)
{
    double target = json_number_value(json_object_get(json_object_get(entry, "budget"), "target"));
    char digits[32];
    if (strncmp(id, "search-", 7) || !id[7] || strspn(id + 7, "0123456789") != strlen(id + 7))
        return hr_xstrdup(id);
    snprintf(digits, sizeof digits, "%.8f", target);
    for (size_t n = strlen(digits); n > 0 && digits[n - 1] == '0'; n--)
        digits[n - 1] = '\0';
    memmove(digits + 1, digits + 2, strlen(digits + 1)); /* the dot */
    char *name = hr_xasprintf("%s_%s", digits, id + 7);
    if (fabs(hr_id_rate(name) - target) <= 1e-9 * target)
        return name;
    free(name); /* there is no such name, for 1 or for a very long fraction */
    return hr_xstrdup(id);
}

static json_t *member(json_t *parent, const char *key)
{
    json_t *child = json_object_get(parent, key);
    if (!child) {
        child = json_object();
        json_object_set_new(parent, key, child);
    }
    return child;
}

/* Check every entry of root, which is file's, and put it into `all` (NULL: only check). */
static int merge(json_t *all, json_t *root, const char *file, hr_err *err)
{
    const char *arch, *reg, *id;
    json_t *regs, *ids, *entry;
    if (!json_is_object(root))
        return bad(err, file, NULL, "expected {arch: {reg: {id: entry}}}");
    json_object_foreach (root, arch, regs) {
        if (!json_is_object(regs))
            return bad(err, file, arch, "expected {reg: {id: entry}}");
        json_object_foreach (regs, reg, ids) {
            bool known = strcmp(reg, hr_reg_names[0]) == 0 || strcmp(reg, hr_reg_names[1]) == 0;
            if (!known || !json_is_object(ids))
                return bad(err, file, arch, "expected {\"weight\" or \"channel\": {id: entry}}");
            json_object_foreach (ids, id, entry) {
                int rc = check_entry(entry, file, id, err);
                if (rc)
                    return rc;
                if (!all)
                    continue;
                char *name = public_id(id, entry);
                json_object_set(member(member(all, arch), reg), name, entry);
                free(name);
            }
        }
    }
    return HR_OK;
}

int hr_strategies_publish(const char *path, const char *const *files, size_t n, hr_err *err)
{
    hr_out *out;
    json_t *all = NULL, *before = NULL, *one;
    int rc = hr_out_open(&out, path, 0, err);
    if (rc)
        return rc;
    if (access(path, F_OK) == 0)
        rc = hr_json_load(path, &all, err);
    else
        all = json_object();
    if (rc == HR_OK) {
        rc = merge(NULL, all, path, err);
        before = json_deep_copy(all);
    }
    for (size_t i = 0; rc == HR_OK && i < n; i++) {
        rc = hr_json_load(files[i], &one, err);
        if (rc)
            break;
        rc = merge(all, one, files[i], err);
        json_decref(one);
    }
    if (rc == HR_OK && !json_equal(all, before)) {
        hr_json_write(all, out, 1);
        rc = hr_out_commit(out, err);
    } else {
        hr_out_abort(out); /* failed, or there is nothing new */
    }
    json_decref(all);
    json_decref(before);
    return rc;
}
