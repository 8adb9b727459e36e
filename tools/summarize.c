/* tools/summarize.c -- evaluation records to one table, in several renderings at once. */
#include "report/report.h"

#include <stdlib.h>

static void warning(const char *sentence, void *user)
{
    (void)user;
    hr_warn("%s", sentence);
}

static void finding(const char *sentence, void *user)
{
    ++*(int *)user;
    puts(sentence);
}

/* paper: NULL for the table with a row per network */
static void save(const hr_records *rs, const hr_paper *paper, enum hr_accuracy acc,
                 enum hr_table_format format, const char *path)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    if (hr_out_open(&out, path, 0, &err))
        hr_die("%s", err.msg);
    if (paper)
        hr_paper_write(paper, format, hr_out_file(out));
    else
        hr_table_write(rs, acc, format, hr_out_file(out));
    if (hr_out_commit(out, &err))
        hr_die("%s", err.msg);
}

/* The CSV rendering as a spreadsheet. */
static void save_xlsx(const hr_records *rs, const hr_paper *paper, enum hr_accuracy acc, const char *path)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    char *csv = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&csv, &size);
    if (!memory)
        hr_die("out of memory for a table");
    if (paper)
        hr_paper_write(paper, HR_TABLE_CSV, memory);
    else
        hr_table_write(rs, acc, HR_TABLE_CSV, memory);
    if (fclose(memory))
        hr_die("out of memory for a table");
    if (hr_out_open(&out, path, HR_OUT_BINARY, &err))
        hr_die("%s", err.msg);
    if (hr_xlsx_write(csv, out, &err)) {
        hr_out_abort(out);
        hr_outs_drop();
        hr_die("%s", err.msg);
    }
    if (hr_out_commit(out, &err))
        hr_die("%s", err.msg);
    free(csv);
}

/* All the histories or none: the text goes out when every file has been read. cell: NULL for whole files. */
static void show_histories(char **paths, int n, const hr_list *legacy, const hr_list *manifests,
                           const char *cell, const char *path)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    hr_records rs = {0};
    char *text = NULL;
    size_t size = 0;
    json_t *origins = json_object();
    FILE *memory = open_memstream(&text, &size);
    if (!memory)
        hr_die("out of memory for a text");
    for (size_t i = 0; i < manifests->n; i++)
        if (hr_origins_add(origins, manifests->items[i], &err))
            hr_die("%s", err.msg);
    for (int i = 0; i < n; i++)
        if (cell ? hr_records_read(&rs, paths[i], NULL, NULL, &err)
                 : hr_history_show(paths[i], origins, memory, &err))
            hr_die("%s", err.msg);
    for (size_t i = 0; i < legacy->n && cell; i++)
        if (hr_legacy_read(&rs, legacy->items[i], warning, NULL, &err))
            hr_die("%s", err.msg);
    if (cell && hr_history_cell(&rs, cell, origins, memory, &err))
        hr_die("%s", err.msg);
    if (fclose(memory))
        hr_die("out of memory for a text");
    if (hr_out_open(&out, path, 0, &err))
        hr_die("%s", err.msg);
    fwrite(text, 1, size, hr_out_file(out));
    if (hr_out_commit(out, &err))
        hr_die("%s", err.msg);
    free(text);
    json_decref(origins);
    hr_records_release(&rs);
}

static int verify(char **dirs, int n)
{
    hr_err err = HR_ERR_INIT;
    hr_verified v;
    int found = 0;
    if (hr_verify(dirs, n, finding, &found, &v, &err))
        hr_die("%s", err.msg);
    hr_note("%d products, %d parts of data sets, %d digests: %s", v.products, v.splits, v.digests,
            v.findings ? "not all are in order" : "all in order");
    if (v.findings && hr_tool_finish() == 0)
        hr_die("%d finding%s", v.findings, v.findings == 1 ? "" : "s");
    return hr_tool_finish();
}

