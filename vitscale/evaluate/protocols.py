"""What each method makes of frozen features. Letters: N test images, R repeats, K classes, D features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitscale.config.dataset import MASKED
from vitscale.config.suite import HeadTask, KnnTask, LinearTask, LogregTask, RidgeTask
from vitscale.data.corpus import Corpus
from vitscale.errors import DataError
from vitscale.evaluate import head
from vitscale.evaluate.features import Features
from vitscale.evaluate.fewshot import guesses_of
from vitscale.evaluate.grade import Evidence, Score, grade, measure
from vitscale.evaluate.knn import vote
from vitscale.evaluate.linear import fit_linear, logits_of
from vitscale.evaluate.logreg import fit_logreg, fit_path

Graded = list[tuple[Score, Evidence]]
_CHUNK = 8192  # images whose logits are held at a time: 66 MB of float64 for 1000 classes


@dataclass(frozen=True)
class Material:
    """Features of a data set and what its table says; `drawn` are the few-shot draws, one list of classes each."""

    test: Features
    train: Features | None
    dev: Features | None
    classes: int
    metric: str
    dev_share: float
    drawn: Sequence[list[np.ndarray]] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where all but the ridge is computed."""

    @property
    def fitting(self) -> Features:
        """What classifiers are fitted on."""
        assert self.train is not None
        return self.train

    def on_device(self, features: Features) -> tuple[Tensor, Tensor]:
        """Values and truth where they are computed with."""
        return features.values.to(self.device), self.truth(features).to(self.device)

    def truth(self, features: Features) -> Tensor:
        """Labels int64 [N], or with "map" bool [N, K].

        Raises:
            DataError: images with several labels, and a metric that takes one.
        """
        return truth_of(features.labels, self.classes, self.metric)

    def graded(self, setting: str, answers: np.ndarray) -> tuple[Score, Evidence]:
        """The score of guesses int64 [R, N], or scores float32 [R, N, K] with "map"."""
        truth = self.truth(self.test).numpy()
        right = answers if self.metric == "map" else answers == truth
        return grade(setting, right, self.test.ids, truth, self.metric)


def truth_of(labels: Tensor, classes: int, metric: str) -> Tensor:
    """Labels as a metric wants them; see `Material.truth`."""
    if metric == "map":
        rows = labels.reshape(len(labels), -1)
        truth = torch.zeros(len(rows), classes + 1, dtype=torch.bool)
        truth.scatter_(1, torch.where(rows == MASKED, classes, rows), True)
        return truth[:, :classes]
    if labels.ndim == 2:
        if ((labels != MASKED).sum(1) != 1).any():
            what = f"images have several labels or none, and {metric} takes one each"
            raise DataError(what, where="metric", do='Set metric = "map" for this data set.')
        return labels.amax(dim=1)
    return labels


def ridge(task: RidgeTask, material: Material) -> tuple[Graded, dict[str, Any]]:
    """k-shot accuracy for each k, over the draws."""
    sizes = [len(ids) for ids in material.drawn[0]]
    graded = []
    for shots in task.shots:
        chosen = [[ids[:shots] for ids in drawn] for drawn in material.drawn]
        guesses = [
            guesses_of(material.fitting, material.test, ids, task.penalty).numpy() for ids in chosen
        ]
        graded.append(material.graded(f"{shots}-shot", np.stack(guesses)))
    short = {f"{shots}-shot": sum(size < shots for size in sizes) for shots in task.shots}
    return graded, {"short_classes": {name: count for name, count in short.items() if count}}


def knn(task: KnnTask, material: Material) -> tuple[Graded, dict[str, Any]]:
    """Accuracy for each count of neighbours."""
    values, truth = material.on_device(material.fitting)
    queries = material.test.values.to(material.device)
    how: dict[str, Any] = {"k": task.k, "temperature": task.temperature}
    guesses = vote(values, truth, queries, material.classes, **how)
    return [material.graded(f"{k}-nn", guesses[k][None].cpu().numpy()) for k in task.k], {}


