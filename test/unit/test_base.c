/* test/unit/test_base.c -- lib/base against published vectors and its own promises. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_crc32c_matches_rfc3720(void **state)
{
    (void)state;
    unsigned char zeros[32] = {0}, ones[32];
    memset(ones, 0xff, sizeof ones);
    assert_int_equal(hr_crc32c(0, "123456789", 9), 0xE3069283);
    assert_int_equal(hr_crc32c(0, zeros, 32), 0x8A9136AA);
    assert_int_equal(hr_crc32c(0, ones, 32), 0x62A8AB43);
    assert_int_equal(hr_crc32c(hr_crc32c(0, "1234", 4), "56789", 5), 0xE3069283);
}

static void test_sha256_matches_fips180(void **state)
{
    (void)state;
    char hex[65];
    hr_sha256 *h = hr_sha256_new();
    hr_sha256_add(h, "a", 1);
    hr_sha256_add(h, "bc", 2);
    hr_sha256_end(h, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

/* Known-answer tests of Random123's distribution (kat_vectors, philox4x32 10). */
static void test_philox_matches_known_answers(void **state)
{
    (void)state;
    uint32_t r[4];
    hr_philox(0, 0, 0, 0, 0, 0, r);
    assert_int_equal(r[0], 0x6627e8d5);
    assert_int_equal(r[1], 0xe169c58d);
    assert_int_equal(r[2], 0xbc57ac4c);
    assert_int_equal(r[3], 0x9b00dbd8);
    hr_philox(0xa4093822, 0x299f31d0, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, r);
    assert_int_equal(r[0], 0xd16cfe09);
    assert_int_equal(r[1], 0x94fdcceb);
    assert_int_equal(r[2], 0x5001e420);
    assert_int_equal(r[3], 0x24126ea1);
}

static void test_draws_have_the_moments_they_claim(void **state)
{
    (void)state;
    enum { N = 200000 };
    float *v = hr_xmalloc(N * sizeof *v);
    double sum = 0, sq = 0;
    hr_fill_uniform(v, N, -0.1f, 0.1f, 7, HR_STREAM_TEST, 1, 2, 3);
    for (int i = 0; i < N; i++) {
        assert_true(v[i] > -0.1f && v[i] < 0.1f);
        sum += v[i];
        sq += v[i] * v[i];
    }
    assert_near(sum / N, 0.0, 5 * 0.0577 / sqrt(N));
    assert_near(sq / N, 0.01 / 3, 3e-5);
    hr_fill_normal(v, N, 1.0f, 2.0f, 7, HR_STREAM_TEST, 1, 2, 4);
    sum = sq = 0;
    for (int i = 0; i < N; i++) {
        sum += v[i];
        sq += (v[i] - 1.0) * (v[i] - 1.0);
    }
    assert_near(sum / N, 1.0, 5 * 2.0 / sqrt(N));
    assert_near(sq / N, 4.0, 0.07);
    free(v);
}

static void test_noise_belongs_to_its_counter(void **state)
{
    (void)state;
    float a[10], b[10], c[10];
    hr_fill_uniform(a, 10, 0, 1, 1, HR_STREAM_TEST, 5, 0, 42);
    hr_fill_uniform(b, 7, 0, 1, 1, HR_STREAM_TEST, 5, 0, 42);
    hr_fill_uniform(c, 10, 0, 1, 1, HR_STREAM_TEST, 5, 0, 43);
    assert_memory_equal(a, b, sizeof(float) * 7);
    assert_memory_not_equal(a, c, sizeof a);
}

static void test_permutation_is_one_and_depends_on_the_seed(void **state)
{
    (void)state;
    uint32_t p[1000], q[1000];
    bool seen[1000] = {0};
    hr_permutation(p, 1000, 3, HR_STREAM_TEST, 0);
    hr_permutation(q, 1000, 4, HR_STREAM_TEST, 0);
    for (int i = 0; i < 1000; i++) {
        assert_true(p[i] < 1000 && !seen[p[i]]);
        seen[p[i]] = true;
    }
    assert_memory_not_equal(p, q, sizeof p);
}

