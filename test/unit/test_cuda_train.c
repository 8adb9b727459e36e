/* test/unit/test_cuda_train.c -- training on the device beside the CPU's: the same run of every stage, rule,
 * optimiser and objective on both, all that it moves compared; and what travels meanwhile. */
#include "stages.h"

#include "compute/cuda/cuda.h"
#include "cuda.h"

/* 20 steps of a run, without steps of an attack: that takes the sign of gradients and makes a whole step of a
 * rounding. Where it does take some they are small. */
static hr_train_opts run_of(enum hr_stage stage, enum hr_objective objective)
{
    hr_train_opts o = defaults(stage, objective);
    o.schedule.lr = 0.02;
    o.schedule.epochs = 4;
    o.eps = 0.001;
    o.step = 0.0005;
    o.steps = 0;
    return o;
}

/* What 20 steps make of roundings of 6e-8, relative to the largest number of a tensor: 2e-6 was seen, 2e-5 of
 * RMSprop, which divides by small roots; with an attack a pixel may go another way: 2e-4. */
#define PLAIN 2e-5
#define ROOTS 1e-4
#define ATTACKED 1e-3

/* The line of the first epoch, in which not all is right yet. */
static int keep_line(void *ctx, const hr_epoch *line, hr_err *err)
{
    (void)err;
    if (line->epoch == 1)
        *(hr_epoch *)ctx = *line;
    return HR_OK;
}

/* What both say of an epoch: an image of 5*N may go either way, but for accuracies that are not measured. */
static void same_line(const hr_epoch *a, const hr_epoch *b, double bound, const char *what)
{
    bool clean = isnan(a->clean) ? isnan(b->clean) : fabs(a->clean - b->clean) <= 100.0 / (5 * N);
    bool robust = isnan(a->robust) ? isnan(b->robust) : fabs(a->robust - b->robust) <= 100.0 / (5 * N);
    if (!clean || !robust || !(fabs(a->loss - b->loss) <= bound * b->loss))
        fail_msg("%s: %g %g %g, the CPU's are %g %g %g", what, a->loss, a->clean, a->robust, b->loss,
                 b->clean, b->robust);
}

/* m as it is, trained on both; every tensor of what comes out is the same within bound. */
static void both(hr_model *m, hr_train_opts o, double bound, const char *what)
{
    hr_dataset ds = new_images(5 * N);
    hr_model *twin = hr_model_copy(m);
    hr_epoch lines[2];
    o.on_epoch = keep_line;
    o.ctx = &lines[0];
    must_train(twin, &ds, &o);
    o.device = test_device();
    o.ctx = &lines[1];
    must_train(m, &ds, &o);
    same_line(&lines[1], &lines[0], bound, what);
    assert_int_equal(m->ntensors, twin->ntensors);
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *a = &m->tensors[i], *b = &twin->tensors[i];
        int64_t n = hr_tensor_count(a);
        double worst = 0, top = 1e-3;
        if (a->dtype != HR_F32) {
            assert_memory_equal(a->data, b->data, (size_t)n); /* masks */
            continue;
        }
        for (int64_t k = 0; k < n; k++) {
            worst = fmax(worst, fabs((double)hr_tensor_f32(a)[k] - hr_tensor_f32(b)[k]));
            top = fmax(top, fabs((double)hr_tensor_f32(b)[k]));
        }
        if (!(worst <= bound * top))
            fail_msg("%s: %s is off by %.3g of %.3g", what, a->name, worst, top);
    }
    hr_dataset_release(&ds);
    hr_model_free(m);
    hr_model_free(twin);
}

static void test_every_optimiser_trains_as_on_the_cpu(void **state)
{
    (void)state;
    for (int k = 0; hr_optimizer_names[k]; k++) {
        hr_train_opts o = run_of(HR_STAGE_PRETRAIN, HR_OBJ_PGD);
        o.optimizer = (enum hr_optimizer)k;
        o.nesterov = true;
        if (k != HR_SGD)
            o.schedule.lr = 1e-3;
        both(new_net(), o, k == HR_RMSPROP ? ROOTS : PLAIN, hr_optimizer_names[k]);
    }
}

static void test_every_objective_trains_as_on_the_cpu(void **state)
{
    (void)state;
    for (int k = 0; hr_objective_names[k]; k++) {
        hr_train_opts o = run_of(HR_STAGE_PRETRAIN, (enum hr_objective)k);
        both(new_net(), o, PLAIN, hr_objective_names[k]);
        o.steps = 2;
        o.attack_bn = HR_BN_BATCH_UPDATE;
        o.log_clean = true;
        both(new_net(), o, ATTACKED, hr_objective_names[k]);
    }
}

