"""From an image to patch tokens: cut, flatten, project. Letters: B images, P patches, D width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """The paper's linear projection of flattened patches, equation 1 of arXiv 2010.11929.

    The weight is stored as that of a convolution, [D, 3, p, p]; as the linear map it is reshaped to
    [D, 3 p p]. Without overlap the linear form is used (one matrix product) unless `convolve`; with a stride below the
    patch size the convolution, which reads shared pixels without copying them. Both are the same map.
    """

    def __init__(self, width: int, patch: int, stride: int, *, convolve: bool = False) -> None:
        super().__init__()
        self.patch, self.convolve = patch, convolve or stride < patch
        self.projection = nn.Conv2d(3, width, kernel_size=patch, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] to tokens [B, P, D], rows first."""
        if self.convolve:
            return self.projection(images).flatten(2).transpose(1, 2)
        weight = self.projection.weight.flatten(1)
        return F.linear(patches_of(images, self.patch), weight, self.projection.bias)


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Cut images [B, 3, H, W] into flattened patches [B, P, 3 p p] without overlap, rows first."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cells = images.reshape(batch, channels, rows, patch, columns, patch)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch * patch)
