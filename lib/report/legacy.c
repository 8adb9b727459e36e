/* lib/report/legacy.c -- evaluation logs of the published programs, the numbers that gen_summary.sh
 * collected.
 *
 * That script printed, for every *.log below hydra-nonuniform, the last two directories of its path and the
 * lines with "BALANCED ACC" or "STANDARD ACC"; for those below r-admm-nonuniform the file's name and these
 * lines. The evaluators of ImageNet write others, which it missed. What stands in the logs, [..] being
 * loggers' ornaments:
 *
 *   HYDRA     RESULTS/ARCH/SET_REG_ID/finetune/eval_advs.log                            (SET in lower case)
 *               STANDARD ACC: Benign validation accuracy: 77.92, Adversarial validation accuracy by
 * FGSM: 51.18 BALANCED ACC: ...                                                       (SVHN) by FGSM, PGD, CW
 *               STANDARD ACC: Benign validation accuracy pgd for source-net: 77.92, Adversarial PGD
 * validation accuracy for source-net: 46.97                                          (the older adv_eval.py)
 *             .../eval_attacks.log, ImageNet:
 *               Benign validation accuracy for source-net: Top-1 50.03, Top-5 74.11
 *               Adversarial validation accuracy by PGD: Top-1 22.45, Top-5 45.04
 *   R-ADMM    SET/.../adv_bacc_ARCH_STAGE_REG_ID_MODE.log                               MODE is mostly empty
 *               ==> Resuming from checkpoint: BEST_vgg16_bn_retrain_weight_010_0.pth.tar
 *               the lines of HYDRA, by FGSM, PGD10, PGD20, CW
 *             .../adv_bacc_resnet50_STAGE_REG_RATE_ID.log, ImageNet:
 *                * Nat_Acc@1 50.52 *Adv_Acc@1 by FGSM: 23.85
 *
 * HYDRA's PGD is one of 20 steps (adv_eval.py's of 10), R-ADMM's on ImageNet of 10. A set's network is
 * trained with the strategy ID, whose first number is the rate without its dot: 05, 01, 010, 001. Lines of
 * training are written otherwise and are not taken. */
#include "report/report.h"

#include <ctype.h>
#include <errno.h>
#include <fts.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOG_BYTES = 64 << 20 };

struct log {
    const char *path;
    hr_record r;
    int line;
    bool radmm, twice;
    hr_warning *warn;
    void *user;
};

static void say(const struct log *g, const char *fmt, ...) HR_PRINTF(2, 3);
static void say(const struct log *g, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    int n = snprintf(text, sizeof text, "%.300s: ", g->path);
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    if (g->warn)
        g->warn(text, g->user);
}

/* ---- which network ------------------------------------------------------------------------------------- */

static const char *const sets[][2] = {{"cifar10", "CIFAR10"}, {"svhn", "SVHN"}, {"imagenet", "ImageNet"}};
static const char *const archs[][2] = {{"resnet18", "resnet18"}, {"vgg16_bn", "vgg16_bn"},
                                       {"wrn_28_4", "wrn_28_4"}, {"wrn_284", "wrn_28_4"},
                                       {"resnet50", "ResNet50"}, {"ResNet50", "ResNet50"}};

/* The value of the name that text begins with, up to an underscore or its end; *rest: behind that. */
static const char *begins(const char *const (*names)[2], size_t n, const char *text, const char **rest)
{
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(names[i][0]);
        if (strncasecmp(text, names[i][0], len) == 0 && (text[len] == '_' || !text[len])) {
            *rest = text + len + (text[len] == '_');
            return names[i][1];
        }
    }
    return NULL;
}

/* "010" is 0.10, "05" 0.5; NAN: no rate. */
static double rate_of(const char *id)
{
    size_t n = strspn(id, "0123456789");
    if (n < 2 || n > 6 || id[0] != '0' || (id[n] && id[n] != '_'))
        return NAN;
    double rate = 0.0, place = 0.1;
    for (size_t i = 1; i < n; i++, place /= 10.0)
        rate += (id[i] - '0') * place;
    return round(rate * 1e6) / 1e6;
}

