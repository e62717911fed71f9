"""One encoder block. Letters: B images, N tokens, D width, H heads, F width of the MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitscale.ops.choice import Ops


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection (paper, equations 2 and 3)."""

    def __init__(self, width: int, heads: int, mlp: int, drop: Drop, ops: Ops) -> None:
        super().__init__()
        self.heads, self.drop, self.attention = heads, drop, ops.attention
        self.norm1 = ops.norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = ops.norm(width)
        self.fc1 = nn.Linear(width, mlp)
        self.fc2 = nn.Linear(mlp, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, N, D] to [B, N, D]."""
        tokens = tokens + self.drop.branch(self._attend(self.norm1(tokens)))
        return tokens + self.drop.branch(self._mlp(self.norm2(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        qkv_BNKHD = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv_BNKHD.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BND = self.attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        return self.drop(self.out(mixed_BND))

    def _mlp(self, tokens: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(tokens)))))


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
