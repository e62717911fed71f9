"""The synthetic set is the same every time and can be learned from a handful of pixels."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from tests.data.corpora import corpus_of
from vitscale.data.loader import scan
from vitscale.data.synthetic import synthetic_shards
from vitscale.place import Place


def pixels_of(shards) -> np.ndarray:
    batches = scan(corpus_of(shards), image=(16, 16), batch=50, place=Place())
    return np.concatenate([batch.images.flatten(1).numpy() for batch in batches]) / 255


def test_a_linear_model_learns_it(tmp_path):
    train = synthetic_shards(tmp_path / "train", 200, 5, side_px=16)
    test = synthetic_shards(tmp_path / "test", 100, 5, side_px=16, seed=1)
    model = LogisticRegression(max_iter=200).fit(pixels_of(train), train.labels())
    assert model.score(pixels_of(test), test.labels()) > 0.95


def test_it_is_the_same_every_time_and_differs_by_seed(tmp_path):
    prints = [
        synthetic_shards(tmp_path / str(number), 40, seed=seed).facts.fingerprint
        for number, seed in enumerate((0, 0, 1))
    ]
    assert prints[0] == prints[1] != prints[2]
