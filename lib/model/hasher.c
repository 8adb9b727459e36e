/* lib/model/hasher.c -- SHA-256 of a sequence of pieces, computed beside the caller's reading and writing.
 *
 * Pieces wait in a queue and a thread hashes them in order; the caller is never held up but when it asks for
 * the result. A thread is only started once there is a megabyte to hash: small networks stay within their
 * thread. (A parallel region per chunk was tried first: on a busy machine each one waits for both of its
 * threads to be scheduled, which was slower than hashing in line.)
 *
 * Whoever converts a file needs two sums, that of the file and that of what comes out. Two at once take the
 * time of one (hr_sha256_add_two), so one thread makes both: as much of the one sequence as there is of the
 * other. It waits for pieces while more are to come, since hashing the other sequence alone takes no less
 * time then than later; what is left when the one has ended is hashed alone. */
#include "model/internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { WORTH_A_THREAD = 1 << 20 };

struct piece {
    const char *bytes;
    size_t n;
    void *owned; /* freed when hashed, or NULL */
};

struct hr_hasher {
    hr_sha256 *sha;
    struct piece *queue;
    size_t first, n, cap;     /* pieces first..n-1 wait */
    size_t bytes;             /* added so far */
    bool threaded, busy, end; /* busy: with a piece */
    bool second, coming;      /* a second sequence has not ended; it waits for pieces that will be added */
    pthread_t thread;
    pthread_mutex_t lock; /* of all above, while there is a thread; what follows is the thread's own */
    pthread_cond_t changed;

    hr_sha256 *sha2; /* of the second sequence; NULL when it has ended */
    hr_hasher_source next;
    void *source;
    const char *bytes2; /* the next n2 bytes of it */
    size_t n2;
    char hex2[65];
};

/* Have bytes of the second sequence. At its end: its digest. */
static void refill(hr_hasher *h)
{
    const void *bytes = NULL;
    if (!h->sha2 || h->n2)
        return;
    h->n2 = h->next(h->source, &bytes);
    h->bytes2 = bytes;
    if (h->n2 == 0) {
        hr_sha256_end(h->sha2, h->hex2);
        h->sha2 = NULL;
    }
}

static void hash_piece(hr_hasher *h, struct piece p)
{
    while (refill(h), h->sha2 && p.n > 0) {
        size_t n = p.n < h->n2 ? p.n : h->n2;
        hr_sha256_add_two(h->sha, p.bytes, h->sha2, h->bytes2, n);
        p.bytes += n;
        p.n -= n;
        h->bytes2 += n;
        h->n2 -= n;
    }
    hr_sha256_add(h->sha, p.bytes, p.n);
    free(p.owned);
}

/* The second sequence alone: what is at hand of it. */
static void hash_second(hr_hasher *h)
{
    refill(h);
    if (h->sha2)
        hr_sha256_add(h->sha2, h->bytes2, h->n2);
    h->n2 = 0;
}

static bool has_work(const hr_hasher *h)
{
    return h->first < h->n || (h->second && !h->coming);
}

static void *work(void *ctx)
{
    hr_hasher *h = ctx;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (!has_work(h) && !h->end)
            pthread_cond_wait(&h->changed, &h->lock);
        if (h->end)
            break;
        struct piece p = {.n = 0};
        h->busy = h->first < h->n;
        if (h->busy)
            p = h->queue[h->first++];
        bool alone = !h->busy;
        pthread_mutex_unlock(&h->lock);
        if (alone)
            hash_second(h);
        else
            hash_piece(h, p);
        pthread_mutex_lock(&h->lock);
        h->busy = false;
        h->second = h->sha2 != NULL;
        pthread_cond_broadcast(&h->changed);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* Without a thread to be had, all waits for the drain or the end. */
static void start(hr_hasher *h)
{
    if (!h->threaded && h->bytes >= WORTH_A_THREAD)
        h->threaded = pthread_create(&h->thread, NULL, work, h) == 0;
}

hr_hasher *hr_hasher_new(void)
{
    hr_hasher *h = hr_xcalloc(1, sizeof *h);
    h->sha = hr_sha256_new();
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    return h;
}

void hr_hasher_beside(hr_hasher *h, hr_hasher_source next, void *ctx, size_t bytes, bool coming)
{
    h->sha2 = hr_sha256_new();
    h->next = next;
    h->source = ctx;
    h->second = true;
    h->coming = coming;
    h->bytes += bytes;
    start(h);
}

void hr_hasher_beside_end(hr_hasher *h, char hex[65])
{
    pthread_mutex_lock(&h->lock);
    h->coming = false;
    pthread_cond_broadcast(&h->changed);
    while (h->threaded && h->second)
        pthread_cond_wait(&h->changed, &h->lock);
    pthread_mutex_unlock(&h->lock);
    while (h->sha2)
        hash_second(h);
    h->second = false;
    memcpy(hex, h->hex2, sizeof h->hex2);
}

void hr_hasher_add(hr_hasher *h, const void *bytes, size_t n, void *owned)
{
    pthread_mutex_lock(&h->lock);
    if (h->n == h->cap) {
        h->cap = h->cap ? 2 * h->cap : 64;
        h->queue = hr_xrealloc(h->queue, h->cap * sizeof *h->queue);
    }
    h->queue[h->n++] = (struct piece){bytes, n, owned};
    h->bytes += n;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    start(h);
}

void hr_hasher_drain(hr_hasher *h)
{
    pthread_mutex_lock(&h->lock);
    while (h->threaded && (h->first < h->n || h->busy))
        pthread_cond_wait(&h->changed, &h->lock);
    while (h->first < h->n)
        hash_piece(h, h->queue[h->first++]);
    pthread_mutex_unlock(&h->lock);
}

void hr_hasher_end(hr_hasher *h, char hex[65])
{
    char unused[65];
    hr_hasher_drain(h);
    if (h->threaded) {
        pthread_mutex_lock(&h->lock);
        h->end = true;
        pthread_cond_broadcast(&h->changed);
        pthread_mutex_unlock(&h->lock);
        pthread_join(h->thread, NULL);
    }
    if (h->sha2)
        hr_sha256_end(h->sha2, unused);
    hr_sha256_end(h->sha, hex);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->changed);
    free(h->queue);
    free(h);
}
