/* test/unit/stages.h -- a training run with every option set, for tests of stages. */
#ifndef HR_STAGES_H
#define HR_STAGES_H

#include "bands.h"

enum { N = 16 };

static inline hr_train_opts defaults(enum hr_stage stage, enum hr_objective objective)
{
    return (hr_train_opts){.stage = stage,
                           .objective = objective,
                           .schedule = {.kind = HR_LR_CONSTANT, .lr = 0.05, .epochs = 1},
                           .momentum = 0.9,
                           .weight_decay = 1e-3,
                           .batch = N,
                           .threads = 1,
                           .exact = true,
                           .eps = 0.05,
                           .step = 0.02,
                           .steps = 3,
                           .random_start = true,
                           .beta = 6,
                           .repeats = 3,
                           .rho = 0.5,
                           .rho_grows = true,
                           .admm_every = 1,
                           .seed = 11,
                           .name = "net.nn"};
}

static inline void must_train(hr_model *m, const hr_dataset *ds, const hr_train_opts *o)
{
    hr_err err = HR_ERR_INIT;
    assert_ok(hr_train(m, ds, NULL, o, &err), err);
}

#endif
