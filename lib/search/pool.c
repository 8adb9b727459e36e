/* lib/search/pool.c -- several evaluators at once, as if they were one.
 *
 * Two ways of using them. In the warm-up strategies do not depend on each other's worth: each is evaluated
 * whole by whoever is free (begin, end). Later the agent waits for every answer: the batches are divided
 * among all evaluators and their counts summed (eval). What an evaluator answers for a range of batches
 * depends on nothing else (the digest in its greeting stands for that), so the outcome of neither way depends
 * on how many there are, which are faster, or which died and was started again.
 *
 * One poll watches all that were asked. Each answer has its own deadline. */
#include "search/peer.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

struct hr_pool {
    hr_peer **peer;
    bool *busy;
    int *ticket; /* of the question that each was asked last */
    struct pollfd *fd;
    int n;
    int64_t images; /* of a whole evaluation; 0 before the first */
};

static int started_alike(const hr_pool *pool, const hr_peer *p, hr_err *err)
{
    const hr_peer *first = pool->peer[0];
    if (strcmp(p->digest, first->digest) || p->batches != first->batches || p->images != first->images)
        return hr_fail(err, HR_EPEER,
                       "evaluator '%s' answers for %lld images with digest %s, the first one, '%s', for %lld "
                       "with %s: they must be alike",
                       p->command, (long long)p->images, p->digest, first->command, (long long)first->images,
                       first->digest);
    return HR_OK;
}

int hr_pool_start(hr_pool **out, const hr_commands *c, int copies, const hr_space *s, double timeout,
                  hr_err *err)
{
    hr_pool *pool = hr_xcalloc(1, sizeof *pool);
    int n = c->n * copies, rc = HR_OK, threads = n > 1 ? hr_default_threads() / n : 0;
    pool->peer = hr_xcalloc((size_t)n, sizeof *pool->peer);
    pool->busy = hr_xcalloc((size_t)n, sizeof *pool->busy);
    pool->ticket = hr_xcalloc((size_t)n, sizeof *pool->ticket);
    pool->fd = hr_xcalloc((size_t)n, sizeof *pool->fd);
    pool->n = n;
    /* All load their data at the same time. */
    for (int i = 0; i < n && rc == HR_OK; i++)
        rc = hr_peer_start(&pool->peer[i], c->line[i / copies], s, timeout,
                           n > 1 && threads < 1 ? 1 : threads, err);
    for (int i = 0; i < n && rc == HR_OK; i++) {
        rc = hr_peer_greet(pool->peer[i], err);
        if (rc == HR_OK)
            rc = started_alike(pool, pool->peer[i], err);
    }
    if (rc) {
        hr_pool_kill(pool);
        return rc;
    }
    *out = pool;
    return HR_OK;
}

/* ---- questions ---------------------------------------------------------------------------------------- */

static int ask(hr_pool *pool, int i, const int64_t *kept, int nd, int64_t from, int64_t to, hr_err *err)
{
    pool->busy[i] = true;
    return hr_peer_ask(pool->peer[i], kept, nd, from, to, err);
}

/* Seconds until poll should return: in slices, for a signal that arrives just before poll is noticed at the
 * next. */
static int patience(const hr_pool *pool)
{
    double rest = 0.2, now = hr_seconds();
    for (int i = 0; i < pool->n; i++)
        if (pool->busy[i] && pool->peer[i]->deadline - now < rest)
            rest = pool->peer[i]->deadline - now;
    return rest <= 0 ? 0 : (int)(rest * 1000) + 1;
}

/* Wait until one of those that were asked has answered; *which is then free again. */
static int next_answer(hr_pool *pool, int *which, hr_score_reply *reply, hr_err *err)
{
    for (;;) {
        if (hr_interrupted())
            return hr_fail(err, HR_EINTR, "interrupted");
        for (int i = 0; i < pool->n; i++) /* poll passes over negative descriptors */
            pool->fd[i] = (struct pollfd){pool->busy[i] ? pool->peer[i]->from : -1, POLLIN, 0};
        int n = poll(pool->fd, (nfds_t)pool->n, patience(pool));
        if (n < 0 && errno != EINTR)
            return hr_fail(err, HR_EIO, "evaluators: poll: %s", strerror(errno));
        for (int i = 0; i < pool->n; i++) {
            hr_peer *p = pool->peer[i];
            bool done = false;
            if (!pool->busy[i])
                continue;
            int rc = HR_OK;
            if (n > 0 && pool->fd[i].revents)
                rc = hr_peer_take(p, &done, reply, err);
            else if (n >= 0 && hr_seconds() >= p->deadline)
                rc = hr_peer_silent(p, err);
            if (rc == HR_OK && !done)
                continue;
            pool->busy[i] = false;
            *which = i;
            return rc;
        }
    }
}

/* All batches were answered: are these as many images as ever? */
static int same_images(hr_pool *pool, int64_t images, hr_err *err)
{
    if (pool->images && pool->images != images)
        return hr_fail(err, HR_EPEER,
                       "the evaluators answered nonsense: %lld images, another number of images than before "
                       "(%lld)",
                       (long long)images, (long long)pool->images);
    pool->images = images;
    return HR_OK;
}

