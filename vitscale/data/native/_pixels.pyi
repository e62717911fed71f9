"""The extension module in C; see core.h for what it does. Boxes are (left, upper, right, lower)."""

from typing_extensions import Buffer

Box = tuple[int, int, int, int]

def fill(
    out: Buffer,
    shape: tuple[int, int, int],
    handles: Buffer,
    offsets: Buffer,
    lengths: Buffer,
    crcs: Buffer,
    sizes: Buffer,
    boxes: Buffer,
    mirrored: Buffer,
    shrink: bool,
    begin: int,
    simd: bool,
) -> tuple[int, float, float, list[tuple[int, str | bytes]]]:
    """Fill views, uint8 [rows, height, width, 3] = [*shape, 3], from row `begin` on.

    Returns the row to go on with, seconds spent reading and decoding, and what is not done: rows with the reason why
    they are bad, or with the bytes of a file in another format. Neither leaves anything but zeros in its slot.
    """

def view(
    data: Buffer,
    out: Buffer,
    size: tuple[int, int],
    box: Box,
    mirrored: bool,
    shrink: bool,
    simd: bool,
) -> str | None:
    """Fill one view, uint8 [height, width, 3]; why it is bad, "" if it is not, None if it is no grey or colour JPEG."""

def resize(
    pixels: Buffer,
    pixels_size: tuple[int, int],
    out: Buffer,
    size: tuple[int, int],
    box: Box,
    mirrored: bool,
    simd: bool,
) -> None:
    """Fill one view from RGB pixels of (width, height) = `pixels_size`."""

def plain_decode(data: Buffer) -> tuple[bytes, int, int]: ...
def crc32c(data: Buffer, simd: bool) -> int: ...
def describe() -> tuple[str, bool]:
    """Version of libjpeg-turbo, and whether AVX2 is used."""
