"""How tensors of others become one of ours, and back. Letters: D width, H heads, d width of a head, M outputs.

Flax keeps kernels as [in, out] and splits those of attention by head; torch keeps [out, in]. All of these are
permutations, so a tensor that is read and written again is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = Sequence[Tensor | None]


@dataclass(frozen=True)
class Form:
    """`read` makes our tensor of theirs, None for one that is absent; `write(ours, parts, heads)` undoes it."""

    read: Callable[[Parts], Tensor]
    write: Callable[[Tensor, int, int], Sequence[Tensor]]


def _whole(parts: Parts) -> list[Tensor]:
    """Parts with zeros in the place of an absent one, which is as large as its neighbours."""
    like = next(part for part in parts if part is not None)
    return [torch.zeros_like(like) if part is None else part for part in parts]


def _masked(parts: Parts) -> Tensor:
    """A bias and the mask it is multiplied with (DINOv3's key bias, which is trained and never used)."""
    bias, mask = parts
    assert bias is not None
    return bias if mask is None else torch.where(mask == 0, torch.zeros_like(bias), bias)


def _first_half(matrix: Tensor) -> Tensor:
    half = matrix.shape[1] // 2 if matrix.ndim == 2 else 0
    return matrix if not half or matrix[:, half:].any() else matrix[:, :half]


SAME = Form(lambda parts: _whole(parts)[0], lambda ours, parts, heads: [ours])
TRANSPOSED = Form(lambda parts: _whole(parts)[0].T, lambda ours, parts, heads: [ours.T])
STACKED = Form(lambda parts: torch.cat(_whole(parts)), lambda ours, parts, heads: ours.chunk(parts))
"""Several matrices or biases, one below the other."""
MASKED = Form(_masked, lambda ours, parts, heads: [ours])
PATCHES_LAST = Form(
    lambda parts: _whole(parts)[0].permute(3, 2, 0, 1),
    lambda ours, parts, heads: [ours.permute(2, 3, 1, 0)],
)
"""A convolution's kernel: [p, p, 3, D] of flax to [D, 3, p, p]."""
INTO_HEADS = Form(
    lambda parts: torch.cat([part.flatten(1).T for part in _whole(parts)]),
    lambda ours, parts, heads: [
        matrix.T.reshape(ours.shape[1], heads, -1) for matrix in ours.chunk(parts)
    ],
)
"""Kernels [D, H, d] of queries, keys and values, to [parts D, D]."""
HEADS_BIAS = Form(
    lambda parts: torch.cat([part.flatten() for part in _whole(parts)]),
    lambda ours, parts, heads: [bias.reshape(heads, -1) for bias in ours.chunk(parts)],
)
"""Their biases [H, d]."""
OUT_OF_HEADS = Form(
    lambda parts: _whole(parts)[0].flatten(0, 1).T,
    lambda ours, parts, heads: [ours.T.reshape(heads, -1, ours.shape[0])],
)
"""The kernel [H, d, D] that joins the heads again."""
HALF_OF_TWO = Form(
    lambda parts: _first_half(_whole(parts)[0]),
    lambda ours, parts, heads: [torch.cat([ours, torch.zeros_like(ours)], dim=1)],
)
"""A classifier [K, 2 D] of CLS and mean patch, as one of CLS alone: its other half is zero, or it is left whole."""
