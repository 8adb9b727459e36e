/* tools/advtrain.c -- train, prune or finetune a network on attacked images. */
#include "data/data.h"
#include "model/model.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *data, *extra, *eval, *arch, *mean, *std, *milestones, *log, *tensorboard, *output;
    const char *pseudo_labels;
    int stage, objective, warmup, optimizer, schedule, attack_bn, augment, scores, reference, selection;
    int64_t limit, eval_limit, classes, epochs, batch, warmup_steps, warmup_epochs, steps, seed, threads;
    int64_t repeats, fgsm_epochs, admm_every;
    double extra_share, beta, rho, lr, warmup_lr, gamma, momentum, weight_decay, eps, step, save_every;
    bool nesterov, warmup_ramp, reset_noise, fixed_rho, stratified, no_random_start, no_shuffle, no_augment,
        freeze_bn, log_clean, restart, profile, exact;
    hr_device device;
} a = {.device = {.name = "cpu"},
       .eval_limit = 1000,
       .epochs = 10,
       .batch = 128,
       .steps = 10,
       .lr = 0.1,
       .warmup_lr = 0.1,
       .gamma = 0.1,
       .momentum = 0.9,
       .weight_decay = 1e-4,
       .eps = NAN,
       .step = NAN,
       .save_every = 60,
       .extra_share = 1.0,
       .beta = 6.0,
       .repeats = 4,
       .rho = 1e-3,
       .admm_every = 30,
       .stage = HR_STAGE_PRETRAIN,
       .warmup = HR_OBJ_FGSM,
       .seed = 1};

enum { AUGMENT_NONE, AUGMENT_CROP, AUGMENT_CROP_FLIP, AUGMENT_RESIZED, AUGMENT_RESIZED_FLIP };
static const char *const augment_names[] = {"none", "crop", "crop-flip", "resized", "resized-flip", NULL};

enum { SELECT_LAST, SELECT_BEST };
static const char *const selection_names[] = {"last", "best", NULL};
enum { REFERENCE_NONE, REFERENCE_HYDRA };
static const char *const reference_names[] = {"none", "hydra", NULL};

