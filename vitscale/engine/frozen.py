"""Weights that do not train: kept for checkpoints, in float32, each by one rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class FrozenWeights:
    """The parameters of a model that need no gradient, made before the engine casts or cuts them.

    Attributes:
        own: float32 copies on the CPU of the weights that this rank writes into checkpoints, one weight in `world`.
    """

    def __init__(self, model: nn.Module, rank: int, world: int) -> None:
        frozen = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
        self._parameters: dict[str, nn.Parameter] = dict(frozen)
        self._shapes = {name: parameter.shape for name, parameter in frozen}
        self.own = {
            name: parameter.detach().to("cpu", torch.float32, copy=True)
            for name, parameter in frozen[rank::world]
        }
        self.put: Callable[[nn.Parameter, Tensor], None] = _put

    @torch.no_grad()
    def load(self, fill: Callable[[str, Tensor], None]) -> None:
        """Take all frozen weights anew, in the model too: `fill(name, into)` fills a flat float32 tensor.

        All ranks call it together.
        """
        for name, parameter in self._parameters.items():
            value = torch.empty(self._shapes[name])
            fill(name, value.view(-1))
            if name in self.own:
                self.own[name].copy_(value)
            self.put(parameter, value)


def _put(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value)
