"""Finds images of one data set that are also in another, re-encoded, resized or slightly cropped.

Each image gets a perceptual hash of 64 bits (pHash): its 64 lowest cosine frequencies against their median, from
a grey 32 x 32 copy. Two images are alike when few bits differ. All pairs are compared, in blocks: at some 10^8
pairs a second a core that takes far less time than decoding the images, and misses none.
Images without detail have no stable hash; they are counted and left out.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitscale.config.dataset import ShardRecord, read_manifest
from vitscale.data.bad_images import BadImage
from vitscale.data.decode import FORMATS, MAX_PIXELS, decode
from vitscale.data.pieces import Pieces, in_this_process
from vitscale.data.progress import Progress, silent
from vitscale.data.shard_files import index_of, keys_in, read_rows
from vitscale.errors import ConfigError

DISTANCE = 8
"""Differing bits up to which two images count as alike."""
_SIDE = 32
_BITS = 64
_PLAIN = 2.0
"""Standard deviation of the grey copy, of 255, below which an image has no detail."""
_USABLE, _WITHOUT_DETAIL, _UNDECODABLE = range(3)
_PAIRS_AT_A_TIME = 1 << 22
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


class Match(NamedTuple):
    """An image of A that is also in B; shards by name."""

    shard: str
    key: str
    other_shard: str
    other_key: str
    distance: int


@dataclass(frozen=True)
class Duplicates:
    """Matches in the order of A, and what could not be compared, in A and B together."""

    matches: list[Match]
    compared: tuple[int, int]
    """Images of A and B."""
    plain: int
    undecodable: int


class _Hashes(NamedTuple):
    """Of a data set: hashes [n] u64 with the shard's number and row of each."""

    hashes: np.ndarray
    shards: np.ndarray
    rows: np.ndarray
    plain: int
    undecodable: int


class _Shard(NamedTuple):
    folder: Path
    record: ShardRecord


def find_duplicates(
    folder: str | Path,
    against: str | Path,
    *,
    distance: int = DISTANCE,
    pieces: Pieces = in_this_process,
    progress: Progress | None = None,
) -> Duplicates:
    """Every pair of an image in `folder` and one in `against` whose hashes differ in at most `distance` bits.

    Raises:
        ConfigError: a distance at which unrelated images would match.
        DataError: a data set is unusable.
    """
    if not 0 <= distance < _BITS // 3:
        raise ConfigError(
            f"must be from 0 to {_BITS // 3 - 1}; unrelated images are about {_BITS // 2} apart",
            where="--distance",
            given=distance,
        )
    folder, against, progress = Path(folder), Path(against), progress or silent()
    progress.total_bytes = sum(read_manifest(one).facts.bytes for one in (folder, against))
    with progress:
        ours = _hashes_of(folder, pieces, progress)
        theirs = _hashes_of(against, pieces, progress)
    pairs = list(alike(ours.hashes, theirs.hashes, distance))
    matches = _named(pairs, (folder, ours), (against, theirs))
    return Duplicates(
        matches,
        (len(ours.hashes), len(theirs.hashes)),
        ours.plain + theirs.plain,
        ours.undecodable + theirs.undecodable,
    )


def _hashes_of(folder: Path, pieces: Pieces, progress: Progress) -> _Hashes:
    work = [_Shard(folder, record) for record in read_manifest(folder).shards]
    done: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for number, found in pieces(_hash_shard, work):
        done[number] = found
        progress.add(work[number].record.samples, work[number].record.bytes)
    counts = [len(done[number][0]) for number in range(len(work))]
    hashes, states = (np.concatenate([done[n][part] for n in range(len(work))]) for part in (0, 1))
    usable = states == _USABLE
    return _Hashes(
        hashes[usable],
        np.repeat(np.arange(len(work)), counts)[usable],
        np.concatenate([np.arange(count) for count in counts])[usable],
        plain=int((states == _WITHOUT_DETAIL).sum()),
        undecodable=int((states == _UNDECODABLE).sum()),
    )


