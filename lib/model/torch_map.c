/* lib/model/torch_map.c -- which network is this? From the tensors of a checkpoint to a graph of the zoo.
 *
 * People wrap networks before they save them, so keys carry prefixes: nn.DataParallel's "module.",
 * torch.compile's "_orig_mod.", R-ADMM's "basic_model.", Opacus' "_module.", "0." and "1." of
 * nn.Sequential(Normalize, net), and combinations. No key of the zoo begins with these words; all of them are
 * taken off. Two keys that become one are refused.
 *
 * Every architecture of the zoo is built without memory, with the checkpoint's image channels and classes,
 * and compared by names and shapes. Beside the graph's own tensors a checkpoint may hold
 *
 *   BN.num_batches_tracked             PyTorch's counter
 *   n_averaged                         that of torch.optim.swa_utils.AveragedModel
 *   LAYER.popup_scores, LAYER.k_score  HYDRA's and HARP's (scores of the weight's shape, one per input
 *                                      channel, or one per output: what HYDRA's channel mode holds before its
 *                                      scaled init)
 *   sub_block1.*                       an unused copy of block1 in HYDRA's wrn_28_4
 *   admm: {ADMM_U, ADMM_Z}             R-ADMM's variables, one each per weight; here KEY.admm_U, KEY.admm_Z
 *   mean, std                          of a Normalize module in front; they become the normalize node
 *
 * Anything else is surplus, and a network with surplus tensors is another network. */
#include "model/torch_file.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    char *name;
    const struct hr_view *v;
    bool used;
};

struct map {
    struct hr_torch_file *f;
    const hr_torch_opts *o;
    struct entry *entries; /* sorted by name */
    int n;
    double mean[HR_MAX_CHANNELS_NORM], std[HR_MAX_CHANNELS_NORM];
    int channels; /* of the two; 0: none */
};

/* ---- names -------------------------------------------------------------------------------------------- */

static const char *unwrap(const char *key)
{
    static const char *const words[] = {"module.",  "_orig_mod.",  "basic_model.", "model.",
                                        "net.",     "0.",          "1.",           "normalize.",
                                        "network.", "normalizer.", "_module.",     "_fsdp_wrapped_module.",
                                        "backbone."};
    for (size_t i = 0; i < HR_COUNT(words); i++) {
        size_t n = strlen(words[i]);
        if (strncmp(key, words[i], n) == 0 && key[n])
            return unwrap(key + n);
    }
    return key;
}

static const char *const suffix_of[] = {
    [HR_VIEW_STATE] = "", [HR_VIEW_ADMM_U] = ".admm_U", [HR_VIEW_ADMM_Z] = ".admm_Z"};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static struct entry *find(const struct map *k, char *name)
{
    struct entry key = {.name = name};
    return k->n ? bsearch(&key, k->entries, (size_t)k->n, sizeof key, by_name) : NULL;
}

/* Of what lies beside the state_dict nothing counts without nn2torch's notes; with them, it counts in place
 * of an entry of the same name. */
static int make_entries(struct map *k, bool noted, hr_err *err)
{
    k->entries = hr_xcalloc((size_t)k->f->nviews + 1, sizeof *k->entries);
    for (int i = 0; i < k->f->nviews; i++) {
        const struct hr_view *v = &k->f->views[i];
        if (v->beside && !noted)
            continue;
        k->entries[k->n++] =
            (struct entry){hr_xasprintf("%s%s", unwrap(v->key), suffix_of[v->group]), v, false};
    }
    qsort(k->entries, (size_t)k->n, sizeof *k->entries, by_name);
    int n = 0;
    for (int i = 0; i < k->n; i++) {
        struct entry *last = n ? &k->entries[n - 1] : NULL, *e = &k->entries[i];
        if (!last || strcmp(last->name, e->name) != 0) {
            struct entry moved = *e;
            e->name = NULL; /* has one owner */
            k->entries[n++] = moved;
            continue;
        }
        if (last->v->beside == e->v->beside)
            return hr_fail(err, HR_EFORMAT, "%s: the keys '%s' and '%s' name the same tensor", k->f->name,
                           last->v->key, e->v->key);
        if (e->v->beside)
            last->v = e->v;
        free(e->name);
        e->name = NULL;
    }
    k->n = n;
    return HR_OK;
}

