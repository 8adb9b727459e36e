/* test/bench/bench_stages.c -- what a training step costs beside the network's own arithmetic: bench_stages
 * [ARCH [BATCH]], default resnet18, 128.
 *
 * Natural training on images of 32x32 with random crops and flips, one thread. In turns, a step of pretrain,
 * and of prune, admm and finetune for weights and for channels, each behind one that warms up; medians of
 * processor time. The data path is what lies between two steps: order, reading, augmentation. Of a stage it
 * is what pretrain has not, timed alone in the state that the step left: the gradients' rules, new masks,
 * masked weights for the executor; and ADMM's Z and U, in every step, though they move once in 30 epochs.
 * "its step" is the whole one, to be held against pretrain's. */
#include "train/internal.h"

#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 3, SIDE = 32 };
static const double kept_share = 0.1;

static const struct kind {
    const char *name;
    enum hr_stage stage;
    enum hr_reg reg;
} kinds[] = {{"pretrain", HR_STAGE_PRETRAIN, HR_REG_WEIGHT},
             {"prune weight", HR_STAGE_PRUNE, HR_REG_WEIGHT},
             {"prune channel", HR_STAGE_PRUNE, HR_REG_CHANNEL},
             {"admm weight", HR_STAGE_ADMM, HR_REG_WEIGHT},
             {"admm channel", HR_STAGE_ADMM, HR_REG_CHANNEL},
             {"finetune weight", HR_STAGE_FINETUNE, HR_REG_WEIGHT},
             {"finetune channel", HR_STAGE_FINETUNE, HR_REG_CHANNEL}};
enum { KINDS = HR_COUNT(kinds) };

/* What one step took, in seconds of processor time. */
struct cost {
    double began, ended; /* the clock */
    double data, step, own, update;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What update() does beside the optimiser's steps in every step, once more. */
static double time_own(hr_trainer *t)
{
    double start = now();
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        hr_stage_gradient(t, p, 1e-3);
        if (p->rule == HR_SCORES)
            hr_stage_choose(p);
    }
    hr_exec_params(t->e);
    return now() - start;
}

static double time_update(hr_trainer *t)
{
    double start = now();
    for (int i = 0; i < t->n; i++) {
        hr_trainee *p = &t->list[i];
        if (p->rule == HR_ADMM)
            hr_admm_update(p->value, p->z, p->u, p->layer, p->reg, p->kept, p->scratch, p->chosen);
    }
    return now() - start;
}

static void at(void *ctx, hr_trainer *t, enum hr_moment moment)
{
    struct cost *c = ctx;
    if (moment == HR_AT_IMAGES) {
        c->began = now();
        c->data = c->began - c->ended;
    } else if (moment == HR_AT_STEPPED) {
        c->step = now() - c->began;
        c->own = time_own(t);
        c->update = time_update(t);
        c->ended = now();
    }
}

static void check(int rc, const hr_err *err)
{
    if (rc)
        hr_die("%s", err->msg);
}

/* Plans, or masks, for every layer. */
static void prune(hr_model *m, const struct kind *k)
{
    hr_layers ls = hr_layers_of(m);
    hr_strategy s = {.reg = k->reg, .n = ls.n};
    s.rate = hr_xcalloc((size_t)ls.n, sizeof *s.rate);
    s.kept = hr_xcalloc((size_t)ls.n, sizeof *s.kept);
    for (int i = 0; i < ls.n; i++) {
        s.rate[i] = kept_share;
        s.kept[i] = hr_kept(kept_share, hr_score_count(&ls.l[i], k->reg));
    }
    hr_model_set_strategy(m, &ls, &s, k->stage == HR_STAGE_FINETUNE, HR_SCORE_L1);
    hr_strategy_release(&s);
    hr_layers_release(&ls);
}

/* Two steps; what the second one took. */
static struct cost train(const char *arch, int batch, const struct kind *k)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    hr_zoo_opts z = {.c = 3, .h = SIDE, .w = SIDE, .classes = 10};
    check(hr_zoo_build(arch, &z, &m, &err), &err);
    hr_zoo_init(m, 1);
    if (k->stage != HR_STAGE_PRETRAIN)
        prune(m, k);
    uint32_t n = 2 * (uint32_t)batch;
    size_t bytes = (size_t)n * 3 * SIDE * SIDE;
    hr_dataset ds = {.n = n, .c = 3, .h = SIDE, .w = SIDE, .classes = 10};
    ds.pixels = hr_xmalloc(bytes);
    ds.labels = hr_xmalloc(n * sizeof *ds.labels);
    ds.index = hr_xmalloc(n * sizeof *ds.index);
    for (size_t i = 0; i < bytes; i++)
        ds.pixels[i] = (uint8_t)(i * 2654435761U >> 13);
    for (uint32_t i = 0; i < n; i++) {
        ds.labels[i] = (int32_t)(i % 10);
        ds.index[i] = i;
    }
    struct cost c = {0};
    hr_train_opts o = {.stage = k->stage,
                       .objective = HR_OBJ_NATURAL,
                       .schedule = {.kind = HR_LR_CONSTANT, .lr = 1e-3, .epochs = 1},
                       .momentum = 0.9,
                       .weight_decay = 1e-4,
                       .batch = batch,
                       .threads = 1,
                       .augment_pad = 4,
                       .flip = true,
                       .rho = 1e-3,
                       .rho_grows = true,
                       .admm_every = 1,
                       .name = arch,
                       .ctx = &c,
                       .at = at};
    check(hr_train(m, &ds, NULL, &o, &err), &err);
    hr_dataset_release(&ds);
    hr_model_free(m);
    return c;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof *v, by_size);
    return v[ROUNDS / 2];
}

int main(int argc, char **argv)
{
    const char *arch = argc > 1 ? argv[1] : "resnet18";
    int64_t batch = 128;
    if (argc > 2 && (!hr_parse_int(argv[2], &batch) || batch < 2 || batch > 4096))
        hr_die("usage: bench_stages [ARCH [BATCH]]");
    double data[KINDS][ROUNDS], step[KINDS][ROUNDS], own[KINDS][ROUNDS], update[KINDS][ROUNDS];
    for (int r = 0; r < ROUNDS; r++)
        for (int k = 0; k < KINDS; k++) {
            struct cost c = train(arch, (int)batch, &kinds[k]);
            data[k][r] = c.data;
            step[k][r] = c.step;
            own[k][r] = c.own;
            update[k][r] = c.update;
        }
    double whole = median(step[0]), dense = median(own[0]), reading = median(data[0]);
    printf("%s, %d images: a natural step of pretrain takes %.3f s of processor time\n", arch, (int)batch,
           whole);
    printf("data path         %6.1f ms, %5.2f %% of it\n", 1e3 * reading, 100 * reading / whole);
    for (int k = 1; k < KINDS; k++) {
        double more = median(own[k]) - dense, all = median(step[k]);
        printf("%-16s  %6.1f ms, %5.2f %% of it; its step %.3f s", kinds[k].name, 1e3 * more,
               100 * more / whole, all);
        if (kinds[k].stage == HR_STAGE_ADMM)
            printf("; Z and U %.1f ms", 1e3 * median(update[k]));
        putchar('\n');
    }
    return 0;
}
