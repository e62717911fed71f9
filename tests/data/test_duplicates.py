"""Copies of an image are found however they were made over, and other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.data.corpora import encoded
from vitscale.data.duplicates import DISTANCE, alike, find_duplicates, perceptual_hash
from vitscale.data.pieces import local_pieces
from vitscale.data.samples import Sample, Split
from vitscale.data.write import pack
from vitscale.errors import ConfigError


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Patches of colour at all scales, about as detailed as a photograph."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    for side, weight in ((4, 0.5), (9, 0.4), (24, 0.3)):
        patches = rng.integers(0, 256, (side, side, 3), np.uint8)
        layer = Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)
        image = Image.blend(image, layer, weight)
    return image


def as_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return encoded(image, "JPEG", quality=quality)


COPIES = {
    "re-encoded": lambda image: as_jpeg(image, 40),
    "PNG": lambda image: encoded(image, "PNG"),
    "WebP": lambda image: encoded(image, "WEBP", quality=60),
    "halved": lambda image: as_jpeg(image.resize((80, 60))),
    "enlarged": lambda image: as_jpeg(image.resize((480, 360), Image.Resampling.BICUBIC)),
    "squeezed": lambda image: as_jpeg(image.resize((64, 64))),
    "cropped by a hundredth at each side": lambda image: as_jpeg(image.crop((2, 1, 158, 119))),
    "blurred": lambda image: as_jpeg(image.filter(ImageFilter.GaussianBlur(1.5))),
    "brightened": lambda image: as_jpeg(image.point(lambda value: min(255, int(value * 1.15)))),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_within_the_distance(copy):
    for seed in range(20):
        original, other = perceptual_hash(as_jpeg(scene(seed))), COPIES[copy](scene(seed))
        assert bin(original ^ perceptual_hash(other)).count("1") <= DISTANCE


def test_unrelated_images_are_half_of_all_bits_apart():
    hashes = np.array([perceptual_hash(as_jpeg(scene(seed))) for seed in range(200)], np.uint64)
    pairs = [bits for row, column, bits in alike(hashes, hashes, 64) if row < column]
    assert len(pairs) == 200 * 199 // 2
    assert 30 < np.mean(pairs) < 34
    assert min(pairs) > DISTANCE


def test_all_pairs_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 2**63, 50, np.uint64)
    theirs = np.concatenate(
        [ours[::3] ^ np.uint64(2**40 + 3), rng.integers(0, 2**63, 20, np.uint64)]
    )
    wanted = [
        (row, column, bits)
        for row, a in enumerate(ours.tolist())
        for column, b in enumerate(theirs.tolist())
        if (bits := (a ^ b).bit_count()) <= 20
    ]
    assert list(alike(ours, theirs, 20)) == wanted
    assert len(wanted) >= 17
    assert list(alike(ours, theirs[:0], 20)) == []


def test_without_numpy_2_bits_are_counted_by_table(monkeypatch):
    ours = np.random.default_rng(0).integers(0, 2**63, 30, np.uint64)
    wanted = list(alike(ours, ours, 25))
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert list(alike(ours, ours, 25)) == wanted


def packed_scenes(folder, images: dict[str, bytes]):
    samples = [Sample(key, "jpg", data, 0) for key, data in images.items()]
    pack(Split(("x",), samples), folder, shard_samples=5)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_duplicates_are_named_by_shard_and_key(tmp_path, workers):
    grey = as_jpeg(Image.new("RGB", (50, 50), "grey"))
    ours = {f"a/{n}": as_jpeg(scene(n)) for n in range(12)} | {
        "flat": grey,
        "bad": b"\xff\xd8\xffx",
    }
    theirs = {f"b/{n}": as_jpeg(scene(n).resize((90, 70)), 60) for n in (3, 8, 77)} | {"flat": grey}
    packed_scenes(tmp_path / "a", ours)
    packed_scenes(tmp_path / "b", theirs)
    found = find_duplicates(tmp_path / "a", tmp_path / "b", pieces=local_pieces(workers))
    assert {(m.key, m.other_key) for m in found.matches} == {("a/3", "b/3"), ("a/8", "b/8")}
    assert (found.compared, found.plain, found.undecodable) == ((12, 3), 2, 1)
    for match in found.matches:
        assert match.key in keys_of_tar(tmp_path / "a" / match.shard)
        assert match.other_key in keys_of_tar(tmp_path / "b" / match.other_shard)


def keys_of_tar(path) -> set[str]:
    import tarfile

    with tarfile.open(path) as tar:
        return {name.partition(".")[0] for name in tar.getnames()}


def test_a_distance_at_which_anything_matches_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--distance.*given: 21"):
        find_duplicates(tmp_path, tmp_path, distance=21)


def test_the_hash_is_the_textbook_cosine_transform():
    from scipy.fft import dctn

    data = encoded(scene(1, (32, 32)).convert("L"), "PNG")
    pixels = np.asarray(Image.open(io.BytesIO(data)), float)
    spectrum = dctn(pixels)
    lowest = sorted((u + v, u) for u in range(12) for v in range(12))[1:65]
    values = np.array([spectrum[u, both - u] for both, u in lowest])
    # scipy scales both axes alike but for the frequency 0, which `norm=None` leaves as it is
    bits = values > np.median(values)
    assert perceptual_hash(data) == int("".join("01"[int(bit)] for bit in bits), 2)
