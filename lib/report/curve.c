/* lib/report/curve.c -- the reward curve: one dot per episode, a step line for the best so far.
 *
 * The tables are the source, as they are the only record of episodes before an interruption. Rewards there
 * have six decimals; a pixel is worth more than that. Axes begin at 0 (or at the lowest reward below it) and
 * end at the first round number that holds everything. */
#include "report/curve.h"
#include "report/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LEFT = 64, TOP = 40, WIDTH = 640, HEIGHT = 280, RIGHT = 18, BOTTOM = 54 };

struct series {
    double *x, *y;
    int n;
};

struct axis {
    double lo, hi, step;
};

/* The first two columns of a table; its head is passed over. */
static struct series column(const char *text)
{
    struct series s = {0};
    int room = 0;
    for (const char *line = strchr(text, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
        char *end;
        double x = strtod(line + 1, &end), y = strtod(end, NULL);
        if (!isfinite(y))
            continue;
        if (s.n == room) {
            room = room ? 2 * room : 256;
            s.x = hr_xrealloc(s.x, (size_t)room * sizeof *s.x);
            s.y = hr_xrealloc(s.y, (size_t)room * sizeof *s.y);
        }
        s.x[s.n] = x;
        s.y[s.n++] = y;
    }
    return s;
}

/* From lo to a round number not below hi, in about five steps of 1, 2 or 5 times a power of ten. */
static struct axis axis_of(double lo, double hi)
{
    double raw = hi > lo ? (hi - lo) / 5 : 1, power = pow(10, floor(log10(raw))), f = raw / power;
    double step = power * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
    return (struct axis){floor(lo / step + 1e-9) * step, ceil(hi / step - 1e-9) * step, step};
}

static double place(const struct axis *a, double v)
{
    return a->hi > a->lo ? (v - a->lo) / (a->hi - a->lo) : 0;
}

static double x_at(const struct axis *a, double v)
{
    return LEFT + WIDTH * place(a, v);
}

static double y_at(const struct axis *a, double v)
{
    return TOP + HEIGHT * (1 - place(a, v));
}

static void put_axes(const struct axis *x, const struct axis *y, FILE *out)
{
    fputs("<g stroke='#d4d4d4' stroke-dasharray='3 3'>\n", out);
    for (int i = 0; y->lo + i * y->step <= y->hi + y->step / 2; i++)
        fprintf(out, "<path d='M%d %.2fh%d'/>\n", LEFT, y_at(y, y->lo + i * y->step), WIDTH);
    fputs("</g>\n<g fill='#222'>\n", out);
    for (int i = 0; y->lo + i * y->step <= y->hi + y->step / 2; i++)
        fprintf(out, "<text x='%d' y='%.2f' text-anchor='end'>%.6g</text>\n", LEFT - 9,
                y_at(y, y->lo + i * y->step) + 4,
                fabs(y->lo + i * y->step) < 1e-12 ? 0 : y->lo + i * y->step);
    for (int i = 0; x->lo + i * x->step <= x->hi + x->step / 2; i++)
        fprintf(out, "<text x='%.2f' y='%d' text-anchor='middle'>%.6g</text>\n", x_at(x, x->lo + i * x->step),
                TOP + HEIGHT + 18, x->lo + i * x->step);
    fprintf(
        out,
        "<text x='%d' y='%d' text-anchor='middle' font-size='13'>episode</text>\n"
        "<text transform='translate(18 %d) rotate(-90)' text-anchor='middle' font-size='13'>reward</text>\n"
        "</g>\n<path d='M%d %dv%dh%d' fill='none' stroke='#444'/>\n",
        LEFT + WIDTH / 2, TOP + HEIGHT + 42, TOP + HEIGHT / 2, LEFT, TOP, HEIGHT, WIDTH);
}

static void put_dots(const struct series *s, const struct axis *x, const struct axis *y, int warmup,
                     FILE *out)
{
    fputs("<g class='episodes'>\n", out);
    for (int i = 0; i < s->n; i++)
        fprintf(out, "<circle cx='%.2f' cy='%.2f' r='2.2' fill='#%s'/>\n", x_at(x, s->x[i]), y_at(y, s->y[i]),
                s->x[i] <= warmup ? "b8b8b8" : "5f9ed1");
    fputs("</g>\n", out);
}

static void put_best(const struct series *s, const struct axis *x, const struct axis *y, FILE *out)
{
    if (s->n == 0)
        return;
    fprintf(out, "<path class='best' d='M%.2f %.2f", x_at(x, s->x[0]), y_at(y, s->y[0]));
    for (int i = 1; i < s->n; i++)
        if (s->y[i] != s->y[i - 1] || i == s->n - 1)
            fprintf(out, "H%.2fV%.2f", x_at(x, s->x[i]), y_at(y, s->y[i]));
    fputs("' fill='none' stroke='#c85200' stroke-width='1.8' stroke-linejoin='round'/>\n", out);
}

/* What the colours mean, in one row above the plot. */
static void put_legend(bool chance, FILE *out)
{
    static const struct {
        const char *colour, *words;
    } entry[] = {{"b8b8b8", "warm-up"}, {"5f9ed1", "agent"}};
    int x = LEFT;
    for (size_t i = 0; i < HR_COUNT(entry); i++, x += 90)
        fprintf(out,
                "<circle cx='%d' cy='22' r='3' fill='#%s'/>\n<text x='%d' y='26' fill='#222'>%s</text>\n",
                x + 4, entry[i].colour, x + 14, entry[i].words);
    fprintf(out,
            "<path d='M%d 22h24' stroke='#c85200' stroke-width='1.8'/>\n"
            "<text x='%d' y='26' fill='#222'>best so far</text>\n",
            x, x + 30);
    if (chance)
        fprintf(out,
                "<path d='M%d 22h24' stroke='#222' stroke-dasharray='6 4'/>\n"
                "<text x='%d' y='26' fill='#222'>chance</text>\n",
                x + 120, x + 150);
}

void hr_curve_svg(const hr_curve *c, FILE *out)
{
    struct series dots = column(c->episodes), best = column(c->best);
    double lo = 0, hi = c->chance, last = 1;
    for (int i = 0; i < dots.n; i++) {
        lo = dots.y[i] < lo ? dots.y[i] : lo;
        hi = dots.y[i] > hi ? dots.y[i] : hi;
        last = dots.x[i];
    }
    struct axis x = axis_of(0, last), y = axis_of(lo, hi);
    int width = LEFT + WIDTH + RIGHT, height = TOP + HEIGHT + BOTTOM;
    fprintf(out,
            "<?xml version='1.0' encoding='UTF-8'?>\n"
            "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' "
            "font-family='DejaVu Sans, Helvetica, Arial, sans-serif' font-size='12'>\n<title>",
            width, height, width, height);
    hr_svg_text(c->title, out);
    fputs("</title>\n<rect width='100%' height='100%' fill='#fff'/>\n", out);
    put_axes(&x, &y, out);
    if (c->chance > 0)
        fprintf(out, "<path d='M%d %.2fh%d' stroke='#222' stroke-dasharray='6 4'/>\n", LEFT,
                y_at(&y, c->chance), WIDTH);
    put_dots(&dots, &x, &y, c->warmup, out);
    put_best(&best, &x, &y, out);
    put_legend(c->chance > 0, out);
    fputs("</svg>\n", out);
    free(dots.x);
    free(dots.y);
    free(best.x);
    free(best.y);
}
