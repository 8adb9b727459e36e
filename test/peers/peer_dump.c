/* test/peers/peer_dump.c -- run a zoo network on a small random batch and print everything that another
 * implementation needs to do the same and to compare.
 *
 *     peer_dump ARCH | python3 test/peers/torch_nets.py
 *
 * The stream is lines of text; a line "array NAME f4|f8 D0 D1 ..." is followed by the array's bytes,
 * row-major, little-endian: arch ARCH array param.KEY ...       parameters and running statistics by
 * state_dict key (float32) array batch.input, array batch.dlogits mode eval                 running
 * statistics; then mode train: batch statistics, running ones moved array SIDE.logits, SIDE.grad.input,
 * SIDE.grad.KEY, and in train SIDE.stat.KEY end SIDE is ref (the oracle, float64). Images are NCHW. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compute/compute.h"
#include "compute/ref.h"
#include "model/model.h"

enum { SEED = 5 };

static void put(const char *prefix, const char *name, char type, int ndim, const int64_t *shape,
                const void *data)
{
    size_t n = type == '8' ? 8 : 4;
    printf("array %s%s f%c", prefix, name, type);
    for (int d = 0; d < ndim; d++) {
        printf(" %lld", (long long)shape[d]);
        n *= shape[d];
    }
    putchar('\n');
    fwrite(data, 1, n, stdout);
}

/* A state in which nothing is 0 or 1 by accident: the zoo's initialisation, then batch norms with affine
 * parameters and statistics spread around their start, and linear layers that keep the signal's size. */
static void randomise(hr_model *m)
{
    hr_zoo_init(m, SEED);
    for (int i = 1; i < m->nnodes; i++) {
        const hr_node *nd = &m->nodes[i];
        for (int role = 0; role < HR_P_COUNT; role++) {
            if (nd->param[role] < 0 || (nd->op != HR_OP_BATCHNORM && nd->op != HR_OP_LINEAR))
                continue;
            const hr_tensor *t = &m->tensors[nd->param[role]];
            float *v = hr_tensor_f32(t);
            size_t n = hr_tensor_count(t);
            if (role == HR_P_BIAS || role == HR_P_MEAN)
                hr_fill_normal(v, n, 0, 0.1f, SEED, HR_STREAM_TEST, i, role, 0);
            else if (nd->op == HR_OP_BATCHNORM)
                hr_fill_uniform(v, n, 0.5f, 1.5f, SEED, HR_STREAM_TEST, i, role, 0);
            else
                hr_fill_normal(v, n, 0, sqrtf(2.0f / t->shape[1]), SEED, HR_STREAM_TEST, i, role, 0);
        }
    }
}

/* Tensors that nodes use, in node order: fn(tensor, role). */
static void each_param(const hr_model *m, void (*fn)(void *ctx, int tensor, int role), void *ctx)
{
    for (int i = 1; i < m->nnodes; i++)
        for (int role = 0; role < HR_P_COUNT; role++)
            if (m->nodes[i].param[role] >= 0)
                fn(ctx, m->nodes[i].param[role], role);
}

struct dump {
    const hr_model *m;
    int batch;
    hr_ref *ref;
    hr_exec *exec;
    bool train; /* batch statistics, and the running ones moved */
};

static void put_param(void *ctx, int tensor, int role)
{
    const struct dump *d = ctx;
    const hr_tensor *t = &d->m->tensors[tensor];
    (void)role;
    put("param.", t->name, '4', t->ndim, t->shape, t->data);
}

static void put_ref(void *ctx, int tensor, int role)
{
    const struct dump *d = ctx;
    const hr_tensor *t = &d->m->tensors[tensor];
    bool stat = role == HR_P_MEAN || role == HR_P_VAR;
    if (!stat)
        put("ref.grad.", t->name, '8', t->ndim, t->shape, hr_ref_grad(d->ref, tensor));
    else if (d->train)
        put("ref.stat.", t->name, '8', t->ndim, t->shape, hr_ref_param(d->ref, tensor));
}

static void put_float(void *ctx, int tensor, int role)
{
    const struct dump *d = ctx;
    const hr_tensor *t = &d->m->tensors[tensor];
    bool stat = role == HR_P_MEAN || role == HR_P_VAR;
    if (!stat)
        put("float.grad.", t->name, '4', t->ndim, t->shape, hr_exec_grad(d->exec, tensor));
    else if (d->train)
        put("float.stat.", t->name, '4', t->ndim, t->shape, t->data); /* the engine moves the model's own */
}

