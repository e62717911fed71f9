"""Named fault points for tests: `point("checkpoint.before_rename")` does nothing unless switched on.

`VITSCALE_ENABLE_FAULTS=1 VITSCALE_FAULT="name@rank:nth:action"` makes the nth pass through that point on
that rank `kill` the process, raise `enospc` or `eio`, `hang`, or `delay` five seconds. At a `factor` the actions are
`nan` and `spike`. `3-5` for nth means the third to the fifth pass.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import time
from collections import Counter

from vitscale.errors import ConfigError

_FACTORS = {"nan": math.nan, "spike": 1000.0}
_ACTIONS = ("kill", "enospc", "eio", "hang", "delay", *_FACTORS)
_passes: Counter[str] = Counter()


def point(name: str, rank: int = 0) -> None:
    """Pass the fault point `name`; act if the environment asks for a fault here."""
    action = _due(name, rank)
    if action is not None:
        _act(action)


def factor(name: str, rank: int = 0) -> float:
    """What the number of the fault point `name` is multiplied by: 1 unless the environment asks for a fault here."""
    action = _due(name, rank)
    if action is None or action in _FACTORS:
        return _FACTORS[action] if action else 1.0
    _act(action)
    return 1.0


def _due(name: str, rank: int) -> str | None:
    """The action that is asked for in this pass, if any."""
    wanted = os.environ.get("VITSCALE_FAULT")
    if not wanted:
        return None
    target, at_rank, passes, action = _parse(wanted)
    if name != target or rank != at_rank:
        return None
    _passes[name] += 1
    return action if _passes[name] in passes else None


def _parse(text: str) -> tuple[str, int, range, str]:
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
        first, _, last = nth.partition("-")
        return name, int(rank), range(int(first), int(last or first) + 1), action
    except ValueError as error:
        raise ConfigError(
            'VITSCALE_FAULT is not "name@rank:nth:action"',
            where="environment",
            given=text,
            do=f"Actions: {', '.join(_ACTIONS)}.",
        ) from error


def _act(action: str) -> None:
    if action in _FACTORS:
        raise ConfigError(
            f"VITSCALE_FAULT asks for {action} at a point without a number",
            where="environment",
            do='Name a factor, such as "engine.loss".',
        )
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if action == "eio":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    time.sleep(5.0 if action == "delay" else 10**6)
