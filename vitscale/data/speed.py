"""How fast this machine reads and decodes a recipe's own shards; for `vitscale doctor --data`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitscale.config.data import DataConfig
from vitscale.data.corpus import open_corpus
from vitscale.data.loader import TrainLoader
from vitscale.errors import DataError
from vitscale.place import Place

_MEASURE_S = 3.0
_BATCH = 64
_BLOCK = 8 << 20
_LARGEST_READ = 512 << 20
_LOOKED_AT = 512
_MB = 1e6


@dataclass(frozen=True)
class Speed:
    """What was measured; `disk_mb_s` is None where the shards come from a store."""

    images_per_core_s: float
    bytes_an_image: float
    disk_mb_s: float | None
    decoder: str


def measure(config: DataConfig, image: tuple[int, int], *, seed: int) -> Speed:
    """Decode the first batches on one thread for a few seconds of CPU time, and read a shard in blocks.

    Args:
        config: the `[data]` table of a recipe.
        image: height and width of its views.
        seed: of its order.

    Raises:
        DataError: the shards cannot be read.
    """
    corpus = open_corpus(config.train, config)
    loader = TrainLoader(
        corpus,
        config.model_copy(update={"threads": 1}),
        image=image,
        batch=_BATCH,
        micro_batch=_BATCH,
        seed=seed,
        place=Place(),
    )
    try:
        batches = loader.batches(0)
        next(batches)  # opens the shards
        began, images = time.process_time(), 0
        while time.process_time() - began < _MEASURE_S:
            images += len(next(batches).ids)
        rate = images / (time.process_time() - began)
    finally:
        loader.close()
    some = np.linspace(0, corpus.samples - 1, min(_LOOKED_AT, corpus.samples)).astype(np.int64)
    mean = float(corpus.rows(some).files.lengths.mean())
    first = corpus.selections[0].shards
    local = isinstance(first.folder, Path)
    disk = _disk_speed(Path(first.folder) / first.names[0]) if local else None
    return Speed(rate, mean, disk, loader.decoder)


def _disk_speed(tar: Path) -> float:
    """MB/s of reading one tar front to back, after asking the system to forget what it holds of it."""
    try:
        with open(tar, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began, read = time.perf_counter(), 0
            while read < _LARGEST_READ and (block := file.read(_BLOCK)):
                read += len(block)
            return read / _MB / (time.perf_counter() - began)
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=str(tar), do="Check the disk and the rights."
        ) from error
