"""Proof of what was seen: for every step a hash of its (epoch, sample) pairs that no cut over ranks changes.

The hash is the sum, modulo 2^64, of two different 64-bit mixes of each pair: sums of ranks add up to that of the
batch, and a sample that is dropped, repeated or exchanged shows but for a chance of 2^-128. Rank 0 appends the lines
of an attempt to `ledger/NNNN.jsonl` just before each commit, so every committed step is in it; lines of steps that
were lost with a kill are overruled by those of the next attempt.

Between them stand events, written at once: steps that were skipped, and rewinds, which overrule all steps since the
commit they went back to and pass over the samples that those consumed (docs/guard.md).
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitscale.errors import DataError

log = logging.getLogger(__name__)

FOLDER = "ledger"
_SALTS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_WORD = 1 << 64


class Seen(NamedTuple):
    """What one rank, or all together, saw in a step."""

    images: int
    masked: int
    sums: tuple[int, int]


@dataclass(frozen=True)
class Line:
    """One step of the ledger; `position` counts the samples of all steps before."""

    step: int
    position: int
    seen: Seen

    def to_json(self) -> str:
        first, second = self.seen.sums
        record = {
            "step": self.step,
            "position": self.position,
            "images": self.seen.images,
            "masked": self.seen.masked,
            "hash": f"{first:016x}{second:016x}",
        }
        return json.dumps(record)


def seen_of(epochs: np.ndarray, ids: np.ndarray, masked: int = 0) -> Seen:
    """Of the pairs (epochs[i], ids[i]), both int64 [n]."""
    pairs = epochs.astype(np.uint64) << np.uint64(40) ^ ids.astype(np.uint64)
    first, second = (int(_mixed(pairs ^ np.uint64(salt)).sum(dtype=np.uint64)) for salt in _SALTS)
    return Seen(len(ids), masked, (first, second))


def _mixed(words: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), which maps 64 bits one to one."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def total(parts: Sequence[Seen]) -> Seen:
    """Of all ranks, or of all micro-batches of a step."""
    sums = [sum(part.sums[n] for part in parts) % _WORD for n in (0, 1)]
    images, masked = sum(part.images for part in parts), sum(part.masked for part in parts)
    return Seen(images, masked, (sums[0], sums[1]))


class Ledger:
    """Collects the steps of this rank since the last commit."""

    def __init__(self) -> None:
        self._steps: list[Seen] = []
        self._now: list[Seen] = []

    def saw(self, epochs: np.ndarray, ids: np.ndarray, masked: int) -> None:
        """Note a micro-batch that the running step consumes."""
        self._now.append(seen_of(epochs, ids, masked))

    def end_step(self) -> None:
        self._steps.append(total(self._now))
        self._now = []

    def take(self) -> list[Seen]:
        """The finished steps since the last call."""
        steps, self._steps = self._steps, []
        return steps


class LedgerFile:
    """The file of one attempt, written by rank 0. What the disk refuses is kept and written with the next."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.path = folder / FOLDER / f"{attempt:04d}.jsonl"
        self._unwritten = ""

    def steps(self, last: tuple[int, int], ranks: Sequence[list[Seen]]) -> None:
        """Add the steps that end at step `last[0]` and position `last[1]`; `ranks` has those of every rank."""
        steps = [total(parts) for parts in zip(*ranks, strict=True)]
        step, position = last[0] - len(steps), last[1] - sum(seen.images for seen in steps)
        for seen in steps:
            step += 1
            self._unwritten += Line(step, position, seen).to_json() + "\n"
            position += seen.images
        self._write()

    def event(self, record: dict[str, Any]) -> None:
        """Add an event: a skipped step, a rewind, the end of a run."""
        self._unwritten += json.dumps(record) + "\n"
        self._write()

    def _write(self) -> None:
        before = 0
        try:
            self.path.parent.mkdir(exist_ok=True)
            before = self.path.stat().st_size if self.path.exists() else 0
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(self._unwritten)
                file.flush()
                os.fsync(file.fileno())
            self._unwritten = ""
        except OSError as error:
            log.error("the ledger could not be written, and is kept for the next time: %s", error)
            with suppress(OSError):
                os.truncate(self.path, before)  # no half line stays


@dataclass(frozen=True)
class Skip:
    """A step whose update was not applied, and the samples it had seen: positions [begin, end)."""

    step: int
    begin: int
    end: int
    why: str


@dataclass(frozen=True)
class Rewind:
    """The run went back to the commit of `step` at position `begin`, and on at position `end`."""

    step: int
    begin: int
    end: int


@dataclass
class History:
    """What happened to a run in the end: what attempts and rewinds overruled is left out."""

    lines: dict[int, Line] = field(default_factory=dict)
    skips: dict[int, Skip] = field(default_factory=dict)
    rewinds: dict[int, Rewind] = field(default_factory=dict)
    """By the step they went back to: the next line is that of the step behind it."""

    def begin_at(self, step: int) -> None:
        """Forget the steps from `step` on, which are done again."""
        self.lines = {n: line for n, line in self.lines.items() if n < step}
        self.skips = {n: skip for n, skip in self.skips.items() if n < step}
        self.rewinds = {n: rewind for n, rewind in self.rewinds.items() if n < step - 1}

    def add(self, record: Line | Skip | Rewind) -> None:
        """Take in the next record of an attempt."""
        if isinstance(record, Line):
            self.lines[record.step] = record
        elif isinstance(record, Skip):
            self.skips[record.step] = record
        else:
            self.begin_at(record.step + 1)
            self.rewinds[record.step] = record


def read(folder: Path) -> History:
    """All that happened to a run from the first step on; where attempts overlap the later one counts.

    Raises:
        DataError: there is no ledger, or a line in the middle cannot be read.
    """
    history = History()
    files = sorted((folder / FOLDER).glob("*.jsonl"))
    if not files:
        raise DataError(
            "the run has no ledger", where=str(folder / FOLDER), do="Name a folder of a run."
        )
    for path in files:
        own = list(_records(path))
        # A skip may stand before the lines of earlier steps, but a rewind only behind them.
        begun = itertools.takewhile(lambda record: not isinstance(record, Rewind), own)
        first = min((record.step for record in begun), default=None)
        if first is not None:  # an attempt that begins at step s says what happened from s on
            history.begin_at(first)
        for record in own:
            history.add(record)
    return history


def _records(path: Path) -> Iterator[Line | Skip | Rewind]:
    texts = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts, 1):
        try:
            record = _record_of(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(texts):  # a kill may cut the last line; its step was not committed
                return
            what = f"line {number} cannot be read: {error!r}"
            raise DataError(what, where=str(path), do="Restore the file from a copy.") from error
        if record is not None:
            yield record


def _record_of(record: dict[str, Any]) -> Line | Skip | Rewind | None:
    """A line or event; None for events that change nothing, such as the end."""
    kind = record.get("event")
    if kind is None:
        sums = int(record["hash"][:16], 16), int(record["hash"][16:], 16)
        seen = Seen(record["images"], record["masked"], sums)
        return Line(record["step"], record["position"], seen)
    if kind == "skip":
        return Skip(record["step"], record["from"], record["to"], record["why"])
    if kind == "rewind":
        return Rewind(record["step"], record["from"], record["to"])
    return None
