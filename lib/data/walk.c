/* lib/data/walk.c -- the members of a tar archive, read where they are, through libarchive.
 *
 * Two layers: unpack.c gives the bytes of the file, gunzipped and with gzip's check sum verified, or the
 * bytes of an outer walk's member are taken (ImageNet's training archive is a tar of tars); libarchive's tar
 * reader gets them block by block and never sees a file name, so it can be told apart which of the two was
 * damaged. Nothing is stored but the member that is asked for. */
#include "data/internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct hr_walk {
    char *name; /* of the archive, for messages */
    hr_unpack *u;
    hr_walk *outer;
    int64_t taken; /* bytes of the outer member so far */
    hr_in in;      /* opened at one member; one of the three is where the bytes come from */
    struct archive *a;
    struct archive_entry *entry; /* borrowed from a; NULL: none yet, or no more */
    char *where;
    hr_err below; /* what went wrong in the layer below */
    uint8_t block[1 << 16];
};

/* The next bytes of the outer walk's member, where they lie; 0 at its end, -1 with w->below set. Blocks, not
 * archive_read_data: that fills holes with zeros, 2^63 of them if a damaged header says so. */
static la_ssize_t take(hr_walk *w, const void **bytes)
{
    size_t n = 0;
    la_int64_t offset = 0;
    int ar;
    while ((ar = archive_read_data_block(w->outer->a, bytes, &n, &offset)) == ARCHIVE_OK && n == 0)
        ;
    if (ar == ARCHIVE_EOF)
        return 0;
    const char *why = ar == ARCHIVE_OK ? "it has holes" : archive_error_string(w->outer->a);
    if (ar != ARCHIVE_OK || offset != w->taken) {
        hr_fail(&w->below, HR_EFORMAT, "%s: cut short or damaged: %s", w->name,
                why ? why : "no reason given");
        return -1;
    }
    w->taken += (int64_t)n;
    return (la_ssize_t)n;
}

static la_ssize_t read_block(struct archive *a, void *self, const void **bytes)
{
    hr_walk *w = self;
    size_t got = 0;
    *bytes = w->block;
    if (w->outer) {
        la_ssize_t n = take(w, bytes);
        if (n >= 0)
            return n;
    } else if (!w->u) {
        got = fread(w->block, 1, sizeof w->block, w->in.fp);
        if (!ferror(w->in.fp))
            return (la_ssize_t)got;
        hr_fail(&w->below, HR_EIO, "%s: reading: %s", w->name, strerror(errno));
    } else if (hr_unpack_some(w->u, w->block, sizeof w->block, &got, &w->below) == HR_OK) {
        return (la_ssize_t)got;
    }
    archive_set_error(a, EIO, "%s", "the bytes below it ended");
    return -1;
}

/* The layer below knows better than libarchive's tar reader why there are no more bytes. */
static int refuse(hr_walk *w, hr_err *err)
{
    if (w->below.code)
        return hr_fail(err, w->below.code, "%s", w->below.msg);
    const char *why = archive_error_string(w->a);
    return hr_fail(err, HR_EFORMAT, "%s: not a tar archive, cut short or damaged: %s", w->name,
                   why ? why : "no reason given");
}

static int start(hr_walk *w, hr_err *err)
{
    w->a = archive_read_new();
    if (!w->a)
        hr_die("libarchive gives no reader: out of memory");
    archive_read_support_format_tar(w->a);
    archive_read_support_format_empty(w->a);
    return archive_read_open(w->a, w, NULL, read_block, NULL) == ARCHIVE_OK ? HR_OK : refuse(w, err);
}

int hr_walk_open(hr_walk **out, const char *path, hr_err *err)
{
    hr_walk *w = hr_xcalloc(1, sizeof *w);
    *out = NULL;
    int rc = hr_unpack_open(&w->u, path, err);
    if (rc == HR_OK) {
        w->name = hr_xstrdup(strcmp(path, "-") ? path : "<stdin>");
        rc = start(w, err);
    }
    if (rc)
        hr_walk_close(w);
    else
        *out = w;
    return rc;
}

int hr_walk_at(hr_walk **out, const char *path, int64_t offset, hr_err *err)
{
    hr_walk *w = hr_xcalloc(1, sizeof *w);
    *out = NULL;
    int rc = hr_in_open(&w->in, path, err);
    if (rc == HR_OK) {
        w->name = hr_xstrdup(path);
        if (fseeko(w->in.fp, offset, SEEK_SET))
            rc = hr_fail(err, HR_EIO, "%s: seeking: %s", path, strerror(errno));
    }
    if (rc == HR_OK)
        rc = start(w, err);
    if (rc)
        hr_walk_close(w);
    else
        *out = w;
    return rc;
}

