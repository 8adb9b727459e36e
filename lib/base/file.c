/* lib/base/file.c -- inputs that know their length, outputs that appear whole or not at all.
 *
 * An output NAME is written as .NAME.partial in the same directory. The partial file is locked with flock
 * for as long as it is written: a second writer of the same output is told so instead of mixing its bytes
 * in, while the leftover of a killed process (whose lock the kernel dropped) is taken over and cut to zero.
 * Commit flushes, fsyncs, renames, and fsyncs the directory, in this order, so that after a crash the name
 * holds either the old bytes or all of the new ones.
 *
 * Several outputs of one run: between hr_outs_hold and hr_outs_publish a commit stops before the rename. What
 * is likely to fail (a full disk, a dead reader of standard output) then fails while every older file is
 * still in place; the renames follow when nothing but renames is left to do.
 *
 * All open partial files are in one list. Whoever leaves by exit - hr_die does, out of memory too - leaves
 * none behind. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IO_BUFFER = 1 << 18 };

int hr_in_open(hr_in *in, const char *path, hr_err *err)
{
    *in = (hr_in){.size = -1};
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *fp = is_stdin ? stdin : fopen(path, "rb");
    if (!fp)
        return hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno));

    struct stat st;
    int rc = HR_OK;
    if (fstat(fileno(fp), &st))
        rc = hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        rc = hr_fail(err, HR_EIO, "%s: is a directory, a file is needed", path);
    if (rc) {
        if (!is_stdin)
            fclose(fp);
        return rc;
    }
    in->fp = fp;
    in->name = hr_xstrdup(is_stdin ? "<stdin>" : path);
    if (S_ISREG(st.st_mode) && !is_stdin)
        in->size = st.st_size;
    setvbuf(fp, NULL, _IOFBF, IO_BUFFER);
    return HR_OK;
}

void hr_in_close(hr_in *in)
{
    if (in->fp && in->fp != stdin)
        fclose(in->fp);
    free(in->name);
    *in = (hr_in){.size = -1};
}

int hr_in_read(hr_in *in, void *dst, size_t n, const char *what, hr_err *err)
{
    size_t got = fread(dst, 1, n, in->fp);
    if (got == n)
        return HR_OK;
    if (ferror(in->fp))
        return hr_fail(err, HR_EIO, "%s: reading %s: %s", in->name, what, strerror(errno));
    return hr_fail(err, HR_EFORMAT, "%s: cut short: %s needs %zu bytes, %zu are left", in->name, what, n,
                   got);
}

int hr_in_slurp(hr_in *in, hr_buf *b, size_t max, hr_err *err)
{
    char block[1 << 16];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in->fp)) > 0) {
        if (b->len + n > max)
            return hr_fail(err, HR_EFORMAT, "%s: larger than the %zu bytes allowed", in->name, max);
        hr_buf_add(b, block, n);
    }
    if (ferror(in->fp))
        return hr_fail(err, HR_EIO, "%s: %s", in->name, strerror(errno));
    return HR_OK;
}

struct hr_out {
    FILE *fp;
    char *path, *partial; /* partial is NULL when the target is written directly */
    const char *name;
    bool held; /* complete and synced, waits for hr_outs_publish */
    hr_out *next;
};

/* Outputs with a partial file, in the order in which they were opened. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static hr_out *outputs;
static bool holding;

/* A child that was forked while we wrote has no part in our outputs. */
static void forget_parents(void)
{
    static pid_t owner;
    if (owner != getpid())
        outputs = NULL;
    owner = getpid();
}

static void remove_partials(void)
{
    forget_parents();
    for (const hr_out *o = outputs; o; o = o->next)
        unlink(o->partial);
}

static void list_add(hr_out *out)
{
    static bool registered;
    hr_out **at = &outputs;
    pthread_mutex_lock(&list_lock);
    forget_parents();
    if (!registered)
        registered = atexit(remove_partials) == 0;
    while (*at)
        at = &(*at)->next;
    *at = out;
    pthread_mutex_unlock(&list_lock);
}

