/* lib/compute/cpu/plan.c -- from a graph to fused steps and one arena (plan.h explains both). */
#include "compute/cpu/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A layer whose dW has more values than this is worked off by tiles, so that no partial sum per chunk has to
 * be kept. Which way is taken does not change the bits: the sums and their tree are the same. With Winograd's
 * algorithm it does (another order of summation), and what decides is where its four times larger sums fit
 * into a cache. */
enum { DW_CHUNKWISE_MAX = 65536, DW_CHUNKWISE_WINO = 9 * 128 * 128 };

/* ---- fusion -------------------------------------------------------------------------------------------- */

typedef struct fusion {
    const hr_model *m;
    int *readers; /* live readers of each node */
    int *reader;  /* the last of them */
    bool *live;   /* reaches the output */
    bool *taken;  /* inside a fused step */
    int *step_of; /* e->value while it is being made */
} fusion;

static fusion survey(const hr_model *m, int *value)
{
    size_t n = (size_t)m->nnodes;
    fusion f = {m,
                hr_xcalloc(n, sizeof(int)),
                hr_xcalloc(n, sizeof(int)),
                hr_xcalloc(n, sizeof(bool)),
                hr_xcalloc(n, sizeof(bool)),
                value};
    f.live[m->nnodes - 1] = true;
    for (int i = m->nnodes - 1; i > 0; i--)
        for (int j = 0; f.live[i] && j < m->nodes[i].nin; j++) {
            int in = m->nodes[i].in[j];
            f.live[in] = true;
            f.readers[in]++;
            f.reader[in] = i;
        }
    return f;
}

/* The node that alone reads node i, if it is of this kind; else -1. */
static int sole_reader(const fusion *f, int i, enum hr_op op)
{
    if (f->readers[i] == 1 && f->m->nodes[f->reader[i]].op == op)
        return f->reader[i];
    return -1;
}

/* Take node `next` into a step. */
static int absorb(const fusion *f, int next)
{
    f->taken[next] = true;
    return next;
}

static void fuse(const fusion *f, hr_step *s, int step)
{
    int last = s->node, next;
    if (s->kind == HR_STEP_CONV && (next = sole_reader(f, last, HR_OP_BATCHNORM)) >= 0) {
        s->bn = next;
        last = absorb(f, next);
    }
    if (s->kind == HR_STEP_CONV && (next = sole_reader(f, last, HR_OP_ADD)) >= 0) {
        const hr_node *add = &f->m->nodes[next];
        int other = add->in[0] == last ? add->in[1] : add->in[0];
        if (other < s->node && f->step_of[other] >= 0) {
            s->in2 = f->step_of[other];
            last = absorb(f, next);
        }
    }
    if ((s->kind == HR_STEP_CONV || s->kind == HR_STEP_BN || s->kind == HR_STEP_ADD) &&
        (next = sole_reader(f, last, HR_OP_RELU)) >= 0) {
        s->relu = true;
        last = absorb(f, next);
    }
    f->step_of[last] = step;
    const hr_node *n = &f->m->nodes[last];
    s->c = n->c;
    s->h = n->h;
    s->w = n->w;
    s->len = (size_t)n->c * (size_t)n->h * (size_t)n->w;
}

/* Nodes that only hand their input on. */
static bool changes_nothing(const hr_model *m, const hr_node *n)
{
    const hr_node *in = &m->nodes[n->in[0]];
    return (n->op == HR_OP_FLATTEN && in->h == 1 && in->w == 1) ||
           (n->op == HR_OP_ADAPTIVE_AVGPOOL && in->h == n->h && in->w == n->w);
}

static enum hr_step_kind kind_of(enum hr_op op)
{
    switch (op) {
    case HR_OP_INPUT:
        return HR_STEP_INPUT;
    case HR_OP_NORMALIZE:
        return HR_STEP_AFFINE;
    case HR_OP_CONV2D:
    case HR_OP_LINEAR:
        return HR_STEP_CONV;
    case HR_OP_BATCHNORM:
        return HR_STEP_BN;
    case HR_OP_RELU:
        return HR_STEP_RELU;
    case HR_OP_ADD:
        return HR_STEP_ADD;
    case HR_OP_MAXPOOL:
        return HR_STEP_MAXPOOL;
    case HR_OP_AVGPOOL:
    case HR_OP_ADAPTIVE_AVGPOOL:
        return HR_STEP_AVGPOOL;
    case HR_OP_FLATTEN:
        return HR_STEP_FLATTEN;
    case HR_OP_COUNT:
        break;
    }
    BUG("no step for operation %d", (int)op);
}

