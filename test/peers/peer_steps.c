/* test/peers/peer_steps.c -- every step of every training stage, compared with another implementation.
 *
 *     peer_steps problem KIND | python3 torch_steps.py | peer_steps check KIND
 *
 * KIND is one of the table below. problem prints the network, the plan or masks, and the batches of 20 steps
 * as hr_train meets them. The peer trains on them in float64, with attacks of its own, and prints before and
 * behind every step all that moves, and the attacked images. check does every single step from the peer's
 * state and the peer's attacked images, twice: hr_train in float32, and once more here in double over the
 * oracle (ref.h). It prints the worst difference of each from what the peer came to: of parameters and their
 * momentum in double as a fraction of the largest change in an array. Of float parameters, whose rounding can
 * be a hundredth of a small change, as a fraction of the largest number: the momentum has the step in full.
 * In natural training the oracle goes its own way from the first step to the last.
 *
 *     peer_steps files DIR          the problem natural as DIR/net.nn and DIR/train.tfrecord, for advtrain
 *     peer_steps last NET <TRACE    how far NET is from the end of the peer's run
 *
 * The streams are lines of text; "array NAME f8 N" is followed by N doubles. Images have one channel. */
#include "compute/ref.h"
#include "train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16, BATCHES = 5, STEPS = 20, SIDE = 8, LEN = SIDE * SIDE, CLASSES = 10, SEED = 4 };
static const double rate_kept = 0.3, momentum = 0.9, decay = 1e-3;

static const struct kind {
    const char *name;
    enum hr_stage stage;
    enum hr_objective objective;
    enum hr_reg reg;
    bool ramp; /* R-ADMM's retraining: l2 masks, a rising rate and then steps; else a cosine */
} kinds[] = {{"natural", HR_STAGE_PRETRAIN, HR_OBJ_NATURAL, HR_REG_WEIGHT, false},
             {"trades", HR_STAGE_PRETRAIN, HR_OBJ_TRADES, HR_REG_WEIGHT, false},
             {"mart", HR_STAGE_PRETRAIN, HR_OBJ_MART, HR_REG_WEIGHT, false},
             {"free", HR_STAGE_PRETRAIN, HR_OBJ_FREE, HR_REG_WEIGHT, false},
             {"prune-weight", HR_STAGE_PRUNE, HR_OBJ_PGD, HR_REG_WEIGHT, false},
             {"prune-channel", HR_STAGE_PRUNE, HR_OBJ_PGD, HR_REG_CHANNEL, false},
             {"finetune-weight", HR_STAGE_FINETUNE, HR_OBJ_PGD, HR_REG_WEIGHT, false},
             {"finetune-channel", HR_STAGE_FINETUNE, HR_OBJ_PGD, HR_REG_CHANNEL, false},
             {"admm-weight", HR_STAGE_ADMM, HR_OBJ_PGD, HR_REG_WEIGHT, false},
             {"admm-channel", HR_STAGE_ADMM, HR_OBJ_PGD, HR_REG_CHANNEL, false},
             {"retrain-weight", HR_STAGE_FINETUNE, HR_OBJ_PGD, HR_REG_WEIGHT, true},
             {"retrain-channel", HR_STAGE_FINETUNE, HR_OBJ_PGD, HR_REG_CHANNEL, true}};

/* ---- the problem --------------------------------------------------------------------------------------- */

static hr_dataset new_images(void)
{
    enum { N = BATCH * BATCHES };
    hr_dataset ds = {.n = N, .c = 1, .h = SIDE, .w = SIDE, .classes = CLASSES};
    ds.pixels = hr_xmalloc((size_t)N * LEN);
    ds.labels = hr_xmalloc(N * sizeof *ds.labels);
    ds.index = hr_xmalloc(N * sizeof *ds.index);
    for (uint32_t i = 0; i < N; i++) {
        float v[LEN];
        hr_fill_uniform(v, LEN, 0, 256, SEED, HR_STREAM_TEST, 1, 0, i);
        for (int p = 0; p < LEN; p++)
            ds.pixels[i * LEN + (uint32_t)p] = (uint8_t)fminf(v[p], 255);
        ds.labels[i] = (int32_t)(i % CLASSES);
        ds.index[i] = i;
    }
    return ds;
}

