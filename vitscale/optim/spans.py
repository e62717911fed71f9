"""Which stretches of which weights a rank's optimizer holds, in terms that no ZeRO stage shows through.

A `Partition` is one float32 tensor that the optimizer updates on this rank: a whole weight, or a flat piece of many of
them laid end to end. Its spans say what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """`length` numbers from `start` of a flattened weight, found from `offset` of a flattened partition."""

    name: str
    start: int
    offset: int
    length: int


class Weight(NamedTuple):
    """A whole weight: its name, its shape, and how many heads its model has."""

    name: str
    shape: tuple[int, ...]
    heads: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def is_kernel(name: str) -> bool:
    """Whether a weight is a matrix or a patch kernel: no bias, norm, CLS token, position or scale.

    Decided by name, since ZeRO-3 replaces the parameters of a model by empty placeholders.
    """
    return name.endswith(".weight") and "norm" not in name


@dataclass(frozen=True)
class Partition:
    """A float32 tensor that the optimizer updates, of any shape, and what it holds.

    `weights` are all weights of which any rank holds a part in this place of its list, in an order that is the same on
    all of them; `spread` says whether that is so, or every rank holds all of them whole.
    """

    master: Tensor
    spans: tuple[Span, ...]
    weights: tuple[Weight, ...]
    spread: bool = False

    def of(self, span: Span, tensor: Tensor) -> Tensor:
        """The numbers of `span` in a tensor that is as large as the partition, flat."""
        return tensor.view(-1)[span.offset : span.offset + span.length]


class Slot(NamedTuple):
    """A tensor that an optimizer keeps for a partition.

    `spans` say which numbers of a weight's `kind` it holds: those of the partition, or others where it keeps less than
    a number for each. A `shared` one is the same on every rank that has this partition.
    """

    kind: str
    spans: tuple[Span, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    shared: bool = False


class Tile(NamedTuple):
    """`rows` rows from `row` on and `width` columns from `column` on of a matrix, from `offset` of a stretch of it."""

    offset: int
    row: int
    rows: int
    column: int
    width: int


def tiles(start: int, length: int, columns: int, block: int) -> Iterator[Tile]:
    """Cut a stretch of a flattened matrix into rectangles, in order.

    A rectangle is a part of one row, or whole rows: either within one block of `block` rows or whole blocks.
    """
    at, end = start, start + length
    while at < end:
        row, column = divmod(at, columns)
        if column or end - at < columns:
            rows, width = 1, min(columns - column, end - at)
        else:
            left = (end - at) // columns
            inside = row % block
            rows, width = min(block - inside, left), columns
            if not inside and left >= block:
                rows = left // block * block
        yield Tile(at - start, row, rows, column, width)
        at += rows * width
