/* test/unit/test_cuda_ops.c -- operations of the plug-in's table that networks and attacks do not show one by
 * one: losses, optimisers, recorded work, memory, trouble. Each beside the library's function on the CPU. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

#include "compute/cuda/cuda.h"
#include "cuda.h"
#include "train/train.h"

static const hr_cuda_plugin_table *t;
static hr_cuda *d;

static int open_device(void **state)
{
    hr_err err = HR_ERR_INIT;
    char msg[256] = "";
    (void)state;
    t = hr_cuda_load(&err);
    if (!t) {
        print_error("%s\n", err.msg);
        return -1;
    }
    d = t->open(0, 0, msg, sizeof msg);
    if (!d)
        print_error("%s\n", msg);
    return d ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    t->close(d);
    return 0;
}

static void *up(const void *from, size_t bytes)
{
    size_t left;
    void *p = t->take(d, bytes, &left);
    assert_non_null(p);
    if (from)
        t->upload(d, p, from, bytes);
    return p;
}

/* What is on the device, once all is done. */
static void down(void *to, const void *from, size_t bytes)
{
    t->download(d, to, from, bytes);
    const char *trouble = t->wait(d);
    if (trouble)
        fail_msg("%s", trouble);
}

/* ---- losses -------------------------------------------------------------------------------------------- */

enum { N = 37, CLASSES = 11 };

static void check_loss(int kind)
{
    float z[N * CLASSES], want[N * CLASSES], got[N * CLASSES];
    double loss[N], sums[N];
    int32_t y[N];
    hr_fill_normal(z, N * CLASSES, 0, 9, 1, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < N; i++)
        y[i] = (i * 7) % CLASSES;
    z[y[0]] = 80; /* beyond the margin's confidence, and a softmax of 0 and 1 */
    void (*cpu)(const float *, const int32_t *, int, int, int, float, double *, float *) =
        kind == HR_CUDA_CE ? hr_loss_ce : hr_loss_margin;
    cpu(z, y, 0, N, CLASSES, 0.25f, loss, want);
    float *dz = up(NULL, sizeof got);
    double *l = up(NULL, sizeof sums);
    t->loss(d, kind, N, CLASSES, up(z, sizeof z), up(y, sizeof y), NULL, 0.25f, l, dz);
    down(got, dz, sizeof got);
    down(sums, l, sizeof sums);
    for (int i = 0; i < N * CLASSES; i++) /* one rounding to float of nearly the same double */
        assert_true(fabs((double)got[i] - (double)want[i]) <= 3e-8);
    for (int i = 0; i < N; i++)
        assert_true(fabs(sums[i] - loss[i]) <= 1e-12 * (1 + fabs(loss[i])));
}

static void test_cross_entropy_is_that_of_the_cpu(void **state)
{
    (void)state;
    check_loss(HR_CUDA_CE);
}

static void test_the_margin_loss_is_that_of_the_cpu(void **state)
{
    (void)state;
    check_loss(HR_CUDA_MARGIN);
}

/* ---- optimisers ---------------------------------------------------------------------------------------- */

enum { P = 1003, STEPS = 4 };
static float p[P], g[P], a[P], b[P];

static void draw(void)
{
    hr_fill_normal(p, P, 0, 1, 1, HR_STREAM_TEST, 1, 0, 0);
    hr_fill_normal(g, P, 0, 1, 1, HR_STREAM_TEST, 2, 0, 0);
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
}

/* The numbers on the device after the steps that were queued, beside p after those of the CPU: the same bits
 * where the CPU's compiler contracts nothing (x86-64-v2). */
static void same_as_p(const float *device)
{
    float got[P];
    down(got, device, sizeof got);
    for (int i = 0; i < P; i++)
        if (!(fabsf(got[i] - p[i]) <= 3e-7f * (1 + fabsf(p[i]))))
            fail_msg("number %d is %.9g, %.9g on the CPU", i, (double)got[i], (double)p[i]);
}

static void test_sgd_is_that_of_the_cpu(void **state)
{
    (void)state;
    for (int nesterov = 0; nesterov < 2; nesterov++) {
        draw();
        float *q = up(p, sizeof p), *h = up(g, sizeof g), *buf = up(a, sizeof a);
        for (int s = 0; s < STEPS; s++) {
            hr_sgd_step(p, g, a, P, 0.1f, 0.9f, 5e-4f, nesterov, s == 0);
            t->sgd(d, P, q, h, buf, 0.1f, 0.9f, 5e-4f, nesterov, s == 0);
        }
        same_as_p(q);
    }
}

