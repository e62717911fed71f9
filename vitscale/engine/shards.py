"""How an engine's state reaches a checkpoint and comes back, in the words both rooms share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

# A piece of a weight: [offset in the flattened weight, file, path of keys in the file, start, length].
# All pieces of a weight together are the weight in float32, so any tool can read it without the engine.
Piece = tuple[int, str, list[str | int], int, int]


class Writer(Protocol):
    """Where a rank writes its part of a checkpoint; errors surface at the commit, on every rank."""

    folder: Path

    def save(self, name: str, record: object) -> None: ...


class Reader(Protocol):
    """Where a rank reads its part of a checkpoint that was verified before."""

    folder: Path

    def load(self, name: str) -> Any: ...


def whole_pieces(
    sizes: Iterable[tuple[str, int]], file: str, keys: list[str]
) -> dict[str, list[Piece]]:
    """The one piece of each (name, numel) among weights that lie whole and by name in one file."""
    return {name: [(0, file, [*keys, name], 0, numel)] for name, numel in sizes}
