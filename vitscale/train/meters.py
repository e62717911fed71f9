"""What is measured between two log lines; never imports torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from vitscale.config.plan import Plan
from vitscale.train.progress import Progress
from vitscale.train.protocols import Export, Loader, MicroBatch
from vitscale.train.ranks import SideBySide


class Sensors(NamedTuple):
    """What this rank measures of itself: seconds since they were last asked for, and memory it holds."""

    copied_s: Callable[[], float]
    forward_s: Callable[[], float]
    memory_bytes: Callable[[], float]


class Window:
    """Losses, norms and times since the last reading.

    Args:
        plan: of the run.
        gather: the values of every rank, on every rank.
        flops_per_image: of a training step.
        loader: of this rank.
        sensors: of this rank.
        side_by_side: what the ranks come to beside each other.
        export: takes the numbers of this rank at each reading, for those who watch the cluster.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        gather: Callable[[dict[str, float]], list[dict[str, float]]],
        flops_per_image: float,
        loader: Loader,
        sensors: Sensors,
        side_by_side: SideBySide,
        export: Export | None = None,
    ) -> None:
        self.plan, self.gather, self.loader = plan, gather, loader
        self.flops_per_image, self.sensors = flops_per_image, sensors
        self.side_by_side, self.export = side_by_side, export
        self.restart()

    def restart(self) -> None:
        """Begin a new window; what the last one held is forgotten."""
        self.losses: list[float] = []
        self.norm = 0.0
        self.steps = 0
        self.lr = 0.0
        self.wait_s = 0.0
        self.since = time.perf_counter()
        self.worked = self.loader.work
        self.sensors.copied_s()
        self.sensors.forward_s()

    def take(self, feed: Iterator[MicroBatch]) -> MicroBatch:
        """The next micro-batch; the time it took is counted as waiting for data."""
        before = time.perf_counter()
        batch = next(feed)
        self.wait_s += time.perf_counter() - before
        return batch

    def add(self, loss: float | None, norm: float | None, lr: float) -> None:
        """Note one step: its mean loss over all ranks, None if it was skipped, and the gradient norm."""
        self.steps += 1
        self.lr = lr
        if loss is not None and norm is not None:
            self.losses.append(loss)
            self.norm = norm

    def read(self, progress: Progress) -> dict[str, float]:
        """Metrics of the window over all ranks; a new window begins.

        Loss and norm are those of the steps that were applied, and absent where all were skipped.
        """
        own, seconds = self._own()
        ranks = self.gather(own)
        steps, lr = self.steps, self.lr
        learned = (
            {"train/loss": _mean(self.losses), "train/grad_norm": self.norm} if self.losses else {}
        )
        self._tell_watchers(own, learned.get("train/loss"), progress.step)
        self.restart()

        def column(name: str) -> list[float]:
            return [rank[name] for rank in ranks]

        images_per_s = steps * self.plan.batch / seconds
        return learned | {
            "train/lr": lr,
            "train/epoch": progress.images / self.plan.epoch_images,
            "train/images": float(progress.images),
            "speed/images_per_s": images_per_s,
            "speed/step_ms": seconds / steps * 1e3,
            "speed/data_wait_percent": _mean(column("wait")) * 100,
            "speed/data_read_ms": _mean(column("read_s")) / steps * 1e3,
            "speed/data_decode_ms": _mean(column("decode_s")) / steps * 1e3,
            "speed/data_copy_ms": _mean(column("copy_s")) / steps * 1e3,
            "speed/tflops_per_s": images_per_s * self.flops_per_image / 1e12,
            "data/bad_images": math.fsum(column("bad")),
            "data/lost_images": math.fsum(column("lost")),
            **self.side_by_side.compare(progress.step, ranks),
        }

    def _own(self) -> tuple[dict[str, float], float]:
        """What this rank measured, and the seconds of the window."""
        seconds = time.perf_counter() - self.since
        work, before, steps = self.loader.work, self.worked, self.steps
        wait_s, share = self.wait_s / steps, self.plan.batch / self.plan.world
        own = {
            "wait": self.wait_s / seconds,
            "read_s": work.read_s - before.read_s,
            "decode_s": work.decode_s - before.decode_s,
            "copy_s": self.sensors.copied_s(),
            "bad": self.loader.bad_images,
            "lost": work.lost,
            "step_s": seconds / steps,
            "wait_s": wait_s,
            "own_s": wait_s + self.sensors.forward_s() / steps,
            "images_per_s": steps * share / seconds,
            "memory_bytes": self.sensors.memory_bytes(),
        }
        return own, seconds

    def _tell_watchers(self, own: Mapping[str, float], loss: float | None, step: int) -> None:
        if self.export is None:
            return
        told = {
            "step": float(step),
            "images_per_second": own["images_per_s"],
            "data_wait_ratio": own["wait"],
            "memory_bytes": own["memory_bytes"],
        }
        self.export(told if loss is None else told | {"loss": loss})


def _mean(values) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)
