"""Batches do not depend on ranks, threads or where one starts; bad images are masked, counted, named."""

from __future__ import annotations

import gc
import logging
import random
import re
import threading

import numpy as np
import pytest
import torch

from tests.data.corpora import corpus_of, damage_image, image_file, loader_of, packed, split_of
from vitscale.data.augment import View
from vitscale.data.bad_images import tolerated
from vitscale.data.batch import Buffers, MicroBatch
from vitscale.data.loader import scan, useful_threads
from vitscale.data.samples import Sample, Split
from vitscale.data.shards import ShardSet, open_shards
from vitscale.data.write import pack
from vitscale.errors import ConfigError, DataError
from vitscale.place import Place


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    return packed(tmp_path_factory.mktemp("data") / "d", 50, shard_samples=7)


def take(loader, position: int, images: int) -> MicroBatch:
    """The next `images` of this rank as one."""
    batches, got = [], 0
    for batch in loader.batches(position):
        batches.append(batch)
        got += len(batch.ids)
        if got >= images:
            break
    loader.close()
    return joined(batches)


def joined(batches: list[MicroBatch]) -> MicroBatch:
    return MicroBatch(
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
        np.concatenate([batch.ids for batch in batches]),
        np.concatenate([batch.epochs for batch in batches]),
    )


def part_of(batch: MicroBatch, part: slice) -> MicroBatch:
    return MicroBatch(batch.images[part], batch.labels[part], batch.ids[part], batch.epochs[part])


def assert_same(one: MicroBatch, other: MicroBatch) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.images, other.images)


def test_a_micro_batch_has_the_promised_shape_and_the_right_labels(shards):
    batch = next(iter(loader_of(shards).batches(0)))
    assert batch.images.shape == (2, 3, 8, 8)
    assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
    assert batch.ids.dtype == np.int64
    assert batch.labels.tolist() == shards.labels()[batch.ids].tolist()


