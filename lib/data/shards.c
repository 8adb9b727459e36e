/* lib/data/shards.c -- the conversion of a data set that is larger than memory (ImageNet): to shards, one
 * unit at a time, and going on after an interruption.
 *
 * A unit is what is held in memory at once: the images of one class, or of one shard of test images. While
 * all threads decode and scale one unit, the next one is read and the one before is written. What a record
 * looks like depends on its image only, and records are written in the order of the images: so the files are
 * the same for any number of threads.
 *
 * Shard s of S holds the classes k with floor(k * S / classes) = s, so that holdout's and rest's shards are
 * complete at the same time; they appear then, and the state, manifest.json.state, says how many units are
 * done. Stopped between two shards, the same command goes on with the first unit of the shard that is
 * missing. Without its manifest the directory is not a data set, and a reader that asks for a split finds the
 * shard that is missing.
 *
 * The holdout takes the same number of images of each class, drawn as hr_dataset_split draws them
 * (permutation of the class's images on stream SPLIT), rest all others: together they are the training
 * images, so that there is no third copy of them. Within a shard images stand by class and name. A damaged
 * image is left out and listed in the manifest; more of them than were allowed are an error.
 *
 * The digests in the manifest are made while records are written; of shards that an earlier run has written,
 * by reading them. */
#include "data/internal.h"

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEST, HOLDOUT, REST, PARTS, HOLDOUT_EACH = 13 };
static const char *const part_names[PARTS] = {"test", "holdout", "rest"};

/* Memory of one thread. */
typedef struct scratch {
    hr_image decoded, fitted;
} scratch;

typedef struct shards {
    const hr_convert_args *args;
    hr_imagenet *in;
    hr_job *job;
    int n[PARTS], classes; /* shards of each part */
    uint32_t tests;
    hr_out *out[PARTS];    /* the shard being written, or NULL */
    hr_scan all[PARTS];    /* what was written so far */
    uint32_t *each[PARTS]; /* images in every shard */
    json_t *bad;           /* [{"image", "why"}] */
    scratch *scratch;      /* one for each thread */
} shards;

/* ---- units -----------------------------------------------------------------------------------------------
 */

static int units(const shards *s)
{
    return s->n[TEST] + s->classes;
}

static bool is_test(const shards *s, int unit)
{
    return unit < s->n[TEST];
}

static int shard_of(const shards *s, int class)
{
    return (int)((int64_t) class * s->n[REST] / s->classes);
}

/* Is this the last unit of its shard? */
static bool ends_shard(const shards *s, int unit)
{
    int class = unit - s->n[TEST];
    return is_test(s, unit) || class == s->classes - 1 || shard_of(s, class) != shard_of(s, class + 1);
}

static int read_unit(shards *s, int unit, hr_blobs *u, hr_err *err)
{
    if (!is_test(s, unit))
        return hr_imagenet_class(s->in, unit - s->n[TEST], u, err);
    uint64_t n = s->tests, parts = (uint64_t)s->n[TEST], k = (uint64_t)unit;
    return hr_imagenet_test(s->in, (uint32_t)(k * n / parts), (uint32_t)((k + 1) * n / parts), u, err);
}

static void encode(hr_blob *b, int side, scratch *m)
{
    int rc = hr_image_decode_fit((const uint8_t *)b->file.data, b->file.len, side, side, &m->decoded,
                                 &m->fitted, &b->why);
    hr_buf_release(&b->file);
    if (rc)
        return;

    hr_example ex = {
        .image = m->fitted.pixels, .c = m->fitted.c, .h = m->fitted.h, .w = m->fitted.w, .label = b->label};
    hr_tfrec_frame_begin(&b->record);
    b->pixels = hr_example_pack(&ex, &b->record);
    hr_tfrec_frame_end(&b->record);
}

/* ---- writing ---------------------------------------------------------------------------------------------
 */

static char *shard_path(const shards *s, int part, int k)
{
    return hr_xasprintf("%s/%s-%05d-of-%05d.tfrecord", s->args->output, part_names[part], k, s->n[part]);
}

