/* lib/report/paper.c -- the paper's tables: uniform keep-rates against searched ones.
 *
 * Table 2 (channels) and Table 3 (weights) have a row per data set, network, method and rate, and three
 * groups of columns, each over natural accuracy, FGSM, PGD-10, PGD-20, C&W and, where it was run, AutoAttack:
 * the uniform strategy, mean and sample standard deviation over the searched strategies (five in the paper),
 * and the difference. The bold rule is that of the published sheets, with a margin of 0.5 points: the mean is
 * bold unless it is worse than uniform by the margin or more; uniform is bold unless it is worse by that; a
 * difference is bold when it is positive.
 *
 * Rows come from evaluation records, or from the published raw sheets as CSV (one number per strategy and
 * attack in columns unioa, unifgsm, unipgdone, unipgdtwo, unicw and R1-oa to R5-cw; the ImageNet sheet has
 * one strategy in oa to cw and the kind of pruning in preg). What a sheet says of its own means and
 * deviations is not taken over but recomputed, and warned about where it is something else: four sheets leave
 * R1 out of one deviation and count R3 twice. */
#include "report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHEET_BYTES = 1 << 20, FIELDS = 256, MAX_RUNS = 64 };
enum { NATURAL, FGSM, PGD10, PGD20, CW, AA, ATTACKS };
static const char *const attack_names[ATTACKS] = {"clean", "fgsm", "pgd10", "pgd20", "cw", "aa"};
static const char *const titles[ATTACKS] = {"natural", "FGSM", "PGD-10", "PGD-20", "C&W", "AutoAttack"};

/* Accuracies of one strategy; NAN: not measured. */
struct run {
    double value[ATTACKS];
};
struct row {
    char *data, *reg, *arch, *method;
    double rate;
    struct run uniform[MAX_RUNS], searched[MAX_RUNS];
    int nuniform, nsearched;
};
struct hr_paper {
    struct row *row;
    size_t n;
    double margin;
    bool has_aa;
};

hr_paper *hr_paper_new(double margin)
{
    hr_paper *p = hr_xcalloc(1, sizeof *p);
    p->margin = margin;
    return p;
}

void hr_paper_free(hr_paper *p)
{
    for (size_t i = 0; p && i < p->n; i++) {
        free(p->row[i].data);
        free(p->row[i].reg);
        free(p->row[i].arch);
        free(p->row[i].method);
    }
    if (p)
        free(p->row);
    free(p);
}

static bool same_block(const struct row *a, const char *data, const char *reg)
{
    return !strcmp(a->reg, reg) && !strcmp(a->data, data);
}

/* The row of that name; a new one goes behind the last of its data set and kind of pruning. */
static struct row *row_of(hr_paper *p, const char *data, const char *reg, const char *arch,
                          const char *method, double rate)
{
    size_t at = p->n;
    for (size_t i = 0; i < p->n; i++) {
        struct row *r = &p->row[i];
        if (!same_block(r, data, reg))
            continue;
        if (!strcmp(r->arch, arch) && !strcmp(r->method, method) && r->rate == rate)
            return r;
        at = i + 1;
    }
    p->row = hr_xrealloc(p->row, (p->n + 1) * sizeof *p->row);
    memmove(&p->row[at + 1], &p->row[at], (p->n++ - at) * sizeof *p->row);
    p->row[at] = (struct row){.data = hr_xstrdup(data),
                              .reg = hr_xstrdup(reg),
                              .arch = hr_xstrdup(arch),
                              .method = hr_xstrdup(method),
                              .rate = rate};
    return &p->row[at];
}

static int add_run(hr_paper *p, const char *where, struct row *r, bool uniform, const struct run *run,
                   hr_err *err)
{
    int *n = uniform ? &r->nuniform : &r->nsearched;
    if (*n == MAX_RUNS)
        return hr_fail(err, HR_EFORMAT, "%s: more than %d strategies of %s, %s, rate %g", where, MAX_RUNS,
                       r->arch, r->method, r->rate);
    (uniform ? r->uniform : r->searched)[(*n)++] = *run;
    p->has_aa |= !isnan(run->value[AA]);
    return HR_OK;
}

