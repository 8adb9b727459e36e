/* lib/prune/prune.h -- strategies (one keep-rate per layer), where they come from, and the masks they make.
 *
 * reg: HR_REG_WEIGHT keeps single weights, HR_REG_CHANNEL whole *input* channels of a layer. A strategy in
 * this module is always expanded to one entry per prunable layer, in strategy order (model.h, hr_layers): in
 * channel mode a tied shortcut has its own entry, equal to that of its block's first convolution.
 *
 * Kept counts everywhere: kept = max(1, round-half-even(rate * n)) in double; ties between equal scores go to
 * the lower index; in channel mode the first layer keeps all image channels unless prune_first. */
#ifndef HR_PRUNE_H
#define HR_PRUNE_H

#include "base/base.h"
#include "model/model.h"

/* max(1, round half to even(rate * n)), at most n. */
int64_t hr_kept(double rate, int64_t n);

typedef struct hr_strategy {
    enum hr_reg reg;
    int n;        /* = layers' n */
    double *rate; /* kept / number of weights (or input channels) */
    int64_t *kept;
    char *id;        /* "010_0", "uniform:0.1", ...: for records and messages */
    json_t *history; /* of the search that made it, or NULL */
} hr_strategy;
void hr_strategy_release(hr_strategy *s); /* a zeroed one is allowed */

/* ---- budgets ------------------------------------------------------------------------------------------ */

/* What a strategy costs as fractions of the dense network, in the three measures (ARCHITECTURE 4):
 *   inout   channel: sum F_i*in_i*out_i / sum F_i, where F_i counts weights, in_i is layer i's rate and out_i
 * the rate of the layer(s) that read its output (ALG 6.3, shortcuts tied: the sound accounting); weight: sum
 * kept_i / sum n_i masked  weights that the masks really leave / all weights macs    the same weighted with
 * the layer's output positions */
typedef struct hr_budget {
    double inout, masked, macs;
} hr_budget;
enum hr_measure { HR_MEASURE_INOUT, HR_MEASURE_MASKED, HR_MEASURE_MACS };
extern const char *const hr_measure_names[4]; /* "inout", "masked", "macs", NULL */
hr_budget hr_budget_of(const hr_model *m, const hr_layers *ls, const hr_strategy *s);
double hr_budget_get(const hr_budget *b, enum hr_measure measure);
/* The budget in `measure` of the uniform strategy with this rate: what a target rate P means (channel inout:
 * P for the first and the last layer, P*P for the others; ALG 6.3). */
double hr_budget_target(const hr_model *m, const hr_layers *ls, enum hr_reg reg, double rate,
                        bool prune_first, enum hr_measure measure);

/* ---- where strategies come from ------------------------------------------------------------------------ */

/* spec is one of
 *   uniform:K   every layer K
 *   uniform+:K  Gale et al. 2019 (arXiv:1902.09574): first layer dense, last linear layer at least 0.2, the
 * rest uniform so that the total is K erk:K       Erdos-Renyi-Kernel (Evci et al. 2020, arXiv:1911.11134):
 * rate_i = eps*(O+I+kh+kw)/(O*I*kh*kw), linear (O+I)/(O*I); layers over 1 are fixed dense, largest first, and
 * eps is solved again (ALG 7.1) lamp:K      LAMP (Lee et al. 2021, arXiv:2010.07611): global threshold on w^2
 * / sum_{w' >= w} w'^2 per layer global:K    global magnitude threshold FILE:ARCH/REG/ID   an entry of a
 * strategy file; FILE alone when it holds one entry. Both the published bare list and our entry with names
 * are read (ARCHITECTURE 4, "Strategy") K is in (0,1]. In channel mode erk, lamp and global work on input
 * channels (L1 norm of the channel as the score) and K is bisected until `measure` meets the budget of the
 * uniform rate K. m supplies weights for lamp and global. Returns 0, HR_EINVAL (bad spec, reg mismatch),
 * HR_EIO, HR_EFORMAT (not JSON, too short, unknown names, rates outside (0,1]). */
HR_MUST_CHECK int hr_strategy_make(hr_strategy *s, const char *spec, enum hr_reg reg, const hr_model *m,
                                   const hr_layers *ls, bool prune_first, enum hr_measure measure,
                                   hr_err *err);
/* Our JSON entry: {"layers": [...], "rates": [...], "kept": [...], "budget": {"inout","masked","macs"},
 * "history"}: weight mode lists all layers; channel mode lists the decision layers (no tied shortcuts).
 * Caller owns it. */
json_t *hr_strategy_json(const hr_strategy *s, const hr_model *m, const hr_layers *ls);

/* ---- masks --------------------------------------------------------------------------------------------- */

/* Mark the kept largest of score[0..n) in mask (1) and the others (0); ties go to the lower index. O(n) on
 * average. */
void hr_topk_mask(const float *score, int64_t n, int64_t kept, uint8_t *mask);
/* Scores that masks are made from. */
enum hr_score {
    HR_SCORE_L1, /* weight: |w|; channel: sum of |w| over the input channel (HYDRA's, the search's) */
    HR_SCORE_L2, /* weight: |w|; channel: l2 norm of the input channel (R-ADMM's projection) */
};
/* score (caller's; weight: n floats, channel: `in` floats) of a layer's weights w in torch layout
 * (O,I,kh,kw). */
void hr_score_weights(const float *w, const hr_layer *l, enum hr_reg reg, enum hr_score how, float *score);
/* Number of scores of a layer: weights or input channels. */
int64_t hr_score_count(const hr_layer *l, enum hr_reg reg);
/* Expand a mask (weight: one byte per weight; channel: one per input channel) to float multipliers in the
 * weight's layout. */
void hr_mask_expand(const uint8_t *mask, const hr_layer *l, enum hr_reg reg, float *out);

/* Write the strategy into the model: prune records for all layers, planned; with `active` also LAYER.mask
 * tensors made from the weights by `how`. Existing masks and scores are dropped. */
void hr_model_set_strategy(hr_model *m, const hr_layers *ls, const hr_strategy *s, bool active,
                           enum hr_score how);
/* Write LAYER.mask of one layer from score and prune.kept, and make its record active. */
void hr_model_set_mask(hr_model *m, const hr_layer *l, const float *score);
/* Multiply every layer's weight with its active mask. Afterwards pruned weights are +0. */
void hr_model_zero_pruned(hr_model *m, const hr_layers *ls);
/* Fraction of prunable weights that the active masks leave, 1 for a dense network. */
double hr_model_density(const hr_model *m, const hr_layers *ls);

#endif
