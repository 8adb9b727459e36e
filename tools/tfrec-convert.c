/* tools/tfrec-convert.c -- from a data set as it is published to tfrecord files, split and described; and
 * what is in such files. */
#include "data/data.h"

enum { VERIFY, SKIP };
static const char *const checks[] = {"verify", "skip", NULL};

static hr_convert_args args = {.holdout = 0.1};
static int64_t seed = 1234, each, side = 224, shards = 64;
static int checksum = VERIFY;
static bool check, dump;

static hr_opt options[] = {
    {"set", 's', HR_OPT_CHOICE, &args.source, HR_OPT_RESULT, "NAME", "data set", 0, 0, NULL},
    {"output", 'o', HR_OPT_STRING, &args.output, 0, "DIR", "directory to write; made when missing", 0, 0,
     NULL},
    {"holdout", 0, HR_OPT_REAL, &args.holdout, HR_OPT_RESULT, "X",
     "share of the training images, as many of each class", 1e-6, 0.999, NULL},
    {"name", 0, HR_OPT_STRING, &args.title, HR_OPT_RESULT, "NAME",
     "name in the manifest, if not the set's own", 0, 0, NULL},
    {"checksum", 0, HR_OPT_CHOICE, &checksum, HR_OPT_RESULT, "WHAT",
     "demand the files as published, or take any", 0, 0, checks},
    {"seed", 0, HR_OPT_INT, &seed, HR_OPT_RESULT, "N", "decides which images the holdout takes", 0,
     UINT32_MAX, NULL},
    {"holdout-each", 0, HR_OPT_INT, &each, HR_OPT_RESULT, "N",
     "images of each class instead; 0: by the share, ImageNet 13", 0, 1e6, NULL},
    {"labels", 0, HR_OPT_STRING, &args.labels, 0, "FILE",
     "imagenet: classes of the validation archive's images", 0, 0, NULL},
    {"synsets", 0, HR_OPT_STRING, &args.synsets, 0, "FILE",
     "imagenet: classes 1, 2, ... of numeric labels, a line each", 0, 0, NULL},
    {"side", 0, HR_OPT_INT, &side, HR_OPT_RESULT, "N", "imagenet: images are N x N", 8, 1024, NULL},
    {"shards", 0, HR_OPT_INT, &shards, HR_OPT_RESULT, "N", "imagenet: files for each part", 1, 99999, NULL},
    {"max-bad", 0, HR_OPT_INT, &args.max_bad, 0, "N", "imagenet: damaged images to leave out at most", 0, 1e9,
     NULL},
    {"restart", 0, HR_OPT_FLAG, &args.restart, 0, NULL, "imagenet: discard the state of an interrupted run",
     0, 0, NULL},
    {"published-names", 0, HR_OPT_FLAG, &args.published_names, 0, NULL,
     "add links named as the published programs name their files", 0, 0, NULL},
    {"check", 0, HR_OPT_FLAG, &check, 0, NULL, "verify the tfrecord files SRC... instead, one line for each",
     0, 0, NULL},
    {"dump", 0, HR_OPT_FLAG, &dump, 0, NULL, "print their records as JSON lines instead", 0, 0, NULL},
    {0}};

static const hr_tool tool = {
    "tfrec-convert",
    "[OPTION]... -o DIR SRC | --check FILE... | --dump FILE...",
    "Write DIR/{train,test,holdout,rest}.tfrecord and DIR/manifest.json from the data set in SRC. holdout "
    "and\n"
    "rest are the two parts of train. SRC is a directory with the files as published, compressed or not:\n"
    "  fashion-mnist, mnist, idx   {train,t10k}-images-idx3-ubyte[.gz], {train,t10k}-labels-idx1-ubyte[.gz]\n"
    "  cifar10                     cifar-10-binary.tar.gz or cifar-10-python.tar.gz; or SRC is this file\n"
    "  svhn                        train_32x32.mat, test_32x32.mat\n"
    "  imagenet                    ILSVRC2012_img_train.tar or train/CLASS/*, ILSVRC2012_img_val.tar or "
    "val/CLASS/*\n"
    "ImageNet's parts come in shards of scaled and cropped images; it has no train, which is holdout and "
    "rest.\n"
    "Interrupted, its conversion goes on with the same command.\n",
    "tfrec-convert --set fashion-mnist -o data/FashionMNIST /usr/share/datasets/fashion-mnist",
    options,
    1,
    -1};

static void convert(void)
{
    hr_err err = HR_ERR_INIT;
    hr_convert_counts n;
    json_t *history = hr_history_new();
    double start = hr_seconds();
    if (hr_convert(&args, history, &n, &err))
        hr_die_err(&err);
    if (n.damaged)
        hr_warn("%s: %u damaged images are left out; manifest.json lists them", args.output, n.damaged);
    hr_note("%s: classes %d train %u test %u holdout %u rest %u sec %.2f", args.output, n.classes, n.train,
            n.test, n.holdout, n.rest, hr_seconds() - start);
    json_decref(history);
}

int main(int argc, char **argv)
{
    options[0].choices = hr_source_names();
    int first = hr_tool_start(&tool, argc, argv);
    args.src = argv[first];
    args.seed = (uint32_t)seed;
    args.unverified = checksum == SKIP;
    args.holdout_each = (int)each;
    args.side = (int)side;
    args.shards = (int)shards;
    if (check && dump)
        hr_usage("--check and --dump do not go together");
    if ((check || dump) == (args.output != NULL))
        hr_usage(args.output ? "--output does not go with --check and --dump" : "--output is needed");
    if (args.output && argc - first > 1)
        hr_usage("one SRC is needed, %d are given", argc - first);

    hr_err err = HR_ERR_INIT;
    for (int i = first; (check || dump) && i < argc; i++)
        if ((check ? hr_tfrec_check : hr_tfrec_dump)(argv[i], stdout, &err))
            hr_die("%s", err.msg);
    if (args.output)
        convert();
    return hr_tool_finish();
}
