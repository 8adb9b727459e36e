/* test/unit/test_conv.c -- every kernel of convolutions against the oracle over a table of shapes, networks
 * in which Winograd's algorithm runs, and what must not change a bit there: threads, tasks, the planned
 * batch. For every instruction set that this machine has. test_wino.c takes Winograd's transforms apart. */
#include "both.h"

#include "attack/attack.h"

/* ---- the bounds -------------------------------------------------------------------------------------- */

/* Of the largest value, with a factor of 3 to 5 over the worst that was seen on the three sets of x86-64. */
static const bounds
    /* seen 1.2e-6, 1.2e-6, 6.0e-7: sums of up to 1200 products, see conv_bounds in test_compute.c */
    gemm_bounds = {4e-6, 4e-6, 2e-6},
    /* seen 2.9e-6, 2.4e-6, 1.3e-6: a tile errs by 1e-6 (test_wino.c), and its sums over channels by some
       roundings more: they are of the largest number in a tile before the last transform, several times the
       result */
    wino_bounds = {1e-5, 1e-5, 5e-6},
    /* seen 4.6e-6, 3.3e-6: the same with 1024 channels summed one after another */
    deep_bounds = {1.6e-5, 1.6e-5, 5e-6},
    /* seen 1.5e-6, 2.2e-6, 3.2e-6: four to seven layers after another; gradients of biases in front of batch
       statistics cancel to their rounding */
    graph_bounds = {5e-6, 8e-6, 1.2e-5},
    /* seen 7.5e-7, 7.3e-7, 9.2e-7: the same without Winograd */
    exact_bounds = {3e-6, 3e-6, 4e-6};

/* Winograd beside plain sums in float, each with errors of its own: seen 2.8e-6. */
static const double grouped_dw = 1e-5;

/* ---- a table of shapes ------------------------------------------------------------------------------- */

typedef struct shape {
    int n, ci, co, h, w, k, stride, pad;
    const char *kernel; /* of the forward pass */
} shape;

/* Batches below, above and at chunks; channels around vectors and panels of 4, 8, 16 and 32. */
static const shape table[] = {
    /* maps smaller than a tile, one tile, and a tile and a pixel */
    {1, 16, 17, 1, 1, 3, 1, 1, "wino2"},
    {3, 17, 16, 1, 1, 3, 1, 2, "wino4"},
    {20, 24, 31, 2, 2, 3, 1, 1, "wino2"},
    {3, 31, 24, 2, 2, 3, 1, 2, "wino4"},
    {1, 33, 16, 3, 3, 3, 1, 0, "wino2"},
    {3, 16, 33, 3, 3, 3, 1, 1, "wino4"},
    {3, 24, 17, 3, 3, 3, 1, 2, "wino4"},
    {9, 17, 17, 4, 4, 3, 1, 0, "wino2"},
    {9, 16, 16, 6, 6, 3, 1, 1, "wino4"},
    /* odd maps */
    {3, 17, 24, 5, 7, 3, 1, 0, "wino4"},
    {20, 24, 17, 5, 7, 3, 1, 1, "wino4"},
    {1, 31, 33, 5, 7, 3, 1, 2, "wino4"},
    {1, 33, 31, 9, 11, 3, 1, 0, "wino4"},
    {3, 16, 16, 9, 11, 3, 1, 1, "wino4"},
    {1, 16, 31, 11, 9, 3, 1, 2, "wino4"},
    {3, 31, 16, 13, 13, 3, 1, 0, "wino4"},
    {20, 16, 24, 13, 13, 3, 1, 1, "wino4"},
    {1, 33, 33, 13, 13, 3, 1, 2, "wino4"},
    /* long and thin */
    {3, 16, 17, 1, 29, 3, 1, 1, "wino2"},
    {1, 17, 16, 29, 2, 3, 1, 1, "wino2"},
    /* many channels: weights' gradients by chunks up to 128 x 128, then by groups */
    {3, 64, 64, 7, 7, 3, 1, 1, "wino4"},
    {3, 130, 64, 5, 7, 3, 1, 1, "wino4"},
    {9, 136, 130, 4, 4, 3, 1, 1, "wino4"},
    {1, 1024, 16, 4, 4, 3, 1, 1, "wino4"},
    {1, 16, 1024, 4, 4, 3, 1, 1, "wino4"},
    {1, 512, 512, 2, 2, 3, 1, 1, "wino2"},
    {3, 1024, 256, 1, 1, 3, 1, 1, "wino2"},
    /* large maps */
    {1, 16, 17, 224, 224, 3, 1, 1, "wino4"},
    {3, 24, 16, 33, 32, 3, 1, 1, "wino4"},
    /* too few channels for Winograd */
    {3, 1, 16, 13, 13, 3, 1, 1, "im2col"},
    {3, 3, 17, 9, 11, 3, 1, 1, "im2col"},
    {3, 15, 33, 5, 7, 3, 1, 1, "gemm"},
    {20, 33, 15, 5, 7, 3, 1, 0, "gemm"},
    {1, 16, 1, 13, 13, 3, 1, 2, "gemm"},
    {1, 3, 3, 224, 224, 3, 1, 1, "im2col"},
    /* stride 2, 1x1, and stems */
    {3, 24, 31, 13, 13, 3, 2, 1, "gemm"},
    {20, 31, 24, 9, 11, 3, 2, 1, "gemm"},
    {1, 130, 136, 5, 7, 3, 2, 1, "gemm"},
    {3, 64, 136, 5, 7, 1, 1, 0, "gemm"},
    {3, 33, 130, 9, 11, 1, 2, 0, "gemm"},
    {1, 1024, 512, 2, 2, 1, 1, 0, "gemm"},
    {1, 512, 1024, 3, 3, 1, 2, 0, "gemm"},
    {3, 3, 64, 33, 35, 7, 2, 3, "im2col"},
    {1, 3, 16, 224, 224, 7, 2, 3, "im2col"},
    {1, 9, 17, 13, 13, 7, 2, 3, "gemm"},
    {3, 1, 24, 28, 28, 3, 2, 1, "im2col"},
};

