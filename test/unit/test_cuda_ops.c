/* test/unit/test_cuda_ops.c -- operations of the plug-in's table that networks and attacks do not show one by
 * one: losses, optimisers, recorded work, memory, trouble. Each beside the library's function on the CPU. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

#include "attack/internal.h"
#include "compute/cuda/cuda.h"
#include "cuda.h"
#include "train/train.h"

static const hr_cuda_plugin_table *t;
static hr_cuda *d;

static int open_device(void **state)
{
    hr_err err = HR_ERR_INIT;
    char msg[256] = "";
    (void)state;
    t = hr_cuda_load(&err);
    if (!t) {
        print_error("%s\n", err.msg);
        return -1;
    }
    d = t->open(0, 0, msg, sizeof msg);
    if (!d)
        print_error("%s\n", msg);
    return d ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    t->close(d);
    return 0;
}

static void *up(const void *from, size_t bytes)
{
    size_t left;
    void *p = t->take(d, bytes, &left);
    assert_non_null(p);
    if (from)
        t->upload(d, p, from, bytes);
    return p;
}

/* What is on the device, once all is done. */
static void down(void *to, const void *from, size_t bytes)
{
    t->download(d, to, from, bytes);
    const char *trouble = t->wait(d);
    if (trouble)
        fail_msg("%s", trouble);
}

/* ---- losses -------------------------------------------------------------------------------------------- */

enum { N = 37, CLASSES = 11 };

static void check_loss(int kind)
{
    float z[N * CLASSES], want[N * CLASSES], got[N * CLASSES];
    double loss[N], sums[N];
    int32_t y[N];
    hr_fill_normal(z, N * CLASSES, 0, 9, 1, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < N; i++)
        y[i] = (i * 7) % CLASSES;
    z[y[0]] = 80; /* beyond the margin's confidence, and a softmax of 0 and 1 */
    void (*cpu)(const float *, const int32_t *, int, int, int, float, double *, float *) =
        kind == HR_CUDA_CE ? hr_loss_ce : hr_loss_margin;
    cpu(z, y, 0, N, CLASSES, 0.25f, loss, want);
    float *dz = up(NULL, sizeof got);
    double *l = up(NULL, sizeof sums);
    t->loss(d, kind, N, CLASSES, up(z, sizeof z), up(y, sizeof y), NULL, 0.25f, l, dz);
    down(got, dz, sizeof got);
    down(sums, l, sizeof sums);
    for (int i = 0; i < N * CLASSES; i++) /* one rounding to float of nearly the same double */
        assert_true(fabs((double)got[i] - (double)want[i]) <= 3e-8);
    for (int i = 0; i < N; i++)
        assert_true(fabs(sums[i] - loss[i]) <= 1e-12 * (1 + fabs(loss[i])));
}

static void test_cross_entropy_is_that_of_the_cpu(void **state)
{
    (void)state;
    check_loss(HR_CUDA_CE);
}

static void test_the_margin_loss_is_that_of_the_cpu(void **state)
{
    (void)state;
    check_loss(HR_CUDA_MARGIN);
}

/* ---- strong attacks ------------------------------------------------------------------------------------ */

enum { POINTS = 24, VALUES = 75 };

/* lib/attack/fab.c's step (eq. 9 and 10) from the CPU's projection. */
static void approach(bool l2, const float *x, const float *g, double f, float *at)
{
    enum hr_norm norm = l2 ? HR_L2 : HR_LINF;
    float d1[VALUES], d2[VALUES];
    double apart = 0;
    for (int p = 0; p < VALUES; p++)
        apart += (double)g[p] * ((double)at[p] - x[p]);
    hr_project_plane(norm, at, g, -f, VALUES, d1);
    hr_project_plane(norm, x, g, apart - f, VALUES, d2);
    double a1 = fmax(hr_norm_of(norm, d1, VALUES), 1e-8), a2 = fmax(hr_norm_of(norm, d2, VALUES), 1e-8);
    float alpha = fminf((float)(a1 / (a1 + a2)), 0.1f);
    for (int p = 0; p < VALUES; p++) {
        float near = at[p] + 1.05f * d1[p], home = x[p] + 1.05f * d2[p];
        at[p] = hr_clip((1.0f - alpha) * near + alpha * home, 0.0f, 1.0f);
    }
}

