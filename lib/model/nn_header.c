/* lib/model/nn_header.c -- the msgpack maps of a .nn file: header (the graph), tensor descriptions, trailer.
 *
 * Writing is msgpack-c's packer. Reading is msgpack-c's unpacker behind a gate: the unpacker believes the
 * lengths of arrays and maps and allocates for them, so the bytes are walked once before, and an array that
 * claims more elements than there are bytes left never reaches it. After that the maps are taken apart
 * strictly: a key that is missing, unknown or there twice is refused, so version 1 means one thing. */
#include "model/internal.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

static const char format_name[] = "heracles.nn";
enum { FORMAT_VERSION = 1 };

/* ---- writing ------------------------------------------------------------------------------------------- */

static int append(void *b, const char *bytes, size_t n)
{
    hr_buf_add(b, bytes, n);
    return 0;
}

static void put_str(msgpack_packer *pk, const char *s)
{
    size_t n = strlen(s);
    msgpack_pack_str(pk, n);
    msgpack_pack_str_body(pk, s, n);
}

static void put_str_field(msgpack_packer *pk, const char *key, const char *s)
{
    put_str(pk, key);
    put_str(pk, s);
}

static void put_int_field(msgpack_packer *pk, const char *key, int64_t v)
{
    put_str(pk, key);
    msgpack_pack_int64(pk, v);
}

static void put_real_field(msgpack_packer *pk, const char *key, double v)
{
    put_str(pk, key);
    msgpack_pack_double(pk, v);
}

static void put_ints_field(msgpack_packer *pk, const char *key, const int *v, int n)
{
    put_str(pk, key);
    msgpack_pack_array(pk, (size_t)n);
    for (int i = 0; i < n; i++)
        msgpack_pack_int64(pk, v[i]);
}

static void put_reals_field(msgpack_packer *pk, const char *key, const double *v, int n)
{
    put_str(pk, key);
    msgpack_pack_array(pk, (size_t)n);
    for (int i = 0; i < n; i++)
        msgpack_pack_double(pk, v[i]);
}

static void put_attrs(msgpack_packer *pk, const hr_node *n)
{
    int channels = 0; /* of normalize: no deviation is 0 */
    while (n->op == HR_OP_NORMALIZE && channels < HR_MAX_CHANNELS_NORM && n->std[channels] != 0)
        channels++;
    put_str(pk, "attrs");
    switch (n->op) {
    case HR_OP_INPUT:
        msgpack_pack_map(pk, 1);
        put_ints_field(pk, "shape", (int[]){n->c, n->h, n->w}, 3);
        break;
    case HR_OP_NORMALIZE:
        msgpack_pack_map(pk, 2);
        put_reals_field(pk, "mean", n->mean, channels);
        put_reals_field(pk, "std", n->std, channels);
        break;
    case HR_OP_CONV2D:
    case HR_OP_MAXPOOL:
    case HR_OP_AVGPOOL:
        msgpack_pack_map(pk, n->tie ? 4 : 3);
        put_ints_field(pk, "kernel", (int[]){n->kh, n->kw}, 2);
        put_int_field(pk, "stride", n->stride);
        put_int_field(pk, "pad", n->pad);
        if (n->tie)
            put_str_field(pk, "tie", n->tie);
        break;
    case HR_OP_ADAPTIVE_AVGPOOL:
        msgpack_pack_map(pk, 1);
        put_ints_field(pk, "size", (int[]){n->kh, n->kw}, 2);
        break;
    case HR_OP_BATCHNORM:
        msgpack_pack_map(pk, 2);
        put_real_field(pk, "eps", n->bn_eps);
        put_real_field(pk, "momentum", n->bn_momentum);
        break;
    default:
        msgpack_pack_map(pk, 0);
    }
}

static void put_node(msgpack_packer *pk, const hr_model *m, const hr_node *n)
{
    size_t params = 0;
    for (int p = 0; p < HR_P_COUNT; p++)
        params += n->param[p] >= 0;
    msgpack_pack_map(pk, 5);
    put_str_field(pk, "id", n->id);
    put_str_field(pk, "op", hr_op_names[n->op]);
    put_ints_field(pk, "in", n->in, n->nin);
    put_attrs(pk, n);
    put_str(pk, "params");
    msgpack_pack_map(pk, params);
    for (int p = 0; p < HR_P_COUNT; p++)
        if (n->param[p] >= 0)
            put_str_field(pk, hr_param_names[p], m->tensors[n->param[p]].name);
}

