/* lib/data/checksum.c -- is this the file that was published?
 *
 * The sites that publish data sets give MD5 sums: enough against a transfer that broke off, not against
 * anyone who means harm. Products record SHA-256. Both come from one pass over the file. */
#include "data/internal.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

int hr_file_digests(const char *path, char sha256[65], char md5[33], hr_err *err)
{
    hr_in in;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    hr_sha256 *sha = hr_sha256_new();
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx || !EVP_DigestInit_ex(ctx, EVP_md5(), NULL))
        hr_die("libcrypto gives no MD5");
    char block[1 << 16];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in.fp)) > 0) {
        hr_sha256_add(sha, block, n);
        EVP_DigestUpdate(ctx, block, n);
    }
    if (ferror(in.fp))
        rc = hr_fail(err, HR_EIO, "%s: reading: %s", path, strerror(errno));
    unsigned char md[EVP_MAX_MD_SIZE] = {0};
    unsigned int len = 0;
    EVP_DigestFinal_ex(ctx, md, &len);
    EVP_MD_CTX_free(ctx);
    for (unsigned int i = 0; i < 16; i++)
        snprintf(md5 + 2 * i, 3, "%02x", md[i]);
    hr_sha256_end(sha, sha256);
    hr_in_close(&in);
    return rc;
}
