/* test/unit/test_compute.c -- the float engine against the oracle, per layer and in graphs, for every
 * instruction set that this machine has; and the engine's own promises: bits that do not depend on threads or
 * on how a batch is cut. */
#include "attack/attack.h"
#include "both.h"

/* ---- the bounds -------------------------------------------------------------------------------------- */

static const bounds
    /* sums of up to 64 channels x 9 taps or 33 x 49: sqrt(1617) 6e-8 = 2.4e-6; the largest result is a few
       times the typical one, which makes it less */
    conv_bounds = {4e-6, 4e-6, 4e-6},
    /* as above, K = 300 at most */
    linear_bounds = {3e-6, 3e-6, 1e-6},
    /* one multiplication and one addition with factors in float; sums over up to 180 values in dgamma */
    running_bounds = {5e-7, 5e-7, 2e-6},
    /* a batch norm with its neighbours. The gradient of a bias or of another batch norm in front of batch
       statistics is a sum over hundreds of values that cancels to 0: only their rounding is left */
    fused_bounds = {4e-6, 4e-6, 4e-5},
    /* exact (max-pool, flatten) or a mean of up to 64 values */
    pool_bounds = {5e-7, 5e-7, 5e-7},
    /* up to ten layers after another, each with its own rounding; biases as above */
    graph_bounds = {2e-6, 3e-6, 1.5e-5};

/* ---- layers ------------------------------------------------------------------------------------------ */

static const int widths[] = {1,  3,  5, 16,
                             17, 33, 64};      /* below, at, above and off multiples of 4, 8, 16, 32 */
static const int batches[] = {1, 3, 8, 9, 20}; /* below, at and above a chunk; three chunks */

static void check_conv(int n, int ci, int co, int h, int w, int k, int stride, int pad, int bias)
{
    char what[100];
    snprintf(what, sizeof what, "conv %d->%d %dx%d k%d s%d p%d", ci, co, h, w, k, stride, pad);
    hr_model *m = net_new(ci, h, w);
    net_done(m, net_conv(m, 0, co, k, k, stride, pad, bias), 2);
    check_modes(m, n, n, conv_bounds, what);
}

static void test_conv_matches_ref_for_all_widths(void **state)
{
    (void)state;
    for (size_t i = 0; i < HR_COUNT(widths); i++)
        for (size_t o = 0; o < HR_COUNT(widths); o++)
            check_conv(3, widths[i], widths[o], 5, 6, 3, 1, 1, (i + o) % 2);
}

static void test_conv_matches_ref_for_all_windows(void **state)
{
    (void)state;
    static const int kernels[] = {1, 3, 4, 5, 7};
    for (size_t k = 0; k < HR_COUNT(kernels); k++)
        for (int stride = 1; stride <= 3; stride++)
            for (int pad = 0; pad <= 3 && pad < kernels[k]; pad++) {
                check_conv(2, 3, 5, 9, 7, kernels[k], stride, pad, NET_BIAS);
                check_conv(2, 17, 33, 7, 10, kernels[k], stride, pad, NET_NO_BIAS);
            }
}

static void test_conv_matches_ref_for_all_batches(void **state)
{
    (void)state;
    for (size_t k = 0; k < HR_COUNT(batches); k++) {
        check_conv(batches[k], 5, 17, 7, 6, 3, 1, 1, NET_BIAS);
        check_conv(batches[k], 16, 8, 7, 5, 1, 1, 0, NET_BIAS);
        check_conv(batches[k], 3, 33, 6, 7, 3, 2, 1, NET_NO_BIAS);
    }
}

static void test_conv_on_awkward_images_matches_ref(void **state)
{
    (void)state;
    check_conv(2, 5, 6, 1, 1, 3, 1, 1, NET_BIAS);  /* only the middle tap is inside */
    check_conv(2, 33, 5, 2, 2, 5, 1, 2, NET_BIAS); /* kernel larger than the image */
    check_conv(2, 3, 4, 1, 13, 1, 3, 0, NET_BIAS); /* pixels that no window reads */
    check_conv(1, 4, 4, 11, 1, 3, 2, 2, NET_NO_BIAS);
    check_conv(9, 9, 5, 7, 6, 3, 1, 1, NET_NO_BIAS); /* weight gradients of more than one block of pixels, */
    check_conv(9, 2, 5, 7, 6, 3, 1, 1, NET_NO_BIAS); /* gathered and not */
    hr_model *m = net_new(3, 6, 9);                  /* a kernel that is not square */
    net_done(m, net_conv(m, 0, 17, 3, 5, 2, 2, NET_BIAS), 2);
    check_modes(m, 3, 3, conv_bounds, "conv 3x5");
}

