/* test/unit/test_state.c -- saved state comes back whole or not at all; a crash leaves the old one. */
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/heracles-state-XXXXXX";
static char *path;

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    path = hr_xasprintf("%s/x.state", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    char *partial = hr_xasprintf("%s/.x.state.partial", dir);
    unlink(path);
    unlink(partial);
    free(partial);
    free(path);
    return rmdir(dir);
}

static int save(int episode, float *a, size_t na, double *b, hr_err *err)
{
    json_t *meta = json_pack("{s:i}", "episode", episode);
    hr_block blocks[] = {{"a", a, na * sizeof *a}, {"b", b, sizeof *b}};
    int rc = hr_state_save(path, meta, blocks, HR_COUNT(blocks), err);
    json_decref(meta);
    return rc;
}

static int load(float *a, size_t na, double *b, hr_err *err)
{
    hr_block blocks[] = {{"a", a, na * sizeof *a}, {"b", b, sizeof *b}};
    return hr_state_load(path, blocks, HR_COUNT(blocks), err);
}

static void test_blocks_and_document_come_back(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    float a[3] = {1, 2, 3}, a2[3] = {0};
    double b = 0.1, b2 = 0;
    assert_ok(save(7, a, 3, &b, &err), err);
    json_t *meta;
    assert_ok(hr_state_peek(path, &meta, &err), err);
    assert_int_equal(json_integer_value(json_object_get(meta, "episode")), 7);
    json_decref(meta);
    assert_ok(load(a2, 3, &b2, &err), err);
    assert_memory_equal(a, a2, sizeof a);
    assert_true(b == b2);
    assert_int_equal(load(a2, 2, &b2, &err), HR_ESHAPE);
}

static void test_missing_state_is_no_error(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    json_t *meta;
    unlink(path);
    assert_ok(hr_state_peek(path, &meta, &err), err);
    assert_null(meta);
}

static void test_every_cut_and_every_flip_is_refused_and_nothing_is_filled(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    float a[2] = {1, 2};
    double b = 3;
    assert_ok(save(1, a, 2, &b, &err), err);
    hr_in in;
    hr_buf good = {0};
    assert_ok(hr_in_open(&in, path, &err), err);
    assert_ok(hr_in_slurp(&in, &good, 1 << 20, &err), err);
    hr_in_close(&in);
    for (size_t i = 0; i < 2 * good.len + 1; i++) {
        bool cut = i < good.len, longer = i == 2 * good.len;
        FILE *fp = fopen(path, "wb");
        assert_non_null(fp);
        if (!cut && !longer)
            good.data[i - good.len] ^= 0x10;
        fwrite(good.data, 1, cut ? i : good.len, fp);
        if (longer)
            fputc(0, fp);
        fclose(fp);
        if (!cut && !longer)
            good.data[i - good.len] ^= 0x10;
        float a2[2] = {-1, -1};
        double b2 = -1;
        if (load(a2, 2, &b2, &err) == HR_OK)
            fail_msg("%s at byte %zu was accepted", cut ? "a cut" : "a flip", cut ? i : i - good.len);
        assert_true(a2[0] == -1 && a2[1] == -1 && b2 == -1);
    }
    hr_buf_release(&good);
}

/* A child saves state 2 over state 1 and is killed at the point. Returns the episode that can be read then.
 */
static int episode_after_crash(const char *point)
{
    hr_err err = HR_ERR_INIT;
    float a[1] = {1};
    double b = 1;
    assert_ok(save(1, a, 1, &b, &err), err);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("HERACLES_CRASH", point, 1);
        _exit(save(2, a, 1, &b, &err));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    json_t *meta;
    assert_ok(hr_state_peek(path, &meta, &err), err);
    int episode = (int)json_integer_value(json_object_get(meta, "episode"));
    json_decref(meta);
    return episode;
}

static void test_a_crash_leaves_the_old_state_or_the_new_one(void **state)
{
    (void)state;
    assert_int_equal(episode_after_crash("write:1"), 1);
    assert_int_equal(episode_after_crash("rename:1"), 1);
    assert_int_equal(episode_after_crash("renamed:1"), 2);
}

static void test_another_run_is_told_by_name(void **state)
{
    (void)state;
    char what[200] = "";
    json_t *a = json_loads("{\"tool\":\"t\",\"version\":\"1\",\"options\":{\"lr\":0.1,\"seed\":1},"
                           "\"inputs\":[{\"role\":\"model\",\"sha256\":\"aa\"}]}",
                           0, NULL);
    json_t *b = json_deep_copy(a);
    assert_false(hr_history_differs(a, b, what, sizeof what));
    json_object_set_new(json_object_get(b, "options"), "lr", json_real(0.05));
    assert_true(hr_history_differs(a, b, what, sizeof what));
    assert_string_equal(what, "--lr was 0.1, now 0.05");
    json_object_set_new(json_object_get(b, "options"), "lr", json_real(0.1));
    json_object_set_new(json_array_get(json_object_get(b, "inputs"), 0), "sha256", json_string("bb"));
    assert_true(hr_history_differs(a, b, what, sizeof what));
    assert_string_equal(what, "input 'model' has changed");
    json_decref(a);
    json_decref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_state_is_no_error),
        cmocka_unit_test(test_blocks_and_document_come_back),
        cmocka_unit_test(test_every_cut_and_every_flip_is_refused_and_nothing_is_filled),
        cmocka_unit_test(test_a_crash_leaves_the_old_state_or_the_new_one),
        cmocka_unit_test(test_another_run_is_told_by_name),
    };
    return cmocka_run_group_tests_name("state", tests, make_dir, remove_dir);
}
