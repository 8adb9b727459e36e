/* lib/compute/cpu/conv.c -- convolution as an implicit GEMM.
 *
 * Forward. With P = hout*wout pixels and T = kh*kw taps, a chunk of samples is the product
 *     y (ns*P, co) = A (ns*P, T*ci) W (T*ci, co),
 * where row p of A is the ci channels of the T input pixels under p. A is never built: the GEMM tile takes a
 * pointer per (tap, row), made from a table of offsets; pixels in the padding point to zeros. Weights are
 * packed into panels of a few output channels, [co/panel][tap][ci][panel], zero-filled at the edge. Rows are
 * worked off in blocks, all panels of a block in turn, so that a block's output is still in the first-level
 * cache for the epilogue.
 *
 * Gradient to the input. dx at input pixel q is the sum over the taps t for which some output pixel p saw q
 * under t: W_t^T dy_p. Which taps these are depends only on q modulo the stride, so pixels are sorted into
 * stride*stride classes, each again an implicit GEMM over dy with its own packed panels.
 *
 * Gradient to the weights. dW (T*ci, co) = A^T dy, over blocks of pixels, which outer.c packs and works off
 * tile by tile in registers.
 *
 * Gathering. With few input channels (an image) both ideas starve: a tap is one or three values, and dx has
 * one or three columns. Then rows of A are copied together (im2col, a block at a time), and dx goes through
 * dA = dy W^T (T*ci columns) and is summed back into the pixels (col2im). */
#include "compute/cpu/conv.h"

#include "base/base.h"
#include "compute/cpu/outer.h"

#include <stdlib.h>
#include <string.h>

enum {
    L1_FLOATS = 6 << 10,        /* half of a first-level cache */
    ROW_TILES = 8,              /* tiles of mr rows in a forward or dx block, about ... */
    MOST_TILES = 11,            /* ... and at most */
    DW_PIXELS = HR_OUTER_DEPTH, /* pixels in a dw block */
    PACK_FROM = 64,             /* pack a dw block when pixels are at least so many floats apart */
    GATHER_BELOW = 8            /* gather when there are fewer input channels */
};

const float hr_zeros[HR_CONV_MAX_PADDED + HR_SLACK] __attribute__((aligned(64)));

const char *const hr_conv_kernel_names[HR_CONV_KERNELS] = {"gemm", "im2col", "wino2", "wino4"};

static int div_up(int a, int b)
{
    return (a + b - 1) / b;
}

/* ---- planning ------------------------------------------------------------------------------------------ */

/* Memory that c keeps, counted. */
static void *keep(hr_conv *c, size_t n, size_t size)
{
    c->bytes += n * size;
    return hr_xaligned(n, size);
}

static void plan_forward(hr_conv *c)
{
    c->off = keep(c, (size_t)c->hout * c->wout * c->taps, sizeof *c->off);
    int32_t *o = c->off;
    for (int oh = 0; oh < c->hout; oh++)
        for (int ow = 0; ow < c->wout; ow++)
            for (int t = 0; t < c->taps; t++) {
                int h = oh * c->stride - c->pad + t / c->kw, w = ow * c->stride - c->pad + t % c->kw;
                bool inside = h >= 0 && h < c->hin && w >= 0 && w < c->win;
                *o++ = inside ? (h * c->win + w) * c->ci : -1;
            }
}

static void plan_class(hr_conv *c, hr_conv_class *g, int rh, int rw)
{
    g->tap = keep(c, (size_t)c->taps, sizeof *g->tap);
    for (int t = 0; t < c->taps; t++)
        if (t / c->kw % c->stride == rh && t % c->kw % c->stride == rw)
            g->tap[g->ntaps++] = t;
    size_t pixels = (size_t)c->hin * c->win;
    g->pix = keep(c, pixels, sizeof *g->pix);
    g->off = keep(c, pixels * (size_t)(g->ntaps ? g->ntaps : 1), sizeof *g->off);
    for (int h = 0; h < c->hin; h++)
        for (int w = 0; w < c->win; w++) {
            if ((h + c->pad) % c->stride != rh || (w + c->pad) % c->stride != rw)
                continue;
            int32_t *o = g->off + (size_t)g->npix * g->ntaps;
            g->pix[g->npix++] = h * c->win + w;
            for (int i = 0; i < g->ntaps; i++) {
                int a = h + c->pad - g->tap[i] / c->kw, b = w + c->pad - g->tap[i] % c->kw;
                int oh = a / c->stride, ow = b / c->stride;
                bool inside = a >= 0 && b >= 0 && oh < c->hout && ow < c->wout;
                o[i] = inside ? (oh * c->wout + ow) * c->co : -1;
            }
        }
    g->packed = c->wb_len;
    c->wb_len += (size_t)div_up(c->ci, c->panel_b) * g->ntaps * c->co * c->panel_b;
}

