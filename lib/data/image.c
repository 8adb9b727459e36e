/* lib/data/image.c -- JPEG and PNG images to uint8 pixels in H,W,C order, and their way to a fixed size.
 *
 * Decoding is libjpeg-turbo's (accurate integer DCT, smooth upsampling of colour: its defaults, and PIL's)
 * and libpng's, without gamma or colour profiles, which no training code looks at. A JPEG in CMYK becomes RGB
 * as (255 - c)(255 - k) / 255; Adobe's are stored inverted. A JPEG with any complaint of the library but
 * "extraneous bytes before a marker" counts as damaged, a PNG with any error.
 *
 * A size in a head is cheap to forge. Neither format makes more than about a thousand pixels of a byte (a
 * block of 16x16 pixels takes at least two bytes of a JPEG; deflate makes at most 1032 bytes of one), so a
 * head that announces more is refused before memory is taken; and a progressive JPEG may not have more than
 * 100 scans, each of which passes over the whole image. */
#include "data/internal.h"

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PIXELS = 1 << 26, PIXELS_PER_BYTE = 1100, MAX_SCANS = 100 };

const char *hr_image_kind(const uint8_t *p, size_t n)
{
    if (n >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0)
        return "JPEG";
    if (n >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0)
        return "PNG";
    return NULL;
}

void hr_image_release(hr_image *im)
{
    free(im->pixels);
    *im = (hr_image){0};
}

void hr_image_reserve(hr_image *im, int c, int h, int w)
{
    size_t bytes = (size_t)c * (size_t)h * (size_t)w;
    if (bytes + HR_IMAGE_SPARE > im->cap) {
        free(im->pixels);
        im->cap = bytes + HR_IMAGE_SPARE;
        im->pixels = hr_xmalloc(im->cap);
    }
    memset(im->pixels + bytes, 0, HR_IMAGE_SPARE);
    im->c = c;
    im->h = im->full_h = h;
    im->w = im->full_w = w;
    im->top = im->left = 0;
}

static int check_size(const char *kind, uint64_t w, uint64_t h, size_t n, hr_err *why)
{
    if (w < 1 || h < 1 || w > MAX_SIDE || h > MAX_SIDE || w * h > MAX_PIXELS ||
        w * h > 4096 + (uint64_t)n * PIXELS_PER_BYTE)
        return hr_fail(why, HR_EFORMAT, "a %s image of %llux%llu pixels in %zu bytes", kind,
                       (unsigned long long)w, (unsigned long long)h, n);
    return HR_OK;
}

/* ---- JPEG ---------------------------------------------------------------------------------------------- */

struct jpeg {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    bool damaged;
    char text[JMSG_LENGTH_MAX];
};

static void jpeg_die(j_common_ptr c)
{
    struct jpeg *j = c->client_data;
    c->err->format_message(c, j->text);
    longjmp(j->back, 1);
}

static void jpeg_complain(j_common_ptr c, int level)
{
    struct jpeg *j = c->client_data;
    if (level >= 0 || c->err->msg_code == JWRN_EXTRANEOUS_DATA)
        return; /* not a warning, or a harmless one */
    if (!j->damaged)
        c->err->format_message(c, j->text);
    j->damaged = true;
}

static void jpeg_scan(j_common_ptr c)
{
    struct jpeg *j = c->client_data;
    if (j->d.input_scan_number > MAX_SCANS) {
        snprintf(j->text, sizeof j->text, "more than %d scans", MAX_SCANS);
        longjmp(j->back, 1);
    }
}

static uint8_t times(int a, int b) /* a * b / 255, rounded */
{
    int t = a * b + 128;
    return (uint8_t)((t + (t >> 8)) >> 8);
}

/* n pixels of CMYK to RGB, in place. */
static void cmyk_to_rgb(uint8_t *p, size_t n, bool inverted)
{
    uint8_t flip = inverted ? 0 : 255, *dst = p;
    for (; n > 0; n--, p += 4) {
        uint8_t key = p[3] ^ flip;
        for (int k = 0; k < 3; k++)
            *dst++ = times(p[k] ^ flip, key);
    }
}

