"""A saturating power law of loss over compute, after "Scaling Vision Transformers" (arXiv 2106.04560, section 2).

loss = a (C + d)^-b + c on the frontier: c is what no compute takes away, d what the smallest runs need before the law
begins, C the operations of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitscale.config.ladder import LEAST_POINTS
from vitscale.errors import DataError

PARAMETERS = 4
COVERAGE = 0.95
DRAWS = 400
"""Of noise, from which the intervals are taken."""
_GRID, _ROUNDS, _SHRINK = 17, 14, 0.55
_EXPONENTS = (0.02, 4.0)
_SHIFTS = (1e-4, 10.0)
"""Of the smallest compute and of the largest; at the lower end d is as good as none."""


@dataclass(frozen=True)
class Law:
    """loss = a (C + d)^-b + c; a takes the unit of C to the power b, d that of C."""

    a: float
    b: float
    c: float
    d: float

    def __call__(self, compute: np.ndarray) -> np.ndarray:
        """Losses float64 [N] at compute [N]."""
        return self.a * (compute + self.d) ** -self.b + self.c


@dataclass(frozen=True)
class Fit:
    """The law that fits best, and those that fit as well as the noise lets one tell."""

    law: Law
    points: int
    noise: float
    """Standard deviation of the points about the law, as a share of the loss."""
    others: tuple[Law, ...]

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % interval of a parameter."""
        return _middle(np.array([getattr(law, name) for law in self.others]))

    def predict(self, compute: float) -> tuple[float, float, float]:
        """The loss that the law gives at `compute`, with its 95 % interval; that of a run has the noise on top."""
        at = np.array([compute])
        value = float(self.law(at)[0])
        return (value, *_middle(np.array([law(at)[0] for law in self.others])))


def frontier(compute: Sequence[float], loss: Sequence[float]) -> list[int]:
    """Numbers of the points that no other beats at the same or less compute, in the order of compute."""
    best, kept = np.inf, []
    for index in sorted(range(len(compute)), key=lambda i: (compute[i], loss[i])):
        if loss[index] < best:
            best = loss[index]
            kept.append(index)
    return kept


def fit(compute: Sequence[float], loss: Sequence[float], *, seed: int = 0) -> Fit:
    """Fit the law by least squares of relative errors, and again to what it says with noise drawn anew.

    The size of the noise is itself uncertain with few points, so every draw has one of its own (a scaled inverse
    chi-square, which makes the intervals Student's). It is the noise about the frontier: which runs are on it is taken
    as given.

    Args:
        compute: of the points, above 0 [N].
        loss: their losses, above 0 [N].
        seed: of the draws.

    Raises:
        DataError: too few points for four parameters and an error, or all of one compute.
    """
    x, y = np.asarray(compute, np.float64), np.asarray(loss, np.float64)
    if len(x) < LEAST_POINTS or x.max() <= x.min():
        raise DataError(
            f"a law of {PARAMETERS} parameters needs at least {LEAST_POINTS} points of different compute",
            where="scaling",
            given=f"{len(x)} on the frontier",
            do="Add budgets or sizes to the ladder: points that a cheaper run beats do not count.",
        )
    law = _best(x, y)
    exact = law(x)
    freedom = len(x) - PARAMETERS
    noise = float(np.sqrt(np.sum((y / exact - 1) ** 2) / freedom))
    draws = np.random.default_rng(seed)
    others = []
    for _ in range(DRAWS):
        spread = noise * np.sqrt(freedom / draws.chisquare(freedom))
        drawn = exact * np.maximum(1 + spread * draws.standard_normal(len(x)), 0.05)
        others.append(_best(x, drawn))
    return Fit(law, len(x), noise, tuple(others))


def _best(x: np.ndarray, y: np.ndarray) -> Law:
    """The law with the least sum of squared relative errors; a >= 0 and c >= 0.

    For given b and d it is linear in a and c, so those are solved for, and b and d are looked for on a grid of their
    logarithms that closes in on the best.
    """
    unit = float(np.exp(np.log(x).mean()))
    x = x / unit
    bounds = np.log(np.array([_EXPONENTS, (_SHIFTS[0] * x.min(), _SHIFTS[1] * x.max())]))
    middle, half = bounds.mean(1), np.diff(bounds)[:, 0] / 2
    best = (np.inf, 0.0, 0.0, 1.0, 1.0)
    for _ in range(_ROUNDS):
        axes = [
            np.clip(np.linspace(m - h, m + h, _GRID), low, high)
            for m, h, (low, high) in zip(middle, half, bounds, strict=True)
        ]
        found = _on_grid(x, y, np.exp(axes[0]), np.exp(axes[1]))
        best = min(best, found)
        middle, half = np.log(best[3:]), half * _SHRINK
    _, a, c, b, d = best
    return Law(a * unit**b, b, c, d * unit)


def _on_grid(
    x: np.ndarray, y: np.ndarray, b: np.ndarray, d: np.ndarray
) -> tuple[float, float, float, float, float]:
    """The least cost on a grid of exponents [B] and shifts [D], with its (a, c, b, d)."""
    log = np.log(x + d[:, None])  # [D, N]
    u = np.exp(-b[:, None, None] * log) / y  # [B, D, N]
    v = 1 / y
    uu, uv, su = (u * u).sum(-1), (u * v).sum(-1), u.sum(-1)
    vv, sv = (v * v).sum(), v.sum()
    determinant = np.maximum(uu * vv - uv * uv, 1e-300)
    a, c = (vv * su - uv * sv) / determinant, (uu * sv - uv * su) / determinant
    a, c = np.where(c < 0, su / uu, a), np.maximum(c, 0.0)
    a, c = np.where(a < 0, 0.0, a), np.where(a < 0, sv / vv, c)
    cost = ((a[..., None] * u + c[..., None] * v - 1) ** 2).sum(-1)
    row, column = np.unravel_index(int(np.argmin(cost)), cost.shape)
    at = row, column
    return float(cost[at]), float(a[at]), float(c[at]), float(b[row]), float(d[column])


def _middle(values: np.ndarray) -> tuple[float, float]:
    """What holds 95 % of the values, as many below as above."""
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
