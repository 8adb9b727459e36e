/* lib/report/report.h -- evaluation records, and the tables made from them.
 *
 * A record is what adveval measured of one network on one data set: who the network is, how it was pruned and
 * what is left of it, and one result per attack. Records travel as JSON lines, so that `cat a.json b.json` is
 * a valid input. Nothing here trusts them: a record whose numbers cannot be true is refused, one whose
 * numbers are suspicious (an attack that *raises* the accuracy) is kept and warned about, because a table
 * must not hide what was measured.
 *
 * A table is plain text cells with a head, built once and rendered three ways. Rows are networks, dense ones
 * first, otherwise in the order given. The best value of an attack column is marked among the pruned networks
 * only: the dense network is the reference, not a competitor. */
#ifndef HR_REPORT_H
#define HR_REPORT_H

#include "base/base.h"

/* ---- records ----------------------------------------------------------------------------------------- */

/* One attack on one network. Accuracies are percent. eps and step are in pixel units ([0,1]). */
typedef struct hr_result {
    char *name; /* "clean", "fgsm", "pgd20", "cw", ... */
    bool l2;    /* the norm of eps; else l-inf */
    double eps, step;
    int64_t steps,
        restarts; /* eps, step, steps and restarts are 0 for clean; step where an attack has none */
    int64_t targets, queries; /* of the parts of AutoAttack that have them; else 0 */
    int64_t images, correct;  /* 0 where a legacy log does not tell */
    double accuracy;          /* 100 * correct / images */
    double balanced;          /* mean over the classes present of the per-class accuracy */
} hr_result;

typedef struct hr_record {
    char *where; /* "FILE" or "FILE: line L", for messages */
    char *label, *arch, *digest;
    int64_t params;
    bool pruned; /* false: dense, and reg to macs are unused */
    char *reg, *strategy;
    double rate, density;       /* keep rate asked for; fraction of prunable weights left */
    double inout, masked, macs; /* budgets as fractions of the dense network */
    char *data, *data_digest;
    int64_t data_images;
    hr_result *results;
    size_t nresults;
    char *method;    /* "hydra" or "radmm" where a legacy log tells; NULL: the history does */
    json_t *history; /* borrowed from nobody: a reference of its own, or NULL */
} hr_record;

typedef struct hr_records {
    hr_record *r;
    size_t n;
} hr_records;

/* Called with one complete sentence for each suspicious number. */
typedef void hr_warning(const char *sentence, void *user);

/* Append the records of a file ("-": standard input) to rs, which starts as {0}. warn may be NULL.
 * Refused with HR_EFORMAT, naming file, line and field: no JSON, not an evaluation record of version 1, a
 * missing or mistyped field, a number outside its range, correct > images, an accuracy that is not correct /
 * images, two results of the same name. HR_EIO when the file cannot be read. On error rs holds what it held.
 * Warned about: an attack that raises the accuracy by more than chance; many steps that do less than one
 * (both signs of masked gradients, Athalye et al. 2018, arXiv:1802.00420, section 3.1); a density that is not
 * the masked budget. */
HR_MUST_CHECK int hr_records_read(hr_records *rs, const char *path, hr_warning *warn, void *user,
                                  hr_err *err);
/* Warn where rows of one table cannot be compared: the images of a data set differ, or the settings or the
 * number of images of an attack on it do. Each record is held against the first one that has the attack. */
void hr_records_compare(const hr_records *rs, hr_warning *warn, void *user);
void hr_records_release(hr_records *rs);

/* Append what HERACLES's evaluation logs say: path is a log of HYDRA's or R-ADMM's evaluators, or a directory
 * that is searched for *.log, as gen_summary.sh did (legacy.c). One record per log that holds accuracies; of
 * accuracies and balanced ones a log has only one, the other is NAN, as are density and budgets; params,
 * images and correct are 0. Warned about: a log that does not say which network it is of, an attack measured
 * twice (the last one counts). HR_EIO; HR_EFORMAT: no accuracies at all, or a number that is none. */
HR_MUST_CHECK int hr_legacy_read(hr_records *rs, const char *path, hr_warning *warn, void *user, hr_err *err);

enum hr_kind { HR_KIND_UNIFORM, HR_KIND_SEARCHED, HR_KIND_OTHER };
/* What the paper's tables count a strategy as: ours are called uniform:K and search-N, those published
 * 010_uni and 010_0; erk, erk:K, random-N, 010_lamp and 05_0_all are neither. */
enum hr_kind hr_kind_of(const char *strategy);

/* Print a history (base.h) as an indented tree, newest first: role and digest, tool, version, options. */
void hr_history_print(const json_t *history, FILE *out);
/* Print every history found in a file of ours that holds JSON: records, strategies, layer tables. origins:
 * what is known of data (hr_origins_add), or NULL. Returns 0, HR_EIO, or HR_EFORMAT (not JSON, no history in
 * it). */
HR_MUST_CHECK int hr_history_show(const char *path, const json_t *origins, FILE *out, hr_err *err);
/* Learn from a manifest.json where data came from, so that histories go on from a data set's digest to the
 * archives: origins, an object, receives {digest: {"name", "history"}} for every split. HR_EIO, HR_EFORMAT.
 */
