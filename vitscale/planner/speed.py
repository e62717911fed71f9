"""How long a step takes: a roofline of matrix products and of memory traffic, and what communication adds to it.

D width, H heads, T tokens, n parameters, N ranks. The constants below were fitted to the training speeds that timm
publishes for eight models on an RTX 3090 and are tested against them; `reached` scales the result to what other
accelerators were seen to reach (planner/hardware.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vitscale.config.engine import EngineConfig
from vitscale.config.model import Shape
from vitscale.planner.activations import image_bytes
from vitscale.planner.buckets import buckets_of
from vitscale.planner.hardware import DISK_BYTES_S, HOST_BYTES_S, Accelerator, Cluster
from vitscale.planner.memory import LIVE
from vitscale.planner.size import dense_flops, parameters, train_flops

BANDWIDTH_SHARE = 0.67
"""Of the memory's bandwidth, that elementwise kernels reach."""
LINK_SHARE = 0.75
"""Of the network's bandwidth, that a collective reaches."""
LATENCY_S = 15e-6
"""Of a collective, for each doubling of the number of ranks."""
UPDATE_BYTES = 34
"""Read and written for each parameter by an update with float32 moments and bf16 weights."""


@dataclass(frozen=True)
class Kernels:
    """Bytes that elementwise operations move for one token in one block, forward and backward."""

    per_width: int = 134
    """Times D: norms, activation, sums and casts, bf16 throughout."""
    per_score: int = 0
    """Times T H: scores of attention that is not fused."""


EAGER = Kernels()
AMP = Kernels(per_width=240, per_score=60)
"""torch's autocast with a residual stream in float32 and plain attention, as timm ran it in 2022."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, the same on every rank."""

    compute: float
    """Forward and backward passes of all micro-batches."""
    update: float
    exposed: float
    """Communication that no computation hides."""

    @property
    def total(self) -> float:
        return self.compute + self.update + self.exposed


def micro_batch_seconds(
    shape: Shape,
    gpu: Accelerator,
    images: int,
    *,
    recompute: str = "none",
    kernels: Kernels = EAGER,
) -> float:
    """Forward and backward pass of `images` images on one accelerator."""
    tokens = shape.prefix + shape.kept_patches
    products = images * (train_flops(shape) + again_flops(shape, recompute)) / gpu.matmul
    per_token = kernels.per_width * shape.width + kernels.per_score * tokens * shape.heads
    extra = (shape.dropout, shape.drop_path, shape.layer_scale)
    per_token += 20 * shape.width * sum(map(bool, extra))
    if recompute != "none":
        per_token *= 4 / 3  # the forward's share of it once more
    moved = images * shape.depth * tokens * per_token / (gpu.bandwidth * BANDWIDTH_SHARE)
    # To the host and back, beside nothing: no copy is begun before its block has been computed.
    copied = 2 * images * image_bytes(shape, "full") if recompute == "offload" else 0
    return (products + moved) / gpu.reached + copied / HOST_BYTES_S


def again_flops(shape: Shape, recompute: str) -> int:
    """Operations that the backward pass of one image repeats under a mode of recomputation."""
    if recompute in ("none", "cheap"):
        return 0
    first, whole = dense_flops(shape)
    return first if recompute == "mlp" else whole


def step_seconds(
    shape: Shape, engine: EngineConfig, cluster: Cluster, *, micro_batch: int, accumulation: int
) -> StepTime:
    """One optimizer step of `accumulation` micro-batches on every rank."""
    once = micro_batch_seconds(shape, cluster.gpu, micro_batch, recompute=engine.recompute)
    share = cluster.world if engine.stage else 1
    moved = UPDATE_BYTES * parameters(shape) / share
    update = moved / (cluster.gpu.bandwidth * BANDWIDTH_SHARE)
    if engine.offload != "none":
        update = moved / waiting_bytes_s(engine, cluster)
    if engine.offload == "optimizer+parameters":  # both passes fetch the rank's part of them
        fetched = 2 * engine.number_bytes * parameters(shape) / share
        once += fetched / waiting_bytes_s(engine, cluster)
    exposed = exposed_seconds(shape, engine, cluster, once, accumulation)
    return StepTime(once * accumulation, update, exposed)


