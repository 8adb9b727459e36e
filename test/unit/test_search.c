/* test/unit/test_search.c -- budget wall, state, networks and replay of the search.
 *
 * Reference vectors are those of the published program for vgg16_bn and resnet18 (double arithmetic, rates in
 * float32). The sound mode has vectors worked out by hand here, and properties over random networks. */
#include "unit.h"

#include "model/model.h"
#include "prune/prune.h"
#include "search/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- spaces ------------------------------------------------------------------------------------------ */

static void zoo_space(hr_space *s, const char *arch, bool channel)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = NULL;
    hr_zoo_opts opts = {0};
    assert_ok(hr_zoo_build(arch, &opts, &m, &err), err);
    json_t *table = hr_layers_json(m);
    assert_ok(hr_space_parse(s, table, arch, channel, false, &err), err);
    json_decref(table);
    hr_model_free(m);
}

static json_t *layer_json(const char *name, int in, int out, int kernel, int side, const char *tie, int torch)
{
    int64_t n = (int64_t)in * out * kernel * kernel;
    return json_pack("{s:s, s:s, s:i, s:i, s:[i,i], s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:s?, s:i}", "name",
                     name, "op", kernel == 1 && side == 1 ? "linear" : "conv2d", "in", in, "out", out,
                     "kernel", kernel, kernel, "stride", 1, "hin", side, "win", side, "hout", side, "wout",
                     side, "weights", (json_int_t)n, "macs", (json_int_t)(n * side * side), "tie", tie,
                     "torch_index", torch);
}

static json_t *table_json(json_t *layers)
{
    return json_pack("{s:s, s:[i,i,i], s:i, s:o}", "arch", "toy", "input", 1, 8, 8, "classes", 10, "layers",
                     layers);
}

static void space_of(hr_space *s, json_t *layers, bool channel, bool prune_first)
{
    hr_err err = HR_ERR_INIT;
    json_t *table = table_json(layers);
    assert_ok(hr_space_parse(s, table, "toy", channel, prune_first, &err), err);
    json_decref(table);
}

static double play(hr_wall *w, double u)
{
    hr_wall_reset(w);
    while (w->decided < w->s->nd)
        hr_wall_step(w, u);
    hr_wall_finish(w);
    return hr_wall_cost(w) / w->total;
}

/* ---- the reference ----------------------------------------------------------------------------------- */

/* Published vectors are printed with 7 digits: half a unit of the last one. */
static void assert_rates(const hr_wall *w, const double *want)
{
    for (int d = 0; d < w->s->nd; d++)
        assert_near(w->r[d], want[d], 0.5e-7 * (want[d] >= 0.1 ? 1 : want[d] >= 0.01 ? 0.11 : 0.011) * 1.05);
}

static void reference_case(const char *arch, bool channel, double rate, double lb, double ub, double u,
                           const double *want, double cost)
{
    hr_space s;
    hr_wall w;
    hr_err err = HR_ERR_INIT;
    zoo_space(&s, arch, channel);
    assert_ok(hr_wall_init(&w, &s, true, HR_ACTION_LINEAR, HR_COST_INOUT, rate, lb, ub, &err), err);
    double got = play(&w, u);
    assert_rates(&w, want);
    if (cost > 0)
        assert_near(got, cost, 0.6e-6); /* printed with 6 decimals */
    hr_wall_release(&w);
    hr_space_release(&s);
}

static void test_reference_wall_matches_published_vgg16_weight(void **state)
{
    (void)state;
    const double u1[16] = {.7997685,  .7999946,  .7999946,   .8000014,  .8000014,  .7999997,
                           .7999997,  .01604546, .01000002,  .01000002, .01000002, .01000002,
                           .01000002, .01000023, .009994507, .01015625};
    const double u5[16] = {.4050926,  .4050022,  .4050022,   .4050022,  .4049988,  .4050005,
                           .4050005,  .4049996,  .1058896,   .01000002, .01000002, .01000002,
                           .01000002, .01000023, .009994507, .01015625};
    reference_case("vgg16_bn", false, 0.1, 0.01, 0.8, 1, u1, 1530285.0 / 15302848);
    reference_case("vgg16_bn", false, 0.1, 0.01, 0.8, 0.5, u5, 0);
}

static void test_reference_wall_matches_published_channels(void **state)
{
    (void)state;
    const double vgg[16] = {1, 1,        1,         1,         1,         1,        1,        1,
                            1, .3222656, .09960938, .09960938, .09960938, .1010742, .1015625, .1015625};
    double res1[18], res5[18];
    for (int i = 0; i < 18; i++) {
        res1[i] = i < 13 ? 1 : .09960938;
        res5[i] = i == 0 ? 1 : i < 10 ? .546875 : .5507812;
    }
    res1[13] = .8046875;
    res1[14] = .109375;
    res5[17] = .1347656;
    reference_case("vgg16_bn", true, 0.5, 0.1, 1, 1, vgg, .250079);
    reference_case("resnet18", true, 0.5, 0.1, 1, 1, res1, .250175);
    reference_case("resnet18", true, 0.5, 0.1, 1, 0.5, res5, .250067);
}

/* Effective channel targets, ALG 6.3. */
static void test_channel_targets_match_published(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        double half, tenth;
    } want[] = {{"vgg16_bn", .25007, .01003},
                {"resnet18", .25015, .01006},
                {"wrn_28_4", .25013, .01005},
                {"ResNet50", .27017, .01726}};
    for (size_t i = 0; i < HR_COUNT(want); i++) {
        hr_space s;
        zoo_space(&s, want[i].arch, true);
        double f = hr_space_total(&s, HR_COST_INOUT);
        assert_near(hr_space_budget(&s, HR_COST_INOUT, 0.5) / f, want[i].half, 0.6e-5);
        assert_near(hr_space_budget(&s, HR_COST_INOUT, 0.1) / f, want[i].tenth, 0.6e-5);
        hr_space_release(&s);
    }
}

