"""Few-shot transfer: which samples are drawn, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.evaluate.stand_ins import colour_set, scan
from vitscale.errors import DataError
from vitscale.evaluate import features, fewshot


class ColourFeatures(nn.Module):
    """Features that separate the colours 0, 10, 20 and 30; remembers how many images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def represent(self, images):
        self.seen += len(images)
        own = (images[:, 0, 0, 0] / 10).round().long()
        return nn.functional.one_hot(own, 4).float()


@pytest.fixture(autouse=True)
def no_data_room(monkeypatch):
    monkeypatch.setattr(features, "scan", scan)


def score(train, test, model=None, shots=(1, 5)):
    return fewshot.score(
        model or ColourFeatures(),
        train,
        test,
        image=(4, 4),
        batch=3,
        prepare=torch.Tensor.float,
        shots=shots,
    )


def test_separable_features_are_learned_from_one_shot():
    found = score(colour_set([0, 1, 2, 3] * 6, 4), colour_set([3, 1, 0, 2, 2], 4))
    assert list(found) == ["1-shot", "5-shot"]
    assert found["1-shot"]["mean"] == found["5-shot"]["mean"] == 1.0
    assert found["1-shot"]["std"] == 0.0
    assert found["1-shot"]["images"] == 5
    assert len(found["1-shot"]["draws"]) == 3


def test_labels_that_features_do_not_know_give_the_share_of_right_guesses():
    train = colour_set([0, 1, 2, 3] * 6, 4)
    test = colour_set([0, 1, 0, 0], 4, colours=[0, 10, 20, 30])
    assert score(train, test)["5-shot"]["mean"] == 0.5


def test_short_classes_are_counted_and_give_all_they_have():
    model = ColourFeatures()
    train = colour_set([0] * 5 + [1] * 5 + [2] * 4 + [3] * 3, 4)
    found = score(train, colour_set([0, 1, 2, 3], 4), model)
    assert found["1-shot"]["short_classes"] == 0
    assert found["5-shot"]["short_classes"] == 2
    assert model.seen == 17 + 4


def test_only_drawn_images_are_read():
    model = ColourFeatures()
    score(colour_set([0, 1, 2, 3] * 50, 4), colour_set([0, 1], 4), model, shots=(1,))
    assert model.seen <= 3 * 4 + 2


def test_undecodable_images_are_left_out():
    train = colour_set([0, 1, 2, 3] * 10, 4, bad=[0])
    found = score(train, colour_set([0, 1, 2], 4, bad=[1]), shots=(10,))["10-shot"]
    assert found["mean"] == 1.0
    assert found["images"] == 2


def test_other_classes_are_refused():
    with pytest.raises(DataError, match="same classes"):
        score(colour_set([0, 1], 4), colour_set([0, 1], 3))
    with pytest.raises(DataError, match="number 3 is 'class 3' and None"):
        score(colour_set([0, 1], 4), colour_set([0, 1], 3))


def test_a_draw_is_the_protocols_permutation_and_fewer_shots_are_a_prefix():
    labels = np.array([1, 0, 1, 0, 1, 1, 0])
    rng = np.random.default_rng(2)
    expected = [rng.permutation(np.array([1, 3, 6])), rng.permutation(np.array([0, 2, 4, 5]))]
    for count in (1, 2, 10):
        found = fewshot.draw(labels, 2, count, seed=2)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs[:count])


def test_features_come_in_the_order_of_samples_whatever_the_order_of_reading():
    found = features.extract(
        ColourFeatures(),
        colour_set([2, 0, 1, 3], 4),
        np.array([0, 2, 3]),
        image=(4, 4),
        batch=2,
        prepare=torch.Tensor.float,
    )
    assert found.ids.tolist() == [0, 2, 3]
    assert found.labels.tolist() == found.values.argmax(1).tolist() == [2, 1, 3]
