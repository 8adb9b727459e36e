/* test/unit/test_runs.c -- whole runs of every stage and objective: bytes that do not depend on threads, what
 * is frozen, the spread of scores, first epochs, extra images, the choice of an epoch. */
#include "stages.h"

static void test_same_bytes_for_any_number_of_threads(void **state)
{
    (void)state;
    hr_dataset ds = new_images(37);
    for (int k = 0; k < 9; k++) {
        hr_model *m[2];
        for (int j = 0; j < 2; j++) {
            m[j] = new_net();
            hr_train_opts o = defaults(HR_STAGE_PRETRAIN, HR_OBJ_TRADES);
            if (k == 7 || k == 8)
                prune_all(m[j], k == 7 ? HR_REG_WEIGHT : HR_REG_CHANNEL, 0.3, false);
            if (k <= HR_OBJ_FREE - HR_OBJ_FGSM)
                o.objective = (enum hr_objective)(HR_OBJ_FGSM + k);
            o.stage = k == 7 ? HR_STAGE_PRUNE : k == 8 ? HR_STAGE_ADMM : HR_STAGE_PRETRAIN;
            o.optimizer = k % 2 ? HR_RMSPROP : HR_SGD;
            o.attack_bn = k % 3 == 1 ? HR_BN_BATCH : k % 3 == 2 ? HR_BN_BATCH_UPDATE : HR_BN_FOLDED;
            o.schedule.lr = 0.01;
            o.schedule.epochs = 2;
            o.threads = j ? 3 : 1;
            must_train(m[j], &ds, &o);
        }
        assert_int_equal(m[0]->ntensors, m[1]->ntensors);
        for (int t = 0; t < m[0]->ntensors; t++)
            assert_memory_equal(m[0]->tensors[t].data, m[1]->tensors[t].data,
                                (size_t)hr_tensor_count(&m[0]->tensors[t]) *
                                    hr_dtype_size(m[0]->tensors[t].dtype));
        hr_model_free(m[0]);
        hr_model_free(m[1]);
    }
    hr_dataset_release(&ds);
}

/* What prune and its scores leave alone, whatever the scores start from and whatever is minimised. */
static void test_prune_freezes_weights_with_any_scores_and_loss(void **state)
{
    (void)state;
    hr_dataset ds = new_images(37);
    for (int how = HR_SCORES_SCALED; how <= HR_SCORES_SNIP; how++) {
        hr_model *m = new_net();
        prune_all(m, how % 2 ? HR_REG_CHANNEL : HR_REG_WEIGHT, 0.4, false);
        hr_model *before = hr_model_copy(m);
        hr_train_opts o = defaults(HR_STAGE_PRUNE, how % 3 ? HR_OBJ_TRADES : HR_OBJ_FREE);
        o.scores = (enum hr_scores)how;
        must_train(m, &ds, &o);
        hr_layers ls = hr_layers_of(m);
        for (int i = 0; i < ls.n; i++) {
            const hr_layer *l = &ls.l[i];
            int t = hr_model_find(before, m->tensors[l->weight].name);
            assert_memory_equal(m->tensors[l->weight].data, before->tensors[t].data,
                                (size_t)l->n * sizeof(float));
            assert_true(m->prune[l->node].active);
        }
        hr_layers_release(&ls);
        hr_model_free(m);
        hr_model_free(before);
    }
    hr_dataset_release(&ds);
}

