/* test/peers/peer_loss.c -- losses of pairs and optimisers on random numbers, as text for torch_losses.py.
 *
 * Words separated by white space. "loss KIND N CLASSES BETA", then N*CLASSES logits of the images, as many of
 * their attacked copies, N classes; then what we make of them: N losses and the two gradients of their mean.
 * "optimizer NAME N STEPS LR MOMENTUM DECAY", then N numbers, and for each step N gradients and the N numbers
 * behind it. */
#include "train/train.h"

#include <stdlib.h>

static void put(const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("%.9g ", (double)v[i]);
    printf("\n");
}

static void losses(enum hr_pair_loss kind, int n, int classes, double beta, float spread, uint32_t seed)
{
    size_t k = (size_t)n * (size_t)classes;
    float *v = hr_xmalloc(4 * k * sizeof *v);
    double *loss = hr_xmalloc((size_t)n * sizeof *loss);
    int32_t *y = hr_xmalloc((size_t)n * sizeof *y);
    hr_fill_normal(v, 2 * k, 0, spread, seed, HR_STREAM_TEST, 0, 0, 0);
    for (int i = 0; i < n; i++)
        y[i] = i % classes;
    hr_loss_pair(kind, v, v + k, y, n, classes, beta, 1.0f / (float)n, loss, v + 2 * k, v + 3 * k);
    printf("loss %s %d %d %.17g\n", kind == HR_PAIR_MART ? "mart" : "trades", n, classes, beta);
    put(v, k);
    put(v + k, k);
    for (int i = 0; i < n; i++)
        printf("%d ", y[i]);
    printf("\n");
    for (int i = 0; i < n; i++)
        printf("%.17g ", loss[i]);
    printf("\n");
    put(v + 2 * k, k);
    put(v + 3 * k, k);
    free(v);
    free(loss);
    free(y);
}

static void optimizer(const char *name, enum hr_optimizer how, bool nesterov, float lr, float momentum)
{
    enum { N = 50, STEPS = 20 };
    const float decay = 0.01f;
    float p[N], g[N], a[N] = {0}, b[N] = {0};
    hr_fill_normal(p, N, 0, 1, 1, HR_STREAM_TEST, 1, 0, 0);
    printf("optimizer %s %d %d %.9g %.9g %.9g\n", name, N, STEPS, (double)lr, (double)momentum,
           (double)decay);
    put(p, N);
    for (int s = 0; s < STEPS; s++) {
        hr_fill_normal(g, N, 0, 1, 1, HR_STREAM_TEST, 2, (uint32_t)s, 0);
        if (how == HR_SGD)
            hr_sgd_step(p, g, a, N, lr, momentum, decay, nesterov, s == 0);
        else if (how == HR_ADAM)
            hr_adam_step(p, g, a, b, N, lr, decay, s + 1);
        else
            hr_rmsprop_step(p, g, a, b, N, lr, momentum, decay);
        put(g, N);
        put(p, N);
    }
}

int main(void)
{
    for (int kind = HR_PAIR_TRADES; kind <= HR_PAIR_MART; kind++) {
        losses((enum hr_pair_loss)kind, 64, 10, 6.0, 2.0f, 1);
        losses((enum hr_pair_loss)kind, 64, 10, 1.0, 10.0f,
               2); /* sure of itself: probabilities near 0 and 1 */
        losses((enum hr_pair_loss)kind, 7, 2, 6.0, 1.0f, 3);
    }
    optimizer("sgd", HR_SGD, false, 0.1f, 0.0f);
    optimizer("sgd", HR_SGD, false, 0.1f, 0.9f);
    optimizer("nesterov", HR_SGD, true, 0.1f, 0.9f);
    optimizer("adam", HR_ADAM, false, 0.01f, 0.0f);
    optimizer("rmsprop", HR_RMSPROP, false, 0.01f, 0.0f);
    optimizer("rmsprop", HR_RMSPROP, false, 0.01f, 0.9f);
    return 0;
}
