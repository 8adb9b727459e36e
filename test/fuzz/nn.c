/* test/fuzz/nn.c -- .nn files: from a file and from a pipe the outcome is the same; a network that was
 * accepted can be described, copied, pruned by every rule, run, and saved to a file that is accepted again.
 */
#include "fuzz.h"

#include "compute/compute.h"
#include "prune/prune.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a network may cost to be run here. A .nn file describes its activations, it does not hold them, so a
 * tool's memory for them is no matter of the file's size. */
enum { MAX_RUN = 1 << 20 };

static void describe(const hr_model *m)
{
    hr_buf text = {0};
    hr_layers ls = hr_layers_of(m);
    for (int i = 0; i < ls.n; i++) {
        const hr_prune *p = &m->prune[ls.l[i].node];
        must(!p->set || (p->kept >= 1 && p->kept <= hr_score_count(&ls.l[i], p->reg)));
    }
    hr_layers_release(&ls);
    json_t *j = hr_layers_json(m);
    json_decref(j);
    j = hr_tensors_json(m);
    json_decref(j);
    for (int tsv = 0; tsv < 2; tsv++) {
        hr_layers_table(m, tsv, &text);
        hr_tensors_table(m, tsv, &text);
    }
    hr_buf_release(&text);
}

static void prune(const hr_model *m, const char *spec, enum hr_reg reg)
{
    hr_err err = HR_ERR_INIT;
    hr_strategy s;
    hr_layers ls = hr_layers_of(m);
    if (hr_strategy_make(&s, spec, reg, m, &ls, false, HR_MEASURE_INOUT, &err) == HR_OK) {
        hr_model *copy = hr_model_copy(m);
        hr_model_set_strategy(copy, &ls, &s, true, HR_SCORE_L1);
        hr_model_zero_pruned(copy, &ls);
        if (hr_model_check(copy, "pruned", &err))
            BUG("%s makes a bad network: %s", spec, err.msg);
        hr_model_free(copy);
        hr_strategy_release(&s);
    }
    hr_layers_release(&ls);
}

static void run(hr_model *m)
{
    hr_err err = HR_ERR_INIT;
    int64_t cells = 0;
    hr_layers ls = hr_layers_of(m);
    int64_t macs = ls.macs;
    hr_layers_release(&ls);
    for (int i = 0; i < m->nnodes; i++)
        cells += (int64_t)m->nodes[i].c * m->nodes[i].h * m->nodes[i].w;
    if (cells > MAX_RUN / 16 || macs > MAX_RUN)
        return;
    hr_exec_opts o = {.batch = 2, .threads = 1};
    hr_exec *e = hr_exec_new(m, &o, &err);
    if (!e)
        return;
    memset(hr_exec_input(e), 0, 2 * hr_exec_input_len(e) * sizeof(float));
    hr_exec_forward(e, 0, 2, HR_BN_FOLDED);
    memset(hr_exec_dlogits(e), 0, 2 * (size_t)hr_exec_classes(e) * sizeof(float));
    hr_exec_backward(e, 0, 2, HR_BN_FOLDED, HR_DX);
    hr_exec_free(e);
}

static void save_again(const hr_model *m)
{
    hr_err err = HR_ERR_INIT;
    hr_model *again;
    char *path = hr_xasprintf("%s/saved.nn", fuzz_dir());
    if (hr_nn_save(m, path, NULL, &err) || hr_nn_load(path, &again, NULL, &err))
        BUG("cannot be saved and read again: %s", err.msg);
    must(again->nnodes == m->nnodes && again->ntensors == m->ntensors);
    hr_model_free(again);
    unlink(path);
    free(path);
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    static const char *const specs[] = {"uniform:0.3", "uniform+:0.5", "erk:0.2", "lamp:0.3", "global:0.1"};
    hr_err err = HR_ERR_INIT;
    hr_model *m = NULL, *piped = NULL;
    int rc = hr_nn_load(fuzz_file(0, data, n), &m, NULL, &err);
    if (n % 4 == 0) {
        int fd;
        must(hr_nn_load(fuzz_pipe(data, n, &fd), &piped, NULL, &err) == rc);
        close(fd);
        hr_model_free(piped);
    }
    if (rc)
        return false;
    describe(m);
    for (size_t i = 0; i < HR_COUNT(specs); i++)
        prune(m, specs[i], (data[n / 2] + i) % 2 ? HR_REG_WEIGHT : HR_REG_CHANNEL);
    run(m);
    if (n % 16 == 0) /* files of their own are slow */
        save_again(m);
    hr_model_free(m);
    return true;
}

