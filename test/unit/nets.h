/* test/unit/nets.h -- small networks for tests, built node by node through the model API.
 *
 *     hr_model *m = net_new(3, 7, 5);                       input 3 x 7 x 5 is node 0
 *     int a = net_conv(m, 0, 4, 3, 3, 2, 1, NET_BIAS);      each call returns the new node's index
 *     net_done(m, a, 7);                                    flatten, check, random parameters from seed 7
 *
 * Parameters are drawn so that activations stay near 1 and no parameter has a value (0, 1) that hides a
 * forgotten factor. */
#ifndef HR_NETS_H
#define HR_NETS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"
#include "compute/compute.h"
#include "model/model.h"

enum { NET_NO_BIAS, NET_BIAS };

/* Where executors of tests run: TEST_DEVICE, which test_cuda*.c set, else the CPU. */
static inline hr_device test_device(void)
{
    return (hr_device){.name = getenv("TEST_DEVICE")};
}

/* A new node with the shape of its first input; the helpers below change what their operation changes. */
static inline int net_node(hr_model *m, enum hr_op op, int in0, int in1)
{
    char *id = hr_xasprintf("n%d", m->nnodes);
    int i = hr_model_add_node(m, id, op, in0, in1);
    free(id);
    m->nodes[i].c = m->nodes[in0].c;
    m->nodes[i].h = m->nodes[in0].h;
    m->nodes[i].w = m->nodes[in0].w;
    return i;
}

static inline hr_model *net_new(int c, int h, int w)
{
    return hr_model_new("test", c, h, w, 1); /* net_done corrects the number of classes */
}

static inline void net_param(hr_model *m, int node, int role, int ndim, const int64_t *shape)
{
    char *name = hr_xasprintf("n%d.%s", node, hr_param_names[role]);
    m->nodes[node].param[role] = hr_model_add_tensor(m, name, HR_F32, ndim, shape);
    free(name);
}

static inline void net_window(hr_node *nd, int kh, int kw, int stride, int pad)
{
    nd->kh = kh;
    nd->kw = kw;
    nd->stride = stride;
    nd->pad = pad;
    nd->h = (nd->h + 2 * pad - kh) / stride + 1;
    nd->w = (nd->w + 2 * pad - kw) / stride + 1;
}

static inline int net_conv(hr_model *m, int in, int out, int kh, int kw, int stride, int pad, int bias)
{
    int i = net_node(m, HR_OP_CONV2D, in, -1);
    net_param(m, i, HR_P_WEIGHT, 4, (int64_t[]){out, m->nodes[in].c, kh, kw});
    if (bias)
        net_param(m, i, HR_P_BIAS, 1, (int64_t[]){out});
    net_window(&m->nodes[i], kh, kw, stride, pad);
    m->nodes[i].c = out;
    return i;
}

static inline int net_linear(hr_model *m, int in, int out, int bias)
{
    int i = net_node(m, HR_OP_LINEAR, in, -1);
    net_param(m, i, HR_P_WEIGHT, 2, (int64_t[]){out, m->nodes[in].c});
    if (bias)
        net_param(m, i, HR_P_BIAS, 1, (int64_t[]){out});
    m->nodes[i].c = out;
    return i;
}

static inline int net_bn(hr_model *m, int in)
{
    int i = net_node(m, HR_OP_BATCHNORM, in, -1);
    for (int role = 0; role < HR_P_COUNT; role++)
        net_param(m, i, role, 1, (int64_t[]){m->nodes[i].c});
    return i;
}

static inline int net_relu(hr_model *m, int in)
{
    return net_node(m, HR_OP_RELU, in, -1);
}

static inline int net_add(hr_model *m, int a, int b)
{
    return net_node(m, HR_OP_ADD, a, b);
}

static inline int net_pool(hr_model *m, enum hr_op op, int in, int k, int stride, int pad)
{
    int i = net_node(m, op, in, -1);
    net_window(&m->nodes[i], k, k, stride, pad);
    return i;
}

