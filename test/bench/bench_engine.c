/* test/bench/bench_engine.c -- images per second of the engine: bench_engine NET BATCH MEASURE SECONDS.
 *
 * MEASURE is infer, train (forward and backward with batch statistics, SGD step) or pgd10 (ten attack steps
 * with folded batch norm, then a training step). Prints one line: images per second, and the loss of the last
 * batch. torch_bench.py runs it in turns with PyTorch. */
#include "attack/attack.h"
#include "compute/compute.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench {
    hr_model *m;
    hr_exec *e;
    int batch;
    float *x;
    int32_t *y;
    uint32_t *index;
    double *loss;
} bench;

/* The plain part of a step: p -= lr * g. The optimiser itself is elementwise and not what is measured here.
 */
static void descend(bench *b, float lr)
{
    for (int t = 0; t < b->m->ntensors; t++) {
        const float *g = hr_exec_grad(b->e, t);
        if (!g)
            continue;
        float *p = hr_tensor_f32(&b->m->tensors[t]);
        size_t n = (size_t)hr_tensor_count(&b->m->tensors[t]);
        for (size_t i = 0; i < n; i++)
            p[i] -= lr * g[i];
    }
    hr_exec_params(b->e);
}

static void train_step(bench *b)
{
    hr_exec_forward(b->e, 0, b->batch, HR_BN_BATCH_UPDATE);
    hr_loss_ce(hr_exec_logits(b->e), b->y, 0, b->batch, b->m->classes, 1.0f / (float)b->batch, b->loss,
               hr_exec_dlogits(b->e));
    hr_exec_backward(b->e, 0, b->batch, HR_BN_BATCH_UPDATE, HR_DW);
    descend(b, 0.01f);
}

static void step(bench *b, const char *measure)
{
    size_t bytes = (size_t)b->batch * hr_exec_input_len(b->e) * sizeof(float);
    if (strcmp(measure, "pgd10") == 0) {
        hr_attack_opts o = {.eps = 8.0f / 255,
                            .step = 2.0f / 255,
                            .steps = 10,
                            .random_start = true,
                            .stream = HR_STREAM_TEST};
        hr_attack_pgd(b->e, &o, b->x, b->y, b->index, b->batch);
        train_step(b);
        return;
    }
    memcpy(hr_exec_input(b->e), b->x, bytes);
    if (strcmp(measure, "infer") == 0) {
        hr_exec_infer(b->e, b->batch);
        hr_loss_ce(hr_exec_logits(b->e), b->y, 0, b->batch, b->m->classes, 1, b->loss, NULL);
    } else if (strcmp(measure, "train") == 0) {
        train_step(b);
    } else {
        hr_usage("'%s' is none of: infer, train, pgd10", measure);
    }
}

int main(int argc, char **argv)
{
    static const hr_opt none[] = {{0}};
    static const hr_tool tool = {"bench_engine",
                                 "NET BATCH MEASURE SECONDS",
                                 "Images per second of the engine.\n",
                                 "bench_engine resnet18 64 pgd10 10",
                                 none,
                                 4,
                                 4};
    int at = hr_tool_start(&tool, argc, argv);
    int64_t batch;
    double seconds;
    if (!hr_parse_int(argv[at + 1], &batch) || batch < 2 || batch > 4096 ||
        !hr_parse_real(argv[at + 3], &seconds))
        hr_usage("BATCH is a whole number from 2 to 4096, SECONDS a number");

    hr_err err = HR_ERR_INIT;
    bench b = {.batch = (int)batch};
    if (hr_zoo_build(argv[at], NULL, &b.m, &err))
        hr_die("%s", err.msg);
    hr_zoo_init(b.m, 1);
    b.e = hr_exec_new(b.m, &(hr_exec_opts){.batch = b.batch, .train = true}, &err);
    if (!b.e)
        hr_die("%s", err.msg);
    size_t n = (size_t)batch * hr_exec_input_len(b.e);
    b.x = hr_xmalloc(n * sizeof *b.x);
    b.y = hr_xmalloc((size_t)batch * sizeof *b.y);
    b.index = hr_xmalloc((size_t)batch * sizeof *b.index);
    b.loss = hr_xmalloc((size_t)batch * sizeof *b.loss);
    hr_fill_uniform(b.x, n, 0, 1, 1, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < b.batch; i++) {
        b.y[i] = i % b.m->classes;
        b.index[i] = (uint32_t)i;
    }

    step(&b, argv[at + 2]);
    int done = 0;
    double start = hr_seconds(), spent;
    do {
        step(&b, argv[at + 2]);
        done++;
        spent = hr_seconds() - start;
    } while (spent < seconds);
    printf("%.2f images/s loss %.4f isa %s threads %d\n", done * (double)batch / spent,
           hr_tree_sum(b.loss, (size_t)batch) / (double)batch, hr_compute_isa(), hr_exec_threads(b.e));

    hr_exec_free(b.e);
    hr_model_free(b.m);
    free(b.x);
    free(b.y);
    free(b.index);
    free(b.loss);
    return hr_tool_finish();
}
