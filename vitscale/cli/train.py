"""`vitscale train RECIPE`: run the trainer in this process; each rank of torchrun calls the same."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from vitscale.cli.arguments import add_json, add_recipe, add_resume, print_json
from vitscale.config.load import Recipe, load_recipe
from vitscale.place import place_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, overrides, --resume, --profile."""
    add_recipe(parser)
    add_resume(parser)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="trace three steps after three: where their time goes and their memory, in RUN/profile",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train to the end, to a stop request or to an error; the exit code says which."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    return run_here(
        recipe, resume=arguments.resume, as_json=arguments.json, profile=arguments.profile
    )


def run_here(recipe: Recipe, *, resume: str, as_json: bool, profile: bool = False) -> int:
    """Hand the recipe to the worker in this process and print its reply once per job."""
    from vitscale.train import worker

    if place_of().is_first:
        (recipe.config.folder / "STOP").unlink(missing_ok=True)  # a request to an earlier start
    reply = worker.run({"recipe": recipe.to_json(), "resume": resume, "profile": profile})
    if place_of().is_first:
        print_reply(reply, as_json=as_json)
    return int(reply["exit_code"])


def print_reply(reply: Mapping[str, Any], *, as_json: bool) -> None:
    """Say how a run ended: on stdout, but on stderr where it failed."""
    if as_json:
        print_json(reply)
    elif reply["status"] == "failed":
        print(f"vitscale: {reply['message']}", file=sys.stderr)
    else:
        print(reply["message"])
