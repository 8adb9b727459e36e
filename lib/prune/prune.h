/* lib/prune/prune.h -- strategies (one keep-rate per layer), where they come from, and the masks they make.
 *
 * reg: HR_REG_WEIGHT keeps single weights, HR_REG_CHANNEL whole *input* channels of a layer. A strategy in
 * this module is always expanded to one entry per prunable layer, in strategy order (model.h, hr_layers): in
 * channel mode a tied shortcut has its own entry, equal to that of its block's first convolution.
 *
 * Kept counts everywhere: kept = max(1, round-half-even(rate * n)) in double; ties between equal scores go to
 * the lower index; in channel mode the first layer keeps all image channels unless prune_first.
 *
 * Files: budget.c (what a strategy costs), rules.c (uniform, ERK, LAMP, ...), strategy.c (specs, strategy
 * files, claims), audit.c (all claims of a file), table.c (per-layer tables), mask.c (scores and masks),
 * apply.c (what is written into a model). */
#ifndef HR_PRUNE_H
#define HR_PRUNE_H

#include "base/base.h"
#include "model/model.h"

/* max(1, round half to even(rate * n)), at most n. */
int64_t hr_kept(double rate, int64_t n);

/* ---- budgets ------------------------------------------------------------------------------------------ */

/* What a strategy costs as fractions of the dense network, in three measures (ARCHITECTURE 4). With F_i the
 * weights of layer i and r_i its keep-rate:
 *   inout   the published one. channel: sum F_i r_i out_i / sum F_i, where out_i is the rate of the first
 *           layer that reads i's output (1 for the last layer); shortcuts are counted with the rate they are
 *           tied to (ALG 6.3, the sound accounting). weight: the same as masked.
 *   masked  weights that the masks really leave / all weights: sum F_i r_i / sum F_i
 *   macs    the same weighted with the layer's output positions: sum MAC_i r_i / sum MAC_i */
typedef struct hr_budget {
    double inout, masked, macs;
} hr_budget;
enum hr_measure { HR_MEASURE_INOUT, HR_MEASURE_MASKED, HR_MEASURE_MACS };
extern const char *const hr_measure_names[4]; /* "inout", "masked", "macs", NULL */

typedef struct hr_strategy {
    enum hr_reg reg;
    int n;             /* = layers' n */
    double *rate;      /* kept / number of weights (or input channels) */
    int64_t *kept;     /* weights, or input channels */
    char *id;          /* "010_0", "uniform:0.1", ...: for records and messages */
    char *name;        /* where it came from, without the file's path: "resnet18/weight/010_0", "erk:0.1" */
    double target;     /* the uniform rate whose budget its rule, ID or entry claims; 0: none */
    hr_budget claimed; /* the budget that its file entry claims; zeros: none */
    char digest[65];   /* SHA-256 of the file entry's compact JSON text; "" for rules */
    json_t *history;   /* of the search that made it, or NULL */
} hr_strategy;
void hr_strategy_release(hr_strategy *s); /* a zeroed one is allowed */

hr_budget hr_budget_of(const hr_model *m, const hr_layers *ls, const hr_strategy *s);
double hr_budget_get(const hr_budget *b, enum hr_measure measure);
/* The budget in `measure` of the uniform strategy with this rate, before any rounding to whole weights or
 * channels: what a target rate P means (channel inout: P for the first and the last layer, P*P for the
 * others; ALG 6.3). */
double hr_budget_target(const hr_model *m, const hr_layers *ls, enum hr_reg reg, double rate,
                        bool prune_first, enum hr_measure measure);
/* reader[i] (caller's, ls->n ints): index of the first layer in strategy order that reads layer i's output
 * through operations that keep channels apart (batch norm, relu, add, pools, flatten); -1 for the last. */
void hr_layer_readers(const hr_model *m, const hr_layers *ls, int *reader);

/* ---- where strategies come from ------------------------------------------------------------------------ */

