"""Nearest neighbours on frozen features. Letters: N training samples, M queries, D features, K classes.

The protocol of DINO (arXiv 2104.14294, appendix F.1; `dinov3/eval/knn.py`): features of unit length, the k of largest
cosine vote for their class with weight exp(cosine / temperature).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_HELD = 1 << 25  # similarities at a time: 268 MB of float64


def vote(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    classes: int,
    *,
    k: Sequence[int],
    temperature: float,
) -> dict[int, Tensor]:
    """For each of the counts `k` the class of every query, int64 [M]; a count beyond N means all N.

    Args:
        features: [N, D].
        labels: int64 [N].
        queries: [M, D].
        classes: how many there are.
        k: numbers of neighbours.
        temperature: of the votes.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    most = min(max(k), len(unit))
    found: dict[int, list[Tensor]] = {count: [] for count in k}
    for part in queries.split(max(1, _HELD // len(unit))):
        likeness = torch.nn.functional.normalize(part.double(), dim=1) @ unit.T
        nearest, rows = likeness.topk(most, dim=1)
        weights = ((nearest - 1) / temperature).exp()  # the largest possible is 1
        voters = labels[rows]
        for count in k:
            votes = weights.new_zeros(len(part), classes)
            votes.scatter_add_(1, voters[:, :count], weights[:, :count])
            found[count].append(votes.argmax(dim=1))
    return {count: torch.cat(parts) for count, parts in found.items()}
