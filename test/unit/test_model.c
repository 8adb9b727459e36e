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
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
