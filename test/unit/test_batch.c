/* test/unit/test_batch.c -- batches of images and their augmentation. */
#include "numbered.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_batch_is_pixels_over_255_of_the_rows_asked_for(void **state)
{
    (void)state;
    hr_dataset ds = numbered(300, 2, 3, 5, 7);
    const uint32_t rows[] = {299, 0, 17, 17};
    float x[4 * 30];
    int32_t y[4];
    hr_batch_fill(&ds, rows, 4, x, y);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(y[i], rows[i] % 7);
        for (int k = 0; k < 30; k++)
            assert_true(x[30 * i + k] == (float)ds.pixels[30 * rows[i] + (uint32_t)k] / 255.0f);
    }
    hr_dataset_release(&ds);
}

/* Which shift and mirroring of a turns it into b? Every value of a is different and none is 0. */
static bool explain(const float *a, const float *b, int c, int h, int w, int pad, int *dy, int *dx, int *flip)
{
    for (*flip = 0; *flip < 2; ++*flip)
        for (*dy = -pad; *dy <= pad; ++*dy)
            for (*dx = -pad; *dx <= pad; ++*dx) {
                bool same = true;
                for (int i = 0; same && i < h * w * c; i++) {
                    int y = i / (w * c), x = i / c % w, k = i % c;
                    int sy = y + *dy, sx = (*flip ? w - 1 - x : x) + *dx;
                    bool inside = sy >= 0 && sy < h && sx >= 0 && sx < w;
                    same = b[i] == (inside ? a[(sy * w + sx) * c + k] : 0.0f);
                }
                if (same)
                    return true;
            }
    return false;
}

static void test_augmented_images_are_shifted_and_mirrored_evenly(void **state)
{
    (void)state;
    enum { N = 3000, C = 2, H = 6, W = 5, PAD = 2, VALUES = C * H * W };
    hr_dataset ds = numbered(N, C, H, W, 2);
    uint32_t *rows = hr_xmalloc(N * sizeof *rows);
    float *a = hr_xmalloc(N * VALUES * sizeof *a), *b = hr_xmalloc(N * VALUES * sizeof *b);
    int seen[2][2 * PAD + 1][2 * PAD + 1] = {0};
    for (uint32_t i = 0; i < N; i++)
        rows[i] = i;
    for (int i = 0; i < N * VALUES; i++)
        a[i] = b[i] = (float)(i % VALUES + 1) / 100.0f;
    hr_batch_augment(&ds, rows, N, b, PAD, true, 5, 1);
    for (int i = 0; i < N; i++) {
        int dy, dx, flip;
        assert_true(explain(a + i * VALUES, b + i * VALUES, C, H, W, PAD, &dy, &dx, &flip));
        seen[flip][dy + PAD][dx + PAD]++;
    }
    /* 50 cells of 60 expected draws each: five standard deviations are 39 */
    for (int i = 0; i < 50; i++)
        assert_near(((int *)seen)[i], 60, 39);

    /* no flips when not asked for; nothing at all without padding */
    memcpy(b, a, N * VALUES * sizeof *b);
    hr_batch_augment(&ds, rows, 200, b, PAD, false, 5, 1);
    for (int i = 0; i < 200; i++) {
        int dy, dx, flip;
        assert_true(explain(a + i * VALUES, b + i * VALUES, C, H, W, PAD, &dy, &dx, &flip));
        assert_int_equal(flip, 0);
    }
    memcpy(b, a, N * VALUES * sizeof *b);
    hr_batch_augment(&ds, rows, N, b, 0, false, 5, 1);
    assert_memory_equal(a, b, N * VALUES * sizeof *b);
    free(a);
    free(b);
    free(rows);
    hr_dataset_release(&ds);
}

static void test_augmentation_belongs_to_image_epoch_and_seed(void **state)
{
    (void)state;
    enum { VALUES = 3 * 8 * 8 };
    hr_err err = HR_ERR_INIT;
    hr_dataset ds = numbered(40, 3, 8, 8, 2), odd = numbered(40, 3, 8, 8, 2);
    const uint32_t forward[] = {3, 5, 7, 9}, backward[] = {9, 7, 5, 3};
    float a[4 * VALUES], b[4 * VALUES];
    int32_t y[4];
    hr_batch_fill(&ds, forward, 4, a, y);
    hr_batch_augment(&ds, forward, 4, a, 3, true, 1, 2);
    hr_batch_fill(&ds, backward, 4, b, y);
    hr_batch_augment(&ds, backward, 4, b, 3, true, 1, 2);
    for (int i = 0; i < 4; i++) /* the place in the batch does not matter */
        assert_memory_equal(a + i * VALUES, b + (3 - i) * VALUES, VALUES * sizeof *a);

    /* nor does the place in a subset: images 1, 3, 5... are rows 0, 1, 2... of it */
    for (uint32_t i = 0; i < 40; i++)
        odd.labels[i] = 0;
    assert_ok(hr_dataset_subset(&odd, 10, true, 3, &err), err);
    uint32_t row = 9, same = odd.index[9];
    hr_batch_fill(&odd, &row, 1, a, y);
    hr_batch_augment(&odd, &row, 1, a, 3, true, 1, 2);
    hr_batch_fill(&ds, &same, 1, b, y);
    hr_batch_augment(&ds, &same, 1, b, 3, true, 1, 2);
    assert_memory_equal(a, b, VALUES * sizeof *a);

    /* another epoch or seed: other draws (all four alike: (1/98)^4) */
    for (uint32_t k = 0; k < 2; k++) {
        hr_batch_fill(&ds, forward, 4, a, y);
        hr_batch_augment(&ds, forward, 4, a, 3, true, 1, 2);
        hr_batch_fill(&ds, forward, 4, b, y);
        hr_batch_augment(&ds, forward, 4, b, 3, true, 1 + k, 3 - k);
        assert_memory_not_equal(a, b, sizeof a);
    }
    hr_dataset_release(&odd);
    hr_dataset_release(&ds);
}

