/* lib/compute/cpu/plan.c -- from a graph to fused steps and one arena (plan.h explains both). */
#include "compute/cpu/plan.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A layer whose dW has more values than this is worked off by panels, so that no partial sum per chunk has to
 * be kept. Which way is taken does not change the bits: the sums and their tree are the same. */
enum { DW_CHUNKWISE_MAX = 65536 };

/* ---- fusion -------------------------------------------------------------------------------------------- */

typedef struct fusion {
    const hr_model *m;
    int *readers; /* live readers of each node */
    int *reader;  /* the last of them */
    bool *live;   /* reaches the output */
    bool *taken;  /* inside a fused step */
    int *step_of; /* e->value while it is being made */
} fusion;

static fusion survey(const hr_model *m, int *value)
{
    size_t n = (size_t)m->nnodes;
    fusion f = {m,
                hr_xcalloc(n, sizeof(int)),
                hr_xcalloc(n, sizeof(int)),
                hr_xcalloc(n, sizeof(bool)),
                hr_xcalloc(n, sizeof(bool)),
                value};
    f.live[m->nnodes - 1] = true;
    for (int i = m->nnodes - 1; i > 0; i--)
        for (int j = 0; f.live[i] && j < m->nodes[i].nin; j++) {
            int in = m->nodes[i].in[j];
            f.live[in] = true;
            f.readers[in]++;
            f.reader[in] = i;
        }
    return f;
}

/* The node that alone reads node i, if it is of this kind; else -1. */
static int sole_reader(const fusion *f, int i, enum hr_op op)
{
    if (f->readers[i] == 1 && f->m->nodes[f->reader[i]].op == op)
        return f->reader[i];
    return -1;
}

/* Take node `next` into a step. */
static int absorb(const fusion *f, int next)
{
    f->taken[next] = true;
    return next;
}

static void fuse(const fusion *f, hr_step *s, int step)
{
    int last = s->node, next;
    if (s->kind == HR_STEP_CONV && (next = sole_reader(f, last, HR_OP_BATCHNORM)) >= 0) {
        s->bn = next;
        last = absorb(f, next);
    }
    if (s->kind == HR_STEP_CONV && (next = sole_reader(f, last, HR_OP_ADD)) >= 0) {
        const hr_node *add = &f->m->nodes[next];
        int other = add->in[0] == last ? add->in[1] : add->in[0];
        if (other < s->node && f->step_of[other] >= 0) {
            s->in2 = f->step_of[other];
            last = absorb(f, next);
        }
    }
    if ((s->kind == HR_STEP_CONV || s->kind == HR_STEP_BN || s->kind == HR_STEP_ADD) &&
        (next = sole_reader(f, last, HR_OP_RELU)) >= 0) {
        s->relu = true;
        last = absorb(f, next);
    }
    f->step_of[last] = step;
    const hr_node *n = &f->m->nodes[last];
    s->c = n->c;
    s->h = n->h;
    s->w = n->w;
    s->len = (size_t)n->c * (size_t)n->h * (size_t)n->w;
}

/* Nodes that only hand their input on. */
static bool changes_nothing(const hr_model *m, const hr_node *n)
{
    const hr_node *in = &m->nodes[n->in[0]];
    return (n->op == HR_OP_FLATTEN && in->h == 1 && in->w == 1) ||
           (n->op == HR_OP_ADAPTIVE_AVGPOOL && in->h == n->h && in->w == n->w);
}

static enum hr_step_kind kind_of(enum hr_op op)
{
    switch (op) {
    case HR_OP_INPUT:
        return HR_STEP_INPUT;
    case HR_OP_NORMALIZE:
        return HR_STEP_AFFINE;
    case HR_OP_CONV2D:
    case HR_OP_LINEAR:
        return HR_STEP_CONV;
    case HR_OP_BATCHNORM:
        return HR_STEP_BN;
    case HR_OP_RELU:
        return HR_STEP_RELU;
    case HR_OP_ADD:
        return HR_STEP_ADD;
    case HR_OP_MAXPOOL:
        return HR_STEP_MAXPOOL;
    case HR_OP_AVGPOOL:
    case HR_OP_ADAPTIVE_AVGPOOL:
        return HR_STEP_AVGPOOL;
    case HR_OP_FLATTEN:
        return HR_STEP_FLATTEN;
    case HR_OP_COUNT:
        break;
    }
    BUG("no step for operation %d", (int)op);
}

