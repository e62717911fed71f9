"""The order of training samples as a pure function of (seed, position): any place is reached at once.

1. An epoch permutes the shards and lays their samples in a line.
2. The line is cut into lanes of equal length; position p of the epoch is place p // lanes
   of lane p % lanes.
3. Within a lane, windows of neighbouring samples are permuted; the first window is cut short at
   random, so that window borders wander from epoch to epoch.

Run position P is position P % N of epoch P // N, so a batch may straddle epochs: every sample comes
exactly once an epoch, none is dropped or padded, and every batch is full. Letters: N samples, C
lanes, G samples of a batch.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vitscale.data.random_keys import generator


@dataclass(frozen=True)
class Slots:
    """Places in a batch: the epoch and the sample id of each."""

    epochs: np.ndarray
    """[n] int64."""
    ids: np.ndarray
    """[n] int64."""

    def __getitem__(self, part: slice) -> Slots:
        return Slots(self.epochs[part], self.ids[part])

    def __len__(self) -> int:
        return len(self.ids)


class Order:
    """The order of one data set under one seed, lane count and window.

    Args:
        counts: [S] samples of each shard.
        seed: of the run.
        lanes: parts of the line read side by side. A corpus that fewer windows can cover gets fewer
            lanes: then each lane is one window, and one alone is a full permutation.
        window: samples permuted among each other.
    """

    def __init__(self, counts: np.ndarray, *, seed: int, lanes: int, window: int) -> None:
        counts = np.asarray(counts, np.int64)
        self.samples = int(counts.sum())
        self.lanes = min(lanes, -(-self.samples // window))
        self._seed, self._window, self._counts = seed, window, counts
        self._first = np.concatenate([[0], np.cumsum(counts)])
        lane = np.arange(self.lanes)
        self._lane_length = self.samples // self.lanes + (lane < self.samples % self.lanes)
        self._lane_start = np.concatenate([[0], np.cumsum(self._lane_length)])
        self._line = lru_cache(maxsize=2)(self._make_line)
        self._first_window = lru_cache(maxsize=2)(self._make_first_window)
        self._windows: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()

    def batch(self, position: int, size: int, rank: int = 0, world: int = 1) -> Slots:
        """This rank's slots of the global batch at run positions [position, position + size).

        Slots stand by lane, then epoch, then place, and are cut over the ranks in that order: the
        batch is the same list for every world size that divides it, and a rank reads few shards at
        a time.
        """
        assert size % world == 0, f"a batch of {size} does not divide over {world} ranks"
        share = size // world
        epochs, places, lanes = self._sorted_slots(position, size)
        mine = slice(rank * share, (rank + 1) * share)
        return Slots(epochs[mine], self._ids(epochs[mine], places[mine], lanes[mine]))

    def _sorted_slots(self, position: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epoch, place in lane and lane of each slot, all int64 [size]."""
        first = position // self.samples
        run = np.arange(position - first * self.samples, position - first * self.samples + size)
        epochs, within = first + run // self.samples, run % self.samples
        places, lanes = np.divmod(within, self.lanes)
        by_lane = np.argsort(lanes, kind="stable")  # slots come by epoch and place already
        return epochs[by_lane], places[by_lane], lanes[by_lane]

    def _ids(self, epochs: np.ndarray, places: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Sample ids, int64 [n], one gather for each window that the slots touch."""
        starts = self._window_starts(epochs, places, lanes)
        change = (np.diff(epochs) != 0) | (np.diff(lanes) != 0) | (np.diff(starts) != 0)
        edges = [0, *(np.flatnonzero(change) + 1).tolist(), len(places)]
        ids = np.empty(len(places), np.int64)
        for begin, end in itertools.pairwise(edges):
            start = int(starts[begin])
            window = self._window_ids(int(epochs[begin]), int(lanes[begin]), start)
            ids[begin:end] = window[places[begin:end] - start]
        return ids

    def _window_starts(
        self, epochs: np.ndarray, places: np.ndarray, lanes: np.ndarray
    ) -> np.ndarray:
        """First place of the window that holds each slot."""
        cut = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            at = epochs == epoch
            cut[at] = self._first_window(int(epoch))[lanes[at]]
        later = cut + (places - cut) // self._window * self._window
        return np.where(places < cut, 0, later)

    def _make_first_window(self, epoch: int) -> np.ndarray:
        """Length of the first window of every lane, int64 [C]; a lane that fits into one window is one."""
        drawn = generator("first window", self._seed, epoch).integers(
            1, self._window + 1, self.lanes
        )
        return np.where(self._lane_length > self._window, drawn, self._lane_length)

    def _window_ids(self, epoch: int, lane: int, start: int) -> np.ndarray:
        """Ids of a window's samples in the order they are read; the last two windows a lane are remembered."""
        key = (epoch, lane, start)
        if key in self._windows:
            self._windows.move_to_end(key)
            return self._windows[key]
        cut = int(self._first_window(epoch)[lane])
        end = cut if start < cut else min(start + self._window, int(self._lane_length[lane]))
        order = generator("window", self._seed, epoch, lane, start).permutation(end - start)
        ids = self._ids_on_line(epoch, int(self._lane_start[lane]) + start + order)
        self._windows[key] = ids
        if len(self._windows) > 2 * self.lanes:
            self._windows.popitem(last=False)
        return ids

    def _ids_on_line(self, epoch: int, places: np.ndarray) -> np.ndarray:
        shards, ends = self._line(epoch)
        at = np.searchsorted(ends, places, side="right")
        begins = ends[at] - self._counts[shards[at]]
        return self._first[shards[at]] + places - begins

    def _make_line(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's permutation of the shards, and where on the line each ends; both int64 [S]."""
        shards = generator("shards", self._seed, epoch).permutation(len(self._counts))
        return shards, np.cumsum(self._counts[shards])
