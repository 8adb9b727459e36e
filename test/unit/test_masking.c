/* test/unit/test_masking.c -- the probes for masked gradients: silent on an ordinary network, loud on the
 * same one with its gradients taken away in the two ways that papers have been fooled by. */
#include "bands.h"

enum { N = 60 };

static hr_model *trained_net(const hr_dataset *ds)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = new_net();
    hr_train_opts o = {.objective = HR_OBJ_NATURAL,
                       .schedule = {.kind = HR_LR_COSINE, .lr = 0.02, .epochs = 8},
                       .momentum = 0.9,
                       .batch = 16,
                       .threads = 1,
                       .seed = 3,
                       .name = "net"};
    assert_ok(hr_train(m, ds, NULL, &o, &err), err);
    return m;
}

/* Flags of the network, and what was measured on the way. */
static json_t *probed(hr_model *m, const hr_dataset *ds)
{
    hr_err err = HR_ERR_INIT;
    hr_eval_attack list[HR_MAX_ATTACKS];
    hr_eval_result results[HR_MAX_ATTACKS];
    hr_eval_opts o = HR_EVAL_OPTS;
    int n = 0;
    o.eps = 0.15;
    o.seed = 4;
    assert_ok(hr_masking_probes(list, &n, &o, &err), err);
    hr_exec *e = hr_exec_new(m, &(hr_exec_opts){.batch = 30, .threads = 1}, &err);
    assert_non_null(e);
    for (int i = 0; i < n; i++) {
        assert_true(list[i].probe);
        results[i] = hr_eval_run(e, 30, ds, &list[i]);
    }
    hr_exec_free(e);
    return hr_masking_json(list, results, n);
}

static bool flagged(const json_t *j, const char *flag)
{
    size_t i;
    const json_t *f;
    json_array_foreach (json_object_get(j, "flags"), i, f)
        if (strcmp(json_string_value(f), flag) == 0)
            return true;
    return false;
}

static void test_an_ordinary_network_raises_no_flag(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = trained_net(&ds);
    json_t *j = probed(m, &ds);
    char *text = hr_json_text(j, 0);
    if (json_array_size(json_object_get(j, "flags")))
        fail_msg("%s", text);
    free(text);
    assert_true(json_real_value(json_object_get(j, "white_box")) < 100); /* there was something to find */
    json_decref(j);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

/* Softmax saturates, cross-entropy's gradient is 0 in float for whoever is right: PGD stands still. */
static void test_logits_times_1000_are_flagged(void **state)
{
    (void)state;
    hr_dataset ds = new_images(N);
    hr_model *m = trained_net(&ds);
    const hr_node *last = &m->nodes[m->nnodes - 1];
    for (int role = 0; role < HR_P_COUNT; role++)
        if (last->param[role] >= 0) {
            hr_tensor *t = &m->tensors[last->param[role]];
            for (int64_t i = 0; i < hr_tensor_count(t); i++)
                ((float *)t->data)[i] *= 1000.0f;
        }
    json_t *j = probed(m, &ds);
    char *text = hr_json_text(j, 0);
    if (!flagged(j, "black-box-beats-white-box"))
        fail_msg("%s", text);
    free(text);
    json_decref(j);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

/* The same network behind a staircase of five levels, made of steep ramps: flat almost everywhere. */
static void test_quantised_input_is_flagged(void **state)
{
    (void)state;
    enum { STEPS = 4, STEEP = 4096 };
    hr_dataset ds = new_images(N);
    hr_model *m = trained_net(&ds), *q = net_new(C, H, W);
    int ramps = net_relu(q, net_conv(q, 0, 2 * STEPS, 1, 1, 1, 0, NET_BIAS));
    int stairs = net_conv(q, ramps, 1, 1, 1, 1, 0, NET_BIAS);
    int a = net_relu(q, net_bn(q, net_conv(q, stairs, 6, 3, 3, 1, 1, NET_NO_BIAS)));
    int b = net_relu(q, net_bn(q, net_conv(q, a, 8, 3, 3, 2, 1, NET_BIAS)));
    net_done(q, net_linear(q, net_flatten(q, b), CLASSES, NET_BIAS), 9);
    int before = q->ntensors - m->ntensors; /* the staircase's own */
    assert_int_equal(before, 4);
    for (int t = 0; t < m->ntensors; t++) {
        assert_int_equal(hr_tensor_count(&q->tensors[t + before]), hr_tensor_count(&m->tensors[t]));
        memcpy(q->tensors[t + before].data, m->tensors[t].data,
               (size_t)hr_tensor_count(&m->tensors[t]) * hr_dtype_size(m->tensors[t].dtype));
    }
    float *w1 = q->tensors[0].data, *b1 = q->tensors[1].data, *w2 = q->tensors[2].data,
          *b2 = q->tensors[3].data;
    b2[0] = 0.0f;
    for (int k = 0; k < STEPS; k++) { /* powers of two, so that plateaus are exactly flat */
        w1[2 * k] = w1[2 * k + 1] = STEEP;
        b1[2 * k] = -(float)STEEP * ((float)k + 0.5f) / STEPS;
        b1[2 * k + 1] = b1[2 * k] - 1.0f;
        w2[2 * k] = 1.0f / STEPS;
        w2[2 * k + 1] = -1.0f / STEPS;
    }
    json_t *j = probed(q, &ds);
    char *text = hr_json_text(j, 0);
    if (!flagged(j, "large-eps-does-not-break") || !flagged(j, "loss-does-not-rise"))
        fail_msg("%s", text);
    free(text);
    json_decref(j);
    hr_model_free(m);
    hr_model_free(q);
    hr_dataset_release(&ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_ordinary_network_raises_no_flag),
        cmocka_unit_test(test_logits_times_1000_are_flagged),
        cmocka_unit_test(test_quantised_input_is_flagged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
