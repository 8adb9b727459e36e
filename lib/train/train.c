/* lib/train/train.c -- the loop of all training stages.
 *
 * A stage is a list of trainees: arrays of numbers that the optimiser moves, each with a rule that makes its
 * gradient out of the executor's, which is the gradient of the *effective* parameter (weight after mask):
 *
 *     PLAIN    g = d                      weights and biases of a dense network, batch norm, biases
 *     MASKED   g = d * mask               weights in finetune: what is pruned stays exactly zero
 *     SCORES   g = sign(s) * d * w        popup scores in prune (hydra.c); the masks move with them
 *
 * One step: fill the batch, attack it with the network as it is (batch norm folded by default), run the
 * attacked images forward with batch statistics (running statistics move), cross-entropy, backward to the
 * parameters, one optimiser step per trainee, new masks in prune, and the executor takes the parameters over.
 *
 * Sums over samples come from the executor's fixed tree, and a trainee is updated by one thread, so the
 * result has the same bits for any number of threads. */
#include "train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_stage_names[4] = {"pretrain", "prune", "finetune", NULL};
const char *const hr_objective_names[3] = {"pgd", "natural", NULL};

/* ---- stages -------------------------------------------------------------------------------------------- */

static int check_stage(const hr_trainer *t, hr_err *err)
{
    enum hr_stage stage = t->o->stage;
    int active = 0, planned = 0;
    const char *without = NULL;
    for (int i = 0; i < t->layers.n; i++) {
        const hr_prune *p = &t->m->prune[t->layers.l[i].node];
        active += p->set && p->active;
        planned += p->set && !p->active;
        if (!p->set && !without)
            without = t->layers.l[i].name;
    }
    if (stage == HR_STAGE_PRETRAIN && active)
        return hr_fail(err, HR_EINVAL, "%s: the network is pruned; --stage pretrain trains dense networks",
                       t->o->name);
    if (stage == HR_STAGE_PRUNE && active)
        return hr_fail(err, HR_EINVAL,
                       "%s: the network is pruned already; --stage prune needs dense weights with planned "
                       "rates (maskapply --plan)",
                       t->o->name);
    if (stage == HR_STAGE_PRUNE && !planned)
        return hr_fail(
            err, HR_EINVAL,
            "%s: no layer has a planned rate; --stage prune needs one per layer (maskapply --plan)",
            t->o->name);
    if (stage == HR_STAGE_PRUNE && without)
        return hr_fail(err, HR_EINVAL, "%s: layer '%s' has no planned rate, others have", t->o->name,
                       without);
    if (stage == HR_STAGE_FINETUNE && !active)
        return hr_fail(err, HR_EINVAL,
                       "%s: no layer has an active mask; --stage finetune needs a pruned network (maskapply, "
                       "or --stage prune)",
                       t->o->name);
    return HR_OK;
}

/* Put initial scores of every layer into the model. Tensors move in memory: call before taking pointers. */
static void add_scores(hr_trainer *t)
{
    for (int i = 0; i < t->layers.n; i++) {
        const hr_layer *l = &t->layers.l[i];
        enum hr_reg reg = t->m->prune[l->node].reg;
        const hr_tensor *w = &t->m->tensors[l->weight];
        int64_t shape[HR_MAX_DIMS];
        for (int d = 0; d < w->ndim; d++)
            shape[d] = reg == HR_REG_WEIGHT || d == 1 ? w->shape[d] : 1;
        char *name = hr_xasprintf("%s.popup_scores", l->name);
        int s = hr_model_add_tensor(t->m, name, HR_F32, w->ndim, shape);
        hr_hydra_init(hr_tensor_f32(&t->m->tensors[s]), hr_tensor_f32(&t->m->tensors[l->weight]), l, reg);
        free(name);
    }
}

