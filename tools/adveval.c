/* tools/adveval.c -- measure a network clean and under attack, or serve the search as its evaluator. */
#include "attack/attack.h"
#include "data/data.h"
#include "model/model.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BN_AUTO, BN_RUNNING, BN_BATCH, BN_RECALIBRATE };
static const char *const bn_names[] = {"auto", "running", "batch", "recalibrate", NULL};

static struct {
    int64_t reward_after;
    const char *train, *data, *attacks, *label, *data_name, *output, *outcomes, *curve, *save_adv;
    int64_t limit, restarts, batch, threads, seed, steps, iterations, queries, targets;
    double eps, step, save_every;
    hr_device device;
    int bn, reg, norm;
    bool checkpoints, stratified, serve, restart, profile, exact, confusion, masking;
} a = {.device = {.name = "cpu"},
       .attacks = "clean,fgsm,pgd20,cw",
       .restarts = 1,
       .batch = 100,
       .seed = 1,
       .save_every = 60,
       .steps = 10,
       .iterations = 100,
       .queries = 5000,
       .targets = 9,
       .eps = NAN,
       .step = NAN};

static const hr_opt options[] = {
    {"data", 'd', HR_OPT_STRING, &a.data, 0, "FILE", "images (tfrecord)", 0, 0, NULL},
    {"checkpoints", 0, HR_OPT_FLAG, &a.checkpoints, 0, NULL, "several networks: a record each, a line each",
     0, 0, NULL},
    {"output", 'o', HR_OPT_STRING, &a.output, 0, "FILE", "the record, else on stdout", 0, 0, NULL},
    {"outcomes", 0, HR_OPT_STRING, &a.outcomes, 0, "FILE", "the class of each image under each attack (TSV)",
     0, 0, NULL},
    {"confusion", 0, HR_OPT_FLAG, &a.confusion, HR_OPT_RESULT, NULL,
     "the record counts classes by given classes", 0, 0, NULL},
    {"save-adv", 0, HR_OPT_STRING, &a.save_adv, 0, "FILE", "the points that the last attack found (tfrecord)",
     0, 0, NULL},
    {"curve", 0, HR_OPT_STRING, &a.curve, HR_OPT_RESULT, "LIST",
     "adds min-norm: accuracy at these radii, by\n                                smallest perturbations", 0,
     0, NULL},
    {"masking", 0, HR_OPT_FLAG, &a.masking, HR_OPT_RESULT, NULL, "look for masked gradients, too", 0, 0,
     NULL},
    {"attacks", 0, HR_OPT_STRING, &a.attacks, HR_OPT_RESULT, "LIST",
     "some of clean, fgsm, pgdK, cw, aa; apgd-ce,\n"
     "                        apgd-dlr, apgd-t, fab-t, square",
     0, 0, NULL},
    {"limit", 0, HR_OPT_INT, &a.limit, HR_OPT_RESULT, "N", "attack N images, 0: all (clean is on all)", 0,
     4e9, NULL},
    {"stratified", 0, HR_OPT_FLAG, &a.stratified, HR_OPT_RESULT, NULL, "N takes as many of each class", 0, 0,
     NULL},
    {"eps", 0, HR_OPT_REAL, &a.eps, HR_OPT_RESULT, "X",
     "radius of the attacks, pixels in [0,1], else\n"
     "                        published: 8/255, ImageNet 4/255, FashionMNIST .1",
     0, 1000, NULL},
    {"norm", 0, HR_OPT_CHOICE, &a.norm, HR_OPT_RESULT, "NORM", "of the radius (l2: only aa and its parts)", 0,
     0, hr_norm_names},
    {"iterations", 0, HR_OPT_INT, &a.iterations, HR_OPT_RESULT, "N", "steps of apgd and fab", 1, 100000,
     NULL},
    {"queries", 0, HR_OPT_INT, &a.queries, HR_OPT_RESULT, "N", "queries of square", 1, 1000000, NULL},
    {"targets", 0, HR_OPT_INT, &a.targets, HR_OPT_RESULT, "N", "classes that apgd-t and fab-t aim at", 1,
     100000, NULL},
    {"step", 0, HR_OPT_REAL, &a.step, HR_OPT_RESULT, "X", "step size of pgd and cw, else a quarter of that",
     0, 1, NULL},
    {"restarts", 0, HR_OPT_INT, &a.restarts, HR_OPT_RESULT, "N", "random starts of an attack (fgsm, aa: 1)",
     1, 10000, NULL},
    {"bn", 0, HR_OPT_CHOICE, &a.bn, HR_OPT_RESULT, "MODE",
     "batch norm (auto: running; serving: batch); recalibrate: serving only", 0, 0, bn_names},
    {"label", 0, HR_OPT_STRING, &a.label, HR_OPT_RESULT, "NAME", "the network's name in tables", 0, 0, NULL},
    {"data-name", 0, HR_OPT_STRING, &a.data_name, 0, "NAME", "the images' name, else the file's", 0, 0, NULL},
    {"batch", 0, HR_OPT_INT, &a.batch, 0, "N", "images per pass", 1, 65536, NULL},
    {"seed", 0, HR_OPT_INT, &a.seed, HR_OPT_RESULT, "N", "of all randomness", 0, UINT32_MAX, NULL},
    {"exact", 0, HR_OPT_FLAG, &a.exact, HR_OPT_RESULT, NULL, "plain sums, no Winograd transforms (slower)", 0,
     0, NULL},
    {"device", 0, HR_OPT_STRING, &a.device.name, 0, "NAME", "cpu, cuda or cuda:N (needs heracles-cuda.so)", 0,
     0, NULL},
    {"fast", 0, HR_OPT_FLAG, &a.device.fast, 0, NULL, "cuda: sums in any order", 0, 0, NULL},
    {"tf32", 0, HR_OPT_FLAG, &a.device.tf32, 0, NULL, "cuda: products with 10 bits of mantissa", 0, 0, NULL},
    {"threads", 0, HR_OPT_INT, &a.threads, 0, "N", "threads, 0: one per processor", 0, 1024, NULL},
    {"save-every", 0, HR_OPT_REAL, &a.save_every, 0, "S",
     "seconds between saves in FILE.state, 0: each batch", 0, 1e9, NULL},
    {"restart", 0, HR_OPT_FLAG, &a.restart, 0, NULL, "discard FILE.state of an interrupted run", 0, 0, NULL},
    {"profile", 0, HR_OPT_FLAG, &a.profile, 0, NULL, "time per layer and pass, on stderr at the end", 0, 0,
     NULL},
    {"serve", 0, HR_OPT_FLAG, &a.serve, 0, NULL, "answer strategies, JSON lines stdin to stdout", 0, 0, NULL},
    {"reg", 'r', HR_OPT_CHOICE, &a.reg, 0, "REG", "serve: what strategies keep", 0, 0, hr_reg_names},
    {"steps", 0, HR_OPT_INT, &a.steps, 0, "N", "serve: steps of pgd", 0, 100000, NULL},
    {"reward-after", 0, HR_OPT_INT, &a.reward_after, 0, "N",
     "serve: learn scores for N steps of 128 images first", 0, 1000000, NULL},
    {"train", 0, HR_OPT_STRING, &a.train, 0, "FILE", "serve: the images for --reward-after (tfrecord)", 0, 0,
     NULL},
    {0}};

