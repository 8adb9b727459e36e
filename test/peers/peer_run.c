/* test/peers/peer_run.c -- run a network of a file on images from another implementation, clean and under
 * PGD.
 *
 *     peer_run NET.nn N EPS STEP STEPS < images > results
 *
 * stdin: N images, float32 (N,c,h,w); N labels, int32. stdout, float32: the starting noise of the attack
 * (N,c,h,w), logits of the images (N,classes), of the attacked images (N,classes), the attacked images
 * (N,c,h,w). All little-endian. */
#include <stdlib.h>
#include <string.h>

#include "attack/attack.h"
#include "model/model.h"

enum { SEED = 7 };

/* (c, plane) to (plane, c) or back. */
static void transpose(const hr_node *image, const float *from, float *to, bool to_chw)
{
    size_t plane = (size_t)image->h * image->w, c = image->c;
    for (size_t i = 0; i < c; i++)
        for (size_t k = 0; k < plane; k++)
            to[to_chw ? i * plane + k : k * c + i] = from[to_chw ? k * c + i : i * plane + k];
}

static void put(const float *v, size_t n)
{
    if (fwrite(v, sizeof *v, n, stdout) != n)
        hr_die("cannot write to standard output");
}

static void put_images(const hr_node *image, const float *hwc, int n)
{
    size_t len = (size_t)image->c * image->h * image->w;
    float *chw = hr_xmalloc(len * sizeof *chw);
    for (int i = 0; i < n; i++) {
        transpose(image, hwc + i * len, chw, true);
        put(chw, len);
    }
    free(chw);
}

int main(int argc, char **argv)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    int64_t n, steps;
    double eps, step;
    if (argc != 6 || !hr_parse_int(argv[2], &n) || !hr_parse_real(argv[3], &eps) ||
        !hr_parse_real(argv[4], &step) || !hr_parse_int(argv[5], &steps))
        hr_die("usage: peer_run NET N EPS STEP STEPS");
    if (hr_nn_load(argv[1], &m, NULL, &err))
        hr_die_err(&err);
    hr_exec *e = hr_exec_new(m, &(hr_exec_opts){.batch = (int)n, .threads = 2}, &err);
    if (!e)
        hr_die_err(&err);
    const hr_node *in = &m->nodes[0];
    size_t len = hr_exec_input_len(e), logits = (size_t)n * (size_t)m->classes;
    float *x = hr_xmalloc((size_t)n * len * sizeof *x), *chw = hr_xmalloc(len * sizeof *chw);
    int32_t *y = hr_xmalloc((size_t)n * sizeof *y);
    uint32_t *index = hr_xmalloc((size_t)n * sizeof *index);
    hr_attack_opts o = {.eps = (float)eps,
                        .step = (float)step,
                        .steps = (int)steps,
                        .random_start = true,
                        .bn = HR_BN_FOLDED,
                        .seed = SEED,
                        .stream = HR_STREAM_TEST};
    for (int i = 0; i < n; i++) {
        if (fread(chw, sizeof *chw, len, stdin) != len)
            hr_die("the images end early");
        transpose(in, chw, x + i * len, false);
        index[i] = (uint32_t)i;
    }
    if (fread(y, sizeof *y, (size_t)n, stdin) != (size_t)n)
        hr_die("the labels end early");

    /* the start alone, of images in the middle of the range, is the noise */
    float *half = hr_xmalloc((size_t)n * len * sizeof *half);
    for (size_t i = 0; i < (size_t)n * len; i++)
        half[i] = 0.5f;
    o.steps = 0;
    hr_attack_pgd(e, &o, half, y, index, (int)n);
    for (size_t i = 0; i < (size_t)n * len; i++)
        half[i] = hr_exec_input(e)[i] - 0.5f;
    put_images(in, half, (int)n);
    memcpy(hr_exec_input(e), x, (size_t)n * len * sizeof *x);
    hr_exec_forward(e, 0, (int)n, HR_BN_FOLDED);
    put(hr_exec_logits(e), logits);
    o.steps = (int)steps;
    hr_attack_pgd(e, &o, x, y, index, (int)n);
    memcpy(half, hr_exec_input(e), (size_t)n * len * sizeof *half);
    hr_exec_forward(e, 0, (int)n, HR_BN_FOLDED);
    put(hr_exec_logits(e), logits);
    put_images(in, half, (int)n);

    hr_exec_free(e);
    hr_model_free(m);
    free(x);
    free(chw);
    free(half);
    free(y);
    free(index);
    if (fflush(stdout))
        hr_die("cannot write to standard output");
    return 0;
}