/* Over the runs, each of which must have been measured; NAN otherwise. */
static double mean_of(const struct run *run, int n, int attack)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += run[i].value[attack];
    return n ? sum / n : NAN;
}

static double deviation_of(const struct run *run, int n, int attack)
{
    double mean = mean_of(run, n, attack), sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += (run[i].value[attack] - mean) * (run[i].value[attack] - mean);
    return n > 1 ? sqrt(sum / (n - 1)) : NAN;
}

/* ---- rows from records --------------------------------------------------------------------------------- */

/* The method is the stage that its history knows: prune is HYDRA's, admm R-ADMM's. */
static const char *method_of(const json_t *history)
{
    const char *stage = json_string_value(json_object_get(json_object_get(history, "options"), "stage"));
    if (stage && strcmp(stage, "prune") == 0)
        return "hydra";
    if (stage && strcmp(stage, "admm") == 0)
        return "radmm";
    size_t i;
    const json_t *input;
    json_array_foreach (json_object_get(history, "inputs"), i, input) {
        const char *found = method_of(json_object_get(input, "history"));
        if (*found)
            return found;
    }
    return "";
}

enum kind { UNIFORM, SEARCHED, OTHER };

/* Ours are called uniform:K and search-N, those published 010_uni and 010_0; erk:K and so on are neither. */
static enum kind kind_of(const char *strategy)
{
    size_t n = strlen(strategy);
    if (strncmp(strategy, "uniform", 7) == 0 || (n > 4 && strcmp(strategy + n - 4, "_uni") == 0))
        return UNIFORM;
    return strchr(strategy, ':') || strcmp(strategy, "unnamed") == 0 ? OTHER : SEARCHED;
}

int hr_paper_add_records(hr_paper *p, const hr_records *rs, enum hr_accuracy acc, hr_warning *warn,
                         void *user, hr_err *err)
{
    for (size_t i = 0; i < rs->n; i++) {
        const hr_record *r = &rs->r[i];
        enum kind kind = r->pruned ? kind_of(r->strategy) : OTHER;
        for (size_t k = 0; k < i; k++)
            if (strcmp(rs->r[k].digest, r->digest) == 0 && strcmp(rs->r[k].data_digest, r->data_digest) == 0)
                return hr_fail(err, HR_EFORMAT, "%s: the same network as in %s", r->where, rs->r[k].where);
        if (kind == OTHER) {
            char line[256];
            snprintf(line, sizeof line, "%.80s: %.60s is neither uniform nor searched: left out", r->where,
                     r->label);
            if (warn)
                warn(line, user);
            continue;
        }
        struct run run;
        for (int k = 0; k < ATTACKS; k++) {
            run.value[k] = NAN;
            for (size_t a = 0; a < r->nresults; a++)
                if (strcmp(r->results[a].name, attack_names[k]) == 0)
                    run.value[k] = acc == HR_ACC_BALANCED ? r->results[a].balanced : r->results[a].accuracy;
        }
        int rc = add_run(p, r->where, row_of(p, r->data, r->reg, r->arch, method_of(r->history), r->rate),
                         kind == UNIFORM, &run, err);
        if (rc)
            return rc;
    }
    return HR_OK;
}

/* ---- rows from the published sheets -------------------------------------------------------------------- */

struct sheet {
    const char *name;
    char *head[FIELDS], *cell[FIELDS];
    int columns, cells, line, rows;
    hr_warning *warn;
    void *user;
};

/* Cut a line at its commas, in place; quotes have no meaning here. Returns the number of fields, or -1. */
static int split(char *line, char **field)
{
    int n = 0;
    for (char *at = line; at; n++) {
        char *comma = strchr(at, ',');
        if (n == FIELDS)
            return -1;
        field[n] = at;
        at = comma ? comma + 1 : NULL;
        if (comma)
            *comma = '\0';
    }
    return n;
}

