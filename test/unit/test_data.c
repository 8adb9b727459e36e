/* test/unit/test_data.c -- tfrecord framing, Examples, data sets, manifests.
 *
 * Records are built here by hand, bit loop and all, so that reading is not only tested against our own
 * writing. */
#include "numbered.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- an independent writer ----------------------------------------------------------------------------- */

static uint32_t textbook_crc32c(const uint8_t *p, size_t n)
{
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
    }
    return ~crc;
}

static void add_le(hr_buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)(v >> (8 * i));
        hr_buf_add(b, &byte, 1);
    }
}

static void add_masked_crc(hr_buf *b, const void *p, size_t n)
{
    uint32_t crc = textbook_crc32c(p, n);
    add_le(b, (crc >> 15 | crc << 17) + 0xa282ead8u, 4);
}

static void add_frame(hr_buf *b, const void *p, size_t n)
{
    uint8_t head[8];
    for (int i = 0; i < 8; i++)
        head[i] = (uint8_t)((uint64_t)n >> (8 * i));
    hr_buf_add(b, head, 8);
    add_masked_crc(b, head, 8);
    hr_buf_add(b, p, n);
    add_masked_crc(b, p, n);
}

static void add_varint(hr_buf *b, uint64_t v)
{
    for (; v > 127; v >>= 7)
        add_le(b, (v & 127) | 128, 1);
    add_le(b, v, 1);
}

/* a length-delimited field; content is released */
static void add_field(hr_buf *b, int number, hr_buf *content)
{
    add_varint(b, (uint64_t)number << 3 | 2);
    add_varint(b, content->len);
    hr_buf_add(b, content->data ? content->data : "", content->len);
    hr_buf_release(content);
}

/* one entry {key: Feature} of the map of features; kind 1 bytes, 3 integers, unpacked when kind is -3 */
static void add_entry(hr_buf *features, const char *key, int kind, const void *bytes, size_t n,
                      uint64_t number)
{
    hr_buf list = {0}, value = {0}, feature = {0}, entry = {0}, name = {0};
    if (kind == -3) {
        add_varint(&list, 1 << 3 | 0);
        add_varint(&list, number);
    } else {
        if (kind == 1)
            hr_buf_add(&value, bytes, n);
        else
            add_varint(&value, number);
        add_field(&list, 1, &value);
    }
    add_field(&feature, kind < 0 ? -kind : kind, &list);
    hr_buf_add(&name, key, strlen(key));
    add_field(&entry, 1, &name);
    add_field(&entry, 2, &feature);
    add_field(features, 1, &entry);
}

/* A record of an image of h x w pixels with the given bytes, in an order of keys that is not ours, with a key
 * that nobody knows. leave_out: a key to skip, or NULL. */
static void add_image(hr_buf *file, const void *pixels, size_t n, uint64_t h, uint64_t w, uint64_t label,
                      const char *leave_out)
{
    hr_buf features = {0}, example = {0};
    const char *const keys[] = {"image/width", "image/unheard-of", "image/encoded", "image/class/label",
                                "image/height"};
    const uint64_t numbers[] = {w, 0, 0, label, h};
    for (size_t i = 0; i < HR_COUNT(keys); i++)
        if (!leave_out || strcmp(keys[i], leave_out) != 0)
            add_entry(&features, keys[i], i == 1 || i == 2 ? 1 : 3, i == 1 ? "x" : pixels, i == 1 ? 1 : n,
                      numbers[i]);
    add_field(&example, 1, &features);
    add_frame(file, example.data, example.len);
    hr_buf_release(&example);
}

/* ---- files ------------------------------------------------------------------------------------------- */

static char dir[] = "/tmp/test_data.XXXXXX";

static char *in_dir(const char *name)
{
    return hr_xasprintf("%s/%s", dir, name);
}

static void write_file(const char *path, const void *p, size_t n)
{
    FILE *fp = fopen(path, "wb");
    assert_non_null(fp);
    assert_int_equal(fwrite(p, 1, n, fp), n);
    assert_int_equal(fclose(fp), 0);
}

/* hr_dataset_load of a file with these bytes; the file is gone afterwards */
static int load_bytes(hr_dataset *ds, const void *p, size_t n, int classes, hr_err *err)
{
    char *path = in_dir("bytes.tfrecord");
    write_file(path, p, n);
    int rc = hr_dataset_load(ds, path, classes, err);
    unlink(path);
    free(path);
    return rc;
}

