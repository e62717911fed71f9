"""The upper rows of a JPEG by Pillow, without those below: libjpeg is told of a lower height, and stops there.

Rows of a sequential JPEG follow from what the file says up to them; only where it holds colour at half the height do
they also depend on the next row of colour. So the rows are bit for bit those of the whole image. What cameras and
editors wrote about it is not read, and damage below the rows is not seen, as in `native/jpeg.c`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from PIL import Image

from vitscale.data.image_headers import JPEG, jpeg_frame, kind_of

_SEQUENTIAL = (0xC0, 0xC1)
"""Frames of Huffman coded blocks, each of them complete before the next one."""
_END = b"\xff\xd9"
_FIXED = 10
"""Bytes of a frame before what it says of each channel."""
_AHEAD = 1
"""Rows of the image as it is decoded that upsampling may look at."""


class Frame(NamedTuple):
    """What the header of a sequential JPEG with 8 bits a channel says, ITU-T T.81 B.2.2."""

    at: int
    """Where its marker stands, in bytes."""
    size: tuple[int, int]
    """Width and height, in pixels."""
    step: int
    """Pixels of height that are coded together."""


def sequential_frame(data: bytes) -> Frame | None:
    """The frame of a grey or colour JPEG that may be decoded in part; None where only decoding all of it tells more.

    Without an end mark it was cut short, and rows may be missing.
    """
    at = jpeg_frame(data) if kind_of(data[:16]) == JPEG else -1
    if at < 0 or data[at + 1] not in _SEQUENTIAL or data.rfind(_END, at + _FIXED) < 0:
        return None
    bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
    samplings = data[at + _FIXED + 1 : at + _FIXED + 3 * channels : 3]
    step = 8 * max((each & 15 for each in samplings), default=0)
    if bits != 8 or channels not in (1, 3) or not min(width, height, step):
        return None
    return Frame(at, (width, height), step)


def upper_rows(data: bytes, frame: Frame, rows: int, by: int) -> Image.Image | None:
    """At least the first `rows` rows of a JPEG at 1/`by` as an RGB image; None where libjpeg cannot decode them."""
    at, (width, height), step = frame.at + 5, frame.size, frame.step
    height = min(height, -(-(rows + _AHEAD) * by // step) * step)
    shortened = b"".join((data[:at], struct.pack(">H", height), data[at + 2 :]))
    size = -(-width // by), -(-height // by)
    try:
        return Image.frombytes("RGB", size, shortened, "jpeg", "RGB", "", by, 0)
    except (ValueError, OSError):
        return None
