/* lib/compute/cuda/exec.c -- the executor on a device: its memory, and the passes as queued operations.
 *
 * The steps are those that plan.c fuses for the CPU. A pass goes layer by layer over the whole range: forward
 * and backward of a step are two to six operations. All modes of batch norm run so, also HR_BN_FOLDED, whose
 * scale and shift are an epilogue of their own behind the convolution.
 *
 * What travels. hr_exec_params: parameters and masks to the device. A forward pass: images, if the host's
 * count. HR_BN_BATCH_UPDATE: running statistics back, one piece. HR_DW: gradients back, one piece; neither
 * where learn.c has the optimiser on the device. Everything else when it is asked for (hr_cuda_buffer). */
#include "compute/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t pixels(const hr_step *s)
{
    return (size_t)s->h * (size_t)s->w;
}

static bool of_batch(enum hr_bn_mode mode)
{
    return mode == HR_BN_BATCH || mode == HR_BN_BATCH_UPDATE;
}

void hr_cuda_wait(hr_exec *e)
{
    const char *trouble = e->cuda->t->wait(e->cuda->d);
    if (trouble)
        hr_die("%s failed: %s", e->cuda->name, trouble);
    for (int i = 0; i < HR_CUDA_BUFFERS; i++)
        e->cuda->twin[i].leaving = false;
}

/* ---- memory -------------------------------------------------------------------------------------------- */

float *hr_cuda_take(hr_cuda_exec *c, size_t n, int *rc)
{
    size_t left = 0, bytes = n * sizeof(float);
    float *p = *rc ? NULL : c->t->take(c->d, bytes, &left);
    c->asked += bytes;
    if (p)
        c->taken += bytes;
    else if (!*rc) {
        c->left = left + c->taken;
        *rc = HR_EINVAL;
    }
    return p;
}

int hr_cuda_taken(const hr_exec *e, int rc, hr_err *err)
{
    const hr_cuda_exec *c = e->cuda;
    if (!rc || c->left == 0)
        return rc;
    return hr_fail(err, HR_EINVAL,
                   "%s: out of memory: batches of %d need %zu bytes besides the work memory of convolutions, "
                   "%zu are free; a smaller --batch may help",
                   c->name, e->opts.batch, c->asked, c->left);
}

float *hr_cuda_take_host(hr_cuda_exec *c, size_t n, int *rc, hr_err *err)
{
    float *p = *rc ? NULL : c->t->take_host(c->d, n * sizeof(float));
    if (!p && !*rc)
        *rc = hr_fail(err, HR_EINVAL, "%s: the host has no %zu bytes of page-locked memory", c->name,
                      n * sizeof(float));
    return p;
}

static hr_cuda_twin twin(hr_cuda_exec *c, size_t len, int batch, int *rc, hr_err *err)
{
    size_t n = len * (size_t)batch;
    return (hr_cuda_twin){
        .len = len, .dev = hr_cuda_take(c, n, rc), .host = hr_cuda_take_host(c, n, rc, err)};
}

static size_t count(const hr_exec *e, int tensor)
{
    return (size_t)hr_tensor_count(&e->m->tensors[tensor]);
}

/* A parameter on the device; NULL for tensor -1. */
static float *param(hr_exec *e, int tensor, int *rc)
{
    if (tensor >= 0 && !e->cuda->param[tensor])
        e->cuda->param[tensor] = hr_cuda_take(e->cuda, count(e, tensor), rc);
    return tensor < 0 ? NULL : e->cuda->param[tensor];
}