static void plan(hr_model *m, const struct kind *k)
{
    hr_layers ls = hr_layers_of(m);
    hr_strategy s = {.reg = k->reg, .n = ls.n};
    s.rate = hr_xcalloc((size_t)ls.n, sizeof *s.rate);
    s.kept = hr_xcalloc((size_t)ls.n, sizeof *s.kept);
    for (int i = 0; i < ls.n; i++) {
        int64_t n = hr_score_count(&ls.l[i], k->reg);
        s.kept[i] = hr_kept(rate_kept, n);
        s.rate[i] = (double)s.kept[i] / (double)n;
    }
    hr_model_set_strategy(m, &ls, &s, k->stage == HR_STAGE_FINETUNE, k->ramp ? HR_SCORE_L2 : HR_SCORE_L1);
    hr_model_zero_pruned(m, &ls);
    hr_strategy_release(&s);
    hr_layers_release(&ls);
}

/* The zoo's small residual network, with batch norms that are not at their start. */
static hr_model *new_net(const struct kind *k)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    hr_zoo_opts opts = {.c = 1, .h = SIDE, .w = SIDE, .classes = CLASSES};
    if (hr_zoo_build("resS", &opts, &m, &err))
        hr_die("%s", err.msg);
    hr_zoo_init(m, SEED);
    for (int i = 0; i < m->nnodes; i++) {
        if (m->nodes[i].op != HR_OP_BATCHNORM)
            continue;
        const hr_tensor *w = &m->tensors[m->nodes[i].param[HR_P_WEIGHT]];
        const hr_tensor *b = &m->tensors[m->nodes[i].param[HR_P_BIAS]];
        size_t n = (size_t)hr_tensor_count(w);
        hr_fill_uniform(hr_tensor_f32(w), n, 0.5f, 1.5f, SEED, HR_STREAM_TEST, 2, (uint32_t)i, 0);
        hr_fill_normal(hr_tensor_f32(b), n, 0, 0.1f, SEED, HR_STREAM_TEST, 3, (uint32_t)i, 0);
    }
    if (k->stage != HR_STAGE_PRETRAIN)
        plan(m, k);
    return m;
}

static hr_train_opts options(const struct kind *k)
{
    bool repeats = k->objective == HR_OBJ_FREE;
    hr_train_opts o = {.stage = k->stage,
                       .objective = k->objective,
                       .momentum = momentum,
                       .weight_decay = decay,
                       .batch = BATCH,
                       .threads = 1,
                       .in_order = true,
                       .eps = 8.0 / 255.0,
                       .step = 2.0 / 255.0,
                       .beta = 6,
                       .repeats = 4,
                       .rho = 0.1,
                       .rho_grows = true,
                       .admm_every = 1,
                       .seed = SEED,
                       .name = k->name};
    o.schedule = (hr_schedule){
        .kind = HR_LR_COSINE, .lr = 0.05, .epochs = STEPS / BATCHES / (repeats ? 4 : 1), .gamma = 0.1};
    if (k->ramp) {
        o.schedule.kind = HR_LR_MULTISTEP;
        o.schedule.warmup_epochs = o.schedule.epochs = 2;
        o.schedule.warmup_ramp = true;
        o.schedule.warmup_lr = 1e-4;
        o.schedule.nmilestones = 1;
        o.schedule.milestones[0] = 1;
    }
    return o;
}

static void put_array(const char *prefix, const char *name, const float *v, size_t n)
{
    printf("array %s%s f8 %zu\n", prefix, name, n);
    for (size_t i = 0; i < n; i++) {
        double d = v[i];
        fwrite(&d, sizeof d, 1, stdout);
    }
}

/* What trains and what moves, in the order in which the peer shall print it; then every batch. */
static void tell(void *ctx, hr_trainer *t, enum hr_moment moment)
{
    (void)ctx;
    if (moment != HR_AT_IMAGES)
        return;
    for (int i = 0; t->at.steps == 0 && i < t->n; i++) {
        const hr_trainee *p = &t->list[i];
        printf("trainee %s %d\n", p->name, (int)p->rule);
    }
    for (int i = 0; t->at.steps == 0 && i < t->nmoving; i++)
        printf("moving %s\n", t->moving[i].name);
    float y[BATCH];
    for (int i = 0; i < BATCH; i++)
        y[i] = (float)t->y[i];
    put_array("batch.", "x", t->x, BATCH * LEN);
    put_array("batch.", "y", y, BATCH);
}

