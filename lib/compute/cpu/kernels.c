/* lib/compute/cpu/kernels.c -- the inner loops, written once with GCC's vector extensions and compiled per
 * instruction set (with the matching -march; HR_ISA is its name, HR_TABLE that of its table, HR_WINO that of
 * the table of tiles.c).
 *
 * The GEMM tile keeps mr x (1 or 2) vectors of sums in registers. Its rows are addressed by pointers, so that
 * a convolution needs no im2col: for every tap a row's pointer says where that pixel's channels begin, and
 * pixels in the padding point to zeros. Per k, one load of the packed weights serves mr rows and one
 * broadcast of a pixel's value serves both vectors: with AVX-512, 12 x 2 sums take 14 loads for 24 FMAs.
 *
 *   set        vector  gemm tile   outer tile
 *   v2         4       4 x 8       4 x 8        (no FMA: two roundings)
 *   v3         8       6 x 16      4 x 16
 *   v4         16      12 x 32     8 x 32
 *   portable   4       4 x 8       4 x 8
 *
 * Sums over many rows (statistics, their gradients) are float within BLOCK rows and double across blocks. */
#include "compute/cpu/vec.h"

#include <string.h>

enum { BLOCK = 64 };

/* ---- GEMM tile ---------------------------------------------------------------------------------------- */

/* Write an MR x (nv*VW) tile of sums; whole tiles go straight out, the others through a buffer. */
INLINE void put_tile(const vec *s, int rows, int nv, int m, int n, float *c, size_t ldc, bool add)
{
    if (m == rows && n == nv * VW) {
#pragma GCC unroll 32
        for (int i = 0; i < rows * nv; i++) {
            float *p = c + (size_t)(i / nv) * ldc + i % nv * VW;
            store(p, add ? load(p) + s[i] : s[i]);
        }
        return;
    }
    float tile[HR_MAX_MR * 2 * HR_MAX_VW];
#pragma GCC unroll 32
    for (int i = 0; i < rows * nv; i++)
        store(tile + i * VW, s[i]);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float *p = c + (size_t)i * ldc + j;
            float t = tile[i * nv * VW + j];
            *p = add ? *p + t : t;
        }
}

INLINE void gemm_tile(int nv, int m, int n, int taps, int k, const float *const *a, const float *b,
                      const float *soon, float *c, size_t ldc, bool add)
{
    vec s[MR * 2];
#pragma GCC unroll 32
    for (int i = 0; i < MR * nv; i++)
        s[i] = (vec){0};
    for (int t = 0; t < taps; t++, a += MR) {
        const float *row[MR];
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++)
            row[i] = a[i];
        for (long q = 0; q < k; q++, b += nv * VW, soon += 16) {
            vec b0 = load(b), b1 = nv > 1 ? load(b + VW) : b0;
            __builtin_prefetch(soon, 0, 2);
#pragma GCC unroll 16
            for (int i = 0; i < MR; i++) {
                vec x = splat(row[i][q]);
                s[i * nv] += x * b0;
                if (nv > 1)
                    s[i * nv + 1] += x * b1;
            }
        }
    }
    put_tile(s, MR, nv, m, n, c, ldc, add);
}

static void gemm(int m, int n, int panel, int taps, int k, const float *const *a, const float *b,
                 const float *soon, float *c, size_t ldc, bool add)
{
    if (panel == VW)
        gemm_tile(1, m, n, taps, k, a, b, soon, c, ldc, add);
    else
        gemm_tile(2, m, n, taps, k, a, b, soon, c, ldc, add);
}

/* ---- weight gradient tile ------------------------------------------------------------------------------ */

INLINE void outer_tile(int nv, int m, int n, int np, const float *const *a, size_t i0, const float *b,
                       size_t ldb, float *c, size_t ldc, bool add)
{
    vec s[MO * 2];
#pragma GCC unroll 32
    for (int i = 0; i < MO * nv; i++)
        s[i] = (vec){0};
    for (int p = 0; p < np; p++, b += ldb) {
        const float *x = a[p] + i0;
        vec b0 = load(b), b1 = nv > 1 ? load(b + VW) : b0;
#pragma GCC unroll 16
        for (int i = 0; i < MO; i++) {
            vec xi = splat(x[i]);
            s[i * nv] += xi * b0;
            if (nv > 1)
                s[i * nv + 1] += xi * b1;
        }
    }
    put_tile(s, MO, nv, m, n, c, ldc, add);
}

static void outer(int m, int n, int panel, int np, const float *const *a, size_t i0, const float *b,
                  size_t ldb, float *c, size_t ldc, bool add)
{
    if (panel == VW)
        outer_tile(1, m, n, np, a, i0, b, ldb, c, ldc, add);
    else
        outer_tile(2, m, n, np, a, i0, b, ldb, c, ldc, add);
}

/* ---- one value per column ------------------------------------------------------------------------------ */

/* These walk down one vector of columns at a time, so that the per-column values stay in registers; a
 * narrower rest of columns is done one by one. V is the vector or scalar type of the pass. */

INLINE void affine_cols(size_t rows, size_t ld, const float *z, float *y, const float *scale,
                        const float *shift, const float *res, bool relu)
{
    vec a = scale ? load(scale) : splat(1), b = shift ? load(shift) : splat(0);
    for (size_t r = 0; r < rows; r++) {
        vec v = load(z + r * ld) * a + b;
        if (res)
            v += load(res + r * ld);
        store(y + r * ld, relu ? positive(v) : v);
    }
}

