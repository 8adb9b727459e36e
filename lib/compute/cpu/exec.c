/* lib/compute/cpu/exec.c -- forward and backward passes over the planned steps.
 *
 * Two ways to walk. Depth first (HR_BN_FOLDED): one thread takes a chunk of samples through all steps. Layer
 * by layer (the other modes): all threads take a step together, each its own samples, and meet only where
 * batch statistics or weight gradients are merged. Between two such meetings lies the end of one step
 * (normalise; on the way back the gradients of batch norm and operand) and the beginning of the next
 * (convolve and sum; on the way back ReLU and sums); they take turns, some samples at a time, so that what
 * the one wrote is still in a near cache when the other reads it. Winograd layers with wide weights and few
 * tiles go the other way: all samples are transformed, multiplied, and transformed back, so that the weights
 * are read once. (Depth first, the threads meet for that; team.h.) Both ways to walk call the same chunk
 * functions, and both skip what is left once a signal has come: a pass over a large network may take minutes,
 * one chunk in one step takes a fraction of a second.
 *
 * Batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167). With M values per channel, xh = (z-mean)*inv:
 *     y  = gamma*xh + beta                                 s1 = sum dy = dbeta,  s2 = sum dy*xh = dgamma
 *     dz = gamma*inv*(dy - s1/M - xh*s2/M)  =  dy*k1 + z*k2 + k3   per channel. */
#include "compute/cpu/crew.h"
#include "compute/cuda/cuda.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

const char *const hr_bn_mode_names[5] = {"folded", "batch", "batch+update", "running", NULL};

/* Denormals cost a hundred times the cycles of other numbers and carry nothing here. */
static void flush_denormals(void)
{
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* FTZ | DAZ */
#endif
}

/* ---- making
 * ------------------------------------------------------------------------------------------------ */

hr_exec *hr_exec_new(hr_model *m, const hr_exec_opts *opts, hr_err *err)
{
    if (opts->batch < 1 || opts->threads < 0) {
        hr_fail(err, HR_EINVAL, "batch %d with %d threads: both must be positive", opts->batch,
                opts->threads);
        return NULL;
    }
    hr_exec *e = hr_xcalloc(1, sizeof *e);
    e->m = m;
    e->k = hr_kernels_get();
    e->opts = *opts;
    if (!e->opts.threads)
        e->opts.threads = hr_default_threads();
    bool cuda = opts->device.name && strcmp(opts->device.name, "cpu") != 0 && !opts->describe;
    if (cuda ? hr_plan_graph(e, err) || hr_cuda_new(e, err) : hr_plan(e, err)) {
        hr_exec_free(e);
        return NULL;
    }
    if (!opts->describe)
        hr_exec_params(e);
    return e;
}

void hr_exec_free(hr_exec *e)
{
    if (!e)
        return;
    hr_cuda_free(e);
    hr_plan_release(e);
    free(e);
}

float *hr_exec_input(hr_exec *e)
{
    return e->cuda ? hr_cuda_buffer(e, HR_CUDA_INPUT) : e->input;
}

float *hr_exec_logits(hr_exec *e)
{
    return e->cuda ? hr_cuda_buffer(e, HR_CUDA_LOGITS) : e->logits;
}

float *hr_exec_dlogits(hr_exec *e)
{
    return e->cuda ? hr_cuda_buffer(e, HR_CUDA_DLOGITS) : e->dlogits;
}

float *hr_exec_dinput(hr_exec *e)
{
    return e->cuda ? hr_cuda_buffer(e, HR_CUDA_DINPUT) : e->dinput;
}

size_t hr_exec_input_len(const hr_exec *e)
{
    return e->steps[0].len;
}

void hr_exec_shape(const hr_exec *e, int *c, int *h, int *w)
{
    const hr_node *in = &e->m->nodes[0];
    *c = in->c;
    *h = in->h;
    *w = in->w;
}

int hr_exec_classes(const hr_exec *e)
{
    return e->m->classes;
}

int hr_exec_threads(const hr_exec *e)
{
    return e->opts.threads;
}

bool hr_exec_on_device(const hr_exec *e)
{
    return e->cuda;
}

uint64_t hr_exec_tasks(const hr_exec *e, int thread)
{
    return e->tasks ? e->tasks[thread] : 0;
}

const float *hr_exec_grad(const hr_exec *e, int tensor)
{
    return e->grads[tensor];
}

