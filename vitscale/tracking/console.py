"""One line a log for people: a bar that stays in place on a terminal, aligned lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from vitscale.units import human_seconds

_BAR_WIDTH = 20


class Console:
    """Shows loss, speed and the time left. Metrics of an evaluation get a line of their own."""

    def __init__(self, total_steps: int, stream: TextIO | None = None) -> None:
        self._total = total_steps
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._first: tuple[int, float] | None = None
        self._open_line = False

    def show(self, values: Mapping[str, float], step: int) -> None:
        """Print the metrics of one call."""
        if "train/loss" in values:
            self._progress(values, step)
        else:
            shown = {k: v for k, v in values.items() if not k.startswith("system/")}
            self._line(
                f"{self._count(step)}  " + "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
            )

    def close(self) -> None:
        """End the line that a bar has left open."""
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False
            self._stream.flush()

    def _progress(self, values: Mapping[str, float], step: int) -> None:
        text = f"{self._count(step)}  {100 * step / self._total:5.1f}%  loss {values['train/loss']:8.4f}"
        if "train/lr" in values:
            text += f"  lr {values['train/lr']:.2e}"
        if "speed/images_per_s" in values:
            text += f"  {values['speed/images_per_s']:8.1f} images/s"
        text += f"  {self._time_left(step)}"
        if not self._live:
            self._line(text)
            return
        filled = round(_BAR_WIDTH * min(step / self._total, 1.0))
        self._stream.write(f"\r\033[K{'█' * filled}{'░' * (_BAR_WIDTH - filled)} {text}")
        self._stream.flush()
        self._open_line = True

    def _line(self, text: str) -> None:
        self.close()
        self._stream.write(text + "\n")
        self._stream.flush()

    def _count(self, step: int) -> str:
        width = len(str(self._total))
        return f"step {step:{width}d}/{self._total}"

    def _time_left(self, step: int) -> str:
        """From the pace since the first call, so compiling and the first step do not count."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        steps, seconds = step - self._first[0], now - self._first[1]
        if step >= self._total:
            return "done"
        if steps <= 0:
            return "ETA -"
        return f"ETA {human_seconds((self._total - step) * seconds / steps)}"