/* The name of the kernel that runs a pass of the only layer with multiplications. */
static const char *kernel_of(const hr_exec *e, enum hr_pass pass)
{
    static char name[16];
    json_t *doc = hr_plan_json(e), *layers = json_object_get(doc, "layers"), *l;
    size_t i;
    json_array_foreach (layers, i, l)
        if (json_is_string(json_object_get(l, hr_pass_names[pass]))) {
            snprintf(name, sizeof name, "%s", json_string_value(json_object_get(l, hr_pass_names[pass])));
            break;
        }
    json_decref(doc);
    return name;
}

/* Depth first and layer by layer; the oracle runs once, for there is no batch norm. */
static void check_shape(const shape *s)
{
    bool wino = strncmp(s->kernel, "wino", 4) == 0;
    bounds b = !wino ? gemm_bounds : s->ci + s->co >= 512 ? deep_bounds : wino_bounds;
    hr_model *m = net_new(s->ci, s->h, s->w);
    int conv = net_conv(m, 0, s->co, s->k, s->k, s->stride, s->pad, s->n == 3 ? NET_BIAS : NET_NO_BIAS);
    net_done(m, conv, 2);
    pair p = {.m = m, .n = s->n, .e = make_exec(m, s->n, s->n > HR_CHUNK ? 2 : 1), .r = hr_ref_new(m, s->n)};
    snprintf(p.what, sizeof p.what, "%d->%d %dx%d k%d s%d p%d, %d samples, %s", s->ci, s->co, s->h, s->w,
             s->k, s->stride, s->pad, s->n, hr_compute_isa());
    for (int pass = 0; pass < HR_PASSES; pass++)
        if (strcmp(kernel_of(p.e, (enum hr_pass)pass), s->kernel))
            fail_msg("%s: %s by %s", p.what, hr_pass_names[pass], kernel_of(p.e, (enum hr_pass)pass));
    draw_batch(p.e, m, s->n, 8);
    compare_mode(&p, HR_BN_RUNNING, b);
    hr_exec_forward(p.e, 0, s->n, HR_BN_FOLDED);
    hr_exec_backward(p.e, 0, s->n, HR_BN_FOLDED, HR_DX);
    compare(&p, "folded logits", hr_exec_logits(p.e), hr_ref_logits(p.r), (size_t)(s->n * m->classes), NULL,
            b.y, 0.01);
    compare(&p, "folded dx", hr_exec_dinput(p.e), hr_ref_dinput(p.r), (size_t)s->n * hr_exec_input_len(p.e),
            &m->nodes[0], b.dx, 0.01);
    hr_exec_free(p.e);
    hr_ref_free(p.r);
    hr_model_free(m);
}

static void test_every_kernel_matches_ref_over_the_table_of_shapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < HR_COUNT(table); i++)
        check_shape(&table[i]);
}

/* ---- graphs ------------------------------------------------------------------------------------------ */