static hr_trainee *add_trainee(hr_trainer *t, enum hr_rule rule, int tensor, hr_tensor *value)
{
    hr_trainee *p = &t->list[t->n++];
    size_t n = (size_t)hr_tensor_count(value);
    *p = (hr_trainee){.rule = rule, .name = value->name, .value = hr_tensor_f32(value), .n = n};
    p->tensor = tensor;
    p->buf = hr_xaligned(n, sizeof(float));
    if (t->o->optimizer == HR_ADAM)
        p->buf2 = hr_xaligned(n, sizeof(float));
    if (rule != HR_PLAIN)
        p->gradient = hr_xaligned(n, sizeof(float));
    return p;
}

/* The mask that p's scores mean now. */
static void choose(hr_trainee *p)
{
    hr_hydra_mask(p->value, p->layer, p->reg, p->kept, p->scratch, p->chosen);
    hr_mask_expand(p->chosen, p->layer, p->reg, p->mask);
}

static void add_layer(hr_trainer *t, const hr_layer *l)
{
    hr_tensor *w = &t->m->tensors[l->weight];
    const hr_prune *record = &t->m->prune[l->node];
    hr_trainee *p;
    if (t->o->stage == HR_STAGE_PRUNE) {
        p = add_trainee(t, HR_SCORES, l->weight, hr_model_node_tensor(t->m, l->node, "popup_scores"));
        p->weight = hr_tensor_f32(w);
        p->scratch = hr_xaligned(p->n, sizeof(float));
        p->chosen = hr_xaligned(p->n, 1);
    } else if (t->o->stage == HR_STAGE_FINETUNE && record->set && record->active) {
        p = add_trainee(t, HR_MASKED, l->weight, w);
    } else {
        add_trainee(t, HR_PLAIN, l->weight, w);
        return;
    }
    p->layer = l;
    p->reg = record->reg;
    p->kept = record->kept;
    p->mask = hr_xaligned((size_t)l->n, sizeof(float));
    if (p->rule == HR_MASKED)
        hr_mask_expand(hr_model_node_tensor(t->m, l->node, "mask")->data, l, p->reg, p->mask);
    hr_exec_set_mask(t->e, l->node, p->mask);
}

static void add_moving(hr_trainer *t, const hr_tensor *value)
{
    size_t n = (size_t)hr_tensor_count(value);
    t->moving[t->nmoving++] =
        (hr_moving){value->name, hr_tensor_f32(value), n, hr_xaligned(n, sizeof(float))};
}

static void add_trainees(hr_trainer *t)
{
    hr_model *m = t->m;
    bool prune = t->o->stage == HR_STAGE_PRUNE;
    t->list = hr_xcalloc((size_t)m->nnodes * 2, sizeof *t->list);
    t->moving = hr_xcalloc((size_t)m->nnodes * 2, sizeof *t->moving);
    for (int i = 0, layer = 0; i < m->nnodes; i++) {
        const hr_node *node = &m->nodes[i];
        bool norm = node->op == HR_OP_BATCHNORM;
        for (int role = HR_P_MEAN; norm && role <= HR_P_VAR; role++)
            add_moving(t, &m->tensors[node->param[role]]);
        if (layer < t->layers.n && t->layers.l[layer].node == i)
            add_layer(t, &t->layers.l[layer++]);
        else if (norm && !(prune && t->o->freeze_bn))
            add_trainee(t, HR_PLAIN, node->param[HR_P_WEIGHT], &m->tensors[node->param[HR_P_WEIGHT]]);
        if (node->param[HR_P_BIAS] >= 0 && (norm ? !(prune && t->o->freeze_bn) : !prune))
            add_trainee(t, HR_PLAIN, node->param[HR_P_BIAS], &m->tensors[node->param[HR_P_BIAS]]);
    }
}

/* ---- one step ------------------------------------------------------------------------------------------ */

