/* lib/search/run.c -- the episode loop.
 *
 *   for each episode
 *       reset the wall
 *       for each decision layer: observe, act (warm-up: u ~ U(0,1); later: noisy actor), let the wall execute
 *       finish the strategy, ask the evaluator, compute the reward
 *       store one transition per decision, all with this reward
 *       from the end of the warm-up on: train
 *
 * What is stored. Reference: the action as drawn. Sound: the rates that were evaluated, mapped back to
 * actions, with the observations that go with them; so wall, rounding and scaling are part of the world the
 * critic learns, and never stand between it and what it is told.
 *
 * Exploration. Published: normal noise around the actor, dying out. Sound: the noise keeps a floor, for
 * without any the last episodes repeat themselves; and every second episode (best_every) starts from the best
 * strategy so far instead of the actor's, with noise on about half of its layers. DDPG learns off policy, so
 * the critic may be shown strategies that the actor did not propose, and those near the best are the ones it
 * has to tell apart. On the chain of test_search_ddpg.c, 60 + 200 episodes, mean share of the optimum:
 * random search 0.75, actor alone 0.95, neighbourhood alone 0.95, both 0.98; without the floor the actor
 * alone stops at 0.93.
 *
 * Several at once. Until the agent learns for the first time an episode needs nothing of those before it but
 * the generator where they left it. So these are played as fast as the evaluator has places, and a queue puts
 * their outcomes back into order: tables, memory and best strategy grow in the order of the episodes, however
 * many places there are. The last warm-up episode already comes after the first training.
 *
 * Early stop. Behind the warm-up the batches may be asked for in eight portions. When the strategy would not
 * beat the best one even if every image still to come were right, the rest is not asked for: the episode's
 * reward is that of the images seen, which is below the best reward, too. Portions depend on nothing but the
 * number of batches, so that this, again, is the same for any number of places.
 *
 * Going on. Between two episodes all that matters is what the agent holds, the generator, the best strategy
 * and the tables so far; `list` names it, once, for saving and loading. Nothing that an episode does before
 * its evaluation touches these but the generator, so that a copy of it is enough to take an episode back, or
 * all that are in the queue.
 */
#include "search/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_reward_names[] = {"acc", "acc_aa", "acc+aa", NULL};

static double combine(enum hr_reward how, double beta, double clean, double robust)
{
    if (how == HR_REWARD_ACC)
        return clean;
    return how == HR_REWARD_ACC_AA ? clean * exp(robust) : clean + beta * robust;
}

double hr_reward_of(enum hr_reward how, double beta, bool reference, const hr_score_reply *r)
{
    if (r->constant && !reference)
        return 0;
    return combine(how, beta, (double)r->clean / (double)r->images, (double)r->robust / (double)r->images);
}

double hr_reward_chance(enum hr_reward how, double beta, int classes)
{
    return combine(how, beta, 1.0 / classes, 1.0 / classes);
}

void hr_search_result_release(hr_search_result *r)
{
    free(r->rate);
    free(r->kept);
    for (int i = 0; i < HR_TABLES; i++)
        hr_buf_release(&r->table[i]);
    *r = (hr_search_result){0};
}

/* An episode that was played: its strategy, and what the agent saw and did. */
struct played {
    int number;
    bool known;           /* reply has come */
    hr_rng before;        /* the generator when it began */
    hr_transition *steps; /* [nd], without the reward; those before w->s->first are unused */
    double *rate;         /* [nd] */
    int64_t *kept;        /* [nd] */
    double cost;
    hr_score_reply reply;
};

enum { PORTIONS = 8 };
enum { AHEAD = 8 }; /* episodes in the queue per place: outcomes may wait for that of an earlier episode */

struct search {
    hr_wall *w;
    const hr_search_opts *o;
    const hr_evaluator *ev;
    hr_state state;
    hr_agent agent;
    hr_rng rng;
    hr_job *job;
    hr_search_result *best;
    struct played *queue; /* [slots] a ring: waiting ones from first on, in the order of episodes */
    int slots, first, waiting, open; /* open: of the waiting ones, those without a reply */
};

