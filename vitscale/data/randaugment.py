"""RandAugment (arXiv 1909.13719) with big_vision's 16 ops and scale (`pp/archive/autoaugment.py`).

A layer applies one op, drawn evenly; the probabilities that the reference draws beside it are never used there, so
every layer does something. What the reference does at a magnitude, not what it may have meant, is kept, since the
published recipes were found with it: see `posterize`, `solarize` and `contrast`. Every function is pure: uint8
[H, W, 3] in, the same out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from PIL import Image, ImageOps

FILL = 128
"""Level of pixels that show nothing of the image."""
_Row = tuple[float | np.float32, float | np.float32, float | np.float32]
DRAWS = 4
"""Uniform numbers a layer: the op; its sign; row and column of the cutout."""
_MAX_LEVEL = 10.0
_LEVELS = np.arange(256)
_GREY_SHARES = (_LEVELS.astype(np.float32) * np.float32(1 / 255)) * np.array(
    [[0.2989], [0.587], [0.114]], np.float32
)
"""What a level of red, green and blue adds to grey, float32 [3, 256]."""


def randaugment(image: np.ndarray, drawn: np.ndarray, magnitude: int) -> np.ndarray:
    """As many ops as `drawn` has rows, one after the other.

    Args:
        image: uint8 [H, W, 3].
        drawn: float64 [layers, DRAWS] in [0, 1).
        magnitude: of all ops, from 0, which is not nothing, to 22.
    """
    for op, sign, row, column in drawn.tolist():
        name = NAMES[int(op * len(NAMES))]
        image = OPS[name](image, magnitude / _MAX_LEVEL, (sign, row, column))
    return image


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel so that its darkest pixel is 0 and its brightest 255."""
    whole = Image.fromarray(image)
    tables = np.tile(_LEVELS.astype(np.float32), (3, 1))
    extremes = cast("tuple[tuple[int, int], ...]", whole.getextrema())
    for table, (low, high) in zip(tables, extremes, strict=True):
        if high > low:
            scale = np.float32(255) / np.float32(high - low)
            table[:] = table * scale + np.float32(-low) * scale
    return np.asarray(whole.point(_cut(tables).ravel().tolist()))


