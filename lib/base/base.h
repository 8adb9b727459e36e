/* lib/base/base.h -- what every other module stands on: errors, memory, atomic files, hashes, random
 * numbers, JSON and history records, command lines, progress.
 *
 * Rules of the house. The library explains, the tool decides: a function that can fail for reasons outside
 * this program returns one of the HR_E* codes and leaves one complete sentence in *err (file, what was
 * expected, what was found). Only tools print and only tools exit. Broken invariants of ours end in BUG().
 * When host memory is gone hr_xmalloc ends the process in one place, so that no caller carries a dead check.
 *
 * All of this is safe to call from several threads on different objects; the command-line, progress and
 * signal parts belong to the main thread. */
#ifndef HR_BASE_H
#define HR_BASE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HR_VERSION "0.1.0"

#define HR_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define HR_MUST_CHECK __attribute__((warn_unused_result))
#define HR_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- errors ------------------------------------------------------------------------------------------ */

enum {
    HR_OK = 0,
    HR_EINVAL,    /* an option or argument is out of its range */
    HR_EIO,       /* the operating system refused to read or write */
    HR_EFORMAT,   /* a file is not what it claims to be: cut, damaged, of another kind or version */
    HR_ESHAPE,    /* sound data, but not of the shape that the network or the data set needs */
    HR_EDIVERGED, /* a loss or a weight is not finite */
    HR_EINTR,     /* SIGINT or SIGTERM asked us to stop */
    HR_EPEER,     /* a child process died, was silent or answered nonsense */
};

typedef struct hr_err {
    int code;
    char msg[768]; /* one line, complete, without the program's name */
} hr_err;
#define HR_ERR_INIT                                                                                          \
    {                                                                                                        \
        0, ""                                                                                                \
    }

/* Store code and the formatted sentence in *err (err may be NULL); control characters in it become '?'. Of a
 * sentence that is too long the middle is left out: names stand at the beginning, reasons at the end.
 * Returns code, so that callers write `return hr_fail(err, HR_EIO, ...)`. */
int hr_fail(hr_err *err, int code, const char *fmt, ...) HR_PRINTF(3, 4);

/* Report a broken invariant of this program and abort. */
#define BUG(...) hr_bug(__FILE__, __LINE__, __VA_ARGS__)
void hr_bug(const char *file, int line, const char *fmt, ...) HR_PRINTF(3, 4) __attribute__((noreturn));

/* ---- memory ------------------------------------------------------------------------------------------ */

/* As malloc, calloc, realloc, strdup and asprintf, but they never return NULL: without memory they print one
 * line that names the number of bytes asked for and exit with status 1. Free with free(). */
void *hr_xmalloc(size_t bytes) __attribute__((malloc));
void *hr_xcalloc(size_t n, size_t size) __attribute__((malloc));
void *hr_xrealloc(void *p, size_t bytes);
char *hr_xstrdup(const char *s) __attribute__((malloc));
char *hr_xasprintf(const char *fmt, ...) HR_PRINTF(1, 2) __attribute__((malloc));
/* n * size bytes, 64-byte aligned, zeroed, for numeric work. Free with free(). */
void *hr_xaligned(size_t n, size_t size) __attribute__((malloc));
/* The same for `bytes` (at most SIZE_MAX - 64), or NULL where hr_xaligned would end the program. */
void *hr_aligned(size_t bytes) __attribute__((malloc));

/* Bytes that this process can still take: free memory of the machine, its control group's limit, and its own
 * limit on address space, whichever is least (Linux; 0 when there is none left). Others may take them too. */
double hr_memory_left(void);

/* A growing byte buffer. Start with {0}; release with hr_buf_release. data is always NUL-terminated at len
 * once something was added. */
typedef struct hr_buf {
    char *data;
    size_t len, cap;
} hr_buf;
void hr_buf_add(hr_buf *b, const void *bytes, size_t n);
void hr_buf_printf(hr_buf *b, const char *fmt, ...) HR_PRINTF(2, 3);
void hr_buf_release(hr_buf *b);

/* ---- files ------------------------------------------------------------------------------------------- */

/* An input: a file, or standard input for the name "-". size is the file's length in bytes, or -1 when it
 * cannot be known (pipes): readers must check lengths found inside a file against it before they allocate. */
