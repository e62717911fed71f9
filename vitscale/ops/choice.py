"""One decision per op, made once at start and printed: which implementation runs, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitscale.errors import ResourceError
from vitscale.ops.apex import ApexState, find_apex
from vitscale.ops.attention import explicit, sdpa

LAYER_NORM_EPS = 1e-6  # the paper's code (vit_jax/models_vit.py) and all its checkpoints

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Ops:
    """The implementations a model is built with, and a line for each saying why."""

    norm: Callable[[int], nn.Module]
    attention: Attention
    reasons: tuple[str, ...] = ()


def torch_norm(width: int) -> nn.Module:
    """LayerNorm in plain torch."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPS)


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


def _apex_norm(width: int) -> nn.Module:
    from apex.normalization import FusedLayerNorm

    return FusedLayerNorm(width, eps=LAYER_NORM_EPS)


def _attention(wanted: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    if wanted != "auto":
        return wanted, "asked for"
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "explicit", "faster than the fused kernel in bf16 on a CPU"
    return "sdpa", f"fused attention of torch for {device.type}"
