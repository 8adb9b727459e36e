/* lib/compute/cuda/noise.h -- what kernels draw.
 *
 * Philox4x32-10 (Salmon et al. 2011), written out here, keyed as in base.h: words, and so uniform noise, have
 * the CPU's bits, whatever the grid. Normal noise goes through log, sqrt, cos and sin in double and is
 * rounded to float: equal to the CPU's but where the two libraries' last bits in double fall on both sides of
 * a boundary between floats. */
#ifndef HR_CUDA_NOISE_H
#define HR_CUDA_NOISE_H

#include "device.h"

static __device__ inline void philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2,
                                     uint32_t c3, uint32_t out[4])
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The four words of values 4q to 4q+3 of image i. */
static __device__ inline void draw(const hr_cuda_noise &k, uint32_t c1, size_t i, size_t q, uint32_t w[4])
{
    philox(k.seed, k.stream, k.c0, c1, k.index[i], (uint32_t)q, w);
}

/* Two normals from two words (Box & Muller 1958). */
static __device__ inline void box_muller(uint32_t a, uint32_t b, double z[2])
{
    double r = sqrt(-2.0 * log(((double)a + 0.5) * 0x1p-32));
    double phi = 2.0 * 3.14159265358979323846 * ((double)b + 0.5) * 0x1p-32;
    z[0] = r * cos(phi);
    z[1] = r * sin(phi);
}

static __device__ inline void four_normals(const uint32_t w[4], double z[4])
{
    box_muller(w[0], w[1], z);
    box_muller(w[2], w[3], z + 2);
}

/* A word as a number between 0 and 1, both left out. */
static __device__ inline float unit(uint32_t word)
{
    return ((float)(word >> 8) + 0.5f) * 0x1p-24f;
}

static __device__ inline float clip(float v, float lo, float hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

#endif
