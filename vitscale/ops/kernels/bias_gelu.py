"""Bias and GELU between the two matrices of an MLP, forward and backward.

    active = gelu(hidden + bias)        # x * (1 + erf(x / sqrt 2)) / 2, or the form with tanh (arXiv 1606.08415)

Backward reads `hidden` and gives its gradient, that of the bias, and `active` once more: so `active`, the input of the
next matrix, need not be kept. Letters: R rows (tokens of all images), F width of the MLP.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor, nn

from vitscale.ops.kernels.shapes import cdiv, jit, programs_of
from vitscale.ops.operator import operator, resolve, stand_in

ROWS, BLOCK, WARPS = 16, 128, 4


@jit
def _gelu_and_slope(x, TANH: tl.constexpr):
    """gelu(x) and its derivative. tanh(u) is written as 2 sigmoid(2u) - 1."""
    if TANH:
        u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        share = 1 / (1 + tl.exp(-2 * u))  # (1 + tanh u) / 2
        slope = share + 2 * x * share * (1 - share) * 0.7978845608028654 * (1 + 0.134145 * x * x)
    else:
        share = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        slope = share + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    return x * share, slope


@jit
def bias_gelu_forward(
    hidden,
    bias,
    active,
    rows,
    WIDTH: tl.constexpr,
    TANH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: ROWS rows of BLOCK columns."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    mask = (row < rows)[:, None] & inside[None, :]
    at = row[:, None] * WIDTH + column[None, :]
    x = tl.load(hidden + at, mask, 0.0).to(tl.float32)
    if bias is not None:
        x += tl.load(bias + column, inside, 0.0).to(tl.float32)[None, :]
    value, _ = _gelu_and_slope(x, TANH)
    tl.store(active + at, value.to(active.dtype.element_ty), mask)


@jit
def bias_gelu_backward(
    d_active,
    hidden,
    bias,
    d_hidden,
    active,
    parts,
    rows,
    WIDTH: tl.constexpr,
    TANH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: every so-manieth ROWS rows of BLOCK columns. parts [programs, F] float32: of the bias."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    d_bias = tl.zeros([BLOCK], tl.float32)
    for first in range(program * ROWS, rows, programs * ROWS):
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        mask = (row < rows)[:, None] & inside[None, :]
        at = row[:, None] * WIDTH + column[None, :]
        x = tl.load(hidden + at, mask, 0.0).to(tl.float32)
        if bias is not None:
            x += tl.load(bias + column, inside, 0.0).to(tl.float32)[None, :]
        value, slope = _gelu_and_slope(x, TANH)
        tl.store(active + at, value.to(active.dtype.element_ty), mask)
        gradient = slope * tl.load(d_active + at, mask, 0.0).to(tl.float32)
        d_bias += tl.sum(gradient, 0)
        tl.store(d_hidden + at, gradient.to(d_hidden.dtype.element_ty), mask)
    tl.store(parts + program * WIDTH + column, d_bias, inside)


def _forward_meta(hidden: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    return hidden.new_empty(hidden.shape)


@operator("bias_gelu(Tensor hidden, Tensor? bias, bool tanh) -> Tensor", _forward_meta)
def bias_gelu(hidden: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    """gelu(hidden + bias), [R, F]; hidden [R, F], bias [F]."""
    rows, width = hidden.shape
    active = torch.empty_like(hidden)
    grid = (cdiv(rows, ROWS), cdiv(width, BLOCK))
    bias_gelu_forward[grid](
        hidden,
        bias,
        active,
        rows,
        WIDTH=width,
        TANH=tanh,
        ROWS=ROWS,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return active


def _backward_meta(
    d_active: Tensor, hidden: Tensor, bias: Tensor | None, tanh: bool
) -> tuple[Tensor, Tensor, Tensor]:
    sums = hidden.new_empty(hidden.shape[1], dtype=torch.float32)
    return hidden.new_empty(hidden.shape), hidden.new_empty(hidden.shape), sums


@operator(
    "bias_gelu_backward(Tensor d_active, Tensor hidden, Tensor? bias, bool tanh) -> (Tensor, Tensor, Tensor)",
    _backward_meta,
)
def bias_gelu_backward_operator(
    d_active: Tensor, hidden: Tensor, bias: Tensor | None, tanh: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `hidden` and what the forward gave, [R, F], and the gradient of the bias, float32 [F]."""
    rows, width = hidden.shape
    programs = programs_of(rows, ROWS)
    d_hidden, active = torch.empty_like(hidden), torch.empty_like(hidden)
    parts = torch.empty(programs, width, dtype=torch.float32, device=hidden.device)
    bias_gelu_backward[(programs, cdiv(width, BLOCK))](
        d_active.contiguous(),
        hidden,
        bias,
        d_hidden,
        active,
        parts,
        rows,
        WIDTH=width,
        TANH=tanh,
        ROWS=ROWS,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return d_hidden, active, parts.sum(0)


class _GeluDense(torch.autograd.Function):
    """A stand-in for gelu(hidden + bias1) @ weight.T + bias2, and its gradients; keeps `hidden` alone."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        bias1: Tensor | None,
        weight: Tensor,
        bias2: Tensor | None,
        tanh: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden, bias1, weight)
        ctx.tanh, ctx.bias2 = tanh, bias2 is not None
        return stand_in(hidden, hidden.shape[0], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given = gradients[0]
        hidden, bias1, weight = ctx.saved_tensors
        d_hidden, active, d_bias1 = bias_gelu_backward_operator(
            torch.mm(given, weight), hidden, bias1, ctx.tanh
        )
        return (
            d_hidden,
            None if bias1 is None else d_bias1.to(bias1.dtype),
            torch.mm(given.T, active),
            given.sum(0) if ctx.bias2 else None,
            None,
        )


class OpenDense(nn.Linear):
    """The product alone; the bias goes along to the layer that adds it."""

    def forward(self, input: Tensor) -> Any:
        """[..., D] to [R, F], and the bias [F] or None."""
        return torch.mm(input.flatten(0, -2), self.weight.T), self.bias


class GeluDense(nn.Linear):
    """GELU of a product and its bias, and a linear map of that."""

    def __init__(self, inputs: int, outputs: int, bias: bool, tanh: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.tanh = tanh

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """[R, F] to [R, D]."""
        hidden = input.contiguous()
        promised = _GeluDense.apply(hidden, bias, self.weight, self.bias, self.tanh)
        with torch.no_grad():
            result = self._product(bias_gelu(hidden, bias, self.tanh))
        return resolve(promised, result)  # pyright: ignore[reportArgumentType] untyped in torch

    def _product(self, active: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(active, self.weight.T)
        return torch.addmm(self.bias, active, self.weight.T)
