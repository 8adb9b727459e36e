/* test/fuzz/manifest.c -- the manifest.json beside a data set. */
#include "fuzz.h"

#include "data/data.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_manifest m;
    char *path = hr_xasprintf("%s/manifest.json", fuzz_dir()), *beside = hr_xasprintf("%s/x", fuzz_dir());
    unlink(path);
    if (symlink(fuzz_file(0, data, n), path))
        hr_die("%s: no link", path);
    int rc = hr_manifest_beside(&m, beside, &err);
    unlink(path);
    free(path);
    free(beside);
    must(rc ? m.classes == 0 && !m.name[0] : m.classes > 0 && m.c > 0 && m.h > 0 && m.w > 0);
    return rc == HR_OK;
}

void fuzz_seeds(void)
{
    static const char text[] =
        "{\"version\": 1, \"name\": \"FashionMNIST\", \"classes\": 10, \"shape\": {\"channels\": 1, "
        "\"height\": 28, "
        "\"width\": 28}, \"splits\": {\"train\": {\"file\": \"train.tfrecord\", \"images\": 60000, "
        "\"per_class\": "
        "[6000, 6000], \"digest\": \"00ff\", \"subset_of\": null}}, \"history\": {}}\n";
    fuzz_seed("fashion", text, sizeof text - 1);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_mutate_json(data, size, max, seed, -1);
}
