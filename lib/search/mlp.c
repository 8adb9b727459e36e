/* lib/search/mlp.c -- the three-layer networks of actor and critic, with their gradients and Adam. */
#include "search/search.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_init_names[] = {"normal", "fanin", NULL};

/* Where each block of parameters starts. */
struct parts {
    float *w1, *b1, *w2, *b2, *w3, *b3;
};

static struct parts parts_of(const hr_mlp *n, float *base)
{
    size_t i = (size_t)n->in, h = (size_t)n->hidden;
    struct parts p = {.w1 = base};
    p.b1 = p.w1 + i * h;
    p.w2 = p.b1 + h;
    p.b2 = p.w2 + h * h;
    p.w3 = p.b2 + h;
    p.b3 = p.w3 + h;
    return p;
}

static void fill_uniform(float *w, size_t n, double bound, hr_rng *rng)
{
    for (size_t i = 0; i < n; i++)
        w[i] = (float)(bound * (2 * hr_rng_double(rng) - 1));
}

static void init_parameters(hr_mlp *n, enum hr_init how, hr_rng *rng)
{
    struct parts p = parts_of(n, n->p);
    size_t i = (size_t)n->in, h = (size_t)n->hidden;
    if (how == HR_INIT_NORMAL) {
        for (size_t k = 0; k < n->nparam; k++)
            n->p[k] = (float)(0.01 * hr_rng_normal(rng));
        return;
    }
    fill_uniform(p.w1, i * h + h, 1 / sqrt((double)n->in), rng); /* each weight block with its biases */
    fill_uniform(p.w2, h * h + h, 1 / sqrt((double)n->hidden), rng);
    fill_uniform(p.w3, h + 1, 0.003, rng);
}

void hr_mlp_init(hr_mlp *n, int in, int hidden, int batch, bool logistic, enum hr_init how, hr_rng *rng)
{
    size_t i = (size_t)in, h = (size_t)hidden, b = (size_t)batch;
    *n = (hr_mlp){.in = in, .hidden = hidden, .batch = batch, .logistic = logistic};
    n->nparam = i * h + h + h * h + h + h + 1;
    n->p = hr_xaligned(n->nparam, sizeof(float));
    n->g = hr_xaligned(n->nparam, sizeof(float));
    n->m = hr_xaligned(n->nparam, sizeof(float));
    n->v = hr_xaligned(n->nparam, sizeof(float));
    n->x = hr_xaligned(b * i, sizeof(float));
    n->h1 = hr_xaligned(b * h, sizeof(float));
    n->h2 = hr_xaligned(b * h, sizeof(float));
    n->y = hr_xaligned(b, sizeof(float));
    n->d1 = hr_xaligned(b * h, sizeof(float));
    n->d2 = hr_xaligned(b * h, sizeof(float));
    n->dx = hr_xaligned(b * i, sizeof(float));
    init_parameters(n, how, rng);
}

void hr_mlp_release(hr_mlp *n)
{
    float *all[] = {n->p, n->g, n->m, n->v, n->x, n->h1, n->h2, n->y, n->d1, n->d2, n->dx};
    for (size_t i = 0; i < HR_COUNT(all); i++)
        free(all[i]);
    *n = (hr_mlp){0};
}

/* out[rows][cols] = relu(a[rows][k] w[k][cols] + b) */
static void dense_relu(const float *a, const float *w, const float *b, int rows, int k, int cols, float *out)
{
    for (int r = 0; r < rows; r++)
        memcpy(out + (size_t)r * (size_t)cols, b, (size_t)cols * sizeof *b);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, cols, k, 1, a, k, w, cols, 1, out, cols);
    for (size_t i = 0; i < (size_t)rows * (size_t)cols; i++)
        out[i] = out[i] > 0 ? out[i] : 0;
}