struct feed {
    int fd;
    const hr_buf *bytes;
};

static void *feed_pipe(void *arg)
{
    const struct feed *f = arg;
    for (size_t at = 0; at < f->bytes->len;) {
        ssize_t n = write(f->fd, f->bytes->data + at, f->bytes->len - at);
        if (n < 0)
            break; /* the reader gave up */
        at += (size_t)n;
    }
    close(f->fd);
    return NULL;
}

/* as load_bytes, but through a pipe, whose length nobody knows */
static int load_pipe(hr_dataset *ds, const hr_buf *bytes, hr_err *err)
{
    int fd[2];
    pthread_t thread;
    assert_int_equal(pipe(fd), 0);
    struct feed feed = {fd[1], bytes};
    assert_int_equal(pthread_create(&thread, NULL, feed_pipe, &feed), 0);
    char *path = hr_xasprintf("/dev/fd/%d", fd[0]);
    int rc = hr_dataset_load(ds, path, 0, err);
    close(fd[0]);
    pthread_join(thread, NULL);
    free(path);
    return rc;
}

/* Three images of 2x2 pixels as a file, and where its records end. */
static hr_buf small_file(size_t ends[3])
{
    hr_buf file = {0};
    for (uint64_t i = 0; i < 3; i++) {
        uint8_t pixels[4] = {(uint8_t)i, 50, 100, 200};
        add_image(&file, pixels, 4, 2, 2, i, NULL);
        ends[i] = file.len;
    }
    return file;
}

static bool is_one_line(const char *s)
{
    return *s && !strpbrk(s, "\r\n");
}

/* ---- framing ------------------------------------------------------------------------------------------- */

/* The record of the essay in tfrecord.c. */
static const uint8_t abc[] = {3,    0,    0,   0,   0,   0,    0,    0,    0xb0, 0x99,
                              0x49, 0x0e, 'a', 'b', 'c', 0x6e, 0x57, 0xf1, 0x21};

static void test_framing_writes_the_bytes_of_the_essay(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    uint8_t got[sizeof abc + 1];
    FILE *fp = fmemopen(got, sizeof got, "wb");
    assert_ok(hr_tfrec_write(fp, "x", "abc", 3, &err), err);
    assert_int_equal(ftell(fp), sizeof abc);
    fclose(fp);
    assert_memory_equal(got, abc, sizeof abc);
    hr_buf mine = {0};
    add_frame(&mine, "abc", 3);
    assert_int_equal(mine.len, sizeof abc);
    assert_memory_equal(mine.data, abc, sizeof abc);
    hr_buf_release(&mine);
}

static void test_reader_returns_records_of_any_length_in_order(void **state)
{
    (void)state;
    /* around the reader's block of 256 KiB, and empty ones */
    static const size_t lengths[] = {0, 1, 3, 262128, 262144, 0, 262145, 1000000, 5};
    hr_err err = HR_ERR_INIT;
    hr_buf file = {0};
    uint8_t *data = hr_xmalloc(1000100);
    for (size_t i = 0; i < 1000100; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t i = 0; i < HR_COUNT(lengths); i++)
        add_frame(&file, data + i, lengths[i]);
    char *path = in_dir("lengths");
    write_file(path, file.data, file.len);

    hr_tfrec_reader *r;
    const uint8_t *p;
    size_t n;
    assert_ok(hr_tfrec_open(&r, path, &err), err);
    for (size_t i = 0; i < HR_COUNT(lengths); i++) {
        assert_ok(hr_tfrec_next(r, &p, &n, &err), err);
        assert_non_null(p);
        assert_int_equal(n, lengths[i]);
        assert_memory_equal(p, data + i, n);
    }
    for (int twice = 0; twice < 2; twice++) {
        assert_ok(hr_tfrec_next(r, &p, &n, &err), err);
        assert_null(p);
    }
    hr_tfrec_close(r);
    unlink(path);
    free(path);
    free(data);
    hr_buf_release(&file);
}

static void test_every_cut_inside_a_record_is_refused(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    size_t ends[3];
    hr_buf file = small_file(ends);
    for (size_t cut = 0; cut < file.len; cut++) {
        if (cut == ends[0] || cut == ends[1]) { /* a shorter file, and a sound one */
            assert_ok(load_bytes(&ds, file.data, cut, 0, &err), err);
            assert_int_equal(ds.n, cut == ends[0] ? 1 : 2);
            hr_dataset_release(&ds);
            continue;
        }
        hr_buf part = {file.data, cut, cut};
        assert_int_equal(load_bytes(&ds, file.data, cut, 0, &err), HR_EFORMAT);
        assert_true(is_one_line(err.msg));
        assert_non_null(strstr(err.msg, cut ? "cut short" : "holds no images"));
        assert_null(ds.pixels);
        assert_int_equal(load_pipe(&ds, &part, &err), HR_EFORMAT);
        assert_null(ds.pixels);
    }
    hr_buf_release(&file);
}

