"""What the ranks of a job measure as gauges of Ray, for its dashboard and for Prometheus; runs in the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

_GAUGES = {
    "step": "the last step that was logged",
    "loss": "mean training loss since the log line before",
    "images_per_second": "images of this rank",
    "data_wait_ratio": "share of its time that the rank waited for data, 0 to 1",
    "memory_bytes": "peak of GPU memory, or the memory of the process on a CPU",
}


def gauges_of(run: str) -> Callable[[Mapping[str, float]], None]:
    """Takes the numbers of this rank, and shows each as `vitscale_NAME` with the tags `run` and `rank`."""
    from ray.util.metrics import Gauge

    tags = {"run": run, "rank": os.environ["RANK"]}
    gauges = {
        name: Gauge(f"vitscale_{name}", description=text, tag_keys=tuple(tags))
        for name, text in _GAUGES.items()
    }

    def export(values: Mapping[str, float]) -> None:
        for name, value in values.items():
            gauges[name].set(value, tags=tags)

    return export
