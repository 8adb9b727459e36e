/* lib/search/search.h -- one keep-rate per layer, found by DDPG under a budget.
 *
 * A search knows no network. It reads a table of layers (hr_space), asks somebody else what a strategy is
 * worth (hr_eval_fn: usually a child process that speaks JSON lines, hr_peer), and keeps to a budget by
 * itself (hr_wall). In between stands the agent (hr_agent): an actor and a critic with replay (Lillicrap et
 * al. 2016, arXiv:1509.02971), one step of an episode per layer, the reward at its end. The embedding of a
 * layer, the budget wall and the published constants are those of HERACLES (Zhao, Wressnegger 2022), which
 * took the scheme from AMC (He et al. 2018, arXiv:1802.03494).
 *
 * Two modes. `reference` repeats the published program, faults included, so that its numbers can be matched.
 * The default ("sound") mends them: the budget is never exceeded and is used up, shortcuts are counted with
 * the rates they really get, the state describes the layer being decided, the critic learns from the action
 * that was executed, baseline and learning-rate decay work, and the best strategy may be a warm-up one.
 *
 * Words. A *rate* is the fraction kept; a *decision layer* gets an action of its own (all layers in weight
 * mode; in channel mode all but tied shortcuts, which take the rate of their block's first convolution);
 * *strategy order* is the order of the table. Channel means input channel of a layer. */
#ifndef HR_SEARCH_H
#define HR_SEARCH_H

#include "base/base.h"

/* ---- the search space -------------------------------------------------------------------------------- */

enum hr_cost_kind {
    HR_COST_INOUT,  /* weights x input rate x output rate (weight mode: kept weights): the published one */
    HR_COST_MASKED, /* weights that the masks leave */
    HR_COST_MACS    /* multiplications that they leave: weights times output positions */
};
extern const char *const hr_cost_names[4]; /* "inout", "masked", "macs", NULL */

typedef struct hr_space_layer {
    char *name;
    bool linear;
    int in, out, kernel, stride; /* kernel: height; 1 for linear */
    int hin, win, hout, wout;    /* 1 for linear */
    int64_t weights, macs;
    int tie;       /* shortcut: index of its block's first convolution; else -1 */
    int block_end; /* shortcut: index of its block's last convolution, whose output it is added to; else -1 */
} hr_space_layer;

typedef struct hr_space {
    char *arch;
    int classes, height, width; /* of the network and its images */
    bool channel, prune_first;
    hr_space_layer *l; /* all layers, strategy order */
    int n;
    int *decision;  /* [nd] index in l of each decision layer */
    int64_t *count; /* [nd] weights, or input channels */
    int nd;
    int first; /* first decision that is really made: 1 in channel mode without prune_first (the image's
                  channels are all kept), else 0 */
    /* Whose rates a layer's cost depends on, as decision indices; -1 stands for the rate 1.
     * Weight mode: rin is the layer, rout -1. Channel mode: rout is the decision layer that reads the output,
     * the one after it in strategy order; for a tied shortcut, the reader of its block. */
    int *rin, *rout; /* [n] */
} hr_space;

/* Build a space from the table that `nninfo --format json` prints. where names its file for messages. Caller
 * releases s, also after an error. Returns 0, or HR_EFORMAT naming the layer and the field. */
HR_MUST_CHECK int hr_space_parse(hr_space *s, const json_t *table, const char *where, bool channel,
                                 bool prune_first, hr_err *err);
void hr_space_release(hr_space *s); /* a zeroed one is allowed */

/* Cost of the dense network, in weights or MACs. */
double hr_space_total(const hr_space *s, enum hr_cost_kind measure);
/* Cost of the network with these rates [nd]: sum of cost_i * rate[rin] (* rate[rout] for HR_COST_INOUT). */
double hr_space_cost(const hr_space *s, enum hr_cost_kind measure, const double *rate);
/* What a uniform keep-rate costs, before rounding: the budget that a target rate means. In channel mode the
 * first layer keeps its inputs and the last its outputs (inout: rate for these two, rate^2 for the others).
 */
double hr_space_budget(const hr_space *s, enum hr_cost_kind measure, double rate);

