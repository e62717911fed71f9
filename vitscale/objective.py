"""From logits and labels to one number. Letters: B images, K classes, L labels of an image at most.

Labels are int64 [B], or [B, L] with -1 behind the last label of an image. A masked slot (only -1) adds nothing to the
sum, and the divisor here is B: engines scale by the batch over its images that count, so that the gradient of a step
does not depend on how images fall on ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vitscale.config.dataset import MASKED

Objective = Callable[[Tensor, Tensor], Tensor]


def make_objective(name: str, label_smoothing: float) -> Objective:
    """The loss `name` ("softmax" or "sigmoid"): (logits [B, K], labels) -> float32 []."""
    per_image = {"softmax": softmax_losses, "sigmoid": sigmoid_losses}[name]

    def objective(logits: Tensor, labels: Tensor) -> Tensor:
        return per_image(logits.float(), labels, label_smoothing).sum() / len(labels)

    return objective


def softmax_losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of each image, [B]; 0 where masked. `smoothing` as in arXiv 1512.00567, section 7.

    Raises:
        ValueError: labels [B, L] with L > 1, since an image has one class under softmax.
    """
    if labels.dim() > 1:
        raise ValueError(f"softmax takes one label an image, not labels of shape {labels.shape}")
    return F.cross_entropy(
        logits, labels, ignore_index=MASKED, label_smoothing=smoothing, reduction="none"
    )


def sigmoid_losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy summed over classes, [B]; 0 where masked (big_vision `sigmoid_xent`).

    Written as sum softplus(l) - sum target * l, so no [B, K] target exists. Smoothing spreads that share of an
    image's labels over all classes.
    """
    labels = labels.reshape(len(labels), -1)
    present = labels != MASKED
    own = (logits.gather(1, labels.clamp(min=0)) * present).sum(1)
    count = present.sum(1)
    spread = smoothing / logits.shape[1] * count * logits.sum(1) if smoothing else 0.0
    losses = F.softplus(logits).sum(1) - (1 - smoothing) * own - spread
    return torch.where(count > 0, losses, torch.zeros_like(losses))
