/* lib/train/masking.c -- do attacks fail because the network is robust, or because its gradients say nothing?
 *
 * Athalye, Carlini & Wagner 2018, "Obfuscated gradients give a false sense of security" (arXiv:1802.00420,
 * sec. 3.1), and Carlini et al. 2019, "On evaluating adversarial robustness" (arXiv:1902.06705, sec. 5) name
 * what must hold where gradients are useful, and cannot be where they are not:
 *
 *     1. more steps raise the loss: PGD-1, PGD-5 and PGD-20 with steps of eps/4
 *     2. what only asks for logits finds no more than what sees gradients: Square with 500 queries, PGD-20
 *     3. a radius that leaves nothing of the image breaks everything: PGD-20 with eps 0.5
 *
 * A flag is a reason to look closer, no proof. Each is raised behind a margin for chance: a loss that rises
 * by less than 1 % (unless next to nothing is left right anyway), 2 points, 1 %. */
#include "train/internal.h"

#include <string.h>

enum { PGD1, PGD5, PGD20, SQUARE, WIDE, PROBES };
enum { MASK_QUERIES = 500 };
static const char *const names[PROBES] = {"mask-pgd1", "mask-pgd5", "mask-pgd20", "mask-square", "mask-wide"};

int hr_masking_probes(hr_eval_attack *list, int *n, const hr_eval_opts *o, hr_err *err)
{
    if (*n + PROBES > HR_MAX_ATTACKS)
        return hr_fail(err, HR_EINVAL, "with %d probes for masked gradients there are more than %d attacks",
                       PROBES, HR_MAX_ATTACKS);
    for (int k = 0; k < PROBES; k++) {
        static const char *const attack[PROBES] = {"pgd1", "pgd5", "pgd20", "square", "pgd20"};
        hr_eval_opts own = *o;
        own.eps = k == WIDE ? 0.5 : o->eps;
        own.step = own.eps / 4.0;
        own.restarts = 1;
        own.norm = HR_LINF;
        own.queries = MASK_QUERIES;
        int one;
        hr_eval_attack parsed[HR_MAX_ATTACKS];
        int rc = hr_eval_parse(parsed, &one, attack[k], &own, err);
        if (rc)
            return rc;
        parsed[0].probe = true;
        snprintf(parsed[0].name, sizeof parsed[0].name, "%s", names[k]);
        list[(*n)++] = parsed[0];
    }
    return HR_OK;
}

json_t *hr_masking_json(const hr_eval_attack *list, const hr_eval_result *results, int n)
{
    const hr_eval_result *r[PROBES] = {NULL};
    for (int i = 0; i < n; i++)
        for (int k = 0; k < PROBES; k++)
            if (list[i].probe && strcmp(list[i].name, names[k]) == 0)
                r[k] = &results[i];
    for (int k = 0; k < PROBES; k++)
        if (!r[k])
            return NULL;
    json_t *flags = json_array();
    bool rises = r[PGD20]->loss > 1.01 * r[PGD1]->loss && r[PGD5]->loss > r[PGD1]->loss;
    if (!rises && r[PGD1]->accuracy > 1.0)
        json_array_append_new(flags, json_string("loss-does-not-rise"));
    if (r[SQUARE]->accuracy < r[PGD20]->accuracy - 2.0)
        json_array_append_new(flags, json_string("black-box-beats-white-box"));
    if (r[WIDE]->accuracy > 1.0)
        json_array_append_new(flags, json_string("large-eps-does-not-break"));
    return json_pack("{s:[f, f, f], s:f, s:f, s:f, s:o}", "loss", r[PGD1]->loss, r[PGD5]->loss,
                     r[PGD20]->loss, "white_box", r[PGD20]->accuracy, "black_box", r[SQUARE]->accuracy,
                     "large_eps", r[WIDE]->accuracy, "flags", flags);
}
