"""What one rank does in the tests of fp16: a scale that overflows, grows, and goes through commits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.engine.scenarios import committed, make_engine, master_weights, train_steps
from tests.train.recipes import make_recipe
from vitscale.checkpoint.state import StateReader
from vitscale.engine import loss_scale
from vitscale.engine.collectives import Ranks
from vitscale.place import place_of
from vitscale.tracking.journal import read_metrics
from vitscale.train.worker import run

STEEP = (2.0**22, 3)
"""A scale that overflows at the start, and the good updates after which it grows."""


def followed(engine: Any, plan: Any, rank: int, steps: range) -> list[tuple[float, str, str]]:
    """Of each step: the scale after it, this rank's loss and the norm."""
    seen = []
    for step in steps:
        [(loss, norm)] = train_steps(engine, plan, rank, range(step, step + 1))
        seen.append((engine.loss_scale.value, loss, norm))
    return seen


def overflowing(cases: list[dict[str, Any]], start: float, steps: int) -> list[dict[str, Any]]:
    """For each case: steps from a scale that is far too large, and how many of them were applied."""
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    found = []
    for case in cases:
        engine, plan = make_engine(case, ranks)
        engine.loss_scale.resume({"scale": start, "finite": 0, "overflows": 0})
        seen = followed(engine, plan, ranks.place.rank, range(steps))
        found.append({"seen": seen, "updates": engine.state.updates})
        engine.close()
    ranks.close()
    return found


def weights_after(cases: list[dict[str, Any]], steps: int) -> list[dict[str, torch.Tensor]]:
    """For each case: the float32 weights after so many steps."""
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    found = []
    for case in cases:
        engine, plan = make_engine(case, ranks)
        train_steps(engine, plan, ranks.place.rank, range(steps))
        held = master_weights(engine, case)
        found.append({name: tensor.clone().flatten() for name, tensor in held.items()})
        engine.close()
    ranks.close()
    return found


def resumed(cases: list[dict[str, Any]], folder: str, start: float) -> list[dict[str, Any]]:
    """For each case: 8 steps at once; and 4, a commit, another engine, 4 more.

    The scale overflows in the first steps and grows every second good one, so it changes on both sides of the commit.
    """
    loss_scale.GROWTH_STEPS = 2
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    rank, found = ranks.place.rank, []
    state = {"scale": start, "finite": 0, "overflows": 0}
    for number, case in enumerate(cases):
        whole, plan = make_engine(case, ranks)
        whole.loss_scale.resume(state)
        straight = followed(whole, plan, rank, range(8))
        first, _ = make_engine(case, ranks)
        first.loss_scale.resume(state)
        before = followed(first, plan, rank, range(4))
        path = committed(first, ranks, Path(folder) / f"case-{number}")
        second, _ = make_engine({**case, "seed": 2}, ranks)
        second.load(StateReader(path), first.state.updates)
        second.loss_scale.resume(first.loss_scale.state())
        after = followed(second, plan, rank, range(4, 8))
        found.append({"straight": straight, "resumed": before + after})
        for engine in (whole, first, second):
            engine.close()
    ranks.close()
    return found


def go(home: Path, data: Path, *overrides: str) -> tuple[dict[str, Any], Path]:
    """A small run in fp16: the reply of the worker, and the run's folder."""
    recipe = make_recipe(home, data, "engine.precision=fp16", "train.micro_batch=16", *overrides)
    return run({"recipe": recipe.to_json(), "resume": "auto"}), recipe.config.folder


def series(folder: Path, name: str) -> dict[int, float]:
    """A metric by step."""
    return {point.step: point.value for point in read_metrics(folder)[name]}


def gone_on(home: str, data: str, engines: tuple[str, ...]) -> list[dict[int, float]]:
    """The scales of runs of 14 steps that each change from ZeRO-1 to another engine after 7."""
    loss_scale.START, loss_scale.GROWTH_STEPS = STEEP
    found = []
    for number, after in enumerate(engines):
        own = Path(home) / str(number)
        go(own, Path(data), "engine.zero_stage=1", "train.duration=7 steps")
        _, folder = go(own, Path(data), after, "train.duration=14 steps")
        found.append(series(folder, "train/loss_scale"))
    return found
