"""Training batches that can be taken up at any position on any number of ranks, and plain scans.

Threads read and decode a few micro-batches ahead; what they hand over depends on neither their
number nor the rank.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from PIL import Image

from vitscale.config.data import DataConfig
from vitscale.data.augment import center_view, resized, train_view
from vitscale.data.bad_images import BadImages
from vitscale.data.batch import Filling, MicroBatch, View, start_filling
from vitscale.data.order import Order, Slots
from vitscale.data.random_keys import SampleStreams
from vitscale.data.shards import ShardSet
from vitscale.errors import ConfigError, DataError
from vitscale.place import Place

STATE_VERSION = 1
SCAN_BAD_IMAGE_LIMIT = 0.01
_SCAN_AHEAD = 3
_SMALL_SAMPLE_BYTES = 8192
"""Below this mean size a second thread only fights for the interpreter: on two cores of an AMD EPYC it took
48 px JPEGs from 6,300 to 4,100 images/s, and 160 px ones (12 kB) from 2,400 to 3,600 (2026-11)."""


class TrainLoader:
    """Endless training micro-batches of one rank.

    Args:
        shards: the training set.
        config: the `[data]` table.
        image: height and width of the views.
        batch: images of an optimizer step over all ranks.
        micro_batch: images handed over at a time; must divide batch / world.
        seed: of order and augmentation.
        place: this rank.
    """

    def __init__(
        self,
        shards: ShardSet,
        config: DataConfig,
        *,
        image: tuple[int, int],
        batch: int,
        micro_batch: int,
        seed: int,
        place: Place,
    ) -> None:
        if batch % (micro_batch * place.world):
            raise ConfigError(
                f"batch {batch} cannot be cut into micro-batches of {micro_batch} on {place.world} ranks",
                where="train.batch",
                do=f"Choose a multiple of {micro_batch * place.world}.",
            )
        self._shards, self._config, self._image = shards, config, image
        self._batch, self._micro_batch, self._seed, self._place = batch, micro_batch, seed, place
        self._order = Order(shards.counts, seed=seed, lanes=config.lanes, window=config.window)
        self._bad = BadImages(config.bad_image_limit, shards.samples, shards.name)
        self._threads = useful_threads(config.threads, shards)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="vitscale-data")
        self._closed = False

    @property
    def bad_images(self) -> int:
        """Distinct images that this rank had to mask so far."""
        return len(self._bad)

    def batches(self, position: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches from run position `position` on, without end; `close` ends them.

        Raises:
            DataError: while iterating, when more images are bad than `bad_image_limit` allows.
        """
        fillings = (self._start(slots) for slots in self._micro_slots(position))
        return _ahead(fillings, self._config.prefetch, self._bad, lambda: self._closed)

    def _micro_slots(self, position: int) -> Iterator[Slots]:
        while not self._closed:
            slots = self._order.batch(position, self._batch, self._place.rank, self._place.world)
            for begin in range(0, len(slots), self._micro_batch):
                yield slots[begin : begin + self._micro_batch]
            position += self._batch

    def _start(self, slots: Slots) -> Filling:
        pool, threads = self._pool, self._threads
        return start_filling(self._shards, slots, self._new_view, self._image, pool, threads)

    def _new_view(self) -> View:
        """A view whose random stream is that of (seed, epoch, sample): any thread draws the same."""
        streams = SampleStreams("augment", self._seed)

        def view(image: Image.Image, epoch: int, sample: int) -> Image.Image:
            return train_view(image, streams.at(epoch, sample), self._config, self._image)

        return view

    def state(self, position: int) -> dict[str, Any]:
        """What a checkpoint needs to go on at `position`: the same on all ranks, plain JSON."""
        return {
            "version": STATE_VERSION,
            "fingerprint": self._shards.facts.fingerprint,
            "seed": self._seed,
            "lanes": self._config.lanes,
            "window": self._config.window,
            "position": position,
            "batch": self._batch,
        }

    def check(self, state: dict[str, Any]) -> None:
        """Compare a saved state with this loader. The batch may differ: positions count samples.

        Raises:
            DataError: going on would repeat or skip samples; all that changed is named.
        """
        if state.get("version") != STATE_VERSION:
            raise DataError(
                "the loader's state in the checkpoint has another version",
                given=state.get("version"),
                do=f"This vitscale reads version {STATE_VERSION}.",
            )
        mine = self.state(0)
        changed = [
            f"{what} was {state.get(key)}, is {mine[key]}"
            for key, what in _FIXED.items()
            if state.get(key) != mine[key]
        ]
        if changed:
            raise DataError(
                "the order of samples is not that of the checkpoint: " + "; ".join(changed),
                where=str(self._shards.folder),
                do="Set it back to go on, or start a new run from these weights.",
            )

    def close(self) -> None:
        """Stop the threads; iterators end. Safe to call twice."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)


_FIXED = {
    "fingerprint": "the data set (fingerprint)",
    "seed": "run.seed",
    "lanes": "data.lanes",
    "window": "data.window",
}


def scan(
    shards: ShardSet,
    *,
    image: tuple[int, int],
    batch: int,
    place: Place,
    ids: np.ndarray | None = None,
    threads: int = 2,
    crop: Literal["center", "none"] = "center",
    bad_image_limit: float = SCAN_BAD_IMAGE_LIMIT,
) -> Iterator[MicroBatch]:
    """Every sample exactly once over all ranks, in the order of `ids`; a rank's last batch may be short.

    Rank r of W takes the run of samples [r * n // W, (r + 1) * n // W), so ranks may differ by one
    batch.

    Args:
        shards: the data set.
        image: height and width.
        batch: images a micro-batch.
        place: this rank.
        ids: int64 [n], a subset in the wanted order; all samples by default.
        threads: that read and decode.
        crop: "center" takes the largest central part with the aspect of `image` (all of an image
            that has it); "none" squeezes the whole image into `image`.
        bad_image_limit: share of images that may be masked.

    Raises:
        DataError: more images are bad than `bad_image_limit` allows.
    """
    everything = np.arange(shards.samples) if ids is None else np.asarray(ids, np.int64)
    if len(everything) and not (everything.min() >= 0 and everything.max() < shards.samples):
        raise IndexError(f"ids from {everything.min()} to {everything.max()} of {shards.samples}")
    n, rank, world = len(everything), place.rank, place.world
    mine = everything[rank * n // world : (rank + 1) * n // world]
    bad = BadImages(bad_image_limit, shards.samples, shards.name)
    view = functools.partial(_scan_view, crop=crop, size=image)
    threads = useful_threads(threads, shards)
    with ThreadPoolExecutor(threads, thread_name_prefix="vitscale-scan") as pool:
        fillings = (
            start_filling(shards, _slots(part), lambda: view, image, pool, threads)
            for part in _parts(mine, batch)
        )
        yield from _ahead(fillings, _SCAN_AHEAD, bad, lambda: False)


def useful_threads(threads: int, shards: ShardSet) -> int:
    """`threads`, or one where the images are so small that Python outweighs their decoding."""
    mean = shards.facts.bytes / shards.samples
    return threads if mean >= _SMALL_SAMPLE_BYTES else 1


def _scan_view(
    image: Image.Image, _epoch: int, _sample: int, *, crop: str, size: tuple[int, int]
) -> Image.Image:
    if crop == "none":
        return resized(image, (0, 0, *image.size), size)
    return center_view(image, size)


def _parts(ids: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(ids), batch):
        yield ids[begin : begin + batch]


def _slots(ids: np.ndarray) -> Slots:
    return Slots(np.zeros_like(ids), ids)


def _ahead(
    fillings: Iterable[Filling], ahead: int, bad: BadImages, is_closed: Callable[[], bool]
) -> Iterator[MicroBatch]:
    """Finished micro-batches in order, while up to `ahead` more are being filled."""
    waiting: deque[Filling] = deque()
    source = iter(fillings)
    try:
        while not is_closed():
            while len(waiting) <= ahead and (filling := next(source, None)) is not None:
                waiting.append(filling)
            if not waiting:
                return
            batch, masked = waiting.popleft().finish()
            bad.note(len(batch.ids), masked)
            yield batch
    except (CancelledError, RuntimeError):
        if not is_closed():  # a pool that was shut down while we waited is no fault
            raise
    finally:
        for filling in waiting:
            filling.cancel()
