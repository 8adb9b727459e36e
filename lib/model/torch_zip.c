/* lib/model/torch_zip.c -- the zip form of torch.save, through libarchive.
 *
 * Records, all under one directory: data.pkl (the value; storages by key), data/KEY (a storage's bytes,
 * stored, in the byte order that `byteorder` names, else little-endian), version. We add heracles.json and
 * records under heracles. libarchive reads the directory at the end, finds each record's bytes and checks its
 * CRC-32; sizes it believes. So before anything is allocated, records must fit into the file: they are
 * stored, not deflated, by every version of PyTorch, and then all of them together are at most as long as it.
 * That also refuses records that overlap to look longer. Two records of one name are refused, as are
 * encrypted ones. */
#include "model/torch_file.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct zip {
    struct hr_torch_file *f;
    struct archive *a;
    struct archive_entry *entry;
    int64_t pos;
    size_t block_size;
    char *block;
};

static la_ssize_t read_block(struct archive *a, void *self, const void **bytes)
{
    struct zip *z = self;
    ssize_t n;
    do
        n = pread(z->f->fd, z->block, z->block_size, z->pos);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        archive_set_error(a, errno, "%s", strerror(errno));
        return -1;
    }
    z->pos += n;
    *bytes = z->block;
    return n;
}

static la_int64_t seek(struct archive *a, void *self, la_int64_t offset, int whence)
{
    struct zip *z = self;
    (void)a;
    int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? z->pos : z->f->size, to;
    if (__builtin_add_overflow(base, offset, &to) || to < 0)
        return ARCHIVE_FATAL;
    z->pos = to;
    return to;
}

static la_int64_t skip(struct archive *a, void *self, la_int64_t n)
{
    struct zip *z = self;
    (void)a;
    if (n < 0 || n > z->f->size - z->pos)
        return 0;
    z->pos += n;
    return n;
}

static int refuse(const struct zip *z, const char *what, hr_err *err)
{
    const char *why = archive_error_string(z->a);
    return hr_fail(err, HR_EFORMAT, "%s: %s is cut short or damaged: %s", z->f->name, what,
                   why ? why : "the zip file ends early");
}

/* Blocks are small where only directories are read: each record's header costs one. */
static int open_zip(struct zip *z, struct hr_torch_file *f, size_t block_size, hr_err *err)
{
    *z = (struct zip){.f = f, .a = archive_read_new(), .block_size = block_size};
    if (!z->a)
        hr_die("libarchive gives no reader: out of memory");
    if ((int64_t)block_size > f->size)
        z->block_size = (size_t)f->size;
    z->block = hr_xmalloc(z->block_size);
    archive_read_support_format_zip_seekable(z->a);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    archive_read_set_format_option(z->a, "zip", "ignorecrc32", "1");
#endif
    archive_read_set_callback_data(z->a, z);
    archive_read_set_read_callback(z->a, read_block);
    archive_read_set_seek_callback(z->a, seek);
    archive_read_set_skip_callback(z->a, skip);
    return archive_read_open1(z->a) == ARCHIVE_OK ? HR_OK : refuse(z, "it", err);
}

static void close_zip(struct zip *z)
{
    archive_read_free(z->a);
    free(z->block);
}

/* Go to the next record. *name is NULL at the end. */
static int next_record(struct zip *z, const char **name, hr_err *err)
{
    int ar = archive_read_next_header(z->a, &z->entry);
    *name = NULL;
    if (ar == ARCHIVE_EOF)
        return HR_OK;
    if (ar != ARCHIVE_OK)
        return refuse(z, "its directory", err);
    *name = archive_entry_pathname(z->entry);
    return *name ? HR_OK : hr_fail(err, HR_EFORMAT, "%s: a record's name is no text", z->f->name);
}

static int read_exactly(void *self, void *dst, size_t n, hr_err *err)
{
    struct zip *z = self;
    for (char *p = dst; n > 0;) {
        la_ssize_t got = archive_read_data(z->a, p, n);
        if (got <= 0)
            return refuse(z, archive_entry_pathname(z->entry), err);
        p += got;
        n -= (size_t)got;
    }
    return HR_OK;
}

/* libarchive compares the CRC-32 when it reaches a record's end. */
static int read_end(struct zip *z, hr_err *err)
{
    char one;
    la_ssize_t got = archive_read_data(z->a, &one, 1);
    return got == 0 ? HR_OK : refuse(z, archive_entry_pathname(z->entry), err);
}

/* A small record whole. */
static int slurp(struct zip *z, hr_buf *b, int64_t max, hr_err *err)
{
    int64_t size = archive_entry_size(z->entry);
    if (size > max)
        return hr_fail(err, HR_EFORMAT, "%s: %s has %lld bytes, up to %lld are possible", z->f->name,
                       archive_entry_pathname(z->entry), (long long)size, (long long)max);
    char *p = hr_xmalloc((size_t)size + 1);
    int rc = read_exactly(z, p, (size_t)size, err);
    p[size] = '\0';
    *b = (hr_buf){p, (size_t)size, (size_t)size + 1};
    return rc ? rc : read_end(z, err);
}

/* ---- listing ------------------------------------------------------------------------------------------ */

