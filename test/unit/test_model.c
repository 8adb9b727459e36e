/* test/unit/test_model.c -- the zoo against the published layer tables, and what hr_model_check refuses. */
#include "unit.h"
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static hr_model *zoo(const char *arch)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    assert_ok(hr_zoo_build(arch, NULL, &m, &err), err);
    return m;
}

/* Totals of the published networks: prunable layers, channel strategy length, prunable weights, trainable
 * parameters, MACs of one image. */
static void test_totals_are_the_published_ones(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        int n, channel_n;
        int64_t weights, params, macs;
    } want[] = {
        {"vgg16_bn", 16, 16, 15302848, 15311818, 313788928},
        {"resnet18", 21, 18, 11164352, 11173962, 555422720},
        {"wrn_28_4", 29, 26, 5841840, 5849050, 845597184},
        {"ResNet50", 54, 50, 25502912, 25557032, 4089184256},
    };
    for (size_t i = 0; i < HR_COUNT(want); i++) {
        hr_model *m = zoo(want[i].arch);
        hr_layers ls = hr_layers_of(m);
        assert_int_equal(ls.n, want[i].n);
        assert_int_equal(ls.channel_n, want[i].channel_n);
        assert_int_equal(ls.weights, want[i].weights);
        assert_int_equal(ls.params, want[i].params);
        assert_int_equal(ls.macs, want[i].macs);
        hr_layers_release(&ls);
        hr_model_free(m);
    }
}

static void test_small_vggs_have_the_published_parameter_counts(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        int64_t params, channels; /* channels: sum of the convolutions' widths; _bn adds 2 for each */
    } want[] = {
        {"vgg2", 172746, 128},   {"vgg4", 459466, 384},    {"vgg6", 1475274, 896},
        {"vgg8", 5276362, 1920}, {"vgg11", 9810634, 2752}, {"vgg13", 9994954, 2944},
    };
    for (size_t i = 0; i < HR_COUNT(want); i++) {
        hr_model *m = zoo(want[i].arch);
        hr_layers ls = hr_layers_of(m);
        assert_int_equal(ls.params, want[i].params);
        hr_layers_release(&ls);
        hr_model_free(m);
        char name[16];
        snprintf(name, sizeof name, "%s_bn", want[i].arch);
        m = zoo(name);
        ls = hr_layers_of(m);
        assert_int_equal(ls.params, want[i].params + 2 * want[i].channels);
        hr_layers_release(&ls);
        hr_model_free(m);
    }
}

/* One row of a published layer table: index in a channel strategy and in torch's order, weights, MACs. */
struct row {
    const char *key;
    int w, c, t;
    int out, in, k, stride;
    int64_t n, macs;
};

static void assert_rows(const char *arch, const struct row *rows, size_t n)
{
    hr_model *m = zoo(arch);
    hr_layers ls = hr_layers_of(m);
    for (size_t i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        const hr_layer *l = &ls.l[r->w];
        const hr_tensor *w = &m->tensors[l->weight];
        char key[64];
        snprintf(key, sizeof key, "%s.weight", r->key);
        assert_string_equal(w->name, key);
        assert_string_equal(l->name, r->key);
        assert_int_equal(l->channel_index, r->c);
        assert_int_equal(l->torch_index, r->t);
        assert_int_equal(w->shape[0], r->out);
        assert_int_equal(w->shape[1], r->in);
        assert_int_equal(w->ndim == 4 ? w->shape[3] : 1, r->k);
        assert_int_equal(l->stride, r->stride);
        assert_int_equal(l->n, r->n);
        assert_int_equal(l->macs, r->macs);
        assert_int_equal(l->tie >= 0, strstr(r->key, "hortcut") || strstr(r->key, "downsample"));
    }
    hr_layers_release(&ls);
    hr_model_free(m);
}

static void test_vgg16_bn_has_the_published_layers(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"features.0", 0, 0, 0, 64, 3, 3, 1, 1728, 1769472},
        {"features.3", 1, 1, 1, 64, 64, 3, 1, 36864, 37748736},
        {"features.7", 2, 2, 2, 128, 64, 3, 1, 73728, 18874368},
        {"features.10", 3, 3, 3, 128, 128, 3, 1, 147456, 37748736},
        {"features.14", 4, 4, 4, 256, 128, 3, 1, 294912, 18874368},
        {"features.17", 5, 5, 5, 256, 256, 3, 1, 589824, 37748736},
        {"features.20", 6, 6, 6, 256, 256, 3, 1, 589824, 37748736},
        {"features.24", 7, 7, 7, 512, 256, 3, 1, 1179648, 18874368},
        {"features.27", 8, 8, 8, 512, 512, 3, 1, 2359296, 37748736},
        {"features.30", 9, 9, 9, 512, 512, 3, 1, 2359296, 37748736},
        {"features.34", 10, 10, 10, 512, 512, 3, 1, 2359296, 9437184},
        {"features.37", 11, 11, 11, 512, 512, 3, 1, 2359296, 9437184},
        {"features.40", 12, 12, 12, 512, 512, 3, 1, 2359296, 9437184},
        {"classifier.0", 13, 13, 13, 256, 2048, 1, 1, 524288, 524288},
        {"classifier.2", 14, 14, 14, 256, 256, 1, 1, 65536, 65536},
        {"classifier.4", 15, 15, 15, 10, 256, 1, 1, 2560, 2560},
    };
    assert_rows("vgg16_bn", rows, HR_COUNT(rows));
}