/* ---- comparison --------------------------------------------------------------------------------------- */

static bool same_shape(const struct hr_view *v, int ndim, const int64_t *shape)
{
    return v->ndim == ndim && memcmp(v->shape, shape, (size_t)ndim * sizeof *shape) == 0;
}

static bool is_scalar(const struct hr_view *v)
{
    return v->ndim == 0 || (v->ndim == 1 && v->shape[0] == 1);
}

/* The tensor of the graph that name stands for without its tail, with another one: "conv1.popup_scores" and
 * "weight" give conv1.weight. NULL when name does not end so, or there is none. */
static const hr_tensor *sibling(const hr_tensor **sorted, int n, const char *name, const char *tail,
                                const char *other)
{
    size_t len = strlen(name), m = strlen(tail);
    if (len <= m || strcmp(name + len - m, tail) != 0)
        return NULL;
    char *wanted = hr_xasprintf("%.*s%s", (int)(len - m), name, other);
    const hr_tensor *t = hr_tensors_search(sorted, n, wanted);
    free(wanted);
    return t;
}

static bool is_extra(const hr_tensor **sorted, int n, const char *name, const struct hr_view *v)
{
    const hr_tensor *t;
    if (strcmp(name, "n_averaged") == 0 || sibling(sorted, n, name, "num_batches_tracked", "running_mean") ||
        sibling(sorted, n, name, "k_score", "weight"))
        return is_scalar(v);
    if ((t = sibling(sorted, n, name, "popup_scores", "weight")) != NULL) {
        int64_t per_input[4] = {1, t->ndim > 1 ? t->shape[1] : 1, 1, 1},
                per_output[4] = {t->shape[0], 1, 1, 1};
        return t->ndim > 1 && (same_shape(v, t->ndim, t->shape) || same_shape(v, t->ndim, per_input) ||
                               same_shape(v, t->ndim, per_output));
    }
    if (v->group != HR_VIEW_STATE) {
        t = sibling(sorted, n, name, suffix_of[v->group], "");
        return t && same_shape(v, t->ndim, t->shape);
    }
    if (strncmp(name, "sub_", 4) == 0) {
        t = sibling(sorted, n, name + 4, "", "");
        return t ? same_shape(v, t->ndim, t->shape) : is_extra(sorted, n, name + 4, v);
    }
    return false;
}

/* Names and how many; only the first ones are named. */
struct list {
    hr_buf text;
    int n;
};

static void add(struct list *l, const char *text)
{
    enum { NAMED = 3 };
    if (l->n++ < NAMED)
        hr_buf_printf(&l->text, "%s%.60s", l->n > 1 ? ", " : "", text);
}

struct fit {
    struct list missing, surplus, wrong;
};

static const char *shape_text(int ndim, const int64_t *shape, char buf[200])
{
    size_t at = 0;
    snprintf(buf, 200, "a scalar");
    for (int i = 0; i < ndim; i++)
        at += (size_t)snprintf(buf + at, 200 - at, "%s%lld", i ? "x" : "", (long long)shape[i]);
    return buf;
}

/* Compare with the graph m; entries that it or its extras use are marked. */
static void compare(const struct map *k, const hr_model *m, struct fit *fit)
{
    char have[200], need[200];
    const hr_tensor **sorted = hr_tensors_sorted(m);
    *fit = (struct fit){.missing = {.n = 0}};
    for (int i = 0; i < k->n; i++)
        k->entries[i].used = false;
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *t = &m->tensors[i];
        struct entry *e = find(k, t->name);
        if (!e) {
            add(&fit->missing, t->name);
            continue;
        }
        e->used = true;
        if (same_shape(e->v, t->ndim, t->shape))
            continue;
        char *text = hr_xasprintf("%s is %s, not %s", t->name, shape_text(e->v->ndim, e->v->shape, have),
                                  shape_text(t->ndim, t->shape, need));
        add(&fit->wrong, text);
        free(text);
    }
    bool pair = find(k, (char[]){"mean"}) && find(k, (char[]){"std"});
    for (int i = 0; i < k->n; i++) {
        const struct entry *e = &k->entries[i];
        bool norm = pair && (strcmp(e->name, "mean") == 0 || strcmp(e->name, "std") == 0);
        if (!e->used && !norm && !is_extra(sorted, m->ntensors, e->name, e->v))
            add(&fit->surplus, e->name);
    }
    free(sorted);
}

