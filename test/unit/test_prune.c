/* test/unit/test_prune.c -- lib/prune against hand computations, naive implementations and published lists.
 */
#include "unit.h"

#include "model/model.h"
#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- helpers ------------------------------------------------------------------------------------------ */

struct net {
    hr_model *m;
    hr_layers ls;
};

static struct net open_net(const char *arch, bool random)
{
    struct net n;
    hr_err err = HR_ERR_INIT;
    hr_zoo_opts opts = {0};
    assert_ok(hr_zoo_build(arch, &opts, &n.m, &err), err);
    if (random)
        hr_zoo_init(n.m, 7);
    n.ls = hr_layers_of(n.m);
    return n;
}

static void close_net(struct net *n)
{
    hr_layers_release(&n->ls);
    hr_model_free(n->m);
}

static float *weights_of(const struct net *n, int layer)
{
    return hr_tensor_f32(&n->m->tensors[n->ls.l[layer].weight]);
}

static hr_strategy make(const struct net *n, const char *spec, enum hr_reg reg, enum hr_measure measure)
{
    hr_strategy s;
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_strategy_make(&s, spec, reg, n->m, &n->ls, false, measure, &err), err);
    return s;
}

static int64_t total_kept(const hr_strategy *s)
{
    int64_t sum = 0;
    for (int i = 0; i < s->n; i++)
        sum += s->kept[i];
    return sum;
}

