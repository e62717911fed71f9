"""Ten steps equal six, a kill -9 of one rank, and four more: bit for bit, with DeepSpeed under Ray."""

from __future__ import annotations

import json

import pytest
import torch

from tests.ranks import run_ranks
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.weights import load_weights
from vitscale.config.cluster import ClusterProfile

pytestmark = [
    pytest.mark.ray,
    pytest.mark.dist,
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def straight(recipe_json: str) -> dict:
    """The uninterrupted run, on ranks that nobody watches."""
    from vitscale.train.worker import run

    return run({"recipe": recipe_json, "resume": "never"})


@pytest.mark.parametrize("stage", [*(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2)), 3])
def test_a_killed_rank_changes_no_bit_of_the_run(tmp_path, data, stage):
    from vitscale_launch.submit import submit

    whole = make_recipe(tmp_path / "whole", data, f"engine.zero_stage={stage}")
    replies = run_ranks(2, "tests.train.test_kill:straight", whole.to_json())
    assert [reply["status"] for reply in replies] == ["finished", "finished"]

    parts = make_recipe(tmp_path / "parts", data, f"engine.zero_stage={stage}")
    fault = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": "train.step@1:7:kill"}
    reply = submit(parts, ClusterProfile(max_failures=1, environment=fault))
    assert (reply["status"], reply["step"]) == ("finished", 10)

    folder = parts.config.folder
    assert len(list((folder / "attempts").iterdir())) == 2
    attempts = [json.loads(line)["attempt"] for line in (folder / "metrics.jsonl").open()]
    assert attempts.count(1) == 6  # six steps were logged, then the rank was gone
    assert exact_losses(folder) == exact_losses(whole.config.folder)
    one, two = (load_weights(r.config.folder).tensors for r in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_an_error_that_a_retry_cannot_heal_is_not_retried(tmp_path, data):
    from vitscale_launch.submit import submit

    recipe = make_recipe(tmp_path, data, "model.classes=9")
    reply = submit(recipe, ClusterProfile(max_failures=3))
    assert (reply["status"], reply["exit_code"]) == ("failed", 2)
    assert "the training set has 5 classes" in reply["message"]
    assert not (recipe.config.folder / "attempts").exists()
