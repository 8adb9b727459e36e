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

/* Number and offset of the record that hr_tfrec_next returned last. */
void hr_tfrec_at(const hr_tfrec_reader *r, uint64_t *number, uint64_t *offset);
/* Append to the empty b what comes before a record's data; after the data, what comes behind. */
void hr_tfrec_frame_begin(hr_buf *b);
void hr_tfrec_frame_end(hr_buf *b);
/* How many records like the last one can still come, that one counted; 0 when the size of the input is not
 * known (pipes). */
uint64_t hr_tfrec_expect(const hr_tfrec_reader *r);

/* ---- image.c: JPEG and PNG --------------------------------------------------------------------------------
 */

typedef struct hr_image {
    int c, h, w;
    uint8_t *pixels;               /* (h, w, c), and HR_IMAGE_SPARE bytes that are no part of it */
    size_t cap;                    /* bytes at pixels, reused for the next image */
    int full_h, full_w, top, left; /* what is here is this part of an image of that size */
} hr_image;
enum { HR_IMAGE_SPARE = 16 };
void hr_image_release(hr_image *im); /* a zeroed one is allowed */
/* Room for an image of this size; what im held is lost. */
void hr_image_reserve(hr_image *im, int c, int h, int w);
/* "JPEG" or "PNG" when the bytes begin like one, else NULL. */
const char *hr_image_kind(const uint8_t *p, size_t n);
/* Decode into im: with rgb to 3 channels, else to those that the image has. Returns 0, or HR_EFORMAT with
 * *why; im then holds no image. */
HR_MUST_CHECK int hr_image_decode(const uint8_t *bytes, size_t n, bool rgb, hr_image *im, hr_err *why);
/* Decode what is needed of an image for hr_image_fit, as RGB, into scratch, and do that. */
HR_MUST_CHECK int hr_image_decode_fit(const uint8_t *bytes, size_t n, int h, int w, hr_image *scratch,
                                      hr_image *out, hr_err *why);

/* ---- scale.c ------------------------------------------------------------------------------------------- */

/* Which rows top..bottom-1 and columns left..right-1 of an image of ih x iw does hr_image_fit look at? */
void hr_image_window(int ih, int iw, int h, int w, int *top, int *bottom, int *left, int *right);
/* Scale im so that its short side has 256/224 of the smaller of h and w, and cut the middle h x w out, into
 * *out. */
void hr_image_fit(const hr_image *im, int h, int w, hr_image *out);

/* ---- example.c: one image as a serialized tf.train.Example ----------------------------------------------
 */

typedef struct hr_example {
    const uint8_t *image; /* (h, w, c); borrowed */
    int c, h, w;
    int64_t label;
    bool encoded; /* the record holds a JPEG or PNG image */
} hr_example;

/* Memory for one decoded record, reused for the next one. Start with {0}. */
typedef struct hr_arena {
    hr_image decoded, fitted; /* of a JPEG or PNG image */
    uint8_t *base;
    size_t cap, used, wanted; /* wanted: bytes that all allocations since the last reset would have needed */
    struct hr_arena_extra *extra;
} hr_arena;
void hr_arena_release(hr_arena *a);

/* Decode data[0..n). ex->image points into the arena and lives until the next call with it. A JPEG or PNG
 * image that is larger than h x w is brought to that size (h 0: it is not). Returns 0, or HR_EFORMAT with
 * *why (768 bytes) telling what is wrong with the record. */
HR_MUST_CHECK int hr_example_unpack(hr_arena *a, const uint8_t *data, size_t n, int h, int w, hr_example *ex,
                                    hr_err *why);
/* Append the serialized Example to b. Returns where in b its pixels begin. */
size_t hr_example_pack(const hr_example *ex, hr_buf *b);

/* ---- dataset.c ----------------------------------------------------------------------------------------- */

