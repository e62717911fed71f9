/* The entropy decoder of ordinary JPEGs, put in the place of libjpeg's, where most of the time of a decode goes.
 *
 * Baseline Huffman in one scan, which is what nearly all photos are; others keep libjpeg's. It is faster since codes
 * are looked up two at a time together with the numbers behind them, since bits come eight bytes at a time, and since
 * columns and rows that nobody wants are only walked through.
 *
 * It gives up on the first oddity, and the image is decoded once more by libjpeg's own. So files are accepted and
 * refused as libjpeg has it, for its reasons.
 */
#include "huffman.h"

#include <string.h>

#define MOST_BITS 31   /* of a code, 16, and the number behind it, 15 */
#define WHOLE_BLOCK 64 /* steps of the code that ends a block */
#define SIXTEEN_ZEROS 0xF0
#define MOST_STEPS 16 /* of any other code */

#ifdef __GNUC__
#define ALWAYS_INLINE inline __attribute__((always_inline)) /* into functions for other processors, too */
#define NEVER_INLINE __attribute__((noinline))
#else
#define ALWAYS_INLINE inline
#define NEVER_INLINE
#endif

#if LIBJPEG_TURBO_VERSION_NUMBER < 3003000
/* The head of a struct of jpegint.h, which is not installed. It was looked up in 2.1.5 and 3.2.0. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW *blocks);
};
#define LAYOUT_KNOWN 1
#endif

/* Place of each coefficient in its block; damaged data may lead past the last. */
static const uint8_t zigzag[64 + 2 * MOST_STEPS] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* ---- tables ---- */

/* The fields of a code, a byte each: bits of code and number, of the code, of the number, and how many coefficients it
 * goes on, the zeros before its own among them. */
static ALWAYS_INLINE int bits_of(vs_code code) { return (int)(code & 255); }
static ALWAYS_INLINE int own_bits(vs_code code) { return (int)(code >> 8 & 255); }
static ALWAYS_INLINE int number_bits(vs_code code) { return (int)(code >> 16 & 255); }
static ALWAYS_INLINE int steps_of(vs_code code) { return (int)(code >> 24); }

static vs_code code_of(int length, int symbol, int is_ac) {
    int size = symbol & 15, steps = (symbol >> 4) + 1;
    if (is_ac && size == 0 && symbol != SIXTEEN_ZEROS) steps = WHOLE_BLOCK;
    return (vs_code)(length + size) | (vs_code)length << 8 | (vs_code)size << 16 | (vs_code)steps << 24;
}

/* The number behind the code that `word` begins with. One that begins with 0 is negative. */
static ALWAYS_INLINE int number_of(uint64_t word, vs_code code) {
    uint64_t rest = word << own_bits(code);
    int size = number_bits(code), lowest = 1 - (1 << size);
    return (int)(rest >> 1 >> (63 - size)) + (int)((int64_t)~rest >> 63 & lowest);
}

/* The fields of two codes: bits, steps to the first coefficient, to the second, of all; 16 bits for each number. */
static ALWAYS_INLINE int bits_of_two(vs_codes two) { return (int)(two & 255); }
static ALWAYS_INLINE int to_first(vs_codes two) { return (int)(two >> 8 & 255); }
static ALWAYS_INLINE int to_second(vs_codes two) { return (int)(two >> 16 & 255); }
static ALWAYS_INLINE int steps_of_two(vs_codes two) { return (int)(two >> 24 & 255); }
static ALWAYS_INLINE int16_t first_number(vs_codes two) { return (int16_t)(two >> 32); }
static ALWAYS_INLINE int16_t second_number(vs_codes two) { return (int16_t)(two >> 48); }

static vs_codes two_of(int bits, int first, int second, int steps, int number, int other) {
    return (vs_codes)bits | (vs_codes)first << 8 | (vs_codes)second << 16 | (vs_codes)steps << 24 |
           (vs_codes)(uint16_t)number << 32 | (vs_codes)(uint16_t)other << 48;
}

/* The codes that `word` begins with, as far as VS_LOOK bits hold them. Two coefficients are always written: one code
 * stands twice, and the end of a block is a zero. */
static vs_codes ahead_of(const struct vs_table *table, uint64_t word) {
    vs_code one = table->look[word >> (64 - VS_LOOK)];
    int bits = bits_of(one), steps = steps_of(one);
    if (!one || bits > VS_LOOK) return 0;
    if (steps == WHOLE_BLOCK) return two_of(bits, 1, 1, WHOLE_BLOCK, 0, 0);
    int number = number_of(word, one);
    vs_code other = table->look[word << bits >> (64 - VS_LOOK)];
    int all = bits + bits_of(other);
    if (!other || all > VS_LOOK) return two_of(bits, steps, steps, steps, number, number);
    if (steps_of(other) == WHOLE_BLOCK) return two_of(all, steps, steps, steps + WHOLE_BLOCK, number, number);
    int both = steps + steps_of(other);
    return two_of(all, steps, both, both, number, number_of(word << bits, other));
}

