/* test/peers/mknn.c -- a network to test tools with: mknn ARCH SEED OUT.nn builds an architecture of the zoo
 * at its own size, fills it at random and writes it. ARCH:CxHxW chooses the input, OUT may be "-". */
#include "model/model.h"

#include <math.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    static const hr_opt options[] = {{0}};
    static const hr_tool tool = {"mknn",
                                 "ARCH[:CxHxW] SEED OUT [TENSOR]",
                                 "Write a random network; the second value of TENSOR is no number.\n",
                                 "mknn resS 1 net.nn",
                                 options,
                                 3,
                                 4};
    int first = hr_tool_start(&tool, argc, argv);
    hr_err err = HR_ERR_INIT;
    hr_model *m = NULL;
    hr_zoo_opts opts = {0};
    int64_t seed;
    char *arch = argv[first], *size = strchr(arch, ':');
    if (size) {
        *size++ = '\0';
        if (sscanf(size, "%dx%dx%d", &opts.c, &opts.h, &opts.w) != 3)
            hr_usage("'%s' is not CxHxW", size);
    }
    if (!hr_parse_int(argv[first + 1], &seed))
        hr_usage("'%s' is not a seed", argv[first + 1]);
    if (hr_zoo_build(arch, &opts, &m, &err))
        hr_die("%s", err.msg);
    hr_zoo_init(m, (uint32_t)seed);
    if (first + 3 < argc) { /* a tensor whose second value shall be no number */
        for (int i = 0; i < m->ntensors; i++)
            if (strcmp(m->tensors[i].name, argv[first + 3]) == 0)
                hr_tensor_f32(&m->tensors[i])[1] = nanf("");
    }
    if (hr_nn_save(m, argv[first + 2], NULL, &err))
        hr_die("%s", err.msg);
    hr_model_free(m);
    return hr_tool_finish();
}