static void problem(const struct kind *k)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = new_net(k);
    hr_dataset ds = new_images();
    hr_train_opts o = options(k);
    hr_layers ls = hr_layers_of(m);
    printf("kind %s %s\n", k->name, hr_reg_names[k->reg]);
    for (int i = 0; i < m->ntensors; i++)
        if (m->tensors[i].dtype == HR_F32)
            put_array("param.", m->tensors[i].name, hr_tensor_f32(&m->tensors[i]),
                      (size_t)hr_tensor_count(&m->tensors[i]));
    for (int i = 0; i < ls.n; i++)
        printf("kept %s %lld\n", ls.l[i].name, (long long)m->prune[ls.l[i].node].kept);
    o.at = tell;
    if (hr_train(m, &ds, NULL, &o, &err))
        hr_die("%s", err.msg);
    puts("end");
    hr_layers_release(&ls);
    hr_dataset_release(&ds);
    hr_model_free(m);
}

/* ---- what the peer did --------------------------------------------------------------------------------- */

static double *get_array(const char *name, size_t n)
{
    char want[256], line[256];
    snprintf(want, sizeof want, "array %s f8 %zu\n", name, n);
    double *v = hr_xmalloc(n * sizeof *v);
    if (!fgets(line, sizeof line, stdin) || strcmp(line, want) != 0 || fread(v, sizeof *v, n, stdin) != n)
        hr_die("the peer's stream has no '%.*s' where it should", (int)strlen(want) - 1, want);
    return v;
}

/* All that moves, at one time. */
struct state {
    double *value[128], *buf[128], *z[128], *u[128], *moving[128], *noise;
};

static struct state get_state(const hr_trainer *t)
{
    struct state s = {0};
    if (t->n > 128 || t->nmoving > 128)
        hr_die("too many arrays");
    for (int i = 0; i < t->n; i++) {
        s.value[i] = get_array(t->list[i].name, t->list[i].n);
        s.buf[i] = get_array("momentum", t->list[i].n);
        if (t->list[i].rule == HR_ADMM) {
            s.z[i] = get_array("z", t->list[i].n);
            s.u[i] = get_array("u", t->list[i].n);
        }
    }
    for (int i = 0; i < t->nmoving; i++)
        s.moving[i] = get_array(t->moving[i].name, t->moving[i].n);
    if (t->noise)
        s.noise = get_array("noise", BATCH * LEN);
    return s;
}

static void release(struct state *s)
{
    for (int i = 0; i < 128; i++) {
        free(s->value[i]);
        free(s->buf[i]);
        free(s->z[i]);
        free(s->u[i]);
        free(s->moving[i]);
    }
    free(s->noise);
}

static void load(float *to, const double *from, size_t n)
{
    for (size_t i = 0; from && i < n; i++)
        to[i] = (float)from[i];
}

static void load_state(hr_trainer *t, const struct state *s)
{
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        load(p->value, s->value[i], p->n);
        load(p->buf, s->buf[i], p->n);
        load(p->z, s->z[i], p->n);
        load(p->u, s->u[i], p->n);
        if (p->rule == HR_SCORES)
            hr_stage_choose(p);
    }
    for (int i = 0; i < t->nmoving; i++)
        load(t->moving[i].value, s->moving[i], t->moving[i].n);
    load(t->noise, s->noise, BATCH * LEN);
    hr_exec_params(t->e);
}

/* ---- a step over the oracle ---------------------------------------------------------------------------- */

static const double *sorted_by;
static int larger_first(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    double x = sorted_by[i], y = sorted_by[j];
    return x != y ? (x < y) - (x > y) : (i > j) - (i < j);
}

/* keep (of the layer's weights): 1 where v, or the input channel's scores, are among the kept largest.
 * norm: channels of v are judged by their l2 norm; else v has one score per channel. */