static hr_cuda_norm norm(hr_exec *e, const hr_step *s, int *rc)
{
    hr_cuda_exec *c = e->cuda;
    const hr_node *n = &e->m->nodes[s->bn];
    size_t ch = (size_t)s->c;
    return (hr_cuda_norm){.gamma = param(e, n->param[HR_P_WEIGHT], rc),
                          .beta = param(e, n->param[HR_P_BIAS], rc),
                          .rmean = c->param[n->param[HR_P_MEAN]],
                          .rvar = c->param[n->param[HR_P_VAR]],
                          .eps = n->bn_eps,
                          .momentum = n->bn_momentum,
                          .mean = hr_cuda_take(c, ch, rc),
                          .inv = hr_cuda_take(c, ch, rc),
                          .scale = hr_cuda_take(c, ch, rc),
                          .shift = hr_cuda_take(c, ch, rc)};
}

/* The model's active mask as one float per weight, or NULL; the caller frees it. */
static float *own_mask(const hr_model *m, int node)
{
    const hr_tensor *mask = hr_model_node_tensor(m, node, "mask");
    if (!mask || !m->prune[node].set || !m->prune[node].active)
        return NULL;
    const hr_tensor *w = &m->tensors[m->nodes[node].param[HR_P_WEIGHT]];
    int64_t n = hr_tensor_count(w), in = w->shape[1], per_in = n / w->shape[0] / in;
    const uint8_t *bits = mask->data;
    float *f = hr_xaligned((size_t)n, sizeof *f);
    for (int64_t i = 0; i < n; i++)
        f[i] = bits[m->prune[node].reg == HR_REG_CHANNEL ? i / per_in % in : i] ? 1 : 0;
    return f;
}

static void place_weights(hr_exec *e, hr_step *s, hr_cuda_place *p, int *rc, hr_err *err)
{
    hr_cuda_exec *c = e->cuda;
    const hr_node *n = &e->m->nodes[s->node];
    const hr_step *in = &e->steps[s->in];
    size_t weights = count(e, n->param[HR_P_WEIGHT]);
    param(e, n->param[HR_P_WEIGHT], rc);
    param(e, n->param[HR_P_BIAS], rc);
    p->eff = hr_cuda_take(c, weights, rc);
    if (e->opts.train)
        p->dw = hr_cuda_take(c, weights, rc);
    float *bits = own_mask(e->m, s->node);
    if (bits && (p->mask = hr_cuda_take(c, weights, rc))) {
        c->t->upload(c->d, p->mask, bits, weights * sizeof *bits);
        hr_cuda_wait(e);
    }
    free(bits);
    if (n->op == HR_OP_LINEAR || *rc)
        return;
    hr_cuda_conv_shape shape = {in->c, n->c, n->kh, n->kw, n->stride, n->pad, in->h, in->w, n->h, n->w};
    p->conv = c->t->conv_new(c->d, &shape, e->opts.batch, e->opts.train);
    if (!p->conv)
        *rc = hr_fail(err, HR_EINVAL, "%s: layer '%s': %s", c->name, n->id, c->t->wait(c->d));
}

/* normalize as an affine map. */
static void place_normalize(hr_exec *e, const hr_step *s, hr_cuda_place *p, int *rc)
{
    hr_cuda_exec *c = e->cuda;
    const hr_node *n = &e->m->nodes[s->node];
    float map[2][HR_MAX_CHANNELS_NORM];
    for (int i = 0; i < s->c; i++) {
        map[0][i] = (float)(1.0 / n->std[i]);
        map[1][i] = (float)(-n->mean[i] / n->std[i]);
    }
    p->fold.scale = hr_cuda_take(c, (size_t)s->c, rc);
    p->fold.shift = hr_cuda_take(c, (size_t)s->c, rc);
    if (*rc)
        return;
    c->t->upload(c->d, p->fold.scale, map[0], (size_t)s->c * sizeof(float));
    c->t->upload(c->d, p->fold.shift, map[1], (size_t)s->c * sizeof(float));
    hr_cuda_wait(e);
}

