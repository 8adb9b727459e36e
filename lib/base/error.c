/* lib/base/error.c -- errors, memory that never runs out quietly, growing buffers. */
#include "base/base.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int hr_fail(hr_err *err, int code, const char *fmt, ...)
{
    if (err) {
        static const char gap[] = " ... ";
        enum { HALF = (sizeof err->msg - sizeof gap) / 2 };
        char text[8192]; /* an argument may be a part of err->msg */
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        size_t n = strlen(text);
        if (n < sizeof err->msg)
            memcpy(err->msg, text, n + 1);
        else
            snprintf(err->msg, sizeof err->msg, "%.*s%s%s", (int)HALF, text, gap, text + n - HALF);
        /* Names come from files: keep the message on one line and the terminal unharmed. */
        for (char *p = err->msg; *p; p++)
            if (iscntrl((unsigned char)*p))
                *p = '?';
        err->code = code;
    }
    return code;
}

void hr_bug(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "BUG at %s:%d: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

static void *checked(void *p, size_t bytes)
{
    if (!p && bytes)
        hr_die("out of memory: %zu bytes asked for", bytes);
    return p;
}

void *hr_xmalloc(size_t bytes)
{
    return checked(malloc(bytes ? bytes : 1), bytes);
}

void *hr_xcalloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        hr_die("out of memory: %zu times %zu bytes asked for", n, size);
    return checked(calloc(n ? n : 1, size ? size : 1), bytes);
}

void *hr_xrealloc(void *p, size_t bytes)
{
    return checked(realloc(p, bytes ? bytes : 1), bytes);
}

char *hr_xstrdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(hr_xmalloc(n), s, n);
}

char *hr_xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        hr_die("out of memory for a string");
    return s;
}

/* Numeric work strides through its large blocks; with pages of 4 KB half of its time would be address
 * translation. Where the system gives huge pages on request, these are requested for what lies between the
 * block's ends. The block itself begins at no multiple of them: that would cost up to 2 MB more for each,
 * which no plan of memory knows. */
void *hr_aligned(size_t bytes)
{
    enum { PAGE = 4096, LARGE = 2 << 20 };
    void *p = NULL;
    bytes = bytes ? (bytes + 63) / 64 * 64 : 64;
    if (posix_memalign(&p, 64, bytes))
        return NULL;
#ifdef MADV_HUGEPAGE
    if (bytes >= LARGE) {
        uintptr_t from = ((uintptr_t)p + PAGE - 1) / PAGE * PAGE, to = ((uintptr_t)p + bytes) / PAGE * PAGE;
        madvise((void *)from, to - from, MADV_HUGEPAGE);
    }
#endif
    return memset(p, 0, bytes);
}

void *hr_xaligned(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - 64)
        hr_die("out of memory: %zu times %zu bytes asked for", n, size);
    return checked(hr_aligned(bytes), bytes);
}

static void buf_room(hr_buf *b, size_t extra)
{
    if (b->len + extra + 1 <= b->cap)
        return;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->len + extra + 1)
        cap *= 2;
    b->data = hr_xrealloc(b->data, cap);
    b->cap = cap;
}

void hr_buf_add(hr_buf *b, const void *bytes, size_t n)
{
    buf_room(b, n);
    if (n)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void hr_buf_printf(hr_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        BUG("format '%s'", fmt);
    buf_room(b, (size_t)n);
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void hr_buf_release(hr_buf *b)
{
    free(b->data);
    *b = (hr_buf){0};
}
