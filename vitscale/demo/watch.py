"""Follow a run through its folder while another process trains, and kill one of its workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from vitscale.checkpoint.layout import CHECKPOINTS, step_folders
from vitscale.tracking.journal import read_metrics
from vitscale.units import human_seconds

_LOOK_S = 1.0
_LINE_EVERY_S = 30.0


@dataclass
class Watch:
    """Shows a progress bar for the run in `folder`, and kills rank 1 once at `kill_at` steps."""

    folder: Path
    total_steps: int
    kill_at: int
    killed_at_s: float | None = None
    back_after_s: float | None = None
    shown: str = ""
    shown_s: float = -_LINE_EVERY_S

    def until_end(self, process: subprocess.Popen[bytes]) -> None:
        """Look every second until the command that trains has ended."""
        while process.poll() is None:
            time.sleep(_LOOK_S)
            step = self._show()
            if self.killed_at_s is None and step >= self.kill_at and self._has_commit():
                self._kill_one_worker()
            elif self.killed_at_s is not None and self.back_after_s is None:
                self._look_for_return()
        self._show(force=True)

    def _has_commit(self) -> bool:
        return bool(step_folders(self.folder / CHECKPOINTS))

    def _kill_one_worker(self) -> None:
        pid = json.loads((self._attempts()[-1] / "rank-00001.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        self.killed_at_s = time.monotonic()
        print(
            f"  killed worker 1 (process {pid}) with SIGKILL; Ray starts the ranks again",
            flush=True,
        )

    def _look_for_return(self) -> None:
        assert self.killed_at_s is not None
        if len(self._attempts()) > 1 and (self._attempts()[-1] / "rank-00001.json").exists():
            self.back_after_s = round(time.monotonic() - self.killed_at_s, 1)
            print(f"  training again after {self.back_after_s:.0f} s", flush=True)

    def _attempts(self) -> list[Path]:
        return sorted((self.folder / "attempts").glob("[0-9]*"))

    @property
    def restarts(self) -> int:
        return max(0, len(self._attempts()) - 1)

    def _show(self, *, force: bool = False) -> int:
        """Print where the run is; its last logged step."""
        series = read_metrics(self.folder) if (self.folder / "metrics.jsonl").exists() else {}
        if "train/loss" not in series:
            return 0
        step = series["train/loss"][-1].step
        speed = series["speed/images_per_s"][-1].value
        left_s = (self.total_steps - step) * series["speed/step_ms"][-1].value / 1e3
        text = (
            f"  {_bar(step / self.total_steps)} step {step}/{self.total_steps}  "
            f"loss {series['train/loss'][-1].value:.3f}  {speed:.0f} images/s  "
            f"ETA {human_seconds(left_s)}"
        )
        self._print(text, force)
        return step

    def _print(self, text: str, force: bool) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{text}", end="\n" if force else "", flush=True)
        elif text != self.shown and (force or self._line_is_due()):
            self.shown, self.shown_s = text, time.monotonic()
            print(text, flush=True)

    def _line_is_due(self) -> bool:
        return time.monotonic() - self.shown_s >= _LINE_EVERY_S


def _bar(share: float, width: int = 24) -> str:
    done = round(share * width)
    return f"[{'#' * done}{'.' * (width - done)}] {share:4.0%}"
