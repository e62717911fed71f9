"""The products of a block with its weights: qkv, out and both matrices of the MLP.

Letters: D inputs, F outputs, R rows (tokens of all images).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitscale.ops.operator import operator, resolve, stand_in

Linear = Callable[[int, int, bool], nn.Linear]
"""(D, F, has a bias) to a layer that maps [..., D] to [..., F]."""


class Dense(nn.Linear):
    """A linear map of every token, as one product of matrices with the bias in it.

    DeepSpeed's stage 3 replaces `F.linear` by a form that adds the bias in place unless the input is a matrix; an
    output that activation checkpointing had saved would get it twice (docs/log.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        """[..., D] to [..., F]."""
        return by_rows(F.linear, self, input)


def by_rows(product: Callable[..., Tensor], layer: nn.Linear, input: Tensor) -> Tensor:
    """[..., D] to [..., F] by `product` of rows, weight and bias.

    Hand `F.linear` over by that name at each call, since DeepSpeed's stage 3 replaces it.
    """
    rows = product(input.flatten(0, -2), layer.weight, layer.bias)
    return rows.unflatten(0, input.shape[:-1])


class ExplicitDense(nn.Linear):
    """`Dense` by `explicit_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., D] to [..., F]."""
        return by_rows(explicit_linear, self, input)


def explicit_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The plain twin of `F.linear`, for 16 bits on a CPU: x [R, D], weight [F, D], bias [F] or None to [R, F].

    oneDNN adds the bias in the product, where torch copies it to every row first; and the product for the weight's
    gradient gets its first factor in the order of its rows, which takes oneDNN half the time (docs/kernels.md).
    """
    promised = _Explicit.apply(x, weight, bias)
    with torch.no_grad():
        result = explicit_dense(x, weight, bias)
    return resolve(promised, result)  # pyright: ignore[reportArgumentType] untyped in torch


def onednn_knows(dtype: torch.dtype) -> bool:
    """Whether this processor has products of `dtype` in oneDNN, and torch has oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_fp16_supported()


class _Explicit(torch.autograd.Function):
    """A stand-in for the result, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return stand_in(x, x.shape[0], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given = gradients[0]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            torch.mm(given, weight) if of_x else None,
            weight_gradient(given, x) if of_weight else None,
            given.sum(0) if of_bias else None,
        )


@operator(
    "explicit_dense(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    lambda x, weight, bias: x.new_empty(x.shape[0], weight.shape[0]),
)
def explicit_dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias, [R, F], rounded once."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def weight_gradient(given: Tensor, x: Tensor) -> Tensor:
    """given.T @ x, [F, D] from [R, F] and [R, D], after transposing the narrower of the two."""
    if given.shape[1] <= x.shape[1]:
        return torch.mm(given.T.contiguous(), x)
    return torch.mm(x.T.contiguous(), given).T.contiguous()
