/* test/unit/test_eval.c -- evaluation against a recount image by image, and the search's evaluator against
 * masks made the slow way. */
#include "bands.h"

enum { N = 45 };

static hr_exec *new_exec(hr_model *m, int batch, int threads)
{
    hr_err err = HR_ERR_INIT;
    hr_exec *e =
        hr_exec_new(m, &(hr_exec_opts){.batch = batch, .threads = threads, .batch_stats = true}, &err);
    if (!e)
        fail_msg("%s", err.msg);
    return e;
}

static int parse(hr_eval_attack *list, const char *names, int restarts, enum hr_bn_mode bn)
{
    hr_err err = HR_ERR_INIT;
    int n;
    hr_eval_opts o = HR_EVAL_OPTS;
    o.eps = 0.1;
    o.step = 0.03;
    o.restarts = restarts;
    o.bn = bn;
    o.seed = 4;
    assert_ok(hr_eval_parse(list, &n, names, &o, &err), err);
    return n;
}

/* A network that is right often, but not always. */
static hr_model *trained_net(const hr_dataset *ds)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = new_net();
    hr_train_opts o = {.objective = HR_OBJ_NATURAL,
                       .schedule = {.kind = HR_LR_COSINE, .lr = 0.02, .epochs = 2},
                       .momentum = 0.9,
                       .batch = 16,
                       .threads = 1,
                       .seed = 3,
                       .name = "net"};
    assert_ok(hr_train(m, ds, NULL, &o, &err), err);
    return m;
}

static void test_attack_lists_are_parsed_whole(void **state)
{
    (void)state;
    hr_eval_attack list[HR_MAX_ATTACKS];
    assert_int_equal(parse(list, "clean,fgsm,pgd7,cw,cw3", 5, HR_BN_FOLDED), 5);
    assert_true(list[0].clean && list[0].restarts == 1);
    assert_true(list[1].opts.steps == 1 && list[1].opts.step == 0.1f && !list[1].opts.random_start);
    assert_int_equal(list[1].restarts, 1);
    assert_true(list[2].opts.steps == 7 && list[2].opts.step == 0.03f && list[2].opts.random_start);
    assert_int_equal(list[2].restarts, 5);
    assert_true(list[3].opts.steps == 20 && list[3].opts.loss == HR_LOSS_MARGIN);
    assert_int_equal(list[4].opts.steps, 3);
    for (const char *const *s =
             (const char *const[]){"", "pgd", "pgd0", "pgd-1", "pgd2x", "cw0", "clean,,fgsm", "Clean",
                                   "averyveryverylongname", "apgd", NULL};
         *s; s++) {
        hr_err err = HR_ERR_INIT;
        int n;
        assert_int_equal(hr_eval_parse(list, &n, *s, &(hr_eval_opts)HR_EVAL_OPTS, &err), HR_EINVAL);
        assert_true(*err.msg);
    }
}