static void put_prune(msgpack_packer *pk, const hr_node *n, const hr_prune *p)
{
    msgpack_pack_map(pk, 5);
    put_str_field(pk, "layer", n->id);
    put_str_field(pk, "reg", hr_reg_names[p->reg]);
    put_real_field(pk, "rate", p->rate);
    put_int_field(pk, "kept", p->kept);
    put_str_field(pk, "state", p->active ? "active" : "planned");
}

void hr_nn_put_header(hr_buf *b, const hr_model *m)
{
    msgpack_packer pk;
    size_t pruned = 0;
    msgpack_packer_init(&pk, b, append);
    msgpack_pack_map(&pk, 7);
    put_str_field(&pk, "format", format_name);
    put_int_field(&pk, "version", FORMAT_VERSION);
    put_str_field(&pk, "arch", m->arch);
    put_int_field(&pk, "classes", m->classes);
    put_str(&pk, "graph");
    msgpack_pack_array(&pk, (size_t)m->nnodes);
    for (int i = 0; i < m->nnodes; i++) {
        put_node(&pk, m, &m->nodes[i]);
        pruned += m->prune[i].set;
    }
    put_str(&pk, "prune");
    msgpack_pack_array(&pk, pruned);
    for (int i = 0; i < m->nnodes; i++)
        if (m->prune[i].set)
            put_prune(&pk, &m->nodes[i], &m->prune[i]);
    put_int_field(&pk, "tensors", m->ntensors);
}

void hr_nn_put_tensor(hr_buf *b, const hr_tensor *t)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, b, append);
    msgpack_pack_map(&pk, 3);
    put_str_field(&pk, "name", t->name);
    put_str_field(&pk, "dtype", hr_dtype_names[t->dtype]);
    put_str(&pk, "shape");
    msgpack_pack_array(&pk, (size_t)t->ndim);
    for (int i = 0; i < t->ndim; i++)
        msgpack_pack_int64(&pk, t->shape[i]);
}

void hr_nn_put_trailer(hr_buf *b, int ntensors, const char *sha256)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, b, append);
    msgpack_pack_map(&pk, 2);
    put_int_field(&pk, "tensors", ntensors);
    put_str_field(&pk, "sha256", sha256);
}

/* ---- reading: the gate ----------------------------------------------------------------------------------
 */

