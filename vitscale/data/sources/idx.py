"""Folders of IDX files, as MNIST and its relatives come: grey images and one label each, gzipped or plain.

A pair `NAME-images-idx3-ubyte` and `NAME-labels-idx1-ubyte` becomes a split: "train" where NAME ends in train,
"held-out" for t10k and test, otherwise NAME.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitscale.data.samples import Sample, Split, Splits
from vitscale.data.sources.digits import png_of
from vitscale.errors import DataError

_IMAGES, _LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"
_GZIP = b"\x1f\x8b"


def idx_splits(folder: Path) -> Splits:
    """Every pair of files in `folder`; classes are the numbers themselves.

    Raises:
        DataError: no pair, half a pair, or a damaged file.
    """
    splits: Splits = {}
    for images in sorted(folder.glob(f"*{_IMAGES}*")) if folder.is_dir() else []:
        part, _, ending = images.name.partition(_IMAGES)
        if ending not in ("", ".gz"):
            continue
        name = split_name_of(part)
        if name in splits:
            what = f"two files would both be the split {name!r}: {images.name} is the second"
            raise DataError(what, where=str(folder), do="Keep one pair of files a folder.")
        splits[name] = idx_split(images, _labels_beside(images, part), part)
    if not splits:
        what = f"no NAME{_IMAGES} or NAME{_IMAGES}.gz in the folder"
        raise DataError(what, where=str(folder), do="Name a folder of IDX files.")
    return splits


def split_name_of(part: str) -> str:
    """ "train" for ...train, "held-out" for ...t10k and ...test, otherwise the name itself."""
    last = part.rpartition("-")[2]
    return {"train": "train", "t10k": "held-out", "test": "held-out"}.get(last, part)


def _labels_beside(images: Path, part: str) -> Path:
    for ending in (".gz", ""):
        labels = images.with_name(f"{part}{_LABELS}{ending}")
        if labels.is_file():
            return labels
    what = f"{images.name} has no {part}{_LABELS} beside it"
    raise DataError(what, where=str(images.parent), do="Add the file of the labels.")


def idx_split(images: Path, labels: Path, part: str) -> Split:
    """One pair of files; keys are `PART/NUMBER`.

    Raises:
        DataError: a damaged file, or files that do not belong together.
    """
    pixels, numbers = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if len(pixels) != len(numbers):
        what = f"{len(pixels)} images do not fit {len(numbers)} labels"
        raise DataError(what, where=str(images), do="Fetch both files again.")
    classes = tuple(str(label) for label in range(int(numbers.astype(int).max(initial=-1)) + 1))
    return Split(classes, _samples(part, pixels, numbers), named=False)


def _samples(part: str, images: np.ndarray, labels: np.ndarray) -> Iterator[Sample]:
    for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        yield Sample(f"{part}/{number:05d}", "png", png_of(pixels), label)


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """An IDX file of bytes, gzipped or not, as uint8 with that many dimensions.

    Raises:
        DataError: it is damaged or holds something else.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        magic, *shape = struct.unpack_from(f">{dimensions + 1}I", data)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(path), do="Fetch it again."
        ) from error
    start = 4 * (dimensions + 1)
    if magic != 0x0800 + dimensions or len(data) - start != math.prod(shape):
        what = f"no IDX file of bytes with {dimensions} dimensions"
        raise DataError(what, where=str(path), do="Fetch it again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
