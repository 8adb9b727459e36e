/* test/unit/bands.h -- a data set that a small network can learn, and that network: for tests of training,
 * evaluation and the search's evaluator. */
#ifndef HR_BANDS_H
#define HR_BANDS_H

#include "nets.h"

#include "train/train.h"

enum { C = 1, H = 8, W = 8, LEN = C * H * W, CLASSES = 3 };

/* Images whose class can be seen: band k of rows is bright in class k. */
static inline hr_dataset new_images(uint32_t n)
{
    hr_dataset ds = {.n = n, .c = C, .h = H, .w = W, .classes = CLASSES};
    ds.pixels = hr_xmalloc((size_t)n * LEN);
    ds.labels = hr_xmalloc(n * sizeof *ds.labels);
    ds.index = hr_xmalloc(n * sizeof *ds.index);
    for (uint32_t i = 0; i < n; i++) {
        float noise[LEN];
        hr_fill_uniform(noise, LEN, 0, 90, 2, HR_STREAM_TEST, 0, 0, i);
        ds.labels[i] = (int32_t)(i * 7 % CLASSES);
        ds.index[i] = 3 * i + 1;
        for (int p = 0; p < LEN; p++)
            ds.pixels[i * LEN + (uint32_t)p] =
                (uint8_t)(noise[p] + (p / (W * 3) == ds.labels[i] ? 150.0f : 30.0f));
    }
    memset(ds.digest, 'd', 64);
    return ds;
}

static inline hr_model *new_net(void)
{
    hr_model *m = net_new(C, H, W);
    int a = net_relu(m, net_bn(m, net_conv(m, 0, 6, 3, 3, 1, 1, NET_NO_BIAS)));
    int b = net_relu(m, net_bn(m, net_conv(m, a, 8, 3, 3, 2, 1, NET_BIAS)));
    net_done(m, net_linear(m, net_flatten(m, b), CLASSES, NET_BIAS), 9);
    return m;
}

/* Write rate as the plan, or as active masks, into every layer. */
static inline void prune_all(hr_model *m, enum hr_reg reg, double rate, bool active)
{
    hr_layers ls = hr_layers_of(m);
    hr_strategy s = {.reg = reg, .n = ls.n};
    s.rate = hr_xcalloc((size_t)ls.n, sizeof *s.rate);
    s.kept = hr_xcalloc((size_t)ls.n, sizeof *s.kept);
    for (int i = 0; i < ls.n; i++) {
        int64_t n = hr_score_count(&ls.l[i], reg);
        s.kept[i] = reg == HR_REG_CHANNEL && i == 0 ? n : hr_kept(rate, n);
        s.rate[i] = (double)s.kept[i] / (double)n;
    }
    hr_model_set_strategy(m, &ls, &s, active, HR_SCORE_L1);
    hr_strategy_release(&s);
    hr_layers_release(&ls);
}

#endif
