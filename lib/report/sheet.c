/* lib/report/sheet.c -- the published raw sheets, as CSV or as the spreadsheets that they are.
 *
 * A sheet has a row per network, method and rate, and a column per strategy and attack: unioa, unifgsm,
 * unipgdone, unipgdtwo, unicw of the uniform one, R1-oa to R5-cw of the searched ones; the ImageNet sheet has
 * one of these, in oa to cw, and the kind of pruning in preg. The other columns are what the sheet made of
 * them, for LaTeX: means (with \B, bold, before them), deviations (oavar to cwvar), differences. They are
 * computed again here, and where the sheet has something else that is said. The row conf:margin is no
 * network. */
#include "report/paper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SHEET_BYTES = 1 << 20, FIELDS = 256 };

struct sheet {
    const char *name;
    char *head[FIELDS], *cell[FIELDS];
    int columns, cells, line, rows;
    hr_warning *warn;
    void *user;
};

/* Cut a line of CSV (RFC 4180, no line breaks in fields) at its commas, in place. Returns the number of
 * fields, or -1: too many, or a quote that is not closed. */
static int split(char *line, char **field)
{
    int n = 0;
    for (char *at = line; at; n++) {
        char *to = at, *end = at;
        if (n == FIELDS)
            return -1;
        field[n] = at;
        if (*at == '"') {
            for (end = at + 1; *end && (*end != '"' || end[1] == '"'); end++) {
                *to++ = *end;
                end += *end == '"'; /* two are one */
            }
            if (*end++ != '"' || (*end && *end != ','))
                return -1;
        } else {
            to = end = at + strcspn(at, ",");
        }
        at = *end ? end + 1 : NULL;
        *to = '\0';
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
        double told, mean = hr_paper_mean(r->searched, r->nsearched, k),
                     std = hr_paper_deviation(r->searched, r->nsearched, k);
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
    struct row *r = hr_paper_row(p, data, reg, known(archs, HR_COUNT(archs), arch),
                                 known(methods, HR_COUNT(methods), method), rate);
    r->balanced = strcmp(data, "SVHN") == 0;
    if (r->nuniform + r->nsearched)
        return hr_fail(err, HR_EFORMAT, "%s: line %d: %s, %s, rate %g is there twice", s->name, s->line,
                       r->arch, r->method, r->rate);
    struct run run;
    bool found;
    rc = read_run(s, "uni", plain, &run, &found, err);
    if (!rc && found)
        rc = hr_paper_add_run(p, s->name, r, true, &run, err);
    for (int k = 1; k <= 5 && !rc; k++) {
        char prefix[8];
        snprintf(prefix, sizeof prefix, "R%d-", k);
        rc = read_run(s, prefix, numbered, &run, &found, err);
        if (!rc && found)
            rc = hr_paper_add_run(p, s->name, r, false, &run, err);
    }
    if (!rc && r->nsearched == 0) {
        rc = read_run(s, "", plain, &run, &found, err);
        if (!rc && found)
            rc = hr_paper_add_run(p, s->name, r, false, &run, err);
    }
    if (!rc && (!r->nuniform || !r->nsearched))
        rc = hr_fail(err, HR_EFORMAT, "%s: line %d: no numbers of a %s strategy", s->name, s->line,
                     r->nuniform ? "searched" : "uniform");
    return rc ? rc : doubt_row(s, r, err);
}

/* ---- spreadsheets ---------------------------------------------------------------------------------------
 */

static bool ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static bool is_spreadsheet(const char *name)
{
    return ends(name, ".xls") || ends(name, ".xlsx");
}

/* Everything that ssconvert prints, until its end. */
static int drain(int fd, hr_buf *text)
{
    char piece[4096];
    ssize_t n;
    while ((n = read(fd, piece, sizeof piece)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (text->len + (size_t)n > SHEET_BYTES)
            return EFBIG;
        hr_buf_add(text, piece, (size_t)n);
    }
    return 0;
}

/* The published sheets hold formulas whose results are not in the file: gnumeric's ssconvert computes them.
 */
static int convert(const char *path, hr_buf *text, hr_err *err)
{
    char *file = hr_xasprintf("%s%s", *path == '-' ? "./" : "", path);
    char *const command[] = {(char[]){"ssconvert"},
                             (char[]){"--recalc"},
                             (char[]){"-T"},
                             (char[]){"Gnumeric_stf:stf_csv"},
                             file,
                             (char[]){"fd://1"},
                             NULL};
    int out[2], status = 0, failed;
    pid_t pid;
    if (pipe2(out, O_CLOEXEC)) {
        free(file);
        return hr_fail(err, HR_EIO, "%s: no pipe to ssconvert: %s", path, strerror(errno));
    }
    posix_spawn_file_actions_t how;
    posix_spawn_file_actions_init(&how);
    posix_spawn_file_actions_addopen(&how, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&how, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&how, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    failed = posix_spawnp(&pid, command[0], &how, NULL, command, environ);
    posix_spawn_file_actions_destroy(&how);
    close(out[1]);
    int broken = failed ? 0 : drain(out[0], text);
    close(out[0]);
    while (!failed && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    free(file);
    if (failed)
        return hr_fail(
            err, HR_EIO,
            "%s: spreadsheets are read by gnumeric's ssconvert, which cannot be run (%s); elsewhere: "
            "ssconvert --recalc %s sheet.csv",
            path, strerror(failed), path);
    if (broken || status || !text->len)
        return hr_fail(err, HR_EFORMAT, "%s: ssconvert made no sheet of it%s%s", path, broken ? ": " : "",
                       broken ? strerror(broken) : "");
    return HR_OK;
}

static bool empty(const struct sheet *s)
{
    for (int i = 0; i < s->cells; i++)
        if (*s->cell[i])
            return false;
    return true;
}

int hr_paper_add_sheet(hr_paper *p, const char *path, hr_warning *warn, void *user, hr_err *err)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *data = strstr(base, "cifar10")    ? "CIFAR10"
                       : strstr(base, "svhn")     ? "SVHN"
                       : strstr(base, "imagenet") ? "ImageNet"
                                                  : NULL;
    const char *reg = strstr(base, "channel") ? "channel" : strstr(base, "weight") ? "weight" : NULL;
    bool spreadsheet = is_spreadsheet(path);
    if (!data)
        return hr_fail(err, HR_EINVAL, "%s: a sheet's name holds cifar10, svhn or imagenet", path);
    hr_in in;
    hr_buf text = {0};
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = spreadsheet ? convert(path, &text, err) : hr_in_slurp(&in, &text, SHEET_BYTES, err);
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
            rc = hr_fail(err, HR_EFORMAT, "%s: line %d: more than %d fields, or a quote is not closed",
                         in.name, s.line, FIELDS);
        else if (s.line == 1)
            s.columns = s.cells;
        else if (!empty(&s) && strncmp(s.cell[0], "conf:", 5) != 0) {
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

/* ---- a directory of sheets ------------------------------------------------------------------------------
 */

static int sheets_only(const struct dirent *d)
{
    return ends(d->d_name, ".csv") || is_spreadsheet(d->d_name);
}

int hr_paper_add_sheets(hr_paper *p, const char *dir, hr_warning *warn, void *user, hr_err *err)
{
    struct dirent **name;
    int n = scandir(dir, &name, sheets_only, alphasort), rc = HR_OK;
    if (n < 0)
        return hr_fail(err, HR_EIO, "%s: %s", dir, strerror(errno));
    for (int i = 0; i < n && !rc; i++) {
        char *path = hr_xasprintf("%s/%s", dir, name[i]->d_name);
        bool again = false; /* as CSV, too: that is taken */
        for (int k = 0; k < n && is_spreadsheet(path); k++) {
            size_t stem = (size_t)(strrchr(name[i]->d_name, '.') - name[i]->d_name) + 1;
            again |= ends(name[k]->d_name, ".csv") && strlen(name[k]->d_name) == stem + 3 &&
                     strncmp(name[k]->d_name, name[i]->d_name, stem) == 0;
        }
        if (!again)
            rc = hr_paper_add_sheet(p, path, warn, user, err);
        free(path);
    }
    for (int i = 0; i < n; i++)
        free(name[i]);
    free(name);
    if (!rc && !n)
        rc = hr_fail(err, HR_EINVAL, "%s: holds no sheet (.csv, .xls, .xlsx)", dir);
    return rc;
}