void hr_exec_set_mask(hr_exec *e, int node, const float *mask)
{
    int step = -1;
    for (int i = 1; i < e->nsteps; i++)
        if (e->steps[i].kind == HR_STEP_CONV && e->steps[i].node == node)
            step = i;
    if (step < 0)
        BUG("node %d has no weight to mask", node);
    hr_step *s = &e->steps[step];
    if (e->cuda)
        hr_cuda_set_mask(e, step, mask);
    s->mask = mask;
    if (mask && !s->eff && !e->cuda)
        s->eff = hr_xaligned((size_t)s->conv.co * (size_t)s->conv.ci * (size_t)s->conv.taps, sizeof *s->eff);
}

/* ---- profile: where the time goes -------------------------------------------------------------------------
 */

void hr_exec_profile(hr_exec *e)
{
    if (!e->work)
        e->work = hr_xcalloc((size_t)e->opts.threads * (size_t)e->nsteps * HR_PASS_KINDS, sizeof *e->work);
    e->work_start = hr_seconds();
}

static const float *param(const hr_exec *e, int node, int role)
{
    int t = e->m->nodes[node].param[role];
    return t < 0 ? NULL : hr_tensor_f32(&e->m->tensors[t]);
}

/* The weights that the kernels take: the model's, or their product with a mask. */
static const float *mask_of(const hr_step *s)
{
    return s->mask ? s->mask : s->own_mask;
}

static void take_mask(const hr_exec *e, hr_step *s)
{
    const float *w = param(e, s->node, HR_P_WEIGHT), *mask = mask_of(s);
    size_t n = (size_t)s->conv.co * (size_t)s->conv.ci * (size_t)s->conv.taps;
    for (size_t i = 0; mask && i < n; i++)
        s->eff[i] = w[i] * mask[i];
}

/* The step's affine map from running statistics. */
static void take_affine(const hr_exec *e, hr_step *s)
{
    const hr_node *n = &e->m->nodes[s->node];
    const float *bias = s->bias ? param(e, s->node, HR_P_BIAS) : NULL;
    if (bias)
        memcpy(s->bias, bias, (size_t)s->c * sizeof *bias);
    if (s->kind == HR_STEP_AFFINE) {
        for (int c = 0; c < s->c; c++) {
            s->scale[c] = (float)(1.0 / n->std[c]);
            s->shift[c] = (float)(-n->mean[c] / n->std[c]);
        }
    } else if (s->bn >= 0) {
        const float *gamma = param(e, s->bn, HR_P_WEIGHT), *beta = param(e, s->bn, HR_P_BIAS);
        const float *mean = param(e, s->bn, HR_P_MEAN), *var = param(e, s->bn, HR_P_VAR);
        for (int c = 0; c < s->c; c++) {
            double inv = 1.0 / sqrt((double)var[c] + e->m->nodes[s->bn].bn_eps);
            double scale = (gamma ? (double)gamma[c] : 1.0) * inv;
            s->scale[c] = (float)scale;
            s->shift[c] = (float)((beta ? (double)beta[c] : 0.0) +
                                  ((bias ? (double)bias[c] : 0.0) - (double)mean[c]) * scale);
        }
    } else if (bias) {
        for (int c = 0; c < s->c; c++) {
            s->scale[c] = 1;
            s->shift[c] = bias[c];
        }
    }
}

/* The last layers, which have the most weights, begin: what is left for one thread alone at the end is small.
 */
void hr_exec_params(hr_exec *e)
{
    if (e->cuda) {
        hr_cuda_params(e);
        return;
    }
#pragma omp parallel num_threads(e->opts.threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int i = e->nsteps - 1; i > 0; i--) {
            hr_step *s = &e->steps[i];
            double from = clock_of(e);
            if (s->kind == HR_STEP_CONV)
                take_mask(e, s);
            if (s->scale)
                take_affine(e, s);
            clocked(e, s, HR_PASS_WEIGHTS, 0, &from);
        }
#pragma omp for schedule(dynamic, 1)
        for (int i = 2 * e->nsteps - 1; i > 1; i--) {
            hr_step *s = &e->steps[i / 2];
            double from = clock_of(e);
            if (s->kind == HR_STEP_CONV)
                hr_conv_pack(&s->conv, e->k, mask_of(s) ? s->eff : param(e, s->node, HR_P_WEIGHT),
                             i % 2 ? HR_PASS_FORWARD : HR_PASS_DX);
            clocked(e, s, HR_PASS_WEIGHTS, 0, &from);
        }
    }
}

/* ---- one step on some samples ----------------------------------------------------------------------------
 */

static bool batch_norm_of(enum hr_bn_mode mode)
{
    return mode == HR_BN_BATCH || mode == HR_BN_BATCH_UPDATE;
}

/* What the batch norm of step s normalises: the raw convolution, or the input activation. */
static float *bn_input(const hr_exec *e, const hr_step *s, int n)
{
    return s->kind == HR_STEP_BN ? y_of(&e->steps[s->in], n) : z_of(s, n);
}

