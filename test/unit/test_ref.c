/* test/unit/test_ref.c -- the oracle itself: forward against definitions and values worked out by hand,
 * backward against central differences. */
#include "nets.h"

#include <omp.h>

#include "compute/ref.h"

/* ---- central differences ----------------------------------------------------------------------------- */

static void draw(double *dst, size_t n, uint32_t seed, uint32_t c0)
{
    float *f = hr_xmalloc(n * sizeof *f);
    hr_fill_normal(f, n, 0, 1, seed, HR_STREAM_TEST, c0, 0, 1);
    for (size_t i = 0; i < n; i++)
        dst[i] = f[i];
    free(f);
}

/* Values for the input at least 1e-2 apart from each other and from 0, so that steps of 1e-5 cross neither a
 * ReLU's kink nor a tie in a max-pool that reads the input directly. */
static void draw_apart(double *dst, size_t n, uint32_t seed)
{
    uint32_t *order = hr_xmalloc(n * sizeof *order);
    hr_permutation(order, n, seed, HR_STREAM_TEST, 5);
    for (size_t i = 0; i < n; i++)
        dst[i] = 0.01 * (order[i] - 0.5 * n + 0.25);
    free(order);
}

/* f = sum u * logits; *size receives sum |u * logits|, the scale of f's rounding. */
static double objective(hr_ref *r, int n, int classes, enum hr_bn_mode bn, const double *u, double *size)
{
    double f = 0;
    *size = 0;
    hr_ref_forward(r, n, bn);
    for (int i = 0; i < n * classes; i++) {
        f += u[i] * hr_ref_logits(r)[i];
        *size += fabs(u[i] * hr_ref_logits(r)[i]);
    }
    return f;
}

/* Compare g . v with (f(x + hv) - f(x - hv)) / 2h for a random v over the len numbers at x. */
static void check_direction(hr_ref *r, const char *what, double *x, const double *g, size_t len, int n,
                            int classes, enum hr_bn_mode bn, const double *u, double h)
{
    double *v = hr_xmalloc(len * sizeof *v), *x0 = hr_xmalloc(len * sizeof *x0);
    double gv = 0, scale = 0, size, fp, fm;
    draw(v, len, 11, 77);
    memcpy(x0, x, len * sizeof *x);
    for (size_t i = 0; i < len; i++) {
        gv += g[i] * v[i];
        scale += g[i] * v[i] * g[i] * v[i];
        x[i] = x0[i] + h * v[i];
    }
    fp = objective(r, n, classes, bn, u, &size);
    for (size_t i = 0; i < len; i++)
        x[i] = x0[i] - h * v[i];
    fm = objective(r, n, classes, bn, u, &size);
    memcpy(x, x0, len * sizeof *x);
    /* truncation h^2 f''' / 6 against |g v|, rounding 1e-15 size / h: both with a factor of 100 to spare */
    double bound = 1e-6 * sqrt(scale) + 1e-13 * size / h;
    if (!(fabs((fp - fm) / (2 * h) - gv) <= bound))
        fail_msg("%s, batch norm %s: central difference %.12g, gradient %.12g, bound %g", what,
                 hr_bn_mode_names[bn], (fp - fm) / (2 * h), gv, bound);
    free(v);
    free(x0);
}

/* Every gradient of m: the input's, and each parameter's by itself so that none hides behind a larger one. */
static void check_gradients_at(hr_model *m, int n, enum hr_bn_mode bn, double h, const double *input)
{
    hr_ref *r = hr_ref_new(m, n);
    size_t len = (size_t)n * m->nodes[0].c * m->nodes[0].h * m->nodes[0].w;
    double *u = hr_xmalloc(n * m->classes * sizeof *u);
    double **g = hr_xcalloc(m->ntensors + 1, sizeof *g);
    draw(u, (size_t)n * m->classes, 12, 78);
    memcpy(hr_ref_input(r), input, len * sizeof *input);
    hr_ref_forward(r, n, bn);
    hr_ref_backward(r, n, u);
    for (int t = 0; t <= m->ntensors; t++) {
        const double *src = t < m->ntensors ? hr_ref_grad(r, t) : hr_ref_dinput(r);
        size_t count = t < m->ntensors ? (size_t)hr_tensor_count(&m->tensors[t]) : len;
        if (!src)
            continue;
        g[t] = hr_xmalloc(count * sizeof *g[t]);
        memcpy(g[t], src, count * sizeof *src);
    }
    for (int t = 0; t < m->ntensors; t++)
        if (g[t])
            check_direction(r, m->tensors[t].name, hr_ref_param(r, t), g[t], hr_tensor_count(&m->tensors[t]),
                            n, m->classes, bn, u, h);
    check_direction(r, "input", hr_ref_input(r), g[m->ntensors], len, n, m->classes, bn, u, h);
    for (int t = 0; t <= m->ntensors; t++)
        free(g[t]);
    free(g);
    free(u);
    hr_ref_free(r);
}