static void choose(const hr_trainee *p, const double *v, bool norm, double *keep)
{
    const hr_layer *l = p->layer;
    size_t n = (size_t)hr_score_count(l, p->reg), taps = (size_t)(l->kh * l->kw), in = (size_t)l->in;
    double *size = hr_xcalloc(n, sizeof *size);
    uint32_t *order = hr_xmalloc(n * sizeof *order);
    bool channel = p->reg == HR_REG_CHANNEL;
    if (channel && norm)
        for (size_t i = 0; i < (size_t)l->n; i++)
            size[i / taps % in] += v[i] * v[i];
    else
        for (size_t i = 0; i < n; i++)
            size[i] = fabs(v[i]);
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    sorted_by = size;
    qsort(order, n, sizeof *order, larger_first);
    for (size_t i = 0; i < n; i++)
        size[order[i]] = i < (size_t)p->kept;
    for (size_t i = 0; i < (size_t)l->n; i++)
        keep[i] = size[channel ? i / taps % in : i];
    free(size);
    free(order);
}

static void forward(hr_ref *r, const double *x, enum hr_bn_mode bn)
{
    memcpy(hr_ref_input(r), x, BATCH * LEN * sizeof *x);
    hr_ref_forward(r, BATCH, bn);
}

/* Gradients of the mean loss by every tensor, added to sum (by tensor). */
static void collect(const hr_trainer *t, hr_ref *r, double **sum)
{
    for (int i = 0; i < t->n; i++) {
        const hr_trainee *p = &t->list[i];
        const double *g = hr_ref_grad(r, p->tensor);
        if (!sum[i])
            sum[i] = hr_xcalloc(p->weights, sizeof **sum);
        for (size_t k = 0; k < p->weights; k++)
            sum[i][k] += g[k];
    }
}

static void gradients(const hr_trainer *t, hr_ref *r, const double *adv, double **sum)
{
    enum { K = BATCH * CLASSES };
    double x[BATCH * LEN], zn[K], dn[K], da[K];
    bool pair = t->paired, is_mart = t->o->objective == HR_OBJ_MART;
    for (int i = 0; i < BATCH * LEN; i++)
        x[i] = t->x[i];
    if (pair) {
        forward(r, x, HR_BN_BATCH_UPDATE);
        memcpy(zn, hr_ref_logits(r), sizeof zn);
    }
    forward(r, adv, HR_BN_BATCH_UPDATE);
    const double *za = hr_ref_logits(r);
    for (int i = 0; i < K; i += CLASSES) {
        double total = 0;
        int32_t y = t->y[i / CLASSES];
        if (pair)
            hr_loss_pair_row(is_mart ? HR_PAIR_MART : HR_PAIR_TRADES, zn + i, za + i, y, CLASSES, t->o->beta,
                             dn + i, da + i);
        for (int c = 0; c < CLASSES; c++)
            total += exp(za[i + c]);
        for (int c = 0; c < CLASSES && !pair; c++)
            da[i + c] = exp(za[i + c]) / total - (c == y);
    }
    for (int i = 0; i < K; i++) {
        da[i] /= BATCH;
        dn[i] = pair ? dn[i] / BATCH : 0;
    }
    hr_ref_backward(r, BATCH, da);
    collect(t, r, sum);
    if (pair) {
        forward(r, x, HR_BN_BATCH);
        hr_ref_backward(r, BATCH, dn);
        collect(t, r, sum);
    }
}

/* The noise of free training climbs where the sum with its pixel is not cut. */
static void move_noise(const hr_trainer *t, const hr_ref *r, double *noise)
{
    const double *g = hr_ref_dinput(r);
    double eps = t->o->eps;
    for (int i = 0; i < BATCH * LEN; i++) {
        double sum = t->x[i] + noise[i];
        if (sum >= 0 && sum <= 1)
            noise[i] = fmin(fmax(noise[i] + eps * ((g[i] > 0) - (g[i] < 0)), -eps), eps);
    }
}

