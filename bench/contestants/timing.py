"""How every contestant is timed: CPU time of the whole process over batches after the first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sized


def report(batches: Iterable[Sized], images: int) -> None:
    """Print images per second of CPU time, all threads counted, over about `images` images."""
    source = iter(batches)
    next(source)
    began, seen = time.process_time(), 0
    while seen < images:
        batch = next(source, None)
        if batch is None:
            break
        seen += len(batch)
    print(json.dumps({"images_per_cpu_s": seen / (time.process_time() - began), "images": seen}))
