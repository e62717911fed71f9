/* The box of a JPEG, decoded no further than it needs to be and handed row by row to a resizer.
 *
 * Columns and rows outside the box are skipped after entropy decoding, but for a margin that makes the chroma at the
 * edge of the box what it would be in a full decode. Any warning about the data makes the image bad.
 */
#include "core.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "huffman.h"

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 1005000
#error "libjpeg-turbo 1.5 or newer is needed: other libjpegs cannot decode a part of an image"
#endif

#define MARGIN 2     /* pixels of the scaled image around a box that fancy upsampling may look at */
#define MOST_SCANS 500 /* a progressive file of a megabyte can hold thousands, and each may visit every block */
#define ROWS_AT_ONCE 16

struct vs_jpeg {
    struct jpeg_decompress_struct info;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    char *reason; /* of VS_REASON_BYTES, the caller's */
    struct vs_scan *scan; /* NULL: only libjpeg decodes */
    int doubtful;         /* whether our entropy decoder gave up */
};

static struct vs_jpeg *owner(j_common_ptr info) { return info->client_data; }

static void fail(j_common_ptr info) {
    char message[JMSG_LENGTH_MAX];
    struct vs_jpeg *jpeg = owner(info);
    info->err->format_message(info, message);
    snprintf(jpeg->reason, VS_REASON_BYTES, "cannot be decoded: %.220s", message);
    longjmp(jpeg->escape, 1);
}

/* Warnings that say nothing about the pixels. */
static int harmless(const struct jpeg_error_mgr *errors) {
    switch (errors->msg_code) {
    case JWRN_JFIF_MAJOR:
    case JWRN_ADOBE_XFORM:
    case JWRN_NOT_SEQUENTIAL:
        return 1;
    case JWRN_EXTRANEOUS_DATA: /* between the last block and the end mark */
        return errors->msg_parm.i[1] == 0xD9;
    default:
        return 0;
    }
}

static void hear(j_common_ptr info, int level) {
    if (level < 0 && !harmless(info->err)) fail(info);
}

static void stay_silent(j_common_ptr info) { (void)info; }

static void watch_scans(j_common_ptr info) {
    struct vs_jpeg *jpeg = owner(info);
    if (jpeg->info.input_scan_number <= MOST_SCANS) return;
    snprintf(jpeg->reason, VS_REASON_BYTES, "has more than %d scans", MOST_SCANS);
    longjmp(jpeg->escape, 1);
}

/* Whether libjpeg could make its part. */
static int created(struct vs_jpeg *jpeg, char *reason) {
    jpeg->reason = reason;
    if (setjmp(jpeg->escape)) return 0;
    jpeg_create_decompress(&jpeg->info);
    return 1;
}

struct vs_jpeg *vs_jpeg_new(int fast) {
    char reason[VS_REASON_BYTES];
    struct vs_jpeg *jpeg = calloc(1, sizeof *jpeg);
    if (!jpeg) return NULL;
    jpeg->info.err = jpeg_std_error(&jpeg->errors);
    jpeg->errors.error_exit = fail;
    jpeg->errors.emit_message = hear;
    jpeg->errors.output_message = stay_silent;
    jpeg->progress.progress_monitor = watch_scans;
    jpeg->info.client_data = jpeg;
    jpeg->scan = fast ? calloc(1, sizeof *jpeg->scan) : NULL;
    if ((fast && !jpeg->scan) || !created(jpeg, reason)) {
        free(jpeg->scan);
        free(jpeg);
        return NULL;
    }
    jpeg->info.progress = &jpeg->progress;
    return jpeg;
}

void vs_jpeg_free(struct vs_jpeg *jpeg) {
    if (!jpeg) return;
    jpeg_destroy_decompress(&jpeg->info);
    free(jpeg->scan);
    free(jpeg);
}

/* A file that was cut lacks its end mark, wherever the box is. Entropy coded data cannot contain it. */
static int has_end(const struct jpeg_source_mgr *source) {
    const JOCTET *data = source->next_input_byte;
    for (size_t i = source->bytes_in_buffer; i >= 2; i--)
        if (data[i - 2] == 0xFF && data[i - 1] == 0xD9) return 1;
    return 0;
}