/* Planes near and far, on both sides, through the point and out of the box's reach; gradients that are 0 in
 * some pixels, in all but one, and in all; pixels on the box's faces. lambda is good to some last bits of
 * double, so a pixel differs by a rounding or two of numbers up to 1. One image is done. */
static void test_steps_towards_the_border_are_those_of_the_cpu(void **state)
{
    (void)state;
    static const float levels[] = {0.0f, 1e-4f, -0.3f, 2.0f, -9.0f, 1e6f};
    static float x[POINTS][VALUES], at[POINTS][VALUES], w[POINTS][VALUES], got[POINTS][VALUES];
    float z[POINTS][2];
    int32_t y[POINTS], aim[POINTS];
    for (int l2 = 0; l2 < 2; l2++) {
        hr_fill_uniform(x[0], POINTS * VALUES, -0.1f, 1.1f, 3, HR_STREAM_TEST, 20, 0, 0);
        hr_fill_uniform(at[0], POINTS * VALUES, -0.1f, 1.1f, 3, HR_STREAM_TEST, 21, 0, 0);
        hr_fill_normal(w[0], POINTS * VALUES, 0, 1, 3, HR_STREAM_TEST, 22, 0, 0);
        hr_cuda_walker walkers[POINTS] = {{.done = 0}};
        walkers[7].done = 1;
        for (int i = 0; i < POINTS; i++) {
            y[i] = i % 2;
            aim[i] = 1 - y[i];
            z[i][y[i]] = 0.5f;
            z[i][aim[i]] = 0.5f + levels[i % 6];
            for (int p = 0; p < VALUES; p++) {
                x[i][p] = hr_clip(x[i][p], 0, 1);
                at[i][p] = hr_clip(at[i][p], 0, 1);
                if (i / 6 == 1 ? p % 3 == 0 : i / 6 == 2 ? p != 5 : i / 6 == 3 && i % 2)
                    w[i][p] = 0;
            }
        }
        float *moved = up(at, sizeof at);
        t->fab_approach(d, POINTS, VALUES, 2, l2, 0.1f, 1.05f, up(z, sizeof z), up(y, sizeof y),
                        up(aim, sizeof aim), up(x, sizeof x), up(w, sizeof w), up(walkers, sizeof walkers),
                        moved);
        down(got, moved, sizeof got);
        for (int i = 0; i < POINTS; i++) {
            if (i != 7)
                approach(l2, x[i], w[i], (double)z[i][aim[i]] - z[i][y[i]], at[i]);
            for (int p = 0; p < VALUES; p++)
                if (!(fabsf(got[i][p] - at[i][p]) <= (i == 7 ? 0 : 3e-7f)))
                    fail_msg("l2 %d, point %d, value %d: %.9g, %.9g on the CPU", l2, i, p, (double)got[i][p],
                             (double)at[i][p]);
        }
    }
}

/* ---- optimisers ---------------------------------------------------------------------------------------- */

enum { P = 1003, STEPS = 4 };
static float p[P], g[P], a[P], b[P];

static void draw(void)
{
    hr_fill_normal(p, P, 0, 1, 1, HR_STREAM_TEST, 1, 0, 0);
    hr_fill_normal(g, P, 0, 1, 1, HR_STREAM_TEST, 2, 0, 0);
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
}

/* The numbers on the device after the steps that were queued, beside p after those of the CPU: the same bits
 * where the CPU's compiler contracts nothing (x86-64-v2). */
static void same_as_p(const float *device)
{
    float got[P];
    down(got, device, sizeof got);
    for (int i = 0; i < P; i++)
        if (!(fabsf(got[i] - p[i]) <= 3e-7f * (1 + fabsf(p[i]))))
            fail_msg("number %d is %.9g, %.9g on the CPU", i, (double)got[i], (double)p[i]);
}

