"""One decision per op, made once at start and printed: which implementation runs, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitscale.errors import ResourceError
from vitscale.ops.apex import ApexState, find_apex
from vitscale.ops.attention import explicit, sdpa

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class NormKind:
    """Which norm: "layer" or "rms", what is added to the variance, and whether there is a bias."""

    name: str = "layer"
    eps: float = 1e-6
    bias: bool = True


@dataclass(frozen=True)
class Ops:
    """The implementations a model is built with, and a line for each saying why."""

    norm: Callable[[int, NormKind], nn.Module]
    attention: Attention
    reasons: tuple[str, ...] = ()


def torch_norm(width: int, kind: NormKind) -> nn.Module:
    """LayerNorm or RMSNorm in plain torch; an RMSNorm has no bias."""
    if kind.name == "rms":
        return nn.RMSNorm(width, eps=kind.eps)
    return nn.LayerNorm(width, eps=kind.eps, bias=kind.bias)


PLAIN = Ops(torch_norm, sdpa)


def choose_ops(norm: str, attention: str, *, device: torch.device, dtype: torch.dtype) -> Ops:
    """Decide for this device and precision.

    Args:
        norm: auto, apex or torch.
        attention: auto, sdpa or explicit.
        device: where the model runs.
        dtype: of the activations.

    Raises:
        ResourceError: the implementation asked for cannot run here; says why.
    """
    norm_name, norm_why = _norm(norm, device, find_apex())
    attention_name, attention_why = _attention(attention, device, dtype)
    return Ops(
        norm=torch_norm if norm_name == "torch" else _apex_norm,
        attention=sdpa if attention_name == "sdpa" else explicit,
        reasons=(
            f"norm       {norm_name:<9} {norm_why}",
            f"attention  {attention_name:<9} {attention_why}",
        ),
    )


def _norm(wanted: str, device: torch.device, apex: ApexState) -> tuple[str, str]:
    if wanted == "torch":
        return "torch", "asked for"
    obstacles = list(_apex_norm_obstacles(device, apex))
    if wanted == "apex":
        if obstacles:
            raise ResourceError(f"ops.norm = 'apex' cannot run: {obstacles[0]}", where="ops.norm")
        return "apex", "asked for"
    return ("torch", obstacles[0]) if obstacles else ("apex", "fused CUDA kernel found")


def _apex_norm_obstacles(device: torch.device, apex: ApexState) -> Iterator[str]:
    if device.type != "cuda":
        yield f"apex has no {device.type} kernels"
    if not apex.has("fused_layer_norm_cuda"):
        yield apex.message


def _apex_norm(width: int, kind: NormKind) -> nn.Module:
    """apex's fused kernels; it has none for a LayerNorm with a weight and no bias, which torch does."""
    from apex.normalization import FusedLayerNorm, FusedRMSNorm

    if kind.name == "rms":
        return FusedRMSNorm(width, eps=kind.eps)
    return FusedLayerNorm(width, eps=kind.eps) if kind.bias else torch_norm(width, kind)


def _attention(wanted: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    if wanted != "auto":
        return wanted, "asked for"
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "explicit", "faster than the fused kernel in bf16 on a CPU"
    return "sdpa", f"fused attention of torch for {device.type}"
