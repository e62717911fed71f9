"""Least squares with an L2 penalty in closed form, float64. Letters: N samples, D features, K classes.

The protocol of big_vision's few-shot evaluator: features whitened by the training samples, a large constant feature
as an almost unpenalised bias, targets of -1 and +1, the class with the largest answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PENALTY = 2.0**10
BIAS_FEATURE = 100.0
STD_OFFSET = 1e-5


@dataclass(frozen=True)
class Ridge:
    """A fitted classifier: `weights` [D + 1, K] on features whitened by `mean` and `spread` [D]."""

    mean: Tensor
    spread: Tensor
    weights: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """Features [N, D] to classes int64 [N]."""
        return (_whiten(features, self.mean, self.spread) @ self.weights).argmax(dim=1)


def fit_ridge(features: Tensor, labels: Tensor, classes: int, penalty: float = PENALTY) -> Ridge:
    """Fit on features [N, D] and labels int64 [N]; solves in D+1 or in N dimensions, whichever is fewer."""
    features = features.double()
    mean = features.mean(dim=0)
    spread = features.std(dim=0, correction=0) + STD_OFFSET
    x = _whiten(features, mean, spread)
    if len(x) < x.shape[1]:
        y = 2.0 * torch.nn.functional.one_hot(labels, classes).double() - 1.0
        return Ridge(mean, spread, solve_ridge(x, y, penalty))
    return Ridge(mean, spread, _solve(x.T @ x, _right_side(x, labels, classes), penalty))


def _right_side(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """x'y [D, K] for targets of -1 and +1 that are never written out: twice the sums by class less the sum of all."""
    sums = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x)
    return (2.0 * sums - x.sum(dim=0)).T


def solve_ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """The [D, K] that minimises |x w - y|^2 + penalty |w|^2, by Cholesky of the smaller Gram matrix.

    With N >= D this is (x'x + penalty I)^-1 x'y, else the equal x'(x x' + penalty I)^-1 y.
    """
    samples, dimensions = x.shape
    if samples >= dimensions:
        return _solve(x.T @ x, x.T @ y, penalty)
    return x.T @ _solve(x @ x.T, y, penalty)


def _solve(gram: Tensor, right: Tensor, penalty: float) -> Tensor:
    gram = gram + penalty * torch.eye(len(gram), dtype=gram.dtype)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))


def _whiten(features: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """[N, D] to float64 [N, D + 1], the constant feature last."""
    white = (features.double() - mean) / spread
    return torch.nn.functional.pad(white, (0, 1), value=BIAS_FEATURE)
