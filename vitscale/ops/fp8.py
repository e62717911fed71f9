"""Products in fp8 by torchao, in training. Letters: D inputs, F outputs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitscale.config.ops import too_old_for
from vitscale.ops.linear import Linear, by_rows

LEAST_TORCHAO = (0, 18)


def fp8_linear(scaling: str) -> Linear:
    """Layers whose three products, forward and backward, are in fp8 in training; weights and gradients are not.

    In evaluation mode they are `Dense`, so a score does not depend on what an image shares its scales with.

    Each factor of a product is scaled to the range of fp8 by its largest magnitude, found anew each time, and rounded;
    the product, with float32 sums, is scaled back. Formats: arXiv 2209.05433.

    Args:
        scaling: torchao's recipe. "tensorwise": a scale a tensor, e4m3, gradients e5m2. "rowwise": a scale for each row
            and column, a power of two, e4m3 throughout.
    """
    return partial(_fp8, scaling)


def _fp8(scaling: str, inputs: int, outputs: int, bias: bool) -> nn.Linear:
    config = _torchao().Float8LinearConfig.from_recipe_name(scaling)
    return _fp8_layers().from_float(nn.Linear(inputs, outputs, bias), config)


@cache
def _fp8_layers() -> Any:
    """Our class of layers over torchao's, which converting one layer gives; that also mends Triton's code for fp8."""
    converted: Any = type(_torchao().convert_to_float8_training(nn.Linear(16, 16)))

    class Fp8Dense(converted):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if self.training else by_rows(F.linear, self, input)

    return Fp8Dense


def fp8_obstacle(linear: str, device: torch.device) -> str:
    """What stands against this value of `config.ops.FP8` here, or nothing."""
    if device.type != "cuda":
        return f"fp8 products gain nothing on a {device.type}"
    if problem := _torchao_problem():
        return f"{problem}: pip install 'vitscale[fp8]'"
    return too_old_for(linear, torch.cuda.get_device_capability(device))


def _torchao_problem() -> str:
    try:
        version = metadata.version("torchao")
    except metadata.PackageNotFoundError:
        return "torchao is not installed"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < LEAST_TORCHAO:
        return f"torchao {version} is older than {'.'.join(map(str, LEAST_TORCHAO))}"
    return ""


@cache
def _torchao() -> Any:
    """torchao.float8, without what it logs of libraries and registrations that these products do not need."""
    with _only_errors("torchao", "torch.utils._pytree"):
        from torchao import float8
    return float8


@contextmanager
def _only_errors(*names: str) -> Iterator[None]:
    logs = [logging.getLogger(name) for name in names]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
