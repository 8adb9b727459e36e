/* test/unit/test_cuda_strong.c -- AutoAttack's parts on the device: what test_strong.c knows of APGD and of
 * all of them, and the CPU's own APGD beside the device's, whose state never leaves it. */
#define main strong_main
int strong_main(void);
#include "test_strong.c"
#undef main

#include "cuda.h"

/* One run on both. `bound`: of a pixel of a broken image; `share` of the pixels may be farther off. */
static void both(hr_strong_attack *attack, hr_strong_opts o, double share, float bound)
{
    static struct images im, on;
    hr_model *m = deep_net();
    fill(&im, m, 0, 1);
    im.broken[4] = im.broken[20] = 1;
    on = im;
    hr_err err = HR_ERR_INIT;
    hr_exec_opts eo = {.batch = N, .threads = 1};
    hr_exec *cpu = hr_exec_new(m, &eo, &err), *device = new_exec(m, N, 1);
    assert_non_null(cpu);
    assert_true(hr_exec_on_device(device) && !hr_exec_on_device(cpu));
    attack(cpu, &o, im.x, im.y, im.index, N, im.broken, im.adv, im.norm);
    attack(device, &o, on.x, on.y, on.index, N, on.broken, on.adv, on.norm);
    int found = 0, off = 0;
    for (int i = 0; i < N; i++)
        found += im.broken[i];
    assert_memory_equal(im.broken, on.broken, sizeof im.broken);
    for (int i = 0; i < N; i++)
        assert_true(im.norm[i] == on.norm[i] || fabsf(im.norm[i] - on.norm[i]) <= 1e-3f * im.norm[i]);
    for (int p = 0; p < N * LEN; p++)
        off += !(fabsf(im.adv[p] - on.adv[p]) <= bound);
    if (off > share * N * LEN || found < 8 || found > N - 4)
        fail_msg("%s: %d images broken, %d pixels elsewhere", hr_norm_names[o.norm], found, off);
    hr_exec_free(cpu);
    hr_exec_free(device);
    hr_model_free(m);
}

/* Gradients differ by rounding alone: in the l-inf ball only where one is about zero may a pixel take another
 * step; in the l2 ball that moves every pixel a little. */
static void test_apgd_is_that_of_the_cpu(void **state)
{
    (void)state;
    for (int norm = HR_LINF; norm <= HR_L2; norm++)
        for (int kind = 0; kind < 4; kind++) {
            hr_strong_opts o = opts(norm, norm == HR_L2 ? 0.4f : 0.05f, kind < 2 ? 0 : kind - 1);
            o.loss = kind ? HR_STRONG_DLR : HR_STRONG_CE;
            both(hr_attack_apgd, o, norm == HR_L2 ? 0 : 0.005, norm == HR_L2 ? 1e-4f : 0.0f);
        }
}

/* Squares are drawn and added with the CPU's bits. A square that was there already moves pixels by last bits,
 * and whether that is kept is for the logits' last bits to say: a unit of the last place of 1, once up, once
 * down. In the l2 ball lengths are sums in another order. Behind query 12 sides are smaller. */
#define LAST_BITS 2e-7f

static void test_square_is_that_of_the_cpu(void **state)
{
    (void)state;
    hr_strong_opts o = opts(HR_LINF, 0.1f, 0);
    both(hr_attack_square, o, 0, LAST_BITS);
    o = opts(HR_L2, 0.7f, 0);
    o.steps = 16;
    both(hr_attack_square, o, 0, 1e-5f);
}

/* Steps are found from sums of doubles in another order, and gradients differ by rounding, of which many
 * steps near the border make more. */
static void test_fab_is_that_of_the_cpu(void **state)
{
    (void)state;
    for (int norm = HR_LINF; norm <= HR_L2; norm++)
        for (int whole = 0; whole < 2; whole++) {
            hr_strong_opts o = opts(norm, norm == HR_L2 ? 0.4f : 0.05f, 1);
            o.steps = 12;
            o.whole = whole;
            o.random_start = !whole;
            both(hr_attack_fab, o, 0, 1e-4f);
        }
}

/* An attack on both that breaks no image: what it looked at last lies in the executors' inputs. */
static void attack_both(hr_strong_attack *attack, hr_exec *cpu, hr_exec *device, const hr_strong_opts *o,
                        struct images *im, double share, float bound)
{
    int off = 0;
    attack(cpu, o, im->x, im->y, im->index, N, im->broken, im->adv, NULL);
    attack(device, o, im->x, im->y, im->index, N, im->broken, im->adv, NULL);
    const float *a = hr_exec_input(cpu), *b = hr_exec_input(device);
    for (int i = 0; i < N; i++)
        assert_false(im->broken[i]);
    for (int p = 0; p < N * LEN; p++)
        off += !(fabsf(a[p] - b[p]) <= bound);
    if (off > share * N * LEN)
        fail_msg("%s: %d pixels elsewhere", hr_norm_names[o->norm], off);
}

