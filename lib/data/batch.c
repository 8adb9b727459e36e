/* lib/data/batch.c -- batches of float images, and the augmentation that training uses.
 *
 * Augmentation is RandomCrop(pad) then RandomHorizontalFlip(1/2), as all published training runs use it: the
 * image is framed with pad rows and columns of zeros, a window of its own size is cut out at an offset drawn
 * uniformly from 0..2*pad in each direction, and half of the windows are mirrored. The three draws are words
 * 0, 1, 2 of one Philox block at (epoch, 0, image's index). */
#include "data/internal.h"

#include <stdlib.h>
#include <string.h>

void hr_batch_fill(const hr_dataset *ds, const uint32_t *rows, int n, float *x, int32_t *y)
{
    size_t bytes = hr_dataset_image_bytes(ds);
    for (int i = 0; i < n; i++) {
        if (rows[i] >= ds->n)
            BUG("row %u of a data set of %u", rows[i], ds->n);
        const uint8_t *src = ds->pixels + rows[i] * bytes;
        float *dst = x + (size_t)i * bytes;
        /* a division: multiplying by 1/255 rounds differently from what PyTorch's ToTensor does */
        for (size_t k = 0; k < bytes; k++)
            dst[k] = (float)src[k] / 255.0f;
        y[i] = ds->labels[rows[i]];
    }
}

/* Uniform in 0..n-1 from 32 random bits; for the n <= 100 of a crop the bias is below 3e-8. */
static int below(uint32_t word, int n)
{
    return (int)(((uint64_t)word * (uint64_t)n) >> 32);
}

/* dst[y][x] = src[y + dy][x + dx], zero outside; then mirrored when flip. dst, src (h, w, c). */
static void shift(float *dst, const float *src, int h, int w, int c, int dy, int dx, bool flip)
{
    size_t pixel = (size_t)c * sizeof *dst;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int sy = y + dy, sx = (flip ? w - 1 - x : x) + dx;
            float *to = dst + ((size_t)y * (size_t)w + (size_t)x) * (size_t)c;
            if (sy < 0 || sy >= h || sx < 0 || sx >= w)
                memset(to, 0, pixel);
            else
                memcpy(to, src + ((size_t)sy * (size_t)w + (size_t)sx) * (size_t)c, pixel);
        }
}

/* The window of a random crop. */
static hr_window window_of(const hr_dataset *ds, uint32_t row, int pad, bool flip, uint32_t seed,
                           uint32_t epoch)
{
    uint32_t word[4];
    hr_philox(seed, HR_STREAM_AUGMENT, epoch, 0, ds->index[row], 0, word);
    return (hr_window){.y = below(word[0], 2 * pad + 1) - pad,
                       .x = below(word[1], 2 * pad + 1) - pad,
                       .h = ds->h,
                       .w = ds->w,
                       .flip = flip && (word[2] >> 31)};
}

void hr_batch_windows(const hr_dataset *ds, const uint32_t *rows, int n, bool resized, int pad, bool flip,
                      uint32_t seed, uint32_t epoch, hr_window *windows)
{
    for (int i = 0; i < n; i++)
        windows[i] = resized ? hr_resized_window(ds->h, ds->w, flip, seed, epoch, ds->index[rows[i]])
                             : window_of(ds, rows[i], pad, flip, seed, epoch);
}

void hr_batch_augment(const hr_dataset *ds, const uint32_t *rows, int n, float *x, int pad, bool flip,
                      uint32_t seed, uint32_t epoch)
{
    size_t values = hr_dataset_image_bytes(ds);
    float *copy = hr_xmalloc(values * sizeof *copy);
    for (int i = 0; i < n; i++) {
        hr_window v = window_of(ds, rows[i], pad, flip, seed, epoch);
        if (v.y == 0 && v.x == 0 && !v.flip)
            continue;
        float *image = x + (size_t)i * values;
        memcpy(copy, image, values * sizeof *copy);
        shift(image, copy, ds->h, ds->w, ds->c, v.y, v.x, v.flip);
    }
    free(copy);
}
