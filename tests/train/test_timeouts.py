"""Every process group waits as long as the recipe says, those that DeepSpeed makes for itself too."""

from __future__ import annotations

import pytest

from tests.ranks import run_ranks
from tests.train.recipes import make_data, make_recipe


def timeouts_during(recipe_json: str) -> list[float]:
    """Train, and look at the groups when the first step begins; seconds of each group."""
    from torch.distributed import distributed_c10d as c10d

    from vitscale.train import loop, worker

    found: list[float] = []
    one_step = loop.one_step

    def look(*args):
        if not found:
            for group in c10d._world.pg_map:
                found.extend(
                    group._get_backend(device).options._timeout.total_seconds()
                    for device in group._device_types
                )
        one_step(*args)

    loop.one_step = look
    assert worker.run({"recipe": recipe_json, "resume": "never"})["status"] == "finished"
    return found


@pytest.mark.dist
@pytest.mark.parametrize("stage", ["1", "3"])
def test_every_process_group_has_the_timeout_of_the_recipe(tmp_path, stage):
    recipe = make_recipe(
        tmp_path,
        make_data(tmp_path / "data"),
        f"engine.zero_stage={stage}",
        "engine.timeout_s=47",
        "train.duration=2 steps",
        "optim.warmup=1 steps",
    )
    for seconds in run_ranks(2, "tests.train.test_timeouts:timeouts_during", recipe.to_json()):
        assert len(seconds) >= 2 and set(seconds) == {47.0}
