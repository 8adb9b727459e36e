/* lib/model/nn.c -- the .nn checkpoint as a stream of frames. FORMAT.md says what is in them.
 *
 * A frame is the msgpack array [bin payload, uint32 crc32c(payload)] in one fixed encoding:
 *
 *     offset 0  0x92           array of 2
 *            1  0xc6           bin 32
 *            2  u32            n, big-endian as everything in msgpack
 *            6  n bytes        payload
 *          6+n  0xce           uint 32
 *          7+n  u32            CRC-32C of the payload, big-endian
 *
 * and a file is: header, notes, then for each tensor its description and its bytes in chunks, then the
 * trailer. Because the encoding is fixed, a flipped bit anywhere in a frame either breaks a constant, moves
 * the frame's end or breaks the checksum: all three are refused. The SHA-256 in the trailer covers the header
 * and the tensors, but not the notes, so it names the network and not the way it was made.
 *
 * Both directions hold at most a chunk of extra memory, mostly none: the bytes go straight into their tensor.
 * SHA-256 is the slowest part even with the processor's help, about as slow as all the rest together; so it
 * runs in a thread of its own (hasher.c). */
#include "model/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 16 << 20,     /* most bytes of a tensor in one frame */
    MAX_HEADER = 4 << 20, /* most bytes of a header or of notes: their parsed form takes many times as much */
    MAX_SMALL = 1 << 16,  /* most bytes of a tensor's description, of the trailer */
};
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are written as they lie in memory");

static void put_u32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (24 - 8 * i));
}

static uint32_t get_u32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static int write_frame(hr_out *out, const void *payload, size_t n, hr_err *err)
{
    unsigned char head[6] = {0x92, 0xc6}, tail[5] = {0xce};
    FILE *fp = hr_out_file(out);
    put_u32(head + 2, (uint32_t)n);
    put_u32(tail + 1, hr_crc32c(0, payload, n));
    errno = 0;
    if (fwrite(head, 1, sizeof head, fp) != sizeof head || fwrite(payload, 1, n, fp) != n ||
        fwrite(tail, 1, sizeof tail, fp) != sizeof tail)
        return hr_fail(err, HR_EIO, "%s: writing: %s", hr_out_name(out),
                       errno ? strerror(errno) : "write error");
    return HR_OK;
}

static int write_tensor(hr_out *out, const hr_tensor *t, hr_err *err)
{
    hr_buf b = {0};
    hr_nn_put_tensor(&b, t);
    int rc = write_frame(out, b.data, b.len, err);
    hr_buf_release(&b);

    size_t left = (size_t)hr_tensor_count(t) * hr_dtype_size(t->dtype);
    for (const char *p = t->data; rc == HR_OK && left > 0;) {
        size_t n = left < CHUNK ? left : CHUNK;
        rc = write_frame(out, p, n, err);
        p += n;
        left -= n;
    }
    return rc;
}

static int write_meta(hr_out *out, const hr_model *m, hr_err *err)
{
    hr_buf b = {0};
    hr_nn_put_header(&b, m);
    json_t *notes = json_object();
    json_object_set_new(notes, "meta", m->meta ? json_deep_copy(m->meta) : json_null());
    json_object_set_new(notes, "history", m->history ? json_deep_copy(m->history) : json_null());
    char *text = hr_json_text(notes, 0);
    json_decref(notes);

    int rc = HR_OK;
    if (b.len > MAX_HEADER || strlen(text) > MAX_HEADER)
        rc = hr_fail(err, HR_EINVAL,
                     "%s: graph of %zu or notes of %zu bytes, a .nn file takes up to %d of each",
                     hr_out_name(out), b.len, strlen(text), MAX_HEADER);
    if (rc == HR_OK)
        rc = write_frame(out, b.data, b.len, err);
    if (rc == HR_OK)
        rc = write_frame(out, text, strlen(text), err);
    hr_buf_release(&b);
    free(text);
    return rc;
}

hr_hasher *hr_nn_hash(const hr_model *m)
{
    hr_hasher *sha = hr_hasher_new();
    hr_buf header = {0};
    hr_nn_put_header(&header, m);
    hr_hasher_add(sha, header.data, header.len, header.data);
    return sha;
}

