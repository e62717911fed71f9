"""What the engines cost over a bare torch loop of the same ViT: CPU time of a step, as a ratio within one run.

One process, one thread, float32; steps of all contestants are interleaved and medians compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.data.device import normalise
from vitscale.engine.local import LocalEngine
from vitscale.engine.zero import ZeroEngine
from vitscale.model.build import build_model
from vitscale.objective import make_objective

BATCH, ROUNDS = 8, 15
SHAPE = ModelConfig(variant="Ti/16", image_px=112).shape(1000)
PLAN = Plan(1, BATCH, BATCH, 1, 1000, 100, 0, 1, 1, None, None)
CPU = torch.device("cpu")
OPTIM = OptimConfig()


def bare() -> Callable[[torch.Tensor, torch.Tensor], None]:
    model = build_model(SHAPE, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        F.cross_entropy(model(normalise(images, CPU, torch.float32)), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def stepping(engine: Any) -> Callable[[torch.Tensor, torch.Tensor], None]:
    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        engine.accumulate(images, labels, last=True)
        engine.step(1e-3)

    return step


def contestants() -> dict[str, Callable[[torch.Tensor, torch.Tensor], None]]:
    objective = make_objective("softmax", 0.0)
    local = LocalEngine(
        build_model(SHAPE, seed=0),
        objective,
        OPTIM,
        device=CPU,
        dtype=torch.float32,
        accumulation=1,
        world=1,
    )
    found = {"bare torch": bare(), "local": stepping(local)}
    for stage in (1, 2, 3):
        config = EngineConfig(zero_stage=stage, precision="fp32")
        engine = ZeroEngine(build_model(SHAPE, seed=0), objective, config, OPTIM, PLAN, device=CPU)
        found[f"ZeRO-{stage}"] = stepping(engine)
    return found


def main() -> None:
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (BATCH, 3, *SHAPE.image), dtype=torch.uint8)
    labels = torch.randint(0, SHAPE.classes, (BATCH,))
    steps = contestants()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            before = time.process_time()
            step(images, labels)
            seconds[name].append(time.process_time() - before)
    reference = statistics.median(seconds["bare torch"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:<12} {median * 1e3:8.1f} ms   {median / reference:5.2f} x bare torch")


if __name__ == "__main__":
    main()
