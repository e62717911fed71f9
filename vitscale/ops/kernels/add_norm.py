"""What joins two sub-layers, in one pass over the tokens: scale and drop a branch, add it, normalise the sum.

    sum  = tokens + kept * scale * branch
    norm = (sum - mean) / sqrt(variance + eps) * weight + bias      # RMSNorm: sum / sqrt(mean of sum^2 + eps) * weight

Every part but the norm or the addition may be left out. Letters: R rows (tokens of all images), D width. Arithmetic is
float32; the norm is that of the sum as it was rounded, as in plain torch. Backward goes over the rows once too: each
program adds up its part of the gradients of scale, weight and bias, and the parts are added in a fixed order, so equal
inputs give equal bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor, nn

from vitscale.ops.kernels.shapes import block_of, cdiv, jit, programs_of, rows_of, warps_of
from vitscale.ops.operator import operator


@jit
def _load(pointer, at, mask):
    return tl.load(pointer + at, mask, 0.0).to(tl.float32)


@jit
def add_norm_forward(
    tokens,
    branch,
    scale,
    kept,
    weight,
    bias,
    total,
    normed,
    statistics,
    rows,
    images_tokens,
    eps,
    WIDTH: tl.constexpr,
    RMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: ROWS rows. A part without its pointer (None) is left out; statistics: means, then 1 / deviations."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    present, inside = row < rows, column < WIDTH
    mask = present[:, None] & inside[None, :]
    at = row[:, None] * WIDTH + column[None, :]
    x = _load(tokens, at, mask)
    if branch is not None:
        y = _load(branch, at, mask)
        if scale is not None:
            y *= _load(scale, column, inside)[None, :]
        if kept is not None:
            y *= _load(kept, row // images_tokens, present)[:, None]
        summed = (x + y).to(total.dtype.element_ty)
        tl.store(total + at, summed, mask)
        x = summed.to(tl.float32)
    if weight is not None:
        if RMS:
            centred = x
        else:
            mean = tl.sum(x, 1) / WIDTH
            tl.store(statistics + row, mean, present)
            centred = tl.where(mask, x - mean[:, None], 0.0)
        inverse = 1 / tl.sqrt(tl.sum(centred * centred, 1) / WIDTH + eps)
        tl.store(statistics + (0 if RMS else rows) + row, inverse, present)
        y = centred * inverse[:, None] * _load(weight, column, inside)[None, :]
        if bias is not None:
            y += _load(bias, column, inside)[None, :]
        tl.store(normed + at, y.to(normed.dtype.element_ty), mask)


@jit
def _along(given, x, WIDTH: tl.constexpr, RMS: tl.constexpr):
    """What the statistics of a row take back: the parts of `given` along the normed row `x` and along ones."""
    part = x * (tl.sum(given * x, 1) / WIDTH)[:, None]
    if not RMS:
        part += (tl.sum(given, 1) / WIDTH)[:, None]
    return part


@jit
def add_norm_backward(
    d_total,
    d_normed,
    total,
    branch,
    scale,
    kept,
    weight,
    statistics,
    d_tokens,
    d_branch,
    parts,
    rows,
    images_tokens,
    WIDTH: tl.constexpr,
    RMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: every so-manieth ROWS rows. parts [3, programs, D] float32: of scale, weight and bias."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    d_scale = tl.zeros([BLOCK], tl.float32)
    d_weight = tl.zeros([BLOCK], tl.float32)
    d_bias = tl.zeros([BLOCK], tl.float32)
    for first in range(program * ROWS, rows, programs * ROWS):
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        present = row < rows
        mask = present[:, None] & inside[None, :]
        at = row[:, None] * WIDTH + column[None, :]
        gradient = tl.zeros([ROWS, BLOCK], tl.float32)
        if d_total is not None:
            gradient += _load(d_total, at, mask)
        if weight is not None:
            mean = tl.zeros([ROWS], tl.float32)
            if not RMS:
                mean = tl.load(statistics + row, present, 0.0)
            inverse = tl.load(statistics + (0 if RMS else rows) + row, present, 0.0)[:, None]
            x = tl.where(mask, (_load(total, at, mask) - mean[:, None]) * inverse, 0.0)
            given = _load(d_normed, at, mask)
            d_weight += tl.sum(given * x, 0)
            d_bias += tl.sum(given, 0)
            given *= _load(weight, column, inside)[None, :]
            gradient += (given - _along(given, x, WIDTH, RMS)) * inverse
        tl.store(d_tokens + at, gradient.to(d_tokens.dtype.element_ty), mask)
        if d_branch is not None:
            if kept is not None:
                gradient *= _load(kept, row // images_tokens, present)[:, None]
            if scale is not None:
                y = _load(branch, at, mask)
                d_scale += tl.sum(gradient * y, 0)
                gradient *= _load(scale, column, inside)[None, :]
            tl.store(d_branch + at, gradient.to(d_branch.dtype.element_ty), mask)
    at = program * WIDTH + column
    if scale is not None:
        tl.store(parts + at, d_scale, inside)
    if weight is not None:
        tl.store(parts + programs * WIDTH + at, d_weight, inside)
        tl.store(parts + 2 * programs * WIDTH + at, d_bias, inside)


def _forward_meta(
    tokens: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    kept: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    rms: bool,
) -> tuple[Tensor, ...]:
    rows = tokens.numel() // tokens.shape[-1]
    shape = tokens.shape
    return (
        tokens.new_empty(shape if branch is not None else (0,)),
        tokens.new_empty(shape if weight is not None else (0,)),
        tokens.new_empty(
            (1 if rms else 2, rows) if weight is not None else (0,), dtype=torch.float32
        ),
    )


@operator(
    "add_norm(Tensor tokens, Tensor? branch, Tensor? scale, Tensor? kept, Tensor? weight, Tensor? bias, float eps,"
    " bool rms) -> (Tensor, Tensor, Tensor)",
    _forward_meta,
)
def add_norm_operator(
    tokens: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    kept: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    rms: bool,
) -> tuple[Tensor, ...]:
    """The sum and its norm, [B, N, D], and the statistics of the norm; what is left out is empty."""
    made = _forward_meta(tokens, branch, scale, kept, weight, bias, eps, rms)
    total, normed, statistics = made
    width, rows = tokens.shape[-1], tokens.numel() // tokens.shape[-1]
    each = rows_of(width)
    add_norm_forward[(cdiv(rows, each),)](
        tokens.contiguous(),
        branch if branch is None else branch.contiguous(),
        scale,
        kept,
        weight,
        bias,
        total,
        normed,
        statistics,
        rows,
        tokens.shape[-2],
        eps,
        WIDTH=width,
        RMS=rms,
        ROWS=each,
        BLOCK=block_of(width),
        num_warps=warps_of(width),
    )
    return made


def _backward_meta(
    d_total: Tensor | None,
    d_normed: Tensor | None,
    total: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    kept: Tensor | None,
    weight: Tensor | None,
    statistics: Tensor,
) -> tuple[Tensor, ...]:
    return (
        total.new_empty(total.shape),
        total.new_empty((0,) if scale is None and kept is None else total.shape),
        total.new_empty((3, total.shape[-1]), dtype=torch.float32),
    )


@operator(
    "add_norm_backward(Tensor? d_total, Tensor? d_normed, Tensor total, Tensor? branch, Tensor? scale, Tensor? kept,"
    " Tensor? weight, Tensor statistics) -> (Tensor, Tensor, Tensor)",
    _backward_meta,
)
def add_norm_backward_operator(
    d_total: Tensor | None,
    d_normed: Tensor | None,
    total: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    kept: Tensor | None,
    weight: Tensor | None,
    statistics: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of tokens and branch, [B, N, D], and of scale, weight and bias, float32 [3, D].

    Without scale and drop the branch has the gradient of the tokens, and that place is empty. `branch` is needed where
    there is a scale, `total` where there is a norm; otherwise its shape is all that counts.
    """
    width, rows = total.shape[-1], total.numel() // total.shape[-1]
    each = rows_of(width)
    programs = programs_of(rows, each)
    d_tokens = torch.empty_like(total)
    d_branch = None if scale is None and kept is None else torch.empty_like(total)
    parts = torch.zeros(3, programs, width, dtype=torch.float32, device=total.device)
    add_norm_backward[(programs,)](
        d_total if d_total is None else d_total.contiguous(),
        d_normed if d_normed is None else d_normed.contiguous(),
        total,
        branch,
        scale,
        kept,
        weight,
        statistics,
        d_tokens,
        d_branch,
        parts,
        rows,
        total.shape[-2],
        WIDTH=width,
        RMS=len(statistics) == 1,
        ROWS=each,
        BLOCK=block_of(width),
        num_warps=warps_of(width),
    )
    return d_tokens, total.new_empty(0) if d_branch is None else d_branch, parts.sum(1)


