"""Proof of what was seen: for every step a hash of its (epoch, sample) pairs that no cut over ranks changes.

The hash is the sum, modulo 2^64, of two different 64-bit mixes of each pair: sums of ranks add up to that of the
batch, and a sample that is dropped, repeated or exchanged shows but for a chance of 2^-128. Rank 0 appends the lines
of an attempt to `ledger/NNNN.jsonl` just before each commit, so every committed step is in it; lines of steps that
were lost with a kill are overruled by those of the next attempt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitscale.errors import DataError

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


def append(folder: Path, attempt: int, last: tuple[int, int], ranks: Sequence[list[Seen]]) -> None:
    """Add the steps that end at step `last[0]` and position `last[1]` to the file of this attempt.

    Args:
        folder: of the run.
        attempt: its number.
        last: finished steps, and samples they consumed.
        ranks: the steps of every rank, of equal number.

    Raises:
        OSError: the file could not be written; nothing of it was.
    """
    steps = [total(parts) for parts in zip(*ranks, strict=True)]
    step, position = last[0] - len(steps), last[1] - sum(seen.images for seen in steps)
    path = folder / FOLDER / f"{attempt:04d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    text = ""
    for seen in steps:
        step += 1
        text += Line(step, position, seen).to_json() + "\n"
        position += seen.images
    before = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.truncate(path, before)  # no half line stays; the steps are given again
        raise


def read(folder: Path) -> list[Line]:
    """All steps of a run from the first on; where attempts overlap the later one counts.

    Raises:
        DataError: there is no ledger, or a line in the middle cannot be read.
    """
    lines: dict[int, Line] = {}
    files = sorted((folder / FOLDER).glob("*.jsonl"))
    if not files:
        raise DataError(
            "the run has no ledger", where=str(folder / FOLDER), do="Name a folder of a run."
        )
    for path in files:
        own = list(_lines(path))
        if own:  # an attempt that begins at step s says what happened from s on
            lines = {step: line for step, line in lines.items() if step < own[0].step}
            lines |= {line.step: line for line in own}
    return [lines[step] for step in sorted(lines)]


def _lines(path: Path) -> Iterator[Line]:
    texts = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts, 1):
        try:
            record = json.loads(text)
            sums = int(record["hash"][:16], 16), int(record["hash"][16:], 16)
            seen = Seen(record["images"], record["masked"], sums)
            yield Line(record["step"], record["position"], seen)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(texts):  # a kill may cut the last line; its step was not committed
                return
            what = f"line {number} cannot be read: {error!r}"
            raise DataError(what, where=str(path), do="Restore the file from a copy.") from error