/* As net_residual, but so wide that its layers of stride 1 go by Winograd's algorithm; their gradients add to
 * what the shortcuts brought. The last has weights enough for groups. */
static hr_model *wide_residual(void)
{
    hr_model *m = net_new(3, 6, 5);
    int stem = net_relu(m, net_bn(m, net_conv(m, net_normalize(m, 0), 17, 3, 3, 1, 1, NET_NO_BIAS)));
    int a = net_relu(m, net_bn(m, net_conv(m, stem, 24, 3, 3, 1, 1, NET_NO_BIAS)));
    int b = net_relu(m, net_add(m, net_bn(m, net_conv(m, a, 17, 3, 3, 1, 1, NET_NO_BIAS)), stem));
    int c = net_relu(m, net_bn(m, net_conv(m, b, 130, 3, 3, 2, 1, NET_NO_BIAS)));
    int d = net_add(m, net_bn(m, net_conv(m, c, 130, 3, 3, 1, 1, NET_NO_BIAS)), c);
    net_done(m, net_linear(m, net_flatten(m, net_adaptive(m, net_relu(m, d), 1, 1)), 5, NET_BIAS), 31);
    return m;
}

/* As net_preactivation, as wide. The shortcut's gradient comes first, the convolution's adds to it. */
static hr_model *wide_preactivation(void)
{
    hr_model *m = net_new(16, 6, 5);
    int s = net_conv(m, 0, 31, 3, 3, 1, 1, NET_BIAS);
    for (int i = 0; i < 2; i++) {
        int a = net_relu(m, net_bn(m, s));
        int b = net_relu(m, net_bn(m, net_conv(m, a, 16, 3, 3, 1, 1, NET_BIAS)));
        s = net_add(m, net_conv(m, b, 31, 3, 3, 1, 1, NET_NO_BIAS),
                    i ? s : net_conv(m, a, 31, 1, 1, 1, 0, NET_BIAS));
    }
    net_done(m, net_linear(m, net_flatten(m, net_relu(m, net_bn(m, s))), 4, NET_BIAS), 32);
    return m;
}

static void test_networks_with_winograd_layers_match_ref_in_all_modes(void **state)
{
    (void)state;
    for (int n = 3; n <= 20; n += 17) {
        check_modes(wide_residual(), n, n, graph_bounds, "residual");
        check_modes(wide_preactivation(), n, n, graph_bounds, "preactivation");
    }
    check_modes(wide_residual(), 40, 11, graph_bounds, "residual");
}

static void test_masked_winograd_layers_match_ref(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    for (int reg = HR_REG_WEIGHT; reg <= HR_REG_CHANNEL; reg++) {
        hr_model *m = wide_preactivation();
        for (int i = 1; i < m->nnodes; i++)
            if (m->nodes[i].op == HR_OP_CONV2D)
                net_mask(m, i, (enum hr_reg)reg, 0.4, (uint32_t)i);
        assert_ok(hr_model_check(m, "masked", &err), err);
        check_modes(m, 9, 9, graph_bounds, hr_reg_names[reg]);
    }
}

/* ---- plain sums instead ------------------------------------------------------------------------------ */

/* Run an executor in one mode; what comes out, as bytes: logits and what the flags ask for. */
static hr_buf outcome(hr_exec *e, const hr_model *m, int n, enum hr_bn_mode bn, unsigned flags)
{
    hr_buf b = {0};
    draw_batch(e, m, n, 8);
    if (bn == HR_BN_FOLDED)
        hr_exec_infer(e, n);
    else
        hr_exec_forward(e, 0, n, bn);
    hr_exec_backward(e, 0, n, bn, flags);
    hr_buf_add(&b, hr_exec_logits(e), sizeof(float) * (size_t)(n * m->classes));
    if (flags & HR_DX)
        hr_buf_add(&b, hr_exec_dinput(e), sizeof(float) * (size_t)n * hr_exec_input_len(e));
    for (int t = 0; (flags & HR_DW) && t < m->ntensors; t++)
        if (hr_exec_grad(e, t))
            hr_buf_add(&b, hr_exec_grad(e, t), sizeof(float) * (size_t)hr_tensor_count(&m->tensors[t]));
    return b;
}

static unsigned all_flags(enum hr_bn_mode bn)
{
    return bn == HR_BN_FOLDED ? HR_DX : HR_DX | HR_DW;
}

/* 16 -> 1032 channels on 16x16: an executor's groups are of 16 samples at most, whatever the vectors' width.
 */
