/* lib/model/torch_objects.c -- what the pickles of torch.save mean: storages, tensors, and dicts of them.
 *
 * The names that have a meaning here (torch/_utils.py, torch/serialization.py, collections):
 *
 *   persistent id ('storage', torch.FloatStorage, key, location, numel[, view])   a storage; PyTorch up to
 *       0.3 also stored views (key, offset, numel) on storages
 *   persistent id ('module', class, file, source)   in the legacy form: the class of a network or a loss
 *   torch._utils._rebuild_tensor(storage, offset, size, stride)
 *   torch._utils._rebuild_tensor_v2(..., requires_grad, hooks[, metadata])
 *   torch._utils._rebuild_tensor_v3(..., requires_grad, hooks, dtype[, metadata])   on untyped storages
 *   any other torch._utils._rebuild_...tensor...   sparse, quantised or without data: a tensor we cannot use
 *   torch._utils._rebuild_parameter(tensor, ...), torch._utils._rebuild_parameter_with_state(tensor, ...)
 *   torch._tensor._rebuild_from_type_v2(function, class, args, state)
 *   collections.OrderedDict([pairs]), collections.defaultdict, torch.Size(tuple)
 * A call of anything else gives an opaque object: optimisers, argparse.Namespace, numpy scalars. */
#include "model/torch_file.h"

#include <stdlib.h>
#include <string.h>

const struct hr_element hr_elements[] = {
    {"float32", "FloatStorage", "F32", 4, HR_F32},
    {"float64", "DoubleStorage", "F64", 8, HR_F64},
    {"float16", "HalfStorage", "F16", 2, HR_F16},
    {"bfloat16", "BFloat16Storage", "BF16", 2, HR_BF16},
    {"int64", "LongStorage", "I64", 8, HR_I64},
    {"int32", "IntStorage", "I32", 4, HR_I32},
    {"uint8", "ByteStorage", "U8", 1, HR_U8},
    {"bool", "BoolStorage", "BOOL", 1, HR_BOOL},
    {"int16", "ShortStorage", "I16", 2, -1},
    {"int8", "CharStorage", "I8", 1, -1},
    {"complex64", "ComplexFloatStorage", "C64", 8, -1},
    {"complex128", "ComplexDoubleStorage", NULL, 16, -1},
    {"qint8", "QInt8Storage", NULL, 1, -1},
    {"quint8", "QUInt8Storage", NULL, 1, -1},
    {"qint32", "QInt32Storage", NULL, 4, -1},
    {"uint16", "UInt16Storage", "U16", 2, -1},
    {"uint32", "UInt32Storage", "U32", 4, -1},
    {"uint64", "UInt64Storage", "U64", 8, -1},
    {"float8_e4m3fn", "Float8_e4m3fnStorage", "F8_E4M3", 1, -1},
    {"float8_e5m2", "Float8_e5m2Storage", "F8_E5M2", 1, -1},
    {"untyped", "UntypedStorage", NULL, 1, -1},
    {NULL, NULL, NULL, 0, -1},
};

static bool same(const char *a, const char *s, size_t n)
{
    return a && strlen(a) == n && memcmp(a, s, n) == 0;
}

int hr_element_find(const char *name, size_t n)
{
    for (int i = 0; hr_elements[i].name; i++)
        if (same(hr_elements[i].name, name, n) || same(hr_elements[i].storage, name, n) ||
            same(hr_elements[i].safe, name, n))
            return i;
    return -1;
}

int hr_element_of_dtype(enum hr_dtype t)
{
    for (int i = 0; hr_elements[i].name; i++)
        if (hr_elements[i].dtype == (int)t)
            return i;
    BUG("dtype %d", (int)t);
}

/* ---- the lists of a file ------------------------------------------------------------------------------ */

