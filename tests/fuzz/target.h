/* What is done with a fuzzed input. */
#ifndef VITSCALE_TARGET_H
#define VITSCALE_TARGET_H

#include "core.h"

#define CONTROL 12 /* bytes at the head of an input that choose box, size and switches; the rest is the file */

/* What became of the file; ends the program where that is wrong. `bytes` is CONTROL or more. */
enum vs_status try_input(const uint8_t *input, size_t bytes);

#endif
