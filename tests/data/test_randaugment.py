"""RandAugment against the reference's own outputs, the definitions written out, and Pillow; and in the loader."""

from __future__ import annotations

import math
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from tests.data.corpora import loader_of, packed
from tests.data.jpegs import picture
from vitscale.config.data import DataConfig
from vitscale.data import randaugment as ra
from vitscale.data.random_keys import SampleStreams
from vitscale.data.shards import ShardSet
from vitscale.place import Place

PICTURE = picture(40, 31, 5) // 2 + 40
NOISE = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)
FACTORS = (0.1, 0.64, 1.0, 1.9, 2.8, 3.7)

# CRC-32 of what big_vision's functions (0127fb6, TensorFlow 2.15.1, TensorFlow Addons 0.23) make of `fixed_image` at
# magnitudes 0, 1, 10, 15 and 20, for ops with a sign at minus and plus; the cutout's center is row 5, column 20.
REFERENCE = {
    "autocontrast": "f61ea92d f61ea92d f61ea92d f61ea92d f61ea92d",
    "equalize": "c25a4050 c25a4050 c25a4050 c25a4050 c25a4050",
    "invert": "2039ca6f 2039ca6f 2039ca6f 2039ca6f 2039ca6f",
    "rotate": "d3842bad d3842bad 732a119b 9d45ac06 e4cd9e88 56d27401 8a33b1e2 1b3b37dd daa6b82f ce71c882",
    "posterize": "5f71a6f3 5f71a6f3 ade3cc9b e7d2e8fd d3842bad",
    "solarize": "2039ca6f 4e00ee99 2039ca6f 6dd9f8d5 2039ca6f",
    "color": "aeb42b53 05d43ce6 d53f9f02 b64646da 6281ef08",
    "contrast": "ae2489df d2f5805a 2f1e0856 c99bbfee 2ab39175",
    "brightness": "db6bde0f d814b886 4fa39663 6ced2e9b 861ea505",
    "shear_x": "d3842bad d3842bad 42597135 80e702d0 d12da9ac e8fee441 943f8f27 aae7f51f eb6fe55c 978b2913",
    "shear_y": "d3842bad d3842bad 0047a1d8 618886ca d5e85cef c469de21 14d89f1a 537fbbc9 f08c12f8 88f423f9",
    "translate_x": "d3842bad d3842bad d96073b7 7a2c9e8d 9a75e31b 9a75e31b 9a75e31b 9a75e31b 9a75e31b 9a75e31b",
    "translate_y": "d3842bad d3842bad 391b4ff1 939685d2 9a75e31b 9a75e31b 9a75e31b 9a75e31b 9a75e31b 9a75e31b",
    "cutout": "d3842bad 4b805601 9a75e31b 9a75e31b 9a75e31b",
    "solarize_add": "d3842bad cef75f40 1342cb99 cab4f42f 27d72f1c",
}


def fixed_image() -> np.ndarray:
    y, x, c = np.mgrid[0:19, 0:26, 0:3]
    return ((7 * x + 5 * y + 31 * c + (x * y) % 17 * 4) % 211 + 20 + c).astype(np.uint8)


def crc(image: np.ndarray) -> str:
    return f"{zlib.crc32(image.tobytes()):08x}"


@pytest.mark.parametrize("name", REFERENCE)
def test_an_op_is_that_of_the_reference_to_the_last_bit(name):
    wanted = REFERENCE[name].split()
    signs = (0.0, 0.75) if len(wanted) == 10 else (0.75,)
    image = fixed_image()
    found = [
        crc(ra.OPS[name](image, magnitude / 10, (sign, 0.3, 0.8)))
        for magnitude in (0, 1, 10, 15, 20)
        for sign in signs
    ]
    assert found == wanted


def test_there_are_the_sixteen_ops_in_the_order_of_the_reference():
    assert {*REFERENCE, "sharpness"} == set(ra.NAMES)
    assert len(ra.NAMES) == 16
    assert ra.NAMES[:3] == ("autocontrast", "equalize", "invert")
    assert ra.NAMES[-2:] == ("cutout", "solarize_add")


