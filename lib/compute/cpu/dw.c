/* lib/compute/cpu/dw.c -- gradients to the parameters of a convolution, over a whole batch.
 *
 * Sums over samples are partial sums of chunks, merged in a fixed binary tree, whatever the number of
 * threads. Where the partial sums of dW are kept depends on their size:
 *
 * Chunk by chunk: small weights. Every chunk has a dW of its own; its thread makes it while the chunk's
 * values are warm, and then all threads add up the chunks, each some rows.
 *
 * By tiles: large weights. A tile of dW is one task that goes through all chunks, with one partial sum per
 * level of the tree.
 *
 * By groups: large weights and Winograd's algorithm. The threads transform a group of samples together, then
 * sum it block by block of channels; groups are added up one after the other. */
#include "compute/cpu/crew.h"

double hr_merge_sums(const hr_step *s, const crew *w, int which, int c)
{
    double v[w->chunks];
    for (int i = 0; i < w->chunks; i++)
        v[i] = part_of(s, i, which)[c];
    for (int half = 1; half < w->chunks; half *= 2)
        for (int i = 0; i + half < w->chunks; i += 2 * half)
            v[i] += v[i + half];
    return v[0];
}

static void add_into(float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        a[i] += b[i];
}

/* Put a tile of dW, rows [r0,r1) of taps*ci by columns [o0,o1), into the (co,ci,kh,kw) gradient. */
static void put_dw(const hr_conv *c, const float *tile, int r0, int r1, int o0, int o1, float *grad)
{
    size_t taps = (size_t)c->taps, ci = (size_t)c->ci, columns = (size_t)(o1 - o0);
    for (int o = o0; o < o1; o++) {
        const float *v = tile + (o - o0);
        size_t t = (size_t)r0 / ci, i = (size_t)r0 % ci;
        for (int r = r0; r < r1; t++, i = 0) {
            float *g = grad + (size_t)o * ci * taps + t;
            for (; i < ci && r < r1; i++, r++, v += columns)
                g[i * taps] = *v;
        }
    }
}

/* Chunk-wise partial sums are there: add them up in the tree, each thread some rows. */
static void reduce_dw(hr_exec *e, const hr_step *s, const crew *w, float *grad)
{
    const hr_conv *c = &s->conv;
    int lo, hi;
    share(w, c->taps * c->ci, &lo, &hi);
    size_t at = (size_t)lo * (size_t)c->co, n = (size_t)(hi - lo) * (size_t)c->co;
    double from = clock_of(e);
    for (int half = 1; half < w->chunks; half *= 2)
        for (int i = 0; i + half < w->chunks; i += 2 * half)
            add_into(e->dw_part + (size_t)i * e->dw_part_len + at,
                     e->dw_part + (size_t)(i + half) * e->dw_part_len + at, n);
    put_dw(c, e->dw_part + at, lo, hi, 0, c->co, grad);
    clocked(e, s, HR_PASS_DW, 0, &from);
}

/* Large weights: each tile, rows of one tap, is one task that goes through all chunks and keeps one partial
 * sum per level of the same tree, like the carries of a binary counter. */
static void tile_dw(hr_exec *e, const hr_step *s, const crew *w, float *grad)
{
    const hr_conv *c = &s->conv;
    int tap = c->gather ? c->taps * c->ci : c->ci, taps = c->taps * c->ci / tap;
    int down = (tap + HR_DW_ROWS - 1) / HR_DW_ROWS, across = (c->co + HR_DW_COLUMNS - 1) / HR_DW_COLUMNS;
#pragma omp for schedule(dynamic, 1)
    for (int tile = 0; tile < taps * down * across; tile++) {
        int t = tile / across / down, i0 = tile / across % down * HR_DW_ROWS,
            o0 = tile % across * HR_DW_COLUMNS;
        int i1 = tap - i0 < HR_DW_ROWS ? tap : i0 + HR_DW_ROWS,
            o1 = c->co - o0 < HR_DW_COLUMNS ? c->co : o0 + HR_DW_COLUMNS;
        int r0 = t * tap + i0, r1 = t * tap + i1, top = 0, size[64];
        size_t len = (size_t)(r1 - r0) * (size_t)(o1 - o0);
        double from = clock_of(e), share_of = (double)len / c->taps / c->ci / c->co, macs = 0;
        float *sum = e->tile[w->thread];
        for (int q = 0; q < w->chunks && !hr_interrupted(); q++) {
            size[top] = 1;
            hr_conv_dw(c, e->k, y_of(&e->steps[s->in], q * e->chunk), g_of(s, q * e->chunk),
                       chunk_at(e, q * e->chunk, w->n), r0, r1, o0, o1, sum + (size_t)top * e->tile_len,
                       e->scratch[w->thread]);
            macs += s->macs * chunk_at(e, q * e->chunk, w->n) * share_of;
            for (top++; top > 1 && (size[top - 2] == size[top - 1] || q == w->chunks - 1); top--) {
                add_into(sum + (size_t)(top - 2) * e->tile_len, sum + (size_t)(top - 1) * e->tile_len, len);
                size[top - 2] += size[top - 1];
            }
        }
        put_dw(c, sum, r0, r1, o0, o1, grad);
        clocked(e, s, HR_PASS_DW, macs, &from);
        e->tasks[w->thread]++;
    }
}

