/* test/fuzz/safetensors.c -- safetensors files; the header is changed as a document, its length follows. */
#include "fuzz.h"

#include "model/torch.h"

#include <stdlib.h>
#include <string.h>

bool fuzz_one(const uint8_t *data, size_t n)
{
    return fuzz_checkpoint(data, n);
}

void fuzz_seeds(void)
{
    hr_err err = HR_ERR_INIT;
    for (int i = 0; i < 2; i++) {
        hr_out *out;
        hr_model *m = fuzz_net(1);
        char *path = hr_xasprintf("%s/seed.safetensors", fuzz_dir());
        if (i)
            hr_model_add_tensor(m, "bn.num_batches_tracked", HR_I64, 0, NULL);
        if (hr_out_open(&out, path, 0, &err) || hr_safetensors_write(m, false, NULL, out, &err) ||
            hr_out_commit(out, &err))
            hr_die("%s", err.msg);
        fuzz_seed_file(i ? "extras" : "net", path);
        free(path);
        hr_model_free(m);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    uint64_t n = 0;
    if (size >= 8)
        memcpy(&n, data, 8);
    if (size < 8 || n > size - 8 || seed % 4 == 0)
        return LLVMFuzzerMutate(data, size, max);
    size_t bytes = size - 8 - (size_t)n, room = max - 8 - bytes;
    uint8_t *header = hr_xmalloc(room + 1), *rest = hr_xmalloc(bytes + 1);
    memcpy(header, data + 8, (size_t)n);
    memcpy(rest, data + 8 + n, bytes);
    n = fuzz_mutate_json(header, (size_t)n, room, seed, -1);
    memcpy(data, &n, 8);
    memcpy(data + 8, header, (size_t)n);
    memcpy(data + 8 + n, rest, bytes);
    free(header);
    free(rest);
    return 8 + (size_t)n + bytes;
}
