/* lib/base/pickle.c -- the pickle machine: opcodes of protocols 0 to 5 (CPython's Lib/pickletools.py).
 *
 * The program is read once from front to back; every opcode does a fixed amount of work on the stack and on
 * values, so time and memory are linear in the length. Opcodes that could reach outside (extension registry,
 * out-of-band buffers) are refused. Values come from an arena that is freed as a whole. */
#include "base/pickle.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_pk_names[] = {
    [HR_PK_NONE] = "None",       [HR_PK_BOOL] = "a bool",      [HR_PK_INT] = "an int",
    [HR_PK_BIG] = "a big int",   [HR_PK_FLOAT] = "a float",    [HR_PK_STR] = "a string",
    [HR_PK_TUPLE] = "a tuple",   [HR_PK_LIST] = "a list",      [HR_PK_DICT] = "a dict",
    [HR_PK_GLOBAL] = "a class",  [HR_PK_OBJECT] = "an object", [HR_PK_STORAGE] = "a storage",
    [HR_PK_TENSOR] = "a tensor",
};

struct block {
    struct block *next;
    _Alignas(16) char bytes[];
};

struct hr_pickle {
    const char *at, *begin, *end;
    const char *where;
    hr_err *err;
    bool more;
    const hr_pickle_hooks *hooks;

    struct block *blocks;
    char *room; /* what is left of the newest block */
    size_t left, total, most;

    hr_pk **stack; /* NULL is a mark */
    size_t n, cap;
    hr_pk **memo;
    size_t memos, memo_next;
    int marks;
};

#define BAD(fmt, ...) hr_fail(p->err, HR_EFORMAT, "%s: its pickle " fmt, p->where, __VA_ARGS__)
#define TRY(x)                                                                                               \
    do {                                                                                                     \
        if (!(x))                                                                                            \
            return false;                                                                                    \
    } while (0)

/* ---- memory ------------------------------------------------------------------------------------------- */

void *hr_pickle_alloc(hr_pickle *p, size_t n, hr_err *err)
{
    enum { BLOCK = 1 << 14 };
    n = (n + 15) / 16 * 16;
    if (n > p->most - p->total) {
        hr_fail(err, HR_EFORMAT, "%s: its pickle makes more of its bytes than a checkpoint does", p->where);
        return NULL;
    }
    p->total += n;
    if (n > p->left) {
        size_t size = n > BLOCK ? n : BLOCK;
        struct block *b = hr_xcalloc(1, sizeof *b + size);
        b->next = p->blocks;
        p->blocks = b;
        if (n > BLOCK)
            return b->bytes;
        p->room = b->bytes;
        p->left = size;
    }
    void *got = p->room;
    p->room += n;
    p->left -= n;
    return got;
}

hr_pk *hr_pickle_value(hr_pickle *p, enum hr_pk_type type, hr_err *err)
{
    hr_pk *v = hr_pickle_alloc(p, sizeof *v, err);
    if (v)
        v->type = (unsigned char)type;
    return v;
}

/* The sequence gets n more items, the last of them still to be set. */
static bool make_room(hr_pickle *p, hr_pk *seq, size_t n, hr_err *err)
{
    if (seq->u.seq.n + n <= seq->u.seq.cap)
        return true;
    if (n > HR_PICKLE_ITEMS - seq->u.seq.n) {
        hr_fail(err, HR_EFORMAT, "%s: its pickle has %s of more than %d items", p->where,
                hr_pk_names[seq->type], HR_PICKLE_ITEMS);
        return false;
    }
    size_t cap = 2 * seq->u.seq.cap > seq->u.seq.n + n ? 2 * seq->u.seq.cap : seq->u.seq.n + n;
    hr_pk **items = hr_pickle_alloc(p, cap * sizeof(hr_pk *), err);
    if (!items)
        return false;
    if (seq->u.seq.n)
        memcpy(items, seq->u.seq.item, seq->u.seq.n * sizeof *items);
    seq->u.seq.item = items;
    seq->u.seq.cap = cap;
    return true;
}

