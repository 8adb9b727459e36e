/* test/fuzz/peer.c -- what an evaluator may say to ddpg-search. The input is the pieces that it sends,
 * divided by the byte 0x1e: its greeting, then one piece for each request. */
#include "fuzz.h"

/* The reader of lines is not public: a process is started with it, and no fuzzer starts a million processes.
 */
#include "search/peer.c"

enum { PIECE_END = 0x1e };

static hr_space space;

static void make_space(void)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = fuzz_net(1);
    json_t *table = hr_layers_json(m);
    if (hr_space_parse(&space, table, "table", false, false, &err))
        hr_die("%s", err.msg);
    json_decref(table);
    hr_model_free(m);
}

/* From now on the evaluator says this and then closes its end; a file in memory is always ready. */
static void says(int fd, const uint8_t *data, size_t n)
{
    if (ftruncate(fd, 0) || pwrite(fd, data, n, 0) != (ssize_t)n || lseek(fd, 0, SEEK_SET))
        hr_die("a file in memory: %s", strerror(errno));
}

/* Ask, and read until there is an answer. */
static int question(hr_peer *p, hr_score_reply *reply, hr_err *err)
{
    bool done = false;
    int rc = hr_peer_ask(p, space.count, space.nd, 0, p->batches, err);
    while (rc == HR_OK && !done)
        rc = hr_peer_take(p, &done, reply, err);
    return rc;
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_score_reply reply;
    if (!space.n)
        make_space();
    hr_peer *p = hr_xcalloc(1, sizeof *p);
    *p = (hr_peer){.command = "fuzz", .s = &space, .timeout = 3600, .pid = -1, .restarted = true};
    p->to = open("/dev/null", O_WRONLY | O_CLOEXEC);
    p->from = open(fuzz_file(0, "", 0), O_RDWR | O_CLOEXEC);

    int rc = HR_OK, pieces = 0;
    for (size_t from = 0; rc == HR_OK && from < n && pieces < 64; pieces++) {
        const uint8_t *end = memchr(data + from, PIECE_END, n - from);
        size_t len = end ? (size_t)(end - data) - from : n - from;
        says(p->from, data + from, len);
        from += len + 1;
        if (pieces == 0)
            rc = hr_peer_greet(p, &err);
        else
            rc = question(p, &reply, &err);
        if (rc == HR_OK && pieces > 0)
            must(reply.images > 0 && reply.clean >= 0 && reply.clean <= reply.images && reply.robust >= 0 &&
                 reply.robust <= reply.images);
    }
    must(rc == HR_OK || err.msg[0]);
    if (rc == HR_OK && pieces)
        rc = hr_peer_finish(p, &err) == HR_EPEER ? HR_OK : HR_EIO; /* no process was there to leave */
    else
        hr_peer_kill(p);
    return rc == HR_OK && pieces > 1;
}

void fuzz_seeds(void)
{
    make_space();
    hr_buf b = {0};
    hr_buf_printf(&b, "{\"proto\":1,\"reg\":\"weight\",\"layers\":[");
    for (int d = 0; d < space.nd; d++)
        hr_buf_printf(&b, "%s{\"name\":\"%s\",\"n\":%lld}", d ? "," : "", space.l[space.decision[d]].name,
                      (long long)space.count[d]);
    hr_buf_printf(&b, "],\"batches\":5,\"images\":500,\"digest\":\"00ff\"}\n");
    hr_buf_printf(&b, "%c{\"id\":1,\"n\":500,\"clean\":301,\"robust\":122,\"params\":7707,\"macs\":99}\n",
                  PIECE_END);
    fuzz_seed("one", b.data, b.len);
    hr_buf_printf(&b, "%c{\"id\":2,\"n\":500,\"clean\":50,\"robust\":50,\"constant\":true}\n", PIECE_END);
    fuzz_seed("two", b.data, b.len);
    hr_buf_release(&b);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_mutate_json(data, size, max, seed, PIECE_END);
}
