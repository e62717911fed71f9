"""A store with patience: the one place where a failed request is tried again.

Bounded tries, exponential backoff with full jitter, `Retry-After` honoured, and a body that was cut
goes on where it ended.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vitscale.data.stores.backend import Backend, Gone, Permanent, StoreFault, Transient
from vitscale.errors import DataError

T = TypeVar("T")
_LOOK_S = 0.25


class NotThere(DataError):
    """The store is sure that it holds no such object."""


class Unreachable(DataError):
    """All tries failed for reasons that may pass, so that a supervisor may start the job again."""

    retry = True


class Stopped(Exception):
    """The store was closed while somebody waited for it."""


@dataclass(frozen=True)
class Patience:
    """How often and how long to try. `random` draws from [0, 1)."""

    tries: int = 6
    first_s: float = 0.5
    longest_s: float = 30.0
    longest_asked_s: float = 300.0
    """A `Retry-After` beyond this is cut to it."""
    random: Callable[[], float] = random.random
    sleep: Callable[[float], None] | None = None
    """None waits in a way that closing the store ends at once."""

    def pause_s(self, failed: int, asked_s: float | None = None) -> float:
        """Seconds to wait after `failed` tries: full jitter (0 to first x 2^(failed - 1)), not less than was asked."""
        jitter = self.random() * min(self.longest_s, self.first_s * 2 ** (failed - 1))
        return max(jitter, min(asked_s or 0.0, self.longest_asked_s))


class Store:
    """Named objects under one place, read with patience; safe to use from several threads."""

    def __init__(self, backend: Backend, patience: Patience | None = None) -> None:
        self._backend = backend
        self.patience = patience or Patience()
        self._closed = threading.Event()

    @property
    def place(self) -> str:
        """Where it is, for messages; holds no secret."""
        return self._backend.place

    @property
    def ranged(self) -> bool:
        """Whether parts of an object can be had alone; known for sure after the first `read_to`."""
        return self._backend.ranged

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where the store does not say. Raises as `read_to` does."""
        return self._persist(name, lambda: self._backend.size(name))

    def size_if_known(self, name: str) -> int | None:
        """Bytes of an object by a single try; None if that does not tell."""
        try:
            return self._backend.size(name)
        except StoreFault:
            return None

    def names(self) -> list[str]:
        """Objects directly under the place, sorted. Raises as `read_to` does."""
        return self._persist("", self._backend.names)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """The bytes from `begin` to before `end`, in memory. Raises as `read_to` does."""
        parts: list[bytes] = []
        self.read_to(name, begin, end, lambda _, chunk: parts.append(chunk))
        return b"".join(parts)

    def read_to(
        self,
        name: str,
        begin: int,
        end: int | None,
        put: Callable[[int, bytes], object],
        given_up: Callable[[], bool] | None = None,
    ) -> None:
        """Hand the bytes from `begin` to before `end` to `put(offset, chunk)`, in order and each once.

        `given_up` is asked now and then; when it says so this ends with `Stopped`.

        Raises:
            NotThere: the store holds no such object.
            Unreachable: every try failed for a reason that may pass.
            DataError: the store refuses for good.
            Stopped: the store was closed meanwhile.
        """
        at = begin

        def once() -> None:
            nonlocal at
            if at == end:
                return
            for chunk in self._backend.chunks(name, at, end):
                put(at, chunk)
                at += len(chunk)
                self.insist_open(given_up)

        self._persist(name, once, given_up)

    def pause(
        self,
        failed: int,
        asked_s: float | None = None,
        given_up: Callable[[], bool] | None = None,
    ) -> None:
        """Wait as long as `patience` says after `failed` tries.

        Raises:
            Stopped: the store was closed meanwhile.
        """
        left = self.patience.pause_s(failed, asked_s)
        if self.patience.sleep is not None:
            self.patience.sleep(left)
            left = 0.0
        while left > 0:
            self._closed.wait(min(left, _LOOK_S))
            left -= _LOOK_S
            self.insist_open(given_up)
        self.insist_open(given_up)

    def insist_open(self, given_up: Callable[[], bool] | None = None) -> None:
        """Raise `Stopped` if the store was closed or the caller has given up."""
        if self._closed.is_set() or (given_up is not None and given_up()):
            raise Stopped(self.place)

    def close(self) -> None:
        """End all waiting; reads under way end with their next chunk."""
        self._closed.set()

    def _persist(
        self, name: str, once: Callable[[], T], given_up: Callable[[], bool] | None = None
    ) -> T:
        tried = 0
        while True:
            self.insist_open(given_up)
            tried += 1
            try:
                return once()
            except Gone as fault:
                raise NotThere(
                    "the store holds no such file",
                    where=self._where(name),
                    given=str(fault),
                    do="Check the name and the place, or copy the file there again.",
                ) from fault
            except Permanent as fault:
                raise DataError(
                    "the store refuses to hand it out",
                    where=self._where(name),
                    given=str(fault),
                    do="Check the address, the credentials in the environment and the rights to read.",
                ) from fault
            except Transient as fault:
                if tried >= self.patience.tries:
                    raise self._unreachable(name, tried, fault) from fault
                self.pause(tried, fault.retry_after_s, given_up)

    def _unreachable(self, name: str, tried: int, fault: Transient) -> Unreachable:
        return Unreachable(
            f"could not be read in {tried} tries; the last one failed with: {fault}",
            where=self._where(name),
            do="Check that the store is up and the network to it, then start again: nothing is lost.",
        )

    def _where(self, name: str) -> str:
        return f"{self.place}/{name}" if name else self.place