static void seed(const char *name, const hr_model *m)
{
    hr_err err = HR_ERR_INIT;
    char *path = hr_xasprintf("%s/seed.nn", fuzz_dir());
    if (hr_nn_save(m, path, NULL, &err))
        hr_die("%s", err.msg);
    fuzz_seed_file(name, path);
    free(path);
}

/* A few nodes only, so that a change hits each of them often. */
static hr_model *small_net(bool convolutional)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = hr_model_new("small", 1, convolutional ? 4 : 1, convolutional ? 4 : 1, 2);
    int last = 0;
    if (convolutional) {
        last = hr_model_add_batchnorm(m, "bn", hr_model_add_conv(m, "conv", 0, 1, 2, 3, 1, 1, false), 2);
        last = hr_model_add_pool(m, "max", HR_OP_MAXPOOL, last, 2, 2, 0);
        last = hr_model_add_pool(m, "even", HR_OP_ADAPTIVE_AVGPOOL, last, 1, 1, 0);
        last = hr_model_add_node(m, "flat", HR_OP_FLATTEN, last, -1);
    }
    hr_model_add_linear(m, "fc", last, convolutional ? 2 : 1, 2, false);
    if (hr_model_check(m, "seed", &err))
        hr_die("%s", err.msg);
    return m;
}

static void set_strategy(hr_model *m, enum hr_reg reg, bool active)
{
    hr_err err = HR_ERR_INIT;
    hr_strategy s;
    hr_layers ls = hr_layers_of(m);
    if (hr_strategy_make(&s, "uniform:0.5", reg, m, &ls, false, HR_MEASURE_INOUT, &err))
        hr_die("%s", err.msg);
    hr_model_set_strategy(m, &ls, &s, active, HR_SCORE_L1);
    hr_strategy_release(&s);
    hr_layers_release(&ls);
}

void fuzz_seeds(void)
{
    static const char *const sizes[] = {"linear", "small"};
    for (int convolutional = 0; convolutional < 2; convolutional++) {
        hr_model *m = small_net(convolutional);
        seed(sizes[convolutional], m);
        hr_model_free(m);
    }
    for (int kind = 0; kind < 4; kind++) {
        static const char *const names[] = {"weight-planned", "channel-planned", "weight-active",
                                            "channel-active"};
        hr_model *m = small_net(true);
        set_strategy(m, kind % 2 ? HR_REG_CHANNEL : HR_REG_WEIGHT, kind / 2);
        seed(names[kind], m);
        hr_model_free(m);
    }
    hr_model *m = fuzz_net(1);
    m->meta = json_pack("{s:{s:s}}", "strategy", "id", "01_0");
    m->history = json_pack("{s:s, s:{}, s:[]}", "tool", "fuzz", "options", "inputs");
    set_strategy(m, HR_REG_CHANNEL, true);
    seed("all", m);
    hr_model_free(m);

    m = small_net(true);
    for (int t = 0; t < HR_DTYPE_COUNT; t++) /* extras of every type, one of them a scalar */
        hr_model_add_tensor(m, hr_dtype_names[t], (enum hr_dtype)t, t % 3, (const int64_t[]){2, 3});
    seed("extras", m);
    hr_model_free(m);
}

/* ---- msgpack maps, changed by way of JSON ----------------------------------------------------------------
 */

/* Take n bytes off the input as a big-endian number; false when there are fewer. */
static bool take(const uint8_t **p, const uint8_t *end, unsigned n, uint64_t *v)
{
    if ((size_t)(end - *p) < n)
        return false;
    for (*v = 0; n > 0; n--)
        *v = *v << 8 | *(*p)++;
    return true;
}

/* Take one object off the input, or return NULL: cut, or of a kind that .nn files do not use. (msgpack-c's
 * unpacker believes lengths: it is no choice for damaged maps.) */