/* For single operations, whose kinks lie where draw_apart keeps away from. */
static void check_op(hr_model *m, int last, int n, enum hr_bn_mode bn)
{
    net_done(m, last, 21);
    size_t len = (size_t)n * m->nodes[0].c * m->nodes[0].h * m->nodes[0].w;
    double *x = hr_xmalloc(len * sizeof *x);
    draw_apart(x, len, 4);
    check_gradients_at(m, n, bn, 1e-5, x);
    free(x);
    hr_model_free(m);
}

/* For whole graphs. With h = 1e-7 the inputs of a ReLU or max-pool move by about 1e-6, and the fixed seeds
 * put none of the few thousand that close to a kink. */
static void check_graph(hr_model *m, int n)
{
    size_t len = (size_t)n * m->nodes[0].c * m->nodes[0].h * m->nodes[0].w;
    double *x = hr_xmalloc(len * sizeof *x);
    draw(x, len, 4, 6);
    for (int bn = 0; hr_bn_mode_names[bn]; bn++)
        check_gradients_at(m, n, bn, 1e-7, x);
    free(x);
    hr_model_free(m);
}

/* ---- single operations ------------------------------------------------------------------------------- */

static const struct conv_case {
    int n, c, h, w, out, kh, kw, stride, pad, bias;
} conv_cases[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 0, NET_NO_BIAS}, {1, 3, 5, 7, 4, 3, 3, 1, 1, NET_BIAS},
    {2, 2, 7, 5, 3, 3, 3, 2, 1, NET_NO_BIAS}, {3, 3, 8, 8, 2, 1, 1, 2, 0, NET_BIAS},
    {1, 2, 9, 6, 2, 7, 7, 2, 3, NET_NO_BIAS}, {2, 1, 6, 6, 3, 4, 4, 2, 1, NET_BIAS},
    {2, 3, 10, 7, 2, 5, 5, 3, 2, NET_BIAS},   {1, 2, 6, 9, 2, 3, 5, 1, 0, NET_NO_BIAS},
    {2, 2, 4, 4, 2, 3, 3, 1, 2, NET_BIAS},    {1, 2, 2, 2, 2, 5, 5, 1, 2, NET_BIAS}, /* kernel > image */
    {1, 1, 3, 3, 1, 7, 7, 3, 6, NET_NO_BIAS}, /* windows almost in the padding */
};

static void test_convolution_is_its_definition(void **state)
{
    (void)state;
    for (size_t k = 0; k < HR_COUNT(conv_cases); k++) {
        struct conv_case s = conv_cases[k];
        hr_model *m = net_new(s.c, s.h, s.w);
        int conv = net_conv(m, 0, s.out, s.kh, s.kw, s.stride, s.pad, s.bias);
        net_done(m, conv, 3);
        hr_ref *r = hr_ref_new(m, s.n);
        draw(hr_ref_input(r), (size_t)s.n * s.c * s.h * s.w, 5, 5);
        hr_ref_forward(r, s.n, HR_BN_FOLDED);
        const hr_node *nd = &m->nodes[conv];
        const float *wt = hr_tensor_f32(&m->tensors[nd->param[HR_P_WEIGHT]]);
        const double *y = hr_ref_node_output(r, conv);
        for (int i = 0; i < s.n * s.out * nd->h * nd->w; i++) {
            int q = i % nd->w, p = i / nd->w % nd->h, o = i / (nd->w * nd->h) % s.out;
            int n = i / (nd->w * nd->h * s.out);
            double sum = s.bias ? hr_tensor_f32(&m->tensors[nd->param[HR_P_BIAS]])[o] : 0;
            for (int j = 0; j < s.c * s.kh * s.kw; j++) {
                int b = j % s.kw, a = j / s.kw % s.kh, c = j / (s.kw * s.kh);
                int row = p * s.stride + a - s.pad, col = q * s.stride + b - s.pad;
                if (row >= 0 && row < s.h && col >= 0 && col < s.w)
                    sum += wt[o * s.c * s.kh * s.kw + j] *
                           hr_ref_input(r)[((n * s.c + c) * s.h + row) * s.w + col];
            }
            assert_near(y[i], sum, 1e-13); /* at most 147 terms of size 1/12, in another order */
        }
        hr_ref_free(r);
        hr_model_free(m);
    }
}