static const hr_opt options[] = {
    {"stage", 0, HR_OPT_CHOICE, &a.stage, HR_OPT_RESULT, "STAGE", "what to do", 0, 0, hr_stage_names},
    {"data", 'd', HR_OPT_STRING, &a.data, 0, "FILE", "training images (tfrecord)", 0, 0, NULL},
    {"extra", 0, HR_OPT_STRING, &a.extra, 0, "FILE", "as many more images per step, with pseudo-labels", 0, 0,
     NULL},
    {"extra-share", 0, HR_OPT_REAL, &a.extra_share, HR_OPT_RESULT, "X", "use this share of them", 1e-9, 1,
     NULL},
    {"pseudo-labels", 0, HR_OPT_STRING, &a.pseudo_labels, 0, "NET", "their labels: what this network says", 0,
     0, NULL},
    {"eval", 'e', HR_OPT_STRING, &a.eval, 0, "FILE", "images to measure after every epoch", 0, 0, NULL},
    {"select", 0, HR_OPT_CHOICE, &a.selection, HR_OPT_RESULT, "EPOCH", "which one is written: best on --eval",
     0, 0, selection_names},
    {"eval-limit", 0, HR_OPT_INT, &a.eval_limit, 0, "N", "use N of them, 0: all", 0, 1e9, NULL},
    {"output", 'o', HR_OPT_STRING, &a.output, 0, "FILE", "the trained network ('-' is stdout)", 0, 0, NULL},
    {"log", 0, HR_OPT_STRING, &a.log, 0, "FILE", "one JSON line per epoch and split", 0, 0, NULL},
    {"tensorboard", 0, HR_OPT_STRING, &a.tensorboard, 0, "DIR", "the same as TensorBoard events", 0, 0, NULL},
    {"log-clean", 0, HR_OPT_FLAG, &a.log_clean, 0, NULL, "clean training accuracy too (costs a pass)", 0, 0,
     NULL},
    {"arch", 0, HR_OPT_STRING, &a.arch, HR_OPT_RESULT, "NAME", "build a new network instead of NET", 0, 0,
     NULL},
    {"classes", 0, HR_OPT_INT, &a.classes, HR_OPT_RESULT, "N", "--arch: classes, 0: as in the images", 0, 1e6,
     NULL},
    {"mean", 0, HR_OPT_STRING, &a.mean, HR_OPT_RESULT, "A,B,..", "--arch: normalise by mean", 0, 0, NULL},
    {"std", 0, HR_OPT_STRING, &a.std, HR_OPT_RESULT, "A,B,..", "--arch: and deviation per channel", 0, 0,
     NULL},
    {"limit", 0, HR_OPT_INT, &a.limit, HR_OPT_RESULT, "N", "use N training images, 0: all", 0, 4e9, NULL},
    {"stratified", 0, HR_OPT_FLAG, &a.stratified, HR_OPT_RESULT, NULL, "limits take as many of each class", 0,
     0, NULL},
    {"augment", 0, HR_OPT_CHOICE, &a.augment, HR_OPT_RESULT, "HOW",
     "crop shifts by up to 4 pixels, resized is ImageNet's", 0, 0, augment_names},
    {"no-augment", 0, HR_OPT_FLAG, &a.no_augment, HR_OPT_RESULT, NULL,
     "as --augment none, whatever stood before", 0, 0, NULL},
    {"no-shuffle", 0, HR_OPT_FLAG, &a.no_shuffle, HR_OPT_RESULT, NULL, "images in the order of the file", 0,
     0, NULL},
    {"epochs", 0, HR_OPT_INT, &a.epochs, HR_OPT_RESULT, "N", "epochs (prune: 0 keeps the first scores)", 0,
     100000, NULL},
    {"batch", 0, HR_OPT_INT, &a.batch, HR_OPT_RESULT, "N", "images per step", 2, 65536, NULL},
    {"optimizer", 0, HR_OPT_CHOICE, &a.optimizer, HR_OPT_RESULT, "NAME", "optimiser", 0, 0,
     hr_optimizer_names},
    {"lr", 0, HR_OPT_REAL, &a.lr, HR_OPT_RESULT, "X", "learning rate", 1e-12, 1e6, NULL},
    {"momentum", 0, HR_OPT_REAL, &a.momentum, HR_OPT_RESULT, "X", "momentum of sgd and rmsprop", 0, 0.9999,
     NULL},
    {"nesterov", 0, HR_OPT_FLAG, &a.nesterov, HR_OPT_RESULT, NULL, "Nesterov's momentum for sgd", 0, 0, NULL},
    {"weight-decay", 0, HR_OPT_REAL, &a.weight_decay, HR_OPT_RESULT, "X", "of everything that is trained", 0,
     10, NULL},
    {"schedule", 0, HR_OPT_CHOICE, &a.schedule, HR_OPT_RESULT, "NAME", "learning rate", 0, 0,
     hr_schedule_names},
    {"milestones", 0, HR_OPT_STRING, &a.milestones, HR_OPT_RESULT, "A,B,..", "multistep: epochs", 0, 0, NULL},
    {"gamma", 0, HR_OPT_REAL, &a.gamma, HR_OPT_RESULT, "X", "multistep: factor at each", 1e-9, 1, NULL},
    {"warmup-steps", 0, HR_OPT_INT, &a.warmup_steps, HR_OPT_RESULT, "N", "steps that ramp up to the rate", 0,
     1e9, NULL},
    {"warmup-epochs", 0, HR_OPT_INT, &a.warmup_epochs, HR_OPT_RESULT, "N", "warm-up epochs before the others",
     0, 100000, NULL},
    {"warmup-loss", 0, HR_OPT_CHOICE, &a.warmup, HR_OPT_RESULT, "NAME", "what they minimise; not free", 0, 0,
     hr_objective_names},
    {"warmup-lr", 0, HR_OPT_REAL, &a.warmup_lr, HR_OPT_RESULT, "X", "their learning rate", 1e-12, 1e6, NULL},
    {"warmup-ramp", 0, HR_OPT_FLAG, &a.warmup_ramp, HR_OPT_RESULT, NULL, "they ramp up to --lr, with --loss",
     0, 0, NULL},
    {"fgsm-epochs", 0, HR_OPT_INT, &a.fgsm_epochs, HR_OPT_RESULT, "N", "so many first epochs minimise it too",
     0, 100000, NULL},
    {"loss", 0, HR_OPT_CHOICE, &a.objective, HR_OPT_RESULT, "NAME", "what is minimised", 0, 0,
     hr_objective_names},
    {"beta", 0, HR_OPT_REAL, &a.beta, HR_OPT_RESULT, "X", "trades, mart: weight of the divergence", 0, 1e6,
     NULL},
    {"repeats", 0, HR_OPT_INT, &a.repeats, HR_OPT_RESULT, "N", "free: steps on each batch", 1, 1000, NULL},
    {"reset-noise", 0, HR_OPT_FLAG, &a.reset_noise, HR_OPT_RESULT, NULL, "free: no noise at an epoch's begin",
     0, 0, NULL},
    {"eps", 0, HR_OPT_REAL, &a.eps, HR_OPT_RESULT, "X", "radius of the attack, pixels in [0,1] (DATA's)", 0,
     1, NULL},
    {"step", 0, HR_OPT_REAL, &a.step, HR_OPT_RESULT, "X", "its step size (DATA's)", 0, 1, NULL},
    {"steps", 0, HR_OPT_INT, &a.steps, HR_OPT_RESULT, "N", "its steps", 0, 100000, NULL},
    {"no-random-start", 0, HR_OPT_FLAG, &a.no_random_start, HR_OPT_RESULT, NULL, "it starts at the image", 0,
     0, NULL},
    {"const-init", 0, HR_OPT_FLAG, &a.no_random_start, HR_OPT_RESULT, NULL, "the same, by HYDRA's name", 0, 0,
     NULL},
    {"attack-bn", 0, HR_OPT_CHOICE, &a.attack_bn, HR_OPT_RESULT, "MODE", "its batch norm", 0, 0,
     hr_bn_mode_names},
    {"scores", 0, HR_OPT_CHOICE, &a.scores, HR_OPT_RESULT, "NAME", "prune: where they start", 0, 0,
     hr_scores_names},
    {"rho", 0, HR_OPT_REAL, &a.rho, HR_OPT_RESULT, "X", "admm: pull towards the plan", 0, 1e6, NULL},
    {"fixed-rho", 0, HR_OPT_FLAG, &a.fixed_rho, HR_OPT_RESULT, NULL, "admm: it does not grow by 1.3", 0, 0,
     NULL},
    {"admm-every", 0, HR_OPT_INT, &a.admm_every, HR_OPT_RESULT, "N", "epochs between updates, and of a cycle",
     1, 100000, NULL},
    {"freeze-bn", 0, HR_OPT_FLAG, &a.freeze_bn, HR_OPT_RESULT, NULL, "prune: fixed scale and shift", 0, 0,
     NULL},
    {"reference", 0, HR_OPT_CHOICE, &a.reference, HR_OPT_RESULT, "WHOSE",
     "hydra: as its program did: eps .031, step .0078, cosines late", 0, 0, reference_names},
    {"seed", 0, HR_OPT_INT, &a.seed, HR_OPT_RESULT, "N", "of all randomness", 0, UINT32_MAX, NULL},
    {"exact", 0, HR_OPT_FLAG, &a.exact, HR_OPT_RESULT, NULL, "plain sums, no Winograd transforms (slower)", 0,
     0, NULL},
    {"device", 0, HR_OPT_STRING, &a.device.name, 0, "NAME", "cpu, cuda or cuda:N (needs heracles-cuda.so)", 0,
     0, NULL},
    {"fast", 0, HR_OPT_FLAG, &a.device.fast, 0, NULL, "cuda: sums in any order", 0, 0, NULL},
    {"tf32", 0, HR_OPT_FLAG, &a.device.tf32, 0, NULL, "cuda: products with 10 bits of mantissa", 0, 0, NULL},
    {"threads", 0, HR_OPT_INT, &a.threads, 0, "N", "threads, 0: one per processor", 0, 1024, NULL},
    {"save-every", 0, HR_OPT_REAL, &a.save_every, 0, "S", "seconds between saves in OUT.state, 0: each step",
     0, 1e9, NULL},
    {"restart", 0, HR_OPT_FLAG, &a.restart, 0, NULL, "discard OUT.state of an interrupted run", 0, 0, NULL},
    {"profile", 0, HR_OPT_FLAG, &a.profile, 0, NULL, "time per layer and pass, on stderr at the end", 0, 0,
     NULL},
    {0}};

