"""A profile shows where a step's time goes, for every engine, and changes no number."""

from __future__ import annotations

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

ENGINES = {
    "local": ("engine.kind=local",),
    "stage 0": ("engine.zero_stage=0",),
    "stage 2": ("engine.zero_stage=2",),
    "stage 3": ("engine.zero_stage=3",),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def go(recipe, **more):
    reply = run({"recipe": recipe.to_json(), "resume": "auto", **more})
    assert reply["status"] == "finished", reply
    return recipe.config.folder


@pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
def test_a_profile_changes_no_bit_and_its_parts_are_the_step(tmp_path, data, engine):
    own = ("train.micro_batch=8", "train.duration=7 steps", *engine)
    plain, traced = (make_recipe(tmp_path / name, data, *own) for name in ("plain", "traced"))
    without, folder = go(plain), go(traced, profile=True)
    assert exact_losses(without) == exact_losses(folder)
    one, two = (load_weights(run).tensors for run in (without, folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not (without / "profile").exists()

    times = json.loads((folder / "profile" / "times.json").read_text())
    assert (times["first_step"], times["steps"], times["world"]) == (4, 3, 1)
    parts = times["parts"]
    assert tuple(parts) == PARTS
    assert all(parts[p]["ms"] > 0 for p in ("data wait", "forward", "backward", "optimizer"))
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(times["step_ms"])
    trace = read_trace(folder / "profile" / "trace.json.gz")
    # Marks follow each other; two micro-batches a step.
    assert [name for name, _ in trace.marks].count("forward") == 6
    ends = [(a[1][1], b[1][0]) for a, b in zip(trace.marks, trace.marks[1:], strict=False)]
    assert all(end <= begin for end, begin in ends)
    assert len(trace.memory["cpu"]) > 100
    assert (folder / "profile" / "memory.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.dist
def test_what_ranks_send_each_other_is_communication(tmp_path, data):
    recipe = make_recipe(tmp_path, data, "engine.zero_stage=2", "train.duration=7 steps")
    run_ranks(2, "tests.train.test_profile:traced", recipe.to_json())
    times = json.loads((recipe.config.folder / "profile" / "times.json").read_text())
    assert times["world"] == 2
    assert times["parts"]["communication"]["ms"] > 0


def traced(recipe: str) -> dict:
    return run({"recipe": recipe, "resume": "auto", "profile": True})


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