static void test_conv_backward_matches_central_differences(void **state)
{
    (void)state;
    for (size_t k = 0; k < HR_COUNT(conv_cases); k++) {
        struct conv_case s = conv_cases[k];
        hr_model *m = net_new(s.c, s.h, s.w);
        check_op(m, net_conv(m, 0, s.out, s.kh, s.kw, s.stride, s.pad, s.bias), s.n, HR_BN_FOLDED);
    }
}

static void test_linear_backward_matches_central_differences(void **state)
{
    (void)state;
    static const int cases[][4] = {{1, 1, 1, NET_BIAS}, {1, 7, 3, NET_NO_BIAS}, {5, 13, 11, NET_BIAS}};
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        hr_model *m = net_new(cases[k][1], 1, 1);
        check_op(m, net_linear(m, 0, cases[k][2], cases[k][3]), cases[k][0], HR_BN_FOLDED);
    }
}

static void test_batchnorm_backward_matches_central_differences_in_all_modes(void **state)
{
    (void)state;
    static const int cases[][4] = {{1, 3, 5, 3}, {2, 1, 1, 1}, {3, 5, 1, 1}, {4, 2, 3, 7}};
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        for (int bn = 0; hr_bn_mode_names[bn]; bn++) {
            /* A second reader of the input keeps dx from vanishing: with two values per channel xhat is
             * (-1, 1) whatever they are. */
            hr_model *m = net_new(cases[k][1], cases[k][2], cases[k][3]);
            check_op(m, net_add(m, net_bn(m, 0), 0), cases[k][0], bn);
        }
    }
}

static void test_elementwise_backward_matches_central_differences(void **state)
{
    (void)state;
    for (int n = 1; n <= 3; n += 2) {
        hr_model *m = net_new(3, 5, 3);
        check_op(m, net_relu(m, 0), n, HR_BN_FOLDED);
        m = net_new(3, 3, 5);
        check_op(m, net_normalize(m, 0), n, HR_BN_FOLDED);
        m = net_new(2, 3, 1); /* x + x */
        check_op(m, net_add(m, 0, 0), n, HR_BN_FOLDED);
        m = net_new(2, 1, 3); /* relu(x) + x: two readers of one tensor */
        check_op(m, net_add(m, net_relu(m, 0), 0), n, HR_BN_FOLDED);
        m = net_new(2, 2, 2); /* x + b + relu(b): the sum adds to a gradient that is there */
        int b = net_relu(m, 0), sum = net_add(m, 0, b);
        check_op(m, net_add(m, sum, net_relu(m, b)), n, HR_BN_FOLDED);
    }
}

static void test_pool_backward_matches_central_differences(void **state)
{
    (void)state;
    static const struct {
        enum hr_op op;
        int h, w, k, stride, pad;
    } cases[] = {
        {HR_OP_MAXPOOL, 4, 6, 2, 2, 0}, {HR_OP_MAXPOOL, 7, 5, 3, 2, 1}, {HR_OP_MAXPOOL, 5, 5, 3, 1, 1},
        {HR_OP_MAXPOOL, 5, 7, 2, 3, 0}, {HR_OP_AVGPOOL, 8, 8, 8, 8, 0}, {HR_OP_AVGPOOL, 7, 5, 2, 2, 0},
        {HR_OP_AVGPOOL, 6, 7, 3, 1, 0},
    };
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        hr_model *m = net_new(3, cases[k].h, cases[k].w);
        int pool = net_pool(m, cases[k].op, 0, cases[k].k, cases[k].stride, cases[k].pad);
        check_op(m, pool, 1 + k % 2, HR_BN_FOLDED);
    }
    static const int bins[][4] = {{2, 2, 2, 2}, {7, 7, 1, 1}, {7, 5, 3, 2},
                                  {4, 9, 3, 4}, {3, 1, 5, 1}, {1, 2, 2, 2}};
    for (size_t k = 0; k < HR_COUNT(bins); k++) {
        hr_model *m = net_new(2, bins[k][0], bins[k][1]);
        check_op(m, net_adaptive(m, 0, bins[k][2], bins[k][3]), 1 + k % 2, HR_BN_FOLDED);
    }
}

