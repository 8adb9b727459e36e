/* lib/model/torch_write.c -- a network as a zip that torch.load reads, also with weights_only=True.
 *
 * The value is a pickle of protocol 2 that uses only what PyTorch's restricted unpickler knows: dicts,
 * OrderedDict, _rebuild_tensor_v2 on storages, strings and numbers. Records are stored, not deflated, with no
 * times, so the same network gives the same bytes. PyTorch aligns storages to 64 bytes for those who map the
 * file into memory; libarchive does not, and torch.load does not need it.
 *
 * Tensors that the layout has no place for (masks, scores in a dense layout, ...) are records of their own,
 * heracles/NAME, which only torch2nn looks at (torch_notes.c). So are weights that are not zero under their
 * mask, as in the course of pruning: PyTorch gets zeros there, and the way back is to give the same bytes. */
#include "model/torch_file.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_torch_layouts[] = {"dense", "hydra", "radmm", NULL};

/* ---- what is written ----------------------------------------------------------------------------------- */

/* A tensor in the making. */
struct item {
    char *key; /* state: with the layout's prefix */
    enum { IN_STATE, IN_U, IN_Z, BESIDE } place;
    hr_tensor t; /* name is borrowed or NULL */
    void *owned; /* its data, when that is not the model's */
};

struct items {
    const hr_model *m;
    const char *prefix;
    struct item *v;
    int n;
};

static struct item *add(struct items *s, const char *key, const hr_tensor *t)
{
    if (s->n % 64 == 0)
        s->v = hr_xrealloc(s->v, (size_t)(s->n + 64) * sizeof *s->v);
    s->v[s->n] = (struct item){.key = hr_xasprintf("%s%s", s->prefix, key), .t = *t};
    return &s->v[s->n++];
}

/* A tensor that the model does not have: all its elements are `value`. */
static struct item *add_made(struct items *s, const char *key, enum hr_dtype dtype, int ndim,
                             const int64_t *shape, float value)
{
    hr_tensor t = {.dtype = dtype, .ndim = ndim};
    for (int i = 0; i < ndim; i++)
        t.shape[i] = shape[i];
    int64_t n = hr_tensor_count(&t);
    t.data = hr_xaligned((size_t)n, hr_dtype_size(dtype));
    for (int64_t i = 0; dtype == HR_F32 && i < n; i++)
        ((float *)t.data)[i] = value;
    struct item *it = add(s, key, &t);
    it->owned = t.data;
    return it;
}

static const hr_tensor *tensor(const hr_model *m, const char *name, const char *suffix)
{
    char *full = hr_xasprintf("%s%s", name, suffix);
    int i = hr_model_find(m, full);
    free(full);
    return i < 0 ? NULL : &m->tensors[i];
}

void *hr_torch_masked(const hr_model *m, const hr_tensor *t)
{
    size_t len = strlen(t->name);
    if (len < 8 || strcmp(t->name + len - 7, ".weight") != 0 || t->ndim < 2)
        return NULL;
    char *layer = hr_xasprintf("%.*s", (int)len - 7, t->name);
    const hr_tensor *mask = tensor(m, layer, ".mask");
    free(layer);
    if (!mask)
        return NULL;
    int64_t n = hr_tensor_count(t), per_channel = 1, channels = t->shape[1];
    float *w = hr_tensor_room((size_t)n * sizeof *w);
    memcpy(w, t->data, (size_t)n * sizeof *w);
    for (int d = 2; d < t->ndim; d++)
        per_channel *= t->shape[d];
    bool whole = hr_tensor_count(mask) == n;
    const uint8_t *keep = mask->data;
    for (int64_t i = 0; i < n; i++)
        if (!keep[whole ? i : i / per_channel % channels])
            w[i] = 0;
    if (memcmp(w, t->data, (size_t)n * sizeof *w) != 0)
        return w;
    free(w);
    return NULL;
}

/* A tensor of the graph, zero where its layer's mask is. */
static void add_param(struct items *s, const char *key, const hr_tensor *t)
{
    struct item *it = add(s, key, t);
    it->owned = hr_torch_masked(s->m, t);
    if (it->owned)
        it->t.data = it->owned;
}

/* NODE.SUFFIX, the model's own or made. */
static void add_counter(struct items *s, const char *id)
{
    char *name = hr_xasprintf("%s.num_batches_tracked", id);
    const hr_tensor *t = tensor(s->m, name, "");
    if (t)
        add(s, name, t);
    else
        add_made(s, name, HR_I64, 0, NULL, 0);
    free(name);
}