void hr_nn_hash_tensor(hr_hasher *sha, const hr_tensor *t)
{
    hr_buf b = {0};
    hr_nn_put_tensor(&b, t);
    hr_hasher_add(sha, b.data, b.len, b.data);
    hr_hasher_add(sha, t->data, (size_t)hr_tensor_count(t) * hr_dtype_size(t->dtype), NULL);
}

int hr_nn_write_hashed(const hr_model *m, hr_hasher *sha, hr_out *out, char *digest, hr_err *err)
{
    int rc = write_meta(out, m, err);
    for (int i = 0; rc == HR_OK && i < m->ntensors; i++)
        rc = write_tensor(out, &m->tensors[i], err);

    char hex[65];
    hr_hasher_end(sha, hex);
    if (rc == HR_OK) {
        hr_buf b = {0};
        hr_nn_put_trailer(&b, m->ntensors, hex);
        rc = write_frame(out, b.data, b.len, err);
        hr_buf_release(&b);
    }
    if (rc == HR_OK && digest)
        memcpy(digest, hex, sizeof hex);
    return rc;
}

int hr_nn_write(const hr_model *m, hr_out *out, char *digest, hr_err *err)
{
    hr_hasher *sha = hr_nn_hash(m);
    for (int i = 0; i < m->ntensors; i++)
        hr_nn_hash_tensor(sha, &m->tensors[i]);
    return hr_nn_write_hashed(m, sha, out, digest, err);
}

int hr_nn_save(const hr_model *m, const char *path, char *digest, hr_err *err)
{
    hr_out *out;
    int rc = hr_out_open(&out, path, HR_OUT_BINARY, err);
    if (rc)
        return rc;
    rc = hr_nn_write(m, out, digest, err);
    if (rc) {
        hr_out_abort(out);
        return rc;
    }
    return hr_out_commit(out, err);
}

/* ---- reading --------------------------------------------------------------------------------------------
 */

struct reader {
    bool any_values; /* NaN weights are nobody's business */
    hr_in in;
    int64_t pos; /* bytes read so far */
    hr_hasher *sha;
    hr_err *err;
};

#define BAD(fmt, ...) hr_fail(r->err, HR_EFORMAT, "%s: " fmt, r->in.name, __VA_ARGS__)

static int read_bytes(struct reader *r, void *dst, size_t n, const char *what)
{
    r->pos += (int64_t)n;
    return hr_in_read(&r->in, dst, n, what, r->err);
}

/* Refuse a length that the rest of a regular file cannot hold. */
static int check_left(struct reader *r, int64_t n, const char *what)
{
    if (r->in.size >= 0 && n > r->in.size - r->pos)
        return BAD("cut short: %s needs %lld bytes, %lld are left", what, (long long)n,
                   (long long)(r->in.size - r->pos));
    return HR_OK;
}

/* What a file is that does not start like a frame. */
static int wrong_kind(struct reader *r, const unsigned char *p)
{
    bool torch = memcmp(p, "PK\3\4", 4) == 0 || p[0] == 0x80;
    return BAD("is no .nn file: it starts with the bytes %02x %02x %02x %02x%s", p[0], p[1], p[2], p[3],
               torch ? " (a PyTorch file? torch2nn reads those)" : "");
}

/* Read a frame's beginning; *n receives its payload's length, at most max. */
static int begin_frame(struct reader *r, size_t max, const char *what, size_t *n)
{
    unsigned char head[6];
    bool first = r->pos == 0;
    int rc = read_bytes(r, head, sizeof head, what);
    if (rc)
        return rc;
    if (head[0] != 0x92 || head[1] != 0xc6)
        return first ? wrong_kind(r, head) : BAD("damaged: no frame begins where %s is due", what);
    *n = get_u32(head + 2);
    if (*n > max)
        return BAD("damaged: %s of %zu bytes, up to %zu are possible", what, *n, max);
    return check_left(r, (int64_t)*n, what);
}

