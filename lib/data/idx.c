/* lib/data/idx.c -- the IDX files of the MNIST family (yann.lecun.com/exdb/mnist), plain or gzipped.
 *
 *     images:  00 00 08 03, then n, rows, columns (32-bit, BIG-endian), then n * rows * columns pixels
 *     labels:  00 00 08 01, then n, then n class numbers of one byte each
 *
 * In the first four bytes 08 is the type (unsigned byte) and the last one the number of dimensions. Pixels go
 * row by row, 0 is black: exactly our H,W,C order with one channel.
 *
 * A head is cheap to forge and a gzip file unpacks to a thousand times its size, so the counts in it are not
 * believed: memory grows with the pixels that really come. */
#include "data/internal.h"

#include <stdlib.h>

enum { IMAGES_MAGIC = 0x00000803, LABELS_MAGIC = 0x00000801, FIRST_PIECE = 1 << 24 };

static uint32_t load_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Read the head: magic and dims[0..n_dims). */
static int read_head(hr_unpack *u, const char *path, uint32_t magic, const char *what, uint32_t *dims,
                     int n_dims, hr_err *err)
{
    uint8_t word[4];
    int rc = hr_unpack_read(u, word, 4, "the magic number", err);
    if (rc)
        return rc;
    if (load_be32(word) != magic)
        return hr_fail(err, HR_EFORMAT, "%s: not an IDX file of %s: it begins with %08x, not %08x", path,
                       what, load_be32(word), magic);
    for (int i = 0; i < n_dims; i++) {
        if ((rc = hr_unpack_read(u, word, 4, "the head", err)))
            return rc;
        dims[i] = load_be32(word);
    }
    if (dims[0] == 0)
        return hr_fail(err, HR_EFORMAT, "%s: holds no %s", path, what);
    return HR_OK;
}

/* Read n bytes into a new block, *bytes, that is never larger than twice what came, or one first piece. */
static int read_body(hr_unpack *u, uint64_t n, const char *what, uint8_t **bytes, hr_err *err)
{
    size_t have = 0, piece = FIRST_PIECE;
    uint8_t *p = NULL;
    int rc = HR_OK;
    while (rc == HR_OK && have < n) {
        if (piece > n - have)
            piece = (size_t)(n - have);
        p = hr_xrealloc(p, have + piece);
        rc = hr_unpack_read(u, p + have, piece, what, err);
        have += piece;
        piece = have;
    }
    if (rc == HR_OK)
        rc = hr_unpack_end(u, err);
    *bytes = p;
    return rc;
}

static int read_images(hr_dataset *ds, const char *path, hr_err *err)
{
    hr_unpack *u;
    uint32_t dims[3];
    int rc = hr_unpack_open(&u, path, err);
    if (rc)
        return rc;
    rc = read_head(u, path, IMAGES_MAGIC, "images", dims, 3, err);
    if (rc == HR_OK && (dims[1] < 1 || dims[1] > MAX_SIDE || dims[2] < 1 || dims[2] > MAX_SIDE))
        rc = hr_fail(err, HR_EFORMAT, "%s: images of %ux%u pixels, 1..%d rows and columns are allowed", path,
                     dims[1], dims[2], MAX_SIDE);
    if (rc == HR_OK) {
        ds->n = dims[0];
        ds->c = 1;
        ds->h = (int)dims[1];
        ds->w = (int)dims[2];
        rc = read_body(u, (uint64_t)dims[0] * dims[1] * dims[2], "the pixel data", &ds->pixels, err);
    }
    hr_unpack_close(u);
    return rc;
}

static int read_labels(hr_dataset *ds, const char *path, const char *images, hr_err *err)
{
    hr_unpack *u;
    uint32_t n;
    uint8_t *bytes = NULL;
    int rc = hr_unpack_open(&u, path, err);
    if (rc)
        return rc;
    rc = read_head(u, path, LABELS_MAGIC, "labels", &n, 1, err);
    if (rc == HR_OK && n != ds->n)
        rc = hr_fail(err, HR_ESHAPE, "%s: %u labels, but %s holds %u images", path, n, images, ds->n);
    if (rc == HR_OK)
        rc = read_body(u, n, "the label data", &bytes, err);
    if (rc == HR_OK) {
        ds->labels = hr_xmalloc(n * sizeof *ds->labels);
        ds->index = hr_xmalloc(n * sizeof *ds->index);
        for (uint32_t i = 0; i < n; i++) {
            ds->labels[i] = bytes[i];
            ds->index[i] = i;
            if (bytes[i] >= ds->classes)
                ds->classes = bytes[i] + 1;
        }
    }
    free(bytes);
    hr_unpack_close(u);
    return rc;
}

int hr_idx_load(hr_dataset *ds, const char *images, const char *labels, hr_err *err)
{
    *ds = (hr_dataset){0};
    int rc = read_images(ds, images, err);
    if (rc == HR_OK)
        rc = read_labels(ds, labels, images, err);
    if (rc) {
        hr_dataset_release(ds);
        return rc;
    }
    hr_dataset_digest(ds);
    return HR_OK;
}
