/* lib/data/crop.c -- random resized crops, the augmentation of ImageNet's training runs (Szegedy et al. 2015,
 * arXiv:1409.4842, section 6; torchvision's RandomResizedCrop with its defaults, then a flip).
 *
 * Up to ten times a rectangle is drawn: its area uniform in [0.08, 1] of the image's, its ratio of width to
 * height log-uniform in [3/4, 4/3], both sides rounded to whole pixels, its place uniform among those where
 * it fits. When none fits, it is the largest in the middle whose ratio is allowed. The rectangle is brought
 * to the image's size by bilinear interpolation: never smaller, so that no filter is needed.
 *
 * The draws of try t are words 0..3 of the Philox block at (epoch, 0, image's index, t); the flip's is word 0
 * of block TRIES. */
#include "data/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 10 };

static double unit(uint32_t word)
{
    return (word + 0.5) / 4294967296.0;
}

static int below(uint32_t word, int n)
{
    return (int)(((uint64_t)word * (uint64_t)n) >> 32);
}

static hr_window middle(int h, int w)
{
    double ratio = (double)w / h;
    int ch = ratio < 0.75 ? (int)nearbyint(w / 0.75) : h;
    int cw = ratio > 4.0 / 3.0 ? (int)nearbyint(h * 4.0 / 3.0) : w;
    return (hr_window){(h - ch) / 2, (w - cw) / 2, ch, cw, 0};
}

static hr_window draw(int h, int w, uint32_t seed, uint32_t epoch, uint32_t index)
{
    for (uint32_t t = 0; t < TRIES; t++) {
        uint32_t word[4];
        hr_philox(seed, HR_STREAM_AUGMENT, epoch, 0, index, t, word);
        double area = (0.08 + 0.92 * unit(word[0])) * h * w;
        double ratio = 0.75 * pow(16.0 / 9.0, unit(word[1])); /* to 4/3 */
        int cw = (int)nearbyint(sqrt(area * ratio)), ch = (int)nearbyint(sqrt(area / ratio));
        if (cw > 0 && cw <= w && ch > 0 && ch <= h)
            return (hr_window){below(word[2], h - ch + 1), below(word[3], w - cw + 1), ch, cw, 0};
    }
    return middle(h, w);
}

/* Where output i of n reads among `from` pixels: between a and b = a + 1 or a, the part `t` of b. */
static void between(int i, int n, int from, int *a, int *b, float *t)
{
    double at = (i + 0.5) * from / n - 0.5;
    at = at < 0 ? 0 : at;
    *a = (int)at;
    *b = *a + 1 < from ? *a + 1 : *a;
    *t = (float)(at - *a);
}

static void resize(float *dst, const float *src, int h, int w, int c, hr_window v)
{
    for (int y = 0; y < h; y++) {
        int y0, y1;
        float ty;
        between(y, h, v.h, &y0, &y1, &ty);
        const float *top = src + (size_t)(v.y + y0) * (size_t)w * (size_t)c;
        const float *low = src + (size_t)(v.y + y1) * (size_t)w * (size_t)c;
        for (int x = 0; x < w; x++) {
            int x0, x1;
            float tx;
            between(v.flip ? w - 1 - x : x, w, v.w, &x0, &x1, &tx);
            for (int k = 0; k < c; k++) {
                size_t a = (size_t)(v.x + x0) * (size_t)c + (size_t)k;
                size_t b = (size_t)(v.x + x1) * (size_t)c + (size_t)k;
                float upper = top[a] + tx * (top[b] - top[a]), lower = low[a] + tx * (low[b] - low[a]);
                *dst++ = upper + ty * (lower - upper);
            }
        }
    }
}

hr_window hr_resized_window(int h, int w, bool flip, uint32_t seed, uint32_t epoch, uint32_t index)
{
    uint32_t word[4];
    hr_window v = draw(h, w, seed, epoch, index);
    hr_philox(seed, HR_STREAM_AUGMENT, epoch, 0, index, TRIES, word);
    v.flip = flip && (word[0] >> 31);
    return v;
}

void hr_batch_resized_crop(const hr_dataset *ds, const uint32_t *rows, int n, float *x, bool flip,
                           uint32_t seed, uint32_t epoch)
{
    size_t values = (size_t)ds->h * (size_t)ds->w * (size_t)ds->c;
    float *copy = hr_xmalloc(values * sizeof *copy);
    for (int i = 0; i < n; i++) {
        float *image = x + (size_t)i * values;
        memcpy(copy, image, values * sizeof *copy);
        resize(image, copy, ds->h, ds->w, ds->c,
               hr_resized_window(ds->h, ds->w, flip, seed, epoch, ds->index[rows[i]]));
    }
    free(copy);
}
