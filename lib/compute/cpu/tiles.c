/* lib/compute/cpu/tiles.c -- the small transforms of Winograd's convolution, compiled per instruction set
 * like kernels.c. wino.c says how they make a convolution.
 *
 * F(m x m, 3x3) (Lavin & Gray 2016, arXiv:1509.09308) makes an m x m tile of outputs from a T x T tile of
 * inputs, T = m+2, with T*T multiplications per pair of channels instead of 9*m*m:
 *
 *     y = A' [ (G g G') * (B' d B) ] A
 *
 * where d is a tile of the input and g the 3x3 kernel; ' transposes, * is elementwise.
 *
 * One dimension of it is the Toom-Cook algorithm: evaluate two polynomials at T points (T-1 numbers and
 * infinity), multiply, interpolate. For the points p_i, with N_i = prod_{k != i} (p_i - p_k):
 *
 *     A[i][j] = p_i^j          j < m;   at infinity 1 for j = m-1, else 0
 *     G[i][j] = p_i^j / N_i    j < 3;   at infinity 1 for j = 2, else 0
 *     B'[i]   = coefficients of prod_{k != i} (x - p_k);   at infinity over all finite points
 *
 *     m = 2   points 0, 1, -1, infinity           16 multiplications for 36
 *     m = 4   points 0, P, -P, Q, -Q, infinity    36 multiplications for 144
 *
 * P = 3/4 and Q = 3/2 in place of the usual 1 and 2: all factors are exact in float, and the largest error is
 * a quarter (Barabasz et al. 2020, arXiv:1803.10986, on the choice of points; 2e-6 against 8e-6 of the
 * largest output over 256 channels).
 *
 * The gradient to the weights is the same thing with the parts exchanged: dg = G' [ (B' d B) * (A dy A') ] G.
 *
 * A tile in memory is T*T rows of channels, `step` floats apart. Tiles find their pixels by offsets; an
 * offset of -1 is a pixel outside the map: it reads as zeros and is not written. */
#include "compute/cpu/vec.h"

#include <string.h>

#define P 0.75f
#define Q 1.5f
#define P2 (P * P)
#define Q2 (Q * Q)
#define NP (2 * P2 * (P2 - Q2)) /* N_i of P and -P */
#define NQ (2 * Q2 * (Q2 - P2))
#define UNROLL _Pragma("GCC unroll 36")

enum { MAX_T = 6 };

/* ---- one dimension ------------------------------------------------------------------------------------- */

/* o = B' d, T to T values; elements are sd, so apart. */
INLINE void bt(int m, const vec *d, int sd, vec *o, int so)
{
    if (m == 2) {
        o[0] = d[0] - d[2 * sd];
        o[so] = d[sd] + d[2 * sd];
        o[2 * so] = d[2 * sd] - d[sd];
        o[3 * so] = d[3 * sd] - d[sd];
        return;
    }
    vec d1 = d[sd], d2 = d[2 * sd], d3 = d[3 * sd], d4 = d[4 * sd];
    vec even = d4 - Q2 * d2, odd = d3 - Q2 * d1;
    o[so] = even + P * odd;
    o[2 * so] = even - P * odd;
    even = d4 - P2 * d2;
    odd = d3 - P2 * d1;
    o[3 * so] = even + Q * odd;
    o[4 * so] = even - Q * odd;
    o[0] = P2 * Q2 * d[0] + (d4 - (P2 + Q2) * d2);
    o[5 * so] = P2 * Q2 * d1 + (d[5 * sd] - (P2 + Q2) * d3);
}

/* o = A' v, T to m values. */
INLINE void at(int m, const vec *v, int sv, vec *o, int so)
{
    if (m == 2) {
        o[0] = v[0] + v[sv] + v[2 * sv];
        o[so] = v[sv] - v[2 * sv] + v[3 * sv];
        return;
    }
    vec p = v[sv] + v[2 * sv], dp = v[sv] - v[2 * sv], q = v[3 * sv] + v[4 * sv], dq = v[3 * sv] - v[4 * sv];
    o[0] = v[0] + p + q;
    o[so] = P * dp + Q * dq;
    o[2 * so] = P2 * p + Q2 * q;
    o[3 * so] = P * P2 * dp + (Q * Q2 * dq + v[5 * sv]);
}

