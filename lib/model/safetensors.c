/* lib/model/safetensors.c -- safetensors files: a JSON header and bytes (github.com/huggingface/safetensors).
 *
 *     u64 n, little-endian
 *     n bytes of JSON: {"NAME": {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...,
 *                       "__metadata__": {string: string}}; may be padded with spaces
 *     the tensors' bytes, row-major, little-endian; offsets count from here
 *
 * The ranges must cover the bytes without a hole and without an overlap: so says the format, so that a file
 * can hide nothing. What nn2torch writes beside the tensors is a string in the metadata. */
#include "model/torch_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 16 << 20 };
static const char metadata[] = "__metadata__", notes_key[] = "heracles", beside[] = "heracles/";

/* ---- reading ------------------------------------------------------------------------------------------- */

/* A whole number that is not negative, or -1. */
static int64_t whole(const json_t *j)
{
    return json_is_integer(j) && json_integer_value(j) >= 0 ? json_integer_value(j) : -1;
}

static int add_tensor(struct hr_torch_file *f, const char *name, const json_t *t, int64_t base, hr_err *err)
{
    const char *dtype = json_string_value(json_object_get(t, "dtype"));
    const json_t *shape = json_object_get(t, "shape"), *offsets = json_object_get(t, "data_offsets");
    int64_t begin = whole(json_array_get(offsets, 0)), end = whole(json_array_get(offsets, 1)), n = 1;
    int element = -1;
    for (int i = 0; dtype && hr_elements[i].name; i++)
        if (hr_elements[i].safe && strcmp(hr_elements[i].safe, dtype) == 0)
            element = i;
    if (!*name || strlen(name) > HR_MAX_NAME || f->nviews >= HR_MAX_TENSORS)
        return hr_fail(err, HR_EFORMAT,
                       "%s: '%s' is no name of 1 to %d characters, or there are more than %d", f->name, name,
                       HR_MAX_NAME, HR_MAX_TENSORS);
    if (element < 0 || !json_is_array(shape) || json_array_size(shape) > HR_MAX_DIMS ||
        json_array_size(offsets) != 2 || begin < 0 || end < begin)
        return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' (%s) has no dtype, shape and offsets that we know",
                       f->name, name, dtype ? dtype : "?");
    bool ours = f->notes && strncmp(name, beside, strlen(beside)) == 0;
    const char *key = ours ? name + strlen(beside) : name;
    struct hr_view *v = hr_torch_add_view(f, key, strlen(key));
    v->beside = ours;
    v->element = element;
    v->ndim = (int)json_array_size(shape);
    for (int d = v->ndim - 1; d >= 0; d--) {
        v->stride[d] = n;
        v->shape[d] = whole(json_array_get(shape, (size_t)d));
        if (v->shape[d] < 0 || (n > 0 && v->shape[d] > HR_MAX_ELEMENTS / n))
            return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' has an absurd shape", f->name, name);
        n *= v->shape[d];
    }
    if (end - begin != n * (int64_t)hr_elements[element].size)
        return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' has %lld bytes, its shape needs %lld", f->name, name,
                       (long long)(end - begin), (long long)n * (long long)hr_elements[element].size);
    v->storage = hr_torch_add_storage(f, name, strlen(name), element, n, err);
    if (v->storage < 0)
        return HR_EFORMAT;
    f->storages[v->storage].at = base + begin;
    return HR_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct hr_stored *x = *(const struct hr_stored *const *)a, *y = *(const struct hr_stored *const *)b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return (x->numel > y->numel) - (x->numel < y->numel); /* empty ones first */
}

static int check_cover(const struct hr_torch_file *f, int64_t at, hr_err *err)
{
    const struct hr_stored **order = hr_xcalloc((size_t)f->nstorages + 1, sizeof *order);
    int rc = HR_OK;
    for (int i = 0; i < f->nstorages; i++)
        order[i] = &f->storages[i];
    qsort(order, (size_t)f->nstorages, sizeof *order, by_place);
    for (int i = 0; rc == HR_OK && i < f->nstorages; i++) {
        if (order[i]->at != at)
            rc = hr_fail(err, HR_EFORMAT, "%s: tensor '%s' leaves a hole or overlaps another", f->name,
                         order[i]->key);
        at = order[i]->at + order[i]->numel * (int64_t)hr_elements[order[i]->element].size;
    }
    if (rc == HR_OK && at != f->size)
        rc = hr_fail(err, HR_EFORMAT, "%s: its tensors end at byte %lld, the file has %lld", f->name,
                     (long long)at, (long long)f->size);
    free(order);
    return rc;
}

static int read_notes(struct hr_torch_file *f, const json_t *meta, hr_err *err)
{
    json_error_t je;
    const char *text = json_string_value(json_object_get(meta, notes_key));
    if (!text)
        return HR_OK;
    f->notes = json_loads(text, JSON_REJECT_DUPLICATES, &je);
    return f->notes ? HR_OK
                    : hr_fail(err, HR_EFORMAT, "%s: the notes in its metadata: line %d: %s", f->name, je.line,
                              je.text);
}

