/* lib/data/dataset.c -- data sets in memory: read, write, subset, split.
 *
 * Which image goes where depends on the seed and the class only: every class has its own permutation
 * (hr_permutation on stream SPLIT or SUBSET with the class as counter), so that the draw for one class does
 * not shift when another one grows. */
#include "data/internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

size_t hr_dataset_image_bytes(const hr_dataset *ds)
{
    return (size_t)ds->h * (size_t)ds->w * (size_t)ds->c;
}

void hr_dataset_release(hr_dataset *ds)
{
    free(ds->pixels);
    free(ds->labels);
    free(ds->index);
    *ds = (hr_dataset){0};
}

void hr_dataset_digest_end(hr_sha256 *sha, const int32_t *labels, uint32_t n, int c, int h, int w,
                           char hex[65])
{
    for (uint32_t i = 0; i < n;) {
        uint8_t le[1024];
        size_t fill = 0;
        for (; i < n && fill < sizeof le; i++, fill += 4)
            for (int k = 0; k < 4; k++)
                le[fill + (size_t)k] = (uint8_t)((uint32_t)labels[i] >> (8 * k));
        hr_sha256_add(sha, le, fill);
    }
    char sizes[64];
    int len = snprintf(sizes, sizeof sizes, "%u %d %d %d\n", n, h, w, c);
    hr_sha256_add(sha, sizes, (size_t)len);
    hr_sha256_end(sha, hex);
}

/* Finish the digest of ds, of whose pixels sha has seen the first `seen` bytes. */
static void finish_digest(hr_dataset *ds, hr_sha256 *sha, size_t seen)
{
    if (ds->n) /* else there is no pixel to point at */
        hr_sha256_add(sha, ds->pixels + seen, ds->n * hr_dataset_image_bytes(ds) - seen);
    hr_dataset_digest_end(sha, ds->labels, ds->n, ds->c, ds->h, ds->w, ds->digest);
    if (!*ds->whole)
        memcpy(ds->whole, ds->digest, sizeof ds->whole);
}

void hr_dataset_digest(hr_dataset *ds)
{
    finish_digest(ds, hr_sha256_new(), 0);
}

/* Room for pixels. Large blocks ask for huge pages: without them a fifth of the time to load a file went into
 * page faults. Free with free(). */
