"""Stop requests: SIGTERM, SIGINT, a file `STOP`, or a machine that is taken away; never imports torch."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from vitscale.train.progress import Progress

_EVERY = 10  # steps between two agreements, so that the answer costs nothing in between
# Fewer steps where they are slow: a machine may be gone half a minute after its notice.
_WITHIN_S = 5.0


class StopRequest:
    """Turns requests that reach any rank into one answer for all ranks at the same step.

    Args:
        folder: of the run.
        gather: the value of every rank, on every rank.
        leaving: the ranks whose machine will be taken away. It waits for all ranks, so they call it at the same steps.
    """

    def __init__(
        self,
        folder: Path,
        gather: Callable[[Any], list[Any]],
        leaving: Callable[[], list[int]] | None = None,
    ) -> None:
        self.file, self.gather, self._ask_who_leaves = folder / "STOP", gather, leaving
        self.signalled = False
        self.leaving: list[int] = []
        self._every, self._asked_at, self._looked_at = _EVERY, (0, time.monotonic()), 0.0
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
        if progress.step % self._every and not progress.done:
            return False
        wanted = self.signalled or self.file.exists()
        answers = self.gather((wanted, self._steps_within(progress.step), self._is_time_to_look()))
        # What rank 0 says of the clock holds for all, since theirs differ.
        _, self._every, look = answers[0]
        stop = any(answer[0] for answer in answers)
        if look and not stop and not progress.done and self._ask_who_leaves:
            self.leaving = self._ask_who_leaves()
        return (stop or bool(self.leaving)) and not progress.done

    def _steps_within(self, step: int) -> int:
        """Steps until the next agreement, by how long the last ones took."""
        (before, since), now = self._asked_at, time.monotonic()
        self._asked_at = (step, now)
        took = (now - since) / max(step - before, 1)
        return max(1, min(_EVERY, int(_WITHIN_S / max(took, 1e-9))))

    def _is_time_to_look(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at < _WITHIN_S:
            return False
        self._looked_at = now
        return True

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
