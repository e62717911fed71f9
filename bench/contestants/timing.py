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
_IDLE_LOOKS = 10


def report(batches: Iterable[Sized], folder: Path, images: int) -> None:
    """Print the speed over about `images` images, all threads counted, and that of the yardstick in between."""
    source = iter(batches)
    files = cycle([path.read_bytes() for path in sorted(folder.glob("folder/*/*.jpg"))[:200]])
    next(source)
    wait_until_idle()
    measured = 0.0
    seen = decoded = 0
    began = time.process_time()
    while seen < images:
        seen += sum(len(next(source)) for _ in range(_BATCHES))
        wait_until_idle()  # as many batches were prepared as were taken
        alone = time.thread_time()
        for _ in range(_YARDSTICK_IMAGES):
            Image.open(io.BytesIO(next(files))).load()
        measured += time.thread_time() - alone
        decoded += _YARDSTICK_IMAGES
    wait_until_idle()
    spent = time.process_time() - began - measured
    print(json.dumps({"images_per_cpu_s": seen / spent, "yardstick": decoded / measured}))


def wait_until_idle() -> None:
    """Until no thread of this process has worked for a while: on a busy machine one may just wait for a core."""
    idle = 0
    while idle < _IDLE_LOOKS:
        before = time.process_time()
        time.sleep(0.01)
        idle = idle + 1 if time.process_time() - before < 0.001 else 0