/* "weight_010_0" and what may follow: kind of pruning, strategy, rate. */
static bool pruned_how(struct log *g, const char *text)
{
    static const char *const regs[][2] = {{"weight", "weight"}, {"channel", "channel"}};
    const char *id, *reg = begins(regs, HR_COUNT(regs), text, &id);
    if (!reg)
        return false;
    const char *second = strchr(id, '_');
    if (second && isfinite(rate_of(id)) && isfinite(rate_of(second + 1)))
        id = second + 1; /* R-ADMM on ImageNet: the rate, then the strategy's ID */
    g->r.rate = rate_of(id);
    if (!isfinite(g->r.rate) || g->r.rate <= 0.0)
        return false;
    g->r.pruned = true;
    g->r.reg = hr_xstrdup(reg);
    g->r.strategy = hr_xstrdup(id);
    for (size_t n = strlen(id); n && g->r.strategy[n - 1] == '_'; n--)
        g->r.strategy[n - 1] = '\0';
    return true;
}

/* The directory `up` steps above the file, as a string of its own; "" where there is none. */
static char *ancestor(const char *path, int up)
{
    const char *end = strrchr(path, '/');
    for (; end && up > 1; up--) {
        const char *at = end;
        while (at > path && at[-1] != '/')
            at--;
        end = at > path ? at - 1 : NULL;
    }
    const char *begin = end;
    while (begin && begin > path && begin[-1] != '/')
        begin--;
    return end ? hr_xasprintf("%.*s", (int)(end - begin), begin) : hr_xstrdup("");
}

static bool of_hydra(struct log *g)
{
    char *mode = ancestor(g->path, 1), *run = ancestor(g->path, 2), *net = ancestor(g->path, 3);
    const char *rest = NULL, *none, *data = begins(sets, HR_COUNT(sets), run, &rest);
    const char *arch = begins(archs, HR_COUNT(archs), net, &none);
    bool known = data && arch && !*none && pruned_how(g, rest);
    if (known) {
        g->r.data = hr_xstrdup(data);
        g->r.arch = hr_xstrdup(arch);
        g->r.method = hr_xstrdup("hydra");
        g->r.label = hr_xasprintf("%s/%s", run, mode);
    }
    free(mode);
    free(run);
    free(net);
    return known;
}

/* The set is a directory above (ADMM_examples/cifar10/eval); else balanced accuracies are SVHN's. */
static const char *radmm_set(const struct log *g, bool balanced)
{
    const char *found = NULL, *none;
    for (int up = 1; up < 8 && !found; up++) {
        char *dir = ancestor(g->path, up);
        found = begins(sets, HR_COUNT(sets), dir, &none);
        free(dir);
    }
    return found ? found : strcmp(g->r.arch, "ResNet50") == 0 ? "ImageNet" : balanced ? "SVHN" : "CIFAR10";
}

static bool of_radmm(struct log *g, const char *name)
{
    static const char *const stages[][2] = {{"retrain", ""}, {"admm", ""}, {"pretrain", ""}};
    const char *rest, *arch = begins(archs, HR_COUNT(archs), name + strlen("adv_bacc_"), &rest);
    if (!arch || !begins(stages, HR_COUNT(stages), rest, &rest))
        return false;
    char *label = hr_xstrdup(name), *suffix = strstr(label, ".log");
    if (suffix)
        *suffix = '\0';
    bool known = pruned_how(g, label + (rest - name));
    if (known) {
        g->r.arch = hr_xstrdup(arch);
        g->r.method = hr_xstrdup("radmm");
        g->r.label = hr_xstrdup(label);
    }
    free(label);
    return known;
}

/* ---- which numbers ------------------------------------------------------------------------------------- */

