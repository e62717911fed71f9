"""`vitscale submit RECIPE`: run a recipe as a job on a Ray cluster, or on Ray inside this command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from vitscale.cli.arguments import add_json, add_recipe, add_resume, override, print_json
from vitscale.cli.jobs import follow, show_table
from vitscale.cli.submit_sweep import run_sweep
from vitscale.cli.train import print_reply
from vitscale.config.cluster import ClusterProfile, load_profile, split_overrides
from vitscale.config.load import load_recipe
from vitscale.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, overrides, --sweep, --on, --resume, --dry-run, --allow-dirty, --follow."""
    add_recipe(parser)
    parser.add_argument(
        "--sweep",
        metavar="KEY=VALUE,VALUE",
        nargs="+",
        type=override,
        help="one job for each combination of these values, such as optim.lr=1e-3,3e-3 seed=0,1; "
        "a list stands in brackets, text with a comma in quotes",
    )
    parser.add_argument(
        "--on",
        metavar="PROFILE",
        default="local",
        help="a profile of configs/cluster, or a path to one; "
        "overrides such as cluster.workers=4 change it (default: local)",
    )
    add_resume(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print profile, plan, config and what would be handed over, and start nothing",
    )
    parser.add_argument(
        "--allow-dirty", action="store_true", help="ship code that differs from its commit"
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="show the log of a job on a running cluster until it is over; Ctrl-C leaves it running",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Submit; exit code 75 means stopped on request and safe to submit again."""
    from vitscale_launch.submit import dry_run, submit

    for_recipe, for_profile = split_overrides(arguments.overrides)
    profile = load_profile(arguments.on, for_profile)
    _insist_on_effect(arguments, profile)
    if arguments.sweep:
        return run_sweep(arguments, profile, for_recipe)
    recipe = load_recipe(arguments.recipe, for_recipe)
    if arguments.dry_run:
        _print_dry(dry_run(recipe, profile, resume=arguments.resume), arguments.json)
        return 0
    reply = submit(recipe, profile, resume=arguments.resume, allow_dirty=arguments.allow_dirty)
    if reply["status"] != "submitted":
        print_reply(reply, as_json=arguments.json)
        return int(reply["exit_code"])
    show_table(reply, arguments.json)
    return follow(profile, reply["job"], as_json=arguments.json) if arguments.follow else 0


def _insist_on_effect(arguments: argparse.Namespace, profile: ClusterProfile) -> None:
    if arguments.follow and arguments.sweep:
        raise ConfigError(
            "--follow has no effect with --sweep",
            where="submit",
            do="Follow one of its jobs: vitscale jobs logs RUN -f.",
        )
    if arguments.follow and not profile.is_remote:
        raise ConfigError(
            "--follow has no effect with this profile",
            where="submit",
            given=arguments.on,
            do="Only jobs of a running cluster, at http://HOST:8265, can be followed.",
        )
    if arguments.allow_dirty and not profile.ships:
        raise ConfigError(
            "--allow-dirty has no effect with this profile: no code is shipped",
            where="submit",
            given=arguments.on,
            do="Leave it out.",
        )


def _print_dry(table: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(table)
        return
    handed = table.pop("handed_over", None)
    _print_table(table)
    if handed is not None:
        print(f"\n{handed}", end="")


def _print_table(table: Mapping[str, Any]) -> None:
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
