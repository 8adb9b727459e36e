/* lib/report/plot_tex.c -- a plot as a standalone pgfplots document: the published figure's measures and
 * colours, with the numbers inside, so that the file compiles wherever it lies. One measure differs: the
 * published -4ex of the y label undid pgfplots' old, fixed label distance; since compat=1.3 labels stand near
 * their ticks, where that shift would put this one onto the axis. */
#include "report/plot.h"

#include <string.h>

/* Text of a file, such as a layer's name, made harmless for TeX. */
static void put_text(const char *s, FILE *out)
{
    for (; *s; s++) {
        if (strchr("&%$#_{}", *s))
            fprintf(out, "\\%c", *s);
        else if (strchr("\\^~,=[]", *s) || (unsigned char)*s < ' ')
            fputc('-', out);
        else
            fputc(*s, out);
    }
}

static void put_series(const hr_plot *p, int k, FILE *out)
{
    const hr_series *s = &p->series[k];
    fprintf(out,
            "    \\addplot+[series%c, mark=%s, mark options={solid, scale=0.5}, %s, thick,\n"
            "        error bars/.cd, y dir=both, y explicit,\n"
            "        error bar style={solid, line width=0.5pt, bars%c},\n"
            "        error mark options={rotate=90, mark size=2pt, bars%c}]\n"
            "    coordinates {\n",
            'a' + k % 26, hr_plot_look(p, k).tikz_mark, hr_plot_look(p, k).tikz_dash, 'a' + k % 26,
            'a' + k % 26);
    for (int i = 0; i < p->n; i++)
        fprintf(out, "        (%d, %.3f) += (0, %.3f) -= (0, %.3f)\n", i + 1, s->median[i], s->high[i],
                s->low[i]);
    fputs("    };\n", out);
}

void hr_plot_tex(const hr_plot *p, bool legend, FILE *out)
{
    fputs("\\documentclass{standalone}\n\\usepackage{pgfplots}\n\\pgfplotsset{compat=1.9}\n", out);
    for (int k = 0; k < p->nseries && k < 26; k++)
        fprintf(out, "\\definecolor{series%c}{HTML}{%s}\n\\definecolor{bars%c}{HTML}{%s}\n", 'a' + k,
                hr_plot_look(p, k).colour, 'a' + k, hr_plot_look(p, k).pale);
    fprintf(out,
            "\\begin{document}\n"
            "\\begin{tikzpicture}\n"
            "\\begin{axis}[\n"
            "    width=0.9\\columnwidth, height=0.2\\columnwidth, scale only axis,\n"
            "    xmin=1, xmax=%d, ymin=0, ymax=1, enlarge x limits=%s, enlarge y limits=0.1,\n"
            "    ytick={0,0.2,0.4,0.6,0.8,1.0}, ylabel={Compression Rate},\n"
            "    grid=major, grid style={dashed, gray!30},\n"
            "    tick label style={font=\\fontsize{4pt}{4pt}\\selectfont, rotate=90},\n"
            "    yticklabel style={yshift=-0.3ex},\n"
            "    label style={font=\\fontsize{7pt}{7pt}\\selectfont}, ylabel style={yshift=-0.5ex},\n"
            "    xlabel style={yshift=-2ex},\n"
            "    legend pos=outer north east, legend cell align=left, reverse legend,\n"
            "    legend style={font=\\fontsize{5pt}{6pt}\\selectfont},\n",
            p->n, p->n > 24 ? "0.02" : "0.05");
    fputs("    xtick={", out);
    for (int i = 0; i < p->n; i++)
        fprintf(out, "%s%d", i ? "," : "", i + 1);
    fputs("},\n    xticklabels={", out);
    for (int i = 0; i < p->n; i++) {
        fputs(i ? "," : "", out);
        put_text(p->labels[i], out);
    }
    fputs("}]\n", out);
    for (int k = p->nseries - 1; k >= 0; k--) { /* the first of the legend lies on top */
        put_series(p, k, out);
        if (legend && p->nseries > 1) {
            fputs("    \\addlegendentry{", out);
            put_text(p->series[k].name, out);
            fputs("}\n", out);
        }
    }
    fputs("\\end{axis}\n\\end{tikzpicture}\n\\end{document}\n", out);
}