/* Fill a table that libjpeg found sound, unless it is that of the image before: many encoders write always the same. */
static void prepare(struct vs_table *table, const JHUFF_TBL *given, int is_ac) {
    if (!memcmp(table->counts, given->bits, sizeof table->counts) &&
        !memcmp(table->symbols, given->huffval, sizeof table->symbols))
        return;
    memcpy(table->counts, given->bits, sizeof table->counts);
    memcpy(table->symbols, given->huffval, sizeof table->symbols);
    memset(table->look, 0, sizeof table->look);
    uint32_t code = 0;
    int number = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = number - (int)code;
        for (int i = 0; i < table->counts[length]; i++, code++, number++) {
            vs_code found = table->codes[number] = code_of(length, table->symbols[number], is_ac);
            for (uint32_t j = 0; length <= VS_LOOK && j < 1u << (VS_LOOK - length); j++)
                table->look[(code << (VS_LOOK - length)) + j] = found;
        }
        table->limit[length] = (uint64_t)code << (64 - length);
    }
    for (uint64_t i = 0; is_ac && i < 1 << VS_LOOK; i++) table->two[i] = ahead_of(table, i << (64 - VS_LOOK));
}

/* ---- taking over ---- */

static int is_ordinary(const struct jpeg_decompress_struct *info) {
    int ordinary = info->data_precision == 8 && !info->progressive_mode && !info->arith_code &&
                   info->comps_in_scan == info->num_components && info->Ss == 0 && info->Se == 63 &&
                   info->Ah == 0 && info->Al == 0 && info->blocks_in_MCU <= D_MAX_BLOCKS_IN_MCU;
    for (int i = 0; i < info->comps_in_scan && ordinary; i++) {
        const jpeg_component_info *component = info->cur_comp_info[i];
        ordinary = component->component_needed && info->dc_huff_tbl_ptrs[component->dc_tbl_no] &&
                   info->ac_huff_tbl_ptrs[component->ac_tbl_no];
    }
    return ordinary;
}

static void take_tables(struct vs_scan *scan, const struct jpeg_decompress_struct *info) {
    for (int i = 0; i < info->comps_in_scan; i++) {
        int dc = info->cur_comp_info[i]->dc_tbl_no, ac = info->cur_comp_info[i]->ac_tbl_no;
        prepare(&scan->dc[dc], info->dc_huff_tbl_ptrs[dc], 0);
        prepare(&scan->ac[ac], info->ac_huff_tbl_ptrs[ac], 1);
    }
    scan->block_count = info->blocks_in_MCU;
    for (int i = 0; i < scan->block_count; i++) {
        int number = info->MCU_membership[i];
        const jpeg_component_info *component = info->cur_comp_info[number];
        scan->blocks[i] =
            (struct vs_block){&scan->dc[component->dc_tbl_no], &scan->ac[component->ac_tbl_no], number};
    }
}

int vs_scan_begin(struct vs_scan *scan, j_decompress_ptr info, int left, int right, int width,
                  boolean (*next)(j_decompress_ptr, JBLOCKROW *)) {
#ifdef LAYOUT_KNOWN
    if (!is_ordinary(info)) return 0;
    take_tables(scan, info);
    const uint8_t *data = info->src->next_input_byte;
    scan->bits = (struct vs_bits){.next = data, .end = data + info->src->bytes_in_buffer};
    memset(scan->means, 0, sizeof scan->means);
    scan->column = 0;
    scan->columns = (int)info->MCUs_per_row;
    scan->first = left / width;
    scan->last = (right - 1) / width;
    scan->interval = scan->to_go = info->restart_interval;
    scan->marker = 0;
    info->entropy->decode_mcu = next;
    return 1;
#else
    (void)scan, (void)info, (void)left, (void)right, (void)width, (void)next;
    return 0;
#endif
}

/* ---- bits ---- */

/* Byte by byte up to the next marker; behind it there are zeros. By value: the fast path holds all in registers. */
NEVER_INLINE static struct vs_bits refilled(struct vs_bits bits) {
    while (bits.left <= 56) {
        uint64_t byte = 0;
        ptrdiff_t ahead = bits.end - bits.next;
        if (ahead >= 1 && bits.next[0] != 0xFF)
            byte = *bits.next++;
        else if (ahead >= 2 && bits.next[1] == 0)
            byte = 0xFF, bits.next += 2;
        else
            bits.invented += 8;
        bits.word |= byte << (56 - bits.left);
        bits.left += 8;
    }
    return bits;
}

/* At least `wanted` bits. */
static ALWAYS_INLINE void refill(struct vs_bits *bits, int wanted) {
    const uint64_t ones = 0x0101010101010101u;
    if (bits->left >= wanted) return;
    if (bits->end - bits->next >= 8) {
        uint64_t word = 0;
        for (int i = 0; i < 8; i++) word = word << 8 | bits->next[i]; /* compilers make it one load */
        if (!((~word - ones) & word & ones << 7)) {                   /* no byte is 0xFF */
            int bytes = (64 - bits->left) / 8;
            bits->word |= word >> bits->left; /* of the last byte perhaps a part, which comes again */
            bits->next += bytes;
            bits->left += 8 * bytes;
            return;
        }
    }
    *bits = refilled(*bits);
}

