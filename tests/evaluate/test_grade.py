"""Scores, their intervals, and what two models differ by on the same images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from vitscale.evaluate.grade import Evidence, average_precision, compare, grade, interval


def evidence(hits, truth=None, ids=None):
    hits = np.asarray(hits, np.float32)
    truth = np.zeros(len(hits), np.int64) if truth is None else np.asarray(truth)
    return Evidence(np.arange(len(hits)) if ids is None else ids, truth, hits=hits)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    hits = np.arange(4000) < 2800
    low, high = interval(evidence(hits), "top1")
    half = 1.96 * math.sqrt(0.7 * 0.3 / 4000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.0008)


def test_resampling_values_is_resampling_images():
    rng = np.random.default_rng(1)
    hits = rng.integers(0, 4, 200) / 3
    rows = rng.integers(0, 200, (20_000, 200))
    plain = np.percentile(hits[rows].mean(1), [2.5, 97.5])
    assert interval(evidence(hits), "top1") == pytest.approx(plain, abs=0.004)


def test_repeats_have_a_mean_and_a_spread():
    answers = np.array([[True, True, False, True], [True, False, False, True]])
    score, kept = grade("s", answers, np.arange(4), np.zeros(4, np.int64), "top1")
    assert (score.value, score.std, score.images) == (0.625, 0.125, 4)
    assert kept.hits is not None and kept.hits.tolist() == [1, 0.5, 0, 1]
    assert score.low < 0.625 < score.high


def test_the_mean_over_classes_is_balanced_accuracy():
    rng = np.random.default_rng(2)
    truth, guesses = rng.integers(0, 7, 300), rng.integers(0, 7, 300)
    score, _ = grade("s", (guesses == truth)[None], np.arange(300), truth, "mean-per-class")
    assert score.value == pytest.approx(balanced_accuracy_score(truth, guesses), abs=1e-12)


def test_average_precision_is_that_of_sklearn_with_ties_too():
    rng = np.random.default_rng(3)
    for digits in (1, 6):
        scores, truth = rng.random(150).round(digits), rng.random(150) < 0.2
        assert average_precision(scores, truth) == pytest.approx(
            average_precision_score(truth, scores), abs=1e-12
        )


def test_the_mean_of_average_precision_leaves_out_classes_nobody_has():
    rng = np.random.default_rng(4)
    scores, truth = rng.random((2, 80, 4)).astype(np.float32), rng.random((80, 4)) < 0.3
    truth[:, 3] = False
    score, _ = grade("s", scores, np.arange(80), truth, "map")
    expected = [
        average_precision_score(truth[:, :3], one[:, :3], average="macro") for one in scores
    ]
    assert score.repeats == pytest.approx(expected, abs=1e-6)
    assert score.low < score.value < score.high


def test_a_pair_is_told_apart_where_its_intervals_overlap():
    """200 of 1000 images are hard for both; B loses 15 more: far below what either interval shows."""
    a = evidence(np.arange(1000) >= 200)
    b = evidence(np.arange(1000) >= 215)
    assert interval(b, "top1")[1] > interval(a, "top1")[0]
    found = compare(a, b, "top1")
    assert found.value == pytest.approx(0.015) and found.is_clear
    half = 1.96 * math.sqrt(0.015 * 0.985 / 1000)
    assert (found.low, found.high) == pytest.approx((0.015 - half, 0.015 + half), abs=0.0015)


def test_equal_models_do_not_differ_and_the_order_only_turns_the_sign():
    rng = np.random.default_rng(6)
    a, b = (evidence(rng.random(500) < 0.6) for _ in range(2))
    assert vars(compare(a, a, "top1")) == {"value": 0, "low": 0, "high": 0, "images": 500}
    assert compare(a, b, "top1").value == -compare(b, a, "top1").value


def test_only_images_that_both_have_are_compared():
    a = evidence([1, 0, 1, 1], ids=np.array([0, 2, 4, 6]))
    b = evidence([0, 1, 0], ids=np.array([2, 4, 5]))
    found = compare(a, b, "top1")
    assert (found.images, found.value) == (2, 0.0)
    with pytest.raises(ValueError, match="no image in common"):
        compare(a, evidence([1], ids=np.array([9])), "top1")


def test_a_pair_of_rankings_is_compared_on_the_same_drawn_images():
    rng = np.random.default_rng(7)
    truth = rng.random((120, 3)) < 0.4
    good = (truth + rng.normal(0, 0.4, truth.shape)).astype(np.float32)
    bad = (truth + rng.normal(0, 3.0, truth.shape)).astype(np.float32)
    ids = np.arange(120)
    a, b = Evidence(ids, truth, scores=good), Evidence(ids, truth, scores=bad)
    assert compare(a, b, "map").is_clear and not compare(a, a, "map").is_clear
