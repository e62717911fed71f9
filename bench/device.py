"""Where a bench runs, what it is timed by, CPU time of one process or the events of a GPU, and what is the most there.

The most is measured in the call that quotes it, in turn with the contestants: a product of two square matrices of side
8192 on a GPU and 1024 on a CPU, 2 side^3 FLOPs, and a copy of 1 GiB or 256 MiB, which are read and written. MFU is
the model's FLOPs of a step (vitscale/planner/size.py: forward and backward, nothing that is computed again) over its
time, over the product's FLOP/s (arXiv 2204.02311, appendix B, with that peak in place of the data sheet's).

Nothing of this has run on a GPU yet; tests run it on a CPU, the events by a stand-in.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bench import figures
from vitscale.engine.collectives import pick_device
from vitscale.errors import ResourceError
from vitscale.place import Place

PRODUCT, COPY = "matrix product", "copy"
SIDE = {"cpu": 1024, "cuda": 8192}
COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}
STEPS = 10
"""Works between two events of a GPU."""

Times = Mapping[str, list[float]]


@dataclass(frozen=True)
class Where:
    """A device, and how works on it are timed."""

    device: torch.device
    timed: figures.Timed = field(repr=False)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def write(self, name: str, found: Mapping[str, Any], **facts: object) -> None:
        """As `figures.write`; those of a GPU under a name of their own."""
        if self.is_gpu:
            facts["machine"] = torch.cuda.get_device_name(self.device)
            name = f"{name}_gpu"
        figures.write(name, found, **facts)


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """--gpu."""
    parser.add_argument("--gpu", action="store_true", help="run on a GPU, timed by its events")


def where_of(given: argparse.Namespace, place: Place = Place()) -> Where:  # noqa: B008 it is frozen
    """What the options of `add_gpu` say; ends the bench where there is no GPU for this rank."""
    if not given.gpu:
        return Where(torch.device("cpu"), figures.CPU_TIME)
    try:
        device = pick_device("cuda", place)
    except ResourceError as error:
        raise SystemExit(
            f"--gpu: {error.what} (given: {error.given}). Leave --gpu out, or check the driver, "
            f"CUDA_VISIBLE_DEVICES and that torch {torch.__version__} is built for CUDA."
        ) from None
    return Where(device, by_events(lambda: torch.cuda.Event(enable_timing=True), STEPS))


def by_events(make: Callable[[], Any], steps: int) -> figures.Timed:
    """On a GPU's own clock; `steps` works in a row, so that the host runs ahead as in training.

    Args:
        make: a new event of the kind of `torch.cuda.Event(enable_timing=True)`.
        steps: works between two events.
    """

    def timed(work: figures.Work) -> float:
        begin, end = make(), make()
        begin.record()
        for _ in range(steps):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / steps

    return timed


def limits(device: torch.device, dtype: torch.dtype) -> dict[str, figures.Work]:
    """What shows the most a device can do, to be timed in turn with contestants."""
    side, copied = SIDE[device.type], COPIED[device.type]
    one, two, product = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    source, target = (torch.zeros(copied, dtype=torch.uint8, device=device) for _ in range(2))
    return {
        PRODUCT: lambda: torch.matmul(one, two, out=product),
        COPY: lambda: target.copy_(source),
    }


def ceilings(times: Times, device: torch.device) -> dict[str, float]:
    """The most the device did, under the names that planner/hardware.py has for it.

    Args:
        times: milliseconds of the works of `limits`, a number a round.
        device: where they ran.

    Returns:
        `matmul`, FLOP/s, and `bandwidth`, bytes/s.
    """
    seconds = {name: statistics.median(times[name]) / 1e3 for name in (PRODUCT, COPY)}
    return {
        "matmul": 2 * SIDE[device.type] ** 3 / seconds[PRODUCT],
        "bandwidth": 2 * COPIED[device.type] / seconds[COPY],
    }


def mfu(times: Times, device: torch.device, flops: float) -> dict[str, float]:
    """Share of the product's FLOP/s that each contestant makes use of, the median over rounds.

    Args:
        times: milliseconds of contestants that do `flops` operations each, and of the works of `limits`.
        device: where they ran.
        flops: of the model in one work.
    """
    done = flops / (2 * SIDE[device.type] ** 3)
    return {
        name: round(
            done * statistics.median(p / t for p, t in zip(times[PRODUCT], own, strict=True)), 4
        )
        for name, own in times.items()
        if name not in (PRODUCT, COPY)
    }