static const float *gradient(const hr_trainer *t, hr_trainee *p)
{
    const float *d = hr_exec_grad(t->e, p->tensor);
    if (p->rule == HR_PLAIN)
        return d;
    if (p->rule == HR_SCORES)
        hr_hydra_grad(p->gradient, d, p->weight, p->value, p->layer, p->reg);
    else
        for (size_t i = 0; i < p->n; i++)
            p->gradient[i] = p->mask[i] != 0.0f ? d[i] : 0.0f;
    return p->gradient;
}

static void update(hr_trainer *t, double lr)
{
    const hr_train_opts *o = t->o;
    int64_t step = (int64_t)t->at.steps++;
#pragma omp parallel for schedule(dynamic, 1) num_threads(hr_exec_threads(t->e))
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        const float *g = gradient(t, p);
        if (o->optimizer == HR_SGD)
            hr_sgd_step(p->value, g, p->buf, p->n, (float)lr, (float)o->momentum, (float)o->weight_decay,
                        step == 0);
        else
            hr_adam_step(p->value, g, p->buf, p->buf2, p->n, (float)lr, (float)o->weight_decay, step + 1);
        if (p->rule == HR_SCORES)
            choose(p);
    }
    hr_exec_params(t->e);
}

static int right(const hr_trainer *t, int n)
{
    int count = 0;
    hr_argmax(hr_exec_logits(t->e), 0, n, t->m->classes, t->pred);
    for (int i = 0; i < n; i++)
        count += t->pred[i] == t->y[i];
    return count;
}

static hr_attack_opts training_attack(const hr_train_opts *o, int epoch)
{
    hr_attack_opts a = {.eps = (float)o->eps,
                        .step = (float)o->step,
                        .steps = o->steps,
                        .random_start = o->random_start,
                        .loss = HR_LOSS_CE,
                        .bn = o->attack_bn,
                        .seed = o->seed,
                        .stream = HR_STREAM_ATTACK,
                        .c0 = (uint32_t)epoch};
    if (epoch <
        o->schedule.warmup_epochs) { /* the published warm-up loss: one step from the image, ALG 3.4 */
        a.steps = 1;
        a.random_start = false;
    }
    return a;
}

/* Remember the running statistics, or put back what was remembered. */
static void remember(hr_trainer *t)
{
    for (int i = 0; i < t->nmoving; i++)
        memcpy(t->moving[i].before, t->moving[i].value, t->moving[i].n * sizeof(float));
}

static int drop_step(hr_trainer *t)
{
    for (int i = 0; i < t->nmoving; i++)
        memcpy(t->moving[i].value, t->moving[i].before, t->moving[i].n * sizeof(float));
    return HR_EINTR;
}

/* One step on n images. HR_EINTR: a signal came, and everything is as before the step. */
static int train_batch(hr_trainer *t, const hr_dataset *ds, const uint32_t *rows, int n, double lr)
{
    const hr_train_opts *o = t->o;
    int epoch = t->at.epoch;
    bool natural = o->objective == HR_OBJ_NATURAL;
    hr_tally got = {.n = (uint64_t)n};
    size_t bytes = (size_t)n * hr_exec_input_len(t->e) * sizeof(float);
    remember(t);
    hr_batch_fill(ds, rows, n, t->x, t->y);
    if (o->augment_pad > 0 || o->flip)
        hr_batch_augment(ds, rows, n, t->x, o->augment_pad, o->flip, o->seed, (uint32_t)epoch);
    for (int i = 0; i < n; i++)
        t->index[i] = ds->index[rows[i]];

    if (natural || o->log_clean)
        memcpy(hr_exec_input(t->e), t->x, bytes);
    if (!natural) {
        if (o->log_clean) {
            hr_exec_infer(t->e, n);
            got.clean = (uint64_t)right(t, n);
        }
        hr_attack_opts a = training_attack(o, epoch);
        hr_attack_pgd(t->e, &a, t->x, t->y, t->index, n);
        if (hr_interrupted())
            return drop_step(t);
    }
    hr_exec_forward(t->e, 0, n, HR_BN_BATCH_UPDATE);
    hr_loss_ce(hr_exec_logits(t->e), t->y, 0, n, t->m->classes, 1.0f / (float)n, t->loss,
               hr_exec_dlogits(t->e));
    *(natural ? &got.clean : &got.robust) = (uint64_t)right(t, n);
    got.loss = hr_tree_sum(t->loss, (size_t)n);
    hr_exec_backward(t->e, 0, n, HR_BN_BATCH_UPDATE, HR_DW);
    if (hr_interrupted()) /* the gradient may not be one */
        return drop_step(t);
    update(t, lr);

    hr_tally *sum = &t->at.sum;
    *sum = (hr_tally){sum->n + got.n, sum->clean + got.clean, sum->robust + got.robust, sum->loss + got.loss};
    t->at.step++;
    return HR_OK;
}