bool hr_pickle_append(hr_pickle *p, hr_pk *seq, hr_pk *item, hr_err *err)
{
    TRY(make_room(p, seq, 1, err));
    seq->u.seq.item[seq->u.seq.n++] = item;
    if (item->depth >= seq->depth)
        seq->depth = (unsigned char)(item->depth + 1);
    if (seq->depth <= HR_PICKLE_DEPTH)
        return true;
    hr_fail(err, HR_EFORMAT, "%s: its pickle nests deeper than %d", p->where, HR_PICKLE_DEPTH);
    return false;
}

const char *hr_pickle_where(const hr_pickle *p)
{
    return p->where;
}

/* ---- input -------------------------------------------------------------------------------------------- */

/* The next n bytes, or NULL with err set. */
static const char *take(hr_pickle *p, uint64_t n)
{
    if (n > (uint64_t)(p->end - p->at)) {
        p->more = true;
        BAD("is cut short at byte %zu", (size_t)(p->at - p->begin));
        return NULL;
    }
    const char *got = p->at;
    p->at += n;
    return got;
}

/* A line without its newline. */
static const char *take_line(hr_pickle *p, size_t *n)
{
    const char *stop = memchr(p->at, '\n', (size_t)(p->end - p->at));
    if (!stop) {
        p->at = p->end;
        return take(p, 1);
    }
    const char *got = p->at;
    *n = (size_t)(stop - got);
    p->at = stop + 1;
    return got;
}

/* An unsigned little-endian number of n bytes. */
static bool take_number(hr_pickle *p, unsigned n, uint64_t *v)
{
    const char *b = take(p, n);
    TRY(b);
    *v = 0;
    for (unsigned i = 0; i < n; i++)
        *v |= (uint64_t)(unsigned char)b[i] << 8 * i;
    return true;
}

/* A line that is a number, maybe with Python 2's L behind it. False, without an error, when it is none. */
static bool number_of(const char *s, size_t n, int64_t *v)
{
    char text[32];
    if (n > 0 && s[n - 1] == 'L')
        n--;
    if (n == 0 || n >= sizeof text)
        return false;
    memcpy(text, s, n);
    text[n] = '\0';
    return hr_parse_int(text, v);
}

/* ---- the stack ---------------------------------------------------------------------------------------- */

static bool push(hr_pickle *p, hr_pk *v)
{
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 256;
        p->stack = hr_xrealloc(p->stack, p->cap * sizeof(hr_pk *));
    }
    p->stack[p->n++] = v;
    return true;
}

static hr_pk *push_new(hr_pickle *p, enum hr_pk_type type)
{
    hr_pk *v = hr_pickle_value(p, type, p->err);
    return v && push(p, v) ? v : NULL;
}

static bool push_int(hr_pickle *p, enum hr_pk_type type, int64_t i)
{
    hr_pk *v = push_new(p, type);
    TRY(v);
    v->u.i = i;
    return true;
}

static bool push_str(hr_pickle *p, enum hr_pk_type type, const char *s, size_t n)
{
    hr_pk *v = push_new(p, type);
    TRY(v);
    v->u.str.s = s;
    v->u.str.n = n;
    return true;
}

/* The value below the top by `below`, or NULL with err set where a mark or nothing is. */
static hr_pk *peek(hr_pickle *p, size_t below)
{
    hr_pk *v = p->n > below ? p->stack[p->n - 1 - below] : NULL;
    if (!v)
        BAD("takes from an empty stack at byte %zu", (size_t)(p->at - p->begin));
    return v;
}

static hr_pk *pop(hr_pickle *p)
{
    hr_pk *v = peek(p, 0);
    if (v)
        p->n--;
    return v;
}

static bool push_mark(hr_pickle *p)
{
    if (p->marks == HR_PICKLE_DEPTH) {
        BAD("nests deeper than %d", HR_PICKLE_DEPTH);
        return false;
    }
    p->marks++;
    return push(p, NULL);
}

/* Where the values above the newest mark begin. */
static bool find_mark(hr_pickle *p, size_t *first)
{
    size_t i = p->n;
    while (i > 0 && p->stack[i - 1])
        i--;
    if (i == 0) {
        BAD("ends a group that did not begin, at byte %zu", (size_t)(p->at - p->begin));
        return false;
    }
    *first = i;
    return true;
}