static void test_resnet18_has_the_published_layers(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"conv1", 0, 0, 0, 64, 3, 3, 1, 1728, 1769472},
        {"layer1.0.conv1", 1, 1, 1, 64, 64, 3, 1, 36864, 37748736},
        {"layer1.0.conv2", 2, 2, 2, 64, 64, 3, 1, 36864, 37748736},
        {"layer1.1.conv1", 3, 3, 3, 64, 64, 3, 1, 36864, 37748736},
        {"layer1.1.conv2", 4, 4, 4, 64, 64, 3, 1, 36864, 37748736},
        {"layer2.0.shortcut.0", 5, 5, 7, 128, 64, 1, 2, 8192, 2097152},
        {"layer2.0.conv1", 6, 5, 5, 128, 64, 3, 2, 73728, 18874368},
        {"layer2.0.conv2", 7, 6, 6, 128, 128, 3, 1, 147456, 37748736},
        {"layer2.1.conv1", 8, 7, 8, 128, 128, 3, 1, 147456, 37748736},
        {"layer2.1.conv2", 9, 8, 9, 128, 128, 3, 1, 147456, 37748736},
        {"layer3.0.shortcut.0", 10, 9, 12, 256, 128, 1, 2, 32768, 2097152},
        {"layer3.0.conv1", 11, 9, 10, 256, 128, 3, 2, 294912, 18874368},
        {"layer3.0.conv2", 12, 10, 11, 256, 256, 3, 1, 589824, 37748736},
        {"layer3.1.conv1", 13, 11, 13, 256, 256, 3, 1, 589824, 37748736},
        {"layer3.1.conv2", 14, 12, 14, 256, 256, 3, 1, 589824, 37748736},
        {"layer4.0.shortcut.0", 15, 13, 17, 512, 256, 1, 2, 131072, 2097152},
        {"layer4.0.conv1", 16, 13, 15, 512, 256, 3, 2, 1179648, 18874368},
        {"layer4.0.conv2", 17, 14, 16, 512, 512, 3, 1, 2359296, 37748736},
        {"layer4.1.conv1", 18, 15, 18, 512, 512, 3, 1, 2359296, 37748736},
        {"layer4.1.conv2", 19, 16, 19, 512, 512, 3, 1, 2359296, 37748736},
        {"linear", 20, 17, 20, 10, 512, 1, 1, 5120, 5120},
    };
    assert_rows("resnet18", rows, HR_COUNT(rows));
}

static void test_wrn_28_4_has_the_published_layers(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"conv1", 0, 0, 0, 16, 3, 3, 1, 432, 442368},
        {"block1.layer.0.convShortcut", 1, 1, 3, 64, 16, 1, 1, 1024, 1048576},
        {"block1.layer.0.conv1", 2, 1, 1, 64, 16, 3, 1, 9216, 9437184},
        {"block1.layer.0.conv2", 3, 2, 2, 64, 64, 3, 1, 36864, 37748736},
        {"block1.layer.1.conv1", 4, 3, 4, 64, 64, 3, 1, 36864, 37748736},
        {"block1.layer.3.conv2", 9, 8, 9, 64, 64, 3, 1, 36864, 37748736},
        {"block2.layer.0.convShortcut", 10, 9, 12, 128, 64, 1, 2, 8192, 2097152},
        {"block2.layer.0.conv1", 11, 9, 10, 128, 64, 3, 2, 73728, 18874368},
        {"block2.layer.0.conv2", 12, 10, 11, 128, 128, 3, 1, 147456, 37748736},
        {"block2.layer.3.conv2", 18, 16, 18, 128, 128, 3, 1, 147456, 37748736},
        {"block3.layer.0.convShortcut", 19, 17, 21, 256, 128, 1, 2, 32768, 2097152},
        {"block3.layer.0.conv1", 20, 17, 19, 256, 128, 3, 2, 294912, 18874368},
        {"block3.layer.0.conv2", 21, 18, 20, 256, 256, 3, 1, 589824, 37748736},
        {"block3.layer.3.conv2", 27, 24, 27, 256, 256, 3, 1, 589824, 37748736},
        {"fc", 28, 25, 28, 10, 256, 1, 1, 2560, 2560},
    };
    assert_rows("wrn_28_4", rows, HR_COUNT(rows));
}