/* The action for decision d of the after-th episode behind the warm-up, which saw obs. */
static double choose(struct search *q, int after, int d, const float *obs)
{
    const hr_search_opts *o = q->o;
    bool sound = !o->agent.reference;
    if (after <= 0)
        return hr_rng_double(&q->rng);
    double sigma = o->sigma * pow(o->sigma_decay, after);
    if (sound && sigma < o->sigma_floor)
        sigma = o->sigma_floor;
    if (sound && o->best_every && after % o->best_every == 0) {
        double u = hr_wall_unmap(q->w, q->best->rate[d]);
        return hr_rng_double(&q->rng) < 0.5 ? hr_noise(&q->rng, u, sigma) : u;
    }
    return hr_noise(&q->rng, hr_agent_act(&q->agent, obs), sigma);
}

/* Decide one layer after the other; fills observations and actions. */
static void decide(struct search *q, int episode, hr_transition *steps)
{
    hr_wall *w = q->w;
    hr_wall_reset(w);
    for (int d = w->s->first; d < w->s->nd; d++) {
        hr_transition *t = &steps[d];
        hr_state_row(&q->state, w, d, t->obs);
        double u = choose(q, episode - q->o->warmup, d, t->obs);
        t->action = (float)u;
        hr_wall_step(w, u);
    }
    hr_wall_finish(w);
}

/* Play an episode; fills all but the reply. */
static void play(struct search *q, int episode, struct played *e)
{
    hr_wall *w = q->w;
    const hr_space *s = w->s;
    bool reference = q->o->agent.reference;
    e->number = episode;
    e->known = false;
    e->before = q->rng;
    if (episode <= q->o->nstarts && episode <= q->o->warmup)
        hr_wall_take(w, q->o->starts + (size_t)(episode - 1) * (size_t)s->nd);
    else
        decide(q, episode, e->steps);
    for (int d = s->first; d < s->nd && !reference; d++) {
        hr_state_row(&q->state, w, d, e->steps[d].obs);
        e->steps[d].action = (float)hr_wall_unmap(w, w->r[d]);
    }
    for (int d = s->first; d < s->nd; d++) {
        bool last = d == s->nd - 1;
        memcpy(e->steps[d].next, e->steps[last ? d : d + 1].obs, sizeof e->steps->next);
        e->steps[d].done = last;
    }
    memcpy(e->rate, w->r, (size_t)s->nd * sizeof *e->rate);
    memcpy(e->kept, w->kept, (size_t)s->nd * sizeof *e->kept);
    e->cost = hr_wall_cost(w);
}

static int learn(struct search *q, struct played *p, double reward, hr_err *err)
{
    const hr_space *s = q->w->s;
    for (int d = s->first; d < s->nd; d++) {
        p->steps[d].reward = (float)reward;
        hr_agent_store(&q->agent, &p->steps[d]);
    }
    int next = p->number + 1; /* the published counter has moved on already */
    if (next < q->o->warmup)
        return HR_OK;
    return hr_agent_train(&q->agent, q->o->train_iters, next == q->o->warmup, err);
}

static void keep_best(const hr_episode *e, int nd, hr_search_result *best)
{
    best->reward = e->reward;
    best->clean = e->clean;
    best->robust = e->robust;
    best->episode = e->number;
    memcpy(best->rate, e->rate, (size_t)nd * sizeof *best->rate);
    memcpy(best->kept, e->kept, (size_t)nd * sizeof *best->kept);
}

