"""Softmax attention over all tokens. Letters: B images, H heads, N tokens, M keys, D width of a head.

`bias` [B or 1, H, N, M], where there is one, is added to the scores before the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitscale.ops.operator import operator


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's fused attention; q and the result are [B, H, N, D], k and v [B, H, M, D]."""
    return F.scaled_dot_product_attention(q, k, v, bias)


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Matrix products and a softmax; the plain twin of `sdpa`, same shapes.

    In bf16 on a CPU it is more than twice as fast as the fused kernel (docs/kernels.md). For the backward pass it keeps
    the weights of the attention: 2 H M bytes a token in bf16, which `sdpa` does not.
    """
    return _Explicit.apply(q, k, v, bias)  # pyright: ignore[reportReturnType] untyped in torch


def weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """What each token takes of every other, float32 [B, H, N, M]; rows add up to 1."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return torch.softmax(scores if bias is None else scores + bias, dim=-1, dtype=torch.float32)


class _Explicit(torch.autograd.Function):
    """The two operators below, joined by what the first keeps for the second."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (each.contiguous() for each in (q, k, v))  # once, for both directions
        mixed, taken = explicit_attention(q, k, v, bias)
        ctx.save_for_backward(q, k, v, taken)
        ctx.bias = None if bias is None else bias.shape
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dq, dk, dv, scores = explicit_attention_backward(gradients[0], *ctx.saved_tensors)
        return dq, dk, dv, None if ctx.bias is None else scores.sum_to_size(ctx.bias)


def _attention_meta(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    return q.new_empty(q.shape), q.new_empty(*q.shape[:3], k.shape[2])


@operator(
    "explicit_attention(Tensor q, Tensor k, Tensor v, Tensor? bias) -> (Tensor, Tensor)",
    _attention_meta,
)
def explicit_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The mixed values [B, H, N, D], and what each token takes of every other, [B, H, N, M]; both in q's dtype.

    Scores are rounded to that dtype; the softmax works in float32 inside.
    """
    queries, keys, values = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    scores = _scaled(queries, keys.mT, q.shape[-1] ** -0.5)
    taken = scores.view(*q.shape[:3], k.shape[2])
    taken = torch.softmax(taken if bias is None else taken.add_(bias), dim=-1)
    return torch.bmm(taken.flatten(0, 1), values).view(q.shape), taken


def _attention_backward_meta(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, taken: Tensor
) -> tuple[Tensor, ...]:
    return *(t.new_empty(t.shape) for t in (q, k, v)), taken.new_empty(taken.shape)


@operator(
    "explicit_attention_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor taken)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _attention_backward_meta,
)
def explicit_attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, taken: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v and of the scores, from that of the mixed values [B, H, N, D]."""
    given, queries, keys, values, shares = (t.flatten(0, 1) for t in (gradient, q, k, v, taken))
    scale = q.shape[-1] ** -0.5
    dv = torch.bmm(shares.mT, given)
    slopes = torch.bmm(given, values.mT)
    scores = torch.ops.aten._softmax_backward_data(slopes, shares, -1, q.dtype)
    dq = _scaled(scores, keys, scale)
    dk = _scaled(scores.mT, queries, scale)
    return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape), scores.view(taken.shape)


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale a @ b, [G, N, K] from [G, N, M] and [G, M, K], rounded once."""
    product = a.new_empty(*a.shape[:2], b.shape[2])
    return torch.baddbmm(product, a, b, beta=0, alpha=scale, out=product)