/* A file that lives as long as the test. */
static char *write_file(const char *text)
{
    char *path = hr_xstrdup("/tmp/hr-prune-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

static void remove_file(char *path)
{
    unlink(path);
    free(path);
}

/* A strategy file among the reference material, or NULL. Caller frees. */
static char *reference(const char *name)
{
    const char *dir = getenv("REFERENCE");
    char *path = hr_xasprintf("%s/strategies/%s", dir ? dir : "../shared/reference", name);
    if (access(path, R_OK) == 0)
        return path;
    free(path);
    return NULL;
}

/* ---- counts and masks --------------------------------------------------------------------------------- */

static void test_kept_rounds_half_to_even_and_keeps_at_least_one(void **state)
{
    static const struct {
        double rate;
        int64_t n, kept;
    } cases[] = {
        {0.5, 3, 2},                                                     /* 1.5 */
        {0.5, 5, 2},                                                     /* 2.5 */
        {0.5, 7, 4},                                                     /* 3.5 */
        {0.1, 3, 1},                                                     /* 0.3: never none */
        {1e-9, 1000, 1},                                                 /* never none */
        {1.0, 3, 3},                                                     /* all */
        {0.999999, 10, 10}, {0.1, 77072, 7707}, {29.0 / 1728, 1728, 29}, /* the float path's victim [Q24] */
    };
    (void)state;
    for (size_t i = 0; i < HR_COUNT(cases); i++)
        assert_int_equal(hr_kept(cases[i].rate, cases[i].n), cases[i].kept);
    /* Every count survives the way through its rate. */
    for (int64_t n = 1; n < 300; n++)
        for (int64_t k = 1; k <= n; k++)
            assert_int_equal(hr_kept((double)k / (double)n, n), k);
}

struct ranked {
    float score;
    int64_t index;
};

static int by_score_then_index(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static void check_topk_against_sorting(const float *score, int64_t n, int64_t kept)
{
    struct ranked *r = hr_xmalloc(sizeof *r * (size_t)n);
    uint8_t *want = hr_xcalloc((size_t)n, 1), *got = hr_xmalloc((size_t)n);
    for (int64_t i = 0; i < n; i++)
        r[i] = (struct ranked){score[i], i};
    qsort(r, (size_t)n, sizeof *r, by_score_then_index);
    for (int64_t i = 0; i < kept; i++)
        want[r[i].index] = 1;
    hr_topk_mask(score, n, kept, got);
    assert_memory_equal(got, want, (size_t)n);
    free(r);
    free(want);
    free(got);
}

static void test_topk_is_sorting_with_ties_to_the_lower_index(void **state)
{
    enum { N = 3000 };
    static float score[N];
    hr_rng rng = {1, HR_STREAM_TEST, 0};
    (void)state;
    for (int values = 1; values <= 1000; values *= 10) { /* 1: all equal */
        for (int i = 0; i < N; i++)
            score[i] = 0.25f * ((float)hr_rng_below(&rng, (uint32_t)values) - (float)(values / 2));
        for (int64_t kept = 0; kept <= N; kept += 375)
            check_topk_against_sorting(score, N, kept);
    }
    for (int i = 0; i < N; i++)
        score[i] = (float)hr_rng_normal(&rng) * powf(10.0f, (float)hr_rng_below(&rng, 60) - 30);
    for (int64_t kept = 1; kept <= N; kept += 101)
        check_topk_against_sorting(score, N, kept);
}

/* Large arrays are looked at through a sample first, every n/8192th score. */
static void test_topk_of_many_is_sorting_too(void **state)
{
    enum { N = 90000, STRIDE = N / 8192 };
    static float score[N], size[N];
    static uint8_t got[N], want[N];
    hr_rng rng = {2, HR_STREAM_TEST, 0};
    (void)state;
    for (int kind = 0; kind < 5; kind++) {
        for (int i = 0; i < N; i++) {
            float x = (float)hr_rng_normal(&rng);
            score[i] = kind == 0   ? x
                       : kind == 1 ? (float)i
                       : kind == 2 ? floorf(x)                  /* few values, many times each */
                       : kind == 3 ? (i % STRIDE == 0 ? -9 : x) /* the sample knows nothing of the others */
                                   : (i % STRIDE == 0 ? x : 0.5f);
            size[i] = fabsf(score[i]);
        }
        for (int k = 0; k < 6; k++) {
            const int64_t kept = (const int64_t[]){1, 90, 9000, 45000, 89000, N}[k];
            check_topk_against_sorting(score, N, kept);
            hr_topk_magnitudes(score, N, kept, got);
            hr_topk_mask(size, N, kept, want);
            assert_memory_equal(got, want, N);
        }
    }
    score[5] = score[50000] = NAN;
    hr_topk_mask(score, N, N - 1, got);
    assert_true(got[5] && !got[50000]);
}

static void test_topk_orders_zeros_infinities_and_nan(void **state)
{
    const float score[] = {NAN, -0.0f, 0.0f, -INFINITY, INFINITY, -1.0f};
    uint8_t mask[6];
    (void)state;
    hr_topk_mask(score, 6, 2, mask);
    assert_memory_equal(mask, "\0\1\0\0\1\0", 6); /* -0 equals +0 and comes first */
    hr_topk_mask(score, 6, 5, mask);
    assert_memory_equal(mask, "\0\1\1\1\1\1", 6);
    hr_topk_mask(score, 6, 6, mask);
    assert_memory_equal(mask, "\1\1\1\1\1\1", 6);
}

static void test_scores_and_masks_follow_input_channels(void **state)
{
    const hr_layer conv = {.out = 2, .in = 3, .kh = 1, .kw = 2, .n = 12};
    const float w[12] = {1, -2, 0, 3, -4, 4, /* output 0: channels (1,-2) (0,3) (-4,4) */
                         0, 0,  1, 0, 0,  -1};
    float score[12], expanded[12];
    const uint8_t channels[3] = {0, 1, 1}, single[12] = {0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1};
    (void)state;
    hr_score_weights(w, &conv, HR_REG_CHANNEL, HR_SCORE_L1, score);
    assert_near(score[0], 3, 0);
    assert_near(score[1], 4, 0);
    assert_near(score[2], 9, 0);
    hr_score_weights(w, &conv, HR_REG_CHANNEL, HR_SCORE_L2, score);
    assert_near(score[0], sqrt(5), 1e-6); /* one float rounding */
    assert_near(score[1], sqrt(10), 1e-6);
    assert_near(score[2], sqrt(33), 1e-6);
    hr_score_weights(w, &conv, HR_REG_WEIGHT, HR_SCORE_L2, score);
    for (int i = 0; i < 12; i++)
        assert_near(score[i], fabsf(w[i]), 0);
    hr_mask_expand(channels, &conv, HR_REG_CHANNEL, expanded);
    for (int i = 0; i < 12; i++)
        assert_near(expanded[i], i / 2 % 3 == 0 ? 0 : 1, 0);
    hr_mask_expand(single, &conv, HR_REG_WEIGHT, expanded);
    for (int i = 0; i < 12; i++)
        assert_near(expanded[i], single[i], 0);
}

/* ---- budgets ------------------------------------------------------------------------------------------ */

/* ALG 6.3's computed targets. */
static void test_channel_targets_are_the_published_ones(void **state)
{
    static const struct {
        const char *arch;
        double half, tenth;
    } cases[] = {
        {"vgg16_bn", 0.25007, 0.01003},
        {"resnet18", 0.25015, 0.01006},
        {"wrn_28_4", 0.25013, 0.01005},
        {"ResNet50", 0.27017, 0.01726},
    };
    (void)state;
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        struct net n = open_net(cases[i].arch, false);
        /* Five printed digits: half a unit of the last. */
        assert_near(hr_budget_target(n.m, &n.ls, HR_REG_CHANNEL, 0.5, false, HR_MEASURE_INOUT), cases[i].half,
                    5.001e-6);
        assert_near(hr_budget_target(n.m, &n.ls, HR_REG_CHANNEL, 0.1, false, HR_MEASURE_INOUT),
                    cases[i].tenth, 5.001e-6);
        assert_near(hr_budget_target(n.m, &n.ls, HR_REG_WEIGHT, 0.1, false, HR_MEASURE_MACS), 0.1, 1e-12);
        close_net(&n);
    }
}

static int layer_called(const struct net *n, const char *name)
{
    for (int i = 0; i < n->ls.n; i++)
        if (strcmp(n->ls.l[i].name, name) == 0)
            return i;
    fail_msg("no layer %s", name);
    return -1;
}

static void test_a_layer_is_read_by_the_next_one_across_shortcuts(void **state)
{
    static const char *const pairs[][2] = {
        {"conv1", "layer1.0.conv1"},
        {"layer1.0.conv1", "layer1.0.conv2"},
        {"layer1.0.conv2", "layer1.1.conv1"},
        {"layer1.1.conv2", "layer2.0.shortcut.0"},
        {"layer2.0.shortcut.0", "layer2.1.conv1"},
        {"layer2.0.conv2", "layer2.1.conv1"},
        {"layer4.1.conv2", "linear"},
    };
    (void)state;
    struct net n = open_net("resnet18", false);
    int reader[64];
    hr_layer_readers(n.m, &n.ls, reader);
    for (size_t i = 0; i < HR_COUNT(pairs); i++)
        assert_int_equal(reader[layer_called(&n, pairs[i][0])], layer_called(&n, pairs[i][1]));
    assert_int_equal(reader[layer_called(&n, "linear")], -1);
    close_net(&n);
}

static void test_budget_of_channels_is_the_sum_written_out(void **state)
{
    (void)state;
    struct net n = open_net("vgg2", false); /* conv 3-64, conv 64-64, linear 256-256-256-10 */
    assert_int_equal(n.ls.n, 5);
    double r[5] = {1, 0.5, 0.25, 0.5, 0.125};
    int64_t kept[5] = {3, 32, 64, 128, 32};
    hr_strategy s = {.reg = HR_REG_CHANNEL, .n = 5, .rate = r, .kept = kept};
    double f[5] = {1728, 36864, 65536, 65536, 2560}, all = 172224;
    hr_budget b = hr_budget_of(n.m, &n.ls, &s);
    assert_near(b.inout,
                (f[0] * 1 * .5 + f[1] * .5 * .25 + f[2] * .25 * .5 + f[3] * .5 * .125 + f[4] * .125) / all,
                1e-15);
    assert_near(b.masked, (f[0] + f[1] * .5 + f[2] * .25 + f[3] * .5 + f[4] * .125) / all, 1e-15);
    f[0] *= 1024, f[1] *= 256; /* 32x32 and 16x16 positions */
    all = f[0] + f[1] + f[2] + f[3] + f[4];
    assert_near(b.macs, (f[0] + f[1] * .5 + f[2] * .25 + f[3] * .5 + f[4] * .125) / all, 1e-15);
    close_net(&n);
}

/* ---- rules -------------------------------------------------------------------------------------------- */

static void test_uniform_keeps_image_channels_and_ties_shortcuts(void **state)
{
    (void)state;
    struct net n = open_net("resnet18", false);
    hr_strategy s = make(&n, "uniform:0.1", HR_REG_CHANNEL, HR_MEASURE_INOUT);
    assert_int_equal(s.kept[0], 3);
    assert_int_equal(s.kept[1], 6); /* 6.4 */
    assert_int_equal(s.kept[5], 6); /* the shortcut reads 64 channels too */
    assert_int_equal(s.kept[20], 51);
    assert_string_equal(s.id, "uniform:0.1");
    hr_strategy_release(&s);
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_strategy_make(&s, "uniform:1/10", HR_REG_CHANNEL, n.m, &n.ls, true, HR_MEASURE_INOUT, &err),
              err);
    assert_int_equal(s.kept[0], 1);
    assert_string_equal(s.id, "uniform:0.1");
    hr_strategy_release(&s);
    close_net(&n);
}

/* vgg2 by hand at K = 0.1: slopes (O+I+kh+kw)/n are 73/1728, 134/36864, 512/65536 twice, 266/2560. The budget
 * is 17222.4 weights. With the last layer dense (2560): x = (17222.4-2560)/(73+134+512+512) = 11.911; the
 * first layer's rate is then 0.503, no other reaches 1. */
static void test_erk_is_the_hand_computation(void **state)
{
    (void)state;
    struct net n = open_net("vgg2", false);
    hr_strategy s = make(&n, "erk:0.1", HR_REG_WEIGHT, HR_MEASURE_INOUT);
    double x = (17222.4 - 2560) / (73 + 134 + 512 + 512);
    const double want[5] = {73 * x, 134 * x, 512 * x, 512 * x, 2560};
    for (int i = 0; i < 5; i++)
        assert_near((double)s.kept[i], want[i], 1.0); /* rounding to whole weights, either way */
    assert_int_equal(total_kept(&s), 17222);
    hr_strategy_release(&s);
    close_net(&n);
}

static void test_uniform_plus_keeps_its_two_promises(void **state)
{
    (void)state;
    struct net n = open_net("vgg2", false);
    hr_strategy s = make(&n, "uniform+:0.1", HR_REG_WEIGHT, HR_MEASURE_INOUT);
    assert_int_equal(s.kept[0], 1728);
    assert_int_equal(s.kept[4], 512);
    assert_int_equal(total_kept(&s), 17222);
    for (int i = 1; i < 4; i++) /* the rest at one rate, up to whole weights */
        assert_near(s.rate[i], (17222.4 - 1728 - 512) / (36864 + 65536 + 65536), 1.0 / 36864);
    hr_strategy_release(&s);
    hr_err err = HR_ERR_INIT;
    assert_int_equal(
        hr_strategy_make(&s, "uniform+:0.01", HR_REG_WEIGHT, n.m, &n.ls, false, HR_MEASURE_INOUT, &err),
        HR_EINVAL); /* 1728 + 512 weights are 0.013 */
    assert_non_null(strstr(err.msg, "uniform+:0.01"));
    close_net(&n);
}

/* LAMP as defined: for every weight, its square over the sum of the squares of all weights of the layer that
 * are at least as large; O(n^2). Then the K*total best of all layers. */
static void test_lamp_is_its_definition(void **state)
{
    (void)state;
    hr_zoo_opts opts = {.c = 1, .h = 8, .w = 8};
    hr_err err = HR_ERR_INIT;
    struct net n;
    assert_ok(hr_zoo_build("resS", &opts, &n.m, &err), err);
    hr_zoo_init(n.m, 3);
    n.ls = hr_layers_of(n.m);
    int64_t total = 0, most = (int64_t)(0.1 * (double)n.ls.weights), at = 0;
    struct ranked *all = hr_xmalloc(sizeof *all * (size_t)n.ls.weights);
    for (int i = 0; i < n.ls.n; i++) {
        const float *w = weights_of(&n, i);
        int64_t c = n.ls.l[i].n < 5000 ? n.ls.l[i].n : 5000; /* the large layers are cut to save time ... */
        float *tail = (float *)w + c;
        memset(tail, 0, sizeof *tail * (size_t)(n.ls.l[i].n - c)); /* ... their rest is zero: never chosen */
        for (int64_t j = 0; j < n.ls.l[i].n; j++) {
            double sum = 0, square = (double)w[j] * w[j];
            for (int64_t k = 0; j < c && k < c; k++)
                sum += fabsf(w[k]) >= fabsf(w[j]) ? (double)w[k] * w[k] : 0;
            all[at++] = (struct ranked){sum > 0 ? (float)(square / sum) : 0, i};
        }
        total += n.ls.l[i].n;
    }
    qsort(all, (size_t)total, sizeof *all, by_score_then_index);
    int64_t *want = hr_xcalloc((size_t)n.ls.n, sizeof *want);
    for (int64_t j = 0; j < most; j++)
        want[all[j].index]++;
    hr_strategy s = make(&n, "lamp:0.1", HR_REG_WEIGHT, HR_MEASURE_INOUT);
    assert_int_equal(total_kept(&s), most);
    for (int i = 0; i < n.ls.n; i++) /* equal magnitudes and the order of the sum may move single weights */
        assert_near((double)s.kept[i], (double)want[i], 2);
    hr_strategy_release(&s);
    free(all);
    free(want);
    close_net(&n);
}

static void test_global_keeps_the_largest_weights_of_all(void **state)
{
    (void)state;
    struct net n = open_net("vgg2", true);
    hr_strategy s = make(&n, "global:0.05", HR_REG_WEIGHT, HR_MEASURE_INOUT);
    assert_int_equal(total_kept(&s), (int64_t)(0.05 * 172224));
    float least = INFINITY, most = 0; /* smallest kept, largest dropped, over layers that had a choice */
    for (int i = 0; i < n.ls.n; i++) {
        int64_t c = n.ls.l[i].n;
        struct ranked *r = hr_xmalloc(sizeof *r * (size_t)c);
        for (int64_t j = 0; j < c; j++)
            r[j] = (struct ranked){fabsf(weights_of(&n, i)[j]), j};
        qsort(r, (size_t)c, sizeof *r, by_score_then_index);
        if (s.kept[i] > 1)
            least = fminf(least, r[s.kept[i] - 1].score);
        if (s.kept[i] < c)
            most = fmaxf(most, r[s.kept[i]].score);
        free(r);
    }
    assert_true(least >= most);
    hr_strategy_release(&s);
    close_net(&n);
}

static void test_every_rule_meets_the_uniform_budget_in_every_measure(void **state)
{
    static const char *const specs[] = {"erk:0.3", "lamp:0.3", "global:0.3", "uniform+:0.3"};
    (void)state;
    struct net n = open_net("resS", true);
    for (int reg = 0; reg < 2; reg++) {
        for (int measure = 0; measure < 3; measure++) {
            double target =
                hr_budget_target(n.m, &n.ls, (enum hr_reg)reg, 0.3, false, (enum hr_measure)measure);
            for (size_t k = 0; k < HR_COUNT(specs); k++) {
                hr_strategy s = make(&n, specs[k], (enum hr_reg)reg, (enum hr_measure)measure);
                hr_budget b = hr_budget_of(n.m, &n.ls, &s);
                double cost = hr_budget_get(&b, (enum hr_measure)measure);
                assert_true(cost <= target * (1 + 1e-9));
                /* One more weight must not fit, or one more channel: the largest costs under 2 % here (64 of
                 * 64x64x9 weights; 16 channels on 14x14 positions cost more MACs each, 4 %). */
                assert_true(cost >= target * (reg == HR_REG_WEIGHT ? 0.999 : 0.95));
                if (reg == HR_REG_CHANNEL)
                    assert_int_equal(s.kept[0], n.ls.l[0].in);
                for (int i = 0; i < s.n; i++) {
                    assert_true(s.kept[i] >= 1 && s.kept[i] <= hr_score_count(&n.ls.l[i], s.reg));
                    if (reg == HR_REG_CHANNEL && n.ls.l[i].tie >= 0)
                        assert_int_equal(s.kept[i], s.kept[n.ls.l[i].tie]);
                }
                char *warning = NULL;
                hr_err err = HR_ERR_INIT;
                assert_ok(hr_strategy_verify(&s, n.m, &n.ls, false, (enum hr_measure)measure, 0.3, 0,
                                             &warning, &err),
                          err);
                assert_null(warning);
                hr_strategy_release(&s);
            }
        }
    }
    close_net(&n);
}

static void test_equal_scores_are_shared_out_and_no_layer_dies(void **state)
{
    (void)state;
    struct net n = open_net("vgg2", false); /* all weights zero */
    for (int k = 0; k < 2; k++) {
        hr_strategy s = make(&n, k ? "lamp:0.5" : "global:0.5", HR_REG_WEIGHT, HR_MEASURE_INOUT);
        assert_int_equal(total_kept(&s), 172224 / 2);
        for (int i = 0; i < s.n; i++)
            assert_true(s.kept[i] >= 1);
        hr_strategy_release(&s);
        s = make(&n, k ? "lamp:1" : "erk:1", HR_REG_WEIGHT, HR_MEASURE_INOUT);
        assert_int_equal(total_kept(&s), 172224);
        hr_strategy_release(&s);
    }
    close_net(&n);
}

/* ---- strategy files ----------------------------------------------------------------------------------- */

static void test_an_entry_survives_the_way_through_a_file(void **state)
{
    (void)state;
    struct net n = open_net("resS", true);
    for (int reg = 0; reg < 2; reg++) {
        hr_strategy s = make(&n, "erk:0.3", (enum hr_reg)reg, HR_MEASURE_INOUT), back, other;
        s.history = json_pack("{s:s}", "tool", "ddpg-search");
        json_t *file = json_pack("{s:{s:{s:o}}}", "resS", hr_reg_names[reg], "search-0",
                                 hr_strategy_json(&s, n.m, &n.ls));
        char *text = hr_json_text(file, 2), *path = write_file(text);
        back = make(&n, path, (enum hr_reg)reg, HR_MEASURE_INOUT);
        assert_memory_equal(back.kept, s.kept, sizeof *s.kept * (size_t)s.n);
        assert_memory_equal(back.rate, s.rate, sizeof *s.rate * (size_t)s.n);
        assert_string_equal(back.name, reg ? "resS/channel/search-0" : "resS/weight/search-0");
        assert_string_equal(back.id, "search-0");
        assert_true(json_equal(back.history, s.history));
        assert_int_equal(strlen(back.digest), 64);
        hr_budget b = hr_budget_of(n.m, &n.ls, &s);
        assert_near(back.claimed.inout, b.inout, 1e-14); /* 15 digits in the file */
        hr_err err = HR_ERR_INIT;
        assert_int_equal(
            hr_strategy_make(&other, path, (enum hr_reg) !reg, n.m, &n.ls, false, HR_MEASURE_INOUT, &err),
            HR_EINVAL);
        assert_non_null(strstr(err.msg, "pruning, not for"));
        hr_strategy_release(&s);
        hr_strategy_release(&back);
        json_decref(file);
        free(text);
        remove_file(path);
    }
    close_net(&n);
}

static void test_bad_strategy_files_are_refused_by_name(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[0.1", "not valid JSON"},
        {"", "not valid JSON"},
        {"[]", "holds no strategy"},
        {"{\"a\": {\"weight\": {}}}", "holds no strategy"},
        {"{\"a\": {\"filter\": {\"x\": [1]}}}", "expected ARCH/weight/ID or ARCH/channel/ID"},
        {"{\"a\": {\"weight\": {\"x\": [1], \"y\": [1]}}}", "holds 2 strategies"},
        {"{\"a\": {\"weight\": {\"x\": [1], \"x\": [1]}}}", "not valid JSON"},
        {"{\"a\": {\"weight\": {\"x\": 1}}}", "expected a list of rates or an object"},
        {"{\"a\": {\"weight\": {\"x\": [0.1, 0.1, 0.1, 0.1]}}}",
         "holds 4 rates, the network has 5 weight layers"},
        {"{\"a\": {\"weight\": {\"x\": [1, 1, 1, 1, 1, 1]}}}", "holds 6 rates"},
        {"{\"a\": {\"weight\": {\"x\": [1, 1, 0, 1, 1]}}}", "rate 3 is not"},
        {"{\"a\": {\"weight\": {\"x\": [1, 1.01, 1, 1, 1]}}}", "rate 2 is not"},
        {"{\"a\": {\"weight\": {\"x\": [1, 1, 1, 1, \"1\"]}}}", "rate 5 is not"},
        {"{\"a\": {\"weight\": {\"x\": [1, 1, 1, 1, NaN]}}}", "not valid JSON"},
        {"{\"a\": {\"weight\": {\"x\": {\"rates\": [1]}}}}", "expected lists"},
        {"{\"a\": {\"weight\": {\"x\": {\"layers\": [\"features.0\"], \"rates\": [1]}}}}", "holds 1 rates"},
        {"{\"a\": {\"weight\": {\"x\": {\"layers\": [\"features.0\", \"b\", \"c\", \"d\", \"e\"], "
         "\"rates\": [1, 1, 1, 1, 1]}}}}",
         "no weight layer 'b'"},
        {"{\"a\": {\"weight\": {\"x\": {\"layers\": [\"features.0\", \"features.0\", \"c\", \"d\", \"e\"], "
         "\"rates\": [1, 1, 1, 1, 1]}}}}",
         "'features.0' comes twice"},
        {"{\"a\": {\"weight\": {\"x\": {\"layers\": [\"features.0\", 7, \"c\", \"d\", \"e\"], "
         "\"rates\": [1, 1, 1, 1, 1]}}}}",
         "no weight layer"},
        {"{\"a\": {\"weight\": {\"x\": {\"layers\": [\"features.0\", \"b\", \"c\", \"d\", \"e\"], "
         "\"rates\": [0.5, 1, 1, 1, 1], \"kept\": [865, 1, 1, 1, 1]}}}}",
         "865 kept, but rate 0.5 of 1728 is 864"},
    };
    (void)state;
    struct net n = open_net("vgg2", false);
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        char *path = write_file(cases[i].text);
        hr_strategy s;
        hr_err err = HR_ERR_INIT;
        assert_int_not_equal(
            hr_strategy_make(&s, path, HR_REG_WEIGHT, n.m, &n.ls, false, HR_MEASURE_INOUT, &err), HR_OK);
        if (!strstr(err.msg, cases[i].message) || !strstr(err.msg, path))
            fail_msg("%s: got \"%s\", want \"%s\"", cases[i].text, err.msg, cases[i].message);
        assert_null(s.kept);
        remove_file(path);
    }
    close_net(&n);
}