static ALWAYS_INLINE void drop(struct vs_bits *bits, int count) {
    bits->word <<= count;
    bits->left -= count;
}

NEVER_INLINE static vs_code long_code(const struct vs_table *table, uint64_t word) {
    for (int length = VS_LOOK + 1; length <= 16; length++)
        if (word < table->limit[length]) return table->codes[table->offset[length] + (int)(word >> (64 - length))];
    return 0;
}

/* The next code, and its number. */
static ALWAYS_INLINE vs_code take(struct vs_bits *bits, const struct vs_table *table, int *number) {
    refill(bits, MOST_BITS);
    vs_code code = table->look[bits->word >> (64 - VS_LOOK)];
    if (!code && !(code = long_code(table, bits->word))) return 0;
    *number = number_of(bits->word, code);
    drop(bits, bits_of(code));
    return code;
}

/* ---- blocks ---- */

/* The coefficient after the `at` known ones, to nowhere if there is no block. Its steps; 0: the data is odd. */
static ALWAYS_INLINE int take_one(struct vs_bits *bits, const struct vs_table *table, JCOEF *block, int at) {
    int number;
    vs_code code = take(bits, table, &number);
    if (!code) return 0;
    int steps = steps_of(code);
    if (block && steps != WHOLE_BLOCK) block[zigzag[at - 1 + steps]] = (JCOEF)number;
    return steps;
}

/* The coefficients of a block but the first. Returns 0 where the data is odd. */
static ALWAYS_INLINE int take_rest(struct vs_bits *bits, const struct vs_table *table, JCOEF *block) {
    int at = 1, steps;
    while (at < 64 - MOST_STEPS) { /* so the block cannot be full before a second code */
        refill(bits, VS_LOOK);
        vs_codes two = table->two[bits->word >> (64 - VS_LOOK)];
        if (two) {
            drop(bits, bits_of_two(two));
            if (block) {
                block[zigzag[at - 1 + to_first(two)]] = first_number(two);
                block[zigzag[at - 1 + to_second(two)]] = second_number(two);
            }
            steps = steps_of_two(two);
        } else if (!(steps = take_one(bits, table, block, at)))
            return 0;
        at += steps;
        if (at > 64) return steps >= WHOLE_BLOCK;
    }
    while (at < 64) {
        if (!(steps = take_one(bits, table, block, at))) return 0;
        at += steps;
        if (at > 64) return steps == WHOLE_BLOCK;
    }
    return 1;
}

static ALWAYS_INLINE int take_block(struct vs_bits *bits, const struct vs_block *of, int *mean, JCOEF *block) {
    int number;
    if (!take(bits, of->dc, &number)) return 0;
    *mean = (int)((unsigned)*mean + (unsigned)number); /* damaged data may overflow */
    if (block) block[0] = (JCOEF)*mean;
    return take_rest(bits, of->ac, block);
}

/* Go on behind the restart marker, which must be the next and the right one. */
static int restart(struct vs_scan *scan) {
    struct vs_bits *bits = &scan->bits;
    if (bits->left - bits->invented >= 8 || bits->end - bits->next < 2 || bits->next[0] != 0xFF ||
        bits->next[1] != 0xD0 + scan->marker)
        return 0;
    *bits = (struct vs_bits){.next = bits->next + 2, .end = bits->end};
    memset(scan->means, 0, sizeof scan->means);
    scan->marker = (scan->marker + 1) % 8;
    scan->to_go = scan->interval;
    return 1;
}

static ALWAYS_INLINE int next_mcu(struct vs_scan *scan, JBLOCKROW *into) {
    if (scan->interval && scan->to_go == 0 && !restart(scan)) return 0;
    scan->to_go--;
    int wanted = into && scan->column >= scan->first && scan->column <= scan->last;
    if (++scan->column == scan->columns) scan->column = 0;
    struct vs_bits bits = scan->bits;
    int fine = 1;
    for (int i = 0; i < scan->block_count && fine; i++) {
        const struct vs_block *of = &scan->blocks[i];
        int *mean = &scan->means[of->component];
        fine = wanted ? take_block(&bits, of, mean, into[i][0]) : take_block(&bits, of, mean, NULL);
    }
    scan->bits = bits;
    return fine && bits.left >= bits.invented;
}

#if defined(__x86_64__) && defined(__GNUC__)
/* The same with shifts that leave the flags alone: 3 % of the time of a view. */
__attribute__((target("bmi2"))) static int next_mcu_bmi2(struct vs_scan *scan, JBLOCKROW *into) {
    return next_mcu(scan, into);
}

int vs_scan_next(struct vs_scan *scan, JBLOCKROW *into) {
    return __builtin_cpu_supports("bmi2") ? next_mcu_bmi2(scan, into) : next_mcu(scan, into);
}
#else
int vs_scan_next(struct vs_scan *scan, JBLOCKROW *into) { return next_mcu(scan, into); }
#endif