static void test_resnet50_has_the_published_layers(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"conv1", 0, 0, 0, 64, 3, 7, 2, 9408, 9408LL * 112 * 112},
        {"layer1.0.downsample.0", 1, 1, 4, 256, 64, 1, 1, 16384, 16384LL * 56 * 56},
        {"layer1.0.conv1", 2, 1, 1, 64, 64, 1, 1, 4096, 4096LL * 56 * 56},
        {"layer1.0.conv2", 3, 2, 2, 64, 64, 3, 1, 36864, 36864LL * 56 * 56},
        {"layer1.0.conv3", 4, 3, 3, 256, 64, 1, 1, 16384, 16384LL * 56 * 56},
        {"layer1.2.conv3", 10, 9, 10, 256, 64, 1, 1, 16384, 16384LL * 56 * 56},
        {"layer2.0.downsample.0", 11, 10, 14, 512, 256, 1, 2, 131072, 131072LL * 28 * 28},
        {"layer2.0.conv1", 12, 10, 11, 128, 256, 1, 1, 32768, 32768LL * 56 * 56},
        {"layer2.0.conv2", 13, 11, 12, 128, 128, 3, 2, 147456, 147456LL * 28 * 28},
        {"layer2.3.conv3", 23, 21, 23, 512, 128, 1, 1, 65536, 65536LL * 28 * 28},
        {"layer3.0.downsample.0", 24, 22, 27, 1024, 512, 1, 2, 524288, 524288LL * 14 * 14},
        {"layer3.0.conv3", 27, 24, 26, 1024, 256, 1, 1, 262144, 262144LL * 14 * 14},
        {"layer3.5.conv3", 42, 39, 42, 1024, 256, 1, 1, 262144, 262144LL * 14 * 14},
        {"layer4.0.downsample.0", 43, 40, 46, 2048, 1024, 1, 2, 2097152, 2097152LL * 7 * 7},
        {"layer4.0.conv1", 44, 40, 43, 512, 1024, 1, 1, 524288, 524288LL * 14 * 14},
        {"layer4.0.conv2", 45, 41, 44, 512, 512, 3, 2, 2359296, 2359296LL * 7 * 7},
        {"layer4.2.conv3", 52, 48, 52, 2048, 512, 1, 1, 1048576, 1048576LL * 7 * 7},
        {"fc", 53, 49, 53, 1000, 2048, 1, 1, 2048000, 2048000},
    };
    assert_rows("ResNet50", rows, HR_COUNT(rows));
}

static void test_ress_is_the_demo_network(void **state)
{
    (void)state;
    hr_model *m = zoo("resS");
    hr_layers ls = hr_layers_of(m);
    assert_int_equal(ls.n, 10);
    assert_int_equal(ls.channel_n, 8);
    assert_int_equal(ls.weights, 9 * 16 + 2 * 9 * 16 * 16 + (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) +
                                     (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) + 640);
    assert_int_equal(ls.weights, 77072);
    static const char *const names[] = {
        "conv1",          "layer1.0.conv1",      "layer1.0.conv2", "layer2.0.shortcut.0", "layer2.0.conv1",
        "layer2.0.conv2", "layer3.0.shortcut.0", "layer3.0.conv1", "layer3.0.conv2",      "linear"};
    static const int side[] = {14, 14, 14, 7, 7, 7, 4, 4, 4, 1};
    for (int i = 0; i < ls.n; i++) {
        assert_string_equal(ls.l[i].name, names[i]);
        assert_int_equal(ls.l[i].hout, side[i]);
        assert_int_equal(ls.l[i].wout, side[i]);
    }
    hr_layers_release(&ls);
    hr_model_free(m);
}

/* A checkpoint of the published code has these many keys, with popup_scores in every prunable layer and
 * num_batches_tracked in every batch norm, which are no parameters of ours. */
static void test_parameters_are_the_keys_of_the_published_checkpoints(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        int keys, layers, batchnorms;
        const char *some[4];
    } want[] = {
        {"vgg16_bn",
         100,
         16,
         13,
         {"features.0.weight", "features.41.running_var", "classifier.4.bias", NULL}},
        {"resnet18", 143, 21, 20, {"bn1.bias", "layer2.0.shortcut.1.running_mean", "linear.bias", NULL}},
        {"wrn_28_4",
         184,
         29,
         25,
         {"block3.layer.3.bn2.weight", "block1.layer.0.convShortcut.weight", "bn1.bias"}},
        {"ResNet50",
         374,
         54,
         53,
         {"layer1.0.downsample.1.weight", "layer4.2.bn3.running_var", "fc.bias", NULL}},
    };
    for (size_t i = 0; i < HR_COUNT(want); i++) {
        hr_model *m = zoo(want[i].arch);
        assert_int_equal(m->ntensors, want[i].keys - want[i].layers - want[i].batchnorms);
        for (int k = 0; want[i].some[k]; k++)
            assert_true(hr_model_find(m, want[i].some[k]) >= 0);
        hr_model_free(m);
    }
}

static void test_every_architecture_takes_other_inputs_and_classes(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    const double mean[] = {0.5}, std[] = {0.25};
    hr_zoo_opts o = {1, 33, 40, 7, mean, std}; /* vgg13 halves five times */
    for (int i = 0; hr_zoo_names[i]; i++) {
        hr_model *m;
        assert_ok(hr_zoo_build(hr_zoo_names[i], &o, &m, &err), err);
        assert_string_equal(m->arch, hr_zoo_names[i]);
        assert_int_equal(m->nodes[0].w, 40);
        assert_int_equal(m->nodes[1].op, HR_OP_NORMALIZE);
        assert_true(m->nodes[1].mean[0] == 0.5 && m->nodes[1].std[0] == 0.25);
        assert_int_equal(m->nodes[m->nnodes - 1].c, 7);
        hr_layers ls = hr_layers_of(m);
        assert_int_equal(ls.l[0].in, 1);
        hr_layers_release(&ls);
        hr_model_free(m);
    }
}

