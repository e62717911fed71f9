"""The residual stream takes up a branch, and the norm before the next one. Letters: B images, N tokens, D width."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Residual(Protocol):
    """tokens + kept * scale * branch, and its norm where one is given.

    tokens and branch are [B, N, D], `scale` (LayerScale) is [D], `kept` (stochastic depth) [B, 1, 1].
    """

    def __call__(
        self,
        tokens: Tensor,
        branch: Tensor,
        scale: Tensor | None,
        kept: Tensor | None,
        norm: nn.Module | None,
        /,
    ) -> tuple[Tensor, Tensor | None]: ...


def torch_residual(
    tokens: Tensor,
    branch: Tensor,
    scale: Tensor | None,
    kept: Tensor | None,
    norm: nn.Module | None,
) -> tuple[Tensor, Tensor | None]:
    """One operation after the other."""
    if scale is not None:
        branch = branch * scale
    if kept is not None:
        branch = branch * kept
    tokens = tokens + branch
    return tokens, None if norm is None else norm(tokens)


def triton_residual(
    tokens: Tensor,
    branch: Tensor,
    scale: Tensor | None,
    kept: Tensor | None,
    norm: nn.Module | None,
) -> tuple[Tensor, Tensor | None]:
    """One kernel for everything; the norm must be of `triton_norm`."""
    from vitscale.ops.kernels.add_norm import add

    if norm is not None:
        return norm(tokens, branch, scale, kept)
    if scale is None and kept is None:
        return tokens + branch, None
    return add(tokens, branch, scale, kept), None