static json_t *to_json(const uint8_t **p, const uint8_t *end, int depth)
{
    uint64_t tag, n = 0;
    if (depth == 0 || !take(p, end, 1, &tag))
        return NULL;
    if (tag <= 0x7f || tag >= 0xe0)
        return json_integer((int8_t)tag);
    if (tag >= 0xcb && tag <= 0xd3) { /* float64, integers */
        unsigned bytes = tag == 0xcb ? 8 : 1u << (tag & 3);
        if (!take(p, end, bytes, &n))
            return NULL;
        double x;
        memcpy(&x, &n, sizeof x);
        return tag == 0xcb ? json_real(x) : json_integer((json_int_t)n);
    }
    bool map = tag <= 0x8f || tag == 0xde || tag == 0xdf,
         array = (tag & 0xf0) == 0x90 || (tag & 0xfe) == 0xdc;
    if (tag < 0xc0)
        n = tag & (map || array ? 0x0f : 0x1f);
    else if (map || array ? !take(p, end, tag & 1 ? 4 : 2, &n)
                          : tag < 0xd9 || tag > 0xdb || !take(p, end, 1u << (tag - 0xd9), &n))
        return NULL;
    if (!map && !array) {
        if (n > (size_t)(end - *p))
            return NULL;
        *p += n;
        return json_stringn((const char *)*p - n, n);
    }
    json_t *j = map ? json_object() : json_array();
    for (; n > 0; n--) {
        json_t *key = map ? to_json(p, end, depth - 1) : NULL;
        json_t *v = !map || json_is_string(key) ? to_json(p, end, depth - 1) : NULL;
        if (v && map)
            json_object_set(j, json_string_value(key), v);
        else if (v)
            json_array_append(j, v);
        json_decref(key);
        json_decref(v);
        if (!v) {
            json_decref(j);
            return NULL;
        }
    }
    return j;
}

static void from_json(msgpack_packer *pk, const json_t *j)
{
    const char *key;
    size_t i;
    json_t *v;
    switch (json_typeof(j)) {
    case JSON_INTEGER:
        msgpack_pack_int64(pk, json_integer_value(j));
        break;
    case JSON_REAL:
        msgpack_pack_double(pk, json_real_value(j));
        break;
    case JSON_STRING:
        msgpack_pack_str(pk, json_string_length(j));
        msgpack_pack_str_body(pk, json_string_value(j), json_string_length(j));
        break;
    case JSON_ARRAY:
        msgpack_pack_array(pk, json_array_size(j));
        json_array_foreach (j, i, v)
            from_json(pk, v);
        break;
    case JSON_OBJECT:
        msgpack_pack_map(pk, json_object_size(j));
        json_object_foreach ((json_t *)(uintptr_t)j, key, v) {
            msgpack_pack_str(pk, strlen(key));
            msgpack_pack_str_body(pk, key, strlen(key));
            from_json(pk, v);
        }
        break;
    default:
        msgpack_pack_nil(pk);
    }
}

/* Header, tensor descriptions and trailer as documents, notes as JSON text, tensors as bytes. */
static size_t change_payload(uint8_t *data, size_t size, size_t max, unsigned seed_)
{
    hr_rng r = {.seed = seed_, .stream = HR_STREAM_TEST};
    if (size && data[0] == '{')
        return fuzz_mutate_json(data, size, max, seed_, -1);
    const uint8_t *p = data;
    bool map = size > 4 && (data[0] & 0xf0) == 0x80;
    json_t *j = map && hr_rng_below(&r, 4) > 0 ? to_json(&p, data + size, 10) : NULL;
    if (!j)
        return LLVMFuzzerMutate(data, size, max);

    msgpack_sbuffer b;
    msgpack_packer pk;
    msgpack_sbuffer_init(&b);
    msgpack_packer_init(&pk, &b, msgpack_sbuffer_write);
    j = fuzz_change_json(j, &r);
    from_json(&pk, j);
    json_decref(j);
    size = b.size <= max ? b.size : 0;
    memcpy(data, b.data, size);
    msgpack_sbuffer_destroy(&b);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed_)
{
    static const struct fuzz_frames f = {
        .head = 6, .at = 2, .bytes = 4, .big = true, .tail = 5, .payload = change_payload};
    return fuzz_mutate_frames(&f, data, size, max, seed_);
}