/* ---- the budget wall --------------------------------------------------------------------------------- */

enum hr_action {
    HR_ACTION_LINEAR, /* u in [0,1] asks for lb + u (ub - lb); the wall cuts each layer as it is decided */
    HR_ACTION_LOG /* u asks for lo (ub/lo)^u, lo = max(lb, rate/6); the finished strategy is scaled onto the
                     budget */
};
extern const char *const hr_action_names[3];

typedef struct hr_wall {
    const hr_space *s;
    bool reference;
    enum hr_action action;
    enum hr_cost_kind measure;
    double rate, lb, ub;   /* target keep-rate; bounds of every layer */
    double total, budget;  /* cost of the dense network; cost allowed */
    int64_t *least, *most; /* [nd] kept counts that the bounds allow */
    int64_t *kept;         /* [nd] */
    double *r;             /* [nd] kept / count (reference: rounded to float32) */
    double *ask;           /* [nd] rates that the agent asked for */
    double *in, *out;      /* [n] reference only: its idea of each layer's two rates */
    int decided;           /* decisions made in this episode, the fixed first one included */
} hr_wall;

/* Returns 0, or HR_EINVAL when no strategy within the bounds can meet the budget: the smallest exceeds it, or
 * (sound) the largest stays below it. s is borrowed. Caller releases w, also after an error. */
HR_MUST_CHECK int hr_wall_init(hr_wall *w, const hr_space *s, bool reference, enum hr_action action,
                               enum hr_cost_kind measure, double rate, double lb, double ub, hr_err *err);
void hr_wall_release(hr_wall *w);
/* Start an episode: every layer at its lower bound. */
void hr_wall_reset(hr_wall *w);
/* The agent's answer u in [0,1] for decision w->decided; sets kept and r of that layer and counts on.
 * Returns the rate executed so far (a log action may still be scaled by hr_wall_finish). */
double hr_wall_step(hr_wall *w, double u);
/* After the last decision. Sound: scale and fill up the strategy, so that it costs at most the budget and no
 * layer within its bounds can take one more weight (channel). The reference leaves it as it is. */
void hr_wall_finish(hr_wall *w);
/* Instead of steps and finish: take these rates [nd] as the strategy. What costs the budget and keeps to the
 * bounds is taken as it is; anything else is cut, scaled and filled up. Sound only. */
void hr_wall_take(hr_wall *w, const double *rate);
/* The u that would have asked for rate r, clipped to [0,1]. */
double hr_wall_unmap(const hr_wall *w, double r);
/* What the strategy costs in w->measure, with the accounting of the mode. */
double hr_wall_cost(const hr_wall *w);

/* ---- the state --------------------------------------------------------------------------------------- */

/* What the agent sees of a layer: 8 fixed columns, min-max normalised over the decision layers (constant ones
 * are left as they are), and 3 that change:
 *   0 index  1 in  2 out  3 height  4 width  5 stride  6 kernel  7 weights
 *   8 cost saved by the layers decided so far   9 cost of the layers still to come   10 previous rate
 * 8 and 9 as fractions of the dense network. In the reference 3 and 4 are the output size of the decision
 * layer before, 5 is out/in (1 for the first, 0 for linear layers), and 7 to 9 mix up positions among the
 * decision layers with positions among all layers. */
enum { HR_STATE = 11, HR_STATE_FIXED = 8 };
typedef struct hr_state {
    const hr_space *s;
    bool reference;
    double *raw, *fixed; /* [nd][HR_STATE_FIXED]: as measured, normalised */
} hr_state;
void hr_state_init(hr_state *st, const hr_space *s, bool reference);
void hr_state_release(hr_state *st);
/* What is observed before decision `row` is made, w holding the rates of the decisions before it. */
void hr_state_row(const hr_state *st, const hr_wall *w, int row, float obs[HR_STATE]);

/* ---- networks ---------------------------------------------------------------------------------------- */

/* A multilayer perceptron with three layers: in -> hidden -> hidden -> 1, ReLU between, the last linear or
 * logistic. Parameters stand in one array: w1 [in][hidden], b1 [hidden], w2 [hidden][hidden], b2, w3
 * [hidden], b3. All numeric work is in float with OpenBLAS' serial build, in a fixed order. */