static int faults(const struct fit *f)
{
    return f->missing.n + f->surplus.n + f->wrong.n;
}

static void release_fit(struct fit *f)
{
    hr_buf_release(&f->missing.text);
    hr_buf_release(&f->surplus.text);
    hr_buf_release(&f->wrong.text);
}

static void add_list(hr_buf *b, const struct list *l, const char *what)
{
    if (l->n)
        hr_buf_printf(b, "%s%d %s (%s%s)", b->len ? "; " : "", l->n, what, l->text.data,
                      l->n > 3 ? ", ..." : "");
}

/* One line with everything that does not fit. */
static int report(const struct map *k, const struct fit *f, const char *arch, hr_err *err)
{
    hr_buf b = {0};
    add_list(&b, &f->missing, "missing");
    add_list(&b, &f->surplus, "surplus");
    add_list(&b, &f->wrong, "of another shape");
    int rc =
        k->o->arch
            ? hr_fail(err, HR_ESHAPE, "%s: its tensors are not those of %s: %s", k->f->name, arch, b.data)
            : hr_fail(err, HR_ESHAPE, "%s: its tensors are those of no architecture we know; next is %s: %s",
                      k->f->name, arch, b.data);
    hr_buf_release(&b);
    return rc;
}

/* ---- candidates --------------------------------------------------------------------------------------- */

/* Channels of the image and number of classes, as the first convolution and the last linear layer have them;
 * those that the graph has when they are not there. */
static void sizes(const struct map *k, const hr_model *m, int *c, int *classes)
{
    enum { MOST = 1 << 20 };
    const hr_tensor *stem = NULL, *last = NULL;
    for (int i = 0; i < m->nnodes; i++) {
        const hr_node *n = &m->nodes[i];
        if (n->op == HR_OP_CONV2D && !stem)
            stem = &m->tensors[n->param[HR_P_WEIGHT]];
        if (n->op == HR_OP_LINEAR)
            last = &m->tensors[n->param[HR_P_WEIGHT]];
    }
    const struct entry *e = stem ? find(k, stem->name) : NULL;
    *c = e && e->v->ndim == 4 && e->v->shape[1] >= 1 && e->v->shape[1] <= MOST ? (int)e->v->shape[1]
                                                                               : m->nodes[0].c;
    e = last ? find(k, last->name) : NULL;
    *classes = e && e->v->ndim == 2 && e->v->shape[0] >= 1 && e->v->shape[0] <= MOST ? (int)e->v->shape[0]
                                                                                     : m->classes;
}

/* All of the zoo at its own sizes, without memory: built once, kept. */
enum { MOST_ARCHS = 64 };
static hr_model *skeletons[MOST_ARCHS];

static void build_skeletons(void)
{
    hr_err err = HR_ERR_INIT;
    for (int i = 0; hr_zoo_names[i]; i++)
        if (i == MOST_ARCHS || hr_zoo_build_bare(hr_zoo_names[i], NULL, &skeletons[i], &err))
            BUG("%s", err.msg);
}

static bool has(const struct map *k, const hr_model *m, int tensor)
{
    return find(k, m->tensors[tensor].name) != NULL;
}

/* The architecture whose tensors have most names in common with the checkpoint's, for fewest that only one of
 * both has; NULL when there is none in common. */
static const char *nearest(const struct map *k)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int best = -1, least = 0;
    pthread_once(&once, build_skeletons);
    for (int i = 0; hr_zoo_names[i]; i++) {
        const hr_model *m = skeletons[i];
        int common = 0;
        if (!has(k, m, 0) && !has(k, m, m->ntensors - 1))
            continue; /* neither its first nor its last */
        for (int t = 0; t < m->ntensors; t++)
            common += has(k, m, t);
        if (best < 0 || m->ntensors - 2 * common < least) {
            best = i;
            least = m->ntensors - 2 * common;
        }
    }
    return best < 0 ? NULL : hr_zoo_names[best];
}

