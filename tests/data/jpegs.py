"""Pictures with smooth colour, grain and hard edges, and the JPEGs of every kind made of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.data.corpora import encoded

KINDS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "grey": {"grey": True},
    "progressive": {"subsampling": 2, "progressive": True},
    "progressive 4:4:4": {"subsampling": 0, "progressive": True},
    "restarts": {"subsampling": 2, "restart_marker_blocks": 3},
    "restart rows": {"subsampling": 1, "restart_marker_rows": 1},
    "coarse": {"subsampling": 2, "quality": 20},
}
END = b"\xff\xd9"


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """[height, width, 3] uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = smooth + rng.normal(0, 4, (height, width, 1)).astype(int)
    pixels[height // 3 : height // 3 + 2, :, 0] = 255
    pixels[:, width // 2 : width // 2 + 1, 2] = 0
    return pixels.clip(0, 255).astype(np.uint8)


def jpeg(width: int, height: int, kind: str = "4:2:0", seed: int = 0) -> bytes:
    """A JPEG of `picture`."""
    options = {"quality": 90, **KINDS[kind]}
    image = Image.fromarray(picture(width, height, seed))
    return encoded(image.convert("L") if options.pop("grey", False) else image, "JPEG", **options)


def declaring(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its (first, baseline) frame header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def many_scans(scans: int) -> bytes:
    """Three components of one 8 x 8 block each in scans of their own, the last repeated."""
    grey = encoded(Image.fromarray(picture(8, 8)[..., 0]), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    tables = grey[frame + 13 : scan]
    entropy = grey[scan + 10 : -2]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    header = b"\xff\xc0\x00\x11" + grey[frame + 4 : frame + 9] + b"\x03" + components
    bodies = [
        b"\xff\xda\x00\x08\x01" + bytes([min(number, 3), 0, 0, 63, 0]) + entropy
        for number in range(1, scans + 1)
    ]
    return grey[:frame] + header + tables + b"".join(bodies) + END
