/* lib/model/zoo.c -- builders of the known architectures, and their random initialisation.
 *
 * What the networks have in common: images in [0,1] enter unchanged, or through a normalize node when the
 * caller gives mean and std; convolutions that a batch norm follows have no bias; batch norms have eps 1e-5
 * and momentum 0.1. Parameter names are those of the PyTorch models whose checkpoints we read (torchvision's
 * for ResNet50, HYDRA's for the others). Nodes stand in strategy order: in a residual block the shortcut's
 * convolution and batch norm come before conv1 and carry the tie to it.
 *
 *   vggN[_bn]  3x3 convolutions (no bias), after each a batch norm (only _bn) and ReLU; M is a 2x2 max-pool.
 *              Then adaptive average pool to 2x2 and Linear-ReLU-Linear-ReLU-Linear of 256, 256, classes.
 * These are the CIFAR variants of the HYDRA code (Sehwag et al. 2020): fewer pools than Simonyan & Zisserman
 * 2015 and a smaller head. resnet18   He et al. 2016 in its CIFAR form: 3x3 stem of 64, four stages of two
 * BasicBlocks (64/128/256/512), shortcuts by 1x1 convolution + batch norm. The original pools 4x4 at the end,
 * which at 32x32 is the whole map; an adaptive pool to 1x1 serves every input size. wrn_28_4   Zagoruyko &
 * Komodakis 2016: pre-activation blocks, three stages of four (64/128/256); a stage's first block feeds its
 * bare 1x1 shortcut with the activated tensor. Dropout is not used. ResNet50   torchvision's v1.5: 7x7 stem,
 * max-pool, bottlenecks 3/4/6/3 whose stride sits on the 3x3. resS       the demo's: resnet18's shape with a
 * 3x3 stem of 16 at stride 2 and three stages (16/32/64) of one block. 77,072 prunable weights in 10 layers.
 */
#include "model/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const hr_zoo_names[] = {"vgg2",     "vgg2_bn",  "vgg4",    "vgg4_bn",  "vgg6",
                                    "vgg6_bn",  "vgg8",     "vgg8_bn", "vgg11",    "vgg11_bn",
                                    "vgg13",    "vgg13_bn", "vgg16",   "vgg16_bn", "resnet18",
                                    "wrn_28_4", "ResNet50", "resS",    NULL};

/* ---- shared pieces ------------------------------------------------------------------------------------ */

/* The graph under construction. `at` is the node that the next one reads. Ids are made from `prefix`. */
struct build {
    hr_model *m;
    int at, c;
    char prefix[32];
};

/* PREFIX + NAME in a buffer that lives until the next call. */
static const char *id(struct build *b, const char *name)
{
    static _Thread_local char text[96];
    snprintf(text, sizeof text, "%s%s", b->prefix, name);
    return text;
}

static void conv(struct build *b, const char *name, int cout, int k, int stride, int pad)
{
    b->at = hr_model_add_conv(b->m, id(b, name), b->at, b->c, cout, k, stride, pad, false);
    b->c = cout;
}

static void bn(struct build *b, const char *name)
{
    b->at = hr_model_add_batchnorm(b->m, id(b, name), b->at, b->c);
}

static void relu(struct build *b, const char *name)
{
    b->at = hr_model_add_node(b->m, id(b, name), HR_OP_RELU, b->at, -1);
}

static void linear(struct build *b, const char *name, int fin, int fout)
{
    b->at = hr_model_add_linear(b->m, id(b, name), b->at, fin, fout, true);
}

static void add(struct build *b, const char *name, int other)
{
    b->at = hr_model_add_node(b->m, id(b, name), HR_OP_ADD, b->at, other);
}

/* Average over each whole map, then the classifier. */
static void head(struct build *b, const char *name, int classes)
{
    b->prefix[0] = '\0';
    b->at = hr_model_add_pool(b->m, "avgpool", HR_OP_ADAPTIVE_AVGPOOL, b->at, 1, 1, 0);
    b->at = hr_model_add_node(b->m, "flatten", HR_OP_FLATTEN, b->at, -1);
    linear(b, name, b->c, classes);
}

/* A 1x1 convolution from the current node to cout channels, tied to this block's conv1; with a batch norm
 * when bn_name is given. Returns the branch's last node; the current node stays. */
static int shortcut(struct build *b, const char *name, const char *bn_name, int cout, int stride)
{
    struct build branch = *b;
    conv(&branch, name, cout, 1, stride, 0);
    b->m->nodes[branch.at].tie = hr_xstrdup(id(b, "conv1"));
    if (bn_name)
        bn(&branch, bn_name);
    return branch.at;
}

