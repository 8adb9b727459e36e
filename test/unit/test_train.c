/* test/unit/test_train.c -- optimisers against PyTorch's numbers, HYDRA's gradient against differences of the
 * loss, and what each stage of training moves and leaves alone. */
#include "bands.h"

#include "compute/ref.h"

/* ---- optimisers and schedules -------------------------------------------------------------------------- */

static const float grads[3][4] = {
    {0.5f, -0.25f, 1.0f, 0.0f}, {0.125f, 0.75f, -1.0f, 2.0f}, {-0.5f, 0.5f, 0.25f, -4.0f}};

/* torch 1.13: torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01) from (1, -2, 0.5, 0). */
static void test_sgd_gives_pytorchs_numbers(void **state)
{
    (void)state;
    static const double want[3][4] = {
        {0.9490000009536743, -1.9730000495910645, 0.3995000123977661, 0.0},
        {0.8896510004997253, -2.0217270851135254, 0.4086505174636841, -0.20000000298023224},
        {0.8853472471237183, -2.1135597229003906, 0.3914773166179657, 0.020199989899992943}};
    float p[4] = {1, -2, 0.5f, 0}, buf[4] = {9, 9, 9, 9};
    for (int s = 0; s < 3; s++) {
        hr_sgd_step(p, grads[s], buf, 4, 0.1f, 0.9f, 0.01f, false, s == 0);
        for (int i = 0; i < 4; i++)
            assert_near(p[i], want[s][i], 2e-7); /* one unit in the last place of 2, at most */
    }
}

/* torch 1.13: torch.optim.Adam([p], lr=0.1, weight_decay=0.01) from (1, -2, 0.5, 0). */
static void test_adam_gives_pytorchs_numbers(void **state)
{
    (void)state;
    static const double want[3][4] = {
        {0.9000000357627869, -1.899999976158142, 0.4000000059604645, 0.0},
        {0.8162770867347717, -1.946602702140808, 0.40481334924697876, -0.07441367954015732},
        {0.8125665187835693, -2.0108041763305664, 0.3971779942512512, -0.042979106307029724}};
    float p[4] = {1, -2, 0.5f, 0}, m[4] = {0}, v[4] = {0};
    for (int s = 0; s < 3; s++) {
        hr_adam_step(p, grads[s], m, v, 4, 0.1f, 0.01f, s + 1);
        for (int i = 0; i < 4; i++)
            assert_near(p[i], want[s][i],
                        4e-7); /* as above, and the bias corrections are rounded elsewhere */
    }
}

/* torch 1.13: torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True), then
 * torch.optim.RMSprop([p], lr=0.01, weight_decay=0.01) without and with momentum=0.9; all from
 * (1, -2, 0.5, 0). */
static void test_nesterov_and_rmsprop_give_pytorchs_numbers(void **state)
{
    (void)state;
    static const double want[3][3][4] = {
        {{0.9031000137329102, -1.948699951171875, 0.3090499937534332, 0.0},
         {0.8363240957260132, -2.065627336502075, 0.4170578122138977, -0.3799999952316284},
         {0.8816995620727539, -2.1961913108825684, 0.37625056505203247, 0.21872200071811676}},
        {{0.9000000357627869, -1.9000000953674316, 0.4000000059604645, 0.0},
         {0.8744683265686035, -1.993862271308899, 0.4705701470375061, -0.09999998658895493},
         {0.9429875016212463, -2.0465264320373535, 0.45272359251976013, -0.010463252663612366}},
        {{0.9000000357627869, -1.899999976158142, 0.4000000059604645, 0.0},
         {0.7844683527946472, -1.9038621187210083, 0.3805701732635498, -0.09999998658895493},
         {0.7490755319595337, -1.9600735902786255, 0.34529784321784973, -0.10046324133872986}}};
    for (int k = 0; k < 3; k++) {
        float p[4] = {1, -2, 0.5f, 0}, v[4] = {0}, buf[4] = {0};
        for (int s = 0; s < 3; s++) {
            if (k == 0)
                hr_sgd_step(p, grads[s], buf, 4, 0.1f, 0.9f, 0.01f, true, s == 0);
            else
                hr_rmsprop_step(p, grads[s], v, buf, 4, 0.01f, k == 2 ? 0.9f : 0.0f, 0.01f);
            for (int i = 0; i < 4; i++)
                assert_near(p[i], want[k][s][i], 4e-7); /* two units in the last place of 2 */
        }
    }
}

