"""Another WebDataset and IDX folders as sources, and files of class names."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from tests.data.corpora import files_with, image_file, make_tar, split_of
from vitscale.config.dataset import dataset_facts
from vitscale.data.class_names import read_class_map
from vitscale.data.shards import open_shards
from vitscale.data.sources.choose import Choice, splits_of
from vitscale.data.write import pack, pack_splits
from vitscale.errors import DataError


def test_tars_of_others_are_packed_anew_with_their_keys_and_bytes(tmp_path):
    make_tar(tmp_path / "x" / "1.tar", files_with(["p/a", "p/b"]))
    make_tar(tmp_path / "x" / "0.tar", [*files_with(["q"]), ("r.JPG", image_file("JPEG"))])
    split = splits_of(Choice("webdataset", tmp_path / "x"))["train"]
    assert [(s.key, s.extension, s.labels) for s in split.samples] == [
        ("q", "png", (0,)), ("r", "jpg", ()), ("p/a", "png", (0,)), ("p/b", "png", (1,)),
    ]  # fmt: skip
    pack(splits_of(Choice("webdataset", tmp_path / "x"))["train"], tmp_path / "y")
    shards = open_shards(tmp_path / "y")
    images = {shards.name(n).split("'")[1]: shards.read(n) for n in range(4)}
    assert images["p/b"] == image_file(seed=1)
    assert images["r"] == image_file("JPEG")


def test_class_names_come_from_the_manifest_and_keys_can_be_left_out(tmp_path):
    pack(split_of(12), tmp_path / "x")
    (tmp_path / "drop").write_text("# copies\ns/00003\n\ns/00007\n")
    splits = splits_of(Choice("webdataset", tmp_path / "x", without_keys=tmp_path / "drop"))
    assert splits["train"].classes == split_of(1).classes
    keys = {sample.key for sample in splits["train"].samples}
    assert keys == {f"s/{n:05d}" for n in range(12)} - {"s/00003", "s/00007"}
    (tmp_path / "keep").write_text("s/00001\n")
    splits = splits_of(Choice("webdataset", tmp_path / "x", keys=tmp_path / "keep"))
    assert [sample.key for sample in splits["train"].samples] == ["s/00001"]


@pytest.mark.parametrize("setting", ["keys", "without_keys"])
def test_a_key_of_no_sample_is_refused(tmp_path, setting):
    pack(split_of(4), tmp_path / "x")
    (tmp_path / "list").write_text("s/00001\ns/1\n")
    splits = splits_of(Choice("webdataset", tmp_path / "x", **{setting: tmp_path / "list"}))
    with pytest.raises(DataError, match="1 keys are of no sample: s/1"):
        list(splits["train"].samples)


def write_idx(path, values: np.ndarray) -> None:
    head = struct.pack(f">{values.ndim + 1}I", 0x0800 + values.ndim, *values.shape)
    data = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_idx_pairs_become_splits_by_their_names(tmp_path):
    images = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    for part, ending in (("train", ".gz"), ("emnist-letters-test", "")):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{ending}", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{ending}", np.array([2, 0, 2]))
    splits = splits_of(Choice("idx", tmp_path))
    assert {name: split.classes for name, split in splits.items()} == {
        "train": ("0", "1", "2"), "held-out": ("0", "1", "2"),
    }  # fmt: skip
    assert [s.labels for s in splits["train"].samples] == [(2,), (0,), (2,)]
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="has no train-labels"):
        splits_of(Choice("idx", tmp_path))
    with pytest.raises(DataError, match="no NAME-images"):
        splits_of(Choice("idx", tmp_path / "none"))


def applied(tmp_path, text: str, split):
    (tmp_path / "names").write_text(text)
    return read_class_map(tmp_path / "names").apply(split)


def test_a_list_of_names_gives_the_order_of_labels(tmp_path):
    text = "".join(f"class {label}\n" for label in (3, 9, 2, 1, 0))
    split = applied(tmp_path, text, split_of(4))
    assert split.classes == ("class 3", "class 9", "class 2", "class 1", "class 0")
    assert [sample.labels for sample in split.samples] == [(4,), (3,), (2,), (0,)]


def test_a_map_renames_and_merges(tmp_path):
    text = "class 0\tx\nclass 1\ty\nclass 2\tx\nclass 3\tz\n"
    split = applied(tmp_path, text, split_of(4))
    assert split.classes == ("x", "y", "z")
    assert [sample.labels for sample in split.samples] == [(0,), (1,), (0,), (2,)]


def test_numbers_take_names_in_order(tmp_path):
    make_tar(tmp_path / "x" / "1.tar", files_with(["a", "b"]))
    (tmp_path / "names").write_text("cat\ndog\n")
    splits = splits_of(Choice("webdataset", tmp_path / "x", classes=tmp_path / "names"))
    assert pack_splits(splits, tmp_path / "y")["train"].manifest.classes == ("cat", "dog")
    assert dataset_facts(tmp_path / "y" / "train").classes == ("cat", "dog")


REFUSED = {
    "2 classes of the source are not in the file: class 0, class 3": "class 1\nclass 2\n",
    "1 old names are no class of the source: class 4": "".join(f"class {n}\tx\n" for n in range(5)),
    "line 2 is not `old<TAB>new`": "class 0\tx\nclass 1\n",
    "names 'class 0' a second time": "class 0\tx\nclass 0\ty\n",
    "a class name comes twice": "class 0\nclass 0\n",
    "line 1 is empty": "\nclass 0\n",
    "a class name is empty": "\n\n",
}


@pytest.mark.parametrize("why", REFUSED)
def test_other_files_of_names_are_refused(tmp_path, why):
    with pytest.raises(DataError) as caught:
        applied(tmp_path, REFUSED[why], split_of(4))
    assert why in str(caught.value)
