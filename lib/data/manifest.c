/* lib/data/manifest.c -- manifest.json: what a directory of tfrecords holds.
 *
 *     {"version": 1, "name": "FashionMNIST", "classes": 10,
 *      "shape": {"channels": 1, "height": 28, "width": 28},
 *      "splits": {"train":   {"file": "train.tfrecord", "images": 60000, "per_class": [6000, ...],
 *                             "digest": SHA-256 of the data set (dataset.c), "subset_of": null},
 *                 "holdout": {..., "subset_of": "train"}, ...},
 *      "history": {...}}
 *
 * A split in shards has "shards": [{"file": "rest-00000-of-00064.tfrecord", "images": n}, ...]
 * besides; file is then the name that hr_dataset_load takes for all of them together. "damaged":
 * [{"image", "why"}] lists images that could not be decoded and are in no split.
 *
 * "normalize": {"mean": [...], "std": [...]} stands there when networks for this data set are published with
 * a normalisation of the pixels (ImageNet).
 *
 * subset_of says which splits overlap: measuring on holdout is measuring on training images of a network that
 * was trained on train. The tfrecords can be read without the manifest, but they cannot tell how many classes
 * there are beyond the ones they show, nor that they were cut between two records: whoever loads one asks the
 * manifest beside it, if there is one (hr_manifest_vouch). */
#include "data/internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSION = 1 };

void hr_manifest_split(json_t *splits, const char *name, const hr_dataset *ds, const char *subset_of)
{
    uint32_t *rows, *start;
    json_t *per_class = json_array();
    hr_dataset_by_class(ds, &rows, &start);
    for (int k = 0; k < ds->classes; k++)
        json_array_append_new(per_class, json_integer(start[k + 1] - start[k]));
    free(rows);
    free(start);
    char *file = hr_xasprintf("%s.tfrecord", name);
    json_object_set_new(splits, name,
                        json_pack("{s:s, s:I, s:o, s:s, s:s?}", "file", file, "images", (json_int_t)ds->n,
                                  "per_class", per_class, "digest", ds->digest, "subset_of", subset_of));
    free(file);
}

json_t *hr_manifest_sharded(const char *name, const hr_scan *all, int classes, json_t *list)
{
    uint32_t *count = hr_xcalloc((size_t)classes, sizeof *count);
    json_t *per_class = json_array();
    for (uint32_t i = 0; i < all->n; i++)
        if (all->labels[i] < classes)
            count[all->labels[i]]++;
    for (int k = 0; k < classes; k++)
        json_array_append_new(per_class, json_integer(count[k]));
    free(count);
    char *file = hr_xasprintf("%s.tfrecord", name);
    json_t *entry = json_pack("{s:s, s:I, s:o, s:s, s:n, s:o}", "file", file, "images", (json_int_t)all->n,
                              "per_class", per_class, "digest", all->digest, "subset_of", "shards", list);
    free(file);
    return entry;
}

json_t *hr_manifest_new(const char *title, const hr_dataset *ds, json_t *splits, const json_t *history)
{
    json_t *j = json_pack("{s:i, s:s, s:i, s:{s:i, s:i, s:i}, s:o, s:o}", "version", VERSION, "name", title,
                          "classes", ds->classes, "shape", "channels", ds->c, "height", ds->h, "width", ds->w,
                          "splits", splits, "history", json_deep_copy(history));
    if (!j)
        BUG("no manifest for '%s'", title);
    return j;
}

/* DIR/manifest.json for DIR/x.tfrecord */
static char *path_beside(const char *tfrecord)
{
    const char *slash = strrchr(tfrecord, '/');
    return hr_xasprintf("%.*smanifest.json", slash ? (int)(slash - tfrecord) + 1 : 0, tfrecord);
}

/* Does this entry, a split or one of its shards, list the file under that name, and the same images? */
static int compare(const json_t *entry, const char *tfrecord, const char *base, uint32_t n,
                   const char *digest, bool *listed, hr_err *err)
{
    const char *file = json_string_value(json_object_get(entry, "file"));
    const char *listed_digest = json_string_value(json_object_get(entry, "digest"));
    json_int_t images = json_integer_value(json_object_get(entry, "images"));
    if (!file || strcmp(file, base) != 0)
        return HR_OK;
    *listed = true;
    if (images != n)
        return hr_fail(err, HR_ESHAPE, "%s: holds %u images, manifest.json beside it lists %lld", tfrecord, n,
                       (long long)images);
    if (listed_digest && strcmp(listed_digest, digest) != 0)
        return hr_fail(err, HR_ESHAPE, "%s: holds other images than manifest.json beside it lists", tfrecord);
    return HR_OK;
}

