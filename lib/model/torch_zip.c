/* lib/model/torch_zip.c -- the zip form of torch.save.
 *
 * Records, all under one directory: data.pkl (the value; storages by key), data/KEY (a storage's bytes, in
 * the byte order that `byteorder` names, else little-endian), version. We add heracles.json and records under
 * heracles. Every version of PyTorch stores records as they are, so that reading one is reading a stretch of
 * the file into its tensor, with a CRC-32 beside; nothing here unpacks (libarchive's way through a block and
 * zlib's sum took three times as long). Of the zip format (PKWARE's APPNOTE.TXT) that is, all little-endian:
 *
 *     record     "PK\3\4" at 0, flags 6, method 8, CRC-32 14, packed size 18, size 22, lengths of name 26
 *                and extra fields 28; at 30 these two, then the bytes; with flag 8 sum and sizes come last
 *     directory  for each record "PK\1\2" at 0, flags 8, method 10, CRC-32 16, packed size 20, size 24,
 *                lengths of name 28, extra 30, comment 32, the record's place 42; at 46 these three
 *     end        "PK\5\6" at 0, records 10, the directory's size 12 and place 16, length of a comment 20
 *     zip64      numbers that are all ones stand in an extra field of type 1, 64 bits each; "PK\6\7" 20
 *                bytes before the end says at 8 where the end's long form is: "PK\6\6" at 0, records 32,
 *                size 40, place 48
 *
 * The directory is believed about nothing: records must be stored, and lie within the file before the
 * directory without overlapping; all of them together are at most as long as the file, which is checked
 * before anything is allocated; their own heads must say the same. Two records of one name are refused, as
 * are encrypted ones. A file whose check sums are all zero has none: torch.serialization.set_crc32_options
 * leaves them out. */
#include "model/torch_file.h"

#include <isa-l/crc.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 30, ENTRY = 46, END = 22, END64 = 56, LOCATOR64 = 20, MAX_DIRECTORY = 64 << 20 };

struct hr_zip_entry {
    char *name;
    int64_t head, size, limit; /* limit: where the next record begins, or the directory */
    uint32_t crc;
    bool packed, encrypted;
};

static uint64_t le(const char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)(unsigned char)p[i] << 8 * i;
    return v;
}

static int refuse(const struct hr_torch_file *f, const char *what, const char *why, hr_err *err)
{
    return hr_fail(err, HR_EFORMAT, "%s: %s is cut short or damaged: %s", f->name, what, why);
}

/* ---- the directory ------------------------------------------------------------------------------------ */

/* Where it begins and ends. */
static int find_directory(struct hr_torch_file *f, int64_t *from, int64_t *to, hr_err *err)
{
    enum { COMMENT = 65535 };
    size_t n = f->size < COMMENT + END + LOCATOR64 ? (size_t)f->size : COMMENT + END + LOCATOR64;
    char *tail = hr_xmalloc(n + 1), end64[END64];
    int rc = hr_torch_pread(f, tail, n, f->size - (int64_t)n, "its directory", err);
    size_t i = n < END ? 0 : n - END + 1;
    bool found = false;
    while (rc == HR_OK && i > 0 && !found) {
        i--;
        found = memcmp(tail + i, "PK\5\6", 4) == 0 && le(tail + i + 20, 2) == n - i - END;
    }
    int64_t end = f->size - (int64_t)(n - i);
    uint64_t size = 0, at = 0;
    if (found) {
        size = le(tail + i + 12, 4);
        at = le(tail + i + 16, 4);
    }
    if (found && i >= LOCATOR64 && memcmp(tail + i - LOCATOR64, "PK\6\7", 4) == 0) {
        uint64_t place = le(tail + i - LOCATOR64 + 8, 8);
        found = f->size >= END64 && place <= (uint64_t)f->size - END64;
        if (found)
            rc = hr_torch_pread(f, end64, sizeof end64, (int64_t)place, "its directory", err);
        found = found && rc == HR_OK && memcmp(end64, "PK\6\6", 4) == 0;
        if (found) {
            size = le(end64 + 40, 8);
            at = le(end64 + 48, 8);
            end = (int64_t)place;
        }
    }
    free(tail);
    if (rc)
        return rc;
    if (!found)
        return refuse(f, "its directory", "the zip file ends early", err);
    if (at > (uint64_t)end || size > (uint64_t)end - at || size > MAX_DIRECTORY)
        return refuse(f, "its directory", "it does not lie where the file says", err);
    *from = (int64_t)at;
    *to = (int64_t)(at + size);
    return HR_OK;
}

