/* test/unit/test_nn.c -- .nn files: what goes in comes out, and nothing damaged or hostile comes in. */
#include "unit.h"
#include "model/model.h"

#include <fcntl.h>
#include <math.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/test_nn.XXXXXX";
static char path[64], other[64];

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/a.nn", dir);
    snprintf(other, sizeof other, "%s/b.nn", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    return rmdir(dir);
}

/* A small network with one of everything: normalize, bias, batch norm, tie, add, every pool, extras of
 * several types, prune records of both kinds and states, meta and history. */
static hr_model *small(void)
{
    hr_model *m = hr_model_new("tiny", 2, 6, 5, 3);
    int x = hr_model_add_node(m, "normalize", HR_OP_NORMALIZE, 0, -1);
    m->nodes[x].mean[0] = 0.25;
    m->nodes[x].std[0] = m->nodes[x].std[1] = 0.5;
    int s = hr_model_add_conv(m, "short", x, 2, 3, 1, 1, 0, false);
    m->nodes[s].tie = hr_xstrdup("conv1");
    int a = hr_model_add_conv(m, "conv1", x, 2, 3, 3, 1, 1, true);
    a = hr_model_add_batchnorm(m, "bn1", a, 3);
    a = hr_model_add_node(m, "relu", HR_OP_RELU, a, -1);
    a = hr_model_add_node(m, "add", HR_OP_ADD, a, s);
    a = hr_model_add_pool(m, "maxpool", HR_OP_MAXPOOL, a, 3, 2, 1);
    a = hr_model_add_pool(m, "avgpool", HR_OP_AVGPOOL, a, 2, 1, 0);
    a = hr_model_add_pool(m, "adaptive", HR_OP_ADAPTIVE_AVGPOOL, a, 2, 1, 0);
    a = hr_model_add_node(m, "flatten", HR_OP_FLATTEN, a, -1);
    hr_model_add_linear(m, "fc", a, 12, 3, true);
    hr_zoo_init(m, 7);

    hr_model_add_tensor(m, "bn1.num_batches_tracked", HR_I64, 0, NULL);
    *(int64_t *)m->tensors[m->ntensors - 1].data = -5;
    hr_model_add_tensor(m, "extra", HR_BF16, 2, (int64_t[]){2, 3});
    m->prune[s] = (hr_prune){true, HR_REG_CHANNEL, 0.5, 1, true};
    int t = hr_model_add_tensor(m, "short.mask", HR_U8, 4, (int64_t[]){1, 2, 1, 1});
    ((uint8_t *)m->tensors[t].data)[1] = 1;
    m->prune[s + 1] = (hr_prune){true, HR_REG_WEIGHT, 11.0 / 54.0, 11, false};
    m->meta = json_pack("{s:s, s:f}", "strategy", "uniform:0.1", "x", 0.1);
    m->history = json_pack("{s:s}", "tool", "test");
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_model_check(m, "small", &err), err); /* sets the shapes */
    return m;
}

static void assert_same_model(const hr_model *a, const hr_model *b)
{
    assert_string_equal(a->arch, b->arch);
    assert_int_equal(a->classes, b->classes);
    assert_int_equal(a->nnodes, b->nnodes);
    assert_int_equal(a->ntensors, b->ntensors);
    for (int i = 0; i < a->nnodes; i++) {
        hr_node p = a->nodes[i], q = b->nodes[i];
        assert_string_equal(p.id, q.id);
        assert_int_equal(p.tie != NULL, q.tie != NULL);
        if (p.tie)
            assert_string_equal(p.tie, q.tie);
        p.id = q.id = p.tie = q.tie = NULL;
        assert_memory_equal(&p, &q, sizeof p);
        const hr_prune *r = &a->prune[i], *s = &b->prune[i];
        assert_int_equal(r->set, s->set);
        if (r->set)
            assert_true(r->reg == s->reg && r->rate == s->rate && r->kept == s->kept &&
                        r->active == s->active);
    }
    for (int i = 0; i < a->ntensors; i++) {
        const hr_tensor *s = &a->tensors[i], *t = &b->tensors[i];
        assert_string_equal(s->name, t->name);
        assert_int_equal(s->dtype, t->dtype);
        assert_int_equal(s->ndim, t->ndim);
        assert_memory_equal(s->shape, t->shape, (size_t)s->ndim * sizeof *s->shape);
        assert_memory_equal(s->data, t->data, (size_t)hr_tensor_count(s) * hr_dtype_size(s->dtype));
        assert_int_equal((uintptr_t)t->data % 64, 0);
    }
    assert_true(a->meta == b->meta || json_equal(a->meta, b->meta));
    assert_true(a->history == b->history || json_equal(a->history, b->history));
}

