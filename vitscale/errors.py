"""The one family of errors that a user can cause; each knows its exit code.

A message says four things: what is wrong, where (key, file, rank), what was given, and what to do.

Exit codes: 0 done, 1 a fault of ours, 2 usage or config, 3 data, 4 not finite, 5 checkpoint unusable,
75 stopped on request and safe to resubmit (EX_TEMPFAIL of sysexits.h).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

STOPPED_EXIT_CODE = 75


class VitscaleError(Exception):
    """Base of all errors with a remedy; `retry` tells a supervisor whether another try can help."""

    exit_code = 1
    retry = False

    def __init__(self, what: str, *, where: str = "", given: object = None, do: str = "") -> None:
        self.what, self.where, self.given, self.do = what, where, given, do
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.given, self.do))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.given is not None:
            text += f" (given: {self.given})"
        if not self.do:
            return text
        return text + self.do if text.endswith("\n") else f"{text}. {self.do}"


class ConfigError(VitscaleError):
    """A command line, recipe or combination of settings that cannot be run."""

    exit_code = 2


class DataError(VitscaleError):
    """Shards, labels or images that are missing, damaged or do not fit the recipe."""

    exit_code = 3


class NotFiniteError(VitscaleError):
    """The loss or a gradient norm became NaN or infinite."""

    exit_code = 4


class CheckpointError(VitscaleError):
    """No usable checkpoint where one was needed, or one that does not fit."""

    exit_code = 5


class SaveError(VitscaleError):
    """A checkpoint could not be written; the last commit stays valid."""

    exit_code = 5
    retry = True


class ResourceError(VitscaleError):
    """Something the machine lacks: a GPU, a free port, space, a package."""

    exit_code = 2


class LeaseError(VitscaleError):
    """The run folder belongs to another launch, so nothing may be written into it."""

    exit_code = 2


class HopelessError(VitscaleError):
    """The same failure again: another try would end the same way."""


def _rebuild(
    kind: type[VitscaleError], what: str, where: str, given: object, do: str
) -> VitscaleError:
    return kind(what, where=where, given=given, do=do)


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest known name, or the list of all when none is close."""
    names = sorted(known)
    close = closest(name, names)
    return f"known: {', '.join(names)}" if close is None else f"did you mean '{close}'?"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may have been meant for; None where none is close."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
