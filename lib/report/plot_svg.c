/* lib/report/plot_svg.c -- a plot as SVG 1.1: plain shapes and text, no scripts, no fonts of our own, so that
 * browsers, office programs and rsvg-convert all show the same.
 *
 * Coordinates are SVG's: y grows downwards. The plot area starts at (LEFT, top) and is as wide as the layers
 * need; rates 0..1 span its height. Series stand side by side by a few pixels, so that error bars at the same
 * layer stay apart. */
#include "report/plot.h"

#include <math.h>
#include <string.h>

enum { LEFT = 64, RIGHT = 18, HEIGHT = 240, TOP = 14, LEGEND_ROW = 20, LEGEND_GAP = 28, FONT = 12 };

struct frame {
    double left, top, width, height, step; /* step: from layer to layer */
};

static double x_at(const struct frame *f, double layer)
{
    return f->left + (layer + 0.5) * f->step;
}

static double y_at(const struct frame *f, double rate)
{
    return f->top + (1.0 - rate) * f->height;
}

void hr_svg_text(const char *s, FILE *out)
{
    for (; *s; s++) {
        if (*s == '&')
            fputs("&amp;", out);
        else if (*s == '<')
            fputs("&lt;", out);
        else if (*s == '>')
            fputs("&gt;", out);
        else
            fputc((unsigned char)*s < ' ' ? ' ' : *s, out);
    }
}

static void put_mark(const hr_look *l, double x, double y, FILE *out)
{
    const char *c = l->colour;
    switch (l->mark) {
    case 's':
        fprintf(out, "<rect x='%.2f' y='%.2f' width='7' height='7' fill='#%s'/>\n", x - 3.5, y - 3.5, c);
        return;
    case 't':
        fprintf(out, "<path d='M%.2f %.2fl4.5 8h-9z' fill='#%s'/>\n", x, y - 5, c);
        return;
    case 'd':
        fprintf(out, "<path d='M%.2f %.2fl4.5 4.5l-4.5 4.5l-4.5 -4.5z' fill='#%s'/>\n", x, y - 4.5, c);
        return;
    case 'x':
        fprintf(out, "<path d='M%.2f %.2fl7 7m0 -7l-7 7' stroke='#%s' stroke-width='1.8' fill='none'/>\n",
                x - 3.5, y - 3.5, c);
        return;
    default:
        fprintf(out, "<circle cx='%.2f' cy='%.2f' r='3.4' fill='#fff' stroke='#%s' stroke-width='1.5'/>\n", x,
                y, c);
    }
}

static void put_line_style(const hr_look *l, FILE *out)
{
    fprintf(out, " fill='none' stroke='#%s' stroke-width='1.8' stroke-linejoin='round'", l->colour);
    if (*l->dash)
        fprintf(out, " stroke-dasharray='%s'", l->dash);
    fputs("/>\n", out);
}

static void put_axes(const hr_plot *p, const struct frame *f, FILE *out)
{
    double bottom = f->top + f->height, right = f->left + f->width;
    fputs("<g stroke='#d4d4d4' stroke-dasharray='3 3'>\n", out);
    for (int t = 0; t <= 5; t++)
        fprintf(out, "<path d='M%.2f %.2fH%.2f'/>\n", f->left, y_at(f, t / 5.0), right);
    for (int i = 0; i < p->n; i++)
        fprintf(out, "<path d='M%.2f %.2fV%.2f'/>\n", x_at(f, i), f->top, bottom);
    fputs("</g>\n<g stroke='#444'>\n", out);
    fprintf(out, "<path d='M%.2f %.2fV%.2fH%.2f' fill='none'/>\n", f->left, f->top, bottom, right);
    for (int t = 0; t <= 5; t++)
        fprintf(out, "<path d='M%.2f %.2fh-5'/>\n", f->left, y_at(f, t / 5.0));
    for (int i = 0; i < p->n; i++)
        fprintf(out, "<path d='M%.2f %.2fv5'/>\n", x_at(f, i), bottom);
    fputs("</g>\n<g fill='#222'>\n", out);
    for (int t = 0; t <= 5; t++)
        fprintf(out, "<text x='%.2f' y='%.2f' text-anchor='end'>%.1f</text>\n", f->left - 9,
                y_at(f, t / 5.0) + 4, t / 5.0);
    for (int i = 0; i < p->n; i++) {
        fprintf(out, "<text transform='translate(%.2f %.2f) rotate(-60)' text-anchor='end'>", x_at(f, i) + 4,
                bottom + 14);
        hr_svg_text(p->labels[i], out);
        fputs("</text>\n", out);
    }
    fprintf(out,
            "<text transform='translate(%d %.2f) rotate(-90)' text-anchor='middle' font-size='13'>"
            "keep-rate</text>\n</g>\n",
            18, f->top + f->height / 2);
}

