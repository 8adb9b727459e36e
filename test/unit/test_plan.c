/* test/unit/test_plan.c -- what the executor says of itself: its plan, its memory, its time. */
#include <malloc.h>

#include "nets.h"
#include "compute/compute.h"

#if defined(__SANITIZE_ADDRESS__)
#define OWN_MALLOC 1 /* mallinfo2 knows nothing then */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OWN_MALLOC 1
#endif
#endif
#ifndef OWN_MALLOC
#define OWN_MALLOC 0
#endif

static hr_model *zoo(const char *arch)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    assert_ok(hr_zoo_build(arch, NULL, &m, &err), err);
    hr_zoo_init(m, 1);
    return m;
}

static hr_exec *plan(hr_model *m, hr_exec_opts o)
{
    hr_err err = HR_ERR_INIT;
    hr_exec *e = hr_exec_new(m, &o, &err);
    if (!e)
        fail_msg("%s", err.msg);
    return e;
}

static double allocated(void)
{
    struct mallinfo2 i = mallinfo2();
    return (double)i.uordblks + (double)i.hblkhd;
}

static void test_the_planned_bytes_are_those_that_are_taken(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        int batch, threads;
        bool train;
    } cases[] = {
        {"resS", 40, 1, true}, {"resS", 64, 3, false}, {"vgg6_bn", 24, 2, true}, {"resnet18", 9, 2, false}};
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        hr_model *m = zoo(cases[k].arch);
        hr_exec_opts o = {.batch = cases[k].batch, .threads = cases[k].threads, .train = cases[k].train};
        double before = allocated();
        hr_exec *e = plan(m, o);
        double taken = allocated() - before, planned = (double)hr_plan_bytes(e, o.batch);
        hr_exec_free(e);
        /* 3 %: padding behind each of some hundred blocks, and the steps themselves */
        if (!OWN_MALLOC && taken > 0 && !(taken <= 1.03 * planned && taken >= 0.97 * planned))
            fail_msg("%s: %g bytes planned, %g taken", cases[k].arch, planned, taken);

        o.describe = true;
        before = allocated();
        e = plan(m, o);
        assert_true((double)hr_plan_bytes(e, o.batch) == planned);
        if (!OWN_MALLOC)
            assert_true(allocated() - before < planned - 1e6); /* nothing for images */
        hr_exec_free(e);
        hr_model_free(m);
    }
}

static void test_more_images_and_training_need_more(void **state)
{
    (void)state;
    hr_model *m = zoo("resnet18");
    hr_exec *eval = plan(m, (hr_exec_opts){.batch = 1, .threads = 2, .describe = true});
    hr_exec *train = plan(m, (hr_exec_opts){.batch = 1, .threads = 2, .describe = true, .train = true});
    /* In training memory comes in chunks of HR_CHUNK images, whose activations and raw values are 4.4 MB
     * each; an evaluation keeps a bit for each of the activations' 557,056 values, and the image and its
     * gradient twice. */
    assert_true(hr_plan_bytes(train, HR_CHUNK + 1) > hr_plan_bytes(train, HR_CHUNK) + HR_CHUNK * 4400000);
    size_t eight = hr_plan_bytes(eval, HR_CHUNK + 8) - hr_plan_bytes(eval, HR_CHUNK);
    assert_true(eight > 8 * (557056 / 8 + 2 * 4 * 3072) && eight < 8 * (557056 / 8 + 2 * 4 * 3072 + 256));
    assert_true(hr_plan_bytes(train, 128) > hr_plan_bytes(eval, 128));
    hr_exec_free(eval);
    hr_exec_free(train);
    hr_model_free(m);
}

/* For training memory is taken for whole tasks. Tasks are as large as caches allow, but no thread waits long
 * for another: 100 images are 4 tasks of 24 and one of 4, where tasks of 32 would leave one thread with 64.
 */