static const hr_tool tool = {
    .name = "advtrain",
    .synopsis = "[OPTION]... -d TRAIN -o OUT {NET | --arch NAME}",
    .summary =
        "Train a network on attacked images (pretrain), learn which weights a pruned one needs (prune:\n"
        "HYDRA's scores under the rates that maskapply --plan wrote), or train what is left (finetune).\n"
        "admm draws a planned network towards its rates; maskapply --score l2 and finetune follow (R-ADMM).\n"
        "Interrupted, the same command goes on from OUT.state (none is kept when OUT is stdout).\n",
    .example = "advtrain --stage pretrain --arch resS -d train.tfrecord --eps 0.1 --step 0.025 -o dense.nn",
    .opts = options,
    .max_args = 1};

/* ---- progress ------------------------------------------------------------------------------------------ */

struct watch {
    hr_progress bar;
    uint32_t images;
    int epochs;
    double start;
};

static int on_epoch(void *ctx, const hr_epoch *e, hr_err *err)
{
    (void)err;
    struct watch *w = ctx;
    hr_progress_end(&w->bar);
    char clean[32] = "", robust[32] = "";
    if (isfinite(e->clean))
        snprintf(clean, sizeof clean, " clean %.2f", e->clean);
    if (isfinite(e->robust))
        snprintf(robust, sizeof robust, " robust %.2f", e->robust);
    double now = hr_seconds();
    hr_note("epoch %d/%d %s lr %.4g loss %.4f%s%s sec %.1f", e->epoch, w->epochs, e->split, e->lr, e->loss,
            clean, robust, now - w->start);
    if (e->collapsed)
        hr_warn(
            "epoch %d: attacked accuracy fell below half of what it was: the network may have overfitted to "
            "the training attack",
            e->epoch);
    w->start = now;
    return HR_OK;
}

