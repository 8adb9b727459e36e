/* lib/compute/cpu/wino.c -- 3x3 convolution of stride 1 by Winograd's minimal filtering (Lavin & Gray 2016,
 * arXiv:1509.09308); tiles.c has the algebra of one tile.
 *
 * The map is cut into tiles of m x m outputs. With V_p (tiles, ci) the transformed inputs at point p of the
 * T*T points, and U_p (ci, co) the transformed weights, the sums over channels are T*T matrix products M_p
 * (tiles, co) = V_p U_p, and M is transformed back into pixels. They are done for a block of tiles at a time,
 * so that V and M of a block stay in the second-level cache:
 *
 *     V  [point][tile][channel]      a tile's row has ldv floats, whole vectors
 *     U  [point][panel][ci][panel]   packed as the gemm kernel likes it, made once per change of the weights
 *     M  [point][tile][channel]      ldm floats, whole panels
 *
 * Points are a few floats more than a power of two apart: a tile's T*T rows would otherwise fall into the
 * same sets of the first-level cache. A tile's result depends neither on the block nor on the tiles beside
 * it.
 *
 * Where U is wider than the caches and tiles are few, reading U is what takes the time. Then threads put
 * their tiles into one V, and each multiplies some of the points (team.h).
 *
 * The gradient to the input is the same convolution of dy with turned weights and padding 2 - pad. That to
 * the weights is, per point, dU_p (ci, co) = V_p' D_p with the transformed gradients D (tiles, co), summed
 * over the tiles in an order that is always the same, and transformed back. Layers with few channels do that
 * chunk by chunk (hr_wino_dw), with blocks of V and D in the cache. With many channels dU is what does not
 * fit, and there are few tiles: then V and D of many samples are made first, and a task is a block of
 * channels: the products of all points, which stay in the second-level cache, and their way back. */
#include "compute/cpu/wino.h"

#include "base/base.h"
#include "compute/compute.h"
#include "compute/cpu/outer.h"

#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

