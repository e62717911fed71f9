"""Which samples each rank gets at each step: one order, or several mixed by weight.

Position P belongs to source k by a pattern that repeats every `BLOCK` positions and spreads each
source evenly. So the number of a source's samples before P is a sum of two table values: every source
has its own exact position and epochs, and any P is reached at once. A batch is the same list for every
world size that divides it: sources are interleaved evenly before it is cut over ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitscale.data.order import Order, Places, Window
from vitscale.errors import ConfigError

BLOCK = 10_000
"""Positions after which the pattern repeats: weights count in units of 1/10,000."""


@dataclass(frozen=True)
class Slots:
    """Places in a batch: the epoch (of its source) and the sample id of each."""

    epochs: np.ndarray
    """[n] int64."""
    ids: np.ndarray
    """[n] int64, of the corpus: sources stand one after another."""

    def __getitem__(self, part: slice | np.ndarray) -> Slots:
        return Slots(self.epochs[part], self.ids[part])

    def __len__(self) -> int:
        return len(self.ids)


class Mixture:
    """Batches drawn from one or several orders.

    Args:
        orders: one a source.
        weights: of the sources, in any unit.

    Raises:
        ConfigError: a source would get less than 1 in 10,000 samples.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float] = (1.0,)) -> None:
        assert len(orders) == len(weights), f"{len(orders)} orders and {len(weights)} weights"
        self.orders = tuple(orders)
        self.per_block = parts_of_block(weights)
        self._before = _counts_before(self.per_block)
        sizes = [order.samples for order in orders]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def batch(self, position: int, size: int, rank: int = 0, world: int = 1) -> Slots:
        """This rank's slots of the global batch at run positions [position, position + size)."""
        parts = self._parts(position, size, rank, world)
        epochs = np.concatenate([at.epochs for _, at, _ in parts])
        ids = [self._first[source] + self.orders[source].ids(at) for source, at, _ in parts]
        places = np.concatenate([where for _, _, where in parts])
        slots = Slots(epochs, np.concatenate(ids))
        return slots if len(parts) == 1 else slots[np.argsort(places, kind="stable")]

    def _parts(
        self, position: int, size: int, rank: int, world: int
    ) -> list[tuple[int, Places, np.ndarray]]:
        """For each source: its places of this rank, and where in the global batch they stand."""
        assert size % world == 0, f"a batch of {size} does not divide over {world} ranks"
        share = size // world
        places = [
            order.places(begin, end - begin)
            for order, begin, end in zip(
                self.orders, self.counts(position), self.counts(position + size), strict=True
            )
        ]
        parts = []
        for source, where in enumerate(_interleaved([len(at) for at in places])):
            mine = slice(*np.searchsorted(where, [rank * share, (rank + 1) * share]))
            parts.append((source, places[source][mine], where[mine]))
        return parts

    def counts(self, position: int) -> list[int]:
        """How many of the first `position` samples each source gives: its own position."""
        blocks, within = divmod(position, BLOCK)
        if len(self.orders) == 1:
            return [position]
        pairs = zip(self.per_block, self._before[:, within].tolist(), strict=True)
        return [blocks * each + before for each, before in pairs]

    def shards_ahead(
        self, position: int, size: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int, int]]:
        """(source, shard number) in the order in which this rank will need them, without end.

        A shard that a lane goes on using is named once for each window.
        """
        current: dict[tuple[int, int], Window] = {}
        while True:
            for source, at, _ in self._parts(position, size, rank, world):
                order = self.orders[source]
                for window, _ in order.windows(at):
                    if current.get((source, window.lane)) != window:
                        current[source, window.lane] = window
                        yield from ((source, int(shard)) for shard in order.shards(window))
            position += size

    def next_use(self, source: int, shard: int, position: int) -> int | None:
        """About how many run positions from `position` on a shard is needed by any rank; 0 if now, None if never."""
        own = self.counts(position)[source]
        at = self.orders[source].next_use(shard, own)
        return None if at is None else (at - own) * BLOCK // self.per_block[source]


def parts_of_block(weights: Sequence[float]) -> list[int]:
    """Positions of a block for each source, by largest remainder; their sum is `BLOCK`."""
    exact = np.asarray(weights, float) / sum(weights) * BLOCK
    parts = np.floor(exact).astype(int)
    missing = BLOCK - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    if parts.min() == 0:
        raise ConfigError(
            f"source {int(parts.argmin())} would get less than 1 in {BLOCK:,} samples",
            where="data.train weight",
            given=", ".join(f"{weight:g}" for weight in weights),
            do="Raise its weight or remove it.",
        )
    return parts.tolist()


def _counts_before(per_block: list[int]) -> np.ndarray:
    """[K, BLOCK + 1] int64: positions of each source among the first p of a block."""
    pattern = np.empty(BLOCK, np.int64)
    for source, where in enumerate(_interleaved(per_block)):
        pattern[where] = source
    hits = pattern[None] == np.arange(len(per_block))[:, None]
    return np.concatenate([np.zeros((len(per_block), 1), np.int64), hits.cumsum(1)], axis=1)


def _interleaved(counts: Sequence[int]) -> list[np.ndarray]:
    """Places 0 .. sum - 1 dealt out so that each source lies evenly among the others; ascending for each."""
    if len(counts) == 1:
        return [np.arange(counts[0])]
    times = [(np.arange(count) + 0.5) / count for count in counts]
    sources = np.repeat(np.arange(len(counts)), counts)
    ranked = sources[np.argsort(np.concatenate(times), kind="stable")]
    return [np.flatnonzero(ranked == source) for source in range(len(counts))]