/* ---- architectures ------------------------------------------------------------------------------------- */

/* Widths, 0 for a max-pool. */
static const struct vgg {
    const char *name;
    short width[20];
    int n;
} vggs[] = {
    {"vgg2", {64, 0, 64, 0}, 4},
    {"vgg4", {64, 64, 0, 128, 128, 0}, 6},
    {"vgg6", {64, 64, 0, 128, 128, 0, 256, 256, 0}, 9},
    {"vgg8", {64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0}, 12},
    {"vgg11", {64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512}, 12},
    {"vgg13", {64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0}, 15},
    {"vgg16", {64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512}, 17},
};

static void build_vgg(struct build *b, const struct vgg *v, bool with_bn, int classes)
{
    char index[16];
    int k = 0; /* place in torch's nn.Sequential */
    snprintf(b->prefix, sizeof b->prefix, "features.");
    for (int i = 0; i < v->n; i++) {
        snprintf(index, sizeof index, "%d", k++);
        if (v->width[i] == 0) {
            b->at = hr_model_add_pool(b->m, id(b, index), HR_OP_MAXPOOL, b->at, 2, 2, 0);
            continue;
        }
        conv(b, index, v->width[i], 3, 1, 1);
        if (with_bn) {
            snprintf(index, sizeof index, "%d", k++);
            bn(b, index);
        }
        snprintf(index, sizeof index, "%d", k++);
        relu(b, index);
    }
    b->at = hr_model_add_pool(b->m, "avgpool", HR_OP_ADAPTIVE_AVGPOOL, b->at, 2, 1, 0);
    b->at = hr_model_add_node(b->m, "flatten", HR_OP_FLATTEN, b->at, -1);
    snprintf(b->prefix, sizeof b->prefix, "classifier.");
    linear(b, "0", 4 * b->c, 256);
    relu(b, "1");
    linear(b, "2", 256, 256);
    relu(b, "3");
    linear(b, "4", 256, classes);
}

static void basic_block(struct build *b, int width, int stride)
{
    int join = b->at;
    if (stride != 1 || b->c != width)
        join = shortcut(b, "shortcut.0", "shortcut.1", width, stride);
    conv(b, "conv1", width, 3, stride, 1);
    bn(b, "bn1");
    relu(b, "relu1");
    conv(b, "conv2", width, 3, 1, 1);
    bn(b, "bn2");
    add(b, "add", join);
    relu(b, "relu2");
}

/* resnet18 and resS: `stages` stages of `blocks` BasicBlocks, widths doubling from `width`. */
static void build_basic_resnet(struct build *b, int width, int stem_stride, int stages, int blocks,
                               int classes)
{
    conv(b, "conv1", width, 3, stem_stride, 1);
    bn(b, "bn1");
    relu(b, "relu");
    for (int s = 0; s < stages; s++)
        for (int k = 0; k < blocks; k++) {
            snprintf(b->prefix, sizeof b->prefix, "layer%d.%d.", s + 1, k);
            basic_block(b, width << s, s > 0 && k == 0 ? 2 : 1);
        }
    head(b, "linear", classes);
}

static void build_wrn_28_4(struct build *b, int classes)
{
    conv(b, "conv1", 16, 3, 1, 1);
    for (int s = 0; s < 3; s++)
        for (int k = 0; k < 4; k++) {
            int width = 64 << s, stride = s > 0 && k == 0 ? 2 : 1, join = b->at;
            snprintf(b->prefix, sizeof b->prefix, "block%d.layer.%d.", s + 1, k);
            bn(b, "bn1");
            relu(b, "relu1");
            if (b->c != width)
                join = shortcut(b, "convShortcut", NULL, width, stride);
            conv(b, "conv1", width, 3, stride, 1);
            bn(b, "bn2");
            relu(b, "relu2");
            conv(b, "conv2", width, 3, 1, 1);
            add(b, "add", join);
        }
    b->prefix[0] = '\0';
    bn(b, "bn1");
    relu(b, "relu");
    head(b, "fc", classes);
}

