/* lib/report/table.c -- one table of evaluation records, rendered three ways.
 *
 * The columns are decided first: those that tell the rows apart (data set, architecture, kind of pruning only
 * where they differ), what is left of the network, then one or two per attack. A renderer asks for one cell
 * at a time. CSV is for programs: all columns, always, values as they stand in the records. */
#include "report/report.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

const char *const hr_accuracy_names[5] = {"standard", "balanced", "both", "published", NULL};
const char *const hr_table_format_names[4] = {"text", "csv", "latex", NULL};

enum what {
    DATA,
    ARCH,
    LABEL,
    DIGEST,
    PARAMS,
    REG,
    STRATEGY,
    RATE,
    DENSITY,
    INOUT,
    MASKED,
    MACS,
    STANDARD,
    BALANCED,
    IMAGES
};
static const char *const csv_names[] = {"data",    "arch",         "network",       "digest",
                                        "params",  "reg",          "strategy",      "rate",
                                        "density", "budget_inout", "budget_masked", "budget_macs"};

struct column {
    enum what what;
    const char *attack; /* STANDARD, BALANCED, IMAGES */
};
struct table {
    const hr_record **row;
    size_t nrows;
    struct column *col;
    size_t ncols;
};

/* ---- what the columns are --------------------------------------------------------------------------------
 */

static void add_column(struct table *t, enum what what, const char *attack)
{
    t->col = hr_xrealloc(t->col, (t->ncols + 1) * sizeof *t->col);
    t->col[t->ncols++] = (struct column){what, attack};
}

static const hr_result *result_of(const hr_record *r, const char *attack)
{
    for (size_t i = 0; i < r->nresults; i++)
        if (strcmp(r->results[i].name, attack) == 0)
            return &r->results[i];
    return NULL;
}

static const char *fact(const hr_record *r, enum what what)
{
    switch (what) {
    case DATA:
        return r->data;
    case ARCH:
        return r->arch;
    case LABEL:
        return r->label;
    case DIGEST:
        return r->digest;
    case REG:
        return r->pruned ? r->reg : "";
    case STRATEGY:
        return r->pruned ? r->strategy : "";
    default:
        return NULL;
    }
}

/* Whether the rows differ in a fact; what dense networks do not have does not count. */
static bool differs(const hr_records *rs, enum what what)
{
    const char *first = NULL;
    for (size_t i = 0; i < rs->n; i++) {
        const char *f = fact(&rs->r[i], what);
        if (*f && first && strcmp(f, first) != 0)
            return true;
        if (*f && !first)
            first = f;
    }
    return false;
}

/* clean, fgsm, pgd by steps, cw, then the others as they come, AutoAttack last. */
static double attack_order(const hr_result *a)
{
    if (strcmp(a->name, "clean") == 0)
        return 0.0;
    if (strcmp(a->name, "fgsm") == 0)
        return 1.0;
    if (strncmp(a->name, "pgd", 3) == 0)
        return 3.0 - 1.0 / ((double)a->steps + 1.0);
    return strcmp(a->name, "cw") == 0 ? 4.0 : strcmp(a->name, "aa") == 0 ? 6.0 : 5.0;
}

/* The names of all attacks in all records, in order; *n of them. Caller frees the list, not the names. */
static const hr_result **all_attacks(const hr_records *rs, size_t *n)
{
    const hr_result **list = NULL;
    *n = 0;
    for (size_t i = 0; i < rs->n; i++)
        for (size_t k = 0; k < rs->r[i].nresults; k++) {
            const hr_result *a = &rs->r[i].results[k];
            size_t at = 0;
            while (at < *n && strcmp(list[at]->name, a->name) != 0)
                at++;
            if (at < *n)
                continue;
            list = hr_xrealloc(list, (*n + 1) * sizeof(const hr_result *));
            for (at = (*n)++; at > 0 && attack_order(list[at - 1]) > attack_order(a); at--)
                list[at] = list[at - 1];
            list[at] = a;
        }
    return list;
}

static struct table make_table(const hr_records *rs, enum hr_accuracy acc, bool everything)
{
    struct table t = {.row = hr_xcalloc(rs->n + 1, sizeof(const hr_record *))};
    for (int pruned = 0; pruned < 2; pruned++)
        for (size_t i = 0; i < rs->n; i++)
            if (rs->r[i].pruned == pruned)
                t.row[t.nrows++] = &rs->r[i];

