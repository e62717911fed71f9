"""Build a ViT, new or from the weights of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitscale.config.model import Shape
from vitscale.errors import CheckpointError
from vitscale.model.init import initialise
from vitscale.model.resample import (
    Mode,
    resample_axis,
    resample_patches,
    resample_positions,
    resample_relative,
)
from vitscale.model.vit import ViT
from vitscale.ops.choice import PLAIN, Ops

PRETRAINING_ONLY = ("head.", "representation.")
"""Beginnings of what only serves the task of the pretraining."""


def build_model(shape: Shape, ops: Ops = PLAIN, *, seed: int | None = None) -> ViT:
    """A ViT in float32 on the CPU; with a seed its initial values are drawn, without they are unset."""
    with torch.device("meta"):
        model = ViT(shape, ops)
    model = model.to_empty(device="cpu")
    if seed is not None:
        initialise(model, seed, shape)
    return model


@dataclass(frozen=True)
class Fitting:
    """What may be done to weights so that they fit another model."""

    head: str = "new"
    """"new" leaves the model's own classifier, "keep" loads it."""
    positions: Mode = "bv-linear"
    """How position encodings are resampled to another grid."""
    patches: str = "same"
    """"same" insists on equal patches; "flexi-pinv" resamples the projection."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor when weights met a model, or were read from a file of others."""

    loaded: int = 0
    resampled: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    """Known to have no place in a model of ours."""
    unexpected: tuple[str, ...] = ()
    """Not known, and left out because that was allowed."""

    def lines(self) -> list[str]:
        """For people: how many were loaded, and a line for each that was not simply loaded."""
        kinds = (
            ("resampled", self.resampled),
            ("new", self.new),
            ("not loaded", self.dropped),
            ("ignored", self.ignored),
            ("unexpected", self.unexpected),
        )
        named = [f"{kind:<11} {name}" for kind, names in kinds for name in names]
        return [f"loaded      {self.loaded} tensors", *named]


def load_pretrained(
    model: ViT, weights: Mapping[str, Tensor], source: Shape, fitting: Fitting = Fitting()
) -> LoadReport:
    """Copy pretrained weights into `model` in place; the model must be initialised already.

    The pre-training head (classifier, and the tanh representation layer where the model has none) is dropped with
    `head="new"`, a CLS token that the model does not have likewise; what depends on the grid is resampled.

    Raises:
        CheckpointError: a tensor that should be loaded is missing or has another shape, or one has no place.
    """
    _insist_on_same_function(source, model.shape)
    own = dict(model.named_parameters())
    loaded, resampled, new, dropped = 0, [], [], []
    for name in sorted(set(own) | set(weights)):
        if name not in own:
            if not _may_be_dropped(name, fitting):
                raise _misfit(name, "has no place in the model", source, model.shape)
            dropped.append(f"{name} {list(weights[name].shape)}")
        elif name.startswith("head.") and fitting.head == "new":
            new.append(f"{name} {list(own[name].shape)}")
            if name in weights:
                dropped.append(f"{name} {list(weights[name].shape)}")
        elif name in weights:
            value, how = _fitted(name, weights[name], source, model.shape, fitting)
            _copy(own[name], name, value, source, model.shape)
            loaded += 1
            if how:
                resampled.append(f"{name} {how}")
        else:
            raise _misfit(name, "is missing from the checkpoint", source, model.shape)
    return LoadReport(loaded, tuple(resampled), tuple(new), tuple(dropped))


_SAME = ("heads", "activation", "norm", "norm_eps", "parallel", "positions", "rope_base")
"""Numbers that no tensor's shape shows, and that give other features from the same tensors."""


def _insist_on_same_function(source: Shape, shape: Shape) -> None:
    for name in _SAME:
        theirs, mine = getattr(source, name), getattr(shape, name)
        if theirs != mine:
            raise CheckpointError(
                f"the weights were trained with {name} {theirs}, the model has {mine}",
                where=f"model.{name}",
                given=mine,
                do=f"Set model.{name} to {theirs}.",
            )


def _may_be_dropped(name: str, fitting: Fitting) -> bool:
    return name == "cls" or (fitting.head == "new" and name.startswith(PRETRAINING_ONLY))


def _fitted(
    name: str, value: Tensor, source: Shape, shape: Shape, fitting: Fitting
) -> tuple[Tensor, str]:
    """The tensor for the model's grid and patches, and what was done to it, if anything."""
    grids = f"from grid {source.grid} to {shape.grid}"
    if name == "patch_embed.projection.weight" and source.patch != shape.patch:
        if fitting.patches != "flexi-pinv":
            return value, ""
        return resample_patches(value, shape.patch), f"from {source.patch} to {shape.patch} px"
    if name == "positions" and source.cls_token and not shape.cls_token:
        value, grids = value[:, 1:], f"{grids}, without that of CLS"
    elif source.grid == shape.grid:
        return value, ""
    if name == "positions":
        return resample_positions(value, source.grid, shape.grid, fitting.positions), grids
    if name == "row_positions":
        return resample_axis(value, shape.grid[0], fitting.positions), grids
    if name == "column_positions":
        return resample_axis(value, shape.grid[1], fitting.positions), grids
    if name.endswith("relative_bias"):
        return resample_relative(value, source.grid, shape.grid, fitting.positions), grids
    return value, ""


@torch.no_grad()
def _copy(target: Tensor, name: str, value: Tensor, source: Shape, shape: Shape) -> None:
    if value.shape != target.shape:
        text = f"is {list(value.shape)} in the checkpoint and {list(target.shape)} in the model"
        raise _misfit(name, text, source, shape)
    target.copy_(value)


def _misfit(name: str, text: str, source: Shape, shape: Shape) -> CheckpointError:
    mine, theirs = shape.as_json(), source.as_json()
    differ = [f"{key} {theirs[key]} -> {mine[key]}" for key in mine if mine[key] != theirs[key]]
    do = "Give the model table the checkpoint's numbers; only image size, stride and classes may differ."
    if source.patch != shape.patch:
        do += ' Another patch size needs init.patches = "flexi-pinv".'
    return CheckpointError(f"{name} {text}", where="init.weights", given="; ".join(differ), do=do)