static int end_frame(struct reader *r, uint32_t crc, const char *what)
{
    unsigned char tail[5];
    int rc = read_bytes(r, tail, sizeof tail, what);
    if (rc)
        return rc;
    if (tail[0] != 0xce || get_u32(tail + 1) != crc)
        return BAD("damaged: the checksum of %s does not match", what);
    return HR_OK;
}

/* Read a frame of at most max bytes, a few megabytes at the most, whole into b. */
static int read_small(struct reader *r, size_t max, const char *what, hr_buf *b)
{
    size_t n = 0;
    int rc = begin_frame(r, max, what, &n);
    if (rc)
        return rc;
    char *p = hr_xmalloc(n + 1);
    rc = read_bytes(r, p, n, what);
    if (rc == HR_OK)
        rc = end_frame(r, hr_crc32c(0, p, n), what);
    p[n] = '\0';
    *b = (hr_buf){p, n, n + 1};
    return rc;
}

/* Read one chunk of exactly n bytes to dst, where it stays, and have it hashed. */
static int read_chunk(struct reader *r, char *dst, size_t n, const char *what)
{
    size_t len = 0;
    int rc = begin_frame(r, CHUNK, what, &len);
    if (rc)
        return rc;
    if (len != n)
        return BAD("damaged: a chunk of %s has %zu bytes, %zu are due", what, len, n);
    rc = read_bytes(r, dst, n, what);
    if (rc == HR_OK)
        rc = end_frame(r, hr_crc32c(0, dst, n), what);
    if (rc == HR_OK)
        hr_hasher_add(r->sha, dst, n, NULL);
    return rc;
}

/* Read t's bytes. A regular file vouches for its lengths; on a pipe memory grows with the bytes that came. */
static int read_data(struct reader *r, hr_tensor *t, const char *what)
{
    size_t total = (size_t)hr_tensor_count(t) * hr_dtype_size(t->dtype), done = 0;
    int rc = check_left(r, (int64_t)total, what);
    if (rc)
        return rc;
    size_t cap = r->in.size >= 0 || total < CHUNK ? total : CHUNK;
    char *p = hr_tensor_room(cap);
    while (rc == HR_OK && done < total) {
        size_t n = total - done < CHUNK ? total - done : CHUNK;
        if (done + n > cap) {
            hr_hasher_drain(r->sha); /* it reads the old place */
            cap = 2 * cap < total ? 2 * cap : total;
            char *bigger = hr_tensor_room(cap);
            memcpy(bigger, p, done);
            free(p);
            p = bigger;
        }
        rc = read_chunk(r, p + done, n, what);
        done += n;
    }
    t->data = p;
    return rc;
}

static int read_tensor(struct reader *r, hr_model *m)
{
    hr_buf b = {0};
    hr_tensor t = {0};
    int rc = read_small(r, MAX_SMALL, "a tensor's description", &b);
    if (rc == HR_OK)
        rc = hr_nn_get_tensor(b.data, b.len, r->in.name, &t, r->err);
    hr_hasher_add(r->sha, b.data, b.len, b.data);
    if (rc)
        return rc;

    char *what = hr_xasprintf("tensor '%s'", t.name);
    rc = read_data(r, &t, what);
    free(what);
    m->tensors = hr_xrealloc(m->tensors, (size_t)(m->ntensors + 1) * sizeof *m->tensors);
    m->tensors[m->ntensors++] = t;
    return rc;
}

static int read_notes(struct reader *r, hr_model *m)
{
    hr_buf b = {0};
    json_error_t je;
    int rc = read_small(r, MAX_HEADER, "the notes", &b);
    json_t *notes = NULL;
    if (rc == HR_OK) {
        notes = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, &je);
        json_t *meta = json_object_get(notes, "meta"), *history = json_object_get(notes, "history");
        if (json_object_size(notes) != 2 || !(json_is_object(meta) || json_is_null(meta)) ||
            !(json_is_object(history) || json_is_null(history)))
            rc = BAD("the notes are not a JSON object of meta and history%s%s", notes ? "" : ": ",
                     notes ? "" : je.text);
        else {
            m->meta = json_is_null(meta) ? NULL : json_incref(meta);
            m->history = json_is_null(history) ? NULL : json_incref(history);
        }
    }
    json_decref(notes);
    hr_buf_release(&b);
    return rc;
}