    if (everything) {
        for (enum what w = DATA; w <= MACS; w++)
            add_column(&t, w, NULL);
    } else {
        if (differs(rs, DATA))
            add_column(&t, DATA, NULL);
        if (differs(rs, ARCH))
            add_column(&t, ARCH, NULL);
        add_column(&t, LABEL, NULL);
        if (differs(rs, REG))
            add_column(&t, REG, NULL);
        add_column(&t, RATE, NULL);
        add_column(&t, DENSITY, NULL);
        add_column(&t, INOUT, NULL);
    }
    size_t n;
    const hr_result **attacks = all_attacks(rs, &n);
    for (size_t i = 0; i < n; i++) {
        if (acc != HR_ACC_BALANCED)
            add_column(&t, STANDARD, attacks[i]->name);
        if (acc != HR_ACC_STANDARD)
            add_column(&t, BALANCED, attacks[i]->name);
        if (everything)
            add_column(&t, IMAGES, attacks[i]->name);
    }
    free(attacks);
    return t;
}

static void table_release(struct table *t)
{
    free(t->row);
    free(t->col);
}

/* ---- cells -----------------------------------------------------------------------------------------------
 */

/* "fgsm" -> "FGSM", "pgd20" -> "PGD-20", "cw" -> "C&W". Caller frees. */
static char *attack_title(const char *name)
{
    static const char *const titles[][2] = {
        {"fgsm", "FGSM"},     {"cw", "C&W"},      {"aa", "AutoAttack"},     {"apgd-ce", "APGD-CE"},
        {"apgd-t", "APGD-T"}, {"fab-t", "FAB-T"}, {"apgd-dlr", "APGD-DLR"}, {"square", "Square"}};
    for (size_t i = 0; i < HR_COUNT(titles); i++)
        if (strcmp(name, titles[i][0]) == 0)
            return hr_xstrdup(titles[i][1]);
    if (strncmp(name, "pgd", 3) == 0 && name[3] && !name[3 + strspn(name + 3, "0123456789")])
        return hr_xasprintf("PGD-%s", name + 3);
    return hr_xstrdup(name);
}

static char *column_title(const struct table *t, const struct column *c)
{
    bool both = false;
    if (c->attack)
        for (size_t i = 0; i < t->ncols; i++)
            both |= t->col[i].what == (c->what == BALANCED ? STANDARD : BALANCED);
    switch (c->what) {
    case STANDARD:
        return attack_title(c->attack);
    case BALANCED: {
        char *title = attack_title(c->attack), *s = hr_xasprintf("%s%s", title, both ? " bal." : "");
        free(title);
        return s;
    }
    case INOUT:
        return hr_xstrdup("budget");
    default:
        return hr_xstrdup(csv_names[c->what]);
    }
}

static bool numeric(const struct column *c)
{
    return c->what == PARAMS || c->what >= RATE;
}

/* The number in a cell, NAN where there is none. */
static double value(const hr_record *r, const struct column *c)
{
    const hr_result *a = c->attack ? result_of(r, c->attack) : NULL;
    if (c->attack && !a)
        return NAN;
    switch (c->what) {
    case PARAMS:
        return r->params ? (double)r->params : NAN;
    case RATE:
        return r->pruned ? r->rate : NAN;
    case DENSITY:
        return r->pruned ? r->density : 1.0;
    case INOUT:
        return r->pruned ? r->inout : 1.0;
    case MASKED:
        return r->pruned ? r->masked : 1.0;
    case MACS:
        return r->pruned ? r->macs : 1.0;
    case STANDARD:
        return a->accuracy;
    case BALANCED:
        return a->balanced;
    case IMAGES:
        return a->images ? (double)a->images : NAN;
    default:
        return NAN;
    }
}

/* A cell as people read it; control characters become '?'. Caller frees. */
static char *cell(const hr_record *r, const struct column *c)
{
    if (!numeric(c)) {
        char *s = hr_xstrdup(fact(r, c->what));
        for (char *p = s; *p; p++)
            if ((unsigned char)*p < ' ' || *p == 127)
                *p = '?';
        return s;
    }
    double v = value(r, c);
    if (isnan(v))
        return hr_xstrdup("");
    if (c->what == DENSITY || c->what == INOUT)
        return hr_xasprintf("%.4f", v);
    return c->attack ? hr_xasprintf("%.2f", v) : hr_xasprintf("%.10g", v);
}

/* The best value of an accuracy column among pruned networks of the same data set, where several compete. */
static bool is_best(const struct table *t, const hr_record *r, const struct column *c)
{
    double v = value(r, c);
    size_t rivals = 0;
    if ((c->what != STANDARD && c->what != BALANCED) || !r->pruned || isnan(v))
        return false;
    for (size_t i = 0; i < t->nrows; i++) {
        const hr_record *o = t->row[i];
        if (o == r || !o->pruned || strcmp(o->data, r->data) != 0 || isnan(value(o, c)))
            continue;
        if (value(o, c) > v)
            return false;
        rivals++;
    }
    return rivals > 0;
}

/* ---- text ------------------------------------------------------------------------------------------------
 */

