"""Binary cross-entropy of a sigmoid per class, summed over classes, with few labels an image and no dense targets.

    loss = sum_k softplus(l_k) - sum_j share_j l_(label_j) - spread sum_k l_k

for logits l: the target of a class is the sum of the shares of its labels, plus `spread`. Letters: B images, K classes,
L labels of an image at most.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class SigmoidLoss(Protocol):
    """logits [B, K], labels int64 [B, L] with -1 for none, shares float32 [B, L], spread float32 [B] -> float32 [B]."""

    def __call__(
        self, logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None, /
    ) -> Tensor: ...


def torch_sigmoid_loss(
    logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None
) -> Tensor:
    """The formula above in plain torch."""
    return _Sparse.apply(logits, labels, shares, spread)  # pyright: ignore[reportReturnType] untyped in torch


def triton_sigmoid_loss(
    logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None
) -> Tensor:
    """The formula above by our kernel, one pass over the logits in each direction."""
    from vitscale.ops.kernels.sparse_sigmoid import sigmoid_loss

    return sigmoid_loss(logits, labels, shares, spread)


class _Sparse(torch.autograd.Function):
    """One dense tensor a direction; autograd alone would write zeros for the labels, and add them up."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None
    ) -> Tensor:
        labels, shares = labels.clamp(min=0), shares * (labels >= 0)
        ctx.save_for_backward(logits, labels, shares, spread)
        logits = logits.float()
        losses = F.softplus(logits).sum(1) - (logits.gather(1, labels) * shares).sum(1)
        return losses if spread is None else losses - spread * logits.sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given = gradients[0][:, None]
        logits, labels, shares, spread = ctx.saved_tensors
        slopes = torch.sigmoid(logits.float())
        if spread is not None:
            slopes -= spread[:, None]
        slopes.scatter_add_(1, labels, -shares).mul_(given)
        return slopes.to(logits.dtype), None, None, None
