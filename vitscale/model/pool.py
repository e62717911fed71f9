"""From encoded tokens to what the head reads. Letters: B images, N tokens, D width, H heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitscale.config.model import Shape
from vitscale.model.block import mlp_of, norms_of
from vitscale.ops.choice import Ops
from vitscale.ops.mlp import activate


class AttentionPool(nn.Module):
    """One learned query attends to all tokens, then an MLP with a residual ("MAP", arXiv 2106.04560, section 3.3)."""

    def __init__(self, shape: Shape, ops: Ops) -> None:
        super().__init__()
        width, bias = shape.width, shape.biases == "all"
        self.shape, self.attention = shape, ops.attention
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.q = nn.Linear(width, width, bias)
        self.kv = nn.Linear(width, 2 * width, bias)
        self.out = nn.Linear(width, width, shape.biases != "none")
        self.norm = norms_of(shape, ops)(width)
        self.fc1, self.fc2 = mlp_of(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, N, D] to [B, D]."""
        batch, count, width = tokens.shape
        heads = self.shape.heads
        q = self.q(self.probe).expand(batch, -1, -1).view(batch, 1, heads, -1).transpose(1, 2)
        kv_BNKHD = self.kv(tokens).view(batch, count, 2, heads, width // heads)
        k, v = (each.transpose(1, 2) for each in kv_BNKHD.unbind(2))
        pooled = self.out(self.attention(q, k, v, None).reshape(batch, width))
        return pooled + self.fc2(activate(self.fc1(self.norm(pooled)), self.shape.activation))