int hr_torch_add_storage(struct hr_torch_file *f, const char *key, size_t n, int element, int64_t numel,
                         hr_err *err)
{
    if (n == 0 || n > HR_MAX_NAME || memchr(key, '\0', n)) {
        hr_fail(err, HR_EFORMAT, "%s: the key of a storage is no name", f->name);
        return -1;
    }
    if (numel < 0 || numel > INT64_MAX / 32) {
        hr_fail(err, HR_EFORMAT, "%s: storage '%.*s' has %lld elements", f->name, (int)n, key,
                (long long)numel);
        return -1;
    }
    char *text = hr_xasprintf("%.*s", (int)n, key);
    const json_t *known = json_object_get(f->keys, text);
    if (known) {
        int i = (int)json_integer_value(known);
        const struct hr_stored *s = &f->storages[i];
        free(text);
        if (s->element == element && s->numel == numel)
            return i;
        hr_fail(err, HR_EFORMAT, "%s: storage '%s' is described in two ways: %lld of %s, %lld of %s", f->name,
                s->key, (long long)s->numel, hr_elements[s->element].name, (long long)numel,
                hr_elements[element].name);
        return -1;
    }
    json_object_set_new_nocheck(f->keys, text, json_integer(f->nstorages));
    if (f->nstorages % 64 == 0)
        f->storages = hr_xrealloc(f->storages, (size_t)(f->nstorages + 64) * sizeof *f->storages);
    f->storages[f->nstorages] = (struct hr_stored){.key = text, .element = element, .numel = numel, .at = -1};
    return f->nstorages++;
}

struct hr_view *hr_torch_add_view(struct hr_torch_file *f, const char *key, size_t n)
{
    if (f->nviews % 64 == 0)
        f->views = hr_xrealloc(f->views, (size_t)(f->nviews + 64) * sizeof *f->views);
    struct hr_view *v = &f->views[f->nviews++];
    *v = (struct hr_view){.key = hr_xasprintf("%.*s", (int)n, key)};
    return v;
}

/* ---- hooks -------------------------------------------------------------------------------------------- */

static const hr_pk *item(const hr_pk *tuple, size_t i)
{
    return i < tuple->u.seq.n ? tuple->u.seq.item[i] : NULL;
}

static bool is_seq(const hr_pk *v)
{
    return v && (v->type == HR_PK_TUPLE || v->type == HR_PK_LIST);
}

