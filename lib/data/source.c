/* lib/data/source.c -- the data sets we know by name, and their conversion to a directory of tfrecords.
 *
 * A row of the table below is all that a data set needs: where its files are and which function reads them.
 * hr_convert does the rest the same way for all of them. Everything is read and split before anything is
 * written, and everything is written before anything takes the place of an earlier run's files. Then the old
 * manifest.json goes first and the new one comes last, so a directory with a manifest holds one whole
 * conversion. */
#include "data/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_INPUTS = 4 };

typedef struct inputs {
    char *path[MAX_INPUTS];
    const char *role[MAX_INPUTS];
    int n;
} inputs;

struct hr_source {
    const char *name, *title;
    int classes;              /* 0: as many as the training labels show */
    uint32_t n_train, n_test; /* 0: any number */
    const char *const *md5;   /* sums of the files as published, NULL-terminated; NULL: none are known */
    /* Read both parts of the data set from the directory or file src; list the files read. NULL: it is larger
     * than memory (shards.c). */
    int (*load)(const char *src, hr_dataset *train, hr_dataset *test, inputs *in, hr_err *err);
    const hr_published *published; /* names of its parts, or NULL */
};

/* DIR/NAME.gz if it is there, else DIR/NAME; recorded as an input. */
static const char *find_input(const char *dir, const char *name, const char *role, inputs *in)
{
    char *path = hr_xasprintf("%s/%s.gz", dir, name);
    if (access(path, F_OK))
        path[strlen(path) - 3] = '\0';
    in->path[in->n] = path;
    in->role[in->n++] = role;
    return path;
}

static int load_idx(const char *src, hr_dataset *train, hr_dataset *test, inputs *in, hr_err *err)
{
    const char *images = find_input(src, "train-images-idx3-ubyte", "train images", in);
    const char *labels = find_input(src, "train-labels-idx1-ubyte", "train labels", in);
    const char *test_images = find_input(src, "t10k-images-idx3-ubyte", "test images", in);
    const char *test_labels = find_input(src, "t10k-labels-idx1-ubyte", "test labels", in);
    int rc = hr_idx_load(train, images, labels, err);
    return rc ? rc : hr_idx_load(test, test_images, test_labels, err);
}

/* src itself when it is a file, else the first of the names (NULL-terminated) that is in the directory src,
 * else the last of them, whose absence the reader reports. Recorded as an input. */
static const char *find_archive(const char *src, const char *const *names, const char *role, inputs *in)
{
    struct stat st;
    bool is_dir = stat(src, &st) == 0 && S_ISDIR(st.st_mode);
    char *path = is_dir ? NULL : hr_xstrdup(src);
    for (; is_dir && *names && (!path || access(path, F_OK)); names++) {
        free(path);
        path = hr_xasprintf("%s/%s", src, *names);
    }
    in->path[in->n] = path;
    in->role[in->n++] = role;
    return path;
}

static int load_cifar(const char *src, hr_dataset *train, hr_dataset *test, inputs *in, hr_err *err)
{
    static const char *const names[] = {"cifar-10-binary.tar.gz", "cifar-10-python.tar.gz", NULL};
    return hr_cifar_load(find_archive(src, names, "archive", in), train, test, err);
}

/* The files of cropped digits, in the directory src. */
static int load_svhn(const char *src, hr_dataset *train, hr_dataset *test, inputs *in, hr_err *err)
{
    static const char *const part[] = {"train_32x32.mat", "test_32x32.mat"};
    static const char *const role[] = {"train", "test"};
    hr_dataset *const ds[] = {train, test};
    int rc = HR_OK;
    for (int i = 0; i < 2 && rc == HR_OK; i++) {
        in->path[in->n] = hr_xasprintf("%s/%s", src, part[i]);
        in->role[in->n] = role[i];
        rc = hr_svhn_load(ds[i], in->path[in->n++], err);
    }
    return rc;
}

/* Sums as their publishers give them: www.cs.toronto.edu/~kriz/cifar.html, github.com/zalandoresearch/
 * fashion-mnist; SVHN's as torchvision lists them; and those of the files in Debian's dataset-fashion-mnist,
 * which were compressed anew. */
static const char *const cifar_md5[] = {"c32a1d4ab5d03f1284b67883e8d87530",
                                        "c58f30108f718f92721af3b95e74349a", NULL};
