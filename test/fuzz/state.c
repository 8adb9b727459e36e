/* test/fuzz/state.c -- saved state: what was refused has left the blocks as they were. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

static char name_a[] = "weights", name_b[] = "nothing", name_c[] = "log";

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    uint8_t a[8] = {1, 2, 3}, b[1] = {7}, c[100] = {9};
    const hr_block blocks[] = {{name_a, a, sizeof a}, {name_b, b, 0}, {name_c, c, sizeof c}};
    json_t *meta;
    char what[200] = "";
    const char *path = fuzz_file(0, data, n);
    int peeked = hr_state_peek(path, &meta, &err);
    int rc = hr_state_load(path, blocks, HR_COUNT(blocks), &err);
    must(rc == HR_OK || (a[0] == 1 && a[2] == 3 && b[0] == 7 && c[0] == 9));
    must(peeked == HR_OK || rc != HR_OK);
    if (peeked == HR_OK) {
        const json_t *was = json_object_get(meta, "history"), *now = json_object_get(meta, "now");
        must(!hr_history_differs(was, now, what, sizeof what) || what[0]);
    }
    json_decref(meta);
    return rc == HR_OK;
}

void fuzz_seeds(void)
{
    hr_err err = HR_ERR_INIT;
    uint8_t a[8] = {0}, b[1], c[100] = {0};
    const hr_block blocks[] = {{name_a, a, sizeof a}, {name_b, b, 0}, {name_c, c, sizeof c}};
    json_t *history =
        json_pack("{s:s, s:s, s:{s:f, s:s}, s:[{s:s, s:s}]}", "tool", "advtrain", "version", "0.1.0",
                  "options", "lr", 0.1, "stage", "prune", "inputs", "role", "model", "sha256", "00ff");
    json_t *meta = json_pack("{s:i, s:O, s:O}", "epoch", 3, "history", history, "now", history);
    char *path = hr_xasprintf("%s/seed.state", fuzz_dir());
    if (hr_state_save(path, meta, blocks, HR_COUNT(blocks), &err))
        hr_die("%s", err.msg);
    fuzz_seed_file("state", path);
    free(path);
    json_decref(meta);
    json_decref(history);
}

static size_t change_payload(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_mutate_json(data, size, max, seed, -1);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    static const struct fuzz_frames f = {.head = 20, .at = 8, .bytes = 8, .payload = change_payload};
    return fuzz_mutate_frames(&f, data, size, max, seed);
}
