"""Everything a run reads from: one or several selections of shard sets, under one list of classes.

Samples count on from source to source. Classes of the same name are the same class; the list begins
with those of the first source and goes on with what the next ones add.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitscale.config.data import DataConfig
from vitscale.config.dataset import MASKED, DatasetFacts
from vitscale.config.source import Source
from vitscale.data.cache import ShardCache
from vitscale.data.pixels import Files
from vitscale.data.places import label_part
from vitscale.data.selection import Selection, select
from vitscale.data.shards import ShardSet, open_shards
from vitscale.data.stores.choose import local_folder, open_store
from vitscale.data.stores.store import Store
from vitscale.errors import DataError

NextUse = Callable[[int, int], int | None]
_GB = 10**9
_LABELS_AT_ONCE = 1 << 20
_AHEAD_SHARDS = 64
_AHEAD_BYTES = 16 * _GB
"""What a rank has fetched beyond the shards it reads; the size of the cache is a bound of its own."""


@dataclass(frozen=True)
class Rows:
    """Where the images of some samples lie, and their labels. L labels at most."""

    files: Files
    labels: np.ndarray
    """[n, L] int64, `MASKED` behind the last label of a sample."""
    keep: Sequence[Any]
    """Holds the files open as long as this object lives."""


def open_corpus(
    sources: Sequence[Source], config: DataConfig | None = None, *, cache: ShardCache | None = None
) -> Corpus:
    """Open the sources as `config` says about missing shards and the cache.

    Raises:
        DataError: a set is missing, damaged or unreadable, or a filter leaves nothing.
        ConfigError: a filter names what a set does not have; a remote set and no cache.
    """
    missing = config.missing_shards if config else "abort"
    cache = cache or cache_of(config)
    opened: dict[str, ShardSet] = {}
    for source in sources:
        if source.place not in opened:
            store = _store_of(source.place, config)
            opened[source.place] = open_shards(
                source.place, cache=cache, store=store, missing=missing
            )
    return Corpus([select(opened[source.place], source) for source in sources])


def _store_of(place: str, config: DataConfig | None) -> Store | None:
    """The store behind a URL; None for a folder, which is read where it lies."""
    if local_folder(place) is not None:
        return None
    return open_store(place, allow_pipe=config is not None and config.allow_pipe)


def cache_of(config: DataConfig | None) -> ShardCache | None:
    """The node's cache, where the recipe names one."""
    if config is None or config.cache is None:
        return None
    return ShardCache(config.cache, int(config.cache_gb * _GB))


