/* test/fuzz/fuzz.c -- main's part of every fuzz target: seeds, files in memory, mutators. */
#include "fuzz.h"

#include "model/torch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the target's frame ------------------------------------------------------------------------------ */

static const char *seed_dir;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)fuzz_one(data, size);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    if (*argc != 3 || strcmp((*argv)[1], "--seeds") != 0)
        return 0;
    hr_err err = HR_ERR_INIT;
    seed_dir = (*argv)[2];
    if (hr_mkdirs(seed_dir, &err))
        hr_die("%s", err.msg);
    fuzz_seeds();
    exit(0);
}

void fuzz_seed(const char *name, const void *data, size_t n)
{
    if (!fuzz_one(data, n))
        hr_die("seed '%s' of %zu bytes is refused", name, n);
    char *path = hr_xasprintf("%s/%s", seed_dir, name);
    FILE *fp = fopen(path, "wb");
    if (!fp || fwrite(data, 1, n, fp) != n || fclose(fp))
        hr_die("%s: %s", path, strerror(errno));
    free(path);
}

void fuzz_seed_file(const char *name, const char *path)
{
    hr_err err = HR_ERR_INIT;
    hr_in in;
    hr_buf b = {0};
    if (hr_in_open(&in, path, &err) || hr_in_slurp(&in, &b, 1 << 20, &err))
        hr_die("%s", err.msg);
    hr_in_close(&in);
    unlink(path);
    fuzz_seed(name, b.data, b.len);
    hr_buf_release(&b);
}

/* ---- inputs as files --------------------------------------------------------------------------------- */

const char *fuzz_file(int slot, const void *data, size_t n)
{
    static int fd[FUZZ_SLOTS];
    static char path[FUZZ_SLOTS][32];
    if (!fd[slot]) {
        fd[slot] = memfd_create("input", MFD_CLOEXEC);
        snprintf(path[slot], sizeof path[slot], "/proc/self/fd/%d", fd[slot]);
    }
    if (fd[slot] < 0 || ftruncate(fd[slot], 0) || pwrite(fd[slot], data, n, 0) != (ssize_t)n)
        hr_die("a file in memory: %s", strerror(errno));
    return path[slot];
}

static char own_dir[64];

static void remove_dir(void)
{
    rmdir(own_dir);
}

const char *fuzz_dir(void)
{
    /* In memory where that can be: a disk that is busy syncing must not make an input look slow. */
    static const char *const places[] = {"/dev/shm", "/tmp"};
    for (size_t i = 0; i < HR_COUNT(places) && !*own_dir; i++) {
        snprintf(own_dir, sizeof own_dir, "%s/heracles-fuzz-XXXXXX", places[i]);
        if (mkdtemp(own_dir))
            atexit(remove_dir);
        else if (i + 1 < HR_COUNT(places))
            *own_dir = '\0';
        else
            hr_die("%s: %s", own_dir, strerror(errno));
    }
    return own_dir;
}

const char *fuzz_pipe(const void *data, size_t n, int *fd)
{
    static char path[32];
    int end[2];
    if (pipe2(end, O_CLOEXEC | O_NONBLOCK) || write(end[1], data, n) != (ssize_t)n)
        hr_die("a pipe of %zu bytes: %s", n, strerror(errno));
    close(end[1]);
    *fd = end[0];
    snprintf(path, sizeof path, "/proc/self/fd/%d", end[0]);
    return path;
}

FILE *fuzz_sink(void)
{
    static FILE *sink;
    if (!sink && !(sink = fopen("/dev/null", "w")))
        hr_die("/dev/null: %s", strerror(errno));
    return sink;
}

/* ---- a network --------------------------------------------------------------------------------------- */

