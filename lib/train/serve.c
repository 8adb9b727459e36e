/* lib/train/serve.c -- the evaluator of the search: what is the dense network worth under this strategy?
 *
 * One JSON object a line. We speak first:
 *
 *     {"proto":1,"reg":"weight","layers":[{"name":"conv1","n":144},...],"batches":5,"images":500,"digest":...,
 *      "history":{...}}
 *
 * layers are the decisions in strategy order: all layers for weight; for channel those that have an entry of
 * their own, as a tied shortcut takes its block's conv1's kept count (and its own scores). digest is over
 * everything that a reply depends on, so that a search can tell whether it talks to the same evaluator again.
 * Then, as often as asked:
 *
 *     request  {"id":7,"kept":[144,230,...],"batches":[0,5]}
 *     reply    {"id":7,"n":500,"clean":301,"robust":122,"params":7707,"macs":...,"constant":true,"class":3}
 *
 * counts over the batches [a,b) (all, when not given), params and macs of what is kept, and constant and
 * class only when every image got the same one: no attack can hurt such a network, which is why it looks
 * good. The sum of the answers for parts of the batches is the answer for all.
 * A request that makes no sense gets {"id":..,"error":".."}.
 *
 * Every layer's scores are sorted once, at the start. The last of the `kept` entries that come first in that
 * order is then the limit: an entry stays when its score is larger, or as large and its index not higher,
 * which is the same set as hr_topk_mask's. So a request costs no sort and no mask, one pass over the weights:
 * from the dense network into the copy that is run. Batches are fixed, the noise belongs to the images: one
 * strategy has one outcome, whatever was asked before (ALG 6.6, sound).
 *
 * Batch norm. The running statistics are the dense network's: with most weights gone they describe nothing
 * any more. So the published search normalises by the batch, in the attack too, where each image's gradient
 * then depends on its neighbours. The other way, recalibrate: the statistics of the masked network are
 * measured on the first batches, clean (the mean of those batches' means and variances), and then taken for
 * running ones.
 */
#include "train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1 << 20, CALIBRATION = 4 /* batches: a few hundred images; more change little */ };

struct ranked {
    const hr_layer *l;
    int64_t n, kept; /* scores; those that the network being run keeps now, 0: not set yet */
    uint32_t *bits;  /* (n) the scores, which are >= 0, as whole numbers: in the same order */
    uint32_t *order; /* (n) entries, largest score first, then the lower index */
};

struct server {
    hr_model *m;
    const hr_dataset *ds;
    const hr_serve_opts *o;
    hr_layers layers;
    struct ranked *r; /* one per layer */
    int decisions;
    hr_exec *e;
    hr_model *now;   /* what e runs: a copy of m under a strategy, and what it learnt */
    uint32_t *begin; /* first image of every batch, and the end */
    uint32_t batches;
    hr_eval_attack clean, pgd;
    float *x;
    int32_t *y, *pred;
    uint32_t *rows, *index;
};

/* ---- what a strategy keeps ----------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void rank_layer(struct ranked *r, const hr_layer *l, const float *w, enum hr_reg reg)
{
    r->l = l;
    r->n = hr_score_count(l, reg);
    r->bits = hr_xmalloc((size_t)r->n * sizeof *r->bits);
    r->order = hr_xmalloc((size_t)r->n * sizeof *r->order);
    float *score = hr_xmalloc((size_t)r->n * sizeof *score);
    uint64_t *key = hr_xmalloc((size_t)r->n * sizeof *key);
    hr_score_weights(w, l, reg, HR_SCORE_L1, score);
    for (int64_t i = 0; i < r->n; i++) {
        float s = fabsf(score[i]);
        memcpy(&r->bits[i], &s, sizeof s);
        key[i] = (uint64_t)(UINT32_MAX - r->bits[i]) << 32 | (uint32_t)i;
    }
    qsort(key, (size_t)r->n, sizeof *key, by_key);
    for (int64_t i = 0; i < r->n; i++)
        r->order[i] = (uint32_t)key[i];
    free(score);
    free(key);
}

/* dst (l->n) = the weights src that stay, and zeros. */
static void keep_weights(const struct ranked *r, enum hr_reg reg, const float *src, float *dst)
{
    const uint32_t *bits = r->bits, last = r->order[r->kept - 1], limit = bits[last], n = (uint32_t)r->n;
    if (reg == HR_REG_WEIGHT) {
#pragma omp simd
        for (uint32_t i = 0; i < n; i++)
            dst[i] = (bits[i] > limit) | ((bits[i] == limit) & (i <= last)) ? src[i] : 0.0f;
        return;
    }
    int64_t taps = (int64_t)r->l->kh * r->l->kw;
    for (int64_t at = 0; at < r->l->n;) /* channels repeat for every output */
        for (uint32_t i = 0; i < n; i++) {
            bool stays = bits[i] > limit || (i <= last && bits[i] == limit);
            for (int64_t t = 0; t < taps; t++, at++)
                dst[at] = stays ? src[at] : 0.0f;
        }
}