static uint8_t *alloc_pixels(size_t bytes)
{
    enum { HUGE_PAGE = 2 << 20 };
    void *p;
    if (bytes < 2 * (size_t)HUGE_PAGE || posix_memalign(&p, HUGE_PAGE, bytes))
        return hr_xmalloc(bytes);
    (void)madvise(p, bytes, MADV_HUGEPAGE); /* a wish; kernels without them serve small pages */
    return p;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

enum { FIRST_PIXELS = 1 << 20 };
enum { HASH_PIECE = 1 << 16 }; /* bytes of pixels hashed at a time, while they are still in the cache */

typedef struct loader {
    hr_dataset *ds;
    hr_arena arena;
    hr_sha256 *sha;
    size_t hashed; /* bytes of pixels */
    uint32_t cap;
    int limit; /* classes asked for, 0: any */
    int h, w;  /* size of JPEG and PNG images that are larger; 0: theirs */
} loader;

/* Make room for one more image: first for as many as the file can hold, if it can be known, else for a
 * megabyte; then for twice as many as there are. On a pipe memory so grows with what came, whatever the size
 * of an image. */
static void reserve_one(loader *l, uint64_t expected)
{
    hr_dataset *ds = l->ds;
    if (ds->n < l->cap)
        return;
    size_t bytes = hr_dataset_image_bytes(ds);
    uint64_t cap = l->cap ? 2 * (uint64_t)l->cap : FIRST_PIXELS / bytes + 1;
    if (expected > 0 && ds->n + expected < cap)
        cap = ds->n + expected;
    if (l->cap == 0 && expected > cap)
        cap = expected;
    l->cap = cap > UINT32_MAX ? UINT32_MAX : (uint32_t)cap;
    uint8_t *pixels = alloc_pixels(l->cap * bytes);
    if (ds->n)
        memcpy(pixels, ds->pixels, ds->n * bytes);
    free(ds->pixels);
    ds->pixels = pixels;
    ds->labels = hr_xrealloc(ds->labels, l->cap * sizeof *ds->labels);
}

static int add_record(loader *l, const hr_tfrec_reader *r, const uint8_t *data, size_t n, hr_err *err)
{
    hr_dataset *ds = l->ds;
    hr_example ex;
    hr_err why = HR_ERR_INIT;
    int rc = hr_example_unpack(&l->arena, data, n, l->h, l->w, &ex, &why);
    if (rc)
        return hr_tfrec_fail(r, err, rc, "%s", why.msg);
    if (ds->n == 0) {
        ds->c = ex.c;
        ds->h = ex.h;
        ds->w = ex.w;
    } else if (ex.c != ds->c || ex.h != ds->h || ex.w != ds->w) {
        return hr_tfrec_fail(r, err, HR_ESHAPE, "image is %dx%dx%d, the ones before are %dx%dx%d", ex.c, ex.h,
                             ex.w, ds->c, ds->h, ds->w);
    }
    int below = l->limit ? l->limit : MAX_CLASSES;
    if (ex.label < 0 || ex.label >= below)
        return hr_tfrec_fail(r, err, HR_ESHAPE, "label %lld is outside 0..%d", (long long)ex.label,
                             below - 1);
    if (ds->n == UINT32_MAX)
        return hr_tfrec_fail(r, err, HR_EFORMAT, "more than %u images", UINT32_MAX);
    reserve_one(l, hr_tfrec_expect(r));
    size_t bytes = hr_dataset_image_bytes(ds);
    memcpy(ds->pixels + ds->n * bytes, ex.image, bytes);
    ds->labels[ds->n++] = (int32_t)ex.label;
    size_t fresh = ds->n * bytes - l->hashed;
    if (fresh >= HASH_PIECE) {
        hr_sha256_add(l->sha, ds->pixels + l->hashed, fresh);
        l->hashed += fresh;
    }
    if (ex.label >= ds->classes)
        ds->classes = (int)ex.label + 1;
    return HR_OK;
}

static int load_file(loader *l, const char *path, hr_err *err)
{
    hr_tfrec_reader *r;
    const uint8_t *data;
    size_t n;
    int rc = hr_tfrec_open(&r, path, err);
    if (rc)
        return rc;
    while ((rc = hr_tfrec_next(r, &data, &n, err)) == HR_OK && data)
        if ((rc = add_record(l, r, data, n, err)))
            break;
    hr_tfrec_close(r);
    return rc;
}

/* How many shards STEM-KKKKK-of-NNNNN.tfrecord stand in for the missing file path? 0 when there are none;
 * -1 with err set when two sets of different N lie side by side. Whether all N are there shows when they are
 * opened. */
static int count_shards(const char *path, const char *stem, hr_err *err)
{
    const char *slash = strrchr(stem, '/'), *base = slash ? slash + 1 : stem;
    char *dir = slash ? hr_xasprintf("%.*s/", (int)(slash - stem), stem) : hr_xstrdup(".");
    size_t len = strlen(base);
    int count = 0;
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d && count >= 0 && (e = readdir(d))) {
        int k, n, used = 0;
        if (strncmp(e->d_name, base, len) != 0 ||
            sscanf(e->d_name + len, "-%5d-of-%5d.tfrecord%n", &k, &n, &used) != 2 ||
            used != (int)strlen("-00000-of-00000.tfrecord") || e->d_name[len + (size_t)used] != '\0' || n < 1)
            continue;
        if (count && count != n) {
            hr_fail(err, HR_EFORMAT, "%s: is missing, and both %d and %d shards stand beside it", path, count,
                    n);
            count = -1;
        } else {
            count = n;
        }
    }
    if (d)
        closedir(d);
    free(dir);
    return count;
}