/* 73,728 weights: DW goes by panels. Five chunks make an uneven tree. */
static void test_large_conv_matches_ref(void **state)
{
    (void)state;
    check_conv(9, 64, 128, 4, 3, 3, 3, 1, NET_NO_BIAS); /* not stride 1, which takes another way */
    check_conv(36, 64, 130, 2, 2, 3, 2, 1, NET_BIAS);
}

static void test_linear_matches_ref(void **state)
{
    (void)state;
    static const int cases[][2] = {{1, 1}, {3, 10}, {17, 33}, {64, 5}, {300, 16}, {33, 1}, {270, 300}};
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        for (size_t b = 0; b < HR_COUNT(batches); b++) {
            char what[60];
            snprintf(what, sizeof what, "linear %d->%d", cases[k][0], cases[k][1]);
            hr_model *m = net_new(cases[k][0], 1, 1);
            net_done(m, net_linear(m, 0, cases[k][1], b % 2), 2);
            check_modes(m, batches[b], batches[b], linear_bounds, what);
        }
    }
}

/* Everything that may follow a convolution's sum in one step: c conv, b batch norm, a add, r relu. What is
 * added is the image, so that dx has two writers. */
static void test_batchnorm_and_what_is_fused_around_it_match_ref(void **state)
{
    (void)state;
    static const char *const fused[] = {"b", "br", "cb", "cbr", "cba", "cbar", "ca", "car", "cr", "bb", "rb"};
    static const int sizes[][3] = {{1, 5, 3}, {3, 1, 2}, {17, 3, 4}, {33, 2, 3}};
    for (size_t f = 0; f < HR_COUNT(fused); f++) {
        for (size_t k = 0; k < HR_COUNT(sizes); k++) {
            int n = batches[(f + k) % HR_COUNT(batches)], c = sizes[k][0];
            if (n * sizes[k][1] * sizes[k][2] < 8)
                n = 3;
            hr_model *m = net_new(c, sizes[k][1], sizes[k][2]);
            int at = 0, entry = 0;
            for (const char *s = fused[f]; *s; s++)
                at = *s == 'c'   ? net_conv(m, at, c, 3, 3, 1, 1, f % 2)
                     : *s == 'b' ? net_bn(m, at)
                     : *s == 'a' ? net_add(m, at, entry)
                                 : net_relu(m, at);
            net_done(m, at, 3);
            char what[60];
            snprintf(what, sizeof what, "%s on %dx%dx%d", fused[f], c, sizes[k][1], sizes[k][2]);
            check_modes(m, n, n, fused_bounds, what);
        }
    }
}

/* A chunk's statistics are merged from blocks of rows: here of 768 and of 288. */
static void test_statistics_of_large_chunks_match_ref(void **state)
{
    (void)state;
    hr_model *m = net_new(80, 12, 11);
    net_done(m, net_linear(m, net_flatten(m, net_relu(m, net_bn(m, 0))), 3, NET_NO_BIAS), 3);
    check_modes(m, 9, 9, fused_bounds, "br on 80x12x11");
}

/* Maps of more than half a megabyte: steps take turns sample by sample, and sums over a chunk stop and go on
 * where 64 (sums) or 4096 rows (statistics) are full, which with 9025 rows is within a sample. */
static void test_steps_that_take_turns_match_ref(void **state)
{
    (void)state;
    hr_model *m = net_new(2, 95, 95);
    int first = net_relu(m, net_bn(m, net_conv(m, 0, 16, 1, 1, 1, 0, NET_NO_BIAS)));
    int second = net_relu(m, net_bn(m, net_conv(m, first, 16, 1, 1, 1, 0, NET_NO_BIAS)));
    int last = net_relu(m, net_add(m, net_bn(m, net_conv(m, second, 16, 1, 1, 1, 0, NET_NO_BIAS)), first));
    net_done(m, net_linear(m, net_flatten(m, net_adaptive(m, last, 1, 1)), 3, NET_NO_BIAS), 3);
    check_modes(m, 9, 9, fused_bounds, "residual block on 16x95x95");
}