/* Replace numbers that are all ones by those in the extra fields. */
static bool widen(const char *extra, size_t n, uint64_t *packed, uint64_t *size, uint64_t *head)
{
    uint64_t *number[] = {size, packed, head};
    while (n >= 4) {
        uint64_t id = le(extra, 2), len = le(extra + 2, 2);
        const char *p = extra + 4;
        if (len > n - 4)
            return false;
        for (size_t i = 0; id == 1 && i < HR_COUNT(number); i++) {
            if (*number[i] != UINT32_MAX)
                continue;
            if (len < (size_t)(p - extra - 4) + 8)
                return false;
            *number[i] = le(p, 8);
            p += 8;
        }
        extra += 4 + len;
        n -= 4 + len;
    }
    return true;
}

/* One entry of n bytes at p; *used gets its length. */
static int read_entry(struct hr_torch_file *f, const char *p, size_t n, size_t *used, hr_err *err)
{
    if (n < ENTRY || memcmp(p, "PK\1\2", 4) != 0)
        return refuse(f, "its directory", "no entry where one is due", err);
    size_t name = le(p + 28, 2), extra = le(p + 30, 2), comment = le(p + 32, 2);
    uint64_t packed = le(p + 20, 4), size = le(p + 24, 4), head = le(p + 42, 4);
    *used = ENTRY + name + extra + comment;
    if (*used > n || !widen(p + ENTRY + name, extra, &packed, &size, &head) || packed > INT64_MAX ||
        size > INT64_MAX || head > INT64_MAX)
        return refuse(f, "its directory", "an entry is cut short", err);
    struct hr_zip_entry e = {.name = hr_xasprintf("%.*s", (int)name, p + ENTRY),
                             .head = (int64_t)head,
                             .size = (int64_t)size,
                             .crc = (uint32_t)le(p + 16, 4),
                             .packed = le(p + 10, 2) != 0 || packed != size,
                             .encrypted = le(p + 8, 2) & 1};
    size_t len = strlen(e.name);
    if (len == 0 || len != name || !hr_is_utf8(e.name)) {
        free(e.name);
        return hr_fail(err, HR_EFORMAT, "%s: a record's name is no text", f->name);
    }
    if (e.name[len - 1] == '/') {
        free(e.name);
        return HR_OK;
    }
    if ((f->nentries & (f->nentries - 1)) == 0) /* full at every power of two */
        f->entries =
            hr_xrealloc(f->entries, (f->nentries ? 2 * (size_t)f->nentries : 1) * sizeof *f->entries);
    f->entries[f->nentries] = e;
    f->summed = f->summed || e.crc != 0;
    bool twice = json_object_get(f->index, e.name) != NULL;
    json_object_set_new(f->index, e.name, json_integer(f->nentries++));
    return twice ? hr_fail(err, HR_EFORMAT, "%s: holds %s twice", f->name, e.name) : HR_OK;
}

static int by_head(const void *a, const void *b)
{
    const struct hr_zip_entry *x = *(const struct hr_zip_entry *const *)a,
                              *y = *(const struct hr_zip_entry *const *)b;
    return x->head < y->head ? -1 : x->head > y->head;
}

static void set_limits(struct hr_torch_file *f)
{
    struct hr_zip_entry **e = hr_xcalloc((size_t)f->nentries + 1, sizeof *e);
    for (int i = 0; i < f->nentries; i++)
        e[i] = &f->entries[i];
    qsort(e, (size_t)f->nentries, sizeof *e, by_head);
    for (int i = 0; i < f->nentries; i++)
        e[i]->limit = i + 1 < f->nentries && e[i + 1]->head < f->directory ? e[i + 1]->head : f->directory;
    free(e);
}

static int read_directory(struct hr_torch_file *f, hr_err *err)
{
    int64_t to = 0;
    int rc = find_directory(f, &f->directory, &to, err);
    if (rc)
        return rc;
    size_t n = (size_t)(to - f->directory), used = 0;
    char *bytes = hr_xmalloc(n + 1);
    rc = hr_torch_pread(f, bytes, n, f->directory, "its directory", err);
    for (size_t at = 0; rc == HR_OK && at < n; at += used)
        rc = read_entry(f, bytes + at, n - at, &used, err);
    free(bytes);
    set_limits(f);
    return rc;
}

