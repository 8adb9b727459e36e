/* lib/report/paper.h -- what the paper's tables (paper.c) and those who fill them (sheet.c) share. */
#ifndef HR_REPORT_PAPER_H
#define HR_REPORT_PAPER_H

#include "report/report.h"

enum { HR_MAX_RUNS = 64 }; /* of one row */
enum { NATURAL, FGSM, PGD10, PGD20, CW, AA, ATTACKS };

/* Accuracies of one strategy; NAN: not measured. */
struct run {
    double value[ATTACKS];
};
struct row {
    char *data, *reg, *arch, *method;
    double rate;
    bool balanced; /* accuracies are means over classes */
    struct run uniform[HR_MAX_RUNS], searched[HR_MAX_RUNS];
    int nuniform, nsearched;
};
struct hr_paper {
    struct row *row;
    size_t n;
    double margin;
    bool has_aa;
    struct hr_paper *published; /* NULL: not wanted */
};

/* The row of that name; a new one goes behind the last of its data set and kind of pruning. */
struct row *hr_paper_row(hr_paper *p, const char *data, const char *reg, const char *arch, const char *method,
                         double rate);
/* HR_EFORMAT: the row is full. */
int hr_paper_add_run(hr_paper *p, const char *where, struct row *r, bool uniform, const struct run *run,
                     hr_err *err);
/* Mean and sample standard deviation over n runs, each of which must have been measured; NAN otherwise. */
double hr_paper_mean(const struct run *run, int n, int attack);
double hr_paper_deviation(const struct run *run, int n, int attack);

#endif