/* Take the values from stack[first] on, and the mark below them when there is one, from the stack; append
 * them to seq. */
static bool gather(hr_pickle *p, hr_pk *seq, size_t first, bool mark)
{
    TRY(make_room(p, seq, p->n - first, p->err));
    for (size_t i = first; i < p->n; i++)
        TRY(hr_pickle_append(p, seq, p->stack[i], p->err));
    p->n = mark ? first - 1 : first;
    p->marks -= mark;
    return true;
}

/* A new sequence of what is above the mark, in its place. */
static bool group(hr_pickle *p, enum hr_pk_type type)
{
    size_t first;
    TRY(find_mark(p, &first));
    hr_pk *v = hr_pickle_value(p, type, p->err);
    TRY(v && gather(p, v, first, true));
    if (type == HR_PK_DICT && v->u.seq.n % 2) {
        BAD("has a dict with a key but no value at byte %zu", (size_t)(p->at - p->begin));
        return false;
    }
    return push(p, v);
}

/* Tuples of 1 to 3 without a mark. */
static bool tuple(hr_pickle *p, size_t n)
{
    hr_pk *v = hr_pickle_value(p, HR_PK_TUPLE, p->err);
    for (size_t i = 0; i < n; i++)
        TRY(peek(p, i));
    TRY(v && gather(p, v, p->n - n, false));
    return push(p, v);
}

/* Add the values from stack[first] on to the list or dict below. An unknown object swallows them. */
static bool extend(hr_pickle *p, size_t first, bool mark, enum hr_pk_type type)
{
    size_t below = mark ? 2 : 1;
    hr_pk *v = first >= below ? p->stack[first - below] : NULL;
    if (v && v->type == HR_PK_OBJECT) {
        p->n = mark ? first - 1 : first;
        p->marks -= mark;
        return true;
    }
    if (!v || v->type != type || (type == HR_PK_DICT && (p->n - first) % 2)) {
        BAD("adds to %s as if it were %s at byte %zu", v ? hr_pk_names[v->type] : "nothing",
            hr_pk_names[type], (size_t)(p->at - p->begin));
        return false;
    }
    return gather(p, v, first, mark);
}

static bool extend_marked(hr_pickle *p, enum hr_pk_type type)
{
    size_t first;
    return find_mark(p, &first) && extend(p, first, true, type);
}

static bool extend_by(hr_pickle *p, size_t n, enum hr_pk_type type)
{
    for (size_t i = 0; i < n; i++)
        TRY(peek(p, i));
    return extend(p, p->n - n, false, type);
}

/* ---- the memo ----------------------------------------------------------------------------------------- */

static bool memo_put(hr_pickle *p, uint64_t i)
{
    hr_pk *v = peek(p, 0);
    TRY(v);
    if (i >= (uint64_t)(p->end - p->begin)) {
        BAD("has memo number %llu in %zu bytes", (unsigned long long)i, (size_t)(p->end - p->begin));
        return false;
    }
    if (i >= p->memos) {
        size_t cap = 2 * p->memos > i + 1 ? 2 * p->memos : (size_t)i + 1;
        size_t more = (cap - p->memos) * sizeof(hr_pk *);
        if (more > p->most - p->total) {
            BAD("makes more of its bytes than a checkpoint does, by memo number %llu", (unsigned long long)i);
            return false;
        }
        p->total += more;
        p->memo = hr_xrealloc(p->memo, cap * sizeof(hr_pk *));
        memset(p->memo + p->memos, 0, (cap - p->memos) * sizeof(hr_pk *));
        p->memos = cap;
    }
    p->memo[i] = v;
    return true;
}

static bool memo_get(hr_pickle *p, uint64_t i)
{
    if (i >= p->memos || !p->memo[i]) {
        BAD("asks for memo number %llu, which was never put", (unsigned long long)i);
        return false;
    }
    return push(p, p->memo[i]);
}

