"""Adam's direction, and two optimizers that go along it: AdamW with a small first moment, and LAMB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitscale.optim.span_optimizer import SpanOptimizer, add_up, follow, pieces
from vitscale.optim.spans import Partition, Slot

FIRST, SECOND = "exp_avg", "exp_avg_sq"


class Adam(SpanOptimizer):
    """What AdamW and LAMB have in common; the names of the moments are torch's.

    Args:
        groups: parameter groups with `weight_decay`, multiplied by the rate.
        betas: decay of the two moments.
        eps: offset of the denominator.
        moment_dtype: of the first moment; None for that of the weights.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        betas: tuple[float, float],
        eps: float,
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(groups, moment_dtype)
        self.betas, self.eps = betas, eps

    def slots(self, partition: Partition) -> list[Slot]:
        first = self.moment(partition, FIRST)
        return [first, first._replace(kind=SECOND, dtype=partition.master.dtype)]

    def direction(self, partition: Partition, step: int) -> Tensor:
        """m^ / (sqrt(v^) + eps), with both moments corrected for their start at zero; in the place of the gradient.

        A bf16 first moment is rounded when it is put back, not before it is used (optax's `mu_dtype`).
        """
        gradient = partition.master.grad
        assert gradient is not None
        (beta1, beta2), root = self.betas, math.sqrt(1 - self.betas[1] ** step)
        moments = (self.kept(partition, kind) for kind in (FIRST, SECOND))
        for g, m, v in pieces(gradient, *moments):
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            mean = follow(m, g, 1 - beta1)
            torch.div(mean, (v.sqrt() / root).add_(self.eps), out=g)
            g /= 1 - beta1**step
        return gradient


class AdamW(Adam):
    """AdamW (arXiv 1711.05101) as torch's: w -= lr weight_decay w, then w -= lr direction."""

    def update(self, group: dict[str, Any], partition: Partition, step: int) -> None:
        """One step of the formula above."""
        direction = self.direction(partition, step)
        partition.master.mul_(1 - group["lr"] * group["weight_decay"])
        partition.master.add_(direction, alpha=-group["lr"])


class Lamb(Adam):
    """LAMB (arXiv 1904.00962, algorithm 2, with phi the identity): w -= lr |w| / |u| u, u = direction + weight_decay w.

    The ratio of norms is a weight's own, whatever part of it a rank holds. It is 1 where a norm is 0, and in groups
    without `adapt`: biases, norms and positions, unless the mask is "all" (so do Google's code and apex's FusedLAMB).
    Unlike apex's, gradients are not clipped here: that is the engine's `clip_norm`.
    """

    def update(self, group: dict[str, Any], partition: Partition, step: int) -> None:
        """One step of the formula above; the norms are added up in float64, so they differ between no two ranks."""
        rate, update = group["lr"], self.direction(partition, step)
        update.add_(partition.master, alpha=group["weight_decay"])
        if not group["adapt"]:
            partition.master.add_(update, alpha=-rate)
            return
        ratios = self._ratios(partition, update)
        for span in partition.spans:
            own, towards = (partition.of(span, each) for each in (partition.master, update))
            own.addcmul_(towards, -rate * ratios[span.name])

    @staticmethod
    def _ratios(partition: Partition, update: Tensor) -> dict[str, Tensor]:
        """|w| / |u| of every weight of the partition, or 1: computed in float64, each [] in the update's precision."""
        index = {weight.name: i for i, weight in enumerate(partition.weights)}
        squares = torch.zeros(2, len(index), dtype=torch.float64, device=update.device)
        for span in partition.spans:
            for row, tensor in zip(squares, (partition.master, update), strict=True):
                norm = torch.linalg.vector_norm(partition.of(span, tensor), dtype=torch.float64)
                row[index[span.name]] += norm.square()
        add_up(partition, squares)
        weights, updates = squares.sqrt()
        ratios = torch.where((weights > 0) & (updates > 0), weights / updates, 1.0)
        return dict(zip(index, ratios.to(update.dtype), strict=True))