static void test_schedules_follow_their_formulas(void **state)
{
    (void)state;
    hr_schedule s = {.kind = HR_LR_COSINE, .lr = 0.1, .epochs = 4};
    assert_near(hr_schedule_lr(&s, 0, 0, 10), 0.1, 0);
    assert_near(hr_schedule_lr(&s, 2, 0, 10), 0.05, 1e-12);
    assert_near(hr_schedule_lr(&s, 3, 5, 10), 0.05 * (1 + cos(M_PI * 3.5 / 4)), 1e-12);
    s.kind = HR_LR_COSINE_EPOCH;
    assert_near(hr_schedule_lr(&s, 3, 5, 10), 0.05 * (1 + cos(M_PI * 3 / 4)), 1e-12);
    s.late = 1; /* published: epochs 0 and 2 have the same rate, a little below that of epoch 1 */
    assert_near(hr_schedule_lr(&s, 1, 5, 10), 0.1, 0);
    assert_near(hr_schedule_lr(&s, 0, 0, 10), 0.05 * (1 + cos(M_PI / 4)), 1e-12);
    assert_near(hr_schedule_lr(&s, 2, 0, 10), 0.05 * (1 + cos(M_PI / 4)), 1e-12);
    s.late = 0;
    s.warmup_steps = 15; /* runs over into the second epoch */
    assert_near(hr_schedule_lr(&s, 0, 0, 10), 0.1 / 15, 1e-12);
    assert_near(hr_schedule_lr(&s, 1, 4, 10), 0.05 * (1 + cos(M_PI / 4)) * 15 / 15, 1e-12);
    s.warmup_steps = 0;
    s.warmup_epochs = 2;
    s.warmup_lr = 0.03;
    assert_near(hr_schedule_lr(&s, 1, 9, 10), 0.03, 0);
    assert_near(hr_schedule_lr(&s, 4, 0, 10), 0.05, 1e-12); /* the third of four */
    s = (hr_schedule){.kind = HR_LR_STEP, .lr = 1, .epochs = 20};
    assert_near(hr_schedule_lr(&s, 14, 9, 10), 1, 0);
    assert_near(hr_schedule_lr(&s, 15, 0, 10), 0.1, 0);
    assert_near(hr_schedule_lr(&s, 18, 0, 10), 0.01, 0);
    s = (hr_schedule){
        .kind = HR_LR_MULTISTEP, .lr = 1, .epochs = 20, .gamma = 0.5, .milestones = {3, 7}, .nmilestones = 2};
    assert_near(hr_schedule_lr(&s, 2, 0, 1), 1, 0);
    assert_near(hr_schedule_lr(&s, 3, 0, 1), 0.5, 0);
    assert_near(hr_schedule_lr(&s, 7, 0, 1), 0.25, 0);
    s.kind = HR_LR_CONSTANT;
    assert_near(hr_schedule_lr(&s, 19, 0, 1), 1, 0);

    /* R-ADMM: thirds of 10 epochs begin at 0, 3.33 and 6.67 (ALG 5.2) */
    s = (hr_schedule){.kind = HR_LR_CYCLE, .lr = 1, .epochs = 25, .cycle = 10};
    static const double thirds[10] = {1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01};
    for (int e = 0; e < 25; e++)
        assert_near(hr_schedule_lr(&s, e, 0, 1), thirds[e % 10], 1e-15);
    /* its retraining: 1e-4 to 0.01 in 15 epochs, then a drop at 80 of the others */
    s = (hr_schedule){.kind = HR_LR_MULTISTEP,
                      .lr = 0.01,
                      .epochs = 85,
                      .gamma = 0.1,
                      .milestones = {80, 150},
                      .nmilestones = 2,
                      .warmup_epochs = 15,
                      .warmup_ramp = true,
                      .warmup_lr = 1e-4};
    assert_near(hr_schedule_lr(&s, 0, 0, 10), 1e-4, 0);
    assert_near(hr_schedule_lr(&s, 7, 5, 10), (1e-4 + 0.01) / 2, 1e-15);
    assert_near(hr_schedule_lr(&s, 14, 9, 10), 1e-4 + 0.0099 * 149 / 150, 1e-15);
    assert_near(hr_schedule_lr(&s, 15, 0, 10), 0.01, 0);
    assert_near(hr_schedule_lr(&s, 95, 0, 10), 0.001, 1e-18);
}

/* ---- helpers ------------------------------------------------------------------------------------------- */

static hr_train_opts defaults(enum hr_stage stage)
{
    return (hr_train_opts){.stage = stage,
                           .objective = HR_OBJ_PGD,
                           .schedule = {.kind = HR_LR_COSINE, .lr = 0.05, .epochs = 2},
                           .momentum = 0.9,
                           .weight_decay = 1e-3,
                           .batch = 16,
                           .threads = 1,
                           .eps = 0.05,
                           .step = 0.02,
                           .steps = 3,
                           .random_start = true,
                           .seed = 11,
                           .name = "net.nn"};
}

