/* lib/model/hasher.c -- SHA-256 of a sequence of pieces, computed beside the caller's reading and writing.
 *
 * Pieces wait in a queue and a thread hashes them in order; the caller is never held up but when it asks for
 * the result. A thread is only started once there is a megabyte to hash: small networks stay within their
 * thread. (A parallel region per chunk was tried first: on a busy machine each one waits for both of its
 * threads to be scheduled, which was slower than hashing in line.) */
#include "model/internal.h"

#include <pthread.h>
#include <stdlib.h>

enum { WORTH_A_THREAD = 1 << 20 };

struct piece {
    const void *bytes;
    size_t n;
    void *owned; /* freed when hashed, or NULL */
};

struct hr_hasher {
    hr_sha256 *sha;
    struct piece *queue;
    size_t first, n, cap; /* pieces first..n-1 wait */
    size_t bytes;         /* added so far */
    bool threaded, busy, end;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void hash_piece(hr_hasher *h, struct piece p)
{
    hr_sha256_add(h->sha, p.bytes, p.n);
    free(p.owned);
}

static void *work(void *ctx)
{
    hr_hasher *h = ctx;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (h->first == h->n && !h->end)
            pthread_cond_wait(&h->changed, &h->lock);
        if (h->first == h->n)
            break;
        struct piece p = h->queue[h->first++];
        h->busy = true;
        pthread_mutex_unlock(&h->lock);
        hash_piece(h, p);
        pthread_mutex_lock(&h->lock);
        h->busy = false;
        pthread_cond_broadcast(&h->changed);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

hr_hasher *hr_hasher_new(void)
{
    hr_hasher *h = hr_xcalloc(1, sizeof *h);
    h->sha = hr_sha256_new();
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    return h;
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
    /* without a thread to be had, the pieces wait for the drain or the end */
    if (!h->threaded && h->bytes >= WORTH_A_THREAD)
        h->threaded = pthread_create(&h->thread, NULL, work, h) == 0;
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
    hr_hasher_drain(h);
    if (h->threaded) {
        pthread_mutex_lock(&h->lock);
        h->end = true;
        pthread_cond_broadcast(&h->changed);
        pthread_mutex_unlock(&h->lock);
        pthread_join(h->thread, NULL);
    }
    hr_sha256_end(h->sha, hex);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->changed);
    free(h->queue);
    free(h);
}
