"""Stop requests: SIGTERM, SIGINT or a file `STOP` in the run folder; never imports torch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from vitscale.train.progress import Progress

_EVERY = 10  # steps between two agreements, so that the answer costs nothing in between


class StopRequest:
    """Turns requests that reach any rank into one answer for all ranks at the same step."""

    def __init__(self, folder: Path, gather: Callable[[bool], list[bool]]) -> None:
        self.file, self.gather = folder / "STOP", gather
        self.signalled = False
        self._previous: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signalled:  # the second time the user means it
            self.close()
            signal.raise_signal(number)
        self.signalled = True

    def asked(self, progress: Progress) -> bool:
        """Whether to commit and end now. Asked every few steps; the same on every rank."""
        if progress.step % _EVERY and not progress.done:
            return False
        wanted = self.signalled or self.file.exists()
        return any(self.gather(wanted)) and not progress.done

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
