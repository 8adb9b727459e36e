/* lib/train/train.c -- the loop of all training stages.
 *
 * One step: fill the batch, attack it with the network as it is (batch norm folded by default), run the
 * attacked images forward with batch statistics (running statistics move), the loss, backward to the
 * parameters, one optimiser step per trainee (stage.c), new masks in prune, and the executor takes the
 * parameters over. Losses of pairs run images and attacked copies forward, then backward the other way round:
 * the images' activations have to be made a second time, since there is one set of them.
 *
 * Sums over samples come from the executor's fixed tree, and a trainee is updated by one thread, so the
 * result has the same bits for any number of threads. */
#include "compute/cuda/cuda.h"
#include "train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_objective_names[9] = {"pgd",       "natural", "fgsm", "fgsm-rs", "trades",
                                           "trades-l2", "mart",    "free", NULL};

static bool looks_at_pairs(enum hr_objective objective)
{
    return objective == HR_OBJ_TRADES || objective == HR_OBJ_TRADES_L2 || objective == HR_OBJ_MART;
}

/* Is there a warm-up with an objective of its own? */
static bool warms_up(const hr_train_opts *o)
{
    const hr_schedule *s = &o->schedule;
    return o->objective != HR_OBJ_NATURAL &&
           (o->fgsm_epochs > 0 || (s->warmup_epochs > 0 && !s->warmup_ramp));
}

bool hr_trains_pairs(const hr_train_opts *o)
{
    return looks_at_pairs(o->objective) || (warms_up(o) && looks_at_pairs(o->warmup));
}

/* ---- one step ------------------------------------------------------------------------------------------ */

/* What is minimised in an epoch. */
static enum hr_objective objective_of(const hr_train_opts *o, int epoch)
{
    const hr_schedule *s = &o->schedule;
    bool first = epoch < o->fgsm_epochs || (epoch < s->warmup_epochs && !s->warmup_ramp);
    return first && warms_up(o) ? o->warmup : o->objective;
}

static double rho_of(const hr_train_opts *o, int epoch)
{
    return o->stage == HR_STAGE_ADMM && o->rho_grows ? o->rho * pow(1.3, epoch / o->admm_every) : o->rho;
}

/* Z and U move at the first step of some epochs, before the weights do. */
static void update_admm(hr_trainee *p, bool begin)
{
    if (begin)
        hr_admm_project(p->z, p->value, p->layer, p->reg, p->kept, p->scratch, p->chosen);
    else
        hr_admm_update(p->value, p->z, p->u, p->layer, p->reg, p->kept, p->scratch, p->chosen);
}

