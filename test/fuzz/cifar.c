/* test/fuzz/cifar.c -- CIFAR-10's archives: tar files, plain or gzipped, of binary batches or pickles; and
 * single pickles, which are what is found inside. The first byte of an input says which: 0 an archive, else a
 * pickle. */
#include "fuzz.h"

#include "data/internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

static bool one_pickle(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    uint8_t *pixels;
    int64_t *labels;
    uint32_t count;
    if (hr_batch_pickle(data, n, "pickle", 12, &pixels, &labels, &count, &err))
        return false;
    uint64_t sum = 0; /* a byte that is not there is for the sanitizer to find */
    for (size_t i = 0; i < (size_t)count * 12; i++)
        sum += pixels[i];
    must(count > 0 && sum <= (uint64_t)count * 12 * 255);
    free(pixels);
    free(labels);
    return true;
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_dataset train, test;
    if (n == 0)
        return false;
    if (data[0])
        return one_pickle(data + 1, n - 1);
    if (hr_cifar_load(fuzz_file(0, data + 1, n - 1), &train, &test, &err))
        return false;
    must(train.n > 0 && test.n > 0 && train.c == 3 && train.h == 32);
    for (uint32_t i = 0; i < train.n; i++)
        must(train.labels[i] >= 0 && train.labels[i] < train.classes);
    hr_dataset_release(&train);
    hr_dataset_release(&test);
    return true;
}

/* A batch of n images of `image` bytes as Python 2 pickles it, or 3; images of one colour gzip well. */
static hr_buf pickle(uint8_t n, uint16_t image, int python)
{
    static const char head[] = "\x80\x02}q\1(U\6labelsq\2]q\3(",
                      array[] = "eU\4dataq\4cnumpy.core.multiarray\n_"
                                "reconstruct\nq\5cnumpy\nndarray\nq\6K\0\x85U\1bq\7\x87Rq\x8(K\1K";
    static const char dtype[] =
        "\x86"
        "cnumpy\ndtype\nq\nU\2u1q\vK\0K\1\x87Rq\f(K\3U\1|q\rNNNJ\xff\xff\xff\xffJ\xff\xff"
        "\xff\xffK\0tb\x89";
    hr_buf b = {0};
    hr_buf_add(&b, head, sizeof head - 1);
    for (uint8_t i = 0; i < n; i++)
        hr_buf_add(&b, (const uint8_t[]){'K', i % 10}, 2);
    hr_buf_add(&b, array, sizeof array - 1);
    hr_buf_add(&b, (const uint8_t[]){n, 'M', (uint8_t)image, (uint8_t)(image >> 8)}, 4);
    hr_buf_add(&b, dtype, sizeof dtype - 1);
    uint32_t bytes = (uint32_t)n * image;
    const char *begin = python == 2 ? "T" : "c_codecs\nencode\nX";
    hr_buf_add(&b, begin, strlen(begin));
    hr_buf_add(&b, (const uint8_t[]){(uint8_t)bytes, (uint8_t)(bytes >> 8), (uint8_t)(bytes >> 16), 0}, 4);
    for (uint32_t i = 0; i < bytes; i++)
        hr_buf_add(&b, "\x40", 1);
    if (python == 3)
        hr_buf_add(&b, "U\6latin1\x86R", 10);
    hr_buf_add(&b, "tbu.", 4);
    return b;
}

static void add_member(struct archive *a, const char *name, const void *bytes, size_t n)
{
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, name);
    archive_entry_set_size(e, (la_int64_t)n);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0644);
    if (archive_write_header(a, e) || archive_write_data(a, bytes, n) != (la_ssize_t)n)
        hr_die("libarchive: %s", archive_error_string(a));
    archive_entry_free(e);
}

static void seed_archive(const char *name, bool pickled, bool gzip)
{
    static uint8_t out[1 << 16], binary[3073 * 2];
    static const char *const batches[] = {"data_batch_4", "test_batch",   "data_batch_3",
                                          "data_batch_1", "data_batch_2", "data_batch_5"};
    size_t used = 0;
    hr_buf p = pickle(2, 3072, 2);
    struct archive *a = archive_write_new();
    if (gzip)
        archive_write_add_filter_gzip(a);
    archive_write_set_format_ustar(a);
    archive_write_set_bytes_in_last_block(a, 1);
    if (archive_write_open_memory(a, out + 1, sizeof out - 1, &used))
        hr_die("libarchive: %s", archive_error_string(a));
    for (size_t i = 0; i < HR_COUNT(batches); i++) {
        char *member = hr_xasprintf("c/%s%s", batches[i], pickled ? "" : ".bin");
        if (pickled)
            add_member(a, member, p.data, p.len);
        else
            add_member(a, member, binary, sizeof binary / 2);
        free(member);
    }
    if (archive_write_close(a))
        hr_die("libarchive: %s", archive_error_string(a));
    archive_write_free(a);
    hr_buf_release(&p);
    out[0] = 0;
    fuzz_seed(name, out, 1 + used);
}

void fuzz_seeds(void)
{
    seed_archive("binary", false, true);
    seed_archive("python", true, true);
    for (uint8_t n = 1; n < 4; n++) {
        hr_buf p = pickle(n, 12, n == 1 ? 3 : 2), b = {0};
        char name[] = "pickle-0";
        name[7] = (char)('0' + n);
        hr_buf_add(&b, "\1", 1);
        hr_buf_add(&b, p.data, p.len);
        fuzz_seed(name, b.data, b.len);
        hr_buf_release(&p);
        hr_buf_release(&b);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    if (size < 2 || seed % 64 == 0)
        return LLVMFuzzerMutate(data, size, max);
    return 1 + LLVMFuzzerMutate(data + 1, size - 1, max - 1); /* the same kind */
}