static uint64_t big_endian(const unsigned char *p, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

/* Where the one msgpack object at p ends, or NULL when it does not end before `end`, nests deeper than
 * `depth`, or is of a type that .nn files do not use (bin, ext, reserved). */
static const unsigned char *gate(const unsigned char *p, const unsigned char *end, int depth)
{
    if (p >= end || depth == 0)
        return NULL;
    unsigned char tag = *p++;
    size_t left = (size_t)(end - p);
    unsigned wide = 0;               /* bytes of a length or of a number's body */
    uint64_t skip = 0, children = 0; /* then: raw bytes, then objects */

    if (tag <= 0x7f || tag >= 0xe0 || tag == 0xc0 || tag == 0xc2 || tag == 0xc3)
        return p; /* small numbers, nil, booleans */
    if (tag <= 0x8f)
        children = 2u * (tag & 0x0fu);
    else if (tag <= 0x9f)
        children = tag & 0x0fu;
    else if (tag <= 0xbf)
        skip = tag & 0x1fu;
    else if (tag == 0xca || tag == 0xcb)
        skip = tag == 0xca ? 4 : 8; /* floats */
    else if (tag >= 0xcc && tag <= 0xd3)
        skip = 1u << (tag & 3); /* integers of 1, 2, 4, 8 bytes */
    else if (tag >= 0xd9 && tag <= 0xdb)
        wide = 1u << (tag - 0xd9); /* strings */
    else if (tag >= 0xdc)
        wide = tag & 1 ? 4 : 2; /* arrays, maps */
    else
        return NULL;

    if (wide) {
        if (wide > left)
            return NULL;
        uint64_t n = big_endian(p, wide);
        p += wide;
        left -= wide;
        if (tag <= 0xdb)
            skip = n;
        else
            children = tag <= 0xdd ? n : 2 * n;
    }
    if (skip > left || children > left)
        return NULL;
    p += skip;
    while (p && children-- > 0)
        p = gate(p, end, depth - 1);
    return p;
}

/* ---- reading: maps and values ---------------------------------------------------------------------------
 */

struct get {
    const char *where, *part; /* the file, and which piece of it, for messages */
    hr_err *err;
};

#define BAD(fmt, ...) hr_fail(k->err, HR_EFORMAT, "%s: %s: " fmt, k->where, k->part, __VA_ARGS__)

typedef msgpack_object object;

/* Unpack the one object that bytes hold; its strings point into bytes. Release u in any case. */
static int unpack(struct get *k, msgpack_unpacked *u, const char *bytes, size_t n)
{
    enum { DEEPEST = 8 };
    const unsigned char *p = (const unsigned char *)bytes;
    size_t used = 0;
    msgpack_unpacked_init(u);
    if (gate(p, p + n, DEEPEST) != p + n ||
        msgpack_unpack_next(u, bytes, n, &used) != MSGPACK_UNPACK_SUCCESS || used != n)
        return BAD("%zu bytes are not one sound msgpack map", n);
    return HR_OK;
}

static bool is_str(const object *o, const char *s)
{
    return o->type == MSGPACK_OBJECT_STR && o->via.str.size == strlen(s) &&
           memcmp(o->via.str.ptr, s, o->via.str.size) == 0;
}

/* Take a map apart: value[i] becomes that of key[i], NULL where it is absent; the first `required` keys must
 * be there, and no key that is not listed. */
static int get_fields(struct get *k, const object *o, const char *const *key, size_t keys, size_t required,
                      const object **value)
{
    memset(value, 0, keys * sizeof *value);
    if (o->type != MSGPACK_OBJECT_MAP)
        return BAD("no map with the key '%s' where one is needed", key[0]);
    for (uint32_t i = 0; i < o->via.map.size; i++) {
        const msgpack_object_kv *kv = &o->via.map.ptr[i];
        size_t f = 0;
        while (f < keys && !is_str(&kv->key, key[f]))
            f++;
        if (f == keys && kv->key.type == MSGPACK_OBJECT_STR)
            return BAD("unknown key '%.*s'", (int)(kv->key.via.str.size < 40 ? kv->key.via.str.size : 40),
                       kv->key.via.str.ptr);
        if (f == keys)
            return BAD("a key of the map with '%s' is no string", key[0]);
        if (value[f])
            return BAD("the key '%s' is there twice", key[f]);
        value[f] = &kv->val;
    }
    for (size_t f = 0; f < required; f++)
        if (!value[f])
            return BAD("the key '%s' is missing", key[f]);
    return HR_OK;
}

static int get_int(struct get *k, const object *o, const char *key, int64_t min, int64_t max, int64_t *v)
{
    bool positive = o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX;
    if (!positive && o->type != MSGPACK_OBJECT_NEGATIVE_INTEGER)
        return BAD("'%s' is no whole number", key);
    *v = positive ? (int64_t)o->via.u64 : o->via.i64;
    if (*v < min || *v > max)
        return BAD("'%s' is %lld, outside %lld..%lld", key, (long long)*v, (long long)min, (long long)max);
    return HR_OK;
}

static int get_small(struct get *k, const object *o, const char *key, int *v)
{
    int64_t wide = 0;
    int rc = get_int(k, o, key, 0, 1 << 30, &wide);
    *v = (int)wide;
    return rc;
}

static int get_real(struct get *k, const object *o, const char *key, double *v)
{
    if (o->type != MSGPACK_OBJECT_FLOAT64)
        return BAD("'%s' is no float64", key);
    *v = o->via.f64;
    return HR_OK;
}

static int get_str(struct get *k, const object *o, const char *key, char **v)
{
    if (o->type != MSGPACK_OBJECT_STR || o->via.str.size > HR_MAX_NAME ||
        memchr(o->via.str.ptr, '\0', o->via.str.size))
        return BAD("'%s' is no string of at most %d characters", key, HR_MAX_NAME);
    *v = hr_xasprintf("%.*s", (int)o->via.str.size, o->via.str.ptr);
    return HR_OK;
}

/* The index of a string in a NULL-terminated list. */
static int get_choice(struct get *k, const object *o, const char *key, const char *const *list, int *v)
{
    for (*v = 0; list[*v]; (*v)++)
        if (is_str(o, list[*v]))
            return HR_OK;
    int n = o->type == MSGPACK_OBJECT_STR && o->via.str.size < 40 ? (int)o->via.str.size : 0;
    return BAD("'%s' is '%.*s', none of those that version %d knows", key, n, n ? o->via.str.ptr : "",
               FORMAT_VERSION);
}

/* An array of min to max elements; *n receives how many. */
static int get_array(struct get *k, const object *o, const char *key, int min, int max, int *n)
{
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size < (uint32_t)min ||
        o->via.array.size > (uint32_t)max)
        return BAD("'%s' is no array of %d to %d elements", key, min, max);
    *n = (int)o->via.array.size;
    return HR_OK;
}

