"""SGD with momentum, for what torch's lacks: a small accumulator, and weight decay beside the momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vitscale.optim.span_optimizer import SpanOptimizer, pieces, rounded
from vitscale.optim.spans import Partition, Slot

MOMENTUM = "momentum_buffer"


class MomentumSGD(SpanOptimizer):
    """b = momentum b + g; w -= lr b (torch's SGD, optax's `trace`).

    Args:
        groups: parameter groups with `weight_decay`.
        momentum: as above; with 0 nothing is kept.
        decoupled: take lr weight_decay w from the weight (big_vision); else weight_decay w is added to g (torch).
        moment_dtype: what b is kept in; None for the weights' own. The step uses it unrounded (`momentum_hp`).
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        momentum: float,
        *,
        decoupled: bool,
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(groups, moment_dtype)
        self.momentum, self.decoupled = momentum, decoupled

    def slots(self, partition: Partition) -> list[Slot]:
        return [self.moment(partition, MOMENTUM)] if self.momentum else []

    def update(self, group: dict[str, Any], partition: Partition, step: int) -> None:
        """One step of the formula above."""
        master, gradient = partition.master, partition.master.grad
        assert gradient is not None
        rate, decay = group["lr"], group["weight_decay"]
        if self.decoupled:
            master.mul_(1 - rate * decay)
        elif decay:
            gradient.add_(master, alpha=decay)
        if not self.momentum:
            master.add_(gradient, alpha=-rate)
            return
        for w, g, b in pieces(master, gradient, self.kept(partition, MOMENTUM)):
            w.add_(rounded(b.to(g.dtype).mul_(self.momentum).add_(g), into=b), alpha=-rate)