static void test_rng_words_are_those_of_the_counter(void **state)
{
    (void)state;
    static const uint64_t from[] = {0, UINT64_C(1) << 34}; /* there the block's number needs its upper half */
    for (size_t k = 0; k < HR_COUNT(from); k++) {
        hr_rng r = {.seed = 9, .stream = HR_STREAM_TEST, .next = from[k]};
        for (uint32_t i = 0; i < 9; i++) {
            uint32_t w[4];
            hr_philox(9, HR_STREAM_TEST, (uint32_t)k, 0, 0, i / 4, w);
            assert_int_equal(hr_rng_u32(&r), w[i % 4]);
        }
    }
}

static void test_rng_below_is_uniform(void **state)
{
    (void)state;
    hr_rng r = {.seed = 9, .stream = HR_STREAM_TEST};
    int count[7] = {0};
    for (int i = 0; i < 70000; i++)
        count[hr_rng_below(&r, 7)]++;
    double chi2 = 0;
    for (int i = 0; i < 7; i++)
        chi2 += (count[i] - 10000.0) * (count[i] - 10000.0) / 10000.0;
    assert_true(chi2 < 22.46); /* 6 degrees of freedom, p = 0.001 */
}

static void test_numbers_are_parsed_whole(void **state)
{
    (void)state;
    double d;
    int64_t i;
    assert_true(hr_parse_real("8/255", &d));
    assert_near(d, 8.0 / 255.0, 0);
    assert_true(hr_parse_real("1e-3", &d));
    for (const char *const *s =
             (const char *const[]){"8x", "8/", "/2", "1/0", "", " 1", "nan", "inf", "1/2/3", NULL};
         *s; s++)
        assert_false(hr_parse_real(*s, &d));
    assert_true(hr_parse_int("-12", &i));
    assert_int_equal(i, -12);
    for (const char *const *s = (const char *const[]){"1.5", "", "12a", " 1", "99999999999999999999", NULL};
         *s; s++)
        assert_false(hr_parse_int(*s, &i));
}

static void test_output_appears_whole_or_not_at_all(void **state)
{
    (void)state;
    char dir[] = "/tmp/heracles-out-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = hr_xasprintf("%s/x.txt", dir), *partial = hr_xasprintf("%s/.x.txt.partial", dir);
    hr_err err = HR_ERR_INIT;
    hr_out *out, *second;

    assert_ok(hr_out_open(&out, path, 0, &err), err);
    fputs("one", hr_out_file(out));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(hr_out_open(&second, path, 0, &err), HR_EINVAL);
    assert_non_null(strstr(err.msg, "two outputs"));
    assert_int_equal(hr_out_open(&second, "", 0, &err), HR_EINVAL);
    assert_ok(hr_out_commit(out, &err), err);
    assert_int_equal(access(path, F_OK), 0);

    assert_ok(hr_out_open(&out, path, 0, &err), err);
    fputs("two", hr_out_file(out));
    hr_out_abort(out);
    hr_in in;
    char text[4] = "";
    assert_ok(hr_in_open(&in, path, &err), err);
    assert_int_equal(in.size, 3);
    assert_ok(hr_in_read(&in, text, 3, "text", &err), err);
    assert_string_equal(text, "one");
    assert_int_equal(hr_in_read(&in, text, 1, "more", &err), HR_EFORMAT);
    hr_in_close(&in);
    assert_int_not_equal(access(partial, F_OK), 0);

    assert_int_equal(hr_in_open(&in, dir, &err), HR_EIO);
    assert_non_null(strstr(err.msg, "is a directory"));
    unlink(path);
    rmdir(dir);
    free(path);
    free(partial);
}

/* The status with which a child leaves that runs f(path). */
static int in_child(int (*f)(const char *path), const char *path)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0)
        exit(f(path));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int is_locked(const char *path)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    _exit(hr_out_open(&out, path, 0, &err) == HR_EIO && strstr(err.msg, "another process") ? 7 : 1);
}

static int leave_in_the_middle(const char *path)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    if (hr_out_open(&out, path, 0, &err))
        return 1;
    fputs("half", hr_out_file(out));
    return 8;
}

