/* lib/data/mat.c -- numeric arrays out of MATLAB 5 files ("MAT-File Format", The MathWorks, chapter 1).
 *
 *     file      116 bytes of text beginning with "MATLAB 5.0 MAT-file", 8 bytes, the version 0x0100, "IM"
 * (the order of these two tells the byte order; all is little-endian here); then elements element   u32 type,
 * u32 number of bytes, the bytes, zeros up to a multiple of 8; or, if they are four at most, u16 type, u16
 * number of bytes, 4 bytes type 15   a zlib stream (RFC 1950, with its Adler-32) of one element of type 14;
 * not filled up type 14   an array, itself a row of elements: flags (type 6: u32 whose low byte is the class,
 * 0x800 complex; u32), sizes (type 5: i32 each), name (type 1), values
 *
 * Values may be stored in a smaller type than the array's class: MATLAB writes doubles that are whole numbers
 * as bytes.
 *
 * libmatio reads all this, too, but takes memory for whatever sizes a head announces: the fuzzer found 2.7 GB
 * for a file of 16 KB at once. Here memory grows with the values that really come, and the Adler-32 counts.
 */
#include "data/internal.h"

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEAD = 128,
    ELEMENT_ARRAY = 14,
    ELEMENT_PACKED = 15,
    ELEMENT_NAME = 1,
    ELEMENT_SIZES = 5,
    ELEMENT_FLAGS = 6,
    FIRST_PIECE = 1 << 20,
    MAX_BYTES = 0x7fffffff
};

/* The bytes of one top-level element, inflated if need be. */
typedef struct stream {
    hr_in *in;
    uint64_t left; /* bytes of the element in the file that were not read yet */
    bool packed;
    struct inflate_state z;
    uint8_t block[1 << 15];
} stream;

static int refill(stream *s, hr_err *err)
{
    size_t n = s->left < sizeof s->block ? (size_t)s->left : sizeof s->block;
    s->z.next_in = s->block;
    s->z.avail_in = (uint32_t)n;
    s->left -= n;
    return hr_in_read(s->in, s->block, n, "a compressed array", err);
}

/* Inflate until n bytes are there or the stream ends; *got says how many came. */
static int inflate_some(stream *s, void *dst, size_t n, size_t *got, hr_err *err)
{
    s->z.next_out = dst;
    s->z.avail_out = (uint32_t)n;
    *got = 0;
    while (s->z.avail_out > 0 && s->z.block_state != ISAL_BLOCK_FINISH) {
        if (s->z.avail_in == 0 && s->left > 0) {
            int rc = refill(s, err);
            if (rc)
                return rc;
        }
        uint32_t in = s->z.avail_in, out = s->z.avail_out;
        int rc = isal_inflate(&s->z);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
        if (rc == ISAL_INCORRECT_CHECKSUM)
            break; /* as in lib/base/hash.c */
#endif
        if (rc != ISAL_DECOMP_OK && rc != ISAL_END_INPUT && rc != ISAL_OUT_OVERFLOW)
            return hr_fail(err, HR_EFORMAT, "%s: a compressed array is damaged%s", s->in->name,
                           rc == ISAL_INCORRECT_CHECKSUM ? ": its check sum is wrong" : "");
        if (in == s->z.avail_in && out == s->z.avail_out && s->left == 0)
            break; /* nothing moves any more: the end is missing */
    }
    *got = n - s->z.avail_out;
    return HR_OK;
}

/* Read exactly n bytes of the element. */
static int take(stream *s, void *dst, size_t n, const char *what, hr_err *err)
{
    size_t got = 0;
    if (!s->packed) {
        if (n > s->left)
            return hr_fail(err, HR_EFORMAT, "%s: %s needs %zu bytes, its array has %llu left", s->in->name,
                           what, n, (unsigned long long)s->left);
        s->left -= n;
        return hr_in_read(s->in, dst, n, what, err);
    }
    int rc = inflate_some(s, dst, n, &got, err);
    if (rc == HR_OK && got < n)
        rc = hr_fail(err, HR_EFORMAT, "%s: cut short: %s needs %zu bytes, %zu are left", s->in->name, what, n,
                     got);
    return rc;
}

/* Pass over the rest of the element. A compressed one must end, with a sound check sum, unless nobody looked
 * inside (skim). */
