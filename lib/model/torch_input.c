/* lib/model/torch_input.c -- any input as a file that can be read at any place, and its digest.
 *
 * A zip's directory stands at its end, so a pipe, standard input and a member of an archive are first copied
 * to a file without a name in $TMPDIR (/tmp), which the kernel removes when we are gone; memory does not grow
 * with them. The first bytes must be those of a checkpoint, so a stream of something else is refused before
 * it fills the disk.
 *
 * The SHA-256 of the bytes is for the history; it is as slow as everything else together, so it runs in a
 * thread beside the reading. Where it comes behind, it takes what was read out of the tensors. */
#include "model/torch_file.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY = 1 << 18, SNIFF = 16 };

static void keep(struct hr_torch_file *f, const void *bytes, size_t n, int64_t at)
{
    pthread_mutex_lock(&f->lock);
    if ((f->nstays & (f->nstays - 1)) == 0)
        f->stays = hr_xrealloc(f->stays, (f->nstays ? 2 * (size_t)f->nstays : 1) * sizeof *f->stays);
    f->stays[f->nstays++] = (struct hr_stretch){at, bytes, n};
    pthread_mutex_unlock(&f->lock);
}

int hr_torch_pread(struct hr_torch_file *f, void *dst, size_t n, int64_t at, const char *what, hr_err *err)
{
    char *p = dst;
    int64_t begin = at;
    for (size_t left = n; left > 0;) {
        ssize_t got = pread(f->fd, p, left, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return hr_fail(err, HR_EIO, "%s: reading %s: %s", f->name, what, strerror(errno));
        if (got == 0)
            return hr_fail(err, HR_EFORMAT, "%s: cut short: %s needs %zu bytes, %zu are left", f->name, what,
                           n, n - left);
        p += got;
        at += got;
        left -= (size_t)got;
    }
    if (f->keeping && f->digesting)
        keep(f, dst, n, begin);
    return HR_OK;
}

/* ---- storages that lie in the file as they are ----------------------------------------------------------
 */

struct stretch {
    struct hr_torch_file *f;
    int64_t at;
};

static int read_stretch(void *self, void *dst, size_t n, hr_err *err)
{
    struct stretch *s = self;
    int rc = hr_torch_pread(s->f, dst, n, s->at, "a storage", err);
    s->at += (int64_t)n;
    return rc;
}

int hr_torch_walk(struct hr_torch_file *f, const bool *wanted, hr_torch_sink sink, void *ctx, hr_err *err)
{
    int rc = HR_OK;
    for (int i = 0; rc == HR_OK && i < f->nstorages; i++)
        if (wanted[i])
            rc = sink(ctx, i, read_stretch, &(struct stretch){f, f->storages[i].at}, err);
    return rc;
}

/* ---- the digest --------------------------------------------------------------------------------------- */

/* The first stretch, of those from *passed on, that ends behind `at`; one beyond any file when there is none.
 * They are kept in the order in which they were read, mostly that of the file; one that is missed is read
 * again. */
static struct hr_stretch next_stretch(struct hr_torch_file *f, int64_t at, int *passed)
{
    struct hr_stretch s = {.at = INT64_MAX};
    pthread_mutex_lock(&f->lock);
    while (*passed < f->nstays && f->stays[*passed].at + (int64_t)f->stays[*passed].n <= at)
        ++*passed;
    if (*passed < f->nstays)
        s = f->stays[*passed];
    pthread_mutex_unlock(&f->lock);
    return s;
}

static void *digest(void *self)
{
    struct hr_torch_file *f = self;
    hr_sha256 *sha = hr_sha256_new();
    char *block = hr_xmalloc(COPY);
    ssize_t n;
    int passed = 0;
    for (int64_t at = 0;; at += n) {
        struct hr_stretch s = next_stretch(f, at, &passed);
        if (s.at <= at) {
            s.n -= (size_t)(at - s.at);
            s.bytes += at - s.at;
        } else {
            n = pread(f->fd, block, s.at - at < COPY ? (size_t)(s.at - at) : COPY, at);
            s = (struct hr_stretch){at, block, n > 0 ? (size_t)n : 0};
        }
        if (s.n == 0)
            break;
        hr_sha256_add(sha, s.bytes, s.n);
        n = (ssize_t)s.n;
    }
    hr_sha256_end(sha, f->digest);
    free(block);
    return NULL;
}

void hr_torch_await_digest(struct hr_torch_file *f)
{
    if (f->digesting)
        pthread_join(f->digester, NULL);
    else if (!*f->digest)
        digest(f);
    f->digesting = false;
}

/* ---- what it is --------------------------------------------------------------------------------------- */

static int sniff(struct hr_torch_file *f, const unsigned char *b, size_t n, hr_err *err)
{
    static const unsigned char tar_of_old[] = "storages";
    uint64_t header = 0;
    for (int i = 0; n >= 9 && i < 8; i++)
        header |= (uint64_t)b[i] << 8 * i;
    /* safetensors first: the length that it begins with may look like any of the others; none of those has a
     * brace there (a zip its method, a row of pickles PyTorch's magic number) */
    if (n >= 9 && header < (1 << 30) && b[8] == '{')
        f->container = &hr_safetensors;
    else if (n >= 4 && memcmp(b, "PK\3\4", 4) == 0)
        f->container = &hr_torch_zip;
    else if (n >= 2 && (b[0] == 0x80 || (b[0] == 'L' && b[1] == '1')))
        f->container = &hr_torch_legacy;
    else if (n >= sizeof tar_of_old - 1 && memcmp(b, tar_of_old, sizeof tar_of_old - 1) == 0)
        return hr_fail(err, HR_EFORMAT,
                       "%s: is a tar file of PyTorch before 0.2; load and save it with a newer one", f->name);
    else if (n >= 2 && b[0] == 0x92 && b[1] == 0xc6)
        return hr_fail(err, HR_EFORMAT, "%s: is a .nn file already", f->name);
    else
        return hr_fail(err, HR_EFORMAT, "%s: is no PyTorch checkpoint and no safetensors file%s", f->name,
                       n == 0 ? ": it is empty" : "");
    return HR_OK;
}

/* ---- copies ------------------------------------------------------------------------------------------- */

static int nameless_file(struct hr_torch_file *f, hr_err *err)
{
    const char *dir = getenv("TMPDIR");
    dir = dir && *dir ? dir : "/tmp";
    f->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (f->fd < 0) { /* a file system without them */
        char *path = hr_xasprintf("%s/heracles-XXXXXX", dir);
        f->fd = mkostemp(path, O_CLOEXEC);
        if (f->fd >= 0)
            unlink(path);
        free(path);
    }
    if (f->fd < 0)
        return hr_fail(err, HR_EIO, "%s: no room for a copy in %s: %s", f->name, dir, strerror(errno));
    f->own_fd = true;
    return HR_OK;
}

static int append(struct hr_torch_file *f, const char *p, size_t n, hr_err *err)
{
    while (n > 0) {
        ssize_t put = write(f->fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return hr_fail(err, HR_EIO, "%s: copying it to a temporary file: %s", f->name, strerror(errno));
        p += put;
        n -= (size_t)put;
        f->size += put;
    }
    return HR_OK;
}

/* Reads up to n bytes; less only at the end. -1 with err set. */
typedef ssize_t (*fill_block)(void *self, char *dst, size_t n, hr_err *err);

static int copy_all(struct hr_torch_file *f, fill_block fill, void *self, hr_err *err)
{
    char *block = hr_xmalloc(COPY);
    int rc = nameless_file(f, err);
    for (bool first = true; rc == HR_OK; first = false) {
        ssize_t n = fill(self, block, COPY, err);
        if (n < 0)
            rc = err ? err->code : HR_EIO;
        else if (first)
            rc = sniff(f, (const unsigned char *)block, (size_t)n, err);
        if (rc || n == 0)
            break;
        rc = append(f, block, (size_t)n, err);
    }
    free(block);
    return rc;
}

static ssize_t fill_from_input(void *self, char *dst, size_t n, hr_err *err)
{
    hr_in *in = self;
    size_t got = fread(dst, 1, n, in->fp);
    if (!ferror(in->fp))
        return (ssize_t)got;
    hr_fail(err, HR_EIO, "%s: reading: %s", in->name, strerror(errno));
    return -1;
}

/* ---- a member of an archive --------------------------------------------------------------------------- */

struct member {
    struct archive *a;
    const char *name;
    int64_t left; /* of the size that the archive announced; -1: it did not */
};

static ssize_t fill_from_member(void *self, char *dst, size_t n, hr_err *err)
{
    struct member *m = self;
    la_ssize_t got = archive_read_data(m->a, dst, n);
    if (got < 0) {
        hr_fail(err, HR_EFORMAT, "%s: cut short or damaged: %s", m->name, archive_error_string(m->a));
        return -1;
    }
    if (m->left >= 0 && got > m->left) {
        hr_fail(err, HR_EFORMAT, "%s: is longer than its archive says", m->name);
        return -1;
    }
    m->left -= m->left >= 0 ? got : 0;
    return got;
}

static int open_archive(struct archive **a, const char *path, hr_err *err)
{
    *a = archive_read_new();
    if (!*a)
        hr_die("libarchive gives no reader: out of memory");
    archive_read_support_filter_gzip(*a);
    archive_read_support_format_zip(*a);
    archive_read_support_format_tar(*a);
    if (archive_read_open_filename(*a, path, COPY) == ARCHIVE_OK)
        return HR_OK;
    return hr_fail(err, HR_EFORMAT, "%s: is no zip or tar archive: %s", path, archive_error_string(*a));
}

/* Go to the member; on failure the message lists what there is. A name without a directory may be in one:
 * when the only such member was passed over, *inside gets its whole name, which the caller frees. */
static int find_member(struct archive *a, const char *archive, const char *name, struct archive_entry **entry,
                       char **inside, hr_err *err)
{
    hr_buf list = {0};
    int ar, listed = 0, rc = HR_OK, like = 0;
    bool found = false;
    *inside = NULL;
    while (!found && (ar = archive_read_next_header(a, entry)) == ARCHIVE_OK) {
        const char *path = archive_entry_pathname(*entry), *slash = path ? strrchr(path, '/') : NULL;
        found = path && strcmp(path, name) == 0;
        if (slash && strcmp(slash + 1, name) == 0 && like++ == 0)
            *inside = hr_xstrdup(path);
        if (path && archive_entry_filetype(*entry) == AE_IFREG && listed < 8)
            hr_buf_printf(&list, "%s%.60s", listed++ ? ", " : "", path);
    }
    if (!found && ar != ARCHIVE_EOF)
        rc = hr_fail(err, HR_EFORMAT, "%s: is no zip or tar archive: %s", archive, archive_error_string(a));
    else if (!found)
        rc = hr_fail(err, HR_EFORMAT, "%s: holds %s '%s', but %s", archive, like > 1 ? "more than one" : "no",
                     name, listed ? list.data : "no file at all");
    else if (archive_entry_filetype(*entry) != AE_IFREG || archive_entry_is_encrypted(*entry))
        rc = hr_fail(err, HR_EFORMAT, "%s: '%s' is no plain file", archive, name);
    if (found || ar != ARCHIVE_EOF || like != 1) {
        free(*inside);
        *inside = NULL;
    }
    hr_buf_release(&list);
    return rc;
}

static int copy_member(struct hr_torch_file *f, const char *archive, const char *name, int64_t archive_size,
                       hr_err *err)
{
    enum { MOST = 1100 }; /* deflate makes at most 1032 bytes of one */
    struct archive_entry *entry;
    struct member m = {.name = f->name};
    char *inside = NULL, *again = NULL;
    int rc = open_archive(&m.a, archive, err);
    if (rc == HR_OK)
        rc = find_member(m.a, archive, name, &entry, &inside, err);
    if (inside) {
        archive_read_free(m.a);
        rc = open_archive(&m.a, archive, err);
        if (rc == HR_OK)
            rc = find_member(m.a, archive, inside, &entry, &again, err);
    }
    if (rc == HR_OK) {
        m.left = archive_entry_size_is_set(entry) ? archive_entry_size(entry) : -1;
        if (m.left > archive_size * MOST)
            rc = hr_fail(err, HR_EFORMAT, "%s: '%s' cannot have the %lld bytes that it claims", archive, name,
                         (long long)m.left);
    }
    if (rc == HR_OK)
        rc = copy_all(f, fill_from_member, &m, err);
    archive_read_free(m.a);
    free(inside);
    free(again);
    return rc;
}

/* Where the name of an archive ends in ARCHIVE:MEMBER, or NULL: the first colon behind which something comes
 * and before which there is a regular file. */
static char *archive_of(const char *path, const char **member, int64_t *size)
{
    struct stat st;
    if (stat(path, &st) == 0)
        return NULL;
    for (const char *colon = strchr(path, ':'); colon; colon = strchr(colon + 1, ':')) {
        char *head = hr_xasprintf("%.*s", (int)(colon - path), path);
        if (colon[1] && stat(head, &st) == 0 && S_ISREG(st.st_mode)) {
            *member = colon + 1;
            *size = st.st_size;
            return head;
        }
        free(head);
    }
    return NULL;
}

/* ---- open and close ----------------------------------------------------------------------------------- */

static int open_plain(struct hr_torch_file *f, const char *path, hr_err *err)
{
    hr_in in;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    free(f->name);
    f->name = hr_xstrdup(in.name);
    if (in.size >= 0) {
        char head[SNIFF];
        size_t n = in.size < SNIFF ? (size_t)in.size : SNIFF;
        f->fd = fcntl(fileno(in.fp), F_DUPFD_CLOEXEC, 3);
        f->own_fd = true;
        f->size = in.size;
        rc = f->fd < 0 ? hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno))
                       : hr_torch_pread(f, head, n, 0, "its beginning", err);
        if (rc == HR_OK)
            rc = sniff(f, (unsigned char *)head, n, err);
    } else {
        rc = copy_all(f, fill_from_input, &in, err);
    }
    hr_in_close(&in);
    return rc;
}