static int read_trailer(struct reader *r, const hr_model *m, char hex[65])
{
    hr_buf b = {0};
    char announced[65] = "";
    int n = 0;
    int rc = read_small(r, MAX_SMALL, "the trailer", &b);
    hr_hasher_end(r->sha, hex);
    r->sha = NULL;
    if (rc == HR_OK)
        rc = hr_nn_get_trailer(b.data, b.len, r->in.name, &n, announced, r->err);
    hr_buf_release(&b);
    if (rc)
        return rc;
    if (n != m->ntensors)
        return BAD("the trailer counts %d tensors, the header %d", n, m->ntensors);
    if (strcmp(hex, announced) != 0)
        return BAD("damaged: its SHA-256 is %s, the trailer says %s", hex, announced);
    if (fgetc(r->in.fp) != EOF)
        return BAD("%s", "bytes follow the trailer");
    return ferror(r->in.fp) ? hr_fail(r->err, HR_EIO, "%s: %s", r->in.name, strerror(errno)) : HR_OK;
}

int hr_nn_link(hr_model *m, const char *where, hr_err *err)
{
    const hr_tensor **sorted = hr_tensors_sorted(m);
    int rc = HR_OK;
    for (int i = 0; rc == HR_OK && i < m->nnodes; i++)
        for (int p = 0; rc == HR_OK && p < HR_P_COUNT; p++) {
            if (m->nodes[i].param[p] != HR_PARAM_NAMED)
                continue;
            char *name = hr_xasprintf("%s.%s", m->nodes[i].id, hr_param_names[p]);
            const hr_tensor *t = hr_tensors_search(sorted, m->ntensors, name);
            if (t)
                m->nodes[i].param[p] = (int)(t - m->tensors);
            else
                rc = hr_fail(err, HR_EFORMAT, "%s: the graph needs tensor '%s', it is missing", where, name);
            free(name);
        }
    free(sorted);
    return rc;
}

static int read_model(struct reader *r, hr_model **out, char hex[65])
{
    hr_buf b = {0};
    int ntensors = 0;
    int rc = read_small(r, MAX_HEADER, "the header", &b);
    if (rc == HR_OK)
        rc = hr_nn_get_header(b.data, b.len, r->in.name, out, &ntensors, r->err);
    hr_hasher_add(r->sha, b.data, b.len, b.data);
    if (rc == HR_OK)
        rc = read_notes(r, *out);
    for (int i = 0; rc == HR_OK && i < ntensors; i++)
        rc = read_tensor(r, *out);
    /* The checks come before the trailer, which has to wait for the digest that is still being made. */
    if (rc == HR_OK)
        rc = hr_nn_link(*out, r->in.name, r->err);
    if (rc == HR_OK)
        rc = hr_model_check(*out, r->in.name, r->err);
    if (rc == HR_OK && !r->any_values)
        rc = hr_model_check_finite(*out, r->in.name, r->err);
    if (rc == HR_OK)
        rc = read_trailer(r, *out, hex);
    return rc;
}

static int load(const char *path, bool any_values, hr_model **out, char *digest, hr_err *err)
{
    struct reader r = {.err = err, .any_values = any_values};
    char hex[65];
    *out = NULL;
    int rc = hr_in_open(&r.in, path, err);
    if (rc)
        return rc;
    r.sha = hr_hasher_new();
    rc = read_model(&r, out, hex);
    if (r.sha)
        hr_hasher_end(r.sha, hex); /* before the model that it may still read is freed */
    hr_in_close(&r.in);
    if (rc) {
        hr_model_free(*out);
        *out = NULL;
    } else if (digest) {
        memcpy(digest, hex, sizeof hex);
    }
    return rc;
}

int hr_nn_load(const char *path, hr_model **out, char *digest, hr_err *err)
{
    return load(path, false, out, digest, err);
}

int hr_nn_load_any(const char *path, hr_model **out, char *digest, hr_err *err)
{
    return load(path, true, out, digest, err);
}
