"""Bytes on one GPU, by what they are for, and the most of them at a time in a step.

n parameters, N ranks. A step has three peaks: the beginning of the backward pass, when all activations are there; its
end, when all gradients are; and the update, with gradients in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from vitscale.config.engine import EngineConfig
from vitscale.config.model import Shape
from vitscale.config.ops import OpsConfig
from vitscale.config.optim import OptimConfig
from vitscale.planner.activations import edge_bytes, image_bytes, working_bytes
from vitscale.planner.buckets import buckets_of
from vitscale.planner.size import block_matrices, parameters

LIVE = 10**9
"""Parameters that stage 3 keeps gathered (DeepSpeed's `stage3_max_live_parameters`)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank's device."""

    weights: float
    """What the model computes with."""
    masters: float
    """The optimizer's float32 weights, where they are others."""
    moments: float
    """What the optimizer keeps of the past."""
    average: float
    """The exponential moving average."""
    retained: float
    """A buffer of stage 3, which is not given back between steps."""
    gradients: float
    """At the end of the backward pass."""
    accumulated: float
    """Gradients of earlier micro-batches, while the last one runs."""
    activations: float
    """At the end of the forward pass, with the working room of a block."""
    buffers: float
    """In which gradients and, under stage 3, parameters are during the backward pass."""
    reduction: float
    """Copies of gradients while they travel, at the end of the backward pass."""
    update: float
    """Room for the update of the weights, beside the gradients."""

    @property
    def states(self) -> float:
        """What stays from step to step."""
        return self.weights + self.masters + self.moments + self.average + self.retained

    @property
    def peak(self) -> float:
        """The most at a time."""
        beginning = self.activations + self.accumulated
        backward = max(beginning, self.gradients + self.reduction) + self.buffers
        return self.states + max(backward, self.gradients + self.update)


def memory_of(
    shape: Shape,
    engine: EngineConfig,
    optim: OptimConfig,
    ops: OpsConfig,
    *,
    micro_batch: int,
    accumulation: int,
    world: int,
) -> Memory:
    """Bytes on each of `world` ranks, in steps of `accumulation` micro-batches; `ops` as `on_device` decides them."""
    n, number = parameters(shape), engine.number_bytes
    share = 1 / world if engine.stage else 1.0
    copied = bool(engine.stage) or number == 2
    explicit = ops.attention == "explicit"
    held = image_bytes(shape, engine.recompute, number, explicit=explicit)
    working = working_bytes(shape, engine.recompute, number, explicit=explicit)
    memory = Memory(
        masters=4 * n * share if copied else 0.0,
        moments=moment_bytes(shape, optim) * share,
        average=4 * n * share if optim.ema_decay is not None else 0.0,
        activations=micro_batch * (held + working + edge_bytes(shape, number)),
        **_traffic(engine, shape, world, accumulation > 1)._asdict(),
    )
    return _offloaded(memory, engine)


def _offloaded(memory: Memory, engine: EngineConfig) -> Memory:
    """Without what waits in the host's memory; gradients still pass through the device."""
    if engine.offload == "none":
        return memory
    weights = 0.0 if engine.offload == "optimizer+parameters" else memory.weights
    return replace(memory, masters=0.0, moments=0.0, average=0.0, update=0.0, weights=weights)


class _Traffic(NamedTuple):
    """The parts of a `Memory` that depend on how gradients and weights travel."""

    weights: float
    gradients: float
    accumulated: float
    update: float
    retained: float = 0.0
    buffers: float = 0.0
    reduction: float = 0.0


def _traffic(engine: EngineConfig, shape: Shape, world: int, accumulates: bool) -> _Traffic:
    """As DeepSpeed 0.19 allots them, and our own engine."""
    n, number = parameters(shape), engine.number_bytes
    weights = number * n
    in_fp32 = 4 * n if number == 2 else 0
    part = weights / world
    held = 0.0 if not accumulates else part if engine.stage in (2, 3) else weights
    if engine.stage is None:
        return _Traffic(weights, weights, held, update=max(0.0, in_fp32 - weights))
    if engine.stage == 0:  # all gradients are copied into one tensor, also on one rank
        return _Traffic(weights, weights, held, in_fp32, reduction=weights)
    bucket = number * buckets_of(shape).reduce
    copies = bucket if world > 1 else 0
    update = in_fp32 / world + part
    if engine.stage == 3:
        gathered = number * min(n, LIVE)
        second = weights / engine.zero_hpz if engine.zero_hpz else 0
        return _Traffic(part + second, part, held, update, bucket, gathered + 2 * copies)
    return _Traffic(weights, part, held, update, buffers=2 * bucket, reduction=copies)


def disk_bytes(shape: Shape, engine: EngineConfig, optim: OptimConfig, world: int) -> float:
    """Bytes that each rank takes in `engine.offload_folder`: what is offloaded and a copy of it for commits."""
    if engine.offload_folder is None:
        return 0.0
    each = 8  # masters, and their gradients
    each += 4 * (optim.ema_decay is not None)
    each += engine.number_bytes * (engine.offload == "optimizer+parameters")
    return 2 * (each * parameters(shape) + moment_bytes(shape, optim)) / world


def moment_bytes(shape: Shape, optim: OptimConfig) -> float:
    """Bytes that the optimizer keeps for all weights together; Adafactor's factors are too small to count."""
    first = 2 if optim.moment_dtype == "bf16" else 4
    n = parameters(shape)
    if optim.optimizer in ("adamw", "lamb"):
        return (first + 4) * n
    if optim.optimizer == "muon":
        return first * n + 4 * (n - shape.depth * block_matrices(shape))
    return first * n