static void make_steps(hr_exec *e)
{
    const hr_model *m = e->m;
    fusion f = survey(m, e->value);
    for (int i = 0; i < m->nnodes; i++)
        e->value[i] = -1;
    for (int i = 0; i < m->nnodes; i++) {
        const hr_node *n = &m->nodes[i];
        if (!f.live[i] || f.taken[i])
            continue;
        if (n->nin > 0 && changes_nothing(m, n)) {
            e->value[i] = e->value[n->in[0]];
            continue;
        }
        hr_step *s = &e->steps[e->nsteps];
        *s = (hr_step){
            .kind = kind_of(n->op), .node = i, .bn = n->op == HR_OP_BATCHNORM ? i : -1, .in = -1, .in2 = -1};
        if (n->nin > 0)
            s->in = e->value[n->in[0]];
        if (n->op == HR_OP_ADD)
            s->in2 = e->value[n->in[1]];
        fuse(&f, s, e->nsteps);
        e->nsteps++;
    }
    free(f.readers);
    free(f.reader);
    free(f.live);
    free(f.taken);
}

/* ---- who adds, who overwrites ----------------------------------------------------------------------------
 */

static void connect(hr_exec *e)
{
    bool *written = hr_xcalloc((size_t)e->nsteps, sizeof *written);
    for (int i = 1; i < e->nsteps; i++) {
        hr_step *s = &e->steps[i];
        s->trainable = s->kind == HR_STEP_CONV || s->kind == HR_STEP_BN || e->steps[s->in].trainable ||
                       (s->in2 >= 0 && e->steps[s->in2].trainable);
    }
    /* The backward pass visits the steps from the last to the first, in each the second operand first. */
    for (int i = e->nsteps - 1; i > 0; i--) {
        hr_step *s = &e->steps[i];
        if (s->in2 >= 0) {
            s->in2_add = written[s->in2];
            written[s->in2] = true;
        }
        s->in_add = written[s->in];
        written[s->in] = true;
    }
    free(written);
}

/* ---- memory -----------------------------------------------------------------------------------------------
 */

static size_t padded(size_t floats)
{
    return (floats + HR_SLACK + 15) / 16 * 16;
}

/* A value in the arena: where, how long, and from when to when it lives, both included. */
typedef struct life {
    size_t at, len;
    int from, to;
} life;

/* Give every block in turn the lowest place where nothing is that lives at the same time. Returns the room
 * that they take together. */
static size_t place(life *b, int n)
{
    size_t room = 0;
    for (int i = 0; i < n; i++) {
        b[i].at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int j = 0; j < i; j++)
                if (b[j].from <= b[i].to && b[i].from <= b[j].to && b[i].at < b[j].at + b[j].len &&
                    b[j].at < b[i].at + b[i].len) {
                    b[i].at = b[j].at + b[j].len;
                    moved = true;
                }
        }
        if (b[i].at + b[i].len > room)
            room = b[i].at + b[i].len;
    }
    return room;
}

/* The last step that reads each one; itself where none does. */
static int *last_readers(const hr_exec *e)
{
    int *last = hr_xmalloc((size_t)e->nsteps * sizeof *last);
    for (int i = 0; i < e->nsteps; i++) {
        const hr_step *s = &e->steps[i];
        last[i] = i;
        if (i > 0)
            last[s->in] = i;
        if (s->in2 >= 0)
            last[s->in2] = i;
    }
    return last;
}

/* Of a task: bytes of a map of all its samples; chunks. */
enum { MAP_BYTES = 8 << 20, MOST_CHUNKS = 4 };

/* Bytes of a sample's largest map. */
static size_t largest_map(const hr_exec *e)
{
    size_t largest = 1;
    for (int i = 0; i < e->nsteps; i++)
        largest = e->steps[i].len > largest ? e->steps[i].len : largest;
    return largest * sizeof(float);
}

/* Samples of a chunk: HR_CHUNK; but where so many large maps leave the caches anyway, few enough that a small
 * batch makes four chunks. The threads have no say in it: the bits depend on it. */
