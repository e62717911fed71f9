"""`vitscale submit RECIPE`: run a recipe as a job on a Ray cluster, or on Ray inside this command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from vitscale.cli.arguments import add_json, add_recipe, add_resume, print_json
from vitscale.cli.train import print_reply
from vitscale.config.cluster import load_profile, split_overrides
from vitscale.config.load import load_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, overrides, --on, --resume, --dry-run."""
    add_recipe(parser)
    parser.add_argument(
        "--on",
        metavar="PROFILE",
        default="local",
        help="a profile of configs/cluster, or a path to one; "
        "overrides such as cluster.workers=4 change it (default: local)",
    )
    add_resume(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print profile, plan and config, and start nothing"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Submit and wait; exit code 75 means stopped on request and safe to submit again."""
    from vitscale_launch.submit import dry_run, submit

    for_recipe, for_profile = split_overrides(arguments.overrides)
    profile = load_profile(arguments.on, for_profile)
    recipe = load_recipe(arguments.recipe, for_recipe)
    if arguments.dry_run:
        _print_table(dry_run(recipe, profile, resume=arguments.resume), arguments.json)
        return 0
    reply = submit(recipe, profile, resume=arguments.resume)
    print_reply(reply, as_json=arguments.json)
    return int(reply["exit_code"])


def _print_table(table: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(table)
        return
    lines = list(_flat(table))
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        print(f"{key:<{width}}  {value}")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