class _AddNorm(torch.autograd.Function):
    """The two operators above, joined by what the first keeps: the sum, and the branch where there is a scale."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        branch: Tensor | None,
        scale: Tensor | None,
        kept: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        rms: bool,
    ) -> tuple[Tensor, Tensor]:
        tokens = tokens.contiguous()
        branch = None if branch is None else branch.contiguous()
        total, normed, statistics = add_norm_operator(
            tokens, branch, scale, kept, weight, bias, eps, rms
        )
        ctx.adds, ctx.norms, ctx.bias = (each is not None for each in (branch, weight, bias))
        ctx.save_for_backward(
            None if weight is None else tokens if branch is None else total,
            None if scale is None else branch,
            scale,
            kept,
            weight,
            statistics,
        )
        return total, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_total = gradients[0] if ctx.adds else None
        d_normed = gradients[1] if ctx.norms else None
        total, branch, scale, kept, weight, statistics = ctx.saved_tensors
        if total is None:
            total = d_total
        d_tokens, d_branch, sums = add_norm_backward_operator(
            d_total, d_normed, total, branch, scale, kept, weight, statistics
        )
        if ctx.adds and scale is None and kept is None:
            d_branch = d_tokens
        return (
            d_tokens,
            d_branch if ctx.adds else None,
            None if scale is None else sums[0].to(scale.dtype),
            None,
            None if weight is None else sums[1].to(weight.dtype),
            sums[2].to(weight.dtype) if ctx.bias and weight is not None else None,
            None,
            None,
        )


def add(tokens: Tensor, branch: Tensor, scale: Tensor | None, kept: Tensor | None) -> Tensor:
    """tokens + kept * scale * branch; [B, N, D] each, scale [D], kept [B, 1, 1]."""
    return _AddNorm.apply(tokens, branch, scale, kept, None, None, 0.0, False)[0]  # pyright: ignore


class AddNorm(nn.Module):
    """LayerNorm or RMSNorm with the addition before it; parameters as torch's modules have them."""

    def __init__(self, width: int, *, rms: bool, eps: float, bias: bool) -> None:
        super().__init__()
        self.rms, self.eps = rms, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(
        self,
        tokens: Tensor,
        branch: Tensor | None = None,
        scale: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> Any:
        """The norm of tokens [..., D]; with a branch the sum and its norm."""
        total, normed = _AddNorm.apply(
            tokens, branch, scale, kept, self.weight, self.bias, self.eps, self.rms
        )  # pyright: ignore[reportGeneralTypeIssues] untyped in torch
        return normed if branch is None else (total, normed)