/* spec is one of
 *   uniform:K   every layer K
 *   uniform+:K  Gale et al. 2019 (arXiv:1902.09574): first layer dense, last linear layer at least 0.2, the
 *               rest uniform so that the total is K
 *   erk:K       Erdos-Renyi-Kernel (Evci et al. 2020, arXiv:1911.11134): rate_i proportional to
 *               (O+I+kh+kw)/(O*I*kh*kw), linear (O+I)/(O*I), none over 1 (ALG 7.1)
 *   lamp:K      LAMP (Lee et al. 2021, arXiv:2010.07611): global threshold on w^2 / sum_{w' >= w} w'^2, the
 *               sum over the layer's weights that are at least as large
 *   global:K    global threshold on |w|
 *   FILE:ARCH/REG/ID  an entry of a strategy file; FILE alone when it holds one entry. Both the published
 *               bare list and our entry with names are read (ARCHITECTURE 4, "Strategy"). With ID@torch a
 * bare list of weight rates has its layers in PyTorch's order, a block's shortcut behind its convolutions,
 * and not in strategy order (hr_strategy_audit tells which of them do) K is in (0,1]. In channel mode lamp
 * and global work on input channels (L1 norm of the channel in the place of |w|). All rules but uniform are
 * solved such that the kept counts cost, in `measure`, as much as the uniform rate K does before rounding,
 * and not more: rates are rounded down and then single weights or channels are added where the remainder was
 * largest, as long as the budget holds. m supplies the weights. In channel mode the first layer's rate is 1
 * whatever the spec says, unless prune_first. Returns 0, HR_EINVAL (bad spec, wrong reg, a budget that cannot
 * be met), HR_EIO, HR_EFORMAT (not JSON, wrong length, unknown names, rates outside (0,1]). *s is released on
 * failure. */
HR_MUST_CHECK int hr_strategy_make(hr_strategy *s, const char *spec, enum hr_reg reg, const hr_model *m,
                                   const hr_layers *ls, bool prune_first, enum hr_measure measure,
                                   hr_err *err);
/* Parse spec alone, before there is a network: 0, or HR_EINVAL when it has none of the forms above. */
HR_MUST_CHECK int hr_spec_check(const char *spec, hr_err *err);
/* Our JSON entry: {"layers": [...], "rates": [...], "kept": [...], "budget": {"inout", "masked", "macs",
 * "target": rate, when one is claimed}, "history"}: weight mode lists all layers; channel mode lists the
 * decision layers (no tied shortcuts). Caller owns it. */
json_t *hr_strategy_json(const hr_strategy *s, const hr_model *m, const hr_layers *ls);
/* Write a table of the strategy, one row per layer with what is left of it, to path: JSON when the name ends
 * in .json, else tab-separated with a head line. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_strategy_report(const hr_strategy *s, const hr_model *m, const hr_layers *ls,
                                     const char *path, hr_err *err);
/* The rate that an ID claims: 0.1 for "010_0", "01_uni", "010"; 0.01 for "001_1"; 0.5 for "05_0_all" (ALG
 * 7.1: the rate without its dot); 0.1 for "erk:0.1"; 0 when it claims none ("search-0"). */
double hr_id_rate(const char *id);
/* Add every entry of n strategy files to the collection path, under names that claim their budgets: search-2
 * with the target 0.1 becomes 01_2. An entry of the same name is replaced; the file is made when it is
 * missing, and left alone when nothing changes. Two processes cannot do this to one file at the same time:
 * the second is refused. Returns 0, HR_EIO or HR_EFORMAT naming the file and the entry; then path is as it
 * was. */
HR_MUST_CHECK int hr_strategies_publish(const char *path, const char *const *files, size_t n, hr_err *err);
/* Hold the strategy against its budget in `measure`. target > 0 is the uniform rate it must not exceed;
 * target 0 takes the strategy's own claims (the rate of its rule, ID or entry, the budgets in its entry). A
 * uniform strategy of whole weights or channels counts as within its own budget, however it was rounded.
 * Returns HR_EINVAL with both numbers when the budget is exceeded by more than tolerance (a fraction of it).
 * Otherwise 0; then *warning (caller frees) is NULL, or one sentence when the strategy's claims differ from
 * what it costs by more than the tolerance. */
