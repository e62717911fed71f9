"""The sidecar `shard-000000.vsidx` of a tar: where each image lies, its checksum, key hash, labels, size and kind.

Little-endian: a header of 64 bytes, the columns one after another, and the XXH3-64 of all of that.
`docs/data-format.md` has the table.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from vitscale.data.image_headers import KINDS
from vitscale.errors import DataError

SUFFIX = ".vsidx"
MAGIC = b"VSIDX\r\n\x00"
VERSION = 2
_HEADER = struct.Struct("<8sIIQQQ16sQ")
_CHECKSUM = struct.Struct("<Q")
LONGEST = 2**32 - 1
"""Largest image in bytes and largest label: both are kept as u32."""


@dataclass(frozen=True)
class ShardIndex:
    """The columns of one shard of n samples with m labels in all.

    Sample i has `labels[label_starts[i]:label_starts[i + 1]]`: none, one or several.
    """

    offsets: np.ndarray
    """[n] u64: first byte of the image in the tar."""
    key_hashes: np.ndarray
    """[n] u64: XXH3-64 of the key in UTF-8."""
    lengths: np.ndarray
    """[n] u32: bytes of the image."""
    crcs: np.ndarray
    """[n] u32: CRC-32C of the image."""
    label_starts: np.ndarray
    """[n + 1] u32."""
    labels: np.ndarray
    """[m] u32: those of a sample in rising order, each once."""
    widths: np.ndarray
    """[n] u16, px: by the image's own header; 0 where that cannot be read or a side is above 65,535."""
    heights: np.ndarray
    """[n] u16, px: likewise."""
    kinds: np.ndarray
    """[n] u8: by content, a number of `image_headers.KINDS`."""
    tar_bytes: int
    tar_xxh3: str
    rule: int = 0
    """Digest of the rule by which the labels were read."""

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def has_one_label_each(self) -> bool:
        return len(self.labels) == len(self) and bool((self.label_counts == 1).all())

    @property
    def label_counts(self) -> np.ndarray:
        """[n] int64: how many labels each sample has."""
        return np.diff(self.label_starts.astype(np.int64))

    def labels_of(self, row: int) -> np.ndarray:
        """[k] u32: the labels of one sample in rising order; empty where it has none."""
        return self.labels[int(self.label_starts[row]) : int(self.label_starts[row + 1])]


_COLUMNS = (
    ("offsets", "<u8"),
    ("key_hashes", "<u8"),
    ("lengths", "<u4"),
    ("crcs", "<u4"),
    ("label_starts", "<u4"),
    ("labels", "<u4"),
    ("widths", "<u2"),
    ("heights", "<u2"),
    ("kinds", "u1"),
)


def hash_of_key(key: str) -> int:
    """XXH3-64 of the key in UTF-8; bytes of a name that are none are kept as they are."""
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape"))


def hash_of_labels(index: ShardIndex) -> str:
    """Hash of the labels alone, so that a manifest can pin them whatever the layout of the sidecar."""
    hasher = xxhash.xxh3_64(index.label_starts.astype("<u4").tobytes())
    hasher.update(index.labels.astype("<u4").tobytes())
    return hasher.hexdigest()


def index_path(tar: Path) -> Path:
    """Where the sidecar of `tar` lies: beside it."""
    return tar.with_suffix(SUFFIX)


def write_index(index: ShardIndex, path: Path) -> None:
    """Write the sidecar aside and move it into place, so that a reader never sees half of one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(_to_bytes(index))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _to_bytes(index: ShardIndex) -> bytes:
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        _HEADER.size,
        len(index),
        len(index.labels),
        index.tar_bytes,
        bytes.fromhex(index.tar_xxh3),
        index.rule,
    )
    columns = [getattr(index, name).astype(kind).tobytes() for name, kind in _COLUMNS]
    body = header + b"".join(columns)
    return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def read_index(path: Path) -> ShardIndex:
    """Read and verify a sidecar.

    Raises:
        DataError: it is missing, cut short, damaged, of another version, or inconsistent in itself.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    if len(data) < _HEADER.size + _CHECKSUM.size or not data.startswith(MAGIC):
        raise _unusable(path, "is no shard index")
    _, version, header_bytes, n, m, tar_bytes, tar_xxh3, rule = _HEADER.unpack_from(data)
    if (version, header_bytes) != (VERSION, _HEADER.size):
        raise _unusable(path, f"has version {version}; this vitscale reads version {VERSION}")
    body, checksum = data[: -_CHECKSUM.size], _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]
    if xxhash.xxh3_64_intdigest(body) != checksum:
        raise _unusable(path, "is damaged: its checksum does not fit")
    columns = _columns_of(body, n, m, path)
    index = ShardIndex(**columns, tar_bytes=tar_bytes, tar_xxh3=tar_xxh3.hex(), rule=rule)
    _check_ranges(index, path)
    return index


def _columns_of(body: bytes, n: int, m: int, path: Path) -> dict[str, np.ndarray]:
    sizes = {"label_starts": n + 1, "labels": m}
    columns: dict[str, np.ndarray] = {}
    at = _HEADER.size
    for name, kind in _COLUMNS:
        count = sizes.get(name, n)
        end = at + count * np.dtype(kind).itemsize
        if end > len(body):
            raise _unusable(path, "is damaged: shorter than its header says")
        columns[name] = np.frombuffer(body, kind, count, at)
        at = end
    if at != len(body):
        raise _unusable(path, "is damaged: longer than its header says")
    return columns


def _check_ranges(index: ShardIndex, path: Path) -> None:
    starts = index.label_starts.astype(np.int64)
    if index.tar_bytes >= 2**63:
        raise _unusable(path, "is damaged: no tar is that large")
    if starts[0] != 0 or starts[-1] != len(index.labels) or (np.diff(starts) < 0).any():
        raise _unusable(path, "is damaged: its label table is out of order")
    ends = index.tar_bytes - index.lengths.astype(np.int64)  # a sum could pass 2^64
    if (ends < 0).any() or (index.offsets > ends.clip(0).astype(np.uint64)).any():
        raise _unusable(path, "points beyond the end of its tar")
    if (index.kinds >= len(KINDS)).any():
        raise _unusable(path, "is damaged: it names an unknown kind of image")


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"the shard index {why}",
        where=str(path),
        do=f"Run `vitscale shards index {path.parent}` to make it anew.",
    )
