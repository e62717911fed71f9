"""What each mode of activation checkpointing costs: time of forward and backward of ViT-S/16 in bfloat16.

    python -m bench.recompute [--variant S/16] [--batch 4] [--rounds 9]
    python -m bench.recompute --gpu [--batch 128]                         # not run on a GPU yet

One thread, modes in turn; "none" is the peer. The ratio is below 1 by what is computed twice. What a mode holds is in
docs/scaling.md, and tests/engine/test_recompute.py measures it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from bench import device, figures
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.ops import OpsConfig
from vitscale.engine.recompute import set_recompute
from vitscale.model.build import build_model
from vitscale.ops.choice import choose_ops

MODES = ("cheap", "mlp", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch", type=int, help="default: 4, or 128 on a GPU")
    parser.add_argument("--rounds", type=int, default=9)
    device.add_gpu(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    where = device.where_of(given)
    batch = given.batch or (128 if where.is_gpu else 4)
    shape = ModelConfig(variant=given.variant, image_px=224).shape(1000)
    works = {mode: work(mode, shape, batch, where.device) for mode in ("none", *MODES)}
    times = figures.times_in_turn(works, given.rounds, where.timed)
    found = {mode: figures.figure({"ours": times[mode], "none": times["none"]}) for mode in MODES}
    where.write("recompute", found, variant=given.variant, batch=batch)


def work(mode: str, shape: Shape, batch: int, at: torch.device) -> Callable[[], None]:
    """Forward and backward pass of a new model under a mode."""
    ops = choose_ops(OpsConfig(), shape, device=at, dtype=torch.bfloat16)
    model = build_model(shape, ops, seed=0).to(at, torch.bfloat16).train()
    set_recompute(model, mode)
    images = torch.randn(batch, 3, *shape.image, device=at).to(torch.bfloat16)

    def forward_and_backward() -> None:
        model(images).float().square().sum().backward()
        model.zero_grad()

    return forward_and_backward


if __name__ == "__main__":
    main()
