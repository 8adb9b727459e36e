/* test/unit/test_alloc.c -- after planning, steps take no memory.
 *
 * This program's own malloc and its relatives stand before the C library's and count. A sanitizer or valgrind
 * brings an allocator of its own: then nothing is counted, and the test says that it was skipped. */
#include <string.h>

#include "nets.h"
#include "attack/attack.h"
#include "compute/compute.h"

#if defined(__SANITIZE_ADDRESS__)
#define COUNTING 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNTING 0
#endif
#endif
#if !defined(COUNTING) && defined(__GLIBC__)
#define COUNTING 1
#endif

static volatile int count; /* of all threads; the compiler thinks that malloc leaves it alone */

#if COUNTING
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

void *malloc(size_t bytes)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return __libc_realloc(p, bytes);
}

int posix_memalign(void **p, size_t align, size_t bytes)
{
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    *p = __libc_memalign(align, bytes);
    return *p ? 0 : 12; /* ENOMEM */
}
#endif

static bool counted(void)
{
    int before = count;
    void *volatile p = malloc(1);
    free(p);
    return count > before;
}

enum { N = 20 };
static float x[N * 28 * 28];
static int32_t y[N];
static uint32_t which[N];

/* All that training and evaluation do to an executor. */
static void work(hr_exec *e, hr_model *m, int n)
{
    hr_attack_opts o = {
        .eps = 0.1f, .step = 0.02f, .steps = 2, .random_start = true, .stream = HR_STREAM_TEST};
    for (int bn = 0; hr_bn_mode_names[bn]; bn++) {
        o.bn = (enum hr_bn_mode)bn;
        hr_attack_pgd(e, &o, x, y, which, n);
        if (bn == HR_BN_FOLDED)
            continue;
        hr_exec_forward(e, 0, n, o.bn);
        hr_loss_ce(hr_exec_logits(e), y, 0, n, m->classes, 1, NULL, hr_exec_dlogits(e));
        hr_exec_backward(e, 0, n, o.bn, HR_DX | HR_DW);
        hr_exec_params(e);
    }
    hr_exec_infer(e, n);
}

static hr_model *demo_net(void)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    assert_ok(hr_zoo_build("resS", NULL, &m, &err), err);
    hr_zoo_init(m, 1);
    return m;
}

/* Weight gradients in every way that there is: Winograd's by chunks and by groups, plain ones by panels. */
static hr_model *thick_net(void)
{
    hr_model *m = net_new(1, 28, 28);
    int a = net_conv(m, 0, 96, 3, 3, 4, 1, NET_NO_BIAS);
    a = net_relu(m, net_bn(m, net_conv(m, a, 96, 3, 3, 1, 1, NET_NO_BIAS)));
    a = net_relu(m, net_bn(m, net_conv(m, a, 130, 3, 3, 2, 1, NET_NO_BIAS)));
    net_done(m, net_relu(m, net_bn(m, net_conv(m, a, 130, 3, 3, 1, 1, NET_NO_BIAS))), 1);
    return m;
}

static void test_steps_take_no_memory_after_planning(void **state)
{
    (void)state;
    if (!counted())
        skip();
    hr_err err = HR_ERR_INIT;
    hr_model *(*const make[])(void) = {demo_net, thick_net};
    for (size_t k = 0; k < HR_COUNT(make); k++)
        for (int threads = 1; threads <= 2; threads++) {
            hr_model *m = make[k]();
            hr_exec *e = hr_exec_new(m, &(hr_exec_opts){.batch = N, .threads = threads, .train = true}, &err);
            assert_non_null(e);
            hr_exec_profile(e);
            work(e, m, N); /* OpenMP makes its threads */
            int before = count;
            work(e, m, N);
            work(e, m, N - 3);
            assert_int_equal(count - before, 0);
            hr_exec_free(e);
            hr_model_free(m);
        }
}

int main(void)
{
    for (int i = 0; i < N; i++)
        which[i] = (uint32_t)i;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps_take_no_memory_after_planning)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