/* The kernel of each pass. Winograd's algorithm takes part where it saves multiplications and whole vectors
 * of channels make up for its transforms. */
static void choose(hr_conv *c)
{
    bool gather = c->ci < GATHER_BELOW && c->taps > 1;
    for (int p = 0; p < HR_PASSES; p++)
        c->kernel[p] = gather ? HR_CONV_IM2COL : HR_CONV_GEMM;
    if (c->exact || c->kh != 3 || c->kw != 3 || c->stride != 1 || c->pad > 2 || c->co < 16 || c->ci < 16)
        return;
    bool four = hr_wino_cost(4, c->hout, c->wout) <= hr_wino_cost(2, c->hout, c->wout);
    for (int p = 0; p < HR_PASSES; p++)
        c->kernel[p] = four ? HR_CONV_WINO4 : HR_CONV_WINO2;
}

/* m of a Winograd kernel, or 0. */
static int wino_of(enum hr_conv_kernel k)
{
    return k == HR_CONV_WINO4 ? 4 : k == HR_CONV_WINO2 ? 2 : 0;
}

void hr_conv_plan(hr_conv *c, const hr_kernels *k, bool wants_dx)
{
    c->taps = c->kh * c->kw;
    choose(c);
    c->gather = c->kernel[HR_PASS_FORWARD] == HR_CONV_IM2COL;
    c->plain = c->taps == 1 && c->stride == 1 && c->pad == 0;
    int m = wino_of(c->kernel[HR_PASS_FORWARD]);
    if (m) {
        hr_wino_plan(&c->fwd, k, m, c->ci, c->hin, c->win, c->co, c->hout, c->wout, c->pad);
        hr_wino_plan(&c->bwd, k, m, c->co, c->hout, c->wout, c->ci, c->hin, c->win, 2 - c->pad);
        c->bytes += c->fwd.bytes + c->bwd.bytes;
        return;
    }
    c->panel_f = hr_panel_width(k, c->co);
    c->wf_len = (size_t)div_up(c->co, c->panel_f) * c->taps * c->ci * c->panel_f;
    c->wf = keep(c, c->wf_len + HR_SLACK, sizeof *c->wf);
    plan_forward(c);
    if (!wants_dx)
        return;
    if (c->gather) {
        c->panel_b = hr_panel_width(k, c->taps * c->ci);
        c->wb_len = (size_t)div_up(c->taps * c->ci, c->panel_b) * c->co * c->panel_b;
    } else {
        c->panel_b = hr_panel_width(k, c->ci);
        c->nclass = c->stride * c->stride;
        c->cls = keep(c, (size_t)c->nclass, sizeof *c->cls);
        for (int i = 0; i < c->nclass; i++)
            plan_class(c, &c->cls[i], i / c->stride, i % c->stride);
    }
    c->wb = keep(c, c->wb_len + HR_SLACK, sizeof *c->wb);
}

void hr_conv_release(hr_conv *c)
{
    for (int i = 0; i < c->nclass; i++) {
        free(c->cls[i].tap);
        free(c->cls[i].pix);
        free(c->cls[i].off);
    }
    free(c->cls);
    hr_wino_release(&c->fwd);
    hr_wino_release(&c->bwd);
    free(c->off);
    free(c->wf);
    free(c->wb);
}