/* What is done of a Winograd layer that a whole batch goes through together: all; or what comes before the
 * products of all samples, or what comes behind them. */
enum stage { STAGE_ALL, STAGE_IN, STAGE_OUT };

/* Samples [n0, n0+ns) on their way through a step, on one thread. */
typedef struct span {
    int n0, ns;
    enum hr_bn_mode mode;
    float *room; /* the thread's, of HR_BN_FOLDED */
    void *scratch;
    enum stage stage;
    int batch; /* samples of all tasks, when it is not STAGE_ALL */
} span;

static float *y_in(const hr_exec *e, const hr_step *s, const span *p)
{
    if (p->mode != HR_BN_FOLDED)
        return y_of(s, p->n0);
    if (s == e->steps || s == &e->steps[e->nsteps - 1])
        return s->y + (size_t)p->n0 * s->len;
    return s->keep ? s->kept + (size_t)p->n0 * s->len : p->room + s->room_y * (size_t)p->ns;
}

static float *g_in(const hr_exec *e, const hr_step *s, const span *p)
{
    if (p->mode != HR_BN_FOLDED)
        return g_of(s, p->n0);
    return s == e->steps ? s->g + (size_t)p->n0 * s->len : p->room + s->room_g * (size_t)p->ns;
}

/* Keep where y is positive. */
static void keep_signs(const hr_exec *e, const hr_step *s, const span *p, const float *y)
{
    uint8_t *bits = s->bits + (size_t)p->n0 * s->bits_len;
    if (s->len % 8 == 0)
        e->k->signs((size_t)p->ns * s->len, y, bits);
    else
        for (int i = 0; i < p->ns; i++)
            e->k->signs(s->len, y + (size_t)i * s->len, bits + (size_t)i * s->bits_len);
}

/* A pass of a convolution over the span. */
static void convolve(const hr_exec *e, const hr_step *s, enum hr_pass pass, const span *p, const float *from,
                     float *to, const hr_epilogue *out, bool add)
{
    const hr_conv *c = &s->conv;
    bool folded = p->mode == HR_BN_FOLDED;
    const hr_wino *w = p->stage || (folded && e->team) ? hr_plan_shared(e, s, pass, !folded) : NULL;
    int rows = w ? p->batch * w->tiles : 0, at = w ? p->n0 * w->tiles : 0;
    if (p->stage == STAGE_IN)
        hr_wino_shared_in(w, e->k, from, p->ns, at, rows, e->shared);
    else if (p->stage == STAGE_OUT)
        hr_wino_shared_out(w, e->k, p->ns, at, rows, e->shared, to, out, add);
    else if (w && hr_team_run(e->team, w, e->k, from, p->ns, to, out, add))
        return;
    else if (pass == HR_PASS_FORWARD)
        hr_conv_forward(c, e->k, from, p->ns, to, out, p->scratch);
    else
        hr_conv_dx(c, e->k, from, p->ns, to, out, add, p->scratch);
}

/* First part of a step's forward. With a batch norm outside HR_BN_FOLDED this ends at the raw values. */
static void forward_begin(hr_exec *e, hr_step *s, const span *p)
{
    const hr_step *in = &e->steps[s->in], *in2 = s->in2 >= 0 ? &e->steps[s->in2] : NULL;
    const float *x = y_in(e, in, p);
    float *y = y_in(e, s, p);
    int n0 = p->n0, ns = p->ns;
    enum hr_bn_mode mode = p->mode;
    void *scratch = p->scratch;
    size_t rows = (size_t)ns * pixels(s);
    double from = clock_of(e);
    switch (s->kind) {
    case HR_STEP_INPUT:
        break;
    case HR_STEP_CONV:
        if (s->bn >= 0 && mode != HR_BN_FOLDED) {
            convolve(e, s, HR_PASS_FORWARD, p, x, z_of(s, n0), &(hr_epilogue){.shift = s->bias}, false);
        } else {
            hr_epilogue out = {.scale = s->bn >= 0 ? s->scale : NULL,
                               .shift = s->shift,
                               .res = in2 ? y_in(e, in2, p) : NULL,
                               .relu = s->relu};
            if (mode == HR_BN_FOLDED && s->bits_out)
                out.bits = s->bits + (size_t)n0 * s->bits_len;
            convolve(e, s, HR_PASS_FORWARD, p, x, y, &out, false);
        }
        break;
    case HR_STEP_AFFINE:
        e->k->affine(rows, s->c, x, y, s->scale, s->shift, NULL, false);
        break;
    case HR_STEP_BN:
        if (mode == HR_BN_FOLDED)
            e->k->affine(rows, s->c, x, y, s->scale, s->shift, NULL, s->relu);
        break;
    case HR_STEP_ADD:
        e->k->affine(rows, s->c, x, y, NULL, NULL, y_in(e, in2, p), s->relu);
        break;
    case HR_STEP_RELU:
        e->k->affine(rows, s->c, x, y, NULL, NULL, NULL, true);
        break;
    case HR_STEP_MAXPOOL:
    case HR_STEP_AVGPOOL:
    case HR_STEP_FLATTEN:
        hr_pool_forward(e->k, s, &e->m->nodes[s->node], in, x, ns, y, scratch);
        break;
    }
    if (mode == HR_BN_FOLDED && s->bits && !s->bits_out)
        keep_signs(e, s, p, y);
    clocked(e, s, HR_PASS_FORWARD, p->stage == STAGE_IN ? 0 : ns * s->macs, &from);
}

