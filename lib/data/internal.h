/* lib/data/internal.h -- what the files of lib/data share among themselves. */
#ifndef HR_DATA_INTERNAL_H
#define HR_DATA_INTERNAL_H

#include "data/data.h"

/* Limits that turn nonsense in a file into an error instead of an allocation. */
enum {
    MAX_SIDE = 65535,       /* height, width */
    MAX_CHANNELS = 4,       /* grey, grey + alpha, RGB, RGBA; more means that height and width are wrong */
    MAX_CLASSES = 1 << 20,  /* ImageNet-21k has 21,841 */
    MAX_RECORD = 0x7fffffff /* bytes; protobuf's own limit for one message */
};

/* hr_fail with the prefix "FILE: record N at byte B: ", for the record that hr_tfrec_next returned last. */
int hr_tfrec_fail(const hr_tfrec_reader *r, hr_err *err, int code, const char *fmt, ...) HR_PRINTF(4, 5);

/* How many records like the last one can still come, that one counted; 0 when the size of the input is not
 * known (pipes). */
uint64_t hr_tfrec_expect(const hr_tfrec_reader *r);

/* ---- example.c: one image as a serialized tf.train.Example ----------------------------------------------
 */

typedef struct hr_example {
    const uint8_t *image; /* (h, w, c); borrowed */
    int c, h, w;
    int64_t label;
} hr_example;

/* Memory for one decoded record, reused for the next one. Start with {0}. */
typedef struct hr_arena {
    uint8_t *base;
    size_t cap, used, wanted; /* wanted: bytes that all allocations since the last reset would have needed */
    struct hr_arena_extra *extra;
} hr_arena;
void hr_arena_release(hr_arena *a);

/* Decode data[0..n). ex->image points into the arena and lives until the next call with it. Returns 0, or
 * HR_EFORMAT with *why (768 bytes) telling what is wrong with the record. */
HR_MUST_CHECK int hr_example_unpack(hr_arena *a, const uint8_t *data, size_t n, hr_example *ex, hr_err *why);
/* Append the serialized Example to b. */
void hr_example_pack(const hr_example *ex, hr_buf *b);

/* ---- dataset.c ----------------------------------------------------------------------------------------- */

size_t hr_dataset_image_bytes(const hr_dataset *ds);
/* Set ds->digest from the rest of ds. */
void hr_dataset_digest(hr_dataset *ds);
/* A new data set of the images at rows[0..n) of ds, in that order; index is taken over. */
void hr_dataset_pick(const hr_dataset *ds, const uint32_t *rows, uint32_t n, hr_dataset *out);
/* Positions of the images of each class: class k's are rows[start[k]..start[k + 1]), in file order. The
 * caller frees *rows (n) and *start (classes + 1). */
void hr_dataset_by_class(const hr_dataset *ds, uint32_t **rows, uint32_t **start);

/* ---- manifest.c ---------------------------------------------------------------------------------------- */

/* Add the entry of one split, stored as NAME.tfrecord, to the object splits. subset_of may be NULL. */
void hr_manifest_split(json_t *splits, const char *name, const hr_dataset *ds, const char *subset_of);
/* A manifest of the data set title with the shape and classes of ds. splits is taken over, history borrowed;
 * the caller owns the result. */
json_t *hr_manifest_new(const char *title, const hr_dataset *ds, json_t *splits, const json_t *history);
/* Is ds, read from the file tfrecord, what the manifest beside it lists under that name? A file that was cut
 * between two records is a sound shorter one; only the manifest knows better. No manifest, one that is not
 * ours or one that does not list the file says nothing. Returns 0, or HR_ESHAPE. */
HR_MUST_CHECK int hr_manifest_vouch(const char *tfrecord, const hr_dataset *ds, hr_err *err);

/* ---- unpack.c: the bytes of one file, gunzipped when it is a gzip file ------------------------------------
 */

typedef struct hr_unpack hr_unpack;
HR_MUST_CHECK int hr_unpack_open(hr_unpack **u, const char *path, hr_err *err);
/* Read exactly n bytes. Returns 0, HR_EIO, or HR_EFORMAT "FILE: cut short: WHAT needs ...". */
HR_MUST_CHECK int hr_unpack_read(hr_unpack *u, void *dst, size_t n, const char *what, hr_err *err);
/* Check that nothing follows and that a gzip file's own check sum holds. */
HR_MUST_CHECK int hr_unpack_end(hr_unpack *u, hr_err *err);
void hr_unpack_close(hr_unpack *u);

#endif
