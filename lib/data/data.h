/* lib/data/data.h -- data sets: tfrecord files, the raw formats they are made from, and batches.
 *
 * On disk a data set is a set of tfrecord files of tf.train.Example records (tfrecord.c and example.proto
 * describe the bytes). In memory it is one block of uint8 pixels in H,W,C order and one of labels. Pixels
 * become float value/255 in [0,1] when a batch is filled; no mean or deviation is taken off here. */
#ifndef HR_DATA_H
#define HR_DATA_H

#include "base/base.h"

/* ---- tfrecord framing -------------------------------------------------------------------------------- */

/* Reader of length-prefixed, CRC-32C protected records from a file or a pipe, which may be gzipped as a
 * whole. */
typedef struct hr_tfrec_reader hr_tfrec_reader;
HR_MUST_CHECK int hr_tfrec_open(hr_tfrec_reader **r, const char *path, hr_err *err);
/* The next record: *data (borrowed, valid until the next call) and *n. *data is NULL at a clean end of file.
 * Lengths are checked against what is left of the file before memory is taken; on pipes memory grows with the
 * bytes read. Returns 0, HR_EIO, HR_EFORMAT "FILE: record 17 at byte 52411: ...". */
HR_MUST_CHECK int hr_tfrec_next(hr_tfrec_reader *r, const uint8_t **data, size_t *n, hr_err *err);
void hr_tfrec_close(hr_tfrec_reader *r);
/* Append one framed record to fp. Returns 0 or HR_EIO (name is for the message). */
HR_MUST_CHECK int hr_tfrec_write(FILE *fp, const char *name, const void *data, size_t n, hr_err *err);

/* Read every record of a file as an image with its label and write one line on it to out: how many, their
 * shape, labels, digest, and whether the manifest beside it agrees (without one, nobody notices a file cut
 * between two records). Returns what hr_dataset_load returns. */
HR_MUST_CHECK int hr_tfrec_check(const char *path, FILE *out, hr_err *err);
/* The data-set digest of files that are one split, record by record: as hr_dataset_load's, without taking the
 * images into memory. Returns what hr_dataset_load returns. */
HR_MUST_CHECK int hr_tfrec_digest(const char *const *paths, int n, char digest[65], hr_err *err);
/* Write each record, a tf.train.Example of any kind, as one line of JSON: {"record", "offset", "bytes",
 * "features"}. A feature is an array of numbers or strings; {"bytes", "begins", "sha256"} stands for bytes
 * that are no short text. */
HR_MUST_CHECK int hr_tfrec_dump(const char *path, FILE *out, hr_err *err);

/* ---- data sets in memory ----------------------------------------------------------------------------- */

typedef struct hr_dataset {
    uint32_t n;
    int c, h, w, classes; /* classes: given, or 1 + the largest label */
    uint8_t *pixels;      /* (n, h, w, c) */
    int32_t *labels;      /* (n), 0 <= label < classes */
    uint32_t *index;      /* (n) place of each image in the file: keys its noise, survives subsetting */
    char digest[65];      /* SHA-256 over pixels, labels and shape (not over classes and index) */
    char whole[65];       /* that of the file's whole data set, which this may be a part of: what a history
                             names, so that it leads on to the manifest */
} hr_dataset;

/* Read all of a tfrecord file, gzipped or not (or "-", or several shards NAME-00000-of-00004.tfrecord given
 * as NAME.tfrecord). classes 0: take 1 + the largest label. Returns 0, HR_EIO, HR_EFORMAT (damaged, no image,
 * missing keys), HR_ESHAPE (images of different shapes, a label >= classes, not the images that manifest.json
 * beside it lists for this file). */
HR_MUST_CHECK int hr_dataset_load(hr_dataset *ds, const char *path, int classes, hr_err *err);
/* The same for a network that takes images of h x w: JPEG and PNG images that are larger are scaled so that
 * their short side has 256/224 of that, and the middle is cut out (image.c). Raw pixels are never scaled. */
HR_MUST_CHECK int hr_dataset_load_sized(hr_dataset *ds, const char *path, int classes, int h, int w,
                                        hr_err *err);
void hr_dataset_release(hr_dataset *ds); /* a zeroed one is allowed */
/* Write ds as a tfrecord file with the keys image/encoded (raw H,W,C bytes), image/format, image/class/label,
 * image/height, image/width. Atomic. */
HR_MUST_CHECK int hr_dataset_save(const hr_dataset *ds, const char *path, hr_err *err);
/* Write points (n, h, w, c), one for each image of ds, with the class that a network gave them, as a tfrecord
 * file (adversarial.c). points are only read. Returns 0 or HR_EIO. */
HR_MUST_CHECK int hr_adversarial_write(const hr_dataset *ds, float *points, const int32_t *given, hr_out *out,
                                       hr_err *err);
/* Keep limit images: the first ones in file order, or, stratified, as equal a number of each class as can be
 * (drawn with stream HR_STREAM_SUBSET; file order is kept). limit 0 or >= n keeps all. HR_EINVAL when
 * stratified and limit < classes present. */
HR_MUST_CHECK int hr_dataset_subset(hr_dataset *ds, uint32_t limit, bool stratified, uint32_t seed,
                                    hr_err *err);
/* The same as a new data set, *some (release it with hr_dataset_release), where all of ds is needed again. */
HR_MUST_CHECK int hr_dataset_some(const hr_dataset *ds, uint32_t limit, bool stratified, uint32_t seed,
                                  hr_dataset *some, hr_err *err);
/* Does a network with this input shape and class count fit? HR_ESHAPE naming both files and shapes if not. */
HR_MUST_CHECK int hr_dataset_fits(const hr_dataset *ds, const char *data_name, int c, int h, int w,
                                  int classes, const char *model_name, hr_err *err);