/* Second part, outside HR_BN_FOLDED: normalise. */
static void forward_finish(hr_exec *e, hr_step *s, int n0, int ns)
{
    const float *res = s->in2 >= 0 ? y_of(&e->steps[s->in2], n0) : NULL;
    double from = clock_of(e);
    e->k->affine((size_t)ns * pixels(s), s->c, bn_input(e, s, n0), y_of(s, n0), s->bscale, s->bshift, res,
                 s->relu);
    clocked(e, s, HR_PASS_REST, 0, &from);
}

/* What the gradient of a convolution's batch norm is multiplied with in HR_BN_FOLDED; or NULL. */
static const float *folded_slope(const hr_step *s)
{
    return s->kind == HR_STEP_CONV && s->bn >= 0 ? s->scale : NULL;
}

/* First part of a step's backward: through the relu, and into the second operand; then times scale (or NULL).
 * g becomes the gradient of the batch norm's output, or of the operation's. */
static void backward_begin(hr_exec *e, hr_step *s, const span *p, const float *scale)
{
    const hr_step *in2 = s->in2 >= 0 ? &e->steps[s->in2] : NULL;
    bool relu = s->relu || s->kind == HR_STEP_RELU;
    float *g = g_in(e, s, p), *to = in2 ? g_in(e, in2, p) : NULL;
    if (p->mode == HR_BN_FOLDED && s->gated) /* done where g was written */
        return;
    double from = clock_of(e);
    if (relu && p->mode == HR_BN_FOLDED && s->bits) {
        size_t whole = s->len % 8 ? 1 : (size_t)p->ns; /* samples whose bits lie side by side */
        for (size_t i = 0; i < (size_t)p->ns; i += whole)
            e->k->back_bits(whole * pixels(s), s->c, g + i * s->len,
                            s->bits + ((size_t)p->n0 + i) * s->bits_len, to ? to + i * s->len : NULL,
                            s->in2_add, scale);
    } else if (relu || in2 || scale) {
        e->k->back((size_t)p->ns * pixels(s), s->c, g, relu ? y_in(e, s, p) : NULL, to, s->in2_add, scale);
    }
    clocked(e, s, HR_PASS_REST, 0, &from);
}

/* Second part: through the batch norm (g*k1 + z*k2 + k3, or g*scale, but that is done with HR_BN_FOLDED) and
 * the operation. dx: the operand's gradient is wanted. */
static void backward_finish(hr_exec *e, hr_step *s, const span *p, bool dx)
{
    const hr_step *in = &e->steps[s->in];
    float *g = g_in(e, s, p), *to = g_in(e, in, p);
    int n0 = p->n0, ns = p->ns;
    enum hr_bn_mode mode = p->mode;
    void *scratch = p->scratch;
    size_t rows = (size_t)ns * pixels(s);
    bool affine = s->bn >= 0 || s->kind == HR_STEP_AFFINE;
    bool batch = batch_norm_of(mode) && s->bn >= 0;
    const float *z = batch ? bn_input(e, s, n0) : NULL, *k1 = batch ? s->k1 : s->scale;
    double from = clock_of(e);
    switch (s->kind) {
    case HR_STEP_INPUT:
        break;
    case HR_STEP_CONV:
        if (affine && mode != HR_BN_FOLDED && p->stage != STAGE_OUT)
            e->k->grad_affine(rows, s->c, g, z, k1, s->k2, s->k3, g, false);
        clocked(e, s, HR_PASS_REST, 0, &from);
        if (dx) {
            hr_epilogue out = {0};
            if (mode == HR_BN_FOLDED && s->gates) {
                out.gate = in->bits + (size_t)n0 * in->bits_len;
                out.slope = folded_slope(in);
            }
            convolve(e, s, HR_PASS_DX, p, g, to, &out, s->in_add);
        }
        break;
    case HR_STEP_AFFINE:
    case HR_STEP_BN:
        if (dx)
            e->k->grad_affine(rows, s->c, g, z, k1, s->k2, s->k3, to, s->in_add);
        break;
    case HR_STEP_ADD:
    case HR_STEP_RELU:
        if (dx)
            e->k->copy((size_t)ns * s->len, to, g, s->in_add);
        break;
    case HR_STEP_MAXPOOL:
    case HR_STEP_AVGPOOL:
    case HR_STEP_FLATTEN:
        if (dx)
            hr_pool_backward(e->k, s, &e->m->nodes[s->node], in, y_in(e, in, p), g, ns, to, s->in_add,
                             scratch);
        break;
    }
    clocked(e, s, HR_PASS_DX, dx && p->stage != STAGE_IN ? ns * s->macs : 0, &from);
}

