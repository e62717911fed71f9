"""What is known of a format besides its names: what it can say, how it lays positions out, how it resamples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vitscale.config.model import Shape
from vitscale.config.preprocessing import Preprocessing
from vitscale.errors import ConfigError
from vitscale.model.resample import Mode
from vitscale.weights.table import Rule

Layout = Literal["cls", "patches", "all"]
"""For which tokens the positions of a file hold an entry: CLS and patches (ours), patches, or registers as well."""

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bicubic")
"""Mean and spread of ImageNet-1k's pixels, as torchvision and most of its heirs have them."""


@dataclass(frozen=True)
class Format:
    """One way of writing a ViT down."""

    name: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    """Patterns of names that belong to the format and say nothing about the function of the model."""
    foreign: Mapping[str, str] = field(default_factory=dict)
    """Patterns of names of parts that we do not have, and what they are."""
    layout: Layout = "cls"
    resample: Mode = "bv-linear"
    limits: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values an option of the model may have so that the format can express it."""


@dataclass(frozen=True)
class Hints:
    """What the names and sizes of tensors do not tell; None where a format does not tell it either."""

    heads: int | None = None
    image: tuple[int, int] | None = None
    positions: str | None = None
    pooling: str | None = None
    activation: str = "gelu"
    norm_eps: float = 1e-6
    rope_base: float = 100.0
    layer_scale: float = 1e-5
    preprocessing: Preprocessing | None = None


ALWAYS: Mapping[str, tuple[Any, ...]] = {"norm": ("layer",), "parallel": (False,)}
"""Limits that all foreign formats share."""


def insist_on(shape: Shape, name: str, limits: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse a model that a format cannot express.

    Raises:
        ConfigError: names every option that stands in the way.
    """
    problems = [
        f"{option} {getattr(shape, option)!r}"
        for option, allowed in {**ALWAYS, **limits}.items()
        if getattr(shape, option) not in allowed
    ]
    if name.startswith("npz") and shape.cls_token != (shape.pooling == "cls"):
        problems.append(f"cls_token {shape.cls_token} with pooling {shape.pooling!r}")
    if shape.stride != shape.patch:
        problems.append(f"stride {shape.stride} below patch {shape.patch}")
    if problems:
        raise ConfigError(
            f"{name} has no model like this one",
            where="--format",
            given="; ".join(problems),
            do="Export as safetensors or onnx, which take every model.",
        )
