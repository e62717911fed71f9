"""Kind, width and height of an image file from its first bytes, without a decoder.

Only what stands in the header is read, about a microsecond an image; whether the rest decodes is another question.
EXIF orientation is ignored, as when decoding.
"""

from __future__ import annotations

from typing import NamedTuple

KINDS = ("other", "JPEG", "PNG", "WebP")
"""Names by the number of the kind."""
OTHER, JPEG, PNG, WEBP = range(4)
EXTENSION_OF = {JPEG: "jpg", PNG: "png", WEBP: "webp"}
LONGEST_SIDE = 2**16 - 1
"""In pixels; sides are kept as u16."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ENDS = frozenset({0xD9, 0xDA})


class Header(NamedTuple):
    """What a header says; width and height are 0 where it does not say it, or says more than `LONGEST_SIDE`."""

    kind: int
    width: int
    height: int


def kind_of(head: bytes) -> int:
    """The kind that the first 16 bytes of a file show, whatever the file is called."""
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head.startswith(_PNG_START):
        return PNG
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WEBP
    return OTHER


def read_header(head: bytes) -> Header:
    """Kind and size of the image whose file begins with `head`; hostile bytes give zeros, never an error."""
    kind = kind_of(head)
    if kind == OTHER:
        return Header(OTHER, 0, 0)
    width, height = _SIZES[kind](head)
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE):
        return Header(kind, 0, 0)
    return Header(kind, width, height)


def jpeg_frame(head: bytes) -> int:
    """Where the start-of-frame marker of a JPEG stands, met by hopping between segments; -1 if it is not met."""
    at, end = 2, len(head) - 8
    while at < end:
        if head[at] != 0xFF:
            at = head.find(b"\xff", at)  # decoders skip what stands between segments
            if at < 0:
                break
        marker = head[at + 1]
        if marker in _FRAMES:
            return at
        if marker in _ENDS:
            break
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH or not marker:
            at += 2
        else:
            at += 2 + max(2, (head[at + 2] << 8) | head[at + 3])
    return -1


def _jpeg(head: bytes) -> tuple[int, int]:
    at = jpeg_frame(head)
    if at < 0:
        return 0, 0
    height, width = head[at + 5 : at + 7], head[at + 7 : at + 9]
    return int.from_bytes(width, "big"), int.from_bytes(height, "big")


def _png(head: bytes) -> tuple[int, int]:
    if head[12:16] != b"IHDR" or len(head) < 24:
        return 0, 0
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _webp(head: bytes) -> tuple[int, int]:
    """From the first chunk: lossy, lossless, or the extended header with the size of the canvas."""
    chunk, body = head[12:16], head[20:30]
    if len(body) < 10:
        return 0, 0
    if chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        sides = int.from_bytes(body[6:8], "little"), int.from_bytes(body[8:10], "little")
        return sides[0] & 0x3FFF, sides[1] & 0x3FFF
    if chunk == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        width = int.from_bytes(body[4:7], "little") + 1
        return width, int.from_bytes(body[7:10], "little") + 1
    return 0, 0


_SIZES = {JPEG: _jpeg, PNG: _png, WEBP: _webp}