size_t hr_dataset_image_bytes(const hr_dataset *ds);
/* Set ds->digest from the rest of ds. */
void hr_dataset_digest(hr_dataset *ds);
/* The end of every such digest, SHA-256 over the pixels, which sha has seen, the n labels as 32-bit
 * little-endian numbers, and the line "N H W C\n". The sizes come last because a reader learns N last. The
 * number of classes is left out: a file has the same digest however it was loaded. Releases sha. */
void hr_dataset_digest_end(hr_sha256 *sha, const int32_t *labels, uint32_t n, int c, int h, int w,
                           char hex[65]);
/* A new data set of the images at rows[0..n) of ds, in that order; index is taken over. */
void hr_dataset_pick(const hr_dataset *ds, const uint32_t *rows, uint32_t n, hr_dataset *out);
/* Positions of the images of each class: class k's are rows[start[k]..start[k + 1]), in file order. The
 * caller frees *rows (n) and *start (classes + 1). */
void hr_dataset_by_class(const hr_dataset *ds, uint32_t **rows, uint32_t **start);

/* ---- inspect.c ----------------------------------------------------------------------------------------- */

typedef struct hr_scan {
    uint32_t n, encoded; /* images; those that are JPEG or PNG */
    uint64_t bytes;      /* of the records' data */
    int c, h, w;         /* of the first image */
    bool one_shape;      /* all have that shape */
    int classes;         /* 1 + the largest label */
    int32_t *labels;     /* (n) */
    char digest[65];     /* what hr_dataset.digest would be, when all have one shape; after the end */
    hr_sha256 *sha;      /* until the end */
} hr_scan;
/* Images of one data set come one after the other, of which none is kept: start, any number of images or
 * files, end, release. */
void hr_scan_start(hr_scan *s);
void hr_scan_add(hr_scan *s, const hr_example *ex, size_t bytes); /* bytes: of the record's data */
/* The images of a file; *own (may be NULL) gets their number. Returns what hr_dataset_load returns, but for
 * images of different shapes, which are no error here. */
HR_MUST_CHECK int hr_scan_file(hr_scan *s, const char *path, uint32_t *own, hr_err *err);
void hr_scan_end(hr_scan *s);
void hr_scan_release(hr_scan *s); /* a zeroed one is allowed */

/* ---- manifest.c ---------------------------------------------------------------------------------------- */

/* Add the entry of one split, stored as NAME.tfrecord, to the object splits. subset_of may be NULL. */
void hr_manifest_split(json_t *splits, const char *name, const hr_dataset *ds, const char *subset_of);
/* The entry of a split that is stored in the shards of the JSON array list, which is taken over. */
json_t *hr_manifest_sharded(const char *name, const hr_scan *all, int classes, json_t *list);
/* A manifest of the data set title with the shape and classes of ds. splits is taken over, history borrowed;
 * the caller owns the result. */
json_t *hr_manifest_new(const char *title, const hr_dataset *ds, json_t *splits, const json_t *history);
/* Are these n images, read from the file tfrecord, what the manifest beside it lists under that name? A file
 * that was cut between two records is a sound shorter one; only the manifest knows better. No manifest, one
 * that is not ours or one that does not list the file says nothing; *listed (may be NULL) is false then.
 * Returns 0, or HR_ESHAPE. */
HR_MUST_CHECK int hr_manifest_vouch(const char *tfrecord, uint32_t n, const char *digest, bool *listed,
                                    hr_err *err);

/* ---- unpack.c: the bytes of one file, gunzipped when it is a gzip file ------------------------------------
 */

typedef struct hr_unpack hr_unpack;
HR_MUST_CHECK int hr_unpack_open(hr_unpack **u, const char *path, hr_err *err);
/* The same for an input that is open and moves into u; the bytes head[0..n), already read from it, are
 * borrowed until the first call of hr_unpack_some returns with more than n bytes read in all. */
