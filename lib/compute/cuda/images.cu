/* lib/compute/cuda/images.cu -- bytes to pixels: crops, resized crops and flips of training's images.
 *
 * Which window an image is cut to was drawn on the host, by the functions that the CPU's training draws with
 * (lib/data): five integers per image. Here is what touches every pixel. */
#include "device.h"

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
    t->cut = cut;
}
