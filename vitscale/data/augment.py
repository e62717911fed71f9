"""Which part of an image a view shows, for many images at once: pure functions of sizes and random numbers.

What an image gets follows from its own row alone, so a batch may be cut into any parts. An image whose size is not
known, (0, 0), gets the empty box, which no decoder accepts.
"""

from __future__ import annotations

import math

import numpy as np

from vitscale.config.data import DataConfig
from vitscale.data.random_keys import SampleStreams

ASPECT = (3 / 4, 4 / 3)
"""Width over height of an inception crop (arXiv 1409.4842, section 6)."""
ATTEMPTS = 10
DRAWS = 1 + 2 * ATTEMPTS + 2
"""Uniform numbers an image: whether it is mirrored; area and aspect of each attempt; place of the crop."""


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
    elif config.crop == "center":
        boxes = center_boxes(sizes, out_size)
    else:
        boxes = whole_boxes(sizes)
    return boxes, (drawn[:, 0] < 0.5) & config.flip


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


def center_boxes(sizes: np.ndarray, out_size: tuple[int, int]) -> np.ndarray:
    """The largest central box with the aspect of `out_size` (height, width) of each image, int32 [n, 4]."""
    aspect = out_size[1] / out_size[0]
    return _central(sizes, (aspect, aspect))


def whole_boxes(sizes: np.ndarray) -> np.ndarray:
    """All of each image, int32 [n, 4]; `sizes` int32 [n, 2]."""
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1, dtype=np.int32)


def _central(sizes: np.ndarray, aspects: tuple[float, float]) -> np.ndarray:
    """The largest central box whose aspect is nearest to that of the image within `aspects`, int32 [n, 4]."""
    width, height = sizes.astype(np.int64).T
    aspect = np.clip(width / np.maximum(height, 1), *aspects)
    w = np.clip(np.rint(height * aspect).astype(np.int64), np.minimum(width, 1), width)
    h = np.clip(np.rint(width / aspect).astype(np.int64), np.minimum(height, 1), height)
    left, upper = (width - w) // 2, (height - h) // 2
    return np.stack([left, upper, left + w, upper + h], axis=1).astype(np.int32)
