/* lib/search/agent.c -- deep deterministic policy gradient.
 *
 * Lillicrap et al. 2016, Algorithm 1, against our names:
 *   critic Q(s,a), actor mu(s)            critic, actor
 *   targets Q', mu'                       critic_target, actor_target
 *   replay buffer R                       ring
 *   y = r + gamma Q'(s', mu'(s'))         y, with gamma = 1; only r for the last step of an episode
 *   critic: minimise mean (y - Q(s,a))^2  train_critic
 *   actor: grad_a Q(s,a) grad mu(s)       train_actor
 *   targets: t <- tau t + (1 - tau) t'    hr_mlp_follow
 * What differs: a batch of updates follows each finished episode, not each step, and all steps of an episode
 * carry its final reward. As gamma is 1, Q of an early layer is a sum over the steps that follow it, and only
 * a baseline (AMC, section 3.3) keeps that sum from growing with the length: r - b, where b moves half-way to
 * the batch's mean reward with every update. The published program meant to do this but subtracts the mean of
 * the batch itself.
 *
 * The critic's input is [state, action, 1]. The constant is the second bias of the published first layer,
 * relu(S W1 + b1 + a W2 + b2), which learns twice as fast as one bias would. */
#include "search/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CRITIC_IN = HR_STATE + 2 };

void hr_agent_init(hr_agent *a, const hr_agent_opts *o, hr_rng *rng)
{
    *a = (hr_agent){.o = *o, .rng = rng, .lr_scale = 1};
    hr_mlp_init(&a->actor, HR_STATE, o->hidden, o->batch, true, o->init, rng);
    hr_mlp_init(&a->critic, CRITIC_IN, o->hidden, o->batch, false, o->init, rng);
    hr_mlp_init(&a->actor_target, HR_STATE, o->hidden, o->batch, true, o->init, rng);
    hr_mlp_init(&a->critic_target, CRITIC_IN, o->hidden, o->batch, false, o->init, rng);
    hr_mlp_follow(&a->actor_target, &a->actor, 1);
    hr_mlp_follow(&a->critic_target, &a->critic, 1);
    a->ring = hr_xcalloc((size_t)o->memory, sizeof *a->ring);
    a->pick = hr_xcalloc((size_t)o->batch, sizeof *a->pick);
}

void hr_agent_release(hr_agent *a)
{
    hr_mlp_release(&a->actor);
    hr_mlp_release(&a->critic);
    hr_mlp_release(&a->actor_target);
    hr_mlp_release(&a->critic_target);
    free(a->ring);
    free(a->pick);
    *a = (hr_agent){0};
}

/* The gradient and the activations are made anew by every step; parameters and Adam's memory are not. */
static void list_net(hr_mlp *n, const char *const name[4], hr_block *b)
{
    size_t bytes = n->nparam * sizeof *n->p;
    b[0] = (hr_block){name[0], n->p, bytes};
    b[1] = (hr_block){name[1], n->m, bytes};
    b[2] = (hr_block){name[2], n->v, bytes};
    b[3] = (hr_block){name[3], &n->t, sizeof n->t};
}

void hr_agent_blocks(hr_agent *a, hr_block *b)
{
    static const char *const actor[4] = {"actor", "actor.m", "actor.v", "actor.t"};
    static const char *const critic[4] = {"critic", "critic.m", "critic.v", "critic.t"};
    static const char *const actor_target[4] = {"actor'", "actor'.m", "actor'.v", "actor'.t"};
    static const char *const critic_target[4] = {"critic'", "critic'.m", "critic'.v", "critic'.t"};
    const hr_block rest[] = {{"ring", a->ring, (size_t)a->o.memory * sizeof *a->ring},
                             {"size", &a->size, sizeof a->size},
                             {"head", &a->head, sizeof a->head},
                             {"baseline", &a->b, sizeof a->b},
                             {"baseline set", &a->b_set, sizeof a->b_set},
                             {"lr scale", &a->lr_scale, sizeof a->lr_scale}};
    list_net(&a->actor, actor, b);
    list_net(&a->critic, critic, b + 4);
    list_net(&a->actor_target, actor_target, b + 8);
    list_net(&a->critic_target, critic_target, b + 12);
    _Static_assert(16 + HR_COUNT(rest) == HR_AGENT_BLOCKS, "search.h counts the blocks");
    memcpy(b + 16, rest, sizeof rest);
}

