/* lib/search/peer.c -- an evaluator process and the lines it speaks.
 *
 * One JSON object per line. The evaluator speaks first:
 *   {"proto":1,"reg":"weight"|"channel","layers":[{"name":s,"n":count},...],"batches":B,"images":N,"digest":s}
 * with the decision layers in strategy order and their numbers of weights or input channels, and may add
 * "history", which becomes part of the strategy's; then it answers
 *   {"id":i,"kept":[integers],"batches":[a,b]}          ours; b is exclusive
 *   {"id":i,"n":images,"clean":count,"robust":count,...}   its answer
 *   {"id":i,"error":"..."}                              or why not
 * until its input ends; then it leaves with status 0. An answer whose images all got the same class c has
 * "constant":true and "class":c, so that the answers of several evaluators can be put together. Words go to
 * standard error, which we share.
 *
 * What is checked: reg, names and counts against our own table; that each request gets one answer, with its
 * id, in time, with counts that can be (the same number of images each time that all are asked for, at most
 * N; no more right answers than images). Anything else ends the search: a reward that belongs to another
 * strategy is worse than none.
 *
 * A process that dies is started once more and asked again; its greeting must be the same, byte for byte. The
 * child leads a process group of its own, so that killing it takes its children with it, and Ctrl-C reaches
 * it only through us. Reads are poll and read on the raw descriptor: a deadline and stdio do not mix. */
#include "search/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_LINE = 1 << 20, EXIT_GRACE = 10 /* seconds to leave after the end of input */ };

/* ---- the process ------------------------------------------------------------------------------------- */