int main(int argc, char **argv)
{
    int format = HR_TABLE_TEXT, accuracy = HR_ACC_STANDARD;
    const char *output = "-", *csv = NULL, *latex = NULL, *xlsx = NULL;
    const char *published = NULL, *cell = NULL;
    bool history = false, compare = false, lint = false, verification = false;
    int64_t claim = 0;
    double margin = 0.5;
    hr_list sheets = {0}, legacy = {0}, manifests = {0}, checkpoints = {0};
    const hr_opt opts[] = {
        {"format", 'f', HR_OPT_CHOICE, &format, 0, "FORMAT", "rendering of the output", 0, 0,
         hr_table_format_names},
        {"output", 'o', HR_OPT_STRING, &output, 0, "FILE", "where it goes", 0, 0, NULL},
        {"csv", 0, HR_OPT_STRING, &csv, 0, "FILE", "write the CSV rendering too", 0, 0, NULL},
        {"latex", 0, HR_OPT_STRING, &latex, 0, "FILE", "write the LaTeX rendering too", 0, 0, NULL},
        {"xlsx", 0, HR_OPT_STRING, &xlsx, 0, "FILE", "write a spreadsheet too", 0, 0, NULL},
        {"accuracy", 'a', HR_OPT_CHOICE, &accuracy, 0, "KIND", "which accuracy", 0, 0, hr_accuracy_names},
        {"compare", 0, HR_OPT_FLAG, &compare, 0, NULL,
         "uniform against searched strategies, as in the paper's tables", 0, 0, NULL},
        {"sheet", 0, HR_OPT_STRING, &sheets, HR_OPT_REPEAT, "FILE",
         "compare: add a published raw sheet (CSV; .xls and\n                                .xlsx by "
         "ssconvert)",
         0, 0, NULL},
        {"published", 0, HR_OPT_STRING, &published, 0, "DIR",
         "compare: a column with the figures of the sheets in it", 0, 0, NULL},
        {"legacy", 0, HR_OPT_STRING, &legacy, HR_OPT_REPEAT, "DIR",
         "add what HYDRA's and R-ADMM's logs below DIR say", 0, 0, NULL},
        {"margin", 0, HR_OPT_REAL, &margin, 0, "X", "compare: bold within so many points of the best", 0, 100,
         NULL},
        {"lint", 0, HR_OPT_FLAG, &lint, 0, NULL,
         "instead of a table, print what cannot be right; then status 1", 0, 0, NULL},
        {"claim", 0, HR_OPT_INT, &claim, 0, "N", "lint: N searched strategies of every rate are claimed", 0,
         1000, NULL},
        {"checkpoint", 0, HR_OPT_STRING, &checkpoints, HR_OPT_REPEAT, "NET",
         "lint: the records must be of this network, too", 0, 0, NULL},
        {"history", 0, HR_OPT_FLAG, &history, 0, NULL, "print how the files were made instead of a table", 0,
         0, NULL},
        {"cell", 0, HR_OPT_STRING, &cell, 0, "WORDS", "history: of one cell (resS,weight,0.1,searched,pgd20)",
         0, 0, NULL},
        {"manifest", 0, HR_OPT_STRING, &manifests, HR_OPT_REPEAT, "FILE",
         "history: go on to the archives of that data set", 0, 0, NULL},
        {"verify", 0, HR_OPT_FLAG, &verification, 0, NULL,
         "check the digests of all below the directories given", 0, 0, NULL},
        {NULL, 0, 0, NULL, 0, NULL, NULL, 0, 0, NULL},
    };
    const hr_tool tool = {
        .name = "summarize",
        .synopsis = "[OPTION]... RECORD... | --compare [--sheet FILE]... [RECORD]... | --verify DIR...",
        .summary =
            "Make one table of the evaluation records that adveval wrote: a row per network, dense ones\n"
            "first, a column per attack. '-' reads standard input.\n",
        .example = "summarize --csv table.csv --latex table.tex runs/*/eval.json",
        .opts = opts,
        .min_args = 0,
        .max_args = -1,
    };
    int first = hr_tool_start(&tool, argc, argv);
    hr_records rs = {0};
    hr_err err = HR_ERR_INIT;

    if (first == argc && !sheets.n && !legacy.n)
        hr_usage(verification ? "a directory is missing" : "a record is missing");
    if (sheets.n && !compare && !lint)
        hr_usage("--sheet goes with --compare and --lint");
    if ((checkpoints.n || claim) && !lint)
        hr_usage("--checkpoint and --claim go with --lint");
    if (published && !compare)
        hr_usage("--published goes with --compare");
    if (accuracy == HR_ACC_PUBLISHED && !compare)
        hr_usage("--accuracy published goes with --compare");
    if (accuracy == HR_ACC_BOTH && compare)
        hr_usage("--accuracy both is not for --compare");
    if ((cell || manifests.n) && !history)
        hr_usage("--cell and --manifest go with --history");
    if (verification)
        return verify(argv + first, argc - first);
    if (history) {
        show_histories(argv + first, argc - first, &legacy, &manifests, cell, output);
        free(legacy.items);
        free(manifests.items);
        return hr_tool_finish();
    }
    int found = 0;
    hr_paper *paper = compare || (lint && sheets.n) ? hr_paper_new(margin) : NULL;
    for (int i = first; i < argc; i++)
        if (hr_records_read(&rs, argv[i], lint ? NULL : warning, NULL, &err))
            hr_die("%s", err.msg);
    for (size_t i = 0; i < legacy.n; i++)
        if (hr_legacy_read(&rs, legacy.items[i], lint ? NULL : warning, NULL, &err))
            hr_die("%s", err.msg);
    free(legacy.items);
    for (size_t i = 0; i < sheets.n; i++)
        if (hr_paper_add_sheet(paper, sheets.items[i], lint ? finding : warning, &found, &err))
            hr_die("%s", err.msg);
    if (published) {
        hr_paper *sheet = hr_paper_new(margin);
        if (hr_paper_add_sheets(sheet, published, NULL, NULL, &err))
            hr_die("%s", err.msg);
        hr_paper_publish(paper, sheet);
    }
    if (lint) {
        hr_lint(&rs, (int)claim, finding, &found);
        for (size_t i = 0; i < checkpoints.n; i++)
            if (hr_lint_checkpoint(&rs, checkpoints.items[i], finding, &found, &err))
                hr_die("%s", err.msg);
        free(checkpoints.items);
        hr_records_release(&rs);
        hr_paper_free(paper);
        free(sheets.items);
        if (found && hr_tool_finish() == 0)
            hr_die("%d finding%s", found, found == 1 ? "" : "s");
        return hr_tool_finish();
    }
    hr_records_compare(&rs, warning, NULL);
    if (paper && hr_paper_add_records(paper, &rs, accuracy, warning, NULL, &err))
        hr_die("%s", err.msg);
    hr_outs_hold();
    if (csv)
        save(&rs, paper, accuracy, HR_TABLE_CSV, csv);
    if (latex)
        save(&rs, paper, accuracy, HR_TABLE_LATEX, latex);
    if (xlsx)
        save_xlsx(&rs, paper, accuracy, xlsx);
    save(&rs, paper, accuracy, format, output);
    if (hr_outs_publish(&err))
        hr_die("%s", err.msg);
    hr_records_release(&rs);
    hr_paper_free(paper);
    free(sheets.items);
    return hr_tool_finish();
}
