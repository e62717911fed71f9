"""A mixture keeps each source's own exact order and counts, at any position and world size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscale.data.mixture import BLOCK, Mixture, Slots
from vitscale.data.order import Order
from vitscale.errors import ConfigError


def order_of(counts, seed=0, lanes=3, window=5) -> Order:
    return Order(np.asarray(counts), seed=seed, lanes=lanes, window=window)


def mixture_of(*sources, weights) -> Mixture:
    return Mixture([order_of(counts, seed) for seed, counts in enumerate(sources)], weights)


TWO = mixture_of([30, 17, 40], [9, 4], weights=(0.7, 0.3))


def pairs(slots: Slots) -> list[tuple[int, int]]:
    return list(zip(slots.epochs.tolist(), slots.ids.tolist(), strict=True))


def test_of_every_block_each_source_gets_exactly_its_share():
    mixture = mixture_of([30], [9], [50], weights=(5, 2, 1))
    for block in (0, 1, 77):
        begin, end = mixture.counts(block * BLOCK), mixture.counts((block + 1) * BLOCK)
        assert [e - b for b, e in zip(begin, end, strict=True)] == [6250, 2500, 1250]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers(0, 3 * BLOCK))
def test_no_stretch_strays_from_the_weights_by_more_than_a_sample_a_source(weights, position):
    mixture = Mixture([order_of([7]) for _ in weights], weights)
    counts = np.array(mixture.counts(position))
    assert counts.sum() == position
    assert np.abs(counts - position * np.array(mixture.per_block) / BLOCK).max() <= len(weights)


def test_each_source_is_read_in_its_own_order_through_whole_epochs():
    slots = TWO.batch(0, 1000)
    first = [p for p in pairs(slots) if p[1] < 87]
    second = [(epoch, sample - 87) for epoch, sample in pairs(slots) if sample >= 87]
    assert (len(first), len(second)) == (700, 300)
    alone = Mixture([order_of([30, 17, 40], 0)]).batch(0, 700)
    assert sorted(first) == sorted(pairs(alone))
    complete = Counter(epoch for epoch, _ in second)
    assert all(complete[epoch] == 13 for epoch in range(300 // 13))
    assert max(Counter(second).values()) == 1


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
def test_ranks_cut_the_same_batch_and_each_gets_a_fair_part_of_every_source(world):
    for position in range(0, 48 * 30, 48):
        whole = TWO.batch(position, 48)
        parts = [TWO.batch(position, 48, rank, world) for rank in range(world)]
        assert pairs(whole) == [pair for part in parts for pair in pairs(part)]
        second = [int((part.ids >= 87).sum()) for part in parts]
        assert max(second) - min(second) <= 1


@settings(max_examples=60)
@given(st.data())
def test_random_stops_with_changing_world_sizes_give_the_unbroken_sequence(data):
    """Sources of random shards, a random batch; stops at random steps, each time on other ranks."""
    sources = data.draw(
        st.lists(
            st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(sum), min_size=1, max_size=3
        )
    )
    weights = data.draw(st.lists(st.floats(0.1, 1), min_size=len(sources), max_size=len(sources)))
    lanes, window = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 30))

    def fresh() -> Mixture:
        return Mixture(
            [order_of(c, s, lanes=lanes, window=window) for s, c in enumerate(sources)], weights
        )

    batch = 24
    unbroken = fresh()
    steps = data.draw(st.integers(1, 12))
    wanted = [pairs(unbroken.batch(step * batch, batch)) for step in range(steps)]
    step = 0
    while step < steps:
        resumed, world = fresh(), data.draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
        for _ in range(data.draw(st.integers(1, 4))):
            got = [resumed.batch(step * batch, batch, rank, world) for rank in range(world)]
            if step < steps:
                assert [pair for part in got for pair in pairs(part)] == wanted[step]
            step += 1


def test_a_source_of_nearly_no_weight_is_refused():
    with pytest.raises(ConfigError, match="source 1 would get less than 1 in 10,000"):
        mixture_of([5], [5], weights=(1.0, 1e-6))


@pytest.mark.parametrize("world", [1, 3])
def test_shards_are_announced_before_they_are_read(world):
    """Walking ahead names every shard of a batch no later than the batch itself."""
    mixture = mixture_of([30, 0, 17, 40], [9, 4], weights=(0.7, 0.3))
    edges = [np.cumsum([30, 0, 17, 40]), 87 + np.cumsum([9, 4])]
    for rank in range(world):
        ahead = mixture.shards_ahead(0, 24, rank, world)
        named: set[tuple[int, int]] = set()
        for position in range(0, 24 * 20, 24):
            ids = mixture.batch(position, 24, rank, world).ids
            needed = {
                (int(i >= 87), int(np.searchsorted(edges[int(i >= 87)], i, side="right")))
                for i in ids
            }
            while not needed <= named:
                named.add(next(ahead))
        assert (0, 1) not in named, "an empty shard is never needed"


@given(st.integers(0, 400), st.integers(0, 3))
def test_the_next_use_of_a_shard_is_when_a_window_that_needs_it_is_read(position, shard):
    """Against brute force over the places of two epochs."""
    order = order_of([30, 12, 17, 40], lanes=4, window=6)
    shards = {}
    for at in range(position, position + 2 * order.samples):
        places = order.places(at, 1)
        [(window, _)] = order.windows(places)
        if shard in order.shards(window):
            shards = at
            break
    found = order.next_use(shard, position)
    assert position <= found <= shards
    # between the two lie only positions of lanes whose window is open already
    assert shards - found < 6 * 4
