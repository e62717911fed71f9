"""An opened data set answers by sample id, and notices what is missing, resized, swapped or damaged."""

from __future__ import annotations

import json
import resource
import shutil
import tarfile
import threading

import numpy as np
import pytest

from tests.data.corpora import damage_image, files_with, image_file, make_tar, packed
from vitscale.config.dataset import dataset_facts, read_manifest
from vitscale.data.bad_images import BadImage
from vitscale.data.shards import open_shards
from vitscale.data.shelves import idle_shards
from vitscale.data.tar_index import index_folder
from vitscale.data.verify import verify
from vitscale.errors import DataError


def test_facts_are_those_of_the_manifest(tmp_path):
    shards = packed(tmp_path, 40)
    assert shards.facts == dataset_facts(tmp_path)
    assert (shards.samples, shards.facts.shards) == (40, 3)
    assert shards.classes == ("class 0", "class 1", "class 2", "class 3")
    assert shards.facts.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert shards.labels().dtype == np.int64
    assert sorted(shards.labels()) == sorted(n % 4 for n in range(40))


def test_all_missing_and_resized_shards_are_listed_at_once(tmp_path):
    packed(tmp_path, 64)
    (tmp_path / "shard-000000.tar").unlink()
    (tmp_path / "shard-000001.vsidx").unlink()
    with open(tmp_path / "shard-000003.tar", "ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(DataError) as caught:
        open_shards(tmp_path)
    text = str(caught.value)
    assert "3 shard files are missing or changed" in text
    assert "shard-000000.tar: No such file" in text
    assert "shard-000001.vsidx is missing" in text
    assert "shard-000003.tar has" in text
    assert "shard-000002" not in text


def test_a_damaged_image_is_refused_and_its_neighbours_are_not(tmp_path):
    shards = packed(tmp_path, 20)
    damage_image(shards, 7)
    with pytest.raises(BadImage, match="checksum"):
        shards.read(7)
    assert shards.read(6)
    assert shards.read(8)


def test_a_tar_cut_after_opening_makes_bad_images_not_a_crash(tmp_path):
    shards = packed(tmp_path, 20, shard_samples=20)
    with open(tmp_path / "shard-000000.tar", "r+b") as file:
        file.truncate(int(shards._find(10)[0].index.offsets[10]) + 5)
    assert shards.read(9)
    with pytest.raises(BadImage, match="only 5 of"):
        shards.read(10)


def test_an_index_of_another_tar_is_refused(tmp_path):
    shards = packed(tmp_path / "a", 32)
    shutil.copy(tmp_path / "a" / "shard-000001.vsidx", tmp_path / "a" / "shard-000000.vsidx")
    with pytest.raises(DataError, match="belongs to another version"):
        shards.read(0)


def test_names_are_found_even_when_they_do_not_fit_into_a_header(tmp_path):
    keys = ["x" * 150, "y/" * 70 + "z", "short"]
    make_tar(tmp_path / "a.tar", files_with(keys), tarfile.GNU_FORMAT)
    index_folder(tmp_path)
    shards = open_shards(tmp_path)
    assert [shards.name(i) for i in range(3)] == [f"a.tar, key {key!r}" for key in keys]


def test_a_name_is_given_even_where_the_header_is_damaged(tmp_path):
    shards = packed(tmp_path, 4)
    with open(tmp_path / "shard-000000.tar", "r+b") as file:
        file.seek(int(shards._find(2)[0].index.offsets[2]) - 512)
        file.write(b"?" * 512)
    assert shards.name(2).startswith("shard-000000.tar, key number 2")


def test_ids_outside_the_data_set_are_an_error(tmp_path):
    shards = packed(tmp_path, 4)
    for sample in (-1, 4):
        with pytest.raises(IndexError):
            shards.read(sample)


def test_threads_may_read_at_once(tmp_path):
    shards = packed(tmp_path, 60, shard_samples=2)
    wanted = [shards.read(i) for i in range(60)]
    fresh, wrong = open_shards(tmp_path), []

    def read_all(start: int) -> None:
        for step in range(180):
            sample = (start + step * 7) % 60
            if fresh.read(sample) != wanted[sample]:
                wrong.append(sample)

    threads = [threading.Thread(target=read_all, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_folder_without_manifest_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no such data folder.*vitscale shards pack"):
        dataset_facts(tmp_path / "none")
    with pytest.raises(DataError, match=r"no manifest.json.*shards pack"):
        dataset_facts(tmp_path)
    make_tar(tmp_path / "a.tar", [("a.png", image_file()), ("a.cls", b"0")])
    with pytest.raises(DataError, match="It holds tars: run `vitscale shards index"):
        dataset_facts(tmp_path)
    packed(tmp_path / "up" / "train", 4)
    with pytest.raises(DataError, match="Name one of the data sets inside it: train"):
        dataset_facts(tmp_path / "up")


DAMAGE = {
    "other version": lambda m: m | {"version": 3},
    "other format": lambda m: m | {"format": "tfrecord"},
    "no classes": lambda m: {k: v for k, v in m.items() if k != "classes"},
    "class no text": lambda m: m | {"classes": [1]},
    "a renamed class": lambda m: m | {"classes": ["a", "b", "c", "d"]},
    "a lost shard": lambda m: m | {"shards": m["shards"][1:]},
    "a path as name": lambda m: m | {"shards": [m["shards"][0] | {"name": "../x.tar"}]},
    "bytes no number": lambda m: m | {"shards": [m["shards"][0] | {"bytes": "9"}]},
    "a shard's extra key": lambda m: m | {"shards": [m["shards"][0] | {"x": 1}]},
    "a list": lambda m: [m],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_changed_manifest_is_refused(tmp_path, damage):
    packed(tmp_path, 20)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(DAMAGE[damage](json.loads(path.read_text()))))
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_cut_or_no_text_is_refused(tmp_path):
    packed(tmp_path, 4)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for data in (b"", whole[:50], b"\xff\xfe\x00", whole[:-3]):
        path.write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            read_manifest(tmp_path)


def test_verify_is_silent_about_a_sound_data_set(tmp_path):
    packed(tmp_path, 40)
    assert verify(tmp_path) == []


def test_verify_reports_every_problem(tmp_path):
    shards = packed(tmp_path, 96)
    damage_image(shards, 5)
    damage_image(shards, 6)
    (tmp_path / "shard-000001.tar").unlink()
    (tmp_path / "shard-000002.vsidx").write_bytes(b"VSIDX")
    with open(tmp_path / "shard-000003.tar", "r+b") as file:
        file.write(b"?")
    make_tar(tmp_path / "stray.tar", [("a.png", b"")])
    text = "\n".join(verify(tmp_path))
    assert text.count("is damaged") == 2
    assert "shard-000000.tar: image 5" in text
    assert "shard-000001.tar: No such file" in text
    assert "shard-000002.vsidx" in text
    assert "shard-000003.tar: no image is affected" in text
    assert "stray.tar: not in the manifest" in text
    assert "shard-000004" not in text


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "idle"),
    [
        (1024, 1 << 20, 2304, 1024),
        (1024, 1024, 1024, 384),
        (65_536, 65_536, 65_536, 1024),
        (64, 64, 64, 1),
        (-1, -1, -1, 1024),
        (1024, -1, 2304, 1024),
    ],
)
def test_as_many_shards_stay_open_as_the_system_allows(monkeypatch, soft, hard, raised, idle):
    limits = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda what: tuple(limits))
    monkeypatch.setattr(
        resource, "setrlimit", lambda what, both: limits.__setitem__(slice(None), both)
    )
    assert idle_shards() == idle
    assert limits == [raised, hard]
