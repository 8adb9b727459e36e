/* test/unit/test_wino.c -- Winograd's transforms against plain sums, one tile at a time and then in layers,
 * apart from any network; for every instruction set that this machine has.
 *
 * All plain sums are in double, from the definition:
 *     y[o](p)     = sum over i, t of x[i](p + t - pad) g[o][i](t)
 *     dx[i](q)    = sum over o, t of dy[o](q - t + pad) g[o][i](t)
 *     dg[o][i](t) = sum over p of x[i](p + t - pad) dy[o](p) */
#include "both.h"

#include "compute/cpu/wino.h"

enum { MAX_T = 6, MAX_CH = 2 * HR_MAX_VW + 3 };

static void draw(float *v, size_t n, uint32_t key)
{
    hr_fill_normal(v, n, 0, 1, key, HR_STREAM_TEST, 60, 0, 0);
}

/* Largest |a - b| and largest |b|, taken further. */
typedef struct worst {
    double off, top;
} worst;

static void take(worst *w, double a, double b)
{
    w->off = fmax(w->off, isnan(a) ? INFINITY : fabs(a - b));
    w->top = fmax(w->top, fabs(b));
}

static void assert_within(worst w, double bound, const char *what, int m)
{
    if (!(w.off <= bound * w.top) || w.top == 0)
        fail_msg("%s, F(%dx%d), %s: off by %.3g of %.3g (%.3g), bound %g", what, m, m, hr_compute_isa(),
                 w.off, w.top, w.off / w.top, bound);
}

/* ---- one tile ---------------------------------------------------------------------------------------- */

/* Largest error over largest result of all channels; the sets of x86-64 were seen to do 1.6e-7 and 1.0e-6, of
 * which this leaves a factor of 4. F(2x2) only adds (and halves): a few roundings of 6e-8. In F(4x4) the nine
 * products are differences of numbers that are several times as large. */
static double tile_bound(int m)
{
    return m == 2 ? 6e-7 : 4e-6;
}

/* One tile of `ch` channels, each a convolution of its own, with random numbers; or, whole: small integers.
 */
typedef struct tile {
    int m, t, ch;
    float x[MAX_T * MAX_T * MAX_CH + HR_SLACK], g[9 * MAX_CH + HR_SLACK];
    float dy[16 * MAX_CH + HR_SLACK];
    int32_t in_off[MAX_T * MAX_T], out_off[16];
    size_t step;
    float v[MAX_T * MAX_T * (MAX_CH + HR_MAX_VW)], u[MAX_T * MAX_T * (MAX_CH + HR_MAX_VW)];
} tile;

static void draw_tile(tile *d, int m, int ch, uint32_t key, bool whole)
{
    d->m = m;
    d->t = m + 2;
    d->ch = ch;
    d->step = MAX_CH + HR_MAX_VW;
    draw(d->x, HR_COUNT(d->x), key);
    draw(d->g, HR_COUNT(d->g), key + 1000);
    draw(d->dy, HR_COUNT(d->dy), key + 2000);
    for (size_t i = 0; whole && i < HR_COUNT(d->x); i++)
        d->x[i] = roundf(4 * d->x[i]);
    for (size_t i = 0; whole && i < HR_COUNT(d->g); i++)
        d->g[i] = roundf(4 * d->g[i]);
    for (int i = 0; i < d->t * d->t; i++)
        d->in_off[i] = i * ch;
    for (int i = 0; i < m * m; i++)
        d->out_off[i] = i * ch;
}

/* Pixel i of d->x as the kernels see it: those without an offset are zeros. */
static double pixel(const tile *d, int i, int c)
{
    return d->in_off[i] < 0 ? 0 : (double)d->x[d->in_off[i] + c];
}

static double grad_pixel(const tile *d, int i, int c)
{
    return d->out_off[i] < 0 ? 0 : (double)d->dy[d->out_off[i] + c];
}