static int chunk_of(const hr_exec *e)
{
    int chunk = HR_CHUNK;
    while (chunk > 1 && e->opts.batch < 4 * chunk && largest_map(e) * (size_t)chunk > MAP_BYTES)
        chunk /= 2;
    return chunk;
}

/* How long the threads take for a batch in tasks of `size` samples, each taking the next task as soon as it
 * is free; in times of a sample. A task costs READING more: reading the weights takes as long as the samples
 * of less than half a chunk (resnet18 on one thread: 220 images/s by 8, 261 by 16, 286 by 32). */
static double time_of(const hr_exec *e, int size)
{
    enum { READING = 3 };
    double busy[e->opts.threads], most = 0;
    memset(busy, 0, sizeof busy);
    for (int n = 0; n < e->opts.batch; n += size) {
        int next = 0, left = e->opts.batch - n;
        for (int t = 1; t < e->opts.threads; t++)
            next = busy[t] < busy[next] ? t : next;
        busy[next] += (left < size ? left : size) + READING;
        most = busy[next] > most ? busy[next] : most;
    }
    return most;
}

/* Samples of a task: enough that the weights of layers with small maps are not read for a few pixels only,
 * but not so many that large maps leave the caches behind, and such that the threads end together. */
static int task_of(const hr_exec *e)
{
    size_t fit = MAP_BYTES / (largest_map(e) * (size_t)e->chunk);
    int best = e->chunk;
    double least = time_of(e, best);
    for (int chunks = 2; chunks <= MOST_CHUNKS && (size_t)chunks <= fit; chunks++) {
        if (e->opts.batch <= (e->opts.threads - 1) * chunks * e->chunk) /* a thread would have no task */
            break;
        double time = time_of(e, chunks * e->chunk);
        if (time < least) {
            least = time;
            best = chunks * e->chunk;
        }
    }
    return best;
}

int hr_plan_task(const hr_exec *e, int n)
{
    int least = (e->chunk + 1) / 2, all = e->most * e->opts.threads, rounds = (n + all - 1) / all;
    int tasks = rounds * e->opts.threads, size = (n + tasks - 1) / tasks;
    size = size < least ? least : size;
    return size < n ? size : n;
}

/* Samples of a task in HR_BN_FOLDED: as many as are worth it, though not more than a whole batch asks for. */
static int most_of(hr_exec *e)
{
    size_t fit = MAP_BYTES / (largest_map(e) * (size_t)e->chunk);
    e->most = e->chunk * (fit < 1 ? 1 : fit < MOST_CHUNKS ? (int)fit : MOST_CHUNKS);
    int all = e->most * e->opts.threads;
    return e->opts.batch < all ? hr_plan_task(e, e->opts.batch) : e->most;
}

static bool keeps_raw(const hr_exec *e, const hr_step *s)
{
    return s->kind == HR_STEP_CONV && s->bn >= 0 && hr_plan_whole(e);
}

/* Levels of the tree that merges partial sums of so many chunks. */
static int levels_of(int chunks)
{
    int levels = 2;
    for (; chunks > 1; chunks = (chunks + 1) / 2)
        levels++;
    return levels;
}

int hr_plan_chunks(const hr_exec *e, int samples)
{
    return (samples + e->chunk - 1) / e->chunk;
}

/* Chunks that a batch takes memory for: whole tasks. */
static int chunks_kept(const hr_exec *e, int batch)
{
    int task = e->task / e->chunk;
    return (hr_plan_chunks(e, batch) + task - 1) / task * task;
}

/* Floats of the threads' rooms for batches of so many images. */
static size_t rooms(const hr_exec *e, int batch)
{
    int task = batch < e->most ? batch : e->most;
    return (size_t)e->opts.threads * padded((size_t)task * e->image_room);
}

/* Floats of the arena. */
static size_t arena_of(const hr_exec *e, int batch)
{
    size_t folded = rooms(e, batch), whole = (size_t)chunks_kept(e, batch) * e->arena_chunk;
    return folded > whole ? folded : whole;
}

size_t hr_plan_bytes(const hr_exec *e, int batch)
{
    size_t tile = e->opts.train ? e->tile_len * sizeof **e->tile * (size_t)e->opts.threads : 0;
    int chunks = hr_plan_chunks(e, batch);
    return e->bytes_fixed + e->bytes_image * (size_t)batch + e->bytes_chunk * (size_t)chunks +
           tile * (size_t)levels_of(chunks) + arena_of(e, batch) * sizeof *e->arena;
}

