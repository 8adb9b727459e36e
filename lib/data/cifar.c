/* lib/data/cifar.c -- CIFAR-10 (Krizhevsky 2009) straight out of the archives of www.cs.toronto.edu/~kriz.
 *
 *     cifar-10-binary.tar.gz    cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin: records of
 *                               1 byte class number, 3072 bytes pixels
 *     cifar-10-python.tar.gz    cifar-10-batches-py/{data_batch_1..5,test_batch}: pickles (batch_pickle.c)
 *
 * An image's pixels are three planes (red, green, blue) of 32 rows of 32; we want H,W,C. The members stand
 * in the archives in any order; the training images are the batches 1 to 5 in this order. Anything else in
 * the archive (batches.meta.txt, readme.html) is passed over. */
#include "data/internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    SIDE = 32,
    PLANE = SIDE * SIDE,
    IMAGE = 3 * PLANE,
    RECORD = 1 + IMAGE,
    TEST = 5, /* the batch that is the test part */
    BATCHES = 6,
    CLASSES = 10,
    MAX_BATCH = 1 << 28 /* bytes; the published ones have 31 MB */
};

static const char *const names[BATCHES] = {"data_batch_1", "data_batch_2", "data_batch_3",
                                           "data_batch_4", "data_batch_5", "test_batch"};

/* Append n images to ds: planes point to the pixels of the first one, the next one's lie stride bytes behind
 * them. Labels are the caller's work. */
static void add_images(hr_dataset *ds, const uint8_t *planes, size_t stride, uint32_t n)
{
    ds->c = 3;
    ds->h = ds->w = SIDE;
    ds->pixels = hr_xrealloc(ds->pixels, (size_t)(ds->n + n) * IMAGE);
    ds->labels = hr_xrealloc(ds->labels, (ds->n + n) * sizeof *ds->labels);
    ds->index = hr_xrealloc(ds->index, (ds->n + n) * sizeof *ds->index);
    uint8_t *dst = ds->pixels + (size_t)ds->n * IMAGE;
    for (uint32_t i = 0; i < n; i++, planes += stride)
        for (int k = 0; k < PLANE; k++) {
            *dst++ = planes[k];
            *dst++ = planes[PLANE + k];
            *dst++ = planes[2 * PLANE + k];
        }
    for (uint32_t i = 0; i < n; i++)
        ds->index[ds->n + i] = ds->n + i;
    ds->n += n;
}

static int add_label(hr_dataset *ds, uint32_t at, int64_t label, const char *where, hr_err *err)
{
    if (label < 0 || label >= CLASSES)
        return hr_fail(err, HR_EFORMAT, "%s: image %u: label %lld is outside 0..%d", where, at,
                       (long long)label, CLASSES - 1);
    ds->labels[at] = (int32_t)label;
    if (label >= ds->classes)
        ds->classes = (int)label + 1;
    return HR_OK;
}

static int add_binary(hr_dataset *ds, const hr_buf *batch, const char *where, hr_err *err)
{
    const uint8_t *p = (const uint8_t *)batch->data;
    if (batch->len == 0 || batch->len % RECORD)
        return hr_fail(err, HR_EFORMAT, "%s: %zu bytes are no whole number of records of %d", where,
                       batch->len, RECORD);
    uint32_t n = (uint32_t)(batch->len / RECORD), first = ds->n;
    add_images(ds, p + 1, RECORD, n);
    int rc = HR_OK;
    for (uint32_t i = 0; i < n && rc == HR_OK; i++)
        rc = add_label(ds, first + i, p[(size_t)i * RECORD], where, err);
    return rc;
}

static int add_pickled(hr_dataset *ds, const hr_buf *batch, const char *where, hr_err *err)
{
    uint8_t *planes;
    int64_t *labels;
    uint32_t n, first = ds->n;
    int rc =
        hr_batch_pickle((const uint8_t *)batch->data, batch->len, where, IMAGE, &planes, &labels, &n, err);
    if (rc)
        return rc;
    add_images(ds, planes, IMAGE, n);
    for (uint32_t i = 0; i < n && rc == HR_OK; i++)
        rc = add_label(ds, first + i, labels[i], where, err);
    free(planes);
    free(labels);
    return rc;
}

/* Which batch is this member, and of which version? -1: none. */
static int which_batch(const char *member, bool *pickled)
{
    const char *slash = strrchr(member, '/'), *base = slash ? slash + 1 : member;
    for (int i = 0; i < BATCHES; i++) {
        size_t n = strlen(names[i]);
        if (strncmp(base, names[i], n) == 0 && (strcmp(base + n, ".bin") == 0 || base[n] == '\0')) {
            *pickled = base[n] == '\0';
            return i;
        }
    }
    return -1;
}

typedef struct batches {
    hr_buf bytes[BATCHES];
    char *where[BATCHES]; /* NULL: not there */
    bool pickled[BATCHES];
} batches;

static int read_batches(const char *path, batches *b, hr_err *err)
{
    hr_walk *w;
    const char *member;
    int rc = hr_walk_open(&w, path, err);
    if (rc)
        return rc;
    while ((rc = hr_walk_next(w, &member, err)) == HR_OK && member) {
        bool pickled;
        int i = which_batch(member, &pickled);
        if (i < 0)
            continue;
        if (b->where[i]) {
            rc = hr_fail(err, HR_EFORMAT, "%s: a second one of this name", hr_walk_where(w));
            break;
        }
        b->where[i] = hr_xstrdup(hr_walk_where(w));
        b->pickled[i] = pickled;
        if ((rc = hr_walk_slurp(w, &b->bytes[i], MAX_BATCH, err)))
            break;
    }
    hr_walk_close(w);
    return rc;
}

int hr_cifar_load(const char *path, hr_dataset *train, hr_dataset *test, hr_err *err)
{
    batches b = {0};
    *train = *test = (hr_dataset){0};
    int rc = read_batches(path, &b, err);
    for (int i = 0; i < BATCHES; i++) {
        if (rc == HR_OK && !b.where[i])
            rc = hr_fail(err, HR_EFORMAT, "%s: not CIFAR-10's archive: it has no %s", path, names[i]);
        if (rc == HR_OK)
            rc = (b.pickled[i] ? add_pickled : add_binary)(i == TEST ? test : train, &b.bytes[i], b.where[i],
                                                           err);
        hr_buf_release(&b.bytes[i]);
        free(b.where[i]);
    }
    if (rc) {
        hr_dataset_release(train);
        hr_dataset_release(test);
        return rc;
    }
    hr_dataset_digest(train);
    hr_dataset_digest(test);
    return HR_OK;
}
