"""Train every rung of a ladder once, and keep what each came to.

A rung is an ordinary run below the folder of the study: it commits, and goes on from its last commit when the study is
started again; one that is finished is not run again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitscale.attempts import AttemptRecord, attempt_folder, committed_step, newest_attempt
from vitscale.config.dataset import DatasetFacts
from vitscale.config.difference import differences
from vitscale.config.ladder import LoadedLadder
from vitscale.config.load import Recipe, load_recipe
from vitscale.config.plan import Plan, make_plan
from vitscale.config.redaction import redact_text
from vitscale.config.saved import saved_recipe
from vitscale.errors import STOPPED_EXIT_CODE, ConfigError, DataError, VitscaleError
from vitscale.evaluate.finetune import RunFailed, Train
from vitscale.planner import size
from vitscale.tracking.journal import read_metrics
from vitscale.units import human_count

METRIC = "held_out/loss"


@dataclass(frozen=True)
class Rung:
    """One run of a study, and what it costs."""

    name: str
    size: str
    recipe: Recipe
    plan: Plan
    parameters: int
    compute: float
    """Operations of training: forward and backward pass of every image, a multiply-add being two."""

    @property
    def folder(self) -> Path:
        return self.recipe.config.folder

    @property
    def is_finished(self) -> bool:
        number = newest_attempt(self.folder)
        end = AttemptRecord(number, attempt_folder(self.folder, number)).end if number else {}
        done = committed_step(self.folder) == self.plan.total_steps
        return done and end.get("status") == "finished"


@dataclass(frozen=True)
class Point:
    """What a finished rung came to on the held-out set."""

    name: str
    size: str
    parameters: int
    images: int
    compute: float
    loss: float
    top1: float


@dataclass
class Climbed:
    """The points of the rungs that finished, the cheapest first, and why the others did not."""

    points: list[Point] = field(default_factory=list)
    failed: dict[str, VitscaleError] = field(default_factory=dict)


def study_folder(recipe: Recipe, name: str | None) -> Path:
    """Where the rungs and results of a study lie: beside the runs of the recipe."""
    return recipe.config.folder.parent / (name or f"{recipe.config.run.name}-scaling")


def rungs_of(
    recipe: Path,
    overrides: Sequence[str],
    ladder: LoadedLadder,
    facts: DatasetFacts,
    name: str | None = None,
) -> list[Rung]:
    """The ladder on a recipe, the cheapest rung first; nothing is started or written.

    Args:
        recipe: the file.
        overrides: `section.key=value` texts.
        ladder: whose keys replace the recipe's.
        facts: of the training set.
        name: of the study; made of the run's name where None.

    Raises:
        ConfigError: the recipe has no held-out set, a rung cannot be run, or an override sets what the ladder sets.
    """
    base = load_recipe(recipe, overrides)
    if base.config.data.held_out is None:
        raise ConfigError(
            "a study compares losses on held-out images",
            where="data.held_out",
            do="Name a set: the loss on images that were trained on falls for other reasons.",
        )
    _insist_on_effect(overrides, ladder)
    home = study_folder(base, name)
    rungs = []
    for step in ladder.steps:
        keys = {**step.keys, "run.name": step.name, "run.home": str(home)}
        texts = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        own = load_recipe(recipe, [*overrides, *texts])
        shape = own.config.model.shape(len(facts.classes))
        plan = _plan(own, step.name, facts.samples)
        compute = float(size.train_flops(shape) * plan.total_images)
        rungs.append(Rung(step.name, step.size, own, plan, size.parameters(shape), compute))
    return sorted(rungs, key=lambda rung: rung.compute)


def climb(rungs: Sequence[Rung], train: Train, say: Callable[[str], None]) -> Climbed:
    """Train the rungs that are not finished, one after the other.

    A rung that fails is named at the end, and the others go on.

    Args:
        rungs: in the order in which they are run.
        train: `vitscale.train.worker.run`.
        say: gets a line for each rung.

    Raises:
        ConfigError: a rung was begun with another recipe or ladder.
        RunFailed: a rung was asked to stop; the study goes on from there when it is started again.
    """
    for rung in rungs:
        _insist_on_same(rung)
    climbed = Climbed()
    for number, rung in enumerate(rungs, 1):
        place = f"rung {number} of {len(rungs)}, {rung.name}"
        try:
            if not rung.is_finished:
                cost = f"{human_count(rung.parameters)} parameters, {rung.compute:.3g} operations"
                say(f"{place}: {cost}")
                _train(rung, train)
            point = _point(rung)
        except VitscaleError as error:
            if error.exit_code == STOPPED_EXIT_CODE:
                raise
            climbed.failed[rung.name] = error
            say(f"{place}: {error}")
            continue
        climbed.points.append(point)
        say(f"{place}: held-out loss {point.loss:.4f}")
    return climbed


def _train(rung: Rung, train: Train) -> None:
    (rung.folder / "STOP").unlink(missing_ok=True)  # a request to an earlier start
    reply = train({"recipe": rung.recipe.to_json(), "resume": "auto"})
    if reply["exit_code"] != 0:
        raise RunFailed(reply, rung.folder)


def _point(rung: Rung) -> Point:
    series = read_metrics(rung.folder)
    last = {name: series[name][-1] for name in (METRIC, "held_out/top1") if name in series}
    loss = last.get(METRIC)
    if loss is None or loss.step != rung.plan.total_steps or not math.isfinite(loss.value):
        raise DataError(
            "the run has no held-out loss of its last step",
            where=str(rung.folder),
            do="Remove the folder, and start the study again.",
        )
    return Point(
        rung.name,
        rung.size,
        rung.parameters,
        rung.plan.total_images,
        rung.compute,
        loss.value,
        last["held_out/top1"].value,
    )


def _insist_on_effect(overrides: Sequence[str], ladder: LoadedLadder) -> None:
    taken = {key for step in ladder.steps for key in step.keys}
    for text in overrides:
        if text.partition("=")[0].strip() in taken:
            raise ConfigError(
                "has no effect: the ladder sets this key",
                where=text,
                do="Leave it out, or change the ladder.",
            )


def _insist_on_same(rung: Rung) -> None:
    """Refuse a rung whose folder holds a run of another recipe: its loss would be no point of this study."""
    saved = rung.folder / "config.json"
    if not saved.is_file():
        return
    before = saved_recipe(saved).config
    now = Recipe.from_json(redact_text(rung.recipe.to_json())).config
    if found := differences(before, now):
        told = ", ".join(f"{one.key} {one.left!r}, now {one.right!r}" for one in found[:3])
        raise ConfigError(
            "this rung was begun with other settings",
            where=str(rung.folder),
            given=told,
            do="Give the study another --name, or remove the folder.",
        )


def _plan(recipe: Recipe, name: str, epoch_images: int) -> Plan:
    try:
        return make_plan(recipe.config, world=1, epoch_images=epoch_images)
    except ConfigError as error:
        raise ConfigError(
            f"rung {name}: {error.what}", where=error.where, given=error.given, do=error.do
        ) from error
