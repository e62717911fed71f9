"""How busy the machine of rank 0 is; sampled when metrics are logged, so outages of MLflow leave no gap."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

_GIB = 2**30
_EVERY_S = 5.0


class SystemMeter:
    """Values named `system/...` with their unit; at most one sample every five seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0.0
        try:
            import psutil
        except ImportError:
            self._psutil = None
            return
        self._psutil = psutil
        self._process = psutil.Process()
        psutil.cpu_percent()

    def sample(self) -> dict[str, float]:
        """The values now, or nothing if the last sample is younger than five seconds."""
        now = time.monotonic()
        if now < self._next:
            return {}
        self._next = now + _EVERY_S
        return self._disk() | self._cpu() | _gpu()

    def _disk(self) -> dict[str, float]:
        try:
            return {"system/disk_free_gib": shutil.disk_usage(self._folder).free / _GIB}
        except OSError:
            return {}

    def _cpu(self) -> dict[str, float]:
        if self._psutil is None:
            return {}
        memory = self._psutil.virtual_memory()
        return {
            "system/cpu_percent": self._psutil.cpu_percent(),
            "system/memory_percent": memory.percent,
            "system/memory_used_gib": (memory.total - memory.available) / _GIB,
            "system/process_memory_gib": self._process.memory_info().rss / _GIB,
        }


def _gpu() -> dict[str, float]:
    """Memory and load of this rank's GPU, where torch is already there and has one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    values = {
        "system/gpu_memory_used_gib": torch.cuda.memory_reserved() / _GIB,
        "system/gpu_memory_peak_gib": torch.cuda.max_memory_allocated() / _GIB,
    }
    with suppress(ModuleNotFoundError, RuntimeError):  # torch needs nvidia-ml-py, which is optional
        values["system/gpu_percent"] = float(torch.cuda.utilization())
    return values