/* Z and U, at the first step of an epoch. */
static void move_admm(const hr_trainee *p, const double *w, double *z, double *u, bool begin)
{
    double *sum = hr_xmalloc(p->n * sizeof *sum), *keep = hr_xmalloc(p->n * sizeof *keep);
    for (size_t k = 0; k < p->n; k++)
        sum[k] = begin ? w[k] : w[k] + u[k];
    choose(p, sum, true, keep);
    for (size_t k = 0; k < p->n; k++) {
        z[k] = keep[k] > 0 ? sum[k] : 0;
        u[k] = begin ? 0 : sum[k] - z[k];
    }
    free(sum);
    free(keep);
}

/* One step from s, in place. step counts from 0, lr is the step's. */
static void oracle_step(const hr_trainer *t, hr_ref *r, struct state *s, const double *adv, int step,
                        double lr)
{
    double *sum[128] = {0}, rho = t->o->rho * pow(1.3, step / BATCHES);
    for (int i = 0; i < t->n; i++) {
        const hr_trainee *p = &t->list[i];
        double *to = hr_ref_param(r, p->tensor);
        if (p->rule == HR_SCORES)
            choose(p, s->value[i], false, to);
        for (size_t k = 0; k < p->weights; k++)
            to[k] = p->rule == HR_SCORES ? to[k] * p->weight[k] : s->value[i][k];
        if (p->rule == HR_ADMM && step % BATCHES == 0)
            move_admm(p, s->value[i], s->z[i], s->u[i], step == 0);
    }
    for (int i = 0; i < t->nmoving; i++)
        for (int j = 0; j < t->m->ntensors; j++)
            if (strcmp(t->m->tensors[j].name, t->moving[i].name) == 0)
                memcpy(hr_ref_param(r, j), s->moving[i], t->moving[i].n * sizeof(double));
    gradients(t, r, adv, sum);
    if (s->noise)
        move_noise(t, r, s->noise);
    for (int i = 0; i < t->n; i++) {
        const hr_trainee *p = &t->list[i];
        double *g = sum[i], *v = s->value[i];
        if (p->rule == HR_SCORES) {
            size_t taps = (size_t)(p->layer->kh * p->layer->kw), in = (size_t)p->layer->in;
            double *ds = hr_xcalloc(p->n, sizeof *ds);
            for (size_t k = 0; k < p->weights; k++)
                ds[p->reg == HR_REG_CHANNEL ? k / taps % in : k] += g[k] * p->weight[k];
            for (size_t k = 0; k < p->n; k++)
                ds[k] *= (v[k] > 0) - (v[k] < 0);
            free(g);
            g = sum[i] = ds;
        }
        for (size_t k = 0; k < p->n; k++) {
            double d = p->rule == HR_MASKED && p->mask[k] == 0 ? 0 : g[k];
            if (p->rule == HR_ADMM)
                d += rho * (v[k] - s->z[i][k] + s->u[i][k]);
            d += decay * v[k];
            s->buf[i][k] = step == 0 ? d : momentum * s->buf[i][k] + d;
            v[k] -= lr * s->buf[i][k];
        }
        free(sum[i]);
    }
    for (int i = 0; i < t->nmoving; i++)
        for (int j = 0; j < t->m->ntensors; j++)
            if (strcmp(t->m->tensors[j].name, t->moving[i].name) == 0)
                memcpy(s->moving[i], hr_ref_param(r, j), t->moving[i].n * sizeof(double));
}

/* ---- the comparison ------------------------------------------------------------------------------------ */

struct check {
    hr_ref *ref;
    struct state now, oracle; /* the peer's state before the step; the oracle's */
    double *adv;
    bool own_way; /* the oracle goes on from its own state instead of the peer's */
    int steps;
    double worst_ref, worst_float, worst_noise;
};

/* The largest change of n numbers. */
static double change_of(const double *to, const double *from, size_t n)
{
    double change = 0;
    for (size_t i = 0; i < n; i++)
        change = fmax(change, fabs(to[i] - from[i]));
    return change;
}