/* Decode the next rows, which are `from` to `to`, to the first ones of im. */
static void read_rows(struct jpeg *j, int from, int to, const hr_image *im)
{
    size_t stride = (size_t)im->w * (size_t)im->c;
    for (int y; (y = (int)j->d.output_scanline) < to;) {
        JSAMPROW rows[4];
        for (int i = 0; i < 4 && y + i < to; i++)
            rows[i] = im->pixels + (size_t)(y + i - from) * stride;
        jpeg_read_scanlines(&j->d, rows, (JDIMENSION)(to - y < 4 ? to - y : 4));
    }
}

/* Decode rows and columns that a crop of h x w needs, and some more: smooth upsampling looks at neighbours.
 * The rows below are not even unpacked, so that a file without its end is not for this function. */
static void read_window(struct jpeg *j, int h, int w, hr_image *im)
{
    enum { MARGIN = 8 };
    int ih = (int)j->d.output_height, iw = (int)j->d.output_width, top, bottom, left, right;
    hr_image_window(ih, iw, h, w, &top, &bottom, &left, &right);
    top = top > MARGIN ? top - MARGIN : 0;
    left = left > MARGIN ? left - MARGIN : 0;
    bottom = ih - bottom > MARGIN ? bottom + MARGIN : ih;
    right = iw - right > MARGIN ? right + MARGIN : iw;

    JDIMENSION from = (JDIMENSION)left, width = (JDIMENSION)(right - left);
    jpeg_crop_scanline(&j->d, &from, &width);
    hr_image_reserve(im, j->d.output_components, bottom - top, (int)width);
    im->full_h = ih;
    im->full_w = iw;
    im->top = top;
    im->left = (int)from;
    if (top > 0)
        jpeg_skip_scanlines(&j->d, (JDIMENSION)top);
    read_rows(j, top, bottom, im);
    jpeg_abort_decompress(&j->d);
}

/* h 0: the whole image, else what a crop of h x w needs of it. */
static int decode_jpeg(const uint8_t *bytes, size_t n, bool rgb, int h, int w, hr_image *im, hr_err *why)
{
    struct jpeg j = {.damaged = false};
    int rc = HR_OK;
    j.d.err = jpeg_std_error(&j.errors);
    j.errors.error_exit = jpeg_die;
    j.errors.emit_message = jpeg_complain;
    j.progress.progress_monitor = jpeg_scan;
    j.d.client_data = &j;
    if (setjmp(j.back)) {
        jpeg_destroy_decompress(&j.d);
        return hr_fail(why, HR_EFORMAT, "a damaged JPEG: %s", j.text);
    }
    jpeg_create_decompress(&j.d);
    j.d.progress = &j.progress;
    jpeg_mem_src(&j.d, bytes, n);
    jpeg_read_header(&j.d, TRUE);
    rc = check_size("JPEG", j.d.image_width, j.d.image_height, n, why);
    if (rc == HR_OK) {
        bool grey = j.d.jpeg_color_space == JCS_GRAYSCALE;
        bool cmyk = j.d.jpeg_color_space == JCS_CMYK || j.d.jpeg_color_space == JCS_YCCK;
        j.d.out_color_space = cmyk ? JCS_CMYK : grey && !rgb ? JCS_GRAYSCALE : JCS_RGB;
        jpeg_start_decompress(&j.d);
        bool whole = h == 0 || n < 2 || memcmp(bytes + n - 2, "\xff\xd9", 2) != 0;
        if (whole) {
            hr_image_reserve(im, j.d.output_components, (int)j.d.output_height, (int)j.d.output_width);
            read_rows(&j, 0, im->h, im);
            jpeg_finish_decompress(&j.d);
        } else {
            read_window(&j, h, w, im);
        }
        if (cmyk) {
            cmyk_to_rgb(im->pixels, (size_t)im->w * (size_t)im->h, j.d.saw_Adobe_marker);
            im->c = 3;
        }
        if (j.damaged)
            rc = hr_fail(why, HR_EFORMAT, "a damaged JPEG: %s", j.text);
    }
    jpeg_destroy_decompress(&j.d);
    return rc;
}

