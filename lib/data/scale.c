/* lib/data/scale.c -- images to a fixed size H x W, as torchvision's Resize and CenterCrop do it on PIL
 * images.
 *
 * The image is scaled so that the short side has 256/224 of the size, and the middle is cut out. Scaling is
 * PIL's bilinear filter: a triangle as wide as two source pixels per target pixel (so that it averages when
 * an image shrinks), first along rows, then along columns, weights with 22 bits after the point, values
 * rounded to bytes in between. Only what the crop shows is computed.
 *
 * There are three ways to the same bytes. Sums of products of bytes and 22-bit weights are exact in 32 bits,
 * and stay so when a weight is cut into pieces. AVX2 has an instruction that multiplies 16-bit numbers and
 * adds neighbours: the upper 12 and the lower 11 bits fit it, w = 2048 u + v, two taps of eight values at a
 * time. AVX-512 has one that multiplies bytes with signed bytes and adds four neighbours: three digits fit
 * it, w = 65536 a + 256 b + c with b and c from -128 to 127, four taps of sixteen values at a time. Other
 * machines, and HERACLES_ISA=v2, take one tap of four. */
#include "data/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

/* ---- where a crop comes from -------------------------------------------------------------------------- */

enum { BITS = 22, LOW = 11, HALF = 1 << (BITS - 1), SHORT_SIDE = 256, CROP = 224 };

/* Weights along one axis: target i is the sum of taps[i] source values from first[i] on. */
struct axis {
    int n, most;               /* targets; room for the taps of each, a multiple of four */
    int *first, *taps, widest; /* the most that one has */
    int32_t *weight;           /* (n, most); zero behind the last tap */
    uint32_t *split;           /* (n, most / 2, 2): the upper and the lower parts of two weights */
    int8_t *digits;            /* (n, most / 4, 3, 4): four weights' last digits, those before, the first */
};

/* Target i of `to` ones, out of `size` source values, may look at lo..hi-1. */
static void reach(int size, int to, int i, int *lo, int *hi)
{
    double scale = (double)size / to, support = scale < 1 ? 1 : scale, centre = (i + 0.5) * scale;
    *lo = centre - support + 0.5 < 0 ? 0 : (int)(centre - support + 0.5);
    *hi = (int)(centre + support + 0.5);
    *hi = *hi > size ? size : *hi;
}

/* Targets from..from+n of `to` ones. */
static struct axis axis_new(int size, int to, int from, int n)
{
    double scale = (double)size / to, support = scale < 1 ? 1 : scale;
    struct axis a = {.n = n, .most = ((int)ceil(support) * 2 + 4) / 4 * 4};
    a.first = hr_xmalloc((size_t)n * sizeof *a.first);
    a.taps = hr_xmalloc((size_t)n * sizeof *a.taps);
    a.weight = hr_xcalloc((size_t)n * (size_t)a.most, sizeof *a.weight);
    a.split = hr_xmalloc((size_t)n * (size_t)a.most * sizeof *a.split);
    a.digits = hr_xcalloc((size_t)n * (size_t)a.most, 3);
    double *w = hr_xmalloc((size_t)a.most * sizeof *w);
    for (int i = 0; i < n; i++) {
        double centre = (from + i + 0.5) * scale, sum = 0;
        int lo, hi;
        int32_t *weight = a.weight + (size_t)i * (size_t)a.most;
        reach(size, to, from + i, &lo, &hi);
        for (int k = 0; k < hi - lo; k++) {
            double at = fabs((k + lo - centre + 0.5) / support);
            w[k] = at < 1 ? 1 - at : 0;
            sum += w[k];
        }
        a.first[i] = lo;
        a.taps[i] = hi - lo;
        for (int k = 0; k < hi - lo; k++)
            weight[k] = (int32_t)(0.5 + w[k] * (1 / sum) * (1 << BITS));
        while (a.taps[i] > 1 && weight[a.taps[i] - 1] == 0)
            a.taps[i]--;
        a.widest = a.taps[i] > a.widest ? a.taps[i] : a.widest;
        uint32_t *split = a.split + (size_t)i * (size_t)a.most;
        for (int k = 0; k < a.most; k += 2, split += 2) {
            uint32_t even = (uint32_t)weight[k], odd = (uint32_t)weight[k + 1], low = (1u << LOW) - 1;
            split[0] = even >> LOW | odd >> LOW << 16;
            split[1] = (even & low) | (odd & low) << 16;
        }
        int8_t *digits = a.digits + (size_t)i * (size_t)(a.most * 3);
        for (int k = 0; k < a.taps[i]; k++) {
            int8_t *digit = digits + k / 4 * 12 + k % 4;
            int32_t rest = weight[k];
            digit[0] = (int8_t)rest;
            rest = (rest - digit[0]) >> 8;
            digit[4] = (int8_t)rest;
            digit[8] = (int8_t)((rest - digit[4]) >> 8);
        }
    }
    free(w);
    return a;
}

