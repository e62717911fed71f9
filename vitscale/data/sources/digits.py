"""The 1,797 handwritten digits that come with scikit-learn: 8 x 8 grey, ten classes, no download."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vitscale.data.samples import Sample, Split, Splits
from vitscale.errors import ResourceError

CLASSES = tuple(str(digit) for digit in range(10))
_NOTE = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, CC-BY-4.0; as "
    "distributed with scikit-learn.\n"
)


def digits_splits(*, held_out_share: float = 0.2) -> Splits:
    """All digits; every 1/share-th by number is held out.

    Raises:
        ResourceError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ResourceError(
            "scikit-learn is not installed", do="pip install 'vitscale[mlflow]' brings it."
        ) from error
    digits: Any = load_digits()
    numbers = np.arange(len(digits.target))
    held_out = np.floor((numbers + 1) * held_out_share) > np.floor(numbers * held_out_share)
    splits = {"train": _split(digits, numbers[~held_out])}
    if held_out.any():
        splits["held-out"] = _split(digits, numbers[held_out])
    return splits


def _split(digits: Any, numbers: np.ndarray) -> Split:
    return Split(CLASSES, _samples(digits, numbers), {"LICENCES.txt": _NOTE})


def _samples(digits: Any, numbers: np.ndarray) -> Iterator[Sample]:
    """Images are counts 0 to 16 of set pixels in a 4 x 4 block: scaled to 0 to 255."""
    for number in numbers.tolist():
        pixels = np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)
        yield Sample(f"digit/{number:04d}", "png", png_of(pixels), int(digits.target[number]))


def png_of(pixels: np.ndarray) -> bytes:
    """A grey PNG of uint8 [H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