static int write_record(shards *s, int part, int shard, const hr_blob *b, hr_err *err)
{
    if (!s->out[part]) {
        char *path = shard_path(s, part, shard);
        int rc = hr_out_open(&s->out[part], path, HR_OUT_BINARY, err);
        free(path);
        if (rc)
            return rc;
    }
    if (!b)
        return HR_OK;
    if (fwrite(b->record.data, 1, b->record.len, hr_out_file(s->out[part])) != b->record.len)
        return hr_fail(err, HR_EIO, "%s: writing: %s", hr_out_name(s->out[part]), strerror(errno));
    hr_example ex = {.image = (const uint8_t *)b->record.data + b->pixels,
                     .c = 3,
                     .h = s->args->side,
                     .w = s->args->side,
                     .label = b->label};
    hr_scan_add(&s->all[part], &ex, b->record.len);
    s->each[part][shard]++;
    return HR_OK;
}

/* Put the sound images first, in their order; note the others. *good is how many there are. */
static int sort_out(shards *s, hr_blobs *u, uint32_t *good, hr_err *err)
{
    *good = 0;
    for (uint32_t i = 0; i < u->n; i++) {
        hr_blob *b = &u->b[i];
        if (b->record.len) {
            hr_blob sound = *b;
            *b = u->b[*good];
            u->b[(*good)++] = sound;
            continue;
        }
        json_array_append_new(s->bad,
                              json_pack("{s:s, s:s}", "image", hr_is_utf8(b->name) ? b->name : "(not UTF-8)",
                                        "why", hr_is_utf8(b->why.msg) ? b->why.msg : "damaged"));
        if ((int64_t)json_array_size(s->bad) > s->args->max_bad)
            return hr_fail(err, HR_EFORMAT, "%s: %s: %s; %lld such images are allowed (--max-bad)",
                           s->args->src, b->name, b->why.msg, (long long)s->args->max_bad);
    }
    return HR_OK;
}

static int write_class(shards *s, int class, hr_blobs *u, uint32_t good, hr_err *err)
{
    uint32_t each = s->args->holdout_each ? (uint32_t)s->args->holdout_each : HOLDOUT_EACH;
    int shard = shard_of(s, class);
    if (good < each)
        return hr_fail(err, HR_EINVAL, "a holdout needs %u images of each class, class %d has %u", each,
                       class, good);
    uint32_t *order = hr_xmalloc(good * sizeof *order);
    bool *held = hr_xcalloc(good, sizeof *held);
    hr_permutation(order, good, s->args->seed, HR_STREAM_SPLIT, (uint32_t) class);
    for (uint32_t i = 0; i < each; i++)
        held[order[i]] = true;
    int rc = write_record(s, HOLDOUT, shard, NULL, err); /* a shard may be empty, but must be there */
    if (rc == HR_OK)
        rc = write_record(s, REST, shard, NULL, err);
    for (uint32_t i = 0; i < good && rc == HR_OK; i++)
        rc = write_record(s, held[i] ? HOLDOUT : REST, shard, &u->b[i], err);
    free(order);
    free(held);
    return rc;
}

static int write_unit(shards *s, int unit, hr_blobs *u, hr_err *err)
{
    uint32_t good;
    int rc = sort_out(s, u, &good, err);
    if (rc == HR_OK && is_test(s, unit))
        rc = write_record(s, TEST, unit, NULL, err);
    for (uint32_t i = 0; i < good && rc == HR_OK && is_test(s, unit); i++)
        rc = write_record(s, TEST, unit, &u->b[i], err);
    if (rc == HR_OK && !is_test(s, unit))
        rc = write_class(s, unit - s->n[TEST], u, good, err);
    if (rc || !ends_shard(s, unit))
        return rc;
    for (int i = 0; i < PARTS && rc == HR_OK; i++) {
        if (s->out[i])
            rc = hr_out_commit(s->out[i], err);
        s->out[i] = NULL;
    }
    json_t *at = json_pack("{s:i, s:O}", "units", unit + 1, "bad", s->bad);
    if (rc == HR_OK)
        rc = hr_job_save(s->job, at, NULL, 0, err);
    json_decref(at);
    return rc;
}

/* Decode `now`; meanwhile write `before` and read `next`. */
static int overlap(shards *s, int unit, hr_blobs *before, hr_blobs *now, hr_blobs *next, hr_err *err)
{
    int rc = HR_OK;
#pragma omp parallel
#pragma omp master
    {
        for (uint32_t i = 0; i < now->n; i++) {
            hr_blob *b = &now->b[i];
#pragma omp task firstprivate(b)
            encode(b, s->args->side, &s->scratch[omp_get_thread_num()]);
        }
        if (before->n)
            rc = write_unit(s, unit - 1, before, err);
        if (rc == HR_OK && unit + 1 < units(s))
            rc = read_unit(s, unit + 1, next, err);
    }
    return rc;
}