static int begin(void *ctx, const int64_t *kept, int nd, int ticket, hr_err *err)
{
    hr_pool *pool = ctx;
    int i = 0;
    while (pool->busy[i])
        i++;
    pool->ticket[i] = ticket;
    return ask(pool, i, kept, nd, 0, pool->peer[i]->batches, err);
}

static int end(void *ctx, int *ticket, hr_score_reply *reply, hr_err *err)
{
    hr_pool *pool = ctx;
    int which, rc = next_answer(pool, &which, reply, err);
    if (rc)
        return rc;
    *ticket = pool->ticket[which];
    return same_images(pool, reply->images, err);
}

static int eval(void *ctx, const int64_t *kept, int nd, int64_t from, int64_t to, hr_score_reply *sum,
                hr_err *err)
{
    hr_pool *pool = ctx;
    int64_t batches = to - from;
    int parts = batches < pool->n ? (int)batches : pool->n, rc = HR_OK;
    *sum = (hr_score_reply){0};
    for (int i = 0; i < parts && rc == HR_OK; i++)
        rc = ask(pool, i, kept, nd, from + batches * i / parts, from + batches * (i + 1) / parts, err);
    for (int i = 0; i < parts && rc == HR_OK; i++) {
        hr_score_reply part;
        int which;
        rc = next_answer(pool, &which, &part, err);
        if (rc == HR_OK)
            hr_score_add(sum, &part);
    }
    const hr_peer *first = pool->peer[0];
    if (rc == HR_OK && sum->images > first->images)
        return hr_fail(err, HR_EPEER, "the evaluators answered nonsense: %lld images, of %lld in all",
                       (long long)sum->images, (long long)first->images);
    return rc || batches < first->batches ? rc : same_images(pool, sum->images, err);
}

void hr_score_add(hr_score_reply *sum, const hr_score_reply *part)
{
    bool first = sum->images == 0;
    sum->constant = part->constant && (first || (sum->constant && sum->answer == part->answer));
    sum->answer = part->answer;
    sum->images += part->images;
    sum->clean += part->clean;
    sum->robust += part->robust;
}

hr_evaluator hr_pool_evaluator(hr_pool *pool)
{
    const hr_peer *p = pool->peer[0];
    return (hr_evaluator){.ctx = pool,
                          .eval = eval,
                          .begin = begin,
                          .end = end,
                          .places = pool->n,
                          .batches = p->batches,
                          .images = p->images,
                          .digest = p->digest,
                          .history = p->history};
}

/* ---- the end ------------------------------------------------------------------------------------------- */

int hr_pool_restarts(const hr_pool *pool)
{
    int n = 0;
    for (int i = 0; i < pool->n; i++)
        n += pool->peer[i]->restarted;
    return n;
}

static void release(hr_pool *pool)
{
    free(pool->peer);
    free(pool->busy);
    free(pool->ticket);
    free(pool->fd);
    free(pool);
}

int hr_pool_finish(hr_pool *pool, hr_err *err)
{
    int rc = HR_OK;
    for (int i = 0; i < pool->n; i++)
        hr_peer_bye(pool->peer[i]);
    for (int i = 0; i < pool->n; i++) {
        if (rc)
            hr_peer_kill(pool->peer[i]);
        else
            rc = hr_peer_finish(pool->peer[i], err);
    }
    release(pool);
    return rc;
}

void hr_pool_kill(hr_pool *pool)
{
    if (!pool)
        return;
    for (int i = 0; i < pool->n; i++)
        hr_peer_kill(pool->peer[i]);
    release(pool);
}

/* ---- a file of commands -------------------------------------------------------------------------------- */

enum { MAX_COMMANDS_BYTES = 1 << 20 };

static bool blank(const char *line)
{
    line += strspn(line, " \t\r");
    return *line == '\0' || *line == '#';
}

int hr_commands_load(hr_commands *c, const char *path, hr_err *err)
{
    hr_in in;
    hr_buf b = {0};
    *c = (hr_commands){0};
    int rc = hr_in_open(&in, path, err);
    if (rc == HR_OK)
        rc = hr_in_slurp(&in, &b, MAX_COMMANDS_BYTES, err);
    if (rc == HR_OK && b.len && memchr(b.data, '\0', b.len))
        rc = hr_fail(err, HR_EFORMAT, "%s: not a file of commands: it holds a byte 0", path);
    hr_in_close(&in);
    hr_buf_add(&b, "", 1);
    for (char *at = b.data, *next; rc == HR_OK && *at; at = next) {
        size_t len = strcspn(at, "\n");
        next = at + len + (at[len] == '\n');
        at[len] = '\0';
        if (blank(at))
            continue;
        if (c->n == HR_MAX_EVALUATORS) {
            rc = hr_fail(err, HR_EFORMAT, "%s: more than %d commands", path, HR_MAX_EVALUATORS);
            break;
        }
        c->line = hr_xrealloc(c->line, (size_t)(c->n + 1) * sizeof *c->line);
        c->line[c->n++] = hr_xstrdup(at);
    }
    if (rc == HR_OK && c->n == 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: no command in it: one per line is expected", path);
    hr_buf_release(&b);
    return rc;
}

void hr_commands_release(hr_commands *c)
{
    for (int i = 0; i < c->n; i++)
        free(c->line[i]);
    free(c->line);
    *c = (hr_commands){0};
}
