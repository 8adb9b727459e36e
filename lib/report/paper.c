/* lib/report/paper.c -- the paper's tables: uniform keep-rates against searched ones.
 *
 * Table 2 (channels) and Table 3 (weights) have a row per data set, network, method and rate, and three
 * groups of columns, each over natural accuracy, FGSM, PGD-10, PGD-20, C&W and, where it was run, AutoAttack:
 * the uniform strategy, mean and sample standard deviation over the searched strategies (five in the paper),
 * and the difference. The bold rule is that of the published sheets, with a margin of 0.5 points: the mean is
 * bold unless it is worse than uniform by the margin or more; uniform is bold unless it is worse by that; a
 * difference is bold when it is positive.
 *
 * Rows come from evaluation records, or from the published raw sheets (sheet.c). What was published can also
 * stand beside the records' rows: uniform, mean and deviation, as a fourth group. */
#include "report/paper.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const attack_names[ATTACKS] = {"clean", "fgsm", "pgd10", "pgd20", "cw", "aa"};
static const char *const titles[ATTACKS] = {"natural", "FGSM", "PGD-10", "PGD-20", "C&W", "AutoAttack"};

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
    if (p) {
        free(p->row);
        hr_paper_free(p->published);
    }
    free(p);
}

void hr_paper_publish(hr_paper *p, hr_paper *published)
{
    hr_paper_free(p->published);
    p->published = published;
}

static bool same_block(const struct row *a, const char *data, const char *reg)
{
    return !strcmp(a->reg, reg) && !strcmp(a->data, data);
}

struct row *hr_paper_row(hr_paper *p, const char *data, const char *reg, const char *arch, const char *method,
                         double rate)
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

int hr_paper_add_run(hr_paper *p, const char *where, struct row *r, bool uniform, const struct run *run,
                     hr_err *err)
{
    int *n = uniform ? &r->nuniform : &r->nsearched;
    if (*n == HR_MAX_RUNS)
        return hr_fail(err, HR_EFORMAT, "%s: more than %d strategies of %s, %s, rate %g", where, HR_MAX_RUNS,
                       r->arch, r->method, r->rate);
    (uniform ? r->uniform : r->searched)[(*n)++] = *run;
    p->has_aa |= !isnan(run->value[AA]);
    return HR_OK;
}

double hr_paper_mean(const struct run *run, int n, int attack)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += run[i].value[attack];
    return n ? sum / n : NAN;
}

double hr_paper_deviation(const struct run *run, int n, int attack)
{
    double mean = hr_paper_mean(run, n, attack), sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += (run[i].value[attack] - mean) * (run[i].value[attack] - mean);
    return n > 1 ? sqrt(sum / (n - 1)) : NAN;
}

/* ---- rows from records --------------------------------------------------------------------------------- */

const char *hr_history_method(const json_t *history)
{
    const char *stage = json_string_value(json_object_get(json_object_get(history, "options"), "stage"));
    if (stage && strcmp(stage, "prune") == 0)
        return "hydra";
    if (stage && strcmp(stage, "admm") == 0)
        return "radmm";
    size_t i;
    const json_t *input;
    json_array_foreach (json_object_get(history, "inputs"), i, input) {
        const char *found = hr_history_method(json_object_get(input, "history"));
        if (*found)
            return found;
    }
    return "";
}

enum hr_kind hr_kind_of(const char *strategy)
{
    static const char *const rules[] = {"_all", "_erk", "_lamp"}; /* published ends that are no search */
    static const char *const ours[] = {"erk", "lamp", "global", "unnamed"}; /* by rules of maskapply */
    size_t n = strlen(strategy);
    if (strncmp(strategy, "uniform", 7) == 0 || (n > 4 && strcmp(strategy + n - 4, "_uni") == 0))
        return HR_KIND_UNIFORM;
    for (size_t i = 0; i < HR_COUNT(rules); i++)
        if (n > strlen(rules[i]) && strcmp(strategy + n - strlen(rules[i]), rules[i]) == 0)
            return HR_KIND_OTHER;
    for (size_t i = 0; i < HR_COUNT(ours); i++)
        if (strcmp(strategy, ours[i]) == 0)
            return HR_KIND_OTHER;
    return strchr(strategy, ':') || strncmp(strategy, "random-", 7) == 0 ? HR_KIND_OTHER : HR_KIND_SEARCHED;
}

int hr_paper_add_records(hr_paper *p, const hr_records *rs, enum hr_accuracy acc, hr_warning *warn,
                         void *user, hr_err *err)
{
    for (size_t i = 0; i < rs->n; i++) {
        const hr_record *r = &rs->r[i];
        enum hr_kind kind = r->pruned ? hr_kind_of(r->strategy) : HR_KIND_OTHER;
        for (size_t k = 0; k < i; k++)
            if (strcmp(rs->r[k].digest, r->digest) == 0 && strcmp(rs->r[k].data_digest, r->data_digest) == 0)
                return hr_fail(err, HR_EFORMAT, "%s: the same network as in %s", r->where, rs->r[k].where);
        if (kind == HR_KIND_OTHER) {
            char line[512];
            snprintf(line, sizeof line, "%.300s: %.100s is neither uniform nor searched: left out", r->where,
                     r->label);
            if (warn)
                warn(line, user);
            continue;
        }
        struct run run;
        bool balanced = acc == HR_ACC_BALANCED || (acc == HR_ACC_PUBLISHED && strcmp(r->data, "SVHN") == 0);
        for (int k = 0; k < ATTACKS; k++) {
            run.value[k] = NAN;
            for (size_t a = 0; a < r->nresults; a++)
                if (strcmp(r->results[a].name, attack_names[k]) == 0)
                    run.value[k] = balanced ? r->results[a].balanced : r->results[a].accuracy;
        }
        struct row *row = hr_paper_row(p, r->data, r->reg, r->arch,
                                       r->method ? r->method : hr_history_method(r->history), r->rate);
        row->balanced = balanced;
        int rc = hr_paper_add_run(p, r->where, row, kind == HR_KIND_UNIFORM, &run, err);
        if (rc)
            return rc;
    }
    return HR_OK;
}

