/* lib/base/job.c -- work of hours: one output, its lock, and the state from which it goes on.
 *
 *     OUTPUT                appears at the end, whole
 *     .OUTPUT.partial       held and locked from the beginning to the end
 *     OUTPUT.state          {"run": what this run is, "at": the caller's}, and the caller's blocks (state.c)
 *
 * The order at the end is: rename the outputs, then unlink the state. Killed between the two, the same
 * command finds the state of finished work and makes the output again, the same bytes, without redoing
 * anything. */
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct hr_job {
    hr_out *out;
    char *state; /* NULL: none is kept */
    json_t *run, *at;
    double every, saved; /* saved: when, on the monotonic clock */
    bool restart;
};

static bool keeps_state(const char *output)
{
    struct stat st;
    return strcmp(output, "-") != 0 && (stat(output, &st) != 0 || S_ISREG(st.st_mode));
}

/* A state that cannot be used is the user's to discard, never ours. */
static int refuse(int rc, hr_err *err)
{
    hr_err why = *err;
    if (rc == HR_EFORMAT || rc == HR_ESHAPE)
        hr_fail(err, HR_EFORMAT, "%s; --restart discards it", why.msg);
    return rc == HR_ESHAPE ? HR_EFORMAT : rc;
}

/* Look at the saved state, if there is one: may this run go on from it? */
static int find_state(hr_job *job, hr_err *err)
{
    json_t *meta;
    char what[400];
    if (job->restart && unlink(job->state) && errno != ENOENT)
        return hr_fail(err, HR_EIO, "%s: cannot remove it: %s", job->state, strerror(errno));
    int rc = hr_state_peek(job->state, &meta, err);
    if (rc)
        return refuse(rc, err);
    if (!meta)
        return HR_OK;
    const json_t *was = json_object_get(meta, "run");
    json_t *at = json_object_get(meta, "at");
    if (hr_history_differs(was, job->run, what, sizeof what))
        rc = hr_fail(err, HR_EINVAL, "%s: belongs to another run: %s; --restart discards it", job->state,
                     what);
    else if (!json_is_object(at))
        rc = hr_fail(err, HR_EFORMAT, "%s: damaged: it does not say where the run was; --restart discards it",
                     job->state);
    else
        job->at = json_incref(at);
    json_decref(meta);
    return rc;
}

int hr_job_open(hr_job **job, const hr_job_opts *o, hr_err *err)
{
    hr_out *out;
    *job = NULL;
    int rc = hr_out_open(&out, o->output, o->flags, err);
    if (rc)
        return rc;
    hr_job *j = hr_xcalloc(1, sizeof *j);
    *j = (hr_job){.out = out, .every = o->every, .saved = hr_seconds(), .restart = o->restart};
    j->run = json_deep_copy(o->run);
    if (keeps_state(o->output)) {
        j->state = hr_xasprintf("%s.state", o->output);
        rc = find_state(j, err);
    }
    if (rc) {
        hr_job_abort(j);
        return rc;
    }
    if (j->state)
        hr_signals_catch();
    *job = j;
    return HR_OK;
}

const json_t *hr_job_saved(const hr_job *job)
{
    return job ? job->at : NULL;
}

int hr_job_load(const hr_job *job, const hr_block *blocks, size_t n, hr_err *err)
{
    return refuse(hr_state_load(job->state, blocks, n, err), err);
}

bool hr_job_due(const hr_job *job)
{
    return job && job->state && hr_seconds() - job->saved >= job->every;
}

int hr_job_save(hr_job *job, const json_t *at, const hr_block *blocks, size_t n, hr_err *err)
{
    if (!job || !job->state)
        return HR_OK;
    json_t *meta = json_pack("{s:O, s:O}", "run", job->run, "at", (json_t *)(uintptr_t)at);
    int rc = hr_state_save(job->state, meta, blocks, n, err);
    json_decref(meta);
    job->saved = hr_seconds();
    return rc;
}

int hr_job_interrupted(const hr_job *job, hr_err *err, const char *fmt, ...)
{
    char where[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(where, sizeof where, fmt, ap);
    va_end(ap);
    if (!job || !job->state)
        return hr_fail(err, HR_EINTR, "interrupted in %s", where);
    return hr_fail(err, HR_EINTR,
                   "interrupted in %s; the state is in %s: run the same command again%s to go on", where,
                   job->state, job->restart ? ", without --restart," : "");
}

hr_out *hr_job_out(hr_job *job)
{
    return job->out;
}

static void release(hr_job *job)
{
    json_decref(job->run);
    json_decref(job->at);
    free(job->state);
    free(job);
}

int hr_job_commit(hr_job *job, hr_err *err)
{
    int rc = hr_out_commit(job->out, err);
    if (rc)
        hr_outs_drop();
    else
        rc = hr_outs_publish(err);
    if (!rc && job->state && unlink(job->state) && errno != ENOENT)
        rc = hr_fail(err, HR_EIO, "%s: cannot remove it: %s", job->state, strerror(errno));
    release(job);
    return rc;
}

void hr_job_abort(hr_job *job)
{
    if (!job)
        return;
    hr_out_abort(job->out);
    release(job);
}
