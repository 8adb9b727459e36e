/* lib/data/inspect.c -- what is in a tfrecord file: verified record by record, or shown.
 *
 * Nothing is kept of an image but its digest, so that files of any size can be looked at. */
#include "data/internal.h"

#include "example.pb-c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- verifying ----------------------------------------------------------------------------------------- */

void hr_scan_start(hr_scan *s)
{
    *s = (hr_scan){.sha = hr_sha256_new()};
}

void hr_scan_end(hr_scan *s)
{
    hr_dataset_digest_end(s->sha, s->labels, s->n, s->c, s->h, s->w, s->digest);
    s->sha = NULL;
}

void hr_scan_release(hr_scan *s)
{
    if (s->sha)
        hr_scan_end(s);
    free(s->labels);
    *s = (hr_scan){0};
}

void hr_scan_add(hr_scan *s, const hr_example *ex, size_t bytes)
{
    if (s->n == 0) {
        s->c = ex->c;
        s->h = ex->h;
        s->w = ex->w;
    }
    s->one_shape = s->n == 0 || (s->one_shape && ex->c == s->c && ex->h == s->h && ex->w == s->w);
    s->encoded += ex->encoded;
    s->bytes += bytes;
    hr_sha256_add(s->sha, ex->image, (size_t)ex->c * (size_t)ex->h * (size_t)ex->w);
    if ((s->n & (s->n - 1)) == 0) /* full at every power of two */
        s->labels = hr_xrealloc(s->labels, (s->n ? 2 * (size_t)s->n : 1) * sizeof *s->labels);
    s->labels[s->n++] = (int32_t)ex->label;
    s->classes = ex->label >= s->classes ? (int)ex->label + 1 : s->classes;
}

int hr_scan_file(hr_scan *s, const char *path, uint32_t *own, hr_err *err)
{
    hr_arena arena = {0};
    hr_tfrec_reader *r;
    const uint8_t *data;
    size_t n;
    uint32_t first = s->n;
    int rc = hr_tfrec_open(&r, path, err);
    if (rc)
        return rc;

    while (rc == HR_OK && (rc = hr_tfrec_next(r, &data, &n, err)) == HR_OK && data) {
        hr_example ex;
        hr_err why = HR_ERR_INIT;
        if ((rc = hr_example_unpack(&arena, data, n, 0, 0, &ex, &why)))
            rc = hr_tfrec_fail(r, err, rc, "%s", why.msg);
        else if (ex.label < 0 || ex.label >= MAX_CLASSES)
            rc = hr_tfrec_fail(r, err, HR_ESHAPE, "label %lld is outside 0..%d", (long long)ex.label,
                               MAX_CLASSES - 1);
        else if (s->n == UINT32_MAX)
            rc = hr_tfrec_fail(r, err, HR_EFORMAT, "more than %u images", UINT32_MAX);
        else
            hr_scan_add(s, &ex, n);
    }
    hr_tfrec_close(r);
    hr_arena_release(&arena);
    if (own)
        *own = s->n - first;
    return rc;
}

int hr_tfrec_digest(const char *const *paths, int n, char digest[65], hr_err *err)
{
    hr_scan s;
    int rc = HR_OK;
    hr_scan_start(&s);
    for (int i = 0; i < n && rc == HR_OK; i++)
        rc = hr_scan_file(&s, paths[i], NULL, err);
    hr_scan_end(&s);
    memcpy(digest, s.digest, sizeof s.digest);
    hr_scan_release(&s);
    return rc;
}

