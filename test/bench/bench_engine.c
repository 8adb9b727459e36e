/* test/bench/bench_engine.c -- the engine at work, measured: bench_engine NET BATCH MEASURE [SECONDS]
 *
 * MEASURE is one of
 *     infer    forward with folded batch norm
 *     train    forward and backward with batch statistics, SGD step
 *     pgd10    ten attack steps with folded batch norm, then a training step
 *     pgd20    twenty attack steps, then a forward pass: robust accuracy
 *     freeat   FreeAT: one forward and one backward pass to images and parameters, then both move
 *     peak     no network: as many fused multiply-adds as the machine does
 *     dump     print parameters and images, in the format of test/peers/peer_dump.c
 *
 * With SECONDS it works that long and prints one line. Without, it prints kernels and threads
 * (OMP_NUM_THREADS sets those) and then answers each line on stdin with one line, as torch_worker.py does:
 *     check    a step without noise (train, freeat: two)
 *              -> "loss X macs N": its loss, MACs of a step per image
 *     run S    steps for at least S seconds
 *              -> "RATE MB": images/s (peak: GFLOP/s), peak memory
 * BENCH_DEVICE=cuda[:N] takes it to a device. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "attack/attack.h"
#include "compute/compute.h"
#include "train/train.h"

static const float EPS = 8.0f / 255, STEP = 2.0f / 255, LR = 0.01f;

typedef struct bench {
    hr_model *m;
    hr_exec *e;
    int batch;
    size_t len; /* values of an image */
    float *x, *delta;
    int32_t *y;
    uint32_t *index;
    double *loss;
    float **momentum; /* (tensors) */
    bool fresh;       /* no training step yet */
} bench;

/* ---- steps --------------------------------------------------------------------------------------------- */

static void descend(bench *b)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(hr_exec_threads(b->e))
    for (int t = 0; t < b->m->ntensors; t++) {
        const float *g = hr_exec_grad(b->e, t);
        if (g)
            hr_sgd_step(hr_tensor_f32(&b->m->tensors[t]), g, b->momentum[t],
                        (size_t)hr_tensor_count(&b->m->tensors[t]), LR, 0.9f, 1e-4f, false, b->fresh);
    }
    b->fresh = false;
    hr_exec_params(b->e);
}

/* Cross-entropy of what the last forward pass said: its mean goes to the next backward pass. */
static double lose(bench *b)
{
    hr_loss_ce(hr_exec_logits(b->e), b->y, 0, b->batch, b->m->classes, 1.0f / (float)b->batch, b->loss,
               hr_exec_dlogits(b->e));
    return hr_tree_sum(b->loss, (size_t)b->batch) / b->batch;
}

static double train_step(bench *b, unsigned flags)
{
    hr_exec_forward(b->e, 0, b->batch, HR_BN_BATCH_UPDATE);
    double loss = lose(b);
    hr_exec_backward(b->e, 0, b->batch, HR_BN_BATCH_UPDATE, flags);
    descend(b);
    return loss;
}

static void attack(bench *b, int steps, bool noise)
{
    hr_attack_opts o = {
        .eps = EPS, .step = STEP, .steps = steps, .random_start = noise, .stream = HR_STREAM_TEST};
    hr_attack_pgd(b->e, &o, b->x, b->y, b->index, b->batch);
}

static void set_images(bench *b)
{
    memcpy(hr_exec_input(b->e), b->x, (size_t)b->batch * b->len * sizeof *b->x);
}