static void test_every_flipped_bit_is_refused(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    size_t ends[3];
    hr_buf file = small_file(ends);
    for (size_t at = 0; at < file.len; at++)
        for (int bit = 0; bit < 8; bit++) {
            file.data[at] = (char)(file.data[at] ^ 1 << bit);
            assert_int_equal(load_bytes(&ds, file.data, file.len, 0, &err), HR_EFORMAT);
            assert_true(is_one_line(err.msg));
            char where[32];
            snprintf(where, sizeof where, ": record %d at byte ", at < ends[0] ? 0 : at < ends[1] ? 1 : 2);
            assert_non_null(strstr(err.msg, where));
            file.data[at] = (char)(file.data[at] ^ 1 << bit);
        }
    assert_ok(load_bytes(&ds, file.data, file.len, 0, &err), err);
    hr_dataset_release(&ds);
    hr_buf_release(&file);
}

static void test_a_lying_length_takes_no_memory(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {1 << 30, 0x7fffffff, 0x80000000, UINT64_MAX - 15, UINT64_MAX};
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    for (size_t i = 0; i < HR_COUNT(lengths); i++) {
        hr_buf file = {0};
        add_le(&file, lengths[i], 8);
        add_masked_crc(&file, file.data, 8); /* the length is vouched for */
        hr_buf_printf(&file, "and little more");
        assert_int_equal(load_bytes(&ds, file.data, file.len, 0, &err), HR_EFORMAT);
        assert_non_null(strstr(err.msg, lengths[i] > 0x7fffffff ? "beyond" : "cut short"));
        assert_int_equal(load_pipe(&ds, &file, &err), HR_EFORMAT);
        hr_buf_release(&file);
    }
}

static void test_other_files_are_not_tfrecords(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    assert_int_equal(load_bytes(&ds, "hello, world: no tfrecord", 25, 0, &err), HR_EFORMAT);
    assert_non_null(strstr(err.msg, "not a tfrecord file"));
    assert_int_equal(hr_dataset_load(&ds, dir, 0, &err), HR_EIO);
    assert_non_null(strstr(err.msg, "is a directory"));
    assert_int_equal(hr_dataset_load(&ds, "/nonexistent/train.tfrecord", 0, &err), HR_EIO);
    assert_string_equal(err.msg, "/nonexistent/train.tfrecord: No such file or directory");
}

/* ---- Examples ------------------------------------------------------------------------------------------ */

static void test_foreign_records_are_read_whatever_their_key_order(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    hr_buf file = {0};
    uint8_t pixels[2][18];
    for (int i = 0; i < 18; i++) {
        pixels[0][i] = (uint8_t)(255 - i);
        pixels[1][i] = (uint8_t)i;
    }
    add_image(&file, pixels[0], 18, 2, 3, 7, NULL);
    add_image(&file, pixels[1], 18, 2, 3, 0, NULL);
    for (int piped = 0; piped < 2; piped++) {
        assert_ok(piped ? load_pipe(&ds, &file, &err) : load_bytes(&ds, file.data, file.len, 0, &err), err);
        assert_int_equal(ds.n, 2);
        assert_int_equal(ds.c, 3);
        assert_int_equal(ds.h, 2);
        assert_int_equal(ds.w, 3);
        assert_int_equal(ds.classes, 8);
        assert_memory_equal(ds.pixels, pixels, 36);
        assert_int_equal(ds.labels[0], 7);
        assert_int_equal(ds.labels[1], 0);
        assert_int_equal(ds.index[1], 1);
        hr_dataset_release(&ds);
    }
    hr_buf_release(&file);
}

