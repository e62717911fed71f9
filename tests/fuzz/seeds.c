/* JPEGs of every layout that libjpeg writes: sampling factors, progressive, restarts, arithmetic coding, CMYK. */
#include "seeds.h"

#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

struct kind {
    int components, h, v, progressive, restart, arithmetic, quality;
};

static const struct kind kinds[] = {
    {3, 1, 1, 0, 0, 0, 90}, {3, 2, 1, 0, 0, 0, 90}, {3, 2, 2, 0, 0, 0, 90}, {3, 1, 2, 0, 0, 0, 90},
    {3, 4, 1, 0, 0, 0, 90}, {3, 4, 2, 0, 0, 0, 80}, {3, 1, 4, 0, 0, 0, 80}, {3, 2, 4, 0, 0, 0, 80},
    {1, 1, 1, 0, 0, 0, 90}, {1, 2, 2, 0, 0, 0, 90}, {1, 2, 1, 1, 0, 0, 90}, {3, 1, 1, 1, 0, 0, 90},
    {3, 2, 2, 1, 0, 0, 90}, {3, 1, 2, 1, 0, 0, 50}, {3, 2, 2, 0, 1, 0, 90}, {3, 2, 1, 1, 2, 0, 90},
    {3, 2, 2, 0, 0, 1, 90}, {3, 1, 1, 1, 0, 1, 90}, {4, 1, 1, 0, 0, 0, 90}, {3, 2, 2, 0, 0, 0, 5},
};

int seed_kinds(void) { return (int)(sizeof kinds / sizeof *kinds); }

/* Smooth colours, hard edges and some grain. */
static uint8_t level(int x, int y, int c) {
    int smooth = 4 * x * (c + 1) + 3 * y * (3 - c), grain = (x * 7919 + y * 104729 + c * 31) % 23;
    int edge = x % 17 == 5 || y % 19 == 7 ? 120 * (c != 1) : 0;
    return (uint8_t)((smooth / 3 + grain + edge) & 255);
}

static void shape(struct jpeg_compress_struct *info, const struct kind *kind) {
    jpeg_set_defaults(info);
    jpeg_set_quality(info, kind->quality, TRUE);
    info->comp_info[0].h_samp_factor = kind->h;
    info->comp_info[0].v_samp_factor = kind->v;
    info->restart_interval = (unsigned)kind->restart;
    info->arith_code = kind->arithmetic ? TRUE : FALSE;
    if (kind->progressive) jpeg_simple_progression(info);
}

struct seed seed_of(int number, int width, int height) {
    static const J_COLOR_SPACE spaces[] = {JCS_UNKNOWN, JCS_GRAYSCALE, JCS_UNKNOWN, JCS_RGB, JCS_CMYK};
    const struct kind *kind = &kinds[number];
    struct jpeg_compress_struct info;
    struct jpeg_error_mgr errors;
    unsigned char *data = NULL;
    unsigned long bytes = 0;
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &data, &bytes);
    info.image_width = (JDIMENSION)width;
    info.image_height = (JDIMENSION)height;
    info.input_components = kind->components;
    info.in_color_space = spaces[kind->components];
    shape(&info, kind);
    jpeg_start_compress(&info, TRUE);
    uint8_t *row = malloc((size_t)width * (size_t)kind->components);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++)
            for (int c = 0; c < kind->components; c++) row[x * kind->components + c] = level(x, y, c);
        jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    free(row);
    return (struct seed){data, bytes, width, height};
}