typedef struct hr_mlp {
    int in, hidden, batch; /* batch: largest number of rows */
    bool logistic;
    size_t nparam;
    float *p, *g, *m, *v; /* [nparam] parameters, gradient, Adam's two moments */
    int64_t t;            /* Adam steps made */
    float *x;             /* [batch][in] input of the last forward pass, to be filled by the caller */
    float *h1, *h2;       /* [batch][hidden] after ReLU */
    float *y;             /* [batch] output */
    float *d1, *d2;       /* [batch][hidden] backward */
    float *dx;            /* [batch][in] */
} hr_mlp;
enum hr_init {
    HR_INIT_NORMAL, /* everything N(0, 0.01^2), biases too: published */
    HR_INIT_FANIN   /* U(+-1/sqrt(fan in)), last layer U(+-0.003): Lillicrap et al., section 7 */
};
extern const char *const hr_init_names[3];
void hr_mlp_init(hr_mlp *n, int in, int hidden, int batch, bool logistic, enum hr_init how, hr_rng *rng);
void hr_mlp_release(hr_mlp *n);
/* y = net(x) for the first `rows` rows of x. */
void hr_mlp_forward(hr_mlp *n, int rows);
/* Gradients from dy [rows] after hr_mlp_forward: g is overwritten (when want_params), dx is overwritten. */
void hr_mlp_backward(hr_mlp *n, int rows, const float *dy, bool want_params);
/* One Adam step along -g in TensorFlow 1's form (eps outside the bias correction):
 *   p -= lr sqrt(1-b2^t)/(1-b1^t) m/(sqrt(v)+1e-8), b1 0.9, b2 0.999. */
void hr_mlp_adam(hr_mlp *n, double lr);
/* p = tau src + (1-tau) p. */
void hr_mlp_follow(hr_mlp *n, const hr_mlp *src, double tau);

/* ---- the agent --------------------------------------------------------------------------------------- */

typedef struct hr_agent_opts {
    bool reference; /* published sampling, and a baseline and a decay without effect */
    bool baseline;  /* sound: subtract a moving average from rewards */
    double prefer;  /* sound: share of each batch drawn with a preference for high rewards */
    enum hr_init init;
    double actor_lr, critic_lr, lr_decay, tau;
    int hidden, batch, memory; /* memory: transitions */
} hr_agent_opts;

typedef struct hr_transition {
    float obs[HR_STATE], next[HR_STATE];
    float action, reward;
    bool done;
} hr_transition;

typedef struct hr_agent {
    hr_agent_opts o;
    hr_mlp actor, critic, actor_target, critic_target;
    hr_transition *ring; /* [o.memory] */
    int size, head;      /* transitions held; where the next one goes */
    double b;            /* baseline */
    bool b_set;
    double lr_scale;                /* product of the decays so far */
    double critic_loss, actor_loss; /* of the last training step: mean squared TD error, -mean Q */
    hr_rng *rng;
    int *pick; /* [o.batch] slots of the last sample */
} hr_agent;

/* rng is borrowed: initial weights, noise and samples are drawn from it in order. */
void hr_agent_init(hr_agent *a, const hr_agent_opts *o, hr_rng *rng);
void hr_agent_release(hr_agent *a);
/* List what the agent has learned and remembers, to save or to load it (hr_state_save): b [HR_AGENT_BLOCKS]
 * is overwritten and points into a. rng, which is borrowed, is its owner's to save. */
enum { HR_AGENT_BLOCKS = 22 };
void hr_agent_blocks(hr_agent *a, hr_block *b);
/* mu(obs), in (0,1). */
double hr_agent_act(hr_agent *a, const float obs[HR_STATE]);
/* clip(|TN(mu, sigma)|, 0, 1), TN a normal redrawn beyond two deviations. */
double hr_noise(hr_rng *rng, double mu, double sigma);
void hr_agent_store(hr_agent *a, const hr_transition *t);
/* Draw a batch of slots into pick. Sound: all transitions alike, then each draw is replaced with probability
 * `prefer` by the best-rewarded of three more. Reference: never an episode's first step. */
