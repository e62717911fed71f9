"""The C core against full decodes, exact sums and other libraries; its two code paths against each other."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import crc32c
import numpy as np
import pytest
from PIL import Image

from tests.data.corpora import encoded
from tests.data.jpegs import END, KINDS, declaring, jpeg, many_scans, picture
from vitscale.data.native import extension, is_built, plain_decode

pytestmark = pytest.mark.skipif(not is_built(), reason="the C extension was not built")

SHAPES = [
    # source width and height, view height and width
    ((64, 48), (48, 64)),
    ((64, 48), (17, 23)),
    ((30, 20), (64, 96)),
    ((1, 1), (5, 7)),
    ((1, 300), (9, 9)),
    ((700, 3), (2, 1)),
    ((333, 5), (5, 333)),
    ((129, 131), (1, 1)),
    ((40, 900), (224, 3)),
]


def view(data: bytes, box, size, *, mirrored=False, shrink=False, simd=True) -> np.ndarray:
    out = np.full((*size, 3), 99, np.uint8)
    assert extension().view(data, out, size, box, mirrored, shrink, simd) == ""
    return out


def why(data: bytes, box=(0, 0, 1, 1), *, simd=True) -> str | None:
    return extension().view(data, np.zeros((4, 4, 3), np.uint8), (4, 4), box, False, False, simd)


def resized(pixels: np.ndarray, size, *, box=None, mirrored=False, simd=True) -> np.ndarray:
    height, width = pixels.shape[:2]
    out = np.full((*size, 3), 99, np.uint8)
    box = box or (0, 0, width, height)
    extension().resize(pixels.tobytes(), (width, height), out, size, box, mirrored, simd)
    return out


def full(data: bytes) -> np.ndarray:
    pixels, width, height = plain_decode(data)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def triangle(inside: int, outside: int) -> np.ndarray:
    """[outside, inside] weights of the antialiased triangle filter, by its definition."""
    scale = inside / outside
    centres = (np.arange(outside)[:, None] + 0.5) * scale
    away = np.abs(np.arange(inside)[None] + 0.5 - centres) / max(scale, 1)
    weights = np.maximum(1 - away, 0)
    return weights / weights.sum(1, keepdims=True)


def random_box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    left, upper = int(rng.integers(0, width)), int(rng.integers(0, height))
    return left, upper, int(rng.integers(left, width)) + 1, int(rng.integers(upper, height)) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_has_the_pixels_of_the_full_decode(kind):
    rng = np.random.default_rng(1)
    for trial in range(25):
        width, height = rng.integers(1, 130, 2).tolist()
        data = jpeg(width, height, kind, seed=trial)
        whole = full(data)
        edges = [(0, 0, width, height), (0, 0, 1, 1), (width - 1, height - 1, width, height)]
        for box in edges + [random_box(rng, width, height) for _ in range(8)]:
            left, upper, right, lower = box
            part = view(data, box, (lower - upper, right - left))
            assert np.array_equal(part, whole[upper:lower, left:right]), (width, height, box)


@pytest.mark.parametrize(("source", "size"), SHAPES)
def test_resizing_is_the_triangle_filter(source, size):
    pixels = np.random.default_rng(0).integers(0, 256, (source[1], source[0], 3), np.uint8)
    rows, columns = triangle(source[1], size[0]), triangle(source[0], size[1])
    exact = np.einsum("yh,hwc,xw->yxc", rows, pixels, columns)
    assert np.abs(resized(pixels, size) - exact).max() <= 0.6  # half a level is the last rounding


def test_resizing_holds_where_thousands_of_pixels_become_one():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60_000, 3), np.uint8)
    exact = np.einsum("yh,hwc,xw->yxc", triangle(2, 1), pixels.astype(float), triangle(60_000, 3))
    assert np.abs(resized(pixels, (1, 3)) - exact).max() <= 1


@pytest.mark.parametrize(("source", "size"), SHAPES)
def test_both_code_paths_give_the_same_bits(source, size):
    pixels = picture(*source)
    for mirrored in (False, True):
        plain = resized(pixels, size, mirrored=mirrored, simd=False)
        assert np.array_equal(resized(pixels, size, mirrored=mirrored), plain)
    data = jpeg(*source)
    for shrink in (False, True):
        views = [view(data, (0, 0, *source), size, shrink=shrink, simd=s) for s in (False, True)]
        assert np.array_equal(*views)


def test_random_sizes_and_boxes_give_the_same_bits_on_both_paths():
    rng = np.random.default_rng(2)
    for trial in range(200):
        width, height, rows, columns = rng.integers(1, 90, 4).tolist()
        pixels, box = picture(width, height, trial), random_box(rng, width, height)
        one, two = (resized(pixels, (rows, columns), box=box, simd=s) for s in (True, False))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("quality", [1, 30, 90, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_our_entropy_decoder_reads_what_libjpeg_reads(quality, subsampling):
    rng = np.random.default_rng(quality)
    for trial in range(12):
        width, height = rng.integers(1, 200, 2).tolist()
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels = Image.fromarray(noise if trial % 2 else picture(width, height, trial))
        options = {"quality": quality, "subsampling": subsampling, "optimize": trial % 3 == 0}
        data, box = encoded(pixels, "JPEG", **options), random_box(rng, width, height)
        size = (box[3] - box[1], box[2] - box[0])
        assert np.array_equal(*[view(data, box, size, simd=simd) for simd in (True, False)])


def test_a_decoder_that_saw_other_tables_forgets_them(tmp_path):
    pixels = Image.fromarray(picture(70, 50))
    files = [
        encoded(pixels, "JPEG", quality=quality, optimize=optimize)
        for quality in (5, 60, 95)
        for optimize in (False, True, False)
    ]
    (tmp_path / "files").write_bytes(b"".join(files))
    lengths = np.array(list(map(len, files)), np.uint32)
    out, n = np.zeros((len(files), 20, 30, 3), np.uint8), len(files)
    with open(tmp_path / "files", "rb") as file:
        columns = (
            np.full(n, file.fileno(), np.int32),
            np.cumsum(lengths, dtype=np.int64) - lengths,
            lengths,
            np.array(list(map(crc32c.crc32c, files)), np.uint32),
            np.zeros((n, 2), np.int32),
            np.tile(np.array([3, 2, 65, 47], np.int32), (n, 1)),
            np.zeros(n, np.bool_),
        )
        assert extension().fill(out, (n, 20, 30), *columns, False, 0, True)[3] == []
    for data, found in zip(files, out, strict=True):
        assert np.array_equal(found, view(data, (3, 2, 65, 47), (20, 30), simd=False))


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_one_colour_stays_that_colour(level):
    for source, size in SHAPES:
        assert (resized(np.full((source[1], source[0], 3), level, np.uint8), size) == level).all()


def test_a_mirrored_view_is_the_view_mirrored():
    data = jpeg(61, 43)
    for size in ((7, 9), (43, 61), (80, 122)):
        plain = view(data, (3, 2, 60, 40), size)
        assert np.array_equal(view(data, (3, 2, 60, 40), size, mirrored=True), plain[:, ::-1])


def test_pixels_outside_the_box_never_enter():
    pixels = picture(50, 40)
    painted = pixels.copy()
    painted[:10], painted[30:], painted[:, :7], painted[:, 33:] = 255, 0, 255, 0
    for size in ((5, 5), (60, 60)):
        views = [resized(image, size, box=(7, 10, 33, 30)) for image in (pixels, painted)]
        assert np.array_equal(*views)


def test_shrinking_stops_before_the_box_is_smaller_than_the_view():
    data = jpeg(256, 256, "4:4:4")
    for side, shrunk in ((128, False), (127, False), (63, True), (32, True)):
        views = [view(data, (1, 1, 127, 127), (side, side), shrink=s) for s in (False, True)]
        assert np.array_equal(*views) is not shrunk


def test_a_box_decoded_at_a_fraction_looks_the_same():
    data = jpeg(640, 480)
    for box in ((0, 0, 640, 480), (33, 21, 551, 431), (101, 203, 301, 403)):
        views = [view(data, box, (48, 48), shrink=s).astype(int) for s in (False, True)]
        assert np.abs(views[0] - views[1]).mean() < 3


@pytest.mark.parametrize("length", [0, 1, 7, 8, 3071, 3072, 3073, 6144 + 13, 100_001])
def test_the_checksum_is_crc32c(length):
    data = np.random.default_rng(length).bytes(length)
    assert extension().crc32c(data, True) == crc32c.crc32c(data)
    assert extension().crc32c(data, False) == crc32c.crc32c(data)


def test_scans_of_their_own_are_decoded_and_hundreds_refused():
    assert why(many_scans(3)) == ""
    assert "more than 500 scans" in (why(many_scans(600)) or "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg(40, 40)[:-2], "no end-of-image mark"),
        (jpeg(40, 40)[:300], "cannot be decoded"),
        (declaring(jpeg(40, 40), 60_000, 60_000), "more than 100000000 px"),
        (declaring(jpeg(40, 40), 0, 40), "cannot be decoded"),
        (b"\xff\xd8\xff" + bytes(100), "cannot be decoded"),
        (b"\xff\xd8\xff" + END, "cannot be decoded"),
    ],
)
def test_bad_files_are_refused_with_a_reason(data, reason, capfd):
    assert reason in (why(data, (0, 0, 40, 40)) or "")
    assert capfd.readouterr() == ("", "")


def test_damage_inside_the_data_is_noticed(capfd):
    data = jpeg(64, 64, "restarts")
    at = data.index(b"\xff\xd2")
    assert "premature end" in (why(declaring(jpeg(9, 9), 9, 90), (0, 0, 9, 90)) or "").lower()
    assert "corrupt" in (why(data[:at] + data[at + 2 :], (0, 0, 64, 64)) or "").lower()
    assert capfd.readouterr() == ("", "")


def test_harmless_oddities_pass():
    data = jpeg(40, 40)
    later_jfif = data.replace(b"JFIF\0\x01", b"JFIF\0\x07")
    filled = data[:-2] + b"\0\0\0" + END + b"trailing bytes"
    assert later_jfif != data
    for odd in (later_jfif, filled):
        assert np.array_equal(view(odd, (0, 0, 40, 40), (40, 40)), full(data))


def test_a_box_outside_the_image_is_refused():
    for box in ((0, 0, 41, 40), (-1, 0, 5, 5), (9, 9, 9, 12), (0, 12, 5, 9)):
        assert "is not in its 40 x 40 px" in (why(jpeg(40, 40), box) or "")
    assert "does not say its size" in (why(jpeg(40, 40), (0, 0, 0, 0)) or "")


def test_random_damage_is_refused_for_the_reasons_of_libjpeg():
    rng = np.random.default_rng(3)
    for kind in KINDS:
        whole = np.frombuffer(jpeg(40, 40, kind), np.uint8)
        for _ in range(80):
            data = whole.copy()
            data[rng.integers(2, len(data), 4)] = rng.integers(0, 256, 4)
            reasons = [why(data.tobytes(), (1, 1, 39, 39), simd=simd) for simd in (True, False)]
            assert reasons[0] == reasons[1]


def test_buffers_of_a_wrong_size_are_refused():
    native, data = extension(), jpeg(8, 8)
    out = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="out has 48 bytes, expected 75"):
        native.view(data, out, (5, 5), (0, 0, 8, 8), False, False, True)
    with pytest.raises(ValueError, match="sides must be 1 to 16384"):
        native.view(data, out, (0, 4), (0, 0, 8, 8), False, False, True)
    with pytest.raises(ValueError, match="expected"):
        native.resize(bytes(10), (2, 2), out, (4, 4), (0, 0, 2, 2), False, True)
    with pytest.raises(ValueError, match="box"):
        native.resize(bytes(12), (2, 2), out, (4, 4), (0, 0, 3, 2), False, True)
    with pytest.raises(ValueError, match="handles has 0 bytes, expected 4"):
        native.fill(out, (1, 4, 4), *[np.zeros(0, np.uint8)] * 7, False, 0, True)
    with pytest.raises(ValueError, match="JPEG"):
        native.plain_decode(b"no image")
    assert sys.getrefcount(out) == 2


def test_threads_do_not_disturb_each_other():
    files = [jpeg(80 + n, 70, kind, n) for n, kind in enumerate(KINDS)]
    alone = [view(data, (1, 2, 70, 65), (30, 30)) for data in files]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            together = pool.map(lambda data: view(data, (1, 2, 70, 65), (30, 30)), files)
            assert all(map(np.array_equal, together, alone))