/* Inputs from a handful of values: ties in windows are exact in float too, and the first must win. */
static void test_pools_match_ref_and_ties_go_to_the_first(void **state)
{
    (void)state;
    static const struct {
        enum hr_op op;
        int h, w, k, stride, pad;
    } cases[] = {
        {HR_OP_MAXPOOL, 4, 6, 2, 2, 0}, {HR_OP_MAXPOOL, 7, 5, 3, 2, 1},
        {HR_OP_MAXPOOL, 5, 5, 3, 1, 1}, {HR_OP_MAXPOOL, 5, 7, 2, 3, 0},
        {HR_OP_AVGPOOL, 8, 8, 8, 8, 0}, {HR_OP_AVGPOOL, 7, 5, 2, 2, 0},
        {HR_OP_AVGPOOL, 6, 7, 3, 1, 0}, {HR_OP_MAXPOOL, 9, 8, 3, 2, 0},
        {HR_OP_MAXPOOL, 2, 3, 6, 2, 3}, /* windows larger than the map */
    };
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        for (size_t c = 0; c < HR_COUNT(widths); c += 2) {
            hr_model *m = net_new(widths[c], cases[k].h, cases[k].w);
            net_done(m, net_pool(m, cases[k].op, 0, cases[k].k, cases[k].stride, cases[k].pad), 2);
            pair p = {.m = m, .n = 9, .e = make_exec(m, 9, 2), .r = hr_ref_new(m, 9)};
            snprintf(p.what, sizeof p.what, "%s %d %s", hr_op_names[cases[k].op], (int)k, hr_compute_isa());
            draw_batch(p.e, m, 9, 8);
            for (size_t i = 0; i < 9 * hr_exec_input_len(p.e); i++)
                hr_exec_input(p.e)[i] = roundf(hr_exec_input(p.e)[i]);
            compare_mode(&p, HR_BN_FOLDED, pool_bounds);
            compare_mode(&p, HR_BN_RUNNING, pool_bounds);
            hr_exec_free(p.e);
            hr_ref_free(p.r);
            hr_model_free(m);
        }
    }
}

static void test_adaptive_pools_match_ref(void **state)
{
    (void)state;
    static const int bins[][4] = {{2, 2, 2, 2}, {7, 7, 1, 1}, {7, 5, 3, 2},
                                  {4, 9, 3, 4}, {3, 1, 5, 1}, {1, 2, 2, 2}};
    for (size_t k = 0; k < HR_COUNT(bins); k++) {
        hr_model *m = net_new(k % 2 ? 5 : 17, bins[k][0], bins[k][1]);
        net_done(m, net_adaptive(m, 0, bins[k][2], bins[k][3]), 2);
        check_modes(m, 9, 9, pool_bounds, "adaptive pool");
    }
}

static void test_elementwise_steps_match_ref(void **state)
{
    (void)state;
    for (int k = 0; k < 6; k++) {
        hr_model *m = net_new(3, 5, 7);
        int a = net_normalize(m, 0), last = a;
        if (k == 1)
            last = net_relu(m, a);
        else if (k == 2)
            last = net_add(m, a, a);
        else if (k == 3)
            last = net_add(m, net_relu(m, a), 0);
        else if (k == 4)
            last = net_relu(m, net_add(m, 0, a));
        else if (k == 5) { /* the gradient of b has a part already when its sum adds another */
            int b = net_relu(m, a), sum = net_add(m, 0, b);
            last = net_add(m, sum, net_relu(m, b));
        }
        net_done(m, last, 2);
        char what[20];
        snprintf(what, sizeof what, "elementwise %d", k);
        check_modes(m, 9, 9, running_bounds, what);
    }
}

/* ---- graphs ------------------------------------------------------------------------------------------ */

static hr_model *zoo_resS(void)
{
    hr_model *m;
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_zoo_build("resS", NULL, &m, &err), err);
    net_random(m, 7);
    return m;
}

static void test_small_graphs_match_ref_in_all_modes(void **state)
{
    (void)state;
    for (size_t b = 1; b < HR_COUNT(batches); b++) {
        check_modes(net_residual(), batches[b], batches[b], graph_bounds, "residual");
        check_modes(net_preactivation(), batches[b], batches[b], graph_bounds, "preactivation");
        check_modes(net_plain(), batches[b], batches[b], graph_bounds, "plain");
        check_modes(net_gates(), batches[b], batches[b], graph_bounds, "gates");
    }
    check_modes(zoo_resS(), 9, 9, graph_bounds, "resS");
}

static void test_part_of_the_planned_batch_matches_ref(void **state)
{
    (void)state;
    check_modes(net_residual(), 20, 5, graph_bounds, "residual");
    check_modes(net_residual(), 20, 16, graph_bounds, "residual");
    check_modes(net_wide(), 20, 9, graph_bounds, "wide");
}

static void test_active_masks_of_the_model_match_ref(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    for (int reg = HR_REG_WEIGHT; reg <= HR_REG_CHANNEL; reg++) {
        hr_model *m = net_preactivation();
        for (int i = 1; i < m->nnodes; i++)
            if (m->nodes[i].op == HR_OP_CONV2D || m->nodes[i].op == HR_OP_LINEAR)
                net_mask(m, i, reg, 0.6, i);
        assert_ok(hr_model_check(m, "masked", &err), err);
        check_modes(m, 9, 9, graph_bounds, hr_reg_names[reg]);
    }
}

/* hr_exec_set_mask takes precedence over the model's mask, counts from the next hr_exec_params on, and
 * fractions multiply as well. */