/* An episode whose outcome is known becomes part of what the search knows. */
static int conclude(struct search *q, struct played *p, hr_episode *e, hr_err *err)
{
    const hr_search_opts *o = q->o;
    const hr_score_reply *reply = &p->reply;
    hr_search_result *best = q->best;
    int nd = q->w->s->nd;
    *e = (hr_episode){.number = p->number,
                      .total = o->warmup + o->episodes,
                      .warmup = p->number <= o->warmup,
                      .reward = hr_reward_of(o->reward, o->beta, o->agent.reference, reply),
                      .clean = (double)reply->clean / (double)reply->images,
                      .robust = (double)reply->robust / (double)reply->images,
                      .cost = p->cost,
                      .dense_cost = q->w->total,
                      .constant = reply->constant,
                      .rate = p->rate,
                      .kept = p->kept};
    best->constants += e->constant;
    e->best = e->reward > best->reward && !(o->agent.reference && e->warmup);
    if (e->best)
        keep_best(e, nd, best);
    e->best_reward = best->reward;
    e->best_rate = best->episode ? best->rate : NULL;
    for (int i = 0; i < HR_TABLES; i++)
        hr_csv_row(&best->table[i], e, nd, i == HR_TABLE_BEST);
    return learn(q, p, e->reward, err);
}

/* ---- playing and waiting ------------------------------------------------------------------------------- */

static struct played *in_queue(struct search *q, int i)
{
    return &q->queue[(q->first + i) % q->slots];
}

/* The generator as the episodes that are concluded left it. */
static hr_rng settled(struct search *q)
{
    return q->waiting ? in_queue(q, 0)->before : q->rng;
}

/* Take back what was played and is not part of the search yet. */
static void forget_queue(struct search *q)
{
    q->rng = settled(q);
    q->waiting = q->open = 0;
}

/* Begin whole evaluations of the episodes up to `last` while there are places and none is known. */
static int begin_some(struct search *q, int next, int last, hr_err *err)
{
    int rc = HR_OK;
    while (rc == HR_OK && q->open < q->ev->places && q->waiting < q->slots && next + q->waiting <= last) {
        struct played *p = in_queue(q, q->waiting);
        play(q, next + q->waiting, p);
        q->waiting++;
        q->open++;
        rc = q->ev->begin(q->ev->ctx, p->kept, q->w->s->nd, (int)(p - q->queue), err);
    }
    return rc;
}

static bool cannot_win(const struct search *q, const hr_score_reply *so_far)
{
    int64_t left = q->ev->images - so_far->images;
    hr_score_reply most = {.images = q->ev->images, .clean = so_far->clean + left};
    most.robust = so_far->robust + left;
    return hr_reward_of(q->o->reward, q->o->beta, q->o->agent.reference, &most) < q->best->reward;
}

/* Evaluate p and wait. */
static int evaluate(struct search *q, struct played *p, hr_err *err)
{
    const hr_evaluator *ev = q->ev;
    int64_t at = 0, portions = q->o->early_stop && p->number > q->o->warmup ? PORTIONS : 1;
    p->reply = (hr_score_reply){0};
    for (int64_t i = 1; i <= portions && !(i > 1 && cannot_win(q, &p->reply)); i++) {
        hr_score_reply part;
        int64_t to = ev->batches * i / portions;
        if (to == at)
            continue;
        int rc = ev->eval(ev->ctx, p->kept, q->w->s->nd, at, to, &part, err);
        if (rc)
            return rc;
        hr_score_add(&p->reply, &part);
        at = to;
    }
    return HR_OK;
}

/* Wait for the outcome of episode `next`, which is then in the queue's first place. */
static int outcome(struct search *q, int next, hr_err *err)
{
    const hr_evaluator *ev = q->ev;
    int last = q->o->warmup - 1, rc = HR_OK; /* of those before the first training */
    if (next > last || ev->places < 2) {
        struct played *p = in_queue(q, 0);
        play(q, next, p);
        q->waiting = 1;
        return evaluate(q, p, err);
    }
    for (;;) {
        hr_score_reply reply;
        int ticket;
        if ((rc = begin_some(q, next, last, err)) || in_queue(q, 0)->known)
            return rc;
        if ((rc = ev->end(ev->ctx, &ticket, &reply, err)))
            return rc;
        q->queue[ticket].reply = reply;
        q->queue[ticket].known = true;
        q->open--;
    }
}

