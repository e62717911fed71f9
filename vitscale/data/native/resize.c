/* The antialiased triangle filter ("bilinear" of Pillow, `antialias=True` of torchvision) in fixed point.
 *
 * Source rows come one after the other into a ring as high as the filter; whenever an output row has all it needs, it
 * is summed up over rows, then over columns. So no image is ever held, and what is held stays in the nearest cache.
 *
 * Weights are exact fractions of whole numbers: output x of an axis of `out` pixels over `in` has its centre at
 * (2x + 1) in / 2 out, and pixel i weighs 2 max(in, out) - |(2i + 1) out - (2x + 1) in|, where that is positive.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

#include "passes.h"

#define MIN_BITS 14
#define MAX_BITS 21
#define MAX_FRACTION 7 /* 255 << 7 fits a signed 16-bit number */
#define SUM_BITS 23    /* 255 << 23 fits a signed 32-bit number */
#define SLACK 64       /* bytes or columns that vectors may read behind a row */
#define ALIGNMENT 32   /* of strides */
#define ASKEW 8        /* libjpeg-turbo writes rows that are aligned past the caches, from where we would fetch them */

int vs_box_fits(const struct vs_box *box, int width, int height) {
    return 0 <= box->left && box->left < box->right && box->right <= width && 0 <= box->upper &&
           box->upper < box->lower && box->lower <= height;
}

static int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/* First pixel with a weight for output x, and how many there are. */
static int reach(int in, int out, int x, int *first) {
    int64_t support = 2 * (int64_t)(in > out ? in : out), centre = (2 * (int64_t)x + 1) * in;
    /* |(2i + 1) out - centre| < support */
    int64_t low = floor_div(centre - support - out, 2 * (int64_t)out) + 1;
    int64_t high = floor_div(centre + support - out - 1, 2 * (int64_t)out);
    if (low < 0) low = 0;
    if (high > in - 1) high = in - 1;
    *first = (int)low;
    return (int)(high - low + 1);
}

/* The weights of output x. Sums are rounded, not weights, so they add up to 1 << bits exactly. */
static void weigh(int in, int out, int x, int bits, int first, int taps, int16_t *weights) {
    int64_t support = 2 * (int64_t)(in > out ? in : out), centre = (2 * (int64_t)x + 1) * in;
    int64_t total = 0, sum = 0, before = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < taps; i++) {
            int64_t away = (2 * ((int64_t)first + i) + 1) * out - centre;
            int64_t weight = support - (away < 0 ? -away : away);
            if (pass == 0) {
                total += weight;
                continue;
            }
            sum += weight;
            int64_t now = ((sum << bits) + total / 2) / total;
            weights[i] = (int16_t)(now - before);
            before = now;
        }
    }
}

/* Memory of at least `bytes`, perhaps what there was, without its content; NULL where there is none left. */
static void *grown(void *memory, size_t *have, size_t bytes) {
    if (*have >= bytes) return memory;
    free(memory);
    memory = calloc(1, bytes);
    *have = memory ? bytes : 0;
    return memory;
}

/* Fill one axis; `padded` outputs have room, those behind `out` weigh nothing. */
static int axis_begin(struct vs_axis *axis, size_t *have, int in, int out, int padded,
                      int mirrored) {
    int most = 1, ignored;
    for (int x = 0; x < out; x++) {
        int taps = reach(in, out, x, &ignored);
        if (taps > most) most = taps;
    }
    axis->pairs = (most + 1) / 2;
    axis->bits = MIN_BITS;
    while (axis->bits < MAX_BITS && in >= (int64_t)out << (axis->bits - MIN_BITS + 2)) axis->bits++;
    size_t row = (size_t)axis->pairs * 2, firsts = (size_t)padded * 2 * sizeof(int);
    size_t bytes = firsts + (size_t)padded * row * sizeof(int16_t);
    axis->first = grown(axis->first, have, bytes);
    if (!axis->first) return -1;
    memset(axis->first, 0, bytes);
    axis->end = axis->first + padded;
    axis->weights = (int16_t *)(axis->end + padded);
    for (int x = 0; x < out; x++) {
        int at = mirrored ? out - 1 - x : x;
        int taps = reach(in, out, x, &axis->first[at]);
        axis->end[at] = axis->first[at] + taps;
        weigh(in, out, x, axis->bits, axis->first[at], taps, axis->weights + (size_t)at * row);
    }
    return 0;
}

void vs_resizer_init(struct vs_resizer *resizer, int simd) {
    memset(resizer, 0, sizeof *resizer);
    resizer->simd = simd && vs_has_simd();
}

void vs_resizer_free(struct vs_resizer *resizer) {
    free(resizer->columns.first);
    free(resizer->rows.first);
    free(resizer->ring);
    free(resizer->middle);
    free(resizer->taps);
}