static void place_step(hr_exec *e, int i, int *rc, hr_err *err)
{
    hr_cuda_exec *c = e->cuda;
    hr_step *s = &e->steps[i];
    hr_cuda_place *p = &c->at[i];
    size_t map = s->len * (size_t)e->opts.batch, ch = (size_t)s->c;
    bool all_modes = e->opts.train || e->opts.batch_stats;
    p->y = i == 0               ? c->twin[HR_CUDA_INPUT].dev
           : i == e->nsteps - 1 ? c->twin[HR_CUDA_LOGITS].dev
                                : hr_cuda_take(c, map, rc);
    p->g = i == 0 ? c->twin[HR_CUDA_DINPUT].dev : hr_cuda_take(c, map, rc);
    if (s->kind == HR_STEP_CONV)
        place_weights(e, s, p, rc, err);
    if (s->kind == HR_STEP_AFFINE)
        place_normalize(e, s, p, rc);
    if (s->bn < 0)
        return;
    p->fold = norm(e, s, rc);
    if (!all_modes)
        return;
    p->now = p->fold;
    p->now.mean = hr_cuda_take(c, ch, rc);
    p->now.inv = hr_cuda_take(c, ch, rc);
    p->now.scale = hr_cuda_take(c, ch, rc);
    p->now.shift = hr_cuda_take(c, ch, rc);
    p->z = s->kind == HR_STEP_CONV ? hr_cuda_take(c, map, rc) : c->at[s->in].y;
    p->k1 = hr_cuda_take(c, ch, rc);
    p->k2 = hr_cuda_take(c, ch, rc);
    p->k3 = hr_cuda_take(c, ch, rc);
}

/* Tensors of a kind lie in one piece, so that they travel together: running statistics (stats), or what has a
 * gradient. fn is called for each of them. */
static void each_tensor(hr_exec *e, bool stats, void (*fn)(hr_exec *e, int tensor, void *ctx), void *ctx)
{
    for (int i = 1; i < e->nsteps; i++) {
        const hr_step *s = &e->steps[i];
        for (int bn = 0; bn < 2; bn++) {
            const hr_node *n = &e->m->nodes[bn ? s->bn : s->node];
            if (bn ? s->bn < 0 : s->kind != HR_STEP_CONV)
                continue;
            for (int role = stats ? HR_P_MEAN : HR_P_WEIGHT; role <= (stats ? HR_P_VAR : HR_P_BIAS); role++)
                if (n->param[role] >= 0)
                    fn(e, n->param[role], ctx);
        }
    }
}

static void count_tensor(hr_exec *e, int tensor, void *ctx)
{
    *(size_t *)ctx += count(e, tensor);
}

static void place_stat(hr_exec *e, int tensor, void *ctx)
{
    size_t *at = ctx;
    e->cuda->param[tensor] = e->cuda->stats + *at;
    *at += count(e, tensor);
}

static void place_grad(hr_exec *e, int tensor, void *ctx)
{
    size_t *at = ctx;
    e->cuda->grad[tensor] = e->cuda->grads + *at;
    e->grads[tensor] = e->cuda->host_grads + *at;
    *at += count(e, tensor);
}

static void place_tensors(hr_exec *e, int *rc, hr_err *err)
{
    hr_cuda_exec *c = e->cuda;
    size_t at = 0;
    each_tensor(e, true, count_tensor, &c->nstats);
    c->stats = hr_cuda_take(c, c->nstats, rc);
    c->host_stats = hr_cuda_take_host(c, c->nstats, rc, err);
    if (!*rc)
        each_tensor(e, true, place_stat, &at);
    if (!e->opts.train)
        return;
    each_tensor(e, false, count_tensor, &c->ngrads);
    c->grads = hr_cuda_take(c, c->ngrads, rc);
    c->host_grads = hr_cuda_take_host(c, c->ngrads, rc, err);
    at = 0;
    if (!*rc)
        each_tensor(e, false, place_grad, &at);
}

