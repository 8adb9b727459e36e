/* lib/search/starts.c -- strategies from files, to begin a search with.
 *
 * A file holds one strategy, as maskapply --strategy-out and ddpg-search itself write it, or a published
 * list: {arch: {reg: {id: entry}}}, entry a list of rates in strategy order or {"layers": names, "rates":
 * [...]}. Names may come in any order; all decision layers must be there, once. */
#include "search/search.h"

#include <stdlib.h>
#include <string.h>

static int bad(hr_err *err, const char *file, const char *what)
{
    return hr_fail(err, HR_EFORMAT, "%s: %s", file, what);
}

/* The only member of an object, and its key; NULL when there are others or none. */
static json_t *only(json_t *j, const char **key)
{
    void *at = json_object_iter(j);
    if (json_object_size(j) != 1)
        return NULL;
    *key = json_object_iter_key(at);
    return json_object_iter_value(at);
}

static int decision_called(const hr_space *s, const char *name)
{
    for (int d = 0; name && d < s->nd; d++)
        if (strcmp(s->l[s->decision[d]].name, name) == 0)
            return d;
    return -1;
}

static int read_entry(const hr_space *s, const json_t *entry, const char *file, double *rate, hr_err *err)
{
    const json_t *layers = json_object_get(entry, "layers");
    const json_t *rates = layers ? json_object_get(entry, "rates") : entry;
    if (!json_is_array(rates) || (layers && json_array_size(layers) != json_array_size(rates)))
        return bad(err, file, "expected a list of rates, or lists \"layers\" and \"rates\" of one length");
    if (json_array_size(rates) != (size_t)s->nd)
        return hr_fail(err, HR_EFORMAT, "%s: %zu rates, the layer table has %d layers to decide", file,
                       json_array_size(rates), s->nd);
    for (int i = 0; i < s->nd; i++) {
        const char *name = json_string_value(json_array_get(layers, (size_t)i));
        const json_t *v = json_array_get(rates, (size_t)i);
        int d = layers ? decision_called(s, name) : i;
        if (d < 0)
            return hr_fail(err, HR_EFORMAT, "%s: the layer table has no layer '%s' to decide", file,
                           name ? name : "(no string)");
        if (rate[d] > 0)
            return hr_fail(err, HR_EFORMAT, "%s: layer '%s' comes twice", file, name);
        if (!json_is_number(v) || !(json_number_value(v) > 0 && json_number_value(v) <= 1))
            return hr_fail(err, HR_EFORMAT, "%s: rate %d is not a number in (0,1]", file, i);
        rate[d] = json_number_value(v);
    }
    return HR_OK;
}

int hr_start_load(const hr_space *s, const char *file, double *rate, char hex[65], hr_err *err)
{
    json_t *root;
    const char *arch = NULL, *reg = NULL, *id;
    memset(rate, 0, (size_t)s->nd * sizeof *rate);
    int rc = hr_json_load(file, &root, err);
    if (rc)
        return rc;
    json_t *entry = only(only(only(root, &arch), &reg), &id);
    if (!entry)
        rc = bad(err, file, "expected one strategy: {arch: {reg: {id: entry}}}");
    else if (strcmp(reg, s->channel ? "channel" : "weight") != 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: a strategy for %s, the search is by %s", file, reg,
                     s->channel ? "channel" : "weight");
    else
        rc = read_entry(s, entry, file, rate, err);
    json_decref(root);
    if (rc)
        return rc;
    hr_sha256 *h = hr_sha256_new(); /* of what counts: the rates */
    hr_sha256_add(h, rate, (size_t)s->nd * sizeof *rate);
    hr_sha256_end(h, hex);
    return HR_OK;
}
