"""Quantities with units as users write them: durations ("300 epochs", "90M images", "5%") and sizes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_SCALES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
_UNITS = {
    "epoch": "epochs", "epochs": "epochs",
    "image": "images", "images": "images",
    "step": "steps", "steps": "steps",
    "min": "min", "h": "h", "s": "s",
    "%": "%",
}  # fmt: skip
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kMB]?)\s*([a-z]+|%)\s*$")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Duration:
    """A length of training: `value` in `unit`, one of epochs, images, steps, %, s, min, h."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read `"300 epochs"`, `"90M images"`, `"2000 steps"`, `"5%"` or `"30 min"`.

        Raises:
            ValueError: the text is not a number followed by a known unit.
        """
        found = _PATTERN.match(text)
        if not found or found[3] not in _UNITS:
            raise ValueError(
                f"{text!r} is not a duration: write a number and one of epochs, images, steps, %, "
                'min, h, such as "300 epochs", "90M images" or "5%"'
            )
        return cls(float(found[1]) * _SCALES[found[2]], _UNITS[found[3]])

    def __str__(self) -> str:
        number = f"{self.value:g}" if self.value < 10**6 else f"{self.value:.0f}"
        return f"{number}%" if self.unit == "%" else f"{number} {self.unit}"

    @property
    def is_time(self) -> bool:
        return self.unit in _SECONDS

    @property
    def seconds(self) -> float:
        """Seconds of wall time; only where `is_time`."""
        return self.value * _SECONDS[self.unit]

    def steps(self, *, batch: int, epoch_images: int, total_steps: int | None = None) -> int:
        """Whole optimizer steps, rounded up; 0 stays 0.

        Raises:
            ValueError: the unit is a time, or a share of a total that is not known here.
        """
        if self.unit == "steps":
            return math.ceil(self.value)
        if self.unit == "images":
            return math.ceil(self.value / batch)
        if self.unit == "epochs":
            return math.ceil(round(self.value * epoch_images, 6) / batch)
        if self.unit == "%" and total_steps is not None:
            return math.ceil(round(self.value / 100 * total_steps, 6))
        raise ValueError(f"{self} cannot be counted in steps here: use epochs, images or steps")


def human_count(number: float) -> str:
    """`85.8M`, `22.1B`, `391k`: three significant digits."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def human_bytes(number: float) -> str:
    """`1.5 GiB`: binary units, one decimal from KiB on."""
    for scale, letter in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(number) >= scale:
            return f"{number / scale:.1f} {letter}"
    return f"{number:.0f} B"


def human_seconds(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
