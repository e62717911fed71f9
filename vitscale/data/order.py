"""The order of training samples as a pure function of (seed, position): any place is reached at once.

1. An epoch permutes the shards and lays their samples in a line.
2. The line is cut into lanes of equal length; position p of the epoch is place p // lanes
   of lane p % lanes.
3. Within a lane, windows of neighbouring samples are permuted; the first window is cut short at
   random, so that window borders wander from epoch to epoch.

Position P is position P % N of epoch P // N, so a batch may straddle epochs: every sample comes
exactly once an epoch, none is dropped or padded, and every batch is full. `mixture.py` cuts batches
over ranks. Letters: N samples, C lanes, S shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vitscale.data.random_keys import generator


@dataclass(frozen=True)
class Places:
    """Where the samples of a stretch stand: epoch, lane, and place in the lane."""

    epochs: np.ndarray
    """[n] int64."""
    lanes: np.ndarray
    """[n] int64."""
    places: np.ndarray
    """[n] int64."""

    def __getitem__(self, part: slice | np.ndarray) -> Places:
        return Places(self.epochs[part], self.lanes[part], self.places[part])

    def __len__(self) -> int:
        return len(self.epochs)


@dataclass(frozen=True)
class Window:
    """Neighbouring samples of a lane that are permuted among each other."""

    epoch: int
    lane: int
    start: int
    """First place in the lane."""


class Order:
    """The order of one data set under one seed, lane count and window.

    Args:
        counts: [S] samples of each shard.
        seed: of the run.
        lanes: parts of the line read side by side. A corpus that fewer windows can cover gets fewer
            lanes: then each lane is one window, and one alone is a full permutation.
        window: samples permuted among each other.
        first_epoch: number of the epoch at position 0; another number gives another order.
    """

    def __init__(
        self, counts: np.ndarray, *, seed: int, lanes: int, window: int, first_epoch: int = 0
    ) -> None:
        counts = np.asarray(counts, np.int64)
        self.samples = int(counts.sum())
        self.lanes = min(lanes, -(-self.samples // window))
        self._seed, self._window, self._counts = seed, window, counts
        self._first_epoch = first_epoch
        self._first = np.concatenate([[0], np.cumsum(counts)])
        lane = np.arange(self.lanes)
        self._lane_length = self.samples // self.lanes + (lane < self.samples % self.lanes)
        self._lane_start = np.concatenate([[0], np.cumsum(self._lane_length)])
        self._line = lru_cache(maxsize=2)(self._make_line)
        self._first_window = lru_cache(maxsize=2)(self._make_first_window)
        self._windows: dict[int, dict[Window, np.ndarray]] = {}

    def places(self, position: int, size: int) -> Places:
        """Where positions [position, position + size) stand, sorted by lane, then epoch, then place."""
        first = position // self.samples
        run = np.arange(position - first * self.samples, position - first * self.samples + size)
        epochs, within = self._first_epoch + first + run // self.samples, run % self.samples
        places, lanes = np.divmod(within, self.lanes)
        by_lane = np.argsort(lanes, kind="stable")  # they come by epoch and place already
        return Places(epochs, lanes, places)[by_lane]

    def ids(self, at: Places) -> np.ndarray:
        """Sample ids, int64 [n], one gather for each window that is touched."""
        ids = np.empty(len(at), np.int64)
        for window, part in self.windows(at):
            ids[part] = self._window_ids(window)[at.places[part] - window.start]
        return ids

    def windows(self, at: Places) -> Iterator[tuple[Window, slice]]:
        """The windows that sorted places fall into, each with its stretch of them."""
        starts = self._window_starts(at)
        change = (np.diff(at.epochs) != 0) | (np.diff(at.lanes) != 0) | (np.diff(starts) != 0)
        edges = [0, *(np.flatnonzero(change) + 1).tolist(), len(at)]
        for begin, end in itertools.pairwise(edges):
            if begin < end:
                window = Window(int(at.epochs[begin]), int(at.lanes[begin]), int(starts[begin]))
                yield window, slice(begin, end)

    def shards(self, window: Window) -> np.ndarray:
        """Numbers of the shards that hold the samples of a window, int64 [n], in the line's order."""
        shards, ends = self._line(window.epoch)
        begin = int(self._lane_start[window.lane]) + window.start
        last = begin + self._length(window) - 1
        first_at, last_at = np.searchsorted(ends, [begin, last], side="right")
        found = shards[first_at : last_at + 1]
        return found[self._counts[found] > 0]

    def next_use(self, shard: int, position: int) -> int | None:
        """The first position from `position` on at which a window is read that needs `shard`.

        A window is needed as long as one of its samples is still to come. None for a shard without samples.
        """
        epoch, within = divmod(position, self.samples)
        for later in (0, 1):
            earliest = within if later == 0 else 0
            found = self._use_in_epoch(shard, self._first_epoch + epoch + later, earliest)
            if found is not None:
                return (epoch + later) * self.samples + found
        return None

    def _use_in_epoch(self, shard: int, epoch: int, earliest: int) -> int | None:
        """First position within the epoch, from `earliest` on, that needs the shard."""
        shards, ends = self._line(epoch)
        at = int(np.flatnonzero(shards == shard)[0])
        end = int(ends[at])
        begin = end - int(self._counts[shard])
        first_lane = int(np.searchsorted(self._lane_start, begin, side="right")) - 1
        last_lane = int(np.searchsorted(self._lane_start, end - 1, side="right")) - 1
        uses = []
        for lane in range(first_lane, last_lane + 1):
            start, length = int(self._lane_start[lane]), int(self._lane_length[lane])
            first = max(begin - start, 0)
            last = min(end - start, length) - 1
            opens = self._window_start(epoch, lane, first)
            closing = Window(epoch, lane, self._window_start(epoch, lane, last))
            closes = closing.start + self._length(closing) - 1
            if closes * self.lanes + lane >= earliest:
                uses.append(max(opens * self.lanes + lane, earliest))
        return min(uses, default=None)

    def _window_start(self, epoch: int, lane: int, place: int) -> int:
        at = Places(np.array([epoch]), np.array([lane]), np.array([place]))
        return int(self._window_starts(at)[0])

    def _window_starts(self, at: Places) -> np.ndarray:
        """First place of the window that holds each place."""
        cut = np.empty(len(at), np.int64)
        for epoch in np.unique(at.epochs):
            here = at.epochs == epoch
            cut[here] = self._first_window(int(epoch))[at.lanes[here]]
        later = cut + (at.places - cut) // self._window * self._window
        return np.where(at.places < cut, 0, later)

    def _length(self, window: Window) -> int:
        if window.start == 0:
            return int(self._first_window(window.epoch)[window.lane])
        return min(self._window, int(self._lane_length[window.lane]) - window.start)

    def _make_first_window(self, epoch: int) -> np.ndarray:
        """Length of the first window of every lane, int64 [C]; a lane that fits into one window is one."""
        drawn = generator("first window", self._seed, epoch).integers(
            1, self._window + 1, self.lanes
        )
        return np.where(self._lane_length > self._window, drawn, self._lane_length)

    def _window_ids(self, window: Window) -> np.ndarray:
        """Ids of a window's samples in the order they are read; of each lane the last two are remembered."""
        known = self._windows.setdefault(window.lane, {})
        if window not in known:
            if len(known) == 2:
                del known[next(iter(known))]
            known[window] = self._make_window_ids(window)
        return known[window]

    def _make_window_ids(self, window: Window) -> np.ndarray:
        epoch, lane, start = window.epoch, window.lane, window.start
        stream = generator("window", self._seed, epoch, lane, start)
        order = stream.permutation(self._length(window))
        return self._ids_on_line(epoch, int(self._lane_start[lane]) + start + order)

    def _ids_on_line(self, epoch: int, places: np.ndarray) -> np.ndarray:
        shards, ends = self._line(epoch)
        at = np.searchsorted(ends, places, side="right")
        begins = ends[at] - self._counts[shards[at]]
        return self._first[shards[at]] + places - begins

    def _make_line(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's permutation of the shards, and where on the line each ends; both int64 [S]."""
        shards = generator("shards", self._seed, epoch).permutation(len(self._counts))
        return shards, np.cumsum(self._counts[shards])