static void test_sgd_is_that_of_the_cpu(void **state)
{
    (void)state;
    for (int nesterov = 0; nesterov < 2; nesterov++) {
        draw();
        float *q = up(p, sizeof p), *h = up(g, sizeof g), *buf = up(a, sizeof a);
        for (int s = 0; s < STEPS; s++) {
            hr_sgd_step(p, g, a, P, 0.1f, 0.9f, 5e-4f, nesterov, s == 0);
            t->sgd(d, P, q, h, buf, 0.1f, 0.9f, 5e-4f, nesterov, s == 0);
        }
        same_as_p(q);
    }
}

static void test_adam_is_that_of_the_cpu(void **state)
{
    (void)state;
    draw();
    float *q = up(p, sizeof p), *h = up(g, sizeof g), *m = up(a, sizeof a), *v = up(b, sizeof b);
    for (int s = 0; s < STEPS; s++) {
        hr_adam_step(p, g, a, b, P, 0.01f, 5e-4f, s + 1);
        t->adam(d, P, q, h, m, v, 0.01f, 5e-4f, s + 1);
    }
    same_as_p(q);
}

static void test_rmsprop_is_that_of_the_cpu(void **state)
{
    (void)state;
    draw();
    float *q = up(p, sizeof p), *h = up(g, sizeof g), *v = up(a, sizeof a), *buf = up(b, sizeof b);
    for (int s = 0; s < STEPS; s++) {
        hr_rmsprop_step(p, g, a, b, P, 0.01f, 0.9f, 5e-4f);
        t->rmsprop(d, P, q, h, v, buf, 0.01f, 0.9f, 5e-4f);
    }
    same_as_p(q);
}

/* ---- losses of pairs ----------------------------------------------------------------------------------- */

static void test_losses_of_pairs_are_those_of_the_cpu(void **state)
{
    (void)state;
    float zn[N * CLASSES], za[N * CLASSES], dn[2][N * CLASSES], da[2][N * CLASSES];
    double loss[2][N];
    int32_t y[N];
    hr_fill_normal(zn, N * CLASSES, 0, 9, 1, HR_STREAM_TEST, 4, 0, 0);
    hr_fill_normal(za, N * CLASSES, 0, 9, 1, HR_STREAM_TEST, 5, 0, 0);
    for (int i = 0; i < N; i++)
        y[i] = (i * 7) % CLASSES;
    za[y[0]] = -800;                        /* a probability of 0 */
    za[CLASSES + 1] = za[CLASSES + 2] = 40; /* two classes are equally likely */
    for (int kind = HR_CUDA_TRADES; kind <= HR_CUDA_MART; kind++) {
        hr_loss_pair(kind == HR_CUDA_MART ? HR_PAIR_MART : HR_PAIR_TRADES, zn, za, y, N, CLASSES, 6.0, 0.25f,
                     loss[0], dn[0], da[0]);
        float *gn = up(NULL, sizeof dn[0]), *ga = up(NULL, sizeof da[0]);
        double *l = up(NULL, sizeof loss[0]);
        t->loss_pair(d, kind, N, CLASSES, up(zn, sizeof zn), up(za, sizeof za), up(y, sizeof y), 6.0, 0.25f,
                     l, gn, ga);
        down(dn[1], gn, sizeof dn[1]);
        down(da[1], ga, sizeof da[1]);
        down(loss[1], l, sizeof loss[1]);
        for (int i = 0; i < N * CLASSES; i++) { /* nearly the same double, rounded to float */
            assert_true(fabsf(dn[1][i] - dn[0][i]) <= 1e-6f * (1 + fabsf(dn[0][i])));
            assert_true(fabsf(da[1][i] - da[0][i]) <= 1e-6f * (1 + fabsf(da[0][i])));
        }
        for (int i = 0; i < N; i++)
            assert_true(fabs(loss[1][i] - loss[0][i]) <= 1e-12 * (1 + fabs(loss[0][i])));
    }
}

/* ---- images -------------------------------------------------------------------------------------------- */