static void must_train(hr_model *m, const hr_dataset *ds, const hr_train_opts *o)
{
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_train(m, ds, NULL, o, &err), err);
}

static bool same_bytes(const hr_model *a, int ta, const hr_model *b, int tb)
{
    const hr_tensor *x = &a->tensors[ta], *y = &b->tensors[tb];
    return hr_tensor_count(x) == hr_tensor_count(y) &&
           !memcmp(x->data, y->data, (size_t)hr_tensor_count(x) * hr_dtype_size(x->dtype));
}

/* ---- HYDRA --------------------------------------------------------------------------------------------- */

static void test_scores_start_from_the_weights(void **state)
{
    (void)state;
    const hr_layer l = {.in = 2, .out = 2, .kh = 1, .kw = 2, .n = 8};
    const float w[8] = {1, -2, 3, 4, 0.5f, 0, -8, 1}; /* (O,I,1,2) */
    float s[8];
    hr_hydra_init(s, w, &l, HR_REG_WEIGHT);
    for (int i = 0; i < 8; i++)
        assert_near(s[i], sqrt(6.0 / 4) * w[i] / 8, 1e-7);
    hr_hydra_init(s, w, &l, HR_REG_CHANNEL); /* L1: 1+2+.5+0 = 3.5 and 3+4+8+1 = 16 */
    assert_near(s[0], sqrt(6.0 / 2) * 3.5 / 16, 1e-7);
    assert_near(s[1], sqrt(6.0 / 2), 1e-7);
}

static double ref_loss(hr_ref *r, const int32_t *y, int n, double *dz)
{
    double loss = 0;
    hr_ref_forward(r, n, HR_BN_BATCH);
    const double *z = hr_ref_logits(r);
    for (int i = 0; i < n; i++, z += CLASSES) {
        double sum = 0;
        for (int k = 0; k < CLASSES; k++)
            sum += exp(z[k]);
        loss += (log(sum) - z[y[i]]) / n;
        for (int k = 0; dz && k < CLASSES; k++)
            dz[i * CLASSES + k] = (exp(z[k]) / sum - (k == y[i])) / n;
    }
    return loss;
}

/* The mask of a layer relaxed to real numbers: w_eff = w * mask. With positive scores ds = d loss / d mask at
 * the mask in use, for kept and pruned entries alike; the loss's central difference along one entry of the
 * mask must give it. */
static void check_score_gradient(enum hr_reg reg)
{
    enum { N = 5 };
    hr_model *m = new_net();
    hr_layers ls = hr_layers_of(m);
    const hr_layer *l = &ls.l[1];
    const float *w = hr_tensor_f32(&m->tensors[l->weight]);
    int64_t n = hr_score_count(l, reg);
    float *score = hr_xmalloc((size_t)n * sizeof *score), *ds = hr_xmalloc((size_t)n * sizeof *ds);
    float *mask = hr_xmalloc((size_t)l->n * sizeof *mask);
    float *d = hr_xmalloc((size_t)l->n * sizeof *d);
    uint8_t *chosen = hr_xmalloc((size_t)n);
    hr_fill_uniform(score, (size_t)n, 0.1f, 1, 5, HR_STREAM_TEST, 0, 0, 0);
    hr_hydra_mask(score, l, reg, n / 2, chosen);
    hr_mask_expand(chosen, l, reg, mask);

    hr_ref *r = hr_ref_new(m, N);
    int32_t y[N] = {0, 1, 2, 0, 1};
    float x[N * LEN];
    double dz[N * CLASSES], *weff = hr_ref_param(r, l->weight);
    hr_fill_uniform(x, N * LEN, 0, 1, 6, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < N * LEN; i++)
        hr_ref_input(r)[i] = x[i];
    for (int64_t i = 0; i < l->n; i++)
        weff[i] = (double)w[i] * mask[i];
    ref_loss(r, y, N, dz);
    hr_ref_backward(r, N, dz);
    for (int64_t i = 0; i < l->n; i++)
        d[i] = (float)hr_ref_grad(r, l->weight)[i];
    hr_hydra_grad(ds, d, w, score, l, reg);

    const double h = 1e-6;
    for (int64_t i = 0; i < n; i++) {
        double f[2];
        for (int side = 0; side < 2; side++) {
            for (int64_t k = 0; k < l->n; k++) {
                bool mine = reg == HR_REG_WEIGHT ? k == i : k / (l->kh * l->kw) % l->in == i;
                weff[k] = w[k] * (mask[k] + (mine ? side ? h : -h : 0));
            }
            f[side] = ref_loss(r, y, N, NULL);
        }
        /* d and ds are floats: 1e-7 of a sum of up to 8*9 products near 0.01; the difference itself is good
         * to 1e-16/h = 1e-10. A ReLU within h of its kink would show as an outlier; the seeds have none. */
        assert_near(ds[i], (f[1] - f[0]) / (2 * h), 2e-7);
        float plus = score[i], negated = ds[i];
        score[i] = -plus;
        hr_hydra_grad(ds, d, w, score, l, reg);
        assert_near(ds[i], -negated, 0);
        score[i] = plus;
        hr_hydra_grad(ds, d, w, score, l, reg);
    }
    free(score);
    free(ds);
    free(mask);
    free(d);
    free(chosen);
    hr_ref_free(r);
    hr_layers_release(&ls);
    hr_model_free(m);
}

