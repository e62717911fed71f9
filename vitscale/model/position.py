"""Where a patch is: position encodings that are no plain parameter. Letters: D width, h x w the grid of patches.

Tables are pure functions of grid and width, made when first used on a device, so a model needs no buffers for them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, int]
Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each [1 or B, 1, N, width of a head]; 1 and 0 for tokens that are not patches."""


@lru_cache(maxsize=16)
def sincos2d(grid: Grid, width: int, device: torch.device) -> Tensor:
    """Fixed sines and cosines of column and row, float32 [1, h w, D] (arXiv 2104.02057; big_vision `posemb_sincos_2d`).

    sin(x w), cos(x w), sin(y w), cos(y w), each of D / 4 frequencies w from 1 to 1 / 10000.
    """
    quarter = width // 4
    power = torch.arange(quarter, dtype=torch.float64) / max(1, quarter - 1)
    frequencies = 10_000.0**-power
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    x, y = columns[:, None] * frequencies, rows[:, None] * frequencies
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)[None].float().to(device)


def joined(columns: Tensor, rows: Tensor) -> Tensor:
    """Learned 2-D positions [1, h w, D] of column halves [1, w, D/2] and row halves [1, h, D/2] (paper, D.4)."""
    height, width = rows.shape[1], columns.shape[1]
    x = columns[:, None].expand(-1, height, -1, -1)
    y = rows[:, :, None].expand(-1, -1, width, -1)
    return torch.cat([x, y], dim=-1).flatten(1, 2)


@lru_cache(maxsize=16)
def rotation_of(
    grid: Grid, head: int, base: float, prefix: int, device: torch.device, dtype: torch.dtype
) -> Rotation:
    """Axial RoPE as in DINOv3 (arXiv 2508.10104): angles of a patch's centre, rows in the first half of a head.

    Centres are coordinates in [-1, 1] on both axes, so a model keeps its angles at another resolution. Of `head`
    numbers a quarter turns with each of head / 4 periods base^(4 i / head), once for rows and once for columns.
    """
    periods = rotation_periods(head, base)
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1 for n in grid]
    rows = axes[0].repeat_interleave(grid[1])
    columns = axes[1].repeat(grid[0])
    turns = torch.cat([rows[:, None] / periods, columns[:, None] / periods], dim=1)
    angles = torch.cat([torch.zeros(prefix, head // 2, dtype=torch.float64), turns]).tile(1, 2)
    angles = (2 * math.pi * angles)[None, None]
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def rotation_periods(head: int, base: float) -> Tensor:
    """The periods of RoPE for heads of this width, base^(4 i / head): float64 [head / 4], on the CPU."""
    return base ** (torch.arange(head // 4, dtype=torch.float64) * 4 / head)


def rotate(values: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys of the first n tokens, [B, H, n, d], by the angles of their patches."""
    cosines, sines = (table[:, :, : values.shape[2]] for table in rotation)
    first, second = values.chunk(2, dim=-1)
    return values * cosines + torch.cat([-second, first], dim=-1) * sines


def relative_entries(grid: Grid) -> int:
    """Offsets between two patches, and three more: to, from and between the tokens that are no patches."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def relative_bias(table: Tensor, grid: Grid, prefix: int) -> Tensor:
    """What is added to the scores of each head, [1, H, N, N], from one learned entry an offset, [entries, H].

    As in BEiT (arXiv 2106.08254).
    """
    count = prefix + grid[0] * grid[1]
    index = _offsets(grid, prefix, table.device)
    return table[index].view(count, count, -1).permute(2, 0, 1)[None]


@lru_cache(maxsize=16)
def _offsets(grid: Grid, prefix: int, device: torch.device) -> Tensor:
    """The entry of each pair (query, key), int64 [N N]."""
    height, width = grid
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    down = rows[:, None] - rows[None] + height - 1
    right = columns[:, None] - columns[None] + width - 1
    last = relative_entries(grid)
    index = torch.full((prefix + height * width,) * 2, last - 1)
    index[:prefix, prefix:] = last - 3
    index[prefix:, :prefix] = last - 2
    index[prefix:, prefix:] = down * (2 * width - 1) + right
    return index.flatten().to(device)
