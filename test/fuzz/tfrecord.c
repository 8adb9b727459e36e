/* test/fuzz/tfrecord.c -- tfrecord files of tf.train.Example records, as data sets: from a file and from a
 * pipe the outcome is the same; what was accepted can be cut, split, made into a batch, and saved to an
 * accepted file. */
#include "fuzz.h"

#include "data/data.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void use(hr_dataset *ds)
{
    hr_err err = HR_ERR_INIT;
    hr_dataset holdout, rest;
    size_t image = (size_t)ds->c * (size_t)ds->h * (size_t)ds->w;
    for (uint32_t i = 0; i < ds->n; i++)
        must(ds->labels[i] >= 0 && ds->labels[i] < ds->classes);
    if (hr_dataset_split(ds, 0.5, 0, 1, &holdout, &rest, &err) == HR_OK)
        must(holdout.n + rest.n == ds->n);
    hr_dataset_release(&holdout);
    hr_dataset_release(&rest);

    float *x = hr_xmalloc(image * sizeof *x);
    uint32_t row = ds->n - 1;
    int32_t y;
    hr_batch_fill(ds, &row, 1, x, &y);
    hr_batch_augment(ds, &row, 1, x, 2, true, 1, 1);
    free(x);
    if (hr_dataset_subset(ds, 2, true, 1, &err) == HR_OK)
        must(ds->n > 0);
}

static void save_again(const hr_dataset *ds)
{
    hr_err err = HR_ERR_INIT;
    hr_dataset again;
    char *path = hr_xasprintf("%s/saved.tfrecord", fuzz_dir());
    if (hr_dataset_save(ds, path, &err) || hr_dataset_load(&again, path, ds->classes, &err))
        BUG("cannot be saved and read again: %s", err.msg);
    size_t bytes = ds->n * (size_t)ds->c * (size_t)ds->h * (size_t)ds->w;
    must(again.n == ds->n && memcmp(again.pixels, ds->pixels, bytes) == 0);
    hr_dataset_release(&again);
    unlink(path);
    free(path);
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_dataset ds, piped;
    int classes = n % 2 ? 10 : 0;
    int rc = hr_dataset_load(&ds, fuzz_file(0, data, n), classes, &err);
    if (n % 4 == 0) {
        int fd;
        must(hr_dataset_load(&piped, fuzz_pipe(data, n, &fd), classes, &err) == rc);
        close(fd);
        hr_dataset_release(&piped);
    }
    if (rc)
        return false;
    if (n % 16 == 0) /* files of their own are slow */
        save_again(&ds);
    use(&ds);
    hr_dataset_release(&ds);
    return true;
}

static void seed(const char *name, uint32_t n, int c, int h, int w)
{
    hr_err err = HR_ERR_INIT;
    hr_dataset ds = {.n = n, .c = c, .h = h, .w = w, .classes = 3};
    size_t image = (size_t)c * (size_t)h * (size_t)w;
    ds.pixels = hr_xcalloc(n, image);
    ds.labels = hr_xcalloc(n, sizeof *ds.labels);
    for (uint32_t i = 0; i < n; i++) {
        memset(ds.pixels + i * image, (int)(40 * i), image);
        ds.labels[i] = (int32_t)i % 3;
    }
    char *path = hr_xasprintf("%s/seed.tfrecord", fuzz_dir());
    if (hr_dataset_save(&ds, path, &err))
        hr_die("%s", err.msg);
    fuzz_seed_file(name, path);
    free(path);
    hr_dataset_release(&ds);
}

void fuzz_seeds(void)
{
    seed("grey", 7, 1, 2, 2);
    seed("colour", 3, 3, 4, 5);
    seed("one", 1, 4, 1, 1);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed_)
{
    static const struct fuzz_frames f = {.head = 12, .at = 0, .bytes = 8, .tail = 4};
    return fuzz_mutate_frames(&f, data, size, max, seed_);
}