static bool memo_line(hr_pickle *p, bool (*act)(hr_pickle *, uint64_t))
{
    size_t n = 0;
    int64_t i;
    const char *s = take_line(p, &n);
    TRY(s);
    if (!number_of(s, n, &i) || i < 0) {
        BAD("has a memo number that is none at byte %zu", (size_t)(p->at - p->begin));
        return false;
    }
    return act(p, (uint64_t)i);
}

static bool memo_number(hr_pickle *p, unsigned bytes, bool (*act)(hr_pickle *, uint64_t))
{
    uint64_t i;
    return take_number(p, bytes, &i) && act(p, i);
}

/* ---- names -------------------------------------------------------------------------------------------- */

/* Names that no checkpoint has a use for and every attack has. Nothing would be run anyway; but whoever holds
 * such a file should know. A module stands for all below it; "builtins" are listed by name. getattr is how
 * Python itself writes methods and members of an Enum: OneCycleLR's anneal_func in a scheduler's state. */
static bool hostile(const char *name)
{
    static const char *const modules[] = {"os",        "posix",
                                          "nt",        "subprocess",
                                          "sys",       "importlib",
                                          "runpy",     "shutil",
                                          "socket",    "pty",
                                          "ctypes",    "code",
                                          "codeop",    "commands",
                                          "pickle",    "_pickle",
                                          "pdb",       "bdb",
                                          "timeit",    "webbrowser",
                                          "asyncio",   "threading",
                                          "signal",    "http",
                                          "urllib",    "marshal",
                                          "operator",  "cProfile",
                                          "pip",       "ssl",
                                          "requests",  "multiprocessing",
                                          "imp",       "_posixsubprocess",
                                          "builtins.", "__builtin__."};
    static const char *const harmless[] = {"set",     "frozenset", "slice",   "complex",        "int",
                                           "float",   "bool",      "list",    "dict",           "tuple",
                                           "str",     "bytes",     "unicode", "long",           "range",
                                           "xrange",  "bytearray", "object",  "NotImplemented", "Ellipsis",
                                           "getattr", "type",      "len",     "sorted",         "abs",
                                           "min",     "max",       "sum",     "round",          "print"};
    for (size_t i = 0; i < HR_COUNT(modules); i++) {
        size_t n = strlen(modules[i]);
        if (strncmp(name, modules[i], n) != 0)
            continue;
        if (modules[i][n - 1] != '.') {
            if (name[n] == '.')
                return true;
            continue;
        }
        for (size_t k = 0; k < HR_COUNT(harmless); k++)
            if (strcmp(name + n, harmless[k]) == 0)
                return false;
        return true;
    }
    return false;
}

static bool push_global(hr_pickle *p, enum hr_pk_type type, const char *module, size_t nm, const char *name,
                        size_t nn)
{
    enum { LONGEST = 200 };
    bool fits = nm > 0 && nn > 0 && nm + nn < LONGEST;
    for (size_t i = 0; fits && i < nm; i++)
        fits = isgraph((unsigned char)module[i]);
    for (size_t i = 0; fits && i < nn; i++)
        fits = isgraph((unsigned char)name[i]);
    if (!fits) {
        BAD("has a name that is none at byte %zu", (size_t)(p->at - p->begin));
        return false;
    }
    char *full = hr_pickle_alloc(p, nm + nn + 2, p->err);
    TRY(full);
    memcpy(full, module, nm);
    full[nm] = '.';
    memcpy(full + nm + 1, name, nn);
    if (hostile(full)) {
        BAD("names %s, which only an attack does; nothing was run", full);
        return false;
    }
    if (p->hooks->name)
        TRY(p->hooks->name(p->hooks->ctx, p, full, p->err));
    return push_str(p, type, full, nm + nn + 1);
}

static bool global_lines(hr_pickle *p)
{
    size_t nm = 0, nn = 0;
    const char *module = take_line(p, &nm), *name = module ? take_line(p, &nn) : NULL;
    return name && push_global(p, HR_PK_GLOBAL, module, nm, name, nn);
}

