/* test/unit/test_cuda_attack.c -- attacks that stay on the device, against the CPU and the oracle:
 * test_attack.c's tests, and the CPU's own attack beside the device's. */
#define main attack_main
int attack_main(void);
#include "test_attack.c"
#undef main

#include "cuda.h"

/* One attack on both. The start and every step have the CPU's bits; gradients differ by rounding, so only
 * where a gradient is about zero may a pixel take another step. */
static void both(hr_attack_opts o, double share, float bound)
{
    hr_model *m = small_net(), *twin = hr_model_copy(m);
    struct images im = images();
    float target[N * CLASSES];
    hr_fill_normal(target, HR_COUNT(target), 0, 2, 4, HR_STREAM_TEST, 1, 0, 0);
    o.target = o.loss == HR_LOSS_KL ? target : NULL;
    hr_err err = HR_ERR_INIT;
    hr_exec_opts eo = {.batch = N, .threads = 1, .train = true};
    hr_exec *cpu = hr_exec_new(twin, &eo, &err), *device = new_exec(m, N, 1);
    assert_non_null(cpu);
    assert_true(hr_exec_on_device(device));
    hr_attack_pgd(cpu, &o, im.x, im.y, im.index, N);
    hr_attack_pgd(device, &o, im.x, im.y, im.index, N);
    int off = 0;
    const float *a = hr_exec_input(cpu), *b = hr_exec_input(device);
    for (int i = 0; i < N * LEN; i++)
        off += !(fabsf(a[i] - b[i]) <= bound);
    if (off > share * N * LEN)
        fail_msg("%d of %d pixels are elsewhere", off, N * LEN);
    hr_exec_free(cpu);
    hr_exec_free(device);
    hr_model_free(m);
    hr_model_free(twin);
}

static void test_uniform_noise_has_the_bits_of_the_cpu(void **state)
{
    (void)state;
    both(pgd(HR_BN_FOLDED, 0), 0, 0);
}

/* log, cos and sin in double, rounded to float: the same but for one rounding in millions. */
static void test_normal_noise_is_that_of_the_cpu(void **state)
{
    (void)state;
    hr_attack_opts o = pgd(HR_BN_FOLDED, 0);
    o.spread = 0.05f;
    both(o, 0, 1e-7f);
}

static void test_attacks_of_every_loss_and_mode_are_those_of_the_cpu(void **state)
{
    (void)state;
    static const enum hr_attack_loss losses[] = {HR_LOSS_CE, HR_LOSS_MARGIN, HR_LOSS_KL};
    for (size_t l = 0; l < HR_COUNT(losses); l++)
        for (int bn = 0; hr_bn_mode_names[bn]; bn++) {
            hr_attack_opts o = pgd((enum hr_bn_mode)bn, 7);
            o.loss = losses[l];
            both(o, 0.005, 0);
        }
}

/* Steps go along the gradient itself: its rounding moves every pixel a little. */
static void test_l2_attacks_are_those_of_the_cpu(void **state)
{
    (void)state;
    hr_attack_opts o = pgd(HR_BN_FOLDED, 5);
    o.l2 = true;
    o.eps = 0.5f;
    o.step = 0.2f;
    both(o, 0, 1e-5f);
}

/* Where the gradient is 0 every step goes along noise of its own, which recorded steps must not repeat. */
static void test_l2_attacks_draw_the_noise_of_the_cpu_in_every_step(void **state)
{
    (void)state;
    hr_model *m = net_new(C, H, W);
    net_done(m, net_linear(m, net_flatten(m, 0), CLASSES, NET_BIAS), 3);
    memset(m->tensors[0].data, 0, (size_t)hr_tensor_count(&m->tensors[0]) * sizeof(float));
    struct images im = images();
    hr_err err = HR_ERR_INIT;
    hr_exec_opts eo = {.batch = N, .threads = 1};
    hr_exec *cpu = hr_exec_new(m, &eo, &err), *device = new_exec(m, N, 1);
    assert_non_null(cpu);
    for (uint32_t restart = 0; restart < 2; restart++) { /* the second one replays what the first recorded */
        hr_attack_opts o = pgd(HR_BN_FOLDED, 4);
        o.l2 = true;
        o.eps = 0.5f;
        o.step = 0.2f;
        o.c1 = 100 * restart;
        hr_attack_pgd(cpu, &o, im.x, im.y, im.index, N);
        hr_attack_pgd(device, &o, im.x, im.y, im.index, N);
        const float *a = hr_exec_input(cpu), *b = hr_exec_input(device);
        for (int i = 0; i < N * LEN; i++)
            assert_near(b[i], a[i], 1e-6); /* some roundings of numbers up to 1 */
    }
    hr_exec_free(cpu);
    hr_exec_free(device);
    hr_model_free(m);
}

/* Ten steps more: ten calls, each the launch of a graph; nothing else is waited for, and nothing travels. */
static void test_a_step_is_one_call_and_no_word_to_the_host(void **state)
{
    (void)state;
    hr_model *m = small_net();
    struct images im = images();
    hr_exec *e = new_exec(m, N, 1);
    for (int l2 = 0; l2 < 2; l2++) {
        size_t at[3][COUNTS];
        for (int k = 0; k < 3; k++) {
            hr_attack_opts o = pgd(HR_BN_FOLDED, k == 2 ? 13 : 3);
            o.l2 = l2;
            hr_attack_pgd(e, &o, im.x, im.y, im.index, N); /* k == 0: records */
            if (!shim_counted(at[k]))
                skip();
        }
        size_t few[COUNTS], many[COUNTS];
        for (int c = 0; c < COUNTS; c++) {
            few[c] = at[1][c] - at[0][c];
            many[c] = at[2][c] - at[1][c];
        }
        assert_int_equal(many[COUNT_CALLS], few[COUNT_CALLS] + 10);
        assert_int_equal(many[COUNT_WAITS], few[COUNT_WAITS]);
        assert_int_equal(many[COUNT_UP], few[COUNT_UP]);
        assert_int_equal(many[COUNT_DOWN], few[COUNT_DOWN]);
        assert_int_equal(few[COUNT_DOWN], 0);
    }
    hr_exec_free(e);
    hr_model_free(m);
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
        cmocka_unit_test(test_uniform_noise_has_the_bits_of_the_cpu),
        cmocka_unit_test(test_normal_noise_is_that_of_the_cpu),
        cmocka_unit_test(test_attacks_of_every_loss_and_mode_are_those_of_the_cpu),
        cmocka_unit_test(test_l2_attacks_are_those_of_the_cpu),
        cmocka_unit_test(test_l2_attacks_draw_the_noise_of_the_cpu_in_every_step),
        cmocka_unit_test(test_a_step_is_one_call_and_no_word_to_the_host),
    };
    on_the_shim();
    return cmocka_run_group_tests_name("attacks on a device", tests, NULL, NULL);
}
