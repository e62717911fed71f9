"""Reads any stretch of any tensor of a commit, whatever engine, ZeRO stage and number of ranks wrote it.

`state.json` lists tensors in files with their spans. Files are mapped, so only what is asked for is read.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitscale.checkpoint.files import ShardReader
from vitscale.checkpoint.layout import STATE
from vitscale.errors import CheckpointError


class Stretch(NamedTuple):
    """Numbers `start` to `start + length` of a flattened weight, from `offset` on in the tensor at `keys` of `file`."""

    start: int
    length: int
    offset: int
    file: str
    keys: tuple[str | int, ...]


class StateReader:
    """A `Source` for engines, over the folder of a verified commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = ShardReader(folder)
        self._open: dict[str, Any] = {}
        self._stretches: dict[str, dict[str, list[Stretch]]] = {}
        for spans, tensors in json.loads((folder / STATE).read_text(encoding="utf-8")):
            for kind, (file, keys) in tensors.items():
                by_name = self._stretches.setdefault(kind, {})
                for name, start, offset, length in spans:
                    found = Stretch(start, length, offset, file, tuple(keys))
                    by_name.setdefault(name, []).append(found)
        for by_name in self._stretches.values():
            for stretches in by_name.values():
                stretches.sort()

    def has(self, kind: str) -> bool:
        """Whether the commit holds tensors of this kind, such as `weight`, `exp_avg` or `ema`."""
        return kind in self._stretches

    def kinds_of(self, name: str) -> set[str]:
        """The kinds of numbers that the commit holds of a weight."""
        return {kind for kind, by_name in self._stretches.items() if name in by_name}

    def fill(self, kind: str, name: str, start: int, into: Tensor) -> None:
        """Copy numbers from `start` on of the flattened weight `name` into the flat tensor `into`.

        Raises:
            CheckpointError: the commit does not hold all of them.
        """
        stretches = self._stretches.get(kind, {}).get(name, [])
        at, end = start, start + into.numel()
        index = bisect_right(stretches, at, key=lambda each: each.start) - 1
        for stretch in stretches[max(index, 0) :]:
            skipped = at - stretch.start
            count = min(stretch.length - skipped, end - at)
            if skipped < 0 or count <= 0:
                break
            source = self._tensor(stretch)
            begin = stretch.offset + skipped
            into[at - start : at - start + count].copy_(source[begin : begin + count])
            at += count
        if at != end:
            raise self._incomplete(kind, name, at, end)

    def insist_on(self, kind: str, name: str, numel: int) -> None:
        """Raise unless all `numel` numbers of a weight are there.

        Raises:
            CheckpointError: some are not.
        """
        at = 0
        for stretch in self._stretches.get(kind, {}).get(name, []):
            if stretch.start > at:
                break
            at = max(at, stretch.start + stretch.length)
        if at < numel:
            raise self._incomplete(kind, name, at, numel)

    def stretches(self, kind: str) -> list[tuple[str, Stretch]]:
        """(weight, stretch) of every piece, file by file, so that each file is read once from front to back."""
        pieces = [(n, each) for n, all_ in self._stretches.get(kind, {}).items() for each in all_]
        return sorted(pieces, key=lambda piece: (piece[1].file, piece[1].keys, piece[1].offset))

    def values(self, stretch: Stretch) -> Tensor:
        """The numbers of one piece, float32, mapped from the file."""
        return self._tensor(stretch)[stretch.offset : stretch.offset + stretch.length].float()

    def close(self) -> None:
        """Let go of all files."""
        self._open.clear()

    def _incomplete(self, kind: str, name: str, at: int, end: int) -> CheckpointError:
        return CheckpointError(
            f"{kind} of {name} is incomplete: values {at} to {end} are missing",
            where=str(self.folder),
            do="Take another commit of the run.",
        )

    def _tensor(self, stretch: Stretch) -> Tensor:
        if stretch.file not in self._open:
            self._open[stretch.file] = self._shards.load(stretch.file)
        found = self._open[stretch.file]
        for key in stretch.keys:
            found = found[key]
        return found.detach().view(-1)


def whole(reader: StateReader, kind: str, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Every tensor of a kind, put together; float32 on the CPU.

    Raises:
        CheckpointError: a weight is incomplete.
    """
    tensors = {}
    for name, size in shapes.items():
        tensors[name] = torch.empty(size)
        reader.fill(kind, name, 0, tensors[name].view(-1))
    return tensors