typedef struct hr_in {
    FILE *fp;
    char *name; /* for messages: the path, or "<stdin>" */
    int64_t size;
} hr_in;
/* Open path for reading. Returns 0, or HR_EIO with err set (missing, no permission, a directory). */
HR_MUST_CHECK int hr_in_open(hr_in *in, const char *path, hr_err *err);
void hr_in_close(hr_in *in); /* a closed or zeroed hr_in is allowed */
/* Read exactly n bytes. Returns 0; HR_EFORMAT "NAME: cut short ..." at the end of file; HR_EIO. `what` names
 * the thing being read, for the message. */
HR_MUST_CHECK int hr_in_read(hr_in *in, void *dst, size_t n, const char *what, hr_err *err);
/* Read the rest of the input into b, at most max bytes (HR_EFORMAT when there is more). */
HR_MUST_CHECK int hr_in_slurp(hr_in *in, hr_buf *b, size_t max, hr_err *err);

/* An output that appears whole or not at all: written to .NAME.partial beside its target (locked with flock,
 * reused when a killed process left one), then flushed, synced and renamed. The name "-" is standard output;
 * targets that exist and are no regular files (/dev/null, a FIFO) are written directly. */
typedef struct hr_out hr_out;
enum { HR_OUT_BINARY = 1 }; /* refuse standard output when it is a terminal */
/* Returns 0 with *out set, or HR_EIO / HR_EINVAL with err set. */
HR_MUST_CHECK int hr_out_open(hr_out **out, const char *path, int flags, hr_err *err);
FILE *hr_out_file(hr_out *out);
const char *hr_out_name(const hr_out *out); /* for messages */
/* Make the output visible under its name and release out. Returns 0, or HR_EIO with err set; then the
 * partial file is gone and an older file of that name is untouched. */
HR_MUST_CHECK int hr_out_commit(hr_out *out, hr_err *err);
/* Drop the output and release out; NULL is allowed. */
void hr_out_abort(hr_out *out);
/* Could path be opened for writing now? Asked before long work. Returns what hr_out_open returns; leaves
 * nothing behind. */
HR_MUST_CHECK int hr_out_try(const char *path, int flags, hr_err *err);

/* Several outputs that belong together: after hr_outs_hold, hr_out_commit writes and syncs a regular file but
 * does not rename it (other targets are written as ever: commit those last). hr_outs_publish renames what
 * waits, in the order of opening. hr_outs_drop removes what waits. Both end the holding. For the main thread.
 * hr_outs_publish returns 0, or HR_EIO: when a file is no longer there to be renamed, and all are dropped;
 * when a rename fails nevertheless, and those before it stand. */
void hr_outs_hold(void);
HR_MUST_CHECK int hr_outs_publish(hr_err *err);
void hr_outs_drop(void);

/* Create directory path and its parents where missing. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_mkdirs(const char *path, hr_err *err);

/* ---- hashes ------------------------------------------------------------------------------------------ */

/* CRC-32C (Castagnoli, reflected 0x82F63B78; RFC 3720 appendix B.4), finished value. crc is 0 for the first
 * piece, else the value returned for the pieces before: "123456789" gives 0xE3069283. Any length. */
uint32_t hr_crc32c(uint32_t crc, const void *data, size_t n);

typedef struct hr_sha256 hr_sha256; /* FIPS 180-4, by libcrypto */
hr_sha256 *hr_sha256_new(void);
void hr_sha256_add(hr_sha256 *h, const void *data, size_t n);
/* Write the 64 hexadecimal digits and a NUL to hex and release h. */
void hr_sha256_end(hr_sha256 *h, char hex[65]);
/* Digest of a file's content. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_sha256_file(const char *path, char hex[65], hr_err *err);

/* ---- random numbers ---------------------------------------------------------------------------------- */

/* Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; Random123). A draw is a
 * pure function of (seed, stream, counters): noise belongs to an image's index in its data set, never to its
 * place in a batch, to a thread, or to how many draws came before. Streams in use: */
enum hr_stream {
    HR_STREAM_INIT = 1,    /* weights: counters (tensor number, 0, 0) */
    HR_STREAM_SHUFFLE = 2, /* order of an epoch: (epoch, 0, 0) */
    HR_STREAM_AUGMENT = 3, /* crop and flip: (epoch, 0, image) */
    HR_STREAM_ATTACK = 4,  /* training attacks: (epoch, restart, image) */
    HR_STREAM_EVAL = 5,    /* test-time attacks: (attack number, restart, image) */
    HR_STREAM_SPLIT = 6,   /* holdout / rest: (class, 0, 0) */
    HR_STREAM_SUBSET = 7,  /* --limit --stratified: (class, 0, 0) */
    HR_STREAM_SEARCH = 8,  /* the agent: sequential */
    HR_STREAM_SCORES = 9,  /* random score initialisation: (tensor number, 0, 0) */
    HR_STREAM_TEST = 1000  /* tests only */
};
/* The four 32-bit words at counter (c0, c1, c2, c3). */
void hr_philox(uint32_t seed, uint32_t stream, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
               uint32_t out[4]);
