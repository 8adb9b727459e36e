/* tools/tfrec-convert.c -- from a data set as it is published to tfrecord files, split and described. */
#include "data/data.h"

int main(int argc, char **argv)
{
    hr_convert_args args = {.holdout = 0.1};
    int64_t seed = 1234;
    enum { VERIFY, SKIP };
    static const char *const checks[] = {"verify", "skip", NULL};
    int check = VERIFY;
    const hr_opt opts[] = {{"set", 's', HR_OPT_CHOICE, &args.source, HR_OPT_RESULT, "NAME", "data set",
                            .choices = hr_source_names()},
                           {"output", 'o', HR_OPT_STRING, &args.output, 0, "DIR",
                            .help = "directory to write; made when missing"},
                           {"holdout", 0, HR_OPT_REAL, &args.holdout, HR_OPT_RESULT, "X",
                            "share of the training images, as many of each class", .min = 1e-6, .max = 0.999},
                           {"name", 0, HR_OPT_STRING, &args.title, HR_OPT_RESULT, "NAME",
                            .help = "name in the manifest, if not the set's own"},
                           {"checksum", 0, HR_OPT_CHOICE, &check, HR_OPT_RESULT, "WHAT",
                            "demand the files as published (their MD5, their number of images), or take any",
                            .choices = checks},
                           {"seed", 0, HR_OPT_INT, &seed, HR_OPT_RESULT, "N",
                            "decides which images the holdout takes", .max = UINT32_MAX},
                           {0}};
    const hr_tool tool = {
        "tfrec-convert",
        "[OPTION]... -o DIR SRC",
        "Write DIR/{train,test,holdout,rest}.tfrecord and DIR/manifest.json from the data set in SRC. "
        "holdout and\n"
        "rest are the two parts of train. For fashion-mnist, mnist and idx, SRC is a directory with the "
        "files\n"
        "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, gzipped (.gz) or plain. For\n"
        "cifar10, it is the published archive as it is, or its directory.\n",
        "tfrec-convert --set fashion-mnist -o data/FashionMNIST /usr/share/datasets/fashion-mnist",
        opts,
        1,
        1};
    args.src = argv[hr_tool_start(&tool, argc, argv)];
    if (!args.output)
        hr_usage("--output is needed");
    args.seed = (uint32_t)seed;
    args.unverified = check == SKIP;

    hr_err err = HR_ERR_INIT;
    hr_convert_counts n;
    json_t *history = hr_history_new();
    double start = hr_seconds();
    if (hr_convert(&args, history, &n, &err))
        hr_die("%s", err.msg);
    hr_note("%s: classes %d train %u test %u holdout %u rest %u sec %.2f", args.output, n.classes, n.train,
            n.test, n.holdout, n.rest, hr_seconds() - start);
    json_decref(history);
    return hr_tool_finish();
}
