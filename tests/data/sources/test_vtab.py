"""The tasks of VTAB-1k: rules at their edges, lists that are not the protocol's, and a task that is."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.data.corpora import image_file
from vitscale.cli.main import main
from vitscale.config.dataset import read_manifest
from vitscale.config.suite import load_suite
from vitscale.data.sources import vtab
from vitscale.data.sources.vtab import TASKS, clevr_count, clevr_distance, kitti_distance
from vitscale.errors import ConfigError, DataError


def test_there_are_seven_four_and_eight_tasks_and_the_suite_has_them_all(monkeypatch):
    from tests.house.tree import ROOT

    groups = Counter(task.group for task in TASKS.values())
    assert groups == {"natural": 7, "specialised": 4, "structured": 8}
    monkeypatch.chdir(ROOT)
    suite = load_suite("vtab").suite
    assert {name: data.group for name, data in suite.data.items()} == {
        name: task.group for name, task in TASKS.items()
    }


# What the tests of github.com/google-research/task_adaptation expect at commit d7630d3c43ba (files
# task_adaptation/data/*_test.py): classes, then images of train, val and test. val200 are the first of val.
PUBLISHED = {
    "cifar": (100, 45_000, 5_000, 10_000),  # cifar_test.py
    "caltech101": (102, 2_754, 306, 6_084),  # caltech_test.py; a background class among them
    "dtd": (47, 1_880, 1_880, 1_880),  # dtd_test.py
    "oxford_flowers102": (102, 1_020, 1_020, 6_149),  # oxford_flowers102_test.py
    "oxford_iiit_pet": (37, 2_944, 736, 3_669),  # oxford_iiit_pet_test.py
    "svhn": (10, 65_931, 7_326, 26_032),  # svhn_test.py
    "sun397": (397, 76_128, 10_875, 21_750),  # sun397_test.py
    "patch_camelyon": (2, 262_144, 32_768, 32_768),  # patch_camelyon_test.py
    "eurosat": (10, 16_200, 5_400, 5_400),  # eurosat_test.py
    "resisc45": (45, 18_900, 6_300, 6_300),  # resisc45_test.py
    "diabetic_retinopathy": (5, 35_126, 10_906, 42_670),  # diabetic_retinopathy_test.py
    "clevr_count": (8, 63_000, 7_000, 15_000),  # clevr_test.py, count_all
    "clevr_dist": (6, 63_000, 7_000, 15_000),  # clevr_test.py, closest_object_distance
    "dmlab": (6, 65_550, 22_628, 22_735),  # dmlab_test.py
    "kitti": (4, 6_347, 423, 711),  # kitti_test.py, closest_vehicle_distance
    "dsprites_loc": (
        16,
        589_824,
        73_728,
        73_728,
    ),  # dsprites_test.py; 16 from scripts/run_all_tasks.sh
    "dsprites_ori": (16, 589_824, 73_728, 73_728),
    "smallnorb_azi": (18, 24_300, 12_150, 12_150),  # smallnorb_test.py, label_azimuth
    "smallnorb_ele": (9, 24_300, 12_150, 12_150),  # smallnorb_test.py, label_elevation
}


def test_classes_and_sizes_are_those_of_the_benchmarks_own_tests():
    assert {name: (task.classes, task.test) for name, task in TASKS.items()} == {
        name: (classes, test) for name, (classes, _, _, test) in PUBLISHED.items()
    }
    assert all(train >= 800 and val >= 200 for _, train, val, _ in PUBLISHED.values())


def test_annotations_become_the_labels_of_the_protocol_at_every_edge():
    assert [clevr_count(n) for n in range(3, 11)] == list(range(8))
    values = [0.1, 8.0, 8.1, 8.5, 8.6, 9.0, 9.1, 9.5, 9.6, 10.0, 10.1, 99.0]
    assert [clevr_distance(v) for v in values] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [kitti_distance(v) for v in (-1.0, 8.0, 8.5, 20.0, 20.5, 999.0, 1000.0)] == [
        *(0, 0, 1, 1, 2, 2, 3)
    ]
    for name, count in (("dsprites_loc", 32), ("dsprites_ori", 40)):
        rule = TASKS[name].rule
        assert rule is not None
        # dsprites.py: the floor of the value over float(count) / 16; 2 and 2.5 need no rounding.
        assert [rule(value) for value in range(count)] == [v // (count / 16) for v in range(count)]


def test_what_lies_outside_of_all_thresholds_is_no_label():
    assert clevr_distance(0.0) == kitti_distance(-100.0) == -1
    assert clevr_distance(100.1) == TASKS["clevr_dist"].classes


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    """A task of 3 classes with 8, 2 and 6 images, made to be the protocol's."""
    monkeypatch.setitem(TASKS, "kitti", vtab.VtabTask("structured", 3, 6, kitti_distance))
    monkeypatch.setattr(vtab, "_SIZES", {"train": 8, "dev": 2})
    folder = tmp_path / "vtab-1k" / "kitti"
    (folder / "images").mkdir(parents=True)
    number = 0
    for name, count in (("train800.txt", 8), ("val200.txt", 2), ("test.txt", 6)):
        lines = []
        for place in range(count):
            path = f"images/{number:03d}.png"
            (folder / path).write_bytes(image_file(seed=number))
            lines.append(f"{path} {place % 3}")
            number += 1
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_a_task_is_packed_with_the_same_classes_in_all_splits(task_folder, tmp_path, capsys):
    words = ["shards", "import-vtab", str(task_folder.parent), "--to", str(tmp_path / "to")]
    assert main([*words, "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [record] = told["tasks"]
    assert (record["train"], record["dev"], record["test"]) == (8, 2, 6)
    assert len(told["missing"]) == 18
    for split in ("train", "dev", "test"):
        manifest = read_manifest(tmp_path / "to" / "kitti" / split)
        assert manifest.facts.classes == ("0", "1", "2")


def test_everything_that_is_not_the_protocols_is_named_at_once(task_folder):
    lines = (task_folder / "val200.txt").read_text().splitlines()
    (task_folder / "val200.txt").write_text(f"{lines[0]}\nimages/000.png 7\nimages/x.png 1\n")
    with pytest.raises(DataError) as error:
        vtab.vtab_splits(task_folder, "kitti")
    message = str(error.value)
    assert "val200.txt has 3 images, the protocol 2" in message
    assert "1 labels are not from 0 to 2, the first 7 of images/000.png" in message
    assert "1 images are listed more than once, the first images/000.png" in message


def test_depths_go_through_the_rule_and_files_must_be_images(task_folder):
    lines = (task_folder / "train800.txt").read_text().splitlines()
    depths = [
        line.rsplit(" ", 1)[0] + f" {depth}"
        for line, depth in zip(lines, [7.5, 12.25, 30.0] * 3, strict=False)
    ]
    for name, own in (("train800.txt", depths),):
        (task_folder / name).write_text("\n".join(own) + "\n")
    for name in ("val200.txt", "test.txt"):
        text = (task_folder / name).read_text()
        for label, depth in (("2", "25.5"), ("1", "9.5"), ("0", "-3")):
            text = text.replace(f".png {label}\n", f".png {depth}\n")
        (task_folder / name).write_text(text)
    splits = vtab.vtab_splits(task_folder, "kitti", annotations=True)
    assert [sample.label for sample in splits["train"].samples] == [0, 1, 2, 0, 1, 2, 0, 1]
    (task_folder / "images/000.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"images/000.png: no JPEG"):
        vtab.vtab_splits(task_folder, "kitti", annotations=True)
    with pytest.raises(ConfigError, match="its annotations are its labels"):
        vtab.vtab_splits(task_folder, "cifar", annotations=True)


def test_the_problems_of_all_tasks_are_told_at_once(tmp_path, capsys):
    for task in ("cifar", "dtd"):
        (tmp_path / task).mkdir()
    assert main(["shards", "import-vtab", str(tmp_path), "--to", str(tmp_path / "to")]) == 3
    told = capsys.readouterr().err
    assert "cifar/train800.txt" in told
    assert "dtd/train800.txt" in told
    assert "`path label`" in told
    assert not (tmp_path / "to").exists()