static void test_bad_specs_are_refused(void **state)
{
    static const char *const bad[] = {"uniform:0",  "uniform:1.5", "erk:x",     "lamp:",  "foo:0.1",
                                      "",           "uniform:nan", "global:-1", ":a/b/c", "x:a/filter/id",
                                      "x:a/weight/"};
    hr_err err = HR_ERR_INIT;
    (void)state;
    for (size_t i = 0; i < HR_COUNT(bad); i++)
        assert_int_equal(hr_spec_check(bad[i], &err), HR_EINVAL);
    assert_ok(hr_spec_check("uniform+:1/3", &err), err);
    assert_ok(hr_spec_check("no:such:file:a/weight/search:0/1", &err), err);
    struct net n = open_net("vgg2", false);
    hr_strategy s;
    assert_int_equal(hr_strategy_make(&s, "/nowhere/s.json:a/weight/b", HR_REG_WEIGHT, n.m, &n.ls, false,
                                      HR_MEASURE_INOUT, &err),
                     HR_EIO);
    assert_non_null(strstr(err.msg, "/nowhere/s.json"));
    close_net(&n);
}

static void test_ids_claim_their_rates(void **state)
{
    (void)state;
    assert_near(hr_id_rate("010_0"), 0.1, 0);
    assert_near(hr_id_rate("001_uni"), 0.01, 0);
    assert_near(hr_id_rate("0001_erk"), 0.001, 0);
    assert_near(hr_id_rate("05_0_all"), 0.5, 0);
    assert_near(hr_id_rate("01"), 0.1, 0);
    assert_near(hr_id_rate("lamp:1/4"), 0.25, 0);
    assert_near(hr_id_rate("search-0"), 0, 0);
    assert_near(hr_id_rate("10_0"), 0, 0);
    assert_near(hr_id_rate("0_1"), 0, 0);
    assert_near(hr_id_rate("010x"), 0, 0);
}

