"""Labels are read from .cls and .json in every form that is allowed, and refused in every other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.corpora import image_file, make_tar
from vitscale.config.dataset import read_manifest
from vitscale.data.index import index_path, read_index
from vitscale.data.labels import LabelRule
from vitscale.data.tar_index import index_folder
from vitscale.errors import DataError

NAMES = ("cat", "sea lion", "dog")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1), st.sampled_from([" ", ",", "\n", " , "]))
def test_numbers_in_cls_are_sorted_and_merged(numbers, between):
    text = f" {between.join(map(str, numbers))}\n".encode()
    assert LabelRule().read({"cls": text}) == tuple(sorted(set(numbers)))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('{"label": 2}', (2,)),
        ('{"label": [2, 0, 2]}', (0, 2)),
        ('{"label": "sea lion"}', (1,)),
        ('{"label": ["dog", "cat", 0]}', (0, 2)),
        ('{"label": []}', ()),
        ('{"label": null}', ()),
        ('{"caption": "a cat"}', ()),
        ("[1]", ()),
    ],
)
def test_json_holds_numbers_or_names(text, labels):
    assert LabelRule(classes=NAMES).read({"json": text.encode()}) == labels


def test_a_dotted_path_leads_into_json_and_past_cls():
    files = {"cls": b"1", "json": json.dumps({"a": {"b": [7]}}).encode()}
    assert LabelRule("a.b").read(files) == (7,)
    assert LabelRule().read(files) == (1,)
    assert LabelRule().read({}) == ()


REFUSED = [
    (b"cat", "cls", "not whole numbers"),
    (b"", "cls", "not whole numbers"),
    (b"1,,2", "cls", "not whole numbers"),
    (b"-1", "cls", "not whole numbers"),
    (b"9" * 5000, "cls", "not whole numbers"),
    (b"3", "cls", "no class name"),
    (b'{"label": -1}', "json", "labels run from 0"),
    (b'{"label": 1.0}', "json", "not a whole number"),
    (b'{"label": true}', "json", "not a whole number"),
    (b'{"label": "bird"}', "json", "none of the 3 class names"),
    (b'{"label": ', "json", "damaged"),
    (b"\xff\xfe", "json", "damaged"),
    (b"[" * 100_000, "json", "damaged"),
]


@pytest.mark.parametrize(("text", "extension", "why"), REFUSED)
def test_anything_else_is_refused(text, extension, why):
    with pytest.raises(ValueError, match=why):
        LabelRule(classes=NAMES).read({extension: text})


def test_names_need_class_names():
    with pytest.raises(ValueError, match="no class names were given"):
        LabelRule().read({"json": b'{"label": "cat"}'})


def test_a_shard_counts_its_labels(tmp_path):
    files = [
        ("a.png", b"x"),
        ("a.cls", b"2 0 2"),
        ("b.png", b"x"),
        ("c.png", b"x"),
        ("c.cls", b"1"),
    ]
    make_tar(tmp_path / "s.tar", files)
    shard = index_folder(tmp_path).shards[0]
    assert (shard.most_labels, shard.unlabelled) == (2, 1)
    assert read_manifest(tmp_path).shards[0] == shard
    index = read_index(index_path(tmp_path / "s.tar"))
    assert [index.labels_of(row).tolist() for row in range(3)] == [[0, 2], [], [1]]


def test_a_label_that_cannot_be_read_names_shard_key_and_byte(tmp_path):
    make_tar(tmp_path / "s.tar", [("a.png", image_file()), ("a.json", b'{"label": "cat"}')])
    with pytest.raises(DataError, match=r"s\.tar, key 'a', byte 0.*--classes"):
        index_folder(tmp_path)
    assert index_folder(tmp_path, classes=NAMES).classes == NAMES


def test_a_field_that_no_sample_has_is_refused(tmp_path):
    make_tar(tmp_path / "s.tar", [("a.png", b"x"), ("a.json", b'{"label": 1}')])
    with pytest.raises(DataError, match="no sample has a label"):
        index_folder(tmp_path, labels=LabelRule("lable"))