static void place_all(hr_exec *e, int *rc, hr_err *err)
{
    hr_cuda_exec *c = e->cuda;
    int batch = e->opts.batch, widest = 1;
    size_t image = e->steps[0].len, classes = e->steps[e->nsteps - 1].len;
    c->twin[HR_CUDA_INPUT] = twin(c, image, batch, rc, err);
    c->twin[HR_CUDA_DINPUT] = twin(c, image, batch, rc, err);
    c->twin[HR_CUDA_LOGITS] = twin(c, classes, batch, rc, err);
    c->twin[HR_CUDA_DLOGITS] = twin(c, classes, batch, rc, err);
    c->x = hr_cuda_take(c, image * (size_t)batch, rc);
    c->target = hr_cuda_take(c, classes * (size_t)batch, rc);
    c->y = (int32_t *)(void *)hr_cuda_take(c, (size_t)batch, rc);
    c->index = (uint32_t *)(void *)hr_cuda_take(c, (size_t)batch, rc);
    c->turns = (hr_cuda_turns *)(void *)hr_cuda_take(c, sizeof *c->turns / sizeof(float), rc);
    hr_cuda_batch_place(e, rc, err);
    place_tensors(e, rc, err);
    for (int i = 0; i < e->nsteps; i++) {
        widest = e->steps[i].c > widest ? e->steps[i].c : widest;
        place_step(e, i, rc, err);
    }
    c->part = (double *)(void *)hr_cuda_take(c, (size_t)widest * 2 * HR_CUDA_PARTS * 2, rc);
}

int hr_cuda_new(hr_exec *e, hr_err *err)
{
    const char *colon = strchr(e->opts.device.name, ':');
    const hr_cuda_plugin_table *t = hr_cuda_load(err);
    char msg[256];
    int rc = HR_OK;
    if (!t)
        return HR_EINVAL;
    int number = colon ? (int)strtol(colon + 1, NULL, 10) : 0;
    hr_cuda *d =
        t->open(number, (e->opts.device.fast ? HR_CUDA_FAST : 0) | (e->opts.device.tf32 ? HR_CUDA_TF32 : 0),
                msg, sizeof msg);
    if (!d)
        return hr_fail(err, HR_EINVAL, "--device %s: %s", e->opts.device.name, msg);
    hr_cuda_exec *c = e->cuda = hr_xcalloc(1, sizeof *c);
    c->t = t;
    c->d = d;
    c->name = hr_xasprintf("cuda:%d", number);
    c->at = hr_xcalloc((size_t)e->nsteps, sizeof *c->at);
    c->param = hr_xcalloc((size_t)e->m->ntensors, sizeof *c->param);
    c->grad = hr_xcalloc((size_t)e->m->ntensors, sizeof *c->grad);
    place_all(e, &rc, err);
    return hr_cuda_taken(e, rc, err);
}

void hr_cuda_free(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    if (!c)
        return;
    hr_cuda_learn_end(e);
    for (size_t i = 0; i < HR_COUNT(c->graphs); i++)
        c->t->forget(c->d, c->graphs[i].graph);
    for (int i = 0; i < e->nsteps; i++)
        c->t->conv_free(c->d, c->at[i].conv);
    for (int t = 0; t < e->m->ntensors; t++)
        e->grads[t] = NULL; /* they lie in host_grads */
    c->t->close(c->d);
    free(c->name);
    free(c->at);
    free(c->param);
    free(c->grad);
    free(c);
    e->cuda = NULL;
}

/* ---- what travels -------------------------------------------------------------------------------------- */

float *hr_cuda_buffer(hr_exec *e, int which)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_twin *b = &c->twin[which];
    if (b->leaving)
        hr_cuda_wait(e);
    if (b->on_dev && !b->fetched) {
        c->t->download(c->d, b->host, b->dev, b->len * (size_t)e->opts.batch * sizeof(float));
        hr_cuda_wait(e);
        b->fetched = true;
    }
    if (which == HR_CUDA_INPUT || which == HR_CUDA_DLOGITS)
        b->on_dev = false; /* the caller may write to it */
    return b->host;
}