/* The architecture without memory, with the checkpoint's channels and classes where they are possible. */
static int candidate(const struct map *k, const char *arch, hr_model **m, hr_err *err)
{
    hr_zoo_opts z = {.h = k->o->h, .w = k->o->w};
    int rc = hr_zoo_build_bare(arch, &z, m, err);
    if (rc)
        return rc;
    sizes(k, *m, &z.c, &z.classes);
    if (k->channels == z.c) {
        z.mean = k->mean;
        z.std = k->std;
    }
    hr_model *fitted;
    hr_err ignored = HR_ERR_INIT;
    if (hr_zoo_build_bare(arch, &z, &fitted, &ignored) == HR_OK) {
        hr_model_free(*m);
        *m = fitted;
    }
    return HR_OK;
}

/* The network that has exactly these tensors, of --arch or of the whole zoo, without memory. On failure *m
 * may be set: the caller frees it. */
static int choose(const struct map *k, hr_model **m, hr_err *err)
{
    struct fit fit;
    int rc = HR_OK;
    const char *arch = k->o->arch ? k->o->arch : nearest(k);
    if (arch)
        rc = candidate(k, arch, m, err);
    if (rc)
        return rc;
    for (int i = 0; i < k->f->nviews && rc == HR_OK; i++)
        if (k->f->views[i].bad) /* its shape is not known */
            rc = hr_view_check(k->f, &k->f->views[i], err);
    if (rc)
        return rc;
    if (!arch)
        return hr_fail(err, HR_ESHAPE, "%s: its %d tensors ('%s'...) are those of no architecture we know",
                       k->f->name, k->n, k->n ? k->entries[0].name : "");
    compare(k, *m, &fit);
    if (faults(&fit))
        rc = report(k, &fit, arch, err);
    release_fit(&fit);
    if (rc == HR_OK && k->channels && (*m)->nodes[0].c != k->channels)
        rc = hr_fail(err, HR_ESHAPE, "%s: mean and std are for %d channels, the network takes %d", k->f->name,
                     k->channels, (*m)->nodes[0].c);
    return rc;
}

/* ---- tensors ------------------------------------------------------------------------------------------ */

/* Type of a tensor that the graph does not use: numbers with a fraction become float32. */
static enum hr_dtype extra_dtype(const struct hr_view *v)
{
    int t = hr_elements[v->element].dtype;
    return t < 0 || t == HR_F64 || t == HR_F16 || t == HR_BF16 ? HR_F32 : (enum hr_dtype)t;
}

/* hr_model_add_tensor without its search for the name: entries have different ones. */
static void append_tensor(hr_model *m, const struct entry *e)
{
    m->tensors = hr_xrealloc(m->tensors, (size_t)(m->ntensors + 1) * sizeof *m->tensors);
    hr_tensor *t = &m->tensors[m->ntensors++];
    *t = (hr_tensor){.name = hr_xstrdup(e->name), .dtype = extra_dtype(e->v), .ndim = e->v->ndim};
    memcpy(t->shape, e->v->shape, sizeof t->shape);
}

/* Add what the file holds beside the graph's tensors, in its order. */
static int add_extras(const struct map *k, hr_model *m, hr_err *err)
{
    const struct entry **order = hr_xcalloc((size_t)k->n + 1, sizeof *order);
    int rc = HR_OK;
    for (int i = 0; i < k->n; i++) {
        const struct entry *e = &k->entries[i];
        if (!e->used && strcmp(e->name, "mean") != 0 && strcmp(e->name, "std") != 0)
            order[e->v - k->f->views] = e;
    }
    for (int i = 0; rc == HR_OK && i < k->n; i++) {
        const struct entry *e = order[i];
        if (e && strlen(e->name) > HR_MAX_NAME)
            rc = hr_fail(err, HR_EFORMAT, "%s: the name '%s' is too long", k->f->name, e->name);
        else if (e)
            append_tensor(m, e);
    }
    free(order);
    return rc;
}