/* Fill a batch: x (n, h, w, c) float in [0,1] and y (n) from images rows[0..n). rows are positions in ds. */
void hr_batch_fill(const hr_dataset *ds, const uint32_t *rows, int n, float *x, int32_t *y);
/* Random crop with zero padding `pad` and horizontal flip with probability 1/2, in place on a batch; draws
 * are keyed by (epoch, ds->index[rows[i]]) on HR_STREAM_AUGMENT. */
void hr_batch_augment(const hr_dataset *ds, const uint32_t *rows, int n, float *x, int pad, bool flip,
                      uint32_t seed, uint32_t epoch);

/* What is cut out of an image and brought to the image's size: h x w pixels from (y,x), which are 0 outside
 * of it, and mirrored. */
typedef struct hr_window {
    int32_t y, x, h, w, flip;
} hr_window;
/* The windows (n) that hr_batch_augment cuts, or hr_batch_resized_crop (resized; then pad does not count):
 * for comparing those that a device draws on its own. */
void hr_batch_windows(const hr_dataset *ds, const uint32_t *rows, int n, bool resized, int pad, bool flip,
                      uint32_t seed, uint32_t epoch, hr_window *windows);

/* Random resized crop and, with flip, horizontal flip with probability 1/2, in place on a batch (crop.c);
 * draws are keyed as above. */
void hr_batch_resized_crop(const hr_dataset *ds, const uint32_t *rows, int n, float *x, bool flip,
                           uint32_t seed, uint32_t epoch);

/* ---- raw formats ------------------------------------------------------------------------------------- */

/* IDX (MNIST family), plain or gzip, through libarchive: images 0x00000803 (n, h, w) and labels 0x00000801.
 * Returns 0, HR_EIO, HR_EFORMAT (bad magic, cut, trailing bytes), HR_ESHAPE (counts differ). */
HR_MUST_CHECK int hr_idx_load(hr_dataset *ds, const char *images, const char *labels, hr_err *err);

/* Split train into holdout (each images of every class, or, when that is 0, int(n*fraction/classes), drawn on
 * HR_STREAM_SPLIT, shuffled) and rest (the others, shuffled). Both are new data sets owned by the caller;
 * their index keeps each image's place in train (and is lost in a file, which numbers its own images).
 * HR_EINVAL: fraction is outside (0,1), takes no image at all, or more than some class has; both are empty
 * then. */
HR_MUST_CHECK int hr_dataset_split(const hr_dataset *train, double fraction, uint32_t each, uint32_t seed,
                                   hr_dataset *holdout, hr_dataset *rest, hr_err *err);

/* ---- conversion -------------------------------------------------------------------------------------- */

/* A data set that we can convert: a row of the table in source.c. */
typedef struct hr_source hr_source;
/* Names of the rows in order, NULL-terminated; an index into this list is hr_convert_args.source. */
const char *const *hr_source_names(void);

typedef struct hr_convert_args {
    int source;
    const char *src,
        *output;       /* what to read: a directory or file; directory to write to, made when missing */
    const char *title; /* name in the manifest; NULL: the source's own */
    double holdout;    /* fraction of the training images, in (0,1), spread evenly over the classes; */
    int holdout_each;  /* or, when not 0, the number of images of each class; 0 for ImageNet: 13 */
    uint32_t seed;
    bool unverified;      /* take files that are not the published ones, and any number of images */
    bool published_names; /* add links under the names that the published programs use (names.c) */
    /* ImageNet only */
    const char *labels;  /* which classes the validation archive's images have, or NULL (imagenet.c) */
    const char *synsets; /* the class of each number that labels may hold, or NULL */
    int side, shards;    /* images are side x side; number of files for each part */
    int64_t max_bad;     /* so many damaged images are left out */
    bool restart;        /* discard the state of an interrupted run */
} hr_convert_args;
typedef struct hr_convert_counts {
    uint32_t train, test, holdout, rest, damaged;
    int classes;
} hr_convert_counts;
/* Write train, test, holdout and rest .tfrecord and, last, manifest.json (name, classes, shape; per split its
 * file, images, images per class, data-set digest, and the split that it is a subset of; history). The
 * digests of the files read are added to history, which is borrowed. Returns 0 with *counts set; HR_EINVAL,
 * HR_EIO, HR_EFORMAT, HR_ESHAPE. Bad input is found before the first file is written; but ImageNet is
 * converted shard by shard (shards.c), can be interrupted (HR_EINTR), goes on, and has no train, which is
 * holdout and rest. */
HR_MUST_CHECK int hr_convert(const hr_convert_args *args, json_t *history, hr_convert_counts *counts,
                             hr_err *err);

/* What the manifest.json beside a tfrecord file says of its data set. */
typedef struct hr_manifest {
    char name[64]; /* "FashionMNIST"; empty when there is no manifest */
    int classes;   /* 0 when there is no manifest */
    int c, h, w;
    bool normalized; /* networks for this data set take (pixel - mean) / std, per channel */
    double mean[4], std[4];
} hr_manifest;
/* Read manifest.json in the directory of the file tfrecord. *m is all zero when there is none, and for "-".
 * Returns 0, HR_EIO, or HR_EFORMAT. */
HR_MUST_CHECK int hr_manifest_beside(hr_manifest *m, const char *tfrecord, hr_err *err);

/* Does the manifest say that the tfrecord files a and b of one directory have images in common: the same
 * split, or one a subset of the other? split receives b's ("test"), or "" when no manifest tells. */
bool hr_manifest_overlap(const char *a, const char *b, char split[32]);

#endif
