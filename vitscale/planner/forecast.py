"""All that a job will need and take, for its recipe, data and accelerators; and what would suit them better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vitscale.config.engine import EngineConfig, impossible_engine
from vitscale.config.model import Shape
from vitscale.config.ops import OpsConfig, impossible_ops, unfit_for_fp8
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.errors import ConfigError
from vitscale.planner.activations import MODES
from vitscale.planner.hardware import USABLE, Cluster
from vitscale.planner.memory import Memory, disk_bytes, memory_of, moment_bytes
from vitscale.planner.size import parameters
from vitscale.planner.speed import StepTime, mfu, step_seconds, traffic_bytes, waiting_bytes_s

DECODE_S, DECODE_S_BYTE = 60e-6, 5.5e-9
"""Core-seconds to decode and crop a JPEG, and for each byte of it: 0.2 ms at 26 kB, 0.5 at 82 kB (docs/log.md)."""


@dataclass(frozen=True)
class Needs:
    """What is known of a job before its accelerators are; nothing of its engine is left to choose."""

    shape: Shape
    engine: EngineConfig
    optim: OptimConfig
    plan: Plan
    ops: OpsConfig
    """As `on_device` decides them."""

    @property
    def memory(self) -> Memory:
        return memory_of(
            self.shape,
            self.engine,
            self.optim,
            self.ops,
            micro_batch=self.plan.micro_batch,
            accumulation=self.plan.accumulation,
            world=self.plan.world,
        )

    @property
    def sent_bytes(self) -> float:
        """By each rank in a step."""
        return traffic_bytes(self.shape, self.engine, self.plan.world, self.plan.accumulation)

    @property
    def disk_bytes(self) -> float:
        """Of each rank, where it offloads to a disk."""
        return disk_bytes(self.shape, self.engine, self.optim, self.plan.world)

    @property
    def checkpoint_bytes(self) -> float:
        """Of one commit: masters, moments, average, and the model as it computes."""
        n = parameters(self.shape)
        average = 4 * n if self.optim.ema_decay is not None else 0
        model = self.engine.number_bytes * n if self.engine.stage else 0
        return 4 * n + moment_bytes(self.shape, self.optim) + average + model


@dataclass(frozen=True)
class Job(Needs):
    """A job on its accelerators: what a forecast is made for."""

    cluster: Cluster
    least_images: int = 1
    """Of a micro-batch, below which the recipe would be refused."""

    @property
    def fits(self) -> bool:
        return self.memory.peak <= USABLE * self.cluster.gpu.memory

    @property
    def step(self) -> StepTime:
        return step_seconds(
            self.shape,
            self.engine,
            self.cluster,
            micro_batch=self.plan.micro_batch,
            accumulation=self.plan.accumulation,
        )

    @property
    def images_per_s(self) -> float:
        """Of the whole job."""
        return self.plan.batch / self.step.total

    @property
    def mfu(self) -> float:
        return mfu(self.shape, self.images_per_s / self.plan.world, self.cluster.gpu.matmul)

    @property
    def hours(self) -> float:
        return self.plan.total_steps * self.step.total / 3600

    @property
    def stall_s(self) -> float:
        """That training waits for a commit: each rank copies its part to the host's memory or disk."""
        return self.checkpoint_bytes / self.plan.world / waiting_bytes_s(self.engine, self.cluster)

    def decode_cores(self, image_bytes: float) -> float:
        """CPU cores of the whole job that JPEGs of so many bytes keep busy."""
        return self.images_per_s * (DECODE_S + DECODE_S_BYTE * image_bytes)


def calibrated(job: Job, images_per_s: float) -> Job:
    """The job on accelerators that reach `images_per_s` together on one machine of them.

    Raises:
        ConfigError: that is no speed, or more than the accelerators could reach.
    """
    alone = min(job.cluster.per_node, job.plan.world)
    plan = replace(
        job.plan, world=alone, accumulation=job.plan.accumulation * job.plan.world // alone
    )
    one = replace(job, plan=plan, cluster=replace(job.cluster, world=alone))
    wanted = (
        job.plan.batch / images_per_s - one.step.update - one.step.exposed
        if images_per_s > 0
        else 0
    )
    reached = job.cluster.gpu.reached * one.step.compute / wanted if wanted > 0 else 0
    if not 0 < reached <= 1.5:
        raise ConfigError(
            f"{alone} of these GPUs would compute {one.images_per_s:,.0f} images/s by the data sheet's "
            "share that others reached",
            where="--measured",
            given=images_per_s,
            do="Give the images a second of one whole machine, as a run's log prints them.",
        )
    gpu = replace(job.cluster.gpu, reached=reached)
    return replace(job, cluster=replace(job.cluster, gpu=gpu))


def alternatives(job: Job) -> list[Job]:
    """The same batches on the same accelerators, with any stage from 1, recomputation and micro-batch that fit.

    None is among them for which the recipe would be refused. The fastest first; among equals the one that computes
    least again and cuts least.
    """
    found = [other for other in _variants(job) if other.fits]
    return sorted(found, key=lambda other: (round(other.step.total, 4), *_effort(other)))


def _effort(job: Job) -> tuple[int, int, int]:
    return MODES.index(job.engine.recompute), job.engine.stage or 0, job.plan.accumulation


def _variants(job: Job) -> Iterator[Job]:
    rank_batch = job.plan.rank_batch
    engine = job.engine
    cut = engine.zero_hpz or engine.offload_folder or engine.offload == "optimizer+parameters"
    for micro_batch in range(job.least_images, rank_batch + 1):
        if rank_batch % micro_batch:
            continue
        plan = replace(job.plan, micro_batch=micro_batch, accumulation=rank_batch // micro_batch)
        for stage in (3,) if cut else (1, 2, 3):
            for mode in MODES:
                chosen = {"kind": "deepspeed", "zero_stage": stage, "recompute": mode}
                other = replace(job, engine=job.engine.model_copy(update=chosen), plan=plan)
                if not _refused(other):
                    yield other


def _refused(job: Job) -> bool:
    """Whether a recipe could not have this `[engine]` and micro-batch."""
    return (
        any(impossible_engine(job.engine, job.optim.optimizer))
        or any(impossible_ops(job.ops, job.engine))
        or any(unfit_for_fp8(job.ops, job.shape, job.plan.micro_batch))
    )


def settings_of(job: Job, instead_of: Job | None = None) -> str:
    """The overrides that lead to this job, from another one where that is given."""
    engine = job.engine
    stage = "engine.kind=local" if engine.stage is None else f"engine.zero_stage={engine.stage}"
    if instead_of is not None and instead_of.engine.stage is None:
        stage = f"engine.kind=deepspeed {stage}"
    return f"train.micro_batch={job.plan.micro_batch} {stage} engine.recompute={engine.recompute}"


def fewest_ranks(job: Job, limit: int = 1 << 14) -> Job | None:
    """The fastest variant on the fewest ranks, doubled from the job's own, that fits; None up to `limit` ranks."""
    world = job.plan.world
    while world <= min(limit, job.plan.batch):
        if job.plan.batch % world == 0:
            rank_batch = job.plan.batch // world
            plan = replace(job.plan, world=world, micro_batch=rank_batch, accumulation=1)
            cluster = replace(job.cluster, world=world)
            fitting = alternatives(replace(job, plan=plan, cluster=cluster))
            if fitting:
                return fitting[0]
        world *= 2
    return None