const hr_wino *hr_conv_wide(const hr_conv *c, enum hr_pass pass)
{
    const hr_wino *w = pass == HR_PASS_FORWARD ? &c->fwd : &c->bwd;
    return w->wide ? w : NULL;
}

/* ---- packing ------------------------------------------------------------------------------------------- */

/* Windows of up to so many taps are turned into place by vectors, so many channels at a time. */
enum { FEW_TAPS = 9, AT_ONCE = 16 };

/* wf[o/pf][t][i][o%pf] */
static void pack_forward(hr_conv *c, const hr_kernels *k, const float *w)
{
    size_t taps = (size_t)c->taps, ci = (size_t)c->ci, co = (size_t)c->co, pf = (size_t)c->panel_f;
    float side[AT_ONCE * FEW_TAPS * 2 * HR_MAX_VW] __attribute__((aligned(64)));
    for (size_t o0 = 0; o0 < co; o0 += pf) {
        float *panel = c->wf + o0 * taps * ci;
        const float *from = w + o0 * ci * taps;
        int n = (int)(co - o0 < pf ? co - o0 : pf);
        if (taps == 1) {
            k->turn(n, c->ci, from, ci, panel, (ptrdiff_t)pf, false);
            continue;
        }
        for (size_t i0 = 0; i0 < ci && taps <= FEW_TAPS; i0 += AT_ONCE) {
            size_t ni = ci - i0 < AT_ONCE ? ci - i0 : AT_ONCE;
            k->turn(n, (int)(ni * taps), from + i0 * taps, ci * taps, side, (ptrdiff_t)pf, false);
            for (size_t r = 0; r < ni * taps; r++)
                memcpy(panel + (r % taps * ci + i0 + r / taps) * pf, side + r * pf, (size_t)n * sizeof *side);
        }
        for (size_t o = 0; o < (size_t)n && taps > FEW_TAPS; o++)
            for (size_t i = 0; i < ci; i++)
                for (size_t t = 0; t < taps; t++)
                    panel[(t * ci + i) * pf + o] = from[(o * ci + i) * taps + t];
    }
}

/* wb[j/pb][o][j%pb], column j = t*ci + i */
static void pack_gathered(hr_conv *c, const float *w)
{
    size_t taps = (size_t)c->taps, ci = (size_t)c->ci, co = (size_t)c->co, pb = (size_t)c->panel_b;
    for (size_t o = 0; o < co; o++)
        for (size_t i = 0; i < ci; i++)
            for (size_t t = 0; t < taps; t++) {
                size_t j = t * ci + i;
                c->wb[(j / pb * co + o) * pb + j % pb] = w[(o * ci + i) * taps + t];
            }
}

/* wb[i/pb][tap of the class][o][i%pb]; columns in the inner loop, so that whole lines are written. */
static void pack_class(hr_conv *c, const hr_conv_class *g, const float *w)
{
    size_t taps = (size_t)c->taps, ci = (size_t)c->ci, co = (size_t)c->co, pb = (size_t)c->panel_b,
           nt = (size_t)g->ntaps;
    for (size_t i0 = 0; i0 < ci; i0 += pb) {
        float *panel = c->wb + g->packed + i0 * nt * co;
        size_t n = ci - i0 < pb ? ci - i0 : pb;
        for (size_t t = 0; t < nt; t++)
            for (size_t o = 0; o < co; o++, panel += pb)
                for (size_t i = 0; i < n; i++)
                    panel[i] = w[(o * ci + i0 + i) * taps + (size_t)g->tap[t]];
    }
}

