"""What is measured between two log lines; never imports torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from vitscale.config.plan import Plan
from vitscale.errors import NotFiniteError
from vitscale.train.progress import Progress
from vitscale.train.protocols import MicroBatch


class Window:
    """Losses, norms and times since the last reading.

    Device values are only kept; converting them to numbers in `read` is what waits for the device.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        gather: Callable[[list[float]], list[list[float]]],
        flops_per_image: float,
        bad_images: Callable[[], int],
    ) -> None:
        self.plan, self.gather = plan, gather
        self.flops_per_image, self.bad_images = flops_per_image, bad_images
        self._restart()

    def _restart(self) -> None:
        self.losses: list[Any] = []
        self.norms: list[Any] = []
        self.lr = 0.0
        self.wait_s = 0.0
        self.since = time.perf_counter()

    def take(self, feed: Iterator[MicroBatch]) -> MicroBatch:
        """The next micro-batch; the time it took is counted as waiting for data."""
        before = time.perf_counter()
        batch = next(feed)
        self.wait_s += time.perf_counter() - before
        return batch

    def add(self, losses: list[Any], norm: Any, lr: float) -> None:
        """Note one finished step."""
        self.losses += losses
        self.norms.append(norm)
        self.lr = lr

    def read(self, progress: Progress) -> dict[str, float]:
        """Metrics of the window over all ranks; a new window begins.

        Raises:
            NotFiniteError: on every rank, if any loss or norm of any rank in the window is not.
        """
        losses = [float(loss) for loss in self.losses]
        norms = [float(norm) for norm in self.norms]
        seconds = time.perf_counter() - self.since
        own = [_mean(losses), norms[-1], _mean(norms), self.wait_s / seconds, self.bad_images()]
        own.append(float(all(map(math.isfinite, losses + norms))))
        ranks = self.gather(own)
        steps, lr = len(norms), self.lr
        self._restart()
        _insist_on_finite(ranks, progress, steps)
        loss, norm, _, wait, _, _ = (_mean(column) for column in zip(*ranks, strict=True))
        images_per_s = steps * self.plan.batch / seconds
        return {
            "train/loss": loss,
            "train/grad_norm": norm,
            "train/lr": lr,
            "train/epoch": progress.images / self.plan.epoch_images,
            "train/images": float(progress.images),
            "speed/images_per_s": images_per_s,
            "speed/step_ms": seconds / steps * 1e3,
            "speed/data_wait_percent": wait * 100,
            "speed/tflops_per_s": images_per_s * self.flops_per_image / 1e12,
            "data/bad_images": float(sum(rank[4] for rank in ranks)),
        }


def _mean(values) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if all(map(math.isfinite, numbers)) else math.nan


def _insist_on_finite(ranks: list[list[float]], progress: Progress, steps: int) -> None:
    culprits = [rank for rank, values in enumerate(ranks) if not values[-1]]
    if culprits:
        raise NotFiniteError(
            "the loss or a gradient norm is not finite",
            where=f"rank {', '.join(map(str, culprits))}, steps {progress.step - steps + 1} to "
            f"{progress.step}",
            given=f"mean loss {ranks[culprits[0]][0]}, gradient norm {ranks[culprits[0]][2]}",
            do="Nothing of it was committed. Lower optim.lr, lengthen optim.warmup or set "
            "optim.clip_norm, then run the same command again.",
        )
