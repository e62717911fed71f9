"""Indexes anybody's WebDataset: a sidecar for each tar of a folder, and the manifest.

Tars are independent pieces of work. A sidecar that still belongs to its tar is kept, so indexing that was killed goes
on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import xxhash

from vitscale.config.dataset import MANIFEST, Manifest, ShardRecord
from vitscale.data.image_headers import Header
from vitscale.data.index import (
    ShardIndex,
    hash_of_labels,
    index_path,
    read_index,
    write_index,
)
from vitscale.data.labels import ANY_LABELS, LabelRule
from vitscale.data.pieces import Pieces, in_this_process
from vitscale.data.progress import Progress, silent
from vitscale.data.tar_headers import TarReader
from vitscale.data.tar_samples import TarSample, labels_of, samples_of
from vitscale.durable import write_text_atomically
from vitscale.errors import DataError

_CHUNK = 8 << 20
_LISTED = 30


@dataclass(frozen=True)
class Reuse:
    """When a sidecar that is there already is kept instead of being made again.

    Always asked: its own checksum, the same label rule, and the size of its tar. `hashing` also asks for the
    XXH3-128 of the whole tar, which takes one read; without it a tar that was changed at equal size goes unnoticed
    until `verify` or until an image fails its checksum.
    """

    allowed: bool = True
    hashing: bool = True


REUSE = Reuse()


class _Tar(NamedTuple):
    """A piece of work."""

    path: Path
    labels: LabelRule
    reuse: Reuse


class _Indexed(NamedTuple):
    """Its result: the record and the highest label, or what is wrong."""

    record: ShardRecord | None
    top: int = -1
    error: DataError | None = None


def index_folder(
    folder: Path,
    *,
    classes: Iterable[str] | None = None,
    labels: LabelRule = ANY_LABELS,
    reuse: Reuse = REUSE,
    pieces: Pieces = in_this_process,
    progress: Progress | None = None,
) -> Manifest:
    """Write a sidecar for every tar in `folder`, and the manifest last. The tars are only read.

    Args:
        folder: holds `*.tar`; their names in sorted order give the order of sample ids.
        classes: names by label; by default those of a manifest that is there, otherwise the numbers.
        labels: where the labels are written.
        reuse: which sidecars are kept.
        pieces: runs the tars.
        progress: is told of every tar.

    Raises:
        DataError: a tar or a sample that cannot be used, named by shard, key and byte; of every tar the
            first.
    """
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        raise DataError("no *.tar to index", where=str(folder), do="Name a folder of tar shards.")
    names = tuple(classes) if classes is not None else _names_of_manifest(folder)
    rule = replace(labels, classes=names)
    try:
        indexed = _index_all([_Tar(tar, rule, reuse) for tar in tars], pieces, progress or silent())
        records = tuple(one.record for one in indexed if one.record is not None)
        _check_labels(records, rule, folder)
        top = max(one.top for one in indexed)
        manifest = Manifest(names or tuple(map(str, range(top + 1))), records)
        write_text_atomically(folder / MANIFEST, manifest.to_json())
    except OSError as error:
        what = f"the index cannot be written beside the tars: {error.strerror}"
        raise DataError(what, where=str(folder), do="Make the folder writable.") from error
    return manifest


def _names_of_manifest(folder: Path) -> tuple[str, ...] | None:
    """Class names of an earlier manifest of any version, unless they are mere numbers."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    found: Any = cast(dict[str, Any], content).get("classes") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return None
    names = tuple(cast(list[str], found))
    return None if names == tuple(map(str, range(len(names)))) else names


def _index_all(tars: list[_Tar], pieces: Pieces, progress: Progress) -> list[_Indexed]:
    """Every tar indexed, in order."""
    progress.total_bytes = sum(tar.path.stat().st_size for tar in tars)
    done: dict[int, _Indexed] = {}
    with progress:
        for number, one in pieces(_index_one, tars):
            done[number] = one
            if one.record is not None:
                progress.add(one.record.samples, one.record.bytes)
    errors = [done[number].error for number in range(len(tars))]
    _raise_all([error for error in errors if error is not None])
    return [done[number] for number in range(len(tars))]


