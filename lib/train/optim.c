/* lib/train/optim.c -- SGD, Adam and RMSprop as PyTorch computes them, and learning rate schedules.
 *
 * Each line of a step is one float32 operation of PyTorch's and is rounded where PyTorch rounds, so that runs
 * can be compared over many steps. */
#include "train/train.h"

#include <math.h>

const char *const hr_optimizer_names[4] = {"sgd", "adam", "rmsprop", NULL};
const char *const hr_schedule_names[7] = {"cosine",   "cosine-epoch", "step", "multistep",
                                          "constant", "cycle",        NULL};

void hr_sgd_step(float *restrict p, const float *restrict g, float *restrict buf, size_t n, float lr,
                 float momentum, float wd, bool nesterov, bool first)
{
    for (size_t i = 0; i < n; i++) {
        float d = g[i] + wd * p[i];
        buf[i] = first ? d : momentum * buf[i] + d;
        p[i] -= lr * (nesterov ? d + momentum * buf[i] : buf[i]);
    }
}

void hr_adam_step(float *p, const float *g, float *m, float *v, size_t n, float lr, float wd, int64_t t)
{
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    float step = (float)((double)lr / (1.0 - pow(beta1, (double)t)));
    float root = (float)sqrt(1.0 - pow(beta2, (double)t));
    for (size_t i = 0; i < n; i++) {
        float d = g[i] + wd * p[i];
        m[i] = (float)beta1 * m[i] + (float)(1.0 - beta1) * d;
        v[i] = (float)beta2 * v[i] + (float)(1.0 - beta2) * (d * d);
        p[i] -= step * (m[i] / (sqrtf(v[i]) / root + (float)eps));
    }
}

void hr_rmsprop_step(float *p, const float *g, float *v, float *buf, size_t n, float lr, float momentum,
                     float wd)
{
    const double alpha = 0.99, eps = 1e-8;
    for (size_t i = 0; i < n; i++) {
        float d = g[i] + wd * p[i];
        v[i] = (float)alpha * v[i] + (float)(1.0 - alpha) * (d * d);
        buf[i] = momentum * buf[i] + d / (sqrtf(v[i]) + (float)eps);
        p[i] -= lr * buf[i];
    }
}

double hr_schedule_lr(const hr_schedule *s, int epoch, int64_t step, int64_t steps)
{
    double lr = s->lr, within = steps > 0 ? (double)step / (double)steps : 0.0;
    if (epoch < s->warmup_epochs)
        return s->warmup_ramp ? s->warmup_lr + (lr - s->warmup_lr) * ((epoch + within) / s->warmup_epochs)
                              : s->warmup_lr;
    int e = epoch - s->warmup_epochs;
    switch (s->kind) {
    case HR_LR_COSINE:
        lr *= 0.5 * (1.0 + cos(M_PI * (e + within - s->late) / s->epochs));
        break;
    case HR_LR_COSINE_EPOCH:
        lr *= 0.5 * (1.0 + cos(M_PI * (e - s->late) / s->epochs));
        break;
    case HR_LR_STEP:
        lr *= e >= 0.9 * s->epochs ? 0.01 : e >= 0.75 * s->epochs ? 0.1 : 1.0;
        break;
    case HR_LR_MULTISTEP:
        for (int i = 0; i < s->nmilestones && e >= s->milestones[i]; i++)
            lr *= s->gamma;
        break;
    case HR_LR_CYCLE:
        lr *= pow(0.1, floor(3.0 * (e % s->cycle) / s->cycle));
        break;
    case HR_LR_CONSTANT:
        break;
    }
    int64_t done = (int64_t)e * steps + step;
    if (done < s->warmup_steps)
        lr *= (double)(done + 1) / s->warmup_steps;
    return lr;
}