static void test_given_masks_multiply_weights_from_the_next_params_on(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = net_residual();
    int conv = 0;
    while (m->nodes[conv].op != HR_OP_CONV2D)
        conv++;
    net_mask(m, conv, HR_REG_WEIGHT, 0.5, 1);
    assert_ok(hr_model_check(m, "masked", &err), err);
    int w = m->nodes[conv].param[HR_P_WEIGHT];
    int64_t count = hr_tensor_count(&m->tensors[w]);
    float *mask = hr_xmalloc(count * sizeof *mask);
    hr_fill_uniform(mask, count, 0, 1, 3, HR_STREAM_TEST, 1, 1, 1);
    pair p = {.m = m, .n = 3, .e = make_exec(m, 3, 1), .r = hr_ref_new(m, 3)};
    snprintf(p.what, sizeof p.what, "set_mask, %s", hr_compute_isa());
    draw_batch(p.e, m, 3, 8);
    hr_exec_set_mask(p.e, conv, mask);
    compare_mode(&p, HR_BN_RUNNING, graph_bounds); /* not yet */
    hr_exec_params(p.e);
    for (int64_t i = 0; i < count; i++)
        hr_ref_param(p.r, w)[i] = (double)hr_tensor_f32(&m->tensors[w])[i] * mask[i];
    compare_mode(&p, HR_BN_RUNNING, graph_bounds);
    hr_exec_set_mask(p.e, conv, NULL);
    hr_exec_params(p.e);
    hr_ref_free(p.r);
    p.r = hr_ref_new(m, 3);
    compare_mode(&p, HR_BN_RUNNING, graph_bounds); /* the model's own again */
    hr_exec_free(p.e);
    hr_ref_free(p.r);
    hr_model_free(m);
    free(mask);
}

static void test_params_follow_moved_statistics(void **state)
{
    (void)state;
    hr_model *m = net_residual();
    pair p = {.m = m, .n = 9, .e = make_exec(m, 9, 2), .r = hr_ref_new(m, 9)};
    snprintf(p.what, sizeof p.what, "after an update, %s", hr_compute_isa());
    draw_batch(p.e, m, 9, 8);
    compare_mode(&p, HR_BN_BATCH_UPDATE, graph_bounds);
    hr_exec_params(p.e);
    compare_mode(&p, HR_BN_FOLDED, graph_bounds);
    hr_exec_free(p.e);
    hr_ref_free(p.r);
    hr_model_free(m);
}

/* ---- promises ---------------------------------------------------------------------------------------- */

/* One buffer with everything that a pass produced. */
typedef struct bits {
    hr_buf all;
} bits;

static void collect(bits *b, hr_exec *e, const hr_model *m, int n, unsigned flags)
{
    hr_buf_add(&b->all, hr_exec_logits(e), sizeof(float) * n * m->classes);
    if (flags & HR_DX)
        hr_buf_add(&b->all, hr_exec_dinput(e), sizeof(float) * n * hr_exec_input_len(e));
    for (int t = 0; (flags & HR_DW) && t < m->ntensors; t++)
        if (hr_exec_grad(e, t))
            hr_buf_add(&b->all, hr_exec_grad(e, t), sizeof(float) * hr_tensor_count(&m->tensors[t]));
}

static void assert_same_bits(bits *a, bits *b)
{
    assert_int_equal(a->all.len, b->all.len);
    assert_true(a->all.len > 0);
    assert_memory_equal(a->all.data, b->all.data, a->all.len);
    hr_buf_release(&a->all);
    hr_buf_release(&b->all);
}

/* Batches of n samples on 1 to 4 threads. */
static void same_bits_on_all_threads(hr_model *(*make)(void), int n, enum hr_bn_mode bn)
{
    bits b[4] = {0};
    for (int threads = 1; threads <= 4; threads++) {
        hr_model *m = make();
        hr_exec *e = make_exec(m, n, threads);
        draw_batch(e, m, n, 8);
        hr_exec_forward(e, 0, n, bn);
        hr_exec_backward(e, 0, n, bn, HR_DX | HR_DW);
        collect(&b[threads - 1], e, m, n, HR_DX | HR_DW);
        for (int t = 0; t < threads; t++)
            assert_true(hr_exec_tasks(e, t) > 0);
        hr_exec_free(e);
        hr_model_free(m);
    }
    for (int other = 1; other < 4; other++) {
        bits one = {0};
        hr_buf_add(&one.all, b[0].all.data, b[0].all.len);
        assert_same_bits(&one, &b[other]);
    }
    hr_buf_release(&b[0].all);
}

static void test_bits_do_not_depend_on_threads_and_all_threads_work(void **state)
{
    (void)state;
    hr_model *(*const make[])(void) = {net_residual, net_preactivation, net_plain, net_thick, net_wide};
    for (size_t k = 0; k < HR_COUNT(make); k++)
        for (int bn = HR_BN_BATCH; hr_bn_mode_names[bn]; bn++)
            same_bits_on_all_threads(make[k], 44, bn);
}