static float clip(float v, float lo, float hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static double infer(bench *b, bool noise)
{
    (void)noise;
    set_images(b);
    hr_exec_infer(b->e, b->batch);
    return lose(b);
}

static double train(bench *b, bool noise)
{
    (void)noise;
    set_images(b);
    return train_step(b, HR_DW);
}

static double pgd10(bench *b, bool noise)
{
    attack(b, 10, noise);
    return train_step(b, HR_DW);
}

static double pgd20(bench *b, bool noise)
{
    attack(b, 20, noise);
    hr_exec_infer(b->e, b->batch);
    return lose(b);
}

/* Shafahi et al. 2019, arXiv:1904.12843: the noise climbs with the gradient that the update uses. */
static double freeat(bench *b, bool noise)
{
    (void)noise;
    size_t n = (size_t)b->batch * b->len;
    float *in = hr_exec_input(b->e);
    for (size_t i = 0; i < n; i++)
        in[i] = clip(b->x[i] + b->delta[i], 0, 1);
    double loss = train_step(b, HR_DX | HR_DW);
    const float *g = hr_exec_dinput(b->e);
    for (size_t i = 0; i < n; i++)
        b->delta[i] = clip(b->delta[i] + EPS * (float)((g[i] > 0) - (g[i] < 0)), -EPS, EPS);
    return loss;
}

static const struct measure {
    const char *name;
    double (*step)(bench *b, bool noise); /* returns the loss of the images that it trained or judged last */
    int passes;                           /* over the network: forward, dx and dw each count */
    int checks;                           /* steps of a check: so many that a wrong gradient shows */
} measures[] = {{"infer", infer, 1, 1},
                {"train", train, 3, 2},
                {"pgd10", pgd10, 23, 1},
                {"pgd20", pgd20, 41, 1},
                {"freeat", freeat, 3, 2}};

/* ---- the machine's peak -------------------------------------------------------------------------------- */

enum { SUMS = 12, TURNS = 1 << 16 };

/* SUMS independent sums, enough to hide the latency of a multiply-add, in the widest registers there are. All
 * loops over them are unrolled, else the compiler keeps them in memory. */
#define EACH_SUM(i, from) _Pragma("GCC unroll 12") for (int i = from; i < SUMS; i++)
#define PEAK(name, set, width)                                                                               \
    __attribute__((target(set))) static double name(void)                                                    \
    {                                                                                                        \
        typedef float v __attribute__((vector_size(width * 4)));                                             \
        v s[SUMS], a = (v){0} + 0.999f, b = (v){0} + 1e-3f;                                                  \
        EACH_SUM(i, 0) s[i] = a * (float)i;                                                                  \
        for (int t = 0; t < TURNS; t++) {                                                                    \
            EACH_SUM(i, 0) s[i] = s[i] * a + b;                                                              \
        }                                                                                                    \
        EACH_SUM(i, 1) s[0] += s[i];                                                                         \
        __asm__ volatile("" : : "m"(s[0]));                                                                  \
        return 2.0 * SUMS * TURNS * width;                                                                   \
    }
#if defined(__x86_64__)
PEAK(peak_v2, "sse4.2", 4)
PEAK(peak_v3, "avx2,fma", 8)
PEAK(peak_v4, "avx512f", 16)
#endif

/* GFLOP/s in the best of many short stretches: what the machine can, not what it could spare. */
static double peak(int threads, double seconds)
{
    double best = 0, start = hr_seconds(), now = start;
    while (now - start < seconds) {
        double flops = 0, from = now;
#pragma omp parallel num_threads(threads) reduction(+ : flops)
        for (int i = 0; i < 20; i++) {
#if defined(__x86_64__)
            const char *isa = hr_compute_isa();
            flops += strcmp(isa, "v4") == 0 ? peak_v4() : strcmp(isa, "v3") == 0 ? peak_v3() : peak_v2();
#endif
        }
        now = hr_seconds();
        best = fmax(best, flops / (now - from) / 1e9);
    }
    return best;
}

/* ---- the network --------------------------------------------------------------------------------------- */

/* One pass whose statistics become the running ones, so that both modes of batch norm see a sane network. */
static void settle_statistics(hr_model *m)
{
    hr_err err = HR_ERR_INIT;
    double was[m->nnodes];
    enum { N = 16 };
    hr_exec *e = hr_exec_new(m, &(hr_exec_opts){.batch = N, .batch_stats = true}, &err);
    if (!e)
        hr_die("%s", err.msg);
    hr_fill_uniform(hr_exec_input(e), N * hr_exec_input_len(e), 0, 1, 1, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < m->nnodes; i++) {
        was[i] = m->nodes[i].bn_momentum;
        m->nodes[i].bn_momentum = 1;
    }
    hr_exec_forward(e, 0, N, HR_BN_BATCH_UPDATE);
    for (int i = 0; i < m->nnodes; i++)
        m->nodes[i].bn_momentum = was[i];
    hr_exec_free(e);
}

/* What was taken to prepare the network is no part of the peak: VmHWM begins anew (proc(5), clear_refs). */
static void forget_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "we");
    if (f) {
        fputs("5", f);
        fclose(f);
    }
}

static hr_model *make_model(const char *net)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    if (hr_zoo_build(net, NULL, &m, &err))
        hr_usage("%s", err.msg);
    hr_zoo_init(m, 1);
    settle_statistics(m);
    forget_peak();
    return m;
}

static float *make_images(size_t n)
{
    float *x = hr_xmalloc(n * sizeof *x);
    hr_fill_uniform(x, n, 0, 1, 1, HR_STREAM_TEST, 0, 0, 0);
    return x;
}

static bench make_bench(const char *net, int batch, bool training)
{
    hr_err err = HR_ERR_INIT;
    bench b = {.m = make_model(net), .batch = batch, .fresh = true};
    hr_exec_opts o = {.batch = batch, .train = training, .device = {.name = getenv("BENCH_DEVICE")}};
    b.e = hr_exec_new(b.m, &o, &err);
    if (!b.e)
        hr_die("%s", err.msg);
    b.len = hr_exec_input_len(b.e);
    size_t n = (size_t)batch;
    b.x = make_images(n * b.len);
    b.delta = hr_xcalloc(n * b.len, sizeof *b.delta);
    b.y = hr_xmalloc(n * sizeof *b.y);
    b.index = hr_xmalloc(n * sizeof *b.index);
    b.loss = hr_xmalloc(n * sizeof *b.loss);
    for (int i = 0; i < batch; i++) {
        b.y[i] = i % b.m->classes;
        b.index[i] = (uint32_t)i;
    }
    b.momentum = hr_xcalloc((size_t)b.m->ntensors, sizeof *b.momentum);
    for (int t = 0; t < b.m->ntensors; t++)
        if (hr_exec_grad(b.e, t))
            b.momentum[t] = hr_xcalloc((size_t)hr_tensor_count(&b.m->tensors[t]), sizeof(float));
    return b;
}

