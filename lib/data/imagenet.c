/* lib/data/imagenet.c -- ImageNet (ILSVRC 2012) as it is published, or sorted into class folders.
 *
 *     ILSVRC2012_img_train.tar   a tar of tars: n01440764.tar, ...: one for each class, with its JPEG files
 *     ILSVRC2012_img_val.tar     the JPEG files of the validation images, which are the test images here
 *     a file of labels           which class each of these has
 * or
 *     train/n01440764/NAME.JPEG  and
 *     val/n01440764/NAME.JPEG    each of the two parts may come either way
 *
 * A class number is the place of the class's name among all names in the order of their bytes. The training
 * archive has no labels but its members' names, so that it is looked through once, from head to head, before
 * anything is read; later every class is read from its place. Images of a class come in the order of their
 * names, so that archive and folders give the same files.
 *
 * The labels of the validation images are a text file, a line for each: either the class alone, the lines
 * being in the order of the images' names, or "NAME CLASS", in any order, where CLASS is a name or a number
 * as above (Caffe's val.txt).
 *
 * The published ground truth (ILSVRC2012_validation_ground_truth.txt) is a number from 1 alone on every line,
 * in an order of its own that only a MATLAB file in the same package knows, meta.mat. Taking them for the
 * numbers above would give nearly every image a wrong label, so that such lines are refused, unless a list of
 * synsets says what they mean: its line k begins with the name of class k. */
#include "data/internal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE = 64 << 20, MAX_LABELS = 256 << 20 }; /* bytes; the largest of ImageNet's images has 15 MB */

/* One entry of a listing. */
typedef struct item {
    char *name;
    int64_t offset; /* of a member in its archive */
    int label;      /* of a test image; -1: not known yet */
} item;
typedef struct items {
    item *i;
    size_t n, cap;
} items;

struct hr_imagenet {
    char *train, *val, *labels; /* archives or directories; labels may be NULL */
    char *synsets;              /* may be NULL */
    items numbered;             /* class k + 1 of synsets: its name, and its label */
    bool train_tar, val_tar;
    items classes; /* by name */
    items tests;   /* in the order in which they are read */
    hr_walk *walk; /* of the validation archive */
    uint32_t at;   /* the test image that comes next there */
};

static void items_add(void *to, const char *name, int64_t offset)
{
    items *l = to;
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->i = hr_xrealloc(l->i, l->cap * sizeof *l->i);
    }
    l->i[l->n++] = (item){.name = hr_xstrdup(name), .offset = offset, .label = -1};
}

static void items_release(items *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->i[i].name);
    free(l->i);
    *l = (items){0};
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const item *)a)->name, ((const item *)b)->name);
}

static void items_sort(items *l)
{
    if (l->n)
        qsort(l->i, l->n, sizeof *l->i, by_name);
}

static item *items_find(items *l, const char *name)
{
    item key = {.name = (char *)(uintptr_t)name};
    return l->n ? bsearch(&key, l->i, l->n, sizeof *l->i, by_name) : NULL;
}