static void bring(hr_exec *e, int which, int n0, int n1)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_twin *b = &c->twin[which];
    if (b->on_dev)
        return;
    c->t->upload(c->d, b->dev + b->len * (size_t)n0, b->host + b->len * (size_t)n0,
                 b->len * (size_t)(n1 - n0) * sizeof(float));
    b->leaving = true;
}

static void stat_to_model(hr_exec *e, int tensor, void *ctx)
{
    size_t *at = ctx;
    memcpy(hr_tensor_f32(&e->m->tensors[tensor]), e->cuda->host_stats + *at,
           count(e, tensor) * sizeof(float));
    *at += count(e, tensor);
}

void hr_cuda_fetch_stats(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    size_t at = 0;
    c->t->download(c->d, c->host_stats, c->stats, c->nstats * sizeof(float));
    hr_cuda_wait(e);
    each_tensor(e, true, stat_to_model, &at);
}

void hr_cuda_set_mask(hr_exec *e, int step, const float *mask)
{
    hr_cuda_exec *c = e->cuda;
    const hr_step *s = &e->steps[step];
    int rc = HR_OK;
    hr_err err = HR_ERR_INIT;
    if (mask && !c->at[step].mask)
        c->at[step].mask = hr_cuda_take(c, count(e, e->m->nodes[s->node].param[HR_P_WEIGHT]), &rc);
    if (hr_cuda_taken(e, rc, &err))
        hr_die("%s", err.msg);
    if (!mask && s->mask) { /* back to the model's own */
        float *bits = own_mask(e->m, s->node);
        if (bits)
            c->t->upload(c->d, c->at[step].mask, bits,
                         count(e, e->m->nodes[s->node].param[HR_P_WEIGHT]) * sizeof(float));
        else
            c->at[step].mask = NULL; /* its memory goes with the device */
        hr_cuda_wait(e);
        free(bits);
    }
}

void hr_cuda_settle(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    for (int i = 1; i < e->nsteps; i++) {
        const hr_step *s = &e->steps[i];
        const hr_node *n = &e->m->nodes[s->node];
        const hr_cuda_place *p = &c->at[i];
        int bias = s->kind == HR_STEP_CONV ? n->param[HR_P_BIAS] : -1;
        if (s->kind == HR_STEP_CONV) {
            int ci = e->steps[s->in].c, co = n->c;
            int taps = (int)(count(e, n->param[HR_P_WEIGHT]) / (size_t)ci / (size_t)co);
            c->t->weights(c->d, co, ci, taps, c->param[n->param[HR_P_WEIGHT]], p->mask, p->eff);
        }
        if (s->bn >= 0)
            c->t->norm_running(c->d, s->c, bias >= 0 ? c->param[bias] : NULL, &p->fold);
    }
}

void hr_cuda_params(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_plugin_table *t = c->t;
    for (int i = 0; i < e->m->ntensors; i++)
        if (c->param[i])
            t->upload(c->d, c->param[i], hr_tensor_f32(&e->m->tensors[i]), count(e, i) * sizeof(float));
    for (int i = 1; i < e->nsteps; i++)
        if (e->steps[i].mask)
            t->upload(c->d, c->at[i].mask, e->steps[i].mask,
                      count(e, e->m->nodes[e->steps[i].node].param[HR_P_WEIGHT]) * sizeof(float));
    hr_cuda_settle(e);
    hr_cuda_wait(e); /* the caller may change its tensors from here on */
}

/* ---- forward ------------------------------------------------------------------------------------------- */

/* A range of samples in one step. */
typedef struct range {
    hr_exec *e;
    const hr_step *s, *in, *in2;
    const hr_node *node;
    const hr_cuda_place *p;
    int n0, n;
    size_t rows; /* of the step's map */
    enum hr_bn_mode mode;
} range;