static void test_reference_state_matches_published_rows(void **state)
{
    (void)state;
    static const struct {
        int row;
        double raw[8], norm[8];
    } want[] = {{0, {0, 3, 64, 32, 32, 1, 3, 1728}, {0, 0, .1076, 1, 1, .5, 1, 0}},
                {2, {2, 64, 128, 32, 32, 2, 3, 73728}, {.1333, .0298, .2351, 1, 1, 1, 1, .0305}},
                {13, {13, 2048, 256, 2, 2, 0, 1, 524288}, {.8667, 1, .49, .0323, .0323, 0, 0, .2217}},
                {15, {15, 256, 10, 1, 1, 0, 1, 2560}, {1, .1237, 0, 0, 0, 0, 0, .0004}}};
    hr_space s;
    hr_state st;
    zoo_space(&s, "vgg16_bn", false);
    hr_state_init(&st, &s, true);
    for (size_t i = 0; i < HR_COUNT(want); i++)
        for (int c = 0; c < 8; c++) {
            size_t at = (size_t)want[i].row * HR_STATE_FIXED + (size_t)c;
            assert_near(st.raw[at], want[i].raw[c], 0);
            assert_near(st.fixed[at], want[i].norm[c], 0.5e-4 + 1e-9); /* printed with 4 decimals */
        }
    hr_state_release(&st);
    hr_space_release(&s);
}

/* Columns 8 to 10 of vgg16_bn in weight mode: at the start nothing is saved, 1 came before, and all but layer
 * 0 is to come; after layer 0 at rate r, F_0 (1 - r) is saved. */
static void test_reference_state_moves_with_the_episode(void **state)
{
    (void)state;
    hr_space s;
    hr_wall w;
    hr_state st;
    hr_err err = HR_ERR_INIT;
    float obs[HR_STATE];
    zoo_space(&s, "vgg16_bn", false);
    hr_state_init(&st, &s, true);
    assert_ok(hr_wall_init(&w, &s, true, HR_ACTION_LINEAR, HR_COST_INOUT, 0.1, 0.01, 0.8, &err), err);
    hr_state_row(&st, &w, 0, obs);
    assert_near(obs[8], 0, 0);
    assert_near(obs[9], (15302848.0 - 1728) / 15302848, 1e-7);
    assert_near(obs[10], 1, 0);
    double r = hr_wall_step(&w, 0.3);
    hr_state_row(&st, &w, 1, obs);
    assert_near(obs[0], 1.0 / 15, 1e-7);
    assert_near(obs[8], 1728 * (1 - r) / 15302848, 1e-10);
    assert_near(obs[9], (15302848.0 - 1728 - 36864) / 15302848, 1e-7);
    assert_near(obs[10], r, 1e-7);
    hr_wall_release(&w);
    hr_space_release(&s);

    /* Channel mode decides row 1 first, but the published program shows it row 0. */
    zoo_space(&s, "vgg16_bn", true);
    st.s = &s;
    assert_ok(hr_wall_init(&w, &s, true, HR_ACTION_LINEAR, HR_COST_INOUT, 0.5, 0.1, 1, &err), err);
    hr_state_row(&st, &w, w.decided, obs);
    assert_near(obs[0], 0, 0);
    hr_state st2;
    hr_state_init(&st2, &s, false);
    hr_state_row(&st2, &w, w.decided, obs);
    assert_near(obs[0], 1.0 / 15, 1e-7);
    hr_state_release(&st);
    hr_state_release(&st2);
    hr_wall_release(&w);
    hr_space_release(&s);
}

/* ---- the sound mode ---------------------------------------------------------------------------------- */

/* A stem, a block with a shortcut, and a classifier: everything that in x out counting has to get right. */
static json_t *block_layers(void)
{
    json_t *l = json_array();
    json_array_append_new(l, layer_json("stem", 1, 4, 3, 8, NULL, 0));       /*  36 weights, 2304 MACs */
    json_array_append_new(l, layer_json("short", 4, 8, 1, 4, "b.conv1", 3)); /*  32,  512 */
    json_array_append_new(l, layer_json("b.conv1", 4, 8, 3, 4, NULL, 1));    /* 288, 4608 */
    json_array_append_new(l, layer_json("b.conv2", 8, 8, 3, 4, NULL, 2));    /* 576, 9216 */
    json_array_append_new(l, layer_json("fc", 8, 10, 1, 1, NULL, 4));        /*  80,   80 */
    return l;
}

/* One less than the least number is no number: it must not become the greatest. */
static void test_a_torch_index_that_follows_nothing_is_refused(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_space s;
    json_t *layers = block_layers(), *table = table_json(layers);
    json_object_set_new(json_array_get(layers, 1), "torch_index", json_integer(INT64_MIN));
    json_object_set_new(json_array_get(layers, 3), "torch_index", json_integer(INT64_MAX));
    assert_int_equal(hr_space_parse(&s, table, "toy", true, false, &err), HR_EFORMAT);
    assert_string_equal(err.msg, "toy: not a layer table: layer 'short': \"torch_index\" does not follow its "
                                 "block's last layer");
    hr_space_release(&s);
    json_decref(table);
}