static void test_claims_are_held_against_the_cost(void **state)
{
    static const struct {
        const char *entry; /* of vgg2, weight mode, at about 0.2 */
        double target;
        int rc;
        const char *says; /* message or warning */
    } cases[] = {
        {"\"010_0\": [0.2, 0.2, 0.2, 0.2, 0.2]", 0, HR_EINVAL, "it claims 0.1"},
        {"\"010_0\": [0.2, 0.2, 0.2, 0.2, 0.2]", 0.2, HR_OK, "it claims 0.1"},
        {"\"050_0\": [0.2, 0.2, 0.2, 0.2, 0.2]", 0, HR_OK, "it claims 0.5"},
        {"\"020_0\": [0.2, 0.2, 0.2, 0.2, 0.2]", 0, HR_OK, NULL},
        {"\"020_0\": [0.2, 0.2, 0.2, 0.2, 0.2]", 0.1, HR_EINVAL, "more than the budget of 0.1"},
        {"\"mine\": [0.2, 0.2, 0.2, 0.2, 0.2]", 0, HR_OK, NULL},
        {"\"mine\": {\"layers\": [\"classifier.4\", \"features.0\", \"features.3\", \"classifier.0\", "
         "\"classifier.2\"], \"rates\": [0.2, 0.2, 0.2, 0.2, 0.2], \"budget\": {\"inout\": 0.1}}",
         0, HR_EINVAL, "file entry claims 0.1"},
    };
    (void)state;
    struct net n = open_net("vgg2", false);
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        char *text = hr_xasprintf("{\"vgg2\": {\"weight\": {%s}}}", cases[i].entry), *path = write_file(text);
        hr_err err = HR_ERR_INIT;
        char *warning = NULL;
        hr_strategy s = make(&n, path, HR_REG_WEIGHT, HR_MEASURE_INOUT);
        int rc = hr_strategy_verify(&s, n.m, &n.ls, false, HR_MEASURE_INOUT, cases[i].target, 0.01, &warning,
                                    &err);
        const char *said = rc ? err.msg : warning;
        if (rc != cases[i].rc || !said != !cases[i].says || (said && !strstr(said, cases[i].says)))
            fail_msg("case %zu: returned %d with \"%s\"", i, rc, said ? said : "");
        free(warning);
        hr_strategy_release(&s);
        free(text);
        remove_file(path);
    }
    close_net(&n);
}