static void test_score_gradient_is_the_derivative_of_a_relaxed_mask(void **state)
{
    (void)state;
    check_score_gradient(HR_REG_WEIGHT);
    check_score_gradient(HR_REG_CHANNEL);
}

/* ---- stages -------------------------------------------------------------------------------------------- */

/* One step without momentum's past on the whole data set: p - lr * (g + wd * p), g the oracle's. */
static void test_a_step_moves_along_the_oracles_gradient(void **state)
{
    (void)state;
    enum { N = 16 };
    hr_dataset ds = new_images(N);
    hr_model *m = new_net(), *before = hr_model_copy(m);
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
    o.objective = HR_OBJ_NATURAL;
    o.schedule.epochs = 1;
    must_train(m, &ds, &o);

    hr_ref *r = hr_ref_new(before, N);
    double dz[N * CLASSES];
    for (int i = 0; i < N * LEN; i++) /* one channel: NHWC and NCHW are the same */
        hr_ref_input(r)[i] = (double)(ds.pixels[i] / 255.0f);
    ref_loss(r, ds.labels, N, dz);
    hr_ref_backward(r, N, dz);
    int trained = 0;
    for (int t = 0; t < before->ntensors; t++) {
        const double *g = hr_ref_grad(r, t);
        const float *p0 = hr_tensor_f32(&before->tensors[t]), *p1 = hr_tensor_f32(&m->tensors[t]);
        for (int64_t i = 0; g && i < hr_tensor_count(&before->tensors[t]); i++) {
            double want = p0[i] - 0.05 * (g[i] + 1e-3 * p0[i]);
            /* float gradients are right to about 1e-6 of their size (below 1 here), times the rate */
            assert_near(p1[i], want, 1e-6);
            trained += fabs(g[i]) > 1e-3;
        }
    }
    assert_true(trained > 300);
    hr_ref_free(r);
    hr_dataset_release(&ds);
    hr_model_free(m);
    hr_model_free(before);
}

static void test_training_moves_the_running_statistics(void **state)
{
    (void)state;
    enum { N = 16 };
    hr_dataset ds = new_images(N);
    hr_model *m = new_net(), *before = hr_model_copy(m);
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
    o.objective = HR_OBJ_NATURAL;
    o.schedule.epochs = 1;
    must_train(m, &ds, &o);

    hr_ref *r = hr_ref_new(before, N);
    for (int i = 0; i < N * LEN; i++)
        hr_ref_input(r)[i] = (double)(ds.pixels[i] / 255.0f);
    hr_ref_forward(r, N, HR_BN_BATCH_UPDATE);
    int moved = 0;
    for (int i = 0; i < m->nnodes; i++)
        for (int role = HR_P_MEAN; m->nodes[i].op == HR_OP_BATCHNORM && role <= HR_P_VAR; role++) {
            int t = m->nodes[i].param[role];
            for (int c = 0; c < m->nodes[i].c; c++) {
                double was = hr_tensor_f32(&before->tensors[t])[c];
                /* float activations of size 1, summed over hundreds of pixels */
                assert_near(hr_tensor_f32(&m->tensors[t])[c], hr_ref_param(r, t)[c], 1e-6);
                moved += fabs(hr_ref_param(r, t)[c] - was) > 1e-3;
            }
        }
    assert_true(moved > 10);
    hr_ref_free(r);
    hr_dataset_release(&ds);
    hr_model_free(m);
    hr_model_free(before);
}

