/* lib/report/plot.h -- strategies as figures: one keep-rate per layer, several strategies laid over each
 * other.
 *
 * A series is a set of strategies of one kind at one rate: five searches, or the uniform baseline. Per layer
 * it has the median of its members and how far they reach below and above it (ALG 7.2), each rounded to three
 * decimals. Weight and channel strategies share one axis, the layers in strategy order: a tied shortcut
 * shows its block's first convolution again, since that is the rate it gets.
 *
 * What an ID says decides the kind: "05_0" to "05_4" and "search-0" are searched, "05_uni", "uniform" and
 * "uniform:0.5" uniform, and likewise erk, lamp, global, uniform+; any other ID is a kind of its own. */
#ifndef HR_PLOT_H
#define HR_PLOT_H

#include "base/base.h"
#include "model/model.h"

typedef struct hr_series {
    char *kind, *name; /* "search"; for the legend: "searched (median of 5)" */
    enum hr_reg reg;
    double rate;                 /* what the IDs claim; 0: nothing */
    int members;                 /* strategies */
    double *median, *low, *high; /* per layer; low and high are distances from the median, >= 0 */
} hr_series;

typedef struct hr_plot {
    char *arch;
    int n; /* layers */
    char **labels;
    hr_series *series; /* in legend order: weight before channel, searched first */
    int nseries;
} hr_plot;

/* What to take from the files. All strings are borrowed; NULL takes everything. */
typedef struct hr_plot_opts {
    const char *arch;   /* needed when the files hold several */
    const char *reg;    /* "weight", "channel" or both with a comma */
    const char *rate;   /* "0.1", or one per word of reg: "0.5,0.1"; IDs that claim no rate always pass */
    const char *series; /* kinds, with commas: "search,erk" */
    bool first_too;     /* also the published "_all" IDs, whose first layer was searched, too */
    const char *layers; /* a layer table (nninfo --format json); else the zoo's, when it knows arch */
} hr_plot_opts;

/* Whether the options can be met at all: 0, or HR_EINVAL. */
HR_MUST_CHECK int hr_plot_check_opts(const hr_plot_opts *o, hr_err *err);
/* Collect the series of n strategy files. Returns 0, HR_EIO, HR_EFORMAT (a file, naming the entry), HR_EINVAL
 * (options; nothing left to draw). *p is released on failure. */
HR_MUST_CHECK int hr_plot_load(hr_plot *p, const char *const *files, size_t n, const hr_plot_opts *o,
                               hr_err *err);
void hr_plot_release(hr_plot *p);

/* Tab-separated, head "layer median low high", layers numbered from 1; with several series a fifth column
 * `series` names them. */
void hr_plot_csv(const hr_plot *p, FILE *out);
/* A standalone pgfplots document with its data inside (ALG 7.3). */
void hr_plot_tex(const hr_plot *p, bool legend, FILE *out);
void hr_plot_svg(const hr_plot *p, bool legend, FILE *out);
/* s (UTF-8) as character data of an SVG: escaped, control characters as spaces. */
void hr_svg_text(const char *s, FILE *out);

/* How series i is drawn: the published colours for what was searched, one look per kind of baseline. */
typedef struct hr_look {
    const char *colour, *pale; /* six hexadecimal digits: line, error bars */
    const char *dash;          /* SVG's stroke-dasharray, "" is solid */
    const char *tikz_dash, *tikz_mark;
    char mark; /* 's'quare, 'o', 't'riangle, 'd'iamond, 'x' */
} hr_look;
hr_look hr_plot_look(const hr_plot *p, int i);

#endif
