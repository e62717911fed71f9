"""What the loop asks of its collaborators. Anything that answers to these will do; tests bring stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from vitscale.engine.loss_scale import LossScale
from vitscale.train.progress import Progress

Export = Callable[[Mapping[str, float]], None]
"""Takes `step`, `loss`, `images_per_second`, `data_wait_ratio` (0 to 1) and `memory_bytes` of one rank."""


class MicroBatch(Protocol):
    """One forward pass of one device: images uint8 [B, 3, H, W], labels int64 [B] or [B, L], -1 where masked."""

    @property
    def images(self) -> Any: ...

    @property
    def labels(self) -> Any: ...


class Work(Protocol):
    """What reading and decoding took so far, in seconds summed over threads; slots of lost shards."""

    @property
    def read_s(self) -> float: ...

    @property
    def decode_s(self) -> float: ...

    @property
    def lost(self) -> int: ...


class Loader(Protocol):
    """Micro-batches from any position on, without end."""

    @property
    def work(self) -> Work: ...

    @property
    def bad_images(self) -> int: ...

    def batches(self, position: int) -> Iterator[MicroBatch]: ...


class Engine(Protocol):
    """One step: `begin` with the labels of its micro-batches, `accumulate` each, `losses`, then `step` or `discard`.

    `losses` has the mean of each rank, known to all; it is where the host waits for the device.
    """

    @property
    def loss_scale(self) -> LossScale: ...

    def begin(self, step: int, labels: list[Any]) -> None: ...

    def accumulate(self, images: Any, labels: Any, *, last: bool) -> Any: ...

    def losses(self) -> list[float]: ...

    def step(self, lr: float) -> Any: ...

    def discard(self) -> None: ...


class Meters(Protocol):
    """Takes the numbers of every step, None for the loss of one that was skipped; `read` sums them up."""

    def take(self, feed: Iterator[MicroBatch]) -> MicroBatch: ...

    def add(self, loss: float | None, norm: float | None, lr: float) -> None: ...

    def read(self, progress: Progress) -> dict[str, float]: ...

    def restart(self) -> None: ...


class Checkpoints(Protocol):
    """Where a run goes on from, and where it is kept: `save` begins a commit, `finish` waits for it."""

    def restore(self) -> Progress: ...

    def save(self, progress: Progress) -> None: ...

    def rewind(self, past: Progress) -> Progress: ...

    def finish(self, progress: Progress) -> None: ...


class Evaluator(Protocol):
    """Scores the model as it is; all ranks call it together."""

    def __call__(self) -> dict[str, float]: ...


class Stop(Protocol):
    """Whether to commit and end, and the ranks whose machine is being taken away; the same on every rank."""

    @property
    def leaving(self) -> list[int]: ...

    def asked(self, progress: Progress) -> bool: ...


class Tracker(Protocol):
    """Where metrics and files go."""

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def rewound(self, text: str) -> None: ...

    def close(self, status: Literal["FINISHED", "KILLED", "FAILED"]) -> None: ...