static void test_a_model_comes_back_as_it_was_saved(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small(), *back;
    char saved[65], loaded[65];
    assert_ok(hr_nn_save(m, path, saved, &err), err);
    assert_ok(hr_nn_load(path, &back, loaded, &err), err);
    assert_same_model(m, back);
    assert_string_equal(saved, loaded);
    hr_model_free(back);
    hr_model_free(m);
}

/* ---- files as bytes, files as frames ----------------------------------------------------------------------
 */

static hr_buf slurp(const char *name)
{
    hr_err err = HR_ERR_INIT;
    hr_in in;
    hr_buf b = {0};
    assert_ok(hr_in_open(&in, name, &err), err);
    assert_ok(hr_in_slurp(&in, &b, 1 << 26, &err), err);
    hr_in_close(&in);
    return b;
}

static void spill(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(name, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Loading name fails with this code, one line that begins with the name and holds the words, and no model. */
static void assert_refused(const char *name, int code, const char *words)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = (hr_model *)&err;
    int rc = hr_nn_load(name, &m, NULL, &err);
    if (rc != code || err.code != code || m || strncmp(err.msg, name, strlen(name)) != 0 ||
        !strstr(err.msg, words) || strchr(err.msg, '\n'))
        fail_msg("code %d (%d wanted), '%s' ('%s' wanted)", rc, code, err.msg, words);
}

enum { MOST_FRAMES = 64, HEADER = 0, NOTES = 1, FIRST = 2 };
struct frames {
    hr_buf f[MOST_FRAMES];
    int n;
};

/* The payloads of the small model's file. */
static struct frames frames_of_small(void)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = small();
    assert_ok(hr_nn_save(m, path, NULL, &err), err);
    hr_model_free(m);
    hr_buf b = slurp(path);
    struct frames fs = {.n = 0};
    for (size_t at = 0; at < b.len;) {
        const unsigned char *p = (const unsigned char *)b.data + at;
        size_t n = (size_t)p[2] << 24 | (size_t)p[3] << 16 | (size_t)p[4] << 8 | p[5];
        assert_true(p[0] == 0x92 && p[1] == 0xc6 && p[6 + n] == 0xce && fs.n < MOST_FRAMES);
        hr_buf_add(&fs.f[fs.n++], p + 6, n);
        at += n + 11;
    }
    hr_buf_release(&b);
    return fs;
}

static void add_u32(hr_buf *b, uint32_t v)
{
    for (int i = 24; i >= 0; i -= 8)
        hr_buf_add(b, &(char){(char)(v >> i)}, 1);
}

/* Write the frames with sound checksums, and release them. With resum, the trailer's SHA-256 is made anew
 * too. */
static void write_frames(struct frames *fs, bool resum)
{
    hr_buf out = {0};
    if (resum) {
        char hex[65];
        hr_sha256 *sha = hr_sha256_new();
        hr_sha256_add(sha, fs->f[HEADER].data, fs->f[HEADER].len);
        for (int i = FIRST; i < fs->n - 1; i++)
            hr_sha256_add(sha, fs->f[i].data, fs->f[i].len);
        hr_sha256_end(sha, hex);
        memcpy(fs->f[fs->n - 1].data + fs->f[fs->n - 1].len - 64, hex, 64);
    }
    for (int i = 0; i < fs->n; i++) {
        hr_buf_add(&out, "\x92\xc6", 2);
        add_u32(&out, (uint32_t)fs->f[i].len);
        hr_buf_add(&out, fs->f[i].data, fs->f[i].len);
        hr_buf_add(&out, "\xce", 1);
        add_u32(&out, hr_crc32c(0, fs->f[i].data, fs->f[i].len));
        hr_buf_release(&fs->f[i]);
    }
    spill(path, out.data, out.len);
    hr_buf_release(&out);
}

/* Replace the first occurrence of old by new, which may be longer or shorter. */
static void replace(hr_buf *b, const char *old, size_t nold, const char *new, size_t nnew)
{
    char *at = memmem(b->data, b->len, old, nold);
    if (!at)
        fail_msg("nothing to replace by '%s'", new);
    hr_buf out = {0};
    hr_buf_add(&out, b->data, (size_t)(at - b->data));
    hr_buf_add(&out, new, nnew);
    hr_buf_add(&out, at + nold, b->len - (size_t)(at - b->data) - nold);
    hr_buf_release(b);
    *b = out;
}

