"""JPEGs like those of ImageNet, made at run time: noise with the spectrum of photographs, and some grain.

Sizes around 500 x 375, quality 88 to 96, seven in ten with 4:2:0 chroma: about 80 kB each.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

_GRAIN = 2.0
_CONTRAST = 55.0
_SLOPE = 1.45
"""Of amplitude over frequency; photographs have about 1 at low and more at high frequencies, where lenses blur. With
this one the files are as large as those of ImageNet."""


def photos(count: int, *, seed: int = 0, side_px: int = 500) -> Iterator[bytes]:
    """JPEG files whose longer side is about `side_px`; one in four stands upright."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        width, height = side_px + int(rng.integers(-16, 17)), int(side_px * rng.uniform(0.66, 0.84))
        if rng.random() < 0.25:
            width, height = height, width
        image = Image.fromarray(_scene(rng, height, width))
        buffer = io.BytesIO()
        subsampling = 2 if rng.random() < 0.7 else 0
        image.save(buffer, "JPEG", quality=int(rng.integers(88, 97)), subsampling=subsampling)
        yield buffer.getvalue()


def _scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """[H, W, 3] uint8: brightness and two weaker colour planes, and grain."""
    planes = [_pink(rng, height, width) * scale for scale in (1.0, 0.35, 0.35)]
    red = planes[0] + planes[1]
    green = planes[0] - 0.5 * planes[1] - 0.5 * planes[2]
    blue = planes[0] + planes[2]
    grain = rng.normal(0, _GRAIN, (height, width, 1)) + rng.normal(0, 1, (height, width, 3))
    scene = 120 + _CONTRAST * np.stack([red, green, blue], axis=2) + grain
    return scene.clip(0, 255).astype(np.uint8)


def _pink(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """[H, W] of unit variance whose amplitude falls with a power of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    phases = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    plane = np.fft.irfft2(phases / frequency**_SLOPE, s=(height, width))
    return plane / plane.std()