static void update(hr_trainer *t, double lr)
{
    const hr_train_opts *o = t->o;
    double rho = rho_of(o, t->at.epoch);
    bool admm = o->stage == HR_STAGE_ADMM && t->at.step == 0 && t->at.epoch % o->admm_every == 0;
    if (t->on_device)
        hr_device_update(t, lr, rho, admm);
    int64_t step = (int64_t)t->at.steps++;
    if (t->on_device)
        return;
    float rate = (float)lr, momentum = (float)o->momentum, decay = (float)o->weight_decay;
#pragma omp parallel for schedule(dynamic, 1) num_threads(hr_exec_threads(t->e))
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        if (admm && p->rule == HR_ADMM)
            update_admm(p, step == 0);
        const float *g = hr_stage_gradient(t, p, rho);
        if (o->optimizer == HR_SGD)
            hr_sgd_step(p->value, g, p->buf, p->n, rate, momentum, decay, o->nesterov, step == 0);
        else if (o->optimizer == HR_ADAM)
            hr_adam_step(p->value, g, p->buf, p->buf2, p->n, rate, decay, step + 1);
        else
            hr_rmsprop_step(p->value, g, p->buf, p->buf2, p->n, rate, momentum, decay);
        if (p->rule == HR_SCORES)
            hr_stage_choose(p);
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

/* The attack on the probe, and on what is trained where nothing else is said of it. */
static hr_attack_opts plain_attack(const hr_train_opts *o, enum hr_objective objective)
{
    bool l2 = objective == HR_OBJ_TRADES_L2;
    return (hr_attack_opts){.eps = (float)o->eps,
                            .step = (float)(l2 && o->steps > 0 ? 2 * o->eps / o->steps : o->step),
                            .steps = o->steps,
                            .random_start = o->random_start,
                            .spread = l2 ? 0.001f : 0.0f,
                            .l2 = l2,
                            .loss = HR_LOSS_CE,
                            .seed = o->seed};
}

/* target: of HR_LOSS_KL. */
static hr_attack_opts training_attack(const hr_train_opts *o, int epoch, const float *target)
{
    enum hr_objective objective = objective_of(o, epoch);
    hr_attack_opts a = plain_attack(o, objective);
    a.bn = o->attack_bn;
    a.stream = HR_STREAM_ATTACK;
    a.c0 = (uint32_t)epoch;
    if (looks_at_pairs(objective))
        a.spread = 0.001f;
    if (objective == HR_OBJ_TRADES || objective == HR_OBJ_TRADES_L2) {
        a.loss = HR_LOSS_KL;
        a.target = target;
    }
    if (objective == HR_OBJ_FGSM_RS) {
        a.steps = 1;
        a.random_start = true;
        a.step = (float)(1.25 * o->eps);
    }
    if (objective == HR_OBJ_FGSM) {
        a.steps = 1;
        a.random_start = false;
    }
    return a;
}

/* Remember the running statistics, or put back what was remembered. */
static void remember(hr_trainer *t)
{
    if (t->on_device)
        hr_cuda_learn_remember(t->e, false);
    for (int i = 0; i < t->nmoving; i++)
        memcpy(t->moving[i].before, t->moving[i].value, t->moving[i].n * sizeof(float));
}

static int drop_step(hr_trainer *t)
{
    if (t->on_device)
        hr_cuda_learn_remember(t->e, true);
    for (int i = 0; i < t->nmoving && !t->on_device; i++)
        memcpy(t->moving[i].value, t->moving[i].before, t->moving[i].n * sizeof(float));
    return HR_EINTR;
}

static int interrupted_step(hr_trainer *t)
{
    return hr_interrupted() ? drop_step(t) : HR_OK;
}

static void run_images(hr_trainer *t, const float *x, int n, enum hr_bn_mode bn)
{
    memcpy(hr_exec_input(t->e), x, (size_t)n * hr_exec_input_len(t->e) * sizeof *x);
    if (bn == HR_BN_FOLDED)
        hr_exec_infer(t->e, n);
    else
        hr_exec_forward(t->e, 0, n, bn);
}

/* Leave the attacked images in the executor's input. */
static void attack(hr_trainer *t, int n)
{
    const hr_train_opts *o = t->o;
    hr_attack_opts a = training_attack(o, t->at.epoch, t->clean_logits);
    if (t->on_device) {
        if (a.loss == HR_LOSS_KL)
            hr_cuda_learn_target(t->e, n, o->attack_bn == HR_BN_BATCH_UPDATE ? HR_BN_BATCH : o->attack_bn);
        a.target = NULL;
        hr_attack_pgd(t->e, &a, NULL, NULL, NULL, n);
        return;
    }
    if (a.loss == HR_LOSS_KL) { /* away from what the network says in the attack's own mode */
        run_images(t, t->x, n, o->attack_bn == HR_BN_BATCH_UPDATE ? HR_BN_BATCH : o->attack_bn);
        memcpy(t->clean_logits, hr_exec_logits(t->e), (size_t)n * (size_t)t->m->classes * sizeof(float));
    }
    hr_attack_pgd(t->e, &a, t->x, t->y, t->index, n);
}

/* One pass over what is in the executor's input: mean cross-entropy. Returns how many are right; a device
 * will tell (hr_device_note). */
static uint64_t pass(hr_trainer *t, int n, unsigned flags)
{
    if (t->on_device) {
        bool natural = objective_of(t->o, t->at.epoch) == HR_OBJ_NATURAL;
        hr_cuda_learn_pass(t->e, n, flags, natural ? HR_CUDA_CLEAN : HR_CUDA_ROBUST);
        return 0;
    }
    hr_exec_forward(t->e, 0, n, HR_BN_BATCH_UPDATE);
    hr_loss_ce(hr_exec_logits(t->e), t->y, 0, n, t->m->classes, 1.0f / (float)n, t->loss,
               hr_exec_dlogits(t->e));
    hr_exec_backward(t->e, 0, n, HR_BN_BATCH_UPDATE, flags);
    return (uint64_t)right(t, n);
}

/* Two passes, over the images and over what is in the executor's input. */
static void pass_pair(hr_trainer *t, int n, hr_tally *got)
{
    size_t images = (size_t)n * hr_exec_input_len(t->e) * sizeof(float);
    size_t logits = (size_t)n * (size_t)t->m->classes * sizeof(float);
    bool mart = objective_of(t->o, t->at.epoch) == HR_OBJ_MART;
    if (t->on_device) {
        hr_cuda_learn_pair(t->e, n, mart ? HR_CUDA_MART : HR_CUDA_TRADES, t->o->beta);
        return;
    }
    memcpy(t->attacked, hr_exec_input(t->e), images);
    run_images(t, t->x, n, HR_BN_BATCH_UPDATE);
    got->clean = (uint64_t)right(t, n);
    memcpy(t->clean_logits, hr_exec_logits(t->e), logits);

    run_images(t, t->attacked, n, HR_BN_BATCH_UPDATE);
    hr_loss_pair(mart ? HR_PAIR_MART : HR_PAIR_TRADES, t->clean_logits, hr_exec_logits(t->e), t->y, n,
                 t->m->classes, t->o->beta, 1.0f / (float)n, t->loss, t->dclean, hr_exec_dlogits(t->e));
    got->robust = (uint64_t)right(t, n);
    hr_exec_backward(t->e, 0, n, HR_BN_BATCH_UPDATE, HR_DW);
    for (int i = 0; i < t->n; i++)
        memcpy(t->list[i].first, hr_exec_grad(t->e, t->list[i].tensor), t->list[i].weights * sizeof(float));

    run_images(t, t->x, n, HR_BN_BATCH);
    memcpy(hr_exec_dlogits(t->e), t->dclean, logits);
    hr_exec_backward(t->e, 0, n, HR_BN_BATCH, HR_DW);
}

/* Put x + noise, cut to [0,1], into the executor's input. */
static void add_noise(hr_trainer *t, int n)
{
    size_t len = (size_t)n * hr_exec_input_len(t->e);
    if (t->on_device) {
        hr_cuda_learn_noise(t->e, n, false);
        return;
    }
    float *x = hr_exec_input(t->e);
    for (size_t p = 0; p < len; p++)
        x[p] = fminf(fmaxf(t->x[p] + t->noise[p], 0.0f), 1.0f);
}

/* The noise climbs; where the sum with the pixel is cut it has no gradient. */
static void move_noise(hr_trainer *t, int n)
{
    size_t len = (size_t)n * hr_exec_input_len(t->e);
    if (t->on_device) {
        hr_cuda_learn_noise_move(t->e, n, (float)t->o->eps);
        return;
    }
    const float *g = hr_exec_dinput(t->e);
    float eps = (float)t->o->eps;
    for (size_t p = 0; p < len; p++) {
        float sum = t->x[p] + t->noise[p];
        float sign = (float)((g[p] > 0.0f) - (g[p] < 0.0f));
        if (sum >= 0.0f && sum <= 1.0f)
            t->noise[p] = fminf(fmaxf(t->noise[p] + eps * sign, -eps), eps);
    }
}

/* Put images rows[0..n) of ds at place `at` of the batch. Those of the extra data have noise of their own. */
static void fill(hr_trainer *t, const hr_dataset *ds, const uint32_t *rows, int n, int at)
{
    const hr_train_opts *o = t->o;
    float *x = t->x + (size_t)at * hr_exec_input_len(t->e);
    hr_batch_fill(ds, rows, n, x, t->y + at);
    if (o->resized_crop)
        hr_batch_resized_crop(ds, rows, n, x, o->flip, o->seed, (uint32_t)t->at.epoch);
    else if (o->augment_pad > 0 || o->flip)
        hr_batch_augment(ds, rows, n, x, o->augment_pad, o->flip, o->seed, (uint32_t)t->at.epoch);
    for (int i = 0; i < n; i++)
        t->index[at + i] = ds->index[rows[i]] | (ds == o->extra ? HR_EXTRA : 0);
}

/* The images of a step become the batch. */
static void fill_batch(hr_trainer *t, const hr_dataset *ds, const hr_images *images)
{
    if (t->on_device) {
        hr_device_take(t, ds, images, t->at.steps);
        return;
    }
    fill(t, ds, images->rows, images->n, 0);
    if (images->nextra > 0)
        fill(t, t->o->extra, images->extra, images->nextra, images->n);
}

/* The images of the batch become the executor's input. */
static void take_images(hr_trainer *t, int n)
{
    if (t->on_device)
        hr_cuda_batch_input(t->e, n);
    else
        memcpy(hr_exec_input(t->e), t->x, (size_t)n * hr_exec_input_len(t->e) * sizeof(float));
}

static void tell(hr_trainer *t, enum hr_moment moment)
{
    if (t->o->at && moment == HR_AT_STEPPED)
        hr_device_fetch(t);
    if (t->o->at)
        t->o->at(t->o->ctx, t, moment);
}

int hr_add_up(hr_trainer *t, const hr_tally *got, uint32_t step)
{
    hr_tally *sum = &t->at.sum;
    *sum = (hr_tally){sum->n + got->n, sum->clean + got->clean, sum->robust + got->robust,
                      sum->loss + got->loss};
    t->told = step;
    return isfinite(got->loss) ? HR_OK : HR_EDIVERGED;
}

/* One step; next (may be NULL): the images of the one behind it in the epoch. HR_EINTR: a signal came, and
 * everything is as before the step; HR_EDIVERGED (without a message): the loss of step t->told, in t->at.sum,
 * is no number. On the CPU it is this step's and no parameter has moved; a device's losses are heard of one
 * step later, while it works on the next one. */
static int train_batch(hr_trainer *t, const hr_dataset *ds, const hr_images *images, const hr_images *next,
                       double lr)
{
    const hr_train_opts *o = t->o;
    int n = images->n + images->nextra;
    enum hr_objective objective = objective_of(o, t->at.epoch);
    bool natural = objective == HR_OBJ_NATURAL, free_noise = objective == HR_OBJ_FREE;
    hr_tally got = {.n = (uint64_t)n};
    remember(t);
    fill_batch(t, ds, images);
    t->paired = looks_at_pairs(objective);
    tell(t, HR_AT_IMAGES);
    if (!natural && !t->paired && o->log_clean) {
        take_images(t, n);
        hr_exec_infer(t->e, n);
        if (t->on_device)
            hr_cuda_learn_count(t->e, n, HR_CUDA_CLEAN);
        else
            got.clean = (uint64_t)right(t, n);
    }
    if (natural)
        take_images(t, n);
    else if (free_noise)
        add_noise(t, n);
    else
        attack(t, n);
    if (interrupted_step(t))
        return HR_EINTR;
    tell(t, HR_AT_ATTACKED);

    if (t->paired) {
        pass_pair(t, n, &got);
    } else {
        *(natural ? &got.clean : &got.robust) = pass(t, n, free_noise ? HR_DW | HR_DX : HR_DW);
    }
    if (interrupted_step(t)) /* the gradient may not be one */
        return HR_EINTR;
    got.loss = t->on_device ? 0 : hr_tree_sum(t->loss, (size_t)n);
    if (!t->on_device && hr_add_up(t, &got, t->at.step + 1))
        return HR_EDIVERGED;
    if (free_noise)
        move_noise(t, n);
    update(t, lr);
    t->at.step++;
    if (t->on_device && hr_device_note(t, n))
        return HR_EDIVERGED;
    if (t->on_device && next) /* while the device works on this step */
        hr_device_stage(t, ds, next, t->at.steps);
    tell(t, HR_AT_STEPPED);
    return HR_OK;
}

/* SNIP's scores, from the first batch of all: every weight takes part. */
static int score_by_snip(hr_trainer *t, const hr_dataset *ds, const uint32_t *rows, int n)
{
    for (int i = 0; i < t->n; i++)
        if (t->list[i].rule == HR_SCORES)
            for (int64_t k = 0; k < t->list[i].layer->n; k++)
                t->list[i].mask[k] = 1.0f;
    hr_exec_params(t->e);
    fill(t, ds, rows, n, 0);
    run_images(t, t->x, n, HR_BN_BATCH);
    hr_loss_ce(hr_exec_logits(t->e), t->y, 0, n, t->m->classes, 1.0f / (float)n, NULL, hr_exec_dlogits(t->e));
    hr_exec_backward(t->e, 0, n, HR_BN_BATCH, HR_DW);
    if (hr_interrupted()) /* the run goes on from its very beginning */
        return HR_EINTR;
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        if (p->rule != HR_SCORES)
            continue;
        for (size_t k = 0; k < p->n; k++)
            p->value[k] = 1.0f; /* |dL/ds| of positive scores is |dL/dmask| */
        hr_hydra_grad(p->gradient, hr_exec_grad(t->e, p->tensor), p->weight, p->value, p->layer, p->reg);
        for (size_t k = 0; k < p->n; k++)
            p->value[k] = fabsf(p->gradient[k]);
        hr_stage_choose(p);
    }
    hr_exec_params(t->e);
    return HR_OK;
}

