"""Folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitscale.errors import ResourceError
from vitscale.units import human_bytes


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to be filled and renamed; it is removed if that does not happen.

    A killed process cannot tidy up, so what such a one left is removed by the next that packs the
    same target. The lock on a folder in use falls with its process, also by SIGKILL.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    aside = target.parent / f".{target.name}.packing-{uuid.uuid4().hex[:12]}"
    aside.mkdir()
    lock = os.open(aside, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield aside
    finally:
        os.close(lock)
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(target.name)}.packing-*"):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
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
