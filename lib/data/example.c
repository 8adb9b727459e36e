/* lib/data/example.c -- one image as a tf.train.Example (example.proto), through protobuf-c.
 *
 * Keys, as the published converters write them:
 *
 *     image/encoded        bytes   the pixels, uint8 in H,W,C order; or a JPEG or PNG image
 *     image/format         bytes   what image/encoded holds; read by nobody: the published files say png and
 *                                  jpeg over raw pixels. We write "raw". Which of the two it is tells the
 * number of bytes, and where that does not fit, the first of them. image/class/label    int64   class number
 * from 0 image/height, image/width  int64
 *
 * They come in any order; of a key that comes twice the later one counts, as in every protobuf map; keys that
 * we do not know are passed over. The number of channels is not stored: it is bytes / (height * width).
 *
 * protobuf-c allocates every message, key and list on its own, some thirty allocations per image. They come
 * from an arena that is emptied, not freed, between records. */
#include "data/internal.h"

#include "example.pb-c.h"

#include <stdlib.h>
#include <string.h>

/* ---- arena ------------------------------------------------------------------------------------------- */

struct hr_arena_extra {
    struct hr_arena_extra *next;
    _Alignas(16) uint8_t bytes[];
};

static void arena_reset(hr_arena *a)
{
    while (a->extra) {
        struct hr_arena_extra *next = a->extra->next;
        free(a->extra);
        a->extra = next;
    }
    if (a->wanted > a->cap) {
        free(a->base);
        a->cap = 2 * a->wanted;
        a->base = hr_xmalloc(a->cap);
    }
    a->used = a->wanted = 0;
}

void hr_arena_release(hr_arena *a)
{
    a->wanted = 0;
    arena_reset(a);
    free(a->base);
    hr_image_release(&a->decoded);
    hr_image_release(&a->fitted);
    *a = (hr_arena){0};
}

static void *arena_alloc(void *arena, size_t size)
{
    hr_arena *a = arena;
    size_t rounded = (size + 15) & ~(size_t)15;
    a->wanted += rounded;
    if (a->cap - a->used >= rounded) {
        void *p = a->base + a->used;
        a->used += rounded;
        return p;
    }
    struct hr_arena_extra *e = hr_xmalloc(sizeof *e + rounded);
    e->next = a->extra;
    a->extra = e;
    return e->bytes;
}

static void arena_free(void *arena, void *p)
{
    (void)arena;
    (void)p; /* arena_reset frees everything at once */
}

/* ---- reading ----------------------------------------------------------------------------------------- */

static const char KEY_IMAGE[] = "image/encoded";
static const char KEY_FORMAT[] = "image/format";
static const char KEY_LABEL[] = "image/class/label";
static const char KEY_HEIGHT[] = "image/height";
static const char KEY_WIDTH[] = "image/width";

static const Tf__Feature *find(const Tf__Example *e, const char *key)
{
    const Tf__Feature *found = NULL;
    for (size_t i = 0; e->features && i < e->features->n_feature; i++) {
        const Tf__FeatureEntry *f = e->features->feature[i];
        if (strcmp(f->key, key) == 0)
            found = f->value;
    }
    return found;
}

static int get_int(const Tf__Example *e, const char *key, int64_t *v, hr_err *why)
{
    const Tf__Feature *f = find(e, key);
    if (!f)
        return hr_fail(why, HR_EFORMAT, "key '%s' is missing", key);
    if (f->kind_case != TF__FEATURE__KIND_INT64_LIST || f->int64_list->n_value != 1)
        return hr_fail(why, HR_EFORMAT, "key '%s' does not hold exactly one integer", key);
    *v = f->int64_list->value[0];
    return HR_OK;
}

static int get_side(const Tf__Example *e, const char *key, int *v, hr_err *why)
{
    int64_t side;
    int rc = get_int(e, key, &side, why);
    if (rc)
        return rc;
    if (side < 1 || side > MAX_SIDE)
        return hr_fail(why, HR_EFORMAT, "key '%s' is %lld, outside 1..%d", key, (long long)side, MAX_SIDE);
    *v = (int)side;
    return HR_OK;
}

/* Decode the JPEG or PNG image. Its own size counts; height and width may be missing, but must not
 * contradict. */
static int unpack_encoded(hr_arena *a, const Tf__Example *e, const ProtobufCBinaryData *bytes, int h, int w,
                          hr_example *ex, hr_err *why)
{
    hr_image *im = &a->decoded;
    int rc = hr_image_decode(bytes->data, bytes->len, false, im, why), side;
    if (rc)
        return rc;
    if (find(e, KEY_HEIGHT) && (rc = get_side(e, KEY_HEIGHT, &side, why)) == HR_OK && side != im->h)
        rc = hr_fail(why, HR_EFORMAT, "the image is %dx%d, key '%s' says %d", im->h, im->w, KEY_HEIGHT, side);
    if (rc == HR_OK && find(e, KEY_WIDTH) && (rc = get_side(e, KEY_WIDTH, &side, why)) == HR_OK &&
        side != im->w)
        rc = hr_fail(why, HR_EFORMAT, "the image is %dx%d, key '%s' says %d", im->h, im->w, KEY_WIDTH, side);
    if (rc)
        return rc;
    if (h > 0 && (im->h != h || im->w != w) && im->h >= h && im->w >= w) {
        hr_image_fit(im, h, w, &a->fitted);
        im = &a->fitted;
    }
    *ex = (hr_example){
        .image = im->pixels, .c = im->c, .h = im->h, .w = im->w, .label = ex->label, .encoded = true};
    return HR_OK;
}

