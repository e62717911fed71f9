"""Mixup and CutMix against slow references, and what they must not touch."""

import statistics

import pytest
import torch

from tests.data.corpora import loader_of, packed
from vitscale.config.data import DataConfig
from vitscale.data.batch import counted
from vitscale.data.mix import Draw, Mixing, mix
from vitscale.place import Place

IMAGES = torch.randn(5, 3, 8, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([4, 1, 0, 2, 3])
MIXUP = Draw(0.7)
CUTMIX = Draw(0.75, (0.5, 0.5))


def mixing(seed=3, **settings):
    return Mixing(DataConfig.model_validate({"train": "data", **settings}), seed)


def weights_of(labels, weights, classes=5):
    """The dense targets that (labels, weights) stand for, [B, K]."""
    dense = torch.zeros(len(labels), classes + 1)
    dense.scatter_add_(1, labels.masked_fill(labels < 0, classes), weights)
    return dense[:, :classes]


def test_mixup_adds_shares_of_image_and_label():
    images, labels, weights = mix(IMAGES, LABELS, MIXUP)
    hot = torch.eye(5)[LABELS]
    for i, partner in enumerate((4, 3, 2, 1, 0)):
        torch.testing.assert_close(images[i], 0.7 * IMAGES[i] + 0.3 * IMAGES[partner])
        torch.testing.assert_close(
            weights_of(labels, weights)[i], 0.7 * hot[i] + 0.3 * hot[partner]
        )


def test_cutmix_pastes_a_box_and_the_weights_are_the_true_areas():
    images, labels, weights = mix(IMAGES, LABELS, CUTMIX)  # half of 8 x 6 a side, in the middle
    wanted = IMAGES.clone()
    wanted[:, :, 2:6, 2:4] = IMAGES.flip(0)[:, :, 2:6, 2:4]
    assert torch.equal(images, wanted)
    kept = 1 - (4 * 2) / (8 * 6)
    assert weights[0].tolist() == pytest.approx([kept, 1 - kept])
    assert labels.tolist() == [[4, 3], [1, 2], [0, 0], [2, 1], [3, 4]]


def test_a_box_at_the_edge_is_clipped_and_its_true_area_counts():
    draw = Draw(0.75, (0.0, 0.99))
    rows, columns = draw.box(8, 6)
    assert (rows, columns) == (slice(0, 2), slice(4, 6))
    _, _, weights = mix(IMAGES, LABELS, draw)
    assert float(weights[0, 1]) == pytest.approx(4 / 48)


@pytest.mark.parametrize("draw", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_masked_slots_stay_masked_and_their_partners_are_not_mixed(draw):
    labels = torch.tensor([-1, 1, 0, -1, 3])
    images, mixed, weights = mix(IMAGES, labels, draw)
    assert int(counted(mixed)) == int(counted(labels)) == 3
    for i in (0, 1, 3, 4):
        assert torch.equal(images[i], IMAGES[i])
    assert mixed.tolist() == [[-1, -1], [1, -1], [0, 0], [-1, -1], [3, -1]]
    assert weights[1].tolist() == weights[4].tolist() == [1.0, 0.0]
    assert weights[0].tolist() == weights[3].tolist() == [0.0, 0.0]


def test_several_labels_keep_their_weight_each():
    labels = torch.tensor([[0, 2], [1, -1], [3, 4], [-1, -1]])
    _, mixed, weights = mix(IMAGES[:4], labels, MIXUP)
    assert mixed.tolist() == [[0, 2, -1, -1], [1, -1, 3, 4], [3, 4, 1, -1], [-1] * 4]
    wanted = [[1, 1, 0, 0], [0.7, 0, 0.3, 0.3], [0.7, 0.7, 0.3, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(weights, torch.tensor(wanted))


def test_without_a_draw_nothing_changes():
    images, labels, weights = mix(IMAGES, LABELS, None)
    assert images is IMAGES and labels is LABELS and weights is None


def test_bf16_images_are_mixed_in_float32():
    images, _, _ = mix(IMAGES.bfloat16(), LABELS, MIXUP)
    exact = 0.7 * IMAGES.bfloat16().float() + 0.3 * IMAGES.flip(0).bfloat16().float()
    assert torch.equal(images, exact.bfloat16())


def test_a_draw_follows_from_seed_step_and_micro_batch_alone():
    first, again = mixing(mixup=0.4), mixing(mixup=0.4)
    assert first.draw(7, 2) == again.draw(7, 2)
    others = {first.draw(7, 3), first.draw(8, 2), mixing(seed=4, mixup=0.4).draw(7, 2)}
    assert first.draw(7, 2) not in others and len(others) == 3


def test_both_off_draws_nothing_and_each_alone_is_always_that_one():
    assert mixing().draw(0, 0) is None
    assert all(mixing(mixup=1.0).draw(0, n).center is None for n in range(20))
    assert all(mixing(cutmix=1.0).draw(0, n).center is not None for n in range(20))


def test_shares_and_moments_are_those_that_were_asked_for():
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))."""
    draws = [mixing(mixup=0.4, cutmix=1.0, cutmix_share=0.25).draw(0, n) for n in range(4000)]
    cut = [draw for draw in draws if draw.center is not None]
    assert len(cut) / len(draws) == pytest.approx(0.25, abs=0.03)
    lams = [draw.lam for draw in draws if draw.center is None]
    assert statistics.mean(lams) == pytest.approx(0.5, abs=0.03)
    assert statistics.variance(lams) == pytest.approx(1 / (4 * 1.8), abs=0.01)
    assert statistics.variance(d.lam for d in cut) == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_rank_times_accumulation_plus_index_names_the_same_micro_batch_on_any_number_of_ranks(
    tmp_path, world
):
    shards = packed(tmp_path / "d", 50, shard_samples=7)

    def micro_batches(rank, world):
        loader, accumulation = loader_of(shards, place=Place(rank=rank, world=world)), 6 // world
        feed = loader.batches(0)
        first = [next(feed) for _ in range(accumulation)]
        loader.close()
        return {rank * accumulation + index: each.ids.tolist() for index, each in enumerate(first)}

    parts = [micro_batches(rank, world) for rank in range(world)]
    assert {k: v for part in parts for k, v in part.items()} == micro_batches(0, 1)