static int div_up(int a, int b)
{
    return (a + b - 1) / b;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

int64_t hr_wino_cost(int m, int h, int w)
{
    return (int64_t)div_up(h, m) * div_up(w, m) * (m + 2) * (m + 2);
}

/* ---- planning ------------------------------------------------------------------------------------------ */

/* Offsets of the n x n pixels of each tile, whose corner is m*tile - pad, in an h x w map of c channels. */
static int32_t *tile_offsets(const hr_wino *w, int across, int n, int pad, int height, int width, int c)
{
    int32_t *off = hr_xmalloc((size_t)(w->tiles * n * n) * sizeof *off), *o = off;
    for (int tile = 0; tile < w->tiles; tile++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                int y = tile / across * w->m - pad + i, x = tile % across * w->m - pad + j;
                *o++ = y >= 0 && y < height && x >= 0 && x < width ? (y * width + x) * c : -1;
            }
    return off;
}

enum { WIDE = 8 << 20 }; /* bytes of weights that no second-level cache holds */

/* Tiles of a block: what leaves V and M in about half of a core's second-level cache, but enough rows per
 * product that reading U is not what takes the time. */
static int block_tiles(const hr_wino *w, const hr_kernels *k)
{
    size_t tile = (size_t)w->points * (w->ldv + w->ldm) * sizeof(float);
    int n = (int)(hr_l2_bytes() / 2 / tile) / k->mr * k->mr, least = div_up(48, k->mr) * k->mr;
    return n < least ? least : n;
}

void hr_wino_plan(hr_wino *w, const hr_kernels *k, int m, int ci, int hin, int win, int co, int hout,
                  int wout, int pad)
{
    int across = div_up(wout, m), panel = hr_panel_width(k, co);
    *w = (hr_wino){.m = m,
                   .t = m + 2,
                   .points = (m + 2) * (m + 2),
                   .ci = ci,
                   .co = co,
                   .in_len = (size_t)ci * (size_t)hin * (size_t)win,
                   .out_len = (size_t)co * (size_t)hout * (size_t)wout,
                   .tiles = across * div_up(hout, m),
                   .panel = panel};
    w->in_off = tile_offsets(w, across, w->t, pad, hin, win, ci);
    w->out_off = tile_offsets(w, across, m, 0, hout, wout, co);
    w->ldv = round_up((size_t)ci, (size_t)k->vw);
    w->ldm = round_up((size_t)co, (size_t)panel);
    w->block = block_tiles(w, k);
    w->v_step = (size_t)w->block * w->ldv + 16;
    w->m_step = (size_t)w->block * w->ldm + 16;
    w->u_step = (size_t)ci * w->ldm + 16;
    size_t weights = (size_t)w->points * w->u_step + HR_SLACK;
    w->wide = weights * sizeof *w->u > WIDE;
    w->u = hr_xaligned(weights, sizeof *w->u);
    w->bytes = weights * sizeof *w->u + (size_t)w->tiles * (size_t)(w->points + m * m) * sizeof *w->in_off;
}

void hr_wino_release(hr_wino *w)
{
    free(w->in_off);
    free(w->out_off);
    free(w->u);
}

/* 3x3 kernels of input channels [i0, i0+ni) for output channels [o0, o0+n), side by side: side (ni, 9,
 * panel). */
static void line_up(const hr_wino *w, const hr_kernels *k, const float *g, bool flip, size_t i0, size_t ni,
                    size_t o0, size_t n, float *side)
{
    size_t panel = (size_t)w->panel, ci = (size_t)w->ci, co = (size_t)w->co;
    if (!flip)
        k->turn((int)n, (int)ni * 9, g + (o0 * ci + i0) * 9, ci * 9, side, (ptrdiff_t)panel, false);
    for (size_t i = 0; flip && i < ni; i++) {
        size_t first = (i0 + i) * co + o0;
        bool beyond = (first + n + 2) <= ci * co; /* kernels that can be read behind these */
        k->turn((int)n, 9, g + first * 9, 9, side + (i * 9 + 8) * panel, -(ptrdiff_t)panel, beyond);
    }
}

void hr_wino_pack(hr_wino *w, const hr_kernels *k, const float *g, bool flip)
{
    enum { AT_ONCE = 16 };
    bool far =
        (size_t)w->points * w->u_step * sizeof *w->u > hr_l2_bytes(); /* read again from there anyway */
    float side[AT_ONCE * 9 * 2 * HR_MAX_VW] __attribute__((aligned(64))) = {0};
    size_t panel = (size_t)w->panel, ci = (size_t)w->ci, co = (size_t)w->co;
    for (size_t o0 = 0; o0 < co; o0 += panel) {
        size_t n = co - o0 < panel ? co - o0 : panel;
        if (n < panel) /* the columns behind the last channel */
            memset(side, 0, sizeof side);
        for (size_t i0 = 0; i0 < ci; i0 += AT_ONCE) {
            size_t ni = ci - i0 < AT_ONCE ? ci - i0 : AT_ONCE;
            line_up(w, k, g, flip, i0, ni, o0, n, side);
            for (size_t i = 0; i < ni; i++)
                k->wino->weight(w->m, w->panel, side + i * 9 * panel, w->u + o0 * ci + (i0 + i) * panel,
                                w->u_step, far);
        }
    }
#if defined(__SSE__)
    _mm_sfence(); /* what passed the caches is there before the next thing that this thread says */
#endif
}

/* ---- running ------------------------------------------------------------------------------------------- */

/* Room for the two tile buffers of `rows` tiles. */
typedef struct work {
    const float **ptr; /* (rows, whole gemm tiles) */
    float *v, *m;
    size_t v_step, m_step;
} work;

size_t hr_wino_scratch(const hr_wino *w)
{
    return round_up((size_t)w->block * sizeof(float *), 64) +
           ((size_t)w->points * (w->v_step + w->m_step) + 2 * HR_SLACK) * sizeof(float);
}

static work lay_out(const hr_wino *w, void *scratch)
{
    float *v = (float *)((char *)scratch + round_up((size_t)w->block * sizeof(float *), 64));
    return (work){scratch, v, v + (size_t)w->points * w->v_step + HR_SLACK, w->v_step, w->m_step};
}

/* Tiles [r, r+n) of x into rows [at, at+n) of V. */
static void transform_in(const hr_wino *w, const hr_kernels *k, const work *b, const float *x, int r, int n,
                         int at)
{
    for (int i = 0; i < n; i++) {
        size_t s = (size_t)((r + i) / w->tiles), tile = (size_t)((r + i) % w->tiles);
        k->wino->in(w->m, w->ci, x + s * w->in_len, w->in_off + tile * (size_t)w->points,
                    b->v + (size_t)(at + i) * w->ldv, b->v_step);
    }
}

/* M_p = V_p U_p for n tiles and points [p0,p1). The tiles are rounded up to whole gemm tiles: the rows behind
 * repeat the last. */
static void multiply(const hr_wino *w, const hr_kernels *k, const work *b, int n, int p0, int p1)
{
    size_t panel_len = (size_t)w->ci * (size_t)w->panel;
    for (int p = p0; p < p1; p++) {
        const float *v = b->v + (size_t)p * b->v_step, *u = w->u + (size_t)p * w->u_step;
        float *m = b->m + (size_t)p * b->m_step;
        for (int i = 0; i < n || i % k->mr; i++)
            b->ptr[i] = v + (size_t)(i < n ? i : n - 1) * w->ldv;
        for (size_t j = 0; j < w->ldm; j += (size_t)w->panel, u += panel_len)
            for (size_t i = 0, fetched = 0; i < (size_t)n; i += (size_t)k->mr, fetched += (size_t)w->ci * 16)
                k->gemm(n - (int)i < k->mr ? n - (int)i : k->mr, w->panel, w->panel, 1, w->ci, b->ptr + i, u,
                        fetched < panel_len ? u + panel_len + fetched : u, m + i * w->ldm + j, w->ldm, false);
    }
}

/* Rows [at, at+n) of M back into the pixels of tiles [r, r+n) of y. */
static void transform_out(const hr_wino *w, const hr_kernels *k, const work *b, int r, int n, int at,
                          float *y, const hr_epilogue *e, bool add)
{
    for (int i = 0; i < n; i++) {
        size_t s = (size_t)((r + i) / w->tiles), tile = (size_t)((r + i) % w->tiles);
        hr_epilogue here = *e;
        if (e->res)
            here.res += s * w->out_len;
        if (e->bits)
            here.bits += s * w->out_len / 8;
        if (e->gate)
            here.gate += s * w->out_len / 8;
        k->wino->out(w->m, w->co, b->m + (size_t)(at + i) * w->ldm, b->m_step,
                     w->out_off + tile * (size_t)(w->m * w->m), y + s * w->out_len, &here, add);
    }
}

void hr_wino_run(const hr_wino *w, const hr_kernels *k, const float *x, int ns, float *y,
                 const hr_epilogue *e, bool add, void *scratch)
{
    work b = lay_out(w, scratch);
    int total = ns * w->tiles;
    for (int r = 0; r < total; r += w->block) {
        int n = total - r < w->block ? total - r : w->block;
        transform_in(w, k, &b, x, r, n, 0);
        multiply(w, k, &b, n, 0, w->points);
        transform_out(w, k, &b, r, n, 0, y, e, add);
    }
}

/* ---- several threads ----------------------------------------------------------------------------------- */

size_t hr_wino_shared_room(const hr_wino *w, int rows)
{
    return (size_t)w->points * ((size_t)rows * (w->ldv + w->ldm) + 2 * 16) + 2 * HR_SLACK;
}

static work lay_out_shared(const hr_wino *w, const float **ptr, int rows, float *room)
{
    work b = {ptr, room, NULL, (size_t)rows * w->ldv + 16, (size_t)rows * w->ldm + 16};
    b.m = room + (size_t)w->points * b.v_step + HR_SLACK;
    return b;
}

void hr_wino_shared_in(const hr_wino *w, const hr_kernels *k, const float *x, int ns, int at, int rows,
                       float *room)
{
    work b = lay_out_shared(w, NULL, rows, room);
    transform_in(w, k, &b, x, 0, ns * w->tiles, at);
}

void hr_wino_shared_multiply(const hr_wino *w, const hr_kernels *k, int rows, int p0, int p1, float *room)
{
    const float *ptr[HR_WINO_SHARED_ROWS + HR_MAX_MR];
    work b = lay_out_shared(w, ptr, rows, room);
    multiply(w, k, &b, rows, p0, p1);
}

void hr_wino_shared_out(const hr_wino *w, const hr_kernels *k, int ns, int at, int rows, float *room,
                        float *y, const hr_epilogue *e, bool add)
{
    work b = lay_out_shared(w, NULL, rows, room);
    transform_out(w, k, &b, 0, ns * w->tiles, at, y, e, add);
}

/* ---- gradient to the weights ----------------------------------------------------------------------------
 */

enum {
    DW_TILES = 64, /* tiles of a block, chunk by chunk */
    SUM_TILES =
        HR_OUTER_DEPTH, /* tiles whose products are summed in registers: part of what the bits depend on */
    GROUP_FLOATS = 12 << 20,       /* room for V and D of a group */
    SIDE = 64,                     /* input and output channels of a block */
    POINT_STEP = SIDE * SIDE + 16, /* floats from a point's product to the next in a block ... */
    TURNED = 16,                   /* input channels whose weights are put into place together */
    TAP_STEP = SIDE + 16           /* floats from a tap of theirs to the next */
};

/* Transformed inputs and gradients of some tiles, and the sums. */
typedef struct sums {
    float *v, *d, *du;
    size_t v_step, d_step, du_step;
} sums;

static sums lay_out_sums(const hr_wino *w, int tiles, float *room)
{
    sums s = {.v_step = (size_t)tiles * w->ldv + 16, .d_step = (size_t)tiles * w->ldm + 16};
    s.du_step = (size_t)w->ci * w->ldm + 16;
    s.du = room;
    s.v = s.du + (size_t)w->points * s.du_step;
    s.d = s.v + (size_t)w->points * s.v_step;
    return s;
}

static size_t sums_floats(const hr_wino *w, int tiles)
{
    sums s = lay_out_sums(w, tiles, NULL);
    return (size_t)w->points * (s.du_step + s.v_step + s.d_step) + HR_SLACK;
}

/* Transform tiles [r, r+n) of x and dy into rows [at, at+n). */
static void transform(const hr_wino *w, const hr_kernels *k, const float *x, const float *dy, int r, int n,
                      const sums *s, int at)
{
    for (int i = 0; i < n; i++) {
        size_t sample = (size_t)((r + i) / w->tiles), tile = (size_t)((r + i) % w->tiles),
               row = (size_t)(at + i);
        k->wino->in(w->m, w->ci, x + sample * w->in_len, w->in_off + tile * (size_t)w->points,
                    s->v + row * w->ldv, s->v_step);
        k->wino->grad(w->m, w->co, dy + sample * w->out_len, w->out_off + tile * (size_t)(w->m * w->m),
                      s->d + row * w->ldm, s->d_step);
    }
}

/* dU_p (+)= V_p' D_p over n tiles. */
static void sum_point(const hr_wino *w, const hr_kernels *k, const sums *s, int p, int n, bool add)
{
    const float *v = s->v + (size_t)p * s->v_step, *d = s->d + (size_t)p * s->d_step, *row[SUM_TILES];
    float *du = s->du + (size_t)p * s->du_step;
    for (int r = 0; r < n; r += SUM_TILES) {
        int np = n - r < SUM_TILES ? n - r : SUM_TILES;
        for (int i = 0; i < np; i++)
            row[i] = v + (size_t)(r + i) * w->ldv;
        for (int i = 0; i < w->ci; i += k->mo)
            for (size_t j = 0; j < w->ldm; j += (size_t)w->panel)
                k->outer(w->ci - i < k->mo ? w->ci - i : k->mo, w->panel, w->panel, np, row, (size_t)i,
                         d + (size_t)r * w->ldm + j, w->ldm, du + (size_t)i * w->ldm + j, w->ldm,
                         add || r > 0);
    }
}

size_t hr_wino_dw_scratch(const hr_wino *w)
{
    return sums_floats(w, DW_TILES) * sizeof(float);
}

void hr_wino_dw(const hr_wino *w, const hr_kernels *k, const float *x, const float *dy, int ns, float *part,
                void *scratch)
{
    sums s = lay_out_sums(w, DW_TILES, scratch);
    int total = ns * w->tiles;
    for (int r = 0; r < total; r += DW_TILES) {
        int n = total - r < DW_TILES ? total - r : DW_TILES;
        transform(w, k, x, dy, r, n, &s, 0);
        for (int p = 0; p < w->points; p++)
            sum_point(w, k, &s, p, n, r > 0);
    }
    size_t co = (size_t)w->co;
    for (size_t i = 0; i < (size_t)w->ci; i++)
        k->wino->weight_grad(w->m, w->co, s.du + i * w->ldm, s.du_step, part + i * co, (size_t)w->ci * co);
}

int hr_wino_group(const hr_wino *w, int batch)
{
    size_t sample = (size_t)w->tiles * (size_t)w->points * (w->ldv + w->ldm);
    int n = (int)(GROUP_FLOATS / sample) / HR_CHUNK * HR_CHUNK;
    n = n < HR_CHUNK ? HR_CHUNK : n;
    return n < batch ? n : batch;
}

/* V and D of a group, SIDE channels after another, so that a block reads both from end to end:
 * [channel/SIDE][point][tile][SIDE]. */
typedef struct parts {
    float *v, *d;
    size_t point, part; /* floats from one to the next */
} parts;

static parts lay_out_group(const hr_wino *w, float *room)
{
    size_t tiles = (size_t)w->group * (size_t)w->tiles;
    parts g = {.v = room, .point = tiles * SIDE + 16};
    g.part = (size_t)w->points * g.point;
    g.d = g.v + (size_t)div_up(w->ci, SIDE) * g.part;
    return g;
}

size_t hr_wino_room(const hr_wino *w)
{
    return (size_t)(div_up(w->ci, SIDE) + div_up(w->co, SIDE)) * lay_out_group(w, NULL).part + HR_SLACK;
}

static int side(int n, int from)
{
    return n - from < SIDE ? n - from : SIDE;
}

void hr_wino_gather(const hr_wino *w, const hr_kernels *k, const float *x, const float *dy, int at, int ns,
                    float *room)
{
    parts g = lay_out_group(w, room);
    for (int i = 0; i < ns * w->tiles; i++) {
        size_t sample = (size_t)(i / w->tiles), tile = (size_t)(i % w->tiles),
               row = (size_t)(at * w->tiles + i) * SIDE;
        for (int c = 0; c < w->ci; c += SIDE)
            k->wino->in(w->m, side(w->ci, c), x + sample * w->in_len + c,
                        w->in_off + tile * (size_t)w->points, g.v + (size_t)(c / SIDE) * g.part + row,
                        g.point);
        for (int c = 0; c < w->co; c += SIDE)
            k->wino->grad(w->m, side(w->co, c), dy + sample * w->out_len + c,
                          w->out_off + tile * (size_t)(w->m * w->m), g.d + (size_t)(c / SIDE) * g.part + row,
                          g.point);
    }
}

int hr_wino_blocks(const hr_wino *w)
{
    return div_up(w->ci, SIDE) * div_up(w->co, SIDE);
}

/* A thread's room for a block: the products, operands packed, and weights on their way into place. */
typedef struct block {
    float *du, *panels, *strips, *taps;
    size_t floats;
} block;

static block lay_out_block(const hr_wino *w, const hr_kernels *k, float *room)
{
    size_t du = (size_t)w->points * POINT_STEP, panels = (size_t)SUM_TILES * SIDE,
           strips = hr_outer_room(k, SIDE), taps = (size_t)TURNED * 9 * TAP_STEP;
    return (block){room, room + du, room + du + panels, room + du + panels + strips,
                   du + panels + strips + taps + HR_SLACK};
}

size_t hr_wino_block_scratch(const hr_wino *w, const hr_kernels *k)
{
    return lay_out_block(w, k, NULL).floats * sizeof(float);
}

/* dU_p = V_p' D_p, ni by no channels over n tiles. */
static void block_point(const hr_kernels *k, const float *v, const float *d, int n, int ni, int no,
                        const block *b, float *du)
{
    const float *row[SUM_TILES];
    for (int r = 0; r < n; r += SUM_TILES, v += (size_t)SUM_TILES * SIDE, d += (size_t)SUM_TILES * SIDE) {
        int np = n - r < SUM_TILES ? n - r : SUM_TILES;
        for (int i = 0; i < np; i++)
            row[i] = v + (size_t)i * SIDE;
        k->panels(no, np, d, SIDE, b->panels);
        hr_outer_block(k, row, np, 0, ni, NULL, 0, b->panels, no, b->strips, du, SIDE, r > 0);
    }
}

/* Weights of input channels [i0,i1), output channels [o0,o1), into grad, from dU; an output channel's are
 * side by side there. */
static void put_block(const hr_wino *w, const hr_kernels *k, const block *b, const float *du, int i0, int i1,
                      int o0, int o1, bool add, float *grad)
{
    for (int i = i0; i < i1; i++)
        k->wino->weight_grad(w->m, o1 - o0, du + (size_t)(i - i0) * SIDE, POINT_STEP,
                             b->taps + (size_t)(i - i0) * 9 * TAP_STEP, TAP_STEP);
    size_t row = (size_t)w->ci * 9;
    float *to = grad + ((size_t)o0 * (size_t)w->ci + (size_t)i0) * 9;
    if (!add) {
        k->turn((i1 - i0) * 9, o1 - o0, b->taps, TAP_STEP, to, (ptrdiff_t)row, false);
        return;
    }
    for (int o = 0; o < o1 - o0; o++, to += row)
        for (int t = 0; t < (i1 - i0) * 9; t++)
            to[t] += b->taps[(size_t)t * TAP_STEP + (size_t)o];
}

void hr_wino_block(const hr_wino *w, const hr_kernels *k, int number, int n, bool add, float *room,
                   void *scratch, float *grad)
{
    parts g = lay_out_group(w, room);
    block b = lay_out_block(w, k, scratch);
    int down = div_up(w->ci, SIDE), i0 = number % down * SIDE, o0 = number / down * SIDE;
    int ni = side(w->ci, i0), no = side(w->co, o0);
    const float *v = g.v + (size_t)(number % down) * g.part, *d = g.d + (size_t)(number / down) * g.part;
    for (size_t p = 0; p < (size_t)w->points; p++)
        block_point(k, v + p * g.point, d + p * g.point, n * w->tiles, ni, no, &b, b.du + p * POINT_STEP);
    for (int i = 0; i < ni; i += TURNED)
        put_block(w, k, &b, b.du + (size_t)i * SIDE, i0 + i, i0 + (ni - i < TURNED ? ni : i + TURNED), o0,
                  o0 + no, add, grad);
}
