"""The ranks of a run side by side at each log line: mean, least, most, the slowest, stragglers; never imports torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SLOW = 1.5
"""A rank is slow whose own time of a step is above so many times the median of all ranks."""
LINES = 3
STEPS = 30
"""A rank that is slow at so many log lines in a row, which sum up so many steps at least, is a straggler."""
_GIB = 2**30

# What is logged of each number of a rank, and in which unit.
_LOGGED = {
    "step_ms": ("step_s", 1e3),
    "own_ms": ("own_s", 1e3),
    "data_wait_ms": ("wait_s", 1e3),
    "images_per_s": ("images_per_s", 1),
    "memory_gib": ("memory_bytes", 1 / _GIB),
}


class SideBySide:
    """Compares what the ranks measured; names the slowest in a tag, and stragglers in events.

    Every step ends for all ranks at once, since they wait for each other. So ranks are told apart by `own_s`, their
    own time of a step: waiting for data, and the forward passes.

    Args:
        hosts: of the ranks, by rank.
        tag: sets a tag of the run in MLflow, by name and text.
        tell: takes the event of a straggler; None on ranks that do not speak for all.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        tag: Callable[[str, str], None],
        tell: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._hosts, self._tag, self._tell = hosts, tag, tell
        self._slowest = -1
        self._step: int | None = None
        self._slow: dict[int, tuple[int, int]] = {}
        """Of slow ranks, in how many lines and since which step."""
        self._named: set[int] = set()

    def compare(self, step: int, ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """What is logged of the ranks at a step; nothing where there is only one.

        Args:
            step: that has just ended.
            ranks: of each rank the means of a step since the last log line, `step_s`, `own_s`, `wait_s`; its share of
                `images_per_s`; `memory_bytes`.
        """
        if len(ranks) < 2:
            return {}
        own = [rank["own_s"] for rank in ranks]
        slowest = own.index(max(own))
        if slowest != self._slowest:
            self._slowest = slowest
            self._tag("vitscale.slowest_rank", f"rank {slowest} on {self._hosts[slowest]}")
        self._watch(step, own)
        logged = {"ranks/slowest": float(slowest)}
        for name, (key, unit) in _LOGGED.items():
            values = [rank[key] * unit for rank in ranks]
            logged[f"ranks/{name}_mean"] = math.fsum(values) / len(values)
            logged[f"ranks/{name}_min"], logged[f"ranks/{name}_max"] = min(values), max(values)
        return logged

    def _watch(self, step: int, own: Sequence[float]) -> None:
        """Count for how long ranks have been slow; with two ranks the median is the faster one."""
        if self._step is None or step <= self._step:  # the first line, or one after a rewind
            self._step, self._slow = step, {}
            return
        median, before, self._step = statistics.median_low(own), self._step, step
        slow = {rank for rank, seconds in enumerate(own) if seconds > SLOW * median}
        self._named &= slow
        known = {rank: self._slow.get(rank, (0, before)) for rank in slow}
        self._slow = {rank: (lines + 1, since) for rank, (lines, since) in known.items()}
        for rank, (lines, since) in self._slow.items():
            if lines >= LINES and step - since >= STEPS and rank not in self._named:
                self._named.add(rank)
                self._name(rank, since, own[rank], median)

    def _name(self, rank: int, since: int, own_s: float, median_s: float) -> None:
        if self._tell is None:
            return
        event = {"event": "straggler", "step": self._step, "since": since, "rank": rank}
        event |= {"host": self._hosts[rank], "own_ms": own_s * 1e3, "median_ms": median_s * 1e3}
        self._tell(event)
