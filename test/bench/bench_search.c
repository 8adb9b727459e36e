/* test/bench/bench_search.c -- what a search costs beside its evaluations: bench_search, without arguments.
 *
 * Prints five figures, the first four in processor time. "decision": milliseconds per decision of ResNet50's
 * 54 layers with an evaluator that answers at once, training included; after the warm-up, with the published
 * sizes (300 units, batches of 128, 20 updates per episode). "400 episodes": seconds of a whole search on
 * resnet18 (100 + 300) with that evaluator. "masks": milliseconds of a request to adveval --serve beyond what
 * it costs when the masks stay as they are, so what changing them costs; on three images, for resS and
 * resnet18. "throughput": images per second that the evaluator measures for the search, every strategy
 * another one, beside those of a plain measurement as adveval makes it, on resS, clean and under PGD-10,
 * batches of 100, in turns. "four evaluators": how much sooner 4 processes that take 50 ms per answer end a
 * warm-up of 100 than one does; test/cli/ proves that all four are at work at once. */
#include "model/model.h"
#include "search/search.h"
#include "train/train.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(int rc, const hr_err *err)
{
    if (rc)
        hr_die("%s", err->msg);
}

/* Of all threads: what others do on the machine does not count. */
static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static void space_of(hr_space *s, const char *arch)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    check(hr_zoo_build(arch, NULL, &m, &err), &err);
    json_t *table = hr_layers_json(m);
    check(hr_space_parse(s, table, arch, false, false, &err), &err);
    json_decref(table);
    hr_model_free(m);
}

/* Worth is the mean keep-rate, times something that is not the same for all layers. */
static int at_once(void *ctx, const int64_t *kept, int nd, int64_t from, int64_t to, hr_score_reply *reply,
                   hr_err *err)
{
    const hr_space *s = ctx;
    double sum = 0;
    (void)from;
    (void)to;
    (void)err;
    for (int d = 0; d < nd; d++)
        sum += (double)kept[d] / (double)s->count[d] * (d % 3 + 1) / (2.0 * nd);
    *reply = (hr_score_reply){.images = 1000, .clean = (int64_t)(sum * 999), .robust = (int64_t)(sum * 500)};
    return HR_OK;
}

static hr_search_opts published(const hr_space *s, int warmup, int episodes)
{
    return (hr_search_opts){.agent = {.baseline = true,
                                      .prefer = 0.5,
                                      .init = HR_INIT_FANIN,
                                      .actor_lr = 1e-3,
                                      .critic_lr = 1e-3,
                                      .lr_decay = 0.995,
                                      .tau = 0.01,
                                      .hidden = 300,
                                      .batch = 128,
                                      .memory = 200 * (s->n - 1)},
                            .warmup = warmup,
                            .episodes = episodes,
                            .train_iters = 20,
                            .sigma = 0.5,
                            .sigma_decay = 0.97,
                            .sigma_floor = 0.05,
                            .best_every = 2,
                            .reward = HR_REWARD_ACC_PLUS,
                            .beta = 1,
                            .seed = 1};
}

static double search(const char *arch, int warmup, int episodes)
{
    hr_err err = HR_ERR_INIT;
    hr_space s;
    hr_wall w;
    hr_search_result r;
    space_of(&s, arch);
    check(hr_wall_init(&w, &s, false, HR_ACTION_LOG, HR_COST_INOUT, 0.1, 0.01, 0.8, &err), &err);
    hr_search_opts o = published(&s, warmup, episodes);
    hr_evaluator ev = {.ctx = &s, .eval = at_once, .places = 1, .batches = 1, .images = 1000};
    double start = cpu_seconds();
    check(hr_search_run(&w, &o, NULL, &ev, NULL, NULL, &r, &err), &err);
    double took = cpu_seconds() - start;
    hr_search_result_release(&r);
    hr_wall_release(&w);
    hr_space_release(&s);
    return took;
}