hr_model *fuzz_net(uint32_t seed)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = hr_model_new("net", 2, 6, 6, 3);
    int norm = hr_model_add_node(m, "norm", HR_OP_NORMALIZE, 0, -1);
    for (int c = 0; c < 2; c++) {
        m->nodes[norm].mean[c] = 0.5;
        m->nodes[norm].std[c] = 0.25;
    }
    int stem = hr_model_add_conv(m, "stem", norm, 2, 3, 3, 1, 1, false);
    int relu = hr_model_add_node(m, "relu", HR_OP_RELU, hr_model_add_batchnorm(m, "bn", stem, 3), -1);
    int shortcut = hr_model_add_conv(m, "block.shortcut", relu, 3, 4, 1, 2, 0, false);
    m->nodes[shortcut].tie = hr_xstrdup("block.conv1");
    int conv1 = hr_model_add_conv(m, "block.conv1", relu, 3, 4, 3, 2, 1, true);
    int conv2 = hr_model_add_conv(m, "block.conv2", conv1, 4, 4, 3, 1, 1, false);
    int add = hr_model_add_node(m, "add", HR_OP_ADD, conv2, shortcut);
    int max = hr_model_add_pool(m, "max", HR_OP_MAXPOOL, add, 2, 1, 1);
    int avg = hr_model_add_pool(m, "avg", HR_OP_AVGPOOL, max, 2, 1, 0);
    int even = hr_model_add_pool(m, "even", HR_OP_ADAPTIVE_AVGPOOL, avg, 1, 1, 0);
    int flat = hr_model_add_node(m, "flat", HR_OP_FLATTEN, even, -1);
    int fc = hr_model_add_linear(m, "fc1", flat, 4, 5, true);
    hr_model_add_linear(m, "fc2", fc, 5, 3, true);
    if (hr_model_check(m, "the fuzz network", &err))
        hr_die("%s", err.msg);
    hr_zoo_init(m, seed);
    return m;
}

/* ---- checkpoints of other programs --------------------------------------------------------------------- */

static void write_and_read(const hr_model *m, const char *digest, int layout)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    hr_model *again;
    char second[65], *path = hr_xasprintf("%s/saved.pth", fuzz_dir());
    if (hr_out_open(&out, path, 0, &err) ||
        (hr_torch_layouts[layout] ? hr_torch_write(m, (enum hr_torch_layout)layout, false, NULL, out, &err)
                                  : hr_safetensors_write(m, false, NULL, out, &err)) ||
        hr_out_commit(out, &err) || hr_torch_load(path, NULL, &again, NULL, &err))
        BUG("cannot be written as %d and read again: %s", layout, err.msg);
    if (hr_nn_save(again, "/dev/null", second, &err))
        BUG("%s", err.msg);
    must(strcmp(digest, second) == 0);
    hr_model_free(again);
    unlink(path);
    free(path);
}

bool fuzz_checkpoint(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = NULL, *piped = NULL;
    char digest[65];
    int rc = hr_torch_load(fuzz_file(0, data, n), NULL, &m, NULL, &err);
    if (n % 32 == 0) {
        int fd;
        must(hr_torch_load(fuzz_pipe(data, n, &fd), NULL, &piped, NULL, &err) == rc);
        close(fd);
        hr_model_free(piped);
    }
    if (rc)
        return false;
    if (hr_nn_save(m, "/dev/null", digest, &err))
        BUG("%s", err.msg);
    if (n % 16 == 0)
        write_and_read(m, digest, (int)(n / 16 % 4));
    hr_model_free(m);
    return true;
}

static void add_text(hr_buf *b, const char *s)
{
    uint32_t n = (uint32_t)strlen(s); /* little-endian, as this machine */
    hr_buf_printf(b, "X");
    hr_buf_add(b, &n, sizeof n);
    hr_buf_add(b, s, n);
}

