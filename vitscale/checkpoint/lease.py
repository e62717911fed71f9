"""The lease on a run folder: the newest attempt owns it, and nobody begins one while another launch is at work."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.attempts import (
    ATTEMPTS,
    BEATS,
    AttemptRecord,
    attempt_folder,
    is_gone,
    new_attempt,
    newest_attempt,
)
from vitscale.errors import LeaseError

LEASE_S = 30.0
"""A launch whose last beat is older than this has lost the folder."""
TOUCH_S = 5.0
"""How often each rank touches its beat, step or no step."""
_LOOK_S = 0.5


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write into the run folder."""

    run_folder: Path
    number: int

    @property
    def is_lost(self) -> bool:
        """Whether a newer attempt exists."""
        return newest_attempt(self.run_folder) > self.number

    def insist(self) -> None:
        """Go on only as the owner; for the last moment before anything is made real.

        Raises:
            LeaseError: a newer attempt owns the folder.
        """
        newest = newest_attempt(self.run_folder)
        if newest > self.number:
            raise LeaseError(
                f"attempt {newest} owns the run folder, this is attempt {self.number}",
                where=str(self.run_folder),
                do="Nothing was written. This process was taken for dead and replaced; it may end.",
            )


def claim(run_folder: Path, submission: str, files: Callable[[int], Mapping[str, str]]) -> Lease:
    """Begin the next attempt of a run.

    Args:
        run_folder: exists.
        submission: whose attempt it is; restarts of one submission follow each other at once.
        files: name to text of what lies in the folder of attempt N from its first moment on.

    Raises:
        LeaseError: another launch is at work there.
    """
    (run_folder / ATTEMPTS).mkdir(exist_ok=True)
    while True:
        newest = insist_on_vacancy(run_folder, submission)
        if new_attempt(run_folder, newest + 1, files(newest + 1)):
            return Lease(run_folder, newest + 1)


def is_running(run_folder: Path) -> bool:
    """Whether the newest attempt may be at work: it has not ended, its process is not gone, and it beat of late."""
    number = newest_attempt(run_folder)
    if not number:
        return False
    newest = AttemptRecord(number, attempt_folder(run_folder, number))
    beat = newest.folder / BEATS / "rank-00000"
    return not (newest.end or is_gone(newest.start) or _age_s(beat) > LEASE_S)


def insist_on_vacancy(run_folder: Path, submission: str) -> int:
    """Pass where the newest attempt is ours, over, or dead; a silent one is watched until that is certain.

    Returns:
        The number of the newest attempt; 0 where there is none.

    Raises:
        LeaseError: another launch is at work in the folder.
    """
    number = newest_attempt(run_folder)
    newest = AttemptRecord(number, attempt_folder(run_folder, number))
    start, beat = newest.start, newest.folder / BEATS / "rank-00000"
    if not number or start.get("submission") == submission:
        return number
    heard = _beaten_at(beat)
    while not (newest.end or is_gone(start) or _age_s(beat) > LEASE_S):
        if _beaten_at(beat) != heard:
            raise LeaseError(
                f"another launch writes this run: attempt {newest.number}, {_owner(start)}, which "
                "beat this moment",
                where=str(newest.folder.parents[1]),
                do="Let it run, stop it with `touch STOP` in that folder, or choose another run.name.",
            )
        time.sleep(_LOOK_S)
    return number


def _owner(start: Mapping[str, Any]) -> str:
    job = f", job {start['job']}" if start.get("job") else ""
    return f"process {start.get('pid')} on {start.get('host')}{job}"


def _beaten_at(beat: Path) -> float:
    try:
        return beat.stat().st_mtime
    except FileNotFoundError:
        return -math.inf


def _age_s(beat: Path) -> float:
    """Seconds since a beat by the clock of the storage, since those of hosts differ; infinite if there was none."""
    probe = beat.parents[2] / f".clock-{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
        return probe.stat().st_mtime - _beaten_at(beat)
    finally:
        probe.unlink(missing_ok=True)
