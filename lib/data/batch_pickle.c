/* lib/data/batch_pickle.c -- one batch of CIFAR-10's Python version: a pickle, read without running anything.
 *
 * The batches were written by Python 2's cPickle under protocol 2 and hold
 *
 *     {"batch_label": str, "labels": [int, ...], "data": numpy array (n, 3072) of uint8, "filenames": [str,
 * ...]}
 *
 * and an array is a call of numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), "b") whose result gets
 * the state (1, (n, 3072), dtype, fortran order?, str of the bytes), the dtype being a call of
 * numpy.dtype("u1", 0, 1) with a state of its own. The machine of base/pickle.h reads them; a batch may use
 * these four names and no other. A call becomes the tuple (name, arguments), to which a state is added. Bytes
 * stay where they are. */
#include "base/pickle.h"
#include "data/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 256 << 20 }; /* bytes; a published one has 31 MB */

static const char *const reconstruct[] = {"numpy.core.multiarray._reconstruct",
                                          "numpy._core.multiarray._reconstruct"};

static bool is_name(const hr_pk *v, const char *name)
{
    return v->type == HR_PK_GLOBAL && strcmp(v->u.str.s, name) == 0;
}

static bool allow(void *ctx, hr_pickle *p, const char *name, hr_err *err)
{
    (void)ctx;
    if (strcmp(name, reconstruct[0]) == 0 || strcmp(name, reconstruct[1]) == 0 ||
        strcmp(name, "numpy.ndarray") == 0 || strcmp(name, "numpy.dtype") == 0)
        return true;
    hr_fail(err, HR_EFORMAT, "%s: its pickle asks for %s: only numpy's arrays are read", hr_pickle_where(p),
            name);
    return false;
}

static hr_pk *call(void *ctx, hr_pickle *p, const hr_pk *function, const hr_pk *args, hr_err *err)
{
    (void)ctx;
    hr_pk *v = hr_pickle_value(p, HR_PK_TUPLE, err);
    /* values are shared and never changed by the machine once they are on its stack, but for lists and dicts
     */
    return v && hr_pickle_append(p, v, (hr_pk *)(uintptr_t)function, err) &&
                   hr_pickle_append(p, v, (hr_pk *)(uintptr_t)args, err)
               ? v
               : NULL;
}

static bool set_state(void *ctx, hr_pickle *p, hr_pk *object, hr_pk *state, hr_err *err)
{
    (void)ctx;
    if (object->type == HR_PK_TUPLE && object->u.seq.n == 2 && object->u.seq.item[0]->type == HR_PK_GLOBAL)
        return hr_pickle_append(p, object, state, err);
    hr_fail(err, HR_EFORMAT, "%s: its pickle gives %s a state", hr_pickle_where(p),
            hr_pk_names[object->type]);
    return false;
}

/* Is this a whole number of that value? */
static bool is_int(const hr_pk *v, int64_t number)
{
    return (v->type == HR_PK_INT || v->type == HR_PK_BOOL) && v->u.i == number;
}

/* A numpy array (rows, columns) of uint8 in C order: its bytes, else NULL. */
static const hr_pk *array_bytes(const hr_pk *v, int64_t rows, int64_t columns)
{
    hr_pk *const *part = v->u.seq.item;
    if (v->type != HR_PK_TUPLE || v->u.seq.n != 3 ||
        !(is_name(part[0], reconstruct[0]) || is_name(part[0], reconstruct[1])) ||
        part[2]->type != HR_PK_TUPLE || part[2]->u.seq.n != 5)
        return NULL;
    const hr_pk *shape = part[2]->u.seq.item[1], *dtype = part[2]->u.seq.item[2],
                *fortran = part[2]->u.seq.item[3], *bytes = part[2]->u.seq.item[4];
    bool shaped = shape->type == HR_PK_TUPLE && shape->u.seq.n == 2 && is_int(shape->u.seq.item[0], rows) &&
                  is_int(shape->u.seq.item[1], columns);
    bool typed = dtype->type == HR_PK_TUPLE && dtype->u.seq.n >= 2 &&
                 is_name(dtype->u.seq.item[0], "numpy.dtype") && dtype->u.seq.item[1]->type == HR_PK_TUPLE &&
                 dtype->u.seq.item[1]->u.seq.n > 0 && hr_pk_is_str(dtype->u.seq.item[1]->u.seq.item[0], "u1");
    return shaped && typed && is_int(fortran, 0) && bytes->type == HR_PK_STR ? bytes : NULL;
}

/* Images and labels of what the pickle left. */
static int take(const hr_pk *root, const char *where, size_t image, const uint8_t **pixels, int64_t **labels,
                uint32_t *count, hr_err *err)
{
    const hr_pk *data = hr_pk_get(root, "data"), *list = hr_pk_get(root, "labels");
    if (!data || !list || list->type != HR_PK_LIST)
        return hr_fail(err, HR_EFORMAT, "%s: has no 'data' or no list 'labels'", where);
    size_t n = list->u.seq.n;
    const hr_pk *bytes = data->type == HR_PK_STR ? data : array_bytes(data, (int64_t)n, (int64_t)image);
    if (!bytes || n == 0 || bytes->u.str.n != n * image)
        return hr_fail(err, HR_EFORMAT,
                       "%s: 'data' is no array of uint8 with one row of %zu for each of %zu labels", where,
                       image, n);
    for (size_t i = 0; i < n; i++)
        if (list->u.seq.item[i]->type != HR_PK_INT)
            return hr_fail(err, HR_EFORMAT, "%s: label %zu is %s, not a number", where, i,
                           hr_pk_names[list->u.seq.item[i]->type]);
    *pixels = (const uint8_t *)bytes->u.str.s;
    *count = (uint32_t)n;
    *labels = hr_xmalloc(n * sizeof **labels);
    for (size_t i = 0; i < n; i++)
        (*labels)[i] = list->u.seq.item[i]->u.i;
    return HR_OK;
}

int hr_batch_pickle(const uint8_t *p, size_t n, const char *where, size_t image, const uint8_t **pixels,
                    int64_t **labels, uint32_t *count, hr_err *err)
{
    static const hr_pickle_hooks hooks = {.call = call, .name = allow, .state = set_state, .max = MAX_BATCH};
    hr_pk *root;
    bool more;
    *labels = NULL;
    hr_pickle *machine = hr_pickle_run((const char *)p, n, &hooks, where, &root, NULL, &more, err);
    int rc = machine ? take(root, where, image, pixels, labels, count, err) : HR_EFORMAT;
    hr_pickle_free(machine);
    return rc;
}
