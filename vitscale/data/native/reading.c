/* Reads the bytes of an image from within a tar and checks them. */
#include "core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int grown(struct vs_buffer *buffer, size_t bytes) {
    if (buffer->capacity >= bytes) return 0;
    size_t capacity = bytes + bytes / 4 + 4096;
    uint8_t *data = malloc(capacity);
    if (!data) return -1;
    free(buffer->data);
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

/* How many bytes could be read; -1 with errno set. */
static ssize_t read_all(int handle, uint8_t *into, size_t bytes, int64_t offset) {
    size_t got = 0;
    while (got < bytes) {
        ssize_t now = pread(handle, into + got, bytes - got, (off_t)(offset + (int64_t)got));
        if (now < 0 && errno == EINTR) continue;
        if (now < 0) return -1;
        if (now == 0) break;
        got += (size_t)now;
    }
    return (ssize_t)got;
}

enum vs_status vs_read(const struct vs_file *file, struct vs_buffer *buffer, int simd, char *reason) {
    if (file->handle < 0) {
        snprintf(reason, VS_REASON_BYTES, "its file is not open");
        return VS_BAD;
    }
    if (file->bytes == 0) {
        snprintf(reason, VS_REASON_BYTES, "the file is empty");
        return VS_BAD;
    }
    if (grown(buffer, file->bytes)) {
        snprintf(reason, VS_REASON_BYTES, "no memory for its %u bytes", file->bytes);
        return VS_BAD;
    }
    ssize_t got = read_all(file->handle, buffer->data, file->bytes, file->offset);
    if (got < 0) {
        snprintf(reason, VS_REASON_BYTES, "cannot be read: %s", strerror(errno));
        return VS_BAD;
    }
    if ((size_t)got < file->bytes) {
        snprintf(reason, VS_REASON_BYTES, "its file ends after %lld of %u bytes", (long long)got,
                 file->bytes);
        return VS_BAD;
    }
    uint32_t crc = vs_crc32c(buffer->data, file->bytes, simd);
    if (crc != file->crc) {
        snprintf(reason, VS_REASON_BYTES, "checksum mismatch: CRC-32C %08x, the index says %08x", crc,
                 file->crc);
        return VS_BAD;
    }
    return VS_DONE;
}
