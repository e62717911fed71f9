"""Makes images smaller before they are packed: short sides down to a limit, as JPEG or PNG.

Only what has to change is changed: an image within the limit and of the wanted format keeps its bytes. Pixels are those
that training would see, by the rules of `decode.py`, so profiles, orientation and transparency have been dealt with.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from vitscale.data.decode import decode
from vitscale.data.image_headers import PNG, kind_of
from vitscale.errors import ConfigError

QUALITY = 90


@dataclass(frozen=True)
class Reencoding:
    """What is asked of every image."""

    max_short_side: int | None = None
    """In pixels; larger images are shrunk to it, smaller ones never enlarged. None keeps all sizes."""
    quality: int = QUALITY
    """Of JPEG, 1 to 100."""
    jpeg_only: bool = False
    """PNG and WebP become JPEG too; otherwise a PNG that is shrunk stays PNG."""

    def __post_init__(self) -> None:
        if self.max_short_side is not None and self.max_short_side < 1:
            raise ConfigError(
                "must be 1 or more", where="--max-short-side", given=self.max_short_side
            )
        if not 1 <= self.quality <= 100:
            raise ConfigError("must be from 1 to 100", where="--quality", given=self.quality)


def reencode(data: bytes, extension: str, wanted: Reencoding) -> tuple[bytes, str]:
    """The image as asked, and its extension; the same bytes where nothing has to change.

    Raises:
        BadImage: it cannot be decoded.
    """
    image = decode(data)
    shrunk = _shrunk(image, wanted.max_short_side)
    to_jpeg = wanted.jpeg_only and extension not in ("jpg", "jpeg")
    if shrunk is image and not to_jpeg:
        return data, extension
    buffer = io.BytesIO()
    if kind_of(data) == PNG and not wanted.jpeg_only:
        shrunk.save(buffer, "PNG")
        return buffer.getvalue(), "png"
    shrunk.save(buffer, "JPEG", quality=wanted.quality)
    return buffer.getvalue(), extension if extension == "jpeg" else "jpg"


def _shrunk(image: Image.Image, short_side: int | None) -> Image.Image:
    if short_side is None or min(image.size) <= short_side:
        return image
    scale = short_side / min(image.size)
    size = tuple(max(short_side, round(side * scale)) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
