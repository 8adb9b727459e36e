/* lib/model/torch_file.h -- what the readers of foreign checkpoints share.
 *
 * Reading goes in three steps. torch_input.c makes any input a file that can be read at any place. A
 * container (torch_zip.c, torch_legacy.c, safetensors.c) lists the storages (runs of elements) and the views
 * on them (named tensors) without reading any of their bytes. torch_map.c decides which view becomes which
 * tensor of which graph; then the container hands out the storages in file order and torch_fill.c puts the
 * bytes straight into the tensors. */
#ifndef HR_TORCH_FILE_H
#define HR_TORCH_FILE_H

#include "base/pickle.h"
#include "model/internal.h"
#include "model/torch.h"

#include <pthread.h>

/* ---- types of elements -------------------------------------------------------------------------------- */

struct hr_element {
    const char *name, *storage; /* "float32", "FloatStorage" */
    const char *safe;           /* its name in safetensors, or NULL */
    size_t size;
    int dtype; /* enum hr_dtype, or -1: none of ours */
};
extern const struct hr_element hr_elements[]; /* ends with a NULL name */
int hr_element_of_dtype(enum hr_dtype t);
/* Index by a name: that of the dtype, of torch's storage class, or safetensors'. -1: unknown. */
int hr_element_find(const char *name, size_t n);

/* A window on a storage that a tensor is, as the pickle says it; nothing is checked but what is needed to
 * store it. bad is NULL, or says why this is no tensor that we can read. */
struct hr_pk_tensor {
    int storage;
    int element;           /* index into hr_torch_elements, or -1: the storage's own */
    int64_t offset, numel; /* of the storage, or of the view on it, in its elements */
    int64_t start;         /* of the tensor in that */
    int ndim;
    int64_t shape[8], stride[8];
    const char *bad;
};

/* ---- a file ------------------------------------------------------------------------------------------- */

struct hr_stored {
    char *key;     /* of the pickle; in messages */
    char *record;  /* zip: its name when it is not PREFIX/data/KEY, else NULL */
    int element;   /* index into hr_elements */
    int64_t numel; /* bytes = numel * size, at most INT64_MAX / 2 */
    int64_t at;    /* legacy, safetensors: where it begins in the file */
};

enum hr_view_group { HR_VIEW_STATE, HR_VIEW_ADMM_U, HR_VIEW_ADMM_Z };
struct hr_view {
    char *key; /* as in the file */
    enum hr_view_group group;
    int storage, element; /* element: the storage's own, but for untyped storages */
    int64_t start;        /* first element */
    int ndim;
    int64_t shape[HR_MAX_DIMS], stride[HR_MAX_DIMS]; /* in elements */
    const char *bad;                                 /* NULL, or why it cannot be read (a literal) */
    bool beside; /* nn2torch's: no part of the state_dict, or what a masked weight of it was */
};

/* A tensor that is to be filled from a view; the destination's dtype says what to convert to. */
struct hr_fill {
    int view;
    hr_tensor *to; /* data is allocated by hr_torch_fill */
};

struct hr_stretch {
    int64_t at;
    const char *bytes;
    size_t n;
};

struct hr_torch_file {
    int fd;
    int64_t size;
    char *name; /* for messages */
    bool own_fd;
    const struct hr_container *container;

    struct hr_stored *storages;
    int nstorages;
    struct hr_view *views;
    int nviews;
    json_t *notes; /* what nn2torch wrote beside the tensors, or NULL */

    json_t *keys;  /* {key of a storage: index} */
    char *prefix;  /* zip: "archive/" */
    json_t *index; /* zip: {record: its number in entries} */
    struct hr_zip_entry *entries;
    int nentries;
    int64_t directory; /* zip: where its directory begins */
    bool summed;       /* zip: some record has a check sum */

    bool keeping;   /* what hr_torch_pread reads now stays where it is until the digest is there */
    bool hash;      /* begin the network's digest while its tensors are read */
    hr_hasher *sha; /* that digest, or NULL */

    pthread_t digester; /* computes the digest of the whole file */
    bool digesting;
    pthread_mutex_t lock;     /* of the next two: */
    struct hr_stretch *stays; /* parts of the file that lie in memory until the digest is there */
    int nstays;
    char digest[65];
};