@pytest.mark.parametrize("image", [PICTURE, NOISE], ids=["picture", "noise"])
class TestPillow:
    """Where Pillow has the same definition."""

    def test_the_same_levels(self, image):
        whole = Image.fromarray(image)
        assert np.array_equal(ra.invert(image), np.asarray(ImageOps.invert(whole)))
        assert np.array_equal(ra.equalize(image), np.asarray(ImageOps.equalize(whole)))
        for bits in range(1, 9):
            assert np.array_equal(ra.posterize(image, bits), ImageOps.posterize(whole, bits))
        for threshold in (0, 1, 128, 255):
            assert np.array_equal(
                ra.solarize(image, threshold), ImageOps.solarize(whole, threshold)
            )
        for factor in FACTORS:
            wanted = ImageEnhance.Brightness(whole).enhance(factor)
            assert np.array_equal(ra.brightness(image, factor), wanted)

    def test_within_a_level_or_its_multiple(self, image):
        """Pillow stretches in float64, rounds its smoothing to nearest and has another grey."""
        whole = Image.fromarray(image)
        assert farthest(ra.autocontrast(image), ImageOps.autocontrast(whole)) <= 1
        for factor in FACTORS:
            bound = 1 + math.ceil(abs(1 - factor))
            assert (
                farthest(ra.color(image, factor), ImageEnhance.Color(whole).enhance(factor))
                <= bound
            )
            wanted = ImageEnhance.Sharpness(whole).enhance(factor)
            assert farthest(ra.sharpness(image, factor), wanted) <= bound

    def test_moved(self, image):
        whole = Image.fromarray(image)
        fill = (ra.FILL,) * 3
        for by in (-50, -3, 0, 1, 7, 100):
            for found, matrix in (
                (ra.translate_x(image, by), (1, 0, by, 0, 1, 0)),
                (ra.translate_y(image, by), (1, 0, 0, 0, 1, by)),
            ):
                wanted = whole.transform(whole.size, Image.Transform.AFFINE, matrix, fillcolor=fill)
                assert np.array_equal(found, np.asarray(wanted))
        for degrees in (-60, -30, -3, 0, 45, 30):
            wanted = np.asarray(whole.rotate(degrees, fillcolor=fill))
            assert (ra.rotate(image, degrees) == wanted).all(2).mean() > 0.97  # but for ties


def farthest(one: np.ndarray, other: object) -> int:
    return int(np.abs(one.astype(int) - np.asarray(other).astype(int)).max())


def by_pixels(image: np.ndarray, level_of) -> np.ndarray:
    """`level_of(row, column, channel)` for every place."""
    return np.array(
        [
            [[level_of(y, x, c) for c in range(3)] for x in range(image.shape[1])]
            for y in range(image.shape[0])
        ],
        np.uint8,
    )


def blended(grey: float, level: int, factor: float) -> int:
    return int(min(max(grey + factor * (level - grey), 0), 255))


