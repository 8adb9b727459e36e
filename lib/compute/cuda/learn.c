/* lib/compute/cuda/learn.c -- a training step on the device (lib/train/train.c's, for an executor there).
 *
 * What is trained, the optimiser's memory, scores, masks, ADMM's variables and the running statistics live on
 * the device from hr_cuda_learn on. A step sends images up and brings its losses down, which the host looks
 * at while the next step is under way; all else stays, until somebody wants to save or look at it
 * (hr_cuda_learn_fetch). The formulas are lib/train's; here is the order in which the plug-in's operations
 * make them up:
 *
 *     gradient    d as it is; d * mask; sign(s) * d * w; d + rho (w - z + u)
 *     optimiser   SGD, Adam, RMSprop
 *     scores      the largest |s| become the layer's mask
 *     settle      weight * mask in the layout of the convolutions, batch norm's scale and shift
 */
#include "compute/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

/* A trainee's memory on the device. */
typedef struct place {
    float *value, *buf, *buf2, *z, *u, *gradient, *chosen;
    float *mask; /* the layer's */
} place;

struct hr_cuda_learner {
    hr_cuda_trainee *list;
    place *at;
    int n;
    float *before;            /* running statistics as the step began */
    float *first;             /* all gradients of the first pass of two */
    float *attacked, *dclean; /* of pairs: images, the loss's gradient by the logits of the images */
    float *noise;             /* of free adversarial training */
    float *host_noise;
    double *result;              /* HR_CUDA_CLEAN, HR_CUDA_ROBUST, losses */
    double *told[HR_CUDA_SLOTS]; /* the same, page-locked, of the host */
    void *work;
};

static size_t images(const hr_exec *e, int n)
{
    return e->cuda->twin[HR_CUDA_INPUT].len * (size_t)n;
}

static size_t logits(const hr_exec *e, int n)
{
    return e->cuda->twin[HR_CUDA_LOGITS].len * (size_t)n;
}

/* ---- memory -------------------------------------------------------------------------------------------- */

/* A twin of the host's n numbers; NULL where there are none. */
static float *raise(hr_cuda_exec *c, const float *host, size_t n, int *rc)
{
    float *dev = host ? hr_cuda_take(c, n, rc) : NULL;
    if (dev)
        c->t->upload(c->d, dev, host, n * sizeof *host);
    return dev;
}

static float *mask_of(const hr_exec *e, int tensor)
{
    for (int i = 1; i < e->nsteps; i++)
        if (e->steps[i].kind == HR_STEP_CONV && e->m->nodes[e->steps[i].node].param[HR_P_WEIGHT] == tensor)
            return e->cuda->at[i].mask;
    return NULL;
}

static void place_trainee(hr_exec *e, const hr_cuda_trainee *p, place *at, int *rc)
{
    hr_cuda_exec *c = e->cuda;
    if (p->rule == HR_CUDA_SCORES)
        at->value = raise(c, p->value, p->n, rc);
    else
        at->value = c->param[p->tensor];
    at->buf = raise(c, p->buf, p->n, rc);
    at->buf2 = raise(c, p->buf2, p->n, rc);
    at->z = raise(c, p->z, p->n, rc);
    at->u = raise(c, p->u, p->n, rc);
    if (p->rule != HR_CUDA_PLAIN)
        at->gradient = hr_cuda_take(c, p->n, rc);
    if (p->rule == HR_CUDA_SCORES || p->rule == HR_CUDA_ADMM)
        at->chosen = hr_cuda_take(c, p->n, rc);
    at->mask = mask_of(e, p->tensor);
}

int hr_cuda_learn(hr_exec *e, const hr_cuda_trainee *list, int n, bool pairs, float *noise, hr_err *err)
{
    hr_cuda_exec *c = e->cuda;
    int rc = HR_OK, batch = e->opts.batch;
    hr_cuda_learner *l = c->learner = hr_xcalloc(1, sizeof *l);
    l->n = n;
    l->list = hr_xcalloc((size_t)n, sizeof *l->list);
    l->at = hr_xcalloc((size_t)n, sizeof *l->at);
    memcpy(l->list, list, (size_t)n * sizeof *list);
    for (int i = 0; i < n; i++)
        place_trainee(e, &l->list[i], &l->at[i], &rc);
    l->before = hr_cuda_take(c, c->nstats, &rc);
    size_t results = (HR_CUDA_LOSSES + (size_t)batch) * sizeof(double) / sizeof(float);
    l->result = (double *)(void *)hr_cuda_take(c, results, &rc);
    for (int i = 0; i < HR_CUDA_SLOTS; i++)
        l->told[i] = (double *)(void *)hr_cuda_take_host(c, results, &rc, err);
    l->work = hr_cuda_take(c, HR_CUDA_CHOICE / sizeof(float), &rc);
    if (pairs) {
        l->first = hr_cuda_take(c, c->ngrads, &rc);
        l->attacked = hr_cuda_take(c, images(e, batch), &rc);
        l->dclean = hr_cuda_take(c, logits(e, batch), &rc);
    }
    l->host_noise = noise;
    l->noise = raise(c, noise, images(e, batch), &rc);
    hr_cuda_wait(e);
    return hr_cuda_taken(e, rc, err);
}