class Corpus:
    """Random access to the samples of all sources; safe to use from several threads."""

    def __init__(self, selections: Sequence[Selection]) -> None:
        self.selections = tuple(selections)
        self.classes = _all_classes(self.selections)
        self._first = np.concatenate([[0], np.cumsum([s.samples for s in self.selections])])
        self._labels_of = [_label_map(selection, self.classes) for selection in self.selections]
        self.most_labels = max(1, *(s.shards.most_labels for s in self.selections))

    @property
    def samples(self) -> int:
        return int(self._first[-1])

    @property
    def where(self) -> str:
        """Folders or URLs, for messages."""
        return ", ".join(str(shards.folder) for shards in self._sets())

    @functools.cached_property
    def facts(self) -> DatasetFacts:
        """Of the samples that are read; bytes in proportion to them."""
        prints = [selection.fingerprint for selection in self.selections]
        joined = hashlib.blake2b(json.dumps(prints).encode(), digest_size=16).hexdigest()
        sets = [(s.shards.facts, s.samples) for s in self.selections]
        return DatasetFacts(
            self.samples,
            self.classes,
            prints[0] if len(prints) == 1 else joined,
            sum(int((s.counts > 0).sum()) for s in self.selections),
            sum(facts.bytes * taken // facts.samples for facts, taken in sets),
        )

    def rows(self, samples: np.ndarray) -> Rows:
        """Where the images of `samples`, int64 [n], lie, and their labels."""
        parts = self._by_source(samples)
        if len(parts) == 1:
            source, _, own = parts[0]
            return self._rows_of(source, own)
        rows = [self._rows_of(source, own) for source, _, own in parts]
        back = np.argsort(np.concatenate([where for _, where, _ in parts]), kind="stable")
        files = Files(
            **{
                name: np.concatenate([getattr(row.files, name) for row in rows])[back]
                for name in ("handles", "offsets", "lengths", "crcs", "sizes")
            }
        )
        labels = np.concatenate([row.labels for row in rows])[back]
        return Rows(files, labels, [row.keep for row in rows])

    def _rows_of(self, source: int, samples: np.ndarray) -> Rows:
        selection = self.selections[source]
        places = selection.shards.places(selection.set_ids(samples))
        labels = self._new_labels(source, places.label_starts, places.labels)
        return Rows(places.files, labels, [places])

    def _new_labels(self, source: int, starts: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """[n, L] int64 from CSR labels of the set."""
        table = np.full((len(starts) - 1, self.most_labels), MASKED, np.int64)
        new = self._labels_of[source]
        if new is not None:
            labels = new[labels]
            kept = labels >= 0
            starts = np.concatenate([[0], np.cumsum(kept)])[starts]
            labels = labels[kept]
        counts = np.diff(starts)
        row = np.repeat(np.arange(len(counts)), counts)
        table[row, np.arange(len(labels)) - starts[row]] = labels
        return table

    def label_rows(self) -> np.ndarray:
        """[N, L] int64: the labels of all samples, `MASKED` behind the last of each. Reads every index."""
        rows = np.empty((self.samples, self.most_labels), np.int64)
        for source, selection in enumerate(self.selections):
            starts, labels = selection.shards.label_table()
            for begin in range(0, selection.samples, _LABELS_AT_ONCE):
                own = np.arange(begin, min(begin + _LABELS_AT_ONCE, selection.samples))
                part = label_part(starts, labels, selection.set_ids(own))
                rows[self._first[source] + own] = self._new_labels(source, *part)
        return rows

    def labels(self) -> np.ndarray:
        """[N] int64: the label of every sample.

        Raises:
            DataError: some sample has none or several.
        """
        rows = self.label_rows()
        right = (rows[:, 0] != MASKED) & (rows[:, 1:] == MASKED).all(1)
        if not right.all():
            raise DataError(
                f"{int((~right).sum()):,} of {self.samples:,} samples have no label or several",
                where=self.where,
                given=f"the first: {self.name(int(right.argmin()))}",
                do="Use a set with one label each, or select samples that have one.",
            )
        return rows[:, 0]

    def name(self, sample: int) -> str:
        """Shard and key for messages."""
        shards, own = self._one(sample)
        return shards.name(own)

    def whereabouts(self, sample: int) -> tuple[str, str, int]:
        """Shard, key, and first byte of the image in the shard."""
        shards, own = self._one(sample)
        return shards.whereabouts(own)

    def reread(self, sample: int) -> bytes:
        """The image file, fetched anew where it came from a store.

        Raises:
            BadImage: it still is not what the index says.
        """
        shards, own = self._one(sample)
        return shards.reread(own)

    def read(self, sample: int) -> bytes:
        """The image file of one sample; raises as `reread` does."""
        shards, own = self._one(sample)
        return shards.read(own)

    def follow(self, ahead: Callable[[], Iterator[tuple[int, int]]], next_use: NextUse) -> None:
        """Have the shards of stores fetched before they are needed, and the right ones kept in the cache.

        Args:
            ahead: starts a walk over (source, shard number) in the order of need.
            next_use: when a shard (source, number) is needed next: larger is later, None is never.
        """
        for shards in self._sets():
            own = [source for source, s in enumerate(self.selections) if s.shards is shards]
            number_of = {name: number for number, name in enumerate(shards.names)}
            shards.prefetch(_numbers(ahead(), own), shards=_AHEAD_SHARDS, limit_bytes=_AHEAD_BYTES)
            shards.plan(_by_name(own, number_of, next_use))

    def rest(self) -> None:
        """End what `follow` began."""
        for shards in self._sets():
            shards.plan(None)
            shards.stop_prefetch()

    @property
    def lost(self) -> dict[str, str]:
        """Shards that could not be had, with the reason."""
        return {name: why for shards in self._sets() for name, why in shards.lost.items()}

    def _sets(self) -> list[ShardSet]:
        return list({id(s.shards): s.shards for s in self.selections}.values())

    def _by_source(self, samples: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(source, places in `samples`, samples of the source) for every source that is met."""
        if len(self.selections) == 1:
            return [(0, np.arange(len(samples)), samples)]
        sources = np.searchsorted(self._first, samples, side="right") - 1
        parts = []
        for source in np.unique(sources):
            where = np.flatnonzero(sources == source)
            parts.append((int(source), where, samples[where] - self._first[source]))
        return parts

    def _one(self, sample: int) -> tuple[ShardSet, int]:
        if not 0 <= sample < self.samples:
            raise IndexError(f"sample {sample} of {self.samples}")
        [(source, _, own)] = self._by_source(np.array([sample]))
        selection = self.selections[source]
        return selection.shards, int(selection.set_ids(own)[0])


def _numbers(walk: Iterator[tuple[int, int]], sources: list[int]) -> Iterator[int]:
    return (number for source, number in walk if source in sources)


def _by_name(
    sources: list[int], number_of: dict[str, int], next_use: NextUse
) -> Callable[[str], int | None]:
    def of_name(name: str) -> int | None:
        if name not in number_of:
            return None
        uses = [next_use(source, number_of[name]) for source in sources]
        return min((use for use in uses if use is not None), default=None)

    return of_name


def _all_classes(selections: Sequence[Selection]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for s in selections for name in s.classes))


def _label_map(selection: Selection, classes: tuple[str, ...]) -> np.ndarray | None:
    """From labels of the set to labels of the corpus, -1 where dropped; None where nothing changes."""
    if selection.classes == classes[: len(selection.classes)]:
        return selection.new_labels
    number = {name: label for label, name in enumerate(classes)}
    own = np.array([number[name] for name in selection.classes], np.int64)
    if selection.new_labels is None:
        return own
    return np.where(selection.new_labels >= 0, own[selection.new_labels], -1)
