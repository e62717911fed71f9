"""Training batches that can be taken up at any position on any number of ranks, and plain scans.

Threads read and decode a few micro-batches ahead; what they hand over depends on neither their
number nor the rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.config.data import DataConfig
from vitscale.data import randaugment
from vitscale.data.augment import View, draws, train_boxes, view_boxes
from vitscale.data.bad_images import BadImages
from vitscale.data.batch import Filler, Filling, Geometry, MicroBatch, Outcome, Retouch, counted
from vitscale.data.corpus import Corpus
from vitscale.data.eras import Eras
from vitscale.data.ledger import Ledger, Seen
from vitscale.data.mixture import Slots
from vitscale.data.pixels import choose_decoder
from vitscale.data.random_keys import SampleStreams
from vitscale.errors import ConfigError
from vitscale.place import Place

SCAN_BAD_IMAGE_LIMIT = 0.01
_SCAN_AHEAD = 3
_SMALL_SAMPLE_BYTES = 8192
"""Below this mean size a second thread only fights for the interpreter: on two cores of an AMD EPYC it took
48 px JPEGs from 6,300 to 4,100 images/s, and 160 px ones (12 kB) from 2,400 to 3,600 (2026-11)."""


@dataclass(frozen=True)
class Work:
    """What the threads of a loader have done so far; seconds are summed over threads."""

    read_s: float = 0.0
    decode_s: float = 0.0
    lost: int = 0
    """Slots masked because their shard is missing for good."""

    def plus(self, outcome: Outcome) -> Work:
        return replace(
            self,
            read_s=self.read_s + outcome.read_s,
            decode_s=self.decode_s + outcome.decode_s,
            lost=self.lost + outcome.lost,
        )


class TrainLoader:
    """Endless training micro-batches of one rank.

    Args:
        corpus: what is trained on.
        config: the `[data]` table.
        image: height and width of the views.
        batch: images of an optimizer step over all ranks.
        micro_batch: images handed over at a time; must divide batch / world.
        seed: of order and augmentation.
        place: this rank.
        quarantine: file that names the bad images; none if None.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: DataConfig,
        *,
        image: tuple[int, int],
        batch: int,
        micro_batch: int,
        seed: int,
        place: Place,
        quarantine: Path | None = None,
    ) -> None:
        if batch % (micro_batch * place.world):
            raise ConfigError(
                f"batch {batch} cannot be cut into micro-batches of {micro_batch} on {place.world} ranks",
                where="train.batch",
                do=f"Choose a multiple of {micro_batch * place.world}.",
            )
        self._corpus, self._config, self._image = corpus, config, image
        self._batch, self._micro_batch, self._seed, self._place = batch, micro_batch, seed, place
        self._eras = Eras(corpus, config, seed)
        limit = config.bad_image_limit
        self._bad = BadImages(limit, corpus.samples, corpus.whereabouts, quarantine)
        self._work = Work()
        self._ledger = Ledger()
        self._decoder = choose_decoder(config.decode)
        threads = useful_threads(config.threads, corpus)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vitscale-data")
        self._filler = Filler(
            corpus,
            self._decoder,
            self._geometry,
            image,
            True,
            self._pool,
            threads,
            self._retouch if config.randaugment != "off" else None,
        )
        self._closed = False
        self._at = 0

    @property
    def bad_images(self) -> int:
        """Distinct images that this rank had to mask so far."""
        return len(self._bad)

    @property
    def work(self) -> Work:
        """What the threads have done for the micro-batches handed over so far."""
        return self._work

    @property
    def decoder(self) -> str:
        """Which decoder runs, for the log."""
        return self._decoder.name

    def batches(self, position: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches from run position `position` on, without end; `close` ends them.

        Raises:
            DataError: while iterating, when more images are bad than `bad_image_limit` allows.
        """
        self._follow(position)
        fillings = (self._filler.start(slots) for slots in self._micro_slots(position))
        ready = _ahead(fillings, self._config.prefetch, self._note, lambda: self._closed)
        per_step = self._batch // self._place.world // self._micro_batch
        for number, batch in enumerate(ready, 1):
            self._ledger.saw(batch.epochs, batch.ids, len(batch.ids) - int(counted(batch.labels)))
            if number % per_step == 0:
                self._ledger.end_step()
            yield batch

    def samples(self, position: int) -> list[int]:
        """Ids of the global batch at a run position, in the order in which ranks share them."""
        slots = self._eras.mixture.batch(position - self._eras.now.begin, self._batch)
        return slots.ids.tolist()

    def take_seen(self) -> list[Seen]:
        """What this rank was handed in the steps since the last call; for the ledger of the run."""
        return self._ledger.take()

    def _micro_slots(self, position: int) -> Iterator[Slots]:
        order = self._eras.mixture
        position -= self._eras.now.begin
        while not self._closed:
            self._at = position
            slots = order.batch(position, self._batch, self._place.rank, self._place.world)
            for begin in range(0, len(slots), self._micro_batch):
                yield slots[begin : begin + self._micro_batch]
            position += self._batch

    def _follow(self, position: int) -> None:
        """Let the corpus know what comes, so that shards of stores are here in time."""
        order, place = self._eras.mixture, self._place
        self._at = position - self._eras.now.begin
        self._corpus.follow(
            lambda: order.shards_ahead(self._at, self._batch, place.rank, place.world),
            lambda source, shard: order.next_use(source, shard, self._at),
        )

    def _note(self, images: int, outcome: Outcome) -> None:
        self._work = self._work.plus(outcome)
        self._bad.note(images - outcome.lost, outcome.bad)

    def _geometry(self) -> Geometry:
        """Crops whose random stream is that of (seed, epoch, sample): any thread draws the same."""
        streams = SampleStreams("augment", self._seed)

        def geometry(sizes: np.ndarray, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
            drawn = draws(streams, slots.epochs, slots.ids)
            return train_boxes(sizes, drawn, self._config, self._image)

        return geometry

    def _retouch(self) -> Retouch:
        """RandAugment from random streams of its own, so that crops are the same with it and without."""
        assert self._config.randaugment != "off"
        layers, magnitude = self._config.randaugment
        streams = SampleStreams("randaugment", self._seed)

        def retouch(views: np.ndarray, slots: Slots) -> None:
            keys = zip(slots.epochs.tolist(), slots.ids.tolist(), strict=True)
            for view, key in zip(views, keys, strict=True):
                drawn = streams.at(*key).random((layers, randaugment.DRAWS))
                view[:] = randaugment.randaugment(view, drawn, magnitude)

        return retouch

    def state(self, position: int) -> dict[str, Any]:
        """What a checkpoint needs to go on at `position`: the same on all ranks, plain JSON."""
        return {**self._eras.state(), "position": position, "batch": self._batch}

    @property
    def eras(self) -> Eras:
        """The orders of the run up to now."""
        return self._eras

    def resume(self, state: dict[str, Any]) -> None:
        """Go on in the order of a saved state. The batch may differ: positions count samples.

        Raises:
            DataError: data or order changed, and `data.accept_change` does not allow it; all that changed is named.
        """
        self._eras.resume(state)

    def close(self) -> None:
        """Stop the threads; iterators end. Safe to call twice."""
        self._closed = True
        self._corpus.rest()
        self._pool.shutdown(wait=True, cancel_futures=True)


def scan(
    corpus: Corpus,
    *,
    image: tuple[int, int],
    batch: int,
    place: Place,
    ids: np.ndarray | None = None,
    threads: int = 2,
    view: View = View(),  # noqa: B008
    bad_image_limit: float = SCAN_BAD_IMAGE_LIMIT,
) -> Iterator[MicroBatch]:
    """Every sample exactly once over all ranks, in the order of `ids`; a rank's last batch may be short.

    Rank r of W takes the run of samples [r * n // W, (r + 1) * n // W), so ranks may differ by one
    batch.

    Args:
        corpus: what is read.
        image: height and width.
        batch: images a micro-batch.
        place: this rank.
        ids: int64 [n], a subset in the wanted order; all samples by default.
        threads: that read and decode.
        view: what is shown of each image.
        bad_image_limit: share of images that may be masked.

    Raises:
        DataError: more images are bad than `bad_image_limit` allows.
    """
    everything = np.arange(corpus.samples) if ids is None else np.asarray(ids, np.int64)
    if len(everything) and not (everything.min() >= 0 and everything.max() < corpus.samples):
        raise IndexError(f"ids from {everything.min()} to {everything.max()} of {corpus.samples}")
    n, rank, world = len(everything), place.rank, place.world
    mine = everything[rank * n // world : (rank + 1) * n // world]
    bad = BadImages(
        bad_image_limit,
        corpus.samples,
        corpus.whereabouts,
        place=corpus.where,
        do="Mend these images, or pack the set again without them: `vitscale shards pack --without-keys`.",
    )
    threads = useful_threads(threads, corpus)

    def geometry(sizes: np.ndarray, _slots: Slots) -> tuple[np.ndarray, np.ndarray]:
        return view_boxes(sizes, image, view), np.zeros(len(sizes), bool)

    with ThreadPoolExecutor(threads, thread_name_prefix="vitscale-scan") as pool:
        decoder = choose_decoder("auto")
        filler = Filler(corpus, decoder, lambda: geometry, image, False, pool, threads)
        fillings = (filler.start(Slots(np.zeros_like(part), part)) for part in _parts(mine, batch))
        yield from _ahead(
            fillings,
            _SCAN_AHEAD,
            lambda images, outcome: bad.note(images, outcome.bad),
            lambda: False,
        )


def useful_threads(threads: int, corpus: Corpus) -> int:
    """`threads`, or one where the images are so small that Python outweighs their decoding."""
    mean = corpus.facts.bytes / corpus.samples
    return threads if mean >= _SMALL_SAMPLE_BYTES else 1


def _parts(ids: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(ids), batch):
        yield ids[begin : begin + batch]


def _ahead(
    fillings: Iterable[Filling],
    ahead: int,
    note: Callable[[int, Outcome], None],
    is_closed: Callable[[], bool],
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
            batch, outcome = waiting.popleft().finish()
            note(len(batch.ids), outcome)
            yield batch
    except (CancelledError, RuntimeError):
        if not is_closed():  # a pool that was shut down while we waited is no fault
            raise
    finally:
        for filling in waiting:
            filling.cancel()
