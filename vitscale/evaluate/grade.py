"""From guesses to a score with an interval. Letters: N images, R repeats, K classes.

Intervals are of the bootstrap over test images, 95 %, by percentiles. Where a score is a mean, resampling N images is
drawing how often each value occurs, so it costs the same for any N. With the mean over classes, images are resampled
within their class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000
RESAMPLES_MAP = 400
_TAIL = 2.5


@dataclass(frozen=True)
class Evidence:
    """What one setting of a task said of every test image, in the order of sample numbers.

    Either `hits`, float32 [N], the share of repeats that guessed right, or `scores`, float32 [N, K], where an image has
    several labels. `truth` is int64 [N] or bool [N, K]; `ids` int64 [N].
    """

    ids: np.ndarray
    truth: np.ndarray
    hits: np.ndarray | None = None
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Score:
    """A score in 0..1: over all repeats, its 95 % interval, and the spread over repeats (ddof 0)."""

    setting: str
    value: float
    low: float
    high: float
    repeats: tuple[float, ...]
    images: int

    @property
    def std(self) -> float:
        return float(np.std(self.repeats))

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"std": self.std}


def grade(
    setting: str, answers: np.ndarray, ids: np.ndarray, truth: np.ndarray, metric: str
) -> tuple[Score, Evidence]:
    """The score of `answers`: right or wrong, bool [R, N], or with "map" scores float32 [R, N, K]."""
    repeats = tuple(measure(one, truth, metric) for one in answers)
    mean = answers.mean(axis=0, dtype=np.float32)
    kind = "scores" if metric == "map" else "hits"
    evidence = Evidence(ids, truth, **{kind: mean})
    low, high = interval(evidence, metric)
    return Score(setting, float(np.mean(repeats)), low, high, repeats, len(ids)), evidence


def measure(answer: np.ndarray, truth: np.ndarray, metric: str) -> float:
    """The metric of one repeat: of what is right, bool or float [N], or with "map" of scores [N, K]."""
    if metric == "map":
        return mean_average_precision(answer, truth)
    if metric == "top1":
        return float(answer.mean())
    return float(np.mean([answer[truth == k].mean() for k in np.unique(truth)]))


def interval(evidence: Evidence, metric: str) -> tuple[float, float]:
    """The 95 % interval of a score."""
    if metric == "map":
        assert evidence.scores is not None
        return _ends(_resampled_map([evidence.scores], evidence.truth)[0])
    assert evidence.hits is not None
    return _ends(_resampled_means(evidence.hits, evidence.truth, metric))


@dataclass(frozen=True)
class Difference:
    """By how much A is better than B on the same images, with the 95 % interval of the paired bootstrap."""

    value: float
    low: float
    high: float
    images: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def compare(a: Evidence, b: Evidence, metric: str) -> Difference:
    """A against B on the images that both have.

    Raises:
        ValueError: they have no image in common.
    """
    common, rows_a, rows_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if not len(common):
        raise ValueError("no image in common")
    truth = a.truth[rows_a]
    if metric == "map":
        assert a.scores is not None and b.scores is not None
        pair = [a.scores[rows_a], b.scores[rows_b]]
        value = mean_average_precision(pair[0], truth) - mean_average_precision(pair[1], truth)
        first, second = _resampled_map(pair, truth)
        return Difference(value, *_ends(first - second), len(common))
    assert a.hits is not None and b.hits is not None
    gains = a.hits[rows_a].astype(np.float64) - b.hits[rows_b]
    return Difference(
        measure(gains, truth, metric), *_ends(_resampled_means(gains, truth, metric)), len(common)
    )


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean over classes with any positive of the area under precision over recall, as scikit-learn computes it.

    Args:
        scores: [N, K].
        truth: bool [N, K].
    """
    values = [
        average_precision(scores[:, k], truth[:, k]) for k in np.flatnonzero(truth.any(axis=0))
    ]
    return float(np.mean(values)) if values else 0.0


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Sum of precision times growth of recall over the distinct thresholds; `scores` and `truth` [N]."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # equal scores have one threshold
    precision = hits[last] / (last + 1)
    return float((precision * np.diff(hits[last], prepend=0)).sum() / hits[-1])


def _resampled_means(values: np.ndarray, truth: np.ndarray, metric: str) -> np.ndarray:
    """Float64 [RESAMPLES]: the metric of images drawn with replacement."""
    draws = np.random.default_rng(0)
    groups = [values] if metric == "top1" else [values[truth == k] for k in np.unique(truth)]
    total = np.zeros(RESAMPLES)
    for group in groups:
        levels, counts = np.unique(group, return_counts=True)
        drawn = draws.multinomial(len(group), counts / len(group), size=RESAMPLES)
        total += drawn @ levels.astype(np.float64) / len(group)
    return total / len(groups)


def _resampled_map(of: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Float64 [models, RESAMPLES_MAP], all of the same drawn images."""
    draws = np.random.default_rng(0)
    found = np.empty((len(of), RESAMPLES_MAP))
    for number in range(RESAMPLES_MAP):
        rows = draws.integers(0, len(truth), len(truth))
        found[:, number] = [mean_average_precision(scores[rows], truth[rows]) for scores in of]
    return found


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
    return float(low), float(high)
