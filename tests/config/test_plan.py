"""The plan of a run against numbers worked out by hand."""

from __future__ import annotations

import pytest

from tests.config.recipe_text import write_recipe
from vitscale.config.load import load_recipe
from vitscale.config.plan import make_plan, worlds_that_fit
from vitscale.errors import ConfigError


@pytest.fixture
def plan_of(tmp_path):
    def make(world=1, epoch_images=1000, **changes):
        config = load_recipe(write_recipe(tmp_path / "r.toml", **changes)).config
        return make_plan(config, world=world, epoch_images=epoch_images)

    return make


def test_the_papers_run_on_imagenet_21k(plan_of):
    # 90 epochs of 14,197,122 images in batches of 4,096: 1,277,740,980 / 4,096 = 311,948.48
    plan = plan_of(
        world=32,
        epoch_images=14_197_122,
        train__duration="90 epochs",
        train__batch=4096,
        train__micro_batch=64,
        optim__warmup="10k steps",
        checkpoint__every="1 epoch",
        data__held_out="h",
        evaluate__every="5 epochs",
    )
    assert plan.total_steps == 311_949
    assert plan.accumulation == 2
    assert plan.rank_batch == 128
    assert plan.warmup_steps == 10_000
    assert plan.save_every == 3_467  # 14,197,122 / 4,096 = 3,466.1
    assert plan.evaluate_every == 17_331  # 70,985,610 / 4,096 = 17,330.5
    assert plan.total_images == 1_277_743_104
    assert plan.epochs == pytest.approx(90.00015, abs=1e-6)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_accumulation_makes_the_batch_the_same_on_any_number_of_ranks(plan_of, world, accumulation):
    plan = plan_of(world=world)
    assert plan.accumulation == accumulation
    assert plan.rank_batch * world == plan.batch == 64


def test_shares_are_of_the_total_steps(plan_of):
    plan = plan_of(optim__warmup="5%", checkpoint__every="10%", train__log_every="1%")
    assert plan.total_steps == 157  # 10,000 / 64 = 156.25
    assert (plan.warmup_steps, plan.save_every, plan.log_every) == (8, 16, 2)


def test_the_defaults(plan_of):
    plan = plan_of()
    assert (plan.warmup_steps, plan.log_every, plan.save_every, plan.evaluate_every) == (
        0,
        50,
        1000,
        None,
    )


def test_a_batch_that_cannot_be_cut_names_what_fits(plan_of):
    with pytest.raises(ConfigError) as raised:
        plan_of(world=12, train__batch=96, train__micro_batch=6)
    text = str(raised.value)
    assert (
        "batch 96 cannot be cut into micro-batches of 6 on 12 ranks (72 images at a time)" in text
    )
    assert "multiple of 72" in text
    assert "micro_batch 2 or 4 or 8" in text


def test_more_ranks_than_images_asks_for_fewer(plan_of):
    with pytest.raises(ConfigError, match="or fewer ranks"):
        plan_of(world=128, train__micro_batch=1)


def test_a_run_without_a_step_is_refused(plan_of):
    with pytest.raises(ConfigError, match=r"train\.duration: comes to no step"):
        plan_of(train__duration="0 epochs")


def test_a_warmup_as_long_as_the_run_is_refused(plan_of):
    with pytest.raises(ConfigError, match="takes 20 of 20 steps"):
        plan_of(train__duration="20 steps", optim__warmup="20 steps")


def test_the_numbers_of_ranks_that_can_cut_a_batch(tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", train__batch=96, train__micro_batch=4)
    config = load_recipe(recipe).config
    assert worlds_that_fit(config, 1, 12) == (1, 2, 3, 4, 6, 8, 12)
    assert worlds_that_fit(config, 5, 7) == (6,)
    for world in range(1, 13):
        if world in worlds_that_fit(config, 1, 12):
            assert make_plan(config, world=world, epoch_images=1000).rank_batch * world == 96
        else:
            with pytest.raises(ConfigError, match="cannot be cut"):
                make_plan(config, world=world, epoch_images=1000)