int hr_text_width(const char *s)
{
    int width = 0;
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t before = utf8 ? uselocale(utf8) : (locale_t)0;
    mbstate_t state = {0};
    wchar_t wc;
    for (const char *end = s + strlen(s); s < end;) {
        size_t n = utf8 ? mbrtowc(&wc, s, (size_t)(end - s), &state) : (size_t)-1;
        if (n == 0 || n > (size_t)(end - s)) { /* no UTF-8: a byte is a column */
            state = (mbstate_t){0};
            width++;
            s++;
            continue;
        }
        int w = wcwidth(wc);
        width += w >= 0 ? w : 1;
        s += n;
    }
    if (utf8) {
        uselocale(before);
        freelocale(utf8);
    }
    return width;
}

/* Whether every record that has this attack has the same number of images under it. */
static bool same_images(const hr_records *rs, const hr_result *a)
{
    for (size_t i = 0; i < rs->n; i++) {
        const hr_result *b = result_of(&rs->r[i], a->name);
        if (b && b->images != a->images)
            return false;
    }
    return true;
}

static void write_notes(const hr_records *rs, const char *start, FILE *out)
{
    size_t n;
    const hr_result **attacks = all_attacks(rs, &n);
    int64_t fewest = INT64_MAX;
    for (size_t i = 0; i < n; i++) {
        const hr_result *a = attacks[i];
        char *title = attack_title(a->name);
        fprintf(out, "%s%s: ", start, title);
        if (same_images(rs, a) && a->images)
            fprintf(out, "%lld images", (long long)a->images);
        else if (same_images(rs, a))
            fputs("an unknown number of images", out);
        else
            fputs("different numbers of images", out);
        if (a->steps > 0)
            fprintf(out, ", %seps %.4g", a->l2 ? "l2, " : "", a->eps);
        if (a->steps > 0 && a->step > 0.0)
            fprintf(out, ", step %.4g x %lld", a->step, (long long)a->steps);
        else if (a->steps > 0)
            fprintf(out, ", %lld steps", (long long)a->steps);
        if (a->restarts > 1)
            fprintf(out, ", %lld restarts", (long long)a->restarts);
        if (a->targets)
            fprintf(out, ", %lld targets", (long long)a->targets);
        if (a->queries && a->queries != a->steps)
            fprintf(out, ", %lld queries", (long long)a->queries);
        putc('\n', out);
        free(title);
    }
    free(attacks);
    for (size_t i = 0; i < rs->n; i++)
        for (size_t k = 0; k < rs->r[i].nresults; k++)
            if (rs->r[i].results[k].images && rs->r[i].results[k].images < fewest)
                fewest = rs->r[i].results[k].images;
    if (fewest == INT64_MAX)
        return;
    /* Normal approximation at 50 %, where it is widest: 1.96 * sqrt(1/4 / n), in points. */
    fprintf(out, "%sa sample of %lld images has a 95 %% margin of up to %.1f points\n", start,
            (long long)fewest, 98.0 / sqrt((double)fewest));
}

static const char *accuracy_words(enum hr_accuracy acc)
{
    return acc == HR_ACC_STANDARD   ? "accuracy in percent"
           : acc == HR_ACC_BALANCED ? "balanced accuracy in percent (mean over classes)"
                                    : "accuracy in percent, balanced (bal.) is the mean over classes";
}

static void write_text(const hr_records *rs, enum hr_accuracy acc, FILE *out)
{
    struct table t = make_table(rs, acc, false);
    const hr_record *first = t.row[0], *last = t.row[t.nrows - 1];
    int *width = hr_xcalloc(t.ncols, sizeof *width);
    bool marked = false;

    if (!differs(rs, DATA))
        fprintf(out, "%s, ", first->data);
    if (!differs(rs, ARCH))
        fprintf(out, "%s, ", first->arch);
    if (last->pruned && !differs(rs, REG))
        fprintf(out, "%s pruning: ", last->reg);
    fprintf(out, "%s\n\n", accuracy_words(acc));

    for (size_t c = 0; c < t.ncols; c++) {
        char *title = column_title(&t, &t.col[c]);
        width[c] = hr_text_width(title);
        free(title);
        for (size_t r = 0; r < t.nrows; r++) {
            char *s = cell(t.row[r], &t.col[c]);
            int w = hr_text_width(s);
            width[c] = w > width[c] ? w : width[c];
            marked |= is_best(&t, t.row[r], &t.col[c]);
            free(s);
        }
    }
    for (size_t r = 0; r <= t.nrows; r++) { /* row 0 is the head */
        hr_buf line = {0};
        for (size_t c = 0; c < t.ncols; c++) {
            const struct column *col = &t.col[c];
            char *s = r ? cell(t.row[r - 1], col) : column_title(&t, col);
            int gap = width[c] - hr_text_width(s);
            hr_buf_printf(&line, "%s%*s%s%*s%s", c ? "  " : "", numeric(col) ? gap : 0, "", s,
                          numeric(col) ? 0 : gap, "",
                          !col->attack                          ? ""
                          : r && is_best(&t, t.row[r - 1], col) ? "*"
                                                                : " ");
            free(s);
        }
        while (line.len && line.data[line.len - 1] == ' ')
            line.data[--line.len] = '\0';
        fprintf(out, "%s\n", line.data);
        hr_buf_release(&line);
    }
    fputs("\n", out);
    if (marked)
        fputs("  * best of the pruned networks in this column\n", out);
    write_notes(rs, "  ", out);
    free(width);
    table_release(&t);
}

