"""What is measured between two log lines; never imports torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from vitscale.config.plan import Plan
from vitscale.errors import NotFiniteError
from vitscale.train.progress import Progress
from vitscale.train.protocols import Loader, MicroBatch


class Window:
    """Losses, norms and times since the last reading.

    Device values are only kept; converting them to numbers in `read` is what waits for the device.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        gather: Callable[[dict[str, float]], list[dict[str, float]]],
        flops_per_image: float,
        loader: Loader,
        copied_s: Callable[[], float],
    ) -> None:
        self.plan, self.gather = plan, gather
        self.flops_per_image, self.loader, self.copied_s = flops_per_image, loader, copied_s
        self._restart()

    def _restart(self) -> None:
        self.losses: list[Any] = []
        self.norms: list[Any] = []
        self.lr = 0.0
        self.wait_s = 0.0
        self.since = time.perf_counter()
        self.worked = self.loader.work

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
        work, before = self.loader.work, self.worked
        own = {
            "finite": float(all(map(math.isfinite, losses + norms))),
            "loss": _mean(losses),
            "last_norm": norms[-1],
            "norm": _mean(norms),
            "wait": self.wait_s / seconds,
            "read_s": work.read_s - before.read_s,
            "decode_s": work.decode_s - before.decode_s,
            "copy_s": self.copied_s(),
            "bad": self.loader.bad_images,
            "lost": work.lost,
        }
        ranks = self.gather(own)
        steps, lr = len(norms), self.lr
        self._restart()
        _insist_on_finite(ranks, progress, steps)

        def column(name: str) -> list[float]:
            return [rank[name] for rank in ranks]

        images_per_s = steps * self.plan.batch / seconds
        return {
            "train/loss": _mean(column("loss")),
            "train/grad_norm": _mean(column("last_norm")),
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
        }


def _mean(values) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if all(map(math.isfinite, numbers)) else math.nan


def _insist_on_finite(ranks: list[dict[str, float]], progress: Progress, steps: int) -> None:
    culprits = [rank for rank, values in enumerate(ranks) if not values["finite"]]
    if culprits:
        raise NotFiniteError(
            "the loss or a gradient norm is not finite",
            where=f"rank {', '.join(map(str, culprits))}, steps {progress.step - steps + 1} to "
            f"{progress.step}",
            given=f"mean loss {ranks[culprits[0]]['loss']}, gradient norm {ranks[culprits[0]]['norm']}",
            do="Nothing of it was committed. Lower optim.lr, lengthen optim.warmup or set "
            "optim.clip_norm, then run the same command again.",
        )
