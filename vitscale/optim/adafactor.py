"""Adafactor in the form of "Scaling Vision Transformers" (arXiv 2106.04560, section 3.3; big_vision's `optax.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitscale.optim.adam import FIRST, SECOND
from vitscale.optim.span_optimizer import SpanOptimizer, add_up, follow, pieces
from vitscale.optim.spans import Partition, Slot, Span, Tile, Weight, tiles

FACTORS = "factors"
SMALLEST = 32  # a matrix is factored if both of its sides are at least this
_DECAY_POWER, _LARGEST_BETA2, _OFFSET = 0.8, 0.999, 1e-30
_PER_HEAD_ROWS = (".qkv.weight", ".q.weight", ".kv.weight")
_PER_HEAD_COLUMNS = (".out.weight",)


class Grid(NamedTuple):
    """A matrix [rows, columns] in blocks of [high, wide], each factored by itself.

    Its factors are the means of squares over the rows of each block, [rows, columns / wide], followed by those over
    its columns, [rows / high, columns].
    """

    rows: int
    columns: int
    high: int
    wide: int

    @property
    def row_means(self) -> tuple[int, int]:
        return self.rows, self.columns // self.wide

    @property
    def column_means(self) -> tuple[int, int]:
        return self.rows // self.high, self.columns

    @property
    def numel(self) -> int:
        return sum(a * b for a, b in (self.row_means, self.column_means))

    def parts(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Both kinds of means, as views of a flat tensor of `numel`."""
        rows, columns = factors.split([a * b for a, b in (self.row_means, self.column_means)])
        return rows.view(self.row_means), columns.view(self.column_means)


def grid_of(weight: Weight) -> Grid | None:
    """How a weight is factored: as a matrix, and by head where big_vision's kernels have an axis of heads; None if not.

    There the kernels of q, k and v are [width, heads, d], that of the output is [heads, d, width], and of any kernel
    the two longest axes are factored if both are at least 32. Ours are the same but for patch kernels, which are never
    factored (big_vision's are from 32 px on), and for models of more heads than a head has dimensions.
    """
    shape = [size for size in weight.shape if size > 1]
    if len(shape) != 2:
        return None
    rows, columns = shape
    high, wide = rows, columns
    if weight.name.endswith(_PER_HEAD_ROWS):
        high = columns // weight.heads
    elif weight.name.endswith(_PER_HEAD_COLUMNS):
        wide = columns // weight.heads
    return Grid(rows, columns, high, wide) if min(high, wide) >= SMALLEST else None


