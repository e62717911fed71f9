"""LayerNorm and RMSNorm, by torch, by NVIDIA apex or by our kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class NormKind:
    """Which norm: "layer" or "rms", what is added to the variance, and whether there is a bias."""

    name: str = "layer"
    eps: float = 1e-6
    bias: bool = True


def torch_norm(width: int, kind: NormKind) -> nn.Module:
    """LayerNorm or RMSNorm in plain torch; an RMSNorm has no bias."""
    if kind.name == "rms":
        return nn.RMSNorm(width, eps=kind.eps)
    return nn.LayerNorm(width, eps=kind.eps, bias=kind.bias)


def apex_norm(width: int, kind: NormKind) -> nn.Module:
    """apex's fused kernels; it has none for a LayerNorm with a weight and no bias."""
    from apex.normalization import FusedLayerNorm, FusedRMSNorm

    if kind.name == "rms":
        return FusedRMSNorm(width, eps=kind.eps)
    return FusedLayerNorm(width, eps=kind.eps) if kind.bias else torch_norm(width, kind)


def triton_norm(width: int, kind: NormKind) -> nn.Module:
    """Our kernel, which can take the residual addition before the norm along."""
    from vitscale.ops.kernels.add_norm import AddNorm

    rms = kind.name == "rms"
    return AddNorm(width, rms=rms, eps=kind.eps, bias=kind.bias and not rms)
