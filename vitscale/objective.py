"""From logits and labels to one number. Letters: B images, K classes.

A masked slot (label -1) adds nothing to the sum, and the divisor stays B: so the gradient of a step does not depend on
how images fall on ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vitscale.config.dataset import MASKED

Objective = Callable[[Tensor, Tensor], Tensor]


def make_objective(name: str, label_smoothing: float) -> Objective:
    """The loss `name` ("softmax" or "sigmoid"): (logits [B, K], labels int64 [B]) -> float32 []."""
    per_image = {"softmax": softmax_losses, "sigmoid": sigmoid_losses}[name]

    def objective(logits: Tensor, labels: Tensor) -> Tensor:
        return per_image(logits.float(), labels, label_smoothing).sum() / len(labels)

    return objective


def softmax_losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of each image, [B]; 0 where masked. `smoothing` as in arXiv 1512.00567, section 7."""
    return F.cross_entropy(
        logits, labels, ignore_index=MASKED, label_smoothing=smoothing, reduction="none"
    )


def sigmoid_losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy summed over classes, [B]; 0 where masked (big_vision `sigmoid_xent`).

    Written as sum softplus(l) - sum target * l, so no [B, K] target exists.
    """
    classes = logits.shape[1]
    own = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    spread = smoothing / classes * logits.sum(1) if smoothing else 0.0
    losses = F.softplus(logits).sum(1) - (1 - smoothing) * own - spread
    return torch.where(labels == MASKED, torch.zeros_like(losses), losses)