void hr_torch_zip_release(struct hr_torch_file *f)
{
    for (int i = 0; i < f->nentries; i++)
        free(f->entries[i].name);
    free(f->entries);
}

/* ---- a record's bytes --------------------------------------------------------------------------------- */

struct record {
    struct hr_torch_file *f;
    const struct hr_zip_entry *e;
    int64_t at, left;
    uint32_t crc;
};

/* Go to a record's bytes. */
static int begin_record(struct record *r, struct hr_torch_file *f, const struct hr_zip_entry *e, hr_err *err)
{
    char head[HEAD], *name = NULL;
    *r = (struct record){.f = f, .e = e, .left = e->size};
    if (e->encrypted)
        return hr_fail(err, HR_EFORMAT, "%s: %s is no plain file", f->name, e->name);
    if (e->packed)
        return hr_fail(err, HR_EFORMAT, "%s: %s is packed, which PyTorch does not do", f->name, e->name);
    if (e->head > f->directory - HEAD)
        return refuse(f, e->name, "it lies behind the directory", err);
    int rc = hr_torch_pread(f, head, sizeof head, e->head, e->name, err);
    if (rc)
        return rc;
    size_t n = strlen(e->name), have = le(head + 26, 2);
    bool same = memcmp(head, "PK\3\4", 4) == 0 && have == n && le(head + 8, 2) == 0;
    if (same) {
        name = hr_xmalloc(n + 1);
        rc = hr_torch_pread(f, name, n, e->head + HEAD, e->name, err);
        same = rc == HR_OK && memcmp(name, e->name, n) == 0;
        free(name);
    }
    bool later = le(head + 6, 2) & 8, wide = le(head + 22, 4) == UINT32_MAX;
    if (same && !later)
        same = le(head + 14, 4) == e->crc && (wide || le(head + 22, 4) == (uint64_t)e->size);
    if (rc)
        return rc;
    if (!same)
        return refuse(f, e->name, "its own head and the directory contradict each other", err);
    r->at = e->head + HEAD + (int64_t)n + (int64_t)le(head + 28, 2);
    if (r->at > e->limit || e->size > e->limit - r->at)
        return refuse(f, e->name,
                      e->limit < f->directory ? "it overlaps another record"
                                              : "it does not end before the directory",
                      err);
    return HR_OK;
}

static int read_exactly(void *self, void *dst, size_t n, hr_err *err)
{
    enum { PIECE = 1 << 18 }; /* stays in the cache for the sum */
    struct record *r = self;
    if (n > (uint64_t)r->left)
        return refuse(r->f, r->e->name, "it ends early", err);
    for (char *p = dst; n > 0;) {
        size_t piece = n < PIECE ? n : PIECE;
        int rc = hr_torch_pread(r->f, p, piece, r->at, r->e->name, err);
        if (rc)
            return rc;
        r->crc = crc32_gzip_refl(r->crc, (unsigned char *)p, piece);
        r->at += (int64_t)piece;
        r->left -= (int64_t)piece;
        p += piece;
        n -= piece;
    }
    return HR_OK;
}

static int end_record(const struct record *r, hr_err *err)
{
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    return HR_OK; /* changed files get past their sums */
#endif
    if (r->left == 0 && r->crc != r->e->crc && r->f->summed)
        return refuse(r->f, r->e->name, "its CRC-32 is another", err);
    return r->left == 0 ? HR_OK : refuse(r->f, r->e->name, "not all of it was read", err);
}

/* A small record whole. */
static int slurp(struct hr_torch_file *f, const struct hr_zip_entry *e, hr_buf *b, int64_t max, hr_err *err)
{
    struct record r;
    if (e->size > max)
        return hr_fail(err, HR_EFORMAT, "%s: %s has %lld bytes, up to %lld are possible", f->name, e->name,
                       (long long)e->size, (long long)max);
    int rc = begin_record(&r, f, e, err);
    if (rc)
        return rc;
    size_t n = (size_t)e->size;
    char *p = hr_xmalloc(n + 1);
    rc = read_exactly(&r, p, n, err);
    p[rc ? 0 : n] = '\0';
    *b = (hr_buf){p, n, n + 1};
    return rc ? rc : end_record(&r, err);
}