static int run_units(shards *s, int from, hr_err *err)
{
    hr_blobs before = {0}, now = {0}, next = {0};
    hr_progress p;
    int rc = from < units(s) ? read_unit(s, from, &now, err) : HR_OK;
    hr_progress_start(&p, "classes and test shards", units(s));
    for (int unit = from; unit < units(s) && rc == HR_OK; unit++) {
        rc = overlap(s, unit, &before, &now, &next, err);
        hr_blobs_clear(&before);
        before = now;
        now = next;
        next = (hr_blobs){0};
        hr_progress_at(&p, unit + 1, NULL);
        if (rc == HR_OK && hr_interrupted())
            rc = hr_job_interrupted(s->job, err, "unit %d of %d", unit + 1, units(s));
    }
    hr_progress_end(&p);
    if (rc == HR_OK && from < units(s))
        rc = write_unit(s, units(s) - 1, &before, err);
    hr_blobs_clear(&before);
    hr_blobs_clear(&now);
    hr_blobs_clear(&next);
    return rc;
}

/* ---- the end ---------------------------------------------------------------------------------------------
 */

/* The entry of a part in the manifest. */
static json_t *describe(shards *s, int part)
{
    json_t *list = json_array();
    for (int i = 0; i < s->n[part]; i++) {
        char *path = shard_path(s, part, i);
        json_array_append_new(list, json_pack("{s:s, s:I}", "file", strrchr(path, '/') + 1, "images",
                                              (json_int_t)s->each[part][i]));
        free(path);
    }
    hr_scan_end(&s->all[part]);
    return hr_manifest_sharded(part_names[part], &s->all[part], s->classes, list);
}

/* Files of an earlier conversion with other shards, or none, would be read in place of ours. */
static void remove_others(const shards *s)
{
    static const char *const names[] = {"test", "holdout", "rest", "train"};
    DIR *d = opendir(s->args->output);
    for (const struct dirent *e; d && (e = readdir(d));)
        for (size_t i = 0; i < HR_COUNT(names); i++) {
            size_t len = strlen(names[i]);
            int k, n, used = 0;
            const char *rest = e->d_name + len;
            if (strncmp(e->d_name, names[i], len) != 0)
                continue;
            bool shard =
                sscanf(rest, "-%5d-of-%5d.tfrecord%n", &k, &n, &used) == 2 && used && rest[used] == '\0';
            if ((shard && (i == PARTS || n != s->n[i])) || strcmp(rest, ".tfrecord") == 0)
                unlinkat(dirfd(d), e->d_name, 0);
        }
    if (d)
        closedir(d);
}

static int finish(shards *s, const char *title, const json_t *history, hr_convert_counts *counts, hr_err *err)
{
    json_t *splits = json_object();
    for (int i = 0; i < PARTS; i++)
        json_object_set_new(splits, part_names[i], describe(s, i));
    hr_dataset shape = {.c = 3, .h = s->args->side, .w = s->args->side, .classes = s->classes};
    json_t *manifest = hr_manifest_new(title, &shape, splits, history);
    json_object_set_new(
        manifest, "normalize",
        json_pack("{s:[f,f,f], s:[f,f,f]}", "mean", 0.485, 0.456, 0.406, "std", 0.229, 0.224, 0.225));
    if (json_array_size(s->bad))
        json_object_set(manifest, "damaged", s->bad);
    remove_others(s);
    hr_json_write(manifest, hr_job_out(s->job), 2);
    int rc = hr_job_commit(s->job, err);
    s->job = NULL;
    json_decref(manifest);
    *counts = (hr_convert_counts){.test = s->all[TEST].n,
                                  .holdout = s->all[HOLDOUT].n,
                                  .rest = s->all[REST].n,
                                  .classes = s->classes,
                                  .damaged = (uint32_t)json_array_size(s->bad)};
    return rc;
}

/* ---- the beginning ---------------------------------------------------------------------------------------
 */

static int min(int a, int b)
{
    return a < b ? a : b;
}

