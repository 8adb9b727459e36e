/* lib/prune/cost.h -- private to lib/prune: costs of many candidate strategies of one network, and the rules
 * that solve for a budget. */
#ifndef HR_PRUNE_COST_H
#define HR_PRUNE_COST_H

#include "prune/prune.h"

/* Costs are sums of doubles: a strategy that meets its budget exactly must not fail by the last bits. */
#define HR_COST_SLACK 1e-9

/* What hr_budget_of needs to know about a network, found once. */
struct hr_cost {
    const hr_layers *ls; /* borrowed */
    enum hr_reg reg;
    int *reader; /* hr_layer_readers */
};
void hr_cost_init(struct hr_cost *c, const hr_model *m, const hr_layers *ls, enum hr_reg reg);
void hr_cost_release(struct hr_cost *c);
/* rate: one per layer in strategy order, shortcuts included; any numbers in [0,1], whole counts or not. */
hr_budget hr_cost_of(const struct hr_cost *c, const double *rate);

/* True for a layer whose image channels are always kept. */
bool hr_layer_is_fixed(const hr_layers *ls, int i, enum hr_reg reg, bool prune_first);

/* Fill s->kept (ls->n entries, allocated) by the rule called `rule` at rate k; the caller derives the rates.
 * Returns 0, or HR_EINVAL: a budget that the rule cannot meet. hr_rule_known tells whether there is such a
 * rule. */
bool hr_rule_known(const char *rule);
HR_MUST_CHECK int hr_rule_solve(hr_strategy *s, const char *rule, double k, const hr_model *m,
                                const hr_layers *ls, bool prune_first, enum hr_measure measure, hr_err *err);
/* Behind an ID: the bare list is in PyTorch's order of layers. */
#define HR_TORCH_ORDER "@torch"

/* As hr_strategy_make for the entry arch/reg/id of a file that is read already; file is for messages. */
HR_MUST_CHECK int hr_strategy_entry(hr_strategy *s, const char *file, const json_t *root, const char *arch,
                                    enum hr_reg reg, const char *id, const hr_layers *ls, bool prune_first,
                                    hr_err *err);
extern const char hr_rule_list[]; /* for messages: "uniform:K, ..." */

#endif
