"""The base of our optimizers: they know which weights they update, however ZeRO has cut them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitscale.optim.spans import Partition, Slot

CHUNK = 1 << 24  # numbers worked on at a time where a formula needs room for intermediate results


class SpanOptimizer(torch.optim.Optimizer):
    """An optimizer over partitions; subclasses say what they keep (`slots`) and what a step does (`update`).

    DeepSpeed steps once while it is built, before anybody knows what its partitions hold: that step does nothing.
    Later it steps partition by partition, in the same order on all ranks, so `update` may communicate.

    The gradient is used up: a step may leave anything in it.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], moment_dtype: torch.dtype | None) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.moment_dtype = moment_dtype
        self.shared: dict[Tensor, dict[str, Tensor]] = {}
        """What is the same on all ranks; apart from `state`, of which every rank saves its own."""
        self._partitions: dict[Tensor, Partition] = {}

    def attach(self, partitions: Sequence[Partition]) -> None:
        """Learn what the tensors of the parameter groups hold."""
        self._partitions = {partition.master: partition for partition in partitions}

    def slots(self, partition: Partition) -> list[Slot]:
        """What is kept for a partition besides its count of steps."""
        raise NotImplementedError

    def update(self, group: dict[str, Any], partition: Partition, step: int) -> None:
        """Take step number `step`, from 1 on: change `partition.master` by its `grad`."""
        raise NotImplementedError

    def kept(self, partition: Partition, kind: str) -> Tensor:
        """The tensor of a kind that is kept for a partition."""
        master = partition.master
        return (self.state[master] if kind in self.state[master] else self.shared[master])[kind]

    def prepare(
        self, partition: Partition, updates: int, zeros: Callable[..., Tensor] = torch.zeros
    ) -> None:
        """Make everything that is kept, as it is after `updates` steps with gradients of zero, by `zeros`."""
        master = partition.master
        # On the CPU: the count is read in every step, and must not wait for a GPU.
        self.state[master] = {"step": torch.tensor(float(updates))}
        self.shared[master] = {}
        for slot in self.slots(partition):
            place = self.shared[master] if slot.shared else self.state[master]
            place[slot.kind] = zeros(slot.shape, dtype=slot.dtype, device=master.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every partition that has a gradient; there are no closures here."""
        for group in self.param_groups:
            for master in group["params"]:
                if master.grad is None or master not in self._partitions:
                    continue
                partition = self._partitions[master]
                if not self.state.get(master):
                    self.prepare(partition, 0)
                count = self.state[master]["step"]
                count += 1
                self.update(group, partition, int(count))

    def moment(self, partition: Partition, kind: str) -> Slot:
        """The slot of a first moment: as large as the partition, in the configured precision."""
        master = partition.master
        dtype = self.moment_dtype or master.dtype
        return Slot(kind, partition.spans, tuple(master.shape), dtype)


def add_up(partition: Partition, sums: Tensor) -> None:
    """Add the `sums` of all ranks that hold parts of the same weights, in place."""
    if partition.spread:
        dist.all_reduce(sums)


def follow(moment: Tensor, value: Tensor, weight: float) -> Tensor:
    """moment + weight (value - moment) in the precision of `value`; `moment` becomes it, rounded to its own.

    What is returned is not rounded (as in optax), and is `moment` itself where no rounding is needed.
    """
    return rounded(moment.to(value.dtype).lerp_(value, weight), into=moment)


def rounded(value: Tensor, *, into: Tensor) -> Tensor:
    """Keep `value` in the precision of `into`, unless it is that very tensor; the value, not rounded."""
    if value is not into:
        into.copy_(value)
    return value


def pieces(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """Equally large tensors, flat, a chunk of each at a time."""
    return zip(*(each.view(-1).split(CHUNK) for each in tensors), strict=True)
