"""The pieces of work of a suite, which any process can run: a part of a set of features, a trial of a rate, a task.

Each leaves one file, whole or not at all, so a piece that is there need never be run again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.checkpoint.layout import sha256_of
from vitscale.checkpoint.weights import load_weights
from vitscale.config.load import load_recipe
from vitscale.config.source import Source
from vitscale.config.suite import FinetuneTask, HeadTask, KnnTask, LinearTask, LogregTask, Row
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus, open_corpus
from vitscale.durable import write_text_atomically
from vitscale.errors import ConfigError, DataError, VitscaleError
from vitscale.evaluate import protocols
from vitscale.evaluate.features import extract, load_features, parts_of, save_features
from vitscale.evaluate.finetune import Tuning
from vitscale.evaluate.grade import grade
from vitscale.evaluate.protocols import Graded, Material, truth_of
from vitscale.evaluate.results import Results
from vitscale.evaluate.subject import Machine, Subject, model_at
from vitscale.place import Place

PROTOCOL = 1
"""Part of every task's hash: a change of what is computed makes it another number, and old results are not read."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of `samples` images; `ids` are sample numbers, None for all. Different sets have different keys."""

    subject: Subject
    sources: tuple[Source, ...]
    fingerprint: str
    samples: int
    image_px: int | None
    view: View
    ids: np.ndarray | None
    machine: Machine
    folder: Path

    @property
    def wanted(self) -> int:
        """How many images it has where all can be read."""
        return self.samples if self.ids is None else len(self.ids)

    @property
    def files(self) -> list[Path]:
        """One a part."""
        chosen = "all" if self.ids is None else hashlib.sha256(self.ids.tobytes()).hexdigest()
        what = [self.subject.identity, self.fingerprint, self.image_px, self.view]
        key = digest([PROTOCOL, *what, chosen, self.machine.precision])
        count = parts_of(self.wanted)
        return [
            self.folder / "features" / key / f"{part:05d}-of-{count:05d}.safetensors"
            for part in range(count)
        ]


@dataclass(frozen=True)
class FeaturePart:
    """Computes one file of a set."""

    of: FeatureSet
    part: int

    def run(self) -> None:
        """Extract and keep."""
        wanted, files = self.of, self.of.files
        model, prepare = model_at(wanted.subject, wanted.image_px, wanted.machine)
        found = extract(
            model,
            open_corpus(wanted.sources),
            wanted.ids,
            image=model.shape.image,
            batch=wanted.machine.batch,
            prepare=prepare,
            view=wanted.view,
            part=Place(self.part, len(files)),
        )
        save_features(found, files[self.part])


@dataclass(frozen=True)
class Job:
    """A row of the suite on these weights. `key` names its result."""

    key: str
    row: Row
    classes: tuple[str, ...]
    record: dict[str, Any]


@dataclass(frozen=True)
class Fit:
    """Scores a task on features that are there; `sets` are those of "train", "test" and "dev"."""

    job: Job
    subject: Subject
    sets: dict[str, FeatureSet]
    drawn: Sequence[list[np.ndarray]]
    folder: Path

    def run(self) -> None:
        """Fit, score, and keep the result."""
        began = time.monotonic()
        material = self._material()
        graded, facts = self._answers(material)
        facts["unreadable_images"] = self.sets["test"].wanted - len(material.test)
        fitted_on = [(self.sets.get("train"), material.train), (self.sets.get("dev"), material.dev)]
        lacking = [found.wanted - len(read) for found, read in fitted_on if found and read]
        facts["unreadable_fitted_on"] = sum(lacking)
        seconds = round(time.monotonic() - began, 2)
        record = self.job.record | {"facts": facts, "seconds": seconds}
        Results(self.folder).write(self.job.key, record, graded)

    def _answers(self, material: Material) -> tuple[Graded, dict[str, Any]]:
        task = self.job.row.task
        if isinstance(task, HeadTask):
            model, _ = model_at(self.subject, None, Machine(device="cpu"))
            _insist_on_head(self.subject)
            corpus = open_corpus([self.job.row.data.test])
            return protocols.own_head(task, material, model.head, corpus)
        if isinstance(task, KnnTask):
            return protocols.knn(task, material)
        if isinstance(task, LinearTask):
            return protocols.linear(task, material)
        if isinstance(task, LogregTask):
            return protocols.logreg(task, material)
        assert not isinstance(task, FinetuneTask)
        return protocols.ridge(task, material)

    def _material(self) -> Material:
        loaded = {name: load_features(found.files) for name, found in self.sets.items()}
        data = self.job.row.data
        return Material(
            loaded["test"],
            loaded.get("train"),
            loaded.get("dev"),
            len(self.job.classes),
            data.metric,
            data.dev_share,
            self.drawn,
            self.sets["test"].machine.use(),
        )


