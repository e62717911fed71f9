/* The entropy decoder of ordinary JPEGs, put in the place of libjpeg's: where most of the time of a decode goes.
 *
 * Baseline Huffman in one scan, which is what nearly all photos are; others keep libjpeg's. It is faster since a code is
 * looked up together with the number behind it, since bits come eight bytes at a time, and since columns and rows that
 * nobody wants are only walked through.
 *
 * It gives up on the first oddity, and the image is decoded once more by libjpeg's own. So files are accepted and refused
 * as libjpeg has it, with its reasons.
 */
#include "huffman.h"

#include <stddef.h>
#include <string.h>

#define MOST_BITS 31    /* of a code, 16, and the number behind it, 15 */
#define WHOLE_BLOCK 64  /* steps */
#define SIXTEEN_ZEROS 0xF0

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 3003000
/* The head of a struct of jpegint.h, which is not installed. It is the same in all versions up to 3.2. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW *blocks);
};
#define LAYOUT_KNOWN 1
#endif

static const uint8_t zigzag[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* What a code says, as one number that is not 0: how many bits it and its number take, those of the code, those of the
 * number, and how many coefficients it goes on, the zeros before its own among them. */
static uint32_t entry_of(int length, int symbol, int is_ac) {
    int size = symbol & 15, steps = (symbol >> 4) + 1;
    if (is_ac && size == 0 && symbol != SIXTEEN_ZEROS) steps = WHOLE_BLOCK;
    return (uint32_t)(length + size) | (uint32_t)length << 8 | (uint32_t)size << 16 | (uint32_t)steps << 24;
}

/* Prepare a table that libjpeg found sound, unless it is that of the image before: many encoders write always the same. */
static void prepare(struct vs_codes *codes, const JHUFF_TBL *table, int is_ac) {
    if (!memcmp(codes->counts, table->bits, sizeof codes->counts) &&
        !memcmp(codes->symbols, table->huffval, sizeof codes->symbols))
        return;
    memcpy(codes->counts, table->bits, sizeof codes->counts);
    memcpy(codes->symbols, table->huffval, sizeof codes->symbols);
    memset(codes->look, 0, sizeof codes->look);
    uint32_t code = 0;
    int number = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        codes->offset[length] = number - (int)code;
        for (int i = 0; i < codes->counts[length]; i++, code++, number++) {
            uint32_t entry = codes->entries[number] = entry_of(length, codes->symbols[number], is_ac);
            for (uint32_t j = 0; length <= VS_LOOK && j < 1u << (VS_LOOK - length); j++)
                codes->look[(code << (VS_LOOK - length)) + j] = entry;
        }
        codes->limit[length] = (uint64_t)code << (64 - length);
    }
}

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
    scan->blocks = info->blocks_in_MCU;
    for (int i = 0; i < scan->blocks; i++) {
        int component = info->MCU_membership[i];
        scan->of[i].component = component;
        scan->of[i].dc = &scan->dc[info->cur_comp_info[component]->dc_tbl_no];
        scan->of[i].ac = &scan->ac[info->cur_comp_info[component]->ac_tbl_no];
    }
}

int vs_scan_begin(struct vs_scan *scan, j_decompress_ptr info, int left, int right, int width,
                  boolean (*next)(j_decompress_ptr, JBLOCKROW *)) {
#ifdef LAYOUT_KNOWN
    if (!is_ordinary(info)) return 0;
    take_tables(scan, info);
    scan->bits = (struct vs_bits){.next = info->src->next_input_byte,
                                  .end = info->src->next_input_byte + info->src->bytes_in_buffer};
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

/* Bytes one by one, up to the next marker; behind it there are zeros. */
static void refill_slowly(struct vs_bits *bits) {
    while (bits->left <= 56) {
        uint64_t byte = 0;
        ptrdiff_t ahead = bits->end - bits->next;
        if (ahead >= 1 && bits->next[0] != 0xFF)
            byte = *bits->next++;
        else if (ahead >= 2 && bits->next[1] == 0)
            byte = 0xFF, bits->next += 2;
        else
            bits->invented += 8;
        bits->word |= byte << (56 - bits->left);
        bits->left += 8;
    }
}

/* At least MOST_BITS bits. */
static inline void refill(struct vs_bits *bits) {
    const uint64_t ones = 0x0101010101010101u;
    if (bits->left >= MOST_BITS) return;
    if (bits->end - bits->next >= 8) {
        uint64_t word = 0;
        for (int i = 0; i < 8; i++) word = word << 8 | bits->next[i]; /* one load and a swap */
        if (!((~word - ones) & word & ones << 7)) {                   /* no byte is 0xFF */
            int bytes = (64 - bits->left) / 8;
            bits->word |= word >> bits->left; /* of the last byte perhaps a part, which comes again */
            bits->next += bytes;
            bits->left += 8 * bytes;
            return;
        }
    }
    refill_slowly(bits);
}

/* The entry of a code that is longer than what is looked up; 0 if there is none. */
static uint32_t long_code(const struct vs_codes *codes, uint64_t word) {
    for (int length = VS_LOOK + 1; length <= 16; length++)
        if (word < codes->limit[length]) return codes->entries[codes->offset[length] + (int)(word >> (64 - length))];
    return 0;
}

/* Take a code and its number; 0 if it is none. */
static inline uint32_t take(struct vs_bits *bits, const struct vs_codes *codes, int *number) {
    refill(bits);
    uint32_t entry = codes->look[bits->word >> (64 - VS_LOOK)];
    if (!entry && !(entry = long_code(codes, bits->word))) return 0;
    if (number) { /* a number that begins with 0 is negative */
        uint64_t rest = bits->word << (entry >> 8 & 255);
        int size = entry >> 16 & 255;
        *number = (int)(rest >> 1 >> (63 - size)) + ((int)((int64_t)~rest >> 63) & (1 - (1 << size)));
    }
    bits->word <<= entry & 255;
    bits->left -= entry & 255;
    return entry;
}

/* The coefficients of a block, to nowhere if there is none. Returns 0 where the data is odd. */
static inline int take_block(struct vs_bits *bits, const struct vs_codes *dc, const struct vs_codes *ac, int *mean,
                             JCOEF *block) {
    int number, steps = 0;
    if (!take(bits, dc, &number)) return 0;
    *mean = (int)((unsigned)*mean + (unsigned)number);
    if (block) block[0] = (JCOEF)*mean;
    for (int at = 1; at < 64;) {
        uint32_t entry = take(bits, ac, block ? &number : NULL);
        if (!entry) return 0;
        steps = (int)(entry >> 24);
        at += steps;
        if (at > 64) return steps == WHOLE_BLOCK;
        if (block) block[zigzag[at - 1]] = (JCOEF)number;
    }
    return 1;
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

int vs_scan_next(struct vs_scan *scan, JBLOCKROW *blocks) {
    if (scan->interval && scan->to_go == 0 && !restart(scan)) return 0;
    scan->to_go--;
    int wanted = blocks && scan->column >= scan->first && scan->column <= scan->last;
    if (++scan->column == scan->columns) scan->column = 0;
    struct vs_bits bits = scan->bits;
    for (int i = 0; i < scan->blocks; i++) {
        int *mean = &scan->means[scan->of[i].component], fine;
        if (wanted)
            fine = take_block(&bits, scan->of[i].dc, scan->of[i].ac, mean, blocks[i][0]);
        else
            fine = take_block(&bits, scan->of[i].dc, scan->of[i].ac, mean, NULL);
        if (!fine) return 0;
    }
    scan->bits = bits;
    return bits.left >= bits.invented;
}