static hr_result *result_of(struct log *g, const char *name)
{
    hr_record *r = &g->r;
    for (size_t i = 0; i < r->nresults; i++)
        if (strcmp(r->results[i].name, name) == 0)
            return &r->results[i];
    r->results = hr_xrealloc(r->results, (r->nresults + 1) * sizeof *r->results);
    r->results[r->nresults] = (hr_result){.name = hr_xstrdup(name), .accuracy = NAN, .balanced = NAN};
    return &r->results[r->nresults++];
}

/* "FGSM" is "fgsm"; PGD by itself has `steps`. */
static void attack_name(const char *text, size_t n, int steps, char out[32])
{
    size_t len = 0;
    for (; len < n && len < 24; len++)
        out[len] = (char)tolower((unsigned char)text[len]);
    out[len] = '\0';
    if (strcmp(out, "pgd") == 0)
        snprintf(out, 32, "pgd%d", steps);
    else if (strcmp(out, "autoattack") == 0)
        snprintf(out, 32, "aa");
}

/* The number at text, behind "Top-1" and blanks. */
static int take(struct log *g, const char *name, const char *text, bool balanced, hr_err *err)
{
    text += strspn(text, ": ");
    if (strncmp(text, "Top-1", 5) == 0)
        text += 5 + strspn(text + 5, ": ");
    char *end;
    double v = strtod(text, &end);
    if (end == text || !(v >= 0.0 && v <= 100.0))
        return hr_fail(err, HR_EFORMAT, "%s: line %d: %s is '%.20s', an accuracy is needed", g->path, g->line,
                       name, text);
    hr_result *r = result_of(g, name);
    double *where = balanced ? &r->balanced : &r->accuracy;
    g->twice |= strcmp(name, "clean") != 0 && isfinite(*where);
    *where = v;
    return HR_OK;
}

/* What one line says; nothing where it is of another kind. */
static int read_line(struct log *g, const char *line, hr_err *err)
{
    static const char by[] = "Adversarial validation accuracy by ", of[] = "Adversarial ",
                      top1[] = "*Adv_Acc@1 by ";
    bool balanced = strstr(line, "BALANCED ACC"), lines = balanced || strstr(line, "STANDARD ACC");
    const char *clean = strstr(line, "Benign validation accuracy"), *nat = strstr(line, "* Nat_Acc@1 "), *at;
    bool imagenet = strstr(line, "Top-1") || strstr(line, top1);
    char name[32];
    int rc = HR_OK;
    if (!lines && !imagenet)
        return HR_OK;
    if (clean && (at = strchr(clean, ':')))
        rc = take(g, "clean", at, balanced, err);
    else if (nat && strstr(line, top1))
        rc = take(g, "clean", nat + strlen("* Nat_Acc@1 "), balanced, err);
    if (rc)
        return rc;
    const char *adv = strstr(line, by);
    if (adv || (adv = strstr(line, top1))) {
        adv += strncmp(adv, by, strlen(by)) == 0 ? strlen(by) : strlen(top1);
        size_t n = strcspn(adv, ": ");
        attack_name(adv, n, g->radmm ? 10 : 20, name);
        return take(g, name, adv + n, balanced, err);
    }
    adv = strstr(line, of);
    if (adv && strstr(adv, " validation accuracy for source-net:")) { /* adv_eval.py */
        adv += strlen(of);
        attack_name(adv, strcspn(adv, " "), 10, name);
        return take(g, name, strchr(adv, ':'), balanced, err);
    }
    return HR_OK;
}

/* Radius and step that the evaluator had; the log does not tell. */
static void settings(hr_record *r, bool radmm)
{
    bool imagenet = strcmp(r->data, "ImageNet") == 0;
    double eps = imagenet ? 4.0 / 255.0 : radmm ? 8.0 / 255.0 : 0.031;
    for (size_t i = 0; i < r->nresults; i++) {
        hr_result *a = &r->results[i];
        bool one = strcmp(a->name, "fgsm") == 0;
        if (strcmp(a->name, "clean") == 0)
            continue;
        a->eps = eps;
        a->restarts = 1;
        a->steps = one                               ? (radmm && imagenet ? 10 : 1)
                   : strncmp(a->name, "pgd", 3) == 0 ? strtol(a->name + 3, NULL, 10)
                                                     : 20;
        a->step = one ? eps : imagenet ? 1.0 / 255.0 : radmm ? 2.0 / 255.0 : 0.0078;
        if (radmm && imagenet && strcmp(a->name, "cw") == 0)
            a->steps = 10;
    }
}

