/* lib/search/peer.h -- one evaluator process. Only the pool and the fuzzer look in here; peer.c says what is
 * spoken. Nothing waits but hr_peer_greet, hr_peer_finish and the sending of a question: answers are taken
 * when poll says that there is something to read. */
#ifndef HR_SEARCH_PEER_H
#define HR_SEARCH_PEER_H

#include "search/search.h"

typedef struct hr_peer {
    const char *command;
    const hr_space *s;
    double timeout; /* seconds for the greeting and for each answer */
    int threads;    /* OMP_NUM_THREADS of the process; 0: ours */
    pid_t pid;
    int to, from;   /* our ends of its standard input and output; -1 closed */
    hr_buf in;      /* bytes read and not yet used */
    hr_buf request; /* the last one, to be sent again */
    char *greeting, *digest;
    json_t *history;            /* of what the answers depend on, or NULL: the greeting need not tell */
    int64_t batches, images, n; /* n: images per answer for all batches, 0 before the first */
    int64_t id;
    bool whole, restarted;
    double deadline; /* of the answer that is waited for */
} hr_peer;

/* Start `/bin/sh -c command` in a process group of its own. command and s are borrowed. Returns 0 with *out
 * set, or HR_EIO. */
HR_MUST_CHECK int hr_peer_start(hr_peer **out, const char *command, const hr_space *s, double timeout,
                                int threads, hr_err *err);
/* Wait for its first line and check it against the space. Returns 0, HR_EPEER, HR_EIO or HR_EINTR. */
HR_MUST_CHECK int hr_peer_greet(hr_peer *p, hr_err *err);
/* Ask what kept [nd] is worth on the batches [from, to); no other question may be open. A process that died
 * is started again once in a peer's life. Returns 0, HR_EPEER, HR_EIO or HR_EINTR. */
HR_MUST_CHECK int hr_peer_ask(hr_peer *p, const int64_t *kept, int nd, int64_t from, int64_t to, hr_err *err);
/* Read once from p->from, which poll called ready; *done says whether that completed the answer, which is
 * then in *reply. Returns as hr_peer_ask does. */
HR_MUST_CHECK int hr_peer_take(hr_peer *p, bool *done, hr_score_reply *reply, hr_err *err);
/* The answer did not come in time: HR_EPEER. */
int hr_peer_silent(const hr_peer *p, hr_err *err);
void hr_peer_bye(hr_peer *p); /* end its input */
/* End its input and wait for it to leave. HR_EPEER when it says more than it was asked, or leaves with
 * another status than 0. Releases p either way. */
HR_MUST_CHECK int hr_peer_finish(hr_peer *p, hr_err *err);
/* Kill the whole process group and release p; NULL is allowed. */
void hr_peer_kill(hr_peer *p);

#endif