/* ---- depth first
 * -------------------------------------------------------------------------------------------- */

static void check_range(const hr_exec *e, int n0, int n1, bool whole)
{
    if (n0 < 0 || n1 <= n0 || n1 > e->opts.batch || (whole && n0))
        BUG("samples %d..%d of a batch of %d", n0, n1, e->opts.batch);
}

/* Call fn for the tasks that make up [n0,n1), on this thread. */
static void each_task(hr_exec *e, int n0, int n1, void (*fn)(hr_exec *e, const span *p))
{
    int t = omp_get_thread_num();
    for (int n = n0, ns; n < n1; n += ns) {
        ns = n1 - n < e->most ? n1 - n : e->most;
        fn(e, &(span){.n0 = n,
                      .ns = ns,
                      .mode = HR_BN_FOLDED,
                      .room = e->arena + (size_t)t * e->thread_room,
                      .scratch = e->scratch[t]});
    }
    e->tasks[t] += (uint64_t)(n1 - n0);
}

static void folded_forward(hr_exec *e, const span *p)
{
    for (int i = 1; i < e->nsteps && !hr_interrupted(); i++)
        forward_begin(e, &e->steps[i], p);
}

static void start_gradient(hr_exec *e, const span *p)
{
    hr_step *last = &e->steps[e->nsteps - 1];
    memcpy(g_in(e, last, p), e->dlogits + (size_t)p->n0 * last->len,
           (size_t)p->ns * last->len * sizeof(float));
}

static void folded_backward(hr_exec *e, const span *p)
{
    start_gradient(e, p);
    for (int i = e->nsteps - 1; i > 0 && !hr_interrupted(); i--) {
        hr_step *s = &e->steps[i];
        backward_begin(e, s, p, folded_slope(s));
        backward_finish(e, s, p, true);
    }
}

void hr_exec_chunks(hr_exec *e, int n, void (*fn)(void *ctx, int n0, int n1), void *ctx)
{
    check_range(e, 0, n, true);
    if (e->cuda) { /* one task */
        fn(ctx, 0, n);
        return;
    }
    int task = hr_plan_task(e, n);
#pragma omp parallel num_threads(e->opts.threads)
    {
        flush_denormals();
        if (e->team) {
#pragma omp single
            hr_team_open(e->team, omp_get_num_threads());
        }
#pragma omp for schedule(dynamic, 1) nowait
        for (int n0 = 0; n0 < n; n0 += task)
            fn(ctx, n0, n - n0 < task ? n : n0 + task);
        hr_team_leave(e->team);
    }
}

static void infer_chunk(void *ctx, int n0, int n1)
{
    hr_exec_forward(ctx, n0, n1, HR_BN_FOLDED);
}

void hr_exec_infer(hr_exec *e, int n)
{
    hr_exec_chunks(e, n, infer_chunk, e);
}

/* ---- layer by layer
 * ------------------------------------------------------------------------------------------ */

static crew crew_of(const hr_exec *e, int n, enum hr_bn_mode mode)
{
    flush_denormals();
    crew w = {.thread = omp_get_thread_num(), .threads = omp_get_num_threads(), .n = n, .mode = mode};
    int tasks = (n + e->task - 1) / e->task;
    w.chunks = hr_plan_chunks(e, n);
    w.begin = tasks * w.thread / w.threads * e->task;
    w.end = tasks * (w.thread + 1) / w.threads * e->task;
    if (w.end > n)
        w.end = n;
    return w;
}

/* A thread's own samples are whole tasks side by side, which it takes one at a time: from n on, ns. After a
 * signal those that are left are skipped; the barriers are passed, so that all threads come out. */
static bool next_task(const crew *w, int task, int *n, int *ns)
{
    *n = *ns ? *n + *ns : w->begin;
    *ns = w->end - *n < task ? w->end - *n : task;
    return *ns > 0 && !hr_interrupted();
}

