"""One shard of a data set, opened: its file, its verified index, and a table of both for fast look-up."""

from __future__ import annotations

import io
import os
from pathlib import Path

import crc32c
import numpy as np

from vitscale.config.dataset import MASKED, ShardRecord
from vitscale.data.bad_images import BadImage
from vitscale.data.index import ShardIndex, hash_of_key, hash_of_labels, index_path, read_index
from vitscale.data.tar_headers import BLOCK, TarReader, members
from vitscale.errors import DataError

OFFSET, LENGTH, CRC, WIDTH, HEIGHT, LABELS, LABEL = range(7)
"""Columns of `OpenShard.table`; LABELS counts them, LABEL is the first one or `MASKED`."""


class OpenShard:
    """A tar and its verified index; the file is closed when the last user lets go."""

    def __init__(self, path: Path, handle: int, index: ShardIndex) -> None:
        self.path, self.handle, self.index = path, handle, index
        self.table = _table_of(index)
        """[n, 7] int64."""
        self.has_several = bool(len(index) and self.table[:, LABELS].max() > 1)
        """Whether some sample has more than one label."""

    def __del__(self) -> None:
        os.close(self.handle)

    def image(self, row: int) -> bytes:
        """The image file of a sample.

        Raises:
            BadImage: it cannot be read, is cut short, or does not have the checksum of the index.
        """
        length = int(self.index.lengths[row])
        try:
            data = os.pread(self.handle, length, int(self.index.offsets[row]))
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise BadImage(f"only {len(data)} of {length} bytes are there")
        if crc32c.crc32c(data) != self.index.crcs[row]:
            raise BadImage("its bytes do not have the checksum of the index")
        return data

    def key(self, row: int) -> str | None:
        """The key from the tar itself, since the index holds only its hash; None if its header is damaged.

        The name stands in the block before the image; a long one stands further back, so then the tar is
        walked from the front.
        """
        offset = int(self.index.offsets[row])
        for start in (offset - BLOCK, 0):
            try:
                key = self._key_at(offset, start)
            except (DataError, OSError):
                continue
            if key is not None and hash_of_key(key) == self.index.key_hashes[row]:
                return key
        return None

    def _key_at(self, offset: int, start: int) -> str | None:
        """Key of the member whose data begin at `offset`, met from the header at `start` on."""
        from webdataset.tariterators import base_plus_ext

        file = io.BufferedReader(_Positioned(self.handle))
        reader = TarReader(file, str(self.path))
        reader.skip_to(start)
        member = next((m for m in members(reader) if m.data >= offset), None)
        if member is None or member.data != offset:
            return None
        return base_plus_ext(member.name)[0]


def read_own_index(sidecar: Path, record: ShardRecord) -> ShardIndex:
    """Read a sidecar and check that it is that of the manifest's shard.

    Raises:
        DataError: it is unusable, or belongs to another version of the shard.
    """
    index = read_index(sidecar)
    same_tar = (index.tar_bytes, index.tar_xxh3) == (record.bytes, record.xxh3)
    if not same_tar or len(index) != record.samples or hash_of_labels(index) != record.labels:
        raise DataError(
            "the index belongs to another version of the shard than the manifest",
            where=str(sidecar),
            do=f"Run `vitscale shards index {sidecar.parent}`.",
        )
    return index


def open_local(folder: Path, record: ShardRecord) -> OpenShard:
    """Open a shard of a folder.

    Raises:
        DataError: the index is unusable.
        OSError: the tar cannot be opened.
    """
    path = folder / record.name
    index = read_own_index(index_path(path), record)
    return OpenShard(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), index)


def _table_of(index: ShardIndex) -> np.ndarray:
    table = np.empty((len(index), 7), np.int64)
    counts = np.diff(index.label_starts.astype(np.int64))
    for column, values in (
        (OFFSET, index.offsets),
        (LENGTH, index.lengths),
        (CRC, index.crcs),
        (WIDTH, index.widths),
        (HEIGHT, index.heights),
        (LABELS, counts),
    ):
        table[:, column] = values
    table[:, LABEL] = MASKED
    some = counts > 0
    table[some, LABEL] = index.labels[index.label_starts[:-1][some]]
    return table


class _Positioned(io.RawIOBase):
    """A file of its own position over a shared handle, also when its name is gone."""

    def __init__(self, handle: int) -> None:
        self._handle, self._at = handle, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = os.pread(self._handle, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._at, os.fstat(self._handle).st_size)[whence]
        self._at = base + offset
        return self._at
