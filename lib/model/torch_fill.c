/* lib/model/torch_fill.c -- from the bytes of storages to tensors: views, strides, types.
 *
 * A storage that one tensor of the same type uses, which is the rule, is read straight into that tensor. One
 * that several tensors share, or that changes its type, passes through a block. Only a storage under a view
 * with other strides than row-major is held whole for a while: such a view jumps. */
#include "model/torch_file.h"

#include <stdlib.h>
#include <string.h>

/* ---- views -------------------------------------------------------------------------------------------- */

int64_t hr_view_count(const struct hr_view *v)
{
    int64_t n = 1;
    for (int i = 0; i < v->ndim; i++)
        n *= v->shape[i];
    return n;
}

/* Views that repeat elements (expand) are small; else a few bytes would ask for any amount of memory. */
enum { MOST_REPEATED = 1 << 16 };

int hr_view_check(const struct hr_torch_file *f, const struct hr_view *v, hr_err *err)
{
    if (v->bad)
        return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' %s", f->name, v->key, v->bad);
    const struct hr_stored *s = &f->storages[v->storage];
    size_t have = hr_elements[s->element].size, need = hr_elements[v->element].size;
    int64_t numel = s->numel, count = 1, last = v->start;
    if (v->element != s->element) { /* untyped */
        if (have != 1)
            return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' is %s in a storage of %s", f->name, v->key,
                           hr_elements[v->element].name, hr_elements[s->element].name);
        numel /= (int64_t)need;
    }
    bool fits = v->start >= 0;
    for (int i = 0; fits && i < v->ndim; i++) {
        int64_t step;
        if (v->shape[i] == 0)
            return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' is empty", f->name, v->key);
        fits = v->shape[i] > 0 && v->stride[i] >= 0 && v->shape[i] <= HR_MAX_ELEMENTS / count &&
               !__builtin_mul_overflow(v->shape[i] - 1, v->stride[i], &step) &&
               !__builtin_add_overflow(last, step, &last);
        count *= fits ? v->shape[i] : 1;
    }
    if (!fits || last >= numel || (count > numel && count > MOST_REPEATED))
        return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' reaches outside its storage '%s' of %lld elements",
                       f->name, v->key, s->key, (long long)numel);
    return HR_OK;
}

static bool row_major(const struct hr_view *v)
{
    int64_t n = 1;
    for (int i = v->ndim - 1; i >= 0; i--) {
        if (v->shape[i] != 1 && v->stride[i] != n)
            return false;
        n *= v->shape[i];
    }
    return true;
}

/* ---- conversion --------------------------------------------------------------------------------------- */

