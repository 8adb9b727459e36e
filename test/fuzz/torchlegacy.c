/* test/fuzz/torchlegacy.c -- checkpoints in the form before PyTorch 1.6: pickles in a row, then storages. */
#include "fuzz.h"

bool fuzz_one(const uint8_t *data, size_t n)
{
    return fuzz_checkpoint(data, n);
}

static void seed(const char *name, const hr_buf *value)
{
    static const char head[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
                               "\x80\x02M\xe9\x03."
                               "\x80\x02}X\x0d\0\0\0little_endian\x88s.",
                      tail[] = "\x80\x02]X\x01\0\0\0"
                               "0a."
                               "\x04\0\0\0\0\0\0\0"
                               "\0\0\0\x3f\0\0\x80\x3e\0\0\0\x3f\0\0\x80\x3f";
    hr_buf b = {0};
    hr_buf_add(&b, head, sizeof head - 1);
    hr_buf_add(&b, value->data, value->len);
    hr_buf_add(&b, tail, sizeof tail - 1);
    fuzz_seed(name, b.data, b.len);
    hr_buf_release(&b);
}

void fuzz_seeds(void)
{
    hr_buf state = fuzz_state_pickle(), b = {0};
    seed("state", &state);
    /* the same within a dict, with things around it that mean nothing */
    static const char around[] = "\x80\x02}(U\x05"
                                 "epochK\x03U\x09"
                                 "optimizercmodels\nNet\n)R}X\x02\0\0\0lrG?\xb9\x99"
                                 "\x99\x99\x99\x99\x9asbU\x04sizectorch\nSize\n(K\x01K\x02t\x85RU\x03net";
    hr_buf_add(&b, around, sizeof around - 1);
    hr_buf_add(&b, state.data + 2, state.len - 3);
    hr_buf_printf(&b, "u.");
    seed("net", &b);
    hr_buf_release(&b);
    hr_buf_release(&state);
}