int vs_resizer_begin(struct vs_resizer *resizer, const struct vs_view *view, int source_width,
                     int source_height, int row_pixels, int offset) {
    resizer->width = view->width;
    resizer->height = view->height;
    resizer->source_width = source_width;
    resizer->source_height = source_height;
    resizer->offset = offset;
    resizer->pushed = resizer->done = 0;
    int padded = (view->width + 3) / 4 * 4;
    if (axis_begin(&resizer->columns, &resizer->column_bytes, source_width, view->width, padded,
                   view->mirrored) ||
        axis_begin(&resizer->rows, &resizer->row_bytes, source_height, view->height, view->height,
                   0))
        return -1;
    int rows = resizer->rows.pairs * 2;
    resizer->ring_rows = rows < source_height ? rows : source_height;
    resizer->stride = ((size_t)row_pixels * 4 + SLACK + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    int fraction = SUM_BITS - resizer->columns.bits;
    resizer->fraction = fraction < MAX_FRACTION ? fraction : MAX_FRACTION;
    size_t middle = ((size_t)source_width + 2 * (size_t)resizer->columns.pairs + SLACK) * 4;
    resizer->ring = grown(resizer->ring, &resizer->ring_bytes, resizer->stride * resizer->ring_rows + 2 * ALIGNMENT);
    resizer->middle = grown(resizer->middle, &resizer->middle_bytes, middle * sizeof(int16_t));
    resizer->taps = grown(resizer->taps, &resizer->tap_bytes, (size_t)rows * sizeof(uint8_t *));
    resizer->askew = resizer->ring + (ASKEW - (uintptr_t)resizer->ring) % ALIGNMENT;
    return resizer->ring && resizer->middle && resizer->taps ? 0 : -1;
}

uint8_t *vs_resizer_row(struct vs_resizer *resizer) {
    return resizer->askew + resizer->stride * (size_t)(resizer->pushed % resizer->ring_rows);
}

/* Where the source rows of output row y lie; behind the last there is only weight 0, so the last stands in. */
static void find_taps(struct vs_resizer *resizer, int y) {
    int first = resizer->rows.first[y], last = resizer->rows.end[y] - 1;
    for (int tap = 0; tap < 2 * resizer->rows.pairs; tap++) {
        int row = (first + tap < last ? first + tap : last) % resizer->ring_rows;
        resizer->taps[tap] = resizer->askew + resizer->stride * (size_t)row + (size_t)resizer->offset * 4;
    }
}

static void write_row(struct vs_resizer *resizer, uint8_t *out) {
    const struct vs_axis *rows = &resizer->rows;
    int y = resizer->done;
    find_taps(resizer, y);
    struct vs_rows_pass across = {
        .taps = (const uint8_t *const *)resizer->taps,
        .weights = rows->weights + (size_t)y * rows->pairs * 2,
        .pairs = rows->pairs,
        .bytes = resizer->source_width * 4,
        .shift = rows->bits - resizer->fraction,
        .middle = resizer->middle,
    };
    struct vs_columns_pass along = {
        .middle = resizer->middle,
        .axis = &resizer->columns,
        .shift = resizer->columns.bits + resizer->fraction,
        .width = resizer->width,
        .out = out + (size_t)y * resizer->width * 3,
    };
#ifdef VS_AVX2
    if (resizer->simd) {
        vs_rows_avx2(&across);
        vs_columns_avx2(&along);
        return;
    }
#endif
    vs_rows_plain(&across);
    vs_columns_plain(&along);
}

void vs_resizer_push(struct vs_resizer *resizer, uint8_t *out) {
    resizer->pushed++;
    while (resizer->done < resizer->height && resizer->rows.end[resizer->done] <= resizer->pushed) {
        write_row(resizer, out);
        resizer->done++;
    }
}

int vs_resize(struct vs_resizer *resizer, const uint8_t *pixels, int source_width,
              const struct vs_view *view, uint8_t *out) {
    const struct vs_box *box = &view->box;
    int width = box->right - box->left, height = box->lower - box->upper;
    if (vs_resizer_begin(resizer, view, width, height, width, 0)) return -1;
    for (int y = 0; y < height; y++) {
        const uint8_t *from =
            pixels + ((size_t)(box->upper + y) * (size_t)source_width + (size_t)box->left) * 3;
        uint8_t *to = vs_resizer_row(resizer);
        for (int x = 0; x < width; x++, from += 3, to += 4) {
            to[0] = from[0];
            to[1] = from[1];
            to[2] = from[2];
            to[3] = 0;
        }
        vs_resizer_push(resizer, out);
    }
    return 0;
}
