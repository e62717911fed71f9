"""Made-up shards in a folder that plays the store, and caches for them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import xxhash

from vitscale.config.dataset import ShardRecord
from vitscale.data.cache import ShardCache
from vitscale.data.cached_set import CachedSet
from vitscale.data.stores.folder import Folder
from vitscale.data.stores.store import Patience, Store

PRINT = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2


def shard(folder: Path, name: str, size: int) -> ShardRecord:
    """A file of random bytes, of which a cache knows no more than its hash."""
    folder.mkdir(exist_ok=True)
    data = random.Random(name).randbytes(size)
    (folder / name).write_bytes(data)
    return ShardRecord(name, 1, size, xxhash.xxh3_128_hexdigest(data), "")


def cache_in(folder: Path, limit: int, **options) -> ShardCache:
    return ShardCache(folder, limit, **{"reserve_bytes": 0, "wait_s": 0.0, **options})


def quick(tries: int = 3) -> Patience:
    return Patience(tries=tries, sleep=lambda seconds: None)


def folder_set(cache: ShardCache, folder: Path, fingerprint: str = PRINT) -> CachedSet:
    return CachedSet(cache, Store(Folder(folder), quick()), fingerprint)


def touch(cached: CachedSet, record: ShardRecord) -> bool:
    """Use a shard for a moment; whether it was there already."""
    there = (cached.folder / record.name).exists()
    os.close(cached.hold(record))
    return there


def kept(cached: CachedSet) -> set[str]:
    return {path.name for path in cached.folder.iterdir() if not path.name.startswith(".")}