static void test_cut_images_have_the_bits_of_the_cpu(void **state)
{
    (void)state;
    enum { IMAGES = 60, H = 9, W = 7, C = 3, LEN = H * W * C };
    uint8_t pixels[IMAGES * LEN];
    int32_t labels[IMAGES] = {0};
    uint32_t index[IMAGES], rows[IMAGES];
    hr_dataset ds = {.n = IMAGES, .c = C, .h = H, .w = W, .classes = 2, .pixels = pixels, .labels = labels};
    ds.index = index;
    for (uint32_t i = 0; i < IMAGES; i++)
        index[i] = rows[i] = i;
    for (int i = 0; i < IMAGES * LEN; i++)
        pixels[i] = (uint8_t)(i * 31 % 251);
    for (int kind = 0; kind < 3; kind++) { /* as they are, cropped, resized */
        float want[IMAGES * LEN], got[IMAGES * LEN];
        hr_window v[IMAGES];
        hr_cuda_window w[IMAGES];
        hr_batch_fill(&ds, rows, IMAGES, want, labels);
        if (kind == 1)
            hr_batch_augment(&ds, rows, IMAGES, want, 3, true, 5, 2);
        if (kind == 2)
            hr_batch_resized_crop(&ds, rows, IMAGES, want, true, 5, 2);
        hr_batch_windows(&ds, rows, IMAGES, kind == 2, kind ? 3 : 0, kind > 0, 5, 2, v);
        for (int i = 0; i < IMAGES; i++)
            w[i] = (hr_cuda_window){v[i].y, v[i].x, v[i].h, v[i].w, v[i].flip};
        float *x = up(NULL, sizeof got);
        t->cut(d, IMAGES, H, W, C, up(pixels, sizeof pixels), up(w, sizeof w), x);
        down(got, x, sizeof got);
        for (int i = 0; i < IMAGES * LEN; i++)
            if (memcmp(&got[i], &want[i], sizeof got[i]))
                fail_msg("kind %d: value %d is %.9g, %.9g on the CPU", kind, i, (double)got[i],
                         (double)want[i]);
    }
}

/* Also where the highest bit of an index says that the image is of other data; of long images, crops that fit
 * at none of ten tries. */
static void test_windows_are_drawn_as_on_the_cpu(void **state)
{
    (void)state;
    enum { IMAGES = 300 };
    static const int shapes[][2] = {{9, 7}, {32, 32}, {3, 40}, {40, 3}};
    uint32_t index[IMAGES], marked[IMAGES], rows[IMAGES];
    for (uint32_t i = 0; i < IMAGES; i++) {
        rows[i] = i;
        index[i] = 17 * i;
        marked[i] = index[i] | (i % 2 ? 0x80000000u : 0);
    }
    for (size_t s = 0; s < HR_COUNT(shapes); s++)
        for (int kind = 0; kind < 4; kind++) { /* crops or resized ones, mirrored or not */
            hr_dataset ds = {.n = IMAGES, .c = 1, .h = shapes[s][0], .w = shapes[s][1], .index = index};
            hr_window want[IMAGES], got[IMAGES];
            hr_cuda_augment o = {kind > 1, kind % 2, 4, 5, HR_STREAM_AUGMENT, 2};
            hr_batch_windows(&ds, rows, IMAGES, o.resized, o.pad, o.flip, o.seed, o.epoch, want);
            hr_cuda_window *w = up(NULL, sizeof got);
            t->windows(d, &o, IMAGES, ds.h, ds.w, up(marked, sizeof marked), w);
            down(got, w, sizeof got);
            assert_memory_equal(got, want, sizeof got);
        }
}

/* ---- scores, masks, ADMM ------------------------------------------------------------------------------- */

/* n scores, of which many are equal, some 0, -0 and NaN: what is kept is what the CPU keeps, byte for byte.
 */
static void check_largest(size_t n, size_t kept)
{
    float *v = hr_xmalloc(n * sizeof *v), *got = hr_xmalloc(n * sizeof *got);
    uint8_t *want = hr_xmalloc(n);
    hr_fill_normal(v, n, 0, 1, 7, HR_STREAM_TEST, 6, 0, 0);
    for (size_t i = 0; i < n; i++) {
        if (i % 3 == 0)
            v[i] = rintf(v[i] * 2) / 2; /* equal to many */
        if (i % 1009 == 1008)
            v[i] = NAN;
    }
    hr_topk_magnitudes(v, (int64_t)n, (int64_t)kept, want);
    float *chosen = up(NULL, n * sizeof *got);
    t->keep_largest(d, n, up(v, n * sizeof *v), kept, up(NULL, HR_CUDA_CHOICE), chosen);
    down(got, chosen, n * sizeof *got);
    for (size_t i = 0; i < n; i++)
        if (got[i] != (float)want[i])
            fail_msg("%zu of %zu: number %zu (%g) is %s", kept, n, i, (double)v[i],
                     want[i] ? "left" : "kept");
    free(v);
    free(got);
    free(want);
}