static void axis_release(struct axis *a)
{
    free(a->first);
    free(a->taps);
    free(a->weight);
    free(a->split);
    free(a->digits);
}

/* Size of the long side after the short one became `to`, as torchvision computes it. */
static int long_side(int shorter, int longer, int to)
{
    return (int)((int64_t)to * longer / shorter);
}

static int middle(int size, int n) /* torchvision rounds a half to the even number */
{
    int twice = size - n;
    return twice % 2 == 0 ? twice / 2 : (twice + (twice % 4 == 1 ? -1 : 1)) / 2;
}

/* Target sizes of an image of ih x iw whose middle h x w is wanted. */
static void target(int ih, int iw, int h, int w, int *th, int *tw)
{
    int side = h < w ? h : w, shorter = (side * SHORT_SIDE + CROP / 2) / CROP;
    *th = ih <= iw ? shorter : long_side(iw, ih, shorter);
    *tw = ih <= iw ? long_side(ih, iw, shorter) : shorter;
    *th = *th < h ? h : *th; /* of a crop that is not square */
    *tw = *tw < w ? w : *tw;
}

void hr_image_window(int ih, int iw, int h, int w, int *top, int *bottom, int *left, int *right)
{
    int th, tw, none;
    target(ih, iw, h, w, &th, &tw);
    reach(ih, th, middle(th, h), top, &none);
    reach(ih, th, middle(th, h) + h - 1, &none, bottom);
    reach(iw, tw, middle(tw, w), left, &none);
    reach(iw, tw, middle(tw, w) + w - 1, &none, right);
}

/* ---- four values at a time ------------------------------------------------------------------------------
 */

/* Everything below reads and writes whole vectors: up to HR_IMAGE_SPARE bytes behind a row. Values read there
 * have weight 0, and what is written there is written over by the next row, or is spare. */
/* gcc's and clang's vectors; four lanes are what every x86-64 and arm64 has. */
typedef int32_t lanes __attribute__((vector_size(16)));
typedef uint8_t quad __attribute__((vector_size(4)));

#ifdef __SSE4_1__ /* what gcc 12 makes of the portable form is five times slower */
static lanes load(const uint8_t *p)
{
    int word;
    memcpy(&word, p, sizeof word);
    return (lanes)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(word));
}

static quad narrow_lanes(lanes v)
{
    __m128i low = _mm_packus_epi32((__m128i)v, (__m128i)v);
    int word = _mm_cvtsi128_si32(_mm_packus_epi16(low, low));
    quad q;
    memcpy(&q, &word, sizeof q);
    return q;
}
#else
static lanes load(const uint8_t *p)
{
    quad q;
    memcpy(&q, p, sizeof q);
    return __builtin_convertvector(q, lanes);
}

static quad narrow_lanes(lanes v)
{
    return __builtin_convertvector(v, quad);
}
#endif

/* Sums of bytes times weights, to bytes. The weights add up to 2^BITS, but for rounding: one more or less for
 * a tap, far too little to bring 255.5 to 256. */
static quad to_bytes(lanes sum)
{
    return narrow_lanes(sum >> BITS);
}

/* One row, c <= 4 channels. */
static void scale_row(const struct axis *a, int c, const uint8_t *src, uint8_t *dst)
{
    const lanes half = {HALF, HALF, HALF, HALF};
    for (int i = 0; i < a->n; i++, dst += c) {
        const int32_t *w = a->weight + (size_t)i * (size_t)a->most;
        const uint8_t *p = src + a->first[i] * c;
        lanes sum = half;
        for (int k = 0; k < a->taps[i]; k++, p += c)
            sum += load(p) * w[k];
        quad q = to_bytes(sum);
        memcpy(dst, &q, sizeof q);
    }
}

