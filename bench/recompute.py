"""What each mode of activation checkpointing costs: CPU time of forward and backward of ViT-S/16 in bfloat16.

    python -m bench.recompute [--variant S/16] [--batch 4] [--rounds 9]

One thread, modes in turn; "none" is the peer. The ratio is below 1 by what is computed twice. What a mode holds is in
docs/scaling.md, and tests/engine/test_recompute.py measures it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from bench import figures
from vitscale.config.model import ModelConfig
from vitscale.config.ops import OpsConfig
from vitscale.engine.recompute import set_recompute
from vitscale.model.build import build_model
from vitscale.ops.choice import choose_ops

CPU = torch.device("cpu")
MODES = ("cheap", "mlp", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    works = {mode: work(mode, given.variant, given.batch) for mode in ("none", *MODES)}
    times = figures.times_in_turn(works, given.rounds, figures.CPU_TIME)
    found = {mode: figures.figure({"ours": times[mode], "none": times["none"]}) for mode in MODES}
    figures.write("recompute", found, variant=given.variant, batch=given.batch)


def work(mode: str, variant: str, batch: int) -> Callable[[], None]:
    shape = ModelConfig(variant=variant, image_px=224).shape(1000)
    ops = choose_ops(OpsConfig(), shape, device=CPU, dtype=torch.bfloat16)
    model = build_model(shape, ops, seed=0).to(torch.bfloat16).train()
    set_recompute(model, mode)
    images = torch.randn(batch, 3, 224, 224).to(torch.bfloat16)

    def forward_and_backward() -> None:
        model(images).float().square().sum().backward()
        model.zero_grad()

    return forward_and_backward


if __name__ == "__main__":
    main()
