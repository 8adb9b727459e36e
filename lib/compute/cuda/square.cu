/* lib/compute/cuda/square.cu -- the Square attack's draws, proposals and decisions (lib/attack/square.c has
 * the algorithm).
 *
 * What is drawn are words of Philox, so squares, stripes, signs and tiles are the CPU's. Sides and bumps are
 * made by the CPU's own code and lie in a table; which entry counts follows from the number of the query,
 * which is the turn on the device. So all queries behind the first are the same work, recorded once. In the
 * l-inf ball a point has the CPU's bits; lengths in the l2 ball are added in the block's tree. An image that
 * is broken is left alone. */
#include "device.h"
#include "logits.h"
#include "noise.h"

enum { BLOCKS = 1 << 12, STARTS = 1 << 20 }; /* counter blocks of a query, of the starting point */

/* Word number m of image i's draws behind block `from`. */
static __device__ uint32_t word(const hr_cuda_noise &k, size_t i, uint32_t from, uint32_t m)
{
    uint32_t w[4];
    draw(k, k.c1, i, from + m / 4, w);
    return w[m % 4];
}

/* 0..n-1. */
static __device__ int below(uint32_t word, int n)
{
    return (int)(((uint64_t)word * (uint64_t)n) >> 32);
}

static __device__ float sign(uint32_t word)
{
    return word >> 31 ? 1.0f : -1.0f;
}

/* A query's squares: where in the table, and which words they are drawn from. */
struct query {
    int level, side;
    uint32_t from;
};

static __device__ query query_of(const hr_cuda_squares *s, uint32_t turn)
{
    int level = 0;
    while (level + 1 < s->levels && (uint32_t)s->begin[level + 1] <= turn)
        level++;
    return {level, s->side[level], STARTS + turn * BLOCKS};
}

/* Value number r of an image. */
struct spot {
    int h, w, c;
};

static __device__ spot spot_of(size_t r, const hr_cuda_shape &m)
{
    return {(int)(r / (size_t)m.c / (size_t)m.w), (int)(r / (size_t)m.c % (size_t)m.w),
            (int)(r % (size_t)m.c)};
}

static __device__ bool within(const spot &p, int h0, int w0, int side)
{
    return p.h >= h0 && p.h < h0 + side && p.w >= w0 && p.w < w0 + side;
}

/* A thread per value. Traffic: 2; bound: memory (Philox once per value), once per attack. */
static __global__ void stripes_kernel(const hr_cuda_turns *t, size_t n, hr_cuda_shape m, float eps,
                                      const float *x, float *next, hr_cuda_searcher *s)
{
    size_t len = (size_t)m.h * (size_t)m.w * (size_t)m.c;
    hr_cuda_noise k = t->key;
    EACH(p, n)
    {
        spot at = spot_of(p % len, m);
        float change = eps * sign(word(k, p / len, 0, (uint32_t)(at.c * m.w + at.w)));
        next[p] = clip(x[p] + change, 0.0f, 1.0f);
        if (p % len == 0)
            s[p / len] = {};
    }
}

/* A thread per value. Traffic: 3; bound: memory (Philox once or twice per value). */
static __global__ void square_kernel(const hr_cuda_turns *t, const hr_cuda_squares *table, size_t n,
                                     hr_cuda_shape m, float eps, const float *x, const hr_cuda_searcher *s,
                                     const float *best, float *next)
{
    size_t len = (size_t)m.h * (size_t)m.w * (size_t)m.c;
    hr_cuda_noise k = t->key;
    query q = query_of(table, t->turn);
    EACH(p, n)
    {
        size_t i = p / len;
        if (s[i].broken)
            continue;
        spot at = spot_of(p % len, m);
        uint32_t w[4];
        draw(k, k.c1, i, q.from, w);
        float v = best[p];
        if (within(at, below(w[0], m.h - q.side + 1), below(w[1], m.w - q.side + 1), q.side)) {
            float change = 2.0f * eps * sign(at.c < 2 ? w[2 + at.c] : word(k, i, q.from, 2 + (uint32_t)at.c));
            v = clip(clip(v + change, x[p] - eps, x[p] + eps), 0.0f, 1.0f);
        }
        next[p] = v;
    }
}

/* The bump of side `side` at place k, transposed when asked. */
static __device__ float bump(const float *b, int side, int k, bool transposed)
{
    return b[transposed ? k % side * side + k / side : k];
}

