/* lib/report/curve.h -- how a search went: the reward of every episode, and the best so far, as SVG. */
#ifndef HR_CURVE_H
#define HR_CURVE_H

#include "base/base.h"

typedef struct hr_curve {
    const char *title;           /* UTF-8 */
    const char *episodes, *best; /* text of Episode_wise_Rewards.csv and Best_Rewards.csv, with their heads */
    int warmup;                  /* episodes before the agent's; drawn paler */
    double chance;               /* reward of a network that guesses: a dashed line; 0: none */
} hr_curve;
/* Draw it; all strings are borrowed. Rewards that are no finite numbers (the best one, before there is one)
 * are left out. Errors show when out is committed. */
void hr_curve_svg(const hr_curve *c, FILE *out);

#endif
