/* lib/base/memory.c -- how much memory is left for this process.
 *
 * Linux hands out more memory than there is and kills whoever uses it, so work that knows its needs asks
 * first. Three things limit a process: what the machine has free (MemAvailable and SwapFree of /proc/meminfo,
 * see proc(5)), the limit of the control group of a container (cgroup v2: memory.max), and its own address
 * space (RLIMIT_AS, `ulimit -v`) less what it has mapped (first number of /proc/self/statm, in pages). */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The number behind name at the beginning of a line of a file, or -1. */
static double number_in(const char *path, const char *name)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    char line[256], *end;
    double value = -1;
    size_t n = strlen(name);
    while (value < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, name, n) == 0) {
            double v = strtod(line + n, &end);
            value = end > line + n ? v : -1;
        }
    fclose(f);
    return value;
}

double hr_memory_left(void)
{
    double page = (double)sysconf(_SC_PAGESIZE), left = (double)sysconf(_SC_PHYS_PAGES) * page;
    double available = number_in("/proc/meminfo", "MemAvailable:"),
           swap = number_in("/proc/meminfo", "SwapFree:");
    if (available >= 0)
        left = (available + (swap > 0 ? swap : 0)) * 1024;
    double group = number_in("/sys/fs/cgroup/memory.max", ""),
           used = number_in("/sys/fs/cgroup/memory.current", "");
    double cache = number_in("/sys/fs/cgroup/memory.stat", "inactive_file ");
    if (group >= 0 && used >= 0)
        left = fmin(left, group - used + (cache > 0 ? cache : 0));
    struct rlimit limit;
    double mapped = number_in("/proc/self/statm", "");
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && mapped >= 0)
        left = fmin(left, (double)limit.rlim_cur - mapped * page);
    return fmax(left, 0);
}
