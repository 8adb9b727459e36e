/* tools/torch2nn.c -- a PyTorch checkpoint or a safetensors file as a network of ours. */
#include "model/torch.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *arch, *key, *input, *mean, *std, *output;
    bool bare;
} a = {.output = "-"};

static const hr_opt options[] = {
    {"output", 'o', HR_OPT_STRING, &a.output, 0, "FILE", "the network", 0, 0, NULL},
    {"arch", 'a', HR_OPT_STRING, &a.arch, HR_OPT_RESULT, "NAME", "architecture [recognised from the tensors]",
     0, 0, NULL},
    {"input", 0, HR_OPT_STRING, &a.input, HR_OPT_RESULT, "HxW", "size of an image [the architecture's own]",
     0, 0, NULL},
    {"mean", 0, HR_OPT_STRING, &a.mean, HR_OPT_RESULT, "A,B,..", "normalise images by mean", 0, 0, NULL},
    {"std", 0, HR_OPT_STRING, &a.std, HR_OPT_RESULT, "A,B,..", "and deviation per channel", 0, 0, NULL},
    {"key", 'k', HR_OPT_STRING, &a.key, HR_OPT_RESULT, "NAME",
     "entry of the file that holds the tensors, or A.B [state_dict, net, model, or the file itself]", 0, 0,
     NULL},
    {"bare", 0, HR_OPT_FLAG, &a.bare, HR_OPT_RESULT, NULL,
     "only what the network computes with: no scores, no counters", 0, 0, NULL},
    {0},
};

static const hr_tool tool = {
    .name = "torch2nn",
    .synopsis = "[OPTION]... CHECKPOINT | ARCHIVE:MEMBER",
    .summary = "Convert a PyTorch checkpoint (.pth, .pth.tar, .pt) or a .safetensors file ('-' is stdin), or "
               "such a\n"
               "member of a zip or tar archive, to a network. Nothing that the file holds is run.\n",
    .example = "torch2nn torch-models.zip:vgg16_bn_pretrain_cifar10.pth.tar -o vgg16_bn.nn",
    .opts = options,
    .min_args = 1,
    .max_args = 1,
};

/* "0.5,0.25" to numbers; returns how many. */
static int parse_list(const char *name, const char *text, double *v)
{
    char *copy = hr_xstrdup(text), *save = NULL;
    int n = 0;
    for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        if (n == HR_MAX_CHANNELS_NORM || !hr_parse_real(word, &v[n]))
            hr_usage("--%s: '%s' is no list of at most %d numbers", name, text, HR_MAX_CHANNELS_NORM);
        n++;
    }
    free(copy);
    return n;
}

static void get_options(hr_torch_opts *o, double *mean, double *std)
{
    char rest;
    int i = 0;
    while (a.arch && hr_zoo_names[i] && strcmp(hr_zoo_names[i], a.arch) != 0)
        i++;
    if (a.arch && !hr_zoo_names[i])
        hr_usage("--arch: '%s' is no architecture we know (vgg16_bn, resnet18, wrn_28_4, ResNet50, ...)",
                 a.arch);
    *o = (hr_torch_opts){.arch = a.arch, .key = a.key, .bare = a.bare};
    if (a.input && (sscanf(a.input, "%5dx%5d%c", &o->h, &o->w, &rest) != 2 || o->h < 1 || o->w < 1))
        hr_usage("--input: '%s' is not of the form HxW, for instance 32x32", a.input);
    if (!a.mean != !a.std)
        hr_usage("--mean and --std go together");
    if (a.mean) {
        o->channels = parse_list("mean", a.mean, mean);
        if (parse_list("std", a.std, std) != o->channels || o->channels == 0)
            hr_usage("--mean and --std need as many numbers as images have channels");
        for (i = 0; i < o->channels; i++)
            if (!(std[i] > 0.0))
                hr_usage("--std: %s: deviations must be positive", a.std);
        o->mean = mean;
        o->std = std;
    }
}

int main(int argc, char **argv)
{
    int first = hr_tool_start(&tool, argc, argv);
    double mean[HR_MAX_CHANNELS_NORM], std[HR_MAX_CHANNELS_NORM];
    hr_err err = HR_ERR_INIT;
    hr_torch_opts o;
    hr_model *m;
    json_t *made = hr_history_new();
    get_options(&o, mean, std);
    if (hr_out_try(a.output, HR_OUT_BINARY, &err) ||
        hr_torch_convert(argv[first], &o, made, a.output, &m, &err))
        hr_die_err(&err);
    json_decref(made);
    if (strcmp(m->arch, "ResNet50") == 0 && !hr_normalize_node(m))
        hr_note("images enter as they are; ImageNet's networks expect --mean .485,.456,.406 --std "
                ".229,.224,.225");
    hr_note("%s with %d classes, images of %dx%dx%d", m->arch, m->classes, m->nodes[0].c, m->nodes[0].h,
            m->nodes[0].w);
    hr_model_free(m);
    return hr_tool_finish();
}
