"""What the planner foresees on 8 to 4096 H100: the picture and the table of docs/scaling.md. No GPU is involved.

    python -m bench.scaling [--to docs/pictures/scaling.png]

Every point has 16384 images a step, however many GPUs there are, 8 of them a machine, each with a port of 400 Gbit/s;
ZeRO stage and recomputation are what `auto` takes, the micro-batch is the largest of those within 1 % of the fastest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig
from vitscale.config.ops import OpsConfig, on_device
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.planner.choice import chosen
from vitscale.planner.forecast import Job
from vitscale.planner.hardware import ACCELERATORS, USABLE, Cluster

MODELS = ("S/16", "B/16", "L/16", "H/14", "G/14", "22B/14")
WORLDS = tuple(2**power for power in range(3, 13))
BATCH = 16384
GPU = "H100"
CLASSES = 21843
AUTO = EngineConfig(recompute="auto")
OPS = on_device(OpsConfig(), "cuda", AUTO.precision)


def job_of(variant: str, world: int) -> Job:
    """The job that trains `variant` at 224 px on `world` GPUs as fast as any."""
    shape, gpu, rank_batch = (
        ModelConfig(variant=variant).shape(CLASSES),
        ACCELERATORS[GPU],
        BATCH // world,
    )
    cluster, found = Cluster(gpu, world, gpu.per_node), []
    for images in (m for m in range(1, rank_batch + 1) if rank_batch % m == 0):
        steps = rank_batch // images
        plan = Plan(world, BATCH, images, steps, BATCH, 1000, 0, 50, 1000, None, None)
        needs = chosen(AUTO, shape, OptimConfig(), plan, USABLE * gpu.memory, OPS)
        found.append(Job(shape, needs.engine, needs.optim, plan, OPS, cluster))
    fitting = [job for job in found if job.fits]
    least = min(job.step.total for job in fitting)
    return [job for job in fitting if job.step.total <= 1.01 * least][-1]


def table(jobs: dict[str, list[Job]]) -> str:
    """A row a model and size of cluster, in Markdown."""
    lines = [
        "| model | GPUs | stage | recompute | micro-batch | GB a GPU | images/s | MFU | speed a GPU, of that on 8 |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for variant, series in jobs.items():
        for job in series:
            if job.plan.world in (8, 64, 512, 4096):
                lines.append(row(variant, job, series[0]))
    return "\n".join(lines)


def row(variant: str, job: Job, first: Job) -> str:
    """One line of the table; `first` is the same model on the fewest GPUs."""
    cells = (
        variant,
        job.plan.world,
        job.engine.stage,
        job.engine.recompute,
        job.plan.micro_batch,
        f"{job.memory.peak / 1e9:.1f}",
        f"{job.images_per_s:,.0f}",
        f"{job.mfu:.1%}",
        f"{efficiency(job, first):.0%}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def efficiency(job: Job, first: Job) -> float:
    """Images a second and GPU over those on the fewest GPUs."""
    return (job.images_per_s / job.plan.world) / (first.images_per_s / first.plan.world)


def draw(jobs: dict[str, list[Job]], path: Path) -> None:
    """Speed and efficiency over the number of GPUs, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Foreseen, not measured: 224 px, {BATCH} images a step, {GPU}, 8 a machine")
    speed, share = figure.subplots(1, 2)
    for variant, series in jobs.items():
        worlds = [job.plan.world for job in series]
        label = f"ViT-{variant}"
        speed.plot(worlds, [job.images_per_s for job in series], "o-", markersize=3, label=label)
        percent = [100 * efficiency(job, series[0]) for job in series]
        share.plot(worlds, percent, "o-", markersize=3, label=label)
    speed.set_yscale("log")
    speed.set_ylabel("speed of the job (images/s)")
    share.set_ylabel("speed of a GPU, of that on 8 GPUs (%)")
    share.set_ylim(0, 110)
    for axes in (speed, share):
        _finish(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})


def _finish(axes: Any) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(WORLDS, [str(world) for world in WORLDS])
    axes.set_xlabel("GPUs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("docs/pictures/scaling.png"))
    arguments = parser.parse_args()
    jobs = {variant: [job_of(variant, world) for world in WORLDS] for variant in MODELS}
    draw(jobs, arguments.to)
    print(table(jobs))


if __name__ == "__main__":
    main()
