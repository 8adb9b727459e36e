/* lib/train/cascade.c -- strong attacks over a data set, worst case per image.
 *
 * AutoAttack (Croce & Hein 2020, arXiv:2003.01690, sec. 5) runs a list of attacks one behind the other, each
 * only on the images that all before it left right; an image is robust when none of them broke it. We cut the
 * list into rounds over the whole data set: round 0 classifies the images as they are, every other one is one
 * restart of one attack, towards one class where it takes a target:
 *
 *     aa       clean | apgd-ce | apgd-t 1..9 | fab-t 1..9 | square        the standard sequence
 *     apgd-t   clean | class 1, restart 0 | class 1, restart 1 | class 2, restart 0 | ...
 *
 * A batch is the next images that are still right, so batches stay full while images break, and what has been
 * done is (round, images passed, who is right), which is all that must be saved. Noise is keyed by attack,
 * class, restart and image: a part finds in the list what it finds on its own.
 *
 * A point that an attack hands over is classified once more before it counts, and it must be within the ball
 * and within [0,1]. */
#include "train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_part_names[HR_PARTS + 1] = {"apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square", NULL};

/* First counter of HR_STREAM_EVAL, behind those of the plain attacks (eval.c); and the second one holds
 * restart and target. */
enum { NOISE_STRONG = 16, RESTARTS = 1 << 14 };

static int targets_of(const hr_eval_attack *a, int classes)
{
    return a->strong.targets < classes - 1 ? a->strong.targets : classes - 1;
}

static uint32_t rounds_of_part(const hr_eval_attack *a, enum hr_part part, int classes)
{
    bool aimed = part == HR_PART_APGD_T || part == HR_PART_FAB_T;
    return (uint32_t)a->strong.restarts * (aimed ? (uint32_t)targets_of(a, classes) : 1);
}

uint32_t hr_eval_rounds(const hr_eval_attack *a, int classes)
{
    uint32_t rounds = 1;
    for (int k = 0; k < a->nparts; k++)
        rounds += rounds_of_part(a, a->part[k], classes);
    return rounds;
}

bool hr_eval_finished(const hr_eval_work *w, const hr_eval_attack *a, int classes, uint32_t n)
{
    return w->done == n && w->round + 1 == hr_eval_rounds(a, classes);
}

int hr_eval_fits(const hr_eval_attack *a, int classes, hr_err *err)
{
    for (int k = 0; k < a->nparts; k++) {
        int least = a->part[k] == HR_PART_APGD_DLR ? 3 : a->part[k] == HR_PART_APGD_T ? 4 : 2;
        if (classes < least)
            return hr_fail(err, HR_EINVAL, "%s needs %d classes (%s), the network has %d", a->name, least,
                           hr_part_names[a->part[k]], classes);
    }
    return HR_OK;
}

/* The part that round `round` (from 1) belongs to, as its place in the list, and what it is run with. */
static int round_of(const hr_eval_attack *a, int classes, uint32_t round, hr_strong_attack **attack,
                    hr_strong_opts *o)
{
    int place = 0;
    for (round--; round >= rounds_of_part(a, a->part[place], classes); place++)
        round -= rounds_of_part(a, a->part[place], classes);
    enum hr_part part = a->part[place];
    uint32_t restart = round % (uint32_t)a->strong.restarts, target = round / (uint32_t)a->strong.restarts;
    bool aimed = part == HR_PART_APGD_T || part == HR_PART_FAB_T;
    *attack = part == HR_PART_SQUARE  ? hr_attack_square
              : part == HR_PART_FAB_T ? hr_attack_fab
                                      : hr_attack_apgd;
    *o = (hr_strong_opts){.norm = a->strong.norm,
                          .eps = (float)a->strong.eps,
                          .steps = part == HR_PART_SQUARE ? a->strong.queries : a->strong.iterations,
                          .loss = part == HR_PART_APGD_CE ? HR_STRONG_CE : HR_STRONG_DLR,
                          .target = aimed ? (int)target + 1 : 0,
                          .random_start = restart > 0,
                          .whole = a->whole,
                          .rho = HR_APGD_RHO,
                          .alpha = HR_FAB_ALPHA,
                          .eta = HR_FAB_ETA,
                          .beta = HR_FAB_BETA,
                          .p = HR_SQUARE_P,
                          .seed = a->strong.seed,
                          .stream = HR_STREAM_EVAL,
                          .c0 = NOISE_STRONG + (uint32_t)part,
                          .c1 = target * RESTARTS + restart};
    return place;
}

