"""Which parameters decay, and the optimizer over them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vitscale.config.optim import OptimConfig


def decays(name: str, parameter: Tensor) -> bool:
    """Kernels decay; biases, norms, the CLS token and positions do not (big_vision's default mask).

    Decided by name, since ZeRO-3 replaces the parameters of a model by empty placeholders.
    """
    return name.endswith(".weight") and "norm" not in name


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups in the order of the model's parameters: `decay` and `no_decay`."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    kernels = [p for n, p in named if decays(n, p)]
    rest = [p for n, p in named if not decays(n, p)]
    groups = [
        {"name": "decay", "params": kernels, "weight_decay": weight_decay},
        {"name": "no_decay", "params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(config: OptimConfig, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW (torch's fused kernel) or SGD with momentum; the engine sets the rate before every step.

    Until then it is 0, since DeepSpeed takes a step with zero gradients to make the state, which would decay weights.
    """
    if config.optimizer == "sgd":
        return torch.optim.SGD(list(groups), lr=0.0, momentum=config.momentum)
    return torch.optim.AdamW(list(groups), lr=0.0, betas=config.betas, eps=config.eps, fused=True)