int hr_torch_open(struct hr_torch_file *f, const char *path, bool want_digest, hr_err *err)
{
    const char *member;
    int64_t size;
    char *archive = archive_of(path, &member, &size);
    *f = (struct hr_torch_file){
        .fd = -1, .name = hr_xstrdup(path), .keys = json_object(), .lock = PTHREAD_MUTEX_INITIALIZER};
    int rc = archive ? copy_member(f, archive, member, size, err) : open_plain(f, path, err);
    free(archive);
    if (rc) {
        hr_torch_close(f);
        return rc;
    }
    f->digesting = want_digest && f->size > COPY && pthread_create(&f->digester, NULL, digest, f) == 0;
    return HR_OK;
}

void hr_torch_close(struct hr_torch_file *f)
{
    if (f->digesting)
        pthread_join(f->digester, NULL);
    if (f->own_fd)
        close(f->fd);
    for (int i = 0; i < f->nstorages; i++) {
        free(f->storages[i].key);
        free(f->storages[i].record);
    }
    for (int i = 0; i < f->nviews; i++)
        free(f->views[i].key);
    free(f->stays);
    free(f->storages);
    free(f->views);
    free(f->name);
    free(f->prefix);
    json_decref(f->notes);
    json_decref(f->index);
    hr_torch_zip_release(f);
    json_decref(f->keys);
    *f = (struct hr_torch_file){.fd = -1};
}