static void list_remove(const hr_out *out)
{
    pthread_mutex_lock(&list_lock);
    for (hr_out **at = &outputs; *at; at = &(*at)->next)
        if (*at == out) {
            *at = out->next;
            break;
        }
    pthread_mutex_unlock(&list_lock);
}

static bool list_has(const char *path)
{
    bool found = false;
    pthread_mutex_lock(&list_lock);
    forget_parents();
    for (const hr_out *o = outputs; o && !found; o = o->next)
        found = strcmp(o->path, path) == 0;
    pthread_mutex_unlock(&list_lock);
    return found;
}

/* DIR/.BASE.partial for DIR/BASE */
static char *partial_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash - path) + 1 : 0;
    return hr_xasprintf("%.*s.%s.partial", dir, path, path + dir);
}

/* Is fd the file that bears this name? errno says why not. */
static bool is_named(int fd, const char *name)
{
    struct stat held, named;
    errno = ENOENT;
    return fstat(fd, &held) == 0 && stat(name, &named) == 0 && held.st_ino == named.st_ino &&
           held.st_dev == named.st_dev;
}

/* Open and lock the partial file. Another writer may rename the file between our open and our lock, so the
 * name is checked again once the lock is held. */
static int open_partial(const char *partial, const char *path, hr_err *err)
{
    for (;;) {
        int fd = open(partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) {
            hr_fail(err, HR_EIO, "%s: cannot write beside it: %s", path, strerror(errno));
            return -1;
        }
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            hr_fail(err, HR_EIO, "%s: %s", path,
                    errno == EWOULDBLOCK ? "another process is writing it now" : strerror(errno));
            close(fd);
            return -1;
        }
        if (is_named(fd, partial)) {
            if (ftruncate(fd, 0) == 0)
                return fd;
            hr_fail(err, HR_EIO, "%s: %s", partial, strerror(errno));
            close(fd);
            return -1;
        }
        close(fd);
    }
}

int hr_out_open(hr_out **out, const char *path, int flags, hr_err *err)
{
    struct stat st;
    hr_out *o = hr_xcalloc(1, sizeof *o);
    *out = NULL;
    if (strcmp(path, "-") == 0) {
        if ((flags & HR_OUT_BINARY) && isatty(STDOUT_FILENO)) {
            free(o);
            return hr_fail(err, HR_EINVAL,
                           "standard output is a terminal; redirect it or name a file with -o");
        }
        o->fp = stdout;
        o->name = "<stdout>";
        *out = o;
        return HR_OK;
    }
    o->path = hr_xstrdup(path);
    o->name = o->path;
    if (!*path || list_has(path)) {
        int rc = *path ? hr_fail(err, HR_EINVAL, "%s: is the name of two outputs", path)
                       : hr_fail(err, HR_EINVAL, "the name of an output is empty");
        free(o->path);
        free(o);
        return rc;
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        if (S_ISDIR(st.st_mode))
            hr_fail(err, HR_EIO, "%s: is a directory, a file name is needed", path);
        else if (!(o->fp = fopen(path, "wb")))
            hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno));
    } else {
        o->partial = partial_name(path);
        int fd = open_partial(o->partial, path, err);
        if (fd >= 0)
            o->fp = fdopen(fd, "wb");
    }
    if (!o->fp) {
        free(o->partial);
        free(o->path);
        free(o);
        return HR_EIO;
    }
    setvbuf(o->fp, NULL, _IOFBF, IO_BUFFER);
    if (o->partial)
        list_add(o);
    *out = o;
    return HR_OK;
}

int hr_out_try(const char *path, int flags, hr_err *err)
{
    hr_out *out;
    int rc = hr_out_open(&out, path, flags, err);
    if (rc == HR_OK)
        hr_out_abort(out);
    return rc;
}

FILE *hr_out_file(hr_out *out)
{
    return out->fp;
}