/* What can be said before any pixel is decoded. */
static enum vs_status judge(const struct vs_jpeg *jpeg, const struct vs_view *view, char *reason) {
    const struct jpeg_decompress_struct *info = &jpeg->info;
    int width = (int)info->image_width, height = (int)info->image_height;
    const struct vs_box *box = &view->box;
    if ((int64_t)width * height > VS_MAX_PIXELS) {
        snprintf(reason, VS_REASON_BYTES, "%d x %d px are more than %d px", width, height, VS_MAX_PIXELS);
        return VS_BAD;
    }
    if (view->known_width && (width != view->known_width || height != view->known_height)) {
        snprintf(reason, VS_REASON_BYTES, "measures %d x %d px, the index says %d x %d px", width, height,
                 view->known_width, view->known_height);
        return VS_BAD;
    }
    if (!(box->left || box->upper || box->right || box->lower)) {
        snprintf(reason, VS_REASON_BYTES, "no crop was drawn: the index does not say its size");
        return VS_BAD;
    }
    if (!vs_box_fits(box, width, height)) {
        snprintf(reason, VS_REASON_BYTES, "the box (%d, %d, %d, %d) is not in its %d x %d px", box->left,
                 box->upper, box->right, box->lower, width, height);
        return VS_BAD;
    }
    if (!has_end(info->src)) {
        snprintf(reason, VS_REASON_BYTES, "cannot be decoded: cut short, it has no end-of-image mark");
        return VS_BAD;
    }
    int known = info->jpeg_color_space == JCS_GRAYSCALE || info->jpeg_color_space == JCS_YCbCr ||
                info->jpeg_color_space == JCS_RGB;
    return known ? VS_DONE : VS_NOT_MINE;
}

/* Layouts whose parts decode to the same pixels as the whole; others are decoded whole. */
static int can_skip(const struct jpeg_decompress_struct *info) {
    if (info->num_components == 1) return 1;
    const jpeg_component_info *c = info->comp_info;
    return info->num_components == 3 && c[0].h_samp_factor <= 2 && c[0].v_samp_factor <= 2 &&
           c[1].h_samp_factor == 1 && c[1].v_samp_factor == 1 && c[2].h_samp_factor == 1 &&
           c[2].v_samp_factor == 1;
}

/* The largest of 8, 4, 2, 1 by which the box may be shrunk without becoming smaller than the view. */
static int shrinkage(const struct vs_view *view) {
    int by = view->shrink ? 8 : 1;
    while (by > 1 && (view->box.right - view->box.left < by * view->width ||
                      view->box.lower - view->box.upper < by * view->height))
        by /= 2;
    return by;
}

/* Begin decoding columns that hold the box and its margin; the first of them. */
static int start_columns(struct jpeg_decompress_struct *info, const struct vs_box *box) {
    jpeg_start_decompress(info);
    int skip = can_skip(info);
    int whole = (int)info->output_width;
    int left = skip && box->left > MARGIN ? box->left - MARGIN : 0;
    int right = skip && box->right + MARGIN < whole ? box->right + MARGIN : whole;
    if (right - left == whole) return 0;
    JDIMENSION first = (JDIMENSION)left, columns = (JDIMENSION)(right - left);
    jpeg_crop_scanline(info, &first, &columns);
    return (int)first;
}

static boolean next_blocks(j_decompress_ptr info, JBLOCKROW *blocks) {
    struct vs_jpeg *jpeg = owner((j_common_ptr)info);
    if (vs_scan_next(jpeg->scan, blocks)) return TRUE;
    jpeg->doubtful = 1;
    longjmp(jpeg->escape, 1);
}

static enum vs_status push_rows(struct jpeg_decompress_struct *info, struct vs_resizer *resizer,
                                const struct vs_box *box, uint8_t *out) {
    if (can_skip(info) && box->upper > MARGIN)
        jpeg_skip_scanlines(info, (JDIMENSION)(box->upper - MARGIN));
    while ((int)info->output_scanline < box->lower) {
        int row = (int)info->output_scanline;
        JSAMPROW into = vs_resizer_row(resizer);
        if (jpeg_read_scanlines(info, &into, 1) != 1) return VS_BAD;
        if (row >= box->upper) vs_resizer_push(resizer, out);
    }
    return VS_DONE;
}