/* Output pixel i of channel c by plain sums. */
static double plain_output(const tile *d, int i, int c)
{
    double sum = 0;
    for (int t = 0; t < 9; t++)
        sum += pixel(d, (i / d->m + t / 3) * d->t + i % d->m + t % 3, c) * (double)d->g[t * d->ch + c];
    return sum;
}

/* v = (G g G') * (B' x B) for every channel. Kernels lie side by side as whole vectors, as packing does it.
 */
static void multiply(tile *d)
{
    const hr_kernels *k = hr_kernels_get();
    int n = (d->ch + k->vw - 1) / k->vw * k->vw;
    float side[9 * (MAX_CH + HR_MAX_VW)] = {0};
    for (int t = 0; t < 9; t++)
        memcpy(side + t * n, d->g + t * d->ch, (size_t)d->ch * sizeof(float));
    k->wino->weight(d->m, n, side, d->u, d->step, false);
    k->wino->in(d->m, d->ch, d->x, d->in_off, d->v, d->step);
    for (int p = 0; p < d->t * d->t; p++)
        for (int c = 0; c < d->ch; c++)
            d->v[(size_t)p * d->step + (size_t)c] *= d->u[(size_t)p * d->step + (size_t)c];
}

static void test_weights_past_the_caches_are_the_same(void **state)
{
    (void)state;
    enum { N = 2 * HR_MAX_VW };
    const hr_wino_kernels *k = hr_kernels_get()->wino;
    float w[9 * N], u[2][36 * N] __attribute__((aligned(64)));
    hr_fill_normal(w, 9 * N, 0, 1, 1, HR_STREAM_TEST, 0, 0, 0);
    for (int m = 2; m <= 4; m += 2) {
        for (int far = 0; far < 2; far++)
            k->weight(m, N, w, u[far], N, far);
        assert_memory_equal(u[0], u[1], (size_t)((m + 2) * (m + 2) * N) * sizeof(float));
    }
}

static void test_a_tile_is_nine_multiplications_per_pixel(void **state)
{
    (void)state;
    const hr_wino_kernels *k = hr_kernels_get()->wino;
    static tile d;
    for (int m = 2; m <= 4; m += 2) {
        worst w = {0};
        for (int ch = 1; ch <= MAX_CH; ch++) {
            float y[16 * MAX_CH + HR_SLACK];
            draw_tile(&d, m, ch, (uint32_t)ch, false);
            multiply(&d);
            k->out(m, ch, d.v, d.step, d.out_off, y, &(hr_epilogue){0}, false);
            for (int i = 0; i < m * m; i++)
                for (int c = 0; c < ch; c++)
                    take(&w, (double)y[i * ch + c], plain_output(&d, i, c));
        }
        assert_within(w, tile_bound(m), "tile", m);
    }
}

/* Every number on the way is a multiple of a quarter below 2^16: nothing is rounded. */
static void test_f2_is_exact_on_small_integers(void **state)
{
    (void)state;
    const hr_wino_kernels *k = hr_kernels_get()->wino;
    static tile d;
    for (uint32_t key = 0; key < 20; key++) {
        float y[16 * MAX_CH + HR_SLACK];
        draw_tile(&d, 2, MAX_CH, key, true);
        multiply(&d);
        k->out(2, d.ch, d.v, d.step, d.out_off, y, &(hr_epilogue){0}, false);
        for (int i = 0; i < 4; i++)
            for (int c = 0; c < d.ch; c++)
                assert_true((double)y[i * d.ch + c] == plain_output(&d, i, c));
    }
}

/* Each epilogue with the next: scale, shift, residual, ReLU, and sums into what is there; pixels outside the
 * map read as zeros and are not written, nor is anything between or behind the channels. */