static void build_resnet50(struct build *b, int classes)
{
    static const int blocks[4] = {3, 4, 6, 3};
    conv(b, "conv1", 64, 7, 2, 3);
    bn(b, "bn1");
    relu(b, "relu");
    b->at = hr_model_add_pool(b->m, "maxpool", HR_OP_MAXPOOL, b->at, 3, 2, 1);
    for (int s = 0; s < 4; s++)
        for (int k = 0; k < blocks[s]; k++) {
            int width = 64 << s, stride = s > 0 && k == 0 ? 2 : 1, join = b->at;
            snprintf(b->prefix, sizeof b->prefix, "layer%d.%d.", s + 1, k);
            if (k == 0)
                join = shortcut(b, "downsample.0", "downsample.1", 4 * width, stride);
            conv(b, "conv1", width, 1, 1, 0);
            bn(b, "bn1");
            relu(b, "relu1");
            conv(b, "conv2", width, 3, stride, 1);
            bn(b, "bn2");
            relu(b, "relu2");
            conv(b, "conv3", 4 * width, 1, 1, 0);
            bn(b, "bn3");
            add(b, "add", join);
            relu(b, "relu3");
        }
    head(b, "fc", classes);
}

/* ---- the public builder -------------------------------------------------------------------------------- */

static int unknown_arch(const char *arch, hr_err *err)
{
    hr_buf list = {0};
    for (int i = 0; hr_zoo_names[i]; i++)
        hr_buf_printf(&list, "%s%s", i ? ", " : "", hr_zoo_names[i]);
    int rc = hr_fail(err, HR_EINVAL, "'%s' is no architecture we know: %s", arch, list.data);
    hr_buf_release(&list);
    return rc;
}

static int check_opts(const char *arch, const hr_zoo_opts *o, hr_err *err)
{
    enum { MAX_CHANNELS = 1024, MAX_SIDE = 16384, MAX_CLASSES = 1000000 };
    if (o->c < 1 || o->c > MAX_CHANNELS || o->h < 1 || o->h > MAX_SIDE || o->w < 1 || o->w > MAX_SIDE)
        return hr_fail(err, HR_EINVAL, "%s: input %dx%dx%d is outside 1..%d channels and 1..%d pixels", arch,
                       o->c, o->h, o->w, MAX_CHANNELS, MAX_SIDE);
    if (o->classes < 1 || o->classes > MAX_CLASSES)
        return hr_fail(err, HR_EINVAL, "%s: %d classes are outside 1..%d", arch, o->classes, MAX_CLASSES);
    if ((o->mean == NULL) != (o->std == NULL))
        return hr_fail(err, HR_EINVAL, "%s: mean and std go together, one is missing", arch);
    if (o->mean && o->c > HR_MAX_CHANNELS_NORM)
        return hr_fail(err, HR_EINVAL, "%s: normalisation takes up to %d channels, the input has %d", arch,
                       HR_MAX_CHANNELS_NORM, o->c);
    return HR_OK;
}

static void add_normalize(struct build *b, const hr_zoo_opts *o)
{
    b->at = hr_model_add_node(b->m, "normalize", HR_OP_NORMALIZE, b->at, -1);
    for (int i = 0; i < o->c; i++) {
        b->m->nodes[b->at].mean[i] = o->mean[i];
        b->m->nodes[b->at].std[i] = o->std[i];
    }
}

static const struct vgg *find_vgg(const char *arch, bool *with_bn)
{
    for (size_t i = 0; i < HR_COUNT(vggs); i++) {
        size_t n = strlen(vggs[i].name);
        *with_bn = strncmp(arch, vggs[i].name, n) == 0 && strcmp(arch + n, "_bn") == 0;
        if (*with_bn || strcmp(arch, vggs[i].name) == 0)
            return &vggs[i];
    }
    return NULL;
}

static int build_zoo(const char *arch, const hr_zoo_opts *opts, bool bare, hr_model **out, hr_err *err)
{
    bool imagenet = strcmp(arch, "ResNet50") == 0, demo = strcmp(arch, "resS") == 0, with_bn = false;
    hr_zoo_opts o = opts ? *opts : (hr_zoo_opts){0};
    int side = imagenet ? 224 : demo ? 28 : 32;
    o.c = o.c ? o.c : demo ? 1 : 3;
    o.h = o.h ? o.h : side;
    o.w = o.w ? o.w : side;
    o.classes = o.classes ? o.classes : imagenet ? 1000 : 10;
    const struct vgg *vgg = find_vgg(arch, &with_bn);
    *out = NULL;
    if (!vgg && !imagenet && !demo && strcmp(arch, "resnet18") != 0 && strcmp(arch, "wrn_28_4") != 0)
        return unknown_arch(arch, err);
    int rc = check_opts(arch, &o, err);
    if (rc)
        return rc;

    struct build b = {.m = hr_model_new(arch, o.c, o.h, o.w, o.classes), .c = o.c};
    b.m->bare = bare;
    if (o.mean)
        add_normalize(&b, &o);
    if (vgg)
        build_vgg(&b, vgg, with_bn, o.classes);
    else if (imagenet)
        build_resnet50(&b, o.classes);
    else if (demo)
        build_basic_resnet(&b, 16, 2, 3, 1, o.classes);
    else if (strcmp(arch, "resnet18") == 0)
        build_basic_resnet(&b, 64, 1, 4, 2, o.classes);
    else
        build_wrn_28_4(&b, o.classes);

    hr_err why = HR_ERR_INIT;
    if (hr_model_check(b.m, arch, &why)) {
        hr_model_free(b.m);
        return hr_fail(err, HR_EINVAL, "%s (input %dx%dx%d)", why.msg, o.c, o.h, o.w);
    }
    *out = b.m;
    return HR_OK;
}

