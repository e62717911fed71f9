"""The loop of every run: pretraining, fine-tuning, benches and tests. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vitscale.config.plan import Plan
from vitscale.train.progress import Progress
from vitscale.train.protocols import (
    Checkpoints,
    Engine,
    Evaluator,
    Loader,
    Meters,
    Stop,
    Tracker,
)


@dataclass(frozen=True)
class Run:
    """The collaborators of one run, built once in `setup.py`."""

    plan: Plan
    checkpoints: Checkpoints
    loader: Loader
    engine: Engine
    schedule: Callable[[int], float]
    meters: Meters
    tracker: Tracker
    evaluate: Evaluator
    stop: Stop
    beat: Callable[[int, str], None]


def train(run: Run) -> tuple[str, Progress]:
    """Train from the last commit to the end, or until a stop is asked for.

    Returns:
        "finished" or "stopped", and how far the run is; both are committed.

    Raises:
        NotFiniteError: a loss or gradient norm was not finite; nothing of it is committed.
    """
    plan = run.plan
    progress = run.checkpoints.restore()
    feed = run.loader.batches(progress.images)  # made after restore: it starts where the run is
    while not progress.done:
        one_step(run, feed, progress)
        progress = progress.after(plan.batch)
        stopping = run.stop.asked(progress)
        saving = stopping or progress.due(plan.save_every)
        run.beat(progress.step, "save" if saving else "step")
        if saving or progress.due(plan.log_every):
            # The one place where the host waits for the device, and before anything is committed.
            run.tracker.metrics(run.meters.read(progress), progress.step)
        if saving:
            run.checkpoints.save(progress)
        if stopping:
            run.checkpoints.finish(progress)
            return "stopped", progress
        if progress.due(plan.evaluate_every) and not progress.done:
            run.beat(progress.step, "evaluate")
            run.tracker.metrics(run.evaluate(), progress.step)
    run.beat(progress.step, "evaluate")
    run.tracker.metrics(run.evaluate(), progress.step)
    run.checkpoints.finish(progress)
    return "finished", progress


def one_step(run: Run, feed, progress: Progress) -> None:
    """Forward, backward and update over one global batch."""
    run.beat(progress.step, "data")
    batches = [run.meters.take(feed) for _ in range(run.plan.accumulation)]
    run.beat(progress.step, "step")
    run.engine.begin(progress.step, [batch.labels for batch in batches])
    lr, losses = run.schedule(progress.step), []
    for index, batch in enumerate(batches):
        run.beat(progress.step, "step")
        last = index == run.plan.accumulation - 1
        losses.append(run.engine.accumulate(batch.images, batch.labels, last=last))
    run.meters.add(losses, run.engine.step(lr), lr)
