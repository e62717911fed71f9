"""Reads every byte of a data set again and reports everything that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import crc32c
import xxhash

from vitscale.config.dataset import ShardRecord, read_manifest
from vitscale.data.index import ShardIndex, hash_of_labels, index_path, read_index
from vitscale.errors import DataError

_CHUNK = 8 << 20
_NAMED_IMAGES = 20


def verify(folder: str | Path) -> list[str]:
    """Everything wrong with the data set in `folder`, a line each; an empty list when all is well.

    Raises:
        DataError: there is no usable manifest to verify against.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = [text for shard in manifest.shards for text in _shard_problems(folder, shard)]
    known = {shard.name for shard in manifest.shards}
    strays = sorted(tar.name for tar in folder.glob("*.tar") if tar.name not in known)
    return problems + [f"{name}: not in the manifest, so it is never read" for name in strays]


def _shard_problems(folder: Path, shard: ShardRecord) -> Iterator[str]:
    tar = folder / shard.name
    try:
        index = read_index(index_path(tar))
    except DataError as error:
        index = None
        yield str(error)
    if index is not None:
        yield from _index_problems(index, shard)
    try:
        yield from _tar_problems(tar, shard, index)
    except OSError as error:
        yield f"{shard.name}: {error.strerror}"


def _index_problems(index: ShardIndex, shard: ShardRecord) -> Iterator[str]:
    name = index_path(Path(shard.name)).name
    if len(index) != shard.samples:
        yield f"{name}: {len(index)} samples, the manifest says {shard.samples}"
    if hash_of_labels(index) != shard.labels:
        yield f"{name}: its labels are not those of the manifest"
    if (index.tar_bytes, index.tar_xxh3) != (shard.bytes, shard.xxh3):
        yield f"{name}: belongs to another version of the tar"


def _tar_problems(tar: Path, shard: ShardRecord, index: ShardIndex | None) -> Iterator[str]:
    size = tar.stat().st_size
    if size != shard.bytes:
        yield f"{shard.name}: {size} bytes, the manifest says {shard.bytes}"
    hasher = xxhash.xxh3_128()
    with open(tar, "rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    if hasher.hexdigest() == shard.xxh3:
        return
    yield f"{shard.name}: its bytes are not those that were packed (XXH3-128 differs)"
    if index is not None:
        yield from _image_problems(tar, index)


def _image_problems(tar: Path, index: ShardIndex) -> Iterator[str]:
    """Which images of a damaged tar are affected."""
    bad = []
    with open(tar, "rb") as file:
        for row in range(len(index)):
            file.seek(int(index.offsets[row]))
            length = int(index.lengths[row])
            data = file.read(length)
            if len(data) != length or crc32c.crc32c(data) != index.crcs[row]:
                bad.append(f"{tar.name}: image {row} at byte {index.offsets[row]} is damaged")
    yield from bad[:_NAMED_IMAGES]
    if len(bad) > _NAMED_IMAGES:
        yield f"{tar.name}: and {len(bad) - _NAMED_IMAGES} more images"
    if not bad:
        yield f"{tar.name}: no image is affected; the damage lies in headers, labels or other files"
