/* lib/train/log.c -- the log of a training run, one JSON object per line.
 *
 * The file grows while the run goes on, for people to watch; what counts are the lines in memory, which the
 * run saves with its state. A run that was killed has written lines after its last saved state: when it goes
 * on, hr_log_cut takes them away, and they come again. */
#include "train/train.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int hr_log_open(hr_log *log, const char *path, hr_err *err)
{
    struct stat st;
    *log = (hr_log){.name = path};
    if (!path)
        return HR_OK;
    if (strcmp(path, "-") == 0) {
        log->fp = stdout;
        return HR_OK;
    }
    bool plain = stat(path, &st) != 0 || S_ISREG(st.st_mode);
    int fd = open(path, (plain ? O_RDWR | O_CREAT : O_WRONLY) | O_CLOEXEC, 0666);
    log->fp = fd < 0 ? NULL : fdopen(fd, plain ? "r+" : "w");
    return log->fp ? HR_OK : hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno));
}

static int write_lines(hr_log *log, size_t from, hr_err *err)
{
    int rc = hr_log_events(log, err);
    if (rc || !log->fp)
        return rc;
    errno = 0;
    fwrite(log->lines.data + from, 1, log->lines.len - from, log->fp);
    if (fflush(log->fp) || ferror(log->fp))
        return hr_fail(err, HR_EIO, "%s: writing: %s", log->name, errno ? strerror(errno) : "write error");
    return HR_OK;
}

int hr_log_cut(hr_log *log, hr_err *err)
{
    struct stat st;
    size_t n = log->lines.len;
    int rc = hr_log_events(log, err);
    if (rc)
        return rc;
    if (!log->fp || (n == 0 && log->fp == stdout))
        return HR_OK;
    int fd = fileno(log->fp);
    if (log->fp != stdout && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        char *old = hr_xmalloc(n);
        bool same = pread(fd, old, n, 0) == (ssize_t)n && (n == 0 || memcmp(old, log->lines.data, n) == 0);
        free(old);
        if (ftruncate(fd, same ? (off_t)n : 0) || fseeko(log->fp, 0, SEEK_END))
            return hr_fail(err, HR_EIO, "%s: %s", log->name, strerror(errno));
        if (same)
            return HR_OK;
    }
    return n ? write_lines(log, 0, err) : HR_OK;
}

static void add_number(json_t *j, const char *key, double v)
{
    json_object_set_new(j, key, isfinite(v) ? json_real(v) : json_null());
}

int hr_log_json(hr_log *log, const json_t *j, hr_err *err)
{
    size_t from = log->lines.len;
    char *text = hr_json_text(j, 0);
    hr_buf_printf(&log->lines, "%s\n", text);
    free(text);
    return write_lines(log, from, err);
}

int hr_log_add(hr_log *log, const hr_epoch *e, hr_err *err)
{
    json_t *j = json_pack("{s:i, s:s}", "epoch", e->epoch, "split", e->split);
    add_number(j, "loss", e->loss);
    add_number(j, "clean", e->clean);
    add_number(j, "robust", e->robust);
    add_number(j, "lr", e->lr);
    if (e->collapsed)
        json_object_set_new(j, "collapsed", json_true());
    int rc = hr_log_json(log, j, err);
    json_decref(j);
    return rc;
}

void hr_log_close(hr_log *log)
{
    if (log->fp && log->fp != stdout)
        fclose(log->fp);
    hr_buf_release(&log->lines);
    free(log->events_name);
    *log = (hr_log){0};
}