/* All that a run needs: this plan and what the caller takes beside it. */
static size_t needs(const hr_exec *e, int batch)
{
    return hr_plan_bytes(e, batch) + e->opts.beside + e->opts.beside_per_image * (size_t)batch;
}

/* The sentence for memory that is not there; have: bytes that this plan could take in all. */
static int too_little(const hr_exec *e, double have, hr_err *err)
{
    int fits = 0, above = e->opts.batch;
    while (above - fits > 1) {
        int middle = fits + (above - fits) / 2;
        if ((double)needs(e, middle) <= have)
            fits = middle;
        else
            above = middle;
    }
    char hint[64] = "not even one image fits";
    if (fits)
        snprintf(hint, sizeof hint, "batches of up to %d fit", fits);
    return hr_fail(err, HR_EINVAL, "%s in batches of %d images needs %.3g GB of memory, %.3g GB are left; %s",
                   e->m->arch, e->opts.batch, (double)needs(e, e->opts.batch) / 1e9, have / 1e9, hint);
}

/* Places for whole batches, of a task of one chunk. Step i runs forward at time i, backward at 2n - i; but
 * the gradient of its second operand is written where the backward pass of the step behind it ends. */
static void place_whole(hr_exec *e, const int *last)
{
    int n = e->nsteps;
    life *b = hr_xcalloc(3 * (size_t)n, sizeof *b);
    for (int i = 1; i < n; i++) {
        const hr_step *s = &e->steps[i];
        size_t len = padded(s->len * (size_t)e->chunk);
        b[i] = (life){.len = i + 1 < n ? len : 0, .from = i, .to = 2 * n - i};
        b[n + i] = (life){.len = keeps_raw(e, s) ? len : 0, .from = i, .to = 2 * n - i};
        b[3 * n - i] =
            (life){.len = len, .from = 2 * n - last[i] - (e->steps[last[i]].in2 == i), .to = 2 * n - i};
    }
    e->arena_chunk = place(b, 3 * n);
    for (int i = 1; i < n; i++) {
        e->steps[i].y_at = b[i].at;
        e->steps[i].z_at = b[n + i].at;
        e->steps[i].g_at = b[3 * n - i].at;
    }
    free(b);
}

/* Places in a thread's room. On the way back there is nothing left of the way there. */
static void place_folded(hr_exec *e, const int *last)
{
    int n = e->nsteps;
    life *b = hr_xcalloc((size_t)n, sizeof *b);
    for (int i = 1; i < n; i++) {
        const hr_step *s = &e->steps[i];
        b[i] = (life){.len = i + 1 == n || s->keep ? 0 : padded(s->len), .from = i, .to = last[i]};
    }
    e->image_room = place(b, n);
    for (int i = 1; i < n; i++)
        e->steps[i].room_y = b[i].at;
    for (int i = 1; i < n; i++) {
        const hr_step *s = &e->steps[i];
        b[n - i] = (life){.len = padded(s->len), .from = n - last[i], .to = n - i};
    }
    b[0] = (life){0};
    size_t back = place(b, n);
    e->image_room = back > e->image_room ? back : e->image_room;
    for (int i = 1; i < n; i++)
        e->steps[i].room_g = b[n - i].at;
    free(b);
}

/* What a folded pass leaves for its backward pass, per image. */
static void plan_kept(hr_exec *e)
{
    hr_step *last = &e->steps[e->nsteps - 1];
    for (int i = 1; i < e->nsteps; i++)
        if (e->steps[i].kind == HR_STEP_MAXPOOL && e->steps[i].in > 0)
            e->steps[e->steps[i].in].keep = true;
    for (hr_step *s = e->steps + 1; s <= last; s++) {
        if ((s->relu || s->kind == HR_STEP_RELU) && !s->keep && s != last)
            s->bits_len = (s->len + 7) / 8;
        s->bits_out = s->bits_len && s->kind == HR_STEP_CONV && hr_bits_fit(e->k, s->c);
        e->bytes_image += s->bits_len + (s->keep ? s->len * sizeof *s->kept : 0);
    }
    e->bytes_image += 2 * (e->steps[0].len + last->len) * sizeof *e->input;
}

/* Which gradients are complete when a convolution writes them: those whose first reader it is, since the
 * backward pass comes to that last. */