/* The tensors of the notes, in their order, with the shapes that the views have. */
static int add_noted(const struct map *k, hr_model *m, hr_err *err)
{
    struct list missing = {{0}, 0};
    size_t i;
    json_t *name;
    int rc = HR_OK;
    json_array_foreach (json_object_get(k->f->notes, "tensors"), i, name) {
        char *text = hr_xstrdup(json_is_string(name) ? json_string_value(name) : "");
        struct entry *e = find(k, text);
        if (!e)
            add(&missing, text);
        else if (e->used)
            rc = hr_fail(err, HR_EFORMAT, "%s: heracles.json lists '%s' twice", k->f->name, text);
        else
            append_tensor(m, e);
        if (e)
            e->used = true;
        free(text);
        if (rc)
            break;
    }
    if (rc == HR_OK && missing.n)
        rc = hr_fail(err, HR_ESHAPE, "%s: %d tensors that its graph lists are missing: %s", k->f->name,
                     missing.n, missing.text.data);
    hr_buf_release(&missing.text);
    if (rc == HR_OK)
        rc = hr_nn_link(m, k->f->name, err);
    for (int n = 0; rc == HR_OK && n < m->nnodes; n++)
        for (int p = 0; p < HR_P_COUNT; p++)
            if (m->nodes[n].param[p] >= 0)
                m->tensors[m->nodes[n].param[p]].dtype = HR_F32;
    return rc;
}

/* Read every tensor of the bare model m. */
static int fill(const struct map *k, hr_model *m, hr_err *err)
{
    struct hr_fill *fills = hr_xcalloc((size_t)m->ntensors + 1, sizeof *fills);
    for (int i = 0; i < m->ntensors; i++) {
        struct entry *e = find(k, m->tensors[i].name);
        if (!e)
            BUG("no entry for '%s'", m->tensors[i].name);
        fills[i] = (struct hr_fill){(int)(e->v - k->f->views), &m->tensors[i]};
    }
    k->f->sha = k->f->hash ? hr_nn_hash(m) : NULL;
    int rc = hr_torch_fill(k->f, fills, m->ntensors, k->f->sha, err);
    free(fills);
    return rc;
}

/* ---- a Normalize module in front ---------------------------------------------------------------------- */

