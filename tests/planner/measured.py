"""Memory that a rank of a real run takes, and bytes that it sends; run by `tests.ranks`.

For memory, freed memory must go back to the system at once.
"""

from __future__ import annotations

import gc
import inspect
from pathlib import Path
from typing import Any

import torch

from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.ops import OpsConfig, on_device
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.engine.local import LocalEngine
from vitscale.engine.precision import DTYPES
from vitscale.engine.recompute import set_recompute
from vitscale.engine.zero import ZeroEngine
from vitscale.model.build import build_model
from vitscale.objective import make_objective
from vitscale.ops.choice import choose_ops
from vitscale.place import place_of
from vitscale.planner.memory import memory_of
from vitscale.planner.speed import traffic_bytes

CPU = torch.device("cpu")


def shape_of(width: int, depth: int, image_px: int) -> Shape:
    model = ModelConfig(variant="B/16", image_px=image_px, width=width, depth=depth, mlp=4 * width)
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
    batches, px = (case["micro_batch"], case["accumulation"]), case["image_px"]
    small = _engine(shape_of(768, 1, px), config, *batches, place.world)
    _steps(small, px, *batches)
    small.close()
    del small
    gc.collect()
    before = _status("VmRSS")
    shape = shape_of(768, case["depth"], px)
    engine = _engine(shape, config, *batches, place.world)
    _steps(engine, px, *batches)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    _steps(engine, px, *batches)
    seen = _status("VmHWM") - before
    wanted = memory_of(
        shape,
        config,
        OptimConfig(),
        on_device(OpsConfig(), "cpu", config.precision),
        micro_batch=case["micro_batch"],
        accumulation=case["accumulation"],
        world=place.world,
    )
    return seen, wanted.peak


def _engine(shape: Shape, config: EngineConfig, micro_batch: int, accumulation: int, world: int):
    dtype = DTYPES[config.precision]
    model = build_model(shape, choose_ops(OpsConfig(), shape, device=CPU, dtype=dtype), seed=0)
    set_recompute(model, config.recompute)
    objective, optim = make_objective("softmax", 0.0), OptimConfig()
    if config.stage is None:
        return LocalEngine(
            model, objective, optim, device=CPU, dtype=dtype, accumulation=accumulation, world=world
        )
    batch = micro_batch * accumulation * world
    plan = Plan(world, batch, micro_batch, accumulation, 1000, 100, 0, 1, 1, None, None)
    return ZeroEngine(model, objective, config, optim, plan, device=CPU)


def _steps(engine, image_px: int, micro_batch: int, accumulation: int) -> None:
    images = torch.randint(0, 256, (micro_batch, 3, image_px, image_px), dtype=torch.uint8)
    for _ in range(2):
        for left in reversed(range(accumulation)):
            labels = torch.zeros(micro_batch, dtype=torch.int64)
            engine.accumulate(images, labels, last=not left)
        engine.step(1e-3)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def sent(case: dict) -> tuple[float, float]:
    """(bytes that this rank sends in a step, as rings would send them; bytes the planner foresees)."""
    place = place_of()
    torch.distributed.init_process_group("gloo")
    ledger = _ledger(place.world)
    config = EngineConfig(zero_stage=case["stage"], precision=case["precision"])
    batches = 1, case["accumulation"]
    shape, px = shape_of(480, 2, 112), 112
    engine = _engine(shape, config, *batches, place.world)
    _steps(engine, px, *batches)
    ledger.clear()
    _steps(engine, px, *batches)
    return sum(ledger) / 2, traffic_bytes(shape, config, place.world, case["accumulation"])


LARGER_SIDE = {
    "all_reduce": "tensor",
    "reduce": "tensor",
    "all_gather": "tensor_list",
    "all_gather_into_tensor": "output_tensor",
    "reduce_scatter": "input_list",
    "reduce_scatter_tensor": "input",
}


def _ledger(world: int) -> list[float]:
    """Have torch's collectives note what they send: (N - 1) / N of the larger side, twice that to sum on all ranks."""
    noted: list[float] = []

    def noting(name: str, argument: str) -> None:
        collective = getattr(torch.distributed, name)
        signature = inspect.signature(collective)

        def noted_collective(*args: Any, **options: Any) -> Any:
            side = signature.bind(*args, **options).arguments[argument]
            times = 2 if name == "all_reduce" else 1
            noted.append(times * _bytes(side) * (world - 1) / world)
            return collective(*args, **options)

        setattr(torch.distributed, name, noted_collective)

    for name, argument in LARGER_SIDE.items():
        noting(name, argument)
    return noted


def _bytes(of: Any) -> int:
    return sum(t.nbytes for t in (of if isinstance(of, list) else [of]))