static void make_steps(hr_exec *e)
{
    const hr_model *m = e->m;
    fusion f = survey(m, e->value);
    for (int i = 0; i < m->nnodes; i++)
        e->value[i] = -1;
    for (int i = 0; i < m->nnodes; i++) {
        const hr_node *n = &m->nodes[i];
        if (!f.live[i] || f.taken[i])
            continue;
        if (n->nin > 0 && changes_nothing(m, n)) {
            e->value[i] = e->value[n->in[0]];
            continue;
        }
        hr_step *s = &e->steps[e->nsteps];
        *s = (hr_step){
            .kind = kind_of(n->op), .node = i, .bn = n->op == HR_OP_BATCHNORM ? i : -1, .in = -1, .in2 = -1};
        if (n->nin > 0)
            s->in = e->value[n->in[0]];
        if (n->op == HR_OP_ADD)
            s->in2 = e->value[n->in[1]];
        fuse(&f, s, e->nsteps);
        e->nsteps++;
    }
    free(f.readers);
    free(f.reader);
    free(f.live);
    free(f.taken);
}

/* ---- who adds, who overwrites ----------------------------------------------------------------------------
 */

static void connect(hr_exec *e)
{
    bool *written = hr_xcalloc((size_t)e->nsteps, sizeof *written);
    for (int i = 1; i < e->nsteps; i++) {
        hr_step *s = &e->steps[i];
        s->trainable = s->kind == HR_STEP_CONV || s->kind == HR_STEP_BN || e->steps[s->in].trainable ||
                       (s->in2 >= 0 && e->steps[s->in2].trainable);
    }
    /* The backward pass visits the steps from the last to the first, in each the second operand first. */
    for (int i = e->nsteps - 1; i > 0; i--) {
        hr_step *s = &e->steps[i];
        if (s->in2 >= 0) {
            s->in2_add = written[s->in2];
            written[s->in2] = true;
        }
        s->in_add = written[s->in];
        written[s->in] = true;
    }
    free(written);
}

/* ---- memory -----------------------------------------------------------------------------------------------
 */

static size_t padded(size_t floats)
{
    return (floats + HR_SLACK + 15) / 16 * 16;
}

/* First-fit places for the gradients. Time runs backwards through the steps: the gradient of step i is born
 * at its last reader and dies with step i. Returns the room they take together. */
static size_t place_gradients(const hr_exec *e, size_t *offset)
{
    int n = e->nsteps;
    int *born = hr_xmalloc((size_t)n * sizeof *born);
    for (int i = 0; i < n; i++)
        born[i] = i;
    for (int i = 1; i < n; i++) {
        const hr_step *s = &e->steps[i];
        born[s->in] = i;
        if (s->in2 >= 0)
            born[s->in2] = i;
    }
    size_t room = 0;
    for (int i = n - 1; i > 0; i--) {
        size_t len = padded(e->steps[i].len * HR_CHUNK), at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int j = n - 1; j > i; j--) {
                size_t other = padded(e->steps[j].len * HR_CHUNK);
                bool alive_together = j <= born[i]; /* j dies at time j, i is born at time born[i] */
                if (alive_together && at < offset[j] + other && offset[j] < at + len) {
                    at = offset[j] + other;
                    moved = true;
                }
            }
        }
        offset[i] = at;
        if (at + len > room)
            room = at + len;
    }
    free(born);
    return room;
}

static bool keeps_raw(const hr_exec *e, const hr_step *s)
{
    return s->kind == HR_STEP_CONV && s->bn >= 0 && (e->opts.train || e->opts.batch_stats);
}

/* Refuse what this machine cannot hold, before the system hands it out and then kills us for using it. */
static int check_memory(const hr_exec *e, double bytes, hr_err *err)
{
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (bytes <= have)
        return HR_OK;
    return hr_fail(err, HR_EINVAL,
                   "%s in batches of %d images needs %.3g GB of memory, this machine has %.3g", e->m->arch,
                   e->opts.batch, bytes / 1e9, have / 1e9);
}

