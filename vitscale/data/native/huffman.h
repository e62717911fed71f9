/* The entropy coded data of an ordinary JPEG. */
#ifndef VITSCALE_HUFFMAN_H
#define VITSCALE_HUFFMAN_H

#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

#define VS_LOOK 10 /* bits of a code that are looked up at once */

/* A Huffman table. */
struct vs_codes {
    uint32_t look[1 << VS_LOOK]; /* by the next bits; 0 where the code is longer, or none */
    uint32_t entries[256];       /* by number of the code */
    uint64_t limit[17];          /* by length: what no longer code is below, its bits at the top */
    int offset[17];              /* by length: number of the code less the code */
    uint8_t counts[17], symbols[256];
};

struct vs_bits {
    const uint8_t *next, *end;
    uint64_t word; /* the next bits, from the top */
    int left;      /* of them */
    int invented;  /* of them, zeros behind the last */
};

struct vs_scan {
    struct vs_codes dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    struct vs_bits bits;
    int blocks; /* of an MCU */
    struct {
        const struct vs_codes *dc, *ac;
        int component;
    } of[D_MAX_BLOCKS_IN_MCU];
    int means[MAX_COMPS_IN_SCAN];
    int column, columns;             /* of MCUs */
    int first, last;                 /* columns that are wanted */
    unsigned interval, to_go, marker; /* MCUs between restarts and to the next, its number */
};

/* Take over a scan that libjpeg is about to decode, of which it wants pixels [left, right) of each row, in MCUs of `width`
 * pixels. From then on libjpeg calls `next` for every MCU. Returns whether the scan is of the kind. */
int vs_scan_begin(struct vs_scan *scan, j_decompress_ptr info, int left, int right, int width,
                  boolean (*next)(j_decompress_ptr, JBLOCKROW *));
/* The coefficients of the next MCU into zeroed blocks, or nowhere if `blocks` is NULL. Returns 0 where the data is odd. */
int vs_scan_next(struct vs_scan *scan, JBLOCKROW *blocks);

#endif
