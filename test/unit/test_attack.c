/* test/unit/test_attack.c -- the attacks' promises, and the same loop written again over the oracle. */
#include "nets.h"

#include "attack/attack.h"
#include "compute/ref.h"

enum { C = 2, H = 6, W = 5, LEN = C * H * W, N = 19, CLASSES = 4 };

/* Convolution, batch norm, ReLU, pooling and a linear layer; everything an attack goes through. */
static hr_model *small_net(void)
{
    hr_model *m = net_new(C, H, W);
    int a = net_relu(m, net_bn(m, net_conv(m, 0, 5, 3, 3, 1, 1, NET_NO_BIAS)));
    int b = net_relu(m, net_bn(m, net_conv(m, a, 6, 3, 3, 2, 1, NET_NO_BIAS)));
    net_done(m, net_linear(m, net_flatten(m, b), CLASSES, NET_BIAS), 7);
    return m;
}

struct images {
    float x[N * LEN]; /* NHWC */
    int32_t y[N];
    uint32_t index[N];
};

static struct images images(void)
{
    struct images im;
    hr_fill_uniform(im.x, N * LEN, 0, 1, 3, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < N; i++) {
        im.y[i] = i % CLASSES;
        im.index[i] = (uint32_t)(1000 - 7 * i);
    }
    /* corners of the pixel range, where clipping to [0,1] bites */
    for (int p = 0; p < LEN; p += 2)
        im.x[p] = p % 4 ? 0.0f : 1.0f;
    return im;
}

static hr_exec *new_exec(hr_model *m, int batch, int threads)
{
    hr_err err = HR_ERR_INIT;
    hr_exec *e = hr_exec_new(
        m, &(hr_exec_opts){.batch = batch, .threads = threads, .batch_stats = true, .device = test_device()},
        &err);
    if (!e)
        fail_msg("%s", err.msg);
    return e;
}

static hr_attack_opts pgd(enum hr_bn_mode bn, int steps)
{
    return (hr_attack_opts){.eps = 0.1f,
                            .step = 0.03f,
                            .steps = steps,
                            .random_start = true,
                            .bn = bn,
                            .seed = 5,
                            .stream = HR_STREAM_TEST,
                            .c0 = 1,
                            .c1 = 2};
}

static double mean_loss(hr_exec *e, const int32_t *y, const float *x, int n)
{
    double loss[N];
    memcpy(hr_exec_input(e), x, (size_t)n * LEN * sizeof *x);
    hr_exec_forward(e, 0, n, HR_BN_BATCH);
    hr_loss_ce(hr_exec_logits(e), y, 0, n, CLASSES, 1, loss, NULL);
    return hr_tree_sum(loss, (size_t)n) / n;
}

