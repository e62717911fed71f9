"""Sizes from header bytes agree with Pillow's, and no bytes make the parsers fail."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.corpora import encoded, image_file, make_tar
from vitscale.data.image_headers import JPEG, OTHER, PNG, WEBP, Header, read_header
from vitscale.data.tar_index import index_tar

FILES = {
    "JPEG": (JPEG, {}),
    "progressive JPEG": (JPEG, {"progressive": True}),
    "JPEG with profile and EXIF": (JPEG, {"icc_profile": b"p" * 200_000, "exif": b"Exif\0\0" + b"x" * 99}),
    "PNG": (PNG, {}),
    "lossy WebP": (WEBP, {}),
    "lossless WebP": (WEBP, {"lossless": True}),
    "WebP with profile": (WEBP, {"icc_profile": b"p" * 99}),
}  # fmt: skip
FORMAT = {JPEG: "JPEG", PNG: "PNG", WEBP: "WEBP"}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("size", [(1, 1), (17, 300), (640, 33), (2049, 5)])
def test_sizes_are_those_of_pillow(file, size):
    kind, options = FILES[file]
    data = encoded(Image.new("RGB", size, "teal"), FORMAT[kind], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert read_header(data) == Header(kind, *image.size)


def test_fill_bytes_and_markers_without_length_are_passed_over():
    data = image_file("JPEG", size=(9, 7))
    assert read_header(data[:2] + b"\xff\xff\xff\x01" + data[2:]) == Header(JPEG, 9, 7)


def test_sides_beyond_u16_count_as_unknown():
    data = bytearray(image_file("PNG"))
    data[16:20] = (2**16).to_bytes(4, "big")
    assert read_header(bytes(data)) == Header(PNG, 0, 0)


@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 400), st.binary(max_size=30))
def test_cut_and_overwritten_files_give_zeros_or_some_size(format, at, garbage):
    data = image_file(format)
    for hostile in (data[:at], data[:at] + garbage, data[:at] + garbage + data[at:]):
        header = read_header(hostile)
        assert (header.width == 0) == (header.height == 0)


@given(st.binary(max_size=64))
def test_any_bytes_are_taken(data):
    for start in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF____WEBPVP8X"):
        read_header(start + data)


def test_the_index_holds_sizes_and_kinds_by_content(tmp_path):
    files = [
        ("a.jpg", image_file("PNG", size=(3, 5))),
        ("b.png", image_file("JPEG", size=(8, 2))),
        ("c.jpg", b"not an image"),
        ("d.webp", image_file("WEBP", size=(6, 6))),
    ]
    index = index_tar(make_tar(tmp_path / "a.tar", files))
    assert index.kinds.tolist() == [PNG, JPEG, OTHER, WEBP]
    assert index.widths.tolist() == [3, 8, 0, 6]
    assert index.heights.tolist() == [5, 2, 0, 6]
    assert index.widths.dtype == np.uint16
