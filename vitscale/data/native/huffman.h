/* The entropy coded data of an ordinary JPEG. */
#ifndef VITSCALE_HUFFMAN_H
#define VITSCALE_HUFFMAN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

#define VS_LOOK 10 /* bits that are looked up at once; 9 took a tenth longer, 11 and 12 as long */

/* A code with the number behind it, and one or two codes with their numbers. They are whole numbers with fields, since
 * compilers make slow work of small structs; huffman.c says which. 0: no such code, or not complete. */
typedef uint32_t vs_code;
typedef uint64_t vs_codes;

struct vs_table {
    vs_code look[1 << VS_LOOK]; /* by the next bits; none where the code is longer */
    vs_codes two[1 << VS_LOOK]; /* by the next bits; not for means */
    vs_code codes[256];         /* by number of the code */
    uint64_t limit[17];         /* by length: codes of that length or less are below it, the first bit at the top */
    int offset[17];             /* by length: number of a code less the code */
    uint8_t counts[17], symbols[256]; /* as libjpeg has them */
};

struct vs_bits {
    const uint8_t *next, *end;
    uint64_t word; /* the next bits, from the top */
    int left;      /* of them */
    int invented;  /* of them, zeros behind the last */
};

/* Where an MCU has its blocks from. */
struct vs_block {
    const struct vs_table *dc, *ac;
    int component;
};

struct vs_scan {
    struct vs_table dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    struct vs_bits bits;
    struct vs_block blocks[D_MAX_BLOCKS_IN_MCU];
    int block_count;
    int means[MAX_COMPS_IN_SCAN]; /* first coefficient of the block before, by component */
    int column, columns;        /* of MCUs */
    int first, last;            /* columns that are wanted */
    unsigned interval, to_go;   /* MCUs between restarts, and to the next */
    unsigned marker;            /* number of the next restart, modulo 8 */
};

/* Take over a scan that libjpeg is about to decode, of which it wants pixels [left, right) of each row, in MCUs of
 * `width` pixels: libjpeg will call `next` for every MCU. Returns 0 for a scan of another kind, which libjpeg keeps. */
int vs_scan_begin(struct vs_scan *scan, j_decompress_ptr info, int left, int right, int width,
                  boolean (*next)(j_decompress_ptr, JBLOCKROW *));
/* The coefficients of the next MCU into zeroed blocks, or nowhere if `into` is NULL. 0: the data is odd. */
int vs_scan_next(struct vs_scan *scan, JBLOCKROW *into);

#endif
