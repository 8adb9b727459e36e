/* tools/ddpg-search.c -- find one keep-rate per layer.
 *
 * The layer table says what there is to prune, the evaluator what a strategy is worth; everything between the
 * two is lib/search. Options that are not given take the value that fits the others (settle). The products
 * are locked from the beginning and written at the end; what the search knows until then is in its state. */
#include "prune/prune.h"
#include "report/curve.h"
#include "search/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *layers_path, *evaluator, *evaluator_file, *output = "-", *csv_dir, *id = "search",
                                                             *publish;
static hr_list starts;
static bool reference, prune_first, no_baseline, early_stop, restart;
static int reg, action, init, measure, reward = HR_REWARD_ACC_PLUS;
static int64_t best_every = 2, evaluators = 1, episodes = 300, warmup = 100, hidden = 300, batch = 128,
               memory, train_iters = 20, seed = 1234;
static double target = 0.1, lb = NAN, ub = NAN, actor_lr = NAN, critic_lr = 1e-3, lr_decay = 0.995,
              tau = 0.01, sigma = 0.5, noise_decay = NAN, noise_floor = 0.05, prefer = 0.5, beta = 1,
              timeout = 600, save_every = 60;

static const char *const regs[] = {"weight", "channel", NULL};
static const char *const actions[] = {"auto", "linear", "log", NULL};
static const char *const inits[] = {"auto", "normal", "fanin", NULL};