static int load_path(loader *l, const char *path, hr_err *err)
{
    static const char suffix[] = ".tfrecord";
    size_t len = strlen(path), tail = sizeof suffix - 1;
    if (strcmp(path, "-") == 0 || access(path, F_OK) == 0 || errno != ENOENT || len <= tail ||
        strcmp(path + len - tail, suffix) != 0)
        return load_file(l, path, err);

    char *stem = hr_xasprintf("%.*s", (int)(len - tail), path);
    int shards = count_shards(path, stem, err), rc = shards < 0 ? HR_EFORMAT : HR_OK;
    if (shards == 0)
        rc = load_file(l, path, err); /* says that path is missing */
    for (int i = 0; i < shards && rc == HR_OK; i++) {
        char *name = hr_xasprintf("%s-%05d-of-%05d%s", stem, i, shards, suffix);
        rc = load_file(l, name, err);
        free(name);
    }
    free(stem);
    return rc;
}

static void number_images(hr_dataset *ds)
{
    ds->index = hr_xmalloc(ds->n * sizeof *ds->index);
    for (uint32_t i = 0; i < ds->n; i++)
        ds->index[i] = i;
}

int hr_dataset_load(hr_dataset *ds, const char *path, int classes, hr_err *err)
{
    return hr_dataset_load_sized(ds, path, classes, 0, 0, err);
}

