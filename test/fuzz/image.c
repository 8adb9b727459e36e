/* test/fuzz/image.c -- JPEG and PNG images: decoded with their own channels and as RGB, scaled and cropped.
 */
#include "fuzz.h"

#include "data/internal.h"

#include <jpeglib.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

bool fuzz_one(const uint8_t *data, size_t n)
{
    static hr_image im, fitted; /* reused, as in a conversion */
    hr_err err = HR_ERR_INIT;
    bool rgb = n % 2;
    if (hr_image_decode(data, n, rgb, &im, &err))
        return false;
    must(im.h > 0 && im.w > 0 && im.c >= 1 && im.c <= 4 && (!rgb || im.c == 3));
    must((size_t)im.c * (size_t)im.h * (size_t)im.w <= im.cap);
    hr_image_fit(&im, 8, 8, &fitted);
    must(fitted.c == im.c && fitted.h == 8 && fitted.w == 8);
    if (hr_image_decode_fit(data, n, 8, 8, &im, &fitted, &err) == HR_OK)
        must(fitted.c == 3 && fitted.h == 8 && fitted.w == 8);
    return true;
}

static void seed_jpeg(const char *name, J_COLOR_SPACE space, int channels, bool progressive)
{
    enum { SIDE = 20 };
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr errors;
    unsigned char *mem = NULL, row[SIDE * 4];
    unsigned long size = 0;
    j.err = jpeg_std_error(&errors);
    jpeg_create_compress(&j);
    jpeg_mem_dest(&j, &mem, &size);
    j.image_width = j.image_height = SIDE;
    j.input_components = channels;
    j.in_color_space = space;
    jpeg_set_defaults(&j);
    if (progressive)
        jpeg_simple_progression(&j);
    jpeg_start_compress(&j, TRUE);
    while (j.next_scanline < SIDE) {
        JSAMPROW rows = row;
        for (size_t i = 0; i < sizeof row; i++)
            row[i] = (uint8_t)(i * j.next_scanline);
        jpeg_write_scanlines(&j, &rows, 1);
    }
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    fuzz_seed(name, mem, size);
    free(mem);
}

static void seed_png(const char *name, uint32_t format)
{
    enum { SIDE = 12 };
    static uint8_t pixels[SIDE * SIDE * 4], out[1 << 14], map[1024];
    png_image image = {.version = PNG_IMAGE_VERSION, .width = SIDE, .height = SIDE, .format = format};
    png_alloc_size_t size = sizeof out;
    image.colormap_entries = format & PNG_FORMAT_FLAG_COLORMAP ? 4 : 0;
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(format & PNG_FORMAT_FLAG_COLORMAP ? i % 4 : i * 7);
    for (size_t i = 0; i < sizeof map; i++)
        map[i] = (uint8_t)(i * 31);
    if (!png_image_write_to_memory(&image, out, &size, 0, pixels, 0, map))
        hr_die("libpng: %s", image.message);
    fuzz_seed(name, out, size);
}

void fuzz_seeds(void)
{
    seed_jpeg("grey", JCS_GRAYSCALE, 1, false);
    seed_jpeg("rgb", JCS_RGB, 3, false);
    seed_jpeg("progressive", JCS_RGB, 3, true);
    seed_jpeg("cmyk", JCS_CMYK, 4, false);
    seed_png("png-grey", PNG_FORMAT_GRAY);
    seed_png("png-rgb", PNG_FORMAT_RGB);
    seed_png("png-rgba", PNG_FORMAT_RGBA);
    seed_png("png-palette", PNG_FORMAT_RGB_COLORMAP);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    (void)seed;
    return LLVMFuzzerMutate(data, size, max);
}