/* o = A y, m to T values. */
INLINE void a(int m, const vec *y, int sy, vec *o, int so)
{
    if (m == 2) {
        o[0] = y[0];
        o[so] = y[0] + y[sy];
        o[2 * so] = y[0] - y[sy];
        o[3 * so] = y[sy];
        return;
    }
    vec even = y[0] + P2 * y[2 * sy], odd = y[sy] + P2 * y[3 * sy];
    o[so] = even + P * odd;
    o[2 * so] = even - P * odd;
    even = y[0] + Q2 * y[2 * sy];
    odd = y[sy] + Q2 * y[3 * sy];
    o[3 * so] = even + Q * odd;
    o[4 * so] = even - Q * odd;
    o[0] = y[0];
    o[5 * so] = y[3 * sy];
}

/* o = G g, 3 to T values. */
INLINE void g(int m, const vec *w, int sw, vec *o, int so)
{
    vec w0 = w[0], w1 = w[sw], w2 = w[2 * sw];
    if (m == 2) {
        o[0] = w0;
        o[so] = 0.5f * (w0 + w2) + 0.5f * w1;
        o[2 * so] = 0.5f * (w0 + w2) - 0.5f * w1;
        o[3 * so] = w2;
        return;
    }
    vec even = (1 / NP) * w0 + (P2 / NP) * w2, odd = (P / NP) * w1;
    o[so] = even + odd;
    o[2 * so] = even - odd;
    even = (1 / NQ) * w0 + (Q2 / NQ) * w2;
    odd = (Q / NQ) * w1;
    o[3 * so] = even + odd;
    o[4 * so] = even - odd;
    o[0] = (1 / (P2 * Q2)) * w0;
    o[5 * so] = w2;
}

/* o = G' u, T to 3 values. */
INLINE void gt(int m, const vec *u, int su, vec *o, int so)
{
    if (m == 2) {
        vec p = 0.5f * (u[su] + u[2 * su]);
        o[0] = u[0] + p;
        o[so] = 0.5f * (u[su] - u[2 * su]);
        o[2 * so] = p + u[3 * su];
        return;
    }
    vec p = u[su] + u[2 * su], dp = u[su] - u[2 * su], q = u[3 * su] + u[4 * su], dq = u[3 * su] - u[4 * su];
    o[0] = (1 / (P2 * Q2)) * u[0] + ((1 / NP) * p + (1 / NQ) * q);
    o[so] = (P / NP) * dp + (Q / NQ) * dq;
    o[2 * so] = (P2 / NP) * p + ((Q2 / NQ) * q + u[5 * su]);
}

/* ---- two dimensions ------------------------------------------------------------------------------------ */

/* The first n floats at p as a vector (n <= VW; memory behind them may be anything but must be there), and
 * the way back, which leaves what is behind them alone. */
INLINE void store_some(float *p, vec v, int n)
{
    if (n == VW)
        store(p, v);
    else
        memcpy(p, &v, (size_t)n * sizeof *p);
}

INLINE void find(int pixels, const float *base, const int32_t *off, const float **p)
{
    UNROLL
    for (int i = 0; i < pixels; i++)
        p[i] = off[i] < 0 ? hr_zeros : base + off[i];
}

INLINE void in_tile(int m, int ch, const float *x, const int32_t *off, float *v, size_t step)
{
    const int t = m + 2;
    const float *p[MAX_T * MAX_T];
    find(t * t, x, off, p);
    for (int c = 0; c < ch; c += VW) {
        vec w[MAX_T * MAX_T];
        UNROLL
        for (int j = 0; j < t; j++) {
            vec d[MAX_T];
            UNROLL
            for (int i = 0; i < t; i++)
                d[i] = load(p[i * t + j] + c);
            bt(m, d, 1, w + j, t);
        }
        UNROLL
        for (int i = 0; i < t; i++) {
            vec o[MAX_T];
            bt(m, w + i * t, 1, o, 1);
            UNROLL
            for (int j = 0; j < t; j++)
                store(v + (size_t)(i * t + j) * step + c, o[j]);
        }
    }
}

INLINE void out_tile(int m, int ch, const float *v, size_t step, const int32_t *off, float *y,
                     const hr_epilogue *e, bool add)
{
    const int t = m + 2;
    for (int c = 0; c < ch; c += VW) {
        int n = ch - c < VW ? ch - c : VW;
        vec w[4 * MAX_T];
        UNROLL
        for (int j = 0; j < t; j++) {
            vec d[MAX_T];
            UNROLL
            for (int i = 0; i < t; i++)
                d[i] = load(v + (size_t)(i * t + j) * step + c);
            at(m, d, 1, w + j, t);
        }
        vec scale = e->scale ? load(e->scale + c) : splat(1),
            shift = e->shift ? load(e->shift + c) : splat(0);
        UNROLL
        for (int i = 0; i < m; i++) {
            vec o[4];
            at(m, w + i * t, 1, o, 1);
            UNROLL
            for (int j = 0; j < m; j++) {
                int32_t to = off[i * m + j];
                if (to < 0)
                    continue;
                vec z = o[j] * scale + shift;
                if (e->res)
                    z += load(e->res + to + c);
                if (add)
                    z += load(y + to + c);
                z = e->relu ? positive(z) : z;
                if (e->gate)
                    z = where_bits(z, e->gate, (size_t)(to + c));
                if (e->slope)
                    z *= load(e->slope + c);
                if (e->bits)
                    put_bits(e->bits, (size_t)(to + c), bits_of(z));
                store_some(y + to + c, z, n);
            }
        }
    }
}