/* ---- files --------------------------------------------------------------------------------------------- */

static int read_text(struct log *g, hr_buf *text, hr_err *err)
{
    int rc = HR_OK;
    if (text->len && strlen(text->data) != text->len)
        return HR_OK; /* no text, so no log */
    for (char *line = text->data, *next; line && *line && !rc; line = next) {
        next = line + strcspn(line, "\n");
        if (*next)
            *next++ = '\0';
        g->line++;
        rc = read_line(g, line, err);
    }
    return rc;
}

static int read_log(hr_records *rs, const char *path, hr_warning *warn, void *user, hr_err *err)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    struct log g = {.path = path, .warn = warn, .user = user};
    hr_records own = {&g.r, 0};
    hr_in in;
    hr_buf text = {0};
    char digest[65];
    g.radmm = strncmp(name, "adv_bacc_", 9) == 0;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = hr_in_slurp(&in, &text, LOG_BYTES, err);
    hr_in_close(&in);
    hr_sha256 *h = hr_sha256_new();
    hr_sha256_add(h, text.data, text.len);
    if (!rc)
        rc = read_text(&g, &text, err);
    hr_buf_release(&text);
    bool known = !rc && g.r.nresults && (g.radmm ? of_radmm(&g, name) : of_hydra(&g));
    if (!rc && g.r.nresults && !known)
        say(&g, "which network, strategy and rate it is of cannot be told from its path: left out");
    if (known)
        hr_sha256_add(h, g.r.label, strlen(g.r.label));
    hr_sha256_end(h, digest);
    if (!known) {
        own.r = hr_xmalloc(sizeof g.r);
        *own.r = g.r;
        own.n = 1;
        hr_records_release(&own);
        return rc;
    }
    if (g.twice)
        say(&g, "an attack was measured more than once; the last time counts");
    hr_record *r = &g.r;
    if (!r->data)
        r->data = hr_xstrdup(radmm_set(&g, isfinite(result_of(&g, "clean")->balanced)));
    r->where = hr_xstrdup(path);
    r->digest = hr_xstrdup(digest);
    r->data_digest = hr_xstrdup("");
    r->density = r->inout = r->masked = r->macs = NAN;
    settings(r, g.radmm);
    rs->r = hr_xrealloc(rs->r, (rs->n + 1) * sizeof *rs->r);
    rs->r[rs->n++] = *r;
    return HR_OK;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

int hr_legacy_read(hr_records *rs, const char *path, hr_warning *warn, void *user, hr_err *err)
{
    char *start = hr_xstrdup(path);
    size_t before = rs->n;
    FTS *tree = fts_open((char *[]){start, NULL}, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
    int rc = tree ? HR_OK : hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno));
    FTSENT *f;
    while (!rc && (f = fts_read(tree))) {
        size_t n = f->fts_namelen;
        if (f->fts_info == FTS_DNR || f->fts_info == FTS_ERR || f->fts_info == FTS_NS)
            rc = hr_fail(err, HR_EIO, "%s: %s", f->fts_path, strerror(f->fts_errno));
        else if (f->fts_info == FTS_F &&
                 (f->fts_level == 0 || (n > 4 && !strcmp(f->fts_name + n - 4, ".log"))))
            rc = read_log(rs, f->fts_path, warn, user, err);
    }
    if (tree)
        fts_close(tree);
    free(start);
    if (!rc && rs->n == before)
        rc = hr_fail(err, HR_EFORMAT, "%s: no evaluation log of HYDRA or R-ADMM is there", path);
    return rc;
}
