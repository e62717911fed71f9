"""The recipe of a branch: a trunk trained at a rate that knows no end, cooled down from one of its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vitscale.config.load import Recipe, merge, parse_override
from vitscale.config.optim import OptimConfig
from vitscale.errors import ConfigError
from vitscale.units import Duration

ENDLESS = ("rsqrt", "constant")
"""Schedules whose rate does not depend on the length of the run but for its cooldown."""


@dataclass(frozen=True)
class Fork:
    """Where a branch leaves its trunk: the commit, its step, and the cooldown that follows."""

    checkpoint: str
    step: int
    cooldown: Duration

    @property
    def name(self) -> str:
        """What is added to the trunk's name."""
        amount = str(self.cooldown).replace(" ", "-").replace("%", "-percent")
        return f"step-{self.step}-cooldown-{amount}"


def branch_recipe(
    trunk: Recipe, fork: Fork, *, epoch_images: int, name: str | None, overrides: Iterable[str]
) -> Recipe:
    """The trunk's recipe with another name, that checkpoint to go on from, and an end after the cooldown.

    Args:
        trunk: as saved in its run folder.
        fork: where and how.
        epoch_images: samples in the trunk's training set.
        name: of the branch; made of the trunk's where None.
        overrides: `section.key=value` texts on top.

    Raises:
        ConfigError: the schedule depends on the length of the run, or the step is in its warmup or cooldown.
    """
    batch, optim = trunk.config.train.batch, trunk.config.optim
    total = trunk.config.train.duration.steps(batch=batch, epoch_images=epoch_images)

    def steps(duration: Duration) -> int:
        return duration.steps(batch=batch, epoch_images=epoch_images, total_steps=total)

    cooldown = _cooldown(fork, batch, epoch_images)
    _insist_on_trunk(optim, fork.step, steps(optim.warmup), total - steps(optim.cooldown))
    record = json.loads(trunk.to_json())
    config: dict[str, Any] = record["config"]
    config["run"]["name"] = name or f"{trunk.config.run.name}-{fork.name}"
    config["init"] = {"checkpoint": fork.checkpoint}
    config["train"]["duration"] = f"{fork.step + cooldown} steps"
    config["optim"] |= {"cooldown": f"{cooldown} steps", "warmup": f"{steps(optim.warmup)} steps"}
    if optim.schedule == "rsqrt":
        config["optim"]["timescale"] = f"{steps(optim.timescale)} steps"
    sources = {key: told for key, told in record["sources"].items() if not key.startswith("init.")}
    sources |= dict.fromkeys(("init.checkpoint", "train.duration", "optim.cooldown"), "branch")
    for text in overrides:
        merge(config, parse_override(text), sources, "override")
    return Recipe.from_json(json.dumps({**record, "sources": sources}))


def _cooldown(fork: Fork, batch: int, epoch_images: int) -> int:
    """In steps."""
    try:
        steps = fork.cooldown.steps(batch=batch, epoch_images=epoch_images)
    except ValueError as error:
        raise ConfigError(
            str(error), where="--cooldown", given=fork.cooldown, do='Such as "5000 steps".'
        ) from error
    if steps < 1:
        raise ConfigError(
            "comes to no step at all", where="--cooldown", given=fork.cooldown, do="Make it longer."
        )
    return steps


def _insist_on_trunk(optim: OptimConfig, step: int, warmup: int, cooling: int) -> None:
    if optim.schedule not in ENDLESS:
        raise ConfigError(
            f"a {optim.schedule} schedule is made for its length, so no branch of it is a cooldown",
            where="optim.schedule",
            do=f"Train the trunk with {' or '.join(ENDLESS)}.",
        )
    if step < warmup:
        raise ConfigError(
            f"step {step} lies in the warmup", where="--at", do=f"Choose {warmup} or later."
        )
    if step > cooling:
        raise ConfigError(
            f"the trunk itself cools down from step {cooling} on",
            where="--at",
            given=step,
            do="Choose an earlier commit.",
        )
