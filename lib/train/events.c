/* lib/train/events.c -- the log's lines once more, as a file that TensorBoard shows.
 *
 * An event file is a row of framed records (lib/data/tfrecord.c), each a protocol buffer of TensorFlow's
 * event.proto and summary.proto, of which these fields are used:
 *
 *     Event    1 wall_time: double   2 step: int64   3 file_version: string   5 summary: Summary
 *     Summary  1 value: Value, repeated
 *     Value    1 tag: string         2 simple_value: float
 *
 * The first event has the version "brain.Event:2". A line of the log becomes one event: its epoch is the
 * step, and every number in it a value called SPLIT/KEY, or SPLIT/KEY/NAME inside an object. Numbers that
 * were not measured are left out.
 *
 * All that is not in the log's lines is the time, which has a fixed length. So the file that belongs to given
 * lines can be made out of them and the times in an older file: when a run goes on, what the older one has
 * too many of is cut off, and what it lacks or has otherwise is written anew. */
#include "train/train.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_HEAD = 12, TIME_AT = FRAME_HEAD + 1, MAX_OLD = 1 << 28 };

static void put_bytes(hr_buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++, v >>= 8)
        hr_buf_add(b, &(uint8_t){(uint8_t)v}, 1);
}

static void put_varint(hr_buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        put_bytes(b, (v & 0x7f) | 0x80, 1);
    put_bytes(b, v, 1);
}

/* A field of bytes: its number, length and content. */
static void put_field(hr_buf *b, unsigned number, const void *data, size_t n)
{
    put_varint(b, number << 3 | 2);
    put_varint(b, n);
    hr_buf_add(b, data, n);
}

static void put_value(hr_buf *summary, const char *tag, double v)
{
    hr_buf value = {0};
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    put_field(&value, 1, tag, strlen(tag));
    put_varint(&value, 2 << 3 | 5);
    put_bytes(&value, bits, 4);
    put_field(summary, 1, value.data, value.len);
    hr_buf_release(&value);
}

static void put_numbers(hr_buf *summary, const char *prefix, const json_t *j)
{
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)j, key, v) {
        char *tag = hr_xasprintf("%s/%s", prefix, key);
        if (json_is_object(v))
            put_numbers(summary, tag, v);
        else if (strcmp(key, "epoch") != 0 && (json_is_number(v) || json_is_true(v)))
            put_value(summary, tag, json_is_true(v) ? 1.0 : json_number_value(v));
        free(tag);
    }
}

/* The time that the event behind `at` bytes of an older file has, or now. */
static double time_of(const hr_buf *old, size_t at)
{
    uint64_t bits = 0;
    double t;
    for (int i = 7; at + TIME_AT + 8 <= old->len && i >= 0; i--)
        bits = bits << 8 | (uint8_t)old->data[at + TIME_AT + (size_t)i];
    memcpy(&t, &bits, sizeof t);
    return t > 0 && t < 1e11 ? t : (double)time(NULL);
}

/* One event; line NULL: the first one. */
static void put_event(FILE *out, const char *name, const hr_buf *old, const json_t *line)
{
    hr_buf b = {0}, summary = {0};
    hr_err err = HR_ERR_INIT;
    double when = time_of(old, (size_t)ftello(out));
    uint64_t bits;
    memcpy(&bits, &when, sizeof bits);
    put_varint(&b, 1 << 3 | 1);
    put_bytes(&b, bits, 8);
    if (line) {
        put_varint(&b, 2 << 3);
        put_varint(&b, (uint64_t)json_integer_value(json_object_get(line, "epoch")));
        put_numbers(&summary, json_string_value(json_object_get(line, "split")), line);
        put_field(&b, 5, summary.data, summary.len);
    } else {
        put_field(&b, 3, "brain.Event:2", 13);
    }
    if (hr_tfrec_write(out, name, b.data, b.len, &err))
        BUG("%s", err.msg); /* to memory */
    hr_buf_release(&b);
    hr_buf_release(&summary);
}

/* The file that belongs to the lines, into *data; caller frees. */
static void make_file(const hr_log *log, const hr_buf *old, char **data, size_t *n)
{
    FILE *out = open_memstream(data, n);
    if (!out)
        BUG("no memory stream: %s", strerror(errno));
    put_event(out, log->events_name, old, NULL);
    for (size_t at = 0; at < log->lines.len;) {
        const char *line = log->lines.data + at, *end = memchr(line, '\n', log->lines.len - at);
        size_t len = end ? (size_t)(end - line) : log->lines.len - at;
        json_t *j = json_loadb(line, len, 0, NULL);
        if (j && json_string_value(json_object_get(j, "split")))
            put_event(out, log->events_name, old, j);
        json_decref(j);
        at += len + 1;
    }
    fclose(out);
}

static int read_old(int fd, hr_buf *old)
{
    struct stat st;
    char part[1 << 14];
    ssize_t n = 0;
    if (fstat(fd, &st) || st.st_size > MAX_OLD) /* nothing of ours: written anew */
        return 0;
    while ((n = pread(fd, part, sizeof part, (off_t)old->len)) > 0)
        hr_buf_add(old, part, (size_t)n);
    return n < 0 ? -1 : 0;
}

/* Write what the file lacks. */
static int bring_up(int fd, const hr_buf *old, const char *data, size_t n)
{
    size_t same = 0;
    while (same < n && same < old->len && old->data[same] == data[same])
        same++;
    if (ftruncate(fd, (off_t)same))
        return -1;
    while (same < n) {
        ssize_t put = pwrite(fd, data + same, n - same, (off_t)same);
        if (put < 0 && errno != EINTR)
            return -1;
        same += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

int hr_log_events(const hr_log *log, hr_err *err)
{
    if (!log->events_name)
        return HR_OK;
    hr_buf old = {0};
    char *data = NULL;
    size_t n = 0;
    int fd = open(log->events_name, O_RDWR | O_CREAT | O_CLOEXEC, 0666), rc = HR_OK;
    if (fd < 0 || read_old(fd, &old)) {
        rc = hr_fail(err, HR_EIO, "%s: %s", log->events_name, strerror(errno));
    } else {
        make_file(log, &old, &data, &n);
        if (bring_up(fd, &old, data, n))
            rc = hr_fail(err, HR_EIO, "%s: writing: %s", log->events_name, strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    free(data);
    hr_buf_release(&old);
    return rc;
}

int hr_log_tensorboard(hr_log *log, const char *dir, hr_err *err)
{
    int rc = hr_mkdirs(dir, err);
    if (rc)
        return rc;
    log->events_name = hr_xasprintf("%s/events.out.tfevents.heracles", dir);
    int fd = open(log->events_name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return hr_fail(err, HR_EIO, "%s: %s", log->events_name, strerror(errno));
    close(fd);
    return HR_OK;
}
