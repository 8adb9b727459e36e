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
    *r = (hr_search_result){0};
}

struct search {
    hr_wall *w;
    const hr_search_opts *o;
    hr_state state;
    hr_agent agent;
    hr_rng rng;
    const hr_search_result *best;
    hr_transition *steps; /* [nd] of the current episode; those before w->s->first are unused */
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

/* Decide every layer; fills steps but for the reward. */
static void play(struct search *q, int episode)
{
    hr_wall *w = q->w;
    const hr_space *s = w->s;
    bool reference = q->o->agent.reference;
    hr_wall_reset(w);
    for (int d = s->first; d < s->nd; d++) {
        hr_transition *t = &q->steps[d];
        hr_state_row(&q->state, w, d, t->obs);
        double u = choose(q, episode - q->o->warmup, d, t->obs);
        t->action = (float)u;
        hr_wall_step(w, u);
    }
    hr_wall_finish(w);
    for (int d = s->first; d < s->nd && !reference; d++) {
        hr_state_row(&q->state, w, d, q->steps[d].obs);
        q->steps[d].action = (float)hr_wall_unmap(w, w->r[d]);
    }
    for (int d = s->first; d < s->nd; d++) {
        bool last = d == s->nd - 1;
        memcpy(q->steps[d].next, q->steps[last ? d : d + 1].obs, sizeof q->steps->next);
        q->steps[d].done = last;
    }
}

static int learn(struct search *q, int episode, double reward, hr_err *err)
{
    const hr_space *s = q->w->s;
    for (int d = s->first; d < s->nd; d++) {
        q->steps[d].reward = (float)reward;
        hr_agent_store(&q->agent, &q->steps[d]);
    }
    int next = episode + 1; /* the published counter has moved on already */
    if (next < q->o->warmup)
        return HR_OK;
    return hr_agent_train(&q->agent, q->o->train_iters, next == q->o->warmup, err);
}

static void keep_best(const hr_wall *w, const hr_episode *e, hr_search_result *best)
{
    best->reward = e->reward;
    best->clean = e->clean;
    best->robust = e->robust;
    best->episode = e->number;
    memcpy(best->rate, w->r, (size_t)w->s->nd * sizeof *best->rate);
    memcpy(best->kept, w->kept, (size_t)w->s->nd * sizeof *best->kept);
}

static int one_episode(struct search *q, int number, hr_eval_fn eval, void *eval_ctx, hr_episode *e,
                       hr_search_result *best, hr_err *err)
{
    const hr_search_opts *o = q->o;
    hr_score_reply reply = {0};
    play(q, number);
    int rc = eval(eval_ctx, q->w->kept, q->w->s->nd, &reply, err);
    if (rc)
        return rc;
    *e = (hr_episode){.number = number,
                      .total = o->warmup + o->episodes,
                      .warmup = number <= o->warmup,
                      .reward = hr_reward_of(o->reward, o->beta, o->agent.reference, &reply),
                      .clean = (double)reply.clean / (double)reply.images,
                      .robust = (double)reply.robust / (double)reply.images,
                      .cost = hr_wall_cost(q->w),
                      .dense_cost = q->w->total,
                      .constant = reply.constant,
                      .rate = q->w->r,
                      .kept = q->w->kept};
    best->constants += e->constant;
    e->best = e->reward > best->reward && !(o->agent.reference && e->warmup);
    if (e->best)
        keep_best(q->w, e, best);
    e->best_reward = best->reward;
    e->best_rate = best->episode ? best->rate : NULL;
    return learn(q, number, e->reward, err);
}

int hr_search_run(hr_wall *w, const hr_search_opts *o, hr_eval_fn eval, void *eval_ctx,
                  int (*seen)(void *ctx, const hr_episode *e, hr_err *err), void *seen_ctx,
                  hr_search_result *result, hr_err *err)
{
    size_t nd = (size_t)w->s->nd;
    struct search q = {.w = w, .o = o, .rng = {.seed = o->seed, .stream = HR_STREAM_SEARCH}, .best = result};
    *result = (hr_search_result){.reward = -INFINITY};
    result->rate = hr_xcalloc(nd, sizeof *result->rate);
    result->kept = hr_xcalloc(nd, sizeof *result->kept);
    q.steps = hr_xcalloc(nd, sizeof *q.steps);
    hr_state_init(&q.state, w->s, o->agent.reference);
    hr_agent_init(&q.agent, &o->agent, &q.rng);

    int rc = HR_OK;
    for (int number = 1; rc == HR_OK && number <= o->warmup + o->episodes; number++) {
        hr_episode e;
        rc = hr_interrupted() ? hr_fail(err, HR_EINTR, "interrupted in episode %d", number) : HR_OK;
        if (rc == HR_OK)
            rc = one_episode(&q, number, eval, eval_ctx, &e, result, err);
        if (rc == HR_OK && seen)
            rc = seen(seen_ctx, &e, err);
    }
    hr_agent_release(&q.agent);
    hr_state_release(&q.state);
    free(q.steps);
    return rc;
}