/* Target row i out of rows of `stride` bytes, n of which count. */
static void scale_column(const struct axis *a, int i, const uint8_t *src, size_t stride, size_t n,
                         uint8_t *dst)
{
    const lanes half = {HALF, HALF, HALF, HALF};
    const int32_t *w = a->weight + (size_t)i * (size_t)a->most;
    for (size_t x = 0; x < n; x += 8) {
        const uint8_t *p = src + x;
        lanes sum = half, more = half;
        for (int k = 0; k < a->taps[i]; k++, p += stride) {
            sum += load(p) * w[k];
            more += load(p + 4) * w[k];
        }
        quad q[2] = {to_bytes(sum), to_bytes(more)};
        memcpy(dst + x, q, sizeof q);
    }
}

/* ---- AVX2, AVX-512
 * -----------------------------------------------------------------------------------------------
 */

#ifdef __x86_64__
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i load_two(const uint8_t *low, const uint8_t *high)
{
    __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)low));
    return _mm256_inserti128_si256(v, _mm_loadu_si128((const __m128i *)(const void *)high), 1);
}

static inline void put(uint8_t *dst, int four)
{
    memcpy(dst, &four, sizeof four);
}

/* Sums of the upper and of the lower parts, to values of 32 bits. */
AVX2 static inline __m256i join(__m256i upper, __m256i lower)
{
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(upper, LOW), lower), BITS);
}

/* Two rows of three channels: one load takes four taps of each. */
AVX2 static void scale_rows_avx2(const struct axis *a, const uint8_t *src, const uint8_t *src2, uint8_t *dst,
                                 uint8_t *dst2)
{
    enum { C = 3, Z = -128 };
    const __m256i first = _mm256_setr_epi8(0, Z, 3, Z, 1, Z, 4, Z, 2, Z, 5, Z, Z, Z, Z, Z, /* taps 0 and 1 */
                                           0, Z, 3, Z, 1, Z, 4, Z, 2, Z, 5, Z, Z, Z, Z, Z);
    const __m256i second = _mm256_setr_epi8(6, Z, 9, Z, 7, Z, 10, Z, 8, Z, 11, Z, Z, Z, Z, Z, /* 2 and 3 */
                                            6, Z, 9, Z, 7, Z, 10, Z, 8, Z, 11, Z, Z, Z, Z, Z);
    for (int i = 0; i < a->n; i++, dst += C, dst2 += C) {
        const uint32_t *w = a->split + (size_t)i * (size_t)a->most;
        __m256i upper = _mm256_setzero_si256(), lower = _mm256_set1_epi32(HALF);
        size_t at = (size_t)a->first[i] * C;
        for (int k = 0; k < a->taps[i]; k += 4, at += 4 * C, w += 4) {
            __m256i bytes = load_two(src + at, src2 + at);
            __m256i x = _mm256_shuffle_epi8(bytes, first), y = _mm256_shuffle_epi8(bytes, second);
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(x, _mm256_set1_epi32((int)w[0])));
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(x, _mm256_set1_epi32((int)w[1])));
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(y, _mm256_set1_epi32((int)w[2])));
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(y, _mm256_set1_epi32((int)w[3])));
        }
        __m256i v = join(upper, lower);
        v = _mm256_packus_epi32(v, v);
        v = _mm256_packus_epi16(v, v);
        put(dst, _mm256_extract_epi32(v, 0));
        put(dst2, _mm256_extract_epi32(v, 4));
    }
}

/* scale_column; where the number of taps is odd, the row behind them is read, too. */
AVX2 static void scale_column_avx2(const struct axis *a, int i, const uint8_t *src, size_t stride, size_t n,
                                   uint8_t *dst)
{
    for (size_t x = 0; x < n; x += 16) {
        const uint32_t *w = a->split + (size_t)i * (size_t)a->most;
        const uint8_t *p = src + x;
        __m256i upper = _mm256_setzero_si256(), upper2 = upper, lower = _mm256_set1_epi32(HALF),
                lower2 = lower;
        for (int k = 0; k < a->taps[i]; k += 2, p += 2 * stride, w += 2) {
            __m256i u = _mm256_set1_epi32((int)w[0]), v = _mm256_set1_epi32((int)w[1]);
            __m256i even = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
            __m256i odd = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(p + stride)));
            __m256i x0 = _mm256_unpacklo_epi16(even, odd), x1 = _mm256_unpackhi_epi16(even, odd);
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(x0, u));
            upper2 = _mm256_add_epi32(upper2, _mm256_madd_epi16(x1, u));
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(x0, v));
            lower2 = _mm256_add_epi32(lower2, _mm256_madd_epi16(x1, v));
        }
        __m256i words = _mm256_packus_epi32(join(upper, lower), join(upper2, lower2));
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
        _mm_storeu_si128((__m128i *)(void *)(dst + x), _mm256_castsi256_si128(bytes));
    }
}

