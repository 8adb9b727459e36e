/* test/unit/cuda.h -- the other tests' files, run on a device.
 *
 * On the shim (test/shim), which `make units` builds, unless TEST_DEVICE says another: TEST_DEVICE=cuda:0 is
 * what `make check-gpu` runs these programs with. Executors of the included file are opened on test_device().
 */
#ifndef HR_TEST_CUDA_H
#define HR_TEST_CUDA_H

#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* heracles-cuda-shim.so lies beside this program. */
static inline void on_the_shim(void)
{
    char self[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (getenv("TEST_DEVICE"))
        return;
    self[n < 0 ? 0 : n] = '\0';
    char *slash = strrchr(self, '/');
    snprintf(path, sizeof path, "%.*s/heracles-cuda-shim.so", slash ? (int)(slash - self) : 0, self);
    setenv("HERACLES_CUDA", path, 1);
    setenv("TEST_DEVICE", "cuda", 1);
}

/* What the shim was asked for since its device was opened (shim.cpp); false: this is not the shim. */
enum { COUNT_UP, COUNT_DOWN, COUNT_WAITS, COUNT_CALLS, COUNT_DRY, COUNT_BESIDE, COUNTS };
static inline bool shim_counted(size_t now[COUNTS])
{
    const char *path = getenv("HERACLES_CUDA");
    void *so = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    void *symbol = so ? dlsym(so, "shim_counts") : NULL;
    void (*tell)(size_t *);
    if (symbol) {
        memcpy(&tell, &symbol, sizeof tell);
        tell(now);
    }
    if (so)
        dlclose(so);
    return symbol;
}

#endif