static int get_smalls(struct get *k, const object *o, const char *key, int min, int max, int *v, int *n)
{
    int rc = get_array(k, o, key, min, max, n);
    for (int i = 0; rc == HR_OK && i < *n; i++)
        rc = get_small(k, &o->via.array.ptr[i], key, &v[i]);
    return rc;
}

static int get_reals(struct get *k, const object *o, const char *key, double *v, int *n)
{
    int rc = get_array(k, o, key, 1, HR_MAX_CHANNELS_NORM, n);
    for (int i = 0; rc == HR_OK && i < *n; i++)
        rc = get_real(k, &o->via.array.ptr[i], key, &v[i]);
    return rc;
}

/* ---- reading: the graph -----------------------------------------------------------------------------------
 */

static int get_window(struct get *k, const object *o, hr_node *n)
{
    static const char *const keys[] = {"kernel", "stride", "pad", "tie"};
    const object *v[HR_COUNT(keys)];
    int kernel[2] = {0}, count, rc = get_fields(k, o, keys, HR_COUNT(keys), 3, v);
    if (rc == HR_OK)
        rc = get_smalls(k, v[0], "kernel", 2, 2, kernel, &count);
    if (rc == HR_OK)
        rc = get_small(k, v[1], "stride", &n->stride);
    if (rc == HR_OK)
        rc = get_small(k, v[2], "pad", &n->pad);
    if (rc == HR_OK && v[3])
        rc = get_str(k, v[3], "tie", &n->tie);
    n->kh = kernel[0];
    n->kw = kernel[1];
    return rc;
}

static int get_normalize(struct get *k, const object *o, hr_node *n)
{
    static const char *const keys[] = {"mean", "std"};
    const object *v[HR_COUNT(keys)];
    int means = 0, stds = 0, rc = get_fields(k, o, keys, HR_COUNT(keys), 2, v);
    if (rc == HR_OK)
        rc = get_reals(k, v[0], "mean", n->mean, &means);
    if (rc == HR_OK)
        rc = get_reals(k, v[1], "std", n->std, &stds);
    if (rc == HR_OK && means != stds)
        rc = BAD("'%s' has %d means and %d deviations", n->id, means, stds);
    return rc;
}

static int get_attrs(struct get *k, const object *o, hr_node *n)
{
    static const char *const of_input[] = {"shape"}, *const of_adaptive[] = {"size"},
                             *const of_bn[] = {"eps", "momentum"}, *const of_none[] = {""};
    const object *v[2];
    int three[3] = {0}, count, rc;
    switch (n->op) {
    case HR_OP_INPUT:
        rc = get_fields(k, o, of_input, HR_COUNT(of_input), 1, v);
        if (rc == HR_OK)
            rc = get_smalls(k, v[0], "shape", 3, 3, three, &count);
        n->c = three[0];
        n->h = three[1];
        n->w = three[2];
        return rc;
    case HR_OP_NORMALIZE:
        return get_normalize(k, o, n);
    case HR_OP_CONV2D:
    case HR_OP_MAXPOOL:
    case HR_OP_AVGPOOL:
        return get_window(k, o, n);
    case HR_OP_ADAPTIVE_AVGPOOL:
        rc = get_fields(k, o, of_adaptive, HR_COUNT(of_adaptive), 1, v);
        if (rc == HR_OK)
            rc = get_smalls(k, v[0], "size", 2, 2, three, &count);
        n->kh = three[0];
        n->kw = three[1];
        return rc;
    case HR_OP_BATCHNORM:
        rc = get_fields(k, o, of_bn, HR_COUNT(of_bn), 2, v);
        if (rc == HR_OK)
            rc = get_real(k, v[0], "eps", &n->bn_eps);
        if (rc == HR_OK)
            rc = get_real(k, v[1], "momentum", &n->bn_momentum);
        return rc;
    default:
        return get_fields(k, o, of_none, HR_COUNT(of_none), 0, v);
    }
}