/* dst[i], i < n: uniform in the open interval (lo, hi), 24 random bits each, from word i%4 at counter
 * (c0, c1, c2, i/4). */
void hr_fill_uniform(float *dst, size_t n, float lo, float hi, uint32_t seed, uint32_t stream, uint32_t c0,
                     uint32_t c1, uint32_t c2);
/* dst[i], i < n: normal with the given mean and standard deviation (Box-Muller in double). */
void hr_fill_normal(float *dst, size_t n, float mean, float std, uint32_t seed, uint32_t stream, uint32_t c0,
                    uint32_t c1, uint32_t c2);

/* A sequential generator on one stream, for code that draws an unforeseeable number of values. Plain data:
 * copy it to save it. */
typedef struct hr_rng {
    uint32_t seed, stream;
    uint64_t next; /* number of 32-bit words drawn so far */
} hr_rng;
uint32_t hr_rng_u32(hr_rng *r);
double hr_rng_double(hr_rng *r);              /* uniform in [0,1), 53 bits (two words) */
double hr_rng_normal(hr_rng *r);              /* mean 0, deviation 1 (two words) */
uint32_t hr_rng_below(hr_rng *r, uint32_t n); /* uniform in 0..n-1 without bias; n > 0 */

/* Put a random permutation of 0..n-1 into idx (Fisher-Yates on the stream (seed, stream, c0)). */
void hr_permutation(uint32_t *idx, size_t n, uint32_t seed, uint32_t stream, uint32_t c0);

/* ---- JSON and history -------------------------------------------------------------------------------- */

/* Is s fit to be a JSON string? What goes into products must be. */
bool hr_is_utf8(const char *s);
/* All JSON we write: insertion order kept, reals with 15 significant digits. Caller frees the string.
 * indent 0 is one compact line. */
char *hr_json_text(const json_t *j, int indent);
/* Read one JSON document; duplicate keys and anything behind it are refused. The caller owns the result.
 * At most 64 MiB. Returns 0, HR_EIO or HR_EFORMAT "FILE: line L: ..." */
HR_MUST_CHECK int hr_json_load(const char *path, json_t **out, hr_err *err);
/* Write j and a newline to an open output; errors show when it is committed. */
void hr_json_write(const json_t *j, hr_out *out, int indent);
/* The same to path, atomically. */
HR_MUST_CHECK int hr_json_save(const json_t *j, const char *path, int indent, hr_err *err);

/* A product's history: {"tool", "version", "options": {...}, "inputs": [{"role", "sha256", "history"}]}.
 * It records options that affect the result and digests of content; never times, paths, hosts or threads. */
/* A new record of the running tool with the options that hr_tool_start parsed. Caller owns it. */
json_t *hr_history_new(void);
/* Append an input. history is that input's own record, borrowed, or NULL. */
void hr_history_input(json_t *h, const char *role, const char *sha256, const json_t *history);

/* ---- saved state -------------------------------------------------------------------------------------- */

/* What long work needs to go on after it was stopped: a JSON document and named blocks of memory in one file,
 * written atomically, every byte under a checksum (state.c describes it). A program lists its blocks once and
 * uses the same list to save and to load. State files live on the machine that wrote them: blocks are in its
 * byte order. */
typedef struct hr_block {
    const char *name;
    void *data;
    size_t bytes;
} hr_block;
/* Write meta (borrowed, an object) and the blocks to path. Returns 0 or HR_EIO; an older state of that name
 * survives a failure. */
HR_MUST_CHECK int hr_state_save(const char *path, const json_t *meta, const hr_block *blocks, size_t n,
                                hr_err *err);
/* Read only the document. *meta is NULL, and the result 0, when there is no such file. The caller owns *meta.
 * Returns 0, HR_EIO, HR_EFORMAT (cut, damaged, no state). */
HR_MUST_CHECK int hr_state_peek(const char *path, json_t **meta, hr_err *err);
/* Fill the blocks from path: names, order and sizes must be those that were saved. Nothing is written to a
 * block before its file has passed all checks. Returns 0, HR_EIO, HR_EFORMAT, HR_ESHAPE (another list). */