static int leave(stream *s, bool skim, hr_err *err)
{
    uint8_t rest[64];
    size_t got;
    int rc;
    if (s->packed && !skim) {
        if ((rc = inflate_some(s, rest, sizeof rest, &got, err)))
            return rc;
        if (got > 7 || s->z.block_state != ISAL_BLOCK_FINISH)
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
            if (got > 7)
#endif
                return hr_fail(err, HR_EFORMAT, "%s: a compressed array %s", s->in->name,
                               got > 7 ? "goes on behind its values" : "is cut short");
    }
    while (s->left > 0) {
        size_t n = s->left < sizeof s->block ? (size_t)s->left : sizeof s->block;
        if ((rc = hr_in_read(s->in, s->block, n, "an array", err)))
            return rc;
        s->left -= n;
    }
    return HR_OK;
}

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The head of an element: its type and length, and for a short one its 4 bytes, which are read already. */
typedef struct tag {
    uint32_t type, n;
    bool is_short;
    uint8_t bytes[4];
} tag;

static int take_tag(stream *s, tag *t, const char *what, hr_err *err)
{
    uint8_t head[8];
    int rc = take(s, head, sizeof head, what, err);
    if (rc)
        return rc;
    *t = (tag){.type = le32(head), .n = le32(head + 4)};
    if (t->type >> 16) {
        *t = (tag){.type = t->type & 0xffff, .n = t->type >> 16, .is_short = true};
        memcpy(t->bytes, head + 4, 4);
        if (t->n > 4)
            return hr_fail(err, HR_EFORMAT, "%s: %s of %u bytes in 4", s->in->name, what, t->n);
    }
    return HR_OK;
}

/* A small element of at most max bytes with this type; what fills it up to a multiple of 8 is read, too. */
static int take_small(stream *s, uint32_t type, uint8_t *dst, size_t max, uint32_t *n, const char *what,
                      hr_err *err)
{
    tag t;
    uint8_t fill[8];
    int rc = take_tag(s, &t, what, err);
    if (rc)
        return rc;
    if (t.type != type || t.n > max)
        return hr_fail(err, HR_EFORMAT,
                       "%s: %s is of type %u and has %u bytes; type %u and at most %zu are expected",
                       s->in->name, what, t.type, t.n, type, max);
    *n = t.n;
    if (t.is_short) {
        memcpy(dst, t.bytes, t.n);
        return HR_OK;
    }
    rc = take(s, dst, t.n, what, err);
    return rc ? rc : take(s, fill, (8 - t.n % 8) % 8, what, err);
}

static const size_t type_size[] = {0, 1, 1, 2, 2, 4, 4, 4, 0, 8};

static int take_values(stream *s, hr_mat *m, hr_err *err)
{
    tag t;
    uint64_t count = 1;
    int rc = take_tag(s, &t, "the head of an array's values", err);
    if (rc)
        return rc;
    for (int i = 0; i < m->rank; i++)
        count = count > MAX_BYTES ? count : count * m->dims[i];
    if (t.type >= HR_COUNT(type_size) || type_size[t.type] == 0 || t.n > MAX_BYTES ||
        t.n != count * type_size[t.type])
        return hr_fail(err, HR_EFORMAT, "%s: variable '%s': %u bytes of type %u are not its %llu values",
                       s->in->name, m->name, t.n, t.type, (unsigned long long)count);
    m->type = (int)t.type;
    m->count = (size_t)count;
    m->bytes = hr_xmalloc(t.n < FIRST_PIECE ? t.n + 1 : FIRST_PIECE);
    if (t.is_short) {
        memcpy(m->bytes, t.bytes, t.n);
        return HR_OK;
    }
    for (size_t have = 0, piece = FIRST_PIECE; have < t.n; have += piece, piece = have) {
        if (piece > t.n - have)
            piece = t.n - have;
        if (have)
            m->bytes = hr_xrealloc(m->bytes, have + piece);
        if ((rc = take(s, m->bytes + have, piece, "an array's values", err)))
            return rc;
    }
    return HR_OK;
}