static int list(struct hr_torch_file *f, const char *key, hr_err *err)
{
    unsigned char b[8];
    uint64_t n = 0;
    int rc = hr_torch_pread(f, b, sizeof b, 0, "the length of its header", err);
    if (rc)
        return rc;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | b[i];
    if (n > MAX_HEADER || (int64_t)n > f->size - 8)
        return hr_fail(err, HR_EFORMAT,
                       "%s: claims a header of %llu bytes, up to %d and no more than the file are possible",
                       f->name, (unsigned long long)n, MAX_HEADER);
    if (key)
        return hr_fail(err, HR_EINVAL, "%s: is a safetensors file, which has no entries to choose from",
                       f->name);
    char *text = hr_xmalloc((size_t)n + 1);
    json_error_t je;
    json_t *header = NULL, *t;
    const char *name;
    rc = hr_torch_pread(f, text, (size_t)n, 8, "its header", err);
    if (rc == HR_OK) {
        header = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &je);
        if (!json_is_object(header))
            rc = hr_fail(err, HR_EFORMAT, "%s: its header is no JSON object: %s", f->name,
                         header ? "" : je.text);
    }
    free(text);
    if (rc == HR_OK)
        rc = read_notes(f, json_object_get(header, metadata), err);
    json_object_foreach (header, name, t)
        if (rc == HR_OK && strcmp(name, metadata) != 0)
            rc = add_tensor(f, name, t, 8 + (int64_t)n, err);
    json_decref(header);
    return rc ? rc : check_cover(f, 8 + (int64_t)n, err);
}

const struct hr_container hr_safetensors = {"safetensors", list, hr_torch_walk};

/* ---- writing ------------------------------------------------------------------------------------------- */

static int put(hr_out *out, const void *p, size_t n, hr_err *err)
{
    errno = 0;
    if (fwrite(p, 1, n, hr_out_file(out)) == n)
        return HR_OK;
    return hr_fail(err, HR_EIO, "%s: writing: %s", hr_out_name(out), errno ? strerror(errno) : "write error");
}

static const char *safe_name(enum hr_dtype t)
{
    return hr_elements[hr_element_of_dtype(t)].safe;
}

/* What is written, in its order. */
struct item {
    const hr_tensor *t;
    void *zeroed; /* in place of its data, or NULL */
};

static void add_to_header(json_t *header, const char *prefix, const hr_tensor *t, size_t *at)
{
    size_t bytes = (size_t)hr_tensor_count(t) * hr_dtype_size(t->dtype);
    char *name = hr_xasprintf("%s%s", prefix, t->name);
    json_t *shape = json_array();
    for (int d = 0; d < t->ndim; d++)
        json_array_append_new(shape, json_integer(t->shape[d]));
    json_object_set_new(header, name,
                        json_pack("{s:s, s:o, s:[I, I]}", "dtype", safe_name(t->dtype), "shape", shape,
                                  "data_offsets", (json_int_t)*at, (json_int_t)(*at + bytes)));
    *at += bytes;
    free(name);
}

static json_t *make_metadata(const hr_model *m, bool bare, const json_t *history)
{
    json_t *meta = json_pack("{s:s}", "format", "pt");
    if (bare)
        return meta;
    json_t *notes = hr_torch_notes(m, history);
    char *text = hr_json_text(notes, 0);
    json_object_set_new(meta, notes_key, json_string(text));
    free(text);
    json_decref(notes);
    return meta;
}

/* Does the state_dict of the network's class hold tensor t? */
static bool in_state(const hr_model *m, int t)
{
    const char *name = m->tensors[t].name;
    for (int i = 0; i < m->nnodes; i++) {
        const hr_node *n = &m->nodes[i];
        size_t len = strlen(n->id);
        for (int p = 0; p < HR_P_COUNT; p++)
            if (n->param[p] == t)
                return true;
        if (n->op == HR_OP_BATCHNORM && strncmp(name, n->id, len) == 0 &&
            strcmp(name + len, ".num_batches_tracked") == 0)
            return true;
    }
    return false;
}

/* The header; tensors of wide elements come first, so that all are aligned. A weight that loses something to
 * its mask is there once more, whole, unless bare. */
static json_t *make_header(const hr_model *m, bool bare, const json_t *history, struct item *items, int *n)
{
    json_t *header = json_object();
    json_object_set_new(header, metadata, make_metadata(m, bare, history));
    size_t at = 0;
    *n = 0;
    for (size_t size = 8; size > 0; size /= 2)
        for (int i = 0; i < m->ntensors; i++) {
            const hr_tensor *t = &m->tensors[i];
            if (hr_dtype_size(t->dtype) != size || (bare && !in_state(m, i)))
                continue;
            void *zeroed = hr_torch_masked(m, t);
            add_to_header(header, "", t, &at);
            items[(*n)++] = (struct item){t, zeroed};
            if (zeroed && !bare) {
                add_to_header(header, beside, t, &at);
                items[(*n)++] = (struct item){t, NULL};
            }
        }
    return header;
}

int hr_safetensors_write(const hr_model *m, bool bare, const json_t *history, hr_out *out, hr_err *err)
{
    struct item *items = hr_xcalloc(2 * (size_t)m->ntensors + 1, sizeof *items);
    int count;
    json_t *header = make_header(m, bare, history, items, &count);
    char *text = hr_json_text(header, 0);
    json_decref(header);
    hr_buf b = {0};
    size_t n = (strlen(text) + 7) / 8 * 8;
    for (int i = 0; i < 8; i++)
        hr_buf_add(&b, &(char){(char)(n >> 8 * i)}, 1);
    hr_buf_printf(&b, "%-*s", (int)n, text);
    free(text);
    int rc = n > MAX_HEADER ? hr_fail(err, HR_EINVAL, "%s: a header of %zu bytes, up to %d are possible",
                                      hr_out_name(out), n, MAX_HEADER)
                            : put(out, b.data, b.len, err);
    hr_buf_release(&b);
    for (int i = 0; i < count; i++) {
        const hr_tensor *t = items[i].t;
        size_t bytes = (size_t)hr_tensor_count(t) * hr_dtype_size(t->dtype);
        if (rc == HR_OK)
            rc = put(out, items[i].zeroed ? items[i].zeroed : t->data, bytes, err);
        free(items[i].zeroed);
    }
    free(items);
    return rc;
}