static void test_unpacked_integers_and_repeated_keys_are_read(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    hr_buf features = {0}, example = {0}, file = {0};
    add_entry(&features, "image/height", -3, NULL, 0, 1);
    add_entry(&features, "image/class/label", 3, NULL, 0, 5);
    add_entry(&features, "image/width", -3, NULL, 0, 2);
    add_entry(&features, "image/encoded", 1, "no", 2, 0);
    add_entry(&features, "image/encoded", 1, "ok", 2, 0);
    add_entry(&features, "image/class/label", 3, NULL, 0, 2);
    add_field(&example, 1, &features);
    add_frame(&file, example.data, example.len);
    assert_ok(load_bytes(&ds, file.data, file.len, 10, &err), err);
    assert_memory_equal(ds.pixels, "ok", 2);
    assert_int_equal(ds.labels[0], 2);
    assert_int_equal(ds.classes, 10);
    hr_dataset_release(&ds);
    hr_buf_release(&example);
    hr_buf_release(&file);
}

static void test_wrong_records_are_refused_by_number_and_reason(void **state)
{
    (void)state;
    static const struct {
        const char *pixels;
        size_t n;
        uint64_t h, w, label;
        const char *leave_out, *message;
        int code;
    } cases[] = {
        {"1234", 4, 2, 2, 0, "image/encoded", "key 'image/encoded' is missing", HR_EFORMAT},
        {"1234", 4, 2, 2, 0, "image/height", "key 'image/height' is missing", HR_EFORMAT},
        {"1234", 4, 2, 2, 0, "image/width", "key 'image/width' is missing", HR_EFORMAT},
        {"1234", 4, 2, 2, 0, "image/class/label", "key 'image/class/label' is missing", HR_EFORMAT},
        {"12345", 5, 2, 2, 0, NULL, "5 bytes of image are not 2x2 pixels of 1..4 channels", HR_EFORMAT},
        {"", 0, 2, 2, 0, NULL, "0 bytes of image are not 2x2 pixels of 1..4 channels", HR_EFORMAT},
        {"12345", 5, 1, 1, 0, NULL, "5 bytes of image are not 1x1 pixels of 1..4 channels", HR_EFORMAT},
        {"\xff\xd8\xff\xe0 JFIF", 9, 9, 9, 0, NULL, "a damaged JPEG: JPEG datastream contains no image",
         HR_EFORMAT},
        {"\x89PNG\r\n\x1a\n+", 9, 9, 9, 0, NULL, "a damaged PNG: cut short", HR_EFORMAT},
        {"1234", 4, 0, 2, 0, NULL, "key 'image/height' is 0, outside 1..65535", HR_EFORMAT},
        {"1234", 4, 2, 65536, 0, NULL, "key 'image/width' is 65536, outside 1..65535", HR_EFORMAT},
        {"1234", 4, 2, UINT64_MAX, 0, NULL, "key 'image/width' is -1, outside 1..65535", HR_EFORMAT},
        {"1234", 4, 2, 2, 10, NULL, "label 10 is outside 0..9", HR_ESHAPE},
        {"1234", 4, 2, 2, UINT64_MAX, NULL, "label -1 is outside 0..9", HR_ESHAPE},
        {"1234", 4, 4, 1, 0, NULL, "image is 1x4x1, the ones before are 1x2x2", HR_ESHAPE},
        {"12345678", 8, 2, 2, 0, NULL, "image is 2x2x2, the ones before are 1x2x2", HR_ESHAPE},
    };
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        hr_err err = HR_ERR_INIT;
        hr_dataset ds;
        hr_buf file = {0};
        add_image(&file, "good", 4, 2, 2, 9, NULL);
        size_t second = file.len;
        add_image(&file, cases[i].pixels, cases[i].n, cases[i].h, cases[i].w, cases[i].label,
                  cases[i].leave_out);
        assert_int_equal(load_bytes(&ds, file.data, file.len, 10, &err), cases[i].code);
        char *want =
            hr_xasprintf("%s/bytes.tfrecord: record 1 at byte %zu: %s", dir, second, cases[i].message);
        assert_string_equal(err.msg, want);
        assert_null(ds.pixels);
        free(want);
        hr_buf_release(&file);
    }
}

static void test_records_that_are_no_examples_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {{"", 0},
                 {"\x0a", 1},
                 {"\x0a\x7f", 2},
                 {"\xff\xff\xff\xff", 4},
                 {"\x0a\x04\x0a\x02\x0a\x09", 6},
                 {"\x0a\x02\x0a\x00", 4},
                 {"garbage of some length", 22}};
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        hr_err err = HR_ERR_INIT;
        hr_dataset ds;
        hr_buf file = {0};
        add_frame(&file, cases[i].bytes, cases[i].n);
        assert_int_equal(load_bytes(&ds, file.data, file.len, 0, &err), HR_EFORMAT);
        assert_non_null(strstr(err.msg, "record 0 at byte 0: "));
        hr_buf_release(&file);
    }
}