def _hash_shard(shard: _Shard) -> tuple[np.ndarray, np.ndarray]:
    """Hashes [n] u64 and what became of each row [n] u8."""
    index = index_of(*shard)
    hashes, states = np.zeros(len(index), np.uint64), np.zeros(len(index), np.uint8)
    tar = shard.folder / shard.record.name
    for row, data in enumerate(read_rows(tar, index, range(len(index)))):
        try:
            found = perceptual_hash(data)
        except BadImage:
            states[row] = _UNDECODABLE
            continue
        if found is None:
            states[row] = _WITHOUT_DETAIL
        else:
            hashes[row] = found
    return hashes, states


def perceptual_hash(data: bytes) -> int | None:
    """The 64-bit pHash of an image file; None for an image without detail.

    Raises:
        BadImage: it cannot be decoded.
    """
    small = _small_grey(data).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32)
    if pixels.std() < _PLAIN:
        return None
    cosines, rows, columns = _frequencies()
    spectrum = (cosines @ pixels @ cosines.T)[rows, columns]
    bits = spectrum > np.median(spectrum)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@functools.cache
def _frequencies() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines [32, 32] by frequency, and rows and columns of the 64 lowest frequencies without the mean."""
    steps = np.arange(_SIDE)
    cosines = np.cos(np.pi / _SIDE * steps[:, None] * (steps[None] + 0.5)).astype(np.float32)
    lowest = sorted((row + column, row) for row in range(12) for column in range(12))[1 : _BITS + 1]
    rows = np.array([row for _, row in lowest])
    return cosines, rows, np.array([both - row for both, row in lowest])


def _small_grey(data: bytes) -> Image.Image:
    """The image in grey; JPEGs are decoded at an eighth of their size where that is enough."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{image.width} x {image.height} px are more than {MAX_PIXELS} px")
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft("L", (4 * _SIDE, 4 * _SIDE))
                image.load()
                return image.convert("L")
    except BadImage:
        raise
    except Exception as error:  # hostile bytes make decoders raise nearly anything; it is passed on
        raise BadImage(f"cannot be decoded: {type(error).__name__}: {error}") from error
    return decode(data).convert("L")


def alike(ours: np.ndarray, theirs: np.ndarray, distance: int) -> Iterator[tuple[int, int, int]]:
    """(row of ours, row of theirs, differing bits) for all pairs within the distance.

    Args:
        ours: [n] u64.
        theirs: [m] u64.
        distance: bits.
    """
    if not len(ours) or not len(theirs):
        return
    block = max(1, _PAIRS_AT_A_TIME // len(theirs))
    for first in range(0, len(ours), block):
        bits = _differing_bits(ours[first : first + block, None], theirs[None])
        for row, column in np.argwhere(bits <= distance).tolist():
            yield first + row, column, int(bits[row, column])


def _differing_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[n, m] u8."""
    differing = first ^ second
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(differing)
    return _ONES[differing[..., None].view(np.uint8)].sum(-1, dtype=np.uint8)


def _named(
    pairs: list[tuple[int, int, int]], ours: tuple[Path, _Hashes], theirs: tuple[Path, _Hashes]
) -> list[Match]:
    name, other_name = _Names(*ours), _Names(*theirs)
    return [Match(*name.of(row), *other_name.of(column), bits) for row, column, bits in pairs]


class _Names:
    """Shard and key of hashed images; the tars of matches are walked once each."""

    def __init__(self, folder: Path, hashes: _Hashes) -> None:
        self._folder, self._hashes = folder, hashes
        self._records = read_manifest(folder).shards
        self._keys: dict[int, list[str]] = {}

    def of(self, row: int) -> tuple[str, str]:
        number = int(self._hashes.shards[row])
        record = self._records[number]
        if number not in self._keys:
            index = index_of(self._folder, record)
            self._keys[number] = keys_in(self._folder / record.name, index)
        return record.name, self._keys[number][int(self._hashes.rows[row])]