static void put_series(const hr_plot *p, int k, const struct frame *f, FILE *out)
{
    const hr_series *s = &p->series[k];
    hr_look l = hr_plot_look(p, k);
    double gap = f->step * 0.5 / p->nseries;
    double shift = (k - (p->nseries - 1) / 2.0) * (gap < 5 ? gap : 5) / f->step;
    fprintf(out, "<g stroke='#%s' stroke-width='1.2'>\n", l.pale);
    for (int i = 0; i < p->n; i++) {
        double x = x_at(f, i + shift), top = y_at(f, s->median[i] + s->high[i]);
        double bottom = y_at(f, s->median[i] - s->low[i]);
        if (s->low[i] > 0 || s->high[i] > 0)
            fprintf(out, "<path d='M%.2f %.2fh6m-3 0V%.2fm-3 0h6' fill='none'/>\n", x - 3, top, bottom);
    }
    fputs("</g>\n<path d='", out);
    for (int i = 0; i < p->n; i++)
        fprintf(out, "%c%.2f %.2f", i ? 'L' : 'M', x_at(f, i + shift), y_at(f, s->median[i]));
    fputs("'", out);
    put_line_style(&l, out);
    for (int i = 0; i < p->n; i++)
        put_mark(&l, x_at(f, i + shift), y_at(f, s->median[i]), out);
}

/* Width of text in our font: an upper estimate, since the viewer chooses the font. */
static double text_width(const char *s)
{
    return (double)strlen(s) * FONT * 0.58;
}

/* Legend entries from left to right in columns of one width, in rows no wider than the plot. With out NULL
 * nothing is written; returns the number of rows. */
static int put_legend(const hr_plot *p, const struct frame *f, FILE *out)
{
    double x = f->left, width = 0;
    int row = 0;
    for (int k = 0; k < p->nseries; k++)
        width = fmax(width, 38 + text_width(p->series[k].name));
    for (int k = 0; k < p->nseries; k++) {
        if (x > f->left && x + width > f->left + f->width) {
            x = f->left;
            row++;
        }
        if (out) {
            hr_look l = hr_plot_look(p, k);
            double y = TOP + (row + 0.5) * LEGEND_ROW;
            fprintf(out, "<path d='M%.2f %.2fh30'", x, y);
            put_line_style(&l, out);
            put_mark(&l, x + 15, y, out);
            fprintf(out, "<text x='%.2f' y='%.2f' fill='#222'>", x + 36, y + 4);
            hr_svg_text(p->series[k].name, out);
            fputs("</text>\n", out);
        }
        x += width + LEGEND_GAP;
    }
    return row + 1;
}

void hr_plot_svg(const hr_plot *p, bool legend, FILE *out)
{
    struct frame f = {.left = LEFT, .height = HEIGHT};
    double label = 0;
    legend = legend && p->nseries > 1;
    f.step = p->n > 30 ? 20 : p->n > 14 ? 30 : 44;
    f.width = f.step * p->n > 320 ? f.step * p->n : 320;
    f.step = f.width / p->n;
    f.top = TOP + (legend ? LEGEND_ROW * put_legend(p, &f, NULL) + 8 : 0);
    for (int i = 0; i < p->n; i++)
        label = text_width(p->labels[i]) > label ? text_width(p->labels[i]) : label;
    double width = f.left + f.width + RIGHT, height = f.top + f.height + 24 + 0.87 * label;

    fprintf(out,
            "<?xml version='1.0' encoding='UTF-8'?>\n"
            "<svg xmlns='http://www.w3.org/2000/svg' width='%.0f' height='%.0f' viewBox='0 0 %.0f %.0f' "
            "font-family='DejaVu Sans, Helvetica, Arial, sans-serif' font-size='%d'>\n<title>",
            width, height, width, height, FONT);
    hr_svg_text(p->arch, out);
    fputs(": keep-rates per layer</title>\n<rect width='100%' height='100%' fill='#fff'/>\n", out);
    put_axes(p, &f, out);
    for (int k = p->nseries - 1; k >= 0; k--) /* the first of the legend lies on top */
        put_series(p, k, &f, out);
    if (legend)
        put_legend(p, &f, out);
    fputs("</svg>\n", out);
}
