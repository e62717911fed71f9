"""The loop of every run: pretraining, fine-tuning, benches and tests. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vitscale.config.plan import Plan
from vitscale.train.guard import Guard, mean_of
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
    guard: Guard
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
        NotFiniteError: too many steps were skipped, and the run can go back no further.
    """
    plan = run.plan
    progress = run.checkpoints.restore()
    feed = run.loader.batches(progress.images)  # made after restore: it starts where the run is
    saving = stopping = False
    while not progress.done:
        applied = one_step(run, feed, progress)
        progress = progress.after(plan.batch)
        if run.guard.wants_rewind:
            run.beat(progress.step, "save")
            progress = run.checkpoints.rewind(progress)
            feed, saving = run.loader.batches(progress.images), stopping
            run.meters.restart()
            continue
        stopping = stopping or run.stop.asked(progress)
        saving = saving or stopping or progress.due(plan.save_every)
        # What a skipped step should have committed waits for the next one that is applied, if there is one.
        commits = saving and (applied or progress.done)
        run.beat(progress.step, "save" if commits else "step")
        if commits or progress.due(plan.log_every):
            counts = run.guard.counts() | run.engine.loss_scale.metrics()
            run.tracker.metrics(run.meters.read(progress) | counts, progress.step)
        if commits:
            run.checkpoints.save(progress)
            saving = False
            if stopping and not progress.done:
                run.checkpoints.finish(progress)
                return "stopped", progress
        if progress.due(plan.evaluate_every) and not progress.done:
            run.beat(progress.step, "evaluate")
            run.tracker.metrics(run.evaluate(), progress.step)
    run.beat(progress.step, "evaluate")
    run.tracker.metrics(run.evaluate(), progress.step)
    run.checkpoints.finish(progress)
    return "finished", progress


def one_step(run: Run, feed, progress: Progress) -> bool:
    """Forward and backward over one global batch, and the update if the guard lets it pass; whether it was applied."""
    run.beat(progress.step, "data")
    batches = [run.meters.take(feed) for _ in range(run.plan.accumulation)]
    run.beat(progress.step, "step")
    run.engine.begin(progress.step, [batch.labels for batch in batches])
    for index, batch in enumerate(batches):
        run.beat(progress.step, "step")
        last = index == run.plan.accumulation - 1
        run.engine.accumulate(batch.images, batch.labels, last=last)
    lr, norm = run.schedule(progress.step), None
    losses = run.engine.losses()  # the one place where the host waits for the device
    if run.guard.passes(losses):
        norm = float(run.engine.step(lr))
    else:
        run.engine.discard()
    applied = run.guard.record(progress, losses, norm, run.engine.loss_scale)
    run.meters.add(mean_of(losses) if applied else None, norm, lr)
    return applied