/* ---- masks --------------------------------------------------------------------------------------------- */

/* Requests, all with the same strategy or two in turns. */
static double answered(hr_model *m, const hr_dataset *ds, int batch, int steps, int n, bool change)
{
    hr_err err = HR_ERR_INIT;
    hr_layers ls = hr_layers_of(m);
    hr_serve_opts o = {.bn = HR_BN_BATCH,
                       .eps = 0.1,
                       .step = 0.025,
                       .steps = steps,
                       .batch = batch,
                       .threads = 1,
                       .seed = 1,
                       .name = "net",
                       .digest = "0"};
    FILE *in = tmpfile(), *out = fopen("/dev/null", "w");
    for (int i = 0; i < n; i++) {
        fprintf(in, "{\"id\":%d,\"kept\":[", i);
        for (int l = 0; l < ls.n; l++)
            fprintf(in, "%s%lld", l ? "," : "", (long long)(ls.l[l].n / (change && i % 2 ? 9 : 10) + 1));
        fprintf(in, "]}\n");
    }
    rewind(in);
    double start = cpu_seconds();
    check(hr_serve(m, ds, &o, in, out, &err), &err);
    double took = cpu_seconds() - start;
    fclose(in);
    fclose(out);
    hr_layers_release(&ls);
    return took;
}

static void masks(const char *arch)
{
    enum { ROUNDS = 20 };
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    check(hr_zoo_build(arch, NULL, &m, &err), &err);
    hr_zoo_init(m, 1);
    const hr_node *in = &m->nodes[0];
    uint8_t *pixels = hr_xcalloc(3 * (size_t)in->c * (size_t)in->h * (size_t)in->w, 1);
    int32_t labels[3] = {0, 1, 2};
    uint32_t index[3] = {0, 1, 2};
    hr_dataset ds = {.n = 3,
                     .c = in->c,
                     .h = in->h,
                     .w = in->w,
                     .classes = m->classes,
                     .pixels = pixels,
                     .labels = labels,
                     .index = index};
    double same = answered(m, &ds, 3, 0, ROUNDS + 1, false), other = answered(m, &ds, 3, 0, ROUNDS + 1, true);
    printf("masks, %s: %.2f ms of a processor\n", arch, 1e3 * (other - same) / ROUNDS);
    free(pixels);
    hr_model_free(m);
}

/* ---- throughput ---------------------------------------------------------------------------------------- */

static double alone(hr_model *m, const hr_dataset *ds, int batch, int steps)
{
    hr_err err = HR_ERR_INIT;
    hr_exec_opts eo = {.batch = batch, .threads = 1, .batch_stats = true};
    hr_exec *e = hr_exec_new(m, &eo, &err);
    check(e ? HR_OK : err.code, &err);
    hr_eval_attack clean = {.name = "clean", .clean = true, .restarts = 1, .opts = {.bn = HR_BN_BATCH}};
    hr_eval_attack pgd = {.name = "pgd",
                          .restarts = 1,
                          .opts = {.eps = 0.1f,
                                   .step = 0.025f,
                                   .steps = steps,
                                   .random_start = true,
                                   .bn = HR_BN_BATCH,
                                   .seed = 1,
                                   .stream = HR_STREAM_EVAL}};
    double start = cpu_seconds();
    hr_eval_run(e, batch, ds, &clean);
    hr_eval_run(e, batch, ds, &pgd);
    double took = cpu_seconds() - start;
    hr_exec_free(e);
    return took;
}

