"""Both decoders keep one contract: the same views within the tolerance, and bad files reported, never raised."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import crc32c
import numpy as np
import pytest
from PIL import Image

from tests.data.corpora import encoded, image_file
from tests.data.jpegs import KINDS, jpeg, picture
from vitscale.data import native
from vitscale.data.bad_images import BadImage
from vitscale.data.decode import decode
from vitscale.data.pixels import (
    TOLERANCE,
    CDecoder,
    Decoder,
    Files,
    PillowDecoder,
    choose_decoder,
)
from vitscale.errors import ResourceError

NAMES = ["pillow", *(["c"] if native.is_built() else [])]
needs_c = pytest.mark.skipif(not native.is_built(), reason="the C extension was not built")


@pytest.fixture(params=NAMES)
def decoder(request) -> Decoder:
    return choose_decoder(request.param)


class Shard:
    """Files one after the other in one file, and what an index would say of them."""

    def __init__(self, path: Path, files: list[bytes]) -> None:
        gap = b"a tar header"
        path.write_bytes(gap + gap.join(files))
        self.handle = os.open(path, os.O_RDONLY)
        lengths = np.array([len(data) for data in files], np.uint32)
        ends = np.cumsum(lengths.astype(np.int64) + len(gap))
        self.files = Files(
            np.full(len(files), self.handle, np.int32),
            ends - lengths,
            lengths,
            np.array([crc32c.crc32c(data) for data in files], np.uint32),
            np.zeros((len(files), 2), np.int32),
        )

    def filled(self, decoder: Decoder, boxes, size=(8, 8), *, mirrored=None, shrink=False):
        count = len(self.files.handles)
        out = np.full((count, *size, 3), 99, np.uint8)
        boxes = np.broadcast_to(np.array(boxes, np.int32), (count, 4))
        mirrored = np.zeros(count, bool) if mirrored is None else np.array(mirrored)
        return out, decoder.fill(out, self.files, boxes, mirrored, shrink=shrink)


@pytest.fixture
def shard(tmp_path) -> Iterator[Callable[[list[bytes]], Shard]]:
    shards = []

    def made(files: list[bytes]) -> Shard:
        shards.append(Shard(tmp_path / str(len(shards)), files))
        return shards[-1]

    yield made
    for each in shards:
        os.close(each.handle)


def view(decoder: Decoder, data: bytes, box, size, *, mirrored=False, shrink=False) -> np.ndarray:
    out = np.full((*size, 3), 99, np.uint8)
    decoder.view(data, out, box, mirrored, shrink=shrink)
    return out


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other)


@needs_c
@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_decoders_agree_within_the_tolerance(kind, shrink):
    rng, c, pillow = np.random.default_rng(4), CDecoder(), PillowDecoder()
    differences = []
    for trial in range(25):
        width, height = rng.integers(1, 400, 2).tolist()
        left, upper = int(rng.integers(0, width)), int(rng.integers(0, height))
        box = (left, upper, rng.integers(left, width) + 1, rng.integers(upper, height) + 1)
        size = tuple(rng.integers(1, 200, 2).tolist())
        data, mirrored = jpeg(width, height, kind, trial), bool(trial % 2)
        views = [view(d, data, box, size, mirrored=mirrored, shrink=shrink) for d in (c, pillow)]
        differences.append(difference(*views).ravel())
    everything = np.concatenate(differences)
    assert everything.max() <= TOLERANCE
    assert everything.mean() < 0.2


@needs_c
@pytest.mark.parametrize(
    ("size", "box", "out"),
    [
        ((1, 1), (0, 0, 1, 1), (224, 224)),
        ((3000, 7), (0, 0, 3000, 7), (32, 32)),
        ((9, 2000), (2, 0, 5, 2000), (3, 300)),
        ((500, 375), (0, 0, 500, 375), (224, 224)),
    ],
)
def test_the_decoders_agree_on_odd_shapes(size, box, out):
    views = [view(d, jpeg(*size), box, out) for d in (CDecoder(), PillowDecoder())]
    assert difference(*views).max() <= TOLERANCE


@needs_c
@pytest.mark.parametrize("format", ["PNG", "WEBP", "CMYK"])
def test_other_files_are_finished_by_pillow_under_the_same_rules(shard, format):
    image = Image.fromarray(picture(90, 70))
    cmyk = format == "CMYK"
    data = encoded(image.convert("CMYK"), "JPEG") if cmyk else encoded(image, format)
    made = shard([data, data, jpeg(90, 70)])
    (one, first), (two, second) = (
        made.filled(d, (5, 3, 85, 65), (12, 11), mirrored=[False, True, False], shrink=True)
        for d in (CDecoder(), PillowDecoder())
    )
    assert first.bad == second.bad == []
    assert difference(one, two).max() <= TOLERANCE
    assert np.array_equal(one[0], one[1][:, ::-1])


def test_a_view_is_the_crop_resized(decoder):
    data = image_file("PNG", size=(40, 30))
    crop = decode(data).crop((4, 2, 36, 26))
    for size in ((6, 8), (24, 32), (60, 80)):
        expected = crop.resize(size[::-1], Image.Resampling.BILINEAR)
        assert (
            difference(view(decoder, data, (4, 2, 36, 26), size), np.asarray(expected)).max() <= 1
        )


def test_filling_is_viewing(decoder, shard):
    files = [jpeg(60, 50), image_file("PNG", size=(60, 50)), jpeg(60, 50, "progressive")]
    made = shard(files)
    out, filled = made.filled(decoder, (3, 4, 57, 47), (20, 21), mirrored=[True, False, True])
    assert filled.bad == []
    assert filled.read_s > 0 < filled.decode_s
    for slot, data, mirrored in zip(out, files, (True, False, True), strict=True):
        expected = view(decoder, data, (3, 4, 57, 47), (20, 21), mirrored=mirrored)
        assert np.array_equal(slot, expected)


def test_every_bad_file_is_zeroed_and_reported_and_the_rest_is_right(decoder, shard):
    good = jpeg(40, 30)
    files = [good, jpeg(40, 30)[:-400], b"GIF89a" + bytes(50), good, good, good, good, b"", good]
    made = shard(files)
    made.files.crcs[3] ^= 1
    made.files.sizes[4] = (40, 31)
    made.files.handles[5] = -1
    made.files.offsets[6] += 10**9
    made.files.sizes[8] = (40, 30)
    out, filled = made.filled(decoder, (0, 0, 40, 30))
    reasons = dict(filled.bad)
    assert [slot for slot, _ in filled.bad] == list(range(1, 8))
    for slot, words in {
        1: "cannot be decoded",
        2: "GIF is none of JPEG, PNG and WebP",
        3: "checksum mismatch",
        4: "measures 40 x 30 px, the index says 40 x 31 px",
        5: "not open",
        6: "ends after 0 of",
        7: "the file is empty",
    }.items():
        assert words in reasons[slot]
    assert not out[1:8].any()
    assert np.array_equal(out[0], out[8])
    assert out[0].any()


def test_a_handle_that_cannot_be_read_is_reported(decoder, shard, tmp_path):
    made = shard([jpeg(9, 9)])
    made.files.handles[0] = os.open(tmp_path, os.O_RDONLY)
    try:
        assert "cannot be read: Is a directory" in made.filled(decoder, (0, 0, 9, 9))[1].bad[0][1]
    finally:
        os.close(int(made.files.handles[0]))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_image_of_unknown_size_is_refused_with_the_empty_box(decoder, format):
    with pytest.raises(BadImage, match="the index does not say its size"):
        view(decoder, image_file(format), (0, 0, 0, 0), (4, 4))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_box_outside_the_image_is_refused(decoder, format):
    with pytest.raises(BadImage, match="is not in its 12 x 10 px"):
        view(decoder, image_file(format), (0, 0, 13, 10), (4, 4))


def test_nothing_to_fill_is_filled(decoder, shard):
    out, filled = shard([]).filled(decoder, (0, 0, 1, 1))
    assert filled.bad == []
    assert len(out) == 0


@needs_c
def test_many_files_of_other_formats_are_done_in_several_calls(shard):
    data = encoded(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG") + bytes(17 << 20)
    made = shard([data] * 6 + [jpeg(9, 9)])
    out, filled = made.filled(CDecoder(), (0, 0, 9, 9), (9, 9))
    assert filled.bad == []
    assert (out[:6] == (1, 2, 3)).all()
    assert out[6].any()


def test_a_missing_extension_is_named_where_it_is_wanted(monkeypatch):
    monkeypatch.setattr(native, "_built", None)
    monkeypatch.setattr(native, "_why", "No module named '_pixels'")
    with pytest.raises(ResourceError, match=r"No module named '_pixels'.*libjpeg62-turbo-dev"):
        choose_decoder("c")
    assert choose_decoder("auto").name.startswith("Pillow")


def test_the_names_say_what_decodes():
    assert choose_decoder("pillow").name.startswith("Pillow ")
    if native.is_built():
        assert choose_decoder("auto").name.startswith("C, libjpeg-turbo ")
