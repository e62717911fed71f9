"""Evaluate a committed checkpoint: read it, build the model, find the shards, run the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitscale.checkpoint.weights import Weights, load_weights
from vitscale.config.load import Recipe
from vitscale.config.run import RunConfig
from vitscale.data.shards import ShardSet, open_shards
from vitscale.engine.precision import DTYPES
from vitscale.errors import ConfigError, DataError, ResourceError
from vitscale.evaluate import fewshot, held_out
from vitscale.model.build import build_model
from vitscale.model.vit import ViT
from vitscale.place import Place, place_of


@dataclass(frozen=True)
class Job:
    """What is to be scored, on which shards, how.

    `data` and `train` default to the held-out and training shards of the recipe saved in the run's folder.
    """

    checkpoint: Path
    on: str
    data: Path | None = None
    train: Path | None = None
    batch: int = 256
    device: str = "auto"
    precision: str = "fp32"


def evaluate(job: Job) -> dict[str, Any]:
    """Score a checkpoint in this one process.

    Returns:
        `checkpoint`, `step`, `on`, the folders read, and `scores` of the protocol.

    Raises:
        CheckpointError: the folder holds no usable checkpoint.
        ConfigError: no shards to score on are known, or this is one rank of many.
        DataError: the shards do not fit the model.
    """
    if place_of().world > 1:
        raise ConfigError(
            "an evaluation runs in one process",
            where="evaluate",
            given=place_of(),
            do="Start it alone.",
        )
    weights = load_weights(job.checkpoint)
    device = _device(job.device)
    model = _model(weights, device, DTYPES[job.precision])
    config = _saved_config(weights.path)
    data = _folder(job.data, config and config.data.held_out, "--data DIR")
    scores = {"held-out": _held_out, "fewshot": _fewshot}[job.on](job, model, data, config, device)
    return {
        "checkpoint": str(weights.path),
        "step": weights.step,
        "on": job.on,
        "data": str(data),
        "scores": scores,
    }


def _held_out(
    job: Job, model: ViT, data: Path, config: RunConfig | None, device: torch.device
) -> dict[str, Any]:
    shards = open_shards(data)
    _check_classes(shards, model)
    return held_out.score(
        model,
        shards,
        image=model.shape.image,
        batch=job.batch,
        place=Place(),
        device=device,
        dtype=DTYPES[job.precision],
        objective=config.train.objective if config else "softmax",
    )


def _fewshot(
    job: Job, model: ViT, data: Path, config: RunConfig | None, device: torch.device
) -> dict[str, Any]:
    train = _folder(job.train, config and config.data.train, "--train DIR")
    return fewshot.score(
        model,
        open_shards(train),
        open_shards(data),
        image=model.shape.image,
        batch=job.batch,
        device=device,
        dtype=DTYPES[job.precision],
    )


def _model(weights: Weights, device: torch.device, dtype: torch.dtype) -> ViT:
    model = build_model(weights.shape)
    model.load_state_dict(weights.tensors)
    return model.to(device, dtype)


def _saved_config(step_folder: Path) -> RunConfig | None:
    """The config of the run that a step folder `RUN/checkpoints/step-N` lies in, if it lies in one."""
    file = step_folder.parent.parent / "config.json"
    return Recipe.from_json(file.read_text()).config if file.is_file() else None


def _folder(given: Path | None, saved: str | None, option: str) -> Path:
    if given is None and saved is None:
        raise ConfigError(
            "the run names no such shards",
            where="evaluate",
            do=f"Give {option} with a folder of shards.",
        )
    return given if given is not None else Path(saved or "")


def _check_classes(shards: ShardSet, model: ViT) -> None:
    if len(shards.classes) > model.shape.classes:
        raise DataError(
            f"the shards have {len(shards.classes)} classes, the model {model.shape.classes}",
            where=str(shards.folder),
            do="Evaluate on the set the head was trained for, or use --on fewshot.",
        )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("there is no CUDA GPU", where="--device", do="Use --device cpu.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