INLINE void grad_tile(int m, int ch, const float *dy, const int32_t *off, float *v, size_t step)
{
    const int t = m + 2;
    const float *p[16];
    find(m * m, dy, off, p);
    for (int c = 0; c < ch; c += VW) {
        vec w[4 * MAX_T];
        UNROLL
        for (int j = 0; j < m; j++) {
            vec d[4];
            UNROLL
            for (int i = 0; i < m; i++)
                d[i] = load(p[i * m + j] + c);
            a(m, d, 1, w + j, m);
        }
        UNROLL
        for (int i = 0; i < t; i++) {
            vec o[MAX_T];
            a(m, w + i * m, 1, o, 1);
            UNROLL
            for (int j = 0; j < t; j++)
                store(v + (size_t)(i * t + j) * step + c, o[j]);
        }
    }
}

INLINE void weight_tile(int m, int n, const float *w, float *u, size_t step, bool far)
{
    const int t = m + 2;
    for (int c = 0; c < n; c += VW) {
        vec k[9], h[3 * MAX_T];
        UNROLL
        for (int i = 0; i < 9; i++)
            k[i] = load(w + i * n + c);
        UNROLL
        for (int j = 0; j < 3; j++)
            g(m, k + j, 3, h + j, 3);
        UNROLL
        for (int i = 0; i < t; i++) {
            vec o[MAX_T];
            g(m, h + 3 * i, 1, o, 1);
            UNROLL
            for (int j = 0; j < t; j++) {
                float *to = u + (size_t)(i * t + j) * step + c;
                if (far)
                    stream(to, o[j]);
                else
                    store(to, o[j]);
            }
        }
    }
}

INLINE void weight_grad_tile(int m, int n, const float *du, size_t step, float *dw, size_t ld)
{
    const int t = m + 2;
    for (int c = 0; c < n; c += VW) {
        vec h[3 * MAX_T];
        UNROLL
        for (int j = 0; j < t; j++) {
            vec d[MAX_T];
            UNROLL
            for (int i = 0; i < t; i++)
                d[i] = load(du + (size_t)(i * t + j) * step + c);
            gt(m, d, 1, h + j, t);
        }
        UNROLL
        for (int i = 0; i < 3; i++) {
            vec o[3];
            gt(m, h + i * t, 1, o, 1);
            UNROLL
            for (int j = 0; j < 3; j++)
                store_some(dw + (size_t)(i * 3 + j) * ld + c, o[j], n - c < VW ? n - c : VW);
        }
    }
}

/* ---- the table -------------------------------------------------------------------------------------------
 */

static void wino_in(int m, int ch, const float *x, const int32_t *off, float *v, size_t step)
{
    if (m == 4)
        in_tile(4, ch, x, off, v, step);
    else
        in_tile(2, ch, x, off, v, step);
}

static void wino_out(int m, int ch, const float *v, size_t step, const int32_t *off, float *y,
                     const hr_epilogue *e, bool add)
{
    if (m == 4)
        out_tile(4, ch, v, step, off, y, e, add);
    else
        out_tile(2, ch, v, step, off, y, e, add);
}

static void wino_grad(int m, int ch, const float *dy, const int32_t *off, float *v, size_t step)
{
    if (m == 4)
        grad_tile(4, ch, dy, off, v, step);
    else
        grad_tile(2, ch, dy, off, v, step);
}

static void wino_weight(int m, int n, const float *w, float *u, size_t step, bool far)
{
    if (m == 4)
        weight_tile(4, n, w, u, step, far);
    else
        weight_tile(2, n, w, u, step, far);
}

static void wino_weight_grad(int m, int n, const float *du, size_t step, float *dw, size_t ld)
{
    if (m == 4)
        weight_grad_tile(4, n, du, step, dw, ld);
    else
        weight_grad_tile(2, n, du, step, dw, ld);
}

extern const hr_wino_kernels HR_WINO;
const hr_wino_kernels HR_WINO = {wino_in, wino_out, wino_grad, wino_weight, wino_weight_grad};