void hr_agent_sample(hr_agent *a);
/* `steps` times: sample, critic step, actor step, targets follow; with hard, targets are copied before each
 * step. Then the learning rates decay. Returns 0, or HR_EDIVERGED. */
HR_MUST_CHECK int hr_agent_train(hr_agent *a, int steps, bool hard, hr_err *err);

/* ---- evaluators -------------------------------------------------------------------------------------- */

typedef struct hr_score_reply {
    int64_t images, clean, robust; /* images seen, right without and under attack */
    bool constant;                 /* every image got the same class */
    int64_t answer;                /* which; -1: the evaluator does not say */
} hr_score_reply;
/* Add the counts of a part to those of the parts before (a zeroed sum: none). Parts that are each constant
 * are constant together when their classes are the same. */
void hr_score_add(hr_score_reply *sum, const hr_score_reply *part);

/* Somebody who tells what strategies are worth on a fixed set of images, which come in batches. kept [nd] is
 * in strategy order. Functions return 0, or a code with err set. */
typedef struct hr_evaluator {
    void *ctx;
    /* What is this strategy worth on the batches [from, to)? Waits. */
    int (*eval)(void *ctx, const int64_t *kept, int nd, int64_t from, int64_t to, hr_score_reply *reply,
                hr_err *err);
    int places; /* whole evaluations that can be under way at once; up to 1: the next two are not used */
    /* Begin one, on a free place. */
    int (*begin)(void *ctx, const int64_t *kept, int nd, int ticket, hr_err *err);
    /* Wait for whichever ends first. */
    int (*end)(void *ctx, int *ticket, hr_score_reply *reply, hr_err *err);
    int64_t batches, images;
    const char *digest;    /* of all that answers depend on; or NULL */
    const json_t *history; /* a history record of the same; or NULL */
} hr_evaluator;

/* Shell commands, each of which starts an evaluator process. */
typedef struct hr_commands {
    char **line;
    int n;
} hr_commands;
enum { HR_MAX_EVALUATORS = 256 };
/* One command per line; empty lines and those that begin with # are passed over. Caller releases c, also
 * after an error. Returns 0, HR_EIO or HR_EFORMAT. */
HR_MUST_CHECK int hr_commands_load(hr_commands *c, const char *path, hr_err *err);
void hr_commands_release(hr_commands *c);

/* Evaluator processes: `/bin/sh -c command` in a process group each, JSON lines on their standard input and
 * output (protocol: the essay in peer.c). */
typedef struct hr_pool hr_pool;
/* Start each command `copies` times and check the first lines against the space and each other. Several
 * share our threads by OMP_NUM_THREADS. timeout is in seconds, for that line and for every reply. c and s
 * are borrowed. Returns 0 with *out set, HR_EIO, HR_EPEER or HR_EINTR. */
HR_MUST_CHECK int hr_pool_start(hr_pool **out, const hr_commands *c, int copies, const hr_space *s,
                                double timeout, hr_err *err);
/* All of them as one; it lives as long as the pool. A process that died is started again once in its life.
 * After an error no more may be asked. */
hr_evaluator hr_pool_evaluator(hr_pool *pool);
int hr_pool_restarts(const hr_pool *pool); /* processes that died and were started again */
/* End their inputs and wait for them to leave. HR_EPEER when one says more than it was asked, or leaves with
 * another status than 0. Releases pool either way. */
HR_MUST_CHECK int hr_pool_finish(hr_pool *pool, hr_err *err);
/* Kill the whole process groups and release pool; NULL is allowed. */
void hr_pool_kill(hr_pool *pool);

/* ---- the search -------------------------------------------------------------------------------------- */

enum hr_reward {
    HR_REWARD_ACC,      /* clean */
    HR_REWARD_ACC_AA,   /* clean * exp(robust) */
    HR_REWARD_ACC_PLUS, /* clean + beta * robust */
};
extern const char *const hr_reward_names[4]; /* "acc", "acc_aa", "acc+aa", NULL */
/* Accuracies are fractions. Sound: a constant predictor is worth 0, for no attack can hurt it. */
double hr_reward_of(enum hr_reward how, double beta, bool reference, const hr_score_reply *r);

