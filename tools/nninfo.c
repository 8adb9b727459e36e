/* tools/nninfo.c -- what is in a network: its prunable layers, its tensors, or how it came to be. */
#include "compute/compute.h"
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

static const char *arch, *input, *output = "-";
static int64_t classes;
static int format;
static bool history, tensors, stats, strict, plan, eval, exact;
static int64_t batch, threads;

enum { TEXT, TSV, JSON };
static const char *const formats[] = {"text", "tsv", "json", NULL};

static const hr_opt options[] = {
    {.name = "arch",
     .letter = 'a',
     .kind = HR_OPT_STRING,
     .dest = &arch,
     .arg = "NAME",
     .help = "describe this architecture instead of a file"},
    {.name = "input",
     .kind = HR_OPT_STRING,
     .dest = &input,
     .arg = "CxHxW",
     .help = "with --arch: size of an image [the architecture's own]"},
    {.name = "classes",
     .kind = HR_OPT_INT,
     .dest = &classes,
     .arg = "N",
     .min = 0,
     .max = 1e6,
     .help = "with --arch: number of classes, 0: the architecture's own"},
    {.name = "format",
     .letter = 'f',
     .kind = HR_OPT_CHOICE,
     .dest = &format,
     .arg = "FORMAT",
     .help = "one of",
     .choices = formats},
    {.name = "output",
     .letter = 'o',
     .kind = HR_OPT_STRING,
     .dest = &output,
     .arg = "FILE",
     .help = "where it goes"},
    {.name = "history",
     .kind = HR_OPT_FLAG,
     .dest = &history,
     .help = "print the chain of programs that made the file, as JSON"},
    {.name = "tensors",
     .kind = HR_OPT_FLAG,
     .dest = &tensors,
     .help = "list the tensors with the SHA-256 of their bytes"},
    {.name = "stats",
     .kind = HR_OPT_FLAG,
     .dest = &stats,
     .help = "print how many of each tensor's values are 0 or not finite, range, mean, deviation"},
    {.name = "strict",
     .kind = HR_OPT_FLAG,
     .dest = &strict,
     .help = "fail where a value is not finite, or a variance is negative"},
    {.name = "plan",
     .kind = HR_OPT_FLAG,
     .dest = &plan,
     .help = "print which kernel runs each layer and pass here, and the memory"},
    {.name = "batch",
     .kind = HR_OPT_INT,
     .dest = &batch,
     .arg = "N",
     .min = 0,
     .max = 65536,
     .help = "with --plan: images per batch, 0: 128"},
    {.name = "eval",
     .kind = HR_OPT_FLAG,
     .dest = &eval,
     .help = "with --plan: for attacks and evaluation, not for training"},
    {.name = "exact", .kind = HR_OPT_FLAG, .dest = &exact, .help = "with --plan: no Winograd transforms"},
    {.name = "threads",
     .kind = HR_OPT_INT,
     .dest = &threads,
     .arg = "N",
     .min = 0,
     .max = 1024,
     .help = "with --plan: threads, 0: one per processor"},
    {0},
};

static const hr_tool tool = {
    .name = "nninfo",
    .synopsis = "[OPTION]... NET | --arch NAME",
    .summary = "Print the prunable layers of a network (a .nn file, '-' is stdin) in strategy order, with\n"
               "shapes, weights, multiply-adds (MACs) per image, ties and what was pruned.\n",
    .example = "nninfo --arch resnet18 --format tsv",
    .opts = options,
    .min_args = 0,
    .max_args = 1,
};

/* "3x32x32" */
static void parse_input(const char *text, hr_zoo_opts *o)
{
    char rest;
    if (sscanf(text, "%4dx%5dx%5d%c", &o->c, &o->h, &o->w, &rest) != 3 || o->c < 1 || o->h < 1 || o->w < 1)
        hr_usage("--input: '%s' is not of the form CxHxW, for instance 3x32x32", text);
}

static hr_model *open_model(const char *path, char digest[65])
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = NULL;
    if (path) {
        if ((strict ? hr_nn_load : hr_nn_load_any)(path, &m, digest, &err))
            hr_die("%s", err.msg);
        return m;
    }
    hr_zoo_opts o = {.classes = (int)classes};
    if (input)
        parse_input(input, &o);
    if (hr_zoo_build(arch, &o, &m, &err))
        hr_usage("%s", err.msg);
    return m;
}

/* j, which is released, with the file's digest when there is one. */
static void add_json(hr_buf *out, json_t *j, const char *digest)
{
    if (digest)
        json_object_set_new(j, "digest", json_string(digest));
    char *text = hr_json_text(j, 2);
    hr_buf_printf(out, "%s\n", text);
    free(text);
    json_decref(j);
}

/* How the engine would run m on this machine. */
static void add_plan(hr_buf *text, hr_model *m)
{
    hr_err err = HR_ERR_INIT;
    hr_exec_opts o = {.batch = batch ? (int)batch : 128,
                      .threads = (int)threads,
                      .train = !eval,
                      .exact = exact,
                      .describe = true};
    hr_exec *e = hr_exec_new(m, &o, &err);
    if (!e)
        hr_die("%s", err.msg);
    if (format == JSON)
        add_json(text, hr_plan_json(e), NULL);
    else
        hr_plan_table(e, format == TSV, text);
    hr_exec_free(e);
}

int main(int argc, char **argv)
{
    int first = hr_tool_start(&tool, argc, argv);
    const char *path = argv[first];
    if ((path != NULL) == (arch != NULL))
        hr_usage("a NET or --arch is needed, %s given", path ? "both are" : "none is");
    if (path && (input || classes))
        hr_usage("--input and --classes go with --arch; the file '%s' has its own", path);
    if (arch && (history || tensors || stats || strict))
        hr_usage("--history, --tensors, --stats and --strict need a NET, --arch has nothing of it");
    if (history && format == TSV)
        hr_usage("--history prints JSON and nothing else");
    if (history + tensors + stats + plan > 1)
        hr_usage("only one of --history, --tensors, --stats and --plan can be printed");
    if (!plan && (eval || exact || threads || batch))
        hr_usage("--batch, --eval, --exact and --threads go with --plan");

    char digest[65] = "";
    hr_model *m = open_model(path, digest);
    hr_buf text = {0};
    if (history)
        add_json(&text, m->history ? json_incref(m->history) : json_null(), NULL);
    else if (plan)
        add_plan(&text, m);
    else if (format == JSON)
        add_json(&text,
                 tensors ? hr_tensors_json(m)
                 : stats ? hr_stats_json(m)
                         : hr_layers_json(m),
                 path ? digest : NULL);
    else if (stats)
        hr_stats_table(m, format == TSV, &text);
    else if (tensors)
        hr_tensors_table(m, format == TSV, &text);
    else
        hr_layers_table(m, format == TSV, &text);

    hr_err err = HR_ERR_INIT;
    hr_out *out;
    if (hr_out_open(&out, output, 0, &err))
        hr_die("%s", err.msg);
    fwrite(text.data, 1, text.len, hr_out_file(out));
    if (hr_out_commit(out, &err))
        hr_die("%s", err.msg);
    hr_buf_release(&text);
    hr_model_free(m);
    return hr_tool_finish();
}