int hr_dataset_load_sized(hr_dataset *ds, const char *path, int classes, int h, int w, hr_err *err)
{
    *ds = (hr_dataset){0};
    if (classes < 0 || classes > MAX_CLASSES)
        return hr_fail(err, HR_EINVAL, "%d classes are outside 0..%d", classes, MAX_CLASSES);
    loader l = {.ds = ds, .limit = classes, .h = h, .w = w, .sha = hr_sha256_new()};
    int rc = load_path(&l, path, err);
    if (rc == HR_OK && ds->n == 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: holds no images", strcmp(path, "-") ? path : "<stdin>");
    hr_arena_release(&l.arena);
    finish_digest(ds, l.sha, l.hashed);
    if (rc == HR_OK)
        rc = hr_manifest_vouch(path, ds->n, ds->digest, NULL, err);
    if (rc) {
        hr_dataset_release(ds);
        return rc;
    }
    ds->pixels = hr_xrealloc(ds->pixels, ds->n * hr_dataset_image_bytes(ds));
    ds->labels = hr_xrealloc(ds->labels, ds->n * sizeof *ds->labels);
    if (classes)
        ds->classes = classes;
    number_images(ds);
    return HR_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------- */

int hr_dataset_save(const hr_dataset *ds, const char *path, hr_err *err)
{
    hr_out *out;
    int rc = hr_out_open(&out, path, HR_OUT_BINARY, err);
    if (rc)
        return rc;
    hr_buf record = {0};
    size_t bytes = hr_dataset_image_bytes(ds);
    for (uint32_t i = 0; i < ds->n && rc == HR_OK; i++) {
        hr_example ex = {.image = ds->pixels + i * bytes, .c = ds->c, .h = ds->h, .w = ds->w, ds->labels[i]};
        record.len = 0;
        hr_example_pack(&ex, &record);
        rc = hr_tfrec_write(hr_out_file(out), hr_out_name(out), record.data, record.len, err);
    }
    hr_buf_release(&record);
    if (rc) {
        hr_out_abort(out);
        return rc;
    }
    return hr_out_commit(out, err);
}

/* ---- subsets and splits -------------------------------------------------------------------------------- */

void hr_dataset_pick(const hr_dataset *ds, const uint32_t *rows, uint32_t n, hr_dataset *out)
{
    size_t bytes = hr_dataset_image_bytes(ds);
    *out = (hr_dataset){.n = n, .c = ds->c, .h = ds->h, .w = ds->w, .classes = ds->classes};
    out->pixels = alloc_pixels(n * bytes);
    out->labels = hr_xmalloc(n * sizeof *out->labels);
    out->index = hr_xmalloc(n * sizeof *out->index);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(out->pixels + i * bytes, ds->pixels + rows[i] * bytes, bytes);
        out->labels[i] = ds->labels[rows[i]];
        out->index[i] = ds->index[rows[i]];
    }
    memcpy(out->whole, ds->whole, sizeof out->whole);
    hr_dataset_digest(out);
}

void hr_dataset_by_class(const hr_dataset *ds, uint32_t **rows, uint32_t **start)
{
    uint32_t *first = hr_xcalloc((size_t)ds->classes + 1, sizeof *first);
    uint32_t *next = hr_xcalloc((size_t)ds->classes + 1, sizeof *next);
    uint32_t *r = hr_xmalloc(ds->n * sizeof *r);
    for (uint32_t i = 0; i < ds->n; i++)
        first[ds->labels[i] + 1]++;
    for (int k = 0; k < ds->classes; k++)
        first[k + 1] += first[k];
    memcpy(next, first, ((size_t)ds->classes + 1) * sizeof *next);
    for (uint32_t i = 0; i < ds->n; i++)
        r[next[ds->labels[i]]++] = i;
    free(next);
    *rows = r;
    *start = first;
}

/* How many images of each class, when limit of them shall be spread as evenly as can be: nobody gets more
 * than it has, and those that have more than the others get at most one more, the lower class first. */
static void spread(const uint32_t *start, int classes, uint32_t limit, uint32_t *take)
{
    for (int k = 0; k < classes; k++)
        take[k] = 0;
    while (limit > 0) {
        uint32_t open = 0;
        for (int k = 0; k < classes; k++)
            open += take[k] < start[k + 1] - start[k];
        if (open == 0)
            BUG("%u images to take from classes that have no more", limit);
        uint32_t share = limit / open > 0 ? limit / open : 1;
        for (int k = 0; k < classes && limit > 0; k++) {
            uint32_t left = start[k + 1] - start[k] - take[k], give = left < share ? left : share;
            if (give > limit)
                give = limit;
            take[k] += give;
            limit -= give;
        }
    }
}

int hr_dataset_some(const hr_dataset *ds, uint32_t limit, bool stratified, uint32_t seed, hr_dataset *some,
                    hr_err *err)
{
    if (limit == 0 || limit > ds->n)
        limit = ds->n;
    uint32_t *chosen = hr_xmalloc(limit * sizeof *chosen), n = 0;
    if (stratified) {
        uint32_t *rows, *start, *take = hr_xmalloc((size_t)ds->classes * sizeof *take), present = 0;
        bool *keep = hr_xcalloc(ds->n, sizeof *keep);
        hr_dataset_by_class(ds, &rows, &start);
        for (int k = 0; k < ds->classes; k++)
            present += start[k + 1] > start[k];
        if (limit >= present) {
            uint32_t *order = hr_xmalloc(ds->n * sizeof *order);
            spread(start, ds->classes, limit, take);
            for (int k = 0; k < ds->classes; k++) {
                hr_permutation(order, start[k + 1] - start[k], seed, HR_STREAM_SUBSET, (uint32_t)k);
                for (uint32_t i = 0; i < take[k]; i++)
                    keep[rows[start[k] + order[i]]] = true;
            }
            for (uint32_t i = 0; i < ds->n; i++)
                if (keep[i])
                    chosen[n++] = i;
            free(order);
        }
        free(rows);
        free(start);
        free(take);
        free(keep);
        if (limit < present) {
            free(chosen);
            return hr_fail(err, HR_EINVAL, "%u images cannot hold one of each of %u classes", limit, present);
        }
    } else {
        while (n < limit) {
            chosen[n] = n;
            n++;
        }
    }
    hr_dataset_pick(ds, chosen, limit, some);
    free(chosen);
    return HR_OK;
}

int hr_dataset_subset(hr_dataset *ds, uint32_t limit, bool stratified, uint32_t seed, hr_err *err)
{
    hr_dataset part;
    if (limit == 0 || limit >= ds->n)
        return HR_OK;
    int rc = hr_dataset_some(ds, limit, stratified, seed, &part, err);
    if (rc)
        return rc;
    hr_dataset_release(ds);
    *ds = part;
    return HR_OK;
}

/* A data set of rows[0..n) in an order drawn with counter c0. */
static void pick_shuffled(const hr_dataset *ds, const uint32_t *rows, uint32_t n, uint32_t seed, uint32_t c0,
                          hr_dataset *out)
{
    uint32_t *order = hr_xmalloc(n * sizeof *order);
    hr_permutation(order, n, seed, HR_STREAM_SPLIT, c0);
    for (uint32_t i = 0; i < n; i++)
        order[i] = rows[order[i]];
    hr_dataset_pick(ds, order, n, out);
    free(order);
}

int hr_dataset_split(const hr_dataset *train, double fraction, uint32_t each, uint32_t seed,
                     hr_dataset *holdout, hr_dataset *rest, hr_err *err)
{
    *holdout = *rest = (hr_dataset){0};
    if (each == 0 && !(fraction > 0 && fraction < 1))
        return hr_fail(err, HR_EINVAL, "a holdout of %g is outside (0,1)", fraction);
    int classes = train->classes;
    if (each == 0)
        each = (uint32_t)(train->n * fraction / classes);
    uint32_t *rows, *start;
    int rc = HR_OK;
    hr_dataset_by_class(train, &rows, &start);
    if (each == 0)
        rc = hr_fail(err, HR_EINVAL, "a holdout of %g of %u images is less than one of each of %d classes",
                     fraction, train->n, classes);
    for (int k = 0; k < classes && rc == HR_OK; k++)
        if (start[k + 1] - start[k] < each)
            rc = hr_fail(err, HR_EINVAL, "a holdout needs %u images of each class, class %d has %u", each, k,
                         start[k + 1] - start[k]);
    if (rc == HR_OK) {
        uint32_t n_hold = each * (uint32_t)classes, n_rest = train->n - n_hold;
        uint32_t *order = hr_xmalloc(train->n * sizeof *order);
        uint32_t *hold = hr_xmalloc(n_hold * sizeof *hold), *other = hr_xmalloc(n_rest * sizeof *other);
        uint32_t h = 0, o = 0;
        for (int k = 0; k < classes; k++) {
            uint32_t count = start[k + 1] - start[k];
            hr_permutation(order, count, seed, HR_STREAM_SPLIT, (uint32_t)k);
            for (uint32_t i = 0; i < count; i++) {
                uint32_t row = rows[start[k] + order[i]];
                if (i < each)
                    hold[h++] = row;
                else
                    other[o++] = row;
            }
        }
        /* the counters behind the classes order the two products */
        pick_shuffled(train, hold, n_hold, seed, (uint32_t)classes, holdout);
        pick_shuffled(train, other, n_rest, seed, (uint32_t)classes + 1, rest);
        free(order);
        free(hold);
        free(other);
    }
    free(rows);
    free(start);
    return rc;
}

int hr_dataset_fits(const hr_dataset *ds, const char *data_name, int c, int h, int w, int classes,
                    const char *model_name, hr_err *err)
{
    if (ds->c != c || ds->h != h || ds->w != w)
        return hr_fail(err, HR_ESHAPE, "%s: images are %dx%dx%d, the network %s takes %dx%dx%d", data_name,
                       ds->c, ds->h, ds->w, model_name, c, h, w);
    if (ds->classes > classes)
        return hr_fail(err, HR_ESHAPE, "%s: has %d classes, the network %s tells %d apart", data_name,
                       ds->classes, model_name, classes);
    return HR_OK;
}