/* The search and maskapply must mean the same by a budget: ours knows the table, theirs the graph. */
static void test_budgets_agree_with_those_of_the_pruner(void **state)
{
    (void)state;
    static const char *const archs[] = {"resS", "vgg16_bn", "resnet18", "wrn_28_4", "ResNet50"};
    hr_rng rng = {.seed = 4, .stream = HR_STREAM_TEST};
    hr_err err = HR_ERR_INIT;
    for (size_t i = 0; i < HR_COUNT(archs); i++)
        for (int channel = 0; channel < 2; channel++) {
            hr_model *m = NULL;
            hr_zoo_opts opts = {0};
            hr_space s;
            assert_ok(hr_zoo_build(archs[i], &opts, &m, &err), err);
            hr_layers ls = hr_layers_of(m);
            json_t *table = hr_layers_json(m);
            assert_ok(hr_space_parse(&s, table, archs[i], channel, false, &err), err);
            enum hr_reg reg = channel ? HR_REG_CHANNEL : HR_REG_WEIGHT;
            assert_int_equal(s.n, ls.n);
            assert_int_equal(s.nd, channel ? ls.channel_n : ls.n);
            double *rate = hr_xmalloc((size_t)s.nd * sizeof *rate);
            hr_strategy st = {.reg = reg, .n = ls.n};
            st.rate = hr_xmalloc((size_t)ls.n * sizeof *st.rate);
            for (int d = 0; d < s.nd; d++)
                rate[d] = d < s.first ? 1 : hr_rng_double(&rng);
            for (int k = 0; k < ls.n; k++)
                st.rate[k] = rate[channel ? ls.l[k].channel_index : k];
            hr_budget b = hr_budget_of(m, &ls, &st);
            for (int measure = 0; measure < 3; measure++) {
                enum hr_cost_kind ours = (enum hr_cost_kind)measure;
                enum hr_measure theirs = (enum hr_measure)measure;
                double total = hr_space_total(&s, ours);
                assert_string_equal(hr_cost_names[measure], hr_measure_names[measure]);
                assert_near(hr_space_cost(&s, ours, rate) / total, hr_budget_get(&b, theirs), 1e-12);
                assert_near(hr_space_budget(&s, ours, 0.3) / total,
                            hr_budget_target(m, &ls, reg, 0.3, false, theirs), 1e-12);
            }
            free(st.rate);
            free(rate);
            hr_space_release(&s);
            json_decref(table);
            hr_layers_release(&ls);
            hr_model_free(m);
        }
}

static void test_shortcuts_are_counted_with_the_rates_they_get(void **state)
{
    (void)state;
    hr_space s;
    space_of(&s, block_layers(), true, false);
    assert_int_equal(s.n, 5);
    assert_int_equal(s.nd, 4); /* stem, conv1, conv2, fc */
    assert_int_equal(s.first, 1);
    const double r[4] = {1, 0.5, 0.25, 0.75};
    /* in x out: stem 1*.5, shortcut .5*.75 (reads with conv1, is read with conv2 by fc), conv1 .5*.25,
     * conv2 .25*.75, fc .75*1 */
    assert_near(hr_space_cost(&s, HR_COST_INOUT, r),
                36 * .5 + 32 * .5 * .75 + 288 * .5 * .25 + 576 * .25 * .75 + 80 * .75, 1e-9);
    assert_near(hr_space_cost(&s, HR_COST_MASKED, r), 36 + 32 * .5 + 288 * .5 + 576 * .25 + 80 * .75, 1e-9);
    assert_near(hr_space_cost(&s, HR_COST_MACS, r), 2304 + 512 * .5 + 4608 * .5 + 9216 * .25 + 80 * .75,
                1e-9);
    assert_near(hr_space_budget(&s, HR_COST_INOUT, .5), 36 * .5 + (32 + 288 + 576) * .25 + 80 * .5, 1e-9);
    assert_near(hr_space_budget(&s, HR_COST_MASKED, .5), 36 + (32 + 288 + 576 + 80) * .5, 1e-9);
    hr_space_release(&s);

    space_of(&s, block_layers(), false, false);
    assert_int_equal(s.nd, 5);
    const double q[5] = {1, .5, .25, .75, .125};
    assert_near(hr_space_cost(&s, HR_COST_INOUT, q), 36 + 16 + 72 + 432 + 10, 1e-9);
    hr_space_release(&s);
}

/* Two layers of 100 weights each and a third of 200, half of 400 to keep: by hand.
 * lb 0.1, ub 0.9: least 10, 10, 20; most 90, 90, 180.
 * u = 1: 90 (upper wall 170), then 90 (upper wall 200-90-20 = 90), then the lower wall asks for all of the
 *        20 that are left.
 * u = 0: 10 (lower wall: others at most 270, so 10 is enough), 10 (lower wall 200-10-180 = 10), then 180.
 * With ub 0.5 everything must be at its most: the lower wall lifts every action. */
