/* test/bench/bench_resume.c -- what it costs to be able to go on: bench_resume [ARCH [DIR]], default
 * resnet18, /tmp.
 *
 * Prints the state's size; "save", the seconds that writing it takes (checksums and fsync included), as a
 * share of the time between two saves at the default of 60 s; and "resume", from nothing to the end of the
 * first step: build the network, plan, read the state, and one step on four images. Medians of five. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMAGES = 4, ROUNDS = 5 };

struct clock {
    double step, epoch; /* when the first step and the last epoch ended */
};

static void on_step(void *ctx, int epoch, uint32_t done, double accuracy)
{
    struct clock *c = ctx;
    (void)epoch;
    (void)done;
    (void)accuracy;
    if (c->step == 0.0)
        c->step = hr_seconds();
}

static int on_epoch(void *ctx, const hr_epoch *e, hr_err *err)
{
    (void)e;
    (void)err;
    ((struct clock *)ctx)->epoch = hr_seconds();
    return HR_OK;
}

static void check(int rc, const hr_err *err)
{
    if (rc)
        hr_die("%s", err->msg);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Train up to `epochs` in all, one step each, from the saved state if there is one; leave a state behind. */
static struct clock train(const char *arch, const char *output, int epochs)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    hr_job *job;
    struct clock c = {0};
    check(hr_zoo_build(arch, NULL, &m, &err), &err);
    hr_zoo_init(m, 1);
    const hr_node *in = &m->nodes[0];
    size_t bytes = (size_t)IMAGES * (size_t)in->c * (size_t)in->h * (size_t)in->w;
    uint32_t index[IMAGES] = {0, 1, 2, 3};
    int32_t labels[IMAGES] = {0, 1, 0, 1};
    hr_dataset ds = {.n = IMAGES, .c = in->c, .h = in->h, .w = in->w, .classes = m->classes};
    ds.pixels = hr_xcalloc(bytes, 1);
    for (size_t i = 0; i < bytes; i++)
        ds.pixels[i] = (uint8_t)(i * 37);
    ds.labels = labels;
    ds.index = index;

    json_t *run = hr_history_new();
    check(hr_job_open(&job, &(hr_job_opts){.output = output, .run = run, .every = 60}, &err), &err);
    hr_train_opts o = {.stage = HR_STAGE_PRETRAIN,
                       .objective = HR_OBJ_NATURAL,
                       .schedule = {.kind = HR_LR_CONSTANT, .lr = 1e-3, .epochs = epochs},
                       .momentum = 0.9,
                       .batch = IMAGES,
                       .name = arch,
                       .job = job,
                       .ctx = &c,
                       .on_step = on_step,
                       .on_epoch = on_epoch};
    check(hr_train(m, &ds, NULL, &o, &err), &err);
    hr_job_abort(job);
    json_decref(run);
    free(ds.pixels);
    hr_model_free(m);
    return c;
}

int main(int argc, char **argv)
{
    const char *arch = argc > 1 ? argv[1] : "resnet18", *dir = argc > 2 ? argv[2] : "/tmp";
    char *output = hr_xasprintf("%s/bench_resume.%d", dir, (int)getpid());
    char *state = hr_xasprintf("%s.state", output);
    double save[ROUNDS], resume[ROUNDS];
    struct stat st = {0};
    train(arch, output, 1);
    for (int i = 0; i < ROUNDS; i++) {
        double start = hr_seconds();
        struct clock c = train(arch, output, i + 2);
        save[i] = hr_seconds() - c.epoch; /* nothing but the save and some calls of free */
        resume[i] = c.step - start;
    }
    if (stat(state, &st))
        hr_die("%s is missing", state);
    unlink(state);
    qsort(save, ROUNDS, sizeof *save, by_size);
    qsort(resume, ROUNDS, sizeof *resume, by_size);
    printf("%s state %.1f MB\n", arch, (double)st.st_size * 1e-6);
    printf("save       %.3f s, %.2f %% of the time at --save-every 60\n", save[ROUNDS / 2],
           100.0 * save[ROUNDS / 2] / (60.0 + save[ROUNDS / 2]));
    printf("resume     %.3f s\n", resume[ROUNDS / 2]);
    free(output);
    free(state);
    return 0;
}