static const char *cell(const struct sheet *s, const char *column)
{
    for (int i = 0; i < s->columns && i < s->cells; i++)
        if (strcmp(s->head[i], column) == 0)
            return s->cell[i];
    return NULL;
}

/* A number, behind LaTeX's \B or \bf; NAN: empty, no such column. */
static int number(const struct sheet *s, const char *column, double *value, hr_err *err)
{
    const char *text = cell(s, column);
    *value = NAN;
    if (!text || !*text)
        return HR_OK;
    const char *digits = *text == '\\' ? text + strcspn(text, " ") : text;
    char *end;
    double v = strtod(digits, &end);
    if (end == digits || *end || !(v >= 0.0 && v <= 100.0))
        return hr_fail(err, HR_EFORMAT, "%s: line %d: %s is '%.40s', a number from 0 to 100 is needed",
                       s->name, s->line, column, text);
    *value = v;
    return HR_OK;
}

static const char *known(const char *const (*names)[2], size_t n, const char *text)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, names[i][0]) == 0)
            return names[i][1];
    return text;
}

static void doubt(const struct sheet *s, const struct row *r, const char *fmt, ...) HR_PRINTF(3, 4);
static void doubt(const struct sheet *s, const struct row *r, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    int n = snprintf(line, sizeof line, "%.200s: line %d: %.40s %.20s %g: ", s->name, s->line, r->arch,
                     r->method, r->rate);
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    if (s->warn)
        s->warn(line, s->user);
}

/* What the sheet made of its numbers, and networks that answer the same to everything (10 classes). */
static int doubt_row(const struct sheet *s, const struct row *r, hr_err *err)
{
    static const char *const own[] = {"oa", "fgsm", "pgdone", "pgdtwo", "cw"};
    for (int k = 0; k <= CW; k++) {
        char column[32];
        double told, mean = mean_of(r->searched, r->nsearched, k),
                     std = deviation_of(r->searched, r->nsearched, k);
        int rc = number(s, own[k], &told, err);
        if (!rc && fabs(told - mean) > 0.00501) /* two decimals */
            doubt(s, r, "the sheet's mean %s is %.2f, that of its %d runs %.2f", own[k], told, r->nsearched,
                  mean);
        snprintf(column, sizeof column, "%svar", own[k]);
        rc = rc ? rc : number(s, column, &told, err);
        if (!rc && fabs(told - std) > 1e-5) /* six decimals */
            doubt(s, r, "the sheet's deviation of %s is %.2f, that of its %d runs %.2f", own[k], told,
                  r->nsearched, std);
        if (rc)
            return rc;
    }
    for (int i = -1; i < r->nsearched; i++) {
        const struct run *run = i < 0 ? &r->uniform[0] : &r->searched[i];
        char what[32];
        snprintf(what, sizeof what, i < 0 ? "uniform" : "R%d", i + 1);
        if (run->value[NATURAL] == 10.0 ||
            (run->value[NATURAL] == run->value[PGD20] && run->value[NATURAL] < 15.0))
            doubt(s, r, "%s has collapsed: %.2f natural, %.2f under PGD-20", what, run->value[NATURAL],
                  run->value[PGD20]);
        else if (run->value[PGD20] > run->value[FGSM] || run->value[PGD20] > run->value[PGD10] + 0.5)
            doubt(s, r, "%s: PGD-20 leaves %.2f, FGSM %.2f, PGD-10 %.2f", what, run->value[PGD20],
                  run->value[FGSM], run->value[PGD10]);
    }
    return HR_OK;
}

/* One strategy's numbers: columns prefix + name[k]. Returns 0 with *found set when one is there. */
static int read_run(const struct sheet *s, const char *prefix, const char *const name[5], struct run *run,
                    bool *found, hr_err *err)
{
    *found = false;
    run->value[AA] = NAN;
    for (int k = 0; k <= CW; k++) {
        char column[32];
        snprintf(column, sizeof column, "%s%s", prefix, name[k]);
        int rc = number(s, column, &run->value[k], err);
        if (rc)
            return rc;
        *found |= !isnan(run->value[k]);
    }
    return HR_OK;
}