static void test_random_scores_have_the_spread_of_their_rule(void **state)
{
    (void)state;
    enum { IN = 20, OUT = 30 };
    const hr_layer l = {.in = IN, .out = OUT, .kh = 3, .kw = 3, .n = IN * OUT * 9};
    static const struct {
        enum hr_scores how;
        double variance, bound; /* 0: normal */
    } want[] = {{HR_SCORES_RANDOM, 1.0 / 180 / 3, 1.0 / 180},
                {HR_SCORES_KAIMING_UNIFORM, 2.0 / 180, 6.0 / 180},
                {HR_SCORES_KAIMING_NORMAL, 2.0 / 180, 0},
                {HR_SCORES_XAVIER_UNIFORM, 4.0 / 450, 12.0 / 450},
                {HR_SCORES_XAVIER_NORMAL, 4.0 / 450, 0}};
    static float s[IN * OUT * 9], w[IN * OUT * 9], again[IN * OUT * 9];
    for (size_t k = 0; k < HR_COUNT(want); k++) {
        double sum = 0, top = 0;
        hr_hydra_scores(s, w, &l, HR_REG_WEIGHT, want[k].how, 1, 0);
        for (int64_t i = 0; i < l.n; i++) {
            sum += (double)s[i] * s[i];
            top = fmax(top, fabs(s[i]));
        }
        /* 5400 draws: a relative deviation of sqrt(2/5400) = 2 % for normal ones, less for uniform */
        assert_near(sum / (double)l.n / want[k].variance, 1.0, 0.08);
        if (want[k].bound > 0)
            assert_true(top <= sqrt(want[k].bound) && top > 0.99 * sqrt(want[k].bound));
        hr_hydra_scores(again, w, &l, HR_REG_WEIGHT, want[k].how, 1, 0);
        assert_memory_equal(s, again, sizeof s);
        hr_hydra_scores(again, w, &l, HR_REG_WEIGHT, want[k].how, 1, 1);
        assert_memory_not_equal(s, again, sizeof s);
    }
    /* a channel's scores are one row: fans are IN and 1 */
    double top = 0;
    for (uint32_t number = 0; number < 50; number++) {
        hr_hydra_scores(s, w, &l, HR_REG_CHANNEL, HR_SCORES_XAVIER_UNIFORM, 1, number);
        for (int i = 0; i < IN; i++)
            top = fmax(top, fabs(s[i]));
    }
    assert_true(top <= sqrt(12.0 / (IN + 1)) && top > 0.98 * sqrt(12.0 / (IN + 1)));
}

static void test_first_epochs_train_on_fgsm_where_they_are_told_to(void **state)
{
    (void)state;
    hr_dataset ds = new_images(37);
    /* fgsm epochs make one epoch of any attack what fgsm makes of it; a ramp does not */
    for (int k = 0; k < 3; k++) {
        hr_model *a = new_net(), *b = new_net();
        hr_train_opts o = defaults(HR_STAGE_PRETRAIN, HR_OBJ_FGSM);
        must_train(a, &ds, &o);
        o.objective = k ? HR_OBJ_TRADES : HR_OBJ_FREE;
        o.warmup = HR_OBJ_FGSM;
        if (k == 2) {
            o.schedule.epochs = 0;
            o.schedule.warmup_epochs = 1;
            o.schedule.warmup_lr = o.schedule.lr;
        } else {
            o.fgsm_epochs = 1;
        }
        must_train(b, &ds, &o);
        for (int t = 0; t < a->ntensors; t++)
            assert_memory_equal(a->tensors[t].data, b->tensors[t].data,
                                (size_t)hr_tensor_count(&a->tensors[t]) * sizeof(float));
        hr_model_free(a);
        hr_model_free(b);
    }
    hr_dataset_release(&ds);
}

/* fgsm: from the image, by `step`; fgsm-rs: from a random start, by 5/4 of the radius; whatever else is set.
 */