double hr_agent_act(hr_agent *a, const float obs[HR_STATE])
{
    memcpy(a->actor.x, obs, HR_STATE * sizeof *obs);
    hr_mlp_forward(&a->actor, 1);
    return a->actor.y[0];
}

double hr_noise(hr_rng *rng, double mu, double sigma)
{
    double z;
    do
        z = hr_rng_normal(rng);
    while (fabs(z) > 2);
    double u = fabs(mu + sigma * z);
    return u > 1 ? 1 : u;
}

/* ---- replay ------------------------------------------------------------------------------------------ */

void hr_agent_store(hr_agent *a, const hr_transition *t)
{
    a->ring[a->head] = *t;
    a->head = (a->head + 1) % a->o.memory;
    if (a->size < a->o.memory)
        a->size++;
}

/* Slot of the i-th oldest transition. */
static int slot_of(const hr_agent *a, int i)
{
    return (a->head - a->size + i + a->o.memory) % a->o.memory;
}

/* n draws from lo..hi-1 into out: without replacement where that is possible. Floyd's method would save the
 * table; at these sizes a partial Fisher-Yates shuffle is the simpler way. */
static void draw(hr_rng *rng, int lo, int hi, int n, int *out)
{
    int range = hi - lo;
    int *all = hr_xmalloc((size_t)range * sizeof *all);
    for (int i = 0; i < range; i++)
        all[i] = lo + i;
    for (int i = 0; i < n; i++) {
        bool without = n <= range;
        int from = without ? i : 0;
        int j = from + (int)hr_rng_below(rng, (uint32_t)(range - from));
        out[i] = all[j];
        if (without) {
            all[j] = all[i];
            all[i] = out[i];
        }
    }
    free(all);
}

/* Random strategies are many and bad, good ones few: without a preference the critic spends itself on telling
 * bad from worse. Ranks, not values, so that no scale of rewards matters. */
static int best_of_three(hr_agent *a)
{
    int best = -1;
    for (int k = 0; k < 3; k++) {
        int i = (int)hr_rng_below(a->rng, (uint32_t)a->size);
        if (best < 0 || a->ring[slot_of(a, i)].reward > a->ring[slot_of(a, best)].reward)
            best = i;
    }
    return best;
}

void hr_agent_sample(hr_agent *a)
{
    int n = a->o.batch;
    /* The published buffer pairs neighbours, so its newest transition has no successor yet. */
    int hi = a->o.reference && a->size > 1 ? a->size - 1 : a->size;
    draw(a->rng, 0, hi, n, a->pick);
    for (int k = 0; k < n; k++) {
        int i = a->pick[k];
        if (!a->o.reference && hr_rng_double(a->rng) < a->o.prefer)
            i = best_of_three(a);
        if (a->o.reference)
            for (int tries = 0; i > 0 && a->ring[slot_of(a, i - 1)].done && tries < 1000; tries++)
                i = (int)hr_rng_below(a->rng, (uint32_t)hi);
        a->pick[k] = slot_of(a, i);
    }
}

/* ---- training ---------------------------------------------------------------------------------------- */

static void critic_input(hr_mlp *critic, int row, const float *obs, float action)
{
    float *x = critic->x + (size_t)row * CRITIC_IN;
    memcpy(x, obs, HR_STATE * sizeof *obs);
    x[HR_STATE] = action;
    x[HR_STATE + 1] = 1;
}

