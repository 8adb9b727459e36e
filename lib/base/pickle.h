/* lib/base/pickle.h -- a small pickle machine: it reads what torch.save and numpy write and can do nothing
 * else.
 *
 * A pickle is a program for a stack machine. Python's own unpickler imports and calls whatever the program
 * names, so loading a pickle runs its author's code. This machine has no way to call anything: it builds the
 * values below and asks its user, through hooks, what a name, a call or a persistent id stands for: for a
 * value that the hook makes of its arguments, or for nothing. Names that only an attack would use are refused
 * before any hook is asked. Its users are checkpoints (model/torch_objects.c) and CIFAR-10's batches
 * (data/batch_pickle.c).
 *
 * Bounds, all kept while reading: a pickle has at most HR_PICKLE_MAX bytes (or what the hooks say), values
 * nest at most HR_PICKLE_DEPTH deep, a sequence has at most HR_PICKLE_ITEMS items, memo numbers are smaller
 * than the pickle, and all values together, memo included, take at most HR_PICKLE_GROWTH times its length and
 * HR_PICKLE_MEMORY. No code that looks at values recurses. */
#ifndef HR_PICKLE_H
#define HR_PICKLE_H

#include "base/base.h"

enum {
    HR_PICKLE_MAX = 16 << 20,
    HR_PICKLE_DEPTH = 100,
    HR_PICKLE_ITEMS = 1 << 20,
    HR_PICKLE_GROWTH = 128,
    HR_PICKLE_MEMORY = 512 << 20
};

enum hr_pk_type {
    HR_PK_NONE,
    HR_PK_BOOL,
    HR_PK_INT,
    HR_PK_BIG, /* an integer beyond 64 bits: its bytes, little-endian, or its decimal digits */
    HR_PK_FLOAT,
    HR_PK_STR, /* text and bytes: Python 2 made no difference */
    HR_PK_TUPLE,
    HR_PK_LIST,
    HR_PK_DICT,
    HR_PK_GLOBAL,  /* a class or function by its dotted name */
    HR_PK_OBJECT,  /* an instance of something we do not know: its class's name */
    HR_PK_STORAGE, /* numel elements from `offset` of storage `index` */
    HR_PK_TENSOR,
};
extern const char *const hr_pk_names[]; /* for messages: "a dict", ... */

struct hr_pk_tensor; /* model/torch_file.h */

typedef struct hr_pk hr_pk;
struct hr_pk {
    unsigned char type;  /* enum hr_pk_type */
    unsigned char depth; /* how deep the values in it nest */
    union {
        int64_t i; /* BOOL, INT */
        double f;
        struct {
            const char *s; /* STR, BIG: not terminated, may hold NUL; GLOBAL, OBJECT: terminated */
            size_t n;
        } str;
        struct {
            hr_pk **item; /* DICT: key, value, key, value, ... in the order in which they came */
            size_t n, cap;
        } seq;
        struct {
            int index;
            int64_t offset, numel;
        } storage;
        struct hr_pk_tensor *tensor;
    } u;
};

typedef struct hr_pickle hr_pickle;
/* What a pickle means outside of itself. All but name and state return a value made with hr_pickle_value, or
 * NULL with err set. */
typedef struct hr_pickle_hooks {
    /* the object that a persistent id stands for; NULL: there are none */
    hr_pk *(*persistent)(void *ctx, hr_pickle *p, const hr_pk *id, hr_err *err);
    /* a call of `function` (a GLOBAL or OBJECT) with `args` (a TUPLE) */
    hr_pk *(*call)(void *ctx, hr_pickle *p, const hr_pk *function, const hr_pk *args, hr_err *err);
    /* may the pickle use this dotted name? False with err set; NULL: any name but an attack's, for it is only
     * a name */
    bool (*name)(void *ctx, hr_pickle *p, const char *name, hr_err *err);
    /* the state that an object is given; false with err set; NULL: it is forgotten */
    bool (*state)(void *ctx, hr_pickle *p, hr_pk *object, hr_pk *state, hr_err *err);
    size_t max; /* bytes of a pickle; 0: HR_PICKLE_MAX */
    void *ctx;
} hr_pickle_hooks;

/* Run the one pickle that bytes begin with; *used (may be NULL) receives its length. Values point into bytes
 * and live as long as the machine. where names the file for messages.
 * Returns the machine, or NULL with err set; then *more is true when nothing is wrong but that the bytes end
 * before the pickle does. */
hr_pickle *hr_pickle_run(const char *bytes, size_t n, const hr_pickle_hooks *hooks, const char *where,
                         hr_pk **root, size_t *used, bool *more, hr_err *err);
void hr_pickle_free(hr_pickle *p); /* NULL is allowed */

/* For hooks: a new value, zero but for its type. NULL, with err set, when the machine's memory is used up. */
hr_pk *hr_pickle_value(hr_pickle *p, enum hr_pk_type type, hr_err *err);
/* n zeroed bytes that live as long as the machine, or NULL with err set. */
void *hr_pickle_alloc(hr_pickle *p, size_t n, hr_err *err);
/* Append to a sequence. False, with err set, when that is too much. */
bool hr_pickle_append(hr_pickle *p, hr_pk *seq, hr_pk *item, hr_err *err);
const char *hr_pickle_where(const hr_pickle *p);

bool hr_pk_is_str(const hr_pk *v, const char *s);        /* is it the text s? v may be NULL */
const hr_pk *hr_pk_get(const hr_pk *d, const char *key); /* the last value of key in a dict, or NULL */

#endif
