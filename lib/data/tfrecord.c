/* lib/data/tfrecord.c -- TFRecord framing: a file is a row of records, each protected by two check sums.
 *
 *     offset  bytes
 *          0      8  n, the length of the data, little-endian
 *          8      4  masked CRC-32C of these 8 bytes, little-endian
 *         12      n  data
 *     12 + n      4  masked CRC-32C of the data, little-endian
 *
 * The record that holds the three bytes "abc":
 *
 *     03 00 00 00 00 00 00 00   b0 99 49 0e   61 62 63   6e 57 f1 21
 *
 * (CRC-32C of "abc" is 364b3fb7.) A check sum that is stored next to the bytes it protects makes trouble when
 * that whole is protected by the same sum again, since the CRC of data followed by its CRC is a constant. So
 * the stored value is masked: mask(c) = rotate c right by 15 bits, plus 0xa282ead8, modulo 2^32.
 *
 * A length is believed only when its own check sum holds and that many bytes can still come. Every damaged
 * byte is noticed, and so is every cut inside a record. There is no header and no end mark: a file cut
 * exactly between two records is a sound shorter file. manifest.json holds the counts.
 *
 * TensorFlow also writes such a file gzipped as a whole (TFRecordOptions("GZIP")); nothing tells but its
 * first bytes, 1f 8b 08. They could also be a length of 559,903 bytes, or more, but then its check sum
 * follows. */
#include "data/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 12, FOOTER = 4, BLOCK = 1 << 18 };

struct hr_tfrec_reader {
    hr_in in;        /* closed when u has taken it over */
    hr_unpack *u;    /* a gzipped file, else NULL */
    char *name;      /* for messages */
    uint8_t *packed; /* what of a gzipped file was read before that was known */
    bool at_end;
    uint8_t *buf; /* bytes [start, end) are read but not yet returned */
    size_t cap, start, end;
    uint64_t number, offset; /* of the record that was returned last, or is being read */
    uint64_t next;           /* offset of the one behind it */
};