static inline int net_adaptive(hr_model *m, int in, int oh, int ow)
{
    int i = net_node(m, HR_OP_ADAPTIVE_AVGPOOL, in, -1);
    m->nodes[i].h = m->nodes[i].kh = oh;
    m->nodes[i].w = m->nodes[i].kw = ow;
    return i;
}

static inline int net_normalize(hr_model *m, int in)
{
    int i = net_node(m, HR_OP_NORMALIZE, in, -1);
    for (int c = 0; c < m->nodes[i].c; c++) {
        m->nodes[i].mean[c] = 0.3 + 0.1 * c;
        m->nodes[i].std[c] = 0.2 + 0.05 * c;
    }
    return i;
}

static inline int net_flatten(hr_model *m, int in)
{
    int i = net_node(m, HR_OP_FLATTEN, in, -1);
    hr_node *nd = &m->nodes[i];
    nd->c *= nd->h * nd->w;
    nd->h = nd->w = 1;
    return i;
}

/* Weights N(0, 1/fan_in), biases and running means N(0, 0.25), BN weights and running variances in
 * (0.5, 1.5), every third BN weight negative. */
static inline void net_random(hr_model *m, uint32_t seed)
{
    for (int i = 0; i < m->nnodes; i++) {
        const hr_node *nd = &m->nodes[i];
        for (int role = 0; nd->op != HR_OP_INPUT && role < HR_P_COUNT; role++) {
            if (nd->param[role] < 0)
                continue;
            const hr_tensor *t = &m->tensors[nd->param[role]];
            float *v = hr_tensor_f32(t);
            int64_t n = hr_tensor_count(t);
            if (role == HR_P_BIAS || role == HR_P_MEAN)
                hr_fill_normal(v, n, 0, 0.5f, seed, HR_STREAM_TEST, i, role, 0);
            else if (nd->op != HR_OP_BATCHNORM)
                hr_fill_normal(v, n, 0, 1 / sqrtf((float)(n / t->shape[0])), seed, HR_STREAM_TEST, i, role,
                               0);
            else
                hr_fill_uniform(v, n, 0.5f, 1.5f, seed, HR_STREAM_TEST, i, role, 0);
            for (int64_t k = 1; nd->op == HR_OP_BATCHNORM && role == HR_P_WEIGHT && k < n; k += 3)
                v[k] = -v[k];
        }
    }
}

static inline bool net_has_layer(const hr_model *m)
{
    for (int i = 0; i < m->nnodes; i++)
        if (m->nodes[i].op == HR_OP_CONV2D || m->nodes[i].op == HR_OP_LINEAR)
            return true;
    return false;
}

/* Finish a network whose output is node `last` (flattened unless it is a vector), and draw its parameters. A
 * model wants at least one layer: where there is none, a linear one that is the identity goes to the end. */
static inline void net_done(hr_model *m, int last, uint32_t seed)
{
    hr_err err = HR_ERR_INIT;
    if (m->nodes[last].h * m->nodes[last].w != 1)
        last = net_flatten(m, last);
    bool identity = !net_has_layer(m);
    if (identity)
        last = net_linear(m, last, m->nodes[last].c, NET_NO_BIAS);
    m->classes = m->nodes[last].c;
    net_random(m, seed);
    if (identity) {
        float *w = hr_tensor_f32(&m->tensors[m->nodes[last].param[HR_P_WEIGHT]]);
        for (int i = 0; i < m->classes * m->classes; i++)
            w[i] = i % (m->classes + 1) == 0;
    }
    assert_ok(hr_model_check(m, "test network", &err), err);
}