static int sheet_row(hr_paper *p, const struct sheet *s, const char *data, const char *sheet_reg, hr_err *err)
{
    static const char *const plain[] = {"oa", "fgsm", "pgdone", "pgdtwo", "cw"};
    static const char *const numbered[] = {"oa", "fgsm", "pgd10", "pgd20", "cw"};
    static const char *const archs[][2] = {
        {"resnet", "resnet18"}, {"vgg", "vgg16_bn"}, {"wrn", "wrn_28_4"}, {"resnet[50]", "ResNet50"}};
    static const char *const methods[][2] = {{"radmms", "radmm"}};
    const char *arch = cell(s, "arch"), *method = cell(s, "method"), *reg = cell(s, "preg");
    double rate;
    int rc = number(s, "compressionrate", &rate, err);
    if (rc)
        return rc;
    reg = reg ? reg : sheet_reg;
    if (!arch || !method || !reg || isnan(rate))
        return hr_fail(err, HR_EFORMAT,
                       "%s: line %d: arch, method, compressionrate and the kind of pruning are needed",
                       s->name, s->line);
    struct row *r = row_of(p, data, reg, known(archs, HR_COUNT(archs), arch),
                           known(methods, HR_COUNT(methods), method), rate);
    if (r->nuniform + r->nsearched)
        return hr_fail(err, HR_EFORMAT, "%s: line %d: %s, %s, rate %g is there twice", s->name, s->line,
                       r->arch, r->method, r->rate);
    struct run run;
    bool found;
    rc = read_run(s, "uni", plain, &run, &found, err);
    if (!rc && found)
        rc = add_run(p, s->name, r, true, &run, err);
    for (int k = 1; k <= 5 && !rc; k++) {
        char prefix[8];
        snprintf(prefix, sizeof prefix, "R%d-", k);
        rc = read_run(s, prefix, numbered, &run, &found, err);
        if (!rc && found)
            rc = add_run(p, s->name, r, false, &run, err);
    }
    if (!rc && r->nsearched == 0) {
        rc = read_run(s, "", plain, &run, &found, err);
        if (!rc && found)
            rc = add_run(p, s->name, r, false, &run, err);
    }
    if (!rc && (!r->nuniform || !r->nsearched))
        rc = hr_fail(err, HR_EFORMAT, "%s: line %d: no numbers of a %s strategy", s->name, s->line,
                     r->nuniform ? "searched" : "uniform");
    return rc ? rc : doubt_row(s, r, err);
}

int hr_paper_add_sheet(hr_paper *p, const char *path, hr_warning *warn, void *user, hr_err *err)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    const char *data = strstr(base, "cifar10")    ? "CIFAR10"
                       : strstr(base, "svhn")     ? "SVHN"
                       : strstr(base, "imagenet") ? "ImageNet"
                                                  : NULL;
    const char *reg = strstr(base, "channel") ? "channel" : strstr(base, "weight") ? "weight" : NULL;
    if (dot && (!strcmp(dot, ".xls") || !strcmp(dot, ".xlsx")))
        return hr_fail(err, HR_EFORMAT, "%s: sheets are read as CSV: ssconvert --recalc %s sheet.csv", path,
                       path);
    if (!data)
        return hr_fail(err, HR_EINVAL, "%s: a sheet's name holds cifar10, svhn or imagenet", path);
    hr_in in;
    hr_buf text = {0};
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = hr_in_slurp(&in, &text, SHEET_BYTES, err);
    struct sheet s = {.name = in.name, .warn = warn, .user = user};
    char *save = NULL;
    if (!rc && strlen(text.data ? text.data : "") != text.len)
        rc = hr_fail(err, HR_EFORMAT, "%s: is no text", in.name);
    for (char *line = rc || !text.len ? NULL : text.data; line && !rc; line = save) {
        save = strchr(line, '\n');
        if (save)
            *save++ = '\0';
        line[strcspn(line, "\r")] = '\0';
        s.line++;
        s.cells = split(line, s.line == 1 ? s.head : s.cell);
        if (s.cells < 0)
            rc = hr_fail(err, HR_EFORMAT, "%s: line %d: more than %d fields", in.name, s.line, FIELDS);
        else if (s.line == 1)
            s.columns = s.cells;
        else if (*line && strncmp(line, "conf:", 5) != 0) {
            rc = sheet_row(p, &s, data, reg, err);
            s.rows++;
        }
    }
    if (!rc && !s.rows)
        rc = hr_fail(err, HR_EFORMAT, "%s: has no rows", in.name);
    hr_buf_release(&text);
    hr_in_close(&in);
    return rc;
}