/* ---- epochs -------------------------------------------------------------------------------------------- */

static int check_finite(const hr_trainer *t, int epoch, hr_err *err)
{
    for (int i = 0; i < t->n; i++)
        for (size_t k = 0; k < t->list[i].n; k++)
            if (!isfinite(t->list[i].value[k]))
                return hr_fail(err, HR_EDIVERGED,
                               "diverged: after epoch %d '%s' holds %g; a smaller --lr may help", epoch + 1,
                               t->list[i].name, (double)t->list[i].value[k]);
    hr_err inner = HR_ERR_INIT;
    if (hr_model_check_finite(t->m, t->o->name, &inner)) /* running statistics */
        return hr_fail(err, HR_EDIVERGED, "diverged: after epoch %d: %s", epoch + 1, inner.msg);
    return HR_OK;
}

static double percent(uint64_t part, uint64_t n)
{
    return n ? 100.0 * (double)part / (double)n : NAN;
}

/* Tell the log and the caller. */
static int report(hr_trainer *t, const hr_epoch *line, hr_err *err)
{
    int rc = hr_log_add(t->log, line, err);
    return !rc && t->o->on_epoch ? t->o->on_epoch(t->o->ctx, line, err) : rc;
}

/* Steps of an epoch: a last, smaller batch counts when it holds two images. */
static uint32_t steps_of(const hr_train_opts *o, const hr_dataset *ds)
{
    uint32_t batch = (uint32_t)o->batch;
    return ds->n / batch + (ds->n % batch >= 2);
}

/* What is left of the running epoch, and its line. */
static int train_epoch(hr_trainer *t, const hr_dataset *ds, uint32_t *order, hr_err *err)
{
    const hr_train_opts *o = t->o;
    const hr_tally *sum = &t->at.sum;
    int epoch = t->at.epoch;
    uint32_t batch = (uint32_t)o->batch, steps = steps_of(o, ds);
    bool natural = o->objective == HR_OBJ_NATURAL;
    hr_permutation(order, ds->n, o->seed, HR_STREAM_SHUFFLE, (uint32_t)epoch);
    while (t->at.step < steps) {
        uint32_t s = t->at.step, left = ds->n - s * batch;
        double lr = hr_schedule_lr(&o->schedule, epoch, s, steps);
        if (hr_interrupted() || train_batch(t, ds, order + s * batch, (int)(left < batch ? left : batch), lr))
            return HR_EINTR;
        if (!isfinite(sum->loss))
            return hr_fail(err, HR_EDIVERGED,
                           "diverged: the loss is %g at step %u of epoch %d; a smaller --lr may help",
                           sum->loss, s + 1, epoch + 1);
        if (o->on_step)
            o->on_step(o->ctx, epoch + 1, (uint32_t)sum->n,
                       percent(natural ? sum->clean : sum->robust, sum->n));
        int rc = t->at.step < steps && hr_job_due(o->job) ? hr_trainer_save(t, err) : HR_OK;
        if (rc)
            return rc;
    }
    int rc = check_finite(t, epoch, err);
    if (rc)
        return rc;
    t->at.measuring = 1;
    hr_epoch line = {.epoch = epoch + 1,
                     .split = "train",
                     .loss = sum->loss / (double)sum->n,
                     .lr = hr_schedule_lr(&o->schedule, epoch, steps - 1, steps)};
    line.clean = natural || o->log_clean ? percent(sum->clean, sum->n) : NAN;
    line.robust = natural ? NAN : percent(sum->robust, sum->n);
    return report(t, &line, err);
}