HR_MUST_CHECK int hr_unpack_over(hr_unpack **u, hr_in *in, const uint8_t *head, size_t n, hr_err *err);
/* Read at most n bytes; *got says how many, fewer than n only at the end. */
HR_MUST_CHECK int hr_unpack_some(hr_unpack *u, void *dst, size_t n, size_t *got, hr_err *err);
/* Read exactly n bytes. Returns 0, HR_EIO, or HR_EFORMAT "FILE: cut short: WHAT needs ...". */
HR_MUST_CHECK int hr_unpack_read(hr_unpack *u, void *dst, size_t n, const char *what, hr_err *err);
/* Check that nothing follows and that a gzip file's own check sum holds. */
HR_MUST_CHECK int hr_unpack_end(hr_unpack *u, hr_err *err);
void hr_unpack_close(hr_unpack *u);

/* ---- walk.c: the members of a tar archive, one after the other, nothing unpacked to disk
 * -------------------
 */

typedef struct hr_walk hr_walk;
/* Walk through the tar archive path, plain or gzipped, from its beginning. */
HR_MUST_CHECK int hr_walk_open(hr_walk **w, const char *path, hr_err *err);
/* Walk through the uncompressed archive path from a member on, whose place hr_walk_list has told. */
HR_MUST_CHECK int hr_walk_at(hr_walk **w, const char *path, int64_t offset, hr_err *err);
/* Call add for each regular file in the uncompressed tar archive path, without reading their contents.
 * Returns 0, HR_EIO, HR_EFORMAT. */
HR_MUST_CHECK int hr_walk_list(const char *path, void (*add)(void *to, const char *name, int64_t offset),
                               void *to, hr_err *err);
/* Walk through the tar archive that is outer's current member; outer is borrowed and stays where it is until
 * this walk is closed. */
HR_MUST_CHECK int hr_walk_inside(hr_walk **w, hr_walk *outer, hr_err *err);
/* Go to the next regular file. *name is borrowed until the next call, and NULL at the end; the archive was
 * sound to its last byte then. Returns 0, HR_EIO, HR_EFORMAT. */
HR_MUST_CHECK int hr_walk_next(hr_walk *w, const char **name, hr_err *err);
/* Read the current member's content into b, which is emptied first. HR_EFORMAT when it is longer than max. */
HR_MUST_CHECK int hr_walk_slurp(hr_walk *w, hr_buf *b, size_t max, hr_err *err);
/* For messages: "FILE: MEMBER". Borrowed until the next call with w. */
const char *hr_walk_where(hr_walk *w);
void hr_walk_close(hr_walk *w); /* NULL is allowed */

/* ---- imagenet.c: where ImageNet's images are ----------------------------------------------------- */

/* One image as it is stored, and then as a record. */
typedef struct hr_blob {
    char *name;    /* for messages and the manifest: "n01440764/n01440764_18.JPEG" */
    int label;     /* class number */
    hr_buf file;   /* the JPEG or PNG file */
    hr_buf record; /* a framed tfrecord record; empty when the image is damaged */
    size_t pixels; /* where they begin in it */
    hr_err why;    /* in which way */
} hr_blob;
typedef struct hr_blobs {
    hr_blob *b;
    uint32_t n, cap;
} hr_blobs;
void hr_blobs_clear(hr_blobs *u);

typedef struct hr_imagenet hr_imagenet;
/* Find out what there is: classes, and how many images are to be tested on. labels names the file with the
 * classes of the images in the validation archive, or is NULL; synsets the file with the class of each number
 * that stands there, or is NULL. Returns 0, HR_EINVAL, HR_EIO, HR_EFORMAT, HR_ESHAPE. */
HR_MUST_CHECK int hr_imagenet_open(hr_imagenet **in, const char *src, const char *labels, const char *synsets,
                                   hr_err *err);
void hr_imagenet_close(hr_imagenet *in); /* NULL is allowed */
int hr_imagenet_classes(const hr_imagenet *in);
uint32_t hr_imagenet_tests(const hr_imagenet *in);
/* Add the digests of what is read to history: of archives and labels their content, of class folders the
 * names and sizes in them. verify: the archives must be the published ones. */