static range range_of(hr_exec *e, int i, int n0, int n1, enum hr_bn_mode mode)
{
    const hr_step *s = &e->steps[i];
    return (range){.e = e,
                   .s = s,
                   .in = &e->steps[s->in],
                   .in2 = s->in2 >= 0 ? &e->steps[s->in2] : NULL,
                   .node = &e->m->nodes[s->node],
                   .p = &e->cuda->at[i],
                   .n0 = n0,
                   .n = n1 - n0,
                   .rows = (size_t)(n1 - n0) * pixels(s),
                   .mode = mode};
}

static float *from(const range *r, float *map, const hr_step *s)
{
    return map ? map + (size_t)r->n0 * s->len : NULL;
}

static float *y_of(const range *r, const hr_step *s)
{
    return s ? from(r, r->e->cuda->at[s - r->e->steps].y, s) : NULL;
}

static float *g_of(const range *r, const hr_step *s)
{
    return s ? from(r, r->e->cuda->at[s - r->e->steps].g, s) : NULL;
}

static float *z_of(const range *r)
{
    return r->s->kind == HR_STEP_BN ? y_of(r, r->in) : from(r, r->p->z, r->s);
}

static hr_cuda_pool pool_of(const range *r)
{
    const hr_node *n = r->node;
    return (hr_cuda_pool){.max = r->s->kind == HR_STEP_MAXPOOL,
                          .adaptive = n->op == HR_OP_ADAPTIVE_AVGPOOL,
                          .c = r->s->c,
                          .hin = r->in->h,
                          .win = r->in->w,
                          .hout = r->s->h,
                          .wout = r->s->w,
                          .kh = n->kh,
                          .kw = n->kw,
                          .stride = n->stride,
                          .pad = n->pad};
}

/* The convolution's or the dense layer's sum alone. */
static void product(const range *r, float *to)
{
    const hr_cuda_exec *c = r->e->cuda;
    const float *x = y_of(r, r->in);
    if (r->p->conv)
        c->t->conv_forward(c->d, r->p->conv, r->n, x, r->p->eff, to);
    else
        c->t->dense_forward(c->d, r->n, r->in->c, r->s->c, x, r->p->eff, to);
}

static const float *bias_of(const range *r)
{
    int t = r->node->param[HR_P_BIAS];
    return r->s->kind == HR_STEP_CONV && t >= 0 ? r->e->cuda->param[t] : NULL;
}

/* A batch norm's scale and shift for this pass. */
static const hr_cuda_norm *statistics(const range *r)
{
    const hr_cuda_exec *c = r->e->cuda;
    if (r->mode == HR_BN_FOLDED)
        return &r->p->fold;
    hr_cuda_norm now = r->p->now;
    now.momentum = r->e->m->nodes[r->s->bn].bn_momentum; /* which callers may change between passes */
    if (r->mode == HR_BN_RUNNING)
        c->t->norm_running(c->d, r->s->c, NULL, &now);
    else
        c->t->norm_batch(c->d, r->rows, r->s->c, z_of(r), r->mode == HR_BN_BATCH_UPDATE, &now, c->part);
    return &r->p->now;
}

static void forward_product(const range *r)
{
    const hr_cuda_exec *c = r->e->cuda;
    const hr_step *s = r->s;
    float *y = y_of(r, s);
    const float *bias = bias_of(r), *res = y_of(r, r->in2);
    if (s->bn < 0) {
        product(r, y);
        if (bias || res || s->relu)
            c->t->affine(c->d, r->rows, s->c, y, y, NULL, bias, res, s->relu);
        return;
    }
    float *z = r->mode == HR_BN_FOLDED ? y : z_of(r);
    product(r, z);
    if (bias && r->mode != HR_BN_FOLDED)
        c->t->affine(c->d, r->rows, s->c, z, z, NULL, bias, NULL, false);
    const hr_cuda_norm *n = statistics(r);
    c->t->affine(c->d, r->rows, s->c, z, y, n->scale, n->shift, res, s->relu);
}