static void test_adams_first_step_is_the_learning_rate(void **state)
{
    (void)state;
    hr_dataset ds = new_images(16);
    hr_model *m = new_net(), *before = hr_model_copy(m);
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
    o.objective = HR_OBJ_NATURAL;
    o.optimizer = HR_ADAM;
    o.weight_decay = 0;
    o.schedule = (hr_schedule){.kind = HR_LR_CONSTANT, .lr = 0.001, .epochs = 1};
    must_train(m, &ds, &o);
    int all = 0, whole = 0;
    hr_layers ls = hr_layers_of(m);
    for (int i = 0; i < ls.n; i++)
        for (int64_t k = 0; k < ls.l[i].n; k++, all++) {
            double p0 = hr_tensor_f32(&before->tensors[ls.l[i].weight])[k];
            double step = fabs(hr_tensor_f32(&m->tensors[ls.l[i].weight])[k] - p0);
            assert_true(step < 1.01e-3);
            whole += step > 0.99e-3;
        }
    assert_true(whole > all * 9 / 10); /* all but those whose gradient is not large beside Adam's 1e-8 */
    hr_layers_release(&ls);
    hr_dataset_release(&ds);
    hr_model_free(m);
    hr_model_free(before);
}

static int keep_losses(void *ctx, const hr_epoch *e, hr_err *err)
{
    (void)err;
    ((double *)ctx)[e->epoch - 1] = e->loss;
    return HR_OK;
}

/* How far the losses of two epochs lie apart when nothing is learnt: by what else differs between them. */
static double epochs_apart(enum hr_objective objective, int batch)
{
    double loss[2] = {0};
    hr_dataset ds = new_images(48);
    hr_model *m = new_net();
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
    o.objective = objective;
    o.schedule = (hr_schedule){.kind = HR_LR_CONSTANT, .lr = 0, .epochs = 2};
    o.batch = batch;
    o.attack_bn = HR_BN_BATCH; /* the running statistics do move */
    o.on_epoch = keep_losses;
    o.ctx = loss;
    must_train(m, &ds, &o);
    hr_dataset_release(&ds);
    hr_model_free(m);
    return fabs(loss[1] - loss[0]);
}

static void test_every_epoch_has_its_own_order_and_noise(void **state)
{
    (void)state;
    /* Which images share a batch, and so its statistics, decides about their losses. */
    assert_true(epochs_apart(HR_OBJ_NATURAL, 6) > 1e-4);
    /* With all of them in one batch only the order of float sums is left, */
    assert_true(epochs_apart(HR_OBJ_NATURAL, 48) < 1e-6);
    /* and the noise that an attack starts from. */
    assert_true(epochs_apart(HR_OBJ_PGD, 48) > 1e-4);
}

static void test_same_bytes_for_one_two_and_four_threads(void **state)
{
    (void)state;
    hr_dataset ds = new_images(50);
    for (int stage = HR_STAGE_PRETRAIN; stage <= HR_STAGE_FINETUNE; stage++)
        for (int adam = 0; adam < 2; adam++) {
            hr_model *m[3];
            for (int k = 0; k < 3; k++) {
                m[k] = new_net();
                if (stage != HR_STAGE_PRETRAIN)
                    prune_all(m[k], HR_REG_WEIGHT, 0.3, stage == HR_STAGE_FINETUNE);
                hr_train_opts o = defaults(stage);
                o.threads = 1 << k;
                o.optimizer = adam ? HR_ADAM : HR_SGD;
                o.attack_bn = adam ? HR_BN_BATCH : HR_BN_FOLDED;
                must_train(m[k], &ds, &o);
            }
            for (int k = 1; k < 3; k++) {
                assert_int_equal(m[0]->ntensors, m[k]->ntensors);
                for (int t = 0; t < m[0]->ntensors; t++)
                    assert_true(same_bytes(m[0], t, m[k], t));
                hr_model_free(m[k]);
            }
            hr_model_free(m[0]);
        }
    hr_dataset_release(&ds);
}

static int role_of(const hr_model *m, int tensor, enum hr_op *op)
{
    for (int i = 0; i < m->nnodes; i++)
        for (int role = 0; role < HR_P_COUNT; role++)
            if (m->nodes[i].op != HR_OP_INPUT && m->nodes[i].param[role] == tensor) {
                *op = m->nodes[i].op;
                return role;
            }
    return -1;
}

