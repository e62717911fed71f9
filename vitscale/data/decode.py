"""From the bytes of an image file to 8-bit RGB, by rules that are stated here and tested one by one.

| file | becomes |
|---|---|
| grey, 1-bit, palette | RGB of the same look |
| alpha or a transparent colour | composited on white, as most viewers show it |
| CMYK, YCCK | RGB by Pillow's plain formula; colour profiles are ignored |
| 16 bits a channel | the upper 8 bits |
| EXIF orientation | ignored: ImageNet pipelines never turned images, and labels and boxes are made that way |
| animation | its first frame |
| cut short, damaged, any other format, more than `MAX_PIXELS` | `BadImage` |
"""

from __future__ import annotations

import io

import numpy as np
from PIL import (
    Image,
    JpegImagePlugin,  # noqa: F401  registers the format; otherwise the first WebP loads all plugins
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from vitscale.data.bad_images import BadImage

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 100_000_000
"""A file of a few kilobytes can declare gigapixels; 100 Mpx are 300 MB of RGB."""


def decode(data: bytes) -> Image.Image:
    """Decode a JPEG, PNG or WebP file to a Pillow image of mode RGB.

    Raises:
        BadImage: the file cannot be decoded in full.
    """
    if not data:
        raise BadImage("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{image.width} x {image.height} px are more than {MAX_PIXELS} px")
            image.load()
            return _to_rgb(image)
    except BadImage:
        raise
    except Exception as error:  # hostile bytes make decoders raise nearly anything; it is passed on
        raise BadImage(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        upper = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