static bool global_stack(hr_pickle *p)
{
    hr_pk *name = pop(p), *module = name ? pop(p) : NULL;
    TRY(module);
    if (name->type != HR_PK_STR || module->type != HR_PK_STR) {
        BAD("names a class by %s and %s", hr_pk_names[module->type], hr_pk_names[name->type]);
        return false;
    }
    return push_global(p, HR_PK_GLOBAL, module->u.str.s, module->u.str.n, name->u.str.s, name->u.str.n);
}

/* Replace function and arguments, which the caller took from the stack, by the result. */
static bool call(hr_pickle *p, const hr_pk *function, const hr_pk *args)
{
    TRY(function && args);
    if ((function->type != HR_PK_GLOBAL && function->type != HR_PK_OBJECT) || args->type != HR_PK_TUPLE) {
        BAD("calls %s with %s at byte %zu", hr_pk_names[function->type], hr_pk_names[args->type],
            (size_t)(p->at - p->begin));
        return false;
    }
    hr_pk *v = p->hooks->call(p->hooks->ctx, p, function, args, p->err);
    return v && push(p, v);
}

static bool reduce(hr_pickle *p, size_t args)
{
    for (size_t i = 1; i < args; i++) /* NEWOBJ_EX: keywords */
        TRY(pop(p));
    hr_pk *tuple_ = pop(p), *function = tuple_ ? pop(p) : NULL;
    return call(p, function, tuple_);
}

/* Protocol 0 and 1: a class and its arguments above a mark; the class may be named in the program (INST). */
static bool instance(hr_pickle *p, bool named)
{
    size_t first;
    if (named) {
        TRY(global_lines(p));
    } else {
        TRY(find_mark(p, &first));
        if (first == p->n)
            return peek(p, 0) != NULL;
        push(p, p->stack[first]);
        memmove(p->stack + first, p->stack + first + 1, (p->n - 1 - first) * sizeof(hr_pk *));
        p->n--;
    }
    hr_pk *function = pop(p);
    TRY(function && group(p, HR_PK_TUPLE));
    return call(p, function, pop(p));
}

static bool persistent(hr_pickle *p, const hr_pk *id)
{
    TRY(id);
    if (!p->hooks->persistent) {
        BAD("has a persistent id at byte %zu", (size_t)(p->at - p->begin));
        return false;
    }
    hr_pk *v = p->hooks->persistent(p->hooks->ctx, p, id, p->err);
    return v && push(p, v);
}

/* ---- numbers and strings ------------------------------------------------------------------------------ */

static bool push_long(hr_pickle *p, unsigned bytes_of_length)
{
    uint64_t n;
    TRY(take_number(p, bytes_of_length, &n));
    const char *b = take(p, n);
    TRY(b);
    if (n > 8)
        return push_str(p, HR_PK_BIG, b, (size_t)n);
    uint64_t v = n > 0 && (b[n - 1] & 0x80) ? ~UINT64_C(0) : 0;
    for (size_t i = (size_t)n; i > 0; i--)
        v = v << 8 | (unsigned char)b[i - 1];
    return push_int(p, HR_PK_INT, (int64_t)v);
}

static bool push_int_line(hr_pickle *p)
{
    size_t n = 0;
    int64_t v;
    const char *s = take_line(p, &n);
    TRY(s);
    if (n == 2 && s[0] == '0' && (s[1] == '0' || s[1] == '1'))
        return push_int(p, HR_PK_BOOL, s[1] - '0');
    return number_of(s, n, &v) ? push_int(p, HR_PK_INT, v) : push_str(p, HR_PK_BIG, s, n);
}

static bool push_float(hr_pickle *p, double f)
{
    hr_pk *v = push_new(p, HR_PK_FLOAT);
    TRY(v);
    v->u.f = f;
    return true;
}

static bool push_float_line(hr_pickle *p)
{
    char text[64], *end;
    size_t n = 0;
    const char *s = take_line(p, &n);
    TRY(s);
    if (n > 0 && n < sizeof text) {
        memcpy(text, s, n);
        text[n] = '\0';
        double f = strtod(text, &end);
        if (*end == '\0')
            return push_float(p, f);
    }
    BAD("has a float that is none at byte %zu", (size_t)(p->at - p->begin));
    return false;
}

