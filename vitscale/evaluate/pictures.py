"""Pictures of what a ViT is made of: its patches, its positions, where it looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitscale.config.preprocessing import PLAIN, Preprocessing
from vitscale.data.augment import center_boxes
from vitscale.data.device import normalise
from vitscale.data.image_headers import read_header
from vitscale.data.pixels import choose_decoder
from vitscale.evaluate.attention import position_similarity, rollout
from vitscale.model.vit import ViT


def look(model: ViT, files: Sequence[Path], to: Path, pixels: Preprocessing = PLAIN) -> list[Path]:
    """Draw what can be drawn of `model` into the folder `to`: patches and rollout of image files, positions.

    `pixels` has the mean and spread that the model takes.

    Returns:
        The pictures made; positions only where they are learned one by one.

    Raises:
        BadImage: a file cannot be decoded.
    """
    to.mkdir(parents=True, exist_ok=True)
    images = np.stack([view_of(file, model.shape.image) for file in files])
    made = []
    if model.positions is not None:
        made.append(draw_positions(model.positions, model.shape.grid, to / "positions.png"))
    made.append(draw_patches(images[0], model.shape.patch, model.shape.stride, to / "patches.png"))
    made.append(draw_rollout(model, images, to / "rollout.png", pixels))
    return made


def view_of(file: Path, size: tuple[int, int]) -> np.ndarray:
    """The largest central part of an image file that has the aspect of `size`, uint8 [H, W, 3]."""
    data = file.read_bytes()
    header = read_header(data)
    box = center_boxes(np.array([(header.width, header.height)], np.int32), size)[0].tolist()
    view = np.empty((*size, 3), np.uint8)
    choose_decoder("auto").view(data, view, box, False, shrink=False)
    return view


def draw_patches(image: np.ndarray, patch: int, stride: int, to: Path) -> Path:
    """The patches of one image, uint8 [H, W, 3], in the order of the tokens, set apart."""
    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)
    cut = planes.unfold(1, patch, stride).unfold(2, patch, stride)  # [3, h, w, p, p]
    rows, columns = cut.shape[1:3]
    figure, axes = _canvas(rows, columns, rows / columns * 5)
    for (i, j), each in np.ndenumerate(axes):
        each.imshow(cut[:, i, j].permute(1, 2, 0).numpy())
    figure.suptitle(f"{rows} x {columns} patches of {patch} px, one every {stride} px", fontsize=10)
    return _saved(figure, to)


def draw_positions(positions: Tensor, grid: tuple[int, int], to: Path) -> Path:
    """For each patch the cosine of its position with all others, as a map (arXiv 2010.11929, figure 7)."""
    similarity = position_similarity(positions.detach(), grid)
    figure, axes = _canvas(*grid, grid[0] / grid[1] * 5)
    shown = None
    for (i, j), each in np.ndenumerate(axes):
        shown = each.imshow(similarity[i, j].numpy(), vmin=-1, vmax=1, cmap="viridis")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="cosine")
    figure.suptitle("likeness of each patch's position to all others", fontsize=10)
    return _saved(figure, to)


def draw_rollout(model: ViT, images: np.ndarray, to: Path, pixels: Preprocessing = PLAIN) -> Path:
    """Images uint8 [B, H, W, 3], and below each what share every patch has in what is pooled."""
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    maps = rollout(model.eval(), normalise(planes, "cpu", torch.float32, pixels.mean, pixels.std))
    figure, axes = _canvas(2, len(images), 1.9 * 2, width=1.9 * len(images))
    for column, (image, shares) in enumerate(zip(images, maps, strict=True)):
        axes[0, column].imshow(image)
        axes[1, column].imshow(image)
        axes[1, column].imshow(
            shares.numpy(), extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5),
            cmap="inferno", alpha=0.65, interpolation="bilinear",
        )  # fmt: skip
    figure.suptitle("images, and the patches that count by attention rollout", fontsize=10)
    return _saved(figure, to)


def _canvas(rows: int, columns: int, height: float, width: float = 5) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    return figure, axes


def _saved(figure: Any, to: Path) -> Path:
    figure.savefig(to, dpi=110, format="png")
    return to