/* Bytes inside the frame are changed and the check sums made right again: no answer but "refused" or a data
 * set in range, and nothing for the sanitizers. */
static void test_damaged_examples_behind_good_check_sums_do_no_harm(void **state)
{
    (void)state;
    hr_buf file = {0};
    hr_rng rng = {1, HR_STREAM_TEST, 0};
    add_image(&file, "123456789abc", 12, 2, 2, 3, NULL);
    size_t n = file.len - 16;
    uint8_t *data = hr_xmalloc(n);
    for (int i = 0; i < 3000; i++) {
        hr_err err = HR_ERR_INIT;
        hr_dataset ds;
        hr_buf bad = {0};
        memcpy(data, file.data + 12, n);
        for (uint32_t k = hr_rng_below(&rng, 4) + 1; k > 0; k--)
            data[hr_rng_below(&rng, (uint32_t)n)] = (uint8_t)hr_rng_u32(&rng);
        add_frame(&bad, data, n - hr_rng_below(&rng, 2) * hr_rng_below(&rng, (uint32_t)n));
        if (load_bytes(&ds, bad.data, bad.len, 0, &err) == HR_OK) {
            assert_in_range(ds.c * ds.h * ds.w, 1, n);
            assert_in_range(ds.labels[0], 0, ds.classes - 1);
            hr_dataset_release(&ds);
        } else {
            assert_true(is_one_line(err.msg));
        }
        hr_buf_release(&bad);
    }
    free(data);
    hr_buf_release(&file);
}

/* ---- data sets -------------------------------------------------------------------------------------------
 */

static void test_saved_data_sets_come_back_with_their_digest(void **state)
{
    (void)state;
    static const int shapes[][4] = {{1, 1, 1, 1}, {7, 3, 5, 4}, {3000, 1, 28, 28}};
    for (size_t i = 0; i < HR_COUNT(shapes); i++) {
        hr_err err = HR_ERR_INIT;
        hr_dataset back, again;
        hr_dataset ds = numbered((uint32_t)shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], 5);
        char *path = in_dir("round.tfrecord");
        assert_ok(hr_dataset_save(&ds, path, &err), err);
        assert_ok(hr_dataset_load(&back, path, 5, &err), err);
        assert_int_equal(back.n, ds.n);
        assert_int_equal(back.c, ds.c);
        assert_int_equal(back.h, ds.h);
        assert_int_equal(back.w, ds.w);
        assert_int_equal(back.classes, 5);
        assert_memory_equal(back.pixels, ds.pixels, ds.n * (size_t)(ds.c * ds.h * ds.w));
        assert_memory_equal(back.labels, ds.labels, ds.n * sizeof *ds.labels);
        assert_memory_equal(back.index, ds.index, ds.n * sizeof *ds.index);
        assert_int_equal(strlen(back.digest), 64);

        /* one label changed: another digest; the number of classes claimed: the same */
        assert_ok(hr_dataset_load(&again, path, 9, &err), err);
        assert_string_equal(again.digest, back.digest);
        hr_dataset_release(&again);
        ds.labels[0] = 4;
        assert_ok(hr_dataset_save(&ds, path, &err), err);
        assert_ok(hr_dataset_load(&again, path, 5, &err), err);
        assert_string_not_equal(again.digest, back.digest);
        hr_dataset_release(&again);
        hr_dataset_release(&back);
        hr_dataset_release(&ds);
        unlink(path);
        free(path);
    }
}

static void test_digest_is_the_documented_one(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds;
    hr_buf file = {0};
    char want[65];
    uint8_t labels[] = {1, 0, 0, 0, 0x2c, 1, 0, 0}; /* 1 and 300, little-endian */
    add_image(&file, "abcdef", 6, 1, 2, 1, NULL);
    add_image(&file, "ghijkl", 6, 1, 2, 300, NULL);
    assert_ok(load_bytes(&ds, file.data, file.len, 0, &err), err);
    hr_sha256 *sha = hr_sha256_new();
    hr_sha256_add(sha, "abcdefghijkl", 12);
    hr_sha256_add(sha, labels, sizeof labels);
    hr_sha256_add(sha, "2 1 2 3\n", 8);
    hr_sha256_end(sha, want);
    assert_string_equal(ds.digest, want);
    hr_dataset_release(&ds);
    hr_buf_release(&file);
}

