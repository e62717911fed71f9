"""`vitscale branch RUN --at STEP --cooldown DURATION`: train a cooled-down child of a trunk's checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitscale.attempts import committed_step
from vitscale.cli.arguments import add_json, add_resume
from vitscale.cli.train import print_reply, run_here
from vitscale.config.branch import Fork, branch_recipe
from vitscale.config.cluster import load_profile, split_overrides
from vitscale.config.load import Recipe
from vitscale.config.saved import saved_recipe
from vitscale.errors import CheckpointError, ConfigError
from vitscale.units import Duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --at, --cooldown, --name, --on, --resume, overrides."""
    parser.add_argument("run_folder", metavar="RUN", help="the trunk's run folder")
    parser.add_argument(
        "--at", type=int, metavar="STEP", help="step of its commit (default: the newest)"
    )
    parser.add_argument(
        "--cooldown",
        required=True,
        metavar="DURATION",
        help='how long the rate falls to zero, such as "5000 steps" or "10 epochs"',
    )
    parser.add_argument("--name", help="of the branch (default: made of the trunk's name)")
    parser.add_argument(
        "--on", metavar="PROFILE", help="submit to this cluster profile (such as local) instead"
    )
    parser.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="replaces one value of the recipe"
    )
    add_resume(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Link child and parent, then train here or on a cluster; the commit is kept until the child has its own."""
    from vitscale.checkpoint.lease import is_running
    from vitscale.checkpoint.promised import promise
    from vitscale.checkpoint.retention import holding
    from vitscale.tracking.lineage import link, send
    from vitscale.tracking.target import target_of

    trunk_folder = Path(arguments.run_folder).absolute()
    commit, step = _commit(trunk_folder, arguments.at)
    with holding(commit):
        recipe, for_profile = _recipe(arguments, trunk_folder, commit, step)
        child = recipe.config.folder
        if child == trunk_folder:
            raise ConfigError(
                "the branch has the trunk's name",
                where="--name",
                given=child.name,
                do="Choose another.",
            )
        if not (child / "attempts").exists():
            link(trunk_folder, child, step, target_of(recipe.config.tracking.mlflow, child.parent))
        if not is_running(trunk_folder):
            send(trunk_folder)
        if not committed_step(child):
            promise(commit, child.name)
        if arguments.on is None:
            return run_here(recipe, resume=arguments.resume, as_json=arguments.json)
        from vitscale_launch.submit import submit

        profile = load_profile(arguments.on, for_profile)
        reply = submit(recipe, profile, resume=arguments.resume)
        print_reply(reply, as_json=arguments.json)
        return int(reply["exit_code"])


def _commit(trunk: Path, at: int | None) -> tuple[Path, int]:
    """The folder and step of the commit to go on from, verified."""
    from vitscale.checkpoint.choose import found_commit
    from vitscale.checkpoint.layout import CHECKPOINTS, step_folder, step_folders

    path = trunk if at is None else step_folder(trunk / CHECKPOINTS, at)
    if at is not None and not path.is_dir():
        there = [str(step) for step, _ in reversed(step_folders(trunk / CHECKPOINTS))]
        raise CheckpointError(
            f"the trunk has no commit of step {at}",
            where=str(trunk),
            do=f"There are: {', '.join(there) or 'none'}. checkpoint.keep_every keeps some for good.",
        )
    with found_commit(path) as found:
        return found.folder, found.manifest.step


def _recipe(
    arguments: argparse.Namespace, trunk: Path, commit: Path, step: int
) -> tuple[Recipe, list[str]]:
    """Of the branch; and the overrides that are for the profile."""
    from vitscale.data.facts import facts_of

    try:
        cooldown = Duration.parse(arguments.cooldown)
    except ValueError as error:
        raise ConfigError(
            str(error), where="--cooldown", given=arguments.cooldown, do='Such as "5000 steps".'
        ) from error
    saved = trunk / "config.json"
    if not saved.is_file():
        raise ConfigError(
            "is no run folder: it has no config.json",
            where=str(trunk),
            do="Name a run folder such as runs/NAME.",
        )
    own = saved_recipe(saved)
    for_recipe, for_profile = (
        (list(arguments.overrides), [])
        if arguments.on is None
        else split_overrides(arguments.overrides)
    )
    recipe = branch_recipe(
        own,
        Fork(str(commit), step, cooldown),
        epoch_images=facts_of(own.config.data).samples,
        name=arguments.name,
        overrides=for_recipe,
    )
    return recipe, for_profile