static void forward_step(const range *r)
{
    const hr_cuda_exec *c = r->e->cuda;
    const hr_step *s = r->s;
    const float *x = y_of(r, r->in);
    float *y = y_of(r, s);
    const hr_cuda_norm *n = s->kind == HR_STEP_AFFINE ? &r->p->fold : NULL;
    hr_cuda_pool pool = pool_of(r);
    switch (s->kind) {
    case HR_STEP_INPUT:
        break;
    case HR_STEP_CONV:
        forward_product(r);
        break;
    case HR_STEP_BN:
        n = statistics(r);
        /* fall through */
    case HR_STEP_AFFINE:
        c->t->affine(c->d, r->rows, s->c, x, y, n->scale, n->shift, NULL, s->relu);
        break;
    case HR_STEP_ADD:
    case HR_STEP_RELU:
        c->t->affine(c->d, r->rows, s->c, x, y, NULL, NULL, y_of(r, r->in2),
                     s->relu || s->kind == HR_STEP_RELU);
        break;
    case HR_STEP_MAXPOOL:
    case HR_STEP_AVGPOOL:
        c->t->pool_forward(c->d, &pool, r->n, x, y);
        break;
    case HR_STEP_FLATTEN:
        c->t->flatten(c->d, r->n, (int)pixels(r->in), r->in->c, x, y);
        break;
    }
}

void hr_cuda_pass_forward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn)
{
    for (int i = 1; i < e->nsteps; i++) {
        range r = range_of(e, i, n0, n1, bn);
        forward_step(&r);
    }
    hr_cuda_written(e, HR_CUDA_LOGITS);
}