static void find_gated(hr_exec *e)
{
    int *first = hr_xcalloc((size_t)e->nsteps, sizeof *first);
    for (int i = e->nsteps - 1; i > 0; i--) {
        const hr_step *s = &e->steps[i];
        first[s->in] = i;
        if (s->in2 >= 0)
            first[s->in2] = i;
    }
    for (int i = 1; i + 1 < e->nsteps; i++) {
        hr_step *s = &e->steps[i];
        hr_step *reader = &e->steps[first[i]];
        s->gated = s->bits_len && s->in2 < 0 && hr_bits_fit(e->k, s->c) && reader->kind == HR_STEP_CONV &&
                   reader->in == i && !reader->conv.gather;
        reader->gates |= s->gated;
    }
    free(first);
}

static void make_layout(hr_exec *e)
{
    int *last = last_readers(e);
    size_t stats = 0;
    plan_kept(e);
    find_gated(e);
    place_folded(e, last);
    if (hr_plan_whole(e))
        place_whole(e, last);
    for (int i = 1; i < e->nsteps && hr_plan_whole(e); i++)
        if (e->steps[i].bn >= 0 || e->steps[i].bias)
            stats += 3 * (size_t)e->steps[i].c * sizeof *e->steps[i].part;
    e->bytes_chunk = stats + (e->opts.train ? e->dw_part_len : 0) * sizeof *e->dw_part;
    free(last);
}

/* Samples after which step i and the one before it take turns: so few that what the one wrote is still in the
 * second-level cache when the other reads it, but as many as make up for reading the weights. */
static int part_of(const hr_exec *e, int i)
{
    enum { PART_BYTES = 512 << 10 };
    const hr_step *s = &e->steps[i];
    size_t len = s->len, before = e->steps[i - 1].len, in = e->steps[s->in].len;
    len = before > len ? before : len;
    len = in > len ? in : len;
    size_t weights = s->conv.bytes / 2; /* of two passes */
    size_t fit = (weights > PART_BYTES ? weights : PART_BYTES) / (len * sizeof(float));
    int part = fit < 1 ? 1 : fit < (size_t)e->task ? (int)fit : e->task;
    return part < e->chunk ? part : part / e->chunk * e->chunk;
}

/* Take the places. */
static void place_steps(hr_exec *e)
{
    hr_step *first = &e->steps[0], *last = &e->steps[e->nsteps - 1];
    size_t chunks = (size_t)(e->task / e->chunk), batch = (size_t)e->opts.batch;
    e->thread_room = rooms(e, e->opts.batch) / (size_t)e->opts.threads;
    for (hr_step *s = first + 1; s <= last; s++) {
        s->y = e->arena + s->y_at * chunks;
        s->z = keeps_raw(e, s) ? e->arena + s->z_at * chunks : NULL;
        s->g = e->arena + s->g_at * chunks;
        s->y_step = s->z_step = s->g_step = e->arena_chunk * chunks;
        s->task = e->task;
        s->part_of_task = part_of(e, (int)(s - first));
        if (s->bits_len)
            s->bits = hr_xaligned(batch * s->bits_len + HR_SLACK, 1);
        if (s->keep)
            s->kept = hr_xaligned(batch * s->len + HR_SLACK, sizeof *s->kept);
        if (hr_plan_whole(e) && (s->bn >= 0 || s->bias))
            s->part = hr_xcalloc((size_t)e->chunks * 3 * (size_t)s->c, sizeof *s->part);
    }
    e->input = hr_xaligned(batch * first->len + HR_SLACK, sizeof *e->input);
    e->dinput = hr_xaligned(batch * first->len + HR_SLACK, sizeof *e->dinput);
    e->logits = hr_xaligned(batch * last->len + HR_SLACK, sizeof *e->logits);
    e->dlogits = hr_xaligned(batch * last->len + HR_SLACK, sizeof *e->dlogits);
    first->task = e->task;
    first->y = e->input;
    first->g = e->dinput;
    first->y_step = first->g_step = first->len * (size_t)e->task;
    last->y = e->logits;
    last->y_step = last->len * (size_t)e->task;
}

/* Take the memory for images, unless the machine, or a limit, does not hold it: better a word now than a
 * process that the system kills later. */