static void test_single_steps_are_pgd_with_one_step(void **state)
{
    (void)state;
    hr_dataset ds = new_images(60);
    for (int rs = 0; rs <= 1; rs++) {
        hr_model *net[3];
        for (int i = 0; i < 3; i++) {
            hr_train_opts o = defaults(HR_STAGE_PRETRAIN, i > 0 ? HR_OBJ_PGD
                                                          : rs  ? HR_OBJ_FGSM_RS
                                                                : HR_OBJ_FGSM);
            if (i > 0) {
                o.steps = i;
                o.random_start = rs;
                o.step = rs ? 1.25 * o.eps : o.step;
            }
            net[i] = new_net();
            must_train(net[i], &ds, &o);
        }
        bool differs = false;
        for (int t = 0; t < net[0]->ntensors; t++) {
            size_t bytes = (size_t)hr_tensor_count(&net[0]->tensors[t]) * sizeof(float);
            assert_memory_equal(net[0]->tensors[t].data, net[1]->tensors[t].data, bytes);
            differs |= memcmp(net[0]->tensors[t].data, net[2]->tensors[t].data, bytes) != 0;
        }
        assert_true(differs);
        for (int i = 0; i < 3; i++)
            hr_model_free(net[i]);
    }
    hr_dataset_release(&ds);
}

static void count_step(void *ctx, int epoch, uint32_t done, double accuracy)
{
    (void)epoch;
    (void)accuracy;
    uint32_t *seen = ctx;
    seen[0]++;
    seen[1] = done;
}

/* Batches of 8 and as many extra ones; the shorter of the two ends the epoch. */
static void test_extra_images_double_the_batches(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, extra;
        double share;
        uint32_t steps, images;
    } cases[] = {{37, 100, 1, 5, 74 + 3}, /* 5 + 8 in the last step */
                 {37, 20, 1, 3, 24 + 20},
                 {37, 100, 0.16, 2, 32},
                 {37, 100, 0.001, 1, 9}};
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        hr_dataset ds = new_images(cases[i].n), extra = new_images(cases[i].extra);
        hr_model *m = new_net();
        uint32_t seen[2] = {0};
        hr_train_opts o = defaults(HR_STAGE_PRETRAIN, HR_OBJ_PGD);
        o.batch = 8;
        o.extra = &extra;
        o.extra_share = cases[i].share;
        o.on_step = count_step;
        o.ctx = seen;
        must_train(m, &ds, &o);
        assert_int_equal(seen[0], cases[i].steps);
        assert_int_equal(seen[1], cases[i].images);
        hr_model_free(m);
        hr_dataset_release(&ds);
        hr_dataset_release(&extra);
    }
}

/* One batch of 8 images and 8 extra ones is one batch of 16, for a loss that nothing random enters. */
static void test_extra_images_count_like_others(void **state)
{
    (void)state;
    hr_dataset all = new_images(16), ds = new_images(8), extra = new_images(16);
    memmove(extra.pixels, extra.pixels + 8 * LEN, 8 * LEN);
    memmove(extra.labels, extra.labels + 8, 8 * sizeof *extra.labels);
    extra.n = 8;
    hr_model *a = new_net(), *b = new_net();
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN, HR_OBJ_NATURAL);
    must_train(a, &all, &o);
    o.batch = 8;
    o.extra = &extra;
    o.extra_share = 1;
    must_train(b, &ds, &o);
    for (int t = 0; t < a->ntensors; t++)
        for (int64_t i = 0; i < hr_tensor_count(&a->tensors[t]); i++) /* the order of float sums */
            assert_near(hr_tensor_f32(&a->tensors[t])[i], hr_tensor_f32(&b->tensors[t])[i], 1e-6);
    hr_model_free(a);
    hr_model_free(b);
    hr_dataset_release(&all);
    hr_dataset_release(&ds);
    hr_dataset_release(&extra);
}

struct watched {
    int evals;
    bool collapsed[8];
    double robust[8];
};

static int watch(void *ctx, const hr_epoch *e, hr_err *err)
{
    (void)err;
    struct watched *w = ctx;
    if (e->split[0] == 'e') {
        w->collapsed[w->evals] = e->collapsed;
        w->robust[w->evals++] = e->robust;
    }
    return HR_OK;
}

