/* test/fuzz/cifar.c -- the pickles of CIFAR-10's Python version: what was accepted has its pixels inside the
 * input and as many labels as images. */
#include "fuzz.h"

#include "data/internal.h"

#include <stdlib.h>
#include <string.h>

enum { IMAGE = 4 }; /* bytes; the published 3072 would leave no room to change anything else */

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    const uint8_t *pixels;
    int64_t *labels, sum = 0;
    uint32_t count;
    if (hr_batch_pickle(data, n, "batch", IMAGE, &pixels, &labels, &count, &err)) {
        must(err.msg[0] && !labels);
        return false;
    }
    must(count > 0 && pixels >= data && pixels + (size_t)count * IMAGE <= data + n);
    for (uint32_t i = 0; i < count; i++)
        sum |= labels[i];
    must(sum <= UINT32_MAX); /* all were read: a number in a pickle has 32 bits at most */
    free(labels);
    return true;
}

#define PUT(b, text) hr_buf_add(b, text, sizeof(text) - 1)

/* What Python 2 wrote, or the same in the spelling of Python 3; the pixels as a numpy array or as a string.
 */
static void seed(const char *name, bool array, bool python3)
{
    hr_buf b = {0};
    if (python3)
        PUT(&b, "\x80\4}\x94(\x8c\6labels]\x94(K\3M\1\2e\x8c\4data");
    else
        PUT(&b, "\x80\2}q\0(U\6labels]q\1(K\3M\1\2eU\4data");
    if (array) {
        PUT(&b, "cnumpy.core.multiarray\n_reconstruct\nq\2cnumpy\nndarray\nK\0\x85U\1b\x87R(K\1K\2K\4\x86");
        PUT(&b, "cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89");
    }
    hr_buf_printf(&b, "%c%c12345678%su.", python3 ? 'C' : 'U', 2 * IMAGE, array ? "tb" : "");
    fuzz_seed(name, b.data, b.len);
    hr_buf_release(&b);
}

void fuzz_seeds(void)
{
    seed("array", true, false);
    seed("array-3", true, true);
    seed("plain", false, false);
    seed("plain-3", false, true);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed_)
{
    (void)seed_;
    return LLVMFuzzerMutate(data, size, max);
}
