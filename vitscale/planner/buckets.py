"""How many numbers DeepSpeed gathers up before it communicates."""

from __future__ import annotations

from typing import NamedTuple

from vitscale.config.model import Shape
from vitscale.planner.size import block_parameters, parameters

SMALLEST = 1 << 24
"""Numbers below which a message is mostly latency: 32 MiB in bf16."""


class Buckets(NamedTuple):
    """Sizes in numbers, not bytes."""

    reduce: int
    """Gradients that are reduced at once; DeepSpeed allots two buffers of this size."""
    prefetch: int
    """Parameters that stage 3 gathers ahead."""


def buckets_of(shape: Shape) -> Buckets:
    """A block at a time, so that one travels while the next is computed; no more than the model has.

    DeepSpeed's own sizes, 500 and 50 million, are made for language models: a ViT-S has 22 million parameters, and
    the buffer alone would take 1 GB.
    """
    whole, block = parameters(shape), block_parameters(shape)
    reduce = min(whole, max(SMALLEST, block))
    return Buckets(_even(reduce), _even(min(whole, block)))


def _even(numbers: int) -> int:
    """A multiple of 2, which DeepSpeed's alignment for NCCL wants, rounded up."""
    return numbers + numbers % 2