int hr_manifest_vouch(const char *tfrecord, uint32_t n, const char *digest, bool *listed, hr_err *err)
{
    const char *slash = strrchr(tfrecord, '/'), *base = slash ? slash + 1 : tfrecord, *name;
    char *path = path_beside(tfrecord);
    json_t *j = NULL, *split, *shard;
    bool found = false;
    size_t i;
    int rc = HR_OK;
    if (strcmp(tfrecord, "-") != 0 && access(path, F_OK) == 0 && hr_json_load(path, &j, NULL) == HR_OK &&
        json_integer_value(json_object_get(j, "version")) == VERSION) {
        json_object_foreach (json_object_get(j, "splits"), name, split) {
            if (rc == HR_OK)
                rc = compare(split, tfrecord, base, n, digest, &found, err);
            json_array_foreach (json_object_get(split, "shards"), i, shard)
                if (rc == HR_OK)
                    rc = compare(shard, tfrecord, base, n, digest, &found, err);
        }
    }
    if (listed)
        *listed = found;
    json_decref(j);
    free(path);
    return rc;
}

/* The split whose file is called base. */
static const char *split_of(const json_t *splits, const char *base)
{
    const char *name;
    json_t *split;
    json_object_foreach ((json_t *)splits, name, split) {
        const char *file = json_string_value(json_object_get(split, "file"));
        if (file && strcmp(file, base) == 0)
            return name;
    }
    return NULL;
}

static const char *parent_of(const json_t *splits, const char *name)
{
    const char *parent = json_string_value(json_object_get(json_object_get(splits, name), "subset_of"));
    return parent ? parent : "";
}

bool hr_manifest_overlap(const char *a, const char *b, char split[32])
{
    char *beside_a = path_beside(a), *beside_b = path_beside(b);
    const char *slash_a = strrchr(a, '/'), *slash_b = strrchr(b, '/');
    json_t *j = NULL;
    bool overlap = false;
    split[0] = '\0';
    if (strcmp(b, "-") != 0 && hr_json_load(beside_b, &j, NULL) == HR_OK) {
        const json_t *splits = json_object_get(j, "splits");
        const char *in_b = split_of(splits, slash_b ? slash_b + 1 : b);
        const char *in_a =
            strcmp(beside_a, beside_b) == 0 ? split_of(splits, slash_a ? slash_a + 1 : a) : NULL;
        if (in_b)
            snprintf(split, 32, "%s", in_b);
        overlap = in_a && in_b &&
                  (strcmp(in_a, in_b) == 0 || strcmp(parent_of(splits, in_a), in_b) == 0 ||
                   strcmp(parent_of(splits, in_b), in_a) == 0);
    }
    json_decref(j);
    free(beside_a);
    free(beside_b);
    return overlap;
}

/* {"mean": [one number per channel], "std": [...]}, or NULL */
static int read_normalize(hr_manifest *m, const json_t *j, const char *path, hr_err *err)
{
    const json_t *mean = json_object_get(j, "mean"), *std = json_object_get(j, "std");
    if (!j)
        return HR_OK;
    bool good = json_array_size(mean) == (size_t)m->c && json_array_size(std) == (size_t)m->c;
    for (int i = 0; good && i < m->c; i++) {
        const json_t *a = json_array_get(mean, (size_t)i), *b = json_array_get(std, (size_t)i);
        m->mean[i] = json_number_value(a);
        m->std[i] = json_number_value(b);
        good = json_is_number(a) && json_is_number(b) && m->std[i] > 0;
    }
    m->normalized = good;
    return good ? HR_OK
                : hr_fail(err, HR_EFORMAT, "%s: 'normalize' does not hold %d means and positive deviations",
                          path, m->c);
}

int hr_manifest_beside(hr_manifest *m, const char *tfrecord, hr_err *err)
{
    *m = (hr_manifest){0};
    char *path = path_beside(tfrecord);
    if (strcmp(tfrecord, "-") == 0 || access(path, F_OK)) {
        free(path);
        return HR_OK;
    }
    json_t *j = NULL;
    json_error_t je;
    const char *name;
    int version, rc = hr_json_load(path, &j, err);
    if (rc == HR_OK &&
        json_unpack_ex(j, &je, 0, "{s:i, s:s, s:i, s:{s:i, s:i, s:i}}", "version", &version, "name", &name,
                       "classes", &m->classes, "shape", "channels", &m->c, "height", &m->h, "width", &m->w))
        rc = hr_fail(err, HR_EFORMAT, "%s: not a manifest of a data set: %s", path, je.text);
    if (rc == HR_OK && version != VERSION)
        rc = hr_fail(err, HR_EFORMAT, "%s: manifest of version %d, this program reads %d", path, version,
                     VERSION);
    if (rc == HR_OK &&
        (m->classes < 1 || m->classes > MAX_CLASSES || m->c < 1 || m->c > MAX_CHANNELS || m->h < 1 ||
         m->h > MAX_SIDE || m->w < 1 || m->w > MAX_SIDE || strlen(name) >= sizeof m->name))
        rc = hr_fail(err, HR_EFORMAT, "%s: %d classes of images %dx%dx%d, or the name, are out of range",
                     path, m->classes, m->c, m->h, m->w);
    if (rc == HR_OK)
        rc = read_normalize(m, json_object_get(j, "normalize"), path, err);
    if (rc == HR_OK)
        memcpy(m->name, name, strlen(name) + 1);
    else
        *m = (hr_manifest){0};
    json_decref(j);
    free(path);
    return rc;
}
