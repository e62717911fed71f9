"""Rows of a JPEG that were decoded without those below are those of the whole image; where that is unsure, all are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.corpora import encoded, image_file
from tests.data.jpegs import END, KINDS, declaring, jpeg, picture
from vitscale.data import decode as decoding
from vitscale.data.bad_images import BadImage
from vitscale.data.decode import decode_box
from vitscale.data.jpeg_rows import sequential_frame, upper_rows
from vitscale.data.native import is_built
from vitscale.data.pixels import CDecoder

SEQUENTIAL = [kind for kind in KINDS if "progressive" not in kind]
LAID_OUT = {
    "4:4:0": ("4:2:2", 0x12, (19, 120)),
    "4:1:1": ("4:2:0", 0x41, (75, 31)),
    "four rows of luma": ("4:2:0", 0x14, (19, 125)),
    "grey by twos": ("grey", 0x22, (37, 61)),
    "grey by fours": ("grey", 0x14, (37, 61)),
}
"""Samplings that Pillow does not write: the kind whose blocks are laid out anew, how, and the size of that."""


def sampled(kind: str) -> bytes:
    """A JPEG of 37 x 61 px of a kind, or another that its blocks make in another order."""
    if kind in KINDS:
        return jpeg(37, 61, kind)
    of, sampling, size = LAID_OUT[kind]
    data = bytearray(declaring(jpeg(37, 61, of), *size))
    data[data.index(b"\xff\xc0") + 11] = sampling
    return bytes(data)


def in_scans_of_their_own(width: int, height: int) -> bytes:
    """Three channels, all of them the same grey picture, one after the other."""
    grey = encoded(Image.fromarray(picture(width, height)[..., 0]), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    channels = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    scans = b"".join(
        grey[scan : scan + 5] + bytes([number]) + grey[scan + 6 : -2] for number in (1, 2, 3)
    )
    header = b"\xff\xc0\x00\x11" + grey[frame + 4 : frame + 9] + b"\x03" + channels
    return grey[:frame] + header + grey[frame + 13 : scan] + scans + END


def all_rows(data: bytes, by: int = 1) -> np.ndarray:
    """[H, W, 3] uint8, by Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        if by > 1:
            image.draft(None, (image.width // by, image.height // by))
        return np.asarray(image.convert("RGB"))


def rows_equal(data: bytes, by: int) -> list[int]:
    """Heights of the images that were decoded for every number of rows, after a comparison of those rows."""
    whole, frame, heights = all_rows(data, by), sequential_frame(data), []
    assert frame is not None
    for rows in range(1, len(whole) + 1):
        upper = upper_rows(data, frame, rows, by)
        assert upper is not None
        assert upper.mode == "RGB"
        assert np.array_equal(np.asarray(upper)[:rows], whole[:rows]), rows
        heights.append(upper.height)
    return heights


@pytest.mark.parametrize("by", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [*SEQUENTIAL, *LAID_OUT])
def test_upper_rows_are_those_of_the_whole_image(kind, by):
    heights = rows_equal(sampled(kind), by)
    assert heights[0] < heights[-1] == -(-sequential_frame(sampled(kind)).size[1] // by)


@pytest.mark.parametrize("by", [1, 2, 4, 8])
def test_channels_may_have_scans_of_their_own(by):
    heights = rows_equal(in_scans_of_their_own(37, 61), by)
    assert heights[0] < heights[-1]


def test_no_more_rows_are_decoded_than_are_coded_together_and_looked_at():
    for kind, step in (("4:4:4", 8), ("grey", 8), ("4:2:0", 16), ("restarts", 16)):
        assert max(np.subtract(rows_equal(jpeg(20, 90, kind), 1), np.arange(1, 91))) <= step + 1


@pytest.mark.parametrize(
    "data",
    [
        jpeg(40, 40, "progressive"),
        encoded(Image.fromarray(picture(40, 40)).convert("CMYK"), "JPEG"),
        jpeg(40, 40)[:-2],
        declaring(jpeg(40, 40), 40, 0),
        image_file("PNG"),
        b"\xff\xd8\xff\xc0\0\x0b\x08\0\x09\0\xff\xd9",
        b"",
    ],
    ids=["progressive", "CMYK", "no end", "no height", "PNG", "header cut", "empty"],
)
def test_other_files_are_decoded_whole(data):
    assert sequential_frame(data) is None


def test_a_box_of_a_large_file_is_what_it_was(monkeypatch):
    data, boxes = jpeg(130, 90), [(5, 3, 77, 20), (0, 0, 130, 90), (129, 89, 130, 90)]
    parts = [decode_box(data, box, (9, 9), shrink=True) for box in boxes]
    monkeypatch.setattr(decoding, "sequential_frame", lambda data: None)
    for box, part in zip(boxes, parts, strict=True):
        whole = decode_box(data, box, (9, 9), shrink=True)
        assert (part.size, part.tobytes()) == (whole.size, whole.tobytes())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_sizes_are_checked_against_the_whole_image():
    data = jpeg(40, 60)
    decode_box(data, (0, 0, 9, 9), (9, 9), shrink=False, known=(40, 60))
    with pytest.raises(BadImage, match="measures 40 x 60 px, the index says 40 x 16 px"):
        decode_box(data, (0, 0, 9, 9), (9, 9), shrink=False, known=(40, 16))
    with pytest.raises(BadImage, match="is not in its 40 x 60 px"):
        decode_box(data, (0, 0, 9, 61), (9, 9), shrink=False)
    with pytest.raises(BadImage, match="are more than"):
        decode_box(declaring(data, 20_000, 6_000), (0, 0, 9, 9), (9, 9), shrink=False)


def test_a_cut_below_the_box_is_noticed():
    data = jpeg(40, 200)
    with pytest.raises(BadImage, match="truncated"):
        decode_box(data[: len(data) * 3 // 4], (0, 0, 9, 9), (9, 9), shrink=False)


@pytest.mark.skipif(not is_built(), reason="the C extension was not built")
def test_damage_below_the_box_counts_for_neither_decoder():
    data = bytearray(jpeg(40, 200))
    expected = decode_box(bytes(data), (0, 0, 40, 9), (9, 40), shrink=False)
    data[-200:-100] = bytes(100)
    part = decode_box(bytes(data), (0, 0, 40, 9), (9, 40), shrink=False)
    view = np.zeros((9, 40, 3), np.uint8)
    CDecoder().view(bytes(data), view, (0, 0, 40, 9), False, shrink=False)
    assert np.array_equal(part, expected)
    assert np.array_equal(view, expected)


def test_what_libjpeg_cannot_end_early_is_decoded_whole():
    """A mark that nobody knows is an error behind the last row and passed over between restarts."""
    data = bytearray(jpeg(40, 200, "restarts"))
    at = data.index(b"\xff\xd6") + 3
    data[at : at + 2] = b"\xff\x05"
    assert upper_rows(bytes(data), sequential_frame(bytes(data)), 9, 1) is None
    part = decode_box(bytes(data), (0, 0, 40, 9), (9, 40), shrink=False)
    assert np.array_equal(part, all_rows(bytes(data))[:9])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_is_judged_as_in_a_decode_of_all_rows(monkeypatch):
    """What can be decoded whole gives the same pixels; what cannot may do in part, if only metadata are damaged."""
    rng, files = np.random.default_rng(5), []
    boxes = [(3, 2, 40, 9), (0, 30, 39, 47), (0, 0, 40, 60)]
    for kind in KINDS:
        whole = np.frombuffer(jpeg(40, 60, kind), np.uint8)
        for trial in range(90):
            data, end = whole.copy(), len(whole) if trial % 2 else 700
            data[rng.integers(2, end, 3)] = rng.integers(0, 256, 3)
            files += [(data.tobytes(), box) for box in boxes]

    def outcomes() -> list[bytes | None]:
        found = []
        for data, box in files:
            try:
                found.append(decode_box(data, box, (9, 9), shrink=True).tobytes())
            except BadImage:
                found.append(None)
        return found

    parts = outcomes()
    monkeypatch.setattr(decoding, "sequential_frame", lambda data: None)
    wholes = outcomes()
    assert 0.1 < np.mean([whole is None for whole in wholes]) < 0.9
    assert sum(part != whole for part, whole in zip(parts, wholes, strict=True) if whole) == 0
    assert (
        sum(part is not None for part, whole in zip(parts, wholes, strict=True) if not whole) <= 5
    )