/* Give layer `node` an active mask that keeps about `keep` of its weights or input channels. */
static inline void net_mask(hr_model *m, int node, enum hr_reg reg, double keep, uint32_t seed)
{
    const hr_tensor *t = &m->tensors[m->nodes[node].param[HR_P_WEIGHT]]; /* until a tensor is added */
    int64_t shape[HR_MAX_DIMS];
    for (int d = 0; d < t->ndim; d++)
        shape[d] = reg == HR_REG_WEIGHT || d == 1 ? t->shape[d] : 1;
    char *name = hr_xasprintf("%s.mask", m->nodes[node].id);
    int added = hr_model_add_tensor(m, name, HR_U8, t->ndim, shape);
    const hr_tensor *mask = &m->tensors[added];
    free(name);
    int64_t n = hr_tensor_count(mask), kept = 0;
    hr_rng r = {.seed = seed, .stream = HR_STREAM_TEST};
    uint8_t *bits = mask->data;
    for (int64_t k = 0; k < n; k++)
        kept += bits[k] = k == 0 || hr_rng_double(&r) < keep; /* at least one, as the model wants */
    m->prune[node] = (hr_prune){true, reg, (double)kept / n, kept, true};
}

/* ---- whole small graphs ------------------------------------------------------------------------------ */

/* A basic block with a strided shortcut behind a stem, as in ResNet18: add reads two branches of one node. */
static inline hr_model *net_residual(void)
{
    hr_model *m = net_new(2, 9, 7);
    int stem = net_relu(m, net_bn(m, net_conv(m, net_normalize(m, 0), 4, 3, 3, 1, 1, NET_NO_BIAS)));
    int cut = net_bn(m, net_conv(m, stem, 6, 1, 1, 2, 0, NET_NO_BIAS));
    int a = net_relu(m, net_bn(m, net_conv(m, stem, 6, 3, 3, 2, 1, NET_NO_BIAS)));
    int b = net_bn(m, net_conv(m, a, 6, 3, 3, 1, 1, NET_NO_BIAS));
    int c = net_relu(m, net_add(m, cut, b));
    int d = net_bn(m, net_conv(m, c, 6, 3, 3, 1, 1, NET_NO_BIAS));
    int e = net_relu(m, net_add(m, d, c));
    net_done(m, net_linear(m, net_flatten(m, net_adaptive(m, e, 1, 1)), 5, NET_BIAS), 31);
    return m;
}

/* Channels in whole vectors of any instruction set, where ReLUs' bits are applied by dx: of a Winograd
 * convolution, of 1x1 and of stride 2; behind one reader, two, and a sum. */
static inline hr_model *net_gates(void)
{
    hr_model *m = net_new(3, 10, 10);
    int stem = net_relu(m, net_bn(m, net_conv(m, 0, 16, 3, 3, 1, 1, NET_NO_BIAS)));
    int cut = net_bn(m, net_conv(m, stem, 32, 1, 1, 2, 0, NET_NO_BIAS));
    int a = net_relu(m, net_bn(m, net_conv(m, stem, 32, 3, 3, 2, 1, NET_NO_BIAS)));
    int b = net_relu(m, net_add(m, cut, net_bn(m, net_conv(m, a, 32, 3, 3, 1, 1, NET_NO_BIAS))));
    int c = net_relu(m, net_bn(m, net_conv(m, b, 16, 1, 1, 1, 0, NET_NO_BIAS)));
    int d = net_relu(m, net_bn(m, net_conv(m, c, 32, 3, 3, 1, 1, NET_NO_BIAS)));
    int e = net_conv(m, d, 32, 1, 1, 1, 0, NET_NO_BIAS);
    int f = net_add(m, e, net_conv(m, d, 32, 3, 3, 1, 1, NET_NO_BIAS));
    int g = net_relu(m, net_bn(m, f));
    int h = net_relu(m, net_conv(m, g, 32, 3, 3, 1, 1, NET_BIAS));
    int i = net_add(m, f, net_conv(m, h, 32, 3, 3, 1, 1, NET_NO_BIAS));
    net_done(m, net_linear(m, net_flatten(m, net_adaptive(m, i, 1, 1)), 5, NET_BIAS), 37);
    return m;
}