static void test_a_tile_at_the_edge_ends_in_its_epilogue_and_writes_its_pixels_only(void **state)
{
    (void)state;
    const hr_wino_kernels *k = hr_kernels_get()->wino;
    static tile d;
    float scale[MAX_CH + HR_SLACK], shift[MAX_CH + HR_SLACK], res[16 * MAX_CH + HR_SLACK],
        before[16 * MAX_CH + HR_SLACK], y[16 * MAX_CH + HR_SLACK];
    draw(scale, HR_COUNT(scale), 71);
    draw(shift, HR_COUNT(shift), 72);
    draw(res, HR_COUNT(res), 73);
    draw(before, HR_COUNT(before), 74);
    for (int m = 2; m <= 4; m += 2) {
        worst w = {0};
        for (int how = 0; how < 32; how++) {
            int ch = 1 + how * 7 % MAX_CH;
            bool add = how & 16;
            hr_epilogue e = {.scale = how & 1 ? scale : NULL,
                             .shift = how & 2 ? shift : NULL,
                             .res = how & 4 ? res : NULL,
                             .relu = how & 8};
            draw_tile(&d, m, ch, (uint32_t)(100 + how), false);
            for (int i = 0; i < d.t * d.t; i += 1 + how % 5)
                d.in_off[i] = -1;
            for (int i = 0; i < m * m; i += 2 + how % 3)
                d.out_off[i] = -1;
            multiply(&d);
            memcpy(y, before, sizeof y);
            k->out(m, ch, d.v, d.step, d.out_off, y, &e, add);
            for (int i = 0; i < m * m; i++)
                for (int c = 0; c < ch; c++) {
                    int at = i * ch + c;
                    double z = plain_output(&d, i, c);
                    z = z * (e.scale ? (double)scale[c] : 1) + (e.shift ? (double)shift[c] : 0) +
                        (e.res ? (double)res[at] : 0) + (add ? (double)before[at] : 0);
                    if (d.out_off[i] < 0)
                        assert_true(y[at] == before[at]);
                    else
                        take(&w, (double)y[at], e.relu && z < 0 ? 0 : z);
                }
            for (size_t i = (size_t)(m * m * ch); i < HR_COUNT(y); i++)
                assert_true(y[i] == before[i]);
        }
        assert_within(w, tile_bound(m), "tile with an epilogue", m);
    }
}

static void test_a_tile_of_weight_gradients_is_the_correlation(void **state)
{
    (void)state;
    const hr_wino_kernels *k = hr_kernels_get()->wino;
    static tile d;
    for (int m = 2; m <= 4; m += 2) {
        worst w = {0};
        for (int ch = 1; ch <= MAX_CH; ch++) {
            float dw[9 * MAX_CH + HR_SLACK], before[9 * MAX_CH + HR_SLACK];
            draw(before, HR_COUNT(before), 75);
            memcpy(dw, before, sizeof dw);
            draw_tile(&d, m, ch, (uint32_t)(200 + ch), false);
            for (int i = 0; i < m * m; i += 3 + ch % 4)
                d.out_off[i] = -1;
            k->in(m, ch, d.x, d.in_off, d.v, d.step);
            k->grad(m, ch, d.dy, d.out_off, d.u, d.step);
            for (int p = 0; p < d.t * d.t; p++)
                for (int c = 0; c < ch; c++)
                    d.v[(size_t)p * d.step + (size_t)c] *= d.u[(size_t)p * d.step + (size_t)c];
            k->weight_grad(m, ch, d.v, d.step, dw, (size_t)ch);
            for (int t = 0; t < 9; t++)
                for (int c = 0; c < ch; c++) {
                    double sum = 0;
                    for (int i = 0; i < m * m; i++)
                        sum += pixel(&d, (i / m + t / 3) * d.t + i % m + t % 3, c) * grad_pixel(&d, i, c);
                    take(&w, (double)dw[t * ch + c], sum);
                }
            for (size_t i = (size_t)(9 * ch); i < HR_COUNT(dw); i++)
                assert_true(dw[i] == before[i]);
        }
        assert_within(w, tile_bound(m), "tile of weight gradients", m);
    }
}