/* A chunk of 8 would be the whole batch. */
static void test_a_small_batch_of_large_images_is_work_for_all_threads(void **state)
{
    (void)state;
    same_bits_on_all_threads(net_large, 7, HR_BN_BATCH_UPDATE);
    check_modes(net_large(), 7, 7, graph_bounds, "large images");
}

static void forward_backward(void *ctx, int n0, int n1)
{
    hr_exec_forward(ctx, n0, n1, HR_BN_FOLDED);
    hr_exec_backward(ctx, n0, n1, HR_BN_FOLDED, HR_DX);
}

static void test_folded_passes_over_ranges_give_the_bits_of_the_whole_batch(void **state)
{
    (void)state;
    hr_model *m = net_residual();
    bits b[4] = {0};
    for (int how = 0; how < 4; how++) {
        hr_exec *e = make_exec(m, 20, 1 + how % 2);
        draw_batch(e, m, 20, 8);
        if (how == 0) {
            forward_backward(e, 0, 20);
        } else if (how == 1) { /* ranges in another order */
            forward_backward(e, 16, 20);
            forward_backward(e, 0, 16);
        } else if (how == 2) { /* all forward, then all backward */
            hr_exec_infer(e, 20);
            hr_exec_backward(e, 0, 20, HR_BN_FOLDED, HR_DX);
        } else {
            hr_exec_chunks(e, 20, forward_backward, e);
        }
        collect(&b[how], e, m, 20, HR_DX);
        uint64_t tasks = 0;
        for (int t = 0; t < hr_exec_threads(e); t++)
            tasks += hr_exec_tasks(e, t);
        assert_int_equal(tasks, 40); /* 20 images, forward and backward */
        hr_exec_free(e);
    }
    for (int how = 1; how < 4; how++) {
        bits whole = {0};
        hr_buf_add(&whole.all, b[0].all.data, b[0].all.len);
        assert_same_bits(&whole, &b[how]);
    }
    hr_buf_release(&b[0].all);
    hr_model_free(m);
}

/* Threads on their way through the network meet in its wide layer, whatever they bring. */
static void test_folded_passes_of_threads_that_meet_have_the_bits_of_one_alone(void **state)
{
    (void)state;
    static const int images[] = {1, 9, 24, 40};
    hr_model *m = net_wide();
    for (size_t k = 0; k < HR_COUNT(images); k++) {
        int n = images[k];
        bits b[4] = {0};
        for (int threads = 1; threads <= 4; threads++) {
            hr_exec *e = plan_exec(m, (hr_exec_opts){.batch = 40, .threads = threads, .train = threads == 3});
            draw_batch(e, m, n, 8);
            for (int again = 0; again < 3; again++)
                hr_exec_chunks(e, n, forward_backward, e);
            collect(&b[threads - 1], e, m, n, HR_DX);
            hr_exec_free(e);
        }
        for (int other = 1; other < 4; other++) {
            bits one = {0};
            hr_buf_add(&one.all, b[0].all.data, b[0].all.len);
            assert_same_bits(&one, &b[other]);
        }
        hr_buf_release(&b[0].all);
    }
    hr_model_free(m);
}

/* What run() leaves of each sample. */
static void attack_some(hr_exec *e, const float *x, const int32_t *y, const uint32_t *index, int n,
                        hr_buf *out)
{
    hr_attack_opts o = {
        .eps = 0.1f, .step = 0.03f, .steps = 2, .random_start = true, .stream = HR_STREAM_TEST};
    hr_attack_pgd(e, &o, x, y, index, n);
    hr_exec_infer(e, n);
    out->len = 0;
    hr_buf_add(out, hr_exec_logits(e), sizeof(float) * (size_t)(n * hr_exec_classes(e)));
    hr_buf_add(out, hr_exec_input(e), sizeof(float) * (size_t)n * hr_exec_input_len(e));
    hr_buf_add(out, hr_exec_dinput(e), sizeof(float) * (size_t)n * hr_exec_input_len(e));
}

/* An executor for BATCH images attacks the first n of them, for every n, on 1, 2 and 4 threads: all as one
 * for twice as many does that takes them at once. Nothing of an earlier call with other tasks is left. */
