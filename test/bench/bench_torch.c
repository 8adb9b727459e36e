/* test/bench/bench_torch.c -- how fast PyTorch checkpoints are read and written, and what memory that takes.
 *
 * usage: bench_torch [ARCH [DIR]]    default: ResNet50 (102 MB) in /tmp
 *
 * The file is in the page cache. "read" is a checkpoint into a network, "torch2nn" the whole conversion, with
 * the digest of the file and a .nn file that goes to /dev/null; best of five each. The memory line compares
 * the peak of a process that reads with the file's bytes; it comes first, because a peak never goes down. */
#include "model/torch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int rc, const hr_err *err)
{
    if (rc)
        hr_die("%s", err->msg);
}

static double peak_bytes(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss * 1024;
}

/* Run work in a child, so that this process stays small. */
static void in_child(void (*work)(const char *path, const char *arch), const char *path, const char *arch)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        work(path, arch);
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        hr_die("a measuring process failed");
}

static void make(const char *path, const char *arch)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    hr_out *out;
    check(hr_zoo_build(arch, NULL, &m, &err), &err);
    hr_zoo_init(m, 1);
    check(hr_out_open(&out, path, 0, &err), &err);
    check(hr_torch_write(m, HR_TORCH_DENSE, false, NULL, out, &err), &err);
    check(hr_out_commit(out, &err), &err);
}

static double file_bytes(const char *path)
{
    struct stat st;
    if (stat(path, &st))
        hr_die("%s is gone", path);
    return (double)st.st_size;
}

static void measure_memory(const char *path, const char *arch)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    double before = peak_bytes();
    (void)arch;
    check(hr_torch_convert(path, NULL, hr_history_new(), "/dev/null", &m, &err), &err);
    printf("%-10s %6.2f x the file  (%.1f MB of %.1f MB)\n", "memory",
           (peak_bytes() - before) / file_bytes(path), (peak_bytes() - before) * 1e-6,
           file_bytes(path) * 1e-6);
}

static void report(const char *name, double bytes, double best)
{
    printf("%-10s %6.2f GB/s  %.3f s  %.1f MB\n", name, bytes / best * 1e-9, best, bytes * 1e-6);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *arch = argc > 1 ? argv[1] : "ResNet50", *dir = argc > 2 ? argv[2] : "/tmp";
    char *path = hr_xasprintf("%s/bench_torch.%d.pth", dir, (int)getpid());
    hr_err err = HR_ERR_INIT;
    double read = 1e9, convert = 1e9, write = 1e9;
    in_child(make, path, arch);
    in_child(measure_memory, path, arch);
    double bytes = file_bytes(path);
    for (int i = 0; i < 5; i++) {
        hr_model *m;
        hr_out *out;
        double t0 = hr_seconds();
        check(hr_torch_load(path, NULL, &m, NULL, &err), &err);
        double t1 = hr_seconds();
        hr_model_free(m);
        double t2 = hr_seconds();
        json_t *history = hr_history_new();
        check(hr_torch_convert(path, NULL, history, "/dev/null", &m, &err), &err);
        json_decref(history);
        double t3 = hr_seconds();
        check(hr_out_open(&out, "/dev/null", 0, &err), &err);
        check(hr_torch_write(m, HR_TORCH_DENSE, false, NULL, out, &err), &err);
        check(hr_out_commit(out, &err), &err);
        double t4 = hr_seconds();
        hr_model_free(m);
        read = t1 - t0 < read ? t1 - t0 : read;
        convert = t3 - t2 < convert ? t3 - t2 : convert;
        write = t4 - t3 < write ? t4 - t3 : write;
    }
    report("read", bytes, read);
    report("torch2nn", bytes, convert);
    report("nn2torch", bytes, write);
    unlink(path);
    free(path);
    return 0;
}
