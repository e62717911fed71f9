"""One encoder block. Letters: B images, N tokens, D width, H heads, F width of the MLP."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitscale.config.model import Shape
from vitscale.model.position import Rotation, relative_bias, relative_entries, rotate
from vitscale.ops.attention import weights
from vitscale.ops.choice import Ops
from vitscale.ops.linear import Dense, Linear
from vitscale.ops.mlp import FusedMlp, activate
from vitscale.ops.norm import NormKind


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection (arXiv 2010.11929, equations 2 and 3).

    With `parallel` both read the same norm and are added together (arXiv 2302.05442, section 2.1).

    `residual` adds a branch to the tokens and normalises the sum for the next branch, so that one kernel can do both.
    """

    def __init__(self, shape: Shape, drop: Drop, ops: Ops) -> None:
        super().__init__()
        width, norm = shape.width, norms_of(shape, ops)
        self.shape, self.drop = shape, drop
        self.attention, self.residual = ops.attention, ops.residual
        self.norm1 = norm(width)
        self.qkv = ops.linear(width, 3 * width, shape.biases == "all")
        self.q_norm = norm(width // shape.heads) if shape.qk_norm else None
        self.k_norm = norm(width // shape.heads) if shape.qk_norm else None
        self.relative_bias = (
            nn.Parameter(torch.empty(relative_entries(shape.grid), shape.heads))
            if shape.positions == "relative"
            else None
        )
        self.out = ops.linear(width, width, shape.biases != "none")
        self.norm2 = None if shape.parallel else norm(width)
        self.fused = ops.mlp if fuses_mlp(shape) else None
        self.fc1, self.fc2 = mlp_of(shape, ops.linear, self.fused)
        scaled = shape.layer_scale is not None
        self.scale1 = nn.Parameter(torch.empty(width)) if scaled else None
        self.scale2 = nn.Parameter(torch.empty(width)) if scaled else None
        self.compute = torch.compile(self._compute) if ops.compiles else self._compute

    def forward(
        self, tokens: Tensor, rotation: Rotation | None = None, read: int | None = None
    ) -> Tensor:
        """tokens [B, N, D] to [B, N, D]; `rotation` is that of their positions where the model has RoPE.

        Where nothing but the first `read` tokens is read of the block, the rest is not computed: [B, read, D].
        """
        return self.compute(tokens, rotation, read, self.drop.kept(tokens), self.drop.kept(tokens))

    def _compute(
        self,
        tokens: Tensor,
        rotation: Rotation | None,
        read: int | None,
        kept1: Tensor | None,
        kept2: Tensor | None,
    ) -> Tensor:
        """A block with what is kept of its two branches, [B, 1, 1]; the same code for all blocks of a model."""
        normed = self.norm1(tokens)
        attended = self._attend(normed, rotation, read)
        if read is not None:
            tokens, normed = tokens[:, :read], normed[:, :read]
        tokens, again = self.residual(tokens, attended, self.scale1, kept1, self.norm2)
        update = self._mlp(normed if again is None else again)
        return self.residual(tokens, update, self.scale2, kept2, None)[0]

    def attention_weights(self, tokens: Tensor, rotation: Rotation | None = None) -> Tensor:
        """What each token takes of every other in this block, float32 [B, H, N, N], for tokens [B, N, D]."""
        q, k, _ = self._heads(self.norm1(tokens), rotation, None)
        return weights(q, k, self._bias())

    def _attend(self, tokens: Tensor, rotation: Rotation | None, read: int | None) -> Tensor:
        q, k, v = self._heads(tokens, rotation, read)
        bias = self._bias()
        if bias is not None and read is not None:
            bias = bias[:, :, :read]
        mixed_BNHD = self.attention(q, k, v, bias).transpose(1, 2)
        return self.drop(self.out(mixed_BNHD.flatten(2)))

    def _heads(
        self, tokens: Tensor, rotation: Rotation | None, read: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, count, width = tokens.shape
        heads = self.shape.heads
        qkv_BNKHD = self.qkv(tokens).view(batch, count, 3, heads, width // heads)
        q, k, v = (each.transpose(1, 2) for each in qkv_BNKHD.unbind(2))
        if read is not None:
            q = q[:, :, :read]
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
        if self.fused is not None:
            return self.fc2(*self.fc1(tokens)).view(tokens.shape)
        hidden = activate(self.fc1(tokens), self.shape.activation)
        return self.drop(self.fc2(self.drop(hidden)))


def norms_of(shape: Shape, ops: Ops) -> Callable[[int], nn.Module]:
    """The norm of `shape` over any width."""
    kind = NormKind(shape.norm, shape.norm_eps, bias=shape.biases != "none")
    return lambda width: ops.norm(width, kind)


def fuses_mlp(shape: Shape) -> bool:
    """Whether bias and GELU can be one kernel: nothing may stand between the activation and the next matrix."""
    return shape.activation != "swiglu" and not shape.dropout


def mlp_of(
    shape: Shape, linear: Linear = Dense, fused: FusedMlp | None = None
) -> tuple[nn.Linear, nn.Linear]:
    """The two layers of an MLP; the first of SwiGLU holds the gate's matrix and then the values'."""
    bias = shape.biases != "none"
    if fused is not None:
        return fused(shape.width, shape.mlp, bias, shape.activation == "gelu-tanh")
    hidden = shape.mlp * (2 if shape.activation == "swiglu" else 1)
    return linear(shape.width, hidden, bias), linear(shape.mlp, shape.width, bias)


class Drop(nn.Module):
    """Dropout of single activations, and of whole residual branches (stochastic depth)."""

    def __init__(self, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.dropout, self.drop_path = dropout, drop_path

    def forward(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.dropout, self.training) if self.dropout else values

    def kept(self, tokens: Tensor) -> Tensor | None:
        """What the branch of each image [B, N, D] is multiplied by, [B, 1, 1], or None where nothing is dropped.

        It is 0 with probability `drop_path`, else 1 / (1 - drop_path).
        """
        if not self.drop_path or not self.training:
            return None
        keep = 1 - self.drop_path
        kept = torch.empty(tokens.shape[0], 1, 1, device=tokens.device).bernoulli_(keep)
        return (kept / keep).to(tokens.dtype)