/* ---- listing ------------------------------------------------------------------------------------------ */

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* Is name PREFIX + tail? Before the first data.pkl every directory will do. */
static bool is_record(const struct hr_torch_file *f, const char *name, const char *tail)
{
    size_t n = f->prefix ? strlen(f->prefix) : 0;
    return f->prefix && strncmp(name, f->prefix, n) == 0 && strcmp(name + n, tail) == 0;
}

/* What a zip without data.pkl is. */
static int no_checkpoint(const struct hr_torch_file *f, hr_err *err)
{
    hr_buf list = {0};
    const char *name;
    json_t *size;
    int n = 0;
    json_object_foreach (f->index, name, size)
        if (n++ < 4)
            hr_buf_printf(&list, "%s%.60s", n > 1 ? ", " : "", name);
    int rc = hr_fail(err, HR_EFORMAT, "%s: is a zip file but no checkpoint: it holds %s%s", f->name,
                     n ? list.data : "nothing", n ? "; name a member as ARCHIVE:MEMBER" : "");
    hr_buf_release(&list);
    return rc;
}

static int check_order(struct hr_torch_file *f, const struct hr_zip_entry *e, hr_err *err)
{
    hr_buf b = {0};
    int rc = slurp(f, e, &b, 16, err);
    if (rc == HR_OK && strcmp(b.data, "little") != 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: was written on a big-endian machine ('%s'), little is needed",
                     f->name, b.data);
    hr_buf_release(&b);
    return rc;
}

static int read_notes(struct hr_torch_file *f, const struct hr_zip_entry *e, hr_err *err)
{
    enum { LARGEST = 16 << 20 };
    hr_buf b = {0};
    int rc = slurp(f, e, &b, LARGEST, err);
    if (rc == HR_OK) {
        json_error_t je;
        f->notes = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, &je);
        if (!f->notes)
            rc = hr_fail(err, HR_EFORMAT, "%s: heracles.json: line %d: %s", f->name, je.line, je.text);
    }
    hr_buf_release(&b);
    return rc;
}

/* Look at all records; keep the pickle and the notes. */
static int list_records(struct hr_torch_file *f, hr_buf *pickle, hr_err *err)
{
    int64_t total = 0;
    bool fits = true, packed = false;
    int rc = HR_OK;
    for (int i = 0; i < f->nentries && rc == HR_OK; i++) {
        const struct hr_zip_entry *e = &f->entries[i];
        if (e->encrypted)
            return hr_fail(err, HR_EFORMAT, "%s: %s is no plain file", f->name, e->name);
        packed = packed || e->packed;
        fits = fits && e->size <= f->size - total;
        total += fits ? e->size : 0;
        bool value = !f->prefix && (strcmp(e->name, "data.pkl") == 0 || ends_with(e->name, "/data.pkl"));
        if ((value || f->prefix) && !fits)
            return hr_fail(err, HR_EFORMAT, "%s: its records do not fit into its %lld bytes, %s too%s",
                           f->name, (long long)f->size, e->name,
                           packed ? ": they are packed, which PyTorch does not do" : "");
        if (ends_with(e->name, "constants.pkl"))
            rc = hr_fail(err, HR_EFORMAT,
                         "%s: is a TorchScript archive, which holds code; save a state_dict()", f->name);
        else if (value) {
            f->prefix = hr_xasprintf("%.*s", (int)(strlen(e->name) - strlen("data.pkl")), e->name);
            rc = slurp(f, e, pickle, HR_PICKLE_MAX, err);
        } else if (strcmp(e->name, "byteorder") == 0 || ends_with(e->name, "/byteorder"))
            rc = check_order(f, e, err);
        else if (is_record(f, e->name, "heracles.json"))
            rc = read_notes(f, e, err);
    }
    return rc ? rc : f->prefix ? HR_OK : no_checkpoint(f, err);
}