/* The network being run becomes the dense one under the counts in s->r. */
static void apply(struct server *s)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(hr_exec_threads(s->e))
    for (int i = 0; i < s->layers.n; i++) {
        int t = s->r[i].l->weight;
        keep_weights(&s->r[i], s->o->reg, hr_tensor_f32(&s->m->tensors[t]),
                     hr_tensor_f32(&s->now->tensors[t]));
    }
    hr_exec_params(s->e);
}

/* Entry of the request that layer i obeys. */
static int decision(const struct server *s, int i)
{
    return s->o->reg == HR_REG_WEIGHT ? i : s->layers.l[i].channel_index;
}

static bool decides(const struct server *s, int i)
{
    return s->o->reg == HR_REG_WEIGHT || s->layers.l[i].tie < 0;
}

/* ---- requests ------------------------------------------------------------------------------------------ */

struct request {
    const json_t *kept;
    uint32_t from, to; /* batches */
};

static int parse_request(const struct server *s, const json_t *j, struct request *q, hr_err *err)
{
    if (!json_is_object(j))
        return hr_fail(err, HR_EFORMAT, "a request is a JSON object");
    if (!json_is_integer(json_object_get(j, "id")))
        return hr_fail(err, HR_EFORMAT, "'id' is no whole number");
    q->kept = json_object_get(j, "kept");
    if (!json_is_array(q->kept) || json_array_size(q->kept) != (size_t)s->decisions)
        return hr_fail(err, HR_EFORMAT, "'kept' must be a list of %d whole numbers", s->decisions);
    for (int i = 0; i < s->layers.n; i++) {
        const json_t *k = json_array_get(q->kept, (size_t)decision(s, i));
        if (!json_is_integer(k) || json_integer_value(k) < 1 || json_integer_value(k) > s->r[i].n)
            return hr_fail(err, HR_EFORMAT, "'kept' of layer '%s' must be a whole number in 1..%lld",
                           s->layers.l[i].name, (long long)s->r[i].n);
    }
    q->from = 0;
    q->to = s->batches;
    const json_t *range = json_object_get(j, "batches");
    if (range) {
        const json_t *a = json_array_get(range, 0), *b = json_array_get(range, 1);
        if (json_array_size(range) != 2 || !json_is_integer(a) || !json_is_integer(b) ||
            json_integer_value(a) < 0 || json_integer_value(b) > s->batches ||
            json_integer_value(a) >= json_integer_value(b))
            return hr_fail(err, HR_EFORMAT, "'batches' must be [a,b] with 0 <= a < b <= %u", s->batches);
        q->from = (uint32_t)json_integer_value(a);
        q->to = (uint32_t)json_integer_value(b);
    }
    return HR_OK;
}

/* next: the batch behind this one, s->batches: there is none. */
static uint32_t count_right(struct server *s, const hr_eval_attack *a, int n, uint32_t next)
{
    uint32_t count = 0;
    bool device = hr_exec_on_device(s->e);
    hr_eval_queue(s->e, a, 0, device ? NULL : s->x, s->y, s->index, n);
    if (device && next < s->batches) /* while it works */
        hr_device_ahead(s->e, s->ds, NULL, s->begin[next], s->begin[next + 1] - s->begin[next]);
    hr_argmax(hr_exec_logits(s->e), 0, n, hr_exec_classes(s->e), s->pred);
    for (int i = 0; i < n; i++)
        count += s->pred[i] == s->y[i];
    return count;
}

/* Images, labels and places in the data file of a batch; returns their number. */
static int take_batch(struct server *s, uint32_t b)
{
    int n = (int)(s->begin[b + 1] - s->begin[b]);
    for (int i = 0; i < n; i++) {
        s->rows[i] = s->begin[b] + (uint32_t)i;
        s->index[i] = s->ds->index[s->rows[i]];
        s->y[i] = s->ds->labels[s->rows[i]];
    }
    if (hr_exec_on_device(s->e))
        hr_device_batch(s->e, s->ds, NULL, s->begin[b], (uint32_t)n);
    else
        hr_batch_fill(s->ds, s->rows, n, s->x, s->y);
    return n;
}

