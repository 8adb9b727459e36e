/* lib/compute/cpu/pool.c -- max pooling, average pooling, flatten: NHWC, forward beside backward. */
#include "compute/cpu/plan.h"

#include <string.h>

/* ---- max pooling: y = max over the window; ties and the gradient go to the first maximum, as PyTorch
 * ------- */

/* The position in the window's rows and columns that holds the maximum of channel c, as an offset into x. */
static size_t max_at(const hr_node *n, const hr_step *in, const float *x, int oh, int ow, int c)
{
    size_t best = SIZE_MAX;
    for (int i = 0; i < n->kh; i++)
        for (int j = 0; j < n->kw; j++) {
            int h = oh * n->stride - n->pad + i, w = ow * n->stride - n->pad + j;
            if (h < 0 || w < 0 || h >= in->h || w >= in->w)
                continue;
            size_t at = ((size_t)h * (size_t)in->w + (size_t)w) * (size_t)in->c + (size_t)c;
            if (best == SIZE_MAX || x[at] > x[best] || x[at] != x[at])
                best = at;
        }
    return best;
}

static void max_forward(const hr_step *s, const hr_node *n, const hr_step *in, const float *x, float *y)
{
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, y += s->c) {
            bool first = true;
            for (int i = 0; i < n->kh; i++)
                for (int j = 0; j < n->kw; j++) {
                    int h = oh * n->stride - n->pad + i, w = ow * n->stride - n->pad + j;
                    if (h < 0 || w < 0 || h >= in->h || w >= in->w)
                        continue;
                    const float *p = x + ((size_t)h * (size_t)in->w + (size_t)w) * (size_t)in->c;
                    for (int c = 0; c < s->c; c++)
                        y[c] = first || p[c] > y[c] || p[c] != p[c] ? p[c] : y[c];
                    first = false;
                }
        }
}

static void max_backward(const hr_step *s, const hr_node *n, const hr_step *in, const float *x,
                         const float *g, float *dx)
{
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, g += s->c)
            for (int c = 0; c < s->c; c++)
                dx[max_at(n, in, x, oh, ow, c)] += g[c];
}

/* ---- average pooling over bins [lo,hi): windows, or PyTorch's adaptive floor/ceil edges
 * ---------------------- */

typedef struct bin {
    int lo, hi;
} bin;

static bin bin_of(const hr_node *n, int i, int out, int size, int kernel)
{
    if (n->op == HR_OP_ADAPTIVE_AVGPOOL)
        return (bin){i * size / out, ((i + 1) * size + out - 1) / out};
    return (bin){i * n->stride, i * n->stride + kernel};
}

static void avg_forward(const hr_step *s, const hr_node *n, const hr_step *in, const float *x, float *y)
{
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, y += s->c) {
            bin h = bin_of(n, oh, s->h, in->h, n->kh), w = bin_of(n, ow, s->w, in->w, n->kw);
            float inv = 1.0f / (float)((h.hi - h.lo) * (w.hi - w.lo));
            memset(y, 0, (size_t)s->c * sizeof *y);
            for (int i = h.lo; i < h.hi; i++)
                for (int j = w.lo; j < w.hi; j++) {
                    const float *p = x + ((size_t)i * (size_t)in->w + (size_t)j) * (size_t)in->c;
                    for (int c = 0; c < s->c; c++)
                        y[c] += p[c];
                }
            for (int c = 0; c < s->c; c++)
                y[c] *= inv;
        }
}

static void avg_backward(const hr_step *s, const hr_node *n, const hr_step *in, const float *g, float *dx)
{
    for (int oh = 0; oh < s->h; oh++)
        for (int ow = 0; ow < s->w; ow++, g += s->c) {
            bin h = bin_of(n, oh, s->h, in->h, n->kh), w = bin_of(n, ow, s->w, in->w, n->kw);
            float inv = 1.0f / (float)((h.hi - h.lo) * (w.hi - w.lo));
            for (int i = h.lo; i < h.hi; i++)
                for (int j = w.lo; j < w.hi; j++) {
                    float *p = dx + ((size_t)i * (size_t)in->w + (size_t)j) * (size_t)in->c;
                    for (int c = 0; c < s->c; c++)
                        p[c] += g[c] * inv;
                }
        }
}

/* ---- flatten: from (h,w,c) in memory to PyTorch's (c,h,w) order
 * ------------------------------------------------ */

static void flatten_forward(const hr_step *in, const float *x, float *y)
{
    size_t pixels = (size_t)in->h * (size_t)in->w, ch = (size_t)in->c;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < ch; c++)
            y[c * pixels + p] = x[p * ch + c];
}

static void flatten_backward(const hr_step *in, const float *g, float *dx)
{
    size_t pixels = (size_t)in->h * (size_t)in->w, ch = (size_t)in->c;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < ch; c++)
            dx[p * ch + c] += g[c * pixels + p];
}

void hr_pool_forward(const hr_step *s, const hr_node *node, const hr_step *in, const float *x, int ns,
                     float *y)
{
    for (int i = 0; i < ns; i++, x += in->len, y += s->len) {
        if (s->kind == HR_STEP_MAXPOOL)
            max_forward(s, node, in, x, y);
        else if (s->kind == HR_STEP_AVGPOOL)
            avg_forward(s, node, in, x, y);
        else
            flatten_forward(in, x, y);
    }
}

void hr_pool_backward(const hr_step *s, const hr_node *node, const hr_step *in, const float *x,
                      const float *g, int ns, float *dx, bool add)
{
    if (!add)
        memset(dx, 0, (size_t)ns * in->len * sizeof *dx);
    for (int i = 0; i < ns; i++, x += in->len, g += s->len, dx += in->len) {
        if (s->kind == HR_STEP_MAXPOOL)
            max_backward(s, node, in, x, g, dx);
        else if (s->kind == HR_STEP_AVGPOOL)
            avg_backward(s, node, in, g, dx);
        else
            flatten_backward(in, g, dx);
    }
}