/* A rate of 30 in the last epoch spoils what the first three have learnt. */
static void test_a_collapse_of_the_attacked_accuracy_is_told(void **state)
{
    (void)state;
    hr_dataset ds = new_images(60), probe = new_images(30);
    hr_model *m = new_net();
    struct watched w = {0};
    hr_err err = HR_ERR_INIT;
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN, HR_OBJ_FGSM_RS);
    o.schedule = (hr_schedule){
        .kind = HR_LR_MULTISTEP, .lr = 0.02, .epochs = 5, .gamma = 1500, .milestones = {4}, .nmilestones = 1};
    o.on_epoch = watch;
    o.ctx = &w;
    assert_ok(hr_train(m, &ds, &probe, &o, &err), err);
    assert_int_equal(w.evals, 5);
    double best = 0;
    for (int i = 0; i < w.evals; i++) {
        assert_int_equal(w.collapsed[i], w.robust[i] < best / 2);
        best = fmax(best, w.robust[i]);
    }
    assert_true(w.collapsed[4]);
    hr_dataset_release(&ds);
    hr_dataset_release(&probe);
    hr_model_free(m);
}

/* The rate of the last epoch spoils the network: the best epoch is one before, and the result is that of a
 * run that ends with it, in every stage. */
static void test_the_best_epoch_is_what_a_run_that_ends_there_gives(void **state)
{
    (void)state;
    hr_dataset ds = new_images(60), probe = new_images(30);
    for (int stage = HR_STAGE_PRETRAIN; stage <= HR_STAGE_FINETUNE; stage++) {
        hr_model *m[2] = {new_net(), NULL};
        if (stage != HR_STAGE_PRETRAIN)
            prune_all(m[0], HR_REG_WEIGHT, 0.5, stage == HR_STAGE_FINETUNE);
        m[1] = hr_model_copy(m[0]);
        hr_err err = HR_ERR_INIT;
        hr_train_opts o = defaults((enum hr_stage)stage, HR_OBJ_PGD);
        o.schedule = (hr_schedule){.kind = HR_LR_MULTISTEP,
                                   .lr = 0.02,
                                   .epochs = 5,
                                   .gamma = 1500,
                                   .milestones = {4},
                                   .nmilestones = 1};
        o.best = true;
        assert_ok(hr_train(m[0], &ds, &probe, &o, &err), err);
        const json_t *chosen = json_object_get(m[0]->meta, "selection");
        int epoch = (int)json_integer_value(json_object_get(chosen, "epoch"));
        assert_in_range(epoch, 1, 4);
        assert_string_equal(json_string_value(json_object_get(chosen, "by")), "robust");
        o.best = false;
        o.schedule.epochs = epoch;
        must_train(m[1], &ds, &o);
        assert_int_equal(m[0]->ntensors, m[1]->ntensors);
        for (int t = 0; t < m[0]->ntensors; t++)
            assert_memory_equal(m[0]->tensors[t].data, m[1]->tensors[t].data,
                                (size_t)hr_tensor_count(&m[0]->tensors[t]) *
                                    hr_dtype_size(m[0]->tensors[t].dtype));
        hr_model_free(m[0]);
        hr_model_free(m[1]);
    }
    hr_model *m = new_net();
    hr_err err = HR_ERR_INIT;
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN, HR_OBJ_PGD);
    o.best = true;
    assert_int_equal(hr_train(m, &ds, NULL, &o, &err), HR_EINVAL);
    hr_model_free(m);
    hr_dataset_release(&ds);
    hr_dataset_release(&probe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes_for_any_number_of_threads),
        cmocka_unit_test(test_prune_freezes_weights_with_any_scores_and_loss),
        cmocka_unit_test(test_random_scores_have_the_spread_of_their_rule),
        cmocka_unit_test(test_first_epochs_train_on_fgsm_where_they_are_told_to),
        cmocka_unit_test(test_single_steps_are_pgd_with_one_step),
        cmocka_unit_test(test_extra_images_double_the_batches),
        cmocka_unit_test(test_extra_images_count_like_others),
        cmocka_unit_test(test_the_best_epoch_is_what_a_run_that_ends_there_gives),
        cmocka_unit_test(test_a_collapse_of_the_attacked_accuracy_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
