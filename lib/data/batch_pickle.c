/* lib/data/batch_pickle.c -- one batch of CIFAR-10's Python version: a pickle, read without running anything.
 *
 * A pickle is a program for a stack machine (Python's Lib/pickletools.py describes every instruction). The
 * batches were written by Python 2's cPickle under protocol 2 and hold
 *
 *     {"batch_label": str, "labels": [int, ...], "data": numpy array (n, 3072) of uint8, "filenames": [str,
 * ...]}
 *
 * and an array is a call of numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), "b") whose result gets
 * the state (1, (n, 3072), dtype, fortran order?, str of the bytes), the dtype being a call of
 * numpy.dtype("u1", 0, 1) with a state of its own. The machine below knows the instructions that
 * dictionaries, lists, tuples, strings and whole numbers need, in Python 2's and in later spellings. A name
 * that a pickle asks for is looked up in a list of four and never called: a call becomes an object that
 * remembers name, arguments and state. Bytes stay where they are. Every value is a node of fixed size; how
 * many there may be is bounded, whatever the pickle says, and nothing here recurses. */
#include "data/internal.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VALUES = 1 << 20, FIRST_SLAB = 1 << 10, SLABS = 12 };

enum kind { NONE, MARK, INT, BYTES, TUPLE, LIST, DICT, NAME, OBJECT };
static const char *const kind_names[] = {"None",   "a mark", "a number", "a string", "a tuple",
                                         "a list", "a dict", "a name",   "an object"};

typedef struct value value;
struct value {
    enum kind kind;
    int64_t number;       /* INT; NAME: its place in the list of names */
    const uint8_t *bytes; /* BYTES: borrowed from the pickle */
    size_t n;             /* BYTES: length; TUPLE, LIST, DICT: number of items (keys and values in turns) */
    size_t cap;
    value **items;
    value *callee, *args, *state; /* OBJECT */
};

/* Values live in slabs of doubling size, so that their addresses stay. */
typedef struct machine {
    const uint8_t *p;
    size_t n, at;
    const char *where;
    value *slab[SLABS];
    size_t values;
    value **stack, **memo;
    size_t depth, stack_cap, memos, memo_cap;
    hr_err *err;
} machine;

static int fail(machine *m, const char *fmt, ...) HR_PRINTF(2, 3);
static int fail(machine *m, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return hr_fail(m->err, HR_EFORMAT, "%s: pickle, byte %zu: %s", m->where, m->at, text);
}

static value *new_value(machine *m, enum kind kind)
{
    size_t slab = 0, first = 0, size = FIRST_SLAB;
    while (m->values >= first + size) {
        first += size;
        size *= 2;
        slab++;
    }
    if (slab == SLABS || m->values == MAX_VALUES) {
        fail(m, "more than %d values", MAX_VALUES);
        return NULL;
    }
    if (!m->slab[slab])
        m->slab[slab] = hr_xcalloc(size, sizeof *m->slab[slab]);
    value *v = &m->slab[slab][m->values++ - first];
    v->kind = kind;
    return v;
}

static int push(machine *m, value *v)
{
    if (!v)
        return HR_EFORMAT;
    if (m->depth == m->stack_cap) {
        if (m->depth == MAX_VALUES)
            return fail(m, "a stack of more than %d values", MAX_VALUES);
        m->stack_cap = m->stack_cap ? 2 * m->stack_cap : 64;
        m->stack = hr_xrealloc(m->stack, m->stack_cap * sizeof *m->stack);
    }
    m->stack[m->depth++] = v;
    return HR_OK;
}

static int push_int(machine *m, int64_t number)
{
    value *v = new_value(m, INT);
    if (v)
        v->number = number;
    return push(m, v);
}

/* The topmost value, which must be of this kind (NONE: of any but a mark). */
static int pop(machine *m, enum kind kind, value **v)
{
    if (m->depth == 0)
        return fail(m, "the stack is empty");
    *v = m->stack[m->depth - 1];
    if (kind == NONE ? (*v)->kind == MARK : (*v)->kind != kind)
        return fail(m, "%s where %s is needed", kind_names[(*v)->kind],
                    kind == NONE ? "a value" : kind_names[kind]);
    m->depth--;
    return HR_OK;
}

