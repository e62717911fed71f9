"""Softmax attention over all tokens. Letters: B images, H heads, N tokens, M keys, D width of a head.

`bias` [B or 1, H, N, M], where there is one, is added to the scores before the softmax.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's fused attention; q and the result are [B, H, N, D], k and v [B, H, M, D]."""
    return F.scaled_dot_product_attention(q, k, v, bias)


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Two matrix products and a softmax in float32; the plain twin of `sdpa`, same shapes.

    In bf16 on a CPU the fused kernel is 2.5 times slower than this at 197 tokens (docs/log.md).
    """
    return weights(q, k, bias).to(v.dtype) @ v


def weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """What each token takes of every other, float32 [B, H, N, M]; rows add up to 1."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return torch.softmax(scores if bias is None else scores + bias, dim=-1, dtype=torch.float32)
