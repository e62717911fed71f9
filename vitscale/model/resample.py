"""Weights that depend on the grid or the patch size, for another grid or patch (paper, section 3.2).

Ways to resample a grid of positions:

| mode | is | as in |
|---|---|---|
| `bv-linear` | bilinear, corners held | `scipy.ndimage.zoom(order=1)`: the paper's code and big_vision |
| `timm-bicubic` | bicubic, antialiased, edges held | timm's `resample_abs_pos_embed` |
| `hf-bicubic` | bicubic, not antialiased | Hugging Face's `interpolate_pos_encoding` |
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitscale.model.position import Grid

Mode = Literal["bv-linear", "timm-bicubic", "hf-bicubic"]


def resample_positions(positions: Tensor, old: Grid, new: Grid, mode: Mode) -> Tensor:
    """Learned positions of another grid; those of tokens in front of the patches are kept.

    Args:
        positions: [1, prefix + old_h * old_w, D].
        old: grid (height, width) they belong to.
        new: grid wanted.
        mode: see the module.

    Returns:
        [1, prefix + new_h * new_w, D] in the dtype given; the same tensor if the grids are equal.
    """
    if old == new:
        return positions
    prefix = positions.shape[1] - old[0] * old[1]
    kept, grid = positions[:, :prefix], positions[:, prefix:]
    image = _resized(grid.reshape(*old, -1).permute(2, 0, 1), new, mode)
    return torch.cat([kept, image.permute(1, 2, 0).reshape(1, new[0] * new[1], -1)], dim=1)


def resample_axis(positions: Tensor, new: int, mode: Mode) -> Tensor:
    """Learned positions of one axis, [1, old, D] to [1, new, D]."""
    if positions.shape[1] == new:
        return positions
    return _resized(positions[0].T[:, :, None], (new, 1), mode)[:, :, 0].T[None]


def resample_relative(table: Tensor, old: Grid, new: Grid, mode: Mode) -> Tensor:
    """The table of relative biases, [entries, H], of another grid; its last three entries are kept."""
    if old == new:
        return table
    sizes = [(2 * height - 1, 2 * width - 1) for height, width in (old, new)]
    image = _resized(table[:-3].T.reshape(-1, *sizes[0]), sizes[1], mode)
    return torch.cat([image.flatten(1).T, table[-3:]])


def resample_patches(kernel: Tensor, patch: int) -> Tensor:
    """The projection [D, 3, p, p] for patches of another side: FlexiViT's resize (arXiv 2212.08013, section 3.3).

    Of all kernels for the new side it is the one whose answers to resized patches are nearest to the old kernel's;
    to enlarged patches they are the same. The resize is bilinear and antialiased, as in big_vision.
    """
    old = kernel.shape[-1]
    if old == patch:
        return kernel
    pixels = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    resized = F.interpolate(pixels, size=(patch, patch), mode="bilinear", antialias=True)
    inverse = torch.linalg.pinv(resized.view(old * old, patch * patch))
    flat = kernel.double().flatten(2) @ inverse.T
    return flat.view(*kernel.shape[:2], patch, patch).to(kernel.dtype)


def _resized(image: Tensor, size: Grid, mode: Mode) -> Tensor:
    """[D, h, w] to [D, *size] in the dtype given, computed in float32."""
    planes = image[None].float()
    if mode == "bv-linear":
        resized = F.interpolate(planes, size=size, mode="bilinear", align_corners=True)
    else:
        antialias = mode == "timm-bicubic"
        resized = F.interpolate(planes, size=size, mode="bicubic", antialias=antialias)
    return resized[0].to(image.dtype)