static void append(value *to, value *item)
{
    if (to->n == to->cap) {
        to->cap = to->cap ? 2 * to->cap : 4;
        to->items = hr_xrealloc(to->items, to->cap * sizeof *to->items);
    }
    to->items[to->n++] = item;
}

/* Move what lies above the topmost mark into the value `to`, and take the mark off. */
static int collect(machine *m, value *to)
{
    size_t mark = m->depth;
    while (mark > 0 && m->stack[mark - 1]->kind != MARK)
        mark--;
    if (mark == 0)
        return fail(m, "no mark on the stack");
    for (size_t i = mark; i < m->depth; i++)
        append(to, m->stack[i]);
    m->depth = mark - 1;
    return HR_OK;
}

/* The container under the topmost mark (marked) or under the `above` topmost values. */
static int container(machine *m, bool marked, size_t above, enum kind kind, value **to)
{
    size_t at = m->depth;
    if (marked) {
        while (at > 0 && m->stack[at - 1]->kind != MARK)
            at--;
        above = m->depth - at + 1;
    }
    if (m->depth <= above)
        return fail(m, "the stack is empty");
    *to = m->stack[m->depth - above - 1];
    if ((*to)->kind != kind)
        return fail(m, "%s where %s is needed", kind_names[(*to)->kind], kind_names[kind]);
    return HR_OK;
}

static int take_le(machine *m, int bytes, uint64_t *v)
{
    if (m->n - m->at < (size_t)bytes)
        return fail(m, "cut short");
    *v = 0;
    for (int i = 0; i < bytes; i++)
        *v |= (uint64_t)m->p[m->at + (size_t)i] << (8 * i);
    m->at += (size_t)bytes;
    return HR_OK;
}

static int push_bytes(machine *m, int length_bytes)
{
    uint64_t n;
    if (take_le(m, length_bytes, &n))
        return HR_EFORMAT;
    if (n > m->n - m->at)
        return fail(m, "a string of %llu bytes, %zu are left", (unsigned long long)n, m->n - m->at);
    value *v = new_value(m, BYTES);
    if (v) {
        v->bytes = m->p + m->at;
        v->n = (size_t)n;
        m->at += (size_t)n;
    }
    return push(m, v);
}

/* What a batch may name; nothing of it is ever run. */
enum { RECONSTRUCT, RECONSTRUCT_2, NDARRAY, DTYPE, NAMES };
static const char *const names[NAMES] = {"numpy.core.multiarray\n_reconstruct\n",
                                         "numpy._core.multiarray\n_reconstruct\n", "numpy\nndarray\n",
                                         "numpy\ndtype\n"};

static int push_name(machine *m)
{
    for (int i = 0; i < NAMES; i++) {
        size_t n = strlen(names[i]);
        if (m->n - m->at < n || memcmp(m->p + m->at, names[i], n) != 0)
            continue;
        value *v = new_value(m, NAME);
        if (v)
            v->number = i;
        m->at += n;
        return push(m, v);
    }
    char asked[60]; /* "module.name" */
    size_t n = 0, lines = 0;
    for (size_t i = m->at; i < m->n && n < sizeof asked - 1 && lines < 2; i++) {
        lines += m->p[i] == '\n';
        if (lines < 2)
            asked[n++] = m->p[i] == '\n' ? '.' : m->p[i] < 127 ? (char)m->p[i] : '?';
    }
    asked[n] = '\0';
    return fail(m, "asks for %s: only numpy's arrays are read", asked);
}

static int put(machine *m, uint64_t at)
{
    if (m->depth == 0)
        return fail(m, "the stack is empty");
    if (at >= MAX_VALUES)
        return fail(m, "memo entry %llu, below %d is allowed", (unsigned long long)at, MAX_VALUES);
    if (at >= m->memo_cap) {
        size_t cap = m->memo_cap ? m->memo_cap : 64;
        while (cap <= at)
            cap *= 2;
        m->memo = hr_xrealloc(m->memo, cap * sizeof *m->memo);
        memset(m->memo + m->memo_cap, 0, (cap - m->memo_cap) * sizeof *m->memo);
        m->memo_cap = cap;
    }
    m->memo[at] = m->stack[m->depth - 1];
    m->memos++;
    return HR_OK;
}

