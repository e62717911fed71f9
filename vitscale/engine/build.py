"""Make the engine a recipe asks for."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vitscale.config.plan import Plan
from vitscale.config.run import RunConfig
from vitscale.engine.local import LocalEngine
from vitscale.engine.precision import DTYPES
from vitscale.engine.randomness import seed_step
from vitscale.engine.shards import Piece, Reader, Writer
from vitscale.engine.zero import ZeroEngine
from vitscale.faults import point
from vitscale.model.vit import ViT
from vitscale.objective import Objective
from vitscale.place import Place


class StepEngine(Protocol):
    """What `LocalEngine` and `ZeroEngine` have in common."""

    @property
    def model(self) -> nn.Module: ...

    def accumulate(self, images: Tensor, labels: Tensor, *, last: bool) -> Tensor: ...

    def step(self, lr: float) -> Tensor: ...

    def save(self, writer: Writer, rank: int) -> dict[str, list[Piece]]: ...

    def load(self, reader: Reader, rank: int) -> None: ...

    def close(self) -> None: ...


class SeededEngine:
    """An engine whose randomness follows from (seed, step, rank)."""

    def __init__(self, engine: StepEngine, seed: int, rank: int) -> None:
        self._engine, self._seed, self._rank = engine, seed, rank

    def begin(self, step: int) -> None:
        """Start the step that follows `step` finished ones."""
        point("train.step", self._rank)
        self._engine.model.train()
        seed_step(self._seed, step, self._rank)

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
    return SeededEngine(engine, config.run.seed, place.rank)