/* HYDRA's scores: the model's, else its mask as numbers, else ones. HYDRA keeps the largest: the same
 * weights, where its rounding of rate times size gives the same count. */
static void add_scores(struct items *s, int node)
{
    const hr_node *n = &s->m->nodes[node];
    const hr_tensor *have = hr_model_node_tensor(s->m, node, "popup_scores"),
                    *mask = hr_model_node_tensor(s->m, node, "mask"),
                    *w = &s->m->tensors[n->param[HR_P_WEIGHT]];
    char *name = hr_xasprintf("%s.popup_scores", n->id);
    if (have) {
        add(s, name, have);
    } else {
        const hr_tensor *like = mask ? mask : w;
        struct item *it = add_made(s, name, HR_F32, like->ndim, like->shape, 1);
        for (int64_t i = 0; mask && i < hr_tensor_count(mask); i++)
            ((float *)it->t.data)[i] = ((const uint8_t *)mask->data)[i];
    }
    free(name);
}

static void add_node(struct items *s, int node, bool scores)
{
    const hr_node *n = &s->m->nodes[node];
    for (int p = 0; p < HR_P_COUNT; p++)
        if (n->param[p] >= 0)
            add_param(s, s->m->tensors[n->param[p]].name, &s->m->tensors[n->param[p]]);
    if (n->op == HR_OP_BATCHNORM)
        add_counter(s, n->id);
    if (scores && (n->op == HR_OP_CONV2D || n->op == HR_OP_LINEAR))
        add_scores(s, node);
}

