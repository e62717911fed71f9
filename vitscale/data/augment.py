"""What happens to a decoded image before it enters a batch: pure functions of (image, random stream).

Resizing is Pillow's bilinear filter, which averages over the source when it shrinks (antialias).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from vitscale.config.data import DataConfig

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""

ASPECT = (3 / 4, 4 / 3)
"""Width over height of an inception crop (arXiv 1409.4842, section 6)."""
_ATTEMPTS = 10


def train_view(
    image: Image.Image, rng: np.random.Generator, config: DataConfig, size: tuple[int, int]
) -> Image.Image:
    """Crop, resize to `size` (height, width) and perhaps mirror; the draws do not depend on `size`."""
    mirrored = config.flip and rng.random() < 0.5
    if config.crop == "inception":
        box = inception_box(image.size, config.crop_area, rng)
    elif config.crop == "center":
        box = center_box(image.size, size)
    else:
        box = (0, 0, *image.size)
    view = resized(image, box, size)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else view


def center_view(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The central part with the aspect of `size`, resized; all of an image that has that aspect."""
    return resized(image, center_box(image.size, size), size)


def resized(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """The pixels of `box`, resized to `size` (height, width)."""
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def inception_box(
    image_size: tuple[int, int], area: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box of random area share and aspect inside an image of (width, height).

    Of ten draws the first that fits is placed at random; if none fits, the central box of nearest
    aspect is taken.
    """
    width, height = image_size
    shares = rng.uniform(area[0], area[1], _ATTEMPTS)
    aspects = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), _ATTEMPTS))
    for share, aspect in zip(shares.tolist(), aspects.tolist(), strict=True):
        w = round(math.sqrt(share * width * height * aspect))
        h = round(math.sqrt(share * width * height / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            upper = int(rng.integers(0, height - h + 1))
            return left, upper, left + w, upper + h
    aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
    return _central(image_size, aspect)


def center_box(image_size: tuple[int, int], size: tuple[int, int]) -> Box:
    """The largest central box with the aspect of `size` (height, width)."""
    return _central(image_size, size[1] / size[0])


def _central(image_size: tuple[int, int], aspect: float) -> Box:
    width, height = image_size
    w = max(1, min(width, round(height * aspect)))
    h = max(1, min(height, round(width / aspect)))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h