/* Pre-activation, as in WRN: the sum feeds a batch norm and the next sum; the shortcut reads the activation.
 */
static inline hr_model *net_preactivation(void)
{
    hr_model *m = net_new(3, 8, 8);
    int stem = net_conv(m, 0, 3, 3, 3, 1, 1, NET_NO_BIAS);
    int a = net_relu(m, net_bn(m, stem));
    int cut = net_conv(m, a, 5, 1, 1, 2, 0, NET_NO_BIAS);
    int b = net_relu(m, net_bn(m, net_conv(m, a, 5, 3, 3, 2, 1, NET_NO_BIAS)));
    int s = net_add(m, net_conv(m, b, 5, 3, 3, 1, 1, NET_NO_BIAS), cut);
    int c = net_relu(m, net_bn(m, s));
    int d = net_relu(m, net_bn(m, net_conv(m, c, 5, 3, 3, 1, 1, NET_NO_BIAS)));
    int t = net_add(m, net_conv(m, d, 5, 3, 3, 1, 1, NET_NO_BIAS), s);
    int pool = net_pool(m, HR_OP_AVGPOOL, net_relu(m, net_bn(m, t)), 4, 4, 0);
    net_done(m, net_linear(m, net_flatten(m, pool), 4, NET_BIAS), 32);
    return m;
}

/* Biased convolutions, max-pools, uneven adaptive bins and a head of several layers, as in VGG. */
static inline hr_model *net_plain(void)
{
    hr_model *m = net_new(1, 11, 13);
    int a = net_pool(m, HR_OP_MAXPOOL, net_relu(m, net_conv(m, 0, 3, 3, 3, 1, 1, NET_BIAS)), 2, 2, 0);
    int b =
        net_pool(m, HR_OP_MAXPOOL, net_relu(m, net_bn(m, net_conv(m, a, 4, 3, 3, 1, 1, NET_BIAS))), 3, 2, 1);
    int f = net_flatten(m, net_adaptive(m, b, 2, 3));
    int l = net_relu(m, net_linear(m, f, 7, NET_BIAS));
    net_done(m, net_linear(m, l, 3, NET_NO_BIAS), 33);
    return m;
}

/* Few layers, one of them with 73,728 weights, and enough work for several threads. */
static inline hr_model *net_thick(void)
{
    hr_model *m = net_new(2, 6, 5);
    int a = net_relu(m, net_bn(m, net_conv(m, 0, 64, 3, 3, 1, 1, NET_NO_BIAS)));
    int b = net_relu(m, net_bn(m, net_conv(m, a, 128, 3, 3, 2, 1, NET_BIAS)));
    net_done(m, net_linear(m, net_flatten(m, net_adaptive(m, b, 1, 1)), 5, NET_BIAS), 41);
    return m;
}

/* Threads compute its second layer together: 9.4 MB of transformed weights for few tiles. */
static inline hr_model *net_wide(void)
{
    hr_model *m = net_new(2, 4, 4);
    int a = net_relu(m, net_bn(m, net_conv(m, 0, 256, 3, 3, 1, 1, NET_NO_BIAS)));
    int b = net_relu(m, net_bn(m, net_conv(m, a, 256, 3, 3, 1, 1, NET_NO_BIAS)));
    net_done(m, net_linear(m, net_flatten(m, net_adaptive(m, b, 1, 1)), 5, NET_BIAS), 46);
    return m;
}

/* A map of 3.8 MB in few operations. */
static inline hr_model *net_large(void)
{
    hr_model *m = net_new(1, 200, 200);
    int a = net_relu(m, net_bn(m, net_conv(m, 0, 24, 1, 1, 1, 0, NET_NO_BIAS)));
    int b = net_relu(m, net_bn(m, net_conv(m, a, 4, 3, 3, 4, 1, NET_NO_BIAS)));
    net_done(m, net_linear(m, net_flatten(m, net_adaptive(m, b, 1, 1)), 5, NET_BIAS), 43);
    return m;
}

#endif
