"""Crops have the stated area and aspect, and follow from (seed, epoch, sample) alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.data.corpora import image_file
from vitscale.config.data import DataConfig
from vitscale.data.augment import center_box, center_view, inception_box, train_view
from vitscale.data.decode import decode
from vitscale.data.random_keys import SampleStreams, generator

IMAGE = decode(image_file(size=(60, 40)))


def config(**settings) -> DataConfig:
    return DataConfig(train="x", **settings)


def test_inception_boxes_have_the_stated_area_and_aspect():
    rng = generator("test", 0)
    boxes = np.array([inception_box((400, 300), (0.05, 1.0), rng) for _ in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 400).all()
    assert (boxes[:, 3] <= 300).all()
    share, aspect = width * height / 120_000, width / height
    assert 0.045 < share.min() < 0.08
    assert share.max() > 0.9
    assert 0.72 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.38
    assert abs(np.log(aspect).mean()) < 0.03


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_odd_images_still_give_a_box_inside(size):
    rng = generator("test", 1)
    for _ in range(50):
        left, upper, right, lower = inception_box(size, (0.05, 1.0), rng)
        assert 0 <= left < right <= size[0]
        assert 0 <= upper < lower <= size[1]


def test_the_central_box_has_the_aspect_of_the_target():
    assert center_box((60, 40), (8, 8)) == (10, 0, 50, 40)
    assert center_box((40, 60), (8, 8)) == (0, 10, 40, 50)
    assert center_box((60, 40), (10, 20)) == (0, 5, 60, 35)
    assert center_box((28, 28), (7, 7)) == (0, 0, 28, 28)


def test_center_of_a_square_image_is_a_plain_resize():
    square = decode(image_file(size=(30, 30)))
    plain = square.resize((10, 10), Image.Resampling.BILINEAR)
    assert center_view(square, (10, 10)).tobytes() == plain.tobytes()


def test_resizing_a_box_is_resizing_the_cropped_image():
    view = train_view(IMAGE, generator("x", 0), config(crop="center", flip=False), (10, 10))
    cropped = IMAGE.crop((10, 0, 50, 40)).resize((10, 10), Image.Resampling.BILINEAR)
    difference = (np.asarray(view).astype(int) - np.asarray(cropped))[1:-1, 1:-1]
    assert np.abs(difference).max() <= 1  # at its border a view also averages over pixels outside


def test_flip_mirrors_half_of_the_images():
    plain = train_view(IMAGE, generator("x", 0), config(crop="none", flip=False), (10, 10))
    streams = SampleStreams("augment", 0)
    views = [train_view(IMAGE, streams.at(0, n), config(crop="none"), (10, 10)) for n in range(400)]
    mirrored = [np.asarray(view)[:, ::-1].tobytes() == plain.tobytes() for view in views]
    assert all(m or v.tobytes() == plain.tobytes() for m, v in zip(mirrored, views, strict=True))
    assert 150 < sum(mirrored) < 250


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