static void test_shards_are_read_when_the_file_is_missing(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds, part;
    char *whole = in_dir("set.tfrecord"), *paths[3];
    for (int i = 0; i < 3; i++) {
        hr_buf file = {0};
        uint8_t pixel = (uint8_t)i;
        add_image(&file, &pixel, 1, 1, 1, (uint64_t)i, NULL);
        add_image(&file, &pixel, 1, 1, 1, 9, NULL);
        paths[i] = hr_xasprintf("%s/set-%05d-of-00003.tfrecord", dir, i);
        write_file(paths[i], file.data, file.len);
        hr_buf_release(&file);
    }
    assert_ok(hr_dataset_load(&ds, whole, 0, &err), err);
    assert_int_equal(ds.n, 6);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(ds.pixels[i], i / 2);
        assert_int_equal(ds.index[i], i);
    }
    assert_ok(hr_dataset_load(&part, paths[1], 0, &err), err); /* one shard on its own */
    assert_int_equal(part.n, 2);
    hr_dataset_release(&part);

    unlink(paths[1]);
    assert_int_equal(hr_dataset_load(&part, whole, 0, &err), HR_EIO);
    assert_non_null(strstr(err.msg, "set-00001-of-00003.tfrecord: No such file"));
    char *other = in_dir("set-00000-of-00002.tfrecord");
    write_file(other, "", 0);
    assert_int_equal(hr_dataset_load(&part, whole, 0, &err), HR_EFORMAT);
    assert_non_null(strstr(err.msg, "shards"));
    unlink(other);

    assert_ok(hr_dataset_save(&ds, whole, &err), err); /* the file itself comes first */
    assert_ok(hr_dataset_load(&part, whole, 0, &err), err);
    assert_string_equal(part.digest, ds.digest);
    hr_dataset_release(&part);
    hr_dataset_release(&ds);
    for (int i = 0; i < 3; i++) {
        unlink(paths[i]);
        free(paths[i]);
    }
    unlink(whole);
    free(whole);
    free(other);
}

static void test_subset_without_strata_is_the_first_images(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds = numbered(20, 1, 2, 2, 3);
    assert_ok(hr_dataset_subset(&ds, 0, false, 1, &err), err);
    assert_ok(hr_dataset_subset(&ds, 20, true, 1, &err), err);
    assert_ok(hr_dataset_subset(&ds, 99, true, 1, &err), err);
    assert_int_equal(ds.n, 20);
    assert_ok(hr_dataset_subset(&ds, 7, false, 1, &err), err);
    assert_int_equal(ds.n, 7);
    assert_int_equal(ds.classes, 3);
    for (uint32_t i = 0; i < 7; i++) {
        assert_int_equal(ds.index[i], i);
        assert_int_equal(ds.pixels[4 * i], (uint8_t)(31 * i));
    }
    assert_int_equal(strlen(ds.digest), 64);
    hr_dataset_release(&ds);
}

static void test_stratified_subset_is_even_ordered_and_seeded(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    uint32_t first[2][103];
    for (int seed = 0; seed < 2; seed++) {
        int count[10] = {0};
        hr_dataset ds = numbered(1000, 1, 2, 2, 10);
        assert_ok(hr_dataset_subset(&ds, 103, true, (uint32_t)seed, &err), err);
        assert_int_equal(ds.n, 103);
        for (uint32_t i = 0; i < ds.n; i++) {
            assert_true(i == 0 || ds.index[i] > ds.index[i - 1]);
            assert_int_equal(ds.labels[i], ds.index[i] % 10);
            assert_int_equal(ds.pixels[4 * i], (uint8_t)(31 * ds.index[i]));
            count[ds.labels[i]]++;
            first[seed][i] = ds.index[i];
        }
        for (int k = 0; k < 10; k++)
            assert_int_equal(count[k], k < 3 ? 11 : 10);
        hr_dataset_release(&ds);
    }
    assert_memory_not_equal(first[0], first[1], sizeof first[0]);
}

static void test_stratified_subset_takes_all_of_a_small_class(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds = numbered(100, 1, 1, 1, 4); /* 25 of each; then class 0: 3, 1: 47, 2: none, 3: 50 */
    int count[4] = {0};
    for (uint32_t i = 0; i < 100; i++)
        ds.labels[i] = i < 3 ? 0 : i < 50 ? 1 : 3;
    assert_int_equal(hr_dataset_subset(&ds, 2, true, 1, &err), HR_EINVAL);
    assert_int_equal(ds.n, 100);
    assert_ok(hr_dataset_subset(&ds, 24, true, 1, &err), err);
    for (uint32_t i = 0; i < ds.n; i++)
        count[ds.labels[i]]++;
    assert_int_equal(count[0], 3);
    assert_int_equal(count[1], 11);
    assert_int_equal(count[2], 0);
    assert_int_equal(count[3], 10);
    hr_dataset_release(&ds);
}

