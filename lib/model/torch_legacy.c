/* lib/model/torch_legacy.c -- the form of torch.save before 1.6 (still written on request): five pickles,
 * then bytes.
 *
 *     pickle 0x1950a86a20f9469cfc6c          the magic number
 *     pickle 1001                            the protocol
 *     pickle {"little_endian": True, ...}    the machine
 *     pickle                                 the value
 *     pickle [key, ...]                      the storages in the order of their bytes
 *     for each key: int64 numel, numel elements (little-endian, or as the machine's entry says)
 *
 * There is no directory, no length and no checksum: where a pickle ends is known when it was run. It is run
 * on a window at the file's beginning that doubles until it is long enough. */
#include "model/torch_file.h"

#include <stdlib.h>
#include <string.h>

struct reader {
    struct hr_torch_file *f;
    hr_buf window; /* bytes from `base` on */
    int64_t base;
    hr_pickle *pickle;
};

/* Bytes base..base+n-1, or up to the file's end. */
static int fill_window(struct reader *r, size_t n, hr_err *err)
{
    int64_t left = r->f->size - r->base;
    n = left < (int64_t)n ? (size_t)left : n;
    free(r->window.data);
    r->window = (hr_buf){hr_xmalloc(n + 1), n, n + 1};
    return hr_torch_pread(r->f, r->window.data, n, r->base, "its pickles", err);
}

/* Run the pickle at base; base moves behind it. The value lives until the next one. */
static int next_pickle(struct reader *r, hr_pk **root, hr_err *err)
{
    hr_pickle_hooks hooks = hr_torch_hooks(r->f);
    size_t used, size = 1 << 14;
    bool more = true;
    hr_pickle_free(r->pickle);
    r->pickle = NULL;
    while (!r->pickle && more) {
        int rc = fill_window(r, size, err);
        if (rc)
            return rc;
        r->pickle = hr_pickle_run(r->window.data, r->window.len, &hooks, r->f->name, root, &used, &more, err);
        if (!r->pickle && more && r->window.len < size)
            more = false; /* that was all of the file */
        if (!r->pickle && more && size >= HR_PICKLE_MAX)
            return hr_fail(err, HR_EFORMAT,
                           "%s: one of its pickles has more than %d bytes, which are possible", r->f->name,
                           HR_PICKLE_MAX);
        size *= 2;
    }
    if (!r->pickle)
        return HR_EFORMAT;
    r->base += (int64_t)used;
    return HR_OK;
}

static bool is_magic(const hr_pk *v)
{
    static const char bytes[] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
                      digits[] = "119547037146038801333356";
    if (v->type != HR_PK_BIG)
        return false;
    return (v->u.str.n == sizeof bytes - 1 && memcmp(v->u.str.s, bytes, v->u.str.n) == 0) ||
           (v->u.str.n >= sizeof digits - 1 && memcmp(v->u.str.s, digits, sizeof digits - 1) == 0);
}

static int check_head(struct reader *r, hr_err *err)
{
    hr_pk *v;
    int rc = next_pickle(r, &v, err);
    if (rc)
        return rc;
    if (!is_magic(v))
        return hr_fail(err, HR_EFORMAT, "%s: is a pickle, but not one of PyTorch's", r->f->name);
    rc = next_pickle(r, &v, err);
    if (rc)
        return rc;
    if (v->type != HR_PK_INT || v->u.i != 1001)
        return hr_fail(err, HR_EFORMAT, "%s: is of a protocol of PyTorch's that is not 1001", r->f->name);
    rc = next_pickle(r, &v, err);
    if (rc)
        return rc;
    const hr_pk *little = hr_pk_get(v, "little_endian");
    if (!little || little->type != HR_PK_BOOL || !little->u.i)
        return hr_fail(err, HR_EFORMAT, "%s: was written on a big-endian machine, little is needed",
                       r->f->name);
    return HR_OK;
}

/* Where each storage's bytes are. */
static int place_storages(struct reader *r, const hr_pk *keys, hr_err *err)
{
    struct hr_torch_file *f = r->f;
    int64_t at = r->base;
    if (keys->type != HR_PK_LIST)
        return hr_fail(err, HR_EFORMAT, "%s: the list of its storages is %s", f->name,
                       hr_pk_names[keys->type]);
    for (size_t i = 0; i < keys->u.seq.n; i++) {
        const hr_pk *key = keys->u.seq.item[i];
        char *text = key->type == HR_PK_STR && key->u.str.n <= HR_MAX_NAME
                         ? hr_xasprintf("%.*s", (int)key->u.str.n, key->u.str.s)
                         : hr_xstrdup("");
        const json_t *index = json_object_get(f->keys, text);
        free(text);
        struct hr_stored *s = index ? &f->storages[json_integer_value(index)] : NULL;
        if (!s || s->at >= 0)
            return hr_fail(err, HR_EFORMAT, "%s: storage number %zu is %s", f->name, i,
                           s ? "there twice" : "of an unknown type, or used by no tensor");
        unsigned char b[8];
        int64_t numel = 0;
        int rc = hr_torch_pread(f, b, sizeof b, at, "the length of a storage", err);
        if (rc)
            return rc;
        for (int k = 7; k >= 0; k--)
            numel = (int64_t)((uint64_t)numel << 8 | b[k]);
        int64_t bytes = s->numel * (int64_t)hr_elements[s->element].size;
        s->at = at + (int64_t)sizeof b;
        if (numel != s->numel)
            return hr_fail(err, HR_EFORMAT, "%s: storage '%s' has %lld elements, its pickle says %lld",
                           f->name, s->key, (long long)numel, (long long)s->numel);
        if (bytes > f->size - s->at)
            return hr_fail(err, HR_EFORMAT, "%s: cut short: storage '%s' needs %lld bytes, %lld are left",
                           f->name, s->key, (long long)bytes, (long long)(f->size - s->at));
        at = s->at + bytes;
    }
    for (int i = 0; i < f->nstorages; i++)
        if (f->storages[i].at < 0)
            return hr_fail(err, HR_EFORMAT, "%s: the bytes of storage '%s' are missing", f->name,
                           f->storages[i].key);
    return at == f->size ? HR_OK
                         : hr_fail(err, HR_EFORMAT, "%s: %lld bytes follow its last storage", f->name,
                                   (long long)(f->size - at));
}

static int list(struct hr_torch_file *f, const char *key, hr_err *err)
{
    struct reader r = {.f = f};
    hr_pk *v;
    int rc = check_head(&r, err);
    if (rc == HR_OK)
        rc = next_pickle(&r, &v, err);
    if (rc == HR_OK)
        rc = hr_torch_take_views(f, v, key, err);
    if (rc == HR_OK)
        rc = next_pickle(&r, &v, err);
    if (rc == HR_OK)
        rc = place_storages(&r, v, err);
    hr_pickle_free(r.pickle);
    hr_buf_release(&r.window);
    return rc;
}

const struct hr_container hr_torch_legacy = {"legacy", list, hr_torch_walk};
