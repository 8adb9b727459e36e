/* test/fuzz/tar.c -- tar archives, plain or gzipped, and the tar archives inside them: every member is read;
 * from a file and from a pipe the outcome is the same. */
#include "fuzz.h"

#include "data/internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 512, MAX_MEMBER = 1 << 16 };

/* Read all members; an archive in the archive is walked through, too. bytes counts what was read. */
static int walk(hr_walk *w, bool outermost, size_t *bytes, hr_err *err)
{
    hr_buf content = {0};
    const char *name;
    int rc = HR_OK;
    while (rc == HR_OK && (rc = hr_walk_next(w, &name, err)) == HR_OK && name) {
        size_t n = strlen(name);
        hr_walk *inner;
        must(strncmp(hr_walk_where(w), "/proc/self/fd/", 14) == 0);
        if (outermost && n > 4 && strcmp(name + n - 4, ".tar") == 0) {
            rc = hr_walk_inside(&inner, w, err);
            if (rc == HR_OK)
                rc = walk(inner, false, bytes, err);
            hr_walk_close(inner);
        } else {
            rc = hr_walk_slurp(w, &content, MAX_MEMBER, err);
            *bytes += content.len;
            must(content.len <= MAX_MEMBER);
        }
    }
    hr_buf_release(&content);
    return rc;
}

static int read_archive(const char *path, size_t *bytes)
{
    hr_err err = HR_ERR_INIT;
    hr_walk *w;
    *bytes = 0;
    int rc = hr_walk_open(&w, path, &err);
    if (rc == HR_OK) {
        rc = walk(w, true, bytes, &err);
        hr_walk_close(w);
    }
    must(rc == HR_OK || err.msg[0]);
    return rc;
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    size_t bytes, piped;
    int rc = read_archive(fuzz_file(0, data, n), &bytes);
    if (n % 4 == 0) {
        int fd;
        must(read_archive(fuzz_pipe(data, n, &fd), &piped) == rc && piped == bytes);
        close(fd);
    }
    return rc == HR_OK && bytes > 0;
}

/* ---- seeds ------------------------------------------------------------------------------------------- */

static void add_member(struct archive *a, const char *name, const void *bytes, size_t n)
{
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, bytes ? AE_IFREG : AE_IFDIR);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_size(e, (la_int64_t)n);
    if (archive_write_header(a, e) || archive_write_data(a, bytes, n) != (la_ssize_t)n)
        hr_die("libarchive: %s", archive_error_string(a));
    archive_entry_free(e);
}

/* A directory, two members and, when there is one, an archive, in the given format; caller releases. */
static hr_buf pack(int format, bool gzip, const hr_buf *inner)
{
    static char room[1 << 16];
    size_t used = 0;
    struct archive *a = archive_write_new();
    if (gzip)
        archive_write_add_filter_gzip(a);
    archive_write_set_format(a, format);
    archive_write_set_bytes_per_block(a, BLOCK);
    archive_write_set_bytes_in_last_block(a, 1);
    if (archive_write_open_memory(a, room, sizeof room, &used))
        hr_die("libarchive: %s", archive_error_string(a));
    char long_name[151];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    add_member(a, "dir", NULL, 0);
    add_member(a, "dir/data_batch_1.bin", "some bytes", 10);
    if (format != ARCHIVE_FORMAT_TAR_USTAR)
        add_member(a, long_name, "\1\2\3", 3);
    if (inner)
        add_member(a, "n01440764.tar", inner->data, inner->len);
    if (archive_write_close(a))
        hr_die("libarchive: %s", archive_error_string(a));
    archive_write_free(a);
    hr_buf b = {0};
    hr_buf_add(&b, room, used);
    return b;
}

void fuzz_seeds(void)
{
    static const struct {
        const char *name;
        int format;
    } kinds[] = {{"ustar", ARCHIVE_FORMAT_TAR_USTAR},
                 {"gnu", ARCHIVE_FORMAT_TAR_GNUTAR},
                 {"pax", ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE}};
    for (size_t i = 0; i < HR_COUNT(kinds); i++) {
        hr_buf one = pack(kinds[i].format, false, NULL), two = pack(kinds[i].format, false, &one);
        hr_buf packed = pack(kinds[i].format, true, &one);
        char *name = hr_xasprintf("%s-gzip", kinds[i].name);
        fuzz_seed(kinds[i].name, two.data, two.len);
        fuzz_seed(name, packed.data, packed.len);
        free(name);
        hr_buf_release(&one);
        hr_buf_release(&two);
        hr_buf_release(&packed);
    }
}

/* A header's check sum is the sum of its bytes, with eight blanks in its own place, as six octal digits at
 * 148. */
static void mend_sums(uint8_t *data, size_t size)
{
    for (size_t at = 0; at + BLOCK <= size; at += BLOCK) {
        uint8_t *head = data + at;
        char digits[8];
        unsigned sum = 8 * ' ';
        if (memcmp(head + 257, "ustar", 5) != 0)
            continue;
        for (size_t i = 0; i < BLOCK; i++)
            sum += i < 148 || i >= 156 ? head[i] : 0;
        snprintf(digits, sizeof digits, "%06o", sum);
        memcpy(head + 148, digits, 7);
        head[155] = ' ';
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max);
    if (seed % 8)
        mend_sums(data, size);
    return size;
}
