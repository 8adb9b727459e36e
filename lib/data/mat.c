/* lib/data/mat.c -- numeric arrays out of MATLAB 5 files, by libmatio.
 *
 * ("MAT-File Format", The MathWorks, chapter 1; all numbers are little-endian here.)
 *
 *     file      a head of 128 bytes, then elements
 *     element   u32 type, u32 number of bytes, the bytes
 *     type 14   an array, itself a row of elements filled up to multiples of 8: 16 bytes of flags, its sizes,
 *               its name, its values, which may be stored in a smaller type than the array's class
 *     type 15   a zlib stream (RFC 1950) of one element of type 14
 *
 * libmatio (1.5.23) is made for sound files. It takes whatever memory a head announces (2.7 GB for a file of
 * 16 KB). It reads past values that are shorter than their array, and returns as a success what lay on its
 * stack. Files that are cut within the last values, or whose check sums are wrong, pass. A head of
 * version 7.3 leads into HDF5. So it is not let into this process, and it is not believed:
 *
 * 1. take_survey passes over the file once, in constant memory. The elements must fill the file, and what is
 *    compressed must inflate to its end, with a sound Adler-32. That says how many bytes each array has.
 * 2. libmatio reads in a child process with a limit of memory and of time that follows from these numbers. It
 *    sends what was asked for through a pipe; however it ends, an answer that is not whole is a refusal.
 * 3. There, before an array's values are read, their own head must announce exactly the bytes that its sizes
 *    ask for, and the array must have them. */
#include "data/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <isa-l/igzip_lib.h>
#include <matio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    FILE_HEAD = 128,
    ARRAY = 14,
    PACKED = 15,
    MAX_ARRAYS = 64,
    KEPT = 144, /* an array's own head and all that comes before its values: at most 4 sizes, 63 letters */
    MAX_BYTES = 0x7fffffff, /* of all arrays */
    ROOM = 64 << 20,        /* for libmatio itself */
    SECONDS = 60            /* of processor time, and one more for each MiB */
};

/* What is in a file: each array's bytes, its own head of 8 counted, and the first of them. */
typedef struct survey {
    int n;
    uint64_t bytes[MAX_ARRAYS], all;
    uint8_t first[MAX_ARRAYS][KEPT];
    uint8_t piece[1 << 15], plain[1 << 16]; /* what goes into z and what comes out */
    struct inflate_state z;
} survey;

static size_t value_size(const hr_mat *m)
{
    return m->is_bytes ? 1 : sizeof(double);
}

/* The product of its sizes; more than MAX_BYTES when it is too large or they are too many. */
static uint64_t product(const hr_mat *m)
{
    uint64_t n = m->rank <= HR_MAT_RANK ? 1 : UINT64_MAX;
    for (int i = 0; i < m->rank && n <= MAX_BYTES; i++)
        n *= m->dims[i];
    return n;
}

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* These n bytes are the next ones of the array that is passed over. */
static int count(survey *s, const uint8_t *p, size_t n, const hr_in *in, hr_err *err)
{
    uint64_t *have = &s->bytes[s->n];
    if (*have < KEPT)
        memcpy(s->first[s->n] + *have, p, n < KEPT - *have ? n : KEPT - *have);
    *have += n;
    s->all += n;
    return s->all <= MAX_BYTES
               ? HR_OK
               : hr_fail(err, HR_EFORMAT, "%s: its arrays have more than %d bytes", in->name, MAX_BYTES);
}

/* Inflate what z was given, and count it. */
static int inflate_piece(survey *s, const hr_in *in, hr_err *err)
{
    int rc = HR_OK;
    do {
        s->z.next_out = s->plain;
        s->z.avail_out = sizeof s->plain;
        int result = isal_inflate(&s->z);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
        if (result == ISAL_INCORRECT_CHECKSUM)
            result = ISAL_DECOMP_OK; /* as in lib/base/hash.c */
#endif
        if (result != ISAL_DECOMP_OK && result != ISAL_END_INPUT)
            return hr_fail(err, HR_EFORMAT, "%s: a compressed array is damaged%s", in->name,
                           result == ISAL_INCORRECT_CHECKSUM ? ": its check sum is wrong" : "");
        rc = count(s, s->plain, sizeof s->plain - s->z.avail_out, in, err);
    } while (rc == HR_OK && s->z.avail_out == 0);
    return rc;
}