/* ---- one layer --------------------------------------------------------------------------------------- */

/* As above for sums over some channels or pixels: pixels and weights are rounded independently, so errors
 * grow as fast as the sums, and only those of summing itself come on top. Seen: 8.2e-7 (up to 256 products
 * one after another) and 1.4e-6. */
static double layer_bound(int m)
{
    return m == 2 ? 3e-6 : 5e-6;
}

typedef struct layer {
    int ci, co, h, w, pad, oh, ow, n;
    float *x, *g, *dy; /* NHWC, torch layout, NHWC */
} layer;

static layer make_layer(int ci, int co, int h, int w, int pad, int n)
{
    layer l = {ci, co, h, w, pad, h + 2 * pad - 2, w + 2 * pad - 2, n, NULL, NULL, NULL};
    size_t nx = (size_t)(n * h * w * ci), ng = (size_t)(co * ci * 9), ny = (size_t)(n * l.oh * l.ow * co);
    l.x = hr_xaligned(nx + HR_SLACK, sizeof *l.x);
    l.g = hr_xaligned(ng, sizeof *l.g);
    l.dy = hr_xaligned(ny + HR_SLACK, sizeof *l.dy);
    draw(l.x, nx, 81);
    draw(l.g, ng, 82);
    draw(l.dy, ny, 83);
    return l;
}

static void release_layer(layer *l)
{
    free(l->x);
    free(l->g);
    free(l->dy);
}

static double x_at(const layer *l, int s, int i, int h, int w)
{
    return h < 0 || w < 0 || h >= l->h || w >= l->w ? 0
                                                    : (double)l->x[((s * l->h + h) * l->w + w) * l->ci + i];
}

static double dy_at(const layer *l, int s, int o, int h, int w)
{
    return h < 0 || w < 0 || h >= l->oh || w >= l->ow
               ? 0
               : (double)l->dy[((s * l->oh + h) * l->ow + w) * l->co + o];
}

static double g_at(const layer *l, int o, int i, int t)
{
    return (double)l->g[(o * l->ci + i) * 9 + t];
}

static double plain_y(const layer *l, int s, int o, int h, int w)
{
    double sum = 0;
    for (int i = 0; i < l->ci; i++)
        for (int t = 0; t < 9; t++)
            sum += x_at(l, s, i, h + t / 3 - l->pad, w + t % 3 - l->pad) * g_at(l, o, i, t);
    return sum;
}

static double plain_dx(const layer *l, int s, int i, int h, int w)
{
    double sum = 0;
    for (int o = 0; o < l->co; o++)
        for (int t = 0; t < 9; t++)
            sum += dy_at(l, s, o, h - t / 3 + l->pad, w - t % 3 + l->pad) * g_at(l, o, i, t);
    return sum;
}

static double plain_dg(const layer *l, int o, int i, int t)
{
    double sum = 0;
    for (int s = 0; s < l->n; s++)
        for (int h = 0; h < l->oh; h++)
            for (int w = 0; w < l->ow; w++)
                sum += x_at(l, s, i, h + t / 3 - l->pad, w + t % 3 - l->pad) * dy_at(l, s, o, h, w);
    return sum;
}

static void plan_forward(hr_wino *w, int m, const layer *l)
{
    hr_wino_plan(w, hr_kernels_get(), m, l->ci, l->h, l->w, l->co, l->oh, l->ow, l->pad);
    hr_wino_pack(w, hr_kernels_get(), l->g, false);
}

static const struct {
    int ci, co, h, w, pad, n;
} layers[] = {{17, 16, 5, 7, 0, 2}, {16, 33, 5, 7, 1, 2},  {31, 17, 6, 3, 2, 2},
              {1, 3, 3, 3, 0, 1},   {24, 15, 1, 1, 1, 3},  {3, 24, 1, 1, 2, 3},
              {33, 31, 2, 2, 1, 3}, {16, 17, 9, 11, 1, 1}, {83, 70, 3, 2, 1, 1}};

