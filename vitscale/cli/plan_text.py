"""What `vitscale plan` says of memory, time and money."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vitscale.config.dataset import DatasetFacts
from vitscale.config.load import preset_shape
from vitscale.planner.activations import MODES, image_bytes
from vitscale.planner.forecast import Job, Needs, alternatives, settings_of
from vitscale.planner.size import forward_flops, parameters
from vitscale.units import human_bytes, human_seconds

_FP8 = "counted as bf16: what its products save in time, and the room of their casts, are not known"


def model_record(variant: str, image_px: int) -> dict[str, Any]:
    """Of a preset alone: parameters without a classifier, forward GFLOPs likewise, activation bytes by recomputation.

    Raises:
        ConfigError: there is no such variant, or the image does not suit it.
    """
    shape = preset_shape(variant, image_px)
    head = shape.width + 1
    return {
        "model": variant,
        "image_px": image_px,
        "tokens": shape.tokens,
        "parameters": parameters(shape) - head,
        "forward_gflop": (forward_flops(shape) - 2 * shape.width) / 1e9,
        "activation_bytes_per_image": {mode: image_bytes(shape, mode) for mode in MODES},
    }


def model_text(record: dict[str, Any]) -> str:
    """The same for people."""
    held = record["activation_bytes_per_image"]
    lines = (
        f"ViT-{record['model']} at {record['image_px']} px, {record['tokens']} tokens, no classifier",
        f"parameters  {record['parameters']:,}",
        f"forward     {record['forward_gflop']:.4g} GFLOPs an image",
        *(f"held        {human_bytes(held[mode])} an image, recompute {mode}" for mode in held),
    )
    return "\n".join(lines)


def needs_record(needs: Needs) -> dict[str, Any]:
    """What is foreseen whatever a job runs on, as JSON-like values: bytes of a rank, and of a commit."""
    engine = needs.engine
    record = {
        "engine": {"stage": engine.stage, "recompute": engine.recompute},
        "memory": vars(needs.memory) | {"peak": needs.memory.peak},
        "sent_bytes_per_step": needs.sent_bytes,
        "checkpoint_bytes": needs.checkpoint_bytes,
    }
    record |= {"disk_bytes": needs.disk_bytes} if needs.disk_bytes else {}
    return record | ({needs.ops.linear: _FP8} if needs.ops.in_fp8 else {})


def job_record(job: Job, facts: DatasetFacts) -> dict[str, Any]:
    """Forecast of a job as JSON-like values: bytes, seconds, and images a second of the whole job."""
    step, image = job.step, _image_bytes(facts)
    record = needs_record(job) | {
        "step_s": vars(step) | {"total": step.total},
        "images_per_s": job.images_per_s,
        "mfu": job.mfu,
        "hours": job.hours,
        "gpu_hours": job.hours * job.plan.world,
        "checkpoint_stall_s": job.stall_s,
        "alternatives": [
            {"settings": settings_of(other, job), "images_per_s": other.images_per_s}
            for other in alternatives(job)[:3]
        ],
    }
    if image:
        record["read_bytes_per_s"] = job.images_per_s * image
        record["decode_cores"] = job.decode_cores(image)
    return record


def needs_lines(needs: Needs) -> Iterator[tuple[str, str]]:
    """(name, text) of each line of what is foreseen whatever the job runs on."""
    yield from _engine_lines(needs)
    yield "memory", f"{human_bytes(needs.memory.peak)} at most on each rank, of it"
    yield from _parts(needs)
    yield "sent", f"{human_bytes(needs.sent_bytes)} by each rank in a step"
    yield "checkpoint", human_bytes(needs.checkpoint_bytes)


def job_lines(job: Job, facts: DatasetFacts) -> Iterator[tuple[str, str]]:
    """(name, text) of each line for people."""
    step, image = job.step, _image_bytes(facts)
    yield from _engine_lines(job)
    room = human_bytes(job.cluster.gpu.memory)
    yield "memory", f"{human_bytes(job.memory.peak)} of {room} at most on each GPU, of it"
    yield from _parts(job)
    yield (
        "step",
        f"{step.total:.3g} s: compute {step.compute:.3g}, update {step.update:.2g}, "
        f"waiting for others {step.exposed:.2g}; {human_bytes(job.sent_bytes)} sent by each GPU",
    )
    yield "speed", f"{job.images_per_s:,.0f} images/s, {job.mfu:.1%} MFU"
    gpu_hours = job.hours * job.plan.world
    yield "time", f"{human_seconds(job.hours * 3600)}, {gpu_hours:,.0f} GPU-hours"
    yield (
        "checkpoint",
        f"{human_bytes(job.checkpoint_bytes)}, training waits {job.stall_s:.2g} s for each",
    )
    if image:
        rate, cores = human_bytes(job.images_per_s * image), job.decode_cores(image)
        yield "reading", f"{rate}/s, {cores:,.0f} CPU cores to decode, all nodes together"
    better = alternatives(job)[0]
    if better.step.total < 0.98 * step.total:
        yield "faster", f"{settings_of(better, job)}: {better.images_per_s:,.0f} images/s"


def _engine_lines(needs: Needs) -> Iterator[tuple[str, str]]:
    stage, mode = needs.engine.stage, needs.engine.recompute
    name = "plain torch" if stage is None else f"ZeRO stage {stage}"
    yield "engine", f"{name}, recompute {mode}"
    if needs.ops.in_fp8:
        yield "fp8", _FP8


def _parts(needs: Needs) -> Iterator[tuple[str, str]]:
    for name, size in vars(needs.memory).items():
        if size:
            yield "", f"{human_bytes(size):>10} {name}"
    if needs.disk_bytes:
        yield "disk", f"{human_bytes(needs.disk_bytes)} of each rank in engine.offload_folder"


def _image_bytes(facts: DatasetFacts) -> float:
    return facts.bytes / facts.samples if facts.bytes else 0.0
