"""An indexed data set opened for random access by sample id, in a folder or in a store behind a cache.

Ids count the samples of all shards in the manifest's order. Shards are opened when first needed.
`places` tells a decoder where the images of many samples lie; `sample` reads one.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from vitscale.config.dataset import MASKED, DatasetFacts, Manifest, read_manifest
from vitscale.data.bad_images import BadImage
from vitscale.data.cache import NextUse, ShardCache
from vitscale.data.index import ShardIndex
from vitscale.data.open_shard import LABEL, OpenShard
from vitscale.data.places import Places, gather, reordered
from vitscale.data.prefetch import Prefetcher
from vitscale.data.shelves import CacheShelf, FolderShelf, Missing, ShardLost, Shelf, check_folder
from vitscale.data.stores.choose import local_folder, open_store
from vitscale.data.stores.manifest import manifest_at
from vitscale.data.stores.store import Store
from vitscale.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_INDEXES_AT_ONCE = 8
T = TypeVar("T")


def open_shards(
    source: str | Path,
    *,
    cache: ShardCache | None = None,
    store: Store | None = None,
    missing: Missing = "abort",
) -> ShardSet:
    """Open the data set in a folder or at a URL.

    A folder is read where it lies, after a look at the size of every tar. The shards of a store are
    fetched into `cache` when needed and checked then.

    Args:
        source: folder or URL; only a name for messages where `store` is given.
        cache: of this node; needed for a store.
        store: read this instead of the store that `source` names.
        missing: what comes of a shard that cannot be had for good: an error, or its samples are
            without bytes (handle -1) for the life of the set.

    Raises:
        DataError: no usable manifest, or shards of a folder that are missing or resized; all are listed.
        ConfigError: a store and no cache, or an address that names no store.
        ResourceError: the package for the store is missing, or the cache cannot be used.
    """
    folder = local_folder(source) if store is None else None
    if folder is not None:
        manifest = read_manifest(folder)
        _insist_on_samples(manifest, str(folder))
        lost = check_folder(folder, manifest, missing)
        return ShardSet(folder, manifest, FolderShelf(folder), missing, lost)
    store = store or open_store(source)
    if cache is None:
        raise ConfigError(
            "a data set in a store is read by way of a cache on this node, and none is set",
            where="data.cache",
            given=store.place,
            do='Name a folder on a local disk, such as data.cache = "/local/vitscale", and data.cache_gb.',
        )
    manifest = manifest_at(source, store)
    _insist_on_samples(manifest, store.place)
    return ShardSet(store.place, manifest, CacheShelf(store, cache, manifest), missing, {})


def _insist_on_samples(manifest: Manifest, where: str) -> None:
    if not manifest.samples:
        raise DataError("the data set holds no samples", where=where, do="Pack it again.")


class ShardSet:
    """Random access to the images and labels of a data set; safe to use from several threads."""

    def __init__(
        self,
        folder: Path | str,
        manifest: Manifest,
        shelf: Shelf,
        missing: Missing,
        lost: dict[int, str],
    ) -> None:
        self.folder = folder
        self.facts: DatasetFacts = manifest.facts
        self.counts = np.array([shard.samples for shard in manifest.shards], np.int64)
        self.most_labels = manifest.most_labels
        self._records = manifest.shards
        self._first = np.concatenate([[0], np.cumsum(self.counts)])
        self._shelf, self._missing = shelf, missing
        self._lock, self._mending = threading.Lock(), threading.Lock()
        self._opened: OrderedDict[int, OpenShard] = OrderedDict()
        self._lost = lost
        self._mended: set[int] = set()
        self._labels: tuple[np.ndarray, np.ndarray] | None = None
        self._prefetcher: Prefetcher | None = None

    @property
    def samples(self) -> int:
        return self.facts.samples

    @property
    def classes(self) -> tuple[str, ...]:
        return self.facts.classes

    @property
    def lost(self) -> dict[str, str]:
        """Shards that could not be had, with the reason; only with `missing="mask"`."""
        with self._lock:
            return {self._records[number].name: why for number, why in self._lost.items()}

    @property
    def names(self) -> list[str]:
        """Of all shards, in the manifest's order."""
        return [record.name for record in self._records]

    def shard_numbers(self, ids: np.ndarray) -> np.ndarray:
        """Int64 [n]: the shard in which each sample lies, in the manifest's order."""
        return np.searchsorted(self._first, ids, side="right") - 1

    def places(self, ids: np.ndarray) -> Places:
        """Where the images of samples `ids`, int64 [n], lie; shards that are not here are fetched.

        Raises:
            DataError: an index is unusable, the store cannot be reached, or a shard is missing for
                good and that is not to be masked.
        """
        if len(ids) and not (ids.min() >= 0 and ids.max() < self.samples):
            raise IndexError(f"samples {ids.min()} to {ids.max()} of {self.samples}")
        numbers = self.shard_numbers(ids)
        order = np.argsort(numbers, kind="stable")
        sorted_numbers = numbers[order]
        begins = np.flatnonzero(np.diff(sorted_numbers, prepend=-1))
        shards = [self._shard(number) for number in sorted_numbers[begins].tolist()]
        rows = ids[order] - self._first[sorted_numbers]
        places = gather(shards, np.diff(begins, append=len(ids)), rows)
        back = np.empty_like(order)
        back[order] = np.arange(len(ids))
        return reordered(places, back)

    def label_table(self) -> tuple[np.ndarray, np.ndarray]:
        """All labels: (starts int64 [N + 1], labels uint32 [m]), read-only. Reads every index once.

        Samples of a lost shard have none. Raises as `places`.
        """
        if self._labels is None:
            parts = self._of_each_index(_labels_of)
            starts = np.zeros(self.samples + 1, np.int64)
            np.cumsum(np.concatenate([counts for counts, _ in parts]), out=starts[1:])
            labels = np.concatenate([labels for _, labels in parts])
            for table in (starts, labels):
                table.setflags(write=False)
            self._labels = starts, labels
        return self._labels

    def labels(self) -> np.ndarray:
        """Int64 [N]: the label of every sample, `MASKED` where the sidecar is lost with the shard.

        Raises:
            DataError: some other sample has no label or several.
        """
        starts, labels = self.label_table()
        counts = np.diff(starts)
        one = counts == 1
        found = np.full(self.samples, MASKED, np.int64)
        found[one] = labels[starts[:-1][one]]
        lost = np.isin(np.arange(len(self._records)), list(self._lost))
        wrong = ~one & ~np.repeat(lost, self.counts)
        if wrong.any():
            raise DataError(
                f"{int(wrong.sum()):,} of {self.samples:,} samples have no label or several",
                where=str(self.folder),
                do="Use label_table(), or a data set with one label a sample.",
            )
        found.setflags(write=False)
        return found

    def key_hashes(self) -> np.ndarray:
        """Uint64 [N]: XXH3-64 of every key, 0 where the sidecar is lost with the shard. Raises as `places`."""
        return np.concatenate(self._of_each_index(_key_hashes_of))

    def sample(self, sample: int) -> tuple[bytes, int]:
        """The image file and the first label of one sample, `MASKED` if it has none. Raises as `reread` does."""
        shard, row = self._find(sample)
        return self.read(sample), int(shard.table[row, LABEL])

    def read(self, sample: int) -> bytes:
        """The image file of one sample. Raises as `reread` does."""
        shard, row = self._find(sample)
        try:
            return shard.image(row)
        except BadImage:
            return self.reread(sample)

    def reread(self, sample: int) -> bytes:
        """The image file, read once more; if it is damaged, from a shard that is fetched anew, once a shard.

        Raises:
            BadImage: it still is not what the index says, or its shard is lost.
            DataError: as `places`.
        """
        number = self._shard_of(sample)
        row = int(sample) - int(self._first[number])
        with self._mending:
            shard, _ = self._find(sample)
            try:
                return shard.image(row)
            except BadImage:
                if number in self._mended:
                    raise
                self._mended.add(number)
                fresh = self._anew(number, shard)
                if fresh is None:
                    raise
            return fresh.image(row)

    def name(self, sample: int) -> str:
        """Shard and key for messages, such as `shard-000001.tar, key 'cat/7'`."""
        shard, key, _ = self.whereabouts(sample)
        return f"{shard}, key {key if key.startswith('number ') else repr(key)}"

    def whereabouts(self, sample: int) -> tuple[str, str, int]:
        """Shard, key and first byte of the image in the shard; -1 if the shard is lost."""
        number = self._shard_of(sample)
        name, row = self._records[number].name, int(sample) - int(self._first[number])
        shard = self._shard(number)
        if shard is None:
            return name, f"number {row} (its shard is lost)", -1
        key = shard.key(row)
        if key is None:
            key = f"number {row} (its tar header is damaged)"
        return name, key, int(shard.index.offsets[row])

    def plan(self, next_use: NextUse | None) -> None:
        """Say when each shard, by name, is needed next, so that the cache keeps the right ones."""
        self._shelf.plan(next_use)

    def prefetch(self, ahead: Iterator[int], *, shards: int, limit_bytes: int) -> None:
        """Keep the next shards of `ahead`, numbers in the order of need, fetched; a folder needs none."""
        if isinstance(self._shelf, FolderShelf):
            return
        self.stop_prefetch()
        self._prefetcher = Prefetcher(
            ahead,
            lambda number: self._shelf.fetch_ahead(self._records[number]),
            lambda number: self._records[number].bytes,
            shards=shards,
            limit_bytes=limit_bytes,
        )

    def stop_prefetch(self) -> None:
        """End what `prefetch` began."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def close(self) -> None:
        """Let all files go and end all waiting. What `places` returned stays readable."""
        self._shelf.close()
        self.stop_prefetch()
        self._let_go()

    def _find(self, sample: int) -> tuple[OpenShard, int]:
        number = self._shard_of(sample)
        shard = self._shard(number)
        if shard is None:
            raise BadImage(f"its shard is lost: {self._lost[number]}")
        return shard, int(sample) - int(self._first[number])

    def _shard_of(self, sample: int) -> int:
        if not 0 <= sample < self.samples:
            raise IndexError(f"sample {sample} of {self.samples}")
        return int(np.searchsorted(self._first, sample, side="right")) - 1

    def _shard(self, number: int) -> OpenShard | None:
        """The opened shard; None if it is lost and that is to be masked."""
        with self._lock:
            shard = self._opened.get(number)
            if shard is not None:
                self._opened.move_to_end(number)
            known = shard is not None or number in self._lost
        if known:
            if self._prefetcher is not None:
                self._prefetcher.met(number)
            return shard
        if self._prefetcher is not None:
            self._prefetcher.needed(number)
        try:
            shard = self._shelf.open(self._records[number], self._let_go)
        except ShardLost as error:
            return self._lose(number, error)
        return self._put(number, shard)

    def _put(self, number: int, shard: OpenShard) -> OpenShard:
        with self._lock:
            self._opened[number] = shard
            self._opened.move_to_end(number)
            gone = [
                self._opened.popitem(last=False)[1]
                for _ in range(len(self._opened) - self._shelf.idle)
            ]
        del gone  # files are closed here, without the lock
        return shard

    def _let_go(self) -> None:
        with self._lock:
            gone, self._opened = self._opened, OrderedDict()
        gone.clear()

    def _anew(self, number: int, damaged: OpenShard) -> OpenShard | None:
        try:
            fresh = self._shelf.anew(self._records[number], damaged)
        except ShardLost as error:
            raise BadImage(f"is damaged, and its shard cannot be fetched again: {error}") from error
        return None if fresh is None else self._put(number, fresh)

    def _lose(self, number: int, error: ShardLost) -> None:
        """Note a shard as lost, or end the run with it."""
        name = self._records[number].name
        if self._missing == "abort":
            raise DataError(
                f"shard {name} cannot be had: {error}",
                where=str(self.folder),
                do='Bring it back, or set data.missing_shards = "mask" to go on without its samples.',
            ) from error
        with self._lock:
            known = number in self._lost
            self._lost[number] = str(error)
        if not known:
            _log.warning("masked %d samples of lost shard %s: %s", self.counts[number], name, error)

    def _of_each_index(self, take: Callable[[ShardIndex | None, int], T]) -> list[T]:
        """`take(index, samples)` for every shard; the index is None if it is lost."""

        def one(number: int) -> T:
            try:
                index = self._shelf.index(self._records[number])
            except ShardLost as error:
                self._lose(number, error)
                index = None
            return take(index, int(self.counts[number]))

        with ThreadPoolExecutor(_INDEXES_AT_ONCE) as pool:
            return list(pool.map(one, range(len(self._records))))


def _labels_of(index: ShardIndex | None, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels a sample, and labels, of one shard, as copies: views would keep the whole index."""
    if index is None:
        return np.zeros(samples, np.uint32), np.zeros(0, np.uint32)
    return np.diff(index.label_starts), index.labels.copy()


def _key_hashes_of(index: ShardIndex | None, samples: int) -> np.ndarray:
    return np.zeros(samples, np.uint64) if index is None else index.key_hashes.copy()
