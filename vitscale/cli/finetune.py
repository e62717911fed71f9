"""`vitscale finetune RECIPE --from CHECKPOINT`: the same trainer, started from pretrained weights."""

from __future__ import annotations

import argparse
import json

from vitscale.cli.arguments import add_json, add_recipe, add_resume
from vitscale.cli.train import print_reply, run_here
from vitscale.config.cluster import load_profile, split_overrides
from vitscale.config.load import Recipe, load_recipe
from vitscale.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, --from, --on, --resume, overrides."""
    add_recipe(parser)
    parser.add_argument(
        "--from",
        dest="weights",
        metavar="CHECKPOINT",
        help="a step folder, a run folder or an exported file; sets init.weights",
    )
    parser.add_argument(
        "--on", metavar="PROFILE", help="submit to this cluster profile (such as local) instead"
    )
    add_resume(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train here, or submit the same recipe to a cluster."""
    if arguments.on is None:
        recipe = finetune_recipe(arguments.recipe, arguments.overrides, arguments.weights)
        return run_here(recipe, resume=arguments.resume, as_json=arguments.json)
    from vitscale_launch.submit import submit

    for_recipe, for_profile = split_overrides(arguments.overrides)
    recipe = finetune_recipe(arguments.recipe, for_recipe, arguments.weights)
    reply = submit(recipe, load_profile(arguments.on, for_profile), resume=arguments.resume)
    print_reply(reply, as_json=arguments.json)
    return int(reply["exit_code"])


def finetune_recipe(path: str, overrides: list[str], weights: str | None) -> Recipe:
    """The recipe with `init.weights` set.

    Raises:
        ConfigError: neither `--from` nor the recipe names a checkpoint.
    """
    chosen = [] if weights is None else [f"init.weights={json.dumps(weights)}"]
    recipe = load_recipe(path, [*overrides, *chosen])
    if recipe.config.init is None or recipe.config.init.weights is None:
        raise ConfigError(
            "no checkpoint to start from",
            where="init.weights",
            do="Give --from CHECKPOINT, or set init.weights in the recipe.",
        )
    return recipe
