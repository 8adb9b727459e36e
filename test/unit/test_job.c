/* test/unit/test_job.c -- a long job goes on where it was saved, for the same run only, and ends whole. */
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/heracles-job-XXXXXX";
static char *output, *state, *partial;

static int make_dir(void **s)
{
    (void)s;
    if (!mkdtemp(dir))
        return -1;
    output = hr_xasprintf("%s/x", dir);
    state = hr_xasprintf("%s/x.state", dir);
    partial = hr_xasprintf("%s/.x.partial", dir);
    return 0;
}

static int remove_dir(void **s)
{
    (void)s;
    free(output);
    free(state);
    free(partial);
    return rmdir(dir); /* fails when a test left something behind */
}

static int clean(void **s)
{
    (void)s;
    unlink(output);
    unlink(state);
    return 0;
}

static json_t *run_of(double lr)
{
    return json_pack("{s:s, s:s, s:{s:f}}", "tool", "t", "version", "1", "options", "lr", lr);
}

static int open_job(hr_job **job, double lr, bool restart, hr_err *err)
{
    json_t *run = run_of(lr);
    hr_job_opts o = {.output = output, .run = run, .every = 1000, .restart = restart};
    int rc = hr_job_open(job, &o, err);
    json_decref(run);
    return rc;
}

/* Save `value` in a job of rate lr and stop. */
static void begin(double lr, int value)
{
    hr_err err = HR_ERR_INIT;
    hr_job *job;
    assert_ok(open_job(&job, lr, false, &err), err);
    hr_block block = {"value", &value, sizeof value};
    json_t *at = json_pack("{s:i}", "step", 17);
    assert_ok(hr_job_save(job, at, &block, 1, &err), err);
    json_decref(at);
    hr_job_abort(job);
}

static void test_goes_on_where_it_was_saved_and_the_state_goes_when_the_output_is_there(void **s)
{
    (void)s;
    hr_err err = HR_ERR_INIT;
    hr_job *job;
    int value = 0;
    hr_block block = {"value", &value, sizeof value};
    assert_ok(open_job(&job, 0.1, false, &err), err);
    assert_null(hr_job_saved(job));
    hr_job_abort(job);
    assert_int_not_equal(access(partial, F_OK), 0);
    begin(0.1, 5);
    assert_ok(open_job(&job, 0.1, false, &err), err);
    assert_int_equal(json_integer_value(json_object_get(hr_job_saved(job), "step")), 17);
    assert_ok(hr_job_load(job, &block, 1, &err), err);
    assert_int_equal(value, 5);
    fputs("done", hr_out_file(hr_job_out(job)));
    assert_ok(hr_job_commit(job, &err), err);
    assert_int_equal(access(output, F_OK), 0);
    assert_int_not_equal(access(state, F_OK), 0);
}

static void test_state_of_another_run_is_refused_by_name_and_kept_until_restart(void **s)
{
    (void)s;
    hr_err err = HR_ERR_INIT;
    hr_job *job;
    begin(0.1, 5);
    assert_int_equal(open_job(&job, 0.05, false, &err), HR_EINVAL);
    assert_null(job);
    char *want =
        hr_xasprintf("%s: belongs to another run: --lr was 0.1, now 0.05; --restart discards it", state);
    assert_string_equal(err.msg, want);
    free(want);
    assert_int_equal(access(state, F_OK), 0);
    assert_int_not_equal(access(partial, F_OK), 0);
    assert_ok(open_job(&job, 0.05, true, &err), err);
    assert_null(hr_job_saved(job));
    assert_int_not_equal(access(state, F_OK), 0);
    hr_job_abort(job);
}

