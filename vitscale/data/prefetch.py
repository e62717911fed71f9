"""Fetches the next shards in the order of need while the present ones are read.

What goes wrong here is left for the one who needs the shard: it meets the same error, or by then
none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from vitscale.data.stores.store import Stopped
from vitscale.errors import VitscaleError

_log = logging.getLogger(__name__)
_LOOK_AGAIN_S = 0.2
_JOIN_S = 5.0


class Prefetcher:
    """Keeps the next shards of `ahead` fetched, on threads of its own.

    Args:
        ahead: shard numbers in the order of need, perhaps without end; one that waits already stops the walk
            until it is met, so that it never runs round a small data set.
        fetch: brings one shard to this node; False if there is no room for it now.
        size_of: bytes of a shard.
        shards: fetched or being fetched, and not needed yet, at most.
        limit_bytes: of these; one shard may always be fetched.
        threads: that fetch.
    """

    def __init__(
        self,
        ahead: Iterator[int],
        fetch: Callable[[int], bool],
        size_of: Callable[[int], int],
        *,
        shards: int,
        limit_bytes: int,
        threads: int = 2,
    ) -> None:
        self._ahead, self._fetch, self._size_of = ahead, fetch, size_of
        self._most, self._limit = shards, limit_bytes
        self._waiting: dict[int, int] = {}
        self._again: int | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name="vitscale-prefetch", daemon=True)
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> list[int]:
        """Shards fetched or being fetched that nobody has needed yet, in the order of need."""
        with self._changed:
            return list(self._waiting)

    def needed(self, number: int) -> None:
        """Note that a shard is being opened, so that the next can be fetched.

        A shard that was not fetched ahead means that the reader has gone elsewhere; then the oldest
        one waits no longer, lest shards that nobody comes for stop everything.

        Raises:
            BaseException: what the iterator `ahead` raised.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if self._waiting.pop(number, None) is None and self._waiting:
                self._waiting.pop(next(iter(self._waiting)))
            self._changed.notify_all()

    def met(self, number: int) -> None:
        """Note that the reader is at a shard that it has open already, or knows to be lost: it waits no longer."""
        if number in self._waiting:
            with self._changed:
                self._waiting.pop(number, None)
                self._changed.notify_all()

    def close(self) -> None:
        """Stop; a fetch under way ends when its store is closed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _work(self) -> None:
        while (number := self._next()) is not None:
            try:
                while not self._fetch(number) and not self._pause(number):
                    pass
            except Stopped:
                return
            except VitscaleError as error:
                _log.debug("fetching shard %d ahead failed: %s", number, error)
            except Exception as error:  # the one who needs the shard will meet it and tell
                _log.debug("fetching shard %d ahead failed: %r", number, error)

    def _next(self) -> int | None:
        """The next shard to fetch, when there is room in the window; None at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._closed or not self._is_full())
                if self._closed or self._failure is not None:
                    return None
                number, self._again = self._again, None
                try:
                    number = next(self._ahead, None) if number is None else number
                except Exception as error:
                    self._failure = error
                    return None
                if number is None:
                    return None
                if number not in self._waiting:
                    self._waiting[number] = self._size_of(number)
                    return number
                self._again = number

    def _is_full(self) -> bool:
        many = len(self._waiting) >= self._most or self._again in self._waiting
        return many or (bool(self._waiting) and sum(self._waiting.values()) >= self._limit)

    def _pause(self, number: int) -> bool:
        """Wait for room; whether the shard need not be fetched any more."""
        with self._changed:
            self._changed.wait(_LOOK_AGAIN_S)
            return self._closed or number not in self._waiting
