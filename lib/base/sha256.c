/* lib/base/sha256.c -- SHA-256 (FIPS 180-4) by libcrypto, and of two sequences at once.
 *
 * A round of SHA-256 waits for the one before it. Intel's and AMD's instructions for it (SHA-NI: two rounds
 * in four cycles, but ready for the next pair of rounds after two) are idle half of the time; so two sums,
 * their rounds in turns, take the time of one. libcrypto has no such function. Ours does only whole blocks,
 * on the words that libcrypto keeps, and leaves all ends to it; without the instructions, and with
 * HERACLES_ISA=v2, libcrypto does everything. The registers hold what the instructions expect: the words
 * A, B, E, F in one, C, D, G, H in the other, A and C highest.
 *
 * In the fuzzers' build (test/fuzz/fuzz.h) every sum is a constant, so that changed files get past theirs. */
#define OPENSSL_SUPPRESS_DEPRECATED /* the functions that show their words: EVP hides them */
#include "base/base.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

enum { BLOCK = SHA256_CBLOCK };

struct hr_sha256 {
    SHA256_CTX c;
};

hr_sha256 *hr_sha256_new(void)
{
    hr_sha256 *h = hr_xmalloc(sizeof *h);
    SHA256_Init(&h->c);
    return h;
}

void hr_sha256_add(hr_sha256 *h, const void *data, size_t n)
{
    SHA256_Update(&h->c, data, n);
}

void hr_sha256_end(hr_sha256 *h, char hex[65])
{
    unsigned char md[SHA256_DIGEST_LENGTH];
    SHA256_Final(md, &h->c);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    memset(md, 0, sizeof md);
#endif
    for (size_t i = 0; i < sizeof md; i++)
        snprintf(hex + 2 * i, 3, "%02x", md[i]);
    free(h);
}

int hr_sha256_file(const char *path, char hex[65], hr_err *err)
{
    hr_in in;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    hr_sha256 *h = hr_sha256_new();
    char block[1 << 16];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in.fp)) > 0)
        hr_sha256_add(h, block, n);
    if (ferror(in.fp))
        rc = hr_fail(err, HR_EIO, "%s: read error", path);
    hr_sha256_end(h, hex);
    hr_in_close(&in);
    return rc;
}

/* ---- two at once -------------------------------------------------------------------------------------- */

#ifdef __x86_64__
#define SHA_NI __attribute__((target("sha,ssse3,sse4.1")))

/* The first 32 bits of the fractions of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2). */
static const uint32_t round_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

struct lane {
    __m128i abef, cdgh;
    __m128i w[4]; /* the last sixteen words of the schedule, a ring */
};

SHA_NI static inline struct lane lane_of(const SHA_LONG *h)
{
    __m128i dcba = _mm_loadu_si128((const __m128i *)(const void *)h),
            hgfe = _mm_loadu_si128((const __m128i *)(const void *)(h + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    return (struct lane){.abef = _mm_alignr_epi8(cdab, efgh, 8), .cdgh = _mm_blend_epi16(efgh, cdab, 0xf0)};
}

SHA_NI static inline void lane_end(const struct lane *l, SHA_LONG *h)
{
    __m128i feba = _mm_shuffle_epi32(l->abef, 0x1b), dchg = _mm_shuffle_epi32(l->cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)(void *)h, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* The sixteen big-endian words of a block. */
SHA_NI static inline void take_block(struct lane *l, const unsigned char *p)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    for (int i = 0; i < 4; i++)
        l->w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)), swap);
}

/* Rounds 4g to 4g+3, and four words of the schedule that come sixteen later. */
SHA_NI static inline void four_rounds(struct lane *l, int g)
{
    __m128i *w = l->w, last = w[(g + 3) & 3];
    __m128i k = _mm_load_si128((const __m128i *)(const void *)(round_constants + 4 * g));
    __m128i m = _mm_add_epi32(w[g & 3], k);
    l->cdgh = _mm_sha256rnds2_epu32(l->cdgh, l->abef, m);
    l->abef = _mm_sha256rnds2_epu32(l->abef, l->cdgh, _mm_shuffle_epi32(m, 0x0e));
    if (g < 12) {
        __m128i t = _mm_sha256msg1_epu32(w[g & 3], w[(g + 1) & 3]);
        t = _mm_add_epi32(t, _mm_alignr_epi8(last, w[(g + 2) & 3], 4));
        w[g & 3] = _mm_sha256msg2_epu32(t, last);
    }
}

SHA_NI static void add_blocks(SHA_LONG *ha, const unsigned char *a, SHA_LONG *hb, const unsigned char *b,
                              size_t blocks)
{
    struct lane x = lane_of(ha), y = lane_of(hb);
    for (; blocks > 0; blocks--, a += BLOCK, b += BLOCK) {
        struct lane x0 = x, y0 = y;
        take_block(&x, a);
        take_block(&y, b);
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) {
            four_rounds(&x, g);
            four_rounds(&y, g);
        }
        x.abef = _mm_add_epi32(x.abef, x0.abef);
        x.cdgh = _mm_add_epi32(x.cdgh, x0.cdgh);
        y.abef = _mm_add_epi32(y.abef, y0.abef);
        y.cdgh = _mm_add_epi32(y.cdgh, y0.cdgh);
    }
    lane_end(&x, ha);
    lane_end(&y, hb);
}

static bool has_sha_ni(void)
{
    enum { UNKNOWN, NO, YES };
    static _Atomic int has; /* asking takes long on virtual machines */
    const char *want = getenv("HERACLES_ISA");
    if (has == UNKNOWN) {
        unsigned int eax, ebx = 0, ecx, edx;
        has = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & 1u << 29) ? YES : NO;
    }
    return has == YES && !(want && strcmp(want, "v2") == 0);
}
#else
static bool has_sha_ni(void)
{
    return false;
}
#define add_blocks(...) BUG("no %s on this machine", "SHA-NI")
#endif

/* libcrypto counts bits, in two words. */
static void count(SHA256_CTX *c, size_t blocks)
{
    uint64_t bits = ((uint64_t)c->Nh << 32 | c->Nl) + (uint64_t)blocks * BLOCK * 8;
    c->Nl = (SHA_LONG)bits;
    c->Nh = (SHA_LONG)(bits >> 32);
}

/* Add so many bytes that the sum holds whole blocks only, n at most. Returns how many. */
static size_t align(SHA256_CTX *c, const void *data, size_t n)
{
    size_t due = c->num ? BLOCK - c->num : 0;
    due = due < n ? due : n;
    SHA256_Update(c, data, due);
    return due;
}

void hr_sha256_add_two(hr_sha256 *a, const void *data_a, hr_sha256 *b, const void *data_b, size_t n)
{
    enum { WORTH_IT = 4 * BLOCK };
    const unsigned char *p = data_a, *q = data_b;
    size_t left_a = n, left_b = n;
    if (n >= WORTH_IT && has_sha_ni()) {
        left_a -= align(&a->c, p, n);
        left_b -= align(&b->c, q, n);
        p += n - left_a;
        q += n - left_b;
        size_t blocks = (left_a < left_b ? left_a : left_b) / BLOCK;
        add_blocks(a->c.h, p, b->c.h, q, blocks);
        count(&a->c, blocks);
        count(&b->c, blocks);
        p += blocks * BLOCK;
        q += blocks * BLOCK;
        left_a -= blocks * BLOCK;
        left_b -= blocks * BLOCK;
    }
    SHA256_Update(&a->c, p, left_a);
    SHA256_Update(&b->c, q, left_b);
}
