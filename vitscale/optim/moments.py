"""What an optimizer keeps for each partition, so that a checkpoint can be cut anew for other ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitscale.optim.span_optimizer import SpanOptimizer
from vitscale.optim.spans import Partition, Slot


def slots_of(optimizer: torch.optim.Optimizer, partition: Partition) -> list[Slot]:
    """The tensors that the optimizer keeps for a partition once it has taken a step."""
    if isinstance(optimizer, SpanOptimizer):
        return optimizer.slots(partition)
    if isinstance(optimizer, torch.optim.AdamW):
        kinds = ("exp_avg", "exp_avg_sq")
    else:
        assert isinstance(optimizer, torch.optim.SGD), "an optimizer nobody knows"
        kinds = ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    shape, dtype = tuple(partition.master.shape), partition.master.dtype
    return [Slot(kind, partition.spans, shape, dtype) for kind in kinds]


def kept(optimizer: torch.optim.Optimizer, partition: Partition, slot: Slot) -> Tensor:
    """The tensor behind a slot."""
    if isinstance(optimizer, SpanOptimizer):
        return optimizer.kept(partition, slot.kind)
    return optimizer.state[partition.master][slot.kind]


def make_state(
    optimizer: torch.optim.Optimizer,
    partition: Partition,
    updates: int,
    zeros: Callable[..., Tensor] = torch.zeros,
) -> None:
    """Make what the optimizer keeps for a partition after `updates` steps, its numbers still to be filled in.

    Every entry has a step count of its own: entries that share one would count each step several times. They are
    made by `zeros`, which is called as `torch.zeros` is.
    """
    if isinstance(optimizer, SpanOptimizer):
        optimizer.prepare(partition, updates, zeros)
        return
    master = partition.master
    entry = {
        slot.kind: zeros(slot.shape, dtype=slot.dtype, device=master.device)
        for slot in slots_of(optimizer, partition)
    }
    if isinstance(optimizer, torch.optim.AdamW):
        # On the CPU, so that reading it waits for no GPU, unless torch's kernel reads it there.
        place = master.device if optimizer.defaults["fused"] else "cpu"
        entry["step"] = torch.tensor(float(updates), dtype=torch.float32, device=place)
    optimizer.state[master] = entry