HR_MUST_CHECK int hr_origins_add(json_t *origins, const char *manifest, hr_err *err);
/* Print the numbers and histories of the records that a cell is made of. words, separated by commas, must all
 * name the record or its attack: data set, architecture, "dense", "weight", "channel", method, rate, label,
 * strategy, "uniform", "searched", "pgd20", ... HR_EINVAL: there is none. */
HR_MUST_CHECK int hr_history_cell(const hr_records *rs, const char *words, const json_t *origins, FILE *out,
                                  hr_err *err);
/* The method that a history shows, by the stage in it: prune is "hydra", admm "radmm"; else "". */
const char *hr_history_method(const json_t *history);

/* Read a file of JSON values, one behind the other, at most 64 MiB: calls each(value, where, user, err) for
 * every one; where names file and line, value is borrowed. Stops at the first error that each returns. */
typedef int hr_json_each(const json_t *value, const char *where, void *user, hr_err *err);
HR_MUST_CHECK int hr_json_lines(const char *path, hr_json_each *each, void *user, hr_err *err);

/* Call found with one line for everything in the records that cannot be right or proves too little (lint.c
 * lists the rules, which begin the lines). claim: how many searched strategies each network, method and rate
 * is said to have; 0: nothing is claimed. Returns how many lines there were. */
int hr_lint(const hr_records *rs, int claim, hr_warning *found, void *user);
/* The same where the network in the file path (.nn) is none of those that the records measured. Returns 0, or
 * what hr_nn_load returns. */
HR_MUST_CHECK int hr_lint_checkpoint(const hr_records *rs, const char *path, hr_warning *found, void *user,
                                     hr_err *err);

/* Check the digests of everything below some directories (verify.c): calls found with one line for each that
 * is not what it should be. Returns 0 also when something was found; HR_EIO. */
typedef struct hr_verified {
    int products, splits, digests,
        findings; /* looked at: files with a history, parts of data sets, digests */
} hr_verified;
HR_MUST_CHECK int hr_verify(char **dirs, int n, hr_warning *found, void *user, hr_verified *count,
                            hr_err *err);

/* ---- tables ------------------------------------------------------------------------------------------ */

/* published, for hr_paper_add_records: balanced for SVHN, standard for the others */
enum hr_accuracy { HR_ACC_STANDARD, HR_ACC_BALANCED, HR_ACC_BOTH, HR_ACC_PUBLISHED };
extern const char *const hr_accuracy_names[5]; /* "standard", "balanced", "both", "published", NULL */
enum hr_table_format { HR_TABLE_TEXT, HR_TABLE_CSV, HR_TABLE_LATEX };
extern const char *const hr_table_format_names[4]; /* "text", "csv", "latex", NULL */

/* Write the table of rs to out. Text: aligned columns for a terminal, notes below. CSV (RFC 4180): the same
 * facts unrounded, every column always there, for programs. LaTeX: a tabular for booktabs, to be \input. */
void hr_table_write(const hr_records *rs, enum hr_accuracy acc, enum hr_table_format format, FILE *out);

/* ---- the paper's tables (paper.c) -----------------------------------------------------------------------
 */

typedef struct hr_paper hr_paper; /* rows of uniform against searched strategies */
/* margin, in points: which numbers are bold (paper.c). Release it with hr_paper_free; NULL is allowed. */
hr_paper *hr_paper_new(double margin);
void hr_paper_free(hr_paper *p);
/* Add the pruned networks among rs: one run of a row each. Those whose strategy is neither uniform nor
 * searched are left out, with a warning. HR_EFORMAT: a network is there twice, too many strategies in a row.
 */
HR_MUST_CHECK int hr_paper_add_records(hr_paper *p, const hr_records *rs, enum hr_accuracy acc,
                                       hr_warning *warn, void *user, hr_err *err);
/* Show beside each row of p what `published` (moved) has in the row of that name. */
void hr_paper_publish(hr_paper *p, hr_paper *published);
/* Add the rows of a published raw sheet, a CSV file or a spreadsheet (.xls, .xlsx, which ssconvert reads),
 * whose name tells the data set and, unless it has a column preg, the kind of pruning. Warns of means and
 * deviations that are not those of the runs, of collapsed networks, and of PGD-20 doing less than FGSM or
 * PGD-10. HR_EIO, HR_EINVAL (the name), HR_EFORMAT (a cell that is no accuracy, a missing column). */
HR_MUST_CHECK int hr_paper_add_sheet(hr_paper *p, const char *path, hr_warning *warn, void *user,
                                     hr_err *err);
/* The same with every sheet of a directory; of a sheet that is there twice the CSV is taken. */
HR_MUST_CHECK int hr_paper_add_sheets(hr_paper *p, const char *dir, hr_warning *warn, void *user,
                                      hr_err *err);
/* Text for a terminal, CSV (RFC 4180) with unrounded numbers, or a tabular for booktabs. */
void hr_paper_write(const hr_paper *p, enum hr_table_format format, FILE *out);

/* Write a CSV text of ours to out as a spreadsheet (xlsx.c). The same text gives the same bytes. Returns 0 or
 * HR_EIO (no room for the temporary file that this takes). */
HR_MUST_CHECK int hr_xlsx_write(const char *csv, hr_out *out, hr_err *err);

/* Columns that s takes on a terminal: UTF-8, wide characters count two, combining ones none. */
int hr_text_width(const char *s);

#endif