int hr_tfrec_check(const char *path, FILE *out, hr_err *err)
{
    hr_scan s;
    bool listed = false;
    hr_scan_start(&s);
    int rc = hr_scan_file(&s, path, NULL, err);
    hr_scan_end(&s);
    if (rc == HR_OK && s.n == 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: holds no images", strcmp(path, "-") ? path : "<stdin>");
    if (rc == HR_OK)
        rc = hr_manifest_vouch(path, s.n, s.digest, &listed, err);
    if (rc == HR_OK) {
        char shape[64];
        snprintf(shape, sizeof shape, s.one_shape ? "%dx%dx%d" : "several", s.c, s.h, s.w);
        fprintf(out, "%s: records %u shape %s labels 0..%d encoded %u digest %s manifest %s\n",
                strcmp(path, "-") ? path : "<stdin>", s.n, shape, s.classes - 1, s.encoded, s.digest,
                listed ? "agrees" : "does-not-list-it");
    }
    hr_scan_release(&s);
    return rc;
}

/* ---- showing ------------------------------------------------------------------------------------------- */

enum { MAX_TEXT = 64, BEGIN = 8 };

/* A short text as it is; of other bytes their number, their digest and the first few. */
static json_t *bytes_json(const uint8_t *p, size_t n)
{
    bool text = n <= MAX_TEXT;
    for (size_t i = 0; i < n && text; i++)
        text = p[i] >= ' ' && p[i] < 127;
    if (text)
        return json_stringn(n ? (const char *)p : "", n);
    char hex[65], begins[2 * BEGIN + 1] = "";
    hr_sha256 *sha = hr_sha256_new();
    hr_sha256_add(sha, p, n);
    hr_sha256_end(sha, hex);
    for (size_t i = 0; i < n && i < BEGIN; i++)
        snprintf(begins + 2 * i, 3, "%02x", p[i]);
    return json_pack("{s:I, s:s, s:s}", "bytes", (json_int_t)n, "begins", begins, "sha256", hex);
}

static json_t *feature_json(const Tf__Feature *f)
{
    json_t *list = json_array();
    if (f && f->kind_case == TF__FEATURE__KIND_BYTES_LIST)
        for (size_t i = 0; i < f->bytes_list->n_value; i++)
            json_array_append_new(list,
                                  bytes_json(f->bytes_list->value[i].data, f->bytes_list->value[i].len));
    if (f && f->kind_case == TF__FEATURE__KIND_INT64_LIST)
        for (size_t i = 0; i < f->int64_list->n_value; i++)
            json_array_append_new(list, json_integer(f->int64_list->value[i]));
    if (f && f->kind_case == TF__FEATURE__KIND_FLOAT_LIST)
        for (size_t i = 0; i < f->float_list->n_value; i++) {
            json_t *v = json_real((double)f->float_list->value[i]); /* NULL when it is not finite */
            json_array_append_new(list, v ? v : json_null());
        }
    return list;
}

int hr_tfrec_dump(const char *path, FILE *out, hr_err *err)
{
    hr_tfrec_reader *r;
    const uint8_t *data;
    size_t n;
    int rc = hr_tfrec_open(&r, path, err);
    if (rc)
        return rc;
    while ((rc = hr_tfrec_next(r, &data, &n, err)) == HR_OK && data) {
        Tf__Example *e = tf__example__unpack(NULL, n, data);
        if (!e) {
            rc = hr_tfrec_fail(r, err, HR_EFORMAT, "not a tf.train.Example");
            break;
        }
        json_t *features = json_object();
        for (size_t i = 0; e->features && i < e->features->n_feature; i++) {
            const Tf__FeatureEntry *f = e->features->feature[i];
            const char *key = hr_is_utf8(f->key) ? f->key : "(not UTF-8)";
            json_object_set_new(features, key, feature_json(f->value));
        }
        uint64_t number, offset;
        hr_tfrec_at(r, &number, &offset);
        json_t *line = json_pack("{s:I, s:I, s:I, s:o}", "record", (json_int_t)number, "offset",
                                 (json_int_t)offset, "bytes", (json_int_t)n, "features", features);
        char *text = hr_json_text(line, 0);
        fprintf(out, "%s\n", text);
        free(text);
        json_decref(line);
        tf__example__free_unpacked(e, NULL);
        if (ferror(out)) {
            rc = hr_fail(err, HR_EIO, "%s: writing: %s", "<stdout>", strerror(errno));
            break;
        }
    }
    hr_tfrec_close(r);
    return rc;
}