/* ---- published files ---------------------------------------------------------------------------------- */

static void check_erk_list(struct net *n, const char *file, const char *arch, const char *id,
                           const char *rule)
{
    char *spec = hr_xasprintf("%s:%s/weight/%s", file, arch, id);
    hr_strategy listed = make(n, spec, HR_REG_WEIGHT, HR_MEASURE_INOUT);
    hr_strategy ours = make(n, rule, HR_REG_WEIGHT, HR_MEASURE_INOUT);
    for (int i = 0; i < ours.n; i++) /* the published lists round up, ours share one total */
        assert_near((double)ours.kept[i], (double)listed.kept[i], 1.5);
    hr_strategy_release(&listed);
    hr_strategy_release(&ours);
    free(spec);
}

static void test_erk_is_the_published_list(void **state)
{
    char *file = reference("hydra-nonuniform/CIFAR10.json");
    (void)state;
    if (!file)
        skip();
    struct net n = open_net("vgg16_bn", false);
    check_erk_list(&n, file, "vgg16_bn", "010_erk", "erk:0.1");
    check_erk_list(&n, file, "vgg16_bn", "001_erk", "erk:0.01");
    close_net(&n);
    n = open_net("resnet18", false);
    check_erk_list(&n, file, "resnet18", "010_erk", "erk:0.1"); /* 001_erk is in torch's order */
    close_net(&n);
    free(file);
}

