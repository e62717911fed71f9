"""Single shards as tools look into them: sidecar, image files by row, and keys, which stand only in the tar."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitscale.config.dataset import Manifest, ShardRecord
from vitscale.data.index import ShardIndex, hash_of_key, hash_of_labels, index_path, read_index
from vitscale.data.samples import IMAGE_EXTENSIONS
from vitscale.data.tar_headers import TarReader, members
from vitscale.data.tar_samples import split_name
from vitscale.errors import ConfigError, DataError


class Place(NamedTuple):
    """Where a sample is: its shard's record and the row in it."""

    record: ShardRecord
    row: int


def index_of(folder: Path, record: ShardRecord) -> ShardIndex:
    """The sidecar of a shard.

    Raises:
        DataError: it is unusable, or belongs to another version of the shard than the manifest.
    """
    path = index_path(folder / record.name)
    index = read_index(path)
    same = (index.tar_bytes, index.tar_xxh3) == (record.bytes, record.xxh3)
    if not same or len(index) != record.samples or hash_of_labels(index) != record.labels:
        what = "the index belongs to another version of the shard than the manifest"
        raise DataError(what, where=str(path), do=f"Run `vitscale shards index {folder}`.")
    return index


def read_rows(tar: Path, index: ShardIndex, rows: Iterable[int]) -> Iterable[bytes]:
    """The image files of these rows, unchecked.

    Raises:
        DataError: the tar cannot be read.
    """
    try:
        with open(tar, "rb") as file:
            for row in rows:
                file.seek(int(index.offsets[row]))
                yield file.read(int(index.lengths[row]))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(tar)) from error


def keys_in(tar: Path, index: ShardIndex) -> list[str]:
    """The key of every row, by a walk over the headers alone.

    Raises:
        DataError: the tar is damaged or not the one that was indexed.
    """
    by_offset: dict[int, str] = {}
    try:
        with open(tar, "rb") as file:
            for member in members(TarReader(file, str(tar))):
                key, extension = split_name(member.name)
                if key is not None and extension and extension.lower() in IMAGE_EXTENSIONS:
                    by_offset[member.data] = key
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(tar)) from error
    keys = [by_offset.get(offset) for offset in index.offsets.tolist()]
    if None in keys:
        do = f"Run `vitscale shards index {tar.parent}`."
        raise DataError("the tar is not the one that was indexed", where=str(tar), do=do)
    return [key for key in keys if key is not None]


def place_of_id(manifest: Manifest, sample: int) -> Place:
    """Shard and row of a sample id.

    Raises:
        ConfigError: there is no such id.
    """
    first = 0
    for record in manifest.shards:
        if first <= sample < first + record.samples:
            return Place(record, sample - first)
        first += record.samples
    raise ConfigError(
        "no such sample", where="--id", given=sample, do=f"Ids run from 0 to {first - 1}."
    )


def places_of_key(folder: Path, manifest: Manifest, key: str) -> list[tuple[int, Place]]:
    """(id, place) of every sample with this key; a key may come once in each shard."""
    wanted = np.uint64(hash_of_key(key))
    found: list[tuple[int, Place]] = []
    first = 0
    for record in manifest.shards:
        rows = np.flatnonzero(index_of(folder, record).key_hashes == wanted)
        found += [(first + int(row), Place(record, int(row))) for row in rows]
        first += record.samples
    return found
