/* lib/compute/cpu/crew.h -- what exec.c and dw.c share: where a step's values are, who does what in a pass
 * over a whole batch, and the clock of --profile. */
#ifndef HR_COMPUTE_CPU_CREW_H
#define HR_COMPUTE_CPU_CREW_H

#include "compute/cpu/plan.h"

#include <omp.h>

/* ---- profile ---------------------------------------------------------------------------------------------
 */

static inline double clock_of(const hr_exec *e)
{
    return e->work ? hr_seconds() : 0;
}

/* What this thread did in step s since *from; the next piece of work starts now. */
static inline void clocked(hr_exec *e, const hr_step *s, enum hr_pass pass, double macs, double *from)
{
    if (!e->work)
        return;
    double now = hr_seconds();
    size_t row = (size_t)omp_get_thread_num() * (size_t)e->nsteps + (size_t)(s - e->steps);
    hr_work *w = &e->work[row * HR_PASS_KINDS + pass];
    w->seconds += now - *from;
    w->macs += macs;
    *from = now;
}

/* ---- values ----------------------------------------------------------------------------------------------
 */

/* Values of a step from sample n on, up to the end of the task that n belongs to. */
static inline float *at(const hr_step *s, float *first, size_t step, int n)
{
    return first + (size_t)(n / s->task) * step + (size_t)(n % s->task) * s->len;
}

static inline float *y_of(const hr_step *s, int n)
{
    return at(s, s->y, s->y_step, n);
}

static inline float *z_of(const hr_step *s, int n)
{
    return s->z ? at(s, s->z, s->z_step, n) : NULL;
}

static inline float *g_of(const hr_step *s, int n)
{
    return at(s, s->g, s->g_step, n);
}

static inline double *part_of(const hr_step *s, int q, int which)
{
    return s->part + ((size_t)q * 3 + (size_t)which) * (size_t)s->c;
}

static inline size_t pixels(const hr_step *s)
{
    return (size_t)s->h * (size_t)s->w;
}

/* ---- samples and threads ---------------------------------------------------------------------------------
 */

/* Samples of the chunk that begins at n and ends by n1. */
static inline int chunk_at(const hr_exec *e, int n, int n1)
{
    return n1 - n < e->chunk ? n1 - n : e->chunk;
}

/* One thread's view of a whole-batch pass. */
typedef struct crew {
    int thread, threads, n, chunks;
    int begin, end; /* this thread's own samples */
    enum hr_bn_mode mode;
} crew;

/* This thread's share [lo,hi) of n things that any thread may do. */
static inline void share(const crew *w, int n, int *lo, int *hi)
{
    *lo = (int)((int64_t)n * w->thread / w->threads);
    *hi = (int)((int64_t)n * (w->thread + 1) / w->threads);
}

/* ---- dw.c: gradients to the parameters of a convolution ---------------------------------------------------
 */

/* The chunks' sums number `which` of channel c, added up in the fixed tree. */
double hr_merge_sums(const hr_step *s, const crew *w, int which, int c);
/* The part of the thread whose samples are [n0, n0+ns), behind the gradients g of step s. */
void hr_dw_begin(hr_exec *e, hr_step *s, int n0, int ns, void *scratch);
/* The part of all threads together, behind a barrier: e->grads of the weights and the bias. */
void hr_dw_finish(hr_exec *e, hr_step *s, const crew *w);

#endif