/* ---- values worked out by hand ----------------------------------------------------------------------- */

/* Run m, whose input has len numbers per sample, on x; then backward from dy. */
static hr_ref *run_values(hr_model *m, int n, size_t len, const double *x, enum hr_bn_mode bn,
                          const double *dy)
{
    hr_ref *r = hr_ref_new(m, n);
    memcpy(hr_ref_input(r), x, n * len * sizeof *x);
    hr_ref_forward(r, n, bn);
    hr_ref_backward(r, n, dy);
    return r;
}

static void test_adaptive_pool_takes_pytorchs_bins(void **state)
{
    (void)state;
    /* 7 into 3: rows 0..2, 2..4, 4..6 (floor(7i/3) .. ceil(7(i+1)/3)) */
    double x[] = {1, 2, 4, 8, 16, 32, 64}, want[] = {7 / 3.0, 28 / 3.0, 112 / 3.0}, dy[] = {3, 6, 12};
    double dx[] = {1, 1, 3, 2, 6, 4, 4};
    hr_model *m = net_new(1, 7, 1);
    net_done(m, net_adaptive(m, 0, 3, 1), 1);
    hr_ref *r = run_values(m, 1, 7, x, HR_BN_FOLDED, dy);
    for (int i = 0; i < 3; i++)
        assert_near(hr_ref_logits(r)[i], want[i], 1e-14);
    for (int i = 0; i < 7; i++)
        assert_near(hr_ref_dinput(r)[i], dx[i], 1e-14);
    hr_ref_free(r);
    hr_model_free(m);
}

static void test_maxpool_pads_with_minus_infinity_and_the_first_of_equals_wins(void **state)
{
    (void)state;
    double x[] = {-5, -5, -7, -5, -3, -3, -9, -3, -3}, dy[] = {1, 2, 4, 8};
    double want[] = {-3, -3, -3, -3}, dx[] = {0, 0, 0, 0, 15, 0, 0, 0, 0};
    hr_model *m = net_new(1, 3, 3);
    net_done(m, net_pool(m, HR_OP_MAXPOOL, 0, 3, 2, 1), 1);
    hr_ref *r = run_values(m, 1, 9, x, HR_BN_FOLDED, dy);
    for (int i = 0; i < 4; i++)
        assert_near(hr_ref_logits(r)[i], want[i], 0);
    for (int i = 0; i < 9; i++)
        assert_near(hr_ref_dinput(r)[i], dx[i], 0);
    hr_ref_free(r);
    hr_model_free(m);
}

static void test_relu_gradient_at_zero_is_zero(void **state)
{
    (void)state;
    double x[] = {-1, 0, 2}, dy[] = {1, 1, 1};
    hr_model *m = net_new(3, 1, 1);
    net_done(m, net_relu(m, 0), 1);
    hr_ref *r = run_values(m, 1, 3, x, HR_BN_FOLDED, dy);
    for (int i = 0; i < 3; i++) {
        assert_near(hr_ref_logits(r)[i], i == 2 ? 2 : 0, 0);
        assert_near(hr_ref_dinput(r)[i], i == 2 ? 1 : 0, 0);
    }
    hr_ref_free(r);
    hr_model_free(m);
}