static int lay_out(hr_exec *e, hr_err *err)
{
    make_layout(e);
    if (e->opts.describe)
        return HR_OK;
    double have = hr_memory_left() + (double)e->bytes_fixed;
    if ((double)needs(e, e->opts.batch) > have ||
        !(e->arena = hr_aligned((arena_of(e, e->opts.batch) + HR_SLACK) * sizeof *e->arena)))
        return too_little(e, have, err);
    place_steps(e);
    return HR_OK;
}

/* ---- parameters
 * --------------------------------------------------------------------------------------------- */

/* Memory that is needed whatever the batch, counted. */
static void *keep(hr_exec *e, size_t n, size_t size)
{
    e->bytes_fixed += n * size;
    return hr_xaligned(n, size);
}

static float *channel_values(hr_exec *e, const hr_step *s)
{
    return keep(e, (size_t)s->c + HR_SLACK, sizeof(float));
}

/* The model's active mask as one float per weight. */
static float *expand_mask(hr_exec *e, int node)
{
    const hr_model *m = e->m;
    const hr_tensor *mask = hr_model_node_tensor(m, node, "mask");
    if (!mask || !m->prune[node].set || !m->prune[node].active)
        return NULL;
    const hr_tensor *w = &m->tensors[m->nodes[node].param[HR_P_WEIGHT]];
    int64_t n = hr_tensor_count(w), in = w->shape[1], per_in = n / w->shape[0] / in;
    bool by_channel = m->prune[node].reg == HR_REG_CHANNEL;
    const uint8_t *bits = mask->data;
    float *f = keep(e, (size_t)n, sizeof *f);
    for (int64_t i = 0; i < n; i++)
        f[i] = bits[by_channel ? i / per_in % in : i] ? 1 : 0;
    return f;
}

static int plan_conv(hr_exec *e, hr_step *s, hr_err *err)
{
    const hr_node *n = &e->m->nodes[s->node];
    const hr_step *in = &e->steps[s->in];
    bool linear = n->op == HR_OP_LINEAR;
    s->conv = (hr_conv){.ci = in->c,
                        .co = n->c,
                        .kh = linear ? 1 : n->kh,
                        .kw = linear ? 1 : n->kw,
                        .stride = linear ? 1 : n->stride,
                        .pad = linear ? 0 : n->pad,
                        .hin = in->h,
                        .exact = e->opts.exact,
                        .win = in->w,
                        .hout = n->h,
                        .wout = n->w};
    int64_t largest = (int64_t)in->len > (int64_t)s->len ? (int64_t)in->len : (int64_t)s->len;
    if (largest * HR_CHUNK > INT32_MAX)
        return hr_fail(err, HR_EINVAL, "layer '%s': a map of %lld values is beyond this engine", n->id,
                       (long long)largest);
    if ((n->kh > 1 || n->pad > 0 || n->stride > 1) &&
        (in->c > HR_CONV_MAX_PADDED || n->c > HR_CONV_MAX_PADDED))
        return hr_fail(err, HR_EINVAL, "layer '%s': %d to %d channels, this engine takes %d", n->id, in->c,
                       n->c, HR_CONV_MAX_PADDED);
    hr_conv_plan(&s->conv, e->k, true);
    size_t weights = (size_t)s->conv.taps * (size_t)s->conv.ci * (size_t)s->conv.co;
    s->dw_large = weights > (s->conv.fwd.u ? DW_CHUNKWISE_WINO : DW_CHUNKWISE_MAX);
    if (s->conv.fwd.u)
        s->conv.fwd.group = hr_wino_group(&s->conv.fwd, e->chunks * e->chunk);
    if (n->param[HR_P_BIAS] >= 0)
        s->bias = channel_values(e, s);
    s->own_mask = expand_mask(e, s->node);
    if (s->own_mask)
        s->eff = keep(e, weights, sizeof *s->eff);
    s->macs = (double)weights * s->h * s->w;
    e->bytes_fixed += s->conv.bytes;
    return HR_OK;
}

static void add_grad(hr_exec *e, int tensor)
{
    if (tensor >= 0 && !e->grads[tensor])
        e->grads[tensor] = keep(e, (size_t)hr_tensor_count(&e->m->tensors[tensor]), sizeof(float));
}