def test_equalize_is_pillows_rule_written_out():
    image = PICTURE
    tables = []
    for c in range(3):
        counts = [int((image[..., c] == level).sum()) for level in range(256)]
        last = [count for count in counts if count][-1]
        step = (sum(counts) - last) // 255
        below = [sum(counts[:level]) for level in range(256)]
        tables.append(
            [min((step // 2 + n) // step, 255) if step else i for i, n in enumerate(below)]
        )
    wanted = by_pixels(image, lambda y, x, c: tables[c][image[y, x, c]])
    assert np.array_equal(ra.equalize(image), wanted)


def test_contrast_is_about_the_number_of_pixels_over_256():
    for image, grey in ((PICTURE, 40 * 31 // 256), (np.full((300, 300, 3), 7, np.uint8), 255)):
        for factor in (0.1, 0.75, 1.0, 1.75, 2.5):
            table = np.array([blended(grey, level, factor) for level in range(256)])
            assert farthest(ra.contrast(image, factor), table[image]) <= 1  # float32
    assert ra.contrast(np.full((224, 224, 3), 9, np.uint8), 0.0)[0, 0, 0] == 196


def test_sharpness_smooths_by_thirteenths_and_keeps_the_border():
    image = NOISE.astype(int)
    height, width = image.shape[:2]

    def smooth(y: int, x: int, c: int) -> int:
        if y in (0, height - 1) or x in (0, width - 1):
            return image[y, x, c]
        around = image[y - 1 : y + 2, x - 1 : x + 2, c].sum()
        return (around + 4 * image[y, x, c]) // 13

    assert np.array_equal(ra.sharpness(NOISE, 0.0), by_pixels(NOISE, smooth))
    for factor in FACTORS:
        wanted = by_pixels(NOISE, lambda y, x, c: blended(smooth(y, x, c), image[y, x, c], factor))  # noqa: B023
        assert farthest(ra.sharpness(NOISE, factor), wanted) <= 1  # float32
    assert np.array_equal(ra.sharpness(NOISE[:2], 3.0), NOISE[:2])  # nothing but border


def test_shears_are_exact_but_where_float32_rounds():
    for image in (PICTURE, NOISE):
        height, width = image.shape[:2]
        for level in (Fraction(3, 10), Fraction(-1, 4), Fraction(3, 5), Fraction(0)):

            def shown(y: int, x: int, at: tuple[Fraction, Fraction], image=image) -> np.ndarray:
                row, column = (math.floor(a + Fraction(1, 2)) for a in at)
                inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
                return image[row, column] if inside else np.full(3, 128, np.uint8)

            places = [(y, x) for y in range(height) for x in range(width)]
            for op, source in (
                (ra.shear_x, lambda y, x, s=level: (Fraction(y), x + s * y)),
                (ra.shear_y, lambda y, x, s=level: (y + s * x, Fraction(x))),
            ):
                wanted = np.array([shown(y, x, source(y, x)) for y, x in places])
                found = op(image, float(level)).reshape(-1, 3)
                assert (found == wanted).all(1).mean() > 0.98
                if level.denominator in (1, 4):  # float32 holds it: ties are ties
                    ties = np.array([sum(source(y, x)) % 1 == Fraction(1, 2) for y, x in places])
                    assert (found == wanted)[~ties].all()


def test_autocontrast_leaves_an_even_channel_alone():
    image = NOISE.copy()
    image[..., 1] = 77
    image[..., 2] = np.clip(image[..., 2], 50, 60)
    found = ra.autocontrast(image)
    assert (found[..., 1] == 77).all()
    assert (found[..., 2].min(), found[..., 2].max()) == (0, 255)


def test_solarize_add_and_cutout_by_definition():
    wanted = np.where(NOISE < 128, np.minimum(NOISE.astype(int) + 55, 255), NOISE)
    assert np.array_equal(ra.solarize_add(NOISE, 55), wanted)
    cut = ra.cutout(NOISE, 4, (1, 20))
    inside = np.zeros(NOISE.shape[:2], bool)
    inside[0:5, 16:23] = True
    assert (cut[inside] == 128).all()
    assert np.array_equal(cut[~inside], NOISE[~inside])
    assert np.array_equal(ra.cutout(NOISE, 0, (3, 3)), NOISE)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    magnitude=st.integers(0, 22),
    layers=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_image_stays_an_image_and_the_input_is_not_touched(size, magnitude, layers, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    before, drawn = image.copy(), rng.random((layers, ra.DRAWS))
    found = ra.randaugment(image, drawn, magnitude)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)
    assert np.array_equal(found, ra.randaugment(image, drawn, magnitude))


def test_layers_are_ops_one_after_the_other():
    at = {name: (number + 0.5) / 16 for number, name in enumerate(ra.NAMES)}
    drawn = np.array([[at["translate_x"], 0.9, 0, 0], [at["invert"], 0, 0, 0]])
    wanted = 255 - ra.translate_x(PICTURE, 10)
    assert np.array_equal(ra.randaugment(PICTURE, drawn, 1), wanted)
    assert np.array_equal(ra.randaugment(PICTURE, drawn[:1], 1)[0, 0], PICTURE[0, 10])
    drawn[0, 1] = 0.4
    assert np.array_equal(ra.randaugment(PICTURE, drawn[:1], 1)[0, 10], PICTURE[0, 0])


def test_ops_and_signs_are_drawn_evenly_and_independently_of_each_other(monkeypatch):
    seen = []
    for name in ra.NAMES:
        keep = lambda image, level, drawn, name=name: seen.append((name, drawn)) or image  # noqa: E731
        monkeypatch.setitem(ra.OPS, name, keep)
    streams = SampleStreams("randaugment", 3)
    for sample in range(8000):
        ra.randaugment(NOISE, streams.at(0, sample).random((2, ra.DRAWS)), 10)
    assert len(seen) == 16000  # every layer does something
    ops = np.array([ra.NAMES.index(name) for name, _ in seen]).reshape(-1, 2)
    pairs = np.bincount(ops[:, 0] * 16 + ops[:, 1], minlength=256)
    spread = ((pairs - 31.25) ** 2 / 31.25).sum()  # chi-squared with 255 degrees: 255 +- 22.6
    assert abs(spread - 255) < 5 * 22.6
    for column in np.array([drawn for _, drawn in seen]).T:
        assert abs(column.mean() - 0.5) < 5 / math.sqrt(12 * 16000)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    return packed(tmp_path_factory.mktemp("data") / "d", 30, shard_samples=7)


def views(shards: ShardSet, images: int, **settings) -> tuple[list[int], np.ndarray, list[int]]:
    """Sample ids, views [n, H, W, 3] and epochs of this rank's first `images`."""
    loader = loader_of(shards, **settings)
    ids, pixels, epochs = [], [], []
    for batch in loader.batches(0):
        ids += batch.ids.tolist()
        epochs += batch.epochs.tolist()
        pixels.append(batch.images.permute(0, 2, 3, 1).numpy().copy())
        if len(ids) >= images:
            break
    loader.close()
    return ids, np.concatenate(pixels), epochs


@pytest.mark.parametrize("decode", ["auto", "pillow"])
def test_views_are_those_without_it_and_then_its_ops(shards, decode):
    """Crops and flips stay as they are: RandAugment comes last, from a stream of (seed, epoch, sample) of its own."""
    ids, plain, epochs = views(shards, 72, decode=decode)
    also, found, _ = views(shards, 72, decode=decode, randaugment=(2, 10))
    assert ids == also
    streams = SampleStreams("randaugment", 5)
    for key, one, other in zip(zip(epochs, ids, strict=True), plain, found, strict=True):
        drawn = streams.at(*key).random((2, ra.DRAWS))
        assert np.array_equal(ra.randaugment(one, drawn, 10), other)
    assert sum(np.array_equal(*pair) for pair in zip(plain, found, strict=True)) < 10


@pytest.mark.parametrize(("world", "threads"), [(1, 3), (2, 1), (3, 2)])
def test_views_depend_on_neither_ranks_nor_threads(shards, world, threads):
    ids, whole, _ = views(shards, 72, randaugment=(2, 15))
    wanted = dict(zip(zip(ids, range(72), strict=True), whole, strict=True))
    for rank in range(world):
        own, pixels, _ = views(
            shards, 72 // world, randaugment=(2, 15), place=Place(rank, world), threads=threads
        )
        share = 12 // world
        places = [p for p in range(72) if rank * share <= p % 12 < (rank + 1) * share]
        for key, view in zip(zip(own, places, strict=True), pixels, strict=True):
            assert np.array_equal(view, wanted[key])


@pytest.mark.parametrize("value", [[2], [0, 10], [2, 23], [2, -1], [2, 10.5], "on"])
def test_other_settings_are_refused(value):
    with pytest.raises(ValueError, match="randaugment"):
        DataConfig.model_validate({"train": "x", "randaugment": value}, strict=False)


def test_a_recipe_names_layers_and_magnitude():
    read = DataConfig.model_validate_json('{"train": "x", "randaugment": [2, 0]}')
    assert read.randaugment == (2, 0)
