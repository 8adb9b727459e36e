/* test/fuzz/idx.c -- a pair of IDX files, plain or gzipped. The input is two frames, each a length of four
 * bytes, big-endian, and a file. */
#include "fuzz.h"

#include "data/data.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

/* Take a frame off the input. */
static bool take(const uint8_t **data, size_t *n, const uint8_t **file, size_t *len)
{
    if (*n < 4)
        return false;
    *len = (size_t)(*data)[0] << 24 | (size_t)(*data)[1] << 16 | (size_t)(*data)[2] << 8 | (*data)[3];
    *file = *data + 4;
    if (*len > *n - 4)
        return false;
    *data += 4 + *len;
    *n -= 4 + *len;
    return true;
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    const uint8_t *file[2];
    size_t len[2];
    if (!take(&data, &n, &file[0], &len[0]) || !take(&data, &n, &file[1], &len[1]))
        return false;
    if (hr_idx_load(&ds, fuzz_file(0, file[0], len[0]), fuzz_file(1, file[1], len[1]), &err))
        return false;
    for (uint32_t i = 0; i < ds.n; i++)
        must(ds.labels[i] >= 0 && ds.labels[i] < ds.classes);
    hr_dataset_release(&ds);
    return true;
}

/* Append one frame with the bytes, gzipped or as they are. */
static void add_frame(hr_buf *b, const uint8_t *bytes, size_t n, bool gzip)
{
    uint8_t packed[4096];
    size_t used = 0;
    if (gzip) {
        struct archive *a = archive_write_new();
        struct archive_entry *e = archive_entry_new();
        archive_write_add_filter_gzip(a);
        archive_write_set_format_raw(a);
        archive_write_set_bytes_in_last_block(a, 1);
        archive_entry_set_filetype(e, AE_IFREG);
        if (archive_write_open_memory(a, packed, sizeof packed, &used) || archive_write_header(a, e) ||
            archive_write_data(a, bytes, n) != (la_ssize_t)n || archive_write_close(a))
            hr_die("libarchive: %s", archive_error_string(a));
        archive_entry_free(e);
        archive_write_free(a);
        bytes = packed;
        n = used;
    }
    hr_buf_add(b, (const uint8_t[]){0, 0, (uint8_t)(n >> 8), (uint8_t)n}, 4);
    hr_buf_add(b, bytes, n);
}

void fuzz_seeds(void)
{
    enum { IMAGES = 5, SIDE = 4, PIXELS = IMAGES * SIDE * SIDE };
    uint8_t images[16 + PIXELS] = {0, 0, 8, 3, 0, 0, 0, IMAGES, 0, 0, 0, SIDE, 0, 0, 0, SIDE};
    uint8_t labels[8 + IMAGES] = {0, 0, 8, 1, 0, 0, 0, IMAGES, 3, 1, 4, 1, 5};
    for (int i = 0; i < PIXELS; i++)
        images[16 + i] = (uint8_t)(i * i);
    for (int zipped = 0; zipped < 4; zipped++) {
        static const char *const names[] = {"plain", "gzip-images", "gzip-labels", "gzip-both"};
        hr_buf b = {0};
        add_frame(&b, images, sizeof images, zipped & 1);
        add_frame(&b, labels, sizeof labels, zipped & 2);
        fuzz_seed(names[zipped], b.data, b.len);
        hr_buf_release(&b);
    }
    /* One that unpacks to more than libarchive does at a time. */
    enum { LARGE = 300 };
    uint8_t *large = hr_xcalloc(16 + LARGE * LARGE, 1);
    memcpy(large,
           (const uint8_t[]){0, 0, 8, 3, 0, 0, 0, 1, 0, 0, LARGE >> 8, LARGE & 255, 0, 0, LARGE >> 8,
                             LARGE & 255},
           16);
    hr_buf b = {0};
    add_frame(&b, large, 16 + LARGE * LARGE, true);
    add_frame(&b, (const uint8_t[]){0, 0, 8, 1, 0, 0, 0, 1, 3}, 9, false);
    fuzz_seed("gzip-large", b.data, b.len);
    hr_buf_release(&b);
    free(large);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    static const struct fuzz_frames f = {.head = 4, .at = 0, .bytes = 4, .big = true};
    return fuzz_mutate_frames(&f, data, size, max, seed);
}