typedef struct hr_search_opts {
    hr_agent_opts agent;
    int warmup, episodes; /* random episodes, then episodes with the actor */
    int train_iters;
    double sigma, sigma_decay; /* noise after the warm-up; its factor per episode */
    double sigma_floor;        /* sound: the noise never falls below it */
    bool early_stop;           /* abandon an evaluation that cannot become the best one any more (run.c) */
    int best_every;            /* sound: every so many episodes explore around the best one; 0: none */
    enum hr_reward reward;
    double beta;
    uint32_t seed;
    const double *starts; /* sound: [nstarts][nd] rates that the first warm-up episodes take; borrowed */
    int nstarts;          /* at most warmup are used */
} hr_search_opts;

/* Read the one strategy of a file into rate [nd]; hex receives the digest of the rates. Returns 0, HR_EIO or
 * HR_EFORMAT (no strategy, another kind, other layers). */
HR_MUST_CHECK int hr_start_load(const hr_space *s, const char *file, double *rate, char hex[65], hr_err *err);

typedef struct hr_episode {
    int number, total; /* from 1 */
    bool warmup;
    double reward, clean, robust; /* accuracies in [0,1] */
    double cost, dense_cost;      /* in the wall's measure */
    bool constant;
    const double *rate;      /* [nd] */
    const int64_t *kept;     /* [nd] */
    bool best;               /* this one is the best so far */
    double best_reward;      /* -INFINITY: none yet (reference, warm-up) */
    const double *best_rate; /* [nd]; NULL: none yet */
} hr_episode;

enum { HR_TABLE_EPISODES, HR_TABLE_BEST, HR_TABLES };
typedef struct hr_search_result {
    double reward, clean, robust;
    int episode; /* that found it; 0: none */
    double *rate;
    int64_t *kept;
    int constants;           /* episodes whose network was a constant predictor */
    hr_buf table[HR_TABLES]; /* text of the two tables, from the first episode on */
} hr_search_result;
void hr_search_result_release(hr_search_result *r);

/* Run the episodes, from where job (NULL allowed) was saved by a run with an evaluator of the same digest.
 * seen is called after each (NULL: nobody looks); its return value, if not 0, ends the search with that code.
 * The state is saved when it is due, after the last episode, on a signal, and when the evaluator fails: an
 * episode that was not evaluated has then not been, and the next run repeats it. The result is the same for
 * any number of places. Caller releases *result, also after an error. Returns 0, what the evaluator or seen
 * returned, HR_EDIVERGED, HR_EINTR, HR_EIO (the state cannot be saved), HR_EINVAL (it is another evaluator's)
 * or HR_EFORMAT (it is damaged). */
HR_MUST_CHECK int hr_search_run(hr_wall *w, const hr_search_opts *o, hr_job *job, const hr_evaluator *ev,
                                int (*seen)(void *ctx, const hr_episode *e, hr_err *err), void *seen_ctx,
                                hr_search_result *result, hr_err *err);

/* What a constant predictor scores when classes are equally frequent, by the published reward. */
double hr_reward_chance(enum hr_reward how, double beta, int classes);

/* ---- products ---------------------------------------------------------------------------------------- */

/* The two tables of the published program, tab-separated, here with a header line:
 *   Episode_wise_Rewards.csv  Iter Iter_reward Estimate_Reduction Bng_Acc Adv_Acc org_ops new_ops
 * iter_strategy Best_Rewards.csv          Iter Best_reward ... best_strategy: best so far, but the columns
 * between are those of the current episode The strategy is printed as a Python list. */
void hr_csv_header(hr_buf *b, bool best);
void hr_csv_row(hr_buf *b, const hr_episode *e, int nd, bool best);
/* No table with that many rows is longer; what they cost is at most 2^53. */
int64_t hr_csv_most(int64_t rows, int nd);

/* {arch: {"weight"|"channel": {id: {"layers", "rates", "kept", "budget": {"target", "inout", "masked",
 * "macs"}, "reward", "clean", "robust", "episode", "history"}}}}; budgets as fractions, sound accounting
 * whatever the mode. history is stolen. Caller owns the result. */
json_t *hr_search_json(const hr_wall *w, const hr_search_result *r, const char *id, json_t *history);

#endif
