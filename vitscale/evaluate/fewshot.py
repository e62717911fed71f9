"""Few-shot transfer: a linear classifier on frozen features of k images a class. Letters: N samples, D features.

The protocol of big_vision (`evaluators/fewshot_lsr.py`): 1, 5, 10 and 25 shots, three draws each. Features are
computed once per image and shared by all draws. One thing differs by default: images are cut to their largest
centre, where big_vision resizes to 256 x 256 and takes the central 224, which is `View("none", 256)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitscale.data.augment import View
from vitscale.data.corpus import Corpus
from vitscale.data.loader import scan
from vitscale.errors import DataError
from vitscale.evaluate.inference import Prepare, answering
from vitscale.evaluate.ridge import fit_ridge
from vitscale.model.vit import ViT
from vitscale.place import Place

SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
_CHUNK = 4096  # test features whitened at a time: 25 MB of float64 at width 768


@dataclass(frozen=True)
class Features:
    """What the head reads, float32 [N, D], with labels and sample numbers int64 [N], in sample order."""

    values: Tensor
    labels: Tensor
    ids: np.ndarray


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
    _same_classes(train, test)
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


def extract(
    model: ViT,
    shards: Corpus,
    ids: np.ndarray | None,
    *,
    image: tuple[int, int],
    batch: int,
    prepare: Prepare,
    view: View = View(),  # noqa: B008
) -> Features:
    """`pre_logits` of the samples `ids` (None: all); undecodable images are left out."""
    values, labels, numbers = [], [], []
    with answering(model):
        batches = scan(shards, image=image, batch=batch, place=Place(), ids=ids, view=view)
        for micro_batch in batches:
            images = prepare(micro_batch.images)
            good = micro_batch.labels >= 0
            values.append(model.features(images)["pre_logits"].float().cpu()[good])
            labels.append(micro_batch.labels[good])
            numbers.append(torch.as_tensor(micro_batch.ids)[good])
    if not sum(map(len, labels)):
        raise DataError(
            "no image could be read",
            where=shards.where,
            do="Check it with `vitscale shards verify`.",
        )
    order = torch.cat(numbers).argsort()
    return Features(
        torch.cat(values)[order], torch.cat(labels)[order], torch.cat(numbers)[order].numpy()
    )


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
    rows = torch.from_numpy(np.flatnonzero(np.isin(source.ids, np.concatenate(chosen))))
    ridge = fit_ridge(source.values[rows], source.labels[rows], len(chosen))
    guesses = torch.cat([ridge.classify(part) for part in target.values.split(_CHUNK)])
    return (guesses == target.labels).double().mean().item()


def _same_classes(train: Corpus, test: Corpus) -> None:
    if train.classes != test.classes:
        raise DataError(
            "the two sets do not have the same classes in the same order",
            where=f"{train.where} and {test.where}",
            given=f"{len(train.classes)} and {len(test.classes)} classes",
            do="Pack both with the same list of classes.",
        )
