"""A micro-batch of images, and how it is filled from a corpus.

Letters: B images, H and W pixels, L labels at most.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from vitscale.config.dataset import MASKED
from vitscale.data.bad_images import BadImage
from vitscale.data.corpus import Corpus
from vitscale.data.mixture import Slots
from vitscale.data.pixels import Decoder

_TASKS_PER_THREAD = 2

Geometry = Callable[[np.ndarray, Slots], tuple[np.ndarray, np.ndarray]]
"""(width and height of each image [n, 2], slots) -> boxes int32 [n, 4], mirrored bool [n]"""

Retouch = Callable[[np.ndarray, Slots], None]
"""Changes views uint8 [n, H, W, 3] in place, by what their slots are."""


@dataclass(frozen=True)
class MicroBatch:
    """Images for one forward pass on one device."""

    images: torch.Tensor
    """[B, 3, H, W] uint8, channels last in memory, pinned where CUDA is available."""
    labels: torch.Tensor
    """[B] int64, or [B, L] where samples of the corpus have several; `MASKED` (-1) stands for no label, and in every
    place of a slot that must not count."""
    ids: np.ndarray
    """[B] int64 sample ids, also of masked slots."""
    epochs: np.ndarray
    """[B] int64."""


def counted(labels: torch.Tensor) -> torch.Tensor:
    """How many images of a micro-batch count: those with a label, int64 []."""
    return (labels.reshape(len(labels), -1) != MASKED).any(1).sum()


@dataclass(frozen=True)
class Outcome:
    """What filling came to: masked samples with the reason; thread seconds."""

    bad: list[tuple[int, str]]
    lost: int
    """Slots whose shard is missing for good."""
    read_s: float
    decode_s: float

    @classmethod
    def total(cls, parts: Iterable[Outcome]) -> Outcome:
        parts = list(parts)
        return cls(
            [pair for part in parts for pair in part.bad],
            sum(part.lost for part in parts),
            sum(part.read_s for part in parts),
            sum(part.decode_s for part in parts),
        )


@dataclass
class Filling:
    """A micro-batch being filled by several threads, each a part of the slots."""

    batch: MicroBatch
    parts: list[Future[Outcome]]

    def finish(self) -> tuple[MicroBatch, Outcome]:
        """Wait for the batch.

        Raises:
            Exception: what a thread raised.
        """
        return self.batch, Outcome.total(part.result() for part in self.parts)

    def cancel(self) -> None:
        for part in self.parts:
            part.cancel()


class Buffers:
    """Memory of earlier batches, used again once nothing refers to it: fresh pages cost time.

    Memory for CUDA comes pinned, and torch keeps and reuses that itself.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """An uint8 tensor of this shape with anything in it."""
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        free = self._free.setdefault(shape, [])
        whole = free.pop() if free else np.empty(shape, np.uint8)
        lent = whole[:]  # tensors hold on to this view; when the last of them goes, it goes
        weakref.finalize(lent, free.append, whole).atexit = False
        return torch.from_numpy(lent)


@dataclass(frozen=True)
class Filler:
    """Reads and decodes the images of slots on the threads of `pool`."""

    corpus: Corpus
    decoder: Decoder
    geometry: Callable[[], Geometry]
    """Makes a geometry for the use of one thread."""
    image: tuple[int, int]
    shrink: bool
    """Whether JPEGs may be decoded at a fraction of their size where the view allows it."""
    pool: ThreadPoolExecutor
    threads: int
    retouch: Callable[[], Retouch] | None = None
    """Makes what is done to finished views, for the use of one thread; None does nothing."""
    buffers: Buffers = field(default_factory=Buffers)

    def start(self, slots: Slots) -> Filling:
        """Begin to fill a micro-batch."""
        pixels = self.buffers.take((len(slots), *self.image, 3))
        several = (self.corpus.most_labels,) if self.corpus.most_labels > 1 else ()
        pin = torch.cuda.is_available()
        labels = torch.empty(len(slots), *several, dtype=torch.int64, pin_memory=pin)
        batch = MicroBatch(pixels.permute(0, 3, 1, 2), labels, slots.ids, slots.epochs)
        size = max(1, -(-len(slots) // (self.threads * _TASKS_PER_THREAD)))
        parts = [
            self.pool.submit(self._fill, pixels, labels, slots, slice(begin, begin + size))
            for begin in range(0, len(slots), size)
        ]
        return Filling(batch, parts)

    def _fill(
        self, pixels: torch.Tensor, labels: torch.Tensor, slots: Slots, part: slice
    ) -> Outcome:
        out, slots = pixels.numpy()[part], slots[part]
        rows = self.corpus.rows(slots.ids)
        boxes, mirrored = self.geometry()(rows.files.sizes, slots)
        filled = self.decoder.fill(out, rows.files, boxes, mirrored, shrink=self.shrink)
        lost = set(np.flatnonzero(rows.files.handles < 0).tolist())
        bad = {slot: why for slot, why in filled.bad if slot not in lost}
        for slot in list(bad):
            try:
                data = self.corpus.reread(int(slots.ids[slot]))
                self.decoder.view(
                    data, out[slot], boxes[slot], bool(mirrored[slot]), shrink=self.shrink
                )
                del bad[slot]
            except BadImage as error:
                bad[slot] = error.what
        started = time.perf_counter()
        if self.retouch is not None:
            self.retouch()(out, slots)
        decode_s = filled.decode_s + time.perf_counter() - started
        bad |= {
            int(slot): "it has no label" for slot in np.flatnonzero(rows.labels[:, 0] == MASKED)
        }
        masked = [*bad, *lost]
        rows.labels[masked], out[masked] = MASKED, 0
        into = labels.numpy()[part]
        into[...] = rows.labels.reshape(into.shape)
        reasons = [(int(slots.ids[slot]), bad[slot]) for slot in sorted(bad) if slot not in lost]
        return Outcome(reasons, len(lost), filled.read_s, decode_s)