static void test_pruned_stages_train_as_on_the_cpu(void **state)
{
    (void)state;
    static const enum hr_stage stages[] = {HR_STAGE_PRUNE, HR_STAGE_FINETUNE, HR_STAGE_ADMM};
    for (size_t s = 0; s < HR_COUNT(stages); s++)
        for (int reg = HR_REG_WEIGHT; reg <= HR_REG_CHANNEL; reg++)
            for (int pairs = 0; pairs < 2; pairs++) {
                hr_model *m = new_net();
                prune_all(m, (enum hr_reg)reg, 0.4, stages[s] == HR_STAGE_FINETUNE);
                char what[64];
                snprintf(what, sizeof what, "%s, reg %d, pairs %d", hr_stage_names[stages[s]], reg, pairs);
                both(m, run_of(stages[s], pairs ? HR_OBJ_TRADES : HR_OBJ_PGD), PLAIN, what);
            }
}

static void test_scores_by_snip_are_those_of_the_cpu(void **state)
{
    (void)state;
    hr_model *m = new_net();
    prune_all(m, HR_REG_WEIGHT, 0.4, false);
    hr_train_opts o = run_of(HR_STAGE_PRUNE, HR_OBJ_PGD);
    o.scores = HR_SCORES_SNIP;
    both(m, o, PLAIN, "snip");
}

static void test_augmented_and_extra_images_are_those_of_the_cpu(void **state)
{
    (void)state;
    hr_dataset extra = new_images(3 * N);
    for (int k = 0; k < 3; k++) {
        hr_train_opts o = run_of(HR_STAGE_PRETRAIN, HR_OBJ_NATURAL);
        o.augment_pad = k == 0 ? 0 : 2;
        o.resized_crop = k == 2;
        o.flip = true;
        o.extra = k ? &extra : NULL;
        o.extra_share = 0.9;
        both(new_net(), o, PLAIN, "augmented");
    }
    hr_dataset_release(&extra);
}

/* ---- what travels -------------------------------------------------------------------------------------- */

/* What an epoch over n images asks for; false: this is not the shim. */
static bool traffic(enum hr_stage stage, enum hr_objective objective, uint32_t n, size_t now[COUNTS])
{
    size_t before[COUNTS], after[COUNTS];
    if (!shim_counted(before))
        return false;
    hr_dataset ds = new_images(n);
    hr_model *m = new_net();
    if (stage != HR_STAGE_PRETRAIN)
        prune_all(m, HR_REG_WEIGHT, 0.4, stage == HR_STAGE_FINETUNE);
    hr_train_opts o = run_of(stage, objective);
    o.schedule.epochs = 1;
    o.device = test_device();
    shim_counted(before);
    must_train(m, &ds, &o);
    shim_counted(after);
    for (int i = 0; i < COUNTS; i++)
        now[i] = after[i] - before[i];
    hr_dataset_release(&ds);
    hr_model_free(m);
    return true;
}

/* Two more steps: their images (bytes), classes and indices up, losses and two counts down, and not
 * a byte more. Each of them is waited for once, when the next one has been queued, so that the device always
 * has something to do. */
static void test_images_go_up_and_losses_come_down_while_the_device_has_work(void **state)
{
    (void)state;
    static const enum hr_stage stages[] = {HR_STAGE_PRETRAIN, HR_STAGE_PRUNE, HR_STAGE_ADMM};
    static const enum hr_objective objectives[] = {HR_OBJ_PGD, HR_OBJ_TRADES, HR_OBJ_NATURAL};
    for (size_t s = 0; s < HR_COUNT(stages); s++) {
        size_t some[COUNTS], more[COUNTS];
        if (!traffic(stages[s], objectives[s], 2 * N, some) ||
            !traffic(stages[s], objectives[s], 4 * N, more))
            skip();
        size_t image = LEN + sizeof(int32_t) + sizeof(uint32_t);
        assert_int_equal(more[COUNT_UP] - some[COUNT_UP], 2 * N * image);
        assert_int_equal(more[COUNT_BESIDE] - some[COUNT_BESIDE], 2 * N * image);
        assert_int_equal(more[COUNT_DOWN] - some[COUNT_DOWN], 2 * (N + 2) * sizeof(double));
        assert_int_equal(more[COUNT_WAITS] - some[COUNT_WAITS], 2);
        assert_int_equal(more[COUNT_DRY], some[COUNT_DRY]);
    }
}