void hr_mlp_forward(hr_mlp *n, int rows)
{
    struct parts p = parts_of(n, n->p);
    dense_relu(n->x, p.w1, p.b1, rows, n->in, n->hidden, n->h1);
    dense_relu(n->h1, p.w2, p.b2, rows, n->hidden, n->hidden, n->h2);
    cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, n->hidden, 1, n->h2, n->hidden, p.w3, 1, 0, n->y, 1);
    for (int r = 0; r < rows; r++) {
        float z = n->y[r] + *p.b3;
        n->y[r] = n->logistic ? 1 / (1 + expf(-z)) : z;
    }
}

/* Gradients of y = a w + b from d = dL/dy: dw = a^T d, db = column sums of d. */
static void dense_backward(const float *a, const float *d, int rows, int k, int cols, float *dw, float *db)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, k, cols, rows, 1, a, k, d, cols, 0, dw, cols);
    memset(db, 0, (size_t)cols * sizeof *db);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            db[c] += d[(size_t)r * (size_t)cols + (size_t)c];
}

void hr_mlp_backward(hr_mlp *n, int rows, const float *dy, bool want_params)
{
    struct parts p = parts_of(n, n->p), g = parts_of(n, n->g);
    int h = n->hidden;
    float db3 = 0;
    if (want_params)
        memset(g.w3, 0, (size_t)h * sizeof(float));
    for (int r = 0; r < rows; r++) {
        /* logistic: dy/dz = y (1-y) */
        float dz = n->logistic ? dy[r] * n->y[r] * (1 - n->y[r]) : dy[r];
        const float *h2 = n->h2 + (size_t)r * (size_t)h;
        float *d2 = n->d2 + (size_t)r * (size_t)h;
        db3 += dz;
        for (int c = 0; c < h; c++) {
            d2[c] = h2[c] > 0 ? dz * p.w3[c] : 0;
            if (want_params)
                g.w3[c] += dz * h2[c];
        }
    }
    /* d1 = (d2 w2^T) where h1 > 0 */
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, h, h, 1, n->d2, h, p.w2, h, 0, n->d1, h);
    for (size_t i = 0; i < (size_t)rows * (size_t)h; i++)
        n->d1[i] = n->h1[i] > 0 ? n->d1[i] : 0;
    /* dx = d1 w1^T */
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, n->in, h, 1, n->d1, h, p.w1, h, 0, n->dx,
                n->in);
    if (!want_params)
        return;
    *g.b3 = db3;
    dense_backward(n->h1, n->d2, rows, h, h, g.w2, g.b2);
    dense_backward(n->x, n->d1, rows, n->in, h, g.w1, g.b1);
}

void hr_mlp_adam(hr_mlp *n, double lr)
{
    const float b1 = 0.9f, b2 = 0.999f, eps = 1e-8f;
    /* Moments of a unit that is never active fade into denormal numbers, with which processors are a hundred
     * times slower; beside eps they are nothing. */
    const float least = 1e-16f;
    n->t++;
    float step = (float)(lr * sqrt(1 - pow(0.999, (double)n->t)) / (1 - pow(0.9, (double)n->t)));
    const float *restrict grad = n->g;
    float *restrict m = n->m, *restrict v = n->v, *restrict p = n->p;
    for (size_t i = 0; i < n->nparam; i++) {
        float g = fabsf(grad[i]) < least ? 0 : grad[i];
        float mean = b1 * m[i] + (1 - b1) * g, square = b2 * v[i] + (1 - b2) * g * g;
        m[i] = fabsf(mean) < least ? 0 : mean;
        v[i] = square < least * least ? 0 : square;
        p[i] -= step * m[i] / (sqrtf(v[i]) + eps);
    }
}

void hr_mlp_follow(hr_mlp *n, const hr_mlp *src, double tau)
{
    float t = (float)tau;
    for (size_t i = 0; i < n->nparam; i++)
        n->p[i] = t * src->p[i] + (1 - t) * n->p[i];
}
