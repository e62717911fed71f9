"""`vitscale shards import-vtab`: check the lists of VTAB-1k and pack its tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscale.cli.shard_pieces import add_pieces, pieces_of

if TYPE_CHECKING:
    from vitscale.data.samples import Splits


def add_command(commands: Any) -> None:
    """Add the command."""
    text = "check the lists of VTAB-1k and pack its tasks for the suite vtab"
    parser = commands.add_parser("import-vtab", help=text, description=f"{text.capitalize()}.")
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="a folder a task, each with its lists (docs/transfer.md)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="DIR",
        help="gets TASK/train, TASK/dev and TASK/test",
    )
    parser.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="only these (default: all that have a folder)"
    )
    parser.add_argument(
        "--annotations",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks whose lists have annotations, such as depths, instead of labels",
    )
    add_pieces(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Check all tasks, then pack them; one line each."""
    from vitscale.data.sources.vtab import TASKS
    from vitscale.data.write import pack_splits
    from vitscale.errors import ConfigError, DataError

    there = [name for name in TASKS if (arguments.folder / name).is_dir()]
    names = arguments.tasks or there
    if not names:
        raise DataError(
            "no folder of a task of VTAB",
            where=str(arguments.folder),
            do=f"Name the folders {', '.join(TASKS)}.",
        )
    if idle := [name for name in arguments.annotations if name not in names]:
        raise ConfigError(
            "are not imported",
            where="--annotations",
            given=", ".join(idle),
            do="Leave them out there, or name them in --tasks.",
        )
    checked = _checked(arguments, names)
    records = []
    for name, splits in checked.items():
        packed = pack_splits(splits, arguments.to / name, pieces=pieces_of(arguments))
        samples = {split: one.manifest.facts.samples for split, one in packed.items()}
        records.append(
            {"task": name, "group": TASKS[name].group, "classes": TASKS[name].classes, **samples}
        )
        if not arguments.json:
            counts = ", ".join(f"{count:,} {split}" for split, count in samples.items())
            print(f"{name:<22} {TASKS[name].group:<12} {counts}")
    missing = [name for name in TASKS if name not in there]
    if arguments.json:
        print(json.dumps({"tasks": records, "missing": missing}))
    elif missing and not arguments.tasks:
        print(f"not there: {', '.join(missing)}")
    return 0


def _checked(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Splits]:
    """The splits of every task, or what is wrong with any of them."""
    from vitscale.data.sources.vtab import vtab_splits
    from vitscale.errors import DataError

    checked: dict[str, Splits] = {}
    wrong: list[DataError] = []
    for name in names:
        folder, annotations = arguments.folder / name, name in arguments.annotations
        try:
            checked[name] = vtab_splits(folder, name, annotations=annotations)
        except DataError as error:
            wrong.append(error)
    if len(wrong) > 1:
        told = "\n  ".join(map(str, wrong))
        raise DataError(f"{len(wrong)} tasks cannot be imported:\n  {told}\n")
    for error in wrong:
        raise error
    return checked