static int one_episode(struct search *q, int number, hr_episode *e, hr_err *err)
{
    int rc = hr_interrupted() ? HR_EINTR : outcome(q, number, err);
    if (rc) {
        forget_queue(q);
        return rc;
    }
    struct played *p = in_queue(q, 0);
    q->first = (q->first + 1) % q->slots;
    q->waiting--;
    return conclude(q, p, e, err);
}

/* ---- saving and going on ------------------------------------------------------------------------------ */

enum { OWN_BLOCKS = 8, BLOCKS = HR_AGENT_BLOCKS + OWN_BLOCKS + HR_TABLES };

/* All that outlives an episode. The tables' lengths are those that their buffers have now. */
static void list(struct search *q, hr_block b[BLOCKS])
{
    hr_search_result *r = q->best;
    size_t nd = (size_t)q->w->s->nd;
    const hr_block own[OWN_BLOCKS] = {{"rng", &q->rng, sizeof q->rng},
                                      {"best reward", &r->reward, sizeof r->reward},
                                      {"best clean", &r->clean, sizeof r->clean},
                                      {"best robust", &r->robust, sizeof r->robust},
                                      {"best episode", &r->episode, sizeof r->episode},
                                      {"best rates", r->rate, nd * sizeof *r->rate},
                                      {"best kept", r->kept, nd * sizeof *r->kept},
                                      {"constants", &r->constants, sizeof r->constants}};
    hr_buf *t = r->table;
    hr_agent_blocks(&q->agent, b);
    memcpy(b + HR_AGENT_BLOCKS, own, sizeof own);
    b[BLOCKS - 2] = (hr_block){"table of episodes", t[HR_TABLE_EPISODES].data, t[HR_TABLE_EPISODES].len};
    b[BLOCKS - 1] = (hr_block){"table of the best", t[HR_TABLE_BEST].data, t[HR_TABLE_BEST].len};
}

static int save(struct search *q, int done, hr_err *err)
{
    hr_block blocks[BLOCKS];
    hr_rng ahead = q->rng, now = settled(q); /* those in the queue will be played again */
    q->rng = now;
    const hr_buf *t = q->best->table;
    json_t *at =
        json_pack("{s:i, s:[I,I], s:s*}", "episode", done, "tables", (json_int_t)t[HR_TABLE_EPISODES].len,
                  (json_int_t)t[HR_TABLE_BEST].len, "evaluator", q->ev->digest);
    list(q, blocks);
    int rc = hr_job_save(q->job, at, blocks, BLOCKS, err);
    json_decref(at);
    q->rng = ahead;
    return rc;
}

/* Go on from a saved state, if there is one; *done becomes the number of episodes that are behind us. */
static int resume(struct search *q, int *done, hr_err *err)
{
    hr_block blocks[BLOCKS];
    const json_t *at = hr_job_saved(q->job);
    if (!at)
        return HR_OK;
    const char *output = hr_out_name(hr_job_out(q->job));
    const char *was = json_string_value(json_object_get(at, "evaluator")), *now = q->ev->digest;
    if (now && (!was || strcmp(was, now) != 0))
        return hr_fail(
            err, HR_EINVAL,
            "%s.state: belongs to another run: input 'evaluator' has changed; --restart discards it", output);
    json_int_t episode = json_integer_value(json_object_get(at, "episode"));
    bool sound = episode >= 0 && episode <= q->o->warmup + q->o->episodes;
    for (int i = 0; i < HR_TABLES && sound; i++) {
        hr_buf *b = &q->best->table[i];
        json_int_t len = json_integer_value(json_array_get(json_object_get(at, "tables"), (size_t)i));
        sound = len > 0 && len <= hr_csv_most(episode, q->w->s->nd);
        if (!sound)
            break;
        hr_buf_release(b);
        *b = (hr_buf){.data = hr_xcalloc((size_t)len + 1, 1), .len = (size_t)len, .cap = (size_t)len + 1};
    }
    if (sound) {
        list(q, blocks);
        int rc = hr_job_load(q->job, blocks, BLOCKS, err);
        if (rc)
            return rc;
        const hr_agent *a = &q->agent;
        sound = a->size >= 0 && a->size <= a->o.memory && a->head >= 0 && a->head < a->o.memory;
    }
    if (!sound)
        return hr_fail(err, HR_EFORMAT, "%s.state: damaged: numbers that cannot be; --restart discards it",
                       output);
    *done = (int)episode;
    return HR_OK;
}

