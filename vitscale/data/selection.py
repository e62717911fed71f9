"""The samples of one shard set that a source of a recipe names: a part, some classes, lists of ids or keys."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitscale.config.source import Source
from vitscale.data.index import hash_of_key
from vitscale.data.lists import read_list
from vitscale.data.shards import ShardSet
from vitscale.errors import ConfigError, DataError, nearest

_NAMED = 5


@dataclass(frozen=True)
class Selection:
    """Samples 0 .. n - 1 of a source, in the order of their ids in the whole set. K old classes."""

    shards: ShardSet
    classes: tuple[str, ...]
    counts: np.ndarray
    """[S] int64: samples taken of each shard."""
    ids: np.ndarray | range
    """[n] int64 ids in the set, ascending."""
    new_labels: np.ndarray | None
    """[K] int64: the label under which each class goes on, -1 for none; None if all stay."""

    @property
    def samples(self) -> int:
        return len(self.ids)

    @property
    def is_whole(self) -> bool:
        return self.samples == self.shards.samples and self.new_labels is None

    @property
    def fingerprint(self) -> str:
        """That of the set if all of it is taken; else a hash of it and of what is taken."""
        whole = self.shards.facts.fingerprint
        if self.is_whole:
            return whole
        if isinstance(self.ids, range):
            taken = [self.ids.start, self.ids.stop]
        else:
            taken = [hashlib.blake2b(self.ids.astype("<i8").tobytes()).hexdigest()]
        text = json.dumps([whole, taken, self.classes])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def set_ids(self, samples: np.ndarray) -> np.ndarray:
        """Ids in the whole set, int64 [n], of samples of this selection."""
        if isinstance(self.ids, range):
            return samples + self.ids.start
        return self.ids[samples]


def select(shards: ShardSet, source: Source) -> Selection:
    """What `source` takes of `shards`.

    Raises:
        ConfigError: a class that the set does not have.
        DataError: a list names unknown samples or cannot be read, or nothing is left.
    """
    part = source.part
    begin, end = part.of(shards.samples) if part else (0, shards.samples)
    ids: np.ndarray | range = range(begin, end)
    _insist(ids, f"the part {source.shards[len(source.place) :]}", source, shards)
    new_labels = None
    if source.classes is not None:
        new_labels = _new_labels(shards, source.classes)
        ids = _of_classes(shards, np.asarray(ids), new_labels)
        _insist(ids, "classes", source, shards)
    for name, keep in (("ids", True), ("keys", True), ("without", False)):
        if (path := getattr(source, name)) is not None:
            listed = _read_ids(path, shards) if name == "ids" else _read_keys(path, shards)
            ids = np.asarray(ids)
            ids = ids[np.isin(ids, listed, invert=not keep)]
            _insist(ids, f"{name} = {path}", source, shards)
    return Selection(
        shards, source.classes or shards.classes, _counts(shards, ids), ids, new_labels
    )


def _insist(ids: np.ndarray | range, what: str, source: Source, shards: ShardSet) -> None:
    if not len(ids):
        raise DataError(
            f"no sample is left by {what}",
            where=source.shards,
            given=f"a set of {shards.samples:,} samples",
            do="Widen the part or the filters of this source.",
        )


def _counts(shards: ShardSet, ids: np.ndarray | range) -> np.ndarray:
    """[S] int64: how many of the ascending `ids` lie in each shard."""
    edges = np.concatenate([[0], np.cumsum(shards.counts)])
    if isinstance(ids, range):
        return np.diff(edges.clip(ids.start, ids.stop))
    return np.diff(np.searchsorted(ids, edges))


def _new_labels(shards: ShardSet, classes: tuple[str, ...]) -> np.ndarray:
    old = {name: label for label, name in enumerate(shards.classes)}
    unknown = [name for name in classes if name not in old]
    if unknown:
        raise ConfigError(
            f"the set has no class {', '.join(map(repr, unknown[:_NAMED]))}",
            where=f"classes of {shards.folder}",
            do=f"{nearest(unknown[0], shards.classes).capitalize()}",
        )
    new = np.full(len(shards.classes), -1, np.int64)
    new[[old[name] for name in classes]] = np.arange(len(classes))
    return new


def _of_classes(shards: ShardSet, ids: np.ndarray, new_labels: np.ndarray) -> np.ndarray:
    """Those of `ids` that have a label which goes on."""
    starts, labels = shards.label_table()
    hits = np.concatenate([[0], np.cumsum(new_labels[labels] >= 0)])
    return ids[hits[starts[ids + 1]] > hits[starts[ids]]]


def _read_ids(path: str, shards: ShardSet) -> np.ndarray:
    lines = _each_once(Path(path))
    wrong = [line for line in lines if not line.isdigit() or int(line) >= shards.samples]
    if wrong:
        raise DataError(
            f"{len(wrong)} lines are no sample number, the first {wrong[0]!r}",
            where=path,
            given=f"a set of {shards.samples:,} samples, numbered from 0",
            do="Write one number a line, or use `keys` for keys.",
        )
    return np.array([int(line) for line in lines], np.int64)


def _read_keys(path: str, shards: ShardSet) -> np.ndarray:
    """Ids of the samples whose keys are listed; the index holds hashes of the keys."""
    lines = _each_once(Path(path))
    wanted = np.array([hash_of_key(line) for line in lines], np.uint64)
    hashes = shards.key_hashes()
    order = np.argsort(hashes, kind="stable")
    begin = np.searchsorted(hashes[order], wanted, side="left")
    end = np.searchsorted(hashes[order], wanted, side="right")
    unknown = np.flatnonzero(begin == end)
    if len(unknown):
        names = ", ".join(repr(lines[n]) for n in unknown[:_NAMED])
        raise DataError(
            f"{len(unknown)} keys are not in the set: {names}",
            where=path,
            given=str(shards.folder),
            do="A key is the name of a sample's files up to the first dot, with its folders.",
        )
    return np.concatenate([order[b:e] for b, e in zip(begin, end, strict=True)])


def _each_once(path: Path) -> list[str]:
    lines = read_list(path)
    if len(set(lines)) < len(lines):
        raise DataError("the list has lines twice", where=str(path), do="Name every sample once.")
    return lines