/* Running statistics of the network as it is masked now. A momentum of 1/k makes them the mean over the
 * batches seen. The same batches whatever the request asks for, so that parts add up. */
static void recalibrate(struct server *s)
{
    for (uint32_t b = 0; b < s->batches && b < CALIBRATION; b++) {
        for (int i = 0; i < s->now->nnodes; i++)
            s->now->nodes[i].bn_momentum = 1.0 / (b + 1);
        int n = take_batch(s, b);
        if (hr_exec_on_device(s->e))
            hr_device_input(s->e, n);
        else
            memcpy(hr_exec_input(s->e), s->x, (size_t)n * hr_exec_input_len(s->e) * sizeof *s->x);
        hr_exec_forward(s->e, 0, n, HR_BN_BATCH_UPDATE);
    }
    hr_exec_params(s->e);
}

static int plan(struct server *s, hr_err *err)
{
    const hr_serve_opts *o = s->o;
    hr_exec_opts eo = {.batch = o->batch,
                       .threads = o->threads,
                       .batch_stats = o->recalibrate || o->bn != HR_BN_FOLDED,
                       .exact = o->exact,
                       .device = o->device};
    s->e = hr_exec_new(s->now, &eo, err);
    return s->e ? HR_OK : err->code;
}

/* A copy of the dense network learns which weights the counts in s->r are best spent on, and is measured from
 * now on. */
static int learn(struct server *s, hr_err *err)
{
    const hr_serve_opts *o = s->o;
    hr_strategy plan_of = {.reg = o->reg, .n = s->layers.n};
    plan_of.rate = hr_xcalloc((size_t)s->layers.n, sizeof *plan_of.rate);
    plan_of.kept = hr_xcalloc((size_t)s->layers.n, sizeof *plan_of.kept);
    for (int i = 0; i < s->layers.n; i++) {
        plan_of.kept[i] = s->r[i].kept;
        plan_of.rate[i] = (double)s->r[i].kept / (double)s->r[i].n;
    }
    hr_exec_free(s->e);
    s->e = NULL;
    hr_model_free(s->now);
    s->now = hr_model_copy(s->m);
    hr_layers ls = hr_layers_of(s->now);
    hr_model_set_strategy(s->now, &ls, &plan_of, false, HR_SCORE_L1);
    hr_layers_release(&ls);
    hr_strategy_release(&plan_of);
    hr_train_opts t = {.stage = HR_STAGE_PRUNE,
                       .objective = HR_OBJ_PGD,
                       .schedule = {.kind = HR_LR_COSINE, .lr = 0.1, .epochs = 1},
                       .momentum = 0.9,
                       .weight_decay = 5e-4,
                       .exact = o->exact,
                       .device = o->device,
                       .batch = HR_LEARN_BATCH,
                       .threads = o->threads,
                       .eps = o->eps,
                       .step = o->step,
                       .steps = o->steps,
                       .random_start = true,
                       .attack_bn = HR_BN_FOLDED,
                       .seed = o->seed,
                       .name = o->name};
    int rc = hr_train(s->now, o->learn, NULL, &t, err);
    return rc ? rc : plan(s, err);
}

/* The network of these counts, ready to be measured. A failure leaves it such that the next request, too,
 * begins anew. */
static int prepare(struct server *s, hr_err *err)
{
    int rc = HR_OK;
    if (s->o->learn)
        rc = learn(s, err);
    else
        apply(s);
    for (int i = 0; rc && i < s->layers.n; i++)
        s->r[i].kept = 0;
    if (rc == HR_OK && s->o->recalibrate)
        recalibrate(s);
    return rc;
}