static void test_sound_wall_by_hand(void **state)
{
    (void)state;
    hr_space s;
    hr_wall w;
    hr_err err = HR_ERR_INIT;
    json_t *l = json_array();
    json_array_append_new(l, layer_json("a", 10, 10, 1, 1, NULL, 0));
    json_array_append_new(l, layer_json("b", 10, 10, 1, 1, NULL, 1));
    json_array_append_new(l, layer_json("c", 10, 20, 1, 1, NULL, 2));
    space_of(&s, l, false, false);
    assert_ok(hr_wall_init(&w, &s, false, HR_ACTION_LINEAR, HR_COST_INOUT, 0.5, 0.1, 0.9, &err), err);
    const int64_t high[3] = {90, 90, 20}, low[3] = {10, 10, 180}, mid[3] = {50, 50, 100};
    assert_near(play(&w, 1), 0.5, 0);
    assert_memory_equal(w.kept, high, sizeof high);
    assert_near(play(&w, 0), 0.5, 0);
    assert_memory_equal(w.kept, low, sizeof low);
    hr_wall_release(&w);

    assert_ok(hr_wall_init(&w, &s, false, HR_ACTION_LINEAR, HR_COST_INOUT, 0.5, 0.1, 0.5, &err), err);
    assert_near(play(&w, 0), 0.5, 0);
    assert_memory_equal(w.kept, mid, sizeof mid);
    hr_wall_release(&w);

    /* Log actions ask for proportions between the bounds: 0.3 in the middle of 0.1 and 0.9, so 30, 90 and 20.
     * 120 may be kept and 20 is the least of the last layer: 30c + 90c + 20 = 120, c = 5/6. */
    assert_ok(hr_wall_init(&w, &s, false, HR_ACTION_LOG, HR_COST_INOUT, 0.3, 0.1, 0.9, &err), err);
    const int64_t scaled[3] = {25, 75, 20};
    hr_wall_reset(&w);
    assert_near(hr_wall_step(&w, 0.5), 0.3, 1e-12);
    hr_wall_step(&w, 1);
    hr_wall_step(&w, 0);
    hr_wall_finish(&w);
    assert_memory_equal(w.kept, scaled, sizeof scaled);
    assert_near(hr_wall_unmap(&w, 0.3), 0.5, 1e-12);
    assert_near(hr_wall_unmap(&w, 0.9), 1, 1e-12);
    assert_near(hr_wall_unmap(&w, 0.05), 0, 1e-12);
    hr_wall_release(&w);

    /* Where a sixth of the target is above the lower bound, it is the least that is asked for. */
    assert_ok(hr_wall_init(&w, &s, false, HR_ACTION_LOG, HR_COST_INOUT, 0.6, 0.01, 1, &err), err);
    hr_wall_reset(&w);
    assert_near(hr_wall_step(&w, 0), 0.1, 1e-12);
    assert_near(w.ask[0], 0.1, 1e-12);
    assert_near(hr_wall_unmap(&w, 1), 1, 1e-12);
    hr_wall_release(&w);
    hr_space_release(&s);
}

static void test_impossible_budgets_are_refused_before_the_search(void **state)
{
    (void)state;
    hr_space s;
    hr_wall w;
    hr_err err = HR_ERR_INIT;
    zoo_space(&s, "resS", false);
    for (int ref = 0; ref < 2; ref++) {
        assert_int_equal(hr_wall_init(&w, &s, ref, HR_ACTION_LINEAR, HR_COST_INOUT, 0.01, 0.05, 0.8, &err),
                         HR_EINVAL);
        assert_non_null(strstr(err.msg, "cannot be met"));
        hr_wall_release(&w);
    }
    assert_int_equal(hr_wall_init(&w, &s, false, HR_ACTION_LINEAR, HR_COST_INOUT, 0.5, 0.05, 0.4, &err),
                     HR_EINVAL);
    assert_non_null(strstr(err.msg, "cannot be used up"));
    hr_wall_release(&w);
    hr_space_release(&s);
}

/* Random chains of layers, some with a block and its shortcut. */
static void random_space(hr_space *s, hr_rng *rng, bool channel)
{
    json_t *l = json_array();
    int width = 1 + (int)hr_rng_below(rng, 4), torch = 0, blocks = 1 + (int)hr_rng_below(rng, 6);
    for (int b = 0; b < blocks; b++) {
        int out = 1 + (int)hr_rng_below(rng, 40), side = 1 + (int)hr_rng_below(rng, 6);
        char name[3][16];
        for (int i = 0; i < 3; i++)
            snprintf(name[i], sizeof name[i], "b%d.%d", b, i);
        bool block = b > 0 && hr_rng_below(rng, 2);
        if (block)
            json_array_append_new(l, layer_json(name[0], width, out, 1, side, name[1], torch + 2));
        json_array_append_new(l, layer_json(name[1], width, out, 3, side, NULL, torch));
        json_array_append_new(l, layer_json(name[2], out, out, 3, side, NULL, torch + 1));
        torch += 2 + block;
        width = out;
    }
    json_array_append_new(l, layer_json("fc", width, 10, 1, 1, NULL, torch));
    space_of(s, l, channel, hr_rng_below(rng, 2));
}

/* What a wall made it takes back as it is, in either scale of actions; what is too much or too little is
 * brought to the budget, and comes as near as bounds allow: never a bare count outside them. */
static void test_a_strategy_that_costs_the_budget_is_taken_as_it_is(void **state)
{
    (void)state;
    hr_rng rng = {.seed = 9, .stream = HR_STREAM_TEST};
    hr_err err = HR_ERR_INIT;
    int taken = 0;
    for (int net = 0; net < 100; net++) {
        hr_space s;
        hr_wall w;
        random_space(&s, &rng, net % 2);
        enum hr_cost_kind measure = (enum hr_cost_kind)hr_rng_below(&rng, 3);
        enum hr_action action = (enum hr_action)hr_rng_below(&rng, 2);
        double rate = 0.05 + 0.5 * hr_rng_double(&rng);
        if (hr_wall_init(&w, &s, false, action, measure, rate, rate / 4, 1, &err) == HR_OK) {
            int64_t *kept = hr_xcalloc((size_t)s.nd, sizeof *kept);
            double *r = hr_xcalloc((size_t)s.nd, sizeof *r);
            hr_wall_reset(&w);
            while (w.decided < s.nd)
                hr_wall_step(&w, hr_rng_double(&rng));
            hr_wall_finish(&w);
            memcpy(kept, w.kept, (size_t)s.nd * sizeof *kept);
            memcpy(r, w.r, (size_t)s.nd * sizeof *r);
            hr_wall_take(&w, r);
            assert_memory_equal(w.kept, kept, (size_t)s.nd * sizeof *kept);
            for (int d = 0; d < s.nd; d++)
                r[d] = hr_rng_double(&rng); /* costs anything */
            hr_wall_take(&w, r);
            assert_true(hr_wall_cost(&w) <= w.budget * (1 + 1e-9));
            for (int d = 0; d < s.nd; d++)
                assert_true(w.kept[d] >= w.least[d] && w.kept[d] <= w.most[d]);
            taken++;
            free(kept);
            free(r);
        }
        hr_wall_release(&w);
        hr_space_release(&s);
    }
    assert_true(taken > 50);
}

