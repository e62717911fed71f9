"""A commit that is promised to a run which is still to begin, so that it is there when that run reads it.

A file `checkpoints/.promised-COMMIT-RUN` with the digest of the commit. Whoever starts a branch leaves it, since days
may pass in a queue; the branch takes it away with its first commit, from which on it needs the trunk no more.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from vitscale.checkpoint.layout import read_manifest
from vitscale.durable import write_text_atomically

log = logging.getLogger(__name__)

_PREFIX = ".promised-"
PATIENCE_S = 14 * 24 * 3600.0
"""After so long a promise is void: a job that never began would keep the commit for good."""


def promise(commit: Path, run: str) -> None:
    """Keep a commit, a step folder, until the run called `run` has one of its own."""
    try:
        write_text_atomically(_mark(commit, run), read_manifest(commit).digest)
    except OSError as error:
        log.warning("%s cannot be kept for %s: %s", commit, run, error.strerror)


def redeem(commit: Path, run: str) -> None:
    """The run has a commit of its own; nothing happens where it was promised none."""
    with suppress(OSError):
        _mark(commit, run).unlink(missing_ok=True)


def is_promised(checkpoints: Path, digest: str) -> bool:
    """Whether the commit with this digest is promised to a run, for two weeks at the most."""
    return any(_holds(path, digest) for path in checkpoints.glob(f"{_PREFIX}*"))


def _holds(mark: Path, digest: str) -> bool:
    try:
        is_young = time.time() - mark.stat().st_mtime < PATIENCE_S
        return is_young and mark.read_text(encoding="ascii") == digest
    except FileNotFoundError:  # it was redeemed this moment
        return False


def _mark(commit: Path, run: str) -> Path:
    return commit.with_name(f"{_PREFIX}{commit.name}-{run}")
