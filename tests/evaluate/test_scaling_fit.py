"""The law of a scaling study: the frontier, and parameters found again in made losses with noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from vitscale.errors import DataError
from vitscale.evaluate.scaling_fit import Law, fit, frontier

TRUE = Law(a=4e3, b=0.35, c=0.6, d=3e10)
COMPUTE = np.geomspace(1e10, 3e13, 14)


def drawn(seed: int, noise: float, compute: np.ndarray = COMPUTE) -> np.ndarray:
    normal = np.random.default_rng(seed).standard_normal(len(compute))
    return TRUE(compute) * (1 + noise * normal)


def test_the_frontier_is_what_no_cheaper_run_beats():
    compute = [4, 1, 2, 2, 3, 5, 5]
    loss = [0.7, 1.0, 0.9, 0.8, 0.85, 0.7, 0.6]
    assert frontier(compute, loss) == [1, 3, 0, 6]
    assert frontier([], []) == []


def test_a_law_without_noise_is_found_again():
    found = fit(COMPUTE, TRUE(COMPUTE))
    assert found.noise < 1e-5
    for name, near in (("a", 5e-2), ("b", 5e-3), ("c", 5e-3), ("d", 5e-3)):
        assert getattr(found.law, name) == pytest.approx(getattr(TRUE, name), rel=near)


def test_no_descent_from_the_truth_fits_better():
    """The peer starts at the truth, with derivatives; ours must come at least as low from nowhere."""
    loss = drawn(5, 0.01)
    ours = fit(COMPUTE, loss).law

    def errors(logs):
        return Law(*np.exp(logs))(COMPUTE) / loss - 1

    start = np.log([TRUE.a, TRUE.b, TRUE.c, TRUE.d])
    peer = least_squares(errors, start, x_scale="jac", max_nfev=5000)
    assert np.sum((ours(COMPUTE) / loss - 1) ** 2) <= 2 * peer.cost * (1 + 1e-4)


def test_true_parameters_and_losses_lie_within_their_intervals():
    """95 % of the time; of 12 draws of noise one may miss."""
    inside = {name: 0 for name in ("b", "c", "d", "further")}
    beyond = float(10 * COMPUTE[-1])
    for seed in range(12):
        found = fit(COMPUTE, drawn(seed, 0.01))
        for name in ("b", "c", "d"):
            low, high = found.interval(name)
            inside[name] += low <= getattr(TRUE, name) <= high
        _, low, high = found.predict(beyond)
        inside["further"] += low <= TRUE(np.array([beyond]))[0] <= high
        assert low < high
    assert min(inside.values()) >= 11, inside


def test_intervals_widen_with_the_noise_and_with_fewer_points():
    def width(noise, compute):
        low, high = fit(compute, drawn(3, noise, compute)).interval("b")
        return high - low

    many = np.geomspace(1e10, 3e13, 40)
    few = np.geomspace(1e10, 3e13, 6)
    assert width(0.02, many) > 2 * width(0.002, many)
    assert width(0.005, few) > 2 * width(0.005, many)


@pytest.mark.parametrize("compute", [COMPUTE[:5], np.full(8, 1e10)])
def test_too_few_points_are_refused(compute):
    with pytest.raises(DataError, match="at least 6 points of different compute"):
        fit(compute, TRUE(compute))