/* ---- what is printed ----------------------------------------------------------------------------------- */

struct shown {
    double uniform, mean, std, diff;
    bool bold_uniform, bold_mean, bold_diff;
};

static struct shown show(const hr_paper *p, const struct row *r, int k)
{
    struct shown c = {.uniform = mean_of(r->uniform, r->nuniform, k),
                      .mean = mean_of(r->searched, r->nsearched, k),
                      .std = deviation_of(r->searched, r->nsearched, k)};
    c.diff = c.mean - c.uniform;
    c.bold_mean = c.diff > -p->margin;
    c.bold_uniform = c.diff < p->margin;
    c.bold_diff = c.diff > 0.0;
    return c;
}

static int columns_of(const hr_paper *p)
{
    return p->has_aa ? ATTACKS : AA;
}

/* "78.58" or "-", with at least one sign when asked. */
static void put_number(char out[32], double v, bool sign)
{
    if (isnan(v))
        snprintf(out, 32, "-");
    else
        snprintf(out, 32, sign ? "%+.2f" : "%.2f", v);
}

static void write_text(const hr_paper *p, FILE *out)
{
    int columns = columns_of(p);
    for (size_t i = 0; i < p->n; i++) {
        const struct row *r = &p->row[i];
        if (i == 0 || !same_block(r - 1, r->data, r->reg)) {
            fprintf(out, "%s%s, %s pruning: uniform, searched (mean +- deviation), difference\n",
                    i ? "\n" : "", r->data, r->reg);
            fprintf(out, "%-10s %-6s %5s %2s", "network", "method", "rate", "n");
            for (int k = 0; k < columns; k++)
                fprintf(out, "  | %-25s", titles[k]);
            putc('\n', out);
        }
        fprintf(out, "%-10s %-6s %5g %2d", r->arch, *r->method ? r->method : "-", r->rate, r->nsearched);
        for (int k = 0; k < columns; k++) {
            struct shown c = show(p, r, k);
            char uniform[32], mean[32], std[32], diff[32];
            put_number(uniform, c.uniform, false);
            put_number(mean, c.mean, false);
            put_number(std, c.std, false);
            put_number(diff, c.diff, true);
            fprintf(out, "  | %5s %5s +- %4s %6s%s", uniform, mean, std, diff, k + 1 < columns ? " " : "");
        }
        putc('\n', out);
    }
}

static void write_csv(const hr_paper *p, FILE *out)
{
    fputs("data,reg,arch,method,rate,uniform_runs,searched_runs", out);
    for (int k = 0; k < ATTACKS; k++)
        fprintf(out, ",%s_uniform,%s_mean,%s_std,%s_diff", attack_names[k], attack_names[k], attack_names[k],
                attack_names[k]);
    fputs("\r\n", out);
    for (size_t i = 0; i < p->n; i++) {
        const struct row *r = &p->row[i];
        const char *text[] = {r->data, r->reg, r->arch, r->method};
        for (size_t t = 0; t < HR_COUNT(text); t++) {
            putc('"', out);
            for (const char *c = text[t]; *c; c++)
                fprintf(out, *c == '"' ? "\"\"" : "%c", *c);
            fputs("\",", out);
        }
        fprintf(out, "%g,%d,%d", r->rate, r->nuniform, r->nsearched);
        for (int k = 0; k < ATTACKS; k++) {
            struct shown c = show(p, r, k);
            double v[] = {c.uniform, c.mean, c.std, c.diff};
            for (size_t t = 0; t < HR_COUNT(v); t++)
                isnan(v[t]) ? fputs(",", out) : fprintf(out, ",%.10g", v[t]);
        }
        fputs("\r\n", out);
    }
}