hr_buf fuzz_state_pickle(void)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    hr_buf b = {0};
    if (hr_zoo_build("vgg2", NULL, &m, &err))
        hr_die("%s", err.msg);
    hr_buf_printf(&b, "\x80\x02}(");
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *t = &m->tensors[i];
        add_text(&b, t->name);
        hr_buf_printf(&b, "ctorch._utils\n_rebuild_tensor_v2\n((");
        add_text(&b, "storage");
        hr_buf_printf(&b, "ctorch\nFloatStorage\n");
        add_text(&b, "0");
        add_text(&b, "cpu");
        hr_buf_printf(&b, "I4\ntQI%d\n(", i % 4);
        for (int d = 0; d < t->ndim; d++)
            hr_buf_printf(&b, "I%d\n", (int)t->shape[d]);
        hr_buf_printf(&b, "t(");
        for (int d = 0; d < t->ndim; d++)
            hr_buf_printf(&b, "I0\n");
        hr_buf_printf(&b, "tI00\n}tR");
    }
    hr_buf_printf(&b, "u.");
    hr_model_free(m);
    return b;
}

/* ---- JSON documents ---------------------------------------------------------------------------------- */

struct place { /* of a value in its document */
    json_t *parent, *value;
    const char *key; /* in an object */
    size_t index;    /* in an array */
};
enum { MAX_PLACES = 4096 };

static void find_places(json_t *parent, struct place *list, size_t *n)
{
    const char *key;
    size_t i;
    json_t *v;
    if (json_is_object(parent)) {
        json_object_foreach (parent, key, v) {
            if (*n < MAX_PLACES)
                list[(*n)++] = (struct place){parent, v, key, 0};
            find_places(v, list, n);
        }
    } else {
        json_array_foreach (parent, i, v) {
            if (*n < MAX_PLACES)
                list[(*n)++] = (struct place){parent, v, NULL, i};
            find_places(v, list, n);
        }
    }
}

/* A value that nobody expects. */
static json_t *odd_value(hr_rng *r)
{
    static const char *const odd[] = {"null",
                                      "true",
                                      "false",
                                      "0",
                                      "-1",
                                      "1",
                                      "2",
                                      "255",
                                      "65536",
                                      "2147483647",
                                      "2147483648",
                                      "4294967296",
                                      "9007199254740993",
                                      "9223372036854775807",
                                      "-9223372036854775808",
                                      "0.0",
                                      "-0.0",
                                      "0.5",
                                      "1.0",
                                      "1e-320",
                                      "1e-9",
                                      "1e308",
                                      "-1e308",
                                      "\"\"",
                                      "\"x\"",
                                      "\"%s%n\"",
                                      "\"\\n\\t\\u0001\"",
                                      "\"\\u00e9\\ud83d\\ude00\"",
                                      "[]",
                                      "{}",
                                      "[[]]",
                                      "[null]",
                                      "{\"\":{}}"};
    uint32_t which = hr_rng_below(r, HR_COUNT(odd) + 1);
    if (which < HR_COUNT(odd))
        return json_loads(odd[which], JSON_DECODE_ANY, NULL);
    char text[6000];
    memset(text, 'a', sizeof text);
    return json_stringn(text, hr_rng_below(r, sizeof text));
}

/* How often n bytes may be added to a document, most times at most: what is copied may hold copies. */
static uint32_t times_at_most(uint32_t most, size_t n)
{
    enum { GROWTH = 1 << 14 };
    size_t fit = GROWTH / (n + 1);
    return fit < 1 ? 1 : fit < most ? (uint32_t)fit : most;
}

/* v deep inside arrays, or inside objects with this key (NULL: arrays). v is stolen. */
static json_t *buried(json_t *v, const char *key, uint32_t depth)
{
    depth = times_at_most(depth, key ? strlen(key) + 5 : 2); /* {"key":...} */
    while (depth-- > 0) {
        json_t *outer = key ? json_object() : json_array();
        if (key)
            json_object_set_new(outer, key, v);
        else
            json_array_append_new(outer, v);
        v = outer;
    }
    return v;
}

