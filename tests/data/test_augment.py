"""Crops have the stated area and aspect, and follow from (seed, epoch, sample) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from tests.data.jpegs import picture
from vitscale.config.data import DataConfig
from vitscale.data.augment import (
    ATTEMPTS,
    DRAWS,
    View,
    center_boxes,
    draws,
    inception_boxes,
    tf_inception_boxes,
    train_boxes,
    view_boxes,
    whole_boxes,
)
from vitscale.data.random_keys import SampleStreams

ODD_SIZES = [(0, 0), (1, 1), (1, 500), (500, 1), (3, 2), (65535, 65535), (500, 375), (375, 500)]


def config(**settings) -> DataConfig:
    return DataConfig(train="x", **settings)


def sizes_of(*sizes: tuple[int, int]) -> np.ndarray:
    return np.array(sizes, np.int32)


def drawn(count: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    numbers = np.arange(count)
    return draws(SampleStreams("augment", seed), np.full(count, epoch), numbers)


def by_the_formula(
    size: tuple[int, int], numbers: Sequence[float], area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """`RandomResizedCrop.get_params` as torchvision documents it, one image at a time, on given random numbers."""
    width, height = size
    low, high = math.log(3 / 4), math.log(4 / 3)
    for share, place in zip(numbers[:ATTEMPTS], numbers[ATTEMPTS : 2 * ATTEMPTS], strict=True):
        target = width * height * (area[0] + share * (area[1] - area[0]))
        aspect = math.exp(low + place * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(numbers[-2] * (width - w + 1))
            upper = int(numbers[-1] * (height - h + 1))
            return left, upper, left + w, upper + h
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def test_inception_boxes_follow_the_formula():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 700, (3000, 2)).astype(np.int32)
    sizes[:500, 0] = rng.integers(2, 9, 500)  # narrow: most attempts fail
    numbers = drawn(3000)[:, 1:]
    boxes = inception_boxes(sizes, numbers, (0.05, 1.0))
    for size, row, box in zip(sizes.tolist(), numbers.tolist(), boxes.tolist(), strict=True):
        assert tuple(box) == by_the_formula(tuple(size), row, (0.05, 1.0))


def test_inception_boxes_have_the_stated_area_and_aspect():
    boxes = inception_boxes(np.full((4000, 2), (4000, 3000)), drawn(4000)[:, 1:], (0.1, 0.4))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, log_aspect = width * height / 12e6, np.log(width / height)
    # no attempt fails at these shares: both are uniform, and so is the place in what is left
    for values, low, high in (
        (share, 0.1, 0.4),
        (log_aspect, math.log(3 / 4), math.log(4 / 3)),
        (boxes[:, 0] / (4000 - width), 0, 1),
        (boxes[:, 1] / (3000 - height), 0, 1),
    ):
        expected = low + (np.arange(4000) + 0.5) / 4000 * (high - low)
        assert np.abs(np.sort(values) - expected).max() < 0.03 * (high - low)


@pytest.mark.parametrize(
    ("crop", "resize_px"),
    [
        ("inception", None),
        ("inception-tf", None),
        ("center", None),
        ("none", None),
        ("random", 256),
        ("center", 224),
        ("none", 300),
    ],
)
def test_every_size_gives_a_box_inside(crop, resize_px):
    sizes = np.repeat(sizes_of(*ODD_SIZES), 50, axis=0)
    cut = config(crop=crop, resize_px=resize_px)
    boxes, mirrored = train_boxes(sizes, drawn(len(sizes)), cut, (224, 160))
    assert (boxes.dtype, boxes.shape, mirrored.dtype) == (np.int32, (len(sizes), 4), bool)
    known = sizes[:, 0] > 0
    assert not boxes[~known].any()
    left, upper, right, lower = boxes[known].T
    assert ((left >= 0) & (left < right) & (right <= sizes[known, 0])).all()
    assert ((upper >= 0) & (upper < lower) & (lower <= sizes[known, 1])).all()


@pytest.mark.parametrize(
    ("size", "out", "box"),
    [
        ((60, 40), (8, 8), (10, 0, 50, 40)),
        ((40, 60), (8, 8), (0, 10, 40, 50)),
        ((60, 40), (10, 20), (0, 5, 60, 35)),
        ((28, 28), (7, 7), (0, 0, 28, 28)),
        ((1, 900), (5, 5), (0, 449, 1, 450)),
        ((0, 0), (5, 5), (0, 0, 0, 0)),
    ],
)
def test_the_central_box_has_the_aspect_of_the_target(size, out, box):
    assert center_boxes(sizes_of(size), out).tolist() == [list(box)]
    boxes, _ = train_boxes(sizes_of(size), drawn(1), config(crop="center"), out)
    assert boxes.tolist() == [list(box)]


def test_whole_boxes_are_whole():
    assert whole_boxes(sizes_of((60, 40), (0, 0))).tolist() == [[0, 0, 60, 40], [0, 0, 0, 0]]


# 5, 25, 50, 75 and 95 % of 60,000 boxes of TensorFlow 2.15.1 (`sample_distorted_bounding_box`) have at most this
# share of the area and this aspect.
TF_BOXES = {
    ((400, 400), (0.05, 1.0)): (
        (0.0662, 0.158, 0.3321, 0.568, 0.8068),
        (0.7803, 0.8947, 1.0403, 1.184, 1.3005),
    ),
    ((500, 375), (0.05, 1.0)): (
        (0.065, 0.148, 0.3009, 0.5055, 0.7566),
        (0.7784, 0.895, 1.041, 1.1846, 1.301),
    ),
    ((400, 100), (0.05, 1.0)): (
        (0.0552, 0.0855, 0.1326, 0.1886, 0.2632),
        (0.7797, 0.8974, 1.0417, 1.1856, 1.3),
    ),
    ((32, 32), (0.05, 1.0)): (
        (0.0615, 0.1523, 0.332, 0.5801, 0.8213),
        (0.7778, 0.8966, 1.0417, 1.1852, 1.3),
    ),
    ((200, 300), (0.3, 0.5)): (
        (0.307, 0.3444, 0.3942, 0.447, 0.4917),
        (0.7784, 0.8944, 1.0382, 1.1854, 1.3008),
    ),
}


@pytest.mark.parametrize(("size", "area"), TF_BOXES)
def test_tf_inception_boxes_are_spread_as_those_of_tensorflow(size, area):
    numbers = np.random.default_rng(3).random((60000, DRAWS - 1))
    boxes = tf_inception_boxes(np.full((60000, 2), size, np.int32), numbers, area)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    shares = width * height / (size[0] * size[1])
    below = (0.05, 0.25, 0.5, 0.75, 0.95)
    for values, wanted in zip((shares, width / height), TF_BOXES[size, area], strict=True):
        assert np.abs(np.quantile(values, below) - wanted).max() < 0.012
    assert shares.min() >= area[0]
    assert shares.max() <= area[1]
    for first, free in ((boxes[:, 0], size[0] - width), (boxes[:, 1], size[1] - height)):
        assert (first >= 0).all() and (first <= free).all()
        assert abs((first / np.maximum(free, 1))[free > 9].mean() - 0.5) < 0.01


def test_a_tf_inception_box_is_the_whole_image_where_none_fits():
    numbers = np.random.default_rng(3).random((5, DRAWS - 1))
    sizes = np.full((5, 2), (3000, 20), np.int32)
    assert tf_inception_boxes(sizes, numbers, (0.05, 1.0)).tolist() == [[0, 0, 3000, 20]] * 5


def in_the_resized_image(size: tuple[int, int], short_px: int, out: tuple[int, int]) -> list[float]:
    """big_vision's `resize_small(short_px)|central_crop(out)`, and what it covers of the image before."""
    factor = short_px / min(size)
    width, height = (round(side * factor) for side in size)
    left, upper = (width - out[1]) // 2, (height - out[0]) // 2
    return [each / factor for each in (left, upper, left + out[1], upper + out[0])]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (2000, 301), (33, 32)])
