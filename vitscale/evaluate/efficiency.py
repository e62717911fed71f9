"""How much of its hardware a run made use of: MFU where the peak of its GPUs is known, else operations a second."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitscale.attempts import attempt_folder
from vitscale.evaluate.chart import Points
from vitscale.planner.hardware import ACCELERATORS
from vitscale.tracking.journal import FILE_NAME, read_records

METRIC = "speed/tflops_per_s"
_KINDS = {
    "NVIDIA A100-SXM4-40GB": "A100-40G",
    "NVIDIA A100-PCIE-40GB": "A100-40G",
    "NVIDIA A100-SXM4-80GB": "A100-80G",
    "NVIDIA A100 80GB PCIe": "A100-80G",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
    "NVIDIA L40S": "L40S",
    "NVIDIA L4": "L4",
    "NVIDIA A10G": "A10G",
    "NVIDIA GeForce RTX 3090": "RTX3090",
    "NVIDIA GeForce RTX 4090": "RTX4090",
}
"""What the driver calls them, to the names of planner/hardware.py. Others, such as the H100 for PCIe, are slower."""


@dataclass(frozen=True)
class Efficiency:
    """A curve over steps, what it shows, and what would be needed to show more."""

    label: str
    points: Points
    note: str


@dataclass(frozen=True)
class _Attempt:
    """Where a start of the run ran: as many ranks, each on a device of this name."""

    world: int
    device: str

    @property
    def peak(self) -> float | None:
        """FLOP/s in 16 bits of all ranks together, where they are known."""
        kind = _KINDS.get(self.device)
        return ACCELERATORS[kind].matmul * self.world if kind else None


def device_name(device: torch.device) -> str:
    """What the driver calls a GPU, as `_KINDS` has it; else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def efficiency_of(run: Path, precision: str | None) -> Efficiency:
    """The curve of a run, from its journal and what its starts say of their devices.

    Args:
        run: its folder.
        precision: `engine.precision`; None where the run has no config.
    """
    attempts: dict[int, _Attempt] = {}
    reached: dict[int, tuple[float, _Attempt]] = {}
    for record, _ in read_records(run / FILE_NAME):
        if METRIC in record.values:
            at = attempts.setdefault(record.attempt, _attempt(run, record.attempt))
            reached[record.step] = (record.values[METRIC], at)
    devices = sorted({at.device for _, at in reached.values()})
    known = {
        step: 1e14 * value / at.peak for step, (value, at) in reached.items() if at.peak is not None
    }
    if precision in ("bf16", "fp16") and known and len(known) == len(reached):
        return Efficiency(f"MFU, % of the peak in {precision}", sorted(known.items()), "")
    on_cpu = devices == ["cpu"]
    points = [(step, value * (1e3 if on_cpu else 1.0)) for step, (value, _) in reached.items()]
    unit = "GFLOP" if on_cpu else "TFLOP"
    return Efficiency(f"model {unit}/s, all ranks", sorted(points), _missing(devices, precision))


def _missing(devices: list[str], precision: str | None) -> str:
    """Why there is no MFU."""
    if not devices:
        return ""
    strangers = [name for name in devices if name not in _KINDS]
    if strangers:
        words = {"": "an unknown device", "cpu": "a CPU"}
        names = ", ".join(words.get(name, name) for name in strangers)
        return f"No MFU: the peak of {names} is not in the planner's table."
    own = precision or "an unknown precision"
    return f"No MFU: the table has peaks in bf16 and fp16, and the run computes in {own}."


def _attempt(run: Path, number: int) -> _Attempt:
    folder = attempt_folder(run, number)
    start, rank = (_read(folder / name) for name in ("start.json", "rank-00000.json"))
    return _Attempt(int(start.get("world", 1)), str(rank.get("device", "")))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