/* The largest difference of a (or f) from `want`, as a fraction of `scale`; 0: of the largest number. */
static double off(const double *a, const float *f, const double *want, double scale, size_t n)
{
    double worst = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double v = a ? a[i] : (double)f[i];
        if (!isfinite(v) || !isfinite(want[i]))
            return INFINITY;
        worst = fmax(worst, fabs(v - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    return worst == 0 ? 0 : worst / (scale > 0 ? scale : size);
}

static void larger(double *worst, double v)
{
    *worst = fmax(*worst, v);
}

static void compare(struct check *c, const hr_trainer *t, const struct state *want)
{
    const struct state *was = &c->now, *o = &c->oracle;
    double most = 0;
    for (int i = 0; i < t->n; i++)
        larger(&most, change_of(want->buf[i], was->buf[i], t->list[i].n));
    for (int i = 0; i < t->n; i++) {
        const hr_trainee *p = &t->list[i];
        double change = change_of(want->value[i], was->value[i], p->n);
        double pull = change_of(want->buf[i], was->buf[i], p->n);
        larger(&c->worst_ref, off(o->value[i], NULL, want->value[i], change, p->n));
        larger(&c->worst_ref, off(o->buf[i], NULL, want->buf[i], pull, p->n));
        /* The score of the only image channel has no effect that the next batch norm does not undo: its
         * gradient is what is left of terms that cancel, and is measured by the largest one of the step. */
        larger(&c->worst_float, off(NULL, p->value, want->value[i], 0, p->n));
        larger(&c->worst_float, off(NULL, p->buf, want->buf[i], p->n == 1 ? most : pull, p->n));
        if (p->rule != HR_ADMM)
            continue;
        larger(&c->worst_ref, off(o->z[i], NULL, want->z[i], 0, p->n));
        larger(&c->worst_ref, off(o->u[i], NULL, want->u[i], 0, p->n));
        larger(&c->worst_float, off(NULL, p->z, want->z[i], 0, p->n));
        larger(&c->worst_float, off(NULL, p->u, want->u[i], 0, p->n));
    }
    for (int i = 0; i < t->nmoving; i++) {
        size_t n = t->moving[i].n;
        larger(&c->worst_ref, off(o->moving[i], NULL, want->moving[i], 0, n));
        larger(&c->worst_float, off(NULL, t->moving[i].value, want->moving[i], 0, n));
    }
    if (!t->noise)
        return;
    larger(&c->worst_ref, off(o->noise, NULL, want->noise, 0, BATCH * LEN));
    int others = 0; /* a gradient that is nearly zero may have the other sign in float */
    for (int i = 0; i < BATCH * LEN; i++)
        others += fabs(t->noise[i] - want->noise[i]) > 1e-6;
    larger(&c->worst_noise, (double)others / (BATCH * LEN));
}

static void copy(double **to, const double *from, size_t n)
{
    if (from && !*to)
        *to = hr_xmalloc(n * sizeof *from);
    if (from)
        memcpy(*to, from, n * sizeof *from);
}

static void copy_state(const hr_trainer *t, struct state *to, const struct state *from)
{
    for (int i = 0; i < t->n; i++) {
        copy(&to->value[i], from->value[i], t->list[i].n);
        copy(&to->buf[i], from->buf[i], t->list[i].n);
        copy(&to->z[i], from->z[i], t->list[i].n);
        copy(&to->u[i], from->u[i], t->list[i].n);
    }
    for (int i = 0; i < t->nmoving; i++)
        copy(&to->moving[i], from->moving[i], t->moving[i].n);
    copy(&to->noise, from->noise, BATCH * LEN);
}

static void follow(void *ctx, hr_trainer *t, enum hr_moment moment)
{
    struct check *c = ctx;
    if (moment == HR_AT_IMAGES) {
        if (t->at.steps == 0)
            c->now = get_state(t);
        if (t->at.steps == 0 || !c->own_way)
            copy_state(t, &c->oracle, &c->now);
        for (int i = 0; t->at.steps == 0 && i < t->n; i++) /* the scores' start is compared, too */
            larger(&c->worst_float, off(NULL, t->list[i].value, c->now.value[i], 0, t->list[i].n));
        load_state(t, &c->now);
    } else if (moment == HR_AT_ATTACKED) {
        c->adv = get_array("attacked", BATCH * LEN);
        load(hr_exec_input(t->e), c->adv, BATCH * LEN);
    } else {
        const hr_train_opts *o = t->o;
        int steps = BATCHES * (o->objective == HR_OBJ_FREE ? o->repeats : 1), step = (int)t->at.steps - 1;
        struct state want = get_state(t);
        oracle_step(t, c->ref, &c->oracle, c->adv, step,
                    hr_schedule_lr(&o->schedule, step / steps, step % steps, steps));
        compare(c, t, &want);
        release(&c->now);
        free(c->adv);
        c->now = want;
        c->steps++;
    }
}

static void check(const struct kind *k)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = new_net(k);
    hr_dataset ds = new_images();
    hr_train_opts o = options(k);
    struct check c = {.ref = hr_ref_new(m, BATCH), .own_way = k->objective == HR_OBJ_NATURAL};
    o.at = follow;
    o.ctx = &c;
    if (hr_train(m, &ds, NULL, &o, &err))
        hr_die("%s", err.msg);
    printf("%s: %d steps, ref %.3g, float %.3g", k->name, c.steps, c.worst_ref, c.worst_float);
    printf(k->objective == HR_OBJ_FREE ? ", noise %.3g\n" : "\n", c.worst_noise);
    release(&c.now);
    release(&c.oracle);
    hr_ref_free(c.ref);
    hr_dataset_release(&ds);
    hr_model_free(m);
}

/* ---- advtrain's own run -------------------------------------------------------------------------------- */

static void files(const char *dir)
{
    hr_err err = HR_ERR_INIT;
    char *net = hr_xasprintf("%s/net.nn", dir), *data = hr_xasprintf("%s/train.tfrecord", dir);
    hr_model *m = new_net(&kinds[0]);
    hr_dataset ds = new_images();
    if (hr_nn_save(m, net, NULL, &err) || hr_dataset_save(&ds, data, &err))
        hr_die("%s", err.msg);
    hr_dataset_release(&ds);
    hr_model_free(m);
    free(net);
    free(data);
}

struct last {
    const hr_model *m;
    struct state first;
    double worst;
};

static void skim(void *ctx, hr_trainer *t, enum hr_moment moment)
{
    struct last *l = ctx;
    if (moment == HR_AT_IMAGES && t->at.steps == 0)
        l->first = get_state(t);
    if (moment == HR_AT_ATTACKED)
        free(get_array("attacked", BATCH * LEN));
    if (moment != HR_AT_STEPPED)
        return;
    struct state now = get_state(t);
    for (int i = 0; t->at.steps == STEPS && i < t->n; i++)
        for (int j = 0; j < l->m->ntensors; j++)
            if (strcmp(l->m->tensors[j].name, t->list[i].name) == 0)
                larger(&l->worst,
                       off(NULL, hr_tensor_f32(&l->m->tensors[j]), now.value[i],
                           change_of(now.value[i], l->first.value[i], t->list[i].n), t->list[i].n));
    release(&now);
}

static void last(const char *path)
{
    hr_err err = HR_ERR_INIT;
    hr_model *trained, *m = new_net(&kinds[0]);
    if (hr_nn_load(path, &trained, NULL, &err))
        hr_die("%s", err.msg);
    struct last l = {.m = trained};
    hr_dataset ds = new_images();
    hr_train_opts o = options(&kinds[0]);
    o.at = skim;
    o.ctx = &l;
    if (hr_train(m, &ds, NULL, &o, &err))
        hr_die("%s", err.msg);
    printf("advtrain: %d steps of its own, float %.3g\n", STEPS, l.worst);
    release(&l.first);
    hr_dataset_release(&ds);
    hr_model_free(trained);
    hr_model_free(m);
}

int main(int argc, char **argv)
{
    const struct kind *k = NULL;
    for (size_t i = 0; argc == 3 && i < HR_COUNT(kinds); i++)
        if (strcmp(argv[2], kinds[i].name) == 0)
            k = &kinds[i];
    if (k && strcmp(argv[1], "problem") == 0)
        problem(k);
    else if (k && strcmp(argv[1], "check") == 0)
        check(k);
    else if (argc == 3 && strcmp(argv[1], "files") == 0)
        files(argv[2]);
    else if (argc == 3 && strcmp(argv[1], "last") == 0)
        last(argv[2]);
    else
        hr_die("usage: peer_steps {problem KIND | check KIND | files DIR | last NET}");
    return 0;
}
