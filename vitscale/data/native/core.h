/* From image files inside tars to 8-bit views: checksum, decode of a box, resize. Knows nothing of Python.
 *
 * All state lives in structs that the caller owns, so any number of threads may work side by side. Every result is
 * integer arithmetic and therefore the same with and without SIMD and on every machine.
 */
#ifndef VITSCALE_CORE_H
#define VITSCALE_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifndef VS_MAX_PIXELS /* the fuzz build takes less */
#define VS_MAX_PIXELS 100000000
#endif
#define VS_MAX_SIDE 65535   /* of a source, in pixels */
#define VS_MAX_OUTPUT 16384 /* side of a view, in pixels */
#define VS_REASON_BYTES 256

enum vs_status {
    VS_DONE,
    VS_BAD,      /* the reason says why; the view is undefined */
    VS_NOT_MINE, /* not a grey or colour JPEG: somebody else has to decode it */
};

/* A box of the source in whole pixels: left and upper inside, right and lower outside. */
struct vs_box {
    int left, upper, right, lower;
};

/* What is wanted of one image. */
struct vs_view {
    struct vs_box box;
    int width, height;             /* of the view, in pixels */
    int mirrored;                  /* left and right swapped */
    int shrink;                    /* decode at 1/2, 1/4 or 1/8 where the box is large enough */
    int known_width, known_height; /* what the image must measure; 0: anything */
};

/* ---- resize.c: antialiased triangle filter, one source row after the other ---- */

struct vs_axis {
    int *first, *end; /* [outputs] first source pixel of each output, and the one behind its last */
    int16_t *weights; /* [outputs][2 * pairs], fixed point, sum 1 << bits, zeros behind the last */
    int pairs, bits;
};

struct vs_resizer {
    struct vs_axis columns, rows;
    int width, height;               /* of the view */
    int source_width, source_height; /* of the box */
    int fraction;                    /* bits behind the point between the two passes */
    int simd;
    size_t stride;         /* bytes of a row in the ring */
    int ring_rows, offset; /* offset: pixels of a row before the box */
    int pushed, done;      /* source rows taken, view rows written */
    uint8_t *ring, *askew; /* askew: the first row in it */
    int16_t *middle; /* one view row between the passes, RGBX */
    uint8_t **taps;  /* rows of the ring that an output row sums */
    size_t ring_bytes, middle_bytes, tap_bytes, column_bytes, row_bytes;
};

int vs_has_simd(void);
void vs_resizer_init(struct vs_resizer *resizer, int simd);
void vs_resizer_free(struct vs_resizer *resizer);
/* Begin a view of a box whose rows come within rows of `row_pixels` pixels, `offset` pixels from their left.
 * Returns 0, or -1 without memory. */
int vs_resizer_begin(struct vs_resizer *resizer, const struct vs_view *view, int source_width,
                     int source_height, int row_pixels, int offset);
/* Where the next source row belongs, RGBX of `row_pixels` pixels. */
uint8_t *vs_resizer_row(struct vs_resizer *resizer);
/* Take the row and write all rows of the view that are complete now; `out` is its first byte. */
void vs_resizer_push(struct vs_resizer *resizer, uint8_t *out);
/* A view of RGB pixels in memory. Returns 0, or -1 without memory. */
int vs_resize(struct vs_resizer *resizer, const uint8_t *pixels, int source_width,
              const struct vs_view *view, uint8_t *out);
/* Whether a box is not empty and inside an image. */
int vs_box_fits(const struct vs_box *box, int width, int height);

/* ---- checksum.c ---- */

uint32_t vs_crc32c(const uint8_t *data, size_t bytes, int simd);

/* ---- jpeg.c ---- */

struct vs_jpeg;
/* Without `fast` libjpeg alone decodes; the result is the same. */
struct vs_jpeg *vs_jpeg_new(int fast);
void vs_jpeg_free(struct vs_jpeg *jpeg);
/* Decode what `view` needs of a JPEG into `out`, uint8 [height, width, 3]. `reason` has VS_REASON_BYTES. */
enum vs_status vs_jpeg_view(struct vs_jpeg *jpeg, struct vs_resizer *resizer, const uint8_t *data,
                            size_t bytes, const struct vs_view *view, uint8_t *out, char *reason);
/* All of a JPEG to RGB, as a plain libjpeg program does it; the yardstick of speed and of pixels.
 * Writes at most `capacity` bytes and the size of the image. */
enum vs_status vs_jpeg_plain(struct vs_jpeg *jpeg, const uint8_t *data, size_t bytes, uint8_t *out,
                             size_t capacity, int size[2], char *reason);

/* ---- reading.c ---- */

struct vs_file {
    int handle;
    int64_t offset;
    uint32_t bytes, crc;
};

struct vs_buffer {
    uint8_t *data;
    size_t capacity;
};

/* Read a file within a file and check it. Returns VS_DONE or VS_BAD with a reason. */
enum vs_status vs_read(const struct vs_file *file, struct vs_buffer *buffer, int simd, char *reason);

#endif