static void test_adam_is_that_of_the_cpu(void **state)
{
    (void)state;
    draw();
    float *q = up(p, sizeof p), *h = up(g, sizeof g), *m = up(a, sizeof a), *v = up(b, sizeof b);
    for (int s = 0; s < STEPS; s++) {
        hr_adam_step(p, g, a, b, P, 0.01f, 5e-4f, s + 1);
        t->adam(d, P, q, h, m, v, 0.01f, 5e-4f, s + 1);
    }
    same_as_p(q);
}

static void test_rmsprop_is_that_of_the_cpu(void **state)
{
    (void)state;
    draw();
    float *q = up(p, sizeof p), *h = up(g, sizeof g), *v = up(a, sizeof a), *buf = up(b, sizeof b);
    for (int s = 0; s < STEPS; s++) {
        hr_rmsprop_step(p, g, a, b, P, 0.01f, 0.9f, 5e-4f);
        t->rmsprop(d, P, q, h, v, buf, 0.01f, 0.9f, 5e-4f);
    }
    same_as_p(q);
}

/* ---- the device ---------------------------------------------------------------------------------------- */

static void test_recorded_work_runs_when_it_is_replayed_and_as_often(void **state)
{
    (void)state;
    float one[5] = {1, 2, 3, 4, 5}, got[5];
    float *sum = up(NULL, sizeof one), *x = up(one, sizeof one);
    t->record(d);
    t->add(d, 5, sum, x);
    hr_cuda_graph *graph = t->recorded(d);
    assert_non_null(graph);
    down(got, sum, sizeof got);
    assert_true(got[0] == 0.0f);
    for (int i = 0; i < 3; i++)
        t->replay(d, graph);
    down(got, sum, sizeof got);
    for (int i = 0; i < 5; i++)
        assert_true(got[i] == 3 * one[i]);
    t->forget(d, graph);
}

static void test_too_much_memory_is_refused_with_what_is_left(void **state)
{
    (void)state;
    size_t left = 0;
    assert_null(t->take(d, (size_t)1 << 50, &left));
    assert_true(left > 0 && left < (size_t)1 << 50);
    assert_null(t->wait(d)); /* and the device is as good as before */
}

static void test_sums_have_the_same_bits_every_time(void **state)
{
    (void)state;
    enum { ROWS = 3001, C = 37 };
    float *z = hr_xmalloc(ROWS * C * sizeof *z), first[C], again[C];
    hr_fill_normal(z, ROWS * C, 1, 3, 1, HR_STREAM_TEST, 3, 0, 0);
    float *x = up(z, ROWS * C * sizeof *z), *sum = up(NULL, sizeof first);
    double *part = up(NULL, 2 * HR_CUDA_PARTS * C * sizeof *part);
    t->column_sums(d, ROWS, C, x, sum, part);
    down(first, sum, sizeof first);
    for (int c = 0; c < C; c++) {
        double want = 0;
        for (int r = 0; r < ROWS; r++)
            want += (double)z[r * C + c];
        assert_true(fabs(want - (double)first[c]) <= 1e-7 * fabs(want));
    }
    for (int i = 0; i < 3; i++) {
        t->column_sums(d, ROWS, C, x, sum, part);
        down(again, sum, sizeof again);
        assert_memory_equal(again, first, sizeof first);
    }
    free(z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy_is_that_of_the_cpu),
        cmocka_unit_test(test_the_margin_loss_is_that_of_the_cpu),
        cmocka_unit_test(test_sgd_is_that_of_the_cpu),
        cmocka_unit_test(test_adam_is_that_of_the_cpu),
        cmocka_unit_test(test_rmsprop_is_that_of_the_cpu),
        cmocka_unit_test(test_recorded_work_runs_when_it_is_replayed_and_as_often),
        cmocka_unit_test(test_too_much_memory_is_refused_with_what_is_left),
        cmocka_unit_test(test_sums_have_the_same_bits_every_time),
    };
    on_the_shim();
    return cmocka_run_group_tests_name("operations on a device", tests, open_device, close_device);
}
