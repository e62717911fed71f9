"""How kernels are cut: blocks, rows of a program, warps. The compiled gates of tests/ops hold for these choices."""

from __future__ import annotations

from typing import Any

import triton

jit: Any = triton.jit
"""Without a type: a kernel is called with options of its launch besides its arguments."""

PROGRAMS = 256
"""At most, of a kernel whose programs add up gradients over rows: each leaves a part of its own."""


def block_of(width: int) -> int:
    """The numbers a program holds of a row: a power of two."""
    return 1 << (width - 1).bit_length()


def rows_of(width: int) -> int:
    """Rows of a program at a time: about 2,048 numbers, so that narrow models fill a program too."""
    return max(1, 2048 // block_of(width))


def warps_of(width: int) -> int:
    """Warps of a program: 16 numbers a thread."""
    return 4 if block_of(width) <= 2048 else 8


def programs_of(rows: int, rows_each: int) -> int:
    """How many programs share the rows; depends on nothing but their number, so sums do not either."""
    return min(PROGRAMS, cdiv(rows, rows_each))


def cdiv(count: int, each: int) -> int:
    """How many times `each` it takes to have `count`."""
    return -(-count // each)