@dataclass(frozen=True)
class Trial:
    """Tries one rate of a fine-tuning."""

    tuning: Tuning
    lr: float

    @property
    def file(self) -> Path:
        """Holds the score on the dev part."""
        return self.tuning.folder / f"dev-{self.lr:g}.json"

    def run(self) -> None:
        """Train and score on the dev part."""
        write_text_atomically(self.file, json.dumps({"dev": self.tuning.trial(self.lr)}))


@dataclass(frozen=True)
class Tuned:
    """The final runs of a fine-tuning, with the rate that did best."""

    job: Job
    tuning: Tuning
    folder: Path

    def run(self) -> None:
        """Train, score, and keep the result."""
        began = time.monotonic()
        task, metric = self.tuning.task, self.tuning.data.metric
        best, tried = self._choose()
        runs = [self.tuning.final(best, seed) for seed in range(task.seeds)]
        found = runs[0][0]
        truth = truth_of(found.labels, len(self.job.classes), metric).numpy()
        logits = np.stack([answer for _, answer in runs])
        answers = logits if metric == "map" else logits.argmax(axis=2) == truth
        graded = [grade("fine-tuned", answers, found.ids, truth, metric)]
        seconds = round(time.monotonic() - began, 2)
        record = self.job.record | {"facts": {"lr": best, "dev": tried}, "seconds": seconds}
        Results(self.folder).write(self.job.key, record, graded)

    def _choose(self) -> tuple[float, dict[str, float]]:
        rates = self.tuning.task.lrs
        if len(rates) == 1:
            return rates[0], {}
        tried = [json.loads(Trial(self.tuning, lr).file.read_text())["dev"] for lr in rates]
        return rates[int(np.argmax(tried))], dict(zip(map(str, rates), tried, strict=True))


Piece = FeaturePart | Fit | Trial | Tuned


def run_piece(piece: Piece) -> VitscaleError | None:
    """Run one; what a user can mend is an answer, so that one bad task does not end the others."""
    try:
        piece.run()
    except VitscaleError as error:
        return error
    return None


def _insist_on_head(subject: Subject) -> None:
    if load_weights(subject.copy, subject.which).headless:
        raise DataError(
            "the weights have no classifier of their own",
            where=subject.name,
            do="Leave the head task out, or evaluate weights that have one.",
        )


def digest(what: object) -> str:
    """16 hexadecimal digits of anything JSON can write."""
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def describe(
    row: Row, corpora: dict[str, Corpus], subject: Subject, precision: str
) -> dict[str, Any]:
    """All that decides what a task computes, for its hash and its record."""
    settings = row.task.model_dump(mode="json", exclude={"data"})
    for name in ("classes", "real"):
        if path := settings.get(name):
            settings[name] = _hash_of(Path(path), name)
    if isinstance(row.task, FinetuneTask):
        settings["recipe"] = _habits_of(row.task.recipe)
    return {
        "protocol": PROTOCOL,
        "task": settings,
        "metric": row.data.metric,
        "dev_share": row.data.dev_share if "dev" not in corpora else None,
        "data": {name: corpus.facts.fingerprint for name, corpus in corpora.items()},
        "precision": precision,
        "weights": subject.identity,
    }


def job_of(row: Row, corpora: dict[str, Corpus], subject: Subject, precision: str) -> Job:
    """The job, named by weights and task."""
    what = describe(row, corpora, subject, precision)
    key = f"{subject.identity}-{digest({**what, 'weights': None})}"
    record = {"weights_name": subject.name, "step": subject.step, "dataset": row.name}
    record |= {"group": row.data.group, "method": row.task.method, **what}
    return Job(key, row, corpora["test"].classes, record)


def _hash_of(path: Path, key: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=key, given=path, do="Correct the path."
        ) from error


def _habits_of(recipe: str) -> dict[str, Any]:
    """What a recipe says besides its name, data and weights, which the task fills in."""
    config = load_recipe(recipe).config.model_dump(mode="json")
    for name in ("run", "init", "tracking", "evaluate", "checkpoint", "health"):
        del config[name]
    config["data"] = {k: v for k, v in config["data"].items() if k not in ("train", "held_out")}
    return config
