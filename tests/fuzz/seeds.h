/* JPEGs of every layout that libjpeg writes. */
#ifndef VITSCALE_SEEDS_H
#define VITSCALE_SEEDS_H

#include <stddef.h>
#include <stdint.h>

struct seed {
    uint8_t *data;
    size_t bytes;
    int width, height;
};

int seed_kinds(void);
/* A picture of that kind; free `data`. */
struct seed seed_of(int kind, int width, int height);

#endif