static void test_split_is_a_stratified_shuffled_partition(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset train = numbered(73, 1, 2, 2, 4), hold, rest, again, other, unused;
    /* int(73 * 0.3 / 4) = 5 of each class; classes hold 19, 18, 18, 18 */
    assert_ok(hr_dataset_split(&train, 0.3, 0, 9, &hold, &rest, &err), err);
    assert_int_equal(hold.n, 20);
    assert_int_equal(rest.n, 53);
    int seen[73] = {0}, count[4] = {0}, descents[2] = {0};
    const hr_dataset *parts[] = {&hold, &rest};
    for (int p = 0; p < 2; p++)
        for (uint32_t i = 0; i < parts[p]->n; i++) {
            uint32_t from = parts[p]->index[i];
            assert_true(from < 73);
            seen[from]++;
            assert_int_equal(parts[p]->labels[i], train.labels[from]);
            assert_memory_equal(parts[p]->pixels + 4 * i, train.pixels + 4 * (size_t)from, 4);
            count[parts[p]->labels[i]] += p == 0;
            descents[p] += i > 0 && from < parts[p]->index[i - 1];
        }
    for (int i = 0; i < 73; i++)
        assert_int_equal(seen[i], 1);
    for (int k = 0; k < 4; k++)
        assert_int_equal(count[k], 5);
    /* file order has no descents, order by class at most 3 */
    assert_true(descents[0] > 3 && descents[1] > 3);

    assert_ok(hr_dataset_split(&train, 0.3, 0, 9, &again, &unused, &err), err);
    assert_string_equal(again.digest, hold.digest);
    hr_dataset_release(&unused);
    assert_ok(hr_dataset_split(&train, 0.3, 0, 10, &other, &unused, &err), err);
    assert_string_not_equal(other.digest, hold.digest);
    hr_dataset_release(&unused);
    hr_dataset_release(&again);
    hr_dataset_release(&other);
    hr_dataset_release(&hold);
    hr_dataset_release(&rest);
    hr_dataset_release(&train);
}

static void test_split_counts_are_those_of_the_published_sets(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, holdout;
    } cases[] = {{50000, 5000}, {73257, 7320}, {60000, 6000}};
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        hr_err err = HR_ERR_INIT;
        hr_dataset train = numbered(cases[i].n, 1, 1, 1, 10), hold, rest;
        assert_ok(hr_dataset_split(&train, 0.1, 0, 1234, &hold, &rest, &err), err);
        assert_int_equal(hold.n, cases[i].holdout);
        assert_int_equal(rest.n, cases[i].n - cases[i].holdout);
        hr_dataset_release(&hold);
        hr_dataset_release(&rest);
        hr_dataset_release(&train);
    }
}

static void test_impossible_splits_are_refused(void **state)
{
    (void)state;
    static const double fractions[] = {0.0, 1.0, -0.5, 2.0, NAN, 0.01, 0.99};
    hr_err err = HR_ERR_INIT;
    hr_dataset train = numbered(30, 1, 1, 1, 3), hold, rest;
    train.labels[0] = 1; /* 9, 11 and 10: no 9.9 of each */
    for (size_t i = 0; i < HR_COUNT(fractions); i++) {
        /* 0.99 would take int(9.9) = 9, which class 0 just has */
        bool possible = fractions[i] == 0.99;
        assert_int_equal(hr_dataset_split(&train, fractions[i], 0, 1, &hold, &rest, &err),
                         possible ? HR_OK : HR_EINVAL);
        assert_int_equal(hold.n, possible ? 27 : 0);
        hr_dataset_release(&hold);
        hr_dataset_release(&rest);
    }
    train.labels[3] = 1;
    assert_int_equal(hr_dataset_split(&train, 0.99, 0, 1, &hold, &rest, &err), HR_EINVAL);
    assert_string_equal(err.msg, "a holdout needs 9 images of each class, class 0 has 8");
    hr_dataset_release(&train);
}

