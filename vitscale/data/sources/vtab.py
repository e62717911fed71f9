"""VTAB-1k (arXiv 1910.04867): what its 19 tasks are, and packing the folders in which the thousand images go around.

Which images are the 800 and 200 follows from the order of records of one release of a library, so lists are taken and
not made: `TASK/train800.txt`, `val200.txt` and `test.txt` with `path label` lines below the task's folder, as most
repositories have them. Rules turn the annotations of four sources into labels, where a list has annotations instead.

Tasks, sizes and rules are those of github.com/google-research/task_adaptation at commit d7630d3c43ba (2021-03-22): the
tasks of `scripts/run_all_tasks.sh`, sizes and classes as `task_adaptation/data/*_test.py` expect them, rules of
`clevr.py`, `kitti.py` and `dsprites.py` beside those. The groups are the paper's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vitscale.data.lists import read_list
from vitscale.data.samples import Sample, Split, Splits
from vitscale.data.sources.files import Keys, look, refuse
from vitscale.errors import ConfigError, DataError, nearest

LISTS = {"train": "train800.txt", "dev": "val200.txt", "test": "test.txt"}
_SIZES = {"train": 800, "dev": 200}


@dataclass(frozen=True)
class VtabTask:
    """A task: its group, number of classes and of test images; how an annotation becomes a label, if it needs to."""

    group: str
    classes: int
    test: int
    rule: Callable[[float], int] | None = None


def clevr_count(objects: float) -> int:
    """Three to ten objects are classes 0 to 7 (task `count_all`)."""
    return int(objects) - 3


def by_thresholds(thresholds: tuple[float, ...]) -> Callable[[float], int]:
    """The number of the last threshold that lies below a value; -1 for none, which is no label."""

    def rule(value: float) -> int:
        return sum(value > threshold for threshold in thresholds) - 1

    return rule


def binned(values: int, bins: int = 16) -> Callable[[float], int]:
    """So many values of a factor, counted from 0, in 16 bins of equal width."""

    def rule(value: float) -> int:
        return math.floor(value / values * bins)

    return rule


clevr_distance = by_thresholds((0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0))
"""Depth of the closest object, the third of its pixel coordinates (task `closest_object_distance`)."""
kitti_distance = by_thresholds((-100.0, 8.0, 20.0, 999.0))
"""Depth in metres of the closest car, van or truck, 1000 where there is none (task `closest_vehicle_distance`)."""

TASKS = {
    "cifar": VtabTask("natural", 100, 10_000),
    "caltech101": VtabTask("natural", 102, 6_084),
    "dtd": VtabTask("natural", 47, 1_880),
    "oxford_flowers102": VtabTask("natural", 102, 6_149),
    "oxford_iiit_pet": VtabTask("natural", 37, 3_669),
    "svhn": VtabTask("natural", 10, 26_032),
    "sun397": VtabTask("natural", 397, 21_750),
    "patch_camelyon": VtabTask("specialised", 2, 32_768),
    "eurosat": VtabTask("specialised", 10, 5_400),
    "resisc45": VtabTask("specialised", 45, 6_300),
    "diabetic_retinopathy": VtabTask("specialised", 5, 42_670),
    "clevr_count": VtabTask("structured", 8, 15_000, clevr_count),
    "clevr_dist": VtabTask("structured", 6, 15_000, clevr_distance),
    "dmlab": VtabTask("structured", 6, 22_735),
    "kitti": VtabTask("structured", 4, 711, kitti_distance),
    "dsprites_loc": VtabTask("structured", 16, 73_728, binned(32)),
    "dsprites_ori": VtabTask("structured", 16, 73_728, binned(40)),
    "smallnorb_azi": VtabTask("structured", 18, 12_150),
    "smallnorb_ele": VtabTask("structured", 9, 12_150),
}

_LISTS_OF_A_TASK = f"A task has {', '.join(LISTS.values())}, with a line `path label` an image."


def vtab_splits(folder: Path, name: str, *, annotations: bool = False) -> Splits:
    """The three splits of a task, with classes that are called by their numbers, the same in all.

    Args:
        folder: of the task, with its lists.
        name: of the task.
        annotations: lists have what the rule of the task takes, and not labels.

    Raises:
        ConfigError: no such task, or one whose annotations are its labels.
        DataError: lists of another length, labels out of range, an image in two lists, files that are no images;
            all are listed.
    """
    if name not in TASKS:
        hint = nearest(name, TASKS)
        raise ConfigError("no such task of VTAB", where="--tasks", given=name, do=hint)
    task = TASKS[name]
    if annotations and task.rule is None:
        raise ConfigError(
            "has no rule: its annotations are its labels",
            where="--annotations",
            given=name,
            do="Leave it out there.",
        )
    rule = task.rule if annotations else None
    lines = {split: list(_lines(folder / file, rule)) for split, file in LISTS.items()}
    problems = [*_wrong_sizes(lines, task), *_wrong_labels(lines, task), *_met_twice(lines)]
    refuse(problems, f"the task {name}", folder)
    classes = tuple(map(str, range(task.classes)))
    splits = {
        split: Split(classes, list(_samples(folder, own, problems))) for split, own in lines.items()
    }
    refuse(problems, f"the task {name}", folder)
    return splits


def _lines(path: Path, rule: Callable[[float], int] | None) -> Iterator[tuple[str, int]]:
    """Path and label of each line."""
    try:
        found = read_list(path)
    except DataError as error:
        raise DataError(error.what, where=error.where, do=_LISTS_OF_A_TASK) from error
    for line in found:
        image, _, value = line.rpartition(" ")
        try:
            label = int(value) if rule is None else rule(float(value))
        except ValueError:
            image = ""
            label = 0
        if not image:
            raise DataError(
                "a line is no path with a label behind a space",
                where=str(path),
                given=repr(line),
                do="Write lines such as `images/0001.jpg 7`.",
            )
        yield image, label


def _wrong_sizes(lines: dict[str, list[tuple[str, int]]], task: VtabTask) -> Iterator[str]:
    for split, size in (_SIZES | {"test": task.test}).items():
        if len(lines[split]) != size:
            yield f"{LISTS[split]} has {len(lines[split]):,} images, the protocol {size:,}"


def _wrong_labels(lines: dict[str, list[tuple[str, int]]], task: VtabTask) -> Iterator[str]:
    for split, own in lines.items():
        wrong = [pair for pair in own if not 0 <= pair[1] < task.classes]
        if wrong:
            image, label = wrong[0]
            yield (
                f"{LISTS[split]}: {len(wrong):,} labels are not from 0 to {task.classes - 1}, "
                f"the first {label} of {image}"
            )
    absent = set(range(task.classes)) - {label for _, label in lines["test"]}
    if absent and not any(label >= task.classes for _, label in lines["test"]):
        yield f"{LISTS['test']} has no image of class {', '.join(map(str, sorted(absent)[:5]))}"


def _met_twice(lines: dict[str, list[tuple[str, int]]]) -> Iterator[str]:
    met = Counter(image for own in lines.values() for image, _ in own)
    twice = [image for image, count in met.items() if count > 1]
    if twice:
        yield f"{len(twice):,} images are listed more than once, the first {twice[0]}"


def _samples(folder: Path, lines: list[tuple[str, int]], problems: list[str]) -> Iterator[Sample]:
    keys = Keys()
    for image, label in lines:
        extension, problem = look(folder / image)
        if problem:
            problems.append(f"{image}: {problem}")
        else:
            yield Sample(keys.of(Path(image)), extension, folder / image, label)
