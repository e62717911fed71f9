"""Packs labelled images into WebDataset tars that anyone can read, with their index and manifest.

The same samples and seed give the same bytes. A data set appears under its name only when it is
complete.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitscale import faults
from vitscale.config.dataset import MANIFEST, Manifest, read_manifest
from vitscale.data.folders import check_space, folder_aside
from vitscale.data.index import index_path, write_index
from vitscale.data.random_keys import generator
from vitscale.data.samples import IMAGE_EXTENSIONS, Sample, Split
from vitscale.data.tar_index import index_tar, record_of
from vitscale.durable import sync_folder, write_text_atomically
from vitscale.errors import DataError, ResourceError

SHARD_BYTES = 128 << 20
SHARD_SAMPLES = 10_000
_TAR_OVERHEAD = 3 * 512
"""Bytes a sample beyond its image: two headers and the label, before padding."""


@dataclass(frozen=True)
class _Placed:
    """A sample whose bytes lie in a file: its own, or the spool."""

    key: str
    extension: str
    label: int
    file: Path | None
    start: int
    size: int


def pack(
    split: Split,
    target: str | Path,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    shard_samples: int = SHARD_SAMPLES,
) -> Manifest:
    """Shuffle the samples by `seed` and write them as shards of about equal count below `target`.

    Images keep their bytes. Samples that come as bytes are spooled to disk first, so memory holds
    only their keys.

    Raises:
        DataError: a sample that cannot be packed, or `target` exists with other contents.
        ResourceError: the disk has too little space.
    """
    target = Path(target)
    _refuse_foreign(target)
    try:
        with folder_aside(target) as aside:
            manifest = _fill(aside, split, seed, shard_bytes, shard_samples)
            faults.point("pack.before_rename")
            return _publish(aside, target, manifest)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = "the disk became full while packing; nothing was left behind"
        raise ResourceError(what, where=str(target), do="Free space and pack again.") from error


def pack_splits(
    splits: Mapping[str, Split],
    target: str | Path,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Manifest]:
    """Pack every split into `target/NAME`."""
    for name in splits:
        _refuse_foreign(Path(target) / name)
    return {
        name: pack(split, Path(target) / name, seed=seed, shard_bytes=shard_bytes)
        for name, split in splits.items()
    }


def _refuse_foreign(target: Path) -> None:
    """A target may exist if it is empty or a data set, which must then turn out to be the same."""
    if not target.exists() or (target / MANIFEST).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise DataError(
            "the target exists and is no data set", where=str(target), do="Choose another --to."
        )


def _publish(aside: Path, target: Path, manifest: Manifest) -> Manifest:
    if (target / MANIFEST).is_file():
        if read_manifest(target) == manifest:
            return manifest
        raise DataError(
            "the target already holds another data set",
            where=str(target),
            do="Remove it first, or choose another --to.",
        )
    os.rename(aside, target)
    sync_folder(target.parent)
    return manifest


def _fill(aside: Path, split: Split, seed: int, shard_bytes: int, shard_samples: int) -> Manifest:
    spool = aside / "spool"
    with open(spool, "w+b") as file:
        placed = _place(split, file)
        total = sum(sample.size for sample in placed)
        check_space(aside, total + len(placed) * (_TAR_OVERHEAD + 512))
        order = generator("pack", seed).permutation(len(placed))
        count = max(math.ceil(total / shard_bytes), math.ceil(len(placed) / shard_samples))
        records = []
        for number, ids in enumerate(np.array_split(order, min(count, len(placed)))):
            tar = aside / f"shard-{number:06d}.tar"
            _write_tar(tar, [placed[i] for i in ids], file)
            index = index_tar(tar)
            write_index(index, index_path(tar))
            records.append(record_of(tar.name, index))
            faults.point("pack.after_shard")
    spool.unlink()
    for name, text in split.notes.items():
        write_text_atomically(aside / name, text)
    manifest = Manifest(tuple(split.classes), tuple(records))
    write_text_atomically(aside / MANIFEST, manifest.to_json())
    return manifest


def _place(split: Split, spool: BinaryIO) -> list[_Placed]:
    """Check every sample and note where its bytes lie.

    Raises:
        DataError: no samples, or one with an unusable key, extension or label.
    """
    from webdataset.tariterators import base_plus_ext  # imports torch: only when packing

    placed: list[_Placed] = []
    keys: set[str] = set()
    for sample in split.samples:
        problem = _problem(sample, keys, len(split.classes))
        if not problem and base_plus_ext(f"{sample.key}.{sample.extension}") != sample[:2]:
            problem = (
                "a reader would split the key from the extension elsewhere: avoid dots in keys"
            )
        if problem:
            raise DataError(
                problem, where=f"sample {sample.key!r}", do="Mend the source of the samples."
            )
        keys.add(sample.key)
        placed.append(_placed(sample, spool))
    if not placed:
        raise DataError("there are no samples to pack", do="Check the path and the chosen classes.")
    return placed


def _problem(sample: Sample, keys: set[str], classes: int) -> str:
    if sample.extension not in IMAGE_EXTENSIONS:
        return f"extension {sample.extension!r} is none of {', '.join(IMAGE_EXTENSIONS)}"
    if not 0 <= sample.label < classes:
        return f"label {sample.label} is not below the number of classes, {classes}"
    if sample.key in keys:
        return "the key comes twice"
    return ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _placed(sample: Sample, spool: BinaryIO) -> _Placed:
    key, extension, data, label = sample
    if isinstance(data, Path):
        return _Placed(key, extension, label, data, 0, data.stat().st_size)
    start = spool.tell()
    spool.write(data)
    return _Placed(key, extension, label, None, start, len(data))


def _write_tar(path: Path, samples: list[_Placed], spool: BinaryIO) -> None:
    """One shard by webdataset's own writer; a fixed time, owner and mode make its bytes repeatable."""
    from webdataset.writer import TarWriter

    with open(path, "wb") as file:
        with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar:
            for sample in samples:
                label = str(sample.label).encode()
                data = _data_of(sample, spool)
                tar.write({"__key__": sample.key, sample.extension: data, "cls": label})
        file.flush()
        os.fsync(file.fileno())


def _data_of(sample: _Placed, spool: BinaryIO) -> bytes:
    if sample.file is not None:
        return _read(sample.file)
    spool.seek(sample.start)
    return spool.read(sample.size)