/* ALG 6.3, "Verification" and [Q45]. */
static void test_published_budgets_and_outliers(void **state)
{
    static const struct {
        const char *arch, *id;
        enum hr_reg reg;
        double low, high; /* inout */
        int rc;
    } cases[] = {
        {"vgg16_bn", "001_0", HR_REG_WEIGHT, 0.009995, 0.010005, HR_OK},
        {"wrn_28_4", "001_3", HR_REG_WEIGHT, 0.009995, 0.010005, HR_OK},
        {"vgg16_bn", "010_0", HR_REG_WEIGHT, 0, 0.10000, HR_OK},
        {"resnet18", "010_0", HR_REG_WEIGHT, 0.17475, 0.17485, HR_EINVAL},
        {"resnet18", "001_0", HR_REG_WEIGHT, 0.010545, 0.010555, HR_EINVAL},
        {"vgg16_bn", "05_0", HR_REG_CHANNEL, 0.2383, 0.2501, HR_OK},
        {"vgg16_bn", "05_4", HR_REG_CHANNEL, 0.2383, 0.2501, HR_OK},
    };
    char *file = reference("heracles/CIFAR10.json");
    (void)state;
    if (!file)
        skip();
    for (size_t i = 0; i < HR_COUNT(cases); i++) {
        struct net n = open_net(cases[i].arch, false);
        char *spec =
            hr_xasprintf("%s:%s/%s/%s", file, cases[i].arch, hr_reg_names[cases[i].reg], cases[i].id);
        hr_strategy s = make(&n, spec, cases[i].reg, HR_MEASURE_INOUT);
        hr_budget b = hr_budget_of(n.m, &n.ls, &s);
        if (!(b.inout >= cases[i].low && b.inout <= cases[i].high))
            fail_msg("%s costs %.6f", s.name, b.inout);
        if (cases[i].reg == HR_REG_CHANNEL) /* ALG 6.3 (c): what the masks leave is far more */
            assert_true(b.masked > 0.44 && b.masked < 0.54);
        hr_err err = HR_ERR_INIT;
        char *warning = NULL;
        assert_int_equal(hr_strategy_verify(&s, n.m, &n.ls, false, HR_MEASURE_INOUT, 0, 0.01, &warning, &err),
                         cases[i].rc);
        free(warning);
        hr_strategy_release(&s);
        free(spec);
        close_net(&n);
    }
    free(file);
}

