"""Between the two matrices of an MLP. Letters: D width, F width of the MLP."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

FusedMlp = Callable[[int, int, bool, bool], tuple[nn.Linear, nn.Linear]]
"""(D, F, has biases, GELU by tanh) to two layers; the second does GELU, with the bias that the first hands it."""


def activate(hidden: Tensor, activation: str) -> Tensor:
    """[..., F], or [..., 2F] for SwiGLU, to [..., F]."""
    if activation == "swiglu":
        gate, value = hidden.chunk(2, dim=-1)
        return F.silu(gate) * value
    return F.gelu(hidden, approximate="tanh" if activation == "gelu-tanh" else "none")


def triton_mlp(width: int, hidden: int, bias: bool, tanh: bool) -> tuple[nn.Linear, nn.Linear]:
    """Our kernel for bias and GELU; the backward pass computes GELU again instead of keeping it."""
    from vitscale.ops.kernels.bias_gelu import GeluDense, OpenDense

    return OpenDense(width, hidden, bias), GeluDense(hidden, width, bias, tanh)
