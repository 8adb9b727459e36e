/* test/unit/test_team.c -- threads that compute a layer together, or do not come together. */
#include "compute/cpu/team.h"

#include "base/base.h"
#include "unit.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { CI = 17, CO = 33, SIDE = 5, MOST = 4, SAMPLES = 6 }; /* threads, samples of each at most */

/* A layer with an input for every thread, and what each gets from it alone. */
typedef struct layer {
    hr_wino w;
    float *x[MOST], *alone[MOST], *y[MOST];
} layer;

static layer make_layer(int m)
{
    const hr_kernels *k = hr_kernels_get();
    layer l = {0};
    float *g = hr_xmalloc(CO * CI * 9 * sizeof *g);
    hr_fill_uniform(g, CO * CI * 9, -1, 1, 8, HR_STREAM_TEST, 0, 0, 0);
    hr_wino_plan(&l.w, k, m, CI, SIDE, SIDE, CO, SIDE, SIDE, 1);
    hr_wino_pack(&l.w, k, g, false);
    void *scratch = hr_xaligned(hr_wino_scratch(&l.w), 1);
    for (int t = 0; t < MOST; t++) {
        l.x[t] = hr_xaligned(SAMPLES * l.w.in_len + HR_SLACK, sizeof(float));
        l.y[t] = hr_xaligned(SAMPLES * l.w.out_len + HR_SLACK, sizeof(float));
        l.alone[t] = hr_xaligned(SAMPLES * l.w.out_len + HR_SLACK, sizeof(float));
        hr_fill_uniform(l.x[t], SAMPLES * l.w.in_len, -1, 1, 8, HR_STREAM_TEST, 1 + (uint32_t)t, 0, 0);
        hr_wino_run(&l.w, k, l.x[t], SAMPLES, l.alone[t], &(hr_epilogue){.relu = true}, false, scratch);
    }
    free(scratch);
    free(g);
    return l;
}

static void release_layer(layer *l)
{
    hr_wino_release(&l->w);
    for (int t = 0; t < MOST; t++) {
        free(l->x[t]);
        free(l->y[t]);
        free(l->alone[t]);
    }
}

static float *room;

static hr_team *make_team(const hr_wino *w, int rows)
{
    size_t len = hr_wino_shared_room(w, rows);
    room = hr_xaligned(len, sizeof *room);
    return hr_team_new(room, len);
}

static void release_team(hr_team *team)
{
    hr_team_free(team);
    free(room);
}

/* Thread t brings ns samples. */
static bool run(hr_team *team, layer *l, int t, int ns)
{
    memset(l->y[t], 0, SAMPLES * l->w.out_len * sizeof(float));
    return hr_team_run(team, &l->w, hr_kernels_get(), l->x[t], ns, l->y[t], &(hr_epilogue){.relu = true},
                       false);
}

static bool as_alone(const layer *l, int t, int ns)
{
    return memcmp(l->y[t], l->alone[t], (size_t)ns * l->w.out_len * sizeof(float)) == 0;
}

static void test_together_each_gets_what_it_gets_alone(void **state)
{
    (void)state;
    for (int m = 2; m <= 4; m += 2)
        for (int threads = 2; threads <= MOST; threads++) {
            layer l = make_layer(m);
            hr_team *team = make_team(&l.w, HR_WINO_SHARED_ROWS);
            int met = 0, right = 0;
            hr_team_open(team, threads);
#pragma omp parallel num_threads(threads) reduction(+ : met, right)
            for (int again = 0, t = omp_get_thread_num(); again < 20; again++) {
                int ns = (t + again) % 4; /* none at all, too */
                met += run(team, &l, t, ns);
                right += as_alone(&l, t, ns);
            }
            assert_int_equal(met, 20 * threads);
            assert_int_equal(right, 20 * threads);
            release_team(team);
            release_layer(&l);
        }
}

static void test_who_goes_to_another_layer_parts_the_ways(void **state)
{
    (void)state;
    layer a = make_layer(2), b = make_layer(4);
    hr_team *team = make_team(&b.w, HR_WINO_SHARED_ROWS);
    for (int again = 0; again < 20; again++) {
        int together = 0, apart = 0, behind = 0;
        hr_team_open(team, 2);
#pragma omp parallel num_threads(2) reduction(+ : together, apart, behind)
        {
            int t = omp_get_thread_num();
            together += run(team, &a, t, 1);
            apart += run(team, t ? &a : &b, t, 1);
            for (int i = 0; i < 3 + t; i++) /* nobody waits any more: one comes more often */
                behind += run(team, &a, t, 1);
            hr_team_leave(team);
        }
        assert_int_equal(together, 2);
        assert_int_equal(apart, 0);
        assert_int_equal(behind, 0);
    }
    release_team(team);
    release_layer(&a);
    release_layer(&b);
}

static void test_nobody_waits_for_who_has_left(void **state)
{
    (void)state;
    layer l = make_layer(4);
    hr_team *team = make_team(&l.w, HR_WINO_SHARED_ROWS);
    for (int again = 0; again < 20; again++) {
        int met[MOST] = {0};
        hr_team_open(team, MOST);
#pragma omp parallel num_threads(MOST)
        {
            int t = omp_get_thread_num();
            for (int i = 0; i < t; i++) /* thread t goes t times */
                met[t] += run(team, &l, t, 2);
            hr_team_leave(team);
        }
        int want[MOST] = {0, 1, 2, 2}; /* the last one's third time is alone */
        assert_memory_equal(met, want, sizeof met);
        assert_false(run(team, &l, 0, 1)); /* and nobody is left */
    }
    release_team(team);
    release_layer(&l);
}

static void test_more_tiles_than_there_is_room_for_go_alone(void **state)
{
    (void)state;
    layer l = make_layer(4);
    hr_team *team = make_team(&l.w, 4 * l.w.tiles);
    int met[2][2] = {{0}};
    hr_team_open(team, 2);
#pragma omp parallel num_threads(2)
    for (int i = 0, t = omp_get_thread_num(); i < 2; i++)
        met[i][t] = run(team, &l, t, i ? 2 : 3);
    int want[2][2] = {{0, 0}, {1, 1}}; /* and the team stays together */
    assert_memory_equal(met, want, sizeof met);
    assert_false(hr_team_run(NULL, &l.w, hr_kernels_get(), l.x[0], 1, l.y[0], &(hr_epilogue){0}, false));
    release_team(team);
    release_layer(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_together_each_gets_what_it_gets_alone),
        cmocka_unit_test(test_who_goes_to_another_layer_parts_the_ways),
        cmocka_unit_test(test_nobody_waits_for_who_has_left),
        cmocka_unit_test(test_more_tiles_than_there_is_room_for_go_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