#define VNNI __attribute__((target("avx512bw,avx512vnni")))

/* Digits of sums to values of 32 bits. */
VNNI static inline __m512i join_digits(const __m512i d[3])
{
    __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(d[1], 8), _mm512_slli_epi32(d[2], 16));
    return _mm512_srai_epi32(_mm512_add_epi32(sum, d[0]), BITS);
}

VNNI static inline void start_digits(__m512i d[3])
{
    d[0] = _mm512_set1_epi32(HALF);
    d[1] = d[2] = _mm512_setzero_si512();
}

/* Add products of four neighbours in bytes with the digits of their weights at w. */
VNNI static inline void add_digits(__m512i d[3], __m512i bytes, const int8_t *w)
{
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++) {
        int four;
        memcpy(&four, w + 4 * k, sizeof four);
        d[k] = _mm512_dpbusd_epi32(d[k], bytes, _mm512_set1_epi32(four));
    }
}

/* One target of four rows of three channels, from the taps at p: the channels and one value that means
 * nothing, for each row. */
VNNI static inline __m512i sum_four(const uint8_t *p, size_t from, const int8_t *w, int taps)
{
    enum { C = 3, Z = -128 };
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, Z, Z, Z, Z));
    __m512i d[3];
    start_digits(d);
    for (int k = 0; k < taps; k += 4, p += 4 * C, w += 12) {
        __m512i bytes = _mm512_inserti64x4(_mm512_castsi256_si512(load_two(p, p + from)),
                                           load_two(p + 2 * from, p + 3 * from), 1);
        add_digits(d, _mm512_shuffle_epi8(bytes, order), w);
    }
    return join_digits(d);
}

/* Four rows. Making bytes of the sums and storing them takes longer than the sums, so that is done for four
 * targets at once; behind the last of them up to 13 bytes are written, too. Up to four taps, images that
 * shrink to no less than half, need no loop. */
VNNI static void scale_rows_vnni(const struct axis *a, const uint8_t *src, size_t from, uint8_t *dst,
                                 size_t stride)
{
    enum { C = 3, Z = -128 };
    const __m512i gather =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, Z, Z, Z, Z));
    const int *first = a->first, n = a->n, widest = a->widest;
    const int8_t *digits = a->digits;
    size_t most = (size_t)a->most * 3;
    for (int i = 0; i < n; i += 4, dst += 4 * C) {
        __m512i v[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            int at = i + k < n ? i + k : i;
            const uint8_t *p = src + first[at] * C;
            const int8_t *w = digits + (size_t)at * most;
            v[k] = widest <= 4 ? sum_four(p, from, w, 4) : sum_four(p, from, w, a->taps[at]);
        }
        __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(v[0], v[1]), _mm512_packus_epi32(v[2], v[3]));
        bytes = _mm512_shuffle_epi8(bytes, gather);
        _mm_storeu_si128((__m128i *)(void *)dst, _mm512_castsi512_si128(bytes));
        _mm_storeu_si128((__m128i *)(void *)(dst + stride), _mm512_extracti32x4_epi32(bytes, 1));
        _mm_storeu_si128((__m128i *)(void *)(dst + 2 * stride), _mm512_extracti32x4_epi32(bytes, 2));
        _mm_storeu_si128((__m128i *)(void *)(dst + 3 * stride), _mm512_extracti32x4_epi32(bytes, 3));
    }
}

