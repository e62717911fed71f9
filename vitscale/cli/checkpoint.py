"""`vitscale checkpoint list|verify RUN`: what a run has committed, and whether every byte is as written."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from vitscale.checkpoint.layout import CHECKPOINTS, damage, read_manifest, step_folders
from vitscale.cli.arguments import add_json, print_json
from vitscale.errors import CheckpointError
from vitscale.units import human_bytes


@dataclass(frozen=True)
class Row:
    """One step folder: what its manifest says, and what is wrong with it."""

    folder: str
    step: int
    world: int | None
    size: int
    problems: list[str]

    def line(self) -> str:
        """One line of text, and one more for each problem."""
        world = "?" if self.world is None else self.world
        state = "damaged" if self.problems else "ok"
        head = f"{self.folder:<20} {world:>5} ranks  {human_bytes(self.size):>10}  {state}"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`list RUN` and `verify RUN`."""
    actions = parser.add_subparsers(dest="action", metavar="list|verify", required=True)
    for name, text in (
        ("list", "the commits of a run, newest first; checks manifests and file sizes"),
        ("verify", "the same, reading and hashing every byte"),
    ):
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument("run_folder", metavar="RUN", help="a run folder, such as runs/NAME")
        add_json(action)


def run(arguments: argparse.Namespace) -> int:
    """Print the commits; the exit code tells whether a damaged one was found."""
    rows = survey(Path(arguments.run_folder), deep=arguments.action == "verify")
    if arguments.json:
        print_json([asdict(row) for row in rows])
    else:
        print("\n".join(row.line() for row in rows))
    return CheckpointError.exit_code if any(row.problems for row in rows) else 0


def survey(run_folder: Path, *, deep: bool) -> list[Row]:
    """Every step folder of a run, newest first.

    Raises:
        CheckpointError: the run has none at all.
    """
    folders = step_folders(run_folder / CHECKPOINTS)
    if not folders:
        raise CheckpointError(
            "there is no checkpoint",
            where=str(run_folder / CHECKPOINTS),
            do="Give a run folder, such as runs/NAME.",
        )
    return [_row(step, folder, deep) for step, folder in folders]


def _row(step: int, folder: Path, deep: bool) -> Row:
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return Row(folder.name, step, None, 0, [str(error)])
    problems = damage(folder, manifest.files, deep=deep)
    return Row(folder.name, step, manifest.world, manifest.size, problems)