static void on_step(void *ctx, int epoch, uint32_t done, double accuracy)
{
    struct watch *w = ctx;
    char note[64];
    if (!w->bar.on)
        hr_progress_start(&w->bar, "images", w->images);
    snprintf(note, sizeof note, "epoch %d accuracy %.1f %%", epoch, accuracy);
    hr_progress_at(&w->bar, done, note);
}

/* ---- the story ----------------------------------------------------------------------------------------- */

/* "0.1,0.2" into v; returns how many, or says what is wrong. */
static int parse_list(const char *option, const char *text, double *v, int max)
{
    int n = 0;
    char *copy = hr_xstrdup(text), *state = NULL;
    for (char *word = strtok_r(copy, ",", &state); word; word = strtok_r(NULL, ",", &state)) {
        if (n == max)
            hr_usage("--%s: at most %d numbers", option, max);
        if (!hr_parse_real(word, &v[n++]))
            hr_usage("--%s: '%s' is not a number", option, word);
    }
    free(copy);
    return n;
}

/* What was not given, for this data set. With --reference, what the published numbers were made with
 * (ALG 3.3, Q14, 3.4). */
static void fill_in(const char *dataset)
{
    bool hydra = a.reference == REFERENCE_HYDRA, imagenet = strcmp(dataset, "ImageNet") == 0;
    const hr_attack_preset *published = hr_attack_preset_of(dataset);
    if (!isfinite(a.eps))
        a.eps = !hydra ? published->eps : imagenet ? 0.0156 : 0.031;
    if (!isfinite(a.step))
        a.step = !hydra ? published->step : imagenet ? 0.00392 : 0.0078;
    a.reset_noise |= hydra;
    if (a.no_augment)
        a.augment = AUGMENT_NONE;
}

