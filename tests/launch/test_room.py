"""A job that the profile's accelerators cannot hold is refused before anything starts."""

from __future__ import annotations

import pytest

from vitscale.config.cluster import ClusterProfile
from vitscale.config.load import load_recipe
from vitscale.errors import ConfigError
from vitscale_launch.job import make_job

# States of ViT-G/14 in plain torch: 18 bytes of each of 1,844 M parameters, 33 GB; an L4 has 24 GB, an H100 80 GB.
BIG = ("engine.device=auto", "model.variant=G/14", "model.image_px=224")


def profile(accelerator: str, **more) -> ClusterProfile:
    return ClusterProfile(
        kind="ray",
        address="auto",
        workers=4,
        gpus_per_worker=1,
        accelerator=accelerator,
        **more,
    )


def test_what_does_not_fit_is_refused_with_what_does(recipe_file):
    recipe = load_recipe(recipe_file, BIG)
    with pytest.raises(ConfigError, match=r"a rank needs 3[\d.]+ GiB and has 20\.6 GiB") as caught:
        make_job(recipe, profile("L4"))
    assert caught.value.do.startswith("Fits: ")
    make_job(recipe, profile("H100"))
    advice = caught.value.do.removeprefix("Fits: ").removesuffix(".").split()
    make_job(load_recipe(recipe_file, [*BIG, *advice]), profile("L4"))


def test_what_auto_can_make_fit_passes(recipe_file):
    make_job(load_recipe(recipe_file, [*BIG, "engine.kind=deepspeed"]), profile("L4"))


def test_the_fewest_workers_count_as_well(recipe_file):
    """Under stage 3 four ranks have 7 GB of states each; one alone has 29 GB."""
    recipe = load_recipe(recipe_file, [*BIG, "engine.kind=deepspeed", "train.micro_batch=1"])
    make_job(recipe, profile("L4"))
    make_job(recipe, profile("L4", workers_min=2))
    with pytest.raises(ConfigError, match=r"2 ranks would do with .*zero_stage=3"):
        make_job(recipe, profile("L4", workers_min=1))


def test_a_name_of_several_kinds_is_refused_only_what_the_largest_cannot_hold(recipe_file):
    """With an average 22 bytes a parameter, 41 GB: above nine tenths of 40 GB and below those of 80 GB."""
    recipe = load_recipe(recipe_file, [*BIG, "optim.ema=0.999"])
    make_job(recipe, profile("A100"))
    with pytest.raises(ConfigError, match="a rank needs"):
        make_job(recipe, profile("A100-40G"))
    with pytest.raises(ConfigError, match="a rank needs"):
        make_job(recipe, profile("NVIDIA_A100_40G"))


def test_a_profile_without_an_accelerator_or_with_an_unknown_one_passes(recipe_file):
    recipe = load_recipe(recipe_file, BIG)
    make_job(recipe, profile("V100"))
    make_job(recipe, ClusterProfile(kind="ray", address="auto", workers=4, gpus_per_worker=1))
    make_job(load_recipe(recipe_file, [*BIG[1:]]), ClusterProfile(workers=4))
