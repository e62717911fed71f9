"""An indexed data set opened for random access: `sample(id)` is one read and one checksum.

Ids count the samples of all shards in the manifest's order. Files are opened when first needed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import crc32c
import numpy as np

from vitscale.config.dataset import DatasetFacts, Manifest, ShardRecord, read_manifest
from vitscale.data.bad_images import BadImage
from vitscale.data.index import ShardIndex, hash_of_key, hash_of_labels, index_path, read_index
from vitscale.data.tar_headers import BLOCK, TarReader, members
from vitscale.errors import DataError

_OPEN_SHARDS = 256
"""Kept open a process, below the usual limit of 1024 files."""


def open_shards(folder: str | Path) -> ShardSet:
    """Open the data set in `folder` after a look at the size of every tar.

    Raises:
        DataError: no usable manifest, or shards that are missing or resized; all are listed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not manifest.samples:
        raise DataError("the data set holds no samples", where=str(folder), do="Pack it again.")
    problems = [
        text for shard in manifest.shards for text in _size_problems(folder / shard.name, shard)
    ]
    if problems:
        count = "1 shard file is" if len(problems) == 1 else f"{len(problems)} shard files are"
        raise DataError(
            f"{count} missing or changed:\n  " + "\n  ".join(problems) + "\n",
            where=str(folder),
            do="Copy them again, or run `vitscale shards index` if the change is wanted.",
        )
    return ShardSet(folder, manifest)


def _size_problems(tar: Path, shard: ShardRecord) -> Iterable[str]:
    try:
        size = tar.stat().st_size
        if size != shard.bytes:
            yield f"{tar.name} has {size} bytes, the manifest says {shard.bytes}"
    except OSError as error:
        yield f"{tar.name}: {error.strerror}"
    if not index_path(tar).is_file():
        yield f"{index_path(tar).name} is missing"


class ShardSet:
    """Random access to the images and labels of a data set; safe to use from several threads."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.facts: DatasetFacts = manifest.facts
        self.counts = np.array([shard.samples for shard in manifest.shards], np.int64)
        self._records = manifest.shards
        self._first = np.concatenate([[0], np.cumsum(self.counts)])
        opened = functools.partial(_open_shard, folder, manifest.shards)
        self._shard = functools.lru_cache(maxsize=_OPEN_SHARDS)(opened)

    @property
    def samples(self) -> int:
        return self.facts.samples

    @property
    def classes(self) -> tuple[str, ...]:
        return self.facts.classes

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        indexes = (self._shard(number).index for number in range(len(self._records)))
        labels = np.concatenate([index.labels for index in indexes]).astype(np.int64)
        labels.setflags(write=False)
        return labels

    def labels(self) -> np.ndarray:
        """int64 [N], read-only. Reads every index once; 8 bytes a sample stay in memory."""
        return self._labels

    def sample(self, sample: int) -> tuple[bytes, int]:
        """The image file and the label of one sample.

        Raises:
            BadImage: the bytes do not have the checksum of the index.
            DataError: the index is unusable.
        """
        shard, row = self._find(sample)
        index = shard.index
        length = int(index.lengths[row])
        try:
            data = os.pread(shard.handle, length, int(index.offsets[row]))
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise BadImage(f"only {len(data)} of {length} bytes are there")
        if crc32c.crc32c(data) != index.crcs[row]:
            raise BadImage("its bytes do not have the checksum of the index")
        return data, int(index.labels[row])

    def read(self, sample: int) -> bytes:
        """The image file of one sample; raises as `sample` does."""
        return self.sample(sample)[0]

    def name(self, sample: int) -> str:
        """Shard and key for messages, such as `shard-000001.tar, key 'cat/7'`."""
        number = self._shard_of(sample)
        shard, row = self._find(sample)
        try:
            key = repr(shard.key(row))
        except (DataError, OSError):
            key = f"number {row} (its tar header is damaged)"
        return f"{self._records[number].name}, key {key}"

    def _find(self, sample: int) -> tuple[_OpenShard, int]:
        number = self._shard_of(sample)
        return self._shard(number), int(sample) - int(self._first[number])

    def _shard_of(self, sample: int) -> int:
        if not 0 <= sample < self.samples:
            raise IndexError(f"sample {sample} of {self.samples}")
        return int(np.searchsorted(self._first, sample, side="right")) - 1


def _open_shard(folder: Path, records: Sequence[ShardRecord], number: int) -> _OpenShard:
    return _OpenShard(folder / records[number].name, records[number])


class _OpenShard:
    """A tar and its verified index; closed when the last user lets go."""

    def __init__(self, path: Path, record: ShardRecord) -> None:
        self.path = path
        self.index: ShardIndex = read_index(index_path(path))
        _check_belongs(self.index, record, path)
        try:
            self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot be opened: {error.strerror}", where=str(path)) from error

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)

    def key(self, row: int) -> str:
        """The key from the tar itself, since the index holds only its hash.

        The name stands in the block before the image; a long one stands further back, so then the tar is
        walked from the front.
        """
        offset = int(self.index.offsets[row])
        for start in (offset - BLOCK, 0):
            key = _key_at(self.path, offset, start)
            if key is not None and hash_of_key(key) == self.index.key_hashes[row]:
                return key
        raise DataError("no such member", where=f"{self.path}, byte {offset}")


def _key_at(tar: Path, offset: int, start: int) -> str | None:
    """Key of the member whose data begin at `offset`, met from the header at `start` on."""
    from webdataset.tariterators import base_plus_ext

    with open(tar, "rb") as file:
        reader = TarReader(file, str(tar))
        reader.skip_to(start)
        member = next((m for m in members(reader) if m.data >= offset), None)
    return base_plus_ext(member.name)[0] if member is not None and member.data == offset else None


def _check_belongs(index: ShardIndex, record: ShardRecord, path: Path) -> None:
    same_tar = (index.tar_bytes, index.tar_xxh3) == (record.bytes, record.xxh3)
    if not same_tar or len(index) != record.samples or hash_of_labels(index) != record.labels:
        raise DataError(
            "the index belongs to another version of the shard than the manifest",
            where=str(index_path(path)),
            do=f"Run `vitscale shards index {path.parent}`.",
        )
    if not index.has_one_label_each:
        raise DataError(
            "some samples have no label or several",
            where=str(path),
            do="This vitscale trains on exactly one label a sample.",
        )
