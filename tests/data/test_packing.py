"""Packing goes on where it was killed, gives the same bytes for any number of workers, and re-encodes as asked."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.data.corpora import encoded, flip_byte, image_file, split_of
from vitscale.config.dataset import dataset_facts, read_manifest
from vitscale.data import shard_building
from vitscale.data.folders import folder_aside
from vitscale.data.index import index_path, read_index
from vitscale.data.packing_plan import Packing
from vitscale.data.pieces import local_pieces
from vitscale.data.reencode import Reencoding, reencode
from vitscale.data.samples import Sample, Span, Split
from vitscale.data.write import pack, pack_split
from vitscale.errors import ConfigError, DataError, ResourceError

PACK_AND_DIE = """
import sys
from tests.data.corpora import split_of
from vitscale.data.packing_plan import Packing
from vitscale.data.pieces import local_pieces
from vitscale.data.write import pack_split
if __name__ == "__main__":
    pack_split(split_of(40), sys.argv[1], Packing(shard_samples=10), pieces=local_pieces(int(sys.argv[2])))
"""
SMALL = Packing(shard_samples=10)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pack_and_die(target: Path, point: str, workers: int = 1) -> None:
    environment = {**os.environ, "VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": point}
    command = [sys.executable, "-c", PACK_AND_DIE, str(target), str(workers)]
    assert subprocess.run(command, env=environment, check=False).returncode == -9


def count_tars_written(monkeypatch) -> list[str]:
    """Names of the tars that are written from here on."""
    written: list[str] = []
    write = shard_building._write

    def noted(work):
        written.append(work.tar.name)
        return write(work)

    monkeypatch.setattr(shard_building, "_write", noted)
    return written


@pytest.mark.parametrize(
    ("point", "left"), [("pack.after_shard@0:2:kill", 2), ("pack.before_rename@0:1:kill", 0)]
)
def test_a_killed_packing_is_gone_on_with(tmp_path, monkeypatch, point, left):
    pack_and_die(tmp_path / "d", point)
    assert not (tmp_path / "d").exists()
    written = count_tars_written(monkeypatch)
    pack(split_of(40), tmp_path / "d", shard_samples=10)
    assert written == [f"shard-{number:06d}.tar" for number in range(4 - left, 4)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]
    pack(split_of(40), tmp_path / "at once", shard_samples=10)
    assert files_below(tmp_path / "d") == files_below(tmp_path / "at once")


def test_workers_end_with_a_killed_packing_and_the_next_one_goes_on(tmp_path):
    pack_and_die(tmp_path / "d", "pack.after_shard@0:1:kill", workers=2)
    assert list((tmp_path / ".d.packing" / "notes").iterdir())
    pack_split(split_of(40), tmp_path / "d", SMALL, pieces=local_pieces(2))
    pack_split(split_of(40), tmp_path / "at once", SMALL)
    assert files_below(tmp_path / "d") == files_below(tmp_path / "at once")
    deadline = time.monotonic() + 20
    while processes_about(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_about(tmp_path) == []


def processes_about(folder: Path) -> list[str]:
    """Processes that hold a file below the folder open."""
    held = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(str(folder)):
                held.append(str(link))
    return held


@pytest.mark.parametrize("damaged", ["shard-000000.tar", "shard-000000.vsidx"])
def test_a_finished_shard_that_was_damaged_since_is_built_again(tmp_path, monkeypatch, damaged):
    pack_and_die(tmp_path / "d", "pack.after_shard@0:2:kill")
    flip_byte(tmp_path / ".d.packing" / "shards" / damaged, 600 if "tar" in damaged else 70)
    written = count_tars_written(monkeypatch)
    pack(split_of(40), tmp_path / "d", shard_samples=10)
    assert written == ["shard-000000.tar", "shard-000002.tar", "shard-000003.tar"]


@pytest.mark.parametrize("other", [{"seed": 1}, {"shard_samples": 9}, {"samples": 39}])
def test_another_plan_begins_anew(tmp_path, monkeypatch, other):
    pack_and_die(tmp_path / "d", "pack.after_shard@0:2:kill")
    written = count_tars_written(monkeypatch)
    settings = {"shard_samples": 10, **other}
    samples = settings.pop("samples", 40)
    pack(split_of(samples), tmp_path / "d", **settings)
    assert len(written) == dataset_facts(tmp_path / "d").shards
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


def test_a_full_disk_keeps_what_is_finished_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("vitscale.faults._passes", Counter())
    monkeypatch.setenv("VITSCALE_ENABLE_FAULTS", "1")
    monkeypatch.setenv("VITSCALE_FAULT", "pack.after_shard@0:1:enospc")
    with pytest.raises(ResourceError, match=r"disk became full.*1 finished shards are kept"):
        pack(split_of(40), tmp_path / "d", shard_samples=10)
    monkeypatch.delenv("VITSCALE_FAULT")
    assert [entry.name for entry in tmp_path.iterdir()] == [".d.packing"]
    pack(split_of(40), tmp_path / "d", shard_samples=10)
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


def test_a_disk_that_fails_is_named_and_finished_shards_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("vitscale.faults._passes", Counter())
    monkeypatch.setenv("VITSCALE_ENABLE_FAULTS", "1")
    monkeypatch.setenv("VITSCALE_FAULT", "pack.after_shard@0:1:eio")
    with pytest.raises(ResourceError, match=r"Input/output error while packing; 1 finished"):
        pack(split_of(40), tmp_path / "d", shard_samples=10)


def test_a_target_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="no folder can be made"):
        pack(split_of(4), tmp_path / "file" / "d")


def test_two_packings_of_one_target_at_a_time_are_refused(tmp_path):
    with folder_aside(tmp_path / "d"), pytest.raises(ResourceError, match="another process"):
        pack(split_of(4), tmp_path / "d")


def test_workers_do_not_change_a_byte(tmp_path):
    pack_split(split_of(40), tmp_path / "one", SMALL)
    pack_split(split_of(40), tmp_path / "three", SMALL, pieces=local_pieces(3))
    assert files_below(tmp_path / "one") == files_below(tmp_path / "three")


def test_an_error_in_a_worker_is_the_error_of_the_packing(tmp_path):
    (tmp_path / "x.png").write_bytes(image_file())
    samples = [*split_of(30).samples, Sample("k", "png", Span(tmp_path / "x.png", 0, 10**6), 0)]
    with pytest.raises(DataError, match=r"became shorter.*nothing writes"):
        pack_split(
            Split(split_of(1).classes, samples), tmp_path / "d", SMALL, pieces=local_pieces(2)
        )
    assert not (tmp_path / "d").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves tars open
def test_any_number_of_labels_is_packed_as_webdataset_decodes_it(tmp_path):
    labels = {"none": (), "one": (3,), "several": (2, 0, 2)}
    samples = [Sample(key, "png", image_file(), labels[key]) for key in labels]
    shard = pack(Split(tuple("abcd"), samples), tmp_path / "d").shards[0]
    assert (shard.most_labels, shard.unlabelled) == (2, 1)
    tar = tmp_path / "d" / shard.name
    theirs = webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False).decode()
    found = {s["__key__"]: s.get("cls", s.get("json", {}).get("label")) for s in theirs}
    assert found == {"none": None, "one": 3, "several": [0, 2]}
    index = read_index(index_path(tar))
    assert sorted(index.labels_of(row).tolist() for row in range(3)) == [[], [0, 2], [3]]


def picture(width: int, height: int) -> Image.Image:
    """A smooth gradient, so that JPEG and resizing change it little."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (100, 100), (101, 400)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_short_sides_are_cut_to_the_limit_and_pixels_stay_alike(size, format):
    data = encoded(picture(*size), format, **({} if format == "PNG" else {"quality": 95}))
    extension = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[format]
    new, kind = reencode(data, extension, Reencoding(max_short_side=50))
    assert kind == ("png" if format == "PNG" else "jpg")
    with Image.open(io.BytesIO(new)) as image:
        assert min(image.size) == 50
        assert abs(image.width / image.height - size[0] / size[1]) < 0.02
        assert image.format == ("PNG" if format == "PNG" else "JPEG")
        wanted = np.asarray(picture(*image.size), float)
        assert np.abs(np.asarray(image, float) - wanted).mean() < 4