/* Pass over an element whose head was read and says that so many bytes follow. */
static int pass_over(survey *s, hr_in *in, bool packed, uint64_t left, hr_err *err)
{
    int rc = HR_OK;
    isal_inflate_init(&s->z);
    s->z.crc_flag = ISAL_ZLIB;
    while (left > 0 && rc == HR_OK) {
        size_t n = left < sizeof s->piece ? (size_t)left : sizeof s->piece;
        if ((rc = hr_in_read(in, s->piece, n, "an array", err)))
            return rc;
        left -= n;
        s->z.next_in = s->piece;
        s->z.avail_in = (uint32_t)n;
        rc = packed ? inflate_piece(s, in, err) : count(s, s->piece, n, in, err);
    }
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (rc == HR_OK && packed && s->z.block_state != ISAL_BLOCK_FINISH)
        rc = hr_fail(err, HR_EFORMAT, "%s: a compressed array is cut short", in->name);
#endif
    return rc;
}

static int take_survey(survey *s, hr_in *in, hr_err *err)
{
    uint8_t head[FILE_HEAD];
    int rc = hr_in_read(in, head, FILE_HEAD, "the head of a MATLAB file", err);
    if (rc)
        return rc;
    if (in->size < 0 || memcmp(head, "MATLAB 5.0 MAT-file", 19) != 0 || memcmp(head + 124, "\0\1IM", 4) != 0)
        return hr_fail(err, HR_EFORMAT, "%s: not a little-endian MATLAB 5 file", in->name);
    for (int64_t at = FILE_HEAD; at < in->size && rc == HR_OK; s->n++) {
        if (s->n == MAX_ARRAYS)
            return hr_fail(err, HR_EFORMAT, "%s: more than %d arrays", in->name, MAX_ARRAYS);
        if ((rc = hr_in_read(in, head, 8, "the head of an array", err)))
            return rc;
        uint32_t type = le32(head), n = le32(head + 4);
        at += 8;
        if (n > in->size - at || (type != ARRAY && type != PACKED))
            return hr_fail(err, HR_EFORMAT,
                           "%s: cut short or damaged: an element of type %u and %u bytes, %lld are left",
                           in->name, type, n, (long long)(in->size - at));
        at += n;
        if (type == ARRAY)
            rc = count(s, head, 8, in, err);
        if (rc == HR_OK)
            rc = pass_over(s, in, type == PACKED, n, err);
    }
    return rc;
}

/* ---- in the child ------------------------------------------------------------------------------------ */

static size_t filled(size_t n)
{
    return (n + 7) / 8 * 8;
}

/* Does the head of this array's values say what its sizes ask for? Values of at most 4 bytes share a head
 * of 8. */
static bool has_its_values(const survey *s, int which, const matvar_t *v, size_t n)
{
    static const uint8_t type_size[] = {0, 1, 1, 2, 2, 4, 4, 4, 0, 8};
    size_t name = strlen(v->name),
           at = 8 + 16 + 8 + filled(4 * (size_t)v->rank) + 8 + (name > 4 ? filled(name) : 0);
    uint32_t type = le32(s->first[which] + at), bytes = le32(s->first[which] + at + 4);
    at += 8;
    if (type >> 16) {
        bytes = type >> 16;
        type &= 0xffff;
        at -= 4;
    }
    return at < KEPT && type < HR_COUNT(type_size) && bytes == n * type_size[type] &&
           at + bytes <= s->bytes[which];
}

/* The first array of this name; *which is its number. */
static matvar_t *find(mat_t *file, const survey *s, const char *name, int *which)
{
    matvar_t *v = NULL;
    for (*which = 0; *which < s->n && (v = Mat_VarReadNextInfo(file)); ++*which, Mat_VarFree(v), v = NULL)
        if (v->name && strcmp(v->name, name) == 0)
            return v;
    return NULL;
}

static int read_array(mat_t *file, const survey *s, hr_mat *m, matvar_t *v, int which, const char *path,
                      hr_err *err)
{
    if (v->class_type < MAT_C_DOUBLE || v->class_type > MAT_C_UINT32 || v->isComplex)
        return hr_fail(err, HR_EFORMAT, "%s: variable '%s' is no array of real numbers", path, m->name);
    m->rank = v->rank;
    for (int i = 0; i < HR_MAT_RANK && i < v->rank; i++)
        m->dims[i] = (uint32_t)v->dims[i]; /* 32 bits in the file */
    m->count = product(m);
    if (m->count > MAX_BYTES || !has_its_values(s, which, v, m->count))
        return hr_fail(err, HR_EFORMAT, "%s: the sizes of variable '%s' are not those of its values", path,
                       m->name);
    m->is_bytes = v->class_type == MAT_C_UINT8;
    if (!m->is_bytes)
        v->class_type = MAT_C_DOUBLE; /* to which libmatio converts */
    m->values = calloc(m->count + 1, value_size(m));
    if (!m->values || (m->count > 0 && Mat_VarReadDataLinear(file, v, m->values, 0, 1, (int)m->count)))
        return hr_fail(err, HR_EFORMAT, "%s: the values of variable '%s' cannot be read", path, m->name);
    return HR_OK;
}

