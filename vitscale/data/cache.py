"""Shards of remote data sets on the disk of this node, shared by all processes of all runs there.

A shard is fetched once a node, verified by size and XXH3-128, and held (a lock that falls with the
process) while in use. When room is needed, shards of data sets that nobody has open go first, then
those whose next use is farthest away, which is the best any cache can do (Belady 1966). Sizes are
read from the folder each time, so that they are right after any crash. `vitscale.data.cache_files`
shows the files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from vitscale.data.cache_files import (
    IN_USE,
    ROOM_LOCK,
    Kept,
    alone,
    files_in,
    lock_now,
    remove_empty_set,
    remove_unused,
    sets_in,
)
from vitscale.errors import ConfigError, ResourceError
from vitscale.units import human_bytes

RESERVE_BYTES = 1 << 30
_FULL = (errno.ENOSPC, errno.EDQUOT)

NextUse = Callable[[str], int | None]
"""When a shard of the set is needed next, by its name: larger is later, None is not known, which counts as now."""


class NoRoom(Exception):
    """Nothing that may go makes enough room just now."""

    def __init__(self, used: int, needed: int, free: int) -> None:
        super().__init__(used, needed, free)
        self.used, self.needed, self.free = used, needed, free


class ShardCache:
    """A folder that holds at most `limit_bytes` of shards.

    Args:
        folder: made if need be; may hold other things, which are left alone.
        limit_bytes: of tars, sidecars and what is being fetched, over all processes with this folder.
        reserve_bytes: of the disk that stay free.
        wait_s: how long a needed shard waits for others to be let go before that is an error.
    """

    def __init__(
        self,
        folder: str | Path,
        limit_bytes: int,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        wait_s: float = 60.0,
    ) -> None:
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        self.reserve_bytes, self.wait_s = reserve_bytes, wait_s
        self._next_uses: dict[Path, NextUse] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone(time.sleep):
                for part in (file for where in sets_in(self.folder) for file in files_in(where)):
                    if part.is_part:
                        remove_unused(part.path)
        except OSError as error:
            raise unusable(self.folder, error) from error

    def used_bytes(self) -> int:
        """What lies in the cache now, as far as it is the cache's own."""
        return sum(file.bytes for where in sets_in(self.folder) for file in files_in(where))

    def plan(self, folder: Path, next_use: NextUse | None) -> None:
        """Set or forget the order of need of one data set's folder."""
        if next_use is None:
            self._next_uses.pop(folder, None)
        else:
            self._next_uses[folder] = next_use

    def next_use(self, folder: Path, name: str) -> int:
        """When a shard is needed next by the plan of its data set; 0 (now) where that is not known."""
        plan = self._next_uses.get(folder)
        return (plan(name) if plan else None) or 0

    def reserve(
        self, path: Path, size: int, later_than: int | None, wait: Callable[[float], object]
    ) -> int:
        """Make room and a file of `size` bytes at `path`, opened and held.

        Args:
            path: of the new file.
            size: in bytes.
            later_than: only shards needed later than this may go; None: any that is not held.
            wait: called with seconds while another process makes room.

        Raises:
            NoRoom: what may go is not enough.
        """
        with self._alone(wait), ExitStack() as idle:
            files = {folder: _files_of(folder) for folder in sets_in(self.folder)}
            used = sum(file.bytes for found in files.values() for file in found)
            victims = self._victims(files, later_than, idle)
            while True:
                free = shutil.disk_usage(self.folder).free
                if used + size <= self.limit_bytes and free - size >= self.reserve_bytes:
                    handle = _allocated(path, size)
                    if handle is not None:
                        return handle
                victim = next(victims, None)
                if victim is None:
                    raise NoRoom(used, size, free)
                if remove_unused(victim.path):
                    used -= victim.bytes

    def settle(self, part: Path, path: Path, wait: Callable[[float], object]) -> None:
        """Give a fetched file its name, while nobody counts what is there.

        Whoever lists a folder in which a file is renamed may see it under neither name, and would make too little room.

        Args:
            part: as `reserve` made it.
            path: its name.
            wait: called with seconds while another process makes room.
        """
        with self._alone(wait):
            os.rename(part, path)

    def _alone(self, wait: Callable[[float], object]) -> AbstractContextManager[None]:
        return alone(self.folder / ROOM_LOCK, wait)

    def _victims(
        self, files: dict[Path, list[Kept]], later_than: int | None, idle: ExitStack
    ) -> Iterator[Kept]:
        """What may go, in the order in which it should; worked out when the first is asked for."""
        unwanted: list[Kept] = []
        wanted: list[tuple[int, int, Kept]] = []
        for folder, found in files.items():
            found = [file for file in found if not file.is_part]
            if _is_idle(folder, idle):
                unwanted += found
                continue
            for file in found:
                at = self.next_use(folder, file.path.name)
                if not file.is_sidecar and (later_than is None or at > later_than):
                    wanted.append((-at, file.used_ns, file))
        yield from sorted(unwanted, key=lambda file: file.used_ns)
        yield from (file for *_, file in sorted(wanted, key=lambda one: one[:2]))


def _files_of(folder: Path) -> list[Kept]:
    """Files of a data set, after parts that killed processes left are removed."""
    return [file for file in files_in(folder) if not (file.is_part and remove_unused(file.path))]


def _allocated(path: Path, size: int) -> int | None:
    """A new file of `size` bytes, opened and held, its blocks taken; None if the disk has too few."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        lock_now(handle, fcntl.LOCK_SH)
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            os.ftruncate(handle, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        os.close(handle)
        if error.errno in _FULL:
            return None
        raise
    return handle


def _is_idle(folder: Path, idle: ExitStack) -> bool:
    """Whether nobody has the data set open; if so nobody can open it before `idle` is closed."""
    try:
        handle = os.open(folder / IN_USE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    if not lock_now(handle, fcntl.LOCK_EX):
        os.close(handle)
        return False
    idle.callback(_leave, folder, handle)
    return True


def _leave(folder: Path, handle: int) -> None:
    """Let an idle data set go; when none of its shards is left the folder goes too."""
    try:
        if not files_in(folder):
            remove_empty_set(folder)
    finally:
        os.close(handle)


def unusable(folder: Path, error: OSError) -> ResourceError:
    """The error for a folder that cannot be written or read."""
    full = error.errno in _FULL
    return ResourceError(
        "the disk of the shard cache is full" if full else "the shard cache cannot be used",
        where=str(folder),
        given=error.strerror or str(error),
        do="Free space there, lower data.cache_gb, or choose a data.cache on another disk.",
    )


def too_small(cache: ShardCache, needed: int, used: int) -> ConfigError:
    """The error for a limit that is below `used` + `needed` bytes."""
    return ConfigError(
        "the shard cache is too small for the shards in use at once",
        where="data.cache_gb",
        given=f"limit {human_bytes(cache.limit_bytes)}, {human_bytes(used)} in use, "
        f"{human_bytes(needed)} more needed",
        do=f"Raise it to at least {(used + needed) / 1e9:.3g}, or lower data.lanes or data.prefetch.",
    )
