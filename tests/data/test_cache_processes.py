"""Several processes share a cache: one download a node, and a kill at any moment leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.data.cached import PRINT, cache_in, kept, quick, shard, touch
from tests.data.servers import no_proxy, serving, waits  # noqa: F401
from vitscale.data.cached_set import CachedSet
from vitscale.data.stores.store import Store
from vitscale.data.stores.web import Web

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("no_proxy")]

READER = """
import hashlib, os, sys
from vitscale.config.dataset import ShardRecord
from vitscale.data.cache import ShardCache
from vitscale.data.cached_set import CachedSet
from vitscale.data.stores.choose import open_store
folder, url, fingerprint, name, size, xxh3, limit = sys.argv[1:]
cache = ShardCache(folder, int(limit), reserve_bytes=0)
cached = CachedSet(cache, open_store(url), fingerprint)
handle = cached.hold(ShardRecord(name, 1, int(size), xxh3, ""))
print(hashlib.sha256(os.pread(handle, int(size), 0)).hexdigest(), flush=True)
sys.stdin.read()
"""


def reader(cache, server, record, *, limit=1 << 30, **environment) -> subprocess.Popen:
    """A process that holds a shard until its input ends."""
    words = [str(cache), server.url, PRINT, record.name, str(record.bytes), record.xxh3, str(limit)]
    return subprocess.Popen(
        [sys.executable, "-c", READER, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def ended(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def test_processes_that_want_the_same_shard_share_one_download(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 3_000_000)
    with serving(tmp_path / "far") as server:
        server.always["a.tar"] = waits(0.5)
        readers = [reader(tmp_path / "c", server, record) for _ in range(4)]
        assert len({ended(process) for process in readers}) == 1
        assert server.gets("a.tar") == 1


def test_a_download_that_was_killed_is_cleared_away_and_begun_anew(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 3_000_000)
    with serving(tmp_path / "far") as server:
        server.faults["a.tar"] = [waits(30)]
        victim = reader(tmp_path / "c", server, record)
        waiting = reader(tmp_path / "c", server, record)
        while not list((tmp_path / "c").glob("*/.part-*")):
            assert victim.poll() is None and waiting.poll() is None
            time.sleep(0.02)
        while not server.seen:
            time.sleep(0.02)
        # Either of the two is fetching; both are ended, so the one that does leaves a part.
        for process in (victim, waiting):
            process.send_signal(signal.SIGKILL)
            process.communicate()
        left = list((tmp_path / "c").glob("*/.part-*"))
        assert len(left) == 1
        assert left[0].stat().st_size == record.bytes
        cache = cache_in(tmp_path / "c", 4_000_000)
        assert not left[0].exists()
        assert cache.used_bytes() == 0
        assert not touch(CachedSet(cache, Store(Web(server.url), quick()), PRINT), record)


def test_whoever_waits_takes_over_from_a_process_that_was_killed(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 3_000_000)
    with serving(tmp_path / "far") as server:
        server.faults["a.tar"] = [waits(30)]
        victim = reader(tmp_path / "c", server, record)
        while not server.seen:
            time.sleep(0.02)
        heir = reader(tmp_path / "c", server, record, limit=4_000_000)
        time.sleep(0.5)
        assert heir.poll() is None
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        assert ended(heir)
        assert server.gets("a.tar") == 2
    assert not list((tmp_path / "c").glob("*/.part-*"))


def test_a_kill_just_before_the_rename_leaves_a_usable_cache(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 100_000)
    with serving(tmp_path / "far") as server:
        fault = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": "cache.before_rename@0:1:kill"}
        victim = reader(tmp_path / "c", server, record, **fault)
        victim.communicate(timeout=60)
        assert victim.returncode == -signal.SIGKILL
        assert ended(reader(tmp_path / "c", server, record, limit=150_000))
    assert [p.name for p in (tmp_path / "c" / PRINT).iterdir() if p.name.startswith(".part")] == []


def test_what_another_process_holds_stays_until_it_ends_by_kill_too(tmp_path):
    a, b = (shard(tmp_path / "far", f"{name}.tar", 600_000) for name in "ab")
    with serving(tmp_path / "far") as server:
        holder = reader(tmp_path / "c", server, a)
        assert holder.stdout is not None
        holder.stdout.readline()
        cached = CachedSet(
            cache_in(tmp_path / "c", 1_000_000), Store(Web(server.url), quick()), PRINT
        )
        with pytest.raises(Exception, match="too small for the shards in use at once"):
            cached.hold(b)
        holder.kill()
        holder.communicate()
        touch(cached, b)
    assert kept(cached) == {"b.tar"}