static void assert_no_network(const char *arch, hr_zoo_opts o, const char *words)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    assert_int_equal(hr_zoo_build(arch, &o, &m, &err), HR_EINVAL);
    assert_null(m);
    if (!strstr(err.msg, words))
        fail_msg("'%s' lacks '%s'", err.msg, words);
}

static void test_impossible_networks_are_refused(void **state)
{
    (void)state;
    const double one[17] = {1};
    assert_no_network("vgg3", (hr_zoo_opts){0}, "vgg2, vgg2_bn");
    assert_no_network("vgg16_b", (hr_zoo_opts){0}, "'vgg16_b'");
    assert_no_network("vgg16_bnx", (hr_zoo_opts){0}, "resS");
    assert_no_network("resnet18 ", (hr_zoo_opts){0}, "no architecture");
    assert_no_network("vgg16", (hr_zoo_opts){3, 8, 8, 10, NULL, NULL}, "does not fit");
    assert_no_network("resS", (hr_zoo_opts){-1, 28, 28, 10, NULL, NULL}, "channels");
    assert_no_network("resS", (hr_zoo_opts){1, 1 << 20, 28, 10, NULL, NULL}, "pixels");
    assert_no_network("resS", (hr_zoo_opts){1, 28, 28, -4, NULL, NULL}, "classes");
    assert_no_network("resS", (hr_zoo_opts){1, 28, 28, 10, one, NULL}, "std");
    assert_no_network("resS", (hr_zoo_opts){17, 28, 28, 10, one, one}, "normalisation");
    assert_no_network("resS", (hr_zoo_opts){2, 28, 28, 10, one, one}, "make no scale");
}

static void moments(const hr_model *m, const char *name, double *mean, double *deviation, double *largest)
{
    int at = hr_model_find(m, name);
    assert_true(at >= 0);
    const float *v = hr_tensor_f32(&m->tensors[at]);
    int64_t n = hr_tensor_count(&m->tensors[at]);
    double sum = 0, squares = 0;
    *largest = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += v[i];
        squares += (double)v[i] * v[i];
        *largest = fmax(*largest, fabs(v[i]));
    }
    *mean = sum / (double)n;
    *deviation = sqrt(squares / (double)n - *mean * *mean);
}

/* The spread of n draws is within 4 standard errors (deviation / sqrt(2n), a little less for uniform ones).
 */
static void test_weights_start_as_published(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *tensor;
        int64_t n;
        double deviation, bound; /* bound 0: normal, else uniform in +-bound; both 0: all zero */
    } want[] = {
        {"vgg4_bn", "features.3.weight", 36864, 0.058925565, 0}, /* sqrt(2/(9*64)) */
        {"vgg4_bn", "classifier.0.weight", 131072, 0.01, 0},
        {"vgg4_bn", "classifier.0.bias", 256, 0, 0},
        {"resnet18", "layer1.0.conv1.weight", 36864, 0.024056261, 0.041666667}, /* 1/sqrt(9*64) */
        {"resnet18", "linear.weight", 5120, 0.025515518, 0.044194174},
        {"wrn_28_4", "block1.layer.1.conv1.weight", 36864, 0.058925565, 0},
        {"wrn_28_4", "fc.weight", 2560, 0.036084392, 0.0625},
        {"wrn_28_4", "fc.bias", 10, 0, 0},
        {"ResNet50", "layer1.0.conv3.weight", 16384, 0.088388348, 0}, /* sqrt(2/256) */
        {"ResNet50", "fc.weight", 2048000, 0.012757759, 0.022097087},
        {"resS", "layer3.0.conv2.weight", 36864, 0.024056261, 0.041666667},
    };
    hr_model *m = NULL;
    for (size_t i = 0; i < HR_COUNT(want); i++) {
        if (i == 0 || strcmp(want[i].arch, want[i - 1].arch) != 0) {
            hr_model_free(m);
            m = zoo(want[i].arch);
            hr_zoo_init(m, 3);
        }
        double mean, deviation, largest;
        moments(m, want[i].tensor, &mean, &deviation, &largest);
        double n = (double)want[i].n, sd = want[i].deviation;
        assert_near(mean, 0, 4 * sd / sqrt(n));
        assert_near(deviation, sd, 4 * sd / sqrt(2 * n));
        if (want[i].bound > 0) {
            assert_true(largest <= want[i].bound);
            assert_true(largest > 0.95 * want[i].bound);
        } else if (sd > 0) {
            assert_true(largest > 2.5 * sd);
        }
    }
    hr_model_free(m);
}

