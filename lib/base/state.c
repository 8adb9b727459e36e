/* lib/base/state.c -- saved state: a document and blocks of memory.
 *
 *     8   "HRSTATE1"
 *     8   length L of the JSON text, little-endian
 *     4   CRC-32C of the 16 bytes before and of the text
 *     L   {"meta": {...}, "blocks": [{"name", "bytes", "crc32c"}, ...]}
 *     ..  the blocks, one behind the other, nothing behind the last
 *
 * The header's checksum guards the lengths, the blocks' checksums the rest, and the file's size must be what
 * the header says, so that any cut and any flipped bit is noticed before anything is used. */
#include "base/base.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char magic[8] = "HRSTATE1";
enum { HEAD = 20, MAX_TEXT = 16 << 20 };

/* ---- writing ---------------------------------------------------------------------------------------------
 */

static void put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int hr_state_save(const char *path, const json_t *meta, const hr_block *blocks, size_t n, hr_err *err)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_int_t crc = hr_crc32c(0, blocks[i].data, blocks[i].bytes);
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "name", blocks[i].name, "bytes",
                                              (json_int_t)blocks[i].bytes, "crc32c", crc));
    }
    json_t *doc = json_pack("{s:O, s:o}", "meta", (json_t *)(uintptr_t)meta, "blocks", list);
    char *text = hr_json_text(doc, 0);
    size_t len = strlen(text);
    json_decref(doc);

    uint8_t head[HEAD];
    memcpy(head, magic, sizeof magic);
    put_u64(head + 8, len);
    uint32_t crc = hr_crc32c(hr_crc32c(0, head, 16), text, len);
    for (int i = 0; i < 4; i++)
        head[16 + i] = (uint8_t)(crc >> (8 * i));

    hr_out *out;
    int rc = hr_out_open(&out, path, HR_OUT_BINARY, err);
    if (rc == HR_OK) {
        fwrite(head, 1, HEAD, hr_out_file(out));
        fwrite(text, 1, len, hr_out_file(out));
        for (size_t i = 0; i < n; i++)
            if (blocks[i].bytes)
                fwrite(blocks[i].data, 1, blocks[i].bytes, hr_out_file(out));
        rc = hr_out_commit(out, err);
    }
    free(text);
    return rc;
}

/* ---- reading ---------------------------------------------------------------------------------------------
 */

/* Read and check the header and the document. */
static int read_document(hr_in *in, json_t **doc, hr_err *err)
{
    uint8_t head[HEAD];
    *doc = NULL;
    int rc = hr_in_read(in, head, HEAD, "the header", err);
    if (rc)
        return rc;
    if (memcmp(head, magic, sizeof magic) != 0)
        return hr_fail(err, HR_EFORMAT, "%s: not a saved state of this version", in->name);
    uint64_t len = get_u64(head + 8);
    if (len > MAX_TEXT || (in->size >= 0 && len > (uint64_t)in->size))
        return hr_fail(err, HR_EFORMAT, "%s: damaged: a document of %" PRIu64 " bytes", in->name, len);
    char *text = hr_xmalloc((size_t)len + 1);
    rc = hr_in_read(in, text, (size_t)len, "the document", err);
    if (rc == HR_OK && hr_crc32c(hr_crc32c(0, head, 16), text, (size_t)len) != get_u32(head + 16))
        rc = hr_fail(err, HR_EFORMAT, "%s: damaged: the header's checksum is wrong", in->name);
    if (rc == HR_OK) {
        *doc = json_loadb(text, (size_t)len, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(json_object_get(*doc, "meta")) ||
            !json_is_array(json_object_get(*doc, "blocks"))) {
            json_decref(*doc);
            *doc = NULL;
            rc = hr_fail(err, HR_EFORMAT, "%s: damaged: no document", in->name);
        }
    }
    free(text);
    return rc;
}

int hr_state_peek(const char *path, json_t **meta, hr_err *err)
{
    hr_in in;
    json_t *doc;
    *meta = NULL;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return HR_OK;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = read_document(&in, &doc, err);
    if (rc == HR_OK) {
        *meta = json_incref(json_object_get(doc, "meta"));
        json_decref(doc);
    }
    hr_in_close(&in);
    return rc;
}

