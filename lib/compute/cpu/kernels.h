/* lib/compute/cpu/kernels.h -- the table of inner loops, one table per instruction set.
 *
 * kernels.c is compiled once for each set; isa.c picks a table at run time. All matrices are row-major
 * float32. "rows" are pixels (sample-major), columns are channels. Reads may run up to HR_SLACK floats past
 * the last row of an operand, whose values there do not matter; every buffer of the executor has that much
 * room behind it. */
#ifndef HR_COMPUTE_CPU_KERNELS_H
#define HR_COMPUTE_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HR_SLACK = 64, HR_MAX_MR = 12, HR_MAX_VW = 16 };

/* What follows a convolution's sum on the way out: y = z*scale + shift + res, then max(., 0); scale and shift
 * are per channel. bits: keep where y is positive. In the other direction, behind what dx adds to: 0 where
 * gate has no bit, then times slope, per channel. All fields may be NULL / false. res is laid out as y; bits
 * and gate have one bit per value, as signs writes them, and may be given where hr_bits_fit. */
typedef struct hr_epilogue {
    const float *scale, *shift, *res;
    bool relu;
    uint8_t *bits;
    const uint8_t *gate;
    const float *slope;
} hr_epilogue;

/* The transforms of Winograd's F(m x m, 3x3), m = 4 or 2, T = m+2 (tiles.c). v is T*T rows of channels,
 * `step` floats apart. off are offsets of pixels, in floats, -1 outside the map. Channels are rounded up to
 * whole vectors in v. */
typedef struct hr_wino_kernels {
    /* v = B' d B of the T*T pixels x + off[i]. */
    void (*in)(int m, int ch, const float *x, const int32_t *off, float *v, size_t step);
    /* The m*m pixels y + off[i] (+)= A' v A, with the epilogue. */
    void (*out)(int m, int ch, const float *v, size_t step, const int32_t *off, float *y,
                const hr_epilogue *e, bool add);
    /* v = A dy A' of the m*m pixels dy + off[i]. */
    void (*grad)(int m, int ch, const float *dy, const int32_t *off, float *v, size_t step);
    /* u = G w G' for n 3x3 kernels side by side: w (9, n), n whole vectors. far: u is written past the
     * caches, and must be aligned to a vector; the caller lets a store fence follow. */
    void (*weight)(int m, int n, const float *w, float *u, size_t step, bool far);
    /* dw = G' du G: nine rows of n values, ld apart. */
    void (*weight_grad)(int m, int n, const float *du, size_t step, float *dw, size_t ld);
} hr_wino_kernels;

