/* lib/model/torch.h -- networks from and for other programs: PyTorch's checkpoints and safetensors files.
 *
 * Reading takes what torch.save writes (the zip form since 1.6 and the older row of pickles) and safetensors,
 * from a file, from standard input, or a member of an archive. A checkpoint holds tensors with names and no
 * graph: the architecture is the one of the zoo that has exactly these names and shapes, or the one asked
 * for. No code of the file is run (pickle.h).
 *
 * What nn2torch wrote also holds its graph, prune records, masks and history beside the tensors, where
 * PyTorch does not look; reading gives all of it back, so NET.nn -> .pth -> .nn is the same network, digest
 * and all.
 */
#ifndef HR_TORCH_H
#define HR_TORCH_H

#include "model/model.h"

typedef struct hr_torch_opts {
    const char *arch; /* NULL: recognise it. Given, it also stands above the graph that nn2torch added, with
                         which h, w, channels and bare are refused (HR_EINVAL) */
    const char *key;  /* entry of the file's dict that holds the tensors, "a.b" entry b of its entry a; NULL:
                         "state_dict", "net", "model", "model_state_dict", or the dict itself */
    int h, w;         /* size of an image; 0: the architecture's own */
    int channels;     /* length of mean and std: a normalize node behind the input; 0: none, unless the file
                         holds "mean" and "std" beside a wrapped network */
    const double *mean, *std;
    bool bare; /* leave out what the graph does not use: scores, num_batches_tracked, sub_block1, ADMM's */
} hr_torch_opts;

/* Read a checkpoint: path is a file, "-", or ARCHIVE:MEMBER (zip or tar; a member's name without its
 * directory will do where only one has it). Tensors of other types become float32 where the graph uses them;
 * extras keep theirs. digest (65 bytes, may be NULL) receives the SHA-256 of the file (of the member). The
 * model's history is the one that the file holds, or NULL. Returns 0, HR_EIO, HR_EFORMAT (damaged, hostile,
 * unsupported, not finite), HR_ESHAPE (fits no architecture, or not the one asked for: the message lists
 * missing, surplus and wrong-shape tensors), HR_EINVAL. */
HR_MUST_CHECK int hr_torch_load(const char *path, const hr_torch_opts *o, hr_model **out, char *digest,
                                hr_err *err);

/* hr_torch_load, and hr_nn_save to output, side by side where they can be: with the SHA-256 of both files as
 * the slowest part. history, a new one, gets the checkpoint as its input and becomes the network's.
 * The network is the caller's. Returns what the two do. */
HR_MUST_CHECK int hr_torch_convert(const char *path, const hr_torch_opts *o, json_t *history,
                                   const char *output, hr_model **out, hr_err *err);

/* Whose classes can load the file:
 *
 *   dense  a bare state_dict for torchvision's and similar classes
 *   hydra  {"epoch", "arch", "state_dict", "best_prec1"} of HYDRA's masked layers: with popup_scores,
 *          sub_block1 of wrn_28_4, "module." before ResNet50's keys
 *   radmm  {"net", "epoch", "best_loss"} (and "admm" when the network holds ADMM's variables) of R-ADMM's
 *          wrapped classes: "module.basic_model." before the keys; for ResNet50 "basic_model." and
 *          "best_mean_loss" */
enum hr_torch_layout { HR_TORCH_DENSE, HR_TORCH_HYDRA, HR_TORCH_RADMM };
extern const char *const hr_torch_layouts[]; /* "dense", "hydra", "radmm", NULL */

/* Write m as a zip that torch.load(weights_only=True) reads, or as safetensors, to an open output, which the
 * caller commits or aborts. Masked weights are zero for PyTorch; where they were not, torch2nn finds them
 * beside. history (may be NULL) is put beside the tensors in place of the model's own. bare: only what the
 * layout's classes expect, as PyTorch would write it; no graph, masks or history, and in safetensors no
 * tensor that a strict load does not know. Returns 0, HR_EIO. */
HR_MUST_CHECK int hr_torch_write(const hr_model *m, enum hr_torch_layout layout, bool bare,
                                 const json_t *history, hr_out *out, hr_err *err);
HR_MUST_CHECK int hr_safetensors_write(const hr_model *m, bool bare, const json_t *history, hr_out *out,
                                       hr_err *err);

#endif