/* Give the next n bytes of the storage at hand. */
typedef int (*hr_torch_read)(void *self, void *dst, size_t n, hr_err *err);
/* Called for every storage that is wanted, in file order; reads at most its bytes. */
typedef int (*hr_torch_sink)(void *ctx, int storage, hr_torch_read read, void *self, hr_err *err);

struct hr_container {
    const char *name;
    /* List storages and views. key: of hr_torch_opts */
    int (*list)(struct hr_torch_file *f, const char *key, hr_err *err);
    int (*walk)(struct hr_torch_file *f, const bool *wanted, hr_torch_sink sink, void *ctx, hr_err *err);
};
extern const struct hr_container hr_torch_zip, hr_torch_legacy, hr_safetensors;

/* torch_zip.c */
void hr_torch_zip_release(struct hr_torch_file *f);

/* torch_input.c: open any input; starts the digest when it is wanted. Close releases everything. */
HR_MUST_CHECK int hr_torch_open(struct hr_torch_file *f, const char *path, bool want_digest, hr_err *err);
void hr_torch_close(struct hr_torch_file *f);
void hr_torch_await_digest(struct hr_torch_file *f);
/* Exactly n bytes at a place of the file. HR_EFORMAT when it ends before. */
HR_MUST_CHECK int hr_torch_pread(struct hr_torch_file *f, void *dst, size_t n, int64_t at, const char *what,
                                 hr_err *err);

/* container->walk for those whose storages know their place (hr_stored.at). */
HR_MUST_CHECK int hr_torch_walk(struct hr_torch_file *f, const bool *wanted, hr_torch_sink sink, void *ctx,
                                hr_err *err);

/* Add a storage or find the one of that key, which must be the same. Returns its index, or -1 with err set.
 */
int hr_torch_add_storage(struct hr_torch_file *f, const char *key, size_t n, int element, int64_t numel,
                         hr_err *err);
struct hr_view *hr_torch_add_view(struct hr_torch_file *f, const char *key, size_t n);

/* torch_objects.c: what torch's pickles mean. ctx of the hooks is the file. */
hr_pickle_hooks hr_torch_hooks(struct hr_torch_file *f);
/* Take the views out of a pickle's value. */
HR_MUST_CHECK int hr_torch_take_views(struct hr_torch_file *f, const hr_pk *root, const char *key,
                                      hr_err *err);

/* torch_fill.c. Does the view stay within its storage? HR_EFORMAT names it when not. */
HR_MUST_CHECK int hr_view_check(const struct hr_torch_file *f, const struct hr_view *v, hr_err *err);
int64_t hr_view_count(const struct hr_view *v); /* after the check */
/* Allocate and fill. On failure some tensors may be filled and some NULL: the caller frees all. sha, if not
 * NULL, gets them in the order of fills, each as soon as it and those before it are complete. */
HR_MUST_CHECK int hr_torch_fill(struct hr_torch_file *f, const struct hr_fill *fills, int n, hr_hasher *sha,
                                hr_err *err);

/* torch_map.c: from views to a network. */
HR_MUST_CHECK int hr_torch_map(struct hr_torch_file *f, const hr_torch_opts *o, hr_model **out, hr_err *err);

/* torch_write.c: a copy of t's data, zero where its layer's mask is, or NULL when it has no mask or is zero
 * there. free() it. */
void *hr_torch_masked(const hr_model *m, const hr_tensor *t);

/* torch_notes.c: what nn2torch writes beside the tensors:
 *   {"heracles": 1, "header": base64 of a .nn file's header, "tensors": [names in file order],
 *    "beside": [{"name", "dtype", "shape"}...], "meta": ..., "history": ...}
 * "beside" lists tensors that are no part of the state_dict, and weights that are dense under a mask, which
 * the state_dict has with zeros. In safetensors the latter have "heracles/" before their name. */
json_t *hr_torch_notes(const hr_model *m, const json_t *history);
/* The network of such notes without tensors. */
HR_MUST_CHECK int hr_torch_notes_model(const struct hr_torch_file *f, hr_model **out, hr_err *err);

#endif