/* Is v a point that may be held against the network? float rounds x +- eps once: half a unit of the last
 * place of 1 + eps per pixel; an l2 length is the sum of len such errors. */
static bool allowed(const hr_strong_opts *o, const float *v, const float *x, size_t len)
{
    double sum = 0.0, most = 0.0, slack = 1e-6 * (1.0 + (double)o->eps);
    for (size_t p = 0; p < len; p++) {
        double d = fabs((double)v[p] - x[p]);
        if (!(v[p] >= 0.0f && v[p] <= 1.0f))
            return false;
        sum += d * d;
        most = fmax(most, d);
    }
    return o->norm == HR_L2 ? sqrt(sum) <= (double)o->eps * (1.0 + 1e-5) + slack
                            : most <= (double)o->eps + slack;
}

/* The images of a batch. */
struct batch {
    uint32_t n;
    float *x, *adv;
    int32_t *y, *pred;
    uint32_t *rows, *next, *index; /* next: rows of the batch behind it */
    uint8_t *broken;
    float *norm;
};

static struct batch batch_new(uint32_t most, size_t len)
{
    return (struct batch){.x = hr_xaligned(most * len, sizeof(float)),
                          .adv = hr_xaligned(most * len, sizeof(float)),
                          .y = hr_xmalloc(most * sizeof(int32_t)),
                          .pred = hr_xmalloc(most * sizeof(int32_t)),
                          .rows = hr_xmalloc(most * sizeof(uint32_t)),
                          .next = hr_xmalloc(most * sizeof(uint32_t)),
                          .index = hr_xmalloc(most * sizeof(uint32_t)),
                          .broken = hr_xcalloc(most, 1),
                          .norm = hr_xcalloc(most, sizeof(float))};
}

static void batch_release(struct batch *b)
{
    free(b->x);
    free(b->adv);
    free(b->y);
    free(b->pred);
    free(b->rows);
    free(b->next);
    free(b->index);
    free(b->broken);
    free(b->norm);
}

/* x NULL: the device's batch. */
static void classify(hr_exec *e, const float *x, uint32_t n, int32_t *pred)
{
    if (!n)
        return;
    if (x)
        memcpy(hr_exec_input(e), x, n * hr_exec_input_len(e) * sizeof *x);
    else
        hr_device_input(e, (int)n);
    hr_exec_infer(e, (int)n);
    hr_argmax(hr_exec_logits(e), 0, (int)n, hr_exec_classes(e), pred);
}

/* One round on the images of `b`, whose rows and labels are used up. What an attack calls broken counts once
 * a plain pass says so, too. */
static void attack_batch(hr_exec *e, const hr_eval_attack *a, hr_eval_work *w, const struct batch *b)
{
    hr_strong_attack *attack;
    hr_strong_opts o;
    size_t len = hr_exec_input_len(e);
    int place = round_of(a, hr_exec_classes(e), w->round, &attack, &o);
    attack(e, &o, hr_exec_on_device(e) ? NULL : b->x, b->y, b->index, (int)b->n, b->broken, b->adv,
           a->whole ? b->norm : NULL);
    if (hr_interrupted())
        return;
    for (uint32_t i = 0; i < b->n && a->whole; i++)
        w->norm[b->rows[i]] = fminf(w->norm[b->rows[i]], b->norm[i]);
    uint32_t found = 0; /* those that the attack calls broken, moved up in b */
    for (uint32_t i = 0; i < b->n; i++)
        if (b->broken[i] && allowed(&o, b->adv + i * len, b->x + i * len, len)) {
            memmove(b->adv + found * len, b->adv + i * len, len * sizeof *b->adv);
            b->rows[found] = b->rows[i];
            b->y[found++] = b->y[i];
        }
    classify(e, b->adv, found, b->pred);
    for (uint32_t i = 0; i < found; i++)
        if (b->pred[i] != b->y[i]) {
            w->correct[b->rows[i]] = a->whole; /* then it stays in play until the end */
            w->by[b->rows[i]] = (uint8_t)(place + 1);
            hr_eval_note(e, w, b->rows[i], (int)i, b->y[i], b->pred[i]);
        }
}