/* What is left of measuring the probe, clean and attacked, and its line. */
static int measure(hr_trainer *t, const hr_dataset *probe, double lr, hr_err *err)
{
    const hr_train_opts *o = t->o;
    hr_eval_attack attacks[HR_PROBES] = {
        {.name = "clean", .clean = true, .restarts = 1},
        {.name = "pgd", .restarts = 1, .opts = training_attack(o, INT32_MAX)}};
    attacks[1].opts.bn = HR_BN_FOLDED;
    attacks[1].opts.stream = HR_STREAM_EVAL;
    attacks[1].opts.c0 = 0;
    hr_eval_result r[HR_PROBES];
    for (int i = 0; i < HR_PROBES; i++) {
        hr_eval_work *w = &t->probe[i];
        while (w->done < probe->n) {
            int rc = hr_job_due(o->job) ? hr_trainer_save(t, err) : HR_OK;
            if (!rc)
                rc = hr_eval_step(t->e, o->batch, probe, &attacks[i], w);
            if (rc)
                return rc;
        }
        r[i] = hr_eval_result_of(probe, w);
    }
    hr_epoch line = {.epoch = t->at.epoch + 1,
                     .split = "eval",
                     .loss = o->objective == HR_OBJ_NATURAL ? r[0].loss : r[1].loss,
                     .clean = r[0].accuracy,
                     .robust = r[1].accuracy,
                     .lr = lr};
    return report(t, &line, err);
}

static void next_epoch(hr_trainer *t)
{
    t->at = (hr_place){.epoch = t->at.epoch + 1, .steps = t->at.steps};
    for (int i = 0; i < HR_PROBES; i++)
        t->probe[i].done = 0;
}

/* Train from the place where t is to the end. */
static int run(hr_trainer *t, const hr_dataset *train, const hr_dataset *probe, hr_err *err)
{
    const hr_train_opts *o = t->o;
    uint32_t *order = hr_xmalloc(train->n * sizeof *order), steps = steps_of(o, train);
    int rc = hr_log_cut(t->log, err);
    while (!rc && t->at.epoch < o->schedule.warmup_epochs + o->schedule.epochs) {
        if (!t->at.measuring)
            rc = train_epoch(t, train, order, err);
        if (!rc && probe)
            rc = measure(t, probe, hr_schedule_lr(&o->schedule, t->at.epoch, steps - 1, steps), err);
        if (!rc) {
            next_epoch(t);
            rc = hr_trainer_save(t, err);
        }
    }
    free(order);
    if (rc != HR_EINTR)
        return rc;
    rc = hr_trainer_save(t, err);
    return rc ? rc
              : hr_job_interrupted(o->job, err, "epoch %d, %s %u", t->at.epoch + 1,
                                   t->at.measuring ? "measured after step" : "step", t->at.step);
}

static void release(hr_trainer *t)
{
    hr_exec_free(t->e);
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        free(p->gradient);
        free(p->buf);
        free(p->buf2);
        free(p->mask);
        free(p->scratch);
        free(p->chosen);
    }
    free(t->list);
    for (int i = 0; i < t->nmoving; i++)
        free(t->moving[i].before);
    free(t->moving);
    for (int i = 0; i < HR_PROBES; i++)
        hr_eval_work_release(&t->probe[i]);
    free(t->x);
    free(t->y);
    free(t->pred);
    free(t->index);
    free(t->loss);
    hr_layers_release(&t->layers);
}