static void affine(size_t rows, int ch, const float *z, float *y, const float *scale, const float *shift,
                   const float *res, bool relu)
{
    size_t ld = (size_t)ch;
    int c = 0;
    for (; c + VW <= ch; c += VW) {
        const float *sc = scale ? scale + c : NULL, *sh = shift ? shift + c : NULL;
        if (res)
            affine_cols(rows, ld, z + c, y + c, sc, sh, res + c, relu);
        else
            affine_cols(rows, ld, z + c, y + c, sc, sh, NULL, relu);
    }
    for (; c < ch; c++) {
        float a = scale ? scale[c] : 1, b = shift ? shift[c] : 0;
        for (size_t i = (size_t)c; i < rows * ld; i += ld) {
            float v = z[i] * a + b + (res ? res[i] : 0);
            y[i] = relu && v < 0 ? 0 : v;
        }
    }
}

static void relu_back(size_t n, float *g, const float *y)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW)
        store(g + i, (vec)((ivec)load(g + i) & (ivec)(load(y + i) > (vec){0})));
    for (; i < n; i++)
        if (!(y[i] > 0))
            g[i] = 0;
}

static void copy(size_t n, float *dst, const float *src, bool add)
{
    if (!add) {
        memcpy(dst, src, n * sizeof *dst);
        return;
    }
    for (size_t i = 0; i < n; i++)
        dst[i] += src[i];
}

static void stats(size_t rows, int ch, const float *z, double *mean, double *m2)
{
    size_t ld = (size_t)ch;
    for (int c = 0; c < ch; c += VW) {
        int w = ch - c < VW ? ch - c : VW;
        double total[VW] = {0};
        for (size_t r0 = 0; r0 < rows; r0 += BLOCK) {
            size_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows;
            vec s = {0};
            for (size_t r = r0; r < r1; r++)
                s += load(z + r * ld + c);
            for (int i = 0; i < VW; i++)
                total[i] += (double)s[i];
        }
        vec m;
        for (int i = 0; i < VW; i++) {
            total[i] /= (double)rows;
            m[i] = (float)total[i];
        }
        double sq[VW] = {0}, dev[VW] = {0};
        for (size_t r0 = 0; r0 < rows; r0 += BLOCK) {
            size_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows;
            vec s = {0}, d1 = {0};
            for (size_t r = r0; r < r1; r++) {
                vec d = load(z + r * ld + c) - m;
                s += d * d;
                d1 += d;
            }
            for (int i = 0; i < VW; i++) {
                sq[i] += (double)s[i];
                dev[i] += (double)d1[i];
            }
        }
        /* m is the mean rounded to float: dev corrects for that */
        for (int i = 0; i < w; i++) {
            double shift = dev[i] / (double)rows, q = sq[i] - dev[i] * shift;
            mean[c + i] = (double)m[i] + shift;
            m2[c + i] = q > 0 ? q : 0;
        }
    }
}

static void grad_sums(size_t rows, int ch, const float *g, const float *z, const float *mean,
                      const float *inv, double *s1, double *s2)
{
    size_t ld = (size_t)ch;
    for (int c = 0; c < ch; c += VW) {
        int w = ch - c < VW ? ch - c : VW;
        vec m = {0}, k = {0};
        if (z) {
            for (int i = 0; i < w; i++) {
                m[i] = mean[c + i];
                k[i] = inv[c + i];
            }
        }
        double t1[VW] = {0}, t2[VW] = {0};
        for (size_t r0 = 0; r0 < rows; r0 += BLOCK) {
            size_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows;
            vec a = {0}, b = {0};
            for (size_t r = r0; r < r1; r++) {
                vec d = load(g + r * ld + c);
                a += d;
                if (z)
                    b += d * ((load(z + r * ld + c) - m) * k);
            }
            for (int i = 0; i < VW; i++) {
                t1[i] += (double)a[i];
                t2[i] += (double)b[i];
            }
        }
        for (int i = 0; i < w; i++) {
            s1[c + i] = t1[i];
            if (z)
                s2[c + i] = t2[i];
        }
    }
}

static void grad_affine(size_t rows, int ch, const float *g, const float *z, const float *k1, const float *k2,
                        const float *k3, float *out, bool add)
{
    size_t ld = (size_t)ch;
    int c = 0;
    for (; c + VW <= ch; c += VW) {
        vec a = load(k1 + c), b = z ? load(k2 + c) : splat(0), d = z ? load(k3 + c) : splat(0);
        for (size_t i = (size_t)c; i < rows * ld; i += ld) {
            vec v = load(g + i) * a;
            if (z)
                v += load(z + i) * b + d;
            store(out + i, add ? load(out + i) + v : v);
        }
    }
    for (; c < ch; c++)
        for (size_t i = (size_t)c; i < rows * ld; i += ld) {
            float v = g[i] * k1[c] + (z ? z[i] * k2[c] + k3[c] : 0);
            out[i] = add ? out[i] + v : v;
        }
}

extern const hr_wino_kernels HR_WINO;
extern const hr_kernels HR_TABLE;
const hr_kernels HR_TABLE = {
    .name = HR_ISA,
    .vw = VW,
    .mr = MR,
    .mo = MO,
    .gemm = gemm,
    .outer = outer,
    .affine = affine,
    .relu_back = relu_back,
    .copy = copy,
    .stats = stats,
    .grad_sums = grad_sums,
    .grad_affine = grad_affine,
    .wino = &HR_WINO,
};
