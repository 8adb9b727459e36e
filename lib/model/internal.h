/* lib/model/internal.h -- what the files of this directory share with each other and with nobody else. */
#ifndef HR_MODEL_INTERNAL_H
#define HR_MODEL_INTERNAL_H

#include "model/model.h"

/* Most of what a sound model can hold; a file that claims more is refused before anything is allocated. */
enum { HR_MAX_NODES = 8192, HR_MAX_TENSORS = 65536, HR_MAX_NAME = 255 };
/* Elements of one tensor. */
#define HR_MAX_ELEMENTS ((int64_t)1 << 40)

/* The tensors sorted by name; free() the array. */
const hr_tensor **hr_tensors_sorted(const hr_model *m);
/* The tensor called name in such an array of n, or NULL. */
const hr_tensor *hr_tensors_search(const hr_tensor **sorted, int n, char *name);

/* Room for a tensor's bytes, aligned for hr_tensor, not zeroed: they are about to be read. free() it. */
void *hr_tensor_room(size_t bytes);
/* As hr_zoo_build, but the tensors have no memory (hr_model.bare). */
HR_MUST_CHECK int hr_zoo_build_bare(const char *arch, const hr_zoo_opts *opts, hr_model **out, hr_err *err);
/* Give the nodes whose parameters are HR_PARAM_NAMED the tensors of these names. HR_EFORMAT: one is missing.
 */
HR_MUST_CHECK int hr_nn_link(hr_model *m, const char *where, hr_err *err);

/* ---- hashing beside the work (hasher.c) -----------------------------------------------------------------
 */

typedef struct hr_hasher hr_hasher;
hr_hasher *hr_hasher_new(void);
/* Hash n bytes after all that were added before. They are borrowed until the next drain or the end; owned,
 * which may be NULL, is freed by then. */
void hr_hasher_add(hr_hasher *h, const void *bytes, size_t n, void *owned);
/* Wait until all that was added is hashed. */
void hr_hasher_drain(hr_hasher *h);
/* Drain, write the digest's 64 digits and a NUL to hex, and release h. */
void hr_hasher_end(hr_hasher *h, char hex[65]);

/* Begin to compute the digest of m: its header, for which tensors need no data yet. */
hr_hasher *hr_nn_hash(const hr_model *m);
/* Go on with the next of its tensors, whose data must stay as they are until the end. */
void hr_nn_hash_tensor(hr_hasher *sha, const hr_tensor *t);
/* hr_nn_write for m when sha has been given all its tensors in their order; releases sha. */
HR_MUST_CHECK int hr_nn_write_hashed(const hr_model *m, hr_hasher *sha, hr_out *out, char *digest,
                                     hr_err *err);

/* ---- the pieces of a .nn file that are msgpack maps (nn_header.c); FORMAT.md describes them ----------- */

/* While a file is being read its tensors come after its graph: until they are there, a node's parameter that
 * the graph names has this index. */
enum { HR_PARAM_NAMED = -2 };

/* Encode the header map into b. */
void hr_nn_put_header(hr_buf *b, const hr_model *m);
/* Build a model without tensors from a header map of n bytes; *ntensors receives the announced number.
 * Returns 0 or HR_EFORMAT; then *out is NULL. */
HR_MUST_CHECK int hr_nn_get_header(const char *bytes, size_t n, const char *where, hr_model **out,
                                   int *ntensors, hr_err *err);

/* The same for a tensor's description. The decoded tensor owns its name and has no data; its number of
 * elements is at most HR_MAX_ELEMENTS. */
void hr_nn_put_tensor(hr_buf *b, const hr_tensor *t);
HR_MUST_CHECK int hr_nn_get_tensor(const char *bytes, size_t n, const char *where, hr_tensor *t, hr_err *err);

/* The same for the trailer. */
void hr_nn_put_trailer(hr_buf *b, int ntensors, const char *sha256);
HR_MUST_CHECK int hr_nn_get_trailer(const char *bytes, size_t n, const char *where, int *ntensors,
                                    char sha256[65], hr_err *err);

#endif