#define EACH_TASK(w, task, n, ns) for (int n = 0, ns = 0; next_task(w, task, &n, &ns);)

/* Samples of the part of step s that begins at m; a task ends at end. Parts are whole chunks or lie in one.
 */
static int part_at(const hr_exec *e, const hr_step *s, int m, int end)
{
    int left = end - m, chunk_left = e->chunk - m % e->chunk;
    if (s->part_of_task < e->chunk && chunk_left < left)
        left = chunk_left;
    return left < s->part_of_task ? left : s->part_of_task;
}

/* The parts [m,m+ms) of samples [n,n+ns). */
#define EACH_PART(e, s, n, ns, m, ms)                                                                        \
    for (int m = n, ms = part_at(e, s, m, n + ns); m < n + ns; m += ms, ms = part_at(e, s, m, n + ns))

/* Merge the chunks' means and squared deviations of channel c (Chan, Golub & LeVeque 1979) in a fixed tree.
 */
static void merge_stats(const hr_exec *e, const hr_step *s, const crew *w, int c, double *mean, double *m2)
{
    double mu[w->chunks], q[w->chunks], n[w->chunks];
    for (int i = 0; i < w->chunks; i++) {
        mu[i] = part_of(s, i, 0)[c];
        q[i] = part_of(s, i, 1)[c];
        n[i] = (double)chunk_at(e, i * e->chunk, w->n) * (double)pixels(s);
    }
    for (int half = 1; half < w->chunks; half *= 2)
        for (int i = 0; i + half < w->chunks; i += 2 * half) {
            double d = mu[i + half] - mu[i], total = n[i] + n[i + half];
            mu[i] += d * n[i + half] / total;
            q[i] += q[i + half] + d * d * n[i] * n[i + half] / total;
            n[i] = total;
        }
    *mean = mu[0];
    *m2 = q[0];
}

/* Statistics of this thread's channels: mean, inv, and the affine map that they make. */
static void settle_stats(hr_exec *e, hr_step *s, const crew *w)
{
    const hr_node *bn = &e->m->nodes[s->bn];
    const float *gamma = param(e, s->bn, HR_P_WEIGHT), *beta = param(e, s->bn, HR_P_BIAS);
    float *rmean = hr_tensor_f32(&e->m->tensors[bn->param[HR_P_MEAN]]);
    float *rvar = hr_tensor_f32(&e->m->tensors[bn->param[HR_P_VAR]]);
    double count = (double)w->n * (double)pixels(s);
    int lo, hi;
    share(w, s->c, &lo, &hi);
    for (int c = lo; c < hi; c++) {
        double mean = (double)rmean[c], var = (double)rvar[c];
        if (batch_norm_of(w->mode)) {
            double m2;
            merge_stats(e, s, w, c, &mean, &m2);
            var = m2 / count;
            if (w->mode == HR_BN_BATCH_UPDATE) {
                double unbiased = count > 1 ? m2 / (count - 1) : var, a = bn->bn_momentum;
                rmean[c] = (float)((1 - a) * (double)rmean[c] + a * mean);
                rvar[c] = (float)((1 - a) * (double)rvar[c] + a * unbiased);
            }
        }
        double inv = 1.0 / sqrt(var + bn->bn_eps), scale = (gamma ? (double)gamma[c] : 1.0) * inv;
        s->mean[c] = (float)mean;
        s->inv[c] = (float)inv;
        s->bscale[c] = (float)scale;
        s->bshift[c] = (float)((beta ? (double)beta[c] : 0.0) - mean * scale);
    }
}

/* The rows of a chunk, from `from` to `to`, that sums may take once samples [n0,n0+ns) of it are there: those
 * before n0 had their turn, and all but the last go by whole `unit`s. */
typedef struct rows {
    size_t from, to;
} rows;

static rows rows_ready(const hr_exec *e, const hr_step *s, const crew *w, int n0, int ns, size_t unit)
{
    int c0 = n0 / e->chunk * e->chunk, end = c0 + chunk_at(e, c0, w->n);
    size_t from = (size_t)(n0 - c0) * pixels(s), to = (size_t)(n0 + ns - c0) * pixels(s);
    return (rows){from / unit * unit, n0 + ns == end ? to : to / unit * unit};
}

/* Statistics of samples [n,n+ns) of one chunk. */
static void chunk_stats(hr_exec *e, hr_step *s, const crew *w, int n, int ns)
{
    int q = n / e->chunk;
    double from = clock_of(e);
    rows r = rows_ready(e, s, w, n, ns, hr_stats_rows(s->c));
    if (r.to > r.from)
        e->k->stats(r.from, r.to - r.from, s->c, bn_input(e, s, q * e->chunk) + r.from * (size_t)s->c,
                    part_of(s, q, 0), part_of(s, q, 1));
    clocked(e, s, HR_PASS_REST, 0, &from);
}

