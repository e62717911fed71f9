"""Muon (Keller Jordan, 2024) for the matrices of the blocks, AdamW for the rest, under every ZeRO stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitscale.optim.adam import AdamW
from vitscale.optim.momentum import MOMENTUM
from vitscale.optim.span_optimizer import follow, pieces
from vitscale.optim.spans import Partition, Slot, Weight, is_kernel

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS, _SMALLEST_NORM = 5, 1e-7
_AT_ONCE = 8  # whole matrices that a rank holds at a time


def is_muons(name: str) -> bool:
    """Whether a weight is a matrix inside a block."""
    return name.startswith("blocks.") and is_kernel(name)


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix [R, C] with its singular values moved to about 1: five quintic Newton-Schulz steps, bfloat16.

    Coefficients and precision are those of torch.optim.Muon: X = a X + (b A + c A A) X with A = X X^T.
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T.bfloat16() if tall else matrix.bfloat16()
    x = x / x.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def matrices_in(weight: Weight) -> int:
    """How many matrices a weight is, one above the other: q, k and v are three."""
    return 3 if weight.name.endswith(".qkv.weight") else 1


class Muon(AdamW):
    """w -= lr weight_decay w; w -= 0.2 lr sqrt(max(R, C)) orthogonalised(g + momentum (b - g)), b the mean of g.

    b = momentum b + (1 - momentum) g, with Nesterov's look ahead, as in torch.optim.Muon. The factor makes an update
    as large as AdamW's (arXiv 2502.16982, torch's "match_rms_adamw"), so that one rate serves both. q, k and v are
    orthogonalised one by one. Where ranks hold parts of a matrix, they are gathered on one rank, of each matrix on
    the next one, which hands the result to all.

    Args:
        groups: parameter groups with `weight_decay`; matrices of blocks in groups of their own.
        momentum: as above.
        betas: of AdamW.
        eps: of AdamW.
        moment_dtype: of b and AdamW's first moment; None for that of the weights.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(groups, betas, eps, moment_dtype)
        self.momentum = momentum

    def slots(self, partition: Partition) -> list[Slot]:
        if _has_matrices(partition):
            return [self.moment(partition, MOMENTUM)]
        return super().slots(partition)

    def update(self, group: dict[str, Any], partition: Partition, step: int) -> None:
        """One step of the formulas above, of the one for matrices or of AdamW's."""
        if not _has_matrices(partition):
            return super().update(group, partition, step)
        master, gradient = partition.master, partition.master.grad
        assert gradient is not None
        for g, b in pieces(gradient, self.kept(partition, MOMENTUM)):
            g.lerp_(follow(b, g, 1 - self.momentum), self.momentum)
        master.mul_(1 - group["lr"] * group["weight_decay"])
        world = dist.get_world_size() if partition.spread else 1
        owners = {weight: index % world for index, weight in enumerate(partition.weights)}
        for at in range(0, len(owners), _AT_ONCE):
            some = dict(list(owners.items())[at : at + _AT_ONCE])
            _move(partition, some, gradient, group["lr"])
        return None


def _has_matrices(partition: Partition) -> bool:
    return all(is_muons(weight.name) for weight in partition.weights)


def _move(partition: Partition, owners: dict[Weight, int], ahead: Tensor, rate: float) -> None:
    """Step along a few matrices, each of which its owner, a rank, orthogonalises; all ranks call it together."""
    wholes = {weight: _whole(partition, weight, ahead) for weight in owners}
    if partition.spread:
        for weight, owner in owners.items():
            dist.reduce(wholes[weight], owner)  # each number has one rank that knows it, else zeros
    for weight, owner in owners.items():
        if not partition.spread or owner == dist.get_rank():
            for matrix in wholes[weight].view(weight.shape).chunk(matrices_in(weight)):
                matrix.copy_(orthogonalised(matrix))
    for weight, owner in owners.items():
        if partition.spread:
            dist.broadcast(wholes[weight], owner)
        rows, columns = weight.shape
        scale = 0.2 * math.sqrt(max(rows // matrices_in(weight), columns))
        for span in partition.spans:
            if span.name == weight.name:
                part = wholes[weight][span.start : span.start + span.length]
                own = partition.of(span, partition.master)
                own.add_(part.to(own.dtype), alpha=-rate * scale)


def _whole(partition: Partition, weight: Weight, ahead: Tensor) -> Tensor:
    """A flat tensor of the weight's size, bfloat16, with what this rank holds of it and zeros elsewhere."""
    whole = torch.zeros(weight.numel, dtype=torch.bfloat16, device=ahead.device)
    for span in partition.spans:
        if span.name == weight.name:
            whole[span.start : span.start + span.length] = partition.of(span, ahead)
    return whole