static int plan_parameters(hr_exec *e, hr_err *err)
{
    for (int i = 1; i < e->nsteps; i++) {
        hr_step *s = &e->steps[i];
        const hr_node *n = &e->m->nodes[s->node];
        int rc;
        if (s->kind == HR_STEP_CONV && (rc = plan_conv(e, s, err)))
            return rc;
        bool has_map = s->kind == HR_STEP_AFFINE || s->bn >= 0 || s->bias;
        if (has_map) {
            s->scale = channel_values(e, s);
            s->shift = channel_values(e, s);
        }
        if (s->bn >= 0) {
            float **fields[] = {&s->mean, &s->inv, &s->bscale, &s->bshift, &s->k1, &s->k2, &s->k3};
            for (size_t j = 0; j < HR_COUNT(fields); j++)
                *fields[j] = channel_values(e, s);
        }
        if (e->opts.train && (s->kind == HR_STEP_CONV || s->kind == HR_STEP_BN)) {
            add_grad(e, n->param[HR_P_WEIGHT]);
            add_grad(e, n->param[HR_P_BIAS]);
        }
        if (e->opts.train && s->bn >= 0) {
            add_grad(e, e->m->nodes[s->bn].param[HR_P_WEIGHT]);
            add_grad(e, e->m->nodes[s->bn].param[HR_P_BIAS]);
        }
    }
    return HR_OK;
}

/* Per thread, and for partial sums of weight gradients. */
static void plan_workspaces(hr_exec *e)
{
    size_t scratch = 64, part = 0, tile = 0, room = 0, threads = (size_t)e->opts.threads;
    for (int i = 1; i < e->nsteps; i++) {
        const hr_step *s = &e->steps[i];
        if (s->kind == HR_STEP_MAXPOOL) {
            size_t window = hr_pool_scratch(&e->m->nodes[s->node], &e->steps[s->in]);
            scratch = window > scratch ? window : scratch;
        }
        if (s->kind != HR_STEP_CONV)
            continue;
        bool grouped = s->dw_large && s->conv.fwd.u;
        size_t need = hr_conv_scratch(&s->conv, e->k, e->opts.train && !grouped),
               depth = (size_t)s->conv.taps * (size_t)s->conv.ci, columns = (size_t)s->conv.co;
        if (e->opts.train && grouped && hr_wino_block_scratch(&s->conv.fwd, e->k) > need)
            need = hr_wino_block_scratch(&s->conv.fwd, e->k);
        if (need > scratch)
            scratch = need;
        size_t whole = depth * columns, rows = (size_t)(s->conv.gather ? (int)depth : s->conv.ci);
        size_t block =
            (rows < HR_DW_ROWS ? rows : HR_DW_ROWS) * (columns < HR_DW_COLUMNS ? columns : HR_DW_COLUMNS);
        if (!s->dw_large && whole > part)
            part = whole;
        if (s->dw_large && !grouped && block > tile)
            tile = block;
        if (grouped && hr_wino_room(&s->conv.fwd) > room)
            room = hr_wino_room(&s->conv.fwd);
    }
    e->levels = levels_of(e->chunks);
    e->tile_len = tile ? padded(tile) : 0;
    e->dw_part_len = padded(part);
    if (e->opts.train)
        e->bytes_fixed += (e->room_len = room) * sizeof *e->room;
    e->scratch = hr_xcalloc(threads, sizeof *e->scratch);
    e->tile = hr_xcalloc(threads, sizeof *e->tile);
    e->tasks = hr_xcalloc(threads, sizeof *e->tasks);
    for (size_t t = 0; t < threads; t++)
        e->scratch[t] = keep(e, scratch, 1);
}

const hr_wino *hr_plan_shared(const hr_exec *e, const hr_step *s, enum hr_pass pass, bool whole)
{
    const hr_wino *w = s->kind == HR_STEP_CONV && pass != HR_PASS_DW ? hr_conv_wide(&s->conv, pass) : NULL;
    int together = e->opts.threads * e->most,
        samples = whole || together > e->opts.batch ? e->opts.batch : together;
    bool several = whole ? e->opts.batch > e->task || e->opts.threads > 1 : e->opts.threads > 1;
    return w && several && samples * w->tiles <= HR_WINO_SHARED_ROWS ? w : NULL;
}

