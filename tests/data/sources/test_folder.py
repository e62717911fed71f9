"""An image folder becomes classes in natural order; everything wrong with it is said at once."""

from __future__ import annotations

import logging
import os

import pytest

from tests.data.corpora import image_file
from vitscale.data.shards import open_shards
from vitscale.data.sources.folder import folder_splits, natural
from vitscale.data.write import pack_splits
from vitscale.errors import DataError


def put(path, data: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_file() if data is None else data)


def keys(split) -> list[str]:
    return [sample.key for sample in split.samples]


def test_numbers_sort_as_numbers():
    assert sorted(["n10", "n2", "a", "n2b", "10", "9"], key=natural) == [
        "9",
        "10",
        "a",
        "n2",
        "n2b",
        "n10",
    ]


def test_classes_and_files_come_in_natural_order_and_hidden_ones_are_skipped(tmp_path):
    for name in (
        "n10/1.png",
        "n2/10.png",
        "n2/9.png",
        "n2/.hidden.png",
        ".git/x.png",
        "n2/.d/y.png",
    ):
        put(tmp_path / name)
    (tmp_path / "README.txt").write_text("not a class")
    split = folder_splits(tmp_path)["train"]
    assert split.classes == ("n2", "n10")
    assert keys(split) == ["n2/9", "n2/10", "n10/1"]
    assert [sample.label for sample in split.samples] == [0, 0, 1]


def test_folders_below_a_class_and_links_are_followed(tmp_path):
    put(tmp_path / "store" / "x.png")
    put(tmp_path / "set" / "cat" / "deep" / "er" / "1.png")
    os.symlink(tmp_path / "store" / "x.png", tmp_path / "set" / "cat" / "2.png")
    assert keys(folder_splits(tmp_path / "set")["train"]) == ["cat/2", "cat/deep/er/1"]


def test_the_content_decides_the_extension_and_dots_leave_the_key(tmp_path):
    put(tmp_path / "a" / "x.v2.JPEG", image_file("PNG"))
    put(tmp_path / "a" / "y.png", image_file("JPEG"))
    put(tmp_path / "a" / "z.WEBP", image_file("WEBP"))
    samples = folder_splits(tmp_path)["train"].samples
    assert [(s.key, s.extension) for s in samples] == [
        ("a/x_v2", "png"),
        ("a/y", "jpg"),
        ("a/z", "webp"),
    ]


def test_files_that_differ_in_the_extension_only_get_different_keys(tmp_path):
    put(tmp_path / "a" / "x.jpg", image_file("JPEG"))
    put(tmp_path / "a" / "x.png")
    pack_splits(folder_splits(tmp_path), tmp_path / "out")
    shards = open_shards(tmp_path / "out" / "train")
    assert sorted(shards.name(i).split("'")[1] for i in range(2)) == ["a/x", "a/x~2"]


def test_every_unusable_file_is_reported_at_once(tmp_path):
    put(tmp_path / "a" / "good.png")
    put(tmp_path / "a" / "empty.png", b"")
    put(tmp_path / "a" / "text.jpg", b"<html>not found</html>")
    put(tmp_path / "a" / "old.bmp", b"BM")
    os.symlink(tmp_path / "nowhere", tmp_path / "a" / "dangling.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError) as caught:
        folder_splits(tmp_path)
    text = str(caught.value)
    assert "5 problems" in text
    for part in ("empty.png: the file is empty", "text.jpg: no JPEG", "old.bmp: no JPEG",
                 "dangling.png: No such file", "b: the class folder holds no usable image"):  # fmt: skip
        assert part in text


def test_files_that_are_no_images_are_skipped_and_logged(tmp_path, caplog):
    put(tmp_path / "a" / "x.png")
    put(tmp_path / "a" / "labels.csv", b"1,2")
    with caplog.at_level(logging.INFO):
        assert keys(folder_splits(tmp_path)["train"]) == ["a/x"]
    assert "labels.csv" in caplog.text


def test_a_share_of_every_class_is_held_out_by_seed(tmp_path):
    for name in "ab":
        for number in range(10):
            put(tmp_path / name / f"{number}.png")
    splits = folder_splits(tmp_path, held_out_share=0.2, seed=1)
    train, held_out = keys(splits["train"]), keys(splits["held-out"])
    assert sorted(train + held_out) == sorted(f"{c}/{n}" for c in "ab" for n in range(10))
    assert [key[0] for key in held_out] == ["a", "a", "b", "b"]
    assert keys(folder_splits(tmp_path, held_out_share=0.2, seed=1)["held-out"]) == held_out
    assert keys(folder_splits(tmp_path, held_out_share=0.2, seed=2)["held-out"]) != held_out


def test_a_folder_without_class_folders_is_refused(tmp_path):
    put(tmp_path / "x.png")
    with pytest.raises(DataError, match="no class folders"):
        folder_splits(tmp_path)
    with pytest.raises(DataError, match="no such image folder"):
        folder_splits(tmp_path / "none")
