/* lib/report/verify.c -- do the digests in products' histories still belong to something that is there?
 *
 * All files below the directories given are read: networks (their digest is over graph and tensors, nn.c
 * checks it), data sets by their manifests (every split is read, and must be what the manifest lists), and
 * JSON files with a history: records, strategies, layer tables. What all these are is a set of digests. Then
 * each product's history must be made of members of that set: a network that was trained again since, a
 * record of another network, a data set converted anew all show as a digest that nothing has any more.
 * Archives, of which only manifests know, are taken as they say. */
#include "data/data.h"
#include "model/model.h"
#include "report/report.h"

#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>

struct verify {
    json_t *known; /* digest -> name of what has it */
    json_t *made;  /* [{"name", "history", "record"}] */
    json_t *lost;  /* digest that nothing has -> [line, number of places that name it] */
    hr_warning *found;
    void *user;
    hr_verified count;
};

static void say(struct verify *v, const char *fmt, ...) HR_PRINTF(2, 3);
static void say(struct verify *v, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    v->found(line, v->user);
    v->count.findings++;
}

static void know(struct verify *v, const char *digest, const char *name)
{
    json_object_set_new(v->known, digest, json_string(hr_is_utf8(name) ? name : "?"));
}

/* A digest that products name and nothing has: one line, for the first of them. */
static void lose(struct verify *v, const char *digest, const char *fmt, ...) HR_PRINTF(3, 4);
static void lose(struct verify *v, const char *digest, const char *fmt, ...)
{
    json_t *was = json_object_get(v->lost, digest);
    if (was) {
        json_array_set_new(was, 1, json_integer(json_integer_value(json_array_get(was, 1)) + 1));
        return;
    }
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    json_object_set_new(v->lost, digest, json_pack("[s, i]", hr_is_utf8(line) ? line : "?", 1));
}

static void say_lost(struct verify *v)
{
    const char *digest;
    json_t *was;
    json_object_foreach (v->lost, digest, was) {
        long long more = json_integer_value(json_array_get(was, 1)) - 1;
        const char *line = json_string_value(json_array_get(was, 0));
        if (more)
            say(v, "%s: nothing here has that digest (named %lld times)", line, more + 1);
        else
            say(v, "%s: nothing here has that digest", line);
    }
}

static void remember(struct verify *v, const char *name, const json_t *history, const json_t *more)
{
    json_t *j = json_pack("{s:s, s:O*, s:O*}", "name", hr_is_utf8(name) ? name : "?", "history",
                          (json_t *)(uintptr_t)history, "record", (json_t *)(uintptr_t)more);
    json_array_append_new(v->made, j);
    v->count.products++;
}

static void read_network(struct verify *v, const char *path)
{
    hr_model *m;
    hr_err err;
    char digest[65];
    if (hr_nn_load_any(path, &m, digest, &err)) {
        say(v, "%s", err.msg);
        return;
    }
    know(v, digest, path);
    if (json_is_object(m->history))
        remember(v, path, m->history, NULL);
    hr_model_free(m);
}

/* The images of a split, in one file or several, are those that the manifest lists. */
static void read_split(struct verify *v, const char *dir, int len, const json_t *split)
{
    const json_t *shards = json_object_get(split, "shards");
    const char *want = json_string_value(json_object_get(split, "digest"));
    size_t n = json_array_size(shards) ? json_array_size(shards) : 1;
    char **path = hr_xcalloc(n, sizeof *path), digest[65];
    hr_err err;
    for (size_t i = 0; i < n; i++) {
        const json_t *file = json_object_get(shards ? json_array_get(shards, i) : split, "file");
        path[i] = hr_xasprintf("%.*s%s", len, dir, json_is_string(file) ? json_string_value(file) : "?");
    }
    if (hr_tfrec_digest((const char *const *)path, (int)n, digest, &err))
        say(v, "%s", err.msg);
    else if (!want || strcmp(digest, want) != 0)
        say(v, "%s: holds other images than manifest.json beside it lists", path[0]);
    else
        know(v, digest, path[0]);
    for (size_t i = 0; i < n; i++)
        free(path[i]);
    free(path);
    v->count.splits++;
}

static void read_manifest(struct verify *v, const char *path, const json_t *j)
{
    const char *split, *slash = strrchr(path, '/');
    json_t *s;
    size_t i;
    const json_t *archive;
    json_array_foreach (json_object_get(json_object_get(j, "history"), "inputs"), i, archive) {
        const char *digest = json_string_value(json_object_get(archive, "sha256"));
        if (digest)
            know(v, digest, "an archive");
    }
    json_object_foreach (json_object_get(j, "splits"), split, s)
        read_split(v, path, slash ? (int)(slash - path) + 1 : 0, s);
}