/* The value changed a little, or NULL when this kind cannot be. */
static json_t *nearby_value(const json_t *v, hr_rng *r)
{
    if (json_is_integer(v)) {
        uint64_t i = (uint64_t)json_integer_value(v);
        const uint64_t near[] = {i + 1, i - 1, 2 * i, 0 - i, i ^ (1ull << hr_rng_below(r, 64))};
        return json_integer((json_int_t)near[hr_rng_below(r, HR_COUNT(near))]);
    }
    if (json_is_real(v)) {
        const double x = json_real_value(v), near[] = {2 * x, -x, x / 3, x + 1, 1 - x};
        return json_real(near[hr_rng_below(r, HR_COUNT(near))]); /* NULL when it is not finite */
    }
    if (json_is_string(v)) {
        uint8_t text[300];
        size_t n = json_string_length(v) < 200 ? json_string_length(v) : 200;
        memcpy(text, json_string_value(v), n);
        n = LLVMFuzzerMutate(text, n, n + 64);
        return json_stringn((const char *)text, n); /* NULL when it is not UTF-8 */
    }
    return NULL;
}

/* Change one place of the document that is the only element of root. */
static void change_document(json_t *root, hr_rng *r)
{
    static struct place list[MAX_PLACES];
    size_t n = 0;
    find_places(root, list, &n);
    const struct place *p = &list[hr_rng_below(r, (uint32_t)n)], *q = &list[hr_rng_below(r, (uint32_t)n)];
    json_t *v = NULL;
    switch (hr_rng_below(r, 16)) {
    case 0:
        v = buried(json_deep_copy(p->value), q->key, hr_rng_below(r, 200));
        break;
    case 1:
    case 2:
        v = odd_value(r);
        break;
    case 3:
    case 4:
        v = json_deep_copy(q->value);
        break;
    case 5:
    case 6: /* leave it out */
        if (p->key)
            json_object_del(p->parent, p->key);
        else if (p->parent != root)
            json_array_remove(p->parent, p->index);
        return;
    case 7:
    case 8: /* put another in */
        v = json_deep_copy(q->value);
        if (json_is_array(p->value)) { /* once, or far too often */
            uint32_t times = hr_rng_below(r, 2) ? 1 : hr_rng_below(r, 100);
            times = times_at_most(times, json_dumpb(v, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY));
            for (; times > 0; times--) /* each its own: a later change inside must not be made in all */
                json_array_append_new(p->value, json_deep_copy(v));
        } else if (json_is_object(p->value) && q->key) {
            json_object_set(p->value, q->key, v);
        }
        json_decref(v);
        return;
    default:
        v = nearby_value(p->value, r);
        if (!v)
            v = odd_value(r);
    }
    if (p->key)
        json_object_set_new(p->parent, p->key, v);
    else
        json_array_set_new(p->parent, p->index, v);
}

json_t *fuzz_change_json(json_t *doc, hr_rng *r)
{
    json_t *root = json_array();
    json_array_append_new(root, doc);
    for (uint32_t times = 1 + hr_rng_below(r, 3); times > 0; times--)
        change_document(root, r);
    doc = json_incref(json_array_get(root, 0));
    json_decref(root);
    return doc;
}

/* The document at text[0..n), changed, at most max bytes; *used of the n are the document. Caller frees; NULL
 * when there is no document. */
