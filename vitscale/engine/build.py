"""Make the engine a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitscale.config.plan import Plan
from vitscale.config.preprocessing import Preprocessing
from vitscale.config.run import RunConfig
from vitscale.data.batch import counted
from vitscale.data.device import Normaliser
from vitscale.data.mix import Draw, Mixing
from vitscale.engine.local import LocalEngine
from vitscale.engine.loss_scale import LossScale, loss_scale_of
from vitscale.engine.precision import DTYPES
from vitscale.engine.randomness import seed_micro_batch
from vitscale.engine.state import RankState, Source, Stored, Writer
from vitscale.engine.zero import ZeroEngine
from vitscale.faults import factor, point
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
    loss_scale: LossScale
    """What only the backward pass sees the loss multiplied by; 1 unless set."""
    draw: Draw | None
    """How the next micro-batch is mixed, set before each."""

    @property
    def model(self) -> nn.Module: ...

    def accumulate(self, images: Tensor, labels: Tensor, *, last: bool) -> Tensor: ...

    def step(self, lr: float) -> Tensor: ...

    def discard(self) -> None: ...

    def save(self, writer: Writer, rank: int) -> list[Stored]: ...

    def load(self, source: Source, updates: int) -> bool: ...

    def close(self) -> None: ...


class SeededEngine:
    """An engine whose randomness follows from (seed, step, micro-batch), with the mean loss of the images that count.

    Micro-batches are numbered over the global batch, so nothing random depends on the number of ranks.
    """

    def __init__(
        self, engine: StepEngine, seed: int, place: Place, mixing: Mixing | None = None
    ) -> None:
        self._engine, self._seed, self._place, self._mixing = engine, seed, place, mixing
        self._step = self._index = 0
        self._losses: list[Tensor] = []

    def begin(self, step: int, labels: Sequence[Tensor]) -> None:
        """Start the step that follows `step` finished ones; `labels` are those of its micro-batches on this rank."""
        point("train.step", self._place.rank)
        self._engine.model.train()
        self._engine.scale = self._scale(labels) * factor("engine.loss", self._place.rank)
        self._step, self._index = step, self._place.rank * len(labels)
        self._losses = []

    def accumulate(self, images: Tensor, labels: Tensor, *, last: bool) -> Tensor:
        """As the engine's own, with all that is random drawn for this micro-batch of the global batch."""
        seed_micro_batch(self._seed, self._step, self._index)
        self._engine.draw = self._mixing and self._mixing.draw(self._step, self._index)
        self._index += 1
        loss = self._engine.accumulate(images, labels, last=last)
        self._losses.append(loss)
        return loss

    def losses(self) -> list[float]:
        """The mean loss of the micro-batches of each rank since `begin`, the same on all ranks; waits for the device.

        Every rank adds its own to a place of its own, so that one NaN is not taken for everybody's.
        """
        means = torch.zeros(self._place.world, dtype=torch.float64, device=self._engine.device)
        means[self._place.rank] = torch.stack(self._losses).double().mean()
        if self._place.world > 1:
            dist.all_reduce(means)
        return means.tolist()

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
    pixels = Preprocessing(config.data.mean, config.data.std)
    if config.engine.kind == "local":
        engine: StepEngine = LocalEngine(
            model,
            objective,
            config.optim,
            device=device,
            dtype=DTYPES[config.engine.precision],
            accumulation=plan.accumulation,
            world=place.world,
            pixels=pixels,
        )
    else:
        engine = ZeroEngine(
            model, objective, config.engine, config.optim, plan, device=device, pixels=pixels
        )
    engine.loss_scale = loss_scale_of(config.engine)
    mixing = Mixing(config.data, config.run.seed)
    return SeededEngine(engine, config.run.seed, place, mixing)
