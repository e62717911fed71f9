"""What the engines cost over a bare torch loop of the same ViT, and on two ranks over DistributedDataParallel.

    python -m bench.engines [--variant S/16] [--image 224] [--batch 16] [--rounds 7]
    python -m bench.engines --gpu [--batch 64]                            # not run on a GPU yet

float32, one thread a rank, steps in turn. One rank: CPU time. Two, which wait for each other: wall time of rank 0.
On GPUs in bfloat16, where the loop of torch keeps no float32 weights and so does less; two ranks where there are two.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from bench import device, figures
from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.data.device import normalise
from vitscale.engine.allocator import keep_freed_memory
from vitscale.engine.local import LocalEngine
from vitscale.engine.precision import DTYPES
from vitscale.engine.zero import ZeroEngine
from vitscale.model.build import build_model
from vitscale.objective import make_objective
from vitscale.place import Place

OPTIM = OptimConfig()
PRECISION: dict[str, Literal["fp32", "bf16"]] = {"cpu": "fp32", "cuda": "bf16"}

Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--batch", type=int, help="default: 16, or 64 on a GPU")
    parser.add_argument("--rounds", type=int, default=7)
    device.add_gpu(parser)
    given = parser.parse_args()
    where = device.where_of(given)
    given.batch = given.batch or (64 if where.is_gpu else 16)
    shape = ModelConfig(variant=given.variant, image_px=given.image).shape(1000)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in (1,) if where.is_gpu and torch.cuda.device_count() < 2 else (1, 2):
            arguments = (world, _free_port(), Path(folder), shape, given)
            mp.spawn(measure, arguments, nprocs=world)  # pyright: ignore[reportPrivateImportUsage]
            times = json.loads((Path(folder) / f"{world}.json").read_text())
            peer = next(iter(times))
            for name in list(times)[1:]:
                figure = figures.figure({"ours": times[name], peer: times[peer]})
                found[f"{name}, ranks {world}"] = figure
    where.write("engines", found, shape=shape.as_json(), batch=given.batch)


def measure(
    rank: int, world: int, port: int, folder: Path, shape: Shape, given: argparse.Namespace
) -> None:
    """One rank: all contestants in turn; rank 0 writes down their times."""
    torch.set_num_threads(1)
    where, batch = device.where_of(given, Place(rank, world, rank)), given.batch
    keep_freed_memory(where.device)  # as every run does
    address, backend = f"tcp://127.0.0.1:{port}", "nccl" if where.is_gpu else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=world)
    generator = torch.Generator().manual_seed(rank)
    pixels = (batch, 3, *shape.image)
    images = torch.randint(0, 256, pixels, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, shape.classes, (batch,), generator=generator)
    plan = Plan(world, batch * world, batch, 1, 1000, 100, 0, 1, 1, None, None)
    steps = contestants(shape, plan, images.to(where.device), labels.to(where.device))
    timed = where.timed if world == 1 or where.is_gpu else figures.WALL_TIME
    times = figures.times_in_turn(steps, given.rounds, timed)
    if rank == 0:
        (folder / f"{world}.json").write_text(json.dumps(times))
    dist.barrier()
    dist.destroy_process_group()


def contestants(
    shape: Shape, plan: Plan, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """A step of torch alone, the first, and of every engine."""
    peer = "bare torch" if plan.world == 1 else "DDP"
    found = {peer: bare(shape, plan.world, images, labels)}
    for name, engine in engines(shape, plan, images.device):
        found[name] = stepping(engine, images, labels)
    return found


def bare(
    shape: Shape, world: int, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], object]:
    at, dtype = images.device, DTYPES[PRECISION[images.device.type]]
    model: Any = build_model(shape, seed=0).to(at, dtype)
    parameters = list(model.parameters())
    if world > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)

    def step() -> None:
        F.cross_entropy(model(normalise(images, at, dtype)), labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def engines(shape: Shape, plan: Plan, at: torch.device) -> Iterable[tuple[str, Any]]:
    """Each engine by name, with a model of its own."""
    objective, precision = make_objective("softmax", 0.0), PRECISION[at.type]
    yield (
        "plain engine",
        LocalEngine(
            build_model(shape, seed=0),
            objective,
            OPTIM,
            device=at,
            dtype=DTYPES[precision],
            accumulation=1,
            world=plan.world,
        ),
    )
    for stage in (1, 2, 3):
        config = EngineConfig(zero_stage=stage, precision=precision)
        model = build_model(shape, seed=0)
        yield (
            f"ZeRO-{stage}",
            ZeroEngine(model, objective, config, OPTIM, plan, device=at),
        )


def stepping(engine: Any, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    def step() -> None:
        engine.accumulate(images, labels, last=True)
        engine.step(1e-3)

    return step


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