static void throughput(void)
{
    enum { IMAGES = 500, BATCH = 100, STEPS = 10, ROUNDS = 5 };
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    check(hr_zoo_build("resS", NULL, &m, &err), &err);
    hr_zoo_init(m, 1);
    const hr_node *in = &m->nodes[0];
    size_t len = (size_t)in->c * (size_t)in->h * (size_t)in->w;
    uint8_t *pixels = hr_xcalloc(IMAGES, len);
    int32_t labels[IMAGES];
    uint32_t index[IMAGES];
    for (size_t i = 0; i < IMAGES * len; i++)
        pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    for (uint32_t i = 0; i < IMAGES; i++) {
        labels[i] = (int32_t)(i % 10);
        index[i] = i;
    }
    hr_dataset ds = {.n = IMAGES,
                     .c = in->c,
                     .h = in->h,
                     .w = in->w,
                     .classes = m->classes,
                     .pixels = pixels,
                     .labels = labels,
                     .index = index};
    double served = 0, plain = 0;
    for (int i = 0; i < ROUNDS; i++) {
        plain += alone(m, &ds, BATCH, STEPS);
        served += answered(m, &ds, BATCH, STEPS, 2, true) - answered(m, &ds, BATCH, STEPS, 1, true);
    }
    printf("throughput, resS: %.0f images/s served, %.0f alone: %.1f %%\n", ROUNDS * IMAGES / served,
           ROUNDS * IMAGES / plain, 100 * plain / served);
    free(pixels);
    hr_model_free(m);
}

/* ---- processes ------------------------------------------------------------------------------------------
 */

static double warm_up(const hr_space *s, int evaluators)
{
    hr_err err = HR_ERR_INIT;
    hr_wall w;
    hr_pool *pool;
    hr_search_result r;
    hr_buf b = {0};
    hr_buf_printf(&b, "printf '{\"proto\":1,\"reg\":\"weight\",\"layers\":[");
    for (int d = 0; d < s->nd; d++)
        hr_buf_printf(&b, "%s{\"name\":\"%s\",\"n\":%lld}", d ? "," : "", s->l[s->decision[d]].name,
                      (long long)s->count[d]);
    hr_buf_printf(&b, "],\"batches\":4,\"images\":100,\"digest\":\"0\"}\\n'; %s",
                  "i=0; while read -r l; do i=$((i+1)); sleep 0.05; r=${l##*\\[}; to=${r#*,}; "
                  "n=$((${to%%]*} - ${r%%,*})); "
                  "echo '{\"id\":'$i',\"n\":'$((25*n))',\"clean\":'$((9*n))',\"robust\":'$((5*n))'}'; done");
    char *line = b.data;
    hr_commands c = {.line = &line, .n = 1};
    check(hr_wall_init(&w, s, false, HR_ACTION_LOG, HR_COST_INOUT, 0.1, 0.01, 0.8, &err), &err);
    hr_search_opts o = published(s, 100, 0);
    o.train_iters = 0;
    check(hr_pool_start(&pool, &c, evaluators, s, 60, &err), &err);
    hr_evaluator ev = hr_pool_evaluator(pool);
    double start = hr_seconds();
    int rc = hr_search_run(&w, &o, NULL, &ev, NULL, NULL, &r, &err);
    double took = hr_seconds() - start;
    check(rc, &err);
    check(hr_pool_finish(pool, &err), &err);
    hr_search_result_release(&r);
    hr_wall_release(&w);
    hr_buf_release(&b);
    return took;
}

int main(void)
{
    hr_space s;
    double warm = search("ResNet50", 1, 10), more = search("ResNet50", 1, 40);
    printf("decision, ResNet50: %.2f ms of a processor (54 decisions and 20 updates per episode)\n",
           1e3 * (more - warm) / (30 * 54));
    printf("400 episodes, resnet18: %.1f s of a processor\n", search("resnet18", 100, 300));
    masks("resS");
    masks("resnet18");
    throughput();
    space_of(&s, "resS");
    double one = warm_up(&s, 1), four = warm_up(&s, 4);
    printf("warm-up of 100, 50 ms per answer: %.2f s, with four evaluators %.2f s: %.1f times sooner\n", one,
           four, one / four);
    hr_space_release(&s);
    return 0;
}
