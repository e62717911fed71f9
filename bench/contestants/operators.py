"""Beside a CPU build of torch, torchvision misses two operators that it describes itself, and cannot be imported."""

from __future__ import annotations

import torch

_kept: list[torch.library.Library] = []  # what they declare lives as long as they do


def declare_missing() -> None:
    """Declare them, so that torchvision (and timm, which needs it) can be imported; once, before it is.

    A CUDA build of torch has them.
    """
    if _kept or torch.version.cuda:
        return
    operators = torch.library.Library("torchvision", "DEF")
    for name in (
        "nms(Tensor a, Tensor b, float c) -> Tensor",
        "qnms(Tensor a, Tensor b, float c) -> Tensor",
    ):
        operators.define(name)
    _kept.append(operators)
