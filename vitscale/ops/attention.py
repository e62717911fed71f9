"""Softmax attention over all tokens, no mask. Letters: B images, H heads, N tokens, D width of a head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's fused attention; q, k, v and the result are [B, H, N, D]."""
    return F.scaled_dot_product_attention(q, k, v)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two matrix products and a softmax in float32; the plain twin of `sdpa`, same shapes.

    In bf16 on a CPU the fused kernel is 2.5 times slower than this at 197 tokens (docs/log.md).
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v
