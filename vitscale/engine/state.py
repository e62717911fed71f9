"""What one rank keeps of the training state, in terms that no ZeRO stage and no number of ranks shows through.

A `Partition` is one float32 tensor that the optimizer updates on this rank; its spans say which stretches of which
weights it holds. Weights, moments and their average have the same spans. So a checkpoint is a list of tensors with
spans, and any rank of any stage fills its own partitions from it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vitscale.optim.moments import fresh_state, moments_of

WEIGHT, EMA = "weight", "ema"


class Span(NamedTuple):
    """`length` numbers from `start` of a flattened weight, found from `offset` of a flattened partition."""

    name: str
    start: int
    offset: int
    length: int


@dataclass(frozen=True)
class Partition:
    """A float32 tensor that the optimizer updates, of any shape, and what it holds."""

    master: Tensor
    spans: tuple[Span, ...]


class Stored(NamedTuple):
    """Where a partition lies in a checkpoint: for each kind of tensor the file and the keys in it. Plain JSON."""

    spans: Sequence[Span]
    tensors: dict[str, tuple[str, list[str | int]]]


class Writer(Protocol):
    """Where a rank writes its part of a checkpoint; errors surface at the commit, on every rank."""

    folder: Path

    def save(self, name: str, record: object) -> None: ...


class Source(Protocol):
    """A checkpoint that was verified before."""

    def has(self, kind: str) -> bool: ...

    def fill(self, kind: str, name: str, start: int, into: Tensor) -> None: ...


class RankState:
    """Masters, moments and exponential moving average of one rank.

    Args:
        partitions: what the rank holds.
        optimizer: torch's own, whose `state` has an entry for each `master`.
        publish: makes the model's parameters follow the masters; all ranks call it together.
        ema: decay of the moving average, or None for none.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        optimizer: torch.optim.Optimizer,
        publish: Callable[[], None],
        ema: float | None,
    ) -> None:
        self.partitions, self.optimizer, self.publish = list(partitions), optimizer, publish
        self.decay = ema
        self.average = [p.master.detach().clone() for p in partitions] if ema is not None else []
        self.updates = 0

    @torch.no_grad()
    def stepped(self) -> None:
        """Count an update that was applied, and let the average follow: a += (1 - decay) (w - a)."""
        self.updates += 1
        if self.decay is not None:
            for average, partition in zip(self.average, self.partitions, strict=True):
                average.lerp_(partition.master, 1 - self.decay)

    def is_finite(self) -> bool:
        """Whether every master weight of this rank is a finite number."""
        return all(bool(torch.isfinite(p.master).all()) for p in self.partitions)

    def kinds(self) -> tuple[str, ...]:
        """The kinds of tensors there are; no moments before the first update."""
        moments = moments_of(self.optimizer) if self.updates else ()
        return (WEIGHT, *moments, *((EMA,) if self.average else ()))

    def tensors(self, kind: str) -> list[Tensor]:
        """The tensors of a kind, one a partition."""
        if kind == WEIGHT:
            return [partition.master.detach() for partition in self.partitions]
        if kind == EMA:
            return self.average
        return [self.optimizer.state[partition.master][kind] for partition in self.partitions]

    @torch.no_grad()
    def load(self, source: Source, updates: int) -> bool:
        """Fill everything from a checkpoint; all ranks call it together.

        Returns:
            Whether there was an average where one is wanted; without one it begins at the weights.
        """
        self.updates = updates
        self._fill(source, WEIGHT)
        self.optimizer.state.clear()
        if updates:
            for partition in self.partitions:
                entry = fresh_state(self.optimizer, partition.master, updates)
                self.optimizer.state[partition.master] = entry
            for kind in moments_of(self.optimizer):
                self._fill(source, kind)
        followed = source.has(EMA)
        if self.average:
            self._fill(source, EMA if followed else WEIGHT, self.average)
        self.publish()
        return followed

    def _fill(self, source: Source, kind: str, into: list[Tensor] | None = None) -> None:
        tensors = self.tensors(kind) if into is None else into
        for partition, tensor in zip(self.partitions, tensors, strict=True):
            flat = tensor.view(-1)
            for name, start, offset, length in partition.spans:
                source.fill(kind, name, start, flat[offset : offset + length])

    @contextmanager
    def averaged(self) -> Generator[None]:
        """The model with the averaged weights; all ranks enter and leave it together."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for partition, average in zip(self.partitions, self.average, strict=True):
            kept = partition.master.detach().clone()
            partition.master.copy_(average)
            average.copy_(kept)
        self.publish()


def whole_partitions(masters: Iterator[tuple[str, Tensor]]) -> list[Partition]:
    """Partitions of an engine that keeps every weight whole on every rank."""
    return [Partition(m, (Span(name, 0, 0, m.numel()),)) for name, m in masters]


def write_share(state: RankState, writer: Writer, rank: int, world: int) -> list[Stored]:
    """Write this rank's share of a state that all ranks hold alike: every so-manieth partition, in one file."""
    file = f"state/rank-{rank:05d}.pt"
    own = range(rank, len(state.partitions), world)
    record: dict[str, Any] = {kind: [state.tensors(kind)[i] for i in own] for kind in state.kinds()}
    writer.save(file, record)
    return [
        Stored(state.partitions[i].spans, {kind: (file, [kind, at]) for kind in state.kinds()})
        for at, i in enumerate(own)
    ]
