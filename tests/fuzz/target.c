/* One hostile file through the core: it may be refused, but memory stays intact and both code paths agree. */
#include "target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_SIDE 48

static void stop(const char *why) {
    fprintf(stderr, "fuzz: %s\n", why);
    abort();
}

/* A box inside the image for most inputs, anything for some. */
static struct vs_view chosen(const uint8_t *control, const int size[2]) {
    int width = size[0] > 0 ? size[0] : 1, height = size[1] > 0 ? size[1] : 1;
    int left = (control[0] << 8 | control[1]) % width, upper = (control[2] << 8 | control[3]) % height;
    struct vs_view view = {
        .box = {left, upper, left + 1 + (control[4] << 8 | control[5]) % (width - left),
                upper + 1 + (control[6] << 8 | control[7]) % (height - upper)},
        .width = 1 + control[8] % MOST_SIDE,
        .height = 1 + control[9] % MOST_SIDE,
        .mirrored = control[10] & 1,
        .shrink = control[10] >> 1 & 1,
    };
    if (control[10] >> 2 == 63) view.box.right += control[11];
    if (control[10] >> 2 == 62) view.known_width = view.known_height = control[11];
    return view;
}

/* What becomes of a file on one code path; `out` has exactly the bytes of the view. */
static enum vs_status viewed(const uint8_t *data, size_t bytes, const struct vs_view *view, int simd, uint8_t *out) {
    char reason[VS_REASON_BYTES] = "";
    struct vs_resizer resizer;
    struct vs_jpeg *jpeg = vs_jpeg_new(simd);
    if (!jpeg) stop("no decoder");
    vs_resizer_init(&resizer, simd);
    enum vs_status status = vs_jpeg_view(jpeg, &resizer, data, bytes, view, out, reason);
    if (status == VS_BAD && !reason[0]) stop("refused without a reason");
    vs_resizer_free(&resizer);
    vs_jpeg_free(jpeg);
    return status;
}

static enum vs_status compare(const uint8_t *data, size_t bytes, const struct vs_view *view) {
    size_t length = (size_t)view->width * (size_t)view->height * 3;
    uint8_t *out[2] = {malloc(length), malloc(length)};
    enum vs_status status[2];
    for (int simd = 0; simd < 2; simd++) status[simd] = viewed(data, bytes, view, simd, out[simd]);
    if (status[0] != status[1]) stop("one code path accepts what the other refuses");
    if (status[0] == VS_DONE && memcmp(out[0], out[1], length)) stop("the code paths differ");
    free(out[0]);
    free(out[1]);
    return status[0];
}

/* The bytes as RGB pixels of some width, resized on both paths. */
static void compare_resizes(const uint8_t *data, size_t bytes, const uint8_t *control) {
    int width = 1 + control[0] % 64, height = (int)(bytes / 3) / width;
    if (height < 1) return;
    if (height > VS_MAX_SIDE) height = VS_MAX_SIDE;
    struct vs_view view = chosen(control, (int[2]){width, height});
    if (!vs_box_fits(&view.box, width, height)) return;
    size_t length = (size_t)view.width * (size_t)view.height * 3, source = (size_t)width * (size_t)height * 3;
    uint8_t *pixels = malloc(source), *out[2] = {malloc(length), malloc(length)};
    memcpy(pixels, data, source);
    for (int simd = 0; simd < 2; simd++) {
        struct vs_resizer resizer;
        vs_resizer_init(&resizer, simd);
        if (vs_resize(&resizer, pixels, width, &view, out[simd])) stop("no memory");
        vs_resizer_free(&resizer);
    }
    if (memcmp(out[0], out[1], length)) stop("the code paths differ on pixels");
    free(pixels);
    free(out[0]);
    free(out[1]);
}

enum vs_status try_input(const uint8_t *input, size_t bytes) {
    size_t length = bytes - CONTROL;
    uint8_t *data = malloc(length ? length : 1); /* of its own, so that reading past its end is seen */
    memcpy(data, input + CONTROL, length);
    char reason[VS_REASON_BYTES];
    int size[2] = {0, 0};
    struct vs_jpeg *jpeg = vs_jpeg_new(0);
    if (!jpeg) stop("no decoder");
    vs_jpeg_plain(jpeg, data, length, NULL, 0, size, reason);
    vs_jpeg_free(jpeg);
    struct vs_view view = chosen(input, size);
    enum vs_status status = compare(data, length, &view);
    compare_resizes(data, length, input);
    if (vs_crc32c(data, length, 0) != vs_crc32c(data, length, 1)) stop("the checksums differ");
    free(data);
    return status;
}
