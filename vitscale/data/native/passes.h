/* The two sums of a resize, each as plain C and with AVX2; both give the same bits. */
#ifndef VITSCALE_PASSES_H
#define VITSCALE_PASSES_H

#include "core.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define VS_AVX2 1
#endif

/* One view row over source rows: middle[i] = sum of weight * row[i], `shift` bits dropped. */
struct vs_rows_pass {
    const uint8_t *const *taps; /* [2 * pairs] rows, each from the left of the box on */
    const int16_t *weights;     /* [2 * pairs] */
    int pairs, bytes, shift;
    int16_t *middle;
};

/* One view row over columns: RGB bytes from RGBX sums. */
struct vs_columns_pass {
    const int16_t *middle;
    const struct vs_axis *axis;
    int shift, width;
    uint8_t *out; /* [width][3] */
};

void vs_rows_plain(const struct vs_rows_pass *pass);
void vs_columns_plain(const struct vs_columns_pass *pass);
#ifdef VS_AVX2
void vs_rows_avx2(const struct vs_rows_pass *pass);
void vs_columns_avx2(const struct vs_columns_pass *pass);
#endif

#endif