void hr_cuda_learn_end(hr_exec *e)
{
    hr_cuda_learner *l = e->cuda->learner;
    if (!l)
        return;
    free(l->list);
    free(l->at);
    free(l);
    e->cuda->learner = NULL;
}

static void lower(const hr_cuda_exec *c, float *host, const float *dev, size_t n)
{
    if (host)
        c->t->download(c->d, host, dev, n * sizeof *host);
}

void hr_cuda_learn_fetch(hr_exec *e)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_learner *l = c->learner;
    for (int i = 0; i < l->n; i++) {
        const hr_cuda_trainee *p = &l->list[i];
        lower(c, p->value, l->at[i].value, p->n);
        lower(c, p->buf, l->at[i].buf, p->n);
        lower(c, p->buf2, l->at[i].buf2, p->n);
        lower(c, p->z, l->at[i].z, p->n);
        lower(c, p->u, l->at[i].u, p->n);
    }
    lower(c, l->host_noise, l->noise, images(e, e->opts.batch));
    hr_cuda_fetch_stats(e); /* waits */
}

void hr_cuda_learn_remember(hr_exec *e, bool back)
{
    hr_cuda_exec *c = e->cuda;
    float *before = c->learner->before;
    c->t->copy(c->d, back ? c->stats : before, back ? before : c->stats, c->nstats * sizeof *before);
}

/* ---- the batch ----------------------------------------------------------------------------------------- */

void hr_cuda_learn_target(hr_exec *e, int n, enum hr_bn_mode bn)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_to_input(e, c->x, n);
    hr_cuda_pass_forward(e, 0, n, bn);
    c->t->copy(c->d, c->target, c->twin[HR_CUDA_LOGITS].dev, logits(e, n) * sizeof(float));
}

void hr_cuda_learn_noise(hr_exec *e, int n, bool reset)
{
    hr_cuda_exec *c = e->cuda;
    if (reset) {
        c->t->zero(c->d, c->learner->noise, images(e, e->opts.batch) * sizeof(float));
        return;
    }
    c->t->noise_add(c->d, images(e, n), c->x, c->learner->noise, c->twin[HR_CUDA_INPUT].dev);
    hr_cuda_written(e, HR_CUDA_INPUT);
}

void hr_cuda_learn_noise_move(hr_exec *e, int n, float eps)
{
    hr_cuda_exec *c = e->cuda;
    c->t->noise_move(c->d, images(e, n), eps, c->x, c->twin[HR_CUDA_DINPUT].dev, c->learner->noise);
}

/* ---- passes -------------------------------------------------------------------------------------------- */

void hr_cuda_learn_begin(hr_exec *e)
{
    const hr_cuda_exec *c = e->cuda;
    c->t->zero(c->d, c->learner->result, HR_CUDA_LOSSES * sizeof(double));
}

void hr_cuda_learn_tell(hr_exec *e, int slot, int n)
{
    const hr_cuda_exec *c = e->cuda;
    const hr_cuda_learner *l = c->learner;
    c->t->download(c->d, l->told[slot], l->result, (HR_CUDA_LOSSES + (size_t)n) * sizeof(double));
    c->t->mark(c->d, slot);
}

const double *hr_cuda_learn_hear(hr_exec *e, int slot)
{
    const hr_cuda_exec *c = e->cuda;
    const char *trouble = c->t->reach(c->d, slot);
    if (trouble)
        hr_die("%s failed: %s", c->name, trouble);
    return c->learner->told[slot];
}

void hr_cuda_learn_count(hr_exec *e, int n, int which)
{
    const hr_cuda_exec *c = e->cuda;
    c->t->right(c->d, n, hr_exec_classes(e), c->twin[HR_CUDA_LOGITS].dev, c->y, c->learner->result + which);
}

void hr_cuda_learn_pass(hr_exec *e, int n, unsigned flags, int which)
{
    hr_cuda_exec *c = e->cuda;
    hr_cuda_pass_forward(e, 0, n, HR_BN_BATCH_UPDATE);
    c->t->loss(c->d, HR_CUDA_CE, n, hr_exec_classes(e), c->twin[HR_CUDA_LOGITS].dev, c->y, NULL,
               1.0f / (float)n, c->learner->result + HR_CUDA_LOSSES, c->twin[HR_CUDA_DLOGITS].dev);
    hr_cuda_written(e, HR_CUDA_DLOGITS);
    hr_cuda_learn_count(e, n, which);
    hr_cuda_pass_backward(e, 0, n, HR_BN_BATCH_UPDATE, flags);
}