int hr_example_unpack(hr_arena *a, const uint8_t *data, size_t n, int h, int w, hr_example *ex, hr_err *why)
{
    ProtobufCAllocator alloc = {arena_alloc, arena_free, a};
    arena_reset(a);
    const Tf__Example *e = tf__example__unpack(&alloc, n, data);
    if (!e)
        return hr_fail(why, HR_EFORMAT, "not a tf.train.Example");
    *ex = (hr_example){0};
    int rc = get_int(e, KEY_LABEL, &ex->label, why);
    if (rc)
        return rc;
    const Tf__Feature *f = find(e, KEY_IMAGE);
    if (!f)
        return hr_fail(why, HR_EFORMAT, "key '%s' is missing", KEY_IMAGE);
    if (f->kind_case != TF__FEATURE__KIND_BYTES_LIST || f->bytes_list->n_value != 1)
        return hr_fail(why, HR_EFORMAT, "key '%s' does not hold exactly one string of bytes", KEY_IMAGE);

    /* raw pixels, if their number fits; what the first bytes look like only counts where it does not */
    const ProtobufCBinaryData *image = &f->bytes_list->value[0];
    bool encoded = hr_image_kind(image->data, image->len) != NULL;
    if (encoded && (!find(e, KEY_HEIGHT) || !find(e, KEY_WIDTH)))
        return unpack_encoded(a, e, image, h, w, ex, why);
    if ((rc = get_side(e, KEY_HEIGHT, &ex->h, why)) || (rc = get_side(e, KEY_WIDTH, &ex->w, why)))
        return rc;
    size_t plane = (size_t)ex->h * (size_t)ex->w, channels = image->len / plane;
    if (channels < 1 || channels > MAX_CHANNELS || channels * plane != image->len) {
        if (encoded)
            return unpack_encoded(a, e, image, h, w, ex, why);
        return hr_fail(why, HR_EFORMAT, "%zu bytes of image are not %dx%d pixels of 1..%d channels",
                       image->len, ex->h, ex->w, MAX_CHANNELS);
    }
    ex->c = (int)channels;
    ex->image = image->data;
    return HR_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------- */

size_t hr_example_pack(const hr_example *ex, hr_buf *b)
{
    enum { IMAGE, FORMAT, LABEL, HEIGHT, WIDTH, KEYS };
    static const char *const keys[KEYS] = {KEY_IMAGE, KEY_FORMAT, KEY_LABEL, KEY_HEIGHT, KEY_WIDTH};
    /* protobuf-c's structs are not const-correct; packing only reads */
    ProtobufCBinaryData bytes[2] = {
        {(size_t)ex->h * (size_t)ex->w * (size_t)ex->c, (uint8_t *)(uintptr_t)ex->image},
        {3, (uint8_t *)(uintptr_t) "raw"}};
    int64_t numbers[KEYS] = {[LABEL] = ex->label, [HEIGHT] = ex->h, [WIDTH] = ex->w};
    Tf__BytesList byte_lists[2];
    Tf__Int64List int_lists[KEYS];
    Tf__Feature values[KEYS];
    Tf__FeatureEntry entries[KEYS], *entry_list[KEYS];
    for (int i = 0; i < KEYS; i++) {
        tf__feature__init(&values[i]);
        if (i <= FORMAT) {
            tf__bytes_list__init(&byte_lists[i]);
            byte_lists[i].n_value = 1;
            byte_lists[i].value = &bytes[i];
            values[i].kind_case = TF__FEATURE__KIND_BYTES_LIST;
            values[i].bytes_list = &byte_lists[i];
        } else {
            tf__int64_list__init(&int_lists[i]);
            int_lists[i].n_value = 1;
            int_lists[i].value = &numbers[i];
            values[i].kind_case = TF__FEATURE__KIND_INT64_LIST;
            values[i].int64_list = &int_lists[i];
        }
        tf__feature_entry__init(&entries[i]);
        entries[i].key = (char *)(uintptr_t)keys[i];
        entries[i].value = &values[i];
        entry_list[i] = &entries[i];
    }
    Tf__Features features;
    tf__features__init(&features);
    features.n_feature = KEYS;
    features.feature = entry_list;
    Tf__Example e;
    tf__example__init(&e);
    e.features = &features;

    enum { FOOTER = 16 }; /* for what the caller adds */
    size_t need = b->len + tf__example__get_packed_size(&e) + FOOTER;
    if (b->cap < need) {
        b->data = hr_xrealloc(b->data, need);
        b->cap = need;
    }
    b->len += tf__example__pack(&e, (uint8_t *)b->data + b->len);

    size_t behind =
        bytes[0].len; /* the image stands at the end of the first entry; each other one takes its */
    for (int i = 1; i < KEYS; i++) /* bytes, at most 127, and two more */
        behind += 2 + tf__feature_entry__get_packed_size(&entries[i]);
    return b->len - behind;
}
