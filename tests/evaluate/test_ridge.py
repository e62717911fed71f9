"""The few-shot classifier against other people's linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from vitscale.evaluate.ridge import fit_ridge, solve_ridge


def random_problem(samples: int, width: int, classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    centres = rng.normal(size=(classes, width))
    return centres[labels] + rng.normal(size=(samples, width)), labels


@pytest.mark.parametrize(("samples", "width"), [(200, 16), (17, 16), (16, 16), (5, 64), (1, 8)])
def test_both_forms_equal_the_normal_equations(samples, width):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(samples, width)), rng.normal(size=(samples, 3))
    expected = np.linalg.solve(x.T @ x + 2.0 * np.eye(width), x.T @ y)
    found = solve_ridge(torch.from_numpy(x), torch.from_numpy(y), 2.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("samples", "width"), [(300, 12), (10, 40)])
def test_the_whole_protocol_written_out_in_numpy_and_sklearn(samples, width):
    features, labels = random_problem(samples, width, classes=4)
    test, _ = random_problem(50, width, classes=4, seed=9)
    mean, spread = features.mean(0), features.std(0) + 1e-5

    def whitened(x):
        return np.hstack([(x - mean) / spread, np.full((len(x), 1), 100.0)])

    targets = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)
    reference = SklearnRidge(alpha=1024.0, fit_intercept=False, solver="cholesky")
    reference.fit(whitened(features), targets)
    ridge = fit_ridge(torch.from_numpy(features).float(), torch.from_numpy(labels), 4)
    np.testing.assert_allclose(ridge.weights.numpy(), reference.coef_.T, rtol=2e-5, atol=1e-7)
    expected = reference.predict(whitened(test)).argmax(1)
    np.testing.assert_array_equal(ridge.classify(torch.from_numpy(test)).numpy(), expected)


def test_one_sample_a_class_is_enough_for_separate_clusters():
    features = torch.eye(5) * 10
    ridge = fit_ridge(features, torch.arange(5), 5)
    assert ridge.classify(features + 0.01).tolist() == [0, 1, 2, 3, 4]


def test_a_constant_feature_does_no_harm():
    features = torch.zeros(6, 3)
    features[:, 1] = torch.tensor([0.0, 0, 0, 1, 1, 1])
    ridge = fit_ridge(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert torch.isfinite(ridge.weights).all()
    assert ridge.classify(features).tolist() == [0, 0, 0, 1, 1, 1]
