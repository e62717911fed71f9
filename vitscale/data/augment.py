"""Which part of an image a view shows, for many images at once: pure functions of sizes and random numbers.

What an image gets follows from its own row alone, so a batch may be cut into any parts. An image whose size is not
known, (0, 0), gets the empty box, which no decoder accepts.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from vitscale.config.data import DataConfig
from vitscale.data.random_keys import SampleStreams

ASPECT = (3 / 4, 4 / 3)
"""Width over height of an inception crop (arXiv 1409.4842, section 6)."""
TF_ASPECT = (0.75, 1.33)
"""The same as big_vision hands it to TensorFlow."""
ATTEMPTS = 10
DRAWS = 1 + 2 * ATTEMPTS + 2
"""Uniform numbers an image: whether it is mirrored; area and aspect of each attempt; place of the crop."""


class View(NamedTuple):
    """What an evaluation shows of an image."""

    crop: Literal["center", "none"] = "center"
    """The largest central part with the aspect of the view, or the whole image, squeezed."""
    resize_px: int | None = None
    """Of that only what the view covers once the shorter side, with "none" both sides, were resized to this."""


def draws(streams: SampleStreams, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The random numbers of each sample in its epoch, float64 [n, DRAWS] in [0, 1); epochs and ids int64 [n].

    A fixed number whatever they are used for, so that a change of size or crop leaves the rest as it is.
    """
    drawn = np.empty((len(ids), DRAWS))
    for row, epoch, sample in zip(drawn, epochs.tolist(), ids.tolist(), strict=True):
        streams.at(epoch, sample).random(out=row)
    return drawn