def equalize(image: np.ndarray) -> np.ndarray:
    """Spread the levels of each channel so that its histogram is as even as it can be."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def invert(image: np.ndarray) -> np.ndarray:
    """255 less each level."""
    return 255 - image


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate about the middle, counterclockwise for positive `degrees`; nearest pixel."""
    height, width = image.shape[:2]
    radians = math.radians(degrees)
    cos, sin = np.array([math.cos(radians), math.sin(radians)], np.float32)
    w, h = np.array([width - 1, height - 1], np.float32)
    x, y = (w - (cos * w - sin * h)) / 2, (h - (sin * w + cos * h)) / 2
    return _mapped(image, (cos, -sin, x), (sin, cos, y))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper `bits` of 8; 0 keeps one, since shifts stop at 7 in the reference."""
    shift = 8 - min(max(bits, 1), 8)
    return image >> shift << shift


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert levels from `threshold` on, which wraps at 256 in the reference: 256 inverts the whole image."""
    return _by_table(image, np.where(threshold % 256 <= _LEVELS, 255 - _LEVELS, _LEVELS))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Add to levels below 128, up to 255."""
    added = np.minimum(_LEVELS + addition, 255)
    return _by_table(image, np.where(_LEVELS < 128, added, _LEVELS))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """From the grey image (factor 0) to the image itself (1) and beyond."""
    return _blend(_grey(image)[..., None], image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """From an even grey (factor 0) to the image itself (1) and beyond.

    The grey is H * W / 256, at most 255, where Pillow has the mean: the reference divides the sum of a histogram, which
    is the number of pixels, by its 256 bins. At 224 px it is 196.
    """
    grey = min(image.shape[0] * image.shape[1] // 256, 255)
    return _by_table(image, _blend(np.array(grey), _LEVELS, factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """From black (factor 0) to the image itself (1) and beyond."""
    return _by_table(image, _blend(np.array(0), _LEVELS, factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """From a smoothed image (factor 0) to the image itself (1) and beyond; the border of one pixel stays.

    Smoothing weighs a pixel by 5/13 and its eight neighbours by 1/13, rounded down.
    """
    smooth = image.copy()
    wide = image.astype(np.uint16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth[1:-1, 1:-1] = sums // 13
    return _blend(smooth, image, factor)


def shear_x(image: np.ndarray, level: float) -> np.ndarray:
    """Pixel (x, y) shows what was at (x + level * y, y); nearest pixel."""
    return _mapped(image, (1, level, 0), (0, 1, 0))


def shear_y(image: np.ndarray, level: float) -> np.ndarray:
    """Pixel (x, y) shows what was at (x, level * x + y); nearest pixel."""
    return _mapped(image, (1, 0, 0), (level, 1, 0))


def translate_x(image: np.ndarray, pixels: int) -> np.ndarray:
    """Move to the left, or for negative `pixels` to the right."""
    return _shifted(image.swapaxes(0, 1), pixels).swapaxes(0, 1)


def translate_y(image: np.ndarray, pixels: int) -> np.ndarray:
    """Move up, or for negative `pixels` down."""
    return _shifted(image, pixels)


def cutout(image: np.ndarray, half_px: int, center: tuple[int, int]) -> np.ndarray:
    """Grey out a square of 2 * `half_px` around `center` (row, column), clipped to the image (arXiv 1708.04552)."""
    rows, columns = (slice(max(at - half_px, 0), at + half_px) for at in center)
    cut = image.copy()
    cut[rows, columns] = FILL
    return cut


def _enhanced(op: Callable[[np.ndarray, float], np.ndarray]):
    return lambda image, level, _drawn: op(image, level * 1.8 + 0.1)


def _either_way(op: Callable[[np.ndarray, float], np.ndarray], most: float):
    """An op whose argument is at level 1 `most`, or as likely minus that."""
    return lambda image, level, drawn: op(image, (1 if drawn[0] >= 0.5 else -1) * (level * most))


def _whole(op: Callable[[np.ndarray, int], np.ndarray], most: int):
    return lambda image, level, _drawn: op(image, int(level * most))


def _cutout(image: np.ndarray, level: float, drawn: Sequence[float]) -> np.ndarray:
    height, width = image.shape[:2]
    return cutout(image, int(level * 40), (int(drawn[1] * height), int(drawn[2] * width)))


def _moved(op: Callable[[np.ndarray, int], np.ndarray]):
    return _either_way(lambda image, pixels: op(image, round(pixels)), 100)


OPS: dict[str, Callable[[np.ndarray, float, Sequence[float]], np.ndarray]] = {
    "autocontrast": lambda image, _level, _drawn: autocontrast(image),
    "equalize": lambda image, _level, _drawn: equalize(image),
    "invert": lambda image, _level, _drawn: invert(image),
    "rotate": _either_way(rotate, 30.0),
    "posterize": _whole(posterize, 4),
    "solarize": _whole(solarize, 256),
    "color": _enhanced(color),
    "contrast": _enhanced(contrast),
    "brightness": _enhanced(brightness),
    "sharpness": _enhanced(sharpness),
    "shear_x": _either_way(shear_x, 0.3),
    "shear_y": _either_way(shear_y, 0.3),
    "translate_x": _moved(translate_x),
    "translate_y": _moved(translate_y),
    "cutout": _cutout,
    "solarize_add": _whole(solarize_add, 110),
}
"""(image, magnitude / 10, numbers in [0, 1) for sign, row and column) -> image"""
NAMES = tuple(OPS)


def _cut(values: np.ndarray) -> np.ndarray:
    """Levels rounded down and kept within 0 and 255."""
    return np.clip(values, 0, 255).astype(np.uint8)


def _blend(first: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
    """`first` at factor 0, `second` at 1, between and beyond on a line; rounded down, kept within 0 and 255."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    second -= first
    second *= np.float32(factor)
    second += first
    return _cut(second)


def _grey(image: np.ndarray) -> np.ndarray:
    """Brightness of each pixel, uint8 [H, W], in the float32 steps of `tf.image.rgb_to_grayscale`."""
    red, green, blue = (table.take(image[..., at]) for at, table in enumerate(_GREY_SHARES))
    red += green
    red += blue
    red *= np.float32(255.5)
    return red.astype(np.uint8)


def _by_table(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Each level replaced by its entry of `table`, [256]."""
    replaced = image.tobytes().translate(table.astype(np.uint8).tobytes())
    return np.frombuffer(replaced, np.uint8).reshape(image.shape)


def _shifted(image: np.ndarray, by: int) -> np.ndarray:
    """Rows moved towards the first by `by`."""
    rows = len(image)
    shifted = np.full_like(image, FILL)
    if abs(by) < rows:
        first, last = max(by, 0), rows + min(by, 0)
        shifted[first - by : last - by] = image[first:last]
    return shifted


def _mapped(image: np.ndarray, x: _Row, y: _Row) -> np.ndarray:
    """Pixel (column, row) shows the pixel nearest to (x . (column, row, 1), y . (column, row, 1)), halves rounded up.

    In float32 steps, as TensorFlow's `ImageProjectiveTransform` has it; outside of the image is `FILL`.
    """
    height, width = image.shape[:2]
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    found, inside = np.zeros((height, width), np.int32), np.ones((height, width), np.bool_)
    for (a, b, c), size, step in ((x, width, 1), (y, height, width)):
        at = np.float32(a) * columns + np.float32(b) * rows
        at += np.float32(c)
        nearest = at.astype(np.int32)  # towards zero
        at -= nearest
        nearest += at >= 0.5
        inside &= (nearest >= 0) & (nearest < size) & (at > -0.5)
        found += nearest * step
    found[~inside] = height * width
    flat = np.full((height * width + 1, 3), FILL, np.uint8)
    flat[:-1] = image.reshape(-1, 3)
    return flat.view("V3").take(found).view(np.uint8).reshape(height, width, 3)
