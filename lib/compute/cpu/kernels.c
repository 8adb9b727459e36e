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

enum { BLOCK = HR_SUM_ROWS };

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

/* rows: of the tile, m of them wanted. */
INLINE void gemm_tile(int rows, int nv, int m, int n, int taps, int k, const float *const *a, const float *b,
                      const float *soon, float *c, size_t ldc, bool add)
{
    vec s[MR * 2];
#pragma GCC unroll 32
    for (int i = 0; i < rows * nv; i++)
        s[i] = (vec){0};
#pragma GCC unroll 32
    for (int i = 0; i < rows; i++) { /* until then the lines that the sums go to have arrived */
        __builtin_prefetch(c + (size_t)i * ldc, 1, 3);
        if (nv * VW > 16)
            __builtin_prefetch(c + (size_t)i * ldc + 16, 1, 3);
    }
    for (int t = 0; t < taps; t++, a += MR) {
        const float *row[MR];
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            row[i] = a[i];
#pragma GCC unroll 2
        for (long q = 0; q < k; q++, b += nv * VW, soon += 16) {
            vec b0 = load(b), b1 = nv > 1 ? load(b + VW) : b0;
            __builtin_prefetch(soon, 0, 2);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                vec x = splat(row[i][q]);
                s[i * nv] += x * b0;
                if (nv > 1)
                    s[i * nv + 1] += x * b1;
            }
        }
    }
    put_tile(s, rows, nv, m, n, c, ldc, add);
}

/* With few rows a third or two of the tile are enough. */
INLINE void gemm_rows(int nv, int m, int n, int taps, int k, const float *const *a, const float *b,
                      const float *soon, float *c, size_t ldc, bool add)
{
    if (m > MR - MR / 3)
        gemm_tile(MR, nv, m, n, taps, k, a, b, soon, c, ldc, add);
    else if (m > MR / 3)
        gemm_tile(MR - MR / 3, nv, m, n, taps, k, a, b, soon, c, ldc, add);
    else
        gemm_tile(MR / 3, nv, m, n, taps, k, a, b, soon, c, ldc, add);
}

static void gemm(int m, int n, int panel, int taps, int k, const float *const *a, const float *b,
                 const float *soon, float *c, size_t ldc, bool add)
{
    if (panel == VW)
        gemm_rows(1, m, n, taps, k, a, b, soon, c, ldc, add);
    else
        gemm_rows(2, m, n, taps, k, a, b, soon, c, ldc, add);
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

static void panels(int n, int np, const float *b, size_t ldb, float *to)
{
    int j = 0;
    for (; j + 2 * VW <= n; j += 2 * VW)
        for (int p = 0; p < np; p++, to += 2 * VW) {
            store(to, load(b + (size_t)p * ldb + j));
            store(to + VW, load(b + (size_t)p * ldb + j + VW));
        }
    int width = n > VW ? 2 * VW : VW;
    for (int p = 0; j < n && p < np; p++, to += width)
        for (int i = 0; i < width; i++)
            to[i] = j + i < n ? b[(size_t)p * ldb + j + i] : 0;
}

static void strips(int m, int np, const float *const *a, size_t i0, float *to, size_t step)
{
    for (int p = 0; p < np; p++, to += MO) {
        const float *x = a[p] + i0;
        float *s = to;
        int i = 0;
        for (; i + MO <= m; i += MO, s += step)
            memcpy(s, x + i, MO * sizeof *s);
        for (int j = i; i < m && j < i + MO; j++)
            s[j - i] = j < m ? x[j] : 0;
    }
}

/* Columns [c, c+n), n <= VW, of VW rows. */
INLINE void turn_square(int n, const float *from, size_t ld, float *to, ptrdiff_t ldt)
{
    vec v[VW];
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++)
        v[i] = load(from + (size_t)i * ld);
    turn_vectors(v);
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++)
        if (i < n)
            store(to + i * ldt, v[i]);
}

static void turn(int rows, int columns, const float *from, size_t ld, float *to, ptrdiff_t ldt, bool beyond)
{
    int r = 0;
    for (; r + VW <= rows; r += VW, from += VW * ld, to += VW) {
        int c = 0;
        for (; c + VW <= columns; c += VW)
            turn_square(VW, from + c, ld, to + c * ldt, ldt);
        if (c < columns && (beyond || r + 2 * VW <= rows)) {
            turn_square(columns - c, from + c, ld, to + c * ldt, ldt);
            c = columns;
        }
        for (; c < columns; c++)
            for (int i = 0; i < VW; i++)
                to[c * ldt + i] = from[(size_t)i * ld + (size_t)c];
    }
    for (int c = 0; c < columns; c++)
        for (int i = 0; i < rows - r; i++)
            to[c * ldt + i] = from[(size_t)i * ld + (size_t)c];
}