/* The published accounting never updates a shortcut and counts it at the lower bound, squared [Q2]. With that
 * the published ResNet strategies meet 0.2501 (ALG 6.3) up to the rounding of the last channel count, under
 * 1e-4; counted as they are carried out they exceed it by up to 4 %. */
static void test_published_resnets_meet_their_budget_only_without_shortcuts(void **state)
{
    char *file = reference("heracles/CIFAR10.json");
    (void)state;
    if (!file)
        skip();
    struct net n = open_net("resnet18", false);
    int reader[64];
    hr_layer_readers(n.m, &n.ls, reader);
    for (int id = 0; id < 5; id++) {
        char *spec = hr_xasprintf("%s:resnet18/channel/05_%d", file, id);
        hr_strategy s = make(&n, spec, HR_REG_CHANNEL, HR_MEASURE_INOUT);
        double sound = hr_budget_of(n.m, &n.ls, &s).inout, published = sound;
        for (int i = 0; i < n.ls.n; i++)
            if (n.ls.l[i].tie >= 0)
                published +=
                    (0.1 * 0.1 - s.rate[i] * s.rate[reader[i]]) * (double)n.ls.l[i].n / (double)n.ls.weights;
        if (!(published <= 0.25025 && sound > published && sound < 0.2502 * 1.04))
            fail_msg("%s: %.5f as published, %.5f as carried out", s.name, published, sound);
        hr_strategy_release(&s);
        free(spec);
    }
    close_net(&n);
    free(file);
}