/* ---- listings ------------------------------------------------------------------------------------------ */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Names in a directory but for those that begin with a dot, sorted. */
static int list_dir(const char *path, items *l, hr_err *err)
{
    DIR *d = opendir(path);
    if (!d)
        return hr_fail(err, HR_EIO, "%s: %s", path, strerror(errno));
    for (const struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            items_add(l, e->d_name, 0);
    closedir(d);
    items_sort(l);
    return HR_OK;
}

/* The classes: members NAME.tar of the archive, or folders. */
static int list_classes(hr_imagenet *in, hr_err *err)
{
    int rc = in->train_tar ? hr_walk_list(in->train, items_add, &in->classes, err)
                           : list_dir(in->train, &in->classes, err);
    for (size_t i = 0; in->train_tar && i < in->classes.n && rc == HR_OK; i++) {
        char *name = in->classes.i[i].name, *dot = strrchr(name, '.');
        if (!dot || strcmp(dot, ".tar") != 0 || dot == base_name(name))
            rc = hr_fail(err, HR_EFORMAT, "%s: member '%s' is no archive of a class", in->train, name);
        else
            *dot = '\0';
        memmove(name, base_name(name), strlen(base_name(name)) + 1);
    }
    items_sort(&in->classes);
    for (size_t i = 1; i < in->classes.n && rc == HR_OK; i++)
        if (strcmp(in->classes.i[i - 1].name, in->classes.i[i].name) == 0)
            rc = hr_fail(err, HR_EFORMAT, "%s: two archives of the class '%s'", in->train,
                         in->classes.i[i].name);
    if (rc == HR_OK && (in->classes.n < 2 || in->classes.n > MAX_CLASSES))
        rc = hr_fail(err, HR_EFORMAT, "%s: %zu classes, 2..%d are expected", in->train, in->classes.n,
                     MAX_CLASSES);
    return rc;
}

/* A class by its name, or, where numbers are allowed, by its number. -1: neither. */
static int find_class(hr_imagenet *in, const char *word, bool numbers)
{
    const item *c = items_find(&in->classes, word);
    int64_t number;
    if (c)
        return (int)(c - in->classes.i);
    return numbers && hr_parse_int(word, &number) && number >= 0 && number < (int64_t)in->classes.n
               ? (int)number
               : -1;
}

/* One line of labels, for the test images sorted by name: line `number` from 0. */
static int read_label(hr_imagenet *in, char *line, size_t number, items *sorted, hr_err *err)
{
    char *save, *first = strtok_r(line, " \t\r", &save),
                *second = first ? strtok_r(NULL, " \t\r", &save) : NULL;
    if (!first)
        return HR_OK;
    item *test = second               ? items_find(sorted, base_name(first))
                 : number < sorted->n ? &sorted->i[number]
                                      : NULL;
    if (!test)
        return hr_fail(err, HR_ESHAPE, "%s: line %zu: no such image in %s", in->labels, number + 1, in->val);
    if (test->label >= 0)
        return hr_fail(err, HR_EFORMAT, "%s: line %zu: a second label for %s", in->labels, number + 1,
                       test->name);
    int64_t id;
    bool numeric = !second && hr_parse_int(first, &id) && find_class(in, first, false) < 0;
    if (numeric && !in->synsets)
        return hr_fail(err, HR_EFORMAT,
                       "%s: line %zu: '%s' is a number of the devkit's own order, which its meta.mat tells: "
                       "--synsets takes a list of them, or give names as labels",
                       in->labels, number + 1, first);
    if (numeric && (id < 1 || id > (int64_t)in->numbered.n))
        return hr_fail(err, HR_EFORMAT, "%s: line %zu: '%s' is outside 1..%zu, the lines of %s", in->labels,
                       number + 1, first, in->numbered.n, in->synsets);
    test->label =
        numeric ? in->numbered.i[id - 1].label : find_class(in, second ? second : first, second != NULL);
    if (test->label < 0)
        return hr_fail(err, HR_EFORMAT, "%s: line %zu: '%s' is no class of %s", in->labels, number + 1,
                       second ? second : first, in->train);
    return HR_OK;
}

/* All of a text file; the caller releases it. */
static int read_text(const char *path, hr_buf *text, hr_err *err)
{
    hr_in f;
    int rc = hr_in_open(&f, path, err);
    if (rc)
        return rc;
    rc = hr_in_slurp(&f, text, MAX_LABELS, err);
    hr_in_close(&f);
    return rc;
}

/* The names that a list of synsets begins its lines with: all classes, and maybe others behind them (the
 * devkit's own list goes on with inner nodes of the tree). */
static int read_synsets(hr_imagenet *in, hr_err *err)
{
    hr_buf text = {0};
    char *save, *inner;
    size_t known = 0;
    int rc = in->synsets ? read_text(in->synsets, &text, err) : HR_OK;
    for (char *line = rc == HR_OK && text.data ? strtok_r(text.data, "\r\n", &save) : NULL; line;
         line = strtok_r(NULL, "\r\n", &save)) {
        const char *name = strtok_r(line, " \t,", &inner);
        items_add(&in->numbered, name ? name : "", 0);
        in->numbered.i[in->numbered.n - 1].label = name ? find_class(in, name, false) : -1;
        known += name && find_class(in, name, false) >= 0;
    }
    if (rc == HR_OK && in->synsets && known != in->classes.n)
        rc = hr_fail(err, HR_ESHAPE, "%s: names %zu of the %zu classes of %s", in->synsets, known,
                     in->classes.n, in->train);
    hr_buf_release(&text);
    return rc;
}

/* Give the test images their labels; they are in the archive's order before and after. */
static int read_labels(hr_imagenet *in, hr_err *err)
{
    hr_buf text = {0};
    items sorted = {0};
    int rc = read_synsets(in, err);
    if (rc == HR_OK)
        rc = read_text(in->labels, &text, err);
    for (size_t i = 0; i < in->tests.n; i++)
        items_add(&sorted, in->tests.i[i].name, (int64_t)i);
    items_sort(&sorted);
    size_t number = 0;
    for (char *line = text.data, *end; rc == HR_OK && line && *line; line = end, number++) {
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        else
            end = line + strlen(line);
        rc = read_label(in, line, number, &sorted, err);
    }
    for (size_t i = 0; i < sorted.n && rc == HR_OK; i++) {
        if (sorted.i[i].label < 0)
            rc = hr_fail(err, HR_ESHAPE, "%s: no label for %s", in->labels, sorted.i[i].name);
        in->tests.i[sorted.i[i].offset].label = sorted.i[i].label;
    }
    items_release(&sorted);
    hr_buf_release(&text);
    return rc;
}

/* The test images in class folders, by class and name: "n01440764/NAME". */
static int list_folders(hr_imagenet *in, hr_err *err)
{
    items folders = {0};
    int rc = list_dir(in->val, &folders, err);
    for (size_t i = 0; i < folders.n && rc == HR_OK; i++) {
        int label = find_class(in, folders.i[i].name, false);
        items names = {0};
        char *path = hr_xasprintf("%s/%s", in->val, folders.i[i].name);
        if (label < 0)
            rc = hr_fail(err, HR_ESHAPE, "%s: is no class of %s", path, in->train);
        else
            rc = list_dir(path, &names, err);
        for (size_t k = 0; k < names.n && rc == HR_OK; k++) {
            char *name = hr_xasprintf("%s/%s", folders.i[i].name, names.i[k].name);
            items_add(&in->tests, name, 0);
            in->tests.i[in->tests.n - 1].label = label;
            free(name);
        }
        items_release(&names);
        free(path);
    }
    items_release(&folders);
    return rc;
}

static int list_tests(hr_imagenet *in, hr_err *err)
{
    if (!in->val_tar)
        return list_folders(in, err);
    if (!in->labels)
        return hr_fail(err, HR_EINVAL, "%s: which classes its images have must be told (--labels)", in->val);
    int rc = hr_walk_list(in->val, items_add, &in->tests, err);
    for (size_t i = 0; i < in->tests.n; i++) {
        char *name = in->tests.i[i].name;
        memmove(name, base_name(name), strlen(base_name(name)) + 1);
    }
    return rc ? rc : read_labels(in, err);
}

/* SRC/ARCHIVE when it is there, else SRC/FOLDER. */
static char *find_part(const char *src, const char *archive, const char *folder, bool *tar)
{
    char *path = hr_xasprintf("%s/%s", src, archive);
    *tar = access(path, F_OK) == 0;
    if (!*tar) {
        free(path);
        path = hr_xasprintf("%s/%s", src, folder);
    }
    return path;
}

int hr_imagenet_open(hr_imagenet **out, const char *src, const char *labels, const char *synsets, hr_err *err)
{
    hr_imagenet *in = hr_xcalloc(1, sizeof *in);
    *out = NULL;
    in->train = find_part(src, "ILSVRC2012_img_train.tar", "train", &in->train_tar);
    in->val = find_part(src, "ILSVRC2012_img_val.tar", "val", &in->val_tar);
    in->labels = labels ? hr_xstrdup(labels) : NULL;
    in->synsets = synsets ? hr_xstrdup(synsets) : NULL;
    int rc = list_classes(in, err);
    if (rc == HR_OK)
        rc = list_tests(in, err);
    if (rc == HR_OK && (in->tests.n == 0 || in->tests.n > UINT32_MAX))
        rc = hr_fail(err, HR_EFORMAT, "%s: holds no images", in->val);
    if (rc)
        hr_imagenet_close(in);
    else
        *out = in;
    return rc;
}

void hr_imagenet_close(hr_imagenet *in)
{
    if (!in)
        return;
    hr_walk_close(in->walk);
    items_release(&in->classes);
    items_release(&in->tests);
    items_release(&in->numbered);
    free(in->synsets);
    free(in->train);
    free(in->val);
    free(in->labels);
    free(in);
}

int hr_imagenet_classes(const hr_imagenet *in)
{
    return (int)in->classes.n;
}

uint32_t hr_imagenet_tests(const hr_imagenet *in)
{
    return (uint32_t)in->tests.n;
}

/* ---- inputs of the history -------------------------------------------------------------------------------
 */

/* SHA-256 over the lines "CLASS/NAME SIZE" of a directory of class folders: reading all the images would take
 * as long again as converting them. */
static int digest_folders(const char *dir, char hex[65], hr_err *err)
{
    items folders = {0};
    hr_sha256 *sha = hr_sha256_new();
    int rc = list_dir(dir, &folders, err);
    for (size_t i = 0; i < folders.n && rc == HR_OK; i++) {
        items names = {0};
        char *path = hr_xasprintf("%s/%s", dir, folders.i[i].name);
        rc = list_dir(path, &names, err);
        for (size_t k = 0; k < names.n && rc == HR_OK; k++) {
            struct stat st;
            char *file = hr_xasprintf("%s/%s", path, names.i[k].name);
            if (stat(file, &st))
                rc = hr_fail(err, HR_EIO, "%s: %s", file, strerror(errno));
            else {
                char *line =
                    hr_xasprintf("%s/%s %lld\n", folders.i[i].name, names.i[k].name, (long long)st.st_size);
                hr_sha256_add(sha, line, strlen(line));
                free(line);
            }
            free(file);
        }
        items_release(&names);
        free(path);
    }
    items_release(&folders);
    hr_sha256_end(sha, hex);
    return rc;
}

int hr_imagenet_inputs(const hr_imagenet *in, json_t *history, bool verify, hr_err *err)
{
    /* the archives' MD5 as image-net.org gives them */
    const struct {
        const char *path, *role, *md5;
        bool file;
    } inputs[] = {{in->train, in->train_tar ? "train" : "train names and sizes",
                   "1d675b47d978889d74fa0da5fadfb00e", in->train_tar},
                  {in->val, in->val_tar ? "test" : "test names and sizes", "29b22e2961454d5413ddabcf34fc5622",
                   in->val_tar},
                  {in->labels, "test labels", NULL, true},
                  {in->synsets, "synsets", NULL, true}};
    int rc = HR_OK;
    for (size_t i = 0; i < HR_COUNT(inputs) && rc == HR_OK; i++) {
        char sha256[65], md5[33] = "";
        if (!inputs[i].path)
            continue;
        rc = inputs[i].file ? hr_file_digests(inputs[i].path, sha256, md5, err)
                            : digest_folders(inputs[i].path, sha256, err);
        if (rc == HR_OK && verify && inputs[i].file && inputs[i].md5 && strcmp(md5, inputs[i].md5) != 0)
            rc = hr_fail(
                err, HR_EFORMAT,
                "%s: its MD5 is %s, that of the published one %s: damaged, or another file (--checksum skip "
                "takes it as it is)",
                inputs[i].path, md5, inputs[i].md5);
        if (rc == HR_OK)
            hr_history_input(history, inputs[i].role, sha256, NULL);
    }
    return rc;
}

/* ---- images ----------------------------------------------------------------------------------------------
 */

void hr_blobs_clear(hr_blobs *u)
{
    for (uint32_t i = 0; i < u->n; i++) {
        free(u->b[i].name);
        hr_buf_release(&u->b[i].file);
        hr_buf_release(&u->b[i].record);
    }
    free(u->b);
    *u = (hr_blobs){0};
}

static hr_blob *blobs_add(hr_blobs *u, char *name, int label)
{
    if (u->n == u->cap) {
        u->cap = u->cap ? 2 * u->cap : 64;
        u->b = hr_xrealloc(u->b, u->cap * sizeof *u->b);
    }
    u->b[u->n] = (hr_blob){.name = name, .label = label};
    return &u->b[u->n++];
}

static int blob_by_name(const void *a, const void *b)
{
    return strcmp(((const hr_blob *)a)->name, ((const hr_blob *)b)->name);
}

static int read_file(const char *path, hr_buf *b, hr_err *err)
{
    hr_in f;
    int rc = hr_in_open(&f, path, err);
    if (rc)
        return rc;
    if (f.size > 0 && f.size <= MAX_FILE) { /* all of it at once */
        *b = (hr_buf){hr_xmalloc((size_t)f.size + 1), (size_t)f.size, (size_t)f.size + 1};
        rc = hr_in_read(&f, b->data, b->len, "an image", err);
    }
    if (rc == HR_OK)
        rc = hr_in_slurp(&f, b, MAX_FILE, err); /* what was added since its size was asked */
    hr_in_close(&f);
    return rc;
}

static int class_from_tar(hr_imagenet *in, int k, hr_blobs *u, hr_err *err)
{
    const item *c = &in->classes.i[k];
    hr_walk *outer, *inner = NULL;
    const char *name;
    int rc = hr_walk_at(&outer, in->train, c->offset, err);
    if (rc)
        return rc;
    rc = hr_walk_next(outer, &name, err);
    if (rc == HR_OK && !name)
        rc = hr_fail(err, HR_EFORMAT, "%s: the archive of '%s' is not there any more", in->train, c->name);
    if (rc == HR_OK)
        rc = hr_walk_inside(&inner, outer, err);
    while (rc == HR_OK && (rc = hr_walk_next(inner, &name, err)) == HR_OK && name) {
        hr_blob *b = blobs_add(u, hr_xasprintf("%s/%s", c->name, base_name(name)), k);
        rc = hr_walk_slurp(inner, &b->file, MAX_FILE, err);
    }
    hr_walk_close(inner);
    hr_walk_close(outer);
    return rc;
}

static int class_from_folder(hr_imagenet *in, int k, hr_blobs *u, hr_err *err)
{
    const item *c = &in->classes.i[k];
    items names = {0};
    char *dir = hr_xasprintf("%s/%s", in->train, c->name);
    int rc = list_dir(dir, &names, err);
    for (size_t i = 0; i < names.n && rc == HR_OK; i++) {
        char *path = hr_xasprintf("%s/%s", dir, names.i[i].name);
        hr_blob *b = blobs_add(u, hr_xasprintf("%s/%s", c->name, names.i[i].name), k);
        rc = read_file(path, &b->file, err);
        free(path);
    }
    items_release(&names);
    free(dir);
    return rc;
}

int hr_imagenet_class(hr_imagenet *in, int k, hr_blobs *u, hr_err *err)
{
    int rc = (in->train_tar ? class_from_tar : class_from_folder)(in, k, u, err);
    if (rc == HR_OK && u->n == 0)
        rc = hr_fail(err, HR_EFORMAT, "%s: class '%s' has no images", in->train, in->classes.i[k].name);
    if (rc == HR_OK)
        qsort(u->b, u->n, sizeof *u->b, blob_by_name);
    return rc;
}

/* The next test image of the archive; without u it is passed over. */
static int next_test(hr_imagenet *in, hr_blobs *u, hr_err *err)
{
    const char *name;
    int rc = in->walk ? HR_OK : hr_walk_at(&in->walk, in->val, 0, err);
    if (rc == HR_OK)
        rc = hr_walk_next(in->walk, &name, err);
    if (rc)
        return rc;
    const item *t = &in->tests.i[in->at++];
    if (!name || strcmp(base_name(name), t->name) != 0)
        return hr_fail(err, HR_EFORMAT, "%s: has changed while it was read", in->val);
    return u ? hr_walk_slurp(in->walk, &blobs_add(u, hr_xstrdup(t->name), t->label)->file, MAX_FILE, err)
             : HR_OK;
}

int hr_imagenet_test(hr_imagenet *in, uint32_t from, uint32_t to, hr_blobs *u, hr_err *err)
{
    int rc = HR_OK;
    while (in->val_tar && rc == HR_OK && in->at < to)
        rc = next_test(in, in->at < from ? NULL : u, err);
    for (uint32_t i = from; !in->val_tar && rc == HR_OK && i < to; i++) {
        const item *t = &in->tests.i[i];
        char *path = hr_xasprintf("%s/%s", in->val, t->name);
        rc = read_file(path, &blobs_add(u, hr_xstrdup(t->name), t->label)->file, err);
        free(path);
    }
    return rc;
}
