"""Where the shards of an open data set come from: its folder, or a store by way of the node's cache."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Protocol

from vitscale.config.dataset import Manifest, ShardRecord
from vitscale.data.cache import NextUse, NoRoom, ShardCache
from vitscale.data.cached_set import CachedSet, Damaged
from vitscale.data.index import ShardIndex, index_path
from vitscale.data.open_shard import OpenShard, open_local, read_own_index
from vitscale.data.stores.store import NotThere, Store
from vitscale.errors import DataError

IDLE_SHARDS = 1024
"""Shards kept open a process where files are plenty: 256 lanes touch about twice as many as there are lanes. One of
2,000 samples takes 0.2 MB."""
_OTHER_FILES = 256
_SHARE_OF_CACHE = 16
Missing = Literal["abort", "mask"]
"""What comes of a shard that cannot be had for good."""
_log = logging.getLogger(__name__)


def idle_shards() -> int:
    """How many shards of a set may stay open: the process may have more files open after this, if the system lets it.

    Two sets, for training and evaluation, share what is beyond other uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return IDLE_SHARDS
    wanted = 2 * IDLE_SHARDS + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(IDLE_SHARDS, max(1, (soft - _OTHER_FILES) // 2))


def check_folder(folder: Path, manifest: Manifest, missing: Missing) -> dict[int, str]:
    """Look at the files of all shards; by number those that are lost, with the reason, if they may be masked.

    Raises:
        DataError: shards are missing or resized and that is not to be masked, or all are; they are listed.
    """
    problems = {
        number: "; ".join(texts)
        for number, shard in enumerate(manifest.shards)
        if (texts := list(_size_problems(folder / shard.name, shard)))
    }
    if missing == "mask" and len(problems) < len(manifest.shards):
        for number, text in problems.items():
            _log.warning("masked %d samples: %s", manifest.shards[number].samples, text)
        return problems
    if problems:
        count = "1 shard file is" if len(problems) == 1 else f"{len(problems)} shard files are"
        raise DataError(
            f"{count} missing or changed:\n  " + "\n  ".join(problems.values()) + "\n",
            where=str(folder),
            do="Copy them again, or run `vitscale shards index` if the change is wanted.",
        )
    return {}


def _size_problems(tar: Path, shard: ShardRecord) -> Iterable[str]:
    try:
        size = tar.stat().st_size
        if size != shard.bytes:
            yield f"{tar.name} has {size} bytes, the manifest says {shard.bytes}"
    except OSError as error:
        yield f"{tar.name}: {error.strerror}"
    if not index_path(tar).is_file():
        yield f"{index_path(tar).name} is missing"


class ShardLost(Exception):
    """A shard cannot be had, and trying again will not help; its text is the reason."""


class Shelf(Protocol):
    """Opens shards by their record."""

    idle: int
    """How many shards may stay open unused."""

    def open(self, record: ShardRecord, let_go: Callable[[], object]) -> OpenShard:
        """Open a shard; `let_go()` closes what this process keeps open unused.

        Raises:
            ShardLost: it is missing or damaged for good.
            DataError: its index is unusable, or the store cannot be reached.
        """
        ...

    def index(self, record: ShardRecord) -> ShardIndex:
        """The index alone; raises as `open`."""
        ...

    def anew(self, record: ShardRecord, damaged: OpenShard) -> OpenShard | None:
        """Another copy of a shard in which an image is damaged; None where there is no other."""
        ...

    def fetch_ahead(self, record: ShardRecord) -> bool:
        """Have the shard on this node soon; False if there is no room now. Raises as `open`."""
        ...

    def plan(self, next_use: NextUse | None) -> None:
        """Say when shards are needed next."""
        ...

    def close(self) -> None:
        """End all waiting."""
        ...


class FolderShelf:
    """Shards in a folder of this machine, read where they lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.idle = idle_shards()

    def open(self, record: ShardRecord, let_go: Callable[[], object]) -> OpenShard:
        """As `Shelf.open`."""
        try:
            return open_local(self._folder, record)
        except FileNotFoundError as error:
            raise ShardLost("the file is gone") from error
        except OSError as error:
            raise DataError(
                f"cannot be opened: {error.strerror}",
                where=str(self._folder / record.name),
                do="Check the rights to read, and `ulimit -n` if too many files are open.",
            ) from error
        except DataError as error:
            if not index_path(self._folder / record.name).exists():
                raise ShardLost("its sidecar is gone") from error
            raise

    def index(self, record: ShardRecord) -> ShardIndex:
        sidecar = index_path(self._folder / record.name)
        if not sidecar.exists():
            raise ShardLost("its sidecar is gone")
        return read_own_index(sidecar, record)

    def anew(self, record: ShardRecord, damaged: OpenShard) -> OpenShard | None:
        return None

    def fetch_ahead(self, record: ShardRecord) -> bool:
        return True

    def plan(self, next_use: NextUse | None) -> None:
        pass

    def close(self) -> None:
        pass


class CacheShelf:
    """Shards of a store, whole on this node's disk before they are read.

    A process keeps no more idle shards than a sixteenth of the cache, so that eight of them on a node
    leave half of it free to make room.
    """

    def __init__(self, store: Store, cache: ShardCache, manifest: Manifest) -> None:
        hidden = [shard.name for shard in manifest.shards if shard.name.startswith(".")]
        if hidden:
            raise DataError(
                "names of shards that begin with a dot cannot be cached",
                where=store.place,
                given=hidden[0],
                do="Rename them where the data set was made and index it anew.",
            )
        self._store = store
        self._set = CachedSet(cache, store, manifest.fingerprint)
        mean = max(1, manifest.facts.bytes // max(1, len(manifest.shards)))
        share = cache.limit_bytes // (_SHARE_OF_CACHE * mean)
        self.idle = int(min(max(share, 1), idle_shards()))

    def open(self, record: ShardRecord, let_go: Callable[[], object]) -> OpenShard:
        return self._opened(record, let_go, None)

    def index(self, record: ShardRecord) -> ShardIndex:
        return self._index(record, lambda: None)

    def _index(self, record: ShardRecord, let_go: Callable[[], object]) -> ShardIndex:
        found: list[ShardIndex] = []

        def check(path: Path) -> None:
            found.append(read_own_index(path, record))

        try:
            self._set.sidecar(record, check, let_go)
            return found[-1]
        except (NotThere, Damaged) as error:
            raise ShardLost(_reason(error)) from error

    def anew(self, record: ShardRecord, damaged: OpenShard) -> OpenShard | None:
        return self._opened(record, lambda: None, damaged.handle)

    def fetch_ahead(self, record: ShardRecord) -> bool:
        try:
            os.close(self._set.hold(record, ahead_of_need=True))
        except NoRoom:
            return False
        except (NotThere, Damaged) as error:
            raise ShardLost(_reason(error)) from error
        return True

    def plan(self, next_use: NextUse | None) -> None:
        self._set.plan(next_use)

    def close(self) -> None:
        self._store.close()
        self._set.close()

    def _opened(
        self, record: ShardRecord, let_go: Callable[[], object], instead_of: int | None
    ) -> OpenShard:
        index = self._index(record, let_go)
        try:
            handle = self._set.hold(record, instead_of=instead_of, let_go=let_go)
        except (NotThere, Damaged) as error:
            raise ShardLost(_reason(error)) from error
        return OpenShard(self._set.folder / record.name, handle, index)


def _reason(error: DataError) -> str:
    return f"{error.where}: {error.what}"