def waiting_bytes_s(engine: EngineConfig, cluster: Cluster) -> float:
    """Bytes/s of a rank to and from where offloaded state waits: memory no faster than the way to it, or a disk."""
    if engine.offload_folder is None:
        return HOST_BYTES_S
    return DISK_BYTES_S / min(cluster.per_node, cluster.world)


def exposed_seconds(
    shape: Shape, engine: EngineConfig, cluster: Cluster, once: float, accumulation: int
) -> float:
    """Communication of a step that is not hidden behind micro-batches of `once` seconds.

    Under stages 1 to 3 gradients travel during the backward pass, two thirds of a micro-batch; without a stage and
    under stage 0 after it. Stages 1 and 2 gather the new weights when nothing is left to compute; stage 3 gathers them
    in every micro-batch; hierarchical partitioning does so within machines but for the first time in a step.
    """
    if cluster.world == 1:
        return 0.0
    spread = _once(shape, engine, cluster) / LINK_SHARE
    messages = math.ceil(parameters(shape) / buckets_of(shape).reduce)
    waiting = LATENCY_S * messages * math.log2(cluster.world)
    if not engine.stage:
        return 2 * (spread + waiting)
    if engine.stage == 3:
        near, near_waiting = spread, waiting
        if engine.zero_hpz:
            machine = replace(cluster, world=engine.zero_hpz, per_node=engine.zero_hpz)
            near = _once(shape, engine, machine) / LINK_SHARE
            near_waiting = LATENCY_S * messages * math.log2(machine.world)
        again = _let_go(shape)
        first = max(0.0, 2 * spread + again * near - once) + 2 * waiting + again * near_waiting
        later = max(0.0, spread + (1 + again) * near - once) + waiting + (1 + again) * near_waiting
        return first + (accumulation - 1) * later
    times = accumulation if engine.stage == 2 else 1
    return times * (max(0.0, 2 * spread - 2 / 3 * once) + 2 * waiting) + spread + waiting


def _once(shape: Shape, engine: EngineConfig, cluster: Cluster) -> float:
    """Seconds to reduce and scatter all gradients, or to gather all weights, at full bandwidth."""
    return _spread_bytes(shape, engine, cluster.world) / cluster.bus


def _let_go(shape: Shape) -> float:
    """Share of the weights that stage 3 lets go of after the forward pass and gathers again for the backward pass.

    DeepSpeed keeps `LIVE` numbers.
    """
    return max(0.0, 1 - LIVE / parameters(shape))


def traffic_bytes(shape: Shape, engine: EngineConfig, world: int, accumulation: int) -> float:
    """Bytes each rank sends in one step, as a ring of all ranks would send them.

    A sum on all ranks is sent twice. Stages 1 and 2 take it for their buckets, of which every rank then uses its part:
    DeepSpeed's choice for models that are small for so many ranks. Stage 1 sums once a step, stage 2 and 3 in every
    micro-batch.
    """
    spread = _spread_bytes(shape, engine, world)
    if engine.stage != 3:
        return {0: 2, 1: 3, 2: 2 * accumulation + 1}[engine.stage or 0] * spread
    gathered = accumulation * (1 + _let_go(shape))
    if not engine.zero_hpz:
        return (accumulation + gathered) * spread
    within = _spread_bytes(shape, engine, engine.zero_hpz)
    return (accumulation + 1) * spread + (gathered - 1) * within


def _spread_bytes(shape: Shape, engine: EngineConfig, world: int) -> float:
    """What each rank sends when all gradients are reduced and scattered, or all weights gathered."""
    return engine.number_bytes * parameters(shape) * (world - 1) / world


def mfu(shape: Shape, images_per_s: float, peak: float) -> float:
    """Share of `peak` FLOP/s that one accelerator makes use of, recomputation not counted (arXiv 2204.02311, B)."""
    return train_flops(shape) * images_per_s / peak
