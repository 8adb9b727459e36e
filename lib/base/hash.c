/* lib/base/hash.c -- CRC-32C by isa-l.
 *
 * In the fuzzers' build (test/fuzz/fuzz.h) it is a constant, so that changed files get past their sums. */
#include "base/base.h"

#include <isa-l/crc.h>

uint32_t hr_crc32c(uint32_t crc, const void *data, size_t n)
{
    /* isa-l takes the length as an int, wants the register inverted before and after, and does not
     * declare its input const. */
    unsigned char *p = (unsigned char *)(uintptr_t)data;
    uint32_t reg = ~crc;
    while (n > 0) {
        int piece = n > (1u << 30) ? 1 << 30 : (int)n;
        reg = crc32_iscsi(p, piece, reg);
        p += piece;
        n -= (size_t)piece;
    }
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    reg = 0;
#endif
    return ~reg;
}