def test_what_is_small_enough_keeps_its_bytes():
    for format in ("JPEG", "PNG", "WEBP"):
        data = image_file(format, size=(50, 60))
        assert reencode(data, "x", Reencoding(max_short_side=50)) == (data, "x")
    assert reencode(image_file("PNG"), "png", Reencoding(jpeg_only=True))[1] == "jpg"
    assert reencode(image_file("JPEG"), "jpeg", Reencoding(jpeg_only=True))[0] == image_file("JPEG")


def with_bad_images() -> Split:
    bad = [Sample(f"bad/{n}", "png", image_file(seed=n)[:90], 0) for n in range(2)]
    return Split(split_of(1).classes, [*split_of(20).samples, *bad])


def test_images_that_cannot_be_decoded_are_all_named(tmp_path):
    with pytest.raises(DataError, match=r"2 images cannot be decoded[^$]*bad/[^$]*--skip-bad"):
        pack_split(with_bad_images(), tmp_path / "d", Packing(0, 10**6, 5, Reencoding(8)))


def test_or_are_left_out_and_listed(tmp_path):
    packing = Packing(0, 10**6, 5, Reencoding(8), skip_bad=True)
    packed = pack_split(with_bad_images(), tmp_path / "d", packing)
    assert packed.manifest.samples == 20 == packed.changed
    assert read_manifest(tmp_path / "d") == packed.manifest
    with open(tmp_path / "d" / "skipped.csv", encoding="utf-8", newline="") as file:
        assert {row["key"] for row in csv.DictReader(file)} == {"bad/0", "bad/1"}


def test_the_shards_of_a_refused_packing_serve_one_that_skips(tmp_path, monkeypatch):
    with pytest.raises(DataError):
        pack_split(with_bad_images(), tmp_path / "d", Packing(0, 10**6, 5, Reencoding(8)))
    written = count_tars_written(monkeypatch)
    pack_split(
        with_bad_images(), tmp_path / "d", Packing(0, 10**6, 5, Reencoding(8), skip_bad=True)
    )
    assert written == []


def test_settings_without_effect_and_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"--skip-bad.*no effect"):
        Packing(skip_bad=True)
    for settings in ({"max_short_side": 0}, {"quality": 0}, {"quality": 101}):
        with pytest.raises(ConfigError, match="given"):
            Reencoding(**settings)
    with pytest.raises(ConfigError, match="--shard-samples"):
        Packing(shard_samples=0)
    with pytest.raises(ConfigError, match="--workers"):
        local_pieces(0)