/* IEEE 754 half precision: sign, 5 bits of exponent (bias 15), 10 of mantissa. */
static float from_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023u, bits;
    float f;
    if (exponent == 0) {
        f = (float)mantissa * 0x1p-24f; /* exact: below the smallest normal number */
        return sign ? -f : f;
    }
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float from_bfloat(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#define TO_F32(type, expression)                                                                             \
    for (size_t i = 0; i < n; i++) {                                                                         \
        type x;                                                                                              \
        memcpy(&x, from + i * sizeof x, sizeof x);                                                           \
        to[i] = (expression);                                                                                \
    }                                                                                                        \
    break

/* n elements to float32. */
static void to_f32(float *to, const char *from, enum hr_dtype t, size_t n)
{
    switch (t) {
    case HR_F32:
        memcpy(to, from, n * sizeof *to);
        break;
    case HR_F64:
        TO_F32(double, (float)x);
    case HR_F16:
        TO_F32(uint16_t, from_half(x));
    case HR_BF16:
        TO_F32(uint16_t, from_bfloat(x));
    case HR_I64:
        TO_F32(int64_t, (float)x);
    case HR_I32:
        TO_F32(int32_t, (float)x);
    case HR_U8:
        TO_F32(uint8_t, (float)x);
    case HR_BOOL:
        TO_F32(uint8_t, x ? 1.0f : 0.0f);
    default:
        BUG("dtype %d", (int)t);
    }
}

/* A tensor to be filled from the storage at hand. */
struct job {
    const struct hr_view *v;
    hr_tensor *to;
    enum hr_dtype from;
    size_t size; /* of an element in the storage */
    int64_t count;
    bool straight;
    int number; /* among the fills */
};

/* Elements first.. of the tensor from n consecutive ones. */
static void put(const struct job *j, int64_t first, const char *from, size_t n)
{
    if (j->to->dtype == HR_F32)
        to_f32((float *)j->to->data + first, from, j->from, n);
    else
        memcpy((char *)j->to->data + (size_t)first * j->size, from, n * j->size);
}

/* All elements of a view with strides, from the whole storage: run by run of its last dimension. */
static void gather(const struct job *j, const char *storage)
{
    const struct hr_view *v = j->v;
    int64_t at[HR_MAX_DIMS] = {0}, from = v->start, done = 0;
    int last = v->ndim - 1;
    int64_t run = last >= 0 ? v->shape[last] : 1, stride = last >= 0 ? v->stride[last] : 1;
    while (done < j->count) {
        for (int64_t i = 0; i < run; i++)
            put(j, done + i, storage + (size_t)(from + i * stride) * j->size, 1);
        done += run;
        for (int d = last - 1; d >= 0; d--) {
            from += v->stride[d];
            if (++at[d] < v->shape[d])
                break;
            from -= at[d] * v->stride[d];
            at[d] = 0;
        }
    }
}

/* ---- filling ------------------------------------------------------------------------------------------ */

struct filling {
    struct hr_torch_file *f;
    struct job *jobs; /* sorted by storage */
    int njobs;
    char *block;
    hr_hasher *sha;       /* or NULL */
    hr_tensor **complete; /* by number; NULL: not yet */
    int hashed;           /* so many of them are with sha */
};
enum { BLOCK = 1 << 18 };

static int by_storage(const void *a, const void *b)
{
    const struct job *x = a, *y = b;
    if (x->v->storage != y->v->storage)
        return x->v->storage < y->v->storage ? -1 : 1;
    return x->v < y->v ? -1 : x->v > y->v;
}

/* Read bytes and forget them. */
static int pass_over(const struct filling *g, int64_t n, hr_torch_read read, void *self, hr_err *err)
{
    int rc = HR_OK;
    for (; rc == HR_OK && n > 0; n -= n < BLOCK ? n : BLOCK)
        rc = read(self, g->block, (size_t)(n < BLOCK ? n : BLOCK), err);
    return rc;
}

static int read_straight(const struct filling *g, const struct job *j, int64_t bytes, hr_torch_read read,
                         void *self, hr_err *err)
{
    int64_t before = j->v->start * (int64_t)j->size, n = j->count * (int64_t)j->size;
    int rc = pass_over(g, before, read, self, err);
    g->f->keeping = g->sha != NULL; /* which needs the tensors, too */
    if (rc == HR_OK)
        rc = read(self, j->to->data, (size_t)n, err);
    g->f->keeping = false;
    return rc ? rc : pass_over(g, bytes - before - n, read, self, err);
}

static int read_blocks(const struct filling *g, const struct job *jobs, int n, int64_t bytes,
                       hr_torch_read read, void *self, hr_err *err)
{
    int rc = HR_OK;
    for (int64_t at = 0; rc == HR_OK && at < bytes; at += BLOCK) {
        int64_t len = bytes - at < BLOCK ? bytes - at : BLOCK;
        rc = read(self, g->block, (size_t)len, err);
        for (int i = 0; rc == HR_OK && i < n; i++) {
            int64_t size = (int64_t)jobs[i].size, first = jobs[i].v->start, end = first + jobs[i].count;
            int64_t from = first > at / size ? first : at / size, /* BLOCK is a multiple of every size */
                to = end < (at + len) / size ? end : (at + len) / size;
            if (from < to)
                put(&jobs[i], from - first, g->block + (from * size - at), (size_t)(to - from));
        }
    }
    return rc;
}

static int read_whole(const struct job *jobs, int n, int64_t bytes, hr_torch_read read, void *self,
                      hr_err *err)
{
    char *whole = hr_xmalloc((size_t)bytes);
    int rc = read(self, whole, (size_t)bytes, err);
    for (int i = 0; rc == HR_OK && i < n; i++)
        gather(&jobs[i], whole);
    free(whole);
    return rc;
}

/* n jobs are done. */
static void complete(struct filling *g, const struct job *jobs, int n)
{
    for (int i = 0; i < n; i++)
        g->complete[jobs[i].number] = jobs[i].to;
    for (; g->sha && g->hashed < g->njobs && g->complete[g->hashed]; g->hashed++)
        hr_nn_hash_tensor(g->sha, g->complete[g->hashed]);
}

static int fill_storage(void *ctx, int storage, hr_torch_read read, void *self, hr_err *err)
{
    struct filling *g = ctx;
    const struct hr_stored *s = &g->f->storages[storage];
    int64_t bytes = s->numel * (int64_t)hr_elements[s->element].size;
    int lo = 0, hi = g->njobs, n = 0, rc;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (g->jobs[mid].v->storage < storage)
            lo = mid + 1;
        else
            hi = mid;
    }
    const struct job *jobs = g->jobs + lo;
    bool straight = true;
    for (; lo + n < g->njobs && jobs[n].v->storage == storage; n++)
        straight = straight && jobs[n].straight;
    if (!straight)
        rc = read_whole(jobs, n, bytes, read, self, err);
    else if (n == 1 && jobs->to->dtype == jobs->from)
        rc = read_straight(g, jobs, bytes, read, self, err);
    else
        rc = read_blocks(g, jobs, n, bytes, read, self, err);
    if (rc == HR_OK)
        complete(g, jobs, n);
    return rc;
}