/* ---- the same bytes
 * ---------------------------------------------------------------------------------------- */

static void test_saving_what_was_loaded_gives_the_same_bytes(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small(), *back;
    assert_ok(hr_nn_save(m, path, NULL, &err), err);
    assert_ok(hr_nn_load(path, &back, NULL, &err), err);
    assert_ok(hr_nn_save(back, other, NULL, &err), err);
    hr_buf a = slurp(path), b = slurp(other);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    hr_buf_release(&a);
    hr_buf_release(&b);
    hr_model_free(m);
    hr_model_free(back);
}

static void test_every_architecture_survives_a_file(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    static const char *const some[] = {"resS", "vgg2", "vgg4_bn"};
    for (size_t i = 0; i < HR_COUNT(some); i++) {
        hr_model *m, *back;
        assert_ok(hr_zoo_build(some[i], NULL, &m, &err), err);
        hr_zoo_init(m, 1);
        assert_ok(hr_nn_save(m, path, NULL, &err), err);
        assert_ok(hr_nn_load(path, &back, NULL, &err), err);
        assert_same_model(m, back);
        hr_model_free(m);
        hr_model_free(back);
    }
}

static void save_digest(const hr_model *m, char hex[65])
{
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_nn_save(m, other, hex, &err), err);
}

static void test_the_digest_is_of_the_network_not_of_its_notes(void **state)
{
    (void)state;
    char before[65], after[65];
    hr_model *m = small();
    save_digest(m, before);
    json_decref(m->history);
    m->history = NULL;
    json_object_set_new(m->meta, "strategy", json_string("other"));
    save_digest(m, after);
    assert_string_equal(before, after);
    m->prune[3].kept = 12;
    save_digest(m, after);
    assert_string_not_equal(before, after);
    m->prune[3].kept = 11;
    save_digest(m, after);
    assert_string_equal(before, after);
    hr_tensor_f32(&m->tensors[0])[0] += 1;
    save_digest(m, after);
    assert_string_not_equal(before, after);
    hr_model_free(m);
}

/* Load path through a pipe, where no length is known in advance. */
static int load_from_pipe(hr_model **m, char *digest, hr_err *err)
{
    unlink(other);
    assert_int_equal(mkfifo(other, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        execlp("cp", "cp", path, other, (char *)NULL);
        _exit(127);
    }
    assert_true(child > 0);
    int rc = hr_nn_load(other, m, digest, err), status = -1;
    waitpid(child, &status, 0); /* cp may die of the closed pipe when loading stopped early */
    unlink(other);
    return rc;
}

/* A tensor of several chunks, long enough for the hash to run beside the reading; from a file, whose length
 * is known, and from a pipe, where memory grows. */
static void test_chunks_join_from_files_and_pipes(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small(), *back;
    int64_t n = (40 << 20) + 12345;
    int t = hr_model_add_tensor(m, "long", HR_U8, 1, &n);
    for (int64_t i = 0; i < n; i++)
        ((uint8_t *)m->tensors[t].data)[i] = (uint8_t)(i * 2654435761u >> 13);
    hr_model_add_tensor(m, "after", HR_F32, 0, NULL);
    char saved[65], loaded[65];
    assert_ok(hr_nn_save(m, path, saved, &err), err);
    assert_ok(hr_nn_load(path, &back, loaded, &err), err);
    assert_same_model(m, back);
    assert_string_equal(saved, loaded);
    hr_model_free(back);

    assert_ok(load_from_pipe(&back, loaded, &err), err);
    assert_same_model(m, back);
    assert_string_equal(saved, loaded);
    hr_model_free(back);
    hr_model_free(m);
}

/* ---- damage
 * ------------------------------------------------------------------------------------------------ */

static void test_every_cut_is_refused(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small();
    assert_ok(hr_nn_save(m, path, NULL, &err), err);
    hr_model_free(m);
    hr_buf b = slurp(path);
    for (size_t n = b.len; n-- > 0;) {
        assert_int_equal(truncate(path, (off_t)n), 0);
        assert_refused(path, HR_EFORMAT, "cut short");
    }
    hr_buf_release(&b);
}

static void test_every_flipped_byte_is_refused(void **state)
{
    (void)state;
    static const unsigned char flips[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff};
    hr_err err = HR_ERR_INIT;
    hr_model *m = small();
    assert_ok(hr_nn_save(m, path, NULL, &err), err);
    hr_model_free(m);
    hr_buf b = slurp(path);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    for (size_t i = 0; i < b.len; i++) {
        for (size_t f = 0; f < HR_COUNT(flips); f++) {
            unsigned char c = (unsigned char)b.data[i] ^ flips[f];
            assert_int_equal(pwrite(fd, &c, 1, (off_t)i), 1);
            assert_refused(path, HR_EFORMAT, "");
        }
        assert_int_equal(pwrite(fd, &b.data[i], 1, (off_t)i), 1);
    }
    close(fd);
    assert_ok(hr_nn_load(path, &m, NULL, &err), err); /* the file is whole again */
    hr_model_free(m);
    hr_buf_release(&b);
}

static void test_other_kinds_and_versions_are_named(void **state)
{
    (void)state;
    spill(path, "", 0);
    assert_refused(path, HR_EFORMAT, "cut short: the header needs 6 bytes, 0 are left");
    spill(path, "hello, world", 12);
    assert_refused(path, HR_EFORMAT, "is no .nn file: it starts with the bytes 68 65 6c 6c");
    spill(path, "PK\3\4\24\0\10\10\0\0", 10);
    assert_refused(path, HR_EFORMAT, "a PyTorch file? torch2nn reads those");
    assert_refused("/tmp", HR_EIO, "directory");
    assert_refused("/nonexistent/x.nn", HR_EIO, "No such file");

    struct frames fs = frames_of_small();
    replace(&fs.f[HEADER], "heracles.nn", 11, "heracles.xy", 11);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "names another format");
    fs = frames_of_small();
    replace(&fs.f[HEADER], "\xa7version\x01", 9, "\xa7version\x02", 9);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "is of version 2 of heracles.nn, this program reads version 1");
}

