/* The two sums of a resize. The plain forms define the result; the others only take less time. */
#include "passes.h"

#include <string.h>

#define BLOCK 32 /* bytes of a row that are summed side by side */

void vs_rows_plain(const struct vs_rows_pass *pass) {
    for (int begin = 0; begin < pass->bytes; begin += BLOCK) { /* rows have room behind them */
        int32_t sums[BLOCK];
        for (int i = 0; i < BLOCK; i++) sums[i] = 1 << (pass->shift - 1);
        for (int tap = 0; tap < 2 * pass->pairs; tap++) {
            const uint8_t *row = pass->taps[tap] + begin;
            int16_t weight = pass->weights[tap];
            for (int i = 0; i < BLOCK; i++) sums[i] += (int16_t)row[i] * weight;
        }
        for (int i = 0; i < BLOCK; i++) pass->middle[begin + i] = (int16_t)(sums[i] >> pass->shift);
    }
}

void vs_columns_plain(const struct vs_columns_pass *pass) {
    int taps = pass->axis->pairs * 2;
    for (int x = 0; x < pass->width; x++) {
        const int16_t *from = pass->middle + 4 * (size_t)pass->axis->first[x];
        const int16_t *weights = pass->axis->weights + (size_t)x * taps;
        int32_t sums[4]; /* the fourth is dropped, but four are what vectors hold */
        for (int c = 0; c < 4; c++) sums[c] = 1 << (pass->shift - 1);
        for (int tap = 0; tap < taps; tap++)
            for (int c = 0; c < 4; c++) sums[c] += weights[tap] * from[4 * tap + c];
        for (int c = 0; c < 3; c++) pass->out[3 * x + c] = (uint8_t)(sums[c] >> pass->shift);
    }
}

#ifdef VS_AVX2
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

/* Two weights as one number, as multiply-add of pairs wants them. */
static inline int32_t pair_at(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, sizeof pair);
    return pair;
}

AVX2 void vs_rows_avx2(const struct vs_rows_pass *pass) {
    const __m256i half = _mm256_set1_epi32(1 << (pass->shift - 1));
    const __m128i shift = _mm_cvtsi32_si128(pass->shift);
    for (int i = 0; i < pass->bytes; i += 32) {
        __m256i sum0 = half, sum1 = half, sum2 = half, sum3 = half;
        for (int pair = 0; pair < pass->pairs; pair++) {
            const __m256i weights = _mm256_set1_epi32(pair_at(pass->weights + 2 * pair));
            const __m256i a = _mm256_loadu_si256((const __m256i *)(pass->taps[2 * pair] + i));
            const __m256i b =
                _mm256_loadu_si256((const __m256i *)(pass->taps[2 * pair + 1] + i));
            const __m256i zero = _mm256_setzero_si256();
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sum0 = _mm256_add_epi32(
                sum0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weights));
            sum1 = _mm256_add_epi32(
                sum1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weights));
            sum2 = _mm256_add_epi32(
                sum2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weights));
            sum3 = _mm256_add_epi32(
                sum3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weights));
        }
        /* Lanes hold bytes 0-7 and 16-23 in sums 0 and 1, 8-15 and 24-31 in sums 2 and 3. */
        const __m256i low = _mm256_packs_epi32(_mm256_sra_epi32(sum0, shift), _mm256_sra_epi32(sum1, shift));
        const __m256i high =
            _mm256_packs_epi32(_mm256_sra_epi32(sum2, shift), _mm256_sra_epi32(sum3, shift));
        __m256i *to = (__m256i *)(pass->middle + i);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
    }
}

/* Sums of two neighbouring outputs, RGBX each. */
AVX2 static inline __m256i two_outputs(const struct vs_columns_pass *pass, int x, int pairs) {
    /* r0 g0 b0 x0 r1 g1 b1 x1 -> r0 r1 g0 g1 b0 b1 x0 x1 */
    const __m256i interleave = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0, 1, 8,
                                                9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const int16_t *one = pass->middle + 4 * (size_t)pass->axis->first[x];
    const int16_t *two = pass->middle + 4 * (size_t)pass->axis->first[x + 1];
    const int16_t *weights = pass->axis->weights + (size_t)x * pairs * 2;
    __m256i sum = _mm256_set1_epi32(1 << (pass->shift - 1));
    for (int pair = 0; pair < pairs; pair++) {
        const __m256i pixels = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(one + 8 * (size_t)pair))),
            _mm_loadu_si128((const __m128i *)(two + 8 * (size_t)pair)), 1);
        const __m256i weight = _mm256_blend_epi32(_mm256_set1_epi32(pair_at(weights + 2 * pair)),
                                                  _mm256_set1_epi32(pair_at(weights + 2 * (pairs + pair))), 0xF0);
        sum = _mm256_add_epi32(sum,
                               _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, interleave), weight));
    }
    return sum;
}

AVX2 static inline void all_columns(const struct vs_columns_pass *pass, int pairs) {
    const __m128i shift = _mm_cvtsi32_si128(pass->shift);
    const __m128i drop_x = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    for (int x = 0; x < pass->width; x += 4) {
        const __m256i low = _mm256_sra_epi32(two_outputs(pass, x, pairs), shift);
        const __m256i high = _mm256_sra_epi32(two_outputs(pass, x + 2, pairs), shift);
        /* 16-bit pixels 0 2 | 1 3, then bytes in order. */
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
        const __m128i bytes = _mm_shuffle_epi8(_mm_packus_epi16(_mm256_castsi256_si128(words),
                                                                _mm256_extracti128_si256(words, 1)), drop_x);
        uint8_t three[16];
        _mm_storeu_si128((__m128i *)three, bytes);
        int left = pass->width - x;
        if (left >= 4)
            memcpy(pass->out + 3 * (size_t)x, three, 12);
        else
            memcpy(pass->out + 3 * (size_t)x, three, 3 * (size_t)left);
    }
}

AVX2 void vs_columns_avx2(const struct vs_columns_pass *pass) {
    switch (pass->axis->pairs) { /* the usual lengths get loops without a counter */
    case 1: all_columns(pass, 1); break;
    case 2: all_columns(pass, 2); break;
    case 3: all_columns(pass, 3); break;
    default: all_columns(pass, pass->axis->pairs);
    }
}
#endif

int vs_has_simd(void) {
#ifdef VS_AVX2
    return __builtin_cpu_supports("avx2");
#else
    return 0;
#endif
}