static int begin(shards *s, uint32_t n_classes, uint32_t n_tests, json_t *history, hr_err *err)
{
    const hr_convert_args *a = s->args;
    int rc = hr_imagenet_open(&s->in, a->src, a->labels, a->synsets, err);
    if (rc)
        return rc;
    s->classes = hr_imagenet_classes(s->in);
    s->tests = hr_imagenet_tests(s->in);
    if (!a->unverified && ((uint32_t)s->classes != n_classes || s->tests != n_tests))
        return hr_fail(err, HR_ESHAPE, "%s: %d classes and %u test images, ImageNet has %u and %u", a->src,
                       s->classes, s->tests, n_classes, n_tests);
    s->n[TEST] = s->tests < (uint32_t)a->shards ? (int)s->tests : a->shards;
    s->n[HOLDOUT] = s->n[REST] = min(a->shards, s->classes);
    for (int i = 0; i < PARTS; i++) {
        hr_scan_start(&s->all[i]);
        s->each[i] = hr_xcalloc((size_t)s->n[i], sizeof *s->each[i]);
    }
    return hr_imagenet_inputs(s->in, history, !a->unverified, err);
}

/* Read what an earlier run has written before this unit. */
static int read_back(shards *s, int unit, hr_err *err)
{
    int class = unit - s->n[TEST], rc = HR_OK;
    for (int part = 0; part < PARTS; part++) {
        int done = part == TEST ? min(unit, s->n[TEST]) : class > 0 ? shard_of(s, class - 1) + 1 : 0;
        for (int k = 0; k < done && rc == HR_OK; k++) {
            char *path = shard_path(s, part, k);
            rc = hr_scan_file(&s->all[part], path, &s->each[part][k], err);
            free(path);
        }
    }
    return rc;
}

/* Take the job up where it is; *unit is the first one to do. */
static int take_up(shards *s, const json_t *history, int *unit, hr_err *err)
{
    char *path = hr_xasprintf("%s/manifest.json", s->args->output);
    hr_job_opts o = {.output = path, .run = history, .restart = s->args->restart};
    int rc = hr_job_open(&s->job, &o, err);
    *unit = 0;
    if (rc == HR_OK && hr_job_saved(s->job)) {
        json_t *at = json_deep_copy(hr_job_saved(s->job)), *bad = json_object_get(at, "bad");
        json_int_t done = json_integer_value(json_object_get(at, "units"));
        if (done < 1 || done > units(s) || !ends_shard(s, (int)done - 1) || !json_is_array(bad))
            rc = hr_fail(err, HR_EFORMAT,
                         "%s.state: damaged: it does not say where the run was; --restart discards it", path);
        else {
            *unit = (int)done;
            json_array_extend(s->bad, bad);
            rc = read_back(s, *unit, err);
        }
        json_decref(at);
    } else if (rc == HR_OK && unlink(path) && errno != ENOENT) {
        rc = hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno));
    }
    free(path);
    return rc;
}

int hr_convert_shards(const hr_convert_args *args, const char *title, uint32_t n_classes, uint32_t n_tests,
                      json_t *history, hr_convert_counts *counts, hr_err *err)
{
    shards s = {.args = args, .bad = json_array()};
    /* Records of one unit take the memory of those before: else the kernel clears 150 kB for every image. */
    mallopt(M_MMAP_THRESHOLD, 16 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    int threads = omp_get_max_threads(), unit = 0;
    s.scratch = hr_xcalloc((size_t)threads, sizeof *s.scratch);
    bool made = access(args->output, F_OK) != 0;
    int rc = begin(&s, n_classes, n_tests, history, err);
    bool began = rc == HR_OK;
    if (rc == HR_OK)
        rc = hr_mkdirs(args->output, err);
    if (rc == HR_OK)
        rc = take_up(&s, history, &unit, err);
    if (rc == HR_OK)
        rc = run_units(&s, unit, err);
    if (rc == HR_OK)
        rc = finish(&s, title, history, counts, err);
    for (int i = 0; i < PARTS; i++) {
        hr_out_abort(s.out[i]);
        hr_scan_release(&s.all[i]);
        free(s.each[i]);
    }
    hr_job_abort(s.job);
    if (rc && began && made)
        (void)!rmdir(args->output); /* which fails where shards are done already */
    for (int i = 0; i < threads; i++) {
        hr_image_release(&s.scratch[i].decoded);
        hr_image_release(&s.scratch[i].fitted);
    }
    free(s.scratch);
    json_decref(s.bad);
    hr_imagenet_close(s.in);
    return rc;
}