/* All classes of a window of few taps. */
static void pack_classes(hr_conv *c, const hr_kernels *k, const float *w)
{
    size_t taps = (size_t)c->taps, ci = (size_t)c->ci, co = (size_t)c->co, pb = (size_t)c->panel_b;
    float side[FEW_TAPS * 2 * HR_MAX_VW] __attribute__((aligned(64)));
    for (size_t i0 = 0; i0 < ci; i0 += pb) {
        size_t n = ci - i0 < pb ? ci - i0 : pb;
        for (size_t o = 0; o < co; o++) {
            const float *from = w + (o * ci + i0) * taps;
            bool beyond = (o * ci + i0 + n) * taps + HR_MAX_VW <= co * ci * taps;
            if (taps > 1)
                k->turn((int)n, c->taps, from, taps, side, (ptrdiff_t)pb, beyond);
            for (int q = 0; q < c->nclass; q++) {
                const hr_conv_class *g = &c->cls[q];
                size_t nt = (size_t)g->ntaps;
                for (size_t t = 0; t < nt; t++)
                    memcpy(c->wb + g->packed + i0 * nt * co + (t * co + o) * pb,
                           taps > 1 ? side + (size_t)g->tap[t] * pb : from, n * sizeof *side);
            }
        }
    }
}

void hr_conv_pack(hr_conv *c, const hr_kernels *k, const float *w, enum hr_pass pass)
{
    bool forward = pass == HR_PASS_FORWARD;
    if (c->fwd.u)
        hr_wino_pack(forward ? &c->fwd : &c->bwd, k, w, !forward);
    else if (forward)
        pack_forward(c, k, w);
    else if (c->gather && c->wb)
        pack_gathered(c, w);
    else if (c->taps <= FEW_TAPS)
        pack_classes(c, k, w);
    else
        for (int q = 0; q < c->nclass; q++)
            pack_class(c, &c->cls[q], w);
}

/* ---- scratch ------------------------------------------------------------------------------------------- */

/* One thread's scratch: pointers, then floats. */
typedef struct work {
    const float **ptr;
    float *val;
} work;

