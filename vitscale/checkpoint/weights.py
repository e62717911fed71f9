"""Read the float32 weights of any commit or export on one process."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitscale.checkpoint.choose import found_commit
from vitscale.checkpoint.export import METADATA, SUFFIX, export
from vitscale.checkpoint.layout import CHECKPOINTS, MANIFEST
from vitscale.checkpoint.state import StateReader, whole
from vitscale.config.model import Shape
from vitscale.config.preprocessing import Preprocessing
from vitscale.errors import CheckpointError, ConfigError
from vitscale.units import human_bytes

KINDS = {"raw": "weight", "ema": "ema"}


@dataclass(frozen=True)
class Weights:
    """The weights of a commit, by name, float32 on the CPU, and what they belong to."""

    shape: Shape
    tensors: dict[str, Tensor]
    step: int
    path: Path
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    headless: bool = False
    """The head is a placeholder of zeros: the source had none."""


def load_weights(path: str | Path, which: str = "raw") -> Weights:
    """Put the weights at `path` together: a step or run folder, or a file of `vitscale checkpoint export`.

    Args:
        path: where they are.
        which: "raw", or "ema" for their exponential moving average.

    Raises:
        CheckpointError: nothing there verifies, a weight is incomplete, or there is no average.
    """
    if Path(path).suffix == SUFFIX:
        return _exported(Path(path), which)
    with found_commit(Path(path)) as found:
        facts, reader = found.manifest.facts, StateReader(found.folder)
        insist_on_kind(reader, which)
        tensors = whole(reader, KINDS[which], facts["shapes"])
        shape = Shape.from_json(facts["shape"])
        return Weights(shape, tensors, found.manifest.step, found.folder, preprocessing_of(facts))


def preprocessing_of(facts: dict[str, Any]) -> Preprocessing:
    """What the run of a manifest trained on; runs before `data.mean` existed saw [-1, 1]."""
    data = facts.get("config", {}).get("data", {})
    pixels = {name: data[name] for name in ("mean", "std") if name in data}
    return Preprocessing.from_json(Preprocessing().as_json() | pixels)


def export_weights(path: Path, to: Path, which: str, dtype: str) -> dict[str, Any]:
    """Write the weights of the commit at `path` into the new safetensors file `to`, streaming.

    Args:
        path: a step or run folder.
        to: the file; its metadata say shape, step and run, so `load_weights` reads it back.
        which: "raw" or "ema".
        dtype: "fp32" or "bf16".

    Returns:
        What was written where, for people and programs.

    Raises:
        CheckpointError: nothing at `path` verifies, or there is no average.
        ConfigError: the file exists, has another ending, or cannot be written.
    """
    insist_on_new(to)
    with found_commit(path) as found:
        facts, reader = found.manifest.facts, StateReader(found.folder)
        insist_on_kind(reader, which)
        record = {name: facts[name] for name in ("run", "step", "images", "shape")}
        record |= {"weights": which, "commit": found.manifest.digest}
        record["preprocessing"] = preprocessing_of(facts).as_json()
        try:
            size = export(reader, KINDS[which], facts, to, dtype=dtype, record=record)
        except OSError as error:
            raise ConfigError(
                f"the export cannot be written: {error.strerror or error}",
                where="--to",
                given=to,
                do="Free some space, or choose another folder.",
            ) from error
        return {
            "from": str(found.folder),
            "to": str(to),
            "weights": which,
            "dtype": dtype,
            "step": facts["step"],
            "tensors": len(facts["shapes"]),
            "parameters": sum(map(math.prod, facts["shapes"].values())),
            "size": human_bytes(size),
        }


def insist_on_new(to: Path) -> None:
    """Raise unless `to` is a safetensors file that does not exist yet.

    Raises:
        ConfigError: another ending, or it exists.
    """
    if to.suffix != SUFFIX:
        raise ConfigError(
            "a safetensors file is written", where="--to", given=to, do=f"End it in {SUFFIX}."
        )
    if to.exists():
        raise ConfigError("the file exists", where="--to", given=to, do="Choose another name.")


def insist_on_kind(reader: StateReader, which: str) -> None:
    """Raise if the commit lacks the weights called `which`.

    Raises:
        CheckpointError: the run kept no average.
    """
    if not reader.has(KINDS[which]):
        raise CheckpointError(
            "the checkpoint holds no moving average of the weights",
            where=str(reader.folder),
            do='Take the weights themselves ("raw"), or train with optim.ema set.',
        )


def is_ours(path: Path) -> bool:
    """Whether `load_weights` has something to read there: a run, a step, or a safetensors file with our record."""
    if path.is_dir():
        return (path / CHECKPOINTS).is_dir() or (path / MANIFEST).is_file()
    if path.suffix != SUFFIX:
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _exported(path: Path, which: str) -> Weights:
    """What `export` wrote; `which` must be what was exported."""
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(METADATA, "null"))
            if record is None:
                raise _unreadable(path, "it was not written by vitscale")
            if record["weights"] != which:
                raise CheckpointError(
                    f"holds the {record['weights']} weights, not {which}",
                    where=str(path),
                    do=f'Ask for "{record["weights"]}" (--weights, or init.which in a recipe).',
                )
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    return Weights(
        Shape.from_json(record["shape"]),
        tensors,
        record["step"],
        path,
        Preprocessing.from_json(record.get("preprocessing")),
        record.get("headless", False),
    )


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"cannot be used: {why}",
        where=str(path),
        do="Give a run folder, a step folder, or a file of `vitscale checkpoint export` or `vitscale weights import`.",
    )
