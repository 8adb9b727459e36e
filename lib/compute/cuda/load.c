/* lib/compute/cuda/load.c -- find the plug-in and open it, or say why there is none. */
#include "compute/cuda/cuda.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "cuda" or "cuda:N". */
static bool named(const char *name)
{
    int64_t number;
    if (!strcmp(name, "cuda"))
        return true;
    return !strncmp(name, "cuda:", 5) && name[5] >= '0' && name[5] <= '9' &&
           hr_parse_int(name + 5, &number) && number < 1024;
}

const char *hr_device_wrong(const hr_device *d)
{
    if (!strcmp(d->name, "cpu"))
        return d->fast || d->tf32 ? "--fast and --tf32 are for --device cuda" : NULL;
    return named(d->name) ? NULL : "not one of cpu, cuda, cuda:N";
}

/* Where the plug-in may lie; "" when there is none. */
static void find(char *path, size_t size)
{
    static const char *const places[] = {"heracles-cuda.so", "../lib/heracles/heracles-cuda.so"};
    const char *named = getenv("HERACLES_CUDA");
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    path[0] = '\0';
    if (named && *named) {
        snprintf(path, size, "%s", named);
        return;
    }
    self[n < 0 ? 0 : n] = '\0';
    char *slash = strrchr(self, '/');
    for (size_t i = 0; slash && i < HR_COUNT(places); i++) {
        snprintf(path, size, "%.*s/%s", (int)(slash - self), self, places[i]);
        if (access(path, F_OK) == 0)
            return;
    }
    path[0] = '\0';
}

const hr_cuda_plugin_table *hr_cuda_load(hr_err *err)
{
    static const hr_cuda_plugin_table *table;
    if (table)
        return table;
    char path[2 * PATH_MAX];
    find(path, sizeof path);
    if (!path[0] || access(path, F_OK)) {
        hr_fail(err, HR_EINVAL,
                "--device cuda: %s is not built; that needs nvcc, cuBLAS and cuDNN 9 (make CUDA=1)",
                path[0] ? path : "heracles-cuda.so");
        return NULL;
    }
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbol = so ? dlsym(so, "hr_cuda_plugin") : NULL;
    if (!symbol) {
        const char *why = dlerror();
        hr_fail(err, HR_EINVAL, "--device cuda: the plug-in cannot be loaded: %s", why ? why : path);
        return NULL;
    }
    hr_cuda_plugin_fn *plugin;
    memcpy(&plugin, &symbol, sizeof plugin); /* ISO C has no cast from an object to a function */
    const hr_cuda_plugin_table *t = plugin();
    if (t->version != HR_CUDA_VERSION || t->bytes != sizeof *t) {
        hr_fail(err, HR_EINVAL, "--device cuda: %s is of version %u, %d is needed: build it again", path,
                t->version, HR_CUDA_VERSION);
        return NULL;
    }
    return table = t;
}