/* The last word of a dotted name. */
static const char *leaf(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

static hr_pk *object(hr_pickle *p, const hr_pk *class, hr_err *err)
{
    hr_pk *v = hr_pickle_value(p, HR_PK_OBJECT, err);
    if (v)
        v->u.str = class->u.str;
    return v;
}

static hr_pk *persistent(void *ctx, hr_pickle *p, const hr_pk *id, hr_err *err)
{
    struct hr_torch_file *f = ctx;
    const hr_pk *class = id->type == HR_PK_TUPLE ? item(id, 1) : NULL, *key = class ? item(id, 2) : NULL,
                *numel = key ? item(id, 4) : NULL, *view = numel ? item(id, 5) : NULL;
    if (class && class->type == HR_PK_GLOBAL && hr_pk_is_str(item(id, 0), "module")) {
        hr_pk *v = hr_pickle_value(p, HR_PK_GLOBAL, err);
        if (v)
            v->u = class->u;
        return v;
    }
    if (!numel || !hr_pk_is_str(item(id, 0), "storage") || class->type != HR_PK_GLOBAL ||
        key->type != HR_PK_STR || numel->type != HR_PK_INT) {
        hr_fail(err, HR_EFORMAT, "%s: its pickle refers to something outside that is no storage", f->name);
        return NULL;
    }
    const char *name = leaf(class->u.str.s);
    int element = hr_element_find(name, strlen(name));
    if (strncmp(class->u.str.s, "torch.", 6) != 0) {
        hr_fail(err, HR_EFORMAT, "%s: storage of the unknown type %s", f->name, class->u.str.s);
        return NULL;
    }
    if (element < 0) /* no reason to refuse the file: who asks for a tensor in it is told */
        return object(p, class, err);
    int index = hr_torch_add_storage(f, key->u.str.s, key->u.str.n, element, numel->u.i, err);
    hr_pk *v = index < 0 ? NULL : hr_pickle_value(p, HR_PK_STORAGE, err);
    if (!v)
        return NULL;
    v->u.storage.index = index;
    v->u.storage.numel = numel->u.i;
    if (is_seq(view)) { /* (key, offset, numel) */
        const hr_pk *offset = item(view, 1), *n = item(view, 2);
        if (!offset || !n || offset->type != HR_PK_INT || n->type != HR_PK_INT || offset->u.i < 0 ||
            n->u.i < 0 || offset->u.i > numel->u.i || n->u.i > numel->u.i - offset->u.i) {
            hr_fail(err, HR_EFORMAT, "%s: a view leaves its storage '%s'", f->name, f->storages[index].key);
            return NULL;
        }
        v->u.storage.offset = offset->u.i;
        v->u.storage.numel = n->u.i;
    }
    return v;
}

/* A tensor that nobody may ask for; why ends a sentence that begins with its name. */
static hr_pk *unusable(hr_pickle *p, const char *why, hr_err *err)
{
    hr_pk *v = hr_pickle_value(p, HR_PK_TENSOR, err);
    if (v && (v->u.tensor = hr_pickle_alloc(p, sizeof *v->u.tensor, err)) == NULL)
        return NULL;
    if (v)
        v->u.tensor->bad = why;
    return v;
}

/* Is the bit of that name set in a tensor's metadata? */
static bool flagged(const hr_pk *metadata, const char *bit)
{
    const hr_pk *v = metadata && metadata->type == HR_PK_DICT ? hr_pk_get(metadata, bit) : NULL;
    return v && v->type == HR_PK_BOOL && v->u.i;
}

/* (storage, offset, size, stride): element is that of v3's dtype, or -1. */
static hr_pk *rebuild(hr_pickle *p, const hr_pk *args, const hr_pk *dtype, bool v3, hr_err *err)
{
    hr_pk *v = hr_pickle_value(p, HR_PK_TENSOR, err);
    struct hr_pk_tensor *t = v ? hr_pickle_alloc(p, sizeof *t, err) : NULL;
    if (!t)
        return NULL;
    v->u.tensor = t;
    const hr_pk *storage = item(args, 0), *start = item(args, 1), *size = item(args, 2),
                *stride = item(args, 3);
    t->element = -1;
    if (storage && storage->type == HR_PK_OBJECT)
        return unusable(p, "lies in a storage of an unknown type", err);
    if (!is_seq(stride) || !is_seq(size) || start->type != HR_PK_INT || storage->type != HR_PK_STORAGE) {
        t->bad = "is not rebuilt from a storage, an offset, sizes and strides";
        return v;
    }
    if (size->u.seq.n != stride->u.seq.n || size->u.seq.n > HR_MAX_DIMS) {
        t->bad = "has more dimensions than we know, or sizes without strides";
        return v;
    }
    if (v3) {
        const char *name = dtype && dtype->type == HR_PK_GLOBAL ? leaf(dtype->u.str.s) : "";
        t->element = hr_element_find(name, strlen(name));
        if (t->element < 0)
            t->bad = "has an unknown dtype";
    }
    if (flagged(item(args, v3 ? 7 : 6), "neg"))
        t->bad = "is a negated view of other values (PyTorch's neg bit); save it after resolve_neg()";
    t->storage = storage->u.storage.index;
    t->offset = storage->u.storage.offset;
    t->numel = storage->u.storage.numel;
    t->start = start->u.i;
    t->ndim = (int)size->u.seq.n;
    for (int i = 0; i < t->ndim; i++) {
        if (size->u.seq.item[i]->type != HR_PK_INT || stride->u.seq.item[i]->type != HR_PK_INT) {
            t->bad = "has sizes or strides that are no whole numbers";
            return v;
        }
        t->shape[i] = size->u.seq.item[i]->u.i;
        t->stride[i] = stride->u.seq.item[i]->u.i;
    }
    return v;
}

/* A dict of a list of pairs. */
static hr_pk *dict_of(hr_pickle *p, const hr_pk *pairs, hr_err *err)
{
    hr_pk *d = hr_pickle_value(p, HR_PK_DICT, err);
    for (size_t i = 0; d && is_seq(pairs) && i < pairs->u.seq.n; i++) {
        const hr_pk *pair = pairs->u.seq.item[i];
        if (!is_seq(pair) || pair->u.seq.n != 2)
            continue;
        if (!hr_pickle_append(p, d, pair->u.seq.item[0], err) ||
            !hr_pickle_append(p, d, pair->u.seq.item[1], err))
            return NULL;
    }
    return d;
}

static hr_pk *call_named(hr_pickle *p, const hr_pk *function, const hr_pk *args, bool inner, hr_err *err)
{
    const char *name = function->u.str.s;
    const hr_pk *first = item(args, 0);
    if (strcmp(name, "torch._utils._rebuild_tensor") == 0 ||
        strcmp(name, "torch._utils._rebuild_tensor_v2") == 0)
        return rebuild(p, args, NULL, false, err);
    if (strcmp(name, "torch._utils._rebuild_tensor_v3") == 0)
        return rebuild(p, args, item(args, 6), true, err);
    if (strncmp(name, "torch._utils._rebuild_parameter", 31) == 0 && first && first->type == HR_PK_TENSOR) {
        hr_pk *v = hr_pickle_value(p, HR_PK_TENSOR, err);
        if (v)
            v->u = first->u;
        return v;
    }
    if (strcmp(name, "torch._tensor._rebuild_from_type_v2") == 0 && !inner && first &&
        first->type == HR_PK_GLOBAL && item(args, 2) && item(args, 2)->type == HR_PK_TUPLE)
        return call_named(p, first, item(args, 2), true, err);
    if (strncmp(name, "torch._utils._rebuild_", 22) == 0 && strstr(name, "tensor"))
        return unusable(p, "is sparse, quantised or without data, which we cannot use", err);
    if (strcmp(name, "collections.OrderedDict") == 0)
        return dict_of(p, first, err);
    if (strcmp(name, "collections.defaultdict") == 0)
        return dict_of(p, NULL, err);
    if (strcmp(name, "torch.Size") == 0 && is_seq(first)) {
        hr_pk *v = hr_pickle_value(p, HR_PK_TUPLE, err);
        if (v) {
            v->depth = first->depth;
            v->u = first->u;
        }
        return v;
    }
    return object(p, function, err);
}

static hr_pk *call(void *ctx, hr_pickle *p, const hr_pk *function, const hr_pk *args, hr_err *err)
{
    (void)ctx;
    return function->type == HR_PK_GLOBAL ? call_named(p, function, args, false, err)
                                          : object(p, function, err);
}

hr_pickle_hooks hr_torch_hooks(struct hr_torch_file *f)
{
    return (hr_pickle_hooks){.persistent = persistent, .call = call, .ctx = f};
}

/* ---- the state_dict in a value ------------------------------------------------------------------------ */

static size_t count_tensors(const hr_pk *d)
{
    size_t n = 0;
    if (d && d->type == HR_PK_DICT)
        for (size_t i = 1; i < d->u.seq.n; i += 2)
            n += d->u.seq.item[i]->type == HR_PK_TENSOR;
    return n;
}

static int take_dict(struct hr_torch_file *f, const hr_pk *d, enum hr_view_group group, hr_err *err)
{
    for (size_t i = 0; d && d->type == HR_PK_DICT && i < d->u.seq.n; i += 2) {
        const hr_pk *key = d->u.seq.item[i], *value = d->u.seq.item[i + 1];
        if (value->type != HR_PK_TENSOR)
            continue;
        if (key->type != HR_PK_STR || key->u.str.n == 0 || key->u.str.n > HR_MAX_NAME ||
            memchr(key->u.str.s, '\0', key->u.str.n))
            return hr_fail(err, HR_EFORMAT, "%s: a tensor's name is %s, not 1 to %d characters", f->name,
                           hr_pk_names[key->type], HR_MAX_NAME);
        if (f->nviews >= HR_MAX_TENSORS)
            return hr_fail(err, HR_EFORMAT, "%s: more than %d tensors", f->name, HR_MAX_TENSORS);
        const struct hr_pk_tensor *t = value->u.tensor;
        struct hr_view *v = hr_torch_add_view(f, key->u.str.s, key->u.str.n);
        v->group = group;
        v->bad = t->bad;
        if (t->bad)
            continue;
        v->storage = t->storage;
        v->element = t->element < 0 ? f->storages[t->storage].element : t->element;
        v->ndim = t->ndim;
        memcpy(v->shape, t->shape, sizeof v->shape);
        memcpy(v->stride, t->stride, sizeof v->stride);
        if (t->start < 0 || t->start > INT64_MAX / 2)
            v->bad = "begins outside its storage";
        v->start = v->bad ? 0 : t->offset + t->start;
    }
    return HR_OK;
}

/* "holds an object torchvision.models.resnet.ResNet, ..." */
static int no_state_dict(const struct hr_torch_file *f, const hr_pk *v, const char *key, hr_err *err)
{
    bool object_ = v && v->type == HR_PK_OBJECT;
    if (object_)
        return hr_fail(err, HR_EFORMAT,
                       "%s: %s%s%s a pickled %.*s, whose class would have to be run; save its state_dict()",
                       f->name, key ? "'" : "", key ? key : "it", key ? "' is" : " is", (int)v->u.str.n,
                       v->u.str.s);
    return hr_fail(err, HR_EFORMAT, "%s: %s%s%s %s, a dict of tensors is needed", f->name, key ? "'" : "",
                   key ? key : "it", key ? "' is" : " holds",
                   !v                      ? "missing"
                   : v->type == HR_PK_DICT ? "a dict without tensors"
                                           : hr_pk_names[v->type]);
}

/* d's entry of that name; "a.b" is also entry b of entry a. NULL where there is none. */
static const hr_pk *entry(const hr_pk *d, const char *key)
{
    const hr_pk *v = hr_pk_get(d, key);
    for (const char *dot = strchr(key, '.'); !v && dot; dot = strchr(dot + 1, '.')) {
        char *head = hr_xasprintf("%.*s", (int)(dot - key), key);
        const hr_pk *inner = hr_pk_get(d, head);
        free(head);
        v = inner ? entry(inner, dot + 1) : NULL;
    }
    return v;
}

int hr_torch_take_views(struct hr_torch_file *f, const hr_pk *root, const char *key, hr_err *err)
{
    static const char *const keys[] = {"state_dict", "net", "model", "model_state_dict"};
    const hr_pk *state = NULL;
    if (key) {
        state = entry(root, key);
        if (!count_tensors(state))
            return no_state_dict(f, state, key, err);
    }
    for (size_t i = 0; !state && i < HR_COUNT(keys); i++) {
        const hr_pk *v = hr_pk_get(root, keys[i]);
        key = v && !key ? keys[i] : key;
        state = count_tensors(v) ? v : NULL;
    }
    if (!state &&
        count_tensors(root)) /* after the others: "best_prec1" beside a state_dict may be a tensor */
        state = root;
    if (!state)
        return key ? no_state_dict(f, hr_pk_get(root, key), key, err) : no_state_dict(f, root, NULL, err);
    const hr_pk *admm = hr_pk_get(root, "admm");
    int rc = take_dict(f, state, HR_VIEW_STATE, err);
    if (rc == HR_OK)
        rc = take_dict(f, hr_pk_get(admm, "ADMM_U"), HR_VIEW_ADMM_U, err);
    if (rc == HR_OK)
        rc = take_dict(f, hr_pk_get(admm, "ADMM_Z"), HR_VIEW_ADMM_Z, err);
    return rc;
}