static int spawn(hr_peer *p, hr_err *err)
{
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC))
        return hr_fail(err, HR_EIO, "evaluator: no pipe: %s", strerror(errno));
    if (pipe2(up, O_CLOEXEC)) {
        close(down[0]);
        close(down[1]);
        return hr_fail(err, HR_EIO, "evaluator: no pipe: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        signal(SIGPIPE, SIG_DFL); /* ignored signals would be inherited */
        signal(SIGXFSZ, SIG_DFL);
        if (dup2(down[0], STDIN_FILENO) < 0 || dup2(up[1], STDOUT_FILENO) < 0)
            _exit(127);
        if (p->threads) {
            char n[16];
            snprintf(n, sizeof n, "%d", p->threads);
            setenv("OMP_NUM_THREADS", n, 1);
        }
        execl("/bin/sh", "sh", "-c", p->command, (char *)NULL);
        _exit(127);
    }
    int why = errno;
    close(down[0]);
    close(up[1]);
    if (pid < 0) {
        close(down[1]);
        close(up[0]);
        return hr_fail(err, HR_EIO, "evaluator: fork: %s", strerror(why));
    }
    setpgid(pid, pid); /* in both processes: whoever comes first */
    fcntl(down[1], F_SETFL, O_NONBLOCK);
    p->pid = pid;
    p->to = down[1];
    p->from = up[0];
    p->in.len = 0;
    return HR_OK;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Kill the group, reap the child, close the pipes. Returns its wait status. */
static int bury(hr_peer *p)
{
    int status = 0;
    close_fd(&p->to);
    close_fd(&p->from);
    if (p->pid > 0) {
        kill(-p->pid, SIGKILL);
        while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    p->pid = -1;
    return status;
}

/* Wait for the child to leave by itself, up to seconds. Returns false when it did not. */
static bool left(hr_peer *p, double seconds, int *status)
{
    double end = hr_seconds() + seconds;
    while (p->pid > 0) {
        pid_t got = waitpid(p->pid, status, WNOHANG);
        if (got == p->pid) {
            kill(-p->pid, SIGKILL); /* what it may have left behind */
            p->pid = -1;
            return true;
        }
        if (hr_seconds() >= end)
            return false;
        poll(NULL, 0, 5);
    }
    return false; /* there is none: waitpid and kill take -1 for everybody */
}

/* The process stopped talking: how did it end? */
static int died(hr_peer *p, const char *when, hr_err *err)
{
    int status;
    if (!left(p, 1, &status)) {
        bury(p);
        return hr_fail(err, HR_EPEER, "evaluator '%s' closed its output %s", p->command, when);
    }
    bury(p);
    bool killed = WIFSIGNALED(status);
    return hr_fail(err, HR_EPEER, "evaluator '%s' %s %d %s", p->command,
                   killed ? "was killed by signal" : "ended with status",
                   killed ? WTERMSIG(status) : WEXITSTATUS(status), when);
}

/* ---- lines ------------------------------------------------------------------------------------------- */

/* Wait until fd is ready or the deadline passes. Returns 0, HR_EINTR or HR_EPEER (late). */
static int ready(hr_peer *p, int fd, short events, double deadline, const char *when, hr_err *err)
{
    for (;;) {
        double rest = deadline - hr_seconds();
        struct pollfd pf = {fd, events, 0};
        if (hr_interrupted())
            return hr_fail(err, HR_EINTR, "interrupted");
        /* In slices: a signal that arrives just before poll is noticed at the next. */
        int n = poll(&pf, 1, rest <= 0 ? 0 : rest < 0.2 ? (int)(rest * 1000) + 1 : 200);
        if (n > 0)
            return HR_OK;
        if (n < 0 && errno != EINTR)
            return hr_fail(err, HR_EIO, "evaluator: poll: %s", strerror(errno));
        if (n == 0 && rest <= 0)
            return hr_fail(err, HR_EPEER, "evaluator '%s' was silent for %g s %s", p->command, p->timeout,
                           when);
    }
}

enum { GONE = -1 }; /* the other end is closed; died() finds the words */

/* Read once what there is into p->in. */
static int fill(hr_peer *p, hr_err *err)
{
    char chunk[65536];
    ssize_t n = read(p->from, chunk, sizeof chunk);
    if (n == 0)
        return GONE;
    if (n < 0)
        return errno == EINTR ? HR_OK : hr_fail(err, HR_EIO, "evaluator: reading: %s", strerror(errno));
    hr_buf_add(&p->in, chunk, (size_t)n);
    return HR_OK;
}

/* The next line, whose newline becomes a NUL, into *line, or NULL when it is not complete yet. It points into
 * p->in, which stays as it is until drop_line. */
static int whole_line(hr_peer *p, const char *when, char **line, hr_err *err)
{
    char *end = p->in.len ? memchr(p->in.data, '\n', p->in.len) : NULL;
    *line = end ? p->in.data : NULL;
    if (end)
        *end = '\0';
    else if (p->in.len > MAX_LINE)
        return hr_fail(err, HR_EPEER, "evaluator '%s' sent a line of more than %d bytes %s", p->command,
                       MAX_LINE, when);
    return HR_OK;
}

/* Wait for the next line. */
static int read_line(hr_peer *p, const char *when, char **line, hr_err *err)
{
    double deadline = hr_seconds() + p->timeout;
    for (;;) {
        int rc = whole_line(p, when, line, err);
        if (rc || *line)
            return rc;
        if ((rc = ready(p, p->from, POLLIN, deadline, when, err)) || (rc = fill(p, err)))
            return rc;
    }
}

/* Forget the line that read_line returned. */
static void drop_line(hr_peer *p)
{
    size_t n = strlen(p->in.data) + 1;
    p->in.len -= n;
    memmove(p->in.data, p->in.data + n, p->in.len);
}

static int send_text(hr_peer *p, const char *text, size_t n, const char *when, hr_err *err)
{
    double deadline = hr_seconds() + p->timeout;
    while (n > 0) {
        int rc = ready(p, p->to, POLLOUT, deadline, when, err);
        if (rc)
            return rc;
        ssize_t done = write(p->to, text, n);
        if (done < 0 && errno == EPIPE)
            return GONE;
        if (done < 0 && errno != EINTR && errno != EAGAIN)
            return hr_fail(err, HR_EIO, "evaluator: writing: %s", strerror(errno));
        if (done > 0) {
            text += done;
            n -= (size_t)done;
        }
    }
    return HR_OK;
}

static int nonsense(hr_peer *p, const char *when, const char *what, const char *line, hr_err *err)
{
    return hr_fail(err, HR_EPEER, "evaluator '%s' answered nonsense %s: %s: %.100s", p->command, when, what,
                   line);
}

/* ---- the greeting ------------------------------------------------------------------------------------ */

static int check_layers(hr_peer *p, const json_t *layers, const char *when, hr_err *err)
{
    const hr_space *s = p->s;
    if (json_array_size(layers) != (size_t)s->nd)
        return hr_fail(err, HR_EPEER, "evaluator '%s' has %zu layers to decide, the layer table %d",
                       p->command, json_array_size(layers), s->nd);
    for (int d = 0; d < s->nd; d++) {
        const json_t *j = json_array_get(layers, (size_t)d);
        const char *name = json_string_value(json_object_get(j, "name"));
        const char *ours = s->l[s->decision[d]].name;
        json_int_t n = json_integer_value(json_object_get(j, "n"));
        if (!name)
            return nonsense(p, when, "a layer without a name", "", err);
        if (strcmp(name, ours) || n != s->count[d])
            return hr_fail(err, HR_EPEER,
                           "evaluator '%s': layer %d is '%s' with %lld %s, in the layer table '%s' with %lld",
                           p->command, d, name, (long long)n, s->channel ? "channels" : "weights", ours,
                           (long long)s->count[d]);
    }
    return HR_OK;
}

static int check_greeting(hr_peer *p, const json_t *j, const char *line, const char *when, hr_err *err)
{
    const char *want = p->s->channel ? "channel" : "weight";
    const char *reg = json_string_value(json_object_get(j, "reg"));
    const char *digest = json_string_value(json_object_get(j, "digest"));
    if (json_integer_value(json_object_get(j, "proto")) != 1)
        return nonsense(p, when, "no greeting with \"proto\":1", line, err);
    if (!reg || !digest)
        return nonsense(p, when, "\"reg\" or \"digest\" is missing", line, err);
    if (strcmp(reg, want))
        return hr_fail(err, HR_EPEER, "evaluator '%s' prunes by %s, the search by %s", p->command, reg, want);
    p->batches = json_integer_value(json_object_get(j, "batches"));
    p->images = json_integer_value(json_object_get(j, "images"));
    if (p->batches < 1 || p->images < 1)
        return nonsense(p, when, "no images", line, err);
    if (!p->digest) /* a second greeting is the same, and the first digest is out there */
        p->digest = hr_xstrdup(digest);
    if (!p->history && json_is_object(json_object_get(j, "history")))
        p->history = json_incref(json_object_get(j, "history"));
    return check_layers(p, json_object_get(j, "layers"), when, err);
}

int hr_peer_greet(hr_peer *p, hr_err *err)
{
    const char *when = "before its greeting";
    char *line;
    int rc = read_line(p, when, &line, err);
    if (rc == GONE)
        return died(p, when, err);
    if (rc)
        return rc;
    if (p->greeting && strcmp(p->greeting, line))
        return hr_fail(err, HR_EPEER, "evaluator '%s' greeted differently when it was started again",
                       p->command);
    json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    rc = j ? check_greeting(p, j, line, "in its greeting", err)
           : nonsense(p, "in its greeting", "not JSON", line, err);
    json_decref(j);
    if (rc == HR_OK && !p->greeting)
        p->greeting = hr_xstrdup(line);
    drop_line(p);
    return rc;
}

int hr_peer_start(hr_peer **out, const char *command, const hr_space *s, double timeout, int threads,
                  hr_err *err)
{
    hr_peer *p = hr_xcalloc(1, sizeof *p);
    *p = (hr_peer){
        .command = command, .s = s, .timeout = timeout, .threads = threads, .pid = -1, .to = -1, .from = -1};
    int rc = spawn(p, err);
    if (rc) {
        hr_peer_kill(p);
        return rc;
    }
    *out = p;
    return HR_OK;
}

/* ---- questions and answers --------------------------------------------------------------------------- */

static const char *when_asked(const hr_peer *p, char *text, size_t size)
{
    snprintf(text, size, "on request %lld", (long long)p->id);
    return text;
}

static int parse_reply(hr_peer *p, const char *line, hr_score_reply *r, hr_err *err)
{
    char text[64];
    const char *when = when_asked(p, text, sizeof text);
    json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    const json_t *class = json_object_get(j, "class");
    const json_t *id = json_object_get(j, "id"), *clean = json_object_get(j, "clean");
    const json_t *robust = json_object_get(j, "robust");
    const char *why = json_string_value(json_object_get(j, "error"));
    int rc = HR_OK;
    *r = (hr_score_reply){.images = json_integer_value(json_object_get(j, "n")),
                          .clean = json_integer_value(clean),
                          .robust = json_integer_value(robust),
                          .constant = json_is_true(json_object_get(j, "constant")),
                          .answer = json_is_integer(class) ? json_integer_value(class) : -1};
    if (!j)
        rc = nonsense(p, when, "not JSON", line, err);
    else if (!json_is_integer(id) || json_integer_value(id) != p->id)
        rc = nonsense(p, when, "another id", line, err);
    else if (why)
        rc = hr_fail(err, HR_EPEER, "evaluator '%s' failed %s: %.300s", p->command, when, why);
    else if (!json_is_integer(clean) || !json_is_integer(robust) || r->images < 1 || r->images > p->images ||
             r->clean < 0 || r->clean > r->images || r->robust < 0 || r->robust > r->images)
        rc = nonsense(p, when, "counts that cannot be", line, err);
    else if (p->whole && p->n && r->images != p->n)
        rc = nonsense(p, when, "another number of images than before", line, err);
    if (p->whole)
        p->n = r->images;
    json_decref(j);
    return rc;
}

/* The process is gone while it had a question: start it again and ask it again, but only once in its life. */
static int revive(hr_peer *p, hr_err *err)
{
    const char *again = "after it had been started again";
    char text[64];
    int rc = died(p, p->restarted ? again : when_asked(p, text, sizeof text), err);
    if (p->restarted)
        return rc;
    p->restarted = true;
    rc = spawn(p, err);
    if (rc == HR_OK)
        rc = hr_peer_greet(p, err);
    if (rc == HR_OK)
        rc = send_text(p, p->request.data, p->request.len, again, err);
    p->deadline = hr_seconds() + p->timeout;
    return rc == GONE ? died(p, again, err) : rc;
}

int hr_peer_ask(hr_peer *p, const int64_t *kept, int nd, int64_t from, int64_t to, hr_err *err)
{
    char text[64];
    p->id++;
    p->request.len = 0;
    p->whole = from == 0 && to == p->batches;
    hr_buf_printf(&p->request, "{\"id\":%lld,\"kept\":[", (long long)p->id);
    for (int d = 0; d < nd; d++)
        hr_buf_printf(&p->request, "%s%lld", d ? "," : "", (long long)kept[d]);
    hr_buf_printf(&p->request, "],\"batches\":[%lld,%lld]}\n", (long long)from, (long long)to);
    p->deadline = hr_seconds() + p->timeout;
    int rc = send_text(p, p->request.data, p->request.len, when_asked(p, text, sizeof text), err);
    return rc == GONE ? revive(p, err) : rc;
}

int hr_peer_take(hr_peer *p, bool *done, hr_score_reply *reply, hr_err *err)
{
    char text[64], *line;
    const char *when = when_asked(p, text, sizeof text);
    *done = false;
    int rc = fill(p, err);
    if (rc == GONE)
        return revive(p, err);
    if (rc == HR_OK)
        rc = whole_line(p, when, &line, err);
    if (rc || !line)
        return rc;
    rc = parse_reply(p, line, reply, err);
    drop_line(p);
    if (rc == HR_OK && p->in.len > 0)
        rc = hr_fail(err, HR_EPEER, "evaluator '%s' said more than one line %s", p->command, when);
    *done = true;
    return rc;
}

int hr_peer_silent(const hr_peer *p, hr_err *err)
{
    return hr_fail(err, HR_EPEER, "evaluator '%s' was silent for %g s on request %lld", p->command,
                   p->timeout, (long long)p->id);
}

void hr_peer_bye(hr_peer *p)
{
    close_fd(&p->to);
}

int hr_peer_finish(hr_peer *p, hr_err *err)
{
    char *line;
    int status = 0;
    hr_peer_bye(p);
    p->timeout = EXIT_GRACE;
    int rc = read_line(p, "after the last request", &line, err);
    if (rc == HR_OK)
        rc = hr_fail(err, HR_EPEER, "evaluator '%s' said more than it was asked: %.100s", p->command, line);
    else if (rc == GONE && p->in.len > 0)
        rc = hr_fail(err, HR_EPEER, "evaluator '%s' ended in the middle of a line", p->command);
    else if (rc == GONE && !left(p, EXIT_GRACE, &status))
        rc = hr_fail(err, HR_EPEER, "evaluator '%s' did not leave at the end of its input", p->command);
    else if (rc == GONE && status)
        rc = hr_fail(err, HR_EPEER, "evaluator '%s' did not end with status 0", p->command);
    else if (rc == GONE)
        rc = HR_OK;
    hr_peer_kill(p);
    return rc;
}

void hr_peer_kill(hr_peer *p)
{
    if (!p)
        return;
    bury(p);
    hr_buf_release(&p->in);
    hr_buf_release(&p->request);
    free(p->greeting);
    free(p->digest);
    json_decref(p->history);
    free(p);
}
