/* Mutates good JPEGs and feeds them to the target.
 *
 *     driver SECONDS [FIRST]     execution n depends on n alone, so FIRST = n repeats a failure at once
 *
 * Before that, every layout proves that any box of a good file has the pixels of its full decode.
 */
#include "seeds.h"
#include "target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROOM (1 << 16)

void __sanitizer_set_death_callback(void (*callback)(void));

static unsigned long execution;

static void report(void) { fprintf(stderr, "fuzz: failed at execution %lu\n", execution); }

static uint64_t state;

/* xorshift64*, below `bound`. */
static size_t draw(size_t bound) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (size_t)((state * 2685821657736338717ull) >> 20) % bound;
}

static void check_boxes(int kind, int width, int height) {
    struct seed seed = seed_of(kind, width, height);
    char reason[VS_REASON_BYTES] = "";
    int size[2];
    size_t capacity = (size_t)width * (size_t)height * 3;
    uint8_t *whole = malloc(capacity), *part = malloc(capacity);
    struct vs_jpeg *jpeg = vs_jpeg_new(1);
    struct vs_resizer resizer;
    vs_resizer_init(&resizer, 1);
    for (int trial = 0; trial < 40; trial++) {
        int left = (int)draw((size_t)width), upper = (int)draw((size_t)height);
        int w = 1 + (int)draw((size_t)(width - left)), h = 1 + (int)draw((size_t)(height - upper));
        struct vs_view view = {.box = {left, upper, left + w, upper + h}, .width = w, .height = h};
        enum vs_status status = vs_jpeg_view(jpeg, &resizer, seed.data, seed.bytes, &view, part, reason);
        if (status == VS_NOT_MINE) break;
        if (status != VS_DONE ||
            vs_jpeg_plain(jpeg, seed.data, seed.bytes, whole, capacity, size, reason) != VS_DONE) {
            fprintf(stderr, "fuzz: layout %d refused: %s\n", kind, reason);
            abort();
        }
        for (int y = 0; y < h; y++)
            if (memcmp(part + 3 * (size_t)w * (size_t)y,
                       whole + 3 * ((size_t)width * (size_t)(upper + y) + (size_t)left), 3 * (size_t)w)) {
                fprintf(stderr, "fuzz: layout %d, %d x %d px: box %d %d %d %d differs in row %d\n", kind, width,
                        height, left, upper, w, h, y);
                abort();
            }
    }
    vs_resizer_free(&resizer);
    vs_jpeg_free(jpeg);
    free(whole);
    free(part);
    free(seed.data);
}

/* One change of the file behind the control bytes; its new length. */
static size_t changed(uint8_t *data, size_t bytes) {
    static const uint8_t markers[] = {0xC0, 0xC1, 0xC2, 0xC4, 0xC9, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xEE, 0xFF, 0};
    size_t at = draw(bytes), count;
    switch (draw(9)) {
    case 0: data[at] ^= (uint8_t)(1u << draw(8)); break;
    case 1: data[at] = (uint8_t)draw(256); break;
    case 2: return 1 + draw(bytes); /* cut */
    case 3: data[at] = 0xFF; break;
    case 4: /* take out */
        count = draw(bytes - at < 64 ? bytes - at : 64);
        memmove(data + at, data + at + count, bytes - at - count);
        return bytes - count;
    case 5: /* repeat */
        count = draw(bytes - at < 600 ? bytes - at : 600);
        if (bytes + count > ROOM - CONTROL) break;
        memmove(data + at + count, data + at, bytes - at);
        return bytes + count;
    case 6: /* a marker */
        if (at + 1 < bytes) data[at] = 0xFF, data[at + 1] = markers[draw(sizeof markers)];
        break;
    case 7: /* the header, where sizes and tables are */
        data[draw(bytes < 700 ? bytes : 700)] = (uint8_t)draw(256);
        break;
    default: /* the frame: sizes, components, sampling */
        for (size_t i = 0; i + 20 < bytes; i++)
            if (data[i] == 0xFF && data[i + 1] >= 0xC0 && data[i + 1] <= 0xC2) {
                data[i + 2 + draw(18)] = (uint8_t)(draw(3) ? draw(256) : draw(5));
                break;
            }
    }
    return bytes;
}

static enum vs_status execute(struct seed *seeds, int count) {
    static uint8_t input[ROOM];
    state = 0x9E3779B97F4A7C15ull * (execution + 1);
    draw(2);
    const struct seed *seed = &seeds[draw((size_t)count)];
    for (int i = 0; i < CONTROL; i++) input[i] = (uint8_t)draw(256);
    memcpy(input + CONTROL, seed->data, seed->bytes);
    size_t bytes = seed->bytes;
    for (size_t left = draw(6); left && bytes; left--) bytes = changed(input + CONTROL, bytes);
    return try_input(input, CONTROL + bytes);
}

int main(int count, char **arguments) {
    enum { SIZES = 3 };
    static const int sizes[SIZES][2] = {{33, 27}, {64, 16}, {90, 70}};
    double seconds = count > 1 ? atof(arguments[1]) : 10;
    execution = count > 2 ? strtoul(arguments[2], NULL, 10) : 0;
    __sanitizer_set_death_callback(report);
    state = 1;
    int kinds = seed_kinds();
    struct seed *seeds = calloc((size_t)(kinds * SIZES), sizeof *seeds);
    for (int kind = 0; kind < kinds; kind++)
        for (int i = 0; i < SIZES; i++) {
            check_boxes(kind, sizes[i][0], sizes[i][1]);
            check_boxes(kind, 1 + (int)draw(150), 1 + (int)draw(150));
            seeds[kind * SIZES + i] = seed_of(kind, sizes[i][0], sizes[i][1]);
        }
    printf("fuzz: boxes of %d layouts equal full decodes\n", kinds);
    fflush(stdout);
    time_t end = time(NULL) + (time_t)seconds;
    unsigned long first = execution, became[VS_NOT_MINE + 1] = {0};
    do became[execute(seeds, kinds * SIZES)]++;
    while (++execution % 64 || time(NULL) < end);
    printf("fuzz: %lu executions from %lu on, nothing found; %lu views, %lu refused, %lu of other kinds\n",
           execution - first, first, became[VS_DONE], became[VS_BAD], became[VS_NOT_MINE]);
    for (int i = 0; i < kinds * SIZES; i++) free(seeds[i].data);
    free(seeds);
    return 0;
}