HR_MUST_CHECK int hr_state_load(const char *path, const hr_block *blocks, size_t n, hr_err *err);
/* Name the first difference between the history record that a state was saved under and that of this run, as
 * "version was 0.1, now 0.2" (any string in it), "--lr was 0.1, now 0.05" or "input 'model' has changed".
 * Returns false when there is none. */
bool hr_history_differs(const json_t *was, const json_t *now, char *what, size_t size);

/* For tests of what a crash or a signal leaves behind: HERACLES_CRASH=POINT:N kills this process with SIGKILL
 * when it passes POINT for the N-th time; with POINT:N:TERM it gets SIGTERM there instead. Points: "write" (a
 * file is written, not flushed), "rename" (flushed and synced, not yet visible), "renamed" (visible), and
 * those that other modules name. Costs nothing when unset. */
void hr_crash_point(const char *point);

/* ---- long jobs ---------------------------------------------------------------------------------------- */

/* Work of hours that makes one output, can be stopped at any time and goes on when the same command is given
 * again. A job holds the output's partial file from the beginning, so that what cannot be written is refused
 * at once and a second process that wants to make the same output is, too; and it knows the saved state,
 * OUTPUT.state, which goes away when the output is there. There is no state when the output is standard
 * output or exists and is no regular file; everything else works the same then. A NULL job keeps nothing:
 * hr_job_saved, hr_job_due, hr_job_save and hr_job_interrupted allow it. */
typedef struct hr_job hr_job;
typedef struct hr_job_opts {
    const char *output;
    int flags;         /* of hr_out_open */
    const json_t *run; /* what this run is, a history record, borrowed: a state that was saved under another
                          one (hr_history_differs) is refused */
    double every;      /* hr_job_due is true that many seconds after the last save; 0: always */
    bool restart;      /* discard a saved state */
} hr_job_opts;
/* Begin or go on. Where a state is kept SIGINT and SIGTERM are caught from then on (hr_signals_catch): long
 * work asks hr_interrupted(), saves and leaves with hr_job_interrupted.
 * Returns 0 with *job set; HR_EIO (the output cannot be written, another process is writing it); HR_EINVAL
 * (the saved state belongs to another run: the message names the difference); HR_EFORMAT (it is damaged). */
HR_MUST_CHECK int hr_job_open(hr_job **job, const hr_job_opts *o, hr_err *err);
/* Where an earlier run was stopped: the document that it gave to hr_job_save; borrowed. NULL: begin. */
const json_t *hr_job_saved(const hr_job *job);
/* Fill the blocks from the saved state, as hr_state_load does. */
HR_MUST_CHECK int hr_job_load(const hr_job *job, const hr_block *blocks, size_t n, hr_err *err);
bool hr_job_due(const hr_job *job);
/* Save at (borrowed, an object) and the blocks, as hr_state_save does. */
HR_MUST_CHECK int hr_job_save(hr_job *job, const json_t *at, const hr_block *blocks, size_t n, hr_err *err);
/* Say in *err that a signal stopped the work at the place that fmt names ("epoch 3, step 17") and how it goes
 * on. Call it after hr_job_save. Returns HR_EINTR. */
int hr_job_interrupted(const hr_job *job, hr_err *err, const char *fmt, ...) HR_PRINTF(3, 4);
hr_out *hr_job_out(hr_job *job); /* to write to; the job commits it */
/* The output becomes visible, with those that wait for it (hr_outs_hold; without it none does), then the
 * saved state is removed; releases job. A process that is killed between the two leaves a state that leads
 * straight to the same output. Returns 0, or HR_EIO: the state is kept. */
HR_MUST_CHECK int hr_job_commit(hr_job *job, hr_err *err);
/* Drop the output, keep the saved state, release job; NULL is allowed. */
void hr_job_abort(hr_job *job);

/* ---- command lines ----------------------------------------------------------------------------------- */

enum hr_opt_kind {
    HR_OPT_FLAG,   /* bool *; no argument */
    HR_OPT_STRING, /* const char **; points into argv */
    HR_OPT_INT,    /* int64_t *; whole number in [min, max] */
    HR_OPT_REAL,   /* double *; a number or a fraction such as 8/255, in [min, max] */
    HR_OPT_CHOICE  /* int *; one of choices (a NULL-terminated list), stored as its index */
};
enum {
    HR_OPT_RESULT = 1, /* affects the bytes of the result: recorded in the history */
    HR_OPT_REPEAT = 2  /* HR_OPT_STRING into an hr_list * instead: may be given several times */
};
typedef struct hr_list {
    const char **items; /* the strings point into argv; free(items) is the owner's */
    size_t n;
} hr_list;
/* One row of a tool's option table. The value that dest holds before parsing is the default, and --help
 * prints it. A table ends with a row whose name is NULL. --help, --version and --quiet are built in. */