static void test_attack_stays_in_the_ball_and_in_the_pixel_range(void **state)
{
    (void)state;
    hr_model *m = small_net();
    hr_exec *e = new_exec(m, N, 2);
    struct images im = images();
    for (int bn = HR_BN_FOLDED; bn <= HR_BN_BATCH; bn++) {
        hr_attack_opts o = pgd(bn, 9);
        hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
        int moved = 0;
        for (int i = 0; i < N * LEN; i++) {
            float v = hr_exec_input(e)[i];
            assert_true(v >= 0.0f && v <= 1.0f);
            /* x +- eps is rounded to float once: half a unit in the last place of 1.1 */
            assert_near(v, im.x[i], (double)o.eps + 6e-8);
            moved += fabsf(v - im.x[i]) > 0.05f;
        }
        assert_true(moved > N * LEN / 2); /* nine steps of 0.03 reach the border in most pixels */
    }
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_no_steps_leave_the_starting_point(void **state)
{
    (void)state;
    hr_model *m = small_net();
    hr_exec *e = new_exec(m, N, 1);
    struct images im = images();
    hr_attack_opts o = pgd(HR_BN_FOLDED, 0);
    hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
    for (int i = 0; i < N; i++) {
        float noise[LEN];
        hr_fill_uniform(noise, LEN, -o.eps, o.eps, o.seed, o.stream, o.c0, o.c1, im.index[i]);
        for (int p = 0; p < LEN; p++)
            assert_true(hr_exec_input(e)[i * LEN + p] == im.x[i * LEN + p] + noise[p]); /* not clipped */
    }
    o.random_start = false;
    hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
    assert_memory_equal(hr_exec_input(e), im.x, sizeof im.x);
    hr_exec_free(e);
    hr_model_free(m);
}

/* On z = W x + b the gradient is W^T (softmax(z) - onehot(y)): FGSM by hand. */
static void test_fgsm_on_a_linear_network_is_the_formula(void **state)
{
    (void)state;
    hr_model *m = net_new(1, 3, 4);
    enum { PIX = 12, K = 3, M = 9 };
    net_done(m, net_linear(m, net_flatten(m, 0), K, NET_BIAS), 4);
    const float *w = hr_tensor_f32(&m->tensors[0]), *b = hr_tensor_f32(&m->tensors[1]);
    hr_exec *e = new_exec(m, M, 2);
    float x[M * PIX];
    int32_t y[M];
    uint32_t index[M] = {0};
    hr_fill_uniform(x, M * PIX, 0, 1, 8, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < M; i++)
        y[i] = (i * 2) % K;
    hr_attack_opts o = {.eps = 0.25f, .step = 0.25f, .steps = 1, .bn = HR_BN_FOLDED};
    hr_attack_pgd(e, &o, x, y, index, M);
    for (int i = 0; i < M; i++) {
        double z[K], sum = 0;
        for (int k = 0; k < K; k++) {
            z[k] = b[k];
            for (int p = 0; p < PIX; p++)
                z[k] += (double)w[k * PIX + p] * x[i * PIX + p];
            sum += exp(z[k]);
        }
        for (int p = 0; p < PIX; p++) {
            double g = 0;
            for (int k = 0; k < K; k++)
                g += (exp(z[k]) / sum - (k == y[i])) * w[k * PIX + p];
            assert_true(fabs(g) > 1e-4); /* far from 0, so that both have one sign */
            float want = x[i * PIX + p] + (g > 0 ? 0.25f : -0.25f);
            want = want < 0 ? 0 : want > 1 ? 1 : want;
            assert_near(hr_exec_input(e)[i * PIX + p], want, 0);
        }
    }
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_attack_raises_the_loss_it_climbs(void **state)
{
    (void)state;
    hr_model *m = small_net();
    hr_exec *e = new_exec(m, N, 1);
    struct images im = images();
    double clean = mean_loss(e, im.y, im.x, N), last = clean;
    for (int steps = 1; steps <= 9; steps += 4) {
        hr_attack_opts o = pgd(HR_BN_BATCH, steps);
        hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
        float *adv = hr_xmalloc(sizeof im.x);
        memcpy(adv, hr_exec_input(e), sizeof im.x);
        double loss = mean_loss(e, im.y, adv, N);
        assert_true(loss > last);
        last = loss;
        free(adv);
    }
    assert_true(last > clean + 0.2);

    double before[N], after[N];
    memcpy(hr_exec_input(e), im.x, sizeof im.x);
    hr_exec_infer(e, N);
    hr_loss_margin(hr_exec_logits(e), im.y, 0, N, CLASSES, 1, before, NULL);
    hr_attack_opts o = pgd(HR_BN_FOLDED, 9);
    o.loss = HR_LOSS_MARGIN;
    hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
    hr_exec_infer(e, N);
    hr_loss_margin(hr_exec_logits(e), im.y, 0, N, CLASSES, 1, after, NULL);
    for (int i = 0; i < N; i++)
        assert_true(after[i] > before[i]);
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_folded_attack_does_not_depend_on_batch_or_threads(void **state)
{
    (void)state;
    hr_model *m = small_net();
    struct images im = images();
    float *want = hr_xmalloc(sizeof im.x);
    hr_attack_opts o = pgd(HR_BN_FOLDED, 4);
    hr_exec *e = new_exec(m, N, 1);
    hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
    memcpy(want, hr_exec_input(e), sizeof im.x);
    hr_exec_free(e);

    static const struct {
        int batch, threads;
    } cases[] = {{N, 2}, {N, 4}, {1, 1}, {5, 2}, {8, 1}, {16, 2}, {16, 4}};
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        e = new_exec(m, cases[k].batch, cases[k].threads);
        for (int at = 0; at < N; at += cases[k].batch) {
            int n = N - at < cases[k].batch ? N - at : cases[k].batch;
            hr_attack_pgd(e, &o, im.x + at * LEN, im.y + at, im.index + at, n);
            assert_memory_equal(hr_exec_input(e), want + at * LEN, (size_t)n * LEN * sizeof *want);
        }
        hr_exec_free(e);
    }
    free(want);
    hr_model_free(m);
}

static void test_batch_attack_does_not_depend_on_threads(void **state)
{
    (void)state;
    hr_model *m = small_net();
    struct images im = images();
    float *want = hr_xmalloc(sizeof im.x);
    hr_attack_opts o = pgd(HR_BN_BATCH, 4);
    for (int threads = 1; threads <= 4; threads *= 2) {
        hr_exec *e = new_exec(m, N, threads);
        hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
        if (threads == 1)
            memcpy(want, hr_exec_input(e), sizeof im.x);
        else
            assert_memory_equal(hr_exec_input(e), want, sizeof im.x);
        hr_exec_free(e);
    }
    free(want);
    hr_model_free(m);
}

/* d loss / d x of the oracle's last forward pass, on logits z (n,CLASSES), in NCHW. */
static const double *ref_gradient(hr_ref *r, const int32_t *y, int n, enum hr_attack_loss loss)
{
    double dz[N * CLASSES] = {0};
    const double *z = hr_ref_logits(r);
    for (int i = 0; i < n; i++, z += CLASSES) {
        double *d = dz + i * CLASSES, sum = 0;
        int other = -1;
        for (int k = 0; k < CLASSES; k++) {
            sum += exp(z[k]);
            if (k != y[i] && (other < 0 || z[k] > z[other]))
                other = k;
        }
        for (int k = 0; k < CLASSES && loss == HR_LOSS_CE; k++)
            d[k] = exp(z[k]) / sum - (k == y[i]);
        if (loss == HR_LOSS_MARGIN && z[y[i]] - z[other] + 50 > 0) {
            d[y[i]] = -1;
            d[other] = 1;
        }
    }
    hr_ref_backward(r, n, dz);
    return hr_ref_dinput(r);
}

/* The loop of attack.h again, by plain loops in double over the oracle: `got` holds the executor's images. */
static void compare_with_oracle(hr_model *m, const struct images *im, const hr_attack_opts *o,
                                const float *got)
{
    hr_ref *r = hr_ref_new(m, N);
    double *x = hr_ref_input(r);
    for (int i = 0; i < N; i++) {
        float noise[LEN];
        hr_fill_uniform(noise, LEN, -o->eps, o->eps, o->seed, o->stream, o->c0, o->c1, im->index[i]);
        for (int p = 0; p < H * W; p++)
            for (int c = 0; c < C; c++)
                x[(i * C + c) * H * W + p] = (double)im->x[i * LEN + p * C + c] + noise[p * C + c];
    }
    for (int s = 0; s < o->steps; s++) {
        hr_ref_forward(r, N, o->bn);
        const double *g = ref_gradient(r, im->y, N, o->loss);
        for (int i = 0; i < N; i++)
            for (int p = 0; p < H * W; p++)
                for (int c = 0; c < C; c++) {
                    int at = (i * C + c) * H * W + p;
                    double x0 = im->x[i * LEN + p * C + c];
                    double v = x[at] + (double)o->step * ((g[at] > 0) - (g[at] < 0));
                    v = fmin(fmax(v, x0 - (double)o->eps), x0 + (double)o->eps);
                    x[at] = fmin(fmax(v, 0), 1);
                }
    }
    int apart = 0;
    for (int i = 0; i < N; i++)
        for (int p = 0; p < H * W; p++)
            for (int c = 0; c < C; c++)
                apart += fabs(x[(i * C + c) * H * W + p] - got[i * LEN + p * C + c]) > 1e-6;
    /* A gradient within float's rounding of 0 (relative 1e-6 of a layer's sums) may take the other sign in
     * float; with 1140 pixels and 3 steps a handful at most do, and each moves few others. */
    if (apart > N * LEN / 100)
        fail_msg("%d of %d pixels differ from the oracle's, batch norm mode %d", apart, N * LEN, (int)o->bn);
    hr_ref_free(r);
}

static void test_attack_agrees_with_the_same_loop_over_the_oracle(void **state)
{
    (void)state;
    hr_model *m = small_net();
    hr_exec *e = new_exec(m, N, 2);
    struct images im = images();
    for (int bn = HR_BN_FOLDED; bn <= HR_BN_BATCH; bn++)
        for (int loss = HR_LOSS_CE; loss <= HR_LOSS_MARGIN; loss++) {
            hr_attack_opts o = pgd(bn, 3);
            o.loss = loss;
            hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
            compare_with_oracle(m, &im, &o, hr_exec_input(e));
        }
    hr_exec_free(e);
    hr_model_free(m);
}

/* Do all float tensors of m have the bytes they have in copy? Only running statistics count when asked. */
static bool same_tensors(const hr_model *m, const hr_model *copy)
{
    for (int t = 0; t < m->ntensors; t++)
        if (memcmp(m->tensors[t].data, copy->tensors[t].data,
                   (size_t)hr_tensor_count(&m->tensors[t]) * hr_dtype_size(m->tensors[t].dtype)))
            return false;
    return true;
}

static void test_only_batch_update_moves_running_statistics(void **state)
{
    (void)state;
    hr_model *m = small_net(), *copy = hr_model_copy(m);
    hr_exec *e = new_exec(m, N, 1);
    struct images im = images();
    for (int bn = HR_BN_FOLDED; bn <= HR_BN_BATCH_UPDATE; bn++) {
        hr_attack_opts o = pgd(bn, 2);
        hr_attack_pgd(e, &o, im.x, im.y, im.index, N);
        assert_int_equal(same_tensors(m, copy), bn != HR_BN_BATCH_UPDATE);
    }
    hr_exec_free(e);
    hr_model_free(m);
    hr_model_free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attack_stays_in_the_ball_and_in_the_pixel_range),
        cmocka_unit_test(test_no_steps_leave_the_starting_point),
        cmocka_unit_test(test_fgsm_on_a_linear_network_is_the_formula),
        cmocka_unit_test(test_attack_raises_the_loss_it_climbs),
        cmocka_unit_test(test_folded_attack_does_not_depend_on_batch_or_threads),
        cmocka_unit_test(test_batch_attack_does_not_depend_on_threads),
        cmocka_unit_test(test_attack_agrees_with_the_same_loop_over_the_oracle),
        cmocka_unit_test(test_only_batch_update_moves_running_statistics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
