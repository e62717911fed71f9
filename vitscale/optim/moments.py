"""What an optimizer keeps for each number it updates, so that a checkpoint can be cut anew for other ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}


def moments_of(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Names of the tensors, as large as the parameter, that the optimizer keeps for it."""
    return _MOMENTS[type(optimizer)]


def fresh_state(
    optimizer: torch.optim.Optimizer, parameter: Tensor, updates: int
) -> dict[str, Any]:
    """The optimizer's entry for `parameter` after `updates` steps, its moments still to be filled.

    Every entry has a step count of its own: entries that share one would count each step several times.
    """
    entry: dict[str, Any] = {name: torch.zeros_like(parameter) for name in moments_of(optimizer)}
    if isinstance(optimizer, torch.optim.AdamW):
        entry["step"] = torch.tensor(float(updates), dtype=torch.float32, device=parameter.device)
    return entry