static void test_nothing_may_follow_the_trailer(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small();
    assert_ok(hr_nn_save(m, path, NULL, &err), err);
    hr_model_free(m);
    hr_buf b = slurp(path);
    size_t n = b.len;
    hr_buf_add(&b, "\0", 1);
    spill(path, b.data, b.len);
    assert_refused(path, HR_EFORMAT, "bytes follow the trailer");
    b.len = n;
    hr_buf twice = {0};
    hr_buf_add(&twice, b.data, n);
    hr_buf_add(&twice, b.data, n);
    spill(path, twice.data, twice.len);
    assert_refused(path, HR_EFORMAT, "bytes follow the trailer");
    hr_buf_release(&b);
    hr_buf_release(&twice);
}

static void test_the_trailer_catches_what_checksums_cannot(void **state)
{
    (void)state;
    struct frames fs = frames_of_small();
    fs.f[FIRST + 1].data[0] ^= 1; /* a weight, with a sound CRC */
    write_frames(&fs, false);
    assert_refused(path, HR_EFORMAT, "SHA-256");
    fs = frames_of_small();
    replace(&fs.f[HEADER], "tiny", 4, "tidy", 4);
    write_frames(&fs, false);
    assert_refused(path, HR_EFORMAT, "SHA-256");
    fs = frames_of_small();
    hr_buf *trailer = &fs.f[fs.n - 1];
    trailer->data[9]++; /* the count */
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "the trailer counts");
    fs = frames_of_small(); /* a tensor less than announced: its description is looked for in the trailer */
    hr_buf_release(&fs.f[fs.n - 2]);
    hr_buf_release(&fs.f[fs.n - 3]);
    fs.f[fs.n - 3] = fs.f[fs.n - 1];
    fs.n -= 2;
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "unknown key 'tensors'");
}

/* ---- hostile files, sound in every checksum
 * ------------------------------------------------------------------ */

static void refuse_header(const char *old, size_t nold, const char *new, size_t nnew, const char *words)
{
    struct frames fs = frames_of_small();
    replace(&fs.f[HEADER], old, nold, new, nnew);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, words);
}
#define HEADER_WITH(old, new, words) refuse_header(old, sizeof(old) - 1, new, sizeof(new) - 1, words)