static const hr_opt opts[] = {
    {"layers", 'l', HR_OPT_STRING, &layers_path, 0, "FILE", "layer table: nninfo --format json", 0, 0, NULL},
    {"evaluator", 'e', HR_OPT_STRING, &evaluator, 0, "CMD", "shell command that answers strategies", 0, 0,
     NULL},
    {"evaluator-file", 0, HR_OPT_STRING, &evaluator_file, 0, "FILE", "such commands, one per line", 0, 0,
     NULL},
    {"evaluators", 'j', HR_OPT_INT, &evaluators, 0, "N", "processes per command, all at work at once", 1,
     HR_MAX_EVALUATORS, NULL},
    {"output", 'o', HR_OPT_STRING, &output, 0, "FILE", "best strategy", 0, 0, NULL},
    {"csv-dir", 0, HR_OPT_STRING, &csv_dir, 0, "DIR", "also write the tables and the curve of rewards there",
     0, 0, NULL},
    {"id", 0, HR_OPT_STRING, &id, HR_OPT_RESULT, "ID", "name of the strategy in its file", 0, 0, NULL},
    {"reg", 'r', HR_OPT_CHOICE, &reg, HR_OPT_RESULT, "REG", "what is pruned", 0, 0, regs},
    {"target", 't', HR_OPT_REAL, &target, HR_OPT_RESULT, "P", "keep-rate of the budget", 1e-6, 1, NULL},
    {"budget-measure", 0, HR_OPT_CHOICE, &measure, HR_OPT_RESULT, "M", "what the budget counts", 0, 0,
     hr_cost_names},
    {"prune-first", 0, HR_OPT_FLAG, &prune_first, HR_OPT_RESULT, NULL,
     "channel: also prune the image's channels", 0, 0, NULL},
    {"lb", 0, HR_OPT_REAL, &lb, HR_OPT_RESULT, "X", "least keep-rate of a layer [by reg and target]", 1e-9, 1,
     NULL},
    {"ub", 0, HR_OPT_REAL, &ub, HR_OPT_RESULT, "X", "largest [by reg and target]", 1e-9, 1, NULL},
    {"warmup", 0, HR_OPT_INT, &warmup, HR_OPT_RESULT, "N", "random episodes first", 1, 1000000, NULL},
    {"start", 0, HR_OPT_STRING, &starts, HR_OPT_REPEAT, "STRATEGY",
     "file with a strategy that the warm-up tries first (repeatable)", 0, 0, NULL},
    {"episodes", 'n', HR_OPT_INT, &episodes, HR_OPT_RESULT, "N", "episodes after them", 0, 1000000, NULL},
    {"reward", 0, HR_OPT_CHOICE, &reward, HR_OPT_RESULT, "R", "what is maximised", 0, 0, hr_reward_names},
    {"beta", 0, HR_OPT_REAL, &beta, HR_OPT_RESULT, "X", "weight of the robust accuracy in acc+aa", 0, 1e6,
     NULL},
    {"early-stop", 0, HR_OPT_FLAG, &early_stop, HR_OPT_RESULT, NULL,
     "abandon evaluations that cannot beat the best any more", 0, 0, NULL},
    {"action", 0, HR_OPT_CHOICE, &action, HR_OPT_RESULT, "A", "scale of actions; auto is log", 0, 0, actions},
    {"init", 0, HR_OPT_CHOICE, &init, HR_OPT_RESULT, "I", "initial weights; auto is fanin", 0, 0, inits},
    {"actor-lr", 0, HR_OPT_REAL, &actor_lr, HR_OPT_RESULT, "X", "of the actor [1e-3; reference 1e-4]", 0, 10,
     NULL},
    {"critic-lr", 0, HR_OPT_REAL, &critic_lr, HR_OPT_RESULT, "X", "learning rates: of the critic", 0, 10,
     NULL},
    {"lr-decay", 0, HR_OPT_REAL, &lr_decay, HR_OPT_RESULT, "X", "of both, per episode", 0, 1, NULL},
    {"sigma", 0, HR_OPT_REAL, &sigma, HR_OPT_RESULT, "X", "noise after the warm-up", 0, 10, NULL},
    {"noise-decay", 0, HR_OPT_REAL, &noise_decay, HR_OPT_RESULT, "X", "per episode [0.97; reference 0.99]", 0,
     1, NULL},
    {"noise-floor", 0, HR_OPT_REAL, &noise_floor, HR_OPT_RESULT, "X", "least noise; 0 in the reference", 0, 1,
     NULL},
    {"best-every", 0, HR_OPT_INT, &best_every, HR_OPT_RESULT, "N",
     "every N-th episode explores around the best strategy; 0 and the reference: none", 0, 1000000, NULL},
    {"prefer", 0, HR_OPT_REAL, &prefer, HR_OPT_RESULT, "X",
     "share of each batch that prefers high rewards; 0 in the reference", 0, 1, NULL},
    {"tau", 0, HR_OPT_REAL, &tau, HR_OPT_RESULT, "X", "how fast the targets follow", 0, 1, NULL},
    {"no-baseline", 0, HR_OPT_FLAG, &no_baseline, HR_OPT_RESULT, NULL, "rewards as they are", 0, 0, NULL},
    {"hidden", 0, HR_OPT_INT, &hidden, HR_OPT_RESULT, "N", "units per hidden layer", 1, 4096, NULL},
    {"batch", 0, HR_OPT_INT, &batch, HR_OPT_RESULT, "N", "transitions per update", 1, 65536, NULL},
    {"memory", 0, HR_OPT_INT, &memory, HR_OPT_RESULT, "N", "transitions kept; 0: 200 episodes", 0, 10000000,
     NULL},
    {"train-iters", 0, HR_OPT_INT, &train_iters, HR_OPT_RESULT, "N", "updates per episode", 0, 100000, NULL},
    {"seed", 0, HR_OPT_INT, &seed, HR_OPT_RESULT, "N", "of the agent", 0, UINT32_MAX, NULL},
    {"reference", 0, HR_OPT_FLAG, &reference, HR_OPT_RESULT, NULL,
     "the published program, faults included: its wall, state, replay, defaults", 0, 0, NULL},
    {"evaluator-timeout", 0, HR_OPT_REAL, &timeout, 0, "S", "seconds for each answer", 0.001, 1e6, NULL},
    {"save-every", 0, HR_OPT_REAL, &save_every, 0, "S", "seconds between saves of the state, FILE.state", 0,
     1e6, NULL},
    {"restart", 0, HR_OPT_FLAG, &restart, 0, NULL, "discard a saved state and begin anew", 0, 0, NULL},
    {"publish", 0, HR_OPT_STRING, &publish, 0, "FILE", "no search: add the entries of STRATEGY... to FILE", 0,
     0, NULL},
    {NULL, 0, HR_OPT_FLAG, NULL, 0, NULL, NULL, 0, 0, NULL}};

static const hr_tool tool = {
    "ddpg-search",
    "[OPTION]... -l TABLE (-e COMMAND | --evaluator-file FILE) | --publish FILE STRATEGY...",
    "Search a strategy - one keep-rate per layer - that is worth most to the evaluator within a budget,\n"
    "by deep deterministic policy gradient. The strategy goes to standard output or FILE; with FILE, a "
    "search\n"
    "that was stopped goes on when the same command is given again.\n",
    "ddpg-search -l layers.json -e 'adveval --serve -d holdout.tfrecord net.nn' -t 0.1 -o strategy.json",
    opts,
    0,
    -1};

