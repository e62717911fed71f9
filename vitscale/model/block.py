"""One encoder block. Letters: B images, N tokens, D width, H heads, F width of the MLP."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitscale.config.model import Shape
from vitscale.model.position import Rotation, relative_bias, relative_entries, rotate
from vitscale.ops.attention import weights
from vitscale.ops.choice import NormKind, Ops


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection (arXiv 2010.11929, equations 2 and 3).

    With `parallel` both read the same norm and are added together (arXiv 2302.05442, section 2.1).
    """

    def __init__(self, shape: Shape, drop: Drop, ops: Ops) -> None:
        super().__init__()
        width, norm = shape.width, norms_of(shape, ops)
        self.shape, self.drop, self.attention = shape, drop, ops.attention
        self.norm1 = norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=shape.biases == "all")
        self.q_norm = norm(width // shape.heads) if shape.qk_norm else None
        self.k_norm = norm(width // shape.heads) if shape.qk_norm else None
        self.relative_bias = (
            nn.Parameter(torch.empty(relative_entries(shape.grid), shape.heads))
            if shape.positions == "relative"
            else None
        )
        self.out = nn.Linear(width, width, bias=shape.biases != "none")
        self.norm2 = None if shape.parallel else norm(width)
        self.fc1, self.fc2 = mlp_of(shape)
        scaled = shape.layer_scale is not None
        self.scale1 = nn.Parameter(torch.empty(width)) if scaled else None
        self.scale2 = nn.Parameter(torch.empty(width)) if scaled else None

    def forward(self, tokens: Tensor, rotation: Rotation | None = None) -> Tensor:
        """tokens [B, N, D] to [B, N, D]; `rotation` is that of their positions where the model has RoPE."""
        normed = self.norm1(tokens)
        attended = self.drop.branch(_scaled(self._attend(normed, rotation), self.scale1))
        if self.norm2 is None:
            return tokens + attended + self.drop.branch(_scaled(self._mlp(normed), self.scale2))
        tokens = tokens + attended
        return tokens + self.drop.branch(_scaled(self._mlp(self.norm2(tokens)), self.scale2))

    def attention_weights(self, tokens: Tensor, rotation: Rotation | None = None) -> Tensor:
        """What each token takes of every other in this block, float32 [B, H, N, N], for tokens [B, N, D]."""
        q, k, _ = self._heads(self.norm1(tokens), rotation)
        return weights(q, k, self._bias())

    def _attend(self, tokens: Tensor, rotation: Rotation | None) -> Tensor:
        q, k, v = self._heads(tokens, rotation)
        mixed_BND = self.attention(q, k, v, self._bias()).transpose(1, 2).reshape(tokens.shape)
        return self.drop(self.out(mixed_BND))

    def _heads(self, tokens: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        batch, count, width = tokens.shape
        heads = self.shape.heads
        qkv_BNKHD = self.qkv(tokens).view(batch, count, 3, heads, width // heads)
        q, k, v = qkv_BNKHD.permute(2, 0, 3, 1, 4).unbind(0)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def _bias(self) -> Tensor | None:
        if self.relative_bias is None:
            return None
        return relative_bias(self.relative_bias, self.shape.grid, self.shape.prefix)

    def _mlp(self, tokens: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(activate(self.fc1(tokens), self.shape.activation))))


def norms_of(shape: Shape, ops: Ops) -> Callable[[int], nn.Module]:
    """The norm of `shape` over any width."""
    kind = NormKind(shape.norm, shape.norm_eps, bias=shape.biases != "none")
    return lambda width: ops.norm(width, kind)


def mlp_of(shape: Shape) -> tuple[nn.Linear, nn.Linear]:
    """The two layers of an MLP; the first of SwiGLU holds the gate's matrix and then the values'."""
    hidden = shape.mlp * (2 if shape.activation == "swiglu" else 1)
    bias = shape.biases != "none"
    return nn.Linear(shape.width, hidden, bias), nn.Linear(shape.mlp, shape.width, bias)


def activate(hidden: Tensor, activation: str) -> Tensor:
    """[..., F], or [..., 2F] for SwiGLU, to [..., F]."""
    if activation == "swiglu":
        gate, value = hidden.chunk(2, dim=-1)
        return F.silu(gate) * value
    return F.gelu(hidden, approximate="tanh" if activation == "gelu-tanh" else "none")


def _scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
    return branch if scale is None else branch * scale


class Drop(nn.Module):
    """Dropout of single activations, and of whole residual branches (stochastic depth)."""

    def __init__(self, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.dropout, self.drop_path = dropout, drop_path

    def forward(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.dropout, self.training) if self.dropout else values

    def branch(self, values: Tensor) -> Tensor:
        """Drop the branch of each image [B, N, D] with probability `drop_path`, scale the kept ones."""
        if not self.drop_path or not self.training:
            return values
        keep = 1 - self.drop_path
        kept = torch.empty(values.shape[0], 1, 1, device=values.device).bernoulli_(keep)
        return values * (kept / keep).to(values.dtype)