/* The products of all samples, between STAGE_IN and STAGE_OUT of all threads. */
static void multiply_together(hr_exec *e, const hr_step *s, enum hr_pass pass, const hr_wino *f,
                              const crew *w)
{
    int lo, hi;
    share(w, f->points, &lo, &hi);
#pragma omp barrier
    double from = clock_of(e);
    hr_wino_shared_multiply(f, e->k, w->n * f->tiles, lo, hi, e->shared);
    clocked(e, s, pass, 0, &from);
#pragma omp barrier
}

/* The end of the step before and the beginning of this one; part by part, so that values are read from near.
 */
static void layer_forward(hr_exec *e, hr_step *s, const crew *w)
{
    const hr_wino *shared = hr_plan_shared(e, s, HR_PASS_FORWARD, true);
    span p = {.mode = w->mode, .scratch = e->scratch[w->thread], .batch = w->n};
    if (shared) {
#pragma omp barrier /* what e->shared holds of the layer before is used up */
        p.stage = STAGE_IN;
        EACH_TASK(w, e->task, n, ns)
        {
            if (s[-1].bn >= 0)
                forward_finish(e, s - 1, n, ns);
            p.n0 = n, p.ns = ns;
            forward_begin(e, s, &p);
        }
        multiply_together(e, s, HR_PASS_FORWARD, shared, w);
        p.stage = STAGE_OUT;
    }
    EACH_TASK(w, e->task, n, ns)
    {
        EACH_PART(e, s, n, ns, m, ms)
        {
            if (s[-1].bn >= 0 && !shared)
                forward_finish(e, s - 1, m, ms);
            p.n0 = m, p.ns = ms;
            forward_begin(e, s, &p);
            for (int i = 0; i < ms && s->bn >= 0 && batch_norm_of(w->mode); i += e->chunk)
                chunk_stats(e, s, w, m + i, chunk_at(e, i, ms));
        }
        e->tasks[w->thread] += (uint64_t)ns;
    }
    if (s->bn < 0)
        return;
#pragma omp barrier
    settle_stats(e, s, w);
#pragma omp barrier
}

void hr_exec_forward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn)
{
    check_range(e, n0, n1, bn != HR_BN_FOLDED);
    if (bn != HR_BN_FOLDED && !e->opts.train && !e->opts.batch_stats)
        BUG("batch norm mode '%s' was not planned", hr_bn_mode_names[bn]);
    if (e->cuda) {
        hr_cuda_forward(e, n0, n1, bn);
        return;
    }
    if (bn == HR_BN_FOLDED) {
        each_task(e, n0, n1, folded_forward);
        return;
    }
#pragma omp parallel num_threads(e->opts.threads)
    {
        crew w = crew_of(e, n1, bn);
        for (int i = 1; i < e->nsteps; i++)
            layer_forward(e, &e->steps[i], &w);
        EACH_TASK(&w, e->task, n, ns)
        if (e->steps[e->nsteps - 1].bn >= 0)
            forward_finish(e, &e->steps[e->nsteps - 1], n, ns);
    }
}

/* From the merged sums: dgamma, dbeta, and the affine map of the gradient, for this thread's channels. */
static void settle_sums(hr_exec *e, hr_step *s, const crew *w, bool dw)
{
    const hr_node *bn = &e->m->nodes[s->bn];
    float *dgamma = bn->param[HR_P_WEIGHT] >= 0 ? e->grads[bn->param[HR_P_WEIGHT]] : NULL;
    float *dbeta = bn->param[HR_P_BIAS] >= 0 ? e->grads[bn->param[HR_P_BIAS]] : NULL;
    double count = (double)w->n * (double)pixels(s);
    int lo, hi;
    share(w, s->c, &lo, &hi);
    for (int c = lo; c < hi; c++) {
        double s1 = hr_merge_sums(s, w, 0, c), s2 = hr_merge_sums(s, w, 1, c);
        if (dw && dgamma)
            dgamma[c] = (float)s2;
        if (dw && dbeta)
            dbeta[c] = (float)s1;
        double k1 = (double)s->bscale[c], xh = k1 * (double)s->inv[c] * s2 / count;
        s->k1[c] = (float)k1;
        s->k2[c] = (float)-xh;
        s->k3[c] = (float)(xh * (double)s->mean[c] - k1 * s1 / count);
    }
}

/* backward_begin with the sums of a batch norm: of g, and of g times the normalised input, over each chunk.
 */
