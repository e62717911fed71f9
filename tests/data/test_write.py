"""Packing gives tars that anyone reads, the same bytes each time, and all of a data set or nothing."""

from __future__ import annotations

import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest
import webdataset

from tests.data.corpora import image_file, packed, split_of
from vitscale.config.dataset import dataset_facts
from vitscale.data.samples import Sample, Split
from vitscale.data.write import pack, pack_splits
from vitscale.errors import ConfigError, DataError, ResourceError


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves tars open
def test_webdataset_reads_what_we_pack_in_the_order_of_our_ids(tmp_path):
    shards = packed(tmp_path / "d", 40)
    urls = [str(path) for path in sorted((tmp_path / "d").glob("*.tar"))]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["png"] for sample in theirs] == [shards.read(i) for i in range(40)]
    assert [int(sample["cls"]) for sample in theirs] == shards.labels().tolist()
    assert [shards.name(i).split("'")[1] for i in range(40)] == [s["__key__"] for s in theirs]


def test_packing_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        pack(split_of(40), tmp_path / name, seed=3, shard_samples=10)
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
    assert len(list((tmp_path / "a").glob("*.tar"))) == 4


def test_the_seed_shuffles_and_nothing_is_lost(tmp_path):
    one = packed(tmp_path / "one", 40)
    pack(split_of(40), tmp_path / "two", seed=2, shard_samples=16)
    assert one.facts.fingerprint != dataset_facts(tmp_path / "two").fingerprint
    wanted = sorted(sample.data for sample in split_of(40).samples)
    assert sorted(one.read(i) for i in range(40)) == wanted
    assert [one.read(i) for i in range(40)] != [sample.data for sample in split_of(40).samples]


def test_every_image_keeps_its_label(tmp_path):
    shards = packed(tmp_path / "d", 40)
    label_of = {sample.data: sample.label for sample in split_of(40).samples}
    assert all(label_of[shards.read(i)] == shards.labels()[i] for i in range(40))


def test_shards_have_about_equal_counts(tmp_path):
    assert set(packed(tmp_path / "a", 33, shard_samples=16).counts.tolist()) == {11}
    pack(split_of(40), tmp_path / "b", shard_bytes=5000)
    assert dataset_facts(tmp_path / "b").shards > 2


def test_images_given_as_paths_are_packed_like_bytes(tmp_path):
    (tmp_path / "x.png").write_bytes(image_file())
    for name, data in (("bytes", image_file()), ("path", tmp_path / "x.png")):
        pack(Split(("a",), [Sample("k", "png", data, 0)]), tmp_path / name)
    assert files_below(tmp_path / "bytes") == files_below(tmp_path / "path")


def test_packing_over_the_same_data_set_is_a_no_op_and_over_another_is_refused(tmp_path):
    first = pack(split_of(20), tmp_path / "d")
    assert pack(split_of(20), tmp_path / "d") == first
    before = files_below(tmp_path)
    with pytest.raises(DataError, match="another data set"):
        pack(split_of(21), tmp_path / "d")
    assert files_below(tmp_path) == before


def test_a_target_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="is no data set"):
        pack(split_of(4), tmp_path / "d")
    assert files_below(tmp_path) == {"d/thesis.tex": b"precious"}


def test_splits_go_to_folders_of_their_names_with_their_notes(tmp_path):
    noted = Split(("a",), [Sample("k", "png", image_file(), 0)], {"LICENCES.txt": "free"})
    pack_splits({"train": split_of(8), "held-out": noted}, tmp_path / "d")
    assert dataset_facts(tmp_path / "d" / "train").samples == 8
    assert (tmp_path / "d" / "held-out" / "LICENCES.txt").read_text() == "free"


REFUSED = {
    "none of jpg, jpeg": [Sample("k", "gif", b"x", 0)],
    "is not below the number of classes": [Sample("k", "png", b"x", 2)],
    "the key comes twice": [Sample("k", "png", b"x", 0), Sample("k", "jpg", b"x", 0)],
    "avoid dots in keys": [Sample("k.v2", "png", b"x", 0)],
    "no samples to pack": [],
}


@pytest.mark.parametrize("why", REFUSED)
def test_samples_that_a_reader_would_misread_are_refused(tmp_path, why):
    with pytest.raises(DataError, match=why):
        pack(Split(("a", "b"), REFUSED[why]), tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_source_leaves_nothing_behind(tmp_path):
    def failing():
        yield Sample("k", "png", b"x", 0)
        raise DataError("the source broke")

    with pytest.raises(DataError, match="the source broke"):
        pack(Split(("a",), failing()), tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_noticed_before_a_shard_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 100, 100))
    with pytest.raises(ResourceError, match=r"too little space.*100 B free"):
        pack(split_of(4), tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_members_have_no_owner_and_no_time(tmp_path):
    packed(tmp_path / "d", 4)
    with tarfile.open(tmp_path / "d" / "shard-000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {
            (0, 0, 0, "", "", 0o644)
        }


def test_a_subset_of_classes_is_relabelled_from_zero(tmp_path):
    split = split_of(16).keep([3, 1])
    assert split.classes == ("class 3", "class 1")
    labels = {sample.key: sample.labels[0] for sample in split.samples}
    assert labels == {f"s/{n:05d}": 0 if n % 4 == 3 else 1 for n in range(16) if n % 4 in (1, 3)}
    with pytest.raises(ConfigError, match="Labels run from 0 to 3"):
        split_of(4).keep([4])