static void test_few_images_get_the_bits_of_a_full_batch(void **state)
{
    (void)state;
    enum { BATCH = 24 };
    hr_model *(*const make[])(void) = {net_residual, net_gates};
    for (size_t k = 0; k < HR_COUNT(make); k++) {
        hr_model *m = make[k]();
        hr_exec *whole = make_exec(m, 2 * BATCH, 1), *some[3];
        size_t len = hr_exec_input_len(whole), classes = (size_t)m->classes;
        float *x = hr_xmalloc(BATCH * len * sizeof *x);
        int32_t y[2 * BATCH];
        uint32_t index[2 * BATCH];
        hr_buf all = {0}, part = {0};
        hr_fill_uniform(x, BATCH * len, 0, 1, 8, HR_STREAM_TEST, 0, 0, 0);
        for (int i = 0; i < BATCH; i++) {
            y[i] = i % m->classes;
            index[i] = 100 + (uint32_t)i;
        }
        attack_some(whole, x, y, index, BATCH, &all);
        for (int t = 0; t < 3; t++)
            some[t] = plan_exec(m, (hr_exec_opts){.batch = BATCH, .threads = 1 << t, .train = t == 1});
        for (int n = 1; n <= BATCH; n++)
            for (int t = 0; t < 3; t++) {
                size_t ends[] = {classes, len, len}, at = 0, from = 0;
                attack_some(some[t], x, y, index, n, &part);
                for (int j = 0; j < 3; j++) {
                    size_t bytes = (size_t)n * ends[j] * sizeof(float);
                    if (memcmp(part.data + at, all.data + from, bytes))
                        fail_msg("graph %d, %d images on %d threads: other %s", (int)k, n, 1 << t,
                                 (const char *[]){"logits", "images", "gradients"}[j]);
                    at += bytes;
                    from += BATCH * ends[j] * sizeof(float);
                }
            }
        for (int t = 0; t < 3; t++)
            hr_exec_free(some[t]);
        hr_buf_release(&all);
        hr_buf_release(&part);
        free(x);
        hr_exec_free(whole);
        hr_model_free(m);
    }
}

/* 21 of 64 images on 2 threads are 11 and 10, not one task of 21: each range is one call. */
static void note_range(void *ctx, int n0, int n1)
{
    int *sizes = ctx;
    for (int i = n0; i < n1; i++)
        sizes[i] = n1 - n0;
}

static void test_few_images_are_work_for_all_threads(void **state)
{
    (void)state;
    static const struct {
        int threads, n, task;
    } cases[] = {{1, 21, 21}, {2, 21, 11}, {2, 2, 2},  {2, 6, 4},
                 {2, 64, 32}, {2, 60, 30}, {4, 21, 6}, {2, 1, 1}};
    hr_model *m = net_residual();
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        hr_exec *e = make_exec(m, 64, cases[k].threads);
        int sizes[64] = {0};
        hr_exec_chunks(e, cases[k].n, note_range, sizes);
        assert_int_equal(sizes[0], cases[k].task);
        for (int i = 0; i < cases[k].n; i++)
            assert_in_range(sizes[i], 1, cases[k].task);
        hr_exec_free(e);
    }
    hr_model_free(m);
}

static void test_folded_samples_do_not_see_each_other(void **state)
{
    (void)state;
    hr_model *m = net_residual();
    hr_exec *e = make_exec(m, 20, 2);
    float one[5], many[20 * 5];
    size_t len = hr_exec_input_len(e);
    draw_batch(e, m, 20, 8);
    hr_exec_infer(e, 20);
    memcpy(many, hr_exec_logits(e), sizeof many);
    assert_int_equal(m->classes, 5);
    for (int i = 0; i < 20; i += 7) {
        draw_batch(e, m, 20, 8);
        memmove(hr_exec_input(e), hr_exec_input(e) + i * len, len * sizeof(float));
        hr_exec_infer(e, 1);
        memcpy(one, hr_exec_logits(e), sizeof one);
        assert_memory_equal(one, many + i * 5, sizeof one);
    }
    hr_exec_free(e);
    hr_model_free(m);
}

/* Without Winograd's algorithm DW of a layer with more than 65,536 weights is summed panel by panel, that of
 * a smaller one chunk by chunk: 64 -> 128 and 64 -> 112 channels of 3x3. The first 112 rows have the same
 * data, so the fixed tree over (here six) chunks must give them the same bits. */
static void test_large_and_small_weights_are_summed_in_the_same_tree(void **state)
{
    (void)state;
    enum { N = 44, IN = 64, SMALL = 112, LARGE = 128, SIDE = 3, PIXELS = SIDE * SIDE };
    bits b[2] = {0};
    for (int k = 0; k < 2; k++) {
        int out = k ? LARGE : SMALL;
        hr_model *m = net_new(IN, SIDE, SIDE);
        int conv = net_conv(m, 0, out, 3, 3, 1, 1, NET_NO_BIAS);
        net_done(m, conv, 2);
        hr_exec *e = plan_exec(m, (hr_exec_opts){.batch = N, .threads = 2, .train = true, .exact = true});
        draw_batch(e, m, N, 8);
        for (int n = 0; n < N; n++)
            hr_fill_normal(hr_exec_dlogits(e) + n * out * PIXELS, SMALL * PIXELS, 0, 1, 9, HR_STREAM_TEST, n,
                           0, 0);
        hr_exec_forward(e, 0, N, HR_BN_RUNNING);
        hr_exec_backward(e, 0, N, HR_BN_RUNNING, HR_DW);
        hr_buf_add(&b[k].all, hr_exec_grad(e, m->nodes[conv].param[HR_P_WEIGHT]),
                   SMALL * IN * 9 * sizeof(float));
        hr_exec_free(e);
        hr_model_free(m);
    }
    assert_same_bits(&b[0], &b[1]);
}

