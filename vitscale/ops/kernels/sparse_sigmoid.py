"""The loss of `vitscale/ops/sigmoid.py` in one pass over the logits, and its gradient in another.

One program takes one image. The rows of K logits begin anywhere (21,841 is odd), so a program takes the few numbers up
to the next multiple of 16 by themselves, then whole aligned blocks without a mask, which load 128 bits at a time, then
the rest.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from vitscale.ops.kernels.shapes import jit
from vitscale.ops.operator import operator

BLOCK, WARPS = 2048, 4


@jit
def _row(row, classes, BLOCK: tl.constexpr):
    """Of a row in the flat logits: begin, end, its first multiple of 16, and how many whole blocks follow that."""
    begin = row * classes
    end = begin + classes
    aligned = (begin + 15) // 16 * 16
    return begin, end, aligned, (tl.maximum(end - aligned, 0) // BLOCK).to(tl.int32)


@jit
def _terms(logit, spread):
    """softplus(l) - spread l.

    log(1 + e) keeps small e, as the logits of a new head have, by what the rounding of 1 + e took away (Kahan).
    """
    small = tl.exp(-tl.abs(logit))
    more = 1 + small
    log = tl.where(more == 1, small, tl.log(more) * small / tl.where(more == 1, 1.0, more - 1))
    return tl.maximum(logit, 0.0) + log - spread * logit


@jit
def sparse_sigmoid_forward(
    logits, labels, shares, spread, losses, classes, most, BLOCK: tl.constexpr
):
    """One program: the loss of one image."""
    row = tl.program_id(0).to(tl.int64)
    begin, end, aligned, blocks = _row(row, classes, BLOCK)
    everywhere = 0.0
    if spread is not None:
        everywhere = tl.load(spread + row)
    sums = tl.zeros([BLOCK], tl.float32)
    for block in range(blocks):
        at = aligned + block * BLOCK + tl.arange(0, BLOCK)
        sums += _terms(tl.load(logits + at).to(tl.float32), everywhere)
    at = aligned + blocks * BLOCK + tl.arange(0, BLOCK)
    rest = tl.load(logits + at, at < end, 0.0).to(tl.float32)
    sums += tl.where(at < end, _terms(rest, everywhere), 0.0)
    at = begin + tl.arange(0, 16)
    head = (at < aligned) & (at < end)
    first = tl.load(logits + at, head, 0.0).to(tl.float32)
    loss = tl.sum(sums, 0) + tl.sum(tl.where(head, _terms(first, everywhere), 0.0), 0)
    for index in range(most):
        label = tl.load(labels + row * most + index)
        share = tl.load(shares + row * most + index)
        own = tl.load(logits + begin + tl.maximum(label, 0)).to(tl.float32)
        loss -= tl.where(label < 0, 0.0, share * own)
    tl.store(losses + row, loss)


@jit
def _slopes(logit, column, labels, shares, everywhere, given, most):
    """The gradient at some columns of a row, whose labels and shares begin at the pointers."""
    slope = 1 / (1 + tl.exp(-logit)) - everywhere
    for index in range(most):
        slope -= tl.where(column == tl.load(labels + index), tl.load(shares + index), 0.0)
    return slope * given


@jit
def sparse_sigmoid_backward(
    given, logits, labels, shares, spread, slopes, classes, most, BLOCK: tl.constexpr
):
    """One program: the gradient of one image's logits."""
    row = tl.program_id(0).to(tl.int64)
    begin, end, aligned, blocks = _row(row, classes, BLOCK)
    labels += row * most
    shares += row * most
    scale, everywhere = tl.load(given + row), 0.0
    if spread is not None:
        everywhere = tl.load(spread + row)
    for block in range(blocks):
        at = aligned + block * BLOCK + tl.arange(0, BLOCK)
        logit = tl.load(logits + at).to(tl.float32)
        value = _slopes(logit, at - begin, labels, shares, everywhere, scale, most)
        tl.store(slopes + at, value.to(slopes.dtype.element_ty))
    at = aligned + blocks * BLOCK + tl.arange(0, BLOCK)
    logit = tl.load(logits + at, at < end, 0.0).to(tl.float32)
    value = _slopes(logit, at - begin, labels, shares, everywhere, scale, most)
    tl.store(slopes + at, value.to(slopes.dtype.element_ty), at < end)
    at = begin + tl.arange(0, 16)
    head = (at < aligned) & (at < end)
    logit = tl.load(logits + at, head, 0.0).to(tl.float32)
    value = _slopes(logit, at - begin, labels, shares, everywhere, scale, most)
    tl.store(slopes + at, value.to(slopes.dtype.element_ty), head)


def _forward_meta(logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None) -> Tensor:
    return logits.new_empty(len(logits), dtype=torch.float32)


@operator(
    "sparse_sigmoid(Tensor logits, Tensor labels, Tensor shares, Tensor? spread) -> Tensor",
    _forward_meta,
)
def sparse_sigmoid(logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None) -> Tensor:
    """The loss of each image, float32 [B]."""
    losses = _forward_meta(logits, labels, shares, spread)
    sparse_sigmoid_forward[(len(logits),)](
        logits,
        labels,
        shares,
        spread,
        losses,
        logits.shape[1],
        labels.shape[1],
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return losses


def _backward_meta(
    given: Tensor, logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor
) -> Tensor:
    return logits.new_empty(logits.shape)


@operator(
    "sparse_sigmoid_backward(Tensor given, Tensor logits, Tensor labels, Tensor shares, Tensor? spread) -> Tensor",
    _backward_meta,
)
def sparse_sigmoid_backward_operator(
    given: Tensor, logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor
) -> Tensor:
    """The gradient of the logits [B, K], in their dtype, from that of the losses [B]."""
    slopes = torch.empty_like(logits)
    sparse_sigmoid_backward[(len(logits),)](
        given.contiguous(),
        logits,
        labels,
        shares,
        spread,
        slopes,
        logits.shape[1],
        labels.shape[1],
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return slopes


class _SparseSigmoid(torch.autograd.Function):
    """The two operators above; the logits are all that is kept of size [B, K]."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None
    ) -> Tensor:
        inputs = [
            each if each is None else each.contiguous() for each in (logits, labels, shares, spread)
        ]
        ctx.save_for_backward(*inputs)
        return sparse_sigmoid(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slopes = sparse_sigmoid_backward_operator(gradients[0], *ctx.saved_tensors)
        return slopes, None, None, None


def sigmoid_loss(logits: Tensor, labels: Tensor, shares: Tensor, spread: Tensor | None) -> Tensor:
    """As `vitscale.ops.sigmoid.torch_sigmoid_loss`, its plain twin."""
    return _SparseSigmoid.apply(logits, labels, shares, spread)  # pyright: ignore[reportReturnType]