static void test_batchnorm_modes_use_and_move_statistics_as_pytorch(void **state)
{
    (void)state;
    double x[] = {1, 2, 3, 4}, dy[4] = {0};
    hr_model *m = net_new(1, 1, 2);
    int bn = net_bn(m, 0);
    net_done(m, bn, 1);
    const int *p = m->nodes[bn].param;
    hr_tensor_f32(&m->tensors[p[HR_P_WEIGHT]])[0] = 2;
    hr_tensor_f32(&m->tensors[p[HR_P_BIAS]])[0] = 0.5f;
    hr_tensor_f32(&m->tensors[p[HR_P_MEAN]])[0] = 1;
    hr_tensor_f32(&m->tensors[p[HR_P_VAR]])[0] = 4;
    for (int mode = 0; hr_bn_mode_names[mode]; mode++) {
        hr_ref *r = run_values(m, 2, 2, x, mode, dy);
        bool running = mode == HR_BN_FOLDED || mode == HR_BN_RUNNING;
        double mean = running ? 1 : 2.5, var = running ? 4 : 1.25;
        for (int i = 0; i < 4; i++)
            assert_near(hr_ref_logits(r)[i], 2 * (x[i] - mean) / sqrt(var + 1e-5) + 0.5, 1e-14);
        bool moved = mode == HR_BN_BATCH_UPDATE; /* unbiased variance 5/3 */
        assert_near(hr_ref_param(r, p[HR_P_MEAN])[0], moved ? 0.9 + 0.25 : 1, 1e-15);
        assert_near(hr_ref_param(r, p[HR_P_VAR])[0], moved ? 3.6 + 0.5 / 3 : 4, 1e-15);
        hr_ref_free(r);
    }
    hr_model_free(m);
}

static void test_one_value_per_channel_leaves_running_var_finite(void **state)
{
    (void)state;
    double x[] = {3}, dy[] = {1};
    hr_model *m = net_new(1, 1, 1);
    int bn = net_bn(m, 0);
    net_done(m, bn, 1);
    const int *p = m->nodes[bn].param;
    double var = hr_tensor_f32(&m->tensors[p[HR_P_VAR]])[0];
    hr_ref *r = run_values(m, 1, 1, x, HR_BN_BATCH_UPDATE, dy);
    assert_near(hr_ref_logits(r)[0], hr_ref_param(r, p[HR_P_BIAS])[0], 0);
    assert_near(hr_ref_dinput(r)[0], 0, 0);
    assert_near(hr_ref_param(r, p[HR_P_VAR])[0], var, 0);
    hr_ref_free(r);
    hr_model_free(m);
}

/* ---- graphs ------------------------------------------------------------------------------------------ */

static void test_residual_graph_matches_central_differences(void **state)
{
    (void)state;
    check_graph(net_residual(), 3);
    check_graph(net_residual(), 1);
}

static void test_preactivation_graph_matches_central_differences(void **state)
{
    (void)state;
    check_graph(net_preactivation(), 2);
}

static void test_plain_graph_matches_central_differences(void **state)
{
    (void)state;
    check_graph(net_plain(), 2);
    check_graph(net_plain(), 1);
}

static void test_masked_layers_compute_with_zeros_and_give_gradients_everywhere(void **state)
{
    (void)state;
    hr_model *m = net_residual();
    int conv = -1, linear = -1;
    for (int i = 0; i < m->nnodes; i++) {
        conv = m->nodes[i].op == HR_OP_CONV2D ? i : conv; /* the last of each */
        linear = m->nodes[i].op == HR_OP_LINEAR ? i : linear;
    }
    const struct {
        enum hr_reg conv, linear;
    } cases[] = {{HR_REG_WEIGHT, HR_REG_CHANNEL}, {HR_REG_CHANNEL, HR_REG_WEIGHT}};
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        net_mask(m, conv, cases[k].conv, 0.5, 1);
        net_mask(m, linear, cases[k].linear, 0.5, 2);
        hr_err err = HR_ERR_INIT;
        assert_ok(hr_model_check(m, "masked", &err), err);
        hr_ref *r = hr_ref_new(m, 2);
        size_t zeros = 0, live = 0;
        double x[2 * 2 * 9 * 7], dy[10];
        draw(x, HR_COUNT(x), 3, 3);
        draw(dy, HR_COUNT(dy), 3, 4);
        memcpy(hr_ref_input(r), x, sizeof x);
        hr_ref_forward(r, 2, HR_BN_FOLDED);
        hr_ref_backward(r, 2, dy);
        for (int j = 0; j < 2; j++) {
            int node = j ? linear : conv, w = m->nodes[node].param[HR_P_WEIGHT];
            const hr_tensor *t = &m->tensors[w], *mask = hr_model_node_tensor(m, node, "mask");
            int64_t in = t->shape[1], taps = t->ndim == 4 ? t->shape[2] * t->shape[3] : 1;
            enum hr_reg reg = j ? cases[k].linear : cases[k].conv;
            for (int64_t i = 0; i < hr_tensor_count(t); i++) {
                int bit = ((uint8_t *)mask->data)[reg == HR_REG_WEIGHT ? i : i / taps % in];
                assert_near(hr_ref_param(r, w)[i], bit * (double)hr_tensor_f32(t)[i], 0);
                zeros += !bit;
                live += !bit && hr_ref_grad(r, w)[i] != 0;
            }
        }
        assert_true(zeros > 0);
        assert_true(live > zeros / 2); /* some inputs are dead ReLUs; most are not */
        hr_ref_free(r);
    }
    hr_model_free(m);
}

