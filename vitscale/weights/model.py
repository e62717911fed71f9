"""Weights of ours in memory, wherever they came from, and their fit to another size of images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vitscale.config.model import Shape
from vitscale.config.preprocessing import Preprocessing
from vitscale.errors import ConfigError
from vitscale.model.build import (
    PRETRAINING_ONLY,
    Fitting,
    LoadReport,
    build_model,
    load_pretrained,
)
from vitscale.model.resample import Mode


@dataclass(frozen=True)
class Model:
    """A shape and its tensors by our names, float32; how images become its input; whether its head is a placeholder."""

    shape: Shape
    tensors: dict[str, Tensor]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    headless: bool = False
    told: LoadReport = field(default_factory=LoadReport)

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Target:
    """Another size of images, stride or patch that weights are to fit; None keeps theirs."""

    image: tuple[int, int] | None = None
    stride: int | None = None
    patch: int | None = None
    resample: Mode | None = None

    def shape_of(self, shape: Shape) -> Shape:
        """`shape` with the changes asked for; a new patch without a stride has no overlap."""
        patch = self.patch or shape.patch
        same = shape.stride if patch == shape.patch else patch
        stride = self.stride or same
        image = self.image or shape.image
        return replace(shape, image=image, stride=stride, patch=patch)


def without_head(model: Model, classes: int = 1) -> Model:
    """The backbone with a zero head of `classes` outputs as a placeholder."""
    kept = {n: t for n, t in model.tensors.items() if not n.startswith(PRETRAINING_ONLY)}
    dropped = sorted(model.tensors.keys() - kept.keys()) if not model.headless else ()
    head = head_of(model.shape.width, classes)
    shape = replace(model.shape, classes=classes, representation=False)
    told = replace(
        model.told,
        loaded=model.told.loaded - len(dropped),
        dropped=(*model.told.dropped, *dropped),
        new=tuple(f"{name} {list(tensor.shape)}, zero" for name, tensor in head.items()),
    )
    return replace(model, shape=shape, tensors=kept | head, headless=True, told=told)


def head_of(width: int, classes: int) -> dict[str, Tensor]:
    """A head that answers zero."""
    return {"head.weight": torch.zeros(classes, width), "head.bias": torch.zeros(classes)}


def fitted(model: Model, target: Target, default: Mode) -> Model:
    """The model for the images, stride and patch of `target`; positions are resampled as it says, or by `default`.

    Raises:
        ConfigError: the sizes do not fit together, or a way to resample was named and nothing is to be resampled.
    """
    shape = target.shape_of(model.shape)
    if shape == model.shape:
        if target.resample is not None:
            raise ConfigError(
                "has no effect: nothing is resampled",
                where="--resample",
                do="Give --image-px, --stride or --patch as well, or remove it.",
            )
        return model
    made = build_model(shape)
    patches = "same" if shape.patch == model.shape.patch else "flexi-pinv"
    how = Fitting(head="keep", positions=target.resample or default, patches=patches)
    report = load_pretrained(made, model.tensors, model.shape, how)
    tensors = {name: value.detach() for name, value in made.named_parameters()}
    told = replace(
        model.told, resampled=tuple(f"{line}, {how.positions}" for line in report.resampled)
    )
    return replace(model, shape=shape, tensors=tensors, told=told)


def record_of(model: Model) -> dict[str, Any]:
    """What the metadata of a safetensors file of ours says besides where the weights came from."""
    return {
        "shape": model.shape.as_json(),
        "preprocessing": model.preprocessing.as_json(),
        "headless": model.headless,
    }