/* The cheapest step that the bounds still allow, in the wall's measure; 0 when every layer is at its most. */
static double cheapest_increment(hr_wall *w)
{
    double least = 0, before = hr_wall_cost(w);
    for (int d = w->s->first; d < w->s->nd; d++) {
        if (w->kept[d] == w->most[d])
            continue;
        w->kept[d]++;
        double step = hr_wall_cost(w) - before;
        w->kept[d]--;
        least = least > 0 && least < step ? least : step;
    }
    return least;
}

static void test_budget_holds_and_is_used_up_whatever_is_asked(void **state)
{
    (void)state;
    hr_rng rng = {.seed = 3, .stream = HR_STREAM_TEST};
    hr_err err = HR_ERR_INIT;
    int played = 0;
    for (int net = 0; net < 300; net++) {
        hr_space s;
        hr_wall w;
        random_space(&s, &rng, net % 2);
        enum hr_cost_kind measure = (enum hr_cost_kind)hr_rng_below(&rng, 3);
        enum hr_action action = (enum hr_action)hr_rng_below(&rng, 2);
        double rate = 0.02 + 0.6 * hr_rng_double(&rng), lb = rate * hr_rng_double(&rng);
        double ub = rate + (1 - rate) * hr_rng_double(&rng);
        if (hr_wall_init(&w, &s, false, action, measure, rate, lb, ub, &err) == HR_OK) {
            for (int e = 0; e < 20; e++, played++) {
                int kind = (int)hr_rng_below(&rng, 4);
                hr_wall_reset(&w);
                while (w.decided < s.nd) {
                    hr_wall_step(&w, kind == 0 ? 0 : kind == 1 ? 1 : hr_rng_double(&rng));
                    /* with what is undecided at its least; log actions are scaled in the end */
                    assert_true(action == HR_ACTION_LOG || hr_wall_cost(&w) <= w.budget * (1 + 1e-9));
                }
                hr_wall_finish(&w);
                double cost = hr_space_cost(&s, measure, w.r), slack = w.budget - cost;
                assert_near(cost, hr_wall_cost(&w), 1e-9 * w.total);
                assert_true(cost <= w.budget * (1 + 1e-9));
                double step = cheapest_increment(&w);
                assert_true(slack <= 0.001 * w.budget || slack < step * (1 + 1e-9));
                for (int d = 0; d < s.nd; d++)
                    assert_true(w.kept[d] >= 1 && w.kept[d] >= w.least[d] && w.kept[d] <= w.most[d]);
                for (int d = 0; d < s.first; d++)
                    assert_int_equal(w.kept[d], s.count[d]);
            }
        }
        hr_wall_release(&w);
        hr_space_release(&s);
    }
    assert_true(played > 1000); /* most random budgets are possible */
}

/* Same toy block, channel mode: the row of the layer that is decided, with its own size, stride and cost. */
static void test_sound_state_describes_the_layer_decided(void **state)
{
    (void)state;
    hr_space s;
    hr_wall w;
    hr_state st;
    hr_err err = HR_ERR_INIT;
    float obs[HR_STATE];
    space_of(&s, block_layers(), true, false);
    hr_state_init(&st, &s, false);
    const double raw[4][8] = {{0, 1, 4, 8, 8, 1, 3, 36},
                              {1, 4, 8, 4, 4, 1, 3, 288},
                              {2, 8, 8, 4, 4, 1, 3, 576},
                              {3, 8, 10, 1, 1, 1, 1, 80}};
    for (int d = 0; d < 4; d++)
        for (int c = 0; c < 8; c++)
            assert_near(st.raw[d * 8 + c], raw[d][c], 0);
    assert_ok(hr_wall_init(&w, &s, false, HR_ACTION_LINEAR, HR_COST_MASKED, 0.5, 0.1, 1, &err), err);
    hr_state_row(&st, &w, 1, obs); /* conv1 and the shortcut are being decided; conv2 and fc are to come */
    assert_near(obs[0], 1.0 / 3, 1e-7);
    assert_near(obs[5], 1, 0); /* constant columns are left alone */
    assert_near(obs[8], 0, 0);
    assert_near(obs[9], (576.0 + 80) / 1012, 1e-7);
    assert_near(obs[10], 1, 0);
    double r = hr_wall_step(&w, 0.5);
    hr_state_row(&st, &w, 2, obs);
    assert_near(obs[8], (32 + 288) * (1 - r) / 1012, 1e-7);
    assert_near(obs[9], 80.0 / 1012, 1e-7);
    assert_near(obs[10], r, 1e-7);
    hr_wall_release(&w);
    hr_state_release(&st);
    hr_space_release(&s);
}

/* ---- the agent --------------------------------------------------------------------------------------- */

/* The network in double with plain loops, at parameters p + h*v; or (v NULL) with h added to element `at` of
 * x. */