/* v (the block's image: a change) becomes the image x + eps v/|v| within [0,1]. */
static __device__ void onto_sphere(size_t len, float eps, const float *x, float *v)
{
    double sum = 0;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        sum += (double)v[p] * (double)v[p];
    float scale = (float)((double)eps / (sqrt(block_sum(sum, threadIdx.x, blockDim.x)) + 1e-12));
    for (size_t p = threadIdx.x; p < len; p += blockDim.x)
        v[p] = clip(x[p] + scale * v[p], 0.0f, 1.0f);
}

/* A block per image, 16 bytes shared per thread. Traffic: 5; bound: latency of the block's sum, once per
 * attack. */
static __global__ void grid_kernel(const hr_cuda_turns *t, const hr_cuda_squares *table, const float *bumps,
                                   hr_cuda_shape m, float eps, const float *x, float *next,
                                   hr_cuda_searcher *s)
{
    size_t i = blockIdx.x, len = (size_t)m.h * (size_t)m.w * (size_t)m.c;
    hr_cuda_noise k = t->key;
    int side = table->side[table->levels], h0 = m.h % side / 2, w0 = m.w % side / 2;
    int rows = (m.h - h0) / side, columns = (m.w - w0) / side;
    const float *b = bumps + table->at[table->levels];
    for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
        spot at = spot_of(p, m);
        int row = at.h < h0 ? rows : (at.h - h0) / side, column = at.w < w0 ? columns : (at.w - w0) / side;
        float v = 0;
        if (row < rows && column < columns) {
            uint32_t first = (uint32_t)((row * columns + column) * (1 + m.c));
            int place = (at.h - h0) % side * side + (at.w - w0) % side;
            v = sign(word(k, i, 0, first + 1 + (uint32_t)at.c)) *
                bump(b, side, place, word(k, i, 0, first) >> 31);
        }
        next[i * len + p] = v;
    }
    onto_sphere(len, eps, x + i * len, next + i * len);
    if (threadIdx.x == 0)
        s[i] = {};
}

/* A block per image, 16 bytes shared per thread: Algorithm 3. fresh: room for the new square. Traffic: about
 * 8 + 2 per channel (an image is a few KB: mostly from the cache); bound: latency of 2 + 2 c sums. */
static __global__ void mass_kernel(const hr_cuda_turns *t, const hr_cuda_squares *table, const float *bumps,
                                   hr_cuda_shape m, float eps, const float *x_, const hr_cuda_searcher *s,
                                   const float *best_, float *next_, float *fresh_)
{
    size_t i = blockIdx.x, len = (size_t)m.h * (size_t)m.w * (size_t)m.c, pixels = len / (size_t)m.c;
    if (s[i].broken) /* so for the whole block */
        return;
    const float *x = x_ + i * len, *best = best_ + i * len;
    float *v = next_ + i * len, *fresh = fresh_ + i * len;
    hr_cuda_noise k = t->key;
    query q = query_of(table, t->turn);
    int area = q.side * q.side, h[2], w[2];
    for (uint32_t r = 0; r < 2; r++) {
        h[r] = below(word(k, i, q.from, 2 * r), m.h - q.side + 1);
        w[r] = below(word(k, i, q.from, 2 * r + 1), m.w - q.side + 1);
    }
    bool transposed = word(k, i, q.from, 4) >> 31;
    double sum = 0, radius = (double)eps;
    for (size_t p = threadIdx.x; p < len; p += blockDim.x) {
        v[p] = best[p] - x[p];
        sum += (double)v[p] * (double)v[p];
    }
    double length = sqrt(block_sum(sum, threadIdx.x, blockDim.x));
    double unused = radius * radius > length * length ? (radius * radius - length * length) / m.c : 0.0;
    for (int c = 0; c < m.c; c++) {
        double old = 0, both = 0;
        float up = sign(word(k, i, q.from, 5 + (uint32_t)c));
        for (size_t p = threadIdx.x; p < pixels; p += blockDim.x) {
            spot at = spot_of(p * (size_t)m.c, m);
            double value = (double)v[p * (size_t)m.c + (size_t)c];
            bool first = within(at, h[0], w[0], q.side), second = within(at, h[1], w[1], q.side);
            old += first ? value * value : 0;
            both += first || second ? value * value : 0;
        }
        block_sums(&old, &both, threadIdx.x, blockDim.x);
        sum = 0;
        for (int a = (int)threadIdx.x; a < area; a += (int)blockDim.x) {
            float value = v[((h[0] + a / q.side) * m.w + w[0] + a % q.side) * m.c + c];
            fresh[a] = up * bump(bumps + table->at[q.level], q.side, a, transposed) +
                       (float)((double)value / (1e-12 + sqrt(old)));
            sum += (double)fresh[a] * (double)fresh[a];
        }
        sum = block_sum(sum, threadIdx.x, blockDim.x);
        float scale = (float)(sqrt(unused + both) / (1e-12 + sqrt(sum)));
        for (int a = (int)threadIdx.x; a < area; a += (int)blockDim.x)
            v[((h[1] + a / q.side) * m.w + w[1] + a % q.side) * m.c + c] = 0;
        __syncthreads();
        for (int a = (int)threadIdx.x; a < area; a += (int)blockDim.x)
            v[((h[0] + a / q.side) * m.w + w[0] + a % q.side) * m.c + c] = scale * fresh[a];
    }
    __syncthreads();
    onto_sphere(len, eps, x, v);
}