static void check_prune(enum hr_reg reg, bool freeze_bn)
{
    hr_dataset ds = new_images(48);
    hr_model *m = new_net();
    prune_all(m, reg, 0.4, false);
    hr_model *before = hr_model_copy(m);
    hr_train_opts o = defaults(HR_STAGE_PRUNE);
    o.freeze_bn = freeze_bn;
    must_train(m, &ds, &o);

    for (int t = 0; t < before->ntensors; t++) {
        enum hr_op op = HR_OP_INPUT;
        int role = role_of(before, t, &op), now = hr_model_find(m, before->tensors[t].name);
        bool affine = op == HR_OP_BATCHNORM && role <= HR_P_BIAS;
        bool statistic = op == HR_OP_BATCHNORM && role > HR_P_BIAS;
        bool moves = statistic || (affine && !freeze_bn);
        if (same_bytes(before, t, m, now) != !moves)
            fail_msg("%s: %s", before->tensors[t].name, moves ? "did not move" : "moved");
    }
    hr_layers ls = hr_layers_of(m);
    for (int i = 0; i < ls.n; i++) {
        const hr_layer *l = &ls.l[i];
        const hr_prune *p = &m->prune[l->node];
        const hr_tensor *mask = hr_model_node_tensor(m, l->node, "mask");
        const float *s = hr_tensor_f32(hr_model_node_tensor(m, l->node, "popup_scores"));
        int64_t n = hr_score_count(l, reg), kept = 0;
        float *init = hr_xmalloc((size_t)n * sizeof *init), low = INFINITY, high = 0;
        assert_true(p->set && p->active && p->kept == before->prune[l->node].kept);
        hr_hydra_init(init, hr_tensor_f32(&m->tensors[l->weight]), l, reg);
        assert_memory_not_equal(init, s, (size_t)n * sizeof *s);
        for (int64_t k = 0; k < n; k++) {
            bool on = ((const uint8_t *)mask->data)[k];
            kept += on;
            if (on)
                low = fminf(low, fabsf(s[k]));
            else
                high = fmaxf(high, fabsf(s[k]));
        }
        assert_int_equal(kept, p->kept);
        assert_true(low >= high); /* the kept ones are the largest */
        free(init);
    }
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_model_check(m, "pruned", &err), err);
    hr_layers_release(&ls);
    hr_dataset_release(&ds);
    hr_model_free(m);
    hr_model_free(before);
}

static void test_prune_trains_scores_and_batch_norm_only(void **state)
{
    (void)state;
    check_prune(HR_REG_WEIGHT, false);
    check_prune(HR_REG_WEIGHT, true);
    check_prune(HR_REG_CHANNEL, false);
}

/* Two whole-batch steps of the prune stage, done again over the oracle in double: masks from the scores,
 * straight-through gradients, SGD with momentum and decay on scores and batch norm. The second step sees the
 * masks that the first one's scores mean. */
static void check_prune_with_oracle(enum hr_reg reg)
{
    enum { N = 16, STEPS = 2 };
    const double lr = 0.5, momentum = 0.9, decay = 1e-3;
    hr_dataset ds = new_images(N);
    hr_model *m = new_net();
    prune_all(m, reg, 0.4, false);
    hr_model *before = hr_model_copy(m);
    hr_train_opts o = defaults(HR_STAGE_PRUNE);
    o.objective = HR_OBJ_NATURAL;
    o.schedule = (hr_schedule){.kind = HR_LR_CONSTANT, .lr = lr, .epochs = STEPS};
    must_train(m, &ds, &o);

    hr_ref *r = hr_ref_new(before, N);
    hr_layers ls = hr_layers_of(before);
    double dz[N * CLASSES], buf[8][512] = {{0}}, norm_buf[8][16] = {{0}};
    float score[8][512], ds_float[512], d[512], mask[512];
    uint8_t chosen[512];
    int changed = 0, compared = 0;
    for (int i = 0; i < ls.n; i++)
        hr_hydra_init(score[i], hr_tensor_f32(&before->tensors[ls.l[i].weight]), &ls.l[i], reg);
    for (int i = 0; i < N * LEN; i++)
        hr_ref_input(r)[i] = (double)(ds.pixels[i] / 255.0f);
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < ls.n; i++) {
            const hr_layer *l = &ls.l[i];
            const float *w = hr_tensor_f32(&before->tensors[l->weight]);
            double *weff = hr_ref_param(r, l->weight);
            hr_hydra_mask(score[i], l, reg, before->prune[l->node].kept, chosen);
            hr_mask_expand(chosen, l, reg, mask);
            for (int64_t k = 0; k < l->n; k++) {
                changed += step > 0 && (weff[k] != 0) != (mask[k] != 0);
                weff[k] = (double)w[k] * mask[k];
            }
        }
        ref_loss(r, ds.labels, N, dz);
        hr_ref_backward(r, N, dz);
        for (int i = 0; i < ls.n; i++) {
            const hr_layer *l = &ls.l[i];
            for (int64_t k = 0; k < l->n; k++)
                d[k] = (float)hr_ref_grad(r, l->weight)[k];
            hr_hydra_grad(ds_float, d, hr_tensor_f32(&before->tensors[l->weight]), score[i], l, reg);
            for (int64_t k = 0; k < hr_score_count(l, reg); k++) {
                buf[i][k] = momentum * buf[i][k] + ds_float[k] + decay * score[i][k];
                score[i][k] -= (float)(lr * buf[i][k]);
            }
        }
        for (int i = 0, b = 0; i < before->nnodes; i++)
            for (int role = HR_P_WEIGHT; before->nodes[i].op == HR_OP_BATCHNORM && role <= HR_P_BIAS;
                 role++, b++) {
                double *p = hr_ref_param(r, before->nodes[i].param[role]);
                const double *g = hr_ref_grad(r, before->nodes[i].param[role]);
                for (int c = 0; c < before->nodes[i].c; c++) {
                    norm_buf[b][c] = momentum * norm_buf[b][c] + g[c] + decay * p[c];
                    p[c] -= lr * norm_buf[b][c];
                }
            }
    }
    assert_true(changed > 0); /* or the second step would not show whether masks move */
    for (int i = 0; i < ls.n; i++) {
        const float *s = hr_tensor_f32(hr_model_node_tensor(m, ls.l[i].node, "popup_scores"));
        for (int64_t k = 0; k < hr_score_count(&ls.l[i], reg); k++, compared++)
            assert_near(s[k], score[i][k], 2e-5); /* two float gradients of size 1, times the rate */
    }
    assert_true(compared > 100);
    hr_ref_free(r);
    hr_layers_release(&ls);
    hr_dataset_release(&ds);
    hr_model_free(m);
    hr_model_free(before);
}

