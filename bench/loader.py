"""Our loader against webdataset's documented pipeline on the same shards: images per CPU-second.

Both decode, crop (inception), flip and batch 28 px PNGs to uint8 in one process; rounds are interleaved and the best of
each counts, so only the ratio means anything.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from webdataset.compat import WebDataset

from vitscale.config.data import DataConfig
from vitscale.data.loader import TrainLoader
from vitscale.data.shards import ShardSet
from vitscale.data.synthetic import synthetic_shards
from vitscale.place import Place

IMAGES, BATCH, SIDE, ROUNDS = 4000, 64, 28, 5


def ours(shards: ShardSet) -> Iterator[object]:
    config = DataConfig(train=str(shards.folder), threads=1)
    loader = TrainLoader(
        shards,
        config,
        image=(SIDE, SIDE),
        batch=BATCH,
        micro_batch=BATCH,
        seed=0,
        place=Place(),
    )
    batches = loader.batches(0)
    for _ in range(IMAGES // BATCH):
        yield next(batches)
    loader.close()


def documented(shards: ShardSet) -> Iterator[object]:
    """decode, map, shuffle, batched: the pipeline of webdataset's README, kept to uint8."""
    tars = sorted(str(path) for path in Path(shards.folder).glob("*.tar"))
    dataset: Any = (
        WebDataset(tars, shardshuffle=len(tars))
        .shuffle(1000)
        .decode("pil")
        .to_tuple("png", "cls")
        .map_tuple(augmented, int)
        .batched(BATCH, partial=False)
    )
    yield from dataset


def augmented(image: Image.Image) -> np.ndarray:
    """torchvision's RandomResizedCrop and flip, with Pillow."""
    width, height = image.size
    area = width * height * random.uniform(0.05, 1.0)
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    w = min(width, max(1, round((area * aspect) ** 0.5)))
    h = min(height, max(1, round((area / aspect) ** 0.5)))
    left, top = random.randint(0, width - w), random.randint(0, height - h)
    box = (left, top, left + w, top + h)
    image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image).transpose(2, 0, 1)


def images_per_cpu_s(batches: Iterator[object]) -> float:
    before = time.process_time()
    count = sum(BATCH for _ in batches)
    return count / (time.process_time() - before)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = synthetic_shards(folder, IMAGES, side_px=SIDE)
        best = {"vitscale": 0.0, "webdataset": 0.0}
        for _ in range(ROUNDS):
            for name, pipeline in (("vitscale", ours), ("webdataset", documented)):
                best[name] = max(best[name], images_per_cpu_s(pipeline(shards)))
    for name, speed in best.items():
        print(f"{name:<12} {speed:8.0f} images per CPU-second")
    print(f"ratio        {best['vitscale'] / best['webdataset']:8.2f}")


if __name__ == "__main__":
    main()
