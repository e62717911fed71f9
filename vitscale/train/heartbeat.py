"""A heartbeat of each rank, and a watchdog that ends the process when it stops; never imports torch.

Ray sees dead workers but not a training thread that hangs. A rank without progress writes the stacks of all its
threads and ends, as do those that wait for it in a collective, and all are started again from the last commit.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import math
import os
import threading
import time
from typing import NamedTuple

from vitscale.attempts import BEATS, STACKS, attempt_folder
from vitscale.checkpoint.lease import TOUCH_S, Lease
from vitscale.errors import STOPPED_EXIT_CODE

log = logging.getLogger(__name__)

GENEROUS = 5
"""Times the limit that the first step and the phases below may take."""
_SLOW = frozenset({"start", "save", "evaluate", "close"})
_TICK_S = 1.0
_GRACE_S = 10.0
"""At most this long between the stacks and the end: the first to end breaks the collectives that others wait in."""


class Beat(NamedTuple):
    """Where the training thread was when it last showed itself, and how often it did."""

    step: int
    phase: str
    at: float
    number: int


class Heartbeat:
    """Beats of one rank in `beats/rank-NNNNN`, watched by a thread of the same process.

    Args:
        lease: of the attempt; a process that has lost it ends.
        rank: of this process.
        hang_s: seconds without a beat that are taken for a hang; infinite switches the watchdog off.
    """

    def __init__(self, lease: Lease, rank: int, hang_s: float) -> None:
        self._lease, self._rank, self._hang_s = lease, rank, hang_s
        folder = attempt_folder(lease.run_folder, lease.number)
        self._file = folder / BEATS / f"rank-{rank:05d}"
        self._stacks = folder / STACKS / f"rank-{rank:05d}.txt"
        for path in (self._file, self._stacks):
            path.parent.mkdir(exist_ok=True)
        # Opened now: when it is needed there may be no way to run Python any more.
        self._dump = self._stacks.open("a", encoding="utf-8")
        self._now = Beat(0, "start", time.monotonic(), 0)
        self._first_step: int | None = None
        self._closed = threading.Event()
        self._threads = [self._thread(self._tell)]
        if math.isfinite(hang_s):
            self._threads.append(self._thread(self._watch))
        for thread in self._threads:
            thread.start()

    def beat(self, step: int, phase: str) -> None:
        """Say that the training thread is alive; nothing but a store, so that no slow disk can hold up a step."""
        self._now = Beat(step, phase, time.monotonic(), self._now.number + 1)
        if self._first_step is None:
            self._first_step = step

    @property
    def now(self) -> Beat:
        """The last beat."""
        return self._now

    def close(self) -> None:
        """End the watch; an empty stack file goes."""
        self._closed.set()
        for thread in self._threads:
            thread.join(TOUCH_S)  # one that hangs with the storage is left behind
        faulthandler.cancel_dump_traceback_later()
        self._write()
        self._dump.close()
        if not self._stacks.stat().st_size:
            self._stacks.unlink()

    def _thread(self, loop) -> threading.Thread:
        return threading.Thread(target=loop, name=f"heartbeat{loop.__name__}", daemon=True)

    def _tell(self) -> None:
        """Write beats and renew the lease, in a thread of its own: it may hang with the storage."""
        while not self._closed.wait(min(TOUCH_S, self._hang_s / 10)):
            try:
                self._write()
                os.utime(self._file)  # by the clock of the storage, unlike a write
                if self._lease.is_lost:
                    self._leave_as_replaced()
            except OSError as error:
                log.warning("the heartbeat of rank %d cannot be written: %s", self._rank, error)

    def _write(self) -> None:
        now = self._now
        record = {"rank": self._rank, "step": now.step, "phase": now.phase, "count": now.number}
        # One line of constant length, in place: readers see the old beat or the new one, and no folder is synced.
        with self._file.open("r+" if self._file.exists() else "w", encoding="utf-8") as file:
            file.write(json.dumps(record).ljust(119) + "\n")

    def _watch(self) -> None:
        tick = min(_TICK_S, self._hang_s / 10)
        self._set_alarm()
        while not self._closed.wait(tick):
            self._set_alarm()
            if time.monotonic() - self._now.at > self._limit_s:
                self._report_and_leave()

    def _set_alarm(self) -> None:
        """Put off the alarm that fires where the watching thread cannot, since something holds the interpreter.

        After the stacks of the ranks that wait for this one, and before they end.
        """
        later = self._limit_s + self._grace_s / 2
        faulthandler.dump_traceback_later(later, exit=True, file=self._dump)

    @property
    def _limit_s(self) -> float:
        now, first = self._now, self._first_step
        generous = now.phase in _SLOW or first is None or now.step <= first
        return self._hang_s * (GENEROUS if generous else 1)

    @property
    def _grace_s(self) -> float:
        return min(_GRACE_S, self._hang_s / 3)

    def _report_and_leave(self) -> None:
        """Stacks first, then time for the other ranks to write theirs, then the end, unless it goes on after all."""
        hung = self._now
        self._dump.write(f"rank {self._rank}, step {hung.step}, phase {hung.phase}\n")
        self._dump.flush()
        faulthandler.dump_traceback(self._dump, all_threads=True)
        log.error(
            "rank %d: no progress for %.0f s in step %d, phase %s; stacks are in %s",
            *(self._rank, time.monotonic() - hung.at, hung.step, hung.phase, self._stacks),
        )
        if self._closed.wait(self._grace_s):
            return
        if self._now.number != hung.number:
            log.warning("rank %d goes on after all", self._rank)
            return
        self._write()
        os._exit(STOPPED_EXIT_CODE)

    def _leave_as_replaced(self) -> None:
        log.error(
            "rank %d of attempt %d ends: a newer attempt owns %s",
            *(self._rank, self._lease.number, self._lease.run_folder),
        )
        os._exit(STOPPED_EXIT_CODE)
