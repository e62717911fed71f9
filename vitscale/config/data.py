"""The `[data]` table: which shards are read and what happens to each image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vitscale.config.base import Section


class DataConfig(Section):
    """WebDataset shards with their index, made by `vitscale shards pack` or `vitscale shards index`."""

    train: str = Field(min_length=1)
    """Folder of the training shards (it holds `manifest.json`)."""

    held_out: str | None = None
    """Folder of the shards that are never trained on; evaluated during and after the run."""

    crop: Literal["inception", "center", "none"] = "inception"
    """Training crop: random area and aspect (arXiv 1409.4842), the central square, or a plain resize."""

    crop_area: tuple[float, float] = (0.05, 1.0)
    """Smallest and largest share of the image area an inception crop takes (big_vision: 0.05 to 1)."""

    flip: bool = True
    """Mirror left-right with probability one half."""

    lanes: int = Field(default=64, ge=1)
    """Parts of the corpus that are read side by side; more lanes shuffle better and open more shards."""

    window: int = Field(default=4096, ge=1)
    """Samples of a lane that are shuffled among each other; this bounds the reader's memory."""

    threads: int = Field(default=2, ge=1)
    """Threads a rank that read and decode."""

    prefetch: int = Field(default=4, ge=1)
    """Micro-batches prepared ahead by each rank."""

    bad_image_limit: float = Field(default=1e-4, ge=0, le=1)
    """Share of images that may fail to decode before the run stops; each is named and masked."""
