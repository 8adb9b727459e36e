/* test/bench/bench_data.c -- how fast are tfrecords read and Fashion-MNIST converted?
 *
 * Prints one line per measurement: name, value, unit. Files are made in $TMPDIR (or /tmp), a quarter of a
 * gigabyte each, and were just written, so they come from the page cache: the numbers measure us, not the
 * disk. Reading is one thread from hr_dataset_load's call to its return: framing, both check sums, Example
 * decoding, and the SHA-256 of the data set. */
#include "data/data.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES = 256 << 20, RUNS = 3 };

static void check(int rc, const hr_err *err)
{
    if (rc)
        hr_die("%s", err->msg);
}

static void bench_read(const char *dir, int c, int side)
{
    hr_err err = HR_ERR_INIT;
    size_t image = (size_t)c * (size_t)side * (size_t)side;
    hr_dataset ds = {.n = (uint32_t)(FILE_BYTES / image), .c = c, .h = side, .w = side, .classes = 10};
    ds.pixels = hr_xmalloc(ds.n * image);
    ds.labels = hr_xmalloc(ds.n * sizeof *ds.labels);
    for (size_t i = 0; i < ds.n * image; i++)
        ds.pixels[i] = (uint8_t)(i * 2654435761u >> 24);
    for (uint32_t i = 0; i < ds.n; i++)
        ds.labels[i] = (int32_t)(i % 10);

    char *path = hr_xasprintf("%s/bench.tfrecord", dir);
    double start = hr_seconds(), written, best = 1e30;
    struct stat st;
    check(hr_dataset_save(&ds, path, &err), &err);
    written = hr_seconds() - start;
    hr_dataset_release(&ds);
    if (stat(path, &st))
        hr_die("%s: cannot be examined", path);
    for (int i = 0; i < RUNS; i++) {
        start = hr_seconds();
        check(hr_dataset_load(&ds, path, 0, &err), &err);
        double t = hr_seconds() - start;
        best = t < best ? t : best;
        hr_dataset_release(&ds);
    }
    printf("tfrecord-read-%dx%dx%d %.0f MB/s\n", c, side, side, (double)st.st_size / best / 1e6);
    printf("tfrecord-write-%dx%dx%d %.0f MB/s\n", c, side, side, (double)st.st_size / written / 1e6);
    unlink(path);
    free(path);
}

static void bench_convert(const char *dir)
{
    static const char *const names[] = {"train.tfrecord", "test.tfrecord", "holdout.tfrecord",
                                        "rest.tfrecord", "manifest.json"};
    hr_convert_args args = {
        .src = "/usr/share/datasets/fashion-mnist", .output = dir, .holdout = 0.1, .seed = 1234};
    hr_err err = HR_ERR_INIT;
    hr_convert_counts counts;
    if (access(args.src, R_OK)) {
        printf("fashion-mnist-convert skipped: %s is missing\n", args.src);
        return;
    }
    double best = 1e30;
    for (int i = 0; i < RUNS; i++) {
        json_t *history = hr_history_new();
        double start = hr_seconds();
        check(hr_convert(&args, history, &counts, &err), &err);
        double t = hr_seconds() - start;
        best = t < best ? t : best;
        json_decref(history);
    }
    printf("fashion-mnist-convert %.2f s\n", best);
    for (size_t i = 0; i < HR_COUNT(names); i++) {
        char *path = hr_xasprintf("%s/%s", dir, names[i]);
        unlink(path);
        free(path);
    }
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = hr_xasprintf("%s/bench-data-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        hr_die("%s: cannot be made", dir);
    bench_read(dir, 3, 32);
    bench_read(dir, 1, 28);
    bench_convert(dir);
    rmdir(dir);
    free(dir);
    return fflush(stdout) ? 1 : 0;
}