def logreg(task: LogregTask, material: Material) -> tuple[Graded, dict[str, Any]]:
    """Accuracy with the penalty that did best on the dev part, fitted on all."""
    train, dev, whole = parts_of(material)
    path, n = sorted(task.c), task.iterations
    models = fit_path(*material.on_device(train), material.classes, path, n)
    found = [_dev_score(material, model.logits, dev) for model in models]
    best = path[int(np.argmax(found))]
    model = fit_logreg(*material.on_device(whole), material.classes, best, n)
    answers = _answers(material, model.logits, material.test)[None]
    return [material.graded("best C", answers)], {
        "C": best,
        "dev": dict(zip(map(str, path), found, strict=True)),
    }


def linear(task: LinearTask, material: Material) -> tuple[Graded, dict[str, Any]]:
    """Accuracy with the rate that did best on the dev part, fitted on all."""
    train, dev, whole = parts_of(material)
    how: dict[str, Any] = {"batch": task.batch, "steps": task.steps, "seed": 0}
    classes = material.classes
    probes = fit_linear(*material.on_device(train), classes, lrs=task.lrs, **how)
    found = [_dev_score(material, _one_probe(probe), dev) for probe in probes]
    best = task.lrs[int(np.argmax(found))]
    [probe] = fit_linear(*material.on_device(whole), classes, lrs=[best], **how)
    answers = _answers(material, _one_probe(probe), material.test)[None]
    return [material.graded("best rate", answers)], {
        "lr": best,
        "dev": dict(zip(map(str, task.lrs), found, strict=True)),
    }


def own_head(
    task: HeadTask, material: Material, own: nn.Linear, corpus: Corpus
) -> tuple[Graded, dict[str, Any]]:
    """Accuracy of the model's own classifier."""
    test = material.test
    with torch.inference_mode():
        logits = own.float().cpu()(test.values)
    truth = material.truth(test).numpy()
    if task.real is not None:
        answers = head.answers_by_real(logits, head.real_labels(Path(task.real), corpus, test.ids))
    else:
        outputs = head.outputs_of(task, corpus.classes, own.out_features)
        answers = head.answers_of(task, logits, truth, outputs)
    rows = answers.rows
    graded = grade("own head", answers.right[None], test.ids[rows], truth[rows], material.metric)
    return [graded], {"without_labels": len(test) - len(rows)}


def parts_of(material: Material) -> tuple[Features, Features, Features]:
    """What is fitted on first, what that is judged on, and both together."""
    whole = material.fitting
    if material.dev is not None:
        return whole, material.dev, whole.plus(material.dev)
    chosen, rest = dev_rows(len(whole), material.dev_share)
    return whole.of(whole.ids[rest]), whole.of(whole.ids[chosen]), whole


def dev_rows(count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Of `count` samples those that are held back, drawn once, at least one; and the others; ascending int64.

    Raises:
        DataError: nothing would be left.
    """
    taken = max(1, round(count * share))
    if taken >= count:
        raise DataError(
            "no sample is left to fit on",
            where="dev_share",
            given=f"{share} of {count} samples",
            do="Lower dev_share, or give the set a dev part of its own.",
        )
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[:taken]), np.sort(order[taken:])


def _one_probe(probe: Tensor) -> Callable[[Tensor], Tensor]:
    """The logits of one probe, [D + 1, K], for features."""
    return lambda values: logits_of(probe[None], values)[0]


def _dev_score(material: Material, logits: Callable[[Tensor], Tensor], dev: Features) -> float:
    truth = material.truth(dev).numpy()
    answer = _answers(material, logits, dev)
    right = answer if material.metric == "map" else answer == truth
    return measure(right, truth, material.metric)


def _answers(
    material: Material, logits: Callable[[Tensor], Tensor], features: Features
) -> np.ndarray:
    """Scores float32 [N, K] where those are wanted, else guesses int64 [N]; some images at a time."""
    parts = []
    for values in features.values.split(_CHUNK):
        found = logits(values.to(material.device))
        parts.append((found.float() if material.metric == "map" else found.argmax(dim=1)).cpu())
    return torch.cat(parts).numpy()