/* Class 0 cannot be left: what is tried in the last query follows from what was kept before. */
static void test_square_keeps_what_the_cpu_keeps(void **state)
{
    (void)state;
    static struct images im;
    hr_model *m = linear_net();
    hr_tensor_f32(&m->tensors[1])[0] = 1000.0f;
    fill(&im, m, 0, 1);
    hr_exec_opts eo = {.batch = N, .threads = 1};
    hr_err err = HR_ERR_INIT;
    hr_exec *cpu = hr_exec_new(m, &eo, &err), *device = new_exec(m, N, 1);
    hr_strong_opts o = opts(HR_LINF, 0.2f, 0);
    attack_both(hr_attack_square, cpu, device, &o, &im, 0, LAST_BITS);
    o = opts(HR_L2, 1.5f, 0);
    o.steps = 20;
    attack_both(hr_attack_square, cpu, device, &o, &im, 0, 1e-5f);
    hr_exec_free(cpu);
    hr_exec_free(device);
    hr_model_free(m);
}

/* Ten iterations more: ten launches of a graph (and APGD's checkpoints, of two kernels each); the host waits
 * for nothing in between, and nothing travels. */
static void test_the_host_is_not_asked_inside_an_attack(void **state)
{
    (void)state;
    static struct images im;
    static hr_strong_attack *const attacks[] = {hr_attack_apgd, hr_attack_square, hr_attack_fab};
    hr_model *m = deep_net();
    fill(&im, m, 0, 1);
    hr_exec *e = new_exec(m, N, 1);
    for (size_t a = 0; a < HR_COUNT(attacks); a++)
        for (int norm = HR_LINF; norm <= HR_L2; norm++) {
            size_t at[3][COUNTS];
            for (int k = 0; k < 3; k++) {
                hr_strong_opts o = opts(norm, norm == HR_L2 ? 0.4f : 0.05f, attacks[a] == hr_attack_fab);
                o.steps = k == 2 ? 14 : 4;
                memset(im.broken, 0, sizeof im.broken);
                attacks[a](e, &o, im.x, im.y, im.index, N, im.broken, im.adv, NULL); /* k == 0: records */
                if (!shim_counted(at[k]))
                    skip();
            }
            size_t few[COUNTS], many[COUNTS];
            for (int c = 0; c < COUNTS; c++) {
                few[c] = at[1][c] - at[0][c];
                many[c] = at[2][c] - at[1][c];
            }
            size_t calls = many[COUNT_CALLS] - few[COUNT_CALLS];
            assert_true(attacks[a] == hr_attack_apgd ? calls >= 10 && calls <= 30 : calls == 10);
            assert_int_equal(many[COUNT_WAITS], few[COUNT_WAITS]);
            assert_int_equal(many[COUNT_UP], few[COUNT_UP]);
            assert_int_equal(many[COUNT_DOWN], few[COUNT_DOWN]);
        }
    hr_exec_free(e);
    hr_model_free(m);
}

/* Where the loss has its top inside the ball and no image breaks, steps leap past it and checkpoints bring
 * them back: the last iterates, which lie in the executors' inputs, are the same. */
static void test_checkpoints_of_apgd_are_those_of_the_cpu(void **state)
{
    (void)state;
    static struct images im;
    hr_model *m = net_new(C, H, W);
    net_done(m, net_linear(m, net_relu(m, net_linear(m, net_flatten(m, 0), 9, NET_BIAS)), CLASSES, NET_BIAS),
             3);
    float *w = hr_tensor_f32(&m->tensors[0]), *b = hr_tensor_f32(&m->tensors[1]);
    for (int k = 0; k < 9; k++) { /* each is 0 in the middle of the images' range */
        b[k] = 0;
        for (int p = 0; p < LEN; p++)
            b[k] -= 0.5f * w[k * LEN + p];
    }
    hr_tensor_f32(&m->tensors[3])[0] = 1000.0f;
    fill(&im, m, 0.4f, 0.6f);
    hr_exec_opts eo = {.batch = N, .threads = 1};
    hr_err err = HR_ERR_INIT;
    hr_exec *cpu = hr_exec_new(m, &eo, &err), *device = new_exec(m, N, 1);
    hr_strong_opts o = opts(HR_LINF, 0.2f, 0);
    attack_both(hr_attack_apgd, cpu, device, &o, &im, 0.05, 1e-6f);
    hr_exec_free(cpu);
    hr_exec_free(device);
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoints_of_apgd_are_those_of_the_cpu),
        cmocka_unit_test(test_apgd_is_that_of_the_cpu),
        cmocka_unit_test(test_square_is_that_of_the_cpu),
        cmocka_unit_test(test_fab_is_that_of_the_cpu),
        cmocka_unit_test(test_square_keeps_what_the_cpu_keeps),
        cmocka_unit_test(test_the_host_is_not_asked_inside_an_attack),
        cmocka_unit_test(test_apgd_halves_its_step_until_it_reaches_a_top_inside_the_ball),
        cmocka_unit_test(test_targeted_attacks_break_what_can_be_broken_and_nothing_else),
        cmocka_unit_test(test_points_are_in_the_ball_and_wrong_and_others_are_left_alone),
    };
    on_the_shim();
    return cmocka_run_group_tests_name("strong attacks on a device", tests, NULL, NULL);
}