/* ---- one value per column ------------------------------------------------------------------------------ */

/* These go through memory in its order, row by row; the values per column come from the first-level cache. A
 * narrower rest of columns is done one by one. */

INLINE void affine_rows(size_t rows, size_t ch, const float *z, float *y, const float *scale,
                        const float *shift, const float *res, bool relu)
{
    for (size_t r = 0; r < rows; r++, z += ch, y += ch) {
        size_t c = 0;
        for (; c + VW <= ch; c += VW) {
            vec v = load(z + c);
            if (scale)
                v *= load(scale + c);
            if (shift)
                v += load(shift + c);
            if (res)
                v += load(res + c);
            store(y + c, relu ? positive(v) : v);
        }
        for (; c < ch; c++) {
            float v = z[c] * (scale ? scale[c] : 1) + (shift ? shift[c] : 0) + (res ? res[c] : 0);
            y[c] = relu && v < 0 ? 0 : v;
        }
        if (res)
            res += ch;
    }
}

static void affine(size_t rows, int ch, const float *z, float *y, const float *scale, const float *shift,
                   const float *res, bool relu)
{
    if (scale && shift && res)
        affine_rows(rows, (size_t)ch, z, y, scale, shift, res, relu);
    else if (scale && shift)
        affine_rows(rows, (size_t)ch, z, y, scale, shift, NULL, relu);
    else
        affine_rows(rows, (size_t)ch, z, y, scale, shift, res, relu);
}

INLINE vec where_positive(vec g, const float *y)
{
    return (vec)((ivec)g & (ivec)(load(y) > (vec){0}));
}

static void back(size_t rows, int ch_, float *g, const float *y, float *to, bool add, const float *scale)
{
    size_t ch = (size_t)ch_;
    for (size_t r = 0; r < rows; r++, g += ch) {
        size_t c = 0;
        for (; c + VW <= ch; c += VW) {
            vec v = load(g + c);
            if (y)
                v = where_positive(v, y + c);
            if (to)
                store(to + c, add ? load(to + c) + v : v);
            store(g + c, scale ? v * load(scale + c) : v);
        }
        for (; c < ch; c++) {
            float v = y && !(y[c] > 0) ? 0 : g[c];
            if (to)
                to[c] = add ? to[c] + v : v;
            g[c] = scale ? v * scale[c] : v;
        }
        if (y)
            y += ch;
        if (to)
            to += ch;
    }
}

static void back_bits(size_t rows, int ch_, float *g, const uint8_t *bits, float *to, bool add,
                      const float *scale)
{
    size_t ch = (size_t)ch_, whole = ch % VW ? 0 : ch;
    for (size_t r = 0, i = 0; r < rows; r++, g += ch) {
        for (size_t c = 0; c < whole; c += VW, i += VW) {
            vec v = where_bits(load(g + c), bits, i);
            if (to)
                store(to + c, add ? load(to + c) + v : v);
            store(g + c, scale ? v * load(scale + c) : v);
        }
        for (size_t c = whole; c < ch; c++, i++) {
            float v = bits[i / 8] >> i % 8 & 1 ? g[c] : 0;
            if (to)
                to[c] = add ? to[c] + v : v;
            g[c] = scale ? v * scale[c] : v;
        }
        if (to)
            to += ch;
    }
}

static void signs(size_t n, const float *y, uint8_t *bits)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW)
        put_bits(bits, i, bits_of(load(y + i)));
    for (; i < n; i++)
        bits[i / 8] = (uint8_t)((i % 8 ? bits[i / 8] : 0) | (y[i] > 0) << i % 8);
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

/* ---- max pooling ----------------------------------------------------------------------------------------
 */

/* Where v takes the place of the largest value so far. */
INLINE ivec beats(vec v, vec best)
{
    return (ivec)(v > best) | (ivec)(v != v);
}

static void pool(int n, int ch, const float *const *x, float *y)
{
    int c = 0;
    for (; c + VW <= ch; c += VW) {
        vec best = load(x[0] + c);
        for (int i = 1; i < n; i++) {
            vec v = load(x[i] + c);
            ivec take = beats(v, best);
            best = (vec)(((ivec)v & take) | ((ivec)best & ~take));
        }
        store(y + c, best);
    }
    for (; c < ch; c++) {
        y[c] = x[0][c];
        for (int i = 1; i < n; i++)
            y[c] = x[i][c] > y[c] || x[i][c] != x[i][c] ? x[i][c] : y[c];
    }
}