int hr_walk_list(const char *path, void (*add)(void *to, const char *name, int64_t offset), void *to,
                 hr_err *err)
{
    struct archive *a = archive_read_new();
    struct archive_entry *e;
    int rc = HR_OK, ar;
    if (!a)
        hr_die("libarchive gives no reader: out of memory");
    archive_read_support_format_tar(a);
    ar = archive_read_open_filename(a, path, 1 << 16);
    while ((ar == ARCHIVE_OK || ar == ARCHIVE_WARN) &&
           ((ar = archive_read_next_header(a, &e)) == ARCHIVE_OK || ar == ARCHIVE_WARN))
        if (archive_entry_filetype(e) == AE_IFREG && archive_entry_pathname(e))
            add(to, archive_entry_pathname(e), archive_read_header_position(a));
    if (ar != ARCHIVE_EOF)
        rc = hr_fail(err, HR_EFORMAT, "%s: not an uncompressed tar archive, cut short or damaged: %s", path,
                     archive_error_string(a) ? archive_error_string(a) : "no reason given");
    archive_read_free(a);
    return rc;
}

int hr_walk_inside(hr_walk **out, hr_walk *outer, hr_err *err)
{
    hr_walk *w = hr_xcalloc(1, sizeof *w);
    *out = NULL;
    w->name = hr_xstrdup(hr_walk_where(outer));
    w->outer = outer;
    int rc = start(w, err);
    if (rc)
        hr_walk_close(w);
    else
        *out = w;
    return rc;
}

void hr_walk_close(hr_walk *w)
{
    if (!w)
        return;
    archive_read_free(w->a);
    hr_unpack_close(w->u);
    hr_in_close(&w->in);
    free(w->name);
    free(w->where);
    free(w);
}

/* Behind the archive's end a tar file is filled up with zeros; gzip's check sum comes after them. */
static int finish(hr_walk *w, hr_err *err)
{
    size_t got = 0;
    int rc;
    if (!w->outer && !w->u)
        return HR_OK;
    if (w->outer) {
        const void *bytes;
        la_ssize_t n;
        while ((n = take(w, &bytes)) > 0)
            ;
        return n == 0 ? HR_OK : refuse(w, err);
    }
    while ((rc = hr_unpack_some(w->u, w->block, sizeof w->block, &got, err)) == HR_OK && got)
        ;
    return rc ? rc : hr_unpack_end(w->u, err);
}

int hr_walk_next(hr_walk *w, const char **name, hr_err *err)
{
    *name = NULL;
    do {
        int ar = archive_read_next_header(w->a, &w->entry);
        if (ar == ARCHIVE_EOF) {
            w->entry = NULL;
            return finish(w, err);
        }
        if ((ar != ARCHIVE_OK && ar != ARCHIVE_WARN) || w->below.code) {
            w->entry = NULL;
            return refuse(w, err);
        }
    } while (archive_entry_filetype(w->entry) != AE_IFREG || !archive_entry_pathname(w->entry));
    /* its holes would be read as zeros that no byte of the archive stands for */
    if (archive_entry_sparse_reset(w->entry) > 0)
        return hr_fail(err, HR_EFORMAT, "%s: is a sparse file, which no published archive holds",
                       hr_walk_where(w));
    *name = archive_entry_pathname(w->entry);
    return HR_OK;
}

const char *hr_walk_where(hr_walk *w)
{
    const char *member = w->entry ? archive_entry_pathname(w->entry) : NULL;
    free(w->where);
    w->where = hr_xasprintf("%s: %s", w->name, member ? member : "the end");
    return w->where;
}

int hr_walk_slurp(hr_walk *w, hr_buf *b, size_t max, hr_err *err)
{
    const void *bytes;
    size_t n;
    la_int64_t offset; /* that of the bytes before: there are no holes */
    int ar;
    b->len = 0;
    hr_buf_add(b, "", 0);
    while ((ar = archive_read_data_block(w->a, &bytes, &n, &offset)) == ARCHIVE_OK) {
        if (n > max - b->len)
            return hr_fail(err, HR_EFORMAT, "%s: longer than the %zu bytes expected", hr_walk_where(w), max);
        hr_buf_add(b, bytes, n);
    }
    return ar == ARCHIVE_EOF && !w->below.code ? HR_OK : refuse(w, err);
}