/* Which parameters the node has; their tensors come later in the file. */
static int get_params(struct get *k, const object *o, hr_node *n)
{
    const object *v[HR_P_COUNT];
    int rc = get_fields(k, o, hr_param_names, HR_P_COUNT, 0, v);
    for (int p = 0; rc == HR_OK && p < HR_P_COUNT; p++) {
        if (!v[p])
            continue;
        char *name = hr_xasprintf("%s.%s", n->id, hr_param_names[p]);
        if (!is_str(v[p], name))
            rc = BAD("the %s of node '%s' is not called '%s'", hr_param_names[p], n->id, name);
        free(name);
        n->param[p] = HR_PARAM_NAMED;
    }
    return rc;
}

static int get_node(struct get *k, const object *o, hr_model *m)
{
    static const char *const keys[] = {"id", "op", "in", "attrs", "params"};
    const object *v[HR_COUNT(keys)];
    char *id = NULL;
    int op = 0, rc = get_fields(k, o, keys, HR_COUNT(keys), HR_COUNT(keys), v);
    if (rc == HR_OK)
        rc = get_str(k, v[0], "id", &id);
    if (rc == HR_OK)
        rc = get_choice(k, v[1], "op", hr_op_names, &op);
    if (rc == HR_OK) {
        int at = hr_model_add_node(m, id, (enum hr_op)op, -1, -1);
        hr_node *n = &m->nodes[at];
        rc = get_smalls(k, v[2], "in", 0, 2, n->in, &n->nin);
        if (rc == HR_OK)
            rc = get_attrs(k, v[3], n);
        if (rc == HR_OK)
            rc = get_params(k, v[4], n);
    }
    free(id);
    return rc;
}

static int get_prune(struct get *k, const object *o, hr_model *m, int *from)
{
    static const char *const keys[] = {"layer", "reg", "rate", "kept", "state"};
    static const char *const states[] = {"planned", "active", NULL};
    const object *v[HR_COUNT(keys)];
    hr_prune p = {.set = true};
    int reg = 0, state = 0, rc = get_fields(k, o, keys, HR_COUNT(keys), HR_COUNT(keys), v);
    if (rc == HR_OK)
        rc = get_choice(k, v[1], "reg", hr_reg_names, &reg);
    if (rc == HR_OK)
        rc = get_real(k, v[2], "rate", &p.rate);
    if (rc == HR_OK)
        rc = get_int(k, v[3], "kept", 1, HR_MAX_ELEMENTS, &p.kept);
    if (rc == HR_OK)
        rc = get_choice(k, v[4], "state", states, &state);
    if (rc)
        return rc;
    p.reg = (enum hr_reg)reg;
    p.active = state == 1;
    /* records stand in the graph's order, so one walk finds them all and refuses a second one for a layer */
    while (*from < m->nnodes && !is_str(v[0], m->nodes[*from].id))
        ++*from;
    if (*from == m->nnodes)
        return BAD("a prune record names a layer that is %s", "unknown, or out of the graph's order");
    m->prune[(*from)++] = p;
    return HR_OK;
}

static int get_graph(struct get *k, const object *graph, const object *prune, hr_model *m)
{
    int nodes = 0, records = 0, from = 0;
    int rc = get_array(k, graph, "graph", 1, HR_MAX_NODES, &nodes);
    for (int i = 0; rc == HR_OK && i < nodes; i++)
        rc = get_node(k, &graph->via.array.ptr[i], m);
    if (rc == HR_OK)
        rc = get_array(k, prune, "prune", 0, HR_MAX_NODES, &records);
    for (int i = 0; rc == HR_OK && i < records; i++)
        rc = get_prune(k, &prune->via.array.ptr[i], m, &from);
    return rc;
}

/* Format and version come before everything else, because nothing else is known of another version. */
static int get_identity(struct get *k, const object *o)
{
    const object *format = NULL, *version = NULL;
    for (uint32_t i = 0; o->type == MSGPACK_OBJECT_MAP && i < o->via.map.size; i++) {
        if (is_str(&o->via.map.ptr[i].key, "format"))
            format = &o->via.map.ptr[i].val;
        if (is_str(&o->via.map.ptr[i].key, "version"))
            version = &o->via.map.ptr[i].val;
    }
    if (!format || !is_str(format, format_name))
        return hr_fail(k->err, HR_EFORMAT, "%s: is no %s file: its header names another format", k->where,
                       format_name);
    int64_t v = 0;
    if (!version || get_int(k, version, "version", 0, INT64_MAX, &v))
        return BAD("no %s", "version");
    if (v != FORMAT_VERSION)
        return hr_fail(k->err, HR_EFORMAT, "%s: is of version %lld of %s, this program reads version %d",
                       k->where, (long long)v, format_name, FORMAT_VERSION);
    return HR_OK;
}