static void test_the_largest_are_those_of_the_cpu_with_its_ties(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 255, 4096, 4097, 70001};
    for (size_t s = 0; s < HR_COUNT(sizes); s++) {
        size_t n = sizes[s], kept[] = {1, n / 3, n / 2 + 1, n - 1, n};
        for (size_t k = 0; k < HR_COUNT(kept); k++)
            if (kept[k] >= 1 && kept[k] <= n)
                check_largest(n, kept[k]);
    }
}

enum { CO = 7, CI = 5, TAPS = 9, WEIGHTS = CO * CI * TAPS };
static const hr_layer layer = {.out = CO, .in = CI, .kh = 3, .kw = 3, .n = WEIGHTS};

static void test_gradients_of_scores_are_those_of_the_cpu(void **state)
{
    (void)state;
    float w[WEIGHTS], dw[WEIGHTS], s[WEIGHTS], want[WEIGHTS], got[WEIGHTS];
    hr_fill_normal(w, WEIGHTS, 0, 1, 1, HR_STREAM_TEST, 7, 0, 0);
    hr_fill_normal(dw, WEIGHTS, 0, 1, 1, HR_STREAM_TEST, 8, 0, 0);
    hr_fill_normal(s, WEIGHTS, 0, 1, 1, HR_STREAM_TEST, 9, 0, 0);
    s[3] = 0;
    for (int reg = HR_REG_WEIGHT; reg <= HR_REG_CHANNEL; reg++) {
        float *ds = up(NULL, sizeof got);
        int n = reg == HR_REG_CHANNEL ? CI : WEIGHTS;
        hr_hydra_grad(want, dw, w, s, &layer, (enum hr_reg)reg);
        t->score_grad(d, reg == HR_REG_CHANNEL, CO, CI, TAPS, up(dw, sizeof dw), up(w, sizeof w),
                      up(s, sizeof s), ds);
        down(got, ds, sizeof got);
        for (int i = 0; i < n; i++) /* a channel's sum in double has another order */
            assert_true(fabsf(got[i] - want[i]) <= 1e-6f * fabsf(want[i]));
    }
}

/* Three updates of ADMM's Z and U, and the gradient. */
static void test_admm_is_that_of_the_cpu(void **state)
{
    (void)state;
    for (int reg = HR_REG_WEIGHT; reg <= HR_REG_CHANNEL; reg++) {
        bool channel = reg == HR_REG_CHANNEL;
        size_t kept = channel ? 2 : 100, scores = channel ? CI : WEIGHTS, bytes = WEIGHTS * sizeof(float);
        float w[WEIGHTS], z[WEIGHTS], u[WEIGHTS] = {0}, want[WEIGHTS], room[WEIGHTS], got[WEIGHTS];
        uint8_t chosen[WEIGHTS];
        hr_fill_normal(w, WEIGHTS, 0, 1, 1, HR_STREAM_TEST, 10, 0, 0);
        hr_admm_project(z, w, &layer, (enum hr_reg)reg, (int64_t)kept, room, chosen);
        float *dw = up(w, bytes), *dz = up(NULL, bytes), *du = up(u, bytes), *dg = up(NULL, bytes);
        float *norms = up(NULL, bytes), *mine = up(NULL, bytes);
        void *work = up(NULL, HR_CUDA_CHOICE);
        for (int k = 0; k < 3; k++) {
            float *v = k ? du : dw;
            if (k) {
                hr_admm_update(w, z, u, &layer, (enum hr_reg)reg, (int64_t)kept, room, chosen);
                t->add(d, WEIGHTS, du, dw);
            }
            if (channel)
                t->channel_norms(d, CO, CI, TAPS, v, norms);
            t->keep_largest(d, scores, channel ? norms : v, kept, work, mine);
            t->split(d, channel, CO, CI, TAPS, mine, v, dz, k ? du : NULL);
        }
        hr_admm_gradient(want, w, w, z, u, WEIGHTS, 0.5f);
        t->admm_grad(d, WEIGHTS, dw, dw, dz, du, 0.5f, dg);
        down(got, dz, bytes);
        assert_memory_equal(got, z, bytes);
        down(got, du, bytes);
        assert_memory_equal(got, u, bytes);
        down(got, dg, bytes);
        for (int i = 0; i < WEIGHTS; i++)
            assert_true(fabsf(got[i] - want[i]) <= 3e-7f * (1 + fabsf(want[i])));
    }
}

