/* tools/nn2torch.c -- a network of ours as a PyTorch checkpoint or a safetensors file. */
#include "model/torch.h"

#include <string.h>

static const char *output = "-";
static int layout, format;
static bool bare;

enum { AUTO, PTH, SAFETENSORS };
static const char *const formats[] = {"auto", "pth", "safetensors", NULL};

static const hr_opt options[] = {
    {"output", 'o', HR_OPT_STRING, &output, 0, "FILE", "the checkpoint", 0, 0, NULL},
    {"layout", 'l', HR_OPT_CHOICE, &layout, HR_OPT_RESULT, "LAYOUT", "whose classes are to load it; one of",
     0, 0, hr_torch_layouts},
    {"format", 'f', HR_OPT_CHOICE, &format, HR_OPT_RESULT, "FORMAT", "auto: as FILE ends, else pth; one of",
     0, 0, formats},
    {"bare", 0, HR_OPT_FLAG, &bare, HR_OPT_RESULT, NULL,
     "only what the classes expect: no graph, masks or history beside it", 0, 0, NULL},
    {0},
};

static const hr_tool tool = {
    .name = "nn2torch",
    .synopsis = "[OPTION]... NET",
    .summary =
        "Convert a network (a .nn file, '-' is stdin) for PyTorch: a state_dict that torch.load reads with\n"
        "weights_only=True, HYDRA's or R-ADMM's checkpoint around one, or a .safetensors file. Pruned "
        "weights\n"
        "are zero. torch2nn makes the same network of it again.\n",
    .example = "nn2torch --layout hydra -o checkpoint.pth.tar pruned.nn",
    .opts = options,
    .min_args = 1,
    .max_args = 1,
};

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

int main(int argc, char **argv)
{
    int first = hr_tool_start(&tool, argc, argv);
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    hr_out *out;
    char digest[65];
    if (format == AUTO) /* the history says what it became */
        format = ends_with(output, ".safetensors") ? SAFETENSORS : PTH;
    bool safe = format == SAFETENSORS;
    if (safe && layout != HR_TORCH_DENSE)
        hr_usage("--layout %s is for pth: a safetensors file holds tensors and no dicts",
                 hr_torch_layouts[layout]);
    if (hr_out_open(&out, output, HR_OUT_BINARY, &err) || hr_nn_load(argv[first], &m, digest, &err))
        hr_die_err(&err);
    if (hr_normalize_node(m))
        hr_note("the network normalises its images (nninfo tells how); PyTorch's class does not, so do it "
                "before");
    json_t *made = hr_history_new();
    hr_history_input(made, "model", digest, m->history);
    int rc = safe ? hr_safetensors_write(m, bare, made, out, &err)
                  : hr_torch_write(m, (enum hr_torch_layout)layout, bare, made, out, &err);
    if (rc) {
        hr_out_abort(out);
        hr_die_err(&err);
    }
    if (hr_out_commit(out, &err))
        hr_die_err(&err);
    json_decref(made);
    hr_model_free(m);
    return hr_tool_finish();
}
