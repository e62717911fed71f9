"""A place to build a folder that appears whole or not at all, and that a killed process can go on filling."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitscale.errors import ResourceError
from vitscale.units import human_bytes


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """The folder `.NAME.packing` beside `target`, new or as a killed process left it, for this process alone.

    It stays when an exception ends the work, so that the next try can use what is finished; who wants it
    gone removes it inside. Its lock falls with the process, also by SIGKILL.

    Raises:
        ResourceError: another process is at work in it, or it cannot be made.
    """
    aside = target.parent / f".{target.name}.packing"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        lock = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        what = f"no folder can be made for it: {error.strerror}"
        raise ResourceError(what, where=str(target), do="Choose a target you may write.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "another process is packing the same target"
            raise ResourceError(what, where=str(target), do="Wait for it, or end it.") from error
        yield aside
    finally:
        os.close(lock)


def check_space(folder: Path, needed: int) -> None:
    """Make sure that `needed` bytes and a reserve of 1 % fit on the disk under `folder`.

    Raises:
        ResourceError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if needed * 1.01 > free:
        raise ResourceError(
            "the disk has too little space",
            where=str(folder),
            given=f"{human_bytes(needed)} needed, {human_bytes(free)} free",
            do="Free some, or choose a target on another disk.",
        )
