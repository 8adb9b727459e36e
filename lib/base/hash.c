/* lib/base/hash.c -- CRC-32C by isa-l, SHA-256 by libcrypto.
 *
 * In the fuzzers' build (test/fuzz/fuzz.h) both are constants, so that changed files get past their sums. */
#include "base/base.h"

#include <isa-l/crc.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

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

struct hr_sha256 {
    EVP_MD_CTX *ctx;
};

hr_sha256 *hr_sha256_new(void)
{
    hr_sha256 *h = hr_xmalloc(sizeof *h);
    h->ctx = EVP_MD_CTX_new();
    if (!h->ctx || !EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL))
        hr_die("libcrypto offers no SHA-256 on this system");
    return h;
}

void hr_sha256_add(hr_sha256 *h, const void *data, size_t n)
{
    if (!EVP_DigestUpdate(h->ctx, data, n))
        BUG("SHA-256 update of %zu bytes", n);
}

void hr_sha256_end(hr_sha256 *h, char hex[65])
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    if (!EVP_DigestFinal_ex(h->ctx, md, &len) || len != 32)
        BUG("SHA-256 gave %u bytes", len);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    memset(md, 0, len);
#endif
    for (unsigned int i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", md[i]);
    EVP_MD_CTX_free(h->ctx);
    free(h);
}

int hr_sha256_file(const char *path, char hex[65], hr_err *err)
{
    hr_in in;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    hr_sha256 *h = hr_sha256_new();
    char block[1 << 16];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in.fp)) > 0)
        hr_sha256_add(h, block, n);
    if (ferror(in.fp))
        rc = hr_fail(err, HR_EIO, "%s: read error", path);
    hr_sha256_end(h, hex);
    hr_in_close(&in);
    return rc;
}