void hr_cuda_forward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn)
{
    if (hr_interrupted())
        return;
    bring(e, HR_CUDA_INPUT, n0, n1);
    hr_cuda_pass_forward(e, n0, n1, bn);
    if (bn == HR_BN_BATCH_UPDATE && !e->cuda->learner)
        hr_cuda_fetch_stats(e);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* Through ReLU, second operand and batch norm: g becomes the gradient of what the product gave. */
static void backward_epilogue(const range *r, bool dw)
{
    const hr_cuda_exec *c = r->e->cuda;
    const hr_step *s = r->s;
    bool relu = s->relu || s->kind == HR_STEP_RELU, conv_bn = s->kind == HR_STEP_CONV && s->bn >= 0;
    const float *scale = conv_bn && r->mode == HR_BN_FOLDED ? r->p->fold.scale : NULL;
    if (relu || r->in2 || scale)
        c->t->back(c->d, r->rows, s->c, g_of(r, s), relu ? y_of(r, s) : NULL, g_of(r, r->in2), s->in2_add,
                   scale);
    if (s->bn < 0 || r->mode == HR_BN_FOLDED)
        return;
    const hr_node *bn = &r->e->m->nodes[s->bn];
    int gamma = bn->param[HR_P_WEIGHT], beta = bn->param[HR_P_BIAS];
    if (dw || of_batch(r->mode))
        c->t->norm_grad(c->d, r->rows, s->c, g_of(r, s), z_of(r), &r->p->now,
                        dw && gamma >= 0 ? c->grad[gamma] : NULL, dw && beta >= 0 ? c->grad[beta] : NULL,
                        r->p->k1, r->p->k2, r->p->k3, c->part);
}

/* out (+)= g through the batch norm's (or normalize's) affine map. */
static void backward_affine(const range *r, float *out, bool add)
{
    const hr_cuda_exec *c = r->e->cuda;
    bool batch = r->s->bn >= 0 && of_batch(r->mode);
    const hr_cuda_norm *n = r->s->bn >= 0 && r->mode != HR_BN_FOLDED ? &r->p->now : &r->p->fold;
    c->t->grad_affine(c->d, r->rows, r->s->c, g_of(r, r->s), batch ? z_of(r) : NULL,
                      batch ? r->p->k1 : n->scale, r->p->k2, r->p->k3, out, add);
}

static void backward_product(const range *r, bool dx, bool dw)
{
    const hr_cuda_exec *c = r->e->cuda;
    const hr_step *s = r->s;
    const hr_node *n = r->node;
    float *g = g_of(r, s);
    const float *x = y_of(r, r->in);
    int weight = n->param[HR_P_WEIGHT], bias = n->param[HR_P_BIAS], ci = r->in->c;
    if (s->bn >= 0 && r->mode != HR_BN_FOLDED)
        backward_affine(r, g, false);
    if (dx && r->p->conv)
        c->t->conv_dx(c->d, r->p->conv, r->n, g, r->p->eff, g_of(r, r->in), s->in_add);
    else if (dx)
        c->t->dense_dx(c->d, r->n, ci, s->c, g, r->p->eff, g_of(r, r->in), s->in_add);
    if (!dw)
        return;
    if (bias >= 0)
        c->t->column_sums(c->d, r->rows, s->c, g, c->grad[bias], c->part);
    if (r->p->conv)
        c->t->conv_dw(c->d, r->p->conv, r->n, x, g, r->p->dw);
    else
        c->t->dense_dw(c->d, r->n, ci, s->c, x, g, r->p->dw);
    c->t->weight_grad(c->d, s->c, ci, (int)(count(r->e, weight) / (size_t)ci / (size_t)s->c), r->p->dw,
                      c->grad[weight]);
}

static void backward_step(const range *r, unsigned flags)
{
    const hr_cuda_exec *c = r->e->cuda;
    const hr_step *s = r->s;
    bool dw = flags & HR_DW, dx = (flags & HR_DX) || r->in->trainable;
    float *g = g_of(r, s), *to = g_of(r, r->in);
    hr_cuda_pool pool = pool_of(r);
    backward_epilogue(r, dw);
    if (s->kind == HR_STEP_CONV)
        backward_product(r, dx, dw);
    if (!dx)
        return;
    switch (s->kind) {
    case HR_STEP_INPUT:
    case HR_STEP_CONV:
        break;
    case HR_STEP_AFFINE:
    case HR_STEP_BN:
        backward_affine(r, to, s->in_add);
        break;
    case HR_STEP_ADD:
    case HR_STEP_RELU:
        if (s->in_add)
            c->t->add(c->d, (size_t)r->n * s->len, to, g);
        else
            c->t->copy(c->d, to, g, (size_t)r->n * s->len * sizeof(float));
        break;
    case HR_STEP_MAXPOOL:
    case HR_STEP_AVGPOOL:
        c->t->pool_dx(c->d, &pool, r->n, y_of(r, r->in), g, to, s->in_add);
        break;
    case HR_STEP_FLATTEN:
        c->t->flatten_dx(c->d, r->n, (int)pixels(r->in), r->in->c, g, to, s->in_add);
        break;
    }
}

void hr_cuda_pass_backward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn, unsigned flags)
{
    hr_cuda_exec *c = e->cuda;
    range last = range_of(e, e->nsteps - 1, n0, n1, bn);
    const hr_cuda_twin *b = &c->twin[HR_CUDA_DLOGITS];
    c->t->copy(c->d, g_of(&last, last.s), b->dev + b->len * (size_t)n0,
               b->len * (size_t)(n1 - n0) * sizeof(float));
    for (int i = e->nsteps - 1; i > 0; i--) {
        range r = range_of(e, i, n0, n1, bn);
        backward_step(&r, flags);
    }
    hr_cuda_written(e, HR_CUDA_DINPUT);
}

void hr_cuda_backward(hr_exec *e, int n0, int n1, enum hr_bn_mode bn, unsigned flags)
{
    hr_cuda_exec *c = e->cuda;
    if (hr_interrupted())
        return;
    bring(e, HR_CUDA_DLOGITS, n0, n1);
    hr_cuda_pass_backward(e, n0, n1, bn, flags);
    if ((flags & HR_DW) && !c->learner) {
        c->t->download(c->d, c->host_grads, c->grads, c->ngrads * sizeof(float));
        hr_cuda_wait(e);
    }
}
