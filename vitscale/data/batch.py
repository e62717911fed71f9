"""A micro-batch of images, and how it is filled from a data set.

Letters: B images, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vitscale.config.dataset import MASKED
from vitscale.data.bad_images import BadImage
from vitscale.data.decode import decode
from vitscale.data.order import Slots
from vitscale.data.shards import ShardSet

"""Label of a slot whose image could not be used; its pixels are zero."""
_TASKS_PER_THREAD = 2

View = Callable[[Image.Image, int, int], Image.Image]
"""(image, epoch, sample id) -> the image at its final size."""


@dataclass(frozen=True)
class MicroBatch:
    """Images for one forward pass on one device."""

    images: torch.Tensor
    """[B, 3, H, W] uint8, in pinned memory where CUDA is available."""
    labels: torch.Tensor
    """[B] int64; `MASKED` (-1) for a slot that must not count."""
    ids: np.ndarray
    """[B] int64 sample ids, also of masked slots."""


@dataclass
class Filling:
    """A micro-batch being filled by several threads, each a part of the slots."""

    batch: MicroBatch
    parts: list[Future[list[tuple[int, str]]]]

    def finish(self) -> tuple[MicroBatch, list[tuple[int, str]]]:
        """Wait; the batch, and (sample id, reason) of every masked slot in slot order.

        Raises:
            Exception: what a thread raised.
        """
        return self.batch, [bad for part in self.parts for bad in part.result()]

    def cancel(self) -> None:
        for part in self.parts:
            part.cancel()


def start_filling(
    shards: ShardSet,
    slots: Slots,
    new_view: Callable[[], View],
    image: tuple[int, int],
    pool: ThreadPoolExecutor,
    threads: int,
) -> Filling:
    """Have `pool` read and decode the images of `slots`; every part of the work makes a view of its own."""
    pin = torch.cuda.is_available()
    images = torch.empty(len(slots), 3, *image, dtype=torch.uint8, pin_memory=pin)
    labels = torch.empty(len(slots), dtype=torch.int64, pin_memory=pin)
    batch = MicroBatch(images, labels, slots.ids)
    size = max(1, -(-len(slots) // (threads * _TASKS_PER_THREAD)))
    parts = [
        pool.submit(_fill, batch, shards, slots, new_view, slice(begin, begin + size))
        for begin in range(0, len(slots), size)
    ]
    return Filling(batch, parts)


def _fill(
    batch: MicroBatch, shards: ShardSet, slots: Slots, new_view: Callable[[], View], part: slice
) -> list[tuple[int, str]]:
    """Fill the slots of `part`; (sample id, reason) of those that had to be masked."""
    images, labels = batch.images.numpy(), batch.labels.numpy()
    view, bad = new_view(), []
    for slot in range(*part.indices(len(slots))):
        sample = int(slots.ids[slot])
        try:
            data, labels[slot] = shards.sample(sample)
            _put(view(decode(data), int(slots.epochs[slot]), sample), images[slot])
        except BadImage as error:
            images[slot], labels[slot] = 0, MASKED
            bad.append((sample, error.what))
    return bad


def _put(image: Image.Image, into: np.ndarray) -> None:
    """Copy an RGB image into uint8 [3, H, W]; by channel is twice as fast as a transposed copy."""
    for channel, pixels in enumerate(image.split()):
        into[channel] = pixels