static hr_train_opts train_options(void)
{
    hr_train_opts o = {.stage = (enum hr_stage)a.stage,
                       .objective = (enum hr_objective)a.objective,
                       .optimizer = (enum hr_optimizer)a.optimizer,
                       .nesterov = a.nesterov,
                       .momentum = a.momentum,
                       .weight_decay = a.weight_decay,
                       .batch = (int)a.batch,
                       .threads = (int)a.threads,
                       .exact = a.exact,
                       .device = a.device,
                       .eps = a.eps,
                       .step = a.step,
                       .steps = (int)a.steps,
                       .random_start = !a.no_random_start,
                       .attack_bn = (enum hr_bn_mode)a.attack_bn,
                       .extra_share = a.extra_share,
                       .beta = a.beta,
                       .repeats = (int)a.repeats,
                       .reset_noise = a.reset_noise,
                       .fgsm_epochs = (int)a.fgsm_epochs,
                       .warmup = (enum hr_objective)a.warmup,
                       .best = a.selection == SELECT_BEST,
                       .scores = (enum hr_scores)a.scores,
                       .rho = a.rho,
                       .rho_grows = !a.fixed_rho,
                       .admm_every = (int)a.admm_every,
                       .freeze_bn = a.freeze_bn,
                       .augment_pad = a.augment == AUGMENT_CROP || a.augment == AUGMENT_CROP_FLIP ? 4 : 0,
                       .resized_crop = a.augment == AUGMENT_RESIZED || a.augment == AUGMENT_RESIZED_FLIP,
                       .flip = a.augment == AUGMENT_CROP_FLIP || a.augment == AUGMENT_RESIZED_FLIP,
                       .in_order = a.no_shuffle,
                       .log_clean = a.log_clean,
                       .seed = (uint32_t)a.seed};
    o.schedule = (hr_schedule){.kind = (enum hr_schedule_kind)a.schedule,
                               .lr = a.lr,
                               .epochs = (int)a.epochs,
                               .warmup_steps = (int)a.warmup_steps,
                               .warmup_epochs = (int)a.warmup_epochs,
                               .warmup_ramp = a.warmup_ramp,
                               .warmup_lr = a.warmup_lr,
                               .late = a.reference == REFERENCE_HYDRA ? 1.0 : 0.0,
                               .cycle = (int)a.admm_every,
                               .gamma = a.gamma};
    if (a.milestones) {
        double v[HR_MAX_MILESTONES];
        o.schedule.nmilestones = parse_list("milestones", a.milestones, v, HR_MAX_MILESTONES);
        for (int i = 0; i < o.schedule.nmilestones; i++) {
            if (!(v[i] >= (i ? v[i - 1] : 0.0) && v[i] <= 1e6 && v[i] == floor(v[i])))
                hr_usage("--milestones: %s: epochs must be whole numbers and ascend", a.milestones);
            o.schedule.milestones[i] = (int)v[i];
        }
    }
    if (a.epochs == 0 && a.stage != HR_STAGE_PRUNE)
        hr_usage("--epochs 0 is for --stage prune");
    if (a.schedule == HR_LR_MULTISTEP && !a.milestones)
        hr_usage("--schedule multistep needs --milestones");
    if (a.warmup == HR_OBJ_FREE)
        hr_usage("--warmup-loss free: its steps come in repeats, choose another");
    if (a.pseudo_labels && !a.extra)
        hr_usage("--pseudo-labels are for the images of --extra");
    return o;
}

/* A new network that fits the images; what is not told about it, the data set's manifest knows. */
static int make_model(const hr_dataset *ds, const hr_manifest *manifest, hr_model **m, hr_err *err)
{
    double mean[HR_MAX_CHANNELS_NORM], std[HR_MAX_CHANNELS_NORM];
    hr_zoo_opts z = {.c = ds->c, .h = ds->h, .w = ds->w, .classes = ds->classes};
    if (a.mean || a.std) {
        if (!a.mean || !a.std)
            hr_usage("--mean and --std go together");
        if (parse_list("mean", a.mean, mean, HR_MAX_CHANNELS_NORM) != ds->c ||
            parse_list("std", a.std, std, HR_MAX_CHANNELS_NORM) != ds->c)
            hr_usage("--mean and --std need %d numbers, one per channel of the images", ds->c);
        for (int i = 0; i < ds->c; i++)
            if (!(std[i] > 0.0))
                hr_usage("--std: %s: deviations must be positive", a.std);
        z.mean = mean;
        z.std = std;
    } else if (manifest->normalized && manifest->c == ds->c && ds->c <= HR_MAX_CHANNELS_NORM) {
        z.mean = manifest->mean;
        z.std = manifest->std;
    }
    int rc = hr_zoo_build(a.arch, &z, m, err);
    if (!rc)
        hr_zoo_init(*m, (uint32_t)a.seed);
    return rc;
}

/* The training images, and NET or a new network. JPEG and PNG images that are larger than the network's are
 * brought to its size, or to the one that the architecture was published with. */
static int load_both(const char *net, const hr_manifest *manifest, hr_dataset *train, hr_model **m,
                     char *digest, hr_err *err)
{
    if (net) {
        int rc = hr_nn_load(net, m, digest, err);
        return rc ? rc : hr_dataset_load_sized(train, a.data, 0, (*m)->nodes[0].h, (*m)->nodes[0].w, err);
    }
    hr_model *published;
    int rc = hr_zoo_build(a.arch, NULL, &published, err);
    if (rc)
        return rc;
    int h = published->nodes[0].h, w = published->nodes[0].w;
    hr_model_free(published);
    rc = hr_dataset_load_sized(train, a.data, a.classes ? (int)a.classes : manifest->classes, h, w, err);
    return rc ? rc : make_model(train, manifest, m, err);
}

