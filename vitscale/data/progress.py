"""Says on stderr how far a tool has come: images, bytes a second and the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from vitscale.units import human_bytes, human_seconds

_TERMINAL_EVERY_S = 0.2
_FILE_EVERY_S = 10.0


class Progress:
    """A line that is rewritten on a terminal, and one every ten seconds elsewhere.

    Args:
        verb: what is done, such as "packing".
        total_bytes: of the whole work; 0 when unknown, which leaves out the time left.
        stream: stderr by default.
        clock: seconds, for tests.
        shown: False says nothing at all.
    """

    def __init__(
        self,
        verb: str,
        total_bytes: int = 0,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
    ) -> None:
        self._verb, self.total_bytes, self._clock, self._shown = verb, total_bytes, clock, shown
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every = _TERMINAL_EVERY_S if self._terminal else _FILE_EVERY_S
        self._begun = self._said = clock()
        self._images = self._bytes = 0
        self._written = False

    def add(self, images: int, size: int) -> None:
        """Count `images` of `size` bytes in all as done."""
        self._images += images
        self._bytes += size
        now = self._clock()
        if self._shown and now - self._said >= self._every:
            self._said = now
            self._say(self.line(now))

    def line(self, now: float) -> str:
        """The state in words at `now` on the clock."""
        elapsed = max(now - self._begun, 1e-9)
        rate = self._bytes / elapsed
        of_all = f" of {human_bytes(self.total_bytes)}" if self.total_bytes else ""
        text = f"{self._verb}: {self._images:,} images, {human_bytes(self._bytes)}{of_all}"
        text += f", {rate / 1e6:,.1f} MB/s"
        if self.total_bytes and rate:
            text += f", {human_seconds(max(0, self.total_bytes - self._bytes) / rate)} left"
        return text

    def _say(self, text: str) -> None:
        end = "" if self._terminal else "\n"
        self._stream.write(f"\r\x1b[K{text}" if self._terminal else text + end)
        self._stream.flush()
        self._written = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal and self._written:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def silent() -> Progress:
    """A progress that says nothing."""
    return Progress("", shown=False)