/* ---- models ------------------------------------------------------------------------------------------- */

static void test_masks_are_written_and_pruned_weights_are_zero(void **state)
{
    (void)state;
    struct net n = open_net("resS", true);
    for (int reg = 0; reg < 2; reg++) {
        hr_strategy s = make(&n, "uniform:0.25", (enum hr_reg)reg, HR_MEASURE_INOUT);
        hr_budget b = hr_budget_of(n.m, &n.ls, &s);
        hr_err err = HR_ERR_INIT;
        hr_model *m = hr_model_copy(n.m);
        hr_model_set_strategy(m, &n.ls, &s, false, HR_SCORE_L1);
        assert_ok(hr_model_check(m, "planned", &err), err);
        assert_near(hr_model_density(m, &n.ls), 1, 0);
        assert_int_equal(m->prune[n.ls.l[1].node].kept, s.kept[1]);
        assert_false(m->prune[n.ls.l[1].node].active);
        hr_model_set_strategy(m, &n.ls, &s, true, HR_SCORE_L1);
        assert_ok(hr_model_check(m, "active", &err), err);
        assert_near(hr_model_density(m, &n.ls), b.masked, 1e-12);
        hr_model_zero_pruned(m, &n.ls);
        for (int i = 0; i < n.ls.n; i++) {
            const hr_layer *l = &n.ls.l[i];
            float *mult = hr_xmalloc(sizeof *mult * (size_t)l->n);
            const hr_tensor *mask = hr_model_node_tensor(m, l->node, "mask");
            const float *w = hr_tensor_f32(&m->tensors[m->nodes[l->node].param[HR_P_WEIGHT]]);
            hr_mask_expand(mask->data, l, s.reg, mult);
            int64_t ones = 0;
            for (int64_t k = 0; k < l->n; k++) {
                ones += mult[k] != 0;
                assert_true(mult[k] != 0 ? w[k] == weights_of(&n, i)[k] : w[k] == 0 && !signbit(w[k]));
            }
            assert_int_equal(ones, s.kept[i] * (l->n / hr_score_count(l, s.reg)));
            free(mult);
        }
        hr_model_set_strategy(m, &n.ls, &s, false, HR_SCORE_L1); /* planning again drops the masks */
        assert_null(hr_model_node_tensor(m, n.ls.l[0].node, "mask"));
        assert_ok(hr_model_check(m, "planned again", &err), err);
        hr_model_free(m);
        hr_strategy_release(&s);
    }
    close_net(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_rounds_half_to_even_and_keeps_at_least_one),
        cmocka_unit_test(test_topk_is_sorting_with_ties_to_the_lower_index),
        cmocka_unit_test(test_topk_of_many_is_sorting_too),
        cmocka_unit_test(test_topk_orders_zeros_infinities_and_nan),
        cmocka_unit_test(test_scores_and_masks_follow_input_channels),
        cmocka_unit_test(test_channel_targets_are_the_published_ones),
        cmocka_unit_test(test_a_layer_is_read_by_the_next_one_across_shortcuts),
        cmocka_unit_test(test_budget_of_channels_is_the_sum_written_out),
        cmocka_unit_test(test_uniform_keeps_image_channels_and_ties_shortcuts),
        cmocka_unit_test(test_erk_is_the_hand_computation),
        cmocka_unit_test(test_uniform_plus_keeps_its_two_promises),
        cmocka_unit_test(test_lamp_is_its_definition),
        cmocka_unit_test(test_global_keeps_the_largest_weights_of_all),
        cmocka_unit_test(test_every_rule_meets_the_uniform_budget_in_every_measure),
        cmocka_unit_test(test_equal_scores_are_shared_out_and_no_layer_dies),
        cmocka_unit_test(test_an_entry_survives_the_way_through_a_file),
        cmocka_unit_test(test_bad_strategy_files_are_refused_by_name),
        cmocka_unit_test(test_bad_specs_are_refused),
        cmocka_unit_test(test_ids_claim_their_rates),
        cmocka_unit_test(test_claims_are_held_against_the_cost),
        cmocka_unit_test(test_erk_is_the_published_list),
        cmocka_unit_test(test_published_budgets_and_outliers),
        cmocka_unit_test(test_published_resnets_meet_their_budget_only_without_shortcuts),
        cmocka_unit_test(test_masks_are_written_and_pruned_weights_are_zero),
    };
    return cmocka_run_group_tests_name("prune", tests, NULL, NULL);
}