static int load_images(hr_dataset *ds, const char *path, int64_t limit, const hr_model *m, hr_err *err)
{
    int rc = hr_dataset_load_sized(ds, path, m->classes, m->nodes[0].h, m->nodes[0].w, err);
    return rc ? rc : hr_dataset_subset(ds, (uint32_t)limit, a.stratified, (uint32_t)a.seed, err);
}

static int fits(const hr_dataset *ds, const char *path, const hr_model *m, const char *name, hr_err *err)
{
    const hr_node *in = &m->nodes[0];
    return hr_dataset_fits(ds, path, in->c, in->h, in->w, m->classes, name, err);
}

/* Another network's opinion of the extra images. */
static json_t *labeller; /* what made that network: an entry of this run's record */
static char labeller_digest[65];
static int label_extra(hr_dataset *extra, hr_err *err)
{
    hr_model *m;
    const hr_exec_opts eo = {.batch = (int)a.batch, .threads = (int)a.threads, .exact = a.exact};
    int rc = hr_nn_load(a.pseudo_labels, &m, labeller_digest, err);
    if (rc)
        return rc;
    rc = fits(extra, a.extra, m, a.pseudo_labels, err);
    if (!rc)
        rc = hr_pseudo_labels(m, a.pseudo_labels, extra, &eo, err);
    labeller = json_incref(m->history);
    hr_model_free(m);
    return rc;
}

/* The record of this run: what made the network. */
static json_t *history_of(const char *net_digest, const json_t *net_history, const hr_dataset *train,
                          const hr_dataset *extra, const hr_dataset *probe)
{
    json_t *h = hr_history_new(), *told = json_object_get(h, "options");
    if (a.selection == SELECT_BEST)
        json_object_set_new(told, "eval-limit", json_integer(a.eval_limit));
    json_object_set_new(told, "eps", json_real(a.eps)); /* as filled in */
    json_object_set_new(told, "step", json_real(a.step));
    json_object_set_new(told, "reset-noise", json_boolean(a.reset_noise));
    if (*net_digest)
        hr_history_input(h, "model", net_digest, net_history);
    hr_history_input(h, "data", train->whole, NULL);
    if (extra->n)
        hr_history_input(h, "extra", extra->whole, NULL);
    if (a.pseudo_labels)
        hr_history_input(h, "pseudo-labels", labeller_digest, labeller);
    if (a.selection == SELECT_BEST)
        hr_history_input(h, "selection", probe->whole, NULL);
    return h;
}

/* Hold the output, and find the saved state of this run: of the same record, the same log, the same kernels.
 */
static int open_job(hr_job **job, const char *net_digest, const hr_dataset *train, const hr_dataset *extra,
                    const hr_dataset *probe, hr_err *err)
{
    json_t *run = history_of(net_digest, NULL, train, extra, probe), *told = json_object_get(run, "options");
    if (probe->n)
        hr_history_input(run, "eval", probe->digest, NULL);
    json_object_set_new(told, "eval-limit", json_integer(a.eval ? a.eval_limit : 0));
    json_object_set_new(told, "log-clean", json_boolean(a.log_clean));
    json_object_set_new(run, "kernels", json_string(hr_compute_isa()));
    int rc = hr_job_open(job,
                         &(hr_job_opts){.output = a.output,
                                        .flags = HR_OUT_BINARY,
                                        .run = run,
                                        .every = a.save_every,
                                        .restart = a.restart},
                         err);
    json_decref(run);
    const json_t *at = rc ? NULL : hr_job_saved(*job);
    if (at)
        hr_note("%s.state: going on in epoch %lld behind step %lld", a.output,
                (long long)json_integer_value(json_object_get(at, "epoch")),
                (long long)json_integer_value(json_object_get(at, "step")));
    return rc;
}

static bool is_dash(const char *path)
{
    return path && strcmp(path, "-") == 0;
}