static hr_model *grouped(void)
{
    hr_model *m = net_new(16, 16, 16);
    net_done(m, net_conv(m, 0, 1032, 3, 3, 1, 1, NET_NO_BIAS), 2);
    return m;
}

/* The oracle would take its time for so many samples; the plain kernels agree with it (above). */
static void test_gradients_over_several_groups_are_those_of_plain_sums(void **state)
{
    (void)state;
    enum { N = 20 };
    hr_model *m = grouped();
    hr_exec *fast = make_exec(m, N, 2);
    hr_exec *plain = plan_exec(m, (hr_exec_opts){.batch = N, .threads = 2, .train = true, .exact = true});
    assert_string_equal(kernel_of(fast, HR_PASS_DW), "wino4");
    assert_string_equal(kernel_of(plain, HR_PASS_DW), "gemm");
    int t = m->nodes[1].param[HR_P_WEIGHT];
    hr_buf a = outcome(fast, m, N, HR_BN_RUNNING, HR_DW), b = outcome(plain, m, N, HR_BN_RUNNING, HR_DW);
    double worst = 0, top = 0;
    for (int64_t i = 0; i < hr_tensor_count(&m->tensors[t]); i++) {
        double want = (double)hr_exec_grad(plain, t)[i];
        worst = fmax(worst, fabs((double)hr_exec_grad(fast, t)[i] - want));
        top = fmax(top, fabs(want));
    }
    if (!(worst <= grouped_dw * top))
        fail_msg("%s: off by %.3g of %.3g (%.3g)", hr_compute_isa(), worst, top, worst / top);
    hr_buf_release(&a);
    hr_buf_release(&b);
    hr_exec_free(fast);
    hr_exec_free(plain);
    hr_model_free(m);
}

static void test_exact_changes_bits_and_agrees_with_ref(void **state)
{
    (void)state;
    hr_model *(*const make[])(void) = {wide_residual, wide_preactivation};
    for (size_t k = 0; k < HR_COUNT(make); k++)
        for (int bn = 0; hr_bn_mode_names[bn]; bn++) {
            hr_model *m = make[k]();
            hr_exec *fast = make_exec(m, 9, 2);
            hr_buf a = outcome(fast, m, 9, (enum hr_bn_mode)bn, HR_DX);
            hr_exec_free(fast);
            hr_model_free(m);
            m = make[k]();
            pair p = {
                .m = m,
                .n = 9,
                .e = plan_exec(m, (hr_exec_opts){.batch = 9, .threads = 2, .train = true, .exact = true}),
                .r = hr_ref_new(m, 9)};
            snprintf(p.what, sizeof p.what, "exact, %s, %s", hr_bn_mode_names[bn], hr_compute_isa());
            draw_batch(p.e, m, 9, 8);
            compare_mode(&p, (enum hr_bn_mode)bn, exact_bounds);
            assert_memory_not_equal(a.data, hr_exec_logits(p.e), sizeof(float) * (size_t)(9 * m->classes));
            hr_buf_release(&a);
            hr_exec_free(p.e);
            hr_ref_free(p.r);
            hr_model_free(m);
        }
}

/* ---- what must not change a bit ---------------------------------------------------------------------- */

static void assert_same(hr_buf *want, hr_buf *got, const char *what)
{
    assert_true(want->len > 0 && want->len == got->len);
    if (memcmp(want->data, got->data, want->len))
        fail_msg("%s, %s: other bits", what, hr_compute_isa());
    hr_buf_release(got);
}

/* The planned batch sets how many samples a thread takes at a time: 1 to 4 chunks. */
static const struct plan {
    int threads, batch;
} plans[] = {{1, 20}, {2, 33}, {3, 20}, {4, 72}, {2, 20}, {4, 20}, {1, 24}, {1, 40}, {2, 64}, {1, 72}};

static void same_bits_for(hr_model *(*make)(void), const struct plan *p, size_t n, enum hr_bn_mode bn,
                          unsigned flags)
{
    hr_buf first = {0};
    for (size_t i = 0; i < n; i++) {
        hr_model *m = make();
        hr_exec *e = make_exec(m, p[i].batch, p[i].threads);
        hr_buf b = outcome(e, m, 20, bn, flags);
        char what[80];
        snprintf(what, sizeof what, "%s, %d threads, planned for %d", hr_bn_mode_names[bn], p[i].threads,
                 p[i].batch);
        if (i)
            assert_same(&first, &b, what);
        else
            first = b;
        hr_exec_free(e);
        hr_model_free(m);
    }
    hr_buf_release(&first);
}