static uint32_t mask(uint32_t crc)
{
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static uint64_t load_le(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static void store_le(uint8_t *p, int bytes, uint64_t v)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

int hr_tfrec_open(hr_tfrec_reader **out, const char *path, hr_err *err)
{
    hr_tfrec_reader *r = hr_xcalloc(1, sizeof *r);
    *out = NULL;
    int rc = hr_in_open(&r->in, path, err);
    if (rc) {
        free(r);
        return rc;
    }
    r->name = hr_xstrdup(r->in.name);
    r->cap = 2 * BLOCK;
    r->buf = hr_xmalloc(r->cap);
    r->number = UINT64_MAX; /* becomes 0 with the first record */
    *out = r;
    return HR_OK;
}

void hr_tfrec_close(hr_tfrec_reader *r)
{
    if (!r)
        return;
    hr_unpack_close(r->u);
    hr_in_close(&r->in);
    free(r->packed);
    free(r->name);
    free(r->buf);
    free(r);
}

int hr_tfrec_fail(const hr_tfrec_reader *r, hr_err *err, int code, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return hr_fail(err, code, "%s: record %llu at byte %llu: %s", r->name, (unsigned long long)r->number,
                   (unsigned long long)r->offset, text);
}

/* Read at most n bytes into dst; fewer only at the end, whose check sums hold then. */
static int read_some(hr_tfrec_reader *r, uint8_t *dst, size_t n, size_t *got, hr_err *err)
{
    int rc = HR_OK;
    if (r->u) {
        rc = hr_unpack_some(r->u, dst, n, got, err);
        if (rc == HR_OK && *got < n)
            rc = hr_unpack_end(r->u, err);
    } else {
        *got = fread(dst, 1, n, r->in.fp);
        if (ferror(r->in.fp))
            rc = hr_fail(err, HR_EIO, "%s: reading: %s", r->name, strerror(errno));
    }
    r->at_end = *got < n;
    return rc;
}

/* Have need bytes in the buffer from start on, or all that are left of the input. The buffer at most doubles
 * what has really arrived, so a lying length cannot make it larger than that. */
static int fill(hr_tfrec_reader *r, size_t need, hr_err *err)
{
    while (r->end - r->start < need && !r->at_end) {
        size_t got = 0;
        if (r->start > 0) {
            memmove(r->buf, r->buf + r->start, r->end - r->start);
            r->end -= r->start;
            r->start = 0;
        }
        if (r->cap - r->end < BLOCK) {
            r->cap *= 2;
            r->buf = hr_xrealloc(r->buf, r->cap);
        }
        int rc = read_some(r, r->buf + r->end, r->cap - r->end, &got, err);
        r->end += got;
        if (rc)
            return rc;
    }
    return HR_OK;
}

/* At the beginning: does the buffer hold the first bytes of a gzip file, and no first length? Then what is
 * read from now on, and what was read, goes through gunzip. */
static int unzip(hr_tfrec_reader *r, hr_err *err)
{
    size_t n = r->end;
    if (n < 3 || memcmp(r->buf, "\x1f\x8b\x08", 3) != 0 ||
        (n >= HEADER && load_le(r->buf + 8, 4) == mask(hr_crc32c(0, r->buf, 8))))
        return HR_OK;
    r->packed = hr_xmalloc(n);
    memcpy(r->packed, r->buf, n);
    r->end = 0;
    r->at_end = false;
    int rc = hr_unpack_over(&r->u, &r->in, r->packed, n, err);
    return rc ? rc : fill(r, HEADER, err);
}

static int check_crc(const hr_tfrec_reader *r, const char *what, const uint8_t *data, size_t n,
                     const uint8_t *stored, hr_err *err)
{
    uint32_t want = (uint32_t)load_le(stored, 4), have = mask(hr_crc32c(0, data, n));
    if (want == have)
        return HR_OK;
    return hr_tfrec_fail(r, err, HR_EFORMAT, "check sum of the %s is %08x, stored is %08x: %s", what, have,
                         want, r->number == 0 && n == 8 ? "not a tfrecord file, or damaged" : "damaged");
}

int hr_tfrec_next(hr_tfrec_reader *r, const uint8_t **data, size_t *n, hr_err *err)
{
    *data = NULL;
    *n = 0;
    int rc = fill(r, HEADER, err);
    if (rc == HR_OK && r->number == UINT64_MAX)
        rc = unzip(r, err);
    if (rc)
        return rc;
    size_t have = r->end - r->start;
    if (have == 0)
        return HR_OK;
    r->number++;
    r->offset = r->next;
    if (have < HEADER)
        return hr_tfrec_fail(r, err, HR_EFORMAT, "cut short: its head needs %d bytes, %zu are left", HEADER,
                             have);
    if ((rc = check_crc(r, "length", r->buf + r->start, 8, r->buf + r->start + 8, err)))
        return rc;

    uint64_t len = load_le(r->buf + r->start, 8);
    if (len > MAX_RECORD)
        return hr_tfrec_fail(r, err, HR_EFORMAT, "length %llu is beyond the %d bytes allowed",
                             (unsigned long long)len, MAX_RECORD);
    size_t need = HEADER + (size_t)len + FOOTER;
    if ((rc = fill(r, need, err)))
        return rc;
    have = r->end - r->start;
    if (have < need)
        return hr_tfrec_fail(r, err, HR_EFORMAT, "cut short: it needs %zu bytes, %zu are left", need, have);
    const uint8_t *payload = r->buf + r->start + HEADER;
    if ((rc = check_crc(r, "data", payload, (size_t)len, payload + len, err)))
        return rc;
    r->start += need;
    r->next = r->offset + need;
    *data = payload;
    *n = (size_t)len;
    return HR_OK;
}

void hr_tfrec_at(const hr_tfrec_reader *r, uint64_t *number, uint64_t *offset)
{
    *number = r->number;
    *offset = r->offset;
}

uint64_t hr_tfrec_expect(const hr_tfrec_reader *r)
{
    uint64_t size = r->u || r->in.size < 0 ? 0 : (uint64_t)r->in.size, one = r->next - r->offset;
    return size > r->offset && one ? (size - r->offset + one - 1) / one : 0;
}

static void frame(uint8_t head[HEADER], uint8_t foot[FOOTER], const void *data, size_t n)
{
    store_le(head, 8, n);
    store_le(head + 8, 4, mask(hr_crc32c(0, head, 8)));
    store_le(foot, 4, mask(hr_crc32c(0, data, n)));
}

void hr_tfrec_frame_begin(hr_buf *b)
{
    hr_buf_add(b, (char[HEADER]){0}, HEADER);
}

void hr_tfrec_frame_end(hr_buf *b)
{
    uint8_t foot[FOOTER];
    frame((uint8_t *)b->data, foot, b->data + HEADER, b->len - HEADER);
    hr_buf_add(b, foot, FOOTER);
}

int hr_tfrec_write(FILE *fp, const char *name, const void *data, size_t n, hr_err *err)
{
    uint8_t head[HEADER], foot[FOOTER];
    if (n > MAX_RECORD)
        return hr_fail(err, HR_EIO, "%s: a record of %zu bytes is beyond the %d allowed", name, n,
                       MAX_RECORD);
    frame(head, foot, data, n);
    if (fwrite(head, 1, HEADER, fp) != HEADER || fwrite(data, 1, n, fp) != n ||
        fwrite(foot, 1, FOOTER, fp) != FOOTER)
        return hr_fail(err, HR_EIO, "%s: writing: %s", name, strerror(errno));
    return HR_OK;
}