static void test_prune_takes_the_steps_of_the_oracle(void **state)
{
    (void)state;
    check_prune_with_oracle(HR_REG_WEIGHT);
    check_prune_with_oracle(HR_REG_CHANNEL);
}

static void test_finetune_keeps_pruned_weights_at_exactly_zero(void **state)
{
    (void)state;
    hr_dataset ds = new_images(48);
    for (int reg = HR_REG_WEIGHT; reg <= HR_REG_CHANNEL; reg++) {
        hr_model *m = new_net();
        prune_all(m, (enum hr_reg)reg, 0.4, true);
        hr_model *before = hr_model_copy(m);
        hr_train_opts o = defaults(HR_STAGE_FINETUNE);
        must_train(m, &ds, &o);
        hr_layers ls = hr_layers_of(m);
        for (int i = 0; i < ls.n; i++) {
            const hr_layer *l = &ls.l[i];
            const hr_tensor *mask = hr_model_node_tensor(m, l->node, "mask");
            const float *w = hr_tensor_f32(&m->tensors[l->weight]),
                        *w0 = hr_tensor_f32(&before->tensors[l->weight]);
            float *x = hr_xmalloc((size_t)l->n * sizeof *x);
            int64_t moved = 0, kept = 0;
            hr_mask_expand(mask->data, l, (enum hr_reg)reg, x);
            for (int64_t k = 0; k < l->n; k++) {
                uint32_t bits;
                memcpy(&bits, &w[k], sizeof bits);
                if (x[k] == 0.0f)
                    assert_int_equal(bits, 0); /* +0, not -0 */
                kept += x[k] != 0.0f;
                moved += x[k] != 0.0f && w[k] != w0[k];
            }
            assert_true(moved >= kept * 9 / 10); /* decay alone moves every kept weight */
            free(x);
        }
        hr_layers_release(&ls);
        hr_model_free(m);
        hr_model_free(before);
    }
    hr_dataset_release(&ds);
}

static void test_a_stage_refuses_a_network_of_another_stage(void **state)
{
    (void)state;
    hr_dataset ds = new_images(8);
    static const struct {
        enum hr_stage stage;
        int plan; /* 0 dense, 1 planned, 2 active */
        const char *says;
    } cases[] = {{HR_STAGE_PRETRAIN, 2, "is pruned"},
                 {HR_STAGE_ADMM, 0, "--stage admm needs"},
                 {HR_STAGE_ADMM, 2, "pruned already"},
                 {HR_STAGE_PRUNE, 0, "no layer has a planned rate"},
                 {HR_STAGE_PRUNE, 2, "pruned already"},
                 {HR_STAGE_FINETUNE, 0, "no layer has an active mask"},
                 {HR_STAGE_FINETUNE, 1, "no layer has an active mask"}};
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        hr_err err = HR_ERR_INIT;
        hr_model *m = new_net();
        if (cases[i].plan)
            prune_all(m, HR_REG_WEIGHT, 0.5, cases[i].plan == 2);
        hr_train_opts o = defaults(cases[i].stage);
        assert_int_equal(hr_train(m, &ds, NULL, &o, &err), HR_EINVAL);
        assert_non_null(strstr(err.msg, cases[i].says));
        assert_non_null(strstr(err.msg, "net.nn"));
        hr_model_free(m);
    }
    hr_dataset_release(&ds);
}

