"""Logistic regression with an L2 penalty in float64. Letters: N samples, D features, K classes.

The objective is scikit-learn's: C times the summed cross-entropy plus half the squared norm of the weights, biases
free. With several labels an image every class is a two-class problem of its own (one against the rest).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GRADIENT, CHANGE = 1e-10, 1e-18
"""A fit is done when no derivative of the mean loss is larger, or the loss does not change in float64 any more. A bound
of 1e-12 on the change would leave probabilities wrong in the sixth digit."""
_MEMORY = 10  # pairs kept by L-BFGS, as in scipy
_FEW = 2**22
"""Multiplications of a product that are done before another thread is worth waiting for."""


@dataclass(frozen=True)
class Logreg:
    """A fitted classifier: `weights` [K, D] and `bias` [K], float64."""

    weights: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """[N, D] to float64 [N, K]."""
        return features.double() @ self.weights.T + self.bias


def fit_logreg(features: Tensor, truth: Tensor, classes: int, c: float, iterations: int) -> Logreg:
    """Fit with one penalty; `truth` is int64 [N], or bool [N, K] where an image has several labels."""
    return next(fit_path(features, truth, classes, [c], iterations))


def fit_path(
    features: Tensor, truth: Tensor, classes: int, path: Sequence[float], iterations: int
) -> Iterator[Logreg]:
    """A fit for each C of `path`, each begun where the last one ended, which an ascending path makes short.

    Args:
        features: [N, D].
        truth: as `fit_logreg`.
        classes: how many there are.
        path: values of C.
        iterations: most of each fit.
    """
    x = features.double()
    flat = x.new_zeros(classes * (x.shape[1] + 1), requires_grad=True)
    for c in path:
        with _threads_for(x.numel() * classes):
            _minimise(flat, x, truth, c, iterations)
        table = flat.detach().clone().view(classes, -1)
        yield Logreg(table[:, :-1], table[:, -1])


@contextmanager
def _threads_for(multiplications: int) -> Iterator[None]:
    """One thread for small products: thousands of steps would each wait for threads whose cores are busy elsewhere."""
    given = torch.get_num_threads()
    if multiplications < _FEW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(given)


def _minimise(flat: Tensor, x: Tensor, truth: Tensor, c: float, iterations: int) -> None:
    """Minimise the objective over N C, in place; so scaled, its gradient is one of means, whatever N and C."""
    classes = truth.shape[1] if truth.ndim == 2 else len(flat) // (x.shape[1] + 1)
    optimizer = torch.optim.LBFGS(
        [flat],
        max_iter=iterations,
        tolerance_grad=GRADIENT,
        tolerance_change=CHANGE,
        history_size=_MEMORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        table = flat.view(classes, -1)
        logits = x @ table[:, :-1].T + table[:, -1]
        if truth.ndim == 2:
            loss = F.binary_cross_entropy_with_logits(logits, truth.double(), reduction="sum")
        else:
            loss = F.cross_entropy(logits, truth, reduction="sum")
        loss = (loss + table[:, :-1].square().sum() / (2 * c)) / len(x)
        loss.backward()
        return loss

    optimizer.step(closure)
