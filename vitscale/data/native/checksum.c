/* CRC-32C (Castagnoli), with the processor's own instruction where there is one. */
#include "core.h"

#include <string.h>

#define POLYNOMIAL 0x82F63B78u

static uint32_t crc_of_table(const uint8_t *data, size_t bytes) {
    uint32_t table[256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        table[i] = crc;
    }
    uint32_t crc = ~0u;
    for (size_t i = 0; i < bytes; i++) crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xFF];
    return ~crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define SSE42 __attribute__((target("sse4.2,pclmul")))
#define STRETCH 1024 /* bytes of each of three streams that keep the instruction's pipeline full */
#define PAST_ONE 0x170076FAull /* x^(8 STRETCH - 33) modulo the polynomial, bits reversed */
#define PAST_TWO 0xA51B6135ull /* x^(16 STRETCH - 33) */

SSE42 static inline uint64_t word_at(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

/* The state after as many zero bytes as the factor stands for. */
SSE42 static inline uint64_t moved(uint64_t crc, uint64_t factor) {
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc),
                                           _mm_cvtsi64_si128((long long)factor), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

SSE42 static uint32_t crc_of_cpu(const uint8_t *data, size_t bytes) {
    uint64_t crc = 0xFFFFFFFFu;
    for (; bytes >= 3 * STRETCH; bytes -= 3 * STRETCH, data += 3 * STRETCH) {
        uint64_t second = 0, third = 0;
        for (size_t i = 0; i < STRETCH; i += 8) {
            crc = _mm_crc32_u64(crc, word_at(data + i));
            second = _mm_crc32_u64(second, word_at(data + STRETCH + i));
            third = _mm_crc32_u64(third, word_at(data + 2 * STRETCH + i));
        }
        crc = moved(crc, PAST_TWO) ^ moved(second, PAST_ONE) ^ third;
    }
    for (; bytes >= 8; bytes -= 8, data += 8) crc = _mm_crc32_u64(crc, word_at(data));
    for (; bytes; bytes--, data++) crc = _mm_crc32_u8((uint32_t)crc, *data);
    return ~(uint32_t)crc;
}

uint32_t vs_crc32c(const uint8_t *data, size_t bytes, int simd) {
    if (simd && __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
        return crc_of_cpu(data, bytes);
    return crc_of_table(data, bytes);
}
#else
uint32_t vs_crc32c(const uint8_t *data, size_t bytes, int simd) {
    (void)simd;
    return crc_of_table(data, bytes);
}
#endif