class Adafactor(SpanOptimizer):
    """u = g / sqrt(v); m = momentum m + (1 - momentum) u; w -= lr (m + weight_decay w).

    v follows g^2 + 1e-30 with beta2 = min(0.999, 1 - t^-0.8). Of a matrix only the means over rows, R, and over
    columns, C, are kept, and v = R C / mean(R). Whatever parts of a matrix a rank holds, the means are those of the
    whole: sums over the spans are added up over the ranks, in float64. There is no clipping of u, no relative step
    size and no correction of m for its start, as in big_vision.

    Args:
        groups: parameter groups with `weight_decay`, multiplied by the rate.
        momentum: as above; with 0 no m is kept and u takes its place.
        moment_dtype: what m is kept in; None for the weights' own. big_vision's is bf16.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        momentum: float,
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(groups, moment_dtype)
        self.momentum = momentum

    def slots(self, partition: Partition) -> list[Slot]:
        """Factors of all matrices, on all ranks; of the rest the second moment; the momentum."""
        dtype = partition.master.dtype
        factored = tuple(
            Span(weight.name, 0, at, grid.numel) for weight, grid, at in _factored(partition)
        )
        whole = _unfactored(partition)
        size = sum(span.length for span in factored)
        slots = [
            Slot(FACTORS, factored, (size,), dtype, shared=True),
            Slot(SECOND, whole, (sum(span.length for span in whole),), dtype),
        ]
        if self.momentum:
            slots.append(self.moment(partition, FIRST))
        return [slot for slot in slots if slot.spans or slot.kind == FIRST]

    def update(self, group: dict[str, Any], partition: Partition, step: int) -> None:
        """One step of the formula above."""
        master, gradient = partition.master, partition.master.grad
        assert gradient is not None
        beta2 = min(_LARGEST_BETA2, 1 - step**-_DECAY_POWER)
        self._scale_factored(partition, gradient, beta2)
        self._scale_whole(partition, gradient, beta2)
        rate = group["lr"]
        master.mul_(1 - rate * group["weight_decay"])
        if not self.momentum:
            master.add_(gradient, alpha=-rate)
            return
        for w, u, m in pieces(master, gradient, self.kept(partition, FIRST)):
            w.add_(follow(m, u, 1 - self.momentum), alpha=-rate)

    def _scale_whole(self, partition: Partition, gradient: Tensor, beta2: float) -> None:
        """u in the place of g, for weights whose v is kept number by number."""
        held = {(span.name, span.start): span for span in partition.spans}
        for span in _unfactored(partition):
            kept = self.kept(partition, SECOND)[span.offset : span.offset + span.length]
            for g, v in pieces(partition.of(held[span.name, span.start], gradient), kept):
                v.mul_(beta2).add_(g.square().add_(_OFFSET), alpha=1 - beta2)
                g.mul_(v.rsqrt())

    def _scale_factored(self, partition: Partition, gradient: Tensor, beta2: float) -> None:
        """u in the place of g, for matrices."""
        grids = {weight.name: (grid, at) for weight, grid, at in _factored(partition)}
        if not grids:
            return
        kept = self.kept(partition, FACTORS)
        sums = torch.zeros(kept.shape, dtype=torch.float64, device=kept.device)
        held = [span for span in partition.spans if span.name in grids]
        for span in held:
            grid, at = grids[span.name]
            _add_squares(grid, sums[at : at + grid.numel], span, partition.of(span, gradient))
        add_up(partition, sums)
        for grid, at in grids.values():
            rows, columns = grid.parts(sums[at : at + grid.numel])
            rows /= grid.wide
            columns /= grid.high
        kept.mul_(beta2).add_(sums.add_(_OFFSET).to(kept.dtype), alpha=1 - beta2)
        for span in held:
            grid, at = grids[span.name]
            _divide(grid, kept[at : at + grid.numel], span, partition.of(span, gradient))


def _factored(partition: Partition) -> Iterator[tuple[Weight, Grid, int]]:
    """(weight, grid, where its factors begin) of all matrices of a partition, those of other ranks too."""
    at = 0
    for weight in partition.weights:
        grid = grid_of(weight)
        if grid is not None:
            yield weight, grid, at
            at += grid.numel


def _unfactored(partition: Partition) -> tuple[Span, ...]:
    """The stretches this rank holds of weights that are not factored, as they lie one after the other."""
    whole = {weight.name for weight in partition.weights if grid_of(weight) is None}
    spans: list[Span] = []
    at = 0
    for span in partition.spans:
        if span.name in whole:
            spans.append(span._replace(offset=at))
            at += span.length
    return tuple(spans)


def _add_squares(grid: Grid, sums: Tensor, span: Span, gradient: Tensor) -> None:
    """Add the squares of a stretch of the gradient to the sums over rows and columns of its matrix."""
    rows, columns = grid.parts(sums)
    for tile, values in _tiles(grid, span, gradient):
        squares = values.square()
        high = min(grid.high, tile.rows)
        first = tile.row // grid.high
        over_columns = squares.view(tile.rows, -1, grid.wide).sum(-1, dtype=torch.float64)
        over_rows = squares.view(-1, high, grid.columns).sum(1, dtype=torch.float64)
        rows[tile.row : tile.row + tile.rows] += over_columns
        columns[first : first + len(over_rows)] += over_rows


def _divide(grid: Grid, factors: Tensor, span: Span, gradient: Tensor) -> None:
    """Divide a stretch of the gradient by sqrt(R C / mean(R)), in place."""
    rows, columns = grid.parts(factors)
    means = rows.view(-1, grid.high, rows.shape[1]).mean(1).repeat_interleave(grid.high, 0)
    by_row, by_column = (rows / means).rsqrt_(), columns.rsqrt()
    for tile, values in _tiles(grid, span, gradient):
        high = min(grid.high, tile.rows)
        first = tile.row // grid.high
        values.view(tile.rows, -1, grid.wide).mul_(
            by_row[tile.row : tile.row + tile.rows].unsqueeze(-1)
        )
        blocks = values.view(-1, high, grid.columns)
        blocks.mul_(by_column[first : first + len(blocks)].unsqueeze(1))
        if tile.width < grid.columns:
            own = gradient[tile.offset : tile.offset + tile.width]
            own.copy_(values[0, tile.column : tile.column + tile.width])


def _tiles(grid: Grid, span: Span, gradient: Tensor) -> Iterator[tuple[Tile, Tensor]]:
    """The rectangles of a stretch and their values, [rows, columns]; a part of a row is padded with zeros."""
    for tile in tiles(span.start, span.length, grid.columns, grid.high):
        values = gradient[tile.offset : tile.offset + tile.rows * tile.width]
        if tile.width < grid.columns:
            padded = gradient.new_zeros(grid.columns)
            padded[tile.column : tile.column + tile.width] = values
            values = padded
        yield tile, values.view(tile.rows, grid.columns)