static bool push_float_bytes(hr_pickle *p)
{
    const char *b = take(p, 8);
    TRY(b);
    uint64_t bits = 0;
    double f;
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | (unsigned char)b[i];
    memcpy(&f, &bits, sizeof f);
    return push_float(p, f);
}

static bool push_bytes(hr_pickle *p, unsigned bytes_of_length)
{
    uint64_t n;
    TRY(take_number(p, bytes_of_length, &n));
    const char *b = take(p, n);
    return b && push_str(p, HR_PK_STR, b, (size_t)n);
}

/* Protocol 0: a string in quotes. Escapes stay as they are: names of tensors have none. */
static bool push_quoted(hr_pickle *p)
{
    size_t n = 0;
    const char *s = take_line(p, &n);
    TRY(s);
    if (n < 2 || (s[0] != '\'' && s[0] != '"') || s[n - 1] != s[0]) {
        BAD("has a string without quotes at byte %zu", (size_t)(p->at - p->begin));
        return false;
    }
    return push_str(p, HR_PK_STR, s + 1, n - 2);
}

static bool push_line(hr_pickle *p)
{
    size_t n = 0;
    const char *s = take_line(p, &n);
    return s && push_str(p, HR_PK_STR, s, n);
}

static bool begin_protocol(hr_pickle *p)
{
    uint64_t v;
    TRY(take_number(p, 1, &v));
    if (v <= 5)
        return true;
    BAD("is of protocol %d, up to 5 are known", (int)v);
    return false;
}

static bool build(hr_pickle *p)
{
    hr_pk *state = pop(p), *object = state ? peek(p, 0) : NULL;
    TRY(object);
    return !p->hooks->state || p->hooks->state(p->hooks->ctx, p, object, state, p->err);
}

static bool pop_mark(hr_pickle *p)
{
    size_t first;
    TRY(find_mark(p, &first));
    p->n = first - 1;
    p->marks--;
    return true;
}

static bool drop(hr_pickle *p)
{
    if (p->n > 0 && !p->stack[p->n - 1])
        return pop_mark(p);
    return pop(p) != NULL;
}

static bool set_of(hr_pickle *p)
{
    return group(p, HR_PK_LIST);
}

static bool frame(hr_pickle *p)
{
    uint64_t n; /* a hint for buffering */
    return take_number(p, 8, &n);
}

static bool push_int_bytes(hr_pickle *p, unsigned n)
{
    uint64_t v;
    TRY(take_number(p, n, &v));
    return push_int(p, HR_PK_INT, n == 4 ? (int64_t)(int32_t)v : (int64_t)v);
}

static bool duplicate(hr_pickle *p)
{
    hr_pk *v = peek(p, 0);
    return v && push(p, v);
}

static bool memoize(hr_pickle *p)
{
    return memo_put(p, p->memo_next++);
}

