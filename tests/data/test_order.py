"""The order is a pure function of (seed, position) that shows every sample exactly once an epoch."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from vitscale.data.mixture import Mixture
from vitscale.data.order import Order

UNEVEN = np.random.default_rng(0).integers(0, 120, 60)


class Alone(Mixture):
    """One order and the batches that are cut from it."""

    samples: int


def order_of(counts=UNEVEN, *, seed=3, lanes=8, window=200) -> Alone:
    order = Order(np.asarray(counts), seed=seed, lanes=lanes, window=window)
    alone = Alone([order])
    alone.samples = order.samples
    return alone


@pytest.mark.parametrize("counts", [UNEVEN, [1], [7], [5, 0, 3], [1] * 40, [64]])
@pytest.mark.parametrize(("lanes", "window"), [(1, 1), (8, 200), (64, 4096), (64, 3), (5, 7)])
def test_every_sample_comes_exactly_once_in_every_epoch(counts, lanes, window):
    order = order_of(counts, lanes=lanes, window=window)
    for epoch in (0, 1, 7):
        slots = order.batch(epoch * order.samples, order.samples)
        assert sorted(slots.ids) == list(range(order.samples))
        assert set(slots.epochs) == {epoch}


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8, 12])
def test_the_global_batch_is_the_same_list_for_every_world_size(world):
    order, other = order_of(), order_of()
    for step in range(0, 400, 7):
        whole = order.batch(step * 24, 24)
        parts = [other.batch(step * 24, 24, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
        assert np.array_equal(np.concatenate([part.epochs for part in parts]), whole.epochs)


def test_batches_that_straddle_epochs_drop_and_repeat_nothing():
    order = order_of(
        [10, 9], lanes=4, window=3
    )  # 19 samples, batch 8: every epoch ends inside a batch
    seen = [order.batch(8 * step, 8) for step in range(19)]
    pairs = Counter(
        (int(e), int(i)) for slots in seen for e, i in zip(slots.epochs, slots.ids, strict=True)
    )
    assert pairs == Counter((epoch, sample) for epoch in range(8) for sample in range(19))


def test_a_batch_larger_than_the_data_set_spans_several_epochs():
    slots = order_of([5]).batch(3, 12)
    assert Counter(slots.epochs.tolist()) == {0: 2, 1: 5, 2: 5}


def test_any_position_can_be_reached_at_once_and_in_any_order_of_asking():
    walked = order_of()
    by_step = {step: walked.batch(step * 32, 32).ids for step in range(300)}
    for step in (299, 0, 150, 151, 3):
        assert np.array_equal(order_of().batch(step * 32, 32).ids, by_step[step])
        assert np.array_equal(walked.batch(step * 32, 32).ids, by_step[step])


def test_a_changed_batch_size_keeps_the_samples_of_a_stretch():
    order = order_of()
    small = np.concatenate([order.batch(position, 8).ids for position in range(96, 192, 8)])
    assert sorted(small) == sorted(order.batch(96, 96).ids)


def test_seeds_and_epochs_give_different_orders():
    first, second = order_of(seed=1), order_of(seed=2)
    n = first.samples
    assert not np.array_equal(first.batch(0, n).ids, second.batch(0, n).ids)
    assert not np.array_equal(first.batch(0, n).ids, first.batch(n, n).ids)


def test_a_tiny_data_set_is_fully_permuted_whatever_the_lanes():
    batches = {tuple(order_of([32], lanes=64, window=4096).batch(32 * e, 8).ids) for e in range(20)}
    assert len(batches) == 20
    assert len({i for batch in batches for i in batch}) == 32


def test_a_class_sorted_corpus_is_mixed_nearly_like_a_global_permutation():
    classes, each, shard, batch = 64, 500, 250, 256
    samples = classes * each
    order = order_of(np.full(samples // shard, shard), seed=0, lanes=64, window=2 * shard)
    pairs = np.array(
        [same_class_pairs(order.batch(at, batch).ids // each) for at in range(0, samples, batch)]
    )
    expected = batch * (batch - 1) / 2 * (each - 1) / (samples - 1)
    assert pairs.mean() / expected < 1.1
    assert pairs.max() / expected < 1.5


def same_class_pairs(labels: np.ndarray) -> int:
    counts = np.bincount(labels)
    return int((counts * (counts - 1) // 2).sum())


def test_four_billion_samples_are_sought_in_well_under_a_second():
    order = order_of(np.full(400_000, 10_000), seed=1, lanes=1024, window=40_000)
    begin = time.process_time()
    order.batch(order.samples * 5 // 3, 4096, 5, 64)
    assert time.process_time() - begin < 0.5