static void put_latex(FILE *out, const char *text)
{
    for (; *text; text++)
        fprintf(out,
                strchr("_&%$#{}", *text)                        ? "\\%c"
                : *text == '\\' || *text == '~' || *text == '^' ? "?"
                                                                : "%c",
                *text);
}

static void put_cell(FILE *out, bool bold, const char *number, const char *deviation)
{
    fprintf(out, bold && *number != '-' ? " & \\textbf{%s}" : " & %s", strcmp(number, "-") ? number : "--");
    if (deviation && strcmp(deviation, "-"))
        fprintf(out, "{\\,$\\pm$\\,%s}", deviation);
}

static void latex_row(const hr_paper *p, const struct row *r, FILE *out)
{
    int columns = columns_of(p);
    char number[32], deviation[32];
    put_latex(out, r->arch);
    fputs(" & ", out);
    put_latex(out, *r->method ? r->method : "--");
    fprintf(out, " & %g", r->rate);
    for (int k = 0; k < columns; k++) {
        struct shown c = show(p, r, k);
        put_number(number, c.uniform, false);
        put_cell(out, c.bold_uniform, number, NULL);
    }
    for (int k = 0; k < columns; k++) {
        struct shown c = show(p, r, k);
        put_number(number, c.mean, false);
        put_number(deviation, c.std, false);
        put_cell(out, c.bold_mean, number, deviation);
    }
    for (int k = 0; k < columns; k++) {
        struct shown c = show(p, r, k);
        put_number(number, c.diff, true);
        if (*number == '-' && number[1]) { /* a minus, not a hyphen, and never bold */
            fprintf(out, " & $%s$", number);
            continue;
        }
        put_cell(out, c.bold_diff, number, NULL);
    }
    fputs(" \\\\\n", out);
}

static void write_latex(const hr_paper *p, FILE *out)
{
    int columns = columns_of(p);
    fprintf(out, "\\begin{tabular}{llr*{%d}{r}}\n\\toprule\n & & ", 3 * columns);
    static const char *const groups[] = {"uniform", "searched", "difference"};
    for (int g = 0; g < 3; g++)
        fprintf(out, " & \\multicolumn{%d}{c}{%s}", columns, groups[g]);
    fputs(" \\\\\n", out);
    for (int g = 0; g < 3; g++)
        fprintf(out, "\\cmidrule(lr){%d-%d}", 4 + g * columns, 3 + (g + 1) * columns);
    fputs("\nnetwork & method & rate", out);
    for (int k = 0; k < 3 * columns; k++) {
        fputs(" & ", out);
        put_latex(out, titles[k % columns]);
    }
    fputs(" \\\\\n", out);
    for (size_t i = 0; i < p->n; i++) {
        const struct row *r = &p->row[i];
        if (i == 0 || !same_block(r - 1, r->data, r->reg)) {
            fprintf(out, "\\midrule\n\\multicolumn{%d}{l}{", 3 + 3 * columns);
            put_latex(out, r->data);
            fprintf(out, ", %s pruning} \\\\\n", r->reg);
        }
        latex_row(p, r, out);
    }
    fputs("\\bottomrule\n\\end{tabular}\n", out);
}

void hr_paper_write(const hr_paper *p, enum hr_table_format format, FILE *out)
{
    if (format == HR_TABLE_CSV)
        write_csv(p, out);
    else if (format == HR_TABLE_LATEX)
        write_latex(p, out);
    else
        write_text(p, out);
}
