"""Linear probes on frozen features, all rates at once. Letters: R rates, B batch, N samples, D features, K classes.

The protocol of DINOv2 and v3 (`dinov3/eval/linear.py`): SGD with momentum 0.9 and no decay, a cosine from the rate to
zero, weights from N(0, 0.01). Theirs sees augmented images; ours the features of one view, computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MOMENTUM = 0.9
SPREAD = 0.01
PER_IMAGES = 256


def fit_linear(
    features: Tensor,
    truth: Tensor,
    classes: int,
    *,
    lrs: Sequence[float],
    batch: int,
    steps: int,
    seed: int,
) -> Tensor:
    """A classifier for each rate, float32 [R, D + 1, K], the bias last, where the features are.

    Args:
        features: [N, D].
        truth: int64 [N], or bool [N, K] where an image has several labels (their losses are summed).
        classes: how many there are.
        lrs: for 256 images a step.
        batch: images a step, drawn from a new order each epoch.
        steps: of SGD.
        seed: of initial weights and order.
    """
    draws = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(lrs), features.shape[1] + 1, classes, generator=draws) * SPREAD
    weights[:, -1] = 0
    weights = weights.to(features.device)
    velocity = torch.zeros_like(weights)
    rates = torch.tensor(lrs, device=features.device)[:, None, None] * batch / PER_IMAGES
    order, at = torch.randperm(len(features), generator=draws), 0
    batch = min(batch, len(features))
    for step in range(steps):
        if at + batch > len(order):
            order, at = torch.randperm(len(features), generator=draws), 0
        rows = order[at : at + batch]
        at += batch
        velocity.mul_(MOMENTUM).add_(_gradient(weights, features[rows], truth[rows]))
        weights -= velocity * rates * (0.5 * (1 + math.cos(math.pi * step / steps)))
    return weights


def logits_of(weights: Tensor, features: Tensor) -> Tensor:
    """[N, D] to [R, N, K]."""
    return torch.einsum("nd,rdk->rnk", _with_one(features), weights)


def _gradient(weights: Tensor, x: Tensor, truth: Tensor) -> Tensor:
    """Of the mean loss of a batch [B, D], for each of the classifiers."""
    logits = logits_of(weights, x)
    if truth.ndim == 2:
        errors = logits.sigmoid() - truth.float()
    else:
        errors = logits.softmax(dim=2) - F.one_hot(truth, weights.shape[2]).float()
    return torch.einsum("nd,rnk->rdk", _with_one(x), errors) / len(x)


def _with_one(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1), value=1.0)
