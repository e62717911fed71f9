"""What every kind of store offers, how its failures are told apart, and how it is named in messages.

A backend tries once. What comes of a failure, `vitscale.data.stores.store` decides for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from vitscale.config.redaction import redact_text

_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY = re.compile(r"\?[^\s'\")>]*")
_LONGEST_CAUSE = 300


class StoreFault(Exception):
    """One failed try; its text is the cause, without anything secret."""

    def __init__(self, cause: object) -> None:
        super().__init__(without_secrets(str(cause))[:_LONGEST_CAUSE])


class Transient(StoreFault):
    """Another try may succeed: too many requests, a time-out, a cut body, a server's own fault."""

    def __init__(self, cause: object, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after_s = retry_after_s


class Permanent(StoreFault):
    """Another try would fail alike: no right to read, a bad certificate, a malformed request."""


class Gone(Permanent):
    """The store answered that it holds no such object."""


class Backend(Protocol):
    """Named objects under one place."""

    place: str
    """For messages: no user, password or query."""
    ranged: bool
    """Whether bytes in the middle of an object can be had without those before them."""

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where the store does not say."""
        ...

    def chunks(self, name: str, begin: int, end: int | None) -> Iterator[bytes]:
        """The bytes from `begin` to before `end` (None: to the last), in order, each chunk at most a few MiB.

        Raises:
            StoreFault: the try failed, perhaps after some chunks.
        """
        ...

    def names(self) -> list[str]:
        """Objects directly under the place, sorted."""
        ...


def without_secrets(text: str) -> str:
    """The text without users and passwords in URLs, query strings, and secrets that are recognised."""
    return redact_text(_QUERY.sub("", _USER_INFO.sub("", text)))
