"""Shards are fetched in the order of need, no further ahead than asked for, and failures wait for their time."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from vitscale.data.prefetch import Prefetcher
from vitscale.errors import DataError


class Fetched:
    """Remembers what was fetched; `full` refuses."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.full = False
        self.failing: set[int] = set()

    def __call__(self, number: int) -> bool:
        if number in self.failing:
            raise DataError("no such shard")
        if not self.full:
            self.numbers.append(number)
        return not self.full


def until(condition) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def started(ahead, fetch, *, shards=3, limit_bytes=10**9, threads=1) -> Prefetcher:
    return Prefetcher(
        iter(ahead),
        fetch,
        lambda number: 10,
        shards=shards,
        limit_bytes=limit_bytes,
        threads=threads,
    )


def settled(fetched: Fetched, count: int) -> list[int]:
    until(lambda: len(fetched.numbers) >= count)
    time.sleep(0.02)
    return fetched.numbers


def test_the_window_moves_with_what_is_needed():
    fetched = Fetched()
    prefetcher = started(itertools.count(), fetched)
    assert settled(fetched, 3) == [0, 1, 2]
    prefetcher.needed(0)
    assert settled(fetched, 4) == [0, 1, 2, 3]
    prefetcher.needed(2)
    assert settled(fetched, 5) == [0, 1, 2, 3, 4]
    assert prefetcher.waiting == [1, 3, 4]
    prefetcher.close()


def test_bytes_bound_the_window_but_never_below_one_shard():
    for limit, count in ((25, 3), (1, 1)):
        fetched = Fetched()
        prefetcher = started(itertools.count(), fetched, shards=99, limit_bytes=limit)
        assert settled(fetched, count) == list(range(count))
        prefetcher.close()


def test_a_shard_that_waits_already_stops_the_walk_until_it_is_met():
    fetched = Fetched()
    prefetcher = started([5, 6, 5, 7], fetched)
    assert settled(fetched, 2) == [5, 6]
    prefetcher.met(6)
    assert settled(fetched, 2) == [5, 6]
    prefetcher.met(5)
    assert settled(fetched, 4) == [5, 6, 5, 7]
    prefetcher.close()


def test_an_endless_walk_over_few_shards_holds_nobody_up():
    fetched = Fetched()
    prefetcher = started(itertools.cycle(range(4)), fetched, shards=64, threads=2)
    assert sorted(settled(fetched, 4)) == [0, 1, 2, 3]
    for number in range(4):
        prefetcher.needed(number)
    assert sorted(settled(fetched, 8)[4:]) == [0, 1, 2, 3]
    prefetcher.close()
    assert not any(thread.is_alive() for thread in prefetcher._threads)


def test_shards_that_nobody_comes_for_do_not_stop_everything():
    fetched = Fetched()
    prefetcher = started(itertools.count(), fetched)
    settled(fetched, 3)
    for number in range(100, 110):
        prefetcher.needed(number)
        settled(fetched, number - 96)
    assert fetched.numbers == list(range(13))
    prefetcher.close()


def test_without_room_the_same_shard_waits_and_closing_is_prompt():
    fetched = Fetched()
    fetched.full = True
    prefetcher = started(itertools.count(), fetched)
    until(lambda: prefetcher.waiting)
    assert fetched.numbers == []
    fetched.full = False
    assert settled(fetched, 3)[0] == 0
    fetched.full = True
    prefetcher.needed(0)
    prefetcher.close()
    assert not any(thread.is_alive() for thread in prefetcher._threads)


def test_a_failure_is_left_for_the_one_who_needs_the_shard():
    fetched = Fetched()
    fetched.failing = {1}
    prefetcher = started(range(4), fetched, shards=9)
    assert settled(fetched, 3) == [0, 2, 3]
    prefetcher.needed(1)
    prefetcher.close()


def test_a_failing_order_is_not_silent():
    def ahead():
        yield 0
        raise RuntimeError("order broke")

    fetched = Fetched()
    prefetcher = started(ahead(), fetched)
    until(lambda: prefetcher._failure is not None)
    with pytest.raises(RuntimeError, match="order broke"):
        prefetcher.needed(0)
    prefetcher.close()


def test_several_threads_fetch_each_shard_once():
    fetched, gate = Fetched(), threading.Event()

    def fetch(number: int) -> bool:
        gate.wait(5)
        return fetched(number)

    prefetcher = started(range(40), fetch, shards=99, threads=4)
    gate.set()
    assert sorted(settled(fetched, 40)) == list(range(40))
    prefetcher.close()