static const char *const fashion_md5[] = {"8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                                          "25c81989df183df01b3e8a0aad5dffbe",
                                          "bef4ecab320f06d8554ea6380940ec79",
                                          "bb300cfdad3c16e7a12a480ee83cd310",
                                          "cf8536b0aa1a6ac5fa3f23001093305c",
                                          "10bea18fdb374794d4bb42e356e600c9",
                                          "f78720b4224f21cce2f2ccf2d7a94c9a",
                                          "0d30e22e447f3c33dab9ed536400ac01",
                                          NULL};

static const char *const svhn_md5[] = {"e26dedcc434d2e4c54c9b2d4a06d8373", "eb5a983be6a315427106f1b164d9cef3",
                                       NULL};

/* What the published programs call their files. They have no name for a part of ours that they do not write:
 * ImageNet's rest; and cifar_valid is a copy of the last batch, which nothing reads. */
static const hr_published cifar_names[] = {{"train", "cifar_train"},
                                           {"test", "cifar_test"},
                                           {"holdout", "cifar_train_5k"},
                                           {"rest", "cifar_train_45k"},
                                           {0}};
static const hr_published svhn_names[] = {{"train", "svhn_train"},
                                          {"test", "svhn_test"},
                                          {"holdout", "svhn_train_holdout"},
                                          {"rest", "svhn_train_rest"},
                                          {0}};
static const hr_published imagenet_names[] = {
    {"test", "ilsvrc12_valid"}, {"holdout", "ilsvrc12_split_train"}, {0}};

static const hr_source sources[] = {
    {"fashion-mnist", "FashionMNIST", 10, 60000, 10000, fashion_md5, load_idx, NULL},
    {"mnist", "MNIST", 10, 60000, 10000, NULL, load_idx, NULL},
    {"idx", "IDX", 0, 0, 0, NULL, load_idx, NULL},
    {"cifar10", "CIFAR10", 10, 50000, 10000, cifar_md5, load_cifar, cifar_names},
    {"svhn", "SVHN", 10, 73257, 26032, svhn_md5, load_svhn, svhn_names},
    {"imagenet", "ImageNet", 1000, 0, 50000, NULL, NULL, imagenet_names},
};

const char *const *hr_source_names(void)
{
    static const char *names[HR_COUNT(sources) + 1];
    for (size_t i = 0; i < HR_COUNT(sources); i++)
        names[i] = sources[i].name;
    return names;
}

/* Do the two parts fit each other and what is known of this data set? Sets their number of classes. */
static int check_parts(const hr_source *s, const hr_convert_args *args, hr_dataset *train, hr_dataset *test,
                       hr_err *err)
{
    const char *src = args->src;
    if (!args->unverified && ((s->n_train && train->n != s->n_train) || (s->n_test && test->n != s->n_test)))
        return hr_fail(err, HR_ESHAPE, "%s: %u training and %u test images, %s has %u and %u", src, train->n,
                       test->n, s->title, s->n_train, s->n_test);
    int classes = s->classes ? s->classes : train->classes;
    if (train->classes > classes || test->classes > classes)
        return hr_fail(err, HR_ESHAPE, "%s: label %d is outside 0..%d", src,
                       (train->classes > classes ? train->classes : test->classes) - 1, classes - 1);
    if (test->c != train->c || test->h != train->h || test->w != train->w)
        return hr_fail(err, HR_ESHAPE, "%s: test images are %dx%dx%d, training images %dx%dx%d", src, test->c,
                       test->h, test->w, train->c, train->h, train->w);
    train->classes = test->classes = classes;
    return HR_OK;
}

/* ---- conversion --------------------------------------------------------------------------------------- */

enum { TRAIN, TEST, HOLDOUT, REST, SPLITS };
static const struct {
    const char *name, *subset_of;
} splits[SPLITS] = {{"train", NULL}, {"test", NULL}, {"holdout", "train"}, {"rest", "train"}};

static int write_all(const char *dir, const char *title, const hr_dataset parts[SPLITS],
                     const json_t *history, hr_err *err)
{
    const hr_dataset *train = &parts[TRAIN];
    bool made = access(dir, F_OK) != 0;
    int rc = hr_mkdirs(dir, err);
    if (rc)
        return rc;
    char *manifest_path = hr_xasprintf("%s/manifest.json", dir);
    json_t *list = json_object();
    hr_outs_hold();
    hr_err why[SPLITS] = {HR_ERR_INIT, HR_ERR_INIT, HR_ERR_INIT, HR_ERR_INIT};
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < SPLITS; i++) {
        char *path = hr_xasprintf("%s/%s.tfrecord", dir, splits[i].name);
        if (hr_dataset_save(&parts[i], path, &why[i]) == HR_OK)
            why[i].code = HR_OK;
        free(path);
    }
    for (int i = 0; i < SPLITS; i++) {
        if (rc == HR_OK && why[i].code)
            rc = hr_fail(err, why[i].code, "%s", why[i].msg);
        hr_manifest_split(list, splits[i].name, &parts[i], splits[i].subset_of);
    }
    json_t *manifest = hr_manifest_new(title, train, list, history);
    if (rc == HR_OK)
        rc = hr_json_save(manifest, manifest_path, 2, err);
    if (rc == HR_OK && unlink(manifest_path) && errno != ENOENT)
        rc = hr_fail(err, HR_EIO, "%s: %s", manifest_path, strerror(errno));
    if (rc == HR_OK)
        rc = hr_outs_publish(err);
    else
        hr_outs_drop();
    if (rc && made)
        (void)!rmdir(dir);
    json_decref(manifest);
    free(manifest_path);
    return rc;
}

