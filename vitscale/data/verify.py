"""Reads every byte of a data set again and reports everything that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import crc32c

from vitscale.config.dataset import ShardRecord, read_manifest
from vitscale.data.bad_images import BadImage
from vitscale.data.decode import decode
from vitscale.data.index import ShardIndex, hash_of_labels, index_path, read_index
from vitscale.data.pieces import Pieces, in_this_process
from vitscale.data.progress import Progress, silent
from vitscale.data.shard_files import keys_in, read_rows
from vitscale.data.tar_index import hash_of_file
from vitscale.errors import DataError

_NAMED_IMAGES = 20


class _Shard(NamedTuple):
    """A piece of work."""

    folder: Path
    record: ShardRecord
    decoding: bool


def verify(
    folder: str | Path,
    *,
    decoding: bool = False,
    pieces: Pieces = in_this_process,
    progress: Progress | None = None,
) -> list[str]:
    """Everything wrong with the data set in `folder`, a line each; an empty list when all is well.

    Args:
        folder: the data set.
        decoding: also decode every image and name those that cannot be, sound bytes or not.
        pieces: runs the shards.
        progress: is told of every shard.

    Raises:
        DataError: there is no usable manifest to verify against.
    """
    folder, progress = Path(folder), progress or silent()
    manifest = read_manifest(folder)
    progress.total_bytes = manifest.facts.bytes
    by_shard: dict[int, list[str]] = {}
    work = [_Shard(folder, record, decoding) for record in manifest.shards]
    with progress:
        for number, problems in pieces(_problems_of, work):
            by_shard[number] = problems
            progress.add(work[number].record.samples, work[number].record.bytes)
    known = {shard.name for shard in manifest.shards}
    strays = sorted(tar.name for tar in folder.glob("*.tar") if tar.name not in known)
    problems = [text for number in range(len(work)) for text in by_shard[number]]
    return problems + [f"{name}: not in the manifest, so it is never read" for name in strays]


def _problems_of(shard: _Shard) -> list[str]:
    return list(_shard_problems(shard.folder, shard.record, shard.decoding))


def _shard_problems(folder: Path, shard: ShardRecord, decoding: bool) -> Iterator[str]:
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
        if decoding and index is not None:
            yield from _shortened(tar, list(_undecodable(tar, index)))
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
    if hash_of_file(tar) == shard.xxh3:
        return
    yield f"{shard.name}: its bytes are not those that were packed (XXH3-128 differs)"
    if index is not None:
        yield from _image_problems(tar, index)


def _image_problems(tar: Path, index: ShardIndex) -> Iterator[str]:
    """Which images of a damaged tar are affected."""
    bad = []
    for row, data in enumerate(read_rows(tar, index, range(len(index)))):
        if len(data) != index.lengths[row] or crc32c.crc32c(data) != index.crcs[row]:
            bad.append(f"{tar.name}: image {row} at byte {index.offsets[row]} is damaged")
    yield from _shortened(tar, bad)
    if not bad:
        yield f"{tar.name}: no image is affected; the damage lies in headers, labels or other files"


def _undecodable(tar: Path, index: ShardIndex) -> Iterator[str]:
    keys: list[str] | None = None
    for row, data in enumerate(read_rows(tar, index, range(len(index)))):
        try:
            decode(data)
        except BadImage as error:
            keys = keys or _keys(tar, index)
            yield f"{tar.name}: image {row}{keys[row]} {error}"


def _keys(tar: Path, index: ShardIndex) -> list[str]:
    try:
        return [f", key {key!r}," for key in keys_in(tar, index)]
    except DataError:
        return [""] * len(index)


def _shortened(tar: Path, lines: list[str]) -> Iterator[str]:
    yield from lines[:_NAMED_IMAGES]
    if len(lines) > _NAMED_IMAGES:
        yield f"{tar.name}: and {len(lines) - _NAMED_IMAGES} more images"