/* Room for the tiles of all samples that a step is computed for together. */
static void plan_team(hr_exec *e)
{
    size_t room = 0;
    bool meet = false;
    for (int i = 1; i < e->nsteps; i++)
        for (int p = HR_PASS_FORWARD; p <= HR_PASS_DX; p++)
            for (int whole = 0; whole <= hr_plan_whole(e); whole++) {
                const hr_wino *w = hr_plan_shared(e, &e->steps[i], (enum hr_pass)p, whole);
                int most = whole ? e->opts.batch : e->opts.threads * e->most;
                if (!w)
                    continue;
                size_t need =
                    hr_wino_shared_room(w, (most < e->opts.batch ? most : e->opts.batch) * w->tiles);
                room = need > room ? need : room;
                meet = meet || !whole;
            }
    e->bytes_fixed += room * sizeof(float);
    e->shared_len = room;
    if (room && !e->opts.describe)
        e->shared = hr_xaligned(room, sizeof *e->shared);
    if (meet && !e->opts.describe)
        e->team = hr_team_new(e->shared, room);
}

static void take_gradient_room(hr_exec *e)
{
    for (int t = 0; t < e->opts.threads && e->tile_len; t++)
        e->tile[t] = hr_xaligned(e->tile_len * (size_t)e->levels, sizeof(float));
    if (e->room_len)
        e->room = hr_xaligned(e->room_len, sizeof *e->room);
    e->dw_part = hr_xaligned(e->dw_part_len * (size_t)e->chunks, sizeof *e->dw_part);
}

/* The parameters alone, before they are taken: two packed copies and the gradient, the least that there is.
 */
static int check_parameters(const hr_exec *e, hr_err *err)
{
    hr_layers layers = hr_layers_of(e->m);
    double need = (double)layers.weights * (e->opts.train ? 3 : 2) * sizeof(float), left = hr_memory_left();
    hr_layers_release(&layers);
    if (e->opts.describe || need <= left)
        return HR_OK;
    return hr_fail(
        err, HR_EINVAL,
        "%s needs %.3g GB of memory for its parameters alone, %.3g GB are left; not even one image fits",
        e->m->arch, need / 1e9, left / 1e9);
}

int hr_plan_graph(hr_exec *e, hr_err *err)
{
    size_t nodes = (size_t)e->m->nnodes;
    e->steps = hr_xcalloc(nodes, sizeof *e->steps);
    e->value = hr_xcalloc(nodes, sizeof *e->value);
    e->grads = hr_xcalloc((size_t)e->m->ntensors, sizeof *e->grads);
    make_steps(e);
    e->chunk = chunk_of(e);
    e->chunks = hr_plan_chunks(e, e->opts.batch);
    if (e->nsteps < 2)
        return hr_fail(err, HR_EINVAL, "the network has no layer");
    connect(e);
    return HR_OK;
}

int hr_plan(hr_exec *e, hr_err *err)
{
    int rc = hr_plan_graph(e, err);
    if (rc == HR_OK)
        rc = check_parameters(e, err);
    if (rc == HR_OK)
        rc = plan_parameters(e, err);
    if (rc)
        return rc;
    e->task = task_of(e);
    e->most = most_of(e);
    plan_workspaces(e);
    plan_team(e);
    rc = lay_out(e, err);
    if (rc == HR_OK && e->opts.train && !e->opts.describe)
        take_gradient_room(e);
    return rc;
}

void hr_plan_release(hr_exec *e)
{
    for (int i = 0; i < e->nsteps; i++) {
        hr_step *s = &e->steps[i];
        hr_conv_release(&s->conv);
        void *owned[] = {s->own_mask, s->eff, s->scale, s->shift, s->bias, s->mean, s->inv, s->bscale,
                         s->bshift,   s->k1,  s->k2,    s->k3,    s->part, s->kept, s->bits};
        for (size_t j = 0; j < HR_COUNT(owned); j++)
            free(owned[j]);
    }
    for (int t = 0; e->grads && t < e->m->ntensors; t++)
        free(e->grads[t]);
    for (int t = 0; e->scratch && t < e->opts.threads; t++) {
        free(e->scratch[t]);
        free(e->tile[t]);
    }
    void *owned[] = {e->steps,   e->value,   e->arena, e->input, e->dinput, e->logits, e->dlogits, e->grads,
                     e->dw_part, e->scratch, e->tile,  e->tasks, e->work,   e->room,   e->shared};
    for (size_t j = 0; j < HR_COUNT(owned); j++)
        free(owned[j]);
    hr_team_free(e->team);
}