static void test_output_is_one_writers_and_goes_with_it(void **state)
{
    (void)state;
    char dir[] = "/tmp/heracles-out-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = hr_xasprintf("%s/x.txt", dir), *other = hr_xasprintf("%s/y.txt", dir);
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    assert_ok(hr_out_open(&out, path, 0, &err), err);
    assert_int_equal(in_child(is_locked, path), 7);
    hr_out_abort(out);
    assert_int_equal(in_child(leave_in_the_middle, other), 8);
    assert_int_equal(rmdir(dir), 0); /* so it is empty */
    free(path);
    free(other);
}

/* The content of dir/name, at most 7 characters; "-" when it is missing. */
static const char *content(const char *dir, const char *name)
{
    static char text[8];
    char *path = hr_xasprintf("%s/%s", dir, name);
    FILE *fp = fopen(path, "r");
    snprintf(text, sizeof text, "-");
    if (fp) {
        text[fread(text, 1, sizeof text - 1, fp)] = '\0';
        fclose(fp);
    }
    free(path);
    return text;
}

static void write_held(const char *dir, const char *name, const char *text)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    char *path = hr_xasprintf("%s/%s", dir, name);
    assert_ok(hr_out_open(&out, path, 0, &err), err);
    fputs(text, hr_out_file(out));
    assert_ok(hr_out_commit(out, &err), err);
    free(path);
}

static void test_held_outputs_appear_together_or_not_at_all(void **state)
{
    (void)state;
    char dir[] = "/tmp/heracles-out-XXXXXX";
    assert_non_null(mkdtemp(dir));
    hr_err err = HR_ERR_INIT;
    write_held(dir, "a", "old");
    hr_outs_hold();
    write_held(dir, "a", "new");
    write_held(dir, "b", "new");
    assert_string_equal(content(dir, "a"), "old");
    assert_string_equal(content(dir, ".b.partial"), "new");
    hr_outs_drop();
    assert_string_equal(content(dir, "a"), "old");
    assert_string_equal(content(dir, "b"), "-");
    assert_string_equal(content(dir, ".a.partial"), "-");

    hr_outs_hold();
    write_held(dir, "a", "new");
    write_held(dir, "b", "new");
    assert_ok(hr_outs_publish(&err), err);
    assert_string_equal(content(dir, "a"), "new");
    assert_string_equal(content(dir, "b"), "new");
    write_held(dir, "a", "last"); /* the holding has ended */
    assert_string_equal(content(dir, "a"), "last");

    char *a = hr_xasprintf("%s/a", dir), *b = hr_xasprintf("%s/b", dir);
    assert_int_equal(unlink(a) | unlink(b) | rmdir(dir), 0);
    free(a);
    free(b);
}

static void test_long_messages_keep_the_name_and_the_reason(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    char name[4000];
    memset(name, 'x', sizeof name - 1);
    name[0] = 'a';
    name[sizeof name - 1] = '\0';
    hr_fail(&err, HR_EIO, "%s: No such file or directory", name);
    assert_true(strlen(err.msg) < sizeof err.msg && err.msg[0] == 'a');
    assert_non_null(strstr(err.msg, "x: No such file or directory"));
    hr_fail(&err, HR_EIO, "again: %s", err.msg); /* its own message may be an argument */
    assert_int_equal(strncmp(err.msg, "again: axxx", 11), 0);
}

/* What the library did to files while `watched`, in order: f a file synced, d a directory synced, r a rename.
 * These definitions come before libc's when the test is linked. */
static char done[8];
static bool watched, sync_fails;

static void note(char what)
{
    size_t n = strlen(done);
    if (watched && n + 1 < sizeof done)
        done[n] = what;
}

int fsync(int fd)
{
    struct stat st;
    note(fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) ? 'd' : 'f');
    if (watched && sync_fails) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    note('r');
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