static char *changed_document(const char *text, size_t n, size_t max, hr_rng *r, size_t *used)
{
    json_error_t je;
    json_t *doc = json_loadb(text, n, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &je);
    if (!doc)
        return NULL;
    *used = (size_t)je.position;
    doc = fuzz_change_json(doc, r);
    char *out = json_dumps(doc, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    json_decref(doc);
    if (out && strlen(out) > max) {
        free(out);
        out = NULL;
    }
    return out;
}

size_t fuzz_mutate_json(uint8_t *data, size_t size, size_t max, unsigned seed, int separator)
{
    hr_rng r = {.seed = seed, .stream = HR_STREAM_TEST};
    if (size == 0 || hr_rng_below(&r, 4) == 0)
        return LLVMFuzzerMutate(data, size, max);
    size_t from = 0, to = size, pieces = 1;
    for (size_t i = 0; separator >= 0 && i < size; i++)
        pieces += data[i] == separator;
    for (uint32_t skip = hr_rng_below(&r, (uint32_t)pieces); skip > 0; skip--)
        from = (size_t)((const uint8_t *)memchr(data + from, separator, size - from) - data) + 1;
    const uint8_t *end = separator >= 0 ? memchr(data + from, separator, size - from) : NULL;
    if (end)
        to = (size_t)(end - data);

    size_t used = 0;
    char *text = changed_document((const char *)data + from, to - from, max - size + (to - from), &r, &used);
    if (!text)
        return LLVMFuzzerMutate(data, size, max);
    size_t n = strlen(text), rest = size - from - used;
    if (from + n + rest > max) {
        free(text);
        return LLVMFuzzerMutate(data, size, max);
    }
    memmove(data + from + n, data + from + used, rest);
    memcpy(data + from, text, n);
    free(text);
    return from + n + rest;
}

/* ---- frames ------------------------------------------------------------------------------------------ */

static size_t frame_payload(const struct fuzz_frames *f, const uint8_t *frame)
{
    uint64_t n = 0;
    for (size_t i = 0; i < f->bytes; i++)
        n = n << 8 | frame[f->at + (f->big ? i : f->bytes - 1 - i)];
    return n > SIZE_MAX / 2 ? SIZE_MAX / 2 : (size_t)n;
}

static void set_payload(const struct fuzz_frames *f, uint8_t *frame, uint64_t n)
{
    for (size_t i = 0; i < f->bytes; i++, n >>= 8)
        frame[f->at + (f->big ? f->bytes - 1 - i : i)] = (uint8_t)n;
}

/* Put n bytes in the place of the used ones at `at`; returns the new size, 0 when it would pass max. */
static size_t replace(uint8_t *data, size_t size, size_t max, size_t at, size_t used, const uint8_t *bytes,
                      size_t n)
{
    if (size - used + n > max)
        return 0;
    memmove(data + at + n, data + at + used, size - at - used);
    memcpy(data + at, bytes, n);
    return size - used + n;
}

size_t fuzz_mutate_frames(const struct fuzz_frames *f, uint8_t *data, size_t size, size_t max, unsigned seed)
{
    enum { MAX_FRAMES = 512 };
    size_t start[MAX_FRAMES + 1] = {0}, n = 0;
    hr_rng r = {.seed = seed, .stream = HR_STREAM_TEST};
    for (; n < MAX_FRAMES && size - start[n] >= f->head + f->tail; n++) {
        size_t payload = frame_payload(f, data + start[n]);
        if (payload > size - start[n] - f->head - f->tail)
            break;
        start[n + 1] = start[n] + f->head + payload + f->tail;
    }
    uint32_t how = hr_rng_below(&r, 16);
    if (n == 0 || how < 4)
        return LLVMFuzzerMutate(data, size, max);

    /* The first frame every other time: there stands what the others must agree with. */
    size_t i = hr_rng_below(&r, 2) ? 0 : hr_rng_below(&r, (uint32_t)n), j = hr_rng_below(&r, (uint32_t)n),
           done;
    size_t at = start[i], len = start[i + 1] - at;
    uint8_t *copy = hr_xmalloc(max + 1);
    if (how == 4) { /* leave frame i out */
        done = replace(data, size, max, at, len, copy, 0);
    } else if (how < 7) { /* put frame j before it, or in its place */
        size_t other = start[j + 1] - start[j];
        memcpy(copy, data + start[j], other);
        done = replace(data, size, max, at, how == 5 ? 0 : len, copy, other);
    } else {
        size_t payload = len - f->head - f->tail, room = max - size + payload;
        memcpy(copy, data + at + f->head, payload);
        room = room > 0 ? room : 1;
        size_t fresh = f->payload ? f->payload(copy, payload, room, hr_rng_u32(&r))
                                  : LLVMFuzzerMutate(copy, payload, room);
        done = replace(data, size, max, at + f->head, payload, copy, fresh);
        if (done)
            set_payload(f, data + at, fresh);
    }
    free(copy);
    return done ? done : LLVMFuzzerMutate(data, size, max);
}