typedef struct hr_opt {
    const char *name; /* long name without dashes */
    char letter;      /* short name, or 0 */
    enum hr_opt_kind kind;
    void *dest;
    int flags;
    const char *arg; /* name of the argument in --help, NULL for flags */
    const char *help;
    double min, max;            /* numbers; both 0: any */
    const char *const *choices; /* HR_OPT_CHOICE */
} hr_opt;
typedef struct hr_tool {
    const char *name;
    const char *synopsis; /* the usage line behind the name: "[OPTION]... NET" */
    const char *summary;  /* one or two sentences, ending in a newline */
    const char *example;  /* a whole line that works */
    const hr_opt *opts;
    int min_args, max_args; /* positional arguments; max -1: any number */
} hr_tool;
/* Exit status (EX_TEMPFAIL of sysexits.h) of a run that SIGINT or SIGTERM stopped and that has saved its
 * state: the same command goes on. */
enum { HR_EXIT_INTERRUPTED = 75 };
/* Parse the command line. Prints help or version on stdout and exits 0; on misuse prints one line naming the
 * option and a hint on stderr and exits 2. Also makes stdout's buffer full-sized, ignores SIGPIPE, and
 * remembers the tool for messages and history. Descriptors 0 to 2 that are closed are opened in a way that
 * makes their use fail, so that no file of ours takes their number; a file size limit (SIGXFSZ) becomes a
 * write error. Returns the index in argv of the first positional argument. */
int hr_tool_start(const hr_tool *tool, int argc, char **argv);
/* Record, for every later hr_history_new, the value that the tool filled in itself for option `name`, which
 * depends on what was read (the data set's radius). */
void hr_tool_filled_in(const char *name, double value);
/* Flush stdout, say so when that fails, and return the exit status 0 or 1. The last call of main. */
int hr_tool_finish(void);
/* "NAME: message" on stderr and exit 1. */
void hr_die(const char *fmt, ...) HR_PRINTF(1, 2) __attribute__((noreturn));
/* "NAME: " and what *err says on stderr, and exit: HR_EXIT_INTERRUPTED for HR_EINTR, else 1. */
void hr_die_err(const hr_err *err) __attribute__((noreturn));
/* "NAME: message" and a hint at --help on stderr, exit 2: for misuse that the option table cannot see. */
void hr_usage(const char *fmt, ...) HR_PRINTF(1, 2) __attribute__((noreturn));
/* "NAME: message" on stderr, unless --quiet. */
void hr_note(const char *fmt, ...) HR_PRINTF(1, 2);
/* "NAME: warning: message" on stderr, even with --quiet. */
void hr_warn(const char *fmt, ...) HR_PRINTF(1, 2);
bool hr_quiet(void);

/* Parse a whole string as a number or a fraction "A/B". Returns false when anything is left over, when it is
 * not finite, or when B is 0. */
bool hr_parse_real(const char *s, double *out);
bool hr_parse_int(const char *s, int64_t *out);

/* Threads to use by default: OMP_NUM_THREADS where it is a number (make -j sets it to share the cores), else
 * the processors this process may run on. */
int hr_default_threads(void);

/* ---- signals and progress ---------------------------------------------------------------------------- */

/* From now on SIGINT and SIGTERM only set a flag, which stays set. Long work asks hr_interrupted() between
 * its steps, and so do the passes of lib/compute. Any thread may ask. */
void hr_signals_catch(void);
bool hr_interrupted(void);

/* Seconds on the monotonic clock. For stderr and side files only, never for products. */
double hr_seconds(void);

/* A progress line on stderr: drawn only when stderr is a terminal and not --quiet, at most ten times a
 * second. label and note may be NULL; note is copied into the line ("clean 71.2 %"). */
typedef struct hr_progress {
    const char *label;
    double total, start, drawn, before; /* before: done by an earlier run, which says nothing of our rate */
    bool on;
} hr_progress;
void hr_progress_start(hr_progress *p, const char *label, double total);
void hr_progress_at(hr_progress *p, double done, const char *note);
void hr_progress_end(hr_progress *p); /* clears the line */

#endif