typedef struct hr_kernels {
    const char *name;
    int vw; /* floats in a vector; a packed panel is vw columns wide, or 2*vw when there are more than vw
               columns */
    int mr; /* rows of a gemm tile */
    int mo; /* rows of an outer tile */

    /* One tile of an implicit GEMM:
     *   c[i][j] (+)= sum_t sum_k a_t[i][k] * b[t][k][j],   i < m <= mr,  j < n <= panel
     * a points to taps*mr row pointers, [tap][row], each to k contiguous floats (rows past m repeat a valid
     * one); b is a packed panel (taps, k, panel). add: add to c instead of overwriting it. */
    void (*gemm)(int m, int n, int panel, int taps, int k, const float *const *a, const float *b,
                 const float *soon, float *c, size_t ldc, bool add);
    /* One tile of a weight gradient:
     *   c[i][j] (+)= sum_p a[p][i] * b[p*ldb + j],   i < m <= mo,  j < n <= panel,  p < np */
    void (*outer)(int m, int n, int panel, int np, const float *const *a, size_t i0, const float *b,
                  size_t ldb, float *c, size_t ldc, bool add);
    /* n columns of np rows of b, ldb apart, panel by panel: to[panel][row][column], zero-filled. */
    void (*panels)(int n, int np, const float *b, size_t ldb, float *to);
    /* Transpose: to[c*ldt + r] = from[r*ld + c]. beyond: up to a vector may be read past the last row's end.
     */
    void (*turn)(int rows, int columns, const float *from, size_t ld, float *to, ptrdiff_t ldt, bool beyond);
    /* Values [i0, i0+m) of np rows as strips of mo values, [strip][row][mo], strips step apart, zero-filled.
     */
    void (*strips)(int m, int np, const float *const *a, size_t i0, float *to, size_t step);
    /* y = z*scale + shift (+ res), then max(.,0) if relu. scale, shift are per column; scale may be NULL (1),
     * shift NULL (0), res NULL. y may be z. */
    void (*affine)(size_t rows, int ch, const float *z, float *y, const float *scale, const float *shift,
                   const float *res, bool relu);
    /* g = y > 0 ? g : 0 (y may be NULL: g); to (+)= g (to may be NULL); then g = g*scale (per column; may be
     * NULL). */
    void (*back)(size_t rows, int ch, float *g, const float *y, float *to, bool add, const float *scale);
    /* The same, with a bit per value of y that says whether it is positive, rows one behind the other: value
     * i is bit i%8 of byte i/8. */
    void (*back_bits)(size_t rows, int ch, float *g, const uint8_t *bits, float *to, bool add,
                      const float *scale);
    /* Those bits of n values, up to the end of the last byte. */
    void (*signs)(size_t n, const float *y, uint8_t *bits);
    /* dst (+)= src over n values. */
    void (*copy)(size_t n, float *dst, const float *src, bool add);
    /* Per column: mean and sum of squared deviations of the rows. before: as many rows before these are in
     * mean and m2 already, whole hr_stats_rows of them. */
    void (*stats)(size_t before, size_t rows, int ch, const float *z, double *mean, double *m2);
    /* As back without a scale; and per column: s1 = sum g, s2 = sum g*(z - mean)*inv. z may be NULL (then s2
     * is not touched). more: add to s1 and s2 those of whole HR_SUM_ROWS that came before. */
    void (*grad_sums)(bool more, size_t rows, int ch, float *g, const float *y, float *to, bool add,
                      const float *z, const float *mean, const float *inv, double *s1, double *s2);
    /* out (+)= g*k1 + z*k2 + k3, columns k1, k2, k3; z may be NULL (then k2, k3 are not read). out may be g.
     */
    void (*grad_affine)(size_t rows, int ch, const float *g, const float *z, const float *k1, const float *k2,
                        const float *k3, float *out, bool add);
    /* Max pooling of one window of n >= 1 pixels x[i], ch channels each: y is the largest value, of equal
     * ones the first, of NaNs the last; and its gradient: dx[i] (+)= g at the pixel that y came from, else 0.
     */
    void (*pool)(int n, int ch, const float *const *x, float *y);
    void (*unpool)(int n, int ch, const float *const *x, const float *g, float *const *dx, bool add);
    const hr_wino_kernels *wino;
} hr_kernels;

/* Rows that are summed in float before they go to a double; and that statistics take at a time, which the
 * second-level cache holds. Bits depend on both. */
enum { HR_SUM_ROWS = 64 };
static inline size_t hr_stats_rows(int ch)
{
    size_t rows = ((size_t)1 << 16) / (size_t)ch / HR_SUM_ROWS * HR_SUM_ROWS;
    return rows < HR_SUM_ROWS ? HR_SUM_ROWS : rows;
}

/* Whether a pixel's bits are whole bytes, and those of a vector, for this many channels. */
static inline bool hr_bits_fit(const hr_kernels *k, int ch)
{
    return ch % (k->vw > 8 ? k->vw : 8) == 0;
}

/* Bytes of a core's second-level cache, or a guess. Speed alone depends on it, never a bit. */
size_t hr_l2_bytes(void);

/* Pixels in the padding read their channels from here. A layer with padding has at most HR_CONV_MAX_PADDED
 * channels, in and out. */
enum { HR_CONV_MAX_PADDED = 4096 };
extern const float hr_zeros[HR_CONV_MAX_PADDED + HR_SLACK];

/* The table for this machine, or the one that HERACLES_ISA names. Never NULL. */
const hr_kernels *hr_kernels_get(void);

#endif