static double mlp_loss(const hr_mlp *n, int rows, const float *v, int at, double h, const float *dy)
{
    size_t in = (size_t)n->in, hid = (size_t)n->hidden;
    size_t b1 = in * hid, w2 = b1 + hid, b2 = w2 + hid * hid, w3 = b2 + hid, b3 = w3 + hid;
    double *p = hr_xmalloc(n->nparam * sizeof *p), *z1 = hr_xmalloc(hid * sizeof *z1);
    double loss = 0;
    for (size_t i = 0; i < n->nparam; i++)
        p[i] = n->p[i] + h * (v ? v[i] : 0);
    for (int r = 0; r < rows; r++) {
        double y = p[b3];
        for (size_t j = 0; j < hid; j++) {
            z1[j] = p[b1 + j];
            for (size_t i = 0; i < in; i++)
                z1[j] += (n->x[(size_t)r * in + i] + (!v && (size_t)r * in + i == (size_t)at ? h : 0)) *
                         p[i * hid + j];
            z1[j] = z1[j] > 0 ? z1[j] : 0;
        }
        for (size_t k = 0; k < hid; k++) {
            double z = p[b2 + k];
            for (size_t j = 0; j < hid; j++)
                z += z1[j] * p[w2 + j * hid + k];
            y += (z > 0 ? z : 0) * p[w3 + k];
        }
        loss += dy[r] * (n->logistic ? 1 / (1 + exp(-y)) : y);
    }
    free(p);
    free(z1);
    return loss;
}

static void test_mlp_gradients_match_central_differences(void **state)
{
    (void)state;
    enum { ROWS = 5 };
    const double h = 1e-6;
    hr_rng rng = {.seed = 11, .stream = HR_STREAM_TEST};
    for (int kind = 0; kind < 2; kind++)
        for (int hidden = 1; hidden < 40; hidden += 19) {
            hr_mlp n;
            float dy[ROWS];
            hr_mlp_init(&n, 3, hidden, 8, kind, HR_INIT_FANIN, &rng);
            for (size_t i = 0; i < n.nparam; i++) /* larger than fan-in's, so that no part vanishes */
                n.p[i] = (float)hr_rng_normal(&rng) * 0.5f;
            for (int i = 0; i < ROWS * 3; i++)
                n.x[i] = (float)hr_rng_normal(&rng);
            for (int r = 0; r < ROWS; r++)
                dy[r] = (float)hr_rng_normal(&rng);
            float *v = hr_xmalloc(n.nparam * sizeof *v);
            for (int try = 0; try < 5; try++) {
                double dot = 0, scale = 0;
                for (size_t i = 0; i < n.nparam; i++)
                    v[i] = (float)hr_rng_normal(&rng);
                hr_mlp_forward(&n, ROWS);
                hr_mlp_backward(&n, ROWS, dy, true);
                for (size_t i = 0; i < n.nparam; i++) {
                    dot += (double)n.g[i] * v[i];
                    scale += fabs((double)n.g[i] * v[i]);
                }
                double num = (mlp_loss(&n, ROWS, v, 0, h, dy) - mlp_loss(&n, ROWS, v, 0, -h, dy)) / (2 * h);
                /* float gradients against a double difference: rounding of a few hundred terms */
                assert_near(dot, num, 2e-6 * (1 + scale));
            }
            for (int i = 0; i < ROWS * 3; i++) { /* and to the input */
                double num =
                    (mlp_loss(&n, ROWS, NULL, i, h, dy) - mlp_loss(&n, ROWS, NULL, i, -h, dy)) / (2 * h);
                assert_near(n.dx[i], num, 2e-5 * (1 + fabs(num)));
            }
            free(v);
            hr_mlp_release(&n);
        }
}

/* Three steps with gradients 1, -2, 0.5 at lr 0.1, worked out in double from the formula in search.h. The
 * first is -lr * sqrt(.001)/.1 * .1/(sqrt(.001)+1e-8) = -0.1 within 1e-7: Adam's first step is lr. */
static void test_adam_matches_hand_computation(void **state)
{
    (void)state;
    hr_rng rng = {.seed = 1, .stream = HR_STREAM_TEST};
    hr_mlp n;
    hr_mlp_init(&n, 1, 1, 1, false, HR_INIT_NORMAL, &rng);
    const double g[3] = {1, -2, 0.5};
    double p = n.p[2], m = 0, v = 0, start = p;
    for (int t = 1; t <= 3; t++) {
        for (size_t i = 0; i < n.nparam; i++)
            n.g[i] = (float)g[t - 1];
        hr_mlp_adam(&n, 0.1);
        m = 0.9 * m + 0.1 * g[t - 1];
        v = 0.999 * v + 0.001 * g[t - 1] * g[t - 1];
        p -= 0.1 * sqrt(1 - pow(0.999, t)) / (1 - pow(0.9, t)) * m / (sqrt(v) + 1e-8);
        assert_near(n.p[2], p, 2e-6);
        if (t == 1)
            assert_near(p, start - 0.1, 1e-6);
    }
    hr_mlp_release(&n);
}

static void test_noise_is_truncated_folded_and_clipped(void **state)
{
    (void)state;
    enum { N = 100000 };
    hr_rng rng = {.seed = 5, .stream = HR_STREAM_TEST};
    double sum = 0, sq = 0;
    for (int i = 0; i < N; i++) {
        double u = hr_noise(&rng, 0.5, 0.1);
        assert_true(u >= 0.3 && u <= 0.7);
        sum += u - 0.5;
        sq += (u - 0.5) * (u - 0.5);
    }
    /* A normal cut at two deviations keeps 0.8796 of its deviation. Five standard errors. */
    assert_near(sum / N, 0, 5 * 0.088 / sqrt(N));
    assert_near(sqrt(sq / N) / 0.1, 0.8796, 0.01);
    int folded = 0, clipped = 0;
    for (int i = 0; i < N; i++) {
        double u = hr_noise(&rng, 0.05, 0.5);
        assert_true(u >= 0 && u <= 1);
        folded += u > 0 && u < 0.05;
        clipped += hr_noise(&rng, 0.9, 0.5) == 1;
    }
    assert_true(folded > N / 20); /* folded at 0, not heaped up there */
    assert_true(clipped > N / 4);
}