/* What was not given follows from what was. */
static void settle(void)
{
    bool channel = reg == 1;
    if (!layers_path || (!evaluator && !evaluator_file))
        hr_usage("--%s is needed", layers_path ? "evaluator" : "layers");
    if (evaluator && evaluator_file)
        hr_usage("--evaluator and --evaluator-file exclude each other");
    if (isnan(lb))
        lb = channel ? (target >= 0.3 ? 0.1 : 0.05) : (target >= 0.05 ? 0.01 : 0.005);
    if (isnan(ub))
        ub = channel ? (target >= 0.3 ? 1 : 0.5) : target >= 0.5 ? 1 : target >= 0.05 ? 0.8 : 0.5;
    if (isnan(actor_lr))
        actor_lr = reference ? 1e-4 : 1e-3;
    if (isnan(noise_decay))
        noise_decay = reference ? 0.99 : 0.97;
    action = action ? action - 1 : reference ? HR_ACTION_LINEAR : HR_ACTION_LOG;
    init = init ? init - 1 : reference ? HR_INIT_NORMAL : HR_INIT_FANIN;
    if (!(lb < ub))
        hr_usage("--lb %g is not below --ub %g", lb, ub);
    if (reference && starts.n)
        hr_usage("--reference knows no --start");
    if ((int64_t)starts.n > warmup)
        hr_usage("%zu strategies to start with are more than --warmup %lld", starts.n, (long long)warmup);
    if (reference && (action != HR_ACTION_LINEAR || measure != HR_COST_INOUT))
        hr_usage("--reference knows only --action linear and --budget-measure inout");
}

static hr_search_opts search_opts(const hr_space *s)
{
    int64_t m = memory ? memory : 200 * (int64_t)(s->n > 1 ? s->n - 1 : 1);
    return (hr_search_opts){.agent = {.reference = reference,
                                      .baseline = !no_baseline,
                                      .prefer = prefer,
                                      .init = (enum hr_init)init,
                                      .actor_lr = actor_lr,
                                      .critic_lr = critic_lr,
                                      .lr_decay = lr_decay,
                                      .tau = tau,
                                      .hidden = (int)hidden,
                                      .batch = (int)batch,
                                      .memory = (int)m},
                            .warmup = (int)warmup,
                            .episodes = (int)episodes,
                            .train_iters = (int)train_iters,
                            .sigma = sigma,
                            .sigma_decay = noise_decay,
                            .sigma_floor = noise_floor,
                            .early_stop = early_stop,
                            .best_every = (int)best_every,
                            .reward = (enum hr_reward)reward,
                            .beta = beta,
                            .seed = (uint32_t)seed};
}

/* Strategy and tables are opened before the search: hours of work should not end at a missing directory. */
static hr_job *job;
enum { CURVE = HR_TABLES, SIDE_FILES };
static hr_out *side[SIDE_FILES]; /* the tables and the curve */

static int outputs_open(const json_t *run, hr_err *err)
{
    static const char *const names[SIDE_FILES] = {"Episode_wise_Rewards.csv", "Best_Rewards.csv",
                                                  "rewards.svg"};
    hr_job_opts o = {.output = output, .run = run, .every = save_every, .restart = restart};
    int rc = csv_dir ? hr_mkdirs(csv_dir, err) : HR_OK;
    for (int i = 0; i < SIDE_FILES && csv_dir && rc == HR_OK; i++) {
        char *path = hr_xasprintf("%s/%s", csv_dir, names[i]);
        rc = hr_out_open(&side[i], path, 0, err);
        free(path);
    }
    return rc ? rc : hr_job_open(&job, &o, err);
}

static void write_curve(const hr_wall *w, const hr_search_result *r, FILE *out)
{
    char *title = hr_xasprintf("%s: rewards of a search, %s, target %g", w->s->arch, regs[reg], target);
    hr_curve_svg(&(hr_curve){.title = title,
                             .episodes = r->table[HR_TABLE_EPISODES].data,
                             .best = r->table[HR_TABLE_BEST].data,
                             .warmup = (int)warmup,
                             .chance = hr_reward_chance((enum hr_reward)reward, beta, w->s->classes)},
                 out);
    free(title);
}

/* Write everything; the strategy, which was opened last, appears last, and then the saved state goes. Or
 * (after an error) nothing. */
