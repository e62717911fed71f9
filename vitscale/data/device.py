"""The one place where bytes become numbers for the model."""

from __future__ import annotations

import torch


def normalise(images: torch.Tensor, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """Move uint8 images [B, 3, H, W] and scale 0..255 to -1..1, in float32 until the last step.

    The copy does not block where the source is pinned.
    """
    moved = images.to(device, non_blocking=True)
    return moved.to(torch.float32).div_(127.5).sub_(1.0).to(dtype)