static void test_hostile_headers_are_refused(void **state)
{
    (void)state;
    HEADER_WITH("\xa5graph\x9c", "\xa5graph\xdd\xff\xff\xff\xff", "not one sound msgpack map"); /* 4G nodes */
    HEADER_WITH("\xa5graph\x9c", "\xa5graph\xdf\xff\xff\xff\xff", "not one sound msgpack map");
    HEADER_WITH("\xa4tiny", "\xdb\xff\xff\xff\xff", "not one sound msgpack map"); /* a 4 GB name */
    HEADER_WITH("\xa4tiny", "\x91\x91\x91\x91\x91\x91\x91\x91\x91\xc0",
                "not one sound msgpack map");                          /* deep */
    HEADER_WITH("\xa4tiny", "\xc4\x01x", "not one sound msgpack map"); /* bin, ext: not in this format */
    HEADER_WITH("\xa4tiny", "\xd4\x01x", "not one sound msgpack map");
    HEADER_WITH("\xa4tiny", "\xc1", "not one sound msgpack map");
    HEADER_WITH("\xa4tiny", "\x90\x90", "not one sound msgpack map"); /* a value too many */
    HEADER_WITH("\xa4tiny", "\xa4t\0ny", "'arch' is no string");
    HEADER_WITH("\xa4tiny", "\xa4ti\nn", "printable");
    HEADER_WITH("\xa4tiny", "\x07", "'arch' is no string");
    HEADER_WITH("\244arch", "\244Arch", "unknown key 'Arch'");
    HEADER_WITH("\244arch", "\x05", "no string");
    HEADER_WITH("\244arch\xa4tiny", "\xa7version\x01", "the key 'version' is there twice");
    HEADER_WITH("\x87\246format", "\x86\246format", "not one sound msgpack map");
    HEADER_WITH("\247classes\x03", "\247classes\xff", "outside 0..");
    HEADER_WITH("\247classes\x03", "\247classes\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "no whole number");
    HEADER_WITH("\247classes\x03", "\247classes\xcb\x40\x08\0\0\0\0\0\0", "no whole number");
    HEADER_WITH("\xa2op\xa4relu", "\xa2op\xa4RELU", "'op' is 'RELU', none of those that version 1 knows");
    HEADER_WITH("\xa2in\x91\0", "\xa2in\x91\xff", "'in' is -1, outside 0..");
    HEADER_WITH("\xa2in\x91\0", "\xa2in\x91\x05", "come before");
    HEADER_WITH("\xa6kernel\x92\x01\x01", "\xa6kernel\x93\x01\x01\x01", "'kernel' is no array of 2 to 2");
    HEADER_WITH("\xa6stride\x01", "\xa6strode\x01", "unknown key 'strode'");
    HEADER_WITH("\xa6stride\x02", "\xa6stride\0", "stride 0");
    HEADER_WITH("\xa3pad\x01", "\xa3pad\xce\x3f\xff\xff\xff", "pad 1073741823");
    HEADER_WITH("\254conv1.weight", "\254conv2.weight", "the weight of node 'conv1' is not called");
    HEADER_WITH("\xa5layer\xa5short", "\xa5layer\xa5shore", "unknown, or out of the graph's order");
    HEADER_WITH("\xa5state\246active", "\xa5state\246ACTIVE", "'state' is 'ACTIVE'");
    HEADER_WITH("\xa5state\246active", "\xa5state\xa7planned", "without an active prune record");
    HEADER_WITH("\xa4kept\x01", "\xa4kept\0", "outside 1..");
    HEADER_WITH("\xa4mean\x92\xcb\x3f\xd0\0\0\0\0\0\0\xcb\0\0\0\0\0\0\0\0",
                "\xa4mean\x91\xcb\x3f\xd0\0\0\0\0\0\0", "'normalize' has 1 means and 2 deviations");
}

static void test_hostile_tensors_are_refused(void **state)
{
    (void)state;
    /* half a terabyte in a file of 2 kB, and through a pipe that does not tell its length */
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    struct frames fs = frames_of_small();
    replace(&fs.f[FIRST], "\x94\x03\x02\x01\x01", 5, "\x91\xcf\0\0\0\x1f\xff\xff\xff\xff", 10);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "cut short: tensor 'short.weight' needs 549755813884 bytes");
    assert_int_equal(load_from_pipe(&m, NULL, &err), HR_EFORMAT);
    assert_non_null(strstr(err.msg, "a chunk of tensor 'short.weight' has 24 bytes, 16777216 are due"));
    fs = frames_of_small();
    replace(&fs.f[FIRST], "\x94\x03\x02\x01\x01", 5, "\x92\xce\xff\xff\xff\xff\xce\xff\xff\xff\xff", 11);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "'shape' is 4294967295, outside 1..256");
    fs = frames_of_small();
    replace(&fs.f[FIRST], "\x94\x03\x02\x01\x01", 5, "\x94\x03\x02\x01\0", 5);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "'shape' is 0, outside 1..");
    fs = frames_of_small(); /* a sound tensor of another shape */
    replace(&fs.f[FIRST], "\x94\x03\x02\x01\x01", 5, "\x94\x02\x03\x01\x01", 5);
    write_frames(&fs, true);
    assert_refused(path, HR_ESHAPE, "tensor 'short.weight' is 2x3x1x1, the graph needs 2x2x1x1");
    fs = frames_of_small();
    replace(&fs.f[FIRST], "float32", 7, "float31", 7);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "'dtype' is 'float31'");
    fs = frames_of_small();
    replace(&fs.f[FIRST], "short.weight", 12, "short.height", 12);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "the graph needs tensor 'short.weight', it is missing");
    fs = frames_of_small();
    hr_buf_add(&fs.f[FIRST + 1], "\0\0\0\0", 4);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "a chunk of tensor 'short.weight' has 28 bytes, 24 are due");
    fs = frames_of_small(); /* the first weight becomes a NaN */
    memcpy(fs.f[FIRST + 1].data, "\0\0\xc0\x7f", 4);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "tensor 'short.weight' is not finite at element 0");
}

