"""Runs one function over many independent pieces of work, such as the shards of a data set.

The tools take a `Pieces`: this process, local processes, or what the launch package makes of a Ray cluster. Results
come as they are finished, with the number of their piece, so what is made of them must not depend on their order.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from vitscale.errors import ConfigError, ResourceError

Piece = TypeVar("Piece")
Result = TypeVar("Result")
_WAITING = 2
"""Pieces handed out per worker beyond the one at work: enough to keep it busy, few enough for memory."""
_PARENT_LOOKED_FOR_S = 0.5


class Pieces(Protocol):
    """A way to run `work(piece)` for each piece; `work` is a function of a module, so that others can import it."""

    def __call__(
        self, work: Callable[[Piece], Result], pieces: Sequence[Piece]
    ) -> Iterator[tuple[int, Result]]:
        """(number of the piece, result) in the order of completion; the first error of a piece is raised."""
        ...


def in_this_process(
    work: Callable[[Piece], Result], pieces: Sequence[Piece]
) -> Iterator[tuple[int, Result]]:
    """One after another."""
    for number, piece in enumerate(pieces):
        yield number, work(piece)


def local_pieces(workers: int) -> Pieces:
    """`workers` processes of this machine; 1 is this process.

    Raises:
        ConfigError: fewer than one.
    """
    if workers < 1:
        raise ConfigError("must be 1 or more", where="--workers", given=workers)
    return in_this_process if workers == 1 else _Processes(workers)


class _Processes:
    """Freshly started processes: a fork of a process with threads may hang."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __call__(
        self, work: Callable[[Piece], Result], pieces: Sequence[Piece]
    ) -> Iterator[tuple[int, Result]]:
        if len(pieces) < 2:
            yield from in_this_process(work, pieces)
            return
        pool = ProcessPoolExecutor(
            min(self._workers, len(pieces)), get_context("spawn"), _prepare, (os.getpid(),)
        )
        try:
            yield from self._results(pool, work, pieces)
        except BrokenProcessPool as error:
            raise ResourceError(
                "a worker process died",
                do="The machine may have run out of memory: try fewer --workers.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _results(
        self,
        pool: ProcessPoolExecutor,
        work: Callable[[Piece], Result],
        pieces: Sequence[Piece],
    ) -> Iterator[tuple[int, Result]]:
        number_of: dict[Future[Any], int] = {}
        following = 0
        while number_of or following < len(pieces):
            while following < len(pieces) and len(number_of) < self._workers * (1 + _WAITING):
                number_of[pool.submit(work, pieces[following])] = following
                following += 1
            done, _ = wait(number_of, return_when=FIRST_COMPLETED)
            for future in done:
                yield number_of.pop(future), future.result()


def _prepare(parent: int) -> None:
    """In a new worker: leave the interrupt key to the parent, and end when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_LOOKED_FOR_S)
    os._exit(1)