static int get(machine *m, uint64_t at)
{
    if (at >= m->memo_cap || !m->memo[at])
        return fail(m, "memo entry %llu was never stored", (unsigned long long)at);
    return push(m, m->memo[at]);
}

static int push_tuple(machine *m, size_t n)
{
    value *t = new_value(m, TUPLE);
    if (!t)
        return HR_EFORMAT;
    if (m->depth < n)
        return fail(m, "the stack is empty");
    for (size_t i = m->depth - n; i < m->depth; i++)
        append(t, m->stack[i]);
    m->depth -= n;
    return push(m, t);
}

static int reduce(machine *m)
{
    value *args, *callee, *o;
    if (pop(m, TUPLE, &args) || pop(m, NAME, &callee))
        return HR_EFORMAT;
    if ((o = new_value(m, OBJECT))) {
        o->callee = callee;
        o->args = args;
    }
    return push(m, o);
}

static int build(machine *m)
{
    value *state, *o;
    if (pop(m, TUPLE, &state) || container(m, false, 0, OBJECT, &o))
        return HR_EFORMAT;
    o->state = state;
    return HR_OK;
}

/* APPEND, APPENDS, SETITEM, SETITEMS */
static int extend(machine *m, enum kind kind, bool marked, size_t items)
{
    value *to;
    if (container(m, marked, items, kind, &to))
        return HR_EFORMAT;
    if (marked)
        return collect(m, to);
    for (size_t i = m->depth - items; i < m->depth; i++)
        append(to, m->stack[i]);
    m->depth -= items;
    return HR_OK;
}

static int step(machine *m, uint8_t op)
{
    uint64_t v = 0;
    value *t;
    switch (op) {
    case 0x80: /* PROTO */
        return take_le(m, 1, &v) ? HR_EFORMAT : v > 5 ? fail(m, "protocol %d", (int)v) : HR_OK;
    case 0x95: /* FRAME */
        return take_le(m, 8, &v);
    case '(':
        return push(m, new_value(m, MARK));
    case '}':
        return push(m, new_value(m, DICT));
    case ']':
        return push(m, new_value(m, LIST));
    case ')':
        return push(m, new_value(m, TUPLE));
    case 'N':
        return push(m, new_value(m, NONE));
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push_int(m, op == 0x88);
    case 'K':
    case 'M':
        return take_le(m, op == 'K' ? 1 : 2, &v) ? HR_EFORMAT : push_int(m, (int64_t)v);
    case 'J':
        return take_le(m, 4, &v) ? HR_EFORMAT : push_int(m, (int32_t)(uint32_t)v);
    case 'U':
    case 'C':
    case 0x8c: /* SHORT_BINUNICODE */
        return push_bytes(m, 1);
    case 'T':
    case 'B':
    case 'X':
        return push_bytes(m, 4);
    case 'q':
    case 'r':
        return take_le(m, op == 'q' ? 1 : 4, &v) ? HR_EFORMAT : put(m, v);
    case 0x94: /* MEMOIZE */
        return put(m, m->memos);
    case 'h':
    case 'j':
        return take_le(m, op == 'h' ? 1 : 4, &v) ? HR_EFORMAT : get(m, v);
    case 'a':
        return extend(m, LIST, false, 1);
    case 'e':
        return extend(m, LIST, true, 0);
    case 's':
        return extend(m, DICT, false, 2);
    case 'u':
        return extend(m, DICT, true, 0);
    case 't':
        t = new_value(m, TUPLE);
        return !t || collect(m, t) ? HR_EFORMAT : push(m, t);
    case 0x85: /* TUPLE1 .. TUPLE3 */
    case 0x86:
    case 0x87:
        return push_tuple(m, op - 0x84u);
    case 'c':
        return push_name(m);
    case 'R':
        return reduce(m);
    case 'b':
        return build(m);
    default:
        return fail(m, "instruction %02x is not one that a CIFAR-10 batch has", op);
    }
}

