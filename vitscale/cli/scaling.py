"""`vitscale scaling RECIPE --ladder NAME`: how the loss falls with size of the model and length of training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vitscale.cli.arguments import add_json, add_recipe, print_json
from vitscale.config.ladder import load_ladder
from vitscale.config.load import load_recipe

if TYPE_CHECKING:
    from vitscale.evaluate.scaling_study import Rung


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, --ladder, --name, --dry-run, overrides."""
    add_recipe(parser)
    parser.add_argument(
        "--ladder",
        required=True,
        metavar="NAME|FILE",
        help="sizes and budgets: a ladder of configs/scaling, or a TOML file",
    )
    parser.add_argument(
        "--name", help="of the study and its folder below run.home (default: made of the run's)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the rungs and what they cost, start nothing"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train what is not finished, fit, write and print; the exit code of the first rung that failed, else 0.

    Raises:
        DataError: the rungs are done and their frontier cannot bear a law; points and picture are written.
    """
    ladder = load_ladder(arguments.ladder)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from vitscale.data.facts import facts_of
    from vitscale.evaluate.from_checkpoint import insist_on_one_process
    from vitscale.evaluate.scaling_results import text_of, write_study
    from vitscale.evaluate.scaling_study import climb, rungs_of, study_folder
    from vitscale.train import worker

    insist_on_one_process()
    facts = facts_of(recipe.config.data)
    path = Path(arguments.recipe)
    rungs = rungs_of(path, arguments.overrides, ladder, facts, arguments.name)
    if arguments.dry_run:
        return _show(rungs, arguments.json)
    folder = study_folder(recipe, arguments.name)
    climbed = climb(rungs, worker.run, _say)
    folder.mkdir(parents=True, exist_ok=True)
    named = {"recipe": arguments.recipe, "ladder": ladder.name}
    record, no_law = write_study(folder, climbed, named)
    if arguments.json:
        print_json(record)
    else:
        print(f"{text_of(record)}\nall of it is in {folder}")
    if climbed.failed:
        return next(iter(climbed.failed.values())).exit_code
    if no_law is not None:
        raise no_law
    return 0


def _show(rungs: list[Rung], as_json: bool) -> int:
    from vitscale.evaluate.report import table

    heads = ("rung", "parameters", "images", "operations")
    rows = [(r.name, r.parameters, r.plan.total_images, r.compute) for r in rungs]
    if as_json:
        print_json([dict(zip(heads, row, strict=True)) for row in rows])
    else:
        print(table(heads, [(*row[:3], f"{row[3]:.3g}") for row in rows]))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
