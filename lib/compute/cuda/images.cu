/* lib/compute/cuda/images.cu -- bytes to pixels: crops, resized crops and flips of training's images.
 *
 * Which window an image is cut to is drawn by a thread of its own, from the words that lib/data's functions
 * draw on the CPU (batch.c, crop.c); then a thread per pixel cuts it. */
#include "device.h"
#include "noise.h"

enum { TRIES = 10 }; /* of a resized crop; the flip's word lies behind them */

/* 0..n-1. */
static __device__ int below(uint32_t word, int n)
{
    return (int)(((uint64_t)word * (uint64_t)n) >> 32);
}

/* Between 0 and 1. */
static __device__ double fine_unit(uint32_t word)
{
    return ((double)word + 0.5) / 4294967296.0;
}

/* The largest in the middle whose ratio is allowed: where no try fits. */
static __device__ hr_cuda_window middle(int h, int w)
{
    double ratio = (double)w / h;
    int ch = ratio < 0.75 ? (int)nearbyint(w / 0.75) : h;
    int cw = ratio > 4.0 / 3.0 ? (int)nearbyint(h * 4.0 / 3.0) : w;
    return {(h - ch) / 2, (w - cw) / 2, ch, cw, 0};
}

static __device__ hr_cuda_window resized(const hr_cuda_augment &o, int h, int w, uint32_t index)
{
    for (uint32_t t = 0; t < TRIES; t++) {
        uint32_t word[4];
        philox(o.seed, o.stream, o.epoch, 0, index, t, word);
        double area = (0.08 + 0.92 * fine_unit(word[0])) * h * w;
        double ratio = 0.75 * pow(16.0 / 9.0, fine_unit(word[1]));
        int cw = (int)nearbyint(sqrt(area * ratio)), ch = (int)nearbyint(sqrt(area / ratio));
        if (cw > 0 && cw <= w && ch > 0 && ch <= h)
            return {below(word[2], h - ch + 1), below(word[3], w - cw + 1), ch, cw, 0};
    }
    return middle(h, w);
}

/* A thread per image. Traffic: 24 bytes; bound: latency (one to eleven calls of Philox, pow and sqrt in
 * double). */
static __global__ void windows_kernel(hr_cuda_augment o, size_t n, int h, int w, const uint32_t *index,
                                      hr_cuda_window *windows)
{
    EACH(i, n)
    {
        uint32_t word[4], own = index[i] & 0x7FFFFFFFu;
        philox(o.seed, o.stream, o.epoch, 0, own, o.resized ? TRIES : 0, word);
        hr_cuda_window v = {below(word[0], 2 * o.pad + 1) - o.pad, below(word[1], 2 * o.pad + 1) - o.pad, h,
                            w, 0};
        if (o.resized)
            v = resized(o, h, w, own);
        v.flip = o.flip && (word[o.resized ? 0 : 2] >> 31);
        windows[i] = v;
    }
}

static void windows(hr_cuda *d, const hr_cuda_augment *o, int n, int h, int w, const uint32_t *index,
                    hr_cuda_window *out)
{
    launch_each(d, "windows", (size_t)n, windows_kernel, *o, (size_t)n, h, w, index, out);
}

/* Where output i of n reads among `from` pixels: between a and b = a + 1 or a, the part t of b. As
 * lib/data/crop.c has it; where n is `from`, a is i and t is 0. */
struct place {
    int a, b;
    float t;
};

static __device__ place between(int i, int n, int from)
{
    double at = ((double)i + 0.5) * (double)from / (double)n - 0.5;
    at = at < 0 ? 0 : at;
    int a = (int)at;
    return {a, a + 1 < from ? a + 1 : a, (float)(at - (double)a)};
}

struct picture {
    const uint8_t *pixels;
    int h, w, c;
};

static __device__ float at(const picture &p, int y, int x, int k)
{
    if (y < 0 || y >= p.h || x < 0 || x >= p.w)
        return 0.0f;
    return (float)p.pixels[((size_t)y * (size_t)p.w + (size_t)x) * (size_t)p.c + (size_t)k] / 255.0f;
}

/* A thread per pixel. Traffic: 4 bytes written per value, 1 read (its neighbours come from the cache); bound:
 * memory. */
static __global__ void cut_kernel(size_t n, int h, int w, int c, const uint8_t *pixels,
                                  const hr_cuda_window *windows, float *out)
{
    EACH(i, n)
    {
        int x = (int)(i % (size_t)w), y = (int)(i / (size_t)w % (size_t)h);
        size_t image = i / (size_t)w / (size_t)h;
        hr_cuda_window v = windows[image];
        picture p = {pixels + image * (size_t)h * (size_t)w * (size_t)c, h, w, c};
        place rows = between(y, h, v.h), cols = between(v.flip ? w - 1 - x : x, w, v.w);
        for (int k = 0; k < c; k++) {
            float a = at(p, v.y + rows.a, v.x + cols.a, k), b = at(p, v.y + rows.a, v.x + cols.b, k);
            float e = at(p, v.y + rows.b, v.x + cols.a, k), f = at(p, v.y + rows.b, v.x + cols.b, k);
            float upper = a + cols.t * (b - a), lower = e + cols.t * (f - e);
            out[i * (size_t)c + (size_t)k] = upper + rows.t * (lower - upper);
        }
    }
}

static void cut(hr_cuda *d, int n, int h, int w, int c, const uint8_t *pixels, const hr_cuda_window *windows,
                float *x)
{
    size_t count = (size_t)n * (size_t)h * (size_t)w;
    launch_each(d, "cut", count, cut_kernel, count, h, w, c, pixels, windows, x);
}

void hr_cuda_fill_images(hr_cuda_plugin_table *t)
{
    t->windows = windows;
    t->cut = cut;
}
