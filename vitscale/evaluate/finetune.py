"""Full fine-tuning as a task: a training run for each rate, judged on the dev part, then runs on everything.

A run is an ordinary one of the trainer, which is handed in: it commits, and goes on from its last commit when the suite
is started again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.checkpoint.weights import load_weights
from vitscale.config.load import Recipe, load_recipe
from vitscale.config.model import Shape
from vitscale.config.source import Source
from vitscale.config.suite import DownstreamData, FinetuneTask
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus, open_corpus
from vitscale.durable import write_text_atomically
from vitscale.engine.precision import DTYPES
from vitscale.errors import STOPPED_EXIT_CODE, VitscaleError
from vitscale.evaluate.features import Features, extract
from vitscale.evaluate.grade import measure
from vitscale.evaluate.protocols import dev_rows, truth_of
from vitscale.evaluate.subject import Machine, Subject, preparation, shape_of, sized

Train = Callable[[dict[str, Any]], dict[str, Any]]
"""`vitscale.train.worker.run`: a request to a reply."""

_OF_THE_RECIPE = ("image_px", "dropout", "drop_path", "patch_drop", "head_bias")
"""Keys of `[model]` that fine-tuning may choose; the weights decide the others."""


class RunFailed(VitscaleError):
    """A training run of a task or study did not finish; its `exit_code` is that of the run."""

    def __init__(self, reply: dict[str, Any], run: Path) -> None:
        self.exit_code = int(reply["exit_code"])
        stopped = self.exit_code == STOPPED_EXIT_CODE
        do = "Give the command again to go on." if stopped else "Correct it, and run it again."
        super().__init__(str(reply["message"]), where=str(run), do=do)


@dataclass(frozen=True)
class Tuning:
    """One fine-tuning task on one data set; runs and lists of samples lie in `folder`."""

    subject: Subject
    task: FinetuneTask
    data: DownstreamData
    machine: Machine
    folder: Path
    train: Train

    def trial(self, lr: float) -> float:
        """The metric on the dev part of a run on the rest of `train`.

        Raises:
            RunFailed: the run did not finish.
        """
        train, dev = self._parts()
        run = self._run(f"rate-{lr:g}", train, lr, seed=0)
        scored, logits = self._answers(run, dev)
        truth = truth_of(scored.labels, logits.shape[1], self.data.metric).numpy()
        right = logits if self.data.metric == "map" else logits.argmax(1) == truth
        return measure(right, truth, self.data.metric)

    def final(self, lr: float, seed: int) -> tuple[Features, np.ndarray]:
        """Test images that could be read, and logits float32 [N, K] for them, of a run on all of `train` and `dev`.

        Raises:
            RunFailed: the run did not finish.
        """
        assert self.data.train is not None
        dev = [self.data.dev] if self.data.dev is not None else []
        run = self._run(f"final-{seed}", [*self.data.train, *dev], lr, seed)
        return self._answers(run, [self.data.test])

    def _parts(self) -> tuple[list[Source], list[Source]]:
        """What trials train on, and what they are judged on; lists of samples are written where `train` is cut."""
        assert self.data.train is not None
        if self.data.dev is not None:
            return list(self.data.train), [self.data.dev]
        corpus = open_corpus(self.data.train)
        chosen, rest = dev_rows(corpus.samples, self.data.dev_share)
        self.folder.mkdir(parents=True, exist_ok=True)
        return self._listed(corpus, rest, "train"), self._listed(corpus, chosen, "dev")

    def _listed(self, corpus: Corpus, rows: np.ndarray, name: str) -> list[Source]:
        """Sources that hold just these samples of the corpus."""
        assert self.data.train is not None
        sources, begin = [], 0
        pairs = zip(self.data.train, corpus.selections, strict=True)
        for number, (source, selection) in enumerate(pairs):
            inside = (rows >= begin) & (rows < begin + selection.samples)
            own = selection.set_ids(rows[inside] - begin)
            begin += selection.samples
            if not len(own):
                continue
            path = self.folder / f"{name}-{number}.txt"
            write_text_atomically(path, "\n".join(map(str, own.tolist())) + "\n")
            sources.append(Source(shards=source.place, classes=source.classes, ids=str(path)))
        return sources

    def _run(self, name: str, train: Sequence[Source], lr: float, seed: int) -> Path:
        recipe = self._recipe(name, train, lr, seed)
        self.machine.use()  # before the trainer looks for its GPU
        reply = self.train({"recipe": recipe.to_json(), "resume": "auto"})
        if reply["exit_code"] != 0:
            raise RunFailed(reply, recipe.config.folder)
        return recipe.config.folder

    def _recipe(self, name: str, train: Sequence[Source], lr: float, seed: int) -> Recipe:
        """The task's recipe, with the architecture of the weights, this data, rate and seed."""
        record = json.loads(load_recipe(self.task.recipe).to_json())
        config = record["config"]
        config["run"] = {"name": name, "home": str(self.folder), "seed": seed}
        own = {key: config["model"][key] for key in _OF_THE_RECIPE}
        config["model"] = architecture(shape_of(self.subject)) | own
        several = len(train) > 1  # all samples alike, whatever set they are from
        tables = [s.model_dump(mode="json") | {"weight": _size(s) if several else 1} for s in train]
        config["data"] |= {"train": tables, "held_out": None}
        config["data"] |= _pixels(self.subject)
        config["optim"]["lr"] = lr
        config["engine"] |= {"kind": "local", "zero_stage": "auto", "device": self.machine.device}
        config["init"] = {"weights": str(self.subject.copy), "which": self.subject.which}
        config["evaluate"]["every"] = None
        config["tracking"]["mlflow"] = "off"
        config["checkpoint"]["keep"], config["checkpoint"]["keep_every"] = 1, None
        if self.data.metric == "map":
            config["train"]["objective"] = "sigmoid"
        kept = ("train.", "optim.")
        record["sources"] = {k: v for k, v in record["sources"].items() if k.startswith(kept)}
        return Recipe.from_json(json.dumps(record))

    def _answers(self, run: Path, sources: Sequence[Source]) -> tuple[Features, np.ndarray]:
        """Images of the sources that could be read, and the logits of the run's model for them."""
        weights = load_weights(run)
        device, dtype = self.machine.use(), DTYPES[self.machine.precision]
        model = sized(weights, None).to(device, dtype).eval()
        found = extract(
            model,
            open_corpus(sources),
            None,
            image=weights.shape.image,
            batch=self.machine.batch,
            prepare=preparation(weights, device, dtype),
            view=View(self.task.crop, self.task.resize_px),
        )
        logits = model.head.float().cpu()(found.values)
        return found, logits.detach().numpy()


def architecture(shape: Shape) -> dict[str, Any]:
    """The `[model]` table of a model like this, without the head of the pretraining."""
    record = shape.as_json()
    for name in ("image", "patch", "stride", "classes", "representation"):
        del record[name]
    if shape.positions != "rope":
        del record["rope_base"]
    return record | {"variant": f"B/{shape.patch}s{shape.stride}"}


def _pixels(subject: Subject) -> dict[str, Any]:
    """Mean and spread that belong to the weights."""
    own = asdict(load_weights(subject.copy, subject.which).preprocessing)
    return {name: list(own[name]) for name in ("mean", "std")}


def _size(source: Source) -> int:
    return open_corpus([source]).samples