static void begin_with_sums(hr_exec *e, hr_step *s, const crew *w, int n0, int ns)
{
    const hr_step *in2 = s->in2 >= 0 ? &e->steps[s->in2] : NULL;
    double from = clock_of(e);
    for (int n = n0; n < n0 + ns; n += e->chunk) {
        rows r = rows_ready(e, s, w, n, chunk_at(e, n, n0 + ns), HR_SUM_ROWS);
        int c0 = n / e->chunk * e->chunk;
        size_t at = r.from * (size_t)s->c;
        if (r.to > r.from)
            e->k->grad_sums(r.from > 0, r.to - r.from, s->c, g_of(s, c0) + at,
                            s->relu ? y_of(s, c0) + at : NULL, in2 ? g_of(in2, c0) + at : NULL, s->in2_add,
                            bn_input(e, s, c0) + at, s->mean, s->inv, part_of(s, n / e->chunk, 0),
                            part_of(s, n / e->chunk, 1));
    }
    clocked(e, s, HR_PASS_REST, 0, &from);
}

/* Whether the backward pass of s needs sums over the batch. */
static bool wants_sums(const hr_step *s, const crew *w, unsigned flags)
{
    return s->bn >= 0 && ((flags & HR_DW) || batch_norm_of(w->mode));
}

static void layer_begin(hr_exec *e, hr_step *s, const crew *w, unsigned flags, int n, int ns)
{
    if (wants_sums(s, w, flags))
        begin_with_sums(e, s, w, n, ns);
    else
        backward_begin(e, s, &(span){.n0 = n, .ns = ns, .mode = w->mode}, NULL);
    e->tasks[w->thread] += (uint64_t)ns;
}

/* The end of this step, whose sums are settled, and the beginning of the one before it, part by part. */
static void layer_backward(hr_exec *e, hr_step *s, const crew *w, unsigned flags)
{
    bool dw = flags & HR_DW, dx = (flags & HR_DX) || e->steps[s->in].trainable;
    bool weights = dw && s->kind == HR_STEP_CONV, sums = wants_sums(s - 1, w, flags);
    void *scratch = e->scratch[w->thread];
    const hr_wino *shared = dx ? hr_plan_shared(e, s, HR_PASS_DX, true) : NULL;
    span p = {.mode = w->mode, .scratch = scratch, .batch = w->n};

    if (shared) {
#pragma omp barrier /* what e->shared holds of the layer before is used up */
        p.stage = STAGE_IN;
        EACH_TASK(w, e->task, n, ns)
        {
            p.n0 = n, p.ns = ns;
            backward_finish(e, s, &p, dx);
        }
        multiply_together(e, s, HR_PASS_DX, shared, w);
        p.stage = STAGE_OUT;
    }
    EACH_TASK(w, e->task, n, ns)
    {
        EACH_PART(e, s, n, ns, m, ms)
        {
            p.n0 = m, p.ns = ms;
            backward_finish(e, s, &p, dx);
            layer_begin(e, s - 1, w, flags, m, ms);
            int end = m + ms, first = (end - 1) / e->chunk * e->chunk; /* of the chunk that is ready now */
            if (weights && (end == n + ns || end % e->chunk == 0))
                hr_dw_begin(e, s, m < first ? m : first, end - (m < first ? m : first), scratch);
        }
    }
    if (!weights && !sums)
        return;
#pragma omp barrier
    if (weights)
        hr_dw_finish(e, s, w);
    if (sums)
        settle_sums(e, s - 1, w, dw);
#pragma omp barrier
}

void hr_exec_backward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn, unsigned flags)
{
    check_range(e, n0, n1, bn != HR_BN_FOLDED);
    if ((flags & HR_DW) && (bn == HR_BN_FOLDED || !e->opts.train))
        BUG("weight gradients were not planned");
    if (e->cuda) {
        hr_cuda_backward(e, n0, n1, bn, flags);
        return;
    }
    if (bn == HR_BN_FOLDED) {
        each_task(e, n0, n1, folded_backward);
        return;
    }
#pragma omp parallel num_threads(e->opts.threads)
    {
        crew w = crew_of(e, n1, bn);
        hr_step *last = &e->steps[e->nsteps - 1];
        EACH_TASK(&w, e->task, n, ns)
        {
            start_gradient(e, &(span){.n0 = n, .ns = ns, .mode = bn});
            layer_begin(e, last, &w, flags, n, ns);
        }
#pragma omp barrier
        if (wants_sums(last, &w, flags))
            settle_sums(e, last, &w, flags & HR_DW);
#pragma omp barrier
        for (int i = e->nsteps - 1; i > 0; i--) {
            if (w.thread == 0)
                hr_crash_point("backward");
            layer_backward(e, &e->steps[i], &w, flags);
        }
    }
}