static void test_output_is_synced_then_renamed_then_its_directory_is_synced(void **state)
{
    (void)state;
    char dir[] = "/tmp/heracles-out-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = hr_xasprintf("%s/x.txt", dir);
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    assert_ok(hr_out_open(&out, path, 0, &err), err);
    fputs("one", hr_out_file(out));
    watched = true;
    int rc = hr_out_commit(out, &err);
    watched = false;
    assert_int_equal(rc, HR_OK);
    assert_string_equal(done, "frd");

    memset(done, 0, sizeof done);
    assert_ok(hr_out_open(&out, path, 0, &err), err);
    watched = sync_fails = true;
    rc = hr_out_commit(out, &err);
    watched = sync_fails = false;
    assert_int_equal(rc, HR_EIO);
    assert_string_equal(done, "f"); /* what is not safely on the disk takes no name */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    free(path);
}

static void test_full_device_is_noticed(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    assert_ok(hr_out_open(&out, "/dev/full", 0, &err), err);
    fputs("x", hr_out_file(out));
    assert_int_equal(hr_out_commit(out, &err), HR_EIO);
    assert_non_null(strstr(err.msg, "/dev/full"));
}

static void test_messages_stay_on_one_line(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    assert_int_equal(hr_fail(&err, HR_EIO, "%s", "a\nb\033c"), HR_EIO);
    assert_string_equal(err.msg, "a?b?c");
}

/* A quarter of the work took ten seconds, so at least thirty are to come. */
static void test_the_progress_line_has_a_bar_a_rate_and_what_is_left(void **state)
{
    (void)state;
    int terminal, line, err = dup(STDERR_FILENO);
    if (err < 0 || openpty(&terminal, &line, NULL, NULL, NULL)) {
        print_message("no terminal can be had here\n");
        close(err);
        skip();
    }
    char text[512] = "";
    hr_progress p;
    dup2(line, STDERR_FILENO);
    hr_progress_start(&p, "images", 100);
    bool shown = p.on;
    p.start -= 10;
    p.drawn -= 10;
    hr_progress_at(&p, 25, "epoch 3");
    hr_progress_end(&p);
    dup2(err, STDERR_FILENO);
    /* a terminal hands over when it likes; nothing comes for ten seconds only if something is missing */
    struct pollfd ready = {.fd = terminal, .events = POLLIN};
    ssize_t more = 1;
    for (size_t n = 0; more > 0 && n < sizeof text - 1 && !strstr(text, "\033[K\r\033[K");
         n += more > 0 ? (size_t)more : 0)
        more = poll(&ready, 1, 10000) > 0 ? read(terminal, text + n, sizeof text - 1 - n) : 0;
    close(err);
    close(line);
    close(terminal);
    assert_true(shown);
    const char *rate = strstr(text, "25/100 "), *left = strstr(text, "eta ");
    assert_non_null(strstr(text, "\rimages [######..................]"));
    assert_true(rate && left);
    double per_second = strtod(rate + 7, NULL), seconds = strtod(left + 4, NULL);
    assert_true(per_second > 0 && per_second <= 2.5 &&
                seconds >= 30); /* no faster than that, however slow this is */
    assert_non_null(strstr(left, "epoch 3"));
    assert_non_null(strstr(left, "\033[K\r\033[K")); /* and gone in the end */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c_matches_rfc3720),
        cmocka_unit_test(test_sha256_matches_fips180),
        cmocka_unit_test(test_philox_matches_known_answers),
        cmocka_unit_test(test_draws_have_the_moments_they_claim),
        cmocka_unit_test(test_noise_belongs_to_its_counter),
        cmocka_unit_test(test_permutation_is_one_and_depends_on_the_seed),
        cmocka_unit_test(test_rng_words_are_those_of_the_counter),
        cmocka_unit_test(test_rng_below_is_uniform),
        cmocka_unit_test(test_numbers_are_parsed_whole),
        cmocka_unit_test(test_output_appears_whole_or_not_at_all),
        cmocka_unit_test(test_output_is_one_writers_and_goes_with_it),
        cmocka_unit_test(test_held_outputs_appear_together_or_not_at_all),
        cmocka_unit_test(test_output_is_synced_then_renamed_then_its_directory_is_synced),
        cmocka_unit_test(test_full_device_is_noticed),
        cmocka_unit_test(test_long_messages_keep_the_name_and_the_reason),
        cmocka_unit_test(test_messages_stay_on_one_line),
        cmocka_unit_test(test_the_progress_line_has_a_bar_a_rate_and_what_is_left),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