/* The rewards of the batch less the baseline, which moves first. */
static void shifted_rewards(hr_agent *a, float *r)
{
    int n = a->o.batch;
    double mean = 0;
    for (int k = 0; k < n; k++)
        mean += a->ring[a->pick[k]].reward / n;
    if (a->o.reference)
        a->b = mean;
    else if (a->o.baseline)
        a->b = a->b_set ? a->b + 0.5 * (mean - a->b) : mean;
    a->b_set = true;
    for (int k = 0; k < n; k++)
        r[k] = a->ring[a->pick[k]].reward - (float)a->b;
}

static void train_critic(hr_agent *a, float *y, float *dy)
{
    int n = a->o.batch;
    for (int k = 0; k < n; k++)
        memcpy(a->actor_target.x + (size_t)k * HR_STATE, a->ring[a->pick[k]].next, sizeof a->ring->next);
    hr_mlp_forward(&a->actor_target, n);
    for (int k = 0; k < n; k++)
        critic_input(&a->critic_target, k, a->ring[a->pick[k]].next, a->actor_target.y[k]);
    hr_mlp_forward(&a->critic_target, n);
    shifted_rewards(a, y);
    for (int k = 0; k < n; k++) {
        const hr_transition *t = &a->ring[a->pick[k]];
        if (!t->done)
            y[k] += a->critic_target.y[k];
        critic_input(&a->critic, k, t->obs, t->action);
    }
    hr_mlp_forward(&a->critic, n);
    a->critic_loss = 0;
    for (int k = 0; k < n; k++) {
        float e = a->critic.y[k] - y[k];
        a->critic_loss += (double)e * e / n;
        dy[k] = 2 * e / (float)n;
    }
    hr_mlp_backward(&a->critic, n, dy, true);
    hr_mlp_adam(&a->critic, a->o.critic_lr * a->lr_scale);
}

static void train_actor(hr_agent *a, float *dq, float *da)
{
    int n = a->o.batch;
    for (int k = 0; k < n; k++)
        memcpy(a->actor.x + (size_t)k * HR_STATE, a->ring[a->pick[k]].obs, sizeof a->ring->obs);
    hr_mlp_forward(&a->actor, n);
    a->actor_loss = 0;
    for (int k = 0; k < n; k++) {
        critic_input(&a->critic, k, a->ring[a->pick[k]].obs, a->actor.y[k]);
        dq[k] = -1 / (float)n; /* the loss is -mean Q */
    }
    hr_mlp_forward(&a->critic, n);
    hr_mlp_backward(&a->critic, n, dq, false);
    for (int k = 0; k < n; k++) {
        a->actor_loss -= (double)a->critic.y[k] / n;
        da[k] = a->critic.dx[(size_t)k * CRITIC_IN + HR_STATE];
    }
    hr_mlp_backward(&a->actor, n, da, true);
    hr_mlp_adam(&a->actor, a->o.actor_lr * a->lr_scale);
}

int hr_agent_train(hr_agent *a, int steps, bool hard, hr_err *err)
{
    size_t n = (size_t)a->o.batch;
    float *y = hr_xmalloc(n * sizeof *y), *d = hr_xmalloc(n * sizeof *d);
    for (int i = 0; i < steps; i++) {
        if (hard) {
            hr_mlp_follow(&a->actor_target, &a->actor, 1);
            hr_mlp_follow(&a->critic_target, &a->critic, 1);
        }
        hr_agent_sample(a);
        train_critic(a, y, d);
        train_actor(a, y, d);
        hr_mlp_follow(&a->actor_target, &a->actor, a->o.tau);
        hr_mlp_follow(&a->critic_target, &a->critic, a->o.tau);
    }
    free(y);
    free(d);
    if (!a->o.reference)
        a->lr_scale *= a->o.lr_decay;
    if (!isfinite(a->critic_loss) || !isfinite(a->actor_loss))
        return hr_fail(err, HR_EDIVERGED, "the agent diverged: critic loss %g, actor loss %g", a->critic_loss,
                       a->actor_loss);
    return HR_OK;
}
