/* lib/compute/cpu/team.c -- threads that meet, and share out a layer's points; team.h says why. */
#include "compute/cpu/team.h"

#include "base/base.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

/* Looks at a flag before a waiting thread lies down: some 50 us. The others are mostly as far. */
enum { LOOKS = 1000 };

struct hr_team {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_uint round; /* meetings and pauses that are over */
    int members, here; /* here: wait for the end of this round */
    /* Of the meeting: where the first went, whether all went there, the tiles that they brought. */
    const hr_wino *where;
    bool same, agreed;
    int rows, all_rows, all;
    size_t len;
    float *room;
};

hr_team *hr_team_new(float *room, size_t len)
{
    hr_team *t = hr_xcalloc(1, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    t->len = len;
    t->room = room;
    return t;
}

void hr_team_free(hr_team *t)
{
    if (!t)
        return;
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->changed);
    free(t);
}

/* ---- waiting; the lock is held ------------------------------------------------------------------------- */

static void end_round(hr_team *t)
{
    t->here = 0;
    atomic_fetch_add(&t->round, 1);
    pthread_cond_broadcast(&t->changed);
}

static void await_round(hr_team *t)
{
    unsigned round = atomic_load(&t->round);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < LOOKS && atomic_load(&t->round) == round; i++) {
#if defined(__SSE__)
        _mm_pause();
#endif
    }
    pthread_mutex_lock(&t->lock);
    while (atomic_load(&t->round) == round)
        pthread_cond_wait(&t->changed, &t->lock);
}

/* ---- meetings ------------------------------------------------------------------------------------------ */

/* Everyone has come. */
static void decide(hr_team *t)
{
    t->agreed = t->here > 1 && t->same && t->rows <= HR_WINO_SHARED_ROWS &&
                hr_wino_shared_room(t->where, t->rows) <= t->len;
    t->all = t->here;
    t->all_rows = t->rows;
    if (!t->same)
        t->members = 0;
    end_round(t);
}

void hr_team_open(hr_team *t, int members)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->members = members;
    pthread_mutex_unlock(&t->lock);
}

void hr_team_leave(hr_team *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    if (t->members > 0)
        t->members--;
    if (t->here > 0 && t->here == t->members)
        decide(t);
    pthread_mutex_unlock(&t->lock);
}

/* Go to layer w with so many tiles. True: all have come to it; this one is number `*number`, and its tiles
 * are those from *first on. */
static bool meet(hr_team *t, const hr_wino *w, int rows, int *number, int *first)
{
    pthread_mutex_lock(&t->lock);
    bool agreed = t->members > 1;
    if (agreed) {
        t->same = t->here == 0 || (t->same && t->where == w);
        t->where = w;
        *first = t->here ? t->rows : 0;
        *number = t->here++;
        t->rows = *first + rows;
        if (t->here == t->members)
            decide(t);
        else
            await_round(t);
        agreed = t->agreed;
    }
    pthread_mutex_unlock(&t->lock);
    return agreed;
}

/* Wait until all that have met are here. */
static void pause_together(hr_team *t)
{
    pthread_mutex_lock(&t->lock);
    if (++t->here == t->all)
        end_round(t);
    else
        await_round(t);
    pthread_mutex_unlock(&t->lock);
}

bool hr_team_run(hr_team *t, const hr_wino *w, const hr_kernels *k, const float *x, int ns, float *y,
                 const hr_epilogue *e, bool add)
{
    int number, first;
    if (!t || !meet(t, w, ns * w->tiles, &number, &first))
        return false;
    int rows = t->all_rows, all = t->all;
    hr_wino_shared_in(w, k, x, ns, first, rows, t->room);
    pause_together(t);
    hr_wino_shared_multiply(w, k, rows, w->points * number / all, w->points * (number + 1) / all, t->room);
    pause_together(t);
    hr_wino_shared_out(w, k, ns, first, rows, t->room, y, e, add);
    return true;
}