/* The next images, from row `at` on, that this round looks at, at most `most`; returns where it stopped. */
static uint32_t pick(const hr_dataset *ds, const hr_eval_work *w, uint32_t at, uint32_t most, uint32_t *rows,
                     uint32_t *n)
{
    for (*n = 0; at < ds->n && *n < most; at++)
        if (w->round == 0 || w->correct[at])
            rows[(*n)++] = at;
    return at;
}

int hr_cascade_step(hr_exec *e, int batch, const hr_dataset *ds, const hr_eval_attack *a, hr_eval_work *w)
{
    struct batch b = batch_new((uint32_t)batch < ds->n ? (uint32_t)batch : ds->n, hr_exec_input_len(e));
    uint32_t end = pick(ds, w, w->done, (uint32_t)batch, b.rows, &b.n), next;
    bool device = hr_exec_on_device(e);
    for (uint32_t i = 0; i < b.n; i++)
        b.index[i] = ds->index[b.rows[i]];
    if (b.n) {
        if (device) { /* the next batch of the round travels while this one is worked on */
            hr_device_batch(e, ds, b.rows, 0, b.n);
            pick(ds, w, end, (uint32_t)batch, b.next, &next);
            hr_device_ahead(e, ds, b.next, 0, next);
        }
        hr_batch_fill(ds, b.rows, (int)b.n, b.x, b.y);
        if (w->round)
            attack_batch(e, a, w, &b);
        else
            classify(e, device ? NULL : b.x, b.n, b.pred);
        for (uint32_t i = 0; i < b.n && w->round == 0; i++) {
            w->correct[b.rows[i]] = b.pred[i] == b.y[i];
            w->norm[b.rows[i]] = b.pred[i] == b.y[i] ? INFINITY : 0.0f;
            w->top5[b.rows[i]] = 1;
            w->pred[b.rows[i]] = b.y[i];
            hr_eval_note(e, w, b.rows[i], (int)i, b.y[i], b.pred[i]);
        }
        if (w->round == 0)
            hr_loss_ce(hr_exec_logits(e), b.y, 0, (int)b.n, hr_exec_classes(e), 1.0f, w->loss + w->done,
                       NULL);
    }
    batch_release(&b);
    if (hr_interrupted())
        return HR_EINTR;
    w->done = end;
    if (end == ds->n && !hr_eval_finished(w, a, hr_exec_classes(e), ds->n)) {
        w->round++;
        w->done = 0;
    } else if (end == ds->n && a->whole) {
        for (uint32_t i = 0; i < ds->n; i++)
            w->correct[i] &= w->by[i] == 0;
    }
    return HR_OK;
}

json_t *hr_cascade_json(const hr_eval_attack *a, const hr_eval_result *r)
{
    const hr_eval_opts *o = &a->strong;
    bool iterates = false, aims = false, asks = false;
    json_t *parts = json_array();
    for (int k = 0; k < a->nparts; k++) {
        asks |= a->part[k] == HR_PART_SQUARE;
        iterates |= a->part[k] != HR_PART_SQUARE;
        aims |= a->part[k] == HR_PART_APGD_T || a->part[k] == HR_PART_FAB_T;
        json_array_append_new(parts, json_pack("{s:s, s:I}", "name", hr_part_names[a->part[k]], "correct",
                                               (json_int_t)r->after[k]));
    }
    json_t *j = json_pack("{s:s, s:s, s:f, s:i, s:i}", "name", a->name, "norm", hr_norm_names[o->norm], "eps",
                          o->eps, "steps", iterates ? o->iterations : o->queries, "restarts", o->restarts);
    if (aims)
        json_object_set_new(j, "targets", json_integer(o->targets));
    if (asks)
        json_object_set_new(j, "queries", json_integer(o->queries));
    json_object_set_new(j, "parts", parts);
    return j;
}
