/* test/unit/test_scale.c -- images to a fixed size: all ways to the pixels, and the pixels themselves for
 * sizes that PIL's comparison in the tool's tests does not have. */
#include "data/internal.h"
#include "unit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One value as PIL computes it, from the definition: first along rows, then along columns. */
static double triangle(int size, int to, int i, int k)
{
    double scale = (double)size / to, support = scale < 1 ? 1 : scale;
    double at = fabs((k + 0.5 - (i + 0.5) * scale) / support);
    return at < 1 ? 1 - at : 0;
}

static int weighted(const uint8_t *p, size_t step, int size, int to, int i)
{
    double sum = 0, all = 0;
    for (int k = 0; k < size; k++) {
        sum += triangle(size, to, i, k) * p[(size_t)k * step];
        all += triangle(size, to, i, k);
    }
    return (int)floor(sum / all + 0.5);
}

static hr_image noise(int h, int w, uint32_t seed)
{
    hr_image im = {0};
    hr_image_reserve(&im, 3, h, w);
    for (int i = 0; i < h * w * 3; i++) {
        seed = seed * 1664525u + 1013904223u;
        im.pixels[i] = (seed >> 30) ? (uint8_t)(seed >> 24) : 255 * (seed >> 29 & 1);
    }
    return im;
}

/* From a ninth of the size to seven times it; targets of odd sizes end within a vector. */
static void test_every_way_of_scaling_gives_the_same_pixels(void **state)
{
    (void)state;
    static const int sizes[][4] = {{375, 500, 224, 224}, {64, 90, 57, 61}, {300, 299, 33, 29},
                                   {5, 9, 31, 35},       {40, 40, 35, 35}, {1, 1, 7, 7},
                                   {97, 64, 28, 60},     {16, 16, 5, 5}};
    for (size_t s = 0; s < HR_COUNT(sizes); s++) {
        int h = sizes[s][2], w = sizes[s][3];
        size_t n = (size_t)(h * w * 3);
        hr_image im = noise(sizes[s][0], sizes[s][1], (uint32_t)s), plain = {0}, out = {0};
        setenv("HERACLES_ISA", "v2", 1);
        hr_image_fit(&im, h, w, &plain);
        for (int isa = 3; isa <= 4; isa++) { /* where the machine has less, the same once more */
            setenv("HERACLES_ISA", isa == 3 ? "v3" : "v4", 1);
            hr_image_fit(&im, h, w, &out);
            assert_memory_equal(plain.pixels, out.pixels, n);
        }
        unsetenv("HERACLES_ISA");
        hr_image_release(&im);
        hr_image_release(&plain);
        hr_image_release(&out);
    }
}

/* Square images, of which the middle 7/8 stay. Weights of 22 bits may move a value that is all but half. */
static void test_scaled_pixels_are_those_of_the_definition(void **state)
{
    (void)state;
    enum { SIDE = 21, ALL = 24, CUT = (ALL - SIDE) / 2 + 1 }; /* 1.5 is rounded to the even number */
    static const int sizes[] = {9, 24, 50, 101};
    for (size_t s = 0; s < HR_COUNT(sizes); s++) {
        int size = sizes[s], wrong = 0;
        hr_image im = noise(size, size, 7), out = {0};
        uint8_t *narrow = hr_xmalloc((size_t)(size * ALL * 3));
        for (int y = 0; y < size; y++)
            for (int x = 0; x < ALL; x++)
                for (int c = 0; c < 3; c++)
                    narrow[(y * ALL + x) * 3 + c] =
                        (uint8_t)weighted(im.pixels + (size_t)(y * size * 3 + c), 3, size, ALL, x);
        hr_image_fit(&im, SIDE, SIDE, &out);
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE * 3; x++) {
                int want = weighted(narrow + CUT * 3 + x, ALL * 3, size, ALL, y + CUT),
                    have = out.pixels[y * SIDE * 3 + x];
                assert_in_range(have - want + 1, 0, 2);
                wrong += have != want;
            }
        assert_in_range(wrong, 0, SIDE * SIDE * 3 / 100);
        free(narrow);
        hr_image_release(&im);
        hr_image_release(&out);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_way_of_scaling_gives_the_same_pixels),
        cmocka_unit_test(test_scaled_pixels_are_those_of_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