static void test_flags_combine_without_changing_bits(void **state)
{
    (void)state;
    hr_model *m = net_thick();
    hr_exec *e = make_exec(m, 9, 2);
    for (int bn = HR_BN_BATCH; hr_bn_mode_names[bn]; bn++) {
        bits dx = {0}, dw = {0}, both_dx = {0}, both_dw = {0};
        draw_batch(e, m, 9, 8);
        hr_exec_forward(e, 0, 9, bn);
        hr_exec_backward(e, 0, 9, bn, HR_DX);
        collect(&dx, e, m, 9, HR_DX);
        hr_exec_forward(e, 0, 9, bn);
        hr_exec_backward(e, 0, 9, bn, HR_DW);
        collect(&dw, e, m, 9, HR_DW);
        hr_exec_forward(e, 0, 9, bn);
        hr_exec_backward(e, 0, 9, bn, HR_DX | HR_DW);
        collect(&both_dx, e, m, 9, HR_DX);
        collect(&both_dw, e, m, 9, HR_DW);
        assert_same_bits(&dx, &both_dx);
        assert_same_bits(&dw, &both_dw);
    }
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_only_update_moves_running_statistics(void **state)
{
    (void)state;
    hr_model *m = net_preactivation();
    int bn = 0;
    while (m->nodes[bn].op != HR_OP_BATCHNORM)
        bn++;
    const float *mean = hr_tensor_f32(&m->tensors[m->nodes[bn].param[HR_P_MEAN]]), before = mean[0];
    hr_exec *e = make_exec(m, 9, 2);
    draw_batch(e, m, 9, 8);
    const int still[] = {HR_BN_FOLDED, HR_BN_RUNNING, HR_BN_BATCH};
    for (size_t k = 0; k < HR_COUNT(still); k++) {
        hr_exec_forward(e, 0, 9, still[k]);
        assert_memory_equal(&mean[0], &before, sizeof before);
    }
    hr_exec_forward(e, 0, 9, HR_BN_BATCH_UPDATE);
    assert_true(mean[0] != before);
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_nan_reaches_the_logits_of_its_sample_only(void **state)
{
    (void)state;
    hr_model *(*const make[])(void) = {net_residual, net_preactivation, net_plain};
    for (size_t k = 0; k < HR_COUNT(make); k++) {
        hr_model *m = make[k]();
        hr_exec *e = make_exec(m, 9, 2);
        draw_batch(e, m, 9, 8);
        size_t len = hr_exec_input_len(e);
        for (size_t i = 0; i < len; i++)
            hr_exec_input(e)[2 * len + i] = NAN;
        hr_exec_infer(e, 9);
        for (int i = 0; i < 9 * m->classes; i++)
            if ((isnan(hr_exec_logits(e)[i]) != 0) != (i / m->classes == 2))
                fail_msg("graph %d, sample %d: logit %g", (int)k, i / m->classes, hr_exec_logits(e)[i]);
        hr_exec_free(e);
        hr_model_free(m);
    }
}

static void test_impossible_plans_are_refused_in_words(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = net_residual();
    assert_null(hr_exec_new(m, &(hr_exec_opts){.batch = 0}, &err));
    assert_int_equal(err.code, HR_EINVAL);
    hr_model_free(m);
    m = net_new(5000, 1, 1); /* beyond HR_CONV_MAX_PADDED */
    net_done(m, net_conv(m, 0, 1, 3, 3, 1, 1, NET_NO_BIAS), 1);
    assert_null(hr_exec_new(m, &(hr_exec_opts){.batch = 1}, &err));
    assert_non_null(strstr(err.msg, "5000"));
    hr_model_free(m);
}

/* ---- losses ------------------------------------------------------------------------------------------ */

static void test_cross_entropy_and_its_gradient_match_the_formula(void **state)
{
    (void)state;
    const float z[] = {1, 2, 3, 1000, -1000, 0}; /* the second row overflows a careless exp */
    const int32_t y[] = {0, 1};
    double loss[2];
    float dz[6];
    hr_loss_ce(z, y, 0, 2, 3, 0.5f, loss, dz);
    double sum = exp(1) + exp(2) + exp(3);
    assert_near(loss[0], log(sum) - 1, 1e-14);
    assert_near(loss[1], 2000, 1e-9);
    for (int c = 0; c < 3; c++)
        assert_near(dz[c], 0.5 * (exp(c + 1) / sum - (c == 0)), 1e-7); /* float */
    assert_near(dz[3], 0.5, 0);
    assert_near(dz[4], -0.5, 0);
    assert_near(dz[5], 0, 0);
}

static void test_margin_loss_stops_at_its_confidence(void **state)
{
    (void)state;
    const float z[] = {3, 5, 1, 0, 60, 2, 7, 7, 0};
    const int32_t y[] = {0, 0, 0};
    double loss[3];
    float dz[9];
    const float want[] = {-2, 2, 0, 0, 0, 0, -2, 2, 0};
    hr_loss_margin(z, y, 0, 3, 3, 2, loss, dz);
    assert_near(loss[0], -48, 0); /* 3 - 5 + 50 */
    assert_near(loss[1], 0, 0);   /* 0 - 60 + 50 < 0 */
    assert_near(loss[2], -50, 0);
    assert_memory_equal(dz, want, sizeof want);
}

static void test_argmax_takes_the_first_of_equals_and_refuses_nan(void **state)
{
    (void)state;
    const float z[] = {1, 3, 3, NAN, 0, 1, 0, 1, NAN};
    int32_t pred[3];
    hr_argmax(z, 0, 3, 3, pred);
    assert_int_equal(pred[0], 1);
    assert_int_equal(pred[1], -1);
    assert_int_equal(pred[2], -1);
}

static void test_tree_sum_follows_the_chunks(void **state)
{
    (void)state;
    double v[40] = {0};
    for (int i = 0; i < 40; i++)
        v[i] = 1.0 / (i + 3);
    double part[5] = {0};
    for (int i = 0; i < 40; i++)
        part[i / 8] += v[i];
    double want = ((part[0] + part[1]) + (part[2] + part[3])) + part[4];
    assert_near(hr_tree_sum(v, 40), want, 0);
    assert_near(hr_tree_sum(v, 0), 0, 0);
    assert_near(hr_tree_sum(v, 3), v[0] + v[1] + v[2], 0);
}

/* ---- one process per instruction set ----------------------------------------------------------------- */

static int run_all(const char *isa)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv_matches_ref_for_all_widths),
        cmocka_unit_test(test_conv_matches_ref_for_all_windows),
        cmocka_unit_test(test_conv_matches_ref_for_all_batches),
        cmocka_unit_test(test_conv_on_awkward_images_matches_ref),
        cmocka_unit_test(test_large_conv_matches_ref),
        cmocka_unit_test(test_linear_matches_ref),
        cmocka_unit_test(test_batchnorm_and_what_is_fused_around_it_match_ref),
        cmocka_unit_test(test_statistics_of_large_chunks_match_ref),
        cmocka_unit_test(test_steps_that_take_turns_match_ref),
        cmocka_unit_test(test_pools_match_ref_and_ties_go_to_the_first),
        cmocka_unit_test(test_adaptive_pools_match_ref),
        cmocka_unit_test(test_elementwise_steps_match_ref),
        cmocka_unit_test(test_small_graphs_match_ref_in_all_modes),
        cmocka_unit_test(test_part_of_the_planned_batch_matches_ref),
        cmocka_unit_test(test_active_masks_of_the_model_match_ref),
        cmocka_unit_test(test_given_masks_multiply_weights_from_the_next_params_on),
        cmocka_unit_test(test_params_follow_moved_statistics),
        cmocka_unit_test(test_bits_do_not_depend_on_threads_and_all_threads_work),
        cmocka_unit_test(test_a_small_batch_of_large_images_is_work_for_all_threads),
        cmocka_unit_test(test_folded_passes_over_ranges_give_the_bits_of_the_whole_batch),
        cmocka_unit_test(test_folded_passes_of_threads_that_meet_have_the_bits_of_one_alone),
        cmocka_unit_test(test_folded_samples_do_not_see_each_other),
        cmocka_unit_test(test_few_images_get_the_bits_of_a_full_batch),
        cmocka_unit_test(test_few_images_are_work_for_all_threads),
        cmocka_unit_test(test_large_and_small_weights_are_summed_in_the_same_tree),
        cmocka_unit_test(test_flags_combine_without_changing_bits),
        cmocka_unit_test(test_only_update_moves_running_statistics),
        cmocka_unit_test(test_nan_reaches_the_logits_of_its_sample_only),
        cmocka_unit_test(test_impossible_plans_are_refused_in_words),
        cmocka_unit_test(test_cross_entropy_and_its_gradient_match_the_formula),
        cmocka_unit_test(test_margin_loss_stops_at_its_confidence),
        cmocka_unit_test(test_argmax_takes_the_first_of_equals_and_refuses_nan),
        cmocka_unit_test(test_tree_sum_follows_the_chunks),
    };
    return cmocka_run_group_tests_name(isa, tests, NULL, NULL);
}

int main(void)
{
    return for_every_isa(run_all);
}
