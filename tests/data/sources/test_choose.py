"""Words of the command line become splits, or a message about what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitscale.data.sources.choose import Choice, parse_labels, splits_of
from vitscale.errors import ConfigError


def test_labels_are_read_from_ranges_and_lists():
    assert parse_labels("0-4") == [0, 1, 2, 3, 4]
    assert parse_labels("7") == [7]
    assert parse_labels("5-6, 0,5") == [5, 6, 0]


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1;2", "1..3"])
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match="0-4 or 0,2,5-7"):
        parse_labels(text)


def test_a_subset_applies_to_every_split():
    splits = splits_of(Choice("digits", classes_subset="5-9"))
    assert set(splits) == {"train", "held-out"}
    for split in splits.values():
        assert split.classes == ("5", "6", "7", "8", "9")
        assert {sample.labels[0] for sample in split.samples} == set(range(5))


REFUSED = {
    "did you mean 'digits'": Choice("digit"),
    "from 0 to below 1": Choice("digits", held_out_share=1.0),
    "needs the PATH": Choice("folder"),
    "take no PATH": Choice("digits", path=Path("x")),
    "holds out whole icon sets": Choice("icons", held_out_share=0.1),
    "its official test split": Choice("fashion-mnist", held_out_share=0.1),
    "Labels run from 0 to 9": Choice("digits", classes_subset="8-12"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_source_cannot_follow_is_an_error(why):
    with pytest.raises(ConfigError, match=why):
        splits_of(REFUSED[why])
