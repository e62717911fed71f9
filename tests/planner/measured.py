"""Memory that a rank of a real run takes; run by `tests.ranks`, with freed memory going back to the system at once."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.engine.local import LocalEngine
from vitscale.engine.precision import DTYPES
from vitscale.engine.recompute import set_recompute
from vitscale.engine.zero import ZeroEngine
from vitscale.model.build import build_model
from vitscale.objective import make_objective
from vitscale.place import place_of
from vitscale.planner.memory import memory_of

CPU = torch.device("cpu")


def shape_of(width: int, depth: int) -> Shape:
    model = ModelConfig(variant="B/16", image_px=112, width=width, depth=depth, mlp=4 * width)
    return model.shape(100)


def peak(case: dict) -> tuple[int, float]:
    """(bytes that the steps of a run take at most, bytes the planner foresees) on this rank."""
    place = place_of()
    if place.world > 1:
        torch.distributed.init_process_group("gloo")
    config = EngineConfig(
        kind="local" if case["stage"] is None else "deepspeed",
        zero_stage="auto" if case["stage"] is None else case["stage"],
        precision=case["precision"],
        recompute=case["recompute"],
    )
    batches = case["micro_batch"], case["accumulation"]
    small = _engine(shape_of(768, 1), config, *batches, place.world)
    _steps(small, *batches)
    small.close()
    del small
    gc.collect()
    before = _status("VmRSS")
    shape = shape_of(768, case["depth"])
    engine = _engine(shape, config, *batches, place.world)
    _steps(engine, *batches)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    _steps(engine, *batches)
    seen = _status("VmHWM") - before
    wanted = memory_of(
        shape,
        config,
        OptimConfig(),
        micro_batch=case["micro_batch"],
        accumulation=case["accumulation"],
        world=place.world,
    )
    return seen, wanted.peak


def _engine(shape: Shape, config: EngineConfig, micro_batch: int, accumulation: int, world: int):
    model = build_model(shape, seed=0)
    set_recompute(model, config.recompute)
    objective, optim = make_objective("softmax", 0.0), OptimConfig()
    if config.stage is None:
        dtype = DTYPES[config.precision]
        return LocalEngine(
            model, objective, optim, device=CPU, dtype=dtype, accumulation=accumulation, world=world
        )
    batch = micro_batch * accumulation * world
    plan = Plan(world, batch, micro_batch, accumulation, 1000, 100, 0, 1, 1, None, None)
    return ZeroEngine(model, objective, config, optim, plan, device=CPU)


def _steps(engine, micro_batch: int, accumulation: int) -> None:
    images = torch.randint(0, 256, (micro_batch, 3, 112, 112), dtype=torch.uint8)
    for _ in range(2):
        for left in reversed(range(accumulation)):
            labels = torch.zeros(micro_batch, dtype=torch.int64)
            engine.accumulate(images, labels, last=not left)
        engine.step(1e-3)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
