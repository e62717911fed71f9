"""Each decoding rule, against pixels that are known."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.corpora import encoded, image_file
from tests.data.jpegs import jpeg
from vitscale.data.bad_images import BadImage
from vitscale.data.decode import MAX_PIXELS, decode, decode_box

RED, GREY = (200, 30, 10), 77


def pixel(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, int, int]:
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel(at)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_rgb_stays_rgb(format):
    data = encoded(
        Image.new("RGB", (16, 16), RED), format, **({"lossless": True} if format == "WEBP" else {})
    )
    assert np.abs(np.subtract(pixel(data), RED)).max() <= (3 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_grey_becomes_three_equal_channels(format):
    assert pixel(encoded(Image.new("L", (16, 16), GREY), format)) == (GREY, GREY, GREY)


def test_one_bit_becomes_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixel(encoded(image, "PNG")) == (0, 0, 0)
    assert pixel(encoded(image, "PNG"), (1, 0)) == (255, 255, 255)


def test_palettes_are_looked_up():
    assert pixel(encoded(Image.new("RGB", (4, 4), RED).quantize(4), "PNG")) == RED


def test_alpha_is_composited_on_white():
    for mode, colour in (("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))):
        assert pixel(encoded(Image.new(mode, (2, 2), colour), "PNG")) == (255, 255, 255)
    half = pixel(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"))
    assert half == (127, 127, 127)


def test_a_transparent_colour_is_composited_on_white():
    palette = Image.new("RGB", (4, 4), RED).quantize(4)
    assert pixel(encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))) == (255, 255, 255)
    assert pixel(encoded(Image.new("L", (4, 4), GREY), "PNG", transparency=GREY)) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGB", (4, 4), RED), "PNG", transparency=RED)) == (255, 255, 255)


def test_transparent_webp_is_composited_on_white():
    data = encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "WEBP", lossless=True)
    assert pixel(data) == (255, 255, 255)


def test_cmyk_becomes_rgb():
    cyan = pixel(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG"))
    assert np.abs(np.subtract(cyan, (0, 255, 255))).max() <= 4


def test_sixteen_bits_keep_the_upper_eight():
    grey = Image.fromarray(np.full((2, 2), 0xABCD, np.uint16))
    assert pixel(encoded(grey, "PNG")) == (0xAB, 0xAB, 0xAB)
    assert pixel(png_of_16_bit_rgb((0xAB01, 0x10FF, 0x0000))) == (0xAB, 0x10, 0x00)


def test_exif_orientation_is_ignored():
    image = Image.new("RGB", (8, 4), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode(encoded(image, "JPEG", exif=exif)).size == (8, 4)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 0))]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(data) == RED


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_short_is_refused(format):
    whole = image_file(format, size=(40, 40))
    decode(whole)
    for share in (0.0, 0.02, 0.5, 0.9):
        with pytest.raises(BadImage):
            decode(whole[: int(len(whole) * share)])


def test_random_damage_raises_nothing_but_bad_image():
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP"):
        whole = np.frombuffer(image_file(format, size=(24, 24)), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            try:
                assert decode(data.tobytes()).mode == "RGB"
            except BadImage as error:
                assert "decoded" in error.what or "px" in error.what


@pytest.mark.parametrize("data", [b"", b"hello", encoded(Image.new("RGB", (4, 4)), "GIF")])
def test_anything_but_jpeg_png_webp_is_refused(data):
    with pytest.raises(BadImage):
        decode(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded(Image.new("RGB", (4, 4)), "GIF"), "GIF"),
        (encoded(Image.new("RGB", (4, 4)), "BMP"), "BMP"),
        (encoded(Image.new("RGB", (4, 4)), "TIFF"), "TIFF"),
        (b"\0\0\0\x20ftypavif" + bytes(20), "AVIF"),
        (b"\0\0\0\x20ftypisom" + bytes(20), "an ISO media file"),
        (b"  <!DOCTYPE html><p>404", "HTML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "SVG"),
        (b"\x01\x02\x03", "a file that begins with 01 02 03"),
        (b"\xff\xd8\xff", "a JPEG file with a damaged header"),
    ],
)
def test_a_refused_format_is_named(data, name):
    with pytest.raises(BadImage, match=name):
        decode(data)


@pytest.mark.parametrize("side", [8, 16, 100, 101, 107])
@pytest.mark.parametrize("by", [1, 2, 4, 8])
def test_a_box_is_decoded_at_the_fraction_that_the_rule_gives(side, by):
    data = jpeg(side, side + 3)
    small = side // by
    part = decode_box(data, (0, 0, side, side), (small, small), shrink=True)
    found = next(k for k in (8, 4, 2, 1) if side >= k * small)
    assert part.size == (-(-side // found), -(-side // found))
    assert decode_box(data, (0, 0, side, side), (small, small), shrink=False).size == (side, side)


def test_a_part_of_a_file_that_cannot_shrink_keeps_its_size():
    data = image_file("PNG", size=(40, 40))
    assert decode_box(data, (1, 2, 39, 38), (4, 4), shrink=True).tobytes() == (
        decode(data).crop((1, 2, 39, 38)).tobytes()
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_box_or_size_that_does_not_fit_is_refused(format):
    data = image_file(format)
    for box in ((0, 0, 13, 1), (-1, 0, 3, 3), (3, 3, 3, 4), (0, 0, 0, 0)):
        with pytest.raises(BadImage, match=r"box|does not say its size"):
            decode_box(data, box, (4, 4), shrink=False)
    with pytest.raises(BadImage, match="measures 12 x 10 px, the index says 10 x 12 px"):
        decode_box(data, (0, 0, 1, 1), (4, 4), shrink=False, known=(10, 12))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 60_000])
def test_a_pixel_bomb_is_refused_unopened(side):
    assert side * side > MAX_PIXELS
    with pytest.raises(BadImage, match=r"px|bomb"):
        decode(png_that_declares(side))


def test_decoding_does_not_depend_on_the_name():
    assert decode(image_file("PNG")).size == (12, 10)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_declares(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def png_of_16_bit_rgb(colour: tuple[int, int, int]) -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = zlib.compress(b"\0" + struct.pack(">HHH", *colour))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    Image.open(io.BytesIO(data)).verify()
    return data
