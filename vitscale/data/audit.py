"""Replays the order of a run against its ledger: each sample exactly once an epoch, none missing, at every step.

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
from vitscale.data.ledger import FOLDER, Line, read, seen_of
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

    @property
    def complete(self) -> bool:
        return self.seen == self.samples and not self.repeated


@dataclass
class Audit:
    """What the replay found; `problems` is empty for a run that saw what it should have seen."""

    steps: int = 0
    images: int = 0
    masked: int = 0
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
    lines = list(_up_to(read(folder), step, found))
    if lines and not found.problems:
        eras = [Era.of_json(record) for record in data["eras"]]
        _replay(folder, lines, eras, found, progress)
    reached = lines[-1].position + lines[-1].seen.images if lines else 0
    if not found.problems and reached != data["position"]:
        found.problems.append(
            f"the commit of step {step} stands at position {data['position']}, the ledger at {reached}"
        )
    return found


def _up_to(lines: list[Line], last: int, found: Audit) -> Iterator[Line]:
    """The lines of steps 1 to `last`; whatever is missing among them is a problem."""
    by_step = {line.step: line for line in lines}
    position = 0
    for step in range(1, last + 1):
        line = by_step.get(step)
        if line is None:
            found.problems.append(f"step {step} was committed and is not in the ledger")
            return
        if line.position != position:
            found.problems.append(
                f"step {step} began at position {line.position}, the one before ended at {position}"
            )
            return
        position += line.seen.images
        yield line


def _replay(
    folder: Path,
    lines: list[Line],
    eras: list[Era],
    found: Audit,
    progress: Callable[[int, int], None],
) -> None:
    mixtures = [era.mixture(_counts_of(folder, era)) for era in eras]
    books = [_Books(era) for era in eras]
    for number, line in enumerate(lines):
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
        self._closed: list[EpochProof] = []

    def enter(self, epochs: np.ndarray, ids: np.ndarray) -> None:
        sources = np.searchsorted(self._first, ids, side="right") - 1
        for source in np.unique(sources):
            for epoch in np.unique(epochs[sources == source]):
                of = (sources == source) & (epochs == epoch)
                self._enter((int(source), int(epoch)), ids[of] - self._first[source])

    def _enter(self, key: tuple[int, int], ids: np.ndarray) -> None:
        if key not in self._open:
            self._open[key] = np.zeros(self._era.samples[key[0]], bool)
            self._repeated[key] = 0
        seen = self._open[key]
        fresh = np.unique(ids)
        self._repeated[key] += len(ids) - len(fresh) + int(seen[fresh].sum())
        seen[fresh] = True
        of_source = sorted(other for other in self._open if other[0] == key[0])
        if len(of_source) > 2:  # a batch may straddle two epochs; what lies before is over
            self._close(of_source[0])

    def _close(self, key: tuple[int, int]) -> None:
        seen = self._open.pop(key)
        repeated = self._repeated.pop(key)
        self._closed.append(EpochProof(*key, len(seen), int(seen.sum()), repeated))

    def proofs(self) -> list[EpochProof]:
        for key in sorted(self._open):
            self._close(key)
        return sorted(self._closed, key=lambda proof: (proof.source, proof.epoch))