def _raise_all(errors: list[DataError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        shown = "\n  ".join(map(str, errors[:_LISTED]))
        more = f"\n  and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
        raise DataError(
            f"{len(errors)} tars cannot be indexed:\n  {shown}{more}\n",
            do="Mend or remove them and index again.",
        )


def _check_labels(records: tuple[ShardRecord, ...], rule: LabelRule, folder: Path) -> None:
    if rule.json_key and not any(record.most_labels for record in records):
        raise DataError(
            f'no sample has a label in the field "{rule.json_key}" of its .json',
            where=str(folder),
            do="Check --label-key; fields inside fields are written a.b.",
        )


def _index_one(tar: _Tar) -> _Indexed:
    try:
        index = _kept(tar)
        if index is None:
            index = index_tar(tar.path, tar.labels)
            write_index(index, index_path(tar.path))
    except DataError as error:
        return _Indexed(None, error=error)
    return _Indexed(
        record_of(tar.path.name, index), int(index.labels.astype(np.int64).max(initial=-1))
    )


def _kept(tar: _Tar) -> ShardIndex | None:
    """The sidecar that is there, if it still belongs to its tar."""
    if not tar.reuse.allowed:
        return None
    try:
        index = read_index(index_path(tar.path))
    except DataError:
        return None
    fits = index.rule == tar.labels.digest and index.tar_bytes == tar.path.stat().st_size
    if fits and tar.reuse.hashing:
        fits = hash_of_file(tar.path) == index.tar_xxh3
    return index if fits else None


def hash_of_file(path: Path) -> str:
    """XXH3-128 of its bytes, as the manifest has it."""
    hasher = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def record_of(name: str, index: ShardIndex) -> ShardRecord:
    """What the manifest says about an indexed tar."""
    counts = index.label_counts
    return ShardRecord(
        name=name,
        samples=len(index),
        bytes=index.tar_bytes,
        xxh3=index.tar_xxh3,
        labels=hash_of_labels(index),
        most_labels=int(counts.max(initial=0)),
        unlabelled=int((counts == 0).sum()),
    )


def index_tar(path: Path, labels: LabelRule = ANY_LABELS) -> ShardIndex:
    """Index one tar in a single pass over its bytes.

    Raises:
        DataError: damaged or cut short; a link or sparse file; a sample without image, with labels that
            cannot be read, with its files apart, or met twice.
    """
    try:
        with open(path, "rb") as file:
            tar = TarReader(file, str(path), hashing=True)
            rows = [_row_of(sample, labels, tar) for sample in samples_of(tar, labels)]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not rows:
        raise DataError("the tar holds no samples", where=str(path), do="Remove it or fill it.")
    return _to_columns(rows, tar, labels)


class _Row(NamedTuple):
    """What the index says about one sample."""

    offset: int
    key_hash: int
    length: int
    crc: int
    labels: tuple[int, ...]
    header: Header


def _row_of(sample: TarSample, labels: LabelRule, tar: TarReader) -> _Row:
    image = sample.image
    assert image is not None, "samples_of refuses samples without an image"
    of_sample = labels_of(sample, labels, tar)
    return _Row(image.data, sample.key_hash, image.size, sample.crc, of_sample, sample.header)


def _to_columns(rows: list[_Row], tar: TarReader, labels_rule: LabelRule) -> ShardIndex:
    offsets, hashes, lengths, crcs, labels, headers = zip(*rows, strict=True)
    kinds, widths, heights = zip(*headers, strict=True)
    assert tar.hasher is not None, "a tar is indexed with a hashing reader"
    return ShardIndex(
        offsets=np.array(offsets, np.uint64),
        key_hashes=np.array(hashes, np.uint64),
        lengths=np.array(lengths, np.uint32),
        crcs=np.array(crcs, np.uint32),
        label_starts=np.cumsum([0, *map(len, labels)]).astype(np.uint32),
        labels=np.array([label for of_sample in labels for label in of_sample], np.uint32),
        widths=np.array(widths, np.uint16),
        heights=np.array(heights, np.uint16),
        kinds=np.array(kinds, np.uint8),
        tar_bytes=tar.at,
        tar_xxh3=tar.hasher.hexdigest(),
        rule=labels_rule.digest,
    )
