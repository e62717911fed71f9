"""Replays the order of a run against its ledger: each sample exactly once an epoch, none missing, at every step.

The one exception are the samples that a rewind passed over: exactly those of its event, which are counted apart.

Needs the run folder alone: the samples of each shard lie beside the ledger. The order is replayed on one rank from
the first step on, whatever ranks, kills and resumes the run had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.data.eras import Era, Eras
from vitscale.data.ledger import FOLDER, History, Line, Rewind, read, seen_of
from vitscale.data.mixture import Mixture
from vitscale.durable import write_text_atomically
from vitscale.errors import DataError

_NAMED = 10


@dataclass(frozen=True)
class EpochProof:
    """How often an epoch of a source showed its samples."""

    source: int
    epoch: int
    samples: int
    seen: int
    repeated: int
    passed_over: int = 0

    @property
    def complete(self) -> bool:
        return self.seen + self.passed_over == self.samples and not self.repeated


@dataclass
class Audit:
    """What the replay found; `problems` is empty for a run that saw what it should have seen."""

    steps: int = 0
    images: int = 0
    masked: int = 0
    skipped: list[int] = field(default_factory=list)
    """Steps whose update was not applied; they did see their samples."""
    rewinds: list[Rewind] = field(default_factory=list)
    """Each with the positions that were passed over."""
    epochs: list[EpochProof] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def keep_order(folder: Path, eras: Eras) -> None:
    """Lay what `audit` needs of the present order beside the ledger of the run in `folder`."""
    path = _order_file(folder, eras.now.name)
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, json.dumps(eras.counts()) + "\n")


def _order_file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"order-{name}.json"


def audit(
    folder: Path,
    step: int,
    data: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Audit:
    """Replay the run in `folder` up to a commit.

    Args:
        folder: of the run.
        step: of the commit.
        data: the loader's state in it.
        progress: told now and then how many steps of how many are done.

    Raises:
        DataError: the folder has no ledger, or what it needs of the order is lost.
    """
    found = Audit()
    history = read(folder)
    lines = list(_up_to(history, step, found))
    if lines and not found.problems:
        eras = [Era.of_json(record) for record in data["eras"]]
        _replay(folder, lines, eras, found, progress)
    reached = lines[-1].position + lines[-1].seen.images if lines else 0
    if not found.problems and reached != data["position"]:
        found.problems.append(
            f"the commit of step {step} stands at position {data['position']}, the ledger at {reached}"
        )
    return found


def _up_to(history: History, last: int, found: Audit) -> Iterator[Line]:
    """The lines of steps 1 to `last`; whatever is missing among them is a problem."""
    position = 0
    for step in range(1, last + 1):
        line = history.lines.get(step)
        if line is None:
            found.problems.append(f"step {step} was committed and is not in the ledger")
            return
        rewind = history.rewinds.get(step - 1)
        if rewind is not None and rewind.begin == position:
            found.rewinds.append(rewind)
            position = rewind.end
        if line.position != position:
            found.problems.append(
                f"step {step} began at position {line.position}, the one before ended at {position}"
                + (f" (with the rewind of the ledger: {rewind})" if rewind is not None else "")
            )
            return
        position += line.seen.images
        _note_skip(history, line, found)
        yield line


def _note_skip(history: History, line: Line, found: Audit) -> None:
    skip = history.skips.get(line.step)
    if skip is None:
        return
    found.skipped.append(line.step)
    if (skip.begin, skip.end) != (line.position, line.position + line.seen.images):
        found.problems.append(
            f"step {line.step} was skipped with positions {skip.begin} to {skip.end - 1}, "
            f"its line says {line.position} to {line.position + line.seen.images - 1}"
        )


def _replay(
    folder: Path,
    lines: list[Line],
    eras: list[Era],
    found: Audit,
    progress: Callable[[int, int], None],
) -> None:
    mixtures = [era.mixture(_counts_of(folder, era)) for era in eras]
    books = [_Books(era) for era in eras]
    passed = {rewind.end: rewind for rewind in found.rewinds}
    for number, line in enumerate(lines):
        if line.position in passed:
            _pass_over(passed[line.position], line.seen.images, eras, mixtures, books)
        at = max(n for n, era in enumerate(eras) if era.begin <= line.position)
        _replay_step(line, eras[at], mixtures[at], books[at], found)
        if len(found.problems) >= _NAMED:
            found.problems.append("further steps were not looked at")
            break
        if number % 256 == 0:
            progress(number, len(lines))
    found.epochs = [proof for book in books for proof in book.proofs()]
    found.problems += [
        f"epoch {p.epoch} of source {p.source}: {p.repeated} samples came more than once"
        for p in found.epochs
        if p.repeated
    ]


def _pass_over(
    rewind: Rewind, chunk: int, eras: list[Era], mixtures: list[Mixture], books: list[_Books]
) -> None:
    """Enter the samples that a rewind passed over, era by era."""
    begin = rewind.begin
    while begin < rewind.end:
        at = max(n for n, era in enumerate(eras) if era.begin <= begin)
        stops = [era.begin for era in eras if era.begin > begin]
        end = min([begin + chunk, rewind.end, *stops])
        slots = mixtures[at].batch(begin - eras[at].begin, end - begin)
        books[at].enter(slots.epochs, slots.ids, passed_over=True)
        begin = end


def _replay_step(line: Line, era: Era, mixture: Mixture, books: _Books, found: Audit) -> None:
    slots = mixture.batch(line.position - era.begin, line.seen.images)
    if seen_of(slots.epochs, slots.ids).sums != line.seen.sums:
        found.problems.append(
            f"step {line.step} saw other samples than positions {line.position} to "
            f"{line.position + line.seen.images - 1} of the order"
        )
    books.enter(slots.epochs, slots.ids)
    found.steps += 1
    found.images += line.seen.images
    found.masked += line.seen.masked


def _counts_of(folder: Path, era: Era) -> list[np.ndarray]:
    path = _order_file(folder, era.name)
    try:
        counts = [np.array(own, np.int64) for own in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError) as error:
        what = f"the samples of each shard cannot be read: {error}"
        raise DataError(what, where=str(path), do="Restore the file from a copy.") from error
    if tuple(int(own.sum()) for own in counts) != era.samples:
        raise DataError(
            "the samples of each shard do not add up to those of the order",
            where=str(path),
            do="Restore the file from a copy.",
        )
    return counts


class _Books:
    """Which samples each epoch of each source of an era has shown; a bit a sample of an open epoch."""

    def __init__(self, era: Era) -> None:
        self._era = era
        self._first = np.concatenate([[0], np.cumsum(era.samples)])
        self._open: dict[tuple[int, int], np.ndarray] = {}
        self._repeated: dict[tuple[int, int], int] = {}
        self._passed: dict[tuple[int, int], int] = {}
        self._closed: list[EpochProof] = []

    def enter(self, epochs: np.ndarray, ids: np.ndarray, *, passed_over: bool = False) -> None:
        sources = np.searchsorted(self._first, ids, side="right") - 1
        for source in np.unique(sources):
            for epoch in np.unique(epochs[sources == source]):
                of = (sources == source) & (epochs == epoch)
                key = int(source), int(epoch)
                self._enter(key, ids[of] - self._first[source])
                self._passed[key] += passed_over * int(of.sum())

    def _enter(self, key: tuple[int, int], ids: np.ndarray) -> None:
        if key not in self._open:
            self._open[key] = np.zeros(self._era.samples[key[0]], bool)
            self._repeated[key] = self._passed[key] = 0
        seen = self._open[key]
        fresh = np.unique(ids)
        self._repeated[key] += len(ids) - len(fresh) + int(seen[fresh].sum())
        seen[fresh] = True
        of_source = sorted(other for other in self._open if other[0] == key[0])
        if len(of_source) > 2:  # a batch may straddle two epochs; what lies before is over
            self._close(of_source[0])

    def _close(self, key: tuple[int, int]) -> None:
        seen = self._open.pop(key)
        repeated, passed = self._repeated.pop(key), self._passed.pop(key)
        self._closed.append(EpochProof(*key, len(seen), int(seen.sum()) - passed, repeated, passed))

    def proofs(self) -> list[EpochProof]:
        for key in sorted(self._open):
            self._close(key)
        return sorted(self._closed, key=lambda proof: (proof.source, proof.epoch))