def train_boxes(
    sizes: np.ndarray, drawn: np.ndarray, config: DataConfig, out_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What training shows of each image.

    Args:
        sizes: int32 [n, 2], width and height.
        drawn: from `draws`.
        config: crop, its area, and whether views may be mirrored.
        out_size: height and width of the views, whose aspect the central crop takes.

    Returns:
        Boxes int32 [n, 4] of left, upper, right, lower, and which views are mirrored, bool [n].
    """
    if config.crop == "inception":
        boxes = inception_boxes(sizes, drawn[:, 1:], config.crop_area)
    elif config.crop == "inception-tf":
        boxes = tf_inception_boxes(sizes, drawn[:, 1:], config.crop_area)
    elif config.crop == "random":
        assert config.resize_px is not None, "a random part needs a size"
        boxes = _parts(sizes, out_size, _short_sides(sizes) / config.resize_px, drawn[:, -2:])
    else:
        boxes = view_boxes(sizes, out_size, View(config.crop, config.resize_px))
    return boxes, (drawn[:, 0] < 0.5) & config.flip


def view_boxes(sizes: np.ndarray, out_size: tuple[int, int], view: View) -> np.ndarray:
    """What an evaluation shows of each image, int32 [n, 4]; `sizes` int32 [n, 2], `out_size` height and width."""
    if view.resize_px is None:
        return center_boxes(sizes, out_size) if view.crop == "center" else whole_boxes(sizes)
    lengths = _short_sides(sizes) if view.crop == "center" else sizes
    return _parts(sizes, out_size, lengths / view.resize_px, None)


def inception_boxes(sizes: np.ndarray, drawn: np.ndarray, area: tuple[float, float]) -> np.ndarray:
    """Boxes of random share of the image area and random aspect, int32 [n, 4].

    Of ten attempts the first that fits is placed at random; if none fits, the central box of nearest aspect is taken.

    Args:
        sizes: int32 [n, 2], width and height.
        drawn: float64 [n, 22] in [0, 1): shares, aspects, place.
        area: smallest and largest share.
    """
    width, height = sizes.astype(np.float64).T
    shares = area[0] + drawn[:, :ATTEMPTS] * (area[1] - area[0])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspects = np.exp(low + drawn[:, ATTEMPTS : 2 * ATTEMPTS] * (high - low))
    pixels = shares * (width * height)[:, None]
    w, h = np.rint(np.sqrt(pixels * aspects)), np.rint(np.sqrt(pixels / aspects))
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    rows, first = np.arange(len(sizes)), fits.argmax(1)
    w, h = w[rows, first], h[rows, first]
    left = np.floor(drawn[:, -2] * (width - w + 1))
    upper = np.floor(drawn[:, -1] * (height - h + 1))
    placed = np.stack([left, upper, left + w, upper + h], axis=1)
    return np.where(fits.any(1)[:, None], placed, _central(sizes, ASPECT)).astype(np.int32)


def tf_inception_boxes(
    sizes: np.ndarray, drawn: np.ndarray, area: tuple[float, float]
) -> np.ndarray:
    """Boxes as TensorFlow's `sample_distorted_bounding_box` draws them, int32 [n, 4]; arguments as `inception_boxes`.

    The aspect is drawn evenly, then the height between those of smallest and largest area that fit: small boxes are
    more frequent than with an evenly drawn area. If no attempt fits, the whole image is taken. TensorFlow tries a
    hundred times, not ten, and never places a box at the very end of a side.
    """
    width, height = sizes.astype(np.float64).T[:, :, None]
    least, most = area[0] * width * height, area[1] * width * height
    aspects = TF_ASPECT[0] + drawn[:, ATTEMPTS : 2 * ATTEMPTS] * (TF_ASPECT[1] - TF_ASPECT[0])
    tallest = np.minimum(np.rint(np.sqrt(most / aspects)), np.floor((width + 0.5) / aspects))
    tallest = np.minimum(tallest, height)
    lowest = np.minimum(np.rint(np.sqrt(least / aspects)), tallest)
    h = lowest + np.floor(drawn[:, :ATTEMPTS] * (tallest - lowest + 1))
    h += h * np.rint(h * aspects) < least  # what rounding to whole pixels took or gave
    h -= h * np.rint(h * aspects) > most
    w = np.rint(h * aspects)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height) & (w * h >= least) & (w * h <= most)
    rows, first = np.arange(len(sizes)), fits.argmax(1)
    sides = np.stack([w[rows, first], h[rows, first]], axis=1)
    begin = np.floor(drawn[:, -2:] * (sizes - sides + 1))
    placed = np.concatenate([begin, begin + sides], axis=1)
    return np.where(fits.any(1)[:, None], placed, whole_boxes(sizes)).astype(np.int32)


def center_boxes(sizes: np.ndarray, out_size: tuple[int, int]) -> np.ndarray:
    """The largest central box with the aspect of `out_size` (height, width) of each image, int32 [n, 4]."""
    aspect = out_size[1] / out_size[0]
    return _central(sizes, (aspect, aspect))


def whole_boxes(sizes: np.ndarray) -> np.ndarray:
    """All of each image, int32 [n, 4]; `sizes` int32 [n, 2]."""
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1, dtype=np.int32)


def _short_sides(sizes: np.ndarray) -> np.ndarray:
    """The shorter side of each image, twice, [n, 2]."""
    return np.repeat(sizes.min(1, keepdims=True), 2, axis=1)


def _parts(
    sizes: np.ndarray, out_size: tuple[int, int], scales: np.ndarray, drawn: np.ndarray | None
) -> np.ndarray:
    """Boxes of `out_size` times `scales`, to whole pixels, int32 [n, 4]; `scales` and `drawn` [n, 2] for x and y.

    Each is placed by its numbers in [0, 1), or in the middle without them.
    """
    sides = np.rint(np.array(out_size[::-1]) * scales).astype(np.int64)
    sides = np.clip(sides, np.minimum(sizes, 1), sizes)
    free = sizes - sides
    first = free // 2 if drawn is None else np.floor(drawn * (free + 1)).astype(np.int64)
    return np.concatenate([first, first + sides], axis=1).astype(np.int32)


def _central(sizes: np.ndarray, aspects: tuple[float, float]) -> np.ndarray:
    """The largest central box whose aspect is nearest to that of the image within `aspects`, int32 [n, 4]."""
    width, height = sizes.astype(np.int64).T
    aspect = np.clip(width / np.maximum(height, 1), *aspects)
    w = np.clip(np.rint(height * aspect).astype(np.int64), np.minimum(width, 1), width)
    h = np.clip(np.rint(width / aspect).astype(np.int64), np.minimum(height, 1), height)
    left, upper = (width - w) // 2, (height - h) // 2
    return np.stack([left, upper, left + w, upper + h], axis=1).astype(np.int32)
