"""Few-shot transfer: a linear classifier on frozen features of k images a class. Letters: N samples, D features.

The protocol of big_vision (`evaluators/fewshot_lsr.py`): 1, 5, 10 and 25 shots, three draws each. Features are
computed once per image and shared by all draws. One thing differs by default: images are cut to their largest
centre, where big_vision resizes to 256 x 256 and takes the central 224, which is `View("none", 256)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitscale.data.augment import View
from vitscale.data.corpus import Corpus
from vitscale.errors import DataError
from vitscale.evaluate.features import Features, extract
from vitscale.evaluate.inference import Prepare
from vitscale.evaluate.ridge import PENALTY, fit_ridge
from vitscale.model.vit import ViT

SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
_CHUNK = 4096  # test features whitened at a time: 25 MB of float64 at width 768


def score(
    model: ViT,
    train: Corpus,
    test: Corpus,
    *,
    image: tuple[int, int],
    batch: int,
    prepare: Prepare,
    shots: Sequence[int] = SHOTS,
    view: View = View(),  # noqa: B008
) -> dict[str, dict[str, Any]]:
    """Mean accuracy on `test` of classifiers fitted on k samples a class of `train`; one process.

    Args:
        model: frozen; its training mode is restored.
        train: set the shots are drawn from; only the drawn images are read.
        test: set that is scored, all of it.
        image: height and width the model takes.
        batch: images per forward pass.
        prepare: bytes to what the model takes.
        shots: numbers of samples a class.
        view: what is shown of each image.

    Returns:
        For each count such as `"5-shot"`: `mean` and `std` (over the draws, ddof 0), the `draws` themselves, the
        `images` scored, and `short_classes`, how many classes have fewer samples and gave all they have.

    Raises:
        DataError: the two sets have different classes, or no image can be read.
    """
    insist_on_same_classes(train, test)
    labels = np.asarray(train.labels())
    drawn = {seed: draw(labels, len(train.classes), max(shots), seed) for seed in SEEDS}
    wanted = np.unique(np.concatenate([ids for draws in drawn.values() for ids in draws]))
    source = extract(model, train, wanted, image=image, batch=batch, prepare=prepare, view=view)
    target = extract(model, test, None, image=image, batch=batch, prepare=prepare, view=view)
    sizes = np.bincount(labels, minlength=len(train.classes))
    return {
        f"{k}-shot": _over_draws(source, target, drawn, k)
        | {"short_classes": int((sizes < k).sum())}
        for k in shots
    }


def draw(labels: np.ndarray, classes: int, count: int, seed: int) -> list[np.ndarray]:
    """The first `count` samples of a random order of each class; fewer where the class has fewer.

    One generator for all classes in order, so fewer shots are always a prefix of more.
    """
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == label))[:count] for label in range(classes)]


def _over_draws(
    source: Features, target: Features, drawn: dict[int, list[np.ndarray]], shots: int
) -> dict[str, Any]:
    draws = [_accuracy(source, target, [ids[:shots] for ids in drawn[seed]]) for seed in SEEDS]
    return {
        "mean": float(np.mean(draws)),
        "std": float(np.std(draws)),
        "draws": draws,
        "images": len(target.labels),
    }


def _accuracy(source: Features, target: Features, chosen: list[np.ndarray]) -> float:
    """Accuracy on `target` of the ridge fitted on the `chosen` sample numbers, one array a class."""
    guesses = guesses_of(source, target, chosen)
    return (guesses == target.labels).double().mean().item()


def guesses_of(
    source: Features, target: Features, chosen: list[np.ndarray], penalty: float = PENALTY
) -> Tensor:
    """What the ridge fitted on the `chosen` sample numbers, one array a class, says of `target`; int64 [N]."""
    shots = source.of(np.concatenate(chosen))
    ridge = fit_ridge(shots.values, shots.labels, len(chosen), penalty)
    return torch.cat([ridge.classify(part) for part in target.values.split(_CHUNK)])


def insist_on_same_classes(train: Corpus, test: Corpus) -> None:
    """Raise DataError unless both have the same classes in the same order."""
    if train.classes != test.classes:
        pairs = itertools.zip_longest(train.classes, test.classes)
        number, (a, b) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        raise DataError(
            "the two sets do not have the same classes in the same order",
            where=f"{train.where} and {test.where}",
            given=f"{len(train.classes)} and {len(test.classes)} classes; number {number} is {a!r} and {b!r}",
            do="Pack or index both with the same list of classes (--classes FILE).",
        )
