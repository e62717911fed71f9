"""Build a ViT, new or from the weights of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitscale.config.model import Shape
from vitscale.errors import CheckpointError
from vitscale.model.init import initialise
from vitscale.model.position import resample_positions
from vitscale.model.vit import ViT
from vitscale.ops.choice import PLAIN, Ops


def build_model(shape: Shape, ops: Ops = PLAIN, *, seed: int | None = None) -> ViT:
    """A ViT in float32 on the CPU; with a seed its initial values are drawn, without they are unset."""
    with torch.device("meta"):
        model = ViT(shape, ops)
    model = model.to_empty(device="cpu")
    if seed is not None:
        initialise(model, seed, head_bias=shape.head_bias)
    return model


@dataclass
class LoadReport:
    """What became of every tensor when weights met a model."""

    loaded: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line per kind, naming every tensor that was not simply loaded."""
        return [
            f"loaded      {len(self.loaded)} tensors",
            *(f"resampled   {name}" for name in self.resampled),
            *(f"new         {name}" for name in self.new),
            *(f"not loaded  {name}" for name in self.unused),
        ]


def load_pretrained(
    model: ViT, weights: Mapping[str, Tensor], source: Shape, *, head: str = "new"
) -> LoadReport:
    """Copy pretrained weights into `model` in place; the model must be initialised already.

    The pre-training head (classifier, and the tanh representation layer where the model has none) is dropped with
    `head="new"`; learned positions are resampled to the model's grid.

    Raises:
        CheckpointError: a tensor that should be loaded is missing or has another shape.
    """
    report = LoadReport()
    own = dict(model.named_parameters())
    for name in sorted(set(own) | set(weights)):
        if name not in own:
            report.unused.append(f"{name} {list(weights[name].shape)}")
        elif name.startswith("head.") and head == "new":
            report.new.append(f"{name} {list(own[name].shape)}")
            if name in weights:
                report.unused.append(f"{name} {list(weights[name].shape)}")
        elif name in weights:
            _copy(own[name], name, weights[name], source, model.shape, report)
        else:
            raise _misfit(name, "is missing from the checkpoint", source, model.shape)
    return report


@torch.no_grad()
def _copy(
    target: Tensor, name: str, value: Tensor, source: Shape, shape: Shape, report: LoadReport
) -> None:
    if name == "positions" and source.grid != shape.grid and source.pooling == shape.pooling:
        value = resample_positions(value, source.grid, shape.grid)
        report.resampled.append(f"{name} from grid {source.grid} to {shape.grid}")
    if value.shape != target.shape:
        text = f"is {list(value.shape)} in the checkpoint and {list(target.shape)} in the model"
        raise _misfit(name, text, source, shape)
    target.copy_(value)
    report.loaded.append(name)


def _misfit(name: str, text: str, source: Shape, shape: Shape) -> CheckpointError:
    mine, theirs = shape.as_json(), source.as_json()
    differ = [f"{key} {theirs[key]} -> {mine[key]}" for key in mine if mine[key] != theirs[key]]
    return CheckpointError(
        f"{name} {text}",
        where="init.weights",
        given="; ".join(differ),
        do="Give the model table the checkpoint's numbers; only image size and classes may differ.",
    )
