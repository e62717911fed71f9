"""Resample learned positions to another grid, as fine-tuning at a higher resolution does (paper, 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate grid positions bilinearly with the corners held; prefix tokens are kept.

    Corners held (`align_corners`) is what `scipy.ndimage.zoom(order=1)` does, the paper's own code.

    Args:
        positions: [1, prefix + old_h * old_w, D]; the prefix is the CLS token's position or empty.
        old: grid (height, width) the positions belong to.
        new: grid wanted.

    Returns:
        [1, prefix + new_h * new_w, D] in the dtype given.
    """
    if old == new:
        return positions
    prefix = positions.shape[1] - old[0] * old[1]
    kept, grid = positions[:, :prefix], positions[:, prefix:]
    image = grid.reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    resized = F.interpolate(image, size=new, mode="bilinear", align_corners=True)
    tokens = resized.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return torch.cat([kept, tokens.to(positions.dtype)], dim=1)