/* Strategies and layer tables are known by their compact JSON text. */
static void know_text(struct verify *v, const json_t *j, const char *name)
{
    char hex[65], *text = hr_json_text(j, 0);
    hr_sha256 *h = hr_sha256_new();
    hr_sha256_add(h, text, strlen(text));
    hr_sha256_end(h, hex);
    free(text);
    know(v, hex, name);
}

struct file {
    struct verify *v;
    const char *path;
};

static void histories_in(struct verify *v, const char *path, const json_t *j)
{
    const json_t *h = json_object_get(j, "history");
    const char *key;
    json_t *child;
    if (json_is_object(h)) {
        know_text(v, j, path);
        remember(v, path, h, json_object_get(j, "record") ? j : NULL);
        return;
    }
    json_object_foreach ((json_t *)(uintptr_t)j, key, child)
        histories_in(v, path, child);
}

static int read_value(const json_t *j, const char *where, void *user, hr_err *err)
{
    struct file *f = user;
    (void)where;
    (void)err;
    know_text(f->v, j, f->path);
    if (json_object_get(j, "splits"))
        read_manifest(f->v, f->path, j);
    histories_in(f->v, f->path, j);
    return HR_OK;
}

static void read_json(struct verify *v, const char *path)
{
    struct file f = {v, path};
    hr_err err;
    char digest[65];
    if (hr_json_lines(path, read_value, &f, &err) || hr_sha256_file(path, digest, &err))
        say(v, "%s", err.msg);
    else
        know(v, digest, path);
}

/* Every digest that a history is made of. */
static void check(struct verify *v, const char *name, const json_t *history)
{
    size_t i;
    const json_t *in;
    json_array_foreach (json_object_get(history, "inputs"), i, in) {
        const char *role = json_string_value(json_object_get(in, "role"));
        const char *digest = json_string_value(json_object_get(in, "sha256"));
        bool opaque = role && (!strcmp(role, "evaluator") || !strcmp(role, "start")); /* of no file */
        const char *tool = json_string_value(json_object_get(history, "tool"));
        bool archive = tool && (!strcmp(tool, "tfrec-convert") || !strcmp(tool, "torch2nn"));
        v->count.digests++;
        if (!opaque && !archive && (!digest || !json_object_get(v->known, digest)))
            lose(v, digest ? digest : "", "%s: made from %s %.16s... by %s", name, role ? role : "an input",
                 digest ? digest : "?", tool ? tool : "?");
        check(v, name, json_object_get(in, "history"));
    }
}

static void check_record(struct verify *v, const char *name, const json_t *record)
{
    static const char *const parts[] = {"model", "data"};
    for (size_t i = 0; i < HR_COUNT(parts); i++) {
        const char *digest = json_string_value(json_object_get(json_object_get(record, parts[i]), "digest"));
        v->count.digests++;
        if (!digest || !json_object_get(v->known, digest))
            lose(v, digest ? digest : "", "%s: measured with the %s %.16s...", name, parts[i],
                 digest ? digest : "?");
    }
}

static bool ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int read_tree(struct verify *v, const char *dir, hr_err *err)
{
    char *start = hr_xstrdup(dir);
    FTS *tree = fts_open((char *[]){start, NULL}, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
    int rc = tree ? HR_OK : hr_fail(err, HR_EIO, "%s: %s", dir, strerror(errno));
    FTSENT *f;
    while (!rc && (f = fts_read(tree))) {
        if (f->fts_info == FTS_DNR || f->fts_info == FTS_ERR || f->fts_info == FTS_NS)
            rc = hr_fail(err, HR_EIO, "%s: %s", f->fts_path, strerror(f->fts_errno));
        else if (f->fts_info == FTS_F && ends(f->fts_name, ".nn") && *f->fts_name != '.')
            read_network(v, f->fts_path);
        else if (f->fts_info == FTS_F && ends(f->fts_name, ".json") && *f->fts_name != '.')
            read_json(v, f->fts_path);
    }
    if (tree)
        fts_close(tree);
    free(start);
    return rc;
}

int hr_verify(char **dirs, int n, hr_warning *found, void *user, hr_verified *count, hr_err *err)
{
    struct verify v = {
        .known = json_object(), .made = json_array(), .lost = json_object(), .found = found, .user = user};
    int rc = HR_OK;
    for (int i = 0; i < n && !rc; i++)
        rc = read_tree(&v, dirs[i], err);
    size_t k;
    const json_t *made;
    json_array_foreach (v.made, k, made) {
        const char *name = json_string_value(json_object_get(made, "name"));
        if (rc)
            break;
        if (json_object_get(made, "record"))
            check_record(&v, name, json_object_get(made, "record"));
        check(&v, name, json_object_get(made, "history"));
    }
    say_lost(&v);
    *count = v.count;
    json_decref(v.known);
    json_decref(v.made);
    json_decref(v.lost);
    return rc;
}