static bool step(hr_pickle *p, unsigned char op)
{
    switch (op) {
    case 0x80:
        return begin_protocol(p);
    case 0x95:
        return frame(p);
    case '(':
        return push_mark(p);
    case '0':
        return drop(p);
    case '1':
        return pop_mark(p);
    case '2':
        return duplicate(p);
    case 'N':
        return push_new(p, HR_PK_NONE) != NULL;
    case 0x88:
    case 0x89:
        return push_int(p, HR_PK_BOOL, op == 0x88);
    case 'I':
    case 'L':
        return push_int_line(p);
    case 'J':
        return push_int_bytes(p, 4);
    case 'K':
        return push_int_bytes(p, 1);
    case 'M':
        return push_int_bytes(p, 2);
    case 0x8a:
        return push_long(p, 1);
    case 0x8b:
        return push_long(p, 4);
    case 'F':
        return push_float_line(p);
    case 'G':
        return push_float_bytes(p);
    case 'S':
        return push_quoted(p);
    case 'V':
        return push_line(p);
    case 'U':
    case 'C':
    case 0x8c:
        return push_bytes(p, 1);
    case 'T':
    case 'B':
    case 'X':
        return push_bytes(p, 4);
    case 0x8d:
    case 0x8e:
    case 0x96:
        return push_bytes(p, 8);
    case ')':
        return push_new(p, HR_PK_TUPLE) != NULL;
    case ']':
    case 0x8f:
        return push_new(p, HR_PK_LIST) != NULL;
    case '}':
        return push_new(p, HR_PK_DICT) != NULL;
    case 't':
        return group(p, HR_PK_TUPLE);
    case 'l':
        return group(p, HR_PK_LIST);
    case 'd':
        return group(p, HR_PK_DICT);
    case 0x91:
        return set_of(p);
    case 0x85:
    case 0x86:
    case 0x87:
        return tuple(p, op - 0x84u);
    case 'a':
        return extend_by(p, 1, HR_PK_LIST);
    case 's':
        return extend_by(p, 2, HR_PK_DICT);
    case 'e':
    case 0x90:
        return extend_marked(p, HR_PK_LIST);
    case 'u':
        return extend_marked(p, HR_PK_DICT);
    case 'p':
        return memo_line(p, memo_put);
    case 'q':
        return memo_number(p, 1, memo_put);
    case 'r':
        return memo_number(p, 4, memo_put);
    case 0x94:
        return memoize(p);
    case 'g':
        return memo_line(p, memo_get);
    case 'h':
        return memo_number(p, 1, memo_get);
    case 'j':
        return memo_number(p, 4, memo_get);
    case 'c':
        return global_lines(p);
    case 0x93:
        return global_stack(p);
    case 'R':
    case 0x81:
        return reduce(p, 1);
    case 0x92:
        return reduce(p, 2);
    case 'i':
        return instance(p, true);
    case 'o':
        return instance(p, false);
    case 'b':
        return build(p);
    case 'P':
        return push_line(p) && persistent(p, pop(p));
    case 'Q':
        return persistent(p, pop(p));
    default:
        BAD("has the byte 0x%02x for an opcode at byte %zu", op, (size_t)(p->at - 1 - p->begin));
        return false;
    }
}

static hr_pk *run(hr_pickle *p)
{
    for (;;) {
        const char *op = take(p, 1);
        if (!op)
            return NULL;
        if (*op == '.')
            return pop(p);
        if (!step(p, (unsigned char)*op))
            return NULL;
    }
}

hr_pickle *hr_pickle_run(const char *bytes, size_t n, const hr_pickle_hooks *hooks, const char *where,
                         hr_pk **root, size_t *used, bool *more, hr_err *err)
{
    *more = false;
    size_t max = hooks->max ? hooks->max : HR_PICKLE_MAX;
    n = n < max ? n : max;
    hr_pickle *p = hr_xcalloc(1, sizeof *p);
    hr_err own = HR_ERR_INIT;
    if (!err)
        err = &own;
    p->begin = p->at = bytes;
    p->end = bytes + n;
    p->where = where;
    p->err = err;
    p->hooks = hooks;
    p->most = (size_t)HR_PICKLE_GROWTH * n + (1 << 16);
    if (p->most > HR_PICKLE_MEMORY)
        p->most = HR_PICKLE_MEMORY;
    *root = run(p);
    *more = p->more;
    if (used)
        *used = (size_t)(p->at - p->begin);
    if (!*root) {
        hr_pickle_free(p);
        return NULL;
    }
    return p;
}

void hr_pickle_free(hr_pickle *p)
{
    if (!p)
        return;
    while (p->blocks) {
        struct block *b = p->blocks;
        p->blocks = b->next;
        free(b);
    }
    free(p->stack);
    free(p->memo);
    free(p);
}

/* ---- looking at values -------------------------------------------------------------------------------- */

bool hr_pk_is_str(const hr_pk *v, const char *s)
{
    return v && v->type == HR_PK_STR && v->u.str.n == strlen(s) && memcmp(v->u.str.s, s, v->u.str.n) == 0;
}

const hr_pk *hr_pk_get(const hr_pk *d, const char *key)
{
    if (!d || d->type != HR_PK_DICT)
        return NULL;
    for (size_t i = d->u.seq.n; i > 0; i -= 2)
        if (hr_pk_is_str(d->u.seq.item[i - 2], key))
            return d->u.seq.item[i - 1];
    return NULL;
}
