"""A profile shows where a step's time goes, for every engine, and changes no number."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from tests.ranks import run_ranks
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.weights import load_weights
from vitscale.cli.main import main
from vitscale.evaluate.trace import PARTS, read_trace
from vitscale.tracking.outbox import read_outbox
from vitscale.train.worker import run

LOCAL = ("engine.kind=local", "train.micro_batch=8", "train.duration=7 steps")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def go(recipe, **more):
    reply = run({"recipe": recipe.to_json(), "resume": "auto", **more})
    assert reply["status"] == "finished", reply
    return recipe.config.folder


def insist_on_equality(one, two):
    """Losses and weights of two runs are the same, bit for bit."""
    assert exact_losses(one) == exact_losses(two)
    first, second = (load_weights(run).tensors for run in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)


def insist_on_parts(folder, world, micro_batches):
    """Whole steps from the fourth on, parts that are the step, and marks that follow each other; the parts."""
    times = json.loads((folder / "profile" / "times.json").read_text())
    assert (times["first_step"], times["steps"], times["world"]) == (4, 3, world)
    parts = {part: one["ms"] for part, one in times["parts"].items()}
    assert tuple(parts) == PARTS
    assert all(parts[p] > 0 for p in ("data wait", "forward", "backward", "optimizer"))
    assert sum(parts.values()) == pytest.approx(times["step_ms"])
    trace = read_trace(folder / "profile" / "trace.json.gz")
    assert [name for name, _ in trace.marks].count("forward") == 3 * micro_batches
    pairs = itertools.pairwise(span for _, span in trace.marks)
    assert all(before[1] <= after[0] for before, after in pairs)
    assert len(trace.memory["cpu"]) > 100
    assert (folder / "profile" / "memory.png").read_bytes().startswith(b"\x89PNG")
    return parts


def test_a_profile_changes_no_bit_and_its_parts_are_the_step(tmp_path, data):
    plain, traced = (make_recipe(tmp_path / name, data, *LOCAL) for name in ("plain", "traced"))
    without, folder = go(plain), go(traced, profile=True)
    insist_on_equality(without, folder)
    assert not (without / "profile").exists()
    parts = insist_on_parts(folder, world=1, micro_batches=2)
    assert parts["communication"] == 0


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_under_every_stage_nothing_changes_and_what_ranks_send_is_communication(
    tmp_path, data, stage
):
    own = (f"engine.zero_stage={stage}", "train.duration=7 steps", "data.held_out=null")
    plain, traced = (make_recipe(tmp_path / name, data, *own) for name in ("plain", "traced"))
    for recipe in (plain, traced):
        run_ranks(2, "tests.train.test_profile:rank", recipe.to_json(), recipe is traced)
    insist_on_equality(plain.config.folder, traced.config.folder)
    parts = insist_on_parts(traced.config.folder, world=2, micro_batches=2)
    assert parts["communication"] > 0


def rank(recipe: str, profile: bool) -> str:
    return run({"recipe": recipe, "resume": "auto", "profile": profile})["status"]


# MLflow warns of its own defaults while it is first imported.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_command_prints_the_table_and_hands_the_files_to_mlflow(tmp_path, data, caplog):
    own = ("engine.kind=local", "tracking.mlflow=auto", "train.duration=5 steps")
    recipe = make_recipe(tmp_path, data, *own)
    with caplog.at_level("INFO"):
        assert main(["train", str(tmp_path / "recipe.toml"), "--profile", *own]) == 0
    assert "ms a step" in caplog.text and "steps 4 to 5 traced" in caplog.text
    folder = recipe.config.folder
    told = [message for message, _ in read_outbox(folder, 0) if message["kind"] == "artifact"]
    names = {m["path"].rsplit("/", 1)[1] for m in told if m["folder"] == "profile"}
    assert names == {"trace.json.gz", "times.json", "memory.png"}


def test_a_run_too_short_to_be_traced_is_refused_and_a_start_that_was_says_so(
    tmp_path, data, caplog
):
    short = ("engine.kind=local", "train.duration=3 steps")
    recipe = make_recipe(tmp_path, data, *short)
    reply = run({"recipe": recipe.to_json(), "resume": "auto", "profile": True})
    assert reply["exit_code"] == 2 and "--profile: nothing would be traced" in reply["message"]
    whole = make_recipe(tmp_path / "whole", data, "engine.kind=local", "train.duration=6 steps")
    go(whole)
    go(whole, profile=True)
    assert "nothing was traced: this start made 0 steps" in caplog.text
