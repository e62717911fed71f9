"""Read the float32 weights of any commit, whatever engine and ZeRO stage wrote it, on one process.

`weights.json` says for each weight in which files its pieces lie, so neither DeepSpeed nor the original number of
ranks is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitscale.checkpoint.choose import find_commit
from vitscale.checkpoint.commit import WEIGHTS
from vitscale.checkpoint.files import ShardReader
from vitscale.config.model import Shape
from vitscale.errors import CheckpointError


@dataclass(frozen=True)
class Weights:
    """The weights of a commit, by name, float32 on the CPU, and what they belong to."""

    shape: Shape
    tensors: dict[str, Tensor]
    step: int
    path: Path


def load_weights(path: str | Path) -> Weights:
    """Put the weights of the commit at `path` (a step or run folder) together.

    Raises:
        CheckpointError: no commit there verifies, or a weight is incomplete.
    """
    found = find_commit(Path(path))
    reader = ShardReader(found.folder)
    pieces = json.loads((found.folder / WEIGHTS).read_text(encoding="utf-8"))
    files: dict[str, Any] = {}
    tensors = {}
    for name, size in found.manifest.facts["shapes"].items():
        flat = _assemble(name, torch.Size(size).numel(), pieces.get(name, []), reader, files)
        tensors[name] = flat.reshape(size)
    shape = Shape.from_json(found.manifest.facts["shape"])
    return Weights(shape, tensors, found.manifest.step, found.folder)


def _assemble(
    name: str, numel: int, pieces: list[Any], reader: ShardReader, files: dict[str, Any]
) -> Tensor:
    flat = torch.empty(numel)
    filled = 0
    for at, file, keys, start, length in pieces:
        if at != filled:
            break
        if file not in files:
            files[file] = reader.load(file)
        source = files[file]
        for key in keys:
            source = source[key]
        flat[at : at + length] = source.detach().reshape(-1)[start : start + length].float()
        filled += length
    if filled != numel:
        raise CheckpointError(
            f"weight {name} is incomplete: {filled} of {numel} values",
            where=str(reader.folder),
            do="Take another commit of the run.",
        )
    return flat
