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
 * 100 scans, each of which passes over the whole image.
 *
 * To a fixed size H x W, as torchvision's Resize and CenterCrop do it on PIL images: the image is scaled so
 * that the short side has 256/224 of the size, and the middle is cut out. Scaling is PIL's bilinear filter: a
 * triangle as wide as two source pixels per target pixel (so that it averages when an image shrinks), first
 * along rows, then along columns, weights with 22 bits after the point, values rounded to bytes in between.
 * Only what the crop shows is computed. */
#include "data/internal.h"

#include <jpeglib.h>
#include <jerror.h>
#include <math.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

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

/* Room for an image of this size; what im held is lost. */
static void reserve(hr_image *im, int c, int h, int w)
{
    size_t bytes = (size_t)c * (size_t)h * (size_t)w;
    if (bytes > im->cap) {
        free(im->pixels);
        im->pixels = hr_xmalloc(bytes);
        im->cap = bytes;
    }
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

/* ---- where a crop comes from
 * ------------------------------------------------------------------------------- */

enum { BITS = 22, SHORT_SIDE = 256, CROP = 224 };

/* Weights along one axis: target i is the sum of taps[i] source values from first[i] on. */
struct axis {
    int n, most; /* targets; the largest number of taps */
    int *first, *taps;
    int32_t *weight; /* (n, most) */
};

/* Targets from..from+n of `to` ones, out of `size` source values. */
static struct axis axis_new(int size, int to, int from, int n)
{
    double scale = (double)size / to, support = scale < 1 ? 1 : scale;
    struct axis a = {.n = n, .most = (int)ceil(support) * 2 + 1};
    a.first = hr_xmalloc((size_t)n * sizeof *a.first);
    a.taps = hr_xmalloc((size_t)n * sizeof *a.taps);
    a.weight = hr_xcalloc((size_t)n * (size_t)a.most, sizeof *a.weight);
    double *w = hr_xmalloc((size_t)a.most * sizeof *w);
    for (int i = 0; i < n; i++) {
        double centre = (from + i + 0.5) * scale, sum = 0;
        int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
        lo = centre - support + 0.5 < 0 ? 0 : lo;
        hi = hi > size ? size : hi;
        for (int k = 0; k < hi - lo; k++) {
            double at = fabs((k + lo - centre + 0.5) / support);
            w[k] = at < 1 ? 1 - at : 0;
            sum += w[k];
        }
        a.first[i] = lo;
        a.taps[i] = hi - lo;
        for (int k = 0; k < hi - lo; k++)
            a.weight[i * a.most + k] = (int32_t)(0.5 + w[k] * (1 / sum) * (1 << BITS));
        while (a.taps[i] > 1 && a.weight[i * a.most + a.taps[i] - 1] == 0)
            a.taps[i]--;
    }
    free(w);
    return a;
}

static void axis_release(struct axis *a)
{
    free(a->first);
    free(a->taps);
    free(a->weight);
}

/* Size of the long side after the short one became `to`, as torchvision computes it. */
static int long_side(int shorter, int longer, int to)
{
    return (int)((int64_t)to * longer / shorter);
}

static int middle(int size, int n) /* torchvision rounds a half to the even number */
{
    int twice = size - n;
    return twice % 2 == 0 ? twice / 2 : (twice + (twice % 4 == 1 ? -1 : 1)) / 2;
}

/* The crop of h x w, see above, out of an image of ih x iw. */
static void plan(int ih, int iw, int h, int w, struct axis *rows, struct axis *cols)
{
    int side = h < w ? h : w, target = (side * SHORT_SIDE + CROP / 2) / CROP;
    int th = ih <= iw ? target : long_side(iw, ih, target);
    int tw = ih <= iw ? long_side(ih, iw, target) : target;
    th = th < h ? h : th; /* of a crop that is not square */
    tw = tw < w ? w : tw;
    *rows = axis_new(ih, th, middle(th, h), h);
    *cols = axis_new(iw, tw, middle(tw, w), w);
}

/* The source values that an axis needs: *from..*to-1. */
static void range(const struct axis *a, int *from, int *to)
{
    *from = a->first[0];
    *to = 0;
    for (int i = 0; i < a->n; i++)
        *to = a->first[i] + a->taps[i] > *to ? a->first[i] + a->taps[i] : *to;
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

/* Decode rows and columns that a crop of h x w needs, and some more: smooth upsampling looks at neighbours.
 * The rows below are not even unpacked, so that a file without its end is not for this function. */
static void read_window(struct jpeg *j, int h, int w, hr_image *im)
{
    enum { MARGIN = 32 };
    struct axis rows, cols;
    int ih = (int)j->d.output_height, iw = (int)j->d.output_width, top, bottom, left, right;
    plan(ih, iw, h, w, &rows, &cols);
    range(&rows, &top, &bottom);
    range(&cols, &left, &right);
    axis_release(&rows);
    axis_release(&cols);
    top = top > MARGIN ? top - MARGIN : 0;
    left = left > MARGIN ? left - MARGIN : 0;
    bottom = ih - bottom > MARGIN ? bottom + MARGIN : ih;
    right = iw - right > MARGIN ? right + MARGIN : iw;

    JDIMENSION from = (JDIMENSION)left, width = (JDIMENSION)(right - left);
    jpeg_crop_scanline(&j->d, &from, &width);
    reserve(im, j->d.output_components, bottom - top, (int)width);
    im->full_h = ih;
    im->full_w = iw;
    im->top = top;
    im->left = (int)from;
    if (top > 0)
        jpeg_skip_scanlines(&j->d, (JDIMENSION)top);
    size_t stride = (size_t)im->w * (size_t)im->c;
    while ((int)j->d.output_scanline < bottom) {
        JSAMPROW row = im->pixels + ((size_t)j->d.output_scanline - (size_t)top) * stride;
        jpeg_read_scanlines(&j->d, &row, 1);
    }
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
        if (whole)
            reserve(im, j.d.output_components, (int)j.d.output_height, (int)j.d.output_width);
        else
            read_window(&j, h, w, im);
        size_t stride = (size_t)im->w * (size_t)im->c;
        while (whole && j.d.output_scanline < j.d.output_height) {
            JSAMPROW rows[4];
            for (JDIMENSION i = 0; i < 4 && j.d.output_scanline + i < j.d.output_height; i++)
                rows[i] = im->pixels + (j.d.output_scanline + i) * stride;
            JDIMENSION left = j.d.output_height - j.d.output_scanline;
            jpeg_read_scanlines(&j.d, rows, left < 4 ? left : 4);
        }
        if (whole)
            jpeg_finish_decompress(&j.d);
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
        reserve(im, png_get_channels(p.png, p.info), (int)png_get_image_height(p.png, p.info),
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

/* ---- scaling ------------------------------------------------------------------------------------------- */

/* gcc's and clang's vectors; four lanes are what every x86-64 and arm64 has. */
typedef int32_t lanes __attribute__((vector_size(16)));
typedef uint8_t quad __attribute__((vector_size(4)));

#ifdef __SSE4_1__ /* what gcc 12 makes of the portable form is five times slower */
static lanes load(const uint8_t *p)
{
    int word;
    memcpy(&word, p, sizeof word);
    return (lanes)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(word));
}

static quad narrow_lanes(lanes v)
{
    __m128i low = _mm_packus_epi32((__m128i)v, (__m128i)v);
    int word = _mm_cvtsi128_si32(_mm_packus_epi16(low, low));
    quad q;
    memcpy(&q, &word, sizeof q);
    return q;
}
#else
static lanes load(const uint8_t *p)
{
    quad q;
    memcpy(&q, p, sizeof q);
    return __builtin_convertvector(q, lanes);
}

static quad narrow_lanes(lanes v)
{
    return __builtin_convertvector(v, quad);
}
#endif

/* Sums of bytes times weights, to bytes. The weights add up to 2^BITS, but for rounding: one more or less for
 * a tap, far too little to bring 255.5 to 256. */
static quad to_bytes(lanes sum)
{
    return narrow_lanes(sum >> BITS);
}

/* One row, c <= 4 channels: four bytes are loaded and stored at a time, so that src and dst have 4 bytes to
 * spare. */
static void scale_row(const struct axis *a, int c, const uint8_t *src, uint8_t *dst)
{
    const lanes half = {1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)};
    for (int i = 0; i < a->n; i++, dst += c) {
        const int32_t *w = a->weight + i * a->most;
        const uint8_t *p = src + a->first[i] * c;
        lanes sum = half;
        for (int k = 0; k < a->taps[i]; k++, p += c)
            sum += load(p) * w[k];
        quad q = to_bytes(sum);
        memcpy(dst, &q, sizeof q);
    }
}

/* Target row i out of rows of `stride` bytes, n of them count; the last ones of src and dst have 4 to spare.
 */
static void scale_column(const struct axis *a, int i, const uint8_t *src, size_t stride, size_t n,
                         uint8_t *dst)
{
    const lanes half = {1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)};
    const int32_t *w = a->weight + i * a->most;
    for (size_t x = 0; x < n; x += 8) {
        const uint8_t *p = src + x;
        lanes sum = half, more = half;
        for (int k = 0; k < a->taps[i]; k++, p += stride) {
            sum += load(p) * w[k];
            more += load(p + 4) * w[k];
        }
        quad q[2] = {to_bytes(sum), to_bytes(more)};
        memcpy(dst + x, q, sizeof q);
    }
}

void hr_image_fit(const hr_image *im, int h, int w, hr_image *out)
{
    enum { SPARE = 16 };
    struct axis rows, cols;
    int top, bottom;
    plan(im->full_h, im->full_w, h, w, &rows, &cols);
    for (int i = 0; i < h; i++)
        rows.first[i] -= im->top;
    for (int i = 0; i < w; i++)
        cols.first[i] -= im->left;
    range(&rows, &top, &bottom);
    size_t from = (size_t)im->w * (size_t)im->c, stride = (size_t)w * (size_t)im->c;
    uint8_t *narrow = hr_xmalloc((size_t)(bottom - top) * stride + SPARE), *line = hr_xmalloc(stride + SPARE);
    uint8_t *last = hr_xmalloc(from + SPARE);
    memset(narrow + (size_t)(bottom - top) * stride, 0, SPARE);
    for (int y = top; y < bottom; y++) {
        const uint8_t *src = im->pixels + (size_t)y * from;
        if (y == im->h - 1) { /* nothing to spare behind the image's last row */
            memcpy(last, src, from);
            memset(last + from, 0, SPARE);
            src = last;
        }
        scale_row(&cols, im->c, src, narrow + (size_t)(y - top) * stride);
    }
    reserve(out, im->c, h, w);
    for (int i = 0; i < h; i++) {
        scale_column(&rows, i, narrow + (size_t)(rows.first[i] - top) * stride, stride, stride, line);
        memcpy(out->pixels + (size_t)i * stride, line, stride);
    }
    free(narrow);
    free(line);
    free(last);
    axis_release(&rows);
    axis_release(&cols);
}