static void test_fits_names_both_sides(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds = numbered(2, 1, 28, 28, 10);
    assert_ok(hr_dataset_fits(&ds, "d", 1, 28, 28, 10, "m", &err), err);
    assert_int_equal(hr_dataset_fits(&ds, "test.tfrecord", 3, 32, 32, 10, "a.nn", &err), HR_ESHAPE);
    assert_string_equal(err.msg, "test.tfrecord: images are 1x28x28, the network a.nn takes 3x32x32");
    assert_int_equal(hr_dataset_fits(&ds, "test.tfrecord", 1, 28, 28, 9, "a.nn", &err), HR_ESHAPE);
    hr_dataset_release(&ds);
}

/* ---- manifest --------------------------------------------------------------------------------------------
 */

static void test_manifest_is_found_beside_the_tfrecord(void **state)
{
    (void)state;
    static const char good[] = "{\"version\": 1, \"name\": \"Tiny\", \"classes\": 12, "
                               "\"shape\": {\"channels\": 3, \"height\": 4, \"width\": 5}, \"more\": []}";
    hr_err err = HR_ERR_INIT;
    hr_manifest m;
    char *path = in_dir("manifest.json"), *record = in_dir("train.tfrecord");
    assert_ok(hr_manifest_beside(&m, record, &err), err);
    assert_int_equal(m.classes, 0);
    write_file(path, good, strlen(good));
    assert_ok(hr_manifest_beside(&m, record, &err), err);
    assert_string_equal(m.name, "Tiny");
    assert_int_equal(m.classes, 12);
    assert_int_equal(m.c * 100 + m.h * 10 + m.w, 345);

    static const char *const bad[] = {"",
                                      "[]",
                                      "{\"version\": 1}",
                                      "{\"version\": 2, \"name\": \"T\", \"classes\": 2, \"shape\": "
                                      "{\"channels\": 1, \"height\": 4, \"width\": 5}}",
                                      "{\"version\": 1, \"name\": \"T\", \"classes\": 0, \"shape\": "
                                      "{\"channels\": 1, \"height\": 4, \"width\": 5}}",
                                      "{\"version\": 1, \"name\": \"T\", \"classes\": 2, \"shape\": "
                                      "{\"channels\": 1, \"height\": -4, \"width\": 5}}"};
    for (size_t i = 0; i < HR_COUNT(bad); i++) {
        write_file(path, bad[i], strlen(bad[i]));
        assert_int_equal(hr_manifest_beside(&m, record, &err), HR_EFORMAT);
        assert_int_equal(m.classes, 0);
        assert_int_equal(strncmp(err.msg, path, strlen(path)), 0);
    }
    unlink(path);
    free(path);
    free(record);
}

static int make_dir(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return rmdir(dir); /* fails when a test left something behind */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_framing_writes_the_bytes_of_the_essay),
        cmocka_unit_test(test_reader_returns_records_of_any_length_in_order),
        cmocka_unit_test(test_every_cut_inside_a_record_is_refused),
        cmocka_unit_test(test_every_flipped_bit_is_refused),
        cmocka_unit_test(test_a_lying_length_takes_no_memory),
        cmocka_unit_test(test_other_files_are_not_tfrecords),
        cmocka_unit_test(test_foreign_records_are_read_whatever_their_key_order),
        cmocka_unit_test(test_unpacked_integers_and_repeated_keys_are_read),
        cmocka_unit_test(test_wrong_records_are_refused_by_number_and_reason),
        cmocka_unit_test(test_records_that_are_no_examples_are_refused),
        cmocka_unit_test(test_damaged_examples_behind_good_check_sums_do_no_harm),
        cmocka_unit_test(test_saved_data_sets_come_back_with_their_digest),
        cmocka_unit_test(test_digest_is_the_documented_one),
        cmocka_unit_test(test_shards_are_read_when_the_file_is_missing),
        cmocka_unit_test(test_subset_without_strata_is_the_first_images),
        cmocka_unit_test(test_stratified_subset_is_even_ordered_and_seeded),
        cmocka_unit_test(test_stratified_subset_takes_all_of_a_small_class),
        cmocka_unit_test(test_split_is_a_stratified_shuffled_partition),
        cmocka_unit_test(test_split_counts_are_those_of_the_published_sets),
        cmocka_unit_test(test_impossible_splits_are_refused),
        cmocka_unit_test(test_fits_names_both_sides),
        cmocka_unit_test(test_manifest_is_found_beside_the_tfrecord),
    };
    return cmocka_run_group_tests_name("data", tests, make_dir, remove_dir);
}
