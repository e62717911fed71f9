"""The mark of an evaluation that follows a run: which commits it has copied, so that the others are not deleted yet.

A file `checkpoints/.follow-NAME`, a digest of a manifest a line. It outlives the process that follows, so a commit made
while that is down is there when it comes back; one that stays away for a day holds nothing any more.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from vitscale.checkpoint.layout import CHECKPOINTS

_PREFIX = ".follow-"
PATIENCE_S = 24 * 3600.0
"""After so long without a sign of life a follower is given up: a full disk would end the run."""


def mark_of(run_folder: Path, suite: str, which: str) -> Following:
    """The mark of whoever follows a run for a suite with its "raw" or "ema" weights; it is left by this call."""
    return Following(run_folder / CHECKPOINTS, f"{suite}-{which}")


class Following:
    """What one follower has copied. Making it leaves the mark."""

    def __init__(self, checkpoints: Path, name: str) -> None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        self._path = checkpoints / f"{_PREFIX}{name}"
        self.touch()

    def touch(self) -> None:
        """Say that it is alive."""
        self._path.touch()

    def note(self, digest: str) -> None:
        """The commit with this digest may go."""
        with self._path.open("a", encoding="ascii") as file:
            file.write(f"{digest}\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Take the mark away: no commit is waited for any more."""
        self._path.unlink(missing_ok=True)


def is_awaited(checkpoints: Path, digest: str) -> bool:
    """Whether a follower that is alive, or was within a day, has not copied this commit yet."""
    return any(_waits(path, digest) for path in checkpoints.glob(f"{_PREFIX}*"))


def _waits(mark: Path, digest: str) -> bool:
    try:
        is_alive = time.time() - mark.stat().st_mtime < PATIENCE_S
        return is_alive and digest not in mark.read_text(encoding="ascii").split()
    except FileNotFoundError:  # it was taken away this moment
        return False