static json_t *evaluate(struct server *s, const struct request *q, hr_err *err)
{
    int64_t params = 0, macs = 0;
    bool changed = false;
    for (int i = 0; i < s->layers.n; i++) {
        const hr_layer *l = &s->layers.l[i];
        struct ranked *r = &s->r[i];
        int64_t kept = json_integer_value(json_array_get(q->kept, (size_t)decision(s, i)));
        changed |= kept != r->kept;
        r->kept = kept;
        int64_t weights = r->kept * (l->n / r->n);
        params += weights;
        macs += weights * l->hout * l->wout;
    }
    if (changed && prepare(s, err))
        return NULL;

    uint32_t images = 0, clean = 0, robust = 0;
    int32_t first = -1;
    bool constant = true;
    for (uint32_t b = q->from; b < q->to; b++) {
        int n = take_batch(s, b);
        clean += count_right(s, &s->clean, n, b + 1 < q->to ? b + 1 : s->batches);
        if (b == q->from)
            first = s->pred[0];
        for (int i = 0; i < n; i++)
            constant &= s->pred[i] == first;
        robust += count_right(s, &s->pgd, n, b + 1 < q->to ? b + 1 : s->batches);
        images += (uint32_t)n;
    }
    json_t *j =
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "n", (json_int_t)images, "clean", (json_int_t)clean, "robust",
                  (json_int_t)robust, "params", (json_int_t)params, "macs", (json_int_t)macs);
    if (constant) {
        json_object_set_new(j, "constant", json_true());
        json_object_set_new(j, "class", json_integer(first));
    }
    return j;
}

static json_t *answer(struct server *s, const char *line, size_t n)
{
    hr_err err = HR_ERR_INIT;
    json_error_t je;
    struct request q = {0};
    json_t *request = json_loadb(line, n, JSON_REJECT_DUPLICATES, &je), *reply = json_object();
    const json_t *id = json_object_get(request, "id");
    json_object_set_new(reply, "id",
                        json_is_integer(id) ? json_integer(json_integer_value(id)) : json_null());
    if (!request)
        hr_fail(&err, HR_EFORMAT, "not JSON: %s", je.text);
    json_t *result = request && parse_request(s, request, &q, &err) == HR_OK ? evaluate(s, &q, &err) : NULL;
    if (result)
        json_object_update(reply, result);
    else
        json_object_set_new(reply, "error", json_string(err.msg));
    json_decref(result);
    json_decref(request);
    return reply;
}

/* ---- lines --------------------------------------------------------------------------------------------- */

/* The next line without its newline into buf; a line of LINE_MAX_BYTES or more is read over and *n says
 * LINE_MAX_BYTES. Returns false at the end of input. */
static bool read_line(FILE *in, char *buf, size_t *n)
{
    int c;
    *n = 0;
    while ((c = getc(in)) != EOF && c != '\n')
        if (*n < LINE_MAX_BYTES)
            buf[(*n)++] = (char)c;
    return c != EOF || *n > 0;
}

static int say(FILE *out, json_t *j, hr_err *err)
{
    char *text = hr_json_text(j, 0);
    fprintf(out, "%s\n", text);
    free(text);
    json_decref(j);
    if (fflush(out) || ferror(out))
        return hr_fail(err, HR_EIO, "<stdout>: the search does not read our replies any more");
    return HR_OK;
}

static int talk(struct server *s, FILE *in, FILE *out, hr_err *err)
{
    char *line = hr_xmalloc(LINE_MAX_BYTES);
    size_t n;
    int rc = HR_OK;
    while (!rc && read_line(in, line, &n)) {
        if (n == LINE_MAX_BYTES)
            rc = say(out, json_pack("{s:n, s:s}", "id", "error", "the line is too long"), err);
        else if (n > 0)
            rc = say(out, answer(s, line, n), err);
    }
    free(line);
    return rc;
}

/* ---- start --------------------------------------------------------------------------------------------- */

