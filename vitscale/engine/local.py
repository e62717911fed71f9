"""The reference engine: plain torch, state replicated on every rank, each line of the maths in sight."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitscale.config.optim import OptimConfig
from vitscale.config.preprocessing import PLAIN, Preprocessing
from vitscale.data.device import Normaliser
from vitscale.data.mix import Draw, mix
from vitscale.engine.frozen import FrozenWeights
from vitscale.engine.loss_scale import LossScale
from vitscale.engine.state import RankState, Source, Stored, Writer, whole_partitions, write_share
from vitscale.model.vit import ViT
from vitscale.objective import Objective
from vitscale.optim.groups import freeze, make_optimizer, parameter_groups, set_rate


class LocalEngine:
    """Data parallelism by averaging gradients; in bf16 and fp16 the optimizer keeps float32 master weights."""

    def __init__(
        self,
        model: ViT,
        objective: Objective,
        optim: OptimConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
        accumulation: int,
        world: int,
        pixels: Preprocessing = PLAIN,
    ) -> None:
        freeze(model, optim.freeze)
        frozen = FrozenWeights(model, dist.get_rank() if world > 1 else 0, world)
        self.model = model.to(device)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach() for name, p in self.parameters.items()}
        self.model.to(dtype)  # in fp32 masters and weights are the same memory
        self.device = device
        self.normalise = Normaliser(device, dtype, pixels.mean, pixels.std)
        self.objective, self.largest_norm = objective, optim.largest_norm
        self.scale = torch.ones((), device=device)
        self.loss_scale = LossScale()
        self.draw: Draw | None = None
        self.accumulation, self.world = accumulation, world
        kernel = model.ops.optimizer
        self.optimizer = make_optimizer(optim, self._groups(optim), kernel=kernel)
        partitions = whole_partitions(self.masters.items(), model.shape.heads)
        self.state = RankState(partitions, self.optimizer, self._publish, optim.ema_decay, frozen)

    def _groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """The model's parameter groups, with masters in the place of parameters."""
        names = {id(p): name for name, p in self.parameters.items()}
        groups = parameter_groups(self.model, optim)
        for group in groups:
            group["params"] = [self.masters[names[id(p)]] for p in group["params"]]
        return groups

    def accumulate(self, images: Tensor, labels: Tensor, *, last: bool) -> Tensor:
        """Forward and backward of one micro-batch (uint8 [B, 3, H, W], int64 [B] or [B, L]); its loss, []."""
        labels = labels.to(self.device, non_blocking=True)
        views, labels, weights = mix(self.normalise(images), labels, self.draw)
        loss = self.scale * self.objective(self.model(views), labels, weights, views)
        (loss / self.accumulation * self.loss_scale.value).backward()
        return loss.detach()

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """Average, clip, update; the gradient norm before clipping, []. No update if it is not finite."""
        self._average_gradients()
        masters = list(self.masters.values())
        for master, parameter in zip(masters, self.parameters.values(), strict=True):
            master.grad = self.loss_scale.unscaled(_gradient(parameter).to(master.dtype))
            parameter.grad = None
        norm = nn.utils.clip_grad_norm_(masters, self.largest_norm)
        finite = bool(torch.isfinite(norm))
        self.loss_scale.update(finite)
        if finite:
            set_rate(self.optimizer, lr)
            self.optimizer.step()
            self._publish()
            self.state.stepped()
        self.optimizer.zero_grad()
        return norm

    def discard(self) -> None:
        """Drop what was accumulated since the last step, as if it had not been."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _average_gradients(self) -> None:
        if self.world == 1:
            return
        sums = []
        for parameter in self.parameters.values():
            gradient = _gradient(parameter)
            gradient /= self.world  # first, or a sum over many ranks would overflow in fp16
            sums.append(dist.all_reduce(gradient, async_op=True))
        for each in sums:
            each.wait()

    @torch.no_grad()
    def _publish(self) -> None:
        for master, parameter in zip(self.masters.values(), self.parameters.values(), strict=True):
            if parameter.dtype != master.dtype:
                parameter.copy_(master)

    def save(self, writer: Writer, rank: int) -> list[Stored]:
        """Write this rank's share of the state; where each part of it lies."""
        return write_share(self.state, writer, rank, self.world)

    def load(self, source: Source, updates: int) -> bool:
        """Take back the state after `updates` updates; whether the checkpoint had an average."""
        return self.state.load(source, updates)

    def close(self) -> None:
        """Nothing to end."""


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "a parameter took no part in the loss"
    return parameter.grad