/* (n,h,w,c) to (n,c,h,w) or back. */
static void transpose(const hr_node *image, int batch, const float *from, float *to, bool to_nchw)
{
    size_t plane = (size_t)image->h * image->w, c = image->c;
    for (size_t n = 0; n < (size_t)batch; n++)
        for (size_t i = 0; i < c; i++)
            for (size_t k = 0; k < plane; k++) {
                size_t nchw = (n * c + i) * plane + k, nhwc = (n * plane + k) * c + i;
                to[to_nchw ? nchw : nhwc] = from[to_nchw ? nhwc : nchw];
            }
}

static void run_ref(struct dump *d, const double *dlogits, const int64_t *image_shape,
                    const int64_t *logits_shape)
{
    hr_ref_forward(d->ref, d->batch, d->train ? HR_BN_BATCH_UPDATE : HR_BN_RUNNING);
    hr_ref_backward(d->ref, d->batch, dlogits);
    put("ref.", "logits", '8', 2, logits_shape, hr_ref_logits(d->ref));
    put("ref.", "grad.input", '8', 4, image_shape, hr_ref_dinput(d->ref));
    each_param(d->m, put_ref, d);
}

static void run_exec(struct dump *d, enum hr_bn_mode bn, const char *side, const int64_t *image_shape,
                     const int64_t *logits_shape)
{
    size_t pixels = d->batch * hr_exec_input_len(d->exec);
    float *dinput = hr_xmalloc(pixels * sizeof *dinput);
    hr_exec_forward(d->exec, 0, d->batch, bn);
    hr_exec_backward(d->exec, 0, d->batch, bn, bn == HR_BN_FOLDED ? HR_DX : HR_DX | HR_DW);
    transpose(&d->m->nodes[0], d->batch, hr_exec_dinput(d->exec), dinput, true);
    put(side, "logits", '4', 2, logits_shape, hr_exec_logits(d->exec));
    put(side, "grad.input", '4', 4, image_shape, dinput);
    if (bn != HR_BN_FOLDED)
        each_param(d->m, put_float, d);
    free(dinput);
}

int main(int argc, char **argv)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    if (argc != 2)
        hr_die("usage: peer_dump ARCH");
    /* ResNet50 at a size that costs a twelfth. Its last maps are 2x2 then: two images would leave batch
     * statistics over 8 values, which amplify float's rounding to the edge of the bounds over 53 layers. */
    hr_zoo_opts opts = {0};
    int batch = 2;
    if (strcmp(argv[1], "ResNet50") == 0) {
        opts.h = opts.w = 64;
        batch = 4;
    }
    if (hr_zoo_build(argv[1], &opts, &m, &err))
        hr_die("%s", err.msg);
    randomise(m);

    struct dump d = {.m = m, .batch = batch, .ref = hr_ref_new(m, batch)};
    d.exec = hr_exec_new(m, &(hr_exec_opts){.batch = batch, .threads = 2, .train = true}, &err);
    if (!d.exec)
        hr_die("%s", err.msg);
    const hr_node *in = &m->nodes[0];
    size_t pixels = (size_t)batch * in->c * in->h * in->w, logits = (size_t)batch * m->classes;
    float *x = hr_xmalloc(pixels * sizeof *x), *u = hr_exec_dlogits(d.exec);
    double *dlogits = hr_xmalloc(logits * sizeof *dlogits);
    hr_fill_uniform(x, pixels, 0, 1, SEED, HR_STREAM_TEST, 1000, 0, 0);
    hr_fill_normal(u, logits, 0, 1, SEED, HR_STREAM_TEST, 1000, 1, 0);
    transpose(in, d.batch, x, hr_exec_input(d.exec), false);
    for (size_t i = 0; i < pixels; i++)
        hr_ref_input(d.ref)[i] = x[i];
    for (size_t i = 0; i < logits; i++)
        dlogits[i] = u[i];

    const int64_t image_shape[] = {batch, in->c, in->h, in->w}, logits_shape[] = {batch, m->classes};
    printf("arch %s\n", argv[1]);
    each_param(m, put_param, &d);
    put("batch.", "input", '4', 4, image_shape, x);
    put("batch.", "dlogits", '4', 2, logits_shape, u);
    for (int train = 0; train < 2; train++) {
        d.train = train;
        printf("mode %s\n", train ? "train" : "eval");
        fflush(stdout); /* the reader starts on its own passes */
        run_ref(&d, dlogits, image_shape, logits_shape);
        if (!train)
            run_exec(&d, HR_BN_FOLDED, "folded.", image_shape, logits_shape);
        run_exec(&d, train ? HR_BN_BATCH_UPDATE : HR_BN_RUNNING, "float.", image_shape, logits_shape);
    }
    puts("end");
    hr_ref_free(d.ref);
    hr_exec_free(d.exec);
    hr_model_free(m);
    free(x);
    free(dlogits);
    if (ferror(stdout) || fflush(stdout))
        hr_die("cannot write to standard output");
    return 0;
}
