"""Schedules against values worked out by hand and against big_vision's formula, written down once more."""

from __future__ import annotations

import math

import pytest

from tests.config.recipe_text import write_recipe
from vitscale.config.load import load_recipe
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan, make_plan
from vitscale.errors import ConfigError
from vitscale.optim.schedule import make_schedule


def plan_with(total=110, warmup=10, cooldown=0, timescale=None):
    return Plan(1, 8, 8, 1, 80, total, warmup, 1, 1, None, None, cooldown, timescale)


# (schedule, cooldown, timescale): the rate at steps 0, 5, 10, 35, 60, 85, 100, 109 at a peak of 1, 10 of 110 warmup
GOLDEN = {
    ("cosine", 0, None): [
        0, 0.5, 1, 0.853553390593274, 0.5, 0.146446609406726, 0.024471741852423, 0.000246719817134,
    ],
    ("linear", 0, None): [0, 0.5, 1, 0.75, 0.5, 0.25, 0.1, 0.01],
    ("constant", 0, None): [0, 0.5, 1, 1, 1, 1, 1, 1],
    ("constant", 50, None): [0, 0.5, 1, 1, 1, 0.5, 0.2, 0.02],
    # 1 / sqrt(1 + t / 25) at t = 25, 50, 75, 90, 99: 1 / sqrt of 2, 3, 4, 4.6, 4.96
    ("rsqrt", 0, 25): [
        0, 0.5, 1, 0.707106781186548, 0.577350269189626, 0.5, 0.466252404120157, 0.449013255059,
    ],
    ("rsqrt", 50, 25): [
        0, 0.5, 1, 0.707106781186548, 0.577350269189626, 0.25, 0.093250480824031, 0.00898026510118,
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_rates_at_chosen_steps(case):
    schedule, cooldown, timescale = case
    plan = plan_with(cooldown=cooldown, timescale=timescale)
    rate = make_schedule(OptimConfig(lr=2.0, schedule=schedule), plan)
    seen = [rate(step) for step in (0, 5, 10, 35, 60, 85, 100, 109)]
    assert seen == pytest.approx([2 * value for value in GOLDEN[case]], rel=1e-10)


def big_vision(kind, step, total, warmup, cooldown, timescale):
    """`create_learning_rate_schedule` of big_vision's `utils.py` in floats, with base 1."""
    progress = min(max((step - warmup) / (total - warmup), 0.0), 1.0)
    lr = {
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "rsqrt": 1 / math.sqrt(1 + (step - warmup) / timescale) if step >= warmup else 1.0,
        "constant": 1.0,
    }[kind]
    if warmup:
        lr *= min(1.0, step / warmup)
    if cooldown:
        lr *= min(1.0, (total - step) / cooldown)
    return lr


@pytest.mark.parametrize("kind", ["cosine", "linear", "rsqrt", "constant"])
@pytest.mark.parametrize(("warmup", "cooldown"), [(0, 0), (7, 0), (0, 13), (7, 43), (50, 50)])
def test_every_step_of_a_run_has_big_visions_rate(kind, warmup, cooldown):
    plan = plan_with(100, warmup, cooldown, 11 if kind == "rsqrt" else None)
    rate = make_schedule(OptimConfig(lr=3e-3, schedule=kind), plan)
    for step in range(101):
        truth = 3e-3 * big_vision(kind, step, 100, warmup, cooldown, 11)
        assert rate(step) == pytest.approx(truth, rel=1e-12, abs=1e-18)


def plan_of(tmp_path, **optim):
    keys = {f"optim__{name}": value for name, value in optim.items()}
    recipe = write_recipe(tmp_path / "r.toml", **keys)  # 10 epochs of 1000 images by 64: 157 steps
    return make_plan(load_recipe(recipe).config, world=1, epoch_images=1000)


@pytest.mark.parametrize(
    ("given", "steps"),
    [("20 steps", 20), ("1280 images", 20), ("1.28 epochs", 20), ("10%", 16), ("1 epoch", 16)],
)
def test_warmup_cooldown_and_timescale_take_any_unit(tmp_path, given, steps):
    plan = plan_of(tmp_path, schedule="rsqrt", warmup=given, cooldown=given, timescale=given)
    assert (plan.warmup_steps, plan.cooldown_steps, plan.timescale_steps) == (steps, steps, steps)


def test_a_timescale_is_refused_where_nothing_falls_by_it(tmp_path):
    assert plan_of(tmp_path, schedule="cosine").timescale_steps is None
    with pytest.raises(ConfigError, match=r"optim\.timescale: has no effect"):
        plan_of(tmp_path, schedule="cosine", timescale="5 steps")


@pytest.mark.parametrize(
    ("optim", "key"),
    [
        ({"warmup": "100%"}, "optim.warmup"),
        ({"warmup": "60%", "cooldown": "50%"}, "optim.cooldown"),
        ({"schedule": "rsqrt", "timescale": "0 steps"}, "optim.timescale"),
    ],
)
def test_ramps_that_do_not_fit_into_the_run_are_refused(tmp_path, optim, key):
    with pytest.raises(ConfigError, match=key):
        plan_of(tmp_path, **optim)


def test_no_ramp_may_be_a_time(tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.cooldown.*is a time"):
        plan_of(tmp_path, cooldown="5 min")
