/* lib/data/batch_pickle.c -- one batch of CIFAR-10's Python version: a pickle, read without running anything.
 *
 * The batches were written by Python 2's cPickle under protocol 2 and hold
 *
 *     {"batch_label": str, "labels": [int, ...], "data": numpy array (n, 3072) of uint8, "filenames": [str,
 * ...]}
 *
 * and an array is a call of numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), "b") whose result gets
 * the state (1, (n, 3072), dtype, fortran order?, str of the bytes), the dtype being a call of
 * numpy.dtype("u1", 0, 1) with a state of its own. Python 3, which has no str of bytes under protocol 2,
 * writes the bytes as a call of _codecs.encode(text, "latin1") instead, and under protocol 5 an array is a
 * call of numpy.core.numeric._frombuffer(bytes, dtype, (n, 3072), "C"). The machine of base/pickle.h reads
 * them; a batch may use these names and no other. A call becomes the tuple (name, arguments), to which a
 * state is added; that of encode becomes its bytes. */
#include "base/pickle.h"
#include "data/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 256 << 20 }; /* bytes; a published one has 31 MB */

static const char *const reconstruct[] = {"numpy.core.multiarray._reconstruct",
                                          "numpy._core.multiarray._reconstruct"};

static const char *const from_buffer[] = {"numpy.core.numeric._frombuffer",
                                          "numpy._core.numeric._frombuffer"};

static bool is_name(const hr_pk *v, const char *name)
{
    return v->type == HR_PK_GLOBAL && strcmp(v->u.str.s, name) == 0;
}

static bool is_either(const hr_pk *v, const char *const names[2])
{
    return is_name(v, names[0]) || is_name(v, names[1]);
}

static bool allow(void *ctx, hr_pickle *p, const char *name, hr_err *err)
{
    (void)ctx;
    const char *const known[] = {reconstruct[0],  reconstruct[1], from_buffer[0],  from_buffer[1],
                                 "numpy.ndarray", "numpy.dtype",  "_codecs.encode"};
    for (size_t i = 0; i < HR_COUNT(known); i++)
        if (strcmp(name, known[i]) == 0)
            return true;
    hr_fail(err, HR_EFORMAT, "%s: its pickle asks for %s: only numpy's arrays are read", hr_pickle_where(p),
            name);
    return false;
}

/* _codecs.encode(text, "latin1"): the bytes whose values are the text's characters, which is UTF-8. */
static hr_pk *encode(hr_pickle *p, const hr_pk *args, hr_err *err)
{
    hr_pk *const *arg = args->u.seq.item;
    if (args->u.seq.n != 2 || arg[0]->type != HR_PK_STR ||
        !(hr_pk_is_str(arg[1], "latin1") || hr_pk_is_str(arg[1], "latin-1"))) {
        hr_fail(err, HR_EFORMAT, "%s: its pickle encodes what is no text in latin1", hr_pickle_where(p));
        return NULL;
    }
    const unsigned char *s = (const unsigned char *)arg[0]->u.str.s, *end = s + arg[0]->u.str.n;
    hr_pk *v = hr_pickle_value(p, HR_PK_STR, err);
    char *bytes = v ? hr_pickle_alloc(p, arg[0]->u.str.n, err) : NULL;
    if (!bytes)
        return NULL;
    size_t n = 0;
    while (s < end)
        if (*s < 0x80) {
            bytes[n++] = (char)*s++;
        } else if ((*s & 0xfe) == 0xc2 && end - s > 1 && (s[1] & 0xc0) == 0x80) { /* U+0080 to U+00FF */
            bytes[n++] = (char)(s[0] << 6 | (s[1] & 0x3f));
            s += 2;
        } else {
            hr_fail(err, HR_EFORMAT, "%s: its pickle has a character that is no byte of latin1",
                    hr_pickle_where(p));
            return NULL;
        }
    v->u.str.s = bytes;
    v->u.str.n = n;
    return v;
}

static hr_pk *call(void *ctx, hr_pickle *p, const hr_pk *function, const hr_pk *args, hr_err *err)
{
    (void)ctx;
    if (is_name(function, "_codecs.encode"))
        return encode(p, args, err);
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
    const hr_pk *shape, *dtype, *bytes;
    bool ordered;
    if (v->type != HR_PK_TUPLE || v->u.seq.n < 2)
        return NULL;
    if (v->u.seq.n == 3 && is_either(part[0], reconstruct) && part[2]->type == HR_PK_TUPLE &&
        part[2]->u.seq.n == 5) {
        hr_pk *const *state = part[2]->u.seq.item;
        shape = state[1], dtype = state[2], ordered = is_int(state[3], 0), bytes = state[4];
    } else if (v->u.seq.n == 2 && is_either(part[0], from_buffer) && part[1]->type == HR_PK_TUPLE &&
               part[1]->u.seq.n == 4) {
        hr_pk *const *arg = part[1]->u.seq.item;
        bytes = arg[0], dtype = arg[1], shape = arg[2], ordered = hr_pk_is_str(arg[3], "C");
    } else {
        return NULL;
    }
    bool shaped = shape->type == HR_PK_TUPLE && shape->u.seq.n == 2 && is_int(shape->u.seq.item[0], rows) &&
                  is_int(shape->u.seq.item[1], columns);
    bool typed = dtype->type == HR_PK_TUPLE && dtype->u.seq.n >= 2 &&
                 is_name(dtype->u.seq.item[0], "numpy.dtype") && dtype->u.seq.item[1]->type == HR_PK_TUPLE &&
                 dtype->u.seq.item[1]->u.seq.n > 0 && hr_pk_is_str(dtype->u.seq.item[1]->u.seq.item[0], "u1");
    return shaped && typed && ordered && bytes->type == HR_PK_STR ? bytes : NULL;
}

/* Images and labels of what the pickle left. */
static int take(const hr_pk *root, const char *where, size_t image, uint8_t **pixels, int64_t **labels,
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
    *pixels = hr_xmalloc(bytes->u.str.n);
    memcpy(*pixels, bytes->u.str.s, bytes->u.str.n);
    *count = (uint32_t)n;
    *labels = hr_xmalloc(n * sizeof **labels);
    for (size_t i = 0; i < n; i++)
        (*labels)[i] = list->u.seq.item[i]->u.i;
    return HR_OK;
}

int hr_batch_pickle(const uint8_t *p, size_t n, const char *where, size_t image, uint8_t **pixels,
                    int64_t **labels, uint32_t *count, hr_err *err)
{
    static const hr_pickle_hooks hooks = {.call = call, .name = allow, .state = set_state, .max = MAX_BATCH};
    hr_pk *root;
    bool more;
    *pixels = NULL;
    *labels = NULL;
    hr_pickle *machine = hr_pickle_run((const char *)p, n, &hooks, where, &root, NULL, &more, err);
    int rc = machine ? take(root, where, image, pixels, labels, count, err) : HR_EFORMAT;
    hr_pickle_free(machine);
    return rc;
}
