"""A data set on a web server reads as the same data set in a folder, by way of a cache."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from tests.data.cached import cache_in, quick
from tests.data.corpora import flip_byte, packed
from tests.data.servers import Server, flips, no_proxy, replies, serves, serving  # noqa: F401
from tests.data.test_cache_belady import fewest_fetches
from vitscale.data.bad_images import BadImage
from vitscale.data.shards import ShardSet, open_shards
from vitscale.data.stores.manifest import facts_at
from vitscale.data.stores.store import Store, Unreachable
from vitscale.data.stores.web import Web
from vitscale.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def far(tmp_path):
    """A data set of five shards on a server; its folder, its twin and the server."""
    twin = packed(tmp_path / "far", 40, shard_samples=8)
    with serving(tmp_path / "far") as server:
        yield twin, server


def remote(server: Server, cache, **options) -> ShardSet:
    store = Store(Web(server.url, read_s=5), quick())
    return open_shards(server.url, cache=cache, store=store, **options)


def images(shards: ShardSet, ids) -> list[bytes]:
    files = (places := shards.places(np.asarray(ids))).files
    found = [
        os.pread(files.handles[slot], int(files.lengths[slot]), int(files.offsets[slot]))
        for slot in range(len(ids))
    ]
    del places
    return found


def test_it_reads_as_the_folder_does_and_each_file_is_fetched_once(far, tmp_path):
    twin, server = far
    shards = remote(server, cache_in(tmp_path / "c", 1 << 20))
    assert shards.facts == twin.facts == facts_at(server.url)
    ids = np.random.default_rng(0).permutation(40)
    assert images(shards, ids) == [twin.read(sample) for sample in ids.tolist()]
    assert (shards.labels() == twin.labels()).all()
    assert [shards.name(n) for n in range(40)] == [twin.name(n) for n in range(40)]
    assert [shards.sample(n) for n in range(40)] == [twin.sample(n) for n in range(40)]
    names = [name for _, name, _ in server.seen if name != "manifest.json"]
    assert len(names) == len(set(names)) == 10
    before = len(server.seen)
    again = remote(server, cache_in(tmp_path / "c", 1 << 20))
    assert images(again, ids) == images(shards, ids)
    assert [name for _, name, _ in server.seen[before:]] == ["manifest.json"]


def test_labels_need_sidecars_only(far, tmp_path):
    twin, server = far
    shards = remote(server, cache_in(tmp_path / "c", 1 << 20))
    assert (shards.labels() == twin.labels()).all()
    assert not any(name.endswith(".tar") for _, name, _ in server.seen)


def test_a_cache_much_smaller_than_the_data_serves_it_all(far, tmp_path):
    twin, server = far
    size = max(record.bytes for record in twin._records)
    cache = cache_in(tmp_path / "c", 2 * size + 20_000)
    shards = remote(server, cache)
    for _ in range(3):
        for sample in np.random.default_rng(1).permutation(40).tolist():
            assert shards.read(sample) == twin.read(sample)
            tars = [path.stat().st_size for path in (tmp_path / "c").glob("*/*.tar")]
            assert sum(tars) <= cache.limit_bytes
    with pytest.raises(ConfigError, match=r"data\.cache_gb.*too small"):
        shards.places(np.arange(40))


def test_a_store_without_a_cache_says_which_setting_to_give(far):
    with pytest.raises(ConfigError, match=r"data\.cache.*none is set.*data\.cache ="):
        open_shards(far[1].url)


def test_a_place_without_a_data_set_says_so(far, tmp_path):
    _, server = far
    cache = cache_in(tmp_path / "c", 1 << 20)
    server.always["manifest.json"] = replies(404)
    with pytest.raises(DataError, match=r"there is no data set here: it has no manifest\.json"):
        remote(server, cache)
    for content in (b"\xff\xfe", b"{", b"[]"):
        server.always["manifest.json"] = serves(content)
        with pytest.raises(DataError, match=r"/manifest\.json: the manifest is damaged"):
            remote(server, cache)


def test_damage_in_the_cache_heals_by_one_fetch_more(far, tmp_path):
    twin, server = far
    shards = remote(server, cache_in(tmp_path / "c", 1 << 20))
    wanted = [twin.read(sample) for sample in range(40)]
    shards.places(np.arange(40))
    (cached,) = (tmp_path / "c").glob("*/shard-000000.tar")
    for row in (2, 5):
        flip_byte(cached, int(twin._find(row)[0].index.offsets[row]) + 20)
    with pytest.raises(BadImage):
        shards._find(2)[0].image(2)
    assert shards.reread(2) == wanted[2]
    assert [shards.read(sample) for sample in range(40)] == wanted
    assert server.gets("shard-000000.tar") == 2
    assert server.gets("shard-000001.tar") == 1


def test_damage_in_the_store_is_a_bad_image_not_a_loop(far, tmp_path):
    twin, server = far
    shards = remote(server, cache_in(tmp_path / "c", 1 << 20))
    shards.places(np.arange(40))
    (cached,) = (tmp_path / "c").glob("*/shard-000000.tar")
    flip_byte(cached, int(twin._find(2)[0].index.offsets[2]) + 20)
    server.always["shard-000000.tar"] = flips
    with pytest.raises(
        BadImage, match=r"cannot be fetched again.*shard-000000\.tar: fetched 3 times"
    ):
        shards.reread(2)
    assert shards.reread(3) == twin.read(3)
    with pytest.raises(BadImage, match="checksum"):
        shards.reread(2)
    assert server.gets("shard-000000.tar") == 4


@pytest.mark.parametrize("fault", [replies(404), flips])
def test_a_shard_that_cannot_be_had_ends_the_run_or_is_masked(far, tmp_path, fault):
    twin, server = far
    server.always["shard-000001.tar"] = fault
    cache = cache_in(tmp_path / "c", 1 << 20)
    ids = np.arange(40)
    with pytest.raises(DataError, match=r"shard-000001\.tar cannot be had.*missing_shards"):
        remote(server, cache).places(ids)
    shards = remote(server, cache, missing="mask")
    inside = shards.shard_numbers(ids) == 1
    before = server.gets("shard-000001.tar")
    for _ in range(2):
        assert ((shards.places(ids).files.handles == -1) == inside).all()
    assert server.gets("shard-000001.tar") - before <= 3
    assert list(shards.lost) == ["shard-000001.tar"]
    assert (shards.labels() == twin.labels()).all()


@pytest.mark.parametrize("status", [503, 403])
def test_a_store_that_is_down_or_refuses_is_never_masked(far, tmp_path, status):
    _, server = far
    shards = remote(server, cache_in(tmp_path / "c", 1 << 20), missing="mask")
    server.always["shard-000001.tar"] = replies(status)
    with pytest.raises(DataError) as caught:
        shards.places(np.arange(40))
    assert isinstance(caught.value, Unreachable) is (status == 503)
    assert shards.lost == {}


def test_a_sidecar_of_another_data_set_is_damage(far, tmp_path):
    twin, server = far
    other = (twin.folder / "shard-000001.vsidx").read_bytes()
    server.always["shard-000000.vsidx"] = serves(other)
    with pytest.raises(DataError, match=r"belongs to another version"):
        remote(server, cache_in(tmp_path / "c", 1 << 20)).places(np.arange(4))


def test_prefetched_shards_are_there_when_needed(far, tmp_path):
    twin, server = far
    shards = remote(server, cache_in(tmp_path / "c", 1 << 20))
    order = [3, 1, 0, 4, 2]
    shards.prefetch(iter(order), shards=2, limit_bytes=1 << 20)

    def tars() -> set[str]:
        return {path.name for path in (tmp_path / "c").glob("*/*.tar")}

    for at, number in enumerate(order):
        wanted = {f"shard-{n:06d}.tar" for n in order[: at + 2]}
        end = time.monotonic() + 5
        while tars() != wanted:
            assert time.monotonic() < end
            time.sleep(0.01)
        first = int(shards._first[number])
        assert shards.read(first) == twin.read(first)
    assert all(server.gets(name) == 1 for name in tars())
    shards.close()


def test_a_plan_makes_a_small_cache_fetch_as_little_as_can_be(far, tmp_path):
    twin, server = far
    size = max(record.bytes for record in twin._records)
    shards = remote(server, cache_in(tmp_path / "c", 3 * size + 20_000))
    order = (0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4)
    names = [record.name for record in twin._records]
    now = [0]
    shards.plan(
        lambda name: next((n for n in range(now[0] + 1, 12) if names[order[n]] == name), 10**6)
    )
    for now[0], number in enumerate(order):
        assert shards.read(int(shards._first[number]))
        shards._let_go()  # what is held idly may not go
    assert sum(server.gets(name) for name in names) == fewest_fetches(order, 3)
