"""The Vision Transformer. Letters: B images, P patches, N tokens, D width, K classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitscale.config.model import Shape
from vitscale.model.block import Block, Drop
from vitscale.model.patch import PatchEmbed
from vitscale.ops.choice import PLAIN, Ops


class ViT(nn.Module):
    """ "An Image is Worth 16x16 Words" (arXiv 2010.11929), built from a `Shape`.

    `run_block(block, tokens)` is how each block is called; the engine replaces it to recompute activations.
    """

    def __init__(self, shape: Shape, ops: Ops = PLAIN) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.patch_embed = PatchEmbed(width, shape.patch, shape.stride)
        self.cls = nn.Parameter(torch.empty(1, 1, width)) if shape.pooling == "cls" else None
        learned = shape.positions == "learned"
        self.positions = nn.Parameter(torch.empty(1, shape.tokens, width)) if learned else None
        self.drop = Drop(shape.dropout, 0.0)
        self.blocks = nn.ModuleList(self._block(index, ops) for index in range(shape.depth))
        self.norm = ops.norm(width)
        self.representation = nn.Linear(width, width) if shape.representation else None
        self.head = nn.Linear(width, shape.classes)
        self.run_block: Callable[[nn.Module, Tensor], Tensor] = _call

    def _block(self, index: int, ops: Ops) -> Block:
        shape = self.shape
        drop_path = shape.drop_path * index / max(1, shape.depth - 1)
        return Block(shape.width, shape.heads, shape.mlp, Drop(shape.dropout, drop_path), ops)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in [-1, 1] to logits [B, K] in the model's dtype."""
        tokens = self._embed(images)
        for block in self.blocks:
            tokens = self.run_block(block, tokens)
        return self.head(self._represent(self.norm(tokens)))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Named intermediates of a forward pass.

        Returns:
            `embedded` [B, N, D], `block00`.. [B, N, D], `encoded` [B, N, D], `pre_logits` [B, D],
            `logits` [B, K].
        """
        named = {"embedded": self._embed(images)}
        tokens = named["embedded"]
        for index, block in enumerate(self.blocks):
            tokens = named[f"block{index:02d}"] = self.run_block(block, tokens)
        named["encoded"] = self.norm(tokens)
        named["pre_logits"] = self._represent(named["encoded"])
        named["logits"] = self.head(named["pre_logits"])
        return named

    def _embed(self, images: Tensor) -> Tensor:
        """Patch tokens with CLS in front and positions added: [B, N, D]."""
        tokens = self.patch_embed(images)
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.positions is not None:
            tokens = tokens + self.positions
        return self.drop(tokens)

    def _represent(self, encoded: Tensor) -> Tensor:
        """What the head reads: [B, D]."""
        pooled = encoded[:, 0] if self.shape.pooling == "cls" else encoded.mean(dim=1)
        return (
            torch.tanh(self.representation(pooled)) if self.representation is not None else pooled
        )


def _call(block: nn.Module, tokens: Tensor) -> Tensor:
    return block(tokens)
