"""`vitscale shards` from the command line to the files, in people's words and as JSON."""

from __future__ import annotations

import argparse
import json
import tarfile

import pytest

from tests.data.corpora import damage_image, files_with, image_file, make_tar
from vitscale.cli import shards as command
from vitscale.data.shards import open_shards
from vitscale.errors import ConfigError, DataError, ResourceError


def vitscale_shards(*words) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def test_digits_are_packed_into_two_folders(tmp_path, capsys):
    assert (
        vitscale_shards(
            "pack", "--from", "digits", "--to", tmp_path / "d", "--classes-subset", "0-4"
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "5: 0, 1, 2, 3, 4" in out
    packed = [open_shards(tmp_path / "d" / name).samples for name in ("train", "held-out")]
    assert sum(packed) == 901  # of 1,797 digits
    assert 0.15 < packed[1] / 901 < 0.25
    assert (tmp_path / "d" / "train" / "LICENCES.txt").is_file()


def test_a_folder_is_packed_with_small_shards_as_json(tmp_path, capsys):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_file())
    words = ["pack", "--from", "folder", tmp_path / "images", "--to", tmp_path / "d", "--json"]
    assert vitscale_shards(*words, "--held-out-share", 0.5, "--shard-size", 0.0001) == 0
    records = json.loads(capsys.readouterr().out)
    assert [(r["folder"], r["samples"], r["shards"]) for r in records] == [
        (str(tmp_path / "d" / "train"), 2, 2),
        (str(tmp_path / "d" / "held-out"), 2, 2),
    ]
    assert records[0]["classes"] == ["a", "b"]


def test_tars_of_others_are_indexed_described_and_verified(tmp_path, capsys):
    make_tar(tmp_path / "x" / "a.tar", files_with(["p/1", "p/2"]), tarfile.GNU_FORMAT)
    (tmp_path / "names").write_text("cat\ndog\n")
    assert vitscale_shards("index", tmp_path / "x", "--classes", tmp_path / "names") == 0
    assert "2: cat, dog" in capsys.readouterr().out
    assert vitscale_shards("info", tmp_path / "x", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["samples"] == 2
    assert vitscale_shards("verify", tmp_path / "x") == 0
    assert "every byte is as it was packed" in capsys.readouterr().out


def test_verify_fails_with_the_exit_code_of_data(tmp_path, capsys):
    make_tar(tmp_path / "a.tar", files_with(["p", "q"]))
    vitscale_shards("index", tmp_path)
    damage_image(open_shards(tmp_path), 1)
    capsys.readouterr()
    assert vitscale_shards("verify", tmp_path, "--json") == DataError.exit_code
    record = json.loads(capsys.readouterr().out)
    assert not record["ok"]
    assert any("image 1" in problem for problem in record["problems"])


def test_impossible_wishes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="PATH"):
        vitscale_shards("pack", "--from", "folder", "--to", tmp_path)
    to = ("pack", "--from", "digits", "--to", tmp_path)
    for option, *value in (
        ("--shard-size", 0),
        ("--shard-samples", 0),
        ("--quality", 9),
        ("--skip-bad",),
    ):
        with pytest.raises(ConfigError, match=option):
            vitscale_shards(*to, option, *value)
    with pytest.raises(ConfigError, match="--workers"):
        vitscale_shards(*to, "--workers", 0)


def packed_with_two_workers(tmp_path, *words) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_file(seed=hash_of(name), size=(40, 30)))
    source = ["pack", "--from", "folder", tmp_path / "images", "--to", tmp_path / "d"]
    assert vitscale_shards(*source, "--shard-samples", 2, "--workers", 2, *words) == 0


def hash_of(name: str) -> int:
    return sum(name.encode())


def test_images_are_shrunk_and_counted(tmp_path, capsys):
    packed_with_two_workers(tmp_path, "--max-short-side", 10, "--format", "jpg", "--json")
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["samples"], record["shards"], record["reencoded"]) == (4, 2, 4)
    assert vitscale_shards("stats", tmp_path / "d" / "train", "--json") == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["short_side"] == [10] * 7
    assert stats["kinds"]["JPEG"] == 4


def test_looking_inside(tmp_path, capsys):
    packed_with_two_workers(tmp_path)
    folder = tmp_path / "d" / "train"
    capsys.readouterr()
    assert vitscale_shards("stats", folder, "--plot", tmp_path / "s.png") == 0
    assert "PNG 4" in capsys.readouterr().out
    assert vitscale_shards("peek", folder, "--to", tmp_path / "p.png", "--labels", "b") == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert vitscale_shards("show", folder, "--key", "b/1", "--to", tmp_path / "x.png") == 0
    assert "labels   b\n" in capsys.readouterr().out
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "images" / "b" / "1.png").read_bytes()
    with pytest.raises(ConfigError, match=r"--to: the picture is a PNG"):
        vitscale_shards("peek", folder, "--to", tmp_path / "p.jpg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ResourceError, match=r"--to: cannot be written: Is a directory"):
        vitscale_shards("peek", folder, "--to", tmp_path / "folder.png")
    with pytest.raises(ConfigError, match=r"--plot: its folder does not exist"):
        vitscale_shards("stats", folder, "--plot", tmp_path / "none" / "p.png")


def test_copies_are_left_out_of_a_data_set(tmp_path, capsys):
    packed_with_two_workers(tmp_path)
    folder, keys = tmp_path / "d" / "train", tmp_path / "keys"
    make_tar(tmp_path / "t" / "a.tar", [("k.png", (tmp_path / "images/b/2.png").read_bytes())])
    vitscale_shards("index", tmp_path / "t")
    capsys.readouterr()
    words = ["dedup", folder, "--against", tmp_path / "t", "--keys-to", keys, "--workers", 1]
    assert vitscale_shards(*words, "--report", tmp_path / "r.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1
    assert keys.read_text().splitlines()[1:] == ["b/2"]
    report = (tmp_path / "r.csv").read_text().splitlines()
    assert report[0] == "a_shard,a_key,b_shard,b_key,distance"
    assert report[1].endswith(",b/2,a.tar,k,0")
    again = ["pack", "--from", "webdataset", folder, "--without-keys", keys, "--to", tmp_path / "e"]
    assert vitscale_shards(*again, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["samples"] == 3
