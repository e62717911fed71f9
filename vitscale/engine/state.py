"""What one rank keeps of the training state, in terms that no ZeRO stage and no number of ranks shows through.

Masters, what the optimizer keeps for them and their average are tensors with spans of weights (`optim/spans.py`). So a
checkpoint is a list of tensors with spans, and any rank of any stage fills its own partitions from it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vitscale.engine.disk import Disk
from vitscale.engine.frozen import FrozenWeights
from vitscale.errors import CheckpointError
from vitscale.optim.moments import kept, make_state, slots_of
from vitscale.optim.span_optimizer import SpanOptimizer
from vitscale.optim.spans import Partition, Span, Weight

WEIGHT, EMA = "weight", "ema"

Place = tuple[str, list[str | int]]
"""A tensor in a checkpoint: the file, and the keys in it."""


class Stored(NamedTuple):
    """Where numbers of some weights lie in a checkpoint, for each kind of them. Plain JSON."""

    spans: Sequence[Span]
    tensors: dict[str, Place]


class Writer(Protocol):
    """Where a rank writes its part of a checkpoint; errors surface at the commit, on every rank."""

    folder: Path

    def save(self, name: str, record: object) -> None: ...


class Source(Protocol):
    """A checkpoint that was verified before."""

    folder: Path

    def has(self, kind: str) -> bool: ...

    def kinds_of(self, name: str) -> set[str]: ...

    def fill(self, kind: str, name: str, start: int, into: Tensor) -> None: ...


class Piece(NamedTuple):
    """A tensor of the state, of any shape, and the numbers of `kind` that it holds; `shared` as in `Slot`."""

    kind: str
    spans: tuple[Span, ...]
    tensor: Tensor
    shared: bool = False

    def fill(self, source: Source, kind: str | None = None) -> None:
        """Take the numbers from a checkpoint, or those of another kind."""
        flat = self.tensor.view(-1)
        for name, start, offset, length in self.spans:
            source.fill(kind or self.kind, name, start, flat[offset : offset + length])


class RankState:
    """Masters, moments and exponential moving average of one rank.

    Args:
        partitions: what the rank holds.
        optimizer: over the partitions' masters.
        publish: makes the model's parameters follow the masters; all ranks call it together.
        ema: decay of the moving average, or None for none.
        frozen: the weights that no optimizer moves.
        disk: where moments and average lie, or None for the memory in which the masters are.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        optimizer: torch.optim.Optimizer,
        publish: Callable[[], None],
        ema: float | None,
        frozen: FrozenWeights,
        disk: Disk | None = None,
    ) -> None:
        self.partitions, self.optimizer, self.publish = list(partitions), optimizer, publish
        self.decay, self.frozen = ema, frozen
        self.disk, self.updates = disk, 0
        copy = disk.copy_of if disk else torch.clone
        self.average = [copy(p.master.detach()) for p in partitions] if ema is not None else []
        if isinstance(optimizer, SpanOptimizer):
            optimizer.attach(partitions)
        if disk:
            self._make(0)
            disk.reserve(disk.used)

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

    def pieces(self, index: int) -> list[Piece]:
        """All tensors of partition `index`; nothing of the optimizer's before the first update."""
        partition = self.partitions[index]
        found = [Piece(WEIGHT, partition.spans, partition.master.detach())]
        if self.updates:
            for slot in slots_of(self.optimizer, partition):
                tensor = kept(self.optimizer, partition, slot)
                found.append(Piece(slot.kind, slot.spans, tensor, slot.shared))
        if self.average:
            found.append(Piece(EMA, partition.spans, self.average[index]))
        return found

    @torch.no_grad()
    def load(self, source: Source, updates: int) -> bool:
        """Fill everything from a checkpoint; all ranks call it together.

        Returns:
            Whether there was an average where one is wanted; without one it begins at the weights.

        Raises:
            CheckpointError: weights train that did not when the commit was made.
        """
        if updates:
            self._insist_on_moments(source)
        self.updates = updates
        self.optimizer.state.clear()
        if updates or self.disk:
            self._make(updates)
        followed = source.has(EMA)
        for index in range(len(self.partitions)):
            for piece in self.pieces(index):
                piece.fill(source, None if piece.kind != EMA or followed else WEIGHT)
        self.frozen.load(lambda name, into: source.fill(WEIGHT, name, 0, into))
        self.publish()
        return followed

    def _make(self, updates: int) -> None:
        """Make what the optimizer keeps; on a disk also before its first step, which would make it in memory."""
        zeros = self.disk.zeros if self.disk else torch.zeros
        for partition in self.partitions:
            make_state(self.optimizer, partition, updates, zeros)

    def _insist_on_moments(self, source: Source) -> None:
        """Raise on every rank alike if the optimizer's state of some weights is not there at all."""
        if not any(slots_of(self.optimizer, partition) for partition in self.partitions):
            return
        names = [weight.name for partition in self.partitions for weight in partition.weights]
        without = [name for name in names if not source.kinds_of(name) - {WEIGHT, EMA}]
        if without:
            raise CheckpointError(
                f"the optimizer kept nothing for {without[0]} and {len(without) - 1} more: they were frozen",
                where=str(source.folder),
                do="Freeze them again (optim.freeze), or start anew from the weights (vitscale finetune).",
            )

    def save_frozen(self, writer: Writer, rank: int) -> list[Stored]:
        """Write this rank's share of the weights that do not move; their average is what they are."""
        file = f"frozen/rank-{rank:05d}.pt"
        if self.frozen.own:
            writer.save(file, self.frozen.own)
        kinds = (WEIGHT, EMA) if self.average else (WEIGHT,)
        return [
            Stored((Span(name, 0, 0, tensor.numel()),), {kind: (file, [name]) for kind in kinds})
            for name, tensor in self.frozen.own.items()
        ]

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
            kept_weights = partition.master.detach().clone()
            partition.master.copy_(average)
            average.copy_(kept_weights)
        self.publish()


def whole_partitions(masters: Iterable[tuple[str, Tensor]], heads: int) -> list[Partition]:
    """Partitions of an engine that keeps every weight whole on every rank."""
    return [
        Partition(m, (Span(name, 0, 0, m.numel()),), (Weight(name, tuple(m.shape), heads),))
        for name, m in masters
    ]


def listed(pieces: Sequence[Piece], places: Mapping[str, Place]) -> list[Stored]:
    """Where the pieces of a partition lie: those with the same spans in one record."""
    records: dict[tuple[Span, ...], dict[str, Place]] = {}
    for piece in pieces:
        if piece.kind in places:
            records.setdefault(piece.spans, {})[piece.kind] = places[piece.kind]
    return [Stored(spans, tensors) for spans, tensors in records.items()]


def write_share(state: RankState, writer: Writer, rank: int, world: int) -> list[Stored]:
    """Write this rank's share of a state that all ranks hold alike: every so-manieth partition, in one file."""
    file, record, stored = f"state/rank-{rank:05d}.pt", Record(), []
    for index in range(rank, len(state.partitions), world):
        pieces = state.pieces(index)
        places = {each.kind: (file, record.add(each)) for each in pieces}
        stored += listed(pieces, places)
    writer.save(file, record.tensors)
    return stored + state.save_frozen(writer, rank)


class Record:
    """Tensors for a file, a list for each kind."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[Any]] = {}

    def add(self, piece: Piece) -> list[str | int]:
        """Put a tensor at the end of its kind's list; the keys at which it will be found."""
        tensors = self.tensors.setdefault(piece.kind, [])
        tensors.append(piece.tensor)
        return [piece.kind, len(tensors) - 1]