static int outputs_close(int rc, const hr_wall *w, const hr_search_result *r, const json_t *product,
                         hr_err *err)
{
    hr_outs_hold();
    for (int i = 0; i < SIDE_FILES; i++) {
        if (!side[i] || rc) {
            hr_out_abort(side[i]);
            continue;
        }
        if (i == CURVE)
            write_curve(w, r, hr_out_file(side[i]));
        else
            fwrite(r->table[i].data, 1, r->table[i].len, hr_out_file(side[i]));
        rc = hr_out_commit(side[i], err);
    }
    if (rc == HR_OK) {
        hr_json_write(product, hr_job_out(job), 1);
        return hr_job_commit(job, err);
    }
    hr_outs_drop();
    hr_job_abort(job);
    return rc;
}

struct view {
    hr_progress bar;
    double budget; /* as a fraction of the dense network */
    bool begun;
};

/* Called after each episode: the bar on a terminal, a line now and then elsewhere. */
static int on_episode(void *ctx, const hr_episode *e, hr_err *err)
{
    enum { EVERY = 10 };
    struct view *v = ctx;
    char note[128];
    (void)err;
    if (!v->begun && hr_job_saved(job)) {
        hr_note("going on after episode %d", e->number - 1);
        v->bar.before = e->number - 1;
    }
    v->begun = true;
    snprintf(note, sizeof note, "reward %.4f best %.4f kept %.4f", e->reward, e->best_reward,
             e->cost / e->dense_cost);
    if (v->bar.on)
        snprintf(note + strlen(note), sizeof note - strlen(note), " of %.4f", v->budget);
    if (v->bar.on)
        hr_progress_at(&v->bar, e->number, note);
    else if (e->number % EVERY == 0 || e->number == e->total)
        hr_note("episode %d/%d%s %s", e->number, e->total, e->warmup ? " warm-up" : "", note);
    return HR_OK;
}

static void warn_near_chance(const hr_search_opts *o, const hr_search_result *r, int classes)
{
    double chance = hr_reward_chance(o->reward, o->beta, classes);
    if (r->constants)
        hr_warn("%d strategies made the network answer every image alike", r->constants);
    if (r->reward < 1.5 * chance)
        hr_warn(
            "the best reward, %.4f, is near chance (%.4f): it says little about the strategy; try a larger "
            "--target or a larger --lb",
            r->reward, chance);
}

/* The options as they were settled, and the layer table. The evaluator, the other thing that a search is made
 * of, is known only once it has been started, which is after the outputs were opened. */
static json_t *history(const char *table_digest)
{
    json_t *h = hr_history_new(), *o = json_object_get(h, "options");
    json_object_set_new(o, "lb", json_real(lb));
    json_object_set_new(o, "ub", json_real(ub));
    json_object_set_new(o, "actor-lr", json_real(actor_lr));
    json_object_set_new(o, "noise-decay", json_real(noise_decay));
    json_object_set_new(o, "action", json_string(hr_action_names[action]));
    json_object_set_new(o, "init", json_string(hr_init_names[init]));
    hr_history_input(h, "layers", table_digest, NULL);
    return h;
}

/* Rates of the strategies to start with, which the record names as inputs; the caller frees *rates. */
static int starts_load(const hr_space *s, double **rates, json_t *record, hr_err *err)
{
    int rc = HR_OK;
    *rates = hr_xcalloc(starts.n * (size_t)s->nd + 1, sizeof **rates);
    for (size_t i = 0; i < starts.n && rc == HR_OK; i++) {
        char hex[65];
        rc = hr_start_load(s, starts.items[i], *rates + i * (size_t)s->nd, hex, err);
        if (rc == HR_OK)
            hr_history_input(record, "start", hex, NULL);
    }
    return rc;
}

static void digest_of(const json_t *j, char hex[65])
{
    char *text = hr_json_text(j, 0);
    hr_sha256 *h = hr_sha256_new();
    hr_sha256_add(h, text, strlen(text));
    hr_sha256_end(h, hex);
    free(text);
}