static void unpool(int n, int ch, const float *const *x, const float *g, float *const *dx, bool add)
{
    int c = 0;
    for (; c + VW <= ch; c += VW) {
        vec best = load(x[0] + c), from = load(g + c);
        ivec at = {0};
        for (int i = 1; i < n; i++) {
            vec v = load(x[i] + c);
            ivec take = beats(v, best);
            best = (vec)(((ivec)v & take) | ((ivec)best & ~take));
            at = (take & i) | (at & ~take);
        }
        for (int i = 0; i < n; i++) {
            vec d = (vec)((ivec)from & (ivec)(at == i));
            store(dx[i] + c, add ? load(dx[i] + c) + d : d);
        }
    }
    for (; c < ch; c++) {
        int at = 0;
        for (int i = 1; i < n; i++)
            at = x[i][c] > x[at][c] || x[i][c] != x[i][c] ? i : at;
        for (int i = 0; i < n; i++)
            dx[i][c] = (add ? dx[i][c] : 0) + (i == at ? g[c] : 0);
    }
}

/* Sums take SPAN vectors of columns at a time: the sums of a block of rows stay in registers. */
enum { SPAN = 4 };

/* Add w float sums to doubles. */
INLINE void flush(const vec *s, int w, double *total)
{
    for (int i = 0; i < w; i++)
        total[i] += (double)s[i / VW][i % VW];
}

/* Columns c to c + w of the statistics, w <= SPAN*VW, nv vectors. */
INLINE void stats_span(int nv, size_t rows, size_t ld, const float *z, int w, double *mean, double *m2)
{
    double total[SPAN * VW] = {0}, sq[SPAN * VW] = {0}, dev[SPAN * VW] = {0};
    for (size_t r0 = 0; r0 < rows; r0 += BLOCK) {
        size_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows;
        vec s[SPAN] = {{0}};
        for (size_t r = r0; r < r1; r++)
            for (int v = 0; v < nv; v++)
                s[v] += load(z + r * ld + v * VW);
        flush(s, nv * VW, total);
    }
    vec m[SPAN] = {{0}};
    for (int i = 0; i < nv * VW; i++)
        m[i / VW][i % VW] = (float)(total[i] / (double)rows);
    for (size_t r0 = 0; r0 < rows; r0 += BLOCK) {
        size_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows;
        vec s[SPAN] = {{0}}, d1[SPAN] = {{0}};
        for (size_t r = r0; r < r1; r++)
            for (int v = 0; v < nv; v++) {
                vec d = load(z + r * ld + v * VW) - m[v];
                s[v] += d * d;
                d1[v] += d;
            }
        flush(s, nv * VW, sq);
        flush(d1, nv * VW, dev);
    }
    /* m is the mean rounded to float: dev corrects for that */
    for (int i = 0; i < w; i++) {
        double shift = dev[i] / (double)rows, q = sq[i] - dev[i] * shift;
        mean[i] = (double)m[i / VW][i % VW] + shift;
        m2[i] = q > 0 ? q : 0;
    }
}

/* Put the statistics of n2 more rows to those of n1 (Chan, Golub & LeVeque 1979), w columns. */
INLINE void merge(int w, double n1, double n2, const double *mean2, const double *sq2, double *mean,
                  double *m2)
{
    double share = n2 / (n1 + n2);
    for (int i = 0; i < w; i++) {
        double d = mean2[i] - mean[i];
        mean[i] += d * share;
        m2[i] += sq2[i] + d * d * n1 * share;
    }
}

/* The mean is needed before the deviations: rows are read twice, so many at a time that the second-level
 * cache holds them. */
static void stats(size_t before, size_t rows, int ch, const float *z, double *mean, double *m2)
{
    size_t most = hr_stats_rows(ch), n = 0;
    for (size_t r = 0; r < rows; r += n) {
        n = rows - r < most ? rows - r : most;
        const float *from = z + r * (size_t)ch;
        for (int c = 0; c < ch;) {
            bool wide = ch - c >= SPAN * VW;
            int w = wide ? SPAN * VW : ch - c < VW ? ch - c : VW;
            double mu[SPAN * VW], sq[SPAN * VW];
            if (wide)
                stats_span(SPAN, n, (size_t)ch, from + c, w, mu, sq);
            else
                stats_span(1, n, (size_t)ch, from + c, w, mu, sq);
            if (before + r == 0) {
                memcpy(mean + c, mu, (size_t)w * sizeof *mean);
                memcpy(m2 + c, sq, (size_t)w * sizeof *m2);
            } else {
                merge(w, (double)(before + r), (double)n, mu, sq, mean + c, m2 + c);
            }
            c += w;
        }
    }
}

