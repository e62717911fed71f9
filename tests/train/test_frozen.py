"""Runs with frozen weights: what moves, what a commit and an export hold, and what may change at a resume."""

from __future__ import annotations

import json

import pytest
import torch

from tests.train.recipes import make_data, make_recipe
from vitscale.checkpoint.weights import export_weights, load_weights
from vitscale.train.worker import run

LOCAL = (
    "engine.kind=local",
    "train.micro_batch=16",
    "optim.schedule=constant",
    "optim.warmup=0 steps",
    "optim.ema=0.9",
)
BODY = 'optim.freeze=["patch_embed.*", "blocks.*", "cls"]'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def go(recipe):
    return run({"recipe": recipe.to_json(), "resume": "auto"})


def is_frozen(name):
    return name.startswith(("patch_embed", "blocks", "cls"))


def test_a_fine_tuned_head_leaves_the_body_as_it_was_in_commits_exports_and_the_average(
    tmp_path, data
):
    first = make_recipe(tmp_path / "a", data, *LOCAL, "train.duration=2 steps")
    assert go(first)["status"] == "finished"
    before = load_weights(first.config.folder).tensors
    second = make_recipe(
        tmp_path / "b", data, *LOCAL, BODY, f"init.weights={first.config.folder}", "init.head=keep"
    )
    assert go(second)["status"] == "finished"
    export_weights(second.config.folder, tmp_path / "ema.safetensors", "ema", "fp32")
    for after in (
        load_weights(second.config.folder).tensors,
        load_weights(second.config.folder, "ema").tensors,
        load_weights(tmp_path / "ema.safetensors", "ema").tensors,
    ):
        assert after.keys() == before.keys()
        same = {name: torch.equal(after[name], before[name]) for name in before}
        assert same == {name: is_frozen(name) for name in before}


def test_more_may_be_frozen_at_a_resume_but_nothing_set_free(tmp_path, data):
    def at(duration, *more):
        return make_recipe(tmp_path, data, *LOCAL, f"train.duration={duration} steps", *more)

    assert go(at(2))["status"] == "finished"
    before = load_weights(at(2).config.folder).tensors
    assert go(at(4, BODY))["status"] == "finished"
    after = load_weights(at(2).config.folder).tensors
    assert torch.equal(before["blocks.0.fc1.weight"], after["blocks.0.fc1.weight"])
    assert not torch.equal(before["head.bias"], after["head.bias"])
    reply = go(at(6))
    assert reply["exit_code"] == 5
    assert "they were frozen" in reply["message"] and "optim.freeze" in reply["message"]


@pytest.mark.parametrize("patterns", [["boddy.*"], [".*"]])
def test_a_pattern_that_cannot_work_ends_the_run_before_its_first_step(tmp_path, data, patterns):
    reply = go(make_recipe(tmp_path, data, *LOCAL, f"optim.freeze={json.dumps(patterns)}"))
    assert (reply["status"], reply["exit_code"]) == ("failed", 2)
    assert "optim.freeze" in reply["message"]
