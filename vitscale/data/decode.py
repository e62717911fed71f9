"""From the bytes of an image file to 8-bit RGB, by rules that are stated here and tested one by one.

| file | becomes |
|---|---|
| grey, 1-bit, palette | RGB of the same look |
| alpha or a transparent colour | composited on white, as most viewers show it |
| CMYK, YCCK | RGB by Pillow's plain formula; colour profiles are ignored |
| 16 bits a channel | the upper 8 bits |
| EXIF orientation | ignored: ImageNet pipelines never turned images, and labels and boxes are made that way |
| animation | its first frame |
| cut short, damaged, more than `MAX_PIXELS` | `BadImage` |
| any other format, whatever its name | `BadImage` that says which |

A view may need less than that: `decode_box` gives a part of an image, at 1/2, 1/4 or 1/8 of its size where that is
allowed, and leaves out the rows below it where `jpeg_rows` can. `native/jpeg.c` follows the same rules for grey and
colour JPEGs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import (
    Image,
    PngImagePlugin,  # noqa: F401  registers the format; otherwise the first WebP loads all plugins
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from vitscale.data.bad_images import BadImage
from vitscale.data.image_headers import JPEG, KINDS, OTHER, kind_of
from vitscale.data.jpeg_rows import sequential_frame, upper_rows

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 100_000_000
"""A file of a few kilobytes can declare gigapixels; 100 Mpx are 300 MB of RGB."""

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""

_OTHER_FORMATS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\1\0", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"\x1f\x8b", "gzip"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}


def decode(data: bytes) -> Image.Image:
    """Decode a JPEG, PNG or WebP file to a Pillow image of mode RGB.

    Raises:
        BadImage: the file cannot be decoded in full.
    """
    with _opened(data) as image:
        image.load()
        return _to_rgb(image)


def decode_box(
    data: bytes,
    box: Box,
    size: tuple[int, int],
    *,
    shrink: bool,
    known: tuple[int, int] = (0, 0),
) -> Image.Image:
    """The pixels of `box` as an RGB image, perhaps at a fraction of their size.

    Args:
        data: an image file.
        box: of the image at full size.
        size: height and width that the box is going to have.
        shrink: whether a JPEG may be decoded at the smallest of 1/2, 1/4 and 1/8 that leaves it no smaller than
            `size`; the box is then widened to whole pixels of the smaller image.
        known: width and height that the image must have; (0, 0) allows any.

    Raises:
        BadImage: the file cannot be decoded, or the box is not inside the image. Damage below the box may pass; a
            JPEG without an end mark is decoded in full.
    """
    image, part = decode_around(data, box, size, shrink=shrink, known=known)
    return image if part == (0, 0, *image.size) else image.crop(part)


def decode_around(
    data: bytes,
    box: Box,
    size: tuple[int, int],
    *,
    shrink: bool,
    known: tuple[int, int] = (0, 0),
) -> tuple[Image.Image, Box]:
    """An RGB image that holds what `decode_box` would give, and where; arguments and errors are the same."""
    by = shrinkage(box, size) if shrink and kind_of(data[:16]) == JPEG else 1
    part = (box[0] // by, box[1] // by, -(-box[2] // by), -(-box[3] // by))
    frame = sequential_frame(data)
    if frame is not None and frame.size[0] * frame.size[1] <= MAX_PIXELS:
        _check(frame.size, box, known)
        image = upper_rows(data, frame, part[3], by)
        if image is not None:
            return image, part
    return _whole(data, box, by, known), part


def _whole(data: bytes, box: Box, by: int, known: tuple[int, int]) -> Image.Image:
    """All rows of a file, a JPEG at 1/`by`, after what `decode_box` checks."""
    with _opened(data) as image:
        _check(image.size, box, known)
        if by > 1:
            image.draft(None, (image.width // by, image.height // by))
        image.load()
        return _to_rgb(image)


def shrinkage(box: Box, size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 by which `box` may be shrunk without becoming smaller than `size` (height, width).

    Where that leaves no more than `size`, the result is about as sharp as with the triangle filter on all pixels: of
    views of synthetic photographs at ratios from 2 to 4.5 the mean gradient was 0.95 to 1.06 of it, at 38 to 46 dB
    (2026-11), while a Lanczos filter gave 1.18 to 1.25. So no larger image is asked for.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    for by in (8, 4, 2):
        if width >= by * size[1] and height >= by * size[0]:
            return by
    return 1


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image, not yet loaded; whatever goes wrong with it becomes a `BadImage`."""
    if not data:
        raise BadImage("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{image.width} x {image.height} px are more than {MAX_PIXELS} px")
            yield image
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(f"cannot be decoded: {_unidentified(data)}") from error
    except Exception as error:  # hostile bytes make decoders raise nearly anything; it is passed on
        raise BadImage(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _unidentified(data: bytes) -> str:
    kind = kind_of(data[:16])
    if kind != OTHER:
        return f"a {KINDS[kind]} file with a damaged header"
    name = _other_format(data)
    return f"{name} is none of JPEG, PNG and WebP"


def _other_format(data: bytes) -> str:
    """Name of a format that is refused, from its first bytes."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an ISO media file")
    if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "HTML, SVG or other XML"
    for start, name in _OTHER_FORMATS:
        if data.startswith(start):
            return name
    return f"a file that begins with {data[:8].hex(' ')}"


def _check(size: tuple[int, int], box: Box, known: tuple[int, int]) -> None:
    width, height = size
    if known[0] and size != known:
        raise BadImage(f"measures {width} x {height} px, the index says {known[0]} x {known[1]} px")
    if not any(box):
        raise BadImage("no crop was drawn: the index does not say its size")
    left, upper, right, lower = box
    if not (0 <= left < right <= width and 0 <= upper < lower <= height):
        raise BadImage(f"the box {box} is not in its {width} x {height} px")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        upper = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