static enum vs_status view_of(struct vs_jpeg *jpeg, struct vs_resizer *resizer, const struct vs_view *view,
                              uint8_t *out, char *reason) {
    struct jpeg_decompress_struct *info = &jpeg->info;
    enum vs_status status = judge(jpeg, view, reason);
    if (status != VS_DONE) return status;
    int by = shrinkage(view);
    struct vs_box box = {view->box.left / by, view->box.upper / by, (view->box.right + by - 1) / by,
                         (view->box.lower + by - 1) / by};
    info->out_color_space = JCS_EXT_RGBX;
    info->scale_num = 8 / (unsigned)by;
    info->scale_denom = 8;
    info->do_block_smoothing = FALSE; /* it looks at neighbours that are skipped */
    int first = start_columns(info, &box);
    if (vs_resizer_begin(resizer, view, box.right - box.left, box.lower - box.upper,
                         (int)info->output_width, box.left - first)) {
        snprintf(reason, VS_REASON_BYTES, "no memory for its rows");
        return VS_BAD;
    }
    int mcu_width = 8 / by * (info->comps_in_scan == 1 ? 1 : info->max_h_samp_factor);
    if (jpeg->scan && !jpeg->doubtful)
        vs_scan_begin(jpeg->scan, info, first, first + (int)info->output_width, mcu_width, next_blocks);
    snprintf(reason, VS_REASON_BYTES, "cannot be decoded: its rows end early");
    return push_rows(info, resizer, &box, out);
}

/* Start on the bytes. Returns 0 where they do not begin as a JPEG does. */
static int opened(struct vs_jpeg *jpeg, const uint8_t *data, size_t bytes) {
    if (bytes < 3 || data[0] != 0xFF || data[1] != 0xD8 || data[2] != 0xFF) return 0;
    jpeg_mem_src(&jpeg->info, data, (unsigned long)bytes);
    jpeg_read_header(&jpeg->info, TRUE);
    return 1;
}

static enum vs_status attempt(struct vs_jpeg *jpeg, struct vs_resizer *resizer, const uint8_t *data,
                              size_t bytes, const struct vs_view *view, uint8_t *out, char *reason) {
    jpeg->reason = reason;
    if (setjmp(jpeg->escape)) {
        jpeg_abort_decompress(&jpeg->info);
        return VS_BAD;
    }
    if (!opened(jpeg, data, bytes)) return VS_NOT_MINE;
    enum vs_status status = view_of(jpeg, resizer, view, out, reason);
    jpeg_abort_decompress(&jpeg->info);
    return status;
}

enum vs_status vs_jpeg_view(struct vs_jpeg *jpeg, struct vs_resizer *resizer, const uint8_t *data,
                            size_t bytes, const struct vs_view *view, uint8_t *out, char *reason) {
    jpeg->doubtful = 0;
    enum vs_status status = attempt(jpeg, resizer, data, bytes, view, out, reason);
    return jpeg->doubtful ? attempt(jpeg, resizer, data, bytes, view, out, reason) : status;
}

static void read_all(struct jpeg_decompress_struct *info, uint8_t *out) {
    info->out_color_space = JCS_RGB;
    jpeg_start_decompress(info);
    size_t stride = (size_t)info->output_width * 3;
    while (info->output_scanline < info->output_height) {
        JSAMPROW rows[ROWS_AT_ONCE];
        JDIMENSION left = info->output_height - info->output_scanline;
        JDIMENSION count = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        for (JDIMENSION i = 0; i < count; i++) rows[i] = out + stride * (info->output_scanline + i);
        jpeg_read_scanlines(info, rows, count);
    }
}

enum vs_status vs_jpeg_plain(struct vs_jpeg *jpeg, const uint8_t *data, size_t bytes, uint8_t *out,
                             size_t capacity, int size[2], char *reason) {
    struct jpeg_decompress_struct *info = &jpeg->info;
    jpeg->reason = reason;
    if (setjmp(jpeg->escape)) {
        jpeg_abort_decompress(info);
        return VS_BAD;
    }
    if (!opened(jpeg, data, bytes)) return VS_NOT_MINE;
    size[0] = (int)info->image_width;
    size[1] = (int)info->image_height;
    if ((size_t)size[0] * (size_t)size[1] * 3 <= capacity) read_all(info, out);
    jpeg_abort_decompress(info);
    return VS_DONE;
}