static const hr_tool tool = {
    .name = "adveval",
    .synopsis = "[OPTION]... -d DATA NET | --checkpoints -d DATA NET... | --serve -r REG -d DATA NET",
    .summary = "Print one JSON record: accuracy of NET ('-' is stdin) clean and under attack. With --serve,\n"
               "tell ddpg-search what the dense NET is worth under each strategy that it asks about.\n"
               "Interrupted, the same command with -o FILE goes on from FILE.state.\n",
    .example =
        "adveval -d test.tfrecord --eps 0.1 --step 0.025 --limit 2000 --stratified -o eval.json net.nn",
    .opts = options,
    .min_args = 1,
    .max_args = -1};

/* "data/FashionMNIST/test.tfrecord" is called "test". A record is JSON, a file may be called anything: bytes
 * beyond ASCII become '?' where the name is not UTF-8. */
static char *plain_name(const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *suffix = strstr(base, ".tfrecord");
    char *name = strcmp(path, "-") ? hr_xasprintf("%.*s", suffix ? (int)(suffix - base) : -1, base)
                                   : hr_xstrdup("stdin");
    for (char *p = name; !hr_is_utf8(name) && *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    return name;
}

/* ---- progress ------------------------------------------------------------------------------------------ */

struct watch {
    hr_progress bar;
    double start;
};

static void on_begin(void *ctx, const hr_eval_attack *attack, uint32_t images)
{
    struct watch *w = ctx;
    w->start = hr_seconds();
    hr_progress_start(&w->bar, attack->name, images);
}

static void on_batch(void *ctx, uint32_t done, double accuracy)
{
    struct watch *w = ctx;
    char note[32];
    snprintf(note, sizeof note, "%.2f %%", accuracy);
    hr_progress_at(&w->bar, done, note);
}

static void on_end(void *ctx, const hr_eval_attack *attack, const hr_eval_result *r)
{
    struct watch *w = ctx;
    hr_progress_end(&w->bar);
    hr_note("%s accuracy %.2f balanced %.2f images %u sec %.1f", attack->name, r->accuracy, r->balanced,
            r->images, hr_seconds() - w->start);
}

/* ---- the story ----------------------------------------------------------------------------------------- */

/* A network to be measured. With several of them only its digest is kept until it is its turn. */
struct net {
    const char *path, *name;
    hr_model *m; /* NULL: to be read again */
    char digest[65];
};

/* Hold the output, and find the saved state of this run: of the same records and the same kernels. */
static int open_job(hr_job **job, const struct net *nets, int n, const hr_dataset *ds, enum hr_bn_mode bn,
                    hr_err *err)
{
    json_t *run = hr_history_new();
    for (int i = 0; i < n; i++)
        hr_history_input(run, "model", nets[i].digest, NULL);
    hr_history_input(run, "data", ds->digest, NULL);
    if (bn != HR_BN_FOLDED) /* the outcome depends on the batches */
        json_object_set_new(json_object_get(run, "options"), "batch", json_integer(a.batch));
    if (a.save_adv) /* its points are in the state */
        json_object_set_new(json_object_get(run, "options"), "save-adv", json_true());
    json_object_set_new(run, "kernels", json_string(hr_compute_isa()));
    const char *output = a.output ? a.output : "-";
    int rc = hr_job_open(
        job, &(hr_job_opts){.output = output, .run = run, .every = a.save_every, .restart = a.restart}, err);
    json_decref(run);
    const json_t *at = rc ? NULL : hr_job_saved(*job);
    size_t done = json_array_size(json_object_get(at, "before"));
    if (done && done < (size_t)n)
        hr_note("%s.state: going on with %s", output, nets[done].name);
    if (json_object_get(at, "attack"))
        hr_note("%s.state: going on in %s behind image %lld", output,
                json_string_value(json_object_get(at, "attack")),
                (long long)json_integer_value(json_object_get(at, "images")));
    return rc;
}

static size_t input_len(const hr_model *m)
{
    const hr_node *in = &m->nodes[0];
    return (size_t)in->c * (size_t)in->h * (size_t)in->w;
}

static void parse_attacks(hr_eval_attack *list, int *n, enum hr_bn_mode bn, hr_err *err)
{
    hr_eval_opts how = {.eps = a.eps,
                        .step = a.step,
                        .restarts = (int)a.restarts,
                        .bn = bn,
                        .seed = (uint32_t)a.seed,
                        .norm = (enum hr_norm)a.norm,
                        .iterations = (int)a.iterations,
                        .queries = (int)a.queries,
                        .targets = (int)a.targets};
    char *names = hr_xasprintf("%s%s", a.attacks, a.curve ? ",min-norm" : "");
    int rc = hr_eval_parse(list, n, names, &how, err);
    free(names);
    int last = rc ? -1 : *n - 1;
    while (last >= 0 && (list[last].clean || list[last].whole))
        last--;
    if (!rc && a.save_adv && last < 0)
        hr_usage("--save-adv: there is no attack");
    if (!rc && a.save_adv)
        list[last].keep = true;
    if (!rc && a.masking)
        rc = hr_masking_probes(list, n, &how, err);
    if (rc)
        hr_usage("--attacks: %s", err->msg);
}

enum { MAX_RADII = 64 };

/* --curve's radii; returns how many. */
static int parse_radii(double *radii)
{
    int n = 0;
    char *copy = hr_xstrdup(a.curve ? a.curve : ""), *save = NULL;
    for (char *r = strtok_r(copy, ",", &save); r; r = strtok_r(NULL, ",", &save)) {
        if (n == MAX_RADII || !hr_parse_real(r, &radii[n]) || radii[n] < 0.0)
            hr_usage("--curve: '%s' is none of at most %d radii", r, MAX_RADII);
        n++;
    }
    if (a.curve && !n)
        hr_usage("--curve: no radius");
    free(copy);
    return n;
}

/* The images: all of them, which attacks of none are measured on, and those that are attacked. */
struct images {
    const hr_dataset *all, *some;
    char *name;
};

static void print_profile(const hr_exec *e)
{
    hr_buf profile = {0};
    hr_profile_table(e, &profile);
    if (profile.len) /* with nothing in it there is no data either */
        fwrite(profile.data, 1, profile.len, stderr);
    hr_buf_release(&profile);
}

static int write_outcomes(const struct images *d, const hr_eval_attack *list, const hr_eval_work *work, int n,
                          hr_err *err)
{
    hr_out *out;
    int rc = hr_out_open(&out, a.outcomes, 0, err);
    if (rc)
        return rc;
    hr_eval_outcomes(hr_out_file(out), d->all->labels, d->all->n, d->some, list, work, n);
    return hr_out_commit(out, err);
}

static int write_points(const hr_dataset *ds, const hr_eval_work *w, hr_err *err)
{
    hr_out *out;
    int rc = hr_out_open(&out, a.save_adv, HR_OUT_BINARY, err);
    if (rc)
        return rc;
    rc = hr_adversarial_write(ds, w->adv, w->pred, out, err);
    if (rc) {
        hr_out_abort(out);
        return rc;
    }
    return hr_out_commit(out, err);
}

/* What to measure, and what was found of one network. */
struct plan {
    hr_eval_attack list[HR_MAX_ATTACKS];
    hr_eval_work work[HR_MAX_ATTACKS];
    hr_eval_result results[HR_MAX_ATTACKS];
    double radii[MAX_RADII];
    int n, nradii;
    enum hr_bn_mode bn;
    bool strong;
};

static struct plan make_plan(hr_err *err)
{
    struct plan p = {.bn = a.bn == BN_BATCH ? HR_BN_BATCH : HR_BN_FOLDED};
    parse_attacks(p.list, &p.n, p.bn, err);
    p.nradii = parse_radii(p.radii);
    for (int i = 0; i < p.n; i++)
        p.strong |= p.list[i].nparts > 0;
    return p;
}

static json_t *record_of(const struct plan *p, const hr_model *m, const char *digest, const struct images *d)
{
    json_t *more[HR_MAX_ATTACKS] = {0};
    for (int i = 0; i < p->n; i++) {
        const hr_dataset *ds = p->list[i].clean ? d->all : d->some;
        more[i] = json_object();
        if (a.confusion)
            json_object_set_new(more[i], "confusion",
                                hr_eval_confusion(ds->labels, &p->work[i], ds->n, m->classes));
        if (p->list[i].whole && p->nradii)
            json_object_set_new(more[i], "curve", hr_eval_curve(&p->work[i], ds->n, p->radii, p->nradii));
    }
    json_t *masking = a.masking ? hr_masking_json(p->list, p->results, p->n) : NULL;
    size_t k;
    const json_t *flag;
    json_array_foreach (json_object_get(masking, "flags"), k, flag)
        hr_warn("%s: gradients may be masked", json_string_value(flag));
    return hr_eval_record(m, digest, a.label, d->name, d->all->n, d->all->digest, p->list, p->results, p->n,
                          (int)a.batch, more, masking);
}

/* The records, and what is wanted beside the one of a single network: all or none. Releases the job. */
static int write_products(const struct plan *p, const struct images *d, const json_t *records, hr_job *job,
                          hr_err *err)
{
    size_t k;
    const json_t *j;
    json_array_foreach (records, k, j)
        hr_json_write(j, hr_job_out(job), 0);
    hr_outs_hold();
    int rc = a.outcomes ? write_outcomes(d, p->list, p->work, p->n, err) : HR_OK;
    for (int i = 0; i < p->n && !rc; i++)
        if (p->list[i].keep)
            rc = write_points(d->some, &p->work[i], err);
    if (rc) {
        hr_job_abort(job);
        hr_outs_drop();
        return rc;
    }
    return hr_job_commit(job, err);
}

/* Measure one network; its record goes behind the others. */
static int measure(struct plan *p, struct net *net, const struct images *d, hr_job *job, json_t *records,
                   hr_err *err)
{
    char digest[65];
    if (!net->m) {
        int rc = hr_nn_load(net->path, &net->m, digest, err);
        if (!rc && strcmp(digest, net->digest) != 0)
            rc = hr_fail(err, HR_EFORMAT, "%s: has changed since this run began", net->name);
        if (rc)
            return rc;
    }
    hr_exec_opts eo = {.batch = (int)a.batch,
                       .threads = (int)a.threads,
                       .batch_stats = p->bn != HR_BN_FOLDED,
                       .exact = a.exact,
                       .device = a.device,
                       .beside_per_image = p->strong ? hr_strong_bytes(input_len(net->m)) : 0};
    hr_exec *e = hr_exec_new(net->m, &eo, err);
    if (!e)
        return err->code;
    if (a.profile)
        hr_exec_profile(e);
    struct watch w = {0};
    int rc = hr_eval_list(e, (int)a.batch, d->all, d->some, p->list, p->n, job, records,
                          &(hr_eval_watch){&w, on_begin, on_batch, on_end}, p->work, p->results, err);
    hr_progress_end(&w.bar);
    print_profile(e);
    hr_exec_free(e);
    if (!rc)
        json_array_append_new(records, record_of(p, net->m, net->digest, d));
    hr_model_free(net->m);
    net->m = NULL;
    return rc;
}

static void forget(struct plan *p)
{
    for (int i = 0; i < p->n; i++)
        hr_eval_work_release(&p->work[i]);
}

static int record(struct net *nets, int n, const hr_dataset *ds, hr_err *err)
{
    struct plan p = make_plan(err);
    for (int k = 0; k < n; k++)
        for (int i = 0; i < p.n; i++)
            if (hr_eval_fits(&p.list[i], ds->classes, err))
                return err->code;
    if ((a.outcomes && hr_out_try(a.outcomes, 0, err)) ||
        (a.save_adv && hr_out_try(a.save_adv, HR_OUT_BINARY, err)))
        return err->code;
    hr_job *job = NULL;
    hr_dataset some = {0};
    bool cut = a.limit && a.limit < ds->n;
    if (open_job(&job, nets, n, ds, p.bn, err) ||
        (cut && hr_dataset_some(ds, (uint32_t)a.limit, a.stratified, (uint32_t)a.seed, &some, err))) {
        hr_job_abort(job);
        return err->code;
    }
    struct images d = {ds, cut ? &some : ds, a.data_name ? hr_xstrdup(a.data_name) : plain_name(a.data)};
    json_t *records = hr_eval_before(job);
    int rc = HR_OK;
    for (int i = (int)json_array_size(records); i < n && !rc; i++) {
        forget(&p);
        if (n > 1)
            hr_note("%s", nets[i].name);
        rc = measure(&p, &nets[i], &d, job, records, err);
        if (!rc && n > 1)
            rc = hr_eval_save_before(job, records, err);
    }
    if (rc)
        hr_job_abort(job);
    else
        rc = write_products(&p, &d, records, job, err);
    forget(&p);
    json_decref(records);
    free(d.name);
    hr_dataset_release(&some);
    return rc;
}

/* As many training images as --reward-after asks for. */
static int load_train(hr_dataset *train, const hr_model *m, const char *name, hr_err *err)
{
    const hr_node *in = &m->nodes[0];
    int64_t images = a.reward_after * HR_LEARN_BATCH;
    int rc = hr_dataset_load_sized(train, a.train, m->classes, in->h, in->w, err);
    if (rc == HR_OK)
        rc = hr_dataset_fits(train, a.train, in->c, in->h, in->w, m->classes, name, err);
    if (rc == HR_OK && train->n < images)
        rc = hr_fail(err, HR_EINVAL, "%s: %u images, --reward-after %lld needs %lld", a.train, train->n,
                     (long long)a.reward_after, (long long)images);
    return rc ? rc : hr_dataset_subset(train, (uint32_t)images, false, (uint32_t)a.seed, err);
}

static int serve(hr_model *m, const char *name, const char *digest, hr_dataset *ds, hr_err *err)
{
    hr_dataset train = {0};
    int rc = a.train ? load_train(&train, m, name, err) : HR_OK;
    if (rc == HR_OK)
        rc = hr_dataset_subset(ds, (uint32_t)a.limit, a.stratified, (uint32_t)a.seed, err);
    hr_serve_opts o = {.reg = (enum hr_reg)a.reg,
                       .bn = a.bn == BN_RUNNING || a.bn == BN_RECALIBRATE ? HR_BN_FOLDED : HR_BN_BATCH,
                       .recalibrate = a.bn == BN_RECALIBRATE,
                       .eps = a.eps,
                       .step = a.step,
                       .steps = (int)a.steps,
                       .batch = (int)a.batch,
                       .threads = (int)a.threads,
                       .exact = a.exact,
                       .device = a.device,
                       .seed = (uint32_t)a.seed,
                       .name = name,
                       .digest = digest,
                       .learn = a.train ? &train : NULL};
    if (rc == HR_OK)
        rc = hr_serve(m, ds, &o, stdin, stdout, err);
    hr_dataset_release(&train);
    return rc;
}

/* Radius and step that were not given are the published ones for the data set, which --data-name or the
 * manifest beside the images names; the step follows a radius that was given. */
static int fill_in(hr_err *err)
{
    hr_manifest manifest;
    int rc = hr_manifest_beside(&manifest, a.data, err);
    const hr_attack_preset *preset = hr_attack_preset_of(a.data_name ? a.data_name : manifest.name);
    if (!isfinite(a.eps))
        hr_tool_filled_in("eps", a.eps = preset->eps);
    if (!isfinite(a.step))
        hr_tool_filled_in("step", a.step = a.eps * preset->step / preset->eps);
    return rc;
}

static void check_options(char **nets, int n)
{
    bool stdin_used = false;
    for (int i = 0; i < n; i++)
        stdin_used |= strcmp(nets[i], "-") == 0;
    bool folded = a.serve ? a.bn == BN_RUNNING : a.bn != BN_BATCH;
    if (!a.data)
        hr_usage("-d DATA is needed");
    if (n > 1 && !a.checkpoints)
        hr_usage("unexpected argument '%s' (--checkpoints measures several networks)", nets[1]);
    if (a.checkpoints && (a.serve || a.label || a.outcomes || a.save_adv || a.profile))
        hr_usage("--serve, --label, --outcomes, --save-adv and --profile are for one network, not for "
                 "--checkpoints");
    if (n > 1 && stdin_used)
        hr_usage("of several networks none can be stdin");
    const char *wrong = hr_device_wrong(&a.device);
    if (wrong)
        hr_usage("--device %s: %s", a.device.name, wrong);
    if (strcmp(a.device.name, "cpu") && a.profile)
        hr_usage("--profile measures the CPU, not a device");
    bool stdin_data = strcmp(a.data, "-") == 0;
    if (stdin_used + stdin_data + a.serve > 1)
        hr_usage("stdin can be only one of the network, the images and the requests");
    if (a.serve && a.output)
        hr_usage("--serve answers on stdout, -o is for the record");
    if (a.serve && (a.outcomes || a.save_adv || a.confusion || a.curve || a.masking))
        hr_usage("--outcomes, --save-adv, --confusion, --curve and --masking are not for --serve");
    if (a.outcomes && !strcmp(a.outcomes, "-") && (!a.output || !strcmp(a.output, "-")))
        hr_usage("stdout can be only one of the record and the outcomes");
    if (a.save_adv && !strcmp(a.save_adv, "-"))
        hr_usage("--save-adv needs a file");
    if (a.serve && a.profile)
        hr_usage("--profile is for the record, not for --serve");
    if (a.serve && a.restart)
        hr_usage("--serve keeps no state, --restart is for the record");
    if (!!a.train != (a.reward_after > 0))
        hr_usage("--reward-after N and --train FILE need each other");
    if (a.train && !a.serve)
        hr_usage("--reward-after is for --serve");
    if (!a.serve && a.bn == BN_RECALIBRATE)
        hr_usage("--bn recalibrate is for --serve, not for the record");
    if (!folded && a.batch < 3)
        hr_usage("--batch: statistics of the batch need at least 3 images");
    if (a.norm == HR_LINF && a.eps > 1)
        hr_usage("--eps: %g is more than 1, which is all that linf can do", a.eps);
    if (a.data_name && !hr_is_utf8(a.data_name))
        hr_usage("--data-name: '%s' is not UTF-8", a.data_name);
}

/* Read each network once before the long work; the first one says what images are read, all must fit them. */
static int load(struct net *nets, int n, hr_dataset *ds, hr_err *err)
{
    int rc = HR_OK;
    for (int i = 0; i < n && !rc; i++) {
        rc = hr_nn_load(nets[i].path, &nets[i].m, nets[i].digest, err);
        if (rc)
            break;
        const hr_model *m = nets[i].m;
        const hr_node *in = &m->nodes[0];
        if (i == 0)
            rc = hr_dataset_load_sized(ds, a.data, m->classes, in->h, in->w, err);
        if (!rc && m->classes != ds->classes)
            rc = hr_fail(err, HR_ESHAPE, "%s: %d classes, %s has %d", nets[i].name, m->classes, nets[0].name,
                         ds->classes);
        if (!rc)
            rc = hr_dataset_fits(ds, a.data, in->c, in->h, in->w, m->classes, nets[i].name, err);
        if (n > 1) {
            hr_model_free(nets[i].m);
            nets[i].m = NULL;
        }
    }
    return rc;
}

int main(int argc, char **argv)
{
    hr_err err = HR_ERR_INIT;
    int first = hr_tool_start(&tool, argc, argv), n = argc - first;
    check_options(argv + first, n);

    struct net *nets = hr_xcalloc((size_t)n, sizeof *nets);
    hr_dataset ds = {0};
    for (int i = 0; i < n; i++) {
        nets[i].path = argv[first + i];
        nets[i].name = strcmp(nets[i].path, "-") ? nets[i].path : "<stdin>";
    }
    if (fill_in(&err) || load(nets, n, &ds, &err) ||
        (a.serve ? serve(nets[0].m, nets[0].name, nets[0].digest, &ds, &err) : record(nets, n, &ds, &err)))
        hr_die_err(&err);

    hr_model_free(nets[0].m);
    free(nets);
    hr_dataset_release(&ds);
    return hr_tool_finish();
}
