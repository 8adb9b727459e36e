/* lib/compute/cpu/vec.h -- vectors as wide as the instruction set that a file is compiled for.
 *
 * For the files that are compiled once per set (kernels.c, tiles.c) and for no others: GCC's and
 * clang's vector extensions, the sizes of the register tiles, and loads and stores at any address. */
#ifndef HR_COMPUTE_CPU_VEC_H
#define HR_COMPUTE_CPU_VEC_H

#include "compute/cpu/kernels.h"

#if defined(__SSE__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { VW = 16, MR = 12, MO = 8 };
#elif defined(__AVX2__)
enum { VW = 8, MR = 6, MO = 4 };
#else
enum { VW = 4, MR = 4, MO = 4 };
#endif

typedef float vec __attribute__((vector_size(VW * 4)));
typedef int ivec __attribute__((vector_size(VW * 4)));
typedef float loose __attribute__((vector_size(VW * 4), aligned(4), may_alias)); /* in memory: any address */

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p)
{
    return *(const loose *)p;
}

INLINE void store(float *p, vec v)
{
    *(loose *)p = v;
}

/* To an address that is a multiple of the vector's size, past the caches: for what nobody reads soon. */
INLINE void stream(float *p, vec v)
{
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE__)
    _mm_stream_ps(p, (__m128)v);
#else
    store(p, v);
#endif
}

INLINE vec splat(float x)
{
    return x - (vec){0};
}

/* The first halves of a and b, value by value in turns; and the second halves. */
#if defined(__AVX512F__)
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#endif

/* Transpose the VW x VW matrix whose rows are v: a perfect shuffle of its VW*VW values, log2(VW) times. */
INLINE void turn_vectors(vec *v)
{
#pragma GCC unroll 4
    for (int round = 1; round < VW; round *= 2) {
        vec w[VW];
#pragma GCC unroll 8
        for (int i = 0; i < VW / 2; i++) {
            w[2 * i] = __builtin_shufflevector(v[i], v[i + VW / 2], ZIP_LOW);
            w[2 * i + 1] = __builtin_shufflevector(v[i], v[i + VW / 2], ZIP_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VW; i++)
            v[i] = w[i];
    }
}

/* max(v, 0) that lets NaN through, so that a diverged network is noticed in its loss. */
INLINE vec positive(vec v)
{
    return (vec)((ivec)v & ~(ivec)(v < (vec){0}));
}

/* ---- one bit per value: value i is bit i%8 of byte i/8; i is a multiple of VW ---------------------------
 */

/* Which values are positive, as bits from the lowest on. */
INLINE unsigned bits_of(vec v)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
#elif defined(__AVX2__)
    return (unsigned)_mm256_movemask_ps((__m256)(v > (vec){0}));
#elif defined(__SSE__)
    return (unsigned)_mm_movemask_ps((__m128)(v > (vec){0}));
#else
    unsigned bits = 0;
    for (int i = 0; i < VW; i++)
        bits |= (unsigned)(v[i] > 0) << i;
    return bits;
#endif
}

INLINE void put_bits(uint8_t *to, size_t i, unsigned bits)
{
    to += i / 8;
    if (VW == 16)
        to[1] = (uint8_t)(bits >> 8);
    to[0] = (uint8_t)(VW == 4 && i % 8 ? to[0] | bits << 4 : bits);
}

/* v where its bit is set, else 0. */
INLINE vec where_bits(vec v, const uint8_t *from, size_t i)
{
    unsigned bits = from[i / 8];
    if (VW == 16)
        bits |= (unsigned)from[i / 8 + 1] << 8;
    if (VW == 4)
        bits >>= i % 8;
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_mov_ps((__mmask16)bits, (__m512)v);
#else
    ivec place, all = (int)bits - (ivec){0};
    for (int l = 0; l < VW; l++)
        place[l] = 1 << l;
    return (vec)((ivec)v & (ivec)((all & place) != 0));
#endif
}

#endif
