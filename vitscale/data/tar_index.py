"""Indexes anybody's WebDataset: a folder of tars in which the files of a sample share a key and stand together.

Keys and extensions follow webdataset's own rule (`base_plus_ext`): the key ends at the first dot of
the file name, extensions are compared in lower case, and members that the rule skips are skipped
here too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import crc32c
import numpy as np

from vitscale.config.dataset import MANIFEST, Manifest, ShardRecord
from vitscale.data.index import (
    LONGEST,
    ShardIndex,
    hash_of_key,
    hash_of_labels,
    index_path,
    write_index,
)
from vitscale.data.samples import IMAGE_EXTENSIONS
from vitscale.data.tar_headers import Member, TarReader, members
from vitscale.durable import write_text_atomically
from vitscale.errors import DataError

_META = re.compile(r"__[^/]*__($|/)")
_LONGEST_LABEL_FILE = 16 << 20
SplitName = Callable[[str], tuple[str | None, str | None]]


@dataclass(frozen=True)
class LabelRule:
    """Where a label is written: in `KEY.cls`, or in the field `json_key` of `KEY.json`.

    Without `json_key`, `.cls` is taken where it stands, otherwise the field "label" of `.json`.
    """

    json_key: str | None = None

    @property
    def extensions(self) -> tuple[str, ...]:
        return ("json",) if self.json_key else ("cls", "json")

    def read(self, files: dict[str, bytes]) -> int:
        """The label in the first of `files` that the rule knows.

        Raises:
            ValueError: it is not a whole number from 0 on; the message says what it is.
        """
        for extension in self.extensions:
            if extension in files:
                text = files[extension]
                return (
                    _whole(text)
                    if extension == "cls"
                    else _json_label(text, self.json_key or "label")
                )
        raise ValueError(f"no label file (.{' or .'.join(self.extensions)})")


def _whole(text: bytes) -> int:
    stripped = text.strip()
    if not stripped.isdigit():
        raise ValueError(f"its .cls holds {stripped[:40]!r}, not a whole number")
    return _in_range(int(stripped))


def _json_label(text: bytes, key: str) -> int:
    try:
        value = json.loads(text)
        for name in key.split("."):
            value = value[name]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'its .json has no "{key}"') from error
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'its .json has "{key}": {str(value)[:40]!r}, not a whole number')
    return _in_range(value)


def _in_range(label: int) -> int:
    if not 0 <= label <= LONGEST:
        raise ValueError(f"its label is {label}; labels run from 0 to {LONGEST}")
    return label


@dataclass
class _Open:
    """The sample whose files are being met."""

    key: str
    offset: int
    extensions: set[str] = field(default_factory=set)
    labels: dict[str, bytes] = field(default_factory=dict)
    image: Member | None = None
    crc: int = 0


def index_folder(
    folder: Path, *, classes: Iterable[str] | None = None, labels: LabelRule = LabelRule()
) -> Manifest:
    """Write a sidecar for every tar in `folder`, and the manifest last. The tars are only read.

    Args:
        folder: holds `*.tar`; their names in sorted order give the order of sample ids.
        classes: names by label; by default the numbers themselves.
        labels: where the labels are written.

    Raises:
        DataError: a tar or a sample that cannot be used, named by shard, key and byte.
    """
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        raise DataError("no *.tar to index", where=str(folder), do="Name a folder of tar shards.")
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        records, top = _index_all(tars, labels)
        manifest = Manifest(_names(classes, top, folder), records)
        write_text_atomically(folder / MANIFEST, manifest.to_json())
    except OSError as error:
        what = f"the index cannot be written beside the tars: {error.strerror}"
        raise DataError(what, where=str(folder), do="Make the folder writable.") from error
    return manifest


def _index_all(tars: list[Path], labels: LabelRule) -> tuple[tuple[ShardRecord, ...], int]:
    """Write every sidecar; the shards' records and the highest label."""
    records, top = [], -1
    for tar in tars:
        index = index_tar(tar, labels)
        write_index(index, index_path(tar))
        records.append(record_of(tar.name, index))
        top = max(top, int(index.labels.max(initial=0)))
    return tuple(records), top


def record_of(name: str, index: ShardIndex) -> ShardRecord:
    """What the manifest says about an indexed tar."""
    return ShardRecord(name, len(index), index.tar_bytes, index.tar_xxh3, hash_of_labels(index))


