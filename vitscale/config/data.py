"""The `[data]` table: which shards are read and what happens to each image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vitscale.config.base import Section
from vitscale.config.preprocessing import HALF, Channels
from vitscale.config.source import SourceField, SourcesField

Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DataConfig(Section):
    """WebDataset shards with their index, made by `vitscale shards pack` or `vitscale shards index`."""

    train: SourcesField
    """Folder or URL of the training shards, perhaps a part of it ("data/i21k[51200:]"); a table with `shards` and
    filters; or a list of tables, a mixture by `weight`."""

    held_out: SourceField | None = None
    """Shards that are never trained on, written as one source of `train`; evaluated during and after the run."""

    crop: Literal["inception", "inception-tf", "random", "center", "none"] = "inception"
    """Training crop: random area and aspect (arXiv 1409.4842), the same as TensorFlow and big_vision draw it, a random
    or the central part of fixed size, or a plain resize (docs/augment.md)."""

    resize_px: int | None = Field(default=None, ge=1)
    """Shorter side the image is thought to be resized to before a "random" or "center" part of the model's size is cut;
    with "none" both sides, before the central part is. Without it the part is as large as it can be."""

    crop_area: tuple[float, float] = (0.05, 1.0)
    """Smallest and largest share of the image area an inception crop takes (big_vision: 0.05 to 1)."""

    flip: bool = True
    """Mirror left-right with probability one half."""

    randaugment: (
        tuple[Annotated[int, Field(ge=1, le=16)], Annotated[int, Field(ge=0, le=22)]]
        | Literal["off"]
    ) = "off"
    """RandAugment after crop and flip (arXiv 1909.13719): [layers, magnitude], big_vision's 16 ops and scale
    (docs/augment.md); magnitude 0 still changes images."""

    mixup: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Alpha of mixup (arXiv 1710.09412): images and labels are mixed by a share from Beta(alpha, alpha); 0 is off."""

    cutmix: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Alpha of CutMix (arXiv 1905.04899): a box of area 1 - Beta(alpha, alpha) of another image is pasted; 0 is off."""

    cutmix_share: float = Field(default=0.5, gt=0, lt=1)
    """Where both are on, the share of micro-batches that get CutMix; the others get mixup."""

    mean: Channels = HALF
    """Mean of the pixels of each channel, 0 to 1, that is taken off; pretrained weights bring their own."""

    std: tuple[Spread, Spread, Spread] = HALF
    """What the rest is divided by; 0.5 beside a mean of 0.5 gives [-1, 1]."""

    lanes: int = Field(default=256, ge=1)
    """Parts of the corpus that are read side by side; more lanes shuffle better and open more shards."""

    window: int = Field(default=1024, ge=1)
    """Samples of a lane that are shuffled among each other; this bounds the reader's memory."""

    decode: Literal["auto", "c", "pillow"] = "auto"
    """Decoder of JPEGs: the C extension where it was built, else Pillow. Both take the same crops."""

    threads: int = Field(default=2, ge=1)
    """Threads a rank that read and decode."""

    prefetch: int = Field(default=4, ge=1)
    """Micro-batches prepared ahead by each rank."""

    bad_image_limit: float = Field(default=1e-4, ge=0, le=1)
    """Share of images that may fail to decode before the run stops; each is named and masked."""

    missing_shards: Literal["abort", "mask"] = "abort"
    """A shard that cannot be had for good ends the run, or its samples are masked and accounted for."""

    cache: str | None = None
    """Folder on this node for shards of remote sources; needed for those, shared by ranks and runs."""

    cache_gb: float = Field(default=500.0, gt=0)
    """Size the cache is held to, in 10^9 bytes: the shards that are needed farthest in the future go first."""

    allow_pipe: bool = False
    """Let sources be `pipe:` commands, which run in a shell with your rights."""

    accept_change: str | None = None
    """Resume although data or order changed: the order's new name, which the refusal prints."""

    @property
    def least_micro_batch(self) -> int:
        """Images of a micro-batch at least: those that are mixed need a partner."""
        return 2 if self.mixup or self.cutmix else 1