static void test_damaged_state_is_refused_in_one_line_that_names_restart(void **s)
{
    (void)s;
    hr_err err = HR_ERR_INIT;
    hr_job *job;
    int value = 0;
    hr_block block = {"value", &value, sizeof value}, other = {"other", &value, sizeof value};
    begin(0.1, 5);
    assert_ok(open_job(&job, 0.1, false, &err), err);
    assert_int_equal(hr_job_load(job, &other, 1, &err), HR_EFORMAT);
    assert_non_null(strstr(err.msg, "; --restart discards it"));
    hr_job_abort(job);
    struct stat st;
    assert_int_equal(stat(state, &st), 0);
    assert_int_equal(truncate(state, st.st_size - 1), 0); /* in a block: found when it is read */
    assert_ok(open_job(&job, 0.1, false, &err), err);
    assert_int_equal(hr_job_load(job, &block, 1, &err), HR_EFORMAT);
    assert_non_null(strstr(err.msg, "; --restart discards it"));
    hr_job_abort(job);
    assert_int_equal(truncate(state, 25), 0);
    assert_int_equal(open_job(&job, 0.1, false, &err), HR_EFORMAT);
    assert_non_null(strstr(err.msg, "; --restart discards it"));
}

static void test_a_second_process_that_makes_the_same_output_is_refused(void **s)
{
    (void)s;
    hr_err err = HR_ERR_INIT;
    hr_job *job, *second;
    int status;
    assert_ok(open_job(&job, 0.1, false, &err), err);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(open_job(&second, 0.1, true, &err) == HR_EIO && strstr(err.msg, "another process") ? 7 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 7);
    assert_ok(hr_job_commit(job, &err), err);
}

static void test_no_state_beside_an_output_that_is_no_file(void **s)
{
    (void)s;
    hr_err err = HR_ERR_INIT;
    json_t *run = run_of(1), *at = json_object();
    hr_job *job;
    assert_ok(hr_job_open(&job, &(hr_job_opts){.output = "/dev/null", .run = run}, &err), err);
    assert_false(hr_job_due(job));
    assert_ok(hr_job_save(job, at, NULL, 0, &err), err);
    assert_null(hr_job_saved(job));
    assert_ok(hr_job_commit(job, &err), err);
    assert_int_not_equal(access("/dev/null.state", F_OK), 0);
    json_decref(run);
    json_decref(at);
}

/* A child ends the job and is killed at the point; then, is there an output, and is there still a state? */
static void commit_and_crash(const char *point, bool *is_output, bool *is_state)
{
    begin(0.1, 5);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        hr_err err = HR_ERR_INIT;
        hr_job *job;
        setenv("HERACLES_CRASH", point, 1);
        _exit(open_job(&job, 0.1, false, &err) || hr_job_commit(job, &err));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    *is_output = access(output, F_OK) == 0;
    *is_state = access(state, F_OK) == 0;
}

static void test_a_crash_at_the_end_leaves_the_state_that_makes_the_output_again(void **s)
{
    (void)s;
    hr_err err = HR_ERR_INIT;
    bool is_output, is_state;
    commit_and_crash("write:1", &is_output, &is_state);
    assert_true(!is_output && is_state);
    commit_and_crash("rename:1", &is_output, &is_state);
    assert_true(!is_output && is_state);
    commit_and_crash("renamed:1", &is_output, &is_state);
    assert_true(is_output && is_state);
    hr_job *job;
    assert_ok(open_job(&job, 0.1, false, &err), err);
    assert_non_null(hr_job_saved(job));
    assert_ok(hr_job_commit(job, &err), err);
    assert_int_not_equal(access(state, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_goes_on_where_it_was_saved_and_the_state_goes_when_the_output_is_there,
                                  clean),
        cmocka_unit_test_teardown(test_state_of_another_run_is_refused_by_name_and_kept_until_restart, clean),
        cmocka_unit_test_teardown(test_damaged_state_is_refused_in_one_line_that_names_restart, clean),
        cmocka_unit_test_teardown(test_a_second_process_that_makes_the_same_output_is_refused, clean),
        cmocka_unit_test(test_no_state_beside_an_output_that_is_no_file),
        cmocka_unit_test_teardown(test_a_crash_at_the_end_leaves_the_state_that_makes_the_output_again,
                                  clean),
    };
    return cmocka_run_group_tests_name("job", tests, make_dir, remove_dir);
}