def _names(classes: Iterable[str] | None, top: int, folder: Path) -> tuple[str, ...]:
    if classes is None:
        return tuple(str(label) for label in range(top + 1))
    names = tuple(classes)
    if top >= len(names):
        raise DataError(
            f"label {top} has no class name",
            where=str(folder),
            given=f"{len(names)} names for labels 0 to {top}",
            do="Give one name a line, in the order of the labels.",
        )
    return names


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line in the order of the labels.

    Raises:
        DataError: it cannot be read, or a name is empty.
    """
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class names cannot be read: {error}", where=str(path)) from error
    names = tuple(name.strip() for name in names)
    if not names or not all(names):
        raise DataError("a class name is empty", where=str(path), do="Write one name a line.")
    return names


def index_tar(path: Path, labels: LabelRule = LabelRule()) -> ShardIndex:
    """Index one tar in a single pass over its bytes.

    Raises:
        DataError: damaged or cut short; a link or sparse file; a sample without image or label,
        with
            its files apart, or met twice.
    """
    try:
        with open(path, "rb") as file:
            tar = TarReader(file, str(path), hashing=True)
            finished = [_finish(sample, labels, tar) for sample in _samples(tar, labels)]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not finished:
        raise DataError("the tar holds no samples", where=str(path), do="Remove it or fill it.")
    return _to_columns(finished, tar)


def _samples(tar: TarReader, labels: LabelRule) -> Iterator[_Open]:
    """Members grouped by key, each sample complete."""
    from webdataset.tariterators import base_plus_ext  # imports torch: only when a tar is read

    current: _Open | None = None
    seen: set[int] = set()
    for member in members(tar):
        key, extension = _split(member, base_plus_ext, tar)
        if key is None or extension is None:
            continue
        if current is None or key != current.key:
            if current is not None:
                yield current
            current = _begin(key, member, seen, tar)
        _take(member, extension, current, labels, tar)
    if current is not None:
        yield current


def _split(member: Member, rule: SplitName, tar: TarReader) -> tuple[str | None, str | None]:
    """Key and lower-case extension of a member, None where it belongs to no sample."""
    if member.kind == "folder" or _META.match(member.name):
        return None, None
    key, extension = rule(member.name)
    if member.kind != "file" and key is not None:
        raise _refused(f"{member.name} is a {member.kind}", key, member.header, tar)
    return key, extension.lower() if extension is not None else None


def _begin(key: str, member: Member, seen: set[int], tar: TarReader) -> _Open:
    hashed = hash_of_key(key)
    if hashed in seen:
        raise _refused("the key comes twice, with other samples between", key, member.header, tar)
    seen.add(hashed)
    return _Open(key, member.header)


def _take(member: Member, extension: str, sample: _Open, labels: LabelRule, tar: TarReader) -> None:
    """Note one file of the sample: the image's place and checksum, a label's bytes."""
    if extension in sample.extensions:
        raise _refused(f"two files with extension .{extension}", sample.key, member.header, tar)
    sample.extensions.add(extension)
    if extension in IMAGE_EXTENSIONS:
        if sample.image is not None:
            raise _refused(
                f"two images, {sample.image.name} and {member.name}", sample.key, member.header, tar
            )
        sample.image = member
        for piece in tar.chunks(member.size):
            sample.crc = crc32c.crc32c(piece, sample.crc)
    elif extension in labels.extensions and member.size <= _LONGEST_LABEL_FILE:
        sample.labels[extension] = tar.read(member.size)


def _finish(sample: _Open, labels: LabelRule, tar: TarReader) -> tuple[int, int, int, int, int]:
    """The sample's row: offset, key hash, length, crc, label."""
    image = sample.image
    if image is None:
        found = ", ".join(f".{extension}" for extension in sorted(sample.extensions))
        kinds = ", .".join(IMAGE_EXTENSIONS)
        raise _refused(f"no image (.{kinds}), only {found}", sample.key, sample.offset, tar)
    if image.size > LONGEST:
        raise _refused(f"{image.name} has {image.size} bytes", sample.key, image.header, tar)
    try:
        label = labels.read(sample.labels)
    except ValueError as error:
        raise _refused(str(error), sample.key, sample.offset, tar) from error
    return image.data, hash_of_key(sample.key), image.size, sample.crc, label


def _to_columns(rows: list[tuple[int, int, int, int, int]], tar: TarReader) -> ShardIndex:
    offsets, hashes, lengths, crcs, labels = zip(*rows, strict=True)
    assert tar.hasher is not None, "a tar is indexed with a hashing reader"
    return ShardIndex(
        offsets=np.array(offsets, np.uint64),
        key_hashes=np.array(hashes, np.uint64),
        lengths=np.array(lengths, np.uint32),
        crcs=np.array(crcs, np.uint32),
        label_starts=np.arange(len(rows) + 1, dtype=np.uint32),
        labels=np.array(labels, np.uint32),
        tar_bytes=tar.at,
        tar_xxh3=tar.hasher.hexdigest(),
    )


def _refused(why: str, key: str, offset: int, tar: TarReader) -> DataError:
    return DataError(
        why,
        where=f"{tar.where}, key {key!r}, byte {offset}",
        do="Make this shard again with all files of a sample side by side: one image and one label.",
    )
