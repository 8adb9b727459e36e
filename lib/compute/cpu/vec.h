/* lib/compute/cpu/vec.h -- vectors as wide as the instruction set that a file is compiled for.
 *
 * For the files that are compiled once per set (kernels.c, tiles.c) and for no others: GCC's vector
 * extensions, the sizes of the register tiles, and loads and stores at any address. */
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

/* max(v, 0) that lets NaN through, so that a diverged network is noticed in its loss. */
INLINE vec positive(vec v)
{
    return (vec)((ivec)v & ~(ivec)(v < (vec){0}));
}

#endif
