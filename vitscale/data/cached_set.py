"""One data set in a node's cache: shards and sidecars are fetched when missing, verified, and held while in use."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitscale import faults
from vitscale.config.dataset import ShardRecord
from vitscale.data.cache import NextUse, NoRoom, ShardCache, too_small, unusable
from vitscale.data.cache_files import GET, IN_USE, PART, alone, open_in_use, open_locked
from vitscale.data.index import index_path
from vitscale.data.stores.store import NotThere, Stopped, Store
from vitscale.data.stores.whole import fetch, hash_of_file
from vitscale.errors import ConfigError, DataError, ResourceError
from vitscale.units import human_bytes

_LOOK_AGAIN_S = 0.2


class Damaged(DataError):
    """What the store hands out is not what the manifest lists, however often it is fetched."""


class CachedSet:
    """The shards of one data set in a cache: `hold` gives a file that stays until it is closed."""

    def __init__(self, cache: ShardCache, store: Store, fingerprint: str) -> None:
        self.folder = cache.folder / fingerprint
        self._cache, self._store = cache, store
        try:
            self._in_use = self._enter()
        except OSError as error:
            raise unusable(self.folder, error) from error

    def plan(self, next_use: NextUse | None) -> None:
        """Say when shards are needed next, so that the right ones make room."""
        self._cache.plan(self.folder, next_use)

    def hold(
        self,
        record: ShardRecord,
        *,
        instead_of: int | None = None,
        ahead_of_need: bool = False,
        let_go: Callable[[], object] | None = None,
    ) -> int:
        """A file descriptor of the complete shard, which stays in the cache until it is closed.

        Args:
            record: what the manifest says of it.
            instead_of: descriptor of a copy that turned out damaged and is to be replaced.
            ahead_of_need: fetched early, so nothing that is needed sooner may go for it.
            let_go: called once when there is no room, to close what this process holds idly.

        Raises:
            NotThere: the store has no such shard.
            Damaged: the store's shard is not the manifest's.
            DataError: the store refuses or cannot be reached.
            NoRoom: only with `ahead_of_need`.
            ConfigError: the limit is too small for what is in use at once.
            ResourceError: the disk is full, or the folder cannot be used.
            Stopped: the store was closed meanwhile.
        """
        path = self.folder / record.name

        def there() -> int | None:
            handle = open_in_use(path, record.bytes)
            if handle is None or instead_of is None or not _same_file(handle, instead_of):
                return handle
            os.close(handle)
            return None

        try:
            handle = there()
            if handle is not None:
                return handle
            with self._getting(record.name):
                handle = there()
                if handle is None:
                    handle = self._fetched(record, path, ahead_of_need, let_go)
                return handle
        except OSError as error:
            raise unusable(self.folder, error) from error

    def sidecar(
        self,
        record: ShardRecord,
        check: Callable[[Path], object],
        let_go: Callable[[], object] | None = None,
    ) -> Path:
        """The path of the shard's sidecar, fetched if need be.

        Args:
            record: what the manifest says of the shard.
            check: raises DataError for a file that is no sidecar of it.
            let_go: as of `hold`.

        Raises:
            Damaged: what the store hands out fails the check each time; else as `hold`.
        """
        path = index_path(self.folder / record.name)
        try:
            if path.exists() and _passes(check, path) is None:
                return path
            with self._getting(record.name):
                if path.exists() and _passes(check, path) is None:
                    return path
                self._fetch_sidecar(path, check, let_go)
                return path
        except OSError as error:
            raise unusable(self.folder, error) from error

    def close(self) -> None:
        """Leave the data set to others; shards that are still held stay so."""
        self.plan(None)
        if self._in_use is not None:
            os.close(self._in_use)
            self._in_use = None

    def _enter(self) -> int | None:
        """The lock that says this data set is in use. An idle one may be removed under our hands."""
        while True:
            self.folder.mkdir(exist_ok=True)
            try:
                return open_locked(self.folder / IN_USE, fcntl.LOCK_SH, self._wait)
            except FileNotFoundError:
                continue

    @contextmanager
    def _getting(self, name: str) -> Iterator[None]:
        """Only one process or thread fetches a shard; the others wait and find it."""
        with alone(self.folder / (GET + name), self._wait, remove=True):
            yield

    def _fetched(
        self, record: ShardRecord, path: Path, ahead_of_need: bool, let_go: Callable | None
    ) -> int:
        part = self._new_part()
        size = record.bytes
        later_than = self._cache.next_use(self.folder, record.name) if ahead_of_need else None
        handle = self._room(part, size, later_than, let_go)
        try:
            self._download(record, handle)
            faults.point("cache.before_rename")
            self._cache.settle(part, path, self._wait)
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(handle)
            raise
        return handle

    def _download(self, record: ShardRecord, handle: int) -> None:
        """Fetch until size and hash are right, within the store's patience."""
        tries = self._store.patience.tries
        for tried in range(1, tries + 1):
            try:
                fetch(self._store, record.name, record.bytes, handle)
            except (NotThere, Stopped):
                raise
            except DataError as error:
                self._check_size(record, error)
                raise
            if hash_of_file(handle, record.bytes) == record.xxh3:
                return
            if tried < tries:
                self._store.pause(tried)
        raise Damaged(
            f"fetched {tries} times, never with the bytes that the manifest lists (XXH3-128 differs)",
            where=f"{self._store.place}/{record.name}",
            do="Copy this shard to the store again.",
        )

    def _check_size(self, record: ShardRecord, error: DataError) -> None:
        """Raise `Damaged` if a fetch failed because the shard is shorter than it should be."""
        size = self._store.size_if_known(record.name)
        if size is not None and size < record.bytes:
            raise Damaged(
                f"has {size} bytes, the manifest says {record.bytes}",
                where=f"{self._store.place}/{record.name}",
                do="Copy this shard to the store again.",
            ) from error

    def _new_part(self) -> Path:
        return self.folder / f"{PART}{uuid.uuid4().hex}"

    def _room(self, part: Path, size: int, later_than: int | None, let_go: Callable | None) -> int:
        """The file to fetch into, after what may go has gone: with `later_than` only what is needed later."""
        cache = self._cache
        if size > cache.limit_bytes:
            raise too_small(cache, size, 0)
        until = time.monotonic() + cache.wait_s
        while True:
            try:
                return cache.reserve(part, size, later_than, self._wait)
            except NoRoom as full:
                if later_than is not None:
                    raise
                if let_go is not None:
                    let_go()
                    let_go = None
                elif time.monotonic() >= until:
                    raise _no_room(cache, full) from full
                else:
                    self._wait(_LOOK_AGAIN_S)

    def _fetch_sidecar(
        self, path: Path, check: Callable[[Path], object], let_go: Callable | None
    ) -> None:
        problem = None
        for tried in range(1, self._store.patience.tries + 1):
            if problem is not None:
                self._store.pause(tried - 1)
            data, part = self._store.read(path.name), self._new_part()
            try:
                with open(self._room(part, len(data), None, let_go), "r+b") as file:
                    file.write(data)
                    file.flush()
                    problem = _passes(check, part)
                    if problem is None:
                        self._cache.settle(part, path, self._wait)
                        return
            finally:
                part.unlink(missing_ok=True)
        assert problem is not None
        raise Damaged(
            problem.what,
            where=f"{self._store.place}/{path.name}",
            do="Copy this sidecar to the store again, or index the data set anew where it was made.",
        )

    def _wait(self, seconds: float) -> None:
        self._store.insist_open()
        time.sleep(seconds)
        self._store.insist_open()


def _same_file(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def _passes(check: Callable[[Path], object], path: Path) -> DataError | None:
    try:
        check(path)
    except DataError as error:
        return error
    return None


def _no_room(cache: ShardCache, full: NoRoom) -> ConfigError | ResourceError:
    """Everything that could go has gone."""
    if full.used + full.needed > cache.limit_bytes:
        return too_small(cache, full.needed, full.used)
    return ResourceError(
        "the disk of the shard cache is full, and nothing in the cache can go",
        where=str(cache.folder),
        given=f"{human_bytes(full.free)} free, {human_bytes(full.needed)} needed and "
        f"{human_bytes(cache.reserve_bytes)} kept free",
        do="Free space there, or choose a data.cache on another disk.",
    )
