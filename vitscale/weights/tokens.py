"""Which tokens have positions: ours are CLS and patches, others leave CLS out or give registers one as well.

CLS and its position are added before anything else happens to them, and so are registers and theirs; so an entry may
be folded into its token, and an absent one is zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitscale.config.model import Shape
from vitscale.errors import CheckpointError
from vitscale.model.position import joined, sincos2d
from vitscale.weights.format import Layout


def as_ours(
    tensors: dict[str, Tensor], image: tuple[int, int] | None, patch: int
) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """Tensors with positions for CLS and patches, and the image size that these stand for (None without positions).

    Args:
        tensors: ours by name, positions as they came.
        image: height and width in pixels where they are known; else the grid is taken for a square.
        patch: side of a patch in pixels.

    Raises:
        CheckpointError: the number of positions fits no grid.
    """
    if "positions" not in tensors:
        return tensors, None
    positions = tensors["positions"]
    positions = positions if positions.ndim == 3 else positions[None]
    cls = int("cls" in tensors)
    registers = tensors["registers"].shape[1] if "registers" in tensors else 0
    grid, prefix = _grid(positions.shape[1], cls, registers, image, patch)
    own, patches = positions[:, :prefix], positions[:, prefix:]
    made = dict(tensors)
    if prefix > cls:
        made["registers"] = tensors["registers"] + own[:, cls:]
    first = own[:, :cls] if prefix else torch.zeros_like(patches[:, :cls])
    made["positions"] = torch.cat([first, patches], dim=1)
    return made, (grid[0] * patch, grid[1] * patch)


def _grid(
    count: int, cls: int, registers: int, image: tuple[int, int] | None, patch: int
) -> tuple[tuple[int, int], int]:
    """The grid, and how many of `count` positions stand before it."""
    choices = list(dict.fromkeys((cls, 0, cls + registers)))
    for prefix in choices:
        side = math.isqrt(max(0, count - prefix))
        grid = (side, side) if image is None else (image[0] // patch, image[1] // patch)
        if grid[0] * grid[1] == count - prefix and grid[0]:
            return grid, prefix
    if image is not None and image[0] == image[1]:
        return _grid(count, cls, registers, None, patch)  # made for a size the config does not say
    raise CheckpointError(
        f"{count} positions are no grid of patches",
        where="positions",
        given=f"{patch} px patches, image {image or 'square'}",
        do="Give the size the weights were made for: --source-px HEIGHTxWIDTH.",
    )


def laid_out(tensors: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The reverse: positions for the tokens that a format has them for."""
    if "positions" not in tensors:
        return tensors
    cls = int("cls" in tensors)
    positions = tensors["positions"]
    first, patches = positions[:, :cls], positions[:, cls:]
    made = dict(tensors)
    if layout == "patches":
        if first.any():
            made["cls"] = tensors["cls"] + first
        first = first[:, :0]
    elif layout == "all" and "registers" in tensors:
        first = torch.cat([first, torch.zeros_like(tensors["registers"])], dim=1)
    made["positions"] = torch.cat([first, patches], dim=1)
    return made


def written_down(tensors: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Positions that follow from the grid, or from rows and columns, as a learned table [1, N, D]."""
    if shape.positions == "sincos2d":
        places = sincos2d(shape.grid, shape.width, torch.device("cpu"))
    elif shape.positions == "learned-2d":
        places = joined(tensors["column_positions"], tensors["row_positions"])
    else:
        return tensors
    cls = torch.zeros(1, int(bool(shape.cls_token)), shape.width)
    kept = {n: t for n, t in tensors.items() if n not in ("row_positions", "column_positions")}
    return kept | {"positions": torch.cat([cls, places], dim=1)}
