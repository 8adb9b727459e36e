/* lib/base/progress.c -- signals, the clock, and the progress line. */
#include "base/base.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_bool interrupted; /* lock-free: set by a signal handler, read by any thread */

static void on_signal(int sig)
{
    (void)sig;
    atomic_store_explicit(&interrupted, true, memory_order_relaxed);
}

void hr_signals_catch(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

bool hr_interrupted(void)
{
    return atomic_load_explicit(&interrupted, memory_order_relaxed);
}

double hr_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void hr_progress_start(hr_progress *p, const char *label, double total)
{
    double now = hr_seconds();
    *p = (hr_progress){.label = label ? label : "", .total = total, .start = now, .drawn = now};
    p->on = !hr_quiet() && isatty(STDERR_FILENO);
}

void hr_progress_at(hr_progress *p, double done, const char *note)
{
    double now = hr_seconds();
    if (!p->on || now - p->drawn < 0.1)
        return;
    p->drawn = now;
    double spent = now - p->start, rate = spent > 0 ? (done - p->before) / spent : 0;
    double left = rate > 0 ? (p->total - done) / rate : 0;
    enum { WIDTH = 24 };
    char bar[WIDTH + 1];
    int full = p->total > 0 ? (int)(WIDTH * done / p->total) : 0;
    for (int i = 0; i < WIDTH; i++)
        bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r%s [%s] %.0f/%.0f %.1f/s eta %.0f s%s%s\033[K", p->label, bar, done, p->total, rate,
            left, note ? "  " : "", note ? note : "");
}

void hr_progress_end(hr_progress *p)
{
    if (p->on)
        fputs("\r\033[K", stderr);
    p->on = false;
}