/* Check the view against what is asked of it, allocate the tensor. */
static int prepare(struct job *j, struct hr_torch_file *f, const struct hr_fill *fill, int64_t *total,
                   hr_err *err)
{
    const struct hr_view *v = &f->views[fill->view];
    int rc = hr_view_check(f, v, err);
    if (rc)
        return rc;
    int dtype = hr_elements[v->element].dtype;
    if (dtype < 0)
        return hr_fail(err, HR_EFORMAT, "%s: tensor '%s' is of type %s, which we cannot use", f->name, v->key,
                       hr_elements[v->element].name);
    *j = (struct job){.v = v,
                      .to = fill->to,
                      .from = (enum hr_dtype)dtype,
                      .size = hr_elements[v->element].size,
                      .count = hr_view_count(v),
                      .straight = row_major(v)};
    if (fill->to->dtype != HR_F32 && fill->to->dtype != j->from)
        BUG("'%s' cannot become %s", v->key, hr_dtype_names[fill->to->dtype]);
    /* Tied weights are there twice, bytes become floats; more than that is an attack on the memory. */
    enum { MOST_TIMES = 8, ALWAYS = 1 << 20 };
    int64_t bytes = j->count * (int64_t)hr_dtype_size(fill->to->dtype);
    *total += bytes;
    if (*total > f->size * MOST_TIMES + ALWAYS)
        return hr_fail(err, HR_EFORMAT, "%s: its tensors take more than %d times its %lld bytes", f->name,
                       MOST_TIMES, (long long)f->size);
    fill->to->data = hr_tensor_room((size_t)bytes);
    return HR_OK;
}

int hr_torch_fill(struct hr_torch_file *f, const struct hr_fill *fills, int n, hr_hasher *sha, hr_err *err)
{
    struct filling g = {.f = f, .njobs = n, .sha = sha};
    g.jobs = hr_xcalloc((size_t)n + 1, sizeof *g.jobs);
    g.complete = hr_xcalloc((size_t)n + 1, sizeof *g.complete);
    g.block = hr_xmalloc(f->size < BLOCK ? (size_t)f->size : BLOCK); /* no storage is longer than the file */
    bool *wanted = hr_xcalloc((size_t)f->nstorages + 1, sizeof *wanted);
    int64_t total = 0;
    int rc = HR_OK;
    for (int i = 0; rc == HR_OK && i < n; i++) {
        rc = prepare(&g.jobs[i], f, &fills[i], &total, err);
        g.jobs[i].number = i;
        if (rc == HR_OK)
            wanted[g.jobs[i].v->storage] = true;
    }
    qsort(g.jobs, rc == HR_OK ? (size_t)n : 0, sizeof *g.jobs, by_storage);
    if (rc == HR_OK)
        rc = f->container->walk(f, wanted, fill_storage, &g, err);
    free(wanted);
    free(g.jobs);
    free(g.complete);
    free(g.block);
    return rc;
}