HR_MUST_CHECK int hr_strategy_verify(const hr_strategy *s, const hr_model *m, const hr_layers *ls,
                                     bool prune_first, enum hr_measure measure, double target,
                                     double tolerance, char **warning, hr_err *err);

/* Hold every entry of a strategy file against the zoo's network of its name (input and classes are the
 * architecture's own, which no budget but macs depends on much) and append a table to out, tab-separated with
 * a head line:
 *   strategy  ARCH/REG/ID
 *   rates     how many there are
 *   order     in which the layers of a bare weight list were written: "strategy" (a block's shortcut before
 *             its conv1) or "torch" (behind the block's convolutions); "-" where the budget does not tell
 *   claim     the uniform rate that the ID (or entry) claims, and `allowed`, its budget in `measure`
 *   published what the published search counted for it: read in strategy order, shortcuts at the lower bound
 *             (ALG 6.3, 0 where that is not known)
 *   inout, masked, macs   what it costs, in its own order where that is known
 *   verdict   "ok", "exceeds" or "below" the claim by more than tolerance, "no claim", or why the entry is
 *             none
 * IDs that end in _all prune image channels too. Returns 0, HR_EIO or HR_EFORMAT (no strategy file). */
HR_MUST_CHECK int hr_strategy_audit(const char *file, enum hr_measure measure, double tolerance, hr_buf *out,
                                    hr_err *err);

/* ---- masks --------------------------------------------------------------------------------------------- */

/* Mark the kept largest of score[0..n) in mask (1) and the others (0); ties go to the lower index, -0 equals
 * +0, NaN counts as the smallest. O(n). */
void hr_topk_mask(const float *score, int64_t n, int64_t kept, uint8_t *mask);
/* The same by |v|. */
void hr_topk_magnitudes(const float *v, int64_t n, int64_t kept, uint8_t *mask);
/* Scores that masks are made from. */
enum hr_score {
    HR_SCORE_L1, /* weight: |w|; channel: sum of |w| over the input channel (HYDRA's, the search's) */
    HR_SCORE_L2, /* weight: |w|; channel: l2 norm of the input channel (R-ADMM's projection) */
};
extern const char *const hr_score_names[3]; /* "l1", "l2", NULL */
/* score (caller's; weight: n floats, channel: `in` floats) of a layer's weights w in torch layout
 * (O,I,kh,kw). */
void hr_score_weights(const float *w, const hr_layer *l, enum hr_reg reg, enum hr_score how, float *score);
/* Number of scores of a layer: weights or input channels. */
int64_t hr_score_count(const hr_layer *l, enum hr_reg reg);
/* Expand a mask (weight: one byte per weight; channel: one per input channel) to float multipliers in the
 * weight's layout. */
void hr_mask_expand(const uint8_t *mask, const hr_layer *l, enum hr_reg reg, float *out);

/* The calls below find tensors by node and name: the tensor indices in ls may be stale after masks came or
 * went, so a caller that uses l.weight afterwards calls hr_layers_of again. */

/* Write the strategy into the model: prune records for all layers, planned; with `active` also LAYER.mask
 * tensors made from the weights by `how`. Existing masks and scores (LAYER.popup_scores) are dropped. */
void hr_model_set_strategy(hr_model *m, const hr_layers *ls, const hr_strategy *s, bool active,
                           enum hr_score how);
/* Write LAYER.mask of one layer from score and prune.kept, and make its record active. */
void hr_model_set_mask(hr_model *m, const hr_layer *l, const float *score);
/* Multiply every layer's weight with its active mask. Afterwards pruned weights are +0. */
void hr_model_zero_pruned(hr_model *m, const hr_layers *ls);
/* Fraction of prunable weights that the active masks leave, 1 for a dense network. */
double hr_model_density(const hr_model *m, const hr_layers *ls);

#endif
