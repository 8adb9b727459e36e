/* lib/compute/cpu/isa.c -- which kernels run on this machine. */
#include "compute/cpu/kernels.h"
#include "compute/compute.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
extern const hr_kernels hr_kernels_v2, hr_kernels_v3, hr_kernels_v4;

static bool runs_here(const hr_kernels *k)
{
    __builtin_cpu_init();
    if (k == &hr_kernels_v4)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    if (k == &hr_kernels_v3)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
    return true;
}

static const hr_kernels *const tables[] = {&hr_kernels_v4, &hr_kernels_v3, &hr_kernels_v2};
#else
extern const hr_kernels hr_kernels_portable;

static bool runs_here(const hr_kernels *k)
{
    (void)k;
    return true;
}

static const hr_kernels *const tables[] = {&hr_kernels_portable};
#endif

static const hr_kernels *choose(void)
{
    const char *want = getenv("HERACLES_ISA");
    const hr_kernels *best = NULL;
    for (size_t i = 0; i < HR_COUNT(tables); i++) {
        if (!runs_here(tables[i]))
            continue;
        if (want && strcmp(want, tables[i]->name) == 0)
            return tables[i];
        if (!best)
            best = tables[i];
    }
    if (want && *want)
        hr_warn("HERACLES_ISA=%s: this machine or build has no such kernels, %s are used", want, best->name);
    return best;
}

const hr_kernels *hr_kernels_get(void)
{
    static const hr_kernels *chosen;
    const hr_kernels *k = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
    if (!k) {
        k = choose();
        __atomic_store_n(&chosen, k, __ATOMIC_RELEASE);
    }
    return k;
}

size_t hr_l2_bytes(void)
{
    long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? (size_t)bytes : 512 << 10;
}

const char *hr_compute_isa(void)
{
    return hr_kernels_get()->name;
}