/* From now on this process has no stdout and stderr, opens no file, and takes so much memory more and so much
 * time. What was mapped before (sanitizers map terabytes) does not count. */
static void confine(const survey *s)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu", &pages) == 1) {
        rlim_t most = pages * (rlim_t)sysconf(_SC_PAGESIZE) + ROOM + 2 * s->all;
        (void)setrlimit(RLIMIT_AS, &(struct rlimit){most, most});
    }
    rlim_t seconds = SECONDS + s->all / (1 << 20);
    (void)setrlimit(RLIMIT_CPU, &(struct rlimit){seconds, seconds});
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    for (int sig = 1; sig < 32; sig++) /* nobody's handler is to explain a crash of libmatio */
        (void)signal(sig, sig == SIGPIPE ? SIG_IGN : SIG_DFL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void)dup2(null, STDOUT_FILENO);
    (void)dup2(null, STDERR_FILENO);
    (void)setrlimit(RLIMIT_NOFILE, &(struct rlimit){0, 0});
}

_Noreturn static void read_and_send(const char *path, const survey *s, hr_mat *wanted, int n, int fd)
{
    hr_err err = HR_ERR_INIT;
    FILE *to = fdopen(fd, "wb");
    mat_t *file = Mat_Open(path, MAT_ACC_RDONLY); /* which reads the file's head, known to be sound */
    if (!to)
        _exit(1);
    confine(s);
    if (!file)
        (void)hr_fail(&err, HR_EFORMAT, "%s: libmatio cannot read it", path);
    for (int i = 0, which; i < n && err.code == HR_OK; i++) {
        matvar_t *v = Mat_Rewind(file) ? NULL : find(file, s, wanted[i].name, &which);
        err.code = v ? read_array(file, s, &wanted[i], v, which, path, &err)
                     : hr_fail(&err, HR_EFORMAT, "%s: no variable '%s'", path, wanted[i].name);
        Mat_VarFree(v);
    }
    fwrite(&err, sizeof err, 1, to);
    for (int i = 0; i < n && err.code == HR_OK; i++) {
        fwrite(&wanted[i], sizeof wanted[i], 1, to);
        fwrite(wanted[i].values, value_size(&wanted[i]), wanted[i].count, to);
    }
    fclose(to);
    Mat_Close(file);
    for (int i = 0; i < n; i++)
        hr_mat_release(&wanted[i]);
    _exit(0);
}

/* ---- in the parent ----------------------------------------------------------------------------------- */

/* What read_and_send sent: false when that is not whole. */
static bool receive(int fd, hr_mat *wanted, int n, hr_err *err)
{
    FILE *from = fdopen(fd, "rb");
    hr_err said;
    bool whole = from && fread(&said, sizeof said, 1, from) == 1;
    if (whole)
        *err = said;
    for (int i = 0; whole && i < n && said.code == HR_OK; i++) {
        hr_mat m = {.count = 0};
        whole = fread(&m, sizeof m, 1, from) == 1 && m.count == product(&m) && m.count <= MAX_BYTES;
        m.values = whole ? hr_xmalloc((m.count + 1) * value_size(&m)) : NULL;
        wanted[i] = m;
        whole = whole && fread(m.values, value_size(&m), m.count, from) == m.count;
    }
    if (from)
        fclose(from);
    return whole;
}

int hr_mat_load(const char *path, hr_mat *wanted, int n_wanted, hr_err *err)
{
    hr_in in;
    int rc = hr_in_open(&in, path, err), fd[2];
    if (rc)
        return rc;
    survey *s = hr_xcalloc(1, sizeof *s);
    rc = take_survey(s, &in, err);
    hr_in_close(&in);
    if (rc == HR_OK && pipe2(fd, O_CLOEXEC))
        rc = hr_fail(err, HR_EIO, "%s: no pipe: %s", path, strerror(errno));
    if (rc == HR_OK) {
        pid_t child = fork();
        if (child == 0)
            read_and_send(path, s, wanted, n_wanted, fd[1]);
        close(fd[1]);
        if (!receive(fd[0], wanted, n_wanted, err))
            (void)hr_fail(err, HR_EFORMAT, "%s: damaged: libmatio fails on it", path);
        rc = err->code;
        while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    free(s);
    for (int i = 0; i < n_wanted && rc; i++)
        hr_mat_release(&wanted[i]);
    return rc;
}

void hr_mat_release(hr_mat *m)
{
    free(m->values);
    m->values = NULL;
}

double hr_mat_value(const hr_mat *m, size_t i)
{
    return m->is_bytes ? ((const uint8_t *)m->values)[i] : ((const double *)m->values)[i];
}