void hr_cuda_learn_pair(hr_exec *e, int n, int kind, double beta)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_plugin_table *t = c->t;
    hr_cuda_learner *l = c->learner;
    float *dz = c->twin[HR_CUDA_DLOGITS].dev;
    const float *z = c->twin[HR_CUDA_LOGITS].dev;
    size_t bytes = logits(e, n) * sizeof(float);
    t->copy(c->d, l->attacked, c->twin[HR_CUDA_INPUT].dev, images(e, n) * sizeof(float));
    hr_cuda_learn_target(e, n, HR_BN_BATCH_UPDATE);
    hr_cuda_learn_count(e, n, HR_CUDA_CLEAN);

    hr_cuda_to_input(e, l->attacked, n);
    hr_cuda_pass_forward(e, 0, n, HR_BN_BATCH_UPDATE);
    t->loss_pair(c->d, kind, n, hr_exec_classes(e), c->target, z, c->y, beta, 1.0f / (float)n,
                 l->result + HR_CUDA_LOSSES, l->dclean, dz);
    hr_cuda_written(e, HR_CUDA_DLOGITS);
    hr_cuda_learn_count(e, n, HR_CUDA_ROBUST);
    hr_cuda_pass_backward(e, 0, n, HR_BN_BATCH_UPDATE, HR_DW);
    t->copy(c->d, l->first, c->grads, c->ngrads * sizeof(float));

    hr_cuda_to_input(e, c->x, n);
    hr_cuda_pass_forward(e, 0, n, HR_BN_BATCH);
    t->copy(c->d, dz, l->dclean, bytes);
    hr_cuda_pass_backward(e, 0, n, HR_BN_BATCH, HR_DW);
    t->add(c->d, c->ngrads, c->grads, l->first);
}

/* ---- the optimiser ------------------------------------------------------------------------------------- */

/* chosen = what belongs to the kept largest of v, weights or input channels. */
static void choose(const hr_exec *e, const hr_cuda_trainee *p, const place *at, const float *v)
{
    const hr_cuda_exec *c = e->cuda;
    size_t n = p->channel ? (size_t)p->ci : p->n;
    if (p->channel) {
        c->t->channel_norms(c->d, p->co, p->ci, p->taps, v, at->gradient);
        v = at->gradient; /* which is made only behind this */
    }
    c->t->keep_largest(c->d, n, v, (size_t)p->kept, c->learner->work, at->chosen);
}

/* Z <- P(W + U), U <- U + W - Z; to begin with Z <- P(W). */
static void project(const hr_exec *e, const hr_cuda_trainee *p, const place *at, bool begin)
{
    const hr_cuda_exec *c = e->cuda;
    float *v = begin ? at->value : at->u;
    if (!begin)
        c->t->add(c->d, p->n, at->u, at->value);
    choose(e, p, at, v);
    c->t->split(c->d, p->channel, p->co, p->ci, p->taps, at->chosen, v, at->z, begin ? NULL : at->u);
}

static const float *gradient(const hr_exec *e, const hr_cuda_trainee *p, const place *at, double rho)
{
    const hr_cuda_exec *c = e->cuda;
    const float *d = c->grad[p->tensor];
    if (p->rule == HR_CUDA_PLAIN)
        return d;
    if (p->rule == HR_CUDA_MASKED)
        c->t->masked_grad(c->d, p->n, d, at->mask, at->gradient);
    else if (p->rule == HR_CUDA_SCORES)
        c->t->score_grad(c->d, p->channel, p->co, p->ci, p->taps, d, c->param[p->tensor], at->value,
                         at->gradient);
    else
        c->t->admm_grad(c->d, p->n, d, at->value, at->z, at->u, (float)rho, at->gradient);
    return at->gradient;
}

/* The mask that the scores mean. */
static void mask(const hr_exec *e, const hr_cuda_trainee *p, const place *at)
{
    const hr_cuda_exec *c = e->cuda;
    c->t->keep_largest(c->d, p->n, at->value, (size_t)p->kept, c->learner->work,
                       p->channel ? at->chosen : at->mask);
    if (p->channel)
        c->t->mask_expand(c->d, p->co, p->ci, p->taps, at->chosen, at->mask);
}

void hr_cuda_learn_step(hr_exec *e, const hr_cuda_optimum *o)
{
    hr_cuda_exec *c = e->cuda;
    const hr_cuda_plugin_table *t = c->t;
    bool first = o->step == 0;
    for (int i = 0; i < c->learner->n; i++) {
        const hr_cuda_trainee *p = &c->learner->list[i];
        const place *at = &c->learner->at[i];
        if (o->project && p->rule == HR_CUDA_ADMM)
            project(e, p, at, first);
        const float *g = gradient(e, p, at, o->rho);
        if (o->kind == HR_CUDA_SGD)
            t->sgd(c->d, p->n, at->value, g, at->buf, o->lr, o->momentum, o->decay, o->nesterov, first);
        else if (o->kind == HR_CUDA_ADAM)
            t->adam(c->d, p->n, at->value, g, at->buf, at->buf2, o->lr, o->decay, o->step + 1);
        else
            t->rmsprop(c->d, p->n, at->value, g, at->buf, at->buf2, o->lr, o->momentum, o->decay);
        if (p->rule == HR_CUDA_SCORES)
            mask(e, p, at);
    }
    hr_cuda_settle(e);
}