/* ---- CSV -------------------------------------------------------------------------------------------------
 */

static void csv_text(const char *s, FILE *out)
{
    if (!s[strcspn(s, ",\"\r\n")]) {
        fputs(s, out);
        return;
    }
    putc('"', out);
    for (; *s; s++) {
        if (*s == '"')
            putc('"', out);
        putc(*s, out);
    }
    putc('"', out);
}

static void csv_head(const struct column *c, FILE *out)
{
    if (!c->attack) {
        fputs(csv_names[c->what], out);
        return;
    }
    char *s = hr_xasprintf("%s%s", c->attack,
                           c->what == BALANCED ? "_balanced"
                           : c->what == IMAGES ? "_images"
                                               : "");
    csv_text(s, out);
    free(s);
}

static void write_csv(const hr_records *rs, enum hr_accuracy acc, FILE *out)
{
    struct table t = make_table(rs, acc, true);
    for (size_t c = 0; c < t.ncols; c++) {
        fputs(c ? "," : "", out);
        csv_head(&t.col[c], out);
    }
    putc('\n', out);
    for (size_t r = 0; r < t.nrows; r++) {
        for (size_t c = 0; c < t.ncols; c++) {
            fputs(c ? "," : "", out);
            if (!numeric(&t.col[c]))
                csv_text(fact(t.row[r], t.col[c].what), out);
            else if (!isnan(value(t.row[r], &t.col[c])))
                fprintf(out, "%.10g", value(t.row[r], &t.col[c]));
        }
        putc('\n', out);
    }
    table_release(&t);
}

/* ---- LaTeX -----------------------------------------------------------------------------------------------
 */

static void latex_text(const char *s, FILE *out)
{
    for (; *s; s++)
        switch (*s) {
        case '&':
        case '%':
        case '$':
        case '#':
        case '_':
        case '{':
        case '}':
            fprintf(out, "\\%c", *s);
            break;
        case '\\':
            fputs("\\textbackslash{}", out);
            break;
        case '~':
            fputs("\\textasciitilde{}", out);
            break;
        case '^':
            fputs("\\textasciicircum{}", out);
            break;
        default:
            putc(*s, out);
        }
}

static void write_latex(const hr_records *rs, enum hr_accuracy acc, FILE *out)
{
    struct table t = make_table(rs, acc, false);
    fprintf(out, "%% %s; bold: best of the pruned networks. Needs \\usepackage{booktabs}.\n",
            accuracy_words(acc));
    write_notes(rs, "% ", out);
    fputs("\\begin{tabular}{", out);
    for (size_t c = 0; c < t.ncols; c++)
        putc(numeric(&t.col[c]) ? 'r' : 'l', out);
    fputs("}\n\\toprule\n", out);
    for (size_t r = 0; r <= t.nrows; r++) { /* row 0 is the head */
        if (r == 1 || (r > 1 && t.row[r - 1]->pruned && !t.row[r - 2]->pruned))
            fputs("\\midrule\n", out);
        for (size_t c = 0; c < t.ncols; c++) {
            char *s = r ? cell(t.row[r - 1], &t.col[c]) : column_title(&t, &t.col[c]);
            bool best = r && is_best(&t, t.row[r - 1], &t.col[c]);
            fputs(c ? " & " : "", out);
            fputs(best ? "\\textbf{" : "", out);
            latex_text(s, out);
            fputs(best ? "}" : "", out);
            free(s);
        }
        fputs(" \\\\\n", out);
    }
    fputs("\\bottomrule\n\\end{tabular}\n", out);
    table_release(&t);
}

void hr_table_write(const hr_records *rs, enum hr_accuracy acc, enum hr_table_format format, FILE *out)
{
    if (rs->n == 0)
        BUG("a table of no records");
    switch (format) {
    case HR_TABLE_TEXT:
        write_text(rs, acc, out);
        return;
    case HR_TABLE_CSV:
        write_csv(rs, acc, out);
        return;
    case HR_TABLE_LATEX:
        write_latex(rs, acc, out);
        return;
    }
}