/* Can the manifest hold this name, and hr_manifest read it? */
static int check_title(const char *title, hr_err *err)
{
    size_t max = sizeof((hr_manifest *)NULL)->name - 1;
    json_t *text = json_string(title); /* NULL when it is not UTF-8 */
    bool good = text && strlen(title) <= max;
    json_decref(text);
    return good ? HR_OK
                : hr_fail(err, HR_EINVAL, "the name '%s' is longer than %zu bytes or not UTF-8", title, max);
}

/* Is this file one of those that were published? It becomes an input of history. */
static int check_input(const hr_source *s, const hr_convert_args *args, const char *path, const char *role,
                       json_t *history, hr_err *err)
{
    char sha256[65], md5[33];
    int rc = hr_file_digests(path, sha256, md5, err);
    if (rc)
        return rc;
    bool known = args->unverified || !s->md5;
    for (const char *const *m = s->md5; !known && *m; m++)
        known = strcmp(*m, md5) == 0;
    if (!known)
        return hr_fail(err, HR_EFORMAT,
                       "%s: its MD5 is %s, which is none of the published ones: damaged, or another file "
                       "(--checksum skip takes it as it is)",
                       path, md5);
    hr_history_input(history, role, sha256, NULL);
    return HR_OK;
}

/* hr_convert for what fits into memory. */
static int convert_whole(const hr_convert_args *args, const char *title, json_t *history,
                         hr_convert_counts *counts, hr_err *err)
{
    hr_dataset parts[SPLITS] = {0};
    inputs in = {.n = 0};
    const hr_source *s = &sources[args->source];
    int rc = s->load(args->src, &parts[TRAIN], &parts[TEST], &in, err);
    if (rc == HR_OK)
        rc = check_parts(s, args, &parts[TRAIN], &parts[TEST], err);
    if (rc == HR_OK) {
        hr_err why = HR_ERR_INIT; /* reading the inputs again for their sums takes as long as splitting */
        int split = HR_OK;
#pragma omp parallel sections
        {
#pragma omp section
            for (int i = 0; i < in.n && rc == HR_OK; i++)
                rc = check_input(s, args, in.path[i], in.role[i], history, err);
#pragma omp section
            split = hr_dataset_split(&parts[TRAIN], args->holdout, (uint32_t)args->holdout_each, args->seed,
                                     &parts[HOLDOUT], &parts[REST], &why);
        }
        if (rc == HR_OK && split)
            rc = hr_fail(err, split, "%s", why.msg);
    }
    for (int i = 0; i < in.n; i++)
        free(in.path[i]);
    if (rc == HR_OK)
        rc = write_all(args->output, title, parts, history, err);
    *counts = (hr_convert_counts){.train = parts[TRAIN].n,
                                  .test = parts[TEST].n,
                                  .holdout = parts[HOLDOUT].n,
                                  .rest = parts[REST].n,
                                  .classes = parts[TRAIN].classes};
    for (int i = 0; i < SPLITS; i++)
        hr_dataset_release(&parts[i]);
    return rc;
}

int hr_convert(const hr_convert_args *args, json_t *history, hr_convert_counts *counts, hr_err *err)
{
    const hr_source *s = &sources[args->source];
    const char *title = args->title ? args->title : s->title;
    *counts = (hr_convert_counts){0};
    int rc = check_title(title, err);
    if (rc == HR_OK && args->published_names && !s->published)
        rc = hr_fail(err, HR_EINVAL, "no published program reads the set %s: it has no published names",
                     s->name);
    if (rc == HR_OK)
        rc = s->load ? convert_whole(args, title, history, counts, err)
                     : hr_convert_shards(args, title, (uint32_t)s->classes, s->n_test, history, counts, err);
    if (rc == HR_OK && args->published_names)
        rc = hr_link_published(args->output, s->published, err);
    return rc;
}