static int read_normalization(struct map *k, hr_err *err)
{
    struct entry *e[2] = {find(k, (char[]){"mean"}), find(k, (char[]){"std"})};
    hr_tensor t[2] = {{.dtype = HR_F32}, {.dtype = HR_F32}};
    struct hr_fill fills[2];
    if (k->o->channels) {
        k->channels = k->o->channels;
        memcpy(k->mean, k->o->mean, (size_t)k->channels * sizeof *k->mean);
        memcpy(k->std, k->o->std, (size_t)k->channels * sizeof *k->std);
        return HR_OK;
    }
    if (!e[0] || !e[1])
        return HR_OK;
    int64_t count[2] = {0};
    for (int i = 0; i < 2; i++) {
        int rc = hr_view_check(k->f, e[i]->v, err);
        if (rc)
            return rc;
        count[i] = hr_view_count(e[i]->v);
        fills[i] = (struct hr_fill){(int)(e[i]->v - k->f->views), &t[i]};
    }
    if (count[0] != count[1] || count[0] > HR_MAX_CHANNELS_NORM)
        return hr_fail(err, HR_ESHAPE, "%s: '%s' and '%s' have %lld and %lld values", k->f->name,
                       e[0]->v->key, e[1]->v->key, (long long)count[0], (long long)count[1]);
    int rc = hr_torch_fill(k->f, fills, 2, NULL, err);
    for (int64_t i = 0; rc == HR_OK && i < count[0]; i++) {
        k->mean[i] = ((float *)t[0].data)[i];
        k->std[i] = ((float *)t[1].data)[i];
        if (!(k->std[i] > 0 && k->std[i] < 1e30 && k->mean[i] > -1e30 && k->mean[i] < 1e30))
            rc = hr_fail(err, HR_EFORMAT, "%s: mean %g and std %g of channel %lld make no scale", k->f->name,
                         k->mean[i], k->std[i], (long long)i);
    }
    k->channels = (int)count[0];
    free(t[0].data);
    free(t[1].data);
    return rc;
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

static int build(struct map *k, hr_model **out, hr_err *err)
{
    bool noted = k->f->notes && !k->o->arch;
    if (noted && (k->o->h || k->o->channels || k->o->bare))
        return hr_fail(err, HR_EINVAL,
                       "%s: holds its own graph, for nn2torch wrote it; another --input, --mean, --std or "
                       "--bare needs --arch, too",
                       k->f->name);
    int rc = make_entries(k, noted, err);
    if (rc == HR_OK && noted) {
        rc = hr_torch_notes_model(k->f, out, err);
        if (rc == HR_OK)
            rc = add_noted(k, *out, err);
    } else if (rc == HR_OK) {
        rc = read_normalization(k, err);
        if (rc == HR_OK)
            rc = choose(k, out, err);
        if (rc == HR_OK && !k->o->bare)
            rc = add_extras(k, *out, err);
    }
    if (rc == HR_OK) /* shapes, before any memory is given to them */
        rc = hr_model_check(*out, k->f->name, err);
    if (rc == HR_OK)
        rc = fill(k, *out, err);
    if (rc)
        return rc;
    (*out)->bare = false;
    rc = hr_model_check(*out, k->f->name, err);
    return rc ? rc : hr_model_check_finite(*out, k->f->name, err);
}

int hr_torch_map(struct hr_torch_file *f, const hr_torch_opts *o, hr_model **out, hr_err *err)
{
    struct map k = {.f = f, .o = o};
    *out = NULL;
    int rc = build(&k, out, err);
    if (rc) {
        if (f->sha) { /* both digests read what is freed now */
            char hex[65];
            hr_torch_await_digest(f);
            hr_hasher_end(f->sha, hex);
            f->sha = NULL;
        }
        hr_model_free(*out);
        *out = NULL;
    }
    for (int i = 0; i < k.n; i++)
        free(k.entries[i].name);
    free(k.entries);
    return rc;
}

/* Open and read, up to the digest of the file; hash: begin that of the network, too. */
static int begin_load(const char *path, const hr_torch_opts *o, bool want_digest, bool hash,
                      struct hr_torch_file *f, hr_model **out, hr_err *err)
{
    static const hr_torch_opts none;
    *out = NULL;
    int rc = hr_torch_open(f, path, want_digest, err);
    if (rc)
        return rc;
    f->hash = hash;
    rc = f->container->list(f, o ? o->key : NULL, err);
    return rc ? rc : hr_torch_map(f, o ? o : &none, out, err);
}

int hr_torch_load(const char *path, const hr_torch_opts *o, hr_model **out, char *digest, hr_err *err)
{
    struct hr_torch_file f;
    int rc = begin_load(path, o, digest != NULL, false, &f, out, err);
    if (rc == HR_OK && digest) {
        hr_torch_await_digest(&f);
        memcpy(digest, f.digest, sizeof f.digest);
    }
    hr_torch_close(&f);
    return rc;
}

/* The digest of the file, which stands at the beginning of the output, and that of the network, at its end,
 * take as long as each other and longer than the rest: they run side by side, and beside the reading. */
int hr_torch_convert(const char *path, const hr_torch_opts *o, json_t *history, const char *output,
                     hr_model **out, hr_err *err)
{
    struct hr_torch_file f;
    hr_out *file = NULL;
    int rc = begin_load(path, o, true, true, &f, out, err);
    if (rc == HR_OK) {
        hr_hasher *sha = f.sha;
        hr_torch_await_digest(&f);
        hr_history_input(history, "checkpoint", f.digest, (*out)->history);
        json_decref((*out)->history);
        (*out)->history = json_incref(history);
        rc = hr_out_open(&file, output, HR_OUT_BINARY, err);
        if (rc) {
            char hex[65];
            hr_hasher_end(sha, hex);
        } else
            rc = hr_nn_write_hashed(*out, sha, file, NULL, err);
    }
    hr_torch_close(&f);
    if (rc == HR_OK)
        return hr_out_commit(file, err);
    hr_out_abort(file);
    hr_model_free(*out);
    *out = NULL;
    return rc;
}