/* The unused copy of block1 that HYDRA's wrn_28_4 has: the model's, else one of block1 itself. */
static void add_dead_block(struct items *s)
{
    int n = s->n;
    for (int i = 0; i < n; i++) {
        if (strncmp(s->v[i].key, "block1.", 7) != 0)
            continue;
        char *name = hr_xasprintf("sub_%s", s->v[i].key);
        const hr_tensor *own = tensor(s->m, name, "");
        hr_tensor copy = s->v[i].t; /* its data stays that of item i */
        add(s, name, own ? own : &copy);
        free(name);
    }
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && strcmp(s + n - m, tail) == 0;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All other tensors of the model: ADMM's where there is a place for them, the rest (not if bare) beside the
 * value. */
static void add_others(struct items *s, enum hr_torch_layout layout, bool bare)
{
    size_t skip = strlen(s->prefix);
    int n = s->n;
    const char **there = hr_xcalloc((size_t)n + 1, sizeof *there);
    for (int i = 0; i < n; i++)
        there[i] = s->v[i].key + skip;
    qsort(there, (size_t)n, sizeof *there, by_key);
    const char *prefix = s->prefix;
    for (int i = 0; i < s->m->ntensors; i++) {
        const hr_tensor *t = &s->m->tensors[i];
        if (bsearch(&(const char *){t->name}, there, (size_t)n, sizeof *there, by_key))
            continue;
        bool u = ends_with(t->name, ".admm_U"), z = ends_with(t->name, ".admm_Z");
        bool own_place = layout == HR_TORCH_RADMM && (u || z) && t->dtype == HR_F32;
        if (bare && !own_place)
            continue;
        s->prefix = own_place ? prefix : "";
        struct item *it = add(s, t->name, t);
        it->place = !own_place ? BESIDE : u ? IN_U : IN_Z;
        if (own_place)
            it->key[strlen(it->key) - strlen(".admm_U")] = '\0';
    }
    s->prefix = prefix;
    free(there);
}

/* Weights that lose something to their masks, whole. */
static void add_whole(struct items *s)
{
    size_t skip = strlen(s->prefix);
    const char *prefix = s->prefix;
    int n = s->n;
    s->prefix = "";
    for (int i = 0; i < n; i++) {
        const struct item *it = &s->v[i];
        const hr_tensor *t = it->owned && it->place == IN_STATE ? tensor(s->m, it->key + skip, "") : NULL;
        if (t)
            add(s, t->name, t)->place = BESIDE;
    }
    s->prefix = prefix;
}

static void collect(struct items *s, enum hr_torch_layout layout, bool bare)
{
    bool imagenet = strcmp(s->m->arch, "ResNet50") == 0;
    s->prefix = layout == HR_TORCH_RADMM   ? imagenet ? "basic_model." : "module.basic_model."
                : layout == HR_TORCH_HYDRA ? imagenet ? "module." : ""
                                           : "";
    for (int i = 1; i < s->m->nnodes; i++)
        add_node(s, i, layout == HR_TORCH_HYDRA);
    if (layout == HR_TORCH_HYDRA && strcmp(s->m->arch, "wrn_28_4") == 0)
        add_dead_block(s);
    add_others(s, layout, bare);
    if (!bare)
        add_whole(s);
}

static void release(struct items *s)
{
    for (int i = 0; i < s->n; i++) {
        free(s->v[i].key);
        free(s->v[i].owned);
    }
    free(s->v);
}

/* ---- the pickle ---------------------------------------------------------------------------------------- */

static void op(hr_buf *b, char code)
{
    hr_buf_add(b, &code, 1);
}

static void put_little(hr_buf *b, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        op(b, (char)(v >> 8 * i));
}

static void put_str(hr_buf *b, const char *s)
{
    op(b, 'X');
    put_little(b, strlen(s), 4);
    hr_buf_add(b, s, strlen(s));
}

static void put_int(hr_buf *b, int64_t v)
{
    if (v >= 0 && v <= INT32_MAX) {
        op(b, 'J');
        put_little(b, (uint64_t)v, 4);
    } else {
        op(b, '\x8a');
        op(b, 8);
        put_little(b, (uint64_t)v, 8);
    }
}

static void put_global(hr_buf *b, const char *module, const char *name)
{
    hr_buf_printf(b, "c%s\n%s\n", module, name);
}

static void put_empty_ordered_dict(hr_buf *b)
{
    put_global(b, "collections", "OrderedDict");
    hr_buf_add(b, ")R", 2);
}

/* _rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()) */
static void put_tensor(hr_buf *b, const hr_tensor *t, int storage)
{
    char key[16];
    int64_t stride[HR_MAX_DIMS], n = 1;
    snprintf(key, sizeof key, "%d", storage);
    for (int d = t->ndim - 1; d >= 0; d--) {
        stride[d] = n;
        n *= t->shape[d];
    }
    put_global(b, "torch._utils", "_rebuild_tensor_v2");
    hr_buf_add(b, "((", 2);
    put_str(b, "storage");
    put_global(b, "torch", hr_elements[hr_element_of_dtype(t->dtype)].storage);
    put_str(b, key);
    put_str(b, "cpu");
    put_int(b, n);
    hr_buf_add(b, "tQ", 2);
    put_int(b, 0);
    op(b, '(');
    for (int d = 0; d < t->ndim; d++)
        put_int(b, t->shape[d]);
    hr_buf_add(b, "t(", 2);
    for (int d = 0; d < t->ndim; d++)
        put_int(b, stride[d]);
    hr_buf_add(b, "t\x89", 2);
    put_empty_ordered_dict(b);
    hr_buf_add(b, "tR", 2);
}

/* An OrderedDict of the items of one place; storage i is item i. */
static void put_dict(hr_buf *b, const struct items *s, int place)
{
    put_empty_ordered_dict(b);
    op(b, '(');
    for (int i = 0; i < s->n; i++)
        if ((int)s->v[i].place == place) {
            put_str(b, s->v[i].key);
            put_tensor(b, &s->v[i].t, i);
        }
    op(b, 'u');
}

static bool has_place(const struct items *s, int place)
{
    for (int i = 0; i < s->n; i++)
        if ((int)s->v[i].place == place)
            return true;
    return false;
}

static void put_value(hr_buf *b, const struct items *s, enum hr_torch_layout layout)
{
    hr_buf_add(b, "\x80\x02", 2);
    if (layout == HR_TORCH_DENSE) {
        put_dict(b, s, IN_STATE);
    } else {
        hr_buf_add(b, "}(", 2);
        put_str(b, "epoch");
        put_int(b, 0);
        put_str(b, "arch");
        put_str(b, s->m->arch);
        put_str(b, layout == HR_TORCH_HYDRA ? "state_dict" : "net");
        put_dict(b, s, IN_STATE);
        if (layout == HR_TORCH_HYDRA) {
            put_str(b, "best_prec1");
            put_int(b, 0);
        } else {
            put_str(b, strcmp(s->m->arch, "ResNet50") == 0 ? "best_mean_loss" : "best_loss");
            put_int(b, INT32_MAX); /* all are better; weights_only of 1.13 knows no floats */
        }
        if (has_place(s, IN_U) || has_place(s, IN_Z)) {
            put_str(b, "admm");
            hr_buf_add(b, "}(", 2);
            put_str(b, "ADMM_U");
            put_dict(b, s, IN_U);
            put_str(b, "ADMM_Z");
            put_dict(b, s, IN_Z);
            op(b, 'u');
        }
        op(b, 'u');
    }
    op(b, '.');
}

/* ---- the zip ------------------------------------------------------------------------------------------- */

struct zip {
    struct archive *a;
    hr_out *out;
    hr_err *err;
    int broken; /* errno of the first write that failed */
};

/* Failures are noted, not told to libarchive: it would keep its buffer for ever. */
static la_ssize_t write_block(struct archive *a, void *self, const void *p, size_t n)
{
    struct zip *z = self;
    (void)a;
    errno = 0;
    if (!z->broken && fwrite(p, 1, n, hr_out_file(z->out)) != n)
        z->broken = errno ? errno : EIO;
    return (la_ssize_t)n;
}

/* HR_OK, or what went wrong as HR_EIO; archive: what libarchive says. */
static int written(const struct zip *z, bool archive)
{
    if (archive && !z->broken)
        return HR_OK;
    const char *why = z->broken ? strerror(z->broken) : archive_error_string(z->a);
    return hr_fail(z->err, HR_EIO, "%s: writing: %s", hr_out_name(z->out), why ? why : "write error");
}

static int put_record(const struct zip *z, const char *directory, const char *name, const void *p, size_t n)
{
    char *path = hr_xasprintf("archive/%s%s", directory, name);
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_size(e, (la_int64_t)n);
    int rc = written(z, archive_write_header(z->a, e) == ARCHIVE_OK);
    archive_entry_free(e);
    free(path);
    for (const char *at = p; rc == HR_OK && n > 0;) {
        la_ssize_t put = archive_write_data(z->a, at, n);
        rc = written(z, put > 0);
        if (rc)
            break;
        at += put;
        n -= (size_t)put;
    }
    return rc;
}

static int put_text(const struct zip *z, const char *name, const char *text)
{
    return put_record(z, "", name, text, strlen(text));
}

/* The notes, with the description of what lies beside the value. */
static int put_notes(const struct zip *z, const struct items *s, const json_t *history)
{
    json_t *notes = hr_torch_notes(s->m, history), *beside = json_array();
    for (int i = 0; i < s->n; i++) {
        const hr_tensor *t = &s->v[i].t;
        if (s->v[i].place != BESIDE)
            continue;
        json_t *shape = json_array();
        for (int d = 0; d < t->ndim; d++)
            json_array_append_new(shape, json_integer(t->shape[d]));
        json_array_append_new(beside, json_pack("{s:s, s:s, s:o}", "name", s->v[i].key, "dtype",
                                                hr_dtype_names[t->dtype], "shape", shape));
    }
    json_object_set_new(notes, "beside", beside);
    char *text = hr_json_text(notes, 0);
    json_decref(notes);
    int rc = put_text(z, "heracles.json", text);
    free(text);
    return rc;
}

static int put_all(const struct zip *z, const struct items *s, const hr_buf *pickle, bool bare,
                   const json_t *history)
{
    char key[16];
    int rc = put_record(z, "", "data.pkl", pickle->data, pickle->len);
    if (rc == HR_OK)
        rc = put_text(z, "byteorder", "little");
    if (rc == HR_OK && !bare)
        rc = put_notes(z, s, history);
    for (int i = 0; rc == HR_OK && i < s->n; i++) {
        const hr_tensor *t = &s->v[i].t;
        size_t bytes = (size_t)hr_tensor_count(t) * hr_dtype_size(t->dtype);
        snprintf(key, sizeof key, "%d", i);
        rc = s->v[i].place == BESIDE ? put_record(z, "heracles/", s->v[i].key, t->data, bytes)
                                     : put_record(z, "data/", key, t->data, bytes);
    }
    return rc ? rc : put_text(z, "version", "3\n");
}

int hr_torch_write(const hr_model *m, enum hr_torch_layout layout, bool bare, const json_t *history,
                   hr_out *out, hr_err *err)
{
    struct items s = {.m = m};
    struct zip z = {archive_write_new(), out, err, 0};
    hr_buf pickle = {0};
    if (!z.a)
        hr_die("libarchive gives no writer: out of memory");
    collect(&s, layout, bare);
    put_value(&pickle, &s, layout);
    archive_write_set_format_zip(z.a);
    archive_write_zip_set_compression_store(z.a);
    archive_write_set_bytes_per_block(z.a, 1 << 16);
    archive_write_set_bytes_in_last_block(z.a, 1);
    int rc = written(&z, archive_write_open(z.a, &z, NULL, write_block, NULL) == ARCHIVE_OK);
    if (rc == HR_OK)
        rc = put_all(&z, &s, &pickle, bare, history);
    bool closed = archive_write_close(z.a) == ARCHIVE_OK; /* frees libarchive's buffer, after a failure too */
    if (rc == HR_OK)
        rc = written(&z, closed);
    archive_write_free(z.a);
    hr_buf_release(&pickle);
    release(&s);
    return rc;
}
