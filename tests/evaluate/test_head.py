"""The own head on sets whose labels are fewer, renamed, numbered or several."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vitscale.config.suite import HeadTask
from vitscale.errors import DataError
from vitscale.evaluate.head import answers_by_real, answers_of, outputs_of, real_labels

LOGITS = torch.tensor([[9.0, 5, 1, 0], [1, 2, 8, 3], [0, 4, 3, 7]])


def task(**settings):
    return HeadTask(method="head", **settings)


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("ant\nbee\ncat\ndog\n")
    return str(path)


def test_classes_of_a_smaller_set_find_their_outputs_by_name(names):
    outputs = outputs_of(task(classes=names), ("dog", "bee"), 4)
    assert outputs.tolist() == [3, 1]
    right = answers_of(task(), LOGITS, np.array([1, 1, 0]), outputs).right
    assert right.tolist() == [False, False, True]


def test_a_restricted_choice_is_among_the_classes_of_the_set_alone(names):
    restricted = task(classes=names, restrict=True)
    outputs = outputs_of(restricted, ("dog", "bee"), 4)
    right = answers_of(restricted, LOGITS, np.array([1, 0, 0]), outputs).right
    assert right.tolist() == [True, True, True]


def test_folders_that_are_numbers_mean_outputs_whatever_their_order_as_text():
    classes = tuple(sorted(map(str, range(12))))  # "0", "1", "10", "11", "2", ...
    assert outputs_of(task(names="number"), classes, 12).tolist() == [int(c) for c in classes]
    with pytest.raises(
        DataError, match="1 classes of the set have no output in the head: 'twelve'"
    ):
        outputs_of(task(names="number"), ("1", "twelve"), 12)


def test_a_class_without_an_output_is_named_with_its_neighbour(names):
    with pytest.raises(DataError, match=r"'bees'.*Did you mean 'bee'"):
        outputs_of(task(classes=names), ("bees",), 4)
    with pytest.raises(DataError, match="2 classes of the set have no output"):
        outputs_of(task(), tuple("abcdef"), 4)


def test_any_right_label_counts_and_images_without_one_are_left_out():
    found = answers_by_real(LOGITS, [[1, 0], [], [2]])
    assert found.rows.tolist() == [0, 2]
    assert found.right.tolist() == [True, False]


def test_the_number_in_a_key_finds_its_labels(tmp_path):
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[7], [], [3, 4]]))
    keys = {5: "n01/ILSVRC2012_val_00000003", 8: "ILSVRC2012_val_00000001", 9: "val_00000004"}
    corpus = SimpleNamespace(where="w", whereabouts=lambda sample: ("shard", keys[sample], 0))
    assert real_labels(path, corpus, np.array([5, 8])) == [[3, 4], [7]]
    with pytest.raises(DataError, match="1 to 3"):
        real_labels(path, corpus, np.array([9]))
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="lists of labels"):
        real_labels(path, corpus, np.array([5]))