static void test_divergence_is_reported(void **state)
{
    (void)state;
    hr_dataset ds = new_images(32);
    hr_model *m = new_net();
    hr_err err = HR_ERR_INIT;
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
    o.schedule.lr = 1e30;
    assert_int_equal(hr_train(m, &ds, NULL, &o, &err), HR_EDIVERGED);
    assert_non_null(strstr(err.msg, "diverged"));
    hr_model_free(m);
    hr_dataset_release(&ds);
}

struct seen {
    uint32_t images, steps;
    hr_epoch last[2];
    int epochs;
};

static void on_step(void *ctx, int epoch, uint32_t done, double accuracy)
{
    struct seen *s = ctx;
    (void)epoch;
    assert_true(accuracy >= 0 && accuracy <= 100);
    s->images = done;
    s->steps++;
}

static int on_epoch(void *ctx, const hr_epoch *e, hr_err *err)
{
    struct seen *s = ctx;
    s->last[s->epochs++ % 2] = *e;
    return s->epochs == 6 ? hr_fail(err, HR_EIO, "enough") : HR_OK;
}

static void test_a_last_batch_of_one_image_is_left_out(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {32, 33, 34, 2}, used[] = {32, 32, 34, 2};
    for (size_t i = 0; i < HR_COUNT(sizes); i++) {
        hr_dataset ds = new_images(sizes[i]);
        hr_model *m = new_net();
        struct seen s = {0};
        hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
        o.schedule.epochs = 1;
        o.ctx = &s;
        o.on_step = on_step;
        must_train(m, &ds, &o);
        assert_int_equal(s.images, used[i]);
        hr_model_free(m);
        hr_dataset_release(&ds);
    }
    hr_dataset one = new_images(1);
    hr_model *m = new_net();
    hr_err err = HR_ERR_INIT;
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
    assert_int_equal(hr_train(m, &one, NULL, &o, &err), HR_EINVAL);
    hr_model_free(m);
    hr_dataset_release(&one);
}

static void test_epochs_are_reported_and_the_watcher_can_stop(void **state)
{
    (void)state;
    hr_dataset ds = new_images(60), probe = new_images(21);
    hr_model *m = new_net();
    hr_err err = HR_ERR_INIT;
    struct seen s = {0};
    hr_train_opts o = defaults(HR_STAGE_PRETRAIN);
    o.schedule.epochs = 9;
    o.log_clean = true;
    o.ctx = &s;
    o.on_epoch = on_epoch;
    assert_int_equal(hr_train(m, &ds, &probe, &o, &err), HR_EIO);
    assert_string_equal(err.msg, "enough");
    assert_int_equal(s.last[0].epoch, 3);
    assert_string_equal(s.last[0].split, "train");
    assert_string_equal(s.last[1].split, "eval");
    for (int i = 0; i < 2; i++) {
        assert_true(isfinite(s.last[i].loss));
        assert_true(s.last[i].clean >= s.last[i].robust - 100.0 / 21);
    }
    /* classes are bright bands: after three epochs they are told apart, before it is a third */
    assert_true(s.last[1].clean > 60);
    hr_dataset_release(&ds);
    hr_dataset_release(&probe);
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sgd_gives_pytorchs_numbers),
        cmocka_unit_test(test_adam_gives_pytorchs_numbers),
        cmocka_unit_test(test_nesterov_and_rmsprop_give_pytorchs_numbers),
        cmocka_unit_test(test_schedules_follow_their_formulas),
        cmocka_unit_test(test_scores_start_from_the_weights),
        cmocka_unit_test(test_score_gradient_is_the_derivative_of_a_relaxed_mask),
        cmocka_unit_test(test_a_step_moves_along_the_oracles_gradient),
        cmocka_unit_test(test_training_moves_the_running_statistics),
        cmocka_unit_test(test_adams_first_step_is_the_learning_rate),
        cmocka_unit_test(test_every_epoch_has_its_own_order_and_noise),
        cmocka_unit_test(test_same_bytes_for_one_two_and_four_threads),
        cmocka_unit_test(test_prune_trains_scores_and_batch_norm_only),
        cmocka_unit_test(test_prune_takes_the_steps_of_the_oracle),
        cmocka_unit_test(test_finetune_keeps_pruned_weights_at_exactly_zero),
        cmocka_unit_test(test_a_stage_refuses_a_network_of_another_stage),
        cmocka_unit_test(test_divergence_is_reported),
        cmocka_unit_test(test_a_last_batch_of_one_image_is_left_out),
        cmocka_unit_test(test_epochs_are_reported_and_the_watcher_can_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