int hr_zoo_build(const char *arch, const hr_zoo_opts *opts, hr_model **out, hr_err *err)
{
    return build_zoo(arch, opts, false, out, err);
}

int hr_zoo_build_bare(const char *arch, const hr_zoo_opts *opts, hr_model **out, hr_err *err)
{
    return build_zoo(arch, opts, true, out, err);
}

/* ---- initialisation -------------------------------------------------------------------------------------
 */

/* How an architecture's published training code starts its convolutions and linear layers. */
enum init {
    INIT_TORCH,  /* PyTorch's default: U(-b, b), b = 1/sqrt(fan_in), bias too */
    INIT_FANOUT, /* N(0, sqrt(2 / (k*k*O))) (He et al. 2015, fan_out), bias 0 */
    INIT_SMALL,  /* N(0, 0.01), bias 0 */
    INIT_TORCH0, /* PyTorch's default weight, bias 0 */
};

static void init_layer(hr_model *m, const hr_node *n, enum init how, uint32_t seed)
{
    const hr_tensor *w = &m->tensors[n->param[HR_P_WEIGHT]];
    size_t count = (size_t)hr_tensor_count(w);
    double taps = (double)n->kh * n->kw, fan_in = (double)w->shape[1] * taps;
    float bound = (float)(1.0 / sqrt(fan_in));
    uint32_t t = (uint32_t)n->param[HR_P_WEIGHT];
    if (how == INIT_FANOUT)
        hr_fill_normal(hr_tensor_f32(w), count, 0.0f, (float)sqrt(2.0 / (taps * (double)w->shape[0])), seed,
                       HR_STREAM_INIT, t, 0, 0);
    else if (how == INIT_SMALL)
        hr_fill_normal(hr_tensor_f32(w), count, 0.0f, 0.01f, seed, HR_STREAM_INIT, t, 0, 0);
    else
        hr_fill_uniform(hr_tensor_f32(w), count, -bound, bound, seed, HR_STREAM_INIT, t, 0, 0);

    if (n->param[HR_P_BIAS] < 0)
        return;
    const hr_tensor *b = &m->tensors[n->param[HR_P_BIAS]];
    count = (size_t)hr_tensor_count(b);
    if (how == INIT_TORCH)
        hr_fill_uniform(hr_tensor_f32(b), count, -bound, bound, seed, HR_STREAM_INIT,
                        (uint32_t)n->param[HR_P_BIAS], 0, 0);
    else
        memset(b->data, 0, count * sizeof(float));
}

static void fill(hr_model *m, int tensor, float v)
{
    float *p = hr_tensor_f32(&m->tensors[tensor]);
    for (int64_t i = 0, n = hr_tensor_count(&m->tensors[tensor]); i < n; i++)
        p[i] = v;
}

void hr_zoo_init(hr_model *m, uint32_t seed)
{
    enum init for_conv = INIT_TORCH, for_linear = INIT_TORCH;
    if (strncmp(m->arch, "vgg", 3) == 0) {
        for_conv = INIT_FANOUT;
        for_linear = INIT_SMALL;
    } else if (strcmp(m->arch, "wrn_28_4") == 0) {
        for_conv = INIT_FANOUT;
        for_linear = INIT_TORCH0;
    } else if (strcmp(m->arch, "ResNet50") == 0) {
        for_conv = INIT_FANOUT;
    }
    for (int i = 0; i < m->nnodes; i++) {
        const hr_node *n = &m->nodes[i];
        if (n->op == HR_OP_CONV2D) {
            init_layer(m, n, for_conv, seed);
        } else if (n->op == HR_OP_LINEAR) {
            init_layer(m, n, for_linear, seed);
        } else if (n->op == HR_OP_BATCHNORM) {
            fill(m, n->param[HR_P_WEIGHT], 1.0f);
            fill(m, n->param[HR_P_BIAS], 0.0f);
            fill(m, n->param[HR_P_MEAN], 0.0f);
            fill(m, n->param[HR_P_VAR], 1.0f);
        }
    }
}