/* The search ends early, for a reason that lies outside it: the next run goes on from here. An evaluator that
 * fails at once leaves nothing to go on from. */
static int stopped(struct search *q, int done, int rc, hr_err *err)
{
    hr_err trouble = HR_ERR_INIT;
    if (done == 0 && rc != HR_EINTR)
        return rc;
    int saved = save(q, done, &trouble);
    if (rc != HR_EINTR)
        return rc;
    if (saved) {
        *err = trouble;
        return saved;
    }
    return hr_job_interrupted(q->job, err, "episode %d", done + 1);
}

static int episodes(struct search *q, int done, int (*seen)(void *ctx, const hr_episode *e, hr_err *err),
                    void *seen_ctx, hr_err *err)
{
    int total = q->o->warmup + q->o->episodes, rc = HR_OK;
    while (rc == HR_OK && done < total) {
        hr_episode e;
        rc = one_episode(q, done + 1, &e, err);
        if (rc)
            break;
        done++;
        if (seen)
            rc = seen(seen_ctx, &e, err);
        if (rc == HR_OK && (done == total || hr_job_due(q->job)))
            rc = save(q, done, err);
    }
    forget_queue(q);
    return rc && rc != HR_EDIVERGED ? stopped(q, done, rc, err) : rc;
}

int hr_search_run(hr_wall *w, const hr_search_opts *o, hr_job *job, const hr_evaluator *ev,
                  int (*seen)(void *ctx, const hr_episode *e, hr_err *err), void *seen_ctx,
                  hr_search_result *result, hr_err *err)
{
    size_t nd = (size_t)w->s->nd;
    int done = 0;
    struct search q = {.w = w,
                       .o = o,
                       .ev = ev,
                       .rng = {.seed = o->seed, .stream = HR_STREAM_SEARCH},
                       .job = job,
                       .best = result};
    *result = (hr_search_result){.reward = -INFINITY};
    result->rate = hr_xcalloc(nd, sizeof *result->rate);
    result->kept = hr_xcalloc(nd, sizeof *result->kept);
    for (int i = 0; i < HR_TABLES; i++)
        hr_csv_header(&result->table[i], i == HR_TABLE_BEST);
    q.slots = ev->places > 1 ? AHEAD * ev->places : 1;
    q.queue = hr_xcalloc((size_t)q.slots, sizeof *q.queue);
    for (int i = 0; i < q.slots; i++) {
        q.queue[i].steps = hr_xcalloc(nd, sizeof *q.queue->steps);
        q.queue[i].rate = hr_xcalloc(nd, sizeof *q.queue->rate);
        q.queue[i].kept = hr_xcalloc(nd, sizeof *q.queue->kept);
    }
    hr_state_init(&q.state, w->s, o->agent.reference);
    hr_agent_init(&q.agent, &o->agent, &q.rng);

    int rc = resume(&q, &done, err);
    if (rc == HR_OK)
        rc = episodes(&q, done, seen, seen_ctx, err);
    hr_agent_release(&q.agent);
    hr_state_release(&q.state);
    for (int i = 0; i < q.slots; i++) {
        free(q.queue[i].steps);
        free(q.queue[i].rate);
        free(q.queue[i].kept);
    }
    free(q.queue);
    return rc;
}
