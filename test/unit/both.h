/* test/unit/both.h -- the engine beside the oracle on the same network, parameters and images, and one
 * process per instruction set. */
#ifndef HR_BOTH_H
#define HR_BOTH_H

#include <sys/wait.h>
#include <unistd.h>

#include "nets.h"
#include "compute/compute.h"
#include "compute/ref.h"

/* Largest |engine - ref| over largest |ref|, per array. One float operation is good to 6e-8 (2^-24); a sum of
 * K terms of random sign errs by about sqrt(K) of that relative to its size. Each bound leaves a factor of 3
 * to 5 over the worst that the three instruction sets of x86-64 were seen to do. */
typedef struct bounds {
    double y, dx, dw;
} bounds;

/* ---- running both ------------------------------------------------------------------------------------ */

typedef struct pair {
    hr_model *m;
    hr_exec *e;
    hr_ref *r;
    int n;
    char what[160]; /* for messages */
} pair;

static inline hr_exec *plan_exec(hr_model *m, hr_exec_opts o)
{
    hr_err err = HR_ERR_INIT;
    o.device = test_device();
    hr_exec *e = hr_exec_new(m, &o, &err);
    if (!e)
        fail_msg("hr_exec_new: %s", err.msg);
    return e;
}

static inline hr_exec *make_exec(hr_model *m, int batch, int threads)
{
    return plan_exec(m, (hr_exec_opts){.batch = batch, .threads = threads, .train = true});
}

/* Fill the engine's input (n,h,w,c) and dlogits with normal numbers keyed by seed. */
static inline void draw_batch(hr_exec *e, const hr_model *m, int n, uint32_t seed)
{
    hr_fill_normal(hr_exec_input(e), n * hr_exec_input_len(e), 0.3f, 1, seed, HR_STREAM_TEST, 50, 0, 0);
    hr_fill_normal(hr_exec_dlogits(e), (size_t)n * m->classes, 0, 1, seed, HR_STREAM_TEST, 51, 0, 0);
}

/* Index in NCHW of element i of an NHWC array with image shape nd. */
static inline size_t nchw(const hr_node *nd, size_t i)
{
    size_t c = i % nd->c, w = i / nd->c % nd->w, h = i / ((size_t)nd->c * nd->w) % nd->h;
    size_t n = i / ((size_t)nd->c * nd->w * nd->h);
    return ((n * nd->c + c) * nd->h + h) * nd->w + w;
}

/* Give ref the engine's batch and run it. */
static inline void run_ref(pair *p, enum hr_bn_mode bn)
{
    size_t len = p->n * hr_exec_input_len(p->e), outs = (size_t)p->n * p->m->classes;
    double *dlogits = hr_xmalloc(outs * sizeof *dlogits);
    for (size_t i = 0; i < len; i++)
        hr_ref_input(p->r)[nchw(&p->m->nodes[0], i)] = hr_exec_input(p->e)[i];
    hr_ref_forward(p->r, p->n, bn);
    for (size_t i = 0; i < outs; i++)
        dlogits[i] = hr_exec_dlogits(p->e)[i];
    hr_ref_backward(p->r, p->n, dlogits);
    free(dlogits);
}

/* Where the network ends in a relu, elements within rounding of its kink may fall on either side: take their
 * gradient out of the comparison. The oracle's forward pass must have run. */
static inline bool avoid_last_kink(pair *p)
{
    const hr_model *m = p->m;
    int last = m->nnodes - 1;
    while (m->nodes[last].op == HR_OP_FLATTEN || m->nodes[last].op == HR_OP_LINEAR) /* an identity, if any */
        last = m->nodes[last].in[0];
    if (m->nodes[last].op != HR_OP_RELU)
        return false;
    const double *before = hr_ref_node_output(p->r, m->nodes[last].in[0]);
    for (int i = 0; i < p->n * m->classes; i++)
        if (fabs(before[i]) < 1e-4)
            hr_exec_dlogits(p->e)[i] = 0;
    return true;
}

/* floor: the size below which |ref| does not count as a measure. Some gradients cancel to nothing (a bias in
 * front of batch statistics, dx of a batch norm over two values) and what is left of them is rounding. */
