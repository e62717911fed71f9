"""SIGTERM and SIGINT on the submitting process: the first asks the run to commit and stop, the second leaves."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Counts the signals and keeps the file `STOP` in the run folder once there was one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "STOP"
        self.count = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.count += 1
        self.keep_asking()
        if self.count == 1:
            _log.warning("stop asked for: waiting for the commit; a second signal leaves at once")

    def keep_asking(self) -> None:
        """Make sure the workers find the file, also those that have just been restarted."""
        if self.count:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()


@contextmanager
def stop_signals(folder: Path) -> Generator[StopSignals]:
    """Listen while a job runs; only a main thread can, elsewhere the file `STOP` still works."""
    (folder / "STOP").unlink(missing_ok=True)
    signals = StopSignals(folder)
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, signals.note) for number in _SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