static size_t pointer_count(const hr_conv *c, const hr_kernels *k)
{
    size_t block = (size_t)(MOST_TILES * k->mr) * (size_t)c->taps;
    return block > DW_PIXELS ? block : DW_PIXELS;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t dw_floats(const hr_kernels *k)
{
    return (size_t)HR_DW_COLUMNS * DW_PIXELS + hr_outer_room(k, HR_DW_ROWS);
}

size_t hr_conv_scratch(const hr_conv *c, const hr_kernels *k, bool dw)
{
    if (c->fwd.u) {
        size_t bytes = larger(hr_wino_scratch(&c->fwd), hr_wino_scratch(&c->bwd));
        return dw ? larger(bytes, hr_wino_dw_scratch(&c->fwd)) : bytes;
    }
    size_t block = (size_t)(MOST_TILES * k->mr), depth = (size_t)c->taps * (size_t)c->ci;
    size_t values = block * (size_t)c->ci; /* a dx block before it is scattered */
    if (c->gather)
        values = (block + (size_t)c->hout * (size_t)c->wout) * depth;
    if (dw)
        values = larger(values, dw_floats(k) + (c->gather ? DW_PIXELS * depth : 0));
    return pointer_count(c, k) * sizeof(float *) + (values + 2 * HR_SLACK) * sizeof(float);
}

static work lay_out(void *scratch, const hr_conv *c, const hr_kernels *k)
{
    return (work){scratch, (float *)((const float **)scratch + pointer_count(c, k))};
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

/* Walks pixel rows of a chunk: row r is pixel p of sample s. */
typedef struct row {
    int s, p;
} row;

static inline row row_at(int r, int per_sample)
{
    return (row){r / per_sample, r % per_sample};
}

static inline void row_next(row *r, int per_sample)
{
    if (++r->p == per_sample) {
        r->p = 0;
        r->s++;
    }
}

/* Pointers [tile][tap][mr] for rows [r0, r0+n) of an operand whose samples are `stride` floats apart; off is
 * (pixel, ntaps). Rows that fill up the last tile repeat the last valid one. */
static void point_rows(const float **ptr, const float *base, size_t stride, const int32_t *off, int ntaps,
                       int per_sample, int r0, int n, int mr)
{
    row at = row_at(r0, per_sample);
    for (int i = 0; i < n; i++) {
        const int32_t *o = off + (size_t)at.p * (size_t)ntaps;
        const float *sample = base + (size_t)at.s * stride;
        const float **p = ptr + (size_t)(i / mr) * (size_t)(ntaps * mr) + i % mr;
        for (int t = 0; t < ntaps; t++)
            p[t * mr] = o[t] < 0 ? hr_zeros : sample + o[t];
        row_next(&at, per_sample);
    }
    for (int i = n; i % mr; i++) {
        const float **p = ptr + (size_t)(i / mr) * (size_t)(ntaps * mr) + i % mr;
        for (int t = 0; t < ntaps; t++)
            p[t * mr] = p[t * mr - 1];
    }
}

/* The same for contiguous rows of `width` floats: one tap. */
static void point_plain(const float **ptr, const float *first, size_t width, int n, int mr)
{
    for (int i = 0; i < n; i++)
        ptr[i] = first + (size_t)i * width;
    for (int i = n; i % mr; i++)
        ptr[i] = ptr[i - 1];
}

/* Taps from t on, of the window with offsets o, whose pixels lie side by side: the rest of the window's row,
 * if all of it is in the map. */
static int taps_in_line(const hr_conv *c, const int32_t *o, int t)
{
    int end = (t / c->kw + 1) * c->kw;
    return o[t] >= 0 && o[end - 1] >= 0 ? end - t : 1;
}

/* Copy rows [r0, r0+n) of A together: col (n, taps*ci). */
static void gather_rows(const hr_conv *c, const float *x, int r0, int n, float *col)
{
    int per_sample = c->hout * c->wout;
    size_t sample = (size_t)c->hin * c->win * c->ci;
    row at = row_at(r0, per_sample);
    for (int i = 0; i < n; i++) {
        const int32_t *o = c->off + (size_t)at.p * (size_t)c->taps;
        const float *xs = x + (size_t)at.s * sample;
        for (int t = 0, run; t < c->taps; t += run) {
            run = taps_in_line(c, o, t);
            size_t len = (size_t)(run * c->ci);
            memcpy(col, o[t] < 0 ? hr_zeros : xs + o[t], len * sizeof *col);
            col += len;
        }
        row_next(&at, per_sample);
    }
}

/* c (n rows, columns, ldc) (+)= rows under ptr times packed panels b of `panel` columns, depth k per tap. All
 * row tiles go through one piece of a panel, so many taps as fit into the first-level cache, before the next
 * piece's turn; meanwhile that is fetched into the second-level cache. */
static void block_gemm(const hr_kernels *ker, const float *const *ptr, int n, int ntaps, int k,
                       const float *b, int panel, int columns, float *c, size_t ldc, bool add)
{
    int most = L1_FLOATS / (k * panel), step = most > 1 ? most : 1;
    for (int j = 0; j < columns; j += panel) {
        int w = columns - j < panel ? columns - j : panel;
        for (int t = 0; t == 0 || t < ntaps; t += step) { /* no taps make zeros */
            int taps = ntaps - t < step ? ntaps - t : step;
            size_t len = (size_t)taps * (size_t)k * (size_t)panel, fetched = 0;
            for (int i = 0; i < n; i += ker->mr) {
                ker->gemm(n - i < ker->mr ? n - i : ker->mr, w, panel, taps, k,
                          ptr + (size_t)i * (size_t)ntaps + (size_t)(t * ker->mr), b,
                          fetched < len ? b + len + fetched : b, c + (size_t)i * ldc + j, ldc, add || t > 0);
                fetched += (size_t)taps * (size_t)k * 16;
            }
            b += len;
        }
    }
}

/* Rows of a block, such that blocks are about equal: each reads all weights, the last one not for a few rows.
 */
static int block_rows(int rows, int mr)
{
    int tiles = div_up(rows, mr), blocks = (tiles + ROW_TILES / 2) / ROW_TILES;
    return div_up(tiles, blocks > 1 ? blocks : 1) * mr;
}

/* ---- forward ------------------------------------------------------------------------------------------- */

void hr_conv_forward(const hr_conv *c, const hr_kernels *k, const float *x, int ns, float *y,
                     const hr_epilogue *e, void *scratch)
{
    if (c->fwd.u) {
        hr_wino_run(&c->fwd, k, x, ns, y, e, false, scratch);
        return;
    }
    work w = lay_out(scratch, c, k);
    int pixels = c->hout * c->wout, rows = ns * pixels, block = block_rows(rows, k->mr);
    size_t co = (size_t)c->co, depth = (size_t)c->taps * (size_t)c->ci;
    bool finish = e && (e->scale || e->shift || e->res || e->relu);
    for (int r = 0; r < rows; r += block) {
        int n = rows - r < block ? rows - r : block;
        float *out = y + (size_t)r * co;
        int ntaps = 1, len = (int)depth;
        if (c->gather) {
            gather_rows(c, x, r, n, w.val);
            point_plain(w.ptr, w.val, depth, n, k->mr);
        } else if (c->plain) {
            point_plain(w.ptr, x + (size_t)r * (size_t)c->ci, (size_t)c->ci, n, k->mr);
        } else {
            ntaps = c->taps;
            len = c->ci;
            point_rows(w.ptr, x, (size_t)c->hin * c->win * c->ci, c->off, ntaps, pixels, r, n, k->mr);
        }
        block_gemm(k, w.ptr, n, ntaps, len, c->wf, c->panel_f, c->co, out, co, false);
        if (finish)
            k->affine((size_t)n, c->co, out, out, e->scale, e->shift, e->res ? e->res + (size_t)r * co : NULL,
                      e->relu);
        if (e && e->bits)
            k->signs((size_t)n * co, out, e->bits + (size_t)r * co / 8);
    }
}

/* ---- gradient to the input ------------------------------------------------------------------------------
 */

static void dx_class(const hr_conv *c, const hr_conv_class *g, const hr_kernels *k, const float *dy, int ns,
                     float *dx, const hr_epilogue *e, bool add, const work *w)
{
    int rows = ns * g->npix, block = block_rows(rows, k->mr), in_pixels = c->hin * c->win;
    size_t ci = (size_t)c->ci, sample_dy = (size_t)c->hout * c->wout * c->co;
    bool in_order = g->npix == in_pixels;
    for (int r = 0; r < rows; r += block) {
        int n = rows - r < block ? rows - r : block;
        if (c->plain)
            point_plain(w->ptr, dy + (size_t)r * (size_t)c->co, (size_t)c->co, n, k->mr);
        else
            point_rows(w->ptr, dy, sample_dy, g->off, g->ntaps, g->npix, r, n, k->mr);
        if (in_order) {
            block_gemm(k, w->ptr, n, g->ntaps, c->co, c->wb + g->packed, c->panel_b, c->ci,
                       dx + (size_t)r * ci, ci, add);
            if (e->gate)
                k->back_bits((size_t)n, c->ci, dx + (size_t)r * ci, e->gate + (size_t)r * ci / 8, NULL, false,
                             e->slope);
            continue;
        }
        block_gemm(k, w->ptr, n, g->ntaps, c->co, c->wb + g->packed, c->panel_b, c->ci, w->val, ci, false);
        row at = row_at(r, g->npix);
        for (int i = 0; i < n; i++) {
            size_t to = ((size_t)at.s * (size_t)in_pixels + (size_t)g->pix[at.p]) * ci;
            k->copy(ci, dx + to, w->val + (size_t)i * ci, add);
            if (e->gate)
                k->back_bits(1, c->ci, dx + to, e->gate + to / 8, NULL, false, e->slope);
            row_next(&at, g->npix);
        }
    }
}

/* dx of one sample through dA (col2im). */
static void dx_gathered(const hr_conv *c, const hr_kernels *k, const float *dy, float *dx, bool add,
                        const work *w)
{
    int pixels = c->hout * c->wout, block = block_rows(pixels, k->mr), depth = c->taps * c->ci;
    for (int r = 0; r < pixels; r += block) {
        int n = pixels - r < block ? pixels - r : block;
        point_plain(w->ptr, dy + (size_t)r * (size_t)c->co, (size_t)c->co, n, k->mr);
        block_gemm(k, w->ptr, n, 1, c->co, c->wb, c->panel_b, depth, w->val + (size_t)r * (size_t)depth,
                   (size_t)depth, false);
    }
    if (!add)
        memset(dx, 0, (size_t)c->hin * c->win * c->ci * sizeof *dx);
    const float *a = w->val;
    for (int p = 0; p < pixels; p++) {
        const int32_t *o = c->off + (size_t)p * (size_t)c->taps;
        for (int t = 0, run; t < c->taps; t += run) {
            run = taps_in_line(c, o, t);
            int len = o[t] >= 0 ? run * c->ci : 0;
            float *to = dx + (len ? o[t] : 0);
#pragma omp simd
            for (int j = 0; j < len; j++)
                to[j] += a[j];
            a += run * c->ci;
        }
    }
}

void hr_conv_dx(const hr_conv *c, const hr_kernels *k, const float *dy, int ns, float *dx,
                const hr_epilogue *e, bool add, void *scratch)
{
    if (c->bwd.u) {
        hr_wino_run(&c->bwd, k, dy, ns, dx, e, add, scratch);
        return;
    }
    work w = lay_out(scratch, c, k);
    if (!c->gather) {
        for (int q = 0; q < c->nclass; q++)
            dx_class(c, &c->cls[q], k, dy, ns, dx, e, add, &w);
        return;
    }
    size_t sample_x = (size_t)c->hin * c->win * c->ci, sample_y = (size_t)c->hout * c->wout * c->co;
    for (int s = 0; s < ns; s++)
        dx_gathered(c, k, dy + (size_t)s * sample_y, dx + (size_t)s * sample_x, add, &w);
}

/* ---- gradient to the weights -----------------------------------------------------------------------------
 */

/* Pixels [r, r+n) of tap t. */
static void point_tap(const hr_conv *c, const float *x, int r, int n, int t, const float **ptr)
{
    int pixels = c->hout * c->wout;
    size_t sample = (size_t)c->hin * c->win * c->ci;
    row at = row_at(r, pixels);
    for (int i = 0; i < n; i++) {
        int32_t o = c->off[(size_t)at.p * (size_t)c->taps + (size_t)t];
        ptr[i] = o < 0 ? hr_zeros : x + (size_t)at.s * sample + o;
        row_next(&at, pixels);
    }
}

void hr_conv_dw(const hr_conv *c, const hr_kernels *k, const float *x, const float *dy, int ns, int r0,
                int r1, int o0, int o1, float *part, void *scratch)
{
    if (c->fwd.u) {
        hr_wino_dw(&c->fwd, k, x, dy, ns, part, scratch);
        return;
    }
    work w = lay_out(scratch, c, k);
    int pixels = ns * c->hout * c->wout, depth = c->taps * c->ci, tap = c->gather ? depth : c->ci;
    size_t co = (size_t)c->co, ld = (size_t)(o1 - o0);
    float *room = w.val + (c->gather ? (size_t)DW_PIXELS * (size_t)depth : 0);
    float *panels = c->co >= PACK_FROM ? room : NULL,
          *strips = tap >= PACK_FROM ? room + (size_t)HR_DW_COLUMNS * DW_PIXELS : NULL;
    for (int p = 0; p < pixels; p += DW_PIXELS) {
        int np = pixels - p < DW_PIXELS ? pixels - p : DW_PIXELS;
        if (c->gather) {
            gather_rows(c, x, p, np, w.val);
            point_plain(w.ptr, w.val, (size_t)depth, np, 1);
        }
        for (int o = o0, oe; o < o1; o = oe) {
            oe = o1 - o < HR_DW_COLUMNS ? o1 : o + HR_DW_COLUMNS;
            const float *d = dy + (size_t)p * co;
            if (panels)
                k->panels(oe - o, np, d + o, co, panels);
            for (int r = r0, re; r < r1; r = re) {
                int t = r / tap, end = (t + 1) * tap < r1 ? (t + 1) * tap : r1;
                re = end - r < HR_DW_ROWS ? end : r + HR_DW_ROWS;
                if (!c->gather)
                    point_tap(c, x, p, np, t, w.ptr);
                hr_outer_block(k, w.ptr, np, r - t * tap, re - t * tap, d + o, co, panels, oe - o, strips,
                               part + (size_t)(r - r0) * ld + (size_t)(o - o0), ld, p > 0);
            }
        }
    }
}
