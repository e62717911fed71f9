"""Evaluate a committed checkpoint: read it, build the model, find the shards, run the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.checkpoint.weights import load_weights
from vitscale.config.preprocessing import Preprocessing
from vitscale.config.run import RunConfig
from vitscale.config.saved import saved_recipe
from vitscale.config.source import Source
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus, open_corpus
from vitscale.engine.precision import DTYPES
from vitscale.errors import ConfigError, DataError
from vitscale.evaluate import fewshot, held_out
from vitscale.evaluate.inference import Prepare
from vitscale.evaluate.subject import device_of, preparation, sized
from vitscale.model.vit import ViT
from vitscale.place import Place, place_of


@dataclass(frozen=True)
class Job:
    """What is to be scored, on which shards, how.

    `data` and `train` are written as in a recipe ("data/pets/train[:800]"); they default to the held-out and training
    shards of the recipe saved in the run's folder.
    """

    checkpoint: Path
    on: str
    data: str | None = None
    train: str | None = None
    batch: int = 256
    device: str = "auto"
    precision: str = "fp32"
    which: str = "raw"


def evaluate(job: Job) -> dict[str, Any]:
    """Score a checkpoint in this one process.

    Returns:
        `checkpoint`, `step`, `on`, the folders read, and `scores` of the protocol.

    Raises:
        CheckpointError: the folder holds no usable checkpoint.
        ConfigError: no shards to score on are known, or this is one rank of many.
        DataError: the shards do not fit the model.
    """
    insist_on_one_process()
    weights = load_weights(job.checkpoint, job.which)
    device = device_of(job.device)
    model = sized(weights, None).to(device, DTYPES[job.precision])
    config = _saved_config(weights.path)
    saved = config.data.held_out if config else None
    data = _sources(job.data, [saved] if saved else [], "--data DIR")
    corpus = open_corpus(data, config.data if config else None)
    scores = {"held-out": _held_out, "fewshot": _fewshot}[job.on](
        job, model, corpus, config, preparation(weights, device, DTYPES[job.precision])
    )
    return {
        "checkpoint": str(weights.path),
        "step": weights.step,
        "weights": job.which,
        "on": job.on,
        "data": data[0].shards,
        "scores": scores,
    }


def insist_on_one_process() -> None:
    """Raise ConfigError where this is one rank of many: each would score the same."""
    if place_of().world > 1:
        raise ConfigError(
            "an evaluation runs in one process",
            where="evaluate",
            given=place_of(),
            do="Start it alone.",
        )


def _held_out(
    job: Job,
    model: ViT,
    corpus: Corpus,
    config: RunConfig | None,
    prepare: Prepare,
) -> dict[str, Any]:
    _check_classes(corpus, model)
    return held_out.score(
        model,
        corpus,
        image=model.shape.image,
        batch=job.batch,
        place=Place(),
        prepare=prepare,
        objective=config.train.objective if config else "softmax",
        view=_view(config),
    )


def _fewshot(
    job: Job,
    model: ViT,
    corpus: Corpus,
    config: RunConfig | None,
    prepare: Prepare,
) -> dict[str, Any]:
    train = _sources(job.train, config.data.train if config else (), "--train DIR")
    return fewshot.score(
        model,
        open_corpus(train, config.data if config else None),
        corpus,
        image=model.shape.image,
        batch=job.batch,
        prepare=prepare,
        view=_view(config),
    )


def _view(config: RunConfig | None) -> View:
    """The one of the run's own evaluations."""
    return View(config.evaluate.crop, config.evaluate.resize_px) if config else View()


def model_of(path: str | Path, which: str = "raw") -> tuple[ViT, Preprocessing]:
    """The model at `path`, in evaluation, float32 on the CPU, and the pixels it takes; as `load_weights` finds it."""
    weights = load_weights(path, which)
    return sized(weights, None).eval(), weights.preprocessing


def _saved_config(step_folder: Path) -> RunConfig | None:
    """The config of the run that a step folder `RUN/checkpoints/step-N` lies in, if it lies in one."""
    file = step_folder.parent.parent / "config.json"
    return saved_recipe(file).config if file.is_file() else None


def _sources(given: str | None, saved: Sequence[Source], option: str) -> Sequence[Source]:
    if given is not None:
        try:
            return [Source(shards=given)]
        except ValueError as error:
            raise ConfigError(f"cannot be read: {error}", where=option, given=given) from error
    if not saved:
        raise ConfigError(
            "the run names no such shards",
            where="evaluate",
            do=f"Give {option} with a folder of shards.",
        )
    return saved


def _check_classes(corpus: Corpus, model: ViT) -> None:
    if len(corpus.classes) > model.shape.classes:
        raise DataError(
            f"the shards have {len(corpus.classes)} classes, the model {model.shape.classes}",
            where=corpus.where,
            do="Evaluate on the set the head was trained for, or use --on fewshot.",
        )