/* ---- PNG ----------------------------------------------------------------------------------------------- */

struct png {
    png_structp png;
    png_infop info;
    const uint8_t *bytes;
    size_t n, at;
    uint8_t **rows;
    char text[200];
};

static void png_die(png_structp png, png_const_charp text)
{
    struct png *p = png_get_error_ptr(png);
    snprintf(p->text, sizeof p->text, "%s", text);
    png_longjmp(png, 1);
}

static void png_complain(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text; /* about chunks that we do not look at */
}

static void png_take(png_structp png, png_bytep dst, size_t n)
{
    struct png *p = png_get_io_ptr(png);
    if (n > p->n - p->at)
        png_error(png, "cut short");
    memcpy(dst, p->bytes + p->at, n);
    p->at += n;
}

static int decode_png(const uint8_t *bytes, size_t n, bool rgb, hr_image *im, hr_err *why)
{
    struct png p = {.bytes = bytes, .n = n};
    int rc = HR_OK;
    p.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &p, png_die, png_complain);
    p.info = p.png ? png_create_info_struct(p.png) : NULL;
    if (!p.info)
        hr_die("libpng gives no reader: out of memory");
    if (setjmp(png_jmpbuf(p.png))) {
        png_destroy_read_struct(&p.png, &p.info, NULL);
        free(p.rows);
        return hr_fail(why, HR_EFORMAT, "a damaged PNG: %s", p.text);
    }
    png_set_read_fn(p.png, &p, png_take);
    png_read_info(p.png, p.info);
    rc = check_size("PNG", png_get_image_width(p.png, p.info), png_get_image_height(p.png, p.info), n, why);
    if (rc == HR_OK) {
        png_set_strip_16(p.png);
        png_set_packing(p.png);
        png_set_expand(p.png); /* palettes, fewer than 8 bits, a transparent colour */
        if (rgb) {
            png_set_strip_alpha(p.png);
            png_set_gray_to_rgb(p.png);
        }
        png_set_interlace_handling(p.png);
        png_read_update_info(p.png, p.info);
        hr_image_reserve(im, png_get_channels(p.png, p.info), (int)png_get_image_height(p.png, p.info),
                         (int)png_get_image_width(p.png, p.info));
        size_t stride = (size_t)im->w * (size_t)im->c;
        if (png_get_rowbytes(p.png, p.info) != stride)
            BUG("a PNG row of %zu bytes, not %zu", png_get_rowbytes(p.png, p.info), stride);
        p.rows = hr_xmalloc((size_t)im->h * sizeof *p.rows);
        for (int i = 0; i < im->h; i++)
            p.rows[i] = im->pixels + (size_t)i * stride;
        png_read_image(p.png, p.rows);
        png_read_end(p.png, NULL);
    }
    png_destroy_read_struct(&p.png, &p.info, NULL);
    free(p.rows);
    return rc;
}

int hr_image_decode(const uint8_t *bytes, size_t n, bool rgb, hr_image *im, hr_err *why)
{
    const char *kind = hr_image_kind(bytes, n);
    if (!kind)
        return hr_fail(why, HR_EFORMAT, "neither a JPEG nor a PNG image");
    return kind[0] == 'J' ? decode_jpeg(bytes, n, rgb, 0, 0, im, why) : decode_png(bytes, n, rgb, im, why);
}

int hr_image_decode_fit(const uint8_t *bytes, size_t n, int h, int w, hr_image *scratch, hr_image *out,
                        hr_err *why)
{
    const char *kind = hr_image_kind(bytes, n);
    int rc = kind && kind[0] == 'J' ? decode_jpeg(bytes, n, true, h, w, scratch, why)
                                    : hr_image_decode(bytes, n, true, scratch, why);
    if (rc == HR_OK)
        hr_image_fit(scratch, h, w, out);
    return rc;
}