/* ---- the device ---------------------------------------------------------------------------------------- */

static void test_recorded_work_runs_when_it_is_replayed_and_as_often(void **state)
{
    (void)state;
    float one[5] = {1, 2, 3, 4, 5}, got[5];
    float *sum = up(NULL, sizeof one), *x = up(one, sizeof one);
    t->record(d);
    t->add(d, 5, sum, x);
    hr_cuda_graph *graph = t->recorded(d);
    assert_non_null(graph);
    down(got, sum, sizeof got);
    assert_true(got[0] == 0.0f);
    for (int i = 0; i < 3; i++)
        t->replay(d, graph);
    down(got, sum, sizeof got);
    for (int i = 0; i < 5; i++)
        assert_true(got[i] == 3 * one[i]);
    t->forget(d, graph);
}

static void test_too_much_memory_is_refused_with_what_is_left(void **state)
{
    (void)state;
    size_t left = 0;
    assert_null(t->take(d, (size_t)1 << 50, &left));
    assert_true(left > 0 && left < (size_t)1 << 50);
    assert_null(t->wait(d)); /* and the device is as good as before */
}

static void test_sums_have_the_same_bits_every_time(void **state)
{
    (void)state;
    enum { ROWS = 3001, C = 37 };
    float *z = hr_xmalloc(ROWS * C * sizeof *z), first[C], again[C];
    hr_fill_normal(z, ROWS * C, 1, 3, 1, HR_STREAM_TEST, 3, 0, 0);
    float *x = up(z, ROWS * C * sizeof *z), *sum = up(NULL, sizeof first);
    double *part = up(NULL, 2 * HR_CUDA_PARTS * C * sizeof *part);
    t->column_sums(d, ROWS, C, x, sum, part);
    down(first, sum, sizeof first);
    for (int c = 0; c < C; c++) {
        double want = 0;
        for (int r = 0; r < ROWS; r++)
            want += (double)z[r * C + c];
        assert_true(fabs(want - (double)first[c]) <= 1e-7 * fabs(want));
    }
    for (int i = 0; i < 3; i++) {
        t->column_sums(d, ROWS, C, x, sum, part);
        down(again, sum, sizeof again);
        assert_memory_equal(again, first, sizeof first);
    }
    free(z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy_is_that_of_the_cpu),
        cmocka_unit_test(test_the_margin_loss_is_that_of_the_cpu),
        cmocka_unit_test(test_sgd_is_that_of_the_cpu),
        cmocka_unit_test(test_adam_is_that_of_the_cpu),
        cmocka_unit_test(test_rmsprop_is_that_of_the_cpu),
        cmocka_unit_test(test_losses_of_pairs_are_those_of_the_cpu),
        cmocka_unit_test(test_cut_images_have_the_bits_of_the_cpu),
        cmocka_unit_test(test_windows_are_drawn_as_on_the_cpu),
        cmocka_unit_test(test_steps_towards_the_border_are_those_of_the_cpu),
        cmocka_unit_test(test_the_largest_are_those_of_the_cpu_with_its_ties),
        cmocka_unit_test(test_gradients_of_scores_are_those_of_the_cpu),
        cmocka_unit_test(test_admm_is_that_of_the_cpu),
        cmocka_unit_test(test_recorded_work_runs_when_it_is_replayed_and_as_often),
        cmocka_unit_test(test_too_much_memory_is_refused_with_what_is_left),
        cmocka_unit_test(test_sums_have_the_same_bits_every_time),
    };
    on_the_shim();
    return cmocka_run_group_tests_name("operations on a device", tests, open_device, close_device);
}
