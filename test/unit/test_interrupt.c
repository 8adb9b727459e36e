/* test/unit/test_interrupt.c -- after a signal a pass computes nothing more, and all its threads come out.
 *
 * The flag stays set, so this file holds what happens behind the signal and nothing else. */
#include "unit.h"
#include "nets.h"

#include "attack/attack.h"
#include "compute/compute.h"

#include <signal.h>

enum { BATCH = 29 }; /* four chunks, the last one smaller: more than threads */

static const enum hr_bn_mode modes[] = {HR_BN_FOLDED, HR_BN_RUNNING, HR_BN_BATCH, HR_BN_BATCH_UPDATE};
static const float mark = 12345.0f;

static int interrupt(void **s)
{
    (void)s;
    hr_signals_catch();
    return raise(SIGTERM);
}

static hr_exec *planned(hr_model *m, int threads)
{
    hr_err err = HR_ERR_INIT;
    hr_exec *e = hr_exec_new(m, &(hr_exec_opts){.batch = BATCH, .threads = threads, .train = true}, &err);
    if (!e)
        fail_msg("%s", err.msg);
    return e;
}

static void fill(float *v, size_t n, float with)
{
    for (size_t i = 0; i < n; i++)
        v[i] = with;
}

static void assert_untouched(const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (v[i] != mark)
            fail_msg("value %zu is %g", i, (double)v[i]);
}

/* net_thick has a layer whose weight gradient is made in tiles, net_residual none. */
static void passes_are_skipped(hr_model *m)
{
    for (int threads = 1; threads <= 3; threads += 2) {
        hr_exec *e = planned(m, threads);
        size_t in = BATCH * hr_exec_input_len(e), out = (size_t)BATCH * (size_t)hr_exec_classes(e);
        fill(hr_exec_input(e), in, 0.5f);
        for (size_t i = 0; i < HR_COUNT(modes); i++) {
            enum hr_bn_mode bn = modes[i];
            fill(hr_exec_logits(e), out, mark);
            fill(hr_exec_dlogits(e), out, 1.0f);
            fill(hr_exec_dinput(e), in, mark);
            if (bn == HR_BN_FOLDED)
                hr_exec_infer(e, BATCH);
            else
                hr_exec_forward(e, 0, BATCH, bn);
            assert_untouched(hr_exec_logits(e), out);
            if (bn == HR_BN_FOLDED)
                hr_exec_backward(e, 0, BATCH, bn, HR_DX);
            else
                hr_exec_backward(e, 0, BATCH, bn, HR_DX | HR_DW);
            assert_untouched(hr_exec_dinput(e), in);
        }
        hr_exec_free(e);
    }
    hr_model_free(m);
}

static void test_passes_are_skipped_in_all_modes(void **s)
{
    (void)s;
    passes_are_skipped(net_residual());
    passes_are_skipped(net_thick());
}

static void test_an_attack_makes_no_step(void **s)
{
    (void)s;
    hr_model *m = net_residual();
    hr_exec *e = planned(m, 2);
    size_t in = BATCH * hr_exec_input_len(e);
    float *x = hr_xaligned(in, sizeof *x);
    int32_t y[BATCH] = {0};
    uint32_t index[BATCH] = {0};
    fill(x, in, mark);
    for (size_t i = 0; i < HR_COUNT(modes); i++) {
        hr_attack_opts o = {.eps = 0.1f, .step = 0.1f, .steps = 1 << 30, .bn = modes[i]};
        hr_attack_pgd(e, &o, x, y, index, BATCH);
        assert_untouched(hr_exec_input(e), in);
    }
    free(x);
    hr_exec_free(e);
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes_are_skipped_in_all_modes),
        cmocka_unit_test(test_an_attack_makes_no_step),
    };
    return cmocka_run_group_tests_name("interrupt", tests, interrupt, NULL);
}