static inline void compare(const pair *p, const char *name, const float *a, const double *b, size_t len,
                           const hr_node *image, double bound, double floor)
{
    double worst = 0, top = floor;
    for (size_t i = 0; i < len; i++) {
        double want = b[image ? nchw(image, i) : i];
        worst = fmax(worst, isnan(a[i]) ? INFINITY : fabs(a[i] - want));
        top = fmax(top, fabs(want));
    }
    if (!(worst <= bound * top))
        fail_msg("%s: %s: off by %.3g of %.3g (%.3g), bound %g", p->what, name, worst, top, worst / top,
                 bound);
}

static inline void compare_mode(pair *p, enum hr_bn_mode bn, bounds b)
{
    const hr_model *m = p->m;
    size_t pixels = p->n * hr_exec_input_len(p->e), outs = (size_t)p->n * m->classes;
    run_ref(p, bn);
    if (avoid_last_kink(p)) {
        hr_ref_free(p->r); /* a new one has not moved its running statistics yet */
        p->r = hr_ref_new(m, p->n);
        run_ref(p, bn);
    }
    hr_exec_forward(p->e, 0, p->n, bn);
    hr_exec_backward(p->e, 0, p->n, bn, bn == HR_BN_FOLDED ? HR_DX : HR_DX | HR_DW);
    compare(p, "logits", hr_exec_logits(p->e), hr_ref_logits(p->r), outs, NULL, b.y, 0.01);
    compare(p, "dx", hr_exec_dinput(p->e), hr_ref_dinput(p->r), pixels, &m->nodes[0], b.dx, 0.01);
    for (int t = 0; t < m->ntensors; t++) {
        int64_t count = hr_tensor_count(&m->tensors[t]);
        if (hr_ref_grad(p->r, t) && bn != HR_BN_FOLDED) {
            assert_non_null(hr_exec_grad(p->e, t));
            compare(p, m->tensors[t].name, hr_exec_grad(p->e, t), hr_ref_grad(p->r, t), count, NULL, b.dw, 1);
        } else if (hr_ref_param(p->r, t) && !hr_ref_grad(p->r, t)) { /* moved, or left alone */
            compare(p, m->tensors[t].name, hr_tensor_f32(&m->tensors[t]), hr_ref_param(p->r, t), count, NULL,
                    1e-6, 0.01);
        }
    }
}

static inline bool has_batchnorm(const hr_model *m)
{
    for (int i = 0; i < m->nnodes; i++)
        if (m->nodes[i].op == HR_OP_BATCHNORM)
            return true;
    return false;
}

/* Every mode of m on n samples (planned for batch), then release m. Without a batch norm the modes are two
 * ways of walking through the layers. */
static inline void check_modes(hr_model *m, int batch, int n, bounds b, const char *what)
{
    for (int bn = 0; hr_bn_mode_names[bn]; bn++) {
        if (!has_batchnorm(m) && bn != HR_BN_FOLDED && bn != HR_BN_RUNNING)
            continue;
        pair p = {.m = m, .n = n, .e = make_exec(m, batch, n > HR_CHUNK ? 2 : 1), .r = hr_ref_new(m, batch)};
        snprintf(p.what, sizeof p.what, "%s, %d of %d samples, %s, %s", what, n, batch, hr_bn_mode_names[bn],
                 hr_compute_isa());
        draw_batch(p.e, m, n, 8);
        compare_mode(&p, bn, b);
        hr_exec_free(p.e);
        hr_ref_free(p.r);
    }
    hr_model_free(m);
}

/* ---- one process per instruction set ----------------------------------------------------------------- */

static inline void test_this_machine_lacks_the_instruction_set(void **state)
{
    (void)state;
    skip();
}

static inline int skip_all(const char *isa)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_this_machine_lacks_the_instruction_set)};
    return cmocka_run_group_tests_name(isa, tests, NULL, NULL);
}

/* The engine chooses its kernels once per process, so each set gets a process: forked before the engine or
 * OpenMP have run. Returns what main should. */
static inline int for_every_isa(int (*run_all)(const char *isa))
{
    static const char *const sets[] = {
#if defined(__x86_64__)
        "v2",
        "v3",
        "v4",
#else
        "portable",
#endif
    };
    int failed = 0;
    for (size_t i = 0; i < HR_COUNT(sets); i++) {
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            setenv("HERACLES_ISA", sets[i], 1);
            bool here = strcmp(hr_compute_isa(), sets[i]) == 0;
            exit((here ? run_all(sets[i]) : skip_all(sets[i])) != 0);
        }
        int status = 1;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            failed = 1;
    }
    return failed;
}

#endif
