"""The shape of a model from its tensors: sizes tell most numbers, hints and options the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitscale.config.model import PRESETS, Shape
from vitscale.errors import CheckpointError
from vitscale.weights.format import Hints

_WIDTH_OF_A_HEAD = 64


def shape_of(tensors: Mapping[str, Tensor], hints: Hints, image: tuple[int, int]) -> Shape:
    """The shape that `tensors`, by our names, belong to.

    Args:
        tensors: weights of a whole model with a head.
        hints: what sizes do not tell; an unknown number of heads is the preset's of the same width, depth and MLP,
            else one of 64 numbers each (DINOv2, DINOv3, DeiT).
        image: height and width in pixels.

    Raises:
        CheckpointError: these are not the weights of a ViT, or their positions are unknown.
    """
    kernel = tensors.get("patch_embed.projection.weight")
    last = tensors.get("blocks.0.fc2.weight")
    if kernel is None or last is None:
        raise CheckpointError(
            "these are not the weights of a ViT: there is no patch projection or no MLP",
            do="Name the format with --format if it was taken for another.",
        )
    if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise CheckpointError(
            "the patch projection is not one of square patches of three channels",
            given=list(kernel.shape),
        )
    width, mlp = kernel.shape[0], last.shape[1]
    depth = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks."))
    activation = _activation(tensors, hints, mlp)
    numbers: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "mlp": mlp,
        "heads": hints.heads or _heads(width, depth, mlp, activation),
        "patch": kernel.shape[-1],
        "stride": kernel.shape[-1],
        "image": image,
        "classes": tensors["head.weight"].shape[0],
        "positions": _positions(tensors, hints),
        "pooling": _pooling(tensors, hints),
        "cls_token": "cls" in tensors,
        "registers": tensors["registers"].shape[1] if "registers" in tensors else 0,
        "representation": "representation.weight" in tensors,
        "activation": activation,
        "norm_eps": hints.norm_eps,
        "biases": _biases(tensors),
        "qk_norm": any(name.endswith("q_norm.weight") for name in tensors),
        "layer_scale": hints.layer_scale if _any(tensors, "scale1") else None,
        "rope_base": hints.rope_base,
    }
    return Shape(**numbers)


def _any(tensors: Mapping[str, Tensor], ending: str) -> bool:
    return any(name.endswith(ending) for name in tensors)


def _activation(tensors: Mapping[str, Tensor], hints: Hints, mlp: int) -> str:
    first = tensors.get("blocks.0.fc1.weight")
    if first is not None and first.shape[0] == 2 * mlp:
        return "swiglu"
    return hints.activation


def _heads(width: int, depth: int, mlp: int, activation: str) -> int:
    known = {numbers[:3]: numbers[3] for numbers in PRESETS.values()}
    if activation != "swiglu" and (width, depth, mlp) in known:
        return known[width, depth, mlp]
    if width % _WIDTH_OF_A_HEAD:
        raise CheckpointError(
            "the number of heads is not written in these weights",
            given=f"width {width}",
            do="Give it with --heads.",
        )
    return width // _WIDTH_OF_A_HEAD


def _positions(tensors: Mapping[str, Tensor], hints: Hints) -> str:
    if "positions" in tensors:
        return "learned"
    if hints.positions is not None:
        return hints.positions
    raise CheckpointError(
        "these weights hold no positions",
        do="Say what the model computes instead: --positions sincos2d, rope or none.",
    )


def _pooling(tensors: Mapping[str, Tensor], hints: Hints) -> str:
    if "pool.probe" in tensors:
        return "map"
    if "cls" not in tensors:
        return "gap"
    return hints.pooling or "cls"


def _biases(tensors: Mapping[str, Tensor]) -> str:
    if _any(tensors, "qkv.bias"):
        return "all"
    return "no-qkv" if _any(tensors, "out.bias") else "none"
