/* lib/data/unpack.c -- the bytes of one file, plain or gzipped, through libarchive's "raw" format.
 *
 * libarchive inflates but does not look at the check sum of a gzip file, and stops without a word at bytes
 * that follow it. So we do both here: a gzip file (RFC 1952) ends with the CRC-32 of what it unpacks to and
 * that length modulo 2^32, both 32-bit little-endian. The last eight bytes of the file must be these two.
 * That also refuses a file of several gzip members, which nobody publishes data sets in. */
#include "data/internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <isa-l/crc.h>
#include <stdlib.h>
#include <string.h>

struct hr_unpack {
    hr_in in;
    struct archive *a;
    bool empty; /* no byte at all: libarchive has an own format for that */
    uint32_t crc;
    uint64_t total;      /* bytes unpacked so far */
    uint8_t tail[8];     /* the last bytes of the file that were read */
    const uint8_t *head; /* bytes that were read before; delivered first, borrowed until then */
    size_t n_head;
    uint8_t block[1 << 16];
};

/* Read the next block of the file itself; remember its last eight bytes. */
static la_ssize_t read_block(struct archive *a, void *self, const void **bytes)
{
    hr_unpack *u = self;
    size_t n = 0;
    if (u->n_head) {
        n = u->n_head < sizeof u->block ? u->n_head : sizeof u->block;
        memcpy(u->block, u->head, n);
        u->head += n;
        u->n_head -= n;
    } else {
        n = fread(u->block, 1, sizeof u->block, u->in.fp);
    }
    size_t keep = n < 8 ? n : 8;
    if (ferror(u->in.fp)) {
        archive_set_error(a, errno, "%s", strerror(errno));
        return -1;
    }
    memmove(u->tail, u->tail + keep, 8 - keep);
    memcpy(u->tail + 8 - keep, u->block + n - keep, keep);
    *bytes = u->block;
    return (la_ssize_t)n;
}

static int refuse(hr_unpack *u, hr_err *err)
{
    if (ferror(u->in.fp))
        return hr_fail(err, HR_EIO, "%s: reading: %s", u->in.name, strerror(errno));
    const char *why = archive_error_string(u->a);
    return hr_fail(err, HR_EFORMAT, "%s: cut short or damaged: %s", u->in.name,
                   why ? why : "the gzip stream does not end");
}

int hr_unpack_open(hr_unpack **out, const char *path, hr_err *err)
{
    hr_in in;
    *out = NULL;
    int rc = hr_in_open(&in, path, err);
    return rc ? rc : hr_unpack_over(out, &in, NULL, 0, err);
}

int hr_unpack_over(hr_unpack **out, hr_in *in, const uint8_t *head, size_t n, hr_err *err)
{
    hr_unpack *u = hr_xcalloc(1, sizeof *u);
    struct archive_entry *entry;
    int rc = HR_OK;
    *out = NULL;
    u->in = *in;
    *in = (hr_in){.size = -1};
    u->head = head;
    u->n_head = n;
    u->a = archive_read_new();
    if (!u->a)
        hr_die("libarchive gives no reader: out of memory");
    archive_read_support_filter_gzip(u->a);
    archive_read_support_format_raw(u->a);
    archive_read_support_format_empty(u->a);
    int ar = archive_read_open(u->a, u, NULL, read_block, NULL);
    if (ar == ARCHIVE_OK) {
        ar = archive_read_next_header(u->a, &entry);
        u->empty = ar == ARCHIVE_EOF;
    }
    if (ar != ARCHIVE_OK && ar != ARCHIVE_EOF) {
        rc = refuse(u, err);
        hr_unpack_close(u);
        return rc;
    }
    *out = u;
    return HR_OK;
}

void hr_unpack_close(hr_unpack *u)
{
    if (!u)
        return;
    archive_read_free(u->a);
    hr_in_close(&u->in);
    free(u);
}

int hr_unpack_some(hr_unpack *u, void *bytes, size_t n, size_t *got, hr_err *err)
{
    uint8_t *dst = bytes;
    *got = 0;
    while (!u->empty && *got < n) {
        la_ssize_t k = archive_read_data(u->a, dst + *got, n - *got);
        if (k < 0)
            return refuse(u, err);
        if (k == 0)
            break;
        u->crc = crc32_gzip_refl(u->crc, dst + *got, (uint64_t)k);
        *got += (size_t)k;
        u->total += (uint64_t)k;
    }
    return HR_OK;
}

int hr_unpack_read(hr_unpack *u, void *dst, size_t n, const char *what, hr_err *err)
{
    size_t got;
    int rc = hr_unpack_some(u, dst, n, &got, err);
    if (rc || got == n)
        return rc;
    return hr_fail(err, HR_EFORMAT, "%s: cut short: %s needs %zu bytes, %zu are left", u->in.name, what, n,
                   got);
}

static uint32_t load_le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int hr_unpack_end(hr_unpack *u, hr_err *err)
{
    uint8_t more;
    const void *unused;
    size_t got;
    uint64_t expected = u->total;
    int rc = hr_unpack_some(u, &more, 1, &got, err);
    if (rc)
        return rc;
    if (got)
        return hr_fail(err, HR_EFORMAT, "%s: bytes follow after the %llu that its head announces", u->in.name,
                       (unsigned long long)expected);
    if (u->empty || archive_filter_code(u->a, 0) != ARCHIVE_FILTER_GZIP)
        return HR_OK;
    la_ssize_t n;
    while ((n = read_block(u->a, u, &unused)) > 0)
        ;
    if (n < 0)
        return refuse(u, err);
    uint32_t crc = load_le32(u->tail), length = load_le32(u->tail + 4);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    crc = u->crc; /* as in lib/base/hash.c */
#endif
    if (crc != u->crc || length != (uint32_t)u->total)
        return hr_fail(
            err, HR_EFORMAT,
            "%s: damaged: it ends with check sum %08x and length %u, what it unpacks to has %08x and %u",
            u->in.name, crc, length, u->crc, (uint32_t)u->total);
    return HR_OK;
}
