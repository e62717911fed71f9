"""What lies in a cache folder, and the locks on it, which fall with the process that holds them.

```
CACHE/.lock                    held while room is made, and while a fetched file gets its name
CACHE/<fingerprint>/.in-use    shared lock: a process has this data set open
CACHE/<fingerprint>/NAME.tar   complete and verified; shared lock: in use, so never removed
CACHE/<fingerprint>/NAME.vsidx its sidecar, which stays when the tar goes
CACHE/<fingerprint>/.get-NAME  exclusive lock: somebody fetches this shard
CACHE/<fingerprint>/.part-*    tar or sidecar being fetched; without a lock it is what a killed process left
```

Everything else in the folder belongs to somebody else and is neither counted nor touched.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vitscale.data.index import SUFFIX

ROOM_LOCK = ".lock"
IN_USE = ".in-use"
GET = ".get-"
PART = ".part-"
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.005, 0.1


@dataclass(frozen=True)
class Kept:
    """A file of the cache."""

    path: Path
    bytes: int
    used_ns: int
    """When it was last opened for use."""

    @property
    def is_part(self) -> bool:
        return self.path.name.startswith(PART)

    @property
    def is_sidecar(self) -> bool:
        return self.path.suffix == SUFFIX


def sets_in(cache: Path) -> list[Path]:
    """Folders of data sets."""
    with os.scandir(cache) as entries:
        return [
            Path(e.path)
            for e in entries
            if _FINGERPRINT.fullmatch(e.name)
            and e.is_dir(follow_symlinks=False)
            and (Path(e.path) / IN_USE).exists()
        ]


def files_in(folder: Path) -> list[Kept]:
    """Tars, sidecars and parts of one data set; a folder that is being removed holds none."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not entry.name.startswith(PART):
                    continue
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # renamed or removed since
                    continue
                found.append(Kept(Path(entry.path), stat.st_size, stat.st_mtime_ns))
    except FileNotFoundError:
        return []
    return found


def lock_now(handle: int, kind: int) -> bool:
    """Take a lock of `kind` (`fcntl.LOCK_SH` or `LOCK_EX`) on an open file unless somebody forbids it."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_still_at(handle: int, path: Path) -> bool:
    """Whether the name still leads to the open file, which may have been removed or replaced."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def open_locked(path: Path, kind: int, wait: Callable[[float], object]) -> int:
    """Open a lock file, make it if need be, and take the lock; `wait(seconds)` is called between tries.

    The folder must be there. The result is the file that `path` names while the lock is held.
    """
    pause = _FIRST_LOOK_S
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if lock_now(handle, kind):
                if is_still_at(handle, path):
                    return handle
            else:
                wait(pause)
                pause = min(2 * pause, _LONGEST_LOOK_S)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


@contextmanager
def alone(path: Path, wait: Callable[[float], object], *, remove: bool = False) -> Iterator[None]:
    """Hold the exclusive lock of `path`; with `remove` the lock file goes when it is let go."""
    handle = open_locked(path, fcntl.LOCK_EX, wait)
    try:
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        os.close(handle)


def open_in_use(path: Path, size: int) -> int | None:
    """Open a shard and hold it; None if it is missing, has another size, or is just being removed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if (
        lock_now(handle, fcntl.LOCK_SH)
        and is_still_at(handle, path)
        and os.fstat(handle).st_size == size
    ):
        with suppress(PermissionError):  # another user's file: its age then tells less
            os.utime(handle)
        return handle
    os.close(handle)
    return None


def remove_unused(path: Path) -> bool:
    """Remove a file that nobody holds; False if somebody does. One that is gone already counts as removed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        if not lock_now(handle, fcntl.LOCK_EX):
            return False
        if is_still_at(handle, path):
            path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)


def remove_empty_set(folder: Path) -> None:
    """Remove a data set's folder with its lock files, unless something foreign lies in it."""
    for path in list(folder.iterdir()):
        if path.name == IN_USE or path.name.startswith(GET):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