/* On an image whose value is a linear function of the place, a crop's value is one too, away from its edges:
 * its slopes tell the rectangle's sides, its values the place. */
static void test_resized_crops_are_rectangles_of_torchvisions_sizes(void **state)
{
    (void)state;
    enum { SIDE = 32, VALUES = SIDE * SIDE, N = 2000 };
    hr_dataset ds = numbered(N, 1, SIDE, SIDE, 2);
    float *x = hr_xmalloc(VALUES * sizeof *x);
    int mirrored = 0, small = 0, wide = 0;
    double least = 1, most = 0;
    for (uint32_t i = 0; i < N; i++) {
        for (int p = 0; p < VALUES; p++)
            x[p] = (float)(p % SIDE) + 100.0f * (float)(p / SIDE);
        hr_batch_resized_crop(&ds, &i, 1, x, true, 7, 1);
        /* slopes at the middle, where nothing is cut at an edge; floats of up to 3131 */
        const float *mid = x + SIDE / 2 * SIDE + SIDE / 2;
        double dx = (double)mid[4] - mid[-4], dy = ((double)mid[4 * SIDE] - mid[-4 * SIDE]) / 100;
        double w = fabs(dx) / 8 * SIDE, h = dy / 8 * SIDE, area = w * h / VALUES;
        mirrored += dx < 0;
        assert_near(w, nearbyint(w), 2e-2);
        assert_near(h, nearbyint(h), 2e-2);
        /* the sides are rounded: 9 pixels may be 8.5 */
        assert_true(w / h > 0.75 * 0.9 && w / h < 4.0 / 3.0 / 0.9);
        assert_true(area > 0.08 * 0.85 && area < 1.001);
        small += area < 0.54;
        wide += w > h;
        least = fmin(least, area);
        most = fmax(most, area);
        /* all of it lies in the image */
        for (int p = 0; p < VALUES; p++)
            assert_true(x[p] >= 0 && x[p] <= 100 * (SIDE - 1) + SIDE - 1 + 1e-3);
    }
    /* five standard deviations of 2000 coins are 112; large rectangles that do not fit are drawn again, and
     * so a little more than half is small */
    assert_near(mirrored, N / 2, 112);
    assert_true(small > N / 2 && small < N * 7 / 10);
    assert_true(wide > N * 4 / 10 && wide < N / 2 + 112);
    assert_true(least < 0.1 && most > 0.95);

    /* 8 of 101 pixels in a row are too many for one of a ratio up to 4/3: what is left is the middle one */
    hr_dataset flat = numbered(1, 1, 1, 101, 2);
    float line[101], before[101];
    int32_t y;
    uint32_t row = 0;
    hr_batch_fill(&flat, &row, 1, line, &y);
    memcpy(before, line, sizeof line);
    hr_batch_resized_crop(&flat, &row, 1, line, false, 7, 1);
    for (int p = 0; p < 101; p++)
        assert_near(line[p], before[50], 1e-7);
    hr_dataset_release(&flat);
    hr_dataset_release(&ds);
    free(x);
}

static void test_a_resized_crop_belongs_to_image_epoch_and_seed(void **state)
{
    (void)state;
    enum { VALUES = 3 * 8 * 8 };
    hr_dataset ds = numbered(40, 3, 8, 8, 2);
    const uint32_t forward[] = {3, 5, 7, 9}, backward[] = {9, 7, 5, 3};
    float a[4 * VALUES], b[4 * VALUES];
    int32_t y[4];
    hr_batch_fill(&ds, forward, 4, a, y);
    hr_batch_resized_crop(&ds, forward, 4, a, true, 1, 2);
    hr_batch_fill(&ds, backward, 4, b, y);
    hr_batch_resized_crop(&ds, backward, 4, b, true, 1, 2);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(a + i * VALUES, b + (3 - i) * VALUES, VALUES * sizeof *a);
    for (uint32_t k = 0; k < 2; k++) {
        hr_batch_fill(&ds, forward, 4, b, y);
        hr_batch_resized_crop(&ds, forward, 4, b, true, 1 + k, 3 - k);
        assert_memory_not_equal(a, b, sizeof a);
    }
    hr_dataset_release(&ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_is_pixels_over_255_of_the_rows_asked_for),
        cmocka_unit_test(test_augmented_images_are_shifted_and_mirrored_evenly),
        cmocka_unit_test(test_augmentation_belongs_to_image_epoch_and_seed),
        cmocka_unit_test(test_resized_crops_are_rectangles_of_torchvisions_sizes),
        cmocka_unit_test(test_a_resized_crop_belongs_to_image_epoch_and_seed),
    };
    return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
