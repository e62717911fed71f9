"""Nearest neighbours, logistic regression and the linear probe against other people's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tests.evaluate.test_ridge import random_problem
from vitscale.evaluate.knn import vote
from vitscale.evaluate.linear import fit_linear, logits_of
from vitscale.evaluate.logreg import fit_logreg, fit_path
from vitscale.evaluate.ridge import fit_ridge


@pytest.fixture(scope="module")
def problem():
    features, labels = random_problem(200, 12, classes=5)
    queries, truth = random_problem(60, 12, classes=5, seed=0)
    return tuple(map(torch.from_numpy, (features, labels, queries, truth)))


def test_neighbours_vote_as_sklearns_do(problem):
    features, labels, queries, _ = problem
    found = vote(features, labels, queries, 5, k=(1, 7, 40, 500), temperature=0.07)
    for k, guesses in found.items():
        peer = KNeighborsClassifier(
            min(k, len(features)),
            metric="cosine",
            weights=lambda distances: np.exp((1 - distances) / 0.07),
        )
        peer.fit(features.numpy(), labels.numpy())
        np.testing.assert_array_equal(guesses.numpy(), peer.predict(queries.numpy()))


def test_more_queries_than_are_held_at_once_get_the_same_answers(problem, monkeypatch):
    features, labels, queries, _ = problem
    whole = vote(features, labels, queries, 5, k=(10,), temperature=0.07)
    monkeypatch.setattr("vitscale.evaluate.knn._HELD", 7 * len(features))
    parts = vote(features, labels, queries, 5, k=(10,), temperature=0.07)
    assert torch.equal(whole[10], parts[10])


@pytest.mark.parametrize("c", [0.003, 0.3, 30.0])
def test_logistic_regression_is_that_of_sklearn(problem, c):
    features, labels, queries, _ = problem
    model = fit_logreg(features, labels, 5, c, 1000)
    peer = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12)
    peer.fit(features.numpy(), labels.numpy())
    np.testing.assert_allclose(
        model.logits(queries).softmax(1).numpy(), peer.predict_proba(queries.numpy()), atol=1e-6
    )


def test_each_of_several_labels_is_a_problem_of_its_own(problem):
    features, labels, queries, _ = problem
    truth = torch.nn.functional.one_hot(labels, 5).bool() | (features[:, :5] > 1)
    model = fit_logreg(features, truth, 5, 0.5, 1000)
    for k in range(5):
        peer = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12)
        peer.fit(features.numpy(), truth[:, k].numpy())
        ours = model.logits(queries)[:, k].sigmoid().numpy()
        np.testing.assert_allclose(ours, peer.predict_proba(queries.numpy())[:, 1], atol=1e-6)


def test_a_warm_start_comes_to_the_same_fit(problem):
    features, labels, queries, _ = problem
    *_, warm = fit_path(features, labels, 5, [0.001, 0.03, 1.0], 1000)
    cold = fit_logreg(features, labels, 5, 1.0, 1000)
    torch.testing.assert_close(warm.logits(queries), cold.logits(queries), atol=1e-5, rtol=0)


@pytest.mark.parametrize("several", [False, True])
def test_a_probe_takes_the_steps_of_torchs_sgd_for_every_rate(problem, several):
    features, labels, _, _ = problem
    features = features.float()
    truth = torch.nn.functional.one_hot(labels, 5).bool() if several else labels
    rates, batch, steps = (0.05, 0.5), 200, 9  # one batch is everything, so its order is no matter
    found = fit_linear(features, truth, 5, lrs=rates, batch=batch, steps=steps, seed=3)
    start = fit_linear(features, truth, 5, lrs=rates, batch=batch, steps=0, seed=3)
    for index, rate in enumerate(rates):
        layer = torch.nn.Linear(12, 5)
        layer.weight.data, layer.bias.data = start[index, :-1].T.clone(), start[index, -1].clone()
        sgd = torch.optim.SGD(layer.parameters(), lr=rate * batch / 256, momentum=0.9)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
        for _ in range(steps):
            sgd.zero_grad()
            logits = layer(features)
            if several:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    logits, truth.float(), reduction="none"
                ).sum(1)
            else:
                loss = torch.nn.functional.cross_entropy(logits, truth, reduction="none")
            loss.mean().backward()
            sgd.step()
            cosine.step()
        ours = logits_of(found[index : index + 1], features)[0]
        torch.testing.assert_close(ours, layer(features).detach(), atol=2e-5, rtol=1e-5)


def test_ridge_is_the_closed_form_in_float64_also_where_targets_are_never_written_out():
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(400, 24)).astype(np.float32), rng.integers(0, 30, 400)
    ridge = fit_ridge(torch.from_numpy(x), torch.from_numpy(labels), 30)
    wide = x.astype(np.float64)
    white = (wide - wide.mean(0)) / (wide.std(0) + 1e-5)
    design = np.hstack([white, np.full((400, 1), 100.0)])
    targets = np.where(labels[:, None] == np.arange(30), 1.0, -1.0)
    truth = np.linalg.solve(design.T @ design + 1024 * np.eye(25), design.T @ targets)
    np.testing.assert_allclose(ridge.weights.numpy(), truth, rtol=1e-9, atol=1e-12)