int hr_nn_get_header(const char *bytes, size_t n, const char *where, hr_model **out, int *ntensors,
                     hr_err *err)
{
    static const char *const keys[] = {"format", "version", "arch", "classes", "graph", "prune", "tensors"};
    struct get get = {where, "header", err}, *k = &get;
    const object *v[HR_COUNT(keys)];
    msgpack_unpacked u;
    hr_model *m = hr_xcalloc(1, sizeof *m);
    int rc = unpack(k, &u, bytes, n);
    if (rc == HR_OK)
        rc = get_identity(k, &u.data);
    if (rc == HR_OK)
        rc = get_fields(k, &u.data, keys, HR_COUNT(keys), HR_COUNT(keys), v);
    if (rc == HR_OK)
        rc = get_str(k, v[2], "arch", &m->arch);
    if (rc == HR_OK)
        rc = get_small(k, v[3], "classes", &m->classes);
    if (rc == HR_OK)
        rc = get_graph(k, v[4], v[5], m);
    if (rc == HR_OK)
        rc = get_small(k, v[6], "tensors", ntensors);
    if (rc == HR_OK && *ntensors > HR_MAX_TENSORS)
        rc = BAD("%d tensors are announced, up to %d are possible", *ntensors, HR_MAX_TENSORS);
    msgpack_unpacked_destroy(&u);
    if (rc) {
        hr_model_free(m);
        m = NULL;
    }
    *out = m;
    return rc;
}

int hr_nn_get_tensor(const char *bytes, size_t n, const char *where, hr_tensor *t, hr_err *err)
{
    static const char *const keys[] = {"name", "dtype", "shape"};
    struct get get = {where, "tensor description", err}, *k = &get;
    const object *v[HR_COUNT(keys)];
    msgpack_unpacked u;
    int dtype = 0;
    int64_t elements = 1;
    *t = (hr_tensor){0};
    int rc = unpack(k, &u, bytes, n);
    if (rc == HR_OK)
        rc = get_fields(k, &u.data, keys, HR_COUNT(keys), HR_COUNT(keys), v);
    if (rc == HR_OK)
        rc = get_str(k, v[0], "name", &t->name);
    if (rc == HR_OK)
        rc = get_choice(k, v[1], "dtype", hr_dtype_names, &dtype);
    if (rc == HR_OK)
        rc = get_array(k, v[2], "shape", 0, HR_MAX_DIMS, &t->ndim);
    for (int i = 0; rc == HR_OK && i < t->ndim; i++) {
        rc = get_int(k, &v[2]->via.array.ptr[i], "shape", 1, HR_MAX_ELEMENTS / elements, &t->shape[i]);
        if (rc == HR_OK)
            elements *= t->shape[i];
    }
    t->dtype = (enum hr_dtype)dtype;
    msgpack_unpacked_destroy(&u);
    if (rc) {
        free(t->name);
        t->name = NULL;
    }
    return rc;
}

int hr_nn_get_trailer(const char *bytes, size_t n, const char *where, int *ntensors, char sha256[65],
                      hr_err *err)
{
    static const char *const keys[] = {"tensors", "sha256"};
    struct get get = {where, "trailer", err}, *k = &get;
    const object *v[HR_COUNT(keys)];
    msgpack_unpacked u;
    char *hex = NULL;
    int rc = unpack(k, &u, bytes, n);
    if (rc == HR_OK)
        rc = get_fields(k, &u.data, keys, HR_COUNT(keys), HR_COUNT(keys), v);
    if (rc == HR_OK)
        rc = get_small(k, v[0], "tensors", ntensors);
    if (rc == HR_OK)
        rc = get_str(k, v[1], "sha256", &hex);
    if (rc == HR_OK && strlen(hex) != 64)
        rc = BAD("'sha256' has %zu digits, not 64", strlen(hex));
    if (rc == HR_OK)
        memcpy(sha256, hex, 65);
    free(hex);
    msgpack_unpacked_destroy(&u);
    return rc;
}