/* ---- what is printed ----------------------------------------------------------------------------------- */

struct shown {
    double uniform, mean, std, diff;
    bool bold_uniform, bold_mean, bold_diff;
};

static struct shown show(const hr_paper *p, const struct row *r, int k)
{
    struct shown c = {.uniform = hr_paper_mean(r->uniform, r->nuniform, k),
                      .mean = hr_paper_mean(r->searched, r->nsearched, k),
                      .std = hr_paper_deviation(r->searched, r->nsearched, k)};
    c.diff = c.mean - c.uniform;
    c.bold_mean = c.diff > -p->margin;
    c.bold_uniform = c.diff < p->margin;
    c.bold_diff = c.diff > 0.0;
    return c;
}

/* What was published in the row of that name: NANs where nothing was. */
static struct shown published(const hr_paper *p, const struct row *r, int k)
{
    for (size_t i = 0; p->published && i < p->published->n; i++) {
        const struct row *q = &p->published->row[i];
        if (same_block(q, r->data, r->reg) && !strcmp(q->arch, r->arch) && !strcmp(q->method, r->method) &&
            q->rate == r->rate)
            return show(p->published, q, k);
    }
    return (struct shown){.uniform = NAN, .mean = NAN, .std = NAN, .diff = NAN};
}

/* Readers must not take one for the other. */
static const char *accuracy_of(const struct row *r)
{
    return r->balanced ? ", balanced accuracy" : "";
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
            fprintf(out, "%s%s, %s pruning%s: uniform, searched (mean +- deviation), difference\n",
                    i ? "\n" : "", r->data, r->reg, accuracy_of(r));
            fprintf(out, "%-10s %-6s %5s %2s", "network", "method", "rate", "n");
            for (int k = 0; k < columns; k++)
                fprintf(out, p->published ? "  | %-26s published           " : "  | %-26s", titles[k]);
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
            fprintf(out, "  | %5s %5s +- %4s %6s", uniform, mean, std, diff);
            if (p->published) {
                c = published(p, r, k);
                put_number(uniform, c.uniform, false);
                put_number(mean, c.mean, false);
                put_number(std, c.std, false);
                fprintf(out, "  %5s %5s +- %4s", uniform, mean, std);
            }
        }
        putc('\n', out);
    }
}

static void csv_numbers(const double *v, size_t n, FILE *out)
{
    for (size_t i = 0; i < n; i++)
        isnan(v[i]) ? fputs(",", out) : fprintf(out, ",%.10g", v[i]);
}

static void write_csv(const hr_paper *p, FILE *out)
{
    fputs("data,reg,arch,method,rate,uniform_runs,searched_runs", out);
    for (int k = 0; k < ATTACKS; k++) {
        const char *name = attack_names[k];
        fprintf(out, ",%s_uniform,%s_mean,%s_std,%s_diff", name, name, name, name);
        if (p->published)
            fprintf(out, ",%s_published_uniform,%s_published_mean,%s_published_std", name, name, name);
    }
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
            csv_numbers((double[]){c.uniform, c.mean, c.std, c.diff}, 4, out);
            c = published(p, r, k);
            if (p->published)
                csv_numbers((double[]){c.uniform, c.mean, c.std}, 3, out);
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
    for (int k = 0; k < columns && p->published; k++) {
        struct shown c = published(p, r, k);
        put_number(number, c.uniform, false);
        put_cell(out, false, number, NULL);
        put_number(number, c.mean, false);
        put_number(deviation, c.std, false);
        fprintf(out, " / %s", strcmp(number, "-") ? number : "--");
        if (strcmp(deviation, "-"))
            fprintf(out, "{\\,$\\pm$\\,%s}", deviation);
    }
    fputs(" \\\\\n", out);
}

static void write_latex(const hr_paper *p, FILE *out)
{
    static const char *const names[] = {"uniform", "searched", "difference", "published"};
    int columns = columns_of(p), groups = p->published ? 4 : 3;
    fprintf(out, "\\begin{tabular}{llr*{%d}{r}}\n\\toprule\n & & ", groups * columns);
    for (int g = 0; g < groups; g++)
        fprintf(out, " & \\multicolumn{%d}{c}{%s}", columns, names[g]);
    fputs(" \\\\\n", out);
    for (int g = 0; g < groups; g++)
        fprintf(out, "\\cmidrule(lr){%d-%d}", 4 + g * columns, 3 + (g + 1) * columns);
    fputs("\nnetwork & method & rate", out);
    for (int k = 0; k < groups * columns; k++) {
        fputs(" & ", out);
        put_latex(out, titles[k % columns]);
    }
    fputs(" \\\\\n", out);
    for (size_t i = 0; i < p->n; i++) {
        const struct row *r = &p->row[i];
        if (i == 0 || !same_block(r - 1, r->data, r->reg)) {
            fprintf(out, "\\midrule\n\\multicolumn{%d}{l}{", 3 + groups * columns);
            put_latex(out, r->data);
            fprintf(out, ", %s pruning%s} \\\\\n", r->reg, accuracy_of(r));
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
