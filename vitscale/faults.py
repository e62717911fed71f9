"""Named fault points for tests: `point("checkpoint.before_rename")` does nothing unless switched on.

`VITSCALE_ENABLE_FAULTS=1 VITSCALE_FAULT="name@rank:nth:action"` makes the nth pass through that point on
that rank `kill` the process, raise `enospc` or `eio`, `hang`, or `delay` five seconds.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter

from vitscale.errors import ConfigError

_ACTIONS = ("kill", "enospc", "eio", "hang", "delay")
_passes: Counter[str] = Counter()


def point(name: str, rank: int = 0) -> None:
    """Pass the fault point `name`; act if the environment asks for a fault here."""
    wanted = os.environ.get("VITSCALE_FAULT")
    if not wanted:
        return
    target, at_rank, nth, action = _parse(wanted)
    if name != target or rank != at_rank:
        return
    _passes[name] += 1
    if _passes[name] == nth:
        _act(action)


def _parse(text: str) -> tuple[str, int, int, str]:
    if os.environ.get("VITSCALE_ENABLE_FAULTS") != "1":
        raise ConfigError(
            "VITSCALE_FAULT is set outside a test",
            where="environment",
            given=text,
            do="Unset it, or set VITSCALE_ENABLE_FAULTS=1 if a fault is really wanted.",
        )
    try:
        name, rest = text.split("@")
        rank, nth, action = rest.split(":")
        if action not in _ACTIONS:
            raise ValueError(action)
        return name, int(rank), int(nth), action
    except ValueError as error:
        raise ConfigError(
            'VITSCALE_FAULT is not "name@rank:nth:action"',
            where="environment",
            given=text,
            do=f"Actions: {', '.join(_ACTIONS)}.",
        ) from error


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if action == "eio":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    time.sleep(5.0 if action == "delay" else 10**6)