static void test_bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    int before = omp_get_max_threads();
    hr_model *m = net_thick(); /* the small networks run on one thread anyway */
    enum { N = 3, PIXELS = N * 2 * 6 * 5 };
    double dy[N * 5];
    draw(dy, HR_COUNT(dy), 8, 8);
    hr_ref *r[2];
    for (int k = 0; k < 2; k++) {
        omp_set_num_threads(1 + 2 * k);
        r[k] = hr_ref_new(m, N);
        draw(hr_ref_input(r[k]), PIXELS, 9, 9);
        hr_ref_forward(r[k], N, HR_BN_BATCH_UPDATE);
        hr_ref_backward(r[k], N, dy);
    }
    omp_set_num_threads(before);
    assert_int_equal(m->classes, 5);
    assert_memory_equal(hr_ref_logits(r[0]), hr_ref_logits(r[1]), sizeof dy);
    assert_memory_equal(hr_ref_dinput(r[0]), hr_ref_dinput(r[1]), PIXELS * sizeof(double));
    for (int t = 0; t < m->ntensors; t++)
        if (hr_ref_grad(r[0], t))
            assert_memory_equal(hr_ref_grad(r[0], t), hr_ref_grad(r[1], t),
                                hr_tensor_count(&m->tensors[t]) * sizeof(double));
    hr_ref_free(r[0]);
    hr_ref_free(r[1]);
    hr_model_free(m);
}

static void test_second_backward_overwrites_the_first(void **state)
{
    (void)state;
    hr_model *m = net_plain();
    hr_ref *r = hr_ref_new(m, 2);
    double dy[6], first[2 * 11 * 13];
    draw(hr_ref_input(r), HR_COUNT(first), 1, 1);
    draw(dy, 6, 2, 2);
    hr_ref_forward(r, 2, HR_BN_FOLDED);
    hr_ref_backward(r, 2, dy);
    memcpy(first, hr_ref_dinput(r), sizeof first);
    hr_ref_backward(r, 2, dy);
    assert_memory_equal(first, hr_ref_dinput(r), sizeof first);
    hr_ref_free(r);
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_convolution_is_its_definition),
        cmocka_unit_test(test_conv_backward_matches_central_differences),
        cmocka_unit_test(test_linear_backward_matches_central_differences),
        cmocka_unit_test(test_batchnorm_backward_matches_central_differences_in_all_modes),
        cmocka_unit_test(test_elementwise_backward_matches_central_differences),
        cmocka_unit_test(test_pool_backward_matches_central_differences),
        cmocka_unit_test(test_adaptive_pool_takes_pytorchs_bins),
        cmocka_unit_test(test_maxpool_pads_with_minus_infinity_and_the_first_of_equals_wins),
        cmocka_unit_test(test_relu_gradient_at_zero_is_zero),
        cmocka_unit_test(test_batchnorm_modes_use_and_move_statistics_as_pytorch),
        cmocka_unit_test(test_one_value_per_channel_leaves_running_var_finite),
        cmocka_unit_test(test_residual_graph_matches_central_differences),
        cmocka_unit_test(test_preactivation_graph_matches_central_differences),
        cmocka_unit_test(test_plain_graph_matches_central_differences),
        cmocka_unit_test(test_masked_layers_compute_with_zeros_and_give_gradients_everywhere),
        cmocka_unit_test(test_bits_do_not_depend_on_threads),
        cmocka_unit_test(test_second_backward_overwrites_the_first),
    };
    return cmocka_run_group_tests_name("ref", tests, NULL, NULL);
}
