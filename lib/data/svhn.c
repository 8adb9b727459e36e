/* lib/data/svhn.c -- the Street View House Numbers, cropped digits (Netzer et al. 2011): train_32x32.mat and
 * test_32x32.mat of ufldl.stanford.edu/housenumbers.
 *
 * Two variables: X, bytes, 32x32x3xN, and y, Nx1, the digits 1..10. MATLAB stores arrays column by column: a
 * byte's place is row + 32 * (column + 32 * (channel + 3 * image)). The digit 0 is stored as 10; class
 * numbers are the digits themselves. */
#include "data/internal.h"

#include <stdlib.h>

enum { SIDE = 32, PLANE = SIDE * SIDE, IMAGE = 3 * PLANE };

static int set_images(hr_dataset *ds, const hr_mat *x, const char *path, hr_err *err)
{
    if (!x->is_bytes || x->rank != 4 || x->dims[0] != SIDE || x->dims[1] != SIDE || x->dims[2] != 3 ||
        x->dims[3] == 0)
        return hr_fail(err, HR_EFORMAT, "%s: variable 'X' is no array of bytes of %dx%dx3xN", path, SIDE,
                       SIDE);
    *ds = (hr_dataset){.n = x->dims[3], .c = 3, .h = SIDE, .w = SIDE};
    ds->pixels = hr_xmalloc((size_t)ds->n * IMAGE);
    const uint8_t *src = x->values;
    uint8_t *dst = ds->pixels;
    for (uint32_t i = 0; i < ds->n; i++, src += IMAGE)
        for (int row = 0; row < SIDE; row++)
            for (int col = 0; col < SIDE; col++)
                for (int c = 0; c < 3; c++)
                    *dst++ = src[row + SIDE * col + PLANE * c];
    return HR_OK;
}

static int set_labels(hr_dataset *ds, const hr_mat *y, const char *path, hr_err *err)
{
    if (y->count != ds->n)
        return hr_fail(err, HR_ESHAPE, "%s: %zu labels, but %u images", path, y->count, ds->n);
    ds->labels = hr_xmalloc(ds->n * sizeof *ds->labels);
    ds->index = hr_xmalloc(ds->n * sizeof *ds->index);
    for (uint32_t i = 0; i < ds->n; i++) {
        double label = hr_mat_value(y, i);
        if (!(label >= 1 && label <= 10) || label != (double)(int)label)
            return hr_fail(err, HR_EFORMAT, "%s: image %u: label %g is none of 1..10", path, i, label);
        ds->labels[i] = (int32_t)label % 10;
        ds->index[i] = i;
        if (ds->labels[i] >= ds->classes)
            ds->classes = ds->labels[i] + 1;
    }
    return HR_OK;
}

int hr_svhn_load(hr_dataset *ds, const char *path, hr_err *err)
{
    hr_mat v[2] = {{.name = "X"}, {.name = "y"}};
    *ds = (hr_dataset){0};
    int rc = hr_mat_load(path, v, 2, err);
    if (rc)
        return rc;
    rc = set_images(ds, &v[0], path, err);
    if (rc == HR_OK)
        rc = set_labels(ds, &v[1], path, err);
    hr_mat_release(&v[0]);
    hr_mat_release(&v[1]);
    if (rc)
        hr_dataset_release(ds);
    else
        hr_dataset_digest(ds);
    return rc;
}