/* Count a record; *fits becomes false when all of them are longer than the file. */
static int check_record(const struct zip *z, const char *name, int64_t *total, bool *fits, hr_err *err)
{
    const struct hr_torch_file *f = z->f;
    if (archive_entry_filetype(z->entry) == AE_IFDIR)
        return HR_OK;
    if (archive_entry_is_encrypted(z->entry) || archive_entry_filetype(z->entry) != AE_IFREG)
        return hr_fail(err, HR_EFORMAT, "%s: %s is no plain file", f->name, name);
    int64_t size = archive_entry_size_is_set(z->entry) ? archive_entry_size(z->entry) : -1;
    *fits = *fits && size >= 0 && size <= f->size - *total;
    *total += *fits ? size : 0;
    if (json_object_get(f->index, name))
        return hr_fail(err, HR_EFORMAT, "%s: holds %s twice", f->name, name);
    if (json_object_set_new(f->index, name, json_integer(size)))
        return hr_fail(err, HR_EFORMAT, "%s: a record's name is no text", f->name);
    return HR_OK;
}

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

static int check_order(struct zip *z, hr_err *err)
{
    hr_buf b = {0};
    int rc = slurp(z, &b, 16, err);
    if (rc == HR_OK && strcmp(b.data, "little") != 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: was written on a big-endian machine ('%s'), little is needed",
                     z->f->name, b.data);
    hr_buf_release(&b);
    return rc;
}

static int read_notes(struct zip *z, hr_err *err)
{
    enum { LARGEST = 16 << 20 };
    hr_buf b = {0};
    int rc = slurp(z, &b, LARGEST, err);
    if (rc == HR_OK) {
        json_error_t je;
        z->f->notes = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, &je);
        if (!z->f->notes)
            rc = hr_fail(err, HR_EFORMAT, "%s: heracles.json: line %d: %s", z->f->name, je.line, je.text);
    }
    hr_buf_release(&b);
    return rc;
}

/* Index all records; keep the pickle and the notes. */
static int list_records(struct zip *z, hr_buf *pickle, hr_err *err)
{
    struct hr_torch_file *f = z->f;
    const char *name;
    int64_t total = 0;
    bool fits = true;
    int rc;
    while ((rc = next_record(z, &name, err)) == HR_OK && name) {
        rc = check_record(z, name, &total, &fits, err);
        if (rc)
            break;
        bool value = !f->prefix && (strcmp(name, "data.pkl") == 0 || ends_with(name, "/data.pkl"));
        if ((value || f->prefix) && !fits)
            return hr_fail(err, HR_EFORMAT, "%s: its records do not fit into its %lld bytes, %s too%s",
                           f->name, (long long)f->size, name,
                           strstr(archive_format_name(z->a), "uncompressed")
                               ? ""
                               : ": they are packed, which PyTorch does not do");
        if (ends_with(name, "constants.pkl"))
            rc = hr_fail(err, HR_EFORMAT,
                         "%s: is a TorchScript archive, which holds code; save a state_dict()", f->name);
        else if (value) {
            f->prefix = hr_xasprintf("%.*s", (int)(strlen(name) - strlen("data.pkl")), name);
            rc = slurp(z, pickle, HR_PICKLE_MAX, err);
        } else if (strcmp(name, "byteorder") == 0 || ends_with(name, "/byteorder"))
            rc = check_order(z, err);
        else if (is_record(f, name, "heracles.json"))
            rc = read_notes(z, err);
        if (rc)
            break;
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
    enum { SMALL = 4096 };
    struct zip z;
    hr_buf pickle = {0};
    hr_pk *root = NULL;
    bool more;
    f->index = json_object();
    int rc = open_zip(&z, f, SMALL, err);
    if (rc == HR_OK)
        rc = list_records(&z, &pickle, err);
    close_zip(&z);
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

/* {record: storage} for those that are wanted and sound. */
static json_t *find_wanted(struct hr_torch_file *f, const bool *wanted, hr_err *err)
{
    json_t *by_record = json_object();
    for (int i = 0; i < f->nstorages; i++) {
        const struct hr_stored *s = &f->storages[i];
        if (!wanted[i])
            continue;
        char *name = s->record ? hr_xstrdup(s->record) : hr_xasprintf("%sdata/%s", f->prefix, s->key);
        const json_t *size = json_object_get(f->index, name);
        int64_t bytes = s->numel * (int64_t)hr_elements[s->element].size;
        if (!size)
            hr_fail(err, HR_EFORMAT, "%s: the record %s is missing", f->name, name);
        else if (json_integer_value(size) != bytes)
            hr_fail(err, HR_EFORMAT, "%s: %s has %lld bytes, its pickle says %lld", f->name, name,
                    (long long)json_integer_value(size), (long long)bytes);
        else
            json_object_set_new(by_record, name, json_integer(i));
        bool sound = size && json_integer_value(size) == bytes;
        free(name);
        if (!sound) {
            json_decref(by_record);
            return NULL;
        }
    }
    return by_record;
}

static int walk(struct hr_torch_file *f, const bool *wanted, hr_torch_sink sink, void *ctx, hr_err *err)
{
    enum { LARGE = 1 << 18 };
    struct zip z;
    const char *name;
    json_t *by_record = find_wanted(f, wanted, err);
    if (!by_record)
        return HR_EFORMAT;
    int rc = open_zip(&z, f, LARGE, err);
    size_t left = json_object_size(by_record);
    while (rc == HR_OK && left > 0 && (rc = next_record(&z, &name, err)) == HR_OK) {
        const json_t *storage = name ? json_object_get(by_record, name) : NULL;
        if (!name)
            rc = hr_fail(err, HR_EFORMAT, "%s: changed while it was read", f->name);
        if (!storage)
            continue;
        left--;
        rc = sink(ctx, (int)json_integer_value(storage), read_exactly, &z, err);
        if (rc == HR_OK)
            rc = read_end(&z, err);
    }
    close_zip(&z);
    json_decref(by_record);
    return rc;
}

const struct hr_container hr_torch_zip = {"zip", list, walk};
