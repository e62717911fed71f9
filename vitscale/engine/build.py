"""Make the engine a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitscale.config.plan import Plan
from vitscale.config.run import RunConfig
from vitscale.data.batch import counted
from vitscale.data.device import Normaliser
from vitscale.engine.local import LocalEngine
from vitscale.engine.precision import DTYPES
from vitscale.engine.randomness import seed_step
from vitscale.engine.state import RankState, Source, Stored, Writer
from vitscale.engine.zero import ZeroEngine
from vitscale.faults import point
from vitscale.model.vit import ViT
from vitscale.objective import Objective
from vitscale.place import Place


class StepEngine(Protocol):
    """What `LocalEngine` and `ZeroEngine` have in common."""

    device: torch.device
    normalise: Normaliser
    state: RankState
    scale: Tensor
    """[] float32: what the loss of a micro-batch is multiplied by, set before each step."""

    @property
    def model(self) -> nn.Module: ...

    def accumulate(self, images: Tensor, labels: Tensor, *, last: bool) -> Tensor: ...

    def step(self, lr: float) -> Tensor: ...

    def save(self, writer: Writer, rank: int) -> list[Stored]: ...

    def load(self, source: Source, updates: int) -> bool: ...

    def close(self) -> None: ...


class SeededEngine:
    """An engine whose randomness follows from (seed, step, rank), with the mean loss of the images that count."""

    def __init__(self, engine: StepEngine, seed: int, place: Place) -> None:
        self._engine, self._seed, self._place = engine, seed, place

    def begin(self, step: int, labels: Sequence[Tensor]) -> None:
        """Start the step that follows `step` finished ones; `labels` are those of its micro-batches on this rank."""
        point("train.step", self._place.rank)
        self._engine.model.train()
        self._engine.scale = self._scale(labels)
        seed_step(self._seed, step, self._place.rank)

    def _scale(self, labels: Sequence[Tensor]) -> Tensor:
        """Images of the whole batch over those of them that count, float32 [], exactly 1 if all do."""
        own = [sum(map(len, labels)), sum(int(counted(each)) for each in labels)]
        sums = torch.tensor(own, dtype=torch.float32, device=self._engine.device)
        if self._place.world > 1:
            dist.all_reduce(sums)
        return sums[0] / sums[1].clamp(min=1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def build_engine(
    model: ViT,
    objective: Objective,
    config: RunConfig,
    plan: Plan,
    *,
    place: Place,
    device: torch.device,
) -> Any:
    """The engine for `model` (float32, on the CPU, fully initialised).

    Raises:
        ResourceError: DeepSpeed is asked for and not installed.
    """
    if config.engine.kind == "local":
        engine: StepEngine = LocalEngine(
            model,
            objective,
            config.optim,
            device=device,
            dtype=DTYPES[config.engine.precision],
            accumulation=plan.accumulation,
            world=place.world,
        )
    else:
        engine = ZeroEngine(model, objective, config.engine, config.optim, plan, device=device)
    return SeededEngine(engine, config.run.seed, place)