static void test_hostile_notes_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{\"meta\":null}",
                                        "{\"meta\":null,\"history\":1}",
                                        "{\"meta\":[],\"history\":null}",
                                        "{\"meta\":null,\"history\":null,\"x\":1}",
                                        "{\"meta\":null,\"meta\":null,\"history\":null}",
                                        "{\"meta\":null,\"history\":null} x",
                                        "{\"meta\":{\"a\":\"\xff\"},\"history\":null}"};
    for (size_t i = 0; i < HR_COUNT(texts); i++) {
        struct frames fs = frames_of_small();
        hr_buf_release(&fs.f[NOTES]);
        hr_buf_add(&fs.f[NOTES], texts[i], strlen(texts[i]));
        write_frames(&fs, true);
        assert_refused(path, HR_EFORMAT, "notes");
    }
    struct frames fs = frames_of_small(); /* brackets deeper than any parser should follow */
    hr_buf_release(&fs.f[NOTES]);
    for (int i = 0; i < 1 << 20; i++)
        hr_buf_add(&fs.f[NOTES], "[", 1);
    write_frames(&fs, true);
    assert_refused(path, HR_EFORMAT, "notes");
}

/* ---- writing
 * ------------------------------------------------------------------------------------------------ */

static void test_a_failed_save_leaves_nothing_behind(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small();
    int64_t n = 1 << 20; /* more than stdio's buffer */
    hr_model_add_tensor(m, "long", HR_U8, 1, &n);
    assert_int_equal(hr_nn_save(m, "/dev/full", NULL, &err), HR_EIO);
    assert_non_null(strstr(err.msg, "/dev/full: writing: No space left"));
    assert_int_equal(hr_nn_save(m, "/nonexistent/x.nn", NULL, &err), HR_EIO);

    unlink(other);
    char *text = hr_xmalloc((5 << 20) + 1);
    memset(text, 'x', 5 << 20);
    text[5 << 20] = '\0';
    json_object_set_new(m->meta, "essay", json_string(text));
    free(text);
    assert_int_equal(hr_nn_save(m, other, NULL, &err), HR_EINVAL);
    assert_int_equal(access(other, F_OK), -1);
    char partial[80];
    snprintf(partial, sizeof partial, "%s/.b.nn.partial", dir);
    assert_int_equal(access(partial, F_OK), -1);
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_model_comes_back_as_it_was_saved),
        cmocka_unit_test(test_saving_what_was_loaded_gives_the_same_bytes),
        cmocka_unit_test(test_every_architecture_survives_a_file),
        cmocka_unit_test(test_the_digest_is_of_the_network_not_of_its_notes),
        cmocka_unit_test(test_chunks_join_from_files_and_pipes),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_every_flipped_byte_is_refused),
        cmocka_unit_test(test_other_kinds_and_versions_are_named),
        cmocka_unit_test(test_nothing_may_follow_the_trailer),
        cmocka_unit_test(test_the_trailer_catches_what_checksums_cannot),
        cmocka_unit_test(test_hostile_headers_are_refused),
        cmocka_unit_test(test_hostile_tensors_are_refused),
        cmocka_unit_test(test_hostile_notes_are_refused),
        cmocka_unit_test(test_a_failed_save_leaves_nothing_behind),
    };
    return cmocka_run_group_tests_name("nn", tests, setup, teardown);
}