/* The masks that the last scores mean become the model's. The tensor table grows: the executor goes first. */
static void write_masks(hr_trainer *t)
{
    hr_exec_free(t->e);
    t->e = NULL;
    for (int i = 0; i < t->layers.n; i++) {
        const hr_layer *l = &t->layers.l[i];
        const hr_tensor *s = hr_model_node_tensor(t->m, l->node, "popup_scores");
        size_t n = (size_t)hr_tensor_count(s);
        float *size = hr_xmalloc(n * sizeof *size);
        for (size_t k = 0; k < n; k++)
            size[k] = fabsf(hr_tensor_f32(s)[k]);
        hr_model_set_mask(t->m, l, size);
        free(size);
    }
}

/* What is taken here besides the executor: the optimiser's memory and masks, and the batch. */
static void beside(const hr_trainer *t, hr_exec_opts *eo)
{
    size_t params = (size_t)t->layers.params, weights = (size_t)t->layers.weights;
    size_t floats = params * (t->o->optimizer == HR_ADAM ? 2 : 1);
    if (t->o->stage != HR_STAGE_PRETRAIN)
        floats += weights * 4; /* mask, masked weight, gradient, scores being sorted */
    const hr_node *in = &t->m->nodes[0];
    eo->beside = floats * sizeof(float);
    eo->beside_per_image = (size_t)in->c * (size_t)in->h * (size_t)in->w * sizeof(float);
}

int hr_train(hr_model *m, const hr_dataset *train, const hr_dataset *probe, const hr_train_opts *o,
             hr_err *err)
{
    hr_log kept = {0};
    hr_trainer t = {.m = m, .o = o, .log = o->log ? o->log : &kept, .layers = hr_layers_of(m)};
    int rc = check_stage(&t, err);
    if (!rc && (train->n < 2 || o->batch < 2))
        rc = hr_fail(err, HR_EINVAL, "training needs at least 2 images and batches of 2: %u images, batch %d",
                     train->n, o->batch);
    if (rc)
        goto out;

    if (o->stage == HR_STAGE_PRUNE)
        add_scores(&t);
    if (o->stage == HR_STAGE_FINETUNE)
        hr_model_zero_pruned(m, &t.layers);
    hr_exec_opts eo = {.batch = o->batch, .threads = o->threads, .train = true, .exact = o->exact};
    beside(&t, &eo);
    t.e = hr_exec_new(m, &eo, err);
    if (!t.e) {
        rc = err->code;
        goto out;
    }
    add_trainees(&t);
    if (!o->log && !o->on_epoch)
        probe = NULL;
    t.probed = probe ? probe->n : 0;
    for (int i = 0; probe && i < HR_PROBES; i++)
        t.probe[i] = hr_eval_work_new(probe->n);
    rc = hr_trainer_load(&t, err);
    if (rc)
        goto out;
    for (int i = 0; i < t.n; i++)
        if (t.list[i].rule == HR_SCORES)
            choose(&t.list[i]);
    hr_exec_params(t.e);
    size_t batch = (size_t)o->batch;
    t.x = hr_xaligned(batch * hr_exec_input_len(t.e), sizeof *t.x);
    t.y = hr_xcalloc(batch, sizeof *t.y);
    t.pred = hr_xcalloc(batch, sizeof *t.pred);
    t.index = hr_xcalloc(batch, sizeof *t.index);
    t.loss = hr_xcalloc(batch, sizeof *t.loss);
    if (o->profile)
        hr_exec_profile(t.e);
    rc = run(&t, train, probe, err);
    if (o->profile)
        hr_profile_table(t.e, o->profile);
    if (!rc && o->stage == HR_STAGE_PRUNE)
        write_masks(&t);
out:
    release(&t);
    hr_log_close(&kept);
    return rc;
}