/* Columns c to c + w, w <= SPAN*VW, nv vectors, of a block of rows. */
INLINE void sums_span(int nv, size_t rows, size_t ld, float *g, const float *y, float *to, bool add,
                      const float *z, const float *mean, const float *inv, int w, double *s1, double *s2)
{
    vec m[SPAN] = {{0}}, k[SPAN] = {{0}}, a[SPAN] = {{0}}, b[SPAN] = {{0}};
    for (int i = 0; z && i < w; i++) {
        m[i / VW][i % VW] = mean[i];
        k[i / VW][i % VW] = inv[i];
    }
    for (size_t r = 0; r < rows; r++)
        for (int v = 0; v < nv; v++) {
            size_t at = r * ld + (size_t)(v * VW);
            vec d = load(g + at);
            if (y)
                store(g + at, d = where_positive(d, y + at));
            if (to)
                store(to + at, add ? load(to + at) + d : d);
            a[v] += d;
            if (z)
                b[v] += d * ((load(z + at) - m[v]) * k[v]);
        }
    flush(a, w, s1);
    if (z)
        flush(b, w, s2);
}

INLINE void sums_block(size_t rows, int ch, float *g, const float *y, float *to, bool add, const float *z,
                       const float *mean, const float *inv, double *s1, double *s2)
{
    for (int c = 0; c < ch;) {
        bool wide = ch - c >= SPAN * VW;
        int w = wide ? SPAN * VW : ch - c < VW ? ch - c : VW;
        const float *yc = y ? y + c : NULL, *zc = z ? z + c : NULL, *mc = z ? mean + c : NULL,
                    *ic = z ? inv + c : NULL;
        float *tc = to ? to + c : NULL;
        double *s2c = z ? s2 + c : NULL;
        if (wide)
            sums_span(SPAN, rows, (size_t)ch, g + c, yc, tc, add, zc, mc, ic, w, s1 + c, s2c);
        else
            sums_span(1, rows, (size_t)ch, g + c, yc, tc, add, zc, mc, ic, w, s1 + c, s2c);
        c += w;
    }
}

static void grad_sums(bool more, size_t rows, int ch, float *g, const float *y, float *to, bool add,
                      const float *z, const float *mean, const float *inv, double *s1, double *s2)
{
    int whole = ch / VW * VW;
    /* Whole vectors are written back; in a narrower rest they would be written into the next row. */
    if (whole < ch && (y || to)) {
        back(rows, ch, g, y, to, add, NULL);
        y = NULL;
        to = NULL;
    }
    if (!more)
        memset(s1, 0, (size_t)ch * sizeof *s1);
    if (z && !more)
        memset(s2, 0, (size_t)ch * sizeof *s2);
    for (size_t r = 0; r < rows;
         r += BLOCK) { /* all columns of a block, so that memory is read in its order */
        size_t at = r * (size_t)ch;
        sums_block(rows - r < BLOCK ? rows - r : BLOCK, ch, g + at, y ? y + at : NULL, to ? to + at : NULL,
                   add, z ? z + at : NULL, mean, inv, s1, s2);
    }
}

static void grad_affine(size_t rows, int ch_, const float *g, const float *z, const float *k1,
                        const float *k2, const float *k3, float *out, bool add)
{
    size_t ch = (size_t)ch_;
    for (size_t r = 0; r < rows; r++, g += ch, out += ch) {
        size_t c = 0;
        for (; c + VW <= ch; c += VW) {
            vec v = load(g + c) * load(k1 + c);
            if (z)
                v += load(z + c) * load(k2 + c) + load(k3 + c);
            store(out + c, add ? load(out + c) + v : v);
        }
        for (; c < ch; c++) {
            float v = g[c] * k1[c] + (z ? z[c] * k2[c] + k3[c] : 0);
            out[c] = add ? out[c] + v : v;
        }
        if (z)
            z += ch;
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
    .panels = panels,
    .turn = turn,
    .strips = strips,
    .affine = affine,
    .back = back,
    .back_bits = back_bits,
    .signs = signs,
    .copy = copy,
    .stats = stats,
    .grad_sums = grad_sums,
    .grad_affine = grad_affine,
    .pool = pool,
    .unpool = unpool,
    .wino = &HR_WINO,
};
