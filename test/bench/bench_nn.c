/* test/bench/bench_nn.c -- how fast .nn files are written and read, and what memory that takes.
 *
 * usage: bench_nn [ARCH [DIR]]    default: vgg16_bn in /tmp
 *
 * Prints one line per measurement: name, GB/s (best of five), seconds, megabytes. "save" ends with the fsync
 * that makes the file durable, so it also measures the disk; "save-pipe" goes to /dev/null without one. The
 * memory line compares the peak of the whole process while loading with the model's bytes; it comes first,
 * because a peak never goes down. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static double model_bytes(const hr_model *m)
{
    double sum = 0;
    for (int i = 0; i < m->ntensors; i++)
        sum += (double)hr_tensor_count(&m->tensors[i]) * (double)hr_dtype_size(m->tensors[i].dtype);
    return sum;
}

static void check(int rc, const hr_err *err)
{
    if (rc)
        hr_die("%s", err->msg);
}

/* Best of five of the action, in one line. */
static void report(const char *name, double bytes, double best)
{
    printf("%-10s %6.2f GB/s  %.3f s  %.1f MB\n", name, bytes / best * 1e-9, best, bytes * 1e-6);
    fflush(stdout);
}

static double peak_bytes(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss * 1024;
}

/* Peak memory of a process that loads path, from its file or through a pipe, less what an empty process
 * takes. */
static void measure_memory(const char *name, const char *path, bool pipe_it)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        hr_err err = HR_ERR_INIT;
        hr_model *m;
        if (pipe_it) {
            char *command = hr_xasprintf("cat '%s'", path);
            FILE *cat = popen(command, "r");
            free(command);
            if (!cat || dup2(fileno(cat), STDIN_FILENO) < 0)
                hr_die("cannot start cat");
        }
        double before = peak_bytes();
        check(hr_nn_load(pipe_it ? "-" : path, &m, NULL, &err), &err);
        printf("%-10s %6.2f x the model  (%.1f MB of %.1f MB)\n", name,
               (peak_bytes() - before) / model_bytes(m), (peak_bytes() - before) * 1e-6,
               model_bytes(m) * 1e-6);
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        hr_die("the measuring process failed");
}

int main(int argc, char **argv)
{
    const char *arch = argc > 1 ? argv[1] : "vgg16_bn", *dir = argc > 2 ? argv[2] : "/tmp";
    char *path = hr_xasprintf("%s/bench_nn.%d.nn", dir, (int)getpid());
    hr_err err = HR_ERR_INIT;
    hr_model *m, *back;
    double save = 1e9, load = 1e9, to_null = 1e9, sum = 1e9;

    /* a child makes the file, so that this process stays small for the memory measurements */
    pid_t child = fork();
    if (child == 0) {
        check(hr_zoo_build(arch, NULL, &m, &err), &err);
        hr_zoo_init(m, 1);
        check(hr_nn_save(m, path, NULL, &err), &err);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        hr_die("cannot make %s", path);
    measure_memory("memory", path, false);
    measure_memory("mem-pipe", path, true);

    check(hr_nn_load(path, &m, NULL, &err), &err);
    double bytes = model_bytes(m);
    for (int i = 0; i < 5; i++) {
        double t0 = hr_seconds();
        check(hr_nn_save(m, path, NULL, &err), &err);
        double t1 = hr_seconds();
        check(hr_nn_save(m, "/dev/null", NULL, &err), &err);
        double t2 = hr_seconds();
        check(hr_nn_load(path, &back, NULL, &err), &err);
        double t3 = hr_seconds();
        hr_model_free(back);
        char hex[65];
        double t4 = hr_seconds();
        check(hr_sha256_file(path, hex, &err), &err);
        double t5 = hr_seconds();
        save = t1 - t0 < save ? t1 - t0 : save;
        to_null = t2 - t1 < to_null ? t2 - t1 : to_null;
        load = t3 - t2 < load ? t3 - t2 : load;
        sum = t5 - t4 < sum ? t5 - t4 : sum;
    }
    report("save", bytes, save);
    report("save-null", bytes, to_null);
    report("load", bytes, load);
    report("sha256sum", bytes, sum);
    unlink(path);
    free(path);
    hr_model_free(m);
    return 0;
}