static void test_tasks_share_a_batch_out_evenly(void **state)
{
    (void)state;
    static const struct {
        int batch, threads, task;
    } cases[] = {{8, 2, 8}, {16, 4, 8}, {32, 1, 32}, {32, 2, 16}, {96, 2, 24}, {100, 2, 24}, {128, 2, 32}};
    hr_model *m = zoo("resnet18");
    for (size_t k = 0; k < HR_COUNT(cases); k++) {
        hr_exec *e = plan(
            m, (hr_exec_opts){
                   .batch = cases[k].batch, .threads = cases[k].threads, .train = true, .describe = true});
        int task = 1;
        while (hr_plan_bytes(e, task + 1) < hr_plan_bytes(e, task) + 10000000)
            task++;
        if (task != cases[k].task)
            fail_msg("%d images on %d threads: tasks of %d", cases[k].batch, cases[k].threads, task);
        hr_exec_free(e);
    }
    hr_model_free(m);
}

static void test_too_large_a_batch_is_refused_with_one_that_fits(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = zoo("resnet18");
    double left = hr_memory_left();
    hr_exec_opts o = {.batch = 4000000, .threads = 1, .train = true};
    assert_null(hr_exec_new(m, &o, &err));
    assert_int_equal(err.code, HR_EINVAL);
    const char *asked = strstr(err.msg, "batches of 4000000 images needs"), *fits = strstr(err.msg, "up to ");
    assert_non_null(asked);
    assert_null(strchr(err.msg, '\n'));
    o.describe = true;
    hr_exec *e = plan(m, o);
    if (fits) {
        int batch = (int)strtol(fits + 6, NULL, 10);
        /* others take and give back memory meanwhile: within a third */
        assert_true((double)hr_plan_bytes(e, batch) < left * 1.33 + 2e8);
        assert_true((double)hr_plan_bytes(e, 2 * batch + 2 * HR_CHUNK) > left * 0.75);
    } else {
        assert_non_null(strstr(err.msg, "not even one image fits")); /* a limit that ASan's own maps exceed */
    }
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_what_the_caller_takes_beside_counts(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = zoo("resS");
    hr_exec_opts o = {.batch = 8, .threads = 1, .beside_per_image = (size_t)1 << 50};
    assert_null(hr_exec_new(m, &o, &err));
    assert_non_null(strstr(err.msg, "not even one image fits"));
    hr_model_free(m);
}

static json_t *layer_of(json_t *doc, const char *name)
{
    size_t i;
    json_t *l;
    json_array_foreach (json_object_get(doc, "layers"), i, l) {
        if (strcmp(json_string_value(json_object_get(l, "name")), name) == 0)
            return l;
    }
    fail_msg("no layer '%s'", name);
    return NULL;
}

static void test_a_plan_names_the_kernel_of_every_layer_and_pass(void **state)
{
    (void)state;
    hr_model *m = zoo("resnet18");
    for (int train = 0; train < 2; train++) {
        hr_exec *e = plan(m, (hr_exec_opts){.batch = 16, .threads = 2, .train = train, .describe = true});
        json_t *doc = hr_plan_json(e);
        assert_int_equal(json_array_size(json_object_get(doc, "layers")), 22); /* 21 layers and the pooling */
        assert_int_equal(json_integer_value(json_object_get(doc, "bytes")), hr_plan_bytes(e, 16));
        size_t i;
        json_t *l;
        double macs = 0;
        json_array_foreach (json_object_get(doc, "layers"), i, l) {
            bool conv = json_integer_value(json_object_get(l, "macs")) > 0;
            macs += json_number_value(json_object_get(l, "macs"));
            for (int p = 0; p < HR_PASSES; p++)
                assert_int_equal(json_is_string(json_object_get(l, hr_pass_names[p])),
                                 conv && (p != HR_PASS_DW || train));
        }
        hr_layers layers = hr_layers_of(m);
        assert_true(macs == (double)layers.macs);
        hr_layers_release(&layers);
        l = layer_of(doc, "conv1");
        assert_string_equal(json_string_value(json_object_get(l, "forward")), "im2col"); /* three channels */
        l = layer_of(doc, "layer2.0.conv2");
        assert_int_equal(json_array_size(json_object_get(l, "fused")), 3); /* batch norm, sum, ReLU */
        json_decref(doc);

        hr_buf text = {0}, tsv = {0};
        hr_plan_table(e, false, &text);
        hr_plan_table(e, true, &tsv);
        assert_non_null(strstr(text.data, "layer2.0.shortcut.0"));
        int lines = 0, tabs = 0;
        for (const char *c = tsv.data; *c; c++) {
            lines += *c == '\n';
            tabs += *c == '\t';
        }
        assert_int_equal(lines, 23);
        assert_int_equal(tabs, 23 * 9);
        hr_buf_release(&text);
        hr_buf_release(&tsv);
        hr_exec_free(e);
    }
    hr_model_free(m);
}

/* The line of a profile that begins with these two words: its milliseconds and GFLOP/s (0 for "-"). */
static bool line_of(const char *profile, const char *layer, const char *pass, double *ms, double *rate)
{
    char name[64], what[16], kernel[16], gflops[24];
    for (const char *line = profile; line; line = strchr(line, '\n'), line += line != NULL) {
        if (sscanf(line, "%63s %15s %15s %lf %23s", name, what, kernel, ms, gflops) == 5 &&
            strcmp(name, layer) == 0 && strcmp(what, pass) == 0) {
            *rate = strtod(gflops, NULL);
            return true;
        }
    }
    return false;
}

static void test_a_profile_counts_every_multiplication_once(void **state)
{
    (void)state;
    enum { N = 24 };
    for (int threads = 1; threads <= 2; threads++) {
        hr_model *m = net_new(32, 24, 24);
        net_done(m,
                 net_relu(m, net_bn(m, net_conv(m, net_conv(m, 0, 48, 3, 3, 1, 1, NET_NO_BIAS), 40, 3, 3, 1,
                                                1, NET_NO_BIAS))),
                 1);
        hr_exec *e = plan(m, (hr_exec_opts){.batch = N, .threads = threads, .train = true});
        hr_buf out = {0};
        hr_profile_table(e, &out);
        assert_int_equal(out.len, 0); /* not asked for */
        hr_exec_profile(e);
        for (int i = 0; i < 2; i++) {
            hr_exec_forward(e, 0, N, HR_BN_BATCH);
            hr_exec_backward(e, 0, N, HR_BN_BATCH, HR_DX | HR_DW);
        }
        hr_profile_table(e, &out);
        double flops = 2.0 * 2 * N * 24 * 24 * 9 * 32 * 48, ms, rate;
        for (int p = 0; p < HR_PASSES; p++) {
            if (!line_of(out.data, m->nodes[1].id, hr_pass_names[p], &ms, &rate))
                fail_msg("no line for %s", hr_pass_names[p]);
            /* both numbers have one digit behind the point: 2 % of 3 ms, of 5 GFLOP/s under valgrind 1 % */
            assert_near(ms * 1e-3 * rate * 1e9 / flops, 1, 0.05 + 0.06 / ms);
        }
        assert_true(line_of(out.data, m->nodes[2].id, "rest", &ms, &rate)); /* its batch norm */
        hr_buf_release(&out);
        hr_exec_free(e);
        hr_model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_planned_bytes_are_those_that_are_taken),
        cmocka_unit_test(test_more_images_and_training_need_more),
        cmocka_unit_test(test_tasks_share_a_batch_out_evenly),
        cmocka_unit_test(test_too_large_a_batch_is_refused_with_one_that_fits),
        cmocka_unit_test(test_what_the_caller_takes_beside_counts),
        cmocka_unit_test(test_a_plan_names_the_kernel_of_every_layer_and_pass),
        cmocka_unit_test(test_a_profile_counts_every_multiplication_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