@pytest.mark.parametrize("world", [2, 3, 4, 6, 12])
def test_ranks_together_see_the_global_batch_bit_for_bit(shards, world):
    whole = take(loader_of(shards), 0, 72)
    ranks = [
        take(loader_of(shards, place=Place(rank, world)), 0, 72 // world) for rank in range(world)
    ]
    for step in range(6):
        share = slice(step * 12 // world, (step + 1) * 12 // world)
        at = slice(step * 12, (step + 1) * 12)
        assert_same(joined([part_of(rank, share) for rank in ranks]), part_of(whole, at))


@pytest.mark.parametrize("position", [12, 48, 60, 600])
def test_starting_at_a_position_goes_on_as_if_never_stopped(shards, position):
    through = take(loader_of(shards), 0, position + 36)
    resumed = take(loader_of(shards), position, 36)
    assert_same(resumed, part_of(through, slice(position, None)))


def test_a_resumed_run_shows_every_sample_as_often_as_an_uninterrupted_one(shards):
    ids = [take(loader_of(shards, place=Place(r, 3)), 0, 20).ids for r in range(3)]
    ids += [take(loader_of(shards, place=Place(r, 2)), 60, 270).ids for r in range(2)]
    assert sorted(np.concatenate(ids)) == sorted(take(loader_of(shards), 0, 600).ids)
    assert np.bincount(np.concatenate(ids)).tolist() == [600 // 50] * 50


def test_the_number_of_threads_and_prefetch_change_no_bit(tmp_path):
    samples = [Sample(f"{n}", "png", image_file(seed=n, size=(64, 64)), 0) for n in range(24)]
    pack(Split(("a",), samples), tmp_path / "d")
    large = open_shards(tmp_path / "d")
    assert useful_threads(4, corpus_of(large)) == 4
    one = take(loader_of(large), 0, 48)
    assert_same(one, take(loader_of(large, threads=4, prefetch=1), 0, 48))
    assert_same(one, take(loader_of(large, threads=3, prefetch=9), 0, 48))


def test_small_images_are_left_to_one_thread(shards):
    assert useful_threads(8, corpus_of(shards)) == 1


def test_augmentation_differs_between_epochs(shards):
    both = take(loader_of(shards, batch=2), 0, 100)
    first, second = ({int(i): both.images[p] for p, i in part} for part in halves(both.ids))
    assert sum(torch.equal(first[i], second[i]) for i in first) < 5


def halves(ids: np.ndarray):
    pairs = list(enumerate(ids))
    return pairs[:50], pairs[50:]


def test_a_bad_image_is_masked_counted_and_named(tmp_path, caplog):
    shards = packed(tmp_path / "d", 40)
    damage_image(shards, 9)
    loader = loader_of(shards, batch=8)
    with caplog.at_level(logging.WARNING):
        got = take(loader, 0, 120)  # three epochs: met three times, counted and named once
    masked = got.ids == 9
    assert masked.sum() == 3
    assert got.labels[torch.from_numpy(masked)].tolist() == [-1] * 3
    assert not got.images[torch.from_numpy(masked)].any()
    assert (got.labels[torch.from_numpy(~masked)] >= 0).all()
    assert loader.bad_images == 1
    [line] = [record.getMessage() for record in caplog.records]
    shard, key, offset = shards.whereabouts(9)
    assert line.startswith(f"masked a bad image: {shard}, key {key!r}, byte {offset}: ")
    assert "checksum" in line


def test_masking_moves_no_other_sample(tmp_path):
    sound, damaged = packed(tmp_path / "a", 40), packed(tmp_path / "b", 40)
    damage_image(damaged, 3)
    one, other = take(loader_of(sound), 0, 120), take(loader_of(damaged), 0, 120)
    assert one.ids.tolist() == other.ids.tolist()
    keep = torch.from_numpy(one.ids != 3)
    assert torch.equal(one.images[keep], other.images[keep])


def test_an_image_that_cannot_be_decoded_is_masked_too(tmp_path):
    samples = [*split_of(20).samples, Sample("broken", "png", image_file()[:60], 1)]
    pack(Split(("a", "b", "c", "d"), samples), tmp_path / "d")
    got = take(loader_of(open_shards(tmp_path / "d"), batch=4), 0, 20)
    assert (got.labels == -1).sum() <= 1


def test_too_many_bad_images_stop_the_run_and_are_listed(tmp_path):
    shards = packed(tmp_path / "d", 40)
    for sample in range(0, 40, 4):
        damage_image(shards, sample)
    loader = loader_of(shards, batch=8)
    with pytest.raises(DataError, match=r"images seen are bad") as caught:
        take(loader, 0, 80)
    loader.close()
    text = str(caught.value)
    assert text.count("key 's/") >= 2
    assert "bad_image_limit 0.0001" in text
    assert loader.bad_images < 10


def test_a_scan_of_a_rotten_set_names_it_and_a_remedy_that_a_scan_has(tmp_path):
    shards = packed(tmp_path / "rotten", 40)
    for sample in range(0, 40, 4):
        damage_image(shards, sample)
    with pytest.raises(DataError, match="images seen are bad") as caught:
        list(scan(corpus_of(shards), image=(8, 8), batch=8, place=Place()))
    assert str(tmp_path / "rotten") in str(caught.value)
    assert "data.bad_image_limit" not in str(caught.value)


def test_a_limit_of_zero_tolerates_none_and_a_limit_of_one_everything(tmp_path):
    shards = packed(tmp_path / "d", 16)
    damage_image(shards, 3)
    strict = loader_of(shards, batch=8, bad_image_limit=0.0)
    with pytest.raises(DataError, match="1 of"):
        take(strict, 0, 16)
    strict.close()
    for sample in range(16):
        if sample != 3:
            damage_image(shards, sample)
    got = take(loader_of(shards, batch=8, bad_image_limit=1.0), 0, 32)
    assert (got.labels == -1).all()


def test_the_rule_for_bad_images_tolerates_one_and_then_the_share_with_its_spread():
    assert [tolerated(1e-4, seen) for seen in (0, 100, 10_000, 1_000_000)] == [1, 1, 5, 131]
    assert tolerated(0.0, 10**9) == 0


def test_closing_ends_iteration_and_its_threads(shards):
    before = threading.active_count()
    loader = loader_of(shards)
    batches = loader.batches(0)
    next(batches)
    loader.close()
    loader.close()
    assert list(batches) == []
    assert list(loader.batches(0)) == []
    assert threading.active_count() == before


def test_an_iterator_that_is_dropped_does_not_disturb_the_next(shards):
    loader = loader_of(shards)
    dropped = loader.batches(0)
    next(dropped)
    del dropped
    gc.collect()
    fresh = take(loader, 24, 12)
    assert_same(fresh, take(loader_of(shards), 24, 12))


def test_a_broken_index_reaches_the_consumer(tmp_path):
    shards = packed(tmp_path / "d", 32)
    (tmp_path / "d" / "shard-000001.vsidx").write_bytes(b"junk")
    loader = loader_of(open_shards(tmp_path / "d"))
    with pytest.raises(DataError, match="is no shard index"):
        take(loader, 0, 64)
    loader.close()
    del shards


def test_a_batch_that_does_not_divide_is_refused(shards):
    with pytest.raises(ConfigError, match="cannot be cut"):
        loader_of(shards, batch=10, place=Place(0, 4))


def test_a_state_fits_its_own_loader_and_another_batch_size(shards):
    loader = loader_of(shards)
    state = loader.state(120)
    assert state["position"] == 120
    loader.resume(state)
    other = loader_of(shards, batch=6)
    other.resume(state)
    for each in (loader, other):
        each.close()


def test_what_changed_since_the_checkpoint_is_named(shards, tmp_path):
    state = loader_of(shards).state(12)
    state["eras"][0]["seed"] = 6
    other = loader_of(packed(tmp_path / "d", 51), lanes=4, window=9)
    with pytest.raises(DataError) as caught:
        other.resume(state)
    text = str(caught.value)
    for part in (
        "fingerprint",
        "number of samples was 50, is 51",
        "run.seed was 6, is 5",
        "data.lanes was 3, is 4",
        "data.window was 8",
    ):
        assert part in text
    with pytest.raises(DataError, match="another version"):
        other.resume({})


def test_an_accepted_change_goes_on_in_a_new_order_that_repeats_no_permutation(shards, tmp_path):
    state = loader_of(shards).state(120)
    grown = packed(tmp_path / "d", 60, shard_samples=7)
    with pytest.raises(DataError) as refused:
        loader_of(grown).resume(state)
    name = re.search('accept_change="([0-9a-f]+)"', str(refused.value)).group(1)
    loader = loader_of(grown, accept_change=name)
    loader.resume(state)
    got = take(loader, 120, 60)
    assert sorted(got.ids) == list(range(60))
    assert set(got.epochs) == {3}  # 120 of 50 samples were in epochs 0 to 2
    assert got.ids.tolist() != take(loader_of(grown), 0, 60).ids.tolist()
    later = loader_of(grown, accept_change=name)
    later.resume(loader.state(180))  # resumed again, in the era that has begun
    assert set(take(later, 180, 60).epochs) == {4}
    with pytest.raises(ConfigError, match="names another order"):
        loader_of(shards, accept_change=name)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 60])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_a_scan_shows_every_sample_once_over_all_ranks(shards, world, batch):
    seen = [
        list(scan(corpus_of(shards), image=(8, 8), batch=batch, place=Place(rank, world)))
        for rank in range(world)
    ]
    ids = [b.ids for batches in seen for b in batches]
    assert np.concatenate(ids).tolist() == list(range(50))
    assert all(len(b.ids) == batch for batches in seen for b in batches[:-1])
    labels = torch.cat([b.labels for batches in seen for b in batches])
    assert labels.tolist() == shards.labels().tolist()


def test_a_scan_follows_the_given_ids_in_their_order(shards):
    ids = np.array([41, 3, 3, 17])
    got = joined(list(scan(corpus_of(shards), image=(8, 8), batch=3, place=Place(), ids=ids)))
    assert got.ids.tolist() == [41, 3, 3, 17]
    assert torch.equal(got.images[1], got.images[2])
    assert (
        list(scan(corpus_of(shards), image=(8, 8), batch=3, place=Place(), ids=np.array([], int)))
        == []
    )
    with pytest.raises(IndexError):
        next(scan(corpus_of(shards), image=(8, 8), batch=3, place=Place(), ids=np.array([50])))


def test_a_scan_crops_the_centre_or_squeezes(shards):
    centre = next(scan(corpus_of(shards), image=(8, 8), batch=4, place=Place()))
    squeezed = next(
        scan(corpus_of(shards), image=(8, 8), batch=4, place=Place(), view=View("none"))
    )
    assert not torch.equal(centre.images, squeezed.images)


def test_a_scan_masks_bad_images_and_stops_at_many(tmp_path):
    shards = packed(tmp_path / "d", 40)
    damage_image(shards, 9)
    got = joined(list(scan(corpus_of(shards), image=(8, 8), batch=16, place=Place())))
    assert (got.labels == -1).nonzero().flatten().tolist() == [9]
    for sample in range(20):
        if sample != 9:
            damage_image(shards, sample)
    with pytest.raises(DataError, match="are bad"):
        list(scan(corpus_of(shards), image=(8, 8), batch=16, place=Place()))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> ShardSet:
    """30 JPEGs large enough for several threads, one of them damaged."""
    folder = tmp_path_factory.mktemp("photos") / "d"
    samples = [
        Sample(f"{n}", "jpg", image_file("JPEG", seed=n, size=(90 + n, 80)), n % 3)
        for n in range(30)
    ]
    pack(Split(("a", "b", "c"), samples), folder, shard_samples=8)
    shards = open_shards(folder)
    damage_image(shards, 4)
    assert useful_threads(4, corpus_of(shards)) == 4
    return shards


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
def test_batches_are_the_same_for_all_worlds_and_threads(photos, world, threads):
    """Five global batches of 24 straddle four epochs; pixels, labels, masks and epochs, bit for bit."""
    reference = take(loader_of(photos, batch=24, bad_image_limit=1.0), 0, 120)
    settings = {"batch": 24, "threads": threads, "bad_image_limit": 1.0}
    ranks = [
        take(loader_of(photos, place=Place(rank, world), **settings), 0, 120 // world)
        for rank in range(world)
    ]
    share = 24 // world
    steps = [part_of(rank, slice(s * share, (s + 1) * share)) for s in range(5) for rank in ranks]
    assert_same(joined(steps), reference)
    assert joined(steps).epochs.tolist() == reference.epochs.tolist()


def test_a_hundred_stops_on_changing_numbers_of_ranks_give_the_unbroken_sequence(photos):
    rng = random.Random(7)
    batch, stops = 24, 100
    unbroken = take(loader_of(photos, batch=batch, bad_image_limit=1.0), 0, batch * 2 * stops)
    position = 0
    for _ in range(stops):
        world, steps = rng.choice([1, 2, 3, 4, 6, 8]), rng.randint(1, 2)
        state = loader_of(photos, batch=batch).state(position)
        parts = []
        for rank in range(world):
            loader = loader_of(photos, place=Place(rank, world), batch=batch, bad_image_limit=1.0)
            loader.resume(state)
            parts.append(take(loader, state["position"], steps * batch // world))
        share = batch // world
        cut = [part_of(p, slice(s * share, (s + 1) * share)) for s in range(steps) for p in parts]
        assert_same(joined(cut), part_of(unbroken, slice(position, position + steps * batch)))
        position += steps * batch


def test_memory_is_used_again_only_when_no_tensor_refers_to_it():
    buffers = Buffers()
    first = buffers.take((2, 3))
    part = first[1:].t()
    address = first.data_ptr()
    del first
    assert buffers.take((2, 3)).data_ptr() != address  # a view still shows it
    del part
    gc.collect()
    again = [buffers.take((2, 3)) for _ in range(3)]
    assert [tensor.data_ptr() for tensor in again].count(address) == 1
    assert buffers.take((4, 3)).shape == (4, 3)
