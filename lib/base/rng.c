/* lib/base/rng.c -- counter-based random numbers (Philox4x32-10, by Random123). */
#include "base/base.h"

#include <Random123/philox.h>
#include <math.h>

void hr_philox(uint32_t seed, uint32_t stream, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
               uint32_t out[4])
{
    philox4x32_ctr_t ctr = {{c0, c1, c2, c3}};
    philox4x32_key_t key = {{seed, stream}};
    philox4x32_ctr_t r = philox4x32(ctr, key);
    for (int i = 0; i < 4; i++)
        out[i] = r.v[i];
}

void hr_fill_uniform(float *dst, size_t n, float lo, float hi, uint32_t seed, uint32_t stream, uint32_t c0,
                     uint32_t c1, uint32_t c2)
{
    uint32_t w[4];
    for (size_t i = 0; i < n; i++) {
        if (i % 4 == 0)
            hr_philox(seed, stream, c0, c1, c2, (uint32_t)(i / 4), w);
        float u = ((float)(w[i % 4] >> 8) + 0.5f) * 0x1p-24f;
        dst[i] = lo + (hi - lo) * u;
    }
}

/* Box & Muller 1958: two uniforms in (0,1) make two independent normals. */
static void box_muller(uint32_t a, uint32_t b, double z[2])
{
    double r = sqrt(-2.0 * log(((double)a + 0.5) * 0x1p-32));
    double phi = 2.0 * M_PI * ((double)b + 0.5) * 0x1p-32;
    z[0] = r * cos(phi);
    z[1] = r * sin(phi);
}

void hr_fill_normal(float *dst, size_t n, float mean, float std, uint32_t seed, uint32_t stream, uint32_t c0,
                    uint32_t c1, uint32_t c2)
{
    uint32_t w[4];
    double z[4] = {0};
    for (size_t i = 0; i < n; i++) {
        if (i % 4 == 0) {
            hr_philox(seed, stream, c0, c1, c2, (uint32_t)(i / 4), w);
            box_muller(w[0], w[1], z);
            box_muller(w[2], w[3], z + 2);
        }
        dst[i] = (float)(mean + std * z[i % 4]);
    }
}

uint32_t hr_rng_u32(hr_rng *r)
{
    uint32_t w[4];
    uint64_t block = r->next / 4;
    hr_philox(r->seed, r->stream, (uint32_t)(block >> 32), 0, 0, (uint32_t)block, w);
    return w[r->next++ % 4];
}

double hr_rng_double(hr_rng *r)
{
    uint64_t hi = hr_rng_u32(r), lo = hr_rng_u32(r);
    return (double)((hi << 21) ^ (lo >> 11)) * 0x1p-53;
}

double hr_rng_normal(hr_rng *r)
{
    double z[2];
    uint32_t a = hr_rng_u32(r), b = hr_rng_u32(r);
    box_muller(a, b, z);
    return z[0];
}

uint32_t hr_rng_below(hr_rng *r, uint32_t n)
{
    /* Lemire 2019: multiply, and redraw in the few cases that would make some results more likely. */
    uint32_t reject = -n % n;
    for (;;) {
        uint64_t m = (uint64_t)hr_rng_u32(r) * n;
        if ((uint32_t)m >= reject)
            return (uint32_t)(m >> 32);
    }
}

void hr_permutation(uint32_t *idx, size_t n, uint32_t seed, uint32_t stream, uint32_t c0)
{
    uint32_t w[4], draws = 0;
    for (size_t i = 0; i < n; i++)
        idx[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        if (draws % 4 == 0)
            hr_philox(seed, stream, c0, 0, 0, draws / 4, w);
        /* 32 bits against at most a few million images: the bias is below 1e-3 of one draw's share */
        size_t j = (size_t)(((uint64_t)w[draws++ % 4] * i) >> 32);
        uint32_t t = idx[i - 1];
        idx[i - 1] = idx[j];
        idx[j] = t;
    }
}
