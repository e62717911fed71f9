"""Which commits stay: the newest, every so-manieth, and those that somebody is reading, is to copy or was promised."""

from __future__ import annotations

import fcntl
import logging
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vitscale.checkpoint.following import is_awaited
from vitscale.checkpoint.layout import read_manifest, step_folders
from vitscale.checkpoint.promised import is_promised

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Keep the newest `newest` commits, and for good those whose step is a multiple of `every`."""

    newest: int
    every: int | None = None

    def spares(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0


def keep(checkpoints: Path, rule: Retention) -> list[Path]:
    """Delete the commits that the rule does not keep, each renamed first so none is ever half there.

    Called after a newer commit was read back. What a reader holds, a follower awaits or a branch was promised stays
    until a later call, and folders that are no commits are left alone: they may be evidence.

    Returns:
        What was deleted.
    """
    found = [(step, path, _digest_of(path)) for step, path in step_folders(checkpoints)]
    commits = [(step, path, digest) for step, path, digest in found if digest is not None]
    gone = []
    for step, folder, digest in commits[rule.newest :]:
        is_needed = is_awaited(checkpoints, digest) or is_promised(checkpoints, digest)
        if rule.spares(step) or is_needed or not _forget(folder):
            continue
        gone.append(folder)
    return gone


def _forget(folder: Path) -> bool:
    """Delete one commit, unless somebody holds it."""
    path = _hold_of(folder)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("%s is being read and stays for now", folder.name)
            return False
        trash = folder.with_name(f".trash-{folder.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(trash)
        path.unlink(missing_ok=True)
    shutil.rmtree(trash, ignore_errors=True)
    return True


@contextmanager
def holding(folder: Path) -> Generator[None]:
    """Keep a commit from being deleted while it is read, also by the run that made it.

    The lock falls with the process. Where nothing can be written beside the commit, or it was copied out of a run,
    there is nobody to delete it.
    """
    file = None
    with suppress(OSError):
        file = _hold_of(folder).open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if file is not None:
            file.close()


def _hold_of(folder: Path) -> Path:
    return folder.with_name(f".hold-{folder.name}")


def _digest_of(folder: Path) -> str | None:
    """Of a commit; None where the folder is none."""
    try:
        return read_manifest(folder).digest
    except ValueError:
        return None
