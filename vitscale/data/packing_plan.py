"""What a packing will write: every sample checked and found, shuffled by seed and cut into shards.

The digest of a plan changes with any sample, label, class, size limit or re-encoding. So the shards that a killed
packing finished are used again when, and only when, the same plan is packed again.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL
import xxhash

from vitscale.data.index import LONGEST
from vitscale.data.random_keys import generator
from vitscale.data.reencode import Reencoding
from vitscale.data.samples import IMAGE_EXTENSIONS, Sample, Span, Split
from vitscale.data.tar_samples import split_name
from vitscale.errors import ConfigError, DataError

SHARD_BYTES = 128 << 20
SHARD_SAMPLES = 10_000
_TAR_OVERHEAD = 4 * 512
"""Bytes a sample beyond its image: two headers, the label, and padding."""
_VERSION = 1


@dataclass(frozen=True)
class Packing:
    """How samples become shards."""

    seed: int = 0
    shard_bytes: int = SHARD_BYTES
    """Of images as they are in the source, before re-encoding."""
    shard_samples: int = SHARD_SAMPLES
    reencoding: Reencoding | None = None
    """None keeps the bytes of every image."""
    skip_bad: bool = False
    """Leave out images that cannot be re-encoded, and list them, instead of refusing the data set."""

    def __post_init__(self) -> None:
        for name, where in (("shard_bytes", "--shard-size"), ("shard_samples", "--shard-samples")):
            if getattr(self, name) < 1:
                raise ConfigError("must be above 0", where=where, given=getattr(self, name))
        if self.skip_bad and self.reencoding is None:
            raise ConfigError(
                "has no effect where images keep their bytes, since none is decoded",
                where="--skip-bad",
                do="Leave it out, or re-encode with --max-short-side or --format.",
            )


class Placed(NamedTuple):
    """A sample whose bytes lie in a file: its own, one that holds many, or, where `file` is empty, the spool."""

    key: str
    extension: str
    labels: tuple[int, ...]
    file: str
    start: int
    size: int

    @property
    def source(self) -> str:
        """Where the image comes from, for messages."""
        return f"{self.file}, byte {self.start}" if self.start else self.file


@dataclass(frozen=True)
class Plan:
    """Samples in the order of the source, and the shards that they go to."""

    samples: list[Placed]
    shards: list[np.ndarray]
    """Rows of `samples`, by shard."""
    digest: str

    @property
    def bytes(self) -> int:
        return sum(sample.size for sample in self.samples)

    @property
    def disk_bytes(self) -> int:
        return self.bytes + len(self.samples) * _TAR_OVERHEAD

    def of_shard(self, number: int) -> tuple[Placed, ...]:
        return tuple(self.samples[row] for row in self.shards[number])


def make_plan(split: Split, packing: Packing, spool: BinaryIO) -> Plan:
    """Check every sample, write those that come as bytes to `spool`, and cut all into shards.

    Raises:
        DataError: no samples, or one with an unusable key, extension or label.
    """
    hasher = xxhash.xxh3_128(_settings(split, packing))
    samples = _place(split, spool, hasher)
    if not samples:
        raise DataError("there are no samples to pack", do="Check the path and the chosen classes.")
    total = sum(sample.size for sample in samples)
    order = generator("pack", packing.seed).permutation(len(samples))
    wanted = max(
        math.ceil(total / packing.shard_bytes), math.ceil(len(samples) / packing.shard_samples)
    )
    shards = np.array_split(order, min(max(wanted, 1), len(samples)))
    return Plan(samples, shards, hasher.hexdigest())


def _settings(split: Split, packing: Packing) -> bytes:
    decoder = PIL.__version__ if packing.reencoding else None
    wanted = {key: value for key, value in asdict(packing).items() if key != "skip_bad"}
    content = [_VERSION, wanted, decoder, split.classes, dict(split.notes)]
    return json.dumps(content, sort_keys=True).encode()


def _place(split: Split, spool: BinaryIO, hasher: xxhash.xxh3_128) -> list[Placed]:
    placed: list[Placed] = []
    keys: set[str] = set()
    for sample in split.samples:
        problem = _problem(sample, keys, len(split.classes))
        if problem:
            raise DataError(
                problem, where=f"sample {sample.key!r}", do="Mend the source of the samples."
            )
        keys.add(sample.key)
        one, identity = _placed(sample, spool)
        hasher.update(repr((*one, identity)).encode("utf-8", "surrogateescape"))
        placed.append(one)
    return placed


def _problem(sample: Sample, keys: set[str], classes: int) -> str:
    if sample.extension not in IMAGE_EXTENSIONS:
        return f"extension {sample.extension!r} is none of {', '.join(IMAGE_EXTENSIONS)}"
    for label in sample.labels:
        if not 0 <= label < min(classes, LONGEST):
            return f"label {label} is not below the number of classes, {classes}"
    if sample.key in keys:
        return "the key comes twice"
    if split_name(f"{sample.key}.{sample.extension}") != sample[:2]:
        return "a reader would split the key from the extension elsewhere: avoid dots in keys"
    return ""


def _placed(sample: Sample, spool: BinaryIO) -> tuple[Placed, object]:
    """The sample, and what tells whether its bytes are the same another time."""
    key, extension, data, _ = sample
    labels = tuple(sorted(set(sample.labels)))
    if isinstance(data, bytes):
        start = spool.tell()
        spool.write(data)
        return Placed(key, extension, labels, "", start, len(data)), xxhash.xxh3_64_hexdigest(data)
    file, start, size = data if isinstance(data, Span) else (data, 0, None)
    try:
        found = Path(file).stat()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file)) from error
    of_file = found.st_size if size is None else size
    return Placed(key, extension, labels, str(file), start, of_file), (
        found.st_size,
        found.st_mtime_ns,
    )
