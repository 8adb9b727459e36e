/* test/fuzz/svhn.c -- SVHN's MATLAB files: what was accepted has labels 0..9 and images of 32x32. The input
 * is a head of 128 bytes and elements, which are frames but for what fills them up. libmatio reads in a child
 * process (mat.c), whose crashes are refusals: an input costs a fork, so there are hundreds in a second here.
 */
#include "fuzz.h"

#include "data/internal.h"

#include <isa-l/igzip_lib.h>
#include <stdlib.h>
#include <string.h>

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    if (hr_svhn_load(&ds, fuzz_file(0, data, n), &err))
        return false;
    must(ds.n > 0 && ds.c == 3 && ds.h == 32 && ds.w == 32 && ds.classes <= 10);
    for (uint32_t i = 0; i < ds.n; i++)
        must(ds.labels[i] >= 0 && ds.labels[i] < ds.classes);
    hr_dataset_release(&ds);
    return true;
}

static void add_le(hr_buf *b, uint32_t v)
{
    hr_buf_add(b, (const uint8_t[]){(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)},
               4);
}

/* An element with zeros up to a multiple of 8. */
static void add_element(hr_buf *b, uint32_t type, const void *bytes, uint32_t n)
{
    static const uint8_t zeros[8];
    add_le(b, type);
    add_le(b, n);
    hr_buf_add(b, bytes, n);
    hr_buf_add(b, zeros, (8 - n % 8) % 8);
}

static void add_array(hr_buf *file, const char *name, const uint32_t *dims, uint32_t rank, const void *bytes,
                      uint32_t n, bool packed)
{
    hr_buf body = {0}, whole = {0}, sizes = {0};
    for (uint32_t i = 0; i < rank; i++)
        add_le(&sizes, dims[i]);
    add_element(&body, 6, (const uint8_t[8]){9}, 8);
    add_element(&body, 5, sizes.data, (uint32_t)sizes.len);
    hr_buf_add(&body, (const uint8_t[8]){1, 0, 1, 0, (uint8_t)name[0]}, 8); /* a short element */
    add_element(&body, 2, bytes, n);
    add_element(&whole, 14, body.data, (uint32_t)body.len);
    if (packed) {
        static uint8_t out[1 << 14];
        struct isal_zstream z;
        isal_deflate_stateless_init(&z);
        z.gzip_flag = IGZIP_ZLIB;
        z.end_of_stream = 1;
        z.next_in = (uint8_t *)whole.data;
        z.avail_in = (uint32_t)whole.len;
        z.next_out = out;
        z.avail_out = sizeof out;
        if (isal_deflate_stateless(&z) != COMP_OK)
            hr_die("a seed cannot be compressed");
        add_le(file, 15);
        add_le(file, z.total_out);
        hr_buf_add(file, out, z.total_out);
    } else {
        hr_buf_add(file, whole.data, whole.len);
    }
    hr_buf_release(&body);
    hr_buf_release(&whole);
    hr_buf_release(&sizes);
}

static void seed(const char *name, uint32_t n, bool packed)
{
    hr_buf file = {0};
    char head[128] = "MATLAB 5.0 MAT-file, for the fuzzer";
    memcpy(head + 124, "\0\1IM", 4);
    hr_buf_add(&file, head, sizeof head);
    uint8_t *pixels = hr_xcalloc(n, 3072), *y = hr_xcalloc(n, 1);
    for (uint32_t i = 0; i < n; i++)
        y[i] = (uint8_t)(i % 10 + 1);
    add_array(&file, "X", (const uint32_t[]){32, 32, 3, n}, 4, pixels, n * 3072, packed);
    add_array(&file, "y", (const uint32_t[]){n, 1}, 2, y, n, packed);
    fuzz_seed(name, file.data, file.len);
    hr_buf_release(&file);
    free(pixels);
    free(y);
}

void fuzz_seeds(void)
{
    seed("plain", 1, false);
    seed("packed", 12, true);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed_)
{
    enum { HEAD = 128 };
    static const struct fuzz_frames f = {.head = 8, .at = 4, .bytes = 4};
    if (size <= HEAD || seed_ % 16 == 0)
        return LLVMFuzzerMutate(data, size, max);
    return HEAD + fuzz_mutate_frames(&f, data + HEAD, size - HEAD, max - HEAD, seed_);
}