/* Run the pickle; *root is what it leaves. */
static int run(machine *m, value **root)
{
    for (;;) {
        if (m->at == m->n)
            return fail(m, "cut short");
        uint8_t op = m->p[m->at++];
        if (op == '.')
            return pop(m, DICT, root);
        if (step(m, op))
            return HR_EFORMAT;
    }
}

static void release(machine *m)
{
    size_t size = FIRST_SLAB, left = m->values;
    for (int i = 0; i < SLABS && m->slab[i]; i++, size *= 2) {
        for (size_t k = 0; k < size && left > 0; k++, left--)
            free(m->slab[i][k].items);
        free(m->slab[i]);
    }
    free(m->stack);
    free(m->memo);
}

/* ---- what the values mean ------------------------------------------------------------------------------ */

static bool is_text(const value *v, const char *text)
{
    return v->kind == BYTES && v->n == strlen(text) && memcmp(v->bytes, text, v->n) == 0;
}

static const value *entry(const value *dict, const char *key)
{
    const value *found = NULL;
    for (size_t i = 0; i + 1 < dict->n; i += 2)
        if (is_text(dict->items[i], key))
            found = dict->items[i + 1];
    return found;
}

/* A numpy array (rows, columns) of uint8 in C order: its bytes, else NULL. */
static const value *array_bytes(const value *v, int64_t rows, int64_t columns)
{
    if (v->kind != OBJECT || v->callee->number > RECONSTRUCT_2 || !v->state || v->state->n != 5)
        return NULL;
    const value *shape = v->state->items[1], *dtype = v->state->items[2], *fortran = v->state->items[3],
                *bytes = v->state->items[4];
    bool shaped = shape->kind == TUPLE && shape->n == 2 && shape->items[0]->kind == INT &&
                  shape->items[0]->number == rows && shape->items[1]->kind == INT &&
                  shape->items[1]->number == columns;
    bool typed = dtype->kind == OBJECT && dtype->callee->number == DTYPE && dtype->args->n > 0 &&
                 is_text(dtype->args->items[0], "u1");
    bool ordered = fortran->kind == INT && fortran->number == 0;
    return shaped && typed && ordered && bytes->kind == BYTES ? bytes : NULL;
}

int hr_batch_pickle(const uint8_t *p, size_t n, const char *where, size_t image, const uint8_t **pixels,
                    int64_t **labels, uint32_t *count, hr_err *err)
{
    machine m = {.p = p, .n = n, .where = where, .err = err};
    value *root;
    *labels = NULL;
    int rc = run(&m, &root);
    const value *data = rc ? NULL : entry(root, "data"), *list = rc ? NULL : entry(root, "labels");
    if (rc == HR_OK && (!data || !list || list->kind != LIST))
        rc = hr_fail(err, HR_EFORMAT, "%s: has no 'data' or no list 'labels'", where);
    const value *bytes = data;
    if (rc == HR_OK && data->kind != BYTES)
        bytes = array_bytes(data, (int64_t)list->n, (int64_t)image);
    if (rc == HR_OK && (!bytes || list->n == 0 || bytes->n != list->n * image))
        rc = hr_fail(err, HR_EFORMAT,
                     "%s: 'data' is no array of uint8 with one row of %zu for each of %zu labels", where,
                     image, list->n);
    for (size_t i = 0; rc == HR_OK && i < list->n; i++)
        if (list->items[i]->kind != INT)
            rc = hr_fail(err, HR_EFORMAT, "%s: label %zu is %s, not a number", where, i,
                         kind_names[list->items[i]->kind]);
    if (rc == HR_OK) {
        *pixels = bytes->bytes;
        *count = (uint32_t)list->n;
        *labels = hr_xmalloc(list->n * sizeof **labels);
        for (size_t i = 0; i < list->n; i++)
            (*labels)[i] = list->items[i]->number;
    }
    release(&m);
    return rc;
}