static void fill_memory(hr_agent *a, int episodes, int steps)
{
    for (int e = 0; e < episodes; e++)
        for (int t = 0; t < steps; t++) {
            hr_transition tr = {.action = (float)t, .reward = (float)e, .done = t == steps - 1};
            hr_agent_store(a, &tr);
        }
}

static void test_replay_forgets_the_oldest_and_draws_evenly(void **state)
{
    (void)state;
    enum { STEPS = 5, MEMORY = 200, BATCH = 50, DRAWS = 2000 };
    hr_rng rng = {.seed = 6, .stream = HR_STREAM_TEST};
    for (int reference = 0; reference < 2; reference++) {
        hr_agent a;
        hr_agent_opts o = {
            .reference = reference, .init = HR_INIT_FANIN, .hidden = 4, .batch = BATCH, .memory = MEMORY};
        hr_agent_init(&a, &o, &rng);
        fill_memory(&a, 70, STEPS); /* 350 transitions: episodes 30..69 stay */
        assert_int_equal(a.size, MEMORY);
        int count[MEMORY] = {0}, firsts = 0;
        for (int k = 0; k < DRAWS; k++) {
            int seen[MEMORY] = {0};
            hr_agent_sample(&a);
            for (int i = 0; i < BATCH; i++) {
                const hr_transition *t = &a.ring[a.pick[i]];
                assert_true(t->reward >= 30);
                firsts += t->action == 0 && t->reward > 30;
                count[a.pick[i]]++;
                assert_true(reference || !seen[a.pick[i]]++); /* without replacement */
            }
        }
        if (reference) {
            assert_int_equal(firsts, 0);                                /* but for the oldest episode's */
            assert_int_equal(count[(a.head + MEMORY - 1) % MEMORY], 0); /* the newest has no successor yet */
        }
        for (int i = 0; i < MEMORY && !reference; i++) /* binomial(2000, 1/4): deviation 19.4, five of them */
            assert_near(count[i], DRAWS * BATCH / MEMORY, 97);
        hr_agent_release(&a);
    }
}

/* Of 40 episodes with rewards 30..69, the best of three draws is in the upper half with 1 - 1/8. */
static void test_preferred_replay_leans_to_high_rewards(void **state)
{
    (void)state;
    enum { BATCH = 50, DRAWS = 400 };
    hr_rng rng = {.seed = 8, .stream = HR_STREAM_TEST};
    hr_agent a;
    hr_agent_opts o = {.prefer = 1, .init = HR_INIT_FANIN, .hidden = 4, .batch = BATCH, .memory = 200};
    hr_agent_init(&a, &o, &rng);
    fill_memory(&a, 70, 5);
    int upper = 0;
    for (int k = 0; k < DRAWS; k++) {
        hr_agent_sample(&a);
        for (int i = 0; i < BATCH; i++)
            upper += a.ring[a.pick[i]].reward >= 50;
    }
    assert_near((double)upper / (BATCH * DRAWS), 0.875, 5 * 0.331 / sqrt(BATCH * DRAWS));
    hr_agent_release(&a);
}

/* Fill the whole memory with one-step episodes of this reward. */
static void remember(hr_agent *a, float reward)
{
    for (int i = 0; i < a->o.memory; i++) {
        hr_transition t = {.action = (float)i / (float)a->o.memory, .reward = reward, .done = true};
        hr_agent_store(a, &t);
    }
}

static void test_targets_follow_by_tau(void **state)
{
    (void)state;
    hr_rng rng = {.seed = 5, .stream = HR_STREAM_TEST};
    hr_err err = HR_ERR_INIT;
    hr_agent a;
    hr_agent_opts o = {.init = HR_INIT_FANIN,
                       .actor_lr = 0.01,
                       .critic_lr = 0.01,
                       .lr_decay = 1,
                       .tau = 0.125,
                       .hidden = 4,
                       .batch = 8,
                       .memory = 16};
    hr_agent_init(&a, &o, &rng);
    remember(&a, 1);
    const hr_mlp *net[] = {&a.actor, &a.critic}, *target[] = {&a.actor_target, &a.critic_target};
    float *before[2];
    for (int k = 0; k < 2; k++) {
        before[k] = hr_xmalloc(net[k]->nparam * sizeof(float));
        memcpy(before[k], target[k]->p, net[k]->nparam * sizeof(float));
    }
    assert_ok(hr_agent_train(&a, 1, false, &err), err);
    for (int k = 0; k < 2; k++) {
        double moved = 0;
        for (size_t i = 0; i < net[k]->nparam; i++) {
            moved = fmax(moved, fabs((double)net[k]->p[i] - before[k][i]));
            /* one rounding of numbers below 1 */
            assert_near(target[k]->p[i], 0.125 * net[k]->p[i] + 0.875 * before[k][i], 1e-7);
        }
        assert_true(moved > 0.005); /* or following would not show */
        free(before[k]);
    }
    hr_agent_release(&a);
}

static void test_baseline_moves_half_way_to_the_mean_reward(void **state)
{
    (void)state;
    hr_rng rng = {.seed = 5, .stream = HR_STREAM_TEST};
    hr_err err = HR_ERR_INIT;
    hr_agent a;
    hr_agent_opts o = {
        .baseline = true, .init = HR_INIT_FANIN, .lr_decay = 1, .hidden = 4, .batch = 8, .memory = 16};
    hr_agent_init(&a, &o, &rng);
    remember(&a, 1);
    assert_ok(hr_agent_train(&a, 1, false, &err), err);
    assert_near(a.b, 1, 1e-12); /* the first mean is taken as it is */
    remember(&a, 3);
    assert_ok(hr_agent_train(&a, 1, false, &err), err);
    assert_near(a.b, 2, 1e-12);
    assert_ok(hr_agent_train(&a, 1, false, &err), err);
    assert_near(a.b, 2.5, 1e-12);
    hr_agent_release(&a);
}

