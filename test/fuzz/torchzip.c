/* test/fuzz/torchzip.c -- zip checkpoints. Records are changed one by one and packed again, so that directory
 * and heads stay sound; one time in four the file is changed as plain bytes. */
#include "fuzz.h"

#include "model/torch.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

bool fuzz_one(const uint8_t *data, size_t n)
{
    return fuzz_checkpoint(data, n);
}

/* ---- records ------------------------------------------------------------------------------------------- */

enum { MOST = 64, LARGEST = 1 << 16 };
struct record {
    char *name;
    uint8_t *data; /* room for LARGEST */
    size_t n;
};

static size_t unpack(const uint8_t *data, size_t size, struct record *r)
{
    struct archive *a = archive_read_new();
    struct archive_entry *e;
    size_t n = 0;
    archive_read_support_format_zip_seekable(a);
    archive_read_set_format_option(a, "zip", "ignorecrc32", "1");
    if (archive_read_open_memory(a, data, size) == ARCHIVE_OK)
        while (n < MOST && archive_read_next_header(a, &e) == ARCHIVE_OK) {
            const char *name = archive_entry_pathname(e);
            uint8_t *p = hr_xmalloc(LARGEST);
            la_ssize_t got = name ? archive_read_data(a, p, LARGEST) : -1;
            if (got >= 0)
                r[n++] = (struct record){hr_xstrdup(name), p, (size_t)got};
            else
                free(p);
        }
    archive_read_free(a);
    return n;
}

/* Returns the length, 0 when it does not fit. */
static size_t pack(const struct record *r, size_t n, uint8_t *data, size_t max)
{
    struct archive *a = archive_write_new();
    size_t used = 0;
    archive_write_set_format_zip(a);
    archive_write_zip_set_compression_store(a);
    archive_write_set_bytes_in_last_block(a, 1);
    bool fits = archive_write_open_memory(a, data, max, &used) == ARCHIVE_OK;
    for (size_t i = 0; fits && i < n; i++) {
        struct archive_entry *e = archive_entry_new();
        archive_entry_set_pathname(e, r[i].name);
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_size(e, (la_int64_t)r[i].n);
        fits = archive_write_header(a, e) == ARCHIVE_OK &&
               archive_write_data(a, r[i].data, r[i].n) == (la_ssize_t)r[i].n;
        archive_entry_free(e);
    }
    fits = archive_write_close(a) == ARCHIVE_OK && fits;
    archive_write_free(a);
    return fits ? used : 0;
}

static bool is_json(const struct record *r)
{
    size_t n = strlen(r->name);
    return n >= 5 && strcmp(r->name + n - 5, ".json") == 0;
}

/* The pickle most of the time: it is what is worth changing. */
static size_t choose(const struct record *r, size_t n, hr_rng *rng)
{
    for (size_t i = 0; hr_rng_below(rng, 2) && i < n; i++)
        if (strstr(r[i].name, "data.pkl"))
            return i;
    return hr_rng_below(rng, (uint32_t)n);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct record r[MOST + 1];
    hr_rng rng = {.seed = seed, .stream = HR_STREAM_TEST};
    size_t n = hr_rng_below(&rng, 4) ? unpack(data, size, r) : 0, packed = 0;
    if (n > 0) {
        struct record *x = &r[choose(r, n, &rng)];
        uint32_t what = hr_rng_below(&rng, 16);
        struct record gone = {0};
        if (what == 0) { /* leave it out */
            gone = *x;
            *x = r[--n];
        } else if (what == 1) { /* exchange the contents of two */
            struct record *y = &r[hr_rng_below(&rng, (uint32_t)n)], was = *x;
            x->data = y->data;
            x->n = y->n;
            y->data = was.data;
            y->n = was.n;
        } else if (what == 2 && *x->name) { /* another name */
            x->name[hr_rng_below(&rng, (uint32_t)strlen(x->name))] = (char)('0' + hr_rng_below(&rng, 70));
        } else {
            size_t room = x->n + 64 < LARGEST ? x->n + 64 : LARGEST;
            x->n = is_json(x) ? fuzz_mutate_json(x->data, x->n, LARGEST, seed, -1)
                              : LLVMFuzzerMutate(x->data, x->n, room);
        }
        packed = pack(r, n, data, max);
        free(gone.name);
        free(gone.data);
    }
    for (size_t i = 0; i < n; i++) {
        free(r[i].name);
        free(r[i].data);
    }
    return packed ? packed : LLVMFuzzerMutate(data, size, max);
}

/* ---- seeds --------------------------------------------------------------------------------------------- */

void fuzz_seeds(void)
{
    hr_err err = HR_ERR_INIT;
    for (int i = 0; hr_torch_layouts[i]; i++) {
        hr_out *out;
        hr_model *m = fuzz_net(1);
        char *path = hr_xasprintf("%s/seed.pth", fuzz_dir());
        if (hr_out_open(&out, path, 0, &err) ||
            hr_torch_write(m, (enum hr_torch_layout)i, false, NULL, out, &err) || hr_out_commit(out, &err))
            hr_die("%s", err.msg);
        fuzz_seed_file(hr_torch_layouts[i], path);
        free(path);
        hr_model_free(m);
    }
    static uint8_t file[1 << 14];
    static const uint8_t floats[16] = {0, 0, 0, 0x3f, 0, 0, 0x80, 0x3e, 0, 0, 0, 0x3f, 0, 0, 0x80, 0x3f};
    hr_buf state = fuzz_state_pickle();
    char names[3][16] = {"a/data.pkl", "a/data/0", "a/version"};
    const struct record r[] = {{names[0], (uint8_t *)state.data, state.len},
                               {names[1], (uint8_t *)floats, sizeof floats},
                               {names[2], (uint8_t *)names[2], 1}};
    fuzz_seed("state", file, pack(r, HR_COUNT(r), file, sizeof file));
    hr_buf_release(&state);
}