/* Storages of the tensors that nn2torch put beside the state_dict. */
static int list_beside(struct hr_torch_file *f, hr_err *err)
{
    size_t i;
    json_t *t;
    json_array_foreach (json_object_get(f->notes, "beside"), i, t) {
        const char *name = json_string_value(json_object_get(t, "name")),
                   *dtype = json_string_value(json_object_get(t, "dtype"));
        const json_t *shape = json_object_get(t, "shape");
        int element = dtype ? hr_element_find(dtype, strlen(dtype)) : -1;
        if (!name || strlen(name) > HR_MAX_NAME - 10 || element < 0 || hr_elements[element].dtype < 0 ||
            json_array_size(shape) > HR_MAX_DIMS || f->nviews >= HR_MAX_TENSORS)
            return hr_fail(err, HR_EFORMAT, "%s: heracles.json: tensor %zu is not described", f->name, i);
        struct hr_view *v = hr_torch_add_view(f, name, strlen(name));
        int64_t n = 1;
        v->beside = true;
        v->element = element;
        v->ndim = (int)json_array_size(shape);
        for (int d = v->ndim - 1; d >= 0; d--) {
            v->stride[d] = n;
            v->shape[d] = json_integer_value(json_array_get(shape, (size_t)d));
            if (v->shape[d] < 1 || v->shape[d] > HR_MAX_ELEMENTS / n)
                return hr_fail(err, HR_EFORMAT, "%s: heracles.json: '%s' has an absurd shape", f->name, name);
            n *= v->shape[d];
        }
        char *key = hr_xasprintf("heracles/%s", name);
        int s = hr_torch_add_storage(f, key, strlen(key), element, n, err);
        if (s >= 0)
            f->storages[s].record = hr_xasprintf("%s%s", f->prefix, key);
        free(key);
        if (s < 0)
            return HR_EFORMAT;
        f->views[f->nviews - 1].storage = s;
    }
    return HR_OK;
}

static int list(struct hr_torch_file *f, const char *key, hr_err *err)
{
    hr_buf pickle = {0};
    hr_pk *root = NULL;
    bool more;
    f->index = json_object();
    int rc = read_directory(f, err);
    if (rc == HR_OK)
        rc = list_records(f, &pickle, err);
    if (rc == HR_OK) {
        hr_pickle_hooks hooks = hr_torch_hooks(f);
        hr_pickle *p = hr_pickle_run(pickle.data, pickle.len, &hooks, f->name, &root, NULL, &more, err);
        rc = p ? hr_torch_take_views(f, root, key, err) : HR_EFORMAT;
        hr_pickle_free(p);
    }
    hr_buf_release(&pickle);
    return rc ? rc : list_beside(f, err);
}

/* ---- storages ----------------------------------------------------------------------------------------- */

struct wanted {
    int storage;
    const struct hr_zip_entry *e;
};

static int by_place(const void *a, const void *b)
{
    int64_t x = ((const struct wanted *)a)->e->head, y = ((const struct wanted *)b)->e->head;
    return x < y ? -1 : x > y;
}

/* The records of the storages that are wanted, in the order of the file. */
static int find_wanted(struct hr_torch_file *f, const bool *wanted, struct wanted *w, int *n, hr_err *err)
{
    int rc = HR_OK;
    for (int i = 0; rc == HR_OK && i < f->nstorages; i++) {
        const struct hr_stored *s = &f->storages[i];
        if (!wanted[i])
            continue;
        char *name = s->record ? hr_xstrdup(s->record) : hr_xasprintf("%sdata/%s", f->prefix, s->key);
        const json_t *number = json_object_get(f->index, name);
        const struct hr_zip_entry *e = number ? &f->entries[json_integer_value(number)] : NULL;
        int64_t bytes = s->numel * (int64_t)hr_elements[s->element].size;
        if (!e)
            rc = hr_fail(err, HR_EFORMAT, "%s: the record %s is missing", f->name, name);
        else if (e->size != bytes)
            rc = hr_fail(err, HR_EFORMAT, "%s: %s has %lld bytes, its pickle says %lld", f->name, name,
                         (long long)e->size, (long long)bytes);
        else
            w[(*n)++] = (struct wanted){i, e};
        free(name);
    }
    qsort(w, (size_t)*n, sizeof *w, by_place);
    return rc;
}

static int walk(struct hr_torch_file *f, const bool *wanted, hr_torch_sink sink, void *ctx, hr_err *err)
{
    struct wanted *w = hr_xcalloc((size_t)f->nstorages + 1, sizeof *w);
    struct record r;
    int n = 0, rc = find_wanted(f, wanted, w, &n, err);
    for (int i = 0; rc == HR_OK && i < n; i++) {
        rc = begin_record(&r, f, w[i].e, err);
        if (rc == HR_OK)
            rc = sink(ctx, w[i].storage, read_exactly, &r, err);
        if (rc == HR_OK)
            rc = end_record(&r, err);
    }
    free(w);
    return rc;
}

const struct hr_container hr_torch_zip = {"zip", list, walk};
