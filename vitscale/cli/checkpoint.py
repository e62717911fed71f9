"""`vitscale checkpoint list|inspect|verify|export`: what a run has committed, and its weights as one file."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    """`list RUN`, `verify RUN`, `inspect CHECKPOINT` and `export CHECKPOINT --to FILE`."""
    actions = parser.add_subparsers(
        dest="action", metavar="list|inspect|verify|export", required=True
    )
    for name, text in (
        ("list", "the commits of a run, newest first; checks manifests and file sizes"),
        ("verify", "the same, reading and hashing every byte"),
    ):
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument("run_folder", metavar="RUN", help="a run folder, such as runs/NAME")
        add_json(action)
    text = "what one commit holds, by whom it was written and how large its parts are"
    action = actions.add_parser("inspect", help=text, description=text.capitalize() + ".")
    _add_checkpoint(action)
    add_json(action)
    text = "the weights as one safetensors file, for any tool, without DeepSpeed and without a GPU"
    action = actions.add_parser("export", help=text, description=text.capitalize() + ".")
    _add_checkpoint(action)
    action.add_argument("--to", metavar="FILE", required=True, help="a new .safetensors file")
    action.add_argument(
        "--weights", choices=("raw", "ema"), default="raw", help="as trained, or their average"
    )
    action.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    add_json(action)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a step folder or a run folder")


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for; the exit code tells whether a damaged commit was found."""
    if arguments.action == "inspect":
        return _print(_inspect(arguments.checkpoint), as_json=arguments.json)
    if arguments.action == "export":
        return _print(_export(arguments), as_json=arguments.json)
    rows = survey(Path(arguments.run_folder), deep=arguments.action == "verify")
    if arguments.json:
        print_json([asdict(row) for row in rows])
    else:
        print("\n".join(row.line() for row in rows))
    return CheckpointError.exit_code if any(row.problems for row in rows) else 0


def _print(facts: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print_json(facts)
    else:
        width = max(map(len, facts))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()))
    return 0


def _inspect(checkpoint: str) -> dict[str, Any]:
    from vitscale.checkpoint.choose import found_commit
    from vitscale.checkpoint.inspection import inspect

    with found_commit(Path(checkpoint)) as found:
        return inspect(found)


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from vitscale.checkpoint.weights import export_weights

    to = Path(arguments.to)
    return export_weights(Path(arguments.checkpoint), to, arguments.weights, arguments.dtype)


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
