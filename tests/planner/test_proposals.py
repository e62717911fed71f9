"""What the planner proposes is a recipe: every proposal passes the checks that refuse what cannot be run."""

from __future__ import annotations

import itertools

import pytest

from tests.config.recipe_text import write_recipe
from vitscale.config.load import load_recipe
from vitscale.config.plan import make_plan
from vitscale.errors import ConfigError
from vitscale.planner.forecast import alternatives, fewest_ranks, settings_of
from vitscale.planner.hardware import Cluster, accelerator
from vitscale.planner.room import insist_on_room, job_on

ENGINES = [
    ("engine.kind=local",),
    ("engine.zero_stage=0",),
    ("engine.zero_stage=1",),
    ("engine.zero_stage=auto", "engine.recompute=auto"),
    ("engine.zero_stage=3", "engine.recompute=mlp"),
    ("engine.zero_stage=3", "engine.zero_hpz=8"),
    ("engine.offload=optimizer",),
    ("engine.zero_stage=3", "engine.offload=optimizer+parameters"),
    ("engine.zero_stage=3", "engine.offload=optimizer", "engine.offload_folder=/disk"),
    ("engine.recompute=full",),
    ("engine.recompute=offload",),
]
BESIDE = [
    (),
    ("ops.block=compile",),
    ("ops.attention=explicit",),
    ("data.mixup=0.2",),
    ("data.cutmix=1.0", "ops.block=compile"),
    ("optim.optimizer=muon",),
    ("optim.optimizer=sgd", "optim.ema=0.999"),
]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path / "r.toml", train__batch=256, model__variant="L/16")
    return lambda *overrides: load_recipe(path, overrides).config


def job_of(config, gpu, world):
    plan = make_plan(config, world=world, epoch_images=10**6)
    return job_on(Cluster(accelerator(gpu), world, 8), config, config.model.shape(1000), plan)


def test_every_proposal_over_a_grid_of_recipes_is_a_recipe_of_that_job(recipe):
    proposed = refused = 0
    for engine, beside in itertools.product(ENGINES, BESIDE):
        try:
            config = recipe(*engine, *beside)
        except ConfigError:
            refused += 1
            continue
        job = job_of(config, "L4", 16)
        for other in alternatives(job):
            again = recipe(*engine, *beside, *settings_of(other, job).split())
            assert again.train.micro_batch == other.plan.micro_batch
            assert (again.engine.stage, again.engine.recompute) == (
                other.engine.stage,
                other.engine.recompute,
            )
            make_plan(again, world=16, epoch_images=10**6)
            proposed += 1
    assert refused < len(ENGINES) * len(BESIDE) / 2
    assert proposed > 1000


def test_compiled_blocks_are_proposed_whole_weights_and_all_or_nothing(recipe):
    found = {
        (other.engine.stage, other.engine.recompute)
        for other in alternatives(job_of(recipe("ops.block=compile"), "H100", 16))
    }
    assert found == set(itertools.product((1, 2), ("none", "full")))


def test_images_that_are_mixed_are_proposed_partners(recipe):
    smallest = {
        mixing: min(o.plan.micro_batch for o in alternatives(job_of(recipe(*mixing), "L4", 16)))
        for mixing in ((), ("data.mixup=0.2",), ("data.cutmix=1.0",))
    }
    assert list(smallest.values()) == [1, 2, 2]


@pytest.mark.parametrize("beside", [(), ("ops.block=compile",), ("data.mixup=0.2",)])
def test_more_ranks_are_named_with_settings_that_a_recipe_takes(recipe, beside):
    big = ("model.variant=22B/14", "train.batch=4096", "train.micro_batch=8", *beside)
    job = job_of(recipe(*big), "H200", 2)
    more = fewest_ranks(job)
    assert more is not None and more.plan.world > 2 and more.fits
    with pytest.raises(ConfigError, match=f"{more.plan.world} ranks would do with") as caught:
        insist_on_room(job)
    settings = caught.value.do.partition("would do with ")[2].removesuffix(".").split()
    insist_on_room(job_of(recipe(*big, *settings), "H200", more.plan.world))
    with pytest.raises(ConfigError):
        insist_on_room(job_of(recipe(*big), "H200", more.plan.world // 2))
