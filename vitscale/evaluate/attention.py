"""Where a model looks. Letters: B images, N tokens, H heads, h x w the grid of patches."""

from __future__ import annotations

import torch
from torch import Tensor

from vitscale.model.block import Block
from vitscale.model.vit import ViT


@torch.no_grad()
def rollout(model: ViT, images: Tensor) -> Tensor:
    """How much each patch takes part in what is pooled, by attention rollout (arXiv 2005.00928, section 3).

    Every block's attention is averaged over heads and with the identity, for the residual connection, and the blocks
    are multiplied. Of the product the row of the CLS token is taken, or the mean over the patches' rows.

    Args:
        model: in evaluation.
        images: [B, 3, H, W], normalised.

    Returns:
        float32 [B, h, w]; with what CLS and registers keep it adds up to 1 for each image.
    """
    tokens, rotation = model.embed(images)
    product = torch.eye(tokens.shape[1], device=tokens.device).expand(len(tokens), -1, -1)
    for block in model.blocks:
        assert isinstance(block, Block)
        weights = block.attention_weights(tokens, rotation).mean(dim=1)
        product = (weights @ product + product) / 2
        tokens = block(tokens, rotation)
    shape = model.shape
    pooled = product[:, 0] if shape.pooling == "cls" else product[:, shape.prefix :].mean(dim=1)
    return pooled[:, shape.prefix :].unflatten(1, shape.grid)


@torch.no_grad()
def position_similarity(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosine between the position encodings of any two patches (arXiv 2010.11929, figure 7).

    Args:
        positions: [1, prefix + h w, D], as a model with learned positions keeps them.
        grid: h and w.

    Returns:
        [h, w, h, w], between -1 and 1.
    """
    patches = positions[0, positions.shape[1] - grid[0] * grid[1] :].float()
    unit = torch.nn.functional.normalize(patches, dim=1)
    return (unit @ unit.T).view(*grid, *grid)
