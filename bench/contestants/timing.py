"""How every contestant is timed: against a yardstick that runs in the same process and the same seconds.

Shared machines slow down and speed up from second to second, so after every few batches Pillow decodes some of the same
JPEGs. What is compared is images per CPU-second over the yardstick's. The two never run side by side, since cores that
share a processor slow each other down: threads that prepare batches ahead are waited for.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Sized
from itertools import cycle
from pathlib import Path

from PIL import Image

_BATCHES = 4
_YARDSTICK_IMAGES = 64


def report(batches: Iterable[Sized], folder: Path, images: int) -> None:
    """Print the speed over about `images` images, all threads counted, and that of the yardstick in between."""
    source = iter(batches)
    files = cycle([path.read_bytes() for path in sorted(folder.glob("folder/*/*.jpg"))[:200]])
    next(source)
    wait_until_idle()
    spent = measured = 0.0
    seen = decoded = 0
    while seen < images:
        began = time.process_time()
        seen += sum(len(next(source)) for _ in range(_BATCHES))
        wait_until_idle()  # as many batches were prepared as were taken
        spent += time.process_time() - began
        began = time.process_time()
        for _ in range(_YARDSTICK_IMAGES):
            Image.open(io.BytesIO(next(files))).load()
        measured += time.process_time() - began
        decoded += _YARDSTICK_IMAGES
    print(json.dumps({"images_per_cpu_s": seen / spent, "yardstick": decoded / measured}))


def wait_until_idle() -> None:
    """Until no thread of this process works any more."""
    before = -1.0
    while time.process_time() - before > 0.001:
        before = time.process_time()
        time.sleep(0.01)
