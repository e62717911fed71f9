"""From logits and labels to one number. Letters: B images, K classes, L labels of an image at most.

Labels are int64 [B], or [B, L] with -1 behind the last label of an image. A masked slot (only -1) adds nothing to the
sum, and the divisor here is B: engines scale by the batch over its images that count, so that the gradient of a step
does not depend on how images fall on ranks and micro-batches.

Mixed images have weights float32 [B, L], one a label (`data/mix.py`): the target is the weighted sum of the labels'
targets, and is never written out over the classes.

A teacher answers the very views that the model saw, after mixing; its part of the loss counts the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vitscale.config.dataset import MASKED
from vitscale.ops.sigmoid import SigmoidLoss, torch_sigmoid_loss


class Objective(Protocol):
    """(logits [B, K], labels [B] or [B, L], weights [B, L] or None, views [B, 3, H, W]) -> float32 [].

    The views are for a teacher; without one they may be left out.
    """

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        views: Tensor | None = None,
        /,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Distillation:
    """A frozen teacher and what it weighs."""

    teacher: Callable[[Tensor], Tensor]
    """Views [B, 3, H, W] to logits [B, K]; called without gradients."""
    kind: Literal["soft", "hard"] = "soft"
    temperature: float = 1.0
    share: float = 1.0
    """Of the teacher's part in the loss; the labels have the rest."""


def make_objective(
    name: str,
    label_smoothing: float,
    distillation: Distillation | None = None,
    sigmoid: SigmoidLoss = torch_sigmoid_loss,
) -> Objective:
    """The loss `name`, "softmax" or "sigmoid" (computed by `sigmoid`), perhaps beside a teacher's."""
    sigmoids = partial(sigmoid_losses, loss=sigmoid)
    per_image = {"softmax": softmax_losses, "sigmoid": sigmoids}[name]

    def objective(
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        views: Tensor | None = None,
    ) -> Tensor:
        losses = per_image(logits, labels, label_smoothing, weights)
        if distillation is not None:
            assert views is not None, "a teacher needs views"
            with torch.no_grad():
                taught = distillation.teacher(views).float()
            own = teacher_losses(name, logits.float(), taught, distillation)
            own = own.where((labels.reshape(len(labels), -1) != MASKED).any(1), 0.0)
            losses = torch.lerp(losses, own, distillation.share)
        return losses.sum() / len(labels)

    return objective


def teacher_losses(name: str, logits: Tensor, taught: Tensor, how: Distillation) -> Tensor:
    """How far each image's answer is from the teacher's, [B]; `logits` and `taught` float32 [B, K].

    Soft: T^2 KL(teacher, student) of the softmax at temperature T (arXiv 1503.02531, section 2), or of each class's
    sigmoid, summed over classes. Hard: the loss of the teacher's decision taken for the label, without smoothing (arXiv
    2012.12877, section 4): its first class, or under sigmoid all classes it gives more than one half.
    """
    if how.kind == "hard":
        if name == "softmax":
            return softmax_losses(logits, taught.argmax(1), 0.0)
        return F.softplus(logits).sum(1) - (logits * (taught > 0)).sum(1)
    logits, taught = logits / how.temperature, taught / how.temperature
    if name == "softmax":
        pairs = [(F.log_softmax(logits, 1), F.log_softmax(taught, 1))]
    else:
        pairs = [(F.logsigmoid(sign * logits), F.logsigmoid(sign * taught)) for sign in (1, -1)]
    divergences = [(theirs.exp() * (theirs - own)).sum(1) for own, theirs in pairs]
    return how.temperature**2 * sum(divergences[1:], divergences[0])


def softmax_losses(
    logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each image, [B]; 0 where masked. `smoothing` as in arXiv 1512.00567, section 7.

    Raises:
        ValueError: labels [B, L] with L > 1 and no weights, since an image has one class under softmax.
    """
    logits = logits.float()
    if weights is not None:
        return _weighted_softmax_losses(logits, labels, smoothing, weights)
    if labels.dim() > 1:
        raise ValueError(f"softmax takes one label an image, not labels of shape {labels.shape}")
    return F.cross_entropy(
        logits, labels, ignore_index=MASKED, label_smoothing=smoothing, reduction="none"
    )


def _weighted_softmax_losses(
    logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor
) -> Tensor:
    """The sum over labels of weight times smoothed cross-entropy, [B]; labels and weights [B, L]."""
    weights = weights * (labels != MASKED)
    chances = F.log_softmax(logits, dim=1)
    own = (chances.gather(1, labels.clamp(min=0)) * weights).sum(1)
    spread = chances.mean(1) * weights.sum(1) if smoothing else 0.0
    return -(1 - smoothing) * own - smoothing * spread


def sigmoid_losses(
    logits: Tensor,
    labels: Tensor,
    smoothing: float,
    weights: Tensor | None = None,
    loss: SigmoidLoss = torch_sigmoid_loss,
) -> Tensor:
    """Binary cross-entropy summed over classes, [B]; 0 where masked (big_vision `sigmoid_xent`).

    Smoothing spreads that share of an image's labels over all classes. No [B, K] target exists (`ops/sigmoid.py`).
    """
    labels = labels.reshape(len(labels), -1)
    present = labels != MASKED
    shares = present.float() if weights is None else weights * present
    spread = smoothing / logits.shape[1] * shares.sum(1) if smoothing else None
    losses = loss(logits, labels, (1 - smoothing) * shares, spread)
    return losses.where(present.any(1), 0.0)