static void test_layers_match_plain_sums_forward_and_turned_around(void **state)
{
    (void)state;
    const hr_kernels *k = hr_kernels_get();
    for (int m = 2; m <= 4; m += 2) {
        for (size_t q = 0; q < HR_COUNT(layers); q++) {
            worst y = {0}, dx = {0};
            layer l =
                make_layer(layers[q].ci, layers[q].co, layers[q].h, layers[q].w, layers[q].pad, layers[q].n);
            hr_wino f, b;
            plan_forward(&f, m, &l);
            hr_wino_plan(&b, k, m, l.co, l.oh, l.ow, l.ci, l.h, l.w, 2 - l.pad);
            hr_wino_pack(&b, k, l.g, true);
            size_t bytes =
                hr_wino_scratch(&f) > hr_wino_scratch(&b) ? hr_wino_scratch(&f) : hr_wino_scratch(&b);
            void *scratch = hr_xaligned(bytes, 1);
            float *out = hr_xaligned((size_t)l.n * f.out_len + HR_SLACK, sizeof *out);
            float *in = hr_xaligned((size_t)l.n * f.in_len + HR_SLACK, sizeof *in);
            hr_wino_run(&f, k, l.x, l.n, out, &(hr_epilogue){0}, false, scratch);
            hr_wino_run(&b, k, l.dy, l.n, in, &(hr_epilogue){0}, false, scratch);
            hr_wino_run(&b, k, l.dy, l.n, in, &(hr_epilogue){0}, true, scratch); /* twice dx */
            for (int s = 0, at = 0; s < l.n; s++)
                for (int h = 0; h < l.oh; h++)
                    for (int w = 0; w < l.ow; w++)
                        for (int o = 0; o < l.co; o++)
                            take(&y, (double)out[at++], plain_y(&l, s, o, h, w));
            for (int s = 0, at = 0; s < l.n; s++)
                for (int h = 0; h < l.h; h++)
                    for (int w = 0; w < l.w; w++)
                        for (int i = 0; i < l.ci; i++)
                            take(&dx, (double)in[at++] / 2, plain_dx(&l, s, i, h, w));
            hr_wino_release(&f);
            hr_wino_release(&b);
            free(scratch);
            free(out);
            free(in);
            release_layer(&l);
            assert_within(y, layer_bound(m), "forward", m);
            assert_within(dx, layer_bound(m), "dx", m);
        }
    }
}

/* Both ways to the weights' gradient; groups of 8, 2 and 3 samples where an executor would take all. */
static void test_weight_gradients_match_plain_sums_by_chunks_and_by_groups(void **state)
{
    (void)state;
    const hr_kernels *k = hr_kernels_get();
    for (int m = 2; m <= 4; m += 2) {
        for (size_t q = 0; q < HR_COUNT(layers); q++) {
            worst chunk = {0}, group = {0};
            layer l = make_layer(layers[q].ci, layers[q].co, layers[q].h, layers[q].w, layers[q].pad, 19);
            size_t co = (size_t)l.co, ci = (size_t)l.ci;
            hr_wino f;
            plan_forward(&f, m, &l);
            void *scratch = hr_xaligned(hr_wino_dw_scratch(&f), 1);
            float *part = hr_xaligned(9 * ci * co + HR_SLACK, sizeof *part);
            float *grad = hr_xaligned(9 * ci * co, sizeof *grad);
            void *own = hr_xaligned(hr_wino_block_scratch(&f, k), 1);
            hr_wino_dw(&f, k, l.x, l.dy, l.n, part, scratch);
            f.group = 8;
            float *room = hr_xaligned(hr_wino_room(&f), sizeof *room);
            static const int groups[] = {8, 8, 3};
            for (int g = 0, at = 0; g < 3; at += groups[g++]) {
                for (int n = 0; n < groups[g]; n += 3) { /* transformed in any pieces */
                    int ns = groups[g] - n < 3 ? groups[g] - n : 3;
                    hr_wino_gather(&f, k, l.x + (size_t)(at + n) * f.in_len,
                                   l.dy + (size_t)(at + n) * f.out_len, n, ns, room);
                }
                for (int b = hr_wino_blocks(&f) - 1; b >= 0; b--) /* and summed in any order of blocks */
                    hr_wino_block(&f, k, b, groups[g], g > 0, room, own, grad);
            }
            for (int o = 0; o < l.co; o++)
                for (int i = 0; i < l.ci; i++)
                    for (int t = 0; t < 9; t++) {
                        double want = plain_dg(&l, o, i, t);
                        take(&chunk, (double)part[(size_t)(t * l.ci + i) * co + (size_t)o], want);
                        take(&group, (double)grad[(o * l.ci + i) * 9 + t], want);
                    }
            hr_wino_release(&f);
            free(scratch);
            free(part);
            free(grad);
            free(own);
            free(room);
            release_layer(&l);
            assert_within(chunk, layer_bound(m), "dw by chunks", m);
            assert_within(group, layer_bound(m), "dw by groups", m);
        }
    }
}

