"""Other loaders as their own documentation sets them up, in the environment of bench/peers.txt.

    python -m bench.contestants.peers webdataset|torchvision|streaming FOLDER IMAGES [uint8]

All do torchvision's RandomResizedCrop to 224 and flip; with `uint8` they stop where vitscale stops, before
conversion to floats and normalisation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

if not torch.cuda.is_available():
    from bench.contestants.operators import declare_missing

    declare_missing()

from torchvision import transforms

from bench.contestants.timing import report

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def as_bytes(image: Any) -> torch.Tensor:
    """[H, W, 3] uint8."""
    return torch.from_numpy(np.array(image))


def transform(*, uint8: bool) -> Any:
    first = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    if uint8:
        return transforms.Compose([*first, as_bytes])
    return transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def webdataset(folder: Path, change: Any) -> Iterator[torch.Tensor]:
    """shuffle, decode, to_tuple, map_tuple, batched and WebLoader, as in webdataset's README."""
    import webdataset as wds

    tars = sorted(map(str, (folder / "shards").glob("*.tar")))
    dataset = (
        wds.WebDataset(tars, shardshuffle=len(tars))
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(change, int)
        .batched(64)
    )
    for images, _ in wds.WebLoader(dataset, batch_size=None, num_workers=0):
        yield images


def torchvision(folder: Path, change: Any) -> Iterator[torch.Tensor]:
    """ImageFolder and DataLoader, as in torchvision's classification reference."""
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(folder / "folder"), change)
    for images, _ in torch.utils.data.DataLoader(dataset, 64, shuffle=True, num_workers=0):
        yield images


def streaming(folder: Path, change: Any) -> Iterator[torch.Tensor]:
    """mosaicml-streaming's own vision dataset over MDS shards with a `jpeg` column, written on first use."""
    from streaming import MDSWriter
    from streaming.vision.base import StreamingVisionDataset

    shards = folder / "mds"
    if not shards.is_dir():
        with MDSWriter(out=str(shards), columns={"x": "jpeg", "y": "int"}) as writer:
            for path in sorted((folder / "folder").glob("*/*.jpg")):
                writer.write({"x": Image.open(path), "y": int(path.parent.name)})

    dataset = StreamingVisionDataset(
        local=str(shards), shuffle=True, batch_size=64, transform=change
    )
    for images, _ in torch.utils.data.DataLoader(dataset, 64, num_workers=0):
        yield images


def main() -> None:
    name, folder, images = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    contestant = {"webdataset": webdataset, "torchvision": torchvision, "streaming": streaming}[
        name
    ]
    change = transform(uint8=sys.argv[4:] == ["uint8"])

    def epochs() -> Iterator[torch.Tensor]:
        while True:
            yield from contestant(folder, change)

    report(epochs(), folder, images)


if __name__ == "__main__":
    main()