static void release(bench *b)
{
    for (int t = 0; t < b->m->ntensors; t++)
        free(b->momentum[t]);
    free(b->momentum);
    free(b->x);
    free(b->delta);
    free(b->y);
    free(b->index);
    free(b->loss);
    hr_exec_free(b->e);
    hr_model_free(b->m);
}

static void put(const char *name, int ndim, const int64_t *shape, const float *data)
{
    size_t n = 1;
    printf("array %s f4", name);
    for (int d = 0; d < ndim; d++) {
        printf(" %lld", (long long)shape[d]);
        n *= (size_t)shape[d];
    }
    putchar('\n');
    fwrite(data, sizeof *data, n, stdout);
}

static void dump(const char *net, int batch)
{
    hr_model *m = make_model(net);
    const hr_node *in = &m->nodes[0];
    for (int i = 1; i < m->nnodes; i++)
        for (int role = 0; role < HR_P_COUNT; role++)
            if (m->nodes[i].param[role] >= 0) {
                const hr_tensor *t = &m->tensors[m->nodes[i].param[role]];
                char *name = hr_xasprintf("param.%s", t->name);
                put(name, t->ndim, t->shape, hr_tensor_f32(t));
                free(name);
            }
    float *x = make_images((size_t)batch * (size_t)in->c * (size_t)in->h * (size_t)in->w);
    put("batch.input", 4, (int64_t[]){batch, in->h, in->w, in->c}, x); /* NHWC, as the engine has it */
    puts("end");
    free(x);
    hr_model_free(m);
}

/* ---- commands ------------------------------------------------------------------------------------------ */

/* Peak resident memory of this process, VmHWM of /proc/self/status, in MB. */
static double peak_memory(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    double kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb * 1024 / 1e6;
}

static double run(bench *b, const struct measure *what, double seconds)
{
    double start = hr_seconds(), spent;
    int done = 0;
    do {
        what->step(b, true);
        done++;
        spent = hr_seconds() - start;
    } while (spent < seconds);
    return done * (double)b->batch / spent;
}

static double check(bench *b, const struct measure *what)
{
    double loss = 0;
    for (int i = 0; i < what->checks; i++)
        loss = what->step(b, false);
    return loss;
}

/* what: NULL for the peak. */
static void obey(bench *b, const struct measure *what, double macs, int threads)
{
    char line[64];
    double seconds;
    printf("kernels %s, %d threads\n", hr_compute_isa(), threads);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "run %lf", &seconds) == 1)
            printf("%.6g %.1f\n", what ? run(b, what, seconds) : peak(threads, seconds), peak_memory());
        else if (what)
            printf("loss %.6f macs %.0f\n", check(b, what), macs);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    static const hr_opt none[] = {{0}};
    static const hr_tool tool = {"bench_engine",
                                 "NET BATCH MEASURE [SECONDS]",
                                 "The engine at work, measured.\n",
                                 "bench_engine resnet18 64 pgd10 10",
                                 none,
                                 3,
                                 4};
    int at = hr_tool_start(&tool, argc, argv);
    const char *net = argv[at], *name = argv[at + 2];
    int64_t batch;
    double seconds = 0;
    if (!hr_parse_int(argv[at + 1], &batch) || batch < 2 || batch > 4096 ||
        (argv[at + 3] && !hr_parse_real(argv[at + 3], &seconds)))
        hr_usage("BATCH is a whole number from 2 to 4096, SECONDS a number");
    if (strcmp(name, "dump") == 0) {
        dump(net, (int)batch);
        return hr_tool_finish();
    }

    const struct measure *what = NULL;
    for (size_t i = 0; i < HR_COUNT(measures); i++)
        if (strcmp(name, measures[i].name) == 0)
            what = &measures[i];
    if (!what && strcmp(name, "peak"))
        hr_usage("'%s' is no measure", name);
    bench b = {0};
    double macs = 0;
    int threads = hr_default_threads();
    if (what) {
        b = make_bench(net, (int)batch, strcmp(name, "infer") != 0 && strcmp(name, "pgd20") != 0);
        hr_layers layers = hr_layers_of(b.m);
        macs = (double)layers.macs * what->passes;
        hr_layers_release(&layers);
    }
    if (argv[at + 3] && what) {
        double loss = check(&b, what), rate = run(&b, what, seconds);
        printf("%.2f images/s %.1f GFLOP/s loss %.4f isa %s threads %d\n", rate, 2e-9 * rate * macs, loss,
               hr_compute_isa(), threads);
    } else {
        obey(&b, what, macs, threads);
    }
    if (what)
        release(&b);
    return hr_tool_finish();
}
