"""Small data sets for the tests of the data room."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitscale.config.data import DataConfig
from vitscale.config.source import Source
from vitscale.data.samples import Sample, Split
from vitscale.data.shards import ShardSet, open_shards
from vitscale.data.write import pack
from vitscale.place import Place

if TYPE_CHECKING:
    from vitscale.data.corpus import Corpus
    from vitscale.data.loader import TrainLoader


def image_file(format: str = "PNG", *, seed: int = 0, size: tuple[int, int] = (12, 10)) -> bytes:
    """An encoded RGB image of random pixels, (width, height) = `size`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return encoded(Image.fromarray(pixels), format)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def split_of(count: int, classes: int = 4) -> Split:
    """`count` PNGs that differ from each other; label number % classes."""
    samples = [
        Sample(f"s/{number:05d}", "png", image_file(seed=number), number % classes)
        for number in range(count)
    ]
    return Split(tuple(f"class {label}" for label in range(classes)), samples)


def packed(folder: Path, count: int, *, shard_samples: int = 16, classes: int = 4) -> ShardSet:
    pack(split_of(count, classes), folder, seed=1, shard_samples=shard_samples)
    return open_shards(folder)


def loader_of(shards: ShardSet, *, place: Place = Place(), batch: int = 12, **data) -> TrainLoader:  # noqa: B008
    """A loader of 8 x 8 views, micro-batches of one or two images."""
    from vitscale.data.corpus import open_corpus
    from vitscale.data.loader import TrainLoader

    settings = {"train": str(shards.folder), "lanes": 3, "window": 8, "threads": 1, **data}
    config = DataConfig.model_validate(settings)
    return TrainLoader(
        open_corpus(config.train, config),
        config,
        image=(8, 8),
        batch=batch,
        micro_batch=1 if batch // place.world % 2 else 2,
        seed=5,
        place=place,
    )


def corpus_of(shards: ShardSet) -> Corpus:
    """All of a set."""
    from vitscale.data.corpus import open_corpus

    return open_corpus([Source(shards=str(shards.folder))])


def make_tar(
    path: Path, files: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT
) -> Path:
    """A tar by Python's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def flip_byte(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x55]))


def damage_image(shards: ShardSet, sample: int) -> str:
    """Flip a byte in the middle of an image; the name of its shard."""
    opened, row = shards._find(sample)
    flip_byte(opened.path, int(opened.index.offsets[row] + opened.index.lengths[row] // 2))
    return opened.path.name


def files_with(keys: Iterable[str]) -> list[tuple[str, bytes]]:
    """A PNG and its number as label for every key."""
    return [
        file
        for number, key in enumerate(keys)
        for file in ((f"{key}.png", image_file(seed=number)), (f"{key}.cls", b"%d" % number))
    ]
