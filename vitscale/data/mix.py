"""Mixup and CutMix of a micro-batch, on the device after normalisation.

Mixup (arXiv 1710.09412) adds an image and its partner with shares lam and 1 - lam, CutMix (arXiv 1905.04899) pastes a
box of the partner; lam ~ Beta(alpha, alpha) is drawn once a micro-batch, as the authors of both do. The partner of
image i is image B - 1 - i of the same micro-batch: a pair gives two mixtures, every image is used as a partner exactly
once as under any permutation, and nothing has to be drawn for it. The middle image of an odd number keeps to itself.

Letters: B images, H and W pixels, L labels at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitscale.config.data import DataConfig
from vitscale.config.dataset import MASKED
from vitscale.data.random_keys import generator


@dataclass(frozen=True)
class Draw:
    """What chance decided for a micro-batch."""

    lam: float
    """Share of an image in its own mixture."""
    center: tuple[float, float] | None = None
    """For CutMix where the box has its center, as shares of height and width."""

    def box(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the box of area 1 - lam around the center, clipped to the image (1905.04899, eq. 2)."""
        assert self.center is not None, "mixup has no box"
        side = math.sqrt(1.0 - self.lam)
        return _clipped(self.center[0], side, height), _clipped(self.center[1], side, width)


def _clipped(center: float, side: float, pixels: int) -> slice:
    middle, half = int(center * pixels), int(side * pixels) // 2
    return slice(max(middle - half, 0), min(middle + half, pixels))


class Mixing:
    """Draws for every micro-batch of a run by (seed, step, number of the micro-batch in the global batch)."""

    def __init__(self, config: DataConfig, seed: int) -> None:
        self._mixup, self._cutmix, self._seed = config.mixup, config.cutmix, seed
        both = config.mixup > 0 and config.cutmix > 0
        self._share = config.cutmix_share if both else float(config.cutmix > 0)

    def draw(self, step: int, index: int) -> Draw | None:
        """For micro-batch `index` of the step that follows `step` finished ones; None where nothing is mixed."""
        if self._mixup == self._cutmix == 0:
            return None
        stream = generator("mix", self._seed, step, index)
        if stream.random() >= self._share:
            return Draw(float(stream.beta(self._mixup, self._mixup)))
        lam = float(stream.beta(self._cutmix, self._cutmix))
        return Draw(lam, (float(stream.random()), float(stream.random())))


def mix(images: Tensor, labels: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mix each image with its partner.

    A masked slot stays masked, and an image whose partner is masked stays as it is, so as many images count as before.

    Args:
        images: float [B, 3, H, W], normalised.
        labels: int64 [B] or [B, L], `MASKED` where there is none.
        draw: of this micro-batch; None changes nothing.

    Returns:
        Images as before; labels int64 [B, 2L], first the image's own; their weights float32 [B, 2L]. Without a draw
        images and labels as given, and None.
    """
    if draw is None:
        return images, labels, None
    own = labels.reshape(len(labels), -1)
    counts = (own != MASKED).any(1)
    paired = counts & counts.flip(0)
    images, lam = _mixed(images, paired[:, None, None, None], draw)
    other = own.flip(0).where(paired[:, None], torch.full_like(own, MASKED))
    kept = torch.where(paired, lam, 1.0)[:, None]
    both = torch.cat([own, other], 1)
    weights = torch.cat([kept.expand_as(own), (1 - kept).expand_as(other)], 1)
    return images, both, weights.to(torch.float32) * (both != MASKED)


def _mixed(images: Tensor, paired: Tensor, draw: Draw) -> tuple[Tensor, float]:
    """Images mixed where `paired` [B, 1, 1, 1], and the share that an image kept of itself."""
    others = images.flip(0)
    if draw.center is None:
        share = torch.where(paired, 1 - draw.lam, 0.0).to(torch.float32)
        return (images * (1 - share) + others * share).to(images.dtype), draw.lam
    height, width = images.shape[2:]
    rows, columns = draw.box(height, width)
    mixed = images.clone()
    patch = mixed[:, :, rows, columns]
    mixed[:, :, rows, columns] = others[:, :, rows, columns].where(paired, patch)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - area / (height * width)
