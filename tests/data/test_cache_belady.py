"""What goes first is what is needed last, and the accounts are right whatever happens in whatever order."""

from __future__ import annotations

import os
import random
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.cached import OTHER, PRINT, cache_in, folder_set, kept, shard, touch
from vitscale.config.dataset import ShardRecord
from vitscale.data.cached_set import CachedSet
from vitscale.errors import ConfigError


def fewest_fetches(wanted: tuple[int, ...], room: int) -> int:
    """The smallest possible number of fetches, by trying every choice."""

    @cache
    def best(at: int, inside: frozenset[int]) -> int:
        if at == len(wanted):
            return 0
        if wanted[at] in inside:
            return best(at + 1, inside)
        if len(inside) < room:
            return 1 + best(at + 1, inside | {wanted[at]})
        return 1 + min(best(at + 1, inside - {out} | {wanted[at]}) for out in inside)

    return best(0, frozenset())


@pytest.mark.parametrize("seed", range(6))
def test_no_choice_of_what_goes_needs_fewer_fetches(tmp_path, seed):
    draw = random.Random(seed)
    records = [shard(tmp_path / "far", f"{number}.tar", 1000) for number in range(6)]
    wanted = tuple(draw.randrange(6) for _ in range(24))
    cached = folder_set(cache_in(tmp_path / "c", 3500), tmp_path / "far")
    now = [0]

    def next_use(name: str) -> int:
        number = int(name.partition(".")[0])
        return next((at for at in range(now[0] + 1, len(wanted)) if wanted[at] == number), 10**6)

    cached.plan(next_use)
    fetches = 0
    for now[0], number in enumerate(wanted):
        fetches += not touch(cached, records[number])
    assert fetches == fewest_fetches(wanted, 3)


def test_without_a_plan_the_longest_unused_goes(tmp_path):
    a, b, c = (shard(tmp_path / "far", f"{name}.tar", 1000) for name in "abc")
    cached = folder_set(cache_in(tmp_path / "c", 2500), tmp_path / "far")
    for number, record in enumerate((a, b, a, c)):
        touch(cached, record)
        os.utime(cached.folder / record.name, (number, number))
    assert kept(cached) == {"a.tar", "c.tar"}


SIZES = (100, 250, 400, 700)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hold", "hold", "let go", "reopen", "leave a part", "lose"]),
        st.integers(0, len(SIZES) - 1),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, database=None)
@given(steps=STEPS)
def test_the_limit_holds_and_held_shards_stay_whatever_happens(steps):
    with tempfile.TemporaryDirectory() as folder:
        _play(Path(folder), steps)


def _hold(cached: CachedSet, record: ShardRecord, held: list[tuple[Path, int, int]]) -> None:
    """Hold a shard more, which must succeed exactly if all that is held then is within the limit."""
    pinned = {path: size for path, size, _ in held} | {cached.folder / record.name: record.bytes}
    try:
        held.append((cached.folder / record.name, record.bytes, cached.hold(record)))
        assert sum(pinned.values()) <= 1000
    except ConfigError:
        assert sum(pinned.values()) > 1000


def _play(folder: Path, steps: list[tuple[str, int, bool]]) -> None:
    records = [shard(folder / "far", f"{n}.tar", size) for n, size in enumerate(SIZES)]
    cache = cache_in(folder / "c", 1000)
    sets = {name: folder_set(cache, folder / "far", name) for name in (PRINT, OTHER)}
    held: list[tuple[Path, int, int]] = []
    for what, number, other in steps:
        cached = sets[OTHER if other else PRINT]
        record = records[number]
        if what == "hold":
            _hold(cached, record, held)
        elif what == "let go" and held:
            os.close(held.pop(number % len(held))[2])
        elif what == "reopen":
            cache = cache_in(folder / "c", 1000)
            for one in sets.values():
                one.close()
            sets = {name: folder_set(cache, folder / "far", name) for name in (PRINT, OTHER)}
        elif what == "leave a part":
            (cached.folder / f".part-{number}").write_bytes(b"x" * 50)
        elif what == "lose" and not any(path == cached.folder / record.name for path, *_ in held):
            (cached.folder / record.name).unlink(missing_ok=True)
        for path, size, handle in held:
            assert os.fstat(handle).st_nlink == 1 and path.stat().st_size == size
        parts = sum(path.stat().st_size for path in (folder / "c").glob("*/.part-*"))
        assert cache.used_bytes() - parts <= 1000
    for *_, handle in held:
        os.close(handle)
