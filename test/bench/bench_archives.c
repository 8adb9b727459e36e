/* test/bench/bench_archives.c -- how fast are archives converted? One of CIFAR-10's size, and JPEG images of
 * a size that is usual in ImageNet (500x375, 4:2:0, quality 90), beside what libjpeg-turbo itself takes to
 * decode the same bytes.
 *
 * Files are made in $TMPDIR (or /tmp) and come from the page cache. CIFAR-10's archive shrinks its 184 MB to
 * 162; ours holds noise that gzip shrinks as little. The JPEG conversion is the whole of it: reading,
 * decoding, scaling, cropping, digests, writing; decoding takes the same files, out of memory, in turns with
 * it. */
#include "data/data.h"

#include <archive.h>
#include <archive_entry.h>
#include <jpeglib.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 500, HEIGHT = 375, CLASSES = 6, EACH = 60, TESTS = 120, RUNS = 3 };

static char *dir;

static void run(const char *fmt, const char *path)
{
    char *command = hr_xasprintf(fmt, path);
    if (system(command))
        hr_die("%s: failed", command);
    free(command);
}

/* Noise of 7.4 bits per byte. */
static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (uint8_t)((seed >> 24) * 170 / 256);
    }
}

static void add_batch(struct archive *a, const char *name, uint32_t n, uint32_t seed)
{
    size_t bytes = (size_t)n * 3073;
    uint8_t *p = hr_xmalloc(bytes);
    struct archive_entry *e = archive_entry_new();
    fill(p, bytes, seed);
    for (uint32_t i = 0; i < n; i++)
        p[(size_t)i * 3073] = (uint8_t)(i % 10);
    archive_entry_set_pathname(e, name);
    archive_entry_set_size(e, (la_int64_t)bytes);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0644);
    if (archive_write_header(a, e) || archive_write_data(a, p, bytes) != (la_ssize_t)bytes)
        hr_die("%s: %s", name, archive_error_string(a));
    archive_entry_free(e);
    free(p);
}

/* Seconds of processor time of all threads: on a machine that others use, too, this measures us. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Returns seconds of the fastest of the runs; *cpu gets the least processor time. */
static double convert(const char *set, hr_convert_args *args, int runs, hr_convert_counts *n, double *cpu)
{
    hr_err err = HR_ERR_INIT;
    double best = 1e30;
    const char *const *names = hr_source_names();
    while (strcmp(names[args->source], set) != 0)
        args->source++;
    for (int i = 0; i < runs; i++) {
        json_t *history = hr_history_new();
        double start = hr_seconds(), spent = cpu_seconds();
        if (hr_convert(args, history, n, &err))
            hr_die("%s", err.msg);
        double t = hr_seconds() - start;
        spent = cpu_seconds() - spent;
        best = t < best ? t : best;
        *cpu = i == 0 || spent < *cpu ? spent : *cpu;
        json_decref(history);
    }
    return best;
}

static void bench_cifar(void)
{
    char *path = hr_xasprintf("%s/cifar-10-binary.tar.gz", dir), *out = hr_xasprintf("%s/cifar", dir);
    struct archive *a = archive_write_new();
    archive_write_add_filter_gzip(a);
    archive_write_set_filter_option(a, "gzip", "compression-level", "1");
    archive_write_set_format_ustar(a);
    if (archive_write_open_filename(a, path))
        hr_die("%s: %s", path, archive_error_string(a));
    for (int i = 1; i <= 5; i++) {
        char name[40];
        snprintf(name, sizeof name, "cifar-10-batches-bin/data_batch_%d.bin", i);
        add_batch(a, name, 10000, (uint32_t)i);
    }
    add_batch(a, "cifar-10-batches-bin/test_batch.bin", 10000, 6);
    archive_write_close(a);
    archive_write_free(a);
    hr_convert_args args = {.src = path, .output = out, .holdout = 0.1, .seed = 1234, .unverified = true};
    hr_convert_counts n;
    double cpu, t = convert("cifar10", &args, RUNS, &n, &cpu);
    printf("cifar10-sized-convert %.2f s (processor time %.2f s)\n", t, cpu);
    unlink(path);
    free(path);
    free(out);
}