/* Large weights with Winograd's algorithm: groups of samples, in each of which all threads transform, then
 * sum. */
static void group_dw(hr_exec *e, const hr_step *s, const crew *w, float *grad)
{
    const hr_wino *f = &s->conv.fwd;
    int blocks = hr_wino_blocks(f);
    double from = clock_of(e), macs = 0;
    for (int g0 = 0; g0 < w->n; g0 += f->group) {
        int ng = w->n - g0 < f->group ? w->n - g0 : f->group;
#pragma omp for schedule(dynamic, 1)
        for (int n = 0; n < ng; n += e->chunk)
            if (!hr_interrupted())
                hr_wino_gather(f, e->k, y_of(&e->steps[s->in], g0 + n), g_of(s, g0 + n), n,
                               chunk_at(e, n, ng), e->room);
#pragma omp for schedule(dynamic, 1)
        for (int b = 0; b < blocks; b++) {
            if (!hr_interrupted())
                hr_wino_block(f, e->k, b, ng, g0 > 0, e->room, e->scratch[w->thread], grad);
            macs += s->macs * ng / blocks;
        }
    }
    e->tasks[w->thread]++;
    clocked(e, s, HR_PASS_DW, macs, &from);
}

/* Sums of g over each chunk, for a bias. */
static void bias_sums(hr_exec *e, hr_step *s, int n0, int ns)
{
    double from = clock_of(e);
    for (int n = n0; n < n0 + ns; n += e->chunk)
        e->k->grad_sums(false, (size_t)(chunk_at(e, n, n0 + ns)) * pixels(s), s->c, g_of(s, n), NULL, NULL,
                        false, NULL, NULL, NULL, part_of(s, n / e->chunk, 2), NULL);
    clocked(e, s, HR_PASS_REST, 0, &from);
}

/* The chunks' own dW. */
static void chunk_dw(hr_exec *e, const hr_step *s, int n0, int ns, void *scratch)
{
    double from = clock_of(e);
    for (int n = n0; n < n0 + ns; n += e->chunk)
        hr_conv_dw(&s->conv, e->k, y_of(&e->steps[s->in], n), g_of(s, n), chunk_at(e, n, n0 + ns), 0,
                   s->conv.taps * s->conv.ci, 0, s->conv.co,
                   e->dw_part + (size_t)(n / e->chunk) * e->dw_part_len, scratch);
    clocked(e, s, HR_PASS_DW, ns * s->macs, &from);
}

static float *grad_of(const hr_exec *e, const hr_step *s, int role)
{
    int t = e->m->nodes[s->node].param[role];
    return t < 0 ? NULL : e->grads[t];
}

void hr_dw_begin(hr_exec *e, hr_step *s, int n0, int ns, void *scratch)
{
    if (s->bias && grad_of(e, s, HR_P_BIAS))
        bias_sums(e, s, n0, ns);
    if (!s->dw_large)
        chunk_dw(e, s, n0, ns, scratch);
}

void hr_dw_finish(hr_exec *e, hr_step *s, const crew *w)
{
    float *grad = grad_of(e, s, HR_P_WEIGHT), *dbias = s->bias ? grad_of(e, s, HR_P_BIAS) : NULL;
    int lo, hi;
    share(w, s->c, &lo, &hi);
    for (int c = lo; dbias && c < hi; c++)
        dbias[c] = (float)hr_merge_sums(s, w, 2, c);
    if (!s->dw_large)
        reduce_dw(e, s, w, grad);
    else if (s->conv.fwd.u)
        group_dw(e, s, w, grad);
    else
        tile_dw(e, s, w, grad);
}