/* Blocks are as large as this machine's caches like them: with other caches, or other samples beside it, a
 * sample has the same bits. */
static void test_bits_depend_neither_on_the_block_nor_on_samples_beside(void **state)
{
    (void)state;
    const hr_kernels *k = hr_kernels_get();
    for (int m = 2; m <= 4; m += 2) {
        layer l = make_layer(17, 33, 9, 11, 1, 7);
        hr_wino f;
        plan_forward(&f, m, &l);
        size_t len = (size_t)l.n * f.out_len;
        float *all = hr_xaligned(len + HR_SLACK, sizeof *all),
              *one = hr_xaligned(len + HR_SLACK, sizeof *one);
        void *scratch = hr_xaligned(hr_wino_scratch(&f), 1);
        hr_epilogue e = {.relu = true};
        hr_wino_run(&f, k, l.x, l.n, all, &e, false, scratch);
        for (int blocks = 0; blocks <= 3; blocks++) { /* 0: the planned block, sample by sample */
            if (blocks) {
                f.block = blocks * k->mr;
                f.v_step = (size_t)f.block * f.ldv + 16;
                f.m_step = (size_t)f.block * f.ldm + 16;
                assert_true(hr_wino_scratch(&f) > 0);
                free(scratch);
                scratch = hr_xaligned(hr_wino_scratch(&f), 1);
            }
            memset(one, 0, len * sizeof *one);
            for (int s = 0; s < (blocks ? 1 : l.n); s++)
                hr_wino_run(&f, k, l.x + (size_t)s * f.in_len, blocks ? l.n : 1, one + (size_t)s * f.out_len,
                            &e, false, scratch);
            assert_memory_equal(all, one, len * sizeof *one);
        }
        hr_wino_release(&f);
        free(all);
        free(one);
        free(scratch);
        release_layer(&l);
    }
}

static int run_all(const char *isa)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_past_the_caches_are_the_same),
        cmocka_unit_test(test_a_tile_is_nine_multiplications_per_pixel),
        cmocka_unit_test(test_f2_is_exact_on_small_integers),
        cmocka_unit_test(test_a_tile_at_the_edge_ends_in_its_epilogue_and_writes_its_pixels_only),
        cmocka_unit_test(test_a_tile_of_weight_gradients_is_the_correlation),
        cmocka_unit_test(test_layers_match_plain_sums_forward_and_turned_around),
        cmocka_unit_test(test_weight_gradients_match_plain_sums_by_chunks_and_by_groups),
        cmocka_unit_test(test_bits_depend_neither_on_the_block_nor_on_samples_beside),
    };
    return cmocka_run_group_tests_name(isa, tests, NULL, NULL);
}

int main(void)
{
    return for_every_isa(run_all);
}