/* What two more batches of some attacks ask for; false: this is not the shim. */
static bool measured(const char *attacks, double eps, size_t more[COUNTS])
{
    hr_model *m = new_net();
    assert_int_equal(hr_tensor_count(&m->tensors[m->ntensors - 1]), CLASSES);
    hr_tensor_f32(&m->tensors[m->ntensors - 1])[0] = 1000.0f; /* a bias: class 0 is right */
    hr_exec_opts eo = {.batch = N, .threads = 1, .device = test_device()};
    hr_err err = HR_ERR_INIT;
    hr_exec *e = hr_exec_new(m, &eo, &err);
    assert_non_null(e);
    hr_eval_attack list[HR_MAX_ATTACKS];
    hr_eval_opts o = HR_EVAL_OPTS;
    o.eps = eps;
    o.iterations = 2;
    int n;
    assert_ok(hr_eval_parse(list, &n, attacks, &o, &err), err);
    size_t at[3][COUNTS];
    bool counted = true;
    for (uint32_t k = 0; k < 3; k++) {
        hr_dataset ds = new_images(k == 2 ? 4 * N : 2 * N);
        for (int i = 0; i < (int)ds.n; i++)
            ds.labels[i] = 0;
        for (int a = 0; a < n; a++)
            hr_eval_run(e, N, &ds, &list[a]);
        hr_dataset_release(&ds);
        counted &= shim_counted(at[k]);
    }
    for (int c = 0; c < COUNTS; c++)
        more[c] = (at[2][c] - at[1][c]) - (at[1][c] - at[0][c]);
    hr_exec_free(e);
    hr_model_free(m);
    return counted;
}

/* Images go up beside the work, as bytes, once for each attack, and nothing is waited for but the logits;
 * those of a strong attack once to be classified and once to be attacked. */
static void test_images_to_measure_go_up_while_the_device_has_work(void **state)
{
    (void)state;
    size_t more[COUNTS], image = LEN + sizeof(int32_t) + sizeof(uint32_t);
    if (!measured("clean,pgd3", 0.05, more))
        skip();
    assert_int_equal(more[COUNT_UP], 2 * 2 * N * image);
    assert_int_equal(more[COUNT_BESIDE], more[COUNT_UP]);
    assert_int_equal(more[COUNT_DOWN], 2 * 2 * N * CLASSES * sizeof(float));
    assert_int_equal(more[COUNT_WAITS], 2 * 2);
    measured("apgd-ce", 0.05, more);
    assert_int_equal(more[COUNT_UP], 2 * 2 * N * image);
    assert_int_equal(more[COUNT_BESIDE], more[COUNT_UP]);
}

/* Losses are heard of a step late, but the step that is named is the one that made them; also where it is the
 * last one of its epoch. */
static void test_divergence_names_the_step_that_the_cpu_names(void **state)
{
    (void)state;
    for (int images = 2 * N; images <= 5 * N; images += 3 * N) {
        hr_err err[2] = {HR_ERR_INIT, HR_ERR_INIT};
        for (int k = 0; k < 2; k++) {
            hr_dataset ds = new_images((uint32_t)images);
            hr_model *m = new_net();
            hr_train_opts o = run_of(HR_STAGE_PRETRAIN, HR_OBJ_PGD);
            o.schedule.lr = 1e30;
            o.device = k ? test_device() : (hr_device){0};
            assert_int_equal(hr_train(m, &ds, NULL, &o, &err[k]), HR_EDIVERGED);
            hr_model_free(m);
            hr_dataset_release(&ds);
        }
        assert_non_null(strstr(err[0].msg, "the loss is"));
        assert_string_equal(strstr(err[1].msg, "at step"), strstr(err[0].msg, "at step"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_optimiser_trains_as_on_the_cpu),
        cmocka_unit_test(test_every_objective_trains_as_on_the_cpu),
        cmocka_unit_test(test_pruned_stages_train_as_on_the_cpu),
        cmocka_unit_test(test_scores_by_snip_are_those_of_the_cpu),
        cmocka_unit_test(test_augmented_and_extra_images_are_those_of_the_cpu),
        cmocka_unit_test(test_images_go_up_and_losses_come_down_while_the_device_has_work),
        cmocka_unit_test(test_images_to_measure_go_up_while_the_device_has_work),
        cmocka_unit_test(test_divergence_names_the_step_that_the_cpu_names),
    };
    on_the_shim();
    return cmocka_run_group_tests_name("training on a device", tests, NULL, NULL);
}