/* A picture with structure at all scales, and its JPEG. */
static hr_buf make_jpeg(int seed)
{
    static uint8_t pixels[HEIGHT * WIDTH * 3];
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < 3; c++) {
                uint32_t h =
                    (uint32_t)x * 73856093u ^ (uint32_t)y * 19349663u ^ (uint32_t)(seed + c) * 83492791u;
                h = (h ^ h >> 13) * 1274126177u;
                double v = 128 + 50 * sin(0.01 * x + seed) + 40 * cos(0.023 * y - c) +
                           20 * sin(0.21 * (x + y)) + (double)(h >> 26) - 32;
                pixels[(y * WIDTH + x) * 3 + c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
            }
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr errors;
    unsigned char *mem = NULL;
    unsigned long size = 0;
    j.err = jpeg_std_error(&errors);
    jpeg_create_compress(&j);
    jpeg_mem_dest(&j, &mem, &size);
    j.image_width = WIDTH;
    j.image_height = HEIGHT;
    j.input_components = 3;
    j.in_color_space = JCS_RGB;
    jpeg_set_defaults(&j);
    jpeg_set_quality(&j, 90, TRUE);
    jpeg_start_compress(&j, TRUE);
    while (j.next_scanline < HEIGHT) {
        JSAMPROW row = pixels + j.next_scanline * WIDTH * 3;
        jpeg_write_scanlines(&j, &row, 1);
    }
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    hr_buf b = {0};
    hr_buf_add(&b, mem, size);
    free(mem);
    return b;
}

/* Decode as everybody does: libjpeg's defaults, to RGB. */
static void decode(const hr_buf *b, uint8_t *pixels)
{
    struct jpeg_decompress_struct j;
    struct jpeg_error_mgr errors;
    j.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&j);
    jpeg_mem_src(&j, (const unsigned char *)b->data, b->len);
    jpeg_read_header(&j, TRUE);
    jpeg_start_decompress(&j);
    while (j.output_scanline < j.output_height) {
        JSAMPROW rows[4];
        for (JDIMENSION i = 0; i < 4; i++)
            rows[i] = pixels + (j.output_scanline + i) * WIDTH * 3;
        jpeg_read_scanlines(&j, rows, 4);
    }
    jpeg_finish_decompress(&j);
    jpeg_destroy_decompress(&j);
}

static void bench_jpeg(void)
{
    enum { N = 40, FILES = CLASSES * EACH + TESTS };
    hr_buf jpegs[N], files[FILES];
    static uint8_t pixels[(HEIGHT + 4) * WIDTH * 3];
    hr_err err = HR_ERR_INIT;
    size_t bytes = 0, made = 0;
    for (int i = 0; i < N; i++)
        jpegs[i] = make_jpeg(i);
    for (int k = 0; k < CLASSES; k++)
        for (int i = 0; i < EACH + TESTS / CLASSES; i++) {
            char *folder = hr_xasprintf("%s/imagenet/%s/n%08d", dir, i < EACH ? "train" : "val", k);
            char *path = hr_xasprintf("%s/%d.JPEG", folder, i);
            if (hr_mkdirs(folder, &err))
                hr_die("%s", err.msg);
            FILE *fp = fopen(path, "wb");
            const hr_buf *b = &jpegs[(k * 7 + i) % N];
            if (!fp || fwrite(b->data, 1, b->len, fp) != b->len || fclose(fp))
                hr_die("%s: cannot be written", path);
            files[made] = (hr_buf){0};
            hr_buf_add(&files[made++], b->data,
                       b->len); /* each in a place of its own, as when they are read */
            bytes += b->len;
            free(folder);
            free(path);
        }
    char *src = hr_xasprintf("%s/imagenet", dir), *out = hr_xasprintf("%s/out", dir);
    double decoding = 1e30, converting = 1e30, t = 1e30;
    for (int i = 0; i < RUNS; i++) { /* in turns */
        double start = cpu_seconds(), own, cpu;
        for (int k = 0; k < FILES; k++)
            decode(&files[k], pixels);
        own = cpu_seconds() - start;
        hr_convert_args args = {
            .src = src, .output = out, .seed = 1, .unverified = true, .side = 224, .shards = 2};
        hr_convert_counts n;
        start = convert("imagenet", &args, 1, &n, &cpu);
        decoding = own < decoding ? own : decoding;
        converting = cpu < converting ? cpu : converting;
        t = start < t ? start : t;
    }
    double own = FILES / decoding, images = FILES;
    printf("jpeg-decode-libjpeg-turbo %.0f images per second of one core (%dx%d, %.0f KB)\n", own, WIDTH,
           HEIGHT, (double)bytes / FILES / 1e3);
    printf(
        "jpeg-convert %.0f images per second of one core, %.0f %% of that; %.0f images/s with %d threads\n",
        images / converting, 100 * decoding / converting, images / t, omp_get_max_threads());
    for (int i = 0; i < N; i++)
        hr_buf_release(&jpegs[i]);
    for (int i = 0; i < FILES; i++)
        hr_buf_release(&files[i]);
    free(src);
    free(out);
}

/* bench_archives [cifar10|jpeg]: only one of the two */
int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    dir = hr_xasprintf("%s/bench-archives-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        hr_die("%s: cannot be made", dir);
    const char *only = argc > 1 ? argv[1] : "";
    if (strcmp(only, "jpeg") != 0)
        bench_cifar();
    if (strcmp(only, "cifar10") != 0)
        bench_jpeg();
    run("rm -r '%s'", dir);
    free(dir);
    return fflush(stdout) ? 1 : 0;
}