@pytest.mark.parametrize(
    ("short_px", "out"), [(256, (224, 224)), (448, (384, 384)), (300, (224, 160))]
)
def test_the_central_part_is_that_of_the_resized_image(size, short_px, out):
    wanted = in_the_resized_image(size, short_px, out)
    boxes = view_boxes(sizes_of(size), out, View("center", short_px))
    pixel = max(1, min(size) / short_px)
    assert np.abs(boxes[0] - wanted).max() <= 0.5 + pixel  # whole pixels here and there
    trained, _ = train_boxes(
        sizes_of(size), drawn(1), config(crop="center", resize_px=short_px), out
    )
    assert trained.tolist() == boxes.tolist()


def test_parts_by_hand():
    assert view_boxes(sizes_of((512, 256)), (224, 224), View("center", 256)).tolist() == [
        [144, 16, 368, 240]
    ]
    assert view_boxes(sizes_of((512, 1024)), (224, 224), View("none", 256)).tolist() == [
        [32, 64, 480, 960]
    ]
    for view in (View("center"), View("center", 224)):
        assert view_boxes(sizes_of((60, 40)), (224, 224), view).tolist() == [[10, 0, 50, 40]]
    for view in (View("none"), View("none", 224)):
        assert view_boxes(sizes_of((60, 40)), (224, 224), view).tolist() == [[0, 0, 60, 40]]