HR_MUST_CHECK int hr_imagenet_inputs(const hr_imagenet *in, json_t *history, bool verify, hr_err *err);
/* Read all training images of a class, in the order of their names. */
HR_MUST_CHECK int hr_imagenet_class(hr_imagenet *in, int k, hr_blobs *u, hr_err *err);
/* Read the test images from..to-1, in their order in the archive, or by class and name. Calls go forward. */
HR_MUST_CHECK int hr_imagenet_test(hr_imagenet *in, uint32_t from, uint32_t to, hr_blobs *u, hr_err *err);

/* ---- shards.c: a data set that is larger than memory --------------------------------------------- */

/* hr_convert for ImageNet, which the published one has n_classes and n_tests of. */
HR_MUST_CHECK int hr_convert_shards(const hr_convert_args *args, const char *title, uint32_t n_classes,
                                    uint32_t n_tests, json_t *history, hr_convert_counts *counts,
                                    hr_err *err);

/* ---- names.c ------------------------------------------------------------------------------------------- */

typedef struct hr_published {
    const char *part, *name; /* "holdout", "cifar_train_5k"; a list ends with {0} */
} hr_published;
/* Link every file of these parts in a directory under its published name. Returns 0 or HR_EIO (something that
 * is no link has the name). */
HR_MUST_CHECK int hr_link_published(const char *where, const hr_published names[], hr_err *err);

/* ---- the raw formats
 * ---------------------------------------------------------------------------------------
 */

/* CIFAR-10's archive, binary or Python version. Returns 0, HR_EIO, HR_EFORMAT. */
HR_MUST_CHECK int hr_cifar_load(const char *path, hr_dataset *train, hr_dataset *test, hr_err *err);

/* ---- mat.c: numeric arrays out of MATLAB 5 files
 * ------------------------------------------------------------ */

enum { HR_MAT_RANK = 4 };
typedef struct hr_mat {
    char name[64]; /* of the variable; the caller's */
    int rank;      /* number of sizes, 0..HR_MAT_RANK */
    uint32_t dims[HR_MAT_RANK];
    size_t count;  /* the product of dims */
    bool is_bytes; /* the array's class is uint8; */
    void *values;  /* then bytes, else doubles, whatever its class is; the first size runs fastest */
} hr_mat;
/* Read the variables whose names stand in wanted[0..n). They are released with hr_mat_release; after an error
 * none is left. Returns 0, HR_EIO, HR_EFORMAT (another kind of file or array, missing, cut, damaged). */
HR_MUST_CHECK int hr_mat_load(const char *path, hr_mat *wanted, int n_wanted, hr_err *err);
void hr_mat_release(hr_mat *m);
double hr_mat_value(const hr_mat *m, size_t i); /* value i of count */

/* One of SVHN's files of cropped digits, a MATLAB 5 file. Returns 0, HR_EIO, HR_EFORMAT, HR_ESHAPE (counts
 * differ). */
HR_MUST_CHECK int hr_svhn_load(hr_dataset *ds, const char *path, hr_err *err);

/* Read a pickled batch of n bytes: *count images of `image` bytes each, one behind the other, at *pixels,
 * and as many *labels; the caller frees both. where names it in messages. Returns 0 or HR_EFORMAT. */
HR_MUST_CHECK int hr_batch_pickle(const uint8_t *p, size_t n, const char *where, size_t image,
                                  uint8_t **pixels, int64_t **labels, uint32_t *count, hr_err *err);

/* SHA-256 and MD5 of a file's content, in one pass. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_file_digests(const char *path, char sha256[65], char md5[33], hr_err *err);

/* The window of a random resized crop of an h x w image (crop.c). */
hr_window hr_resized_window(int h, int w, bool flip, uint32_t seed, uint32_t epoch, uint32_t index);

#endif
