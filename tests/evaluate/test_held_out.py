"""Held-out accuracy: every image once, whatever the number of ranks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.evaluate.stand_ins import colour_set, scan
from vitscale.errors import DataError
from vitscale.evaluate import held_out
from vitscale.place import Place

K = 8


class ColourModel(nn.Module):
    """Says the class is colour / 10, the next class second, and so on; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.modes = set()

    def forward(self, images):
        self.calls += 1
        self.modes.add(self.training)
        assert not torch.is_grad_enabled()
        guess = (images[:, 0, 0, 0] / 10).round()
        return -((torch.arange(K) - guess[:, None]) % K)


@pytest.fixture(autouse=True)
def no_data_room(monkeypatch):
    monkeypatch.setattr(held_out, "scan", scan)


def score(shards, place=Place(), batch=3, model=None, **more):  # noqa: B008
    return held_out.score(
        model or ColourModel(),
        shards,
        image=(4, 4),
        batch=batch,
        place=place,
        **{"prepare": torch.Tensor.float, **more},
    )


def test_hits_and_loss_are_those_counted_by_hand():
    # colours say 0 1 2 3; labels are 0 1, then one and six classes further on
    shards = colour_set([0, 1, 3, 1], K, colours=[0, 10, 20, 30])
    found = score(shards)
    assert (found["top1"], found["top5"], found["images"], found["bad"]) == (0.5, 0.75, 4, 0)
    logits = -torch.arange(K, dtype=torch.float64)
    expected = logits.logsumexp(0) - logits[[0, 0, 1, 6]]
    assert found["loss"] == pytest.approx(expected.mean().item(), rel=1e-6)


def test_the_sigmoid_loss_is_summed_over_classes():
    found = score(colour_set([0], K), objective="sigmoid")
    logits = -torch.arange(K, dtype=torch.float32)
    target = torch.zeros(K)
    target[0] = 1
    expected = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_bad_images_are_neither_hit_nor_miss():
    found = score(colour_set([0, 1, 2, 3, 4], K, bad=[1, 4]))
    assert (found["top1"], found["images"], found["bad"]) == (1.0, 3, 2)


def test_top5_takes_no_more_guesses_than_there_are_classes(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    assert score(colour_set([0, 1, 2], 3), model=model)["top5"] == 1.0


def test_nothing_but_bad_images_is_an_error():
    with pytest.raises(DataError, match="no image could be scored"):
        score(colour_set([0, 1], K, bad=[0, 1]))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored(training):
    model = ColourModel().train(training)
    score(colour_set([0, 1], K), model=model)
    assert model.modes == {False}
    assert model.training is training


def test_the_mode_is_restored_after_an_error():
    model = ColourModel().train()
    with pytest.raises(pytest.fail.Exception):
        score(colour_set([0], K), model=model, prepare=lambda images: pytest.fail("as asked"))
    assert model.training


@pytest.mark.parametrize(
    ("samples", "world", "batch"), [(7, 3, 2), (10, 4, 3), (2, 4, 5), (9, 3, 3)]
)
def test_ranks_call_the_model_equally_often_and_sum_to_the_answer_of_one(
    samples, world, batch, monkeypatch
):
    labels = [(3 * i) % K for i in range(samples)]
    shards = colour_set(labels, K, colours=[10 * (i % K) for i in range(samples)], bad=[1])
    alone = score(shards, batch=batch)
    parts, calls = [], []
    total = torch.zeros(5, dtype=torch.float64)

    def keep_part(sums):
        parts.append(sums.clone())
        sums.copy_(total if total.any() else torch.ones(5))

    monkeypatch.setattr(torch.distributed, "all_reduce", keep_part)
    for rank in range(world):
        model = ColourModel()
        score(shards, Place(rank, world), batch, model)
        calls.append(model.calls)
    assert len(set(calls)) == 1
    total += torch.stack(parts).sum(0)
    together = score(shards, Place(0, world), batch)
    assert together == pytest.approx(alone)
    assert together["images"] == samples - 1