static int lay_out(hr_exec *e, hr_err *err)
{
    size_t n = (size_t)e->nsteps, at = 0, batch = (size_t)e->chunks * HR_CHUNK;
    size_t *y = hr_xcalloc(n, sizeof *y), *z = hr_xcalloc(n, sizeof *z), *g = hr_xcalloc(n, sizeof *g);
    for (size_t i = 1; i < n; i++) {
        y[i] = at;
        if (i + 1 < n)
            at += padded(e->steps[i].len * HR_CHUNK);
        z[i] = at;
        if (keeps_raw(e, &e->steps[i]))
            at += padded(e->steps[i].len * HR_CHUNK);
    }
    size_t room = at + place_gradients(e, g);
    int rc = check_memory(e, (double)room * e->chunks * sizeof *e->arena, err);
    if (rc)
        goto out;
    e->arena = hr_xaligned(room * (size_t)e->chunks + HR_SLACK, sizeof *e->arena);
    for (size_t i = 0; i < n; i++) {
        hr_step *s = &e->steps[i];
        s->y = e->arena + y[i];
        s->z = keeps_raw(e, s) ? e->arena + z[i] : NULL;
        s->g = e->arena + at + g[i];
        s->y_step = s->z_step = s->g_step = room;
    }
    hr_step *first = &e->steps[0], *last = &e->steps[n - 1];
    e->input = hr_xaligned(batch * first->len + HR_SLACK, sizeof *e->input);
    e->dinput = hr_xaligned(batch * first->len + HR_SLACK, sizeof *e->dinput);
    e->logits = hr_xaligned(batch * last->len + HR_SLACK, sizeof *e->logits);
    e->dlogits = hr_xaligned(batch * last->len + HR_SLACK, sizeof *e->dlogits);
    first->y = e->input;
    first->g = e->dinput;
    first->y_step = first->g_step = first->len * HR_CHUNK;
    last->y = e->logits;
    last->y_step = last->len * HR_CHUNK;
out:
    free(y);
    free(z);
    free(g);
    return rc;
}

/* ---- parameters
 * --------------------------------------------------------------------------------------------- */

static float *channel_values(const hr_step *s)
{
    return hr_xaligned((size_t)s->c + HR_SLACK, sizeof(float));
}

/* The model's active mask as one float per weight. */
static float *expand_mask(const hr_model *m, int node)
{
    const hr_tensor *mask = hr_model_node_tensor(m, node, "mask");
    if (!mask || !m->prune[node].set || !m->prune[node].active)
        return NULL;
    const hr_tensor *w = &m->tensors[m->nodes[node].param[HR_P_WEIGHT]];
    int64_t n = hr_tensor_count(w), in = w->shape[1], per_in = n / w->shape[0] / in;
    bool by_channel = m->prune[node].reg == HR_REG_CHANNEL;
    const uint8_t *bits = mask->data;
    float *f = hr_xmalloc((size_t)n * sizeof *f);
    for (int64_t i = 0; i < n; i++)
        f[i] = bits[by_channel ? i / per_in % in : i] ? 1 : 0;
    return f;
}

static int plan_conv(hr_exec *e, hr_step *s, hr_err *err)
{
    const hr_node *n = &e->m->nodes[s->node];
    const hr_step *in = &e->steps[s->in];
    bool linear = n->op == HR_OP_LINEAR;
    s->conv = (hr_conv){.ci = in->c,
                        .co = n->c,
                        .kh = linear ? 1 : n->kh,
                        .kw = linear ? 1 : n->kw,
                        .stride = linear ? 1 : n->stride,
                        .pad = linear ? 0 : n->pad,
                        .hin = in->h,
                        .win = in->w,
                        .hout = n->h,
                        .wout = n->w};
    int64_t largest = (int64_t)in->len > (int64_t)s->len ? (int64_t)in->len : (int64_t)s->len;
    if (largest * HR_CHUNK > INT32_MAX)
        return hr_fail(err, HR_EINVAL, "layer '%s': a map of %lld values is beyond this engine", n->id,
                       (long long)largest);
    if ((n->kh > 1 || n->pad > 0 || n->stride > 1) &&
        (in->c > HR_CONV_MAX_PADDED || n->c > HR_CONV_MAX_PADDED))
        return hr_fail(err, HR_EINVAL, "layer '%s': %d to %d channels, this engine takes %d", n->id, in->c,
                       n->c, HR_CONV_MAX_PADDED);
    hr_conv_plan(&s->conv, e->k, true);
    size_t weights = (size_t)s->conv.taps * (size_t)s->conv.ci * (size_t)s->conv.co;
    s->dw_tiles = weights > DW_CHUNKWISE_MAX;
    if (n->param[HR_P_BIAS] >= 0)
        s->bias = channel_values(s);
    s->own_mask = expand_mask(e->m, s->node);
    s->eff = hr_xmalloc(weights * sizeof *s->eff);
    return HR_OK;
}

static void add_grad(hr_exec *e, int tensor)
{
    if (tensor >= 0 && !e->grads[tensor])
        e->grads[tensor] = hr_xcalloc((size_t)hr_tensor_count(&e->m->tensors[tensor]), sizeof(float));
}