static void test_the_seed_decides_every_weight(void **state)
{
    (void)state;
    hr_model *a = zoo("resS"), *b = zoo("resS"), *c = zoo("resS");
    hr_zoo_init(a, 1);
    hr_zoo_init(b, 1);
    hr_zoo_init(c, 2);
    for (int i = 0; i < a->nnodes; i++) {
        int t = a->nodes[i].param[HR_P_WEIGHT];
        if (t < 0)
            continue;
        size_t bytes = (size_t)hr_tensor_count(&a->tensors[t]) * sizeof(float);
        assert_memory_equal(a->tensors[t].data, b->tensors[t].data, bytes);
        if (a->nodes[i].op != HR_OP_BATCHNORM)
            assert_memory_not_equal(a->tensors[t].data, c->tensors[t].data, bytes);
        else
            assert_true(hr_tensor_f32(&a->tensors[a->nodes[i].param[HR_P_VAR]])[0] == 1.0f);
    }
    hr_model_free(a);
    hr_model_free(b);
    hr_model_free(c);
}

static void test_tensors_are_added_replaced_and_dropped(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = zoo("resS");
    int n = m->ntensors, first = hr_model_find(m, "conv1.weight"), linear = m->nnodes - 1;
    int64_t shape[2] = {3, 4};
    assert_int_equal(hr_model_add_tensor(m, "x", HR_U8, 2, shape), n);
    assert_int_equal(hr_model_add_tensor(m, "x", HR_I64, 1, shape), n);
    assert_int_equal(m->ntensors, n + 1);
    assert_int_equal(hr_tensor_count(&m->tensors[n]), 3);
    hr_model_drop_tensor(m, "conv1.weight"); /* in use: stays */
    assert_int_equal(hr_model_find(m, "conv1.weight"), first);
    hr_model_drop_tensor(m, "nothing");
    hr_model_drop_tensor(m, "x");
    assert_int_equal(hr_model_find(m, "x"), -1);

    /* dropping a tensor in front of parameters moves their indices */
    hr_model_add_tensor(m, "x", HR_U8, 0, NULL);
    int x = hr_model_find(m, "x"), w = m->nodes[linear].param[HR_P_WEIGHT];
    hr_tensor t = m->tensors[x];
    m->tensors[x] = m->tensors[w];
    m->tensors[w] = t;
    m->nodes[linear].param[HR_P_WEIGHT] = x;
    assert_ok(hr_model_check(m, "moved", &err), err);
    hr_model_drop_tensor(m, "x");
    assert_ok(hr_model_check(m, "dropped", &err), err);
    assert_string_equal(m->tensors[m->nodes[linear].param[HR_P_WEIGHT]].name, "linear.weight");
    assert_ptr_equal(hr_model_node_tensor(m, linear, "weight"),
                     &m->tensors[m->nodes[linear].param[HR_P_WEIGHT]]);
    assert_null(hr_model_node_tensor(m, linear, "mask"));
    hr_model_free(m);
}

static void test_a_copy_shares_nothing_with_its_original(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = zoo("resS");
    m->meta = json_pack("{s:s}", "strategy", "dense");
    hr_zoo_init(m, 1);
    hr_model *c = hr_model_copy(m);
    float before = hr_tensor_f32(&c->tensors[0])[0];
    hr_tensor_f32(&m->tensors[0])[0] += 1;
    json_object_set_new(m->meta, "strategy", json_string("other"));
    hr_model_free(m);
    assert_true(hr_tensor_f32(&c->tensors[0])[0] == before);
    assert_string_equal(json_string_value(json_object_get(c->meta, "strategy")), "dense");
    assert_ok(hr_model_check(c, "copy", &err), err);
    hr_model_free(c);
}

static void test_the_layer_document_keeps_its_schema(void **state)
{
    (void)state;
    hr_model *m = zoo("resS");
    int node = 4; /* layer1.0.conv1: after input, conv1, bn1, relu */
    m->prune[node] = (hr_prune){true, HR_REG_CHANNEL, 0.5, 8, false};
    json_t *j = hr_layers_json(m), *l = json_array_get(json_object_get(j, "layers"), 1);
    char *text = hr_json_text(l, 0);
    assert_string_equal(
        text,
        "{\"name\":\"layer1.0.conv1\",\"op\":\"conv2d\",\"in\":16,\"out\":16,\"kernel\":[3,3],\"stride\":1,"
        "\"pad\":1,\"hin\":14,\"win\":14,\"hout\":14,\"wout\":14,\"weights\":2304,\"macs\":451584,"
        "\"kept_weights\":2304,\"kept_macs\":451584,\"tie\":null,\"weight_index\":1,\"channel_index\":1,"
        "\"torch_index\":1,"
        "\"prune\":{\"reg\":\"channel\",\"rate\":0.5,\"kept\":8,\"state\":\"planned\"}}");
    free(text);
    l = json_array_get(json_object_get(j, "layers"), 3);
    assert_string_equal(json_string_value(json_object_get(l, "tie")), "layer2.0.conv1");
    assert_true(json_is_null(json_object_get(l, "prune")));
    json_object_del(j, "layers");
    text = hr_json_text(j, 0);
    assert_string_equal(
        text, "{\"arch\":\"resS\",\"input\":[1,28,28],\"normalize\":null,\"classes\":10,\"params\":77754,"
              "\"weights\":77072,\"macs\":2552000}");
    free(text);
    json_decref(j);
    hr_model_free(m);
}