static void test_bits_do_not_depend_on_threads_or_the_planned_batch(void **state)
{
    (void)state;
    for (int bn = 0; hr_bn_mode_names[bn]; bn++) {
        same_bits_for(wide_residual, plans, HR_COUNT(plans), (enum hr_bn_mode)bn,
                      all_flags((enum hr_bn_mode)bn));
        same_bits_for(wide_preactivation, plans, HR_COUNT(plans), (enum hr_bn_mode)bn,
                      all_flags((enum hr_bn_mode)bn));
    }
    same_bits_for(grouped, plans, 4, HR_BN_RUNNING, HR_DW);
}

static void test_attacks_do_not_depend_on_threads_or_the_planned_batch(void **state)
{
    (void)state;
    enum { N = 37 };
    int32_t y[N];
    uint32_t index[N];
    for (int i = 0; i < N; i++) {
        y[i] = i % 4;
        index[i] = (uint32_t)(3 * i);
    }
    for (int bn = 0; hr_bn_mode_names[bn]; bn++) {
        hr_buf first = {0};
        for (size_t i = 0; i < 5; i++) {
            int batch = plans[i].batch < N ? N : plans[i].batch;
            hr_model *m = wide_preactivation();
            hr_exec *e = make_exec(m, batch, plans[i].threads);
            size_t len = N * hr_exec_input_len(e);
            float *x = hr_xmalloc(len * sizeof *x);
            hr_fill_uniform(x, len, 0, 1, 5, HR_STREAM_TEST, 61, 0, 0);
            hr_attack_opts o = {.eps = 0.1f,
                                .step = 0.03f,
                                .steps = 4,
                                .random_start = true,
                                .bn = (enum hr_bn_mode)bn,
                                .stream = HR_STREAM_TEST};
            hr_attack_pgd(e, &o, x, y, index, N);
            hr_buf b = {0};
            hr_buf_add(&b, hr_exec_input(e), len * sizeof *x);
            char what[80];
            snprintf(what, sizeof what, "attack, %s, %d threads, planned for %d", hr_bn_mode_names[bn],
                     plans[i].threads, batch);
            if (first.data)
                assert_same(&first, &b, what);
            else
                first = b;
            free(x);
            hr_exec_free(e);
            hr_model_free(m);
        }
        hr_buf_release(&first);
    }
}

/* A range begins at any chunk, be it in the middle of a task of two to four chunks. */
static void test_folded_ranges_may_begin_inside_a_task(void **state)
{
    (void)state;
    enum { N = 61 };
    static const int cuts[][4] = {{0, N, N, N}, {0, 8, 40, N}, {0, 24, 48, N}, {0, 16, 24, N}};
    hr_buf first = {0};
    for (size_t i = 0; i < HR_COUNT(cuts); i++) {
        hr_model *m = wide_residual();
        hr_exec *e = make_exec(m, 64, 1);
        hr_buf b = {0};
        draw_batch(e, m, N, 8);
        for (int r = 2; r >= 0; r--) /* the last first */
            if (cuts[i][r] < cuts[i][r + 1]) {
                hr_exec_forward(e, cuts[i][r], cuts[i][r + 1], HR_BN_FOLDED);
                hr_exec_backward(e, cuts[i][r], cuts[i][r + 1], HR_BN_FOLDED, HR_DX);
            }
        hr_buf_add(&b, hr_exec_logits(e), sizeof(float) * (size_t)(N * m->classes));
        hr_buf_add(&b, hr_exec_dinput(e), sizeof(float) * N * hr_exec_input_len(e));
        if (first.data)
            assert_same(&first, &b, "ranges");
        else
            first = b;
        hr_exec_free(e);
        hr_model_free(m);
    }
    hr_buf_release(&first);
}

static int run_all(const char *isa)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kernel_matches_ref_over_the_table_of_shapes),
        cmocka_unit_test(test_networks_with_winograd_layers_match_ref_in_all_modes),
        cmocka_unit_test(test_masked_winograd_layers_match_ref),
        cmocka_unit_test(test_gradients_over_several_groups_are_those_of_plain_sums),
        cmocka_unit_test(test_exact_changes_bits_and_agrees_with_ref),
        cmocka_unit_test(test_bits_do_not_depend_on_threads_or_the_planned_batch),
        cmocka_unit_test(test_attacks_do_not_depend_on_threads_or_the_planned_batch),
        cmocka_unit_test(test_folded_ranges_may_begin_inside_a_task),
    };
    return cmocka_run_group_tests_name(isa, tests, NULL, NULL);
}

int main(void)
{
    return for_every_isa(run_all);
}