int main(int argc, char **argv)
{
    hr_err err = HR_ERR_INIT;
    int first = hr_tool_start(&tool, argc, argv);
    const char *net = first < argc ? argv[first] : NULL;
    if (!a.data || !a.output)
        hr_usage("-d TRAIN and -o OUT are needed");
    const char *wrong = hr_device_wrong(&a.device);
    if (wrong)
        hr_usage("--device %s: %s", a.device.name, wrong);
    if (strcmp(a.device.name, "cpu") && a.profile)
        hr_usage("--profile measures the CPU, not a device");
    if (!net == !a.arch)
        hr_usage("either NET or --arch NAME is needed, and not both");
    if (net && (a.classes || a.mean || a.std))
        hr_usage("--classes, --mean and --std are for --arch; NET has its own");
    if (a.selection == SELECT_BEST && !a.eval)
        hr_usage("--select best needs --eval");
    char split[32] = "";
    bool overlap = a.eval && hr_manifest_overlap(a.data, a.eval, split);
    if (is_dash(net) + is_dash(a.data) + is_dash(a.eval) + is_dash(a.extra) + is_dash(a.pseudo_labels) > 1)
        hr_usage("only one input can be stdin");
    if (is_dash(a.output) + is_dash(a.log) > 1)
        hr_usage("-o and --log cannot both be stdout");
    hr_manifest manifest;
    if (hr_manifest_beside(&manifest, a.data, &err))
        hr_die("%s", err.msg);
    fill_in(manifest.name);
    hr_train_opts o = train_options();
    o.name = is_dash(net) ? "<stdin>" : net ? net : a.arch;

    hr_dataset train = {0}, extra = {0}, probe = {0};
    hr_model *m = NULL;
    char digest[65] = "";
    if (load_both(net, &manifest, &train, &m, digest, &err) || fits(&train, a.data, m, o.name, &err) ||
        hr_dataset_subset(&train, (uint32_t)a.limit, a.stratified, (uint32_t)a.seed, &err))
        hr_die("%s", err.msg);
    if (a.eval &&
        (load_images(&probe, a.eval, a.eval_limit, m, &err) || fits(&probe, a.eval, m, o.name, &err)))
        hr_die("%s", err.msg);
    if (a.extra && (load_images(&extra, a.extra, 0, m, &err) || fits(&extra, a.extra, m, o.name, &err)))
        hr_die("%s", err.msg);
    if (a.pseudo_labels && label_extra(&extra, &err))
        hr_die("%s", err.msg);
    if (a.selection == SELECT_BEST && overlap)
        hr_die("%s: has images of %s in it, says the manifest: the best epoch must be chosen by others",
               a.eval, a.data);
    o.extra = a.extra ? &extra : NULL;

    hr_job *job = NULL;
    hr_log log = {0};
    hr_buf profile = {0};
    struct watch w = {.images = train.n, .epochs = (int)(a.epochs + a.warmup_epochs), .start = hr_seconds()};
    o.ctx = &w;
    o.on_epoch = on_epoch;
    o.on_step = on_step;
    int rc = open_job(&job, digest, &train, &extra, &probe, &err);
    if (!rc)
        rc = hr_log_open(&log, a.log, &err);
    if (!rc && a.tensorboard)
        rc = hr_log_tensorboard(&log, a.tensorboard, &err);
    if (!rc) {
        o.job = job;
        o.log = &log;
        o.profile = a.profile ? &profile : NULL;
        rc = hr_train(m, &train, a.eval ? &probe : NULL, &o, &err);
        hr_progress_end(&w.bar);
        if (profile.len) /* with nothing in it there is no data either */
            fwrite(profile.data, 1, profile.len, stderr);
    }
    if (!rc && json_object_get(m->meta, "selection") && a.selection == SELECT_BEST)
        json_object_set_new(json_object_get(m->meta, "selection"), "on",
                            json_string(*split ? split : "eval"));
    if (!rc && a.selection == SELECT_LAST && m->meta)
        json_object_del(m->meta, "selection"); /* of a stage before this one */
    if (!rc) {
        json_t *history = history_of(digest, m->history, &train, &extra, &probe);
        json_decref(m->history);
        m->history = history;
        rc = hr_nn_write(m, hr_job_out(job), NULL, &err);
    }
    if (rc)
        hr_job_abort(job);
    else
        rc = hr_job_commit(job, &err);
    if (rc)
        hr_die_err(&err);

    hr_buf_release(&profile);
    hr_log_close(&log);
    hr_model_free(m);
    json_decref(labeller);
    hr_dataset_release(&train);
    hr_dataset_release(&extra);
    hr_dataset_release(&probe);
    return hr_tool_finish();
}