/* Every image on its own, through the executor alone, and the two accuracies from their definitions. */
static void test_evaluation_is_a_recount(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    ds.classes = 4; /* one class that no image has: it must not count in the balanced accuracy */
    for (uint32_t i = 0; i < N; i += 2)
        if (ds.labels[i] == 0)
            ds.labels[i] = 1; /* classes of different sizes, and some that are wrong */
    hr_model *m = trained_net(&ds);
    hr_exec *one = new_exec(m, 1, 1), *e = new_exec(m, 16, 2);
    hr_eval_attack list[HR_MAX_ATTACKS];
    int n = parse(list, "clean,fgsm,pgd3,cw", 3, HR_BN_FOLDED), last = N;
    for (int k = 0; k < n; k++) {
        int correct = 0, hit[CLASSES] = {0}, seen[CLASSES] = {0};
        for (uint32_t i = 0; i < N; i++) {
            float x[LEN];
            int32_t y, pred;
            bool ok = true;
            hr_batch_fill(&ds, &i, 1, x, &y);
            for (int r = 0; r < list[k].restarts; r++) {
                if (list[k].clean) {
                    memcpy(hr_exec_input(one), x, sizeof x);
                } else {
                    hr_attack_opts o = list[k].opts;
                    o.c1 = (uint32_t)r;
                    hr_attack_pgd(one, &o, x, &y, &ds.index[i], 1);
                }
                hr_exec_infer(one, 1);
                hr_argmax(hr_exec_logits(one), 0, 1, CLASSES, &pred);
                ok &= pred == y;
            }
            correct += ok;
            hit[y] += ok;
            seen[y]++;
        }
        double balanced = 0;
        for (int c = 0; c < CLASSES; c++)
            balanced += 100.0 * hit[c] / seen[c] / CLASSES;
        hr_eval_result r = hr_eval_run(e, 16, &ds, &list[k]);
        assert_int_equal(r.images, N);
        assert_int_equal(r.correct, correct);
        assert_near(r.accuracy, 100.0 * correct / N, 1e-12);
        assert_near(r.balanced, balanced, 1e-11);
        assert_true(fabs(r.balanced - r.accuracy) > 0.1 || correct == 0); /* the two are different things */
        assert_true(correct <= last);
        last = k == 0 ? correct : N;
    }
    hr_exec_free(one);
    hr_exec_free(e);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

static void test_restarts_and_batch_size(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = trained_net(&ds);
    hr_exec *e = new_exec(m, 40, 1);
    hr_eval_attack list[HR_MAX_ATTACKS];
    uint32_t last = N;
    for (int restarts = 1; restarts <= 4; restarts++) {
        parse(list, "pgd1", restarts, HR_BN_FOLDED);
        hr_eval_result a = hr_eval_run(e, 40, &ds, &list[0]), b = hr_eval_run(e, 7, &ds, &list[0]);
        assert_true(a.correct <= last); /* a restart can only find more */
        assert_int_equal(a.correct, b.correct);
        last = a.correct;
    }
    hr_exec_free(e);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

/* Without steps an attack is its noise alone, so that restarts differ. */
static void test_right_is_who_is_right_in_every_restart(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = trained_net(&ds);
    hr_exec *e = new_exec(m, N, 1);
    hr_eval_attack list[HR_MAX_ATTACKS];
    float x[N * LEN];
    int32_t y[N], pred[N];
    uint32_t rows[N], every = 0, single[3] = {0};
    bool right[N];
    parse(list, "pgd1", 3, HR_BN_FOLDED);
    list[0].opts.steps = 0;
    list[0].opts.eps = 0.5f;
    for (uint32_t i = 0; i < N; i++)
        rows[i] = i;
    hr_batch_fill(&ds, rows, N, x, y);
    for (int k = 0; k < 3; k++) {
        hr_eval_batch(e, &list[0], k, x, y, ds.index, N, pred);
        for (uint32_t i = 0; i < N; i++) {
            single[k] += pred[i] == y[i];
            right[i] = (k == 0 || right[i]) && pred[i] == y[i];
            every += k == 2 && right[i];
        }
    }
    assert_true(every > 0 && every < single[0] && every < single[1] && every < single[2]);
    assert_int_equal(hr_eval_run(e, N, &ds, &list[0]).correct, every);
    hr_exec_free(e);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

static void test_no_batch_of_one_image_with_batch_statistics(void **state)
{
    (void)state;
    assert_int_equal(hr_eval_batch_end(0, 21, 10, HR_BN_FOLDED), 10);
    assert_int_equal(hr_eval_batch_end(10, 21, 10, HR_BN_FOLDED), 20);
    assert_int_equal(hr_eval_batch_end(0, 21, 10, HR_BN_BATCH), 10);
    assert_int_equal(hr_eval_batch_end(10, 21, 10, HR_BN_BATCH), 19);
    assert_int_equal(hr_eval_batch_end(19, 21, 10, HR_BN_BATCH), 21);
    assert_int_equal(hr_eval_batch_end(20, 22, 10, HR_BN_BATCH), 22);
}

/* ---- the evaluator ------------------------------------------------------------------------------------- */

enum { BATCH = 20 };

static hr_serve_opts serve_opts(enum hr_reg reg, int threads)
{
    return (hr_serve_opts){.reg = reg,
                           .bn = HR_BN_BATCH,
                           .eps = 0.1,
                           .step = 0.03,
                           .steps = 3,
                           .batch = BATCH,
                           .threads = threads,
                           .seed = 4,
                           .name = "net",
                           .digest = "abc"};
}

/* Replies to the lines of `requests`, one JSON value each, the greeting first. */
static json_t *talk(hr_model *m, const hr_dataset *ds, const hr_serve_opts *o, const char *requests)
{
    hr_err err = HR_ERR_INIT;
    FILE *in = tmpfile(), *out = tmpfile();
    fputs(requests, in);
    rewind(in);
    assert_ok(hr_serve(m, ds, o, in, out, &err), err);
    fclose(in);
    rewind(out);
    json_t *list = json_array(), *j;
    while ((j = json_loadf(out, JSON_DISABLE_EOF_CHECK, NULL)))
        json_array_append_new(list, j);
    fclose(out);
    return list;
}

static json_int_t number(const json_t *replies, size_t i, const char *key)
{
    const json_t *v = json_object_get(json_array_get(replies, i), key);
    if (!json_is_integer(v))
        fail_msg("reply %zu has no number '%s'", i, key);
    return json_integer_value(v);
}

/* What the protocol's counts mean: mask the model by the strategy, then measure with batch statistics. */
static void measure(const hr_model *dense, const hr_dataset *ds, enum hr_reg reg, const int64_t *kept,
                    json_int_t *clean, json_int_t *robust, json_int_t *params, json_int_t *macs)
{
    hr_model *m = hr_model_copy(dense);
    hr_layers ls = hr_layers_of(m);
    hr_strategy s = {.reg = reg, .n = ls.n};
    s.rate = hr_xcalloc((size_t)ls.n, sizeof *s.rate);
    s.kept = hr_xcalloc((size_t)ls.n, sizeof *s.kept);
    *params = *macs = 0;
    for (int i = 0; i < ls.n; i++) {
        const hr_layer *l = &ls.l[i];
        s.kept[i] = kept[reg == HR_REG_WEIGHT ? i : l->channel_index];
        s.rate[i] = (double)s.kept[i] / (double)hr_score_count(l, reg);
        json_int_t weights = reg == HR_REG_WEIGHT ? s.kept[i] : s.kept[i] * l->out * l->kh * l->kw;
        *params += weights;
        *macs += weights * l->hout * l->wout;
    }
    hr_model_set_strategy(m, &ls, &s, true, HR_SCORE_L1);
    hr_exec *e = new_exec(m, BATCH, 1);
    hr_eval_attack list[HR_MAX_ATTACKS];
    parse(list, "clean,pgd3", 1, HR_BN_BATCH);
    list[1].opts.c0 = 0;
    *clean = hr_eval_run(e, BATCH, ds, &list[0]).correct;
    *robust = hr_eval_run(e, BATCH, ds, &list[1]).correct;
    hr_exec_free(e);
    hr_strategy_release(&s);
    hr_layers_release(&ls);
    hr_model_free(m);
}

/* A network with a tied shortcut: 3 decisions by channel, 4 by weight. */
static hr_model *shortcut_net(void)
{
    hr_model *m = net_new(C, H, W);
    int stem = net_relu(m, net_bn(m, net_conv(m, 0, 6, 3, 3, 1, 1, NET_NO_BIAS)));
    int side = net_conv(m, stem, 8, 1, 1, 2, 0, NET_NO_BIAS);
    int a = net_relu(m, net_bn(m, net_conv(m, stem, 8, 3, 3, 2, 1, NET_NO_BIAS)));
    m->nodes[side].tie = hr_xstrdup(m->nodes[side + 1].id);
    net_done(m, net_linear(m, net_flatten(m, net_add(m, side, a)), CLASSES, NET_BIAS), 5);
    return m;
}

/* Weights of few sizes, so that a count ends among equals. */
static void coarsen(hr_model *m)
{
    hr_layers ls = hr_layers_of(m);
    for (int i = 0; i < ls.n; i++) {
        hr_tensor *t = &m->tensors[m->nodes[ls.l[i].node].param[HR_P_WEIGHT]];
        float *w = hr_tensor_f32(t);
        for (int64_t k = 0; k < hr_tensor_count(t); k++)
            w[k] = rintf(w[k] * 16.0f) / 16.0f;
    }
    hr_layers_release(&ls);
}

static void test_replies_are_what_the_masked_network_measures(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = shortcut_net();
    coarsen(m);
    static const int64_t kept[2][3][4] = {{{54, 48, 432, 384}, {20, 10, 100, 50}, {1, 48, 7, 384}},
                                          {{1, 6, 128}, {1, 3, 50}, {1, 1, 9}}};
    for (int reg = HR_REG_WEIGHT; reg <= HR_REG_CHANNEL; reg++) {
        hr_buf requests = {0};
        int decisions = reg == HR_REG_WEIGHT ? 4 : 3;
        for (int k = 0; k < 3; k++) {
            hr_buf_printf(&requests, "{\"id\":%d,\"kept\":[", k);
            for (int i = 0; i < decisions; i++)
                hr_buf_printf(&requests, "%s%d", i ? "," : "", (int)kept[reg][k][i]);
            hr_buf_printf(&requests, "],\"batches\":[0,3]}\n");
        }
        for (int threads = 1; threads <= 4; threads *= 2) {
            hr_serve_opts o = serve_opts((enum hr_reg)reg, threads);
            json_t *r = talk(m, &ds, &o, requests.data);
            assert_int_equal(json_array_size(r), 4);
            assert_int_equal(number(r, 0, "proto"), 1);
            assert_int_equal(number(r, 0, "images"), N);
            assert_int_equal(number(r, 0, "batches"), 3);
            assert_int_equal(json_array_size(json_object_get(json_array_get(r, 0), "layers")), decisions);
            for (size_t k = 0; k < 3; k++) {
                json_int_t clean, robust, params, macs;
                measure(m, &ds, (enum hr_reg)reg, kept[reg][k], &clean, &robust, &params, &macs);
                assert_int_equal(number(r, k + 1, "id"), k);
                assert_int_equal(number(r, k + 1, "n"), N);
                assert_int_equal(number(r, k + 1, "clean"), clean);
                assert_int_equal(number(r, k + 1, "robust"), robust);
                assert_int_equal(number(r, k + 1, "params"), params);
                assert_int_equal(number(r, k + 1, "macs"), macs);
            }
            json_decref(r);
        }
        hr_buf_release(&requests);
    }
    hr_model_free(m);
    hr_dataset_release(&ds);
}

static void test_counts_add_up_over_batch_ranges_and_repeat(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = trained_net(&ds);
    hr_serve_opts o = serve_opts(HR_REG_WEIGHT, 1);
    json_t *r = talk(m, &ds, &o,
                     "{\"id\":1,\"kept\":[54,300,300],\"batches\":[0,3]}\n"
                     "{\"id\":2,\"kept\":[54,300,300],\"batches\":[0,1]}\n"
                     "{\"id\":3,\"kept\":[54,300,300],\"batches\":[1,3]}\n"
                     "{\"id\":4,\"kept\":[5,30,30]}\n"
                     "{\"id\":5,\"kept\":[54,300,300]}"); /* the last line needs no newline */
    assert_int_equal(json_array_size(r), 6);
    for (const char *const *key = (const char *const[]){"n", "clean", "robust", NULL}; *key; key++) {
        assert_int_equal(number(r, 1, *key), number(r, 2, *key) + number(r, 3, *key));
        assert_int_equal(number(r, 1, *key), number(r, 5, *key));
    }
    assert_true(number(r, 1, "clean") > number(r, 1, "robust"));
    assert_null(json_object_get(json_array_get(r, 1), "constant"));
    json_decref(r);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

/* Whatever running statistics the file has, whatever was asked before, whichever batches are asked for: the
 * masked network's own statistics decide, so that a network whose own are wrong answers like a sound one. */
static void test_recalibration_measures_the_statistics_of_each_strategy(void **state)
{
    (void)state;
    static const char *const asked = "{\"id\":1,\"kept\":[54,300,300]}\n"
                                     "{\"id\":2,\"kept\":[9,60,300]}\n"
                                     "{\"id\":3,\"kept\":[54,300,300],\"batches\":[1,3]}\n"
                                     "{\"id\":4,\"kept\":[54,300,300],\"batches\":[0,1]}\n";
    hr_dataset ds = new_images(N);
    hr_serve_opts o = serve_opts(HR_REG_WEIGHT, 2);
    o.bn = HR_BN_FOLDED;
    json_t *running[2], *own[2];
    for (int wrong = 0; wrong < 2; wrong++) {
        hr_model *m = trained_net(&ds);
        for (int i = 0; wrong && i < m->nnodes; i++)
            if (m->nodes[i].op == HR_OP_BATCHNORM) {
                int mean = m->nodes[i].param[HR_P_MEAN];
                for (int c = 0; c < m->tensors[mean].shape[0]; c++)
                    hr_tensor_f32(&m->tensors[mean])[c] += c % 2 ? 100 : -100;
            }
        o.recalibrate = false;
        running[wrong] = talk(m, &ds, &o, asked);
        o.recalibrate = true;
        own[wrong] = talk(m, &ds, &o, asked);
        hr_model_free(m);
    }
    assert_true(number(running[1], 1, "clean") <= N / 2);
    for (size_t i = 1; i <= 4; i++)
        assert_true(json_equal(json_array_get(own[0], i), json_array_get(own[1], i)));
    for (const char *const *key = (const char *const[]){"n", "clean", "robust", NULL}; *key; key++)
        assert_int_equal(number(own[0], 1, *key), number(own[0], 3, *key) + number(own[0], 4, *key));
    assert_true(number(own[0], 1, "clean") > 2 * N / 3); /* it was trained on these images */
    /* a search must not go on with an evaluator of the other kind */
    assert_string_not_equal(json_string_value(json_object_get(json_array_get(own[0], 0), "digest")),
                            json_string_value(json_object_get(json_array_get(running[0], 0), "digest")));
    for (int k = 0; k < 2; k++) {
        json_decref(running[k]);
        json_decref(own[k]);
    }
    hr_dataset_release(&ds);
}

/* What --reward-after means, made the long way: plan, learn scores, measure. Two steps on 45 images would be
 * too few for a claim about accuracies; that the counts are these, whatever was asked before, is the claim.
 */
static void test_the_reward_after_learning_is_that_of_a_pruned_network(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_dataset ds = new_images(N);
    hr_model *dense = trained_net(&ds), *m = hr_model_copy(dense);
    hr_layers ls = hr_layers_of(m);
    double rate[3] = {9.0 / 54, 60.0 / 300, 300.0 / 300};
    int64_t kept[3] = {9, 60, 300};
    hr_strategy s = {.reg = HR_REG_WEIGHT, .n = 3, .rate = rate, .kept = kept};
    hr_serve_opts o = serve_opts(HR_REG_WEIGHT, 2);
    hr_model_set_strategy(m, &ls, &s, false, HR_SCORE_L1);
    hr_train_opts t = {.stage = HR_STAGE_PRUNE,
                       .objective = HR_OBJ_PGD,
                       .schedule = {.kind = HR_LR_COSINE, .lr = 0.1, .epochs = 1},
                       .momentum = 0.9,
                       .weight_decay = 5e-4,
                       .batch = HR_LEARN_BATCH,
                       .threads = 1,
                       .eps = o.eps,
                       .step = o.step,
                       .steps = o.steps,
                       .random_start = true,
                       .seed = o.seed,
                       .name = "net"};
    assert_ok(hr_train(m, &ds, NULL, &t, &err), err);
    hr_exec *e = new_exec(m, BATCH, 1);
    hr_eval_attack list[HR_MAX_ATTACKS];
    parse(list, "clean,pgd3", 1, HR_BN_BATCH);
    list[1].opts.c0 = 0;
    uint32_t clean = hr_eval_run(e, BATCH, &ds, &list[0]).correct;
    uint32_t robust = hr_eval_run(e, BATCH, &ds, &list[1]).correct;

    const char *asked = "{\"id\":1,\"kept\":[54,300,300]}\n"
                        "{\"id\":2,\"kept\":[9,60,300]}\n"
                        "{\"id\":3,\"kept\":[54,30,300]}\n"
                        "{\"id\":4,\"kept\":[9,60,300],\"batches\":[0,1]}\n"
                        "{\"id\":5,\"kept\":[9,60,300],\"batches\":[1,3]}\n";
    json_t *plain = talk(dense, &ds, &o, asked);
    o.learn = &ds;
    json_t *r = talk(dense, &ds, &o, asked);
    assert_int_equal(number(r, 2, "clean"), clean);
    assert_int_equal(number(r, 2, "robust"), robust);
    assert_int_equal(number(r, 2, "params"), 369);
    assert_int_equal(number(r, 4, "clean") + number(r, 5, "clean"), clean);
    assert_int_equal(number(r, 4, "robust") + number(r, 5, "robust"), robust);
    assert_false(json_equal(r, plain));
    assert_string_not_equal(json_string_value(json_object_get(json_array_get(r, 0), "digest")),
                            json_string_value(json_object_get(json_array_get(plain, 0), "digest")));
    json_decref(r);
    json_decref(plain);
    hr_exec_free(e);
    hr_layers_release(&ls);
    hr_model_free(m);
    hr_model_free(dense);
    hr_dataset_release(&ds);
}

static void test_a_constant_predictor_is_called_so(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = new_net();
    int last = m->nodes[m->nnodes - 1].param[HR_P_BIAS];
    hr_tensor_f32(&m->tensors[last])[2] = 1e6f;
    hr_serve_opts o = serve_opts(HR_REG_WEIGHT, 1);
    json_t *r = talk(m, &ds, &o, "{\"id\":1,\"kept\":[54,300,300],\"batches\":[0,3]}\n");
    assert_true(json_is_true(json_object_get(json_array_get(r, 1), "constant")));
    assert_int_equal(number(r, 1, "class"), 2);
    assert_int_equal(number(r, 1, "clean"), N / 3);
    assert_int_equal(number(r, 1, "robust"), N / 3);
    json_decref(r);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

static void test_bad_requests_get_an_error_and_serving_goes_on(void **state)
{
    (void)state;
    static const char *const bad[] = {"what",
                                      "[]",
                                      "{}",
                                      "{\"id\":\"x\",\"kept\":[1,1,1]}",
                                      "{\"id\":1}",
                                      "{\"id\":1,\"kept\":[1,1]}",
                                      "{\"id\":1,\"kept\":[1,1,1,1]}",
                                      "{\"id\":1,\"kept\":[0,1,1]}",
                                      "{\"id\":1,\"kept\":[55,1,1]}",
                                      "{\"id\":1,\"kept\":[1,1.5,1]}",
                                      "{\"id\":1,\"kept\":[1,1,1],\"batches\":[0,4]}",
                                      "{\"id\":1,\"kept\":[1,1,1],\"batches\":[1,1]}",
                                      "{\"id\":1,\"kept\":[1,1,1],\"batches\":[-1,1]}",
                                      "{\"id\":1,\"kept\":[1,1,1],\"batches\":[0]}",
                                      "{\"id\":1,\"kept\":[1,1,1],\"batches\":3}",
                                      "{\"id\":1,\"id\":2,\"kept\":[1,1,1]}",
                                      "\xff\xfe"};
    hr_dataset ds = new_images(N);
    hr_model *m = new_net();
    hr_serve_opts o = serve_opts(HR_REG_WEIGHT, 1);
    hr_buf requests = {0};
    for (size_t i = 0; i < HR_COUNT(bad); i++)
        hr_buf_printf(&requests, "%s\n", bad[i]);
    hr_buf_printf(&requests, "\n%*s\n", 3 << 20, "x"); /* an empty line is nothing; one is far too long */
    hr_buf_printf(&requests, "{\"id\":9,\"kept\":[1,1,1]}\n");
    json_t *r = talk(m, &ds, &o, requests.data);
    assert_int_equal(json_array_size(r), HR_COUNT(bad) + 3);
    for (size_t i = 1; i <= HR_COUNT(bad) + 1; i++)
        if (!json_is_string(json_object_get(json_array_get(r, i), "error")))
            fail_msg("no error for request %zu", i);
    assert_int_equal(number(r, HR_COUNT(bad) + 2, "n"), N);
    json_decref(r);
    hr_buf_release(&requests);

    prune_all(m, HR_REG_WEIGHT, 0.5, true);
    hr_err err = HR_ERR_INIT;
    assert_int_equal(hr_serve(m, &ds, &o, stdin, stdout, &err), HR_EINVAL);
    assert_non_null(strstr(err.msg, "pruned"));
    hr_model_free(m);
    hr_dataset_release(&ds);
}

/* ---- the record ---------------------------------------------------------------------------------------- */

static void test_record_says_what_was_pruned_and_measured(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = new_net();
    hr_exec *e = new_exec(m, 8, 1);
    hr_eval_attack list[HR_MAX_ATTACKS];
    hr_eval_result results[HR_MAX_ATTACKS];
    int n = parse(list, "clean,pgd2", 2, HR_BN_FOLDED);
    for (int i = 0; i < n; i++)
        results[i] = hr_eval_run(e, 8, &ds, &list[i]);
    hr_exec_free(e);
    json_t *j = hr_eval_record(m, "0123", NULL, "test", N, ds.digest, list, results, n, 8, NULL, NULL);
    const char *label, *name, *loss;
    int images, correct, steps, restarts;
    double accuracy, eps;
    assert_int_equal(json_unpack(j, "{s:{s:s}, s:n, s:{s:s, s:i}}", "model", "label", &label, "pruning",
                                 "data", "name", &name, "images", &images),
                     0);
    assert_string_equal(label, "dense");
    assert_int_equal(images, N);
    assert_int_equal(json_unpack(json_array_get(json_object_get(j, "attacks"), 1),
                                 "{s:s, s:s, s:f, s:i, s:i, s:i, s:i, s:F}", "name", &name, "loss", &loss,
                                 "eps", &eps, "steps", &steps, "restarts", &restarts, "images", &images,
                                 "correct", &correct, "accuracy", &accuracy),
                     0);
    assert_string_equal(name, "pgd2");
    assert_string_equal(loss, "ce");
    assert_near(eps, 0.1, 0);
    assert_true(steps == 2 && restarts == 2 && images == N && correct == (int)results[1].correct);
    assert_near(accuracy, 100.0 * correct / N, 1e-12);
    /* Wilson's interval ends where the accuracy is 1.96 standard errors away, by that end's own error */
    const json_t *interval = json_object_get(json_array_get(json_object_get(j, "attacks"), 1), "interval");
    assert_true(correct > 0 && correct < N && json_array_size(interval) == 2);
    for (size_t k = 0; k < 2; k++) {
        double end = json_number_value(json_array_get(interval, k)) / 100, apart = correct / (double)N - end;
        assert_near((k ? -apart : apart) / sqrt(end * (1 - end) / N), 1.959963984540054, 1e-9);
    }
    json_decref(j);

    prune_all(m, HR_REG_CHANNEL, 0.5, true);
    m->meta = json_pack("{s:{s:s, s:s, s:f}}", "strategy", "id", "uniform:0.5", "label", "half", "rate", 0.5);
    j = hr_eval_record(m, "0123", NULL, "test", N, ds.digest, list, results, n, 8, NULL, NULL);
    double rate, density, masked;
    const char *reg, *strategy;
    assert_int_equal(json_unpack(j, "{s:{s:s}, s:{s:s, s:s, s:f, s:f, s:{s:f}}}", "model", "label", &label,
                                 "pruning", "reg", &reg, "strategy", &strategy, "rate", &rate, "density",
                                 &density, "budget", "masked", &masked),
                     0);
    assert_string_equal(label, "half");
    assert_string_equal(reg, "channel");
    assert_string_equal(strategy, "uniform:0.5");
    assert_near(rate, 0.5, 0);
    /* all of 54, then 3 of 6 and 64 of 128 input channels of 432 and 384 weights */
    assert_near(density, (54 + 216 + 192) / 870.0, 1e-12);
    assert_near(masked, density, 1e-12);
    json_decref(j);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attack_lists_are_parsed_whole),
        cmocka_unit_test(test_evaluation_is_a_recount),
        cmocka_unit_test(test_restarts_and_batch_size),
        cmocka_unit_test(test_right_is_who_is_right_in_every_restart),
        cmocka_unit_test(test_no_batch_of_one_image_with_batch_statistics),
        cmocka_unit_test(test_replies_are_what_the_masked_network_measures),
        cmocka_unit_test(test_counts_add_up_over_batch_ranges_and_repeat),
        cmocka_unit_test(test_recalibration_measures_the_statistics_of_each_strategy),
        cmocka_unit_test(test_the_reward_after_learning_is_that_of_a_pruned_network),
        cmocka_unit_test(test_a_constant_predictor_is_called_so),
        cmocka_unit_test(test_bad_requests_get_an_error_and_serving_goes_on),
        cmocka_unit_test(test_record_says_what_was_pruned_and_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