static int plan_parameters(hr_exec *e, hr_err *err)
{
    for (int i = 1; i < e->nsteps; i++) {
        hr_step *s = &e->steps[i];
        const hr_node *n = &e->m->nodes[s->node];
        int rc;
        if (s->kind == HR_STEP_CONV && (rc = plan_conv(e, s, err)))
            return rc;
        bool has_map = s->kind == HR_STEP_AFFINE || s->bn >= 0 || s->bias;
        if (has_map) {
            s->scale = channel_values(s);
            s->shift = channel_values(s);
        }
        if (s->bn >= 0) {
            float **fields[] = {&s->mean, &s->inv, &s->bscale, &s->bshift, &s->k1, &s->k2, &s->k3};
            for (size_t j = 0; j < HR_COUNT(fields); j++)
                *fields[j] = channel_values(s);
        }
        if (s->bn >= 0 || s->bias)
            s->part = hr_xcalloc((size_t)e->chunks * 3 * (size_t)s->c, sizeof *s->part);
        if (e->opts.train && (s->kind == HR_STEP_CONV || s->kind == HR_STEP_BN)) {
            add_grad(e, n->param[HR_P_WEIGHT]);
            add_grad(e, n->param[HR_P_BIAS]);
        }
        if (e->opts.train && s->bn >= 0) {
            add_grad(e, e->m->nodes[s->bn].param[HR_P_WEIGHT]);
            add_grad(e, e->m->nodes[s->bn].param[HR_P_BIAS]);
        }
    }
    return HR_OK;
}

static void plan_workspaces(hr_exec *e)
{
    size_t scratch = 64, part = 0, tile = 0;
    for (int i = 1; i < e->nsteps; i++) {
        const hr_step *s = &e->steps[i];
        if (s->kind != HR_STEP_CONV)
            continue;
        size_t need = hr_conv_scratch(&s->conv, e->k), depth = (size_t)s->conv.taps * (size_t)s->conv.ci;
        if (need > scratch)
            scratch = need;
        size_t whole = depth * (size_t)s->conv.co, panel = depth * 2 * (size_t)e->k->vw;
        if (!s->dw_tiles && whole > part)
            part = whole;
        if (s->dw_tiles && panel > tile)
            tile = panel;
    }
    e->levels = 2;
    for (int n = e->chunks; n > 1; n = (n + 1) / 2)
        e->levels++;
    size_t threads = (size_t)e->opts.threads;
    e->scratch = hr_xcalloc(threads, sizeof *e->scratch);
    e->tile = hr_xcalloc(threads, sizeof *e->tile);
    e->tasks = hr_xcalloc(threads, sizeof *e->tasks);
    e->tile_len = padded(tile);
    e->dw_part_len = padded(part);
    for (size_t t = 0; t < threads; t++) {
        e->scratch[t] = hr_xaligned(scratch, 1);
        if (e->opts.train && tile)
            e->tile[t] = hr_xaligned(e->tile_len * (size_t)e->levels, sizeof(float));
    }
    if (e->opts.train)
        e->dw_part = hr_xaligned(e->dw_part_len * (size_t)e->chunks, sizeof *e->dw_part);
}

int hr_plan(hr_exec *e, hr_err *err)
{
    size_t nodes = (size_t)e->m->nnodes;
    e->steps = hr_xcalloc(nodes, sizeof *e->steps);
    e->value = hr_xcalloc(nodes, sizeof *e->value);
    e->grads = hr_xcalloc((size_t)e->m->ntensors, sizeof *e->grads);
    make_steps(e);
    if (e->nsteps < 2)
        return hr_fail(err, HR_EINVAL, "the network has no layer");
    connect(e);
    int rc = plan_parameters(e, err);
    if (rc == HR_OK)
        rc = lay_out(e, err);
    if (rc == HR_OK)
        plan_workspaces(e);
    return rc;
}

void hr_plan_release(hr_exec *e)
{
    for (int i = 0; i < e->nsteps; i++) {
        hr_step *s = &e->steps[i];
        hr_conv_release(&s->conv);
        void *owned[] = {s->own_mask, s->eff,    s->scale, s->shift, s->bias, s->mean, s->inv,
                         s->bscale,   s->bshift, s->k1,    s->k2,    s->k3,   s->part};
        for (size_t j = 0; j < HR_COUNT(owned); j++)
            free(owned[j]);
    }
    for (int t = 0; e->grads && t < e->m->ntensors; t++)
        free(e->grads[t]);
    for (int t = 0; e->scratch && t < e->opts.threads; t++) {
        free(e->scratch[t]);
        free(e->tile[t]);
    }
    void *owned[] = {e->steps,   e->value, e->arena,   e->input,   e->dinput, e->logits,
                     e->dlogits, e->grads, e->dw_part, e->scratch, e->tile,   e->tasks};
    for (size_t j = 0; j < HR_COUNT(owned); j++)
        free(owned[j]);
}
