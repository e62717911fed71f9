"""One step on 64 images of a tar and the weights saved, with as little as will do.

python -m bench.contestants.one_step TAR FOLDER [--deepspeed]
"""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from webdataset.compat import WebDataset

WIDTH, PATCH, SIDE, BATCH = 32, 8, 32, 64  # configs/debug/tiny.toml


class Vit(nn.Module):
    """A ViT-mu/8 of torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2 + 1, WIDTH))
        self.block = nn.TransformerEncoderLayer(
            WIDTH, 2, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, 32, 32] to [B, 10]."""
        patches = self.patch(images).flatten(2).mT
        tokens = torch.cat([self.cls.expand(len(images), -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.block(tokens)[:, 0]))


def main(tar: str, folder: str, *options: str) -> None:
    images, labels = batch_of(tar)
    model = Vit()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    if "--deepspeed" in options:
        under_deepspeed(model, optimizer, images, labels)
    else:
        F.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.save([model.state_dict(), optimizer.state_dict()], Path(folder) / "one_step.pt")


def batch_of(tar: str) -> tuple[Tensor, Tensor]:
    """The first images of a tar, float32 [64, 3, 32, 32], and their labels, int64 [64]."""
    samples: Any = WebDataset(tar, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    pairs = list(islice(samples, BATCH))
    views = [np.asarray(image.convert("RGB").resize((SIDE, SIDE))) for image, _ in pairs]
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) / 127.5 - 1
    return images, torch.tensor([label for _, label in pairs])


def under_deepspeed(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """The step under ZeRO-1, alone in its group."""
    import deepspeed

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # any that is free
    deepspeed.init_distributed("gloo")
    settings = {
        "train_micro_batch_size_per_gpu": BATCH,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 1.0,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    engine.backward(F.cross_entropy(engine(images), labels))
    engine.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
