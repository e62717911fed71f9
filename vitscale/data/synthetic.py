"""A small data set made of nothing: coloured gratings that a model of any size can learn to tell apart.

For tests, benches and smoke runs. A class is a hue and a direction; phase, contrast and noise vary.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vitscale.data.random_keys import generator
from vitscale.data.samples import Sample, Split
from vitscale.data.shards import ShardSet, open_shards
from vitscale.data.write import pack

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


def synthetic_split(
    samples: int, classes: int = 10, *, side_px: int = 32, seed: int = 0, format: str = "PNG"
) -> Split:
    """`samples` images of `side_px` x `side_px`, label i % classes."""
    names = tuple(f"grating-{label}" for label in range(classes))
    return Split(names, _samples(samples, classes, side_px, seed, format))


def _samples(samples: int, classes: int, side_px: int, seed: int, format: str) -> Iterator[Sample]:
    for number in range(samples):
        label = number % classes
        image = grating(label, classes, side_px, generator("synthetic", seed, number))
        buffer = io.BytesIO()
        image.save(buffer, format)
        yield Sample(f"{number:06d}", EXTENSIONS[format], buffer.getvalue(), label)


def grating(label: int, classes: int, side_px: int, rng: np.random.Generator) -> Image.Image:
    """One image of class `label`: stripes of the class's hue in the class's direction."""
    angle = np.pi * label / classes
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    along = x * np.cos(angle) + y * np.sin(angle)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (3 * along + rng.random())) * rng.uniform(0.5, 1.0)
    colour = np.array(colorsys.hsv_to_rgb(label / classes, 0.8, 1.0))
    pixels = wave[..., None] * colour + rng.normal(0, 0.05, (side_px, side_px, 3))
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def synthetic_shards(
    folder: str | Path, samples: int, classes: int = 10, *, side_px: int = 32, seed: int = 0
) -> ShardSet:
    """Pack a synthetic data set into `folder` (about eight shards) and open it."""
    split = synthetic_split(samples, classes, side_px=side_px, seed=seed)
    pack(split, folder, seed=seed, shard_samples=max(1, -(-samples // 8)))
    return open_shards(folder)