def test_a_view_looks_like_the_image_resized_and_then_cut():
    whole = Image.fromarray(picture(500, 375, 2))
    left, upper, right, lower = view_boxes(sizes_of(whole.size), (224, 224), View("center", 256))[
        0
    ].tolist()
    bilinear = Image.Resampling.BILINEAR
    ours = whole.resize((224, 224), bilinear, box=(left, upper, right, lower))
    resized = whole.resize((round(500 * 256 / 375), 256), bilinear)
    x, y = (resized.width - 224) // 2, 16
    theirs = resized.crop((x, y, x + 224, y + 224))
    apart = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
    elsewhere = np.abs(
        np.asarray(ours).astype(int) - np.asarray(whole.resize((224, 224), bilinear))
    )
    assert apart.mean() < 0.3 * elsewhere.mean()


def test_random_parts_have_one_size_and_lie_anywhere():
    sizes = np.full((4000, 2), (600, 500))
    boxes, mirrored = train_boxes(
        sizes, drawn(4000), config(crop="random", resize_px=448), (384, 384)
    )
    assert set(map(tuple, boxes[:, 2:] - boxes[:, :2])) == {(429, 429)}  # 500 * 384 / 448
    for first, free in ((boxes[:, 0], 600 - 429), (boxes[:, 1], 500 - 429)):
        assert (first.min(), first.max()) == (0, free)
        assert abs(first.mean() - free / 2) < 5 * free / math.sqrt(12 * 4000)
    assert np.array_equal(mirrored, train_boxes(sizes, drawn(4000), config(), (384, 384))[1])


def test_flip_mirrors_half_of_the_images_whatever_the_crop():
    sizes = np.full((4000, 2), 50)
    mirrored = [
        train_boxes(sizes, drawn(4000), config(crop=c), (8, 8))[1] for c in ("none", "center")
    ]
    assert np.array_equal(*mirrored)
    assert 1850 < mirrored[0].sum() < 2150
    assert not train_boxes(sizes, drawn(4000), config(flip=False), (8, 8))[1].any()


def test_a_batch_may_be_cut_into_any_parts():
    sizes = np.random.default_rng(0).integers(1, 600, (90, 2)).astype(np.int32)
    epochs, ids = np.arange(90) % 3, np.arange(90) * 7
    whole = train_boxes(sizes, draws(SampleStreams("a", 1), epochs, ids), config(), (224, 224))
    streams, parts = SampleStreams("a", 1), []
    for part in (slice(40, 90), slice(0, 1), slice(1, 40)):
        numbers = draws(streams, epochs[part], ids[part])
        parts.append(train_boxes(sizes[part], numbers, config(), (224, 224)))
    for all_at_once, (last, first, middle) in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.array_equal(all_at_once, np.concatenate([first, middle, last]))


def test_draws_are_those_of_the_sample_stream():
    expected = SampleStreams("augment", 3).at(5, 11).random(DRAWS)
    numbers = draws(SampleStreams("augment", 3), np.array([4, 5]), np.array([11, 11]))
    assert np.array_equal(numbers[1], expected)
    assert not np.array_equal(numbers[0], expected)
    assert draws(SampleStreams("augment", 3), np.zeros(0, int), np.zeros(0, int)).shape == (
        0,
        DRAWS,
    )


def test_a_stream_follows_from_seed_epoch_and_sample_alone():
    one, other = SampleStreams("augment", 7), SampleStreams("augment", 7)
    other.at(5, 5).random(1001)
    other.at(5, 6).integers(0, 10, 3)
    assert np.array_equal(one.at(2, 9).random(20), other.at(2, 9).random(20))
    first = one.at(2, 9).random()
    different = [one.at(2, 10), one.at(3, 9), one.at(9, 2), SampleStreams("augment", 8).at(2, 9)]
    assert first not in [stream.random() for stream in different]


def test_streams_of_neighbouring_samples_are_unrelated():
    streams = SampleStreams("augment", 0)
    draws = np.array([streams.at(0, sample).random(2) for sample in range(4000)])
    assert np.abs(draws.mean(0) - 0.5).max() < 0.02
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.05
