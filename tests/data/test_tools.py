"""Indexing that goes on where it was, verifying that decodes, statistics, contact sheets and single samples."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.data.corpora import damage_image, files_with, flip_byte, image_file, make_tar, split_of
from vitscale.config.dataset import read_manifest
from vitscale.data import tar_index
from vitscale.data.contact_sheet import TILE_PX, sheet_of
from vitscale.data.labels import LabelRule
from vitscale.data.one_sample import describe
from vitscale.data.pieces import local_pieces
from vitscale.data.progress import Progress
from vitscale.data.samples import Sample, Split
from vitscale.data.shards import open_shards
from vitscale.data.stats import QUANTILES, in_words, plot, stats_of
from vitscale.data.tar_index import Reuse, index_folder
from vitscale.data.verify import verify
from vitscale.data.write import pack
from vitscale.errors import ConfigError, DataError


def three_tars(folder):
    for name in "abc":
        make_tar(folder / f"{name}.tar", files_with([f"{name}/1", f"{name}/2"]))
    return folder


def names_of_indexed(monkeypatch) -> list[str]:
    """Names of the tars that are indexed from here on."""
    indexed: list[str] = []
    index_tar = tar_index.index_tar

    def noted(path, labels):
        indexed.append(path.name)
        return index_tar(path, labels)

    monkeypatch.setattr(tar_index, "index_tar", noted)
    return indexed


def test_sidecars_that_fit_are_kept_and_others_made_again(tmp_path, monkeypatch):
    first = index_folder(three_tars(tmp_path))
    flip_byte(tmp_path / "a.vsidx", 100)
    (tmp_path / "b.vsidx").unlink()
    indexed = names_of_indexed(monkeypatch)
    assert index_folder(tmp_path) == first
    assert indexed == ["a.tar", "b.tar"]
    index_folder(tmp_path, reuse=Reuse(allowed=False))
    assert indexed == ["a.tar", "b.tar", "a.tar", "b.tar", "c.tar"]


def test_a_tar_changed_at_equal_size_is_noticed_unless_its_size_is_trusted(tmp_path, monkeypatch):
    index_folder(three_tars(tmp_path))
    changed = [("b/1.png", image_file(seed=0)), ("b/1.cls", b"7"), *files_with(["b/3", "b/2"])[2:]]
    make_tar(tmp_path / "b.tar", changed)
    indexed = names_of_indexed(monkeypatch)
    assert index_folder(tmp_path, reuse=Reuse(hashing=False)).classes == ("0", "1")
    assert indexed == []
    assert len(index_folder(tmp_path).classes) == 8
    assert indexed == ["b.tar"]


def test_another_label_rule_makes_all_sidecars_again(tmp_path, monkeypatch):
    index_folder(three_tars(tmp_path))
    indexed = names_of_indexed(monkeypatch)
    with pytest.raises(DataError, match="no sample has a label"):
        index_folder(tmp_path, labels=LabelRule("x"))
    assert len(indexed) == 3


def test_several_workers_index_alike_and_name_every_bad_tar(tmp_path):
    alone = index_folder(three_tars(tmp_path / "one"))
    assert index_folder(three_tars(tmp_path / "two"), pieces=local_pieces(2)) == alone
    for name in "ab":
        flip_byte(tmp_path / "two" / f"{name}.tar", 3)
    with pytest.raises(DataError, match=r"2 tars cannot be indexed:\n.*a\.tar[^$]*b\.tar"):
        index_folder(tmp_path / "two", pieces=local_pieces(2))


def test_class_names_outlive_indexing_again_also_from_version_1(tmp_path):
    pack(split_of(8), tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    for sidecar in tmp_path.glob("*.vsidx"):
        flip_byte(sidecar, 8)
    with pytest.raises(DataError, match=r"version 2: run `vitscale shards index"):
        read_manifest(tmp_path)
    assert index_folder(tmp_path).classes == split_of(1).classes
    assert open_shards(tmp_path).samples == 8


def test_decoding_names_images_that_were_bad_from_the_start(tmp_path):
    samples = [*split_of(9).samples, Sample("cut", "png", image_file()[:80], 0)]
    pack(Split(split_of(1).classes, samples), tmp_path, shard_samples=4)
    assert verify(tmp_path) == []
    (problem,) = verify(tmp_path, decoding=True, pieces=local_pieces(2))
    assert "key 'cut', cannot be decoded" in problem


def test_several_workers_verify_alike(tmp_path):
    pack(split_of(20), tmp_path, shard_samples=5)
    damage_image(open_shards(tmp_path), 3)
    damage_image(open_shards(tmp_path), 17)
    problems = verify(tmp_path)
    assert len(problems) == 4
    assert verify(tmp_path, pieces=local_pieces(3)) == problems


@pytest.fixture
def mixed(tmp_path):
    """Seven images: sizes 10 x 20 to 70 x 20 px, a JPEG, one that is none, labels of all sorts."""
    labels = [(0,), (0,), (0,), (0, 2), (), (2,), (0,)]
    samples = []
    for number, of_image in enumerate(labels):
        data = image_file("JPEG" if number == 1 else "PNG", size=(10 + 10 * number, 20))
        samples.append(Sample(f"k/{number}", "png", b"none" if number == 6 else data, of_image))
    pack(Split(("cat", "dog", "eel"), samples), tmp_path / "d", shard_samples=3)
    return tmp_path / "d"


def test_statistics_are_those_of_the_images(mixed):
    record = stats_of(mixed).to_json()
    assert record["class_counts"] == [5, 0, 2]
    assert record["empty_classes"] == ["dog"]
    assert record["imbalance"] == 2.5
    assert record["samples_by_number_of_labels"] == [1, 5, 1]
    assert record["kinds"] == {"other": 1, "JPEG": 1, "PNG": 5, "WebP": 0}
    assert record["bad_headers"] == 1
    assert (record["width"][0], record["width"][QUANTILES.index(0.5)], record["width"][-1]) in [
        (10, 30, 60), (10, 40, 60),
    ]  # fmt: skip
    assert record["short_side"][-1] == 20
    assert record["bytes"][0] == 4
    json.dumps(record)
    words = in_words(stats_of(mixed))
    assert "1 of them empty, 2.5 times apart" in words
    assert "1 without, 5 with 1, 1 with 2" in words


def test_statistics_are_drawn(mixed, tmp_path):
    plot(stats_of(mixed), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.width > 1000


def test_a_contact_sheet_shows_the_images_themselves(tmp_path):
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    samples = []
    for number, colour in enumerate(colours):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
        samples.append(Sample(f"k{number}", "png", buffer.getvalue(), number))
    pack(Split(("red", "green", "blue"), samples), tmp_path)
    sheet = np.asarray(sheet_of(tmp_path)).reshape(-1, 3)
    for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255]):
        assert (sheet == colour).all(-1).sum() == TILE_PX**2
    only = np.asarray(sheet_of(tmp_path, labels=["green", "2"])).reshape(-1, 3)
    assert not (only == [255, 0, 0]).all(-1).any()
    assert (only == [0, 255, 0]).all(-1).any()


def test_a_contact_sheet_takes_bad_images_and_refuses_bad_wishes(mixed):
    assert sheet_of(mixed, count=7).size == sheet_of(mixed, count=100).size
    assert np.array_equal(sheet_of(mixed, count=3, seed=1), sheet_of(mixed, count=3, seed=1))
    with pytest.raises(ConfigError, match=r"--labels.*given: bird"):
        sheet_of(mixed, labels=["bird"])
    with pytest.raises(ConfigError, match="--count"):
        sheet_of(mixed, count=0)
    with pytest.raises(DataError, match="no sample has one of the labels"):
        sheet_of(mixed, labels=["dog"])


def test_one_sample_is_found_by_id_and_by_key(mixed):
    for number in range(7):
        one = describe(mixed, sample=number)
        again = describe(mixed, key=one.key)
        assert again == one
        assert (
            one.data == b"none"
            if one.key == "k/6"
            else one.data.startswith((b"\x89PNG", b"\xff\xd8"))
        )
    one = describe(mixed, key="k/3")
    assert (one.labels, one.kind, one.width, one.height) == (("cat", "eel"), "PNG", 40, 20)
    with pytest.raises(ConfigError, match=r"--id.*Ids run from 0 to 6"):
        describe(mixed, sample=7)
    with pytest.raises(ConfigError, match=r"--key: no sample has this key.*such as k/"):
        describe(mixed, key="k/33")


def test_a_key_in_two_shards_is_chosen_by_id(tmp_path):
    for name in "ab":
        make_tar(tmp_path / f"{name}.tar", files_with(["k"]))
    index_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"2 shards have this key.*Choose by --id: 0, 1"):
        describe(tmp_path, key="k")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, times: list[float]) -> str:
    clock = iter([0.0, *times])
    with Progress("packing", 400, stream=stream, clock=lambda: next(clock)) as progress:
        for _ in times:
            progress.add(10, 100)
    return stream.getvalue()


def test_progress_speaks_every_ten_seconds_into_a_file():
    text = told(io.StringIO(), [1.0, 9.0, 10.0, 15.0])
    assert text == "packing: 30 images, 300 B of 400 B, 0.0 MB/s, 3 s left\n"
    assert told(io.StringIO(), [1.0, 2.0]) == ""


def test_progress_rewrites_one_line_on_a_terminal():
    text = told(Terminal(), [0.1, 1.0])
    assert text.count("\r") == 2
    assert "20 images" in text
    assert text.endswith("\r\x1b[K")
