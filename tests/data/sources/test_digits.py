"""Digits are scikit-learn's, split by number."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from vitscale.data.decode import decode
from vitscale.data.sources.digits import digits_splits


def test_every_digit_is_in_one_split_with_its_label_and_pixels():
    digits = load_digits()
    splits = digits_splits()
    samples = {s.key: s for split in splits.values() for s in split.samples}
    assert len(samples) == len(digits.target) == 1797
    for number in (0, 7, 1796):
        sample = samples[f"digit/{number:04d}"]
        pixels = np.asarray(decode(sample.data))[..., 0]
        assert sample.labels == (digits.target[number],)
        assert np.abs(pixels / 255 * 16 - digits.images[number]).max() < 0.04


def test_the_held_out_share_is_spread_over_the_numbers():
    splits = digits_splits(held_out_share=0.25)
    held_out = [int(s.key.split("/")[1]) for s in splits["held-out"].samples]
    assert held_out[:3] == [3, 7, 11]
    assert len(held_out) == 449
    assert set(digits_splits(held_out_share=0.0)) == {"train"}


def test_half_of_the_digits_can_be_kept_relabelled():
    split = digits_splits()["train"].keep([5, 6, 7, 8, 9])
    assert split.classes == ("5", "6", "7", "8", "9")
    assert {s.labels[0] for s in split.samples} == {0, 1, 2, 3, 4}