/* ---- what hr_model_check refuses ------------------------------------------------------------------------
 */

/* Nodes of the network below by name. */
enum { INPUT, NORM, SHORT, CONV, BN, RELU, ADD, POOL, FLAT, FC };

static hr_model *victim(void)
{
    hr_model *m = hr_model_new("victim", 2, 6, 5, 3);
    hr_model_add_node(m, "norm", HR_OP_NORMALIZE, INPUT, -1);
    m->nodes[NORM].std[0] = m->nodes[NORM].std[1] = 0.5;
    hr_model_add_conv(m, "short", NORM, 2, 4, 1, 1, 0, false);
    m->nodes[SHORT].tie = hr_xstrdup("conv");
    hr_model_add_conv(m, "conv", NORM, 2, 4, 3, 1, 1, true);
    hr_model_add_batchnorm(m, "bn", CONV, 4);
    hr_model_add_node(m, "relu", HR_OP_RELU, BN, -1);
    hr_model_add_node(m, "add", HR_OP_ADD, RELU, SHORT);
    hr_model_add_pool(m, "pool", HR_OP_MAXPOOL, ADD, 3, 2, 1);
    hr_model_add_node(m, "flat", HR_OP_FLATTEN, POOL, -1);
    hr_model_add_linear(m, "fc", FLAT, 36, 3, true);
    m->prune[CONV] = (hr_prune){true, HR_REG_WEIGHT, 2.0 / 72, 2, true};
    int t = hr_model_add_tensor(m, "conv.mask", HR_U8, 4, (int64_t[]){4, 2, 3, 3});
    memset(m->tensors[t].data, 1, 2);
    m->prune[FC] = (hr_prune){true, HR_REG_CHANNEL, 9.0 / 36, 9, true};
    t = hr_model_add_tensor(m, "fc.mask", HR_U8, 2, (int64_t[]){1, 36});
    memset(m->tensors[t].data, 1, 9);
    return m;
}

static hr_tensor *tensor(hr_model *m, const char *name)
{
    return &m->tensors[hr_model_find(m, name)];
}

static void rename_to(char **name, const char *to)
{
    free(*name);
    *name = hr_xstrdup(to);
}