/* ---- epochs -------------------------------------------------------------------------------------------- */

/* Parameters and running statistics are numbers, or the last step is the one that made them something else.
 */
static int check_finite(const hr_trainer *t, hr_err *err)
{
    hr_err inner = HR_ERR_INIT;
    if (!hr_model_check_finite(t->m, t->o->name, &inner))
        return HR_OK;
    return hr_fail(err, HR_EDIVERGED, "diverged: behind step %u of epoch %d: %s; a smaller --lr may help",
                   t->at.step, t->at.epoch + 1, inner.msg);
}

static int diverged(const hr_trainer *t, hr_err *err)
{
    return hr_fail(err, HR_EDIVERGED,
                   "diverged: the loss is %g at step %u of epoch %d; a smaller --lr may help", t->at.sum.loss,
                   t->told, t->at.epoch + 1);
}

/* Save the run where it is, unless there is nothing to go on from. */
static int save(hr_trainer *t, hr_err *err)
{
    if (hr_device_hear(t))
        return diverged(t, err);
    hr_device_fetch(t);
    int rc = check_finite(t, err);
    return rc ? rc : hr_trainer_save(t, err);
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

/* Steps on each batch of an epoch. */
static uint32_t repeats_of(const hr_train_opts *o, int epoch)
{
    return objective_of(o, epoch) == HR_OBJ_FREE ? (uint32_t)o->repeats : 1;
}

/* Steps of an epoch: a last, smaller batch counts when it holds two images. */
static uint32_t steps_of(const hr_trainer *t, const hr_dataset *ds, int epoch)
{
    uint32_t batch = (uint32_t)t->o->batch, steps = ds->n / batch + (ds->n % batch >= 2);
    if (t->extra) {
        uint32_t others = (t->nextra + batch - 1) / batch;
        steps = steps < others ? steps : others;
    }
    return steps * repeats_of(t->o, epoch);
}

static uint32_t at_most(uint32_t n, uint32_t most)
{
    return n < most ? n : most;
}

/* ADMM's line of the log. */
static int report_admm(hr_trainer *t, hr_err *err)
{
    double rho = rho_of(t->o, t->at.epoch), penalty = 0;
    json_t *gap = json_object();
    for (int i = 0; i < t->n; i++) {
        const hr_trainee *p = &t->list[i];
        if (p->rule != HR_ADMM)
            continue;
        json_object_set_new(gap, p->layer->name, json_real(hr_admm_gap(p->value, p->z, p->n)));
        for (size_t k = 0; k < p->n; k++) {
            double pull = (double)p->value[k] - p->z[k] + p->u[k];
            penalty += 0.5 * rho * pull * pull;
        }
    }
    json_t *j = json_pack("{s:i, s:s, s:f, s:f, s:o}", "epoch", t->at.epoch + 1, "split", "admm", "rho", rho,
                          "penalty", penalty, "gap", gap);
    int rc = hr_log_json(t->log, j, err);
    json_decref(j);
    return rc;
}

static void permute(const hr_train_opts *o, uint32_t *place, uint32_t n, uint32_t epoch)
{
    for (uint32_t i = 0; o->in_order && i < n; i++)
        place[i] = i;
    if (!o->in_order)
        hr_permutation(place, n, o->seed, HR_STREAM_SHUFFLE, epoch);
}

/* The order of n images in an epoch, and of the extra ones. */
static void order_epoch(hr_trainer *t, uint32_t *order, uint32_t n, int epoch)
{
    permute(t->o, order, n, (uint32_t)epoch);
    if (!t->extra)
        return;
    uint32_t *place = hr_xmalloc(t->nextra * sizeof *place);
    permute(t->o, place, t->nextra, (uint32_t)epoch | HR_EXTRA);
    for (uint32_t i = 0; i < t->nextra; i++)
        t->extra[i] = t->chosen[place[i]];
    free(place);
}

/* The images of step s of an epoch. */
static hr_images step_of(const hr_trainer *t, const hr_dataset *ds, const uint32_t *order, uint32_t s)
{
    uint32_t batch = (uint32_t)t->o->batch, first = s / repeats_of(t->o, t->at.epoch) * batch;
    hr_images images = {.rows = order + first, .n = (int)at_most(batch, ds->n - first)};
    if (t->extra) {
        images.extra = t->extra + first;
        images.nextra = (int)at_most(batch, t->nextra - first);
    }
    return images;
}

/* The epoch's training is over: its line. */
static int end_epoch(hr_trainer *t, uint32_t steps, hr_err *err)
{
    const hr_train_opts *o = t->o;
    const hr_tally *sum = &t->at.sum;
    int epoch = t->at.epoch;
    bool natural = objective_of(o, epoch) == HR_OBJ_NATURAL;
    hr_device_fetch(t); /* behind the last step of an epoch nothing moves until the next one */
    int rc = check_finite(t, err);
    if (rc)
        return rc;
    t->at.measuring = 1;
    hr_epoch line = {.epoch = epoch + 1,
                     .split = "train",
                     .loss = sum->loss / (double)sum->n,
                     .lr = hr_schedule_lr(&o->schedule, epoch, steps - 1, steps)};
    line.clean =
        natural || o->log_clean || looks_at_pairs(objective_of(o, epoch)) ? percent(sum->clean, sum->n) : NAN;
    line.robust = natural ? NAN : percent(sum->robust, sum->n);
    rc = report(t, &line, err);
    return !rc && o->stage == HR_STAGE_ADMM ? report_admm(t, err) : rc;
}

/* What is left of the running epoch, and its line. */
static int train_epoch(hr_trainer *t, const hr_dataset *ds, uint32_t *order, hr_err *err)
{
    const hr_train_opts *o = t->o;
    const hr_tally *sum = &t->at.sum;
    int epoch = t->at.epoch;
    uint32_t steps = steps_of(t, ds, epoch), repeats = repeats_of(o, epoch);
    bool natural = objective_of(o, epoch) == HR_OBJ_NATURAL;
    bool fresh = t->noise && o->reset_noise && t->at.step == 0;
    if (fresh && t->on_device)
        hr_cuda_learn_noise(t->e, 0, true);
    if (fresh)
        memset(t->noise, 0, (size_t)t->room * hr_exec_input_len(t->e) * sizeof *t->noise);
    order_epoch(t, order, ds->n, epoch);
    while (t->at.step < steps) {
        uint32_t s = t->at.step;
        bool more = s + 1 < steps;
        hr_images images = step_of(t, ds, order, s), next = step_of(t, ds, order, more ? s + 1 : s);
        double lr = hr_schedule_lr(&o->schedule, epoch, s, steps);
        int rc = hr_interrupted() ? HR_EINTR : train_batch(t, ds, &images, more ? &next : NULL, lr);
        if (!rc && !more)
            rc = hr_device_hear(t);
        if (rc)
            return rc == HR_EDIVERGED ? diverged(t, err) : rc;
        if (o->on_step && sum->n)
            o->on_step(o->ctx, epoch + 1, (uint32_t)(sum->n / repeats),
                       percent(natural ? sum->clean : sum->robust, sum->n));
        rc = t->at.step < steps && hr_job_due(o->job) ? save(t, err) : HR_OK;
        if (rc)
            return rc;
    }
    return end_epoch(t, steps, err);
}

/* Keep this epoch when none was better. */
static void select_epoch(hr_trainer *t, double score)
{
    if (t->at.selected && score <= t->at.score)
        return;
    t->at.score = score;
    t->at.selected = t->at.epoch + 1;
    for (int i = 0; i < t->n; i++)
        memcpy(t->list[i].best, t->list[i].value, t->list[i].n * sizeof(float));
    for (int i = 0; i < t->nmoving; i++)
        memcpy(t->moving[i].best, t->moving[i].value, t->moving[i].n * sizeof(float));
}

/* Make the model that of the best epoch. */
static void take_best(hr_trainer *t)
{
    if (!t->at.selected)
        return;
    for (int i = 0; i < t->n; i++)
        memcpy(t->list[i].value, t->list[i].best, t->list[i].n * sizeof(float));
    for (int i = 0; i < t->nmoving; i++)
        memcpy(t->moving[i].value, t->moving[i].best, t->moving[i].n * sizeof(float));
    if (!t->m->meta)
        t->m->meta = json_object();
    json_object_set_new(t->m->meta, "selection",
                        json_pack("{s:I, s:s, s:f}", "epoch", (json_int_t)t->at.selected, "by",
                                  t->o->objective == HR_OBJ_NATURAL ? "clean" : "robust", "accuracy",
                                  t->at.score));
}

/* What is left of measuring the probe, clean and attacked, and its line. */
static int measure(hr_trainer *t, const hr_dataset *probe, double lr, hr_err *err)
{
    const hr_train_opts *o = t->o;
    hr_eval_attack attacks[HR_PROBES] = {
        {.name = "clean", .clean = true, .restarts = 1},
        {.name = "pgd", .restarts = 1, .opts = plain_attack(o, o->objective)}};
    attacks[1].opts.stream = HR_STREAM_EVAL;
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
                     .lr = lr,
                     .collapsed = r[1].accuracy < 0.5 * t->at.best};
    t->at.best = fmax(t->at.best, r[1].accuracy);
    if (o->best)
        select_epoch(t, o->objective == HR_OBJ_NATURAL ? r[0].accuracy : r[1].accuracy);
    return report(t, &line, err);
}