/* Episodes of five random transitions, and training after each. */
static void live(hr_agent *a, int episodes)
{
    enum { STEPS = 5 };
    hr_err err = HR_ERR_INIT;
    for (int e = 0; e < episodes; e++) {
        float reward = (float)hr_rng_double(a->rng);
        for (int i = 0; i < STEPS; i++) {
            hr_transition t = {.reward = reward, .done = i == STEPS - 1};
            t.action = (float)hr_rng_double(a->rng);
            for (int k = 0; k < HR_STATE; k++) {
                t.obs[k] = (float)hr_rng_double(a->rng);
                t.next[k] = (float)hr_rng_double(a->rng);
            }
            hr_agent_store(a, &t);
        }
        assert_ok(hr_agent_train(a, 2, false, &err), err);
    }
}

/* Everything that later steps depend on: were one block missing, or one array saved in another's place, the
 * two agents would part. */
static void test_an_agent_goes_on_from_its_blocks_bit_for_bit(void **state)
{
    (void)state;
    hr_rng rng = {.seed = 5, .stream = HR_STREAM_TEST}, other = {.seed = 6, .stream = HR_STREAM_TEST};
    hr_agent a, b;
    hr_agent_opts o = {.baseline = true,
                       .prefer = 0.5,
                       .init = HR_INIT_FANIN,
                       .actor_lr = 0.01,
                       .critic_lr = 0.01,
                       .lr_decay = 0.9,
                       .tau = 0.125,
                       .hidden = 6,
                       .batch = 8,
                       .memory = 24};
    hr_block from[HR_AGENT_BLOCKS], to[HR_AGENT_BLOCKS];
    hr_agent_init(&a, &o, &rng);
    hr_agent_init(&b, &o, &other);
    live(&a, 7); /* 35 transitions: the memory has come round */
    hr_agent_blocks(&a, from);
    hr_agent_blocks(&b, to);
    for (int i = 0; i < HR_AGENT_BLOCKS; i++) {
        assert_string_equal(from[i].name, to[i].name);
        assert_int_equal(from[i].bytes, to[i].bytes);
        memcpy(to[i].data, from[i].data, from[i].bytes);
    }
    other = rng;
    live(&a, 4);
    live(&b, 4);
    const hr_mlp *x[] = {&a.actor, &a.critic, &a.actor_target, &a.critic_target};
    const hr_mlp *y[] = {&b.actor, &b.critic, &b.actor_target, &b.critic_target};
    for (size_t i = 0; i < HR_COUNT(x); i++)
        assert_memory_equal(x[i]->p, y[i]->p, x[i]->nparam * sizeof *x[i]->p);
    hr_agent_release(&a);
    hr_agent_release(&b);
}

static void test_constant_predictors_are_worth_nothing(void **state)
{
    (void)state;
    hr_score_reply live = {.images = 100, .clean = 50, .robust = 20};
    hr_score_reply dead = {.images = 100, .clean = 10, .robust = 10, .constant = true};
    assert_near(hr_reward_of(HR_REWARD_ACC, 1, false, &live), 0.5, 0);
    assert_near(hr_reward_of(HR_REWARD_ACC_PLUS, 2, false, &live), 0.9, 1e-15);
    assert_near(hr_reward_of(HR_REWARD_ACC_AA, 1, false, &live), 0.5 * exp(0.2), 1e-15);
    assert_near(hr_reward_of(HR_REWARD_ACC_PLUS, 1, false, &dead), 0, 0);
    assert_near(hr_reward_of(HR_REWARD_ACC_PLUS, 1, true, &dead), 0.2, 1e-15); /* as published */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_wall_matches_published_vgg16_weight),
        cmocka_unit_test(test_reference_wall_matches_published_channels),
        cmocka_unit_test(test_channel_targets_match_published),
        cmocka_unit_test(test_reference_state_matches_published_rows),
        cmocka_unit_test(test_reference_state_moves_with_the_episode),
        cmocka_unit_test(test_a_torch_index_that_follows_nothing_is_refused),
        cmocka_unit_test(test_budgets_agree_with_those_of_the_pruner),
        cmocka_unit_test(test_shortcuts_are_counted_with_the_rates_they_get),
        cmocka_unit_test(test_sound_wall_by_hand),
        cmocka_unit_test(test_impossible_budgets_are_refused_before_the_search),
        cmocka_unit_test(test_a_strategy_that_costs_the_budget_is_taken_as_it_is),
        cmocka_unit_test(test_budget_holds_and_is_used_up_whatever_is_asked),
        cmocka_unit_test(test_sound_state_describes_the_layer_decided),
        cmocka_unit_test(test_mlp_gradients_match_central_differences),
        cmocka_unit_test(test_adam_matches_hand_computation),
        cmocka_unit_test(test_noise_is_truncated_folded_and_clipped),
        cmocka_unit_test(test_replay_forgets_the_oldest_and_draws_evenly),
        cmocka_unit_test(test_preferred_replay_leans_to_high_rewards),
        cmocka_unit_test(test_targets_follow_by_tau),
        cmocka_unit_test(test_baseline_moves_half_way_to_the_mean_reward),
        cmocka_unit_test(test_an_agent_goes_on_from_its_blocks_bit_for_bit),
        cmocka_unit_test(test_constant_predictors_are_worth_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