const char *hr_out_name(const hr_out *out)
{
    return out->name;
}

static void sync_directory(const char *path)
{
    char *copy = hr_xstrdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!fsync(fd); /* some file systems refuse this; the rename itself stands */
        close(fd);
    }
    free(copy);
}

/* ---- crash points, for tests */

void hr_crash_point(const char *point)
{
    static _Atomic int64_t passed; /* attacks pass their point in several threads */
    const char *want = getenv("HERACLES_CRASH");
    size_t len = strlen(point);
    if (!want || strncmp(want, point, len) != 0 || want[len] != ':')
        return;
    char *rest;
    long long at = strtoll(want + len + 1, &rest, 10);
    if (++passed == at)
        raise(strcmp(rest, ":TERM") == 0 ? SIGTERM : SIGKILL);
}

static int fail_step(hr_out *out, const char *step, hr_err *err)
{
    int rc = hr_fail(err, HR_EIO, "%s: %s: %s", out->name, step, errno ? strerror(errno) : "write error");
    hr_out_abort(out);
    return rc;
}

/* The rename of a synced output. Releases out. */
static int make_visible(hr_out *out, hr_err *err)
{
    errno = 0;
    hr_crash_point("rename");
    if (out->partial && rename(out->partial, out->path))
        return fail_step(out, "renaming", err);
    hr_crash_point("renamed");
    if (out->partial) {
        list_remove(out);
        sync_directory(out->path);
        free(out->partial);
        out->partial = NULL;
    }
    hr_out_abort(out);
    return HR_OK;
}

int hr_out_commit(hr_out *out, hr_err *err)
{
    errno = 0;
    hr_crash_point("write");
    if (ferror(out->fp) || fflush(out->fp))
        return fail_step(out, "writing", err);
    if (out->partial && fsync(fileno(out->fp)))
        return fail_step(out, "syncing", err);
    if (!holding || !out->partial)
        return make_visible(out, err);
    out->held = true;
    return HR_OK;
}

void hr_out_abort(hr_out *out)
{
    if (!out)
        return;
    if (out->partial) {
        list_remove(out);
        unlink(out->partial);
    }
    if (out->fp && out->fp != stdout)
        fclose(out->fp);
    free(out->partial);
    free(out->path);
    free(out);
}

/* The first output that waits, or NULL. */
static hr_out *first_held(void)
{
    hr_out *o;
    pthread_mutex_lock(&list_lock);
    for (o = outputs; o && !o->held; o = o->next)
        ;
    pthread_mutex_unlock(&list_lock);
    return o;
}

void hr_outs_hold(void)
{
    holding = true;
}

int hr_outs_publish(hr_err *err)
{
    int rc = HR_OK;
    hr_out *o;
    for (o = outputs; rc == HR_OK && o; o = o->next)
        if (o->held && !is_named(fileno(o->fp), o->partial)) /* its directory vanished, or was moved */
            rc = hr_fail(err, HR_EIO, "%s: renaming: %s", o->name, strerror(errno));
    while (rc == HR_OK && (o = first_held()))
        rc = make_visible(o, err);
    hr_outs_drop();
    return rc;
}

void hr_outs_drop(void)
{
    hr_out *o;
    while ((o = first_held()))
        hr_out_abort(o);
    holding = false;
}

int hr_mkdirs(const char *path, hr_err *err)
{
    char *copy = hr_xstrdup(path);
    int rc = HR_OK;
    for (char *p = copy + 1; rc == HR_OK && *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(copy, 0777) && errno != EEXIST)
            rc = hr_fail(err, HR_EIO, "%s: %s", copy, strerror(errno));
        *p = '/';
    }
    struct stat st;
    if (rc == HR_OK && mkdir(copy, 0777) && (errno != EEXIST || stat(copy, &st) || !S_ISDIR(st.st_mode)))
        rc = hr_fail(err, HR_EIO, "%s: %s", copy, strerror(errno == EEXIST ? ENOTDIR : errno));
    free(copy);
    return rc;
}
