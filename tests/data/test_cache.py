"""A cache fetches a shard once, keeps what is held, throws away what is needed last, and never lies."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.data.cached import OTHER, cache_in, folder_set, kept, quick, shard, touch
from tests.data.servers import (
    Server,
    cut_after,
    flips,
    no_proxy,  # noqa: F401
    replies,
    serving,
)
from vitscale.data import cached_set
from vitscale.data.cache import NoRoom, ShardCache
from vitscale.data.cache_files import ROOM_LOCK, alone
from vitscale.data.cached_set import CachedSet, Damaged
from vitscale.data.stores.store import NotThere, Store, Unreachable
from vitscale.data.stores.web import Web
from vitscale.data.stores.whole import fetch
from vitscale.errors import ConfigError, DataError, ResourceError

pytestmark = pytest.mark.usefixtures("no_proxy")
MIB = 1 << 20


def web_set(cache: ShardCache, server: Server, tries: int = 3) -> CachedSet:
    return CachedSet(cache, Store(Web(server.url), quick(tries)), OTHER)


def content(handle: int) -> bytes:
    data = os.pread(handle, 1 << 30, 0)
    os.close(handle)
    return data


@pytest.mark.parametrize("ranges", [True, False])
def test_a_shard_is_fetched_in_pieces_once_and_verified(tmp_path, ranges):
    record = shard(tmp_path / "far", "a.tar", 20 * MIB + 5)
    with serving(tmp_path / "far", ranges=ranges) as server:
        cached = web_set(cache_in(tmp_path / "c", 1 << 30), server)
        data = content(cached.hold(record))
        assert data == (tmp_path / "far" / "a.tar").read_bytes()
        asked = [text for *_, text in server.seen]
        if ranges:
            assert sorted(asked) == sorted(
                ["bytes=0-8388607", "bytes=8388608-16777215", "bytes=16777216-20971524"]
            )
        assert content(cached.hold(record)) == data
        assert len(server.seen) == len(asked)
    assert kept(cached) == {"a.tar"}
    assert not list(cached.folder.glob(".part*"))


def test_pieces_of_any_size_make_the_same_file(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 100_003)
    with serving(tmp_path / "far") as server:
        store = Store(Web(server.url), quick())
        for piece, at_once in ((1000, 7), (100_003, 2), (100_002, 3), (1 << 20, 4)):
            with open(tmp_path / "out", "w+b") as file:
                fetch(
                    store, "a.tar", record.bytes, file.fileno(), piece_bytes=piece, at_once=at_once
                )
            assert (tmp_path / "out").read_bytes() == (tmp_path / "far" / "a.tar").read_bytes()


def test_one_failing_piece_ends_the_others(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 100_000)
    with serving(tmp_path / "far") as server, open(tmp_path / "out", "w+b") as file:
        server.faults["a.tar"] = [lambda h, data: h.answer(data), replies(403)]
        with pytest.raises(DataError, match="403"):
            fetch(
                Store(Web(server.url), quick()), "a.tar", record.bytes, file.fileno(),
                piece_bytes=1000, at_once=4,
            )  # fmt: skip
        assert len(server.seen) < 20


def test_a_damaged_download_is_fetched_again(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 50_000)
    with serving(tmp_path / "far") as server:
        server.faults["a.tar"] = [flips, cut_after(10_000)]
        cached = web_set(cache_in(tmp_path / "c", MIB), server)
        assert content(cached.hold(record)) == (tmp_path / "far" / "a.tar").read_bytes()


def test_a_shard_that_is_always_damaged_is_an_error_that_names_it(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 50_000)
    with serving(tmp_path / "far") as server:
        server.always["a.tar"] = flips
        cached = web_set(cache_in(tmp_path / "c", MIB), server)
        with pytest.raises(Damaged, match=r"a\.tar: fetched 3 times.*XXH3.*Copy this shard"):
            cached.hold(record)
        assert server.gets("a.tar") == 3
    assert kept(cached) == set()
    assert not list(cached.folder.glob(".part*"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_shard_that_is_shorter_than_the_manifest_says_is_damaged(tmp_path, ranges):
    record = shard(tmp_path / "far", "a.tar", 50_000)
    (tmp_path / "far" / "a.tar").write_bytes(b"x" * 40_000)
    with serving(tmp_path / "far", ranges=ranges) as server:
        cached = web_set(cache_in(tmp_path / "c", MIB), server)
        with pytest.raises(Damaged, match="has 40000 bytes, the manifest says 50000"):
            cached.hold(record)


def test_what_is_missing_and_what_is_unreachable_differ(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 5000)
    with serving(tmp_path / "far") as server:
        cached = web_set(cache_in(tmp_path / "c", MIB), server)
        server.always["a.tar"] = replies(404)
        with pytest.raises(NotThere):
            cached.hold(record)
        server.always["a.tar"] = replies(503)
        with pytest.raises(Unreachable):
            cached.hold(record)


def test_a_kept_file_of_the_wrong_size_is_fetched_again(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 5000)
    cached = folder_set(cache_in(tmp_path / "c", MIB), tmp_path / "far")
    touch(cached, record)
    os.truncate(cached.folder / "a.tar", 4000)  # as a power cut may leave it
    assert len(content(cached.hold(record))) == 5000


def test_a_copy_that_turned_bad_is_replaced_and_the_old_one_stays_readable(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 5000)
    cached = folder_set(cache_in(tmp_path / "c", MIB), tmp_path / "far")
    old = cached.hold(record)
    (cached.folder / "a.tar").write_bytes(b"\0" * 5000)
    new = cached.hold(record, instead_of=old)
    again = cached.hold(record, instead_of=old)
    assert os.path.sameopenfile(new, again)
    assert content(old) == b"\0" * 5000
    assert content(new) == (tmp_path / "far" / "a.tar").read_bytes()
    os.close(again)


def test_threads_that_want_the_same_shard_share_one_download(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 200_000)
    with serving(tmp_path / "far") as server:
        cached = web_set(cache_in(tmp_path / "c", MIB), server)
        handles: list[int] = []
        threads = [
            threading.Thread(target=lambda: handles.append(cached.hold(record))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.gets("a.tar") == 1
    assert len({content(handle) for handle in handles}) == 1
    assert len(handles) == 8


def test_held_shards_never_go_and_a_limit_too_small_says_what_is_needed(tmp_path):
    a, b, c = (shard(tmp_path / "far", f"{n}.tar", 400_000) for n in "abc")
    cached = folder_set(cache_in(tmp_path / "c", MIB), tmp_path / "far")
    first, second = cached.hold(a), cached.hold(b)
    with pytest.raises(ConfigError) as caught:
        cached.hold(c)
    text = str(caught.value)
    for part in ("data.cache_gb", "1.0 MiB", "781.2 KiB in use", "390.6 KiB more", "0.0012"):
        assert part in text
    assert kept(cached) == {"a.tar", "b.tar"}
    os.close(first)
    os.close(cached.hold(c))
    assert kept(cached) == {"b.tar", "c.tar"}
    os.close(second)
    with pytest.raises(ConfigError, match="too small"):
        cached.hold(shard(tmp_path / "far", "huge.tar", 2 * MIB))


def test_what_is_held_idly_is_let_go_when_room_is_needed(tmp_path):
    a, b = (shard(tmp_path / "far", f"{n}.tar", 600_000) for n in "ab")
    cached = folder_set(cache_in(tmp_path / "c", MIB), tmp_path / "far")
    idle = cached.hold(a)
    os.close(cached.hold(b, let_go=lambda: os.close(idle)))
    assert kept(cached) == {"b.tar"}


def test_what_is_fetched_early_does_not_push_out_what_is_needed_sooner(tmp_path):
    a, b, c = (shard(tmp_path / "far", f"{n}.tar", 400_000) for n in "abc")
    cached = folder_set(cache_in(tmp_path / "c", MIB), tmp_path / "far")
    when = {"a.tar": 5, "b.tar": 20, "c.tar": 10}
    cached.plan(when.get)
    touch(cached, a)
    touch(cached, b)
    os.close(cached.hold(c, ahead_of_need=True))
    assert kept(cached) == {"a.tar", "c.tar"}
    with pytest.raises(NoRoom):
        cached.hold(b, ahead_of_need=True)
    assert kept(cached) == {"a.tar", "c.tar"}


def test_data_sets_that_nobody_has_open_go_first_and_wholly(tmp_path):
    old, new = (shard(tmp_path / "far", f"{n}.tar", 400_000) for n in "ab")
    cache = cache_in(tmp_path / "c", MIB)
    former = folder_set(cache, tmp_path / "far", OTHER)
    touch(former, old)
    cached = folder_set(cache, tmp_path / "far")
    touch(cached, new)
    former.close()
    touch(cached, shard(tmp_path / "far", "c.tar", 400_000))
    assert kept(cached) == {"b.tar", "c.tar"}
    assert not former.folder.exists()
    assert not touch(folder_set(cache, tmp_path / "far", OTHER), old)


def test_foreign_files_are_neither_counted_nor_touched(tmp_path):
    cache_folder = tmp_path / "c"
    foreign = [
        cache_folder / "movie.tar",
        cache_folder / OTHER / "x.tar",
        cache_folder / "sub" / "y",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"z" * 3 * MIB)
    cache = cache_in(cache_folder, MIB)
    cached = folder_set(cache, tmp_path / "far")
    for name in "abcdef":
        touch(cached, shard(tmp_path / "far", f"{name}.tar", 400_000))
    assert cache.used_bytes() <= MIB
    assert all(path.stat().st_size == 3 * MIB for path in foreign)


def test_a_disk_that_is_full_is_an_error_after_everything_else_went(tmp_path, monkeypatch):
    a, b = (shard(tmp_path / "far", f"{n}.tar", 400_000) for n in "ab")
    cached = folder_set(
        cache_in(tmp_path / "c", 100 * MIB, reserve_bytes=1 << 60), tmp_path / "far"
    )
    with pytest.raises(ResourceError, match=r"disk of the shard cache is full.*kept free"):
        cached.hold(a)
    cached = folder_set(cache_in(tmp_path / "c", 100 * MIB), tmp_path / "far")
    touch(cached, a)

    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="disk of the shard cache is full"):
        cached.hold(b)
    assert kept(cached) == set()
    assert not list(cached.folder.glob(".part*"))


def test_a_disk_that_fails_while_writing_leaves_nothing(tmp_path, monkeypatch):
    record = shard(tmp_path / "far", "a.tar", 400_000)
    cached = folder_set(cache_in(tmp_path / "c", MIB), tmp_path / "far")

    def failing(handle: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        with pytest.raises(ResourceError, match="Free space there"):
            cached.hold(record)
    assert not list(cached.folder.glob(".part*"))
    touch(cached, record)


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="shard cache cannot be used"):
        cache_in(tmp_path / "file" / "c", MIB)


def test_a_sidecar_is_checked_fetched_again_and_outlives_its_tar(tmp_path):
    record = shard(tmp_path / "far", "a.tar", 600_000)
    (tmp_path / "far" / "a.vsidx").write_bytes(b"good")
    checked = []

    def check(path) -> None:
        checked.append(path.read_bytes())
        if checked[-1] != b"good":
            raise DataError("is no index")

    with serving(tmp_path / "far") as server:
        cached = web_set(cache_in(tmp_path / "c", MIB), server)
        server.faults["a.vsidx"] = [flips]
        assert cached.sidecar(record, check).read_bytes() == b"good"
        assert len(checked) == 2
        cached.sidecar(record, check).write_bytes(b"rotten")
        assert cached.sidecar(record, check).read_bytes() == b"good"
        touch(cached, record)
        touch(cached, shard(tmp_path / "far", "b.tar", 600_000))
        assert kept(cached) == {"b.tar", "a.vsidx"}
        (cached.folder / "a.vsidx").unlink()
        server.always["a.vsidx"] = flips
        with pytest.raises(Damaged, match=r"a\.vsidx: is no index"):
            cached.sidecar(record, check)
    assert not list(cached.folder.glob(".part*"))


def test_room_is_made_for_a_sidecar_too(tmp_path):
    a = shard(tmp_path / "far", "a.tar", 600_000)
    b = shard(tmp_path / "far", "b.tar", 300_000)
    (tmp_path / "far" / "b.vsidx").write_bytes(b"x" * 10_000)
    cache = cache_in(tmp_path / "c", 605_000)
    cached = folder_set(cache, tmp_path / "far")
    handle = cached.hold(a)
    with pytest.raises(ConfigError, match="too small for the shards in use at once"):
        cached.sidecar(b, lambda path: None)
    assert cache.used_bytes() == 600_000
    idle = [handle]
    cached.sidecar(b, lambda path: None, lambda: os.close(idle.pop()))
    assert kept(cached) == {"b.vsidx"} and cache.used_bytes() == 10_000


def test_a_fetched_shard_gets_its_name_only_while_nobody_counts(tmp_path, monkeypatch):
    """Whoever counts while a file is renamed may see it under neither name, and lets the cache grow too large."""
    record = shard(tmp_path / "far", "a.tar", 1000)
    cached = folder_set(cache_in(tmp_path / "c", MIB), tmp_path / "far")
    fetched = threading.Event()
    monkeypatch.setattr(cached_set.faults, "point", lambda *_: fetched.set())
    with alone(tmp_path / "c" / ROOM_LOCK, time.sleep):  # as `reserve` does while it counts
        ahead = threading.Thread(target=touch, args=(cached, record))
        # Room for it was made before, so that only its name is missing.
        monkeypatch.setattr(cached, "_room", _room_without_lock)
        ahead.start()
        assert fetched.wait(30)
        ahead.join(timeout=0.2)
        assert kept(cached) == set()
    ahead.join(timeout=30)
    assert kept(cached) == {"a.tar"}


def _room_without_lock(part, size, *_):
    return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