/* Each statement spoils a fresh victim in one way. */
#define SPOILED(code, words, statement)                                                                      \
    do {                                                                                                     \
        hr_err why = HR_ERR_INIT;                                                                            \
        hr_model *m = victim();                                                                              \
        statement;                                                                                           \
        int rc = hr_model_check(m, "v.nn", &why);                                                            \
        if (rc != (code) || !strstr(why.msg, words) || strncmp(why.msg, "v.nn: ", 6) != 0)                   \
            fail_msg("%s: code %d, '%s'", #statement, rc, why.msg);                                          \
        hr_model_free(m);                                                                                    \
    } while (0)

static void test_spoiled_graphs_are_refused(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *sound = victim();
    assert_ok(hr_model_check(sound, "v.nn", &err), err);
    assert_int_equal(sound->nodes[POOL].h, 3);
    assert_int_equal(sound->nodes[FLAT].c, 36);
    hr_model_free(sound);

    SPOILED(HR_EFORMAT, "'bn'", rename_to(&m->nodes[RELU].id, "bn"));
    SPOILED(HR_EFORMAT, "printable", rename_to(&m->nodes[RELU].id, ""));
    SPOILED(HR_EFORMAT, "printable", rename_to(&m->nodes[RELU].id, "a b"));
    SPOILED(HR_EFORMAT, "printable", rename_to(&m->nodes[RELU].id, "\xc3\xa9"));
    SPOILED(HR_EFORMAT, "printable", rename_to(&m->arch, "a\n"));
    SPOILED(HR_EFORMAT, "two tensors", rename_to(&tensor(m, "bn.bias")->name, "bn.weight"));
    SPOILED(HR_EFORMAT, "is called", rename_to(&tensor(m, "bn.bias")->name, "other"));
    SPOILED(HR_EFORMAT, "unknown op", m->nodes[RELU].op = (enum hr_op)99);
    SPOILED(HR_EFORMAT, "is the input", m->nodes[RELU].op = HR_OP_INPUT);
    SPOILED(HR_EFORMAT, "is the input", m->nodes[INPUT].op = HR_OP_RELU);
    SPOILED(HR_EFORMAT, "inputs", m->nodes[ADD].nin = 1);
    SPOILED(HR_EFORMAT, "inputs", m->nodes[RELU].nin = 2);
    SPOILED(HR_EFORMAT, "come before", m->nodes[RELU].in[0] = RELU);
    SPOILED(HR_EFORMAT, "come before", m->nodes[RELU].in[0] = 1000000);
    SPOILED(HR_EFORMAT, "come before", m->nodes[ADD].in[1] = -1);
    SPOILED(HR_EFORMAT, "nothing reads", m->nodes[ADD].in[0] = SHORT);
    SPOILED(HR_EFORMAT, "kernel", m->nodes[CONV].kh = 0);
    SPOILED(HR_EFORMAT, "kernel", m->nodes[POOL].kw = -3);
    SPOILED(HR_EFORMAT, "kernel", m->nodes[POOL].stride = 0);
    SPOILED(HR_EFORMAT, "kernel", m->nodes[POOL].kh = 1 << 30);
    SPOILED(HR_EFORMAT, "pad", m->nodes[POOL].pad = 2);
    SPOILED(HR_EFORMAT, "pad", m->nodes[CONV].pad = 3);
    SPOILED(HR_EFORMAT, "pad", m->nodes[CONV].pad = -1);
    SPOILED(HR_EFORMAT, "pad", m->nodes[POOL].op = HR_OP_AVGPOOL);
    SPOILED(HR_EFORMAT, "cannot have", m->nodes[RELU].kh = 2);
    SPOILED(HR_EFORMAT, "cannot have", m->nodes[RELU].param[0] = 0);
    SPOILED(HR_EFORMAT, "needs", m->nodes[CONV].param[HR_P_WEIGHT] = -1);
    SPOILED(HR_EFORMAT, "needs", m->nodes[CONV].param[HR_P_WEIGHT] = m->ntensors);
    SPOILED(HR_EFORMAT, "needs", m->nodes[BN].param[HR_P_VAR] = -1);
    SPOILED(HR_EFORMAT, "eps", m->nodes[BN].bn_eps = 0);
    SPOILED(HR_EFORMAT, "momentum", m->nodes[BN].bn_momentum = NAN);
    SPOILED(HR_EFORMAT, "make no scale", m->nodes[NORM].std[1] = 0);
    SPOILED(HR_EFORMAT, "make no scale", m->nodes[NORM].mean[1] = INFINITY);
    SPOILED(HR_ESHAPE, "channel 2", m->nodes[NORM].std[2] = 1);
    SPOILED(HR_ESHAPE, "out of range", m->nodes[INPUT].h = 0);
    SPOILED(HR_ESHAPE, "out of range", m->nodes[INPUT].w = 1 << 30);
    SPOILED(HR_ESHAPE, "out of range", m->nodes[INPUT].h = m->nodes[INPUT].w = 1 << 20);
    SPOILED(HR_ESHAPE, "is 3x36, the graph needs 3x120", m->nodes[POOL].stride = 1);
}

static void test_spoiled_shapes_and_records_are_refused(void **state)
{
    (void)state;
    SPOILED(HR_EFORMAT, "dtype", m->tensors[0].dtype = (enum hr_dtype)HR_DTYPE_COUNT);
    SPOILED(HR_EFORMAT, "dimension", tensor(m, "conv.weight")->shape[0] = 0);
    SPOILED(HR_EFORMAT, "dimension", tensor(m, "conv.weight")->shape[1] = (int64_t)1 << 39);
    SPOILED(HR_EFORMAT, "dimensions", tensor(m, "conv.weight")->ndim = 9);
    SPOILED(HR_ESHAPE, "float32 is needed", tensor(m, "conv.weight")->dtype = HR_I32);
    SPOILED(HR_ESHAPE, "the graph needs 4x2x3x3", tensor(m, "conv.weight")->shape[1] = 3);
    SPOILED(HR_ESHAPE, "no weight of a conv2d", tensor(m, "conv.weight")->ndim = 2);
    SPOILED(HR_ESHAPE, "the graph needs 4", tensor(m, "conv.bias")->shape[0] = 3);
    SPOILED(HR_ESHAPE, "the graph needs 4", tensor(m, "bn.running_mean")->shape[0] = 3);
    SPOILED(HR_ESHAPE, "joins 3x6x5 and 4x6x5",
            tensor(m, "conv.weight")->shape[0] = tensor(m, "conv.bias")->shape[0] =
                tensor(m, "bn.weight")->shape[0] = tensor(m, "bn.bias")->shape[0] =
                    tensor(m, "bn.running_mean")->shape[0] = tensor(m, "bn.running_var")->shape[0] = 3);
    SPOILED(HR_ESHAPE, "flat input", m->nodes[FC].in[0] = POOL);
    SPOILED(HR_ESHAPE, "does not fit", m->nodes[INPUT].w = 1; m->nodes[CONV].pad = 0);
    SPOILED(HR_ESHAPE, "10 classes", m->classes = 10);

    SPOILED(HR_EFORMAT, "tied", rename_to(&m->nodes[SHORT].tie, "nothing"));
    SPOILED(HR_EFORMAT, "tied", rename_to(&m->nodes[SHORT].tie, "short"));
    SPOILED(HR_EFORMAT, "tied", rename_to(&m->nodes[SHORT].tie, "fc"));
    SPOILED(HR_EFORMAT, "tied", m->nodes[CONV].tie = hr_xstrdup("short"));
    SPOILED(HR_EFORMAT, "tied", m->nodes[BN].tie = hr_xstrdup("conv"));

    SPOILED(HR_EFORMAT, "prune record", m->prune[RELU].set = true);
    SPOILED(HR_EFORMAT, "without a mask", hr_model_drop_tensor(m, "conv.mask"));
    SPOILED(HR_EFORMAT, "without an active", m->prune[CONV].active = false);
    SPOILED(HR_EFORMAT, "without an active", m->prune[CONV].set = false);
    SPOILED(HR_EFORMAT, "regularity", m->prune[CONV].reg = (enum hr_reg)7);
    SPOILED(HR_EFORMAT, "inconsistent", m->prune[CONV].kept = 0);
    SPOILED(HR_EFORMAT, "inconsistent", m->prune[CONV].kept = 73; m->prune[CONV].rate = 1);
    SPOILED(HR_EFORMAT, "inconsistent", m->prune[CONV].rate = 0.5);
    SPOILED(HR_EFORMAT, "inconsistent", m->prune[CONV].rate = NAN);
    SPOILED(HR_EFORMAT, "keeps 2, its record says 3", m->prune[CONV].kept = 3);
    SPOILED(HR_EFORMAT, "other than 0 and 1", ((uint8_t *)tensor(m, "conv.mask")->data)[5] = 2);
    SPOILED(HR_ESHAPE, "uint8", tensor(m, "conv.mask")->dtype = HR_BOOL);
    SPOILED(HR_ESHAPE, "the graph needs 4x2x3x3", tensor(m, "conv.mask")->shape[0] = 2);
    SPOILED(HR_ESHAPE, "the graph needs 1x36", tensor(m, "fc.mask")->shape[0] = 2);
    SPOILED(HR_ESHAPE, "the graph needs 1x36", m->tensors[hr_model_find(m, "fc.mask")].ndim = 1);
}

static void test_values_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    static const int64_t places[] = {0, 1, 1023, 1024, 36863};
    hr_err err = HR_ERR_INIT;
    hr_model *m = zoo("resS");
    int weight = hr_model_find(m, "layer3.0.conv2.weight");
    assert_ok(hr_model_check_finite(m, "m", &err), err);
    for (size_t i = 0; i < HR_COUNT(places); i++) {
        float *v = &hr_tensor_f32(&m->tensors[weight])[places[i]];
        const float bad[] = {NAN, -NAN, INFINITY, -INFINITY}, good[] = {-3.4e38f, 1e-45f, -0.0f};
        char want[128];
        snprintf(want, sizeof want, "m: tensor 'layer3.0.conv2.weight' is not finite at element %lld",
                 (long long)places[i]);
        for (size_t k = 0; k < HR_COUNT(bad); k++) {
            *v = bad[k];
            assert_int_equal(hr_model_check_finite(m, "m", &err), HR_EFORMAT);
            assert_string_equal(err.msg, want);
        }
        for (size_t k = 0; k < HR_COUNT(good); k++) {
            *v = good[k];
            assert_ok(hr_model_check_finite(m, "m", &err), err);
        }
    }
    static const struct {
        enum hr_dtype dtype;
        uint64_t bits;
        int rc;
    } extras[] = {
        {HR_F16, 0x7c00, HR_EFORMAT},
        {HR_F16, 0x7bff, HR_OK},
        {HR_BF16, 0xff81, HR_EFORMAT},
        {HR_BF16, 0x7f7f, HR_OK},
        {HR_F64, 0x7ff8000000000000, HR_EFORMAT},
        {HR_F64, 0x7fefffffffffffff, HR_OK},
        {HR_I64, UINT64_MAX, HR_OK},
        {HR_I32, 0x7f800000, HR_OK},
    };
    for (size_t i = 0; i < HR_COUNT(extras); i++) {
        int t = hr_model_add_tensor(m, "extra", extras[i].dtype, 0, NULL);
        memcpy(m->tensors[t].data, &extras[i].bits, hr_dtype_size(extras[i].dtype));
        assert_int_equal(hr_model_check_finite(m, "m", &err), extras[i].rc);
    }
    hr_model_drop_tensor(m, "extra");
    hr_tensor_f32(tensor(m, "layer1.0.bn2.running_var"))[3] = -1e-9f;
    assert_int_equal(hr_model_check_finite(m, "m", &err), HR_EFORMAT);
    assert_non_null(strstr(err.msg, "variance"));
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_totals_are_the_published_ones),
        cmocka_unit_test(test_small_vggs_have_the_published_parameter_counts),
        cmocka_unit_test(test_vgg16_bn_has_the_published_layers),
        cmocka_unit_test(test_resnet18_has_the_published_layers),
        cmocka_unit_test(test_wrn_28_4_has_the_published_layers),
        cmocka_unit_test(test_resnet50_has_the_published_layers),
        cmocka_unit_test(test_ress_is_the_demo_network),
        cmocka_unit_test(test_parameters_are_the_keys_of_the_published_checkpoints),
        cmocka_unit_test(test_every_architecture_takes_other_inputs_and_classes),
        cmocka_unit_test(test_impossible_networks_are_refused),
        cmocka_unit_test(test_weights_start_as_published),
        cmocka_unit_test(test_the_seed_decides_every_weight),
        cmocka_unit_test(test_tensors_are_added_replaced_and_dropped),
        cmocka_unit_test(test_a_copy_shares_nothing_with_its_original),
        cmocka_unit_test(test_the_layer_document_keeps_its_schema),
        cmocka_unit_test(test_spoiled_graphs_are_refused),
        cmocka_unit_test(test_spoiled_shapes_and_records_are_refused),
        cmocka_unit_test(test_values_that_are_not_finite_are_refused),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
