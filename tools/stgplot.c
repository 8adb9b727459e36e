/* tools/stgplot.c -- figures of strategies: keep-rate per layer as CSV, pgfplots and SVG. */
#include "report/plot.h"

#include <stdlib.h>

static hr_plot_opts what;
static const char *prefix;
static bool no_legend;

static const hr_opt options[] = {
    {"output", 'o', HR_OPT_STRING, &prefix, 0, "PREFIX", "write PREFIX.csv, PREFIX.tex and PREFIX.svg", 0, 0,
     NULL},
    {"arch", 0, HR_OPT_STRING, &what.arch, 0, "A", "network, when the files hold several", 0, 0, NULL},
    {"reg", 0, HR_OPT_STRING, &what.reg, 0, "REGS", "weight, channel or weight,channel (all there are)", 0, 0,
     NULL},
    {"rate", 0, HR_OPT_STRING, &what.rate, 0, "K[,K]", "only this rate; one per word of --reg with a comma",
     0, 0, NULL},
    {"series", 0, HR_OPT_STRING, &what.series, 0, "KINDS", "only these: search,uniform,erk,lamp,... (all)", 0,
     0, NULL},
    {"first-too", 0, HR_OPT_FLAG, &what.first_too, 0, NULL, "also the published _all strategies", 0, 0, NULL},
    {"layers", 0, HR_OPT_STRING, &what.layers, 0, "FILE", "layer table of the network (nninfo --format json)",
     0, 0, NULL},
    {"no-legend", 0, HR_OPT_FLAG, &no_legend, 0, NULL, "leave the legend out", 0, 0, NULL},
    {0},
};

static const hr_tool tool = {
    .name = "stgplot",
    .synopsis = "[OPTION]... -o PREFIX STRATEGY.json...",
    .summary =
        "Draw strategies layer by layer: strategies of one kind and rate are one series, their median\n"
        "with bars from the least to the largest.\n",
    .example = "stgplot --arch resnet18 --reg channel,weight --rate 0.5,0.1 -o fig CIFAR10.json",
    .opts = options,
    .min_args = 1,
    .max_args = -1,
};

static void csv(const hr_plot *p, bool legend, FILE *out)
{
    (void)legend; /* a table has its head */
    hr_plot_csv(p, out);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *suffix;
        void (*write)(const hr_plot *, bool, FILE *);
    } kinds[] = {{"csv", csv}, {"tex", hr_plot_tex}, {"svg", hr_plot_svg}};
    int first = hr_tool_start(&tool, argc, argv);
    hr_err err = HR_ERR_INIT;
    hr_plot p;

    if (!prefix)
        hr_usage("an output is needed: -o PREFIX");
    if (hr_plot_check_opts(&what, &err))
        hr_usage("%s", err.msg);
    if (hr_plot_load(&p, (const char *const *)argv + first, (size_t)(argc - first), &what, &err))
        hr_die("%s", err.msg);
    hr_outs_hold();
    for (size_t i = 0; i < HR_COUNT(kinds); i++) {
        char *path = hr_xasprintf("%s.%s", prefix, kinds[i].suffix);
        hr_out *out;
        if (hr_out_open(&out, path, 0, &err))
            hr_die("%s", err.msg);
        kinds[i].write(&p, !no_legend, hr_out_file(out));
        if (hr_out_commit(out, &err))
            hr_die("%s", err.msg);
        free(path);
    }
    if (hr_outs_publish(&err))
        hr_die("%s", err.msg);
    for (int i = 0; i < p.nseries; i++)
        hr_note("%s %s: %d strateg%s, %d layers", p.arch, p.series[i].name, p.series[i].members,
                p.series[i].members == 1 ? "y" : "ies", p.n);
    hr_plot_release(&p);
    return hr_tool_finish();
}
