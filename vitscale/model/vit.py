"""The Vision Transformer. Letters: B images, P patches, N tokens, D width, K classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitscale.config.model import Shape
from vitscale.model.block import Block, Drop, norms_of
from vitscale.model.patch import PatchEmbed
from vitscale.model.pool import AttentionPool
from vitscale.model.position import Rotation, joined, rotation_of, sincos2d
from vitscale.ops.choice import PLAIN, Ops


class ViT(nn.Module):
    """ "An Image is Worth 16x16 Words" (arXiv 2010.11929), built from a `Shape`.

    Tokens are the CLS token, registers and patches, rows first. `run_block(block, tokens, rotation, read)` is how each
    block is called; the engine replaces it to recompute activations.
    """

    def __init__(self, shape: Shape, ops: Ops = PLAIN) -> None:
        super().__init__()
        self.shape, self.ops = shape, ops
        width = shape.width
        self.patch_embed = PatchEmbed(width, shape.patch, shape.stride, convolve=ops.convolves)
        self.cls = _tokens(1, width) if shape.cls_token else None
        self.registers = _tokens(shape.registers, width) if shape.registers else None
        learned, axes = shape.positions == "learned", shape.positions == "learned-2d"
        count = shape.tokens - shape.registers
        self.positions = _tokens(count, width) if learned else None
        self.row_positions = _tokens(shape.grid[0], width // 2) if axes else None
        self.column_positions = _tokens(shape.grid[1], width // 2) if axes else None
        self.drop = Drop(shape.dropout, 0.0)
        self.blocks = nn.ModuleList(self._block(index, ops) for index in range(shape.depth))
        self.norm = norms_of(shape, ops)(width)
        self.pool = AttentionPool(shape, ops) if shape.pooling == "map" else None
        self.representation = nn.Linear(width, width) if shape.representation else None
        self.head = nn.Linear(width, shape.classes)
        self.run_block: Callable[[nn.Module, Tensor, Rotation | None, int | None], Tensor] = _call

    def _block(self, index: int, ops: Ops) -> Block:
        drop_path = self.shape.drop_path * index / max(1, self.shape.depth - 1)
        return Block(self.shape, Drop(self.shape.dropout, drop_path), ops)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W], normalised as `data.mean` and `data.std` say, to logits [B, K] in the model's dtype."""
        return self.head(self.represent(images))

    def represent(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W], normalised, to what the head reads of them, [B, D].

        Of the last block nothing is computed that the head does not read.
        """
        tokens, rotation = self.embed(images)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = self.run_block(block, tokens, rotation, None)
        tokens = self.run_block(last, tokens, rotation, self.shape.read)
        return self._pooled(self.norm(tokens))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Named intermediates of a forward pass.

        Returns:
            `embedded` [B, N, D], `block00`.. [B, N, D], `encoded` [B, N, D], `pre_logits` [B, D],
            `logits` [B, K].
        """
        tokens, rotation = self.embed(images)
        named = {"embedded": tokens}
        for index, block in enumerate(self.blocks):
            tokens = named[f"block{index:02d}"] = self.run_block(block, tokens, rotation, None)
        named["encoded"] = self.norm(tokens)
        named["pre_logits"] = self._pooled(named["encoded"])
        named["logits"] = self.head(named["pre_logits"])
        return named

    def embed(self, images: Tensor) -> tuple[Tensor, Rotation | None]:
        """What the first block reads, [B, N, D], and the rotation of its queries and keys under RoPE.

        In training `shape.patch_drop` of the patches are left out, others for each image.
        """
        patches = self.patch_embed(images)
        prefix = [] if self.cls is None else [self.cls]
        if self.positions is not None:
            before = self.positions.shape[1] - patches.shape[1]
            prefix = [token + self.positions[:, :before] for token in prefix]
            patches = patches + self.positions[:, before:]
        elif (places := self._places(patches)) is not None:
            patches = patches + places
        if self.registers is not None:
            prefix.append(self.registers)
        rotation = self._rotation(patches)
        if self.training and self.shape.patch_drop:
            patches, rotation = self._thinned(patches, rotation)
        tokens = torch.cat(
            [*(token.expand(patches.shape[0], -1, -1) for token in prefix), patches], 1
        )
        return self.drop(tokens), rotation

    def _places(self, patches: Tensor) -> Tensor | None:
        """What is added to patches for their place, [1, P, D], where that is no table of their own."""
        if self.row_positions is not None and self.column_positions is not None:
            return joined(self.column_positions, self.row_positions)
        if self.shape.positions == "sincos2d":
            fixed = sincos2d(self.shape.grid, self.shape.width, patches.device)
            return fixed.to(patches.dtype)
        return None

    def _rotation(self, patches: Tensor) -> Rotation | None:
        shape = self.shape
        if shape.positions != "rope":
            return None
        head, at = shape.width // shape.heads, (patches.device, patches.dtype)
        return rotation_of(shape.grid, head, shape.rope_base, shape.prefix, *at)

    def _thinned(
        self, patches: Tensor, rotation: Rotation | None
    ) -> tuple[Tensor, Rotation | None]:
        """Some patches of each image [B, P, D] by chance, in their order, and their rotations."""
        batch, count, width = patches.shape
        order = torch.rand(batch, count, device=patches.device).argsort(dim=1)
        kept = order[:, : self.shape.kept_patches].sort(dim=1).values
        patches = patches.gather(1, kept[:, :, None].expand(-1, -1, width))
        if rotation is None:
            return patches, None
        first = torch.arange(self.shape.prefix, device=kept.device).expand(batch, -1)
        index = torch.cat([first, kept + self.shape.prefix], dim=1)
        cosines, sines = (table[0, 0][index][:, None] for table in rotation)
        return patches, (cosines, sines)

    def _pooled(self, encoded: Tensor) -> Tensor:
        """What the head reads: [B, D]."""
        if self.pool is not None:
            pooled = self.pool(encoded)
        elif self.shape.pooling == "cls":
            pooled = encoded[:, 0]
        else:
            pooled = encoded[:, self.shape.prefix :].mean(dim=1)
        return pooled if self.representation is None else torch.tanh(self.representation(pooled))


def _tokens(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, count, width))


def _call(block: nn.Module, tokens: Tensor, rotation: Rotation | None, read: int | None) -> Tensor:
    return block(tokens, rotation, read)