static json_t *greeting(const struct server *s)
{
    const hr_serve_opts *o = s->o;
    hr_buf b = {0};
    hr_buf_printf(&b, "%s %s %s %s eps %.17g step %.17g steps %d batch %d seed %u", o->digest, s->ds->digest,
                  hr_reg_names[o->reg], o->recalibrate ? "recalibrate" : hr_bn_mode_names[o->bn], o->eps,
                  o->step, o->steps, o->batch, o->seed);
    for (uint32_t i = 0; i < s->ds->n; i++) /* a subset keeps its places in the file, which key the noise */
        hr_buf_printf(&b, " %u", s->ds->index[i]);
    if (o->learn)
        hr_buf_printf(&b, " after %s", o->learn->digest);
    for (uint32_t i = 0; o->learn && i < o->learn->n; i++)
        hr_buf_printf(&b, " %u", o->learn->index[i]);
    char hex[65];
    hr_sha256 *h = hr_sha256_new();
    hr_sha256_add(h, b.data, b.len);
    hr_sha256_end(h, hex);
    hr_buf_release(&b);

    json_t *j = json_pack("{s:i, s:s}", "proto", 1, "reg", hr_reg_names[o->reg]), *list = json_array();
    for (int i = 0; i < s->layers.n; i++)
        if (decides(s, i))
            json_array_append_new(
                list, json_pack("{s:s, s:I}", "name", s->layers.l[i].name, "n", (json_int_t)s->r[i].n));
    json_object_set_new(j, "layers", list);
    json_object_set_new(j, "batches", json_integer(s->batches));
    json_object_set_new(j, "images", json_integer(s->ds->n));
    json_object_set_new(j, "digest", json_string(hex));
    json_t *made = hr_history_new(); /* for the strategy's: what it will have been chosen by */
    json_t *told = json_object_get(made, "options");
    json_object_set_new(told, "serve", json_true());
    json_object_set_new(told, "reg", json_string(hr_reg_names[o->reg]));
    json_object_set_new(told, "steps", json_integer(o->steps));
    json_object_set_new(told, "batch", json_integer(o->batch));
    hr_history_input(made, "model", o->digest, NULL);
    hr_history_input(made, "data", s->ds->whole, NULL);
    if (o->learn)
        hr_history_input(made, "train", o->learn->whole, NULL);
    json_object_set_new(j, "history", made);
    return j;
}

static void cut_batches(struct server *s)
{
    s->begin = hr_xcalloc((size_t)s->ds->n + 1, sizeof *s->begin);
    for (uint32_t at = 0; at < s->ds->n;) {
        at = hr_eval_batch_end(at, s->ds->n, s->o->batch, s->o->recalibrate ? HR_BN_BATCH : s->o->bn);
        s->begin[++s->batches] = at;
    }
}

static void release(struct server *s)
{
    hr_exec_free(s->e);
    hr_model_free(s->now);
    for (int i = 0; s->r && i < s->layers.n; i++) {
        free(s->r[i].bits);
        free(s->r[i].order);
    }
    free(s->r);
    free(s->begin);
    free(s->x);
    free(s->y);
    free(s->pred);
    free(s->rows);
    free(s->index);
    hr_layers_release(&s->layers);
}

int hr_serve(hr_model *m, const hr_dataset *ds, const hr_serve_opts *o, FILE *in, FILE *out, hr_err *err)
{
    struct server s = {.m = m, .now = hr_model_copy(m), .ds = ds, .o = o, .layers = hr_layers_of(m)};
    int rc = HR_OK;
    for (int i = 0; !rc && i < s.layers.n; i++)
        if (m->prune[s.layers.l[i].node].active)
            rc = hr_fail(err, HR_EINVAL, "%s: the network is pruned; a search needs the dense one", o->name);
    if (!rc)
        rc = plan(&s, err);
    if (rc)
        goto out;

    s.decisions = o->reg == HR_REG_WEIGHT ? s.layers.n : s.layers.channel_n;
    s.r = hr_xcalloc((size_t)s.layers.n, sizeof *s.r);
    for (int i = 0; i < s.layers.n; i++) {
        const hr_layer *l = &s.layers.l[i];
        rank_layer(&s.r[i], l, hr_tensor_f32(&m->tensors[l->weight]), o->reg);
    }
    cut_batches(&s);
    s.clean = (hr_eval_attack){.name = "clean", .clean = true, .restarts = 1, .opts = {.bn = o->bn}};
    s.pgd = (hr_eval_attack){.name = "pgd",
                             .restarts = 1,
                             .opts = {.eps = (float)o->eps,
                                      .step = (float)o->step,
                                      .steps = o->steps,
                                      .random_start = true,
                                      .bn = o->bn,
                                      .seed = o->seed,
                                      .stream = HR_STREAM_EVAL}};
    size_t batch = (size_t)o->batch;
    s.x = hr_xaligned(batch * hr_exec_input_len(s.e), sizeof *s.x);
    s.y = hr_xcalloc(batch, sizeof *s.y);
    s.pred = hr_xcalloc(batch, sizeof *s.pred);
    s.rows = hr_xcalloc(batch, sizeof *s.rows);
    s.index = hr_xcalloc(batch, sizeof *s.index);
    rc = say(out, greeting(&s), err);
    if (!rc)
        rc = talk(&s, in, out, err);
out:
    release(&s);
    return rc;
}