static void square_start(hr_cuda *d, const hr_cuda_turns *t, const hr_cuda_squares *table, const float *bumps,
                         int n, const hr_cuda_shape *m, float eps, const float *x, float *next,
                         hr_cuda_searcher *s)
{
    size_t len = (size_t)m->h * (size_t)m->w * (size_t)m->c;
    unsigned threads = hr_threads_of(len);
    if (bumps)
        launch(d, "square_start", dim3((unsigned)n), dim3(threads), threads * 2 * sizeof(double), grid_kernel,
               t, table, bumps, *m, eps, x, next, s);
    else
        launch_each(d, "square_start", (size_t)n * len, stripes_kernel, t, (size_t)n * len, *m, eps, x, next,
                    s);
}

static void square_try(hr_cuda *d, const hr_cuda_turns *t, const hr_cuda_squares *table, const float *bumps,
                       int n, const hr_cuda_shape *m, float eps, const float *x, const hr_cuda_searcher *s,
                       const float *best, float *next, float *work)
{
    size_t len = (size_t)m->h * (size_t)m->w * (size_t)m->c;
    unsigned threads = hr_threads_of(len);
    if (bumps)
        launch(d, "square_try", dim3((unsigned)n), dim3(threads), threads * 2 * sizeof(double), mass_kernel,
               t, table, bumps, *m, eps, x, s, best, next, work);
    else
        launch_each(d, "square_try", (size_t)n * len, square_kernel, t, table, (size_t)n * len, *m, eps, x, s,
                    best, next);
}

/* A thread per image. Traffic: its logits and 12 bytes, read and written; bound: latency. */
static __global__ void look_kernel(size_t n, int classes, const hr_cuda_turns *t, const float *z_,
                                   const int32_t *y, hr_cuda_searcher *s)
{
    EACH(i, n)
    {
        const float *z = z_ + i * (size_t)classes;
        hr_cuda_searcher me = s[i];
        int other = y[i] == 0 ? 1 : 0; /* hr_rank_class's first */
        for (int k = other + 1; k < classes; k++)
            if (k != y[i] && z[k] > z[other])
                other = k;
        float margin = z[y[i]] - z[other];
        me.better = !me.broken && class_of(z, classes) == y[i] && (t->turn == 0 || margin < me.best);
        me.broken = me.broken || class_of(z, classes) != y[i];
        me.best = me.better ? margin : me.best;
        s[i] = me;
    }
}

/* A thread per value. Traffic: 2 where the image is better, else none; bound: memory. */
static __global__ void keep_kernel(size_t n, size_t len, const hr_cuda_searcher *s, const float *next,
                                   float *best)
{
    EACH(p, n)
    if (s[p / len].better)
        best[p] = next[p];
}

static void square_look(hr_cuda *d, const hr_cuda_turns *t, int n, size_t len, int classes, const float *z,
                        const int32_t *y, hr_cuda_searcher *s, const float *next, float *best)
{
    launch_each(d, "square_look", (size_t)n, look_kernel, (size_t)n, classes, t, z, y, s);
    launch_each(d, "square_keep", (size_t)n * len, keep_kernel, (size_t)n * len, len, s, next, best);
}

void hr_cuda_fill_square(hr_cuda_plugin_table *t)
{
    t->square_start = square_start;
    t->square_try = square_try;
    t->square_look = square_look;
}
