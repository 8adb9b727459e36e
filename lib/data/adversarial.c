/* lib/data/adversarial.c -- adversarial examples as tf.train.Examples, for anyone to check in another
 * framework.
 *
 *     image/adversarial              float   the point, h*w*c numbers in [0,1] in H,W,C order
 *     image/class/label              int64   the true class
 *     image/class/given              int64   what the network said of the point; -1: its logits were no
 * numbers image/index                    int64   place of the image in its data file, from 0 image/height,
 * image/width, image/channels   int64
 *
 * Floats, not bytes: rounded to 1/255 many a point would be on the right side again. */
#include "data/internal.h"

#include "example.pb-c.h"

#include <stdlib.h>

static void pack(const hr_dataset *ds, uint32_t i, float *point, int32_t given, hr_buf *b)
{
    enum { LABEL, GIVEN, INDEX, HEIGHT, WIDTH, CHANNELS, POINT, KEYS };
    static const char *const keys[KEYS] = {"image/class/label", "image/class/given", "image/index",
                                           "image/height",      "image/width",       "image/channels",
                                           "image/adversarial"};
    int64_t numbers[POINT] = {ds->labels[i], given, ds->index[i], ds->h, ds->w, ds->c};
    Tf__FloatList floats;
    Tf__Int64List ints[POINT];
    Tf__Feature values[KEYS];
    Tf__FeatureEntry entries[KEYS], *list[KEYS];
    for (int k = 0; k < KEYS; k++) {
        tf__feature__init(&values[k]);
        if (k == POINT) {
            tf__float_list__init(&floats);
            floats.n_value = (size_t)ds->h * (size_t)ds->w * (size_t)ds->c;
            floats.value = point;
            values[k].kind_case = TF__FEATURE__KIND_FLOAT_LIST;
            values[k].float_list = &floats;
        } else {
            tf__int64_list__init(&ints[k]);
            ints[k].n_value = 1;
            ints[k].value = &numbers[k];
            values[k].kind_case = TF__FEATURE__KIND_INT64_LIST;
            values[k].int64_list = &ints[k];
        }
        tf__feature_entry__init(&entries[k]);
        entries[k].key = (char *)(uintptr_t)keys[k]; /* packing only reads */
        entries[k].value = &values[k];
        list[k] = &entries[k];
    }
    Tf__Features features;
    tf__features__init(&features);
    features.n_feature = KEYS;
    features.feature = list;
    Tf__Example e;
    tf__example__init(&e);
    e.features = &features;
    size_t need = tf__example__get_packed_size(&e);
    uint8_t *bytes = hr_xmalloc(need);
    b->len = 0;
    hr_buf_add(b, bytes, tf__example__pack(&e, bytes));
    free(bytes);
}

int hr_adversarial_write(const hr_dataset *ds, float *points, const int32_t *given, hr_out *out, hr_err *err)
{
    hr_buf record = {0};
    size_t len = (size_t)ds->h * (size_t)ds->w * (size_t)ds->c;
    int rc = HR_OK;
    for (uint32_t i = 0; i < ds->n && !rc; i++) {
        pack(ds, i, points + i * len, given[i], &record);
        rc = hr_tfrec_write(hr_out_file(out), hr_out_name(out), record.data, record.len, err);
    }
    hr_buf_release(&record);
    return rc;
}