/* The episodes, and evaluators that live as long as they last. *best is the caller's to release. */
static int run(hr_wall *w, const hr_commands *commands, const double *rates, json_t *record,
               hr_search_result *best, hr_err *err)
{
    hr_search_opts o = search_opts(w->s);
    o.starts = rates;
    o.nstarts = (int)starts.n;
    hr_pool *pool;
    struct view view = {.budget = w->budget / w->total};
    hr_signals_catch(); /* the evaluators must not outlive us, whatever the output is */
    int rc = hr_pool_start(&pool, commands, (int)evaluators, w->s, timeout, err);
    if (rc == HR_EINTR)
        return hr_fail(err, rc, "interrupted before the evaluator was ready; run the same command again");
    if (rc)
        return rc;
    hr_evaluator ev = hr_pool_evaluator(pool);
    hr_history_input(record, "evaluator", ev.digest, ev.history);
    hr_progress_start(&view.bar, "search", (double)(warmup + episodes));
    rc = hr_search_run(w, &o, job, &ev, on_episode, &view, best, err);
    hr_progress_end(&view.bar);
    if (rc == HR_OK && best->episode == 0)
        rc = hr_fail(err, HR_EINVAL, "no episode after the warm-up: with --reference nothing can be best");
    if (rc) {
        hr_pool_kill(pool);
        return rc;
    }
    int restarts = hr_pool_restarts(pool);
    rc = hr_pool_finish(pool, err);
    if (rc == HR_EINTR)
        return hr_job_interrupted(job, err, "the evaluator's last moments");
    if (rc)
        return rc;
    if (restarts == 1)
        hr_warn("the evaluator died and was started again");
    else if (restarts)
        hr_warn("%d evaluators died and were started again", restarts);
    warn_near_chance(&o, best, w->s->classes);
    return HR_OK;
}

/* The commands that start the evaluators. *c is the caller's to release, also after an error. */
static int commands_open(hr_commands *c, hr_err *err)
{
    if (evaluator_file) {
        int rc = hr_commands_load(c, evaluator_file, err);
        if (rc == HR_OK && c->n * evaluators > HR_MAX_EVALUATORS)
            rc = hr_fail(err, HR_EINVAL, "%s: %d commands with --evaluators %lld are more than %d processes",
                         evaluator_file, c->n, (long long)evaluators, HR_MAX_EVALUATORS);
        return rc;
    }
    *c = (hr_commands){.line = hr_xcalloc(1, sizeof *c->line), .n = 1};
    c->line[0] = hr_xstrdup(evaluator);
    return HR_OK;
}

/* Everything between a checked wall and the written strategy. */
static int search(hr_wall *w, const char *table_digest, hr_err *err)
{
    hr_search_result best = {0};
    hr_commands commands = {0};
    double *rates = NULL;
    json_t *record = history(table_digest), *product = NULL;
    int rc = commands_open(&commands, err);
    if (rc == HR_OK)
        rc = starts_load(w->s, &rates, record, err);
    if (rc == HR_OK)
        rc = outputs_open(record, err);
    if (rc == HR_OK)
        rc = run(w, &commands, rates, record, &best, err);
    free(rates);
    hr_commands_release(&commands);
    if (rc == HR_OK)
        product = hr_search_json(w, &best, id, json_incref(record));
    rc = outputs_close(rc, w, &best, product, err);
    json_decref(product);
    json_decref(record);
    hr_search_result_release(&best);
    return rc;
}

int main(int argc, char **argv)
{
    hr_err err = HR_ERR_INIT;
    hr_space space = {0};
    hr_wall wall = {0};
    json_t *table = NULL;
    char digest[65];
    int first = hr_tool_start(&tool, argc, argv);
    if (publish && first == argc)
        hr_usage("--publish needs strategy files");
    if (publish) {
        if (hr_strategies_publish(publish, (const char *const *)argv + first, (size_t)(argc - first), &err))
            hr_die_err(&err);
        return hr_tool_finish();
    }
    if (first < argc)
        hr_usage("'%s' is too much: a search takes no file names", argv[first]);
    settle();
    int rc = hr_json_load(layers_path, &table, &err);
    if (rc == HR_OK) {
        digest_of(table, digest);
        rc = hr_space_parse(&space, table, layers_path, reg == 1, prune_first, &err);
    }
    if (rc == HR_OK)
        rc = hr_wall_init(&wall, &space, reference, (enum hr_action)action, (enum hr_cost_kind)measure,
                          target, lb, ub, &err);
    if (rc == HR_OK)
        rc = search(&wall, digest, &err);
    hr_wall_release(&wall);
    hr_space_release(&space);
    json_decref(table);
    free(starts.items);
    if (rc)
        hr_die_err(&err);
    return hr_tool_finish();
}