static void next_epoch(hr_trainer *t)
{
    t->at = (hr_place){.epoch = t->at.epoch + 1,
                       .steps = t->at.steps,
                       .best = t->at.best,
                       .score = t->at.score,
                       .selected = t->at.selected};
    for (int i = 0; i < HR_PROBES; i++)
        t->probe[i].done = 0;
}

/* Train from the place where t is to the end. */
static int run(hr_trainer *t, const hr_dataset *train, const hr_dataset *probe, hr_err *err)
{
    const hr_train_opts *o = t->o;
    uint32_t *order = hr_xmalloc(train->n * sizeof *order);
    int rc = hr_log_cut(t->log, err);
    if (!rc && o->stage == HR_STAGE_PRUNE && o->scores == HR_SCORES_SNIP && t->at.steps == 0) {
        permute(o, order, train->n, 0);
        rc = score_by_snip(t, train, order, train->n < (uint32_t)o->batch ? (int)train->n : o->batch);
    }
    if (!rc)
        rc = hr_device_begin(t, err);
    while (!rc && t->at.epoch < o->schedule.warmup_epochs + o->schedule.epochs) {
        if (!t->at.measuring)
            rc = train_epoch(t, train, order, err);
        uint32_t steps = steps_of(t, train, t->at.epoch);
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
    rc = save(t, err);
    return rc ? rc
              : hr_job_interrupted(o->job, err, "epoch %d, %s %u", t->at.epoch + 1,
                                   t->at.measuring ? "measured after step" : "step", t->at.step);
}

static void release(hr_trainer *t)
{
    hr_exec_free(t->e);
    hr_stage_release(t);
    for (int i = 0; i < HR_PROBES; i++)
        hr_eval_work_release(&t->probe[i]);
    free(t->x);
    free(t->y);
    free(t->pred);
    free(t->index);
    free(t->loss);
    free(t->noise);
    free(t->chosen);
    free(t->extra);
    free(t->attacked);
    free(t->clean_logits);
    free(t->dclean);
    hr_layers_release(&t->layers);
}

/* What is taken here besides the executor: the optimiser's memory and masks, and the batch. */
static void beside(const hr_trainer *t, hr_exec_opts *eo)
{
    size_t params = (size_t)t->layers.params, weights = (size_t)t->layers.weights;
    size_t floats = params * (t->o->optimizer == HR_SGD ? 1 : 2), images = 1;
    if (t->o->stage != HR_STAGE_PRETRAIN)
        floats += weights * 4; /* mask, masked weight, gradient, hr_topk's keys; admm: z, u, gradient, P's */
    if (hr_trains_pairs(t->o)) {
        floats += params;
        images++;
    }
    images += t->o->objective == HR_OBJ_FREE;
    const hr_node *in = &t->m->nodes[0];
    eo->beside = floats * sizeof(float);
    eo->beside_per_image = images * (size_t)in->c * (size_t)in->h * (size_t)in->w * sizeof(float);
}

/* The share of the extra images that is used, drawn once. */
static void choose_extra(hr_trainer *t)
{
    const hr_train_opts *o = t->o;
    t->chosen = hr_xmalloc((size_t)o->extra->n * sizeof *t->chosen);
    hr_permutation(t->chosen, o->extra->n, o->seed, HR_STREAM_SUBSET, HR_EXTRA);
    t->nextra = (uint32_t)(o->extra_share * o->extra->n);
    t->nextra = t->nextra ? t->nextra : 1;
    t->extra = hr_xmalloc((size_t)t->nextra * sizeof *t->extra);
}

int hr_train(hr_model *m, const hr_dataset *train, const hr_dataset *probe, const hr_train_opts *o,
             hr_err *err)
{
    hr_log kept = {0};
    hr_trainer t = {.m = m, .o = o, .log = o->log ? o->log : &kept, .layers = hr_layers_of(m)};
    int rc = hr_stage_check(&t, err);
    if (!rc && (train->n < 2 || o->batch < 2))
        rc = hr_fail(err, HR_EINVAL, "training needs at least 2 images and batches of 2: %u images, batch %d",
                     train->n, o->batch);
    if (!rc && o->extra && o->extra->n == 0)
        rc = hr_fail(err, HR_EINVAL, "there are no extra images");
    if (!rc && o->best && !probe)
        rc = hr_fail(err, HR_EINVAL, "the best epoch needs images to measure");
    if (rc)
        goto out;

    if (o->extra)
        choose_extra(&t);
    hr_stage_begin(&t);
    t.room = o->extra ? 2 * o->batch : o->batch;
    hr_exec_opts eo = {
        .batch = t.room, .threads = o->threads, .train = true, .exact = o->exact, .device = o->device};
    beside(&t, &eo);
    t.e = hr_exec_new(m, &eo, err);
    if (!t.e) {
        rc = err->code;
        goto out;
    }
    hr_stage_trainees(&t);
    size_t batch = (size_t)t.room, len = hr_exec_input_len(t.e), classes = (size_t)m->classes;
    if (o->objective == HR_OBJ_FREE)
        t.noise = hr_xaligned(batch * len, sizeof *t.noise);
    if (!o->log && !o->on_epoch && !o->best)
        probe = NULL;
    t.probed = probe ? probe->n : 0;
    for (int i = 0; probe && i < HR_PROBES; i++)
        t.probe[i] = hr_eval_work_new(probe->n);
    rc = hr_trainer_load(&t, err);
    if (rc)
        goto out;
    for (int i = 0; i < t.n; i++)
        if (t.list[i].rule == HR_SCORES)
            hr_stage_choose(&t.list[i]);
    hr_exec_params(t.e);
    t.x = hr_xaligned(batch * len, sizeof *t.x);
    t.y = hr_xcalloc(batch, sizeof *t.y);
    t.pred = hr_xcalloc(batch, sizeof *t.pred);
    t.index = hr_xcalloc(batch, sizeof *t.index);
    t.loss = hr_xcalloc(batch, sizeof *t.loss);
    if (hr_trains_pairs(o)) {
        t.attacked = hr_xaligned(batch * len, sizeof *t.attacked);
        t.clean_logits = hr_xaligned(batch * classes, sizeof *t.clean_logits);
        t.dclean = hr_xaligned(batch * classes, sizeof *t.dclean);
    }
    if (o->profile)
        hr_exec_profile(t.e);
    rc = run(&t, train, probe, err);
    if (o->profile)
        hr_profile_table(t.e, o->profile);
    if (!rc && o->best)
        take_best(&t);
    if (!rc && o->stage == HR_STAGE_PRUNE)
        hr_stage_masks(&t);
out:
    release(&t);
    hr_log_close(&kept);
    return rc;
}