/* scale_column; rows behind the last tap up to a multiple of four are read, too. */
VNNI static void scale_column_vnni(const struct axis *a, int i, const uint8_t *src, size_t stride, size_t n,
                                   uint8_t *dst)
{
    for (size_t x = 0; x < n; x += 64) {
        __mmask64 in = n - x < 64 ? ((__mmask64)1 << (n - x)) - 1 : ~(__mmask64)0;
        const int8_t *w = a->digits + (size_t)i * (size_t)a->most * 3;
        const uint8_t *p = src + x;
        __m512i d[4][3];
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            start_digits(d[k]);
        for (int k = 0; k < a->taps[i]; k += 4, p += 4 * stride, w += 12) {
            __m512i r0 = _mm512_maskz_loadu_epi8(in, p), r1 = _mm512_maskz_loadu_epi8(in, p + stride),
                    r2 = _mm512_maskz_loadu_epi8(in, p + 2 * stride),
                    r3 = _mm512_maskz_loadu_epi8(in, p + 3 * stride);
            __m512i low = _mm512_unpacklo_epi8(r0, r1), low2 = _mm512_unpacklo_epi8(r2, r3),
                    high = _mm512_unpackhi_epi8(r0, r1), high2 = _mm512_unpackhi_epi8(r2, r3);
            add_digits(d[0], _mm512_unpacklo_epi16(low, low2), w);
            add_digits(d[1], _mm512_unpackhi_epi16(low, low2), w);
            add_digits(d[2], _mm512_unpacklo_epi16(high, high2), w);
            add_digits(d[3], _mm512_unpackhi_epi16(high, high2), w);
        }
        __m512i words = _mm512_packus_epi32(join_digits(d[0]), join_digits(d[1])),
                words2 = _mm512_packus_epi32(join_digits(d[2]), join_digits(d[3]));
        _mm512_mask_storeu_epi8(dst + x, in, _mm512_packus_epi16(words, words2));
    }
}

/* 2, 3 or 4: which of the ways above this machine has, and HERACLES_ISA allows. */
static int level(void)
{
    const char *want = getenv("HERACLES_ISA");
    int most = want && strcmp(want, "v2") == 0 ? 2 : want && strcmp(want, "v3") == 0 ? 3 : 4;
    bool vnni = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
    int have = vnni ? 4 : __builtin_cpu_supports("avx2") ? 3 : 2;
    return have < most ? have : most;
}
#else
static int level(void)
{
    return 2;
}
#define scale_rows_avx2(...) BUG("no %s on this machine", "AVX2")
#define scale_rows_vnni(...) BUG("no %s on this machine", "AVX-512")
#define scale_column_avx2 scale_column
#define scale_column_vnni scale_column
#endif

/* ---- both axes ------------------------------------------------------------------------------------------
 */

void hr_image_fit(const hr_image *im, int h, int w, hr_image *out)
{
    struct axis rows, cols;
    int top, bottom, th, tw, isa = level();
    target(im->full_h, im->full_w, h, w, &th, &tw);
    rows = axis_new(im->full_h, th, middle(th, h), h);
    cols = axis_new(im->full_w, tw, middle(tw, w), w);
    for (int i = 0; i < h; i++)
        rows.first[i] -= im->top;
    for (int i = 0; i < w; i++)
        cols.first[i] -= im->left;
    top = rows.first[0];
    bottom = top;
    for (int i = 0; i < h; i++)
        bottom = rows.first[i] + rows.taps[i] > bottom ? rows.first[i] + rows.taps[i] : bottom;
    size_t from = (size_t)im->w * (size_t)im->c, n = (size_t)w * (size_t)im->c;
    /* narrow rows do not touch, as several are written at a time; three more of them have weight 0 */
    enum { MORE = 3 };
    size_t stride = n + HR_IMAGE_SPARE, count = (size_t)(bottom - top);
    uint8_t *narrow = hr_xmalloc((count + MORE) * stride);
    for (size_t y = 0; y < count; y++)
        memset(narrow + y * stride + n, 0, HR_IMAGE_SPARE);
    memset(narrow + count * stride, 0, MORE * stride);
    for (size_t y = 0, step; y < count; y += step) {
        const uint8_t *src = im->pixels + ((size_t)top + y) * from;
        uint8_t *dst = narrow + y * stride;
        step = im->c != 3 ? 1 : isa >= 4 && y + 4 <= count ? 4 : isa >= 3 && y + 2 <= count ? 2 : 1;
        if (step == 4)
            scale_rows_vnni(&cols, src, from, dst, stride);
        else if (step == 2)
            scale_rows_avx2(&cols, src, src + from, dst, dst + stride);
        else
            scale_row(&cols, im->c, src, dst);
    }
    hr_image_reserve(out, im->c, h, w);
    for (int i = 0; i < h; i++) {
        const uint8_t *src = narrow + (size_t)(rows.first[i] - top) * stride;
        uint8_t *dst = out->pixels + (size_t)i * n;
        (isa >= 4   ? scale_column_vnni
         : isa >= 3 ? scale_column_avx2
                    : scale_column)(&rows, i, src, stride, n, dst);
    }
    free(narrow);
    axis_release(&rows);
    axis_release(&cols);
}