/* Read the array of this stream if it is one of those wanted; *taken says so. */
static int take_array(stream *s, hr_mat *wanted, int n_wanted, bool *taken, hr_err *err)
{
    uint8_t flags[8], sizes[4 * HR_MAT_RANK];
    char name[sizeof wanted->name];
    uint32_t n_flags, n_sizes, n_name;
    int rc;
    *taken = false;
    if ((rc = take_small(s, ELEMENT_FLAGS, flags, sizeof flags, &n_flags, "an array's flags", err)) ||
        (rc = take_small(s, ELEMENT_SIZES, sizes, sizeof sizes, &n_sizes, "an array's sizes", err)) ||
        (rc = take_small(s, ELEMENT_NAME, (uint8_t *)name, sizeof name - 1, &n_name, "an array's name", err)))
        return rc;
    name[n_name] = '\0';
    for (int i = 0; i < n_wanted; i++) {
        hr_mat *m = &wanted[i];
        if (strcmp(m->name, name) != 0)
            continue;
        if (m->bytes)
            return hr_fail(err, HR_EFORMAT, "%s: a second variable '%s'", s->in->name, name);
        m->rank = (int)(n_sizes / 4);
        if (n_flags < 4 || flags[0] < 6 || flags[0] > 13 || flags[1] & 8)
            return hr_fail(err, HR_EFORMAT, "%s: variable '%s' is no array of real numbers", s->in->name,
                           name);
        for (int k = 0; k < m->rank; k++)
            m->dims[k] = le32(sizes + 4 * k);
        *taken = true;
        return take_values(s, m, err);
    }
    return HR_OK;
}

/* The next element of the file; *end when there is none. */
static int take_element(stream *s, hr_mat *wanted, int n_wanted, bool *end, hr_err *err)
{
    hr_in *in = s->in;
    uint8_t head[8];
    bool taken = false;
    int c = getc(in->fp), rc;
    *end = c == EOF && !ferror(in->fp);
    if (*end)
        return HR_OK;
    ungetc(c, in->fp);
    if ((rc = hr_in_read(in, head, sizeof head, "the head of an array", err)))
        return rc;
    uint32_t type = le32(head);
    s->left = le32(head + 4);
    s->packed = type == ELEMENT_PACKED;
    int64_t at = ftello(in->fp);
    if (in->size >= 0 && at >= 0 && s->left > (uint64_t)(in->size - at))
        return hr_fail(err, HR_EFORMAT, "%s: cut short: an array needs %llu bytes, %lld are left", in->name,
                       (unsigned long long)s->left, (long long)(in->size - at));
    if (s->packed) {
        tag t;
        isal_inflate_init(&s->z);
        s->z.crc_flag = ISAL_ZLIB;
        if ((rc = take_tag(s, &t, "a compressed array's head", err)))
            return rc;
        type = t.type;
    }
    if (type == ELEMENT_ARRAY && (rc = take_array(s, wanted, n_wanted, &taken, err)))
        return rc;
    return leave(s, !taken, err);
}

int hr_mat_load(const char *path, hr_mat *wanted, int n_wanted, hr_err *err)
{
    hr_in in;
    uint8_t head[HEAD];
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = hr_in_read(&in, head, HEAD, "the head of a MATLAB file", err);
    if (rc == HR_OK && (memcmp(head, "MATLAB 5.0 MAT-file", 19) != 0 || memcmp(head + 124, "\0\1IM", 4) != 0))
        rc = hr_fail(err, HR_EFORMAT, "%s: not a little-endian MATLAB 5 file", path);
    stream *s = hr_xmalloc(sizeof *s);
    s->in = &in;
    for (bool end = false; rc == HR_OK && !end;)
        rc = take_element(s, wanted, n_wanted, &end, err);
    for (int i = 0; i < n_wanted && rc == HR_OK; i++)
        if (!wanted[i].bytes)
            rc = hr_fail(err, HR_EFORMAT, "%s: no variable '%s'", path, wanted[i].name);
    if (rc)
        for (int i = 0; i < n_wanted; i++)
            hr_mat_release(&wanted[i]);
    free(s);
    hr_in_close(&in);
    return rc;
}

void hr_mat_release(hr_mat *m)
{
    free(m->bytes);
    m->bytes = NULL;
}

double hr_mat_value(const hr_mat *m, size_t i)
{
    const uint8_t *p = m->bytes + i * type_size[m->type];
    uint32_t u = type_size[m->type] >= 4 ? le32(p) : 0;
    switch (m->type) {
    case 1:
        return (int8_t)*p;
    case 2:
        return *p;
    case 3:
        return (int16_t)(p[0] | p[1] << 8);
    case 4:
        return p[0] | p[1] << 8;
    case 5:
        return (int32_t)u;
    case 6:
        return u;
    case 7: {
        float f;
        memcpy(&f, &u, sizeof f);
        return f;
    }
    default: {
        uint64_t bits = (uint64_t)le32(p + 4) << 32 | u;
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    }
}