static int check_list(const hr_in *in, const json_t *list, const hr_block *blocks, size_t n, hr_err *err)
{
    size_t found = json_array_size(list);
    for (size_t i = 0; i < n && i < found; i++) {
        const json_t *b = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(b, "name"));
        json_int_t bytes = json_integer_value(json_object_get(b, "bytes"));
        if (!name || strcmp(name, blocks[i].name) != 0 || bytes < 0 || (uint64_t)bytes != blocks[i].bytes)
            return hr_fail(err, HR_ESHAPE, "%s: block %zu is '%s' of %lld bytes, '%s' of %zu is needed",
                           in->name, i, name ? name : "?", (long long)bytes, blocks[i].name, blocks[i].bytes);
    }
    if (found != n)
        return hr_fail(err, HR_ESHAPE, "%s: %zu blocks, %zu are needed", in->name, found, n);
    return HR_OK;
}

int hr_state_load(const char *path, const hr_block *blocks, size_t n, hr_err *err)
{
    hr_in in;
    json_t *doc;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = read_document(&in, &doc, err);
    if (rc) {
        hr_in_close(&in);
        return rc;
    }
    const json_t *list = json_object_get(doc, "blocks");
    uint8_t **data = hr_xcalloc(n, sizeof *data);
    rc = check_list(&in, list, blocks, n, err);
    for (size_t i = 0; rc == HR_OK && i < n; i++) {
        if (in.size >= 0 && blocks[i].bytes > (uint64_t)in.size) {
            rc = hr_fail(err, HR_EFORMAT, "%s: damaged: '%s' of %zu bytes in a file of %" PRId64, in.name,
                         blocks[i].name, blocks[i].bytes, in.size);
            break;
        }
        data[i] = hr_xmalloc(blocks[i].bytes);
        rc = hr_in_read(&in, data[i], blocks[i].bytes, blocks[i].name, err);
        json_int_t crc = json_integer_value(json_object_get(json_array_get(list, i), "crc32c"));
        if (rc == HR_OK && (json_int_t)hr_crc32c(0, data[i], blocks[i].bytes) != crc)
            rc = hr_fail(err, HR_EFORMAT, "%s: damaged: the checksum of '%s' is wrong", in.name,
                         blocks[i].name);
    }
    if (rc == HR_OK && fgetc(in.fp) != EOF)
        rc = hr_fail(err, HR_EFORMAT, "%s: damaged: bytes behind the end", in.name);
    for (size_t i = 0; i < n; i++) {
        if (rc == HR_OK && blocks[i].bytes)
            memcpy(blocks[i].data, data[i], blocks[i].bytes);
        free(data[i]);
    }
    free(data);
    json_decref(doc);
    hr_in_close(&in);
    return rc;
}

/* ---- is it the same work? ---------------------------------------------------------------------------------
 */

static bool options_differ(const json_t *was, const json_t *now, char *what, size_t size)
{
    const char *key;
    json_t *b;
    json_object_foreach ((json_t *)(uintptr_t)now, key, b) {
        const json_t *a = json_object_get(was, key);
        if (a && json_equal(a, b))
            continue;
        /* through text: reals in a file have been rounded to the digits that are written */
        char *old = a ? hr_json_text(a, 0) : hr_xstrdup("unknown"), *new = hr_json_text(b, 0);
        bool differ = strcmp(old, new) != 0;
        if (differ)
            snprintf(what, size, "--%s was %s, now %s", key, old, new);
        free(old);
        free(new);
        if (differ)
            return true;
    }
    return false;
}

bool hr_history_differs(const json_t *was, const json_t *now, char *what, size_t size)
{
    const char *key;
    json_t *word;
    json_object_foreach ((json_t *)(uintptr_t)now, key, word) {
        const char *p = json_string_value(json_object_get(was, key)), *q = json_string_value(word);
        if (q && (!p || strcmp(p, q) != 0)) {
            snprintf(what, size, "%s was %s, now %s", key, p ? p : "unknown", q);
            return true;
        }
    }
    if (options_differ(json_object_get(was, "options"), json_object_get(now, "options"), what, size))
        return true;
    const json_t *a = json_object_get(was, "inputs"), *b = json_object_get(now, "inputs");
    for (size_t i = 0; i < json_array_size(a) || i < json_array_size(b); i++) {
        const json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        const char *p = json_string_value(json_object_get(x, "sha256"));
        const char *q = json_string_value(json_object_get(y, "sha256"));
        if (!p || !q || strcmp(p, q) != 0) {
            const char *role = json_string_value(json_object_get(y ? y : x, "role"));
            snprintf(what, size, "input '%s' has changed", role ? role : "?");
            return true;
        }
    }
    return false;
}
